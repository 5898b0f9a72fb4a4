"""From merged keys to the final `AgentConfig`: what follows from other keys and from the machine.

Former key names, templates in addresses, and defaults that depend on the mode; then the rules of
`registry.agent.config_rules`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from registry.agent.address_templates import Interface, expand, private_ipv4, public_ipv6
from registry.agent.config import DEV_PORTS, DEV_TIMING, AgentConfig
from registry.agent.config_keys import KeyProblem
from registry.agent.config_merge import flattened, overlaid
from registry.agent.config_rules import judge, judge_mode

#: Former names and the keys that took their place; a new name that is set wins.
OLD_NAMES = {
    "acl_agent_master_token": "acl.tokens.agent_master",
    "acl_agent_token": "acl.tokens.agent",
    "acl_datacenter": "primary_datacenter",
    "acl_default_policy": "acl.default_policy",
    "acl_down_policy": "acl.down_policy",
    "acl_enable_key_list_policy": "acl.enable_key_list_policy",
    "acl_master_token": "acl.tokens.master",
    "acl_replication_token": "acl.tokens.replication",
    "acl_ttl": "acl.token_ttl",
    "acl_token": "acl.tokens.default",
    "enable_acl_replication": "acl.enable_token_replication",
}


class Host(msgspec.Struct, frozen=True):
    """What is taken from the machine."""

    name: str
    interfaces: Sequence[Interface] = ()


def settle(
    values: Mapping[str, Any], *, host: Host, dev: bool = False
) -> tuple[AgentConfig, list[str]]:
    """The final configuration of merged `values`, and warnings about what is allowed but unwise.

    Raises `KeyProblem` for the first rule that is broken.
    """
    values, warnings = with_new_names(values)
    base = AgentConfig(dev_mode=True, ports=DEV_PORTS, consul=DEV_TIMING) if dev else AgentConfig()
    config = overlaid(base, values)
    given = flattened(values).keys()
    config = _with_modes(config, given)
    config = _with_names(config, given, host)
    judge_mode(config)
    config = _with_addresses(config, given, host)
    warnings += judge(config)
    return _with_bootstrap(config), warnings


def with_new_names(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`values` with former names replaced, and a warning for each of them."""
    result = _copied(values)
    warnings = []
    for old, new in OLD_NAMES.items():
        if old not in result:
            continue
        value = result.pop(old)
        warnings.append(f"the key {old} is a former name: write {new} instead")
        if old == "acl_datacenter" and value:
            _set_default(result, "acl.enabled", True)
            value = value.lower()
        if old == "acl_replication_token" and value:
            _set_default(result, "acl.enable_token_replication", True)
        _set_default(result, new, value)
    return result, warnings


def _with_modes(config: AgentConfig, given: Collection[str]) -> AgentConfig:
    """Defaults that depend on being a server, and on other switches."""
    changes: dict[str, Any] = {}
    if "leave_on_terminate" not in given:
        changes["leave_on_terminate"] = not config.server
    if "skip_leave_on_interrupt" not in given:
        changes["skip_leave_on_interrupt"] = config.server
    if "enable_local_script_checks" not in given:
        changes["enable_local_script_checks"] = config.enable_script_checks
    if config.verify_server_hostname:
        changes["verify_outgoing"] = True
    limits = config.limits
    # A transaction may hold at least one value of the allowed size.
    largest = max(limits.txn_max_req_len, limits.kv_max_value_size)
    changes["limits"] = replace(limits, txn_max_req_len=largest)
    return replace(config, **changes)


def _with_names(config: AgentConfig, given: Collection[str], host: Host) -> AgentConfig:
    datacenter = config.datacenter.lower()
    primary = config.primary_datacenter.lower() if "primary_datacenter" in given else ""
    node_name = (config.node_name if "node_name" in given else host.name).strip()
    return replace(
        config,
        datacenter=datacenter,
        primary_datacenter=primary or datacenter,
        node_name=node_name,
        server_name=config.server_name or node_name,
        node_id=config.node_id.lower(),
    )


def _with_bootstrap(config: AgentConfig) -> AgentConfig:
    """Waiting for one server is not waiting."""
    if config.bootstrap_expect == 1:
        return replace(config, bootstrap=True, bootstrap_expect=0)
    return config


