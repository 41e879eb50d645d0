# SPDX-License-Identifier: MulanPSL-2.0
"""asyncio's streams over connections: the same on asyncio's loop and on kloop's."""

import asyncio
import gc
import inspect
import socket
import sys
import warnings

import pytest

from streams_tools import connected, run

LIMIT = 100
BIG = bytes(range(256)) * 4096


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


# ---- reads ------------------------------------------------------------------


def test_reads(loop):
    async def case():
        async with connected() as (reader, writer, there, back):
            back.write(b"one\ntwo;three;;rest")
            assert await reader.readline() == b"one\n"
            assert await reader.readuntil(b";") == b"two;"
            assert await reader.readuntil(separator=b";;") == b"three;;"
            assert await reader.readexactly(0) == b""
            assert await reader.readexactly(2) == b"re"
            assert await reader.read(0) == b""
            assert await reader.read(1) == b"s"
            assert await reader.read(n=1000) == b"t"
            back.write(b"last line")
            back.write_eof()
            assert await reader.readline() == b"last line"
            assert reader.at_eof()
            assert await reader.readline() == await reader.read() == await reader.read(5) == b""
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(3)
            assert (caught.value.partial, caught.value.expected) == (b"", 3)
            writer.write(b"abc")
            writer.write_eof()
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await there.readuntil(b"x")
            assert (caught.value.partial, caught.value.expected) == (b"abc", None)

    run(loop, case())


def test_read_to_the_end(loop):
    async def case():
        async with connected() as (reader, writer, there, back):
            back.write(BIG)
            back.write_eof()
            assert await reader.read() == BIG
            writer.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
            assert writer.can_write_eof()
            writer.write_eof()
            assert await there.read(-1) == b"abc"
            assert there.at_eof()

    run(loop, case())


def test_iteration(loop):
    lines = [b"%d\n" % number for number in range(1000)] + [b"no newline"]

    async def case():
        async with connected() as (reader, _, _, back):
            back.writelines(lines)
            back.close()
            assert [line async for line in reader] == lines

    run(loop, case())


@pytest.mark.parametrize("size", [1, 1000, 100_000, 3_000_000])
def test_exact_sizes(loop, size):
    async def case():
        async with connected() as (reader, writer, there, back):
            for _ in range(3):
                data = bytes(size)
                back.write(data)
                assert await reader.readexactly(size) == data
                writer.write(data)
                assert await there.readexactly(size) == data

    run(loop, case())


@pytest.mark.parametrize("size", [1, 10_000, 300_000])
def test_echo(loop, size):
    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def case():
        async with connected(echo) as (reader, writer):
            for number in range(20):
                message = bytes([number]) * size
                writer.write(message)
                await writer.drain()
                assert await reader.readexactly(size) == message
            writer.write_eof()
            assert await reader.read() == b""

    run(loop, case())


# ---- limits --------------------------------------------------------------------


def test_line_over_the_limit(loop):
    async def case():
        async with connected(limit=LIMIT) as (reader, _, _, back):
            back.write(b"a" * (LIMIT + 1) + b"\nnext\n")
            await asyncio.sleep(0)
            with pytest.raises(ValueError, match="Separator is found, but chunk is") as caught:
                await reader.readline()
            assert type(caught.value.__context__) is asyncio.LimitOverrunError
            assert await reader.readline() == b"next\n"
            back.write(b"b" * (LIMIT + 5))
            with pytest.raises(ValueError, match="Separator is not found, and chunk exceed"):
                await reader.readline()
            back.write(b"c\n")
            assert await reader.readline() == b"c\n"

    run(loop, case())


def test_until_over_the_limit_leaves_the_data(loop):
    async def case():
        async with connected(limit=LIMIT) as (reader, _, _, back):
            back.write(b"a" * LIMIT + b"aa--")
            for _ in range(2):
                with pytest.raises(asyncio.LimitOverrunError) as caught:
                    await reader.readuntil(b"--")
                assert caught.value.consumed in (LIMIT + 1, LIMIT + 2, LIMIT + 3)
                await asyncio.sleep(0.01)
            assert await reader.readexactly(LIMIT + 4) == b"a" * LIMIT + b"aa--"

    run(loop, case())


def test_the_transport_is_paused(loop):
    """Beyond twice the limit nothing is received until half of that is read."""
    async def case():
        async with connected(limit=LIMIT) as (reader, writer, there, back):
            back.write(bytes(LIMIT))
            await reader.readexactly(LIMIT)
            assert not reader._paused and writer.transport.is_reading()
            back.write(bytes(2 * LIMIT + 1))
            await until(lambda: reader._paused)
            assert not writer.transport.is_reading()
            assert "paused" in repr(reader)
            await reader.readexactly(LIMIT)
            assert reader._paused and not writer.transport.is_reading()
            await reader.readexactly(1)
            assert not reader._paused and writer.transport.is_reading()
            # A read that waits for more than fits goes on to receive.
            back.write(bytes(9 * LIMIT))
            assert await reader.readexactly(10 * LIMIT) == bytes(10 * LIMIT)

    run(loop, case())


