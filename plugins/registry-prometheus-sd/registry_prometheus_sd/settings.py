"""What the configuration says under `plugins.settings.prometheus-sd`."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    #: Between a service's tags, and around all of them.
    tag_separator: str = ","
    #: For so long a service whose index is the same as before is not looked into again.
    cache_s: Annotated[float, msgspec.Meta(ge=0, le=300)] = 30.0
