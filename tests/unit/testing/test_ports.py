"""Ports for tests: free ones, and no two callers get the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from registry.testing import ports
from registry.testing.ports import free_ports


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A turn of our own, over ports that no other test is given."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ports, "PORTS", range(32_000, 32_700))
    return tmp_path


def test_no_port_is_given_out_twice() -> None:
    given = [port for _ in range(20) for port in free_ports(7)]
    assert len(set(given)) == 140
    assert set(given) <= set(ports.PORTS)


def test_processes_at_the_same_time_get_different_ones(directory: Path) -> None:
    program = "from registry.testing.ports import free_ports; print(*free_ports(50))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(directory)},
        )
        for _ in range(4)
    ]
    given = [port for each in running for port in each.communicate(timeout=60)[0].split()]
    assert len(set(given)) == 200


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_what_somebody_has_is_left_out(kind: int) -> None:
    (port,) = free_ports(1)
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", port + 1))
        assert port + 1 not in free_ports(3)


def test_after_the_last_comes_the_first(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = free_ports(2)
    monkeypatch.setattr(ports, "PORTS", range(some[0], some[1] + 1))
    assert free_ports(1) == some[:1]
    (file,) = directory.iterdir()
    file.write_text("nonsense")
    assert free_ports(2) == some
    with pytest.raises(OSError, match=r"no 500 free ports of 127\.0\.0\.1"):
        free_ports(500)


def test_an_address_of_another_host() -> None:
    with pytest.raises(OSError, match="assign"):
        free_ports(1, "192.0.2.1")
