"""Configurations as users give them: files, directories, flags; what comes out, every error."""

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.agent.address_templates import Interface
from registry.agent.config_settling import Host
from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.durations import HOUR, MILLISECOND, SECOND
from registry.agent.flags import AgentFlags
from registry.agent.loading import LoadedConfig, load_config, load_flags
from registry.agent.validate import validate_paths
from registry.errors import ConfigError
from registry.hooks import CheckType, DefinitionSource, WatchHandler, hookimpl
from registry.plugins import Plugins

HOST = Host("box", (Interface(name="eth0", address="10.0.0.5"),))
SERVER = ["-server", "-data-dir=/nowhere/data"]


def load(*arguments: str, host: Host = HOST, plugins: Any = None) -> LoadedConfig:
    return load_config(arguments, plugins, host=host)


def load_hcl(text: str, *arguments: str) -> LoadedConfig:
    return load("-dev", *arguments, "-hcl", text)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# -- defaults and modes


def test_defaults_of_a_client() -> None:
    config = load("-data-dir=/nowhere").config
    assert (config.node_name, config.datacenter, config.server) == ("box", "dc1", False)
    assert (config.bind_addr, config.client_addr) == ("0.0.0.0", "127.0.0.1")
    assert (config.advertise_addr, config.advertise_addr_wan) == ("10.0.0.5", "10.0.0.5")
    assert (config.leave_on_terminate, config.skip_leave_on_interrupt) == (True, False)
    assert (config.enable_script_checks, config.enable_local_script_checks) == (False, False)
    assert config.listen_addresses("http") == ("127.0.0.1",)
    assert config.listen_addresses("https") == ()


def test_defaults_of_a_server() -> None:
    config = load(*SERVER).config
    assert (config.leave_on_terminate, config.skip_leave_on_interrupt) == (False, True)


def test_development_mode() -> None:
    config = load("-dev").config
    assert config.dev_mode
    assert (config.server, config.ui, config.enable_debug) == (True, True, True)
    assert (config.bind_addr, config.advertise_addr) == ("127.0.0.1", "127.0.0.1")
    assert (config.data_dir, config.log_level, config.ports.grpc) == ("", "DEBUG", 8502)
    assert config.performance.raft_multiplier == 1
    assert config.consul.raft.election_timeout_ns == 52 * MILLISECOND
    assert config.gossip_lan.suspicion_mult == config.gossip_wan.suspicion_mult == 3


def test_files_win_over_development_mode_and_flags_over_files(tmp_path: Path) -> None:
    file = write(
        tmp_path / "a.json", {"log_level": "warn", "node_name": "f", "bind_addr": "127.0.0.2"}
    )
    config = load("-dev", f"-config-file={file}", "-node=g").config
    assert (config.log_level, config.node_name, config.bind_addr) == ("warn", "g", "127.0.0.2")


# -- files


