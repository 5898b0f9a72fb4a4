"""What agents ask servers over RPC: the requests on the wire, and the asking side of each.

A server answers them in `registry.server.endpoint`. `hop` says how far a request has come: 0 from
an agent, 1 from a server that took it for the leader. A server that gets one of hop 1 answers it
itself or says `NotLeader`, so that no request goes round in circles (R-67).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, Protocol, TypeVar

import msgspec

from registry.errors import RegistryError, RemoteProtocolError
from registry.server.autopilot import AutopilotReport
from registry.server.bootstrap import PeersAnswer
from registry.server.gossip_keys import KeysCall, PoolKeys
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.coordinates import NodeCoordinate
from registry.state.dump import StateDump
from registry.state.machine import encode_command, encode_query
from registry.state.results import decode_result

WRITE, READ, FACTS, REMOVE_SERVER = "write", "read", "facts", "remove-server"
AUTOPILOT, PEERS = "autopilot", "raft.peers"
RELAY, DATACENTERS, FIRE, KEYS = "relay", "datacenters", "fire", "gossip-keys"
DUMP_OPEN, DUMP_NEXT, DUMP_CLOSE = "dump-open", "dump-next", "dump-close"


class Asked(Protocol):
    """Whoever answers calls: a connection to a server, or the way to one of another datacenter."""

    async def call(self, method: str, body: bytes) -> bytes: ...


#: A state up to this size is kept in memory while it is handed on, a larger one in a file.
_SPOOL_BYTES_MAX = 8 << 20
_PIECE_BYTES = 256 << 10


class WriteCall(msgspec.Struct, frozen=True, array_like=True):
    hop: int
    command: bytes


class ReadCall(msgspec.Struct, frozen=True, array_like=True):
    hop: int
    query: bytes
    options: ReadOptions


class ReadAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A `ReadResult` with its value encoded."""

    index: int
    known_leader: bool
    last_contact_ms: int
    mode: str
    value: bytes


class ServerFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a server knows of its cluster."""

    leader_address: str
    peer_addresses: list[str]
    configuration_index: int
    configuration: list[dict[str, Any]]


class RemoveCall(msgspec.Struct, frozen=True, array_like=True):
    hop: int
    server_id: str


class AutopilotCall(msgspec.Struct, frozen=True, array_like=True):
    hop: int


class DumpCall(msgspec.Struct, frozen=True, array_like=True):
    hop: int


class DumpOpened(msgspec.Struct, frozen=True, array_like=True):
    handle: int
    index: int
    term: int


class DumpHandle(msgspec.Struct, frozen=True, array_like=True):
    handle: int


class RelayCall(msgspec.Struct, frozen=True, array_like=True):
    """A call that a server is to hand on to one of another datacenter.

    `waits_ms` is how long the call itself may take there; one that is not `repeatable` is not given
    to a second server when the answer of the first is lost.
    """

    datacenter: str
    method: str
    body: bytes
    repeatable: bool
    waits_ms: int = 0


class DatacenterServers(msgspec.Struct, frozen=True, array_like=True):
    """A datacenter, and where its servers are in the network between datacenters."""

    name: str
    servers: tuple[NodeCoordinate, ...]


class FireCall(msgspec.Struct, frozen=True, array_like=True):
    """A user event for all agents of the server's datacenter, encoded as it travels there."""

    name: str
    payload: bytes


T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode


def decode(raw: bytes, kind: type[T]) -> T:
    """Raises `RemoteProtocolError`."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        name = getattr(kind, "__name__", kind)
        raise RemoteProtocolError(f"not a {name}: {problem}") from problem


async def write(connection: Asked, command: Command, hop: int) -> Any:
    """Have a server carry out a command; its result, as `Server.write` gives it."""
    raw = await connection.call(WRITE, encode(WriteCall(hop, encode_command(command))))
    return decode_result(type(command), raw)


async def read(connection: Asked, query: Query, options: ReadOptions, hop: int) -> ReadResult:
    """Have a server answer a query, waiting there if it blocks."""
    raw = await connection.call(READ, encode(ReadCall(hop, encode_query(query), options)))
    answer = decode(raw, ReadAnswer)
    return ReadResult(
        index=answer.index,
        value=decode_result(type(query), answer.value),
        known_leader=answer.known_leader,
        last_contact_ms=answer.last_contact_ms,
        mode=answer.mode,
    )


async def facts(connection: Asked) -> ServerFacts:
    """What a server knows of its cluster."""
    return decode(await connection.call(FACTS, b""), ServerFacts)


async def remove_server(connection: Asked, server_id: str, hop: int) -> None:
    """Have a server put out of the Raft configuration."""
    await connection.call(REMOVE_SERVER, encode(RemoveCall(hop, server_id)))


async def autopilot_health(connection: Asked, hop: int) -> AutopilotReport:
    """How the leader sees the servers."""
    return decode(await connection.call(AUTOPILOT, encode(AutopilotCall(hop))), AutopilotReport)


async def raft_peers(connection: Asked) -> PeersAnswer:
    """Whether a server is part of a cluster already, and of which."""
    return decode(await connection.call(PEERS, b""), PeersAnswer)


async def relay(connection: Asked, call: RelayCall) -> bytes:
    """Have a server hand a call on to another datacenter. Raises `NoPath` when it knows no way."""
    return await connection.call(RELAY, encode(call))


async def datacenters(connection: Asked) -> list[DatacenterServers]:
    """The datacenters that a server knows, the nearest first; none if it is in no WAN pool."""
    return decode(await connection.call(DATACENTERS, b""), list[DatacenterServers])


async def fire(connection: Asked, name: str, payload: bytes) -> None:
    """Have a server tell a user event to all agents of its datacenter."""
    await connection.call(FIRE, encode(FireCall(name, payload)))


async def change_keys(connection: Asked, call: KeysCall) -> list[PoolKeys]:
    """Have all pools of a server do something with a gossip key; none if they are not encrypted."""
    return decode(await connection.call(KEYS, encode(call)), list[PoolKeys])


async def open_dump(connection: Asked, hop: int) -> StateDump:
    """The whole state of the leader, brought here piece by piece before this returns."""
    opened = decode(await connection.call(DUMP_OPEN, encode(DumpCall(hop))), DumpOpened)
    handle = encode(DumpHandle(opened.handle))
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL_BYTES_MAX)  # noqa: SIM115
    try:
        while piece := await connection.call(DUMP_NEXT, handle):
            await asyncio.to_thread(file.write, piece)
    except BaseException:
        file.close()
        raise
    finally:
        with suppress(RegistryError):  # it ends with the connection anyway
            await connection.call(DUMP_CLOSE, handle)
    file.seek(0)
    return StateDump(opened.index, opened.term, _pieces(file), file.close)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
