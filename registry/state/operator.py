"""Operators' settings that all servers share: how autopilot treats servers."""

from __future__ import annotations

import msgspec

from registry.state.base import Command, Query, Transaction
from registry.state.tables import Table
from registry.state.topics import Topic, table_topic
from registry.storage.store import Reader

_KEY = "autopilot"


class AutopilotSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times in nanoseconds."""

    cleanup_dead_servers: bool = False
    last_contact_threshold_ns: int = 0
    max_trailing_logs: int = 0
    min_quorum: int = 0
    server_stabilization_time_ns: int = 0
    redundancy_zone_tag: str = ""
    disable_upgrade_migration: bool = False
    upgrade_version_tag: str = ""


class AutopilotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The settings as stored."""

    settings: AutopilotSettings
    create_index: int
    modify_index: int


_TABLE: Table[AutopilotRecord] = Table("operator", AutopilotRecord)


#: The index of settings that nobody has set yet, as reads show it.
UNSET_INDEX = 1


class SetAutopilot(Command, frozen=True, kw_only=True, tag="operator-autopilot"):
    """Replace the settings; with `cas_index`, only if that is their index. Gives whether it did."""

    settings: AutopilotSettings
    cas_index: int | None = None

    def apply(self, tx: Transaction) -> bool:
        known = _TABLE.get(tx, _KEY)
        # Of settings that are not there a client may have been shown `UNSET_INDEX`.
        current = (known.modify_index,) if known else (0, UNSET_INDEX)
        if self.cas_index is not None and self.cas_index not in current:
            return False
        record = AutopilotRecord(
            settings=self.settings,
            create_index=known.create_index if known else tx.index,
            modify_index=tx.index,
        )
        _TABLE.put(tx, record, _KEY)
        tx.touch(table_topic("operator"))
        return True


class GetAutopilot(Query, frozen=True, kw_only=True, tag="operator-autopilot"):
    """The stored settings, None while nobody has set them."""

    def run(self, reader: Reader) -> tuple[int, AutopilotRecord | None]:
        record = _TABLE.get(reader, _KEY)
        return (record.modify_index if record else 0), record

    def topics(self, reader: Reader) -> tuple[Topic, ...]:
        return (table_topic("operator"),)
