"""`plugins new` writes a package, and refuses what cannot be one."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from registry.cli.new_plugin import PARTS
from registry.testing.command_line import Run


def test_a_package(cli: Run, tmp_path: Path) -> None:
    done = cli("plugins", "new", "room-check")
    assert (done.status, done.err) == (0, "")
    assert "registry-room-check is written" in done.out
    root = tmp_path / "registry-room-check"
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "conftest.py",
        "pyproject.toml",
        "registry_room_check/__init__.py",
        "registry_room_check/check.py",
        "registry_room_check/settings.py",
        "tests/test_check.py",
        "tests/test_settings.py",
    ]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["entry-points"] == {"registry": {"room-check": "registry_room_check"}}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone(cli: Run, tmp_path: Path, part: str) -> None:
    done = cli("plugins", "new", f"-with={part}", f"-dir={tmp_path / 'below'}", "registry-x")
    assert (done.status, done.err) == (0, "")
    root = tmp_path / "below" / "registry-x"
    package = ast.parse((root / "registry_x" / "__init__.py").read_text())
    imported = [
        name.name
        for each in ast.walk(package)
        if isinstance(each, ast.ImportFrom)
        if each.level
        for name in each.names
    ]
    life = ["registry_settings", "registry_start", "registry_stop"]
    assert sorted(imported) == sorted([PARTS[part].hook, *life])
    for path in root.rglob("*.*"):
        assert "$" not in path.read_text()


def test_an_existing_directory_is_left_alone(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "registry-x").mkdir()
    done = cli("plugins", "new", "x")
    assert (done.status, done.out) == (1, "")
    assert done.err == "Error! registry-x is already there; nothing was written\n"
    assert list((tmp_path / "registry-x").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "Missing NAME argument"),
        (("a", "b"), "Too many arguments (expected 1, got 2)"),
        (("Room",), "Error! 'Room' cannot be the name of a package: lower-case letters, digits"),
        (("../x",), "Error! '../x' cannot be the name of a package"),
        (("kv",), "Error! 'kv' is a name of the registry's own; choose another one"),
        (("-with=check,root", "x"), "Error! There is no part 'root'; known are check, route"),
    ],
    ids=["none", "two", "capital", "path", "taken", "part"],
)
def test_refusals(cli: Run, tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    done = cli("plugins", "new", *words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(reason)
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help(cli: Run) -> None:
    done = cli("plugins", "new", "-h")
    assert done.status == 0
    assert "registry plugins new [options] NAME" in done.out
    assert "check, route, command" in done.out
