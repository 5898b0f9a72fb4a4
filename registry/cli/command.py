"""What a command is, and what it is run with."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType
from typing import Any

from registry.client import Client, Settings
from registry.errors import ConfigError, RegistryError
from registry.goflags import Flag, ParsedFlags, boolean, help_text

PROGRAM = "registry"

CLIENT_FLAGS = (
    Flag(
        "http-addr",
        "Address of the agent: host:port, http://, https:// or unix:///path. Also from "
        "REGISTRY_HTTP_ADDR or CONSUL_HTTP_ADDR. Default: http://127.0.0.1:8500",
        default="",
        metavar="address",
    ),
    Flag(
        "token",
        "ACL token of the request. Also from REGISTRY_HTTP_TOKEN or CONSUL_HTTP_TOKEN.",
        default="",
    ),
    Flag("token-file", "File that holds the token.", default="", metavar="path"),
    Flag("ca-file", "Certificate authority to trust for https.", default="", metavar="path"),
    Flag("ca-path", "Directory of certificate authorities.", default="", metavar="path"),
    Flag("client-cert", "Certificate of this client.", default="", metavar="path"),
    Flag("client-key", "Key of this client's certificate.", default="", metavar="path"),
    Flag("tls-server-name", "Name to expect in the agent's certificate.", default=""),
)

SERVER_FLAGS = (
    Flag("datacenter", "Datacenter to ask; default: the agent's own.", default=""),
    Flag(
        "stale",
        "Let any server answer, even one that has lost its leader; the answer may be old.",
        boolean,
        default=False,
    ),
)

NAMESPACE_FLAG = Flag("namespace", "Sent to the agent, which knows no namespaces.", default="")


class CommandError(Exception):
    """Print this on standard error and end with this status."""

    def __init__(self, text: str, status: int = 1) -> None:
        self.text, self.status = text, status
        super().__init__(text)


class UsageError(CommandError):
    """As `CommandError`, with the command's help after it."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the table. `http` is "client", "server" (both sets of flags) or ""."""

    name: str
    arguments: str  # as in the usage line
    about: str  # first line: the summary
    run: Callable[[Invocation], int | None]
    flags: Sequence[Flag] = ()
    http: str = "server"
    #: The command reads its own flags: `run` gets them all as arguments.
    raw: bool = False
    #: Its arguments are a command line, in which -h is none of ours.
    takes_program: bool = False
    #: What is said before the reason when the client cannot be made.
    no_client: str = f"Error connecting to {PROGRAM} agent"

    @property
    def all_flags(self) -> tuple[Flag, ...]:
        more: tuple[Flag, ...] = ()
        if self.http:
            more += CLIENT_FLAGS
        if self.http == "server":
            more += (*SERVER_FLAGS, NAMESPACE_FLAG)
        return (*self.flags, *more)

    def help(self) -> str:
        usage = f"{PROGRAM} {self.name} [options] {self.arguments}".rstrip()
        groups = [("Command Options", self.flags)] if self.flags else []
        if self.http:
            groups.append(("HTTP API Options", CLIENT_FLAGS))
        if self.http == "server":
            groups.append(("Server Options", SERVER_FLAGS))
        return help_text(usage, groups, self.about)


@dataclass
class Invocation:
    """One run of a command: its flags and arguments, and the agent to talk to."""

    command: Command
    flags: ParsedFlags
    arguments: list[str] = field(default_factory=list)

    def __getitem__(self, flag: str) -> Any:
        return self.flags[flag]

    @cached_property
    def client(self) -> Client:
        """Raises `CommandError` when addresses or files make no sense."""
        server = self.command.http == "server"
        settings = Settings(
            address=self["http-addr"],
            token=self["token"],
            token_file=self["token-file"],
            ca_file=self["ca-file"],
            ca_path=self["ca-path"],
            client_cert=self["client-cert"],
            client_key=self["client-key"],
            tls_server_name=self["tls-server-name"],
            datacenter=self["datacenter"] if server else "",
            namespace=self["namespace"] if server else "",
            stale=self["stale"] if server else False,
        )
        try:
            return Client(settings)
        except ConfigError as problem:
            raise CommandError(f"{self.command.no_client}: {problem}") from problem

    def own_agent(self) -> dict[str, Any]:
        """What the agent says of itself, asked before anything is done through it."""
        try:
            facts: dict[str, Any] = self.client.get("/v1/agent/self").json()
        except RegistryError as problem:
            raise CommandError(f"Error querying {PROGRAM} agent: {problem}") from problem
        return facts


