"""Schemas, the table of prefixes, settings, and schemas that stand in the KV store."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import msgspec
import pytest

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from registry_schema import following
from registry_schema.following import Judge
from registry_schema.schema import NoSchema, Schema
from registry_schema.settings import Settings
from registry_schema.table import Table

from registry.hooks import KvWrite, WriteRefused

PORT = {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}}}
DIGITS = {"contentMediaType": "text/plain", "pattern": "^[0-9]+$"}

# Schemas


@pytest.mark.parametrize(
    ("document", "value", "problems"),
    [
        (True, b"not JSON", []),
        (PORT, b'{"port": 80}', []),
        (PORT, b'{"port": "http"}', ['at /port: the value is not of type "integer"']),
        (PORT, b"[]", ['the value is not of type "object"']),
        (PORT, b"{}", ['"port" is a required property']),
        (PORT, b"", ["it is not JSON: Input data was truncated"]),
        (PORT, b"[" * 5000, ["it is nested too deeply"]),
        (
            {"properties": {"a/b~": {"items": {"maxLength": 2}}}},
            b'{"a/b~": ["ab", "abc"]}',
            ["at /a~1b~0/1: the value is longer than 2 characters"],
        ),
        ({"items": False}, b"[1, 2, 3, 4, 5, 6, 7]", None),
        ({"format": "ipv4"}, b'"10.0.0"', ['the value is not a "ipv4"']),
        (True, b"null", []),
        (DIGITS, b"0123", []),
        (DIGITS, b"12a", ['the value does not match "^[0-9]+$"']),
        (DIGITS, b"\xff", None),
    ],
)
def test_what_a_schema_says(document: Any, value: bytes, problems: list[str] | None) -> None:
    found = Schema(document).problems(value)
    if problems is not None:
        assert found == problems
    elif value.startswith(b"["):
        assert found[4:] == ["at /4: False schema does not allow the value", "and 2 more"]
    else:
        assert found[0].startswith("it is not text in UTF-8: ")


def test_a_pattern_that_would_run_for_ever() -> None:
    schema = Schema({"pattern": "^(a+)+$"})
    assert schema.problems(json.dumps("a" * 5000 + "b").encode())


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (5, "a schema is an object, true or false"),
        ({"type": "nope"}, "/type: "),
        ({"pattern": "("}, "/pattern: "),
        ({"pattern": "(?=a)"}, "/pattern: "),
        ({"$ref": "http://127.0.0.1:1/x"}, ".*cannot fetch http://127.0.0.1:1/x"),
        ({"$ref": "#/$defs/none"}, "Pointer '/\\$defs/none' does not exist"),
    ],
)
def test_what_is_no_schema(document: Any, reason: str) -> None:
    with pytest.raises(NoSchema, match=f"^{reason}") as caught:
        Schema(document)
    assert "\n" not in str(caught.value)


# Prefixes


def write(key: str, value: bytes | None, verb: str = "set") -> KvWrite:
    return KvWrite(verb=verb, key=key, value=value)


TABLE = Table(
    {"app/": Schema(PORT), "app/free/": Schema(True), "n": Schema(DIGITS)},
    {"app/": Schema(False), "kv/": Schema(PORT), "broken/": None},
    "_schemas/",
)


@pytest.mark.parametrize("verb", ["set", "cas", "lock", "unlock"])
def test_whatever_writes_is_judged(verb: str) -> None:
    TABLE.judge(write("app/a", b'{"port": 1}', verb))
    with pytest.raises(WriteRefused) as refused:
        TABLE.judge(write("app/a", b'{"port": ""}', verb))
    reason = 'app/a breaks the schema of app/: at /port: the value is not of type "integer"'
    assert (refused.value.text, refused.value.status) == (reason, 400)


@pytest.mark.parametrize(
    ("key", "value", "verb"),
    [
        ("app/free/a", b"x", "set"),
        ("other", b"x", "set"),
        ("ap", b"x", "set"),
        ("app/folder/", b"", "set"),
        ("app/a", None, "delete"),
        ("app/a", None, "delete-cas"),
        ("app/", None, "delete-tree"),
        ("n1", b"42", "set"),
        ("_schemas/x", b"true", "set"),
        ("_schemas/app/", None, "delete"),
    ],
)
def test_what_passes(key: str, value: bytes | None, verb: str) -> None:
    TABLE.judge(write(key, value, verb))


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("app/folder/", b"x", "app/folder/ breaks the schema of app/: it is not JSON"),
        ("kv/a", b"[]", "kv/a breaks the schema of kv/: the value is not"),
        ("n1", b"x", "n1 breaks the schema of n: the value does not match"),
        ("broken/a", b"1", "broken/a cannot be judged: _schemas/broken/ is not a schema"),
        ("_schemas/x", b'{"type": 1}', "_schemas/x would not be a schema: /type: "),
        ("_schemas/x", b"{", "_schemas/x would not be a schema: not JSON: "),
    ],
)
def test_what_is_refused(key: str, value: bytes, reason: str) -> None:
    with pytest.raises(WriteRefused, match=f"^{reason}"):
        TABLE.judge(write(key, value))


# Settings


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text('{"type": "boolean"}')
    given = {"prefixes": {"flags/": str(file), "app/": PORT, "free/": True}, "keys": "s/"}
    settings = msgspec.convert(given, Settings)
    assert settings.prefixes["flags/"] == {"type": "boolean"}
    assert settings.schemas().keys() == {"flags/", "app/", "free/"}
    file.write_text('{"type": "string"}')
    assert msgspec.convert(given, Settings) != settings


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"prefixes": {"a/": {"type": "nope"}}}, "a/: not a schema: /type: "),
        ({"prefixes": {"a/": 5}}, "Expected "),
        ({"prefixes": {"a/": "/no/such/file"}}, "a/: /no/such/file: No such file"),
        ({"prefixes": {"a/": "BAD"}}, "a/: .*bad.json: JSON is malformed"),
        ({"keys": "s"}, "keys must end in a slash"),
    ],
)
def test_refused_settings(given: dict[str, Any], reason: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{,}")
    text = json.dumps(given).replace("BAD", str(bad))
    with pytest.raises(msgspec.ValidationError, match=f"^{reason}"):
        msgspec.convert(json.loads(text), Settings)


# Schemas in the KV store


class Store:
    """The KV store as the plugin asks for it: answers in turn, then none."""

    def __init__(self, *answers: tuple[int, int, Any]) -> None:
        self.answers, self.asked = list(answers), list[str]()
        self.more, self.arrived = asyncio.Event(), asyncio.Queue[None]()
        transport = httpx.MockTransport(self._answer)
        self.client = httpx.AsyncClient(base_url="http://agent", transport=transport)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url).removeprefix("http://agent"))
        self.arrived.put_nowait(None)
        while not self.answers:
            self.more.clear()
            await self.more.wait()
        status, index, entries = self.answers.pop(0)
        headers = {"X-Consul-Index": str(index)}
        return httpx.Response(status, headers=headers, json=entries)

    def answer(self, status: int, index: int, entries: Any) -> None:
        self.answers.append((status, index, entries))
        self.more.set()

    async def requests(self, count: int) -> None:
        """Until so many more requests have come."""
        async with asyncio.timeout(10):
            for _ in range(count):
                await self.arrived.get()


def entry(key: str, value: bytes) -> dict[str, Any]:
    return {"Key": key, "Value": base64.b64encode(value).decode() or None}


class Lent:
    """A plugin's context, with tasks of the test's group."""

    def __init__(self, store: Store, group: asyncio.TaskGroup, **settings: Any) -> None:
        self.client, self.settings = store.client, Settings(**settings)
        self.logger = logging.getLogger("registry.plugin.schema")
        self.tasks = SimpleNamespace(create_task=group.create_task)
        self.group = group

    def as_context(self) -> Any:
        return cast("Any", self)


async def refused(judge: Judge, key: str, value: bytes) -> str:
    try:
        await judge.validate(write(key, value))
    except WriteRefused as problem:
        return problem.text
    return ""


async def test_schemas_of_the_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "RETRY_S", 0.0)
    store, judge = Store(), Judge()
    async with store.client, asyncio.TaskGroup() as group:
        context = Lent(store, group, prefixes={"n/": DIGITS}, keys="s/").as_context()
        judge.begin(context)
        waiting = group.create_task(refused(judge, "app/a", b"1"))
        await store.requests(1)
        assert not waiting.done()
        store.answer(500, 0, "No cluster leader")
        store.answer(200, 7, [entry("s/app/", b'{"type": "string"}'), entry("s/", b"")])
        assert (await waiting).startswith("app/a breaks the schema of app/")
        assert (await refused(judge, "n/a", b"x")).startswith("n/a breaks")
        await store.requests(2)
        store.answer(200, 9, [entry("s/app/", b'{"type": 5}')])
        await store.requests(1)
        assert await refused(judge, "app/a", b"1") == (
            "app/a cannot be judged: s/app/ is not a schema"
        )
        store.answer(404, 3, None)  # another history, in which there are none
        await store.requests(1)
        assert await refused(judge, "app/a", b"1") == ""
        assert store.asked == [
            "/v1/kv/s/?recurse=",
            "/v1/kv/s/?recurse=",
            "/v1/kv/s/?recurse=&index=7&wait=5m",
            "/v1/kv/s/?recurse=&index=9&wait=5m",
            "/v1/kv/s/?recurse=",
        ]
        assert "not a schema key=s/app/" in caplog.text
        context.settings = Settings(prefixes={"new/": False})
        judge.begin(context)  # and the store is not followed any more, or the group would not end
        assert (await refused(judge, "new/a", b"1")).startswith("new/a breaks")
        assert await refused(judge, "n/a", b"x") == ""
        context.settings = Settings(keys="s/")
        judge.begin(context)
        waiting = group.create_task(refused(judge, "new/a", b"1"))
        await store.requests(1)
        judge.begin(context)  # settings that change while a write waits
        store.answer(404, 3, None)
        assert await waiting == ""
        judge.end()


def test_one_agent_after_another() -> None:
    """Each with an event loop of its own, as tests have them."""
    judge = Judge()

    async def live() -> None:
        store = Store()
        async with store.client, asyncio.TaskGroup() as group:
            judge.begin(Lent(store, group, keys="s/").as_context())
            waiting = group.create_task(refused(judge, "app/a", b"1"))
            await store.requests(1)
            store.answer(200, 7, [entry("s/app/", b"false")])
            assert "breaks the schema" in await waiting
            judge.end()

    asyncio.run(live())
    asyncio.run(live())


async def test_schemas_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOADING_S", 0.01)
    judge = Judge()
    assert await refused(judge, "a", b"") == "the schemas are not read yet; try again"
