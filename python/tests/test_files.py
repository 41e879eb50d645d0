# SPDX-License-Identifier: MulanPSL-2.0
"""kloop.open() and kloop.files: what is asynchronous about them, their errors and their ends."""

import asyncio
import errno
import gc
import io
import os
import signal
import subprocess
import sys

import pytest

import kloop
from file_tools import LONG
from transport_tools import descriptors


# ---- shape


def test_forms(run, path):
    async def main():
        path.write_text("a\nb\n")
        file = await kloop.open(path)
        assert isinstance(file, kloop.TextFile) and file.name == str(path) and file.mode == "r"
        assert (file.encoding.lower(), file.errors, file.newlines) == ("utf-8", "strict", None)
        assert await file.read() == "a\nb\n" and file.newlines == "\n"
        assert not file.closed
        await file.close()
        await file.close()
        assert file.closed
        async with kloop.open(path, "rb") as file:
            assert isinstance(file, kloop.BinaryFile) and file.mode == "rb"
            assert [line async for line in file] == [b"a\n", b"b\n"]
            assert file.readable() and not file.writable() and file.seekable()
            assert not file.isatty() and os.fstat(file.fileno())
        assert file.closed
        async with await kloop.open(path) as file:
            assert await file.readlines() == ["a\n", "b\n"]
        task = asyncio.create_task(kloop.open(path))
        await (await task).close()
        await (await asyncio.wait_for(kloop.open(path), LONG)).close()
        assert "closed" in repr(file) and "TextFile" in repr(file)

    run(main())


def test_stat_sync_and_truncate(run, path):
    async def main():
        async with kloop.open(path, "w+b") as file:
            await file.write(b"0123456789")
            assert (await file.stat()).st_size == 0
            await file.fsync()
            assert await file.stat() == os.stat(path)
            assert (await file.stat()).st_mtime_ns == os.stat(path).st_mtime_ns
            assert await file.truncate(4) == 4
            assert await file.tell() == 10
            await file.fdatasync()
            assert path.read_bytes() == b"0123"
            await file.allocate(0, 8192)
            assert (await file.stat()).st_size == 8192
            with pytest.raises(OSError) as error:
                await file.truncate(-1)
            assert error.value.errno == errno.EINVAL

    run(main())


def test_position_is_the_kernels(run, path):
    """Children and other users of the descriptor go on where the file is."""

    async def main():
        async with kloop.open(path, "wb") as file:
            await file.write(b"one\n")
            await file.flush()
            subprocess.run(["echo", "two"], stdout=file.fileno(), check=True)
            await file.write(b"three\n")
        assert path.read_bytes() == b"one\ntwo\nthree\n"
        fd = os.open(path, os.O_RDONLY)
        async with kloop.open(fd, "rb", closefd=False) as file:
            assert await file.readline() == b"one\n"
        assert os.read(fd, 3) == b"two"
        os.close(fd)

    run(main())


def test_detach(run, path):
    async def main():
        file = await kloop.open(path, "w")
        await file.write("text")
        binary = await file.detach()
        with pytest.raises(ValueError, match="detached"):
            await file.write("more")
        raw = await binary.detach()
        assert binary.closed and path.read_bytes() == b"text"
        await raw.write(b"!")
        assert path.read_bytes() == b"text!"
        await raw.close()
        assert raw.closed

    run(main())


def test_opener_and_descriptors(run, path):
    async def main():
        seen = []

        def opener(name, flags):
            seen.append((name, flags))
            return os.open(name, flags, 0o600)

        async with kloop.open(path, "w", opener=opener) as file:
            await file.write("x")
        assert seen == [(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)]
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(ValueError, match="opener returned -1"):
            await kloop.open(path, opener=lambda name, flags: -1)
        async with kloop.open(os.open(path, os.O_RDONLY)) as file:
            assert await file.read() == "x" and isinstance(file.name, int)

    run(main())


# ---- errors


OPEN_ERRORS = [
    ("missing", {}), ("missing", {"mode": "r+b"}), ("folder", {}), ("folder", {"mode": "w"}),
    ("there", {"mode": "x"}), ("there/below", {}), ("a\0b", {}),
    ("there", {"mode": "q"}), ("there", {"mode": "rw"}), ("there", {"mode": "rbt"}),
    ("there", {"mode": ""}), ("there", {"mode": "+"}), ("there", {"mode": "rr"}),
    ("there", {"mode": 5}), ("there", {"buffering": "a"}),
    ("there", {"buffering": 0}), ("there", {"mode": "rb", "encoding": "utf-8"}),
    ("there", {"mode": "rb", "errors": "strict"}), ("there", {"mode": "rb", "newline": ""}),
    ("there", {"newline": "x"}), ("there", {"encoding": "nonesuch"}),
    ("there", {"encoding": "hex"}), ("there", {"encoding": 5}), ("there", {"newline": 5}),
    ("there", {"closefd": False}), (-1, {}), (None, {}), (1.5, {}),
]


