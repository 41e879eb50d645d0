# SPDX-License-Identifier: MulanPSL-2.0
"""Random feeds and reads: kloop's reader beside asyncio's own, step by step.

Both are fed the same and asked the same, in the same iterations of one loop.
The seed is in the name of each case; KLOOP_STREAMS_SEEDS=first:last runs others.
"""

import asyncio
import os
import random
import re
import sys

import pytest

from streams_tools import FakeTransport, connected, fast_reader, is_fast, run

# Reads whose tasks are cancelled before their first step.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

FIRST, LAST = map(int, os.environ.get("KLOOP_STREAMS_SEEDS", "0:300").split(":"))
STEPS = 120
LETTERS = b"abcd\r\n;"


class Side:
    """One reader, its transport, and what became of its reads."""

    def __init__(self, reader, can_pause):
        self.reader = reader
        self.transport = FakeTransport(can_pause)
        reader.set_transport(self.transport)
        self.tasks = []

    def outcomes(self):
        return [outcome(task) for task in self.tasks]

    def facts(self):
        reader = self.reader
        return (reader.at_eof(), reader._eof, reader._paused, reader._waiter is None,
                repr(reader.exception()), self.transport.calls, reader._transport is None,
                re.sub(r"(waiter|transport)=<.*?>+", r"\1", repr(reader)))


def outcome(task):
    if not task.done():
        return "waits"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    if error is None:
        assert type(task.result()) is bytes
        return task.result()
    return describe(error)


def describe(error):
    context = error.__context__
    return (type(error), str(error), getattr(error, "partial", None),
            getattr(error, "consumed", None), context is not None and describe(context))


def some_bytes(chance, limit):
    size = chance.choice([1, 2, 3, 10, limit // 2, limit, limit + 1, 2 * limit, 3 * limit])
    if chance.random() < 0.02:
        size = 50_000
    return bytes(chance.choices(LETTERS, k=size))


def some_read(chance, limit):
    """A read of a reader, as a function."""
    count = chance.choice([0, 1, 2, 5, limit, limit + 1, 2 * limit + 1, 5 * limit])
    separator = chance.choice([b"\n", b"\r\n", b";", b"ab", b"abc;", b"a\r\nb", b"zz"])
    if sys.version_info >= (3, 13) and chance.random() < 0.3:
        separator = tuple(chance.sample([b"\n", b"\r\n", b";", b"abc", b"bc", b"c"], k=3))
    kind = chance.choice(["read", "read", "exactly", "exactly", "until", "until", "line", "next",
                          "all"])
    return {
        "read": lambda reader: reader.read(count),
        "exactly": lambda reader: reader.readexactly(count),
        "until": lambda reader: reader.readuntil(separator),
        "line": lambda reader: reader.readline(),
        "next": lambda reader: reader.__anext__(),
        "all": lambda reader: reader.read() if chance.random() < 0.2 else reader.read(7),
    }[kind]


async def wrapped(awaitable):
    """StopAsyncIteration cannot leave a task on its own."""
    try:
        return await awaitable
    except StopAsyncIteration:
        return b"(stop)"


class Step:
    """What is done to both sides."""

    def __init__(self, chance, limit):
        self.chance = chance
        self.limit = limit

    def read(self, sides):
        read = some_read(self.chance, self.limit)
        state = self.chance.getstate()
        for side in sides:
            self.chance.setstate(state)
            side.tasks.append(asyncio.ensure_future(wrapped(read(side.reader))))

    def feed(self, sides):
        data = some_bytes(self.chance, self.limit)
        data = bytearray(data) if self.chance.random() < 0.1 else data
        for side in sides:
            if not side.reader._eof:
                side.reader.feed_data(data)

    def cancel(self, sides):
        if sides[0].tasks:
            number = self.chance.randrange(len(sides[0].tasks))
            for side in sides:
                side.tasks[number].cancel()

    def end(self, sides):
        for side in sides:
            side.reader.feed_eof()

    def fail(self, sides):
        kinds = [lambda: ValueError("set"), lambda: asyncio.IncompleteReadError(b"part", 5),
                 lambda: asyncio.LimitOverrunError("over", 1)]
        kind = self.chance.choice(kinds)
        for side in sides:
            side.reader.set_exception(kind())

    def wake(self, sides):
        for side in sides:
            side.reader._wakeup_waiter()

    def touch(self, sides):
        first, second = (bytes(side.reader._buffer) for side in sides)
        assert first == second

    def nothing(self, sides):
        pass


WEIGHTS = {"read": 30, "feed": 30, "nothing": 20, "cancel": 6, "end": 0.7, "fail": 0.3, "wake": 1,
           "touch": 0.3}


async def compare(seed):
    chance = random.Random(seed)
    limit = chance.choice([1, 2, 10, 64, 3000])
    loop = asyncio.get_running_loop()
    can_pause = chance.random() < 0.9
    sides = [Side(asyncio.StreamReader(limit=limit, loop=loop), can_pause),
             Side(fast_reader(loop, limit=limit), can_pause)]
    assert is_fast(sides[1].reader) and not is_fast(sides[0].reader)
    step = Step(chance, limit)
    for name in chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=STEPS):
        getattr(step, name)(sides)
        for _ in range(chance.choice([0, 1, 1, 2, 5])):
            await asyncio.sleep(0)
        assert sides[0].outcomes() == sides[1].outcomes(), name
        assert sides[0].facts() == sides[1].facts(), name
    was_fast = is_fast(sides[1].reader)
    step.touch(sides)
    tasks = [task for side in sides for task in side.tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert sides[0].outcomes() == sides[1].outcomes()
    return was_fast


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_seed(kernel_loop, seed):
    run(kernel_loop, compare(seed))


def test_most_stay_fast(kernel_loop):
    """The comparison is of use only where the reader did not turn back."""
    async def case():
        return sum([await compare(seed) for seed in range(40)])

    assert run(kernel_loop, case()) >= 20


@pytest.mark.parametrize("seed", range(8))
def test_over_a_connection(loop, seed):
    """Random writes on one side, random reads on the other: every byte, in order."""
    chance = random.Random(seed)
    data = bytes(chance.choices(LETTERS, k=chance.choice([1000, 100_000, 2_000_000])))

    async def write(writer):
        sent = 0
        while sent < len(data):
            size = chance.choice([1, 10, 1000, 70_000, 300_000])
            writer.write(data[sent:sent + size])
            sent += size
            if chance.random() < 0.3:
                await writer.drain()
            if chance.random() < 0.1:
                await asyncio.sleep(0)
        writer.close()

    async def read_some(reader):
        kind = chance.randrange(4)
        if kind == 0:
            return await reader.read(chance.choice([1, 100, 5000, 1 << 20]))
        try:
            if kind == 1:
                return await reader.readexactly(chance.choice([1, 100, 5000, 150_000]))
            return await reader.readuntil(chance.choice([b"\n", b"ab", b"\r\n"]))
        except asyncio.IncompleteReadError as error:
            return error.partial

    async def case():
        async with connected(lambda _, writer: write(writer)) as (reader, _):
            received = []
            while not reader.at_eof():
                received.append(await read_some(reader))
            assert b"".join(received) == data

    run(loop, case())
