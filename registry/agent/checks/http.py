"""HTTP checks: one request; 2xx is passing, 429 a warning, everything else critical."""

from __future__ import annotations

import re

from registry.agent.checks.base import CRITICAL, PASSING, WARNING, CheckContext
from registry.agent.definitions import CheckDefinition
from registry.agent.http_clients import reason_of
from registry.agent.output import OutputTail
from registry.hooks import CheckResult, CheckType
from registry.state.quote import quote

USER_AGENT = "Consul Health Check"
ACCEPT = "text/plain, text/*, */*"

#: How long the request is follows from its body, whatever a definition says.
_FRAMING = frozenset({"content-length", "transfer-encoding"})

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class HttpRunner:
    """Asks once, following redirects, and keeps the tail of the answer."""

    def __init__(self, definition: CheckDefinition) -> None:
        self._definition = definition
        self._method = definition.method or "GET"
        self._context: CheckContext | None = None

    def bind(self, context: CheckContext) -> None:
        self._context = context

    async def run(self) -> CheckResult:
        import httpx

        assert self._context is not None, "bind comes first"
        client = await self._context.http.get(verify=not self._definition.tls_skip_verify)
        tail = OutputTail(self._context.output_bytes_max)
        if not _METHOD.fullmatch(self._method):
            return CheckResult(CRITICAL, f"net/http: invalid method {quote(self._method)}")
        if flaw := url_flaw(self._definition.http):
            return CheckResult(CRITICAL, f"parse {quote(self._definition.http)}: {flaw}")
        if (scheme := scheme_of(self._definition.http)) not in ("http", "https"):
            reason = f"unsupported protocol scheme {quote(scheme)}"
            return CheckResult(CRITICAL, self._error_text(reason))
        try:
            request = httpx.Request(
                self._method,
                self._definition.http,
                headers=self._headers(),
                content=self._definition.body.encode() or None,
            )
            request.method = self._method  # as written: httpx has it in capitals
            response = await client.send(request, stream=True)
            try:
                async for chunk in response.aiter_bytes():
                    tail.write(chunk)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as problem:
            return CheckResult(CRITICAL, self._error_text(reason_of(problem)))
        status = f"{response.status_code} {response.reason_phrase}"
        return CheckResult(
            state_of(response.status_code),
            f"HTTP {self._method} {self._definition.http}: {status} Output: {tail.text()}",
        )

    def timed_out(self, timeout_ns: int) -> CheckResult:
        reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return CheckResult(CRITICAL, self._error_text(reason))

    def _headers(self) -> list[tuple[str, str]]:
        given = [
            (name, value)
            for name, values in self._definition.header.items()
            for value in values
            if name.lower() not in _FRAMING
        ]
        names = {name.lower() for name, _ in given}
        defaults = (("User-Agent", USER_AGENT), ("Accept", ACCEPT))
        return given + [(name, value) for name, value in defaults if name.lower() not in names]

    def _error_text(self, reason: str) -> str:
        return f"{self._method.capitalize()} {quote(self._definition.http)}: {reason}"


def scheme_of(url: str) -> str:
    """What stands before the first colon if that can be a scheme, in small letters."""
    scheme, colon, _ = url.partition(":")
    return scheme.lower() if colon and _SCHEME.fullmatch(scheme) else ""


def url_flaw(url: str) -> str:
    """Why this is no URL, or ""; what follows the host is not looked at."""
    if any(ord(char) < ord(" ") or char == "\x7f" for char in url):
        return "net/url: invalid control character in URL"
    if url.startswith(":"):
        return "missing protocol scheme"
    if not scheme_of(url) and ":" in url.partition("/")[0]:
        return "first path segment in URL cannot contain colon"
    return ""


def state_of(status_code: int) -> str:
    if 200 <= status_code <= 299:
        return PASSING
    return WARNING if status_code == 429 else CRITICAL


def create(definition: CheckDefinition) -> HttpRunner:
    return HttpRunner(definition)


CHECK_TYPE = CheckType(key="http", type_name="http", create=create)
