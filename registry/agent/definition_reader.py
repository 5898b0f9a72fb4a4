"""Reading service, check and watch definitions in both spellings.

- Files: snake_case, letter case does not count, underscores do; a few old CamelCase names in checks
  (surface 4.1, 4.6, 4.7). Durations are texts with a unit.
- HTTP bodies: CamelCase as Go matches it, that is without regard to case, and exactly those
  snake_case names that the API has always taken. Durations are texts or numbers of nanoseconds.

Both are rows of the same tables. An unknown member, or a value of the wrong type, raises
`KeyProblem` (a `ConfigError`); over HTTP its reason is what follows `Request decode failed: `.
Whether a definition makes sense is judged by `registry.agent.definition_rules`, later.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from registry.agent import config_keys
from registry.agent.config_keys import KeyProblem, plain
from registry.agent.definitions import (
    SECOND,
    CheckDefinition,
    ServiceAddress,
    ServiceDefinition,
    WatchDefinition,
    Weights,
)
from registry.agent.durations import parse_duration

Source = Literal["file", "http"]
T = TypeVar("T")


class _Field(NamedTuple):
    """A member of a definition: the field it fills, how it is read, its names in small letters."""

    target: str  # "" = known, but without effect
    kind: str
    file: tuple[str, ...]
    http: tuple[str, ...]


def _field(target: str, kind: str, file: str | None = None, http: str | None = None) -> _Field:
    """Names default to the target in files and to the target without underscores over HTTP."""
    base = target.removesuffix("_ns")
    file_names = (base,) if file is None else tuple(file.split())
    http_names = (base.replace("_", ""),) if http is None else tuple(http.split())
    return _Field(target, kind, file_names, http_names)


_SERVICE = (
    _field("name", "string"),
    _field("id", "string"),
    _field("tags", "strings"),
    _field("address", "string"),
    _field("tagged_addresses", "addresses", http="taggedaddresses tagged_addresses"),
    _field("meta", "map"),
    _field("port", "int"),
    _field("kind", "string"),
    _field("check", "check"),
    _field("checks", "checks"),
    _field("token", "string"),
    _field("weights", "weights"),
    _field("enable_tag_override", "bool", http="enabletagoverride enable_tag_override"),
    _field("proxy", "proxy"),
    _field("connect", "connect"),
    _field("", "string", file="namespace", http=""),
)

_CHECK = (
    _field("name", "string"),
    _field("notes", "string"),
    _field("token", "string"),
    _field("status", "string"),
    _field("args", "strings", file="args scriptargs", http="args scriptargs script_args"),
    _field("http", "string"),
    _field("method", "string"),
    _field("header", "header"),
    _field("body", "string"),
    _field("tcp", "string"),
    _field("grpc", "string"),
    _field("grpc_use_tls", "bool"),
    _field(
        "docker_container_id",
        "string",
        file="docker_container_id dockercontainerid",
        http="dockercontainerid docker_container_id",
    ),
    _field("shell", "string"),
    _field("alias_node", "string"),
    _field("alias_service", "string"),
    _field("ttl_ns", "duration"),
    _field("interval_ns", "duration"),
    _field("timeout_ns", "duration"),
    _field(
        "tls_skip_verify",
        "bool",
        file="tls_skip_verify tlsskipverify",
        http="tlsskipverify tls_skip_verify",
    ),
    _field("output_max_size", "int"),
    _field("success_before_passing", "int"),
    _field("failures_before_critical", "int"),
    _field(
        "deregister_critical_service_after_ns",
        "duration",
        file="deregister_critical_service_after deregistercriticalserviceafter",
        http="deregistercriticalserviceafter deregister_critical_service_after",
    ),
    _field("", "string", file="namespace", http=""),
    _field("", "string", file="", http="proxyhttp proxygrpc"),
)

_TOP_CHECK = (
    *_CHECK,
    _field("id", "string"),
    _field("service_id", "string", file="service_id serviceid", http="serviceid service_id"),
)

# Inside a service the check belongs to it, whatever its own member says.
_SERVICE_CHECK = (
    *_CHECK,
    _field("id", "string", http="checkid"),
    _field("", "string", file="service_id serviceid", http="serviceid service_id"),
)

_WEIGHTS = (_field("passing", "int"), _field("warning", "int"))
_ADDRESS = (_field("address", "string"), _field("port", "int"))

#: Mesh members in the API's spelling, kept and shown back; files may write them in snake_case.
_MESH_GATEWAY: dict[str, Any] = {"Mode": "string"}
_UPSTREAM: dict[str, Any] = {
    "DestinationType": "string",
    "DestinationNamespace": "string",
    "DestinationName": "string",
    "Datacenter": "string",
    "LocalBindAddress": "string",
    "LocalBindPort": "int",
    "Config": "open",
    "MeshGateway": _MESH_GATEWAY,
}
_EXPOSE: dict[str, Any] = {
    "Checks": "bool",
    "Port": "int",
    "Paths": [
        {
            "ListenerPort": "int",
            "Path": "string",
            "Protocol": "string",
            "LocalPathPort": "int",
            "ParsedFromCheck": "bool",
        }
    ],
}
_PROXY: dict[str, Any] = {
    "DestinationServiceName": "string",
    "DestinationServiceID": "string",
    "LocalServiceAddress": "string",
    "LocalServicePort": "int",
    "Config": "open",
    "Upstreams": [_UPSTREAM],
    "MeshGateway": _MESH_GATEWAY,
    "Expose": _EXPOSE,
}
_CONNECT: dict[str, Any] = {"Native": "bool", "SidecarService": "open"}


def _http_members(fields: tuple[_Field, ...], **renamed: str) -> dict[str, Any]:
    names = {field: renamed.get(field.target, field.target) for field in fields if field.http}
    return {name.removesuffix("_ns"): field.kind for field, name in names.items() if name}


#: What HTTP bodies may hold, by kind of object: our name of a member, or the API's where that is
#: in capitals, and the kind of its value, which may be an object of this table.
HTTP_MEMBERS: Mapping[str, Mapping[str, Any]] = {
    "service": _http_members(_SERVICE),
    "check": _http_members(_SERVICE_CHECK, id="check_id"),
    "top_check": _http_members(_TOP_CHECK),
    "weights": _http_members(_WEIGHTS),
    "address": _http_members(_ADDRESS),
    "proxy": _PROXY,
    "connect": _CONNECT,
}


def read_service(
    mapping: Any, *, source: Source, where: str = "service", check_types: Collection[str] = ()
) -> ServiceDefinition:
    """The service that `mapping` defines; `name` is "" when it has none.

    `check_types` are the keys of plugins' check types, which checks may hold. Checks keep their
    order: over HTTP `Check` comes before `Checks`, in files after.
    """
    read = _Reading(source, check_types)
    found = read.members(mapping, _SERVICE, where, "structs.ServiceDefinition")
    # An empty `check` is none: templates leave it in. One among `checks` is judged like any other.
    check = found.pop("check", CheckDefinition())
    one = [] if check == CheckDefinition() else [check]
    many = found.pop("checks", [])
    found["checks"] = tuple([*one, *many] if source == "http" else [*many, *one])
    return ServiceDefinition(**({"name": ""} | found))


def read_check(
    mapping: Any, *, source: Source, where: str = "check", check_types: Collection[str] = ()
) -> CheckDefinition:
    """The check that `mapping` defines by itself, outside a service."""
    return _Reading(source, check_types).check(mapping, _TOP_CHECK, where)


def read_watch(
    mapping: Any, *, source: Source = "file", where: str = "watch", handlers: Collection[str] = ()
) -> WatchDefinition:
    """The watch that `mapping` defines, complete and of a known type.

    `handlers` are the keys of plugins' watch handlers. Unlike services and checks, watches are
    judged here, since which members are known depends on the type (surface 4.8).
    """
    read = _Reading(source, ())
    given = {name.casefold(): value for name, value in read.object(where, mapping).items()}
    kind = read.value("string", _below(where, "type"), given.pop("type", ""))
    if not kind:
        raise KeyProblem(where, f"{where}: a watch needs a type")
    if kind not in _WATCHES:
        raise KeyProblem(where, f"{where}: unknown watch type {kind!r}; known: {_WATCH_TYPES}")
    values = _watch_handler(read, where, given, handlers)
    for name, (target, value_kind) in (_WATCH_COMMON | _WATCHES[kind]).items():
        value = given.pop(name, None)
        if value is not None:
            values[target] = read.value(value_kind, _below(where, name), value)
    if given:
        names = " ".join(sorted(given))
        raise KeyProblem(_below(where, min(given)), f"{where}: Invalid parameters: [{names}]")
    for name in _WATCH_REQUIRED.get(kind, ()):
        if not values.get(name):
            raise KeyProblem(where, f"{where}: a watch of type {kind} needs a {name}")
    if kind == "checks" and values.get("service") and values.get("state"):
        raise KeyProblem(where, f"{where}: a watch of checks takes a service or a state, not both")
    return WatchDefinition(type=kind, **values)


class _Reading:
    """One act of reading: what depends on the source is here."""

    def __init__(self, source: Source, check_types: Collection[str]) -> None:
        self._source = source
        self._check_types = {name.casefold(): name for name in check_types}
        self._readers = _HTTP_READERS if source == "http" else _FILE_READERS
        self._compound: dict[str, Callable[[str, Any], Any]] = {
            "check": lambda path, value: self.check(value, _SERVICE_CHECK, path),
            "checks": self._checks,
            "weights": self._weights,
            "addresses": self._addresses,
            "header": self._header,
            "tags": self._tags,
            "proxy": lambda path, value: self._mesh(path, value, _PROXY),
            "connect": lambda path, value: self._mesh(path, value, _CONNECT),
        }

    def value(self, kind: str, path: str, value: Any) -> Any:
        if kind in self._compound:
            return self._compound[kind](path, value)
        read = self._readers[kind](path, value)
        return tuple(read) if kind == "strings" else read

    def object(self, path: str, value: Any, name: str = "") -> Mapping[str, Any]:
        if self._source == "file":
            return config_keys.read_object(path, value)
        if not isinstance(value, Mapping):
            raise _cannot_unmarshal(path, value, name or "map[string]interface {}")
        return value

    def items(self, path: str, value: Any) -> list[Any]:
        if self._source == "file":
            return config_keys.read_list(path, value)
        if not isinstance(value, list):
            raise _cannot_unmarshal(path, value, "[]interface {}")
        return value

    def members(
        self, mapping: Any, fields: tuple[_Field, ...], where: str, type_name: str
    ) -> dict[str, Any]:
        """Values by target of all members that are set; of two with one target the later counts."""
        known = {name: field for field in fields for name in getattr(field, self._source)}
        found: dict[str, Any] = {}
        for written, value in self.object(where, mapping, type_name).items():
            name, path = written.casefold(), _below(where, written)
            field = known.get(name)
            if (
                field is None
                and name in self._check_types
                and fields in (_TOP_CHECK, _SERVICE_CHECK)
            ):
                if value is not None:
                    found |= self._plugin_check(self._check_types[name], value)
                continue
            if field is None:
                raise self.unknown(path, written)
            if value is not None:
                read = self.value(field.kind, path, value)
                if field.target:
                    found[field.target] = read
        return found

    def unknown(self, path: str, written: str) -> KeyProblem:
        if self._source == "http":
            return KeyProblem(path, f'json: unknown field "{written}"')
        return KeyProblem(path, f"invalid config key {path}")

    def check(self, value: Any, fields: tuple[_Field, ...], path: str) -> CheckDefinition:
        return CheckDefinition(**self.members(value, fields, path, "structs.CheckDefinition"))

    def _plugin_check(self, name: str, value: Any) -> dict[str, Any]:
        """A plugin's settings are an object; anything else becomes an object of one member."""
        settings = plain(value)
        if not isinstance(settings, dict):
            settings = {name: settings}
        return {"plugin_type": name, "plugin_settings": settings}

    def _checks(self, path: str, value: Any) -> list[CheckDefinition]:
        return [
            self.check(item, _SERVICE_CHECK, f"{path}[{number}]")
            for number, item in enumerate(self.items(path, value))
            if item is not None
        ]

    def _weights(self, path: str, value: Any) -> Weights:
        found = self.members(value, _WEIGHTS, path, "structs.Weights")
        # Over HTTP a weight that is not given is 0 (refused for passing); in files it is 1.
        missing = 0 if self._source == "http" else 1
        return Weights(found.get("passing", missing), found.get("warning", missing))

    def _addresses(self, path: str, value: Any) -> dict[str, ServiceAddress]:
        return {
            name: ServiceAddress(
                **(
                    {"address": ""}
                    | self.members(item, _ADDRESS, f"{path}[{name}]", "structs.ServiceAddress")
                )
            )
            for name, item in self.object(path, value).items()
            if item is not None
        }

    def _header(self, path: str, value: Any) -> dict[str, list[str]]:
        return {
            name: list(self.value("strings", f"{path}[{name}]", item))
            for name, item in self.object(path, value).items()
            if item is not None
        }

    def _tags(self, path: str, value: Any) -> tuple[str, ...]:
        return (value,) if isinstance(value, str) else self.value("strings", path, value)

    def _mesh(self, path: str, value: Any, members: dict[str, Any]) -> dict[str, Any]:
        """`value` in the API's spelling; letter case and underscores do not count here."""
        names = {name.casefold(): name for name in members}
        found: dict[str, Any] = {}
        for written, item in self.object(path, value).items():
            name = names.get(written.casefold().replace("_", ""))
            if name is None and members is _CONNECT and self._source == "http":
                continue  # there, and only there, the API passes over what it does not know
            if name is None:
                raise self.unknown(_below(path, written), written)
            if item is None:
                continue
            kind, below = members[name], _below(path, written)
            if kind == "open":
                found[name] = plain(self.object(below, item))
            elif isinstance(kind, dict):
                found[name] = self._mesh(below, item, kind)
            elif isinstance(kind, list):
                found[name] = [
                    self._mesh(f"{below}[{number}]", entry, kind[0])
                    for number, entry in enumerate(self.items(below, item))
                ]
            else:
                found[name] = self.value(kind, below, item)
        return found


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _cannot_unmarshal(path: str, value: Any, expected: str) -> KeyProblem:
    if isinstance(value, bool):
        what = "bool"
    elif isinstance(value, (int, float)):
        what = "number"
    elif isinstance(value, str):
        what = "string"
    else:
        what = "object" if isinstance(value, Mapping) else "array" if value is not None else "null"
    field = path.partition(".")[2]
    target = f"Go struct field {field}" if field else "Go value"
    return KeyProblem(path, f"json: cannot unmarshal {what} into {target} of type {expected}")


