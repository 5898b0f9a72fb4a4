"""Which keys make an application's configuration, and which of them wins.

    config/_shared/default/…                for every application       lowest
    config/_shared/profile/PROFILE/…        … in this profile
    config/APP/default/…                    for this application
    config/APP/profile/PROFILE/…            … in this profile
    config/APP/instance/INSTANCE/…          for one instance of it      highest

A name in a higher layer replaces the same name in a lower one. Of several profiles a later one is
higher than an earlier one. What follows a layer's prefix is the name, its slashes written as the
separator: `db/pool/size` is `db.pool.size`, and so is a key that is spelt with dots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .settings import Settings


class ConfigProblem(Exception):
    """The keys make no configuration; the text says which, and why."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


class Wanted(NamedTuple):
    """Whose configuration is asked for."""

    app: str
    profiles: tuple[str, ...] = ()
    instance: str = ""

    @classmethod
    def read(cls, app: str, profiles: Iterable[str], instance: str) -> Wanted:
        """From a request's words; each of `profiles` may be a list with commas. Raises
        `ValueError` with one sentence."""
        if not app:
            raise ValueError("Missing application name")
        if not all(app.split("/")):
            raise ValueError(f"not an application's name: {app!r}")
        found = [name for given in profiles for name in given.split(",") if name]
        for name in (*found, instance):
            if "/" in name:
                raise ValueError(f"a profile or instance has no slash in its name: {name!r}")
        return cls(app, tuple(dict.fromkeys(found)), instance)


class Value(NamedTuple):
    text: str
    key: str  # where it is stored


def layer_prefixes(wanted: Wanted, settings: Settings) -> list[str]:
    """The prefixes of the layers, the lowest first."""
    found = []
    for owner in dict.fromkeys((settings.shared, wanted.app)):
        if owner:
            root = f"{settings.prefix}{owner}/"
            found.append(f"{root}default/")
            found.extend(f"{root}profile/{profile}/" for profile in wanted.profiles)
    if wanted.instance:
        found.append(f"{settings.prefix}{wanted.app}/instance/{wanted.instance}/")
    return found


def merge(
    layers: Iterable[tuple[str, Sequence[tuple[bytes, bytes]]]], separator: str
) -> dict[str, Value]:
    """Names to values, sorted, of layers given lowest first: each a prefix with its keys and their
    contents. Raises `ConfigProblem`."""
    merged: dict[str, Value] = {}
    for prefix, entries in layers:
        own: dict[str, Value] = {}
        for raw_key, raw in entries:
            key = as_text(raw_key, f"the key {raw_key!r}")
            if key.endswith("/"):
                continue  # what some user interfaces make for an empty folder
            name = normal_name(key.removeprefix(prefix), separator)
            if not name:
                raise ConfigProblem(f"{key} has no name but the separator")
            if name in own:
                raise ConfigProblem(f"{own[name].key} and {key} are both the name {name}")
            own[name] = Value(as_text(raw, f"the value of {key}"), key)
        merged.update(own)
    return dict(sorted(merged.items()))


def normal_name(name: str, separator: str) -> str:
    """One spelling for a name, whether its words are parted by slashes or by the separator."""
    words = name.replace(separator, "/").split("/")
    return separator.join(filter(None, words))


def as_text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as problem:
        raise ConfigProblem(f"{what} is not UTF-8 text") from problem
