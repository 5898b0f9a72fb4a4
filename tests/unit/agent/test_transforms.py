"""Plugins change definitions of services before they are registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.agent.loading import load_config
from registry.hooks import ServiceTransform, hookimpl
from registry.plugins import Plugins
from registry.testing.consensus import InstantBackend
from registry.testing.local_agent import make_local, make_sync
from registry.testing.manual_clock import ManualClock
from registry.testing.serving import make_facade, serving


class Transforms:
    def __init__(self, *functions: Callable[[dict[str, Any], str], Any]) -> None:
        self._functions = functions

    @hookimpl
    def registry_service_transforms(self) -> list[ServiceTransform]:
        return [
            ServiceTransform(name=f"t{number}", transform=function)
            for number, function in enumerate(self._functions)
        ]


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    plugins = Plugins.load()
    yield plugins
    plugins.close()


def tagged(definition: dict[str, Any], source: str) -> Mapping[str, Any]:
    return {**definition, "Tags": [*definition.get("Tags", []), f"from-{source}"]}


def load(plugins: Plugins, tmp_path: Path) -> Any:
    (tmp_path / "web.json").write_text(
        '{"service": {"name": "web", "port": 80, "tags": ["a"],'
        ' "checks": [{"ttl": "30s", "name": "alive"}]}}'
    )
    (service,) = load_config(["-dev", f"-config-dir={tmp_path}"], plugins).services
    return service


def test_registry_service_transforms(plugins: Plugins, tmp_path: Path) -> None:
    plugins.add("mine", Transforms(tagged, lambda found, source: {**found, "Port": 81}))
    service = load(plugins, tmp_path)
    assert (service.tags, service.port) == (("a", "from-file"), 81)
    assert [check.name for check in service.checks] == ["alive"]


def fail(definition: dict[str, Any], source: str) -> None:
    raise LookupError("nobody")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (fail, "LookupError: nobody"),
        (lambda found, source: None, "gave NoneType, expected a mapping"),
        (lambda found, source: {**found, "Port": "x"}, "KeyProblem: "),
        (lambda found, source: {**found, "Name": ""}, "DefinitionRefused: "),
    ],
    ids=["raises", "no mapping", "wrong type", "invalid"],
)
def test_what_fails_leaves_the_definition_as_it_was(
    plugins: Plugins, tmp_path: Path, function: Any, error: str
) -> None:
    plain = load(plugins, tmp_path)
    plugins.add("mine", Transforms(function))
    assert load(plugins, tmp_path) == plain
    (report,) = [entry for entry in plugins.report() if entry["Name"] == "mine"]
    assert report["Errors"][0].startswith(f"registry_service_transforms: {error}")


async def test_over_http(plugins: Plugins) -> None:
    plugins.add("mine", Transforms(tagged))
    clock = ManualClock()
    local = make_local(clock)
    backend = InstantBackend()
    make_sync(local, backend, clock)
    facade = make_facade(local=local, plugins=plugins, backend=backend)
    async with (
        serving(facade) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        body = {"Name": "web"}
        assert (await client.put("/v1/agent/service/register", json=body)).status_code == 200
        assert (await client.get("/v1/agent/services")).json()["web"]["Tags"] == ["from-http"]