@pytest.mark.parametrize("name, options", OPEN_ERRORS, ids=str)
def test_open_fails_as_the_builtin(run, tmp_path, name, options):
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").write_text("")
    path = tmp_path / name if isinstance(name, str) else name
    with pytest.raises(Exception) as expected:
        open(path, **options)
    before = descriptors()

    async def main():
        with pytest.raises(type(expected.value)) as error:
            await kloop.open(path, **options)
        # Wordings differ among the built-in's own versions where no errno gives them.
        if isinstance(expected.value, OSError):
            assert str(error.value) == str(expected.value)
            assert error.value.filename == expected.value.filename
        elif not isinstance(expected.value, TypeError) and name != -1:
            assert str(error.value) == str(expected.value)

    run(main())
    assert descriptors() == before


def test_wrong_direction_and_closed(run, path):
    async def main():
        path.write_bytes(b"abc")
        for mode, call, words in [
                ("rb", lambda f: f.write(b""), "write"), ("wb", lambda f: f.read(1), "read"),
                ("r", lambda f: f.write(""), "not writable"),
                ("w", lambda f: f.read(1), "not readable"),
                ("w", lambda f: f.readline(), "not readable")]:
            async with kloop.open(path, mode) as file:
                with pytest.raises(io.UnsupportedOperation, match=words):
                    await call(file)
        async with kloop.open(path, "r+") as file:
            with pytest.raises(TypeError, match="must be str, not bytes"):
                await file.write(b"x")
        async with kloop.open(path, "wb") as file:
            with pytest.raises(TypeError, match="bytes-like"):
                await file.write("x")
        async with kloop.open(path, "rb+") as file:
            pass
        for call in (file.read, file.readline, file.tell, file.flush, file.stat, file.truncate,
                     lambda: file.write(b"x"), lambda: file.seek(0), file.fsync):
            with pytest.raises(ValueError, match="closed file"):
                await call()
        for call in (file.fileno, file.isatty, file.readable):
            with pytest.raises(ValueError, match="closed file"):
                call()

    run(main())


def test_needs_a_loop_of_kloop(path):
    async def main():
        with pytest.raises(RuntimeError, match=r"kloop\.Loop"):
            await kloop.open(path)

    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(main())
    loop.close()


def test_never_awaited(path):
    with pytest.warns(RuntimeWarning, match="never awaited"):
        kloop.open(path)


def test_unclosed_file_warns_and_keeps_what_was_written(path):
    async def main():
        file = await kloop.open(path, "w")
        await file.write("kept")

    gc.collect()  # what other tests left
    before = descriptors()
    with pytest.warns(ResourceWarning, match="unclosed file"):
        kloop.run(main())
        gc.collect()
    assert path.read_text() == "kept"
    assert descriptors() == before


# A process of its own: the limit, and the signal that tells of it.
TOO_LARGE = """
import asyncio, errno, os, resource, signal, sys
import kloop

async def main():
    # A slow machine is no fault, and -X dev tells of it.
    asyncio.get_running_loop().slow_callback_duration = 60
    file = await kloop.open(sys.argv[1], "wb")
    data = os.urandom(300_000)
    count = 0
    try:
        for count in range(0, len(data), 1000):
            await file.write(data[count:count + 1000])
        await file.flush()
    except OSError as error:
        assert error.errno == errno.EFBIG, error
    else:
        raise SystemExit("no error")
    assert os.path.getsize(sys.argv[1]) == 200_000
    # What was accepted waits; with room for it, it is written, and nothing twice.
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    await file.flush()
    accepted = os.path.getsize(sys.argv[1])
    assert accepted >= 200_000 and accepted % 1000 == 0, accepted
    with open(sys.argv[1], "rb") as written:
        assert written.read() == data[:accepted]
    resource.setrlimit(resource.RLIMIT_FSIZE, (accepted, resource.RLIM_INFINITY))
    await file.write(b"more")
    try:
        await file.close()
    except OSError as error:
        assert error.errno == errno.EFBIG, error
    else:
        raise SystemExit("no error at the close")
    assert file.closed

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
kloop.run(main(), sqpoll=len(sys.argv) > 2)
"""


@pytest.mark.parametrize("sqpoll", [False, True])
def test_a_file_that_must_not_grow(path, sqpoll):
    arguments = [sys.executable, "-X", "dev", "-c", TOO_LARGE, path, *["sqpoll"] * sqpoll]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=2 * LONG)
    assert (result.returncode, result.stderr) == (0, "")


