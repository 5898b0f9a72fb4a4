"""The HTTP clients that health checks and watch handlers share."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

REDIRECTS_MAX = 10

_PORTS = {"http": 80, "https": 443}

#: What OpenSSL says when the other side speaks plain HTTP.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})

_ERRNO = re.compile(r"\[Errno (\d+)\]")


@dataclass(frozen=True, slots=True)
class ClientTls:
    """Files of the agent's own certificate, for `enable_agent_tls_for_checks`; "" = not set."""

    ca_file: str = ""
    ca_path: str = ""
    cert_file: str = ""
    key_file: str = ""


class HttpClients:
    """Two clients for all checks and watch handlers: one verifies certificates, one does not.

    httpx is imported, and certificates are read, when the first of them is asked for, in a thread:
    both take tens of milliseconds, which an agent without such checks need not spend.
    """

    def __init__(self, tls: ClientTls | None = None) -> None:
        self._tls = tls
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._making = asyncio.Lock()

    async def get(self, *, verify: bool) -> httpx.AsyncClient:
        async with self._making:
            if verify not in self._clients:
                self._clients[verify] = await asyncio.to_thread(self._make, verify)
            return self._clients[verify]

    def _make(self, verify: bool) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(
            verify=self._ssl_context(verify),
            follow_redirects=True,
            max_redirects=REDIRECTS_MAX,
            timeout=None,  # whoever asks has a deadline around it
            trust_env=False,  # a check is about its target, not about a proxy
            # A connection per run: a target that no longer accepts any must not look healthy.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    def _ssl_context(self, verify: bool) -> ssl.SSLContext:
        tls = self._tls or ClientTls()
        context = ssl.create_default_context(cafile=tls.ca_file or None, capath=tls.ca_path or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file or None)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def aclose(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()


def reason_of(problem: BaseException) -> str:
    """What went wrong in the words that operators search for; the system's error at the bottom
    when there is one, as connection errors hide it."""
    import httpx

    host, address = _target_of(problem)
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
            continue
        if isinstance(cause, ssl.SSLError):
            if cause.reason in _NO_TLS:
                return "http: server gave HTTP response to HTTPS client"
            return f"tls: {cause.reason or cause}".lower()
        if isinstance(cause, socket.gaierror):
            return f"dial tcp: lookup {host}: no such host"
        if isinstance(cause, OSError) and cause.errno:
            text = os_error_text(cause)
            if isinstance(problem, httpx.ConnectError):
                return f"dial tcp {address}: connect: {text}"
            return f"{address}: {text}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(problem, httpx.TooManyRedirects):
        return f"stopped after {REDIRECTS_MAX} redirects"
    if isinstance(problem, httpx.RemoteProtocolError) and "without sending" in str(problem):
        return "EOF"
    return str(problem) or type(problem).__name__


def _target_of(problem: BaseException) -> tuple[str, str]:
    """Host, and host with port, of the request that failed; "" when there was none."""
    import httpx

    try:
        url = problem.request.url if isinstance(problem, httpx.RequestError) else httpx.URL()
    except RuntimeError:  # it failed before there was a request
        return "", ""
    port = url.port or _PORTS.get(url.scheme, 0)
    return url.host, f"[{url.host}]:{port}" if ":" in url.host else f"{url.host}:{port}"


def os_error_text(problem: OSError) -> str:
    """The system's words for it; of several attempts (v4 and v6) those for the first."""
    number = problem.errno
    if number is None and (found := _ERRNO.search(str(problem))):
        number = int(found.group(1))
    return os.strerror(number).lower() if number else str(problem)
