"""The two formats of configuration files: JSON, and HCL in its first version.

Both readers give one mapping, spelt like the JSON form. An HCL block gives a list of mappings, one
for each time its name appears, and the decoder takes a list of one where it wants a mapping; so
`services { ... }` may be written once or often.

HCL is read here, because the published Python readers speak version 2 of the language: they refuse
what existing files are full of (quoted keys, several attributes on a line, commas between them) and
give expressions where a value is wanted. The same small reader finds the line of a key in either
format, which `json` cannot tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from registry.errors import ConfigError

#: Deeper nesting than any key has; a bound well inside the interpreter's own.
DEPTH_MAX = 64


def load_json(path: Path, text: str) -> Mapping[str, Any]:
    """Read JSON; of two members with one name the later counts, as in Go.

    Raises `ConfigError` that names file, line and column.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError(f"invalid JSON: {_lowered(error.msg)}", file=where) from None
    except RecursionError:
        raise ConfigError("invalid JSON: nested too deeply", file=str(path)) from None
    except ValueError as error:
        raise ConfigError(f"invalid JSON: {_lowered(str(error))}", file=str(path)) from None
    if not isinstance(value, dict):
        raise ConfigError(
            "invalid JSON: a configuration file holds one object, {...}", file=f"{path}:1"
        )
    replaced = _without_surrogates(value)
    assert isinstance(replaced, dict)
    return replaced


def load_hcl(path: Path, text: str) -> Mapping[str, Any]:
    """Read HCL 1; text that starts with `{` is taken as JSON, which the language includes.

    Raises `ConfigError` that names file, line and column.
    """
    if text.lstrip().startswith("{"):
        return load_json(path, text)
    try:
        return _Reader(text).read()
    except _HclError as error:
        where = f"{path}:{error.line}:{error.column}"
        raise ConfigError(f"invalid HCL: {error.reason}", file=where) from None


def line_of(text: str, path: str) -> int | None:
    """The line on which the key `path` ("service.port", "services[1].checks[0].http") stands.

    `text` is a file that one of the readers has accepted; None when the key is not found in it.
    """
    try:
        reader = _Reader(text)
        reader.read()
    except _HclError:
        return None
    wanted = path.casefold()
    while wanted:
        # A block that appears once has no number in the text, but one in the path.
        for spelling in (wanted, wanted.replace("[0]", "")):
            if spelling in reader.lines:
                return reader.lines[spelling]
        # Up to the last separator, whatever a key may hold of them: always shorter.
        wanted = wanted[: max(wanted.rfind("."), wanted.rfind("["), 0)]
    return None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not a number of JSON: {name}")


def _integer(digits: str) -> int | float:
    # Longer ones fit no key, and Python would refuse to convert very long ones.
    return int(digits) if len(digits) <= 40 else float(digits)


def _lowered(message: str) -> str:
    """`message` as the end of a sentence: its first letter small, unless it is a code or name."""
    return message[:1].lower() + message[1:] if message[1:2].islower() else message


def _without_surrogates(value: Any) -> Any:
    """`value` with U+FFFD for half surrogate pairs, which JSON can escape but UTF-8 cannot hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


class _HclError(Exception):
    def __init__(self, reason: str, line: int, column: int) -> None:
        self.reason, self.line, self.column = reason, line, column
        super().__init__(reason)


class _Token(NamedTuple):
    kind: str  # "word", "string", "number", "{", "}", "[", "]", "=", ":", ",", "end"
    text: str
    line: int
    column: int


_TOKENS = re.compile(
    r"""
      (?P<skip>   [ \t\r\n]+ | \#[^\n]* | //[^\n]* | /\*.*?\*/ )
    | (?P<heredoc> <<(?P<dash>-?)(?P<tag>[^\W\d]\w*)[ \t\r]*\n
                   (?P<content>.*?)^[ \t]*(?P=tag)(?=[\s,\]}]|\Z) )
    | (?P<string> "(?: \$\{[^}\n]*\} | \\. | [^"\\\n] )*+" )
    | (?P<number> -?(?: 0[xX][0-9a-fA-F]+ | (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)? )
                  (?![\w.]) )
    | (?P<word>   [^\W\d][\w.\-]* )
    | (?P<mark>   [{}\[\]=:,] )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)

_ESCAPES = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-7]{3})|(.))")
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_WORDS = {"true": True, "false": False, "null": None}


