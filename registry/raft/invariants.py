"""The error for what must never be: a broken promise stops the server (R-6)."""

from __future__ import annotations

from registry.errors import RegistryError


class BrokenPromise(RegistryError):
    """Something happened that the protocol rules out: a bug, a disk that forgot, two servers with
    one identity. The core is in an undefined state afterwards; `facts` is the dump to log."""

    def __init__(self, what: str, /, **facts: object) -> None:
        self.what, self.facts = what, facts
        dump = " ".join(f"{name}={value}" for name, value in facts.items())
        super().__init__(f"raft must stop: {what} ({dump})")
