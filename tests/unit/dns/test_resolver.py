"""Questions and what is answered: the tables of the DNS interface."""

from __future__ import annotations

from typing import Any

import dns.name
import pytest
from dns.rcode import Rcode

from registry.agent.config import Soa
from registry.agent.durations import SECOND
from registry.dns.records import address_record, alias_record
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Check, Service, ServiceAddress, Weights
from registry.state.prepared import CreateQuery, PreparedQuery, ServiceQuery, Template
from registry.testing.dns_core import NOW_S, DnsCore
from registry.testing.state import Replica

SOA = f"consul. 0 SOA ns.consul. hostmaster.consul. {NOW_S} 3600 600 86400 0"


def register(replica: Replica, node: str, address: str, *services: Service, **more: Any) -> None:
    """A node, with services on it, each with a check of the status in its notes."""
    replica.apply(Register(node=node, address=address, **more))
    for service in services:
        replica.apply(Register(node=node, address=address, service=service, **more))


def check(replica: Replica, node: str, status: str, service_id: str = "") -> None:
    found = Check(check_id=f"c-{service_id}", name="c", status=status, service_id=service_id)
    replica.apply(Register(node=node, skip_node_update=True, checks=(found,)))


def web(**more: Any) -> Service:
    return Service(**{"id": more.get("name", "web"), "name": "web", "port": 80, **more})


@pytest.fixture
def replica() -> Replica:
    replica = Replica()
    meta = {"rack": "r1"}
    register(replica, "n1", "10.0.0.1", web(tags=("v1.0", "blue")), node_meta=meta)
    register(replica, "n2", "10.0.0.2", web(tags=("v2",), weights=Weights(10, 3)))
    register(replica, "n3", "2001:db8::3", web(name="six"))
    register(replica, "n4", "10.0.0.4", web(name="own", address="10.9.9.9", port=8080))
    register(replica, "alias", "web.service.consul")
    register(replica, "outside", "host.example.com", web(name="far"))
    return replica


@pytest.fixture
def core(replica: Replica) -> DnsCore:
    return DnsCore(replica)


TXT = 'n1.node.consul. 0 TXT "rack=r1"'


@pytest.mark.parametrize(
    ("name", "rdtype", "answer", "additional"),
    [
        ("n1.node.consul", "A", ["n1.node.consul. 0 A 10.0.0.1"], [TXT]),
        ("n1.node.dc1.consul", "A", ["n1.node.dc1.consul. 0 A 10.0.0.1"], ["dc1"]),
        ("n3.node.consul", "AAAA", ["n3.node.consul. 0 AAAA 2001:db8::3"], []),
        ("n1.node.consul", "TXT", [TXT], []),
        ("n1.node.consul", "ANY", ["n1.node.consul. 0 A 10.0.0.1", TXT], []),
        ("n1.node.consul", "MX", [], []),
        ("n1.node.consul", "SRV", [], []),
        ("n3.node.consul", "A", [], []),
        ("none.node.consul", "A", ["NXDOMAIN"], []),
        ("none.node.consul", "MX", ["NXDOMAIN"], []),
        ("n1.node.dc9.consul", "A", ["NXDOMAIN"], []),
        ("blue.web.service.consul", "A", ["blue.web.service.consul. 0 A 10.0.0.1"], []),
        ("v1.0.web.service.consul", "A", ["v1.0.web.service.consul. 0 A 10.0.0.1"], []),
        ("Blue.WEB.Service.Consul", "A", ["Blue.WEB.Service.Consul. 0 A 10.0.0.1"], []),
        ("red.web.service.consul", "A", ["NXDOMAIN"], []),
        ("six.service.consul", "A", [], []),
        ("six.service.consul", "ANY", ["six.service.consul. 0 AAAA 2001:db8::3"], []),
        ("six.service.consul", "TXT", ["six.service.consul. 0 AAAA 2001:db8::3"], []),
        ("six.service.consul", "MX", [], []),
        ("none.service.consul", "A", ["NXDOMAIN"], []),
        ("own.service.consul", "A", ["own.service.consul. 0 A 10.9.9.9"], []),
        ("consul", "SOA", [SOA], []),
        ("consul", "A", [], []),
        ("web.consul", "A", ["NXDOMAIN"], []),
        ("consul", "AXFR", ["NOTIMP"], []),
        ("web.service.consul", "AXFR", ["NOTIMP"], []),
        ("0a000001.addr.consul", "A", ["0a000001.addr.consul. 0 A 10.0.0.1"], []),
        ("0A000001.addr.dc1.consul", "ANY", ["0A000001.addr.dc1.consul. 0 A 10.0.0.1"], []),
        ("0a000001.addr.consul", "AAAA", [], ["0a000001.addr.consul. 0 A 10.0.0.1"]),
        (
            "20010db8000000000000000000000001.addr.consul",
            "AAAA",
            ["20010db8000000000000000000000001.addr.consul. 0 AAAA 2001:db8::1"],
            [],
        ),
        ("0a0000.addr.consul", "A", [], []),
        ("0a00000g.addr.consul", "A", ["NXDOMAIN"], []),
        ("none.query.consul", "A", ["NXDOMAIN"], []),
        ("web.connect.consul", "A", ["NXDOMAIN"], []),
        ("web.ingress.consul", "A", ["NXDOMAIN"], []),
    ],
)
def test_answers(
    core: DnsCore, name: str, rdtype: str, answer: list[str], additional: list[str]
) -> None:
    assert core.answer(name, rdtype) == answer
    expected = [TXT.replace("node.", "node.dc1.")] if additional == ["dc1"] else additional
    assert core.additional(name, rdtype) == expected


