"""`/v1/agent`: what the agent is and does, apart from its services and checks.

Itself, its host, members, metrics, live log and plugins; joining, leaving, reloading, tokens.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypedDict

import msgspec
import psutil

from registry import COMPATIBLE_VERSION
from registry.agent.durations import format_duration
from registry.agent.facade import AgentFacade, Member
from registry.agent.logs import LogTap, level_of
from registry.agent.prometheus import CONTENT_TYPE, render
from registry.errors import ConfigError, NotFound, RegistryError
from registry.http.acl import DISABLED
from registry.http.api import (
    TEXT_TYPE,
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    empty_response,
    json_response,
)
from registry.http.coordinate import CoordinateView, point_view
from registry.http.operations import (
    PRESENT,
    TEXT,
    TEXT_MEDIA,
    Answer,
    Operation,
    Parameter,
    Refusal,
)
from registry.http.options import argument, json_body, shows
from registry.plugins.shown_settings import shown_unread
from registry.state.quote import listed

routes = Routes()

NO_SEGMENTS = "Network segments are not supported in this version of Consul"
NO_PROMETHEUS = "Prometheus is not enabled since its retention time is not positive"

#: What of a configuration nobody is shown.
_SECRET = re.compile(
    r"encrypt$|(^|_)(token|secret|password)s?$|^(master|agent|agent_master|default|replication)$"
)
_SHOWN_ANYWAY = frozenset({"enable_token_replication", "enable_token_persistence"})

PROMETHEUS_TYPES = ("application/openmetrics-text", "text/plain; version=0.0.4")

#: Between the reasons why a join failed, one for each address that the host has.
_NEXT_REASON = re.compile("; (?=Failed to )")


class MemberObject(TypedDict):
    Name: str
    Addr: str
    Port: int
    Tags: dict[str, str]
    Status: int
    ProtocolMin: int
    ProtocolMax: int
    ProtocolCur: int
    DelegateMin: int
    DelegateMax: int
    DelegateCur: int


class SelfObject(TypedDict):
    Config: dict[str, Any]
    DebugConfig: dict[str, Any]
    Coord: dict[str, Any]
    Member: MemberObject
    Stats: dict[str, dict[str, str]]
    Meta: dict[str, str]


class ReloadItemObject(TypedDict):
    Kind: str
    Name: str
    Change: str
    Outcome: str
    Detail: str


class ReloadObject(TypedDict):
    Items: list[ReloadItemObject]
    Warnings: list[str]


class PluginObject(TypedDict):
    Name: str
    Version: str
    Source: str
    Hooks: list[str]
    NeedsRestart: list[str]
    Errors: list[str]
    ErrorCount: int
    Calls: int
    TimeMs: float
    Outstanding: int
    LeftAlone: dict[str, float]
    Configured: bool
    Settings: dict[str, Any] | None


class MetricsObject(TypedDict):
    """Rows have `Name` and `Labels`; gauges a `Value`, the others what their numbers add up to."""

    Timestamp: str
    Gauges: list[dict[str, Any]]
    Points: list[dict[str, Any]]
    Counters: list[dict[str, Any]]
    Samples: list[dict[str, Any]]


class HostObject(TypedDict):
    Memory: dict[str, float]
    CPU: list[dict[str, Any]]
    Host: dict[str, Any]
    Disk: dict[str, Any]
    CollectionTime: int
    Errors: list[str] | None


@routes.get(
    "/v1/agent/self",
    Operation(summary="Show this agent: configuration, member, state", answers=shows(SelfObject)),
)
async def self_(request: ApiRequest) -> ApiResponse:
    agent = request.agent
    return json_response(
        {
            "Config": {
                "Datacenter": agent.datacenter,
                "NodeName": agent.node_name,
                "NodeID": agent.node_id,
                "Revision": "",
                "Server": agent.config.server,
                "Version": COMPATIBLE_VERSION,
            },
            "DebugConfig": {**shown_config(agent.config), "Plugins": _shown_plugins(agent)},
            "Coord": _coordinate(agent),
            "Member": _member(agent.membership.local_member()),
            "Stats": statistics(agent),
            "Meta": {"consul-network-segment": "", **agent.config.node_meta},
        }
    )


def _shown_plugins(agent: AgentFacade) -> dict[str, Any]:
    """The `plugins` section; of settings those in force, which plugins' types have completed."""
    section = agent.config.plugins
    unread = {name: shown_unread(given) for name, given in section.settings.items()}
    in_force = agent.plugins.shown_settings() if agent.plugins is not None else {}
    return {**shown_config(section), "Settings": {**unread, **in_force}}


