"""The HTTP client: addresses, credentials, sockets, TLS, errors, streams."""

from __future__ import annotations

import asyncio
import datetime
import io
import ipaddress
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from registry.client import (
    AgentUnreachable,
    ApiError,
    Client,
    Settings,
    environment,
    key_path,
)
from registry.errors import ConfigError, RemoteProtocolError
from registry.testing.serving import make_facade, serving


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked; /status/N with that status, /broken with half an answer."""

    def handle_any(self) -> None:
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else b""
        asked = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode("latin-1"),
        }
        answer = json.dumps(asked).encode()
        status = int(self.path.split("/")[2]) if self.path.startswith("/status/") else 200
        if self.path == "/text":
            answer = b"no JSON"
        if status >= 400:
            answer = b"refused\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer) + 5 * (self.path == "/broken")))
        self.send_header("X-Consul-Index", "7")
        self.end_headers()
        self.wfile.write(answer)
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *args: object) -> None:
        """Not on standard error."""

    def address_string(self) -> str:
        return "client"  # a unix socket's peer has no address


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def address() -> Iterator[str]:
    """Of an echo server."""
    server = HTTPServer(("127.0.0.1", 0), Echo)
    with running(server):
        yield f"127.0.0.1:{server.server_port}"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADDR", "TOKEN", "TOKEN_FILE", "AUTH", "SSL", "SSL_VERIFY"):
        for prefix in ("REGISTRY_HTTP_", "CONSUL_HTTP_"):
            monkeypatch.delenv(prefix + name, raising=False)
    for name in ("CACERT", "CAPATH", "CLIENT_CERT", "CLIENT_KEY", "TLS_SERVER_NAME"):
        for prefix in ("REGISTRY_", "CONSUL_"):
            monkeypatch.delenv(prefix + name, raising=False)


@pytest.mark.parametrize(
    ("environ", "value"),
    [
        pytest.param({}, "", id="none"),
        pytest.param({"CONSUL_X": "theirs"}, "theirs", id="theirs"),
        pytest.param({"REGISTRY_X": "ours", "CONSUL_X": "theirs"}, "ours", id="ours-wins"),
        pytest.param({"REGISTRY_X": "", "CONSUL_X": "theirs"}, "theirs", id="empty-is-none"),
    ],
)
def test_environment(environ: dict[str, str], value: str) -> None:
    assert environment("X", environ) == value


@pytest.mark.parametrize(
    ("given", "url"),
    [
        pytest.param("", "http://127.0.0.1:8500", id="default"),
        pytest.param("a:1", "http://a:1", id="host-and-port"),
        pytest.param("http://a:1/", "http://a:1", id="slash-at-the-end"),
        pytest.param("a", "http://a:80", id="no-port"),
        pytest.param("https://a", "https://a:443", id="https"),
        pytest.param("[::1]:8500", "http://[::1]:8500", id="ipv6"),
        pytest.param("unix:///run/x.sock", "http://unix", id="unix"),
    ],
)
def test_addresses(given: str, url: str) -> None:
    assert Client(Settings(address=given)).url == url


@pytest.mark.parametrize("given", ["http://", "a:70000", "a:b", "http://:8500", "["])
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(ConfigError, match="not an address of an agent"):
        Client(Settings(address=given))


def test_a_scheme_that_no_agent_speaks() -> None:
    with pytest.raises(ConfigError, match=r"^Unknown protocol scheme: ftp$"):
        Client(Settings(address="ftp://a:1"))


@pytest.mark.parametrize(
    ("variables", "given", "url"),
    [
        pytest.param({"CONSUL_HTTP_ADDR": "a:1"}, "", "http://a:1", id="address"),
        pytest.param({"CONSUL_HTTP_ADDR": "a:1"}, "b:2", "http://b:2", id="flag-wins"),
        pytest.param({"CONSUL_HTTP_SSL": "true"}, "a:1", "https://a:1", id="ssl"),
        pytest.param({"CONSUL_HTTP_SSL": "true"}, "http://a:1", "http://a:1", id="scheme-wins"),
        pytest.param({"CONSUL_HTTP_SSL": "0"}, "a:1", "http://a:1", id="ssl-off"),
    ],
)
def test_addresses_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], given: str, url: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Client(Settings(address=given)).url == url


@pytest.mark.parametrize(
    ("parameters", "settings", "path"),
    [
        pytest.param({}, {}, "/p", id="none"),
        pytest.param({"a": None, "b": False}, {}, "/p", id="left-out"),
        pytest.param({"a": True}, {}, "/p?a=", id="without-value"),
        pytest.param({"a": ["x", "y"]}, {}, "/p?a=x&a=y", id="repeated"),
        pytest.param({"a": "&=ä"}, {}, "/p?a=%26%3D%C3%A4", id="quoted"),
        pytest.param({"a": "\udcff"}, {}, "/p?a=%FF", id="no-utf8"),
        pytest.param({}, {"datacenter": "dc2", "stale": True}, "/p?dc=dc2&stale=", id="settings"),
        pytest.param({}, {"namespace": "x"}, "/p?ns=x", id="namespace"),
        pytest.param({"consistent": True}, {"stale": True}, "/p?consistent=", id="never-both"),
        pytest.param({"z": 1, "a": 2}, {"datacenter": "d"}, "/p?a=2&dc=d&z=1", id="by-name"),
    ],
)
def test_parameters(
    address: str, parameters: dict[str, Any], settings: dict[str, Any], path: str
) -> None:
    client = Client(Settings(address=address, **settings))
    assert client.get("/p", parameters).json()["path"] == path


def test_only_reads_can_be_stale(address: str) -> None:
    client = Client(Settings(address=address, datacenter="d", stale=True))
    assert client.put("/p").json()["path"] == "/p?dc=d"


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        pytest.param(("/v1/kv", "a/b"), "/v1/kv/a/b", id="slashes-stay"),
        pytest.param(("/v1/kv", "a b?#%"), "/v1/kv/a%20b%3F%23%25", id="quoted"),
        pytest.param(("/v1/kv", "ä\udcff"), "/v1/kv/%C3%A4%FF", id="bytes"),
    ],
)
def test_key_path(parts: tuple[str, ...], path: str) -> None:
    assert key_path(*parts) == path


@pytest.mark.parametrize(
    ("send", "body", "length"),
    [
        pytest.param({"body": b"x\xff"}, "x\xff", "2", id="bytes"),
        pytest.param({"json_body": {"a": 1}}, '{"a": 1}', "8", id="json"),
        pytest.param({}, "", "0", id="none"),
    ],
)
def test_bodies(address: str, send: dict[str, Any], body: str, length: str) -> None:
    asked = Client(Settings(address=address)).put("/p", **send).json()
    assert (asked["body"], asked["headers"]["content-length"]) == (body, length)


@pytest.mark.parametrize(
    ("settings", "variables", "headers"),
    [
        pytest.param({}, {}, {}, id="none"),
        pytest.param({"token": "t"}, {}, {"x-consul-token": "t"}, id="flag"),
        pytest.param({}, {"HTTP_TOKEN": "t"}, {"x-consul-token": "t"}, id="variable"),
        pytest.param({"token": "t"}, {"HTTP_TOKEN": "u"}, {"x-consul-token": "t"}, id="flag-wins"),
        pytest.param({"token_file": "F"}, {}, {"x-consul-token": "from-file"}, id="file"),
        pytest.param(
            {}, {"HTTP_TOKEN_FILE": "F"}, {"x-consul-token": "from-file"}, id="file-variable"
        ),
        pytest.param(
            {"token_file": "F"},
            {"HTTP_TOKEN": "u"},
            {"x-consul-token": "from-file"},
            id="file-over-variable",
        ),
        pytest.param(
            {"token": "t", "token_file": "F"}, {}, {"x-consul-token": "from-file"}, id="file-wins"
        ),
        pytest.param(
            {}, {"HTTP_AUTH": "user:pass"}, {"authorization": "Basic dXNlcjpwYXNz"}, id="basic"
        ),
    ],
)
def test_credentials(
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    variables: dict[str, str],
    headers: dict[str, str],
) -> None:
    (tmp_path / "F").write_text("from-file\n")
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(f"CONSUL_{name}", value)
    sent = Client(Settings(address=address, **settings)).get("/p").json()["headers"]
    assert {name: sent.get(name) for name in headers} == headers
    assert ("x-consul-token" in sent) == ("x-consul-token" in headers)


def test_a_token_file_that_is_not_there() -> None:
    said = "Error loading token file: open no/such/file: no such file or directory"
    with pytest.raises(ConfigError, match=f"^{said}$"):
        Client(Settings(token_file="no/such/file"))


def test_a_token_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"Error loading token file: .*token"):
        Client(Settings(token_file=str(tmp_path / "token")))


@pytest.mark.parametrize("token", ["\udcff", "a\nb", "\u00e9"])
def test_a_token_that_no_header_can_carry(token: str) -> None:
    with pytest.raises(ConfigError, match="the ACL token has characters that no token has"):
        Client(Settings(token=token))


@pytest.mark.parametrize(
    ("status", "transient"),
    [pytest.param(400, False, id="ours"), pytest.param(500, True, id="theirs")],
)
def test_errors_keep_what_the_agent_said(address: str, status: int, transient: bool) -> None:
    client = Client(Settings(address=address))
    with pytest.raises(ApiError) as caught:
        client.get(f"/status/{status}")
    assert str(caught.value) == f"Unexpected response code: {status} (refused\n)"
    assert caught.value.is_transient is transient
    with pytest.raises(ApiError):
        list(client.stream(f"/status/{status}"))


def test_headers(address: str) -> None:
    client = Client(Settings(address=address, token="t"))
    sent = client.get("/p", headers={"If-None-Match": '"a"'}).json()["headers"]
    assert (sent["if-none-match"], sent["x-consul-token"]) == ('"a"', "t")
    assert "if-none-match" not in client.get("/p").json()["headers"]


def test_answers(address: str) -> None:
    client = Client(Settings(address=address))
    answer = client.get("/p")
    assert (answer.status, answer.index) == (200, 7)
    with pytest.raises(RemoteProtocolError, match="is this the address of an agent"):
        client.get("/text").json()
    with pytest.raises(AgentUnreachable, match="IncompleteRead"):
        client.get("/broken")


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    server = socketserver.UnixStreamServer(str(path), Echo)
    with running(server):
        asked = Client(Settings(address=f"unix://{path}")).put("/p", body=b"x").json()
    assert (asked["path"], asked["body"], asked["headers"]["host"]) == ("/p", "x", "localhost")
    with pytest.raises(AgentUnreachable) as refused:
        Client(Settings(address=f"unix://{path}")).get("/p")
    host = str(path).replace("/", "%2F")
    assert str(refused.value) == (
        f'Get "http://{host}/p": dial unix {path}: connect: connection refused'
    )


# TLS


def certificate(directory: Path, *names: str) -> tuple[Path, Path]:
    """A self-signed certificate for these names and addresses, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / f"{names[0]}.pem", directory / f"{names[0]}-key.pem"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_path, key_path


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class TlsServer(HTTPServer):
    """Does the handshake in the request, where a client's refusal is its own affair."""

    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except (ssl.SSLError, OSError):
            return


