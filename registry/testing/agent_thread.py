"""A whole agent in a thread of the test's process, for tests that are not asynchronous.

    with agent_thread({"mine": MyPlugin()}) as agent:
        agent.client.get("/v1/kv/a")

Plugins are objects of the test: what they were told can be looked at directly.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from registry.client import Client, Settings
from registry.testing.in_process import InProcessAgent, agent_in_process


class AgentThread:
    """A running agent: a client of its HTTP API, and what it says of its plugins."""

    def __init__(self, agent: InProcessAgent) -> None:
        self._agent = agent
        #: `host:port`, as `REGISTRY_HTTP_ADDR` takes it.
        self.http_address = f"127.0.0.1:{agent.node.config.ports.http}"
        self.client = Client(Settings(address=self.http_address))

    def report(self, name: str) -> dict[str, Any]:
        """What `/v1/agent/plugins` says of one plugin."""
        return self._agent.report(name)

    def write_config(self, name: str, content: object) -> None:
        """Put a file into the configuration directory, which the agent follows."""
        self._agent.write_config(name, content)


class _Started(NamedTuple):
    agent: InProcessAgent
    loop: asyncio.AbstractEventLoop
    end: asyncio.Event


@contextmanager
def agent_thread(
    plugins: Mapping[str, object] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = ("-dev",),
    data_dir: Path | None = None,
) -> Iterator[AgentThread]:
    """Run an agent until the block ends; arguments are those of `agent_in_process`.

    Raises what kept the agent from starting, and at the end of the block what went wrong in it.
    """
    started: Future[_Started] = Future()
    problems: list[BaseException] = []

    async def serve() -> None:
        running = agent_in_process(plugins, config=config, arguments=arguments, data_dir=data_dir)
        async with running as agent:
            end = asyncio.Event()
            started.set_result(_Started(agent, asyncio.get_running_loop(), end))
            await end.wait()

    def run() -> None:
        try:
            uvloop.run(serve())
        except BaseException as problem:
            if started.done():
                problems.append(problem)
            else:
                started.set_exception(problem)

    thread = threading.Thread(target=run, name="agent")
    thread.start()
    try:
        agent, loop, end = started.result()
        try:
            yield AgentThread(agent)
        finally:
            if thread.is_alive():
                loop.call_soon_threadsafe(end.set)
    finally:
        thread.join()
    if problems:
        raise problems[0]
