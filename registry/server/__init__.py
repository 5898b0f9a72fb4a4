"""What a server does besides answering: run consensus over its store, and a leader's duties.

`Server` is the backend that the agent facade calls when this process is a server. It turns typed
commands into proposals and typed queries into reads at the asked consistency; while it leads, a
task group runs the leader's work (`leader`): the catalog follows the members (`reconcile`),
sessions expire (`expiry`), tombstones are reaped. Start at `server.Server`.
"""

from registry.server.server import Server, ServerSettings

__all__ = ["Server", "ServerSettings"]
