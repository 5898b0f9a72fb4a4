"""`kv get`, `put`, `delete`, `export` and `import`; output as scripts read it (surface 2.4)."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from typing import Any

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    read_data,
    say,
    say_bytes,
)
from registry.client import ApiError, Response, key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, unsigned

MISSING_KEY = "Error! Missing KEY argument"


def _entry_path(key: str) -> str:
    return key_path("/v1/kv", key)


def _query(call: Invocation, key: str, parameters: dict[str, Any]) -> Response:
    """Read from the KV store; the body of an error answer is not shown, only its status."""
    try:
        return call.client.get(_entry_path(key), parameters, accept=(200, 404))
    except ApiError as problem:
        raise CommandError(
            f"Error querying registry agent: Unexpected response code: {problem.status}"
        ) from problem
    except RegistryError as problem:
        raise CommandError(f"Error querying registry agent: {problem}") from problem


def _only_key(call: Invocation, *, needed: bool) -> str:
    if len(call.arguments) > 1:
        raise CommandError(f"Too many arguments (expected 1, got {len(call.arguments)})")
    key = call.arguments[0] if call.arguments else ""
    if not key and needed:
        raise CommandError(MISSING_KEY)
    return key.removeprefix("/")


def get(call: Invocation) -> int:
    key = _only_key(call, needed=not (call["keys"] or call["recurse"]))
    if call["keys"]:
        found = _query(call, key, {"keys": True, "separator": call["separator"]})
        for name in found.json() or [] if found.status == 200 else []:
            say(name)
        return 0
    if call["recurse"]:
        return _get_tree(call, key)
    found = _query(call, key, {})
    if found.status == 404:
        raise CommandError(f"Error! No key exists at: {key}")
    entry = found.json()[0]
    if call["detailed"]:
        _print_detailed(entry, as_base64=call["base64"])
    else:
        say_bytes(_shown_value(entry, as_base64=call["base64"]))
    return 0


def _get_tree(call: Invocation, prefix: str) -> int:
    found = _query(call, prefix, {"recurse": True})
    entries = found.json() if found.status == 200 else []
    for number, entry in enumerate(entries or []):
        if call["detailed"]:
            if number:
                say("")
            _print_detailed(entry, as_base64=call["base64"])
        else:
            shown = _shown_value(entry, as_base64=call["base64"])
            say_bytes(entry["Key"].encode() + b":" + shown)
    return 0


def _shown_value(entry: dict[str, Any], *, as_base64: bool) -> bytes:
    encoded: str = entry["Value"] or ""
    return encoded.encode() if as_base64 else base64.b64decode(encoded)


def _print_detailed(entry: dict[str, Any], *, as_base64: bool) -> None:
    for name in ("CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex"):
        say(f"{name:<16} {entry[name]}")
    say(f"{'Session':<16} {entry.get('Session') or '-'}")
    say_bytes(f"{'Value':<16} ".encode() + _shown_value(entry, as_base64=as_base64))


def put(call: Invocation) -> int:
    if not call.arguments:
        raise CommandError(MISSING_KEY)
    if len(call.arguments) > 2:
        raise CommandError(
            f"Error! Too many arguments (expected 1 or 2, got {len(call.arguments)})"
        )
    key = call.arguments[0]
    data = read_data(call.arguments[1]) if len(call.arguments) == 2 else b""
    if call["base64"]:
        data = _decode_base64(data, "Error! Cannot base 64 decode data")
    if (call["acquire"] or call["release"]) and not call["session"]:
        raise CommandError("Error! Missing -session (required with -acquire and -release)")
    if call["cas"] and "modify-index" not in call.flags.given:
        raise CommandError("Must specify -modify-index with -cas!")
    parameters, done, failed = _put_mode(call, key)
    parameters["flags"] = call["flags"] or None
    if not _write(call, key, data, parameters, "Error! Failed writing data"):
        raise CommandError(failed)
    say(done)
    return 0


def _put_mode(call: Invocation, key: str) -> tuple[dict[str, Any], str, str]:
    """Parameters, and what to say on success and on failure."""
    if call["cas"]:
        return (
            {"cas": call["modify-index"]},
            f"Success! Data written to: {key}",
            f"Error! Did not write to {key}: CAS failed",
        )
    if call["acquire"]:
        return (
            {"acquire": call["session"]},
            f"Success! Lock acquired on: {key}",
            "Error! Did not acquire lock",
        )
    if call["release"]:
        return (
            {"release": call["session"]},
            f"Success! Lock released on: {key}",
            "Error! Did not release lock",
        )
    return {}, f"Success! Data written to: {key}", f"Error! Did not write to {key}"


def _write(
    call: Invocation, key: str, data: bytes, parameters: dict[str, Any], failure: str
) -> bool:
    if key.startswith("/"):
        raise CommandError(f"{failure}: Invalid key. Key must not begin with a '/': {key}")
    try:
        return bool(call.client.put(_entry_path(key), parameters, body=data).json())
    except RegistryError as problem:
        raise CommandError(f"{failure}: {problem}") from problem


def _decode_base64(data: bytes, failure: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as problem:
        raise CommandError(f"{failure}: illegal base64 data ({problem})") from problem


def delete(call: Invocation) -> int:
    key = _only_key(call, needed=not call["recurse"])
    if call["cas"] and call["recurse"]:
        raise CommandError("Cannot specify both -cas and -recurse!")
    if call["cas"] and not call["modify-index"]:
        raise CommandError("Must specify -modify-index with -cas!")
    if call["modify-index"] and not call["cas"]:
        raise CommandError("Cannot specify -modify-index without -cas!")
    what = f"prefix {key}" if call["recurse"] else f"key {key}"
    parameters = {
        "recurse": call["recurse"],
        "cas": call["modify-index"] if call["cas"] else None,
    }
    try:
        done = call.client.delete(_entry_path(key), parameters).json()
    except RegistryError as problem:
        raise CommandError(f"Error! Did not delete {what}: {problem}") from problem
    if not done:
        raise CommandError(f"Error! Did not delete {what}: CAS failed")
    if call["recurse"]:
        say(f"Success! Deleted keys with prefix: {key}")
    else:
        say(f"Success! Deleted key: {key}")
    return 0


def export(call: Invocation) -> int:
    prefix = _only_key(call, needed=False)
    found = _query(call, prefix, {"recurse": True})
    entries = (found.json() or []) if found.status == 200 else []
    exported = [
        {"key": entry["Key"], "flags": entry["Flags"], "value": entry["Value"] or ""}
        for entry in entries
    ]
    say(json.dumps(exported, indent="\t", ensure_ascii=False))
    return 0


def import_(call: Invocation) -> int:
    if not call.arguments:
        raise CommandError("Error! Missing DATA argument")
    if len(call.arguments) > 1:
        raise CommandError(f"Error! Too many arguments (expected 1, got {len(call.arguments)})")
    entries = _parse_import(read_data(call.arguments[0]))
    for number, entry in enumerate(entries, 1):
        key = entry["key"]
        data = _decode_base64(
            entry["value"].encode(), f"Error base 64 decoding value for key {key}"
        )
        parameters = {"flags": entry["flags"] or None}
        _write(call, key, data, parameters, f"Error! Failed writing data for key {key}")
        say(f"Imported: {key}")
        _progress(number, len(entries))
    return 0


def _parse_import(data: bytes) -> list[dict[str, Any]]:
    try:
        raw = json.loads(data)
    except ValueError as problem:
        raise CommandError(f"Cannot unmarshal data: invalid character: {problem}") from problem
    if not isinstance(raw, list):
        raise CommandError("Cannot unmarshal data: not an array of entries")
    return [_import_entry(number, entry) for number, entry in enumerate(raw)]


def _import_entry(number: int, raw: Any) -> dict[str, Any]:
    entry = {name.lower(): value for name, value in raw.items()} if isinstance(raw, dict) else {}
    key, flags, value = entry.get("key"), entry.get("flags", 0), entry.get("value") or ""
    if not isinstance(key, str) or not isinstance(value, str) or not isinstance(flags, int):
        raise CommandError(
            f"Cannot unmarshal data: entry {number} is not of the form "
            '{"key": text, "flags": number, "value": base64 text}'
        )
    return {"key": key, "flags": flags, "value": value}


def _progress(done: int, total: int) -> None:
    """A counter on a terminal while the list goes elsewhere."""
    if total > 100 and sys.stderr.isatty() and not sys.stdout.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done * 100 // total:3d} % ({done}/{total})", end=end, file=sys.stderr)


_CAS_FLAGS = (
    Flag("cas", "Check-and-set: change only while -modify-index is current.", boolean, False),
    Flag("modify-index", "ModifyIndex that the key must have, with -cas.", unsigned, 0),
)

COMMANDS = {
    "kv get": Command(
        "kv get",
        "[KEY_OR_PREFIX]",
        "Reads a key, or with -recurse or -keys everything below a prefix.\n\n"
        "  registry kv get app/port\n  registry kv get -recurse app/\n  registry kv get -keys app/",
        get,
        (
            Flag("base64", "Show values in base64.", boolean, False),
            Flag("detailed", "Show all fields of an entry.", boolean, False),
            Flag("keys", "List key names only.", boolean, False),
            Flag("recurse", "Read everything below the prefix.", boolean, False),
            Flag("separator", 'Where -keys cuts names; default "/".', default="/"),
        ),
    ),
    "kv put": Command(
        "kv put",
        "KEY [DATA]",
        "Writes a key. DATA is the value itself, @FILE, or - for standard input.\n\n"
        "  registry kv put app/port 8080\n  registry kv put app/logo @logo.png",
        put,
        (
            Flag("acquire", "Take the lock on the key for -session.", boolean, False),
            Flag("base64", "DATA is in base64; store what it stands for.", boolean, False),
            Flag("flags", "Number to keep with the key, 0 to 2^64-1.", unsigned, 0),
            Flag("release", "Give the lock of -session back.", boolean, False),
            Flag("session", "Session that locks or unlocks.", default=""),
            *_CAS_FLAGS,
        ),
    ),
    "kv delete": Command(
        "kv delete",
        "KEY_OR_PREFIX",
        "Deletes a key, or with -recurse everything that starts with a prefix.",
        delete,
        (
            Flag("recurse", "Delete every key with the prefix.", boolean, False),
            *_CAS_FLAGS,
        ),
    ),
    "kv export": Command(
        "kv export",
        "[KEY_OR_PREFIX]",
        "Prints everything below a prefix as a JSON array that `kv import` reads.",
        export,
    ),
    "kv import": Command(
        "kv import",
        "DATA",
        "Writes what `kv export` printed. DATA is the JSON itself, @FILE, or - for standard input.",
        import_,
    ),
}