def test_a_slow_reader_stops_the_writer(loop):
    async def case():
        async with connected(limit=1024) as (reader, writer, there, back):
            sock = back.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            total = 8_000_000
            back.write(bytes(total))
            drained = asyncio.ensure_future(back.drain())
            await asyncio.sleep(0.05)
            assert not drained.done()
            assert len(await reader.readexactly(total)) == total
            await drained

    run(loop, case())


# ---- errors and cancellation -------------------------------------------------------


@pytest.mark.parametrize("read", [
    lambda reader: reader.read(1), lambda reader: reader.read(),
    lambda reader: reader.readexactly(1), lambda reader: reader.readline(),
    lambda reader: reader.readuntil(b"x"),
], ids=["read", "read_all", "readexactly", "readline", "readuntil"])
class TestEachRead:
    def test_two_at_once(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, back):
                first = asyncio.ensure_future(reader.readexactly(5))
                await asyncio.sleep(0)
                with pytest.raises(RuntimeError, match=r"^read(exactly|until)?\(\) called while "
                                   "another coroutine is already waiting for incoming data$"):
                    await read(reader)
                back.write(b"hello")
                assert await first == b"hello"

        run(loop, case())

    def test_cancelled_while_it_waits(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, back):
                for _ in range(3):
                    task = asyncio.ensure_future(read(reader))
                    await asyncio.sleep(0)
                    assert reader._waiter is not None
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert reader._waiter is None
                back.write(b"data")
                assert await reader.readexactly(4) == b"data"

        run(loop, case())

    def test_timeout(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, back):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(read(reader), 0.01)
                back.write(b"data")
                assert await reader.read(10) == b"data"

        run(loop, case())

    def test_exception_while_it_waits(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, _):
                task = asyncio.ensure_future(read(reader))
                await asyncio.sleep(0)
                error = ZeroDivisionError("set")
                reader.set_exception(error)
                with pytest.raises(ZeroDivisionError):
                    await task
                assert reader.exception() is error
                with pytest.raises(ZeroDivisionError):
                    await read(reader)

        run(loop, case())

    def test_connection_reset(self, loop, read):
        async def case():
            async with connected() as (reader, writer, _, back):
                task = asyncio.ensure_future(read(reader))
                await asyncio.sleep(0)
                sock = back.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                back.transport.abort()
                with pytest.raises(ConnectionResetError):
                    await task
                assert type(reader.exception()) is ConnectionResetError
                with pytest.raises(ConnectionResetError):
                    await writer.drain()
                with pytest.raises(ConnectionResetError):
                    await writer.wait_closed()

        run(loop, case())

    def test_nothing_before_the_await(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, _):
                reader.set_exception(ValueError("later"))
                coroutine = read(reader)
                assert asyncio.iscoroutine(coroutine) and inspect.isawaitable(coroutine)
                with pytest.raises(ValueError, match="later"):
                    await coroutine
                with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
                    await coroutine

        run(loop, case())

    def test_never_awaited(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, _):
                with pytest.warns(RuntimeWarning,
                                  match=r"coroutine 'StreamReader\.\w+' was never awaited"):
                    read(reader)
                    gc.collect()
                read(reader).close()  # no warning

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(loop, case())

    def test_as_a_coroutine(self, loop, read):
        async def case():
            async with connected() as (reader, _, _, _):
                coroutine = read(reader)
                with pytest.raises(TypeError, match="can't send non-None value"):
                    coroutine.send(1)
                future = coroutine.send(None)
                assert asyncio.isfuture(future) and reader._waiter is future
                with pytest.raises(KeyError):
                    coroutine.throw(KeyError("thrown"))
                assert reader._waiter is None
                with pytest.raises(RuntimeError):
                    coroutine.send(None)
                coroutine = read(reader)
                coroutine.send(None)
                coroutine.close()
                assert reader._waiter is None
                coroutine.close()
                # Dropped while it waits.
                coroutine = read(reader)
                coroutine.send(None)
                del coroutine
                gc.collect()
                assert reader._waiter is None
                coroutine = read(reader)
                with pytest.raises(KeyError):
                    coroutine.throw(KeyError)

        run(loop, case())


