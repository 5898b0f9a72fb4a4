"""`plugins.settings.schema`: which prefixes have which schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .schema import NoSchema, Schema

Document = dict[str, Any] | bool


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`prefixes` has a schema, or the path of a file with one, for each prefix of keys. Under
    `keys`, if it is not empty, the KV store has more of them.

    Files are read as the settings are, so that a reload sees what they say then; from there on
    `prefixes` has their contents. Raises `ValueError` for what is no schema.
    """

    prefixes: Mapping[str, dict[str, Any] | bool | str] = {}
    keys: str = ""

    def __post_init__(self) -> None:
        if self.keys and not self.keys.endswith("/"):
            raise ValueError("keys must end in a slash")
        read = {prefix: _document(prefix, given) for prefix, given in self.prefixes.items()}
        msgspec.structs.force_setattr(self, "prefixes", read)
        self.schemas()

    def schemas(self) -> dict[str, Schema]:
        """The schemas by prefix."""
        return {prefix: _schema(prefix, document) for prefix, document in self.prefixes.items()}


def _document(prefix: str, given: dict[str, Any] | bool | str) -> Document:
    if not isinstance(given, str):
        return given
    try:
        document: Document = msgspec.json.decode(Path(given).read_bytes())
    except OSError as problem:
        raise ValueError(f"{prefix}: {given}: {problem.strerror}") from problem
    except (msgspec.DecodeError, RecursionError) as problem:
        raise ValueError(f"{prefix}: {given}: {problem}") from problem
    return document


def _schema(prefix: str, document: object) -> Schema:
    try:
        return Schema(document)
    except NoSchema as problem:
        raise ValueError(f"{prefix}: not a schema: {problem}") from problem