@contextmanager
def tls_server(chain: tuple[Path, Path], trusted: Path | None = None) -> Iterator[str]:
    server = TlsServer(("127.0.0.1", 0), Echo)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(*chain)
    if trusted is not None:
        server.context.load_verify_locations(trusted)
        server.context.verify_mode = ssl.CERT_REQUIRED
    with running(server):
        yield f"https://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("names", "settings", "variables", "problem"),
    [
        pytest.param(["127.0.0.1"], {}, {}, "self-signed certificate", id="not-trusted"),
        pytest.param(["127.0.0.1"], {"ca_file": "CA"}, {}, "", id="ca-file"),
        pytest.param(["127.0.0.1"], {}, {"CACERT": "CA"}, "", id="ca-variable"),
        pytest.param(["agent.test"], {"ca_file": "CA"}, {}, "mismatch", id="another-name"),
        pytest.param(
            ["agent.test"],
            {"ca_file": "CA", "tls_server_name": "agent.test"},
            {},
            "",
            id="expected-name",
        ),
        pytest.param(
            ["agent.test"],
            {"ca_file": "CA"},
            {"TLS_SERVER_NAME": "agent.test"},
            "",
            id="name-variable",
        ),
        pytest.param(["agent.test"], {}, {"HTTP_SSL_VERIFY": "false"}, "", id="not-verified"),
    ],
)
def test_https(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    settings: dict[str, Any],
    variables: dict[str, str],
    problem: str,
) -> None:
    chain = certificate(tmp_path, *names)
    for name, value in variables.items():
        monkeypatch.setenv(f"CONSUL_{name}", value.replace("CA", str(chain[0])))
    settings = {name: value.replace("CA", str(chain[0])) for name, value in settings.items()}
    with tls_server(chain) as url:
        client = Client(Settings(address=url, **settings))
        if problem:
            with pytest.raises(AgentUnreachable, match=problem):
                client.get("/p")
        else:
            assert client.get("/p").json()["path"] == "/p"
            assert b"".join(client.stream("/q")).startswith(b'{"method": "GET"')


