"""References in values, and what is put in their place.

    ${db.host}              another name of the same configuration, after merging
    ${kv:team/smtp/host}    any key of the KV store
    ${db.port:-5432}        a text to take when it is not there
    $${                     a plain ${

What is put in is treated in the same way, values from elsewhere included. What cannot be resolved
makes the whole configuration fail: an application must not start with half a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from .layers import ConfigProblem, Value, normal_name

#: How long a chain of references may be. Configuration that a person can follow has two or three.
DEPTH_MAX = 32
#: Values that double their length at each reference would fill the memory.
VALUE_CHARACTERS_MAX = 1024 * 1024
ALL_CHARACTERS_MAX = 16 * 1024 * 1024

KV = "kv:"

_MARK = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")


def stored_paths(text: str) -> set[str]:
    """The keys of the KV store that a value refers to."""
    found = set()
    for match in _MARK.finditer(text):
        name = (match[1] or "").partition(":-")[0].strip()
        if name.startswith(KV) and match[2]:
            found.add(name.removeprefix(KV))
    return found


class _Done(NamedTuple):
    text: str
    depth: int


class Expansion:
    """Values with their references resolved.

    `stored` has what `stored_paths` of all values named, transitively; None for a key that is not
    there.
    """

    def __init__(
        self, values: Mapping[str, Value], stored: Mapping[str, str | None], separator: str
    ) -> None:
        self._values, self._stored, self._separator = values, stored, separator
        self._done: dict[str, _Done] = {}
        self._under_way: list[str] = []

    def all(self) -> dict[str, str]:
        """Every name of the configuration with its text. Raises `ConfigProblem`."""
        total, result = 0, {}
        for name in self._values:
            result[name] = self._resolve(name).text
            total += len(result[name])
            if total > ALL_CHARACTERS_MAX:
                raise ConfigProblem(f"the values are longer than {ALL_CHARACTERS_MAX} characters")
        return result

    def _resolve(self, reference: str) -> _Done:
        """The text of a name, or of a key when it begins with `kv:`, which is known to be there."""
        if (done := self._done.get(reference)) is not None:
            return done
        if reference in self._under_way:
            circle = [*self._under_way[self._under_way.index(reference) :], reference]
            raise ConfigProblem(f"references go in a circle: {' -> '.join(circle)}")
        self._under_way.append(reference)
        done = self._expand(reference, self._text_of(reference) or "")
        self._under_way.pop()
        self._done[reference] = done
        return done

    def _text_of(self, reference: str) -> str | None:
        if reference.startswith(KV):
            return self._stored[reference.removeprefix(KV)]
        value = self._values.get(reference)
        return None if value is None else value.text

    def _expand(self, reference: str, text: str) -> _Done:
        parts, depth, end, length = [], 0, 0, 0
        for match in _MARK.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match[1] is None:
                parts.append("${")
                continue
            if not match[2]:
                raise ConfigProblem(
                    f"{self._place(reference)}: a reference is not closed "
                    "(a plain ${ is written $${)"
                )
            put_in = self._put_in(reference, match[1])
            depth = max(depth, put_in.depth)
            length += len(put_in.text)
            parts.append(put_in.text)
            if depth >= DEPTH_MAX or len(self._under_way) > DEPTH_MAX:
                raise self._too_deep(reference)
            if length > VALUE_CHARACTERS_MAX:
                raise ConfigProblem(
                    f"{self._place(reference)}: longer than {VALUE_CHARACTERS_MAX} characters"
                )
        parts.append(text[end:])
        return _Done("".join(parts), depth + 1)

    def _put_in(self, reference: str, inside: str) -> _Done:
        name, has_default, default = inside.partition(":-")
        name = name.strip()
        if not name or name == KV:
            raise ConfigProblem(f"{self._place(reference)}: a reference names nothing")
        if not name.startswith(KV):
            name = normal_name(name, self._separator)
        if self._text_of(name) is not None:
            if len(self._under_way) >= DEPTH_MAX and name not in self._under_way:
                raise self._too_deep(reference)
            return self._resolve(name)
        if has_default:
            return _Done(default, 0)
        raise ConfigProblem(f"{self._place(reference)} refers to ${{{inside}}}, which is not there")

    def _too_deep(self, reference: str) -> ConfigProblem:
        return ConfigProblem(
            f"{self._place(reference)}: references are nested deeper than {DEPTH_MAX}"
        )

    def _place(self, reference: str) -> str:
        if reference.startswith(KV):
            return reference
        return f"{reference} ({self._values[reference].key})"
