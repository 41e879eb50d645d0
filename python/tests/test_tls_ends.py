# SPDX-License-Identifier: MulanPSL-2.0
"""How TLS connections end: close_notify, truncation, time-outs, abort."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import struct
import sys
import threading

import pytest

import kloop
from tls_tools import (
    VERSIONS,
    Bio,
    connect,
    finish,
    read_all,
    read_exactly,
    run,
    serving,
    start_echo,
)
from transport_tools import Recorder, turns, until, wait

SSLPROTO_3_11 = sys.version_info >= (3, 11)


# ---- orderly ends -----------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_close_waits_for_the_peers_close_notify(tls_loop, certificates, version):
    seen = []

    def peer(sock):
        seen.append(read_exactly(sock, 9))
        assert sock.recv(1) == b""  # that was close_notify: a bare end raises
        seen.append("close_notify")
        sock.unwrap()

    async def case():
        context = certificates.server(version=version)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        async with serving(peer, context, suppress_ragged_eofs=False) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"good ")
            transport.write(b"bye!")
            transport.close()
            assert transport.is_closing()
            transport.write(b"never sent")
            assert await wait(protocol.lost) is None
        assert seen == [b"good bye!", "close_notify"]
        # asyncio tells of the peer's close_notify, which answers ours.
        expected = ["connection_made", "eof_received", "connection_lost"]
        if not SSLPROTO_3_11:
            expected.remove("eof_received")
        assert protocol.events == expected

    run(tls_loop, case())


def test_close_with_much_to_send(tls_loop, certificates):
    message = os.urandom(5 << 20)
    got = []

    def peer(sock):
        got.append(read_all(sock))

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(message)
            transport.close()
            await wait(protocol.lost)
        assert got == [message]

    run(tls_loop, case())


@pytest.mark.parametrize("answer", [None, True])
def test_peers_close_notify(tls_loop, certificates, answer, caplog):
    """eof_received(), then the end, whatever it returned; what it wrote is still sent."""
    got = []

    def peer(sock):
        sock.sendall(b"last words")
        got.append(sock.unwrap())

    def hook(protocol):
        assert protocol.data == b"last words"
        return answer

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder(eof_received=hook)
            transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
            assert await wait(protocol.lost) is None
            assert transport.is_closing()
        assert got
        assert protocol.events == [
            "connection_made", "data_received", "eof_received", "connection_lost"]
        told = "returning true from eof_received() has no effect when using ssl" in caplog.text
        assert told is bool(answer)

    run(tls_loop, case())


def test_end_without_close_notify(tls_loop, certificates):
    """asyncio makes no difference for protocols, and neither do we."""
    def peer(sock):
        sock.sendall(b"cut")
        os.close(sock.detach())

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder()
            await connect(tls_loop, address, certificates.trusting(), protocol)
            assert await wait(protocol.lost) is None
        assert protocol.events == [
            "connection_made", "data_received", "eof_received", "connection_lost"]
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("option", [0, ssl.OP_IGNORE_UNEXPECTED_EOF])
def test_end_without_close_notify_while_data_is_queued(tls_loop, certificates, option):
    """What was written is still sent."""
    got = []

    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        assert bio.call("read", 2) == b"go"
        sock.shutdown(socket.SHUT_WR)
        while len(got) < 3 << 20:
            data = bio.call("read", 1 << 16)
            if not data:
                break
            got.extend([None] * len(data))

    async def case():
        async with serving(peer) as address:
            context = certificates.trusting()
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
            context.options |= option
            transport, protocol = await connect(tls_loop, address, context)
            transport.write(b"go" + bytes(3 << 20))
            assert await wait(protocol.lost) is None
            assert "eof_received" in protocol.events
        assert len(got) == 3 << 20

    run(tls_loop, case())


def test_end_inside_a_record(tls_loop, certificates):
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        bio.object.write(b"whole")
        bio.flush()
        bio.object.write(b"torn" * 100)
        bio.flush(lambda data: data[:50])

    async def case():
        async with serving(peer) as address:
            _, protocol = await connect(tls_loop, address, certificates.trusting())
            assert await wait(protocol.lost) is None
            assert protocol.data == b"whole"
            assert protocol.events[-2:] == ["eof_received", "connection_lost"]

    run(tls_loop, case())


def test_end_while_paused(tls_loop, certificates):
    def peer(sock):
        sock.sendall(b"data")
        sock.unwrap()

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder(data_received=lambda p, _: p.transport.pause_reading())
            transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
            await until(lambda: protocol.data == b"data")
            await asyncio.sleep(0.05)
            # asyncio decrypts all that there is, once it has begun.
            assert tls_loop.tls != "kloop" or "eof_received" not in protocol.events
            transport.resume_reading()
            assert await wait(protocol.lost) is None
            assert protocol.events[-2:] == ["eof_received", "connection_lost"]

    run(tls_loop, case())


def test_shutdown_time_out(tls_loop, certificates):
    """A peer that never answers close_notify."""
    if not SSLPROTO_3_11:
        return

    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting(),
                                                ssl_shutdown_timeout=0.1)
            transport.close()
            error = await wait(protocol.lost)
            assert type(error) is TimeoutError
            assert str(error) == "SSL shutdown timed out"
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("eof", ["never", "before", "after"])
def test_shutdown_time_out_of_a_peer_that_does_not_read(tls_loop, certificates, eof):
    """What is queued does not hold the connection: also if the peer has sent its own end."""
    if not SSLPROTO_3_11 or (eof != "never" and tls_loop.tls != "kloop"):
        return  # with the peer's end asyncio waits forever, until some 3.14
    closed, done = threading.Event(), threading.Event()

    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        if eof == "after":
            assert closed.wait(60)
        if eof != "never":
            sock.shutdown(socket.SHUT_WR)
        assert done.wait(60)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting(),
                                                ssl_shutdown_timeout=0.1)
            transport.write(bytes(32 << 20))
            if eof != "before":
                transport.close()
                closed.set()
            try:
                error = await wait(protocol.lost)
            finally:
                done.set()
            assert type(error) is TimeoutError
            assert str(error) == "SSL shutdown timed out"
        assert not tls_loop.failures

    run(tls_loop, case())


def test_abort(tls_loop, certificates):
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        assert bio.call("read", 5) == b"hello"
        with contextlib.suppress(ConnectionResetError):
            assert read_all(sock) == b""  # no close_notify

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"hello")
            await asyncio.sleep(0.05)
            transport.abort()
            assert transport.is_closing()
            assert await wait(protocol.lost) is None
            assert "eof_received" not in protocol.events
            transport.abort()
            transport.close()
            if tls_loop.tls == "kloop":
                transport.write(b"nothing happens")

    run(tls_loop, case())


def test_abort_after_write(tls_loop, certificates):
    """What is written is on its way, as sslproto's write() sends at once."""
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        assert bio.call("read", 8) == b"farewell"
        with contextlib.suppress(ConnectionResetError):
            assert read_all(sock) == b""

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting("1.2"))
            transport.write(b"farewell")
            transport.abort()
            assert await wait(protocol.lost) is None

    run(tls_loop, case())


