"""For tests of commands: how one ended, and an agent whose answers the test lays out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from registry.testing.process import AgentProcess


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


#: `run("kv", "get", "a", stdin=b"")`
Run = Callable[..., Outcome]


@contextmanager
def command_process(agent: AgentProcess, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`registry WORDS` in another process with pipes, which is killed where the block ends.

    What a test finds wrong is thus told, instead of waiting for a command that does not end.
    """
    environment = {
        **os.environ,
        "REGISTRY_HTTP_ADDR": agent.http_address,
        "PYTHONUNBUFFERED": "",  # what is said has to come through a pipe by itself
    }
    with subprocess.Popen(
        [sys.executable, "-m", "registry", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Request(NamedTuple):
    """What the stub was asked."""

    method: str
    path: str  # with the query
    body: bytes
    headers: dict[str, str]


#: Status and body.
Answer = tuple[int, bytes]


class Stub:
    """An HTTP server with answers by "METHOD /path"; all else is 404.

    An answer may be a function, for what depends on the request or on those before it.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Callable[[Request], Answer]] = {}
        self.requests: list[Request] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, body, headers)
                stub.requests.append(request)
                known = f"{self.command} {self.path.partition('?')[0]}"
                found = stub.answers.get(known, (404, b"404 page not found"))
                status, answer = found(request) if callable(found) else found
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                with suppress(ConnectionError):  # a command may not wait for the end of an answer
                    self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Not on standard error, where tests look."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def answer(self, what: str, value: Any, status: int = 200) -> None:
        """JSON, or bytes as they are."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers[what] = (status, body)

    def __enter__(self) -> Stub:
        serve = self.server.serve_forever
        self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()
