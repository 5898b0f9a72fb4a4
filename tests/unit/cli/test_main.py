"""The command line as a whole: help, exit statuses, flags, output that nobody reads."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry import __version__
from registry.cli.main import COMMANDS, GROUPS, load, main
from registry.testing.command_line import Run, Stub
from registry.testing.process import AgentProcess

PROGRAM = [sys.executable, "-m", "registry"]

#: What `kv get` has no use for, and what would cost it most of its time.
HEAVY_MODULES = (
    "asyncio",
    "cryptography",
    "httpx",
    "importlib.metadata",
    "lark",
    "logging",
    "msgspec",
    "multiprocessing",
    "pluggy",
    "registry.agent",
    "registry.hooks",
    "registry.plugins",
    "rocksdict",
    "starlette",
    "subprocess",
    "uvicorn",
    "uvloop",
)

CLIENT_FLAGS = {
    "http-addr", "token", "token-file", "ca-file", "ca-path", "client-cert", "client-key",
    "tls-server-name",
}  # fmt: skip
SERVER_FLAGS = CLIENT_FLAGS | {"datacenter", "stale", "namespace"}

#: Command -> flags beside those above, which ones of those, as existing scripts use them.
FLAGS: dict[str, tuple[str, set[str]]] = {
    "catalog datacenters": ("", SERVER_FLAGS),
    "catalog nodes": ("detailed filter near node-meta service", SERVER_FLAGS),
    "catalog services": ("node node-meta tags", SERVER_FLAGS),
    "config delete": ("kind name", SERVER_FLAGS),
    "config list": ("kind", SERVER_FLAGS),
    "config read": ("kind name", SERVER_FLAGS),
    "config write": ("cas modify-index", SERVER_FLAGS),
    "debug": ("archive capture duration interval output", CLIENT_FLAGS),
    "event": ("name node service tag", CLIENT_FLAGS),
    "exec": ("node prefix service shell tag verbose wait wait-repl", SERVER_FLAGS),
    "force-leave": ("prune", CLIENT_FLAGS),
    "info": ("", CLIENT_FLAGS),
    "join": ("wan", CLIENT_FLAGS),
    "keygen": ("", set()),
    "keyring": ("install list local-only relay-factor remove use", CLIENT_FLAGS),
    "kv delete": ("cas modify-index recurse", SERVER_FLAGS),
    "kv export": ("", SERVER_FLAGS),
    "kv get": ("base64 detailed keys recurse separator", SERVER_FLAGS),
    "kv import": ("", SERVER_FLAGS),
    "kv put": ("acquire base64 cas flags modify-index release session", SERVER_FLAGS),
    "leave": ("", CLIENT_FLAGS),
    "lock": ("child-exit-code monitor-retry n name pass-stdin shell timeout try verbose",
             SERVER_FLAGS),
    "login": ("bearer-token-file meta method token-sink-file type", SERVER_FLAGS),
    "logout": ("", SERVER_FLAGS),
    "maint": ("disable enable reason service", CLIENT_FLAGS),
    "members": ("detailed segment status wan", CLIENT_FLAGS),
    "monitor": ("log-json log-level", CLIENT_FLAGS),
    "operator autopilot get-config": ("", SERVER_FLAGS),
    "operator autopilot set-config": (
        "cleanup-dead-servers disable-upgrade-migration last-contact-threshold max-trailing-logs"
        " min-quorum redundancy-zone-tag server-stabilization-time upgrade-version-tag",
        SERVER_FLAGS,
    ),
    "operator raft list-peers": ("", SERVER_FLAGS),
    "operator raft remove-peer": ("address id", SERVER_FLAGS),
    "plugins check": ("", set()),
    "plugins info": ("", CLIENT_FLAGS),
    "plugins list": ("", CLIENT_FLAGS),
    "plugins new": ("dir with", set()),
    "reload": ("", CLIENT_FLAGS),
    "rtt": ("wan", CLIENT_FLAGS),
    "services deregister": ("id", SERVER_FLAGS),
    "services register": ("address id kind meta name port tag tagged-address", SERVER_FLAGS),
    "snapshot inspect": ("", set()),
    "snapshot restore": ("", SERVER_FLAGS),
    "snapshot save": ("", SERVER_FLAGS),
    "validate": ("config-format plugin-dir quiet", set()),
    "version": ("format", set()),
    "watch": ("key name passingonly prefix service shell state tag type", SERVER_FLAGS),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_flags_of_each_command(name: str) -> None:
    if name == "agent":
        return  # reads its own: tests/unit/agent/test_flags.py
    own, common = FLAGS[name]
    command = load(name)
    assert {flag.name for flag in command.all_flags} == {*own.split()} | common
    assert command.name == name
    assert all(flag.help for flag in command.all_flags)


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
@pytest.mark.parametrize("name", [*COMMANDS, *GROUPS])
def test_help(cli: Run, name: str, flag: str) -> None:
    shown = cli(*name.split(), flag)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith(f"Usage: registry {name} ")
    assert max(map(len, shown.out.splitlines())) <= 100
    assert cli("help", *name.split()) == shown
    if name in COMMANDS and name != "agent":
        listed = {line.split("=")[0] for line in shown.out.splitlines() if line.startswith("  -")}
        flags = {flag.name for flag in load(name).all_flags} - {"namespace"}
        assert listed == {f"  -{flag}" for flag in flags}


@pytest.mark.parametrize("words", [["help"], ["-h"], ["-help"], ["--help"]], ids=str)
def test_the_overview_names_everything(cli: Run, words: list[str]) -> None:
    shown = cli(*words)
    assert (shown.status, shown.err) == (0, "")
    named = {line.split()[0] for line in shown.out.splitlines() if line.startswith("    ")}
    assert {name.split()[0] for name in [*COMMANDS, *GROUPS]} <= named


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        pytest.param([], 127, "Usage: registry [--version]", id="nothing"),
        pytest.param(["nope"], 127, "There is no command registry nope.", id="unknown"),
        pytest.param(["help", "nope"], 127, "There is no command registry nope.", id="help-of-it"),
        pytest.param(["kv"], 1, "Usage: registry kv <subcommand>", id="group"),
        pytest.param(["kv", "nope"], 1, "There is no command registry kv nope.", id="in-group"),
        pytest.param(["operator"], 1, "    raft         See or repair", id="group-of-groups"),
        pytest.param(["operator", "raft"], 1, "    list-peers     List", id="inner-group"),
        pytest.param(
            ["operator", "raft", "x"], 1, "no command registry operator raft x.", id="in-inner"
        ),
        pytest.param(["-nope"], 127, "There is no command registry -nope.", id="flag-first"),
        pytest.param(
            ["kv", "get", "-nope"], 1, "flag provided but not defined: -nope", id="bad-flag"
        ),
        pytest.param(["kv", "get", "-separator"], 1, "flag needs an argument", id="no-value"),
        pytest.param(["lock", "-n=x", "a", "b"], 1, 'invalid value "x" for flag -n', id="number"),
        pytest.param(["lock", "-try=5", "a", "b"], 1, "for flag -try: parse error", id="duration"),
        pytest.param(["kv", "get", "-keys=x"], 1, 'invalid boolean value "x" for -keys', id="bool"),
        pytest.param(["members", "-stale"], 1, "not defined: -stale", id="not-a-server-command"),
    ],
)
def test_what_makes_no_sense(cli: Run, words: list[str], status: int, said: str) -> None:
    done = cli(*words)
    assert (done.status, done.out) == (status, "")
    assert said in done.err


@pytest.mark.parametrize("word", ["version", "-v", "-version", "--version"])
def test_version(cli: Run, word: str) -> None:
    done = cli(word)
    assert done.status == 0
    first, second, third = done.out.splitlines()
    assert first.startswith("Consul v1.")
    assert second == f"Revision registry-{__version__}"
    assert third == (
        "Protocol 2 spoken by default, understands 2 to 3 (agent will automatically use "
        "protocol >2 when speaking to compatible agents)"
    )


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["kv", "get", "-http-addr", "ADDRESS", "a"], id="separate"),
        pytest.param(["kv", "get", "--http-addr=ADDRESS", "a"], id="two-dashes"),
        pytest.param(["members", "-http-addr=ADDRESS"], id="client-command"),
        pytest.param(["snapshot", "save", "-http-addr=ADDRESS", "f"], id="stream"),
        pytest.param(["lock", "-http-addr=ADDRESS", "a", "b"], id="lock"),
        pytest.param(["exec", "-http-addr=ADDRESS", "a"], id="exec"),
        pytest.param(["rtt", "-http-addr=ADDRESS", "a"], id="rtt"),
        pytest.param(["watch", "-http-addr=ADDRESS", "-type=nodes", "true"], id="watch"),
        pytest.param(["debug", "-http-addr=ADDRESS"], id="debug"),
        pytest.param(["monitor", "-http-addr=ADDRESS"], id="monitor"),
        pytest.param(["operator", "raft", "list-peers", "-http-addr=ADDRESS"], id="operator"),
        pytest.param(["plugins", "info", "-http-addr=ADDRESS", "x"], id="plugins"),
    ],
)
def test_an_agent_that_is_not_there(cli: Run, words: list[str], tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{held.getsockname()[1]}"
        done = cli(*(word.replace("ADDRESS", address) for word in words))
    assert (done.status, done.out) == (1, "")
    assert f"dial tcp {address}: connect: connection refused" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        pytest.param(
            "ftp://a:1",
            "Error connecting to registry agent: Unknown protocol scheme: ftp\n",
            id="scheme",
        ),
        pytest.param("http://", "not an address of an agent", id="no-host"),
        pytest.param("a:70000", "Port out of range", id="port-range"),
        pytest.param("a:b", "not an address of an agent: http://a:b", id="port-text"),
        pytest.param(
            "unix:///no/such.sock", "dial unix /no/such.sock: connect: no such", id="unix"
        ),
        pytest.param("no-such-host.invalid:1", "no-such-host.invalid", id="name"),
    ],
)
def test_a_bad_address(cli: Run, address: str, said: str) -> None:
    done = cli("kv", "get", f"-http-addr={address}", "a")
    assert (done.status, done.out) == (1, "")
    assert said in done.err


def test_something_else_than_an_agent(cli: Run, stub: Stub) -> None:
    stub.answer("GET /v1/agent/members", b"<html>welcome</html>")
    done = cli("members")
    assert (done.status, done.out) == (1, "")
    assert "the answer is not JSON" in done.err


@pytest.mark.parametrize(
    ("words", "environment", "path"),
    [
        pytest.param(["-datacenter=dc2"], {}, "/v1/kv/a?dc=dc2", id="datacenter"),
        pytest.param(["-stale"], {}, "/v1/kv/a?stale=", id="stale"),
        pytest.param(["-namespace=x"], {}, "/v1/kv/a?ns=x", id="namespace"),
    ],
)
def test_common_flags(
    cli: Run, stub: Stub, words: list[str], environment: dict[str, str], path: str
) -> None:
    assert cli("kv", "get", *words, "a").status == 1
    [request] = stub.requests
    assert request.path == path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["kv", "get"], "Error connecting to registry agent", id="any"),
        pytest.param(["config", "list", "-kind=x"], "Error connect to registry agent", id="config"),
        pytest.param(
            ["operator", "raft", "list-peers"], "Error initializing client", id="operator"
        ),
    ],
)
def test_a_client_that_cannot_be_made(cli: Run, words: list[str], said: str) -> None:
    done = cli(*words, "-token-file=none", *(["a"] if words[0] == "kv" else []))
    reason = "Error loading token file: open none: no such file or directory"
    assert done == (1, "", f"{said}: {reason}\n")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["lock", "-n=1", "a", "b"], id="lock"),
        pytest.param(["event", "-name=a"], id="event"),
        pytest.param(["watch", "-type=nodes"], id="watch"),
        pytest.param(["maint"], id="maint"),
        pytest.param(["maint", "-enable"], id="maint-on"),
        pytest.param(["exec", "a"], id="exec"),
    ],
)
def test_the_agent_is_asked_first(cli: Run, stub: Stub, words: list[str]) -> None:
    stub.answer("GET /v1/agent/self", b"no", status=500)
    done = cli(*words)
    assert done == (1, "", "Error querying registry agent: Unexpected response code: 500 (no)\n")
    assert [request.path for request in stub.requests] == ["/v1/agent/self"]


def test_help_behind_arguments(cli: Run) -> None:
    shown = cli("kv", "get", "-h")
    assert cli("kv", "get", "a", "-h") == cli("kv", "get", "-keys", "a", "--help") == shown
    assert cli("kv", "get", "--", "a", "-h").err == "Too many arguments (expected 1, got 2)\n"


def test_help_is_the_programs_in_its_command_line(registry: Run) -> None:
    assert registry("lock", "help", "echo", "-h") == (0, "-h\n", "")


@pytest.mark.parametrize("words", [["kv", "get", "a"], ["kv"]], ids=" ".join)
def test_flags_before_the_command(cli: Run, words: list[str]) -> None:
    done = cli("-http-addr=x", *words)
    assert (done.status, done.out) == (1, "")
    first, second, empty, usage, *_ = done.err.splitlines()
    assert first == "Invalid flags before the subcommand. If these flags are for"
    assert (second, empty) == ("the subcommand, please put them after the subcommand.", "")
    assert usage.startswith(f"Usage: registry {' '.join(words[:2])} ")
    assert cli("-http-addr=x", "-h", *words) == cli("-h", *words) == cli(*words[:2], "-h")


@pytest.mark.parametrize(
    "words", [["kv", "get", "-nope"], ["members", "-wan=x"], ["lock", "-n"]], ids=" ".join
)
def test_the_help_follows_a_bad_flag(cli: Run, words: list[str]) -> None:
    problem, usage, *_ = cli(*words).err.splitlines()
    assert "flag" in problem or "invalid boolean value" in problem
    assert usage.startswith("Usage: registry ")


@pytest.mark.parametrize("words", [["nope"], ["kv", "nope"]], ids=" ".join)
def test_what_is_unknown_is_told_below_the_help(cli: Run, words: list[str]) -> None:
    lines = cli(*words).err.splitlines()
    assert lines[0].startswith("Usage: registry ")
    assert lines[-1] == f"There is no command registry {' '.join(words)}."


def test_flags_after_arguments_are_arguments(registry: Run) -> None:
    assert registry("kv", "get", "a", "-keys").err == ("Too many arguments (expected 1, got 2)\n")


def test_arguments_that_are_no_text_keep_their_bytes(agent: AgentProcess) -> None:
    program = [*PROGRAM, "kv"]
    environment = {**os.environ, "REGISTRY_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}"}
    put: list[str | bytes] = [*program, "put", b"raw-\xff", b"\xfe\xff"]
    done = subprocess.run(put, env=environment, capture_output=True, check=False)
    assert done.stdout == b"Success! Data written to: raw-\xff\n"
    got = subprocess.run(
        [*program, "get", b"raw-\xff"], env=environment, capture_output=True, check=False
    )
    assert got.stdout == b"\xfe\xff\n"


def test_output_is_utf8_in_every_locale(agent: AgentProcess) -> None:
    agent.client.kv_put("umlaut/\u00e4\u65e5", b"x")
    environment = {
        **os.environ,
        "REGISTRY_HTTP_ADDR": f"127.0.0.1:{agent.ports['http']}",
        "PYTHONIOENCODING": "ascii",
    }
    command = [*PROGRAM, "kv", "get", "-keys", "-separator=", "umlaut/"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.stdout == "umlaut/\u00e4\u65e5\n".encode()


def test_kv_get_starts_lean(agent: AgentProcess) -> None:
    agent.client.kv_put("lean", b"value")
    code = (
        "import sys\nfrom registry.cli.main import main\n"
        f"status = main(['kv', 'get', '-http-addr=127.0.0.1:{agent.ports['http']}', 'lean'])\n"
        f"print(status, [name for name in {HEAVY_MODULES!r} if name in sys.modules])"
    )
    # Without site: what an environment loads by itself is none of ours.
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-S", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("value\n0 []\n", "")


def test_a_reader_that_has_gone(agent: AgentProcess) -> None:
    for number in range(8):
        agent.client.kv_put(f"pipe/{number}", b"x" * 100_000)
    command = [
        *PROGRAM, "kv", "get", f"-http-addr=127.0.0.1:{agent.ports['http']}", "-recurse", "pipe/",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"pipe/"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk() -> None:
    with open("/dev/full", "wb") as full:
        command = [*PROGRAM, "keygen"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"Error: No space left on device\n")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        pytest.param({}, b"\x1b[31mError! Missing KEY argument\x1b[0m\r\n", id="terminal"),
        pytest.param({"NO_COLOR": "1"}, b"Error! Missing KEY argument\r\n", id="no-color"),
    ],
)
def test_errors_are_red_on_a_terminal(environment: dict[str, str], said: bytes) -> None:
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        command = [*PROGRAM, "kv", "get"]
        subprocess.run(command, stderr=theirs, check=False, env={**plain, **environment})
        assert os.read(ours, 1000) == said
    finally:
        os.close(ours)
        os.close(theirs)


def test_no_colours_in_a_pipe(cli: Run) -> None:
    assert cli("kv", "get").err == "Error! Missing KEY argument\n"


def test_an_interrupt_is_no_traceback() -> None:
    command = [*PROGRAM, "kv", "put", "a", "-"]
    with subprocess.Popen(
        [sys.executable, "-c", _ANNOUNCED, *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"reading\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130


#: `registry kv put a -` that says when it waits for its input.
_ANNOUNCED = """
import io, sys
from registry.cli.main import main

class Input(io.BytesIO):
    def read(self, size=-1):
        print("reading", flush=True)
        return sys.__stdin__.buffer.read(size)

sys.stdin = io.TextIOWrapper(Input())
sys.exit(main(["kv", "put", "a", "-"]))
"""


def test_completion_comes_first(monkeypatch: pytest.MonkeyPatch, cli: Run) -> None:
    monkeypatch.setenv("COMP_LINE", "registry kv g")
    assert cli() == (0, "get\n", "")


def test_main_reads_the_process_arguments(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["registry", "version"])
    assert main() == 0
    assert "Consul v" in capfd.readouterr().out
