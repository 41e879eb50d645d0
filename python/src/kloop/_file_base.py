# SPDX-License-Identifier: MulanPSL-2.0
"""What binary and text files have in common: see _files.py."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from .loop import Loop


class Turns:
    """Calls on one file take turns, in the order in which they came."""

    __slots__ = ("_loop", "_waiting", "taken")

    def __init__(self, loop: Loop) -> None:
        self.taken = False
        self._loop = loop
        self._waiting: deque = deque()

    async def wait(self) -> None:
        """Wait for a turn; to be called only while it is taken."""
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.give()
            # A coroutine that was closed leaves it as it was: no turn may go there.
            waiter.cancel()
            raise

    def give(self) -> None:
        """End a turn: the next one has it at once."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.taken = False


def closed_error() -> ValueError:
    """What every call on a closed file raises."""
    return ValueError("I/O operation on closed file.")


def stat_result(numbers: tuple) -> os.stat_result:
    """An os.stat_result of what Loop._file_stat() gives."""
    (mode, inode, device, links, uid, gid, size, accessed, modified, changed, block_bytes, blocks,
     special) = numbers
    return os.stat_result(
        (mode, inode, device, links, uid, gid, size,
         accessed // 10**9, modified // 10**9, changed // 10**9),
        {"st_atime": accessed / 1e9, "st_mtime": modified / 1e9, "st_ctime": changed / 1e9,
         "st_atime_ns": accessed, "st_mtime_ns": modified, "st_ctime_ns": changed,
         "st_blksize": block_bytes, "st_blocks": blocks, "st_rdev": special})


class File:
    """What binary and text files have in common."""

    _turns: Turns
    _loop: Loop

    def __reduce__(self):
        """TypeError: a copy would close the descriptor that is this file's."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        self._check_open()
        return self

    async def __anext__(self) -> Any:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<kloop.{type(self).__name__} name={self.name!r} mode={self.mode!r}{state}>"

    def _check_open(self) -> None:
        if self.closed:
            raise closed_error()

    async def _enter(self) -> None:
        """Take a turn; the file is open then."""
        if self._turns.taken:
            await self._turns.wait()
        else:
            self._turns.taken = True
        if self.closed:
            self._turns.give()
            raise closed_error()

    if TYPE_CHECKING:
        name: Any
        mode: str

        @property
        def closed(self) -> bool: ...
        def _need_readable(self) -> None: ...
        async def _readline(self, limit: int) -> Any: ...
        async def readline(self, size: int | None = -1, /) -> Any: ...
        async def close(self) -> None: ...

    async def readlines(self, hint: int | None = -1, /) -> list:
        """Read lines to the end, or until hint bytes or characters are exceeded."""
        self._need_readable()
        lines: list = []
        total = 0
        await self._enter()
        try:
            while line := await self._readline(-1):
                lines.append(line)
                total += len(line)
                if hint is not None and 0 < hint < total:
                    break
        finally:
            self._turns.give()
        return lines
