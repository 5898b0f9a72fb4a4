"""Prepared queries: named questions for services, kept by the servers, and templates of them.

A query is found by its id, else by its exact name, else by the template whose name is the longest
beginning of the name asked for. A template is filled in from that name when it is asked, so one
definition answers for a whole family of services.

    queries           id            -> PreparedQuery
    query-names       name          -> id       (queries and templates with a name)
    query-templates   name          -> id       (templates; the name may be empty)
    query-sessions    session, id   -> id
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec

from registry.state import coordinates, sessions
from registry.state.base import Command, Query, Refused, Transaction, max_index
from registry.state.catalog_lookup import find_instances, has_meta, instance_topics
from registry.state.catalog_records import CRITICAL, PASSING, fold
from registry.state.health import InstanceHealth, with_checks
from registry.state.regexp import PatternError, compile_pattern
from registry.state.tables import Table
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader

PREFIX_TEMPLATE = "name_prefix_match"

_INDEX = "prepared-queries"
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Template(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    type: str = ""  # "" (no template) or PREFIX_TEMPLATE
    regexp: str = ""
    remove_empty_tags: bool = False


class Failover(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Datacenters to ask when this one has no healthy instance."""

    nearest_n: int = 0
    datacenters: tuple[str, ...] | None = None


class ServiceQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which instances. None and empty are told apart, as the API shows them so."""

    service: str = ""
    failover: Failover = Failover()
    only_passing: bool = False
    ignore_check_ids: tuple[str, ...] | None = None
    near: str = ""
    tags: tuple[str, ...] | None = None  # all wanted, but those after "!" unwanted
    node_meta: dict[str, str] | None = None
    service_meta: dict[str, str] | None = None
    connect: bool = False


class PreparedQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str = ""
    name: str = ""
    session: str = ""  # the query goes with it
    token: str = ""
    template: Template = Template()
    service: ServiceQuery = ServiceQuery()
    dns_ttl: str = ""  # a duration, as it was written
    create_index: int = 0
    modify_index: int = 0


class QueryId(msgspec.Struct, frozen=True):
    id: str


QUERIES: Table[PreparedQuery] = Table("queries", PreparedQuery)
NAMES: Table[QueryId] = Table("query-names", QueryId)
TEMPLATES: Table[QueryId] = Table("query-templates", QueryId)
BY_SESSION: Table[QueryId] = Table("query-sessions", QueryId)


def query_topic(query_id: str) -> Topic:
    return ("query", fold(query_id))


def get_query(reader: Reader, query_id: str) -> PreparedQuery | None:
    return QUERIES.get(reader, fold(query_id))


# Changing.


class CreateQuery(Command, tag="query-create", frozen=True, kw_only=True):
    """Store a new query; its id, or `Refused`. The definition has been checked by `flaw_of`."""

    query: PreparedQuery

    def stamped(self, now_ms: int) -> CreateQuery:
        query = msgspec.structs.replace(self.query, id=str(uuid.uuid4()))
        return msgspec.structs.replace(self, now_ms=now_ms, query=query)

    def apply(self, tx: Transaction) -> str | Refused:
        return _set_query(tx, self.query, None) or self.query.id


class UpdateQuery(Command, tag="query-update", frozen=True, kw_only=True):
    """Replace the query with that id; the id, or `Refused`."""

    query: PreparedQuery

    def apply(self, tx: Transaction) -> str | Refused:
        existing = _existing(tx, self.query.id)
        if isinstance(existing, Refused):
            return existing
        return _set_query(tx, self.query, existing) or self.query.id


class DeleteQuery(Command, tag="query-delete", frozen=True, kw_only=True):
    """Remove a query; True, or `Refused` when there is none."""

    id: str

    def apply(self, tx: Transaction) -> bool | Refused:
        existing = _existing(tx, self.id)
        if isinstance(existing, Refused):
            return existing
        _drop_query(tx, existing)
        return True


def _existing(reader: Reader, query_id: str) -> PreparedQuery | Refused:
    return modifiable(query_id, _id_flaw(query_id) or get_query(reader, query_id))


def modifiable(query_id: str, found: PreparedQuery | Refused | None) -> PreparedQuery | Refused:
    """What `GetQuery` found, or why nothing can be changed there."""
    if isinstance(found, Refused):
        return Refused(f"Prepared Query lookup failed: {found.reason}")
    return found or Refused(f"Cannot modify non-existent prepared query: '{query_id}'")


def _id_flaw(query_id: str) -> Refused | None:
    flaw = sessions.session_key(query_id)
    if isinstance(flaw, Refused):
        return Refused(flaw.reason.replace("session", "prepared query", 1))
    return None


def _set_query(
    tx: Transaction, query: PreparedQuery, existing: PreparedQuery | None
) -> Refused | None:
    if flaw := _conflict(tx, query):
        return Refused(flaw)
    if query.session:
        session = sessions.find_session(tx, query.session)
        if isinstance(session, Refused):
            return Refused(session.reason.replace("failed session lookup", "invalid session", 1))
        if session is None:
            return Refused(f'invalid session "{query.session}"')
        query = msgspec.structs.replace(query, session=session.id)
    if existing is not None:
        _drop_query(tx, existing)
    created = tx.index if existing is None else existing.create_index
    query = msgspec.structs.replace(query, create_index=created, modify_index=tx.index)
    pointer = QueryId(query.id)
    QUERIES.put(tx, query, fold(query.id))
    if query.name:
        NAMES.put(tx, pointer, fold(query.name))
    if query.template.type:
        TEMPLATES.put(tx, pointer, fold(query.name))
    if query.session:
        BY_SESSION.put(tx, pointer, fold(query.session), fold(query.id))
    _changed(tx, query)
    return None


def _conflict(tx: Transaction, query: PreparedQuery) -> str:
    """Why the name can not be had: queries are found by id, then name, and both must be unique."""
    if query.name:
        other = NAMES.get(tx, fold(query.name))
        if other is not None and other.id != query.id:
            return f"name '{query.name}' aliases an existing query name"
    elif query.template.type:
        other = TEMPLATES.get(tx, "")
        if other is not None and other.id != query.id:
            return "a query template with an empty name already exists"
    if _UUID.fullmatch(query.name) and get_query(tx, query.name) is not None:
        return f"name '{query.name}' aliases an existing query ID"
    return ""


def _drop_query(tx: Transaction, query: PreparedQuery) -> None:
    QUERIES.delete(tx, fold(query.id))
    if query.name:
        NAMES.delete(tx, fold(query.name))
    if query.template.type:
        TEMPLATES.delete(tx, fold(query.name))
    if query.session:
        BY_SESSION.delete(tx, fold(query.session), fold(query.id))
    _changed(tx, query)


def _changed(tx: Transaction, query: PreparedQuery) -> None:
    tx.raise_index(_INDEX)
    tx.touch(query_topic(query.id), table_topic("queries"))


def _delete_queries_of_session(tx: Transaction, session_id: str) -> None:
    for pointer in list(BY_SESSION.scan(tx, fold(session_id))):
        query = get_query(tx, pointer.id)
        assert query is not None, "an index entry goes with its query"
        _drop_query(tx, query)


sessions.on_session_end(_delete_queries_of_session)


# Checking a definition. Done before it is proposed: what a pattern may be can change with versions.


#: What stands for a token where it is not shown.
HIDDEN_TOKEN = "<hidden>"


def flaw_of(
    query: PreparedQuery,
    duration_ns: Callable[[str], int],
    meta_flaw: Callable[[Mapping[str, str]], str],
) -> str:
    """What is wrong with a definition, "" for nothing.

    `duration_ns` reads a duration's text, `meta_flaw` says what can be no metadata of a node.
    """
    if flaw := _service_flaw(query, meta_flaw) or _dns_flaw(query.dns_ttl, duration_ns):
        return f"Invalid prepared query: {flaw}"
    if flaw := _template_flaw(query):
        return f"failed compiling template: {flaw}"
    return ""


def _service_flaw(query: PreparedQuery, meta_flaw: Callable[[Mapping[str, str]], str]) -> str:
    if not query.name and not query.template.type and not query.session:
        return "Must be bound to a session"
    if query.token == HIDDEN_TOKEN:
        return (
            f"Bad Token '{HIDDEN_TOKEN}', "
            "it looks like a query definition with a redacted token was submitted"
        )
    if not query.service.service:
        return "Must provide a Service name to query"
    nearest = query.service.failover.nearest_n
    if nearest < 0:
        return f"Bad NearestN '{nearest}', must be >= 0"
    return meta_flaw(query.service.node_meta or {})


def _dns_flaw(ttl: str, duration_ns: Callable[[str], int]) -> str:
    if not ttl:
        return ""
    try:
        ttl_ns = duration_ns(ttl)
    except ValueError as problem:
        return f"Bad DNS TTL '{ttl}': {problem}"
    return f"DNS TTL '{ttl_ns}', must be >=0" if ttl_ns < 0 else ""


def _template_flaw(query: PreparedQuery) -> str:
    template = query.template
    if not template.type:
        return ""
    if template.type != PREFIX_TEMPLATE:
        return f"Bad Template.Type '{template.type}'"
    try:
        if template.regexp:
            compile_pattern(template.regexp)
    except PatternError as problem:
        return f"Bad Regexp: error parsing regexp: {problem}"
    try:
        fill_in(query, query.name)
    except ValueError as problem:
        return str(problem)
    return ""


# Filling in a template.

_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_MATCH_CALL = re.compile(r"match\(\s*(-?[0-9]{1,6})\s*\)")
_OTHER_CALL = re.compile(r"([a-zA-Z_][\w.]*)\(.*\)", re.DOTALL)


def fill_in(query: PreparedQuery, name: str, segment: str = "") -> PreparedQuery:
    """The query that a template is for `name`. Raises `ValueError`, with the place, for a variable
    there is not."""
    groups: list[str] = []
    if query.template.regexp:
        groups = compile_pattern(query.template.regexp).groups_in(name) or []
    values = {
        "name.full": name,
        "name.prefix": query.name,
        "name.suffix": name.removeprefix(query.name),
        "agent.segment": segment,
    }

    def replaced(found: re.Match[str], place: str) -> str:
        if found.group(1) is None:
            return "${"  # "$${" stands for itself
        inside = found.group(1).strip()
        if not found.group().endswith("}"):
            raise ValueError(f"Bad format '{found.string}' in Service{place}: a }} is missing")
        if (call := _MATCH_CALL.fullmatch(inside)) is not None:
            number = int(call.group(1))
            return groups[number] if 0 <= number < len(groups) else ""
        if inside in values:
            return values[inside]
        raise ValueError(
            f"Bad evaluation for '{found.string}' in Service{place}: "
            f"{_position(found)}: {_unknown(inside)}"
        )

    def change(text: str, place: str) -> str:
        return _VARIABLE.sub(lambda found: replaced(found, place), text)

    service: ServiceQuery = _mapped(query.service, change, "")
    if query.template.remove_empty_tags:
        kept = tuple(tag for tag in service.tags or () if tag)
        service = msgspec.structs.replace(service, tags=kept)
    return msgspec.structs.replace(query, service=service)


def _position(found: re.Match[str]) -> str:
    """Line and column of what stands in the braces."""
    before = found.string[: found.start(1)]
    spaces = len(found.group(1)) - len(found.group(1).lstrip())
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10)) + spaces}"


def _unknown(inside: str) -> str:
    if (call := _OTHER_CALL.fullmatch(inside)) is not None and call.group(1) != "match":
        return f"unknown function called: {call.group(1)}"
    return f"unknown variable accessed: {inside}"


def _mapped(value: Any, change: Callable[[str, str], str], place: str) -> Any:
    """A copy with every text in it changed, each told where it stands; keys of maps stay."""
    if isinstance(value, str):
        return change(value, place)
    if isinstance(value, tuple):
        return tuple(_mapped(item, change, f"{place}[{at}]") for at, item in enumerate(value))
    if isinstance(value, dict):
        return {key: _mapped(item, change, f"{place}[{key}]") for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        changed = {
            name: _mapped(getattr(value, name), change, f"{place}.{_shown(name)}") for name in names
        }
        return msgspec.structs.replace(value, **changed)
    return value


def _shown(name: str) -> str:
    """A field's name in the API."""
    return "".join({"ids": "IDs"}.get(word, word.capitalize()) for word in name.split("_"))


