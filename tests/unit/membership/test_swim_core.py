"""What one core promises whatever it is sent, and how pools of a few behave in special settings."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import RemoteProtocolError, TooLarge
from registry.membership import packets, rumours
from registry.membership.addresses import Address
from registry.membership.config import SwimConfig
from registry.membership.core import SwimCore
from registry.membership.crypto import Keyring
from registry.membership.exchange import check_versions, interval_scale
from registry.membership.packets import Envelope
from registry.membership.seam import (
    JoinFinished,
    JoinUnconfirmed,
    Node,
    NodeState,
    Notice,
    OpenStream,
    SendPacket,
    SwimOutput,
    Versions,
)
from registry.membership.wire import (
    Ack,
    Alive,
    Dead,
    ErrorReply,
    IndirectPing,
    MessageType,
    Nack,
    Ping,
    PushPull,
    Suspect,
    decode_packet_message,
    decode_stream_message,
    encode,
    encode_push_pull,
    encode_user,
    encode_user_stream,
)
from registry.testing.swim import RecordingDelegate, SwimPool

SOMEBODY = ("10.0.0.9", 8301)
KEY, OTHER_KEY = bytes(16), bytes(32)
QUIET = SwimConfig(compresses=False)


def started(
    config: SwimConfig = QUIET, key: bytes | None = None
) -> tuple[SwimCore, RecordingDelegate]:
    keyring = Keyring([key]) if key is not None else None
    core = SwimCore(config, "me", ("10.0.0.1", 8301), rng=random.Random(1), keyring=keyring)
    delegate = RecordingDelegate(b"mine")
    core.start(delegate, 0)
    return core, delegate


def alive(name: str, incarnation: int = 1, versions: Versions | None = None) -> Alive:
    return Alive(incarnation, name, SOMEBODY, b"", versions or Versions())


def run_until(core: SwimCore, end_ms: int) -> None:
    """As a shell does, which is there whenever something is due."""
    while (at_ms := core.next_deadline_ms()) <= end_ms:
        core.advance(at_ms)


def sent(outputs: list[SwimOutput]) -> list[SendPacket]:
    return [output for output in outputs if isinstance(output, SendPacket)]


# Whatever comes in.

names = st.sampled_from(["me", "bob", "cid", ""])
numbers = st.integers(0, 0xFFFF_FFFF)
addresses = st.tuples(st.sampled_from(["10.0.0.9", "fd00::9"]), st.integers(0, 65535))
versions = st.builds(Versions, *[st.integers(0, 255)] * 6)
well_formed = st.one_of(
    st.builds(Ping, numbers, names, st.none() | addresses, names),
    st.builds(IndirectPing, numbers, addresses, names, st.booleans(), st.none() | addresses),
    st.builds(Ack, numbers, st.binary(max_size=50)),
    st.builds(Nack, numbers),
    st.builds(Suspect, numbers, names, names),
    st.builds(Dead, numbers, names, names),
    st.builds(Alive, numbers, names, addresses, st.binary(max_size=512), versions),
).map(encode)
typed = st.builds(lambda kind, data: bytes([kind]) + data, st.integers(0, 14), st.binary())
part = well_formed | typed | st.binary().map(encode_user)
wrapped = st.recursive(
    part,
    lambda inner: st.one_of(
        inner.map(packets.compress),
        inner.map(packets.add_crc),
        st.lists(inner, min_size=1, max_size=4).map(packets.compound),
    ),
    max_leaves=6,
)
cut = st.builds(lambda data, length: data[:length], wrapped, st.integers(0, 200))
nodes = st.builds(
    Node,
    names,
    addresses,
    st.binary(max_size=20),
    numbers,
    st.sampled_from(NodeState),
    st.just(Versions()) | versions,
)
streams = st.one_of(
    st.binary(max_size=300),
    typed,
    st.builds(PushPull, st.booleans(), st.lists(nodes, max_size=5), st.binary()).map(
        encode_push_pull
    ),
    st.binary().map(encode_user_stream),
    well_formed,
    well_formed.map(packets.compress),
)


@given(st.lists(st.binary(max_size=300) | wrapped | cut, max_size=10), st.booleans())
def test_no_packet_makes_it_raise(datagrams: list[bytes], is_encrypted: bool) -> None:
    """At worst it is counted and dropped; what comes out can be read by others."""
    config = msgspec.structs.replace(QUIET, verifies_incoming=False)
    core, _ = started(config, KEY if is_encrypted else None)
    for now_ms, data in enumerate(datagrams):
        core.receive_packet(data, SOMEBODY, now_ms)
    core.advance(10_000)
    for packet in sent(core.take_output()):
        reader = Envelope(keyring=Keyring([KEY]) if is_encrypted else None)
        for message in reader.open_packet(packet.data):
            decode_packet_message(message)


@given(streams, st.booleans())
def test_no_stream_makes_it_raise(data: bytes, is_encrypted: bool) -> None:
    core, _ = started(key=KEY if is_encrypted else None)
    core.receive_stream_request(data, SOMEBODY, 1)
    core.join(SOMEBODY)
    (opened,) = [output for output in core.take_output() if isinstance(output, OpenStream)]
    core.stream_reply(opened.token, data, 2)
    finished = [output for output in core.take_output() if isinstance(output, JoinFinished)]
    assert len(finished) == 1


@given(st.binary(min_size=1, max_size=300))
def test_random_bytes_are_counted_unless_they_mean_something(data: bytes) -> None:
    core, delegate = started()
    core.receive_packet(data, SOMEBODY, 1)
    counted = sum(v for k, v in core.statistics().items() if k.startswith("dropped_"))
    meant = delegate.received or sent(core.take_output())
    is_probe_traffic = data[0] in (*range(8), MessageType.COMPRESS, MessageType.NACK)
    assert counted or meant or is_probe_traffic


def test_a_bad_part_does_not_spoil_the_others() -> None:
    core, delegate = started()
    core.receive_packet(
        packets.compound([b"\xf4", encode(alive("bob")), b"\x04", encode_user(b"hello")]),
        SOMEBODY,
        1,
    )
    assert core.node("bob")
    assert delegate.received == [b"hello"]
    assert core.statistics()["dropped_message"] == 2


def test_the_log_is_not_filled_by_what_strangers_send() -> None:
    core, _ = started()
    for _ in range(1000):
        core.receive_packet(b"\xf4", SOMEBODY, 1)
    notices = [output for output in core.take_output() if isinstance(output, Notice)]
    assert core.statistics()["dropped_message"] == 1000
    assert len(notices) == 10


@pytest.mark.parametrize(
    "versions",
    [
        pytest.param(Versions(protocol_min=0), id="least-0"),
        pytest.param(Versions(protocol_max=0), id="greatest-0"),
        pytest.param(Versions(protocol_min=4, protocol_max=3), id="least-above-greatest"),
    ],
)
def test_impossible_versions_are_ignored(versions: Versions) -> None:
    core, _ = started()
    core.receive_packet(encode(alive("bob", versions=versions)), SOMEBODY, 1)
    assert core.node("bob") is None
    assert core.statistics()["dropped_versions"] == 1


def test_a_node_that_the_layer_above_refuses_is_ignored() -> None:
    core, delegate = started()
    delegate.refuses = lambda node: "wrong datacenter" if node.name == "bob" else None
    core.receive_packet(encode(alive("bob")), SOMEBODY, 1)
    assert core.node("bob") is None
    assert core.statistics()["dropped_refused"] == 1


def test_the_list_of_nodes_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rumours, "NODES_MAX", 10)
    core, _ = started()
    for number in range(20):
        core.receive_packet(encode(alive(f"n{number}")), SOMEBODY, 1)
    assert len(core.nodes) == 10
    assert core.statistics()["dropped_too-many-nodes"] == 11


def test_incarnation_0_proves_nothing() -> None:
    core, delegate = started()
    core.receive_packet(encode(alive("bob", incarnation=0)), SOMEBODY, 1)
    assert ("join", "bob") not in delegate.events


# Packets.


@pytest.mark.parametrize(("protocol_max", "has_crc"), [(5, True), (4, False)])
def test_a_checksum_goes_to_those_who_understand_it(protocol_max: int, has_crc: bool) -> None:
    core, _ = started()
    news = alive("bob", versions=Versions(protocol_max=protocol_max))
    core.receive_packet(encode(news), SOMEBODY, 1)
    core.receive_packet(encode(Ping(1, "me")), SOMEBODY, 1)
    (packet,) = sent(core.take_output())
    assert (packet.data[0] == MessageType.CRC) == has_crc


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_packets_are_filled_but_no_longer_than_configured(key: bytes | None) -> None:
    """The checksum does not count, as with the real senders."""
    core, delegate = started(msgspec.structs.replace(QUIET, verifies_incoming=False), key)
    for number in range(100):
        core.receive_packet(encode(alive(f"node-{number}")), SOMEBODY, 1)
    delegate.outgoing = [b"serf" * 10] * 50
    lengths = []
    for _ in range(30):
        core.receive_packet(encode(Ping(1, "me")), SOMEBODY, 1)
        (packet,) = sent(core.take_output())
        lengths.append(len(packet.data) - 5)
    assert max(lengths) <= 1400
    assert max(lengths) > 1300


def test_messages_of_the_layer_above_ride_along_after_news_of_nodes() -> None:
    core, delegate = started()
    delegate.outgoing = [b"hello"]
    core.receive_packet(encode(Ping(1, "me")), SOMEBODY, 1)
    (packet,) = sent(core.take_output())
    kinds = [message[0] for message in Envelope().open_packet(packet.data)]
    assert kinds == [MessageType.ACK, MessageType.ALIVE, MessageType.USER]


@pytest.mark.parametrize("seed", range(5))
def test_gossip_goes_to_the_nodes_of_a_small_pool_in_turn(seed: int) -> None:
    print(f"seed={seed}")
    pool = SwimPool(seed, config=QUIET)
    pool.grow(9)
    pool.run(60_000)
    core = pool.nodes["n0"].core
    others = {node.address for node in core.nodes if node.name != "n0"}
    now_ms = pool.now_ms
    core.update_meta(b"news")
    told: list[Address] = []
    for _ in range(3):  # to three at a time
        now_ms += QUIET.gossip_interval_ms
        core.advance(now_ms)
        told += [packet.address for packet in sent(core.take_output())]
    assert set(told) == others


def test_gossip_goes_to_a_few_nodes_of_a_larger_pool() -> None:
    core, _ = started(msgspec.structs.replace(QUIET, probe_interval_ms=10**6))
    for number in range(20):
        address = (f"10.0.1.{number}", 8301)
        core.receive_packet(
            encode(Alive(1, f"node-{number}", address, b"", Versions())), SOMEBODY, 1
        )
    run_until(core, 10_000)  # all of that is gossiped on
    core.take_output()
    run_until(core, 11_000)
    assert sent(core.take_output()) == []
    core.update_meta(b"news")
    core.advance(core.next_deadline_ms())
    assert len({packet.address for packet in sent(core.take_output())}) == 3


def test_more_messages_than_a_compound_holds_go_in_several_packets() -> None:
    core, delegate = started(msgspec.structs.replace(QUIET, packet_bytes_max=9000))
    delegate.outgoing = [b"x"] * 300
    core.receive_packet(encode(Ping(1, "me")), SOMEBODY, 1)
    counts = [len(list(Envelope().open_packet(p.data))) for p in sent(core.take_output())]
    assert counts == [127, 127, 48]


def test_user_messages_go_straight_by_packet_or_stream() -> None:
    core, _ = started()
    core.send_user(SOMEBODY, b"hello")
    core.send_user_reliably(SOMEBODY, b"hello")
    packet, stream = core.take_output()
    assert packet == SendPacket(SOMEBODY, encode_user(b"hello"))
    assert isinstance(stream, OpenStream)
    assert not stream.expects_reply
    receiver, delegate = started()
    assert receiver.receive_stream_request(stream.data, SOMEBODY, 1) is None
    assert delegate.received == [b"hello"]
    core.stream_reply(stream.token, b"", 2)


# Streams.


@pytest.mark.parametrize(("name", "is_answered"), [("me", True), ("", True), ("bob", False)])
def test_a_ping_by_stream_is_answered_bare_if_it_is_for_us(name: str, is_answered: bool) -> None:
    core, _ = started()
    reply = core.receive_stream_request(encode(Ping(7, name)), SOMEBODY, 1)
    assert reply == (encode(Ack(7)) if is_answered else None)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param(KEY, None, id="plain-to-encrypted"),
        pytest.param(None, KEY, id="encrypted-to-plain"),
        pytest.param(KEY, OTHER_KEY, id="other-key"),
    ],
)
def test_a_stream_with_the_wrong_encryption_is_told_so(
    ours: bytes | None, theirs: bytes | None
) -> None:
    core, _ = started(key=ours)
    peer = Envelope(keyring=Keyring([theirs]) if theirs is not None else None)
    data = peer.seal_stream(encode(Ping(7, "me")))
    reply = core.receive_stream_request(data, SOMEBODY, 1)
    assert reply is not None
    reader = Envelope(keyring=Keyring([ours]) if ours is not None else None)
    assert isinstance(decode_stream_message(reader.open_stream(reply)), ErrorReply)


def test_an_unexpected_message_is_met_with_silence() -> None:
    core, _ = started()
    assert core.receive_stream_request(encode(Ack(1)), SOMEBODY, 1) is None
    assert core.receive_stream_request(b"\x00\xc1", SOMEBODY, 1) is None
    assert core.statistics()["dropped_stream"] == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(None, "no connection", id="no-connection"),
        pytest.param(b"", "closed without an answer", id="silence"),
        pytest.param(encode(ErrorReply("no")), "remote error: no", id="an-error"),
        pytest.param(encode(Ack(1)), "the answer to a push/pull is none", id="something-else"),
        pytest.param(b"\x06\xc1", "not readable", id="nonsense"),
    ],
)
def test_a_join_that_fails_says_why(reply: bytes | None, error: str) -> None:
    core, _ = started()
    token = core.join(SOMEBODY)
    core.take_output()
    core.stream_reply(token, reply, 1)
    (finished,) = [o for o in core.take_output() if isinstance(o, JoinFinished)]
    assert finished.token == token
    assert finished.error is not None
    assert error in finished.error


def test_a_sync_that_fails_is_noted() -> None:
    core, _ = started()
    core.rejoin(SOMEBODY)
    (stream,) = [o for o in core.take_output() if isinstance(o, OpenStream)]
    core.stream_reply(stream.token, None, 1)
    (notice,) = core.take_output()
    assert isinstance(notice, Notice)
    assert notice.text.startswith("push/pull failed: address=10.0.0.9:8301")


def test_no_ping_by_stream_when_no_time_is_left() -> None:
    """With Consul's dev timing the probe timeout is the whole interval."""
    core, _ = started(SwimConfig.consul_dev())
    core.receive_packet(encode(alive("bob")), SOMEBODY, 1)
    for now_ms in (100, 200):
        core.advance(now_ms)
    assert not [o for o in core.take_output() if isinstance(o, OpenStream)]
    node = core.node("bob")
    assert node is not None
    assert node.state is NodeState.SUSPECT


