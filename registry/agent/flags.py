"""The agent's flags: one table for reading, for the help text and for the keys they set.

A flag is one more source of configuration, the last one; what it may say is checked like a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from registry.agent.durations import parse_duration
from registry.errors import ConfigError
from registry.goflags import Flag, boolean, help_text, integer, parse_flags

#: How errors name this source.
COMMAND_LINE = "command line"


class AgentFlag(NamedTuple):
    flag: Flag
    key: str  # "" for flags that are not configuration


class AgentFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says: where files are, and keys spelt as in a file."""

    values: dict[str, Any]
    dev: bool = False
    paths: tuple[str, ...] = ()  # -config-file and -config-dir, in their order
    config_format: str = ""
    fragments: tuple[str, ...] = ()  # -hcl
    plugin_dirs: tuple[str, ...] = ()


def duration_text(value: str) -> str:
    """A duration that stays text until all sources are merged."""
    parse_duration(value)
    return value


def key_value(value: str) -> tuple[str, str]:
    key, colon, rest = value.partition(":")
    if not colon:
        raise ValueError("must be key:value")
    return key, rest


def _flag(key: str, name: str, about: str, **details: Any) -> AgentFlag:
    return AgentFlag(Flag(name, about, **details), key)


_SWITCH: dict[str, Any] = {"convert": boolean}
_NUMBER: dict[str, Any] = {"convert": integer, "metavar": "int"}
_DURATION: dict[str, Any] = {"convert": duration_text, "metavar": "duration"}
_MANY: dict[str, Any] = {"repeat": True}
_PATHS: dict[str, Any] = {"repeat": True, "metavar": "path", "into": "config-paths"}

