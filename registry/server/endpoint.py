"""What a server answers over RPC: the answering side of `registry.server.calls`."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any, Protocol

from registry.errors import Corrupt, NotFound, Overloaded, RemoteProtocolError
from registry.rpc.server import Caller, Handler
from registry.server import calls
from registry.server.autopilot import AutopilotReport
from registry.server.bootstrap import PeersAnswer
from registry.server.datacenters import Datacenters
from registry.server.gossip_keys import KeysCall, PoolKeys
from registry.state.base import Command, Query, ReadOptions, ReadResult
from registry.state.dump import StateDump
from registry.state.machine import decode_command, decode_query
from registry.state.results import encode_result

#: Dumps that one caller may have open: each keeps the store from forgetting a moment.
DUMPS_MAX = 4


class Answering(Protocol):
    """The server as its endpoint needs it. What ends in `_here`, and `propose`, is done by this
    server itself or raises `NotLeader`."""

    async def write(self, command: Command) -> Any: ...
    async def propose(self, command: Command) -> Any: ...
    async def read(self, query: Query, options: ReadOptions) -> ReadResult: ...
    async def read_here(self, query: Query, options: ReadOptions) -> ReadResult: ...
    async def remove_server(self, server_id: str) -> None: ...
    async def remove_server_here(self, server_id: str) -> None: ...
    async def autopilot_health(self) -> AutopilotReport: ...
    async def autopilot_health_here(self) -> AutopilotReport: ...
    def peers(self) -> PeersAnswer: ...
    async def open_dump(self) -> StateDump: ...
    async def open_dump_here(self) -> StateDump: ...
    async def facts(self) -> calls.ServerFacts: ...
    def fire(self, name: str, payload: bytes) -> None: ...
    async def change_keys(self, call: KeysCall) -> list[PoolKeys]: ...
    @property
    def datacenters(self) -> Datacenters: ...


class _OpenDump:
    """A dump that is read piece by piece, in threads; closed once no thread is at it any more."""

    def __init__(self, dump: StateDump) -> None:
        self._dump = dump
        self._reading: asyncio.Future[bytes] | None = None

    async def next(self) -> bytes:
        """The next piece; empty at the end."""
        if self._reading is not None and not self._reading.done():
            raise RemoteProtocolError("one piece of a snapshot at a time")
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, next, self._dump.chunks, b"")
        # Shielded: the asker may go away, the thread goes on.
        return await asyncio.shield(self._reading)

    def close(self) -> None:
        if self._reading is None or self._reading.done():
            self._dump.close()
        else:
            self._reading.add_done_callback(lambda _: self._dump.close())


class Endpoint:
    """The handlers of one server."""

    def __init__(self, server: Answering) -> None:
        self._server = server
        self._dumps: dict[Caller, dict[int, _OpenDump]] = {}
        self._handles = itertools.count(1)

    def handlers(self) -> Mapping[str, Handler]:
        return {
            calls.WRITE: self.write,
            calls.READ: self.read,
            calls.FACTS: self.facts,
            calls.REMOVE_SERVER: self.remove_server,
            calls.AUTOPILOT: self.autopilot_health,
            calls.PEERS: self.raft_peers,
            calls.RELAY: self.relay,
            calls.DATACENTERS: self.datacenters,
            calls.FIRE: self.fire,
            calls.KEYS: self.change_keys,
            calls.DUMP_OPEN: self.open_dump,
            calls.DUMP_NEXT: self.next_of_dump,
            calls.DUMP_CLOSE: self.close_dump,
        }

    async def write(self, caller: Caller, body: bytes) -> bytes:
        call = calls.decode(body, calls.WriteCall)
        try:
            command = decode_command(call.command)
        except Corrupt as problem:
            # From the wire, not from our log: the asker's fault, and no reason to stop.
            raise RemoteProtocolError(str(problem)) from problem
        carry_out = self._server.propose if call.hop else self._server.write
        return encode_result(await carry_out(command))

    async def read(self, caller: Caller, body: bytes) -> bytes:
        call = calls.decode(body, calls.ReadCall)
        try:
            query = decode_query(call.query)
        except Corrupt as problem:
            raise RemoteProtocolError(str(problem)) from problem
        read = self._server.read_here if call.hop else self._server.read
        result = await read(query, call.options)
        return calls.encode(
            calls.ReadAnswer(
                index=result.index,
                known_leader=result.known_leader,
                last_contact_ms=result.last_contact_ms,
                mode=result.mode,
                value=encode_result(result.value),
            )
        )

    async def facts(self, caller: Caller, body: bytes) -> bytes:
        return calls.encode(await self._server.facts())

    async def remove_server(self, caller: Caller, body: bytes) -> bytes:
        call = calls.decode(body, calls.RemoveCall)
        remove = self._server.remove_server_here if call.hop else self._server.remove_server
        await remove(call.server_id)
        return b""

    async def autopilot_health(self, caller: Caller, body: bytes) -> bytes:
        call = calls.decode(body, calls.AutopilotCall)
        ask = self._server.autopilot_health_here if call.hop else self._server.autopilot_health
        return calls.encode(await ask())

    async def raft_peers(self, caller: Caller, body: bytes) -> bytes:
        return calls.encode(self._server.peers())

    async def relay(self, caller: Caller, body: bytes) -> bytes:
        return await self._server.datacenters.relay(calls.decode(body, calls.RelayCall))

    async def datacenters(self, caller: Caller, body: bytes) -> bytes:
        return calls.encode(await self._server.datacenters.known())

    async def fire(self, caller: Caller, body: bytes) -> bytes:
        call = calls.decode(body, calls.FireCall)
        self._server.fire(call.name, call.payload)
        return b""

    async def change_keys(self, caller: Caller, body: bytes) -> bytes:
        return calls.encode(await self._server.change_keys(calls.decode(body, KeysCall)))

    async def open_dump(self, caller: Caller, body: bytes) -> bytes:
        call = calls.decode(body, calls.DumpCall)
        if len(self._dumps.get(caller, ())) >= DUMPS_MAX:
            raise Overloaded("too many snapshots are being read by one agent; retry later")
        dump = await (self._server.open_dump_here() if call.hop else self._server.open_dump())
        if caller not in self._dumps:
            self._dumps[caller] = {}
            caller.on_end.append(lambda: self._forget(caller))
        handle = next(self._handles)
        self._dumps[caller][handle] = _OpenDump(dump)
        return calls.encode(calls.DumpOpened(handle, dump.index, dump.term))

    async def next_of_dump(self, caller: Caller, body: bytes) -> bytes:
        """The next piece; empty at the end."""
        dump = self._dumps.get(caller, {}).get(calls.decode(body, calls.DumpHandle).handle)
        if dump is None:
            raise NotFound("this snapshot is not open any more")
        return await dump.next()

    async def close_dump(self, caller: Caller, body: bytes) -> bytes:
        handle = calls.decode(body, calls.DumpHandle).handle
        dump = self._dumps.get(caller, {}).pop(handle, None)
        if dump is not None:
            dump.close()
        return b""

    def _forget(self, caller: Caller) -> None:
        for dump in self._dumps.pop(caller, {}).values():
            dump.close()
