"""The catalog: what registering changes, which indexes it raises, whom it wakes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.state import catalog_records as records
from registry.state.base import Command, Query, Refused, Transaction
from registry.state.catalog_checks import cas_check, delete_check_cas
from registry.state.catalog_commands import Deregister, Register
from registry.state.catalog_nodes import cas_node, delete_node_cas
from registry.state.catalog_queries import ListNodes, ListServices, NodeServices, ServiceNodes
from registry.state.catalog_records import (
    Check,
    CheckSpec,
    Node,
    Service,
    Weights,
    get_check,
    get_node,
    get_service,
)
from registry.state.catalog_services import (
    cas_service,
    connect_destination,
    delete_service_cas,
    set_service,
)
from registry.state.health import NodeChecks, ServiceHealth
from registry.state.sessions import SessionCreate, SessionInfo
from registry.state.topics import Topic
from registry.storage.store import Reader
from registry.testing.state import Replica

UUID_A = "aaaaaaaa-0000-4000-8000-000000000001"
UUID_B = "bbbbbbbb-0000-4000-8000-000000000002"


def node(name: str = "n1", **more: Any) -> Register:
    return Register(**{"node": name, "address": "10.0.0.1", "datacenter": "dc1", **more})


def web(service_id: str = "s1", **more: Any) -> Service:
    return Service(**{"id": service_id, "name": "web", "port": 80, **more})


def check(check_id: str = "c1", **more: Any) -> Check:
    return Check(**{"check_id": check_id, "name": check_id, "status": "passing", **more})


@pytest.fixture
def replica() -> Replica:
    return Replica()


def catalog_rows(replica: Replica) -> list[bytes]:
    """The keys of all that the catalog keeps."""
    return [key for key, _ in replica.machine.reader.scan(b"scatalog.", b"scatalog/")]


def touched_by(replica: Replica, command: Command) -> set[Topic]:
    seen: set[Topic] = set()
    replica.machine.topics.listen(seen.update)
    replica.apply(command)
    return seen


# Registering.


def test_a_registration_is_stored_whole(replica: Replica) -> None:
    made = node(
        id=UUID_A,
        node_meta={"rack": "r1"},
        tagged_addresses={"lan": "10.0.0.1"},
        service=web(tags=("a", "b"), meta={"k": "v"}),
        checks=(check(service_id="s1"), check("node")),
    )
    assert replica.apply(made) is True
    reader = replica.machine.reader
    stored = get_node(reader, "n1")
    assert stored == Node(
        node="n1",
        id=UUID_A,
        address="10.0.0.1",
        datacenter="dc1",
        tagged_addresses={"lan": "10.0.0.1"},
        meta={"rack": "r1"},
        create_index=1,
        modify_index=1,
    )
    service = get_service(reader, "n1", "s1")
    assert service is not None
    assert (service.tags, service.weights, service.node) == (("a", "b"), Weights(1, 1), "n1")
    own = get_check(reader, "n1", "c1")
    assert own is not None
    assert (own.service_name, own.service_tags) == ("web", ("a", "b"))


def test_ids_default_to_names(replica: Replica) -> None:
    replica.apply(node(service=Service(name="web"), checks=(Check(name="alive"),)))
    assert get_service(replica.machine.reader, "n1", "web") is not None
    alive = get_check(replica.machine.reader, "n1", "alive")
    assert alive is not None
    assert (alive.check_id, alive.status, alive.node) == ("alive", "critical", "n1")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        pytest.param(Register(node=""), "Must provide node", id="no-node"),
        pytest.param(
            Register(node="n"),
            "Must provide address if SkipNodeUpdate is not set",
            id="no-address",
        ),
        pytest.param(node(id="x"), "Bad node ID: uuid string is wrong length", id="short-id"),
        pytest.param(
            Register(node="n", id="x"),
            "Bad node ID: uuid string is wrong length",
            id="short-id-before-address",
        ),
        pytest.param(node(id="z" * 36), "Bad node ID: uuid is improperly formatted", id="odd-id"),
        pytest.param(
            node(service=Service(id="only")), "Must provide service name with ID", id="no-name"
        ),
        pytest.param(
            node(service=web(address="0.0.0.0")), "Invalid service address", id="any-address"
        ),
        pytest.param(
            node(service=web(meta={"": "x"})),
            "failed inserting service: Invalid Service Meta for node n1 and serviceID s1: "
            "Couldn't load metadata pair ('', 'x'): Key cannot be blank",
            id="blank-meta-key",
        ),
        pytest.param(
            node(service=web(meta={"consul-x": "x"})),
            "failed inserting service: Invalid Service Meta for node n1 and serviceID s1: "
            "Couldn't load metadata pair ('consul-x', 'x'): "
            "Key prefix 'consul-' is reserved for internal use",
            id="reserved-meta-key",
        ),
        pytest.param(
            node(service=web(meta={f"k{number}": "" for number in range(65)})),
            "failed inserting service: Invalid Service Meta for node n1 and serviceID s1: "
            "Node metadata cannot contain more than 64 key/value pairs",
            id="too-much-meta",
        ),
        pytest.param(
            node(checks=(check(service_id="none"),)),
            'failed inserting check: Missing service registration on node "n1"',
            id="no-such-service",
        ),
        pytest.param(
            node(checks=(check(node="other"),)),
            'check node "other" does not match node "n1"',
            id="another-node",
        ),
        pytest.param(
            node(service=Service(name="p", kind="connect-proxy", port=1)),
            "1 error occurred:\n\t* Proxy.DestinationServiceName must be non-empty for Connect "
            "proxy services\n\n",
            id="proxy-for-nothing",
        ),
    ],
)
def test_a_refused_registration_changes_nothing(
    replica: Replica, command: Register, reason: str
) -> None:
    assert replica.apply(command) == Refused(reason)
    assert catalog_rows(replica) == []
    assert replica.index_of(ListNodes()) == 0


def test_registering_the_same_again_moves_no_index_and_wakes_nobody(replica: Replica) -> None:
    whole = node(service=web(tags=("a",)), checks=(check(service_id="s1"), check("node")))
    replica.apply(whole)
    assert touched_by(replica, whole) == set()
    for query in (ListNodes(), ListServices(), ServiceHealth(name="web"), NodeChecks(node="n1")):
        assert replica.index_of(query) == 1


def test_a_change_keeps_the_create_index(replica: Replica) -> None:
    replica.apply(node(service=web()))
    replica.apply(node(service=web(port=99)))
    service = get_service(replica.machine.reader, "n1", "s1")
    assert service is not None
    assert (service.create_index, service.modify_index, service.port) == (1, 2, 99)


def test_skip_node_update_leaves_the_node_alone(replica: Replica) -> None:
    replica.apply(node(node_meta={"a": "1"}))
    replica.apply(Register(node="n1", address="10.9.9.9", skip_node_update=True, service=web()))
    stored = get_node(replica.machine.reader, "n1")
    assert stored is not None
    assert (stored.address, stored.meta, stored.modify_index) == ("10.0.0.1", {"a": "1"}, 1)


def test_names_are_found_in_any_letter_case(replica: Replica) -> None:
    replica.apply(node("Alpha", service=web()))
    replica.apply(node("ALPHA", address="10.0.0.2"))
    [found] = replica.ask(ListNodes())
    assert (found.node, found.create_index, found.modify_index) == ("ALPHA", 1, 2)
    assert len(replica.ask(ServiceNodes(name="WEB"))) == 1


def test_a_check_does_not_follow_its_services_tags(replica: Replica) -> None:
    replica.apply(node(service=web(tags=("old",)), checks=(check(service_id="s1"),)))
    replica.apply(node(service=web(tags=("new",))))
    [instance] = replica.ask(ServiceHealth(name="web"))
    assert instance.checks[0].service_tags == ("old",)


@pytest.mark.parametrize(
    ("weights", "stored"),
    [
        pytest.param(None, Weights(1, 1), id="default"),
        pytest.param(Weights(5, 2), Weights(5, 2), id="given"),
        pytest.param(Weights(10, 0), Weights(10, 0), id="no-warning"),
        pytest.param(Weights(0, 1), Weights(1, 1), id="too-small"),
        pytest.param(Weights(1, 65536), Weights(1, 1), id="too-large"),
    ],
)
def test_weights(replica: Replica, weights: Weights | None, stored: Weights) -> None:
    replica.apply(node(service=web(weights=weights)))
    service = get_service(replica.machine.reader, "n1", "s1")
    assert service is not None
    assert service.weights == stored


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        pytest.param(CheckSpec(), "", id="none"),
        pytest.param(CheckSpec(http="http://x", interval_ns=1), "http", id="http"),
        pytest.param(CheckSpec(http="http://x"), "", id="http-without-interval"),
        pytest.param(CheckSpec(tcp="x:1", interval_ns=1), "tcp", id="tcp"),
        pytest.param(CheckSpec(ttl_ns=1), "ttl", id="ttl"),
        pytest.param(CheckSpec(grpc="x:1", interval_ns=1), "grpc", id="grpc"),
        pytest.param(CheckSpec(alias_service="x"), "alias", id="alias"),
        pytest.param(CheckSpec(script_args=("x",)), "script", id="script"),
        pytest.param(
            CheckSpec(script_args=("x",), docker_container_id="d", interval_ns=1),
            "docker",
            id="docker",
        ),
    ],
)
def test_the_type_of_a_check_comes_from_its_definition(
    replica: Replica, spec: CheckSpec, kind: str
) -> None:
    replica.apply(node(checks=(check(definition=spec),)))
    [stored] = replica.ask(NodeChecks(node="n1"))
    assert stored.type == kind


# Node ids and renaming.


def test_a_node_with_an_id_may_change_its_name(replica: Replica) -> None:
    replica.apply(node("old", id=UUID_A, service=web()))
    assert replica.apply(node("new", id=UUID_A)) is True
    [found] = replica.ask(ListNodes())
    assert (found.node, found.create_index, found.modify_index) == ("new", 1, 2)
    assert replica.ask(ServiceNodes(name="web")) == []


def test_the_name_of_a_healthy_node_is_reserved(replica: Replica) -> None:
    serf = check("serfHealth")
    replica.apply(node("a", id=UUID_A, checks=(serf,)))
    assert replica.apply(node("A", id=UUID_B, address="10.0.0.2")) == Refused(
        f'failed inserting node: Error while renaming Node ID: "{UUID_B}": Node name A is '
        f"reserved by node {UUID_A} with name a (10.0.0.1)"
    )
    replica.apply(node("a", id=UUID_A, checks=(check("serfHealth", status="critical"),)))
    assert replica.apply(node("A", id=UUID_B, address="10.0.0.2")) is True
    assert replica.ask(NodeServices(node=UUID_A[:8])) is None
    assert replica.ask(NodeServices(node=UUID_B)).node.node == "A"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("n1", "n1", id="name"),
        pytest.param("N1", "n1", id="name-in-other-case"),
        pytest.param(UUID_A, "n1", id="id"),
        pytest.param(UUID_A.upper(), "n1", id="id-in-other-case"),
        pytest.param("aa", "n1", id="prefix"),
        pytest.param("aab", "n1", id="odd-prefix-is-cut"),
        pytest.param("a", None, id="too-short"),
        pytest.param("cc", None, id="unknown"),
    ],
)
def test_nodes_are_found_by_name_or_id(replica: Replica, asked: str, found: str | None) -> None:
    replica.apply(node("n1", id=UUID_A))
    replica.apply(node("n2", id=UUID_B))
    result = replica.ask(NodeServices(node=asked))
    assert (result and result.node.node) == found


def test_an_ambiguous_id_finds_nothing(replica: Replica) -> None:
    replica.apply(node("n1", id=UUID_A))
    replica.apply(node("n2", id=UUID_A[:-1] + "9"))
    assert replica.ask(NodeServices(node=UUID_A[:8])) is None


# Deregistering, and the indexes that say so.


def test_a_service_takes_its_checks_along(replica: Replica) -> None:
    replica.apply(node(service=web(), checks=(check(service_id="s1"), check("node"))))
    replica.apply(Deregister(node="n1", service_id="s1"))
    assert [each.check_id for each in replica.ask(NodeChecks(node="n1"))] == ["node"]
    assert replica.ask(ServiceNodes(name="web")) == []


@pytest.mark.parametrize(("check_id", "index"), [("node", 2), ("own", 1)])
def test_a_nodes_check_that_goes_moves_the_index_of_services(
    replica: Replica, check_id: str, index: int
) -> None:
    checks = (check("node"), check("own", service_id="s1"))
    replica.apply(node(service=web(), checks=checks))
    replica.apply(Deregister(node="n1", check_id=check_id))
    assert replica.index_of(ListServices()) == index


def test_the_last_instance_leaves_the_extinction_index(replica: Replica) -> None:
    query = ServiceHealth(name="web")
    assert replica.index_of(query) == 0
    replica.apply(node(service=web("s1")))
    replica.apply(node(service=web("s2")))
    replica.apply(Deregister(node="n1", service_id="s1"))
    assert replica.index_of(query) == 3
    assert replica.index_of(ServiceHealth(name="never-seen")) == 3, "no extinction yet"
    replica.apply(node(checks=(check("node"),)))
    assert replica.index_of(ServiceHealth(name="never-seen")) == 4, "health looks at checks"
    assert replica.index_of(ServiceNodes(name="never-seen")) == 3
    replica.apply(Deregister(node="n1", service_id="s2"))
    assert replica.index_of(query) == 5
    assert replica.index_of(ServiceHealth(name="never-seen")) == 5
    replica.apply(node(service=web("s3")))
    assert replica.index_of(query) == 6


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(Deregister(node="none"), id="node"),
        pytest.param(Deregister(node="n1", service_id="none"), id="service"),
        pytest.param(Deregister(node="n1", check_id="none"), id="check"),
    ],
)
def test_deregistering_what_is_not_there_changes_nothing(
    replica: Replica, command: Deregister
) -> None:
    replica.apply(node(service=web()))
    assert touched_by(replica, command) == set()
    assert replica.index_of(ListNodes()) == 1


def test_deregistering_wants_a_node(replica: Replica) -> None:
    assert replica.apply(Deregister(node="")) == Refused("Must provide node")


CHANGES_OF_WEB = [
    pytest.param(node(service=web(port=81)), True, id="instance-changes"),
    pytest.param(node(service=web("s2")), True, id="instance-joins"),
    pytest.param(node(checks=(check("c1", service_id="s1", status="warning"),)), True, id="check"),
    pytest.param(node(checks=(check("node"),)), True, id="node-check"),
    pytest.param(node(address="10.0.0.9"), True, id="node-moves"),
    pytest.param(Deregister(node="n1", service_id="s1"), True, id="instance-leaves"),
    pytest.param(Deregister(node="n1", check_id="c1"), True, id="check-leaves"),
    pytest.param(Deregister(node="n1"), True, id="node-leaves"),
    pytest.param(node(service=Service(name="other")), False, id="another-service"),
    pytest.param(
        node(checks=(check("co", service_id="db", status="warning"),)), False, id="another-check"
    ),
    pytest.param(node("n2", service=Service(name="db")), False, id="another-node"),
    pytest.param(Deregister(node="n1", service_id="db"), False, id="another-leaves"),
]


def of_checks_only(change: Command) -> bool:
    """Whether the catalog's own listing of instances shows nothing of it."""
    if isinstance(change, Deregister):
        return bool(change.check_id)
    return isinstance(change, Register) and bool(change.checks)


