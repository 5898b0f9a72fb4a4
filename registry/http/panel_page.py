"""The pages of plugins' panels as HTML: the list of them, each in its frame, and what has failed.

All of it works without a script, so that the pages' policies can forbid every one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

#: What both kinds of pages have; the colours have a contrast of 4.5 to 1 at least.
_COLOURS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--line:#dfe3e8;--text:#1c2430;
--faint:#5b6675;--accent:#1d5fc4;--good:#1a6e3c;--good-bg:#e3f4e9;--warn:#8a4b08;--warn-bg:#fdf0dc;
--bad:#a61b29;--bad-bg:#fdeaec}
@media (prefers-color-scheme:dark){:root{--page:#12161c;--card:#1b212a;--line:#313a47;
--text:#e6eaf0;--faint:#a0acbb;--accent:#7db2ff;--good:#7fd6a0;--good-bg:#173324;--warn:#f0bd78;
--warn-bg:#3a2a12;--bad:#ff9aa4;--bad-bg:#43191e}}
*{box-sizing:border-box}
body{margin:0;color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
a{color:var(--accent)}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:break-word}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .75rem .4rem 0;border-bottom:1px solid var(--line);
vertical-align:baseline}
th{color:var(--faint);font-weight:600;font-size:.87em;white-space:nowrap}
tr:last-child td{border-bottom:0}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
"""

_FRAME_CSS = (
    _COLOURS
    + """
html{background:var(--card)}
body{padding:.75rem 1rem;font-size:14px}
h1,h2,h3{font-size:1.05em;margin:.8em 0 .3em}
p,ul,ol{margin:.4em 0}
.faint{color:var(--faint)}
.failed{border:1px solid var(--bad);border-left-width:4px;border-radius:6px;
background:var(--bad-bg);padding:.7rem .9rem}
.failed strong{color:var(--bad)}
.failed p{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
"""
)

_LIST_CSS = (
    _COLOURS
    + """
body{background:var(--page)}
header,main{max-width:76rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.75rem;padding-bottom:.25rem}
h1{font-size:1.55rem;line-height:1.2;margin:0}
h2{font-size:1.1rem;margin:1.9rem 0 .7rem}
header p{margin:.3rem 0 0;color:var(--faint)}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr))}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.cards .card{display:flex;flex-direction:column}
.card>header{display:flex;flex-wrap:wrap;gap:.2rem .75rem;align-items:baseline;max-width:none;
margin:0;padding:.65rem 1rem;border-bottom:1px solid var(--line)}
.card h3{font-size:1rem;margin:0;overflow-wrap:anywhere}
.card .by{color:var(--faint);font-size:.9em;flex:1;overflow-wrap:anywhere}
.card iframe{display:block;flex:1 0 auto;width:100%;border:0;background:var(--card)}
.wide{overflow-x:auto;padding:.35rem 1rem}
.wide table{min-width:32rem}
.empty{padding:1rem;color:var(--faint)}
.number{text-align:right}
@media (max-width:36rem){header,main{padding-left:.75rem;padding-right:.75rem}}
.state{display:inline-block;border-radius:99px;padding:.05rem .6rem;font-size:.87em;
font-weight:600;white-space:nowrap}
.good{color:var(--good);background:var(--good-bg)}
.warn{color:var(--warn);background:var(--warn-bg)}
.bad{color:var(--bad);background:var(--bad-bg)}
.ask{list-style:none;margin:0;padding:.35rem 1rem}
.ask li{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;padding:.55rem 0;
border-bottom:1px solid var(--line)}
.ask li:last-child{border-bottom:0}
.ask .name{flex:1 1 14rem}
.ask .by{color:var(--faint)}
form{display:flex;gap:.5rem;flex:1 1 16rem;max-width:26rem}
input{flex:1;min-width:0;font:inherit;color:inherit;background:var(--page);padding:.3rem .6rem;
border:1px solid var(--faint);border-radius:6px}
button{font:inherit;font-weight:600;color:var(--card);background:var(--accent);border:0;
border-radius:6px;padding:.3rem .9rem;cursor:pointer}
footer{color:var(--faint);font-size:.9em;padding:1.25rem 0 2.5rem}
"""
)


def _hash_of(style: str) -> str:
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


#: A panel is a plugin's, and shows what anybody may have written into a key. In a sandbox its
#: origin is nobody's, so not that of the API, and nothing in it runs, is sent or is fetched.
FRAME_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

#: The list is ours alone: the one style that it has, frames of this agent, no script.
LIST_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_hash_of(_LIST_CSS)}'; frame-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)

#: Of a frame; a plugin's wish beyond it is cut.
HEIGHT_PX_MIN, HEIGHT_PX_MAX = 80, 1600


