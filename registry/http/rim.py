"""What happens to every request before its handler and to every answer after it.

Both ways into the API, the Starlette application and the short way of `registry.http.protocol`,
hand over an `Incoming` and get a finished answer: status, headers, body bytes. So every rule of
surface 1.1 is applied once, here, in the order in which clients can observe it: unprintable paths,
redirects, unknown paths, bad query strings, blocked endpoints, OPTIONS, methods, restricted
writers, then the handler.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import msgspec

from registry.agent.durations import format_duration
from registry.agent.facade import AgentFacade
from registry.agent.metrics import Timer
from registry.errors import ConfigError
from registry.http import compression, params
from registry.http.api import ApiRequest, ApiResponse, HttpError, decode_path, text_response
from registry.http.caching import AnswerCache
from registry.http.errors import to_response
from registry.http.routing import (
    Endpoint,
    Match,
    Router,
    has_bad_escape,
    is_printable,
    location,
)
from registry.http.surroundings import Surroundings

logger = logging.getLogger("registry.http")

#: Of a longer URL the log shows the beginning: anybody could fill the disk with a few requests.
_SHOWN_URL_MAX = 2048

BLOCKED = "Endpoint is blocked by agent configuration"
RESTRICTED = "Access is restricted"

HTML_TYPE = "text/html; charset=utf-8"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADERS_KEY = "http_config.response_headers"

#: Methods that change nothing and pass `allow_write_http_from`.
READING = frozenset({"GET", "HEAD", "OPTIONS"})

#: Families whose endpoints know of namespaces, and so refuse them.
NAMESPACED = (
    "/v1/kv/",
    "/v1/session/",
    "/v1/catalog/",
    "/v1/health/",
    "/v1/agent/service",
    "/v1/agent/check",
    "/v1/agent/maintenance",
    "/v1/agent/health/",
    "/v1/config",
    "/v1/internal/ui/",
)


@dataclass(slots=True)
class Incoming:
    """A request as a server reads it from the wire."""

    method: str
    raw_path: bytes
    query: bytes
    headers: Mapping[str, str]  # names in lower case
    read_body: Callable[[int | None], Awaitable[bytes]]
    client: tuple[str, int] = ("", 0)


class Rim:
    """The rules around the handlers of one agent."""

    def __init__(
        self, agent: AgentFacade, router: Router, surroundings: Surroundings | None = None
    ) -> None:
        self.agent = agent
        self.fit(router, surroundings)
        self.cache = AnswerCache()
        self._timers: dict[tuple[str, str], Timer] = {}
        self.configure(agent)

    def fit(self, router: Router, surroundings: Surroundings | None = None) -> None:
        """Serve by these from the next request on."""
        self.router = router
        # None without any, so that a request is not asked about plugins.
        self._surroundings = surroundings or None
        plugins = self.agent.plugins
        #: Which contributions of plugins this is as of.
        self.plugin_generation = plugins.generation if plugins is not None else 0

    def configure(self, agent: AgentFacade) -> None:
        """Take the rules from the agent's configuration; call it again after a reload."""
        config = agent.config
        self.agent = agent
        self._pretty_always = config.dev_mode
        self._filter_unprintable = not config.disable_http_unprintable_char_filter
        self._blocked = tuple(config.http_config.block_endpoints)
        self._writers = tuple(
            ipaddress.ip_network(network, strict=False)
            for network in config.http_config.allow_write_http_from
        )
        self._extra_headers = list(config.http_config.response_headers.items())
        for name, _ in self._extra_headers:
            if not _HEADER_NAME.fullmatch(name):
                raise ConfigError(f'"{name}" is no header name', field=_HEADERS_KEY)
        if config.translate_wan_addrs:
            self._extra_headers.append(("X-Consul-Translate-Addresses", "true"))

    async def answer(self, incoming: Incoming) -> ApiResponse:
        """The finished answer; raises nothing but `CancelledError`."""
        raw_path = incoming.raw_path
        if has_bad_escape(raw_path):
            return self._unserved(text_response("400 Bad Request", 400))
        path = raw_path.decode("ascii") if raw_path.isascii() and b"%" not in raw_path else ""
        path = path or decode_path(raw_path)
        if self._filter_unprintable and not is_printable(path):
            return self._unserved(ApiResponse(400))
        if (target := self.router.redirect(path)) is not None:
            return self._unserved(_redirection(incoming, location(target, incoming.query)))
        match = self.router.find(path)
        if match is None:
            return self._unserved(ApiResponse(404))
        return await self._serve(incoming, path, match)

    async def _serve(self, incoming: Incoming, path: str, match: Match) -> ApiResponse:
        started = time.perf_counter_ns()
        pretty = self._pretty_always
        try:
            query = params.parse_query(incoming.query)
        except ValueError as problem:
            logger.error("Failed to decode query: from=%s error=%s", _address(incoming), problem)
            return self._finish(ApiResponse(500), pretty=False, accept_encoding=None)
        pretty = pretty or "pretty" in query
        request = ApiRequest(
            agent=self.agent,
            method=incoming.method,
            path=path,
            argument=match.argument,
            query=query,
            headers=incoming.headers,
            read_body=incoming.read_body,
            client=incoming.client,
            pattern=match.endpoint.pattern,
            cache=self.cache,
        )
        try:
            if self._surroundings is None:
                response = await self._handle(request, match.endpoint)
            else:
                response = await self._surroundings.answer(
                    request,
                    incoming.query,
                    lambda: self._handle_safely(request, incoming, match.endpoint),
                )
        except Exception as problem:  # the rim of a request: whatever went wrong, it is answered
            self._log_error(request, incoming, problem)
            response = to_response(problem)
        took_ns = time.perf_counter_ns() - started
        self._timer(request).add(took_ns / 1_000_000)
        if logger.isEnabledFor(logging.DEBUG):
            self._log_finished(request, incoming, took_ns)
        return self._finish(response, pretty, incoming.headers.get("accept-encoding"))

    async def _handle_safely(
        self, request: ApiRequest, incoming: Incoming, endpoint: Endpoint
    ) -> ApiResponse:
        try:
            return await self._handle(request, endpoint)
        except Exception as problem:  # as in `_serve`
            self._log_error(request, incoming, problem)
            return to_response(problem)

    async def _handle(self, request: ApiRequest, endpoint: Endpoint) -> ApiResponse:
        if self._blocked and request.path.startswith(self._blocked):
            raise HttpError(403, BLOCKED)
        method = request.method
        handler = endpoint.handlers.get(method)
        if handler is None:
            if method == "OPTIONS":
                return ApiResponse(headers=[("Allow", endpoint.allow)])
            raise HttpError(405, f"method {method} not allowed", (("Allow", endpoint.allow),))
        if "cached" in request.query:
            self.cache.attach(request)
        if self._writers and method not in READING:
            self._check_writer(request.client[0])
        if request.pattern.startswith(NAMESPACED):
            params.refuse_namespace(request)
        return await handler(request)

    def _check_writer(self, address: str) -> None:
        """A client on a unix socket has no address and so is in none of the networks."""
        try:
            client = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            raise HttpError(403, RESTRICTED) from None
        mapped = getattr(client, "ipv4_mapped", None) or client
        if not any(mapped in network for network in self._writers):
            raise HttpError(403, RESTRICTED)

    def _unserved(self, response: ApiResponse) -> ApiResponse:
        """What no endpoint answers: the same whatever encoding the client accepts."""
        if response.content_type:
            response.headers.append(("Content-Type", response.content_type))
        return self._with_extra_headers(response)

    def _finish(
        self, response: ApiResponse, pretty: bool, accept_encoding: str | None
    ) -> ApiResponse:
        """Spell the body and the headers as they go out."""
        headers, body = response.headers, response.body
        if response.is_json and body:
            body = _escape(body)
            if pretty:
                body = msgspec.json.format(body, indent=4) + b"\n"
            response.is_json = False
        headers.append(("Vary", "Accept-Encoding"))
        if response.content_type:
            headers.append(("Content-Type", response.content_type))
        if body and accept_encoding and compression.accepts_gzip(accept_encoding):
            body = compression.compress(body)
            headers.append(("Content-Encoding", "gzip"))
        response.body = body
        return self._with_extra_headers(response)

    def _with_extra_headers(self, response: ApiResponse) -> ApiResponse:
        if self._extra_headers:
            headers = response.headers
            given = {name.lower() for name, _ in headers}
            headers.extend(item for item in self._extra_headers if item[0].lower() not in given)
        return response

    def _timer(self, request: ApiRequest) -> Timer:
        key = (request.method, request.pattern)
        timer = self._timers.get(key)
        if timer is None:
            timer = self._timers[key] = self.agent.metrics.timer(_metric_name(*key))
        return timer

    def _log_error(self, request: ApiRequest, incoming: Incoming, problem: Exception) -> None:
        logger.error(
            "Request error: method=%s url=%s from=%s error=%s",
            request.method,
            _shown_url(request, incoming),
            _address(incoming),
            _quoted(str(problem)),
        )

    def _log_finished(self, request: ApiRequest, incoming: Incoming, took_ns: int) -> None:
        logger.debug(
            "Request finished: method=%s url=%s from=%s latency=%s",
            request.method,
            _shown_url(request, incoming),
            _address(incoming),
            format_duration(took_ns),
        )