def test_order_of_files_and_directories(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    write(first / "b.json", {"node_name": "b", "retry_join": ["b"]})
    write(first / "a.hcl", 'node_name = "a" retry_join = ["a"] node_meta { x = "a" y = "a" }')
    write(first / "c.txt", "not read")
    (first / "d.json").mkdir()
    last = write(tmp_path / "last.json", {"retry_join": ["last"], "node_meta": {"y": "last"}})
    loaded = load(
        "-dev",
        f"-config-dir={first}",
        f"-config-file={last}",
        "-retry-join=flag",
        "-hcl",
        'node_name = "hcl"',
    )
    assert loaded.config.node_name == "hcl"
    assert loaded.config.retry_join == ("a", "b", "last", "flag")
    assert loaded.config.node_meta == {"x": "a", "y": "last"}
    assert loaded.sources == (str(first / "a.hcl"), str(first / "b.json"), str(last))
    assert loaded.paths == (str(first), str(last))


def test_one_format_for_all_files(tmp_path: Path) -> None:
    write(tmp_path / "a.conf", {"node_name": "a"})
    assert load("-dev", f"-config-dir={tmp_path}").config.node_name == "box"
    assert load("-dev", f"-config-dir={tmp_path}", "-config-format=json").config.node_name == "a"


def test_definitions_of_all_files_are_added_together(tmp_path: Path) -> None:
    write(
        tmp_path / "a.json",
        {
            "service": {"name": "a"},
            "services": [{"name": "b"}],
            "check": {"name": "x", "ttl": "1s"},
        },
    )
    write(
        tmp_path / "b.json",
        {
            "service": {"name": "c"},
            "checks": [{"id": "y", "ttl": "1s"}],
            "watches": [{"type": "nodes", "args": ["true"]}],
        },
    )
    loaded = load("-dev", f"-config-dir={tmp_path}")
    assert [service.name for service in loaded.services] == ["a", "b", "c"]
    assert [(check.id, check.name) for check in loaded.checks] == [("", "x"), ("y", "y")]
    assert [watch.type for watch in loaded.watches] == ["nodes"]


def test_the_later_of_two_services_with_one_id_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"service": {"name": "a", "port": 1}})
    write(tmp_path / "b.json", '{\n"service": {"name": "x", "id": "a", "port": 2}}')
    loaded = load("-dev", f"-config-dir={tmp_path}")
    assert loaded.services == (ServiceDefinition(id="a", name="x", port=2),)
    assert loaded.warnings == (
        f"{tmp_path}/b.json:2: service 'a' replaces the one of {tmp_path}/a.json:1",
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.json", "{", ":1:2: invalid JSON: expecting property name", id="bad JSON"),
        pytest.param("a.json", b"{\n\xff}", ":2: the file is not UTF-8 text", id="not text"),
        pytest.param(
            "a.json", '{\n\n"no_such": 1}', ":3: invalid config key no_such", id="unknown key"
        ),
        pytest.param(
            "a.hcl",
            "ports {\n htp = 1\n}",
            ":2: invalid config key ports.htp",
            id="unknown key in HCL",
        ),
        pytest.param(
            "a.json",
            '{"service": {"name": "x",\n"port": "80"}}',
            ":2: 'service.port' expected type 'int', got unconvertible type 'string'",
            id="type in a definition",
        ),
        pytest.param(
            "a.json",
            '{"services": [{"name": "x"},\n{"name": "y", "EnableTagOverride": true}]}',
            ":2: invalid config key services[1].EnableTagOverride",
            id="the API's spelling in a file",
        ),
        pytest.param(
            "a.json",
            '{"service": {"name": "x", "check":\n{"interval": "5"}}}',
            ':2: service.check.interval: invalid duration: "5": time: missing unit in duration "5"',
            id="duration in a definition",
        ),
        pytest.param(
            "a.json",
            '{"services": [\n{"name": "x", "checks": [{"http": "y"}]}]}',
            ":2: services[0]: Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks",
            id="incomplete check",
        ),
        pytest.param(
            "a.json", '{"service": {"port": 1}}', ":1: service: Missing service name", id="no name"
        ),
        pytest.param(
            "a.json",
            '{"check": {"ttl": "1s"}}',
            ":1: check: Missing check name",
            id="check without a name",
        ),
        pytest.param(
            "a.json",
            '{"check": {"name": "x", "interval": "1s", "args": ["true"]}}',
            ":1: check: Scripts are disabled on this agent; to enable, configure"
            " 'enable_script_checks' or 'enable_local_script_checks' to true",
            id="script",
        ),
        pytest.param(
            "a.json", '{"log_level": "loud"}', ":1: Invalid log level: loud.", id="log level"
        ),
        pytest.param(
            "a.json",
            '{\n"ports": {\n"http": 70000}}',
            ":3: ports.http: invalid port 70000",
            id="a rule",
        ),
        pytest.param(
            "a.json",
            '{"watches": [\n{"type": "x"}]}',
            ":2: watches[0]: unknown watch type 'x'",
            id="watch",
        ),
        pytest.param("a.txt", "", ": the file name must end in .hcl or .json", id="suffix"),
    ],
)
def test_errors_name_file_line_and_key(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load("-dev", f"-config-file={file}")
    assert str(caught.value).startswith(f"{file}{reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["-config-file=/nowhere/a.json", "-config-dir=/nowhere/conf.d"])
def test_a_path_that_is_not_there(flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("-dev", flag)
    assert str(caught.value) == f"{flag.partition('=')[2]}: no such file or directory"


def test_an_unknown_format() -> None:
    with pytest.raises(ConfigError, match="config-format: unknown format 'yaml'; known: hcl, json"):
        load("-dev", "-config-dir=/tmp", "-config-format=yaml")


# -- rules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "data_dir cannot be empty", id="no data directory"),
        pytest.param(
            ["-data-dir=/dev/null"],
            'command line: data_dir "/dev/null" is not a directory',
            id="a file as data directory",
        ),
        pytest.param(
            [*SERVER, "-bootstrap", "-bootstrap-expect=3"],
            "command line: 'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
            id="two ways to bootstrap",
        ),
        pytest.param(
            ["-data-dir=/x", "-bootstrap-expect=3"],
            "command line: 'bootstrap_expect > 0' requires 'server = true'",
            id="clients expect nobody",
        ),
        pytest.param(
            ["-data-dir=/x", "-bootstrap"],
            "command line: 'bootstrap = true' requires 'server = true'",
            id="clients do not bootstrap",
        ),
        pytest.param(
            ["-dev", "-bootstrap-expect=3"],
            "command line: 'bootstrap_expect' not allowed in dev mode",
            id="development mode expects nobody",
        ),
        pytest.param(
            [*SERVER, "-bootstrap-expect=-1"],
            "command line: bootstrap_expect cannot be -1. Must be greater than or equal to zero",
            id="negative number of servers",
        ),
        pytest.param(
            ["-dev", "-ui", "-ui-dir=x"],
            "command line: ui and ui_dir cannot be set together; ui serves the built-in files",
            id="two UIs",
        ),
        pytest.param(
            ["-dev", "-ui-content-path=/v1/"],
            "command line: ui_content_path cannot have 'v[0-9]/'. received: \"/v1/\"",
            id="UI over the API",
        ),
        pytest.param(
            ["-dev", "-ui-content-path=/a b/"],
            "command line: ui_content_path can only contain letters, digits, -, _ and /.",
            id="UI path",
        ),
        pytest.param(
            ["-dev", "-datacenter=a b"],
            "command line: datacenter cannot be 'a b'. Please use only [a-z0-9-_].",
            id="datacenter",
        ),
        pytest.param(
            ["-dev", "-node= "], "command line: node_name cannot be empty", id="node name"
        ),
        pytest.param(
            ["-dev", "-node-id=x"], "command line: node_id: 'x' is not a UUID", id="node id"
        ),
        pytest.param(
            ["-dev", "-bind=x"], "command line: bind_addr: invalid ip address: x", id="bind"
        ),
        pytest.param(
            ["-dev", "-bind=127.0.0.1 127.0.0.2"],
            "command line: bind_addr must be one address, not 2: 127.0.0.1 127.0.0.2",
            id="two bind addresses",
        ),
        pytest.param(
            ["-dev", "-bind=unix:///x"],
            "command line: bind_addr cannot be a unix socket",
            id="bind to a socket",
        ),
        pytest.param(
            ["-dev", "-bind={{ Nothing }}"],
            'command line: bind_addr: template: no function "Nothing"',
            id="bad template",
        ),
        pytest.param(
            ["-dev", '-bind={{ GetInterfaceIP "x" }}'],
            "command line: bind_addr: the template gives no address",
            id="empty template",
        ),
        pytest.param(
            ["-dev", "-client=localhost"],
            "command line: client_addr: invalid ip address: localhost",
            id="client",
        ),
        pytest.param(
            ["-dev", "-advertise=0.0.0.0"],
            "command line: Advertise address cannot be 0.0.0.0, :: or [::]",
            id="advertise",
        ),
        pytest.param(
            ["-dev", "-advertise-wan=::"],
            "command line: Advertise WAN address cannot be 0.0.0.0, :: or [::]",
            id="advertise to the WAN",
        ),
        pytest.param(
            ["-dev", "-http-port=8600"],
            "command line: ports.http: 127.0.0.1:8600 is already the listener of dns",
            id="one port twice",
        ),
        pytest.param(
            ["-dev", "-server-port=0"],
            "command line: ports.server can not be turned off",
            id="server port off",
        ),
        pytest.param(
            ["-dev", "-encrypt=!"],
            "command line: encrypt: the key is not base64",
            id="key not base64",
        ),
        pytest.param(
            ["-dev", "-encrypt=YWJj"],
            "command line: encrypt: the key has 3 bytes, not 16, 24 or 32",
            id="short key",
        ),
        pytest.param(
            ["-dev", "-check_output_max_size=0"],
            "command line: check_output_max_size cannot be 0. Must be at least 1",
            id="no output",
        ),
        pytest.param(
            ["-dev", "-allow-write-http-from=10.0.0.1"],
            "command line: http_config.allow_write_http_from: invalid cidr: 10.0.0.1",
            id="network",
        ),
        pytest.param(
            ["-dev", "-alt-domain=node.x"],
            "command line: alt_domain cannot start with {service,connect,node,query,addr,dc1}",
            id="second domain",
        ),
        pytest.param(
            ["-dev", "-node-meta=a b:c"],
            "command line: node_meta invalid: Couldn't load metadata pair ('a b', 'c'): Key",
            id="metadata",
        ),
    ],
)
def test_rules_about_flags(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            "performance { raft_multiplier = 11 }",
            "raft_multiplier cannot be 11. Must be between 1 and 10",
            id="raft multiplier",
        ),
        pytest.param(
            "protocol = 9",
            "Protocol version '9' too high. Must be in range: [2, 3]",
            id="protocol of the future",
        ),
        pytest.param(
            "protocol = 1",
            "Protocol version '1' too low. Must be in range: [2, 3]",
            id="protocol of the past",
        ),
        pytest.param('reconnect_timeout = "1h"', "reconnect_timeout must be >= 8h", id="reconnect"),
        pytest.param(
            "cache { entry_fetch_rate = 0 }",
            "cache.entry_fetch_rate must be strictly positive",
            id="cache",
        ),
        pytest.param(
            "autopilot { max_trailing_logs = -1 }",
            "max_trailing_logs cannot be -1. Must be greater than or equal to zero",
            id="autopilot",
        ),
        pytest.param(
            "dns_config { udp_answer_limit = -1 }",
            "dns_config.udp_answer_limit cannot be -1",
            id="dns",
        ),
        pytest.param(
            'acl { default_policy = "x" }',
            "acl.default_policy: 'x' is not one of allow, deny",
            id="policy",
        ),
        pytest.param('tls_min_version = "tls9"', "tls_min_version: 'tls9' is not one of", id="tls"),
        pytest.param('syslog_facility = "x"', "syslog_facility: 'X' is not one of", id="syslog"),
        pytest.param(
            'telemetry { prefix_filter = [""] }', "Cannot have empty filter rule", id="filter"
        ),
        pytest.param(
            'unix_sockets { mode = "9" }', "unix_sockets.mode: '9' is not octal", id="socket mode"
        ),
        pytest.param('cert_file = "x"', "cert_file needs key_file", id="certificate without a key"),
        pytest.param(
            "verify_incoming = true", "verify_incoming needs ca_file or ca_path", id="authority"
        ),
        pytest.param(
            'default_query_time = "-1s"',
            "default_query_time cannot be negative",
            id="negative time",
        ),
        pytest.param(
            'advertise_addr_ipv4 = "::1"',
            "advertise_addr_ipv4: ::1 is not an IPv4 address",
            id="family",
        ),
        pytest.param(
            'addresses { dns = "unix:///x" }',
            "addresses.dns: invalid ip address: unix:///x",
            id="DNS on a socket",
        ),
    ],
)
def test_rules_about_keys(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_hcl(text)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("-hcl:1: ")


@pytest.mark.parametrize(
    ("interfaces", "reason"),
    [
        pytest.param((), "No private IPv4 address found.", id="none"),
        pytest.param(
            (Interface(name="a", address="10.0.0.1"), Interface(name="b", address="10.0.0.2")),
            "Multiple private IPv4 addresses found.",
            id="two",
        ),
    ],
)
def test_a_wildcard_needs_one_private_address(
    interfaces: tuple[Interface, ...], reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load("-data-dir=/x", host=Host("box", interfaces))
    assert str(caught.value) == f"{reason} Please configure one with 'bind' and/or 'advertise'."
    config = load("-data-dir=/x", "-advertise=10.0.0.9", host=Host("box", interfaces)).config
    assert config.advertise_addr == "10.0.0.9"


# -- what follows from other keys


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        pytest.param(
            "enable_script_checks = true", "enable_local_script_checks", True, id="scripts"
        ),
        pytest.param(
            'datacenter = "EU"', "primary_datacenter", "eu", id="datacenter in small letters"
        ),
        pytest.param(
            'advertise_addr = "10.0.0.7"',
            "tagged_addresses",
            {"lan": "10.0.0.7", "lan_ipv4": "10.0.0.7", "wan": "10.0.0.7", "wan_ipv4": "10.0.0.7"},
            id="tagged addresses",
        ),
        pytest.param(
            'advertise_addr_wan = "::7"',
            "advertise_addr_wan_ipv6",
            "::7",
            id="family of the WAN address",
        ),
        pytest.param(
            'advertise_addr_ipv6 = "::8"',
            "advertise_addr_wan_ipv6",
            "::8",
            id="the LAN key for the WAN",
        ),
        pytest.param('bind_addr = "{{ GetPrivateIP }}"', "serf_lan", "10.0.0.5", id="template"),
        pytest.param(
            'recursors = ["8.8.8.8", "::1", "9.9.9.9:54"]',
            "recursors",
            ("8.8.8.8:53", "[::1]:53", "9.9.9.9:54"),
            id="port of recursors",
        ),
        pytest.param("verify_server_hostname = true", "verify_outgoing", True, id="implied"),
        pytest.param(
            "limits { kv_max_value_size = 600000 }",
            "limits.txn_max_req_len",
            600000,
            id="transactions hold a value",
        ),
        pytest.param('acl_datacenter = "DC2"', "primary_datacenter", "dc2", id="former name"),
        pytest.param('acl_datacenter = "DC2"', "acl.enabled", True, id="former name turns ACLs on"),
        pytest.param(
            'acl_token = "old" acl { tokens { default = "new" } }',
            "acl.tokens.default",
            "new",
            id="the new name wins",
        ),
        pytest.param('acl_ttl = "5s"', "acl.token_ttl_ns", 5 * SECOND, id="former duration"),
        pytest.param(
            'acl_replication_token = "x"',
            "acl.enable_token_replication",
            True,
            id="former token implies replication",
        ),
        pytest.param(
            'dns_config { service_ttl { "*" = "5s" } }',
            "dns_config.service_ttl_ns",
            {"*": 5 * SECOND},
            id="map of durations",
        ),
        pytest.param('ae_interval = "1s"', "ae_interval_ns", 60 * SECOND, id="constants stay"),
        pytest.param('reconnect_timeout = "8h"', "reconnect_timeout_ns", 8 * HOUR, id="duration"),
        pytest.param(
            'addresses { http = "unix:///run/x 127.0.0.1" }',
            "addresses.http",
            "unix:///run/x 127.0.0.1",
            id="socket",
        ),
    ],
)
def test_derived(text: str, path: str, value: Any) -> None:
    found: Any = load_hcl(text).config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_expecting_one_server_is_bootstrapping() -> None:
    loaded = load(*SERVER, "-bootstrap-expect=1")
    assert (loaded.config.bootstrap, loaded.config.bootstrap_expect) == (True, 0)
    assert "this is the same as Bootstrap mode" in loaded.warnings[0]


