"""How messages leave a server: the Protocol, and the two transports that need no network.

Raft tolerates loss, so a transport never waits and never raises: what does not fit is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from registry.raft.messages import AnyMessage, Configuration

_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_encoder = msgspec.msgpack.Encoder()


def encode_message(message: AnyMessage) -> bytes:
    return _encoder.encode(message)


def decode_message(raw: bytes) -> AnyMessage:
    """Raises `msgspec.DecodeError` for what is no message of ours."""
    return _decoder.decode(raw)


class Transport(Protocol):
    """The way to the peers. Queues per peer are bounded; what comes when full is dropped (R-5)."""

    def set_peers(self, configuration: Configuration) -> None:
        """Whom to reach and where; called at start and at each change of configuration."""
        ...

    def send(self, messages: Sequence[AnyMessage]) -> None:
        """Queue messages for their receivers, in order per receiver; never waits, may lose."""
        ...


class NullTransport:
    """For a single server: it has nobody to talk to."""

    def set_peers(self, configuration: Configuration) -> None:
        return None

    def send(self, messages: Sequence[AnyMessage]) -> None:
        return None


class LocalNetwork:
    """Connects drivers in one process through the real encoding, with links that can be cut.

    At most `queued_max` messages are under way to one server; more are dropped.
    """

    def __init__(self, *, queued_max: int = 4096) -> None:
        self._receivers: dict[str, Callable[[AnyMessage], None]] = {}
        self._cut: set[tuple[str, str]] = set()
        self._queued: dict[str, int] = {}
        self._queued_max = queued_max
        self.dropped = 0

    def transport(self, server_id: str) -> LocalTransport:
        return LocalTransport(self, server_id)

    def attach(self, server_id: str, receive: Callable[[AnyMessage], None]) -> None:
        self._receivers[server_id] = receive

    def detach(self, server_id: str) -> None:
        self._receivers.pop(server_id, None)

    def isolate(self, server_id: str) -> None:
        """Cut every link of one server, both ways."""
        for other in self._receivers:
            self._cut |= {(server_id, other), (other, server_id)}

    def cut(self, sender: str, receiver: str) -> None:
        """Cut one direction of one link."""
        self._cut.add((sender, receiver))

    def heal(self) -> None:
        self._cut.clear()

    def carry(self, sender: str, message: AnyMessage) -> None:
        receiver = message.receiver
        queued = self._queued.get(receiver, 0)
        unreachable = (sender, receiver) in self._cut or receiver not in self._receivers
        if unreachable or queued >= self._queued_max:
            self.dropped += 1
            return
        self._queued[receiver] = queued + 1
        loop = asyncio.get_running_loop()
        loop.call_soon(self._deliver, sender, receiver, encode_message(message))

    def _deliver(self, sender: str, receiver: str, raw: bytes) -> None:
        self._queued[receiver] -= 1
        receive = self._receivers.get(receiver)
        if receive is None or (sender, receiver) in self._cut:
            self.dropped += 1
            return
        receive(decode_message(raw))


class LocalTransport:
    """One server's end of a `LocalNetwork`."""

    def __init__(self, network: LocalNetwork, server_id: str) -> None:
        self._network = network
        self._server_id = server_id
        self.peers: Configuration = Configuration()

    def set_peers(self, configuration: Configuration) -> None:
        self.peers = configuration

    def send(self, messages: Sequence[AnyMessage]) -> None:
        for message in messages:
            self._network.carry(self._server_id, message)
