"""HTTP, TCP and gRPC checks against real servers on the loopback."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from concurrent import futures
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from registry.agent.checks import grpc as grpc_check
from registry.agent.checks import http, tcp
from registry.agent.checks.base import CheckContext
from registry.agent.checks.scheduler import run_once
from registry.agent.clock import LoopClock
from registry.agent.definitions import MILLISECOND, SECOND, CheckDefinition
from registry.agent.http_clients import ClientTls, HttpClients
from registry.agent.local.records import Records
from registry.hooks import CheckResult

CLOSED = "127.0.0.1:9"


@dataclass
class Target:
    """An HTTP server that answers by path and remembers what it was asked."""

    address: str = ""
    requests: list[tuple[str, dict[str, list[str]], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers: dict[str, list[str]] = {}
            for line in filter(None, head[1:]):
                name, _, value = line.partition(": ")
                headers.setdefault(name.lower(), []).append(value)
            body = await reader.readexactly(int(headers.get("content-length", ["0"])[0]))
            self.requests.append((head[0], headers, body))
            await self._answer(head[0].split()[1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/slow":
            await asyncio.sleep(60)
        if path == "/moved":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n")
        elif path == "/loop":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n")
        elif path == "/garbage":
            writer.write(b"what?\r\n\r\n")
        elif path == "/large":
            body = b"a" * 9000 + b"end"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        else:
            status = path.removeprefix("/status/") if path.startswith("/status/") else "200 OK"
            status = status.replace("_", " ")
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nbody".encode())
        await writer.drain()


@asynccontextmanager
async def http_target(**options: object) -> AsyncIterator[Target]:
    target = Target()
    server = await asyncio.start_server(target.serve, "127.0.0.1", 0, **options)  # type: ignore[arg-type]
    host, port = server.sockets[0].getsockname()[:2]
    target.address = f"{host}:{port}"
    try:
        yield target
    finally:
        server.close()


@pytest.fixture
async def clients() -> AsyncIterator[HttpClients]:
    made = HttpClients()
    yield made
    await made.aclose()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with http_target() as made:
        yield made


def http_runner(clients: HttpClients, url: str, **fields: object) -> http.HttpRunner:
    definition = CheckDefinition(id="c", http=url, interval_ns=SECOND, **fields)  # type: ignore[arg-type]
    runner = http.create(definition)
    runner.bind(CheckContext("c", "n1", 4096, Records(), None, LoopClock(), clients))
    return runner


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("200_OK", "passing"),
        ("204_No_Content", "passing"),
        ("299_Fine", "passing"),
        ("429_Too_Many_Requests", "warning"),
        ("304_Not_Modified", "critical"),
        ("404_Not_Found", "critical"),
        ("500_Internal_Server_Error", "critical"),
    ],
)
async def test_http_status(clients: HttpClients, target: Target, status: str, state: str) -> None:
    url = f"http://{target.address}/status/{status}"
    result = await http_runner(clients, url).run()
    assert result.status == state
    assert result.output.startswith(f"HTTP GET {url}: {status.replace('_', ' ')} Output: ")


async def test_http_sends_method_headers_and_body(clients: HttpClients, target: Target) -> None:
    url = f"http://{target.address}/ok"
    runner = http_runner(
        clients,
        url,
        method="POST",
        header={"X-Probe": ["one", "two"], "Host": ["web.example"], "user-agent": ["me"]},
        body="payload",
    )
    assert await runner.run() == CheckResult("passing", f"HTTP POST {url}: 200 OK Output: body")
    line, headers, body = target.requests[0]
    assert line == "POST /ok HTTP/1.1"
    assert body == b"payload"
    assert headers["x-probe"] == ["one", "two"]
    assert headers["host"] == ["web.example"]
    assert headers["user-agent"] == ["me"]


async def test_http_sends_the_method_as_written(clients: HttpClients, target: Target) -> None:
    await http_runner(clients, f"http://{target.address}/ok", method="probe").run()
    assert target.requests[0][0] == "probe /ok HTTP/1.1"


async def test_http_default_headers(clients: HttpClients, target: Target) -> None:
    await http_runner(clients, f"http://{target.address}/ok").run()
    headers = target.requests[0][1]
    assert headers["user-agent"] == ["Consul Health Check"]
    assert headers["accept"] == ["text/plain, text/*, */*"]


async def test_http_follows_redirects(clients: HttpClients, target: Target) -> None:
    result = await http_runner(clients, f"http://{target.address}/moved").run()
    assert result.status == "passing"
    endless = await http_runner(clients, f"http://{target.address}/loop").run()
    assert endless.status == "critical"
    assert endless.output.endswith(": stopped after 10 redirects")


async def test_http_keeps_the_end_of_a_long_answer(clients: HttpClients, target: Target) -> None:
    result = await http_runner(clients, f"http://{target.address}/large").run()
    body = result.output.partition("Output: ")[2]
    assert len(body) == 4096
    assert body.endswith("aend")


async def test_http_connection_refused(clients: HttpClients) -> None:
    result = await http_runner(clients, f"http://{CLOSED}/").run()
    reason = f"dial tcp {CLOSED}: connect: connection refused"
    assert result == CheckResult("critical", f'Get "http://{CLOSED}/": {reason}')


@pytest.mark.parametrize(
    ("url", "output"),
    [
        ("ftp://x/", 'Get "ftp://x/": unsupported protocol scheme "ftp"'),
        ("nonsense", 'Get "nonsense": unsupported protocol scheme ""'),
        ("h:80/", 'Get "h:80/": unsupported protocol scheme "h"'),
        ("::x", 'parse "::x": missing protocol scheme'),
        ("1.2.3.4:80/", 'parse "1.2.3.4:80/": first path segment in URL cannot contain colon'),
        ("http://x\n", 'parse "http://x\\n": net/url: invalid control character in URL'),
        (
            "http://no-such-host.invalid/",
            'Get "http://no-such-host.invalid/": dial tcp: lookup no-such-host.invalid: '
            "no such host",
        ),
    ],
)
async def test_http_says_what_is_wrong_with_a_url(
    clients: HttpClients, url: str, output: str
) -> None:
    result = await run_once(http_runner(clients, url), "c", 10 * SECOND)
    assert result == CheckResult("critical", output)


async def test_http_bad_method(clients: HttpClients) -> None:
    result = await http_runner(clients, f"http://{CLOSED}/", method="B AD").run()
    assert result == CheckResult("critical", 'net/http: invalid method "B AD"')


async def test_http_without_an_answer(clients: HttpClients) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        url = f"http://{host}:{port}/"
        result = await run_once(http_runner(clients, url), "c", 10 * SECOND)
    assert result == CheckResult("critical", f'Get "{url}": EOF')


async def test_https_to_a_plain_server(clients: HttpClients) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        runner = http_runner(clients, f"https://{host}:{port}/")
        result = await run_once(runner, "c", 10 * SECOND)
    assert result.output.endswith(": http: server gave HTTP response to HTTPS client")


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://h:0x/"])
async def test_http_bad_urls_are_critical(clients: HttpClients, url: str) -> None:
    result = await run_once(http_runner(clients, url), "c", SECOND)
    assert result.status == "critical"
    assert result.output


async def test_http_answers_that_are_no_http(clients: HttpClients, target: Target) -> None:
    result = await http_runner(clients, f"http://{target.address}/garbage").run()
    assert result.status == "critical"


async def test_http_timeout(clients: HttpClients, target: Target) -> None:
    runner = http_runner(clients, f"http://{target.address}/slow")
    result = await run_once(runner, "c", 100 * MILLISECOND)
    assert result.status == "critical"
    assert "context deadline exceeded" in result.output


async def test_http_certificates(tmp_path: Path, clients: HttpClients) -> None:
    """An unknown certificate is refused, unless verification is off or its authority is known."""
    import ssl

    certificate, key = self_signed(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    async with http_target(ssl=server) as target:
        url = f"https://{target.address}/ok"
        refused = await http_runner(clients, url).run()
        assert refused.status == "critical"
        assert "certificate" in refused.output
        assert (await http_runner(clients, url, tls_skip_verify=True).run()).status == "passing"
        trusting = HttpClients(ClientTls(ca_file=str(certificate)))
        assert (await http_runner(trusting, url).run()).status == "passing"
        await trusting.aclose()


async def test_clients_are_shared(clients: HttpClients) -> None:
    found = await asyncio.gather(*(clients.get(verify=True) for _ in range(3)))
    assert found[0] is found[1] is found[2]
    assert await clients.get(verify=False) is not found[0]


async def test_tcp(target: Target) -> None:
    definition = CheckDefinition(id="c", tcp=target.address)
    assert await tcp.create(definition).run() == CheckResult(
        "passing", f"TCP connect {target.address}: Success"
    )


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (CLOSED, f"dial tcp {CLOSED}: connect: connection refused"),
        ("localhost:9", "dial tcp localhost:9: connect: connection refused"),
        ("no-port", "dial tcp: address no-port: missing port in address"),
        ("::1:80", "dial tcp: address ::1:80: missing port in address"),
        ("h:port", "dial tcp: address port: invalid port"),
        ("h:70000", "dial tcp: address 70000: invalid port"),
        ("no-such-host.invalid:80", "dial tcp: lookup no-such-host.invalid: no such host"),
    ],
)
async def test_tcp_failures(address: str, text: str) -> None:
    result = await tcp.create(CheckDefinition(id="c", tcp=address)).run()
    assert result == CheckResult("critical", text)


async def test_tcp_timeout_text() -> None:
    runner = tcp.create(CheckDefinition(id="c", tcp="192.0.2.1:80"))
    assert runner.timed_out(SECOND).output == "dial tcp 192.0.2.1:80: i/o timeout"


@pytest.mark.parametrize(
    ("address", "split"), [("h:80", ("h", 80)), ("[::1]:80", ("::1", 80)), (":80", ("", 80))]
)
def test_split_address(address: str, split: tuple[str, int]) -> None:
    assert tcp.split_address(address) == split


def health_server(answers: dict[str, int]) -> grpc.Server:
    """The health protocol as a generic handler: status by service name, NOT_FOUND for others."""

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        service = request[2:].decode()
        if service not in answers:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes([8, answers[service]]) if answers[service] else b""

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    method = grpc.unary_unary_rpc_method_handler(check)
    service = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
    server.add_generic_rpc_handlers((service,))
    return server


@pytest.mark.parametrize(
    ("service", "result"),
    [
        ("", CheckResult("passing", "gRPC check {}: success")),
        ("/web", CheckResult("passing", "gRPC check {}: success")),
        ("/down", CheckResult("critical", "gRPC application didn't report service healthy")),
        ("/unknown", CheckResult("critical", "gRPC application didn't report service healthy")),
        ("/none", CheckResult("critical", "rpc error: code = NotFound desc = unknown service")),
    ],
)
async def test_grpc(service: str, result: CheckResult) -> None:
    server = health_server({"": 1, "web": 1, "down": 2, "unknown": 0})
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        address = f"127.0.0.1:{port}{service}"
        runner = grpc_check.create(CheckDefinition(id="c", grpc=address))
        found = await run_once(runner, "c", 10 * SECOND)
        assert found == CheckResult(result.status, result.output.format(address))
    finally:
        server.stop(None).wait()


async def test_grpc_without_a_server() -> None:
    runner = grpc_check.create(CheckDefinition(id="c", grpc=CLOSED))
    result = await run_once(runner, "c", 10 * SECOND)
    assert result.status == "critical"
    assert result.output.startswith("rpc error: code = Unavailable")


async def test_grpc_with_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    server = health_server({"": 1})
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        address = f"127.0.0.1:{port}"
        strict = CheckDefinition(id="c", grpc=address, grpc_use_tls=True)
        assert (await run_once(grpc_check.create(strict), "c", 10 * SECOND)).status == "critical"
        trusting = CheckDefinition(id="c", grpc=address, grpc_use_tls=True, tls_skip_verify=True)
        found = await run_once(grpc_check.create(trusting), "c", 10 * SECOND)
        assert found == CheckResult("passing", f"gRPC check {address}: success")
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 0),
        (b"\x08\x01", 1),
        (b"\x08\x02", 2),
        (b"\x12\x03abc\x08\x01", 1),
        (b"\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x08\x01", 1),
        (b"\x08\x80\x01", 128),
    ],
)
def test_grpc_answers_are_decoded(raw: bytes, status: int) -> None:
    assert grpc_check.decode_response(raw) == status


@pytest.mark.parametrize("raw", [b"\x08", b"\x08\x80", b"\x12\x05ab", b"\x0b", b"\x11abc"])
def test_grpc_answers_that_are_none(raw: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        grpc_check.decode_response(raw)


def test_grpc_requests_are_encoded() -> None:
    assert grpc_check.encode_request("") == b""
    assert grpc_check.encode_request("web") == b"\x0a\x03web"
    assert grpc_check.encode_request("a" * 200) == b"\x0a\xc8\x01" + b"a" * 200


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, made by openssl."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    request += ["-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *request, *names, *files], check=True, capture_output=True)
    return certificate, key
