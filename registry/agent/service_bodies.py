"""Service definitions of files, spelt as bodies of `PUT /v1/agent/service/register`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry.agent.config_files import read_source
from registry.agent.definition_bodies import service_body
from registry.agent.definition_reader import read_service
from registry.agent.formats import load_json
from registry.agent.loading import Extensions, file_formats, with_source


def read_service_bodies(
    path: Path, text: str, plugins: Extensions | None = None
) -> list[dict[str, Any]]:
    """The bodies of every service that a definition file holds, in its order.

    Raises `ConfigError` that names file, line and key.
    """
    load = file_formats(plugins).get(path.suffix.lower(), load_json)
    source = read_source(str(path), text, load(path, text))
    check_types = [kind.key for kind in plugins.check_types()] if plugins else []
    return [
        service_body(
            with_source(
                [source], read_service, mapping, source="file", where=where, check_types=check_types
            )
        )
        for where, mapping in source.decoded.definitions["services"]
    ]
