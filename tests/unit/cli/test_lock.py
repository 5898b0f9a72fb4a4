"""`lock`: who holds it, what becomes of the program, what stays behind (nothing)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

import pytest

from registry.cli.command import handled_by
from registry.cli.holders import LOCK_FLAGS, SEMAPHORE_FLAGS, LockHolder, SemaphoreHolder
from registry.client import Client, Response
from registry.errors import Rejected
from registry.testing.command_line import Run, Stub, command_process
from registry.testing.process import AgentProcess, wait_until

#: A program that says when it runs and that it was told to end.
UNTIL_TERMINATED = [
    sys.executable,
    "-c",
    # os.write, because a handler that prints may interrupt a print.
    "import os, signal, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'stopped\\n'), sys.exit(9)))\n"
    "os.write(1, b'held\\n')\n"
    "signal.pause()",
]

STOPPED = "Error running handler: exit status 9\n"


def keys(client: Client, prefix: str) -> list[dict[str, Any]]:
    return client.kv_list(f"{prefix}/")


def session(client: Client, **fields: object) -> str:
    body = {"LockDelay": "0s", **fields}
    return str(client.put("/v1/session/create", json_body=body).json()["ID"])


def sessions(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/session/list").json()
    return found


def held_elsewhere(
    agent: AgentProcess, *words: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    """`registry lock WORDS` in another process, which must end before the block does."""
    return command_process(agent, "lock", *words)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        pytest.param(["l", "echo", "in"], 0, "in\n", "", id="shell"),
        pytest.param(["/l", "echo in; exit 0"], 0, "in\n", "", id="one-word"),
        pytest.param(["-shell=false", "l", "echo", "$HOME"], 0, "$HOME\n", "", id="no-shell"),
        pytest.param(["l", "echo $CONSUL_LOCK_HELD"], 0, "true\n", "", id="environment"),
        pytest.param(["l", "cat; echo end"], 0, "end\n", "", id="no-input"),
        pytest.param(["l", "exit 7"], 0, "", "Error running handler: exit status 7\n", id="fails"),
        pytest.param(
            ["-child-exit-code", "l", "exit 7"],
            2,
            "",
            "Error running handler: exit status 7\n",
            id="fails-and-says-so",
        ),
        pytest.param(["-n=3", "l", "echo in"], 0, "in\n", "", id="semaphore"),
        pytest.param(["-stale", "l", "echo in"], 0, "in\n", "", id="stale-means-nothing"),
        pytest.param(
            ["-verbose", "l", "true"],
            0,
            "Setting up lock at path: l/.lock\nAttempting lock acquisition\nStarting handler\n"
            "Child terminated, releasing lock\nCleanup succeeded\n",
            "",
            id="verbose",
        ),
        pytest.param(
            ["-verbose", "-n=2", "-pass-stdin", "l", "true"],
            0,
            "Setting up semaphore (limit 2) at prefix: l\nAttempting lock acquisition\n"
            "Starting handler\nStdin passed to handler process\n"
            "Child terminated, releasing lock\nCleanup succeeded\n",
            "",
            id="verbose-semaphore",
        ),
        pytest.param(
            ["-child-exit-code", "l", "kill -9 $$"],
            2,
            "",
            "Error running handler: signal: killed\n",
            id="killed",
        ),
        pytest.param(
            ["-shell=false", "l", "no-such-program"],
            0,
            "",
            'Error starting handler: exec: "no-such-program": executable file not found in $PATH\n',
            id="cannot-start",
        ),
        pytest.param(
            ["-shell=false", "-child-exit-code", "l", "/no/program"],
            2,
            "",
            "Error starting handler: fork/exec /no/program: no such file or directory\n",
            id="cannot-start-and-says-so",
        ),
        pytest.param(["l"], 1, "", "Key prefix and child command must be specified\n", id="bare"),
        pytest.param(["-n=0", "l"], 1, "", "Lock holder limit must be positive\n", id="none"),
        pytest.param(
            ["-monitor-retry=-1", "l", "x"],
            1,
            "",
            "Number for 'monitor-retry' must be >= 0\n",
            id="retries",
        ),
        pytest.param(
            ["-n=2", "/", "x"], 1, "", "Lock setup failed: missing prefix\n", id="no-prefix"
        ),
        pytest.param(["-try=-1s", "l", "x"], 1, "", "Timeout must be positive\n", id="timeout"),
    ],
)
def test_one_run(
    registry: Run,
    agent: AgentProcess,
    words: list[str],
    status: int,
    out: str,
    err: str,
) -> None:
    before = len(sessions(agent.client))
    assert registry("lock", *words) == (status, out, err)
    assert keys(agent.client, "l") == []
    assert len(sessions(agent.client)) == before


def test_it_is_not_had_twice(registry: Run, agent: AgentProcess) -> None:
    with held_elsewhere(agent, "-name=first", "twice", "echo held; cat", "-") as first:
        assert first_line(first) == "held\n"
        # `cat -` ended at once: it has no input. The lock is given back with the program's end.
        first.wait(20)
    holder = session(agent.client, Name="me")
    agent.client.put("/v1/kv/two/.lock", {"acquire": holder, "flags": LOCK_FLAGS})
    done = registry("lock", "-timeout=50ms", "two", "echo", "never")
    assert done == (1, "", "Shutdown triggered or timeout during lock acquisition\n")
    assert [entry["Session"] for entry in keys(agent.client, "two")] == [holder]


def test_it_waits_its_turn(agent: AgentProcess) -> None:
    holder = session(agent.client)
    agent.client.put("/v1/kv/turn/.lock", {"acquire": holder, "flags": LOCK_FLAGS})
    with held_elsewhere(agent, "-verbose", "turn", "echo", "mine") as waiting:
        assert first_line(waiting) == "Setting up lock at path: turn/.lock\n"
        assert first_line(waiting) == "Attempting lock acquisition\n"
        agent.client.put("/v1/kv/turn/.lock", {"release": holder, "flags": LOCK_FLAGS})
        assert waiting.wait(20) == 0
        assert first_line(waiting) == "Starting handler\n"
    assert keys(agent.client, "turn") == []


def test_who_was_slower_waits_for_the_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being refused for a rival is no lock delay: no pause, or the others have it meanwhile."""
    free, taken = {"Flags": LOCK_FLAGS}, {"Flags": LOCK_FLAGS, "Session": "rival"}
    looks = iter([(5, free), (6, taken), (7, free)])
    writes = iter([b"false", b"true"])
    asked: list[object] = []

    class Agent(Client):
        def request(self, method: str, *words: Any, **more: Any) -> Response:
            if method == "PUT":
                return Response(200, {}, next(writes))
            asked.append(words[1]["index"])
            index, entry = next(looks)
            return Response(200, {"x-consul-index": str(index)}, json.dumps([entry]).encode())

    monkeypatch.setattr("registry.cli.holders.time.sleep", lambda seconds: pytest.fail("a pause"))
    assert LockHolder(Agent(), "l", "me").acquire(60)
    assert asked == [None, None, 6]


