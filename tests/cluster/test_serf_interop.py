"""Our members and real Serf agents in one pool, on loopback addresses of their own.

The agents are the `serf` program (Debian: package serf); without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import signal
import socket
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from registry.errors import Unavailable
from registry.membership import profiles
from registry.membership.filters import Filter, NodeFilter, TagFilter
from registry.membership.serf_values import (
    Event,
    MemberEvent,
    MemberStatus,
    QueryAnswer,
    QueryEvent,
    UserEvent,
)
from registry.membership.settings import PoolSettings
from registry.membership.shell import GossipPool
from registry.state.regexp import compile_pattern

SERF = shutil.which("serf")

pytestmark = pytest.mark.skipif(SERF is None, reason="the program serf is not installed")

KEY, NEW_KEY = b"0123456789abcdef", b"f" * 32

#: How long anything may take; the slowest is a failed node, which is suspected for some seconds.
PATIENCE_S = 30.0

_hosts = itertools.count(20)

HANDLER = """#!/bin/sh
payload=$(cat)
echo "$SERF_EVENT $SERF_USER_EVENT$SERF_QUERY_NAME $payload" >> {log}
if [ "$SERF_EVENT" = query ]; then printf 'I am %s' "$SERF_SELF_NAME"; fi
"""


async def eventually(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str
) -> None:
    """Wait until `condition` holds."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                holds = condition()
                if holds if isinstance(holds, bool) else await holds:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"did not happen within {PATIENCE_S:g} s: {what}")


def free_address() -> tuple[str, int]:
    """A loopback host nobody else uses here, and a port that is free on it."""
    host = f"127.0.0.{next(_hosts) % 200 + 20}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        return host, probe.getsockname()[1]


