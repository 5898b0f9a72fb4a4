"""What must hold for a service that is a mesh proxy or a gateway; the texts are part of the API.

Ordinary services have nothing to check here. `proxy` and `connect` are in the API's spelling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from registry.state.quote import listed, quote

PROXY_KIND: Final = "connect-proxy"
GATEWAY_KINDS: Final = ("mesh-gateway", "terminating-gateway", "ingress-gateway")

_PREPARED_QUERY: Final = "prepared_query"
_UPSTREAM_KINDS: Final = ("", "service", _PREPARED_QUERY)
_EXPOSED_PROTOCOLS: Final = ("http", "http2")
_PORT_MAX: Final = 65535
_LOOPBACK: Final = "127.0.0.1"

#: What a gateway, which stands in front of no single service, can not say.
_OF_ONE_SERVICE: Final = (
    "DestinationServiceName",
    "DestinationServiceID",
    "LocalServiceAddress",
    "LocalServicePort",
    "Upstreams",
)

Settings = Mapping[str, Any]


def mesh_problem(kind: str, port: int, proxy: Settings | None, connect: Settings | None) -> str:
    """All that is wrong with a proxy or gateway as one text, the way the API lists it, or ""."""
    if kind == PROXY_KIND:
        flaws = _proxy_flaws(port, proxy or {}, connect or {})
    elif kind in GATEWAY_KINDS:
        flaws = _gateway_flaws(kind, port, proxy or {}, connect or {})
    else:
        return ""
    return listed(flaws) if flaws else ""


def _proxy_flaws(port: int, proxy: Settings, connect: Settings) -> list[str]:
    name = str(proxy.get("DestinationServiceName", ""))
    who = "Proxy.DestinationServiceName must"
    rules = (
        (not name.strip(), f"{who} be non-empty for Connect proxy services"),
        (name == "*", f"{who} not be a wildcard for Connect proxy services"),
        (port == 0, "Port must be set for a Connect proxy"),
        (
            bool(connect.get("Native")),
            "A Proxy cannot also be Connect Native, only typical services",
        ),
    )
    expose = proxy.get("Expose") or {}
    return [
        *(text for wrong, text in rules if wrong),
        *_upstream_flaws(proxy.get("Upstreams") or ()),
        *_exposed_path_flaws(expose.get("Paths") or ()),
    ]


def _upstream_flaws(upstreams: Iterable[Settings]) -> Iterable[str]:
    """Each upstream on its own, then whether it takes another's place."""
    keys: set[tuple[Any, ...]] = set()
    addresses: set[str] = set()
    for upstream in upstreams:
        if flaw := _upstream_flaw(upstream):
            yield flaw
            continue
        names = ("DestinationType", "DestinationName", "DestinationNamespace", "Datacenter")
        key = tuple(upstream.get(name, "") for name in names)
        host = upstream.get("LocalBindAddress") or _LOOPBACK
        host = f"[{host}]" if ":" in host else host
        address = f"{host}:{upstream['LocalBindPort']}"
        if key in keys:
            words = ("type", "name", "namespace", "datacenter")
            shown = ", ".join(
                f"{word}={quote(part)}" for word, part in zip(words, key, strict=True)
            )
            yield f"upstreams cannot contain duplicates of [{shown}]"
        elif address in addresses:
            yield (
                "upstreams cannot contain duplicates by local bind address and port; "
                f"{quote(address)} is specified twice"
            )
        keys.add(key)
        addresses.add(address)


def _upstream_flaw(upstream: Settings) -> str:
    kind = upstream.get("DestinationType", "")
    if kind not in _UPSTREAM_KINDS:
        return f"unknown upstream destination type: {quote(kind)}"
    if not upstream.get("DestinationName"):
        return "upstream destination name cannot be empty"
    if not upstream.get("LocalBindPort"):
        return "upstream local bind port cannot be zero"
    return ""


def _exposed_path_flaws(paths: Iterable[Settings]) -> Iterable[str]:
    seen: Counter[tuple[str, Any]] = Counter()
    for each in paths:
        path, port = each.get("Path", ""), each.get("ListenerPort", 0)
        seen.update((("path", path), ("port", port)))
        rules = (
            (not path, "expose.paths: empty path exposed"),
            (seen["path", path] > 1, "expose.paths: duplicate paths exposed"),
            (seen["port", port] > 1, "expose.paths: duplicate listener ports exposed"),
            (not 0 < port <= _PORT_MAX, f"expose.paths: invalid listener port: {port}"),
        )
        yield from (text for wrong, text in rules if wrong)
        protocol = str(each.get("Protocol", "")).lower()
        if protocol and protocol not in _EXPOSED_PROTOCOLS:
            known = " ".join(_EXPOSED_PROTOCOLS)
            yield f"protocol '{protocol}' not supported for path: {path}, must be in: [{known}]"


def _gateway_flaws(kind: str, port: int, proxy: Settings, connect: Settings) -> list[str]:
    rules = (
        (port == 0 and kind != "ingress-gateway", f"Port must be non-zero for a {kind}"),
        (
            connect.get("SidecarService") is not None,
            f"A {kind} cannot have a sidecar service defined",
        ),
    )
    told = (name for name in _OF_ONE_SERVICE if proxy.get(name))
    return [
        *(text for wrong, text in rules if wrong),
        *(f"The Proxy.{name} configuration is invalid for a {kind}" for name in told),
    ]
