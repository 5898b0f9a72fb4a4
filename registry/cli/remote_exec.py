"""`exec`: run a command on many nodes, through the KV store and an event.

The job lies under `PREFIX/SESSION/job`, an event tells the nodes of it, and each writes what it
does under `PREFIX/SESSION/NODE/`: `ack`, `out/00000` and so on, `exit`. All is locked by one
session that deletes its keys when it ends, so nothing stays behind whatever happens here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from registry.cli.command import (
    PROGRAM,
    Command,
    CommandError,
    Invocation,
    UsageError,
    duration,
    ended_by_signals,
    say,
    say_now,
    say_outline,
)
from registry.cli.event import FILTER_FLAGS, checked_filters, fire
from registry.client import key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean

EVENT = "_rexec"
SESSION_TTL_SECONDS = 15
#: Past the wait of a read, for the answer to arrive.
SLACK_SECONDS = 10.0


def exec_(call: Invocation) -> int:
    job = _job(call)
    filters = checked_filters(call)
    started = time.monotonic()
    try:
        with ended_by_signals(), _session(call) as session_id:
            prefix = f"{call['prefix']}/{session_id}"
            _explain(call, f"Created remote execution session: {session_id}")
            path = key_path("/v1/kv", f"{prefix}/job")
            if not call.client.put(path, {"acquire": session_id}, json_body=job).json():
                raise CommandError(f"Failed to create job file: failed to acquire key {prefix}/job")
            _explain(call, "Uploaded remote execution spec")
            try:
                # Agents may read the job from a server that is a moment behind.
                time.sleep(max(0, call["wait-repl"]) / 1e9)
                note = {"Prefix": call["prefix"], "Session": session_id}
                event = fire(call.client, EVENT, filters, json.dumps(note).encode())
                _explain(call, f"Fired remote execution event: {event['ID']}")
                results = Results(call, prefix)
                results.follow()
            finally:
                with contextlib.suppress(RegistryError):
                    call.client.delete(key_path("/v1/kv", prefix + "/"), {"recurse": True})
    except RegistryError as problem:
        raise CommandError(f"Failed to run the command: {problem}") from problem
    except KeyboardInterrupt:
        return 1  # nodes go on with what they have begun
    say(f"{results.exited} / {results.acked} node(s) completed / acknowledged")
    _explain(call, f"Completed in {time.monotonic() - started:.2f} seconds")
    return 2 if results.failed or results.exited < results.acked else 0


def _job(call: Invocation) -> dict[str, Any]:
    job: dict[str, Any] = {"Command": "", "Args": None, "Script": None, "Wait": call["wait"]}
    if call.arguments == ["-"]:
        if not call["shell"]:
            raise CommandError("Cannot configure -shell=false when reading from stdin")
        script = sys.stdin.buffer.read()
        job["Script"] = base64.b64encode(script).decode()
        if script:
            return job
    elif call["shell"]:
        job["Command"] = " ".join(call.arguments)
    else:
        job["Args"] = call.arguments
    if not job["Command"] and not job["Args"]:
        raise UsageError("Must specify a command to execute")
    return job


@contextlib.contextmanager
def _session(call: Invocation) -> Iterator[str]:
    """A session of the agent, or in another datacenter of a server there, kept alive."""
    facts = call.own_agent()["Config"]
    body: dict[str, Any] = {
        "Name": f"Remote Exec via {facts['NodeName']}@{facts['Datacenter']}",
        "Behavior": "delete",
        "TTL": f"{SESSION_TTL_SECONDS}s",
    }
    try:
        if call["datacenter"] not in ("", facts["Datacenter"]):
            body["Node"] = _remote_server(call)
        session_id = str(call.client.put("/v1/session/create", json_body=body).json()["ID"])
    except RegistryError as problem:
        raise CommandError(f"Failed to create session: {problem}") from problem
    over = threading.Event()
    threading.Thread(target=_renew, args=(call, session_id, over), daemon=True).start()
    try:
        yield session_id
    finally:
        over.set()
        with contextlib.suppress(RegistryError):
            call.client.put(f"/v1/session/destroy/{session_id}")


def _remote_server(call: Invocation) -> str:
    """The node of a server in the datacenter that was asked for. Raises `CommandError`."""
    failure = f"Failed to create session: Failed to find {PROGRAM} server in remote datacenter"
    try:
        found = call.client.get("/v1/health/service/consul", {"passing": True}).json()
    except RegistryError as problem:
        raise CommandError(f"{failure}: {problem}") from problem
    if not found:
        raise CommandError(failure)
    return str(found[0]["Node"]["Node"])


def _renew(call: Invocation, session_id: str, over: threading.Event) -> None:
    while not over.wait(SESSION_TTL_SECONDS / 3):
        with contextlib.suppress(RegistryError):
            call.client.put(f"/v1/session/renew/{session_id}", timeout=SESSION_TTL_SECONDS / 3)


class Results:
    """What nodes report, printed as it comes."""

    def __init__(self, call: Invocation, prefix: str) -> None:
        self.acked = self.exited = 0
        self.failed = False
        self._call, self._prefix = call, prefix
        self._seen: set[str] = set()

    def follow(self) -> None:
        """Until nothing has come for the time of `-wait`, or twice that while nodes work."""
        path = key_path("/v1/kv", f"{self._prefix}/")
        index, quiet_since = 0, time.monotonic()
        while True:
            patience = self._call["wait"] / 1e9 * (2 if self.acked > self.exited else 1)
            left = quiet_since + patience - time.monotonic()
            if left <= 0:
                return
            wait_ms = max(1, int(left * 1000))
            parameters = {"keys": True, "index": index or None, "wait": f"{wait_ms}ms"}
            found = self._call.client.get(
                path, parameters, accept=(200, 404), timeout=left * 1.1 + SLACK_SECONDS
            )
            index = found.index
            keys = found.json() if found.status == 200 else []
            news = [key for key in keys if key not in self._seen]
            for key in sorted(news, key=_rank):
                self._seen.add(key)
                if self._take(key):
                    quiet_since = time.monotonic()

    def _take(self, key: str) -> bool:
        """Whether the key is one of a node's."""
        node, _, what = key.removeprefix(f"{self._prefix}/").partition("/")
        if what == "ack":
            self.acked += 1
            _verbose(self._call, f"{node}: acknowledged")
        elif what == "exit":
            self._take_exit(node, self._call.client.kv_get(key))
        elif what.startswith("out/"):
            self._take_output(node, self._call.client.kv_get(key))
        else:
            return False
        return True

    def _take_exit(self, node: str, value: bytes | None) -> None:
        try:
            status = int(value or b"")
        except ValueError:
            status = -1
        self.exited += 1
        self.failed |= status != 0
        say_outline(f"{node}: finished with exit code {status}")

    def _take_output(self, node: str, value: bytes | None) -> None:
        if not value:
            _verbose(self._call, f"{node}: heartbeat received")
            return
        for line in value.decode("utf-8", "surrogateescape").split("\n"):
            say_now(f"    {node}: {line}")


