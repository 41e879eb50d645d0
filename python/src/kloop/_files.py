# SPDX-License-Identifier: MulanPSL-2.0
"""kloop.open(): files whose every call goes through the ring, without threads.

What does not wait is called as it is: the size of an open file, its position.
A call that is cancelled asks the kernel to stop and ends when it has answered,
which a disk does soon and a pipe at once; CancelledError comes after. Until
then the buffers are the kernel's, and afterwards the file is as consistent as
before: data that had been read is there for the next read, data that had been
accepted is written by the next write, flush() or close().
"""

from __future__ import annotations

import asyncio
import codecs
import io
import locale
import os
import stat
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Literal, overload

from ._binary_file import BUFFER_BYTES, BinaryFile
from ._text_file import TextFile
from .loop import Loop

if TYPE_CHECKING:
    from typing import TypeAlias

    _Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def running_loop() -> Loop:
    """The loop that runs, which must be ours."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError(f"files need a running kloop.Loop, not {type(loop).__name__}")
    return loop


class _Mode:
    """What a mode means; ValueError with io.open()'s words if it means nothing."""

    def __init__(self, mode: str) -> None:
        kinds = set(mode)
        if kinds - set("axrwb+t") or len(mode) > len(kinds):
            raise ValueError(f"invalid mode: {mode!r}")
        self.text = "b" not in kinds
        if not self.text and "t" in kinds:
            raise ValueError("can't have text and binary mode at once")
        kind = kinds & set("axrw")
        if not kind:
            raise ValueError("Must have exactly one of create/read/write/append mode and at most "
                             "one plus")
        if len(kind) != 1:
            raise ValueError("must have exactly one of create/read/write/append mode")
        self.kind = kind.pop()
        both = "+" in kinds
        self.flags = os.O_CLOEXEC | (
            os.O_RDWR if both else os.O_RDONLY if self.kind == "r" else os.O_WRONLY)
        self.flags |= {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL,
                       "a": os.O_CREAT | os.O_APPEND}[self.kind]


def _check_text(mode: _Mode, encoding, errors, newline) -> None:
    if not mode.text:
        for name, value in ("encoding", encoding), ("errors", errors), ("newline", newline):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {'an' if name[0] == 'e' else 'a'} "
                                 f"{name} argument")
    for name, value in ("encoding", encoding), ("errors", errors), ("newline", newline):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"open() argument '{name}' must be str or None, "
                            f"not {type(value).__name__}")
    if newline not in (None, "", "\n", "\r", "\r\n"):
        raise ValueError(f"illegal newline value: {newline}")


def _text_encoding(encoding: str | None) -> str:
    encoding = io.text_encoding(encoding, 4)
    if encoding == "locale":
        encoding = locale.getpreferredencoding(False)
    if not codecs.lookup(encoding)._is_text_encoding:
        hint = "" if sys.version_info >= (3, 14) else "; use codecs.open() to handle arbitrary codecs"
        raise LookupError(f"{encoding!r} is not a text encoding{hint}")
    return encoding