@pytest.mark.parametrize(
    ("arguments", "warning"),
    [
        pytest.param([*SERVER, "-bootstrap-expect=2"], "bootstrap_expect = 2", id="two servers"),
        pytest.param([*SERVER, "-bootstrap-expect=4"], "bootstrap_expect = 4", id="even number"),
        pytest.param([*SERVER, "-bootstrap"], "bootstrap = true", id="bootstrap"),
        pytest.param(
            ["-dev", "-enable-script-checks"], "enable_script_checks without ACLs", id="scripts"
        ),
        pytest.param(
            ["-dev", "-node=a_b"], "node name 'a_b' can not be found in DNS", id="node name"
        ),
        pytest.param(
            ["-dev", "-grpc-port=1"],
            "command line: service mesh configuration is accepted and ignored: ports.grpc",
            id="mesh",
        ),
        pytest.param(
            ["-dev", "-segment=x"],
            'command line: "segment" is a Consul Enterprise',
            id="commercial",
        ),
        pytest.param(
            ["-dev", "-hcl", 'acl_token = "x"'],
            "the key acl_token is a former name",
            id="former name",
        ),
        pytest.param(
            ["-dev", "-hcl", 'telemetry { prefix_filter = ["x"] }'],
            "telemetry.prefix_filter: 'x' is ignored",
            id="filter",
        ),
        pytest.param(
            ["-dev", "-hcl", 'service { name = "a_b" }'],
            "-hcl:1: service name 'a_b' can not be found in DNS",
            id="service name",
        ),
        pytest.param(
            ["-dev", "-hcl", 'check { name = "x" tcp = "y:1" interval = "10ms" }'],
            "-hcl:1: check 'x': interval 10ms is raised to the minimum of 1s",
            id="interval",
        ),
        pytest.param(
            [
                "-dev",
                "-hcl",
                'service { name = "x" check { ttl = "1s"'
                ' deregister_critical_service_after = "1s" } }',
            ],
            "-hcl:1: check of service 'x': deregister_critical_service_after 1s is raised to the"
            " minimum of 1m0s",
            id="deregistration",
        ),
    ],
)
def test_warnings(arguments: list[str], warning: str) -> None:
    assert any(line.startswith(warning) for line in load(*arguments).warnings)


