"""Three servers and two client agents in network namespaces, while the network between them fails.

Real agents with default ports on addresses of their own; the cables are cut, made slow and made to
lose frames by `registry.testing.netns`. All the while somebody at every agent writes and reads the
same key, and the history of that key must be linearizable: no default or consistent read is old,
on whichever side of a partition, and nothing acknowledged is lost.

`REGISTRY_NETWORK_LONG` makes it worse for longer (`make network-campaign`), and
`REGISTRY_NETWORK_SEED` repeats the losses.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from registry.client import ApiError, Response
from registry.testing.agent_cluster import AgentCluster
from registry.testing.frame_relay import Link
from registry.testing.linearizability import NEVER, Operation, explain_violation
from registry.testing.netns import NamespaceNetwork, why_not
from registry.testing.process import AgentProcess, wait_until
from registry.testing.seeds import seed_from

LONG = bool(os.environ.get("REGISTRY_NETWORK_LONG"))
SEED = seed_from("REGISTRY_NETWORK_SEED")

#: How long a client waits before it calls an agent hung: more than an agent may take to find out
#: that its server is silent (4 s), that the next one is, too (3 s), and to hold the request (7 s).
HANG_S = 20.0
#: How long a partition lasts at least. After 30 s nobody tells the dead of their death any more, so
#: that only Serf's attempts to reconnect can end it.
PARTITION_S = 45.0 if LONG else 0.0
#: How long the network is bad in other ways.
BAD_S = 60.0 if LONG else 8.0
ONE_WAY_S = 10.0 if LONG else 3.0

KEY = "network/value"
#: How members are listed that were declared dead, and that were put out after that.
FAILED, LEFT = 4, 3

#: Exit status 0 when the host of the first argument answers at all: nobody listens on that port.
PING = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 0.5)
except ConnectionRefusedError:
    sys.exit(0)
except TimeoutError:
    sys.exit(1)
"""

ONLY_LONG = pytest.mark.skipif(not LONG, reason="in the long form: make network-campaign")

pytestmark = pytest.mark.timeout(300)


class Person(threading.Thread):
    """Somebody at one agent who writes a register, reads it in both modes, and takes notes."""

    def __init__(self, agent: AgentProcess, key: str, ending: threading.Event) -> None:
        super().__init__(name=agent.name, daemon=True)
        self.agent = agent
        self._key = key
        self.operations: list[Operation] = []
        #: When the acknowledged writes began and were acknowledged.
        self.written: list[tuple[float, float]] = []
        self.failures: list[str] = []
        self.problem: Exception | None = None
        self._ending = ending

    def run(self) -> None:
        number = 0
        try:
            while not self._ending.wait(0.02):
                number += 1
                self._write(f"{self.name}:{number}")
                self._read(consistent=number % 2 == 0)
        except Exception as problem:
            self.problem = problem

    def _write(self, value: str) -> None:
        began = time.monotonic_ns()
        ended = NEVER
        try:
            url = f"/v1/kv/{self._key}"
            response = self.agent.client.put(url, body=value.encode(), timeout=HANG_S)
            assert response.json() is True
            ended = time.monotonic_ns()
            self.written.append((began / 1e9, ended / 1e9))
        except ApiError as problem:
            self._failed(problem)
        self.operations.append(Operation(True, value, began, ended))

    def _read(self, *, consistent: bool) -> None:
        began = time.monotonic_ns()
        try:
            response = self.agent.client.get(
                f"/v1/kv/{self._key}",
                {"raw": True, "consistent": consistent},
                accept=(200, 404),
                timeout=HANG_S,
            )
        except ApiError as problem:
            self._failed(problem)
        else:
            value = response.text if response.status == 200 else None
            self.operations.append(Operation(False, value, began, time.monotonic_ns()))

    def _failed(self, problem: ApiError) -> None:
        """What may be said when the network fails. Anything else, silence above all, may not."""
        text = problem.text.strip()
        if problem.status != 500 or not text.startswith(("No cluster leader", "outcome unknown")):
            raise problem
        self.failures.append(text)


