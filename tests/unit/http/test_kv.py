"""`/v1/kv/`: what is sent for what is asked."""

from __future__ import annotations

import asyncio
import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.agent.config import AgentConfig, Limits
from registry.http import kv
from registry.http.kv import entry_json
from registry.state.kv import KvEntry
from registry.testing.handlers import Handlers, header
from registry.testing.serving import make_facade

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def api() -> Handlers:
    return Handlers(make_facade(), kv.routes)


async def put(api: Handlers, key: str, body: bytes = b"v") -> None:
    assert await api.json("PUT", f"/v1/kv/{key}", body) is True


async def test_an_entry_is_shown_in_a_list(api: Handlers) -> None:
    await put(api, "app/a", b"hello")
    response = await api.request("GET", "/v1/kv/app/a")
    assert response.body == (
        b'[{"LockIndex":0,"Key":"app/a","Flags":0,"Value":"aGVsbG8=",'
        b'"CreateIndex":1,"ModifyIndex":1}]'
    )
    assert header(response, "X-Consul-Index") == "1"
    assert header(response, "Content-Type") == "application/json"


async def test_a_missing_key_is_404_with_an_index(api: Handlers) -> None:
    for url in ("/v1/kv/a", "/v1/kv/a?raw", "/v1/kv/a?recurse", "/v1/kv/a?keys"):
        response = await api.request("GET", url)
        assert (response.status, response.body) == (404, b"")
        assert header(response, "X-Consul-Index") == "1"


async def test_a_raw_value_can_not_pass_for_a_page(api: Handlers) -> None:
    await put(api, "page", b"<html><script>")
    response = await api.request("GET", "/v1/kv/page?raw")
    assert response.body == b"<html><script>"
    assert header(response, "Content-Type") == "text/plain; charset=utf-8"
    assert header(response, "X-Content-Type-Options") == "nosniff"
    assert header(response, "Content-Security-Policy") == "sandbox"


async def test_an_empty_raw_value_has_no_type(api: Handlers) -> None:
    await put(api, "empty", b"")
    response = await api.request("GET", "/v1/kv/empty?raw")
    assert (response.status, response.body) == (200, b"")
    assert header(response, "Content-Type") is None


async def test_everything_can_be_listed(api: Handlers) -> None:
    assert await api.json("GET", "/v1/kv/?keys") == []
    assert (await api.request("GET", "/v1/kv/?recurse")).status == 404
    await put(api, "a")
    await put(api, "b")
    assert await api.json("GET", "/v1/kv/?keys") == ["a", "b"]
    listed = await api.json("GET", "/v1/kv/?recurse")
    assert [entry["Key"] for entry in listed] == ["a", "b"]
    assert await api.json("DELETE", "/v1/kv/?recurse") is True
    assert await api.json("GET", "/v1/kv/?keys") == []


async def test_the_misspelt_separator_works_and_the_right_one_wins(api: Handlers) -> None:
    await put(api, "k/b/c")
    await put(api, "k/f")
    assert await api.json("GET", "/v1/kv/k/?keys&seperator=/") == ["k/b/", "k/f"]
    both = await api.json("GET", "/v1/kv/k/?keys&seperator=/&separator=c")
    assert both == ["k/b/c", "k/f"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        pytest.param("a+b", "a+b", id="plus"),
        pytest.param("sp%20ace", "sp ace", id="space"),
        pytest.param("q%3Fx%26y", "q?x&y", id="query characters"),
        pytest.param("%C3%A9", "é", id="UTF-8"),
        pytest.param("a%FFb%FF%FE", "a\ufffdb\ufffd\ufffd", id="no UTF-8, shown byte by byte"),
        pytest.param("x%2Fy", "x/y", id="escaped slash"),
        pytest.param("dir/", "dir/", id="folder"),
        pytest.param("%22q%5C", '"q\\', id="quotes"),
    ],
)
async def test_keys_are_what_the_path_says(api: Handlers, path: str, shown: str) -> None:
    await put(api, path)
    assert await api.json("GET", "/v1/kv/?keys") == [shown]
    (entry,) = await api.json("GET", f"/v1/kv/{path}")
    assert entry["Key"] == shown


async def test_keys_that_look_alike_in_json_stay_apart(api: Handlers) -> None:
    await put(api, "%FE", b"1")
    await put(api, "%FF", b"2")
    assert (await api.request("GET", "/v1/kv/%FE?raw")).body == b"1"
    assert await api.json("DELETE", "/v1/kv/%FE") is True
    assert (await api.request("GET", "/v1/kv/%FF?raw")).body == b"2"