class _Reader:
    """Recursive descent over HCL 1, and over JSON, whose members it takes for attributes.

        body  = { key+ [ "=" | ":" ] value [","] }
        value = string | number | true | false | "{" body "}" | "[" [ value { "," value } ] "]"

    `lines` maps the path of each key and element to its line.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self._text = text
        self._line, self._line_start, self._offset = 1, 0, 0
        self._ahead = self._scan()

    def read(self) -> dict[str, Any]:
        if self._ahead.kind == "{":  # JSON
            value = self._value("", 0)
            body: dict[str, Any] = value[0] if isinstance(value, list) else value
        else:
            body = self._body("end", "", 0)
        self._expect("end")
        return body

    def _body(self, closing: str, path: str, depth: int) -> dict[str, Any]:
        body: dict[str, Any] = {}
        while self._ahead.kind != closing:
            first = self._ahead
            if first.kind not in ("word", "string"):
                self._fail(f"expected a key, found {_shown(first)}", first)
            key, *labels = self._keys()
            blocks = body.get(key)
            member = f"{path}.{key}" if path else key
            self.lines.setdefault(member.casefold(), first.line)
            if isinstance(blocks, list) and blocks:
                member += f"[{len(blocks)}]"
                self.lines[member.casefold()] = first.line
            member = ".".join((member, *labels))
            if self._ahead.kind in ("=", ":") and not labels:
                self._next()
            elif self._ahead.kind != "{":
                self._fail(f"expected {'a block' if labels else '= or a block'} after {key}")
            value = self._value(member, depth)
            for label in reversed(labels):
                value = {label: value}
            # What is written as an object may be repeated, whether it was written with = or not.
            if isinstance(value, dict):
                value = [value]
                if isinstance(blocks, list):
                    value = [*blocks, *value]
            body[key] = value
            if self._ahead.kind == ",":
                self._next()
        return body

    def _keys(self) -> list[str]:
        keys = []
        while self._ahead.kind in ("word", "string"):
            token = self._next()
            keys.append(self._unquoted(token) if token.kind == "string" else token.text)
        return keys

    def _value(self, path: str, depth: int) -> Any:
        token = self._next()
        if depth > DEPTH_MAX:
            self._fail("nested too deeply", token)
        if token.kind == "{":
            body = self._body("}", path, depth + 1)
            self._expect("}")
            return body
        if token.kind == "[":
            return self._list(path, depth + 1)
        if token.kind == "string":
            return self._unquoted(token)
        if token.kind == "heredoc":
            return token.text
        if token.kind == "number":
            return _number(token.text)
        if token.kind == "word" and token.text in _WORDS:
            return _WORDS[token.text]
        self._fail(f"expected a value, found {_shown(token)}", token)

    def _list(self, path: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while self._ahead.kind != "]":
            member = f"{path}[{len(items)}]"
            self.lines[member.casefold()] = self._ahead.line
            items.append(self._value(member, depth))
            if self._ahead.kind == ",":
                self._next()
            elif self._ahead.kind != "]":
                self._fail(f"expected , or ] in a list, found {_shown(self._ahead)}")
        self._expect("]")
        return items

    def _unquoted(self, token: _Token) -> str:
        def replace(match: re.Match[str]) -> str:
            code = match.group(1) or match.group(2) or match.group(3)
            if code or match.group(4):
                number = int(code, 16) if code else int(match.group(4), 8)
                if number > 0x10FFFF:
                    self._fail("an escape beyond the last character", token)
                return chr(number)
            return _SIMPLE_ESCAPES.get(match.group(5), match.group(5))

        plain = _ESCAPES.sub(replace, token.text[1:-1])
        replaced = _without_surrogates(plain)
        assert isinstance(replaced, str)
        return replaced

    def _expect(self, kind: str) -> None:
        token = self._next()
        if token.kind != kind:
            self._fail(f"expected {kind}, found {_shown(token)}", token)

    def _next(self) -> _Token:
        token = self._ahead
        if token.kind != "end":
            self._ahead = self._scan()
        return token

    def _scan(self) -> _Token:
        """The next token from the text; comments and white space are nothing."""
        while self._offset < len(self._text):
            line, column = self._line, self._offset - self._line_start + 1
            match = _TOKENS.match(self._text, self._offset)
            if match is None:
                raise _HclError(
                    f"unexpected {self._text[self._offset : self._offset + 1]!r}", line, column
                )
            found = match.group()
            self._offset = match.end()
            if newlines := found.count("\n"):
                self._line += newlines
                self._line_start = match.start() + found.rindex("\n") + 1
            if match.group("skip") is not None:
                continue
            if match.group("heredoc") is not None:
                content = match.group("content")
                return _Token("heredoc", _dedent(content, match.group("dash")), line, column)
            if match.group("mark") is not None:
                return _Token(found, found, line, column)
            kind = match.lastgroup
            assert kind is not None
            return _Token(kind, found, line, column)
        return _Token("end", "", self._line, self._offset - self._line_start + 1)

    def _fail(self, reason: str, token: _Token | None = None) -> NoReturn:
        token = token or self._ahead
        raise _HclError(reason, token.line, token.column)


def _dedent(content: str, dash: str) -> str:
    """A here-document's text; `<<-` takes away the white space that all its lines begin with."""
    if not dash:
        return content
    lines = content.splitlines(keepends=True)
    indents = [len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()]
    margin = min(indents, default=0)
    return "".join(line[margin:] for line in lines)


def _number(text: str) -> int | float:
    digits = text.lstrip("-")
    if digits[:2].lower() == "0x":
        return int(text, 16)
    if re.fullmatch(r"[0-9]+", digits) is None:
        return float(text)
    octal = len(digits) > 1 and digits.startswith("0") and re.fullmatch(r"[0-7]+", digits)
    return int(text, 8) if octal and len(digits) <= 40 else _integer(text)


def _shown(token: _Token) -> str:
    return "the end of the file" if token.kind == "end" else repr(token.text)


#: The readers by file name suffix.
FORMATS: dict[str, Callable[[Path, str], Mapping[str, Any]]] = {
    ".json": load_json,
    ".hcl": load_hcl,
}
