"""The root of every exception that this project raises on purpose.

Errors carry fields; the message is made from them and names the remedy. Foreign exceptions are
translated where they enter. HTTP statuses are mapped once, in `registry.http.errors`.
"""

from __future__ import annotations


class RegistryError(Exception):
    """Base of all our exceptions; `str()` is one line that a user can act on."""


class Rejected(RegistryError):
    """Understood and refused; repeating the same request gives the same answer."""


class NotFound(Rejected):
    """The named thing does not exist."""


class PermissionDenied(Rejected):
    """The caller may not do this."""


class SessionInvalid(Rejected):
    """A lock operation named a session that does not exist."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f'invalid session "{session_id}"')


class TooLarge(Rejected):
    """A value or a request is over its limit."""


class Unavailable(RegistryError):
    """Right request, wrong moment: it may succeed when repeated."""


class NoLeader(Unavailable):
    """No leader is known, so nothing can be committed or read in the default mode."""

    def __init__(self) -> None:
        super().__init__("No cluster leader")


class NoPath(Unavailable):
    """No server of the datacenter that was asked for is known."""

    def __init__(self) -> None:
        super().__init__("No path to datacenter")


class NotLeader(Unavailable):
    """This server does not lead; `leader_id` is the one that does, as far as is known."""

    def __init__(self, leader_id: str | None) -> None:
        self.leader_id = leader_id
        super().__init__(f"not the leader; the leader is {leader_id or 'unknown'}")


class Overloaded(Unavailable):
    """A queue is full; the request was refused before anything was done."""


class TimedOut(Unavailable):
    """No answer in time; whether the request took effect is unknown."""


class OutcomeUnknown(Unavailable):
    """A proposal was appended, then leadership was lost: it may or may not take effect (R-66)."""


class Unreachable(Unavailable):
    """No connection to a peer, so nothing was sent: asking another one, or later, is safe."""

    def __init__(self, address: str, reason: str, *, refused: bool = False) -> None:
        """`refused`: the host is there, and no program listens."""
        self.address, self.reason, self.refused = address, reason, refused
        super().__init__(f"cannot reach {address}: {reason}")


class ConnectionLost(Unavailable):
    """The connection ended between request and answer: whether it took effect is unknown."""

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"lost the connection to {address}: {reason}")


class ProtocolError(RegistryError):
    """Somebody broke a protocol."""


class LocalProtocolError(ProtocolError):
    """Our own caller broke a contract."""


class RemoteProtocolError(ProtocolError):
    """A peer sent what it must not send."""


class StorageError(RegistryError):
    """The data directory cannot be used; the message says why and what to do."""


class Corrupt(StorageError):
    """Stored bytes are not what was written."""


class DiskFull(StorageError):
    """No room left on the device that holds the data directory."""


class Locked(StorageError):
    """Another process has the data directory open."""


class NewerFormat(StorageError):
    """The data directory was written by a newer version of this program."""


def _one_line(text: str) -> str:
    """`text` with control characters escaped: what a user wrote must not break the line."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class ConfigError(RegistryError):
    """A configuration file, flag or definition is wrong: which, where and why."""

    def __init__(self, reason: str, *, file: str | None = None, field: str | None = None) -> None:
        self.file, self.field, self.reason = file, field, reason
        where = ": ".join(part for part in (file, field) if part)
        super().__init__(_one_line(f"{where}: {reason}" if where else reason))


class PluginError(RegistryError):
    """A plugin raised, hung or returned nonsense in one of its hooks."""

    def __init__(self, plugin: str, hook: str, reason: str) -> None:
        self.plugin, self.hook, self.reason = plugin, hook, reason
        super().__init__(f"plugin {plugin} failed in {hook}: {reason}")
