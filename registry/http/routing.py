"""From a path to the handlers behind it, with the rules of paths that clients see (surface 1.1).

Patterns are exact paths or end in "/" and then take any suffix; the longest wins. A path that only
misses the final slash of a pattern, or that is not clean, is redirected (301).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import quote

from registry.http.api import Handler, Route, Routes
from registry.http.operations import Operation

#: The order in which `Allow` lists what a pattern serves.
METHOD_ORDER = ("GET", "POST", "PUT", "DELETE")

#: What a path may hold unescaped in a Location header.
_SAFE_IN_PATH = "$&+,/:;=@~"

_BAD_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One pattern: its handlers by method, what `Allow` says, what the document says."""

    pattern: str
    handlers: dict[str, Handler]
    allow: str
    operations: dict[str, tuple[Operation, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    endpoint: Endpoint
    argument: str


class Router:
    """All families' tables joined. Raises `ValueError` when two of them claim one operation."""

    def __init__(self, tables: Iterable[Routes] = ()) -> None:
        self._exact: dict[str, Match] = {}
        self._prefixes: dict[str, Endpoint] = {}
        self._depth_max = 0
        for table in tables:
            self.include(table)

    def include(self, table: Routes) -> None:
        for pattern, routes in table.table.items():
            for method, route in routes.items():
                self.add(method, pattern, route)

    def add(self, method: str, pattern: str, route: Route) -> None:
        known = self.endpoint(pattern)
        handlers = dict(known.handlers) if known else {}
        operations = dict(known.operations) if known else {}
        if method in handlers:
            raise ValueError(f"{method} {pattern} is served twice")
        handlers[method], operations[method] = route
        methods = [name for name in METHOD_ORDER if name in handlers]
        allow = ",".join(["OPTIONS", *methods])
        endpoint = Endpoint(pattern, handlers, allow, operations)
        self._exact[pattern] = Match(endpoint, "")
        if pattern.endswith("/"):
            self._prefixes[pattern] = endpoint
            self._depth_max = max(self._depth_max, pattern.count("/"))

    def endpoint(self, pattern: str) -> Endpoint | None:
        match = self._exact.get(pattern)
        return match.endpoint if match else None

    def endpoints(self) -> list[Endpoint]:
        """All of them, by pattern."""
        return [self._exact[pattern].endpoint for pattern in sorted(self._exact)]

    def find(self, path: str) -> Match | None:
        """The endpoint of a clean path and the path's rest."""
        if (match := self._exact.get(path)) is not None:
            return match
        best, cut = None, 0
        end = path.find("/", 1)
        for _ in range(self._depth_max):
            if end < 0:
                break
            endpoint = self._prefixes.get(path[: end + 1])
            if endpoint is not None:
                best, cut = endpoint, end + 1
            end = path.find("/", end + 1)
        return Match(best, path[cut:]) if best is not None else None

    def redirect(self, path: str) -> str | None:
        """Where a request for `path` is sent instead, None when it is served as it is."""
        clean = clean_path(path)
        if clean not in self._exact and clean + "/" in self._prefixes:
            return clean + "/"
        return clean if clean != path else None


def clean_path(path: str) -> str:
    """Without empty, "." and ".." parts; a final slash is kept."""
    if not path.startswith("/"):
        path = "/" + path
    if "//" not in path and "/." not in path:
        return path
    clean = posixpath.normpath(path).replace("//", "/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def has_bad_escape(raw_path: bytes) -> bool:
    return b"%" in raw_path and _BAD_ESCAPE.search(raw_path) is not None


def is_printable(path: str) -> bool:
    """Whether a decoded path can be printed; bytes that are no UTF-8 count as printable."""
    if path.isprintable():
        return True
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace").isprintable()


def location(path: str, query: bytes) -> str:
    """A path as a Location header spells it, with the request's query."""
    target = quote(path.encode("utf-8", "surrogateescape"), safe=_SAFE_IN_PATH)
    return f"{target}?{query.decode('latin-1')}" if query else target
