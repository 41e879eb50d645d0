# SPDX-License-Identifier: MulanPSL-2.0
"""Stream transports: the same cases on asyncio's loop and on kLoop's."""

import asyncio
import hashlib
import os
import socket
import struct
import sys

import pytest

from transport_tools import (
    Recorder,
    connected,
    in_thread,
    receive_all,
    receive_exactly,
    run,
    thread,
    turns,
    until,
    wait,
)


# ---- reading ------------------------------------------------------------


def test_echo(loop, pair):
    async def case():
        protocol = Recorder(data_received=lambda p, data: p.transport.write(data))
        transport, peer = await connected(loop, protocol, pair)
        for size in 1, 255, 256, 257, 1000, 16384, 16385, 60000:
            message = os.urandom(size)
            peer.sendall(message)
            assert await in_thread(receive_exactly, peer, size) == message
        peer.close()
        assert await wait(protocol.lost) is None
        assert protocol.events[0] == "connection_made"
        assert protocol.events[-2:] == ["eof_received", "connection_lost"]
        assert transport.is_closing()

    run(loop, case())


@pytest.mark.parametrize("size", [1 << 20, 40 << 20])
def test_big_transfer_in(loop, pair, size):
    """More than any buffer holds, with a checksum, in odd pieces."""

    async def case():
        digest = hashlib.sha256()
        count = 0

        def receive(_protocol, data):
            nonlocal count
            digest.update(data)
            count += len(data)
            del _protocol.data[:]

        protocol = Recorder(data_received=receive)
        _, peer = await connected(loop, protocol, pair)
        block = os.urandom(1 << 20)
        expected = hashlib.sha256()

        def send():
            left, step = size, 1
            while left:
                piece = block[: min(left, step)]
                expected.update(piece)
                peer.sendall(piece)
                left -= len(piece)
                step = step * 3 % 1000003
            peer.close()

        with thread(send):
            await wait(protocol.lost)
        assert count == size
        assert digest.digest() == expected.digest()

    run(loop, case())


def test_objects_stay_as_they_were(loop):
    """Received bytes are the protocol's: later reads must not change them."""

    async def case():
        parts = []
        protocol = Recorder(data_received=lambda _, data: parts.append((data, hash(bytes(data)))))
        _, peer = await connected(loop, protocol)

        def send():
            for i in range(200):
                peer.sendall(bytes([i % 256]) * (1 + i * 997 % 300000))
            peer.close()

        with thread(send):
            await wait(protocol.lost)
        assert sum(len(data) for data, _ in parts) == len(protocol.data)
        assert b"".join(data for data, _ in parts) == protocol.data
        assert all(hash(bytes(data)) == before for data, before in parts)

    run(loop, case())


