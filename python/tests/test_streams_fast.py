# SPDX-License-Identifier: MulanPSL-2.0
"""Which readers kloop makes its own, and what makes them asyncio's again."""

import asyncio
import gc
import resource
import socket
import sys
import weakref
from pathlib import Path

import pytest

from streams_tools import connected, fast_reader, is_fast, run

StreamReader = asyncio.StreamReader


@pytest.fixture
def loop(kernel_loop):
    return kernel_loop


def adopt(loop, reader, protocol=None):
    """Give a transport a protocol with that reader, and take it away again."""
    near, far = socket.socketpair()
    near.setblocking(False)
    transport = loop._make_socket_transport(near, asyncio.Protocol())
    transport.set_protocol(protocol or asyncio.StreamReaderProtocol(reader, loop=loop))
    result = is_fast(reader)
    transport.set_protocol(asyncio.Protocol())
    transport.abort()
    far.close()
    return result


# ---- becoming ------------------------------------------------------------------


def test_both_sides_are(loop):
    async def case():
        async with connected() as (reader, _, there, _):
            assert is_fast(reader) and is_fast(there)
            assert isinstance(reader, StreamReader)
            assert type(reader).__mro__[1] is StreamReader
            assert type(reader).__name__ == "StreamReader"

    run(loop, case())


def test_callback_sees_it(loop):
    async def case():
        seen = loop.create_future()
        async with connected(lambda reader, _: seen.set_result(is_fast(reader))):
            assert await seen

    run(loop, case())


def test_tls_too(loop, certificates):
    async def case():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0,
                                            ssl=certificates.server())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=certificates.trusting(),
            server_hostname="localhost")
        assert is_fast(reader)
        writer.transport.abort()
        server.close()

    run(loop, case())


def test_unix_too(loop, tmp_path):
    async def case():
        server = await asyncio.start_unix_server(lambda *_: None, tmp_path / "socket")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        assert is_fast(reader)
        writer.close()
        server.close()

    run(loop, case())


def test_debug_mode(loop):
    loop.set_debug(True)
    assert adopt(loop, StreamReader(loop=loop))


class Subclass(StreamReader):
    pass


class SubProtocol(asyncio.StreamReaderProtocol):
    pass


@pytest.mark.parametrize("spoil", [
    lambda reader: reader.feed_data(b"x"), lambda reader: reader.feed_eof(),
    lambda reader: reader.set_exception(ValueError()),
    lambda reader: setattr(reader, "read", None),
    lambda reader: setattr(reader, "feed_data", reader.feed_data),
    lambda reader: setattr(reader, "_buffer", bytearray(b"1")),
    lambda reader: setattr(reader, "_buffer", []), lambda reader: delattr(reader, "_eof"),
    lambda reader: setattr(reader, "_limit", 1.5), lambda reader: setattr(reader, "_limit", -1),
    lambda reader: setattr(reader, "_limit", 1 << 80),
    lambda reader: setattr(reader, "_loop", None),
    lambda reader: setattr(reader, "_waiter", 1), lambda reader: setattr(reader, "_paused", True),
    lambda reader: setattr(reader, "_kloop_state", 1),
])
def test_not_if_it_was_used(loop, spoil):
    reader = StreamReader(loop=loop)
    spoil(reader)
    assert not adopt(loop, reader)


def test_not_subclasses(loop):
    assert not adopt(loop, Subclass(loop=loop))
    reader = StreamReader(loop=loop)
    assert not adopt(loop, reader, SubProtocol(reader, loop=loop))


def test_not_with_a_method_of_its_own(loop):
    reader = StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    protocol.data_received = lambda data: None
    assert not adopt(loop, reader, protocol)


def test_own_attributes_do_not_matter(loop):
    reader = StreamReader(loop=loop)
    reader.mine = 1
    assert adopt(loop, reader) and reader.mine == 1


@pytest.mark.parametrize("name", ["read", "feed_data", "feed_eof", "_maybe_resume_transport",
                                  "_wait_for_data"])
