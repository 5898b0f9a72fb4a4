"""What an operator asks of the cluster while it works: other members, another leader."""

from __future__ import annotations

import contextlib

from registry.errors import Rejected, Unavailable
from registry.raft.membership import AddLearner, ConfigChange, Demote, Promote, Remove
from registry.raft.messages import Configuration, Role
from registry.testing.checkers import voters
from registry.testing.simulation.cluster import Cluster, address
from registry.testing.simulation.world import World

SERVERS_MAX = 7


class Operator:
    """Asks the leader for something now and then, sensible or not. `changes` counts what began."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self.changes = 0
        self._world = world
        self._cluster = cluster

    def start(self) -> None:
        options = self._world.options
        self._world.now_and_then(options.change_every, self._change_configuration)
        self._world.now_and_then(options.transfer_every, self._transfer)

    def _transfer(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.core is None:
            return
        target = self._world.random.choice([None, *self._cluster.servers])
        self._world.trace.say(f"transfer {leader.id} -> {target}")

        def begin() -> None:
            assert leader.core is not None
            with contextlib.suppress(Rejected, Unavailable):
                leader.core.transfer(target)

        leader.handle(begin)

    def _change_configuration(self) -> None:
        leader = self._cluster.leader()
        if leader is None or leader.core is None:
            return
        change = self._random_change(leader.core.configuration)
        self._world.trace.say(f"change {leader.id}: {change}")

        def begin() -> None:
            assert leader.core is not None
            try:
                leader.core.propose_configuration(change)
                self.changes += 1
                self._world.checker.changing(leader.id, leader.core, change)
            except (Rejected, Unavailable) as error:
                self._world.trace.say(f"refused: {error}")

        leader.handle(begin)

    def _random_change(self, configuration: Configuration) -> ConfigChange:
        rng, servers = self._world.random, self._cluster.servers
        members = {server.id: server for server in configuration.servers}
        outside = [id_ for id_ in servers if id_ not in members]
        learners = [s.id for s in configuration.servers if s.role is Role.LEARNER]
        electors = voters(configuration)
        based_on = configuration.index
        kind = rng.choice(("add", "add", "promote", "promote", "demote", "remove"))
        if kind == "promote" and learners:
            return Promote(based_on=based_on, id=rng.choice(learners))
        if kind == "demote" and len(electors) > 1:
            return Demote(based_on=based_on, id=rng.choice(electors))
        if kind == "remove" and len(members) > 1:
            return Remove(based_on=based_on, id=rng.choice(list(members)))
        if len(servers) < SERVERS_MAX:
            server = self._cluster.add()
            server.start()
            return AddLearner(based_on=based_on, id=server.id, address=address(server.id))
        if outside:
            id_ = rng.choice(outside)
            return AddLearner(based_on=based_on, id=id_, address=address(id_))
        return Remove(based_on=based_on, id=rng.choice(list(members)))
