"""Log lines as operators' tools know them (surface 8), where they go, and who watches them live.

    2026-01-02T03:04:05.678Z [INFO]  agent: Synced service: service=web

Our loggers are named after packages (`registry.http`); lines show the module names that operators
search for (`agent.http`). A line's tail `key=value ...` is part of its message; the JSON form takes
it apart again. `configure` sets up the process, `LogTap` serves `/v1/agent/monitor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import logging.handlers
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import TextIO

from registry.agent.config import AgentConfig
from registry.errors import ConfigError

ROOT = "registry"

TRACE = 5
logging.addLevelName(TRACE, "TRACE")

#: The levels by their names in configuration and in `?loglevel=`.
LEVELS = {
    "TRACE": TRACE,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERR": logging.ERROR,
    "ERROR": logging.ERROR,
}

_SHOWN = {"WARNING": "WARN", "CRITICAL": "ERROR"}

#: Modules as operators know them, by logger; the longest beginning counts.
MODULES = {
    "registry.agent": "agent",
    "registry.http": "agent.http",
    "registry.dns": "agent.dns",
    "registry.raft": "agent.server.raft",
    "registry.state": "agent.fsm",
    "registry.server": "agent.server",
    "registry.server.leader": "agent.leader",
    "registry.storage": "agent.server.storage",
    "registry.membership": "agent.server.serf",
    "registry.plugins": "agent.plugins",
    "registry": "agent",
}

#: Lines that a slow watcher may fall behind; then the oldest are dropped and counted.
TAP_LINES_MAX = 512

_TAIL = re.compile(r'(?:^|[:\s])((?:\s*[\w.-]+=(?:"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^\s"]*))+)$')
_PAIR = re.compile(r'([\w.-]+)=("(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^\s"]*)')


def level_of(name: str) -> int:
    """The level of a name in any case. Raises `ValueError` when there is none of that name."""
    try:
        return LEVELS[name.upper()]
    except KeyError:
        raise ValueError(f"Unknown log level: {name}") from None


def module_of(logger: str) -> str:
    """The module that lines of this logger show."""
    known = logger
    while known not in MODULES:
        known, dot, _ = known.rpartition(".")
        if not dot:
            return logger
    return MODULES[known] + logger[len(known) :]


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created).astimezone()


def _spelt(moment: datetime, precision: str) -> str:
    text = moment.isoformat(timespec=precision)
    return text[:-6] + "Z" if text.endswith("+00:00") else text


class TextFormatter(logging.Formatter):
    """One line a record; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        level = _SHOWN.get(record.levelname, record.levelname)
        stamp = _spelt(_moment(record), "milliseconds")
        module = module_of(record.name)
        line = f"    {stamp} {f'[{level}]':<7} {module}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line, its keys behind the four fixed ones."""

    def format(self, record: logging.LogRecord) -> str:
        message, fields = split_fields(record.getMessage())
        line = {
            "@level": _SHOWN.get(record.levelname, record.levelname).lower(),
            "@message": message,
            "@module": module_of(record.name),
            "@timestamp": _spelt(_moment(record), "microseconds"),
            **fields,
        }
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        return "    " + json.dumps(line, ensure_ascii=False)


def split_fields(message: str) -> tuple[str, dict[str, str]]:
    """A message without its tail of `key=value` pairs, and the pairs."""
    tail = _TAIL.search(message)
    if tail is None:
        return message, {}
    fields = {}
    for name, value in _PAIR.findall(tail.group(1)):
        quoted = value.startswith('"')
        fields[name] = value[1:-1].replace('\\"', '"').replace("\\n", "\n") if quoted else value
    return message[: tail.start()].rstrip(": "), fields


def formatter(*, as_json: bool) -> logging.Formatter:
    return JsonFormatter() if as_json else TextFormatter()


