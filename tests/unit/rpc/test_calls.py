"""Over real sockets: calls, cancellation, refusals, lost peers, and the pool's back-off."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from registry.errors import (
    ConfigError,
    ConnectionLost,
    LocalProtocolError,
    NotFound,
    NotLeader,
    RegistryError,
    TooLarge,
    Unreachable,
)
from registry.rpc.connection import Connection, dial
from registry.rpc.pool import Pool, PoolSettings, check_hello
from registry.rpc.server import Caller, RpcServer, RpcServerSettings
from registry.rpc.stream import PREFACE, Hello, Limits, Side, Stream

CLIENT = Hello("dc1", "client")
SERVER = Hello("dc1", "server")


@asynccontextmanager
async def running(*parts: Any) -> AsyncIterator[None]:
    """Parts with a `run`, until the block ends."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in parts]
        await asyncio.sleep(0)  # they have begun
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of the world outside this loop
            await asyncio.sleep(0.001)


class Handlers:
    """What the server under test answers."""

    def __init__(self) -> None:
        self.cancelled: list[bytes] = []
        self.waiting = 0
        self.told: list[bytes] = []
        self.release = asyncio.Event()

    async def echo(self, caller: Caller, body: bytes) -> bytes:
        return caller.hello.node.encode() + b":" + body

    async def refuse(self, caller: Caller, body: bytes) -> bytes:
        raise NotLeader("server-2")

    async def bug(self, caller: Caller, body: bytes) -> bytes:
        raise ZeroDivisionError

    async def big(self, caller: Caller, body: bytes) -> bytes:
        return bytes(int(body))

    async def wait(self, caller: Caller, body: bytes) -> bytes:
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.append(body)
            raise
        finally:
            self.waiting -= 1
        return body

    def tell(self, caller: Caller, body: bytes) -> None:
        if body == b"bug":
            raise ZeroDivisionError
        self.told.append(body)


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def make_server(handlers: Handlers, **options: Any) -> tuple[RpcServer, str]:
    """A bound server and its address."""
    server = RpcServer(SERVER, admit=lambda hello: check_hello(SERVER, hello), **options)
    names = ("echo", "refuse", "bug", "big", "wait")
    server.serve({name: getattr(handlers, name) for name in names}, {"tell": handlers.tell})
    return server, f"127.0.0.1:{server.bind('127.0.0.1', 0)}"


@pytest.fixture
async def address(handlers: Handlers) -> AsyncIterator[str]:
    server, address = make_server(handlers, settings=RpcServerSettings(limits=Limits(1 << 20)))
    async with running(server):
        yield address


@pytest.fixture
async def connection(address: str) -> AsyncIterator[Connection]:
    connection = await dial(address, CLIENT)
    yield connection
    connection.close()


async def test_calls_are_answered_to_whoever_asked(connection: Connection) -> None:
    answers = await asyncio.gather(
        *(connection.call("echo", str(number).encode()) for number in range(100))
    )
    assert answers == [b"client:%d" % number for number in range(100)]
    assert connection.peer == SERVER
    assert connection.calls_open == 0


@pytest.mark.parametrize(
    ("method", "body", "kind", "text"),
    [
        ("refuse", b"", NotLeader, "not the leader; the leader is server-2"),
        ("nothing", b"", NotFound, "this server knows no request 'nothing'"),
        (
            "bug",
            b"",
            RegistryError,
            "internal error: ZeroDivisionError; the log of server has more",
        ),
        ("big", b"2000000", TooLarge, "a message of 2000008 bytes is over the limit of 1048576"),
    ],
)
async def test_errors_cross_with_type_and_text(
    connection: Connection, method: str, body: bytes, kind: type[Exception], text: str
) -> None:
    with pytest.raises(RegistryError) as caught:
        await connection.call(method, body)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)
    assert await connection.call("echo", b"still here") == b"client:still here"


async def test_giving_up_a_call_cancels_its_handler(
    connection: Connection, handlers: Handlers
) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(connection.call("wait", b"1"))
        staying = group.create_task(connection.call("wait", b"2"))
        await until(lambda: handlers.waiting == 2)
        asking.cancel()
        await until(lambda: handlers.waiting == 1)
        handlers.release.set()
        assert await staying == b"2"
    assert handlers.cancelled == [b"1"]


async def test_a_deadline_of_the_asker_cancels_the_handler(
    connection: Connection, handlers: Handlers
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connection.call("wait", b"1")
    await until(lambda: handlers.cancelled == [b"1"])


async def test_a_lost_asker_cancels_its_handlers(address: str, handlers: Handlers) -> None:
    connection = await dial(address, CLIENT)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_outcome(connection.call("wait", b"1")))
        await until(lambda: handlers.waiting == 1)
        connection.close()
        assert isinstance(await asking, ConnectionLost)
    await until(lambda: handlers.cancelled == [b"1"])


