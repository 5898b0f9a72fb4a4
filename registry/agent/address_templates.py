"""Addresses found when the agent starts: `{{ GetPrivateIP }}`, `{{ GetInterfaceIP "eth0" }}`.

The language is that of go-sockaddr, as far as configurations use it: a source of interface
addresses, then filters, joined by `|`. Text outside the braces stays, so that one key may hold
several templates.

    {{ GetAllInterfaces | include "network" "10.0.0.0/8" | exclude "name" "br-" | attr "address" }}

Pure functions over a list of `Interface`; only `host_interfaces` looks at the machine.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import psutil

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Addresses set aside by an RFC, by its number.
RFC_NETWORKS = {
    "1918": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    "6598": ("100.64.0.0/10",),
    "4193": ("fc00::/7",),
    "3927": ("169.254.0.0/16",),
    "4291": ("fe80::/10",),
}
#: What counts as a private address where one is looked for.
PRIVATE_RFCS = ("1918", "6598", "4193")


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """One address of one network interface."""

    name: str
    address: str
    prefix_length: int = 32
    is_up: bool = True
    is_default: bool = False  # the default route leaves through it

    @property
    def ip(self) -> IP:
        return ipaddress.ip_address(self.address)

    @property
    def kind(self) -> str:
        return f"ipv{self.ip.version}"

    @property
    def is_private(self) -> bool:
        return any(in_rfc(self.ip, number) for number in PRIVATE_RFCS)

    @property
    def is_forwardable(self) -> bool:
        return not (self.ip.is_loopback or self.ip.is_link_local or self.ip.is_multicast)

    @property
    def is_public(self) -> bool:
        return self.is_up and self.is_forwardable and not self.is_private


def in_rfc(address: IP, number: str) -> bool:
    return any(address in ipaddress.ip_network(text) for text in RFC_NETWORKS.get(number, ()))


def host_interfaces() -> list[Interface]:
    """The addresses of this machine, in the order in which the system lists them."""
    statistics, default = psutil.net_if_stats(), _default_interface()
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = entry.address.partition("%")[0]  # a zone may follow
            found.append(
                Interface(
                    name=name,
                    address=address,
                    prefix_length=_prefix_length(address, entry.netmask),
                    is_up=name in statistics and statistics[name].isup,
                    is_default=name == default,
                )
            )
    return found


def expand(text: str, interfaces: Sequence[Interface]) -> str:
    """`text` with its templates replaced; raises `ValueError` with one sentence."""
    if "{{" not in text:
        return text
    return re.sub(r"\{\{(.*?)\}\}", lambda match: _evaluate(match.group(1), interfaces), text)


def private_ipv4(interfaces: Sequence[Interface]) -> list[str]:
    """Addresses among which an agent that is bound to 0.0.0.0 looks for its own."""
    return [
        item.address
        for item in interfaces
        if item.is_up and item.is_private and item.kind == "ipv4"
    ]


def public_ipv6(interfaces: Sequence[Interface]) -> list[str]:
    return [item.address for item in interfaces if item.is_public and item.kind == "ipv6"]


def _evaluate(template: str, interfaces: Sequence[Interface]) -> str:
    try:
        steps = [shlex.split(step) for step in _split_pipe(template)]
    except ValueError:
        raise ValueError(f"template {{{{{template}}}}}: a quote is not closed") from None
    if not steps or not all(steps):
        raise ValueError(f"template {{{{{template}}}}}: a step is empty")
    (source, *arguments), *filters = steps
    if source not in _SOURCES:
        known = ", ".join(_SOURCES)
        raise ValueError(f'template: no function "{source}"; there are {known}')
    # A source that gives text (GetPrivateIP) ends the pipe; "join" and "attr" make text of a list.
    value = _SOURCES[source](list(interfaces), arguments)
    for name, *filter_arguments in filters:
        if isinstance(value, str) or name not in _FILTERS:
            raise ValueError(f'template: "{name}" can not follow here')
        value = _FILTERS[name](value, filter_arguments)
    return value if isinstance(value, str) else " ".join(item.address for item in value)


def _split_pipe(template: str) -> list[str]:
    """The steps between `|`; one inside quotes ("up|forwardable") does not count."""
    return re.findall(r"(?:\"[^\"]*\"|'[^']*'|[^|])+", template)


Value = list[Interface] | str


def _forwardable(interfaces: list[Interface]) -> list[Interface]:
    return [item for item in interfaces if item.is_up and item.is_forwardable]


def _ordered(interfaces: list[Interface]) -> list[Interface]:
    """The default interface first, IPv4 before IPv6."""
    return sorted(interfaces, key=lambda item: (not item.is_default, item.kind))


def _private(interfaces: list[Interface]) -> list[Interface]:
    return _ordered([item for item in _forwardable(interfaces) if item.is_private])


def _public(interfaces: list[Interface]) -> list[Interface]:
    return _ordered([item for item in interfaces if item.is_public])


def _default(interfaces: list[Interface]) -> list[Interface]:
    return [item for item in _forwardable(interfaces) if item.is_default]


def _of_interface(interfaces: list[Interface], arguments: list[str]) -> list[Interface]:
    name = _argument(arguments, 0, "GetInterfaceIP")
    found = [item for item in interfaces if item.name == name and item.is_forwardable]
    return _ordered(found or [item for item in interfaces if item.name == name])


def _first(interfaces: list[Interface]) -> str:
    return interfaces[0].address if interfaces else ""


def _addresses(interfaces: list[Interface]) -> str:
    return " ".join(item.address for item in interfaces)


_SOURCES: dict[str, Callable[[list[Interface], list[str]], Value]] = {
    "GetAllInterfaces": lambda all_, _: all_,
    "GetDefaultInterfaces": lambda all_, _: _default(all_),
    "GetPrivateInterfaces": lambda all_, _: _private(all_),
    "GetPublicInterfaces": lambda all_, _: _public(all_),
    "GetPrivateIP": lambda all_, _: _first(_private(all_)),
    "GetPrivateIPs": lambda all_, _: _addresses(_private(all_)),
    "GetPublicIP": lambda all_, _: _first(_public(all_)),
    "GetPublicIPs": lambda all_, _: _addresses(_public(all_)),
    "GetInterfaceIP": lambda all_, arguments: _first(_of_interface(all_, arguments)),
    "GetInterfaceIPs": lambda all_, arguments: _addresses(_of_interface(all_, arguments)),
}


def _argument(arguments: list[str], number: int, name: str) -> str:
    if number >= len(arguments):
        raise ValueError(f'template: "{name}" needs {number + 1} argument(s)')
    return arguments[number]


def _matches(item: Interface, by: str, value: str) -> bool:
    try:
        if by in ("name", "address"):
            return re.search(value, getattr(item, by)) is not None
        if by == "network":
            return item.ip in ipaddress.ip_network(value, strict=False)
        if by == "size":
            return item.prefix_length == int(value)
    except (ValueError, re.error) as error:
        raise ValueError(f'template: {by} "{value}": {error}') from None
    if by == "type":
        return value == item.kind or value == "ip"
    if by == "rfc":
        return any(in_rfc(item.ip, number) for number in value.split("|"))
    if by in ("flag", "flags"):
        return all(_has_flag(item, flag) for flag in value.split("|"))
    raise ValueError(f'template: nothing to include or exclude by "{by}"')


def _has_flag(item: Interface, flag: str) -> bool:
    known = {
        "up": item.is_up,
        "forwardable": item.is_forwardable,
        "loopback": item.ip.is_loopback,
        "multicast": item.ip.is_multicast,
        "global unicast": item.ip.is_global,
        "link-local unicast": item.ip.is_link_local,
    }
    if flag not in known:
        raise ValueError(f'template: unknown flag "{flag}"')
    return known[flag]


def _include(items: list[Interface], arguments: list[str]) -> list[Interface]:
    by, value = _argument(arguments, 0, "include"), _argument(arguments, 1, "include")
    return [item for item in items if _matches(item, by, value)]


def _exclude(items: list[Interface], arguments: list[str]) -> list[Interface]:
    by, value = _argument(arguments, 0, "exclude"), _argument(arguments, 1, "exclude")
    return [item for item in items if not _matches(item, by, value)]


_SORT_KEYS: dict[str, Callable[[Interface], object]] = {
    "name": lambda item: item.name,
    "address": lambda item: (item.ip.version, int(item.ip)),
    "size": lambda item: -item.prefix_length,
    "type": lambda item: item.kind,
    "default": lambda item: not item.is_default,
    "private": lambda item: not item.is_private,
}


def _sort(items: list[Interface], arguments: list[str]) -> list[Interface]:
    ordered = items
    for part in reversed(_argument(arguments, 0, "sort").split(",")):
        key = part.strip().lstrip("+-")
        if key not in _SORT_KEYS:
            raise ValueError(f'template: nothing to sort by "{key}"')
        ordered = sorted(
            ordered,
            key=_SORT_KEYS[key],  # type: ignore[arg-type]  # each key is comparable with itself
            reverse=part.strip().startswith("-"),
        )
    return ordered


def _limit(items: list[Interface], arguments: list[str]) -> list[Interface]:
    return items[: _number(arguments, "limit")]


def _offset(items: list[Interface], arguments: list[str]) -> list[Interface]:
    return items[_number(arguments, "offset") :]


def _number(arguments: list[str], name: str) -> int:
    text = _argument(arguments, 0, name)
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise ValueError(f'template: "{name}" needs a number, not "{text}"')
    return int(text)


def _unique(items: list[Interface], arguments: list[str]) -> list[Interface]:
    by = arguments[0] if arguments else "address"
    seen: dict[str, Interface] = {}
    for item in items:
        seen.setdefault(_attribute(item, by), item)
    return list(seen.values())


def _join(items: list[Interface], arguments: list[str]) -> str:
    by, separator = _argument(arguments, 0, "join"), _argument(arguments, 1, "join")
    return separator.join(_attribute(item, by) for item in items)


def _attr(items: list[Interface], arguments: list[str]) -> str:
    return _attribute(items[0], _argument(arguments, 0, "attr")) if items else ""


def _attribute(item: Interface, by: str) -> str:
    known = {
        "address": item.address,
        "name": item.name,
        "type": item.kind,
        "size": str(item.prefix_length),
        "network": str(ipaddress.ip_network(f"{item.address}/{item.prefix_length}", strict=False)),
    }
    if by not in known:
        raise ValueError(f'template: an interface has no "{by}"')
    return known[by]


_FILTERS: dict[str, Callable[[list[Interface], list[str]], Value]] = {
    "include": _include,
    "exclude": _exclude,
    "sort": _sort,
    "limit": _limit,
    "offset": _offset,
    "unique": _unique,
    "join": _join,
    "attr": _attr,
}


def _prefix_length(address: str, netmask: str | None) -> int:
    """Of "255.255.255.0", of "ffff:ffff::" and of a missing mask (a single address)."""
    full = ipaddress.ip_address(address).max_prefixlen
    if not netmask:
        return full
    return int(ipaddress.ip_address(netmask)).bit_count()


def _default_interface() -> str:
    """The interface of the default route; "" when the system does not show it in /proc."""
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return ""
    routes = [line.split() for line in lines]
    return next((route[0] for route in routes if len(route) > 2 and route[1] == "00000000"), "")
