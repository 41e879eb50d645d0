# SPDX-License-Identifier: MulanPSL-2.0
"""connect_read_pipe() and connect_write_pipe(): the same cases on asyncio's loop and on kLoop's."""

import asyncio
import gc
import os
import pty
import re
import socket
import tty
import weakref

import pytest

import kloop
from transport_tools import Recorder, descriptors, in_thread, run, turns, until, wait


def pipe_pair():
    reader, writer = os.pipe()
    return open(reader, "rb", 0), open(writer, "wb", 0)


def socket_pair():
    reader, writer = socket.socketpair()
    return reader, writer


def fifo_pair():
    path = f"/tmp/kloop-test-{os.getpid()}"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.unlink(path)
    os.set_blocking(reader, True)
    return open(reader, "rb", 0), open(writer, "wb", 0)


def pty_pair():
    reader, writer = pty.openpty()
    tty.setraw(writer)
    return open(reader, "rb", 0), open(writer, "wb", 0)


PAIRS = {"pipe": pipe_pair, "socket": socket_pair, "fifo": fifo_pair, "pty": pty_pair}


@pytest.fixture
def pair(request):
    """A reading and a writing end, blocking, closed after the case; and their kind."""
    ends = PAIRS[request.param]()
    yield (*ends, request.param)
    for end in ends:
        end.close()


every_pair = pytest.mark.parametrize("pair", sorted(PAIRS), indirect=True)
only_pipes = pytest.mark.parametrize("pair", ["pipe", "fifo"], indirect=True)


async def reading(pipe, **hooks):
    return await asyncio.get_running_loop().connect_read_pipe(lambda: Recorder(**hooks), pipe)


async def writing(pipe, **hooks):
    return await asyncio.get_running_loop().connect_write_pipe(lambda: Recorder(**hooks), pipe)


def put(pipe, data):
    """Blocking."""
    view = memoryview(data)
    while view:
        view = view[os.write(pipe.fileno(), view):]


def take(pipe, count):
    parts = []
    while count:
        parts.append(os.read(pipe.fileno(), count))
        assert parts[-1]
        count -= len(parts[-1])
    return b"".join(parts)


# ---- reading ------------------------------------------------------------


@every_pair
def test_read(loop, pair):
    async def case():
        reader, writer, kind = pair
        transport, protocol = await reading(reader)
        assert isinstance(transport, asyncio.ReadTransport)
        assert transport.get_extra_info("pipe") is reader
        assert transport.get_extra_info("socket") is None
        assert transport.get_protocol() is protocol
        assert not os.get_blocking(reader.fileno())
        put(writer, b"1")
        await until(lambda: protocol.data == b"1")
        data = os.urandom(3 << 20)
        protocol.data.clear()
        task = asyncio.ensure_future(in_thread(put, writer, data))
        await until(lambda: len(protocol.data) == len(data))
        assert protocol.data == data
        await task
        writer.close()
        error = await wait(protocol.lost)
        if kind == "pty":
            assert isinstance(error, OSError) and error.errno == 5
            assert protocol.events[-1] == "connection_lost"
        else:
            assert error is None
            assert protocol.events[-2:] == ["eof_received", "connection_lost"]
        assert transport.is_closing()
        await turns(3)
        with pytest.raises((OSError, ValueError)):
            os.fstat(reader.fileno())

    run(loop, case())
    assert not loop.failures


@every_pair
def test_read_closed_here(loop, pair):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await reading(reader)
        put(writer, b"x")
        await until(lambda: protocol.data)
        assert not transport.is_closing()
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert "connection_lost" not in protocol.events
        assert await wait(protocol.lost) is None
        assert protocol.events[-1] == "connection_lost"
        assert "eof_received" not in protocol.events

    run(loop, case())


