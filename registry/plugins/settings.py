"""The `plugins` section of the configuration: which plugins are used, in what order, and how set.

"plugins": {
    "enable": ["history", "webhook"],      only these, if any are named
    "disable": ["dns-check"],              all but these
    "order": ["history"],                  these first, the others as found
    "settings": {"history": {"versions_max": 50}}
}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from registry.errors import ConfigError

#: Where settings stand in a configuration file.
SETTINGS_KEY = "plugins.settings"


class PluginSelection(msgspec.Struct, frozen=True, kw_only=True):
    """The `plugins` section, as it was written."""

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    settings: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return name not in self.disable and (not self.enable or name in self.enable)

    def place(self, name: str) -> int:
        """Sorts the plugins that `order` names before the others, which stay as found."""
        return self.order.index(name) if name in self.order else len(self.order)

    def joined(self, other: PluginSelection) -> PluginSelection:
        """This section and a later one, as files are merged: lists add up, settings override."""
        return PluginSelection(
            enable=self.enable + other.enable,
            disable=self.disable + other.disable,
            order=self.order + other.order,
            settings={**self.settings, **other.settings},
        )


def read_settings(plugin: str, kind: type[msgspec.Struct], given: object) -> msgspec.Struct:
    """`given` as the plugin's own type; raises `ConfigError` naming plugin and key."""
    field = f"{SETTINGS_KEY}.{plugin}"
    if not isinstance(given, Mapping):
        raise ConfigError("must be an object", field=field)
    known = [one.encode_name for one in msgspec.structs.fields(kind)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(_unknown(unknown[0], known), field=field)
    try:
        return msgspec.convert(given, kind, strict=True)
    except (msgspec.ValidationError, ValueError, TypeError) as problem:
        reason, _, place = str(problem).partition(" - at `$.")
        where = f"{field}.{place.rstrip('`')}" if place else field
        raise ConfigError(reason, field=where) from problem


def _unknown(name: str, known: Sequence[str]) -> str:
    if not known:
        return f"unknown key {name!r}; the plugin has no settings"
    return f"unknown key {name!r}; known are {', '.join(known)}"
