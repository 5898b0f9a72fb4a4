"""Log lines in both forms, files that rotate, and live watching."""

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.agent import logs
from registry.agent.config import AgentConfig
from registry.errors import ConfigError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Whatever a test does to our loggers is undone."""
    root = logging.getLogger(logs.ROOT)
    before = (list(root.handlers), root.level, root.propagate)
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def record(message: str, *args: object, name: str = "registry.agent", level: int = 20) -> object:
    return logging.getLogger(name).makeRecord(name, level, "f", 1, message, args, None)


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("registry.agent", logging.INFO, "[INFO]  agent: Synced: service=web"),
        ("registry.http", logging.DEBUG, "[DEBUG] agent.http: Synced: service=web"),
        ("registry.server.leader", logging.WARNING, "[WARN]  agent.leader: Synced: service=web"),
        ("registry.raft.driver", logging.ERROR, "[ERROR] agent.server.raft.driver: Synced: "),
        ("registry.agent.checks", logs.TRACE, "[TRACE] agent.checks: Synced: service=web"),
    ],
)
def test_text_lines(name: str, level: int, expected: str) -> None:
    line = logs.TextFormatter().format(record("Synced: service=%s", "web", name=name, level=level))  # type: ignore[arg-type]
    stamp = r"    \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d) "
    assert re.match(stamp + re.escape(expected), line)


def test_json_lines_take_the_tail_apart() -> None:
    made = record('Request error: method=GET error="No cluster leader" list=[a b]')
    line = json.loads(logs.JsonFormatter().format(made))  # type: ignore[arg-type]
    assert re.fullmatch(r".*\.\d{6}(Z|[+-]\d\d:\d\d)", line.pop("@timestamp"))
    assert line == {
        "@level": "info",
        "@message": "Request error",
        "@module": "agent",
        "method": "GET",
        "error": "No cluster leader",
        "list": "[a b]",
    }


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("no fields here", ("no fields here", {})),
        ("cluster leadership acquired", ("cluster leadership acquired", {})),
        ("a=1", ("", {"a": "1"})),
        ("x: a=1 b=", ("x", {"a": "1", "b": ""})),
        ("2 + 2 = 4", ("2 + 2 = 4", {})),
    ],
)
def test_splitting(message: str, expected: tuple[str, dict[str, str]]) -> None:
    assert logs.split_fields(message) == expected


@pytest.mark.parametrize(
    ("log_file", "expected"),
    [("x/", "x/consul.log"), ("x/agent", "x/agent.log"), ("x/agent.txt", "x/agent.txt")],
)
def test_log_paths(log_file: str, expected: str) -> None:
    assert str(logs.log_path(log_file)) == expected


def test_a_directory_means_consul_log(tmp_path: Path) -> None:
    assert logs.log_path(str(tmp_path)) == tmp_path / "consul.log"


@pytest.mark.parametrize(("max_files", "kept"), [(0, 4), (2, 2), (-1, 0)])
def test_a_full_file_is_renamed_and_old_ones_go(tmp_path: Path, max_files: int, kept: int) -> None:
    path = tmp_path / "consul.log"
    handler = logs.RotatingFile(path, max_bytes=10, max_age_s=0, max_files=max_files)
    for number in range(5):
        handler.emit(record("line %d .....", number))  # type: ignore[arg-type]
    handler.close()
    assert path.read_text() == "line 4 .....\n"
    rotated = [item for item in tmp_path.iterdir() if re.fullmatch(r"consul-\d+\.log", item.name)]
    assert len(rotated) == kept


def test_an_old_file_is_renamed(tmp_path: Path) -> None:
    handler = logs.RotatingFile(tmp_path / "a.log", max_bytes=0, max_age_s=1e-9, max_files=0)
    handler.emit(record("one"))  # type: ignore[arg-type]
    handler.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_configure_sends_lines_where_the_configuration_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AgentConfig(log_level="warn", log_json=True, log_file=str(tmp_path / "logs") + "/")
    logs.configure(config)
    logger = logging.getLogger("registry.agent")
    logger.info("too low")
    logger.warning("Check is now critical: check=%s", "c1")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["@level"], shown["check"]) == ("warn", "c1")
    assert json.loads((tmp_path / "logs" / "consul.log").read_text()) == shown


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (AgentConfig(log_level="loud"), "log_level"),
        (AgentConfig(log_file="/proc/no/such/"), "log_file"),
        (AgentConfig(enable_syslog=True, syslog_facility="NOPE"), "syslog_facility"),
    ],
)
def test_what_cannot_be_used_is_named(config: AgentConfig, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        logs.configure(config)
    assert caught.value.field == field


async def test_watchers_see_more_than_the_agent_logs_and_only_while_they_watch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tap = logs.LogTap()
    logs.configure(AgentConfig(log_level="ERR"), tap)
    logger = logging.getLogger("registry.http")
    assert not logger.isEnabledFor(logging.INFO)
    with tap.watch(logs.level_of("debug")) as debug, tap.watch(logging.WARNING) as warnings:
        logger.debug("small")
        logger.warning("large")
        debug_lines, warning_lines = debug.lines(), warnings.lines()
        async with asyncio.timeout(5):
            assert (await anext(debug_lines)).endswith("[DEBUG] agent.http: small\n")
            assert (await anext(debug_lines)).endswith("[WARN]  agent.http: large\n")
            assert (await anext(warning_lines)).endswith("large\n")
    assert not logger.isEnabledFor(logging.INFO)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
async def test_the_level_of_a_program_around_the_agent_is_its_own(level: int) -> None:
    root = logging.getLogger(logs.ROOT)
    root.setLevel(level)
    tap = logs.LogTap()
    with tap.watch(logging.DEBUG):
        assert root.isEnabledFor(logging.DEBUG)
        with tap.watch(logging.INFO):
            assert root.isEnabledFor(logging.DEBUG)
        assert root.isEnabledFor(logging.DEBUG)
    assert root.level == level
    with tap.watch(logging.INFO):
        with tap.watch(logging.DEBUG):
            pass
        assert root.level == logging.INFO
    assert root.level == level
    logs.set_level(logging.INFO, tap)
    assert root.level == level


def test_a_reload_changes_the_level_that_was_configured() -> None:
    tap = logs.LogTap()
    logs.configure(AgentConfig(log_level="ERR"), tap)
    logs.set_level(logging.DEBUG, tap)
    root = logging.getLogger(logs.ROOT)
    assert {root.level, *(handler.level for handler in root.handlers)} == {logging.DEBUG}


async def test_a_slow_watcher_loses_the_oldest_lines_and_is_told() -> None:
    tap = logs.LogTap()
    with tap.watch(logging.INFO) as watcher:
        for number in range(logs.TAP_LINES_MAX + 3):
            watcher.offer(record("line %d", number))  # type: ignore[arg-type]
        lines = watcher.lines()
        async with asyncio.timeout(5):
            got = [await anext(lines) for _ in range(logs.TAP_LINES_MAX + 1)]
    assert got[0].endswith("line 3\n")
    assert got[-1] == "Monitor dropped 3 logs during monitor request\n"
