"""Finding and reading configuration files, in the order in which they count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from registry.agent.config_keys import Decoded, KeyProblem, decode
from registry.agent.formats import line_of
from registry.errors import ConfigError

Load = Callable[[Path, str], Mapping[str, Any]]


class ConfigSource(msgspec.Struct, frozen=True):
    """One file (or flag) and what it says. `name` is what errors call it."""

    name: str
    text: str  # "" when there is none to show lines of
    decoded: Decoded

    def locate(self, path: str) -> str:
        """`file:line` of the key at `path`, or the file alone."""
        line = line_of(self.text, path) if self.text else None
        return f"{self.name}:{line}" if line else self.name

    def problem(self, problem: ConfigError) -> ConfigError:
        """`problem` with the file and line of its key."""
        if problem.file is not None or problem.field is None:
            return problem
        return KeyProblem(problem.field, problem.reason, file=self.locate(problem.field))


def read_source(name: str, text: str, mapping: Mapping[str, Any]) -> ConfigSource:
    """Check `mapping` against the table of keys; raises `ConfigError` that names file and line."""
    try:
        return ConfigSource(name, text, decode(mapping))
    except KeyProblem as problem:
        raise ConfigSource(name, text, Decoded({}, {}, {})).problem(problem) from None


def read_paths(
    paths: Sequence[str], config_format: str, formats: Mapping[str, Load]
) -> Iterator[ConfigSource]:
    """Read files and directories in the given order; a directory's files by name.

    `formats` are readers by suffix; `config_format` ("json", "hcl" or a plugin's suffix) is taken
    for every file instead of its own.
    """
    for path in find_files(paths, config_format, formats):
        text = _read_text(path)
        load = formats[f".{config_format}" if config_format else path.suffix.lower()]
        yield read_source(str(path), text, load(path, text))


def find_files(
    paths: Sequence[str], config_format: str, formats: Mapping[str, Load]
) -> Iterator[Path]:
    """The files that `paths` stand for, in the order in which they count."""
    if config_format and f".{config_format}" not in formats:
        known = ", ".join(sorted(suffix.lstrip(".") for suffix in formats))
        raise ConfigError(
            f"unknown format {config_format!r}; known: {known}", field="config-format"
        )
    for given in paths:
        path = Path(given)
        try:
            if path.is_dir():
                yield from sorted(
                    entry
                    for entry in path.iterdir()
                    if entry.is_file() and (config_format or entry.suffix.lower() in formats)
                )
                continue
            missing = not path.exists()
        except OSError as error:
            raise ConfigError(_reason(error), file=given) from None
        except ValueError as error:  # a zero byte in the name
            raise ConfigError(str(error), file=given.replace("\0", "\\0")) from None
        if missing:
            raise ConfigError("no such file or directory", file=given)
        if not config_format and path.suffix.lower() not in formats:
            known = " or ".join(sorted(formats))
            raise ConfigError(
                f"the file name must end in {known}, or -config-format be given", file=given
            )
        yield path


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(_reason(error), file=str(path)) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError("the file is not UTF-8 text", file=f"{path}:{line}") from None


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:]