class _Plan:
    """The arguments of open(), checked before anything is awaited."""

    def __init__(self, file, mode, buffering, encoding, errors, newline, closefd, opener) -> None:
        self.file = file if isinstance(file, int) else os.fspath(file)
        for name, value, kind in ("mode", mode, str), ("buffering", buffering, int):
            if not isinstance(value, kind):
                raise TypeError(f"open() argument '{name}' must be {kind.__name__}, "
                                f"not {type(value).__name__}")
        self.mode = mode
        self.parsed = parsed = _Mode(mode)
        _check_text(parsed, encoding, errors, newline)
        if buffering == 1 and not parsed.text:
            warnings.warn("line buffering (buffering=1) isn't supported in binary mode, the "
                          "default buffer size will be used", RuntimeWarning, stacklevel=4)
        if buffering == 0 and parsed.text:
            raise ValueError("can't have unbuffered text I/O")
        self.line_buffering = parsed.text and buffering == 1
        self.automatic = buffering < 0
        self.buffer_bytes = BUFFER_BYTES if buffering < 0 or buffering == 1 else buffering
        if isinstance(self.file, int) and self.file < 0:
            raise ValueError("negative file descriptor")
        if not closefd and not isinstance(self.file, int):
            raise ValueError("Cannot use closefd=False with file name")
        self.encoding = _text_encoding(encoding) if parsed.text else None
        self.errors = "strict" if errors is None else errors
        self.newline = newline
        self.closefd = bool(closefd)
        self.opener = opener

    async def open(self) -> BinaryFile | TextFile:
        loop = running_loop()
        fd = await self._descriptor(loop)
        try:
            return self._wrap(loop, fd)
        except BaseException:
            if self.closefd and fd != self.file:
                os.close(fd)
            raise

    async def _descriptor(self, loop: Loop) -> int:
        if isinstance(self.file, int):
            return self.file
        flags = self.parsed.flags
        sys.audit("open", self.file, self.mode, flags)
        if self.opener is None:
            return await loop._file_open(self.file, flags, 0o666)
        fd = self.opener(self.file, flags)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        os.set_inheritable(fd, False)
        return fd

    def _wrap(self, loop: Loop, fd: int) -> BinaryFile | TextFile:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(21, os.strerror(21), self.file)
        flags = self.parsed.flags
        if flags & os.O_APPEND:
            try:
                os.lseek(fd, 0, os.SEEK_END)
            except OSError:
                pass
        binary = BinaryFile(loop, fd, self.file, flags, self.buffer_bytes, self.closefd)
        try:
            if self.buffer_bytes and flags & os.O_RDWR and not binary.seekable():
                raise io.UnsupportedOperation("File or stream is not seekable.")
            if not self.parsed.text:
                return binary
            assert self.encoding is not None
            line_buffering = self.line_buffering or (self.automatic and binary.isatty())
            return TextFile(binary, self.mode, self.encoding, self.errors, self.newline,
                            line_buffering)
        except BaseException:
            binary._closed = True
            raise


class Opening(Coroutine):
    """What open() returns: `f = await ...` or `async with ... as f`."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._running: Coroutine | None = None
        self._file: BinaryFile | TextFile | None = None

    def __reduce__(self):
        """TypeError, as of any coroutine."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _start(self) -> Coroutine:
        if self._running is None:
            self._running = self._plan.open()
        return self._running

    def send(self, value: Any) -> Any:
        """Go on, as a coroutine."""
        return self._start().send(value)

    def throw(self, *args: Any) -> Any:
        """Go on with an exception, as a coroutine."""
        return self._start().throw(*args)

    def close(self) -> None:
        """End, as a coroutine."""
        if self._running is not None:
            self._running.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._start().__await__()

    def __del__(self) -> None:
        if self._running is None:
            warnings.warn(f"kloop.open({self._plan.file!r}) was never awaited", RuntimeWarning,
                          source=self, stacklevel=2)

    async def __aenter__(self) -> Any:
        self._file = await self._start()
        return self._file

    async def __aexit__(self, *exc: object) -> None:
        assert self._file is not None
        await self._file.close()


if TYPE_CHECKING:
    from typing import Generic, TypeVar

    _F = TypeVar("_F", BinaryFile, TextFile)

    class _Opening(Opening, Generic[_F]):
        def __await__(self) -> Generator[Any, Any, _F]: ...
        async def __aenter__(self) -> _F: ...

    _Opener = Callable[[str, int], int]


@overload
def open(file: _Path | int, mode: Literal[
             "rb", "wb", "ab", "xb", "rb+", "r+b", "wb+", "w+b", "ab+", "a+b", "xb+", "x+b"],
         buffering: int = -1, encoding: None = None, errors: None = None, newline: None = None,
         closefd: bool = True, opener: _Opener | None = None) -> _Opening[BinaryFile]: ...
@overload
def open(file: _Path | int, mode: str = "r", buffering: int = -1, encoding: str | None = None,
         errors: str | None = None, newline: str | None = None, closefd: bool = True,
         opener: _Opener | None = None) -> _Opening[TextFile]: ...
def open(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True,
         opener=None):
    """Open a file on the running kloop.Loop: the arguments, and the errors, of the built-in.

        async with kloop.open(path) as f:
            async for line in f:
                ...
        f = await kloop.open(path, "wb")

    Gives a TextFile or a BinaryFile, whose methods are those of io's files, to
    be awaited. Every call goes through the ring; no thread is involved. Calls
    on one file take turns. Buffers are of 128 KiB, unless buffering says.
    """
    return Opening(_Plan(file, mode, buffering, encoding, errors, newline, closefd, opener))