@pytest.mark.parametrize(
    ("method", "url", "status", "text"),
    [
        ("GET", "/v1/kv/", 400, "Missing key name"),
        ("PUT", "/v1/kv/", 400, "Missing key name"),
        ("DELETE", "/v1/kv/", 400, "Missing key name"),
        ("DELETE", "/v1/kv/?cas=1", 400, "Missing key name"),
        ("PUT", "/v1/kv/a?cas=0&acquire=x", 400, "Conflicting flags: acquire=x&cas=0"),
        (
            "PUT",
            "/v1/kv/a?release=y%20z&acquire=x",
            400,
            "Conflicting flags: acquire=x&release=y+z",
        ),
        ("PUT", "/v1/kv/a?cas=9&acquire=x&cas=0", 400, "Conflicting flags: acquire=x&cas=9&cas=0"),
        ("DELETE", "/v1/kv/a?recurse&cas=1", 400, "Conflicting flags: cas=1&recurse="),
        ("PUT", "/v1/kv/a?cas=%22", 500, 'strconv.ParseUint: parsing "\\"": invalid syntax'),
        ("PUT", "/v1/kv/a?flags=-1", 500, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        ("PUT", "/v1/kv/a?flags=", 500, 'strconv.ParseUint: parsing "": invalid syntax'),
        (
            "PUT",
            "/v1/kv/a?flags=18446744073709551616",
            500,
            'strconv.ParseUint: parsing "18446744073709551616": value out of range',
        ),
        ("PUT", "/v1/kv/a?cas=abc", 500, 'strconv.ParseUint: parsing "abc": invalid syntax'),
        ("DELETE", "/v1/kv/a?cas=zz", 500, 'strconv.ParseUint: parsing "zz": invalid syntax'),
        ("PUT", "/v1/kv/a?acquire=", 500, "missing session"),
        ("PUT", f"/v1/kv/a?acquire={UUID}", 500, f'invalid session "{UUID}"'),
        ("PUT", "/v1/kv/a?dc=nowhere", 500, "No path to datacenter"),
        ("GET", "/v1/kv/a?index=x", 400, "Invalid index"),
        ("POST", "/v1/kv/a", 405, "method POST not allowed"),
    ],
)
async def test_what_is_refused(
    api: Handlers, method: str, url: str, status: int, text: str
) -> None:
    response = await api.request(method, url, b"v" if method == "PUT" else b"")
    assert (response.status, response.body.decode()) == (status, text)
    assert await api.json("GET", "/v1/kv/?keys") == []


async def test_a_value_over_the_limit_is_refused_before_it_is_read() -> None:
    config = AgentConfig(node_name="node1", limits=Limits(kv_max_value_size=4))
    api = Handlers(make_facade(config=config), kv.routes)
    await put(api, "a", b"1234")
    response = await api.request("PUT", "/v1/kv/b", b"12345")
    assert response.status == 413
    assert response.body.startswith(b"Request body(5 bytes) too large, max size: 4 bytes. See ")
    chunked = await api.request("PUT", "/v1/kv/b", b"12345", headers={"content-length": ""})
    assert chunked.status == 413


async def test_flags_and_cas(api: Handlers) -> None:
    assert await api.json("PUT", "/v1/kv/a?cas=0&flags=18446744073709551615", b"1") is True
    assert await api.json("PUT", "/v1/kv/a?cas=0", b"2") is False
    (entry,) = await api.json("GET", "/v1/kv/a")
    assert entry["Flags"] == 18446744073709551615
    index = entry["ModifyIndex"]
    assert await api.json("DELETE", f"/v1/kv/a?cas={index + 1}") is False
    assert await api.json("DELETE", f"/v1/kv/a?cas={index}") is True


async def test_a_blocked_read_wakes_on_its_key_alone(api: Handlers) -> None:
    await put(api, "a", b"1")
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(api.request("GET", "/v1/kv/a?index=1&wait=60s"))
        await asyncio.sleep(0)
        await put(api, "b")
        await asyncio.sleep(0)
        assert not reader.done()
        await put(api, "a", b"2")
    assert header(reader.result(), "X-Consul-Index") == "3"
    (entry,) = msgspec.json.decode(reader.result().body)
    assert base64.b64decode(entry["Value"]) == b"2"


@given(
    st.binary(max_size=20),
    st.builds(
        KvEntry,
        modify_index=st.integers(1, 1 << 63),
        create_index=st.integers(1, 1 << 63),
        flags=st.integers(0, (1 << 64) - 1),
        lock_index=st.integers(0, 5),
        session=st.sampled_from(["", UUID]),
        value=st.binary(max_size=50),
    ),
)
def test_the_json_of_an_entry_says_what_is_in_it(key: bytes, entry: KvEntry) -> None:
    """Put together by hand for speed: it must be what an encoder would have made."""
    shown = msgspec.json.decode(entry_json(key, entry))
    expected = {
        "LockIndex": entry.lock_index,
        "Flags": entry.flags,
        "Value": base64.b64encode(entry.value).decode() if entry.value else None,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    }
    if entry.session:
        expected["Session"] = entry.session
    name = shown.pop("Key")
    assert shown == expected
    assert name == key.decode("utf-8", "surrogateescape").translate(
        dict.fromkeys(range(56448, 56576), "�")
    )
