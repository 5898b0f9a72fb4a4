"""Autopilot: who is well, who gets a vote, who is put out. Requirements, section 12."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from registry.errors import NotLeader, Unavailable
from registry.raft.membership import ConfigChange, Promote, Remove, next_configuration
from registry.raft.messages import Configuration, Role, Server
from registry.raft.reports import FollowerView
from registry.server import autopilot
from registry.server.autopilot import DEFAULT_SETTINGS, Autopilot, Outlook, is_healthy, next_removal
from registry.server.members import MemberStatus, PoolMember, servers_of
from registry.state.operator import AutopilotSettings
from registry.testing.pool import FakePool, server_id, server_member
from registry.testing.servers import until

ALIVE, LEFT, FAILED = MemberStatus.ALIVE, MemberStatus.LEFT, MemberStatus.FAILED
WELL = FollowerView(match=1000, match_term=4, silence_ms=0, is_voter=True)
SECOND_NS = 1_000_000_000


def settings(**changes: object) -> AutopilotSettings:
    return msgspec.structs.replace(DEFAULT_SETTINGS, **changes)


@dataclass
class Cluster:
    """A leader "a" at entry 1000 of term 4, with followers that a test makes ill."""

    roles: dict[str, Role]
    pool: FakePool
    followers_seen: dict[str, FollowerView]
    settings: AutopilotSettings = DEFAULT_SETTINGS
    configuration: Configuration = field(init=False)
    changes: list[ConfigChange] = field(default_factory=list)
    error: Exception | None = None
    now_s: float = 1000.0
    server_id: str = server_id("a")
    last_index: int = 1000
    last_term: int = 4

    def __post_init__(self) -> None:
        servers = tuple(
            Server(server_id(name), f"{name}:8300", role) for name, role in self.roles.items()
        )
        self.configuration = Configuration(servers, 5)
        self.autopilot = Autopilot(
            "dc1",
            self,
            lambda: self.pool,
            lambda: self.settings,
            monotonic=lambda: self.now_s,
            wall_ms=lambda: int(self.now_s * 1000) + 1_600_000_000_000,
        )

    def followers(self) -> dict[str, FollowerView]:
        return {server_id(name): view for name, view in self.followers_seen.items()}

    async def change_configuration(self, change: ConfigChange) -> None:
        if self.error is not None:
            raise self.error
        following = next_configuration(self.configuration, change)
        self.configuration = Configuration(following.servers, self.configuration.index + 1)
        self.changes.append(change)

    def member(self, name: str, status: MemberStatus, **tags: str) -> None:
        self.pool.put(server_member(name, status, tags=tags))

    async def spend(self, seconds: float, *, step_s: float = 2.0) -> None:
        """Let the time go by, with a look at everybody every two seconds."""
        for _ in range(round(seconds / step_s)):
            self.now_s += step_s
            self.autopilot.report()


def cluster(voters: str, learners: str = "") -> Cluster:
    roles = dict.fromkeys(voters, Role.VOTER) | dict.fromkeys(learners, Role.LEARNER)
    return Cluster(
        roles,
        FakePool(*(server_member(name) for name in voters + learners)),
        {name: WELL for name in voters + learners if name != "a"},
    )


def seen(**changes: int) -> FollowerView:
    return msgspec.structs.replace(WELL, **changes)


class TestHealth:
    @pytest.mark.parametrize(
        ("follower", "member", "expected"),
        [
            pytest.param(WELL, server_member("b"), True, id="well"),
            pytest.param(WELL, server_member("b", FAILED), False, id="failed"),
            pytest.param(WELL, server_member("b", LEFT), False, id="left"),
            pytest.param(WELL, server_member("x"), False, id="not-in-gossip"),
            pytest.param(None, server_member("b"), False, id="not-followed"),
            pytest.param(
                seen(match=0, match_term=0), server_member("b"), False, id="nothing-known"
            ),
            pytest.param(seen(silence_ms=200), server_member("b"), True, id="just-in-time"),
            pytest.param(seen(silence_ms=201), server_member("b"), False, id="silent"),
            pytest.param(seen(match=750), server_member("b"), True, id="trailing-just-so"),
            pytest.param(seen(match=749), server_member("b"), False, id="trailing"),
            pytest.param(seen(match_term=3), server_member("b"), False, id="older-term"),
        ],
    )
    def test_a_follower(
        self, follower: FollowerView | None, member: PoolMember, expected: bool
    ) -> None:
        outlook = Outlook(
            settings=DEFAULT_SETTINGS,
            leader_id=server_id("a"),
            last_index=1000,
            last_term=4,
            configuration=cluster("ab").configuration,
            followers={} if follower is None else {server_id("b"): follower},
            members=servers_of([member], "dc1"),
        )
        assert is_healthy(outlook, server_id("b")) is expected

    def test_the_leader_is_well_as_long_as_gossip_sees_it(self) -> None:
        three = cluster("abc")
        assert three.autopilot.report().servers[0].healthy
        three.member("a", FAILED)
        assert not three.autopilot.report().servers[0].healthy

    @pytest.mark.parametrize(
        ("voters", "ill", "expected"),
        [
            pytest.param("a", "", 0, id="one"),
            pytest.param("ab", "", 0, id="two"),
            pytest.param("abc", "", 1, id="three"),
            pytest.param("abc", "b", 0, id="three-one-ill"),
            pytest.param("abcde", "", 2, id="five"),
            pytest.param("abcde", "b", 1, id="five-one-ill"),
            pytest.param("abcde", "bcde", 0, id="never-below-none"),
        ],
    )
    def test_failure_tolerance(self, voters: str, ill: str, expected: int) -> None:
        some = cluster(voters, "xy")
        for name in ill:
            some.member(name, FAILED)
        report = some.autopilot.report()
        assert report.failure_tolerance == expected
        assert report.healthy is not bool(ill)

    async def test_the_report(self) -> None:
        some = cluster("ab", "c")
        some.followers_seen["b"] = seen(match=990, silence_ms=50)
        some.autopilot.report()
        await some.spend(6)
        some.member("c", FAILED)
        a, b, c = some.autopilot.report().servers
        assert (a.name, a.leader, a.voter, a.last_contact_ms) == ("a", True, True, 0)
        assert (a.last_term, a.last_index) == (4, 1000)
        assert (b.address, b.version, b.serf_status) == ("b:8300", "1.8.4", "alive")
        assert (b.leader, b.last_contact_ms, b.last_term, b.last_index) == (False, 50, 4, 990)
        assert (c.serf_status, c.healthy, c.voter) == ("failed", False, False)
        # A change of health starts the time anew.
        assert c.stable_since_ms - b.stable_since_ms == 6000

    def test_a_server_that_was_never_heard_of(self) -> None:
        some = cluster("ab")
        some.followers_seen.clear()
        del some.pool.by_name["b"]
        b = some.autopilot.report().servers[1]
        assert (b.name, b.version, b.serf_status) == ("", "", "none")
        assert (b.last_contact_ms, b.last_index, b.healthy) == (-1, 0, False)


class TestPromotion:
    async def test_a_learner_gets_a_vote_once_it_was_well_long_enough(self) -> None:
        some = cluster("a", "b")
        some.autopilot.report()
        await some.spend(8)
        await some.autopilot.act()
        assert some.changes == []
        await some.spend(2)
        await some.autopilot.act()
        assert some.changes == [Promote(id=server_id("b"), based_on=5)]

    async def test_a_break_starts_the_time_anew(self) -> None:
        some = cluster("a", "b")
        some.autopilot.report()
        await some.spend(8)
        some.followers_seen["b"] = seen(silence_ms=900)
        await some.spend(2)
        some.followers_seen["b"] = WELL
        await some.spend(10)
        await some.autopilot.act()
        assert some.changes == []
        await some.spend(2)
        await some.autopilot.act()
        assert len(some.changes) == 1

    async def test_one_at_a_time(self) -> None:
        some = cluster("a", "bc")
        some.autopilot.report()
        await some.spend(20)
        await some.autopilot.act()
        assert [change.id for change in some.changes] == [server_id("b")]
        await some.autopilot.act()
        assert [change.id for change in some.changes] == [server_id("b"), server_id("c")]

    async def test_a_server_without_a_vote_for_good_stays_so(self) -> None:
        some = cluster("a", "b")
        some.member("b", ALIVE, nonvoter="1")
        some.autopilot.report()
        await some.spend(60)
        await some.autopilot.act()
        assert some.changes == []

    async def test_a_new_leadership_starts_the_time_anew(self) -> None:
        some = cluster("a", "b")
        some.autopilot.report()
        await some.spend(20)
        some.autopilot.begin()
        some.autopilot.report()
        await some.autopilot.act()
        assert some.changes == []


class TestPruning:
    @pytest.mark.parametrize(
        ("voters", "failed", "unknown", "changes", "expected"),
        [
            pytest.param("abc", "", "", {}, None, id="nobody-dead"),
            pytest.param("abc", "b", "", {}, "b", id="one-of-three"),
            pytest.param("abc", "bc", "", {}, None, id="two-of-three"),
            pytest.param("ab", "b", "", {}, None, id="one-of-two"),
            pytest.param("abcde", "de", "", {}, "d", id="two-of-five"),
            # Scenario 38: a leader cut off from most servers must not throw them out.
            pytest.param("abcde", "cde", "", {}, None, id="three-of-five"),
            pytest.param("abcde", "e", "d", {}, "d", id="failed-and-unknown"),
            pytest.param("abcde", "ce", "d", {}, None, id="failed-and-unknown-too-many"),
            pytest.param("abc", "", "c", {}, "c", id="not-in-gossip"),
            pytest.param("abc", "b", "", {"min_quorum": 3}, None, id="below-the-minimum"),
            pytest.param("abcd", "b", "", {"min_quorum": 3}, "b", id="not-below-the-minimum"),
            pytest.param("abc", "b", "", {"cleanup_dead_servers": False}, None, id="switched-off"),
            pytest.param("abc", "", "a", {}, None, id="never-the-leader"),
        ],
    )
    def test_which_server_goes(
        self,
        voters: str,
        failed: str,
        unknown: str,
        changes: dict[str, object],
        expected: str | None,
    ) -> None:
        some = cluster(voters)
        some.settings = settings(**changes)
        for name in failed:
            some.member(name, FAILED)
        for name in unknown:
            del some.pool.by_name[name]
        found = next_removal(some.autopilot.outlook())
        assert (found and found.server.id) == (expected and server_id(expected))

    async def test_a_partition_of_five_removes_nobody_for_as_long_as_it_lasts(self) -> None:
        """Scenario 38, carried out."""
        some = cluster("abcde")
        for name in "cde":
            some.member(name, FAILED)
        for _ in range(20):
            await some.spend(10)
            await some.autopilot.act()
        assert some.changes == []
        assert some.pool.forced == []

    async def test_a_failed_server_leaves_through_gossip(self) -> None:
        some = cluster("abc")
        some.member("b", FAILED)
        await some.autopilot.act()
        assert some.pool.forced == ["b"]
        assert some.changes == []

    async def test_a_stale_entry_is_taken_out_directly(self) -> None:
        some = cluster("abc")
        del some.pool.by_name["c"]
        await some.autopilot.act()
        assert some.pool.forced == []
        assert some.changes == [Remove(id=server_id("c"), based_on=5)]

    async def test_one_that_left_and_is_still_a_peer_is_taken_out(self) -> None:
        some = cluster("abc")
        some.member("c", LEFT)
        await some.autopilot.act()
        assert some.changes == [Remove(id=server_id("c"), based_on=5)]

    async def test_a_failed_learner_goes_whatever_the_quorum(self) -> None:
        some = cluster("abc", "x")
        for name in "bcx":
            some.member(name, FAILED)
        await some.autopilot.act()
        assert some.pool.forced == ["x"]

    def test_an_unknown_learner_counts_among_the_dead(self) -> None:
        some = cluster("ab", "x")
        del some.pool.by_name["x"]
        assert next_removal(some.autopilot.outlook()) is None

    def test_a_server_that_came_back_under_another_name_lives(self) -> None:
        some = cluster("abc")
        some.member("b", FAILED)
        some.pool.put(server_member("b2", id=server_id("b")))
        assert next_removal(some.autopilot.outlook()) is None


class TestRunning:
    async def run_until(self, some: Cluster, condition: Callable[[], bool]) -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(some.autopilot.run())
            await until(condition)
            running.cancel()

    async def test_it_acts_when_a_server_has_joined(self) -> None:
        some = cluster("abc")
        some.member("b", FAILED)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(some.autopilot.run())
            await asyncio.sleep(0)
            assert some.pool.forced == []
            some.autopilot.act_soon()
            await until(lambda: some.pool.forced == ["b"])
            running.cancel()

    async def test_it_acts_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(autopilot, "HEALTH_INTERVAL_S", 0.001)
        some = cluster("abc")
        del some.pool.by_name["c"]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(some.autopilot.run())
            await asyncio.sleep(0)
            some.now_s += autopilot.ACT_INTERVAL_S
            await until(lambda: len(some.changes) == 1)
            running.cancel()

    async def test_it_promotes_as_soon_as_it_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(autopilot, "HEALTH_INTERVAL_S", 0.001)
        some = cluster("abc", "x")
        some.settings = msgspec.structs.replace(
            some.settings, server_stabilization_time_ns=1_000_000_000
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(some.autopilot.run())
            await asyncio.sleep(0)
            assert some.changes == []
            some.now_s += 1.0  # far from the next time that it looks for dead ones
            await until(lambda: some.changes == [Promote(id=server_id("x"), based_on=5)])
            running.cancel()

    async def test_what_cannot_be_done_is_left_to_the_next_time(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        some = cluster("abc")
        del some.pool.by_name["c"]
        some.error = Unavailable("another membership change is not committed yet; retry")
        await some.autopilot.act()
        assert "autopilot could not go on" in caplog.text
        some.error = None
        await some.autopilot.act()
        assert len(some.changes) == 1

    async def test_a_deposed_leader_stops(self) -> None:
        some = cluster("abc")
        del some.pool.by_name["c"]
        some.error = NotLeader(None)
        with pytest.raises(NotLeader):
            await some.autopilot.act()
