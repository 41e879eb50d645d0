# SPDX-License-Identifier: MulanPSL-2.0
"""The micro table: what single operations of a loop cost.

Each loop runs in a process of its own, which takes orders on standard input:
a line "ROW COUNT" runs the row with so many operations and answers with the
processor time that the process used for them, in nanoseconds. So one driver
can have the same row run on one loop after the other, and drifts of the
machine cancel. Processor time, not wall time: it covers all threads, and
waiting is free.
"""

from __future__ import annotations

import argparse
import asyncio
import collections.abc
import dataclasses
import resource
import socket
import sys
import threading
import time
import typing

from echo_server import listen, new_loop, set_congestion

Benchmark = collections.abc.Callable[[asyncio.AbstractEventLoop, int], None]


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    title: str
    run: Benchmark
    #: Operations in one measurement; a tenth of it in a quick run.
    count: int
    #: Is it in the table that has goals?
    has_goal: bool = True
    #: Operations come in multiples of this: so many timers at a time.
    step: int = 1
    #: Is what run() leaves behind to be weighed, in a process of its own, and not its time?
    memory: bool = False
    #: Is it a row of the table, or a point of curves alone?
    in_table: bool = True


def call_soon_chain(loop: asyncio.AbstractEventLoop, count: int) -> None:
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    loop.run_forever()


def call_soon_batch(loop: asyncio.AbstractEventLoop, count: int) -> None:
    turns = count // 100

    def nothing() -> None:
        pass

    def turn() -> None:
        nonlocal turns
        turns -= 1
        for _ in range(99):
            loop.call_soon(nothing)
        if turns > 0:
            loop.call_soon(turn)
        else:
            loop.call_soon(loop.stop)

    loop.call_soon(turn)
    loop.run_forever()


