"""Events, on their way to whoever listens: counted, and changes of members also logged."""

from __future__ import annotations

import logging

from registry.membership.serf_values import Deliver, MemberEvent, MemberEventKind, UserEvent
from registry.membership.settings import Meter
from registry.membership.shell.listeners import Listeners

#: Changes of members in the log, as operators look for them.
_SHOWN = {
    MemberEventKind.JOIN: "MemberJoin",
    MemberEventKind.LEAVE: "MemberLeave",
    MemberEventKind.FAILED: "MemberFailed",
    MemberEventKind.UPDATE: "MemberUpdate",
    MemberEventKind.REAP: "MemberReap",
}


class Delivery:
    def __init__(self, listeners: Listeners, meter: Meter, log: logging.Logger) -> None:
        self._listeners = listeners
        self._meter = meter
        self._log = log

    def deliver(self, output: Deliver) -> None:
        event = output.event
        if isinstance(event, MemberEvent):
            self._meter.count(f"serf.{event.kind.value.replace('-', '.')}")
            self._log.info(
                "serf: Event%s: %s %s",
                _SHOWN[event.kind],
                event.member.name,
                event.member.address,
            )
        elif isinstance(event, UserEvent):
            self._meter.count("serf.events", event=event.name)
        else:
            self._meter.count("serf.queries", query=event.name)
        self._listeners.put(event)
