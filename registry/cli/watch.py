"""`watch`: print a view once, or run a program on each change of it, as long as that succeeds."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    UsageError,
    end_of_program,
    ended_by_signals,
    say,
    start_problem,
    warn,
)
from registry.client import AgentUnreachable, Response
from registry.errors import RegistryError
from registry.goflags import Flag, boolean
from registry.watch_views import (
    TYPES,
    WatchError,
    encode,
    endpoint,
    new_events,
    refuse_foreign_fields,
    view,
)

#: After the n-th failure in a row: 5 s times n squared, at most three minutes.
RETRY_SECONDS, RETRY_SECONDS_MAX = 5.0, 180.0

#: The flags that say what is watched.
_FIELDS = ("key", "prefix", "service", "state", "name", "passingonly", "tag", "stale")


def watch(call: Invocation) -> int:
    kind = call["type"]
    if not kind:
        raise UsageError("Watch type must be specified")
    given = {name: call[name] for name in _FIELDS if call[name]}
    if "passingonly" in given:
        given["passingonly"] = _truth(given["passingonly"])
    try:
        if kind.startswith(("connect_", "agent_")):
            raise WatchError(f"Type {kind} is not supported in the CLI tool")
        path, parameters = endpoint(kind, given)
        refuse_foreign_fields(kind, given)
    except WatchError as problem:
        raise CommandError(str(problem)) from problem
    call.own_agent()
    try:
        if not call.arguments:
            return _print_once(call, kind, path, parameters)
        with ended_by_signals():
            return _run_on_change(call, kind, path, parameters)
    except KeyboardInterrupt:
        return 0


def _truth(value: str) -> bool:
    try:
        return boolean(value)
    except ValueError as problem:
        raise CommandError(
            "Failed to parse passingonly flag: strconv.ParseBool: "
            f'parsing "{value}": invalid syntax'
        ) from problem


def _ask(call: Invocation, path: str, parameters: dict[str, Any], index: int) -> Response:
    return call.client.get(path, {**parameters, "index": index or None}, accept=(200, 404))


def _data(kind: str, answer: Response, seen_index: int) -> Any:
    found = answer.json() if answer.status == 200 else None
    if kind == "event" and seen_index:
        found = new_events(found or [], seen_index)
    return view(kind, found)


def _print_once(call: Invocation, kind: str, path: str, parameters: dict[str, Any]) -> int:
    try:
        answer = _ask(call, path, parameters, 0)
    except RegistryError as problem:
        raise CommandError(f"Error querying registry agent: {problem}") from problem
    say(encode(_data(kind, answer, 0), indent=4))
    return 0


def _run_on_change(call: Invocation, kind: str, path: str, parameters: dict[str, Any]) -> int:
    index, failures, last = 0, 0, None
    while True:
        try:
            answer = _ask(call, path, parameters, index)
        except RegistryError as problem:
            if last is None and isinstance(problem, AgentUnreachable):
                raise CommandError(f"Error querying registry agent: {problem}") from problem
            failures += 1
            pause = min(RETRY_SECONDS * failures**2, RETRY_SECONDS_MAX)
            warn(f"Watch errored, retrying in {pause:.0f} s: {problem}")
            time.sleep(pause)
            continue
        failures = 0
        data = _data(kind, answer, index)
        # An index that went back means that the state was replaced: start anew.
        went_back = answer.index < index and kind != "event"
        index = 0 if went_back else max(1, answer.index)  # 0 would not wait at all
        text = encode(data)
        changed = bool(data) or last is None if kind == "event" else text != last
        if changed:
            _run_child(call, text, answer.index)
        last = text


def _run_child(call: Invocation, text: str, index: int) -> None:
    words = call.arguments
    if call["shell"]:
        words = [os.environ.get("SHELL", "/bin/sh"), "-c", " ".join(words)]
    environment = {**os.environ, "CONSUL_INDEX": str(index), "REGISTRY_INDEX": str(index)}
    try:
        done = subprocess.run(words, input=f"{text}\n".encode(), env=environment, check=False)
    except OSError as problem:
        raise CommandError(f"Error starting handler: {start_problem(words, problem)}") from problem
    if done.returncode:
        raise CommandError(f"Error executing handler: {end_of_program(done.returncode)}")


COMMANDS = {
    "watch": Command(
        "watch",
        "[child...]",
        "Prints a view of the registry once, or runs a program at first and on each change, with\n"
        "the view as JSON on its standard input and the index in CONSUL_INDEX and "
        "REGISTRY_INDEX.\n\n"
        "  registry watch -type=key -key=app/port\n"
        "  registry watch -type=service -service=web ./reload-proxy",
        watch,
        (
            Flag("type", f"What to watch: {', '.join(TYPES[:-1])}.", default=""),
            Flag("key", "Key, for type key.", default=""),
            Flag("prefix", "Prefix, for type keyprefix.", default=""),
            Flag("service", "Service, for types service and checks.", default=""),
            Flag("tag", "Tag, for type service; repeatable.", repeat=True),
            Flag("passingonly", "true: only passing instances, for type service.", default=""),
            Flag("state", "State, for type checks; default any.", default=""),
            Flag("name", "Event name, for type event.", default=""),
            Flag("shell", "Run the program through a shell; default true.", boolean, True),
        ),
        takes_program=True,
    ),
}
