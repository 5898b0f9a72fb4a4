"""Drives the core: what it wants to know is read, asked of recursors and shown to plugins.

An answer is owed within `LIMIT_S`, after which whoever asked has turned elsewhere. Nothing that
goes wrong with one question touches another.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import dns.flags
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from registry.agent import prepared_queries
from registry.agent.durations import MILLISECOND, format_duration
from registry.agent.facade import AgentFacade
from registry.agent.prepared_queries import Ran
from registry.dns import recursors
from registry.dns.messages import (
    Asked,
    Malformed,
    Unanswerable,
    failure,
    read_question,
    records_max,
    written,
)
from registry.dns.resolver import Choose, Read, Recurse, Reply, Resolver, Run, Step
from registry.dns.rules import Rules
from registry.errors import ConfigError, NoPath, RegistryError
from registry.hooks import DnsAnswer, DnsFilter, DnsQuestion
from registry.state.base import ReadOptions, ReadResult
from registry.state.health import InstanceHealth

logger = logging.getLogger("registry.dns")

#: For reads that one question needs; those who ask give up after about as long.
LIMIT_S = 5.0

#: A stale answer is counted when it is older than this.
STALE_MS = 5000


class Answerer:
    """Turns packets into packets, with the reads of one agent."""

    def __init__(self, agent: AgentFacade, *, chance: random.Random | None = None) -> None:
        """Raises `ConfigError` for a domain that is none."""
        self._chance = chance or random.Random()
        self._complained_at = -1.0
        self.configure(agent)

    def configure(self, agent: AgentFacade) -> None:
        """Answer by the agent's present configuration and plugins from now on. Raises
        `ConfigError`."""
        filters = agent.plugins.dns_filters() if agent.plugins is not None else []
        try:
            rules = Rules.from_config(agent.config, filtering=bool(filters))
        except ValueError as problem:
            raise ConfigError(str(problem), field="domain") from problem
        # `use_cache` changes nothing: what is read each time is younger than anything cached.
        given = agent.config.dns_config
        self.agent, self.rules = agent, rules
        self._filters: Sequence[DnsFilter] = filters
        self._resolver = Resolver(rules, self._chance)
        self._options = ReadOptions(
            mode="stale" if given.allow_stale else "default",
            max_stale_ms=given.max_stale_ns // MILLISECOND if given.allow_stale else None,
        )
        labels = {"node": agent.node_name}
        self._domain_timer = agent.metrics.timer("dns.domain_query", **labels)
        self._ptr_timer = agent.metrics.timer("dns.ptr_query", **labels)

    async def answer(
        self, packet: bytes, client: tuple[str, int], *, over_tcp: bool
    ) -> bytes | None:
        """The packet to send back; None for what is to be dropped. Raises only `CancelledError`."""
        started = time.perf_counter_ns()
        try:
            asked = read_question(packet, client[0], over_tcp=over_tcp)
        except Unanswerable:
            return None
        except Malformed as problem:
            return problem.answer
        rules = self.rules
        try:
            answer = await self._answered(asked, rules)
        except (RegistryError, TimeoutError) as problem:
            self._complain(asked, str(problem) or "no answer in time")
            answer = failure(asked, Rcode.SERVFAIL, rules)
        except Exception:
            logger.exception("question failed: name=%s", asked.question.name.to_text())
            answer = failure(asked, Rcode.SERVFAIL, rules)
        took_ns = time.perf_counter_ns() - started
        is_ptr = asked.question.rdtype == RdataType.PTR
        (self._ptr_timer if is_ptr else self._domain_timer).add(took_ns / MILLISECOND)
        if logger.isEnabledFor(logging.DEBUG):
            _log(asked, client, took_ns)
        return answer

    def _complain(self, asked: Asked, reason: str) -> None:
        """Once a second: without a leader every question may fail."""
        now = time.monotonic()
        level = logging.ERROR if now - self._complained_at >= 1.0 else logging.DEBUG
        if level == logging.ERROR:
            self._complained_at = now
        logger.log(level, 'rpc error: name=%s error="%s"', asked.question.name.to_text(), reason)

    async def _answered(self, asked: Asked, rules: Rules) -> bytes:
        if asked.message.edns > 0:
            return failure(asked, Rcode.BADVERS, rules)
        if asked.rdclass not in (RdataClass.IN, RdataClass.ANY):
            return failure(asked, Rcode.REFUSED, rules)
        question = replace(asked.question, records_max=records_max(asked, rules))
        steps = self._resolver.resolve(question, int(time.time()))
        reply = await self._driven(steps, rules)
        if reply is not None:
            return written(asked, reply, rules)
        # Recursors have a time limit each.
        forwarded = await recursors.forwarded(asked.message, rules, over_tcp=asked.over_tcp)
        if forwarded is None:
            return failure(asked, Rcode.SERVFAIL, rules)
        forwarded.flags |= dns.flags.RA
        return forwarded.to_wire(want_shuffle=False)

    async def _driven(
        self, steps: Generator[Step, Any, Reply | None], rules: Rules
    ) -> Reply | None:
        try:
            step = next(steps)
            while True:
                try:
                    result = await self._done(step, rules)
                except NoPath as problem:
                    step = steps.throw(problem)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            reply: Reply | None = end.value
            return reply
        finally:
            steps.close()

    async def _done(self, step: Step, rules: Rules) -> Any:
        if isinstance(step, Read | Run):
            async with asyncio.timeout(LIMIT_S):
                return await (self._read(step) if isinstance(step, Read) else self._ran(step))
        if isinstance(step, Recurse):
            return await recursors.behind(step.name, step.rdtype, rules)
        return await self._chosen(step)

    async def _read(self, step: Read) -> Any:
        result = await self._serving(step.datacenter).read(step.query, self._options)
        self._count(result)
        return result.value

    async def _ran(self, step: Run) -> Ran:
        agent = self._serving(step.datacenter)
        ran = await prepared_queries.execute(agent, step.query, self._options)
        self._count(ran.meta)
        return ran

    def _serving(self, datacenter: str) -> AgentFacade:
        """This agent as it serves a datacenter. Raises `NoPath`."""
        if not datacenter or datacenter == self.rules.datacenter:
            return self.agent
        agent = self.agent.elsewhere(datacenter)
        if agent is None:
            raise NoPath
        return agent

    def _count(self, result: ReadResult) -> None:
        if result.mode == "stale" and result.last_contact_ms > STALE_MS:
            self.agent.metrics.count("dns.stale_queries")

    async def _chosen(self, step: Choose) -> list[InstanceHealth]:
        """What all plugins let through, each shown what those before it did."""
        asked = step.question
        question = DnsQuestion(
            name=asked.name.to_text(),
            type=RdataType.to_text(RdataType.make(asked.rdtype)),
            client=asked.client,
            subnet=asked.subnet,
        )
        given = {}
        answers = []
        for instance, place in zip(step.instances, step.places, strict=True):
            service, node = instance.service, instance.node
            answer = DnsAnswer(
                node=service.node,
                service=service.name,
                service_id=service.id,
                datacenter=step.datacenter,
                address=place.address,
                port=place.port,
                tags=tuple(service.tags or ()),
                meta=dict(service.meta or {}),
                node_meta=dict(node.meta or {}),
            )
            given[(service.node, service.id)] = instance
            answers.append(answer)
        for each in self._filters:
            answers = await each.filter(question, answers)  # async: its guard made it so
        return [given[(each.node, each.service_id)] for each in answers]


def _log(asked: Asked, client: tuple[str, int], took_ns: int) -> None:
    host, port = client
    logger.debug(
        "request served from client: name=%s type=%s class=%s latency=%s client=%s "
        "client_network=%s",
        asked.question.name.to_text(),
        RdataType.to_text(RdataType.make(asked.question.rdtype)),
        RdataClass.to_text(RdataClass.make(asked.rdclass)),
        format_duration(took_ns),
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "tcp" if asked.over_tcp else "udp",
    )
