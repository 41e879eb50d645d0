# SPDX-License-Identifier: MulanPSL-2.0
"""kloop.open() and kloop.files: what is asynchronous about them, their errors and their ends."""

import asyncio
import errno
import gc
import hashlib
import io
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import warnings

import pytest

import kloop

LONG = 30


@pytest.fixture(params=["plain", "sqpoll", "oldest"])
def run(request):
    """Run a coroutine on a loop of one kind; no thread may be there, nor anything left in flight."""
    options = {"plain": {}, "sqpoll": {"sqpoll": True}, "oldest": {"_without": 0xFFFF_FFFF}}

    def run(main):
        async def watched():
            threads = threading.active_count()
            try:
                return await asyncio.wait_for(main, 4 * LONG)
            finally:
                assert threading.active_count() == threads
                assert asyncio.get_running_loop().stats()["in_flight"] <= 1

        return kloop.run(watched(), **options[request.param])

    return run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def descriptors():
    return len(os.listdir("/proc/self/fd"))


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

kloop.run(main())
"""


def test_full_disk(tmp_path):
    command = "mount -t tmpfs -o size=1M none \"$1\" && shift && exec \"$@\""
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c", command, "sh", tmp_path]
    result = subprocess.run([*unshare, sys.executable, "-X", "dev", "-c", FULL_DISK, tmp_path],
                            capture_output=True, text=True, timeout=2 * LONG)
    assert (result.returncode, result.stderr) == (0, "")


# ---- order, cancellation


def test_concurrent_calls_take_turns(run, path):
    async def main():
        async with kloop.open(path, "w+b", 64) as file:
            await asyncio.gather(*(file.write(b"%05d\n" % n) for n in range(2000)))
            await file.seek(0)
            lines = await asyncio.gather(*(file.readline() for _ in range(2001)))
            assert lines == [b"%05d\n" % n for n in range(2000)] + [b""]
        async with kloop.open(path) as file:
            parts = await asyncio.gather(*(file.read(6) for _ in range(2000)))
            assert parts == ["%05d\n" % n for n in range(2000)]
        file = await kloop.open(path, "wb")
        results = await asyncio.gather(file.write(b"before"), file.fsync(), file.close(),
                                       file.write(b"after"), return_exceptions=True)
        assert results[0] == 6 and isinstance(results[3], ValueError)
        assert path.read_bytes() == b"before"

    run(main())


@pytest.mark.parametrize("nonblocking", [False, True])
@pytest.mark.parametrize("mode", ["rb", "r", "rb unbuffered"])
def test_cancelled_read_of_a_pipe(run, mode, nonblocking):
    """It ends at once, and loses nothing of what had come."""

    async def main():
        reader, writer = os.pipe()
        os.set_blocking(reader, not nonblocking)
        mode_, _, unbuffered = mode.partition(" ")
        file = await kloop.open(reader, mode_, 0 if unbuffered else -1)
        for number in range(20):
            if unbuffered:
                task = asyncio.create_task(file.readline())
            else:
                task = asyncio.create_task(file.read(10) if number % 2 else file.readline())
            await asyncio.sleep(0)
            os.write(writer, b"ab%d" % (number % 10))
            for _ in range(random.randrange(4)):
                await asyncio.sleep(0.001)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, LONG)
            wanted = b"ab%d" % (number % 10)
            got = await file.read(3)
            while len(got) < 3:
                got += await file.read(3 - len(got))
            assert (got if isinstance(got, bytes) else got.encode()) == wanted
        os.close(writer)
        assert not await file.read()
        await file.close()

    run(main())


def test_cancelled_open_of_a_fifo(run, tmp_path):
    async def main():
        name = tmp_path / "fifo"
        os.mkfifo(name)
        before = descriptors()
        task = asyncio.create_task(kloop.open(name, "rb"))
        await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, LONG)
        assert descriptors() == before
        # With a peer, both get there.
        reader, writer = await asyncio.gather(kloop.open(name, "rb"), kloop.open(name, "wb"))
        await writer.write(b"through")
        await writer.close()
        assert await reader.read() == b"through"
        await reader.close()

    run(main())


def test_cancelled_write_to_a_full_pipe(run):
    async def main():
        reader, writer = os.pipe()
        file = await kloop.open(writer, "wb")
        task = asyncio.create_task(file.write(bytes(1_000_000)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, LONG)
        await file.write(b"later")
        closing = asyncio.create_task(file.close())
        other = await kloop.open(reader, "rb")
        got = await other.read()
        await closing
        # A part of the large write, which was on its way, and all that was accepted after.
        assert got.endswith(b"later") and 5 < len(got) < 1_000_000
        await other.close()

    run(main())


def test_cancelled_calls_on_a_file(run, path):
    """At any moment: what was accepted is there, once, and in order."""

    async def main():
        choose = random.Random(1)
        file = await kloop.open(path, "w+b", 256)
        written = []
        accepted = []

        async def write(number):
            # The first byte differs from that of its neighbours.
            data = number.to_bytes(2, "little") * choose.randrange(1, 60)
            written.append(data)
            await file.write(data)
            accepted.append(data)

        for number in range(600):
            task = asyncio.create_task(write(number))
            for _ in range(choose.randrange(4)):
                await asyncio.sleep(0)
            if choose.random() < 0.5:
                task.cancel()
            await asyncio.wait([task])
        await file.seek(0)
        content = await file.read()
        await file.close()
        at = 0
        left = list(accepted)
        for data in written:
            # Whole, or as much as was written of one that was cancelled.
            length = len(os.path.commonprefix([data, content[at:at + len(data)]]))
            if left and data == left[0]:
                assert length == len(data)
                left.pop(0)
            at += length
        assert not left and at == len(content)

    run(main())


def test_cancelled_close_closes(run, path):
    async def main():
        before = descriptors()
        for turns in range(6):
            file = await kloop.open(path, "wb")
            await file.write(b"kept %d" % turns)
            task = asyncio.create_task(file.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if turns:
                assert file.closed
            await file.close()
            assert path.read_bytes() == b"kept %d" % turns
        assert descriptors() == before

    run(main())


def test_cancelled_while_it_waits_for_its_turn(run):
    async def main():
        reader, writer = os.pipe()
        file = await kloop.open(reader, "rb")
        tasks = [asyncio.create_task(file.read(3)) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        for task in tasks[1], tasks[3], tasks[4]:
            os.write(writer, b"abc")
            assert await asyncio.wait_for(task, LONG) == b"abc"
        assert tasks[2].cancelled()
        os.close(writer)
        await file.close()

    run(main())


def test_loop_that_ends_first(path):
    """Calls in flight when the loop is closed: no crash, no leak."""
    before = descriptors()
    for _ in range(3):
        loop = kloop.Loop()
        reader, writer = os.pipe()

        async def main(reader=reader):
            file = await kloop.open(reader, "rb")
            return file, asyncio.create_task(file.read(1))

        file, task = loop.run_until_complete(main())
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        task._log_destroy_pending = False
        os.close(writer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del file, task, main
            gc.collect()
    assert descriptors() == before


# ---- many


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
