"""The end of what a program or a server wrote, in bounded memory."""

from __future__ import annotations


class OutputTail:
    """The last `limit` bytes of what a check wrote, and how many there were."""

    __slots__ = ("_kept", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._kept = bytearray()

    def write(self, data: bytes) -> None:
        self.total += len(data)
        self._kept += data[-self.limit :]
        if len(self._kept) > self.limit:
            del self._kept[: -self.limit]

    def text(self) -> str:
        """Cut at the limit; a character that was cut in two is replaced."""
        return self._kept.decode("utf-8", "replace")

    def marked_text(self) -> str:
        """As `text`, saying first how much of it is there when it was cut."""
        if self.total <= self.limit:
            return self.text()
        return f"Captured {len(self._kept)} of {self.total} bytes\n...\n{self.text()}"