def test_abort_after_close(tls_loop, certificates):
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.close()
            await asyncio.sleep(0.02)
            assert not protocol.lost.done()
            transport.abort()
            assert await wait(protocol.lost) is None

    run(tls_loop, case())


def test_reset_by_the_peer(tls_loop, certificates):
    def peer(sock):
        sock.recv(1)
        raw = socket.socket(fileno=sock.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"x")
            assert isinstance(await wait(protocol.lost), ConnectionResetError)
        assert not tls_loop.failures

    run(tls_loop, case())


def test_writes_after_the_end(tls_loop, certificates, caplog):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        transport.close()
        await wait(protocol.lost)
        for _ in range(10):
            transport.write(b"into the void")
        transport.writelines([b"the", b"same"])
        assert transport.get_write_buffer_size() == 0 or tls_loop.tls != "kloop"
        await finish(server)

    run(tls_loop, case())
    assert "SSL connection is closed" in caplog.text or "socket.send()" in caplog.text


def test_ssl_object_by_hand(tls_loop, certificates):
    """Reading and writing by the SSLObject is not supported, and does no harm to the process."""
    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server())
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        ssl_object = transport.get_extra_info("ssl_object")
        with contextlib.suppress(ssl.SSLError):
            ssl_object.read(10)
        ssl_object.do_handshake()
        transport.write(b"goes on")
        await until(lambda: protocol.data == b"goes on")
        with contextlib.suppress(ssl.SSLError):
            ssl_object.write(b"by hand")
        with contextlib.suppress(ssl.SSLError):
            ssl_object.unwrap()
        transport.abort()
        await wait(protocol.lost)
        await turns()
        for method, *args in ("read", 1), ("write", b"x"), ("unwrap",), ("do_handshake",):
            with contextlib.suppress(ssl.SSLError, ValueError):
                getattr(ssl_object, method)(*args)
        await until(lambda: made[0].transport.is_closing())
        await finish(server)

    if tls_loop.tls == "kloop":
        run(tls_loop, case())


def test_loop_closes_over_connections(certificates):
    loop = kloop.Loop()
    transports = []

    async def case():
        made, _, address = await start_echo(loop, certificates.server())
        transports.append((await connect(loop, address, certificates.trusting()))[0])
        task = loop.create_task(connect(loop, address, certificates.trusting()))
        await asyncio.sleep(0)
        await until(lambda: made)
        task.cancel()
        return task

    task = loop.run_until_complete(case())
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    with pytest.warns(ResourceWarning):
        transports.clear()
        gc.collect()
