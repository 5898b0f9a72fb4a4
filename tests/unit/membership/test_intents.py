"""Intents that came before their node."""

from __future__ import annotations

from registry.membership.intents import INTENTS_MAX, IntentKind, RecentIntents

MINUTE_MS = 60_000


def test_only_the_newest_intent_counts_whichever_kind_it_is() -> None:
    intents = RecentIntents(5 * MINUTE_MS)
    assert intents.remember(IntentKind.JOIN, "beta", 4, 0)
    assert not intents.remember(IntentKind.LEAVE, "beta", 4, 0)
    assert intents.remember(IntentKind.LEAVE, "beta", 5, 0)
    kept = intents.get("beta")
    assert kept is not None
    assert (kept.kind, kept.l_time) == (IntentKind.LEAVE, 5)


def test_an_intent_expires() -> None:
    intents = RecentIntents(5 * MINUTE_MS)
    intents.remember(IntentKind.JOIN, "beta", 4, 0)
    intents.expire(5 * MINUTE_MS)
    assert intents.get("beta") is not None
    intents.expire(5 * MINUTE_MS + 1)
    assert intents.get("beta") is None


def test_names_that_nobody_has_cannot_fill_the_memory() -> None:
    intents = RecentIntents(5 * MINUTE_MS)
    for number in range(INTENTS_MAX + 10):
        intents.remember(IntentKind.JOIN, f"nobody-{number}", 1, 0)
    assert len(intents) == INTENTS_MAX
    assert intents.get("nobody-0") is None
