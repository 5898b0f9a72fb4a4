"""`plugins.settings.appconfig`: where the layers are, and how names are put together."""

from __future__ import annotations

import re

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`separator` parts the words of a key's name (`db.host`), `env_separator` those of the
    variable (`DB_HOST`). `reach` are the prefixes that `${kv:…}` may refer to; "" is everything.
    """

    prefix: str = "config/"
    shared: str = "_shared"
    separator: str = "."
    env_separator: str = "_"
    reach: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if self.prefix and not self.prefix.endswith("/"):
            raise ValueError("prefix must end in a slash")
        if self.prefix.startswith("/"):
            raise ValueError("prefix must not begin with a slash")
        if not self.separator or set(self.separator) & set("${}:/"):
            raise ValueError("separator must be some characters, without any of ${}:/")
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.env_separator):
            raise ValueError("env_separator must be letters, digits or underscores")
