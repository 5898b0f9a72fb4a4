"""`debug`: collect what is needed to look into a problem, as one archive.

    NAME/index.json        what was asked for, when
    NAME/host.json         the machine          NAME/agent.json   the agent itself
    NAME/cluster.json      the members          NAME/consul.log   its log, at level DEBUG
    NAME/<unix time>/metrics.json               once for each interval

What an agent does not give is left out and said so; nothing that is stored is collected.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    duration,
    file_problem,
    say,
    say_outline,
    warn,
)
from registry.errors import RegistryError
from registry.goflags import Flag, boolean

#: What may be captured -> the endpoint that is asked once; "" for what is followed.
TARGETS = {
    "agent": "/v1/agent/self",
    "cluster": "/v1/agent/members?wan",
    "host": "/v1/agent/host",
    "logs": "",
    "metrics": "",
}
#: Taken for what others call so: an agent has no profiles to give.
WITHOUT_EFFECT = ("pprof",)

#: Less would not be worth an archive, and would load the agent.
DURATION_SECONDS_MIN, INTERVAL_SECONDS_MIN = 10, 5


def debug(call: Invocation) -> int:
    from registry.agent.durations import format_duration

    if call.arguments:
        raise CommandError("==> debug: Too many arguments provided, expected 0")
    length_s, interval_s = call["duration"] / 1e9, call["interval"] / 1e9
    if length_s < DURATION_SECONDS_MIN:
        raise _invalid(f"duration must be longer than {DURATION_SECONDS_MIN}s")
    if interval_s < INTERVAL_SECONDS_MIN:
        # The number is what scripts know.
        raise _invalid(f"interval must be longer than {DURATION_SECONDS_MIN}s")
    if length_s < interval_s:
        raise _invalid(
            f"duration ({format_duration(call['duration'])}) must be longer than interval "
            f"({format_duration(call['interval'])})"
        )
    root = Path(call["output"] or f"consul-debug-{int(time.time())}")
    try:
        facts = call.client.get("/v1/agent/self").json()
    except RegistryError as problem:
        raise CommandError(
            f"==> Capture validation failed: error querying target agent: {problem}. verify "
            "connectivity and agent address"
        ) from problem
    wanted = _targets(call["capture"])
    if root.exists():
        raise _invalid(f"output directory already exists: {root}")
    say_outline("Starting debugger and capturing static information...")
    say(f"     Agent Version: '{facts['Config']['Version']}'")
    say(f"          Interval: '{format_duration(call['interval'])}'")
    say(f"          Duration: '{format_duration(call['duration'])}'")
    say(f"            Output: '{_archive_of(root) if call['archive'] else root}'")
    say(f"           Capture: '{', '.join(wanted)}'")
    try:
        root.mkdir(parents=True)
        _write(root / "index.json", _index(call, facts, wanted))
        _capture(call, root, wanted, length_s, interval_s)
        saved = _archive(root) if call["archive"] else root
    except OSError as problem:
        reason = file_problem(str(problem.filename or root), problem)
        raise CommandError(f"Error writing debug files: {reason}") from problem
    say(f"    Saved debug archive: {saved}")
    return 0


def _invalid(reason: str) -> CommandError:
    return CommandError(f"==> Capture validation failed: {reason}")


def _targets(named: list[str]) -> list[str]:
    for target in named:
        if target in WITHOUT_EFFECT:
            warn(f"The agent has no {target} to capture; it is left out.")
        elif target not in TARGETS:
            raise _invalid(f"target not found: {target}")
    return [target for target in TARGETS if target in named or not named]


def _index(call: Invocation, facts: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    return {
        "Version": 1,
        "AgentVersion": facts["Config"]["Version"],
        "Interval": call["interval"],
        "Duration": call["duration"],
        "Targets": wanted,
        "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _capture(
    call: Invocation, root: Path, wanted: list[str], length_s: float, interval_s: float
) -> None:
    over = threading.Event()
    if "logs" in wanted:
        log = root / "consul.log"
        log.touch()
        threading.Thread(target=_follow_log, args=(call, log, over), daemon=True).start()
    for target in wanted:
        if path := TARGETS[target]:
            _ask(call, path, root / f"{target}.json")
    try:
        if "metrics" in wanted:
            _sample_metrics(call, root, length_s, interval_s)
        elif "logs" in wanted:
            time.sleep(length_s)
    except KeyboardInterrupt:
        say("Interrupted; what there is so far is saved.")
    over.set()


def _sample_metrics(call: Invocation, root: Path, length_s: float, interval_s: float) -> None:
    end = time.monotonic() + length_s
    while True:
        place = root / str(int(time.time()))
        place.mkdir(exist_ok=True)
        _ask(call, "/v1/agent/metrics", place / "metrics.json")
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, interval_s))


def _ask(call: Invocation, path: str, file: Path) -> None:
    try:
        _write(file, call.client.get(path, timeout=30).json())
    except RegistryError as problem:
        warn(f"Error capturing {file.name}: {problem}")


def _follow_log(call: Invocation, file: Path, over: threading.Event) -> None:
    try:
        with file.open("ab", buffering=0) as out:
            for piece in call.client.stream("/v1/agent/monitor", {"loglevel": "debug"}):
                if over.is_set():
                    return
                out.write(piece)
    except RegistryError as problem:
        if not over.is_set():
            warn(f"Error capturing {file.name}: {problem}")


def _archive_of(root: Path) -> Path:
    return root.with_name(f"{root.name}.tar.gz")


def _archive(root: Path) -> Path:
    """Pack the directory and remove it."""
    path = _archive_of(root)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, arcname=root.name)
    shutil.rmtree(root)
    return path


COMMANDS = {
    "debug": Command(
        "debug",
        "",
        "Collects facts, metrics and the log of an agent for a while, and packs them into an\n"
        "archive to look into or to hand on.\n\n"
        "  registry debug -duration=30s -interval=10s",
        debug,
        (
            Flag("archive", "Pack the files as .tar.gz; default true.", boolean, True),
            Flag(
                "capture",
                f"What to collect: {', '.join(TARGETS)}; repeatable; default all.",
                repeat=True,
            ),
            Flag(
                "duration",
                "How long to collect; default 2m.",
                duration,
                120_000_000_000,
                metavar="duration",
            ),
            Flag(
                "interval",
                "Time between two samples of metrics; default 30s.",
                duration,
                30_000_000_000,
                metavar="duration",
            ),
            Flag("output", "Path of the result, without .tar.gz.", default="", metavar="path"),
        ),
        "client",
    ),
}
