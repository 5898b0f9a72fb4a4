"""`registry appconfig render` and `registry appconfig exec`."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from registry.client import Client, Response, Settings, key_path
from registry.errors import RegistryError
from registry.hooks import CliCommand

from .supervisor import NOT_EXECUTABLE, NOT_FOUND, Changed, Events, Supervisor

#: How long one request waits for a change, and how much longer than that for its answer.
WAIT_S = 300
ANSWER_S = 60
#: Pauses between requests that fail.
RETRY_S, RETRY_S_MAX = 1.0, 30.0

FORMAT_NAMES = ("json", "yaml", "env", "properties")

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> float:
    """Seconds of "500ms", "10s", "2m" or a plain number of seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r} (as in 500ms, 10s, 2m)")
    return float(match[1]) * _UNITS[match[2]]


def signal_number(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise argparse.ArgumentTypeError(f"no such signal: {text!r} (as in TERM, INT)")
    return found


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-app", "--app", required=True, metavar="NAME", help="the application")
    parser.add_argument(
        "-profile", "--profile", action="append", default=[], help="a profile; may be repeated"
    )
    parser.add_argument("-instance", "--instance", default="", help="the instance")
    parser.add_argument(
        "-http-addr", "--http-addr", default="", metavar="ADDRESS", help="address of the agent"
    )
    parser.add_argument("-token", "--token", default="", help="ACL token of the request")


def configure_render(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("-format", "--format", choices=FORMAT_NAMES, default="json")
    parser.add_argument("-flat", "--flat", action="store_true", help="whole names, no tree")
    parser.add_argument("-typed", "--typed", action="store_true", help="numbers as numbers")
    parser.add_argument(
        "-out", "--out", default="", metavar="FILE", help="write to this file, replacing it whole"
    )


def configure_exec(parser: argparse.ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument(
        "-grace",
        "--grace",
        type=duration,
        default=10.0,
        metavar="DURATION",
        help="what the program has to end in before it is killed and started again; default 10s",
    )
    parser.add_argument(
        "-settle",
        "--settle",
        type=duration,
        default=1.0,
        metavar="DURATION",
        help="how long the configuration has to stay the same before it counts; default 1s",
    )
    parser.add_argument(
        "-stop-signal",
        "--stop-signal",
        type=signal_number,
        default=signal.SIGTERM,
        metavar="NAME",
        help="what tells the program to end; default TERM",
    )
    parser.add_argument(
        "-once", "--once", action="store_true", help="do not start it again on changes"
    )
    parser.add_argument(
        "-pristine", "--pristine", action="store_true", help="no variables but the configuration's"
    )
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- PROGRAM ARGUMENTS")


class Source:
    """An application's configuration, asked for again and again."""

    def __init__(self, arguments: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
        self._client = Client(Settings(address=arguments.http_addr, token=arguments.token))
        self._path = key_path("/v1/appconfig", arguments.app)
        self._parameters = {
            "profile": arguments.profile,
            "instance": arguments.instance or None,
            **parameters,
        }
        self._index, self._etag = 0, ""

    def get(self, *, wait_s: int = 0, known: bool = False) -> Response:
        """The answer, 200 or, if the one got last is `known` and still holds, 304.

        With `wait_s` it comes at a change. Raises `RegistryError`.
        """
        waiting = {"index": self._index, "wait": f"{wait_s}s"} if wait_s and self._index else {}
        response = self._client.get(
            self._path,
            {**self._parameters, **waiting},
            headers={"If-None-Match": self._etag} if known and self._etag else None,
            accept=(200, 304, 404, 422),
            timeout=wait_s * 17 / 16 + ANSWER_S,
        )
        # An index that went back is that of another history: it is begun anew.
        self._index = response.index if response.index >= self._index else 0
        if response.status in (404, 422):
            raise Unusable(response.text)
        if response.status == 200:
            self._etag = response.headers.get("etag", "")
        return response


class Unusable(RegistryError):
    """The agent says that there is no configuration, and why."""


def render(arguments: argparse.Namespace) -> int:
    """Print the configuration, or put it in a file."""
    given = {"format": arguments.format, "flat": arguments.flat, "typed": arguments.typed}
    body = Source(arguments, given).get().body
    if body and not body.endswith(b"\n"):
        body += b"\n"
    if arguments.out:
        _replace_file(Path(arguments.out), body)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
    return 0


def _replace_file(path: Path, body: bytes) -> None:
    """Whole or not at all, and for nobody else's eyes: configurations hold passwords."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def run(arguments: argparse.Namespace) -> int:
    """Run the program until it ends."""
    words = arguments.program[1:] if arguments.program[:1] == ["--"] else arguments.program
    if not words:
        _say("a program is needed: registry appconfig exec -app=NAME -- PROGRAM ARGUMENTS")
        return 1
    source = Source(arguments, {"format": "env"})
    variables = variables_of(source.get())
    events: Events = Events()
    base = {} if arguments.pristine else dict(os.environ)
    # A program without a path is looked for where we were told to look, not the configuration.
    found = shutil.which(words[0])
    supervisor = Supervisor(
        [found or words[0], *words[1:]],
        events,
        base=base,
        grace_s=arguments.grace,
        stop_signal=arguments.stop_signal,
        say=_say,
    )
    if not arguments.once:
        following = threading.Thread(
            target=follow, args=(source, events, arguments.settle), name="follow", daemon=True
        )
        following.start()
    try:
        return supervisor.run(variables)
    except OSError as problem:
        _say(f"{words[0]}: {problem.strerror or problem}")
        return NOT_FOUND if isinstance(problem, FileNotFoundError) else NOT_EXECUTABLE


def follow(source: Source, events: Events, settle_s: float) -> None:
    """Tell of each change, once it has settled. What cannot be had now is tried again for ever:
    the program runs on with what it has."""
    pauses, told = _pauses(), ""
    while True:
        try:
            response = source.get(wait_s=WAIT_S, known=True)
            if response.status == 200:
                events.put(Changed(variables_of(_settled(source, response, settle_s))))
        except RegistryError as problem:
            if str(problem) != told:
                told = str(problem)
                _say(f"the program runs on as it is: {told}")
            if not isinstance(problem, Unusable):
                time.sleep(next(pauses))
            continue
        pauses, told = _pauses(), ""


def _settled(source: Source, response: Response, settle_s: float) -> Response:
    """The answer once it has been the same for a while."""
    while True:
        time.sleep(settle_s)
        later = source.get(known=True)
        if later.status == 304:
            return response
        response = later


def _pauses() -> Iterator[float]:
    pause = RETRY_S
    while True:
        yield pause
        pause = min(pause * 2, RETRY_S_MAX)


def variables_of(response: Response) -> dict[str, str]:
    """The variables of an answer in the format `env`, which is written for a shell to read."""
    pairs = (word.partition("=") for word in shlex.split(response.body.decode()))
    return {name: value for name, _, value in pairs}


def _say(text: str) -> None:
    print(f"registry appconfig: {text.strip()}", file=sys.stderr, flush=True)


def _command(
    name: str,
    about: str,
    configure: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
) -> CliCommand:
    return CliCommand(name=f"appconfig {name}", help=about, configure=configure, run=run)


COMMANDS = [
    _command("render", "Print an application's configuration", configure_render, render),
    _command("exec", "Run a program with a configuration as its environment", configure_exec, run),
]
