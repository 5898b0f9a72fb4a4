"""JSON Schema for prefixes of the KV store: a write that breaks its schema is refused.

`schema` judges one value, `table` finds the schema of a key, `following` keeps the schemas up to
date that stand in the KV store itself.
"""

from __future__ import annotations

import msgspec

from registry.hooks import KvValidator, PluginContext, hookimpl

from .following import Judge
from .settings import Settings

__version__ = "0.1.0"

_judge = Judge()


@hookimpl
def registry_settings() -> type[msgspec.Struct]:
    return Settings


@hookimpl
async def registry_start(context: PluginContext) -> None:
    _judge.begin(context)


@hookimpl
async def registry_settings_changed(context: PluginContext) -> None:
    _judge.begin(context)


@hookimpl
async def registry_stop(context: PluginContext) -> None:
    _judge.end()


@hookimpl
def registry_kv_validators() -> list[KvValidator]:
    return [KvValidator(name="schema", validate=_judge.validate)]