AGENT_FLAGS = (
    _flag(
        "advertise_addr",
        "advertise",
        "Address that the other members are told; may be a template. Default: the bind address.",
    ),
    _flag(
        "advertise_addr_wan",
        "advertise-wan",
        "Address that members of other datacenters are told. Default: that of -advertise.",
    ),
    _flag(
        "http_config.allow_write_http_from",
        "allow-write-http-from",
        "Network (CIDR) whose requests may write; repeatable. Default: any.",
        **_MANY,
    ),
    _flag("alt_domain", "alt-domain", "Second DNS domain to answer for."),
    _flag(
        "bind_addr",
        "bind",
        "Address for the traffic of the cluster: one IP or a template. Default: 0.0.0.0.",
    ),
    _flag("bootstrap", "bootstrap", "Let this one server elect itself at once.", **_SWITCH),
    _flag(
        "bootstrap_expect",
        "bootstrap-expect",
        "Number of servers to wait for before the first election.",
        **_NUMBER,
    ),
    _flag(
        "check_output_max_size",
        "check_output_max_size",
        "Bytes of a check's output that are kept. Default: 4096.",
        **_NUMBER,
    ),
    _flag(
        "client_addr",
        "client",
        "Addresses for HTTP, HTTPS and DNS, separated by spaces. Default: 127.0.0.1.",
    ),
    _flag(
        "",
        "config-dir",
        "Directory of *.json and *.hcl files to read by name; repeatable.",
        **_PATHS,
    ),
    _flag("", "config-file", "Configuration file to read, .json or .hcl; repeatable.", **_PATHS),
    _flag("", "config-format", "Read every configuration file as this format: json or hcl."),
    _flag(
        "data_dir",
        "data-dir",
        "Directory for the state of this agent; required without -dev.",
        metavar="path",
    ),
    _flag("datacenter", "datacenter", "Datacenter of this agent. Default: dc1."),
    _flag(
        "default_query_time",
        "default-query-time",
        "How long a blocking read without a wait time may take. Default: 300s.",
        **_DURATION,
    ),
    _flag(
        "", "dev", "A single server that keeps everything in memory, for development.", **_SWITCH
    ),
    _flag(
        "disable_host_node_id",
        "disable-host-node-id",
        "Make a random node id instead of one from the host's. Default: true.",
        **_SWITCH,
    ),
    _flag("disable_keyring_file", "disable-keyring-file", "Do not store gossip keys.", **_SWITCH),
    _flag("ports.dns", "dns-port", "DNS port. Default: 8600.", **_NUMBER),
    _flag("domain", "domain", "DNS domain to answer for. Default: consul."),
    _flag(
        "enable_local_script_checks",
        "enable-local-script-checks",
        "Allow checks from configuration files to run programs.",
        **_SWITCH,
    ),
    _flag(
        "enable_script_checks",
        "enable-script-checks",
        "Allow checks from files and over HTTP to run programs.",
        **_SWITCH,
    ),
    _flag("encrypt", "encrypt", "Gossip key: 16, 24 or 32 bytes in base64.", metavar="key"),
    _flag(
        "ports.grpc", "grpc-port", "gRPC port of the service mesh; accepted and ignored.", **_NUMBER
    ),
    _flag("", "hcl", "A piece of configuration in HCL; repeatable.", **_MANY),
    _flag("ports.http", "http-port", "HTTP port. Default: 8500.", **_NUMBER),
    _flag("ports.https", "https-port", "HTTPS port. Default: off.", **_NUMBER),
    _flag(
        "start_join",
        "join",
        "Address of an agent to join at the start; repeatable. Failing ends this agent.",
        **_MANY,
    ),
    _flag("start_join_wan", "join-wan", "The same for a server of another datacenter.", **_MANY),
    _flag("log_file", "log-file", "Write the log to this file, too.", metavar="path"),
    _flag("log_json", "log-json", "Write log lines as JSON.", **_SWITCH),
    _flag("log_level", "log-level", "TRACE, DEBUG, INFO, WARN or ERR. Default: INFO."),
    _flag("log_rotate_bytes", "log-rotate-bytes", "Begin a new log file at this size.", **_NUMBER),
    _flag(
        "log_rotate_duration",
        "log-rotate-duration",
        "Begin a new log file after this time. Default: 24h.",
        **_DURATION,
    ),
    _flag(
        "log_rotate_max_files",
        "log-rotate-max-files",
        "Old log files to keep; 0 keeps all, less than 0 none.",
        **_NUMBER,
    ),
    _flag(
        "max_query_time",
        "max-query-time",
        "Longest wait of a blocking read. Default: 600s.",
        **_DURATION,
    ),
    _flag("node_name", "node", "Name of this node. Default: the host's."),
    _flag(
        "node_id", "node-id", "UUID of this node. Default: made once and stored.", metavar="uuid"
    ),
    _flag(
        "node_meta",
        "node-meta",
        "key:value metadata of this node; repeatable.",
        convert=key_value,
        repeat=True,
        metavar="key:value",
    ),
    _flag("non_voting_server", "non-voting-server", "Accepted without effect.", **_SWITCH),
    _flag("pid_file", "pid-file", "Write the process id to this file.", metavar="path"),
    _flag(
        "",
        "plugin-dir",
        "Directory of plugins to load, besides the installed ones; repeatable.",
        repeat=True,
        metavar="path",
    ),
    _flag(
        "primary_gateways",
        "primary-gateway",
        "Mesh gateway of the primary datacenter; accepted and ignored.",
        **_MANY,
    ),
    _flag("protocol", "protocol", "Version of the member protocol. Default: 2.", **_NUMBER),
    _flag("raft_protocol", "raft-protocol", "Version of the Raft protocol. Default: 3.", **_NUMBER),
    _flag("recursors", "recursor", "DNS server to ask about other domains; repeatable.", **_MANY),
    _flag("rejoin_after_leave", "rejoin", "Join again although this node left before.", **_SWITCH),
    _flag(
        "retry_interval",
        "retry-interval",
        "Pause between tries of -retry-join. Default: 30s.",
        **_DURATION,
    ),
    _flag(
        "retry_interval_wan",
        "retry-interval-wan",
        "Pause between tries of -retry-join-wan. Default: 30s.",
        **_DURATION,
    ),
    _flag(
        "retry_join",
        "retry-join",
        "Address of an agent to join, tried until it works; repeatable.",
        **_MANY,
    ),
    _flag(
        "retry_join_wan", "retry-join-wan", "The same for a server of another datacenter.", **_MANY
    ),
    _flag(
        "retry_max",
        "retry-max",
        "Tries of -retry-join before the agent gives up. Default: endless.",
        **_NUMBER,
    ),
    _flag("retry_max_wan", "retry-max-wan", "The same for -retry-join-wan.", **_NUMBER),
    _flag("segment", "segment", "Accepted without effect."),
    _flag(
        "serf_lan_allowed_cidrs",
        "serf-lan-allowed-cidrs",
        "Network (CIDR) that may gossip; repeatable. Default: any.",
        **_MANY,
    ),
    _flag(
        "serf_lan",
        "serf-lan-bind",
        "Address for gossip in the datacenter. Default: the bind address.",
    ),
    _flag(
        "ports.serf_lan",
        "serf-lan-port",
        "Port for gossip in the datacenter. Default: 8301.",
        **_NUMBER,
    ),
    _flag(
        "serf_wan_allowed_cidrs",
        "serf-wan-allowed-cidrs",
        "Network (CIDR) that may gossip between datacenters; repeatable. Default: any.",
        **_MANY,
    ),
    _flag(
        "serf_wan",
        "serf-wan-bind",
        "Address for gossip between datacenters. Default: the bind address.",
    ),
    _flag(
        "ports.serf_wan",
        "serf-wan-port",
        "Port for gossip between datacenters; -1 turns it off. Default: 8302.",
        **_NUMBER,
    ),
    _flag("server", "server", "Be a server: keep data and take part in elections.", **_SWITCH),
    _flag(
        "ports.server",
        "server-port",
        "Port for calls between servers and agents. Default: 8300.",
        **_NUMBER,
    ),
    _flag(
        "storage_engine",
        "storage-engine",
        "Storage engine: rocksdict (default), memory (default with -dev), or a plugin's.",
    ),
    _flag("enable_syslog", "syslog", "Write the log to syslog, too.", **_SWITCH),
    _flag("ui", "ui", "Serve the built-in web UI.", **_SWITCH),
    _flag("ui_content_path", "ui-content-path", "Path of the web UI. Default: /ui/."),
    _flag("ui_dir", "ui-dir", "Serve the web UI from this directory instead.", metavar="path"),
)


