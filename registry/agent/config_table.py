"""Every key that a configuration file may hold: its path, what may be written in it, and its use.

The table is grouped by use:

- core: it takes effect.
- old: the former name of a core key, still read (`registry.agent.config_rules` knows the new one).
- own: timings and build facts that files may name, but that the program always sets itself.
- mesh: the service mesh and federation through gateways, which this program does not serve;
  accepted and ignored, with a warning.
- ent: parts of the commercial edition of the original; accepted and ignored, with a warning.

Kinds: string, bool, int, uint, float; duration (a string such as "10s"); strings (a list); map (of
strings); durations (a map of durations); object; objects (a list of them); objects-by-name (a map
of them); open (an object with any members) and opens; definition and definitions, which
`registry.agent.definition_reader` reads.

What a core key defaults to is in `registry.agent.config`.
"""

from __future__ import annotations

from typing import NamedTuple

_TABLE = """
[core]
acl object
acl.enabled bool
acl.enable_token_replication bool
acl.policy_ttl duration
acl.role_ttl duration
acl.token_ttl duration
acl.down_policy string
acl.default_policy string
acl.enable_key_list_policy bool
acl.tokens object
acl.tokens.master string
acl.tokens.replication string
acl.tokens.agent_master string
acl.tokens.default string
acl.tokens.agent string
acl.enable_token_persistence bool
addresses object
addresses.dns string
addresses.http string
addresses.https string
advertise_addr string
advertise_addr_ipv4 string
advertise_addr_ipv6 string
advertise_addr_wan string
advertise_addr_wan_ipv4 string
advertise_addr_wan_ipv6 string
autopilot object
autopilot.cleanup_dead_servers bool
autopilot.last_contact_threshold duration
autopilot.max_trailing_logs int
autopilot.min_quorum uint
autopilot.server_stabilization_time duration
bind_addr string
bootstrap bool
bootstrap_expect int
cache object
cache.entry_fetch_max_burst int
cache.entry_fetch_rate float
ca_file string
ca_path string
cert_file string
check definition
check_output_max_size int
check_update_interval duration
checks definitions
client_addr string
dns_config object
dns_config.allow_stale bool
dns_config.a_record_limit int
dns_config.disable_compression bool
dns_config.enable_truncate bool
dns_config.max_stale duration
dns_config.node_ttl duration
dns_config.only_passing bool
dns_config.recursor_timeout duration
dns_config.service_ttl durations
dns_config.udp_answer_limit int
dns_config.enable_additional_node_meta_txt bool
dns_config.soa object
dns_config.soa.refresh uint
dns_config.soa.retry uint
dns_config.soa.expire uint
dns_config.soa.min_ttl uint
dns_config.use_cache bool
dns_config.cache_max_age duration
domain string
alt_domain string
recursors strings
data_dir string
datacenter string
default_query_time duration
disable_anonymous_signature bool
disable_coordinates bool
disable_host_node_id bool
disable_http_unprintable_char_filter bool
disable_keyring_file bool
disable_remote_exec bool
disable_update_check bool
discard_check_output bool
discovery_max_stale duration
enable_agent_tls_for_checks bool
enable_debug bool
enable_script_checks bool
enable_local_script_checks bool
enable_syslog bool
encrypt string
encrypt_verify_incoming bool
encrypt_verify_outgoing bool
gossip_lan object
gossip_lan.gossip_nodes int
gossip_lan.gossip_interval duration
gossip_lan.probe_interval duration
gossip_lan.probe_timeout duration
gossip_lan.suspicion_mult int
gossip_lan.retransmit_mult int
gossip_wan object
gossip_wan.gossip_nodes int
gossip_wan.gossip_interval duration
gossip_wan.probe_interval duration
gossip_wan.probe_timeout duration
gossip_wan.suspicion_mult int
gossip_wan.retransmit_mult int
http_config object
http_config.block_endpoints strings
http_config.allow_write_http_from strings
http_config.response_headers map
http_config.use_cache bool
key_file string
leave_on_terminate bool
limits object
limits.http_max_conns_per_client int
limits.https_handshake_timeout duration
limits.rpc_handshake_timeout duration
limits.rpc_max_burst int
limits.rpc_max_conns_per_client int
limits.rpc_rate float
limits.kv_max_value_size uint
limits.txn_max_req_len uint
log_level string
log_json bool
log_file string
log_rotate_duration duration
log_rotate_bytes int
log_rotate_max_files int
max_query_time duration
node_id string
node_meta map
node_name string
performance object
performance.leave_drain_time duration
performance.raft_multiplier int
performance.rpc_hold_timeout duration
pid_file string
plugins object
plugins.enable strings
plugins.disable strings
plugins.order strings
plugins.settings open
ports object
ports.dns int
ports.http int
ports.https int
ports.serf_lan int
ports.serf_wan int
ports.server int
primary_datacenter string
protocol int
raft_protocol int
raft_snapshot_threshold int
raft_snapshot_interval duration
raft_trailing_logs int
reconnect_timeout duration
reconnect_timeout_wan duration
rejoin_after_leave bool
retry_interval duration
retry_interval_wan duration
retry_join strings
retry_max int
retry_max_wan int
retry_join_wan strings
serf_lan_allowed_cidrs strings
serf_wan_allowed_cidrs strings
serf_lan string
serf_wan string
server bool
server_name string
service definition
services definitions
session_ttl_min duration
skip_leave_on_interrupt bool
start_join strings
start_join_wan strings
syslog_facility string
tls_cipher_suites string
tls_min_version string
tls_prefer_server_cipher_suites bool
tagged_addresses map
telemetry object
telemetry.circonus_api_app string
telemetry.circonus_api_token string
telemetry.circonus_api_url string
telemetry.circonus_broker_id string
telemetry.circonus_broker_select_tag string
telemetry.circonus_check_display_name string
telemetry.circonus_check_force_metric_activation string
telemetry.circonus_check_id string
telemetry.circonus_check_instance_id string
telemetry.circonus_check_search_tag string
telemetry.circonus_check_tags string
telemetry.circonus_submission_interval duration
telemetry.circonus_submission_url string
telemetry.disable_hostname bool
telemetry.dogstatsd_addr string
telemetry.dogstatsd_tags strings
telemetry.filter_default bool
telemetry.prefix_filter strings
telemetry.metrics_prefix string
telemetry.prometheus_retention_time duration
telemetry.statsd_address string
telemetry.statsite_address string
translate_wan_addrs bool
ui bool
ui_content_path string
ui_dir string
unix_sockets object
unix_sockets.group string
unix_sockets.mode string
unix_sockets.user string
verify_incoming bool
verify_incoming_https bool
verify_incoming_rpc bool
verify_outgoing bool
verify_server_hostname bool
watches definitions
snapshot_agent open
[old]
acl_agent_master_token string
acl_agent_token string
acl_datacenter string
acl_default_policy string
acl_down_policy string
acl_enable_key_list_policy bool
acl_master_token string
acl_replication_token string
acl_ttl duration
acl_token string
enable_acl_replication bool
[own]
acl.disabled_ttl duration
connect.test_ca_leaf_root_change_spread duration
acl_disabled_ttl duration
ae_interval duration
check_deregister_interval_min duration
check_reap_interval duration
consul object
consul.coordinate object
consul.coordinate.update_batch_size int
consul.coordinate.update_max_batches int
consul.coordinate.update_period duration
consul.raft object
consul.raft.election_timeout duration
consul.raft.heartbeat_timeout duration
consul.raft.leader_lease_timeout duration
consul.server object
consul.server.health_interval duration
revision string
segment_limit int
segment_name_limit int
sync_coordinate_interval_min duration
sync_coordinate_rate_target float
version string
version_prerelease string
[mesh]
addresses.grpc string
auto_config object
auto_config.enabled bool
auto_config.intro_token string
auto_config.intro_token_file string
auto_config.server_addresses strings
auto_config.dns_sans strings
auto_config.ip_sans strings
auto_config.authorization object
auto_config.authorization.enabled bool
auto_config.authorization.static object
auto_config.authorization.static.claim_assertions strings
auto_config.authorization.static.allow_reuse bool
auto_config.authorization.static.jwt_supported_algs strings
auto_config.authorization.static.bound_audiences strings
auto_config.authorization.static.claim_mappings map
auto_config.authorization.static.list_claim_mappings map
auto_config.authorization.static.oidc_discovery_url string
auto_config.authorization.static.oidc_discovery_ca_cert string
auto_config.authorization.static.jwks_url string
auto_config.authorization.static.jwks_ca_cert string
auto_config.authorization.static.jwt_validation_pub_keys strings
auto_config.authorization.static.bound_issuer string
auto_config.authorization.static.expiration_leeway duration
auto_config.authorization.static.not_before_leeway duration
auto_config.authorization.static.clock_skew_leeway duration
config_entries object
config_entries.bootstrap opens
auto_encrypt object
auto_encrypt.tls bool
auto_encrypt.dns_san strings
auto_encrypt.ip_san strings
auto_encrypt.allow_tls bool
connect object
connect.enabled bool
connect.ca_provider string
connect.ca_config open
connect.enable_mesh_gateway_wan_federation bool
enable_central_service_config bool
ports.grpc int
ports.proxy_min_port int
ports.proxy_max_port int
ports.sidecar_min_port int
ports.sidecar_max_port int
ports.expose_min_port int
ports.expose_max_port int
primary_gateways strings
primary_gateways_interval duration
[ent]
acl.tokens.managed_service_provider objects
acl.tokens.managed_service_provider.accessor_id string
acl.tokens.managed_service_provider.secret_id string
acl.msp_disable_bootstrap bool
autopilot.disable_upgrade_migration bool
autopilot.redundancy_zone_tag string
autopilot.upgrade_version_tag string
dns_config.prefer_namespace bool
audit object
audit.enabled bool
audit.sink objects-by-name
audit.sink.name string
audit.sink.type string
audit.sink.format string
audit.sink.path string
audit.sink.delivery_guarantee string
audit.sink.rotate_bytes int
audit.sink.rotate_duration string
audit.sink.rotate_max_files int
non_voting_server bool
segment string
segments objects
segments.advertise string
segments.bind string
segments.name string
segments.port int
segments.rpc_listener bool
"""


class Key(NamedTuple):
    """One key. `members` are the keys below it, by name."""

    path: str
    kind: str
    use: str  # "core", "old", "own", "mesh", "ent"
    members: dict[str, Key]


def _parse(table: str) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    use = ""
    for line in table.split("\n"):
        if line.startswith("["):
            use = line.strip("[]")
        elif line:
            path, kind = line.split()
            keys[path] = Key(path, kind, use, {})
    for path, key in keys.items():
        above, _, name = path.rpartition(".")
        if above:
            keys[above].members[name] = key
    return keys


#: The published keys by path.
KEYS: dict[str, Key] = _parse(_TABLE)

#: Keys that are ours alone.
OWN_KEYS: dict[str, Key] = {"storage_engine": Key("storage_engine", "string", "core", {})}

#: Published, but refused by the original, which reads `advertise_addr_ipv6` in its place; so do we.
REFUSED = "advertise_addr_wan_ipv6"

#: The whole file, as one object.
ROOT = Key(
    "",
    "object",
    "core",
    {path: key for path, key in (KEYS | OWN_KEYS).items() if "." not in path and path != REFUSED},
)
