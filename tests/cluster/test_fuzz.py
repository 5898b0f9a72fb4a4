"""Requests made out of the API's own document, sent to a real agent, sound and unsound ones.

Every answer has a status, a media type and a shape that the document declares. Consul's servers
answer 500 to many a mistake of a client, and the recorded contract keeps that; the document lists
the texts of these refusals. Any other answer from 500 up, or one without its text, is a failure.

`REGISTRY_FUZZ_SEED` replays a run, `REGISTRY_FUZZ_REQUESTS` makes it longer (`make fuzz-campaign`).
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count, product
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from registry.testing.process import AgentProcess
from registry.testing.seeds import seed_from

REQUESTS = int(os.environ.get("REGISTRY_FUZZ_REQUESTS", "500"))
SEED = seed_from("REGISTRY_FUZZ_SEED")

pytestmark = pytest.mark.timeout(240 + REQUESTS / 5)

#: What a run leaves out, and why.
LEFT_OUT = {
    "PUT /v1/agent/leave": "ends the agent",
    "GET /v1/agent/monitor": "has no end",
}

#: A random address could be one of somebody else's host.
ADDRESSES = (
    "127.0.0.1:1",
    "127.0.0.1",
    "localhost:1",
    "::1",
    "[::1]:x",
    "",
    ":",
    "127.0.0.1:99999",
)

#: Names that are in use, so that not every request asks for what there is not.
KNOWN = ("web", "web-1", "test-node", "any", "passing", "serfHealth", "global", "ttl", "a/b")

CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

#: Members of a check that have the agent call somebody, and whom they may have it call.
CALLS: Mapping[str, str] = {
    "http": "http://127.0.0.1:1/",
    "tcp": "127.0.0.1:1",
    "grpc": "127.0.0.1:1",
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    # A blocking query waits no longer than this, or the run would.
    times: dict[str, object] = {"default_query_time": "5ms", "max_query_time": "10ms"}
    with AgentProcess(tmp_path_factory.mktemp("agent"), config=times) as running:
        register(running)
        yield running


def register(agent: AgentProcess) -> None:
    """Something to find under the names that are known."""
    client, check = agent.client, {"CheckID": "ttl", "TTL": "1h", "Status": "passing"}
    service = {"Name": "web", "ID": "web-1", "Check": check}
    client.put("/v1/agent/service/register", json_body=service)
    client.put("/v1/config", json_body={"Kind": "proxy-defaults", "Name": "global"})
    query = {"Name": "web", "Service": {"Service": "web"}}
    client.request("POST", "/v1/query", json_body=query)
    client.kv_put("a/b", b"value")


def tame(value: Any) -> Any:
    """A body in which checks call nobody but this host."""
    if isinstance(value, list):
        return [tame(item) for item in value]
    if isinstance(value, dict):
        return {name: CALLS.get(name.lower(), tame(item)) for name, item in value.items()}
    return value


def operations(agent: AgentProcess) -> list[Any]:
    address = f"http://127.0.0.1:{agent.ports['http']}"
    schema = schemathesis.openapi.from_url(f"{address}/v1/openapi.json")
    found: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    left_out = [operation for operation in found if operation.label in LEFT_OUT]
    assert len(left_out) == len(LEFT_OUT)
    return [operation for operation in found if operation.label not in LEFT_OUT]


def share(operation: Any) -> float:
    """An operation's part of the requests: less, if all that it does is to refuse."""
    refuses = all(status >= "400" for status in operation.responses.status_codes if status != "301")
    return 0.25 if refuses else 1.0


def is_declared(operation: Any, response: Any) -> bool:
    """Whether an answer from 500 up says one of the texts that are declared for its status."""
    declared = operation.responses.get(str(response.status_code))
    if declared is None or not response.content:
        return False
    media = response.headers.get("Content-Type", "").partition(";")[0]
    schema = declared.definition["content"].get(media, {}).get("schema", {})
    return re.search(schema.get("pattern", ""), response.text) is not None


def flaws(case: Any, response: Any) -> str:
    """What is wrong with an answer, "" for nothing."""
    if response.status_code >= 500 and not is_declared(case.operation, response):
        return f"{response.status_code} {response.text[:500]!r} is not declared"
    # Of an empty body there is nothing to check: a path with unprintable characters has one.
    checks = CHECKS if response.content else CHECKS[:1]
    try:
        case.validate_response(response, checks=checks)
    except AssertionError as failed:
        return str(failed)
    except schemathesis.errors.FailureGroup as failed:
        return "\n".join(str(each) for each in failed.exceptions)
    return ""


schemathesis.serializer.alias("application/x-gzip", "application/octet-stream")


class Run:
    """Requests of one kind to one operation after the other."""

    def __init__(self, agent: AgentProcess) -> None:
        self.agent = agent
        self.address = f"http://127.0.0.1:{agent.ports['http']}"
        self.session = requests.Session()
        self.statuses: Counter[int] = Counter()
        self.failures: dict[str, str] = {}

    def fuzz(self, operation: Any, mode: GenerationMode, number: int, chance: int) -> None:
        @seed(chance)
        @settings(
            max_examples=number,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=operation.as_strategy(generation_mode=mode),
            known=st.none() | st.sampled_from(KNOWN),
            address=st.sampled_from(ADDRESSES),
        )
        def once(case: Any, known: str | None, address: str) -> None:
            self.send(self.tamed(case, known, address))

        try:
            once()
        except Unsatisfiable:
            """There is no unsound request to an operation that takes nothing."""

    def tamed(self, case: Any, known: str | None, address: str) -> Any:
        """The request, for what there is and to nobody outside."""
        if known and case.path_parameters:
            case.path_parameters = dict.fromkeys(case.path_parameters, known)
        if "address" in (case.path_parameters or {}):
            case.path_parameters["address"] = address
        case.body = tame(case.body)
        return case

    def send(self, case: Any) -> None:
        response = case.call(self.address, session=self.session, allow_redirects=False, timeout=30)
        self.statuses[response.status_code] += 1
        if flaw := flaws(case, response):
            told = f"{response.request.method} {response.request.url}"
            body = response.request.body
            self.failures.setdefault(case.operation.label, f"{told}\n{body!r:.1000}\n{flaw}")


def test_requests_made_from_the_document(agent: AgentProcess) -> None:
    print(f"seed {SEED}")
    run, targets = Run(agent), operations(agent)
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    each = REQUESTS / (sum(map(share, targets)) * len(modes))
    # Some operations take next to nothing, and so give few requests: the others make up for it.
    for chance in count(SEED):
        for operation, mode in product(targets, modes):
            run.fuzz(operation, mode, math.ceil(share(operation) * each), chance)
        if run.statuses.total() >= REQUESTS:
            break
    print(f"{run.statuses.total()} requests, by status: {sorted(run.statuses.items())}")
    assert not run.failures, f"seed {SEED}\n\n" + "\n\n".join(run.failures.values())
    assert agent.process is not None
    assert agent.process.poll() is None, agent.log_tail()
    assert agent.client.kv_put("after", b"all")
    assert "Traceback" not in agent.log_path.read_text(errors="replace")
