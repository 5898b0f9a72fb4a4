"""`kv`: what is written, read, printed and refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from registry.cli.kv import COMMANDS
from registry.testing.command_line import Run, Stub
from registry.testing.process import AgentProcess


@pytest.fixture(autouse=True)
def _fresh(agent: AgentProcess) -> None:
    agent.client.kv_delete("k/", recurse=True)


@pytest.mark.parametrize(
    ("words", "stdin", "value"),
    [
        pytest.param(["v"], b"", b"v", id="text"),
        pytest.param([], b"", b"", id="nothing"),
        pytest.param([""], b"", b"", id="empty"),
        pytest.param(["-"], b"\x00\xff\n", b"\x00\xff\n", id="standard-input"),
        pytest.param(["@file"], b"", b"from\nfile\n", id="file"),
        pytest.param(["-5"], b"", b"-5", id="looks-like-a-flag"),
        pytest.param(["ä"], b"", "ä".encode(), id="unicode"),
    ],
)
def test_put_data(
    registry: Run, agent: AgentProcess, words: list[str], stdin: bytes, value: bytes
) -> None:
    Path("file").write_bytes(b"from\nfile\n")
    done = registry("kv", "put", "k/a", *words, stdin=stdin)
    assert done == (0, "Success! Data written to: k/a\n", "")
    assert agent.client.kv_get("k/a") == value


@pytest.mark.parametrize("flags", ["0", "42", "0x10", "18446744073709551615"])
def test_put_flags(registry: Run, flags: str) -> None:
    assert registry("kv", "put", f"-flags={flags}", "k/a", "v").status == 0
    shown = registry("kv", "get", "-detailed", "k/a").out.splitlines()
    assert shown[1] == f"Flags            {int(flags, 0)}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["put"], "Error! Missing KEY argument", id="put-nothing"),
        pytest.param(["put", "a", "b", "c"], "expected 1 or 2, got 3", id="put-too-many"),
        pytest.param(
            ["put", "a", "@none"],
            "Error! Failed to read file: open none: no such file or directory",
            id="put-no-file",
        ),
        pytest.param(["put", "-base64", "a", "?"], "illegal base64 data", id="put-base64"),
        pytest.param(["put", "-flags=-1", "a"], "for flag -flags: parse error", id="put-minus"),
        pytest.param(
            ["put", "-flags=18446744073709551616", "a"], "value out of range", id="put-range"
        ),
        pytest.param(["put", "-acquire", "a"], "Error! Missing -session", id="put-session"),
        pytest.param(
            ["put", "-cas", "a"], "Must specify -modify-index with -cas!", id="put-cas-index"
        ),
        pytest.param(
            ["put", "-cas", "-modify-index=9", "k/a"],
            "Error! Did not write to k/a: CAS failed",
            id="put-cas",
        ),
        pytest.param(["put", "/a", "b"], "Key must not begin with a '/': /a", id="put-slash"),
        pytest.param(["get"], "Error! Missing KEY argument", id="get-nothing"),
        pytest.param(["get", "k/none"], "Error! No key exists at: k/none", id="get-none"),
        pytest.param(["get", "/k/none"], "Error! No key exists at: k/none", id="get-slash"),
        pytest.param(
            ["get", "-datacenter=dc9", "a"], "Unexpected response code: 500", id="get-datacenter"
        ),
        pytest.param(["delete"], "Error! Missing KEY argument", id="delete-nothing"),
        pytest.param(["delete", "-cas", "-recurse", "a"], "Cannot specify both", id="delete-both"),
        pytest.param(["delete", "-cas", "a"], "Must specify -modify-index", id="delete-cas-index"),
        pytest.param(
            ["delete", "-modify-index=1", "a"], "without -cas!", id="delete-index-without"
        ),
        pytest.param(["import"], "Error! Missing DATA argument", id="import-nothing"),
        pytest.param(["import", "a", "b"], "expected 1, got 2", id="import-too-many"),
        pytest.param(["import", "{"], "Cannot unmarshal data: invalid character", id="import-json"),
        pytest.param(["import", "{}"], "not an array of entries", id="import-object"),
        pytest.param(["import", '[{"key":1}]'], "entry 0 is not of the form", id="import-entry"),
        pytest.param(
            ["import", '[{"key":"k/a","value":"?"}]'],
            "Error base 64 decoding value for key k/a",
            id="import-base64",
        ),
    ],
)
def test_refusals(registry: Run, words: list[str], said: str) -> None:
    done = registry("kv", *words)
    assert (done.status, done.out) == (1, "")
    assert said in done.err


@pytest.mark.parametrize(
    ("words", "out"),
    [
        pytest.param(["k/a"], "one\n", id="value"),
        pytest.param(["/k/a"], "one\n", id="slash-dropped"),
        pytest.param(["-base64", "k/a"], "b25l\n", id="base64"),
        pytest.param(["-recurse", "k/"], "k/a:one\nk/b/c:\nk/b/d:two\n", id="recurse"),
        pytest.param(["-recurse", "-base64", "k/b"], "k/b/c:\nk/b/d:dHdv\n", id="recurse-base64"),
        pytest.param(["-recurse", "k/none"], "", id="recurse-nothing"),
        pytest.param(["-keys", "k/"], "k/a\nk/b/\n", id="keys"),
        pytest.param(["-keys", "-separator=", "k/"], "k/a\nk/b/c\nk/b/d\n", id="keys-all"),
        pytest.param(["-keys", "k/none"], "", id="keys-nothing"),
    ],
)
def test_get(registry: Run, agent: AgentProcess, words: list[str], out: str) -> None:
    for key, value in (("k/a", b"one"), ("k/b/c", b""), ("k/b/d", b"two")):
        agent.client.kv_put(key, value)
    assert registry("kv", "get", *words) == (0, out, "")


def test_detailed(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("k/a", b"one")
    agent.client.kv_put("k/b", b"")
    first, second = registry("kv", "get", "-recurse", "-detailed", "k/").out.split("\n\n")
    names = [line.split()[0] for line in first.splitlines()]
    assert names == ["CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex", "Session", "Value"]
    assert first.splitlines()[5:] == ["Session          -", "Value            one"]
    assert second.endswith("\nValue            \n")


def test_locks(registry: Run, agent: AgentProcess) -> None:
    first, second = (
        agent.client.put("/v1/session/create", json_body={}).json()["ID"] for _ in range(2)
    )
    take, give = ("kv", "put", "-acquire"), ("kv", "put", "-release")
    assert registry(*take, f"-session={first}", "k/l").out == "Success! Lock acquired on: k/l\n"
    assert registry(*take, f"-session={second}", "k/l").err == "Error! Did not acquire lock\n"
    assert registry(*give, f"-session={second}", "k/l").err == "Error! Did not release lock\n"
    assert f"Session          {first}" in registry("kv", "get", "-detailed", "k/l").out
    assert registry(*give, f"-session={first}", "k/l").out == "Success! Lock released on: k/l\n"


def test_check_and_set(registry: Run, agent: AgentProcess) -> None:
    assert registry("kv", "put", "-cas", "-modify-index=0", "k/a", "v").status == 0
    index = agent.client.kv_list("k/a")[0]["ModifyIndex"]
    stale = registry("kv", "delete", "-cas", "-modify-index=1", "k/a")
    assert stale == (1, "", "Error! Did not delete key k/a: CAS failed\n")
    assert registry("kv", "delete", "-cas", f"-modify-index={index}", "k/a").out == (
        "Success! Deleted key: k/a\n"
    )


def test_delete_a_prefix(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("k/a", b"")
    agent.client.kv_put("k/b", b"")
    assert registry("kv", "delete", "-recurse", "k/") == (
        0,
        "Success! Deleted keys with prefix: k/\n",
        "",
    )
    assert agent.client.kv_list("k/") == []


def test_export_and_import(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("k/a", b"\x00\xff", flags=7)
    agent.client.kv_put("k/b", b"")
    exported = registry("kv", "export", "k/").out
    assert exported.startswith('[\n\t{\n\t\t"key": "k/a",\n\t\t"flags": 7,\n\t\t"value": "AP8="')
    assert registry("kv", "export", "k/none").out == "[]\n"
    agent.client.kv_delete("k/", recurse=True)
    done = registry("kv", "import", "-", stdin=exported.encode())
    assert done == (0, "Imported: k/a\nImported: k/b\n", "")
    assert agent.client.kv_get("k/a") == b"\x00\xff"
    assert registry("kv", "export", "k/").out == exported


def test_what_others_exported(registry: Run, agent: AgentProcess) -> None:
    """Member names in any letter case, flags and value left out."""
    value = base64.b64encode(b"v").decode()
    data = json.dumps([{"Key": "k/a", "Value": value, "Flags": 3}, {"key": "k/b"}])
    assert registry("kv", "import", data).status == 0
    assert [entry["Flags"] for entry in agent.client.kv_list("k/")] == [3, 0]


def test_only_the_status_of_a_failed_read_is_shown(cli: Run, stub: Stub) -> None:
    stub.answer("GET /v1/kv/a", b"secret detail", status=500)
    assert cli("kv", "get", "a").err == (
        "Error querying registry agent: Unexpected response code: 500\n"
    )


def test_the_help_shows_examples() -> None:
    assert "registry kv get -recurse app/" in COMMANDS["kv get"].help()
