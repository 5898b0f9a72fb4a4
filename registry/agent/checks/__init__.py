"""Checks: whether what runs on this node is well.

One module per kind; each ends in its `CHECK_TYPE`, which is registered through the same hook as a
plugin's. `base` says what a kind may be told by the agent and what it may be beside a function,
`scheduler` when a check runs and which results count. What becomes of a result is
`registry.agent.local`'s business.
"""

from __future__ import annotations

from registry.agent.checks import alias, docker, grpc, http, script, tcp, ttl
from registry.agent.checks.base import CheckContext, Follower, NeedsContext, TellsTimeout
from registry.hooks import CheckType

__all__ = [
    "CheckContext",
    "Follower",
    "NeedsContext",
    "TellsTimeout",
    "builtin_check_types",
]


def builtin_check_types() -> list[CheckType]:
    """The kinds that are always there."""
    kinds = (script, http, tcp, ttl, alias, grpc, docker)
    return [kind.CHECK_TYPE for kind in kinds]
