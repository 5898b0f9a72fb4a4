"""The Go client, unmodified, against an agent: the calls are in go/calls_test.go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from registry.testing.process import AgentProcess


def test_calls(agent: AgentProcess, go_calls: Path) -> None:
    ended = subprocess.run(
        [str(go_calls), "-test.v"],
        env={
            **os.environ,
            "CONSUL_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}",
            "AGENT_SERF_ADDR": f"127.0.0.1:{agent.ports['serf_lan']}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "--- SKIP" not in ended.stdout
    assert ended.stdout.count("\n--- PASS") >= 20, ended.stdout