@pytest.mark.parametrize(("change", "seen"), CHANGES_OF_WEB)
@pytest.mark.parametrize(
    "query",
    [
        pytest.param(ServiceHealth(name="web"), id="health"),
        pytest.param(ServiceNodes(name="web"), id="catalog"),
    ],
)
def test_readers_of_a_service_wake_for_it_alone(
    replica: Replica, query: Query, change: Command, seen: bool
) -> None:
    replica.apply(node(service=web(), checks=(check("c1", service_id="s1"),)))
    replica.apply(node(service=Service(name="db"), checks=(check("co", service_id="db"),)))
    before = replica.index_of(query)
    topics = set(query.topics(replica.machine.reader))
    touched = touched_by(replica, change)
    assert (replica.index_of(query) > before) is seen
    shown = seen and not (isinstance(query, ServiceNodes) and of_checks_only(change))
    assert bool(topics & touched) is shown


@pytest.mark.parametrize(
    ("query", "change"),
    [
        pytest.param(ListNodes(), node("n2"), id="nodes"),
        pytest.param(ListServices(), node(service=Service(name="new")), id="services"),
        pytest.param(
            ListServices(node_meta={"a": "b"}), node(node_meta={"a": "b"}), id="services-by-meta"
        ),
        pytest.param(NodeServices(node="n1"), node(service=web(port=81)), id="node-services"),
        pytest.param(NodeServices(node="n1"), node(address="10.0.0.2"), id="node-itself"),
        pytest.param(NodeServices(node="later"), node("later"), id="node-appears"),
        pytest.param(NodeChecks(node="n1"), node(checks=(check(status="warning"),)), id="checks"),
    ],
)
def test_listings_wake_and_move(replica: Replica, query: Query, change: Command) -> None:
    replica.apply(node(service=web(), checks=(check(),)))
    before = replica.index_of(query)
    topics = set(query.topics(replica.machine.reader))
    assert topics & touched_by(replica, change)
    assert replica.index_of(query) > before