def test_a_raised_interval_is_what_counts() -> None:
    loaded = load_hcl('check { name = "x" tcp = "y:1" interval = "10ms" }')
    assert loaded.checks == (CheckDefinition(name="x", tcp="y:1", interval_ns=SECOND),)


# -- plugins


class FakePlugins:
    """What a plugin may bring to loading; built-in kinds are listed by it, too."""

    def judged_settings(self, given: Any) -> dict[str, msgspec.Struct]:
        return {}

    def service_transforms(self) -> list[Any]:
        return []

    def definition_sources(self) -> list[DefinitionSource]:
        return [DefinitionSource(suffix=".ini", load=lambda path, text: {"node_name": text})]

    def check_types(self) -> list[CheckType]:
        return [
            CheckType(key=key, type_name=key, create=lambda definition: pytest.fail("not run"))
            for key in ("http", "dns-lookup")
        ]

    def watch_handlers(self) -> list[WatchHandler]:
        return [
            WatchHandler(key=key, create=lambda definition: pytest.fail("not called"))
            for key in ("args", "mail")
        ]


def test_plugins_bring_formats_checks_and_handlers(tmp_path: Path) -> None:
    write(tmp_path / "a.ini", "from-plugin")
    write(
        tmp_path / "b.json",
        {
            "checks": [
                {"name": "d", "interval": "1s", "DNS-Lookup": {"name": "x"}},
                {"name": "h", "interval": "1s", "http": "http://x"},
            ],
            "watches": [{"type": "nodes", "mail": "me"}, {"type": "nodes", "args": ["x"]}],
        },
    )
    loaded = load("-dev", f"-config-dir={tmp_path}", plugins=FakePlugins())
    assert loaded.config.node_name == "from-plugin"
    assert [(c.plugin_type, c.plugin_settings, c.http) for c in loaded.checks] == [
        ("dns-lookup", {"name": "x"}, ""),
        ("", {}, "http://x"),
    ]
    assert [(w.plugin_handler, w.plugin_settings, w.args) for w in loaded.watches] == [
        ("mail", {"mail": "me"}, ()),
        ("", {}, ("x",)),
    ]


