"""What happens on the wire: keep-alive, pipelining, bodies in all forms, limits, going away."""

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from registry.agent.config import Addresses, AgentConfig, Limits, Ports, UnixSockets
from registry.errors import ConfigError
from registry.http.api import ApiRequest, ApiResponse, Routes, json_response
from registry.http.limits import BodyClock, ConnectionLimit, Deadlines
from registry.http.rim import Rim
from registry.http.routing import Router
from registry.http.server import HttpServer, Listen, configured_listeners
from registry.testing.serving import make_facade, serving
from registry.testing.wire import connect, until

GET = b"GET /v1/kv/a?raw HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"\r\nConnection: close\r\n\r\n"
PUT = b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\n"


async def test_a_connection_serves_many_requests(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        for value in (b"1", b"22", b"333"):
            answer = await wire.request(PUT + b"Content-Length: %d\r\n\r\n" % len(value) + value)
            assert (answer.status, answer.body) == (200, b"true")
            assert (await wire.request(GET)).body == value


async def test_pipelined_requests_are_answered_in_order(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        writes = [PUT + b"Content-Length: 1\r\n\r\n%d" % number for number in range(5)]
        await wire.send(b"".join(write + GET for write in writes))
        for number in range(5):
            assert (await wire.response()).body == b"true"
            assert (await wire.response()).body == b"%d" % number


async def test_a_request_may_come_byte_by_byte(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        for byte in PUT + b"Content-Length: 3\r\n\r\nabc":
            await wire.send(bytes([byte]))
        assert (await wire.response()).body == b"true"
        assert (await wire.request(GET)).body == b"abc"


async def test_chunked_bodies(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert (await wire.request(PUT + chunked)).body == b"true"
        assert (await wire.request(GET)).body == b"abcde"


async def test_a_chunked_body_over_its_limit_is_413(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        raw = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + piece * 9 + b"0\r\n\r\n"
        assert (await wire.request(raw)).status == 413
        assert (await wire.request(GET)).status == 404


async def test_expect_100_continue(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        head = PUT + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        assert (await wire.request(head)).status == 100
        assert (await wire.request(b"ab")).body == b"true"


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        head = PUT + b"Content-Length: 999999\r\nExpect: 100-continue\r\n\r\n"
        assert (await wire.request(head)).status == 413


async def test_head_has_no_body_and_the_connection_goes_on(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(b"HEAD /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, answer.body) == (405, b"")
        assert (await wire.request(GET)).status == 404


async def test_a_body_on_get_is_not_looked_at(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        raw = b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{bad"
        assert (await wire.request(raw)).status == 404
        assert (await wire.request(GET)).status == 404


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"NONSENSE\r\n\r\n", id="no request line"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS on a plain port"),
        pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="unknown version"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", id="bad header"),
        pytest.param(PUT + b"Content-Length: x\r\n\r\n", id="bad length"),
        pytest.param(PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
        pytest.param(
            PUT + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", id="both lengths"
        ),
        pytest.param(PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"),
    ],
)
async def test_malformed_requests_get_400_and_are_cut_off(server: HttpServer, raw: bytes) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(raw)
        assert answer.status == 400
        assert answer.header("Connection") == "close"
        assert await wire.ended()
    async with connect(server.port) as wire:
        assert (await wire.request(GET)).status == 404


async def test_http_1_0_and_connection_close_end_the_connection(server: HttpServer) -> None:
    for raw in (
        b"GET /v1/status/leader HTTP/1.0\r\n\r\n",
        b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ):
        async with connect(server.port) as wire:
            answer = await wire.request(raw)
            assert (answer.status, answer.body) == (200, b'"127.0.0.1:8300"')
            assert answer.header("Connection") == "close"
            assert await wire.ended()


async def test_a_stream_to_http_1_0_ends_with_the_connection(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(b"GET /v1/snapshot HTTP/1.0\r\n\r\n")
        assert answer.header("Transfer-Encoding") is None
        assert answer.body.startswith(b"\x1f\x8b")


async def test_an_upgrade_is_not_taken_but_answered(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        answer = await wire.request(
            b"GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        )
        assert (answer.status, answer.body) == (200, b'"127.0.0.1:8300"')


async def test_endless_headers_are_cut_off_with_431(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        await wire.send(b"GET / HTTP/1.1\r\n")
        line = b"X-Pad: " + b"x" * 60000 + b"\r\n"
        for _ in range(18):
            await wire.send(line)
        assert (await wire.response()).status == 431


def _blocking(asleep: dict[str, int]) -> Routes:
    routes = Routes()

    @routes.get("/v1/kv/")
    async def sleep(request: ApiRequest) -> ApiResponse:
        asleep["now"] += 1
        try:
            await asyncio.Event().wait()
        finally:
            asleep["now"] -= 1
        return json_response(None)

    @routes.get("/v1/awake")
    async def awake(request: ApiRequest) -> ApiResponse:
        return json_response(asleep["now"])

    return routes


@pytest.mark.parametrize("short_way", [True, False])
@pytest.mark.parametrize("pipelined", [b"", GET, b"GET /v1/awake HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_blocking_query_ends_when_its_client_goes_away(
    serve: Any, short_way: bool, pipelined: bytes
) -> None:
    asleep = {"now": 0}
    rim = Rim(make_facade(), Router([_blocking(asleep)]))
    server: HttpServer = await serve(server={"rim": rim, "short_way": short_way})
    async with connect(server.port) as wire:
        await wire.send(GET + pipelined)
        await until(lambda: asleep["now"] == 1)
    await until(lambda: asleep["now"] == 0)
    await until(lambda: not server.state.tasks)
    assert server.limit.connections("127.0.0.1") == 0


async def test_stopping_ends_blocking_queries(serve: Any) -> None:
    asleep = {"now": 0}
    async with serving(
        make_facade(), rim=Rim(make_facade(), Router([_blocking(asleep)]))
    ) as server:
        server.drain_s = 0.01
        async with connect(server.port) as wire:
            await wire.send(GET)
            await until(lambda: asleep["now"] == 1)
            await server.stop()
            assert asleep["now"] == 0
            assert await wire.ended()


async def test_a_client_over_its_connection_limit_is_told_so(serve: Any) -> None:
    config = AgentConfig(limits=Limits(http_max_conns_per_client=2))
    server: HttpServer = await serve(config=config)
    async with connect(server.port) as first, connect(server.port) as second:
        assert (await first.request(GET)).status == 404
        assert (await second.request(GET)).status == 404
        async with connect(server.port) as third:
            answer = await third.request(GET)
            assert answer.status == 429
            assert answer.header("Retry-After") == "1"
            assert answer.body == (
                b"Too many connections from this address: 3 are open, the limit is 2 "
                b"(limits.http_max_conns_per_client)"
            )
            assert await third.ended()
        assert (await first.request(GET)).status == 404
    await until(lambda: server.limit.connections("127.0.0.1") == 0)
    async with connect(server.port) as again:
        assert (await again.request(GET)).status == 404


def test_connections_are_counted_by_address() -> None:
    limit = ConnectionLimit(1)
    assert [limit.enter("a"), limit.enter("a"), limit.enter("b"), limit.enter("")] == [0, 2, 0, 0]
    limit.leave("a")
    limit.leave("a")
    limit.leave("")
    assert (limit.connections("a"), limit.enter("a")) == (0, 0)
    limit.maximum = 0
    assert limit.enter("a") == 0


async def test_clients_that_are_too_slow_are_cut_off(serve: Any) -> None:
    deadlines = Deadlines(head_s=0.05, body_s=0.05, idle_s=0.05, sweep_s=0.02)
    server: HttpServer = await serve(server={"deadlines": deadlines})
    for begun in (b"", b"GET /v1/", PUT + b"Content-Length: 9\r\n\r\nab", GET):
        async with connect(server.port) as wire:
            await wire.send(begun)
            if begun == GET:
                assert (await wire.response()).status == 404
            assert await wire.ended()


async def test_a_head_that_comes_byte_by_byte_is_cut_off(serve: Any) -> None:
    """A byte now and then does not put off the deadline."""
    server: HttpServer = await serve(server={"deadlines": Deadlines(head_s=0.2, sweep_s=0.02)})
    async with connect(server.port) as wire:
        sent = await drip(wire, b"GET /v1/kv/a?" + b"x" * 1000)
        assert 0 < sent < 1000


async def test_a_body_that_comes_byte_by_byte_is_cut_off(serve: Any) -> None:
    deadlines = Deadlines(body_s=0.2, sweep_s=0.02)
    server: HttpServer = await serve(server={"deadlines": deadlines})
    async with connect(server.port) as wire:
        await wire.send(PUT + b"Content-Length: 1000\r\n\r\n")
        sent = await drip(wire, b"x" * 1000)
        assert 0 < sent < 1000
    async with connect(server.port) as wire:
        assert (await wire.request(GET)).status == 404


async def drip(wire: Any, data: bytes) -> int:
    """Send a byte every few ms until the server closes; how many it took."""
    for sent, byte in enumerate(data):
        try:
            async with asyncio.timeout(0.005):
                if await wire.ended():
                    return sent
        except TimeoutError:
            """It is still listening."""
        try:
            await wire.send(bytes([byte]))
        except ConnectionError:
            return sent
    return len(data)


def test_a_body_has_as_long_as_its_size_allows() -> None:
    deadlines = Deadlines(body_s=30, body_bytes_per_s=1000)
    steady = BodyClock(deadlines, 100)
    assert steady.received(1000, 101) == 131  # fast enough: only the next piece counts
    assert steady.received(1000, 131) == 132  # behind the rate: what it is ahead is used up
    slow = BodyClock(deadlines, 100)
    assert [slow.received(1, 129), slow.received(1, 130)] == [130.001, 130.002]


async def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Any) -> None:
    deadlines = Deadlines(answer_s=0.2, sweep_s=0.02)
    server: HttpServer = await serve(server={"deadlines": deadlines})
    async with connect(server.port) as wire:
        value = b"x" * 500_000
        head = PUT + b"Content-Length: %d\r\n\r\n" % len(value)
        assert (await wire.request(head + value)).body == b"true"
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(deaf, GET * 30)
        await until(lambda: server.limit.connections("127.0.0.1") == 1)
        await until(lambda: server.limit.connections("127.0.0.1") == 0)
        await until(lambda: not server.state.tasks)


async def test_a_client_that_reads_slowly_gets_all(serve: Any) -> None:
    """The deadline is for taking some of the answer, not all of it."""
    deadlines = Deadlines(answer_s=1.0, sweep_s=0.02)
    server: HttpServer = await serve(server={"deadlines": deadlines})
    async with connect(server.port) as wire:
        value = b"x" * 500_000
        head = PUT + b"Content-Length: %d\r\n\r\n" % len(value)
        assert (await wire.request(head + value)).body == b"true"
    loop, received = asyncio.get_running_loop(), 0
    started = loop.time()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.setblocking(False)
        await loop.sock_sendall(slow, GET * 29 + GET.replace(b"\r\n\r\n", CLOSE))
        while piece := await loop.sock_recv(slow, 200_000):
            received += len(piece)
            await asyncio.sleep(0.02)
    assert received > 30 * 500_000
    assert loop.time() - started > deadlines.answer_s


async def test_a_header_line_for_every_few_bytes_is_431(server: HttpServer) -> None:
    async with connect(server.port) as wire:
        await wire.send(b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 50_000)
        assert (await wire.response()).status == 431
    async with connect(server.port) as wire:
        lines = b"X-Pad: b\r\n" * 900
        assert (
            await wire.request(GET.replace(b"\r\n\r\n", b"\r\n" + lines + b"\r\n"))
        ).status == 404


async def test_a_handler_may_take_longer_than_any_deadline(serve: Any) -> None:
    asleep = {"now": 0}
    rim = Rim(make_facade(), Router([_blocking(asleep)]))
    deadlines = Deadlines(head_s=0.01, body_s=0.01, idle_s=0.01, sweep_s=0.01)
    server: HttpServer = await serve(server={"rim": rim, "deadlines": deadlines})
    async with connect(server.port) as wire:
        await wire.send(GET)
        await until(lambda: asleep["now"] == 1)
        connection = next(iter(server.state.connections))
        assert connection.deadline_s == 0.0  # type: ignore[union-attr]


async def test_a_unix_socket_is_made_with_the_configured_mode(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    config = AgentConfig(
        addresses=Addresses(http=f"unix://{path}"), unix_sockets=UnixSockets(mode="0640")
    )
    local = SimpleNamespace(services={}, checks={})
    for _ in range(2):  # the second time over the socket of a process that is gone
        facade = make_facade(config=config, local=local)
        server = HttpServer(facade)
        await server.start()
        try:
            assert path.stat().st_mode & 0o777 == 0o640
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as session:
                assert (await session.get("/v1/status/leader")).status_code == 200
        finally:
            await server.stop()
        assert not path.exists()
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(path))
        left.close()


async def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    path.write_text("mine")
    server = HttpServer(make_facade(), listeners=[Listen(f"unix://{path}")])
    with pytest.raises(ConfigError, match=r"cannot listen on unix://"):
        await server.start()
    assert path.read_text() == "mine"


async def test_a_taken_port_is_one_clear_line_and_nothing_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = HttpServer(
            make_facade(), listeners=[Listen("127.0.0.1", 0), Listen("127.0.0.1", port)]
        )
        with pytest.raises(ConfigError) as caught:
            await server.start()
        assert str(caught.value) == (
            f"ports.http: cannot listen on 127.0.0.1:{port}: the port is taken; "
            "stop the other program or choose another port"
        )
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection("127.0.0.1", server.port)


def test_every_configured_address_is_listened_on() -> None:
    config = AgentConfig(client_addr="127.0.0.1 ::1", ports=Ports(http=8500, https=8501))
    assert configured_listeners(config) == [
        Listen("127.0.0.1", 8500),
        Listen("::1", 8500),
        Listen("127.0.0.1", 8501, tls=True),
        Listen("::1", 8501, tls=True),
    ]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of its own for 127.0.0.1; the key is `key.pem` beside it."""
    key, path = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(path)]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    return path


async def test_https(certificate: Path) -> None:
    key = certificate.with_name("key.pem")
    config = AgentConfig(cert_file=str(certificate), key_file=str(key))
    server = HttpServer(make_facade(config=config), listeners=[Listen("127.0.0.1", 0, tls=True)])
    await server.start()
    try:
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with httpx.AsyncClient(verify=trusted) as session:
            answer = await session.get(f"https://127.0.0.1:{server.port}/v1/status/leader")
        assert answer.json() == "127.0.0.1:8300"
    finally:
        await server.stop()


async def test_https_without_a_certificate_is_refused() -> None:
    server = HttpServer(make_facade(), listeners=[Listen("127.0.0.1", 0, tls=True)])
    with pytest.raises(ConfigError, match=r"ports.https: HTTPS needs cert_file and key_file"):
        await server.start()
