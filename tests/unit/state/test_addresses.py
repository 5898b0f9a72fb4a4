"""Whose address is this."""

from __future__ import annotations

from registry.state.addresses import AddressOwners, FindAddress
from registry.state.catalog_commands import Register
from registry.state.catalog_records import Service
from registry.testing.state import Replica


def test_owners_of_an_address() -> None:
    replica = Replica()
    own = Service(id="own", name="own", address="10.0.0.1")
    plain = Service(id="plain", name="plain", meta={"mentions": "10.0.0.1"})
    for name, address in (("b", "10.0.0.1"), ("a", "10.0.0.1"), ("c", "10.0.0.11")):
        replica.apply(Register(node=name, address=address))
    replica.apply(Register(node="c", address="10.0.0.11", service=own))
    replica.apply(Register(node="c", address="10.0.0.11", service=plain))
    assert replica.ask(FindAddress(address="10.0.0.1")) == AddressOwners(["a", "b"], ["own"])
    assert replica.ask(FindAddress(address="10.0.0.2")) == AddressOwners([], [])
    assert replica.index_of(FindAddress(address="10.0.0.1")) == replica.index