@pytest.mark.parametrize("reply", [None, b"", b"\x06"], ids=["failed", "silence", "nonsense"])
def test_a_ping_by_stream_with_a_broken_answer_is_none(reply: bytes | None) -> None:
    core, _ = started()
    core.receive_packet(encode(alive("bob")), SOMEBODY, 1)
    for now_ms in (1000, 1600):
        core.advance(now_ms)
    (stream,) = [o for o in core.take_output() if isinstance(o, OpenStream)]
    core.stream_reply(stream.token, reply, 1700)
    run_until(core, 3000)
    node = core.node("bob")
    assert node is not None
    assert node.state is NodeState.SUSPECT


# Push/pull.


@pytest.mark.parametrize(
    ("node_count", "scale"), [(1, 1), (32, 1), (33, 2), (64, 2), (65, 3), (128, 3), (129, 4)]
)
def test_large_pools_exchange_states_less_often(node_count: int, scale: int) -> None:
    assert interval_scale(node_count) == scale


ALIVE, DEAD = NodeState.ALIVE, NodeState.DEAD


@pytest.mark.parametrize(
    ("spoken", "fits"),
    [
        pytest.param([], True, id="nobody"),
        pytest.param([(ALIVE, Versions()), (DEAD, Versions())], True, id="all-the-same"),
        pytest.param([(DEAD, Versions(0, 0, 0, 0, 0, 0))], True, id="nobody-alive"),
        pytest.param(
            [(ALIVE, Versions()), (DEAD, Versions(0, 0, 0, 0, 0, 0))], False, id="one-without"
        ),
        pytest.param(
            [(ALIVE, Versions()), (ALIVE, Versions(3, 5, 3))], False, id="newer-least-version"
        ),
        pytest.param(
            [(ALIVE, Versions(delegate_current=5)), (ALIVE, Versions(delegate_max=4))],
            False,
            id="serf-too-new",
        ),
    ],
)
def test_everybody_must_speak_what_the_living_understand(
    spoken: list[tuple[NodeState, Versions]], fits: bool
) -> None:
    if fits:
        check_versions(spoken)
    else:
        with pytest.raises(RemoteProtocolError, match="version"):
            check_versions(spoken)