async def _outcome(call: Awaitable[bytes]) -> bytes | RegistryError:
    try:
        return await call
    except RegistryError as problem:
        return problem


async def test_a_server_that_ends_loses_what_was_asked_and_nothing_else(
    handlers: Handlers,
) -> None:
    server, address = make_server(handlers)
    ended: list[str] = []
    async with asyncio.TaskGroup() as group:
        async with running(server):
            connection = await dial(address, CLIENT)
            connection.when_ended(lambda: ended.append("ended"))
            asking = group.create_task(_outcome(connection.call("wait", b"1")))
            await until(lambda: handlers.waiting == 1)
        assert isinstance(await asking, ConnectionLost)
    assert ended == ["ended"]
    assert handlers.cancelled == [b"1"]
    with pytest.raises(Unreachable):  # nothing was sent: it may be asked elsewhere
        await connection.call("echo", b"")
    assert not connection.notify("tell", [b""])


async def test_after_goodbye_the_answer_under_way_still_comes(handlers: Handlers) -> None:
    server, address = make_server(handlers)
    async with running(server), asyncio.TaskGroup() as group:
        connection = await dial(address, CLIENT)
        asking = group.create_task(connection.call("wait", b"1"))
        await until(lambda: handlers.waiting == 1)
        server.announce_end("restarting")
        await until(lambda: not connection.is_open)
        with pytest.raises(Unreachable, match="restarting"):
            await connection.call("echo", b"")
        await server.drain(limit_s=0.01)
        assert handlers.waiting == 1
        draining = group.create_task(server.drain())
        await asyncio.sleep(0)
        handlers.release.set()
        await draining
        assert await asking == b"1"
        await until(lambda: connection.has_ended)
        await server.drain()


async def test_after_goodbye_nobody_else_is_let_in(handlers: Handlers) -> None:
    """Or who was told to turn to others would be back at once."""
    server, address = make_server(handlers)
    async with running(server):
        server.announce_end("restarting")
        with pytest.raises(Unreachable, match="restarting"):
            await dial(address, CLIENT)


async def test_notices_come_in_order_and_a_bad_one_does_no_harm(
    connection: Connection, handlers: Handlers
) -> None:
    assert connection.notify("tell", [b"1", b"bug", b"2"])
    assert connection.notify("unknown", [b"x"])
    assert await connection.call("echo", b"") == b"client:"
    assert handlers.told == [b"1", b"2"]


async def test_a_peer_that_does_not_read_is_not_sent_more(handlers: Handlers) -> None:
    """The asker waits once the peer's and our own buffers are full, and may give up."""
    async with _silent_peer() as address:
        connection = await dial(address, CLIENT)
        await until(lambda: not connection.notify("tell", [bytes(1 << 20)]))
        assert not connection.is_writable
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.call("echo", b"")
        assert connection.calls_open == 0
        connection.close()


async def test_a_peer_that_gives_no_sign_of_life_is_given_up() -> None:
    async with _silent_peer() as address:
        pool = Pool(CLIENT, PoolSettings(ping_interval_s=0.02, silence_max_s=0.05))
        async with running(pool):
            connection = await pool.connect(address)
            with pytest.raises(ConnectionLost, match=r"no sign of life for 0\.05 s"):
                await connection.call("echo", b"")
            assert not connection.ended_by_peer


async def test_a_peer_that_ends_is_told_from_one_that_is_silent(handlers: Handlers) -> None:
    server, address = make_server(handlers)
    async with running(server):
        connection = await dial(address, CLIENT)
    await until(lambda: connection.has_ended)
    assert connection.ended_by_peer
    with pytest.raises(Unreachable) as refusal:
        await dial(address, CLIENT)
    assert refusal.value.refused


async def test_a_peer_that_answers_pings_may_take_its_time(
    address: str, handlers: Handlers
) -> None:
    pool = Pool(CLIENT, PoolSettings(ping_interval_s=0.01, silence_max_s=0.2))
    async with running(pool), asyncio.TaskGroup() as group:
        asking = group.create_task(pool.call(address, "wait", b"1"))
        await until(lambda: handlers.waiting == 1)
        await asyncio.sleep(0.4)  # longer than a silent peer would be waited for
        handlers.release.set()
        assert await asking == b"1"


