# SPDX-License-Identifier: MulanPSL-2.0
"""Work inside the machine: timers, processes, files, pipes, signals, threads, other loops."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import signal
import socket
import threading

import kloop
from kinds import Kind, same


class Timers(Kind):
    """Timers of which a part is cancelled: the others fire once, in order, and not too early."""

    name = "timers"

    async def work(self, chance):
        fired, wanted, early = [], [], 0
        done = self.loop.create_future()
        last = chance.random() * 0.05
        handles = []

        def fire(when):
            nonlocal early
            early += self.loop.time() < when
            fired.append(when)

        now = self.loop.time()
        for _ in range(200):
            when = now + chance.random() * last
            handles.append((when, self.loop.call_at(when, fire, when)))
        for when, handle in handles:
            if chance.random() < 0.5:
                handle.cancel()
            else:
                wanted.append(when)
        self.loop.call_at(now + last, done.set_result, None)
        await done
        await asyncio.sleep(0)
        # A nanosecond is the unit: what differs by less may come in any order.
        disordered = any(after < before - 2e-9 for before, after in zip(fired, fired[1:]))
        if sorted(fired) != sorted(wanted) or disordered or early:
            raise AssertionError(f"{len(fired)} of {len(wanted)} timers, {early} too early"
                                 + (", out of order" if disordered else ""))
        self.notes["timers"] += len(wanted)
        return 0


class Processes(Kind):
    """Programs that compute a digest, or end with a status."""

    name = "subprocesses"
    pause = 0.01

    async def work(self, chance):
        if chance.random() < 0.3:
            status = chance.randrange(100)
            child = await asyncio.create_subprocess_exec("sh", "-c", f"exit {status}")
            if await child.wait() != status:
                raise AssertionError(f"status {child.returncode} in place of {status}")
            return 0
        data = self.room.data(chance, 500_000)
        child = await asyncio.create_subprocess_exec(
            "sha256sum", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        output, _ = await child.communicate(data)
        if child.returncode:
            raise AssertionError(f"status {child.returncode}")
        same(output.split()[0], hashlib.sha256(data).hexdigest().encode(), "a digest")
        return len(data)


class Files(Kind):
    """A file that is written, renamed, read back in parts, and removed."""

    name = "files"
    numbers = itertools.count()

    async def work(self, chance):
        path = self.room.folder / f"file-{next(self.numbers)}"
        data = self.room.data(chance, 500_000)
        async with kloop.open(path, "wb") as file:
            at = 0
            while at < len(data):
                size = chance.randrange(1, 100_000)
                await file.write(data[at:at + size])
                at += size
            if chance.random() < 0.1:
                await file.fsync()
        moved = path.with_suffix(".moved")
        await kloop.files.rename(path, moved)
        if (await kloop.files.stat(moved)).st_size != len(data):
            raise AssertionError("the size of a file is wrong")
        parts = []
        async with kloop.open(moved, "rb") as file:
            while part := await file.read(chance.randrange(1, 200_000)):
                parts.append(part)
        await kloop.files.unlink(moved)
        return same(b"".join(parts), data, "a file")


class Pipes(Kind):
    """A pipe with a transport at either end."""

    name = "pipes"

    async def work(self, chance):
        read, write = os.pipe()
        reader = asyncio.StreamReader(limit=1 << 16)
        source, _ = await self.loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", 0))
        sink, protocol = await self.loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(write, "wb", 0))
        data = self.room.data(chance, 300_000)
        try:
            sink.write(data)
            sink.close()
            return same(await reader.read(), data, "a pipe")
        finally:
            source.close()


class Signals(Kind):
    """A signal to this process, and its handler on the loop."""

    name = "signals"
    workers = 1
    pause = 0.002

    async def start(self):
        self.came = asyncio.Event()
        self.loop.add_signal_handler(signal.SIGUSR1, self.came.set)

    async def work(self, chance):
        self.came.clear()
        if chance.random() < 0.5:
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            await self.loop.run_in_executor(None, os.kill, os.getpid(), signal.SIGUSR1)
        await self.came.wait()
        return 0

    async def stop(self):
        self.loop.remove_signal_handler(signal.SIGUSR1)


class Threads(Kind):
    """Calls from other threads, none of which is lost or out of order."""

    name = "threads"

    async def work(self, chance):
        came = []
        done = self.loop.create_future()
        count = chance.randrange(1, 300)

        def call():
            for number in range(count):
                self.loop.call_soon_threadsafe(came.append, number)
            self.loop.call_soon_threadsafe(done.set_result, None)

        await self.loop.run_in_executor(None, call)
        await done
        if came != list(range(count)):
            raise AssertionError(f"{len(came)} of {count} calls")
        self.notes["calls"] += count
        return 0


class Loops(Kind):
    """A loop that lives for a moment in a thread of its own."""

    name = "loops"
    workers = 1
    pause = 0.02

    async def work(self, chance):
        data = self.room.data(chance, 100_000)
        result = []

        async def main():
            server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(data)
            writer.write_eof()
            result.append(await reader.read())
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

        thread = threading.Thread(target=kloop.run, args=(main(),))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.005)
        thread.join()
        return same(result[0], data, "an echo")

    @staticmethod
    async def _echo(reader, writer):
        writer.write(await reader.read())
        writer.close()
        await writer.wait_closed()


class Readers(Kind):
    """add_reader() and add_writer() on a pair of sockets."""

    name = "readers"

    async def work(self, chance):
        one, two = socket.socketpair()
        data = self.room.data(chance, 100_000)
        left, received = memoryview(data), bytearray()
        done = self.loop.create_future()

        def write():
            nonlocal left
            left = left[one.send(left):]
            if not left:
                self.loop.remove_writer(one)
                one.shutdown(socket.SHUT_WR)

        def read():
            part = two.recv(20_000)
            received.extend(part)
            if not part:
                self.loop.remove_reader(two)
                done.set_result(None)

        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            self.loop.add_writer(one, write)
            self.loop.add_reader(two, read)
            try:
                await done
            finally:
                self.loop.remove_writer(one)
                self.loop.remove_reader(two)
        return same(received, data, "what was read")


KINDS = [Timers, Processes, Files, Pipes, Signals, Threads, Loops, Readers]