def parse_agent_flags(arguments: Sequence[str]) -> AgentFlags:
    """Read the words after `registry agent`.

    Raises `ConfigError` (`FlagError`), or `registry.goflags.HelpWanted`.
    """
    parsed = parse_flags([entry.flag for entry in AGENT_FLAGS], arguments)
    if parsed.arguments:
        raise ConfigError(f"unexpected arguments: {' '.join(parsed.arguments)}")
    values: dict[str, Any] = {}
    for flag, key in AGENT_FLAGS:
        if key and flag.name in parsed.given:
            value = parsed[flag.name]
            _put(values, key, dict(value) if key == "node_meta" else value)
    return AgentFlags(
        values=values,
        dev=parsed["dev"] or False,
        paths=tuple(parsed["config-paths"]),
        config_format=parsed["config-format"] or "",
        fragments=tuple(parsed["hcl"]),
        plugin_dirs=tuple(parsed["plugin-dir"]),
    )


def agent_help() -> str:
    """The text of `registry agent -h`."""
    return help_text(
        "registry agent [options]",
        [("Options", [entry.flag for entry in AGENT_FLAGS])],
        about="Runs an agent in the foreground until it is interrupted.",
    )


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *above, name = key.split(".")
    for part in above:
        values = values.setdefault(part, {})
    values[name] = value
