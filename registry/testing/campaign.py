"""Many simulated runs, one after another or on all cores: `python -m registry.testing.campaign`.

Each run is decided by its seed alone. A failure prints the seed, what was violated, and the command
that replays it, with a trace if wanted:

    python -m registry.testing.campaign --seed 42 --runs 1 --trace
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.testing.simulation import Options, Simulation, Summary

_BAR_WIDTH = 30


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not end well; `kind` is the invariant, or the exception's name."""

    seed: int
    servers: int | None
    kind: str
    explanation: str
    disabled_guards: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.explanation}\nreplay: {self.command}"

    @property
    def command(self) -> str:
        servers = f" --servers {self.servers}" if self.servers else ""
        guards = "".join(f" --without {guard}" for guard in sorted(self.disabled_guards))
        return (
            f"python -m registry.testing.campaign --runs 1 --seed {self.seed}{servers}{guards}"
            " --trace"
        )


def run_one(
    seed: int, servers: int | None = None, guards: frozenset[str] = frozenset(), trace: bool = False
) -> Summary | Failure:
    """One run with swarm options; whatever is raised in it is a failure of the run."""
    simulation = Simulation(
        seed, servers=servers, disabled_guards=guards, trace=print if trace else None
    )
    try:
        return simulation.run()
    except Exception as error:
        kind = getattr(error, "invariant", type(error).__name__)
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error) or f"{type(error).__name__} at {where.filename}:{where.lineno}"
        if trace:
            traceback.print_exc()
        return Failure(seed, servers, kind, f"{text} (at {simulation.now} us)", guards)


def _run_one(work: tuple[int, int | None, frozenset[str]]) -> Summary | Failure:
    return run_one(*work)


def campaign(
    seeds: Sequence[int],
    servers: int | None = None,
    guards: frozenset[str] = frozenset(),
    jobs: int = 1,
) -> Iterator[Summary | Failure]:
    """The outcome of every seed, in order when `jobs` is 1."""
    work = [(seed, servers, guards) for seed in seeds]
    if jobs == 1:
        yield from map(_run_one, work)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_one, work, chunksize=4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every run ended well."""
    options = _parse(arguments)
    guards = frozenset(options.without)
    seeds = range(options.seed, options.seed + options.runs)
    if options.trace:
        outcome = run_one(options.seed, options.servers, guards, trace=True)
        print(outcome)
        return int(isinstance(outcome, Failure))
    totals: Counter[str] = Counter()
    failures: list[Failure] = []
    started = time.monotonic()
    outcomes = campaign(seeds, options.servers, guards, options.jobs)
    for done, outcome in enumerate(outcomes, 1):
        if isinstance(outcome, Failure):
            failures.append(outcome)
            _clear_line()
            print(outcome)
        else:
            totals.update(_counts(outcome))
        _show_progress(done, options.runs, len(failures), started)
        if len(failures) >= options.failures_max:
            break
    _clear_line()
    took = time.monotonic() - started
    print(
        f"{done} runs in {took:.1f} s, {len(failures)} failed; "
        + ", ".join(f"{count} {name}" for name, count in sorted(totals.items()))
    )
    return int(bool(failures))


def _counts(summary: Summary) -> dict[str, int]:
    return {
        name: getattr(summary, name)
        for name in (
            "events", "elections", "committed", "operations", "crashes", "changes", "snapshots"
        )
    }  # fmt: skip


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign", description="Simulate Raft clusters.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument("--servers", type=int, help="initial servers (default: random)")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--failures-max", type=int, default=5, help="stop after so many")
    parser.add_argument("--without", action="append", default=[], help="disable a guard (R-n)")
    parser.add_argument("--trace", action="store_true", help="print one run step by step")
    return parser.parse_args(arguments)


def _show_progress(done: int, runs: int, failed: int, started: float) -> None:
    """A bar on a terminal, nothing in a log file."""
    if not sys.stderr.isatty():
        return
    filled = _BAR_WIDTH * done // runs
    rate = done / max(time.monotonic() - started, 1e-9)
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    print(
        f"\r[{bar}] {done}/{runs} {rate:.0f}/s failed={failed}", end="", file=sys.stderr, flush=True
    )


def _clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


__all__ = ["Failure", "Options", "campaign", "main", "run_one"]

if __name__ == "__main__":
    sys.exit(main())
