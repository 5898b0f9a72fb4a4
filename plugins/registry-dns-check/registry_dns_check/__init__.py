"""A check type for the registry: does a name still resolve, and to what it should?"""

from __future__ import annotations

from registry.hooks import CheckType, hookimpl

from .check import create

__version__ = "0.1.0"


@hookimpl
def registry_check_types() -> list[CheckType]:
    return [CheckType(key="dns", type_name="dns", create=create)]
