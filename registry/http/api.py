"""What a handler is given and what it gives back, and the table that routes requests to handlers.

Handlers are plain async functions from an `ApiRequest` to an `ApiResponse`; they know neither
Starlette nor uvicorn, so the same functions serve the Starlette application and the short way for
the hottest requests (design, decision 4). Each API family is one module with its own `Routes`
table; `registry.http.app` joins the tables.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from registry.agent.facade import AgentFacade
from registry.errors import RegistryError
from registry.http.operations import Operation
from registry.state.base import ReadResult

if TYPE_CHECKING:
    from registry.http.caching import AnswerCache, CachedAnswer

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"

encode_json = msgspec.json.Encoder().encode


class HttpError(RegistryError):
    """Answer with this status and this text, and nothing else."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.status, self.text, self.headers = status, text, headers
        super().__init__(text)


class Parameters:
    """The query string, decoded; a name may occur several times, order is kept.

    In text, bytes that are no UTF-8 are U+FFFD, as they are in JSON: whatever a parameter says can
    be stored, sent and shown. `get_bytes` has a value as it came.
    """

    __slots__ = ("_first", "_values")

    def __init__(self, pairs: list[tuple[str, bytes]]) -> None:
        self._first: dict[str, bytes] = {}
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._first.setdefault(name, value)
            self._values.setdefault(name, []).append(value.decode("utf-8", "replace"))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: str = "") -> str:
        """The first value of `name`, as Consul takes it."""
        values = self._values.get(name)
        return values[0] if values else default

    def get_bytes(self, name: str) -> bytes:
        """The first value of `name` as it came, b"" without one."""
        return self._first.get(name, b"")

    def get_all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def pairs(self) -> list[tuple[str, str]]:
        """Every name with each of its values."""
        return [(name, value) for name, values in self._values.items() for value in values]


@dataclass(slots=True)
class ApiRequest:
    """One request as a handler sees it."""

    agent: AgentFacade
    method: str
    path: str  # decoded, without the query
    argument: str  # what stands where the route's pattern ends in "/": the key, name or id
    query: Parameters
    headers: Mapping[str, str]  # names in lower case
    read_body: Callable[[int | None], Awaitable[bytes]]  # argument: limit in bytes (413 beyond)
    client: tuple[str, int] = ("", 0)
    pattern: str = ""  # the pattern of the route that matched
    #: The agent's cache of answers, and what this request's `?cached` found in it.
    cache: AnswerCache | None = None
    cached: CachedAnswer | None = None

    async def body(self, limit: int | None = None) -> bytes:
        """The whole body; HttpError 413 when over `limit` bytes."""
        return await self.read_body(limit)


@dataclass(slots=True)
class ApiResponse:
    """Status, body, content type ("" = no Content-Type header) and further headers."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    #: JSON that `pretty` may re-indent; set by `json_response`.
    is_json: bool = False
    #: Instead of `body`: chunks as they come (monitor, snapshot).
    stream: AsyncIterator[bytes] | None = None


def json_response(value: Any, meta: ReadResult | None = None, status: int = 200) -> ApiResponse:
    """JSON with, for reads, the index headers. Escaping `<>&` and `pretty` are the rim's work."""
    response = ApiResponse(status, encode_json(value), JSON_TYPE, is_json=True)
    if meta is not None:
        response.headers = index_headers(meta)
    return response


def text_response(text: str, status: int = 200) -> ApiResponse:
    return ApiResponse(status, text.encode("utf-8", "surrogateescape"), TEXT_TYPE)


def empty_response(status: int = 200, meta: ReadResult | None = None) -> ApiResponse:
    return ApiResponse(status, headers=index_headers(meta) if meta is not None else [])


def index_headers(meta: ReadResult) -> list[tuple[str, str]]:
    """`X-Consul-Index` (never 0), `X-Consul-KnownLeader`, `X-Consul-LastContact` (ms)."""
    return [
        ("X-Consul-Index", str(meta.index or 1)),
        ("X-Consul-Knownleader", "true" if meta.known_leader else "false"),
        ("X-Consul-Lastcontact", str(meta.last_contact_ms)),
    ]


Handler = Callable[[ApiRequest], Awaitable[ApiResponse]]


class Route(NamedTuple):
    """What serves one method of a pattern, and what the API's document says of it."""

    handler: Handler
    operations: tuple[Operation, ...] = ()


class Routes:
    """A family's table: pattern -> method -> route.

    A pattern is an exact path, or ends in "/" and then matches any suffix, which becomes
    `request.argument` verbatim after percent-decoding (surface 1.1). The longest pattern wins.
    Every route says what it takes and answers, one `Operation` for each form of its path;
    `/v1/openapi.json` is made of that.
    """

    def __init__(self) -> None:
        self.table: dict[str, dict[str, Route]] = {}

    def add(
        self, method: str, pattern: str, *operations: Operation
    ) -> Callable[[Handler], Handler]:
        """Decorator: serve `method pattern` by this handler. The order of methods is that of
        `Allow`, which is GET, POST, PUT, DELETE as far as they are there."""

        def register(handler: Handler) -> Handler:
            self.table.setdefault(pattern, {})[method] = Route(handler, operations)
            return handler

        return register

    def get(self, pattern: str, *operations: Operation) -> Callable[[Handler], Handler]:
        return self.add("GET", pattern, *operations)

    def put(self, pattern: str, *operations: Operation) -> Callable[[Handler], Handler]:
        return self.add("PUT", pattern, *operations)

    def post(self, pattern: str, *operations: Operation) -> Callable[[Handler], Handler]:
        return self.add("POST", pattern, *operations)

    def delete(self, pattern: str, *operations: Operation) -> Callable[[Handler], Handler]:
        return self.add("DELETE", pattern, *operations)


def decode_path(raw: bytes) -> str:
    """A request path as text; bytes that are no UTF-8 are kept, as surrogates."""
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")