@pytest.mark.parametrize(
    ("name", "rdtype", "has_soa"),
    [
        ("none.node.consul", "A", True),
        ("six.service.consul", "A", True),
        ("six.service.consul", "MX", True),
        ("n1.node.consul", "MX", False),
        ("n3.node.consul", "A", True),
        ("n1.node.consul", "A", False),
        ("consul", "A", True),
        ("a.b.c.consul", "A", True),
    ],
)
def test_what_is_not_there_is_told_with_the_soa(
    core: DnsCore, name: str, rdtype: str, has_soa: bool
) -> None:
    assert core.authority(name, rdtype) == ([SOA] if has_soa else [])


def test_the_soa_is_as_configured(core: DnsCore) -> None:
    core.configured(soa=Soa(refresh=1, retry=2, expire=3, min_ttl=4))
    line = f"consul. 4 SOA ns.consul. hostmaster.consul. {NOW_S} 1 2 3 4"
    assert core.answer("consul", "SOA") == [line]
    assert core.authority("none.node.consul") == [line]


def test_other_names_are_not_ours(core: DnsCore) -> None:
    assert core.reply("example.com") is None
    assert core.reply("1.2.3.in-addr.arpa", "PTR") is None
    assert core.reply("1.0.0.10.in-addr.arpa", "A") is None


def test_srv_records_lead_to_nodes(core: DnsCore) -> None:
    name = "web.service.consul"
    assert sorted(core.answer(name, "SRV")) == [
        f"{name}. 0 SRV 1 1 80 n1.node.dc1.consul.",
        f"{name}. 0 SRV 1 10 80 n2.node.dc1.consul.",
    ]
    assert sorted(core.additional(name, "SRV")) == [
        "n1.node.dc1.consul. 0 A 10.0.0.1",
        'n1.node.dc1.consul. 0 TXT "rack=r1"',
        "n2.node.dc1.consul. 0 A 10.0.0.2",
    ]
    core.configured(enable_additional_node_meta_txt=False)
    assert len(core.additional(name, "SRV")) == 2
    assert core.additional("n1.node.consul", "A") == []
    assert core.answer("n1.node.consul", "TXT") == [TXT]


@pytest.mark.parametrize("name", ["_web._tcp.consul", "_web._v2.service.dc1.consul"])
def test_srv_by_the_names_of_rfc_2782(core: DnsCore, name: str) -> None:
    answer = core.answer(name, "SRV")
    assert f"{name}. 0 SRV 1 10 80 n2.node.dc1.consul." in answer
    assert len(answer) == (1 if "v2" in name else 2)


def test_srv_of_an_instance_with_an_address_of_its_own(core: DnsCore) -> None:
    target = "0a090909.addr.dc1.consul."
    name = "own.service.consul"
    assert core.answer(name, "SRV") == [f"{name}. 0 SRV 1 1 8080 {target}"]
    assert core.additional(name, "SRV") == [f"{target} 0 A 10.9.9.9"]
    assert core.answer(target) == [f"{target} 0 A 10.9.9.9"]


