# SPDX-License-Identifier: MulanPSL-2.0
"""contextvars of connections: which context their protocols are called in, on both loops.

Until Python 3.14 a server's connections get copies of the context in which it began to serve;
from 3.15 on of the one in which it was made.
"""

import asyncio
import contextvars
import socket
import sys

import pytest

OF_THE_MAKER = sys.version_info >= (3, 15)
variable = contextvars.ContextVar("variable", default="unset")


class Noting(asyncio.Protocol):
    """Notes the variable's value in each call, and sets it for the last."""

    def __init__(self, notes, done):
        self.notes, self.done = notes, done

    def connection_made(self, transport):
        self.transport = transport
        self.notes.append(("made", variable.get()))

    def data_received(self, data):
        self.notes.append(("data", variable.get()))
        variable.set("by the connection")
        self.transport.close()

    def connection_lost(self, error):
        self.notes.append(("lost", variable.get()))
        self.done.set_result(None)


def connect(port, contexts):
    """A client that says a byte and waits for the end; with TLS if there is a context for it."""
    sock = socket.create_connection(("127.0.0.1", port))
    if contexts is not None:
        sock = contexts[1].wrap_socket(sock, server_hostname="localhost")
    with sock:
        sock.sendall(b"x")
        while sock.recv(100):
            pass


@pytest.fixture(params=["plain", "tls"])
def contexts(request):
    """(server's, client's) SSLContext, or None."""
    if request.param == "plain":
        return None
    certificates = request.getfixturevalue("certificates")
    return certificates.server(), certificates.trusting()


def test_server(loop, contexts):
    notes, done = [], []

    async def main():
        def made():
            done.append(loop.create_future())
            return Noting(notes, done[-1])

        variable.set("the maker's")
        server = await loop.create_server(made, "127.0.0.1", 0, start_serving=False,
                                          ssl=contexts and contexts[0])
        variable.set("the starter's")
        await server.start_serving()
        variable.set("later")
        port = server.sockets[0].getsockname()[1]
        for number in range(2):
            await loop.run_in_executor(None, connect, port, contexts)
            await done[number]
        server.close()
        await server.wait_closed()
        assert variable.get() == "later"

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    first = "the maker's" if OF_THE_MAKER else "the starter's"
    one = [("made", first), ("data", first), ("lost", "by the connection")]
    # What one connection sets no other sees.
    assert notes == one * 2
    assert loop.failures == []


def test_client(loop, contexts):
    notes = []

    async def main():
        async def answer(reader, writer):
            writer.write(b"x")
            await writer.drain()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0,
                                            ssl=contexts and contexts[0])
        done = loop.create_future()
        variable.set("the client's")
        _, protocol = await loop.create_connection(
            lambda: Noting(notes, done), *server.sockets[0].getsockname(),
            ssl=contexts and contexts[1], server_hostname=contexts and "localhost")
        assert variable.get() == "the client's"
        variable.set("later")
        await done
        server.close()
        await server.wait_closed()

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert notes == [("made", "the client's"), ("data", "the client's"),
                     ("lost", "by the connection")]
    assert loop.failures == []


def test_no_context(kernel_loop):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with pytest.raises(TypeError):
            kernel_loop._start_serving(asyncio.Protocol, sock, context="a word")


def test_readers_of_transports(kernel_loop):
    """What asyncio's own transports call, with a context from Python 3.15 on."""
    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    left, right = socket.socketpair()

    def ready(kind, remove):
        seen.append((kind, variable.get()))
        remove(left)
        if len(seen) == 2:
            kernel_loop.stop()

    with left, right:
        right.send(b"x")
        handle = kernel_loop._add_reader(left, ready, "read", kernel_loop._remove_reader,
                                         context=context)
        assert handle.get_context() is context
        kernel_loop._add_writer(left, ready, "write", kernel_loop._remove_writer, context=context)
        kernel_loop.run_forever()
        for wrong in ({"context": 5}, {"contexts": context}):
            with pytest.raises(TypeError):
                kernel_loop._add_reader(left, ready, **wrong)
        with pytest.raises(TypeError):
            kernel_loop.add_reader(left, ready, context=context)
        kernel_loop._add_reader(left, ready, context=None)
        assert kernel_loop._remove_reader(left)
    assert sorted(seen) == [("read", "given"), ("write", "given")]
