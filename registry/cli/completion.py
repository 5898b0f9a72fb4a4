"""Shell completion: `complete -C registry registry` asks the program itself, through COMP_LINE."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from registry.cli.command import PROGRAM
from registry.cli.main import COMMANDS, load, longest_name

#: Shell -> (its start file, the line that switches completion on).
SHELLS = {
    "bash": (".bashrc", "complete -C {program} " + PROGRAM),
    "zsh": (
        ".zshrc",
        "autoload -U +X bashcompinit && bashcompinit; complete -o nospace -C {program} " + PROGRAM,
    ),
}


def complete(line: str, point: str | None) -> int:
    """Print one candidate a line for the last word of what was typed."""
    typed = line[: int(point)] if point and point.isdigit() else line
    try:
        words = shlex.split(typed)[1:]
    except ValueError:
        return 0  # an open quote: nothing to offer
    last = "" if typed.endswith(" ") or not words else words.pop()
    for candidate in _candidates(words, last):
        print(candidate)
    return 0


def _candidates(words: list[str], last: str) -> Iterable[str]:
    name = " ".join(word for word in words if not word.startswith("-"))
    if command := longest_name(name.split(), COMMANDS):
        if not last.startswith("-"):
            return []
        flags = (f"-{flag.name}" for flag in load(command).all_flags)
        return sorted(flag for flag in flags if flag.startswith(last))
    prefix = f"{name} " if name else ""
    below = {
        command.removeprefix(prefix).split()[0]
        for command in COMMANDS
        if command.startswith(prefix)
    }
    return sorted(word for word in below if word.startswith(last))


def install() -> int:
    """Add the line to the start files of the shells that this user has."""
    done = [_edit(shell, present=True) for shell in SHELLS]
    if not any(done):
        print("Completion is already installed, or there is no .bashrc or .zshrc.", file=sys.stderr)
    return 0


def uninstall() -> int:
    for shell in SHELLS:
        _edit(shell, present=False)
    return 0


def _edit(shell: str, *, present: bool) -> bool:
    """Make the line be there, or not; whether the file changed."""
    file_name, line = SHELLS[shell]
    path = Path.home() / file_name
    if not path.exists():
        return False
    wanted = line.format(program=shutil.which(PROGRAM) or PROGRAM)
    lines = path.read_text("utf-8", "surrogateescape").splitlines()
    if present and wanted in lines:
        return False
    kept = [each for each in lines if not each.endswith(f" {PROGRAM}") or "complete" not in each]
    if present:
        kept.append(wanted)
    if kept == lines:
        return False
    path.write_text("".join(f"{line}\n" for line in kept), "utf-8", "surrogateescape")
    print(f"{'Installed into' if present else 'Removed from'} {path}; open a new shell to use it.")
    return True
