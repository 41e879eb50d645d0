# SPDX-License-Identifier: MulanPSL-2.0
"""TLS connections while all goes well: data of all sizes, both ways, and flow control."""

import asyncio
import os
import socket
import sys
import threading

import pytest

from tls_tools import VERSIONS, connect, finish, read_exactly, run, serving, start_echo
from transport_tools import BufferedRecorder, Recorder, turns, until, wait


# ---- data ---------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_echo_at_all_sizes(tls_loop, certificates, version):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server(version=version))
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        assert transport.get_extra_info("ssl_object").version() == f"TLSv{version}"
        for size in 1, 2, 100, 4095, 16383, 16384, 16385, 65536, 100_000, 1 << 20:
            message = os.urandom(size)
            del protocol.data[:]
            transport.write(message)
            await until(lambda size=size: len(protocol.data) == size)
            assert protocol.data == message
        await finish(server, transport)
        assert protocol.error is None
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("version", VERSIONS)
def test_large_both_ways_at_once(tls_loop, certificates, version):
    async def case():
        size = 10 << 20
        there, back = os.urandom(size), os.urandom(size)
        got = []

        class Server(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                transport.write(back)
                got.append(self)

        server = await tls_loop.create_server(
            Server, "127.0.0.1", 0, ssl=certificates.server(version=version))
        transport, protocol = await connect(
            tls_loop, server.sockets[0].getsockname(), certificates.trusting())
        transport.write(there)
        await until(lambda: got and len(got[0].data) == size == len(protocol.data), 60)
        assert got[0].data == there
        assert protocol.data == back
        await finish(server, transport)

    run(tls_loop, case())


def test_one_byte_at_a_time(tls_loop, certificates):
    """Many small records, and records that arrive in pieces."""
    message = os.urandom(300)

    def peer(sock):
        for number in range(len(message)):
            sock.sendall(message[number:number + 1])
        assert read_exactly(sock, len(message)) == message

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            for number in range(len(message)):
                transport.write(message[number:number + 1])
                await asyncio.sleep(0)
            await until(lambda: len(protocol.data) == len(message))
            assert protocol.data == message
            await wait(protocol.lost)

    run(tls_loop, case())


def test_writelines_and_kinds_of_bytes(tls_loop, certificates):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three ")])
        transport.write(memoryview(b"four "))
        transport.write(b"")
        data = bytearray(b"five")
        transport.write(data)
        if tls_loop.tls == "kloop":
            data[:] = b"XXXX"  # it was copied
        await until(lambda: len(protocol.data) == 23)
        assert protocol.data == b"one two three four five"
        with pytest.raises(TypeError):
            transport.write("text")
        assert not transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        await finish(server, transport)

    run(tls_loop, case())


@pytest.mark.parametrize("size", [1, 100, 4096, 300_000])
def test_buffered_protocol(tls_loop, certificates, size):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        # asyncio's sslproto takes slices of it, which must not be copies.
        protocol = BufferedRecorder(size, get_buffer=lambda p, _: memoryview(p.buffer))
        transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
        message = os.urandom(10_000 if size == 1 else 2 << 20)
        transport.write(message)
        await until(lambda: len(protocol.data) == len(message), 60)
        assert protocol.data == message
        await finish(server, transport)

    run(tls_loop, case())


def test_streams(tls_loop, certificates):
    async def case():
        async def serve(reader, writer):
            while line := await reader.readline():
                writer.write(b"> " + line)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=certificates.server())
        address = server.sockets[0].getsockname()
        reader, writer = await wait(asyncio.open_connection(
            *address, ssl=certificates.trusting(), server_hostname="localhost"))
        for number in range(50):
            writer.write(b"line %d\n" % number)
            await writer.drain()
            assert await wait(reader.readline()) == b"> line %d\n" % number
        writer.close()
        await wait(writer.wait_closed())
        server.close()
        await wait(server.wait_closed())

    run(tls_loop, case())


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_connected_sockets(tls_loop, certificates, family):
    """create_connection(sock=) and connect_accepted_socket()."""
    async def case():
        if family == "unix":
            one, two = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                one = socket.create_connection(listener.getsockname())
                two, _ = listener.accept()
        one.setblocking(False)
        two.setblocking(False)
        a, b = Recorder(), Recorder()
        await wait(asyncio.gather(
            tls_loop.create_connection(lambda: a, sock=one, ssl=certificates.trusting(),
                                       server_hostname="localhost"),
            tls_loop.connect_accepted_socket(lambda: b, two, ssl=certificates.server())))
        a.transport.write(b"to the server")
        b.transport.write(b"to the client")
        await until(lambda: len(a.data) == 13 == len(b.data))
        assert (a.data, b.data) == (b"to the client", b"to the server")
        a.transport.close()
        assert await wait(a.lost) is None
        assert await wait(b.lost) is None
        assert one.fileno() == two.fileno() == -1

    run(tls_loop, case())


