"""Commands about an agent and its cluster: members, rtt, keyring, operator, event, exec, …"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from registry import COMPATIBLE_VERSION
from registry.cli.rtt import distance_s
from registry.testing.command_line import Run, Stub
from registry.testing.process import AgentProcess, wait_until

NODE = "cli-node"


def member(name: str, status: int = 1, **tags: str) -> dict[str, Any]:
    return {"Name": name, "Addr": "10.0.0.1", "Port": 8301, "Status": status, "Tags": tags}


SERVER = {"role": "consul", "build": "1.8.4:abc", "vsn": "2", "dc": "dc1"}


# members, info, join, leave, force-leave, reload, monitor


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        pytest.param(
            [],
            [
                "z   10.0.0.1:8301  alive   server  1.8.4  2  dc1  <all>",
                "a   10.0.0.1:8301  failed  client  < 0.3",
                "v6  [::1]:8301     left    client  < 0.3",
            ],
            id="servers-first",
        ),
        pytest.param(["-status=fail.*"], ["a  10.0.0.1:8301  failed  client  < 0.3"], id="status"),
        pytest.param(
            ["-status=aile"], ["a  10.0.0.1:8301  failed  client  < 0.3"], id="part-of-it"
        ),
        pytest.param(
            ["-detailed", "-status=alive"],
            ["z  10.0.0.1:8301  alive  build=1.8.4:abc,dc=dc1,role=consul,segment=<all>,vsn=2"],
            id="detailed",
        ),
    ],
)
def test_members(cli: Run, stub: Stub, words: list[str], rows: list[str]) -> None:
    found = [member("a", 4), member("z", 1, **SERVER), {**member("v6", 3), "Addr": "::1"}]
    stub.answer("GET /v1/agent/members", found)
    done = cli("members", *words)
    shown = [re.sub(r" {2,}", "  ", line) for line in done.out.splitlines()]
    if words == []:
        assert shown[0] == "Node  Address  Status  Type  Build  Protocol  DC  Segment"
    assert (done.status, done.err) == (0, "")
    for row in rows:
        wanted = re.sub(r" {2,}", "  ", row)
        assert any(line.startswith(wanted) for line in shown[1:]), (wanted, shown)
    assert len(shown) == len(rows) + 1
    assert [line.split()[0] for line in shown[1:]] == [row.split()[0] for row in rows]


def test_no_member_fits(registry: Run) -> None:
    assert registry("members", "-status=left") == (2, "", "")
    assert "Failed to compile status regexp" in registry("members", "-status=(").err


#: Block of `info` -> what scripts read in it.
STATISTICS = {
    "agent": "check_monitors check_ttls checks services",
    "build": "prerelease revision version",
    "consul": "acl bootstrap known_datacenters leader leader_addr server",
    "raft": "applied_index commit_index fsm_pending last_contact last_log_index last_log_term "
    "last_snapshot_index last_snapshot_term latest_configuration latest_configuration_index "
    "num_peers protocol_version protocol_version_max protocol_version_min snapshot_version_max "
    "snapshot_version_min state term",
    "runtime": "arch cpu_count goroutines max_procs os version",
    "serf_lan": "coordinate_resets encrypted event_queue event_time failed health_score "
    "intent_queue left member_time members query_queue query_time",
}


def test_info(registry: Run) -> None:
    done = registry("info")
    assert done.status == 0
    names: dict[str, list[str]] = {}
    for line in done.out.splitlines():
        if not line.startswith("\t"):
            block = names.setdefault(line.removesuffix(":"), [])
        else:
            block.append(line.strip().split(" =")[0])
    assert list(names) == [*STATISTICS, "serf_wan"]
    for shown, wanted in STATISTICS.items():
        assert names[shown] == sorted(names[shown])
        assert set(wanted.split()) <= set(names[shown])
    assert "\tarch = x86_64\n" not in done.out


def test_join(registry: Run, agent: AgentProcess) -> None:
    own = f"127.0.0.1:{agent.ports['serf_lan']}"
    assert registry("join", own).out == "Successfully joined cluster by contacting 1 nodes.\n"
    done = registry("join", "127.0.0.1:9")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(
        "Error joining address '127.0.0.1:9': Unexpected response code: 500 (1 error occurred:\n"
        "\t* Failed to join 127.0.0.1: "
    )
    assert done.err.endswith("\n\n)\nFailed to join any nodes.\n")
    assert registry("join").err.startswith("At least one address to join must be specified.\n\nUs")


def test_leave(cli: Run, stub: Stub) -> None:
    stub.answer("PUT /v1/agent/leave", b"")
    assert cli("leave") == (0, "Graceful leave complete\n", "")
    done = cli("leave", "x", "y")
    assert (done.status, done.err) == (1, "Error found unexpected args: [x y]\n")
    assert done.out == cli("leave", "-h").out


def test_force_leave(cli: Run, stub: Stub) -> None:
    stub.answer("PUT /v1/agent/force-leave/a", b"")
    assert cli("force-leave", "-prune", "a") == (0, "", "")
    assert stub.requests[0].path == "/v1/agent/force-leave/a?prune="
    assert cli("force-leave").err.startswith("A single node name must be specified")


def test_reload(registry: Run, agent: AgentProcess) -> None:
    path = agent.write_config("50-web.json", {"service": {"name": "cli-web", "port": 80}})
    wait_until(
        lambda: "cli-web" in agent.client.get("/v1/agent/services").json(),
        "the edit to be followed",
    )
    path.unlink()
    done = registry("reload")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Configuration reload triggered\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_monitor(agent: AgentProcess, registry: Run, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "registry", "monitor", "-log-level=debug"]
    environment = {**os.environ, "REGISTRY_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

        def a_line_came() -> bool:
            agent.client.put("/v1/agent/reload")  # says something
            return bool(process.stdout and process.stdout.read())

        wait_until(a_line_came, "a line of the log")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b"")
    done = registry("monitor", "-log-level=nonsense")
    assert done.err == (
        "Error starting monitor: Unexpected response code: 400 "
        "(Bad request: Unknown log level: nonsense)\n"
    )


def test_a_monitor_that_ends(cli: Run, stub: Stub) -> None:
    stub.answer("GET /v1/agent/monitor", b"one line\n")
    assert cli("monitor") == (
        1,
        "one line\n\nRemote side ended the monitor! This usually means that the\n"
        "remote side has exited or crashed.\n",
        "",
    )


# rtt


def place(x: float = 0.0, height: float = 0.0, adjustment: float = 0.0) -> dict[str, Any]:
    return {"Vec": [x, *[0.0] * 7], "Error": 1.5, "Height": height, "Adjustment": adjustment}


@pytest.mark.parametrize(
    ("first", "second", "seconds"),
    [
        pytest.param(place(), place(), 0.0, id="same"),
        pytest.param(place(0.003), place(-0.001), 0.004, id="distance"),
        pytest.param(place(0.003, height=0.001), place(height=0.002), 0.006, id="heights"),
        pytest.param(place(0.003, adjustment=0.001), place(), 0.004, id="adjusted"),
        pytest.param(place(0.003, adjustment=-0.004), place(), 0.003, id="never-negative"),
    ],
)
def test_distance(first: dict[str, Any], second: dict[str, Any], seconds: float) -> None:
    assert distance_s(first, second) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        pytest.param(
            ["a", "b"], 0, "Estimated a <-> b rtt: 3.000 ms (using LAN coordinates)", "", id="two"
        ),
        pytest.param(
            ["a"], 0, "Estimated a <-> me rtt: 4.000 ms (using LAN coordinates)", "", id="own"
        ),
        pytest.param(
            ["-wan", "a.dc1", "a.dc2"],
            0,
            "Estimated a.dc1 <-> a.dc2 rtt: 1.000 ms (using WAN coordinates)",
            "",
            id="wan",
        ),
        pytest.param(
            ["-wan", "a.dc2"],
            0,
            "Estimated a.dc2 <-> me.dc1 rtt: 7.000 ms (using WAN coordinates)",
            "",
            id="wan-own",
        ),
        pytest.param(
            ["a", "x"], 1, "", 'Could not find a coordinate for node "x"', id="unknown"
        ),
        pytest.param(
            ["-wan", "a"],
            1,
            "",
            "Node names must be specified as <node name>.<datacenter> with -wan",
            id="wan-name",
        ),
    ],
)  # fmt: skip
def test_rtt(cli: Run, stub: Stub, words: list[str], status: int, out: str, err: str) -> None:
    stub.answer("GET /v1/agent/self", {"Config": {"NodeName": "me", "Datacenter": "dc1"}})
    lan = {"a": place(), "b": place(0.003), "me": place(0.004)}
    stub.answer(
        "GET /v1/coordinate/nodes", [{"Node": name, "Coord": at} for name, at in lan.items()]
    )
    wan = {"dc1": {"a": place(), "me": place(0.008)}, "dc2": {"a": place(0.001)}}
    areas = [
        {
            "Datacenter": datacenter,
            "Coordinates": [{"Node": name, "Coord": at} for name, at in nodes.items()],
        }
        for datacenter, nodes in wan.items()
    ]
    stub.answer("GET /v1/coordinate/datacenters", areas)
    done = cli("rtt", *words)
    assert (done.status, done.out.rstrip(), done.err.rstrip()) == (status, out, err)


def test_the_agents_own_coordinate(registry: Run) -> None:
    wait_until(lambda: registry("rtt", NODE).status == 0, "the node's coordinate", seconds=60)
    assert registry("rtt", "a", "b", "c").err.startswith("One or two node names must be")


# keyring

KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="


def test_keys_are_listed_by_pool(cli: Run, stub: Stub) -> None:
    pool = {"Datacenter": "dc1", "Segment": "", "NumNodes": 3, "Messages": None}
    stub.answer(
        "GET /v1/operator/keyring",
        [
            {**pool, "WAN": True, "Keys": {KEY: 1}, "NumNodes": 1},
            {**pool, "WAN": False, "Keys": {"b=": 2, "a=": 3}, "Messages": {"n1": "no key"}},
        ],
    )
    done = cli("keyring", "-list", "-local-only", "-relay-factor=2")
    assert done == (
        0,
        "==> Gathering installed encryption keys...\n"
        f"\nWAN:\n  {KEY} [1/1]\n"
        "\ndc1 (LAN):\n\tn1: no key\n  a= [3/3]\n  b= [2/3]\n",
        "",
    )
    assert stub.requests[0].path == "/v1/operator/keyring?local-only=true&relay-factor=2"


@pytest.mark.parametrize(
    ("flag", "method", "said"),
    [
        pytest.param("-install", "POST", "==> Installing new gossip encryption key...", id="add"),
        pytest.param("-use", "PUT", "==> Changing primary gossip encryption key...", id="use"),
        pytest.param("-remove", "DELETE", "==> Removing gossip encryption key...", id="remove"),
    ],
)
def test_keys_are_changed(cli: Run, stub: Stub, flag: str, method: str, said: str) -> None:
    stub.answer(f"{method} /v1/operator/keyring", b"")
    assert cli("keyring", f"{flag}={KEY}") == (0, f"{said}\n", "")
    assert stub.requests[0].body == f'{{"Key": "{KEY}"}}'.encode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "Usage: registry keyring", id="nothing"),
        pytest.param(["-list", "-use=a"], "Only a single action is allowed", id="two"),
        pytest.param(["-list", "-relay-factor=6"], "Error parsing relay factor", id="relay"),
        pytest.param(["-use=a", "-local-only"], "Error validating local-only", id="local-only"),
        pytest.param(["-list"], "error: Unexpected response code: 500 (no gossip", id="no-keys"),
    ],
)
def test_keyring_refusals(registry: Run, words: list[str], said: str) -> None:
    done = registry("keyring", *words)
    assert done.status == 1
    assert done.err.startswith(said)


# operator


def test_list_peers(cli: Run, stub: Stub) -> None:
    server = {"ID": "1", "Node": "a", "Address": "10.0.0.1:8300", "ProtocolVersion": "3"}
    stub.answer(
        "GET /v1/operator/raft/configuration",
        {
            "Servers": [
                {**server, "Leader": True, "Voter": True},
                {**server, "Node": "b", "Leader": False, "Voter": False, "ProtocolVersion": ""},
            ]
        },
    )
    assert cli("operator", "raft", "list-peers", "-stale").out == (
        "Node  ID  Address        State     Voter  RaftProtocol\n"
        "a     1   10.0.0.1:8300  leader    true   3\n"
        "b     1   10.0.0.1:8300  follower  false  <=1\n"
    )


@pytest.mark.parametrize(
    ("words", "out", "err"),
    [
        pytest.param(["-id=1"], 'Removed peer with id "1"\n', "", id="id"),
        pytest.param(["-address=a:1"], 'Removed peer with address "a:1"\n', "", id="address"),
        pytest.param([], "", "an address or id is required for the peer to remove", id="neither"),
        pytest.param(["-id=1", "-address=a"], "", "cannot give both an address and id", id="both"),
    ],
)
def test_remove_peer(cli: Run, stub: Stub, words: list[str], out: str, err: str) -> None:
    stub.answer("DELETE /v1/operator/raft/peer", b"")
    done = cli("operator", "raft", "remove-peer", *words)
    said = f"Error removing peer: {err}\n" if err else ""
    assert done == (bool(err), out, said)


def test_autopilot(registry: Run) -> None:
    before = registry("operator", "autopilot", "get-config").out
    assert before.startswith("CleanupDeadServers = true\nLastContactThreshold = 200ms\n")
    assert before.endswith('UpgradeVersionTag = ""\n')
    changed = registry(
        "operator", "autopilot", "set-config", "-cleanup-dead-servers=false", "-min-quorum=3",
        "-last-contact-threshold=300ms", "-redundancy-zone-tag=zone",
    )  # fmt: skip
    assert changed == (0, "Configuration updated!\n", "")
    after = registry("operator", "autopilot", "get-config").out
    assert after == (
        before.replace("Servers = true", "Servers = false")
        .replace("200ms", "300ms")
        .replace("MinQuorum = 0", "MinQuorum = 3")
        .replace('ZoneTag = ""', 'ZoneTag = "zone"')
    )


def test_autopilot_is_not_overwritten(cli: Run, stub: Stub) -> None:
    path = "/v1/operator/autopilot/configuration"
    stub.answer(f"GET {path}", {"ModifyIndex": 7, "MinQuorum": 0})
    stub.answer(f"PUT {path}", b"false")
    done = cli("operator", "autopilot", "set-config", "-min-quorum=3")
    said = "Configuration could not be atomically updated, please try again\n"
    assert done == (1, said, "")
    assert stub.requests[1].path == f"{path}?cas=7"
    done = cli("operator", "autopilot", "set-config", "-server-stabilization-time=soon")
    assert "for flag -server-stabilization-time: time: invalid duration soon\n" in done.err
    done = cli("operator", "autopilot", "set-config", "-min-quorum=-1")
    assert 'for flag -min-quorum: strconv.ParseUint: parsing "-1": invalid' in done.err


# event and exec


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "Event name must be specified\n\nUsage:", id="no-name"),
        pytest.param(["-name=e", "a", "b"], "Too many command line arguments.\n\nUsage", id="args"),
        pytest.param(["-name=e", "-tag=t"], "Cannot provide tag filter without", id="tag"),
        pytest.param(["-name=e", "-node=("], "Failed to compile node filter regexp", id="node"),
        pytest.param(["-name=e", "-service=("], "Failed to compile service filter", id="service"),
        pytest.param(
            ["-name=e", "-service=s", "-tag=("], "Failed to compile tag filter", id="tag-pattern"
        ),
        pytest.param(["-name=e", "x" * 600], "Error firing event: Unexpected", id="too-large"),
    ],
)
def test_event_refusals(registry: Run, words: list[str], said: str) -> None:
    done = registry("event", *words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(said)


def test_event(registry: Run, agent: AgentProcess) -> None:
    def seen(name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = agent.client.get("/v1/event/list", {"name": name}).json()
        return found

    assert registry("event", "-name=deploy", "-node=others").status == 0
    done = registry("event", "-name=deploy", "-node=cli-.*", "1.2.3")
    assert (done.status, done.err) == (0, "")
    wait_until(lambda: bool(seen("deploy")), "the event")
    [event] = seen("deploy")
    assert done.out == f"Event ID: {event['ID']}\n"
    assert base64.b64decode(event["Payload"]) == b"1.2.3"


@pytest.mark.parametrize(
    ("words", "stdin", "status", "out"),
    [
        pytest.param(["echo", "hello"], b"", 0, ["hello", "", "0"], id="shell"),
        pytest.param(["exit", "3"], b"", 2, ["3"], id="fails"),
        pytest.param(["-shell=false", "echo", "$HOME"], b"", 0, ["$HOME", "", "0"], id="no-shell"),
        pytest.param(["-"], b"#!/bin/sh\necho script\n", 0, ["script", "", "0"], id="script"),
    ],
)
def test_exec(
    registry: Run, agent: AgentProcess, words: list[str], stdin: bytes, status: int, out: list[str]
) -> None:
    done = registry("exec", "-wait=500ms", "-wait-repl=0s", f"-node=^{NODE}$", *words, stdin=stdin)
    *lines, code = out
    assert done.out.splitlines() == [
        *(f"    {NODE}: {line}" for line in lines),
        f"==> {NODE}: finished with exit code {code}",
        "1 / 1 node(s) completed / acknowledged",
    ]
    assert (done.status, done.err) == (status, "")
    assert agent.client.kv_list("_rexec/") == []
    names = [each["Name"] for each in agent.client.get("/v1/session/list").json()]
    assert not any(name.startswith("Remote Exec") for name in names)


def test_exec_says_what_happens(registry: Run) -> None:
    done = registry("exec", "-verbose", "-wait=300ms", "-wait-repl=0s", "-prefix=jobs", "true")
    shapes = [
        r"Created remote execution session: [0-9a-f-]{36}",
        r"Uploaded remote execution spec",
        r"Fired remote execution event: [0-9a-f-]{36}",
        rf"==> {NODE}: acknowledged",
        rf"==> {NODE}: finished with exit code 0",
        r"1 / 1 node\(s\) completed / acknowledged",
        r"Completed in \d\.\d\d seconds",
    ]
    lines = done.out.splitlines()
    assert len(lines) == len(shapes)
    for shape, line in zip(shapes, lines, strict=True):
        assert re.fullmatch(shape, line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_exec_and_its_session(agent: AgentProcess, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "registry", "exec", "-service=^none$", "-wait=60s", "true"]
    environment = {**os.environ, "REGISTRY_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}"}
    jobs = agent.client.kv_list
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        wait_until(lambda: bool(jobs("_rexec/")), "the job")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (1, b"", b"")
    assert jobs("_rexec/") == []


def test_exec_finds_nobody(registry: Run) -> None:
    done = registry("exec", "-wait=100ms", "-wait-repl=0s", "-service=^none$", "true")
    assert done == (0, "0 / 0 node(s) completed / acknowledged\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "Must specify a command to execute\n\nUsage", id="nothing"),
        pytest.param(["-"], "Must specify a command to execute\n\nUsage", id="empty-script"),
        pytest.param(["-shell=false", "-"], "Cannot configure -shell=false when", id="script"),
        pytest.param(["-tag=t", "true"], "Cannot provide tag filter without", id="tag"),
        pytest.param(
            ["-datacenter=dc9", "true"],
            "Failed to create session: Failed to find registry server in remote datacenter: ",
            id="datacenter",
        ),
    ],
)
def test_exec_refusals(registry: Run, words: list[str], said: str) -> None:
    done = registry("exec", *words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(said)


# debug


def test_debug_collects_what_was_promised(
    registry: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.cli.debug.DURATION_SECONDS_MIN", 1)
    monkeypatch.setattr("registry.cli.debug.INTERVAL_SECONDS_MIN", 1)
    done = registry("debug", "-duration=1s", "-interval=1s", "-output=d", "-capture=pprof",
                    "-capture=metrics", "-capture=agent", "-capture=logs", "-capture=cluster",
                    "-capture=host")  # fmt: skip
    assert done.status == 0
    assert done.err == "The agent has no pprof to capture; it is left out.\n"
    assert f"Agent Version: '{COMPATIBLE_VERSION}'" in done.out
    assert done.out.endswith("    Saved debug archive: d.tar.gz\n")
    with tarfile.open(tmp_path / "d.tar.gz") as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    fixed = {"d", "index.json", "agent.json", "host.json", "cluster.json", "consul.log"}
    assert fixed <= names
    samples = {name for name in names - fixed if name.endswith("/metrics.json")}
    assert len(samples) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["d.tar.gz"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["x"], "==> debug: Too many arguments provided, expected 0", id="argument"),
        pytest.param(
            ["-capture=x"], "==> Capture validation failed: target not found: x", id="target"
        ),
        pytest.param(
            ["-duration=9s"],
            "==> Capture validation failed: duration must be longer than 10s",
            id="duration",
        ),
        pytest.param(
            ["-interval=4s"],
            "==> Capture validation failed: interval must be longer than 10s",
            id="interval",
        ),
        pytest.param(
            ["-duration=1m30s", "-interval=2m"],
            "==> Capture validation failed: duration (1m30s) must be longer than interval (2m0s)",
            id="no-interval",
        ),
        pytest.param(
            ["-output=no"],
            "==> Capture validation failed: output directory already exists: no",
            id="already",
        ),
        pytest.param(["-output=no/file/x"], "Error writing debug files", id="place"),
    ],
)
def test_debug_refusals(registry: Run, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "no").write_text("a file where a directory is wanted")
    done = registry("debug", *words)
    assert done.status == 1
    assert done.err.startswith(said)
