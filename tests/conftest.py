"""Options that all tests share."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from registry.testing import seeds

# No example is failed for the time it takes: the machine may be busy with other tests.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=not seeds.is_random(),
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

pytest_plugins = ["registry.testing.pytest_plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write the transcripts in testdata/ anew with what the code does now",
    )


def pytest_configure() -> None:
    """Programs that tests start can be interrupted, even where the tests run in the background:
    a shell has what it starts there ignore these signals, and that is inherited."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _loggers_left_as_found() -> Iterator[None]:
    """Who leaves a level behind makes tests of later files fail, in some orders."""
    root = logging.getLogger("registry")
    before = (root.level, root.propagate, list(root.handlers))
    yield
    assert (root.level, root.propagate, list(root.handlers)) == before


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that agents run on."""
    return {"uvloop": uvloop.new_event_loop}