# Asking.


class ListQueries(Query, tag="query-list", frozen=True, kw_only=True):
    """All queries: `list[PreparedQuery]`, in the order of their ids."""

    tells_consistency: ClassVar[bool] = True

    def run(self, reader: Reader) -> tuple[int, list[PreparedQuery]]:
        return max_index(reader, _INDEX), list(QUERIES.scan(reader))

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("queries"),)


class GetQuery(Query, tag="query-get", frozen=True, kw_only=True):
    """The query with an id: `PreparedQuery | None`, or `Refused` when that is no id."""

    tells_consistency: ClassVar[bool] = True

    id: str

    def run(self, reader: Reader) -> tuple[int, PreparedQuery | Refused | None]:
        if isinstance(flaw := _id_flaw(self.id), Refused):
            return 0, flaw
        return max_index(reader, _INDEX), get_query(reader, self.id)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (query_topic(self.id),)


class ExplainQuery(Query, tag="query-explain", frozen=True, kw_only=True):
    """The query that a name or id leads to, filled in: `PreparedQuery | None | Refused`. There is
    no index to wait on, as in `ExecuteQuery`."""

    tells_consistency: ClassVar[bool] = True

    name: str
    segment: str = ""

    def run(self, reader: Reader) -> tuple[int, PreparedQuery | Refused | None]:
        return 0, resolve(reader, self.name, self.segment)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("queries"),)


class Execution(msgspec.Struct, frozen=True):
    """What a query found here: the filled-in query, and its healthy instances."""

    query: PreparedQuery
    instances: list[InstanceHealth]


