"""Packets: questions read, replies cut to size."""

from __future__ import annotations

import random
import struct
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest
from dns.rcode import Rcode
from hypothesis import given
from hypothesis import strategies as st

from registry.agent.config import AgentConfig, DnsConfig
from registry.dns.messages import (
    Asked,
    Malformed,
    Unanswerable,
    failure,
    read_question,
    written,
)
from registry.dns.records import Answer, Record, address_record, meta_records, srv_record
from registry.dns.resolver import Reply
from registry.dns.rules import Rules

NAME = dns.name.from_text("web.service.consul.")
OWNER = NAME.labels


def rules(recursors: tuple[str, ...] = (), **more: Any) -> Rules:
    return Rules.from_config(AgentConfig(dns_config=DnsConfig(**more), recursors=recursors))


def asked(rdtype: str = "A", *, over_tcp: bool = False, **more: Any) -> Asked:
    query = dns.message.make_query(NAME, rdtype, **more)
    return read_question(query.to_wire(), "127.0.0.1", over_tcp=over_tcp)


def addresses(count: int) -> Reply:
    found = [address_record(OWNER, 0, f"10.0.{at // 250}.{at % 250}") for at in range(count)]
    return Reply([Answer(each) for each in found if each is not None])


def services(count: int, meta_bytes: int = 0) -> Reply:
    answers = []
    for number in range(count):
        target = dns.name.from_text(f"node{number}.node.dc1.consul.").labels
        address = address_record(target, 0, f"10.0.{number // 250}.{number % 250}")
        assert address is not None
        meta = meta_records(target, 0, {"k": "v" * meta_bytes} if meta_bytes else None)
        record = srv_record(OWNER, 0, 1, 80, target)
        answers.append(Answer(record, (address, *meta)))
    return Reply(answers)


def read(packet: bytes) -> dns.message.Message:
    return dns.message.from_wire(packet, one_rr_per_rrset=True)


def counts(packet: bytes) -> tuple[int, int]:
    """Records in the answer and in the additional section."""
    message = read(packet)
    return len(message.answer), len(message.additional)


@pytest.mark.parametrize(
    ("question", "limit", "count"),
    [
        ({}, 3, 3),
        ({}, 1, 1),
        ({}, 8, 8),
        ({}, 100, 8),
        ({"use_edns": 0, "payload": 4096}, 3, 20),
        ({"over_tcp": True}, 3, 20),
    ],
    ids=["plain", "one", "eight", "never more", "with a size", "over TCP"],
)
def test_how_many_records(question: dict[str, Any], limit: int, count: int) -> None:
    packet = written(asked(**question), addresses(20), rules(udp_answer_limit=limit))
    assert counts(packet) == (count, 0)


def test_how_many_records_over_tcp() -> None:
    assert counts(written(asked(over_tcp=True), addresses(3000), rules()))[0] == 3000
    packet = written(asked(over_tcp=True), addresses(6000), rules())
    assert counts(packet)[0] == 4093  # 4096 would not fit
    assert 0xFFFF - 16 < len(packet) <= 0xFFFF
    question = asked("SRV", over_tcp=True)
    packet = written(question, services(1500), rules())
    assert 0xFFFF - 500 < len(packet) <= 0xFFFF
    answers, additional = counts(packet)
    assert answers == additional <= 1024


def test_512_bytes_are_counted_without_compression() -> None:
    reply, few = services(20), rules(udp_answer_limit=8)
    packet = written(asked("SRV"), reply, few)
    uncompressed = written(asked("SRV"), reply, rules(udp_answer_limit=8, disable_compression=True))
    assert counts(packet) == counts(uncompressed) == (4, 4)
    assert len(packet) < len(uncompressed) <= 512
    one_more = len(uncompressed) + (len(uncompressed) - 12 - 24) // 4
    assert one_more > 512


@pytest.mark.parametrize("size", [512, 700, 1232, 4096])
def test_all_that_fits_the_size(size: int) -> None:
    question = asked("SRV", use_edns=0, payload=size)
    packet = written(question, services(100), rules())
    answers, additional = counts(packet)
    assert answers == additional
    assert len(packet) <= size < len(packet) + 80
    assert read(packet).payload == size


def test_a_size_that_is_too_small_is_512() -> None:
    for size in (0, 100):
        packet = written(asked("SRV", use_edns=0, payload=size), services(100), rules())
        assert 200 < len(packet) <= 512


def test_what_is_besides_goes_before_the_last_answer() -> None:
    packet = written(asked("SRV"), services(3, meta_bytes=500), rules())
    assert counts(packet) == (1, 1)
    assert len(packet) <= 512


def test_an_answer_that_never_fits() -> None:
    reply = Reply([Answer(each) for each in meta_records(OWNER, 0, {"k": "v" * 600})])
    packet = written(asked("TXT"), reply, rules(enable_truncate=True))
    assert counts(packet) == (0, 0)
    assert read(packet).flags & dns.flags.TC


def test_no_records_are_wanted() -> None:
    assert counts(written(asked(), addresses(5), rules(udp_answer_limit=0))) == (0, 0)


@pytest.mark.parametrize(("truncate", "count"), [(True, 3), (True, 4), (False, 4)])
def test_that_records_were_cut_is_told_on_request(truncate: bool, count: int) -> None:
    packet = written(asked(), addresses(count), rules(enable_truncate=truncate))
    assert bool(read(packet).flags & dns.flags.TC) == (truncate and count > 3)


def test_compression_can_be_turned_off() -> None:
    short = written(asked(), addresses(3), rules())
    long = written(asked(), addresses(3), rules(disable_compression=True))
    assert len(long) == len(short) + 3 * (len(NAME.to_wire() or b"") - 2)
    assert read(short).answer == read(long).answer


