"""Layers, references, formats, and the endpoint over a state of its own."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

# The package stands beside its tests and need not be installed to be tested.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import registry_appconfig
from registry_appconfig import reading, route
from registry_appconfig.formats import FORMATS, Style
from registry_appconfig.layers import ConfigProblem, Value, Wanted, layer_prefixes, merge
from registry_appconfig.reading import take_snapshot
from registry_appconfig.references import DEPTH_MAX, Expansion, stored_paths
from registry_appconfig.settings import Settings

from registry.http import kv
from registry.http.api import ApiResponse, Routes
from registry.http.queries import KvEntry, KvList, ReadOptions, ReadResult
from registry.testing.handlers import Handlers, header
from registry.testing.serving import NODE_ID, make_facade

# Layers


def test_layers_from_the_lowest_to_the_highest() -> None:
    wanted = Wanted.read("web", ["prod,eu", "prod"], "web-1")
    assert layer_prefixes(wanted, Settings()) == [
        "config/_shared/default/",
        "config/_shared/profile/prod/",
        "config/_shared/profile/eu/",
        "config/web/default/",
        "config/web/profile/prod/",
        "config/web/profile/eu/",
        "config/web/instance/web-1/",
    ]
    assert layer_prefixes(Wanted("web"), Settings(shared="", prefix="")) == ["web/default/"]


@pytest.mark.parametrize(
    ("app", "profiles", "instance", "reason"),
    [
        ("", [], "", "Missing application name"),
        ("team//web", [], "", "not an application's name: 'team//web'"),
        ("web/", [], "", "not an application's name: 'web/'"),
        ("web", ["a/b"], "", "a profile or instance has no slash in its name: 'a/b'"),
        ("web", [], "a/b", "a profile or instance has no slash in its name: 'a/b'"),
    ],
)
def test_what_cannot_be_asked_for(
    app: str, profiles: list[str], instance: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        Wanted.read(app, profiles, instance)


def test_a_higher_layer_replaces_names_of_a_lower_one() -> None:
    merged = merge(
        [
            ("low/", [(b"low/db/host", b"a"), (b"low/db/port", b"1"), (b"low/", b"")]),
            ("high/", [(b"high/db.host", b"b"), (b"high/empty/", b"")]),
        ],
        ".",
    )
    assert merged == {"db.host": Value("b", "high/db.host"), "db.port": Value("1", "low/db/port")}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([(b"c/a.b", b""), (b"c/a/b", b"")], "c/a.b and c/a/b are both the name a.b"),
        ([(b"c/a", b"\xff")], "the value of c/a is not UTF-8 text"),
        ([(b"c/\xff", b"")], r"the key b'c/\\xff' is not UTF-8 text"),
        ([(b"c/.", b"")], "c/. has no name but the separator"),
    ],
)
def test_keys_that_make_no_configuration(entries: list[tuple[bytes, bytes]], reason: str) -> None:
    with pytest.raises(ConfigProblem, match=f"^{reason}$"):
        merge([("c/", entries)], ".")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"prefix": "config"}, "prefix must end in a slash"),
        ({"prefix": "/config/"}, "prefix must not begin with a slash"),
        ({"separator": ""}, "separator must be"),
        ({"separator": "/"}, "separator must be"),
        ({"env_separator": "-"}, "env_separator must be"),
    ],
)
def test_refused_settings(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        Settings(**given)


# References


def expanded(values: dict[str, str], stored: dict[str, str | None] | None = None) -> dict[str, str]:
    known = {name: Value(text, f"c/{name}") for name, text in values.items()}
    return Expansion(known, stored or {}, ".").all()


def test_references() -> None:
    stored: dict[str, str | None] = {"smtp/host": "mail.${domain}", "none": None}
    values = {
        "chain": "<${url}>",
        "default": "${no.such:-5432} ${kv:none:-}|${domain:-unused}",
        "domain": "example.net",
        "mail": "smtp://${kv:smtp/host}:25",
        "plain": "$${not} $ {} }${domain}",
        "slashes": "${a/b}",
        "a.b": "1",
        "url": "https://${ domain }/",
    }
    assert expanded(values, stored) == {
        "chain": "<https://example.net/>",
        "default": "5432 |example.net",
        "domain": "example.net",
        "mail": "smtp://mail.example.net:25",
        "plain": "${not} $ {} }example.net",
        "slashes": "1",
        "a.b": "1",
        "url": "https://example.net/",
    }


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("${kv:a/b} ${c} ${ kv:d:-x}", {"a/b", "d"}),
        ("$${kv:a} ${kv:b", set()),
    ],
)
def test_keys_elsewhere(text: str, paths: set[str]) -> None:
    assert stored_paths(text) == paths


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"a": "${b}"}, r"a \(c/a\) refers to \${b}, which is not there"),
        ({"a": "x${kv:gone}"}, r"a \(c/a\) refers to \${kv:gone}, which is not there"),
        ({"a": "${b}", "b": "${c}", "c": "-${b}"}, "references go in a circle: b -> c -> b"),
        ({"a": "${a}"}, "references go in a circle: a -> a"),
        ({"a": "${kv:x}"}, "references go in a circle: kv:x -> kv:y -> kv:x"),
        ({"a": "x ${b"}, r"a \(c/a\): a reference is not closed"),
        ({"a": "${b${c}}"}, r"a \(c/a\): a reference is not closed"),
        ({"a": "${}"}, r"a \(c/a\): a reference names nothing"),
        ({"a": "${kv:}"}, r"a \(c/a\): a reference names nothing"),
    ],
)
def test_references_that_lead_nowhere(values: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigProblem, match=f"^{reason}"):
        expanded(values, {"gone": None, "x": "${kv:y}", "y": "${kv:x}", "": None})


@pytest.mark.parametrize("backwards", [False, True], ids=["from the end", "from the start"])
def test_how_deep_references_may_be(backwards: bool) -> None:
    def chain(length: int) -> dict[str, str]:
        names = [f"k{number:03}" for number in range(length)]
        links = {name: f"${{{other}}}" for other, name in pairwise(names)}
        pairs = {"k000": "end", **links}
        return dict(sorted(pairs.items(), reverse=backwards))

    assert set(expanded(chain(DEPTH_MAX)).values()) == {"end"}
    with pytest.raises(ConfigProblem, match=f"nested deeper than {DEPTH_MAX}"):
        expanded(chain(DEPTH_MAX + 1))


def test_values_that_double_at_each_reference() -> None:
    values = {"k00": "0123456789abcdef"}
    for number in range(1, 30):
        values[f"k{number:02}"] = f"${{k{number - 1:02}}}" * 2
    with pytest.raises(ConfigProblem, match="longer than"):
        expanded(values)


# Formats


def written(values: dict[str, str], name: str = "json", **style: bool) -> str:
    return FORMATS[name].write(values, Style(**style), Settings()).decode()


VALUES = {
    "db.pool.size": "5",
    "db.url": "a b'c",
    "flags": '["x", true]',
    "name": "Grüße, 𝄞",
    "version": "1.10",
}


def test_json() -> None:
    tree = {"db": {"pool": {"size": "5"}, "url": "a b'c"}, "flags": '["x", true]'}
    rest = {"name": "Grüße, 𝄞", "version": "1.10"}
    assert json.loads(written(VALUES)) == tree | rest
    assert json.loads(written(VALUES, flat=True)) == VALUES


def test_typed_values() -> None:
    texts = {"a": "5", "b": "true", "c": "null", "d": "[1]", "e": '{"x": 1.5}', "f": '"text"'}
    texts |= {"g": "none", "h": "1.2.3", "i": "nan", "j": "-1", "k": "[" * 5000, "l": ""}
    shown = json.loads(written(texts, typed=True))
    assert shown == {**texts, "a": 5, "b": True, "c": None, "d": [1], "e": {"x": 1.5}, "j": -1}


def test_yaml_keeps_text_text() -> None:
    texts = {**VALUES, "on": "no", "date": "2020-01-01", "lines": "a\nb\n", "odd": "\x07: #"}
    assert yaml.safe_load(written(texts, "yaml", flat=True)) == texts
    assert yaml.safe_load(written({"a.b": "5"}, "yaml", typed=True)) == {"a": {"b": 5}}


def test_properties() -> None:
    texts = {"a b:c": " x", "url": "k=v#\\", "lines": "1\n2\t", "name": "ü𝄞", "a\\=": ""}
    assert written(texts, "properties").splitlines() == [
        r"a\ b\:c=\ x",
        r"url=k=v#\\",
        r"lines=1\n2\t",
        r"name=\u00fc\ud834\udd1e",
        r"a\\\==",
    ]


def test_variables() -> None:
    text = written({**VALUES, "9-lives": "two\nlines"}, "env")
    assert shlex.split(text) == [
        "DB_POOL_SIZE=5",
        "DB_URL=a b'c",
        'FLAGS=["x", true]',
        "NAME=Grüße, 𝄞",
        "VERSION=1.10",
        "_9_LIVES=two\nlines",
    ]
    assert "VERSION=1.10\n" in text


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        ({"db": "x", "db.host": "y"}, "json", "db has a value and db.host is below it"),
        ({"db": "x", "db.a.host": "y"}, "yaml", "db has a value and db.a.host is below it"),
        ({"a.b": "", "a-b": ""}, "env", "a.b and a-b are both the variable A_B"),
        ({"a": "\0"}, "env", "a has a zero byte"),
    ],
)
def test_what_a_format_cannot_show(values: dict[str, str], name: str, reason: str) -> None:
    with pytest.raises(ConfigProblem, match=f"^{reason}"):
        written(values, name)


# Readings


class Writing:
    """An agent in which a key of two layers is written between reads, as often as is said."""

    def __init__(self, writes: int) -> None:
        self.index, self.writes, self.reads = 1, writes, 0

    async def read(self, query: Any, options: ReadOptions) -> ReadResult:
        assert isinstance(query, KvList)
        entry = KvEntry(
            value=str(self.index).encode(),
            flags=0,
            session="",
            lock_index=0,
            create_index=1,
            modify_index=self.index,
        )
        result = ReadResult(index=self.index, value=[(query.prefix + b"k", entry)])
        self.reads += 1
        if self.writes:
            self.writes -= 1
            self.index += 1
        return result


async def test_layers_are_of_one_moment() -> None:
    agent = Writing(writes=3)
    snapshot = await take_snapshot(agent, ["a/", "b/"], Settings(), ReadOptions())
    assert snapshot.values == {"k": Value("4", "b/k")}
    assert (snapshot.meta.index, agent.reads) == (4, 8)


async def test_keys_that_are_written_all_the_time() -> None:
    agent = Writing(writes=10**6)
    snapshot = await take_snapshot(agent, ["a/", "b/"], Settings(), ReadOptions())
    assert agent.reads == 2 * (reading.READINGS_MAX + 1)
    # The lowest index: a change of the other layer since then is not missed.
    assert snapshot.meta.index == agent.index - 2
    assert snapshot.values == {"k": Value(str(agent.index - 1), "b/k")}


# The endpoint


class Registry:
    """The KV store and the endpoint, without a server."""

    def __init__(self) -> None:
        routes = Routes()
        (mine,) = registry_appconfig.registry_http_routes()
        routes.get(mine.pattern, *mine.operations)(mine.handler)
        self._handlers = Handlers(make_facade(), routes, kv.routes)

    async def put(self, key: str, value: str) -> None:
        assert await self._handlers.json("PUT", f"/v1/kv/{key}", value.encode()) is True

    async def delete(self, key: str) -> None:
        assert await self._handlers.json("DELETE", f"/v1/kv/{key}") is True

    async def get(self, url: str, **headers: str) -> ApiResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._handlers.request("GET", f"/v1/appconfig/{url}", headers=sent)

    async def data(self, url: str) -> Any:
        response = await self.get(url)
        assert response.status == 200, response
        return json.loads(response.body)

    async def text(self, url: str, status: int) -> str:
        response = await self.get(url)
        assert response.status == status, response
        return response.body.decode()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the plugin was lent; its `settings` may be changed."""
    context = SimpleNamespace(settings=Settings())
    monkeypatch.setitem(route.contexts, NODE_ID, cast("Any", context))
    return context