def test_a_renamed_instance_is_gone_under_its_old_name(replica: Replica) -> None:
    replica.apply(node(service=web(), checks=(check(service_id="s1"),)))
    old = ServiceHealth(name="web")
    topics = set(old.topics(replica.machine.reader))
    assert topics & touched_by(replica, node(service=web(name="shop")))
    assert (replica.ask(old), replica.index_of(old)) == ([], 2)
    [moved] = replica.ask(ServiceHealth(name="shop"))
    assert [each.check_id for each in moved.checks] == ["c1"]
    replica.apply(Deregister(node="n1", check_id="c1"))
    [moved] = replica.ask(ServiceHealth(name="shop"))
    assert moved.checks == []


# Sessions.


@pytest.mark.parametrize(
    ("end", "alive"),
    [
        pytest.param(node(checks=(check(status="critical"),)), False, id="check-critical"),
        pytest.param(node(checks=(check(status="warning"),)), True, id="check-warning"),
        pytest.param(node(checks=(check("other", status="critical"),)), True, id="other-check"),
        pytest.param(Deregister(node="n1", check_id="c1"), False, id="check-leaves"),
        pytest.param(Deregister(node="n1"), False, id="node-leaves"),
    ],
)
def test_sessions_end_with_what_they_hang_on(replica: Replica, end: Command, alive: bool) -> None:
    replica.apply(node(checks=(check(),)))
    session = replica.apply(SessionCreate(node="n1", node_checks=("c1",)))
    replica.apply(end)
    assert bool(replica.ask(SessionInfo(id=session.id))) is alive


