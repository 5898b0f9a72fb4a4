"""Nodes with network stacks of their own: real addresses, and cables that can be cut and made bad.

    node 1                hub                          node 2
    cable1 10.83.0.1 ──── port1  relay process  port2 ──── cable2 10.83.0.2

Each node is a network namespace with one end of a veth pair. The other ends are in a namespace
where nothing but the relay (`frame_relay`) listens to them, so that the host sees none of it, two
networks may have the same addresses, and agents use their default ports.

The relay stands where a bridge would. A bridge with netem rules was rejected: that qdisc is missing
in many kernels, and filtering by pair and direction takes a firewall besides. The relay needs raw
sockets alone, does all of cuts, delays and losses in one way, and repeats its chances by seed. It
forwards some ten thousand frames a second: a cluster's heartbeats, gossip and light loads, no more.

Names of namespaces carry the process id: test workers don't meet, and what a killed run left behind
is swept by the next one.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import msgspec

from registry.client import Client, Settings
from registry.testing.agent_cluster import AgentCluster, Host
from registry.testing.frame_relay import Counts, Link, Rule, mac_address
from registry.testing.process import PORT_NAMES

#: The agent's own defaults, in the order of `PORT_NAMES`.
DEFAULT_PORTS = dict(zip(PORT_NAMES, (8500, 8600, 8301, 8302, 8300), strict=True))

CUT = Link(loss=1.0)

_PREFIX = "registry-test"
_networks = itertools.count(1)


def why_not() -> str:
    """The reason why there can be no such network here; "" when there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "no `ip` program (Debian package iproute2)"
    try:
        with ExitStack() as stack:
            name = f"{_PREFIX}-{os.getpid()}-trial"
            _add_namespace(name, stack)
            _ip("link", "add", "port", "type", "veth", "peer", "name", "cable", within=name)
    except RuntimeError as problem:
        return f"network namespaces are refused: {problem}"
    return ""


