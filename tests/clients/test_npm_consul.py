"""The npm package `consul`, unmodified, against an agent: the calls are in node/calls.cjs."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from registry.testing.process import AgentProcess

CALLS = Path(__file__).parent / "node" / "calls.cjs"


def test_calls(agent: AgentProcess, npm_packages: Path) -> None:
    ended = subprocess.run(
        ["node", "--test", "--test-reporter=tap", str(CALLS)],
        env={
            **os.environ,
            "NODE_PATH": str(npm_packages),
            "AGENT_PORT": str(agent.ports["http"]),
            "AGENT_SERF_PORT": str(agent.ports["serf_lan"]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = len(re.findall(r"^test\(", CALLS.read_text(), re.MULTILINE))
    assert f"# pass {written}" in ended.stdout, ended.stdout
