"""What `registry validate` does: the configuration is checked as the agent would, and not used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from registry.agent.loading import Extensions, validate_sources
from registry.errors import ConfigError


def validate_paths(
    paths: Sequence[str | Path], config_format: str | None = None, plugins: Extensions | None = None
) -> None:
    """Read files and directories as one configuration; raises `ConfigError` about what is wrong."""
    if not paths:
        raise ConfigError("Must specify at least one config file or directory")
    validate_sources([str(path) for path in paths], config_format or "", plugins)