# Single operations of a transaction.


def transaction(replica: Replica) -> Transaction:
    return Transaction(replica.machine.reader, index=replica.index + 1)


@pytest.mark.parametrize(
    ("index", "done"),
    [
        pytest.param(1, True, id="right"),
        pytest.param(7, False, id="stale"),
        pytest.param(0, False, id="only-if-absent"),
    ],
)
def test_compare_and_set(replica: Replica, index: int, done: bool) -> None:
    replica.apply(node(service=web(), checks=(check(),)))
    tx = transaction(replica)
    assert cas_node(tx, Node(node="n1", address="10.0.0.9", modify_index=index)) is done
    assert cas_service(tx, "n1", web(port=9, modify_index=index)) is done
    assert cas_check(tx, check(node="n1", output="x", modify_index=index)) is done
    assert delete_check_cas(transaction(replica), "n1", "c1", index) is done
    assert delete_service_cas(transaction(replica), "n1", "s1", index) is done
    assert delete_node_cas(transaction(replica), "n1", index) is done


@pytest.mark.parametrize(
    ("index", "done"), [pytest.param(0, True, id="create"), pytest.param(3, False, id="replace")]
)
def test_compare_and_set_of_what_is_absent(replica: Replica, index: int, done: bool) -> None:
    replica.apply(node())
    tx = transaction(replica)
    assert cas_node(tx, Node(node="n9", address="10.0.0.9", modify_index=index)) is done
    assert cas_service(tx, "n1", web(modify_index=index)) is done
    assert cas_check(tx, check(node="n1", modify_index=index)) is done
    assert delete_node_cas(tx, "none", index) is False


