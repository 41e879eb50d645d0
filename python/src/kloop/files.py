# SPDX-License-Identifier: MulanPSL-2.0
"""What os and pathlib do with files, on the ring of the running kloop.Loop.

    await kloop.files.write_bytes(path, data)
    status = await kloop.files.stat(path)

Paths are as everywhere: str, bytes or os.PathLike; errors are those of os. The
kernel has no operation of the ring for reading directories: listdir() is a
plain call, which blocks the loop for as long as the disk takes.
"""

from __future__ import annotations

import os
import stat as _stat
from typing import TYPE_CHECKING

from ._file_base import stat_result
from ._files import open, running_loop

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

    _Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = [
    "exists", "isdir", "isfile", "listdir", "lstat", "makedirs", "mkdir", "open", "read_bytes",
    "read_text", "remove", "rename", "replace", "rmdir", "stat", "truncate", "unlink",
    "write_bytes", "write_text",
]

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_REMOVEDIR = 0x200


async def stat(path: _Path | int, *, follow_symlinks: bool = True) -> os.stat_result:
    """As os.stat(): of a path, or of a descriptor."""
    flags = 0 if follow_symlinks else _AT_SYMLINK_NOFOLLOW
    return stat_result(await running_loop()._file_stat(_fspath(path), flags))


async def lstat(path: _Path) -> os.stat_result:
    """As os.lstat(): of a symbolic link itself."""
    return await stat(path, follow_symlinks=False)


async def exists(path: _Path | int) -> bool:
    """As os.path.exists()."""
    try:
        await stat(path)
    except (OSError, ValueError):
        return False
    return True


async def isfile(path: _Path | int) -> bool:
    """As os.path.isfile()."""
    try:
        return _stat.S_ISREG((await stat(path)).st_mode)
    except (OSError, ValueError):
        return False


async def isdir(path: _Path | int) -> bool:
    """As os.path.isdir()."""
    try:
        return _stat.S_ISDIR((await stat(path)).st_mode)
    except (OSError, ValueError):
        return False


async def rename(src: _Path, dst: _Path) -> None:
    """As os.rename(): what dst names is replaced."""
    await running_loop()._file_rename(os.fspath(src), os.fspath(dst), 0)


async def replace(src: _Path, dst: _Path) -> None:
    """As os.replace(), which is rename()."""
    await rename(src, dst)


async def unlink(path: _Path) -> None:
    """As os.unlink()."""
    await running_loop()._file_unlink(os.fspath(path), 0)


async def remove(path: _Path) -> None:
    """As os.remove(), which is unlink()."""
    await unlink(path)


async def mkdir(path: _Path, mode: int = 0o777) -> None:
    """As os.mkdir(); a plain call before Linux 5.15."""
    await running_loop()._file_mkdir(os.fspath(path), mode)


async def makedirs(path: _Path, mode: int = 0o777, exist_ok: bool = False) -> None:
    """As os.makedirs(): with the folders above."""
    head, tail = os.path.split(os.fspath(path))
    if not tail:
        head, tail = os.path.split(head)
    if head and tail and not await exists(head):
        await makedirs(head, exist_ok=True)
        if tail in (os.curdir, b"."):
            return
    try:
        await mkdir(path, mode)
    except OSError:
        if not exist_ok or not await isdir(path):
            raise


async def rmdir(path: _Path) -> None:
    """As os.rmdir()."""
    await running_loop()._file_unlink(os.fspath(path), _AT_REMOVEDIR)


async def truncate(path: _Path | int, length: int) -> None:
    """As os.truncate(); the last step is a plain call before Linux 6.9."""
    loop = running_loop()
    if isinstance(path, int):
        await loop._file_truncate(path, length)
        return
    fd = await loop._file_open(os.fspath(path), os.O_WRONLY, 0)
    try:
        await loop._file_truncate(fd, length)
    finally:
        await loop._file_close(fd)


async def listdir(path: _Path | int = ".") -> list:
    """As os.listdir(): a plain call, the ring has none."""
    running_loop()
    return os.listdir(path)


async def read_bytes(path: _Path) -> bytes:
    """All of a file."""
    async with open(path, "rb", 0) as file:
        return await file.read()


async def read_text(path: _Path, encoding: str | None = None, errors: str | None = None) -> str:
    """All of a file, decoded, with universal line ends."""
    async with open(path, "r", -1, encoding, errors) as file:
        return await file.read()


async def write_bytes(path: _Path, data: Buffer) -> int:
    """Make a file of data, or replace what is in it; the number of bytes."""
    async with open(path, "wb", 0) as file:
        return await file.write(data)


async def write_text(path: _Path, text: str, encoding: str | None = None,
                     errors: str | None = None, newline: str | None = None) -> int:
    """Make a file of a text, or replace what is in it; the number of characters."""
    async with open(path, "w", -1, encoding, errors, newline) as file:
        return await file.write(text)


def _fspath(path: _Path | int) -> str | bytes | int:
    return path if isinstance(path, int) else os.fspath(path)
