"""The plugins of an agent while it runs: what they are told of it, and when.

They are started once the HTTP API serves, since they ask the agent over it, and stopped before it
ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from registry.agent.config import AgentConfig
from registry.plugins import Plugins
from registry.plugins.lifecycle import AgentFacts, Lifecycle

if TYPE_CHECKING:
    from httpx import AsyncClient

#: A blocking query of a plugin may take the ten minutes that the API allows, and its jitter.
CLIENT_TIMEOUT_S = 660.0

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class PluginLife:
    """Starts and stops the plugins, and tells them of new settings."""

    def __init__(
        self,
        plugins: Plugins,
        config: AgentConfig,
        node_id: str,
        data_dir: Path | None,
        *,
        follow: Callable[[], None] = lambda: None,
    ) -> None:
        """`follow` is called when plugins contribute something else than before."""
        self._plugins = plugins
        self._follow = follow
        facts = AgentFacts(
            node_name=config.node_name,
            node_id=node_id,
            datacenter=config.datacenter,
            is_server=config.server,
            config=msgspec.to_builtins(config),
            make_client=local_client(config),
            data_dir=data_dir,
        )
        self._lifecycle = Lifecycle(plugins, facts)
        self._followed = plugins.generation

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The plugins are started, until the block ends."""
        await self._lifecycle.start()
        try:
            yield
        finally:
            await self._lifecycle.stop()

    async def put_in_force(self, settings: Mapping[str, msgspec.Struct]) -> None:
        """Put settings in force. A plugin that has those now that it needs contributes from here
        on, and one that has lost them no more."""
        await asyncio.to_thread(self._plugins.configure, settings)  # it asks plugins
        if self._plugins.generation != self._followed:
            self._followed = self._plugins.generation
            self._follow()

    async def tell(self, before: Mapping[str, msgspec.Struct]) -> None:
        """Tell the plugins whose settings are others than `before`."""
        after = self._plugins.settings
        if changed := {name for name in after if after[name] != before.get(name)}:
            await self._lifecycle.settings_changed(changed)


def local_client(config: AgentConfig) -> Callable[[], AsyncClient]:
    """Makes clients of this agent's own HTTP API; a plain TCP listener is preferred."""

    def make() -> AsyncClient:
        import httpx  # late: an agent without plugins does not need it here

        addresses = config.listen_addresses("http")
        timeout = httpx.Timeout(10.0, read=CLIENT_TIMEOUT_S)
        for address in addresses:
            if not address.startswith("unix://"):
                host = _ANY_ADDRESS.get(address, address)
                name = f"[{host}]" if ":" in host else host
                return httpx.AsyncClient(
                    base_url=f"http://{name}:{config.ports.http}", timeout=timeout, trust_env=False
                )
        path = addresses[0].removeprefix("unix://") if addresses else ""
        return httpx.AsyncClient(
            base_url="http://unix",
            transport=httpx.AsyncHTTPTransport(uds=path),
            timeout=timeout,
        )

    return make
