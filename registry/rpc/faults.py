"""Errors on the wire: what is raised there is raised here, with its type, text and fields.

A fault names the error's class and that class's ancestors, so that a peer of an older version
raises the nearest class that it knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from registry.errors import RegistryError


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An error as it travels. `kinds` are class names, the most special first."""

    kinds: tuple[str, ...]
    text: str
    fields: dict[str, Any] = {}


def fault_of(error: RegistryError) -> Fault:
    """What to send for `error`. Fields that are not plain data stay behind."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, RegistryError)]
    fields = {
        name: _clean(value) if isinstance(value, str) else value
        for name, value in vars(error).items()
        if isinstance(value, str | float | bool | None)
        or (isinstance(value, int) and abs(value) < 1 << 63)
    }
    return Fault(tuple(kinds), _clean(str(error)), fields)


def error_of(fault: Fault) -> RegistryError:
    """The error to raise for a fault that came in."""
    known = {kind.__name__: kind for kind in _subclasses(RegistryError)}
    kind = next((known[name] for name in fault.kinds if name in known), RegistryError)
    # Constructors differ and make the text from fields; here both are given.
    error = kind.__new__(kind)
    error.args = (fault.text,)
    vars(error).update(fault.fields)
    return error


def _clean(text: str) -> str:
    """Text that can be encoded: an error must be told even when it quotes undecodable bytes."""
    return text.encode("utf-8", "replace").decode()


def _subclasses(kind: type[RegistryError]) -> Iterator[type[RegistryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _subclasses(below)