@pytest.fixture
async def registry(settings: SimpleNamespace) -> Registry:
    registry = Registry()
    await registry.put("config/_shared/default/log/level", "info")
    await registry.put("config/_shared/profile/prod/log/level", "warn")
    await registry.put("config/web/default/db/host", "localhost")
    await registry.put("config/web/default/db/url", "pg://${db.host}/${kv:names/db}")
    await registry.put("config/web/profile/prod/db/host", "db.prod")
    await registry.put("config/web/instance/web-1/db/host", "db.one")
    await registry.put("names/db", "shop")
    return registry


async def test_configuration_of_an_application(registry: Registry) -> None:
    assert await registry.data("web") == {
        "db": {"host": "localhost", "url": "pg://localhost/shop"},
        "log": {"level": "info"},
    }
    assert await registry.data("web?profile=prod&flat") == {
        "db.host": "db.prod",
        "db.url": "pg://db.prod/shop",
        "log.level": "warn",
    }
    one = await registry.data("web?profile=prod&instance=web-1")
    assert one["db"] == {"host": "db.one", "url": "pg://db.one/shop"}
    env = await registry.get("web?format=env")
    assert env.body == b"DB_HOST=localhost\nDB_URL=pg://localhost/shop\nLOG_LEVEL=info\n"
    assert header(env, "Content-Type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("url", "status", "text"),
    [
        ("web?format=xml", 400, "no such format: xml; there are json, yaml, env, properties"),
        ("", 400, "Missing application name"),
        ("web?profile=a/b", 400, "a profile or instance has no slash in its name: 'a/b'"),
        ("web?index=x", 400, "Invalid index"),
    ],
)
async def test_bad_requests(registry: Registry, url: str, status: int, text: str) -> None:
    assert await registry.text(url, status) == text


