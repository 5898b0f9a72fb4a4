"""What the web UI shows of the history: the latest versions, and those of one key.

Keys, values and reasons are anybody's: everything of them is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from registry.hooks import PanelRequest, UiPanel

from .keeper import keeper
from .routes import time_text
from .store import Version

#: Rows of a panel: it is looked at, not searched.
VERSIONS_MAX = 25
#: Of a value, a key or a reason.
CHARACTERS_MAX = 60


def panels() -> list[UiPanel]:
    return [
        UiPanel(slug="latest", title="Latest changes of keys", render=latest, height_px=420),
        UiPanel(slug="key", title="Versions", render=of_key, page="key", height_px=360),
    ]


async def latest(request: PanelRequest) -> str:
    store = keeper().store
    if store is None:
        return _none_here()
    return table(store.latest(VERSIONS_MAX), with_key=True)


async def of_key(request: PanelRequest) -> str:
    store = keeper().store
    if store is None:
        return _none_here()
    key = request.subject.encode("utf-8", "surrogateescape")
    page = store.versions(key, limit=VERSIONS_MAX)
    older = "" if page.next_index is None else '<p class="faint">There are older ones.</p>'
    return table(page.versions, with_key=False) + older


def _none_here() -> str:
    return '<p class="faint">This agent keeps no history. Servers do: look at one of theirs.</p>'


def table(versions: Iterable[Version], *, with_key: bool) -> str:
    """Versions as rows, in the order given."""
    rows = "".join(_row(version, with_key=with_key) for version in versions)
    if not rows:
        return '<p class="faint">There are no versions.</p>'
    key = "<th>Key</th>" if with_key else ""
    return (
        f"<table><thead><tr><th>Index</th><th>When (UTC)</th>{key}<th>Value</th><th>By</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _row(version: Version, *, with_key: bool) -> str:
    # To the second, and on one line.
    when = time_text(version.time_ms)[:19].replace("T", " ") if version.time_ms else "unknown"
    key = f"<td><code>{_shown(version.key)}</code></td>" if with_key else ""
    if version.value is None:
        value = "<em>deleted</em>"
    else:
        value = f"<code>{_shown(version.value)}</code>" if version.value else "<em>empty</em>"
    reason = f'<br><span class="faint">{_shown(version.reason.encode())}</span>'
    return (
        f'<tr><td>{version.index}</td><td style="white-space:nowrap">{when}</td>{key}'
        f"<td>{value}</td><td>{escape(version.client) or '–'}{reason if version.reason else ''}"
        "</td></tr>"
    )


def _shown(raw: bytes) -> str:
    """The beginning of it as text that a page can hold."""
    # Cut first: a value may have megabytes.
    text = raw[: 4 * (CHARACTERS_MAX + 1)].decode("utf-8", "replace")
    text = "".join(each if each.isprintable() else "·" for each in text)
    cut = len(text) > CHARACTERS_MAX
    return escape(text[: CHARACTERS_MAX - 1] + "…" if cut else text)
