"""What a configuration entry may say, kind by kind. The texts are those that clients know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from registry.state.quote import quote

Settings = Mapping[str, Any]

_ANY: Final = "*"
_SUBSET: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBSET_CHARACTERS_MAX: Final = 63
_LISTENER_PROTOCOLS: Final = ("tcp", "http", "http2", "grpc")
_DOMAIN_BYTES_MAX, _LABEL_BYTES_MAX = 255, 63


def flaw_of(kind: str, name: str, settings: Settings) -> str:
    """What is wrong with an entry taken by itself, "" for nothing. `settings` are as it is shown,
    so everything in them is of its type."""
    rules = _RULES.get(kind)
    return next(rules(name, settings), "") if rules else ""


# Routers


def _router(name: str, settings: Settings) -> Iterator[str]:
    if not name:
        yield "Name is required"
    for at, route in enumerate(settings.get("Routes") or ()):
        http = (route.get("Match") or {}).get("HTTP")
        for flaw in _http_match(http or {}):
            yield f"Route[{at}] {flaw}"
        rewrites = (route.get("Destination") or {}).get("PrefixRewrite")
        if rewrites and not ((http or {}).get("PathExact") or (http or {}).get("PathPrefix")):
            yield (
                f"Route[{at}] cannot make use of PrefixRewrite "
                "without configuring either PathExact or PathPrefix"
            )


def _http_match(http: Settings) -> Iterator[str]:
    for field in ("PathExact", "PathPrefix"):
        path = http.get(field, "")
        if path and not path.startswith("/"):
            yield f"{field} doesn't start with '/': {quote(path)}"
    if sum(field in http for field in ("PathExact", "PathPrefix", "PathRegex")) > 1:
        yield "should only contain at most one of PathExact, PathPrefix, or PathRegex"
    yield from _one_way_each(
        http.get("Header") or (), "Header", ("Present", "Exact", "Prefix", "Suffix", "Regex")
    )
    yield from _one_way_each(
        http.get("QueryParam") or (), "QueryParam", ("Present", "Exact", "Regex")
    )
    methods = http.get("Methods") or []
    for at, method in enumerate(methods):
        if method in methods[:at]:
            yield f"Methods contains {quote(method)} more than once"


def _one_way_each(matches: Any, what: str, ways: tuple[str, ...]) -> Iterator[str]:
    for at, match in enumerate(matches):
        if not match["Name"]:
            yield f"{what}[{at}] missing required Name field"
        if sum(way in match for way in ways) != 1:
            listed = f"{', '.join(ways[:-1])}, or {ways[-1]}"
            yield f"{what}[{at}] should only contain one of {listed}"


# Splitters


def _splitter(name: str, settings: Settings) -> Iterator[str]:
    if not name:
        yield "Name is required"
    splits = settings.get("Splits") or ()
    if not splits:
        yield "no splits configured"
    seen = set()
    for split in splits:
        service, subset = split.get("Service") or name, split.get("ServiceSubset", "")
        namespace = split.get("Namespace", "")
        if (service, subset, namespace) in seen:
            yield (
                f"split destination occurs more than once: service={quote(service)}, "
                f"subset={quote(subset)}, namespace={quote(namespace)}"
            )
        seen.add((service, subset, namespace))
    hundredths = sum(round(split["Weight"] * 100) for split in splits)
    if hundredths != 100 * 100:
        yield f"the sum of all split weights must be 100, not {hundredths / 100:f}"


# Resolvers


def _resolver(name: str, settings: Settings) -> Iterator[str]:
    if not name:
        yield "Name is required"
    subsets = settings.get("Subsets") or {}
    for subset in subsets:
        if not subset:
            yield "Subset defined with empty name"
        if flaw := _subset_flaw(subset):
            yield f"Subset {quote(subset)} is invalid: {flaw}"
    default = settings.get("DefaultSubset", "")
    if default and default not in subsets:
        yield f"DefaultSubset {quote(default)} is not a valid subset"
    failover = settings.get("Failover") or {}
    if (redirect := settings.get("Redirect")) is not None:
        if failover:
            yield "Redirect and Failover cannot both be set"
        yield from _redirect(name, redirect, subsets)
    for subset, there in failover.items():
        for flaw in _failover(name, subset, there, subsets):
            yield f"Bad Failover[{quote(subset)}]{flaw}"
    timeout = settings.get("ConnectTimeout", "")
    if timeout.startswith("-"):
        yield f"Bad ConnectTimeout '{timeout}', must be >= 0"


def _subset_flaw(subset: str) -> str:
    if len(subset) > _SUBSET_CHARACTERS_MAX:
        return f"must be non-empty and {_SUBSET_CHARACTERS_MAX} characters or fewer"
    if not _SUBSET.fullmatch(subset):
        return (
            f"must be {_SUBSET_CHARACTERS_MAX} characters or fewer, begin or end with lower case "
            "alphanumeric characters, and contain lower case alphanumeric characters or '-' in "
            "between"
        )
    return ""


def _redirect(name: str, redirect: Settings, subsets: Settings) -> Iterator[str]:
    if not redirect:
        yield "Redirect is empty"
    service, subset = redirect.get("Service", ""), redirect.get("ServiceSubset", "")
    if not service:
        for field in ("ServiceSubset", "Namespace"):
            if field in redirect:
                yield f"Redirect.{field} defined without Redirect.Service"
    elif service == name and subset and subset not in subsets:
        yield (f"Redirect.ServiceSubset {quote(subset)} is not a valid subset of {quote(service)}")


def _failover(name: str, subset: str, there: Settings, subsets: Settings) -> Iterator[str]:
    if subset != _ANY and subset not in subsets:
        yield ": not a valid subset"
    if not there:
        yield " one of Service, ServiceSubset, Namespace, or Datacenters is required"
    service, wanted = there.get("Service", ""), there.get("ServiceSubset", "")
    if wanted and service in ("", name) and wanted not in subsets:
        yield f".ServiceSubset {quote(wanted)} is not a valid subset of {quote(service)}"
    if "" in there.get("Datacenters", ()):
        yield ".Datacenters: found empty datacenter"


# Gateways


def _ingress(name: str, settings: Settings) -> Iterator[str]:
    ports = set()
    for listener in settings.get("Listeners") or ():
        port = listener["Port"]
        if port in ports:
            yield f"port {port} declared on two listeners"
        ports.add(port)
        yield from _listener(listener, is_tls=(settings.get("TLS") or {}).get("Enabled", False))


def _listener(listener: Settings, *, is_tls: bool) -> Iterator[str]:
    protocol, services = listener["Protocol"], listener["Services"] or ()
    where = f"(listener on port {listener['Port']})"
    if protocol not in _LISTENER_PROTOCOLS:
        yield (
            "protocol must be 'tcp', 'http', 'http2', or 'grpc'. "
            f"'{protocol}' is an unsupported protocol"
        )
    if not services:
        yield f"No service declared for listener with port {listener['Port']}"
    if protocol != "http" and len(services) > 1:
        yield f"Multiple services per listener are only supported for protocol = 'http' {where}"
    names: set[str] = set()
    hosts: set[str] = set()
    for service in services:
        yield from _ingress_service(service, protocol, where)
        if service["Name"] in names:
            yield f"Service {service['Name']} cannot be added multiple times {where}"
        names.add(service["Name"])
        for host in service["Hosts"] or ():
            if host in hosts:
                yield f"Hosts must be unique within a specific listener {where}"
            hosts.add(host)
            yield from _host(host, is_tls=is_tls)


def _ingress_service(service: Settings, protocol: str, where: str) -> Iterator[str]:
    name, hosts = service["Name"], service["Hosts"]
    if protocol == "tcp" and name == _ANY:
        yield f"Wildcard service name is only valid for protocol = 'http' {where}"
    if protocol == "tcp" and hosts:
        yield f"Associating hosts to a service is not supported for the tcp protocol {where}"
    if not name:
        yield f"Service name cannot be blank {where}"
    if name == _ANY and hosts:
        yield f"Associating hosts to a wildcard service is not supported {where}"


def _host(host: str, *, is_tls: bool) -> Iterator[str]:
    if host == _ANY:
        if is_tls:
            yield (
                "Host '*' is not allowed when TLS is enabled, "
                "all hosts must be valid DNS records to add as a DNSSAN"
            )
        return
    if not _is_domain(host):
        yield f"Host {quote(host)} must be a valid DNS hostname"
    if _ANY in host.removeprefix("*."):
        yield (
            f"Host {quote(host)} is not valid, "
            "a wildcard specifier is only allowed as the leftmost label"
        )


def _is_domain(host: str) -> bool:
    """Whether a text may be a name of the DNS, whatever its characters."""
    labels = host.removesuffix(".").encode().split(b".")
    fits = all(0 < len(label) <= _LABEL_BYTES_MAX for label in labels)
    return host == "." or (fits and len(host.encode()) <= _DOMAIN_BYTES_MAX)


def _terminating(name: str, settings: Settings) -> Iterator[str]:
    seen = set()
    for service in settings.get("Services") or ():
        linked = service.get("Name", "")
        if not linked:
            yield "Service name cannot be blank."
        if linked in seen:
            yield f"Service {quote(linked)} was specified more than once within a namespace"
        seen.add(linked)
        files = [field in service for field in ("CAFile", "CertFile", "KeyFile")]
        if any(files[1:]) and not all(files):
            yield (
                f"Service {quote(linked)} must have a CertFile, CAFile, and KeyFile "
                "specified for TLS origination"
            )


#: Kind -> its rules: the flaws of an entry, in the order in which they are looked for.
_RULES: Final[Mapping[str, Callable[[str, Settings], Iterator[str]]]] = {
    "service-router": _router,
    "service-splitter": _splitter,
    "service-resolver": _resolver,
    "ingress-gateway": _ingress,
    "terminating-gateway": _terminating,
}
