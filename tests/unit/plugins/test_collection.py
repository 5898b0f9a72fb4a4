"""Finding, ordering, isolating and reporting plugins."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry import hooks
from registry.errors import ConfigError, PluginError, StorageError
from registry.hooks import (
    CheckResult,
    CheckType,
    CliCommand,
    DefinitionSource,
    HttpRoute,
    StorageEngine,
    WatchHandler,
    hookimpl,
)
from registry.plugins import Plugins
from registry.plugins.settings import PluginSelection


class Passing:
    async def run(self) -> CheckResult:
        return CheckResult("passing")


def kind(key: str, runner: Any = Passing, type_name: str = "test") -> CheckType:
    return CheckType(key=key, type_name=type_name, create=lambda definition: runner())


class OneKind:
    """A plugin with one check type."""

    def __init__(self, key: str, runner: Any = Passing) -> None:
        self.key, self.runner = key, runner

    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        return [kind(self.key, self.runner)]


@pytest.fixture
def plugins() -> Plugins:
    return Plugins.load()


def reported(plugins: Plugins, name: str) -> dict[str, Any]:
    (entry,) = [entry for entry in plugins.report() if entry["Name"] == name]
    return entry


def plugin_keys(plugins: Plugins) -> list[str]:
    builtin = [kind.key for kind in Plugins.load().check_types()]
    return [kind.key for kind in plugins.check_types() if kind.key not in builtin]


# -- built-in features


def test_built_in_features_come_through_the_same_hooks(plugins: Plugins) -> None:
    keys = [kind.key for kind in plugins.check_types()]
    assert {"args", "http", "tcp", "ttl", "alias_service", "grpc"} <= set(keys)
    assert [engine.name for engine in plugins.storage_engines()] == ["rocksdict", "memory"]
    assert [source.suffix for source in plugins.definition_sources()] == [".json", ".hcl"]
    handlers = [handler.key for handler in plugins.watch_handlers()]
    assert {"args", "handler", "http_handler_config"} <= set(handlers)
    assert plugins.report()[0]["Name"] == "builtin"
    assert plugins.report()[0]["Errors"] == []


@pytest.mark.parametrize("name", ["rocksdict", "memory"])
def test_built_in_engines_open(plugins: Plugins, tmp_path: Path, name: str) -> None:
    engine = plugins.storage_engine(name)
    assert engine.durable == (name == "rocksdict")
    store = engine.open(tmp_path / "store")
    assert store.get(b"absent") is None
    store.close()


def test_built_in_sources_read(plugins: Plugins) -> None:
    texts = {".json": '{"server": true}', ".hcl": "server = true"}
    for source in plugins.definition_sources():
        assert source.load(Path("a" + source.suffix), texts[source.suffix]) == {"server": True}


def test_unknown_names(plugins: Plugins) -> None:
    with pytest.raises(ConfigError, match="no storage engine 'etcd'; known are memory, rocksdict"):
        plugins.storage_engine("etcd")
    assert plugins.check_type("nothing") is None
    assert plugins.watch_handler("nothing") is None


def test_importing_the_module_loads_no_feature() -> None:
    """The command line imports it; a storage engine or the agent would cost its start-up time."""
    code = "import sys, registry.plugins; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(answer.stdout.split())
    unwanted = {"rocksdict", "registry.agent", "registry.storage.rocks", "importlib.metadata"}
    assert not loaded & unwanted


# -- each hook, named after it


def test_registry_check_types(plugins: Plugins) -> None:
    plugins.add("mine", OneKind("mine"))
    found = plugins.check_type("mine")
    assert found is not None
    assert found.type_name == "test"
    assert reported(plugins, "mine")["Hooks"] == ["registry_check_types"]


def test_registry_storage_engines(plugins: Plugins, tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def registry_storage_engines(self) -> list[StorageEngine]:
            return [StorageEngine(name="strings", open=str, durable=False)]

    plugins.add("mine", Plugin())
    assert plugins.storage_engine("strings").open(tmp_path) == str(tmp_path)
    assert plugins.storage_engine("strings").durable is False


def test_registry_definition_sources(plugins: Plugins) -> None:
    class Plugin:
        @hookimpl
        def registry_definition_sources(self) -> list[DefinitionSource]:
            return [DefinitionSource(suffix=".ini", load=lambda path, text: {"node_name": text})]

    plugins.add("mine", Plugin())
    (source,) = [it for it in plugins.definition_sources() if it.suffix == ".ini"]
    assert source.load(Path("a.ini"), "n1") == {"node_name": "n1"}


async def test_registry_watch_handlers(plugins: Plugins) -> None:
    seen: list[tuple[int, bytes]] = []

    class Plugin:
        @hookimpl
        def registry_watch_handlers(self) -> list[WatchHandler]:
            async def handle(index: int, data: bytes) -> None:
                seen.append((index, data))

            return [WatchHandler(key="collect", create=lambda definition: handle)]

    plugins.add("mine", Plugin())
    handler = plugins.watch_handler("collect")
    assert handler is not None
    await handler.create(None)(7, b"[]")
    assert seen == [(7, b"[]")]
    assert reported(plugins, "mine")["Calls"] == 3  # the hook, create, the handler


async def test_registry_http_routes(plugins: Plugins) -> None:
    class Plugin:
        @hookimpl
        def registry_http_routes(self) -> list[HttpRoute]:
            async def handler(request: Any) -> Any:
                return SimpleNamespace(status=200, body=request, stream=None)

            return [HttpRoute(method="GET", pattern="/v1/mine", handler=handler)]

    plugins.add("mine", Plugin())
    (route,) = plugins.http_routes()
    assert (await route.handler("request")).body == "request"


def test_registry_cli_commands(plugins: Plugins) -> None:
    class Plugin:
        @hookimpl
        def registry_cli_commands(self) -> list[CliCommand]:
            return [
                CliCommand(name="count", help="", configure=lambda parser: None, run=lambda args: 3)
            ]

    plugins.add("mine", Plugin())
    (command,) = plugins.cli_commands()
    assert command.run(None) == 3  # type: ignore[arg-type]


def test_every_hook_has_a_test_named_after_it() -> None:
    folders = [
        Path(__file__).parent.parent / name
        for name in ("plugins", "server", "http", "dns", "agent")
    ]
    files = [path for folder in folders for path in folder.glob("test_*.py")]
    tests = "".join(path.read_text() for path in files)
    for name in vars(hooks):
        if name.startswith("registry_"):
            assert f"def test_{name}(" in tests


# -- order and names


def test_contributions_keep_the_order_of_loading(plugins: Plugins) -> None:
    for key in ("b", "a", "c"):
        plugins.add(key, OneKind(key))
    assert plugin_keys(plugins) == ["b", "a", "c"]


def test_first_owner_of_a_name_keeps_it(plugins: Plugins) -> None:
    plugins.add("first", OneKind("mine"))
    plugins.add("second", OneKind("mine"))
    plugins.add("greedy", OneKind("http"))
    assert plugin_keys(plugins) == ["mine"]
    assert reported(plugins, "first")["Errors"] == []
    assert reported(plugins, "second")["Errors"] == [
        "registry_check_types: 'mine' is already there, from first"
    ]
    assert "already there, from builtin" in reported(plugins, "greedy")["Errors"][0]
    http = plugins.check_type("http")
    assert http is not None
    assert http.type_name == "http"


def test_each_hook_is_called_once(plugins: Plugins) -> None:
    plugins.add("mine", OneKind("mine"))
    for _ in range(3):
        plugins.check_types()
    assert reported(plugins, "mine")["Calls"] == 1


def test_two_plugins_of_one_name_are_told_apart(plugins: Plugins) -> None:
    plugins.add("twin", OneKind("a"), source="one.py")
    plugins.add("twin", OneKind("b"), source="two.py")
    assert plugin_keys(plugins) == ["a", "b"]
    assert [entry["Source"] for entry in plugins.report()[-2:]] == ["one.py", "two.py"]
    assert reported(plugins, "twin (2)")["Hooks"] == ["registry_check_types"]


# -- isolation


class Raising:
    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        raise RuntimeError("no network\nat all")


class RaisingLate:
    @hookimpl
    def registry_check_types(self) -> Iterable[CheckType]:
        yield kind("half")
        raise RuntimeError("no network at all")


class Leaving:
    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        sys.exit(3)


class Nonsense:
    @hookimpl
    def registry_check_types(self) -> list[str]:
        return ["http"]


class Nothing:
    @hookimpl
    def registry_check_types(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (Raising(), "RuntimeError: no network at all"),
        (RaisingLate(), "RuntimeError: no network at all"),
        (Leaving(), "SystemExit: 3"),
        (Nonsense(), "gave str, expected CheckType"),
        (Nothing(), "TypeError: 'int' object is not iterable"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_plugin_that_fails_in_a_hook_costs_only_itself(
    plugins: Plugins, caplog: pytest.LogCaptureFixture, plugin: object, reason: str
) -> None:
    plugins.add("before", OneKind("before"))
    plugins.add("broken", plugin)
    plugins.add("after", OneKind("after"))
    assert plugin_keys(plugins) == ["before", "after"]
    assert reported(plugins, "broken")["Errors"] == [f"registry_check_types: {reason}"]
    assert f"plugin=broken hook=registry_check_types reason={reason}" in caplog.text


class FailingRun:
    async def run(self) -> CheckResult:
        raise OSError("unreachable")


class NonsenseRun:
    async def run(self) -> str:
        return "passing"


@pytest.mark.parametrize(
    ("runner", "reason"),
    [(FailingRun, "OSError: unreachable"), (NonsenseRun, "gave str, expected CheckResult")],
)
async def test_failing_check_names_its_plugin(plugins: Plugins, runner: Any, reason: str) -> None:
    plugins.add("broken", OneKind("mine", runner))
    found = plugins.check_type("mine")
    assert found is not None
    for _ in range(30):
        with pytest.raises(PluginError, match=f"plugin broken failed .*{reason}"):
            await found.create(None).run()
    report = reported(plugins, "broken")
    assert report["Errors"] == [f"registry_check_types: {reason}"] * 20
    assert report["Calls"] == 61  # the hook, and thirty times create and run


def test_definition_that_a_check_type_refuses_is_not_the_plugins_fault(plugins: Plugins) -> None:
    def refuse() -> None:
        raise ValueError("a port is needed")

    def fail() -> None:
        raise KeyError("port")

    plugins.add("mine", OneKind("mine", refuse))
    plugins.add("broken", OneKind("other", fail))
    mine, other = plugins.check_type("mine"), plugins.check_type("other")
    assert mine is not None
    assert other is not None
    with pytest.raises(ValueError, match=r"^a port is needed$"):
        mine.create(None)
    assert reported(plugins, "mine")["Errors"] == []
    with pytest.raises(ValueError, match="plugin broken failed in registry_check_types"):
        other.create(None)
    assert reported(plugins, "broken")["Errors"] == ["registry_check_types: KeyError: 'port'"]


async def test_failing_route_names_its_plugin(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    class Plugin:
        @hookimpl
        def registry_http_routes(self) -> list[HttpRoute]:
            async def handler(request: Any) -> Any:
                raise LookupError("nobody")

            return [HttpRoute(method="GET", pattern="/v1/mine", handler=handler)]

    plugins.add("broken", Plugin())
    (route,) = plugins.http_routes()
    with pytest.raises(PluginError, match="plugin broken failed in registry_http_routes"):
        await route.handler(None)
    assert "LookupError: nobody" in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RuntimeError("no"), PluginError), (StorageError("directory full"), StorageError)],
)
def test_failing_engine(
    plugins: Plugins, tmp_path: Path, error: Exception, expected: type[Exception]
) -> None:
    def fail(directory: Path) -> Any:
        raise error

    class Plugin:
        @hookimpl
        def registry_storage_engines(self) -> list[StorageEngine]:
            return [StorageEngine(name="mine", open=fail)]

    plugins.add("mine", Plugin())
    with pytest.raises(expected, match=str(error)):
        plugins.storage_engine("mine").open(tmp_path)


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda path, text: dict[str, str]()["key"], "KeyError: 'key'"),
        (lambda path, text: [text], "gave list, expected a mapping"),
    ],
)
def test_failing_definition_source_names_the_file(plugins: Plugins, load: Any, reason: str) -> None:
    class Plugin:
        @hookimpl
        def registry_definition_sources(self) -> list[DefinitionSource]:
            return [DefinitionSource(suffix=".ini", load=load)]

    plugins.add("mine", Plugin())
    with pytest.raises(ConfigError, match=rf"^a\.ini: plugin mine failed in .*{reason}"):
        plugins.definition_sources()[-1].load(Path("a.ini"), "text")


# -- validation


def test_unknown_hook_is_named_and_the_rest_is_used(plugins: Plugins) -> None:
    class Plugin(OneKind):
        @hookimpl
        def registry_check_type(self) -> list[CheckType]:
            return []

    plugins.add("newer", Plugin("mine"))
    assert plugin_keys(plugins) == ["mine"]
    assert reported(plugins, "newer")["Errors"] == [
        "registry_check_type: there is no hook of this name; did you mean registry_check_types?"
    ]


def test_hook_that_is_not_marked_is_named(plugins: Plugins) -> None:
    class Plugin:
        def registry_check_types(self) -> list[CheckType]:
            return [kind("mine")]

    plugins.add("forgetful", Plugin())
    assert plugin_keys(plugins) == []
    errors = reported(plugins, "forgetful")["Errors"]
    assert errors[0] == "registry_check_types: not marked with @hookimpl, so never called"


def test_hook_with_an_argument_that_it_does_not_have(plugins: Plugins) -> None:
    class Plugin:
        @hookimpl
        def registry_check_types(self, agent: Any) -> list[CheckType]:
            return [kind("mine")]

    plugins.add("wrong", Plugin())
    assert plugin_keys(plugins) == []
    (error,) = reported(plugins, "wrong")["Errors"]
    assert error.startswith("load: ")
    assert "agent" in error


def test_hook_under_another_name(plugins: Plugins) -> None:
    class Plugin:
        @hookimpl(specname="registry_check_types")
        def kinds(self) -> list[CheckType]:
            return [kind("mine")]

    plugins.add("mine", Plugin())
    assert plugin_keys(plugins) == ["mine"]


# -- directories

SOURCE = """
from registry.hooks import CheckResult, CheckType, hookimpl
{imports}
__version__ = "1.2"

