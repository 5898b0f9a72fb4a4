"""Recovery by hand: a cluster that has lost its quorum for good goes on with those that are left.

An operator stops all servers and puts the same `raft/peers.json` into the data directory of each
survivor:

    [{"id": "adf4238a-882b-9ddc-4a9d-5b6758e4159e", "address": "10.1.0.1:8300"},
     {"id": "8b6dda82-3103-11e7-93ae-92361f002671", "address": "10.1.0.2:8300", "non_voter": true}]

At its next start, before consensus begins, a server applies all entries that it has, committed or
not, and begins anew behind them with that list. Nothing that was acknowledged and is on its disk is
lost; what never was may appear.

The servers that are left out hold the old list and must not meet the recovered ones, whose majority
they could outvote. So the cluster gets a new id, made from the old one and the list: survivors come
to the same by themselves, all others are not listened to until they are wiped (R-60). Survivors
that had gone different ways since they last agreed can not both be right: the one that finds its
own entries contradicted stops, and is to be wiped too.

Source: requirements R-59, R-60.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path

import msgspec

from registry.errors import ConfigError, StorageError
from registry.raft.disk import DiskLog, Identity
from registry.raft.machine import Machine
from registry.raft.messages import Configuration, HardState, Role, Server, SnapshotMeta
from registry.raft.snapshots import FileSnapshots
from registry.storage.store import Store

logger = logging.getLogger("registry.server.recovery")

PEERS_FILE, INFO_FILE, SNAPSHOTS = "peers.json", "peers.info", "snapshots"

#: Entries applied at a time.
_APPLY_BYTES = 8 << 20

_INFO = """\
This directory is where the servers of a cluster that lost its quorum can be recovered by hand.

1. Stop all servers. Servers that are left out of what follows must never be started again with
   the data they have: wipe them first.
2. Write a file peers.json that lists the servers to go on with, the same on each of them:

   [
     {"id": "adf4238a-882b-9ddc-4a9d-5b6758e4159e", "address": "10.1.0.1:8300", "non_voter": false},
     {"id": "8b6dda82-3103-11e7-93ae-92361f002671", "address": "10.1.0.2:8300", "non_voter": false}
   ]

   The id of a server is in the file node-id of its data directory; the address is that of its
   server port. With "non_voter" a server gets the data but no vote.
3. Put it beside this file on each of these servers, and start them. Each reads it, once, and
   deletes it. Changes that were under way when the quorum was lost may take effect or be lost.

