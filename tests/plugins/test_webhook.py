"""The webhook in a real server: every write arrives, in order, whatever fails in between."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.testing.command_line import Request, Stub
from registry.testing.process import AgentProcess, wait_until

PACKAGE = Path(__file__).resolve().parents[2] / "plugins" / "registry-webhook"
SECRET = "a secret of the tests"
TARGET = "POST /changes"
WRITES = 120


class Receiver:
    """Takes requests as the README says, and refuses those whose number says so."""

    def __init__(self, stub: Stub) -> None:
        self.url = f"http://{stub.address}/changes"
        self.requests: list[Request] = []
        self.refused = 0
        self.resets = 0
        self.places: list[tuple[int, int]] = []
        self.changes: list[dict[str, Any]] = []
        stub.answers[TARGET] = self.take

    def take(self, request: Request) -> tuple[int, bytes]:
        self.requests.append(request)
        # Three refusals in a row are more than the plugin tries by itself. At the first of them the
        # changes are taken all the same: its answer is what is lost.
        number = len(self.requests) % 9
        if number not in (3, 4):
            self._apply(json.loads(request.body)["Changes"])
        if number in (2, 3, 4):
            self.refused += 1
            return 500, b"not now"
        return 200, b""

    def _apply(self, changes: list[dict[str, Any]]) -> None:
        for change in changes:
            place = (change["Index"], change["Sequence"])
            if change["Kind"] == "reset":
                self.resets += 1
            elif self.places and place <= self.places[-1]:
                continue
            self.places.append(place)
            self.changes.append(change)

    def writes(self) -> list[tuple[str, str]]:
        return [(each["Key"], each["Value"]["Value"]) for each in self.changes if each["Key"]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Stub() as stub:
        yield Receiver(stub)


def test_every_write_arrives_in_order(tmp_path: Path, receiver: Receiver) -> None:
    agent = AgentProcess(tmp_path, arguments=("-server", "-bootstrap", f"-plugin-dir={PACKAGE}"))
    settings = {"url": receiver.url, "secret": SECRET, "kinds": ["kv"], "prefixes": ["in/"]}
    section = {"registry_webhook": {**settings, "batch_max": 9}}
    agent.write_config("webhook.json", {"plugins": {"settings": section}})

    def write(numbers: range) -> None:
        for number in numbers:
            agent.client.put(f"/v1/kv/in/{number % 10}", body=b"%d" % number)
            agent.client.put(f"/v1/kv/out/{number}", body=b"not told")

    with agent:
        wait_until(lambda: receiver.resets == 1, agent.log_tail)
        write(range(WRITES // 3))
        wait_until(lambda: len(receiver.writes()) > WRITES // 6, agent.log_tail)
        agent.kill()
        agent.start()
        write(range(WRITES // 3, WRITES))
        wait_until(
            lambda: len(receiver.writes()) >= WRITES,
            lambda: f"{len(receiver.writes())} of {WRITES}; log:\n{agent.log_tail()}",
        )
        (plugin,) = [
            each
            for each in agent.client.get("/v1/agent/plugins").json()
            if each["Name"] == "registry_webhook"
        ]
    assert [key for key, _ in receiver.writes()] == [f"in/{n % 10}" for n in range(WRITES)]
    assert [base64_number(value) for _, value in receiver.writes()] == list(range(WRITES))
    assert receiver.places == sorted(set(receiver.places))
    assert receiver.resets == 1, "the place was not kept"
    assert receiver.refused > 3
    assert len({request.headers["x-registry-signature"] for request in receiver.requests}) > 5
    assert all(is_genuine(request) for request in receiver.requests)
    assert plugin["Hooks"] == [
        "registry_settings",
        "registry_start",
        "registry_stop",
        "registry_settings_changed",
        "registry_change_sinks",
    ]


def base64_number(value: str) -> int:
    return int(b64decode(value))


def is_genuine(request: Request) -> bool:
    """As the README shows it, apart from the plugin's own code."""
    timestamp = request.headers["x-registry-timestamp"]
    signed = timestamp.encode() + b"." + request.body
    expected = "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    fresh = abs(time.time() - int(timestamp)) <= 300
    return fresh and hmac.compare_digest(expected, request.headers["x-registry-signature"])


def test_it_begins_with_the_reload_that_configures_it(tmp_path: Path, receiver: Receiver) -> None:
    agent = AgentProcess(tmp_path, arguments=("-dev", f"-plugin-dir={PACKAGE}"))
    with agent:
        agent.client.put("/v1/kv/before", body=b"1")
        settings = {"url": receiver.url, "secret": SECRET, "kinds": ["kv"]}
        section = {"plugins": {"settings": {"registry_webhook": settings}}}
        agent.write_config("webhook.json", section)
        wait_until(lambda: {"before"} <= {key for key, _ in receiver.writes()}, "what is there")
        agent.client.put("/v1/kv/after", body=b"2")
        wait_until(lambda: {"after"} <= {key for key, _ in receiver.writes()}, "what comes")
        shown = agent.client.get("/v1/agent/plugins").json()
        (report,) = [each for each in shown if each["Name"] == "registry_webhook"]
        assert report["Settings"]["secret"] == "hidden"
        assert SECRET not in agent.client.get("/v1/agent/self").text
