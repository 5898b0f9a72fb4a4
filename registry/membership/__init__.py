"""Gossip: who is in the pool and who is alive, in the protocol of memberlist and Serf.

`wire` and `packets` are the codec, `core` the sans-IO SWIM core, `serf` the layer of intents,
events and queries on top of it, `shell` the sockets under both; `seam` is the page on which they
meet. Nothing that comes from the network raises: it is dropped and counted. Start with `seam` to
read the code, with `shell.GossipPool` to use it; DESIGN.md has the reasons.
"""
