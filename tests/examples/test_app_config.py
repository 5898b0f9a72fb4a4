"""The example application sees its configuration at the start and after a change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from registry.testing.process import AgentProcess

APP = Path(__file__).resolve().parents[2] / "examples" / "app_config" / "app.py"


def test_configuration_is_fetched_and_followed(tmp_path):
    with AgentProcess(tmp_path, arguments=("-dev",)) as agent:
        agent.client.kv_put("app/greeting", b"hello")
        agent.client.kv_put("other/key", b"not ours")
        app = subprocess.Popen(
            [sys.executable, str(APP), "app/", "--changes", "2"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "REGISTRY_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}"},
        )
        assert app.stdout is not None
        assert json.loads(app.stdout.readline()) == {"greeting": "hello"}
        agent.client.kv_put("app/greeting", b"good evening")
        assert json.loads(app.stdout.readline()) == {"greeting": "good evening"}
        assert app.wait(10) == 0
        app.stdout.close()
