"""A bare server in a process of its own: consensus, state and RPC on a real engine, without gossip
and faces. For tests that kill servers: `python -m registry.testing.server_process --help`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import uvloop

from registry.raft.disk import Identity, bootstrap, holds_raft_state
from registry.raft.driver import RaftDriver
from registry.raft.messages import Configuration
from registry.raft.messages import Server as RaftServer
from registry.raft.settings import RaftSettings
from registry.server.network import NetworkSettings, ServerNetwork
from registry.server.reconcile import LocalServerFacts
from registry.server.server import Server, ServerSettings
from registry.state.machine import StateMachine
from registry.storage.rocks import RocksStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the data directory")
    parser.add_argument("--id", required=True, help="which of the peers this is")
    parser.add_argument("--peer", action="append", required=True, help="id=host:port, each server")
    parser.add_argument("--election-timeout-ms", type=int, default=1000)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    peers = [RaftServer(*peer.split("=", 1)) for peer in given.peer]
    server = _make(given.id, peers, given.data, given.election_timeout_ms)
    uvloop.run(_run(server))


def _make(server_id: str, peers: list[RaftServer], data: Path, election_timeout_ms: int) -> Server:
    host, _, port = next(peer.address for peer in peers if peer.id == server_id).rpartition(":")
    store = RocksStore.open(data / "store")
    if not holds_raft_state(store):
        bootstrap(store, Configuration(tuple(peers)), Identity(server_id, ""))
    machine = StateMachine(store)
    network = ServerNetwork(
        NetworkSettings(
            datacenter="dc1",
            node_name=server_id,
            server_id=server_id,
            bind_host=host,
            port=int(port),
            advertise_host=host,
        )
    )
    driver = RaftDriver(
        server_id=server_id,
        store=store,
        machine=machine,
        transport=network.transport,
        settings=RaftSettings(election_timeout_ms=election_timeout_ms),
        snapshot_directory=data / "snapshots",
    )
    network.bind()
    facts = LocalServerFacts(
        node_id=server_id,
        node_name=server_id,
        address=host,
        datacenter="dc1",
        server_port=int(port),
    )
    return Server(ServerSettings(facts), machine, driver, network)


async def _run(server: Server) -> None:
    await server.run()


if __name__ == "__main__":
    main()
