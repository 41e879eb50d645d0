# SPDX-License-Identifier: MulanPSL-2.0
"""BufferedProtocol: the kernel writes into the protocol's own memory."""

import asyncio
import os
import socket

import pytest

from transport_tools import (
    BufferedRecorder,
    Recorder,
    caught_errors,
    connected,
    run,
    thread,
    turns,
    until,
    wait,
)


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 1 << 20])
def test_all_arrives(loop, pair, size):
    """Tiny buffers get the data in pieces, large ones take the kernel's reads."""

    async def case():
        protocol = BufferedRecorder(size)
        _, peer = await connected(loop, protocol, pair)
        message = os.urandom(20_000 if size < 100 else 3 << 20)

        def send():
            peer.sendall(message[:10])
            peer.sendall(message[10:])
            peer.close()

        with thread(send):
            assert await wait(protocol.lost) is None
        assert protocol.data == message
        assert max(protocol.sizes) <= size
        assert protocol.events[-2:] == ["eof_received", "connection_lost"]

    run(loop, case())


def test_memoryview_and_offsets(loop):
    async def case():
        memory = bytearray(1000)
        received = bytearray()

        def buffer(_protocol, _hint):
            return memoryview(memory)[100:200]

        def updated(_protocol, count):
            received.extend(memory[100 : 100 + count])
            assert count <= 100

        protocol = BufferedRecorder(1000, get_buffer=buffer, buffer_updated=updated)
        _, peer = await connected(loop, protocol)
        message = os.urandom(50_000)
        with thread(lambda: (peer.sendall(message), peer.close())):
            await wait(protocol.lost)
        assert received == message
        assert memory[:100] == bytes(100) and memory[200:] == bytes(800)

    run(loop, case())


def test_buffer_may_be_replaced_and_resized(loop):
    """Between buffer_updated() and the next get_buffer() nothing is pinned."""

    async def case():
        def updated(protocol, count):
            protocol.buffer.extend(b"\0" * 10)
            del protocol.buffer[-5:]

        protocol = BufferedRecorder(2000, buffer_updated=updated)
        _, peer = await connected(loop, protocol)
        message = os.urandom(1 << 20)
        with thread(lambda: (peer.sendall(message), peer.close())):
            await wait(protocol.lost)
        assert protocol.data == message

    run(loop, case())


def test_pause_between_pieces(loop):
    """A pause holds what did not fit, also the rest of one read."""

    async def case():
        protocol = BufferedRecorder(100, buffer_updated=lambda p, _: p.transport.pause_reading())
        transport, peer = await connected(loop, protocol)
        message = os.urandom(5000)
        peer.sendall(message)
        peer.close()
        while len(protocol.data) < len(message):
            count = len(protocol.sizes)
            transport.resume_reading()
            await until(lambda count=count: len(protocol.sizes) > count)
            await turns(3)
            assert len(protocol.sizes) == count + 1
        assert protocol.data == message
        assert "eof_received" not in protocol.events
        transport.resume_reading()
        assert await wait(protocol.lost) is None

    run(loop, case())


@pytest.mark.parametrize("end", ["close", "abort"])
def test_end_between_pieces(loop, end):
    async def case():
        protocol = BufferedRecorder(100, buffer_updated=lambda p, _: getattr(p.transport, end)())
        _, peer = await connected(loop, protocol)
        peer.sendall(b"x" * 5000)
        assert await wait(protocol.lost) is None
        assert protocol.sizes == [100]
        peer.close()

    run(loop, case())


def test_end_inside_get_buffer(loop):
    async def case():
        def buffer(protocol, _hint):
            protocol.transport.abort()
            return protocol.buffer

        protocol = BufferedRecorder(100, get_buffer=buffer)
        _, peer = await connected(loop, protocol)
        peer.sendall(b"x" * 5000)
        assert await wait(protocol.lost) is None
        peer.close()

    run(loop, case())


def test_switch_of_kinds(loop):
    """From plain to buffered and back while data flows; nothing is lost or doubled."""

    async def case():
        order = []

        def plain(protocol, data):
            order.append(bytes(data))
            if len(order) % 2:
                protocol.transport.set_protocol(buffered)

        def updated(protocol, count):
            order.append(bytes(protocol.buffer[:count]))
            if len(order) % 3 == 0:
                transport.set_protocol(first)

        first = Recorder(data_received=plain)
        buffered = BufferedRecorder(3000, buffer_updated=updated)
        transport, peer = await connected(loop, first)
        buffered.transport = transport
        message = os.urandom(4 << 20)
        with thread(lambda: (peer.sendall(message), peer.close())):
            await asyncio.wait([first.lost, buffered.lost], timeout=100,
                               return_when=asyncio.FIRST_COMPLETED)
        assert b"".join(order) == message
        assert first.data and buffered.data

    run(loop, case())


def boom(*_args):
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize("count", [100, 500_000])
@pytest.mark.parametrize(
    ("hooks", "kind", "message"),
    [
        ({"get_buffer": boom}, ZeroDivisionError, "protocol.get_buffer() call failed."),
        ({"buffer_updated": boom}, ZeroDivisionError, "protocol.buffer_updated() call failed."),
        ({"get_buffer": lambda *_: b""}, RuntimeError, "protocol.get_buffer() call failed."),
        ({"get_buffer": lambda *_: bytearray()}, RuntimeError,
         "protocol.get_buffer() call failed."),
    ],
)
def test_protocol_fails(loop, hooks, kind, message, count):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = BufferedRecorder(64 * 1024)
            transport, peer = await connected(loop, protocol)
            with thread(send_quietly, peer, bytes(count)):
                await until(lambda: protocol.sizes)
                protocol.hooks = hooks
                with thread(send_quietly, peer, bytes(count)):
                    error = await wait(protocol.lost)
            peer.close()
            assert isinstance(error, kind)
        assert [c["message"] for c in contexts] == [f"Fatal error: {message}"]
        assert contexts[0]["exception"] is error
        assert contexts[0]["transport"] is transport

    run(loop, case())


def send_quietly(sock, data):
    try:
        sock.sendall(data)
    except OSError:
        pass


@pytest.mark.parametrize("wrong", [b"constant", 5, "text"])
def test_unusable_buffer(loop, wrong):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = BufferedRecorder(100, get_buffer=lambda *_: wrong)
            _, peer = await connected(loop, protocol)
            peer.sendall(b"data")
            error = await wait(protocol.lost)
            assert isinstance(error, (TypeError, BufferError))
            peer.close()
        assert len(contexts) == 1

    run(loop, case())


def test_eof_kept_open(loop):
    async def case():
        protocol = BufferedRecorder(100, eof_received=lambda _: True)
        transport, peer = await connected(loop, protocol)
        peer.sendall(b"one")
        peer.shutdown(socket.SHUT_WR)
        await wait(protocol.eof)
        assert protocol.data == b"one"
        assert not transport.is_closing()
        transport.write(b"two")
        await turns()
        assert peer.recv(10) == b"two"
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())