def write_utf8() -> None:
    """Print UTF-8 in every locale, and arguments that are none as the bytes that they were."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def say(text: str) -> None:
    print(text)


def say_now(text: str) -> None:
    """For commands that take their time: whoever reads a pipe sees it at once."""
    print(text, flush=True)


def say_outline(text: str) -> None:
    """A line about what the command is doing, as opposed to what it found."""
    say_now(f"==> {text}")


def say_bytes(data: bytes) -> None:
    """A value as it is, which need not be text, and a line end."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data + b"\n")
    sys.stdout.buffer.flush()


def warn(text: str) -> None:
    """One message on standard error, red on a terminal unless NO_COLOR is set."""
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        text = f"\033[31m{text}\033[0m"
    print(text, file=sys.stderr)


def table(rows: Sequence[Sequence[str]], *, gap: int = 2) -> str:
    """Columns parted by spaces, as wide as their widest cell; no blanks at line ends."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        (" " * gap)
        .join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    )


def read_data(argument: str) -> bytes:
    """The bytes that a DATA argument stands for: @file, - for standard input, or its own text.

    Raises `CommandError` when the file cannot be read.
    """
    if argument.startswith("@"):
        return read_file(argument[1:])
    if argument == "-":
        return sys.stdin.buffer.read()
    return argument.encode("utf-8", "surrogateescape")


def read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as problem:
        reason = file_problem(path, problem)
        raise CommandError(f"Error! Failed to read file: {reason}") from problem


def file_problem(path: str, problem: OSError) -> str:
    """Why a file cannot be read, in the words that scripts know."""
    verb = "read" if isinstance(problem, IsADirectoryError) else "open"
    return f"{verb} {path}: {(problem.strerror or str(problem)).lower()}"


@contextmanager
def handled_by(
    handler: Callable[[int, FrameType | None], Any] | signal.Handlers, *numbers: signal.Signals
) -> Iterator[None]:
    """Inside, these signals go to the handler."""
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)


#: How long after an interrupt was dropped it comes again.
_AGAIN_S = 0.01


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM is an interrupt as SIGINT is, and neither gets lost.

    Python can only drop what a signal's handler raises while some object is being finalized; the
    interrupt then comes again a moment later.
    """

    def dropped(what: Any) -> None:
        if what.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            tell(what)

    tell, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        with handled_by(signal.default_int_handler, signal.SIGTERM, signal.SIGALRM):
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        sys.unraisablehook = tell


def start_problem(words: Sequence[str], problem: OSError) -> str:
    """Why a program cannot be started, in the words that scripts know."""
    if "/" not in words[0] and isinstance(problem, FileNotFoundError):
        return f'exec: "{words[0]}": executable file not found in $PATH'
    return f"fork/exec {words[0]}: {(problem.strerror or str(problem)).lower()}"


def end_of_program(status: int) -> str:
    """How a program ended that did not succeed; a negative status is a signal's number."""
    if status >= 0:
        return f"exit status {status}"
    return f"signal: {signal.strsignal(-status) or -status}".lower()


def only_argument(call: Invocation, name: str) -> str:
    """The one argument that the command takes. Raises `CommandError`."""
    match call.arguments:
        case []:
            raise CommandError(f"Missing {name} argument")
        case [argument]:
            return argument
    raise CommandError(f"Too many arguments (expected 1, got {len(call.arguments)})")


def no_arguments(call: Invocation) -> None:
    """Raises `CommandError` when there are any."""
    if call.arguments:
        raise CommandError(f"Too many arguments (expected 0, got {len(call.arguments)})")


def check_pattern(pattern: str, what: str) -> None:
    """Raises `CommandError` when this is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as problem:
        raise CommandError(
            f"Failed to compile {what} regexp: error parsing regexp: {problem}"
        ) from problem


def duration(value: str) -> int:
    """The value of a flag such as `-wait=2s`, in nanoseconds."""
    from registry.agent.durations import parse_duration

    try:
        return parse_duration(value)
    except ValueError:
        raise ValueError("parse error") from None
