"""The `plugins` section: which plugins are used, and their settings as their own types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from registry.errors import ConfigError
from registry.hooks import CheckType, hookimpl
from registry.plugins import Plugins
from registry.plugins.settings import PluginSelection, read_settings


class Limits(msgspec.Struct, frozen=True):
    count: int = 3


class Settings(msgspec.Struct, frozen=True):
    url: str
    limits: Limits = Limits()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "plugins.settings.mine: Object missing required field `url`"),
        ({"url": 5}, "plugins.settings.mine.url: Expected `str`, got `int`"),
        ({"url": "x", "limits": {"count": "3"}}, "plugins.settings.mine.limits.count: Expected"),
        ({"uri": "x"}, "plugins.settings.mine: unknown key 'uri'; known are url, limits"),
        ("x", "plugins.settings.mine: must be an object"),
    ],
    ids=["missing", "type", "nested", "unknown", "no object"],
)
def test_settings_that_are_refused(given: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings("mine", Settings, given)
    assert str(caught.value).startswith(text)


def test_settings_are_of_the_plugins_type() -> None:
    read = read_settings("mine", Settings, {"url": "x", "limits": {"count": 5}})
    assert read == Settings("x", Limits(5))


def _create(definition: Any) -> Any:
    raise NotImplementedError


class WithSettings:
    """A plugin with a check type that needs settings."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    @hookimpl
    def registry_settings(self) -> Any:
        return self.kind

    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        return [CheckType(key="mine", type_name="mine", create=_create)]


def test_registry_settings() -> None:
    plugins = Plugins()
    plugins.add("mine", WithSettings(Settings))
    plugins.add("easy", WithSettings(Limits))
    judged = plugins.judged_settings({"mine": {"url": "x"}})
    assert judged == {"mine": Settings("x"), "easy": Limits()}
    plugins.configure(judged)
    assert plugins.settings_of("mine") == Settings("x")


def test_a_plugin_without_the_settings_it_needs_does_nothing() -> None:
    plugins = Plugins()
    plugins.add("mine", WithSettings(Settings))
    assert plugins.check_type("mine") is not None  # the configuration is not read yet
    plugins.configure(plugins.judged_settings({}))
    assert plugins.check_type("mine") is None
    plugins.configure(plugins.judged_settings({"mine": {"url": "x"}}))
    assert plugins.check_type("mine") is not None


class Asked(WithSettings):
    """Counts how often it is asked what it contributes."""

    def __init__(self, kind: Any) -> None:
        super().__init__(kind)
        self.asked = 0

    @hookimpl
    def registry_check_types(self) -> list[CheckType]:
        self.asked += 1
        return [CheckType(key=f"mine{self.asked}", type_name="mine", create=_create)]

    @hookimpl
    def registry_storage_engines(self) -> list[Any]:
        return []


def test_a_plugin_is_asked_anew_when_it_is_configured_anew() -> None:
    plugins = Plugins()
    needy, easy = Asked(Settings), Asked(Limits)
    plugins.add("needy", needy)
    plugins.add("easy", easy)
    needed = plugins.judged_settings({"needy": {"url": "x"}})
    defaults = plugins.judged_settings({})
    plugins.configure(defaults)

    def seen() -> tuple[list[str], int]:
        return [kind.key for kind in plugins.check_types()], plugins.generation

    keys, begun = seen()
    assert keys == ["mine1"]
    plugins.configure(needed)
    assert needy.asked == 1  # at once, and not when somebody wants to know
    assert seen() == (["mine1"], begun + 1)  # easy's, which came first, goes without
    plugins.configure(plugins.judged_settings({"needy": {"url": "y"}}))
    plugins.configure(defaults)
    plugins.configure(needed)
    assert seen()[1] == begun + 3
    assert (needy.asked, easy.asked) == (2, 1)


def test_what_is_taken_at_the_start_alone_needs_a_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugins = Plugins()
    plugins.add("needy", Asked(Settings))
    needed = plugins.judged_settings({"needy": {"url": "x"}})
    plugins.configure(needed)
    assert plugins.needing_restart() == {}  # this is the start
    plugins.configure({})
    plugins.configure(needed)
    assert plugins.needing_restart() == {"needy": ["registry_storage_engines"]}
    (report,) = plugins.report()
    assert report["NeedsRestart"] == ["registry_storage_engines"]
    text = "plugin is not used in full before a restart plugin=needy hooks=registry_storage_engines"
    assert text in caplog.text
    plugins.configure({})
    assert plugins.needing_restart() == {}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"your": {}}, "plugins.settings: there is no plugin 'your'; known are bare, mine"),
        ({"bare": {}}, "plugins.settings.bare: this plugin has no settings"),
    ],
)
def test_settings_for_nobody(given: Any, text: str) -> None:
    class Bare:
        @hookimpl
        def registry_check_types(self) -> list[CheckType]:
            return []

    plugins = Plugins()
    plugins.add("mine", WithSettings(Settings))
    plugins.add("bare", Bare())
    with pytest.raises(ConfigError) as caught:
        plugins.judged_settings(given)
    assert str(caught.value) == text


def test_a_settings_type_that_is_none_is_reported() -> None:
    plugins = Plugins()
    plugins.add("mine", WithSettings(dict))
    assert plugins.judged_settings({}) == {}
    (report,) = plugins.report()
    assert report["Errors"] == [
        "registry_settings: gave <class 'dict'>, expected a subclass of msgspec.Struct"
    ]


PLUGIN = """
from registry.hooks import hookimpl
@hookimpl
def registry_check_types(): return []
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.py").write_text(PLUGIN)
    (tmp_path / "broken.py").write_text("raise RuntimeError('imported')")
    return tmp_path


def names(plugins: Plugins) -> list[str]:
    return [entry["Name"] for entry in plugins.report()[1:] if entry["Name"] in "abcbroken"]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (PluginSelection(disable=("broken",)), ["a", "b", "c"]),
        (PluginSelection(enable=("c", "a")), ["a", "c"]),
        (PluginSelection(disable=("broken",), order=("c",)), ["c", "a", "b"]),
        (PluginSelection(enable=("a", "b"), disable=("a",)), ["b"]),
    ],
)
def test_selection(directory: Path, selection: PluginSelection, expected: list[str]) -> None:
    plugins = Plugins.load([directory], selection)
    assert names(plugins) == expected
    whole = Plugins.load([directory])
    whole.narrow(selection)  # what a later file said has the same effect
    assert names(whole) == expected


def test_a_selection_of_what_is_not_there_is_refused(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"plugins.enable: there is no plugin 'd'; known are a, "):
        Plugins.load([directory], PluginSelection(enable=("d",)))


def test_sections_of_several_files_add_up() -> None:
    first = PluginSelection(disable=("a",), settings={"x": {"n": 1}, "y": {}})
    second = PluginSelection(disable=("b",), settings={"x": {"n": 2}})
    assert first.joined(second) == PluginSelection(
        disable=("a", "b"), settings={"x": {"n": 2}, "y": {}}
    )
