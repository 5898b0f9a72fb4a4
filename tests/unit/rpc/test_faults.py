"""Errors keep type, text and fields on their way; unknown ones become what is known of them."""

from __future__ import annotations

import msgspec
import pytest

from registry import errors
from registry.rpc.faults import Fault, error_of, fault_of

ERRORS = [
    errors.NoLeader(),
    errors.NotLeader("server-2"),
    errors.NotLeader(None),
    errors.SessionInvalid("abc"),
    errors.Overloaded("busy"),
    errors.OutcomeUnknown("outcome unknown: leadership was lost"),
    errors.Unreachable("127.0.0.1:1", "refused"),
    errors.ConfigError("wrong", file="a.json", field="ports"),
    errors.PluginError("history", "registry_http_routes", "boom"),
    errors.RegistryError("plain"),
    errors.TooLarge(""),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_over_as_it_is(error: errors.RegistryError) -> None:
    raw = msgspec.msgpack.encode(fault_of(error))
    there = error_of(msgspec.msgpack.decode(raw, type=Fault))
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)


def test_every_error_of_ours_can_travel() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.RegistryError)
    }
    for kind in kinds:
        names = tuple(each.__name__ for each in kind.__mro__[:-2])
        assert type(error_of(Fault(names, "text"))) is kind


def test_an_error_of_a_newer_version_becomes_the_nearest_known_one() -> None:
    fault = Fault(("LicenceExpired", "Rejected", "RegistryError"), "expired", {"since": 3})
    error = error_of(fault)
    assert type(error) is errors.Rejected
    assert str(error) == "expired"


def test_a_name_that_is_no_error_of_ours_is_not_raised() -> None:
    assert type(error_of(Fault(("SystemExit",), "stop"))) is errors.RegistryError


def test_fields_that_are_no_plain_data_stay_behind() -> None:
    error = errors.Rejected("no")
    vars(error).update(handle=object(), count=1 << 70)
    assert fault_of(error).fields == {}


def test_undecodable_bytes_in_a_text_do_not_keep_it_from_being_told() -> None:
    fault = fault_of(errors.SessionInvalid("a\udcff"))
    there = error_of(msgspec.msgpack.decode(msgspec.msgpack.encode(fault), type=Fault))
    assert str(there) == 'invalid session "a?"'
