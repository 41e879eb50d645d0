# SPDX-License-Identifier: MulanPSL-2.0
"""Stream transports: the same cases on asyncio's loop and on kLoop's."""

import asyncio
import gc
import hashlib
import os
import re
import socket
import sys
import threading
import time
import warnings
import weakref

import pytest

from transport_tools import (
    PAIRS,
    Recorder,
    caught_errors,
    connected,
    in_thread,
    receive_all,
    receive_exactly,
    reset,
    tcp_pair,
    thread,
    turns,
    unix_pair,
    until,
    wait,
)


@pytest.fixture(params=sorted(PAIRS))
def pair(request):
    return PAIRS[request.param]


def run(loop, case):
    return loop.run_until_complete(asyncio.wait_for(case, 60))


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
            transport.writelines([b"a", 1])
        with pytest.raises(TypeError):
            transport.writelines(5)
        transport.close()
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


# ---- the end ------------------------------------------------------------


def test_close_sends_what_is_queued(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        message = os.urandom(6 << 20)
        transport.write(message)
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert not protocol.lost.done()
        assert await in_thread(receive_all, peer) == message
        assert await wait(protocol.lost) is None
        assert protocol.events.count("connection_lost") == 1
        peer.close()

    run(loop, case())


def test_no_data_after_close(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        peer.sendall(b"too late")
        transport.close()
        await wait(protocol.lost)
        await turns()
        assert protocol.events == ["connection_made", "connection_lost"]
        peer.close()

    run(loop, case())


def test_connection_lost_comes_in_the_next_iteration(loop):
    async def case():
        for end in "close", "abort":
            protocol = Recorder()
            transport, peer = await connected(loop, protocol)
            getattr(transport, end)()
            assert not protocol.lost.done()
            await asyncio.sleep(0)
            assert protocol.lost.done()
            peer.close()

    run(loop, case())


def test_abort_drops_what_is_queued(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        transport.write(b"x" * (16 << 20))
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        transport.abort()
        transport.close()
        assert await wait(protocol.lost) is None
        assert transport.get_write_buffer_size() == 0
        try:
            assert len(await in_thread(receive_all, peer)) < 16 << 20
        except ConnectionResetError:
            pass
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_abort_after_write(loop, pair, where):
    """What is written is on its way, as asyncio's write() sends at once."""
    transport = None

    class Talker(Recorder):
        def data_received(self, data):
            transport.write(b"fare")
            transport.write(b"well")
            transport.abort()

    async def case():
        nonlocal transport
        protocol = Talker()
        transport, peer = await connected(loop, protocol, pair)
        if where == "inside":
            peer.sendall(b"go")
        else:
            protocol.data_received(b"")
        assert await wait(protocol.lost) is None
        assert await in_thread(receive_all, peer) == b"farewell"
        peer.close()

    run(loop, case())


def test_abort_after_close(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.write(b"x" * (16 << 20))
        transport.close()
        await turns()
        assert not protocol.lost.done()
        transport.abort()
        assert await wait(protocol.lost) is None
        assert protocol.events.count("connection_lost") == 1
        peer.close()

    run(loop, case())


def test_force_close(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        error = ValueError("given")
        transport._force_close(error)
        assert await wait(protocol.lost) is error
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
def test_end_inside_a_callback(loop, where, end):
    async def case():
        def hook(protocol, *_args):
            protocol.transport.write(b"one more")
            getattr(protocol.transport, end)()
            return True

        protocol = Recorder(**{where: hook})
        _, peer = await connected(loop, protocol)
        try:
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert await wait(protocol.lost) is None
        await turns()
        assert protocol.events[-1] == "connection_lost"
        assert protocol.events[-2] == where
        peer.close()

    run(loop, case())


def test_peer_resets(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder()
            _, peer = await connected(loop, protocol)
            reset(peer)
            assert isinstance(await wait(protocol.lost), ConnectionResetError)
        assert contexts == []

    run(loop, case())


def test_peer_resets_in_the_middle_of_a_write(loop):
    async def case():
        with caught_errors(loop) as contexts:
            for paused in False, True:
                protocol = Recorder()
                transport, peer = await connected(loop, protocol)
                if paused:
                    transport.pause_reading()
                transport.write(os.urandom(16 << 20))
                await in_thread(receive_exactly, peer, 100000)
                assert not protocol.lost.done()
                reset(peer)
                error = await wait(protocol.lost)
                assert isinstance(error, (ConnectionResetError, BrokenPipeError))
                assert "pause_writing" in protocol.events
                assert protocol.events.count("connection_lost") == 1
                transport.write(b"after")
                transport.close()
        assert contexts == []

    run(loop, case())


def test_many_writes_to_a_dead_peer(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(eof_received=lambda _: True)
            transport, peer = await connected(loop, protocol)
            peer.close()
            await wait(protocol.eof)
            for _ in range(100):
                if protocol.lost.done():
                    break
                transport.write(b"x" * 1000)
                await asyncio.sleep(0.002)
            error = await wait(protocol.lost)
            assert isinstance(error, (BrokenPipeError, ConnectionResetError))
        assert contexts == []

    run(loop, case())


def test_protocol_is_let_go(loop):
    """After connection_lost() the transport holds neither protocol nor descriptor."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        fd = transport.get_extra_info("socket").fileno()
        assert fd >= 0
        transport.close()
        await wait(protocol.lost)
        await until(lambda: transport.get_extra_info("socket").fileno() == -1)
        assert transport.get_protocol() is None
        reference = weakref.ref(protocol)
        protocol = None
        await turns()
        gc.collect()
        assert reference() is None
        peer.close()
        reference = weakref.ref(transport)
        transport = None
        gc.collect()
        assert reference() is None

    run(loop, case())


# ---- protocols that raise -----------------------------------------------


def boom(*_args):
    raise ZeroDivisionError("boom")


def test_connection_made_raises(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(connection_made=boom)
            transport, peer = await connected(loop, protocol)
            peer.sendall(b"goes on")
            await until(lambda: protocol.data == b"goes on")
            assert not transport.is_closing()
            transport.close()
            await wait(protocol.lost)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
        peer.close()

    run(loop, case())


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("data_received", "Fatal error: protocol.data_received() call failed."),
        ("eof_received", "Fatal error: protocol.eof_received() call failed."),
    ],
)
def test_reading_callback_raises(loop, where, message):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(**{where: boom})
            transport, peer = await connected(loop, protocol)
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
            error = await wait(protocol.lost)
            assert isinstance(error, ZeroDivisionError)
        assert len(contexts) == 1
        assert contexts[0]["message"] == message
        assert contexts[0]["exception"] is error
        assert contexts[0]["transport"] is transport
        assert contexts[0]["protocol"] is protocol
        peer.close()

    run(loop, case())


def test_connection_lost_raises(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(connection_lost=boom)
            transport, peer = await connected(loop, protocol)
            transport.close()
            await wait(protocol.lost)
            await until(lambda: transport.get_extra_info("socket").fileno() == -1)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("where", ["pause_writing", "resume_writing"])
def test_flow_callback_raises(loop, where):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(**{where: boom})
            transport, peer = await connected(loop, protocol)
            message = b"x" * (8 << 20)
            transport.write(message)
            assert await in_thread(receive_exactly, peer, len(message)) == message
            await until(lambda: "resume_writing" in protocol.events)
            assert not transport.is_closing()
            transport.close()
            await wait(protocol.lost)
        assert len(contexts) == 1
        assert contexts[0]["message"] == f"protocol.{where}() failed"
        assert contexts[0]["transport"] is transport
        assert contexts[0]["protocol"] is protocol
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["data_received", "eof_received", "connection_lost"])
def test_exit_leaves_the_run(loop, where, kind):
    def leave(*_args):
        raise kind("out")

    async def start():
        protocol = Recorder(**{where: leave})
        transport, peer = await connected(loop, protocol)
        return transport, peer, protocol

    transport, peer, protocol = run(loop, start())
    peer.sendall(b"data")
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(kind):
        run(loop, wait(asyncio.gather(protocol.lost, loop.create_future())))
    protocol.hooks.clear()
    transport.abort()
    run(loop, asyncio.sleep(0.01))
    peer.close()


# ---- set_protocol -------------------------------------------------------


def test_set_protocol_while_data_flows(loop):
    async def case():
        second = Recorder()

        def switch(protocol, _data):
            if len(protocol.data) > 100000:
                protocol.transport.set_protocol(second)

        first = Recorder(data_received=switch)
        transport, peer = await connected(loop, first)
        assert transport.get_protocol() is first
        message = os.urandom(4 << 20)
        with thread(lambda: (peer.sendall(message), peer.close())):
            await wait(second.lost)
        assert transport.get_protocol() is None
        assert first.data + second.data == message
        assert second.data
        assert "connection_lost" not in first.events
        assert "connection_made" not in second.events

    run(loop, case())


def test_protocol_without_reading_methods(loop):
    """asyncio looks methods up when it calls them; one that lacks them may write."""

    class Writer(asyncio.BaseProtocol):
        pass

    async def case():
        transport, peer = await connected(loop, Writer())
        transport.write(b"works")
        assert await in_thread(receive_exactly, peer, 5) == b"works"
        with caught_errors(loop) as contexts:
            peer.sendall(b"data")
            await until(lambda: contexts)
            assert isinstance(contexts[0]["exception"], AttributeError)
            assert transport.is_closing()
            await asyncio.sleep(0.01)
        peer.close()

    run(loop, case())


# ---- what a transport tells ---------------------------------------------


def test_extra_info_tcp(loop):
    async def case():
        mine, peer = tcp_pair()
        mine.setblocking(False)
        names = mine.getsockname(), mine.getpeername()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, sock=mine)
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.get_extra_info("peername") == names[1]
        sock = transport.get_extra_info("socket")
        assert sock.fileno() == mine.fileno()
        assert sock.family == socket.AF_INET
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", "default") == "default"
        assert transport.get_extra_info(name="nothing", default=5) == 5
        assert transport.get_extra_info(5) is None
        with pytest.raises(TypeError):
            transport.get_extra_info()
        transport.close()
        await wait(protocol.lost)
        await until(lambda: transport.get_extra_info("socket").fileno() == -1)
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.get_extra_info("peername") == names[1]
        assert mine.fileno() == -1
        peer.close()

    run(loop, case())


def test_extra_info_unix(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, unix_pair)
        assert transport.get_extra_info("sockname") == ""
        assert transport.get_extra_info("peername") == ""
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


def test_types(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport._start_tls_compatible
        assert weakref.ref(transport)() is transport
        fd = transport.get_extra_info("socket").fileno()
        assert re.fullmatch(
            rf"<\w+Transport fd={fd} read=(polling|idle) write=<idle, bufsize=0>>",
            repr(transport))
        transport.write(b"x" * (8 << 20))
        await turns()
        assert re.search(r"write=<polling, bufsize=[1-9]\d*>", repr(transport))
        transport.close()
        assert re.search(rf"Transport closing fd={fd} ", repr(transport))
        transport.abort()
        await wait(protocol.lost)
        await turns()
        assert re.search(rf"Transport closed fd={fd}", repr(transport))
        peer.close()

    run(loop, case())


def test_contexts_of_connections_are_apart(loop):
    """What one connection's callbacks set stays with them."""
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")

    async def case():
        seen = []

        class Server(asyncio.Protocol):
            def data_received(self, data):
                seen.append((data, variable.get()))
                variable.set(data)

        variable.set("server")
        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        variable.set("changed later")
        peers = [socket.create_connection(address) for _ in range(2)]
        for number, peer in enumerate(peers):
            peer.sendall(b"%d" % number)
            await until(lambda number=number: len(seen) == number + 1)
        peers[0].sendall(b"again")
        await until(lambda: len(seen) == 3)
        assert seen == [(b"0", "server"), (b"1", "server"), (b"again", b"0")]
        for peer in peers:
            peer.close()
        server.close()
        await asyncio.sleep(0.02)

    run(loop, case())


def test_another_thread_may_not_write(loop):
    """asyncio corrupts itself silently; kLoop says what is wrong."""
    if isinstance(loop, asyncio.SelectorEventLoop):
        return

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        errors = []

        def misuse():
            for call in (lambda: transport.write(b"x" * 10), transport.close, transport.abort,
                         lambda: transport.write(b"x" * 100000), transport.pause_reading,
                         transport.resume_reading):
                try:
                    call()
                except RuntimeError as error:
                    errors.append(str(error))

        worker = threading.Thread(target=misuse)
        worker.start()
        while worker.is_alive():
            await asyncio.sleep(0.001)
        assert len(errors) == 6 and all("thread" in text.lower() for text in errors)
        assert not transport.is_closing()
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


# ---- what nobody closed -------------------------------------------------


def test_unclosed_transport_warns(loop_factory):
    loop = loop_factory()

    async def case():
        protocol = Recorder()
        return await connected(loop, protocol)

    transport, peer = loop.run_until_complete(case())
    sock = transport.get_extra_info("socket")
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.close()
    with pytest.warns(ResourceWarning, match="unclosed transport <"):
        transport = None
        gc.collect()
    assert sock.fileno() == -1
    peer.close()


def test_closed_transport_does_not_warn(loop_factory):
    loop = loop_factory()

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.close()
        await wait(protocol.lost)
        peer.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.run_until_complete(case())
        loop.close()
        gc.collect()


def test_slow_callback_is_logged(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05

    async def case():
        protocol = Recorder(data_received=lambda *_: time.sleep(0.06))
        transport, peer = await connected(loop, protocol)
        peer.sendall(b"data")
        await until(lambda: protocol.data)
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())
    lines = [r.getMessage() for r in caplog.records if "Executing" in r.getMessage()]
    assert any(re.search(r"took 0\.\d+ seconds", line) for line in lines)


def test_debug_mode(loop, caplog):
    caplog.set_level("DEBUG", "asyncio")
    loop.set_debug(True)

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.pause_reading()
        transport.resume_reading()
        peer.close()
        await wait(protocol.lost)
        protocol = Recorder()
        _, peer = await connected(loop, protocol)
        reset(peer)
        await wait(protocol.lost)

    run(loop, case())
    text = caplog.text
    assert "pauses reading" in text
    assert "resumes reading" in text
    assert "received EOF" in text
    assert "Fatal read error on socket transport" in text
