"""From the text of a file to one mapping, spelt like the JSON form; or one line that says where the
file is wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import yaml

from registry.errors import ConfigError

_TOML_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


class _Loader(yaml.SafeLoader):
    """Plain data, without YAML's traps: `no`, `on` and dates are text, a key is there once."""


# Only the words that JSON has, too: a tag `on` or a country `no` must not turn into a boolean.
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key: Hashable = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            key = str(key)
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is there twice", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load_yaml(path: Path, text: str) -> Mapping[str, Any]:
    """One document; an empty file says nothing. Raises `ConfigError` naming file and line."""
    try:
        # A SafeLoader: what a file says cannot run anything.
        value: object = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(" ".join(reason.split()), file=where) from error
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError("expected a mapping of keys at the top", file=str(path))
    return value


def load_toml(path: Path, text: str) -> Mapping[str, Any]:
    """Raises `ConfigError` naming file and line; dates and times are their text."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        where = f"{path}:{place[1]}" if place else str(path)
        raise ConfigError(_TOML_PLACE.sub("", str(error)), file=where) from error
    plain: Mapping[str, Any] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return value
