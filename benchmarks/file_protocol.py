# SPDX-License-Identifier: MulanPSL-2.0
"""A little HTTP/1.1 server of one file: "GET /N" gets its first N bytes."""

from __future__ import annotations

import asyncio
import io
import typing

#: A piece where the loop has no sendfile(); as large as asyncio's own.
PIECE_BYTES = 256 * 1024


class FileProtocol(asyncio.Protocol):
    """One request at a time; the next is read when its answer has been taken.

    The file is sent by loop.sendfile() where the loop has that, and otherwise
    read and written in pieces, each when the transport asks for more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        self.loop = loop
        self.path = path
        self.has_sendfile = has_sendfile(loop)
        self.waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.paused = False
        self.request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports derive from asyncio.Transport.
        self.transport = typing.cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.resume_writing()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.request += data
        if self.request.endswith(b"\r\n\r\n"):
            count = int(self.request.split(b" ", 2)[1][1:])
            self.request = b""
            self.task = self.loop.create_task(self.answer(count))

    async def answer(self, count: int) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                             b"Content-Length: %d\r\n\r\n" % count)
        # Opened for each answer, as servers do: a file's position is not to be shared.
        with open(self.path, "rb", buffering=0) as file:
            if self.has_sendfile:
                await self.loop.sendfile(self.transport, file, 0, count, fallback=True)
            else:
                await self.write_pieces(file, count)

    async def write_pieces(self, file: io.FileIO, count: int) -> None:
        while count > 0 and not self.transport.is_closing():
            piece = file.read(min(PIECE_BYTES, count))
            count -= len(piece)
            self.transport.write(piece)
            if self.paused:
                self.waiter = self.loop.create_future()
                await self.waiter


def has_sendfile(loop: asyncio.AbstractEventLoop) -> bool:
    """Does the loop bring a sendfile() of its own, or only the one that raises?"""
    return getattr(type(loop), "sendfile", None) is not asyncio.AbstractEventLoop.sendfile
