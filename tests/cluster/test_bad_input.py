"""Nonsense on a real agent's HTTP port: it is answered or dropped, and the agent serves on.

The random requests are drawn from a seed: `REGISTRY_BAD_INPUT_SEED` replays a run, and
`REGISTRY_BAD_INPUT_ROUNDS` makes it longer.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from registry.http import openapi
from registry.http.app import FAMILIES
from registry.http.operations import JSON_MEDIA, matches
from registry.http.routing import Router
from registry.testing.process import AgentProcess, wait_until
from registry.testing.seeds import seed_from

ROUNDS = int(os.environ.get("REGISTRY_BAD_INPUT_ROUNDS", "600"))
SEED = seed_from("REGISTRY_BAD_INPUT_SEED")

PATIENCE_S = 20.0
HOST = b"Host: x\r\n"
CLOSE = b"Connection: close\r\n"
VALUE_BYTES_MAX = 512 * 1024


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent")
    with AgentProcess(root, arguments=("-dev", "-enable-script-checks")) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(agent: AgentProcess) -> Iterator[None]:
    """After each test the agent still serves what it was given before, and logged no traceback."""
    assert agent.client.kv_put("kept", b"here")
    yield
    assert agent.process is not None
    assert agent.process.poll() is None, agent.log_tail()
    assert agent.client.kv_get("kept") == b"here"
    assert "Traceback" not in agent.log_path.read_text(errors="replace")


@dataclass(frozen=True)
class Answer:
    """All that came on one connection, and whether the server closed it in time."""

    raw: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.raw)]

    @property
    def status(self) -> int:
        """The status of the last answer, 0 without one."""
        return self.statuses[-1] if self.statuses else 0

    @property
    def text(self) -> str:
        return self.raw.rpartition(b"\r\n\r\n")[2].decode(errors="replace")


def connect(agent: AgentProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", agent.ports["http"]), timeout=PATIENCE_S)


def exchange(agent: AgentProcess, data: bytes, *, half_close: bool = False) -> Answer:
    """Send bytes on a connection of their own and read until the server closes it."""
    with connect(agent) as sock:
        received = bytearray()
        try:
            # A server may stop reading what it has refused; what it said is still there to read.
            with suppress(ConnectionResetError, BrokenPipeError):
                sock.sendall(data)
                if half_close:
                    sock.shutdown(socket.SHUT_WR)
            while part := sock.recv(1 << 16):
                received += part
        except ConnectionResetError:
            return Answer(bytes(received), True)
        except TimeoutError:
            return Answer(bytes(received), False)
        return Answer(bytes(received), True)


# Random requests

PATHS = (
    "kv/a", "kv/a?recurse", "kv/a?keys", "txn", "session/create", "session/info/x",
    "session/renew/x", "session/destroy/x", "session/node/a", "session/list", "catalog/register",
    "catalog/deregister", "catalog/nodes", "catalog/services", "catalog/service/a",
    "catalog/node/a", "catalog/node-services/a", "catalog/datacenters", "health/service/a",
    "health/node/a", "health/checks/a", "health/state/any", "query", "query/x", "query/x/execute",
    "query/x/explain", "event/fire/a", "event/list", "coordinate/update", "coordinate/nodes",
    "operator/raft/configuration", "operator/autopilot/configuration", "operator/keyring",
    "agent/service/register", "agent/service/deregister/a", "agent/service/maintenance/a",
    "agent/maintenance", "agent/check/register", "agent/check/deregister/a", "agent/check/pass/a",
    "agent/check/update/a", "agent/services", "agent/service/a", "agent/checks",
    "agent/health/service/id/a", "agent/health/service/name/a", "agent/self", "agent/members",
    "agent/metrics", "agent/token/default", "config", "config/service-defaults/a", "acl/tokens",
    "internal/ui/services", "status/leader", "connect/ca/roots", "nothing",
)  # fmt: skip
MEMBERS = (
    "Name", "ID", "Node", "Address", "Service", "Check", "Checks", "Port", "Tags", "Meta", "TTL",
    "Interval", "HTTP", "TCP", "Args", "Status", "Output", "Kind", "KV", "Verb", "Key", "Value",
    "Flags", "Index", "Session", "NodeMeta", "TaggedAddresses", "Weights", "Passing", "Proxy",
    "Template", "Type", "Regexp", "Coord", "Vec", "LockDelay", "Behavior", "NodeChecks",
    "ServiceChecks", "Definition", "Header", "Timeout", "Failover", "NearestN", "DNS", "Config",
    "CheckID", "ServiceID", "AliasService", "DeregisterCriticalServiceAfter", "OutputMaxSize",
)  # fmt: skip
TEXTS = (
    "", "a", "web", "10s", "-1s", "passing", "critical", "set", "lock", "get-tree", "delete",
    "service-defaults", "name_prefix_match", "${match(1)}", "(", "\0", "\ud800", "x" * 300,
    "127.0.0.1", "::", "release", "11111111-1111-1111-1111-111111111111", "YQ==", "9" * 30,
    "serfHealth", "http://[", "http://127.0.0.1:1/",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1.5, 1e308, -0.0)
PARAMETERS = (
    "index", "wait", "cas", "flags", "acquire", "release", "recurse", "keys", "separator", "raw",
    "dc", "stale", "consistent", "max_stale", "cached", "filter", "near", "node-meta", "tag",
    "passing", "pretty", "ns", "token", "enable", "reason", "note", "format", "hash", "limit",
    "name", "node", "service", "segment", "relay-factor",
)  # fmt: skip
ARGUMENTS = (
    "", "0", "1", "-1", "18446744073709551616", "x", "true", "0s", "%00", "%ff", "%ed%a0%80",
    "a%3db", "a:b", "ID%20==%20a", "(" * 200, "%22", "_agent", "text", "not%20" * 50 + "a==b",
    "ID%20matches%20%22(a%2B)%2B$%22", "11111111-1111-1111-1111-111111111111",
)  # fmt: skip
HEADERS = (
    b"Accept-Encoding: \xff", b"Cache-Control: max-age=x", b"X-Consul-Token: \xff\xfe",
    b"Authorization: Bearer", b"X-Consul-Namespace: a", b"Expect: 100-continue",
    b"Upgrade: websocket", b"Content-Type: \x01", b"Range: bytes=0-",
)  # fmt: skip


def random_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(5 if depth > 4 else 8)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(NUMBERS) if kind == 2 else rng.choice((True, False))
    if kind == 4:
        return None
    if kind == 5:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return random_object(rng, depth + 1)


def random_object(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    return {rng.choice(MEMBERS): random_value(rng, depth) for _ in range(rng.randrange(7))}


def random_operation(rng: random.Random) -> dict[str, Any]:
    inner = {"Key": "a", "Verb": rng.choice(TEXTS), "Value": rng.choice(TEXTS)}
    kind = rng.choice(("KV", "Node", "Service", "Check"))
    return {kind: inner | {rng.choice(MEMBERS): random_object(rng, 2)}}


def random_body(rng: random.Random) -> bytes:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return rng.choice((b"[", b'{"a":')) * rng.choice((10, 5000, 50_000))
    value = [random_operation(rng)] if kind == 2 else random_object(rng)
    body = json.dumps(value).encode()
    if kind == 3:  # damaged in one place
        place = rng.randrange(len(body) + 1)
        body = body[:place] + rng.randbytes(1) + body[place + rng.randrange(2) :]
    return body


def random_request(rng: random.Random) -> bytes:
    path = "/v1/" + rng.choice(PATHS)
    names = [rng.choice(PARAMETERS) for _ in range(rng.randrange(4))]
    query = [f"{name}={rng.choice(ARGUMENTS)}" for name in names]
    if "index" in names:
        query.append("wait=1ms")  # of two, the first counts
        query.reverse()
    if query:
        path += ("&" if "?" in path else "?") + "&".join(query)
    method = rng.choice(("GET", "GET", "PUT", "PUT", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"))
    body = random_body(rng) if method in ("PUT", "POST", "PATCH") else b""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", b"Connection: close"]
    lines.append(b"Content-Length: %d" % len(body))
    if rng.random() < 0.1:
        lines.append(rng.choice(HEADERS))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_random_requests(agent: AgentProcess) -> None:
    rng = random.Random(SEED)
    for number in range(ROUNDS):
        request = random_request(rng)
        answer = exchange(agent, request)
        told = f"seed {SEED}, request {number}: {request[:300]!r}\n{answer.raw[:300]!r}"
        assert answer.closed, told
        assert 200 <= answer.status <= 500, told
        assert "internal error" not in answer.text.lower(), told


def test_random_bytes(agent: AgentProcess) -> None:
    rng = random.Random(SEED)
    for number in range(60):
        data = rng.randbytes(rng.randrange(1, 3000))
        if number % 2:
            data = b"GET /v1/kv/a HTTP/1.1\r\n" + data
        answer = exchange(agent, data, half_close=True)
        assert answer.closed, f"seed {SEED}, number {number}"
        assert answer.status in (0, 400), f"seed {SEED}, number {number}: {answer.raw!r}"


@pytest.mark.parametrize("name", ["acquire", "release", "token", "separator", "dc"])
def test_a_parameter_that_is_no_text(agent: AgentProcess, name: str) -> None:
    request = f"PUT /v1/kv/a?{name}=%ff HTTP/1.1\r\nContent-Length: 0\r\n".encode()
    answer = exchange(agent, request + HOST + CLOSE + b"\r\n")
    assert answer.closed
    assert "internal error" not in answer.text


def test_a_reason_for_maintenance_that_is_no_text(agent: AgentProcess) -> None:
    """It is written to the catalog in the background, where no request answers for it."""
    client = agent.client
    # A random request may have begun maintenance with a reason of its own, which would be kept.
    client.request("PUT", "/v1/agent/maintenance?enable=false")
    client.request("PUT", "/v1/agent/maintenance?enable=true&reason=%ff")
    assert client.get("/v1/agent/checks").json()["_node_maintenance"]["Notes"] == "\ufffd"
    client.request("PUT", "/v1/agent/maintenance?enable=false")


# A body of nonsense to every operation there is, by the table that serves them


#: What follows the patterns: what would be called is on this host.
PATH_ARGUMENTS = {"/v1/agent/join/": "127.0.0.1:1"}

#: After it there is no agent; and a stream without end.
NOT_CALLED = {"/v1/agent/leave", "/v1/agent/monitor"}

ENDPOINTS = {
    endpoint.pattern: endpoint
    for endpoint in Router(family.routes for family in FAMILIES).endpoints()
    if endpoint.pattern not in NOT_CALLED
}

FORMS = {
    (method, pattern): [
        form for _, its_method, form in openapi.forms_of([endpoint]) if its_method == method
    ]
    for pattern, endpoint in ENDPOINTS.items()
    for method in endpoint.handlers
}


def nonsense(rng: random.Random) -> list[bytes]:
    """Bodies that are no JSON, each in another way."""
    return [
        rng.randbytes(1),
        b"\xff" + rng.randbytes(200),
        b"{\0" + rng.randbytes(50),  # the zero: {} with anything behind it would be JSON enough
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'"' + bytes(rng.choices(range(0x20), k=20)),
        b"\x1f\x8b\x08\x00" + rng.randbytes(100),
        b"\x00" * 5000,
    ]


@pytest.mark.parametrize("pattern", sorted(ENDPOINTS))
def test_a_body_of_nonsense(agent: AgentProcess, pattern: str) -> None:
    """It is refused in words, or not looked at, or stored where any bytes may be."""
    rng = random.Random(f"{SEED} {pattern}")
    argument = PATH_ARGUMENTS.get(pattern, "a") if pattern.endswith("/") and pattern != "/" else ""
    for method in ENDPOINTS[pattern].handlers:
        forms = FORMS[method, pattern]
        refusals = [refusal for form in forms for refusal in form.all_refusals()]
        takes_json = any(form.body and form.body.media == JSON_MEDIA for form in forms)
        for body in nonsense(rng):
            head = f"{method} {pattern}{argument} HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
            answer = exchange(agent, head.encode() + HOST + CLOSE + b"\r\n" + body)
            told = f"seed {SEED}: {head!r} {body[:80]!r}\n{answer.raw[:500]!r}"
            assert answer.closed, told
            if takes_json:
                assert 400 <= answer.status < 500, told
                assert answer.text, told
            elif answer.status >= 500:
                assert matches(refusals, answer.status, answer.text), told
            else:
                assert 200 <= answer.status < 500, told


WITH_BODY = sorted(
    key for key, forms in FORMS.items() if any(form.body is not None for form in forms)
)


@pytest.mark.parametrize(("method", "pattern"), WITH_BODY)
def test_a_body_that_is_too_large(agent: AgentProcess, method: str, pattern: str) -> None:
    """It is refused with both sizes before it is sent."""
    argument = "a" if pattern.endswith("/") else ""
    head = f"{method} {pattern}{argument} HTTP/1.1\r\nContent-Length: 1000000000\r\n"
    answer = exchange(agent, head.encode() + HOST + CLOSE + b"\r\n")
    assert answer.closed
    if answer.status != 401:
        assert answer.status == 413
        told = re.search(
            r"Request body\(1000000000 bytes\) too large, max size: (\d+)", answer.text
        )
        assert told, answer.text
        assert 512 * 1024 <= int(told[1]) <= 512 << 20


#: Settings that a check is taken with and that make no sense once it runs.
ODD_CHECKS: tuple[dict[str, Any], ...] = (
    {"HTTP": "::"},
    {"HTTP": "http://["},
    {"HTTP": "ftp://127.0.0.1:1/"},
    {"HTTP": "http://\n/"},
    {"HTTP": "http://\u2028.\u00e9/"},
    {"HTTP": "http://127.0.0.1:999999/"},
    {"HTTP": "http://127.0.0.1:1/", "Method": "A B"},
    {"HTTP": "http://127.0.0.1:1/", "Method": "\u00e9"},
    {"HTTP": "http://127.0.0.1:1/", "Header": {"a b\n": ["c\n"]}},
    {"HTTP": "http://127.0.0.1:1/", "Header": {"": ["\u00e9"]}},
    {"HTTP": "http://127.0.0.1:1/", "Header": {"Content-Length": ["x"]}, "Body": "y"},
    {"HTTP": "http://127.0.0.1:1/", "Timeout": "-1s"},
    {"TCP": "x y z"},
    {"TCP": "a\0b:1"},
    {"TCP": "." * 300 + ":1"},
    {"TCP": "127.0.0.1:99999999"},
    {"GRPC": "[[["},
    {"GRPC": "127.0.0.1:1/\0"},
)


def test_checks_that_cannot_be_made_out(agent: AgentProcess) -> None:
    """They are critical and say why; the log has no tracebacks of them (`unharmed`)."""
    names = [f"odd-{number}" for number in range(len(ODD_CHECKS))]
    for name, settings in zip(names, ODD_CHECKS, strict=True):
        check = {"ID": name, "Name": name, "Interval": "1s", **settings}
        agent.client.put("/v1/agent/check/register", json_body=check)

    def silent() -> list[str]:
        checks = agent.client.get("/v1/agent/checks").json()
        return [name for name in names if not checks[name]["Output"]]

    wait_until(lambda: not silent(), lambda: f"an output of {silent()}")
    checks = agent.client.get("/v1/agent/checks").json()
    assert {checks[name]["Status"] for name in names} == {"critical"}
    for name in names:
        agent.client.put(f"/v1/agent/check/deregister/{name}")


# The protocol


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: -5\r\n\r\nabc", 400, id="length"),
        pytest.param(
            b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            400,
            id="two lengths",
        ),
        pytest.param(
            b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n",
            400,
            id="length and chunks",
        ),
        pytest.param(
            b"PUT /v1/kv/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
            400,
            id="chunk size",
        ),
        pytest.param(
            b"PUT /v1/kv/a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            400,
            id="chunk beyond every size",
        ),
        pytest.param(
            b"PUT /v1/kv/a HTTP/1.1\r\n" + CLOSE + b"Content-Length: 99999999999\r\n\r\nabc",
            413,
            id="too long",
        ),
        pytest.param(b"GET /v1/kv/a HTTP/9.9\r\n\r\n", 400, id="version"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1" + b"x" * 160, 400, id="TLS"),
        pytest.param(b"GET /v1/kv/a HTTP/1.1\r\nX: a\0b\r\n\r\n", 400, id="zero byte"),
        pytest.param(b"GET /v1/kv/a HTTP/1.1\r\nX: " + b"y" * 2_000_000, 431, id="giant header"),
        pytest.param(b"GET /v1/kv/" + b"y" * 2_000_000, 431, id="giant path"),
        pytest.param(
            b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", 0, id="half a body"
        ),
        pytest.param(b"GET /v1/st", 0, id="half a head"),
        pytest.param(b"", 0, id="nothing"),
    ],
)
def test_requests_that_break_the_protocol(agent: AgentProcess, data: bytes, status: int) -> None:
    answer = exchange(agent, data, half_close=not status)
    assert answer.closed
    assert answer.status == status


def test_a_chunked_value_is_held_to_the_same_limit(agent: AgentProcess) -> None:
    def put(size: int) -> Answer:
        head = b"PUT /v1/kv/chunked HTTP/1.1\r\n" + HOST + CLOSE
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"v" * size)
        return exchange(agent, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert put(VALUE_BYTES_MAX).status == 200
    assert put(VALUE_BYTES_MAX + 1).status == 413
    assert agent.client.kv_get("chunked") == b"v" * VALUE_BYTES_MAX


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_a_giant_filter_holds_up_nobody(agent: AgentProcess, size: int) -> None:
    expression = b"(" * size + b"Node%20==%20a"
    request = b"GET /v1/catalog/nodes?filter=" + expression + b" HTTP/1.1\r\n" + HOST + CLOSE
    started = time.monotonic()
    answer = exchange(agent, request + b"\r\n")
    assert answer.status == 400
    assert answer.text.startswith("Bad request: the filter expression is too large: longer than")
    assert time.monotonic() - started < 5


def test_pipelined_requests_are_answered_in_order(agent: AgentProcess) -> None:
    requests = []
    for number in range(100):
        value = b"%03d" % number
        requests.append(
            b"PUT /v1/kv/pipe HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n" + value
        )
        requests.append(b"GET /v1/kv/pipe?raw HTTP/1.1\r\n" + HOST + b"\r\n")
    requests.append(b"GET /v1/status/leader HTTP/1.1\r\n" + HOST + CLOSE + b"\r\n")
    answer = exchange(agent, b"".join(requests))
    assert answer.statuses == [200] * 201
    values = re.findall(rb"\r\n\r\n(\d{3})(?=HTTP/1\.1)", answer.raw)
    assert values == [b"%03d" % number for number in range(100)]


def test_slow_and_silent_clients_hold_up_nobody(agent: AgentProcess) -> None:
    pieces = (b"", b"GET /v1/kv/", b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 9\r\n\r\na")
    with ExitStack() as stack:
        for number in range(60):
            slow = stack.enter_context(connect(agent))
            slow.sendall(pieces[number % len(pieces)])
        started = time.monotonic()
        for _ in range(50):
            assert agent.client.kv_get("kept") == b"here"
        assert time.monotonic() - started < 5
