"""Servers and client agents that are one cluster: real processes, on loopback or on given hosts.

Every agent has a loopback address of its own, so that the ports of one that is down stay free for
its return: connections that the others make meanwhile take their local ports from 127.0.0.1.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from registry.client import AgentUnreachable, ApiError
from registry.testing.process import AgentProcess, wait_until

_addresses = itertools.count(1)


def loopback_address() -> str:
    """An address in 127.0.0.0/8 that this process has not handed out yet, far from the usual ones.

    The process id keeps test workers apart.
    """
    number = next(_addresses)
    pid = os.getpid()
    return f"127.{64 + number // 250 % 64}.{pid % 250}.{1 + (number + pid // 250) % 250}"


@dataclass(frozen=True, slots=True)
class Host:
    """Where an agent runs: its address, its ports (free ones if not given), and what to put before
    its command line to get there, such as `ip netns exec NAME`."""

    address: str
    ports: Mapping[str, int] | None = None
    prefix: Sequence[str] = ()


class AgentCluster:
    """`servers` that found a cluster, named server1, server2, …, and `clients` client1, ….

    As a context manager: entered once all are up and agree, and killed at the end. `config` and
    `arguments` go to all of them.
    """

    def __init__(
        self,
        root: Path,
        *,
        servers: int = 3,
        clients: int = 0,
        config: Mapping[str, object] | None = None,
        hosts: Sequence[Host] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        names = [f"server{number + 1}" for number in range(servers)]
        names += [f"client{number + 1}" for number in range(clients)]
        if hosts is None:
            hosts = [Host(loopback_address()) for _ in names]
        server = ("-server", f"-bootstrap-expect={servers}")
        self.agents = [
            AgentProcess(
                root / name,
                arguments=(*(server if at < servers else ()), *arguments),
                name=name,
                address=host.address,
                ports=host.ports,
                prefix=host.prefix,
            )
            for at, (name, host) in enumerate(zip(names, hosts, strict=True))
        ]
        self.servers, self.clients = self.agents[:servers], self.agents[servers:]
        joining = {
            "retry_join": [f"{each.address}:{each.ports['serf_lan']}" for each in self.servers],
            "retry_interval": "1s",
        }
        for agent in self.agents:
            agent.write_config("10-cluster.json", {**joining, **(config or {})})

    def start(self, *, wait: bool = True) -> AgentCluster:
        """Start every agent that does not run."""
        for agent in self.agents:
            if not agent.is_running:
                agent.start(wait=False)
        if wait:
            wait_until(self.is_whole, self._missing)
        return self

    @property
    def running(self) -> list[AgentProcess]:
        return [agent for agent in self.agents if agent.is_running]

    def is_whole(self) -> bool:
        """Whether all agents run, know the same leader, and see all others alive."""
        names = {agent.name for agent in self.agents}
        return (
            len(self.running) == len(self.agents)
            and self.leader_now() is not None
            and all(agent.is_ready() and alive_seen_by(agent) == names for agent in self.agents)
        )

    def leader_now(self) -> AgentProcess | None:
        """The server that all running servers take for the leader; None while they do not agree."""
        running = [server for server in self.servers if server.is_running]
        said = {_leader_seen_by(server) for server in running}
        if len(said) != 1:
            return None
        return next((each for each in running if {rpc_address(each)} == said), None)

    def leader(self, *, seconds: float = 20.0) -> AgentProcess:
        """The same, waited for."""
        wait_until(lambda: self.leader_now() is not None, self._missing, seconds=seconds)
        leader = self.leader_now()
        return leader if leader is not None else self.leader(seconds=seconds)

    def followers(self) -> list[AgentProcess]:
        leader = self.leader()
        return [server for server in self.servers if server is not leader and server.is_running]

    def kill(self) -> None:
        """SIGKILL to all that run."""
        for agent in self.agents:
            agent.kill()

    def _missing(self) -> str:
        logs = "\n".join(f"--- {agent.name}\n{agent.log_tail(1500)}" for agent in self.agents)
        return f"a cluster that agrees on its leader and its members; logs:\n{logs}"

    def __enter__(self) -> AgentCluster:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def rpc_address(agent: AgentProcess) -> str:
    """How a server is called in `/v1/status/leader`."""
    return f"{agent.address}:{agent.ports['server']}"


def alive_seen_by(agent: AgentProcess) -> set[str]:
    """Names of the members that an agent takes for alive; empty while it does not answer.

    AssertionError when it has ended.
    """
    agent.check_running()
    with suppress(AgentUnreachable, ApiError):
        members = agent.client.get("/v1/agent/members", timeout=2).json()
        return {member["Name"] for member in members if member["Status"] == 1}
    return set()


def _leader_seen_by(agent: AgentProcess) -> str:
    with suppress(AgentUnreachable, ApiError):
        return str(agent.client.get("/v1/status/leader", timeout=2).json())
    return ""
