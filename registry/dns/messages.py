"""Questions out of packets, and replies into them, cut to the size that the client takes.

Packets are read by dnspython. Records are written one after another by ourselves: what fits has to
be told record by record, and dnspython's messages sort records into sets, which have no order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import dns.flags
import dns.message
from dns.edns import ECSOption
from dns.opcode import Opcode
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from registry.dns.names import zone_of
from registry.dns.records import Answer, Labels, Record, distinct
from registry.dns.resolver import RECORDS_MAX, Question, Reply
from registry.dns.rules import Rules

HEADER_BYTES = 12

#: What a client takes over UDP that says nothing about it (RFC 1035, 4.2.1).
UDP_BYTES = 512

#: The longest message over TCP, and the largest datagram there is.
MESSAGE_BYTES_MAX = 0xFFFF
DATAGRAM_BYTES_MAX = 65507

#: A question has its name, perhaps an OPT record, and not much more. The limits keep its reading
#: short, whatever names point to whatever else in it.
QUESTION_BYTES_MAX = 4096
QUESTION_ADDITIONAL_MAX = 4

#: Records of an answer that is not cut by its size.
SRV_RECORDS_MAX = 1024

#: The shortest record there is: a pointer for its name, and an IPv4 address.
RECORD_BYTES_MIN = 16

_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")

#: The two bits that tell a pointer, and what the others cannot tell any more.
_POINTER, _POINTER_MAX = 0xC000, 0x4000

_QUERY_FLAGS = dns.flags.RD | dns.flags.CD


class Unanswerable(Exception):
    """A packet that gets no answer: it is no message, or itself an answer."""


class Malformed(Exception):
    """A packet that is answered with no more than a code."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Asked:
    """One question as it came."""

    message: dns.message.Message
    question: Question
    rdclass: int
    over_tcp: bool

    @property
    def payload(self) -> int:
        """The size that the client says it takes over UDP; 0 when it says nothing."""
        return self.message.payload if self.message.edns >= 0 else 0


def read_question(packet: bytes, client: str, *, over_tcp: bool) -> Asked:
    """Raises `Unanswerable`, or `Malformed` with the answer to give."""
    if len(packet) < HEADER_BYTES or packet[2] & 0x80:
        raise Unanswerable
    if packet[2] >> 3 & 0x0F != Opcode.QUERY:
        raise Malformed(_refusal(packet, Rcode.NOTIMP))
    if not _is_question(packet):
        raise Malformed(_refusal(packet, Rcode.FORMERR))
    try:
        message = dns.message.from_wire(packet, keyring=False, ignore_trailing=True)
    except Exception as problem:
        # Whatever it stumbles over was sent to us.
        raise Malformed(_refusal(packet, Rcode.FORMERR)) from problem
    asked = message.question[0]
    subnet = _subnet(message)
    question = Question(
        asked.name,
        asked.rdtype,
        client,
        subnet.address if subnet is not None else "",
        message.edns >= 0,
    )
    return Asked(message, question, asked.rdclass, over_tcp)


def _is_question(packet: bytes) -> bool:
    _, _, questions, answers, authority, additional = _HEADER.unpack_from(packet)
    # IXFR has a record in its authority section.
    is_short = answers == 0 and authority <= 1 and additional <= QUESTION_ADDITIONAL_MAX
    return questions == 1 and is_short and len(packet) <= QUESTION_BYTES_MAX


def _refusal(packet: bytes, rcode: Rcode) -> bytes:
    """The header alone, as an answer: nothing else of the packet was understood."""
    number, flags = struct.unpack_from("!HH", packet)
    flags = dns.flags.QR | (flags & (0x7800 | dns.flags.RD)) | rcode
    return _HEADER.pack(number, flags, 0, 0, 0, 0)


def _subnet(message: dns.message.Message) -> ECSOption | None:
    found = (each for each in message.options if isinstance(each, ECSOption))
    return next(found, None) if message.edns >= 0 else None


def failure(asked: Asked, rcode: Rcode, rules: Rules) -> bytes:
    """An answer that says no more than what is wrong."""
    ours = zone_of(asked.question.name, rules.domains) is not None
    reply = Reply(rcode=rcode)
    return _written(asked, reply, [], [], _option(asked, reply), rules, ours=ours)