class Shown(msgspec.Struct, frozen=True):
    """A panel as the pages show it."""

    plugin: str
    title: str
    page: str
    path: str
    height_px: int


def framed(title: str, html: str) -> str:
    """What a panel gave as a document; left as it is if it is one."""
    if html.lstrip()[:9].lower().startswith(("<!doctype", "<html")):
        return html
    return _document(title, _FRAME_CSS, html)


def failed(panel: Shown, reason: str) -> str:
    """What is shown in place of a panel."""
    return framed(
        panel.title,
        '<div class="failed" role="alert">'
        f"<strong>{escape(panel.title)}</strong> of the plugin <strong>{escape(panel.plugin)}"
        f"</strong> cannot be shown.<p>{escape(reason)}</p>"
        f'<span class="faint">The log and <code>registry plugins info {escape(panel.plugin)}</code>'
        " have more.</span></div>",
    )


def listed(
    node: str, datacenter: str, panels: Sequence[Shown], plugins: Iterable[Mapping[str, Any]]
) -> str:
    """The page with every panel. `plugins` are as `/v1/agent/plugins` shows them."""
    overview = [panel for panel in panels if panel.page == "overview"]
    others = [panel for panel in panels if panel.page != "overview"]
    return _document(
        f"Panels of {node}",
        _LIST_CSS,
        f"<header><h1>Panels</h1><p>What the plugins of <strong>{escape(node)}</strong> in "
        f"<strong>{escape(datacenter)}</strong> have to show</p></header><main>"
        f"{_cards(overview)}{_asked(others)}{_plugins(plugins, panels)}</main>",
    )


def _document(title: str, style: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}</body></html>"
    )


def _cards(panels: Sequence[Shown]) -> str:
    if not panels:
        return (
            '<h2>Overview</h2><div class="card"><p class="empty">No plugin has a panel for the '
            "overview. A plugin adds one by the hook <code>registry_ui_panels</code>.</p></div>"
        )
    return '<h2>Overview</h2><div class="cards">' + "".join(map(_card, panels)) + "</div>"


def _card(panel: Shown) -> str:
    title, path = escape(panel.title), escape(panel.path)
    height = min(max(panel.height_px, HEIGHT_PX_MIN), HEIGHT_PX_MAX)
    return (
        f'<section class="card"><header><h3>{title}</h3>'
        f'<span class="by">{escape(panel.plugin)}</span>'
        f'<a href="{path}" aria-label="Open {title} by itself">Open</a></header>'
        f'<iframe src="{path}" title="{title}" sandbox loading="lazy" '
        f'referrerpolicy="no-referrer" height="{height}"></iframe></section>'
    )


def _asked(panels: Sequence[Shown]) -> str:
    """Panels of a node, service or key, whose name is typed in."""
    if not panels:
        return ""
    rows = (
        f'<li><span class="name"><strong>{escape(panel.title)}</strong> '
        f'<span class="by">{escape(panel.plugin)}, of a {panel.page}</span></span>'
        f'<form action="{escape(panel.path)}"><input name="subject" required '
        f'placeholder="{panel.page}" aria-label="{panel.page} for {escape(panel.title)}">'
        "<button>Show</button></form></li>"
        for panel in panels
    )
    return '<h2>Of one node, service or key</h2><ul class="card ask">' + "".join(rows) + "</ul>"


def _plugins(plugins: Iterable[Mapping[str, Any]], panels: Sequence[Shown]) -> str:
    rows = (
        f"<tr><td><strong>{escape(plugin['Name'])}</strong></td><td>{_state(plugin)}</td>"
        f"<td>{escape(plugin['Version']) or '–'}</td>"
        f'<td class="number">{sum(panel.plugin == plugin["Name"] for panel in panels)}</td>'
        f'<td class="number">{plugin["Calls"]:,}</td>'
        f'<td class="number">{plugin["ErrorCount"]:,}</td></tr>'
        for plugin in plugins
    )
    return (
        '<h2>Plugins</h2><div class="card wide" tabindex="0" role="region" aria-label="Plugins">'
        "<table><thead><tr><th>Plugin</th><th>State</th><th>Version</th>"
        '<th class="number">Panels</th><th class="number">Calls</th><th class="number">Errors</th>'
        "</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        "<footer>More in <code>registry plugins info NAME</code> and <code>/v1/agent/plugins</code>"
        "</footer>"
    )


def _state(plugin: Mapping[str, Any]) -> str:
    if plugin["LeftAlone"]:
        return '<span class="state bad">left alone</span>'
    if plugin["ErrorCount"]:
        return '<span class="state warn">has failed</span>'
    return '<span class="state good">fine</span>'
