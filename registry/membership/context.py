"""What the parts of the Serf core share: who we are, whom we know, and where effects go."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from registry.membership.addresses import Address, pack_ip
from registry.membership.filters import PatternCompiler
from registry.membership.key_queries import Ring
from registry.membership.member_table import MemberTable
from registry.membership.seam import Notice
from registry.membership.serf_config import SerfConfig
from registry.membership.serf_values import (
    Deliver,
    Event,
    Member,
    MemberStatus,
    SerfOutput,
)


class LowerLayer(Protocol):
    """What the Serf layer asks of the SWIM core below it."""

    def send_user(self, address: Address, data: bytes) -> None:
        """One packet with a Serf message straight to an address."""
        ...

    def rejoin(self, address: Address) -> None:
        """One push/pull with Join set; nobody waits for how it goes."""
        ...

    def leave(self) -> None:
        """Spread that we are dead by our own will; `SerfCore.swim_left` follows once it is out."""
        ...

    def update_meta(self, meta: bytes) -> None: ...
    def forget(self, name: str) -> None:
        """Drop a dead or left node at once."""
        ...

    @property
    def has_hearers(self) -> bool:
        """Whether gossip goes to anybody: for a while also to those who are taken for dead."""
        ...


class Phase(enum.Enum):
    """Where this member is in its life."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"


@dataclass(slots=True, kw_only=True)
class SerfContext:
    config: SerfConfig
    name: str
    address: Address
    tags: Mapping[str, str]
    rng: random.Random
    compile_pattern: PatternCompiler
    members: MemberTable
    lower: LowerLayer
    gossip_interval_ms: int
    ring: Ring | None = None
    now_ms: int = 0
    phase: Phase = Phase.ALIVE
    outputs: list[SerfOutput] = field(default_factory=list)
    #: Messages that could not be read, or that nobody should have sent.
    refused: int = 0

    @property
    def packed_address(self) -> bytes:
        return pack_ip(self.address[0])

    def deliver(self, event: Event) -> None:
        self.outputs.append(Deliver(event))

    def note(self, text: str, *, is_warning: bool = True) -> None:
        self.outputs.append(Notice(text, is_warning))

    def refuse(self, problem: Exception) -> None:
        """Count, and note for who looks for it, that a message was dropped."""
        self.refused += 1
        self.note(f"message dropped: {problem}", is_warning=False)

    def alive_others(self) -> list[Member]:
        alive = self.members.having(MemberStatus.ALIVE)
        return [member for member in alive if member.name != self.name]
