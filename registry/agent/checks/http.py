"""HTTP checks: one request; 2xx is passing, 429 a warning, everything else critical."""

from __future__ import annotations

import re

from registry.agent.checks.base import CRITICAL, PASSING, WARNING, CheckContext
from registry.agent.definitions import CheckDefinition
from registry.agent.http_clients import reason_of
from registry.agent.output import OutputTail
from registry.hooks import CheckResult, CheckType

USER_AGENT = "Consul Health Check"
ACCEPT = "text/plain, text/*, */*"

#: How long the request is follows from its body, whatever a definition says.
_FRAMING = frozenset({"content-length", "transfer-encoding"})

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
        try:
            if not _METHOD.fullmatch(self._method):
                raise ValueError(f'net/http: invalid method "{self._method}"')
            request = httpx.Request(
                self._method,
                self._definition.http,
                headers=self._headers(),
                content=self._definition.body.encode() or None,
            )
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
        return f'{self._method.capitalize()} "{self._definition.http}": {reason}'


def state_of(status_code: int) -> str:
    if 200 <= status_code <= 299:
        return PASSING
    return WARNING if status_code == 429 else CRITICAL


def create(definition: CheckDefinition) -> HttpRunner:
    return HttpRunner(definition)


CHECK_TYPE = CheckType(key="http", type_name="http", create=create)
