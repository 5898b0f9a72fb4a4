"""Binding one port for UDP and TCP, and collecting datagrams."""

from __future__ import annotations

import asyncio
import socket

import pytest

from registry.errors import ConfigError
from registry.membership.shell.sockets import INBOX_MAX, PacketInbox, bind


def test_one_port_for_both() -> None:
    udp, tcp = bind(("127.0.0.1", 0))
    with udp, tcp:
        assert udp.getsockname() == tcp.getsockname()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_one_clear_line(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        # On a host of its own: elsewhere the port may be that of somebody's outgoing connection.
        taken.bind(("127.77.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        address = taken.getsockname()
        with pytest.raises(ConfigError) as raised:
            bind(address)
    name = "TCP" if kind is socket.SOCK_STREAM else "UDP"
    assert str(raised.value) == (
        f"gossip cannot listen on {name} 127.77.0.1:{address[1]}:"
        " the port is in use by another process"
    )


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on TCP 192\.0\.2\.1:0"):
        bind(("192.0.2.1", 0))


async def test_datagrams_are_collected() -> None:
    woken = asyncio.Event()
    inbox = PacketInbox(woken.set)
    udp, tcp = bind(("127.0.0.1", 0))
    tcp.close()
    address = udp.getsockname()
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: inbox, sock=udp)
    assert inbox.send(b"to ourselves", address)
    async with asyncio.timeout(5):
        await woken.wait()
    assert inbox.take(10) == [(b"to ourselves", address)]
    assert inbox.take(10) == []
    inbox.close()
    assert not inbox.send(b"too late", address)
    await asyncio.sleep(0)  # the loop closes it in its next turn


def test_a_backlog_is_taken_in_turns() -> None:
    wakes: list[None] = []
    inbox = PacketInbox(lambda: wakes.append(None))
    for number in range(3):
        inbox.datagram_received(bytes([number]), ("127.0.0.1", 1))
    wakes.clear()
    assert [data for data, _ in inbox.take(2)] == [b"\0", b"\1"]
    assert len(wakes) == 1  # for the one that is left
    assert [data for data, _ in inbox.take(2)] == [b"\2"]
    assert len(wakes) == 1


def test_more_than_can_wait_is_dropped() -> None:
    inbox = PacketInbox(lambda: None)
    for _ in range(INBOX_MAX + 3):
        inbox.datagram_received(b"x", ("127.0.0.1", 1))
    assert inbox.dropped == 3
    assert len(inbox.take(2 * INBOX_MAX)) == INBOX_MAX
