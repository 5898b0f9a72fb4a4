"""The loop around the cores: packets and time go in, what they want is done."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from registry.membership.pool_core import PoolCore
from registry.membership.shell.effects import Effects
from registry.membership.shell.live_core import LiveCore, now_ms
from registry.membership.shell.networks import AllowedNetworks
from registry.membership.shell.sockets import PacketInbox

#: How many packets are handled before callers and streams get a turn.
_PACKETS_PER_STEP = 256


class CoreLoop:
    def __init__(
        self, live: LiveCore, inbox: PacketInbox, networks: AllowedNetworks, effects: Effects
    ) -> None:
        self._live = live
        self._inbox = inbox
        self._networks = networks
        self._effects = effects

    async def run(self) -> None:
        """Collect input, then step once, until we have left or lost our name."""
        core = self._live.running
        while not self._live.has_ended:
            self._live.wake.clear()
            self._step(core)
            delay_s = (core.next_deadline_ms() - now_ms()) / 1000
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, delay_s)):
                    await self._live.wake.wait()
            await asyncio.sleep(0)  # a flood of packets must not starve everybody else

    def _step(self, core: PoolCore) -> None:
        now = now_ms()
        for data, source in self._inbox.take(_PACKETS_PER_STEP):
            if self._networks.include(source[0]):
                core.receive_packet(data, source, now)
        core.advance(now)
        self._effects.perform(core.take_output())
