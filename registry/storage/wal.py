"""RocksDB's log files, read for their structure: where does the last whole batch end?

RocksDB checks the checksum of every record but two things it does not: a damaged type byte that
turns a record into a *recyclable* one is taken for an old leftover before its checksum is looked
at – it ends the log without a word, or never ends reading it – and a log that stops early at the
end of a record is not missed when a further log follows. Both show in the structure alone, so it
is walked before RocksDB opens a directory: half a microsecond per batch, over logs that
`registry.storage.rocks` keeps small.

    file     blocks of 32 KiB, less than 7 bytes at the end of a block are left empty
    record   checksum (4)  length (2)  type (1)  payload (length)
    type     0 nothing written here    1 a whole batch    2 first, 3 middle, 4 last part of one
             5-8 the same, recyclable  9… facts about the log itself
    batch    sequence number of its first operation (8)  number of operations (4)  operations

All numbers are little-endian. Sequence numbers have no gaps, within a log and from log to log; a
batch without operations has none.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES, HEADER_BYTES, BATCH_HEADER_BYTES = 32 * 1024, 7, 12
NOTHING, FULL, FIRST, MIDDLE, LAST = range(5)
RECYCLABLE = range(5, 9)

_length_and_type = struct.Struct("<HB").unpack_from
_sequence_and_count = struct.Struct("<QI").unpack

Buffer = bytes | mmap.mmap


@dataclass(frozen=True, slots=True)
class LogContent:
    """What the whole batches of one log file are.

    `end` is the offset behind the last one, `first` and `next` the sequence numbers of its first
    operation and of the one that would follow, None when it has no batch. `whole` says that
    nothing but zeros comes after `end`.
    """

    end: int
    first: int | None
    next: int | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Tear:
    """Where the logs stop making sense: in `path` at `end`, with `later` logs behind it.

    `reached` is the last sequence number before it, None if no log holds a batch before it.
    """

    path: Path
    end: int
    reached: int | None
    later: tuple[Path, ...]


def log_files(directory: Path) -> list[Path]:
    """The directory's logs, oldest first."""
    return sorted(directory.glob("*.log"), key=log_number)


def log_number(path: Path) -> int:
    return int(path.stem)


def find_tear(logs: Sequence[Path], oldest_live: Callable[[], int]) -> Tear | None:
    """The first place after which the logs are not to be trusted; None when all is whole.

    `oldest_live` gives the number of the first log that is still needed; it is asked only when
    there is something odd in another than the last one, which may be a leftover.
    """
    contents = [_read_file(path) for path in logs]
    reached: int | None = None
    for position, (path, content) in enumerate(zip(logs, contents, strict=True)):
        if content.next is not None:
            reached = content.next - 1
        following = next((each.first for each in contents[position + 1 :] if each.first), None)
        gap = following is not None and reached is not None and following != reached + 1
        if content.whole and not gap:
            continue
        later = tuple(logs[position + 1 :])
        if not later or log_number(path) >= oldest_live():
            return Tear(path, content.end, reached, later)
    return None


def read_log(raw: Buffer) -> LogContent:
    """Walk the records of one log up to the first thing that is out of place."""
    size = len(raw)
    offset = end = 0
    first: int | None = None
    following: int | None = None
    parts: bytes | None = None  # the head of a batch whose last part has not come yet
    while True:
        left = BLOCK_BYTES - offset % BLOCK_BYTES
        if left < HEADER_BYTES:
            offset += left
            continue
        if offset + HEADER_BYTES > size:
            break
        length, kind = _length_and_type(raw, offset + 4)
        begin, offset = offset + HEADER_BYTES, offset + HEADER_BYTES + length
        if length > left - HEADER_BYTES or offset > size:
            break
        if kind == NOTHING or kind in RECYCLABLE:
            break
        if kind > LAST:
            end = offset if parts is None else end
            continue
        if (kind in (FULL, FIRST)) != (parts is None):
            break
        # Only the batch's head is of interest, but it may be spread over two parts.
        head = (parts or b"") + raw[begin : min(offset, begin + BATCH_HEADER_BYTES)]
        if kind in (FIRST, MIDDLE):
            parts = head[:BATCH_HEADER_BYTES]
            continue
        if len(head) < BATCH_HEADER_BYTES:
            break
        parts = None
        sequence, count = _sequence_and_count(head[:BATCH_HEADER_BYTES])
        if count:
            if following is not None and sequence != following:
                break
            first = sequence if first is None else first
            following = sequence + count
        end = offset
    return LogContent(end, first, following, whole=not raw[end:].strip(b"\x00"))


def cut(tear: Tear) -> None:
    """Make the tear the end of the logs: cut its file there, put later ones aside as `*.log.cut`.

    Only for what was never synced. Durable when it returns.
    """
    with tear.path.open("r+b") as file:
        file.truncate(tear.end)
        os.fsync(file.fileno())
    for path in tear.later:
        path.rename(path.with_name(path.name + ".cut"))
    sync_directory(tear.path.parent)


def sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_file(path: Path) -> LogContent:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return LogContent(0, None, None, whole=True)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            return read_log(raw)
