# SPDX-License-Identifier: MulanPSL-2.0
"""loop.start_tls(): from plain to TLS in the middle of a connection, and TLS in TLS."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import sys
import weakref

import pytest

from tls_tools import (
    Bio,
    connect,
    connecting,
    finish,
    read_all,
    read_exactly,
    run,
    serving,
    start_echo,
)
from transport_tools import BufferedRecorder, Recorder, turns, until, wait


class Upgrading(asyncio.Protocol):
    """A server that upgrades on b"STARTTLS", and answers b"secret " + what came after."""

    context = None
    made = None

    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()
        self.made.append(self)

    def data_received(self, data):
        if data == b"STARTTLS":
            self.transport.pause_reading()
            self.transport.write(b"GO")
            self.task = asyncio.get_running_loop().create_task(self.upgrade())
        else:
            self.answering = asyncio.get_running_loop().create_task(self.answer(data))

    async def upgrade(self):
        self.transport = await asyncio.get_running_loop().start_tls(
            self.transport, self, self.context, server_side=True)

    async def answer(self, data):
        await self.task
        self.transport.write(b"secret " + data)

    def connection_lost(self, error):
        self.lost.set_result(error)


async def start_upgrading(loop, context):
    kind = type("Upgrading", (Upgrading,), {"context": context, "made": []})
    server = await loop.create_server(kind, "127.0.0.1", 0)
    return kind.made, server, server.sockets[0].getsockname()


async def plain(loop, address, protocol=None):
    protocol = protocol or Recorder()
    transport, _ = await wait(loop.create_connection(lambda: protocol, *address))
    return transport, protocol


def upgrade(loop, transport, protocol, context, name="localhost", **options):
    return wait(loop.start_tls(transport, protocol, context, server_hostname=name, **options))


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
def test_upgrade_of_both_ends(tls_loop, certificates, kind):
    async def case():
        made, server, address = await start_upgrading(tls_loop, certificates.server())
        transport, first = await plain(tls_loop, address)
        transport.write(b"STARTTLS")
        await until(lambda: first.data == b"GO")
        if kind is Recorder:
            second = Recorder()
        else:
            second = BufferedRecorder(get_buffer=lambda p, _: memoryview(p.buffer))
        trusting = certificates.trusting()
        secure = await upgrade(tls_loop, transport, second, trusting)
        assert (secure is transport) is (tls_loop.tls == "kloop")
        assert secure.get_extra_info("sslcontext") is trusting
        assert secure.get_extra_info("cipher")
        assert secure.get_extra_info("peername") == address
        assert secure.get_protocol() is second
        assert not secure.can_write_eof()
        assert secure.is_reading()
        assert "connection_made" not in second.events
        for size in 1, 1000, 100_000:
            message = os.urandom(size)
            del second.data[:]
            secure.write(message)
            await until(lambda s=size: len(second.data) - second.data.count(b"secret ") * 7 >= s)
            assert second.data.replace(b"secret ", b"") == message
        secure.close()
        assert await wait(second.lost) is None
        assert await wait(made[0].lost) is None
        assert first.events == ["connection_made", "data_received"]
        await finish(server)
        assert not tls_loop.failures

    run(tls_loop, case())


def test_bytes_that_came_early(tls_loop, certificates):
    """The client's hello arrives while the server is paused, before start_tls() is called."""
    def peer(sock):
        bio = Bio(sock, certificates.trusting(), server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            bio.object.do_handshake()
        sock.sendall(b"STARTTLS")
        assert read_exactly(sock, 2) == b"GO"
        bio.flush()
        bio.call("do_handshake")
        bio.object.write(b"question")
        bio.flush()
        assert bio.call("read", 100) == b"secret question"

    class Slow(Upgrading):
        context = certificates.server()
        made = []

        async def upgrade(self):
            await asyncio.sleep(0.1)
            await super().upgrade()

    async def case():
        Slow.made.clear()
        server = await tls_loop.create_server(Slow, "127.0.0.1", 0)
        async with connecting(server.sockets[0].getsockname(), peer):
            await until(lambda: Slow.made)
            await wait(Slow.made[0].lost)
        await finish(server)

    run(tls_loop, case())


def test_bytes_held_for_a_buffered_protocol(kernel_loop, certificates):
    """A BufferedProtocol that pauses between two pieces leaves the rest to the handshake."""
    loop = kernel_loop

    def peer(sock):
        bio = Bio(sock, certificates.trusting(), server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            bio.object.do_handshake()
        sock.sendall(b"STARTTLS" + bio.outgoing.read())
        bio.call("do_handshake")
        bio.object.write(b"all there")
        bio.flush()
        bio.call("read", 2)

    async def case():
        begun = loop.create_future()

        def pause(protocol, count):
            if not begun.done():
                protocol.transport.pause_reading()
                begun.set_result(None)

        first = BufferedRecorder(8, buffer_updated=pause)
        second = Recorder()
        server = await loop.create_server(lambda: first, "127.0.0.1", 0)
        async with connecting(server.sockets[0].getsockname(), peer):
            await wait(begun)
            assert first.data == b"STARTTLS"
            transport = await wait(loop.start_tls(
                first.transport, second, certificates.server(), server_side=True))
            await until(lambda: second.data == b"all there")
            transport.write(b"ok")
            await wait(second.lost)
        await finish(server)

    run(loop, case())


def test_what_was_written_before_leaves_in_the_clear(tls_loop, certificates):
    def peer(sock):
        assert read_exactly(sock, 300_000) == b"p" * 300_000
        with certificates.server().wrap_socket(sock, server_side=True) as secure:
            assert read_exactly(secure, 6) == b"secret"
            secure.sendall(b"end")
            read_all(secure)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await plain(tls_loop, address)
            transport.write(b"p" * 300_000)
            secure = await upgrade(tls_loop, transport, protocol, certificates.trusting())
            secure.write(b"secret")
            await until(lambda: protocol.data == b"end")
            secure.close()
            await wait(protocol.lost)

    run(tls_loop, case())


def test_streams(tls_loop, certificates):
    if sys.version_info < (3, 11):
        return  # StreamWriter.start_tls() came with 3.11

    async def case():
        upgraded = tls_loop.create_future()

        async def serve(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"GO\n")
            await writer.start_tls(certificates.server())
            upgraded.set_result(None)
            writer.write(b"secret " + await reader.readline())
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"GO\n"
        await wait(writer.start_tls(certificates.trusting(), server_hostname="localhost"))
        await wait(upgraded)
        writer.write(b"line\n")
        assert await wait(reader.readline()) == b"secret line\n"
        assert await wait(reader.read()) == b""
        writer.close()
        await wait(writer.wait_closed())
        server.close()
        await wait(server.wait_closed())

    run(tls_loop, case())


def test_bytes_in_a_reader(kernel_loop, certificates):
    """The client's hello went to the server's StreamReader before start_tls() was called."""
    if sys.version_info < (3, 11):
        return  # StreamWriter.start_tls() came with 3.11
    refused = []

    async def serve(reader, writer):
        await until(lambda: "bytes" in repr(reader))
        held = repr(reader)
        with pytest.raises(TypeError):  # nothing is lost by what fails at once
            await writer.start_tls(certificates.server(), ssl_handshake_timeout="long")
        refused.append(repr(reader) == held)
        await writer.start_tls(certificates.server())
        writer.write(b"secret " + await reader.readline())
        writer.close()

    async def case():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await wait(writer.start_tls(certificates.trusting(), server_hostname="localhost"))
        writer.write(b"line\n")
        assert await wait(reader.readline()) == b"secret line\n"
        assert await wait(reader.read()) == b""
        writer.close()
        server.close()
        await wait(server.wait_closed())
        assert refused == [True]

    run(kernel_loop, case())


def test_failure_leaves_no_cycle(kernel_loop, certificates):
    """The transport and the protocol of what failed go without the collector's help."""
    references = []

    class Client(asyncio.Protocol):
        data = b""

        def data_received(self, data):
            self.data += data

    async def fail():
        transport, protocol = await kernel_loop.create_connection(Client, *address)
        references.extend([weakref.ref(transport), weakref.ref(protocol)])
        transport.write(b"STARTTLS")
        await until(lambda: protocol.data == b"GO")
        try:
            await kernel_loop.start_tls(transport, protocol, ssl.create_default_context(),
                                        server_hostname="localhost")
        except ssl.SSLCertVerificationError:
            return True

    made, server, address = kernel_loop.run_until_complete(
        start_upgrading(kernel_loop, certificates.server()))
    gc.collect()
    gc.disable()
    try:
        assert run(kernel_loop, fail())
        run(kernel_loop, until(lambda: made[0].task.done()))
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        made[0].task.result()
    run(kernel_loop, finish(server))


# ---- failures -----------------------------------------------------------------


def test_wrong_arguments(tls_loop, certificates):
    async def case():
        async with serving(read_all) as address:
            transport, protocol = await plain(tls_loop, address)
            with pytest.raises(TypeError, match="SSLContext"):
                await tls_loop.start_tls(transport, protocol, None)
            with pytest.raises(TypeError, match="SSLContext"):
                await tls_loop.start_tls(transport, protocol, True)
            with pytest.raises(TypeError, match="not supported by start_tls"):
                await tls_loop.start_tls(asyncio.Transport(), protocol, certificates.trusting())
            with pytest.raises(TypeError, match="not supported by start_tls"):
                await tls_loop.start_tls(None, protocol, certificates.trusting())
            with pytest.raises(ValueError, match="positive number"):
                await tls_loop.start_tls(transport, protocol, certificates.trusting(),
                                         ssl_handshake_timeout=0)
            assert not transport.is_closing()
            transport.close()
            await wait(protocol.lost)

    run(tls_loop, case())


def test_handshake_fails(tls_loop, certificates):
    async def case():
        _, server, address = await start_upgrading(tls_loop, certificates.server())
        transport, protocol = await plain(tls_loop, address)
        transport.write(b"STARTTLS")
        await until(lambda: protocol.data == b"GO")
        with pytest.raises(ssl.SSLCertVerificationError):
            await upgrade(tls_loop, transport, protocol, certificates.trusting(),
                          "other.example")
        assert transport.is_closing()
        # It has seen connection_made(), so it hears of the end.
        assert isinstance(await wait(protocol.lost), ssl.SSLCertVerificationError)
        await finish(server)

    run(tls_loop, case())


def test_garbage(tls_loop, certificates):
    def peer(sock):
        sock.recv(1)
        sock.sendall(b"no TLS, thank you\r\n" * 20)
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await plain(tls_loop, address)
            with pytest.raises(ssl.SSLError) as caught:
                await upgrade(tls_loop, transport, protocol, certificates.trusting())
            assert caught.value.reason == "WRONG_VERSION_NUMBER"
            assert isinstance(await wait(protocol.lost), ssl.SSLError)

    run(tls_loop, case())


def test_time_out(tls_loop, certificates):
    async def case():
        async with serving(read_all) as address:
            transport, protocol = await plain(tls_loop, address)
            with pytest.raises(ConnectionAbortedError, match="longer than 0.1 seconds"):
                await upgrade(tls_loop, transport, protocol, certificates.trusting(),
                              ssl_handshake_timeout=0.1)
            assert transport.is_closing()
            if tls_loop.tls == "kloop":
                assert isinstance(await wait(protocol.lost), ConnectionAbortedError)

    run(tls_loop, case())


def test_cancel(tls_loop, certificates):
    async def case():
        async with serving(read_all) as address:
            transport, protocol = await plain(tls_loop, address)
            task = tls_loop.create_task(tls_loop.start_tls(
                transport, protocol, certificates.trusting(), server_hostname="localhost"))
            await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert transport.is_closing()
        await turns()
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_close_meanwhile(kernel_loop, certificates, end):
    """asyncio's start_tls() returns None then."""
    loop = kernel_loop

    async def case():
        async with serving(read_all) as address:
            transport, protocol = await plain(loop, address)
            task = loop.create_task(loop.start_tls(
                transport, protocol, certificates.trusting(), server_hostname="localhost"))
            await asyncio.sleep(0.05)
            getattr(transport, end)()
            with pytest.raises(ConnectionAbortedError):
                await wait(task)
            assert await wait(protocol.lost) is None

    run(loop, case())


def test_upgrade_of_a_closed_transport(kernel_loop, certificates):
    loop = kernel_loop

    async def case():
        async with serving(read_all) as address:
            transport, protocol = await plain(loop, address)
            transport.close()
            with pytest.raises(ConnectionResetError):
                await loop.start_tls(transport, protocol, certificates.trusting(),
                                     server_hostname="localhost")
            await wait(protocol.lost)

    run(loop, case())


def test_peer_left_before(kernel_loop, certificates):
    loop = kernel_loop

    async def case():
        async with serving(lambda sock: None) as address:
            transport, protocol = await plain(
                loop, address, Recorder(eof_received=lambda _: True))
            await wait(protocol.eof)
            with pytest.raises(ConnectionError):
                await upgrade(loop, transport, protocol, certificates.trusting())
            transport.close()
            await wait(protocol.lost)

    run(loop, case())


# ---- TLS in TLS -----------------------------------------------------------------


def test_tls_in_tls(tls_loop, certificates):
    """A proxy's connection inside another: asyncio's sslproto over our transport."""
    message = os.urandom(1 << 20)

    def peer(sock):
        assert read_exactly(sock, 7) == b"CONNECT"
        sock.sendall(b"200")
        inner = Bio(sock, certificates.server(certificates.other), server_side=True)
        inner.call("do_handshake")
        got = bytearray()
        while len(got) < len(message):
            got += inner.call("read", 1 << 16)
        assert got == message
        inner.object.write(b"inner")
        inner.flush()
        with contextlib.suppress(ssl.SSLError, OSError):
            inner.call("unwrap")

    async def case():
        async with serving(peer, certificates.server()) as address:
            outer, protocol = await connect(tls_loop, address, certificates.trusting())
            outer.write(b"CONNECT")
            await until(lambda: protocol.data == b"200")
            inside = Recorder()
            inner = await upgrade(tls_loop, outer, inside, certificates.trusting(),
                                  "other.example")
            assert inner is not outer
            cert = inner.get_extra_info("peercert")
            assert cert["subjectAltName"] == (("DNS", "other.example"),)
            if tls_loop.tls != "asyncio":
                assert inner.get_extra_info("ktls_send") is False
                assert "sslproto" in inner.get_extra_info("ktls_send_reason")
            inner.write(message)
            await until(lambda: inside.data == b"inner", 60)
            inner.close()
            await wait(inside.lost)

    if sys.version_info >= (3, 11):  # before, asyncio refuses
        run(tls_loop, case())


def test_foreign_transport(kernel_loop, certificates):
    """One that is not ours, and says that it can: asyncio's way."""
    from asyncio import selector_events

    loop = kernel_loop

    async def case():
        _, server, address = await start_echo(loop, certificates.server())
        sock = socket.create_connection(address)
        sock.setblocking(False)
        first, second = Recorder(), Recorder()
        transport = selector_events._SelectorSocketTransport(loop, sock, first)
        await wait(first.made)
        secure = await upgrade(loop, transport, second, certificates.trusting())
        secure.write(b"foreign")
        await until(lambda: second.data == b"foreign")
        assert secure.get_extra_info("ktls_send") is False
        secure.close()
        await wait(second.lost)
        await finish(server)

    run(loop, case())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_from_inside_the_handshake(kernel_loop, certificates, end):
    """A callback of the ssl module, which runs in the middle of a step, ends the transport."""
    loop = kernel_loop

    async def case():
        context = certificates.server()
        made, server, address = await start_upgrading(loop, context)
        context.sni_callback = lambda *_: getattr(made[0].transport, end)()
        transport, protocol = await plain(loop, address)
        transport.write(b"STARTTLS")
        await until(lambda: protocol.data == b"GO")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await upgrade(loop, transport, protocol, certificates.trusting())
        await wait(made[0].lost)
        with pytest.raises(ConnectionAbortedError):
            await made[0].task
        await wait(protocol.lost)
        await finish(server)

    run(loop, case())