def _rank(key: str) -> tuple[int, str]:
    """A node's end is told after its output."""
    return (key.endswith("/exit"), key)


def _explain(call: Invocation, text: str) -> None:
    if call["verbose"]:
        say_now(text)


def _verbose(call: Invocation, text: str) -> None:
    """As `_explain`, of what a node does."""
    if call["verbose"]:
        say_outline(text)


COMMANDS = {
    "exec": Command(
        "exec",
        "[-/command...]",
        "Runs a command on all nodes, or on those that fit, and shows what they print. With - the\n"
        "command is a script on standard input. Agents take part only when they are configured\n"
        'with "disable_remote_exec": false.\n\n'
        "  registry exec -service=web uptime",
        exec_,
        (
            *FILTER_FLAGS,
            Flag("prefix", 'KV prefix for the job; default "_rexec".', default="_rexec"),
            Flag("shell", "Run the command through a shell; default true.", boolean, True),
            Flag("verbose", "Say what happens.", boolean, False),
            Flag(
                "wait",
                "End when nothing has come for so long; default 2s.",
                duration,
                2_000_000_000,
                metavar="duration",
            ),
            Flag(
                "wait-repl",
                "Pause for the job to reach all servers; default 200ms.",
                duration,
                200_000_000,
                metavar="duration",
            ),
        ),
        takes_program=True,
    ),
}