def _with_addresses(config: AgentConfig, given: Collection[str], host: Host) -> AgentConfig:
    """Templates replaced, and the addresses that others follow from filled in."""

    def expanded(key: str, text: str) -> str:
        try:
            return expand(text, host.interfaces).strip()
        except ValueError as error:
            raise KeyProblem(key, f"{key}: {error}") from None

    def one(key: str, text: str, default: str) -> str:
        return _one_ip(key, expanded(key, text)) if key in given and text else default

    bind = one("bind_addr", config.bind_addr, "0.0.0.0")
    lan = one("advertise_addr", config.advertise_addr, "") or _own_address(bind, host.interfaces)
    wan = one("advertise_addr_wan", config.advertise_addr_wan, lan)
    config = replace(
        config,
        bind_addr=bind,
        advertise_addr=lan,
        advertise_addr_wan=wan,
        serf_lan=one("serf_lan", config.serf_lan, bind),
        serf_wan=one("serf_wan", config.serf_wan, bind),
        client_addr=_ips("client_addr", expanded("client_addr", config.client_addr)),
        addresses=replace(
            config.addresses,
            **{
                face: _listeners(f"addresses.{face}", expanded(f"addresses.{face}", text))
                for face in ("dns", "http", "https")
                if (text := getattr(config.addresses, face))
            },
        ),
        recursors=tuple(
            _with_port(address, 53)
            for text in config.recursors
            for address in expanded("recursors", text).split()
        ),
        advertise_addr_ipv4=_of_family("advertise_addr_ipv4", config.advertise_addr_ipv4, lan, 4),
        advertise_addr_ipv6=_of_family("advertise_addr_ipv6", config.advertise_addr_ipv6, lan, 6),
        advertise_addr_wan_ipv4=_of_family(
            "advertise_addr_wan_ipv4", config.advertise_addr_wan_ipv4, wan, 4
        ),
        # The original reads the LAN key here.
        advertise_addr_wan_ipv6=_of_family(
            "advertise_addr_ipv6", config.advertise_addr_ipv6, wan, 6
        ),
    )
    own = {
        "lan": lan,
        "lan_ipv4": config.advertise_addr_ipv4,
        "lan_ipv6": config.advertise_addr_ipv6,
        "wan": wan,
        "wan_ipv4": config.advertise_addr_wan_ipv4,
        "wan_ipv6": config.advertise_addr_wan_ipv6,
    }
    return replace(
        config,
        tagged_addresses=config.tagged_addresses | {tag: ip for tag, ip in own.items() if ip},
    )


def _own_address(bind: str, interfaces: Sequence[Interface]) -> str:
    """What the others are told: the bind address, or the only one that a wildcard can mean."""
    address = ipaddress.ip_address(bind)
    if not address.is_unspecified:
        return bind
    kind = "private IPv4" if address.version == 4 else "public IPv6"
    found = private_ipv4(interfaces) if address.version == 4 else public_ipv6(interfaces)
    if len(found) != 1:
        what = f"Multiple {kind} addresses found." if found else f"No {kind} address found."
        raise KeyProblem(
            "bind_addr", f"{what} Please configure one with 'bind' and/or 'advertise'."
        )
    return found[0]


def _ip(key: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise KeyProblem(key, f"{key}: invalid ip address: {text}") from None


def _one_ip(key: str, text: str) -> str:
    words = text.split()
    if any(word.startswith("unix://") for word in words):
        raise KeyProblem(key, f"{key} cannot be a unix socket")
    if not words:
        raise KeyProblem(key, f"{key}: the template gives no address")
    if len(words) > 1:
        raise KeyProblem(key, f"{key} must be one address, not {len(words)}: {text}")
    return _ip(key, words[0])


def _ips(key: str, text: str) -> str:
    return " ".join(_ip(key, word) for word in text.split())


def _listeners(key: str, text: str) -> str:
    """IPs and, for HTTP and HTTPS, paths of Unix sockets."""
    return " ".join(
        word if word.startswith("unix://") and key != "addresses.dns" else _ip(key, word)
        for word in text.split()
    )


def _of_family(key: str, text: str, default: str, version: int) -> str:
    if text:
        address = _ip(key, text)
        if ipaddress.ip_address(address).version != version:
            raise KeyProblem(key, f"{key}: {text} is not an IPv{version} address")
        return address
    return default if ipaddress.ip_address(default).version == version else ""


def _with_port(address: str, port: int) -> str:
    """`address:port`, unless it has a port."""
    try:
        version = ipaddress.ip_address(address.strip("[]")).version
    except ValueError:
        return address if ":" in address else f"{address}:{port}"
    return f"{address}:{port}" if version == 4 else f"[{address.strip('[]')}]:{port}"


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _copied(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def _set_default(values: dict[str, Any], path: str, value: Any) -> None:
    *above, name = path.split(".")
    for part in above:
        values = values.setdefault(part, {})
    values.setdefault(name, value)
