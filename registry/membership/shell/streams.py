"""One message each way by TCP, with those who dial us and those whom the core wants dialled.

Source: gossip sheet, section 2.7.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from registry.errors import RemoteProtocolError
from registry.membership.addresses import Address, format_address
from registry.membership.seam import STREAMS_MAX, OpenStream
from registry.membership.settings import PoolSettings
from registry.membership.shell.dialling import converse, dial_error, read_message
from registry.membership.shell.live_core import LiveCore, now_ms
from registry.membership.shell.networks import AllowedNetworks
from registry.membership.shell.tasks import PoolTasks


class Streams:
    def __init__(
        self,
        settings: PoolSettings,
        live: LiveCore,
        tasks: PoolTasks,
        networks: AllowedNetworks,
        log: logging.Logger,
    ) -> None:
        self._settings = settings
        self._live = live
        self._tasks = tasks
        self._networks = networks
        self._log = log
        self._serving = 0
        self._dial_errors: dict[Address, str] = {}

    # Those who dial us.

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: tuple[Any, ...] = writer.get_extra_info("peername") or ("", 0)
        is_welcome = self._serving < STREAMS_MAX and self._networks.include(peer[0])
        if not is_welcome or not self._tasks.are_open:
            writer.transport.abort()
            return
        self._serving += 1
        self._tasks.spawn(self._serve(reader, writer, (peer[0], peer[1])))

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: Address
    ) -> None:
        try:
            async with asyncio.timeout(self._settings.swim.stream_timeout_ms / 1000):
                request = await read_message(reader)
                if request:
                    core = self._live.running
                    reply = core.receive_stream_request(request, source, now_ms())
                    self._live.wake.set()
                    if reply:
                        writer.write(reply)
                        await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, RemoteProtocolError) as problem:
            self._settings.meter.count("memberlist.tcp.failed")
            self._log.debug("a stream failed: peer=%s reason=%s", format_address(source), problem)
        finally:
            self._serving -= 1
            writer.transport.abort()

    # Those whom we dial.

    def open(self, request: OpenStream) -> None:
        self._tasks.spawn(self._exchange(request))

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
        self._live.running.stream_reply(request.token, reply, now_ms())
        self._live.wake.set()

    def take_dial_error(self, address: Address) -> str | None:
        """Why the last stream to this address failed, in the words of the API; once."""
        return self._dial_errors.pop(address, None)
