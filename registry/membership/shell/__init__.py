"""A gossip pool on real sockets: the loop that feeds the cores and does what they ask.

    sockets ──> inbox ─┐                       ┌─> packets, streams, files
    deadlines ─────────┼─> PoolCore ─> outputs ┼─> listeners (events, in order)
    callers ───────────┘                       └─> whoever waits for a join, query or leave

Everything that can be decided is decided by the cores (`core`, `serf`). Here is what must wait:
sockets, name resolution, the keyring and the snapshot on disk, each in a task or thread of its own
so that the loop goes on.

    pool           GossipPool: the parts put together, and what the rest of the agent holds
    startup        the cores as the settings, and what was kept on disk, make them
    live_core      the cores at the present time, until we have left
    loop           collects input, then steps once
    effects        what the cores want done, handed to whoever does it
    tasks          what runs beside the loop, as long as that runs
    sockets        UDP and TCP on one port
    networks       whose packets and streams are heard at all
    streams        TCP, both ways
    dialling       one message each way, and how to find whom to talk to
    files          keyring and snapshot, written in a thread of their own
    keyring_file, snapshot_file   what is in them
    joins          through whom we join, and who waits for it
    answers        queries of ours, and who waits for the answers
    key_manager    the pool's encryption keys, by queries
    delivery       events, into the log and to the listeners
    listeners      who listens, each with a backlog
"""

from registry.membership.shell.pool import GossipPool

__all__ = ["GossipPool"]
