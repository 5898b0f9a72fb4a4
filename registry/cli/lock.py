"""`lock`: run a program while holding a lock, or one of N places of a semaphore.

Three things can end it: the program, the loss of the lock, and a signal. The first waits in a
thread, the second in two more (one keeps the session alive, one watches the key), and the main
thread takes whichever comes first from one queue. A signal handler may put into a `SimpleQueue` at
any moment, which other queues do not allow.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    duration,
    end_of_program,
    ended_by_signals,
    handled_by,
    say_now,
    start_problem,
    warn,
)
from registry.cli.holders import Holder, LockHolder, SemaphoreHolder
from registry.client import ApiError
from registry.errors import RegistryError, Unavailable
from registry.goflags import Flag, boolean, integer

SESSION_TTL_SECONDS = 15
#: Pause between tries of the monitor after an error.
MONITOR_RETRY_SECONDS = 2.0
#: What a program has left between SIGTERM and SIGKILL.
KILL_GRACE_SECONDS = 5.0

NOT_ACQUIRED = "Shutdown triggered or timeout during lock acquisition"

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def lock(call: Invocation) -> int:
    if call["n"] <= 0:
        raise CommandError("Lock holder limit must be positive")
    if len(call.arguments) < 2:
        raise CommandError("Key prefix and child command must be specified")
    timeout_ns = call["timeout"] or call["try"]
    if timeout_ns < 0:
        raise CommandError("Timeout must be positive")
    if call["monitor-retry"] < 0:
        raise CommandError("Number for 'monitor-retry' must be >= 0")
    if call["n"] > 1 and not _prefix(call):
        raise CommandError("Lock setup failed: missing prefix")
    call.own_agent()
    # From before there is a session, so that no signal leaves one behind.
    # SIGINT, too: a shell has what it starts in the background ignore that.
    with (
        handled_by(signal.default_int_handler, signal.SIGINT),
        ended_by_signals(),
        _session(call) as session_id,
    ):
        holder = _holder(call, session_id)
        if not _acquire(call, holder, timeout_ns / 1e9 if timeout_ns else None):
            with contextlib.suppress(RegistryError):
                holder.release()
            raise CommandError(NOT_ACQUIRED)
        return _run_held(call, holder)


def _acquire(call: Invocation, holder: Holder, timeout_s: float | None) -> bool:
    """Whether it is held; False when time was up or a signal came."""
    try:
        _verbose(call, f"Setting up {_described(call, holder)}")
        _verbose(call, "Attempting lock acquisition")
        return holder.acquire(timeout_s)
    except KeyboardInterrupt:
        return False
    except RegistryError as problem:
        raise CommandError(f"Lock acquisition failed: {problem}") from problem


def _prefix(call: Invocation) -> str:
    return call.arguments[0].removeprefix("/")


def _holder(call: Invocation, session_id: str) -> Holder:
    if call["n"] == 1:
        return LockHolder(call.client, _prefix(call), session_id)
    return SemaphoreHolder(call.client, _prefix(call), session_id, limit=call["n"])


def _described(call: Invocation, holder: Holder) -> str:
    if isinstance(holder, LockHolder):
        return f"lock at path: {holder.key}"
    return f"semaphore (limit {call['n']}) at prefix: {_prefix(call)}"


@contextlib.contextmanager
def _session(call: Invocation) -> Iterator[str]:
    prefix, *words = call.arguments
    name = call["name"] or f"Lock for '{' '.join(words)}' at '{prefix}'"
    body = {"Name": name, "TTL": f"{SESSION_TTL_SECONDS}s"}
    try:
        session_id = str(call.client.put("/v1/session/create", json_body=body).json()["ID"])
    except RegistryError as problem:
        raise CommandError(
            f"Lock acquisition failed: failed to create session: {problem}"
        ) from problem
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(call, session_id, over), daemon=True)
    renewing.start()
    try:
        yield session_id
    finally:
        over.set()
        with contextlib.suppress(RegistryError):
            call.client.put(f"/v1/session/destroy/{session_id}", timeout=SESSION_TTL_SECONDS)


def _renew(call: Invocation, session_id: str, over: threading.Event) -> None:
    """Keep the session alive; that it is gone shows at the key, which the monitor watches."""
    while not over.wait(SESSION_TTL_SECONDS / 3):
        with contextlib.suppress(RegistryError):
            call.client.put(f"/v1/session/renew/{session_id}", timeout=SESSION_TTL_SECONDS / 3)


def _run_held(call: Invocation, holder: Holder) -> int:
    ended: SimpleQueue[str] = SimpleQueue()
    over = threading.Event()
    monitoring = threading.Thread(target=_monitor, args=(call, holder, over, ended), daemon=True)
    monitoring.start()
    try:
        with handled_by(lambda number, frame: ended.put("signal"), *SIGNALS):
            status = _run_child(call, ended)
    finally:
        over.set()
        _give_back(call, holder)
    return 2 if status and call["child-exit-code"] else 0


def _run_child(call: Invocation, ended: SimpleQueue[str]) -> int:
    """Run the program until the first of its end, a signal and the loss of the lock.

    Its exit status, 0 when it was stopped: scripts know that as no failure of theirs.
    """
    words = call.arguments[1:]
    if call["shell"]:
        words = [os.environ.get("SHELL") or "/bin/sh", "-c", " ".join(words)]
    environment = {**os.environ, "CONSUL_LOCK_HELD": "true", "REGISTRY_LOCK_HELD": "true"}
    passes = call["pass-stdin"]
    _verbose(call, "Starting handler")
    if passes:
        _verbose(call, "Stdin passed to handler process")
    try:
        child = subprocess.Popen(
            words,
            stdin=None if passes else subprocess.DEVNULL,
            env=environment,
            # With a terminal to read from, the program has to stay in its foreground group.
            start_new_session=not passes,
        )
    except OSError as problem:
        warn(f"Error starting handler: {start_problem(words, problem)}")
        return 1

    def wait() -> None:
        child.wait()
        ended.put("child")

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    reason = ended.get()
    if reason != "child":
        cause = "Lock lost" if reason == "lost" else "Shutdown triggered"
        _verbose(call, f"{cause}, killing child")
        _stop(child, waiting, group=not passes)
    if child.returncode:
        warn(f"Error running handler: {end_of_program(child.returncode)}")
    if reason != "child":
        return 0
    _verbose(call, "Child terminated, releasing lock")
    return child.returncode


def _stop(child: subprocess.Popen[bytes], waiting: threading.Thread, *, group: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(child.pid, number)
            else:
                child.send_signal(number)
        waiting.join(KILL_GRACE_SECONDS)
        if not waiting.is_alive():
            return


def _monitor(
    call: Invocation, holder: Holder, over: threading.Event, ended: SimpleQueue[str]
) -> None:
    """Say when the lock is no longer held. An agent without a leader gets some tries."""
    failures, index = 0, 0
    while not over.is_set():
        try:
            held, index = holder.still_held(index)
        except (Unavailable, ApiError) as problem:
            failures += 1
            passing = not isinstance(problem, ApiError) or problem.is_transient
            if not passing or failures > call["monitor-retry"]:
                break
            over.wait(MONITOR_RETRY_SECONDS)
            continue
        failures = 0
        if not held:
            break
    ended.put("lost")


def _give_back(call: Invocation, holder: Holder) -> None:
    try:
        holder.release()
    except RegistryError as problem:
        raise CommandError(f"Lock release failed: {problem}") from problem
    try:
        cleaned = holder.clean_up()
    except RegistryError as problem:
        raise CommandError(f"Lock cleanup failed: {problem}") from problem
    _verbose(call, "Cleanup succeeded" if cleaned else "Cleanup aborted, lock in use")


def _verbose(call: Invocation, text: str) -> None:
    if call["verbose"]:
        say_now(text)


COMMANDS: dict[str, Any] = {
    "lock": Command(
        "lock",
        "prefix child...",
        "Takes a lock, or with -n one of several places, runs a program and gives the lock back\n"
        "when that ends. When the lock is lost the program gets SIGTERM, and SIGKILL after 5 s.\n"
        "It finds CONSUL_LOCK_HELD=true in its environment.\n\n"
        "  registry lock jobs/cleanup ./cleanup.sh\n"
        "  registry lock -n=3 jobs/import ./import.sh",
        lock,
        (
            Flag("child-exit-code", "End with 2 when the program fails.", boolean, False),
            Flag("monitor-retry", "Failed looks at the lock to bear; default 3.", integer, 3),
            Flag("n", "How many may hold it at once; more than 1 is a semaphore.", integer, 1),
            Flag("name", "Name of the session.", default=""),
            Flag("pass-stdin", "Give standard input to the program.", boolean, False),
            Flag("shell", "Run the program through a shell; default true.", boolean, True),
            Flag(
                "timeout",
                "Give up when the lock is not there in time; 0 waits for ever.",
                duration,
                0,
                metavar="duration",
            ),
            Flag("try", "Old name of -timeout.", duration, 0, metavar="duration"),
            Flag("verbose", "Say what happens.", boolean, False),
        ),
        takes_program=True,
    ),
}
