"""Fixtures for tests of plugins, and of whatever else needs an agent or a cluster.

A project takes them by a line in the `conftest.py` beside its `pyproject.toml`:

    pytest_plugins = ["registry.testing.pytest_plugin"]

There is no entry point on purpose: in an environment where the registry is installed, a test run
that does not ask for this neither imports it nor pays for it.

Nothing here needs asynchronous tests, and all of it works in them. Everything that was started ends
with its test. For a storage engine, subclass `registry.testing.storage.StoreContract`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from registry.testing.agent_cluster import AgentCluster
    from registry.testing.agent_thread import AgentThread
    from registry.testing.change_recorder import ChangeRecorder

# An engine that breaks the contract is told with the values that differ.
_CONTRACT = "registry.testing.storage"
if _CONTRACT not in sys.modules:
    pytest.register_assert_rewrite(_CONTRACT)

# The agent is imported by the tests that start one.


class StartAgent(Protocol):
    """What the fixture `registry_agent` gives."""

    def __call__(
        self,
        plugins: Mapping[str, object] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        arguments: Sequence[str] = ("-dev",),
        data_dir: Path | None = None,
    ) -> AgentThread: ...


class StartCluster(Protocol):
    """What the fixture `registry_cluster` gives."""

    def __call__(
        self,
        *,
        servers: int = 3,
        clients: int = 0,
        config: Mapping[str, object] | None = None,
        plugin_dirs: Sequence[Path] = (),
    ) -> AgentCluster: ...


@pytest.fixture
def registry_agent() -> Iterator[StartAgent]:
    """Starts agents in the test's process, on free ports, with plugins of the test.

    `registry_agent({"mine": my_plugin}, config={"plugins": {"settings": {"mine": {…}}}})`: a plugin
    is a module or an object with hooks. Installed plugins are there as well, but for those that
    the test brings under the same name.
    """
    from registry.testing.agent_thread import agent_thread

    with ExitStack() as started:

        def start(plugins: Mapping[str, object] | None = None, **options: Any) -> AgentThread:
            return started.enter_context(agent_thread(plugins, **options))

        yield start


@pytest.fixture
def registry_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Starts clusters of real processes: three servers, unless told otherwise.

    `registry_cluster(plugin_dirs=[DIR])` gives an `AgentCluster` once all agree on a leader: its
    `servers` can be killed and started again, `leader()` waits for one.
    """
    from registry.testing.agent_cluster import AgentCluster

    with ExitStack() as started:
        clusters: list[AgentCluster] = []

        def start(*, plugin_dirs: Sequence[Path] = (), **options: Any) -> AgentCluster:
            root = tmp_path / f"cluster{len(clusters) + 1}"
            arguments = [f"-plugin-dir={directory}" for directory in plugin_dirs]
            cluster = started.enter_context(AgentCluster(root, arguments=arguments, **options))
            clusters.append(cluster)
            return cluster

        yield start


@pytest.fixture
def change_recorder() -> ChangeRecorder:
    """A plugin that keeps every change it is told; hand it to `registry_agent`."""
    from registry.testing.change_recorder import ChangeRecorder

    return ChangeRecorder()