def tasks(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def one() -> None:
        await asyncio.sleep(0)

    async def run() -> None:
        for task in [loop.create_task(one()) for _ in range(count)]:
            await task

    loop.run_until_complete(run())


def call_later_cancel(loop: asyncio.AbstractEventLoop, count: int) -> None:
    left = count // 100

    def nothing() -> None:
        pass

    def turn() -> None:
        nonlocal left
        for _ in range(100):
            loop.call_later(60, nothing).cancel()
        left -= 1
        if left > 0:
            loop.call_soon(turn)
        else:
            loop.stop()

    loop.call_soon(turn)
    loop.run_forever()


def call_later_fire(loop: asyncio.AbstractEventLoop, count: int) -> None:
    left = count

    def fire() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            loop.stop()

    # Deadlines in no order, within 10 ms: some turns fire many, some one.
    for i in range(count):
        loop.call_later((i * 7919 % 1000) * 1e-5, fire)
    loop.run_forever()


def future_chain(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def run() -> None:
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    loop.run_until_complete(run())


def threadsafe_chain(loop: asyncio.AbstractEventLoop, count: int) -> None:
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon_threadsafe(step)
        else:
            loop.stop()

    loop.call_soon_threadsafe(step)
    loop.run_forever()


def threadsafe_thread(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """Another thread wakes the loop, and waits for its answer, each time."""
    answer = threading.Lock()
    answer.acquire()

    def post() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(answer.release)
            answer.acquire()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=post)
    thread.start()
    loop.run_forever()
    thread.join()


def ping_pong(loop: asyncio.AbstractEventLoop, count: int) -> None:
    """A connection with both ends in the loop; an operation is one message one way."""
    message = bytes(1024)
    left = count

    class Peer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # Not every loop's transports derive from asyncio.Transport.
            self.transport = typing.cast(asyncio.Transport, transport)
            self.received = 0

        def data_received(self, data: bytes) -> None:
            nonlocal left
            self.received += len(data)
            if self.received < len(message):
                return
            self.received = 0
            left -= 1
            if left > 0:
                self.transport.write(message)
            else:
                loop.stop()

    async def start() -> tuple[asyncio.AbstractServer, asyncio.Transport]:
        listener, _ = listen(0, "cubic", False)
        server = await loop.create_server(Peer, sock=listener)
        # What accepts inherits the congestion control; who connects is told.
        here = socket.socket()
        set_congestion(here, "cubic")
        here.setblocking(False)
        await loop.sock_connect(here, listener.getsockname())
        transport, _ = await loop.create_connection(Peer, sock=here)
        transport.write(message)
        return server, transport

    server, transport = loop.run_until_complete(start())
    loop.run_forever()
    transport.abort()
    server.close()
    loop.run_until_complete(asyncio.sleep(0.01))


ROWS: list[Row] = [
    Row("call_soon", "call_soon chain, one per turn", call_soon_chain, 200_000),
    Row("call_soon_batch", "call_soon, 100 per turn", call_soon_batch, 500_000),
    Row("tasks", "100k tasks, each sleep(0)", tasks, 100_000),
    Row("call_later_cancel", "call_later, add and cancel", call_later_cancel, 200_000),
    Row("call_later_fire", "call_later, fire", call_later_fire, 100_000),
    Row("future", "future chain", future_chain, 100_000),
    Row("threadsafe", "call_soon_threadsafe chain", threadsafe_chain, 100_000),
    Row("threadsafe_thread", "call_soon_threadsafe by another thread, and back",
        threadsafe_thread, 10_000, has_goal=False),
    Row("ping_pong", "TCP ping-pong inside one loop, 1 KiB", ping_pong, 50_000),
]


def timers_cancel(pending: int) -> Benchmark:
    """So many timers are there at a time; none of them comes to fire."""
    def run(loop: asyncio.AbstractEventLoop, count: int) -> None:
        def nothing() -> None:
            pass

        for _ in range(count // pending):
            handles = [loop.call_later(60 + i * 7919 % pending * 1e-6, nothing)
                       for i in range(pending)]
            for handle in handles:
                handle.cancel()
            loop.call_soon(loop.stop)
            loop.run_forever()

    return run


def timers_fire(pending: int) -> Benchmark:
    """So many timers at a time, in no order, within a microsecond for each."""
    def run(loop: asyncio.AbstractEventLoop, count: int) -> None:
        left = 0

        def fire() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                loop.stop()

        for _ in range(count // pending):
            left = pending
            for i in range(pending):
                loop.call_later(i * 7919 % pending * 1e-6, fire)
            loop.run_forever()

    return run


#: Timers that are kept while memory is looked at.
kept: list[asyncio.TimerHandle] = []


def timers_memory(loop: asyncio.AbstractEventLoop, count: int) -> None:
    def nothing() -> None:
        pass

    for i in range(count):
        kept.append(loop.call_later(3600 + i * 7919 % count * 1e-3, nothing))
    loop.call_soon(loop.stop)
    loop.run_forever()


#: Pending timers at the points of a curve.
TIMERS = [10, 100, 1000, 10_000, 100_000, 1_000_000]
ROWS += [Row(f"timers-cancel-{pending}", f"call_later and cancel, {pending:,} at a time",
             timers_cancel(pending), max(pending, 50_000), False, step=pending, in_table=False)
         for pending in TIMERS]
ROWS += [Row(f"timers-fire-{pending}", f"call_later and fire, {pending:,} at a time",
             timers_fire(pending), max(pending, 50_000), False, step=pending, in_table=False)
         for pending in TIMERS]
ROWS += [Row(f"timers-memory-{pending}", f"{pending:,} pending timers", timers_memory, pending,
             False, step=pending, memory=True, in_table=False) for pending in TIMERS[3:]]


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def processor_ns() -> int:
    return time.process_time_ns()


def serve(loop: asyncio.AbstractEventLoop) -> None:
    """Take orders until standard input ends."""
    rows = {row.name: row for row in ROWS}
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        row = rows[name]
        clock = resident_bytes if row.memory else processor_ns
        before = clock()
        row.run(loop, int(count))
        print(clock() - before, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure one loop and print microseconds per operation. "
        "benchmarks/run compares loops.")
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "kloop"], default="asyncio")
    parser.add_argument("--serve", action="store_true",
                        help="take orders on standard input: \"ROW COUNT\" lines")
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose name has it")
    options = parser.parse_args()
    options.sqpoll = False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = new_loop(options)
    asyncio.set_event_loop(loop)
    try:
        if options.serve:
            serve(loop)
            return
        for row in ROWS:
            if options.only in row.name and not row.memory:
                before = processor_ns()
                row.run(loop, row.count)
                cost_us = (processor_ns() - before) / row.count / 1000
                print(f"{cost_us:8.2f}  {row.title}", flush=True)
    finally:
        loop.close()


if __name__ == "__main__":
    main()
