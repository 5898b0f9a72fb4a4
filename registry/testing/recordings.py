"""Recorded conversations, as they hold in a cluster.

The recordings were made on one server that was its own leader. Asked of a follower or a client
agent of a cluster, a few of them cannot hold, and a few hold a moment later. Which ones is told by
rules over what a case asks and expects, never by its name; each rule gives its reason.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

Case = dict[str, object]
Step = dict[str, object]

# What these paths list are the servers, or the members, of the whole cluster.
WHOLE_CLUSTER = frozenset(
    {
        "/v1/agent/members",
        "/v1/catalog/service/consul",
        "/v1/coordinate/datacenters",
        "/v1/health/service/consul",
        "/v1/operator/autopilot/health",
        "/v1/operator/raft/configuration",
        "/v1/status/peers",
    }
)
# The same of command lines.
WHOLE_CLUSTER_COMMANDS = ("operator raft list-peers", "members -wan")
# What is printed of servers alone, and never of a client agent.
SERVER_ONLY = ("| server |", "raft:")
# A copy that lags is up to date within this; many times the heartbeat of a leader.
CATCH_UP_S = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """Cases that a step of theirs keeps from holding elsewhere than where they were recorded."""

    reason: str
    excludes: Callable[[Step], bool]


def _lists_the_only_server(step: Step) -> bool:
    if command := _command(step):
        return command.startswith(WHOLE_CLUSTER_COMMANDS)
    return path_of(step) in WHOLE_CLUSTER and isinstance(_expected_body(step), list | dict)


def _tells_that_it_is_a_server(step: Step) -> bool:
    if _command(step):
        return "-wan" in _command(step) or any(word in _printed(step) for word in SERVER_ONLY)
    match _expected_body(step):
        case {"Config": {"Server": True}}:
            return path_of(step) == "/v1/agent/self"
    return False


IN_A_CLUSTER = Rule("lists the local agent as the only server", _lists_the_only_server)
ON_A_CLIENT = Rule("names the local agent a server", _tells_that_it_is_a_server)


@dataclass(frozen=True, slots=True)
class Recording:
    """The cases of one file that hold, and the reasons why the others do not."""

    area: str
    cases: tuple[Case, ...]
    excluded: dict[str, str]


def recordings_for(folder: Path, *rules: Rule) -> list[Recording]:
    """The cases in `folder` as they hold in a cluster, without those a rule excludes."""
    recordings = []
    for area, cases in _read(folder):
        excluded = {str(case["name"]): why for case in cases if (why := _why_not(case, rules))}
        kept = tuple(_with_stale_reads(case) for case in cases if case["name"] not in excluded)
        recordings.append(Recording(area, kept, excluded))
    return recordings


def write(recordings: list[Recording], folder: Path, *, serial: bool | None = None) -> int:
    """Write cases for a replay: all, or those that run alone (`serial`) or not; their number."""
    folder.mkdir(parents=True)
    count = 0
    for recording in recordings:
        cases = [case for case in recording.cases if serial in (None, bool(case.get("serial")))]
        text = yaml.safe_dump({"area": recording.area, "cases": cases}, sort_keys=False)
        (folder / f"{recording.area}.yaml").write_text(text)
        count += len(cases)
    return count


def case_count(folder: Path, *, dev: bool = False) -> int:
    """How many cases a single server has to pass."""
    return sum(
        not (dev and case.get("unless") == "dev") for _, cases in _read(folder) for case in cases
    )


def path_of(step: Step) -> str:
    """The path that a step asks; empty for a step that asks nothing."""
    return urlsplit(_target(step)).path


@cache
def _read(folder: Path) -> list[tuple[str, list[Case]]]:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))]
    return [(document["area"], document["cases"]) for document in documents]


def _why_not(case: Case, rules: tuple[Rule, ...]) -> str:
    steps = _steps(case)
    return next((rule.reason for rule in rules if any(map(rule.excludes, steps))), "")


def _with_stale_reads(case: Case) -> Case:
    """The case with stale reads that may come from a copy which lags, and which says by how much.

    Such a read is asked again until it gives what was recorded, for a short while.
    """
    if not any(map(_is_stale_read, _steps(case))):
        return case
    case = copy.deepcopy(case)
    for step in filter(_is_stale_read, _steps(case)):
        step.setdefault("eventually", CATCH_UP_S)
        body = _expected_body(step)
        if isinstance(body, dict) and "LastContact" in body:
            body["LastContact"] = "<int>"
    return case


def _is_stale_read(step: Step) -> bool:
    asked = parse_qs(urlsplit(_target(step)).query, keep_blank_values=True)
    return bool({"stale", "max_stale"} & asked.keys()) and _expects(step, "status") == 200


def _steps(case: Case) -> list[Step]:
    steps = case["steps"]
    assert isinstance(steps, list)
    return steps


def _target(step: Step) -> str:
    return str(step.get("do", "")).partition(" ")[2]


def _command(step: Step) -> str:
    return str(step.get("cmd", ""))


def _printed(step: Step) -> str:
    lines = _expects(step, "stdout")
    return "\n".join(map(str, lines)) if isinstance(lines, list) else ""


def _expected_body(step: Step) -> object:
    return _expects(step, "json")


def _expects(step: Step, part: str) -> object:
    expected = step.get("expect")
    return expected.get(part) if isinstance(expected, dict) else None
