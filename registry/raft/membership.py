"""Configurations: who takes part, and the single steps by which that changes (thesis, chapter 4).

A change adds or takes away at most one voter, so any quorum before shares a server with any quorum
after. It names the configuration that it is based on, so that two operators do not undo each other
(R-42). The rules that need to know a leader's state (what is committed, who can be reached, how far
a learner is) are in `registry.raft.leader`; here is what a list alone can tell.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from registry.errors import Rejected, Unavailable
from registry.raft.invariants import BrokenPromise
from registry.raft.messages import Configuration, Entry, Role, Server


class ChangeRejected(Rejected):
    """A membership change that must not be made; the message says why."""


class ChangePending(Unavailable):
    """What must be committed before the next change is not yet (R-41); nothing was done, so repeat
    it."""


class Change(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Common to all: which server, and the index of the configuration the change is based on.
    `force` overrides the refusal of a change after which no quorum could be reached (R-42)."""

    id: str
    based_on: int
    force: bool = False


class AddLearner(Change, tag="add-learner", frozen=True, kw_only=True):
    """Let a server in: it gets the log, and counts for nothing until promoted (R-43)."""

    address: str


class Promote(Change, tag="promote", frozen=True, kw_only=True):
    """Make a learner a voter."""


class Demote(Change, tag="demote", frozen=True, kw_only=True):
    """Make a voter a learner."""


class Remove(Change, tag="remove", frozen=True, kw_only=True):
    """Put a server out."""


class ChangeAddress(Change, tag="change-address", frozen=True, kw_only=True):
    """A server has moved."""

    address: str


ConfigChange = AddLearner | Promote | Demote | Remove | ChangeAddress


def voter_ids(configuration: Configuration) -> tuple[str, ...]:
    return tuple(s.id for s in configuration.servers if s.role is Role.VOTER)


def find_server(configuration: Configuration, server_id: str) -> Server | None:
    return next((s for s in configuration.servers if s.id == server_id), None)


def next_configuration(current: Configuration, change: ConfigChange) -> Configuration:
    """The list after `change`, its index still to be set; `current` itself if nothing changes.

    Raises `ChangeRejected` when the change is based on another list or makes no sense.
    """
    server = find_server(current, change.id)
    changed = _changed(server, change)
    if changed == server:
        return current
    if change.based_on != current.index:
        raise ChangeRejected(
            f"the configuration has changed since: it is {current.index}, "
            f"not {change.based_on}; look at it again and retry"
        )
    if changed is not None:
        _check_address_is_free(current, changed)
    others = [s for s in current.servers if s.id != change.id]
    following = _sorted(others if changed is None else [*others, changed])
    if not voter_ids(following):
        raise ChangeRejected(f"{change.id} is the last voter; promote another server first")
    return following


def _changed(server: Server | None, change: ConfigChange) -> Server | None:
    """What becomes of the server that `change` names; None: it is not in the list."""
    if isinstance(change, AddLearner):
        if server is None:
            return Server(change.id, change.address, Role.LEARNER)
        if server.address != change.address:
            raise ChangeRejected(
                f"{change.id} is a member already, at {server.address}; change its address instead"
            )
        return server
    if isinstance(change, Remove):
        return None
    if server is None:
        raise ChangeRejected(f"{change.id} is not a member; add it as a learner first")
    if isinstance(change, ChangeAddress):
        return msgspec.structs.replace(server, address=change.address)
    role = Role.VOTER if isinstance(change, Promote) else Role.LEARNER
    return msgspec.structs.replace(server, role=role)


def _check_address_is_free(current: Configuration, changed: Server) -> None:
    for server in current.servers:
        if server.id != changed.id and server.address == changed.address:
            raise ChangeRejected(
                f"{changed.address} is the address of {server.id}; remove that server first"
            )


def _sorted(servers: Iterable[Server]) -> Configuration:
    return Configuration(tuple(sorted(servers, key=lambda s: s.id)))


def encode_configuration(configuration: Configuration) -> bytes:
    return msgspec.msgpack.encode(configuration)


def decode_configuration(entry: Entry) -> Configuration:
    """The list that a CONFIGURATION entry carries, placed at that entry's index."""
    try:
        value = msgspec.msgpack.decode(entry.data, type=Configuration)
    except msgspec.DecodeError as error:
        raise BrokenPromise("a configuration entry is unreadable", index=entry.index) from error
    return msgspec.structs.replace(value, index=entry.index)