@asynccontextmanager
async def _silent_peer() -> AsyncIterator[str]:
    """Says Hello, then neither reads nor writes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = Stream(Side.ACCEPTOR, SERVER)
        while not stream.receive(await reader.read(100)):
            pass
        stream.welcome()
        writer.write(stream.data_to_send())
        reader_transport: Any = writer.transport
        reader_transport.pause_reading()
        await over.wait()
        writer.close()

    over = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        over.set()
        server.close()


# Refusals of the listener


async def test_a_wrong_datacenter_is_told_and_refused(address: str) -> None:
    with pytest.raises(Unreachable, match="this is datacenter 'dc1', not 'dc2'"):
        await dial(address, Hello("dc2", "client"))


@pytest.mark.parametrize(
    ("reason", "level"), [("", logging.WARNING), ("leaving", logging.DEBUG)], ids=["up", "ending"]
)
async def test_who_ends_does_not_warn_of_peers_that_come_back(
    handlers: Handlers, caplog: pytest.LogCaptureFixture, reason: str, level: int
) -> None:
    caplog.set_level(logging.DEBUG, "registry.rpc")
    server, address = make_server(handlers)
    async with running(server):
        if reason:
            server.announce_end(reason)
        with pytest.raises(Unreachable):
            await dial(address, Hello("dc2", "client"))
    (refused,) = [each for each in caplog.records if "peer refused" in each.message]
    assert refused.levelno == level


@pytest.mark.parametrize("steps", range(6))
async def test_who_is_accepted_as_the_listener_ends_is_cut_off(steps: int) -> None:
    """However far the connection has come by then, while an answer still takes its time."""
    asked, finish = asyncio.Event(), asyncio.Event()

    async def linger(caller: Caller, body: bytes) -> bytes:
        asked.set()
        with suppress(asyncio.CancelledError):
            await finish.wait()
        await finish.wait()
        return b""

    server = RpcServer(SERVER)
    server.serve({"linger": linger})
    port = server.bind("127.0.0.1", 0)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.run())
        await asyncio.sleep(0)
        connection = await dial(f"127.0.0.1:{port}", CLIENT)
        asking = group.create_task(_outcome(connection.call("linger", b"")))
        await asked.wait()
        with socket.create_connection(("127.0.0.1", port)) as late:
            late.setblocking(False)
            for _ in range(steps):
                await asyncio.sleep(0)
            serving.cancel()
            async with asyncio.timeout(5):
                with suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(late, 1) == b""
        assert server.connections == 0
        finish.set()
        assert isinstance(await asking, ConnectionLost)


async def test_what_speaks_another_protocol_is_cut_off(address: str) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await _read_to_the_end(reader) == b""
    writer.close()


async def _read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """What came before the connection ended, however it did."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_slow_handshake_is_cut_off(handlers: Handlers) -> None:
    server, address = make_server(handlers, settings=RpcServerSettings(handshake_timeout_s=0.05))
    async with running(server):
        host, _, port = address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE)
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)
        writer.close()


async def test_one_address_may_have_so_many_connections(handlers: Handlers) -> None:
    settings = RpcServerSettings(connections_per_address_max=2)
    server, address = make_server(handlers, settings=settings)
    async with running(server):
        first, second = await dial(address, CLIENT), await dial(address, CLIENT)
        with pytest.raises(Unreachable):
            await dial(address, CLIENT)
        first.close()
        await until(lambda: server.connections == 1)
        third = await dial(address, CLIENT)
        assert await third.call("echo", b"") == b"client:"
        for each in (second, third):
            each.close()


async def test_a_dialler_that_falls_silent_is_forgotten(handlers: Handlers) -> None:
    server, address = make_server(handlers, settings=RpcServerSettings(silence_max_s=0.05))
    async with running(server):
        connection = await dial(address, CLIENT)
        await until(lambda: server.connections == 0)
        await until(lambda: connection.has_ended)


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"listen tcp 127.0.0.1:{port}: bind: address alre"):
            RpcServer(SERVER).bind("127.0.0.1", port)


async def test_a_method_has_one_handler_and_a_server_is_bound_first(handlers: Handlers) -> None:
    server = RpcServer(SERVER)
    server.serve({"echo": handlers.echo})
    with pytest.raises(LocalProtocolError):
        server.serve({}, {"echo": handlers.tell})
    with pytest.raises(LocalProtocolError):
        await server.run()


# The pool


class Dialler:
    """Counts attempts; fails as long as it is told to."""

    def __init__(self, address: str = "") -> None:
        self.attempts = 0
        self.down = True
        self._address = address

    async def __call__(self, address: str) -> Connection:
        self.attempts += 1
        await asyncio.sleep(0)
        if self.down:
            raise Unreachable(address, "refused")
        return await dial(self._address, CLIENT)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_the_pool_shares_one_connection_and_one_dial(address: str) -> None:
    dialler = Dialler(address)
    dialler.down = False
    pool = Pool(CLIENT, dial_peer=dialler)
    async with running(pool):
        answers = await asyncio.gather(*(pool.call("peer", "echo", b"") for _ in range(20)))
        assert answers == [b"client:"] * 20
        assert dialler.attempts == 1


