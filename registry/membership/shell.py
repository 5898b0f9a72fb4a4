"""A gossip pool on real sockets: the loop that feeds the cores and does what they ask.

    sockets ──> inbox ─┐                       ┌─> packets, streams, files
    deadlines ─────────┼─> PoolCore ─> outputs ┼─> listeners (events, in order)
    callers ───────────┘                       └─> whoever waits for a join, query or leave

Everything that can be decided is decided by the cores (`core`, `serf`). Here is what must wait:
sockets, name resolution, the keyring and the snapshot on disk, each in a task or thread of its own
so that the loop goes on.

Use: `start` binds the port and makes us a member of a pool of one; `run`, in a task of the owner's
group, serves until `leave` is through or the task is cancelled (which leaves nothing behind, and
looks to the others like a crash).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from registry.errors import (
    ConfigError,
    LocalProtocolError,
    NotFound,
    Rejected,
    RemoteProtocolError,
    Unavailable,
)
from registry.membership import key_queries, keyring_file, snapshot_file
from registry.membership.addresses import Address, format_address, parse_address
from registry.membership.context import SerfContext
from registry.membership.coordinate import Coordinate
from registry.membership.core import SwimCore
from registry.membership.crypto import Keyring
from registry.membership.dialling import converse, dial_error, read_message, resolve
from registry.membership.filters import Filter
from registry.membership.key_queries import KeyringResult
from registry.membership.listeners import EventStream, Listeners
from registry.membership.member_table import MemberTable
from registry.membership.merge_rules import MergeRules
from registry.membership.pool_core import PoolCore, PoolOutput
from registry.membership.query_desk import Question
from registry.membership.seam import (
    STREAMS_MAX,
    JoinFinished,
    JoinUnconfirmed,
    Notice,
    OpenStream,
    SendPacket,
)
from registry.membership.serf import SerfCore
from registry.membership.serf_config import SerfConfig
from registry.membership.serf_values import (
    Deliver,
    Left,
    Member,
    MemberEvent,
    MemberEventKind,
    MemberStatus,
    NameLost,
    PersistKeyring,
    QueryAnswer,
    QueryClosed,
    QueryEvent,
    UserEvent,
)
from registry.membership.settings import Network, PoolSettings
from registry.membership.snapshot import SnapshotLog, SnapshotState, SnapshotWrite
from registry.membership.sockets import PacketInbox, bind

#: Changes of members in the log, as operators look for them.
_SHOWN = {
    MemberEventKind.JOIN: "MemberJoin",
    MemberEventKind.LEAVE: "MemberLeave",
    MemberEventKind.FAILED: "MemberFailed",
    MemberEventKind.UPDATE: "MemberUpdate",
    MemberEventKind.REAP: "MemberReap",
}

#: How many packets are handled before callers and streams get a turn.
_PACKETS_PER_STEP = 256


class GossipPool:
    """One member of one pool."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._log = logging.getLogger(f"registry.membership.{settings.label}")
        self._listeners = Listeners()
        self._wake = asyncio.Event()
        self._inbox = PacketInbox(self._wake.set)
        self._core: PoolCore | None = None
        self._ring: Keyring | None = None
        self._tcp: asyncio.Server | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="gossip-disk")
        self._previous = SnapshotState()
        self._streams = 0
        self._spawned: set[asyncio.Task[None]] = set()
        self._joins: dict[int, asyncio.Future[str | None]] = {}
        self._dial_errors: dict[Address, str] = {}
        self._answers: dict[int, asyncio.Queue[QueryAnswer | QueryClosed]] = {}
        self._snapshot_writes: asyncio.Queue[SnapshotWrite | None] = asyncio.Queue()
        self._left = asyncio.Event()
        self._lost: NameLost | None = None

    # Life.

    async def start(self) -> None:
        """Read what is on disk, bind, and be a pool of one. Raises `ConfigError`."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        self._ring = await loop.run_in_executor(self._disk, self._load_ring)
        snapshot = await loop.run_in_executor(self._disk, self._load_snapshot)
        udp, tcp = bind(settings.bind)
        bound = (settings.bind[0], tcp.getsockname()[1])
        host, port = settings.advertise or bound
        try:
            self._core = self._build((host, port or bound[1]), snapshot)
            await loop.create_datagram_endpoint(lambda: self._inbox, sock=udp)
            self._tcp = await asyncio.start_server(self._accept, sock=tcp)
        except BaseException:
            udp.close()
            tcp.close()
            self.close()
            raise
        self._log.info(
            "gossip is up: address=%s encrypted=%s",
            format_address(bound),
            self._ring is not None,
        )

    def _load_ring(self) -> Keyring | None:
        path = self._settings.keyring_file
        stored = keyring_file.load(path) if path else ()
        keys = stored or self._settings.keys
        if not keys:
            return None
        if any(key not in keys for key in self._settings.keys):
            # Put back, a key that the pool has removed would open old recordings again.
            self._log.warning("the keyring on disk counts, not the configured key: file=%s", path)
        try:
            ring = Keyring(keys)
            if path and ring.keys != stored:
                keyring_file.write(path, ring.keys)
        except (Rejected, OSError) as problem:
            where = str(path) if path else None
            raise ConfigError(f"the gossip keyring: {problem}", file=where) from problem
        return ring

    def _load_snapshot(self) -> SnapshotLog | None:
        path = self._settings.snapshot_file
        if path is None:
            return None
        rejoins = self._settings.serf.rejoins_after_leave
        state, size_bytes, strange = snapshot_file.load(path, rejoin_after_leave=rejoins)
        for line in strange:
            self._log.warning("a line of the snapshot is unknown: file=%s line=%r", path, line)
        self._previous = SnapshotState(
            dict(state.alive), state.clock, state.event_clock, state.query_clock
        )
        return SnapshotLog(state, size_bytes, rejoin_after_leave=rejoins)

    def _build(self, advertise: Address, snapshot: SnapshotLog | None) -> PoolCore:
        settings, now_ms = self._settings, _now_ms()
        # Chance is for spreading load and finding names, not for secrets.
        rng = random.Random(random.SystemRandom().getrandbits(64))
        versions = msgspec.structs.replace(
            settings.swim.versions, delegate_current=settings.serf.protocol
        )
        swim = SwimCore(
            msgspec.structs.replace(settings.swim, versions=versions),
            name=settings.name,
            address=advertise,
            rng=rng,
            keyring=self._ring,
        )
        context = SerfContext(
            config=_with_persistence(settings.serf, settings.keyring_file),
            name=settings.name,
            address=advertise,
            tags=dict(settings.tags),
            rng=rng,
            compile_pattern=settings.compile_pattern,
            members=MemberTable(recent_intent_timeout_ms=settings.serf.recent_intent_timeout_ms),
            lower=swim,
            gossip_interval_ms=settings.swim.gossip_interval_ms,
            ring=self._ring,
            now_ms=int(now_ms),
        )
        serf = SerfCore(
            context,
            rules=_AllowedNetworks(settings.allowed_networks, settings.rules),
            retransmit_mult=settings.swim.retransmit_mult,
            snapshot=snapshot,
            previous=self._previous,
        )
        return PoolCore(swim, serf, now_ms)

    async def run(self) -> None:
        """Serve until we have left.

        Raises `Rejected` when most of the pool knows somebody else by our name: such a member
        stops without leaving, because a leave would carry the other's name.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                writer = self._tasks.create_task(self._write_snapshots())
                rejoin = self._tasks.create_task(self._rejoin())
                try:
                    await self._drive()
                finally:
                    self._tasks = None  # nothing new is begun
                rejoin.cancel()
                for task in self._spawned:
                    task.cancel()
                self._snapshot_writes.put_nowait(None)
                await writer
        finally:
            self.close()
        if self._lost is not None:
            raise Rejected(
                f"the name {self._settings.name} belongs to another member of the {self._label}"
                f" pool: {self._lost.matching} of {self._lost.answers} answers were for us;"
                " choose another node name"
            )

    @property
    def _label(self) -> str:
        return self._settings.label.upper()

    async def _drive(self) -> None:
        """Collect input, then step once."""
        core = self._running
        while not self._left.is_set() and self._lost is None:
            self._wake.clear()
            self._step(core)
            delay_s = (core.next_deadline_ms() - _now_ms()) / 1000
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, delay_s)):
                    await self._wake.wait()
            await asyncio.sleep(0)  # a flood of packets must not starve everybody else

    def _step(self, core: PoolCore) -> None:
        now_ms = _now_ms()
        for data, source in self._inbox.take(_PACKETS_PER_STEP):
            if self._is_allowed(source[0]):
                core.receive_packet(data, source, now_ms)
        core.advance(now_ms)
        self._perform(core.take_output())

    def close(self) -> None:
        """Close the sockets and end whatever waits, without leaving. `run` does so when it ends."""
        self._inbox.close()
        if self._tcp is not None:
            self._tcp.close()
        for waiting in self._joins.values():
            if not waiting.done():
                waiting.set_result("this agent has stopped")
        for query_id, queue in self._answers.items():
            queue.put_nowait(QueryClosed(query_id))
        self._left.set()
        self._listeners.close()
        self._disk.shutdown(wait=False)

    @property
    def _running(self) -> PoolCore:
        if self._core is None:
            raise LocalProtocolError("the pool was not started")
        return self._core

    def _now(self) -> PoolCore:
        """The core, at the present time; what it then wants is done in the loop's next turn."""
        core = self._running
        core.at(_now_ms())
        self._wake.set()
        return core

    def _check_running(self) -> None:
        if self._left.is_set():
            raise Unavailable(f"this agent is in the {self._label} pool no more")

    # Doing what the cores ask.

    def _perform(self, outputs: Sequence[PoolOutput]) -> None:
        for output in outputs:
            self._performers[type(output)](self, output)

    def _send(self, output: SendPacket) -> None:
        if self._inbox.send(output.data, output.address):
            self._settings.meter.count("memberlist.udp.sent", len(output.data))

    def _open_stream(self, output: OpenStream) -> None:
        self._spawn(self._exchange(output))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:  # not yet, or no longer
            work.close()
            return
        task = self._tasks.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    def _join_finished(self, output: JoinFinished) -> None:
        waiting = self._joins.pop(output.token, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(output.error)

    def _join_unconfirmed(self, output: JoinUnconfirmed) -> None:
        self._log.warning(
            "a member we joined does not list us: it refused us, see its log: peer=%s",
            format_address(output.address),
        )

    def _deliver(self, output: Deliver) -> None:
        event = output.event
        meter = self._settings.meter
        if isinstance(event, MemberEvent):
            meter.count(f"serf.{event.kind.value.replace('-', '.')}")
            self._log.info(
                "serf: Event%s: %s %s",
                _SHOWN[event.kind],
                event.member.name,
                event.member.address,
            )
        elif isinstance(event, UserEvent):
            meter.count("serf.events", event=event.name)
        else:
            meter.count("serf.queries", query=event.name)
        self._listeners.put(event)

    def _answer(self, output: QueryAnswer | QueryClosed) -> None:
        queue = self._answers.get(output.query_id)
        if queue is not None:
            queue.put_nowait(output)

    def _persist_keyring(self, output: PersistKeyring) -> None:
        self._spawn(self._write_keyring(output))

    def _write_snapshot(self, output: SnapshotWrite) -> None:
        self._snapshot_writes.put_nowait(output)

    def _end(self, output: Left) -> None:
        self._left.set()

    def _lose(self, output: NameLost) -> None:
        self._lost = output

    def _notice(self, output: Notice) -> None:
        level = logging.WARNING if output.is_warning else logging.DEBUG
        self._log.log(level, "%s", output.text)

    _performers: ClassVar[dict[type, Callable[[GossipPool, Any], None]]] = {
        SendPacket: _send,
        OpenStream: _open_stream,
        JoinFinished: _join_finished,
        JoinUnconfirmed: _join_unconfirmed,
        Deliver: _deliver,
        QueryAnswer: _answer,
        QueryClosed: _answer,
        PersistKeyring: _persist_keyring,
        SnapshotWrite: _write_snapshot,
        Left: _end,
        NameLost: _lose,
        Notice: _notice,
    }

    # Streams.

    def _is_allowed(self, host: str) -> bool:
        networks = self._settings.allowed_networks
        return networks is None or _is_in(host, networks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: tuple[Any, ...] = writer.get_extra_info("peername") or ("", 0)
        is_welcome = self._streams < STREAMS_MAX and self._is_allowed(peer[0])
        if not is_welcome or self._tasks is None:
            writer.transport.abort()
            return
        self._streams += 1
        self._spawn(self._serve(reader, writer, (peer[0], peer[1])))

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: Address
    ) -> None:
        try:
            async with asyncio.timeout(self._settings.swim.stream_timeout_ms / 1000):
                request = await read_message(reader)
                if request:
                    reply = self._running.receive_stream_request(request, source, _now_ms())
                    self._wake.set()
                    if reply:
                        writer.write(reply)
                        await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, RemoteProtocolError) as problem:
            self._settings.meter.count("memberlist.tcp.failed")
            self._log.debug("a stream failed: peer=%s reason=%s", format_address(source), problem)
        finally:
            self._streams -= 1
            writer.transport.abort()

    async def _exchange(self, request: OpenStream) -> None:
        """One message out and, if one is expected, one in."""
        reply: bytes | None = None
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                reply = await converse(request)
        except TimeoutError:
            self._dial_errors[request.address] = "i/o timeout"
        except (OSError, RemoteProtocolError) as problem:
            self._dial_errors[request.address] = dial_error(problem)
        self._running.stream_reply(request.token, reply, _now_ms())
        self._wake.set()

    # Files.

    async def _write_keyring(self, output: PersistKeyring) -> None:
        path = self._settings.keyring_file
        assert path is not None, "rings are written only when there is a file for them"
        error = None
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._disk, keyring_file.write, path, output.keys)
        except OSError as problem:
            error = f"the keyring could not be written: {problem}"
            self._log.error("%s file=%s", error, path)
        self._now().serf.keyring_persisted(output.token, error)

    async def _write_snapshots(self) -> None:
        loop = asyncio.get_running_loop()
        while (write := await self._snapshot_writes.get()) is not None:
            path = self._settings.snapshot_file
            assert path is not None, "the core has no snapshot without a file"
            try:
                await loop.run_in_executor(self._disk, snapshot_file.apply, path, write)
            except OSError as problem:
                self._log.error("could not write the snapshot: file=%s reason=%s", path, problem)

    # Joining and leaving.

    async def join(
        self, addresses: Sequence[str], *, default_port: int = 8301, ignore_old: bool = True
    ) -> int:
        """Join through each of these (`host`, `host:port`); the number of nodes reached.

        With `ignore_old` events from before are not delivered. Raises `Unavailable`, saying for
        each address why, when none was reached. A pool that refuses us says so only in its own log;
        then a warning follows here some seconds later.
        """
        self._check_running()
        core = self._now()
        core.serf.ignore_old_events(ignore=ignore_old)
        reached, errors = 0, []
        try:
            for address in addresses:
                done, failed = await self._join_host(address, default_port)
                reached += done
                errors += failed
        finally:
            core.serf.ignore_old_events(ignore=False)
        if reached == 0 and errors:
            raise Unavailable("; ".join(errors))
        if reached > 0:
            self._now().serf.announce_join()
        return reached

    async def _join_host(self, text: str, default_port: int) -> tuple[int, list[str]]:
        try:
            found = await resolve(text, default_port)
        except (OSError, ValueError) as problem:
            return 0, [f"Failed to resolve {text}: {problem}"]
        reached, errors = 0, []
        for address in found:
            error = await self._join_address(address)
            if error is None:
                reached += 1
            else:
                errors.append(f"Failed to join {address[0]}: {error}")
        return reached, errors

    async def _join_address(self, address: Address) -> str | None:
        """Why it failed; None when it did not."""
        self._dial_errors.pop(address, None)
        token = self._now().swim.join(address)
        waiting: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._joins[token] = waiting
        try:
            error = await waiting
        finally:
            self._joins.pop(token, None)
        dialled = self._dial_errors.pop(address, None)
        if error is None or dialled is None:
            return error
        return f"dial tcp {format_address(address)}: {dialled}"

    async def _rejoin(self) -> None:
        """Find the pool of the last run again, through whomever answers first."""
        own = {self._settings.name}
        known = [text for name, text in self._previous.alive.items() if name not in own]
        random.shuffle(known)
        for text in known:
            try:
                address = parse_address(text)
            except ValueError:
                continue
            if await self._join_address(address) is None:
                self._log.info("rejoined: peer=%s", text)
                return
        if known:
            self._log.warning("nobody of the last run answers")

    async def leave(self) -> None:
        """Leave gracefully; returns when the news had time to get around, and `run` ends."""
        if not self._left.is_set():
            self._now().serf.leave()
            await self._left.wait()

    async def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare that a member has left. Raises `NotFound`."""
        core = self._now()
        if name not in (member.name for member in core.serf.members):
            raise NotFound(f"No node found with name '{name}'")
        core.serf.force_leave(name, prune=prune)

    # Looking.

    @property
    def address(self) -> Address:
        """Where others reach us."""
        member = self.local_member()
        return member.address, member.port

    @property
    def is_encrypted(self) -> bool:
        return self._ring is not None

    def members(self) -> list[Member]:
        """Everybody, whatever their state, by name."""
        return sorted(self._running.serf.members, key=lambda member: member.name)

    def local_member(self) -> Member:
        return self._running.serf.local_member

    def coordinate(self, name: str | None = None) -> Coordinate | None:
        """Our own coordinate, or the last one that a member told us."""
        serf = self._running.serf
        return serf.coordinate if name is None else serf.coordinate_of(name)

    def statistics(self) -> dict[str, int]:
        core = self._running
        return {
            **core.serf.statistics(),
            "health_score": core.swim.health_score,
            "packets_dropped": self._inbox.dropped,
        }

    def listen(self) -> EventStream:
        """Member, user and query events from now on, in order; a context manager."""
        return self._listeners.add()

    # Telling and asking.

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Raises `TooLarge`."""
        self._now().serf.set_tags(tags)

    def user_event(self, name: str, payload: bytes = b"", *, coalesce: bool = False) -> None:
        """Raises `TooLarge`."""
        self._now().serf.user_event(name, payload, coalesce=coalesce)

    def respond(self, query: QueryEvent, payload: bytes) -> None:
        """Answer a query. Raises `TooLarge`, `TimedOut`, and `LocalProtocolError` a second time."""
        self._now().serf.respond(query, payload)

    async def query(
        self,
        name: str,
        payload: bytes = b"",
        *,
        filters: Sequence[Filter] = (),
        timeout_s: float = 0.0,
        wants_acks: bool = False,
        relay_factor: int = 0,
    ) -> AsyncGenerator[QueryAnswer, None]:
        """Answers (and acknowledgements) as they come, until the timeout. Raises `TooLarge`.

        0 is the pool's default timeout. Close the iterator to stop earlier.
        """
        question = Question(
            name=name,
            payload=payload,
            filters=tuple(filters),
            timeout_ms=round(timeout_s * 1000),
            wants_acks=wants_acks,
            relay_factor=relay_factor,
        )
        self._check_running()
        query_id = self._now().serf.query(question)
        queue: asyncio.Queue[QueryAnswer | QueryClosed] = asyncio.Queue()
        self._answers[query_id] = queue
        try:
            while isinstance(output := await queue.get(), QueryAnswer):
                yield output
        finally:
            del self._answers[query_id]
            self._running.serf.close_query(query_id)

    # Keys.

    async def list_keys(self, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask_keys(key_queries.LIST, b"", relay_factor)

    async def install_key(self, key: bytes, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask_keys(key_queries.INSTALL, key, relay_factor)

    async def use_key(self, key: bytes, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask_keys(key_queries.USE, key, relay_factor)

    async def remove_key(self, key: bytes, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask_keys(key_queries.REMOVE, key, relay_factor)

    async def _ask_keys(self, name: str, key: bytes, relay_factor: int) -> KeyringResult:
        """Everybody's answer, or what came until the timeout; see `KeyringResult.is_complete`."""
        alive = [m for m in self.members() if m.status is MemberStatus.ALIVE]
        answers: dict[str, bytes] = {}
        payload = key_queries.encode_request(key)
        async with aclosing(self.query(name, payload, relay_factor=relay_factor)) as stream:
            async for answer in stream:
                answers[answer.node] = answer.payload
                if len(answers) >= len(alive):
                    break
        return key_queries.tally(len(alive), answers)


class _AllowedNetworks:
    """Merge rules that also want every address to be in certain networks."""

    def __init__(self, networks: tuple[Network, ...] | None, rules: MergeRules) -> None:
        self._networks = networks
        self._rules = rules

    def objection(self, members: Sequence[Member]) -> str | None:
        if self._networks is not None:
            for member in members:
                if not _is_in(member.address, self._networks):
                    return f"Member '{member.name}' has address {member.address}, not allowed here"
        return self._rules.objection(members)


def _now_ms() -> float:
    return time.monotonic() * 1000.0


def _with_persistence(config: SerfConfig, path: Path | None) -> SerfConfig:
    return msgspec.structs.replace(config, persists_keyring=path is not None)


def _is_in(host: str, networks: Iterable[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