@pytest.mark.parametrize("limit", [1, 2])
def test_a_lost_lock_stops_the_program(agent: AgentProcess, limit: int) -> None:
    name = f"lost-{limit}"
    words = ["-shell=false", f"-n={limit}", f"-name={name}", name, *UNTIL_TERMINATED]
    with held_elsewhere(agent, *words) as process:
        assert first_line(process) == "held\n"
        [mine] = [each["ID"] for each in sessions(agent.client) if each["Name"] == name]
        agent.client.put(f"/v1/session/destroy/{mine}")
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "stopped\n", STOPPED)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_program(agent: AgentProcess, number: signal.Signals) -> None:
    name = f"signal-{number.name}"
    words = ["-shell=false", "-child-exit-code", name, *UNTIL_TERMINATED]
    with held_elsewhere(agent, *words) as process:
        assert first_line(process) == "held\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "stopped\n", STOPPED)
    assert keys(agent.client, name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(agent: AgentProcess, number: signal.Signals) -> None:
    holder = session(agent.client)
    prefix = f"waits-{number.name}"
    agent.client.put(f"/v1/kv/{prefix}/.lock", {"acquire": holder, "flags": LOCK_FLAGS})
    before = len(sessions(agent.client))
    with (
        handled_by(signal.SIG_IGN, number),  # as a shell leaves SIGINT to what it starts with &
        held_elsewhere(agent, "-verbose", "-n=1", prefix, "true") as process,
    ):
        assert first_line(process).startswith("Setting up lock")
        wait_until(lambda: len(sessions(agent.client)) == before + 1, "its session")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (
        1,
        "Shutdown triggered or timeout during lock acquisition\n",
    )
    assert len(sessions(agent.client)) == before


def test_standard_input_on_wish(agent: AgentProcess) -> None:
    with held_elsewhere(agent, "-pass-stdin", "input", "cat") as process:
        out, _ = process.communicate("given\n", timeout=30)
    assert (process.returncode, out) == (0, "given\n")


def test_locks_and_semaphores_do_not_mix(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("mixed/.lock", b"", flags=SEMAPHORE_FLAGS)
    done = registry("lock", "mixed", "true")
    assert done == (1, "", "Lock acquisition failed: Existing key does not match lock use\n")
    agent.client.kv_put("mixed/.lock", b"", flags=LOCK_FLAGS)
    done = registry("lock", "-n=2", "mixed", "true")
    assert done == (1, "", "Lock acquisition failed: Existing key does not match semaphore use\n")


# The two holders by themselves


def test_a_semaphore_has_so_many_places(agent: AgentProcess) -> None:
    client = agent.client
    ids = [session(client) for _ in range(3)]
    first, second, third = (SemaphoreHolder(client, "places", each, limit=2) for each in ids)
    assert first.acquire(1)
    assert second.acquire(1)
    assert not third.acquire(0.05)
    value = json.loads(client.kv_get("places/.lock") or b"")
    assert value == {"Limit": 2, "Holders": dict.fromkeys(sorted(ids[:2]), True)}
    held, index = first.still_held(0)
    assert (held, index > 0) == (True, True)
    assert not first.clean_up(), "the second still uses it"
    first.release()
    assert third.acquire(1)
    with pytest.raises(Rejected, match=r"semaphore limit conflict \(lock: 2, local: 5\)"):
        SemaphoreHolder(client, "places", ids[0], limit=5).acquire(1)


def test_the_place_of_a_dead_holder_is_free(agent: AgentProcess) -> None:
    client = agent.client
    dead, alive = session(client), session(client)
    assert SemaphoreHolder(client, "dead", dead, limit=2).acquire(1)
    client.put(f"/v1/session/destroy/{dead}")
    holder = SemaphoreHolder(client, "dead", alive, limit=2)
    assert holder.acquire(1)
    assert list(json.loads(client.kv_get("dead/.lock") or b"")["Holders"]) == [alive]
    holder.release()
    assert holder.clean_up()


def test_a_spoilt_semaphore_is_refused(agent: AgentProcess) -> None:
    agent.client.kv_put("spoilt/.lock", b"[]", flags=SEMAPHORE_FLAGS)
    holder = SemaphoreHolder(agent.client, "spoilt", session(agent.client), limit=2)
    with pytest.raises(Rejected, match="cannot read the semaphore's holders"):
        holder.acquire(1)


def test_a_lock_in_use_is_not_cleaned_up(agent: AgentProcess) -> None:
    mine, other = session(agent.client), session(agent.client)
    holder = LockHolder(agent.client, "use", mine)
    assert holder.acquire(1)
    assert holder.still_held(0)[0]
    holder.release()
    agent.client.put("/v1/kv/use/.lock", {"acquire": other, "flags": LOCK_FLAGS})
    assert not holder.clean_up()
    assert not holder.still_held(0)[0]
    agent.client.put("/v1/kv/use/.lock", {"release": other, "flags": LOCK_FLAGS})
    assert holder.clean_up()
    assert holder.clean_up(), "what is not there needs no cleaning"


def test_no_session_no_lock(cli: Run, stub: Stub) -> None:
    stub.answer("GET /v1/agent/self", {})
    stub.answer("PUT /v1/session/create", b"no leader", status=500)
    assert cli("lock", "a", "true") == (
        1,
        "",
        "Lock acquisition failed: failed to create session: "
        "Unexpected response code: 500 (no leader)\n",
    )


def test_paths_are_cleaned(registry: Run) -> None:
    said = registry("lock", "-verbose", "clean//up/", "true").out
    assert said.startswith("Setting up lock at path: clean/up/.lock\n")
    assert registry("lock", "-n=2", "clean//up/", "echo", "in").out == "in\n"
