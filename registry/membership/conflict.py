"""Two nodes with one name: the pool votes who keeps it.

Whoever hears its own name from another address asks everybody whom they know by it. Those who know
somebody at our address vote for us. Without a majority of the answers we go, without leaving: a
leave intent would carry the name, and put out the other node.

Source: gossip sheet, section 8.7.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import RemoteProtocolError
from registry.membership.serf_messages import ConflictResponse, decode

QUERY = "_serf_conflict"


@dataclass(slots=True)
class Vote:
    """Counts what was answered about the node at `address` and `port`: us."""

    address: bytes
    port: int
    answers: int = 0
    matching: int = 0

    def count(self, payload: bytes) -> None:
        """An answer that is none is not counted."""
        try:
            response = decode(payload)
        except RemoteProtocolError:
            return
        if isinstance(response, ConflictResponse):
            self.answers += 1
            self.matching += (response.address, response.member.port) == (self.address, self.port)

    @property
    def is_won(self) -> bool:
        return self.matching >= self.answers // 2 + 1
