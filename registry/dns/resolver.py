"""The core: a question goes in, steps to be done for it come out, and at the end a reply.

`Resolver.resolve` is a generator. Each step that it yields is done by whoever drives it, who sends
the result in: a `Read` gives the value of the query, `Run` what a prepared query found where it
found something, `Recurse` the records that a recursor knows of a name of others, `Choose` the
instances that plugins let through. An error of a read is thrown in; what the core has no answer for
comes out again, and is a SERVFAIL.

    steps = resolver.resolve(question, now_s)
    step = next(steps)
    while True: step = steps.send(do(step))      # StopIteration holds the reply

A reply of None means that the name is none of ours: the whole question goes to a recursor. Chance
comes from the `random.Random` that is handed in, time as an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from dns.name import Name
from dns.rcode import Rcode
from dns.rdatatype import RdataType

from registry.agent.durations import SECOND, parse_duration
from registry.agent.prepared_queries import Ran
from registry.dns.names import (
    Kind,
    Lookup,
    domain_name,
    parse,
    reversed_address,
    zone_of,
)
from registry.dns.records import (
    TTL_MAX,
    Answer,
    Labels,
    Place,
    Record,
    address_name,
    address_of,
    address_record,
    alias_record,
    distinct,
    fits,
    ip_of,
    is_critical,
    meta_records,
    name_below,
    place_of,
    pointer_record,
    server_record,
    soa_record,
    srv_record,
    weight_of,
)
from registry.dns.rules import Rules
from registry.errors import NoPath
from registry.state.addresses import AddressOwners, FindAddress
from registry.state.base import Query
from registry.state.catalog_queries import NodeServices, NodeServicesResult
from registry.state.catalog_records import Node
from registry.state.health import IngressHealth, InstanceHealth, ServiceHealth
from registry.state.prepared import ExecuteQuery, Execution

#: The service that every server is an instance of.
SERVERS = "consul"

#: Servers that are named in an NS answer.
NAME_SERVERS_MAX = 3

#: An alias of a name of ours is followed so often.
ALIAS_DEPTH_MAX = 3

#: What is found behind an alias, when the client gave no size of its own.
ALIAS_RECORDS_MAX = 5

#: Records of an answer, whatever its size.
RECORDS_MAX = 4096

_ADDRESS_TYPES = (RdataType.A, RdataType.AAAA, RdataType.ANY)
_NODE_TYPES = (*_ADDRESS_TYPES, RdataType.TXT)
_INSTANCE_TYPES = (*_NODE_TYPES, RdataType.SRV)
_TRANSFERS = (RdataType.AXFR, RdataType.IXFR)


@dataclass(frozen=True, slots=True)
class Question:
    """`subnet` is what the client's resolver says of its client, "" for nothing (RFC 7871).

    Of the records that answer it, one more than `records_max` is told, if there are more.
    """

    name: Name
    rdtype: int
    client: str = ""
    subnet: str = ""
    has_edns: bool = False
    records_max: int = RECORDS_MAX


@dataclass(frozen=True, slots=True)
class Read:
    """Read this in a datacenter ("" for our own); the value is wanted."""

    query: Query
    datacenter: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Run a prepared query of a datacenter, in others too where it says so: `Ran`."""

    query: ExecuteQuery
    datacenter: str = ""


@dataclass(frozen=True, slots=True)
class Recurse:
    """What a recursor knows of a name: `list[Record]`, empty when none answers."""

    name: Name
    rdtype: int


@dataclass(frozen=True, slots=True)
class Choose:
    """Which of these plugins let through, and in what order: `list[InstanceHealth]`."""

    question: Question
    datacenter: str
    instances: list[InstanceHealth]
    places: list[Place]


