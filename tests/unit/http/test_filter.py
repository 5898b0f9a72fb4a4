"""The filter language: what expressions mean, and how bad ones are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry.http.api import HttpError
from registry.http.filter import (
    DEPTH_MAX,
    INSTANCE,
    LENGTH_MAX,
    NODE_SERVICE,
    SERVICE_NODE,
    TOO_LARGE,
    compile_filter,
)

PREFIX = "Failed to create boolean expression evaluator: "

ITEM: dict[str, Any] = {
    "ID": "",
    "Node": "n-a",
    "Address": "10.9.0.1",
    "TaggedAddresses": None,
    "NodeMeta": {"os": "linux", "odd-key": "x"},
    "ServiceID": "s1",
    "ServiceTags": ["primary", "v1"],
    "ServiceTaggedAddresses": {"lan": {"Address": "10.9.0.1", "Port": 80}},
    "ServiceWeights": {"Passing": 2, "Warning": 1},
    "ServiceMeta": {},
    "ServicePort": 80,
    "ServiceEnableTagOverride": False,
    "ServiceProxy": {"Upstreams": [{"DestinationName": "db"}, {"DestinationName": "mq"}]},
    "ServiceConnect": {},
}


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ('ServiceID == "s1"', True),
        ("ServiceID != s1", False),
        ("ServicePort == 80", True),
        ('ServicePort == "0x50"', True),
        ("ServicePort != 81", True),
        ('"primary" in ServiceTags', True),
        ("primary not in ServiceTags", False),
        ("ServiceTags contains v1", True),
        ("ServiceTags not contains v2", True),
        ("ServiceTags is not empty", True),
        ("ServiceMeta is empty", True),
        ("TaggedAddresses is empty", True),
        ("os in NodeMeta", True),
        ("NodeMeta contains none", False),
        ("Address contains 9.0", True),
        ("0.1 in Address", True),
        ('ServiceKind == ""', True),
        ('Address matches "^10\\\\.9"', True),
        ("Node matches `-a$`", True),
        ("Node not matches `-a$`", False),
        ("NodeMeta.os == linux", True),
        ('NodeMeta["odd-key"] == x', True),
        ("NodeMeta.none == x", False),
        ("NodeMeta.none != x", True),
        ('NodeMeta.none == ""', False),
        ("NodeMeta.none matches x", True),
        ("NodeMeta.none not matches x", True),
        ("x in NodeMeta.none", False),
        ("x not in NodeMeta.none", True),
        ("ServiceTaggedAddresses.lan.Port == 80", True),
        ("ServiceTaggedAddresses.wan.Port == 80", False),
        ("lan in ServiceTaggedAddresses", True),
        ("ServiceWeights.Passing == 2", True),
        ("ServiceEnableTagOverride == false", True),
        ("ServiceConnect.Native == false", True),
        ("ServiceProxy.Upstreams.DestinationName == mq", True),
        ("ServiceProxy.Upstreams.DestinationName == none", False),
        ("ServiceProxy.Upstreams is not empty", True),
        ("ServiceProxy.Expose.Paths is empty", True),
        ("ServiceID == s1 and ServicePort == 81", False),
        ("ServiceID == s1 or ServicePort == 81", True),
        ("ServiceID == no and ServiceID == s1 or ServicePort == 80", True),
        ("ServiceID == s1 or ServiceID == s1 and ServicePort == 1", True),
        ("(ServiceID == s1 or ServiceID == s1) and ServicePort == 1", False),
        ("not ServiceID == s1 or ServicePort == 80", True),
        ("not (ServiceID == s1 or ServicePort == 80)", False),
        ("not not ServiceID == s1", True),
        ("  ServiceID\n ==\ts1  ", True),
        ("(ServiceID==s1)", True),
        ('ServiceID == "s\\u0031"', True),
        ('ServiceID == "s\\061"', True),
        ('NodeMeta[ "odd-key" ] == x', True),
        ("( ServiceID == s1 ) and\t( ServicePort == 80 )", True),
        ("not ServiceID == and", True),
        ("ServiceTags is  not\nempty", True),
        ("", True),
    ],
)
def test_what_an_expression_keeps(expression: str, kept: bool) -> None:
    assert compile_filter(expression, SERVICE_NODE)(ITEM) is kept


def test_a_list_of_objects_holds_when_any_of_them_does() -> None:
    item = {"Checks": [{"Status": "passing"}, {"Status": "critical"}]}
    for status, kept in (("passing", True), ("critical", True), ("warning", False)):
        assert compile_filter(f"Checks.Status == {status}", INSTANCE)(item) is kept
    assert compile_filter("Checks.Status != passing", INSTANCE)(item) is True
    assert compile_filter("Checks.Status != passing", INSTANCE)({"Checks": []}) is False


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("NoSuchField == x", 'Selector "NoSuchField" is not valid'),
        ("serviceid == x", 'Selector "serviceid" is not valid'),
        ("ServiceID.x == x", 'Selector "ServiceID.x" is not valid'),
        ("ServiceWeights.Odd == 1", 'Selector "ServiceWeights.Odd" is not valid'),
        ("ServiceTags == x", 'Invalid match operator "Equal" for selector "ServiceTags"'),
        ("ServiceWeights == 1", 'Invalid match operator "Equal" for selector "ServiceWeights"'),
        ("ServicePort is empty", 'Invalid match operator "Is Empty" for selector "ServicePort"'),
        ('ServicePort matches "8"', 'Invalid match operator "Matches" for selector "ServicePort"'),
        ("x in ServicePort", 'Invalid match operator "In" for selector "ServicePort"'),
        ("ServicePort contains x", 'Invalid match operator "In" for selector "ServicePort"'),
        (
            "ServicePort == abc",
            'Failed to coerce value "abc" for selector "ServicePort": '
            'strconv.ParseInt: parsing "abc": invalid syntax',
        ),
        (
            "ServiceEnableTagOverride == maybe",
            'Failed to coerce value "maybe" for selector "ServiceEnableTagOverride": '
            'strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (
            'ServiceID matches "("',
            'Failed to compile regular expression "(": error parsing regexp: '
            "missing closing ): `(`",
        ),
        ('ServiceID == "\\q"', "invalid syntax"),
        ('ServiceID == "\\ud800"', "invalid syntax"),
        ('ServiceID == "a\nb"', "invalid syntax"),
        ('ServiceID == "a\\"', "invalid syntax"),
        ('NodeMeta["a\\"] == x', "invalid syntax"),
        ("ID is empty", 'Invalid match operator "Is Empty" for selector "ID"'),
        ("NodeMeta.os is empty", 'Invalid match operator "Is Empty" for selector "NodeMeta.os"'),
        ('ServiceProxy["a b`"] == 1', 'Selector "ServiceProxy.a b`" is not valid'),
        ('ServiceProxy[`a"`] == 1', 'Selector "ServiceProxy.a\\"" is not valid'),
    ],
)
def test_refusals(expression: str, reason: str) -> None:
    with pytest.raises(HttpError) as refused:
        compile_filter(expression, SERVICE_NODE)
    assert (refused.value.status, refused.value.text) == (500, PREFIX + reason)


@pytest.mark.parametrize(
    "expression",
    [
        "ServiceID ==",
        "== s1",
        "ServiceID = s1",
        "ServiceID == s1 and",
        "(ServiceID == s1",
        '"s1',
        "ServicePort == 0x50",
        "ServiceID == 's1'",
        "ServiceID == s1 ServiceID == s2",
        "ServiceID",
        "not",
        " ",
        "not(ServiceID == s1)",
        "(ServiceID == s1)and (ServicePort == 80)",
        "(ServiceID == s1) or(ServicePort == 80)",
        '"primary"in ServiceTags',
        '"primary" in"x"',
        'ServiceTags contains"primary"',
        'NodeMeta ["os"] == linux',
        "NodeMeta .os == linux",
        "NodeMeta['os'] == linux",
        "ServiceTags isempty",
        "ServiceTags is emptyx",
        "ServiceID == s1 AND ServicePort == 80",
        'ServiceID == "a\\"b"',
    ],
)
def test_what_is_no_expression(expression: str) -> None:
    with pytest.raises(HttpError) as refused:
        compile_filter(expression, SERVICE_NODE)
    assert refused.value.status == 500
    assert refused.value.text.startswith(PREFIX)
    assert len(refused.value.text) < 200


def nested(depth: int) -> str:
    return "(" * depth + "ServiceID == s1" + ")" * depth


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        pytest.param("x" * 1_000_000, f"longer than {LENGTH_MAX} characters", id="a megabyte"),
        pytest.param(nested(10_000), f"longer than {LENGTH_MAX} characters", id="10,000 deep"),
        pytest.param(nested(DEPTH_MAX + 1), f"nested deeper than {DEPTH_MAX}", id="too deep"),
        pytest.param(nested(4000), f"nested deeper than {DEPTH_MAX}", id="as deep as is long"),
        pytest.param(
            "not " * 2000 + "ServiceID == s1", f"nested deeper than {DEPTH_MAX}", id="negated"
        ),
    ],
)
def test_limits(expression: str, reason: str) -> None:
    started = time.perf_counter()
    with pytest.raises(HttpError) as refused:
        compile_filter(expression, SERVICE_NODE)
    assert (refused.value.status, refused.value.text) == (400, f"{TOO_LARGE}: {reason}")
    # Generous on a busy machine; a parser that went through all of it would take minutes.
    assert time.perf_counter() - started < 2


def test_what_is_within_the_limits() -> None:
    for expression in (
        nested(DEPTH_MAX),
        "(ServiceID == s1) or " * 300 + "ServiceID == s1",
        f'ServiceID != "{"(" * 1000}"',
        f"ServiceID != `{'(' * 1000}`",
    ):
        assert compile_filter(expression, SERVICE_NODE)(ITEM) is True


WORDS = st.sampled_from(
    [
        "ServiceID",
        "ServicePort",
        "ServiceTags",
        "NodeMeta.os",
        "NodeMeta",
        "Meta",
        "==",
        "!=",
        "in",
        "not",
        "and",
        "or",
        "is",
        "empty",
        "contains",
        "matches",
        "(",
        ")",
        "[",
        "]",
        '"s1"',
        "`x`",
        "80",
        "-1",
        "0x5",
        ".",
        ",",
        "s1",
        "true",
        "\\",
        '"',
        "`",
        '"',
        "\n",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30))
@example("ServiceID[`a`].b == x")
@example("ServiceID == \x00")
@example("\ud800 == x")
def test_any_text_is_an_expression_or_a_clean_refusal(expression: str) -> None:
    for selectors in (SERVICE_NODE, NODE_SERVICE):
        refusal, keeps = None, None
        try:
            keeps = compile_filter(expression, selectors)
        except HttpError as refused:
            refusal = refused
        if keeps is not None:
            assert keeps(ITEM) in (True, False)
            assert keeps({}) in (True, False)
        else:
            assert refusal is not None
            assert (refusal.status, refusal.text.startswith(PREFIX)) == (500, True)
