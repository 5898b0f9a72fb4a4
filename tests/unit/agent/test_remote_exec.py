"""Remote execution on one agent: jobs in the KV store, told of by events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from registry.agent.events import LocalEvents, UserEvent
from registry.agent.remote_exec import EVENT, PIECE_BYTES_MAX, Output, RemoteExec
from registry.state.base import ReadOptions
from registry.state.catalog_commands import Register
from registry.state.kv import KvGet, KvList
from registry.state.locks import KvLock
from registry.state.sessions import SessionCreate, SessionDestroy
from registry.state.topics import kv_prefix_topic
from registry.testing.consensus import InstantBackend
from registry.testing.serving import make_facade

DEADLINE_S = 20


class Bench:
    """An agent that takes part, and a session to give it jobs with."""

    def __init__(self, backend: InstantBackend, events: LocalEvents, session: str) -> None:
        self.backend, self.events, self.session = backend, events, session

    async def give(self, job: Mapping[str, Any], *, session: str = "") -> None:
        key = f"_rexec/{self.session}/job".encode()
        await self.backend.write(
            KvLock(key=key, value=json.dumps(job).encode(), session=self.session)
        )
        note = {"Prefix": "_rexec", "Session": session or self.session}
        await self.tell(json.dumps(note).encode())

    async def tell(self, payload: bytes) -> None:
        await self.events.fire(UserEvent(id="", name=EVENT, payload=payload))

    async def wait_for(self, what: str) -> bytes:
        """The value of a key of the node, once it is there."""
        key = f"_rexec/{self.session}/node1/{what}".encode()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with self.backend.machine.topics.waiting((kv_prefix_topic(b"_rexec/"),)) as waiter:
                    found = await self.backend.read(KvGet(key=key), ReadOptions())
                    if found.value is not None:
                        return bytes(found.value.value)
                    await waiter.event.wait()

    async def output(self) -> bytes:
        prefix = f"_rexec/{self.session}/node1/out/".encode()
        found = await self.backend.read(KvList(prefix=prefix), ReadOptions())
        return b"".join(pair[1].value for pair in found.value)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    backend, events = InstantBackend(), LocalEvents()
    await backend.write(Register(node="node1", address="127.0.0.1"))
    session = await backend.write(SessionCreate(node="node1", behavior="delete"))
    agent = make_facade(backend=backend, events=events)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(RemoteExec(agent).run())
        await asyncio.sleep(0)
        yield Bench(backend, events, session.id)
        task.cancel()


@pytest.mark.parametrize(
    ("job", "status", "output"),
    [
        pytest.param({"Command": "echo one; echo two >&2"}, b"0", b"one\ntwo\n", id="shell"),
        pytest.param({"Command": "exit 3"}, b"3", b"", id="status"),
        pytest.param({"Args": ["echo", "a b", "$HOME"]}, b"0", b"a b $HOME\n", id="no-shell"),
        pytest.param(
            {"Script": base64.b64encode(b"#!/bin/sh\necho in $0 | sed s,.*/,,\n").decode()},
            b"0",
            b"script\n",
            id="script",
        ),
        pytest.param(
            {"Args": ["no-such-program"]},
            b"127",
            b'exec: "no-such-program": executable file not found in $PATH\n',
            id="cannot-start",
        ),
        pytest.param({"Command": "yes | head -c 10000"}, b"0", b"y\n" * 5000, id="large-output"),
    ],
)
async def test_a_job_is_acknowledged_run_and_reported(
    job: dict[str, Any], status: bytes, output: bytes
) -> None:
    async with bench() as agent:
        await agent.give(job)
        assert await agent.wait_for("ack") == b""
        assert await agent.wait_for("exit") == status
        assert await agent.output() == output


async def test_what_cannot_be_read_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as agent:
        await agent.tell(b"not json")
        await agent.tell(b'{"Prefix":"_rexec","Session":"none"}')
        await agent.give({"Command": 7})
        await agent.give({"Command": "true"})
        assert await agent.wait_for("exit") == b"0"
    assert "remote exec failed" in caplog.text


async def test_a_job_whose_session_is_over_is_not_run() -> None:
    async with bench() as agent:
        await agent.backend.write(SessionDestroy(id=agent.session))
        await agent.give({"Command": "echo never"})
        session = await agent.backend.write(SessionCreate(node="node1"))
        agent.session = session.id
        await agent.give({"Command": "echo now"})
        await agent.wait_for("exit")
        found = await agent.backend.read(KvList(prefix=b"_rexec/"), ReadOptions())
        assert {key.split(b"/")[1].decode() for key, _ in found.value} == {session.id}


async def test_a_silent_job_sends_heartbeats() -> None:
    async with bench() as agent:
        await agent.give({"Command": "exec sleep 30", "Wait": 1000})
        assert await agent.wait_for("out/00000") == b""


async def test_output_is_cut_in_pieces() -> None:
    output = Output()
    output.write(b"a" * (PIECE_BYTES_MAX + 1))
    output.close()
    assert await output.piece() == b"a" * PIECE_BYTES_MAX
    assert await output.piece() == b"a"
    assert await output.piece() is None