class Limits(msgspec.Struct, frozen=True):
    count: int = 3


class Limited:
    @hookimpl
    def registry_settings(self) -> type[msgspec.Struct]:
        return Limits


def test_wrong_settings_name_file_line_plugin_and_key(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.add("limits", Limited())
    text = '{"plugins": {"settings": {"limits": {\n"count": "many"}}}}'
    write(tmp_path / "a.json", text)
    with pytest.raises(ConfigError) as caught:
        load("-dev", f"-config-dir={tmp_path}", plugins=plugins)
    reason = "plugins.settings.limits.count: Expected `int`, got `str`"
    assert str(caught.value) == f"{tmp_path}/a.json:2: {reason}"


# -- validate


def test_validate_looks_at_shape_and_cross_rules_only(tmp_path: Path) -> None:
    good = {
        "data_dir": "/nowhere",
        "bind_addr": "127.0.0.1",
        "log_level": "loud",
        "service": {"name": "x", "check": {"http": "y"}},
        "check": {"args": ["true"]},
        "watches": [{"type": "x"}],
    }
    write(tmp_path / "a.json", good)
    validate_paths([tmp_path])
    with pytest.raises(ConfigError):
        load(f"-config-dir={tmp_path}")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("{", "a.json:1:2: invalid JSON", id="bad JSON"),
        pytest.param(
            {"no_such_option": 1}, "a.json:1: invalid config key no_such_option", id="unknown key"
        ),
        pytest.param({"bind_addr": "127.0.0.1"}, "data_dir cannot be empty", id="a rule"),
        pytest.param(
            {"data_dir": "/x", "bind_addr": "127.0.0.1", "check": {"x": 1}},
            "a.json:1: invalid config key check.x",
            id="a definition's shape",
        ),
    ],
)
def test_validate_refuses(tmp_path: Path, content: Any, reason: str) -> None:
    file = write(tmp_path / "a.json", content)
    with pytest.raises(ConfigError) as caught:
        validate_paths([str(file)], None)
    assert reason in str(caught.value)