def _escape(body: bytes) -> bytes:
    """JSON with `<`, `>`, `&` spelt as escapes: outside of strings JSON has none of them."""
    if b"<" in body:
        body = body.replace(b"<", b"\\u003c")
    if b">" in body:
        body = body.replace(b">", b"\\u003e")
    if b"&" in body:
        body = body.replace(b"&", b"\\u0026")
    if b"\xe2\x80" in body:
        body = body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return body


def _redirection(incoming: Incoming, target: str) -> ApiResponse:
    response = ApiResponse(301, headers=[("Location", target)])
    if incoming.method in ("GET", "HEAD"):
        response.content_type = HTML_TYPE
    if incoming.method == "GET":
        response.body = f'<a href="{escape(target)}">Moved Permanently</a>.\n\n'.encode()
    return response


def _metric_name(method: str, pattern: str) -> str:
    """`http.GET.v1.kv._`: an underscore where an argument stands."""
    parts = [part or "_" for part in pattern[1:].split("/")]
    return ".".join(["http", method, *parts])


def _address(incoming: Incoming) -> str:
    host, port = incoming.client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shown_url(request: ApiRequest, incoming: Incoming) -> str:
    """The URL as it came, with tokens hidden: those in the query and those in ACL paths."""
    url = incoming.raw_path.decode("latin-1")
    if incoming.query:
        url += "?" + incoming.query.decode("latin-1")
    for token in request.query.get_all("token"):
        url = url.replace(token, "<hidden>") if token else url + "<hidden>"
    if request.pattern.startswith("/v1/acl/") and request.argument:
        url = url.replace(request.argument.partition("/")[0], "<hidden>")
    if len(url) > _SHOWN_URL_MAX:
        url = f"{url[:_SHOWN_URL_MAX]}…({len(url)} characters)"
    return url


def _quoted(text: str) -> str:
    if not text or any(letter in text for letter in ' ="\n'):
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return text


def encode_headers(response: ApiResponse) -> list[tuple[bytes, bytes]]:
    """Header names as they are spelt on the wire, values without line breaks."""
    return [(name.encode("ascii"), encode_value(value)) for name, value in response.headers]


def encode_value(value: Any) -> bytes:
    text = str(value)
    if "\n" in text or "\r" in text:
        text = " ".join(text.split())
    return text.encode("utf-8", "surrogateescape")