def test_additional_records_come_once() -> None:
    reply = services(1)
    twice = Reply([*reply.answers, *reply.answers], additional=list(reply.answers[0].additional))
    assert counts(written(asked("SRV"), twice, rules()))[1] == 1


def flags(packet: bytes) -> set[str]:
    return set(dns.flags.to_text(read(packet).flags).split())


def test_flags() -> None:
    assert flags(written(asked(), addresses(1), rules())) == {"QR", "AA", "RD"}
    with_recursors = rules(recursors=("127.0.0.1:53",))
    assert flags(written(asked(), addresses(1), with_recursors)) == {"QR", "AA", "RD", "RA"}
    assert flags(failure(asked(), Rcode.SERVFAIL, rules())) == {"QR", "AA", "RD"}
    query = dns.message.make_query("example.com", "A")
    foreign = read_question(query.to_wire(), "127.0.0.1", over_tcp=False)
    assert flags(failure(foreign, Rcode.SERVFAIL, rules())) == {"QR", "RD"}


def test_the_question_is_repeated_as_it_was_spelt() -> None:
    query = dns.message.make_query("WeB.Service.consul", "A", id=7)
    question = read_question(query.to_wire(), "127.0.0.1", over_tcp=False)
    message = read(written(question, addresses(1), rules()))
    assert message.id == 7
    assert message.question[0].name.to_text() == "WeB.Service.consul."


@pytest.mark.parametrize(("depends", "scope"), [(False, 0), (True, 24)])
@pytest.mark.parametrize("subnet", ["198.51.100.0", "2001:d00::"])
def test_the_subnet_comes_back(subnet: str, depends: bool, scope: int) -> None:
    option = dns.edns.ECSOption(subnet, 24)
    question = asked(use_edns=0, payload=1400, options=[option])
    assert question.question.subnet == subnet
    reply = addresses(1)
    packet = written(question, Reply(reply.answers, depends_on_subnet=depends), rules())
    message = read(packet)
    (echoed,) = message.options
    assert isinstance(echoed, dns.edns.ECSOption)
    assert (echoed.address, echoed.srclen, echoed.scopelen) == (option.address, 24, scope)
    assert message.payload == 1400
    assert message.edns == 0


def test_codes_beyond_the_header() -> None:
    packet = failure(asked(use_edns=0), Rcode.BADVERS, rules())
    assert read(packet).rcode() == Rcode.BADVERS


# What is no question

GOOD = dns.message.make_query(NAME, "A", id=0x1234).to_wire()


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x12", GOOD[:11], GOOD[:2] + b"\x80" + GOOD[3:]],
    ids=["nothing", "a byte", "half a header", "an answer"],
)
def test_what_is_dropped(packet: bytes) -> None:
    with pytest.raises(Unanswerable):
        read_question(packet, "127.0.0.1", over_tcp=False)


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (GOOD[:-1], Rcode.FORMERR),
        (GOOD[:12] + b"\xc0\x0c" + GOOD[-4:], Rcode.FORMERR),
        (GOOD[:4] + b"\0\0" + GOOD[6:12], Rcode.FORMERR),
        (GOOD[:4] + b"\0\2" + GOOD[6:] + GOOD[12:], Rcode.FORMERR),
        (GOOD[:6] + b"\0\1" + GOOD[8:] + GOOD[12:] + bytes(6), Rcode.FORMERR),
        (GOOD[:10] + b"\0\5" + GOOD[12:] + (b"\xc0\x0c\0\1\0\1" + bytes(6)) * 5, Rcode.FORMERR),
        (GOOD + bytes(4096), Rcode.FORMERR),
        (GOOD[:2] + b"\x28" + GOOD[3:], Rcode.NOTIMP),
        (GOOD[:2] + b"\x21" + GOOD[3:], Rcode.NOTIMP),
    ],
    ids=[
        "cut",
        "a ring of names",
        "no question",
        "two questions",
        "an answer in it",
        "too much besides",
        "too long",
        "update",
        "notify",
    ],
)
def test_what_is_answered_with_a_code(packet: bytes, rcode: Rcode) -> None:
    with pytest.raises(Malformed) as caught:
        read_question(packet, "127.0.0.1", over_tcp=False)
    number, said = struct.unpack_from("!HH", caught.value.answer)
    assert (number, said & 0x0F, len(caught.value.answer)) == (0x1234, rcode, 12)
    assert said & dns.flags.QR
    assert not said & dns.flags.AA


@given(st.binary(max_size=600))
def test_any_bytes(packet: bytes) -> None:
    _read_or_refused(packet)


@given(st.integers(0, 1 << 32))
def test_a_question_with_bytes_changed(seed: int) -> None:
    chance = random.Random(seed)
    option = dns.edns.ECSOption("198.51.100.0", 24)
    query = dns.message.make_query(NAME, "SRV", use_edns=0, options=[option])
    packet = bytearray(query.to_wire())
    for _ in range(chance.randrange(1, 6)):
        packet[chance.randrange(2, len(packet))] = chance.randrange(256)
    _read_or_refused(bytes(packet[: chance.randrange(12, len(packet) + 1)]))


def _read_or_refused(packet: bytes) -> None:
    """What was read can be answered, and whoever asked can read the answer."""
    try:
        question = read_question(packet, "127.0.0.1", over_tcp=False)
    except Unanswerable:
        return
    except Malformed as problem:
        dns.message.from_wire(problem.answer)
        return
    answer = written(question, services(3), rules())
    dns.message.from_wire(answer)
    assert len(answer) <= max(512, question.payload)


def test_records_can_be_told_apart() -> None:
    one, two = (address_record(OWNER, 0, text) for text in ("10.0.0.1", "10.0.0.1"))
    assert isinstance(one, Record)
    assert one == two
