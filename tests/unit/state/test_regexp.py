"""Regular expressions: the same answers as a backtracking engine, in linear time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.state.regexp import LENGTH_MAX, Pattern, PatternError, compile_pattern

TEXTS = ["", "abcbcd", "x-web-main", "aaab", "xxy", "hello HELLO", "foo bar", "a\nb\nc", "aab"]


@pytest.mark.parametrize(
    "pattern",
    [
        "a(b|c)*d",
        "^x-(.*)-([^-]+)$",
        "(a+)+b",
        "(ab|a)(c|bcd)",
        "x{2,3}y",
        "x{2}",
        "a{1,}",
        "a{,2}",
        "[a-c]+?b",
        r"\bfoo\b",
        r"o\B",
        "(?i)HeL+o",
        "(?i:H)ello",
        "a??b",
        "(?:a|b)*c",
        "^$",
        "",
        "a{0}b",
        "(a|ab)(c|bcd)(d*)",
        "(?m)^b$",
        "(?s)a.b",
        "[^a-c]",
        "(?P<name>o)+",
        "a|",
        r"\w+\s\w",
        r"\Aa",
        r"[\w-]+",
        r"\x61\x{62}",
        "[]a]",
        "a|b|c|d",
        "((a)|b)*",
    ],
)
def test_like_a_backtracking_engine(pattern: str) -> None:
    mine = compile_pattern(pattern)
    same = pattern.replace("$", "$" if "(?m)" in pattern else r"\Z").replace("{62}", "62")
    theirs = re.compile(same, re.ASCII)
    if pattern == "a{,2}":
        theirs = re.compile(re.escape(pattern))  # without a least count it is no repetition
    for text in TEXTS:
        match = theirs.search(text)
        assert mine.found_in(text) is (match is not None), text
        groups = None if match is None else [match.group(), *(x or "" for x in match.groups())]
        assert mine.groups_in(text) == groups, text


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        pytest.param("[[:alpha:]]+", "--a--", True, id="posix"),
        pytest.param("^[[:^digit:]]$", "1", False, id="negated-posix"),
        pytest.param(r"\p{Lu}", "aÄ", True, id="category"),
        pytest.param(r"^\PL$", "a", False, id="not-in-category"),
        pytest.param(r"\Qa.b\E+", "a.bb", True, id="quoted"),
        pytest.param(r"\Qa.b\E", "axb", False, id="quoted-dot"),
        pytest.param(r"a\z", "a\n", False, id="very-end"),
        pytest.param("(?U)a+", "aa", True, id="ungreedy"),
        pytest.param("ß", "ß", True, id="unicode"),
        pytest.param("(?i)é", "É", True, id="unicode-case"),
        pytest.param("(" * 1000 + "a" + ")" * 1000, "a", True, id="deep"),
    ],
)
def test_beyond_it(pattern: str, text: str, found: bool) -> None:
    assert compile_pattern(pattern).found_in(text) is found


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param("(", id="open"),
        pytest.param("a)", id="closed"),
        pytest.param("[", id="open-class"),
        pytest.param("[b-a]", id="backward-range"),
        pytest.param("[[:odd:]]", id="odd-class"),
        pytest.param("*a", id="nothing-repeated"),
        pytest.param("a**", id="repeated-twice"),
        pytest.param("a{2,1}", id="fewer-than-least"),
        pytest.param("a{1001}", id="too-many"),
        pytest.param("((a{100}){100}){100}", id="too-large"),
        pytest.param("a" * (LENGTH_MAX + 1), id="too-long"),
        pytest.param(r"\1", id="reference"),
        pytest.param("(?=a)", id="looking-ahead"),
        pytest.param("(?<!a)", id="looking-behind"),
        pytest.param("(?P<a", id="open-name"),
        pytest.param(r"\p{Odd}", id="odd-category"),
        pytest.param(r"\xzz", id="bad-hex"),
        pytest.param("a\\", id="final-backslash"),
    ],
)
def test_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|aa)*$", ".*a.*a.*a.*b", "(a?){50}a{50}$"])
def test_hostile_patterns_read_each_character_once(pattern: str) -> None:
    compiled = Pattern(pattern)
    assert compiled.found_in("a" * 3000 + "c") is False


ALPHABET = st.sampled_from(list("ab-|()[]*+?.^$\\dw{1,2}"))


@settings(max_examples=300, deadline=None)
@given(st.lists(ALPHABET, max_size=12).map("".join), st.text("ab-1", max_size=8))
def test_any_text_is_a_pattern_or_a_clean_refusal(pattern: str, text: str) -> None:
    try:
        compiled = Pattern(pattern)
    except PatternError:
        return
    groups = compiled.groups_in(text)
    assert compiled.found_in(text) is (groups is not None)
