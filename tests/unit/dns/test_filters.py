"""Plugins that choose among the answers to a question."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from registry.hooks import DnsAnswer, DnsFilter, DnsQuestion, hookimpl
from registry.plugins import Plugins, guards

QUESTION = DnsQuestion(name="web.service.consul.", type="A", client="127.0.0.1")


def answer(node: str) -> DnsAnswer:
    return DnsAnswer(
        node=node, service="web", service_id="web", datacenter="dc1", address="10.0.0.1", port=80
    )


ANSWERS = [answer("n1"), answer("n2"), answer("n3")]


class Choosing:
    """A plugin with one filter."""

    def __init__(self, choose: Callable[..., Any], name: str = "mine") -> None:
        self._filter = DnsFilter(name=name, filter=choose)

    @hookimpl
    def registry_dns_filters(self) -> list[DnsFilter]:
        return [self._filter]


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    plugins = Plugins()
    yield plugins
    plugins.close()


async def chosen(plugins: Plugins, answers: Sequence[DnsAnswer] = ANSWERS) -> list[str]:
    for each in plugins.dns_filters():
        answers = await each.filter(QUESTION, answers)
    return [each.node for each in answers]


async def test_registry_dns_filters(plugins: Plugins) -> None:
    seen: list[DnsQuestion] = []

    def last_two(question: DnsQuestion, answers: Sequence[DnsAnswer]) -> list[DnsAnswer]:
        seen.append(question)
        return [answers[2], answers[1]]

    async def without_the_first(
        question: DnsQuestion, answers: Sequence[DnsAnswer]
    ) -> tuple[DnsAnswer, ...]:
        return tuple(answers[1:])

    plugins.add("one", Choosing(last_two, "one"))
    plugins.add("two", Choosing(without_the_first, "two"))
    assert await chosen(plugins) == ["n2"]
    assert seen == [QUESTION]
    assert [entry["Errors"] for entry in plugins.report()] == [[], []]


async def test_none_may_be_left(plugins: Plugins) -> None:
    plugins.add("mine", Choosing(lambda question, answers: []))
    assert await chosen(plugins) == []


@pytest.mark.parametrize(
    "given",
    [None, object(), "n1", [1], [ANSWERS[0], ANSWERS[0]], [answer("n4")]],
    ids=["nothing", "nonsense", "text", "no answers", "one twice", "one of its own"],
)
async def test_what_is_no_choice_leaves_all(plugins: Plugins, given: object) -> None:
    plugins.add("mine", Choosing(lambda question, answers: given))
    assert await chosen(plugins) == ["n1", "n2", "n3"]
    (entry,) = plugins.report()
    assert entry["ErrorCount"] == 1
    assert entry["Errors"][0].startswith("registry_dns_filters: gave ")


async def test_one_that_fails_leaves_all_and_is_left_alone(plugins: Plugins) -> None:
    calls = []

    def fail(question: DnsQuestion, answers: Sequence[DnsAnswer]) -> list[DnsAnswer]:
        calls.append(question)
        raise LookupError("nobody home")

    plugins.add("mine", Choosing(fail))
    for _ in range(10):
        assert await chosen(plugins) == ["n1", "n2", "n3"]
    assert len(calls) == 5
    (entry,) = plugins.report()
    assert "registry_dns_filters" in entry["LeftAlone"]


async def test_one_that_hangs_is_not_waited_for(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "FILTER_LIMIT_S", 0.05)
    plugins.add("mine", Choosing(lambda question, answers: time.sleep(0.5)))
    assert await chosen(plugins) == ["n1", "n2", "n3"]
    (entry,) = plugins.report()
    assert "took longer than 0.05 s" in entry["Errors"][0]


async def test_changes_to_what_is_shown_change_nothing(plugins: Plugins) -> None:
    def empty(question: DnsQuestion, answers: list[DnsAnswer]) -> list[DnsAnswer]:
        kept = [DnsAnswer(**{**_fields(each), "address": "6.6.6.6"}) for each in answers]
        answers.clear()
        return kept

    plugins.add("mine", Choosing(empty))
    (mine,) = plugins.dns_filters()
    assert [each.address for each in await mine.filter(QUESTION, ANSWERS)] == ["10.0.0.1"] * 3


def _fields(answer: DnsAnswer) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in answer.__struct_fields__}
