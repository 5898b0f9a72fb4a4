"""A switch in user space: Ethernet frames between the ports of a network of namespaces, by rule.

    python -m registry.testing.frame_relay --nodes=3 --seed=7        (see `registry.testing.netns`)

It is started in a namespace with a pair of veth devices for each node, `port1` and `cable1` and so
on; the cables are moved to the nodes once the first line is out. Frames are read from raw sockets
on the ports and written to the one of the receiver, late or not at all if the rule for that pair
and direction says so. Rules come as JSON lines on the standard input, each the whole set; each is
answered by a line of counts once it is in force. The end of the input ends it.

Node N (from 1) has the MAC address 02:00:00:00:00:N, so that there is nothing to learn.
"""

from __future__ import annotations

import argparse
import array
import fcntl
import heapq
import itertools
import random
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

FRAME_BYTES_MAX = 65_536
_RECEIVE_BUFFER_BYTES = 4 << 20

# linux/if_ether.h, linux/if_packet.h, linux/sockios.h, linux/ethtool.h
_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
_SIOCETHTOOL = 0x8946
_OFFLOADS = {"scatter-gather": 0x19, "checksum": 0x17, "tso": 0x1F, "gso": 0x24}


class Link(msgspec.Struct, frozen=True):
    """How frames fare from one node to another; the way back has a rule of its own.

    With jitter each frame has a delay of its own, so that they overtake each other.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # the delay varies by so much up and down
    loss: float = 0.0  # the part of frames that is dropped; 1.0 is a cut cable


class Rule(msgspec.Struct, frozen=True):
    sender: int
    receiver: int
    link: Link


class Counts(msgspec.Struct):
    """Frames since the start."""

    passed: int = 0
    dropped: int = 0


class Switch:
    """Decides which frame goes where and when. Knows no socket and no clock; nodes count from 1.

    The chances of each link are its own, so that traffic on one does not change what another does.
    """

    def __init__(self, nodes: int, seed: int) -> None:
        self._ports = range(1, nodes + 1)
        self._links: dict[tuple[int, int], Link] = {}
        self._random = {
            pair: random.Random(f"{seed}/{pair}") for pair in itertools.permutations(self._ports, 2)
        }
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()
        self.counts = Counts()

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """From now on these; links without a rule are perfect."""
        self._links = {(rule.sender, rule.receiver): rule.link for rule in rules}

    def accept(self, sender: int, frame: bytes, now_s: float) -> None:
        """A frame has come in at the port of `sender`."""
        for receiver in self._receivers(sender, frame):
            link = self._links.get((sender, receiver), _PERFECT)
            chance = self._random[sender, receiver]
            if link.loss and chance.random() < link.loss:
                self.counts.dropped += 1
                continue
            delay_ms = max(0.0, link.delay_ms + chance.uniform(-1, 1) * link.jitter_ms)
            heapq.heappush(
                self._waiting, (now_s + delay_ms / 1000, next(self._order), receiver, frame)
            )

    def due(self, now_s: float) -> Iterator[tuple[int, bytes]]:
        """What has to go out by now: receiver and frame."""
        while self._waiting and self._waiting[0][0] <= now_s:
            _, _, receiver, frame = heapq.heappop(self._waiting)
            self.counts.passed += 1
            yield receiver, frame

    def next_due_s(self) -> float | None:
        return self._waiting[0][0] if self._waiting else None

    def _receivers(self, sender: int, frame: bytes) -> Iterator[int]:
        to_all = frame[0] & 1  # broadcast and multicast
        for port in self._ports:
            if port != sender and (to_all or frame[:6] == mac_address(port)):
                yield port


_PERFECT = Link()


def mac_address(node: int) -> bytes:
    return b"\x02\x00\x00\x00\x00" + bytes([node])


def send_whole_frames(device: str) -> None:
    """Have the kernel finish checksums and segments before frames leave `device`.

    Between two ends of one machine it would leave both to a network card that is not there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _OFFLOADS.values():
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, _SIOCETHTOOL, request)


def open_port(device: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    port.bind((device, _ETH_P_ALL))
    port.setblocking(False)
    return port


def read_frames(port: socket.socket) -> Iterator[bytes]:
    """All that has come in from the cable."""
    while True:
        try:
            frame, (_, _, kind, *_) = port.recvfrom(FRAME_BYTES_MAX)
        except OSError:
            return  # nothing more for now, or a cable that is being taken away
        if kind != _PACKET_OUTGOING:
            yield frame


def relay(ports: Sequence[socket.socket], switch: Switch) -> None:
    """Until the standard input ends."""
    waiting = selectors.DefaultSelector()
    waiting.register(sys.stdin.buffer, selectors.EVENT_READ, 0)
    for number, port in enumerate(ports, 1):
        waiting.register(port, selectors.EVENT_READ, number)
    while True:
        next_s = switch.next_due_s()
        timeout_s = None if next_s is None else max(0.0, next_s - time.monotonic())
        for key, _ in waiting.select(timeout_s):
            if key.data:
                for frame in read_frames(ports[key.data - 1]):
                    switch.accept(key.data, frame, time.monotonic())
            elif not _take_rules(switch):
                return
        for receiver, frame in switch.due(time.monotonic()):
            _send(ports[receiver - 1], frame)


def _send(port: socket.socket, frame: bytes) -> None:
    with suppress(OSError):  # a full queue, a node that is going: networks lose frames
        port.send(frame)


def _take_rules(switch: Switch) -> bool:
    """Whether there was another line; its writer waits for the answer before the next."""
    line = sys.stdin.buffer.readline()
    if not line:
        return False
    switch.set_rules(msgspec.json.decode(line, type=list[Rule]))
    answer(switch.counts)
    return True


def answer(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward frames between network devices, by rule.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    arguments = parser.parse_args()
    numbers = range(1, arguments.nodes + 1)
    for number in numbers:
        send_whole_frames(f"cable{number}")
    ports = [open_port(f"port{number}") for number in numbers]
    switch = Switch(arguments.nodes, arguments.seed)
    answer(switch.counts)
    relay(ports, switch)


if __name__ == "__main__":
    main()