async def test_an_application_without_keys(registry: Registry) -> None:
    assert await registry.data("other") == {"log": {"level": "info"}}
    await registry.delete("config/_shared/?recurse")
    assert await registry.text("other", 404) == (
        "there is no configuration for other (no key under config/_shared/default/, "
        "config/other/default/)"
    )


async def test_a_configuration_that_cannot_be(registry: Registry) -> None:
    await registry.delete("names/db")
    refused = await registry.get("web")
    assert refused.status == 422
    assert refused.body == (
        b"db.url (config/web/default/db/url) refers to ${kv:names/db}, which is not there"
    )
    assert int(header(refused, "X-Consul-Index") or "0") > 1
    await registry.put("config/web/default/db", "x")
    await registry.put("names/db", "shop")
    assert "db has a value and db.host is below it" in await registry.text("web", 422)
    assert (await registry.data("web?flat"))["db"] == "x"


async def test_settings_in_force(registry: Registry, settings: SimpleNamespace) -> None:
    settings.settings = Settings(reach=("public/",))
    assert await registry.text("web", 422) == (
        "${kv:names/db} is out of reach (plugins.settings.appconfig)"
    )
    settings.settings = Settings(prefix="", shared="", separator="__")
    await registry.put("app/default/a/b", "1")
    assert await registry.data("app?flat") == {"a__b": "1"}
    route.contexts.clear()
    assert await registry.text("web", 503) == "the plugin is not started yet"


