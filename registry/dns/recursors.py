"""Names of others, asked of the servers that `recursors` names, in order, until one knows."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
from dns.message import Message, QueryMessage
from dns.name import Name
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from registry.dns.records import Record
from registry.dns.rules import Rules

logger = logging.getLogger("registry.dns")

#: What ends the search: the name is known, or known not to be there.
_FINAL = (Rcode.NOERROR, Rcode.NXDOMAIN)

_ALIAS_TYPES = (RdataType.CNAME, RdataType.A, RdataType.AAAA)

#: What is behind an alias is asked for with room for more than one address.
_PAYLOAD = 1232

_BACKEND = dns.asyncbackend.get_backend("asyncio")

Ask = Callable[[QueryMessage, str, int, float], Awaitable[Message]]


async def forwarded(asked: Message, rules: Rules, *, over_tcp: bool) -> Message | None:
    """The answer to a client's whole question, to be sent on; None when nobody gives one."""
    query = QueryMessage()  # with a number of its own: that of the client may be guessed
    query.flags = asked.flags
    query.question = asked.question
    if asked.edns >= 0:
        query.use_edns(asked.edns, asked.ednsflags, asked.payload, options=list(asked.options))
    answer = await _first(query, rules, _over_tcp if over_tcp else _over_udp)
    if answer is not None:
        answer.id = asked.id
    return answer


async def behind(name: Name, rdtype: int, rules: Rules) -> list[Record]:
    """The addresses of a name, and the aliases on the way to them; none when nobody knows."""
    wanted = RdataType.make(rdtype)
    query = dns.message.make_query(name, wanted, use_edns=0, payload=_PAYLOAD)
    answer = await _first(query, rules, _over_either)
    if answer is None:
        return []
    return [
        Record(each.name.labels, each.ttl, each.rdtype, data.to_wire() or b"")
        for each in answer.answer
        for data in each
        if each.rdtype in _ALIAS_TYPES
    ]


async def _first(query: QueryMessage, rules: Rules, ask: Ask) -> Message | None:
    for recursor in rules.recursors:
        try:
            host, port = await _address(recursor)
            answer = await ask(query, host, port, rules.recursor_timeout_s)
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as problem:
            reason = " ".join(str(problem).split()) or type(problem).__name__
            logger.debug('recursor failed: recursor=%s error="%s"', recursor, reason)
            continue
        if answer.rcode() in _FINAL:
            return answer
    return None


async def _over_udp(query: QueryMessage, host: str, port: int, timeout_s: float) -> Message:
    return await dns.asyncquery.udp(
        query, host, timeout_s, port, ignore_unexpected=True, ignore_errors=True, backend=_BACKEND
    )


async def _over_tcp(query: QueryMessage, host: str, port: int, timeout_s: float) -> Message:
    return await dns.asyncquery.tcp(query, host, timeout_s, port, backend=_BACKEND)


async def _over_either(query: QueryMessage, host: str, port: int, timeout_s: float) -> Message:
    answer, _ = await dns.asyncquery.udp_with_fallback(
        query, host, timeout_s, port, ignore_unexpected=True, ignore_errors=True, backend=_BACKEND
    )
    return answer


async def _address(recursor: str) -> tuple[str, int]:
    """Where a recursor is; it may be given by name. Raises `OSError`."""
    host, _, port = recursor.rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    address = found[0][4]
    return str(address[0]), int(address[1])
