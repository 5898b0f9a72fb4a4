"""Running prepared queries: here, and where nothing healthy is found, in other datacenters.

A query's definition says which others may answer: the nearest so many, then those it names. They
are asked in turn until one has an instance. What is sent is the filled-in definition, as the query
itself is known here only.

Source: API page of prepared queries, `Service.Failover`.
"""

from __future__ import annotations

import logging
from itertools import islice

import msgspec

from registry.agent.facade import AgentFacade, Backend
from registry.errors import RegistryError
from registry.state.base import ReadOptions, ReadResult
from registry.state.prepared import ExecuteQuery, Execution, Failover, RunQuery

logger = logging.getLogger("registry.agent")


class Ran(msgspec.Struct, frozen=True):
    """The read that answered a query, which datacenter it came from, and how many others than our
    own were asked for it."""

    meta: ReadResult
    datacenter: str
    failovers: int = 0


async def execute(agent: AgentFacade, query: ExecuteQuery, options: ReadOptions) -> Ran:
    """Run a query by its name or id. Where nobody has an instance, the last answer counts.

    The value of the read is as `ExecuteQuery` says. Raises what `AgentFacade.read` raises; that
    another datacenter does not answer is no error, the next one is asked.
    """
    ran = Ran(await agent.read(query, options), agent.datacenter)
    execution = ran.meta.value
    if not isinstance(execution, Execution) or execution.instances:
        return ran
    definition = execution.query
    there = RunQuery(query=definition, connect=query.connect)
    failovers = 0
    others = await _alternatives(agent, definition.service.failover, definition.name)
    for datacenter, backend in others.items():
        failovers += 1
        try:
            elsewhere = msgspec.structs.replace(options, datacenter=datacenter)
            ran = Ran(await backend.read(there, elsewhere), datacenter)
        except RegistryError as problem:
            logger.warning(
                "a datacenter that a query fails over to does not answer"
                " query=%s datacenter=%s error=%s",
                definition.name,
                datacenter,
                problem,
            )
            continue
        if ran.meta.value.instances:
            break
    return msgspec.structs.replace(ran, failovers=failovers)


async def _alternatives(
    agent: AgentFacade, failover: Failover, query_name: str
) -> dict[str, Backend]:
    """The datacenters to ask, in the order to ask them."""
    if not failover.nearest_n and not failover.datacenters:
        return {}
    names = [each.name for each in await agent.datacenters.known()]
    paths = {name: agent.datacenters.path(name) for name in names if name != agent.datacenter}
    others = {name: path for name, path in paths.items() if path is not None}
    chosen = dict(islice(others.items(), failover.nearest_n))
    for name in map(str.lower, failover.datacenters or ()):
        if name in others:
            chosen.setdefault(name, others[name])
        else:
            logger.warning(
                "a query fails over to a datacenter that is not known query=%s datacenter=%s",
                query_name,
                name,
            )
    return chosen
