# SPDX-License-Identifier: MulanPSL-2.0
"""Readers and pairs of streams for the tests of asyncio's streams."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from transport_tools import run  # noqa: F401 (for the tests)


@contextlib.asynccontextmanager
async def connected(handler=None, **options):
    """A client's reader and writer, with the server's own: (reader, writer, reader, writer).

    A handler is the server's callback; without one the server's side is returned.
    """
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    def note(reader, writer):
        accepted.set_result((reader, writer))

    server = await asyncio.start_server(handler or note, "127.0.0.1", 0, **options)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **options)
    try:
        if handler is not None:
            yield reader, writer
        else:
            there, back = await accepted
            yield reader, writer, there, back
            back.close()
    finally:
        writer.close()
        server.close()


class FakeTransport:
    """Records what a reader asks of its transport."""

    def __init__(self, can_pause=True):
        self.calls = []
        self.can_pause = can_pause

    def pause_reading(self):
        self.calls.append("pause")
        if not self.can_pause:
            raise NotImplementedError

    def resume_reading(self):
        self.calls.append("resume")


def fast_reader(loop, **options):
    """A reader that kloop made its own, and that nothing feeds. It has no transport."""
    near, far = socket.socketpair()
    near.setblocking(False)
    transport = loop._make_socket_transport(near, asyncio.Protocol())
    reader = asyncio.StreamReader(loop=loop, **options)
    transport.set_protocol(asyncio.StreamReaderProtocol(reader, loop=loop))
    transport.set_protocol(asyncio.Protocol())
    transport.abort()
    far.close()
    assert is_fast(reader)
    return reader


def is_fast(reader):
    assert isinstance(reader, asyncio.StreamReader)
    return type(reader).__module__ == "kloop"
