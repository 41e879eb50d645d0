# SPDX-License-Identifier: MulanPSL-2.0
"""Servers: their life, addresses, streams and files on them."""

import asyncio
import contextlib
import os
import socket
import sys

import pytest

from port_tools import free_port
from server_tools import Echo, client, finish, new_echo
from transport_tools import (
    Recorder,
    in_thread,
    receive_all,
    receive_exactly,
    reset,
    run,
    turns,
    until,
    wait,
)


# ---- life of a server ---------------------------------------------------


def test_echo_server(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", free_port())
        assert server.is_serving()
        assert len(server.sockets) == 1
        address = server.sockets[0].getsockname()
        peers = [client(address) for _ in range(20)]
        for number, peer in enumerate(peers):
            peer.sendall(b"%d" % number * 1000)
        for number, peer in enumerate(peers):
            expected = b"%d" % number * 1000
            assert await in_thread(receive_exactly, peer, len(expected)) == expected
        assert len(echo.made) == 20
        for peer in peers:
            peer.close()
        await until(lambda: all(p.transport.is_closing() for p in echo.made))
        await finish(server)
        assert not server.is_serving()
        assert server.sockets == ()
        with pytest.raises(ConnectionRefusedError):
            client(address)

    run(loop, case())


def test_start_serving_later(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        await server.start_serving()
        assert server.is_serving()
        peer = client(server.sockets[0].getsockname())
        peer.sendall(b"hello")
        assert await in_thread(receive_exactly, peer, 5) == b"hello"
        peer.close()
        await finish(server)

    run(loop, case())


class LikeASocket:
    """As gunicorn passes them: has a socket, and is none."""

    def __init__(self, sock):
        self._sock = sock

    def __getattr__(self, name):
        return getattr(self._sock, name)


@pytest.mark.parametrize("kind", [lambda sock: sock, LikeASocket], ids=["socket", "like a socket"])
def test_shared_socket(loop, loop_factory, kind):
    """Of two loops with the same listener the one that has time takes what comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    other = loop_factory()
    servers = []
    for each in loop, other:
        echo = new_echo()
        servers.append((each, echo, run(each, each.create_server(echo, sock=kind(listener.dup())))))
    listener.close()

    async def ask(echo, count):
        for number in range(count):
            peer = client(address)
            peer.sendall(b"hello")
            assert await in_thread(receive_exactly, peer, 5) == b"hello"
            peer.close()
        await until(lambda: all(p.transport.is_closing() for p in echo.made))
        assert len(echo.made) == count

    try:
        for each, echo, _ in reversed(servers):
            run(each, ask(echo, 5))
        for each, _, server in servers:
            run(each, finish(server))
    finally:
        other.close()


def test_serve_forever_and_cancel(loop):
    async def case():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        task = loop.create_task(server.serve_forever())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not server.is_serving()

    run(loop, case())


def test_connections_outlive_the_server(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0)
        peer = client(server.sockets[0].getsockname())
        await until(lambda: echo.made)
        server.close()
        await turns()
        peer.sendall(b"still there")
        assert await in_thread(receive_exactly, peer, 11) == b"still there"
        closed = loop.create_task(server.wait_closed())
        await turns()
        if sys.version_info >= (3, 12):
            assert not closed.done()
        peer.close()
        await wait(closed)

    run(loop, case())


@pytest.mark.parametrize("end", ["close_clients", "abort_clients"])
def test_server_ends_its_clients(loop, end):
    if sys.version_info < (3, 13):
        return  # Server has no such method

    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0)
        peers = [client(server.sockets[0].getsockname()) for _ in range(3)]
        await until(lambda: len(echo.made) == 3)
        server.close()
        getattr(server, end)()
        await wait(server.wait_closed())
        for peer in peers:
            with contextlib.suppress(ConnectionResetError):
                assert await in_thread(peer.recv, 1) == b""
            peer.close()

    run(loop, case())


def test_same_port_again_at_once(loop):
    async def case():
        port = free_port()
        for _ in range(5):
            server = await loop.create_server(Echo, "127.0.0.1", port)
            peer = client(("127.0.0.1", port))
            peer.sendall(b"x")
            assert await in_thread(receive_exactly, peer, 1) == b"x"
            reset(peer)
            await asyncio.sleep(0.01)
            server.close()
            await wait(server.wait_closed())

    run(loop, case())


def test_sockets_are_closed_at_once(loop):
    async def case():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        sock = server.sockets[0]
        assert sock.fileno() >= 0
        server.close()
        assert sock.fileno() == -1
        server.close()
        await wait(server.wait_closed())

    run(loop, case())


def test_several_addresses(loop):
    async def case():
        echo = new_echo()
        hosts = ["127.0.0.1", "127.0.0.2"] + (["::1"] if socket.has_ipv6 else [])
        server = await loop.create_server(echo, hosts, 0)
        for listening in server.sockets:
            peer = client(listening.getsockname(), listening.family)
            peer.sendall(b"hello")
            assert await in_thread(receive_exactly, peer, 5) == b"hello"
            assert echo.made[-1].transport.get_extra_info("peername") == peer.getsockname()
            assert echo.made[-1].transport.get_extra_info("sockname") == peer.getpeername()
            peer.close()
        await finish(server)

    run(loop, case())


def test_unix_server(loop, tmp_path):
    async def case():
        echo = new_echo()
        path = str(tmp_path / "socket")
        server = await loop.create_unix_server(echo, path)
        peer = client(path, socket.AF_UNIX)
        peer.sendall(b"hello" * 10000)
        assert await in_thread(receive_exactly, peer, 50000) == b"hello" * 10000
        transport = echo.made[0].transport
        assert transport.get_extra_info("sockname") == path
        assert transport.get_extra_info("peername") == ""
        peer.close()
        named = socket.socket(socket.AF_UNIX)
        named.bind("\0" + "n" * 60)
        named.connect(path)
        await until(lambda: len(echo.made) == 2)
        assert echo.made[1].transport.get_extra_info("peername") == b"\0" + b"n" * 60
        named.close()
        await finish(server)
        protocol = Recorder()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await loop.create_unix_connection(lambda: protocol, path)

    run(loop, case())


def test_client_and_server_in_one_loop(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", free_port())
        address = server.sockets[0].getsockname()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, *address)
        message = os.urandom(5 << 20)
        transport.write(message)
        await until(lambda: len(protocol.data) == len(message))
        assert protocol.data == message
        assert transport.get_extra_info("peername") == address
        transport.write_eof()
        assert await wait(protocol.lost) is None
        await finish(server)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *address)

    run(loop, case())


# ---- streams ------------------------------------------------------------


def test_streams_echo(loop):
    async def case():
        async def serve(reader, writer):
            while True:
                line = await reader.readline()
                if not line:
                    break
                writer.write(line.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def talk(name):
            reader, writer = await asyncio.open_connection(*address)
            assert writer.get_extra_info("peername") == address
            for number in range(50):
                writer.write(b"%s %d " % (name, number))
                writer.writelines([b"x" * (number * 97), b"\n"])
                expected = b"%s %d " % (name.upper(), number) + b"X" * (number * 97) + b"\n"
                assert await reader.readline() == expected
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

        await wait(asyncio.gather(*(talk(b"client%d" % i) for i in range(10))))
        await finish(server)

    run(loop, case())


def test_streams_large(loop):
    async def case():
        async def serve(reader, writer):
            writer.write(await reader.read())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        message = os.urandom(16 << 20)
        writer.write(message)
        writer.write_eof()
        assert await wait(reader.read()) == message
        writer.close()
        await writer.wait_closed()
        await finish(server)

    run(loop, case())


def test_sendfile(loop, tmp_path):
    """loop.sendfile() swaps the protocol and reads the file into the transport."""

    async def case():
        path = tmp_path / "file"
        message = os.urandom(3 << 20)
        path.write_bytes(message)

        class Sender(asyncio.Protocol):
            def connection_made(self, transport):
                self.task = loop.create_task(self.send(transport))

            async def send(self, transport):
                with path.open("rb") as file:
                    assert await loop.sendfile(transport, file) == len(message)
                transport.close()

        server = await loop.create_server(Sender, "127.0.0.1", 0)
        peer = client(server.sockets[0].getsockname())
        assert await in_thread(receive_all, peer) == message
        peer.close()
        await finish(server)

    run(loop, case())