def _http_value(expected: str, types: tuple[type, ...]) -> Callable[[str, Any], Any]:
    def read(path: str, value: Any) -> Any:
        # bool is a kind of int in Python, not in JSON.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise _cannot_unmarshal(path, value, expected)
        return value

    return read


def _http_int(path: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise _cannot_unmarshal(path, value, "int")
    return value


def _http_duration(path: str, value: Any) -> int:
    """Nanoseconds of a text with a unit, or a number of them; any other value is passed over."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not -(1 << 63) <= value < 1 << 63:
            raise _cannot_unmarshal(path, value, "time.Duration")
        return int(value)
    if not isinstance(value, str):
        return 0
    try:
        return parse_duration(value)
    except ValueError as error:
        raise KeyProblem(path, str(error)) from None


def _http_strings(path: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _cannot_unmarshal(path, value, "[]string")
    # null in a list of strings is an empty one, as Go's decoder has it.
    return ["" if item is None else _http_string(path, item) for item in value]


def _http_map(path: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _cannot_unmarshal(path, value, "map[string]string")
    return {name: "" if item is None else _http_string(path, item) for name, item in value.items()}


_http_string = _http_value("string", (str,))

_HTTP_READERS: dict[str, Callable[[str, Any], Any]] = {
    "string": _http_string,
    "bool": _http_value("bool", (bool,)),
    "int": _http_int,
    "duration": _http_duration,
    "strings": _http_strings,
    "map": _http_map,
}

_FILE_READERS: dict[str, Callable[[str, Any], Any]] = {
    "string": config_keys.read_string,
    "bool": config_keys.read_bool,
    "int": config_keys.read_int,
    "duration": config_keys.read_duration,
    "strings": config_keys.read_strings,
    "map": config_keys.read_map,
}

#: Members of every watch, and of each type: name -> (field, kind).
_STALE = {"stale": ("stale", "bool")}
_WATCH_COMMON: dict[str, tuple[str, str]] = {
    "datacenter": ("datacenter", "string"),
    "token": ("token", "string"),
}
_WATCHES: dict[str, dict[str, tuple[str, str]]] = {
    "key": _STALE | {"key": ("key", "string")},
    "keyprefix": _STALE | {"prefix": ("prefix", "string")},
    "services": _STALE,
    "nodes": _STALE,
    "service": _STALE
    | {
        "service": ("service", "string"),
        "tag": ("tags", "tags"),
        "passingonly": ("passing_only", "bool"),
    },
    "checks": _STALE | {"service": ("service", "string"), "state": ("state", "string")},
    "event": {"name": ("name", "string")},
    "connect_roots": {},
    "connect_leaf": {"service": ("service", "string")},
    "agent_service": {"service_id": ("service_id", "string")},
}
_WATCH_TYPES = ", ".join(_WATCHES)
_WATCH_REQUIRED = {
    "key": ("key",),
    "keyprefix": ("prefix",),
    "service": ("service",),
    "connect_leaf": ("service",),
    "agent_service": ("service_id",),
}
_BUILT_IN_HANDLERS = ("args", "handler", "http_handler_config")
_HTTP_HANDLER = {
    "path": ("http_path", "string"),
    "method": ("http_method", "string"),
    "header": ("http_header", "header"),
    "timeout": ("http_timeout_ns", "duration"),
    "tls_skip_verify": ("http_tls_skip_verify", "bool"),
}


def _watch_handler(
    read: _Reading, where: str, given: dict[str, Any], handlers: Collection[str]
) -> dict[str, Any]:
    """Take the handler out of `given`: exactly one of args, handler, an HTTP one, or a plugin's."""
    kind = read.value("string", _below(where, "handler_type"), given.pop("handler_type", ""))
    if kind not in ("", "script", "http"):
        raise KeyProblem(where, f"{where}: handler_type must be script or http, not {kind!r}")
    named = {name.casefold(): name for name in handlers if name not in _BUILT_IN_HANDLERS}
    found = [name for name in (*_BUILT_IN_HANDLERS, *named) if given.get(name) is not None]
    if kind:
        wanted = ("http_handler_config",) if kind == "http" else ("args", "handler")
        if not any(name in wanted for name in found):
            raise KeyProblem(where, f"{where}: handler_type {kind} needs {' or '.join(wanted)}")
    if len(found) != 1:
        problem = "has several handlers" if found else "has no handler"
        raise KeyProblem(where, f"{where}: the watch {problem}; give args or http_handler_config")
    name, path = found[0], _below(where, found[0])
    value = given.pop(name)
    if name in named:
        settings = plain(value)
        if not isinstance(settings, dict):
            settings = {named[name]: settings}
        return {"plugin_handler": named[name], "plugin_settings": settings}
    if name != "http_handler_config":
        handler = read.value("strings" if name == "args" else "string", path, value)
        if not handler:
            raise KeyProblem(path, f"{path} must not be empty")
        return {name: handler}
    return _http_handler(read, path, value)


def _http_handler(read: _Reading, where: str, value: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"http_timeout_ns": 10 * SECOND}
    for written, item in read.object(where, value).items():
        path = _below(where, written)
        if written.casefold() not in _HTTP_HANDLER:
            raise KeyProblem(path, f"invalid config key {path}")
        target, kind = _HTTP_HANDLER[written.casefold()]
        if item is not None:
            values[target] = read.value(kind, path, item)
    if not values.get("http_path"):
        raise KeyProblem(where, f"{where}: needs a path, the URL to call")
    return values