def test_eof_keeps_nothing_open(loop):
    """Whatever eof_received() says, or raises."""

    async def case(hook):
        reader, writer = pipe_pair()
        transport, protocol = await reading(reader, eof_received=hook)
        put(writer, b"last words")
        writer.close()
        assert await wait(protocol.lost) is None
        assert protocol.data == b"last words"

    run(loop, case(lambda *_: True))
    assert not loop.failures
    run(loop, case(lambda *_: 1 / 0))
    assert [type(context["exception"]) for context in loop.failures] == [ZeroDivisionError]


@every_pair
def test_pause(loop, pair):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await reading(reader)
        for i in range(10):
            transport.pause_reading()
            transport.pause_reading()
            put(writer, b"%d" % i)
            await turns(5)
            assert len(protocol.data) == i
            transport.resume_reading()
            transport.resume_reading()
            await until(lambda: len(protocol.data) == i + 1)
        assert protocol.data == b"0123456789"
        # Paused, the end is not noticed.
        if pair[2] != "pty":
            transport.pause_reading()
            writer.close()
            await turns(5)
            assert not protocol.lost.done()
            transport.resume_reading()
            assert await wait(protocol.lost) is None
        transport.close()
        await wait(protocol.lost)

    run(loop, case())


def test_exception_in_data_received(loop):
    """asyncio goes on after it."""

    async def case():
        reader, writer = pipe_pair()
        transport, protocol = await reading(reader, data_received=lambda *_: 1 / 0)
        for i in range(3):
            put(writer, b"x")
            await until(lambda: len(protocol.data) == i + 1)
        assert not transport.is_closing()
        writer.close()
        assert await wait(protocol.lost) is None

    run(loop, case())
    assert [type(context["exception"]) for context in loop.failures] == [ZeroDivisionError] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exit_in_callback(loop, error):
    def leave(*_):
        raise error

    reader, writer = pipe_pair()
    transport, protocol = run(loop, reading(reader, data_received=leave))
    put(writer, b"x")
    with pytest.raises(error):
        run(loop, asyncio.sleep(60))
    transport.close()
    run(loop, wait(protocol.lost))
    writer.close()
    assert not loop.failures


def test_stream_reader(loop):
    async def case():
        reader, writer = pipe_pair()
        stream = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), reader)
        put(writer, b"one\ntwo\nthree")
        assert await wait(stream.readline()) == b"one\n"
        assert await wait(stream.readexactly(4)) == b"two\n"
        writer.close()
        assert await wait(stream.read()) == b"three"
        transport.close()

    run(loop, case())


# ---- writing ------------------------------------------------------------


@every_pair
def test_write(loop, pair):
    async def case():
        reader, writer, kind = pair
        transport, protocol = await writing(writer)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport.get_extra_info("pipe") is writer
        assert transport.can_write_eof()
        transport.write(b"1")
        # It is there at once, without a turn of the loop.
        assert take(reader, 1) == b"1"
        transport.write(b"")
        transport.writelines([b"2", bytearray(b"3"), memoryview(b"4")])
        assert take(reader, 3) == b"234"
        data = os.urandom(3 << 20)
        transport.write(data)
        assert transport.get_write_buffer_size() > 0
        assert protocol.events[-1] == "pause_writing"
        assert await in_thread(take, reader, len(data)) == data
        await until(lambda: protocol.events[-1] == "resume_writing")
        assert transport.get_write_buffer_size() == 0
        transport.close()
        assert transport.is_closing()
        assert await wait(protocol.lost) is None
        await turns(3)
        if kind != "pty":
            assert os.read(reader.fileno(), 1) == b""

    run(loop, case())
    assert not loop.failures


@every_pair
def test_mutable_data(loop, pair):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await writing(writer)
        data = bytearray(b"a" * (1 << 20))
        transport.write(data)
        data[:] = b"b" * len(data)
        assert set(await in_thread(take, reader, len(data))) == {ord("a")}
        transport.close()
        await wait(protocol.lost)

    run(loop, case())