As long as a quorum can be had, use "operator raft remove-peer" instead.
"""


class _Peer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    address: str
    non_voter: bool = False


def recover_from_file(directory: Path, store: Store, machine: Machine, server_id: str) -> bool:
    """Carry out the recovery that `directory`/peers.json orders, if it does; whether it did.

    `directory` is the server's Raft directory, made if need be; `machine` is the state in `store`,
    which no driver runs on yet. Durable when it returns; the file is gone then. Blocks.

    A file that was there before `peers.info` is deleted unread: it was not meant for this (R-59).
    Raises `ConfigError` when the file is wrong or there is nothing to recover, and changes nothing.
    """
    peers, info = directory / PEERS_FILE, directory / INFO_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not info.exists():
            if peers.exists():
                logger.warning("deleted a %s that nobody can have put there for recovery", peers)
                peers.unlink()
            info.write_text(_INFO, encoding="utf-8")
            return False
        if not peers.exists():
            return False
        raw, modified_ns = peers.read_bytes(), peers.stat().st_mtime_ns
    except OSError as problem:
        raise StorageError(f"cannot use the directory {directory}: {problem}") from problem
    # A crash may leave the file behind although it was obeyed.
    order = f"{modified_ns} {hashlib.sha256(raw).hexdigest()}"
    log = DiskLog(store)
    is_new = log.recovery != order
    if is_new:
        servers = read_peers(raw, log.configuration, file=str(peers))
        _check(servers, log, server_id, file=str(peers))
        _recover(servers, order, log, store, machine, directory / SNAPSHOTS)
    # Snapshots of before hold the old list, so nobody may be sent one.
    shutil.rmtree(directory / SNAPSHOTS, ignore_errors=True)
    peers.unlink()
    return is_new


def read_peers(raw: bytes, known: Configuration, *, file: str) -> tuple[Server, ...]:
    """The servers in a peers.json, by id. Raises `ConfigError` for anything that is not just right.

    The older form, a list of addresses, is for servers that `known` has at these addresses.
    """
    try:
        found = msgspec.json.decode(raw, type=list[_Peer | str])
    except msgspec.DecodeError as problem:
        raise ConfigError(
            f"not a list of servers with id and address: {problem}", file=file
        ) from problem
    if len({type(peer) for peer in found}) > 1:
        raise ConfigError("either all servers are given by id and address, or none", file=file)
    servers = [_server(peer, known, file) for peer in found]
    for what, values in (
        ("id", [server.id for server in servers]),
        ("address", [server.address for server in servers]),
    ):
        if len(set(values)) < len(values):
            raise ConfigError(f"two servers have the same {what}", file=file)
    if not any(server.role is Role.VOTER for server in servers):
        raise ConfigError("no server in it is a voter", file=file)
    return tuple(sorted(servers, key=lambda server: server.id))


def _server(peer: _Peer | str, known: Configuration, file: str) -> Server:
    if isinstance(peer, str):
        found = next((server for server in known.servers if server.address == peer), None)
        if found is None:
            raise ConfigError(
                f"no server is known at {peer}; give its id and address instead", file=file
            )
        return Server(found.id, found.address, Role.VOTER)
    if not peer.id:
        raise ConfigError("a server has no id", file=file)
    host, _, port = peer.address.rpartition(":")
    if not host.strip("[]") or not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ConfigError(f"{peer.address!r} is no address like 10.1.0.1:8300", file=file)
    return Server(peer.id, peer.address, Role.LEARNER if peer.non_voter else Role.VOTER)


def _check(servers: tuple[Server, ...], log: DiskLog, server_id: str, *, file: str) -> None:
    if log.is_empty or log.identity is None:
        raise ConfigError(
            "this server has no data to recover; delete the file and let it join the others",
            file=file,
        )
    if log.identity.server_id != server_id:
        raise ConfigError(
            f"the data directory belongs to {log.identity.server_id}, not to {server_id}", file=file
        )
    if all(server.id != server_id for server in servers):
        raise ConfigError(
            f"this server ({server_id}) is not in it; wipe this server, or list it", file=file
        )


def _recover(
    servers: tuple[Server, ...],
    order: str,
    log: DiskLog,
    store: Store,
    machine: Machine,
    snapshots: Path,
) -> None:
    identity = log.identity
    assert identity is not None, "checked before"
    if (pending := log.pending_install) is not None:
        machine.restore(FileSnapshots(snapshots).chunks(pending.id))
        log.finish_install(pending)
    _apply_all(log, machine)
    index = log.last_index()
    term = log.term(index) or 0
    meta = SnapshotMeta(
        id=f"{term}-{index}",
        index=index,
        term=term,
        configuration=Configuration(servers, index),
    )
    recovered = Identity(identity.server_id, _next_cluster_id(identity.cluster_id, servers))
    # A term that nobody has voted in yet: an election that was under way is void.
    log.recover(meta, HardState(max(log.hard_state.term, term) + 1), recovered, order)
    store.sync()
    logger.warning(
        "recovered by hand: index=%d cluster=%s servers=[%s]",
        index,
        recovered.cluster_id,
        " ".join(server.id for server in servers),
    )


def _apply_all(log: DiskLog, machine: Machine) -> None:
    """Apply what is on disk, committed or not: there is nobody left to ask which it is."""
    last = log.last_index()
    while (applied := machine.applied_index) < last:
        machine.apply(log.entries(applied + 1, last + 1, _APPLY_BYTES))


def _next_cluster_id(cluster_id: str, servers: tuple[Server, ...]) -> str:
    digest = hashlib.sha256(cluster_id.encode() + b"\n" + msgspec.msgpack.encode(servers))
    return digest.hexdigest()[:16]
