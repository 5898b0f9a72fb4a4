"""Settings as reports show them: whole, under the names of the configuration, without secrets."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from registry.hooks import Secret, hookimpl
from registry.plugins import Plugins
from registry.plugins.shown_settings import shown_settings, shown_unread


class Colour(enum.Enum):
    RED = "red"


class Target(msgspec.Struct, frozen=True):
    url: str
    code: Annotated[str, Secret]


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    url: str = "https://me:pw@example.com/x?api_key=k&page=2"
    pin: Annotated[str, msgspec.Meta(min_length=1), Secret] = "1234"
    code: Annotated[int, Secret] = 7
    spare: Annotated[str, Secret] | None = None
    codes: list[Annotated[str, Secret]] = []
    pairs: tuple[str, Annotated[str, Secret]] = ("a", "b")
    targets: tuple[Target, ...] = (Target("http://a", "x"),)
    api_token: str = "t"
    password: str = ""
    token_ttl_s: float = 1.5
    key_prefix: str = "app/"
    colour: Colour = Colour.RED
    since: datetime.date = datetime.date(2026, 3, 1)
    headers: dict[str, str] = msgspec.field(
        default_factory=lambda: {"Authorization": "Bearer x", "X-Api-Key": "k", "Accept": "*/*"}
    )


def test_settings_are_shown_without_secrets() -> None:
    assert shown_settings(Settings()) == {
        "url": "https://me:hidden@example.com/x?api_key=hidden&page=2",
        "pin": "hidden",
        "code": "hidden",
        "spare": None,
        "codes": "hidden",
        "pairs": "hidden",
        "targets": [{"url": "http://a", "code": "hidden"}],
        "apiToken": "hidden",
        "password": "",
        "tokenTtlS": 1.5,
        "keyPrefix": "app/",
        "colour": "red",
        "since": "2026-03-01",
        "headers": {"Authorization": "hidden", "X-Api-Key": "hidden", "Accept": "*/*"},
    }


@pytest.mark.parametrize(
    "name",
    ["secret", "client_secret", "clientSecret", "tokens", "db-password", "credentials", "Cookie"],
)
def test_names_that_sound_like_secrets(name: str) -> None:
    assert shown_unread({"inner": [{name: "x"}]}) == {"inner": [{name: "hidden"}]}


@pytest.mark.parametrize("name", ["secretary", "token_count", "monkey", "keys", "compass"])
def test_names_that_do_not(name: str) -> None:
    assert shown_unread({name: 5}) == {name: 5}


def test_what_has_no_form_in_json_is_named() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert shown_unread({"a": object()}) == {"a": "a value of type object"}
    assert "…" in str(shown_unread(loop))


class Needy(msgspec.Struct, frozen=True):
    secret: str
    path: Path | None = None
    count: int = 3


class Plugin:
    @hookimpl
    def registry_settings(self) -> type[Needy]:
        return Needy


def test_reports_have_the_settings_in_force() -> None:
    plugins = Plugins()
    plugins.add("mine", Plugin())

    def reported() -> tuple[bool, Any]:
        (report,) = plugins.report()
        return report["Configured"], report["Settings"]

    assert reported() == (True, None)  # the configuration is not read yet
    plugins.configure(plugins.judged_settings({}))
    assert reported() == (False, None)
    plugins.configure({"mine": Needy("x")})
    assert reported() == (True, {"secret": "hidden", "path": None, "count": 3})