def test_a_service_needs_its_node(replica: Replica) -> None:
    assert set_service(transaction(replica), "none", web()) == Refused("Missing node registration")


# The mesh's variant of a listing.


def test_proxies_are_found_by_their_destination(replica: Replica) -> None:
    proxy = Service(
        name="web-proxy",
        kind="connect-proxy",
        port=1,
        proxy={"DestinationServiceName": "web"},
    )
    query = ServiceNodes(name="web", connect=True)
    before = set(query.topics(replica.machine.reader))
    assert before & touched_by(replica, node(service=proxy))
    [found] = replica.ask(query)
    assert found.service.name == "web-proxy"
    assert connect_destination(Service(name="x", connect={"Native": True})) == "x"
    replica.apply(Deregister(node="n1"))
    assert replica.ask(query) == []


# What holds after any history.

NAMES = st.sampled_from(["web", "Web", "db", "shop"])
NODE_NAMES = st.sampled_from(["n1", "N1", "n2"])
IDS = st.sampled_from(["a", "A", "b"])
STATUSES = st.sampled_from(["passing", "warning", "critical"])
SERVICES = st.builds(
    Service,
    id=IDS,
    name=NAMES,
    tags=st.sampled_from([None, (), ("t",)]),
    kind=st.just("connect-proxy"),
    port=st.integers(1, 2),
    proxy=st.builds(lambda name: {"DestinationServiceName": name}, NAMES),
)
CHECKS = st.builds(
    Check,
    check_id=st.sampled_from(["c", "C", "d"]),
    status=STATUSES,
    service_id=st.sampled_from(["", "a", "b"]),
    service_name=st.sampled_from(["", "loose"]),
)
COMMANDS = st.one_of(
    st.builds(
        Register,
        node=NODE_NAMES,
        id=st.sampled_from(["", UUID_A, UUID_B]),
        address=st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        service=st.none() | SERVICES,
        checks=st.lists(CHECKS, max_size=2).map(tuple),
    ),
    st.builds(
        Deregister,
        node=NODE_NAMES,
        service_id=st.sampled_from(["", "a", "b"]),
        check_id=st.sampled_from(["", "c", "d"]),
    ),
)


