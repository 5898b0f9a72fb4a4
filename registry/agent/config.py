"""The configuration of one agent, as values: every key of the core, with its default.

Structs and fields are spelt like the keys of a configuration file (`ports.http`,
`dns_config.soa.min_ttl`); a key that is a duration in a file is an integer of nanoseconds here and
ends in `_ns`. `registry.agent.config_keys` knows which keys exist and what may be written in them,
`registry.agent.config_files` reads them, `registry.agent.config_rules` judges the whole and
fills in what follows from other keys, `registry.agent.loading` joins it all.

Values are final: addresses hold no templates any more, `node_name` is never empty, and what
depends on the mode (`leave_on_terminate`, `skip_leave_on_interrupt`) is decided.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from registry.agent.durations import HOUR, MILLISECOND, MINUTE, SECOND


class _Keys(msgspec.Struct, frozen=True, kw_only=True):
    """A group of keys."""


class Tokens(_Keys, frozen=True):
    master: str = ""
    replication: str = ""
    agent_master: str = ""
    default: str = ""
    agent: str = ""


class Acl(_Keys, frozen=True):
    enabled: bool = False
    enable_token_replication: bool = False
    policy_ttl_ns: int = 30 * SECOND
    role_ttl_ns: int = 0
    token_ttl_ns: int = 30 * SECOND
    down_policy: str = "extend-cache"
    default_policy: str = "allow"
    enable_key_list_policy: bool = False
    tokens: Tokens = Tokens()
    disabled_ttl_ns: int = 120 * SECOND
    enable_token_persistence: bool = False


class Addresses(_Keys, frozen=True):
    """Listen addresses, space separated; "" means `client_addr`."""

    dns: str = ""
    http: str = ""
    https: str = ""
    grpc: str = ""


class Autopilot(_Keys, frozen=True):
    cleanup_dead_servers: bool = True
    last_contact_threshold_ns: int = 200 * MILLISECOND
    max_trailing_logs: int = 250
    min_quorum: int = 0
    server_stabilization_time_ns: int = 10 * SECOND


class Cache(_Keys, frozen=True):
    entry_fetch_max_burst: int = 2
    entry_fetch_rate: float = math.inf  # fetches a second of one entry


class Soa(_Keys, frozen=True):
    """Seconds, as DNS has them."""

    refresh: int = 3600
    retry: int = 600
    expire: int = 86400
    min_ttl: int = 0


class DnsConfig(_Keys, frozen=True):
    allow_stale: bool = True
    a_record_limit: int = 0
    disable_compression: bool = False
    enable_truncate: bool = False
    max_stale_ns: int = 87600 * HOUR
    node_ttl_ns: int = 0
    only_passing: bool = False
    recursor_timeout_ns: int = 2 * SECOND
    service_ttl_ns: dict[str, int] = msgspec.field(default_factory=dict)
    udp_answer_limit: int = 3
    enable_additional_node_meta_txt: bool = True
    soa: Soa = Soa()
    use_cache: bool = False
    cache_max_age_ns: int = 0


class Gossip(_Keys, frozen=True):
    gossip_nodes: int = 3
    gossip_interval_ns: int = 200 * MILLISECOND
    probe_interval_ns: int = SECOND
    probe_timeout_ns: int = 500 * MILLISECOND
    suspicion_mult: int = 4
    retransmit_mult: int = 4


GOSSIP_WAN = Gossip(
    gossip_interval_ns=500 * MILLISECOND,
    probe_interval_ns=5 * SECOND,
    probe_timeout_ns=3 * SECOND,
    suspicion_mult=6,
)


class HttpConfig(_Keys, frozen=True):
    block_endpoints: tuple[str, ...] = ()
    allow_write_http_from: tuple[str, ...] = ()  # networks in CIDR form; empty: any
    response_headers: dict[str, str] = msgspec.field(default_factory=dict)
    use_cache: bool = True


class Limits(_Keys, frozen=True):
    http_max_conns_per_client: int = 200
    https_handshake_timeout_ns: int = 5 * SECOND
    rpc_handshake_timeout_ns: int = 5 * SECOND
    rpc_max_burst: int = 1000
    rpc_max_conns_per_client: int = 100
    rpc_rate: float = -1.0  # calls a second; -1: no limit
    kv_max_value_size: int = 512 * 1024
    txn_max_req_len: int = 512 * 1024


class Performance(_Keys, frozen=True):
    leave_drain_time_ns: int = 5 * SECOND
    raft_multiplier: int = 5
    rpc_hold_timeout_ns: int = 7 * SECOND


class Ports(_Keys, frozen=True):
    """0 or less turns a listener off where that is possible."""

    dns: int = 8600
    http: int = 8500
    https: int = -1
    grpc: int = -1
    serf_lan: int = 8301
    serf_wan: int = 8302
    server: int = 8300


class Telemetry(_Keys, frozen=True):
    disable_hostname: bool = False
    dogstatsd_addr: str = ""
    dogstatsd_tags: tuple[str, ...] = ()
    filter_default: bool = True
    prefix_filter: tuple[str, ...] = ()
    metrics_prefix: str = "consul"
    prometheus_retention_time_ns: int = 0
    statsd_address: str = ""
    statsite_address: str = ""
    circonus_api_app: str = ""
    circonus_api_token: str = ""
    circonus_api_url: str = ""
    circonus_broker_id: str = ""
    circonus_broker_select_tag: str = ""
    circonus_check_display_name: str = ""
    circonus_check_force_metric_activation: str = ""
    circonus_check_id: str = ""
    circonus_check_instance_id: str = ""
    circonus_check_search_tag: str = ""
    circonus_check_tags: str = ""
    circonus_submission_interval_ns: int = 10 * SECOND
    circonus_submission_url: str = ""


class UnixSockets(_Keys, frozen=True):
    group: str = ""
    mode: str = ""
    user: str = ""


class CoordinateTiming(_Keys, frozen=True):
    update_batch_size: int = 128
    update_max_batches: int = 5
    update_period_ns: int = 5 * SECOND


class RaftTiming(_Keys, frozen=True):
    """Before `performance.raft_multiplier`, which multiplies all three."""

    election_timeout_ns: int = SECOND
    heartbeat_timeout_ns: int = SECOND
    leader_lease_timeout_ns: int = 500 * MILLISECOND


class ServerTiming(_Keys, frozen=True):
    health_interval_ns: int = 2 * SECOND


class Timing(_Keys, frozen=True):
    """Constants that files may name but not change (`consul.*`)."""

    coordinate: CoordinateTiming = CoordinateTiming()
    raft: RaftTiming = RaftTiming()
    server: ServerTiming = ServerTiming()


class PluginsSection(_Keys, frozen=True):
    """Which plugins are used, in what order, and how they are set (`registry.plugins.settings`)."""

    enable: tuple[str, ...] = ()  # (): all
    disable: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    settings: dict[str, Any] = msgspec.field(default_factory=dict)


class AgentConfig(_Keys, frozen=True):
    """Everything an agent was told, beside its definitions of services, checks and watches."""

    acl: Acl = Acl()
    addresses: Addresses = Addresses()
    advertise_addr: str = "127.0.0.1"
    advertise_addr_ipv4: str = ""
    advertise_addr_ipv6: str = ""
    advertise_addr_wan: str = "127.0.0.1"
    advertise_addr_wan_ipv4: str = ""
    advertise_addr_wan_ipv6: str = ""
    autopilot: Autopilot = Autopilot()
    bind_addr: str = "0.0.0.0"
    bootstrap: bool = False
    bootstrap_expect: int = 0
    cache: Cache = Cache()
    ca_file: str = ""
    ca_path: str = ""
    cert_file: str = ""
    check_output_max_size: int = 4096
    check_update_interval_ns: int = 5 * MINUTE
    client_addr: str = "127.0.0.1"  # one or several, space separated
    dns_config: DnsConfig = DnsConfig()
    domain: str = "consul."
    alt_domain: str = ""
    recursors: tuple[str, ...] = ()
    data_dir: str = ""  # "": keep nothing (only with dev_mode)
    datacenter: str = "dc1"
    default_query_time_ns: int = 300 * SECOND
    disable_anonymous_signature: bool = False
    disable_coordinates: bool = False
    disable_host_node_id: bool = True
    disable_http_unprintable_char_filter: bool = False
    disable_keyring_file: bool = False
    disable_remote_exec: bool = True
    disable_update_check: bool = False
    discard_check_output: bool = False
    discovery_max_stale_ns: int = 0
    enable_agent_tls_for_checks: bool = False
    enable_debug: bool = False
    enable_script_checks: bool = False  # from files and over HTTP
    enable_local_script_checks: bool = False  # from files
    enable_syslog: bool = False
    encrypt: str = ""
    encrypt_verify_incoming: bool = True
    encrypt_verify_outgoing: bool = True
    gossip_lan: Gossip = Gossip()
    gossip_wan: Gossip = GOSSIP_WAN
    http_config: HttpConfig = HttpConfig()
    key_file: str = ""
    leave_on_terminate: bool = True
    limits: Limits = Limits()
    log_level: str = "INFO"
    log_json: bool = False
    log_file: str = ""
    log_rotate_duration_ns: int = 24 * HOUR
    log_rotate_bytes: int = 0
    log_rotate_max_files: int = 0
    max_query_time_ns: int = 600 * SECOND
    node_id: str = ""  # "": made once and stored
    node_meta: dict[str, str] = msgspec.field(default_factory=dict)
    node_name: str = "localhost"
    performance: Performance = Performance()
    pid_file: str = ""
    ports: Ports = Ports()
    primary_datacenter: str = "dc1"
    protocol: int = 2
    raft_protocol: int = 3
    raft_snapshot_threshold: int = 16384
    raft_snapshot_interval_ns: int = 30 * SECOND
    raft_trailing_logs: int = 10240
    reconnect_timeout_ns: int = 72 * HOUR
    reconnect_timeout_wan_ns: int = 72 * HOUR
    rejoin_after_leave: bool = False
    retry_interval_ns: int = 30 * SECOND
    retry_interval_wan_ns: int = 30 * SECOND
    retry_join: tuple[str, ...] = ()
    retry_join_wan: tuple[str, ...] = ()
    retry_max: int = 0
    retry_max_wan: int = 0
    serf_lan_allowed_cidrs: tuple[str, ...] = ()
    serf_wan_allowed_cidrs: tuple[str, ...] = ()
    serf_lan: str = "0.0.0.0"
    serf_wan: str = "0.0.0.0"
    server: bool = False
    server_name: str = ""
    session_ttl_min_ns: int = 10 * SECOND
    skip_leave_on_interrupt: bool = False
    start_join: tuple[str, ...] = ()
    start_join_wan: tuple[str, ...] = ()
    syslog_facility: str = "LOCAL0"
    tls_cipher_suites: str = ""
    tls_min_version: str = "tls12"
    tls_prefer_server_cipher_suites: bool = False
    tagged_addresses: dict[str, str] = msgspec.field(default_factory=dict)
    telemetry: Telemetry = Telemetry()
    translate_wan_addrs: bool = False
    ui: bool = False
    ui_content_path: str = "/ui/"
    ui_dir: str = ""
    unix_sockets: UnixSockets = UnixSockets()
    verify_incoming: bool = False
    verify_incoming_https: bool = False
    verify_incoming_rpc: bool = False
    verify_outgoing: bool = False
    verify_server_hostname: bool = False

    # Constants that files may name but not change.
    ae_interval_ns: int = MINUTE
    check_deregister_interval_min_ns: int = MINUTE
    check_reap_interval_ns: int = 30 * SECOND
    sync_coordinate_interval_min_ns: int = 15 * SECOND
    sync_coordinate_rate_target: float = 64.0
    segment_limit: int = 64
    segment_name_limit: int = 64
    consul: Timing = Timing()

    # Ours alone.
    dev_mode: bool = False  # -dev
    storage_engine: str = ""  # "": rocksdict, or memory with dev_mode
    plugin_dirs: tuple[str, ...] = ()  # -plugin-dir
    plugins: PluginsSection = PluginsSection()

    def listen_addresses(self, face: str) -> tuple[str, ...]:
        """Where "dns", "http" or "https" is served: IPs or `unix://PATH`; none when off."""
        if getattr(self.ports, face) <= 0:
            return ()
        return tuple((getattr(self.addresses, face) or self.client_addr).split())


#: What -dev changes, spelt like a configuration file; files and flags still win over it.
DEV: dict[str, Any] = {
    "server": True,
    "ui": True,
    "enable_debug": True,
    "disable_keyring_file": True,
    "disable_anonymous_signature": True,
    "bind_addr": "127.0.0.1",
    "log_level": "DEBUG",
    "performance": {"raft_multiplier": 1},
    "gossip_lan": {
        "gossip_interval": "100ms",
        "probe_interval": "100ms",
        "probe_timeout": "100ms",
        "suspicion_mult": 3,
    },
    "gossip_wan": {
        "gossip_interval": "100ms",
        "probe_interval": "100ms",
        "probe_timeout": "100ms",
        "suspicion_mult": 3,
    },
}

#: Mesh keys have no effect in files, so this one is not in `DEV`.
DEV_PORTS = Ports(grpc=8502)

#: Constants of -dev: one server that nobody waits for.
DEV_TIMING = Timing(
    coordinate=CoordinateTiming(update_period_ns=100 * MILLISECOND),
    raft=RaftTiming(
        election_timeout_ns=52 * MILLISECOND,
        heartbeat_timeout_ns=35 * MILLISECOND,
        leader_lease_timeout_ns=20 * MILLISECOND,
    ),
    server=ServerTiming(health_interval_ns=10 * MILLISECOND),
)
