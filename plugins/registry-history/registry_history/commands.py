"""`registry history`, `registry history diff` and `registry history rollback`."""

from __future__ import annotations

import argparse
import base64
import difflib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from registry.client import ApiError, Client, Response, Settings, key_path
from registry.hooks import CliCommand

RED, GREEN, FAINT = "31", "32", "2"

#: Of a value, in a list.
SHOWN_CHARACTERS = 40


def painted(text: str, colour: str) -> str:
    """In colour on a terminal, unless NO_COLOR is set."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        return f"\033[{colour}m{text}\033[0m"
    return text


def _client(arguments: argparse.Namespace) -> Client:
    return Client(Settings(address=arguments.http_addr, token=arguments.token))


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the key, or the prefix of -recurse")
    _flag(parser, "http-addr", default="", help="address of a server's agent")
    _flag(parser, "token", default="", help="token of the request")


def _flag(parser: argparse.ArgumentParser, name: str, **more: Any) -> None:
    """A flag as the other commands have it, with one dash or two."""
    parser.add_argument(f"-{name}", f"--{name}", dest=name.replace("-", "_"), **more)


def _answered(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], int]:
    """The exit status of a command: a refusal is told in the agent's words."""

    def call(arguments: argparse.Namespace) -> int:
        try:
            run(arguments)
        except ApiError as problem:
            print(f"Error: {problem.text.strip() or problem}", file=sys.stderr)
            return 1
        return 0

    return call


# registry history KEY


def _configure_show(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    _flag(parser, "from", type=int, help="lowest index to show")
    _flag(parser, "to", type=int, help="highest index to show")
    _flag(parser, "limit", type=int, default=50, help="how many versions; default: 50")
    _flag(parser, "at", type=int, help="print the value as of this index, and nothing else")


@_answered
def _show(arguments: argparse.Namespace) -> None:
    client, path = _client(arguments), key_path("/v1/history", arguments.key)
    if arguments.at is not None:
        raw = client.get(path, {"at": arguments.at, "raw": True}).body
        sys.stdout.buffer.write(raw + b"\n" * sys.stdout.isatty())
        return
    parameters = {"from": getattr(arguments, "from"), "to": arguments.to}
    page = client.get(path, {**parameters, "limit": arguments.limit}).json()
    for version in page["Versions"]:
        print(_line(version))
    if not page["Versions"]:
        print("No versions", file=sys.stderr)
    if page["Next"] is not None:
        print(f"Older ones: -to={page['Next']}", file=sys.stderr)


def _line(version: dict[str, Any]) -> str:
    time = version["Time"] or "at an unknown time"
    head = f"{version['Index']:>8}  {time:24}  {version['Client'] or '-':15}"
    if version["Deleted"]:
        value = painted("deleted", RED)
    else:
        value = _short(base64.b64decode(version["Value"]))
    reason = "  " + painted(version["Reason"], FAINT) if version["Reason"] else ""
    return f"{head}  {value}{reason}"


def _short(value: bytes) -> str:
    text = "".join(each if each.isprintable() else "·" for each in value.decode("utf-8", "replace"))
    short = text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
    return repr(short)


# registry history diff KEY FROM [TO]


def _configure_diff(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("from", metavar="FROM", type=int, help="the index to compare")
    parser.add_argument("to", metavar="TO", type=int, nargs="?", help="default: the latest")
    _flag(parser, "recurse", action="store_true", help="all keys that begin so")


@_answered
def _diff(arguments: argparse.Namespace) -> None:
    client, path = _client(arguments), key_path("/v1/history-diff", arguments.key)
    parameters = {
        "from": getattr(arguments, "from"),
        "to": arguments.to,
        "recurse": arguments.recurse,
    }
    for page in _pages(client, path, parameters):
        for difference in page["Differences"]:
            for line in difference_lines(difference, page["From"], page["To"]):
                print(line)


def _pages(client: Client, path: str, parameters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while True:
        page = client.get(path, parameters).json()
        yield page
        if page["Next"] is None:
            return
        parameters = {**parameters, "to": page["To"], "start": page["Next"]}


def difference_lines(difference: dict[str, Any], from_index: int, to_index: int) -> Iterator[str]:
    """A key at two indexes as a unified diff; of values that are no text only that they differ."""
    before, after = _side(difference["Before"]), _side(difference["After"])
    key = difference["Key"]
    old_name = "/dev/null" if before is None else f"{key} @{from_index}"
    new_name = "/dev/null" if after is None else f"{key} @{to_index}"
    try:
        old, new = ((side or b"").decode().splitlines() for side in (before, after))
    except UnicodeDecodeError:
        yield f"Binary values {old_name} and {new_name} differ"
        return
    lines = list(difflib.unified_diff(old, new, old_name, new_name, lineterm=""))
    if not lines:
        # Equal lines: one side is empty or not there, or only flags or line ends differ.
        yield from (f"--- {old_name}", f"+++ {new_name}")
    for line in lines:
        colour = {"-": RED, "+": GREEN, "@": FAINT}.get(line[:1])
        yield painted(line, colour) if colour else line
    flags = [
        side["Flags"] if side is not None else 0
        for side in (difference["Before"], difference["After"])
    ]
    if flags[0] != flags[1]:
        yield painted(f"flags {flags[0]} -> {flags[1]}", FAINT)


def _side(version: dict[str, Any] | None) -> bytes | None:
    return base64.b64decode(version["Value"]) if version is not None else None


# registry history rollback KEY INDEX


def _configure_rollback(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("index", metavar="INDEX", type=int, help="the index to go back to")
    _flag(parser, "recurse", action="store_true", help="all keys that begin so")
    _flag(parser, "reason", default="", help="why; kept with the new versions")
    _flag(parser, "dry-run", action="store_true", help="only say what would be done")
    _flag(
        parser,
        "chunked",
        action="store_true",
        help="allow more than one transaction takes, by several that are not all or nothing",
    )


@_answered
def _roll_back(arguments: argparse.Namespace) -> None:
    answer = _rolled_back(arguments).json()
    for step in answer["Operations"]:
        if step["Verb"] == "delete":
            print(painted(f"delete {step['Key']}", RED))
        else:
            print(painted(f"set {step['Key']} to its version of index {step['Index']}", GREEN))
    count = len(answer["Operations"])
    keys = "1 key" if count == 1 else f"{count} keys"
    if not answer["Done"]:
        print(f"Would roll back {keys} to index {answer['To']}")
    elif count:
        print(f"Rolled back {keys} to index {answer['To']}")
    else:
        print(f"Nothing differs from index {answer['To']}")


def _rolled_back(arguments: argparse.Namespace) -> Response:
    return _client(arguments).put(
        key_path("/v1/history-rollback", arguments.key),
        {
            "to": arguments.index,
            "recurse": arguments.recurse,
            "reason": arguments.reason or None,
            "dry-run": arguments.dry_run,
            "chunked": arguments.chunked,
        },
    )


COMMANDS = [
    CliCommand(
        name="history",
        help="Show the versions of a key: who wrote it, when and why",
        configure=_configure_show,
        run=_show,
    ),
    CliCommand(
        name="history diff",
        help="Compare a key or a prefix at two indexes",
        configure=_configure_diff,
        run=_diff,
    ),
    CliCommand(
        name="history rollback",
        help="Put a key or a prefix back to what it was at an index",
        configure=_configure_rollback,
        run=_roll_back,
    ),
]