async def test_a_peer_that_is_down_is_left_alone_for_longer_and_longer() -> None:
    dialler, clock = Dialler(), Clock()
    pool = Pool(CLIENT, dial_peer=dialler, clock=clock, rng=random.Random(1))
    async with running(pool):
        for failures in range(1, 15):
            with pytest.raises(Unreachable, match="refused"):
                await pool.connect("peer")
            assert dialler.attempts == failures
            longest = min(40.0, 0.010 * 2 ** (failures - 1))
            pause = pool.retry_in("peer")
            assert longest / 2 <= pause <= longest
            with pytest.raises(Unreachable, match="next try in"):  # at once, without dialling
                await pool.connect("peer")
            assert dialler.attempts == failures
            clock.now += pause


async def test_how_long_a_peer_is_left_alone_at_most_can_be_set() -> None:
    dialler, clock = Dialler(), Clock()
    pool = Pool(CLIENT, PoolSettings(backoff_max_s=0.5), dial_peer=dialler, clock=clock)
    async with running(pool):
        for _ in range(20):
            with pytest.raises(Unreachable, match="refused"):
                await pool.connect("peer")
            clock.now += pool.retry_in("peer")
        assert dialler.attempts == 20
        with pytest.raises(Unreachable, match="refused"):
            await pool.connect("peer")
        assert pool.retry_in("peer") <= 0.5


async def test_news_of_a_peer_end_its_pause(address: str) -> None:
    dialler = Dialler(address)
    pool = Pool(CLIENT, dial_peer=dialler, clock=Clock())
    async with running(pool), asyncio.TaskGroup() as group:
        with pytest.raises(Unreachable):
            await pool.connect("peer")
        assert pool.retry_in("peer") > 0
        dialler.down = False
        waiting = group.create_task(pool.ready("peer"))
        await asyncio.sleep(0)
        pool.revive("peer")
        await waiting
        assert await pool.call("peer", "echo", b"") == b"client:"


async def test_a_peer_that_drops_us_at_once_is_left_alone_too() -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        writer.transport.abort()

    accepted: list[int] = []
    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pool = Pool(CLIENT, clock=Clock())
    async with running(pool):
        for _ in range(3):
            with pytest.raises(Unreachable):
                await pool.connect(address)
    assert len(accepted) == 1
    server.close()


async def test_a_connection_that_did_not_last_counts_as_a_failure(address: str) -> None:
    pool = Pool(CLIENT)
    async with running(pool):
        (await pool.connect(address)).close()
        with pytest.raises(Unreachable, match="next try in"):
            await pool.connect(address)


async def test_unused_connections_are_closed(handlers: Handlers) -> None:
    server, address = make_server(handlers)
    pool = Pool(CLIENT, PoolSettings(ping_interval_s=0.01, idle_max_s=0.05))
    async with running(server, pool):
        connection = await pool.connect(address)
        await until(lambda: connection.has_ended)
        await until(lambda: server.connections == 0)


async def test_calls_wait_until_the_pool_runs_and_fail_once_it_has_ended(address: str) -> None:
    pool = Pool(CLIENT)
    async with asyncio.TaskGroup() as group:
        early = group.create_task(pool.call(address, "echo", b""))
        await asyncio.sleep(0)
        async with running(pool):
            assert await early == b"client:"
    with pytest.raises(Unreachable, match="stopping"):
        await pool.connect(address)


async def test_a_forgotten_peer_still_answers_what_was_asked(
    address: str, handlers: Handlers
) -> None:
    pool = Pool(CLIENT, PoolSettings(ping_interval_s=0.01, idle_max_s=0.05))
    async with running(pool), asyncio.TaskGroup() as group:
        connection = await pool.connect(address)
        asking = group.create_task(pool.call(address, "wait", b"1"))
        await until(lambda: handlers.waiting == 1)
        pool.forget(address)
        handlers.release.set()
        assert await asking == b"1"
        await until(lambda: connection.has_ended)


async def test_forgetting_a_peer_closes_its_connection(address: str) -> None:
    pool = Pool(CLIENT)
    async with running(pool):
        connection = await pool.connect(address)
        pool.forget(address)
        assert connection.has_ended
        assert (await pool.connect(address)).is_open


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.0.0.1:99999999", "nonsense", "127.0.0.1:x"]
)
async def test_addresses_where_nobody_is(address: str) -> None:
    with pytest.raises(Unreachable):
        await dial(address, CLIENT)
