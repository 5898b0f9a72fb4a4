"""Which schema a key has: the one of the longest prefix that it begins with."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from registry.hooks import KvWrite, WriteRefused

from .schema import NoSchema, Schema

#: Verbs that write a value.
WRITING = frozenset({"set", "cas", "lock", "unlock"})


class Table:
    """The schemas of one moment: those of the settings, and those that stand under `keys`.

    `stored` are the latter, by prefix, None for one that is no schema. The settings win.
    """

    def __init__(
        self, configured: Mapping[str, Schema], stored: Mapping[str, Schema | None], keys: str
    ) -> None:
        self._schemas = {**stored, **configured}
        self._longest_first = sorted(self._schemas, key=len, reverse=True)
        self._keys = keys

    def judge(self, write: KvWrite) -> None:
        """Raises `WriteRefused` when the value breaks the key's schema."""
        if write.verb not in WRITING:
            return
        key, value = write.key, write.value or b""
        if self._keys and key.startswith(self._keys):
            self._judge_schema(key, value)
            return
        prefix = next((each for each in self._longest_first if key.startswith(each)), None)
        # An empty value under a slash is how user interfaces make a folder.
        if prefix is None or (key.endswith("/") and not value):
            return
        schema = self._schemas[prefix]
        if schema is None:
            raise WriteRefused(f"{key} cannot be judged: {self._keys}{prefix} is not a schema")
        if problems := schema.problems(value):
            raise WriteRefused(f"{key} breaks the schema of {prefix}: {'; '.join(problems)}")

    def _judge_schema(self, key: str, value: bytes) -> None:
        try:
            read_schema(value)
        except NoSchema as problem:
            raise WriteRefused(f"{key} would not be a schema: {problem}") from problem


def read_schema(value: bytes) -> Schema:
    """Raises `NoSchema`."""
    try:
        return Schema(msgspec.json.decode(value))
    except (msgspec.DecodeError, RecursionError) as problem:
        raise NoSchema(f"not JSON: {problem}") from problem
