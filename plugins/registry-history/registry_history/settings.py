"""What `plugins.settings.history` in the configuration may say."""

from __future__ import annotations

from typing import Annotated

import msgspec


class HistorySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is kept. What a key is now is always kept."""

    #: Versions of one key.
    versions_max: Annotated[int, msgspec.Meta(ge=1)] = 100
    #: Days that a version is kept after it was replaced; 0 = for ever.
    age_days_max: Annotated[float, msgspec.Meta(ge=0)] = 90.0

    @property
    def age_ms_max(self) -> int | None:
        return int(self.age_days_max * 24 * 3600 * 1000) or None
