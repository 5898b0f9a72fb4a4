"""A small synchronous client of the HTTP API: what the command line, examples and plugins use.

It stands on the standard library alone, so that `registry kv get` starts in a fraction of the time
that a full HTTP library needs to import. One request, one connection; `stream` reads without end.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from registry.errors import ConfigError, Rejected, RemoteProtocolError, Unavailable

DEFAULT_ADDRESS = "http://127.0.0.1:8500"

#: As many as browsers bear.
REDIRECTS_MAX = 10

#: Environment variables may carry either prefix; our own wins.
PREFIXES = ("REGISTRY_", "CONSUL_")


def environment(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The value of `REGISTRY_<name>`, else of `CONSUL_<name>`, else ""."""
    for prefix in PREFIXES:
        if value := environ.get(prefix + name):
            return value
    return ""


class ApiError(Rejected):
    """The agent answered with an error status; `text` is what it said."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(f"Unexpected response code: {status} ({text})")

    @property
    def is_transient(self) -> bool:
        """Whether the same request may well succeed a moment later."""
        return self.status >= 500


class AgentUnreachable(Unavailable):
    """No connection to the agent, or it broke; `reason` is the system's."""

    def __init__(self, method: str, url: str, reason: str) -> None:
        self.url, self.reason = url, reason
        super().__init__(f'{method.capitalize()} "{url}": {reason}')


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the agent is and how to talk to it; empty fields come from the environment."""

    address: str = ""  # host:port, http://, https:// or unix:///path
    token: str = ""
    token_file: str = ""
    ca_file: str = ""
    ca_path: str = ""
    client_cert: str = ""
    client_key: str = ""
    tls_server_name: str = ""
    datacenter: str = ""
    namespace: str = ""  # agents refuse any; they do the refusing
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """One whole answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """The body's value, None when it is empty. Raises `RemoteProtocolError`."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError as problem:
            raise RemoteProtocolError(
                f"the answer is not JSON ({problem}); is this the address of an agent?"
            ) from problem

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def index(self) -> int:
        """`X-Consul-Index`: hand it back as `index` to wait for a change; 0 when absent."""
        return int(self.headers.get("x-consul-index", "0"))


def key_path(*parts: str) -> str:
    """Path segments quoted for a URL; slashes inside a KV key stay what they are.

    Bytes of an argument that are no UTF-8 (surrogates, as Python reads them) keep their value.
    """
    return "/".join(quote(part, safe="/", errors="surrogateescape") for part in parts)


class Client:
    """Calls to one agent. Safe to share between threads: every call opens its own connection."""

    def __init__(self, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.settings = settings
        self._url, self._unix = _parse_address(
            settings.address or environment("HTTP_ADDR") or DEFAULT_ADDRESS
        )
        self._headers = _fixed_headers(settings)
        _check_authorities(settings)

    @property
    def url(self) -> str:
        return self._url

    def get(self, path: str, parameters: Mapping[str, Any] | None = None, **more: Any) -> Response:
        return self.request("GET", path, parameters, **more)

    def put(self, path: str, parameters: Mapping[str, Any] | None = None, **more: Any) -> Response:
        return self.request("PUT", path, parameters, **more)

    def delete(
        self, path: str, parameters: Mapping[str, Any] | None = None, **more: Any
    ) -> Response:
        return self.request("DELETE", path, parameters, **more)

    def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        body: bytes | BinaryIO | None = None,
        json_body: Any = None,
        headers: Mapping[str, str] | None = None,
        accept: Sequence[int] = (200,),
        timeout: float | None = None,
    ) -> Response:
        """One request, its whole answer; a file as `body` is sent as it is read.

        `parameters`: None or False leaves a name out, True gives it no value, a list repeats it.
        `headers` come beside those that every request has. `accept` lists the statuses that are no
        error. `timeout` in seconds; None waits for ever, as blocking reads need. Raises `ApiError`
        and `AgentUnreachable`.
        """
        if json_body is not None:
            body = json.dumps(json_body).encode()
        target = self._target(method, path, parameters)
        response = self._exchange(method, target, body, headers, timeout)
        for _ in range(REDIRECTS_MAX):
            place = response.headers.get("location", "")
            if response.status != http.client.MOVED_PERMANENTLY or not place.startswith("/"):
                break
            # An agent tells so of a path with two slashes in a row. What follows is a read,
            # whatever was asked, as in clients that existing scripts use.
            response = self._exchange("GET", place, None, headers, timeout)
        if response.status not in accept:
            raise ApiError(response.status, response.text)
        return response

    def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | BinaryIO | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> Response:
        connection = self._connect(timeout)
        try:
            raw = self._send(connection, method, target, body, headers)
            return Response(
                raw.status, {name.lower(): value for name, value in raw.getheaders()}, raw.read()
            )
        except (OSError, http.client.HTTPException) as problem:
            raise self._unreachable(method, target, problem) from problem
        finally:
            connection.close()

    def stream(
        self, path: str, parameters: Mapping[str, Any] | None = None, *, chunk_bytes: int = 65536
    ) -> Iterator[bytes]:
        """A GET whose answer is given piece by piece, as it comes."""
        target = self._target("GET", path, parameters)
        connection = self._connect(None)
        try:
            raw = self._send(connection, "GET", target, None)
            if raw.status != 200:
                raise ApiError(raw.status, raw.read().decode("utf-8", "replace"))
            while chunk := raw.read1(chunk_bytes):
                yield chunk
        except (OSError, http.client.HTTPException) as problem:
            raise self._unreachable("GET", target, problem) from problem
        finally:
            connection.close()

    def _target(self, method: str, path: str, parameters: Mapping[str, Any] | None) -> str:
        pairs = _pairs(parameters or {})
        if self.settings.datacenter:
            pairs.append(("dc", self.settings.datacenter))
        if namespace := self.settings.namespace or environment("NAMESPACE"):
            pairs.append(("ns", namespace))
        consistent = (parameters or {}).get("consistent")  # the two exclude each other
        if self.settings.stale and method == "GET" and not consistent:
            pairs.append(("stale", ""))
        if not pairs:
            return path
        pairs.sort(key=itemgetter(0))  # as in the messages that other clients give
        return f"{path}?{urlencode(pairs, encoding='utf-8', errors='surrogateescape')}"

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: bytes | BinaryIO | None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        if body is None and method in ("PUT", "POST"):
            body = b""
        connection.request(method, target, body=body, headers={**self._headers, **(headers or {})})
        return connection.getresponse()

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(self._url)
        host, port = parts.hostname or "127.0.0.1", parts.port
        if self._unix:
            return _UnixConnection(self._unix, timeout)
        if parts.scheme == "https":
            expected_name = self.settings.tls_server_name or environment("TLS_SERVER_NAME")
            context = _tls_context(self.settings)
            return _TlsConnection(host, port or 443, timeout, context, expected_name)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _unreachable(self, method: str, target: str, problem: Exception) -> AgentUnreachable:
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        if isinstance(problem, ConnectionRefusedError | FileNotFoundError | PermissionError):
            place = f"unix {self._unix}" if self._unix else f"tcp {urlsplit(self._url).netloc}"
            reason = f"dial {place}: connect: {reason.lower()}"
        # A socket's path stands where a host does.
        url = f"http://{quote(self._unix, safe='')}" if self._unix else self._url
        return AgentUnreachable(method, url + target, reason)

    # Conveniences for examples and plugins.

    def kv_get(self, key: str) -> bytes | None:
        """The value of a key, None when there is no such key."""
        response = self.get(key_path("/v1/kv", key), {"raw": True}, accept=(200, 404))
        return response.body if response.status == 200 else None

    def kv_put(self, key: str, value: bytes, *, cas: int | None = None, flags: int = 0) -> bool:
        """Write a key; False when `cas` is no longer its ModifyIndex."""
        parameters = {"cas": cas, "flags": flags or None}
        return bool(self.put(key_path("/v1/kv", key), parameters, body=value).json())

    def kv_delete(self, key: str, *, recurse: bool = False) -> bool:
        return bool(self.delete(key_path("/v1/kv", key), {"recurse": recurse}).json())

    def kv_list(self, prefix: str) -> list[dict[str, Any]]:
        """Entries below a prefix as the API gives them (Value in base64), sorted by key."""
        response = self.get(key_path("/v1/kv", prefix), {"recurse": True}, accept=(200, 404))
        return response.json() or []


def _pairs(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is None or item is False:
                continue
            pairs.append((name, "" if item is True else str(item)))
    return pairs


def _parse_address(address: str) -> tuple[str, str]:
    """`(base url, unix socket path or "")`; raises `ConfigError` for what is no address."""
    if address.startswith("unix://"):
        return "http://unix", address.removeprefix("unix://")
    scheme, separator, _ = address.partition("://")
    if not separator:
        scheme = "https" if environment("HTTP_SSL").lower() in ("1", "t", "true") else "http"
        address = f"{scheme}://{address}"
    elif scheme not in ("http", "https"):
        raise ConfigError(f"Unknown protocol scheme: {scheme}")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as problem:
        raise ConfigError(f"not an address of an agent: {address} ({problem})") from problem
    if not parts.hostname:
        raise ConfigError(
            f"not an address of an agent: {address} (want host:port, http://, https:// or unix://)"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or (443 if parts.scheme == 'https' else 80)}", ""


def _fixed_headers(settings: Settings) -> dict[str, str]:
    headers = {}
    token_file = settings.token_file or environment("HTTP_TOKEN_FILE")
    token = settings.token or environment("HTTP_TOKEN")
    if token_file:
        try:
            with open(token_file, encoding="utf-8") as file:
                token = file.read().strip() or token
        except OSError as problem:
            reason = (problem.strerror or str(problem)).lower()
            raise ConfigError(f"Error loading token file: open {token_file}: {reason}") from problem
        except UnicodeDecodeError as problem:
            raise ConfigError(f"Error loading token file: {token_file}: {problem}") from problem
    if token:
        if not (token.isascii() and token.isprintable()):
            raise ConfigError("the ACL token has characters that no token has")
        headers["X-Consul-Token"] = token
    if credentials := environment("HTTP_AUTH"):
        headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
    return headers


def _check_authorities(settings: Settings) -> None:
    """Raises `ConfigError` for authorities that cannot be read, used or not."""
    try:
        if ca_file := settings.ca_file or environment("CACERT"):
            with open(ca_file, "rb") as file:
                if b"-----BEGIN CERTIFICATE-----" not in file.read():
                    raise ConfigError(f"Error loading CA File: Couldn't parse PEM in: {ca_file}")
        elif ca_path := settings.ca_path or environment("CAPATH"):
            os.lstat(ca_path)
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        call = f"Error loading CA File: open {ca_file}" if ca_file else f"lstat {ca_path}"
        raise ConfigError(f"{call}: {reason}") from problem


def _tls_context(settings: Settings) -> Any:
    import ssl  # only for https: it would be a quarter of the command line's start

    ca_file = settings.ca_file or environment("CACERT") or None
    ca_path = settings.ca_path or environment("CAPATH") or None
    try:
        context = ssl.create_default_context(cafile=ca_file, capath=ca_path)
        if environment("HTTP_SSL_VERIFY").lower() in ("0", "f", "false"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = settings.client_cert or environment("CLIENT_CERT")
        if certificate:
            context.load_cert_chain(
                certificate, settings.client_key or environment("CLIENT_KEY") or None
            )
    except OSError as problem:
        raise ConfigError(f"TLS files cannot be used: {problem}") from problem
    return context


class _TlsConnection(http.client.HTTPSConnection):
    """HTTPS to an agent whose certificate may be in another name than its address."""

    def __init__(
        self, host: str, port: int, timeout: float | None, context: Any, expected_name: str
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls, self._expected_name = context, expected_name or host

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._expected_name)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
