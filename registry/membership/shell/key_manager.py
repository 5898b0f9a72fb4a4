"""The pool's encryption keys, listed and changed by queries to everybody; see `key_queries`."""

from __future__ import annotations

from contextlib import aclosing

from registry.membership import key_queries
from registry.membership.key_queries import KeyringResult
from registry.membership.query_desk import Question
from registry.membership.serf_values import MemberStatus
from registry.membership.shell.answers import Answers
from registry.membership.shell.live_core import LiveCore


class KeyManager:
    """Each returns everybody's answer, or what came until the timeout: see `is_complete`."""

    def __init__(self, live: LiveCore, answers: Answers) -> None:
        self._live = live
        self._answers = answers

    async def list(self, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask(key_queries.LIST, b"", relay_factor)

    async def install(self, key: bytes, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask(key_queries.INSTALL, key, relay_factor)

    async def use(self, key: bytes, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask(key_queries.USE, key, relay_factor)

    async def remove(self, key: bytes, *, relay_factor: int = 0) -> KeyringResult:
        return await self._ask(key_queries.REMOVE, key, relay_factor)

    async def _ask(self, name: str, key: bytes, relay_factor: int) -> KeyringResult:
        members = self._live.running.serf.members
        alive = sum(member.status is MemberStatus.ALIVE for member in members)
        payload = key_queries.encode_request(key)
        question = Question(name=name, payload=payload, relay_factor=relay_factor)
        answers: dict[str, bytes] = {}
        async with aclosing(self._answers.ask(question)) as stream:
            async for answer in stream:
                answers[answer.node] = answer.payload
                if len(answers) >= alive:
                    break
        return key_queries.tally(alive, answers)
