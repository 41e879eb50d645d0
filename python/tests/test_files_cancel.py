# SPDX-License-Identifier: MulanPSL-2.0
"""Calls on files at once, and calls that are cancelled or whose loop ends."""

import asyncio
import gc
import os
import random
import warnings

import pytest

import kloop
from file_tools import LONG
from transport_tools import descriptors


def test_concurrent_calls_take_turns(run, path):
    async def main():
        async with kloop.open(path, "w+b", 64) as file:
            await asyncio.gather(*(file.write(b"%05d\n" % n) for n in range(2000)))
            await file.seek(0)
            lines = await asyncio.gather(*(file.readline() for _ in range(2001)))
            assert lines == [b"%05d\n" % n for n in range(2000)] + [b""]
        async with kloop.open(path) as file:
            parts = await asyncio.gather(*(file.read(6) for _ in range(2000)))
            assert parts == ["%05d\n" % n for n in range(2000)]
        file = await kloop.open(path, "wb")
        results = await asyncio.gather(file.write(b"before"), file.fsync(), file.close(),
                                       file.write(b"after"), return_exceptions=True)
        assert results[0] == 6 and isinstance(results[3], ValueError)
        assert path.read_bytes() == b"before"

    run(main())


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize("mode", ["rb", "r", "rb unbuffered"])
def test_cancelled_read_of_a_pipe(run, mode, nonblocking):
    """It ends at once, and loses nothing of what had come."""

    async def main():
        reader, writer = os.pipe()
        os.set_blocking(reader, not nonblocking)
        mode_, _, unbuffered = mode.partition(" ")
        file = await kloop.open(reader, mode_, 0 if unbuffered else -1)
        for number in range(20):
            if unbuffered:
                task = asyncio.create_task(file.readline())
            else:
                task = asyncio.create_task(file.read(10) if number % 2 else file.readline())
            await asyncio.sleep(0)
            os.write(writer, b"ab%d" % (number % 10))
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0.001)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, LONG)
            wanted = b"ab%d" % (number % 10)
            got = await file.read(3)
            while len(got) < 3:
                got += await file.read(3 - len(got))
            assert (got if isinstance(got, bytes) else got.encode()) == wanted
        os.close(writer)
        assert not await file.read()
        await file.close()

    run(main())


def test_cancelled_open_of_a_fifo(run, tmp_path):
    async def main():
        name = tmp_path / "fifo"
        os.mkfifo(name)
        before = descriptors()
        task = asyncio.create_task(kloop.open(name, "rb"))
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, LONG)
        assert descriptors() == before
        # With a peer, both get there.
        reader, writer = await asyncio.gather(kloop.open(name, "rb"), kloop.open(name, "wb"))
        await writer.write(b"through")
        await writer.close()
        assert await reader.read() == b"through"
        await reader.close()

    run(main())


def test_cancelled_write_to_a_full_pipe(run):
    async def main():
        reader, writer = os.pipe()
        file = await kloop.open(writer, "wb")
        task = asyncio.create_task(file.write(bytes(1_000_000)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, LONG)
        await file.write(b"later")
        closing = asyncio.create_task(file.close())
        other = await kloop.open(reader, "rb")
        got = await other.read()
        await closing
        # A part of the large write, which was on its way, and all that was accepted after.
        assert got.endswith(b"later") and 5 < len(got) < 1_000_000
        await other.close()

    run(main())


def test_cancelled_calls_on_a_file(run, path):
    """At any moment: what was accepted is there, once, and in order."""

    async def main():
        choose = random.Random(1)
        file = await kloop.open(path, "w+b", 256)
        written = []
        accepted = []

        async def write(number):
            # The first byte differs from that of its neighbours.
            data = number.to_bytes(2, "little") * choose.randrange(1, 60)
            written.append(data)
            await file.write(data)
            accepted.append(data)

        for number in range(600):
            task = asyncio.create_task(write(number))
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(0)
            if choose.random() < 0.5:
                task.cancel()
            await asyncio.wait([task])
        await file.seek(0)
        content = await file.read()
        await file.close()
        at = 0
        left = list(accepted)
        for data in written:
            # Whole, or as much as was written of one that was cancelled.
            length = len(os.path.commonprefix([data, content[at:at + len(data)]]))
            if left and data == left[0]:
                assert length == len(data)
                left.pop(0)
            at += length
        assert not left and at == len(content)

    run(main())


def test_cancelled_close_closes(run, path):
    async def main():
        before = descriptors()
        for turns in range(6):
            file = await kloop.open(path, "wb")
            await file.write(b"kept %d" % turns)
            task = asyncio.create_task(file.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if turns:
                assert file.closed
            await file.close()
            assert path.read_bytes() == b"kept %d" % turns
        assert descriptors() == before

    run(main())


def test_cancelled_while_it_waits_for_its_turn(run):
    async def main():
        reader, writer = os.pipe()
        file = await kloop.open(reader, "rb")
        tasks = [asyncio.create_task(file.read(3)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        for task in tasks[1], tasks[3], tasks[4]:
            os.write(writer, b"abc")
            assert await asyncio.wait_for(task, LONG) == b"abc"
        assert tasks[2].cancelled()
        os.close(writer)
        await file.close()

    run(main())


def test_loop_that_ends_first(path):
    """Calls in flight when the loop is closed: no crash, no leak."""
    before = descriptors()
    for _ in range(3):
        loop = kloop.Loop()
        reader, writer = os.pipe()

        async def main(reader=reader):
            file = await kloop.open(reader, "rb")
            return file, asyncio.create_task(file.read(1))

        file, task = loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        task._log_destroy_pending = False
        os.close(writer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del file, task, main
            gc.collect()
    assert descriptors() == before


def test_close_after_the_loop(tmp_path):
    """A coroutine that ends after its loop was closed leaves no descriptor and loses no data."""
    loop = kloop.Loop()

    async def keep():
        async with kloop.open(tmp_path / "kept", "wb") as file:
            await file.write(b"accepted")
            descriptors.append(file.fileno())
            await loop.create_future()

    descriptors = []
    coroutine = keep()
    task = loop.create_task(coroutine)
    while not descriptors:
        loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    with pytest.raises(GeneratorExit):
        coroutine.throw(GeneratorExit())
    task._log_destroy_pending = False
    assert (tmp_path / "kept").read_bytes() == b"accepted"
    with pytest.raises(OSError):
        os.fstat(descriptors[0])


def test_close_that_cannot_be_submitted(tmp_path):
    """The descriptor goes even where the ring does not take the call."""
    loop = kloop.Loop()
    fd = os.open(tmp_path, os.O_RDONLY)
    call = loop._file_close(fd)
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        call.__await__().__next__()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_coroutine_that_was_closed_keeps_no_turn(run, path):
    async def main():
        file = await kloop.open(path, "w+b", 0)
        first = asyncio.create_task(file.write(b"1"))
        await asyncio.sleep(0)
        second = file.write(b"2")
        second.send(None)  # waits for its turn
        second.close()
        assert await first == 1
        assert await asyncio.wait_for(file.write(b"3"), LONG) == 1
        await file.close()
        assert path.read_bytes() == b"13"

    run(main())