class NamespaceNetwork:
    """`count` nodes, each of which reaches all others, from entering to leaving the context.

    Nodes are called by their addresses; `hosts` has what an agent needs to run on one. Changes of
    the cables are in force when the method returns.
    """

    def __init__(self, count: int, *, seed: int) -> None:
        self._name = f"{_PREFIX}-{os.getpid()}-{next(_networks)}"
        self._seed = seed
        self.addresses = [f"10.83.0.{number}" for number in range(1, count + 1)]
        self.hosts = [
            Host(
                address, DEFAULT_PORTS, prefix=("ip", "netns", "exec", self._namespace_of(address))
            )
            for address in self.addresses
        ]
        self._links: dict[tuple[str, str], Link] = {}
        self._relay: subprocess.Popen[bytes] | None = None
        self._cleanup = ExitStack()

    def cluster(
        self, root: Path, *, clients: int, config: Mapping[str, object] | None = None
    ) -> AgentCluster:
        """Agents on all nodes, `clients` of them client agents; not started yet.

        They serve HTTP on unix sockets, which tests reach from outside whatever the cables do.
        """
        sockets = self._cleanup.enter_context(TemporaryDirectory(prefix="registry-"))
        servers = len(self.hosts) - clients
        cluster = AgentCluster(
            root, servers=servers, clients=clients, config=config, hosts=self.hosts
        )
        for agent in cluster.agents:
            # Beside the data its path could be longer than a socket's may be.
            address = f"unix://{sockets}/{agent.name}"
            agent.write_config("20-http.json", {"addresses": {"http": address}})
            agent.client = Client(Settings(address=address))
        return cluster

    # The cables

    def heal(self) -> Counts:
        """All links are perfect again."""
        self._links.clear()
        return self._apply()

    def impair(self, link: Link) -> Counts:
        """All links, both ways, are like this."""
        self._links = dict.fromkeys(itertools.permutations(self.addresses, 2), link)
        return self._apply()

    def partition(self, *groups: Collection[str]) -> Counts:
        """Cut all links between different groups; who is in none of them keeps all its links."""
        for one, other in itertools.permutations(groups, 2):
            self._links |= dict.fromkeys(itertools.product(one, other), CUT)
        return self._apply()

    def isolate(self, node: str) -> Counts:
        """Cut a node off from all others."""
        return self.partition([node], [each for each in self.addresses if each != node])

    def cut(self, sender: str, receivers: Iterable[str]) -> Counts:
        """Cut one way: what `sender` says does not arrive, what it is told does."""
        self._links |= {(sender, receiver): CUT for receiver in receivers}
        return self._apply()

    def _apply(self) -> Counts:
        rules = [
            Rule(_number_of(sender), _number_of(receiver), link)
            for (sender, receiver), link in self._links.items()
        ]
        assert self._relay is not None, "enter the network first"
        assert self._relay.stdin is not None
        self._relay.stdin.write(msgspec.json.encode(rules) + b"\n")
        self._relay.stdin.flush()
        return self._relay_answer()

    def _relay_answer(self) -> Counts:
        assert self._relay is not None
        assert self._relay.stdout is not None
        if not (line := self._relay.stdout.readline()):
            raise RuntimeError(f"the relay ended with status {self._relay.wait()}")
        return msgspec.json.decode(line, type=Counts)

    # Life

    def __enter__(self) -> NamespaceNetwork:
        _sweep()
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def _build(self) -> None:
        hub = f"{self._name}-hub"
        _add_namespace(hub, self._cleanup)
        numbers = range(1, len(self.addresses) + 1)
        for number in numbers:
            port, cable = f"port{number}", f"cable{number}"
            _ip("link", "add", port, "type", "veth", "peer", "name", cable, within=hub)
            _ip("link", "set", port, "addrgenmode", "none", "up", within=hub)
        self._relay = self._start_relay(hub)
        self._relay_answer()
        for number, address in zip(numbers, self.addresses, strict=True):
            node, cable = self._namespace_of(address), f"cable{number}"
            _add_namespace(node, self._cleanup)
            _ip("link", "set", cable, "netns", node, within=hub)
            mac = mac_address(number).hex(":")
            _ip("link", "set", cable, "address", mac, "addrgenmode", "none", within=node)
            _ip("address", "add", f"{address}/24", "dev", cable, within=node)
            for device in ("lo", cable):
                _ip("link", "set", device, "up", within=node)

    def _start_relay(self, hub: str) -> subprocess.Popen[bytes]:
        command = [*("ip", "netns", "exec", hub)]
        command += [sys.executable, "-m", "registry.testing.frame_relay"]
        command += [f"--nodes={len(self.addresses)}", f"--seed={self._seed}"]
        relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._cleanup.callback(_end, relay)
        return relay

    def _namespace_of(self, address: str) -> str:
        return f"{self._name}-{_number_of(address)}"


def _number_of(address: str) -> int:
    return int(address.rpartition(".")[2])


def _end(relay: subprocess.Popen[bytes]) -> None:
    relay.kill()
    relay.communicate()


def _add_namespace(name: str, cleanup: ExitStack) -> None:
    _ip("netns", "add", name)
    cleanup.callback(_delete_namespace, name)


def _delete_namespace(name: str) -> None:
    """Its devices go with it, once no process is in it any more."""
    with suppress(RuntimeError):  # gone already
        _ip("netns", "delete", name)


def _sweep() -> None:
    """Delete what runs that were killed have left."""
    for name in _ip("netns", "list").split():
        owner = re.match(rf"{_PREFIX}-(\d+)-", name)
        if owner and not Path("/proc", owner[1]).exists():
            _delete_namespace(name)


def _ip(*words: str, within: str = "") -> str:
    """Run `ip`, in a namespace if one is given; its output. Raises `RuntimeError`."""
    where: Sequence[str] = ("-n", within) if within else ()
    done = subprocess.run(["ip", *where, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