def test_a_refused_joiner_gets_its_answer_and_learns_later() -> None:
    pool = SwimPool(1, config=QUIET)
    ann, bob = pool.add("ann"), pool.add("bob")
    ann.delegate.refuses = lambda node: "wrong datacenter" if node.name == "bob" else None
    pool.ask(bob, lambda core: core.join(ann.address))
    pool.run(3000)
    assert [type(o) for o in bob.outputs if not isinstance(o, Notice)] == [
        JoinFinished,
        JoinUnconfirmed,
    ]
    assert ann.sees("bob") is None
    assert ann.core.statistics()["dropped_merge"] == 1


def test_a_join_that_our_own_rules_refuse_fails() -> None:
    pool = SwimPool(1, config=QUIET)
    ann, bob = pool.add("ann"), pool.add("bob")
    bob.delegate.refuses = lambda node: "wrong datacenter" if node.name == "ann" else None
    pool.ask(bob, lambda core: core.join(ann.address))
    pool.run(1000)
    assert JoinFinished(1, ann.address, "wrong datacenter") in bob.outputs
    assert bob.sees("ann") is None


def test_a_node_that_says_no_port_has_ours() -> None:
    core, _ = started()
    stranger = Node("bob", ("10.0.0.9", 0), b"", 1)
    core.receive_stream_request(encode_push_pull(PushPull(False, [stranger])), SOMEBODY, 1)
    node = core.node("bob")
    assert node is not None
    assert node.address == ("10.0.0.9", 8301)


