"""The agent's process: arguments in, signals, exit status out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvloop

from registry.agent import logs
from registry.agent.banner import start_banner
from registry.agent.flags import parse_agent_flags
from registry.agent.loading import load_flags, plugin_selection, selection_of
from registry.agent.node import MakeFace, Node
from registry.agent.watches import Render
from registry.errors import RegistryError, StorageError
from registry.plugins import Plugins
from registry.server.change_feed import Show

logger = logging.getLogger("registry.agent")


def run_agent(
    arguments: Sequence[str],
    *,
    make_faces: Sequence[MakeFace],
    render_watch: Render,
    show_record: Show,
) -> int:
    """Run an agent until a signal or a request ends it; 0 after a clean end.

    Raises `RegistryError` with one line for everything that keeps it from starting or going on.
    """
    flags = parse_agent_flags(arguments)
    plugins = Plugins.load([Path(path) for path in flags.plugin_dirs], plugin_selection(flags))
    loaded = load_flags(flags, plugins)
    plugins.narrow(selection_of(loaded.config))
    plugins.configure(loaded.plugin_settings)
    tap = logs.LogTap()
    logs.configure(loaded.config, tap)
    node = Node(
        loaded,
        flags=flags,
        plugins=plugins,
        make_faces=make_faces,
        render_watch=render_watch,
        show_record=show_record,
        tap=tap,
    )
    print(start_banner(loaded.config, node.node_id), flush=True)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    with _pid_file(loaded.config.pid_file):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(node))
        except BaseExceptionGroup as group:
            raise _first_of_ours(group) from group
    return 0


async def _serve(node: Node) -> None:
    loop = asyncio.get_running_loop()
    for number, handler in _signals(node).items():
        loop.add_signal_handler(number, handler)
    async with asyncio.TaskGroup() as group:
        announcing = group.create_task(_announce(node))
        try:
            await node.run()
        finally:
            announcing.cancel()


async def _announce(node: Node) -> None:
    await node.running.wait()
    print("==> Consul agent running!", flush=True)


def _signals(node: Node) -> dict[int, Callable[[], None]]:
    config = node.config
    caught = False

    def end(reason: str, *, leave: bool) -> None:
        nonlocal caught
        if caught:
            # Whoever asks twice will not wait; all that was acknowledged is on the disk.
            logger.warning("Caught second signal, exiting at once: reason=%s", reason)
            if config.pid_file:
                Path(config.pid_file).unlink(missing_ok=True)
            os._exit(1)
        caught = True
        node.stop(reason, leave=leave)

    def interrupt() -> None:
        end("interrupt", leave=not config.skip_leave_on_interrupt)

    def terminate() -> None:
        end("terminated", leave=config.leave_on_terminate)

    def dump_metrics() -> None:
        node.dump_metrics(sys.stderr)

    return {
        signal.SIGINT: interrupt,
        signal.SIGTERM: terminate,
        signal.SIGHUP: node.request_reload,
        signal.SIGUSR1: dump_metrics,
    }


@contextlib.contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """The process id in a file for as long as the agent runs."""
    if not path:
        yield
        return
    try:
        Path(path).write_text(f"{os.getpid()}\n")
    except OSError as problem:
        raise StorageError(f"cannot write the pid file {path}: {problem.strerror}") from problem
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)


def _first_of_ours(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure to tell the user: the first of ours, else the group with its tracebacks."""
    ours, _ = group.split(RegistryError)
    problem: BaseException = ours if ours is not None else group
    while isinstance(problem, BaseExceptionGroup):
        if ours is None:
            return group
        problem = problem.exceptions[0]
    return problem