Step = Read | Run | Recurse | Choose


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. `depends_on_subnet`: another subnet might be answered differently."""

    answers: list[Answer] = field(default_factory=list)
    authority: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)
    rcode: Rcode = Rcode.NOERROR
    depends_on_subnet: bool = False


Steps = Generator[Step, Any, Reply]


class Resolver:
    """Answers questions by the rules of one agent."""

    def __init__(self, rules: Rules, chance: random.Random) -> None:
        self.rules = rules
        self._chance = chance
        self._find: dict[Kind, Callable[[_Asked], Steps]] = {
            Kind.ZONE: self._zone,
            Kind.NODE: self._node,
            Kind.SERVICE: self._service,
            Kind.CONNECT: self._service,
            Kind.INGRESS: self._service,
            Kind.QUERY: self._query,
        }

    def resolve(self, question: Question, now_s: int) -> Generator[Step, Any, Reply | None]:
        if question.rdtype in (RdataType.PTR, RdataType.ANY):
            address = reversed_address(question.name)
            if address is not None:
                return (yield from self._reverse(question, address))
        zone = zone_of(question.name, self.rules.domains)
        if zone is not None:
            return (yield from self._ours(question, zone, now_s, depth=0))
        return None

    def _ours(self, question: Question, zone: Name, now_s: int, *, depth: int) -> Steps:
        if question.rdtype in _TRANSFERS:
            return Reply(rcode=Rcode.NOTIMP)
        lookup = parse(question.name, zone, question.rdtype)
        soa = soa_record(zone.labels, self.rules.soa, now_s)
        unknown = Reply(authority=[soa], rcode=Rcode.NXDOMAIN)
        if lookup is None:
            return unknown
        asked = _Asked(question, lookup, zone.labels, soa, unknown, now_s, depth)
        if lookup.kind is Kind.ADDRESS:
            return self._address(asked)
        try:
            return (yield from self._find[lookup.kind](asked))
        except NoPath:
            return unknown  # a datacenter that is not there

    # Forms of names

    def _zone(self, asked: _Asked) -> Steps:
        rdtype, nothing = asked.question.rdtype, Reply(authority=[asked.soa])
        if rdtype not in (RdataType.SOA, RdataType.NS, RdataType.ANY):
            return nothing
        servers, glue = yield from self._name_servers(asked)
        if rdtype == RdataType.SOA:
            return Reply([Answer(asked.soa)], servers, glue)
        answers = [Answer(each) for each in servers]
        if rdtype == RdataType.ANY:
            answers.insert(0, Answer(asked.soa))
        return Reply(answers, [], glue) if answers else nothing

    def _name_servers(
        self, asked: _Asked
    ) -> Generator[Step, Any, tuple[list[Record], list[Record]]]:
        """Some servers, chosen by chance, and their addresses."""
        found: list[InstanceHealth] = yield Read(ServiceHealth(name=SERVERS))
        nodes = {each.node.node: each.node for each in found if not is_critical(each)}
        servers: list[Record] = []
        glue: list[Record] = []
        ttl = self.rules.node_ttl
        for node in self._chance.sample(list(nodes.values()), len(nodes)):
            target = name_below(asked.zone, node.node, "node", self.rules.datacenter)
            address = None if target is None else address_record(target, ttl, node.address)
            if target is None or address is None:
                continue
            servers.append(server_record(asked.zone, ttl, target))
            glue.append(address)
            if len(servers) == NAME_SERVERS_MAX:
                break
        return servers, glue

    def _node(self, asked: _Asked) -> Steps:
        rdtype, lookup = asked.question.rdtype, asked.lookup
        query = NodeServices(node=lookup.name)
        found: NodeServicesResult | None = yield Read(query, lookup.datacenter)
        if found is None:
            return asked.unknown
        if rdtype not in _NODE_TYPES:
            return Reply()
        owner, ttl = asked.owner, self.rules.node_ttl
        meta = meta_records(owner, ttl, found.node.meta)
        records: list[Record] = []
        if rdtype in _ADDRESS_TYPES:
            address = address_of(found.node, wan=self._is_wan(lookup))
            records = yield from self._at(asked, ttl, address)
        if rdtype in (RdataType.TXT, RdataType.ANY):
            records, meta = [*records, *meta], []
        if not records:
            return Reply(authority=[asked.soa])
        extra = meta if self.rules.meta_txt else []
        return Reply([Answer(each) for each in records], additional=extra)

    def _service(self, asked: _Asked) -> Steps:
        lookup = asked.lookup
        query: Query
        if lookup.kind is Kind.INGRESS:
            query = IngressHealth(service=lookup.name, passing_only=self.rules.only_passing)
        else:
            query = ServiceHealth(
                name=lookup.name,
                tags=(lookup.tag,) if lookup.tag else None,
                passing_only=self.rules.only_passing,
                connect=lookup.kind is Kind.CONNECT,
            )
        found: list[InstanceHealth] = yield Read(query, lookup.datacenter)
        healthy = [each for each in found if not is_critical(each)]
        self._chance.shuffle(healthy)
        return (yield from self._instances(asked, healthy, self.rules.service_ttl(lookup.name)))

    def _query(self, asked: _Asked) -> Steps:
        lookup, question = asked.lookup, asked.question
        query = ExecuteQuery(name=lookup.name, agent_node=self.rules.node_name)
        ran: Ran = yield Run(query, lookup.datacenter)
        if isinstance(ran.meta.value, Execution) and ran.meta.value.query.service.near == "_ip":
            client = question.subnet or question.client
            owners: AddressOwners = yield Read(FindAddress(address=client), lookup.datacenter)
            if owners.nodes:
                nearer = ExecuteQuery(name=lookup.name, agent_node=owners.nodes[0])
                ran = yield Run(nearer, lookup.datacenter)
        found = ran.meta.value
        if not isinstance(found, Execution):  # no such query, or one that cannot be run
            return replace(asked.unknown, depends_on_subnet=True)
        instances, definition = list(found.instances), found.query
        if ran.failovers or not definition.service.near:
            self._chance.shuffle(instances)
        ttl = _query_ttl(definition.dns_ttl)
        if ttl is None:
            ttl = self.rules.service_ttl(definition.service.service)
        there = replace(asked, lookup=replace(lookup, datacenter=ran.datacenter.lower()))
        reply = yield from self._instances(there, instances, ttl)
        return replace(reply, depends_on_subnet=True)

    def _address(self, asked: _Asked) -> Reply:
        text = asked.lookup.name
        if len(text) not in (8, 32):
            return Reply()
        try:
            packed = bytes.fromhex(text)
        except ValueError:
            return asked.unknown
        if len(packed) * 2 != len(text):
            return asked.unknown  # blanks, which `fromhex` passes over
        shown = ":".join(text[at : at + 4] for at in range(0, 32, 4))
        if len(packed) == 4:
            shown = ".".join(map(str, packed))
        record = address_record(asked.owner, self.rules.node_ttl, shown)
        assert record is not None
        if asked.question.rdtype in (record.rdtype, RdataType.ANY):
            return Reply([Answer(record)])
        return Reply(additional=[record])

    def _reverse(self, question: Question, address: str) -> Generator[Step, Any, Reply | None]:
        owners: AddressOwners = yield Read(FindAddress(address=address))
        zone = self.rules.domains[0].labels
        named = [(each, "node") for each in owners.nodes]
        named += [(each, "service") for each in owners.services]
        for name, kind in named:
            target = name_below(zone, name, kind, self.rules.datacenter)
            if target is not None:
                return Reply([Answer(pointer_record(question.name.labels, target))])
        return None

    # Instances

    def _instances(self, asked: _Asked, found: list[InstanceHealth], ttl: int) -> Steps:
        """Healthy instances as an answer, in their order."""
        wan, rdtype = self._is_wan(asked.lookup), asked.question.rdtype
        if self.rules.filtering and found:
            datacenter = asked.lookup.datacenter or self.rules.datacenter
            places = [place_of(each, wan=wan) for each in found]
            found = yield Choose(asked.question, datacenter, found, places)
        if not found:
            return asked.unknown
        if rdtype == RdataType.SRV:
            answers = yield from self._srv(asked, found, ttl)
        elif rdtype in _INSTANCE_TYPES:
            answers = yield from self._addresses(asked, found, ttl)
        else:
            answers = []
        return Reply(answers) if answers else Reply(authority=[asked.soa])

    def _addresses(
        self, asked: _Asked, found: list[InstanceHealth], ttl: int
    ) -> Generator[Step, Any, list[Answer]]:
        """One record for each address. A name is only given, alone, when there is no address:
        an alias goes with nothing else (RFC 1034, 3.6.2)."""
        owner, rdtype = asked.owner, asked.question.rdtype
        wan = self._is_wan(asked.lookup)
        places = [place_of(each, wan=wan) for each in found]
        limit = asked.question.records_max + 1
        if self.rules.a_record_limit:
            limit = min(limit, self.rules.a_record_limit)
        addresses = (address_record(owner, ttl, each.address) for each in places)
        fitting = (each for each in addresses if each is not None and fits(each, rdtype))
        records = distinct(fitting, limit)
        names = (each.address for each in places if ip_of(each.address) is None and each.address)
        if not records and (name := next(names, None)) is not None:
            records = yield from self._at(asked, ttl, name)
        return [Answer(each) for each in records]

    def _srv(
        self, asked: _Asked, found: list[InstanceHealth], ttl: int
    ) -> Generator[Step, Any, list[Answer]]:
        answers: dict[Record, Answer] = {}
        for each in found:
            place = place_of(each, wan=self._is_wan(asked.lookup))
            target = self._target(asked, each.node, place)
            if target is None:
                continue
            record = srv_record(asked.owner, ttl, weight_of(each), place.port, target)
            if record in answers:
                continue
            about: list[Record] = []
            if (address := address_record(target, ttl, place.address)) is not None:
                about.append(address)
            else:
                about += yield from self._behind(asked, target, RdataType.A)
            if self.rules.meta_txt:
                about += meta_records(target, ttl, each.node.meta)
            answers[record] = Answer(record, tuple(about))
            if len(answers) > asked.question.records_max:
                break
        return list(answers.values())

    def _target(self, asked: _Asked, node: Node, place: Place) -> Labels | None:
        """The name that an SRV record leads to; None when there is none to give."""
        if ip_of(place.address) is None:
            return _host(place.address)
        datacenter = asked.lookup.datacenter or self.rules.datacenter
        hexadecimal = address_name(asked.zone, place.address, datacenter)
        if place.own:
            return hexadecimal
        # A node whose name does not fit into DNS is still reached by its address.
        return name_below(asked.zone, node.node, "node", datacenter) or hexadecimal

    def _at(self, asked: _Asked, ttl: int, address: str) -> Generator[Step, Any, list[Record]]:
        """The records of the name asked for when it is at this address, which may be a name."""
        owner, rdtype = asked.owner, asked.question.rdtype
        record = address_record(owner, ttl, address)
        if record is not None:
            return [record] if fits(record, rdtype) else []
        target = _host(address)
        if target is None:
            return []
        wanted = rdtype if rdtype == RdataType.AAAA else RdataType.A
        found = yield from self._behind(asked, target, wanted)
        return [alias_record(owner, ttl, target), *found]

    def _behind(
        self, asked: _Asked, target: Labels, rdtype: int
    ) -> Generator[Step, Any, list[Record]]:
        """What a name is: our own, or looked up elsewhere."""
        name = Name(target)
        zone = zone_of(name, self.rules.domains)
        if zone is None:
            found: list[Record] = yield Recurse(name, rdtype)
        elif asked.depth >= ALIAS_DEPTH_MAX:
            found = []
        else:
            question = replace(asked.question, name=name, rdtype=rdtype)
            reply = yield from self._ours(question, zone, asked.now_s, depth=asked.depth + 1)
            found = [each.record for each in reply.answers]
        return found if asked.question.has_edns else found[:ALIAS_RECORDS_MAX]

    def _is_wan(self, lookup: Lookup) -> bool:
        """Whether what is found is to be reached from outside its datacenter."""
        elsewhere = lookup.datacenter not in ("", self.rules.datacenter)
        return elsewhere and self.rules.translate_wan


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question about a name in one of our domains, and what goes into its reply."""

    question: Question
    lookup: Lookup
    zone: Labels
    soa: Record
    unknown: Reply
    now_s: int
    depth: int  # aliases that were followed

    @property
    def owner(self) -> Labels:
        return self.question.name.labels


def _host(text: str) -> Labels | None:
    """The name of a host that was registered as an address; None when it is none."""
    try:
        return domain_name(text).labels if text else None
    except ValueError:
        return None


def _query_ttl(text: str) -> int | None:
    """A query's own time to live in seconds; None when it has none."""
    if not text:
        return None
    try:
        return min(max(0, parse_duration(text) // SECOND), TTL_MAX)
    except ValueError:
        return None
