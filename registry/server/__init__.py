"""What a server does besides answering: run consensus over its store, and a leader's duties.

`Server` is the backend that the agent facade calls when this process is a server. It turns typed
commands into proposals and typed queries into reads at the asked consistency, and hands both to the
leader when that is another (`forwarding`, over `network`); while it leads, a task group runs the
leader's work (`leader`): catalog and Raft configuration follow the members (`members`,
`reconcile`), servers are looked after (`autopilot`), sessions expire (`expiry`), tombstones are
reaped. A server that is part of no cluster yet finds or founds one (`bootstrap`); one that lost its
quorum for good is recovered by hand (`recovery`). Start at `server.Server`.
"""

from registry.server.server import Server, ServerSettings

__all__ = ["Server", "ServerSettings"]
