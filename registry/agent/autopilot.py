"""What the configuration says of autopilot: it holds until an operator sets something else."""

from __future__ import annotations

from registry.agent.config import AgentConfig
from registry.state.operator import AutopilotSettings


def configured_autopilot(config: AgentConfig) -> AutopilotSettings:
    found = config.autopilot
    return AutopilotSettings(
        cleanup_dead_servers=found.cleanup_dead_servers,
        last_contact_threshold_ns=found.last_contact_threshold_ns,
        max_trailing_logs=found.max_trailing_logs,
        min_quorum=found.min_quorum,
        server_stabilization_time_ns=found.server_stabilization_time_ns,
    )
