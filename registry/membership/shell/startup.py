"""The cores as a pool begins: from its settings, and from what was kept on disk."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field

import msgspec

from registry.errors import ConfigError, Rejected
from registry.membership.addresses import Address
from registry.membership.context import SerfContext
from registry.membership.core import SwimCore
from registry.membership.crypto import Keyring
from registry.membership.member_table import MemberTable
from registry.membership.merge_rules import MergeRules
from registry.membership.pool_core import PoolCore
from registry.membership.serf import SerfCore
from registry.membership.settings import PoolSettings
from registry.membership.shell import keyring_file, snapshot_file
from registry.membership.snapshot import SnapshotLog, SnapshotState


@dataclass(frozen=True, slots=True)
class Kept:
    """What was on disk: no ring, no encryption; no snapshot, no file for one."""

    ring: Keyring | None = None
    snapshot: SnapshotLog | None = None
    #: How the last run ended.
    previous: SnapshotState = field(default_factory=SnapshotState)


def read(settings: PoolSettings, log: logging.Logger) -> Kept:
    """Raises `ConfigError` for files that cannot be used."""
    ring = _read_ring(settings, log)
    path = settings.snapshot_file
    if path is None:
        return Kept(ring)
    rejoins = settings.serf.rejoins_after_leave
    state, size_bytes, strange = snapshot_file.load(path, rejoin_after_leave=rejoins)
    for line in strange:
        log.warning("a line of the snapshot is unknown: file=%s line=%r", path, line)
    previous = SnapshotState(dict(state.alive), state.clock, state.event_clock, state.query_clock)
    return Kept(ring, SnapshotLog(state, size_bytes, rejoin_after_leave=rejoins), previous)


def _read_ring(settings: PoolSettings, log: logging.Logger) -> Keyring | None:
    path = settings.keyring_file
    stored = keyring_file.load(path) if path else ()
    keys = stored or settings.keys
    if not keys:
        return None
    if any(key not in keys for key in settings.keys):
        # Put back, a key that the pool has removed would open old recordings again.
        log.warning("the keyring on disk counts, not the configured key: file=%s", path)
    try:
        ring = Keyring(keys)
        if path and ring.keys != stored:
            keyring_file.write(path, ring.keys)
    except (Rejected, OSError) as problem:
        where = str(path) if path else None
        raise ConfigError(f"the gossip keyring: {problem}", file=where) from problem
    return ring


def build(
    settings: PoolSettings, kept: Kept, *, address: Address, rules: MergeRules, now_ms: float
) -> PoolCore:
    """A pool of one, whom others reach at `address`."""
    # Chance is for spreading load and finding names, not for secrets.
    rng = random.Random(random.SystemRandom().getrandbits(64))
    versions = msgspec.structs.replace(
        settings.swim.versions, delegate_current=settings.serf.protocol
    )
    swim = SwimCore(
        msgspec.structs.replace(settings.swim, versions=versions),
        name=settings.name,
        address=address,
        rng=rng,
        keyring=kept.ring,
    )
    has_keyring_file = settings.keyring_file is not None
    context = SerfContext(
        config=msgspec.structs.replace(settings.serf, persists_keyring=has_keyring_file),
        name=settings.name,
        address=address,
        tags=dict(settings.tags),
        rng=rng,
        compile_pattern=settings.compile_pattern,
        members=MemberTable(recent_intent_timeout_ms=settings.serf.recent_intent_timeout_ms),
        lower=swim,
        gossip_interval_ms=settings.swim.gossip_interval_ms,
        ring=kept.ring,
        now_ms=int(now_ms),
    )
    serf = SerfCore(
        context,
        rules=rules,
        retransmit_mult=settings.swim.retransmit_mult,
        snapshot=kept.snapshot,
        previous=kept.previous,
    )
    return PoolCore(swim, serf, now_ms)
