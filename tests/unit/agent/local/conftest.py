"""The node's own services and checks, without the agent around them."""

from __future__ import annotations

import pytest

from registry.agent.local.state import LocalState
from registry.testing.local_agent import make_local
from registry.testing.manual_clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def local(clock: ManualClock) -> LocalState:
    return make_local(clock)