def assert_indexes_agree(reader: Reader) -> None:
    """Every index of the catalog says just what the records themselves say."""
    fold = records.fold
    nodes = {fold(each.node): each for each in records.NODES.scan(reader)}
    services = list(records.SERVICES.scan(reader))
    checks = list(records.CHECKS.scan(reader))
    assert {fold(each.node) for each in services} <= set(nodes)
    assert {fold(each.node) for each in checks} <= set(nodes)
    owners = {(fold(each.node), fold(each.id)): each for each in services}

    ids = {each.node for each in records.NODE_IDS.scan(reader)}
    assert ids == {each.node for each in nodes.values() if each.id}
    assert _sorted(records.INSTANCES.scan(reader)) == _sorted(services)
    destinations = {(each.node, each.id) for each in records.CONNECT.scan(reader)}
    assert destinations == {(each.node, each.id) for each in services if connect_destination(each)}

    by_state = [(each.node, each.id) for each in records.CHECKS_BY_STATE.scan(reader)]
    assert sorted(by_state) == sorted((each.node, each.check_id) for each in checks)
    by_name = [(each.node, each.id) for each in records.CHECKS_BY_SERVICE.scan(reader)]
    named = [(each.node, each.check_id) for each in checks if each.service_name]
    assert sorted(by_name) == sorted(named)
    of_nodes = [each for some in records.NODE_CHECKS.scan(reader) for each in some.checks]
    assert _sorted(of_nodes) == _sorted(each for each in checks if not each.service_id)
    of_instances = list(records.INSTANCE_CHECKS.scan(reader))
    assert _sorted(of_instances) == _sorted(each for each in checks if each.service_id)
    for each in of_instances:
        owner = owners[fold(each.node), fold(each.service_id)]
        assert each in list(records.checks_of_instance(reader, owner))


def _sorted(items: Any) -> list[Any]:
    return sorted(items, key=repr)


@settings(max_examples=60, deadline=None)
@given(st.lists(COMMANDS, max_size=25))
def test_indexes_agree_and_replicas_are_equal_after_any_history(commands: list[Command]) -> None:
    one, other = Replica(), Replica()
    for command in commands:
        one.apply(command)
        assert_indexes_agree(one.machine.reader)
    other.machine.apply(one.log)
    assert one.checksum() == other.checksum()
    for name in ("n1", "n2"):
        one.apply(Deregister(node=name))
    assert catalog_rows(one) == []


class CountingReader:
    """Counts what is read through it."""

    def __init__(self, below: Reader) -> None:
        self._below, self.count = below, 0

    def get(self, key: bytes) -> bytes | None:
        self.count += 1
        return self._below.get(key)

    def scan(self, *args: Any, **options: Any) -> Any:
        for pair in self._below.scan(*args, **options):
            self.count += 1
            yield pair


def test_a_services_health_costs_what_its_instances_cost(replica: Replica) -> None:
    commands: list[Command] = [
        node(
            f"n{number}",
            service=Service(name="web" if number < 3 else f"other-{number % 7}"),
            checks=(
                check(),
                check("own", service_id="web" if number < 3 else f"other-{number % 7}"),
            ),
        )
        for number in range(300)
    ]
    replica.apply_all(commands)
    reader = CountingReader(replica.machine.reader)
    assert len(ServiceHealth(name="web").run(reader)[1]) == 3
    assert reader.count <= 5 * 3