def test_the_tail_goes_to_the_layer_above() -> None:
    core, delegate = started()
    core.receive_stream_request(encode_push_pull(PushPull(True, [], b"tail")), SOMEBODY, 1)
    core.receive_stream_request(encode_push_pull(PushPull(False, [])), SOMEBODY, 1)
    assert delegate.merged == [b"tail"]


# Small pools.


def test_an_encrypted_pool_with_compression_works_as_any_other() -> None:
    pool = SwimPool(2, config=SwimConfig.lan(), keys=[KEY])
    pool.grow(5)
    assert pool.run(10_000, lambda: all(len(n.core.nodes) == 5 for n in pool.running))
    pool.run(30_000)
    assert all(other.state is NodeState.ALIVE for node in pool.running for other in node.core.nodes)
    assert all(node.delegate.rtts for node in pool.running)


def test_a_change_of_meta_reaches_everybody() -> None:
    pool = SwimPool(3, config=QUIET)
    pool.grow(5)
    pool.run(5000)
    pool.ask(pool.nodes["n2"], lambda core: core.update_meta(b"new"))
    pool.run(5000)
    for node in pool.running:
        seen = node.core.node("n2")
        assert seen is not None
        assert (seen.meta, seen.incarnation) == (b"new", 2)
        assert ("update", "n2") in node.delegate.events


