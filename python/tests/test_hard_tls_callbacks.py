# SPDX-License-Identifier: MulanPSL-2.0
"""Callbacks over TLS that raise, or that do to their transport whatever can be done, on both ends.

As in test_hard_callbacks: connection_lost() is called once, and last, the loop goes on, and
each exception reaches somebody once.
"""

import asyncio

import pytest

from test_hard_callbacks import (
    ACTIONS, BUFFERED_CALLBACKS, STREAM_CALLBACKS, Buffered, Odd, Stream, check_order,
    check_raised, in_a_loop, make, make_raising)
from transport_tools import turns, until

pytestmark = pytest.mark.usefixtures("little_garbage")
LARGE = 3_000_000  # more than the buffers of both sockets and of TLS hold
CASES = [(Stream, where) for where in STREAM_CALLBACKS]
CASES += [(Buffered, where) for where in BUFFERED_CALLBACKS]
CASE_NAMES = [f"{kind.__name__}-{where}" for kind, where in CASES]


class Peer(asyncio.Protocol):
    """The other end, which asks for each callback, and whose own never fail."""

    transport = None
    received = 0
    lost = False

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += len(data)

    def connection_lost(self, error):
        self.lost = True


async def both_ends(loop, certificates, protocol, side):
    """Have each callback of the protocol called, which is the client's or the server's."""
    peer = Peer()
    ends = {"server": protocol, "client": peer}
    if side == "client":
        ends = {"server": peer, "client": protocol}
    server = await loop.create_server(lambda: ends["server"], "127.0.0.1", 0,
                                      ssl=certificates.server())
    try:
        await loop.create_connection(
            lambda: ends["client"], *server.sockets[0].getsockname(),
            ssl=certificates.trusting(), server_hostname="localhost")
    except (Exception, asyncio.CancelledError, Odd) as error:  # connection_made() raised it
        assert str(error) == "on purpose"
    transport = None
    try:
        await until(lambda: protocol.events and (peer.transport or peer.lost))
        transport = protocol.made
        await drive(transport, protocol, peer)
        await until(lambda: "connection_lost" in protocol.events)
    finally:
        for end in transport, peer.transport:
            if end is not None:
                end.abort()
        server.close()
        await turns()
        await until(lambda: "connection_lost" in protocol.events)
        await until(lambda: peer.lost or peer.transport is None)


async def drive(transport, protocol, peer):
    wrote = 0

    def over():
        return transport.is_closing() or "connection_lost" in protocol.events or peer.lost

    async def came(event):
        await until(lambda: event in protocol.events or over())

    if peer.transport is None:
        return
    peer.transport.pause_reading()
    transport.set_write_buffer_limits(high=10)
    while wrote < LARGE and "pause_writing" not in protocol.events and not over():
        transport.write(b"x" * 300_000)
        wrote += 300_000
        await turns()
    peer.transport.write(b"some bytes")
    await turns()
    if transport.is_reading():
        await came("buffer_updated" if isinstance(protocol, Buffered) else "data_received")
    peer.transport.resume_reading()
    await until(lambda: peer.received >= wrote or over())
    if not over():
        transport.resume_reading()
        peer.transport.close()
    await came("eof_received")
    await turns(20)
    if "connection_lost" not in protocol.events:
        transport.abort()


@pytest.mark.parametrize("kind,where", CASES, ids=CASE_NAMES)
@pytest.mark.parametrize("side,error", [
    ("client", ValueError), ("server", ValueError), ("client", KeyboardInterrupt),
    ("server", KeyboardInterrupt), ("client", asyncio.CancelledError), ("server", SystemExit),
    ("client", Odd)])
def test_exceptions(certificates, side, kind, where, error):
    """Each exception reaches somebody once: the handler, or who runs the loop."""
    protocol = make_raising(kind, where, error)
    found = in_a_loop(lambda loop: both_ends(loop, certificates, protocol, side))
    check_raised(protocol, error, *found)
    if (error in (KeyboardInterrupt, SystemExit) and isinstance(protocol, Buffered)
            and where != "connection_lost"):
        assert "buffer_updated" in protocol.events  # nothing that came is lost


@pytest.mark.parametrize("kind,where", CASES, ids=CASE_NAMES)
@pytest.mark.parametrize("action", sorted(set(ACTIONS) - {"start_tls"}))  # sslproto's then
def test_reentrancy(certificates, kind, where, action):
    side = ["client", "server"][(CASES.index((kind, where)) + len(action)) % 2]
    protocol = make(kind, where, ACTIONS[action])
    errors, contexts = in_a_loop(lambda loop: both_ends(loop, certificates, protocol, side))
    check_order(protocol)
    assert protocol.done
    assert errors == [] and contexts == [], (errors, contexts)