async def test_etag(registry: Registry) -> None:
    first = await registry.get("web")
    etag = header(first, "ETag") or ""
    assert etag.startswith('W/"')
    for known in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
        same = await registry.get("web", if_none_match=known)
        assert (same.status, same.body, header(same, "ETag")) == (304, b"", etag)
    assert (await registry.get("web", if_none_match='"x"')).status == 200
    assert (await registry.get("web?format=yaml", if_none_match=etag)).status == 200
    await registry.put("names/db", "store")
    changed = await registry.get("web", if_none_match=etag)
    assert (changed.status, header(changed, "ETag") == etag) == (200, False)


async def under_way(registry: Registry, url: str, group: asyncio.TaskGroup, **headers: str) -> Any:
    """A request that waits."""
    task = group.create_task(registry.get(url, **headers))
    for _ in range(50):  # turns of the loop, so that it has come to where it waits
        await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config/web/default/new", "1"),
        ("config/_shared/profile/prod/new", "1"),
        ("config/web/instance/i/db/host", "x"),
        ("names/db", "store"),
    ],
)
async def test_waiting_for_a_change(registry: Registry, key: str, value: str) -> None:
    url = "web?profile=prod&instance=i"
    first = await registry.get(url)
    index = header(first, "X-Consul-Index")
    async with asyncio.TaskGroup() as group:
        waiting = await under_way(registry, f"{url}&index={index}&wait=1m", group)
        await registry.put("somewhere/else", "1")
        await registry.put(key, value)
    assert waiting.result().status == 200
    assert waiting.result().body != first.body
    assert int(header(waiting.result(), "X-Consul-Index") or 0) > int(index or 0)


async def test_waiting_for_a_key_to_come_or_go(registry: Registry) -> None:
    await registry.delete("names/db")
    broken = await registry.get("web")
    async with asyncio.TaskGroup() as group:
        index = header(broken, "X-Consul-Index")
        waiting = await under_way(registry, f"web?index={index}&wait=1m", group)
        await registry.put("names/db", "shop")
    fine = waiting.result()
    assert (broken.status, fine.status) == (422, 200)
    async with asyncio.TaskGroup() as group:
        index = header(fine, "X-Consul-Index")
        etag = header(fine, "ETag") or ""
        waiting = await under_way(registry, f"web?index={index}&wait=1m", group, if_none_match=etag)
        await registry.delete("names/db")
    assert waiting.result().status == 422


async def test_with_an_etag_only_another_answer_ends_the_wait(registry: Registry) -> None:
    first = await registry.get("web")
    etag = header(first, "ETag") or ""
    async with asyncio.TaskGroup() as group:
        # An old index: without the ETag the answer would come at once.
        waiting = await under_way(registry, "web?index=1&wait=1m", group, if_none_match=etag)
        await registry.put("config/web/default/db/host", "localhost")
        await registry.put("config/web/default/db/host", "else")
    assert json.loads(waiting.result().body)["db"]["host"] == "else"
    at_once = await registry.get("web?index=999999&wait=1m", if_none_match='"old"')
    assert at_once.status == 200


async def test_a_wait_ends(registry: Registry) -> None:
    first = await registry.get("web")
    index, etag = header(first, "X-Consul-Index"), header(first, "ETag") or ""
    same = await registry.get(f"web?index={index}&wait=1ms")
    assert (same.status, same.body) == (200, first.body)
    known = await registry.get(f"web?index={index}&wait=1ms", if_none_match=etag)
    assert known.status == 304
