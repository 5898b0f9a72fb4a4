"""The agent's settings that its services and checks depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.agent.definitions import MINUTE, SECOND
from registry.agent.http_clients import ClientTls

if TYPE_CHECKING:
    from registry.agent.config import AgentConfig


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """The agent's settings that services and checks depend on."""

    scripts_from_files: bool = False
    scripts_from_api: bool = False
    output_bytes_max: int = 4096
    discard_output: bool = False
    update_interval_ns: int = 5 * MINUTE
    deregister_after_min_ns: int = MINUTE
    reap_interval_ns: int = 30 * SECOND
    tls: ClientTls | None = None

    @classmethod
    def from_config(cls, config: AgentConfig) -> LocalSettings:
        tls = ClientTls(config.ca_file, config.ca_path, config.cert_file, config.key_file)
        return cls(
            scripts_from_files=config.enable_local_script_checks or config.enable_script_checks,
            scripts_from_api=config.enable_script_checks,
            output_bytes_max=config.check_output_max_size,
            discard_output=config.discard_check_output,
            update_interval_ns=config.check_update_interval_ns,
            deregister_after_min_ns=config.check_deregister_interval_min_ns,
            reap_interval_ns=config.check_reap_interval_ns,
            tls=tls if config.enable_agent_tls_for_checks else None,
        )


#: The settings as they are now: a reload replaces them.
SettingsInForce = Callable[[], LocalSettings]
