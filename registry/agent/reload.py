"""What a reload changes: the difference between two loaded configurations, item by item.

`plan_reload` is a pure function; the agent does what it says, and takes its keys from
`reloaded_config`. Every difference is in the report, with what becomes of it: applied now, waiting
for a restart, or ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from registry.agent.config import AgentConfig
from registry.agent.config_merge import StructT, flattened
from registry.agent.definitions import CheckDefinition, ServiceDefinition, WatchDefinition
from registry.agent.durations import format_duration
from registry.agent.loading import LoadedConfig

Kind = Literal["service", "check", "watch", "key", "plugin"]
Change = Literal["added", "changed", "removed"]
Outcome = Literal["applied", "needs restart", "ignored"]

#: Keys, or objects of keys, that take effect without a restart (surface 4.3).
RELOADABLE = (
    "acl.tokens",
    "ca_file",
    "ca_path",
    "cert_file",
    "key_file",
    "discard_check_output",
    "dns_config",
    "limits.http_max_conns_per_client",
    "limits.rpc_max_burst",
    "limits.rpc_rate",
    "log_level",
    "node_meta",
    "plugins.settings",
    "recursors",
    "telemetry.prefix_filter",
)

#: Keys whose values stay out of logs and answers.
SECRET = ("acl.tokens", "encrypt", "plugins.settings", "telemetry.circonus_api_token")


class ReloadItem(msgspec.Struct, frozen=True):
    """One difference. `detail` is "old -> new" for keys that are no secret."""

    kind: Kind
    name: str
    change: Change
    outcome: Outcome
    detail: str = ""

    def text(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.kind} {self.name}: {self.change}, {self.outcome}{detail}"


class ReloadReport(msgspec.Struct, frozen=True):
    """All differences, in a fixed order: services, checks, watches, keys, plugins; each by name."""

    items: tuple[ReloadItem, ...] = ()
    warnings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the log: one line for each item, or one that says there are none."""
        return [item.text() for item in self.items] or ["nothing has changed"]

    def summary(self) -> str:
        """ "2 applied, 1 needs restart" """
        outcomes = ("applied", "needs restart", "ignored")
        counts = {name: sum(item.outcome == name for item in self.items) for name in outcomes}
        return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "nothing has changed"

    def plain(self) -> dict[str, Any]:
        """For the HTTP answer and the command line, in the API's spelling."""
        return {
            "Items": [
                {
                    "Kind": item.kind,
                    "Name": item.name,
                    "Change": item.change,
                    "Outcome": item.outcome,
                    "Detail": item.detail,
                }
                for item in self.items
            ],
            "Warnings": list(self.warnings),
        }


def plan_reload(old: LoadedConfig, new: LoadedConfig) -> ReloadReport:
    """What going from `old` to `new` changes."""
    items = [
        *_definitions("service", _services(old.services), _services(new.services)),
        *_definitions("check", _checks(old.checks), _checks(new.checks)),
        *_definitions("watch", _watches(old.watches), _watches(new.watches)),
        *_keys(old, new),
    ]
    return ReloadReport(tuple(items), new.warnings)


def reloaded_config(old: AgentConfig, new: AgentConfig) -> AgentConfig:
    """`old` with the reloadable keys of `new`: what is in force until the next restart."""
    for path in RELOADABLE:
        old = _with_key_of(old, new, path.split("."))
    return old


def _with_key_of(old: StructT, new: StructT, names: list[str]) -> StructT:
    first, *rest = names
    value = getattr(new, first)
    if rest:
        value = _with_key_of(getattr(old, first), value, rest)
    return replace(old, **{first: value})


def _services(services: Sequence[ServiceDefinition]) -> dict[str, ServiceDefinition]:
    return {service.id or service.name: service for service in services}


def _checks(checks: Sequence[CheckDefinition]) -> dict[str, CheckDefinition]:
    return {check.id or check.name: check for check in checks}


def _watches(watches: Sequence[WatchDefinition]) -> dict[str, WatchDefinition]:
    """Watches have no ids: what they watch names them, and a number where that is not enough."""
    named: dict[str, WatchDefinition] = {}
    for watch in watches:
        subject = watch.key or watch.prefix or watch.service or watch.name or watch.service_id
        base = name = f"{watch.type} {subject}".rstrip()
        number = 1
        while name in named:
            number += 1
            name = f"{base} #{number}"
        named[name] = watch
    return named


def _definitions(
    kind: Kind, old: Mapping[str, msgspec.Struct], new: Mapping[str, msgspec.Struct]
) -> Iterator[ReloadItem]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield ReloadItem(kind, name, _change(name in old, name in new), "applied")


def _change(was: bool, is_: bool) -> Change:
    if was and is_:
        return "changed"
    return "added" if is_ else "removed"


def _keys(old: LoadedConfig, new: LoadedConfig) -> Iterator[ReloadItem]:
    before, after = _effective(old.config), _effective(new.config)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        change = _change(path in before, path in after)
        outcome: Outcome = "applied" if _is_under(path, RELOADABLE) else "needs restart"
        detail = (
            "" if _is_under(path, SECRET) else f"{_shown(before, path)} -> {_shown(after, path)}"
        )
        yield ReloadItem("key", _spelt(path), change, outcome, detail)
    for path in sorted(old.ignored.keys() | new.ignored.keys()):
        if old.ignored.get(path) != new.ignored.get(path):
            change = _change(path in old.ignored, path in new.ignored)
            yield ReloadItem("key", path, change, "ignored")


def _effective(config: AgentConfig) -> dict[str, Any]:
    """Leaves by path; without those that only follow from other keys and would be told twice."""
    leaves = flattened(msgspec.to_builtins(config))
    leaves = {path: value for path, value in leaves.items() if value != {}}
    return {
        path: value
        for path, value in leaves.items()
        if not path.startswith("tagged_addresses.") or path.split(".")[1] not in _FILLED_IN
    }


_FILLED_IN = ("lan", "lan_ipv4", "lan_ipv6", "wan", "wan_ipv4", "wan_ipv6")


def _is_under(path: str, tops: Sequence[str]) -> bool:
    return any(path == top or path.startswith(f"{top}.") for top in tops)


def _spelt(path: str) -> str:
    """The path as files have it, where durations carry their own unit."""
    return ".".join(name.removesuffix("_ns") for name in path.split("."))


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    if path not in leaves:
        return "none"
    value = leaves[path]
    if _spelt(path) != path and isinstance(value, int):
        return format_duration(value)
    return msgspec.json.encode(value).decode()