@pytest.mark.parametrize("end", ["close", "write_eof"])
@every_pair
def test_close_writes_first(loop, pair, end):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await writing(writer)
        data = os.urandom(1 << 20)
        transport.write(data)
        getattr(transport, end)()
        assert transport.is_closing()
        await turns(5)
        assert not protocol.lost.done()
        assert await in_thread(take, reader, len(data)) == data
        assert await wait(protocol.lost) is None

    run(loop, case())


@every_pair
def test_abort(loop, pair):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await writing(writer)
        transport.write(bytes(1 << 20))
        transport.close()
        transport.abort()
        assert await wait(protocol.lost) is None

    run(loop, case())


@pytest.mark.parametrize("pair", ["pipe", "fifo", "socket"], indirect=True)
@pytest.mark.parametrize("queued", [False, True])
def test_reader_leaves(loop, pair, queued):
    async def case():
        reader, writer, kind = pair
        transport, protocol = await writing(writer)
        if queued:
            transport.write(bytes(1 << 20))
            await turns(3)
        reader.close()
        error = await wait(protocol.lost)
        if queued:
            assert isinstance(error, (BrokenPipeError, ConnectionResetError))
        else:
            assert error is None
        assert transport.is_closing()

    run(loop, case())
    assert not loop.failures


@only_pipes
def test_reader_leaves_while_closing(loop, pair):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await writing(writer)
        transport.write(bytes(1 << 20))
        transport.close()
        await turns(3)
        reader.close()
        assert isinstance(await wait(protocol.lost), BrokenPipeError)

    run(loop, case())


@only_pipes
def test_write_fails(loop, pair, caplog):
    async def case():
        reader, writer, _ = pair
        transport, protocol = await writing(writer)
        reader.close()
        transport.write(b"x")
        # In the call, as by asyncio.
        assert transport.is_closing()
        for _ in range(10):
            transport.write(b"x")
        assert {record.message for record in caplog.records} == \
            {"pipe closed by peer or os.write(pipe, data) raised exception."}
        assert isinstance(await wait(protocol.lost), BrokenPipeError)

    run(loop, case())
    assert not loop.failures


def test_limits(loop):
    async def case():
        reader, writer = pipe_pair()
        transport, protocol = await writing(writer)
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        while not transport.get_write_buffer_size():
            transport.write(bytes(101))
        if transport.get_write_buffer_size() <= 100:
            transport.write(bytes(101))
        assert protocol.events[-1] == "pause_writing"
        await in_thread(take, reader, 4096)
        transport.abort()
        reader.close()
        await wait(protocol.lost)

    run(loop, case())


def test_device(loop):
    """What cannot be waited for is always ready."""

    async def case():
        writer = open("/dev/null", "wb", 0)
        transport, protocol = await writing(writer)
        transport.write(bytes(1 << 20))
        transport.close()
        assert await wait(protocol.lost) is None

    run(loop, case())


def test_device_that_is_at_its_end(kernel_loop):
    """asyncio cannot: epoll refuses it."""

    async def case():
        transport, protocol = await reading(open("/dev/null", "rb", 0))
        assert await wait(protocol.lost) is None
        assert protocol.events == ["connection_made", "eof_received", "connection_lost"]

    run(kernel_loop, case())


# ---- both ---------------------------------------------------------------


@pytest.mark.parametrize("connect, words", [
    ("connect_read_pipe", "Pipe transport is for pipes/sockets only."),
    ("connect_write_pipe", "Pipe transport is only for pipes, sockets and character devices")])
def test_regular_file(loop, tmp_path, connect, words):
    async def case():
        with open(tmp_path / "file", "w+b", 0) as file:
            with pytest.raises(ValueError, match=re.escape(words)):
                await getattr(loop, connect)(Recorder, file)
            assert os.fstat(file.fileno())
            assert os.get_blocking(file.fileno())

    run(loop, case())