def test_many_connections(tls_loop, certificates):
    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server())
        context = certificates.trusting()
        pairs = await asyncio.gather(*(connect(tls_loop, address, context) for _ in range(50)))
        for number, (transport, _) in enumerate(pairs):
            transport.write(b"%d" % number * 1000)
        for number, (_, protocol) in enumerate(pairs):
            expected = b"%d" % number * 1000
            await until(lambda p=protocol, e=expected: len(p.data) >= len(e))
            assert protocol.data == expected
        assert len(made) == 50
        await finish(server, *(transport for transport, _ in pairs))

    run(tls_loop, case())


# ---- flow control -------------------------------------------------------


def test_pause_and_resume_reading(tls_loop, certificates):
    def peer(sock):
        for _ in range(100):
            sock.sendall(bytes(10_000))
        assert sock.recv(1) == b""

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            assert transport.is_reading()
            while len(protocol.data) < 1_000_000:
                transport.pause_reading()
                transport.pause_reading()  # again is no error
                assert not transport.is_reading()
                await turns()
                before = len(protocol.data)
                await asyncio.sleep(0.01)
                assert len(protocol.data) == before
                transport.resume_reading()
                transport.resume_reading()
                await until(lambda b=before: len(protocol.data) > b)
            assert protocol.data == bytes(1_000_000)
            transport.close()
            await wait(protocol.lost)

    run(tls_loop, case())


def test_pause_in_data_received(tls_loop, certificates):
    """What was decrypted already waits, in order."""
    message = os.urandom(500_000)

    def hook(protocol, data):
        protocol.transport.pause_reading()
        protocol.loop.call_later(0.001, protocol.transport.resume_reading)

    async def case():
        async with serving(lambda sock: sock.sendall(message), certificates.server()) as address:
            _, protocol = await connect(tls_loop, address, certificates.trusting(),
                                        Recorder(data_received=hook))
            await until(lambda: len(protocol.data) == len(message), 60)
            assert protocol.data == message
            assert await wait(protocol.lost) is None

    run(tls_loop, case())


def test_pause_before_data(tls_loop, certificates):
    def peer(sock):
        sock.sendall(b"early")
        assert sock.recv(1) == b""

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder(connection_made=lambda p, transport: transport.pause_reading())
            transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
            await asyncio.sleep(0.05)
            assert not protocol.data
            transport.resume_reading()
            await until(lambda: protocol.data == b"early")
            transport.close()
            await wait(protocol.lost)

    run(tls_loop, case())


def test_write_flow_control(tls_loop, certificates):
    may_read = threading.Event()

    def peer(sock):
        assert sock.recv(2) == b"go"
        assert may_read.wait(60)
        assert len(read_exactly(sock, 10 << 20)) == 10 << 20
        sock.sendall(b"done")
        assert sock.recv(1) == b""

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"go")
            for _ in range(10):  # more than sockets hold, and asyncio takes long with much
                transport.write(bytes(1 << 20))
            assert "pause_writing" in protocol.events
            may_read.set()
            await until(lambda: "resume_writing" in protocol.events, 60)
            assert protocol.events.index("pause_writing") < protocol.events.index("resume_writing")
            await until(lambda: protocol.data == b"done")
            await until(lambda: transport.get_write_buffer_size() == 0)
            transport.close()
            await wait(protocol.lost)

    run(tls_loop, case())


def test_write_limits(tls_loop, certificates):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        transport, _ = await connect(tls_loop, address, certificates.trusting())
        high = (512 if sys.version_info >= (3, 11) else 64) * 1024
        assert transport.get_write_buffer_limits() == (high // 4, high)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (high // 4, high)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=-1)
        await finish(server, transport)

    run(tls_loop, case())
