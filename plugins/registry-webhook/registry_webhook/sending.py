"""Changes as signed requests, one after the other.

The platform keeps the place up to which changes were delivered, and hands the same ones over again
after a failure, a restart or a change of leader. So all there is to do here is to say honestly
whether the receiver has them: what it did not answer with 2xx, it does not have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

import httpx
import msgspec

from registry.hooks import Change, PlaceLost, PluginContext

from .settings import Settings
from .signing import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign

logger = logging.getLogger("registry.plugin.webhook")

#: The platform gives up a delivery after 60 s; before that we say ourselves how far we came.
DELIVERY_LIMIT_S = 50.0

#: A hiccup is not worth the platform's longer pauses: so often a request is tried at once.
ATTEMPTS = 3
PAUSE_S = 0.25

#: A request with more than one change is at most so long; one change may be longer by itself.
BODY_BYTES_MAX = 1 << 20

#: Of an answer no more than this is read: so much for the log, so much to keep the connection.
SHOWN_BYTES = 200
READ_BYTES_MAX = 65_536

TOO_MANY_REQUESTS, GONE = 429, 410


class DeliveryFailed(Exception):
    """The receiver does not have the changes; they are to be delivered again."""

    def __init__(self, reason: str, *, is_passing: bool = False) -> None:
        #: Whether the same request may well succeed a moment later.
        self.is_passing = is_passing
        super().__init__(reason)


class Item(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """One change as receivers see it; bytes are base64, as everywhere in the API."""

    index: int
    sequence: int
    time_ms: int
    kind: str
    key: str
    value: object
    #: The key as it is, where it is no UTF-8.
    key_bytes: bytes = b""
    origin: dict[str, str] | None = None


class Webhook:
    """The sink. Belongs to the plugin's event loop."""

    def __init__(self) -> None:
        self._ready = asyncio.Event()
        self._sender: Sender | None = None

    async def configure(self, context: PluginContext) -> None:
        """Send by the settings now in force."""
        await self._close()
        self._sender = Sender(context.settings, context.node_name, context.datacenter)
        self._ready.set()
        context.logger.info("changes are sent url=%s", context.settings.place)

    async def stop(self) -> None:
        self._ready = asyncio.Event()  # whoever starts it next may have another event loop
        await self._close()

    async def _close(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            await sender.close()

    async def deliver(self, changes: Sequence[Change]) -> None:
        """Return once the receiver has them. Changes may come before the plugin was started."""
        try:
            async with asyncio.timeout(DELIVERY_LIMIT_S):
                await self._ready.wait()
        except TimeoutError:
            raise DeliveryFailed("the plugin is not started") from None
        assert self._sender is not None
        await self._sender.send(changes)


class Sender:
    """Sends by one set of settings."""

    def __init__(self, settings: Settings, node: str, datacenter: str) -> None:
        self._settings = settings
        self._head = b'{"Datacenter":%s,"Node":%s,"Changes":[' % (
            msgspec.json.encode(datacenter),
            msgspec.json.encode(node),
        )
        self._client = httpx.AsyncClient(
            timeout=settings.timeout_s, trust_env=False, proxy=settings.proxy or None
        )
        #: The last change that the receiver has, as far as this process knows: what was delivered
        #: of a batch that failed later on is not sent again.
        self._had = (0, -1)

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, changes: Sequence[Change]) -> None:
        """Raises `DeliveryFailed`, or `PlaceLost` when the receiver wants to be told everything."""
        if changes[0].kind == "reset":
            self._had = (0, -1)
        missing = [each for each in changes if (each.index, each.sequence) > self._had]
        wanted = [each for each in missing if self._wants(each)]
        sent = 0
        try:
            async with asyncio.timeout(DELIVERY_LIMIT_S):
                for batch, body in self._bodies(wanted):
                    await self._post_patiently(body)
                    self._had = (batch[-1].index, batch[-1].sequence)
                    sent += len(batch)
        except TimeoutError:
            reason = f"{sent} of {len(wanted)} changes were taken within {DELIVERY_LIMIT_S:g} s"
            raise DeliveryFailed(f"{self._settings.place}: {reason}") from None

    def _wants(self, change: Change) -> bool:
        if change.kind == "reset":
            return True
        if change.kind == "kv" and self._settings.prefixes:
            return "kv" in self._settings.kinds and change.key.startswith(self._settings.prefixes)
        return change.kind in self._settings.kinds

    def _bodies(self, changes: Sequence[Change]) -> Iterator[tuple[list[Change], bytes]]:
        """The changes in portions, each with its request's body."""
        batch: list[Change] = []
        items: list[bytes] = []
        size = 0
        for change in changes:
            item = encoded(change)
            if batch and (
                len(batch) == self._settings.batch_max or size + len(item) > BODY_BYTES_MAX
            ):
                yield batch, self._body(items)
                batch, items, size = [], [], 0
            batch.append(change)
            items.append(item)
            size += len(item)
        if batch:
            yield batch, self._body(items)

    def _body(self, items: Sequence[bytes]) -> bytes:
        return self._head + b",".join(items) + b"]}"

    async def _post_patiently(self, body: bytes) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._post(body)
            except DeliveryFailed as problem:
                if attempt == ATTEMPTS or not problem.is_passing:
                    raise
                logger.debug("request failed, tried again reason=%s", problem)
                await asyncio.sleep(PAUSE_S * attempt)
            else:
                return

    async def _post(self, body: bytes) -> None:
        settings = self._settings
        now = int(time.time())
        headers = {
            **settings.headers,
            "content-type": "application/json",
            TIMESTAMP_HEADER: str(now),
            SIGNATURE_HEADER: sign(settings.secret, now, body),
        }
        try:
            async with (
                asyncio.timeout(settings.timeout_s),
                self._client.stream("POST", settings.url, content=body, headers=headers) as answer,
            ):
                text = await _beginning(answer)
        except TimeoutError:
            reason = f"no answer within {settings.timeout_s:g} s"
            raise DeliveryFailed(f"{settings.place}: {reason}", is_passing=True) from None
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            reason = str(problem) or type(problem).__name__
            raise DeliveryFailed(f"{settings.place}: {reason}", is_passing=True) from problem
        if answer.is_success:
            return
        if answer.status_code == GONE:
            raise PlaceLost(f"{settings.place} wants to be told everything")
        raise DeliveryFailed(
            f"{settings.place} answered {answer.status_code} ({text})",
            is_passing=answer.is_server_error or answer.status_code == TOO_MANY_REQUESTS,
        )


async def _beginning(answer: httpx.Response) -> str:
    """How the answer begins, in one line; what is short is read to its end."""
    found, count = b"", 0
    async for chunk in answer.aiter_raw():
        found += chunk[: SHOWN_BYTES - len(found)]
        count += len(chunk)
        if count > READ_BYTES_MAX:
            break
    return " ".join(found.decode("utf-8", "replace").split())


def encoded(change: Change) -> bytes:
    raw = change.key.encode("utf-8", "surrogateescape")
    key = raw.decode("utf-8", "replace")
    origin = change.origin
    return msgspec.json.encode(
        Item(
            index=change.index,
            sequence=change.sequence,
            time_ms=change.time_ms,
            kind=change.kind,
            key=key,
            value=change.value,
            key_bytes=b"" if key == change.key else raw,
            origin={"Client": origin.client, "Reason": origin.reason} if origin else None,
        )
    )
