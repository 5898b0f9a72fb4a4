"""Commands that run until they are interrupted."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from registry.cli.command import ended_by_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class Falling:
    """Sends a signal as it is finalized, where Python drops what the handler raises."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


def finalize_and_wait(number: signal.Signals) -> None:
    falling = Falling(number)
    del falling
    time.sleep(20)
    pytest.fail("no interrupt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_python_drops_comes_again(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        finalize_and_wait(number)


def test_afterwards_all_is_as_before() -> None:
    before = [signal.getsignal(number) for number in NUMBERS], sys.unraisablehook
    with ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert ([signal.getsignal(number) for number in NUMBERS], sys.unraisablehook) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_errors_of_finalizers_are_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ZeroDivisionError

    with ended_by_signals():
        broken = Broken()
        del broken
    assert told == [ZeroDivisionError]
