"""`kv get`, `put`, `delete`, `export` and `import`; output as scripts read it (surface 2.4)."""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
from typing import Any, NamedTuple

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    read_data,
    say,
    say_bytes,
    warn,
)
from registry.client import ApiError, Response, key_path
from registry.errors import RegistryError
from registry.goflags import Flag, boolean, unsigned

MISSING_KEY = "Error! Missing KEY argument"

#: Whole groups of base64, the last of which may be padded.
_BASE64_GROUPS = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


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
    key = call.arguments[0].removeprefix("/") if call.arguments else ""
    if not key and needed:
        raise CommandError(MISSING_KEY)
    return key


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
        data, problem = decode_base64(data)
        if problem:  # scripts know this as a warning: what could be read is written
            warn(f"Error! Cannot base 64 decode data: {problem}")
    if (call["acquire"] or call["release"]) and not call["session"]:
        raise CommandError("Error! Missing -session (required with -acquire and -release)")
    if call["cas"] and not call["modify-index"]:
        raise CommandError("Must specify -modify-index with -cas!")
    mode = _put_mode(call, key)
    parameters = {**mode.parameters, "flags": call["flags"] or None}
    if not _write(call, key, data, parameters, mode.failed):
        raise CommandError(mode.refused)
    say(mode.done)
    return 0


class _Mode(NamedTuple):
    """A way to write: its parameters, and what is said afterwards."""

    parameters: dict[str, Any]
    done: str
    refused: str
    failed: str = "Error! Failed writing data"


def _put_mode(call: Invocation, key: str) -> _Mode:
    if call["cas"]:
        return _Mode(
            {"cas": call["modify-index"]},
            f"Success! Data written to: {key}",
            f"Error! Did not write to {key}: CAS failed",
            f"Error! Did not write to {key}",
        )
    if call["acquire"]:
        return _Mode(
            {"acquire": call["session"]},
            f"Success! Lock acquired on: {key}",
            "Error! Did not acquire lock",
        )
    if call["release"]:
        return _Mode(
            {"release": call["session"]},
            f"Success! Lock released on: {key}",
            "Error! Did not release lock",
        )
    return _Mode({}, f"Success! Data written to: {key}", f"Error! Did not write to {key}")


def _write(
    call: Invocation, key: str, data: bytes, parameters: dict[str, Any], failure: str
) -> bool:
    if key.startswith("/"):
        raise CommandError(f"{failure}: Invalid key. Key must not begin with a '/': {key}")
    try:
        return call.client.put(_entry_path(key), parameters, body=data).json() is True
    except RegistryError as problem:
        raise CommandError(f"{failure}: {problem}") from problem


def decode_base64(data: bytes) -> tuple[bytes, str]:
    """What the base64 stands for as far as it can be read, and why not further ("" when it all
    can). Line ends do not count. Source: RFC 4648, sections 3.1 and 4."""
    text = data.translate(None, b"\r\n")
    good = _BASE64_GROUPS.match(text)
    end = good.end() if good else 0
    if end == len(text):
        return binascii.a2b_base64(text), ""
    return binascii.a2b_base64(text[:end]), f"illegal base64 data at input byte {end}"


def delete(call: Invocation) -> int:
    key = _only_key(call, needed=not call["recurse"])
    if call["cas"] and not call["modify-index"]:
        raise CommandError("Must specify -modify-index with -cas!")
    if call["modify-index"] and not call["cas"]:
        raise CommandError("Cannot specify -modify-index without -cas!")
    if call["cas"] and call["recurse"]:
        raise CommandError("Cannot specify both -cas and -recurse!")
    failure = f"Error deleting key {key}"
    if call["recurse"]:
        failure = f"Error! Did not delete prefix {key}"
    elif call["cas"]:
        failure = f"Error! Did not delete key {key}"
    parameters = {
        "recurse": call["recurse"],
        "cas": call["modify-index"] if call["cas"] else None,
    }
    try:
        done = call.client.delete(_entry_path(key), parameters).json() is True
    except RegistryError as problem:
        raise CommandError(f"{failure}: {problem}") from problem
    if not done:
        raise CommandError(f"{failure}: CAS failed" if call["cas"] else failure)
    if call["recurse"]:
        say(f"Success! Deleted keys with prefix: {key}")
    else:
        say(f"Success! Deleted key: {key}")
    return 0


def export(call: Invocation) -> int:
    from registry.watch_views import encode  # not what every `kv get` has to pay for

    prefix = _only_key(call, needed=False)
    found = _query(call, prefix, {"recurse": True})
    entries = (found.json() or []) if found.status == 200 else []
    exported = [
        {"key": entry["Key"], "flags": entry["Flags"], "value": entry["Value"] or ""}
        for entry in entries
    ]
    say(encode(exported, indent="\t"))
    return 0


def import_(call: Invocation) -> int:
    if not call.arguments:
        raise CommandError("Error! Missing DATA argument")
    if len(call.arguments) > 1:
        raise CommandError(f"Error! Too many arguments (expected 1, got {len(call.arguments)})")
    if not call.arguments[0]:
        raise CommandError("Error! Empty DATA argument")
    entries = _parse_import(read_data(call.arguments[0]))
    for number, entry in enumerate(entries, 1):
        key = entry["key"]
        data, problem = decode_base64(entry["value"].encode())
        if problem:
            raise CommandError(f"Error base 64 decoding value for key {key}: {problem}")
        parameters = {"flags": entry["flags"] or None}
        _write(call, key, data, parameters, f"Error! Failed writing data for key {key}")
        say(f"Imported: {key}")
        _progress(number, len(entries))
    return 0


def _parse_import(data: bytes) -> list[dict[str, Any]]:
    try:
        text = data.decode("utf-8", "replace")
        raw = json.loads(text)
    except json.JSONDecodeError as problem:
        what = f"invalid character: {problem}"
        if problem.pos >= len(text.rstrip()):
            what = "unexpected end of JSON input"
        raise CommandError(f"Cannot unmarshal data: {what}") from problem
    if not isinstance(raw, list | None):
        raise _unlike("", "[]*impexp.Entry", raw)
    return [_import_entry(entry) for entry in raw or []]


def _import_entry(raw: Any) -> dict[str, Any]:
    """An entry with every field, whatever the letter case of its names; null leaves one out."""
    if not isinstance(raw, dict):
        raise _unlike("", "impexp.Entry", raw)
    entry: dict[str, Any] = {"key": "", "flags": 0, "value": ""}
    for given, value in raw.items():
        name = given.lower()
        if name not in entry or value is None:
            continue
        is_number = type(value) is int and 0 <= value < 1 << 64
        if not (is_number if name == "flags" else isinstance(value, str)):
            kind = "uint64" if name == "flags" else "string"
            raise _unlike(f"Go struct field Entry.{name} of type ", kind, value)
        entry[name] = value
    return entry


def _unlike(place: str, kind: str, value: Any) -> CommandError:
    """What is said of JSON of another type, in the words that scripts know."""
    match value:
        case bool():
            found = "bool"
        case int() | float():
            found = f"number {json.dumps(value)}" if kind == "uint64" else "number"
        case str():
            found = "string"
        case list():
            found = "array"
        case _:
            found = "object"
    place = place or "Go value of type "
    return CommandError(f"Cannot unmarshal data: json: cannot unmarshal {found} into {place}{kind}")


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
