"""The registry's services as targets of Prometheus: `GET /v1/prometheus/sd`."""

from __future__ import annotations

from registry.hooks import HttpRoute, PluginContext, hookimpl

from .endpoint import OPERATION, PATH, Endpoint
from .settings import Settings

__version__ = "0.1.0"

_endpoint = Endpoint()


@hookimpl
def registry_settings() -> type[Settings]:
    return Settings


@hookimpl
async def registry_start(context: PluginContext) -> None:
    _endpoint.configure(context)


@hookimpl
async def registry_settings_changed(context: PluginContext) -> None:
    _endpoint.configure(context)


@hookimpl
def registry_http_routes() -> list[HttpRoute]:
    return [HttpRoute(method="GET", pattern=PATH, handler=_endpoint.serve, operations=(OPERATION,))]
