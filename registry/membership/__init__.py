"""Gossip: who is in the pool and who is alive, in the protocol of memberlist and Serf.

`wire` is the codec, `core` the sans-IO SWIM core, `serf` the layer of intents, events and queries
on top of it, `shell` the sockets under both.
"""
