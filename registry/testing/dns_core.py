"""The core of DNS on a state in memory: questions in, sections of the reply out, as text.

A section is a list of lines `owner ttl TYPE data`, in the order in which they would be sent.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dns.name
import dns.rdata
import dns.rdatatype
import msgspec
from dns.name import Name
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from registry.agent.config import AgentConfig, DnsConfig
from registry.agent.prepared_queries import Ran
from registry.dns.records import Record
from registry.dns.resolver import Choose, Question, Read, Recurse, Reply, Resolver, Run, Step
from registry.dns.rules import Rules
from registry.errors import NoPath
from registry.state.base import ReadResult
from registry.state.health import InstanceHealth
from registry.testing.state import Replica

#: When questions are asked: a serial number that is told apart from others.
NOW_S = 1_700_000_000


@dataclass(slots=True)
class DnsCore:
    """The agent "n1" in dc1, with what it can read, ask and be told by plugins.

    `elsewhere` holds the states of other datacenters, `known` what recursors say of other names.
    """

    replica: Replica = field(default_factory=Replica)
    elsewhere: Mapping[str, Replica] = field(default_factory=dict)
    known: Mapping[str, list[Record]] = field(default_factory=dict)
    dns: DnsConfig = field(default_factory=DnsConfig)
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    chosen: list[int] | None = None  # which instances plugins let through

    def reply(self, name: str, rdtype: str = "A", **more: Any) -> Reply | None:
        config = AgentConfig(node_name="n1", dns_config=self.dns, **self.config)
        rules = Rules.from_config(config, filtering=self.chosen is not None)
        wanted = dns.rdatatype.from_text(rdtype)
        question = Question(dns.name.from_text(name), wanted, **more)
        steps = Resolver(rules, random.Random(self.seed)).resolve(question, NOW_S)
        try:
            step = next(steps)
            while True:
                try:
                    result = self._done(step)
                except NoPath as problem:
                    step = steps.throw(problem)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            reply: Reply | None = end.value
            return reply

    def _done(self, step: Step) -> Any:
        if isinstance(step, Recurse):
            return self.known.get(step.name.to_text(), [])
        if isinstance(step, Choose):
            return self._choose(step)
        if step.datacenter not in ("", "dc1") and step.datacenter not in self.elsewhere:
            raise NoPath
        replica = self.elsewhere.get(step.datacenter, self.replica)
        value = replica.ask(step.query)
        if isinstance(step, Run):
            return Ran(ReadResult(index=1, value=value), step.datacenter or "dc1")
        assert isinstance(step, Read)
        return value

    def _choose(self, step: Choose) -> list[InstanceHealth]:
        assert len(step.instances) == len(step.places)
        return [step.instances[at] for at in self.chosen or ()]

    def answer(self, name: str, rdtype: str = "A", **more: Any) -> list[str]:
        """The answer section; ["NXDOMAIN"] and the like when there is a failure to tell."""
        reply = self.reply(name, rdtype, **more)
        assert reply is not None, "a name of ours"
        if reply.rcode != Rcode.NOERROR:
            assert not reply.answers
            return [Rcode(reply.rcode).name]
        return [shown(each.record) for each in reply.answers]

    def additional(self, name: str, rdtype: str = "A", **more: Any) -> list[str]:
        reply = self.reply(name, rdtype, **more)
        assert reply is not None, "a name of ours"
        records = [record for each in reply.answers for record in each.additional]
        return [shown(each) for each in (*records, *reply.additional)]

    def authority(self, name: str, rdtype: str = "A", **more: Any) -> list[str]:
        reply = self.reply(name, rdtype, **more)
        assert reply is not None, "a name of ours"
        return [shown(each) for each in reply.authority]

    def configured(self, **changes: Any) -> DnsCore:
        """The same with other keys of `dns_config`."""
        self.dns = msgspec.structs.replace(self.dns, **changes)
        return self


def shown(record: Record) -> str:
    owner, kind = Name(record.owner).to_text(), RdataType.make(record.rdtype).name
    return f"{owner} {record.ttl} {kind} {data_of(record)}"


def data_of(record: Record) -> str:
    """The data of a record as text."""
    data = dns.rdata.from_wire(
        RdataClass.IN, RdataType.make(record.rdtype), record.data, 0, len(record.data)
    )
    return data.to_text()
