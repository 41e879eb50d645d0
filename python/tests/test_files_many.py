# SPDX-License-Identifier: MulanPSL-2.0
"""Many files, many calls, much data; checked by sums, and nothing is left."""

import asyncio
import gc
import hashlib
import os
import random
import resource
import sys

import pytest

import kloop
from transport_tools import descriptors


def test_ten_thousand_at_once(run, tmp_path):
    """Concurrent writes, and reads of them, verified by checksum."""

    async def main():
        block = 4096
        count = 10_000
        data = random.Random(7).randbytes(block * count)
        files = [await kloop.open(tmp_path / str(n), "w+b", 0) for n in range(10)]
        loop = asyncio.get_running_loop()

        async def write(n):
            fd = files[n % 10].fileno()
            assert await loop._file_write(fd, data[n * block:(n + 1) * block], n // 10 * block) \
                == block

        async def read(n):
            return await loop._file_read(files[n % 10].fileno(), block, n // 10 * block, True)

        await asyncio.gather(*(write(n) for n in range(count)))
        got = await asyncio.gather(*(read(n) for n in range(count)))
        assert hashlib.sha256(b"".join(got)).digest() == hashlib.sha256(data).digest()
        for file in files:
            await file.close()

    run(main())


def test_many_files_at_once(run, tmp_path):
    async def main():
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        count = min(500, soft - descriptors() - 50)
        before = descriptors()

        async def one(n):
            text = f"{n}\n" * (n + 1)
            await kloop.files.write_text(tmp_path / str(n), text)
            digest = hashlib.sha256()
            async with kloop.open(tmp_path / str(n)) as file:
                async for line in file:
                    digest.update(line.encode())
            assert digest.digest() == hashlib.sha256(text.encode()).digest()

        await asyncio.gather(*(one(n) for n in range(count)))
        assert descriptors() == before

    run(main())


def test_large_file_in_one_read(run, path):
    async def main():
        data = random.Random(3).randbytes(30_000_000)
        assert await kloop.files.write_bytes(path, data) == len(data)
        async with kloop.open(path, "rb") as file:
            assert await file.read() == data
            await file.seek(1)
            assert await file.read(1 << 40) == data[1:]
            await file.seek(0)
            target = bytearray(len(data) + 10)
            assert await file.readinto(target) == len(data) and target[:-10] == data
            await file.seek(0)
            total = 0
            while part := await file.read(65536):
                assert part == data[total:total + 65536]
                total += 65536

    run(main())


def test_nothing_is_left_in_memory(path):
    async def main():
        path.write_text("line\n" * 1000)

        async def use():
            async with kloop.open(path, "r+") as file:
                await file.read(10)
                await file.seek(0, os.SEEK_END)
                await file.write("x")
                await file.stat()
            with pytest.raises(FileNotFoundError):
                await kloop.open(f"{path}x")

        for _ in range(50):
            await use()
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(300):
            await use()
        gc.collect()
        assert sys.getallocatedblocks() - before < 300

    kloop.run(main())
