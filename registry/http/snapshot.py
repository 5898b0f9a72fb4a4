"""`/v1/snapshot`: the replicated state as one file, and back.

The file is a gzip'ed tar with `meta.json` (what and when), `state.bin` (the state) and `SHA256SUMS`
(of both), so that people and tools can look into it.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

from registry.agent.facade import AgentFacade
from registry.errors import Corrupt
from registry.http.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Routes,
    empty_response,
    encode_json,
)
from registry.http.errors import check
from registry.http.operations import (
    BYTES,
    PRESENT,
    Answer,
    Body,
    Operation,
    Parameter,
    Refusal,
)
from registry.http.options import DATACENTER, INDEX_HEADERS, STALE
from registry.http.params import datacenter
from registry.state.dump import StateDump
from registry.state.machine import dump_payloads
from registry.state.restore import FinishRestore, StageRestore, digest

routes = Routes()

CONTENT_TYPE = "application/x-gzip"

NO_STALE_RESTORE = "stale not allowed for restore"
_NOT_STALE = Parameter(
    "stale",
    "Refused: the leader alone can restore.",
    PRESENT,
    refusals=(Refusal(500, NO_STALE_RESTORE),),
)

#: The largest file that is taken in; it is held in memory while it is verified.
SNAPSHOT_BYTES_MAX = 512 << 20

#: Up to this much is kept in memory while a file is made.
_SPOOL_BYTES_MAX = 8 << 20

_PIECE_BYTES = 256 << 10

#: Most bytes that the members of one file may have when unpacked: guards against zip bombs.
_STATE_BYTES_MAX = 8 << 30


@routes.get(
    "/v1/snapshot",
    Operation(
        summary="Save the replicated state",
        parameters=(DATACENTER, STALE),
        answers=(Answer(BYTES, "The file", media=(CONTENT_TYPE,), headers=INDEX_HEADERS),),
    ),
)
async def save(request: ApiRequest) -> ApiResponse:
    datacenter(request)
    dump = await request.agent.backend.open_dump()
    _, servers = await request.agent.backend.raft_configuration()
    file = await asyncio.to_thread(write_archive, dump, servers)
    headers = [
        ("X-Consul-Index", str(dump.index or 1)),
        ("X-Consul-Knownleader", "true"),
        ("X-Consul-Lastcontact", "0"),
    ]
    return ApiResponse(200, content_type=CONTENT_TYPE, headers=headers, stream=_pieces(file))


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece
    finally:
        file.close()


def write_archive(dump: StateDump, servers: list[dict[str, Any]]) -> IO[bytes]:
    """The file, complete and rewound. Blocks; closes the dump."""
    archive: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL_BYTES_MAX)  # noqa: SIM115
    try:
        with dump, tempfile.SpooledTemporaryFile(_SPOOL_BYTES_MAX) as state:
            size, state_sum = _spool(dump.chunks, state)
            meta = _meta(dump, servers, size)
            sums = f"{hashlib.sha256(meta).hexdigest()}  meta.json\n{state_sum}  state.bin\n"
            state.seek(0)
            with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=3) as tar:
                _add(tar, "meta.json", io.BytesIO(meta), len(meta))
                _add(tar, "state.bin", state, size)
                _add(tar, "SHA256SUMS", io.BytesIO(sums.encode()), len(sums))
    except BaseException:
        archive.close()
        raise
    archive.seek(0)
    return archive


def _spool(chunks: Iterator[bytes], file: IO[bytes]) -> tuple[int, str]:
    size, whole = 0, hashlib.sha256()
    for chunk in chunks:
        size += file.write(chunk)
        whole.update(chunk)
    return size, whole.hexdigest()


def _meta(dump: StateDump, servers: list[dict[str, Any]], size: int) -> bytes:
    meta = {
        "Version": 1,
        "ID": f"{dump.term}-{dump.index}-{time.time_ns() // 1_000_000}",
        "Index": dump.index,
        "Term": dump.term,
        "Configuration": {
            "Servers": [
                {
                    "Suffrage": 0 if server["Voter"] else 1,
                    "ID": server["ID"],
                    "Address": server["Address"],
                }
                for server in servers
            ]
        },
        "Size": size,
    }
    return encode_json(meta)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    tar.addfile(entry, content)


@routes.put(
    "/v1/snapshot",
    Operation(
        summary="Replace the replicated state",
        parameters=(DATACENTER, _NOT_STALE),
        body=Body(
            BYTES,
            "The file as it was saved.",
            CONTENT_TYPE,
            refusals=(Refusal(413, "Request body(… bytes) too large…"),),
        ),
        refusals=(
            Refusal(500, "failed to restore snapshot: …"),
            Refusal(409, "another restore came in between; nothing was restored"),
        ),
    ),
)
async def restore(request: ApiRequest) -> ApiResponse:
    """Verify the whole file, then replace the state by commands (`registry.state.restore`)."""
    datacenter(request)
    if "stale" in request.query:
        raise HttpError(500, NO_STALE_RESTORE)
    body = await request.body(SNAPSHOT_BYTES_MAX)
    try:
        payloads = await asyncio.to_thread(read_archive, body)
    except Corrupt as problem:
        raise HttpError(500, f"failed to restore snapshot: {problem}") from problem
    await _replace_state(request.agent, payloads)
    return empty_response()


async def _replace_state(agent: AgentFacade, payloads: list[bytes]) -> None:
    for number, payload in enumerate(payloads):
        check(await agent.write(StageRestore(number=number, pairs=payload)))
    done = FinishRestore(count=len(payloads), sha256=digest(payloads))
    check(await agent.write(done))


def read_archive(raw: bytes) -> list[bytes]:
    """The pieces of the state in a file, everything verified. Raises `Corrupt`; blocks."""
    members: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
            for entry in tar:
                members[entry.name] = _content(tar, entry)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as problem:
        raise Corrupt(f"failed to decompress snapshot: {problem}") from problem
    _verify(members)
    return list(dump_payloads([members["state.bin"]]))


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    if entry.name not in ("meta.json", "state.bin", "SHA256SUMS") or not entry.isreg():
        raise Corrupt(f'unexpected file "{entry.name}" in snapshot')
    if entry.size > _STATE_BYTES_MAX:
        raise Corrupt(f"{entry.name} is too large")
    content = tar.extractfile(entry)
    assert content is not None  # a regular file has content
    return content.read()


def _verify(members: dict[str, bytes]) -> None:
    for name in ("meta.json", "state.bin", "SHA256SUMS"):
        if name not in members:
            raise Corrupt(f"the snapshot has no {name}")
    listed = {}
    for line in members["SHA256SUMS"].decode("utf-8", "replace").splitlines():
        expected, _, name = line.partition("  ")
        listed[name] = expected
    for name in ("meta.json", "state.bin"):
        if listed.get(name) != hashlib.sha256(members[name]).hexdigest():
            raise Corrupt(f'hash check failed for "{name}"')
    try:
        meta = json.loads(members["meta.json"])
    except ValueError as problem:
        raise Corrupt(f"failed to decode meta.json: {problem}") from problem
    if not isinstance(meta, dict) or meta.get("Version") != 1:
        raise Corrupt("unsupported snapshot version")
