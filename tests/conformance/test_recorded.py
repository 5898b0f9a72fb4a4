"""The recorded conversations, replayed against a fresh agent: the contract with existing clients.

The recordings stay outside the repository: they are looked for beside the checkout, or where
`REGISTRY_CONFORMANCE` points. Without them the tests are skipped and say so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(
    os.environ.get(
        "REGISTRY_CONFORMANCE",
        Path(__file__).resolve().parents[2].parent / "shared" / "conformance",
    )
)

AREAS = (
    "acl-disabled",
    "agent-checks",
    "agent-services",
    "catalog",
    "config-entries",
    "consistency",
    "coordinate",
    "errors",
    "event",
    "filter",
    "headers",
    "health",
    "kv",
    "kv-blocking",
    "lock",
    "operator",
    "prepared-query",
    "session",
    "snapshot",
    "status",
    "txn",
)
CLI_AREAS = ("cli-kv", "cli-catalog", "cli-members", "cli-ops")

MODES = {
    "dev": "agent -dev -config-dir {config_dir}",
    "server": "agent -server -bootstrap -data-dir {data_dir} -config-dir {config_dir}",
}

pytestmark = [
    pytest.mark.skipif(not KIT.is_dir(), reason=f"the recorded conversations are not at {KIT}"),
    pytest.mark.timeout(300),
]


def replay(program: str, *arguments: str) -> str:
    """Run one of the kit's programs; its output, which ends with `N passed, N failed`."""
    done = subprocess.run(
        [sys.executable, str(KIT / program), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.stdout + done.stderr


def assert_all_passed(output: str) -> None:
    verdict = re.search(r"^(\d+) passed, (\d+) failed$", output, re.MULTILINE)
    assert verdict, output[-4000:]
    assert int(verdict[1]) > 0, "nothing was replayed"
    assert verdict[2] == "0", output[-8000:]


@pytest.mark.parametrize("mode", MODES)
def test_http(mode):
    areas = [part for area in AREAS for part in ("--area", area)]
    agent = f"{sys.executable} -m registry {MODES[mode]}"
    assert_all_passed(replay("replay.py", "--agent", agent, "--shuffle", *areas))


def test_command_line():
    program = f"{sys.executable} -m registry"
    areas = [part for area in CLI_AREAS for part in ("--area", area)]
    assert_all_passed(
        replay(
            "replay_cli.py",
            "--cli",
            program,
            "--program",
            "registry",
            "--agent",
            f"{program} {MODES['dev']}",
            "--client-agent",
            f"{program} agent -data-dir {{data_dir}} -config-dir {{config_dir}}",
            *areas,
        )
    )
