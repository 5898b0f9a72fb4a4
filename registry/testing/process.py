"""Real agents in processes of their own: for tests of crashes, signals, ports and command lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from registry.client import AgentUnreachable, ApiError, Client, Settings
from registry.testing.ports import free_ports

PORT_NAMES = ("http", "dns", "serf_lan", "serf_wan", "server")


def wait_until(
    condition: Callable[[], bool], what: str | Callable[[], str], *, seconds: float = 30.0
) -> None:
    """Poll a condition of the outside world, with a deadline; AssertionError names what was missed.

    `what` may be a function, called only for the message.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            missed = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:g} s: {missed}")
        time.sleep(0.02)


class AgentProcess:
    """`registry agent` in a directory of its own, stopped by its own pid.

    `config` is merged over ports on `address`, chosen free there unless `ports` says which;
    `arguments` come last, and `prefix` before the whole command line (it has to become the agent by
    exec, or a signal would reach the wrong process). The log is in `log_path`.
    """

    def __init__(
        self,
        root: Path,
        *,
        arguments: Sequence[str] = ("-server", "-bootstrap"),
        config: dict[str, object] | None = None,
        name: str = "test-node",
        address: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.name = name
        self.address = address
        free = ports or zip(PORT_NAMES, free_ports(len(PORT_NAMES), address), strict=True)
        self.ports = dict(free)
        self.data_dir = root / "data"
        self.config_dir = root / "config.d"
        self.log_path = root / "agent.log"
        self.config_dir.mkdir(parents=True, exist_ok=True)
        settings: dict[str, object] = {
            "node_name": name,
            "bind_addr": address,
            "client_addr": address,
            "data_dir": str(self.data_dir),
            "ports": self.ports,
            "performance": {"raft_multiplier": 1},
        }
        settings.update(config or {})
        self.write_config("00-test.json", settings)
        self._command = [*prefix, sys.executable, "-m", "registry", "agent"]
        self._command += ["-config-dir", str(self.config_dir), *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(Settings(address=self.http_address))

    @property
    def http_address(self) -> str:
        return f"{self.address}:{self.ports['http']}"

    @property
    def is_running(self) -> bool:
        """Whether there is a process, in whatever state."""
        return self.process is not None and self.process.poll() is None

    def write_config(self, file_name: str, content: object) -> Path:
        path = self.config_dir / file_name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def start(self, *, wait: bool = True) -> AgentProcess:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        if wait:
            wait_until(self.is_ready, lambda: f"a ready agent; log:\n{self.log_tail()}")
        return self

    def is_ready(self) -> bool:
        """Whether it answers and knows a leader; fails at once when the process has ended."""
        self.check_running()
        with suppress(AgentUnreachable, ApiError):
            return bool(self.client.get("/v1/status/leader", timeout=2).json())
        return False

    def check_running(self) -> None:
        """AssertionError, with the end of the log, when the process has ended."""
        assert self.is_running, f"the agent has ended:\n{self.log_tail()}"

    def log_tail(self, characters: int = 3000) -> str:
        return (
            self.log_path.read_text(errors="replace")[-characters:]
            if self.log_path.exists()
            else ""
        )

    def kill(self) -> None:
        """SIGKILL: no time to write anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, then the exit status."""
        return self._end(signal.SIGTERM)

    def run(self, *words: str, status: int = 0) -> str:
        """What `registry WORDS` prints at this agent, errors after the rest.

        Raises `AssertionError` when the command ends with another status.
        """
        done = subprocess.run(
            [sys.executable, "-m", "registry", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "REGISTRY_HTTP_ADDR": self.http_address},
        )
        printed = done.stdout + done.stderr
        assert done.returncode == status, printed
        return printed

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
            raise AssertionError(
                f"the agent did not stop by {number.name}:\n{self.log_tail()}"
            ) from None

    def __enter__(self) -> AgentProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