def _coordinate(agent: AgentFacade) -> CoordinateView | None:
    return None if agent.config.disable_coordinates else point_view(agent.membership.coordinate())


def shown_config(config: msgspec.Struct) -> dict[str, Any]:
    """A configuration as `DebugConfig` shows it: names in CamelCase, secrets hidden."""
    return {
        _camel(name.removesuffix("_ns")): _shown(name, getattr(config, name))
        for name in config.__struct_fields__
    }


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return shown_config(value)
    if name not in _SHOWN_ANYWAY and isinstance(value, str) and _SECRET.search(name):
        return "hidden" if value else ""
    if name.endswith("_ns"):
        return _durations(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value


def _durations(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: format_duration(item) for name, item in value.items()}
    return format_duration(value)


def _camel(name: str) -> str:
    return "".join(part.upper() if part in _INITIALS else part.title() for part in name.split("_"))


_INITIALS = frozenset(
    {"acl", "dns", "http", "https", "id", "ip", "json", "rpc", "tls", "ttl", "ui"}
)


#: Names of machines as this API spells them.
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def statistics(agent: AgentFacade) -> dict[str, dict[str, str]]:
    """The blocks of `registry info`; every value is text."""
    blocks = {
        "agent": _local_statistics(agent),
        "build": {"prerelease": "", "revision": "", "version": COMPATIBLE_VERSION},
        "consul": {"server": str(agent.config.server).lower()},
        "runtime": {
            "arch": _GO_ARCHITECTURES.get(platform.machine(), platform.machine()),
            "cpu_count": str(os.cpu_count() or 1),
            "goroutines": str(_task_count()),
            "max_procs": str(os.cpu_count() or 1),
            "os": sys.platform,
            "version": f"python{platform.python_version()}",
        },
        "serf_lan": agent.membership.statistics(),
    }
    if wan := agent.membership.statistics(wan=True):
        blocks["serf_wan"] = wan
    for name, values in agent.backend.statistics().items():
        blocks[name] = {**blocks.get(name, {}), **values}
    return blocks


def _task_count() -> int:
    """What runs side by side here: tasks of the loop and threads."""
    return len(asyncio.all_tasks()) + threading.active_count()


def _local_statistics(agent: AgentFacade) -> dict[str, str]:
    checks = list(agent.local.checks.values())
    ttls = sum(1 for check in checks if check.definition.ttl_ns)
    return {
        "check_monitors": str(sum(1 for check in checks if check.definition.args)),
        "check_ttls": str(ttls),
        "checks": str(len(checks)),
        "services": str(len(agent.local.services)),
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "Name": member.name,
        "Addr": member.address,
        "Port": member.port,
        "Tags": dict(member.tags),
        "Status": member.status,
        "ProtocolMin": member.protocol_min,
        "ProtocolMax": member.protocol_max,
        "ProtocolCur": member.protocol_current,
        "DelegateMin": member.delegate_min,
        "DelegateMax": member.delegate_max,
        "DelegateCur": member.delegate_current,
    }


@routes.get(
    "/v1/agent/members",
    Operation(
        summary="List the members of the gossip pool",
        parameters=(
            Parameter("wan", "The pool of all datacenters.", {"type": "string", "enum": ["1"]}),
            Parameter(
                "segment",
                "There are no segments: `_all` or nothing.",
                {"type": "string", "enum": ["", "_all"]},
                refusals=(
                    Refusal(500, NO_SEGMENTS),
                    Refusal(400, "Cannot provide a segment with wan=true"),
                ),
            ),
        ),
        answers=shows(list[MemberObject] | None),
    ),
)
async def members(request: ApiRequest) -> ApiResponse:
    wan, segment = bool(request.query.get("wan")), request.query.get("segment")
    if wan and segment not in ("", "_all"):
        raise HttpError(400, "Cannot provide a segment with wan=true")
    if segment not in ("", "_all"):
        raise HttpError(500, NO_SEGMENTS)
    shown = [_member(one) for one in request.agent.membership.members(wan=wan)]
    return json_response(shown or None)  # null for a pool that this agent is not in


@routes.put(
    "/v1/agent/join/",
    Operation(
        summary="Join the pool that an agent is in",
        path=(argument("address", "Where it is: `IP` or `IP:port`."),),
        parameters=(
            Parameter(
                "wan", "Join the pool of all datacenters.", {"type": "string", "enum": ["1"]}
            ),
        ),
        refusals=(
            Refusal(500, "1 error occurred:\n\t* Failed to …"),
            Refusal(500, "… errors occurred:\n\t* Failed to …"),
            Refusal(500, "Must be a server to join WAN cluster"),
        ),
    ),
)
async def join(request: ApiRequest) -> ApiResponse:
    wan = bool(request.query.get("wan"))
    if wan and not request.agent.config.server:
        raise HttpError(500, "Must be a server to join WAN cluster")
    try:
        await request.agent.membership.join(request.argument, wan=wan)
    except RegistryError as problem:
        host = request.argument.rpartition(":")[0] or request.argument
        reasons = _NEXT_REASON.split(str(problem))
        if not reasons[0].startswith(("Failed to join", "Failed to resolve")):
            reasons = [f"Failed to join {host}: {problem}"]
        raise HttpError(500, listed(reasons)) from problem
    return empty_response()


@routes.put(
    "/v1/agent/force-leave/",
    Operation(
        summary="Have a failed member counted as one that left",
        path=(argument("node", "The name of the member."),),
        parameters=(Parameter("prune", "Take it out of the list of members, too.", PRESENT),),
        refusals=(Refusal(500, "agent: No node found with name '…'"),),
    ),
)
async def force_leave(request: ApiRequest) -> ApiResponse:
    prune = "prune" in request.query
    try:
        await request.agent.membership.force_leave(request.argument, prune=prune)
    except NotFound as problem:
        text = f"agent: No node found with name '{request.argument}'"
        raise HttpError(500, text) from problem
    return empty_response()


@routes.put(
    "/v1/agent/leave",
    Operation(summary="Leave the pool and stop"),
)
async def leave(request: ApiRequest) -> ApiResponse:
    await request.agent.leave()
    return empty_response()


@routes.put(
    "/v1/agent/reload",
    Operation(
        summary="Read the configuration files again",
        answers=(
            Answer(about="Nothing changed"),
            Answer(ReloadObject, "What changed, and what became of it"),
        ),
        refusals=(Refusal(500, "…"),),
    ),
)
async def reload(request: ApiRequest) -> ApiResponse:
    try:
        report = await request.agent.reload()
    except ConfigError as problem:
        raise HttpError(500, str(problem)) from problem
    return json_response(report.plain()) if report.items else empty_response()


@routes.put(
    "/v1/agent/token/",
    Operation(
        summary="Access control: there is none, so this is refused",
        path=(argument("kind", "The kind of token."),),
        body=json_body({"type": "object", "properties": {"Token": TEXT}}),
        answers=(),
        refusals=(Refusal(401, DISABLED),),
    ),
)
async def token(request: ApiRequest) -> ApiResponse:
    raise HttpError(401, DISABLED)


@routes.get(
    "/v1/agent/plugins",
    Operation(
        summary="List the plugins with their use and errors", answers=shows(list[PluginObject])
    ),
)
async def plugins(request: ApiRequest) -> ApiResponse:
    return json_response(request.agent.plugins.report())


# Metrics


@routes.get(
    "/v1/agent/metrics",
    Operation(
        summary="Show the metrics of the last interval",
        parameters=(
            Parameter(
                "format",
                "`prometheus` for the text that it reads.",
                {"type": "string", "enum": ["prometheus"]},
            ),
        ),
        answers=(Answer(MetricsObject), Answer(TEXT, media=(TEXT_MEDIA,))),
        refusals=(Refusal(415, NO_PROMETHEUS),),
    ),
)
async def metrics(request: ApiRequest) -> ApiResponse:
    agent = request.agent
    if not _wants_prometheus(request):
        return json_response(agent.metrics.summary())
    if agent.config.telemetry.prometheus_retention_time_ns <= 0:
        raise HttpError(415, NO_PROMETHEUS)
    return ApiResponse(200, render(agent.metrics).encode(), CONTENT_TYPE)


def _wants_prometheus(request: ApiRequest) -> bool:
    if request.query.get("format") == "prometheus":
        return True
    accepted = request.headers.get("accept", "").replace(
        "text/plain;version", "text/plain; version"
    )
    return any(kind in accepted for kind in PROMETHEUS_TYPES)


# The live log


@routes.get(
    "/v1/agent/monitor",
    Operation(
        summary="Send the log as it is written, without end",
        parameters=(
            Parameter(
                "loglevel",
                "The least level sent.",
                {"type": "string", "enum": ["trace", "debug", "info", "warn", "error"]},
                refusals=(Refusal(400, "Bad request: Unknown log level: …"),),
            ),
            Parameter("logjson", "Each line as JSON.", PRESENT),
        ),
        answers=(Answer(TEXT, media=(TEXT_MEDIA,)),),
    ),
)
async def monitor(request: ApiRequest) -> ApiResponse:
    name = request.query.get("loglevel") or "INFO"
    try:
        level = level_of(name)
    except ValueError as problem:
        raise HttpError(400, f"Bad request: {problem}") from problem
    lines = _lines(request.agent.log_tap, level, as_json="logjson" in request.query)
    return ApiResponse(200, content_type=TEXT_TYPE, stream=lines)


async def _lines(tap: LogTap, level: int, *, as_json: bool) -> AsyncIterator[bytes]:
    with tap.watch(level, as_json=as_json) as watcher:
        async for line in watcher.lines():
            yield line.encode("utf-8", "backslashreplace")


# The host


@routes.get(
    "/v1/agent/host",
    Operation(summary="Tell about the host that this agent is on", answers=shows(HostObject)),
)
async def host(request: ApiRequest) -> ApiResponse:
    path = request.agent.config.data_dir or "/"
    return json_response(await asyncio.to_thread(host_facts, path))


def host_facts(data_dir: str) -> dict[str, Any]:
    """Memory, processors, system and disk. Reads files of the kernel, so not for the loop."""
    facts: dict[str, Any] = {}
    errors: list[str] = []
    parts: Mapping[str, Any] = {
        "Memory": _memory,
        "CPU": _processors,
        "Host": _system,
        "Disk": lambda: _disk(data_dir),
    }
    for name, collect in parts.items():
        try:
            facts[name] = collect()
        except (OSError, psutil.Error) as problem:
            facts[name] = [] if name == "CPU" else {}
            errors.append(f"{name}: {problem}")
    return {**facts, "CollectionTime": time.time_ns(), "Errors": errors or None}


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    swap = psutil.swap_memory()
    shown = {
        name: getattr(memory, name, 0)
        for name in (
            "total",
            "available",
            "used",
            "free",
            "active",
            "inactive",
            "buffers",
            "cached",
            "shared",
            "slab",
        )
    }
    return {**shown, "usedPercent": memory.percent, "swaptotal": swap.total, "swapfree": swap.free}


def _processors() -> list[dict[str, Any]]:
    count = psutil.cpu_count() or 1
    frequency = psutil.cpu_freq()
    mhz = frequency.current if frequency else 0.0
    name = platform.processor() or platform.machine()
    return [{"cpu": number, "modelName": name, "cores": 1, "mhz": mhz} for number in range(count)]


def _system() -> dict[str, Any]:
    booted = int(psutil.boot_time())
    return {
        "hostname": socket.gethostname(),
        "uptime": max(0, int(time.time()) - booted),
        "bootTime": booted,
        "procs": len(psutil.pids()),
        "os": sys.platform,
        "platform": platform.system().lower(),
        "kernelVersion": platform.release(),
        "kernelArch": platform.machine(),
    }


def _disk(path: str) -> dict[str, Any]:
    usage = psutil.disk_usage(path)
    inodes = os.statvfs(path)
    used = inodes.f_files - inodes.f_ffree
    return {
        "path": path,
        "total": usage.total,
        "free": usage.free,
        "used": usage.used,
        "usedPercent": usage.percent,
        "inodesTotal": inodes.f_files,
        "inodesUsed": used,
        "inodesFree": inodes.f_ffree,
        "inodesUsedPercent": 100 * used / inodes.f_files if inodes.f_files else 0.0,
    }
