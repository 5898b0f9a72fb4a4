"""The replicated state: commands that change it, queries that read it, topics that tell of changes.

A core (no clock, no chance, no socket): the same committed entries give the same bytes in the
store on every server and after every restart. `machine.StateMachine` applies entries; each family
(`kv`, `sessions`, `locks`, `txn`, …) defines its records, commands and queries in one module, the
catalog in several (`catalog_*`), on top of `base`, `tables` and `topics`. DESIGN.md tells why it is
built so; start there or at `StateMachine.apply`.
"""

from registry.state.base import (
    Command,
    Query,
    ReadOptions,
    ReadResult,
    Refused,
    Transaction,
    max_index,
)
from registry.state.topics import ALL, Topic, TopicHub

__all__ = [
    "ALL",
    "Command",
    "Query",
    "ReadOptions",
    "ReadResult",
    "Refused",
    "Topic",
    "TopicHub",
    "Transaction",
    "max_index",
]
