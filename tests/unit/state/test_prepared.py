"""Prepared queries: definitions, templates, and what they find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from registry.agent.durations import parse_duration
from registry.state.base import Refused
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Check, Service
from registry.state.prepared import (
    CreateQuery,
    DeleteQuery,
    ExecuteQuery,
    ExplainQuery,
    Failover,
    GetQuery,
    ListQueries,
    PreparedQuery,
    ServiceQuery,
    Template,
    UpdateQuery,
    fill_in,
    flaw_of,
)
from registry.state.sessions import SessionCreate, SessionDestroy
from registry.state.topics import Topic
from registry.testing.state import Replica

UNKNOWN_ID = "11111111-2222-3333-4444-555555555555"


def definition(name: str = "q", service: str = "web", **more: Any) -> PreparedQuery:
    return PreparedQuery(name=name, service=ServiceQuery(service=service), **more)


def asking(**more: Any) -> PreparedQuery:
    return PreparedQuery(name="q", service=ServiceQuery(service="web", **more))


def template(name: str, service: str = "web", regexp: str = "", **more: Any) -> PreparedQuery:
    kind = Template(type="name_prefix_match", regexp=regexp, **more)
    return PreparedQuery(name=name, template=kind, service=ServiceQuery(service=service))


@pytest.fixture
def replica() -> Replica:
    return Replica()


def create(replica: Replica, query: PreparedQuery) -> Any:
    return replica.apply(CreateQuery(query=query))


# Definitions.


def test_a_query_is_kept_and_replaced(replica: Replica) -> None:
    made = create(replica, definition())
    assert replica.ask(GetQuery(id=made)).create_index == 1
    changed = definition("other", "db", id=made)
    assert replica.apply(UpdateQuery(query=changed)) == made
    found = replica.ask(GetQuery(id=made.upper()))
    assert (found.name, found.create_index, found.modify_index) == ("other", 1, 2)
    assert [each.id for each in replica.ask(ListQueries())] == [made]
    assert replica.ask(ExplainQuery(name="q")) is None
    assert replica.apply(DeleteQuery(id=made)) is True
    assert replica.ask(ListQueries()) == []
    assert replica.index_of(ListQueries()) == 3


def test_what_is_not_there_can_not_be_changed(replica: Replica) -> None:
    gone = Refused(f"Cannot modify non-existent prepared query: '{UNKNOWN_ID}'")
    assert replica.apply(DeleteQuery(id=UNKNOWN_ID)) == gone
    assert replica.apply(UpdateQuery(query=definition(id=UNKNOWN_ID))) == gone
    no_id = "failed prepared query lookup: index error: UUID must be 36 characters"
    assert replica.ask(GetQuery(id="x")) == Refused(no_id)
    assert replica.apply(DeleteQuery(id="x")) == Refused(f"Prepared Query lookup failed: {no_id}")
    assert replica.ask(GetQuery(id=UNKNOWN_ID)) is None


def test_names_are_unique_and_hide_no_id(replica: Replica) -> None:
    made = create(replica, definition())
    taken = Refused("name 'Q' aliases an existing query name")
    assert create(replica, definition("Q")) == taken
    assert create(replica, definition(made)) == Refused(
        f"name '{made}' aliases an existing query ID"
    )
    assert not isinstance(create(replica, template("")), Refused)
    assert create(replica, template("")) == Refused(
        "a query template with an empty name already exists"
    )


def test_a_query_goes_with_its_session(replica: Replica) -> None:
    assert create(replica, definition(session=UNKNOWN_ID)) == Refused(
        f'invalid session "{UNKNOWN_ID}"'
    )
    assert create(replica, definition(session="x")) == Refused(
        "invalid session: index error: UUID must be 36 characters"
    )
    replica.apply(Register(node="n", address="10.0.0.1"))
    session = replica.apply(SessionCreate(node="n"))
    bound = [create(replica, definition(name, session=session.id)) for name in ("", "", "x")]
    kept = create(replica, definition("kept"))
    topics = set(GetQuery(id=bound[0]).topics(replica.machine.reader))
    seen: set[Topic] = set()
    replica.machine.topics.listen(seen.update)
    replica.apply(SessionDestroy(id=session.id))
    assert [each.id for each in replica.ask(ListQueries())] == [kept]
    assert topics <= seen


@pytest.mark.parametrize(
    ("query", "flaw"),
    [
        pytest.param(definition(), "", id="sound"),
        pytest.param(definition(dns_ttl="10s"), "", id="sound-ttl"),
        pytest.param(
            definition(""), "Invalid prepared query: Must be bound to a session", id="no-name"
        ),
        pytest.param(definition("", session="s"), "", id="no-name-but-a-session"),
        pytest.param(
            definition(service=""),
            "Invalid prepared query: Must provide a Service name to query",
            id="no-service",
        ),
        pytest.param(
            asking(failover=Failover(nearest_n=-1)),
            "Invalid prepared query: Bad NearestN '-1', must be >= 0",
            id="nearest",
        ),
        pytest.param(
            definition(dns_ttl="abc"),
            "Invalid prepared query: Bad DNS TTL 'abc': time: invalid duration \"abc\"",
            id="ttl",
        ),
        pytest.param(
            definition(dns_ttl="-5s"),
            "Invalid prepared query: DNS TTL '-5000000000', must be >=0",
            id="negative-ttl",
        ),
        pytest.param(
            definition(template=Template(type="odd")),
            "failed compiling template: Bad Template.Type 'odd'",
            id="template-type",
        ),
        pytest.param(
            template("x", regexp="("),
            "failed compiling template: Bad Regexp: error parsing regexp: missing closing ): `(`",
            id="template-regexp",
        ),
        pytest.param(
            template("x", "${name.odd}"),
            "failed compiling template: Bad evaluation for '${name.odd}' in Service.Service: "
            "1:3: unknown variable accessed: name.odd",
            id="template-variable",
        ),
        pytest.param(
            PreparedQuery(
                template=Template(type="name_prefix_match"),
                service=ServiceQuery(service="s", tags=("a", "b\nc${ lower(x) }")),
            ),
            "failed compiling template: Bad evaluation for 'b\nc${ lower(x) }' in Service.Tags[1]: "
            "2:5: unknown function called: lower",
            id="template-function",
        ),
        pytest.param(
            PreparedQuery(
                template=Template(type="name_prefix_match"),
                service=ServiceQuery(service="s", node_meta={"k": "${x"}),
            ),
            "failed compiling template: Bad format '${x' in Service.NodeMeta[k]: a } is missing",
            id="template-brace",
        ),
        pytest.param(
            definition(token="<hidden>"),
            "Invalid prepared query: Bad Token '<hidden>', "
            "it looks like a query definition with a redacted token was submitted",
            id="hidden-token",
        ),
        pytest.param(
            asking(node_meta={"odd key": "x"}),
            "Invalid prepared query: no odd key",
            id="node-meta",
        ),
    ],
)
def test_flaws(query: PreparedQuery, flaw: str) -> None:
    assert flaw_of(query, parse_duration, odd_keys) == flaw


def odd_keys(meta: Mapping[str, str]) -> str:
    return "".join(f"no {key}" for key in meta if " " in key)


# Templates.


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        pytest.param("${name.full}", "geo-web-main", id="full"),
        pytest.param("${name.prefix}", "geo-", id="prefix"),
        pytest.param("x-${name.suffix}-y", "x-web-main-y", id="suffix"),
        pytest.param("${match(1)}/${match(2)}", "web/main", id="groups"),
        pytest.param("${match(0)}", "geo-web-main", id="whole-match"),
        pytest.param("${match(9)}", "", id="no-such-group"),
        pytest.param("${match(-1)}", "", id="no-group-at-all"),
        pytest.param("${ agent.segment }", "", id="segment"),
        pytest.param("$${name.full}", "${name.full}", id="escaped"),
        pytest.param("plain", "plain", id="plain"),
        pytest.param("$${x}-${name.suffix}", "${x}-web-main", id="escaped-and-not"),
    ],
)
def test_filling_in(written: str, filled: str) -> None:
    query = template("geo-", written, "^geo-(.*)-([^-]+)$")
    assert fill_in(query, "geo-web-main").service.service == filled


def test_filling_in_reaches_everything(replica: Replica) -> None:
    service = ServiceQuery(
        service="s",
        tags=("${match(1)}", "${match(2)}"),
        node_meta={"k": "${name.suffix}"},
        near="${name.full}",
    )
    kind = Template(type="name_prefix_match", regexp="^p-(.*)$", remove_empty_tags=True)
    query = PreparedQuery(name="p-", template=kind, service=service)
    filled = fill_in(query, "p-x").service
    assert (filled.tags, filled.node_meta, filled.near) == (("x",), {"k": "x"}, "p-x")
    assert fill_in(query, "other").service.tags == ()
    without_tags = PreparedQuery(name="p-", template=kind, service=ServiceQuery(service="s"))
    assert fill_in(without_tags, "p-x").service.tags == ()


def test_the_longest_prefix_wins_after_exact_names(replica: Replica) -> None:
    for name in ("", "geo-", "geo-db-"):
        create(replica, template(name, f"t:{name}"))
    create(replica, definition("geo-db-1", "exact"))
    found = {
        name: replica.ask(ExplainQuery(name=name)).service.service
        for name in ("geo-db-1", "GEO-DB-2", "geo-x", "anything")
    }
    assert found == {
        "geo-db-1": "exact",
        "GEO-DB-2": "t:geo-db-",
        "geo-x": "t:geo-",
        "anything": "t:",
    }


def test_templates_are_not_run_by_id(replica: Replica) -> None:
    made = create(replica, template("geo-"))
    assert replica.ask(ExplainQuery(name=made)) == Refused(
        "prepared query templates can only be resolved up by name, not by ID"
    )
    assert replica.ask(ExecuteQuery(name="")) == Refused("Missing Query ID")


# Running.


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        pytest.param(asking(), "ab", id="critical-ones-are-left-out"),
        pytest.param(asking(only_passing=True), "a", id="only-passing"),
        pytest.param(asking(ignore_check_ids=("own",)), "abc", id="ignored-check"),
        pytest.param(
            asking(only_passing=True, ignore_check_ids=("own",)), "abc", id="passing-and-ignored"
        ),
        pytest.param(asking(tags=("V1",)), "ab", id="tag"),
        pytest.param(asking(tags=("v1", "!b")), "a", id="unwanted-tag"),
        pytest.param(asking(node_meta={"n": "b"}), "b", id="node-meta"),
        pytest.param(asking(service_meta={"m": "a"}), "a", id="service-meta"),
        pytest.param(asking(connect=True), "", id="connect"),
    ],
)
def test_running(replica: Replica, query: PreparedQuery, nodes: str) -> None:
    for name, status in (("a", "passing"), ("b", "warning"), ("c", "critical")):
        service = Service(name="web", tags=("v1", name), meta={"m": name})
        own = Check(check_id="own", status=status, service_id="web")
        replica.apply(
            Register(
                node=name,
                address="10.0.0.1",
                node_meta={"n": name},
                service=service,
                checks=(own,),
            )
        )
    made = create(replica, query)
    for name in ("q", made):
        execution = replica.ask(ExecuteQuery(name=name))
        assert "".join(each.node.node for each in execution.instances) == nodes
    assert replica.ask(ExecuteQuery(name="none")) is None


@pytest.mark.parametrize(
    ("query_near", "near", "nodes"),
    [
        pytest.param("", "", "abc", id="nobody"),
        pytest.param("C", "", "cba", id="the-query"),
        pytest.param("c", "b", "bac", id="the-request"),
        pytest.param("_agent", "", "bac", id="the-agent"),
        pytest.param("none", "", "abc", id="unknown"),
    ],
)
def test_the_node_that_is_near_to_itself_comes_first(
    replica: Replica, query_near: str, near: str, nodes: str
) -> None:
    for name in "abc":
        replica.apply(Register(node=name, address="10.0.0.1", service=Service(name="web")))
    create(replica, asking(near=query_near))
    execution = replica.ask(ExecuteQuery(name="q", near=near, agent_node="b"))
    assert "".join(each.node.node for each in execution.instances) == nodes
