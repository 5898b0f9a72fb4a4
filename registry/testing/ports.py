"""Ports for the agents of tests, such that no two tests get the same.

A port is only known to be free until somebody takes it, and tests run side by side: whoever draws
ports at random gives one of them out twice sooner or later. So they are given out in turn, by all
test processes of a user together, and come back only after thousands of others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

#: Below the ports that kernels give to outgoing connections, which would take one of ours before
#: the agent does.
PORTS = range(10_000, 32_000)

_TAKEN = (errno.EADDRINUSE, errno.EACCES)


def free_ports(number: int, address: str = "127.0.0.1") -> list[int]:
    """Different ports of a local address that nobody has, by TCP or UDP; no other call gets them.

    Raises `OSError` when all are taken, or `address` is not of this host.
    """
    with _turn() as file:
        last = file.read()
        start = int(last) + 1 if last.isdigit() else PORTS.start
        found: list[int] = []
        for offset in count():
            if len(found) == number:
                break
            if offset == len(PORTS):
                raise OSError(f"no {number} free ports of {address}")
            port = PORTS[(start + offset - PORTS.start) % len(PORTS)]
            if _is_free(address, port):
                found.append(port)
        if found:
            file.seek(0)
            file.truncate()
            file.write(str(found[-1]))
    return found


@contextmanager
def _turn() -> Iterator[TextIO]:
    """The file that holds the last port given out, while nobody else has it."""
    path = Path(tempfile.gettempdir()) / f"registry-testing-ports-{os.getuid()}"
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file  # closing it lets the next one in


def _is_free(address: str, port: int) -> bool:
    """By binding to it: an address that is not of this host raises here, once and clearly."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as tried:
            try:
                tried.bind((address, port))
            except OSError as problem:
                if problem.errno in _TAKEN:
                    return False
                raise
    return True
