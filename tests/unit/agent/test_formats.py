"""JSON and HCL files: what they say, and where an error is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.agent.formats import line_of, load_hcl, load_json
from registry.errors import ConfigError

HERE = Path("f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{}", {}, id="empty object"),
        pytest.param('{"a": 1, "a": 2}', {"a": 2}, id="the later of two members"),
        pytest.param('{"a": "\\ud800"}', {"a": "\ufffd"}, id="half a surrogate pair"),
        pytest.param('{"a": "\\ud83d\\ude00"}', {"a": "😀"}, id="a whole surrogate pair"),
        pytest.param('{"a": [1.5, null, true]}', {"a": [1.5, None, True]}, id="values"),
    ],
)
def test_json(text: str, expected: dict[str, object]) -> None:
    assert load_json(HERE, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "f:1:1: invalid JSON: expecting value", id="empty"),
        pytest.param("{", "f:1:2: invalid JSON: expecting property name", id="cut off"),
        pytest.param('{\n "a":}', "f:2:6: invalid JSON: expecting value", id="second line"),
        pytest.param("[]", "f:1: invalid JSON: a configuration file holds one object", id="list"),
        pytest.param('{"a": NaN}', "f: invalid JSON: not a number of JSON: NaN", id="nan"),
        pytest.param('{"a": 1} x', "f:1:10: invalid JSON: extra data", id="trailing text"),
        pytest.param("[" * 100_000, "f: invalid JSON: nested too deeply", id="deep"),
    ],
)
def test_bad_json(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_json(HERE, text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('a = "b"', {"a": "b"}, id="attribute"),
        pytest.param('"a-b" = 1', {"a-b": 1}, id="quoted key"),
        pytest.param("a = 1 b = 2, c = 3", {"a": 1, "b": 2, "c": 3}, id="on one line"),
        pytest.param("a { b = 1 }", {"a": [{"b": 1}]}, id="block"),
        pytest.param("a = { b = 1, c = 2 }", {"a": [{"b": 1, "c": 2}]}, id="object"),
        pytest.param("a { b = 1 }\na { b = 2 }", {"a": [{"b": 1}, {"b": 2}]}, id="two blocks"),
        pytest.param('a "x" { b = 1 }', {"a": [{"x": {"b": 1}}]}, id="label"),
        pytest.param('a = ["x", "y",]', {"a": ["x", "y"]}, id="list"),
        pytest.param("a = [{ b = 1 }]", {"a": [{"b": 1}]}, id="list of objects"),
        pytest.param(
            "a = -1 b = 1.5 c = 1e3 d = 0x10 e = 010",
            {"a": -1, "b": 1.5, "c": 1e3, "d": 16, "e": 8},
            id="numbers",
        ),
        pytest.param("a = true b = false", {"a": True, "b": False}, id="booleans"),
        pytest.param("# x\n// y\n/* z\n */ a = 1", {"a": 1}, id="comments"),
        pytest.param('a = "x\\n\\"y\\u00e9"', {"a": 'x\n"yé'}, id="escapes"),
        pytest.param('a = "${b "c"}"', {"a": '${b "c"}'}, id="interpolation is left alone"),
        pytest.param("a = <<EOF\nx\n y\nEOF\nb = 1", {"a": "x\n y\n", "b": 1}, id="here-document"),
        pytest.param(
            "a = <<-EOF\n  x\n   y\n  EOF\n", {"a": "x\n y\n"}, id="indented here-document"
        ),
        pytest.param('{"a": {"b": 1}}', {"a": {"b": 1}}, id="JSON"),
        pytest.param("", {}, id="empty"),
    ],
)
def test_hcl(text: str, expected: dict[str, object]) -> None:
    assert load_hcl(HERE, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a = {\n b =", "f:2:5: invalid HCL: expected a value, found the end", id="cut off"
        ),
        pytest.param('a = "x', "f:1:5: invalid HCL: unexpected '\"'", id="open string"),
        pytest.param(
            "a b = 1", "f:1:5: invalid HCL: expected a block after a", id="labels need a block"
        ),
        pytest.param("a", "f:1:2: invalid HCL: expected = or a block after a", id="key alone"),
        pytest.param(
            "a = foo", "f:1:5: invalid HCL: expected a value, found 'foo'", id="bare word"
        ),
        pytest.param("a = [1 2]", "f:1:8: invalid HCL: expected , or ] in a list", id="no comma"),
        pytest.param("}", "f:1:1: invalid HCL: expected a key", id="closing first"),
        pytest.param("/* x", "f:1:1: invalid HCL: unexpected '/'", id="open comment"),
        pytest.param("a = {" * 100, "f:1:330: invalid HCL: nested too deeply", id="deep"),
        pytest.param(
            'a = "\\UFFFFFFFF"', "f:1:5: invalid HCL: an escape beyond", id="no character"
        ),
    ],
)
def test_bad_hcl(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_hcl(HERE, text)
    assert str(caught.value).startswith(message)


JSON_TEXT = """{
  "service": {
    "name": "web",
    "checks": [
      {"ttl": "10s"},
      {"header": {"X": ["a"]},
       "http": "x"}
    ]
  },
  "Ports": {"http": 1}
}"""

HCL_TEXT = """
services {
  name = "a"
}
services {
  name = "b"
  check { ttl = "1s" }
}
"""


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        pytest.param(JSON_TEXT, "service.name", 3, id="member"),
        pytest.param(JSON_TEXT, "service.checks[1].http", 7, id="in a list"),
        pytest.param(JSON_TEXT, "service.checks[1].header[X]", 6, id="map member gives its map"),
        pytest.param(JSON_TEXT, "ports.http", 10, id="letter case does not count"),
        pytest.param(JSON_TEXT, "service.checks[0].nothing", 5, id="unknown member: its object"),
        pytest.param(JSON_TEXT, "nothing", None, id="unknown key"),
        pytest.param(HCL_TEXT, "services[0].name", 3, id="first block"),
        pytest.param(HCL_TEXT, "services[1].name", 6, id="second block"),
        pytest.param(HCL_TEXT, "services[1].check.ttl", 7, id="block in a block"),
        pytest.param("{", "a", None, id="text that can not be read"),
        pytest.param(JSON_TEXT, "ports.a].b", 10, id="a key with a closing bracket"),
        pytest.param(JSON_TEXT, "ports.a[b].c]", 10, id="a key with both brackets"),
    ],
)
def test_line_of(text: str, path: str, line: int | None) -> None:
    assert line_of(text, path) == line


@given(st.text(alphabet="ports.a[]", max_size=12))
def test_a_line_is_looked_for_with_any_path(path: str) -> None:
    """Keys come from files, and may look like parts of a path."""
    assert line_of(JSON_TEXT, path) in (None, 10)


@given(st.text(alphabet='ab"{}[]=:,\n #/*<-E\\$1.', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for load in (load_json, load_hcl):
        try:
            assert isinstance(load(HERE, text), dict)
        except ConfigError as error:
            assert "\n" not in str(error), error  # noqa: PT017 - both outcomes are right
    assert (line_of(text, "a.b") or 1) <= text.count("\n") + 1