@pytest.mark.parametrize("call, error", [
    (lambda reader: reader.readexactly(-1), ValueError),
    (lambda reader: reader.readuntil(b""), ValueError),
    (lambda reader: reader.readuntil(None), TypeError),
    (lambda reader: reader.read("1"), TypeError),
    (lambda reader: reader.read(None), TypeError),
    (lambda reader: reader.readexactly(1.5), TypeError),
], ids=["negative", "empty", "separator", "text", "none", "float"])
def test_wrong_arguments(loop, call, error):
    async def case():
        async with connected() as (reader, _, _, back):
            back.write(b"some data")
            await until(lambda: reader.at_eof() or "bytes" in repr(reader))
            with pytest.raises(error):
                await call(reader)
            assert await reader.read(100) == b"some data"

    run(loop, case())


def test_wrong_calls(loop):
    async def case():
        async with connected() as (reader, _, _, _):
            for call in (lambda: reader.read(1, 2), lambda: reader.read(m=1),
                         lambda: reader.readexactly(), lambda: reader.readline(1),
                         lambda: reader.feed_data(), lambda: reader.exception(1)):
                with pytest.raises(TypeError):
                    call()

    run(loop, case())


def test_odd_arguments(loop):
    async def case():
        async with connected() as (reader, _, _, back):
            back.write(b"abcdefgh")
            assert await reader.read(True) == b"a"
            assert await reader.readexactly(True) == b"b"
            assert await reader.readuntil(bytearray(b"d")) == b"cd"
            assert await reader.read(1 << 40) == b"efgh"

    run(loop, case())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="separators in a tuple came in Python 3.13")
def test_several_separators(loop):
    async def case():
        async with connected(limit=LIMIT) as (reader, _, _, back):
            back.write(b"one\r\ntwo\nthree!!!")
            separators = (b"\r\n", b"\n", b"!!")
            assert [await reader.readuntil(separators) for _ in range(3)] == [
                b"one\r\n", b"two\n", b"three!!"]
            back.write(b"-" * (2 * LIMIT) + b"\n")
            with pytest.raises(asyncio.LimitOverrunError):
                await reader.readuntil(separators)
            for wrong in (), (b"a", b""):
                with pytest.raises(ValueError):
                    await reader.readuntil(wrong)

    run(loop, case())


# ---- feeding by hand ----------------------------------------------------------------


def test_fed_by_hand(loop):
    async def case():
        async with connected() as (reader, _, _, back):
            reader.feed_data(b"by hand ")
            reader.feed_data(bytearray(b"and "))
            reader.feed_data(memoryview(b"again "))
            reader.feed_data(b"")
            back.write(b"over the wire")
            assert await reader.readexactly(31) == b"by hand and again over the wire"
            reader.feed_eof()
            assert reader.at_eof() and reader._eof
            with pytest.raises(AssertionError, match="feed_data after feed_eof"):
                reader.feed_data(b"x")
            assert await reader.read() == b""

    run(loop, case())


def test_data_after_eof_by_hand(loop):
    async def case():
        async with connected() as (reader, _, _, back):
            reader.feed_eof()
            back.write(b"too late")
            await until(lambda: loop.failures)
            assert isinstance(loop.failures[0]["exception"], AssertionError)
            assert "data_received" in loop.failures[0]["message"]

    run(loop, case())


def test_woken_by_hand(loop):
    async def case():
        async with connected() as (reader, _, _, _):
            task = asyncio.ensure_future(reader.read(10))
            exactly = None
            await asyncio.sleep(0)
            reader._wakeup_waiter()
            assert await task == b""
            exactly = asyncio.ensure_future(reader.readexactly(2))
            await asyncio.sleep(0)
            reader._wakeup_waiter()
            reader._wakeup_waiter()
            await asyncio.sleep(0)
            assert not exactly.done()
            reader.feed_data(b"ab")
            assert await exactly == b"ab"

    run(loop, case())


def test_futures_of_the_loop(loop):
    """A loop may have its own create_future()."""
    made = []
    create = loop.create_future

    def note():
        made.append(create())
        return made[-1]

    async def case():
        async with connected() as (reader, _, _, back):
            task = asyncio.ensure_future(reader.read(5))
            await asyncio.sleep(0)
            assert reader._waiter is made[-1]
            back.write(b"x")
            assert await task == b"x"

    loop.create_future = note
    run(loop, case())


@pytest.mark.parametrize("method", ["read", "readexactly"])
def test_a_create_future_that_looks_at_the_reader(loop, method):
    """The read that waits is woken, whoever keeps its future."""
    looked_at = []
    create = loop.create_future

    def look():
        while looked_at:
            assert looked_at.pop()._buffer == b""
        return create()

    async def case():
        async with connected() as (reader, _, _, back):
            async def read():
                looked_at.append(reader)
                return await getattr(reader, method)(5)

            task = asyncio.ensure_future(read())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not looked_at
            back.write(b"hello")
            assert await asyncio.wait_for(task, 30) == b"hello"

    loop.create_future = look
    run(loop, case())


