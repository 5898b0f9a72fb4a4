"""The listeners, with real sockets: UDP, TCP, recursors, what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rrset
import msgspec
import pytest
from dns.rcode import Rcode

from registry.agent.config import AgentConfig, DnsConfig, Ports
from registry.agent.facade import AgentFacade
from registry.agent.metrics import Metrics
from registry.dns import answering, server
from registry.dns.server import DnsServer, Listen, open_socket
from registry.errors import ConfigError, NoLeader
from registry.hooks import DnsAnswer, DnsFilter, DnsQuestion, hookimpl
from registry.plugins import Plugins
from registry.state.base import Query, ReadOptions, ReadResult
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Service
from registry.testing.consensus import InstantBackend
from registry.testing.serving import make_facade

HOST = "127.0.0.1"
WEB = "web.service.consul."


async def backend_with(count: int = 3) -> InstantBackend:
    backend = InstantBackend()
    for number in range(count):
        service = Service(id="web", name="web", port=80, meta={"number": str(number)})
        address = f"10.0.{number // 250}.{number % 250}"
        await backend.write(Register(node=f"n{number}", address=address, service=service))
    return backend


@asynccontextmanager
async def serving(facade: AgentFacade, address: str = HOST) -> AsyncIterator[DnsServer]:
    started = DnsServer(facade, listeners=[Listen(address)])
    await started.start()
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(started.run())
            yield started
            task.cancel()
    finally:
        await started.stop()


async def ask(
    port: int, name: str = WEB, rdtype: str = "A", *, over_tcp: bool = False, **more: Any
) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, use_edns=more.pop("use_edns", False), **more)
    send = dns.asyncquery.tcp if over_tcp else dns.asyncquery.udp
    return await send(query, HOST, timeout=5, port=port)


@pytest.fixture(params=[False, True], ids=["udp", "tcp"])
def over_tcp(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_question_is_answered(over_tcp: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "registry.dns")
    facade = make_facade(backend=await backend_with())
    async with serving(facade) as running:
        answer = await ask(running.port, over_tcp=over_tcp)
        assert sorted(answer.answer[0].to_text().split()[4::5]) == [f"10.0.0.{n}" for n in range(3)]
        pointer = await ask(running.port, "1.0.0.10.in-addr.arpa.", "PTR", over_tcp=over_tcp)
        assert "n1.node.dc1.consul." in pointer.answer[0].to_text()
    lines = [record.getMessage() for record in caplog.records]
    (line,) = [line for line in lines if f"name={WEB} type=A class=IN latency=" in line]
    assert line.endswith(f"client_network={'tcp' if over_tcp else 'udp'}")
    samples = facade.metrics.current().samples
    counts = {series[0]: found.count for series, found in samples.items() if "dns" in series[0]}
    assert counts == {"consul.dns.domain_query": 1, "consul.dns.ptr_query": 1}


async def test_questions_at_once_on_one_connection_are_answered_in_turn() -> None:
    async with serving(make_facade(backend=await backend_with())) as running:
        reader, writer = await asyncio.open_connection(HOST, running.port)
        for number in range(5):
            packet = dns.message.make_query(WEB, "A", id=number).to_wire(prepend_length=True)
            writer.write(packet)
        for number in range(5):
            size = int.from_bytes(await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(size)).id == number
        writer.close()
        await writer.wait_closed()


async def test_many_records_come_over_tcp() -> None:
    async with serving(make_facade(backend=await backend_with(600))) as running:
        assert len((await ask(running.port)).answer[0]) == 3
        assert len((await ask(running.port, over_tcp=True)).answer[0]) == 600
        sized = await ask(running.port, use_edns=0, payload=1232)
        assert 60 < len(sized.answer[0]) < 80


async def test_what_is_no_question_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random(7)
    async with serving(make_facade(backend=await backend_with())) as running:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            good = dns.message.make_query(WEB, "SRV", use_edns=0).to_wire()
            for number in range(400):
                packet = bytearray(good if number % 2 else os.urandom(chance.randrange(100)))
                for _ in range(3 if packet else 0):
                    packet[chance.randrange(len(packet))] = chance.randrange(256)
                client.sendto(packet, (HOST, running.port))
                await asyncio.sleep(0)  # or the kernel has no room for the last ones
        for head in (b"", b"\0", b"\0\5abc", b"\xff\xffabc", b"\0\0"):
            reader, writer = await asyncio.open_connection(HOST, running.port)
            writer.write(head)
            writer.close()
            await writer.wait_closed()
            del reader
        assert (await ask(running.port)).rcode() == Rcode.NOERROR
        assert (await ask(running.port, over_tcp=True)).rcode() == Rcode.NOERROR
    assert "Traceback" not in caplog.text


async def test_other_classes_and_versions_are_refused() -> None:
    async with serving(make_facade(backend=await backend_with())) as running:
        chaos = await ask(running.port, rdclass="CH")
        assert chaos.rcode() == Rcode.REFUSED
        newer = await ask(running.port, use_edns=1)
        assert newer.rcode() == Rcode.BADVERS


# Over TCP


async def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.1)
    async with serving(make_facade(backend=await backend_with())) as running:
        reader, writer = await asyncio.open_connection(HOST, running.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    async with serving(make_facade(backend=await backend_with())) as running:
        held = [await asyncio.open_connection(HOST, running.port) for _ in range(3)]
        async with asyncio.timeout(5):
            assert await held[2][0].read() == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while True:
                try:
                    await ask(running.port, over_tcp=True)
                    break
                except (EOFError, OSError):
                    continue  # the others have not been noticed to be gone


async def test_a_long_answer_that_nobody_fetches_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "IDLE_S", 0.3)
    async with serving(make_facade(backend=await backend_with(800))) as running:
        reader, writer = await asyncio.open_connection(HOST, running.port, limit=1024)
        packet = dns.message.make_query(WEB, "SRV").to_wire(prepend_length=True)

        async def ask_on() -> None:
            while True:
                writer.write(packet * 50)
                await writer.drain()
                await asyncio.sleep(0)

        async with asyncio.timeout(20):
            with pytest.raises(OSError):  # noqa: PT011 - reset or broken pipe
                await ask_on()
        del reader


# Ports


async def test_a_port_that_is_taken() -> None:
    async with serving(make_facade(backend=await backend_with())) as running:
        taken = Listen(HOST, running.port)
        for kind, name in ((socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")):
            with pytest.raises(ConfigError) as caught:
                open_socket(taken, kind)
            assert str(caught.value) == (
                f"ports.dns: cannot listen on {HOST}:{running.port} ({name}): "
                "the port is taken; stop the other program or choose another port"
            )
        second = DnsServer(running.answerer.agent, listeners=[Listen(HOST), taken])
        with pytest.raises(ConfigError):
            await second.start()
        open_socket(Listen(*second.addresses[0]), socket.SOCK_DGRAM).close()  # given back


@pytest.mark.parametrize(
    ("ports", "addresses"),
    [(Ports(), [Listen("127.0.0.1", 8600)]), (Ports(dns=-1), []), (Ports(dns=0), [])],
    ids=["usual", "off", "zero"],
)
def test_where_it_listens(ports: Ports, addresses: list[Listen]) -> None:
    config = AgentConfig(ports=ports)
    assert DnsServer(make_facade(config=config)).listeners == addresses


async def test_ipv6() -> None:
    try:
        open_socket(Listen("::1"), socket.SOCK_DGRAM).close()
    except ConfigError:
        pytest.skip("no IPv6 here")
    async with serving(make_facade(backend=await backend_with()), "::1") as running:
        query = dns.message.make_query(WEB, "A")
        answer = await dns.asyncquery.udp(query, "::1", timeout=5, port=running.port)
        assert answer.rcode() == Rcode.NOERROR


@pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8 on loopback")
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
async def test_an_answer_comes_from_the_address_that_was_asked(
    address: str, over_tcp: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "registry.dns")
    try:
        open_socket(Listen(address), socket.SOCK_DGRAM).close()
    except (ConfigError, OSError):
        pytest.skip("no IPv6 here")
    async with serving(make_facade(backend=await backend_with()), address) as running:
        hosts = ["127.0.0.1", "127.1.2.3", *(["::1"] if address == "::" else [])]
        for host in hosts:
            query = dns.message.make_query(WEB, "A")
            send = dns.asyncquery.tcp if over_tcp else dns.asyncquery.udp
            answer = await send(query, host, timeout=5, port=running.port)
            assert answer.rcode() == Rcode.NOERROR
    assert " client=127.0.0.1:" in caplog.text
    assert "ffff" not in caplog.text


# Reads


class Failing(InstantBackend):
    """A backend that does what it is told instead of reading."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self.act = act
        self.options: list[ReadOptions] = []
        self._changed = asyncio.Condition()

    async def read(self, query: Query, options: ReadOptions) -> ReadResult:
        self.options.append(options)
        async with self._changed:
            self._changed.notify_all()
        result: ReadResult = self.act()
        if asyncio.iscoroutine(result):
            await result
        return result

    async def asked(self, count: int) -> None:
        """Until so many reads were begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.options) >= count)


def raises(problem: Exception) -> Callable[[], Any]:
    def act() -> Any:
        raise problem

    return act


@pytest.mark.parametrize("problem", [NoLeader(), LookupError("a bug")], ids=["leader", "bug"])
async def test_a_read_that_fails(problem: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(make_facade(backend=Failing(raises(problem)))) as running:
        answer = await ask(running.port)
        assert answer.rcode() == Rcode.SERVFAIL
        assert not answer.answer
        await ask(running.port)
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == (1 if isinstance(problem, NoLeader) else 2)
    assert ("No cluster leader" in caplog.text) or ("a bug" in caplog.text)


async def test_a_read_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LIMIT_S", 0.05)
    hanging = Failing(lambda: asyncio.sleep(3600))
    async with serving(make_facade(backend=hanging)) as running:
        assert (await ask(running.port)).rcode() == Rcode.SERVFAIL


@pytest.mark.parametrize("stale", [True, False])
async def test_how_old_an_answer_may_be(stale: bool) -> None:
    metrics = Metrics(prefix="consul", host="")
    old = ReadResult(index=1, value=[], mode="stale", last_contact_ms=6000)
    backend = Failing(lambda: old)
    config = AgentConfig(dns_config=DnsConfig(allow_stale=stale, max_stale_ns=7_000_000_000))
    async with serving(make_facade(backend=backend, config=config, metrics=metrics)) as running:
        await ask(running.port)
    (options,) = backend.options
    expected = ReadOptions(mode="stale", max_stale_ms=7000) if stale else ReadOptions()
    assert options == expected
    assert "consul.dns.stale_queries" in {series[0] for series in metrics.current().counters}


async def test_a_flood_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "QUESTIONS_MAX", 5)
    release = asyncio.Event()
    backend = Failing(release.wait)
    async with serving(make_facade(backend=backend)) as running:
        packet = dns.message.make_query(WEB, "A").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(20):
                client.sendto(packet, (HOST, running.port))
            async with asyncio.timeout(5):
                await backend.asked(5)
        assert len(backend.options) == 5
        release.set()


async def test_a_reload_changes_the_answers() -> None:
    facade = make_facade(backend=await backend_with())
    async with serving(facade) as running:
        assert (await ask(running.port)).answer[0].ttl == 0
        given = DnsConfig(service_ttl_ns={"web": 9_000_000_000}, udp_answer_limit=1)
        facade.config = msgspec.structs.replace(facade.config, dns_config=given)
        running.configure(facade)
        (answer,) = (await ask(running.port)).answer
        assert (answer.ttl, len(answer)) == (9, 1)


def test_a_domain_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r'domain: "a\.\.b" is no domain name'):
        DnsServer(make_facade(config=AgentConfig(domain="a..b")))


# Recursors


class Upstream(asyncio.DatagramProtocol):
    """A name server that knows one name of others, or answers with a code."""

    def __init__(self, rcode: Rcode = Rcode.NOERROR) -> None:
        self.rcode = rcode
        self.asked: list[dns.message.Message] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        answer = dns.message.make_response(query)
        answer.set_rcode(self.rcode)
        name = query.question[0].name
        if name == dns.name.from_text("host.example.com") and self.rcode == Rcode.NOERROR:
            answer.answer.append(dns.rrset.from_text(name, 30, "IN", "A", "192.0.2.1"))
        self._transport.sendto(answer.to_wire(), addr)


@asynccontextmanager
async def upstream(rcode: Rcode = Rcode.NOERROR) -> AsyncIterator[tuple[Upstream, str]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Upstream(rcode), local_addr=(HOST, 0)
    )
    yield protocol, f"{HOST}:{transport.get_extra_info('sockname')[1]}"
    transport.close()


def recursing(*recursors: str) -> AgentConfig:
    given = DnsConfig(recursor_timeout_ns=200_000_000)
    return AgentConfig(recursors=recursors, dns_config=given)


async def test_names_of_others_are_asked_in_order() -> None:
    async with upstream(Rcode.REFUSED) as (first, one), upstream() as (second, two):
        config = recursing(one, two)
        async with serving(make_facade(config=config)) as running:
            query = dns.message.make_query("Host.example.com", "A", use_edns=0, payload=1400)
            answer = await dns.asyncquery.udp(query, HOST, timeout=5, port=running.port)
        assert answer.answer[0].to_text() == "Host.example.com. 30 IN A 192.0.2.1"
        assert answer.id == query.id
        assert answer.flags & dns.flags.RA
        assert [len(first.asked), len(second.asked)] == [1, 1]
        assert second.asked[0].id != query.id
        assert second.asked[0].payload == 1400


@pytest.mark.parametrize("rcode", [Rcode.SERVFAIL, Rcode.REFUSED])
async def test_when_nobody_knows(rcode: Rcode) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        nobody = f"{HOST}:{silent.getsockname()[1]}"
        async with upstream(rcode) as (_, refusing):
            config = recursing(nobody, refusing, "no.such.host.invalid:53")
            async with serving(make_facade(config=config)) as running:
                answer = await ask(running.port, "host.example.com")
    assert answer.rcode() == Rcode.SERVFAIL
    assert not answer.flags & dns.flags.AA
    assert answer.flags & dns.flags.RA


async def test_without_recursors() -> None:
    async with serving(make_facade()) as running:
        answer = await ask(running.port, "host.example.com")
    assert answer.rcode() == Rcode.SERVFAIL
    assert not answer.flags & (dns.flags.AA | dns.flags.RA)


async def test_that_there_is_no_such_name_is_an_answer() -> None:
    async with upstream(Rcode.NXDOMAIN) as (_, one), upstream() as (second, two):
        async with serving(make_facade(config=recursing(one, two))) as running:
            answer = await ask(running.port, "none.example.com")
        assert answer.rcode() == Rcode.NXDOMAIN
        assert second.asked == []


async def test_an_alias_is_looked_up() -> None:
    backend = InstantBackend()
    await backend.write(Register(node="far", address="host.example.com"))
    async with upstream() as (_, address):
        config = recursing(address)
        async with serving(make_facade(backend=backend, config=config)) as running:
            answer = await ask(running.port, "far.node.consul")
    assert [each.to_text() for each in answer.answer] == [
        "far.node.consul. 0 IN CNAME host.example.com.",
        "host.example.com. 30 IN A 192.0.2.1",
    ]


# Plugins


async def test_a_plugin_sees_the_question_and_chooses() -> None:
    seen: list[tuple[DnsQuestion, list[DnsAnswer]]] = []

    class Odd:
        @hookimpl
        def registry_dns_filters(self) -> list[DnsFilter]:
            def odd(question: DnsQuestion, answers: Sequence[DnsAnswer]) -> list[DnsAnswer]:
                seen.append((question, list(answers)))
                return [each for each in answers if int(each.meta["number"]) % 2]

            return [DnsFilter(name="odd", filter=odd)]

    plugins = Plugins()
    plugins.add("odd", Odd())
    try:
        facade = make_facade(backend=await backend_with(), plugins=plugins)
        async with serving(facade) as running:
            answer = await ask(running.port)
    finally:
        plugins.close()
    assert answer.answer[0].to_text() == f"{WEB} 0 IN A 10.0.0.1"
    ((question, answers),) = seen
    assert question == DnsQuestion(name=WEB, type="A", client=HOST)
    (one,) = [each for each in answers if each.node == "n1"]
    assert one == DnsAnswer(
        node="n1",
        service="web",
        service_id="web",
        datacenter="dc1",
        address="10.0.0.1",
        port=80,
        meta={"number": "1"},
    )
