"""Shell completion: what is offered, and how it comes into a shell's start file."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.testing.command_line import Run


@pytest.mark.parametrize(
    ("line", "point", "offered"),
    [
        pytest.param("registry k", "", ["keygen", "keyring", "kv"], id="first-word"),
        pytest.param("registry kv ", "", ["delete", "export", "get", "import", "put"], id="group"),
        pytest.param("registry kv ge", "", ["get"], id="in-group"),
        pytest.param("registry operator raft ", "", ["list-peers", "remove-peer"], id="inner"),
        pytest.param("registry operator ", "", ["autopilot", "raft"], id="group-of-groups"),
        pytest.param("registry kv get -ke", "", ["-keys"], id="flag"),
        pytest.param("registry kv get -keys -sep", "", ["-separator"], id="second-flag"),
        pytest.param("registry kv get ", "", [], id="an-argument-is-anything"),
        pytest.param("registry kv get 'a b", "", [], id="open-quote"),
        pytest.param("registry nope ", "", [], id="unknown"),
        pytest.param("registry kv get", "10", ["keygen", "keyring", "kv"], id="cursor-in-between"),
    ],
)
def test_candidates(
    cli: Run, monkeypatch: pytest.MonkeyPatch, line: str, point: str, offered: list[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    if point:
        monkeypatch.setenv("COMP_POINT", point)
    done = cli()
    assert (done.status, done.out.split(), done.err) == (0, offered, "")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_install_and_uninstall(cli: Run, home: Path) -> None:
    bash, zsh = home / ".bashrc", home / ".zshrc"
    bash.write_bytes(b"alias l=ls\n# caf\xe9\n")
    zsh.write_bytes(b"")
    installed = cli("-autocomplete-install")
    assert (installed.status, installed.err) == (0, "")
    assert installed.out.count("Installed into") == 2
    first, second, line = bash.read_bytes().splitlines()
    assert (first, second) == (b"alias l=ls", b"# caf\xe9")
    assert line.startswith(b"complete -C ")
    assert line.endswith(b"registry registry")
    assert b"bashcompinit" in zsh.read_bytes()

    again = cli("-autocomplete-install")
    assert (again.status, again.out) == (0, "")
    assert "already installed" in again.err
    assert bash.read_bytes().count(b"complete") == 1

    removed = cli("-autocomplete-uninstall")
    assert (removed.status, removed.out.count("Removed from")) == (0, 2)
    assert bash.read_bytes() == b"alias l=ls\n# caf\xe9\n"
    assert zsh.read_bytes() == b""
    assert cli("-autocomplete-uninstall").out == ""


def test_a_line_of_another_place_is_replaced(cli: Run, home: Path) -> None:
    bash = home / ".bashrc"
    bash.write_text("complete -C /old/registry registry\nalias l=ls\n")
    assert cli("-autocomplete-install").status == 0
    lines = bash.read_text().splitlines()
    assert (len(lines), lines[0]) == (2, "alias l=ls")
    assert "/old/" not in lines[1]


def test_a_home_without_shells(cli: Run, home: Path) -> None:
    done = cli("-autocomplete-install")
    assert (done.status, done.out) == (0, "")
    assert list(home.iterdir()) == []
