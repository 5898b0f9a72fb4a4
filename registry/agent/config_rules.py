"""What the keys must not say together (surface 4.1), and what is allowed but unwise.

A rule raises `KeyProblem` about the key to change; advice is lines for the log.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.agent.config import AgentConfig
from registry.agent.config_keys import KeyProblem
from registry.agent.definition_rules import metadata_problem
from registry.agent.durations import HOUR
from registry.agent.logs import level_of

SYSLOG_FACILITIES = (
    *("KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON"),
    *("AUTHPRIV", "FTP"),
    *(f"LOCAL{number}" for number in range(8)),
)
ENCRYPT_KEY_LENGTHS = (16, 24, 32)
RECONNECT_TIMEOUT_NS_MIN = 8 * HOUR
RAFT_MULTIPLIER_MAX = 10
#: Lowest and highest version of the RPC protocol that agents may be told to speak.
PROTOCOLS = (2, 3)


def judge_mode(config: AgentConfig) -> None:
    """Rules that need no address, and are told before problems with those; raises `KeyProblem`."""
    for rule in MODE_RULES:
        rule(config)


def judge(config: AgentConfig) -> list[str]:
    """Warnings about `config`; raises `KeyProblem` for the first rule that is broken."""
    for rule in RULES:
        rule(config)
    return [line for advice in ADVICE for line in advice(config)]


def refuse_unknown_level(config: AgentConfig) -> None:
    """Apart from the rules: `validate` does not look at it, the agent does (observed)."""
    try:
        level_of(config.log_level)
    except ValueError:
        raise KeyProblem(
            "log_level",
            f"Invalid log level: {config.log_level}."
            " Valid log levels are: TRACE, DEBUG, INFO, WARN, ERR",
        ) from None


def _names(config: AgentConfig) -> None:
    if not config.node_name:
        raise KeyProblem("node_name", "node_name cannot be empty")
    for key in ("datacenter", "primary_datacenter"):
        if re.fullmatch(r"[a-z0-9_-]+", getattr(config, key)) is None:
            raise KeyProblem(
                key, f"{key} cannot be {getattr(config, key)!r}. Please use only [a-z0-9-_]."
            )
    if config.node_id:
        try:
            uuid.UUID(config.node_id)
        except ValueError:
            raise KeyProblem("node_id", f"node_id: {config.node_id!r} is not a UUID") from None
    if reason := metadata_problem(config.node_meta):
        raise KeyProblem("node_meta", f"node_meta invalid: {reason}")


def _data_dir(config: AgentConfig) -> None:
    if not config.data_dir:
        if not config.dev_mode:
            raise KeyProblem("data_dir", "data_dir cannot be empty")
        return
    path = Path(config.data_dir)
    try:
        wrong = path.exists() and not path.is_dir()
    except (OSError, ValueError) as error:
        raise KeyProblem("data_dir", f"data_dir {config.data_dir!r}: {error}") from None
    if wrong:
        raise KeyProblem("data_dir", f'data_dir "{config.data_dir}" is not a directory')


def _bootstrap(config: AgentConfig) -> None:
    expect = config.bootstrap_expect
    if expect < 0:
        raise KeyProblem(
            "bootstrap_expect",
            f"bootstrap_expect cannot be {expect}. Must be greater than or equal to zero",
        )
    if expect and config.dev_mode:
        raise KeyProblem("bootstrap_expect", "'bootstrap_expect' not allowed in dev mode")
    if expect and not config.server:
        raise KeyProblem("bootstrap_expect", "'bootstrap_expect > 0' requires 'server = true'")
    if expect and config.bootstrap:
        raise KeyProblem(
            "bootstrap_expect",
            "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive",
        )
    if config.bootstrap and not config.server:
        raise KeyProblem("bootstrap", "'bootstrap = true' requires 'server = true'")


def _advertised(config: AgentConfig) -> None:
    for key, name in (("advertise_addr", "address"), ("advertise_addr_wan", "WAN address")):
        if ipaddress.ip_address(getattr(config, key)).is_unspecified:
            raise KeyProblem(key, f"Advertise {name} cannot be 0.0.0.0, :: or [::]")


def _ports(config: AgentConfig) -> None:
    for name in config.ports.__struct_fields__:
        port = getattr(config.ports, name)
        if port > 65535:
            raise KeyProblem(f"ports.{name}", f"ports.{name}: invalid port {port}")
    for key in ("server", "serf_lan") if config.server else ("serf_lan",):
        if getattr(config.ports, key) <= 0:
            raise KeyProblem(f"ports.{key}", f"ports.{key} can not be turned off")


def _listeners_unique(config: AgentConfig) -> None:
    """No two TCP listeners on one address and port."""
    taken: dict[tuple[str, int], str] = {}
    cluster = [("serf_lan", config.serf_lan), ("serf_wan", config.serf_wan)]
    if config.server:
        cluster.append(("server", config.bind_addr))
    faces = [
        (face, address)
        for face in ("dns", "http", "https")
        for address in config.listen_addresses(face)
    ]
    for name, address in [*faces, *cluster]:
        port = getattr(config.ports, name)
        if port <= 0 or (name == "serf_wan" and not config.server):
            continue
        # The path of a Unix socket is unique without its port.
        listener = (address, 0 if address.startswith("unix://") else port)
        if listener in taken:
            raise KeyProblem(
                f"ports.{name}",
                f"ports.{name}: {address}:{port} is already the listener of {taken[listener]}",
            )
        taken[listener] = name


def _ui(config: AgentConfig) -> None:
    if config.ui and config.ui_dir:
        raise KeyProblem(
            "ui_dir", "ui and ui_dir cannot be set together; ui serves the built-in files"
        )
    path = config.ui_content_path
    if re.fullmatch(r"[A-Za-z0-9/_-]*", path) is None:
        raise KeyProblem(
            "ui_content_path",
            f'ui_content_path can only contain letters, digits, -, _ and /. received: "{path}"',
        )
    if re.search(r"(^|/)v\d+/", path):
        raise KeyProblem(
            "ui_content_path", f"ui_content_path cannot have 'v[0-9]/'. received: \"{path}\""
        )


def _at_least(key: str, least: int) -> Callable[[AgentConfig], None]:
    def rule(config: AgentConfig) -> None:
        value: Any = config
        for name in key.split("."):
            value = getattr(value, name)
        if value < least:
            bound = "greater than or equal to zero" if least == 0 else f"at least {least}"
            raise KeyProblem(key, f"{key} cannot be {value}. Must be {bound}")

    return rule


def _above_zero(config: AgentConfig) -> None:
    for key in ("entry_fetch_max_burst", "entry_fetch_rate"):
        value = getattr(config.cache, key)
        if value <= 0:
            raise KeyProblem(f"cache.{key}", f"cache.{key} must be strictly positive, was: {value}")


def _raft_multiplier(config: AgentConfig) -> None:
    multiplier = config.performance.raft_multiplier
    if not 1 <= multiplier <= RAFT_MULTIPLIER_MAX:
        raise KeyProblem(
            "performance.raft_multiplier",
            f"performance.raft_multiplier cannot be {multiplier}."
            f" Must be between 1 and {RAFT_MULTIPLIER_MAX}",
        )


def _protocol(config: AgentConfig) -> None:
    low, high = PROTOCOLS
    if not low <= config.protocol <= high:
        word = "low" if config.protocol < low else "high"
        raise KeyProblem(
            "protocol",
            f"Protocol version '{config.protocol}' too {word}. Must be in range: [{low}, {high}]",
        )


def _times(config: AgentConfig) -> None:
    for key in ("reconnect_timeout", "reconnect_timeout_wan"):
        if getattr(config, f"{key}_ns") < RECONNECT_TIMEOUT_NS_MIN:
            raise KeyProblem(key, f"{key} must be >= 8h")
    for key in ("default_query_time", "max_query_time", "session_ttl_min"):
        if getattr(config, f"{key}_ns") < 0:
            raise KeyProblem(key, f"{key} cannot be negative")


def _choices(config: AgentConfig) -> None:
    for key, value, choices in (
        ("acl.default_policy", config.acl.default_policy, ("allow", "deny")),
        (
            "acl.down_policy",
            config.acl.down_policy,
            ("allow", "deny", "extend-cache", "async-cache"),
        ),
        ("tls_min_version", config.tls_min_version, ("", "tls10", "tls11", "tls12", "tls13")),
        ("syslog_facility", config.syslog_facility.upper(), SYSLOG_FACILITIES),
    ):
        if value not in choices:
            known = ", ".join(choice for choice in choices if choice)
            raise KeyProblem(key, f"{key}: {value!r} is not one of {known}")


def _encrypt(config: AgentConfig) -> None:
    if not config.encrypt:
        return
    try:
        key = base64.b64decode(config.encrypt, validate=True)
    except (binascii.Error, ValueError):
        raise KeyProblem("encrypt", "encrypt: the key is not base64") from None
    if len(key) not in ENCRYPT_KEY_LENGTHS:
        raise KeyProblem("encrypt", f"encrypt: the key has {len(key)} bytes, not 16, 24 or 32")


def _networks(config: AgentConfig) -> None:
    for key, networks in (
        ("http_config.allow_write_http_from", config.http_config.allow_write_http_from),
        ("serf_lan_allowed_cidrs", config.serf_lan_allowed_cidrs),
        ("serf_wan_allowed_cidrs", config.serf_wan_allowed_cidrs),
    ):
        for network in networks:
            try:
                if "/" not in network:
                    raise ValueError("no prefix length")
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                raise KeyProblem(key, f"{key}: invalid cidr: {network}") from None


def _alt_domain(config: AgentConfig) -> None:
    first = config.alt_domain.strip(".").split(".")[0]
    if first and first in ("service", "connect", "node", "query", "addr", config.datacenter):
        raise KeyProblem(
            "alt_domain",
            f"alt_domain cannot start with {{service,connect,node,query,addr,{config.datacenter}}}",
        )


def _prefix_filter(config: AgentConfig) -> None:
    if "" in config.telemetry.prefix_filter:
        raise KeyProblem(
            "telemetry.prefix_filter", "Cannot have empty filter rule in prefix_filter"
        )


def _socket_mode(config: AgentConfig) -> None:
    mode = config.unix_sockets.mode
    if mode and re.fullmatch(r"0?o?[0-7]{1,4}", mode) is None:
        raise KeyProblem("unix_sockets.mode", f"unix_sockets.mode: {mode!r} is not octal")


def _certificates(config: AgentConfig) -> None:
    if bool(config.cert_file) != bool(config.key_file):
        key, other = ("key_file", "cert_file") if config.key_file else ("cert_file", "key_file")
        raise KeyProblem(key, f"{key} needs {other}")
    verifies = config.verify_incoming or config.verify_incoming_rpc or config.verify_incoming_https
    if verifies and not (config.ca_file or config.ca_path):
        raise KeyProblem("verify_incoming", "verify_incoming needs ca_file or ca_path")


#: Asked in this order; the first that is broken is told.
MODE_RULES: tuple[Callable[[AgentConfig], None], ...] = (_names, _data_dir, _bootstrap)
RULES: tuple[Callable[[AgentConfig], None], ...] = (
    _advertised,
    _ports,
    _listeners_unique,
    _ui,
    _at_least("autopilot.max_trailing_logs", 0),
    _at_least("dns_config.udp_answer_limit", 0),
    _at_least("dns_config.a_record_limit", 0),
    _at_least("check_output_max_size", 1),
    _at_least("retry_max", 0),
    _at_least("retry_max_wan", 0),
    _above_zero,
    _raft_multiplier,
    _protocol,
    _times,
    _choices,
    _encrypt,
    _networks,
    _alt_domain,
    _prefix_filter,
    _socket_mode,
    _certificates,
)


def _about_bootstrap(config: AgentConfig) -> list[str]:
    expect = config.bootstrap_expect
    if config.bootstrap:
        return ["bootstrap = true: do not enable unless necessary"]
    if expect == 1:
        return ["BootstrapExpect is set to 1; this is the same as Bootstrap mode."]
    lines = []
    if expect == 2:
        lines.append("bootstrap_expect = 2: two servers do not survive the loss of either")
    elif expect and expect % 2 == 0:
        lines.append(
            f"bootstrap_expect = {expect}: an even number of servers survives no more losses than"
            f" {expect - 1}"
        )
    if expect:
        lines.append(f"bootstrap_expect > 0: expecting {expect} servers")
    return lines


def _about_scripts(config: AgentConfig) -> list[str]:
    guarded = config.acl.enabled or config.http_config.allow_write_http_from
    if config.enable_script_checks and not guarded:
        return [
            "enable_script_checks without ACLs and without allow_write_http_from lets everyone who"
            " reaches the HTTP port run programs here; use enable_local_script_checks"
        ]
    return []


def _about_node_name(config: AgentConfig) -> list[str]:
    name = config.node_name
    if re.fullmatch(r"[A-Za-z0-9-]+", name) is None:
        return [
            f"node name {name!r} can not be found in DNS: it has characters other than letters,"
            " digits and dashes"
        ]
    if len(name) > 63:
        return [f"node name {name!r} can not be found in DNS: it is longer than 63 characters"]
    return []


def _about_filters(config: AgentConfig) -> list[str]:
    return [
        f"telemetry.prefix_filter: {rule!r} is ignored: a rule must begin with + or -"
        for rule in config.telemetry.prefix_filter
        if rule[:1] not in ("+", "-")
    ]


#: Warnings, in this order.
ADVICE: tuple[Callable[[AgentConfig], list[str]], ...] = (
    _about_bootstrap,
    _about_scripts,
    _about_node_name,
    _about_filters,
)