@dataclass
class Agent:
    """A real Serf agent."""

    name: str
    address: tuple[str, int]
    rpc: str
    log: Path
    process: asyncio.subprocess.Process

    @property
    def where(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    async def run(self, *arguments: str) -> str:
        """Output of a serf command that talks to this agent."""
        assert SERF is not None
        verb, *rest = arguments
        process = await asyncio.create_subprocess_exec(
            SERF,
            verb,
            f"-rpc-addr={self.rpc}",
            *rest,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return output.decode()

    async def statuses(self) -> dict[str, str]:
        """Status of each member, as this agent sees it."""
        output = await self.run("members", "-format=json")
        try:
            members = json.loads(output)["members"] or []
        except ValueError:
            return {}
        return {member["name"]: member["status"] for member in members}

    def heard(self) -> list[str]:
        """What its event handler was given."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def sees(self, name: str, status: str) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return (await self.statuses()).get(name) == status

        return check


@asynccontextmanager
async def serf_agent(
    name: str, directory: Path, *options: str, key: bytes | None = None
) -> AsyncIterator[Agent]:
    assert SERF is not None
    address, rpc = free_address(), free_address()
    log, script = directory / f"{name}.events", directory / f"{name}.sh"
    script.write_text(HANDLER.format(log=log))
    script.chmod(0o700)
    command = [
        SERF,
        "agent",
        f"-node={name}",
        f"-bind={address[0]}:{address[1]}",
        f"-rpc-addr={rpc[0]}:{rpc[1]}",
        "-profile=local",
        f"-event-handler=user,query={script}",
        *options,
    ]
    if key is not None:
        ring = directory / f"{name}.keyring"
        ring.write_text(json.dumps([b64encode(key).decode()]))
        command.append(f"-keyring-file={ring}")
    with (directory / f"{name}.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=subprocess.STDOUT
        )
    agent = Agent(name, address, f"{rpc[0]}:{rpc[1]}", log, process)
    try:
        await eventually(agent.sees(name, "alive"), f"agent {name} is up")
        yield agent
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass
class Ours:
    """A member of ours, and everything it has told its listeners."""

    pool: GossipPool
    heard: list[Event]
    tasks: list[asyncio.Task[None]]

    @property
    def where(self) -> str:
        host, port = self.pool.address
        return f"{host}:{port}"

    def crash(self) -> None:
        """Stop without a word."""
        for task in self.tasks:
            task.cancel()

    def sees(self, name: str, status: MemberStatus) -> Callable[[], bool]:
        def check() -> bool:
            found = {member.name: member.status for member in self.pool.members()}
            return found.get(name) is status

        return check

    def has_heard(self, kind: str, name: str) -> bool:
        return any(
            isinstance(event, MemberEvent)
            and event.kind.value == kind
            and event.member.name == name
            for event in self.heard
        )


@asynccontextmanager
async def our_member(
    name: str, *, key: bytes | None = None, files: Path | None = None, port: int = 0, host: str = ""
) -> AsyncIterator[Ours]:
    profile = profiles.SERF_LOCAL
    pool = GossipPool(
        PoolSettings(
            name=name,
            tags={"role": "ours"},
            bind=(host or free_address()[0], port),
            compile_pattern=compile_pattern,
            swim=profile.swim,
            serf=msgspec.structs.replace(profile.serf, leave_propagate_delay_ms=500),
            keys=(key,) if key else (),
            keyring_file=files / f"{name}.keyring" if files else None,
            snapshot_file=files / f"{name}.snapshot" if files else None,
        )
    )
    await pool.start()
    heard: list[Event] = []

    async def listen() -> None:
        with pool.listen() as stream:
            async for event in stream:
                heard.append(event)
                if isinstance(event, QueryEvent):
                    pool.respond(event, f"I am {name}".encode())

    async with asyncio.TaskGroup() as group:
        ours = Ours(pool, heard, [group.create_task(listen()), group.create_task(pool.run())])
        try:
            yield ours
        finally:
            ours.crash()


@pytest.fixture(params=[None, KEY], ids=["plain", "encrypted"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    found: bytes | None = request.param
    return found


async def test_a_pool_of_both(tmp_path: Path, key: bytes | None) -> None:
    """Joins both ways, events and queries both ways, and leaves both ways."""
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(serf_agent("alpha", tmp_path, key=key))
        beta = await stack.enter_async_context(
            serf_agent("beta", tmp_path, "-tag=role=db", key=key)
        )
        gamma = await stack.enter_async_context(our_member("gamma", key=key))
        delta = await stack.enter_async_context(our_member("delta", key=key))

        assert await gamma.pool.join([alpha.where]) == 1
        assert "Successfully joined" in await beta.run("join", gamma.where)
        assert "Successfully joined" in await alpha.run("join", delta.where)
        names = ("alpha", "beta", "gamma", "delta")
        for name in names:
            for agent in (alpha, beta):
                await eventually(agent.sees(name, "alive"), f"{agent.name} sees {name}")
            for ours in (gamma, delta):
                await eventually(ours.sees(name, MemberStatus.ALIVE), f"we see {name}")
        tags = {member.name: member.tags for member in gamma.pool.members()}
        assert tags["beta"] == {"role": "db"}
        assert "role=ours" in await beta.run("members", "-name=gamma")

        await events_both_ways(alpha, beta, gamma, delta)
        await queries_both_ways(alpha, beta, gamma, delta)

        await gamma.pool.leave()
        for agent in (alpha, beta):
            await eventually(agent.sees("gamma", "left"), f"{agent.name} sees gamma left")
        await beta.run("leave")
        await eventually(delta.sees("beta", MemberStatus.LEFT), "we see beta left")
        assert delta.has_heard("member-leave", "beta")
        assert delta.has_heard("member-leave", "gamma")


async def events_both_ways(alpha: Agent, beta: Agent, gamma: Ours, delta: Ours) -> None:
    gamma.pool.user_event("deploy", b"release 42")
    for agent in (alpha, beta):
        await eventually(
            lambda agent=agent: "user deploy release 42" in agent.heard(),
            f"{agent.name} hears our event",
        )
    await alpha.run("event", "-coalesce=false", "restart", "now")
    for ours in (gamma, delta):
        await eventually(
            lambda ours=ours: any(
                isinstance(event, UserEvent) and (event.name, event.payload) == ("restart", b"now")
                for event in ours.heard
            ),
            "we hear their event",
        )


async def queries_both_ways(alpha: Agent, beta: Agent, gamma: Ours, delta: Ours) -> None:
    """All at once, as each runs until its timeout; so several are of one Lamport time, too."""
    only_beta: list[Filter] = [TagFilter("role", "^d"), NodeFilter(("alpha", "beta"))]
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(answers_to(gamma, wants_acks=True, relay_factor=1))
        filtered = group.create_task(answers_to(delta, filters=only_beta))
        reply = group.create_task(alpha.run("query", "-format=json", "-tag=role=ours", "who"))
        reached = group.create_task(beta.run("reachability"))
    names = ("alpha", "beta", "gamma", "delta")
    acknowledged = {answer.node for answer in asked.result() if answer.is_ack}
    answered = {answer.node: answer.payload for answer in asked.result() if not answer.is_ack}
    assert acknowledged == set(names)
    assert answered == {name: f"I am {name}".encode() for name in names}
    assert [answer.node for answer in filtered.result()] == ["beta"]
    replied = json.loads(reply.result())
    assert sorted(replied["Acks"]) == ["delta", "gamma"]
    assert replied["Responses"] == {"gamma": "I am gamma", "delta": "I am delta"}
    assert "Successfully contacted all live nodes" in reached.result()


async def answers_to(
    asker: Ours,
    *,
    filters: Sequence[Filter] = (),
    wants_acks: bool = False,
    relay_factor: int = 0,
) -> list[QueryAnswer]:
    question = asker.pool.query(
        "who", filters=filters, wants_acks=wants_acks, relay_factor=relay_factor
    )
    return [answer async for answer in question]


async def test_an_agent_that_is_killed_has_failed_and_can_be_forced_out(
    tmp_path: Path, key: bytes | None
) -> None:
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(serf_agent("alpha", tmp_path, key=key))
        beta = await stack.enter_async_context(serf_agent("beta", tmp_path, key=key))
        gamma = await stack.enter_async_context(our_member("gamma", key=key))
        assert await gamma.pool.join([alpha.where, beta.where]) == 2
        await eventually(alpha.sees("beta", "alive"), "they see each other")

        beta.process.send_signal(signal.SIGKILL)
        await eventually(gamma.sees("beta", MemberStatus.FAILED), "we see beta failed")
        assert gamma.has_heard("member-failed", "beta")
        await eventually(alpha.sees("beta", "failed"), "alpha sees beta failed")

        await gamma.pool.force_leave("beta")
        await eventually(alpha.sees("beta", "left"), "alpha sees beta left")
        await eventually(gamma.sees("beta", MemberStatus.LEFT), "we see beta left")


def names_alpha(snapshot: Path) -> bool:
    return snapshot.exists() and "alive: alpha" in snapshot.read_text()


async def test_a_member_of_ours_that_crashes_comes_back_under_its_name(
    tmp_path: Path, key: bytes | None
) -> None:
    host, port = free_address()
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(serf_agent("alpha", tmp_path, key=key))
        beta = await stack.enter_async_context(serf_agent("beta", tmp_path, key=key))
        await alpha.run("join", beta.where)
        async with our_member("gamma", key=key, files=tmp_path, host=host, port=port) as gamma:
            await gamma.pool.join([alpha.where])
            await eventually(beta.sees("gamma", "alive"), "beta sees gamma")
            await eventually(
                lambda: names_alpha(tmp_path / "gamma.snapshot"),
                "the snapshot names somebody to rejoin",
            )
            gamma.crash()
        for agent in (alpha, beta):
            await eventually(agent.sees("gamma", "failed"), f"{agent.name} sees gamma failed")
        await alpha.run("force-leave", "gamma")
        await eventually(beta.sees("gamma", "left"), "beta sees gamma left")

        # The snapshot leads it back without being told whom to join, and it refutes what was said.
        async with our_member("gamma", key=key, files=tmp_path, host=host, port=port) as gamma:
            for agent in (alpha, beta):
                await eventually(agent.sees("gamma", "alive"), f"{agent.name} sees gamma again")
            assert gamma.has_heard("member-join", "alpha")
            await gamma.pool.leave()
            for agent in (alpha, beta):
                await eventually(agent.sees("gamma", "left"), f"{agent.name} sees gamma left")


async def test_keys_are_rotated_by_either_side(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(serf_agent("alpha", tmp_path, key=KEY))
        gamma = await stack.enter_async_context(our_member("gamma", key=KEY, files=tmp_path))
        assert await gamma.pool.join([alpha.where]) == 1
        await eventually(alpha.sees("gamma", "alive"), "alpha sees gamma")

        for change in (gamma.pool.keys.install, gamma.pool.keys.use):
            assert (await change(NEW_KEY)).is_complete
        assert (await gamma.pool.keys.remove(KEY)).is_complete
        listed = await gamma.pool.keys.list()
        new = b64encode(NEW_KEY).decode()
        assert listed.is_complete
        assert (listed.keys, listed.primary_keys) == ({new: 2}, {new: 2})
        assert json.loads((tmp_path / "gamma.keyring").read_text()) == [new]

        old = b64encode(KEY).decode()
        for option in (f"-install={old}", f"-use={old}", f"-remove={new}"):
            assert "success" in (await alpha.run("keys", option)).lower()
        assert (await gamma.pool.keys.list()).keys == {old: 2}
        refused = await gamma.pool.keys.remove(KEY)
        assert refused.errors == 2
        assert "primary key" in refused.messages["alpha"]


async def test_another_key_keeps_them_apart(tmp_path: Path) -> None:
    async with (
        serf_agent("alpha", tmp_path, key=KEY) as alpha,
        our_member("gamma", key=NEW_KEY) as gamma,
    ):
        with pytest.raises(Unavailable, match="Failed to join"):
            await gamma.pool.join([alpha.where])
        assert "gamma" not in await alpha.statuses()


async def test_two_of_one_name(tmp_path: Path) -> None:
    """The pool knows the first gamma; the second is told so and goes, and the first stays."""
    async with AsyncExitStack() as stack:
        alpha = await stack.enter_async_context(serf_agent("alpha", tmp_path))
        beta = await stack.enter_async_context(serf_agent("beta", tmp_path))
        gamma = await stack.enter_async_context(our_member("gamma"))
        await gamma.pool.join([alpha.where, beta.where])
        await eventually(alpha.sees("gamma", "alive"), "alpha sees gamma")
        impostor = await stack.enter_async_context(serf_agent("gamma", tmp_path))
        await impostor.run("join", alpha.where)
        await eventually(lambda: impostor.process.returncode is not None, "the impostor goes")
        assert gamma.pool.local_member().status is MemberStatus.ALIVE
        assert (await alpha.statuses())["gamma"] == "alive"