def test_srv_of_a_name(core: DnsCore) -> None:
    host = dns.name.from_text("host.example.com").labels
    found = address_record(host, 30, "192.0.2.1")
    assert found is not None
    core.known = {"host.example.com.": [found]}
    name = "far.service.consul"
    assert core.answer(name, "SRV") == [f"{name}. 0 SRV 1 1 80 host.example.com."]
    assert core.additional(name, "SRV") == ["host.example.com. 30 A 192.0.2.1"]


def test_a_node_whose_name_fits_no_label_is_reached_by_its_address(replica: Replica) -> None:
    register(replica, "n" * 64, "10.0.0.5", web(name="long"))
    answer = DnsCore(replica).answer("long.service.consul", "SRV")
    assert answer == ["long.service.consul. 0 SRV 1 1 80 0a000005.addr.dc1.consul."]


def test_addresses_are_shuffled_and_told_once(replica: Replica) -> None:
    register(replica, "n1", "10.0.0.1", web(id="other", port=81))
    name = "web.service.consul"
    orders = {tuple(DnsCore(replica, seed=seed).answer(name)) for seed in range(20)}
    one, two = f"{name}. 0 A 10.0.0.1", f"{name}. 0 A 10.0.0.2"
    assert orders == {(one, two), (two, one)}
    assert len(DnsCore(replica).answer(name, "SRV")) == 3


def test_a_record_limit_counts_addresses(replica: Replica) -> None:
    core = DnsCore(replica).configured(a_record_limit=1)
    assert len(core.answer("web.service.consul")) == 1
    assert len(core.answer("web.service.consul", "SRV")) == 2


def test_no_more_is_looked_for_than_can_be_told(replica: Replica) -> None:
    for number in range(20):
        register(replica, f"m{number}", f"10.3.0.{number}", web(name="many"))
    core = DnsCore(replica)
    for rdtype in ("A", "SRV", "ANY"):
        assert len(core.answer("many.service.consul", rdtype, records_max=3)) == 4
        assert len(core.answer("many.service.consul", rdtype)) == 20


@pytest.mark.parametrize(
    ("node_status", "status", "only_passing", "weight"),
    [
        ("passing", "passing", False, 10),
        ("passing", "passing", True, 10),
        ("passing", "warning", False, 3),
        ("warning", "passing", False, 3),
        ("passing", "warning", True, None),
        ("warning", "passing", True, None),
        ("critical", "passing", False, None),
        ("passing", "critical", False, None),
    ],
)
def test_health_decides(
    node_status: str, status: str, only_passing: bool, weight: int | None
) -> None:
    replica = Replica()
    register(replica, "n1", "10.0.0.1", web(weights=Weights(10, 3)))
    check(replica, "n1", node_status)
    check(replica, "n1", status, "web")
    core = DnsCore(replica).configured(only_passing=only_passing)
    name = "web.service.consul"
    expected = [f"{name}. 0 SRV 1 {weight} 80 n1.node.dc1.consul."] if weight else ["NXDOMAIN"]
    assert core.answer(name, "SRV") == expected
    assert len(core.answer(name)) == 1
    assert (core.answer(name) == ["NXDOMAIN"]) == (weight is None)


def test_times_to_live(core: DnsCore) -> None:
    ttls = {"web": 10, "*": 1, "w*": 2, "we*": 3, "ow*": 4}
    core.configured(
        node_ttl_ns=7 * SECOND,
        service_ttl_ns={name: ttl * SECOND for name, ttl in ttls.items()},
    )
    assert core.answer("n1.node.consul") == ["n1.node.consul. 7 A 10.0.0.1"]
    assert core.answer("0a000001.addr.consul") == ["0a000001.addr.consul. 7 A 10.0.0.1"]
    for service, ttl in {"WEB": 10, "own": 4, "six": 1}.items():
        assert core.answer(f"{service}.service.consul", "ANY")[0].split()[1] == str(ttl)
        assert core.additional(f"{service}.service.consul", "SRV")[0].split()[1] == str(ttl)


# Aliases


def test_an_alias_in_our_domain_is_followed(core: DnsCore) -> None:
    answer = core.answer("alias.node.consul")
    assert answer[0] == "alias.node.consul. 0 CNAME web.service.consul."
    assert sorted(answer[1:]) == [f"web.service.consul. 0 A 10.0.0.{each}" for each in (1, 2)]


