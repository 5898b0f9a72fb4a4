"""Go-style flags: spellings, switches, repeats, errors, help."""

import pytest

from registry.errors import ConfigError
from registry.goflags import (
    Flag,
    FlagError,
    HelpWanted,
    boolean,
    flag_help,
    help_text,
    integer,
    pair,
    parse_flags,
    unsigned,
)

FLAGS = [
    Flag("name", "A name."),
    Flag("ui", "Show it.", boolean, False),
    Flag("count", "How many.", integer, 1, metavar="int"),
    Flag("size", "How large.", unsigned, 0),
    Flag("join", "Whom to join.", repeat=True),
    Flag("meta", "What else.", pair, repeat=True),
]


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        pytest.param([], {"name": None, "ui": False, "count": 1, "join": []}, id="defaults"),
        pytest.param(["-name=x"], {"name": "x"}, id="dash equals"),
        pytest.param(["--name=x"], {"name": "x"}, id="two dashes equals"),
        pytest.param(["-name", "x"], {"name": "x"}, id="dash space"),
        pytest.param(["--name", "x"], {"name": "x"}, id="two dashes space"),
        pytest.param(["-name="], {"name": ""}, id="empty value"),
        pytest.param(["-name=a=b"], {"name": "a=b"}, id="equals in the value"),
        pytest.param(["-name", "-ui"], {"name": "-ui", "ui": False}, id="value like a flag"),
        pytest.param(["-name", "a", "-name", "b"], {"name": "b"}, id="last wins"),
        pytest.param(["-ui"], {"ui": True}, id="switch"),
        pytest.param(["-ui=true"], {"ui": True}, id="switch true"),
        pytest.param(["-ui=0"], {"ui": False}, id="switch off"),
        pytest.param(["-count=0x10"], {"count": 16}, id="hex"),
        pytest.param(["-count=010"], {"count": 8}, id="octal"),
        pytest.param(["-count", "-1"], {"count": -1}, id="negative"),
        pytest.param([f"-count={2**63 - 1}"], {"count": 2**63 - 1}, id="largest signed"),
        pytest.param([f"-count={-(2**63)}"], {"count": -(2**63)}, id="least signed"),
        pytest.param([f"-size={2**64 - 1}"], {"size": 2**64 - 1}, id="largest unsigned"),
        pytest.param(["-join=a", "--join", "b"], {"join": ["a", "b"]}, id="repeatable"),
        pytest.param(["-meta=k=v=w", "-meta", "="], {"meta": [("k", "v=w"), ("", "")]}, id="pairs"),
    ],
)
def test_values(arguments: list[str], values: dict[str, object]) -> None:
    parsed = parse_flags(FLAGS, arguments)
    assert {name: parsed[name] for name in values} == values
    assert parsed.arguments == []


@pytest.mark.parametrize(
    ("arguments", "rest"),
    [
        pytest.param(["-ui", "a", "-name=x"], ["a", "-name=x"], id="ends at the first argument"),
        pytest.param(["-ui", "--", "-name=x"], ["-name=x"], id="two dashes end it"),
        pytest.param(["-"], ["-"], id="a dash is an argument"),
        pytest.param(["-ui", "false"], ["false"], id="a switch takes no next word"),
    ],
)
def test_the_rest_is_left(arguments: list[str], rest: list[str]) -> None:
    parsed = parse_flags(FLAGS, arguments)
    assert parsed.arguments == rest
    assert "name" not in parsed.given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["-x"], "flag provided but not defined: -x", id="unknown"),
        pytest.param(["--x=1"], "flag provided but not defined: -x", id="unknown with a value"),
        pytest.param(["-name"], "flag needs an argument: -name", id="no value"),
        pytest.param(["---name=x"], "bad flag syntax: ---name=x", id="three dashes"),
        pytest.param(["-=x"], "bad flag syntax: -=x", id="no name"),
        pytest.param(
            ["-ui=maybe"], 'invalid boolean value "maybe" for -ui: parse error', id="bad switch"
        ),
        pytest.param(
            ["-count=x"], 'invalid value "x" for flag -count: parse error', id="bad number"
        ),
        pytest.param(
            ["-count=99999999999999999999"],
            'invalid value "99999999999999999999" for flag -count: value out of range',
            id="number too large",
        ),
        pytest.param(
            ["-size=-1"], 'invalid value "-1" for flag -size: parse error', id="negative size"
        ),
        pytest.param(
            ["-size=+1"], 'invalid value "+1" for flag -size: parse error', id="signed size"
        ),
        pytest.param(
            ["-size= 1"], 'invalid value " 1" for flag -size: parse error', id="blank in a number"
        ),
        pytest.param(
            ["-size=18446744073709551616"],
            'invalid value "18446744073709551616" for flag -size: value out of range',
            id="size too large",
        ),
        pytest.param(
            ["-count=9223372036854775808"],
            'invalid value "9223372036854775808" for flag -count: value out of range',
            id="number just too large",
        ),
        pytest.param(
            ["-meta=k"],
            'invalid value "k" for flag -meta: Missing "=" value in argument: k',
            id="no pair",
        ),
    ],
)
def test_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse_flags(FLAGS, arguments)
    assert str(caught.value) == message
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("word", ["-h", "-help", "--help"])
def test_help_is_wanted(word: str) -> None:
    with pytest.raises(HelpWanted):
        parse_flags(FLAGS, ["-ui", word])


def test_help_comes_from_the_table() -> None:
    assert flag_help(FLAGS[1:3]) == "  -count=<int>\n     How many.\n\n  -ui\n     Show it."
    whole = help_text("thing [options]", [("Options", FLAGS)], about="Does a thing.")
    assert whole.startswith(
        "Usage: thing [options]\n\n  Does a thing.\n\nOptions\n\n  -count=<int>"
    )
