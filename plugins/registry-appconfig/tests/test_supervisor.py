"""Programs that are run, told to end, killed and run again; and what follows the configuration."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_appconfig import commands
from registry_appconfig.commands import COMMANDS, Source, follow, variables_of
from registry_appconfig.supervisor import Changed, Events, Signalled, Supervisor

from registry.client import Response
from registry.testing.process import wait_until

#: Writes its variable and its pid down, then waits for ever; ends with 7 on SIGTERM.
OBEYS = """
trap 'echo usr1 >> "$LOG"' USR1
trap 'exit 7' TERM
echo "$NAME $$" >> "$LOG"
while :; do sleep 0.02; done
"""
STUBBORN = """
trap '' TERM
echo "$NAME $$" >> "$LOG"
while :; do sleep 0.02; done
"""


class Run:
    """A supervisor in a thread, where it cannot set signal handlers: signals come as events."""

    def __init__(self, tmp_path: Path, script: str, *, grace_s: float = 20.0) -> None:
        self.log = tmp_path / "log"
        self.log.touch()
        self.events: Events = Events()
        self.said: list[str] = []
        self.status: int | None = None
        base = {"PATH": os.environ["PATH"], "LOG": str(self.log)}
        words = ["/bin/sh", "-c", script]
        self._supervisor = Supervisor(
            words, self.events, base=base, grace_s=grace_s, say=self.said.append
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.status = self._supervisor._supervise({"NAME": "one"})

    def lines(self, count: int) -> list[str]:
        wait_until(lambda: len(self.log.read_text().splitlines()) >= count, f"{count} lines")
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.log.read_text().splitlines()]

    def end(self) -> int:
        self._thread.join(20)
        assert self.status is not None
        return self.status


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)], ids=["0", "3", "9"]
)
def test_the_programs_status(tmp_path: Path, script: str, status: int) -> None:
    assert Run(tmp_path, script).end() == status


def test_again_with_another_configuration(tmp_path: Path) -> None:
    run = Run(tmp_path, OBEYS)
    assert run.lines(1) == ["one"]
    run.events.put(Changed({"NAME": "one"}))  # the same one
    run.events.put(Changed({"NAME": "two"}))
    assert run.lines(2) == ["one", "two"]
    run.events.put(Signalled(signal.SIGUSR1))
    assert run.lines(3) == ["one", "two", "usr1"]
    run.events.put(Signalled(signal.SIGTERM))
    assert run.end() == 7
    assert run.said == ["the configuration has changed, the program is started again"]


def test_a_program_that_does_not_end_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path, STUBBORN, grace_s=0.1)
    run.lines(1)
    run.events.put(Changed({"NAME": "two"}))
    run.events.put(Changed({"NAME": "three"}))  # while it is being stopped: the last one counts
    assert run.lines(2) == ["one", "three"]
    assert run.said[-1] == "the program did not end within 0.1 s and is killed"
    first, second = run.pids()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    os.kill(second, signal.SIGKILL)
    assert run.end() == 137


def test_a_signal_to_end_while_it_is_started_again(tmp_path: Path) -> None:
    run = Run(tmp_path, STUBBORN, grace_s=0.3)
    run.lines(1)
    run.events.put(Changed({"NAME": "two"}))
    run.events.put(Signalled(signal.SIGTERM))
    assert run.end() == 137
    assert run.lines(1) == ["one"]


def test_signals_reach_the_program(tmp_path: Path) -> None:
    """In this thread, which is the main one: the handlers, and that they are put back."""
    before = signal.getsignal(signal.SIGTERM)
    log = tmp_path / "log"
    log.touch()

    def tell() -> None:
        wait_until(lambda: log.read_text() != "", "a program that runs")
        os.kill(os.getpid(), signal.SIGTERM)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    base = {"PATH": os.environ["PATH"], "LOG": str(log)}
    supervisor = Supervisor(
        ["/bin/sh", "-c", OBEYS], Events(), base=base, grace_s=1.0, say=lambda text: None
    )
    assert supervisor.run({"NAME": "x"}) == 7
    assert signal.getsignal(signal.SIGTERM) is before


# Following the configuration, and the commands


class Answers(BaseHTTPRequestHandler):
    """Gives the server's answers in turn, and then none at all."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.asked.append((self.path, self.headers.get("If-None-Match")))
        if not server.answers:
            self.close_connection = True
            return
        status, index, etag, text = server.answers.pop(0)
        self.send_response(status)
        self.send_header("X-Consul-Index", str(index))
        if etag:
            self.send_header("ETag", etag)
        body = text.encode() if status != 304 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Answers)
    server.answers, server.asked = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def arguments(server: Any, command: int, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMANDS[command].configure(parser)
    address = f"127.0.0.1:{server.server_port}"
    return parser.parse_args(["-app=web", f"-http-addr={address}", *words])


def taken(events: SimpleQueue[Any]) -> Mapping[str, str]:
    event = events.get(timeout=20)
    assert isinstance(event, Changed)
    return event.variables


def test_following(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "RETRY_S", 60.0)  # it ends with the test's process
    source = Source(arguments(server, 1, "-profile=prod"), {"format": "env"})
    server.answers = [
        (200, 5, "a", "A=1\n"),
        (304, 6, "a", ""),  # a change that changed nothing
        (200, 7, "b", "A=2\n"),
        (200, 8, "c", "A='3 4'\n"),  # before it had settled
        (304, 8, "c", ""),
        (422, 9, "", "a (c/a) refers to ${b}, which is not there"),
        (422, 10, "", "a (c/a) refers to ${b}, which is not there"),
        (200, 3, "d", "A=5\n"),  # another history
        (304, 3, "d", ""),
    ]
    assert variables_of(source.get()) == {"A": "1"}
    events: Events = Events()
    following = threading.Thread(target=follow, args=(source, events, 0.001), daemon=True)
    following.start()
    assert taken(events) == {"A": "3 4"}
    assert taken(events) == {"A": "5"}
    wait_until(lambda: len(server.asked) == 10, "a request that fails")
    asked = [
        (query.get("index"), known)
        for query, known in ((parse_qs(urlsplit(path).query), tag) for path, tag in server.asked)
    ]
    assert asked == [
        (None, None),
        (["5"], "a"),
        (["6"], "a"),
        (None, "b"),
        (None, "c"),
        (["8"], "c"),
        (["9"], "c"),
        (["10"], "c"),
        (None, "d"),
        (["3"], "d"),
    ]
    assert "profile=prod" in server.asked[0][0]
    wait_until(lambda: "Remote end" in "".join(_kept(capsys)), "what failed")
    assert "".join(_kept(capsys)).count("which is not there") == 1


_said: list[str] = []


def _kept(capsys: pytest.CaptureFixture[str]) -> list[str]:
    _said.append(capsys.readouterr().err)
    return _said


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["--", "env", "-u", "X", "--", "y"], ["--", "env", "-u", "X", "--", "y"]),
        (["env", "-u", "X"], ["env", "-u", "X"]),
        (["-grace", "500ms", "--", "env"], ["--", "env"]),
    ],
)
def test_the_program_on_the_command_line(server: Any, words: list[str], program: list[str]) -> None:
    assert arguments(server, 1, *words).program == program


