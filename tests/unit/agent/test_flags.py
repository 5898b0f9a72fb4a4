"""The agent's flags: every published one is there and sets its key."""

from typing import Any

import pytest

from registry.agent.config_keys import decode
from registry.agent.flags import AGENT_FLAGS, agent_help, parse_agent_flags
from registry.errors import ConfigError
from registry.goflags import HelpWanted

OURS = {"plugin-dir", "storage-engine"}


def test_all_published_flags_and_ours() -> None:
    names = [entry.flag.name for entry in AGENT_FLAGS]
    assert len(set(names)) == len(names)
    assert len(set(names) - OURS) == 65


def example_of(convert: Any) -> str:
    """A value that the flag takes."""
    for text in ("true", "1", "1s", "a:b", "x"):
        try:
            convert(text)
        except ValueError:
            continue
        return text
    raise AssertionError(convert)


@pytest.mark.parametrize("entry", AGENT_FLAGS, ids=lambda entry: entry.flag.name)
def test_a_flag_sets_a_known_key_of_its_type(entry: Any) -> None:
    value = example_of(entry.flag.convert)
    flags = parse_agent_flags([f"-{entry.flag.name}={value}"])
    assert bool(flags.values) == bool(entry.key)
    decoded = decode(flags.values)  # raises when the key or its type is wrong
    assert bool(decoded.values or decoded.ignored) == bool(entry.key)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        pytest.param(["-server"], {"server": True}, id="switch"),
        pytest.param(["--server=false"], {"server": False}, id="switch off"),
        pytest.param(["-http-port", "80"], {"ports": {"http": 80}}, id="nested key"),
        pytest.param(["-retry-join=a", "-retry-join=b"], {"retry_join": ["a", "b"]}, id="list"),
        pytest.param(
            ["-node-meta", "a:b:c", "-node-meta", "d:"],
            {"node_meta": {"a": "b:c", "d": ""}},
            id="map",
        ),
        pytest.param(["-retry-interval=5s"], {"retry_interval": "5s"}, id="duration"),
        pytest.param([], {}, id="none"),
    ],
)
def test_values(arguments: list[str], values: dict[str, Any]) -> None:
    assert parse_agent_flags(arguments).values == values


def test_files_and_directories_keep_their_order() -> None:
    flags = parse_agent_flags(["-config-dir=b", "-config-file=a", "-config-dir", "c", "-dev"])
    assert flags.paths == ("b", "a", "c")
    assert flags.dev


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["-foo"], "flag provided but not defined: -foo", id="unknown"),
        pytest.param(["foo"], "unexpected arguments: foo", id="argument"),
        pytest.param(
            ["-http-port=x"], 'invalid value "x" for flag -http-port: parse error', id="number"
        ),
        pytest.param(
            ["-retry-interval=5"],
            'invalid value "5" for flag -retry-interval: time: missing unit in duration "5"',
            id="duration",
        ),
        pytest.param(
            ["-node-meta=x"], 'invalid value "x" for flag -node-meta: must be key:value', id="map"
        ),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_agent_flags(arguments)
    assert str(caught.value) == message


def test_help() -> None:
    with pytest.raises(HelpWanted):
        parse_agent_flags(["-help"])
    text = agent_help()
    assert all(f"  -{entry.flag.name}" in text for entry in AGENT_FLAGS)
    assert all(len(line) <= 100 for line in text.splitlines())