class Traffic:
    """A person at each of the agents, all of them with the same register, a new one each time."""

    _numbers = itertools.count(1)

    def __init__(self, agents: Sequence[AgentProcess]) -> None:
        self._ending = threading.Event()
        key = f"network/register{next(self._numbers)}"
        self._people = {agent.name: Person(agent, key, self._ending) for agent in agents}

    @contextmanager
    def running(self) -> Iterator[Traffic]:
        """Until the block ends; then what they saw is judged."""
        for person in self._people.values():
            person.start()
        try:
            wait_until(lambda: self.all_written(self._people, since=0.0), "a write at each agent")
            yield self
        finally:
            self._ending.set()
            for person in self._people.values():
                person.join(2 * HANG_S)
        self._judge()

    def all_written(self, names: Iterable[str], *, since: float) -> bool:
        """Whether a write that began after `since` is acknowledged at each of the agents."""
        return all(self._first_after(name, since) is not None for name in names)

    def slowest_start(self, names: Sequence[str], since: float) -> float:
        """Seconds from `since` until the last of the agents acknowledged such a write."""
        moments = [self._first_after(name, since) for name in names]
        return max(moment for moment in moments if moment is not None) - since

    @property
    def writes(self) -> int:
        return sum(len(person.written) for person in self._people.values())

    @property
    def failures(self) -> int:
        return sum(len(person.failures) for person in self._people.values())

    def _first_after(self, name: str, since: float) -> float | None:
        person = self._people[name]
        if person.problem is not None:
            raise person.problem
        return next((ended for began, ended in person.written if began > since), None)

    def _judge(self) -> None:
        history = []
        for person in self._people.values():
            if person.problem is not None:
                raise AssertionError(f"at {person.name}, seed {SEED}") from person.problem
            assert not person.is_alive(), f"{person.name} hangs, seed {SEED}"
            history += person.operations
        violation = explain_violation(history)
        assert violation is None, f"{violation}, seed {SEED}"


@pytest.fixture(scope="module")
def network() -> Iterator[NamespaceNetwork]:
    if reason := why_not():
        pytest.skip(reason)
    with NamespaceNetwork(5, seed=SEED) as network:
        yield network


@pytest.fixture(scope="module")
def running(
    network: NamespaceNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentCluster]:
    # Autopilot puts a server out that is cut off, and lets it vote again long after it is back.
    config = {"autopilot": {"cleanup_dead_servers": LONG}}
    root = tmp_path_factory.mktemp("network")
    with network.cluster(root, clients=2, config=config) as cluster:
        yield cluster


@pytest.fixture
def cluster(network: NamespaceNetwork, running: AgentCluster) -> AgentCluster:
    """The same for all tests, whole again whatever the one before has left."""
    network.heal()
    wait_until(lambda: running.is_whole() and all_vote(running), "one cluster", seconds=90)
    return running


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def write(text: str) -> None:
        with capsys.disabled():
            print(f"\nnetwork: {text}, seed {SEED}")

    return write


def test_a_leader_that_is_cut_off(
    cluster: AgentCluster, network: NamespaceNetwork, tell: Callable[[str], None]
) -> None:
    leader, stays, goes = cluster.leader(), *cluster.clients
    minority = [leader, goes]
    majority = [agent for agent in cluster.agents if agent not in minority]
    stays.client.kv_put(KEY, b"old")
    index = stays.client.get(f"/v1/kv/{KEY}").index
    with Traffic(cluster.agents).running() as traffic, ThreadPoolExecutor() as threads:
        blocking = threads.submit(
            stays.client.get, f"/v1/kv/{KEY}", {"raw": True, "index": index, "wait": "5m"}
        )
        began = time.monotonic()
        network.partition(addresses(minority), addresses(majority))
        cut_at = time.monotonic()
        wait_until(lambda: raft(leader)["state"] != "Leader", "the leader steps down", seconds=10)
        stepped_down_s = time.monotonic() - cut_at
        going_on = [agent.name for agent in majority]
        wait_until(
            lambda: traffic.all_written(going_on, since=cut_at), "the majority writes", seconds=20
        )
        gap_s = traffic.slowest_start(going_on, cut_at)

        stays.client.kv_put(KEY, b"new")
        assert blocking.result(timeout=10).body == b"new"

        asked = [
            threads.submit(ask, agent, KEY, {"raw": True, mode: True})
            for agent in minority
            for mode in ("default", "consistent")
        ]
        asked_at = time.monotonic()
        stale = leader.client.get(f"/v1/kv/{KEY}", {"raw": True, "stale": True}, timeout=HANG_S)
        answered_at = time.monotonic()
        assert (stale.body, stale.headers["x-consul-knownleader"]) == (b"old", "false")
        # The last round that was answered began before the cut, but no long time before.
        contact_s = int(stale.headers["x-consul-lastcontact"]) / 1000
        assert asked_at - cut_at - 0.001 <= contact_s <= answered_at - began + 1.0
        assert ask(goes, KEY, {"raw": True, "stale": True}).text == "old"
        for answer in asked:
            assert refusal(answer) == "No cluster leader"

        wait_until(
            lambda: (
                serf_health(stays, goes) == "critical"
                # A server that autopilot has put out is deregistered.
                and serf_health(stays, leader) in ("critical", "" if LONG else "critical")
            ),
            "those who are cut off are declared failed",
        )
        declared_s = time.monotonic() - cut_at
        assert statuses(stays, minority) <= {FAILED, LEFT}
        if LONG:
            wait_until(
                lambda: statuses(leader, majority) == statuses(goes, majority) == {FAILED},
                "they have declared the others failed",
                seconds=90,
            )
        wait_until(lambda: time.monotonic() > cut_at + PARTITION_S, "time", seconds=PARTITION_S + 1)

        network.heal()
        healed_at = time.monotonic()
        wait_until(cluster.is_whole, "one cluster again", seconds=90)
        whole_s = time.monotonic() - healed_at
        everybody = [agent.name for agent in cluster.agents]
        wait_until(lambda: traffic.all_written(everybody, since=healed_at), "all write again")
        wait_until(
            lambda: all(serf_health(stays, agent) == "passing" for agent in minority),
            "those who are back count as healthy",
        )
        assert raft(leader)["state"] == "Follower"
        assert [ask(agent, KEY, {"raw": True}).text for agent in cluster.agents] == ["new"] * 5
    tell(
        f"leader cut off: stepped down after {stepped_down_s:.2f} s, writes went on after "
        f"{gap_s:.2f} s, declared failed after {declared_s:.1f} s, one cluster {whole_s:.1f} s "
        f"after the network, {traffic.writes} writes, {traffic.failures} requests refused"
    )
    assert gap_s < 5