def test_an_alias_of_others_is_asked_of_recursors(core: DnsCore) -> None:
    host = dns.name.from_text("host.example.com").labels
    real = dns.name.from_text("real.example.com").labels
    found = [address_record(real, 30, f"192.0.2.{number}") for number in range(8)]
    records = [alias_record(host, 60, real), *(each for each in found if each is not None)]
    core.known = {"host.example.com.": records}
    answer = core.answer("far.service.consul")
    assert answer[:2] == [
        "far.service.consul. 0 CNAME host.example.com.",
        "host.example.com. 60 CNAME real.example.com.",
    ]
    assert len(answer) == 6  # at most five records behind an alias, without EDNS
    assert len(core.answer("far.service.consul", has_edns=True)) == 10
    assert core.answer("outside.node.consul")[0].startswith("outside.node.consul. 0 CNAME")


def test_an_alias_that_nobody_knows(core: DnsCore) -> None:
    assert core.answer("far.service.consul") == ["far.service.consul. 0 CNAME host.example.com."]


def test_addresses_are_preferred_to_aliases(replica: Replica) -> None:
    register(replica, "n1", "10.0.0.1", web(id="n", address="host.example.com"))
    answers = {each.split()[2] for each in DnsCore(replica).answer("web.service.consul")}
    assert answers == {"A"}


def test_a_ring_of_aliases_ends(replica: Replica) -> None:
    register(replica, "a", "b.node.consul")
    register(replica, "b", "a.node.consul")
    answer = DnsCore(replica).answer("a.node.consul")
    assert [line.split()[0] for line in answer] == ["a.node.consul.", "b.node.consul."] * 2


@pytest.mark.parametrize("address", ["", "no name", "a..b", "x" * 70])
def test_an_address_that_is_none(replica: Replica, address: str) -> None:
    register(replica, "bad", "10.0.0.6", web(name="bad", address=address))
    for rdtype in ("A", "SRV", "ANY"):
        DnsCore(replica).answer("bad.service.consul", rdtype)


# Prepared queries


def prepare(replica: Replica, name: str = "q", ttl: str = "", **more: Any) -> str:
    wanted = ServiceQuery(**{"service": "web", **more})
    made = replica.apply(CreateQuery(query=PreparedQuery(name=name, service=wanted, dns_ttl=ttl)))
    return str(made)


def test_a_query_is_run_by_name_and_id(replica: Replica) -> None:
    made = prepare(replica, "my.query", "12s", tags=("v2",))
    core = DnsCore(replica)
    for name in ("my.query.query.consul.", f"{made}.query.consul."):
        assert core.answer(name) == [f"{name} 12 A 10.0.0.2"]
        assert core.answer(name, "SRV") == [f"{name} 12 SRV 1 10 80 n2.node.dc1.consul."]


def test_a_query_without_its_own_time_to_live_has_its_services(replica: Replica) -> None:
    prepare(replica, tags=("v2",))
    core = DnsCore(replica).configured(service_ttl_ns={"web": 5 * SECOND})
    assert core.answer("q.query.consul") == ["q.query.consul. 5 A 10.0.0.2"]


def test_a_template_is_filled_in(replica: Replica) -> None:
    template = Template(type="name_prefix_match")
    service = ServiceQuery(service="${name.suffix}")
    query = PreparedQuery(name="to-", template=template, service=service)
    replica.apply(CreateQuery(query=query))
    core = DnsCore(replica)
    assert core.answer("to-own.query.consul") == ["to-own.query.consul. 0 A 10.9.9.9"]
    assert core.answer("to-none.query.consul") == ["NXDOMAIN"]


def test_only_queries_depend_on_the_subnet(replica: Replica) -> None:
    prepare(replica, near="_ip")
    core = DnsCore(replica)
    for name in ("q.query.consul", "none.query.consul"):
        reply = core.reply(name, subnet="10.0.0.2")
        assert reply is not None
        assert reply.depends_on_subnet
    reply = core.reply("web.service.consul", subnet="10.0.0.2")
    assert reply is not None
    assert not reply.depends_on_subnet


# The zone, and addresses


def servers(replica: Replica, count: int) -> None:
    for number in range(count):
        server = Service(id="consul", name="consul", port=8300)
        register(replica, f"s{number}", f"10.1.0.{number}", server)