class RotatingFile(logging.Handler):
    """The log file: renamed to `NAME-<unix nanoseconds>.EXT` when it is too old or too large.

    `max_files` rotated files are kept; 0 keeps all, a negative number none. 0 bytes: no limit.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_age_s: float, max_files: int) -> None:
        super().__init__()
        self.path, self._max_bytes, self._max_age_s = path, max_bytes, max_age_s
        self._max_files = max_files
        self._file = self._open()

    def _open(self) -> TextIO:
        file = self.path.open("a", encoding="utf-8", errors="backslashreplace")
        self._size = file.tell()
        self._opened_s = time.monotonic()
        return file

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            size = len(line.encode("utf-8", "backslashreplace"))
            if self._is_due(size):
                self._rotate()
            self._file.write(line)
            self._file.flush()
            self._size += size
        except Exception:
            self.handleError(record)

    def _is_due(self, size: int) -> bool:
        too_large = 0 < self._max_bytes < self._size + size and self._size > 0
        return too_large or 0 < self._max_age_s <= time.monotonic() - self._opened_s

    def _rotate(self) -> None:
        self._file.close()
        rotated = self.path.with_name(f"{self.path.stem}-{time.time_ns()}{self.path.suffix}")
        self.path.rename(rotated)
        self._prune()
        self._file = self._open()

    def _prune(self) -> None:
        if self._max_files == 0:
            return
        pattern = re.compile(re.escape(self.path.stem) + r"-\d+" + re.escape(self.path.suffix))
        old = [item for item in self.path.parent.iterdir() if pattern.fullmatch(item.name)]
        old.sort(key=lambda item: (len(item.name), item.name))
        for item in old[: max(0, len(old) - max(0, self._max_files))]:
            item.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
        super().close()


def log_path(log_file: str) -> Path:
    """The file that `log_file` means: in a directory `consul.log`, without an ending `.log`."""
    path = Path(log_file)
    if log_file.endswith("/") or path.is_dir():
        return path / "consul.log"
    return path if path.suffix else path.with_name(path.name + ".log")


class LogTap(logging.Handler):
    """Everybody who watches the log live; costs nothing while nobody does.

    Where the agent's logging was not configured, it runs inside a program that has a logging of
    its own: watchers see more for as long as they watch, then the level is what it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watchers: list[Watcher] = []
        self._configured: int | None = None
        self._found = logging.NOTSET
        self._lock_watchers = threading.Lock()

    @property
    def is_configured(self) -> bool:
        """Whether the levels are the agent's to set."""
        return self._configured is not None

    def emit(self, record: logging.LogRecord) -> None:
        with self._lock_watchers:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.offer(record)

    def configured_level(self, level: int) -> None:
        """What the agent itself logs; watchers may see more."""
        self._configured = level
        self._set_level()

    def _set_level(self) -> None:
        root = logging.getLogger(ROOT)
        with self._lock_watchers:
            levels = [watcher.level for watcher in self._watchers]
        idle = self._found if self._configured is None else self._configured
        root.setLevel(min([idle or logging.getLogger().level, *levels]) if levels else idle)

    @contextlib.contextmanager
    def watch(self, level: int, *, as_json: bool = False) -> Iterator[Watcher]:
        """Lines from now on, of this level and above."""
        watcher = Watcher(level, formatter(as_json=as_json), asyncio.get_running_loop())
        root = logging.getLogger(ROOT)
        with self._lock_watchers:
            if not self._watchers:
                self._found = root.level
            self._watchers.append(watcher)
        if self not in root.handlers:
            root.addHandler(self)
        self._set_level()
        try:
            yield watcher
        finally:
            with self._lock_watchers:
                self._watchers.remove(watcher)
                idle = not self._watchers
            if idle:
                root.removeHandler(self)
            self._set_level()


class Watcher:
    """One live view of the log."""

    def __init__(
        self, level: int, formatter: logging.Formatter, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.level = level
        self.dropped = 0
        self._formatter, self._loop = formatter, loop
        self._lines: deque[str] = deque()
        self._arrived = asyncio.Event()

    def offer(self, record: logging.LogRecord) -> None:
        """Called in whatever thread logs."""
        if record.levelno < self.level:
            return
        if len(self._lines) >= TAP_LINES_MAX:
            self._lines.popleft()
            self.dropped += 1
        self._lines.append(self._formatter.format(record))
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def lines(self) -> AsyncIterator[str]:
        """Lines as they come, each with its newline, without end."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._lines:
                yield self._lines.popleft() + "\n"
            if self.dropped:
                lost, self.dropped = self.dropped, 0
                yield f"Monitor dropped {lost} logs during monitor request\n"


def configure(config: AgentConfig, tap: LogTap | None = None) -> None:
    """Send what the agent logs where its configuration says; replaces what was set before.

    Raises `ConfigError` for a level, file or facility that cannot be used.
    """
    try:
        level = level_of(config.log_level)
    except ValueError as problem:
        raise ConfigError(str(problem), field="log_level") from problem
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if config.log_file:
        handlers.append(_file_handler(config))
    if config.enable_syslog:
        handlers.append(_syslog_handler(config))
    root = logging.getLogger(ROOT)
    for old in list(root.handlers):
        if not isinstance(old, LogTap):
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.setLevel(level)
        handler.setFormatter(formatter(as_json=config.log_json))
        root.addHandler(handler)
    root.propagate = False
    if tap is None:
        root.setLevel(level)
    else:
        tap.configured_level(level)


def set_level(level: int, tap: LogTap) -> None:
    """Change the level of all that `configure` set up, if it did: a reload may do this."""
    if not tap.is_configured:
        return
    for handler in logging.getLogger(ROOT).handlers:
        if not isinstance(handler, LogTap):
            handler.setLevel(level)
    tap.configured_level(level)


def _file_handler(config: AgentConfig) -> logging.Handler:
    path = log_path(config.log_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFile(
            path,
            max_bytes=config.log_rotate_bytes,
            max_age_s=config.log_rotate_duration_ns / 1e9,
            max_files=config.log_rotate_max_files,
        )
    except OSError as problem:
        raise ConfigError(f"cannot write {path}: {problem.strerror}", field="log_file") from problem


def _syslog_handler(config: AgentConfig) -> logging.Handler:
    names = logging.handlers.SysLogHandler.facility_names
    facility = names.get(config.syslog_facility.lower())
    if facility is None:
        raise ConfigError(f'"{config.syslog_facility}" is unknown', field="syslog_facility")
    try:
        handler = logging.handlers.SysLogHandler("/dev/log", facility)
    except OSError as problem:
        raise ConfigError("no syslog listens on /dev/log", field="enable_syslog") from problem
    handler.ident = "consul: "
    return handler
