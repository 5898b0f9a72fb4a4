"""What a cluster must show once nothing is wrong any more: it elects, commits, agrees (I-17)."""

from __future__ import annotations

from collections.abc import Callable

from registry.raft.ready import RaftRole
from registry.testing.checkers import Violation, voters
from registry.testing.simulation.cluster import Cluster
from registry.testing.simulation.options import TICK, T
from registry.testing.simulation.requests import Attempt
from registry.testing.simulation.world import World


class Recovery:
    """Lets the run go on after the faults, and raises `Violation` for what does not come."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster

    def expect(self) -> None:
        """One leader within 10 T, all equal soon after, and then calm (I-17)."""
        self._wait_until(lambda: self._cluster.leader() is not None, 10 * T, "no leader")
        self._wait_until(self._commits, 10 * T, "nothing is committed")
        self._world.loaded = False
        self._wait_until(self._all_equal, 30 * T, "servers do not become equal")
        calm_since = self._world.checker.elections
        self._go_on(10 * T)
        if self._world.checker.elections > calm_since + self._disturbances:
            raise Violation("I-17", "elections go on although nothing is wrong any more")
        self._expect_stability()
        self._expect_resignation()

    @property
    def _disturbances(self) -> int:
        """Elections to put up with in calm: a server that does not ask before it campaigns, cut
        off or removed, may come back with a higher term, and ends one leadership (R-18)."""
        return 2 if self._world.options.without_pre_vote else 0

    def _expect_stability(self) -> None:
        """A voter that only the leader can not reach deposes nobody, neither while the link is
        broken nor when it heals, and the others go on (regression scenario 18)."""
        leader = self._cluster.leader()
        assert leader is not None
        assert leader.core is not None
        others = [v for v in voters(leader.core.configuration) if v != leader.id]
        if len(others) < 2:
            return
        network, checker = self._world.network, self._world.checker
        elections = checker.elections
        network.cut_between([leader.id], [self._world.random.choice(others)])
        self._go_on(15 * T)
        self._wait_until(self._commits, 5 * T, "nothing is committed beside a broken link")
        network.heal()
        self._go_on(3 * T)
        if checker.elections > elections + self._disturbances:
            raise Violation("I-17", "one broken link deposed a leader")

    def _expect_resignation(self) -> None:
        """A leader that hears nobody steps down within 2 T (regression scenario 19)."""
        self._wait_until(self._commits, 10 * T, "nothing is committed after a broken link")
        leader = self._cluster.leader()
        if leader is None or leader.core is None or len(voters(leader.core.configuration)) < 2:
            return
        for other in self._cluster.servers:
            self._world.network.cut(other, leader.id)
        self._go_on(2 * T + 2 * TICK)
        term = leader.core.term
        leaders = self._world.checker.leaders
        if leader.core.role is RaftRole.LEADER and leaders.get(term) == leader.id:
            raise Violation("I-17", f"{leader.id} leads without hearing anybody")

    # -- how long, until what ----------------------------------------------------------------

    def _go_on(self, duration: int) -> None:
        schedule = self._world.schedule
        schedule.run_until(schedule.now + duration, self._cluster.check)

    def _wait_until(self, condition: Callable[[], bool], limit: int, otherwise: str) -> None:
        deadline = self._world.schedule.now + limit
        while not condition():
            if self._world.schedule.now >= deadline:
                raise Violation("I-17", f"{otherwise} within {limit // T} T of calm")
            self._go_on(TICK)

    def _commits(self) -> bool:
        """Whether a leader commits something proposed just now."""
        leader = self._cluster.leader()
        if leader is None or leader.core is None:
            return False
        before = leader.core.commit_index
        done: list[str | None] = []
        leader.ask(Attempt("calm", "x", False, done.append, lambda _: None))
        self._go_on(T)
        return bool(done) and leader.core is not None and leader.core.commit_index > before

    def _all_equal(self) -> bool:
        """Whether the leader has applied its whole log, and all members have."""
        leader = self._cluster.leader()
        if leader is None or leader.core is None:
            return False
        expected = leader.disk.written
        if expected.applied_index != expected.last_index:
            return False
        for server in leader.core.configuration.servers:
            image = self._cluster.servers[server.id].disk.written
            if image.applied_index != expected.applied_index:
                return False
            if image.state != expected.state:
                raise Violation("I-18", f"{server.id} and {leader.id} have different states")
        return True
