"""`plugins list` and `plugins info`: what an agent says of its plugins, to be read."""

from __future__ import annotations

from typing import Any

import pytest

from registry.cli.plugins import _describe, listing


def plugin(name: str, *hooks: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "Version": "",
        "Source": "entry point",
        "Hooks": [f"registry_{hook}" for hook in hooks],
        "Errors": [],
        "ErrorCount": 0,
        "Calls": 3,
        "TimeMs": 1.5,
        **more,
    }


HISTORY = (
    "settings", "start", "stop", "settings_changed", "change_sinks", "http_routes", "cli_commands",
)  # fmt: skip
PLUGINS = [
    plugin("builtin", "check_types"),
    plugin("history", *HISTORY, Version="0.1.0", ErrorCount=1234),
    plugin("broken"),
]


def test_hooks_are_wrapped_to_the_terminal() -> None:
    assert listing(PLUGINS, 80).splitlines() == [
        "Plugin   Version  Calls  Errors  Hooks",
        "builtin  -        3      0       check_types",
        "history  0.1.0    3      1234    settings, start, stop, settings_changed,",
        "                                 change_sinks, http_routes, cli_commands",
        "broken   -        3      0       -",
    ]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, listing(PLUGINS, width).splitlines())) <= width


def test_a_terminal_that_is_far_too_narrow() -> None:
    assert "settings_changed" in listing(PLUGINS, 10)


def described(capsys: pytest.CaptureFixture[str], **more: Any) -> list[str]:
    _describe(plugin("mine", **more))
    return capsys.readouterr().out.splitlines()[4:]


def test_settings_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"url": "http://x", "secret": "hidden", "spare": None}
    assert described(capsys, Configured=True, Settings=settings) == [
        'Setting  url = "http://x"',
        'Setting  secret = "hidden"',
        "Setting  spare = null",
    ]


def test_a_plugin_that_waits_for_its_settings_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert described(capsys, Configured=False, Settings=None) == [
        "Settings  none: it waits for plugins.settings.mine"
    ]


def test_an_agent_that_tells_nothing_of_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert described(capsys) == []