class ExecuteQuery(Query, tag="query-execute", frozen=True, kw_only=True):
    """Run the query that a name or id leads to: `Execution | None | Refused`.

    `near` is the node to sort by ("" keeps the order of names), which comes first itself if it is
    among them; `connect` asks for the mesh proxies in front of the service although the query does
    not. There is no index to wait on.
    """

    tells_consistency: ClassVar[bool] = True

    name: str
    near: str = ""
    agent_node: str = ""  # what "_agent" and "_ip" in the query's own `near` stand for
    segment: str = ""
    connect: bool = False

    def run(self, reader: Reader) -> tuple[int, Execution | Refused | None]:
        query = resolve(reader, self.name, self.segment)
        if not isinstance(query, PreparedQuery):
            return 0, query
        connect = self.connect or query.service.connect
        near = self.near or query.service.near
        near = self.agent_node if near in ("_agent", "_ip") else near
        found = matching_instances(reader, query.service, connect=connect)
        coordinates.sort_by_distance(reader, near, found, lambda each: each.node.node)
        _put_first(near, found)
        return 0, Execution(query, found)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        query = resolve(reader, self.name, self.segment)
        if not isinstance(query, PreparedQuery):
            return (table_topic("queries"),)
        connect = self.connect or query.service.connect
        found = instance_topics(reader, query.service.service, connect=connect)
        return (table_topic("queries"), *found)


class RunQuery(Query, tag="query-run", frozen=True, kw_only=True):
    """Run a definition that another datacenter keeps, and filled in: `Execution`.

    The instances are in no particular order: nobody is near to a node of another datacenter.
    """

    query: PreparedQuery
    connect: bool = False

    def run(self, reader: Reader) -> tuple[int, Execution]:
        wanted = self.query.service
        found = matching_instances(reader, wanted, connect=self.connect or wanted.connect)
        return 0, Execution(self.query, found)

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        wanted = self.query.service
        return instance_topics(reader, wanted.service, connect=self.connect or wanted.connect)


def resolve(reader: Reader, name_or_id: str, segment: str) -> PreparedQuery | Refused | None:
    """The query that is asked for by this name or id, a template filled in; None for none."""
    if not name_or_id:
        return Refused("Missing Query ID")
    if _UUID.fullmatch(name_or_id) and (query := get_query(reader, name_or_id)) is not None:
        if query.template.type:
            return Refused("prepared query templates can only be resolved up by name, not by ID")
        return query
    query = _by_name(reader, name_or_id)
    if query is None or not query.template.type:
        return query
    try:
        return fill_in(query, name_or_id, segment)
    except ValueError as problem:
        return Refused(f"failed to render template: {problem}")


def _by_name(reader: Reader, name: str) -> PreparedQuery | None:
    pointer = NAMES.get(reader, fold(name))
    if pointer is None:
        # As many points as the name is long, but only where there are templates at all.
        some = next(iter(TEMPLATES.scan_raw(reader, limit=1)), None)
        lengths = range(len(name), -1, -1) if some is not None else ()
        found = (TEMPLATES.get(reader, fold(name[:length])) for length in lengths)
        pointer = next((each for each in found if each is not None), None)
    return None if pointer is None else get_query(reader, pointer.id)


#: Where the node that is near to itself has to be after sorting, to be put first.
_NEAR_MAX = 10


def _put_first(near: str, found: list[InstanceHealth]) -> None:
    """Put the node itself first: without coordinates sorting has not done it."""
    for at, each in enumerate(found[:_NEAR_MAX] if near else ()):
        if fold(each.node.node) == fold(near):
            found[0], found[at] = found[at], found[0]
            return


def matching_instances(
    reader: Reader, wanted: ServiceQuery, *, connect: bool
) -> list[InstanceHealth]:
    """The healthy instances that a query is after."""
    services = [
        service
        for service in find_instances(reader, wanted.service, connect=connect)
        if has_meta(service.meta, wanted.service_meta or {})
        and _tags_fit(service.tags, wanted.tags)
    ]
    found = with_checks(reader, wanted.service, services, together=not connect)
    return [
        each
        for each in found
        if has_meta(each.node.meta, wanted.node_meta or {}) and _is_healthy(each, wanted)
    ]


def _is_healthy(each: InstanceHealth, wanted: ServiceQuery) -> bool:
    ignored = wanted.ignore_check_ids or ()
    statuses = [check.status for check in each.checks if check.check_id not in ignored]
    if wanted.only_passing:
        return all(status == PASSING for status in statuses)
    return CRITICAL not in statuses


def _tags_fit(tags: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> bool:
    have = {tag.lower() for tag in tags or ()}
    return all(
        tag[1:].lower() not in have if tag.startswith("!") else tag.lower() in have
        for tag in wanted or ()
    )
