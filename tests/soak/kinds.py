# SPDX-License-Identifier: MulanPSL-2.0
"""What a kind of work is, and what all kinds share."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import random
import struct
from pathlib import Path
from typing import ClassVar

SECONDS_PER_OPERATION = 240  # one that takes longer is lost
DIGEST_BYTES = 32


class Kind:
    """One kind of work: start() makes its servers, each call of work() is one operation.

    work() returns how many bytes were compared, and raises if anything is not as it should be.
    """

    name: ClassVar[str]
    workers: ClassVar[int] = 2
    pause: ClassVar[float] = 0.0  # seconds between two operations of a worker

    def __init__(self, room: Room) -> None:
        self.room = room
        self.loop = asyncio.get_running_loop()
        self.started = self.done = self.bytes = 0
        self.failures: collections.Counter[str] = collections.Counter()
        self.notes: collections.Counter[str] = collections.Counter()

    async def start(self) -> None:
        pass

    async def work(self, chance: random.Random) -> int:
        raise NotImplementedError

    async def stop(self) -> None:
        pass

    async def worker(self, number: int) -> None:
        """Operations, one after the other, until the room closes."""
        chance = random.Random(f"{self.room.seed} {self.name} {number}")
        while not self.room.closing:
            self.started += 1
            try:
                self.bytes += await asyncio.wait_for(self.work(chance), SECONDS_PER_OPERATION)
                self.done += 1
            except Exception as error:  # noqa: BLE001 - counted, and told at the end
                self.failures[f"{type(error).__name__}: {error}"[:200]] += 1
                if self.failures.total() > 20:
                    return
            await asyncio.sleep(self.pause)


class Room:
    """What the kinds share: a folder, the seed, data, certificates, the name server."""

    def __init__(self, folder: Path, seed: int, certificates, name_server) -> None:
        self.folder = folder
        self.seed = seed
        self.certificates = certificates
        self.name_server = name_server
        self.closing = False
        self._pool = random.Random(seed).randbytes(1 << 20)

    def data(self, chance: random.Random, limit: int) -> bytes:
        """Up to limit bytes: often few, at times many."""
        size = int(limit ** chance.random())
        at = chance.randrange(len(self._pool) - size)
        return self._pool[at:at + size]


def same(got, wanted, what: str) -> int:
    """The number of bytes, if both are equal."""
    if bytes(got) != bytes(wanted):
        raise AssertionError(f"{what}: {len(got)} bytes, {len(wanted)} were expected"
                             + (", and others" if len(got) == len(wanted) else ""))
    return len(wanted)


def message(data: bytes) -> bytes:
    """Its length, its digest, and the data."""
    return struct.pack("!I", len(data)) + hashlib.sha256(data).digest() + data


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """The data of a message, compared with its digest."""
    size, = struct.unpack("!I", await reader.readexactly(4))
    digest = await reader.readexactly(DIGEST_BYTES)
    data = await reader.readexactly(size)
    if hashlib.sha256(data).digest() != digest:
        raise AssertionError("the digest of a message is wrong")
    return data


async def answer_messages(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server of streams: each message goes back, after a look at it."""
    try:
        while True:
            data = await read_message(reader)
            writer.write(message(data))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    """Close, and wait for that; how the peer ended is the peer's business."""
    writer.close()
    try:
        await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError):
        pass