def test_options(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(server, 1, "-grace=1.5m", "--settle=0", "-stop-signal=int", "-once")
    assert (given.grace, given.settle, given.stop_signal, given.once) == (90.0, 0.0, 2, True)
    for wrong in ("-grace=soon", "-stop-signal=NONE"):
        with pytest.raises(SystemExit):
            arguments(server, 1, wrong)
    assert "not a duration: 'soon'" in capsys.readouterr().err


def test_exec(server: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w')); sys.exit(4)"
    server.answers = [(200, 5, "a", "A='x y'\nB=\n")] * 2
    words = [sys.executable, "-c", code, str(out)]
    assert COMMANDS[1].run(arguments(server, 1, "-once", "--", *words)) == 4
    assert json.loads(out.read_text()).items() >= {"A": "x y", "B": "", **os.environ}.items()
    assert COMMANDS[1].run(arguments(server, 1, "-once", "-pristine", "--", *words)) == 4
    alone = json.loads(out.read_text())
    assert {"A", "B"} <= alone.keys()
    assert "HOME" not in alone


@pytest.mark.parametrize(
    ("words", "status"),
    [(["--", "/no/such/program"], 127), (["--", "/"], 126), ([], 1)],
    ids=["not there", "not a program", "none"],
)
def test_what_cannot_be_run(server: Any, words: list[str], status: int) -> None:
    server.answers = [(200, 5, "a", "")]
    assert COMMANDS[1].run(arguments(server, 1, "-once", *words)) == status


def test_render(server: Any, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    server.answers = [(200, 5, "a", '{"a":"ü"}')] * 2
    assert COMMANDS[0].run(arguments(server, 0, "-flat", "-instance=i")) == 0
    assert capfdbinary.readouterr().out == '{"a":"ü"}\n'.encode()
    assert "flat=&format=json&instance=i" in server.asked[0][0]
    file = tmp_path / "web.json"
    file.write_text("old")
    assert COMMANDS[0].run(arguments(server, 0, f"-out={file}")) == 0
    assert file.read_text() == '{"a":"ü"}\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["web.json"]


def test_variables_of_any_value() -> None:
    body = b"A='it'\"'\"'s\ntwo lines'\nB==\n"
    assert variables_of(Response(200, {}, body)) == {"A": "it's\ntwo lines", "B": "="}
