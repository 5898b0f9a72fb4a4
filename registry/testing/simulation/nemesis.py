"""What breaks the cluster: crashes, partitions and pauses, until it is told to stop."""

from __future__ import annotations

from registry.raft.messages import AppendReply, AppendRequest, VoteReply, VoteRequest
from registry.testing.network import NetworkFaults
from registry.testing.simulation.cluster import Cluster
from registry.testing.simulation.options import T
from registry.testing.simulation.world import World


class Nemesis:
    """Breaks something now and then, as often as the options say; leaders are its favourites."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster

    def start(self) -> None:
        options = self._world.options
        self._world.now_and_then(options.crash_every, self._crash)
        self._world.now_and_then(options.partition_every, self._partition)
        self._world.now_and_then(options.pause_every, self._pause)

    def stop(self) -> None:
        """Heal everything; whoever was down or paused comes back."""
        self._world.trace.say("faults stop")
        self._world.faulty = False
        self._world.network.heal()
        self._world.network.faults = NetworkFaults()
        for server in self._cluster.servers.values():
            server.resume()
            self._cluster.restart(server)

    def _crash(self) -> None:
        up = self._cluster.up()
        if not up:
            return
        rng = self._world.random
        if rng.random() < self._world.options.crash_all:
            for server in up:
                self._cluster.crash(server)
        elif (leader := self._cluster.leader()) is not None and rng.random() < 0.4:
            self._cluster.crash(leader)
        else:
            self._cluster.crash(rng.choice(up))

    def _pause(self) -> None:
        rng = self._world.random
        leader = self._cluster.leader()
        server = leader if leader and rng.random() < 0.6 else None
        server = server or rng.choice(list(self._cluster.servers.values()))
        self._world.trace.say(f"pause {server.id}")
        server.pause()
        self._world.schedule.after(rng.randint(T // 8, 4 * T), server.resume)

    def _partition(self) -> None:
        """Put one partition in the place of another, around one server, for a while."""
        rng, network = self._world.random, self._world.network
        network.heal()
        leader = self._cluster.leader()
        ids = list(self._cluster.servers)
        one = leader.id if leader and rng.random() < 0.5 else rng.choice(ids)
        kind = rng.choice(self._world.options.partitions)
        self._world.trace.say(f"partition {kind} {one}")
        self._cluster.tell_gone(self._cluster.servers[one], self._world.options.told_wrongly)
        self._cut(kind, one, [id_ for id_ in ids if id_ != one])
        self._world.schedule.after(rng.randint(T // 4, 5 * T), network.heal)

    def _cut(self, kind: str, one: str, others: list[str]) -> None:
        rng, network = self._world.random, self._world.network
        match kind:
            case "isolate":
                network.cut_between([one], others)
            case "halves":
                ids = list(self._cluster.servers)
                half = rng.sample(ids, len(ids) // 2)
                network.cut_between(half, [id_ for id_ in ids if id_ not in half])
            case "bridge":
                # Two groups that only `one` can reach both of.
                group = rng.sample(others, len(others) // 2)
                network.cut_between(group, [id_ for id_ in others if id_ not in group])
            case "link" if others:
                network.cut_between([one], [rng.choice(others)])
            case "deaf":
                for other in others:
                    network.cut(other, one)
            case "mute":
                for other in others:
                    network.cut(one, other)
            case "votes":
                network.mute(VoteRequest, VoteReply)
            case "appends":
                network.mute(AppendRequest, AppendReply)
