"""A whole cluster in one process, on virtual time, with everything that can go wrong.

The real cores run; disk, network, clocks and clients are simulated. One seed decides everything,
so a run is a pure function of (code, seed, options) and replays exactly. Each run switches a random
subset of faults on, some to extremes ("swarm"), for then rare combinations get their turn. After
every event the checkers look at the true state of all servers. At the end the faults stop and the
cluster must show that it lives: elect, commit, agree (I-17).

A run (`run`) has a `cluster` of servers, `client`s that use it and whose `history` is checked, an
`operator` who changes its membership, a `nemesis` that breaks it, and a `recovery` after that. All
of them share one `world`.

A `server` outlives its crashes; each of its lives (`life`) follows `registry.raft.loop`: `loop`
feeds the core, `group_commit` has one sync under way and holds back what promises something until
that is durable, `applying` applies and compacts, `snapshots` brings up peers that are far behind,
`requests` keeps what clients wait for. Ticks are counted off a clock of the server's own rate.
"""

from registry.testing.simulation.options import Options, T
from registry.testing.simulation.run import Simulation, Summary

__all__ = ["Options", "Simulation", "Summary", "T"]