def test_a_client_certificate(tmp_path: Path) -> None:
    chain = certificate(tmp_path, "127.0.0.1")
    own, own_key = certificate(tmp_path, "client.test")
    with tls_server(chain, trusted=own) as url:
        settings: dict[str, Any] = {"address": url, "ca_file": str(chain[0])}
        with pytest.raises(AgentUnreachable):
            Client(Settings(**settings)).get("/p")
        shown = Client(Settings(**settings, client_cert=str(own), client_key=str(own_key)))
        assert shown.get("/p").status == 200


def test_tls_files_that_are_not_there() -> None:
    client = Client(Settings(address="https://127.0.0.1:1", client_cert="no/such/file"))
    with pytest.raises(ConfigError, match="TLS files cannot be used"):
        client.get("/p")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            {"ca_file": "none"},
            "Error loading CA File: open none: no such file or directory",
            id="file",
        ),
        pytest.param({"ca_path": "none"}, "lstat none: no such file or directory", id="path"),
        pytest.param(
            {"ca_file": "text"}, "Error loading CA File: Couldn't parse PEM in: text", id="no-pem"
        ),
    ],
)
def test_authorities_are_looked_at_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / "text").write_text("no certificate")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        Client(Settings(address="http://127.0.0.1:1", **settings))
    assert str(refused.value) == said


# Against the server itself


async def test_conveniences() -> None:
    async with serving(make_facade()) as server:
        client = Client(Settings(address=f"127.0.0.1:{server.port}"))

        def use() -> None:
            assert client.kv_get("none") is None
            assert client.kv_list("none") == []
            assert client.kv_put("a/1", b"\x00\xff", flags=(1 << 64) - 1)
            assert not client.kv_put("a/1", b"y", cas=99)
            assert client.kv_get("a/1") == b"\x00\xff"
            assert [entry["Flags"] for entry in client.kv_list("a/")] == [(1 << 64) - 1]
            assert client.kv_delete("a/", recurse=True)
            assert client.kv_list("a/") == []

        await asyncio.to_thread(use)


async def test_a_file_as_body() -> None:
    content = b"z" * 300_000
    async with serving(make_facade()) as server:
        client = Client(Settings(address=f"127.0.0.1:{server.port}"))
        sent = await asyncio.to_thread(client.put, "/v1/kv/file", body=io.BytesIO(content))
        assert sent.json() is True
        assert await asyncio.to_thread(client.kv_get, "file") == content
