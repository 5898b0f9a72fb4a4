"""Regular expressions that take linear time, whoever wrote them: RE2, behind a cache.

Patterns come with requests, so a backtracking engine would let one request occupy the server for
as long as it likes. RE2 reads each character once, and its syntax is what the API documents.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

#: A longer pattern is refused before it is compiled.
LENGTH_MAX = 4096

#: Bytes that one compiled pattern and its cached states may take.
MEMORY_MAX = 1 << 20


class PatternError(ValueError):
    """The text is no pattern that is supported."""


def _options() -> Any:
    options = re2.Options()
    options.max_mem = MEMORY_MAX
    options.log_errors = False  # the caller reports what is wrong
    return options


class Pattern:
    """A compiled pattern. Raises `PatternError` for what is none."""

    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_MAX:
            raise PatternError("expression is too long")
        try:
            self._compiled = re2.compile(text, _options())
        except (re2.error, UnicodeEncodeError) as problem:
            raise PatternError(_reason(problem)) from problem

    def found_in(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text."""
        return self._compiled.search(_encodable(text)) is not None

    def groups_in(self, text: str) -> list[str] | None:
        """The first match and its groups, "" for those that took no part; None without a match."""
        match = self._compiled.search(_encodable(text))
        return None if match is None else [match.group(), *(part or "" for part in match.groups())]


def _encodable(text: str) -> str:
    """Text whose undecodable bytes are shown as such: RE2 reads UTF-8 only."""
    return text.encode("utf-8", "replace").decode()


def _reason(problem: Exception) -> str:
    """RE2's words, `what: where`, spelt as the API's users know them."""
    first = problem.args[0] if problem.args else problem
    text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
    what, colon, where = text.partition(": ")
    what = {"missing )": "missing closing )", "missing ]": "missing closing ]"}.get(what, what)
    return f"{what}: `{where}`" if colon else what


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The compiled pattern; the last few hundred are kept. Raises `PatternError`."""
    return Pattern(text)