def test_pty_both_ways(loop):
    """One terminal, read from and written to."""

    async def case():
        master, slave = pty.openpty()
        tty.setraw(slave)
        reader, readers = await reading(open(master, "rb", 0))
        writer, writers = await writing(open(os.dup(master), "wb", 0))
        writer.write(b"question")
        assert await in_thread(os.read, slave, 100) == b"question"
        os.write(slave, b"answer")
        await until(lambda: readers.data == b"answer")
        assert not writer.is_closing()
        writer.close()
        assert await wait(writers.lost) is None
        os.close(slave)
        error = await wait(readers.lost)
        assert isinstance(error, OSError) and error.errno == 5

    run(loop, case())
    assert not loop.failures


def test_set_protocol(loop):
    async def case():
        reader, writer = pipe_pair()
        transport, protocol = await reading(reader)
        other = Recorder()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        put(writer, b"x")
        await until(lambda: other.data == b"x")
        writer.close()
        await wait(other.lost)
        assert protocol.events == ["connection_made"]

    run(loop, case())


def test_repr(kernel_loop):
    async def case():
        reader, writer = pipe_pair()
        left, _ = await reading(reader)
        right, protocol = await writing(writer)
        await turns(2)
        assert re.fullmatch(r"<ReadPipeTransport fd=\d+ polling>", repr(left))
        assert re.fullmatch(r"<WritePipeTransport fd=\d+ idle bufsize=0>", repr(right))
        left.close()
        right.close()
        assert re.fullmatch(r"<ReadPipeTransport closing fd=\d+ idle>", repr(left))
        await wait(protocol.lost)
        await turns(3)
        assert re.fullmatch(r"<ReadPipeTransport closed fd=\d+>", repr(left))
        assert not isinstance(left, asyncio.WriteTransport)

    run(kernel_loop, case())


def test_unclosed(loop):
    async def begin():
        reader, writer = pipe_pair()
        left, one = await reading(reader)
        right, two = await writing(writer)
        one.transport = two.transport = None
        return [weakref.ref(left), weakref.ref(right)], [reader.fileno(), writer.fileno()]

    refs, fds = run(loop, begin())
    with pytest.warns(ResourceWarning, match="unclosed transport") as caught:
        loop.close()
        loop = None
        gc.collect()
        gc.collect()
    caught.clear()  # a warning has its transport
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_nothing_stays(loop):
    async def case():
        reader, writer = pipe_pair()
        left, one = await reading(reader)
        right, two = await writing(writer)
        right.write(b"x" * 100000)
        await until(lambda: len(one.data) == 100000)
        right.close()
        await wait(one.lost)
        await wait(two.lost)
        refs = [weakref.ref(item) for item in (left, right, one, two)]
        del left, right, one, two
        await turns(3)
        gc.collect()
        assert [ref() for ref in refs] == [None] * 4

    before = descriptors()
    for _ in range(5):
        run(loop, case())
    assert descriptors() == before


def test_wrong_thread(kernel_loop):
    async def case():
        reader, writer = pipe_pair()
        transport, protocol = await writing(writer)
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await in_thread(transport.close)
        transport.close()
        await wait(protocol.lost)
        reader.close()

    run(kernel_loop, case())


def test_modes():
    async def case():
        reader, writer = pipe_pair()
        left, one = await reading(reader)
        right, two = await writing(writer)
        data = os.urandom(1 << 20)
        right.write(data)
        right.close()
        await wait(one.lost)
        assert one.data == data

    loop = kloop.Loop(sqpoll=True)
    run(loop, case())
    loop.close()


def test_attributes_of_the_user(loop):
    """As asyncio's objects transports can have them, also in place of methods."""

    async def case():
        reader, writer = pipe_pair()
        transport, protocol = await reading(reader)
        transport.mine = protocol
        called = []
        transport.pause_reading = lambda: called.append(1)
        transport.pause_reading()
        assert called and transport.mine is protocol
        writer.close()
        await wait(protocol.lost)
        ref = weakref.ref(transport)
        del transport, protocol
        await turns(3)
        gc.collect()
        assert ref() is None

    run(loop, case())
