"""Mesh settings of a service as JSON: how they are read, and how they are shown.

They are kept under the API's names, however those were written. Which of them are shown although
they are not set differs from place to place; the tables say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.http.body_readers import (
    BodyError,
    Reader,
    anything,
    flag,
    integer,
    many,
    mapping,
    mismatch,
    reader,
    text,
)

# -- showing ---------------------------------------------------------------------------------

#: Mesh settings of a service in the order in which they are shown.
_PROXY_FIELDS = (
    "DestinationServiceName",
    "DestinationServiceID",
    "LocalServiceAddress",
    "LocalServicePort",
    "Config",
    "Upstreams",
    "MeshGateway",
    "Expose",
)

#: Fields of an upstream likewise, each with what is shown when it is not set, if anything.
_UPSTREAM_FIELDS: Mapping[str, Any] = {
    "DestinationType": "",
    "DestinationNamespace": None,
    "DestinationName": "",
    "Datacenter": "",
    "LocalBindAddress": None,
    "LocalBindPort": 0,
    "Config": None,
    "MeshGateway": {},
}
_LOCAL_UPSTREAM_FIELDS = {
    name: unset if name in ("DestinationName", "MeshGateway") else None
    for name, unset in _UPSTREAM_FIELDS.items()
}
_EXPOSED_PATH_FIELDS: Mapping[str, Any] = dict.fromkeys(
    ("ListenerPort", "Path", "LocalPathPort", "Protocol", "ParsedFromCheck")
)
_LOCAL_EXPOSED_PATH_FIELDS = {**_EXPOSED_PATH_FIELDS, "ParsedFromCheck": False}


def proxy_view(proxy: Mapping[str, Any] | None, *, local: bool = False) -> dict[str, Any]:
    """Mesh settings of a service; two of them are always shown. `local`: as agents show their own
    services, which differs from the catalog in what is left out."""
    given = proxy or {}
    shown = {name: given[name] for name in _PROXY_FIELDS if given.get(name)}
    if upstreams := shown.get("Upstreams"):
        table = _LOCAL_UPSTREAM_FIELDS if local else _UPSTREAM_FIELDS
        shown["Upstreams"] = [_filled(each, table) for each in upstreams]
    shown["MeshGateway"] = given.get("MeshGateway") or {}
    exposed = given.get("Expose") or {}
    shown["Expose"] = expose = {
        name: exposed[name] for name in ("Checks", "Paths") if exposed.get(name)
    }
    if paths := expose.get("Paths"):
        table = _LOCAL_EXPOSED_PATH_FIELDS if local else _EXPOSED_PATH_FIELDS
        expose["Paths"] = [_filled(each, table) for each in paths]
    return shown


def _filled(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `table` that are set, and those that are shown in any case."""
    shown = ((name, given.get(name) or unset) for name, unset in table.items())
    return {name: value for name, value in shown if value is not None}


# -- reading ---------------------------------------------------------------------------------


def canonical(
    table: Mapping[str, str], nested: Mapping[str, Reader] | None = None, *, lenient: bool = False
) -> Reader:
    """A reader of mesh settings: any letter case, underscores or not; `lenient` passes over
    unknown ones."""

    read_of = nested or {}
    members = {name: read_of.get(name, anything).schema for name in table.values()}

    @reader(type="object", properties=members)
    def read_settings(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise mismatch(value, path, "object")
        found: dict[str, Any] = {}
        for key, item in value.items():
            name = table.get(key.lower().replace("_", ""))
            if name is None and not lenient:
                raise BodyError(f'json: unknown field "{key}"')
            if name is not None and item is not None:
                found[name] = read_of.get(name, anything)(item, f"{path}.{name}")
        return found

    return read_settings


def _names(*names: str) -> dict[str, str]:
    return {name.lower(): name for name in names}


read_mesh_gateway = canonical(_names("Mode"), {"Mode": text})
read_expose = canonical(
    _names("Checks", "Paths"),
    {
        "Checks": flag,
        "Paths": many(
            canonical(
                _names(*_EXPOSED_PATH_FIELDS),
                {
                    "ListenerPort": integer,
                    "Path": text,
                    "LocalPathPort": integer,
                    "Protocol": text,
                    "ParsedFromCheck": flag,
                },
            )
        ),
    },
)
read_proxy = canonical(
    _names(*_PROXY_FIELDS),
    {
        "DestinationServiceName": text,
        "DestinationServiceID": text,
        "LocalServiceAddress": text,
        "LocalServicePort": integer,
        "Config": mapping(anything),
        "Upstreams": many(
            canonical(
                _names(*_UPSTREAM_FIELDS),
                {
                    "DestinationType": text,
                    "DestinationNamespace": text,
                    "DestinationName": text,
                    "Datacenter": text,
                    "LocalBindAddress": text,
                    "LocalBindPort": integer,
                    "Config": mapping(anything),
                    "MeshGateway": read_mesh_gateway,
                },
            )
        ),
        "MeshGateway": read_mesh_gateway,
        "Expose": read_expose,
    },
)
read_connect = canonical(_names("Native", "SidecarService"), {"Native": flag}, lenient=True)
