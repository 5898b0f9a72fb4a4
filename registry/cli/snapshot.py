"""`snapshot`: the state of the servers as one file, and back.

The file is a gzip'ed tar with `meta.json`, `state.bin` and the hashes of both. It is verified here
when it is saved, and by the server before it replaces anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any

from registry.cli.command import (
    Command,
    CommandError,
    Invocation,
    file_problem,
    only_argument,
    say,
    table,
)
from registry.errors import Corrupt, RegistryError

_PIECE_BYTES = 1 << 20

#: The least that a gzip'ed file begins with. Source: RFC 1952, section 2.3.
_GZIP_HEAD_BYTES = 10

_HASHED = ("meta.json", "state.bin")


def save(call: Invocation) -> int:
    """Write beside the file and rename at the end: what is there is always a whole snapshot."""
    path = Path(only_argument(call, "FILE"))
    partial = path.with_name(f"{path.name}.unverified")
    try:
        _download(call, partial)
        try:
            meta = verify(partial)
        except Corrupt as problem:
            raise CommandError(f"Error verifying snapshot file: {problem}") from problem
        partial.replace(path)
    except OSError as problem:
        reason = file_problem(str(path), problem)
        raise CommandError(f"Error writing unverified snapshot file: {reason}") from problem
    finally:
        partial.unlink(missing_ok=True)
    say(f"Saved and verified snapshot to index {meta['Index']}")
    return 0


def _download(call: Invocation, partial: Path) -> None:
    with open(partial, "wb", opener=_private) as file:
        try:
            for piece in call.client.stream("/v1/snapshot"):
                file.write(piece)
        except RegistryError as problem:
            raise CommandError(f"Error saving snapshot: {problem}") from problem
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def restore(call: Invocation) -> int:
    path = only_argument(call, "FILE")
    try:
        with open(path, "rb") as file:
            call.client.put("/v1/snapshot", body=file)
    except OSError as problem:
        raise _cannot_open(path, problem) from problem
    except RegistryError as problem:
        raise CommandError(f"Error restoring snapshot: {problem}") from problem
    say("Restored snapshot")
    return 0


def inspect(call: Invocation) -> int:
    path = only_argument(call, "FILE")
    try:
        meta = verify(Path(path))
    except OSError as problem:
        raise _cannot_open(path, problem) from problem
    except Corrupt as problem:
        raise CommandError(f"Error verifying snapshot: {problem}") from problem
    names = ("ID", "Size", "Index", "Term", "Version")
    say(table([[name, str(meta[name])] for name in names], gap=6))
    return 0


def _cannot_open(path: str, problem: OSError) -> CommandError:
    return CommandError(f"Error opening snapshot file: {file_problem(path, problem)}")


def verify(path: Path) -> dict[str, Any]:
    """What the snapshot says about itself, once its hashes are right. Raises `Corrupt`, OSError."""
    with path.open("rb") as file:
        head = file.read(_GZIP_HEAD_BYTES)
        if len(head) < _GZIP_HEAD_BYTES:
            raise Corrupt(f"failed to decompress snapshot: {'unexpected ' if head else ''}EOF")
        if not head.startswith(b"\x1f\x8b"):
            raise Corrupt("failed to decompress snapshot: gzip: invalid header")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r|gz") as archive:
                texts, sums = _read(archive)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as problem:
            raise Corrupt(f"failed to decompress snapshot: gzip: {problem}") from problem
    for name in _HASHED:
        listed = f"{sums.get(name)}  {name}"
        if name not in sums or listed not in texts.get("SHA256SUMS", "").splitlines():
            raise Corrupt(f'hash check failed for "{name}"')
    return _meta(texts["meta.json"])


def _meta(text: str) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except ValueError as problem:
        raise Corrupt(f"failed to decode meta.json: {problem}") from problem
    if not isinstance(meta, dict) or meta.get("Version") != 1:
        raise Corrupt("unsupported snapshot version")
    if missing := {"ID", "Size", "Index", "Term"} - meta.keys():
        raise Corrupt(f"meta.json has no {', '.join(sorted(missing))}")
    return meta


def _read(archive: tarfile.TarFile) -> tuple[dict[str, str], dict[str, str]]:
    """The small members' text, and the hash of every member."""
    texts, sums = {}, {}
    for entry in archive:
        content = archive.extractfile(entry)
        if content is None:
            raise Corrupt(f'unexpected file "{entry.name}" in snapshot')
        whole, text = hashlib.sha256(), b""
        while piece := content.read(_PIECE_BYTES):
            whole.update(piece)
            if entry.name != "state.bin":
                text += piece
        texts[entry.name], sums[entry.name] = text.decode("utf-8", "replace"), whole.hexdigest()
    return texts, sums


COMMANDS = {
    "snapshot save": Command(
        "snapshot save",
        "FILE",
        "Saves the replicated state into a file: keys, catalog, sessions, queries and all else.\n\n"
        "  registry snapshot save backup.snap",
        save,
    ),
    "snapshot restore": Command(
        "snapshot restore",
        "FILE",
        "Replaces the replicated state by what a snapshot file holds. What was written since the\n"
        "file was saved is lost.",
        restore,
    ),
    "snapshot inspect": Command(
        "snapshot inspect",
        "FILE",
        "Verifies a snapshot file and shows what it is.",
        inspect,
        (),
        "",
    ),
}
