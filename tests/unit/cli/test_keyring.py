"""`keyring` with an agent whose gossip is encrypted: one whole change of the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.testing.command_line import Run
from registry.testing.process import AgentProcess

OLD = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
NEW = "AAECAwQFBgcICQoLDA0ODw=="


def listed(*keys: str) -> str:
    lines = "".join(f"  {key} [1/1]\n" for key in sorted(keys))
    about = "==> Gathering installed encryption keys...\n"
    return f"{about}\nWAN:\n{lines}\ndc1 (LAN):\n{lines}"


def test_a_key_is_changed(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, object] = {"encrypt": OLD, "data_dir": ""}
    with AgentProcess(tmp_path / "a", arguments=("-dev",), config=config) as agent:
        monkeypatch.setenv("REGISTRY_HTTP_ADDR", f"127.0.0.1:{agent.ports['http']}")
        assert cli("keyring", "-list") == (0, listed(OLD), "")
        assert cli("keyring", f"-install={NEW}").status == 0
        assert cli("keyring", "-list") == (0, listed(OLD, NEW), "")
        refused = cli("keyring", f"-remove={OLD}")
        assert refused.status == 1
        assert "dc1 (LAN) error: 1/1 nodes reported failure" in refused.err
        assert cli("keyring", f"-use={NEW}").status == 0
        assert cli("keyring", f"-remove={OLD}").status == 0
        assert cli("keyring", "-list") == (0, listed(NEW), "")
        wrong = cli("keyring", "-install=short")
        assert wrong.status == 1
        assert "nodes reported failure" in wrong.err
