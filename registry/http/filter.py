"""`?filter=`: a small language of conditions on the fields of what is listed (surface 1.12).

    Service.Port == 80 and (Node.Meta.os == linux or "v1" in Service.Tags) and not Checks is empty

The grammar is `filter.lark`. A compiled expression is a plain function from an item, as builtins in
the API's spelling, to a boolean. Which fields there are, and of what kind, is a table per listing;
an operator that does not suit the field, or a value that is not of its kind, is refused when the
expression is compiled and not when the first item happens to have it.

A selector that passes through a list of objects holds when it holds for any of them. A key that a
map does not have makes `==` and `in` false and all else true, `matches` too: clients have always
seen it so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Union

import msgspec

from registry.errors import Rejected
from registry.http.api import HttpError
from registry.state.quote import quote
from registry.state.regexp import PatternError, compile_pattern

if TYPE_CHECKING:
    from lark import Lark, Tree

Predicate = Callable[[Mapping[str, Any]], bool]

#: An expression's length in characters, and how deep `not` and parentheses may nest.
LENGTH_MAX, DEPTH_MAX = 8192, 64

TOO_LARGE = "Bad request: the filter expression is too large"

_PREFIX = "Failed to create boolean expression evaluator: "


class Kind(Enum):
    """What a field holds, when that is no object."""

    TEXT = "text"
    NUMBER = "number"
    FLAG = "flag"
    TEXTS = "list of text"


TEXT, NUMBER, FLAG, TEXTS = Kind.TEXT, Kind.NUMBER, Kind.FLAG, Kind.TEXTS


class ListOf(msgspec.Struct, frozen=True):
    """A list of objects."""

    item: Mapping[str, Any]


class MapOf(msgspec.Struct, frozen=True):
    """A map from text to values of one kind."""

    item: Any


#: A field: a kind, an object's fields, a list or a map.
Field = Union[Kind, Mapping[str, Any], ListOf, MapOf]  # noqa: UP007 - evaluated at run time
Selectors = Mapping[str, Field]

TEXT_MAP = MapOf(TEXT)

_ADDRESS = {"Address": TEXT, "Port": NUMBER}
_WEIGHTS = {"Passing": NUMBER, "Warning": NUMBER}
_MESH_GATEWAY = {"Mode": TEXT}
_UPSTREAM = {
    "DestinationType": TEXT,
    "DestinationNamespace": TEXT,
    "DestinationName": TEXT,
    "Datacenter": TEXT,
    "LocalBindAddress": TEXT,
    "LocalBindPort": NUMBER,
    "MeshGateway": _MESH_GATEWAY,
}
_EXPOSED_PATH = {
    "ListenerPort": NUMBER,
    "Path": TEXT,
    "LocalPathPort": NUMBER,
    "Protocol": TEXT,
    "ParsedFromCheck": FLAG,
}
_PROXY = {
    "DestinationServiceName": TEXT,
    "DestinationServiceID": TEXT,
    "LocalServiceAddress": TEXT,
    "LocalServicePort": NUMBER,
    "Upstreams": ListOf(_UPSTREAM),
    "MeshGateway": _MESH_GATEWAY,
    "Expose": {"Checks": FLAG, "Paths": ListOf(_EXPOSED_PATH)},
}
_CONNECT = {"Native": FLAG}

NODE: Selectors = {
    "ID": TEXT,
    "Node": TEXT,
    "Address": TEXT,
    "Datacenter": TEXT,
    "TaggedAddresses": TEXT_MAP,
    "Meta": TEXT_MAP,
}
NODE_SERVICE: Selectors = {
    "Kind": TEXT,
    "ID": TEXT,
    "Service": TEXT,
    "Tags": TEXTS,
    "Address": TEXT,
    "TaggedAddresses": MapOf(_ADDRESS),
    "Meta": TEXT_MAP,
    "Port": NUMBER,
    "Weights": _WEIGHTS,
    "EnableTagOverride": FLAG,
    "Proxy": _PROXY,
    "Connect": _CONNECT,
}
SERVICE_NODE: Selectors = {
    "ID": TEXT,
    "Node": TEXT,
    "Address": TEXT,
    "Datacenter": TEXT,
    "TaggedAddresses": TEXT_MAP,
    "NodeMeta": TEXT_MAP,
    "ServiceKind": TEXT,
    "ServiceID": TEXT,
    "ServiceName": TEXT,
    "ServiceTags": TEXTS,
    "ServiceAddress": TEXT,
    "ServiceTaggedAddresses": MapOf(_ADDRESS),
    "ServiceWeights": _WEIGHTS,
    "ServiceMeta": TEXT_MAP,
    "ServicePort": NUMBER,
    "ServiceEnableTagOverride": FLAG,
    "ServiceProxy": _PROXY,
    "ServiceConnect": _CONNECT,
}
CHECK: Selectors = {
    "Node": TEXT,
    "CheckID": TEXT,
    "Name": TEXT,
    "Status": TEXT,
    "Notes": TEXT,
    "Output": TEXT,
    "ServiceID": TEXT,
    "ServiceName": TEXT,
    "ServiceTags": TEXTS,
    "Type": TEXT,
}
INSTANCE: Selectors = {"Node": NODE, "Service": NODE_SERVICE, "Checks": ListOf(CHECK)}
#: `/v1/agent/services` and `/v1/agent/checks`: the items of those maps.
AGENT_SERVICE: Selectors = NODE_SERVICE
AGENT_CHECK: Selectors = CHECK
#: The nodes of the web UI.
UI_NODE: Selectors = {
    **{name: NODE[name] for name in NODE if name != "Datacenter"},
    "Services": ListOf(NODE_SERVICE),
    "Checks": ListOf(CHECK),
}


class FilterError(Rejected):
    """Why an expression can not be used."""


class FilterTooLarge(FilterError):
    """The expression may make sense, but it is over one of our limits."""


def _too_deep() -> FilterTooLarge:
    return FilterTooLarge(f"nested deeper than {DEPTH_MAX}")


#: What opens and closes a level, and what only looks like it: quoted text.
_NESTING = re.compile(r'"[^"]*"|`[^`]*`|[()]')


def _check_size(expression: str) -> None:
    """Refuse what would keep the parser busy before it begins."""
    if len(expression) > LENGTH_MAX:
        raise FilterTooLarge(f"longer than {LENGTH_MAX} characters")
    depth = 0
    for found in _NESTING.finditer(expression):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if depth > DEPTH_MAX:
            raise _too_deep()


#: What may stand around an expression.
_SPACES = " \t\r\n"


@lru_cache(maxsize=256)
def _parsed(expression: str) -> Tree[Any]:
    _check_size(expression)
    from lark.exceptions import LarkError

    try:
        return _parser().parse(expression.strip(_SPACES))
    except LarkError as problem:
        raise FilterError(_syntax_error(problem)) from None


def _syntax_error(problem: Any) -> str:
    """Line, column and offset of what was not understood."""
    line, column = getattr(problem, "line", -1), getattr(problem, "column", -1)
    position = getattr(problem, "pos_in_stream", None)
    if position is None or line is None or line < 0:
        return "unexpected end of the expression"
    return f"{line}:{column} ({position}): no match found"


@cache
def _parser() -> Lark:
    """Made when the first filter arrives: most agents never see one."""
    from lark import Lark

    grammar = files("registry.http").joinpath("filter.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", maybe_placeholders=False)


def compile_filter(expression: str, selectors: Selectors) -> Predicate:
    """The expression as a function of an item; an empty one keeps everything.

    Raises `HttpError`: 500 with the text that clients of the API know, or 400 for an expression
    that is over our own limits, which no client has met before.
    """
    if not expression:
        return lambda item: True
    try:
        return _compile(_parsed(expression), selectors, DEPTH_MAX)
    except FilterTooLarge as problem:
        raise HttpError(400, f"{TOO_LARGE}: {problem}") from None
    except FilterError as problem:
        raise HttpError(500, f"{_PREFIX}{problem}") from None


def _compile(tree: Tree[Any], selectors: Selectors, depth: int) -> Predicate:
    if depth < 0:
        raise _too_deep()
    kind = str(tree.data)
    if kind in ("or_expression", "and_expression"):
        parts = [_compile(child, selectors, depth - 1) for child in tree.children]
        decide = any if kind == "or_expression" else all
        return lambda item: decide(part(item) for part in parts)
    if kind == "negation":
        inner = _compile(tree.children[0], selectors, depth - 1)
        return lambda item: not inner(item)
    return _compile_match(tree, selectors)


#: Operator token -> its name in refusals, its positive form, whether it is negated.
_OPERATORS = {
    "EQUAL": ("Equal", "equal", False),
    "NOT_EQUAL": ("Not Equal", "equal", True),
    "CONTAINS": ("Contains", "in", False),
    "NOT_CONTAINS": ("Not Contains", "in", True),
    "IN": ("In", "in", False),
    "NOT_IN": ("Not In", "in", True),
    "MATCHES": ("Matches", "matches", False),
    "NOT_MATCHES": ("Not Matches", "matches", True),
    "IS_EMPTY": ("Is Empty", "empty", False),
    "IS_NOT_EMPTY": ("Is Not Empty", "empty", True),
}


def _compile_match(tree: Tree[Any], selectors: Selectors) -> Predicate:
    value: Any
    operator: Any
    selector: Any
    if str(tree.data) == "membership":
        value, operator, selector = tree.children
    elif str(tree.data) == "emptiness":
        selector, operator, value = *tree.children, None
    else:
        selector, operator, value = tree.children
    name, form, negated = _OPERATORS[operator.type]
    path = _path(selector)
    field = _resolve(path, selectors)
    if form not in _forms(field):
        # "x contains v" is only another way to write "v in x".
        shown = name.replace("Contains", "In")
        raise FilterError(f'Invalid match operator "{shown}" for selector {_quoted(path)}')
    test = _test(form, field, _value(value), _quoted(path))
    holds = (lambda found: not test(found)) if negated else test
    missing = form == "matches" or (form == "empty") != negated
    reader = _reader(path, selectors)
    return lambda item: reader(item, holds, missing)


def _quoted(path: tuple[str, ...]) -> str:
    return quote(".".join(path))


def _path(selector: Tree[Any]) -> tuple[str, ...]:
    parts: list[str] = []
    for child in selector.children:
        if isinstance(child, str):
            parts.append(child.removeprefix("."))
        else:
            parts.append(_unquoted(child.children[0]))
    return tuple(parts)


def _unquoted(token: Any) -> str:
    """The text of a quoted or backquoted token."""
    if token.type == "RAW":
        return str(token[1:-1])
    return _unescaped(str(token[1:-1]))


_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", '"': '"',
}  # fmt: skip
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_OCTAL = re.compile(r"[0-3][0-7]{2}")

INVALID_TEXT = "invalid syntax"


def _unescaped(text: str) -> str:
    if "\n" in text:
        raise FilterError(INVALID_TEXT)
    if "\\" not in text:
        return text
    parts: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char != "\\":
            parts.append(char)
            at += 1
            continue
        letter = text[at + 1 : at + 2]  # nothing: the text ends at the first quotation mark
        digits = _HEX_ESCAPES.get(letter, 0)
        at += 2
        if octal := _OCTAL.match(text, at - 1):
            parts.append(chr(int(octal[0], 8)))
            at += 2
        elif digits:
            parts.append(_code_point(text[at : at + digits], digits))
            at += digits
        elif letter in _ESCAPES:
            parts.append(_ESCAPES[letter])
        else:
            raise FilterError(INVALID_TEXT)
    return "".join(parts)


def _code_point(text: str, digits: int) -> str:
    if len(text) == digits and all(char in "0123456789abcdefABCDEF" for char in text):
        number = int(text, 16)
        if number < 0x110000 and not 0xD800 <= number < 0xE000:
            return chr(number)
    raise FilterError(INVALID_TEXT)


def _value(tree: Tree[Any] | None) -> str:
    if tree is None:
        return ""
    if str(tree.data) == "bare":
        return ".".join(_path(tree.children[0]))
    token: Any = tree.children[0]
    return str(token) if token.type == "NUMBER" else _unquoted(token)


def _resolve(path: tuple[str, ...], selectors: Selectors) -> Field:
    """The field that a selector names. Raises `FilterError`."""
    field: Any = selectors
    for at, part in enumerate(path):
        if isinstance(field, ListOf):
            field = field.item
        if isinstance(field, MapOf):
            field = field.item
        elif isinstance(field, Mapping) and part in field:
            field = field[part]
        else:
            raise FilterError(f"Selector {_quoted(path[: at + 1])} is not valid")
    found: Field = field
    return found


def _forms(field: Field) -> tuple[str, ...]:
    """The operators, in positive form, that a field can be asked with."""
    if isinstance(field, Kind):
        return {
            TEXT: ("equal", "in", "matches"),
            NUMBER: ("equal",),
            FLAG: ("equal",),
            TEXTS: ("in", "empty"),
        }[field]
    if isinstance(field, MapOf):
        return ("in", "empty")
    return ("empty",) if isinstance(field, ListOf) else ()


def _test(form: str, field: Field, value: str, selector: str) -> Callable[[Any], bool]:
    """What a found value is put to. `selector` is quoted already."""
    if form == "empty":
        return lambda found: not found
    if form == "in":
        return lambda found: value in found
    if form == "matches":
        try:
            return compile_pattern(value).found_in
        except PatternError as problem:
            raise FilterError(
                f"Failed to compile regular expression {quote(value)}: "
                f"error parsing regexp: {problem}"
            ) from None
    wanted = _coerced(field, value, selector)
    return lambda found: bool(found == wanted)


def _coerced(field: Field, value: str, selector: str) -> str | int | bool:
    if field is TEXT:
        return value
    result = _flag(value) if field is FLAG else _number(value)
    if result is None:
        parser = "ParseBool" if field is FLAG else "ParseInt"
        raise FilterError(
            f"Failed to coerce value {quote(value)} for selector {selector}: "
            f"strconv.{parser}: parsing {quote(value)}: invalid syntax"
        )
    return result


def _flag(text: str) -> bool | None:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    return False if text in ("0", "f", "F", "false", "FALSE", "False") else None


def _number(text: str) -> int | None:
    """A whole number of 64 bits, in decimal or with 0x, 0o, 0b or a leading 0 (octal)."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if not digits.isascii() or not digits[:1].isdigit() or len(digits) > 64:
        return None
    octal = len(digits) > 1 and digits[0] == "0" and digits[1:].isdigit()
    try:
        number = sign * (int(digits, 8) if octal else int(digits, 0))
    except ValueError:
        return None
    return number if -(1 << 63) <= number < 1 << 63 else None


_Read = Callable[[Any, Callable[[Any], bool], bool], bool]

_EMPTY: dict[Kind, Any] = {TEXT: "", NUMBER: 0, FLAG: False, TEXTS: ()}


def _reader(path: tuple[str, ...], field: Any) -> _Read:
    """A function that puts what the path leads to, from an item, to a test."""
    if isinstance(field, ListOf) and path:
        inner = _reader(path, field.item)
        return lambda items, test, missing: any(inner(item, test, missing) for item in items or ())
    if not path:
        empty = _EMPTY[field] if isinstance(field, Kind) else {}
        return lambda found, test, missing: test(empty if found is None else found)
    part = path[0]
    if isinstance(field, MapOf):
        below = _reader(path[1:], field.item)
        return lambda found, test, missing: (
            below(found[part], test, missing) if part in (found or ()) else missing
        )
    # A field that an object does not show has the empty value of its kind.
    below = _reader(path[1:], field[part])
    return lambda found, test, missing: below((found or {}).get(part), test, missing)
