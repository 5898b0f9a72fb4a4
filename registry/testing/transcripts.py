"""Transcripts: tests as a file of commands and the output they must have.

    # What this shows.
    command argument argument
    command
    ----
    output, as it must be

    command
    ----

A block is its commands, `----`, and the output up to the next empty line. With rewriting on, the
file is written anew with the actual output, to be read, understood and committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SEPARATOR = "----"


@dataclass(slots=True)
class Block:
    """Comment and command lines as they stand, and the output that follows."""

    lines: list[str]
    expected: list[str]

    @property
    def commands(self) -> list[list[str]]:
        return [line.split() for line in self.lines if line and not line.startswith("#")]


def parse(text: str) -> list[Block]:
    """The blocks of a transcript; comments before a block belong to it."""
    blocks: list[Block] = []
    lines: list[str] = []
    expected: list[str] | None = None
    for line in [*text.splitlines(), ""]:
        if expected is None and line == _SEPARATOR:
            expected = []
        elif expected is None:
            lines.append(line)
        elif line:
            expected.append(line)
        else:
            blocks.append(Block(lines, expected))
            lines, expected = [], None
    if any(lines):
        raise ValueError(f"the transcript ends in commands without {_SEPARATOR}: {lines}")
    return blocks


def play(path: Path, run: Callable[[list[str]], list[str]], *, rewrite: bool) -> None:
    """Run each command of the transcript at `path`; `run` gives its output lines.

    Raises `AssertionError` at the first block whose output differs, or writes the file anew.
    """
    written = []
    for block in parse(path.read_text()):
        actual = [line for command in block.commands for line in run(command)] or ["ok"]
        written.append("\n".join([*block.lines, _SEPARATOR, *actual, ""]))
        if not rewrite:
            what = "; ".join(" ".join(command) for command in block.commands)
            assert actual == block.expected, (
                f"{path.name}: {what}\nexpected:\n"
                + "\n".join(block.expected)
                + "\nactual:\n"
                + "\n".join(actual)
            )
    if rewrite:
        path.write_text("\n".join(written))