def test_a_client_that_is_cut_off_from_all_servers(
    cluster: AgentCluster, network: NamespaceNetwork, tell: Callable[[str], None]
) -> None:
    alone, other = cluster.clients
    alone.client.kv_put(KEY, b"old")
    with ThreadPoolExecutor() as threads:
        network.partition([alone.address], addresses(cluster.servers))
        began = time.monotonic()
        asked = [
            threads.submit(ask, alone, KEY, {"raw": True, mode: True})
            for mode in ("default", "consistent", "stale")
        ]
        written = threads.submit(alone.client.put, f"/v1/kv/{KEY}", body=b"lost", timeout=HANG_S)
        other.client.kv_put(KEY, b"new")
        for answer in asked:
            assert refusal(answer) == "No cluster leader"
        assert refusal(written).startswith(("No cluster leader", "outcome unknown"))
        refused_s = time.monotonic() - began
        network.heal()
        healed_at = time.monotonic()
        wait_until(lambda: ask_or_none(alone, KEY) == "new", "it is served again")
    tell(
        f"client cut off: refused after {refused_s:.1f} s, "
        f"served {time.monotonic() - healed_at:.1f} s after the network"
    )


def test_a_slow_network_that_loses_frames(
    cluster: AgentCluster, network: NamespaceNetwork, tell: Callable[[str], None]
) -> None:
    link = Link(delay_ms=50, jitter_ms=10, loss=0.2 if LONG else 0.1)
    cluster.leader()
    before = term(cluster)
    with Traffic(cluster.agents).running() as traffic:
        network.impair(link)
        began = time.monotonic()
        time.sleep(BAD_S)  # what is looked at is what happens meanwhile
        ended = time.monotonic()
        everybody = [agent.name for agent in cluster.agents]
        wait_until(lambda: traffic.all_written(everybody, since=ended), "writes in a bad network")
        counts = network.heal()
        wait_until(cluster.is_whole, "one cluster", seconds=90)
    elections = term(cluster) - before
    tell(
        f"{link.delay_ms:.0f} ms each way, {link.loss:.0%} lost: {traffic.writes} writes, "
        f"{traffic.failures} requests refused, {elections} elections in {ended - began:.0f} s, "
        f"{counts.dropped} frames lost so far"
    )
    # With timeouts of 1 to 2 s a heartbeat has to get lost several times over.
    assert elections <= 2 + BAD_S / 10


@pytest.mark.parametrize(
    ("who", "is_mute"),
    [
        pytest.param("follower", False, id="deaf-follower"),
        pytest.param("leader", True, id="mute-leader"),
        pytest.param("follower", True, id="mute-follower", marks=ONLY_LONG),
        pytest.param("leader", False, id="deaf-leader", marks=ONLY_LONG),
    ],
)
def test_a_cable_that_is_cut_one_way(
    cluster: AgentCluster,
    network: NamespaceNetwork,
    tell: Callable[[str], None],
    who: str,
    is_mute: bool,
) -> None:
    one = cluster.leader() if who == "leader" else cluster.followers()[0]
    others = [agent for agent in cluster.agents if agent is not one]
    before = term(cluster)
    with Traffic(others).running() as traffic:
        if is_mute:
            network.cut(one.address, addresses(others))
        else:
            for other in others:
                network.cut(other.address, [one.address])
        cut_at = time.monotonic()
        names = [agent.name for agent in others]
        wait_until(lambda: traffic.all_written(names, since=cut_at), "the others write")
        gap_s = traffic.slowest_start(names, cut_at)
        wait_until(lambda: time.monotonic() > cut_at + ONE_WAY_S, "time")
        network.heal()
        healed_at = time.monotonic()
        wait_until(cluster.is_whole, "one cluster again", seconds=90)
        whole_s = time.monotonic() - healed_at
    elections = term(cluster) - before
    tell(
        f"{'mute' if is_mute else 'deaf'} {who}: writes went on after {gap_s:.2f} s, one cluster "
        f"{whole_s:.1f} s after the network, {elections} elections"
    )
    # Who can't hear would campaign for ever; pre-vote keeps it from raising the term (9.6).
    assert elections <= (2 if who == "leader" else 1)


