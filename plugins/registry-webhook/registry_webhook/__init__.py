"""Tells a URL of every change in the registry: in order, signed, and missing none."""

from __future__ import annotations

from registry.hooks import ChangeSink, PluginContext, hookimpl

from .sending import Webhook
from .settings import Settings

__version__ = "0.1.0"

_webhook = Webhook()


@hookimpl
def registry_settings() -> type[Settings]:
    return Settings


@hookimpl
async def registry_start(context: PluginContext) -> None:
    await _webhook.configure(context)


@hookimpl
async def registry_settings_changed(context: PluginContext) -> None:
    await _webhook.configure(context)


@hookimpl
async def registry_stop() -> None:
    await _webhook.stop()


@hookimpl
def registry_change_sinks() -> list[ChangeSink]:
    return [ChangeSink(name="webhook", deliver=_webhook.deliver)]