def test_meta_has_a_limit() -> None:
    core, _ = started()
    with pytest.raises(TooLarge):
        core.update_meta(bytes(513))


def test_relays_have_a_limit() -> None:
    core, _ = started()
    for number in range(1100):
        request = IndirectPing(number, ("10.0.0.8", 0), "bob")
        core.receive_packet(encode(request), SOMEBODY, 1)
    assert core.statistics()["dropped_too-many-relays"] == 76
    assert {packet.address for packet in sent(core.take_output())} == {("10.0.0.8", 8301)}


# What members of a large pool do besides.


def member_of(count: int, name: str, seed: int = 1) -> SwimCore:
    """One of the nodes n0, n1, …, which knows all others and has nothing more to tell."""
    config = msgspec.structs.replace(QUIET, stream_ping=False)
    core = SwimCore(config, name, address_in_pool(name), rng=random.Random(seed))
    core.start(RecordingDelegate(), 0)
    for number in range(count):
        if f"n{number}" != name:
            said = Alive(1, f"n{number}", address_in_pool(f"n{number}"), b"", Versions())
            core.receive_packet(encode(said), SOMEBODY, 0)
    core.take_output()
    return core


def address_in_pool(name: str) -> tuple[str, int]:
    return f"10.1.0.{name[1:]}", 8301