def test_validate_needs_a_path() -> None:
    with pytest.raises(ConfigError, match="Must specify at least one config file or directory"):
        validate_paths([])


# -- anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
known_keys = st.sampled_from(
    [
        "service",
        "services",
        "check",
        "watches",
        "ports",
        "node_meta",
        "max_query_time",
        "acl",
        "bind_addr",
        "data_dir",
        "node_name",
        "recursors",
        "encrypt",
        "segments",
        "connect",
        "client_addr",
        "node_id",
    ]
)


def load_bytes(directory: Path, name: str, content: bytes) -> None:
    """Load it: success, or one line."""
    (directory / name).write_bytes(content)
    flags = AgentFlags(values={}, dev=True, paths=(str(directory / name),))
    with contextlib.suppress(ConfigError):
        load_flags(flags, host=HOST)
    try:
        validate_paths([directory / name])
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=80), name=st.sampled_from(["a.json", "a.hcl"]))
def test_random_bytes_are_read_or_refused(tmp_path: Path, content: bytes, name: str) -> None:
    load_bytes(tmp_path, name, content)


def test_a_key_with_a_line_break_does_not_break_the_message(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", {"ports": {"a\nb": 1}})
    with pytest.raises(ConfigError) as caught:
        load("-dev", f"-config-file={file}")
    assert str(caught.value) == f"{file}:1: invalid config key ports.a\\nb"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.dictionaries(known_keys, json_values, max_size=4))
def test_random_values_are_read_or_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    load_bytes(tmp_path, "a.json", json.dumps(content).encode(errors="surrogatepass"))


def test_the_whole_configuration_can_be_shown() -> None:
    """`/v1/agent/self` gives it as JSON."""
    shown = msgspec.json.decode(msgspec.json.encode(load("-dev").config))
    assert shown["ports"]["http"] == 8500
