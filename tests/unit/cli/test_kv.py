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
        pytest.param(
            ["put", "-cas", "-modify-index=0", "k/a"],
            "Must specify -modify-index with -cas!",
            id="put-cas-zero",
        ),
        pytest.param(
            ["put", "-cas", "-modify-index=9", "/a"],
            "Error! Did not write to /a: Invalid key.",
            id="put-cas-slash",
        ),
        pytest.param(
            ["put", "-namespace=x", "a", "b"],
            "Error! Failed writing data: Unexpected response code: 400 (Bad request: ",
            id="put-namespace",
        ),
        pytest.param(["put", "/a", "b"], "Key must not begin with a '/': /a", id="put-slash"),
        pytest.param(
            ["put", "a", "@."], "Error! Failed to read file: read .: is a dir", id="put-directory"
        ),
        pytest.param(["get"], "Error! Missing KEY argument", id="get-nothing"),
        pytest.param(["get", "/"], "Error! Missing KEY argument", id="get-root"),
        pytest.param(["delete", "/"], "Error! Missing KEY argument", id="delete-root"),
        pytest.param(["get", "k/none"], "Error! No key exists at: k/none", id="get-none"),
        pytest.param(["get", "/k/none"], "Error! No key exists at: k/none", id="get-slash"),
        pytest.param(
            ["get", "-datacenter=dc9", "a"], "Unexpected response code: 500", id="get-datacenter"
        ),
        pytest.param(["delete"], "Error! Missing KEY argument", id="delete-nothing"),
        pytest.param(
            ["delete", "-cas", "-modify-index=1", "-recurse", "a"],
            "Cannot specify both",
            id="delete-both",
        ),
        pytest.param(
            ["delete", "-datacenter=dc9", "a"], "Error deleting key a: Unex", id="delete-failed"
        ),
        pytest.param(["delete", "-cas", "a"], "Must specify -modify-index", id="delete-cas-index"),
        pytest.param(
            ["delete", "-modify-index=1", "a"], "without -cas!", id="delete-index-without"
        ),
        pytest.param(["import"], "Error! Missing DATA argument", id="import-nothing"),
        pytest.param(["import", "a", "b"], "expected 1, got 2", id="import-too-many"),
        pytest.param(["import", ""], "Error! Empty DATA argument", id="import-empty"),
        pytest.param(["import", "{a"], "Cannot unmarshal data: invalid character", id="import-bad"),
        pytest.param(["import", "[{ "], "data: unexpected end of JSON input", id="import-cut"),
        pytest.param(
            ["import", "{}"],
            "data: json: cannot unmarshal object into Go value of type []*impexp.Entry",
            id="import-object",
        ),
        pytest.param(
            ["import", "[[]]"],
            "data: json: cannot unmarshal array into Go value of type impexp.Entry",
            id="import-list",
        ),
        pytest.param(
            ["import", '[{"key":1}]'],
            "json: cannot unmarshal number into Go struct field Entry.key of type string",
            id="import-key",
        ),
        pytest.param(
            ["import", '[{"key":"k/a","flags":-1}]'],
            "json: cannot unmarshal number -1 into Go struct field Entry.flags of type uint64",
            id="import-flags",
        ),
        pytest.param(
            ["import", '[{"key":"k/a","flags":true}]'],
            "json: cannot unmarshal bool into Go struct field Entry.flags of type uint64",
            id="import-truth",
        ),
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


@pytest.mark.parametrize(
    ("data", "value", "at"),
    [
        pytest.param(b"aGVsbG8=\n", "hello", None, id="line-end"),
        pytest.param(b"aGVs\r\nbG8=", "hello", None, id="line-end-inside"),
        pytest.param(b"", "", None, id="nothing"),
        pytest.param(b"?", "", 0, id="no-base64"),
        pytest.param(b"aGVsb", "hel", 4, id="cut"),
        pytest.param(b"aGVsbG8=aGVs", "hello", 8, id="goes-on"),
    ],
)
def test_base64_is_written_as_far_as_it_goes(
    registry: Run, data: bytes, value: str, at: int | None
) -> None:
    done = registry("kv", "put", "-base64", "k/a", "-", stdin=data)
    assert (done.status, done.out) == (0, "Success! Data written to: k/a\n")
    said = f"illegal base64 data at input byte {at}"
    told = "" if at is None else f"Error! Cannot base 64 decode data: {said}\n"
    assert done.err == told
    assert registry("kv", "get", "k/a").out == f"{value}\n"


def test_a_slash_too_many(registry: Run, agent: AgentProcess) -> None:
    """An agent sends whoever asks on to the clean path; what follows is a read."""
    refused = "Error! Failed writing data: Unexpected response code: 404 ()\n"
    assert registry("kv", "put", "k//s", "v") == (1, "", refused)
    agent.client.kv_put("k/s", b"there")
    assert registry("kv", "get", "k//s").out == "there\n"
    assert registry("kv", "put", "k//s", "v") == (1, "", "Error! Did not write to k//s\n")
    assert registry("kv", "delete", "k//s") == (1, "", "Error deleting key k//s\n")
    assert agent.client.kv_get("k/s") == b"there"


def test_check_and_set(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("k/a", b"v")
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


def test_export_escapes_as_others_do(registry: Run, agent: AgentProcess) -> None:
    agent.client.kv_put("k/<&>\u00e9", b"")
    assert '"key": "k/\\u003c\\u0026\\u003e\u00e9"' in registry("kv", "export", "k/").out
    assert registry("kv", "import", "null") == (0, "", "")


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
