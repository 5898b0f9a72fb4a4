"""Joining a pool through addresses that somebody names, or that were members when we last ran."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence

from registry.errors import Unavailable
from registry.membership.addresses import Address, format_address, parse_address
from registry.membership.seam import JoinFinished, JoinUnconfirmed
from registry.membership.shell.dialling import resolve
from registry.membership.shell.live_core import LiveCore
from registry.membership.shell.streams import Streams


class Joins:
    """Who waits for which join, each known by the token that the core gave it."""

    def __init__(self, live: LiveCore, streams: Streams, log: logging.Logger) -> None:
        self._live = live
        self._streams = streams
        self._log = log
        self._waiting: dict[int, asyncio.Future[str | None]] = {}

    async def join(self, addresses: Sequence[str], default_port: int, *, ignore_old: bool) -> int:
        """See `GossipPool.join`."""
        self._live.check_not_left()
        core = self._live.now()
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
            self._live.now().serf.announce_join()
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
        self._streams.take_dial_error(address)  # one of before is not ours
        token = self._live.now().swim.join(address)
        waiting: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting[token] = waiting
        try:
            error = await waiting
        finally:
            self._waiting.pop(token, None)
        dialled = self._streams.take_dial_error(address)
        if error is None or dialled is None:
            return error
        return f"dial tcp {format_address(address)}: {dialled}"

    async def rejoin(self, addresses: Iterable[str]) -> None:
        """Find the pool of the last run again, through whomever answers first."""
        known = list(addresses)
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

    def finished(self, output: JoinFinished) -> None:
        waiting = self._waiting.pop(output.token, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(output.error)

    def unconfirmed(self, output: JoinUnconfirmed) -> None:
        self._log.warning(
            "a member we joined does not list us: it refused us, see its log: peer=%s",
            format_address(output.address),
        )

    def close(self) -> None:
        """Nobody waits for ever."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result("this agent has stopped")
