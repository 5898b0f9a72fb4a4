"""Names in messages are quoted the way clients of the API have always read them."""

from __future__ import annotations

import pytest

from registry.state.quote import quote


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        pytest.param("app/a b", '"app/a b"', id="plain"),
        pytest.param('say "hi"\\', r'"say \"hi\"\\"', id="quotes and backslashes"),
        pytest.param("a\n\t\x01\x7f", r'"a\n\t\x01\x7f"', id="control characters"),
        pytest.param("été", '"été"', id="letters"),
        pytest.param(b"\xc3\xa9", '"é"', id="bytes"),
        pytest.param(b"a\xff", r'"a\xff"', id="no UTF-8"),
        pytest.param("\u200b", r'"\u200b"', id="unprintable"),
        pytest.param("\U000e0001", r'"\U000e0001"', id="unprintable, beyond 16 bits"),
    ],
)
def test_quote(text: str | bytes, quoted: str) -> None:
    assert quote(text) == quoted
