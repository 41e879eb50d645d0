# SPDX-License-Identifier: MulanPSL-2.0
"""Text files on the ring: encodings and line ends over a binary file, see _files.py."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterable
from typing import Any

from ._binary_file import BinaryFile
from ._file_base import File

_CHUNK_BYTES = 65536


class TextFile(File):
    """A text file; kloop.open() makes it. It behaves as io.TextIOWrapper does."""

    def __init__(self, buffer: BinaryFile, mode: str, encoding: str, errors: str,
                 newline: str | None, line_buffering: bool) -> None:
        self._buffer = buffer
        self._loop = buffer._loop
        self._turns = buffer._turns
        self.mode = mode
        self.encoding = encoding
        self.errors = errors
        self.line_buffering = line_buffering
        self._newline = newline
        self._write_newline = newline if newline in ("\r", "\r\n") else None
        self._decoder: Any = None
        self._encoder: Any = None
        self._chars = ""  # decoded; from _used on still to be given out
        self._used = 0
        # Of the chunk that _chars came from: the decoder's flags before it, how many of its bytes
        # the decoder had seen already, and its bytes.
        self._before: tuple[int, int, bytes] | None = None
        if buffer._writable and buffer.seekable() and buffer._tell() != 0:
            self._make_encoder().setstate(0)

    # ---- what needs no waiting

    @property
    def buffer(self) -> BinaryFile:
        """The binary file below."""
        return self._buffer

    @property
    def name(self) -> Any:  # type: ignore[override]
        """The path or descriptor that was opened."""
        return self._buffer.name

    @property
    def closed(self) -> bool:
        """Was the file closed?"""
        return self._buffer.closed

    @property
    def newlines(self) -> Any:
        """The line ends that were seen, with newline=None or ''; see io.TextIOBase."""
        return getattr(self._decoder, "newlines", None)

    def fileno(self) -> int:
        """The descriptor."""
        return self._buffer.fileno()

    def isatty(self) -> bool:
        """Is it a terminal?"""
        return self._buffer.isatty()

    def readable(self) -> bool:
        """Was it opened for reading?"""
        return self._buffer.readable()

    def writable(self) -> bool:
        """Was it opened for writing?"""
        return self._buffer.writable()

    def seekable(self) -> bool:
        """Has it a position?"""
        return self._buffer.seekable()

    def _need_readable(self) -> None:
        if not self._buffer._readable:
            self._check_open()
            raise io.UnsupportedOperation("not readable")

    def _make_decoder(self) -> Any:
        decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if not self._newline:
            decoder = io.IncrementalNewlineDecoder(decoder, self._newline is None)
        return decoder

    def _make_encoder(self) -> Any:
        if self._encoder is None:
            self._encoder = codecs.getincrementalencoder(self.encoding)(self.errors)
        return self._encoder

    def _forget(self) -> None:
        """Drop what was read and decoded."""
        self._chars = ""
        self._used = 0
        self._before = None

    # ---- steps; whoever calls them has the turn

    def _decode(self, data: bytes, final: bool) -> None:
        """Decode a chunk; its characters take the place of those that were given out."""
        if self._decoder is None:
            self._decoder = self._make_decoder()
        pending, flags = self._decoder.getstate()
        self._chars = self._decoder.decode(data, final)
        self._used = 0
        self._before = flags, len(pending), pending + data

    async def _more(self, passed: list) -> bool:
        """Read and decode a chunk; False at the end of the file, which may give characters too.

        What the chunk displaces goes to passed, for _untake().
        """
        data = await self._buffer._read1(_CHUNK_BYTES)
        passed.append((self._chars, self._used, self._before))
        self._decode(data, not data)
        return bool(data)

    def _untake(self, passed: list, parts: list[str]) -> None:
        """A call that took parts, of several chunks maybe, failed: the next one is to have them."""
        states = [*passed, (self._chars, self._used, self._before)]
        first = states[0][1] - len(parts[0])
        states = [state for state in states if state[2] is not None]
        if not states:
            return
        self._chars = "".join(chars for chars, _, _ in states)
        self._used = first
        flags, pending, data = states[0][2]
        data += b"".join(more[repeated:] for _, _, (_, repeated, more) in states[1:])
        self._before = flags, pending, data

    def _take(self, count: int) -> str:
        at = self._used
        self._used = end = min(at + count, len(self._chars))
        return self._chars[at:end]

    async def _read(self, size: int) -> str:
        await self._buffer._write_pending()
        if size < 0:
            data = await self._buffer._read_all()
            if self._decoder is None:
                self._decoder = self._make_decoder()
            chars = self._chars[self._used:] + self._decoder.decode(data, True)
            self._forget()
            return chars
        if size <= len(self._chars) - self._used:
            return self._take(size)
        passed: list = []
        parts = []
        try:
            while True:
                parts.append(self._take(size))
                size -= len(parts[-1])
                if not size or not await self._more(passed):
                    break
        except BaseException:
            self._untake(passed, parts)
            raise
        parts.append(self._take(size))
        return "".join(parts)

    def _line_end(self, before: str) -> int:
        """Where the line in _chars ends, from _used on, or -1; before: what precedes _chars."""
        chars, start = self._chars, self._used
        if self._newline is None or self._newline == "\n":
            return chars.find("\n", start) + 1 or -1
        if self._newline == "\r\n" and before.endswith("\r") and chars.startswith("\n", start):
            return start + 1
        if self._newline != "":
            at = chars.find(self._newline, start)
            return -1 if at < 0 else at + len(self._newline)
        feed = chars.find("\n", start)
        back = chars.find("\r", start, feed if feed >= 0 else len(chars))
        if back < 0:
            return feed + 1 or -1
        # The decoder never ends a chunk between the two.
        return back + 2 if feed == back + 1 else back + 1

    async def _readline(self, limit: int) -> str:
        await self._buffer._write_pending()
        passed: list = []
        parts: list[str] = [""]
        more = True
        try:
            while True:
                end = self._line_end(parts[-1])
                size = (end if end >= 0 else len(self._chars)) - self._used
                if 0 <= limit <= size:
                    size, end = limit, 0
                parts.append(self._take(size))
                limit -= size if limit > 0 else 0
                if end >= 0 or not more:
                    return parts[1] if len(parts) == 2 else "".join(parts)
                more = await self._more(passed)
        except BaseException:
            self._untake(passed, parts[1:])
            raise

    def _snapshot(self, used: int) -> tuple[int, int, int, int]:
        """How to come back to a place in _chars: bytes to skip from where its chunk began, the
        decoder's flags there, bytes to decode from there, and characters to skip of these."""
        assert self._before is not None
        flags, _, data = self._before
        saved = self._decoder.getstate()
        try:
            guess = len(self._chars[:used].encode(self.encoding, "surrogatepass"))
        except (UnicodeError, LookupError):
            guess = -1
        try:
            if 0 <= guess <= len(data):
                self._decoder.setstate((b"", flags))
                if len(self._decoder.decode(data[:guess])) == used:
                    rest, after = self._decoder.getstate()
                    if not rest:
                        return guess, after, 0, 0
            low, high = 0, len(data)
            while low < high:
                middle = (low + high) // 2
                self._decoder.setstate((b"", flags))
                if len(self._decoder.decode(data[:middle])) < used:
                    low = middle + 1
                else:
                    high = middle
            self._decoder.setstate((b"", flags))
            count = len(self._decoder.decode(data[:low]))
            rest, after = self._decoder.getstate()
            if count == used and not rest:
                return low, after, 0, 0
            return 0, flags, low, used
        finally:
            self._decoder.setstate(saved)

    def _tell(self) -> int:
        position = self._buffer._tell()
        if self._before is None or self._decoder is None:
            return position
        flags, _, data = self._before
        position -= len(data)
        skip, flags, feed, chars = self._snapshot(self._used)
        return position + skip | flags << 64 | feed << 128 | chars << 192

    async def _seek_to(self, cookie: int) -> int:
        mask = (1 << 64) - 1
        position, flags, feed, chars = (cookie >> shift & mask for shift in (0, 64, 128, 192))
        await self._buffer._flush()
        await self._buffer._seek(position, os.SEEK_SET)
        self._forget()
        if cookie == 0:
            if self._decoder is not None:
                self._decoder.reset()
        elif self._decoder is not None or flags or chars:
            if self._decoder is None:
                self._decoder = self._make_decoder()
            self._decoder.setstate((b"", flags))
        if chars:
            self._decode(await self._buffer._read(feed) if feed else b"", False)
            if chars > len(self._chars):
                # The end of the file gave the last ones.
                first, before = self._chars, self._before
                self._decode(b"", True)
                self._chars, self._before = first + self._chars, before
            if chars > len(self._chars):
                raise OSError("can't restore logical file position")
            self._used = chars
        if self._buffer._writable:
            self._reset_encoder(position)
        return cookie

    def _reset_encoder(self, position: int) -> None:
        if position:
            self._make_encoder().setstate(0)
        elif self._encoder is not None:
            self._encoder.reset()

    async def _seek(self, cookie: int, whence: int) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("underlying stream is not seekable")
        if whence == os.SEEK_CUR:
            if cookie != 0:
                raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
            cookie = self._tell()
        elif whence == os.SEEK_END:
            if cookie != 0:
                raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
            await self._buffer._flush()
            position = await self._buffer._seek(0, os.SEEK_END)
            self._forget()
            if self._decoder is not None:
                self._decoder.reset()
            if self._buffer._writable:
                self._reset_encoder(position)
            return position
        elif whence != os.SEEK_SET:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie!r}")
        return await self._seek_to(cookie)

    # ---- reading

    async def read(self, size: int | None = -1, /) -> str:
        """Read so many characters, fewer only at the end; without a size, all that is left."""
        self._need_readable()
        await self._enter()
        try:
            return await self._read(-1 if size is None else size)
        finally:
            self._turns.give()

    async def readline(self, size: int | None = -1, /) -> str:
        """Read a line, or so many characters of it."""
        self._need_readable()
        await self._enter()
        try:
            return await self._readline(-1 if size is None else size)
        finally:
            self._turns.give()

    async def __anext__(self) -> str:
        if self._newline is None and not self._turns.taken:
            end = self._chars.find("\n", self._used) + 1
            if end:
                self._check_open()
                at, self._used = self._used, end
                return self._chars[at:end]
        return await super().__anext__()

    # ---- writing

    def _encode(self, text: str) -> bytes:
        if self._write_newline and "\n" in text:
            text = text.replace("\n", self._write_newline)
        return self._make_encoder().encode(text)

    async def write(self, text: str, /) -> int:
        """Write a text, by way of the buffer; the number of its characters."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._buffer._writable:
            self._check_open()
            raise io.UnsupportedOperation("not writable")
        await self._enter()
        try:
            if self._before is not None or self._chars:
                self._forget()
                if self._decoder is not None:
                    self._decoder.reset()
            encoder = self._make_encoder()
            state = encoder.getstate()
            data = self._encode(text)
            try:
                await self._buffer._write(data, len(data))
            except BaseException:
                encoder.setstate(state)
                raise
            if self.line_buffering and ("\n" in text or "\r" in text):
                await self._buffer._flush()
        finally:
            self._turns.give()
        return len(text)

    async def writelines(self, lines: Iterable[str], /) -> None:
        """Write the lines in one go; no line ends are added."""
        await self.write("".join(lines))

    async def flush(self) -> None:
        """Hand to the kernel what waits in the buffer."""
        await self._enter()
        try:
            await self._buffer._write_pending()
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
            await self._buffer._write_pending()
            await self._loop._file_sync(self._buffer._fd, data_only)
        finally:
            self._turns.give()

    async def truncate(self, size: int | None = None, /) -> int:
        """Make the file so many bytes long, or end it where the buffer stands; its new size."""
        return await self._buffer.truncate(size)

    # ---- the rest

    async def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position that tell() gave, to the start (0) or to the end (0, os.SEEK_END)."""
        await self._enter()
        try:
            return await self._seek(cookie, whence)
        finally:
            self._turns.give()

    async def tell(self) -> int:
        """The position, a number for seek() alone."""
        await self._enter()
        try:
            if not self.seekable():
                raise io.UnsupportedOperation("underlying stream is not seekable")
            await self._buffer._write_pending()
            return self._tell()
        finally:
            self._turns.give()

    async def stat(self) -> os.stat_result:
        """What os.stat() tells of the file; what waits in the buffer is not counted."""
        return await self._buffer.stat()

    async def close(self) -> None:
        """Write what waits, and close. A failure to write is raised after the close."""
        await self._buffer.close()

    async def detach(self) -> BinaryFile:
        """Write what waits, and give the binary file below; this one is not to be used again."""
        await self._enter()
        try:
            await self._buffer._write_pending()
            buffer = self._buffer
            self._buffer = _DETACHED
            return buffer
        finally:
            self._turns.give()


class _Detached:
    """What a detached text file has below it: every use fails, as in io."""

    closed = False
    name = None

    def __getattr__(self, name: str) -> Any:
        raise ValueError("underlying buffer has been detached")


_DETACHED: Any = _Detached()
