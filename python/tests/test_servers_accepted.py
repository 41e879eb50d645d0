# SPDX-License-Identifier: MulanPSL-2.0
"""Servers: accepted connections, lack of descriptors, a loop that is closed meanwhile."""

import asyncio
import contextlib
import gc
import os
import resource
import socket
import warnings

import pytest

from server_tools import Echo, client, finish, new_echo
from transport_tools import (
    Recorder,
    caught_errors,
    in_thread,
    receive_exactly,
    reset,
    run,
    turns,
    until,
    wait,
)


# ---- accepted transports ------------------------------------------------


def test_extra_info_of_accepted(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        peer = client(address)
        own = peer.getsockname()
        await until(lambda: echo.made)
        transport = echo.made[0].transport
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("peername") == own
        assert transport.get_extra_info("sockname") == address
        sock = transport.get_extra_info("socket")
        assert sock is transport.get_extra_info("socket")
        assert sock.getpeername() == own
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.gettimeout() == 0
        # The socket object and the transport share one descriptor.
        peer.sendall(b"works on")
        assert await in_thread(receive_exactly, peer, 8) == b"works on"
        peer.close()
        await until(lambda: sock.fileno() == -1)
        assert transport.get_extra_info("peername") == own
        assert transport.get_extra_info("sockname") == address
        assert transport.get_extra_info("socket").fileno() == -1

        peer = client(address)
        await until(lambda: len(echo.made) == 2)
        peer.close()
        transport = echo.made[1].transport
        await until(transport.is_closing)
        await turns(20)
        assert transport.get_extra_info("socket").fileno() == -1
        await finish(server)

    run(loop, case())


def test_peer_that_left_before_it_was_served(loop):
    async def case():
        protocols = []

        def factory():
            protocols.append(Recorder())
            return protocols[-1]

        with caught_errors(loop) as contexts:
            server = await loop.create_server(factory, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            for _ in range(20):
                reset(client(address))
                client(address).close()
            await until(lambda: len(protocols) >= 20 and all(p.lost.done() for p in protocols))
            peer = client(address)
            await until(lambda: not protocols[-1].lost.done())
            peer.close()
            await wait(protocols[-1].lost)
            await finish(server)
        assert contexts == []

    run(loop, case())


def test_factory_raises(loop):
    async def case():
        loop.set_debug(True)
        calls, told = [], []

        def factory():
            calls.append(1)
            if len(calls) == 1:
                raise ZeroDivisionError("boom")
            return Echo()

        with caught_errors(loop) as contexts:
            server = await loop.create_server(factory, "127.0.0.1", 0)
            peer = client(server.sockets[0].getsockname())
            await until(lambda: contexts)
            told.append((contexts[0]["message"], type(contexts[0]["exception"])))
            # asyncio leaves the descriptor to the collector, and the traceback holds it.
            contexts.clear()
            await turns()
            gc.collect()
            with contextlib.suppress(ConnectionResetError):
                assert await in_thread(peer.recv, 1) == b""
            peer.close()
            peer = client(server.sockets[0].getsockname())
            peer.sendall(b"goes on")
            assert await in_thread(receive_exactly, peer, 7) == b"goes on"
            peer.close()
            await finish(server)
        assert told == [("Error on transport creation for incoming connection",
                         ZeroDivisionError)]
        assert contexts == []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(loop, case())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_connection_made_exits(loop, kind):
    class Leaving(Echo):
        def connection_made(self, transport):
            self.transport = transport
            raise kind("out")

    async def start():
        return await loop.create_server(Leaving, "127.0.0.1", 0)

    server = run(loop, start())
    peer = client(server.sockets[0].getsockname())
    with pytest.raises(kind):
        run(loop, asyncio.sleep(5))
    peer.close()
    run(loop, asyncio.sleep(0.02))
    run(loop, finish(server))


def test_many_connections(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0, backlog=500)
        address = server.sockets[0].getsockname()

        def storm():
            for _ in range(4):
                peers = [client(address) for _ in range(100)]
                for peer in peers:
                    peer.sendall(b"ping")
                for peer in peers:
                    assert receive_exactly(peer, 4) == b"ping"
                for peer in peers:
                    peer.close()

        await in_thread(storm)
        assert len(echo.made) == 400
        await until(lambda: all(p.transport.is_closing() for p in echo.made))
        await finish(server)

    run(loop, case())


# ---- no descriptors left ------------------------------------------------


def test_emfile_is_survived(loop):
    """Connections wait in the backlog while there are no descriptors; none is lost."""

    async def case():
        echo = new_echo()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        peers = [socket.socket() for _ in range(5)]
        hoard = [os.open("/dev/null", os.O_RDONLY)]
        with caught_errors(loop) as contexts:
            try:
                # Before the server begins: the ring takes the limit of that moment.
                resource.setrlimit(resource.RLIMIT_NOFILE, (hoard[0] + 10, hard))
                server = await loop.create_server(echo, "127.0.0.1", 0)
                address = server.sockets[0].getsockname()
                await turns()
                with contextlib.suppress(OSError):
                    while True:
                        hoard.append(os.dup(hoard[0]))
                for peer in peers:
                    peer.settimeout(20)
                    peer.connect(address)
                    peer.sendall(b"waiting")
                await until(lambda: contexts)
                await asyncio.sleep(0.25)
                assert echo.made == []
                told = list(contexts)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in hoard:
                    os.close(fd)
            for peer in peers:
                assert await in_thread(receive_exactly, peer, 7) == b"waiting"
                peer.close()
            await finish(server)
        assert len(echo.made) == 5
        for context in told:
            assert context["message"] == "socket.accept() out of system resource"
            assert isinstance(context["exception"], OSError)
            assert "socket" in context
        # asyncio tries as often as the backlog says before it waits.
        if not isinstance(loop, asyncio.SelectorEventLoop):
            assert len(told) < 10

    run(loop, case())


# ---- nobody closed it ---------------------------------------------------


def test_loop_closed_while_serving(loop_factory):
    loop = loop_factory()
    echo = new_echo()

    async def start():
        server = await loop.create_server(echo, "127.0.0.1", 0)
        peer = client(server.sockets[0].getsockname())
        await until(lambda: echo.made)
        return server, peer

    server, peer = loop.run_until_complete(start())
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        echo.made.clear()
        del server
        gc.collect()
    assert any("unclosed transport" in str(w.message) for w in caught)
    assert peer.recv(1) == b""
    peer.close()
