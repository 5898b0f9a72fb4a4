"""Definitions, services, watches, maintenance, plugins, configuration entries, login."""

from __future__ import annotations

import base64
import json
import signal
import stat
from pathlib import Path

import pytest

from registry.testing.command_line import Run, Stub, command_process
from registry.testing.process import AgentProcess

PLUGIN = """
from registry.hooks import CheckType, CliCommand, DefinitionSource, hookimpl


@hookimpl
def registry_check_types():
    return [CheckType(key="moon", type_name="moon", create=lambda definition: None)]


@hookimpl
def registry_definition_sources():
    return [DefinitionSource(suffix=".lines", load=load)]


def load(path, text):
    return {"data_dir": text.strip(), "bind_addr": "127.0.0.1"}
"""

BROKEN = "raise RuntimeError('out of order')\n"


@pytest.fixture
def plugin_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "plugins.d"
    directory.mkdir()
    (directory / "moon.py").write_text(PLUGIN)
    return directory


# keygen, version, validate


def test_keygen(cli: Run) -> None:
    first, second = cli("keygen").out, cli("keygen").out
    assert len(base64.b64decode(first)) == 32
    assert first != second


def test_version_as_json(cli: Run) -> None:
    facts = json.loads(cli("version", "-format=json").out)
    assert set(facts) == {"Version", "Revision", "Prerelease", "RPC"}
    assert cli("version", "-format=xml").err == "Unknown format: xml\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("a.json", '{"data_dir": "data", "bind_addr": "127.0.0.1"}', "", id="json"),
        pytest.param("a.hcl", 'data_dir = "data" bind_addr = "127.0.0.1"', "", id="hcl"),
        pytest.param("a.json", "{}", "data_dir", id="incomplete"),
        pytest.param("a.json", "{", "invalid JSON", id="broken"),
        pytest.param("a.json", '{"nope": 1}', "invalid config key nope", id="unknown-key"),
        pytest.param("a.txt", "{}", "a.txt", id="unknown-format"),
    ],
)
def test_validate(cli: Run, tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    done = cli("validate", name)
    if said:
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith("Config validation failed: ")
        assert said in done.err
    else:
        assert done == (0, "Configuration is valid!\n", "")
        assert cli("validate", "-quiet", name) == (0, "", "")


def test_validate_arguments(cli: Run) -> None:
    assert cli("validate").err == "Must specify at least one config file or directory\n"
    assert cli("validate", "none").status == 1
    assert cli("validate", "-config-format=xml", "none") == (
        1,
        "",
        "-config-format must be either 'hcl' or 'json\n",
    )
    assert "is not a directory" in cli("validate", "-plugin-dir=none", "x").err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "a.json",
            '{"data_dir": "d", "bind_addr": "127.0.0.1",'
            ' "check": {"name": "m", "moon": {"phase": 1}, "interval": "1s"}}',
            id="check-type",
        ),
        pytest.param("a.lines", "data\n", id="format"),
    ],
)
def test_validate_knows_plugins(
    cli: Run, tmp_path: Path, plugin_dir: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert cli("validate", name).status == 1
    assert cli("validate", f"-plugin-dir={plugin_dir}", name) == (
        0,
        "Configuration is valid!\n",
        "",
    )


# plugins


def test_plugins_list_and_info(registry: Run) -> None:
    listed = registry("plugins", "list")
    assert listed.status == 0
    assert listed.out.splitlines()[0].split() == ["Plugin", "Version", "Calls", "Errors", "Hooks"]
    name = listed.out.splitlines()[1].split()[0]
    shown = registry("plugins", "info", name)
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith(f"Name     {name}\n")
    assert "Hook     registry_check_types\n" in shown.out
    assert "has no plugin none" in registry("plugins", "info", "none").err
    assert registry("plugins", "info").err == "Missing NAME argument\n"


def test_plugins_check(cli: Run, plugin_dir: Path) -> None:
    good = cli("plugins", "check", str(plugin_dir))
    assert (good.status, good.err) == (0, "")
    assert "Name     moon\n" in good.out
    (plugin_dir / "broken.py").write_text(BROKEN)
    bad = cli("plugins", "check", str(plugin_dir))
    assert bad.status == 1
    assert "out of order" in bad.out


# services


@pytest.mark.parametrize(
    ("name", "content", "registered"),
    [
        pytest.param(
            "one.json", '{"service": {"name": "s-one", "port": 80}}', ["s-one"], id="json"
        ),
        pytest.param(
            "two.json",
            '{"services": [{"name": "s-a"}, {"id": "s-b1", "name": "s-b"}]}',
            ["s-a", "s-b"],
            id="several",
        ),
        pytest.param("h.hcl", 'service { name = "s-h" }', ["s-h"], id="hcl"),
    ],
)
def test_services_of_files(
    registry: Run,
    agent: AgentProcess,
    tmp_path: Path,
    name: str,
    content: str,
    registered: list[str],
) -> None:
    (tmp_path / name).write_text(content)
    done = registry("services", "register", name)
    assert done == (0, "".join(f"Registered service: {each}\n" for each in registered), "")
    services = agent.client.get("/v1/agent/services").json().values()
    assert set(registered) <= {each["Service"] for each in services}
    done = registry("services", "deregister", name)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("Deregistered service: s-") == len(registered)


def test_a_service_of_flags(registry: Run, agent: AgentProcess) -> None:
    done = registry(
        "services", "register", "-name=s-f", "-id=s-f1", "-port=0x50", "-address=10.0.0.9",
        "-tag=a", "-tag=b", "-meta=k=v=w", "-tagged-address=lan=10.0.0.9:81",
        "-tagged-address=v6=[::1]:82", "-tagged-address=bare=10.0.0.8",
    )  # fmt: skip
    assert done == (0, "Registered service: s-f\n", "")
    service = agent.client.get("/v1/agent/service/s-f1").json()
    assert (service["Port"], service["Address"]) == (80, "10.0.0.9")
    assert (service["Tags"], service["Meta"]) == (["a", "b"], {"k": "v=w"})
    assert (
        service["TaggedAddresses"].items()
        >= {
            "lan": {"Address": "10.0.0.9", "Port": 81},
            "v6": {"Address": "::1", "Port": 82},
            "bare": {"Address": "10.0.0.8", "Port": 0},
        }.items()
    )
    assert registry("services", "deregister", "-id=s-f1").out == "Deregistered service: s-f1\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["register"], "Service registration requires at least one", id="nothing"),
        pytest.param(["register", "-name=a", "f"], "requires arguments or -id, not both", id="two"),
        pytest.param(["register", "none.json"], "Open failed on none.json. open", id="no-file"),
        pytest.param(["register", "bad.json"], "Error: bad.json", id="bad-file"),
        pytest.param(
            ["register", "-name=a", "-meta=x"],
            'invalid value "x" for flag -meta: Missing "=" value in argument: x\nUsage: ',
            id="meta",
        ),
        pytest.param(
            ["register", "-tagged-address=lan=a:x"],
            'Invalid Tagged Address: strconv.Atoi: parsing "x": invalid syntax',
            id="tagged-address",
        ),
        pytest.param(
            ["register", "nameless.json"],
            'Error registering service "": Unexpected response code: 400 (Missing service name)',
            id="no-name",
        ),
        pytest.param(
            ["deregister", "-http-addr=unix://none", "-id=a"],
            'Error registering service "": Put ',
            id="deregister-fails",
        ),
        pytest.param(["deregister"], "Service deregistration requires at least", id="no-id"),
        pytest.param(["deregister", "-id=a", "f"], "not both", id="id-and-file"),
    ],
)
def test_services_refusals(registry: Run, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "bad.json").write_text('{"service": {"nope": 1}}')
    (tmp_path / "nameless.json").write_text('{"service": {"port": 1}}')
    done = registry("services", *words)
    assert (done.status, done.out) == (1, "")
    assert said in done.err


