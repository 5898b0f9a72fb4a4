"""What the configuration says under `plugins.settings.webhook`."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from registry.hooks import Secret

from .signing import SIGNATURE_HEADER, TIMESTAMP_HEADER

#: Headers that say what the body is; nobody else may set them.
OWN_HEADERS = ("content-type", "content-length", SIGNATURE_HEADER, TIMESTAMP_HEADER)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`url` and `secret` have no default: without them the plugin does nothing."""

    url: str
    secret: Annotated[str, Secret, msgspec.Meta(min_length=16)]
    kinds: tuple[Literal["kv", "node", "service", "check", "member"], ...] = (
        "kv",
        "node",
        "service",
        "check",
        "member",
    )
    #: Beginnings of the keys of the KV store that are told; none: all keys.
    prefixes: tuple[str, ...] = ()
    headers: dict[str, Annotated[str, Secret]] = msgspec.field(default_factory=dict)
    #: For one request; a delivery as a whole has a minute.
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=30)] = 10.0
    #: Changes in one request.
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    proxy: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be http://… or https://…")
        for name in self.headers:
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"the header {name} is set by the plugin itself")

    @property
    def place(self) -> str:
        """The URL for logs: without user, password and query, which may hold secrets."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