def test_not_if_the_class_was_patched(loop, monkeypatch, name):
    method = getattr(StreamReader, name)
    monkeypatch.setattr(StreamReader, name, lambda *args: method(*args))
    assert not adopt(loop, StreamReader(loop=loop))
    monkeypatch.undo()
    assert adopt(loop, StreamReader(loop=loop))


@pytest.mark.parametrize("name", ["data_received", "connection_made", "_stream_reader"])
def test_not_if_the_protocol_was_patched(loop, monkeypatch, name):
    value = getattr(asyncio.StreamReaderProtocol, name)
    monkeypatch.setattr(asyncio.StreamReaderProtocol, name,
                        property(lambda self: value.fget(self)) if name == "_stream_reader"
                        else lambda *args: value(*args))
    assert not adopt(loop, StreamReader(loop=loop))


def test_a_protocol_without_reader(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    transport = loop._make_socket_transport(near, asyncio.Protocol())
    transport.set_protocol(asyncio.StreamReaderProtocol(None, loop=loop))
    transport.abort()
    far.close()


# ---- turning back ---------------------------------------------------------------


@pytest.mark.parametrize("act", [
    lambda reader: reader._buffer, lambda reader: setattr(reader, "_buffer", bytearray(b"data")),
    lambda reader: setattr(reader, "read", reader.read),
    lambda reader: setattr(reader, "_limit", 5), lambda reader: setattr(reader, "_eof", 0),
    lambda reader: setattr(reader, "__class__", Subclass),
    lambda reader: reader.feed_data(memoryview(b"more")),
])
def test_turns_back(loop, act):
    reader = fast_reader(loop)
    reader.feed_data(b"da")
    reader.feed_data(b"ta")
    transport = object()
    reader._transport = transport
    act(reader)
    assert not is_fast(reader) and "_kloop_state" not in vars(reader)
    assert reader._transport is transport and reader._waiter is None
    assert not reader._eof and reader._paused is False and reader.exception() is None
    assert bytes(reader._buffer) in (b"data", b"datamore")
    assert run(loop, StreamReader.read(reader, 4)) == b"data"


def test_turns_back_with_all_of_its_state(loop):
    async def case():
        reader = fast_reader(loop, limit=3)
        waits = asyncio.ensure_future(reader.readexactly(20))
        await asyncio.sleep(0)
        waiter = reader._waiter
        assert reader._buffer == b"" and reader._waiter is waiter
        reader.feed_data(b"x" * 20)
        assert await waits == b"x" * 20
        reader = fast_reader(loop)
        error = KeyError("told")
        reader.set_exception(error)
        reader.feed_data(b"1")
        reader.feed_eof()
        assert reader._buffer == b"1"
        assert reader.exception() is error and reader._eof is True

    run(loop, case())


def test_connection_goes_on_after_turning_back(loop):
    async def case():
        async with connected() as (reader, writer, there, back):
            sent = bytes(range(256)) * 1000
            back.write(sent)
            assert await reader.readexactly(1000) == sent[:1000]
            assert sent[1000:].startswith(reader._buffer)
            assert not is_fast(reader)
            assert await reader.readexactly(len(sent) - 1000) == sent[1000:]
            back.close()
            assert await reader.read() == b""

    run(loop, case())


def test_protocol_is_switched(loop):
    """What comes later goes to the new protocol; the reader keeps what it has."""
    class Other(asyncio.Protocol):
        def __init__(self):
            self.data = loop.create_future()

        def data_received(self, data):
            self.data.set_result(data)

    async def case():
        async with connected() as (reader, writer, _, back):
            back.write(b"one")
            assert await reader.readexactly(1) == b"o"
            former, other = writer.transport.get_protocol(), Other()
            writer.transport.set_protocol(other)
            back.write(b"two")
            assert await other.data == b"two"
            assert await reader.readexactly(2) == b"ne" and is_fast(reader)
            writer.transport.set_protocol(former)
            back.write(b"three")
            assert await reader.readexactly(5) == b"three"

    run(loop, case())


def test_class_attributes_reach_it(loop):
    """A method that asyncio's class gets later is the reader's too."""
    reader = fast_reader(loop)
    StreamReader.later = lambda self: self.at_eof()
    try:
        assert reader.later() is False
    finally:
        del StreamReader.later


def test_state_that_was_taken_away(loop):
    reader = fast_reader(loop)
    del vars(reader)["_kloop_state"]
    with pytest.raises(AttributeError):
        reader.at_eof()
    vars(reader)["_kloop_state"] = 5
    for call in (reader.at_eof, lambda: reader._buffer, lambda: reader.read(5), reader.feed_eof,
                 lambda: setattr(reader, "_eof", True), lambda: repr(reader)):
        with pytest.raises(TypeError):
            call()
    reader = fast_reader(loop)
    del vars(reader)["_buffer"]
    with pytest.raises(TypeError):
        reader._buffer


# ---- pieces ------------------------------------------------------------------------


def test_a_whole_piece_is_not_copied(loop):
    reader = fast_reader(loop)
    piece = bytes(100_000)
    reader.feed_data(piece)
    assert run(loop, reader.read(1 << 20)) is piece
    reader.feed_data(piece)
    assert run(loop, reader.readexactly(len(piece))) is piece


def test_single_bytes_do_not_cost_an_object_each(loop):
    """A peer that sends bytes one by one costs about as much memory as in a bytearray."""
    reader = fast_reader(loop)
    count = 100_000
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(count):
        reader.feed_data(bytes([number % 256]))
    assert sys.getallocatedblocks() - before < count // 20
    assert run(loop, reader.readexactly(count)) == bytes(
        number % 256 for number in range(count))


def test_a_long_search(loop):
    """Of 15 MB in 3,000 pieces, each of which is searched when it comes."""
    async def case():
        reader = fast_reader(loop, limit=1 << 30)
        task = asyncio.ensure_future(reader.readuntil(b"end"))
        pieces = 3000
        for _ in range(pieces):
            await asyncio.sleep(0)
            reader.feed_data(b"x" * 5000)
        reader.feed_data(b"end")
        assert len(await task) == 5000 * pieces + 3

    run(loop, case())


# ---- nothing stays behind --------------------------------------------------------------


def test_reader_dies_with_its_last_reference(loop):
    async def case():
        async with connected() as (reader, writer, _, back):
            back.write(b"something")
            await reader.readexactly(1)
            gone = weakref.ref(reader)
            writer.close()
            await writer.wait_closed()
            del writer
            return gone

    gone = run(loop, case())
    gc.collect()
    assert gone() is None


def test_cycle_is_collected(loop):
    reader = fast_reader(loop)
    reader.feed_data(b"x" * 1000)
    reader.itself = reader
    reader._transport = [reader]
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


def test_a_task_that_waits_forever_is_collected(loop):
    async def case():
        reader = fast_reader(loop)
        task = asyncio.ensure_future(reader.readline())
        await asyncio.sleep(0)
        task._log_destroy_pending = False
        return weakref.ref(reader), weakref.ref(task)

    references = run(loop, case())
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_many_connections(loop):
    """10,000 connections, each used for a line and closed."""
    path = f"\0kloop-streams-{id(loop)}"

    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    async def once():
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()

    async def case():
        server = await asyncio.start_unix_server(answer, path, backlog=100)
        counts = []
        for _ in range(5):
            for _ in range(100):
                await asyncio.gather(*[once() for _ in range(20)])
            gc.collect()
            counts.append((sys.getallocatedblocks(),
                           resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        server.close()
        return counts

    counts = run(loop, case())
    assert counts[-1][0] - counts[1][0] < 2000, counts
    # Memory checkers keep what was freed for a while.
    if not any(name in Path("/proc/self/maps").read_text() for name in ("libasan", "vgpreload")):
        assert counts[-1][1] - counts[1][1] < 8192, counts
    gc.collect()
    kinds = {"StreamRead", "ReaderState"}
    assert sum(type(thing).__name__ in kinds for thing in gc.get_objects()) < 5
