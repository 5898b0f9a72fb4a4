"""A whole agent in the test's own event loop, on free ports, with plugins that the test hands in.

    async with agent_in_process({"mine": MyPlugin()}) as agent:
        answer = await agent.http.get("/v1/kv/a")

It is the agent that `registry agent -dev` runs, without signals and log set-up. Settings of plugins
and everything else that a configuration file may say go into `config`.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from registry.agent.flags import parse_agent_flags
from registry.agent.loading import load_flags, selection_of
from registry.agent.logs import LogTap
from registry.agent.node import Node
from registry.dns import DnsServer
from registry.http.change_data import show_record
from registry.http.server import HttpServer
from registry.http.watch_data import render_watch
from registry.plugins import Plugins
from registry.plugins.settings import PluginSelection
from registry.testing.ports import free_ports
from registry.testing.process import PORT_NAMES

#: Until an agent serves.
START_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class InProcessAgent:
    """A running agent: its HTTP API, its parts, and where its files are."""

    node: Node
    http: httpx.AsyncClient
    plugins: Plugins
    config_dir: Path

    def report(self, name: str) -> dict[str, Any]:
        """What `/v1/agent/plugins` says of one plugin."""
        (entry,) = [entry for entry in self.plugins.report() if entry["Name"] == name]
        return entry

    def write_config(self, name: str, content: object) -> None:
        """Put a file into the configuration directory, which the agent follows."""
        (self.config_dir / name).write_text(json.dumps(content))


@asynccontextmanager
async def agent_in_process(
    plugins: Mapping[str, object] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = ("-dev",),
    data_dir: Path | None = None,
) -> AsyncIterator[InProcessAgent]:
    """Run an agent with these plugins, by name, until the block ends.

    Of an installed plugin with one of these names, nothing is loaded.
    With `data_dir` and `arguments` like `("-server", "-bootstrap")` it keeps its state from one
    block to the next.
    """
    with tempfile.TemporaryDirectory(prefix="registry-agent-") as directory:
        config_dir = Path(directory)
        settings = {
            "node_name": "test-node",
            "bind_addr": "127.0.0.1",
            "ports": dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True)),
            "performance": {"raft_multiplier": 1},
            **({"data_dir": str(data_dir)} if data_dir else {}),
            **(config or {}),
        }
        (config_dir / "00-test.json").write_text(json.dumps(settings))
        flags = parse_agent_flags([*arguments, f"-config-dir={config_dir}"])
        replaced = PluginSelection(disable=tuple(plugins or ()))
        directories = [Path(path) for path in flags.plugin_dirs]
        loaded_plugins = Plugins.load(directories, replaced)
        for name, plugin in (plugins or {}).items():
            loaded_plugins.add(name, plugin, source="test")
        loaded = load_flags(flags, loaded_plugins)
        loaded_plugins.narrow(selection_of(loaded.config))
        loaded_plugins.configure(loaded.plugin_settings)
        node = Node(
            loaded,
            flags=flags,
            plugins=loaded_plugins,
            make_faces=(HttpServer, DnsServer),
            render_watch=render_watch,
            show_record=show_record,
            tap=LogTap(),
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(node.run())
            await _serving(node, running)
            url = f"http://127.0.0.1:{loaded.config.ports.http}"
            async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
                try:
                    yield InProcessAgent(node, http, loaded_plugins, config_dir)
                finally:
                    node.stop("the test ends")


async def _serving(node: Node, running: asyncio.Task[None]) -> None:
    async with asyncio.timeout(START_LIMIT_S), asyncio.TaskGroup() as group:
        started = group.create_task(_wait(node.running))
        await asyncio.wait((started, running), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
