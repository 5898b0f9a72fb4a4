"""Three servers and a client agent on this machine, by one command.

    python examples/local_cluster/cluster.py

    node1 to node3   servers     127.0.0.2 to 127.0.0.4
    node4            client      127.0.0.5

Each has the usual ports on an address of its own (Linux answers on all of 127.0.0.0/8; on macOS
`sudo ifconfig lo0 alias 127.0.0.2` and so on first). Data is kept in `--data-dir`, a temporary
directory if not given. Ctrl-C stops all four.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from registry.client import Client, Settings
from registry.errors import RegistryError

SERVERS = 3
START_SECONDS_MAX = 30.0


def address(number: int) -> str:
    return f"127.0.0.{number + 1}"


def command(number: int, data_dir: Path, multiplier: int) -> list[str]:
    """The command line of one node, as one would type it on four machines."""
    words = [
        *(sys.executable, "-m", "registry", "agent"),
        f"-node=node{number}",
        f"-bind={address(number)}",
        f"-client={address(number)}",
        f"-data-dir={data_dir / f'node{number}'}",
        f"-retry-join={address(1)}",
        "-retry-interval=1s",
        f"-hcl=performance {{ raft_multiplier = {multiplier} }}",
    ]
    return (
        [*words, "-server", f"-bootstrap-expect={SERVERS}"]
        if number <= SERVERS
        else [*words, "-ui"]
    )


def start(data_dir: Path, multiplier: int) -> dict[str, subprocess.Popen[bytes]]:
    """Start all nodes; their logs are beside their data."""
    nodes = {}
    for number in range(1, SERVERS + 2):
        name = f"node{number}"
        with (data_dir / f"{name}.log").open("ab") as log:
            nodes[name] = subprocess.Popen(
                command(number, data_dir, multiplier),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    return nodes


def is_ready() -> bool:
    """Whether the client agent finds a leader and every member is alive."""
    client = Client(Settings(address=f"{address(SERVERS + 1)}:8500"))
    try:
        members = client.get("/v1/agent/members", timeout=2).json()
        leader = client.get("/v1/status/leader", timeout=2).json()
    except RegistryError:
        return False
    return bool(leader) and sum(member["Status"] == 1 for member in members) == SERVERS + 1


def wait_until_ready(nodes: dict[str, subprocess.Popen[bytes]], data_dir: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while not is_ready():
        ended = [name for name, node in nodes.items() if node.poll() is not None]
        if ended:
            raise SystemExit(f"{ended[0]} ended; see {data_dir / ended[0]}.log")
        if time.monotonic() > deadline:
            raise SystemExit(
                f"the cluster is not up after {START_SECONDS_MAX:.0f} s; see {data_dir}"
            )
        time.sleep(0.1)


def stop(nodes: dict[str, subprocess.Popen[bytes]]) -> None:
    """By their own pids; servers do not leave, so that the next start finds the same cluster."""
    for node in nodes.values():
        if node.poll() is None:
            node.send_signal(signal.SIGTERM)
    for node in nodes.values():
        try:
            node.wait(15)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Run three servers and a client on this machine.")
    parser.add_argument("--data-dir", type=Path, help="keep data and logs here")
    parser.add_argument("--raft-multiplier", type=int, default=1, help="Raft timing, 1 to 10")
    arguments = parser.parse_args()
    data_dir = arguments.data_dir or Path(tempfile.mkdtemp(prefix="registry-cluster-"))
    data_dir.mkdir(parents=True, exist_ok=True)
    nodes = start(data_dir, arguments.raft_multiplier)
    try:
        wait_until_ready(nodes, data_dir)
        print(f"The cluster is up; data and logs are in {data_dir}. Try, with Ctrl-C to end:")
        print(f"  export REGISTRY_HTTP_ADDR={address(SERVERS + 1)}:8500")
        print("  registry members\n  registry kv put foo 'Hello foo'")
        print(f"  dig @{address(SERVERS + 1)} -p 8600 consul.service.consul", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        stop(nodes)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