FULL_DISK = """
import asyncio, errno, os, sys
import kloop

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60
    name = sys.argv[1] + "/file"
    file = await kloop.open(name, "w")
    try:
        for number in range(200):
            await file.write("x" * 9999 + "\\n")
        await file.flush()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise SystemExit("no error")
    size = os.path.getsize(name)
    assert 0 < size <= 1 << 20, size
    await kloop.files.truncate(name, 0)
    await file.seek(0)
    await file.write("again")
    await file.close()
    text = await kloop.files.read_text(name)
    assert text.startswith("again"), text[:20]
    try:
        await kloop.files.write_bytes(sys.argv[1] + "/other", bytes(2 << 20))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise SystemExit("no error")
    await kloop.files.unlink(sys.argv[1] + "/other")
    await nothing_is_lost(sys.argv[1] + "/third", name)

async def nothing_is_lost(name, other):
    # Each byte is in the file and in a count that is told, or waits.
    data = os.urandom(2 << 20)
    written = 0
    file = await kloop.open(name, "wb", buffering=0)
    try:
        while True:
            written += await file.write(data[written:written + 70_001])
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        assert error.characters_written < 70_001
        written += error.characters_written
    await file.close()
    with open(name, "rb") as found:
        assert found.read() == data[:written] and 0 < written < len(data)
    # A buffer takes it, and the close tells that it went nowhere; then the same with room.
    file = await kloop.open(name, "ab")
    assert await file.write(b"a few bytes") == 11
    for call in file.flush, file.flush, file.close:
        try:
            await call()
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        else:
            raise SystemExit(f"no error in {call}")
    assert file.closed
    assert os.path.getsize(name) == written
    file = await kloop.open(name, "ab")
    await file.write(b"a few bytes")
    try:
        await file.flush()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    await kloop.files.unlink(other)
    os.truncate(name, 100)
    await file.flush()
    await file.fsync()
    await file.close()
    with open(name, "rb") as found:
        assert found.read() == data[:100] + b"a few bytes"

kloop.run(main(), sqpoll=len(sys.argv) > 2)
"""


@pytest.mark.parametrize("sqpoll", [False, True])
def test_full_disk(tmp_path, sqpoll):
    command = "mount -t tmpfs -o size=1M none \"$1\" && shift && exec \"$@\""
    permitted = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    rights = [] if permitted else ["--map-root-user"]
    # Who builds a package in a chroot, and is not root there, may do neither.
    if not permitted and subprocess.run(["unshare", "--map-root-user", "true"],
                                        capture_output=True).returncode != 0:
        pytest.skip("neither root nor a user namespace: no mount can be made here")
    unshare = ["unshare", "--mount", *rights, "sh", "-c", command, "sh", tmp_path]
    result = subprocess.run([*unshare, sys.executable, "-X", "dev", "-c", FULL_DISK, tmp_path,
                             *["sqpoll"] * sqpoll],
                            capture_output=True, text=True, timeout=2 * LONG)
    assert (result.returncode, result.stderr) == (0, "")


# ---- kloop.files


def test_names(run, tmp_path):
    async def main():
        files = kloop.files
        folder = tmp_path / "a" / "b" / "c"
        await files.makedirs(folder)
        await files.makedirs(folder, exist_ok=True)
        with pytest.raises(FileExistsError) as error:
            await files.makedirs(folder)
        assert error.value.filename == str(folder)
        one, two = folder / "one", folder / "two"
        assert await files.write_text(one, "äöü\n", encoding="utf-8") == 4
        assert await files.read_bytes(one) == "äöü\n".encode()
        assert await files.read_text(one, "utf-8") == "äöü\n"
        await files.rename(one, two)
        assert not await files.exists(one) and await files.exists(os.fsencode(two))
        assert await files.isfile(two) and await files.isdir(folder)
        assert not await files.isdir(two) and not await files.isfile(one)
        with pytest.raises(FileNotFoundError) as error:
            await files.rename(one, two)
        assert (error.value.filename, error.value.filename2) == (str(one), str(two))
        os.symlink("two", one)
        assert (await files.lstat(one)).st_ino == os.lstat(one).st_ino
        assert await files.stat(one) == os.stat(one)
        await files.truncate(two, 2)
        assert await files.read_bytes(two) == "ä".encode()
        assert sorted(await files.listdir(folder)) == ["one", "two"]
        with pytest.raises(OSError) as error:
            await files.rmdir(folder)
        assert error.value.errno == errno.ENOTEMPTY
        await files.unlink(one)
        await files.remove(two)
        await files.rmdir(folder)
        await files.replace(tmp_path / "a", tmp_path / "z")
        assert os.listdir(tmp_path) == ["z"]
        with pytest.raises(ValueError, match="null"):
            await files.stat("a\0b")

    run(main())


def test_the_mask_of_the_process_holds(run, path):
    async def main():
        former = os.umask(0o027)
        try:
            await kloop.files.write_bytes(path, b"")
            await kloop.files.mkdir(f"{path}.d")
        finally:
            os.umask(former)
        assert os.stat(path).st_mode & 0o777 == 0o640
        assert os.stat(f"{path}.d").st_mode & 0o777 == 0o750

    run(main())


def test_broken_pipe(run):
    async def main():
        reader, writer = os.pipe()
        os.close(reader)
        file = await kloop.open(writer, "wb")
        await file.write(b"x")
        with pytest.raises(BrokenPipeError):
            await file.close()
        assert file.closed

    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    run(main())
