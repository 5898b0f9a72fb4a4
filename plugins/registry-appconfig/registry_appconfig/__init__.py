"""An application's whole configuration in one request, merged from layers of the KV store.

`layers` says which keys make a configuration and which of them wins, `references` puts in what
they refer to, `formats` writes the result down; all three are pure. `reading` gets the layers of
one moment from the agent and waits for changes, `route` is the endpoint, `commands` and
`supervisor` are `registry appconfig render` and `exec`.
"""

from __future__ import annotations

import msgspec

from registry.hooks import CliCommand, HttpRoute, PluginContext, hookimpl

from .settings import Settings

__version__ = "0.1.0"


@hookimpl
def registry_settings() -> type[msgspec.Struct]:
    return Settings


@hookimpl
async def registry_start(context: PluginContext) -> None:
    from .route import contexts

    contexts[context.node_id] = context


@hookimpl
async def registry_stop(context: PluginContext) -> None:
    from .route import contexts

    contexts.pop(context.node_id, None)


@hookimpl
def registry_http_routes() -> list[HttpRoute]:
    from .route import LIMIT_S, OPERATION, PATTERN, serve

    return [
        HttpRoute(
            method="GET", pattern=PATTERN, handler=serve, operations=(OPERATION,), limit_s=LIMIT_S
        )
    ]


@hookimpl
def registry_cli_commands() -> list[CliCommand]:
    from .commands import COMMANDS  # late: no agent needs it

    return COMMANDS
