"""Settings of both layers that belong together, for each kind of pool.

Source: gossip sheet, sections 12.1 and 14.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.membership.config import SwimConfig
from registry.membership.serf_config import SerfConfig


@dataclass(frozen=True, slots=True)
class Profile:
    swim: SwimConfig
    serf: SerfConfig


#: Agents of one datacenter; servers of several; one agent that is tried out.
CONSUL_LAN = Profile(SwimConfig.consul_lan(), SerfConfig())
CONSUL_WAN = Profile(SwimConfig.consul_wan(), SerfConfig())
CONSUL_DEV = Profile(SwimConfig.consul_dev(), SerfConfig())

#: What the Serf agent uses in a network, between networks and on one machine.
SERF_LAN = Profile(SwimConfig.lan(), SerfConfig.of_serf_agent())
SERF_WAN = Profile(SwimConfig.wan(), SerfConfig.of_serf_agent())
SERF_LOCAL = Profile(SwimConfig.local(), SerfConfig.of_serf_agent())
