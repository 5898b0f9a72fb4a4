"""A few Raft cores in one process, moved by hand: the bench for tests that script one situation.

Nothing happens by itself. `tick` lets time pass, `handle` does what the cores' `Ready` ask for,
`deliver` hands over messages, and `settle` repeats the latter two until all is quiet. Disks can be
held (writes are made, never synced) and servers crashed, which loses what was not synced. Every
promise is checked when it leaves: section 3 of the requirements, by the durable state at that time.

For random schedules, see the simulation (`tests/simulation`); this is for chosen ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from registry.raft.config import RaftConfig
from registry.raft.core import RaftCore
from registry.raft.membership import decode_configuration, encode_configuration
from registry.raft.memory_log import MemoryLog
from registry.raft.messages import (
    AnyMessage,
    AppendReply,
    Configuration,
    Entry,
    EntryKind,
    HardState,
    HeartbeatReply,
    Role,
    Server,
    SnapshotMeta,
    VoteReply,
    VoteRequest,
)
from registry.raft.ready import RaftRole, ReadState, Ready


def configuration_of(*voters: str, learners: Iterable[str] = (), index: int = 0) -> Configuration:
    """A configuration of servers named like their hosts."""
    servers = [Server(i, f"{i}:8300") for i in voters]
    servers += [Server(i, f"{i}:8300", Role.LEARNER) for i in learners]
    return Configuration(tuple(sorted(servers, key=lambda s: s.id)), index)


def configuration_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(index, term, EntryKind.CONFIGURATION, encode_configuration(configuration))


def log_of(*terms: int, first: int = 1) -> list[Entry]:
    """A log with one command per term given; the data tells index and term."""
    return [
        Entry(index, term, EntryKind.COMMAND, f"{term}.{index}".encode())
        for index, term in enumerate(terms, first)
    ]


class BenchServer:
    """One core with its disk: what is written, and what of that is synced."""

    def __init__(self, config: RaftConfig, entries: Sequence[Entry], hard_state: HardState) -> None:
        self.config = config
        self.written = MemoryLog(entries)
        self.synced = MemoryLog(entries)
        self.synced_hard_state = hard_state
        self.is_up = True
        self.holds_disk = False
        self.unsynced: list[Ready] = []
        self.committed: list[Entry] = []  # what this life of the server applied
        self.reads: list[ReadState] = []
        self.failed_reads: list[int] = []
        self.roles: list[RaftRole] = []
        self.snapshots_wanted: list[str] = []
        self.core = self._start(restarted=False)

    def _start(self, *, restarted: bool) -> RaftCore:
        base = self.written.snapshot_meta()
        return RaftCore(
            self.config,
            self.written,
            self.synced_hard_state,
            self.written.configuration,
            base.index if base else 0,
            random.Random(self.config.id),
            restarted=restarted,
        )

    def crash(self) -> None:
        """Stop; what was not synced is lost."""
        self.is_up = False
        self.unsynced.clear()

    def restart(self, *, config: RaftConfig | None = None) -> None:
        self.config = config or self.config
        base = self.synced.snapshot_meta()
        first, last = self.synced.first_index(), self.synced.last_index()
        self.written = MemoryLog(self.synced.entries(first, last + 1, 1 << 40), base)
        self.committed.clear()
        self.is_up = True
        self.core = self._start(restarted=True)

    def vouches_for(self, message: AnyMessage) -> bool:
        """Whether the durable state allows `message` to leave (section 3)."""
        state = self.synced_hard_state
        if isinstance(message, VoteRequest | VoteReply) and message.pre:
            return True
        if state.term < message.term:
            return False
        if isinstance(message, VoteRequest):
            return state.term > message.term or state.voted_for == message.sender
        if isinstance(message, VoteReply) and message.granted:
            return state.term > message.term or state.voted_for == message.receiver
        if isinstance(message, AppendReply) and message.success:
            return self.synced.last_index() >= message.match_index
        return True


class Cores:
    """A group of servers and the messages between them."""

    def __init__(
        self,
        *voters: str,
        learners: Iterable[str] = (),
        outsiders: Iterable[str] = (),
        logs: dict[str, list[Entry]] | None = None,
        terms: dict[str, int] | None = None,
        trace: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> None:
        """All servers hold the configuration at index 1, then the entries of `logs`; `outsiders`
        are empty and know of nobody. `settings` are those of `RaftConfig`."""
        learners = tuple(learners)
        self.settings = settings
        self.trace = trace or (lambda line: None)
        self.network: list[AnyMessage] = []
        self.lost: list[AnyMessage] = []
        self._cut: set[tuple[str, str]] = set()
        self.check_promises = not settings.get("disabled_guards")
        first = configuration_entry(1, 1, configuration_of(*voters, learners=learners))
        self.servers: dict[str, BenchServer] = {}
        for server_id in (*voters, *learners):
            entries = [first, *(logs or {}).get(server_id, [])]
            term = (terms or {}).get(server_id, entries[-1].term)
            self._add(server_id, entries, HardState(term))
        for server_id in outsiders:
            self._add(server_id, [], HardState())

    def _add(self, server_id: str, entries: Sequence[Entry], hard_state: HardState) -> None:
        config = RaftConfig(id=server_id, **self.settings)
        self.servers[server_id] = BenchServer(config, entries, hard_state)

    def __getitem__(self, server_id: str) -> RaftCore:
        return self.servers[server_id].core

    # -- time and disks ----------------------------------------------------------------------

    def tick(self, *ids: str, n: int = 1) -> None:
        """Let `n` ticks pass on the servers named, or on all that are up."""
        for server_id in ids or self.up:
            self[server_id].tick(n)

    def forget_leader(self, *ids: str) -> None:
        """Let T pass on the servers named (or all), so that they hear no leader any more. What they
        send meanwhile is lost."""
        self.tick(*ids, n=self[self.up[0]].config.election_ticks)
        self.handle()
        self.drop()

    @property
    def up(self) -> list[str]:
        return [i for i, server in self.servers.items() if server.is_up]

    def hold_disk(self, server_id: str) -> None:
        """From now on writes of this server are not synced."""
        self.servers[server_id].holds_disk = True

    def release_disk(self, server_id: str) -> None:
        server = self.servers[server_id]
        server.holds_disk = False
        self._sync(server)

    def crash(self, server_id: str) -> None:
        self.servers[server_id].crash()

    def restart(self, server_id: str, **changes: Any) -> None:
        config = RaftConfig(id=server_id, **(self.settings | changes))
        self.servers[server_id].restart(config=config)

    # -- messages ----------------------------------------------------------------------------

    def cut(self, sender: str, receiver: str) -> None:
        """Lose what one sends to the other from now on; and what is under way."""
        self._cut.add((sender, receiver))

    def isolate(self, *ids: str) -> None:
        """Cut the servers named off from all others."""
        for one in ids:
            for other in self.servers:
                if other not in ids:
                    self._cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        self._cut.clear()

    def handle(self) -> bool:
        """Do what every core asks for; whether there was anything."""
        found = False
        for server_id in self.up:
            while self[server_id].has_ready():
                found = True
                self._execute(self.servers[server_id], self[server_id].ready())
        return found

    def deliver(self, wanted: Callable[[AnyMessage], bool] | None = None) -> bool:
        """Hand over what is under way now, in order: all, or what `wanted` picks; the rest stays.
        Whether there was anything."""
        picked = [m for m in self.network if wanted is None or wanted(m)]
        self.network = [m for m in self.network if not (wanted is None or wanted(m))]
        for message in picked:
            self.hand_over(message)
        return bool(picked)

    def hand_over(self, message: AnyMessage) -> None:
        """Deliver one message, unless its way is cut or its receiver down."""
        receiver = self.servers.get(message.receiver)
        link = (message.sender, message.receiver)
        if receiver is None or not receiver.is_up or link in self._cut:
            self.lost.append(message)
        else:
            receiver.core.receive(message)

    def drop(self, wanted: Callable[[AnyMessage], bool] | None = None) -> list[AnyMessage]:
        """Take messages that are under way off the network; returns them."""
        dropped = [m for m in self.network if wanted is None or wanted(m)]
        self.network = [m for m in self.network if not (wanted is None or wanted(m))]
        return dropped

    def settle(self, rounds_max: int = 1000) -> None:
        """Handle and deliver until nothing is left to do. Raises when that does not come about."""
        for _ in range(rounds_max):
            handled = self.handle()
            if not (self.deliver() or handled):
                return
        raise AssertionError("the cores do not come to rest")

    def run(self, ticks: int, *ids: str) -> None:
        """Tick and settle, again and again."""
        for _ in range(ticks):
            self.tick(*ids)
            self.settle()

    # -- the driver's part -------------------------------------------------------------------

    def _execute(self, server: BenchServer, ready: Ready) -> None:
        if ready.role_change is not None:
            change = ready.role_change
            server.roles.append(change.role)
            self.trace(
                f"{server.config.id}: {change.role.value} term={change.term} "
                f"leader={change.leader_id or '?'} reason={change.reason}"
            )
        self._send(server, ready.now)
        server.written.write(ready)
        if ready.must_sync:
            self.trace(f"{server.config.id}: write {_describe_write(ready)}")
        server.unsynced.append(ready)
        if not server.holds_disk:
            self._sync(server)
        if ready.committed:
            server.committed += ready.committed
            first, last = ready.committed[0].index, ready.committed[-1].index
            self.trace(f"{server.config.id}: commit {first}..{last}")
            server.core.applied(last)
        for read in ready.reads:
            self.trace(f"{server.config.id}: read {read.context} at {read.index}")
        for context in ready.failed_reads:
            self.trace(f"{server.config.id}: read {context} failed")
        for peer in ready.snapshots_wanted:
            self.trace(f"{server.config.id}: snapshot wanted for {peer}")
        server.reads += ready.reads
        server.failed_reads += ready.failed_reads
        server.snapshots_wanted += ready.snapshots_wanted

    def _sync(self, server: BenchServer) -> None:
        while server.unsynced:
            ready = server.unsynced.pop(0)
            server.synced.write(ready)
            server.synced_hard_state = ready.hard_state or server.synced_hard_state
            server.core.persisted(ready.token)
            self._send(server, ready.after)

    def _send(self, server: BenchServer, messages: Iterable[AnyMessage]) -> None:
        for message in messages:
            if self.check_promises:
                assert server.vouches_for(message), f"sent before it was durable: {message}"
            self.network.append(message)
            self.trace(describe(message))

    # -- short cuts --------------------------------------------------------------------------

    def elect(self, server_id: str) -> RaftCore:
        """Make one server leader, when nobody else minds; returns its core."""
        for _ in range(10):
            self[server_id].campaign()
            self.settle()
            if self[server_id].role is RaftRole.LEADER:
                return self[server_id]
            self.forget_leader(*(i for i in self.up if i != server_id))
        raise AssertionError(f"{server_id} can not be elected")

    @property
    def leaders(self) -> list[str]:
        return [i for i in self.up if self[i].role is RaftRole.LEADER]

    def terms(self, server_id: str) -> list[int]:
        """The terms of the written log, from its first entry on."""
        log = self.servers[server_id].written
        return [log.term(i) or 0 for i in range(log.first_index(), log.last_index() + 1)]

    def send_snapshot(self, sender: str, receiver: str) -> SnapshotMeta:
        """Carry a snapshot of all that `sender` has applied; both ends are told at once."""
        meta = self.snapshot_of(sender)
        self[receiver].snapshot_received(meta, sender)
        self.settle()
        self[sender].snapshot_finished(receiver, ok=True, index=meta.index)
        self.settle()
        return meta

    def snapshot_of(self, server_id: str) -> SnapshotMeta:
        log, index = self.servers[server_id].written, self[server_id].applied_index
        term = log.term(index)
        assert term is not None
        return SnapshotMeta(f"{term}-{index}", index, term, log.configuration_at(index))

    def compact(self, server_id: str, index: int) -> None:
        """Drop the log up to `index` on one server."""
        server = self.servers[server_id]
        server.synced.compact(index)
        server.core.compacted(server.written.compact(index))


# -- words for the trace ---------------------------------------------------------------------


def describe(message: AnyMessage) -> str:
    """One line: from, to, kind, and the fields that are not at rest."""
    kind = message.__struct_config__.tag
    fields = {
        name: getattr(message, name)
        for name in message.__struct_fields__
        if name not in ("sender", "receiver", "cluster_id")
    }
    if isinstance(message, AppendReply | HeartbeatReply):
        fields = {k: v for k, v in fields.items() if v or k in ("term", "success", "match_index")}
        if isinstance(message, AppendReply) and not message.success:
            fields.pop("match_index")
    shown = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
    return f"{message.sender} -> {message.receiver} {kind} {shown}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return f"[{' '.join(_describe_entry(entry) for entry in value)}]"
    if isinstance(value, SnapshotMeta):
        return value.id
    return str(value)


def _describe_entry(entry: Entry) -> str:
    kind = {EntryKind.NOOP: "noop", EntryKind.BARRIER: "barrier"}.get(entry.kind)
    if entry.kind is EntryKind.CONFIGURATION:
        servers = decode_configuration(entry).servers
        kind = ",".join(s.id if s.role is Role.VOTER else f"({s.id})" for s in servers)
    text = kind or entry.data.decode("utf-8", "replace")
    return f"{entry.index}/{entry.term}:{text}"


def _describe_write(ready: Ready) -> str:
    parts = []
    if ready.hard_state is not None:
        vote = ready.hard_state.voted_for or "-"
        parts.append(f"term={ready.hard_state.term} vote={vote}")
    if ready.snapshot is not None:
        parts.append(f"snapshot={ready.snapshot.id}")
    if ready.entries:
        parts.append(f"entries={_value(ready.entries)}")
    return " ".join(parts)
