"""What the web UI is shown: the latest versions, escaped and cut, and those of one key."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_history import registry_ui_panels
from registry_history.keeper import keeper
from registry_history.store import HistoryStore

from registry.hooks import Change, Origin, PanelRequest


def change(index: int, kind: str, key: str = "", value: bytes | None = None) -> Change:
    entry = {"Value": value, "Flags": 0, "Session": "", "LockIndex": 0, "ModifyIndex": index}
    return Change(
        index=index,
        sequence=0,
        time_ms=1_700_000_000_000 + index,
        kind=kind,
        key=key,
        value=entry if value is not None else None,
        origin=Origin("192.0.2.9", "<i>why</i>"),
    )


@pytest.fixture
async def store(tmp_path: Path) -> Any:
    found = HistoryStore(tmp_path / "history.db", versions_max=100, age_ms_max=None)
    found.apply([change(1, "reset"), change(1, "complete")])
    keeper().store = found
    yield found
    keeper().store = None
    found.close()


async def panel(slug: str, subject: str = "") -> str:
    (found,) = [each for each in registry_ui_panels() if each.slug == slug]
    html: str = await found.render(PanelRequest(subject=subject))
    return html


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(<td.*?)</tr>", html)
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


async def test_the_latest_versions_come_first_and_are_escaped(store: HistoryStore) -> None:
    store.apply(
        [
            change(2, "kv", "a<b", b"<script>alert(1)</script>"),
            change(3, "kv", "c", b"\x00" + b"x" * 100),
            change(4, "kv", "c"),
        ]
    )
    html = await panel("latest")
    by = '192.0.2.9<br><span class="faint">&lt;i&gt;why&lt;/i&gt;</span>'
    when = "2023-11-14 22:13:20"
    assert cells(html) == [
        ["4", when, "<code>c</code>", "<em>deleted</em>", by],
        ["3", when, "<code>c</code>", f"<code>·{'x' * 58}…</code>", by],
        [
            "2",
            when,
            "<code>a&lt;b</code>",
            "<code>&lt;script&gt;alert(1)&lt;/script&gt;</code>",
            by,
        ],
    ]


async def test_it_is_a_page_and_no_dump(store: HistoryStore) -> None:
    store.apply([change(index, "kv", "k", b"v" * 100_000) for index in range(2, 60)])
    assert len(cells(await panel("latest"))) == 25
    assert len(await panel("latest")) < 16_000
    assert [row[0] for row in cells(await panel("latest"))][:2] == ["59", "58"]
    assert "There are older ones" in await panel("key", "k")


async def test_the_versions_of_a_key(store: HistoryStore) -> None:
    store.apply([change(2, "kv", "a", b"1"), change(3, "kv", "b", b"2"), change(4, "kv", "a", b"")])
    found = [(row[0], row[2]) for row in cells(await panel("key", "a"))]
    assert found == [("4", "<em>empty</em>"), ("2", "<code>1</code>")]
    assert "There are no versions" in await panel("key", "none")


async def test_an_agent_without_a_history_says_so() -> None:
    assert "This agent keeps no history" in await panel("latest")
