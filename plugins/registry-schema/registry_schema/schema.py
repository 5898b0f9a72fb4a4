"""One schema, and what it says of a value."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import jsonschema_rs
import msgspec

#: Errors that a refusal names; the first ones tell the most.
ERRORS_MAX = 5

#: In messages in the place of values, which may be secrets.
_MASK = "the value"

#: With this as its `contentMediaType` a schema is about the text of a value, not about JSON in it.
TEXT = "text/plain"


class NoSchema(ValueError):
    """What was given is no JSON Schema; the text says why, in one line."""


class Schema:
    """A JSON Schema, compiled. Draft 2020-12 unless `$schema` names another.

    Nothing is fetched for a `$ref`, and `pattern` has no lookaround and no backreferences, since
    only without these a value cannot make it run for long: a server's other work would wait.
    """

    def __init__(self, document: object) -> None:
        if not isinstance(document, Mapping | bool):
            raise NoSchema("a schema is an object, true or false")
        plain: Any = document if isinstance(document, bool) else dict(document)
        self._takes_all = plain is True
        self.is_text = isinstance(plain, dict) and plain.get("contentMediaType") == TEXT
        try:
            self._validator = jsonschema_rs.validator_for(
                plain,
                mask=_MASK,
                offline=True,
                validate_formats=True,
                pattern_options=jsonschema_rs.RegexOptions(),
            )
        except jsonschema_rs.ValidationError as problem:
            place = _pointer(problem.instance_path)
            raise NoSchema(f"{place}: {problem.message}" if place else problem.message) from problem
        except (ValueError, jsonschema_rs.ReferencingError) as problem:
            raise NoSchema(_line(problem)) from problem

    def problems(self, value: bytes) -> list[str]:
        """What breaks the schema, each with its path (a JSON pointer, "" is the whole value);
        empty when nothing does. The schema `true` takes what is no JSON, too."""
        if self._takes_all:
            return []
        try:
            instance: object = value.decode() if self.is_text else msgspec.json.decode(value)
        except RecursionError:
            return ["it is nested too deeply"]
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            what = "text in UTF-8" if self.is_text else "JSON"
            return [f"it is not {what}: {_line(problem)}"]
        found = self._validator.iter_errors(instance)
        shown = [_told(error) for error in islice(found, ERRORS_MAX)]
        more = sum(1 for _ in found)
        return [*shown, f"and {more} more"] if more else shown


def _told(error: Any) -> str:
    place = _pointer(error.instance_path)
    return f"at {place}: {error.message}" if place else str(error.message)


def _pointer(path: list[str | int]) -> str:
    words = (str(word).replace("~", "~0").replace("/", "~1") for word in path)
    return "".join(f"/{word}" for word in words)


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())
