"""Keeps every version of every key: who wrote it, when and why; shows, compares, rolls back."""

from __future__ import annotations

from collections.abc import Sequence

from registry.hooks import (
    Change,
    ChangeSink,
    CliCommand,
    HttpRoute,
    PluginContext,
    UiPanel,
    hookimpl,
)

from .settings import HistorySettings

__version__ = "0.1.0"

# What an agent needs and the command line does not is imported late.


@hookimpl
def registry_settings() -> type[HistorySettings]:
    return HistorySettings


@hookimpl
async def registry_start(context: PluginContext) -> None:
    from .keeper import keeper

    keeper().open(context)


@hookimpl
async def registry_settings_changed(context: PluginContext) -> None:
    from .keeper import keeper

    keeper().settings_changed(context.settings)


@hookimpl
async def registry_stop(context: PluginContext) -> None:
    from .keeper import keeper

    keeper().close()


async def _deliver(changes: Sequence[Change]) -> None:
    from .keeper import keeper

    await keeper().deliver(changes)


@hookimpl
def registry_change_sinks() -> list[ChangeSink]:
    return [
        ChangeSink(
            name="history",
            deliver=_deliver,
            kinds=frozenset({"kv", "complete"}),
            where="server",
            wants_origin=True,
        )
    ]


@hookimpl
def registry_http_routes() -> list[HttpRoute]:
    from .routes import routes

    return routes()


@hookimpl
def registry_ui_panels() -> list[UiPanel]:
    from .panels import panels

    return panels()


@hookimpl
def registry_cli_commands() -> list[CliCommand]:
    from .commands import COMMANDS

    return COMMANDS