def pinged(outputs: list[SwimOutput]) -> list[str]:
    """Who was pinged, in order."""
    return [
        message.node
        for packet in sent(outputs)
        for part in Envelope().open_packet(packet.data)
        if isinstance(message := decode_packet_message(part), Ping)
    ]


def run_answered(core: SwimCore, until_ms: int) -> list[SwimOutput]:
    """Let time pass while every ping is answered at once."""
    seen: list[SwimOutput] = []
    while (at_ms := core.next_deadline_ms()) <= until_ms:
        core.advance(at_ms)
        for output in core.take_output():
            seen.append(output)
            if not isinstance(output, SendPacket):
                continue
            for part in Envelope().open_packet(output.data):
                message = decode_packet_message(part)
                if isinstance(message, Ping):
                    core.receive_packet(encode(Ack(message.seq_no, b"")), output.address, at_ms)
    return seen


def test_each_member_of_a_large_pool_is_probed_in_every_interval() -> None:
    names = [f"n{number}" for number in range(30)]
    successors = []
    for name in names:
        probes = pinged(run_answered(member_of(30, name), 10_000))
        often = [other for other in names if probes.count(other) >= 9]
        assert len(often) == 1
        assert len(probes) in (19, 20)
        successors += often
    assert sorted(successors) == sorted(names)


def test_members_of_a_small_pool_are_probed_by_turns_alone() -> None:
    probes = pinged(run_answered(member_of(10, "n0"), 10_000))
    assert len(probes) in (9, 10), "one per interval"
    assert all(probes.count(name) <= 2 for name in probes)


