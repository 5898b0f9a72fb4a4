"""`plugins new`: writes a package that works, to be changed into what its author wants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import Template
from typing import NamedTuple

from registry.cli.command import PROGRAM, CommandError, Invocation, only_argument, say
from registry.goflags import Flag

TEMPLATES = Path(__file__).parent / "plugin_template"

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

#: Names of storage engines and plugins that the registry has itself.
TAKEN = ("builtin", "memory", "rocksdict")


class Part(NamedTuple):
    """What a package may contribute: a module of its name, its hook, and its tests."""

    hook: str
    readme: str


PARTS = {
    "check": Part(
        "registry_check_types",
        'A check that `"${key}_disk": {"path": "/", "free_mb_min": 100}` in a definition selects:\n'
        "is there room on the disk?",
    ),
    "route": Part(
        "registry_http_routes",
        "An endpoint, `GET /v1/$name/greeting/NAME`, in the words of the settings.",
    ),
    "command": Part("registry_cli_commands", "A command, `registry $name`, which counts services."),
    "storage": Part(
        "registry_storage_engines",
        'An engine for `"storage_engine": "$name"`, which keeps everything in memory and in a log.',
    ),
    "sink": Part(
        "registry_change_sinks",
        "A change sink, which notes every change of the KV store in `changes.jsonl`, in the\n"
        "directory that the plugin has on the server that leads.",
    ),
}

#: Hooks of `settings.py`, in the order of the catalogue.
_LIFE = ("registry_settings", "registry_start", "registry_stop")
#: The order in which reports show hooks.
_ORDER = (
    *_LIFE,
    "registry_storage_engines",
    "registry_check_types",
    "registry_change_sinks",
    "registry_http_routes",
    "registry_cli_commands",
)

FLAGS = (
    Flag(
        "with",
        f"What the package contributes, comma-separated: {', '.join(PARTS)}. Default: check",
        default="check",
        metavar="parts",
    ),
    Flag("dir", "Directory to write the package into; default: this one.", default="."),
)


def new(call: Invocation) -> int:
    name = only_argument(call, "NAME").removeprefix("registry-")
    parts = list(dict.fromkeys(part.strip() for part in call["with"].split(",") if part.strip()))
    _judge(name, parts)
    root = Path(call["dir"]) / f"registry-{name}"
    try:
        root.mkdir(parents=True)
    except FileExistsError:
        raise CommandError(f"Error! {root} is already there; nothing was written") from None
    for path, text in files(name, parts):
        target = root / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    say(f"{root} is written. Try it out:\n")
    say(f"    cd {root}\n    pip install -e '.[test]'\n    pytest\n    {PROGRAM} plugins check")
    return 0


def _judge(name: str, parts: Iterable[str]) -> None:
    from registry.cli.main import COMMANDS

    if not _NAME.fullmatch(name):
        raise CommandError(
            f"Error! {name!r} cannot be the name of a package: lower-case letters, digits and "
            "single dashes, as in dns-check"
        )
    if name in TAKEN or name in {command.split()[0] for command in COMMANDS}:
        raise CommandError(f"Error! {name!r} is a name of the registry's own; choose another one")
    for part in parts:
        if part not in PARTS:
            raise CommandError(f"Error! There is no part {part!r}; known are {', '.join(PARTS)}")


def files(name: str, parts: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Every file of the package with its text."""
    key = name.replace("-", "_")
    module = f"registry_{key}"
    modules = sorted({"settings", *parts})
    hooks = {part: (PARTS[part].hook,) for part in parts} | {"settings": _LIFE}
    implemented = [hook for hook in _ORDER if any(hook in each for each in hooks.values())]
    words = {
        "name": name,
        "key": key,
        "module": module,
        "distribution": f"registry-{name}",
        "hooks": _lines(implemented, 8, quote='"'),
    }
    words["sections"] = "".join(
        f"\n{Template(PARTS[part].readme).substitute(words)}\n" for part in parts
    )

    def written(template: str) -> str:
        return Template((TEMPLATES / f"{template}.tmpl").read_text("utf-8")).substitute(words)

    yield Path("pyproject.toml"), written("pyproject.toml")
    yield Path("README.md"), written("README.md")
    yield Path("conftest.py"), written("conftest.py")
    yield Path(module, "__init__.py"), _package(name, modules, hooks, implemented)
    for each in modules:
        yield Path(module, f"{each}.py"), written(f"{each}.py")
        yield Path("tests", f"test_{each}.py"), written(f"test_{each}.py")


def _package(
    name: str, modules: list[str], hooks: Mapping[str, tuple[str, ...]], implemented: list[str]
) -> str:
    """The package's own module, whose imports are the plugin's hooks."""
    imports = "".join(f"from .{each} import {', '.join(hooks[each])}\n" for each in modules)
    return (
        f'"""A plugin for the registry: {name}."""\n\n'
        "from __future__ import annotations\n\n"
        f'{imports}\n__version__ = "0.1.0"\n\n'
        f"__all__ = [{_lines(sorted(implemented), 4, quote=chr(34))}]\n"
    )


def _lines(words: Iterable[str], indent: int, *, quote: str) -> str:
    """The items of a list, one a line."""
    inner = "".join(f"\n{' ' * indent}{quote}{word}{quote}," for word in words)
    return f"{inner}\n{' ' * (indent - 4)}"