def test_pause_reading_holds_data(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        peer.sendall(b"while paused")
        await asyncio.sleep(0.05)
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await until(lambda: protocol.data == b"while paused")
        transport.abort()
        assert not transport.is_reading()
        transport.pause_reading()
        transport.resume_reading()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


def test_pause_reading_from_data_received(loop):
    """After a pause from inside the callback not one byte more comes."""

    async def case():
        protocol = Recorder(data_received=lambda p, _: p.transport.pause_reading())
        transport, peer = await connected(loop, protocol)
        message = os.urandom(3 << 20)
        with thread(peer.sendall, message):
            while len(protocol.data) < len(message):
                before = len(protocol.data)
                transport.resume_reading()
                await until(lambda before=before: len(protocol.data) > before)
                after = len(protocol.data)
                await turns(3)
                assert len(protocol.data) == after
        assert protocol.data == message
        transport.abort()
        peer.close()

    run(loop, case())


def test_pause_in_connection_made(loop):
    async def case():
        protocol = Recorder(connection_made=lambda _, transport: transport.pause_reading())
        transport, peer = await connected(loop, protocol)
        peer.sendall(b"early")
        await asyncio.sleep(0.03)
        # Before Python 3.12 asyncio began to read in spite of the pause.
        if sys.version_info >= (3, 12) or not isinstance(loop, asyncio.SelectorEventLoop):
            assert protocol.events == ["connection_made"]
        transport.resume_reading()
        await until(lambda: protocol.data == b"early")
        transport.close()
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


def test_eof_is_held_while_paused(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.pause_reading()
        peer.sendall(b"last words")
        peer.close()
        await asyncio.sleep(0.03)
        assert protocol.events == ["connection_made"]
        transport.resume_reading()
        await wait(protocol.lost)
        assert protocol.data == b"last words"

    run(loop, case())


# ---- half close ---------------------------------------------------------


def test_eof_received_false_closes(loop, pair):
    async def case():
        protocol = Recorder(eof_received=lambda p: p.transport.write(b"bye"))
        _, peer = await connected(loop, protocol, pair)
        peer.shutdown(socket.SHUT_WR)
        assert await in_thread(receive_all, peer) == b"bye"
        assert await wait(protocol.lost) is None
        peer.close()

    run(loop, case())


def test_eof_received_true_keeps_open(loop, pair):
    async def case():
        protocol = Recorder(eof_received=lambda _: True)
        transport, peer = await connected(loop, protocol, pair)
        peer.shutdown(socket.SHUT_WR)
        await wait(protocol.eof)
        await asyncio.sleep(0.02)
        assert not transport.is_closing()
        transport.write(b"still here")
        assert await in_thread(receive_exactly, peer, 10) == b"still here"
        assert protocol.events == ["connection_made", "eof_received"]
        transport.close()
        await wait(protocol.lost)
        assert await in_thread(receive_all, peer) == b""
        peer.close()

    run(loop, case())


def test_write_eof(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        assert transport.can_write_eof()
        transport.write(b"x" * 200000)
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
            transport.write(b"more")
        with pytest.raises(RuntimeError, match=r"after write_eof\(\)"):
            transport.writelines([b"more"])
        assert await in_thread(receive_all, peer) == b"x" * 200000
        peer.sendall(b"the other way works")
        await until(lambda: protocol.data == b"the other way works")
        transport.close()
        transport.write_eof()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


# ---- writing ------------------------------------------------------------


def test_writes_keep_their_order(loop, pair):
    """Small and large, bytes and other memory, with and without lists."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        sizes = [1, 300, 70000, 5, 200000, 0, 64, 255, 256, 257, 400000, 3] * 3
        parts = [os.urandom(size) for size in sizes]
        kinds = [bytes, bytearray, memoryview]

        def drain():
            return receive_exactly(peer, sum(sizes))

        future = loop.run_in_executor(None, drain)
        for i, part in enumerate(parts):
            if i % 5 == 4:
                transport.writelines([kinds[i % 3](part[:7]), kinds[(i + 1) % 3](part[7:])])
            else:
                transport.write(kinds[i % 3](part))
            if i % 7 == 0:
                await asyncio.sleep(0)
        assert await wait(future) == b"".join(parts)
        transport.close()
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


@pytest.mark.parametrize("writes, at_once, later", [
    (lambda t: t.write(bytes(4095)), 0, 1),
    (lambda t: t.write(bytes(4096)), 1, 0),
    (lambda t: [t.write(bytes(5000)) for _ in range(5)], 1, 1),
    (lambda t: [t.write(bytes(70_000)) for _ in range(2)], 2, 0),
    (lambda t: [t.write(bytes(size)) for size in (100, 5000, 5000)], 0, 1),
    (lambda t: t.writelines([bytes(5000)] * 3), 0, 1),
])
def test_sends_of_a_turn(kernel_loop, pair, writes, at_once, later):
    """A first large write is sent in the call; what follows in that turn leaves together."""
    loop = kernel_loop

    async def case():
        transport, peer = await connected(loop, Recorder(), pair)
        transport.set_write_buffer_limits(1 << 20)
        for sock in transport.get_extra_info("socket"), peer:
            for option in socket.SO_SNDBUF, socket.SO_RCVBUF:
                sock.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
        for _ in range(2):
            await turns(3)
            before = loop.stats()
            writes(transport)
            rest = transport.get_write_buffer_size()
            after = loop.stats()
            assert after["direct_calls"] - before["direct_calls"] == at_once
            assert (rest > 0) == (later > 0)
            await turns(2)
            assert loop.stats()["submissions"] - after["submissions"] == later
            await until(lambda: transport.get_write_buffer_size() == 0)
            receive_exactly(peer, bytes_of(writes))
        transport.close()
        peer.close()

    run(loop, case())


def bytes_of(writes):
    """How much these writes write."""

    class Counter:
        count = 0

        def write(self, data):
            self.count += len(data)

        def writelines(self, pieces):
            for piece in pieces:
                self.write(piece)

    counter = Counter()
    writes(counter)
    return counter.count


def test_changed_after_write(loop):
    """write() owns the bytes of a bytearray from its return on."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        sizes = [10, 1000, 100000, 4 << 20]
        # From Python 3.12 on asyncio keeps a view of what the socket does not take.
        if isinstance(loop, asyncio.SelectorEventLoop) and sys.version_info >= (3, 12):
            sizes.pop()
        for size in sizes:
            message = bytearray(os.urandom(size))
            expected = bytes(message)
            transport.write(message)
            message[:] = bytes(size)
            transport.write(memoryview(message)[:1])
            message.clear()
            received = await in_thread(receive_exactly, peer, size + 1)
            assert received == expected + b"\0"
        transport.close()
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


def test_writelines(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c"), b"", b"d" * 1000])
        transport.writelines([])
        transport.writelines(part for part in [b"e", b"f"])
        transport.writelines([b"%d," % i for i in range(5000)])
        expected = b"abc" + b"d" * 1000 + b"ef" + b"".join(b"%d," % i for i in range(5000))
        assert await in_thread(receive_exactly, peer, len(expected)) == expected
        with pytest.raises(TypeError):
            transport.writelines(5)
        with pytest.raises(TypeError):
            transport.writelines([b"a", 1])
        # Not close(): asyncio of 3.15 would wait for the first of those two to be written.
        transport.abort()
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


@pytest.mark.parametrize("wrong", ["text", 5, None, ["a"]])
def test_write_needs_bytes(loop, wrong):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        # asyncio words the rest differently from version to version.
        text = f"data argument must be a bytes.* object, not '{type(wrong).__name__}'"
        with pytest.raises(TypeError, match=text):
            transport.write(wrong)
        assert not transport.is_closing()
        transport.close()
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


def test_bytes_subclass(loop):
    class Text(bytes):
        pass

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.write(Text(b"x" * 1000))
        assert await in_thread(receive_exactly, peer, 1000) == b"x" * 1000
        transport.close()
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


def test_written_bytes_are_released(loop):
    """What is lent to the kernel is dropped again, once."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        message = os.urandom(5000)
        before = sys.getrefcount(message)
        for _ in range(50):
            transport.write(message)
        assert await in_thread(receive_exactly, peer, 250000)
        await until(lambda: sys.getrefcount(message) == before)
        large = os.urandom(8 << 20)
        before = sys.getrefcount(large)
        transport.write(large)
        transport.abort()
        await wait(protocol.lost)
        await until(lambda: sys.getrefcount(large) == before)
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("end", ["close", "abort", "reset"])
def test_write_after_close_behind_others(loop, end, later):
    """While the socket has not taken all, what follows is sent, too: as by asyncio."""
    size = 16 << 20

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.write(bytes(size))
        assert transport.get_write_buffer_size() > 0
        if later:
            await turns(5)
        transport.close()
        transport.set_write_buffer_limits(high=1 << 20)
        transport.write(b"also")
        await turns(5)
        transport.writelines([b" ", b"this"])
        assert transport.is_closing() and not protocol.lost.done()
        if end == "close":
            data = await in_thread(receive_all, peer)
            assert len(data) == size + 9 and data.endswith(b"\0also this")
        elif end == "abort":
            transport.abort()
        else:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        error = await wait(protocol.lost)
        assert isinstance(error, ConnectionError) if end == "reset" else error is None
        assert "eof_received" not in protocol.events
        assert protocol.events.count("resume_writing") == (end == "close")
        peer.close()

    run(loop, case())
    assert not loop.failures


def test_write_after_close_behind_what_the_socket_takes(loop):
    """asyncio has sent the first when close() is called, and takes nothing then."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.write(b"this")
        transport.close()
        transport.write(b"not that")
        assert await in_thread(receive_all, peer) == b"this"
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


def test_write_after_close_is_dropped(loop, caplog):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.close()
        for _ in range(10):
            transport.write(b"nobody reads this")
        await wait(protocol.lost)
        transport.write(b"nor this")
        assert await in_thread(receive_all, peer) == b""
        peer.close()

    run(loop, case())
    warned = [r for r in caplog.records if "socket.send() raised exception." in r.getMessage()]
    assert 1 <= len(warned) <= 7