def test_services_of_a_directory(registry: Run, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b.json").write_text('{"service": {"name": "s-db"}}')
    (tmp_path / "d" / "a.hcl").write_text('service { name = "s-da" }')
    (tmp_path / "d" / "notes.txt").write_text("not read")
    (tmp_path / "d" / "c.json").write_text('{"service": {"port": 1}}')
    assert registry("services", "deregister", "d").out == (
        "Deregistered service: s-da\nDeregistered service: s-db\n"
    )
    (tmp_path / "d" / "c.json").unlink()
    assert registry("services", "register", "-id=of-no-use", "d").out == (
        "Registered service: s-da\nRegistered service: s-db\n"
    )


# catalog


def test_catalog(registry: Run, agent: AgentProcess) -> None:
    node = {"Node": "cat-n", "Address": "10.1.1.1", "NodeMeta": {"rack": "1"}}
    for number, tag in enumerate(("y", "x")):
        service = {"ID": f"cat{number}", "Service": "cat", "Tags": [tag]}
        agent.client.put("/v1/catalog/register", json_body={**node, "Service": service})
    assert registry("catalog", "datacenters").out == "dc1\n"
    assert "cat\n" in registry("catalog", "services").out
    twice = {"ID": "cat2", "Service": "cat", "Tags": ["x"]}
    agent.client.put("/v1/catalog/register", json_body={**node, "Service": twice})
    assert registry("catalog", "services", "-node=cat-n", "-tags").out == "cat      x,x,y\n"
    assert registry("catalog", "nodes", "-service=cat").out.count("cat-n") == 3
    detailed = registry("catalog", "nodes", "-detailed", "-node-meta=rack=1").out
    assert detailed.splitlines()[1].split() == ["cat-n", "10.1.1.1", "dc1", "rack=1"]
    none = "match the given query - try expanding your search.\n"
    assert registry("catalog", "nodes", "-node-meta=rack=2") == (0, "", f"No nodes {none}")
    assert registry("catalog", "services", "-node=none") == (0, "", f"No services {none}")
    assert "Error listing nodes: " in registry("catalog", "nodes", "-filter=(").err
    elsewhere = ("-datacenter=dc9",)
    failed = "Unexpected response code: 500 (No path to datacenter)\n"
    for words, what in (
        (["nodes", "-service=a"], "nodes for service"),
        (["services"], "services"),
        (["services", "-node=a"], "services for node"),
    ):
        done = registry("catalog", *words, *elsewhere)
        assert done == (1, "", f"Error listing {what}: {failed}")
    assert 'Missing "=" value' in registry("catalog", "nodes", "-node-meta=x").err


def test_no_datacenters_are_no_failure(cli: Run, stub: Stub) -> None:
    stub.answer("GET /v1/catalog/datacenters", b"no", status=500)
    said = "Error listing datacenters: Unexpected response code: 500 (no)\n"
    assert cli("catalog", "datacenters") == (0, "", said)


# maint


def test_maint(registry: Run) -> None:
    assert registry("maint").out == ""
    assert registry("maint", "-enable", "-reason=why").out == "Node maintenance is now enabled\n"
    assert registry("maint").out == "Node:\n  Name:   cli-node\n  Reason: why\n\n"
    assert registry("maint", "-disable").out == "Node maintenance is now disabled\n"
    done = registry("maint", "-enable", "-service=none")
    assert done.err.startswith("Error enabling service maintenance: Unexpected response code: 404")


# watch


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "Watch type must be specified\n\nUsage", id="no-type"),
        pytest.param(["-type=nope"], "Unsupported watch type: nope", id="type"),
        pytest.param(["-type=key"], "Must specify a single key to watch", id="key"),
        pytest.param(["-type=keyprefix"], "Must specify a single prefix to watch", id="prefix"),
        pytest.param(["-type=checks", "-service=a", "-state=b"], "Cannot specify", id="checks"),
        pytest.param(
            ["-type=nodes", "-shell=false", "no-such-program"],
            'Error starting handler: exec: "no-such-program": executable file not found in $PATH',
            id="run",
        ),
        pytest.param(["-type=nodes", "exit 3"], "Error executing handler: exit status 3", id="end"),
        pytest.param(
            ["-type=nodes", "kill -9 $$"], "Error executing handler: signal: killed", id="killed"
        ),
        pytest.param(["-type=nodes", "-key=a"], "Invalid parameters: [key]\n", id="foreign"),
        pytest.param(
            ["-type=event", "-stale", "-state=a"], "Invalid parameters: [stale state]\n", id="both"
        ),
        pytest.param(
            ["-type=service", "-service=a", "-passingonly=x"],
            'Failed to parse passingonly flag: strconv.ParseBool: parsing "x": invalid syntax\n',
            id="passingonly",
        ),
        pytest.param(
            ["-type=connect_roots"],
            "Type connect_roots is not supported in the CLI tool\n",
            id="mesh",
        ),
        pytest.param(
            ["-type=agent_service"],
            "Type agent_service is not supported in the CLI tool\n",
            id="agent-service",
        ),
    ],
)
def test_watch_refusals(registry: Run, words: list[str], said: str) -> None:
    done = registry("watch", *words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(said)


def test_watch_once(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("once/a&b", b"v")
    done = registry("watch", "-type=keyprefix", "-prefix=once/")
    assert done.status == 0
    assert '        "Key": "once/a\\u0026b",\n' in done.out
    assert [entry["Key"] for entry in json.loads(done.out)] == ["once/a&b"]
    assert registry("watch", "-type=keyprefix", "-prefix=none/").out == "null\n"
    passing = ("-type=service", "-service=none", "-passingonly", "true")
    assert registry("watch", *passing).out == "[]\n"


def test_watch_runs_a_program_on_each_change(agent: AgentProcess) -> None:
    agent.client.kv_put("w/h", b"one")
    words = ("watch", "-type=key", "-key=w/h", "echo index=$CONSUL_INDEX $(cat)")
    with command_process(agent, *words) as process:
        assert process.stdout is not None
        index = agent.client.kv_list("w/h")[0]["ModifyIndex"]
        line = process.stdout.readline()
        assert line.startswith(f"index={index} ")
        assert json.loads(line.split(" ", 1)[1])["Value"] == base64.b64encode(b"one").decode()
        agent.client.kv_put("w/h", b"two")
        assert base64.b64encode(b"two").decode() in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


# config


def test_configuration_entries(registry: Run, tmp_path: Path) -> None:
    (tmp_path / "web.hcl").write_text('Kind = "service-defaults"\nName = "web"\nProtocol = "http"')
    here = ("-kind=service-defaults", "-name=web")
    assert registry("config", "write", "web.hcl") == (
        0,
        "Config entry written: service-defaults/web\n",
        "",
    )
    shown = registry("config", "read", *here).out
    assert '    "Protocol": "http",\n' in shown
    index = json.loads(shown)["ModifyIndex"]
    entry = json.dumps({"kind": "service-defaults", "name": "web", "protocol": "tcp"}).encode()
    stale = registry("config", "write", "-cas", "-modify-index=1", "-", stdin=entry)
    assert stale == (1, "", "Config entry not updated: service-defaults/web\n")
    cas = ("-cas", f"-modify-index={index}")
    assert registry("config", "write", *cas, "-", stdin=entry).status == 0
    assert registry("config", "list", "-kind=service-defaults").out == "web\n"
    assert registry("config", "delete", *here).out == (
        "Config entry deleted: service-defaults/web\n"
    )
    new = registry("config", "write", "-cas", "-", stdin=entry)
    assert new == (0, "Config entry written: service-defaults/web\n", "")
    assert registry("config", "write", "-cas", "-", stdin=entry).status == 1
    assert registry("config", "delete", *here).status == 0
    gone = registry("config", "read", *here)
    assert gone.err.startswith("Error reading config entry service-defaults/web: Unexpected resp")


def test_blocks_of_an_entry_in_hcl(registry: Run, tmp_path: Path) -> None:
    (tmp_path / "all.hcl").write_text(
        'kind = "proxy-defaults"\nname = "global"\nconfig {\n  a = 1\n  b { c = "<d>" }\n}\n'
        'expose {\n  paths = [{ path = "/x" }]\n}\n'
    )
    assert registry("config", "write", "all.hcl").err == ""
    here = ("-kind=proxy-defaults", "-name=global")
    shown = registry("config", "read", *here).out
    assert '"c": "\\u003cd\\u003e"' in shown
    entry = json.loads(shown)
    assert entry["Config"] == {"a": 1, "b": {"c": "<d>"}}
    assert [path["Path"] for path in entry["Expose"]["Paths"]] == ["/x"]
    (tmp_path / "all.hcl").write_text('kind = "proxy-defaults"\nname = "global"\n')
    assert registry("config", "write", "all.hcl").err == ""
    assert "Config" not in json.loads(registry("config", "read", *here).out)
    registry("config", "delete", *here)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["read", "-name=a"], "Must specify the -kind parameter", id="kind"),
        pytest.param(["delete", "-kind=a"], "Must specify the -name parameter", id="name"),
        pytest.param(["list"], "Must specify the -kind parameter", id="list"),
        pytest.param(["list", "-kind=x"], 'Error listing config entries for kind "x"', id="listed"),
        pytest.param(["write"], "Must provide exactly one positional argument", id="write"),
        pytest.param(
            ["write", "none"],
            "Failed to load data: Failed to read file: open none: no such file",
            id="no-file",
        ),
        pytest.param(["write", ""], "Failed to load data: Failed to load data: must", id="empty"),
        pytest.param(["write", "-"], "Failed to decode config entry input: ", id="broken"),
        pytest.param(
            ["write", "key.json"],
            "Failed to decode config entry input: 1 error occurred:\n"
            '\t* invalid config key "Nope"\n\n',
            id="unknown-key",
        ),
        pytest.param(
            ["write", "kind.json"],
            "Failed to decode config entry input: invalid config entry kind: nope\n",
            id="unknown-kind",
        ),
        pytest.param(
            ["read", "-kind=nope", "-name=a"],
            "Error reading config entry nope/a: invalid config entry kind: nope\n",
            id="read-unknown-kind",
        ),
    ],
)
def test_config_refusals(registry: Run, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "key.json").write_text('{"Kind":"service-defaults","Name":"a","Nope":1}')
    (tmp_path / "kind.json").write_text('{"Kind":"nope","Name":"a"}')
    done = registry("config", *words, stdin=b"{")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(said)


