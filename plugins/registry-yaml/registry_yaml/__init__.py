"""Configuration and definition files of the registry in YAML and TOML."""

from __future__ import annotations

from registry.hooks import DefinitionSource, hookimpl

from .readers import load_toml, load_yaml

__version__ = "0.1.0"


@hookimpl
def registry_definition_sources() -> list[DefinitionSource]:
    return [
        DefinitionSource(suffix=".yaml", load=load_yaml),
        DefinitionSource(suffix=".yml", load=load_yaml),
        DefinitionSource(suffix=".toml", load=load_toml),
    ]