def test_name_servers(replica: Replica) -> None:
    core = DnsCore(replica)
    assert core.answer("consul", "NS") == []
    assert core.authority("consul", "NS") == [SOA]
    servers(replica, 5)
    core.configured(node_ttl_ns=3 * SECOND)
    answer, glue = core.answer("consul", "NS"), core.additional("consul", "NS")
    assert len(answer) == len(glue) == 3
    for line, address in zip(answer, glue, strict=True):
        target = line.removeprefix("consul. 3 NS ")
        assert address == f"{target} 3 A 10.1.0.{target[1]}"
    assert [len(core.authority("consul", "SOA")), core.answer("consul", "SOA")] == [3, [SOA]]
    assert len(core.answer("consul", "ANY")) == 4


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("1.0.0.10.in-addr.arpa.", "n1.node.dc1.consul."),
        ("9.9.9.10.in-addr.arpa.", "own.service.dc1.consul."),
        (
            "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            "n3.node.dc1.consul.",
        ),
    ],
)
def test_whose_address_it_is(core: DnsCore, name: str, target: str) -> None:
    assert core.answer(name, "PTR") == [f"{name} 0 PTR {target}"]


def test_an_address_of_nobody_is_left_to_recursors(core: DnsCore) -> None:
    assert core.reply("7.7.7.7.in-addr.arpa", "PTR") is None


# Domains and datacenters


def test_a_second_domain(core: DnsCore) -> None:
    core.config = {"domain": "example.org", "alt_domain": "alt.test."}
    assert core.reply("n1.node.consul") is None
    assert core.answer("n1.node.example.org") == ["n1.node.example.org. 0 A 10.0.0.1"]
    name = "v2.web.service.alt.test"
    assert core.answer(name, "SRV") == [f"{name}. 0 SRV 1 10 80 n2.node.dc1.alt.test."]
    assert core.authority("x.node.alt.test")[0].startswith("alt.test. 0 SOA ns.alt.test.")


def test_a_domain_that_is_everything(core: DnsCore) -> None:
    core.config = {"domain": "."}
    assert core.answer("n1.node") == ["n1.node. 0 A 10.0.0.1"]
    assert core.answer("1.0.0.10.in-addr.arpa", "PTR")[0].endswith("PTR n1.node.dc1.")


def test_another_datacenter(core: DnsCore) -> None:
    there = Replica()
    outside = ServiceAddress("203.0.113.9", 99)
    tagged = {"wan": "203.0.113.8"}
    register(
        there,
        "far",
        "10.2.0.1",
        web(),
        web(name="own", address="10.2.0.2", tagged_addresses={"wan": outside}),
        tagged_addresses=tagged,
    )
    core.elsewhere = {"dc2": there}
    name = "web.service.DC2.consul"
    assert core.answer(name) == [f"{name}. 0 A 10.2.0.1"]
    assert core.answer(name, "SRV") == [f"{name}. 0 SRV 1 1 80 far.node.dc2.consul."]
    core.config = {"translate_wan_addrs": True}
    assert core.answer(name) == [f"{name}. 0 A 203.0.113.8"]
    assert core.additional(name, "SRV") == ["far.node.dc2.consul. 0 A 203.0.113.8"]
    assert core.answer("far.node.dc2.consul") == ["far.node.dc2.consul. 0 A 203.0.113.8"]
    own = "own.service.dc2.consul"
    assert core.answer(own, "SRV") == [f"{own}. 0 SRV 1 1 99 cb007109.addr.dc2.consul."]
    assert core.answer("web.service.dc3.consul") == ["NXDOMAIN"]


# Plugins


def test_plugins_choose(core: DnsCore) -> None:
    name = "web.service.consul"
    usual = core.answer(name)
    core.chosen = [1, 0]
    assert core.answer(name) == usual[::-1]
    core.chosen = [1]
    assert core.answer(name) == usual[1:]
    assert len(core.answer(name, "SRV")) == 1
    core.chosen = []
    assert core.answer(name) == ["NXDOMAIN"]


def test_an_error_of_a_read_comes_out(replica: Replica) -> None:
    class Broken(Replica):
        def ask(self, query: Any) -> Any:
            raise LookupError("no leader")

    with pytest.raises(LookupError):
        DnsCore(Broken()).answer("web.service.consul")
    reply = DnsCore(replica).reply("none.node.consul")
    assert reply is not None
    assert reply.rcode == Rcode.NXDOMAIN
