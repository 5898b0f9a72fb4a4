"""Watches: telling a program or an endpoint about changes.

`plan` turns a watch's type into a source of answers, `handlers` are whom it tells, `runner` keeps
all of an agent's watches going. Start at `Watches`.
"""

from __future__ import annotations

from registry.agent.watches.handlers import builtin_watch_handlers
from registry.agent.watches.runner import HandlerKinds, Render, Watches

__all__ = ["HandlerKinds", "Render", "Watches", "builtin_watch_handlers"]
