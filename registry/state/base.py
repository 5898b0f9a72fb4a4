"""What every command and query has in common, and the transaction that a command runs in.

A family module (`kv`, `sessions`, `prepared`, …) defines its records, tables, commands and queries
together; the catalog, the largest, has several. `registry.state.machine` lists them all;
nothing else needs to know a family's insides.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from registry.state.overlay import Overlay
from registry.state.topics import Topic
from registry.storage.keys import STATE, decode_u64, encode_parts, encode_u64
from registry.storage.store import Reader

_INDEX_PREFIX = STATE + encode_parts("index")


class Transaction(Overlay):
    """The state as the commands of one batch see and change it, one after another, and the topics
    that they touched.

    `begin` opens the next command; `index` and `now_ms` are then its log index and the time that
    the leader stamped it with, the only clock there is in here. `undo` takes back all that the
    command did.
    """

    __slots__ = ("_mark", "index", "now_ms", "touched")

    def __init__(self, below: Reader, index: int = 0, now_ms: int = 0) -> None:
        super().__init__(below)
        self.index = index
        self.now_ms = now_ms
        #: Topics in the order in which they were touched; they may repeat.
        self.touched: list[Topic] = []
        self._mark = 0

    def begin(self, index: int, now_ms: int) -> None:
        self.settle()
        self.index = index
        self.now_ms = now_ms
        self._mark = len(self.touched)

    def undo(self) -> None:
        self.rollback(0)
        del self.touched[self._mark :]

    def touch(self, *topics: Topic) -> None:
        self.touched.extend(topics)

    def raise_index(self, name: str) -> None:
        """Set the named index ("kvs", "nodes", "service.web", …) to this command's index."""
        self.put(_INDEX_PREFIX + name.encode("utf-8", "surrogateescape"), encode_u64(self.index))

    def drop_index(self, name: str) -> None:
        self.delete(_INDEX_PREFIX + name.encode("utf-8", "surrogateescape"))


def max_index(reader: Reader, *names: str) -> int:
    """The highest of the named indexes; 0 when none was ever raised."""
    found = 0
    for name in names:
        raw = reader.get(_INDEX_PREFIX + name.encode("utf-8", "surrogateescape"))
        if raw is not None:
            found = max(found, decode_u64(raw))
    return found


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asked for a write, for those who follow changes; nothing depends on it."""

    client: str = ""  # the address of an HTTP client
    reason: str = ""  # what the client said it does it for


class Command(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """One typed change. `apply` depends on nothing but the transaction (style, section 9).

    Subclasses set `tag="family-verb"`; a tag's meaning never changes once released. Whatever the
    command needs of chance (ids) is a field that the leader fills in `stamped` before proposing. A
    refusal is a *returned* `Refused`, not an exception; what the command changed until then is
    undone by the caller.
    """

    #: The leader's wall clock when it proposed the command, in ms since 1970; 0 = not yet stamped.
    now_ms: int = 0
    origin: Origin | None = None

    def stamped(self, now_ms: int) -> Command:
        """A copy with the leader's wall-clock time and fresh ids filled in."""
        return msgspec.structs.replace(self, now_ms=now_ms)

    def apply(self, tx: Transaction) -> Any:
        raise NotImplementedError


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why a command was refused: the same on every replica.

    `kind` chooses the HTTP status in `registry.http.errors`: "invalid" is 500 with the text (what
    Consul's servers answer), "bad-request" 400, "not-found" 404, "conflict" 409.
    """

    reason: str
    kind: str = "invalid"


class Query(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """One typed read: a pure function of itself and the state.

    `run` gives `(index, value)`, the index being what `X-Consul-Index` says: 0 is turned into 1 by
    the caller. `topics` names what the answer depends on, as narrowly as can be told without
    running it; a blocking read sleeps on them.
    """

    #: Whether `X-Consul-Effective-Consistency` is sent (catalog, health and query reads).
    tells_consistency: ClassVar[bool] = False

    def run(self, reader: Reader) -> tuple[int, Any]:
        raise NotImplementedError

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        raise NotImplementedError


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a read is to be answered. Times in milliseconds."""

    datacenter: str = ""
    mode: str = "default"  # "default", "stale" or "consistent"
    max_stale_ms: int | None = None
    min_index: int = 0  # block until the index is greater; 0 never blocks
    wait_ms: int = 0  # already defaulted, capped and jittered


class ReadResult(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with what the response headers say about it."""

    index: int
    value: Any
    known_leader: bool = True
    last_contact_ms: int = 0
    mode: str = "default"  # the mode it was really answered in
