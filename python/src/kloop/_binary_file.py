# SPDX-License-Identifier: MulanPSL-2.0
"""Binary files on the ring: see _files.py.

The position is the kernel's own, as with io's classes, so what is appended,
inherited or shared behaves alike. Between calls at most one of two buffers
holds something: data that was read ahead, or data that waits to be written.
"""

from __future__ import annotations

import asyncio
import io
import os
import stat
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ._file_base import File, Turns, stat_result

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .loop import Loop

BUFFER_BYTES = 131072
# Reads beyond this look at the file's size first, and allocate no more.
_LARGE = 1 << 20


class BinaryFile(File):
    """A binary file; kloop.open() makes it.

    With a buffer it behaves as io.BufferedReader, BufferedWriter or
    BufferedRandom do, without one (buffering=0) as io.FileIO.
    """

    def __init__(self, loop: Loop, fd: int, name: Any, flags: int, buffer_bytes: int,
                 closefd: bool) -> None:
        self._loop = loop
        self._fd = fd
        self._turns = Turns(loop)
        self._size = buffer_bytes
        self._closefd = closefd
        self._data = b""  # read ahead; from _at on it is still to be given out
        self._at = 0
        self._pending = bytearray()  # accepted, still to be written
        access = flags & os.O_ACCMODE
        self._readable = access in (os.O_RDONLY, os.O_RDWR)
        self._writable = access in (os.O_WRONLY, os.O_RDWR)
        self._flags = flags
        self._seekable: bool | None = None
        self._closed = False
        self.name = name

    # ---- what needs no waiting

    @property
    def closed(self) -> bool:
        """Was the file closed?"""
        return self._closed

    @property
    def mode(self) -> str:
        """The mode, as io.FileIO tells it."""
        if self._flags & os.O_EXCL:
            kind = "x"
        elif self._flags & os.O_APPEND:
            kind = "a"
        else:
            kind = "r" if self._readable else "w"
        return kind + "b" + ("+" if self._readable and self._writable else "")

    def fileno(self) -> int:
        """The descriptor."""
        self._check_open()
        return self._fd

    def isatty(self) -> bool:
        """Is it a terminal?"""
        self._check_open()
        return os.isatty(self._fd)

    def readable(self) -> bool:
        """Was it opened for reading?"""
        self._check_open()
        return self._readable

    def writable(self) -> bool:
        """Was it opened for writing?"""
        self._check_open()
        return self._writable

    def seekable(self) -> bool:
        """Has it a position?"""
        self._check_open()
        if self._seekable is None:
            try:
                os.lseek(self._fd, 0, os.SEEK_CUR)
                self._seekable = True
            except OSError:
                self._seekable = False
        return self._seekable

    def _need_readable(self) -> None:
        if not self._readable:
            if not self._size:
                self._check_open()
            raise io.UnsupportedOperation("read" if self._size else "File not open for reading")

    def _need_writable(self) -> None:
        if not self._writable:
            if not self._size:
                self._check_open()
            raise io.UnsupportedOperation("write" if self._size else "File not open for writing")

    def _tell(self) -> int:
        return (os.lseek(self._fd, 0, os.SEEK_CUR) - (len(self._data) - self._at)
                + len(self._pending))

    def _rewind(self) -> None:
        """Forget what was read ahead: the kernel's position becomes ours."""
        ahead = len(self._data) - self._at
        self._data = b""
        self._at = 0
        if ahead and self.seekable():
            os.lseek(self._fd, -ahead, os.SEEK_CUR)

    # ---- steps; whoever calls them has the turn

    async def _raw_read(self, size: int, full: bool) -> bytes:
        """One read, or with full as many as it takes; data of one that ends early is kept."""
        call = self._loop._file_read(self._fd, size, -1, full)
        try:
            return await call
        except BaseException:
            _, data = self._loop._file_rest(call)
            self._data = self._data[self._at:] + (data or b"")
            self._at = 0
            raise

    async def _raw_write(self, data: Buffer) -> None:
        call = self._loop._file_write(self._fd, data, -1)
        try:
            await call
        except OSError as error:
            error.characters_written, _ = self._loop._file_rest(call)
            raise

    async def _write_pending(self) -> None:
        if not self._pending:
            return
        data, self._pending = self._pending, bytearray()
        call = self._loop._file_write(self._fd, data, -1)
        try:
            await call
        except BaseException:
            # What did not get there stays, for the next attempt; none follows a close.
            moved, _ = self._loop._file_rest(call)
            self._pending = bytearray(memoryview(data)[moved:])
            raise

    async def _fill(self) -> bool:
        """Read ahead, when nothing is left; False at the end."""
        size = self._size or (BUFFER_BYTES if self.seekable() else 1)
        data = await self._raw_read(size, False)
        self._data = data
        self._at = 0
        return bool(data)

    def _take(self, size: int) -> bytes:
        at = self._at
        self._at = end = min(at + size, len(self._data))
        if at == 0 and end == len(self._data):
            data, self._data, self._at = self._data, b"", 0
            return data
        return self._data[at:end]

    def _bounded(self, size: int) -> int:
        """No more than what a regular file has left, and a byte to see its end."""
        if size <= _LARGE:
            return size
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            return size
        left = status.st_size - os.lseek(self._fd, 0, os.SEEK_CUR)
        return min(size, max(left, 0) + 1)

    async def _read_large(self, size: int) -> bytes:
        """Past the buffer, which keeps what it has."""
        bounded = self._bounded(size)
        data = await self._raw_read(bounded, True)
        if not len(data) == bounded < size:
            return data
        # The file has grown meanwhile; what is there may be given first.
        have = len(self._data) - self._at
        self._data = self._data[self._at:] + data
        self._at = 0
        more = await self._read_large(size - bounded)
        data = self._data[have:]
        self._data = self._data[:have]
        return data + more

    async def _read(self, size: int) -> bytes:
        await self._write_pending()
        have = len(self._data) - self._at
        if not self._size:
            return self._take(size) if have else await self._raw_read(self._bounded(size), False)
        if size <= have:
            return self._take(size)
        if not have and size < self._size:
            # One read brings it, but for pipes and the end of the file.
            await self._fill()
            have = len(self._data)
            if size <= have or not have:
                return self._take(size)
        missing = size - have
        if missing >= self._size:
            rest = await self._read_large(missing)
            return self._take(have) + rest if have else rest
        parts = [self._take(have)]
        while missing and await self._refill(parts):
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    async def _refill(self, parts: list[bytes]) -> bool:
        """_fill(), after parts were taken: they are given back if it fails."""
        try:
            return await self._fill()
        except BaseException:
            self._data = b"".join(parts) + self._data[self._at:]
            self._at = 0
            raise

    async def _read_all(self) -> bytes:
        await self._write_pending()
        parts = [self._take(len(self._data) - self._at)]
        size = 0
        status = os.fstat(self._fd)
        if stat.S_ISREG(status.st_mode):
            size = max(status.st_size - os.lseek(self._fd, 0, os.SEEK_CUR), 0)
        size = max(size + 1, 4096)
        while True:
            try:
                data = await self._raw_read(size, True)
            except BaseException:
                self._data = b"".join(parts) + self._data
                raise
            if data:
                parts.append(data)
            if len(data) < size:
                break
            size = min(2 * size, 1 << 26)
        parts = [part for part in parts if part]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read1(self, size: int) -> bytes:
        """What is there, or what one read brings."""
        await self._write_pending()
        have = len(self._data) - self._at
        if have:
            return self._take(min(size, have))
        return await self._raw_read(size, False)

    async def _readinto(self, buffer: Buffer, once: bool) -> int:
        await self._write_pending()
        with memoryview(buffer).cast("B") as view:
            done = min(len(self._data) - self._at, len(view))
            view[:done] = self._take(done)
            if done == len(view) or (done and once):
                return done
            with view[done:] as rest:
                if once or len(rest) >= self._size:
                    return done + await self._loop._file_readinto(self._fd, rest, -1, not once)
                data = await self._read(len(rest))
                rest[:len(data)] = data
                return done + len(data)

    async def _readline(self, limit: int) -> bytes:
        await self._write_pending()
        parts: list[bytes] = []
        while limit != 0:
            if self._at >= len(self._data) and not await self._refill(parts):
                break
            end = self._data.find(b"\n", self._at) + 1
            size = (end or len(self._data)) - self._at
            if 0 <= limit < size:
                size, end = limit, 1
            parts.append(self._take(size))
            if limit > 0:
                limit -= size
            if end:
                break
        if not self._size:
            self._rewind()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _write(self, data: Buffer, size: int) -> None:
        """Accept data. A cancelled call has accepted nothing, but of what is larger than the
        buffer, which is written at once."""
        if self._data:
            self._rewind()
        if len(self._pending) + size > self._size:
            await self._write_pending()
            if size >= self._size:
                await self._raw_write(data)
                return
        self._pending += data

    async def _seek(self, offset: int, whence: int) -> int:
        await self._write_pending()
        if self._size and not self.seekable():
            raise io.UnsupportedOperation("File or stream is not seekable.")
        have = len(self._data) - self._at
        if have or self._at:
            if whence == os.SEEK_CUR:
                offset -= have
            elif whence == os.SEEK_SET:
                # Inside of what was read ahead?
                index = offset - os.lseek(self._fd, 0, os.SEEK_CUR) + len(self._data)
                if 0 <= index <= len(self._data):
                    self._at = index
                    return offset
        position = os.lseek(self._fd, offset, whence)
        self._data = b""
        self._at = 0
        return position

    async def _flush(self) -> None:
        await self._write_pending()
        if self._writable:
            self._rewind()

    # ---- reading

    async def read(self, size: int | None = -1, /) -> bytes:
        """Read so many bytes, fewer only at the end; without a size, all that is left."""
        if size is not None and 0 <= size <= len(self._data) - self._at and not self._turns.taken:
            self._check_open()
            self._need_readable()
            return self._take(size)
        self._need_readable()
        if size is not None and size < -1:
            raise ValueError("read length must be non-negative or -1")
        await self._enter()
        try:
            if size is None or size < 0:
                return await self._read_all()
            return await self._read(size)
        finally:
            self._turns.give()

    async def readall(self) -> bytes:
        """Read all that is left."""
        return await self.read()

    async def read1(self, size: int = -1, /) -> bytes:
        """Read up to so many bytes, with one read at most, and none if some are there."""
        self._need_readable()
        await self._enter()
        try:
            return await self._read1(size if size >= 0 else self._size or BUFFER_BYTES)
        finally:
            self._turns.give()

    async def readinto(self, buffer: Buffer, /) -> int:
        """Read into a buffer until it is full or the file ends; the number of bytes.

        The buffer is lent until then: it cannot be resized.
        """
        self._need_readable()
        await self._enter()
        try:
            return await self._readinto(buffer, not self._size)
        finally:
            self._turns.give()

    async def readinto1(self, buffer: Buffer, /) -> int:
        """readinto() with one read at most."""
        self._need_readable()
        await self._enter()
        try:
            return await self._readinto(buffer, True)
        finally:
            self._turns.give()

    async def peek(self, size: int = 0, /) -> bytes:
        """What comes next, without moving on; at most one read, and maybe more or less than asked."""
        self._need_readable()
        await self._enter()
        try:
            await self._write_pending()
            if self._at >= len(self._data):
                await self._fill()
            return self._data[self._at:]
        finally:
            self._turns.give()

    async def __anext__(self) -> bytes:
        if not self._turns.taken:
            end = self._data.find(b"\n", self._at) + 1
            if end:
                self._check_open()
                at, self._at = self._at, end
                return self._data[at:end]
        return await super().__anext__()

    async def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line, or so many bytes of it."""
        if not self._turns.taken and (size is None or size < 0):
            end = self._data.find(b"\n", self._at) + 1
            if end:
                self._check_open()
                at, self._at = self._at, end
                return self._data[at:end]
        self._need_readable()
        await self._enter()
        try:
            return await self._readline(-1 if size is None else size)
        finally:
            self._turns.give()

    # ---- writing

    async def write(self, data: Buffer, /) -> int:
        """Write all of data, by way of the buffer; its size in bytes.

        What the buffer does not take is written at once. If that fails, a full disk say, the
        OSError's characters_written is how many of its bytes are in the file.
        """
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        size = len(data) if isinstance(data, (bytes, bytearray)) else memoryview(data).nbytes
        self._need_writable()
        if not self._turns.taken and not self._data and len(self._pending) + size <= self._size:
            self._check_open()
            self._pending += data
            return size
        await self._enter()
        try:
            await self._write(data, size)
        finally:
            self._turns.give()
        return size

    async def writelines(self, lines: Iterable[Buffer], /) -> None:
        """Write the lines in one go; no line ends are added."""
        await self.write(b"".join(lines))

    async def flush(self) -> None:
        """Hand to the kernel what waits in the buffer."""
        await self._enter()
        try:
            await self._flush()
        finally:
            self._turns.give()

    async def fsync(self) -> None:
        """flush(), and have all of the file reach the disk."""
        await self._sync(False)

    async def fdatasync(self) -> None:
        """As fsync(), without times and the like."""
        await self._sync(True)

    async def _sync(self, data_only: bool) -> None:
        await self._enter()
        try:
            await self._flush()
            await self._loop._file_sync(self._fd, data_only)
        finally:
            self._turns.give()

    async def truncate(self, size: int | None = None, /) -> int:
        """Make the file so long, or end it at the position; its new size."""
        if not self._writable:
            self._check_open()
            raise io.UnsupportedOperation("truncate" if self._size else
                                          "File not open for writing")
        await self._enter()
        try:
            await self._flush()
            if size is None:
                size = self._tell()
            if size < 0:
                raise OSError(22, os.strerror(22))
            await self._loop._file_truncate(self._fd, size)
            return size
        finally:
            self._turns.give()

    async def allocate(self, offset: int, length: int, /) -> None:
        """Have the disk keep room for this part of the file, as os.posix_fallocate()."""
        self._need_writable()
        await self._enter()
        try:
            await self._flush()
            await self._loop._file_allocate(self._fd, 0, offset, length)
        finally:
            self._turns.give()

    # ---- the rest

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; returns the new one."""
        await self._enter()
        try:
            return await self._seek(offset, whence)
        finally:
            self._turns.give()

    async def tell(self) -> int:
        """The position."""
        await self._enter()
        try:
            if self._size and not self.seekable():
                raise io.UnsupportedOperation("File or stream is not seekable.")
            return self._tell()
        finally:
            self._turns.give()

    async def stat(self) -> os.stat_result:
        """What os.stat() tells of the file; what waits in the buffer is not counted."""
        await self._enter()
        try:
            return stat_result(await self._loop._file_stat(self._fd, 0))
        finally:
            self._turns.give()

    async def _write_last(self) -> None:
        """Write what waits, for the last time: one cancellation does not lose it."""
        try:
            await self._write_pending()
        except asyncio.CancelledError:
            if self.seekable():
                await self._write_pending()
            raise

    async def close(self) -> None:
        """Write what waits, and close. A failure to write is raised after the close."""
        if self._closed:
            return
        if self._loop.is_closed():
            # A coroutine that ends after its loop: the ring is gone, what was accepted stays.
            self._closed = True
            self._abandon()
            return
        try:
            await self._enter()
        except ValueError:
            return
        try:
            try:
                await self._write_last()
                if not self._closefd:
                    self._rewind()
            finally:
                self._closed = True
                self._pending.clear()
                if self._closefd:
                    await self._closing()
        finally:
            self._turns.give()

    def _closing(self) -> Any:
        """The call that closes; where there is no memory for one, a plain close()."""
        try:
            return self._loop._file_close(self._fd)
        except MemoryError:
            os.close(self._fd)
            raise

    async def detach(self) -> BinaryFile:
        """Write what waits, and close but for the descriptor: returns a file without buffer."""
        await self._enter()
        try:
            await self._flush()
            self._rewind()
            self._closed = True
            return BinaryFile(self._loop, self._fd, self.name, self._flags, 0, self._closefd)
        finally:
            self._turns.give()

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        try:
            if self._closefd or self._pending:
                warnings.warn(f"unclosed file {self!r}", ResourceWarning, source=self,
                              stacklevel=2)
        finally:
            self._closed = True
            self._abandon()

    def _abandon(self) -> None:
        """The last chance to keep what was accepted; this may block."""
        try:
            while self._pending:
                del self._pending[:os.write(self._fd, self._pending)]
        except OSError:
            pass
        finally:
            if self._closefd:
                try:
                    os.close(self._fd)
                except OSError:
                    pass
