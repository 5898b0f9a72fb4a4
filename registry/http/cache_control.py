"""The directives of a request's `Cache-Control` that a cached read heeds."""

from __future__ import annotations

import re

import msgspec

from registry.http.api import HttpError

INVALID_CACHE_CONTROL = "Invalid Cache-Control header."


class CacheControl(msgspec.Struct, frozen=True):
    """The directives of `Cache-Control` that a cached read heeds. Times in seconds."""

    max_age_s: int | None = None
    must_revalidate: bool = False
    stale_if_error_s: int = 0

    def allows(self, age_s: float) -> bool:
        """Whether an answer that is so old may be given."""
        too_old = self.max_age_s is not None and 0 < self.max_age_s < age_s
        return not (self.must_revalidate or too_old)

    @staticmethod
    def read(header: str) -> CacheControl:
        """Raises `HttpError` 400 on a number that is none."""
        max_age, revalidate, stale_if_error = None, False, 0
        for directive in header.lower().split(",") if header else ():
            name, _, value = directive.strip().partition("=")
            if name == "must-revalidate":
                revalidate = True
            elif name == "max-age":
                max_age = _seconds(value)
                revalidate = revalidate or max_age == 0
            elif name == "stale-if-error":
                stale_if_error = _seconds(value)
        return CacheControl(max_age, revalidate, stale_if_error)


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise HttpError(400, INVALID_CACHE_CONTROL)
    return int(text)
