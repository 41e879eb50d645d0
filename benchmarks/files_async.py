#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Files: kloop.open() beside a pool of threads, as aiofiles uses one, on asyncio's loop.

    PYTHONPATH=BUILD/python/lib LD_LIBRARY_PATH=BUILD/lib/.libs benchmarks/files_async.py

Each workload runs in rounds, the variants in turns, and what is shown is the
median: processor time of the process per operation, its threads and the
kernel's workers included, and operations per second. The files are in the page
cache. Prints a table; --json FILE keeps all samples.
"""

from __future__ import annotations

import argparse
import asyncio
import builtins
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import kloop

BLOCK = 4096


class ThreadFile:
    """A file of the built-in whose methods run in the loop's pool of threads."""

    def __init__(self, loop, file):
        self._call = loop.run_in_executor
        self._file = file

    def __getattr__(self, name):
        method = getattr(self._file, name)
        return lambda *args: self._call(None, method, *args)

    def __aiter__(self):
        return self

    async def __anext__(self):
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line


async def thread_open(*args):
    loop = asyncio.get_running_loop()
    return ThreadFile(loop, await loop.run_in_executor(None, builtins.open, *args))


async def kloop_open(*args):
    return await kloop.open(*args)


class Workloads:
    """Coroutine functions of (open, paths); each returns the number of its operations."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder = folder
        self.scale = scale
        self.large = folder / "large"
        self.bytes = max(int(100_000_000 * scale) // BLOCK, 256) * BLOCK
        with builtins.open(self.large, "wb") as file:
            for _ in range(self.bytes // BLOCK):
                file.write(os.urandom(BLOCK))
        self.text = folder / "text"
        self.lines = self.count(100_000)
        self.text.write_text("a line of some fifty characters, as they are in logs\n" * self.lines)
        self.small = [folder / f"small{n}" for n in range(200)]
        for path in self.small:
            path.write_bytes(os.urandom(2000))

    def count(self, number: int) -> int:
        return max(int(number * self.scale), 1000)

    def random_reads(self, concurrency):
        async def work(open_file):
            count = self.count(20_000) // concurrency
            files = [await open_file(self.large, "rb", 0) for _ in range(min(concurrency, 100))]
            turns = [asyncio.Lock() for _ in files]
            choose = random.Random(1)

            async def one(n):
                file, turn = files[n % len(files)], turns[n % len(files)]
                for _ in range(count):
                    async with turn:
                        await file.seek(choose.randrange(self.bytes // BLOCK) * BLOCK)
                        assert len(await file.read(BLOCK)) == BLOCK

            await asyncio.gather(*(one(n) for n in range(concurrency)))
            for file in files:
                await file.close()
            return count * concurrency
        return work

    def sequential(self, block):
        async def work(open_file):
            file = await open_file(self.large, "rb")
            count = 0
            while await file.read(block):
                count += 1
            await file.close()
            return count
        return work

    async def read_whole(self, open_file):
        file = await open_file(self.large, "rb")
        assert len(await file.read()) == self.bytes
        await file.close()
        return 1

    async def write_blocks(self, open_file):
        file = await open_file(self.folder / "out", "wb")
        data = bytes(65536)
        count = self.bytes // len(data)
        for _ in range(count):
            await file.write(data)
        await file.close()
        return count

    async def write_little(self, open_file):
        file = await open_file(self.folder / "out", "wb")
        count = self.count(20_000)
        for _ in range(count):
            await file.write(b"one hundred bytes" * 6)
        await file.close()
        return count

    async def text_lines(self, open_file):
        file = await open_file(self.text, "r")
        count = 0
        async for _ in file:
            count += 1
            if count == self.count(20_000):
                break
        await file.close()
        return count

    def small_files(self, concurrency):
        async def work(open_file):
            count = self.count(4_000)

            async def one(first):
                for n in range(first, count, concurrency):
                    file = await open_file(self.small[n % len(self.small)], "rb")
                    assert len(await file.read()) == 2000
                    await file.close()

            await asyncio.gather(*(one(n) for n in range(concurrency)))
            return count
        return work

    def all(self):
        for concurrency in 1, 10, 100, 1000:
            yield f"4 KiB at random, {concurrency} at once", self.random_reads(concurrency)
        yield "100 MB by 64 KiB", self.sequential(65536)
        yield "100 MB by 1 MiB", self.sequential(1 << 20)
        yield "100 MB by 4 KiB", self.sequential(4096)
        yield "100 MB in one read", self.read_whole
        yield "write 100 MB by 64 KiB", self.write_blocks
        yield "write 100 bytes", self.write_little
        yield "lines of text", self.text_lines
        yield "small files, 1 at once", self.small_files(1)
        yield "small files, 50 at once", self.small_files(50)


VARIANTS = {
    "threads": (asyncio.SelectorEventLoop, thread_open),
    "kLoop": (kloop.Loop, kloop_open),
    "kLoop, SQPOLL": (lambda: kloop.Loop(sqpoll=True), kloop_open),
}


def measure(variant, work):
    """(processor time, wall time) of one operation, in microseconds."""
    factory, open_file = VARIANTS[variant]
    loop = factory()
    try:
        loop.run_until_complete(asyncio.sleep(0))
        processor, wall = time.process_time(), time.perf_counter()
        count = loop.run_until_complete(work(open_file))
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    return processor / count * 1e6, wall / count * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a share of all that is done")
    parser.add_argument("--only", default="", help="workloads whose name has this")
    parser.add_argument("--variants", default="threads,kLoop", help=", ".join(VARIANTS))
    parser.add_argument("--folder", help="where the files are made; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="keep all samples there")
    given = parser.parse_args()
    variants = [name for name in VARIANTS if name in given.variants]
    samples = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        workloads = Workloads(Path(folder), given.scale)
        chosen = [(name, work) for name, work in workloads.all() if given.only in name]
        for name, work in chosen:
            for number in range(given.rounds + 1):
                for variant in variants:
                    result = measure(variant, work)
                    if number:
                        samples.setdefault(name, {}).setdefault(variant, []).append(result)
    print("| workload | " + " | ".join(f"{v}: CPU us | {v}: per s" for v in variants) + " |")
    print("| --- |" + " ---: |" * (2 * len(variants)))
    for name, by_variant in samples.items():
        cells = []
        for variant in variants:
            cells.append(f"{statistics.median(s[0] for s in by_variant[variant]):,.1f}")
            cells.append(f"{1e6 / statistics.median(s[1] for s in by_variant[variant]):,.0f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    if given.json:
        given.json.write_text(json.dumps(samples, indent=1))


if __name__ == "__main__":
    main()