def test_a_cable_with_a_loose_contact(
    cluster: AgentCluster, network: NamespaceNetwork, tell: Callable[[str], None]
) -> None:
    follower = cluster.followers()[0]
    others = [agent for agent in cluster.agents if agent is not follower]
    before = term(cluster)
    rng = random.Random(SEED)
    with Traffic(others).running() as traffic:
        for _ in range(40 if LONG else 5):
            network.isolate(follower.address)
            time.sleep(rng.uniform(0.2, 1.5))  # the loose contact itself
            network.heal()
            time.sleep(rng.uniform(0.05, 0.5))
        ended = time.monotonic()
        names = [agent.name for agent in others]
        wait_until(lambda: traffic.all_written(names, since=ended), "the others write")
        wait_until(cluster.is_whole, "one cluster again", seconds=90)
        whole_s = time.monotonic() - ended
    elections = term(cluster) - before
    tell(f"loose contact: one cluster after {whole_s:.1f} s, {elections} elections")
    assert elections <= 1


def test_a_network_leaves_nothing_behind() -> None:
    if reason := why_not():
        pytest.skip(reason)
    before = own_namespaces()
    with suppress(KeyError), NamespaceNetwork(2, seed=SEED) as network:
        here, there = network.hosts
        ping = [*here.prefix, sys.executable, "-c", PING, there.address]
        assert subprocess.run(ping, check=False).returncode == 0
        network.cut(there.address, [here.address])
        assert subprocess.run(ping, check=False).returncode == 1
        assert len(own_namespaces() - before) == 3
        raise KeyError  # whatever may happen inside
    assert own_namespaces() == before


def own_namespaces() -> set[str]:
    """Without those of other test workers."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split() if f"-{os.getpid()}-" in name}


def addresses(agents: Sequence[AgentProcess]) -> list[str]:
    return [agent.address for agent in agents]


def raft(agent: AgentProcess) -> dict[str, Any]:
    """What an agent tells of its part in consensus."""
    stats: dict[str, Any] = agent.client.get("/v1/agent/self", timeout=HANG_S).json()["Stats"]
    return dict(stats["raft"])


def all_vote(cluster: AgentCluster) -> bool:
    """Whether every server counts for the quorum; one that was put out has to prove itself."""
    configuration = cluster.leader().client.get("/v1/operator/raft/configuration", timeout=HANG_S)
    return [server["Voter"] for server in configuration.json()["Servers"]] == [True] * 3


def term(cluster: AgentCluster) -> int:
    return max(int(raft(server)["term"]) for server in cluster.servers)


def ask(agent: AgentProcess, key: str, parameters: dict[str, Any]) -> Response:
    """Read a key. The mode "default" is a parameter that means nothing."""
    return agent.client.get(f"/v1/kv/{key}", parameters, timeout=HANG_S)


def ask_or_none(agent: AgentProcess, key: str) -> str | None:
    try:
        return ask(agent, key, {"raw": True}).text
    except ApiError:
        return None


def refusal(answer: Future[Response]) -> str:
    """What was said with a status of 500."""
    with pytest.raises(ApiError) as raised:
        answer.result()
    assert raised.value.status == 500
    return raised.value.text.strip()


def serf_health(asked: AgentProcess, agent: AgentProcess) -> str:
    """How the catalog has a node's `serfHealth`; "" when it does not have the node."""
    try:
        checks = asked.client.get(f"/v1/health/node/{agent.name}", timeout=HANG_S).json()
    except ApiError:
        return "not known"
    return next((each["Status"] for each in checks if each["CheckID"] == "serfHealth"), "")


def statuses(asked: AgentProcess, agents: Sequence[AgentProcess]) -> set[int]:
    """How one agent sees others."""
    names = {agent.name for agent in agents}
    members = asked.client.get("/v1/agent/members", timeout=HANG_S).json()
    return {member["Status"] for member in members if member["Name"] in names}
