"""What a receiver gets, and what becomes of a delivery that it does not take."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import registry_webhook
from registry_webhook import sending
from registry_webhook.sending import DeliveryFailed, Sender, Webhook
from registry_webhook.settings import Settings
from registry_webhook.signing import sign, verify

from registry.hooks import Change, Origin, PlaceLost
from registry.testing.command_line import Request, Stub
from registry.testing.ports import free_ports

SECRET = "0123456789abcdef"
TARGET = "POST /changes"


@pytest.fixture
def receiver() -> Iterator[Stub]:
    with Stub() as stub:
        stub.answers[TARGET] = (204, b"")
        yield stub


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PAUSE_S", 0.001)


def settings(receiver: Stub, **more: Any) -> Settings:
    given = {"url": f"http://{receiver.address}/changes?key=hidden", "secret": SECRET, **more}
    return msgspec.convert(given, Settings, strict=True)


@pytest.fixture
async def sender(receiver: Stub) -> AsyncIterator[Sender]:
    sender = Sender(settings(receiver, batch_max=3), "n1", "dc1")
    yield sender
    await sender.close()


def change(index: int, key: str = "a", kind: str = "kv", sequence: int = 0, **more: Any) -> Change:
    return Change(index=index, sequence=sequence, time_ms=5, kind=kind, key=key, **more)


def told(request: Request) -> list[tuple[int, int]]:
    return [(each["Index"], each["Sequence"]) for each in json.loads(request.body)["Changes"]]


async def test_a_request(receiver: Stub) -> None:
    sender = Sender(settings(receiver, headers={"X-Team": "ops"}), "n1", "dc1")
    value = {"Value": b"\x00\x01", "Flags": 3, "Session": ""}
    origin = Origin("10.0.0.1", "because")
    await sender.send(
        [change(7, "a/b", value=value, origin=origin), change(8, "bad\udcff", sequence=2)]
    )
    await sender.close()
    (request,) = receiver.requests
    assert json.loads(request.body) == {
        "Datacenter": "dc1",
        "Node": "n1",
        "Changes": [
            {
                "Index": 7,
                "Sequence": 0,
                "TimeMs": 5,
                "Kind": "kv",
                "Key": "a/b",
                "Value": {"Value": "AAE=", "Flags": 3, "Session": ""},
                "Origin": {"Client": "10.0.0.1", "Reason": "because"},
            },
            {
                "Index": 8,
                "Sequence": 2,
                "TimeMs": 5,
                "Kind": "kv",
                "Key": "bad\ufffd",
                "Value": None,
                "KeyBytes": "YmFk/w==",
            },
        ],
    }
    headers = request.headers
    assert (headers["content-type"], headers["x-team"]) == ("application/json", "ops")
    timestamp, signature = headers["x-registry-timestamp"], headers["x-registry-signature"]
    assert verify(SECRET, timestamp, signature, request.body, time.time())


def test_signatures() -> None:
    # As `openssl dgst -sha256 -hmac 0123456789abcdef` says of `1700000000.{"a":1}`.
    signature = "v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23"
    body, now = b'{"a":1}', 1_700_000_000
    assert sign(SECRET, now, body) == signature
    assert verify(SECRET, str(now), signature, body, now + 299.0)
    assert not verify(SECRET, str(now), signature, body, now + 301.0)
    assert not verify(SECRET, str(now), signature, body, now - 301.0)
    assert not verify(SECRET, str(now + 1), signature, body, now)
    assert not verify(SECRET, str(now), signature, body + b" ", now)
    assert not verify("another secret..", str(now), signature, body, now)
    assert not verify(SECRET, "soon", signature, body, now)
    assert not verify(SECRET, str(now), "v1=ü", body, now)


async def test_batches_are_in_order_and_bounded(sender: Sender, receiver: Stub) -> None:
    await sender.send([change(index) for index in range(1, 8)])
    found = [told(request) for request in receiver.requests]
    assert found == [[(1, 0), (2, 0), (3, 0)], [(4, 0), (5, 0), (6, 0)], [(7, 0)]]


async def test_bodies_are_bounded_but_for_a_single_change(sender: Sender, receiver: Stub) -> None:
    large = {"Value": bytes(600_000)}  # 800 kB in base64
    await sender.send([change(1), change(2, value=large), change(3, value=large)])
    assert [told(request) for request in receiver.requests] == [[(1, 0), (2, 0)], [(3, 0)]]
    await sender.send([change(4, value={"Value": bytes(2_000_000)}), change(5)])
    assert [told(request) for request in receiver.requests][2:] == [[(4, 0)], [(5, 0)]]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ["", "a/1", "b/1", "n", "n/web"]),
        ({"prefixes": ["b/", "c"]}, ["", "b/1", "n", "n/web"]),
        ({"kinds": ["service"]}, ["", "n/web"]),
        ({"kinds": ["kv"], "prefixes": ["a/"]}, ["", "a/1"]),
        ({"kinds": ["node"], "prefixes": ["a/"]}, ["", "n"]),
    ],
    ids=["all", "prefixes", "kinds", "both", "prefixes of what is not told"],
)
async def test_what_is_told(receiver: Stub, more: dict[str, Any], expected: list[str]) -> None:
    sender = Sender(settings(receiver, **more), "n1", "dc1")
    kinds = [("reset", ""), ("kv", "a/1"), ("kv", "b/1"), ("node", "n"), ("service", "n/web")]
    await sender.send(
        [change(9, key, kind, sequence) for sequence, (kind, key) in enumerate(kinds)]
    )
    await sender.close()
    found = [each["Key"] for r in receiver.requests for each in json.loads(r.body)["Changes"]]
    assert found == expected


async def test_nothing_wanted_is_no_request(receiver: Stub) -> None:
    sender = Sender(settings(receiver, kinds=["node"]), "n1", "dc1")
    await sender.send([change(1)])
    await sender.close()
    assert receiver.requests == []


async def test_a_hiccup_is_tried_again_at_once(sender: Sender, receiver: Stub) -> None:
    receiver.answers[TARGET] = lambda _: (200 if len(receiver.requests) == 3 else 503, b"busy")
    await sender.send([change(1)])
    assert [told(request) for request in receiver.requests] == [[(1, 0)]] * 3


@pytest.mark.parametrize(
    ("status", "requests"), [(500, 3), (429, 3), (400, 1), (401, 1), (302, 1)], ids=str
)
async def test_a_refusal_is_raised_without_secrets(
    sender: Sender, receiver: Stub, status: int, requests: int
) -> None:
    receiver.answers[TARGET] = (status, b"not\n today" + b"!" * 100_000)
    with pytest.raises(DeliveryFailed) as caught:
        await sender.send([change(1)])
    place = f"http://{receiver.address}/changes"
    assert str(caught.value).startswith(f"{place} answered {status} (not today!!!")
    assert len(str(caught.value)) < 300
    assert "hidden" not in str(caught.value)
    assert len(receiver.requests) == requests


async def test_what_was_taken_is_not_sent_again(sender: Sender, receiver: Stub) -> None:
    batch = [change(index) for index in range(1, 6)]
    receiver.answers[TARGET] = lambda _: (200 if len(receiver.requests) == 1 else 500, b"")
    with pytest.raises(DeliveryFailed):
        await sender.send(batch)
    receiver.requests.clear()
    receiver.answers[TARGET] = (200, b"")
    await sender.send(batch)
    assert [told(request) for request in receiver.requests] == [[(4, 0), (5, 0)]]
    # The whole state, which begins with a reset, is told whatever was told before.
    await sender.send([change(4, "", "reset")])
    await sender.send([change(4, sequence=2)])
    assert [told(request) for request in receiver.requests][1:] == [[(4, 0)], [(4, 2)]]


async def test_a_receiver_that_lost_its_state_asks_for_all(sender: Sender, receiver: Stub) -> None:
    receiver.answers[TARGET] = (410, b"")
    with pytest.raises(PlaceLost, match="wants to be told everything"):
        await sender.send([change(1)])


async def test_nobody_there() -> None:
    (port,) = free_ports(1)
    sender = Sender(Settings(url=f"http://127.0.0.1:{port}/", secret=SECRET), "n1", "dc1")
    with pytest.raises(DeliveryFailed, match=f"^http://127.0.0.1:{port}/: "):
        await sender.send([change(1)])
    await sender.close()


async def test_a_receiver_that_hangs(receiver: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(_: Request) -> tuple[int, bytes]:
        release.wait(20)
        return 200, b""

    receiver.answers[TARGET] = hang
    sender = Sender(settings(receiver, timeout_s=0.05), "n1", "dc1")
    with pytest.raises(DeliveryFailed, match=r"no answer within 0\.05 s|Timeout"):
        await sender.send([change(1)])
    monkeypatch.setattr(sending, "DELIVERY_LIMIT_S", 0.05)
    slow = Sender(settings(receiver), "n1", "dc1")
    with pytest.raises(DeliveryFailed, match=r"0 of 1 changes were taken within 0\.05 s"):
        await slow.send([change(1)])
    release.set()
    await sender.close()
    await slow.close()


async def test_changes_wait_for_the_start_and_follow_the_settings(
    receiver: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = Webhook()
    monkeypatch.setattr(sending, "DELIVERY_LIMIT_S", 0.01)
    with pytest.raises(DeliveryFailed, match="not started"):
        await webhook.deliver([change(1)])
    monkeypatch.setattr(sending, "DELIVERY_LIMIT_S", 50)
    context: Any = SimpleNamespace(
        settings=settings(receiver), node_name="n1", datacenter="dc1", logger=sending.logger
    )
    await webhook.configure(context)
    await webhook.deliver([change(1)])
    receiver.answers["POST /elsewhere"] = (200, b"")
    context.settings = Settings(url=f"http://{receiver.address}/elsewhere", secret=SECRET)
    await webhook.configure(context)
    await webhook.deliver([change(1)])
    await webhook.stop()
    assert [request.path for request in receiver.requests] == ["/changes?key=hidden", "/elsewhere"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"secret": SECRET}, "missing required field `url`"),
        ({"url": "http://h/", "secret": "short"}, "length >= 16"),
        ({"url": "ftp://h/"}, r"url must be http://… or https://…"),
        ({"url": "http:///path"}, r"url must be http://… or https://…"),
        ({"url": "http://h/", "kinds": ["keys"]}, "Invalid enum value 'keys'"),
        ({"url": "http://h/", "timeout_s": 31}, "<= 30"),
        ({"url": "http://h/", "batch_max": 0}, ">= 1"),
        ({"url": "http://h/", "headers": {"X-Registry-Signature": "x"}}, "set by the plugin"),
    ],
    ids=["no url", "short secret", "scheme", "host", "kind", "timeout", "batch", "header"],
)
def test_refused_settings(given: dict[str, Any], reason: str) -> None:
    kind = registry_webhook.registry_settings()
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert({"secret": SECRET, **given}, kind, strict=True)
