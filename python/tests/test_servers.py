# SPDX-License-Identifier: MulanPSL-2.0
"""Servers: accepted connections, closing, lack of descriptors, streams, TLS."""

import asyncio
import contextlib
import gc
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import warnings

import pytest

from transport_tools import (
    Recorder,
    caught_errors,
    in_thread,
    receive_all,
    receive_exactly,
    reset,
    run,
    turns,
    until,
    wait,
)


def client(address, family=socket.AF_INET):
    sock = socket.socket(family)
    sock.settimeout(20)
    sock.connect(address)
    return sock


class Echo(asyncio.Protocol):
    made = None

    def connection_made(self, transport):
        self.transport = transport
        if self.made is not None:
            self.made.append(self)

    def data_received(self, data):
        self.transport.write(data)


def new_echo():
    """A class of its own, with a list of its instances."""
    return type("Echo", (Echo,), {"made": []})


async def finish(server):
    server.close()
    await wait(server.wait_closed())
    await turns()


# ---- life of a server ---------------------------------------------------


def test_echo_server(loop):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0)
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
        port = 0
        for _ in range(5):
            server = await loop.create_server(Echo, "127.0.0.1", port)
            port = server.sockets[0].getsockname()[1]
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
        server = await loop.create_server(echo, "127.0.0.1", 0)
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
        server = None
        gc.collect()
    assert any("unclosed transport" in str(w.message) for w in caught)
    assert peer.recv(1) == b""
    peer.close()


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


# ---- TLS (more of it in test_tls*.py), here with an RSA key --------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost: (certificate, key)."""
    openssl = shutil.which("openssl")
    assert openssl, "the openssl command is needed for the TLS tests"
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=60)
    return cert, key


@pytest.fixture
def contexts(certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    return server, ssl.create_default_context(cafile=certificate[0])


def test_tls_echo(loop, contexts):
    async def case():
        lost = loop.create_future()

        class Server(Echo):
            def connection_lost(self, error):
                lost.set_result(error)

        echo = type("Echo", (Server,), {"made": []})
        server = await loop.create_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()
        protocol = Recorder()
        transport, _ = await wait(loop.create_connection(
            lambda: protocol, *address, ssl=contexts[1], server_hostname="localhost"))
        assert transport.get_extra_info("cipher")
        assert transport.get_extra_info("ssl_object") is not None
        assert transport.get_extra_info("peername") == address
        # With TLS 1.3 the server's handshake ends after the client's.
        await until(lambda: echo.made)
        assert echo.made[0].transport.get_extra_info("peername")[0] == "127.0.0.1"
        for size in 1, 1000, 100_000, 3 << 20:
            message = os.urandom(size)
            del protocol.data[:]
            transport.write(message)
            await until(lambda size=size: len(protocol.data) == size)
            assert protocol.data == message
        transport.close()
        await wait(protocol.lost)
        await wait(lost)
        await finish(server)

    run(loop, case())


def test_tls_handshake_fails(loop, contexts):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()
        peer = client(address)
        peer.sendall(b"this is no TLS\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            await in_thread(receive_all, peer)
        peer.close()
        with pytest.raises(ssl.SSLError):
            await wait(loop.create_connection(
                Recorder, *address, ssl=ssl.create_default_context(),
                server_hostname="localhost"))
        assert echo.made == []
        protocol = Recorder()
        transport, _ = await wait(loop.create_connection(
            lambda: protocol, *address, ssl=contexts[1], server_hostname="localhost"))
        transport.write(b"fine")
        await until(lambda: protocol.data == b"fine")
        transport.close()
        await wait(protocol.lost)
        await finish(server)

    run(loop, case())


def test_start_tls(loop, contexts):
    async def case():
        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                if data == b"STARTTLS":
                    self.transport.pause_reading()
                    self.transport.write(b"GO")
                    self.task = loop.create_task(self.upgrade())
                else:
                    self.answering = loop.create_task(self.answer(data))

            async def answer(self, data):
                await self.task
                self.transport.write(b"secret " + data)

            async def upgrade(self):
                self.transport = await loop.start_tls(
                    self.transport, self, contexts[0], server_side=True)

        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, *address)
        transport.write(b"STARTTLS")
        await until(lambda: protocol.data == b"GO")
        secure = await wait(loop.start_tls(
            transport, protocol, contexts[1], server_hostname="localhost"))
        secure.write(b"question")
        await until(lambda: protocol.data == b"GOsecret question")
        secure.close()
        await wait(protocol.lost)
        await finish(server)

    run(loop, case())
