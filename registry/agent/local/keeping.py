"""What survives a restart: registrations over HTTP and the states of TTL checks.

An agent without a data directory keeps nothing; the others need not know which it is.
"""

from __future__ import annotations

from registry.agent.clock import Clock
from registry.agent.definitions import SECOND, CheckDefinition
from registry.agent.local.records import FROM_API
from registry.agent.persistence import Changes, Persistence, Stored, TtlState


class Keeper:
    """Writes to the data directory, if there is one, and holds what it had of TTL checks."""

    def __init__(self, persistence: Persistence | None, clock: Clock) -> None:
        self._persistence = persistence
        self._clock = clock
        self._states: dict[str, TtlState] = {}  # as stored, until their checks are registered

    async def load(self) -> Stored:
        """What was kept; TTL states that have not expired are from now on in `stored_state`."""
        if self._persistence is None:
            return Stored()
        stored = await self._persistence.load()
        now = self._clock.wall()
        self._states = {
            check_id: state for check_id, state in stored.states.items() if state.expires > now
        }
        return stored

    async def store(self, changes: Changes, source: str = FROM_API) -> None:
        """Safe when it returns; what files define needs no keeping. Raises `StorageError`."""
        if self._persistence is not None and source == FROM_API:
            await self._persistence.apply(changes)

    def stored_state(self, check_id: str) -> TtlState | None:
        """What the TTL check last reported before the restart."""
        return self._states.get(check_id)

    def forget_stored_states(self) -> None:
        """The restart is over: a check that is registered now is a new one."""
        self._states = {}

    def note_report(self, definition: CheckDefinition, status: str, output: str) -> None:
        """Keep what the application has just reported of a TTL check."""
        if self._persistence is not None:
            expires = self._clock.wall() + definition.ttl_ns / SECOND
            self._persistence.note_state(
                TtlState(check_id=definition.id, status=status, output=output, expires=expires)
            )

    def drop_state(self, check_id: str) -> None:
        if self._persistence is not None:
            self._persistence.drop_state(check_id)

    async def run(self) -> None:
        """Write TTL states until cancelled."""
        if self._persistence is not None:
            await self._persistence.run()

    async def aclose(self) -> None:
        if self._persistence is not None:
            await self._persistence.aclose()