# login and logout


def test_login_and_logout(cli: Run, stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "bearer").write_text("  token\n")
    stub.answer("POST /v1/acl/login", {"SecretID": "secret"})
    stub.answer("POST /v1/acl/logout", b"")
    done = cli(
        "login", "-method=m", "-bearer-token-file=bearer", "-token-sink-file=sink", "-meta=a=b"
    )
    assert done == (0, "", "")
    assert json.loads(stub.requests[0].body) == {
        "AuthMethod": "m",
        "BearerToken": "token",
        "Meta": {"a": "b"},
    }
    sink = tmp_path / "sink"
    assert (sink.read_text(), stat.S_IMODE(sink.stat().st_mode)) == ("secret", 0o600)
    assert cli("logout", "-token-file=sink").status == 0
    assert stub.requests[1].headers["x-consul-token"] == "secret"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "Missing required '-method' flag", id="method"),
        pytest.param(["-method=m"], "Missing required '-token-sink-file' flag", id="sink"),
        pytest.param(
            ["-method=m", "-token-sink-file=s"], "Missing required '-bearer-token-f", id="bearer"
        ),
        pytest.param(
            ["-method=m", "-token-sink-file=s", "-bearer-token-file=none"], "open none", id="none"
        ),
        pytest.param(
            ["-method=m", "-token-sink-file=s", "-bearer-token-file=empty"],
            "No bearer token found in empty",
            id="empty",
        ),
        pytest.param(
            ["-method=m", "-token-sink-file=s", "-bearer-token-file=t", "-meta=x"],
            'invalid value "x" for flag -meta: Missing "=" value in argument: x\nUsage: ',
            id="meta",
        ),
        pytest.param(
            ["-method=m", "-token-sink-file=s", "-bearer-token-file=t"],
            "Error logging in: Unexpected response code: 401 (ACL support disabled)",
            id="no-acl",
        ),
    ],
)
def test_login_refusals(registry: Run, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "t").write_text("token")
    done = registry("login", *words)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(said)
    assert not (tmp_path / "s").exists()