def test_a_suspect_of_a_large_pool_is_challenged_by_eight_at_once() -> None:
    names = [f"n{number}" for number in range(40)]
    challengers = []
    for name in names[1:]:
        core = member_of(40, name)
        core.receive_packet(encode(Suspect(1, "n0", "n39")), SOMEBODY, 5)
        outputs = core.take_output()
        if pinged(outputs) == ["n0"]:
            challengers.append(name)
            (packet,) = sent(outputs)
            (_, accusation) = map(decode_packet_message, Envelope().open_packet(packet.data))
            assert accusation == Suspect(1, "n0", name), "so that it can contradict"
        else:
            assert pinged(outputs) == []
    assert len(challengers) == 8


def test_nobody_is_challenged_in_a_small_pool() -> None:
    for number in range(1, 10):
        core = member_of(10, f"n{number}")
        core.receive_packet(encode(Suspect(1, "n0", "n9")), SOMEBODY, 5)
        assert pinged(core.take_output()) == []


def test_a_challenger_asks_twice_and_then_accuses() -> None:
    accused = set()
    for number in range(1, 40):
        core = member_of(40, f"n{number}")
        core.receive_packet(encode(Suspect(1, "n0", "n39")), SOMEBODY, 5)
        if pinged(core.take_output()) != ["n0"]:
            continue
        core.advance(505)
        assert "n0" in pinged(core.take_output())
        core.advance(1005)
        assert core.health_score > 0, "no helper said that it got no answer either"
        for packet in sent(core.take_output()):
            accused |= {
                message.accuser
                for part in Envelope().open_packet(packet.data)
                if isinstance(message := decode_packet_message(part), Suspect)
            }
    assert len(accused) >= 8


def test_whoever_suspects_everybody_does_not_challenge_everybody() -> None:
    core = member_of(40, "n0")
    for number in range(1, 40):
        core.receive_packet(encode(Suspect(1, f"n{number}", "n39")), SOMEBODY, 5)
    assert len(pinged(core.take_output())) == 3


@pytest.mark.parametrize("seed", range(20))
def test_after_many_newcomers_states_are_compared_soon(seed: int) -> None:
    """And not only while they still come, where a regular exchange happens to be due then."""
    core = member_of(100, "n0", seed=seed)
    early = [o for o in run_answered(core, 9_999) if isinstance(o, OpenStream)]
    later = [o for o in run_answered(core, 20_000) if isinstance(o, OpenStream)]
    assert later
    assert len(early + later) <= 2, "the regular interval of this pool is 90 s"
    assert isinstance(decode_stream_message(later[-1].data), PushPull)


def test_whoever_stood_still_blames_nobody_for_it() -> None:
    """What was said meanwhile waits in the sockets; the clock must not be looked at alone."""
    core = member_of(40, "n0")
    for number in range(1, 10):
        core.receive_packet(encode(Suspect(1, "n20", f"n{number}")), SOMEBODY, 5)
    core.advance(1000)
    assert [n.name for n in core.nodes if n.state is NodeState.SUSPECT] == ["n20"]
    core.advance(30_000)
    assert [n.name for n in core.nodes if n.state is NodeState.SUSPECT] == ["n20"]
    core.receive_packet(
        encode(Alive(2, "n20", address_in_pool("n20"), b"", Versions())), SOMEBODY, 30_001
    )
    assert all(node.state is NodeState.ALIVE for node in core.nodes)
    assert core.health_score == 0


def test_a_suspect_dies_in_its_time_when_nobody_stands_still() -> None:
    core = member_of(100, "n0")
    for number in range(1, 10):
        core.receive_packet(encode(Suspect(1, "n20", f"n{number}")), SOMEBODY, 5)
    run_answered(core, 7004)
    assert [n.name for n in core.nodes if n.state is NodeState.SUSPECT] == ["n20"]
    run_answered(core, 7005)
    assert [n.name for n in core.nodes if n.state is NodeState.DEAD] == ["n20"]
