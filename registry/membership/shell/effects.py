"""What the cores want done, handed to whoever does it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from registry.membership.pool_core import PoolOutput
from registry.membership.seam import (
    JoinFinished,
    JoinUnconfirmed,
    Notice,
    OpenStream,
    SendPacket,
)
from registry.membership.serf_values import (
    Deliver,
    Left,
    NameLost,
    PersistKeyring,
    QueryAnswer,
    QueryClosed,
)
from registry.membership.settings import Meter
from registry.membership.shell.answers import Answers
from registry.membership.shell.delivery import Delivery
from registry.membership.shell.files import PoolFiles
from registry.membership.shell.joins import Joins
from registry.membership.shell.live_core import LiveCore
from registry.membership.shell.sockets import PacketInbox
from registry.membership.shell.streams import Streams
from registry.membership.snapshot import SnapshotWrite


class Effects:
    """The outputs of `PoolCore.take_output`, in their order."""

    def __init__(
        self,
        *,
        live: LiveCore,
        inbox: PacketInbox,
        streams: Streams,
        joins: Joins,
        answers: Answers,
        files: PoolFiles,
        delivery: Delivery,
        meter: Meter,
        log: logging.Logger,
    ) -> None:
        self._live = live
        self._inbox = inbox
        self._meter = meter
        self._log = log
        self._performers: dict[type[Any], Callable[[Any], None]] = {
            SendPacket: self._send,
            OpenStream: streams.open,
            JoinFinished: joins.finished,
            JoinUnconfirmed: joins.unconfirmed,
            Deliver: delivery.deliver,
            QueryAnswer: answers.put,
            QueryClosed: answers.put,
            PersistKeyring: files.persist_keyring,
            SnapshotWrite: files.write_snapshot,
            Left: self._end,
            NameLost: self._lose_name,
            Notice: self._notice,
        }

    def perform(self, outputs: Sequence[PoolOutput]) -> None:
        for output in outputs:
            self._performers[type(output)](output)

    def _send(self, output: SendPacket) -> None:
        if self._inbox.send(output.data, output.address):
            self._meter.count("memberlist.udp.sent", len(output.data))

    def _end(self, output: Left) -> None:
        self._live.left.set()

    def _lose_name(self, output: NameLost) -> None:
        self._live.lost = output

    def _notice(self, output: Notice) -> None:
        level = logging.WARNING if output.is_warning else logging.DEBUG
        self._log.log(level, "%s", output.text)