def written(asked: Asked, reply: Reply, rules: Rules) -> bytes:
    """A reply about a name of ours as a packet, cut to what the client takes.

    Records are left out from the end, each with what was to be said about it besides. If not even
    the first one fits with all of that, what is besides is left out.
    """
    is_plain = not asked.over_tcp and not asked.payload
    limit = _size_limit(asked)
    kept = reply.answers[: records_max(asked, rules)]
    extra = _besides(kept, reply)
    option = _option(asked, reply)
    size = _full_size(asked, reply, kept, extra, option)
    if size > limit:
        compress = rules.compress and not is_plain
        kept = _fitting(asked, reply, kept, limit - len(option), compress=compress)
    while True:
        extra = _besides(kept, reply)
        packet = _written(asked, reply, kept, extra, option, rules, ours=True)
        size = _full_size(asked, reply, kept, extra, option) if is_plain else len(packet)
        if size <= limit:
            return packet
        # The measure took for short what is only short near the begin of a packet: a name can be
        # pointed to in its first 16 KiB.
        if len(kept) > 1:
            kept = kept[: min(len(kept) - 1, len(kept) * limit // size)]
            continue
        while extra and size > limit:
            size -= _size_of(extra.pop())
        if size > limit:
            kept = []
        return _written(asked, reply, kept, extra, option, rules, ours=True)


def _size_limit(asked: Asked) -> int:
    if asked.over_tcp:
        return MESSAGE_BYTES_MAX
    return min(max(UDP_BYTES, asked.payload), DATAGRAM_BYTES_MAX)


def records_max(asked: Asked, rules: Rules) -> int:
    """How many records an answer may have; there may be no room for so many."""
    if not asked.over_tcp and not asked.payload:
        return rules.udp_answer_limit
    most = SRV_RECORDS_MAX if asked.question.rdtype == RdataType.SRV else RECORDS_MAX
    return min(most, _size_limit(asked) // RECORD_BYTES_MIN)


def _besides(answers: Sequence[Answer], reply: Reply) -> list[Record]:
    about = [record for each in answers for record in each.additional]
    return distinct([*about, *reply.additional])


def _fitting(
    asked: Asked, reply: Reply, answers: list[Answer], limit: int, *, compress: bool
) -> list[Answer]:
    """As many answers from the first as fit, one at least, with what is said besides."""
    packet = _Packet(asked, compress=compress)
    packet.add(*reply.authority)
    seen: set[Record] = set()
    for count, answer in enumerate(answers):
        packet.add(answer.record)
        packet.add(*(record for record in answer.additional if record not in seen))
        seen.update(answer.additional)
        if packet.size > limit:
            return answers[: max(count, 1)]
    return answers


def _full_size(
    asked: Asked, reply: Reply, kept: Sequence[Answer], extra: Sequence[Record], option: bytes
) -> int:
    """The size without any compression, which is what counts where 512 bytes are the limit."""
    question = HEADER_BYTES + _name_size(asked.question.name.labels) + 4
    records = (*(each.record for each in kept), *reply.authority, *extra)
    return question + sum(map(_size_of, records)) + len(option)


def _size_of(record: Record) -> int:
    return _name_size(record.owner) + _RECORD.size + len(record.data)


def _name_size(labels: Labels) -> int:
    return sum(map(len, labels)) + len(labels)


def _written(
    asked: Asked,
    reply: Reply,
    kept: Sequence[Answer],
    extra: Sequence[Record],
    option: bytes,
    rules: Rules,
    *,
    ours: bool,
) -> bytes:
    packet = _Packet(asked, compress=rules.compress)
    packet.add(*(each.record for each in kept), *reply.authority, *extra)
    flags = dns.flags.QR | (asked.message.flags & _QUERY_FLAGS) | (reply.rcode & 0x0F)
    flags |= dns.flags.AA if ours else 0
    flags |= dns.flags.TC if rules.truncate and len(kept) < len(reply.answers) else 0
    flags |= dns.flags.RA if rules.recursors else 0
    counts = (1, len(kept), len(reply.authority), len(extra) + bool(option))
    return packet.finish(_HEADER.pack(asked.message.id, flags, *counts)) + option


def _option(asked: Asked, reply: Reply) -> bytes:
    """The OPT record, with the client's size and subnet as they came; empty for a client that sent
    none. The subnet's scope says for whom else the answer holds (RFC 7871, 7.2.1)."""
    message = asked.message
    if message.edns < 0:
        return b""
    data = b""
    if (subnet := _subnet(message)) is not None:
        scope = subnet.srclen if reply.depends_on_subnet else 0
        value = ECSOption(subnet.address, subnet.srclen, scope).to_wire() or b""
        data = struct.pack("!HH", subnet.otype, len(value)) + value
    extended = reply.rcode >> 4 << 24
    return b"\0" + _RECORD.pack(RdataType.OPT, message.payload, extended, len(data)) + data


class _Packet:
    """A packet that is being written; its header comes last."""

    def __init__(self, asked: Asked, *, compress: bool) -> None:
        self._out = bytearray(HEADER_BYTES)
        #: Where names are that later ones may point to.
        self._names: dict[Labels, int] | None = {} if compress else None
        self._name(asked.question.name.labels)
        self._out += struct.pack("!HH", asked.question.rdtype, asked.rdclass)

    @property
    def size(self) -> int:
        return len(self._out)

    def add(self, *records: Record) -> None:
        for record in records:
            self._name(record.owner)
            data = record.data
            self._out += _RECORD.pack(record.rdtype, RdataClass.IN, record.ttl, len(data)) + data

    def _name(self, labels: Labels) -> None:
        """A name, its end replaced by a pointer to where it stands already (RFC 1035, 4.1.4)."""
        out, names = self._out, self._names
        for at, label in enumerate(labels):
            if names is not None and label:
                end = labels[at:]
                if (place := names.get(end)) is not None:
                    out += (_POINTER | place).to_bytes(2)
                    return
                if len(out) < _POINTER_MAX:
                    names[end] = len(out)
            out.append(len(label))
            out += label

    def finish(self, header: bytes) -> bytes:
        self._out[:HEADER_BYTES] = header
        return bytes(self._out)