class Runner:
    async def run(self):
        return CheckResult("passing", KEY)

@hookimpl
def registry_check_types():
    return [CheckType(key=KEY, type_name=KEY, create=lambda definition: Runner())]
"""


def module(key: str) -> str:
    return SOURCE.format(imports=f'KEY = "{key}"')


def test_modules_and_packages_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "zeta.py").write_text(module("zeta"))
    package = tmp_path / "alpha"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE.format(imports="from .names import KEY"))
    (package / "names.py").write_text('KEY = "alpha"')
    # Called like a module of the standard library, which must not be replaced by it.
    (tmp_path / "json.py").write_text(module("json"))
    for ignored in ("_private.py", ".hidden.py", "notes.txt"):
        (tmp_path / ignored).write_text("raise RuntimeError")
    (tmp_path / "data").mkdir()
    plugins = Plugins.load([tmp_path])
    assert plugin_keys(plugins) == ["alpha", "json", "zeta"]
    report = reported(plugins, "zeta")
    assert (report["Version"], report["Source"]) == ("1.2", str(tmp_path / "zeta.py"))
    import json

    assert json.loads("1") == 1


def test_broken_modules_are_reported_and_the_others_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a_syntax.py").write_text("def broken(:\n")
    (tmp_path / "b_import.py").write_text("import a_module_that_nobody_has\n")
    (tmp_path / "c_exit.py").write_text("raise SystemExit(1)\n")
    (tmp_path / "d_empty.py").write_text("")
    (tmp_path / "e_good.py").write_text(module("good"))
    plugins = Plugins.load([tmp_path])
    assert plugin_keys(plugins) == ["good"]
    errors = {entry["Name"]: entry["Errors"] for entry in plugins.report()}
    assert "SyntaxError" in errors["a_syntax"][0]
    assert "a_module_that_nobody_has" in errors["b_import"][0]
    assert errors["c_exit"] == ["load: SystemExit: 1"]
    assert errors["d_empty"] == ["load: implements no hook"]
    assert errors["e_good"] == []
    assert "plugin=b_import hook=load" in caplog.text


def test_directories_in_the_order_given(tmp_path: Path) -> None:
    for directory, key in (("second", "a"), ("first", "b")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "plugin.py").write_text(module(key))
    plugins = Plugins.load([tmp_path / "second", tmp_path / "first"])
    assert plugin_keys(plugins) == ["a", "b"]


def test_disabled_plugin_is_not_even_imported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "unwanted.py").write_text("raise RuntimeError")
    caplog.set_level(logging.INFO, "registry")
    plugins = Plugins.load([tmp_path], PluginSelection(disable=("unwanted",)))
    assert "unwanted" not in [entry["Name"] for entry in plugins.report()]
    assert "plugin disabled plugin=unwanted" in caplog.text


def test_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plugin-dir: .*none is not a directory"):
        Plugins.load([tmp_path / "none"])
