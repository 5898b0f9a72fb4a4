"""Running a program with a configuration as its environment, and again when that changes.

Three things can happen: the program ends, a signal comes, the configuration changes. All three come
through one queue to the main thread; a signal handler may put into a `SimpleQueue` at any moment.

The program has a session of its own unless standard input is a terminal, which it then needs to
read from; there the keyboard's signals reach it without us.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType

#: Signals that are passed on to the program.
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
#: Those that a terminal sends to all of its foreground group.
KEYBOARD = (signal.SIGINT, signal.SIGQUIT)
#: After these the program is not started again.
ENDING = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

#: As shells say it.
NOT_FOUND, NOT_EXECUTABLE = 127, 126


@dataclass(frozen=True, slots=True)
class Ended:
    process: subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Signalled:
    number: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The configuration is another one now."""

    variables: Mapping[str, str]


Event = Ended | Signalled | Changed
Events = SimpleQueue[Event]


class Supervisor:
    """Keeps one program running; `say` is told, in a line, why it is started again."""

    def __init__(
        self,
        words: Sequence[str],
        events: Events,
        *,
        base: Mapping[str, str],
        grace_s: float,
        stop_signal: int = signal.SIGTERM,
        say: Callable[[str], None],
    ) -> None:
        self._words, self._events, self._base = words, events, base
        self._grace_s, self._stop_signal, self._say = grace_s, stop_signal, say
        self._on_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._variables: Mapping[str, str] = {}
        self._is_ending = False
        #: While the program is being stopped: when it is killed.
        self._kill_at: float | None = None

    def run(self, variables: Mapping[str, str]) -> int:
        """The exit status of the program once it has ended by itself or for good; 128 and the
        signal's number if one ended it. Raises `OSError` when it cannot be started."""
        before = [(number, signal.getsignal(number)) for number in FORWARDED]
        try:
            for number, handler in before:
                if handler is not signal.SIG_IGN:  # as nohup and background jobs have it
                    signal.signal(number, self._signalled)
            return self._supervise(variables)
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._events.put(Signalled(number))

    def _supervise(self, variables: Mapping[str, str]) -> int:
        process = self._start(variables)
        while True:
            event = self._next_event()
            if event is None:
                self._say(f"the program did not end within {self._grace_s:g} s and is killed")
                self._kill(process)
            elif isinstance(event, Signalled):
                self._is_ending = self._is_ending or event.number in ENDING
                if not (self._on_terminal and event.number in KEYBOARD):
                    _send(process, event.number)
            elif isinstance(event, Changed):
                self._take(event.variables, process)
            elif event.process is process:
                if self._kill_at is None or self._is_ending:
                    return _status(process.returncode)
                self._kill_at = None
                process = self._start(self._variables)

    def _next_event(self) -> Event | None:
        """None when the time of a program that is being stopped is over."""
        if self._kill_at is None:
            return self._events.get()
        try:
            return self._events.get(timeout=max(0.0, self._kill_at - time.monotonic()))
        except Empty:
            return None

    def _take(self, variables: Mapping[str, str], process: subprocess.Popen[bytes]) -> None:
        if self._is_ending or variables == self._variables:
            return
        self._variables = variables
        if self._kill_at is None:
            self._say("the configuration has changed, the program is started again")
            self._kill_at = time.monotonic() + self._grace_s
            _send(process, self._stop_signal)

    def _start(self, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self._variables = variables
        process = subprocess.Popen(
            self._words,
            env={**self._base, **variables},
            start_new_session=not self._on_terminal,
        )

        def wait() -> None:
            process.wait()
            self._events.put(Ended(process))

        threading.Thread(target=wait, name="wait", daemon=True).start()
        return process

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        self._kill_at = time.monotonic() + self._grace_s  # and again, should it not end by that
        if self._on_terminal:
            _send(process, signal.SIGKILL)
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode
