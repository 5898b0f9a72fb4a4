"""Whether the configuration entries of services fit together.

Entries lead from one service to others: a router to the destinations of its routes, a splitter to
those of its splits, a resolver to where it redirects and fails over to. All services on the ways
from one service are its chain.

    router -> splitter -> splitter … -> resolver -> resolver (redirect, failover)

A chain has to speak one protocol, has to end, and may be routed or split only where its protocol is
made of requests. An entry that would break the chain of any service is refused; here is found out
which, with the texts that clients know. Nothing else is made of chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from registry.state.quote import quote

Settings = Mapping[str, Any]
#: The settings of an entry by kind and name, None for none.
Lookup = Callable[[str, str], Settings | None]

_ROUTED_PROTOCOLS: Final = ("http", "http2", "grpc")
#: Chains are judged as if all datacenters had this name; errors show it.
_DATACENTER: Final = "dc1"
_NAMESPACE: Final = "default"


class ChainError(ValueError):
    """Why there is no chain."""


class _Target(NamedTuple):
    """Instances of a service."""

    service: str
    subset: str = ""
    namespace: str = _NAMESPACE
    datacenter: str = _DATACENTER

    @property
    def id(self) -> str:
        subset = f"{self.subset}." if self.subset else ""
        return f"{subset}{self.service}.{self.namespace}.{self.datacenter}"

    def sent_on(self, to: Settings, datacenter: str = "") -> _Target:
        """Where this leads by a redirect or failover; another service has other subsets."""
        service = text_of(to, "Service") or self.service
        kept = self.subset if service == self.service else ""
        return _Target(
            service,
            text_of(to, "ServiceSubset") or kept,
            text_of(to, "Namespace") or self.namespace,
            datacenter or text_of(to, "Datacenter") or self.datacenter,
        )


# Entries of earlier versions may hold anything: what is not of its type counts as not there.


def text_of(settings: Settings, field: str) -> str:
    value = settings.get(field)
    return value if isinstance(value, str) else ""


def part_of(settings: Settings, field: str) -> Settings:
    value = settings.get(field)
    return value if isinstance(value, dict) else {}


def parts_of(settings: Settings, field: str) -> list[Settings]:
    value = settings.get(field)
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def related_services(kind: str, name: str, settings: Settings) -> set[str]:
    """The services that an entry leads to."""
    found: list[Settings] = []
    if kind == "service-router":
        routes = parts_of(settings, "Routes")
        found = [{"Service": name}, *(part_of(route, "Destination") for route in routes)]
    elif kind == "service-splitter":
        found = parts_of(settings, "Splits")
    elif kind == "service-resolver":
        failover = part_of(settings, "Failover")
        found = [part_of(settings, "Redirect"), *(part_of(failover, each) for each in failover)]
    return {text_of(each, "Service") for each in found} - {""}


def protocol_of(lookup: Lookup, service: str) -> str:
    """What a service speaks, as its own defaults say, else those of all proxies."""
    defaults = lookup("service-defaults", service)
    if defaults is not None:
        protocol = text_of(defaults, "Protocol")
    else:
        config = part_of(lookup("proxy-defaults", "global") or {}, "Config")
        protocol = str(config.get("protocol") or "")
    return (protocol or "tcp").lower()


def require_chain(lookup: Lookup, service: str) -> None:
    """Raises `ChainError` when there is no chain for a service."""
    if not service:
        raise ChainError("serviceName is required")
    _Assembly(lookup, service).check()


class _Assembly:
    """One chain while it is put together: its protocol, and which node leads to which."""

    def __init__(self, lookup: Lookup, service: str) -> None:
        self._lookup = lookup
        self._service = service
        self._protocol = ""
        self._is_routed = False
        self._next: dict[str, list[str]] = {}
        #: Nodes of splitters whose splits were not followed yet, and their services. A list, and
        #: not recursion: a chain may be as long as there are services.
        self._splitters: list[tuple[str, str]] = []

    def check(self) -> None:
        start = self._route()
        while self._splitters:
            self._follow_splits(*self._splitters.pop())
        self._require_no_circle(start)
        if self._is_routed and self._protocol not in _ROUTED_PROTOCOLS:
            raise ChainError(
                f"discovery chain {quote(self._service)} uses a protocol {quote(self._protocol)} "
                "that does not permit advanced routing or splitting behavior"
            )

    def _speak(self, service: str) -> None:
        protocol = protocol_of(self._lookup, service)
        self._protocol = self._protocol or protocol
        if protocol != self._protocol:
            raise ChainError(
                f"discovery chain {quote(self._service)} uses inconsistent protocols; "
                f"service {quote(service)} has {quote(protocol)} "
                f"which is not {quote(self._protocol)}"
            )

    def _route(self) -> str:
        """The chain's first node."""
        router = self._lookup("service-router", self._service)
        if router is None:
            return self._split_or_resolve(self._service, {})
        self._is_routed = True
        self._speak(self._service)
        node = f"router:{self._service}.{_NAMESPACE}"
        led = self._next[node] = []
        for route in parts_of(router, "Routes"):
            to = part_of(route, "Destination")
            led.append(self._split_or_resolve(text_of(to, "Service") or self._service, to))
        led.append(self._split_or_resolve(self._service, {}))
        return node

    def _split_or_resolve(self, service: str, to: Settings) -> str:
        """The node for a service; a splitter is passed by where a subset is asked for."""
        target = _target(service, to)
        is_whole = target == _Target(service)
        return (self._split(service) if is_whole else "") or self._resolve(target)

    def _split(self, service: str) -> str:
        """The node of a splitter, "" if the service has none."""
        if self._lookup("service-splitter", service) is None:
            return ""
        node = f"splitter:{service}.{_NAMESPACE}"
        if node not in self._next:
            self._next[node] = []
            self._splitters.append((node, service))
            self._is_routed = True
        return node

    def _follow_splits(self, node: str, service: str) -> None:
        splitter = self._lookup("service-splitter", service) or {}
        for split in parts_of(splitter, "Splits"):
            to = text_of(split, "Service") or service
            stays = to == service  # a part that is not split again
            led = self._resolve(_target(to, split)) if stays else self._split_or_resolve(to, split)
            self._next[node].append(led)

    def _resolve(self, target: _Target, *, is_failover: bool = False) -> str:
        seen: dict[str, None] = {}
        while True:
            node = f"resolver:{target.id}"
            if node in self._next:
                return node
            self._speak(target.service)
            if target.id in seen:
                circle = " -> ".join([*seen, target.id])
                raise ChainError(f"detected circular resolver redirect: [{circle}]")
            seen[target.id] = None
            resolver = self._lookup("service-resolver", target.service) or {}
            sent_on = target.sent_on(part_of(resolver, "Redirect"))
            if sent_on == target and not target.subset:
                sent_on = target._replace(subset=text_of(resolver, "DefaultSubset"))
            if sent_on == target:
                break
            target = sent_on
        _require_subset(target, resolver)
        self._require_plain_if_external(target, resolver)
        if not is_failover:
            self._next[node] = []
            for there in _failover_targets(target, resolver):
                self._resolve(there, is_failover=True)
        return node

    def _require_plain_if_external(self, target: _Target, resolver: Settings) -> None:
        """A service that is reached by a name of its own is not ours to send on or to divide."""
        defaults = self._lookup("service-defaults", target.service) or {}
        if not text_of(defaults, "ExternalSNI"):
            return
        for field, what in _NOT_OF_EXTERNAL:
            if resolver.get(field):
                raise ChainError(
                    f"service {quote(target.service)} has an external SNI set; "
                    f"cannot define {what} for external services"
                )

    def _require_no_circle(self, start: str) -> None:
        """Go down every way once: a node that is met again on the way down is a circle."""
        way: dict[str, Iterator[str]] = {start: reversed(self._next[start])}
        done: set[str] = set()
        while way:
            node, below = next(reversed(way.items()))
            following = next(below, None)
            if following is None:
                del way[node]
                done.add(node)
            elif following in way:
                circle = " -> ".join([*way, following])
                raise ChainError(f"detected circular reference: [{circle}]")
            elif following not in done:
                way[following] = reversed(self._next[following])


#: Fields of a resolver that an external service can not have, and what they are called.
_NOT_OF_EXTERNAL: Final = (
    ("Redirect", "redirects"),
    ("Subsets", "subsets"),
    ("Failover", "failover"),
)


def _target(service: str, to: Settings) -> _Target:
    namespace = text_of(to, "Namespace") or _NAMESPACE
    return _Target(service, text_of(to, "ServiceSubset"), namespace)


def _require_subset(target: _Target, resolver: Settings) -> None:
    if target.subset and target.subset not in part_of(resolver, "Subsets"):
        raise ChainError(
            f"service {quote(target.service)} does not have a subset named {quote(target.subset)}"
        )


def _failover_targets(target: _Target, resolver: Settings) -> Iterator[_Target]:
    failover = part_of(resolver, "Failover")
    applies = target.subset if target.subset in failover else "*"
    to = part_of(failover, applies)
    datacenters = to.get("Datacenters")
    for datacenter in datacenters if isinstance(datacenters, list) and datacenters else ("",):
        there = target.sent_on(to, str(datacenter))
        if there != target:
            yield there
