"""Query filters: whom a query concerns."""

from __future__ import annotations

import pytest

from registry.membership.filters import NodeFilter, TagFilter, concerns, encode_filter
from registry.state.regexp import compile_pattern

TAGS = {"role": "web", "rack": "r1"}


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        pytest.param([], True, id="none"),
        pytest.param([NodeFilter(("alpha", "beta"))], True, id="name in the list"),
        pytest.param([NodeFilter(("alpha",))], False, id="name not in the list"),
        pytest.param([NodeFilter(())], False, id="nobody"),
        pytest.param([TagFilter("role", "we.*")], True, id="tag matches"),
        pytest.param([TagFilter("role", "e")], True, id="unanchored"),
        pytest.param([TagFilter("role", "^e")], False, id="tag does not match"),
        pytest.param([TagFilter("zone", "^$")], True, id="absent tag is empty"),
        pytest.param([TagFilter("role", "web"), TagFilter("rack", "r2")], False, id="all must"),
        pytest.param([TagFilter("role", "(")], False, id="no expression"),
        pytest.param([TagFilter("role", "(?=web)")], False, id="not in RE2"),
    ],
)
def test_filters(filters: list[NodeFilter | TagFilter], matches: bool) -> None:
    encoded = [encode_filter(filter_) for filter_ in filters]
    assert concerns(encoded, "beta", TAGS, compile_pattern) is matches


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x02\x80", b"\x00\x01", b"\x01\xa1x"])
def test_what_cannot_be_read_does_not_match(data: bytes) -> None:
    assert not concerns([data], "beta", TAGS, compile_pattern)
