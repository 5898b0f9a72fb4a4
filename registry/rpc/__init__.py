"""Calls between agents: many requests at once over one connection per peer.

The dialling side asks, the accepting side answers; both may give up a request (`Cancel`), tell
something that wants no answer (`Notice`), and make sure that the other is still there (`Ping`).
Bodies are bytes whose meaning is the caller's business, so this package knows nothing of what is
asked. Errors of `registry.errors` cross the wire with type, text and fields (`faults`).

Start at `stream`, the protocol without a socket; `connection` and `server` are its two shells,
`pool` keeps one connection per peer and backs off from those that are down (`backoff`).
"""

from registry.rpc.backoff import Backoff
from registry.rpc.connection import Connection
from registry.rpc.pool import Pool, PoolSettings
from registry.rpc.server import Caller, RpcServer, RpcServerSettings
from registry.rpc.stream import Hello, Limits

__all__ = [
    "Backoff",
    "Caller",
    "Connection",
    "Hello",
    "Limits",
    "Pool",
    "PoolSettings",
    "RpcServer",
    "RpcServerSettings",
]