def test_made_by_hand(loop):
    async def case():
        server, client = socket.socketpair()
        reader = asyncio.StreamReader(limit=LIMIT, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, same = await loop.create_connection(lambda: protocol, sock=server)
        assert same is protocol and reader._transport is transport
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        await loop.run_in_executor(None, client.sendall, b"hello\n")
        assert await reader.readline() == b"hello\n"
        assert repr(reader) == f"<StreamReader limit={LIMIT} transport={transport!r}>"
        assert repr(writer) == f"<StreamWriter transport={transport!r} reader={reader!r}>"
        client.close()
        assert await reader.read() == b""
        assert repr(reader).startswith(f"<StreamReader eof limit={LIMIT} transport=")
        writer.close()
        await writer.wait_closed()

    run(loop, case())


def test_a_subclass(loop):
    class Counting(asyncio.StreamReader):
        fed = 0

        def feed_data(self, data):
            self.fed += len(data)
            super().feed_data(data)

    async def case():
        server, client = socket.socketpair()
        reader = Counting(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, sock=server)
        client.sendall(b"12345")
        assert await reader.readexactly(5) == b"12345"
        assert type(reader) is Counting and reader.fed == 5
        client.close()
        transport.close()

    run(loop, case())


def test_the_buffer(loop):
    async def case():
        async with connected() as (reader, _, _, back):
            back.write(b"0123456789")
            assert await reader.readexactly(2) == b"01"
            assert type(reader._buffer) is bytearray and reader._buffer == b"23456789"
            del reader._buffer[:3]
            assert await reader.read(3) == b"567"
            reader._buffer.extend(b"ab")
            back.write(b"c")
            assert await reader.readexactly(5) == b"89abc"
            reader._buffer = bytearray(b"new")
            assert await reader.read(10) == b"new"

    run(loop, case())


def test_the_buffer_while_a_read_waits(loop):
    async def case():
        async with connected() as (reader, _, _, back):
            for read, result in ((reader.read(9), b"abc"), (reader.readexactly(3), b"abc"),
                                 (reader.readuntil(b"c"), b"abc")):
                task = asyncio.ensure_future(read)
                await asyncio.sleep(0)
                assert reader._buffer == b"" and reader._waiter is not None
                back.write(b"abc")
                assert await task == result
                assert reader._waiter is None

    run(loop, case())


def test_read_to_the_end_after_the_buffer(loop):
    async def case():
        async with connected(limit=4) as (reader, _, _, back):
            back.write(b"0123456789")
            task = asyncio.ensure_future(reader.read())
            await until(lambda: task.done() or reader._waiter is not None)
            assert b"0123456789".endswith(reader._buffer)
            back.write(b"more")
            back.close()
            assert await task == b"0123456789more"

    run(loop, case())


def test_attributes(loop):
    async def case():
        async with connected() as (reader, writer, _, back):
            assert reader._transport is writer.transport
            assert (reader._eof, reader._paused, reader._exception, reader._waiter) == (
                False, False, None, None)
            assert reader._limit == 65536 and reader._loop is loop
            reader._limit = 2
            back.write(b"abcdefg\n")
            with pytest.raises(ValueError):
                await reader.readline()
            reader._eof = True
            assert await reader.read() == b""
            reader.note = "mine"
            assert reader.note == "mine"
            del reader.note
            assert not hasattr(reader, "note")

    run(loop, case())


def test_methods_that_were_replaced(loop):
    async def case():
        async with connected() as (reader, _, _, back):
            fed = []
            feed = reader.feed_data
            reader.feed_data = lambda data: (fed.append(bytes(data)), feed(data))
            back.write(b"seen")
            assert await reader.readexactly(4) == b"seen"
            assert b"".join(fed) == b"seen"

    run(loop, case())


def test_signatures():
    assert asyncio.iscoroutinefunction(asyncio.StreamReader.read)


def test_inspection(loop):
    async def case():
        async with connected() as (reader, _, _, _):
            for name in "read", "readexactly", "readuntil", "readline", "__anext__":
                method = getattr(reader, name)
                plain = getattr(asyncio.StreamReader, name)
                assert asyncio.iscoroutinefunction(method)
                if sys.version_info >= (3, 12):
                    assert inspect.iscoroutinefunction(method)
                assert method.__doc__ == plain.__doc__ and method.__name__ == name
                assert str(inspect.signature(method)) == str(
                    inspect.signature(plain)).replace("(self, ", "(").replace("(self", "(")
            assert not asyncio.iscoroutinefunction(reader.feed_data)

    run(loop, case())
