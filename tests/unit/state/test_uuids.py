"""What is wrong with an id, in the words that clients know."""

import pytest

from registry.state.uuids import loose_flaw, strict_flaw

PLAIN = "11111111-2222-3333-4444-555555555555"
SHORT = "uuid string is wrong length"
ILL_FORMATTED = "uuid is improperly formatted"


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (PLAIN, ""),
        ("ABCDEFAB-2222-3333-4444-55555555555f", ""),
        ("abc", SHORT),
        ("é" * 18, ILL_FORMATTED),
        ("1" * 36, ILL_FORMATTED),
        ("1111-11112222-3333-4444-555555555555", ILL_FORMATTED),
        (f"{PLAIN[:-1]}g", "encoding/hex: invalid byte: U+0067 'g'"),
        (f"{PLAIN[:-1]}_", "encoding/hex: invalid byte: U+005F '_'"),
    ],
)
def test_ids_of_nodes(text: str, flaw: str) -> None:
    assert strict_flaw(text) == flaw


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (PLAIN, ""),
        ("1" * 36, ""),
        ("", "UUID must be 36 characters"),
        (f"{PLAIN[:7]}--{PLAIN[9:]}", 'UUID should have maximum of 4 "-"; got 5'),
        (f"{'1' * 35}-", "UUID (without hyphens) must be even length"),
        (f"{PLAIN[:-1]}'", "Invalid UUID: encoding/hex: invalid byte: U+0027 '''"),
        (f"{PLAIN[:-2]}é", "Invalid UUID: encoding/hex: invalid byte: U+00C3 'Ã'"),
        (f"{PLAIN[:-1]}\x7f", "Invalid UUID: encoding/hex: invalid byte: U+007F"),
    ],
)
def test_ids_of_sessions(text: str, flaw: str) -> None:
    assert loose_flaw(text) == flaw
