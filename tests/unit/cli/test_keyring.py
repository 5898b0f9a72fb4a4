"""`keyring` with an agent whose gossip is encrypted: one whole change of the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.testing.agent_cluster import AgentCluster
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


def test_a_client_agent_changes_the_keys_of_all_pools(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not in the WAN pool itself: a key changed there alone would part the datacenters."""
    with AgentCluster(tmp_path, servers=1, clients=1, config={"encrypt": OLD}) as cluster:
        monkeypatch.setenv("REGISTRY_HTTP_ADDR", cluster.clients[0].http_address)
        assert cli("keyring", f"-install={NEW}").status == 0
        assert cli("keyring", f"-use={NEW}").status == 0
        assert cli("keyring", f"-remove={OLD}").status == 0
        about = "==> Gathering installed encryption keys...\n"
        pools = f"\nWAN:\n  {NEW} [1/1]\n\ndc1 (LAN):\n  {NEW} [2/2]\n"
        assert cli("keyring", "-list") == (0, about + pools, "")
