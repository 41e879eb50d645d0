# SPDX-License-Identifier: MulanPSL-2.0
"""kloop.open() beside the built-in: random calls on both, with the same results and contents.

A failure names the seed: KLOOP_FILES_SEED=N repeats it, KLOOP_FILES_ROUNDS=N runs more.
"""

import inspect
import io
import os
import random

import pytest

import kloop

SEED = int(os.environ.get("KLOOP_FILES_SEED", "0"))
ROUNDS = int(os.environ.get("KLOOP_FILES_ROUNDS", "200"))
SIZES = (0, 1, 2, 5, 17, 100, 1000, 5000)
BINARY_MODES = ("rb", "wb", "ab", "xb", "rb+", "wb+", "ab+", "xb+")
TEXT_MODES = ("r", "w", "a", "r+", "w+", "a+", "x")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32", "shift_jis")
NEWLINES = (None, "", "\n", "\r", "\r\n")


async def outcome(call):
    """The value or the exception of a call, which may have to be awaited."""
    try:
        value = call()
        if inspect.isawaitable(value):
            value = await value
    except (OSError, ValueError, TypeError, UnicodeError, io.UnsupportedOperation) as error:
        return type(error)
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


class Pair:
    """A file of the built-in and one of kloop, of equal contents."""

    def __init__(self, folder, content):
        self.paths = [folder / "builtin", folder / "kloop"]
        for path in self.paths:
            if content is not None:
                path.write_bytes(content)
        self.files = []
        self.log = []

    async def open(self, *args, **options):
        self.mode = args[0]
        self.files = [open(self.paths[0], *args, **options),
                      await kloop.open(self.paths[1], *args, **options)]

    async def both(self, name, *args, wanted=True):
        results = [await outcome(lambda file=file: getattr(file, name)(*args))
                   for file in self.files]
        self.log.append((name, args, results))
        if wanted:
            assert results[0] == results[1], (name, args)
        return results

    def compare(self):
        assert self.paths[0].read_bytes() == self.paths[1].read_bytes()


async def binary_step(pair, choose):
    name = choose.choice([
        "read", "read", "read", "readline", "readinto", "write", "write", "write", "seek", "seek",
        "tell", "flush", "truncate", "readlines", "writelines", "peek", "readable", "read_all"])
    size = choose.choice(SIZES)
    if name == "read":
        await pair.both(name, size)
    elif name == "readline":
        # The built-in's writers say something about readline(0) as well.
        await pair.both(name, choose.choice([size or 1, -1, -1]))
    elif name == "read_all":
        await pair.both("read")
    elif name == "readinto":
        buffers = [bytearray(size), bytearray(size)]
        counts = [await outcome(lambda file=file, buffer=buffer: file.readinto(buffer))
                  for file, buffer in zip(pair.files, buffers)]
        pair.log.append((name, size, counts))
        assert counts[0] == counts[1] and buffers[0] == buffers[1]
    elif name == "write":
        await pair.both(name, choose.randbytes(size).replace(b"\x07", b"\n"))
        if "a" in pair.mode:
            # Until then the position depends on the buffer's size.
            await pair.both("flush")
    elif name == "writelines":
        await pair.both(name, [choose.randbytes(3) for _ in range(1 + size % 7)])
        if "a" in pair.mode:
            await pair.both("flush")
    elif name == "seek":
        whence = choose.choice((os.SEEK_SET, os.SEEK_SET, os.SEEK_CUR, os.SEEK_END))
        offset = choose.randrange(6000) if whence == os.SEEK_SET else -choose.randrange(300)
        await pair.both(name, offset, whence)
    elif name == "truncate":
        await pair.both(name, choose.choice((None, size, 3 * size)))
    elif name == "readlines":
        await pair.both(name, choose.choice((-1, 50, None)))
    elif name == "peek" and hasattr(pair.files[0], "peek"):
        ours = await outcome(pair.files[1].peek)
        theirs = await outcome(lambda: pair.files[0].peek())
        pair.log.append((name, ours, theirs))
        if isinstance(ours, bytes) and isinstance(theirs, bytes):
            # How much is there depends on the buffer's size.
            assert ours.startswith(theirs) or theirs.startswith(ours)
            assert bool(ours) == bool(theirs)
    elif name != "peek":
        await pair.both(name)


async def binary_round(folder, choose, pairs):
    content = b"".join(choose.randbytes(choose.randrange(1, 90)) + b"\n"
                       for _ in range(choose.randrange(120)))
    mode = choose.choice(BINARY_MODES)
    pair = Pair(folder, None if "x" in mode else content)
    pairs.append(pair)
    await pair.open(mode, buffering=choose.choice((-1, -1, 64, 300, 0)))
    pair.log.append((mode, len(content)))
    for _ in range(choose.randrange(60)):
        await binary_step(pair, choose)
    await pair.both("tell")
    await pair.both("close")
    await pair.both("read")
    pair.compare()


def check(round_of, folder, loop_options=None):
    async def main():
        for number in range(ROUNDS):
            seed = SEED + number
            pairs = []
            here = folder / str(seed)
            here.mkdir()
            try:
                await round_of(here, random.Random(seed), pairs)
            except BaseException:
                print(f"KLOOP_FILES_SEED={seed} KLOOP_FILES_ROUNDS=1")
                for pair in pairs:
                    for line in pair.log[-6:]:
                        print(str(line)[:2000])
                raise

    kloop.run(main(), **(loop_options or {}))


@pytest.mark.parametrize("sqpoll", [False, True])
def test_binary(tmp_path, sqpoll):
    check(binary_round, tmp_path, {"sqpoll": sqpoll})


def random_text(choose, encoding):
    letters = "ab\n\n\r \r\n"
    if encoding.startswith("utf"):
        letters += "äß€😀"
    elif encoding == "latin-1":
        letters += "äß"
    elif encoding == "shift_jis":
        letters += "あ表"
    return "".join(choose.choice(letters) for _ in range(choose.choice(SIZES[:-1])))


async def text_step(pair, choose, encoding, marks):
    name = choose.choice(["read", "read", "readline", "readline", "tell", "tell", "seek", "seek",
                          "write", "write", "readlines", "flush", "end", "start", "iterate"])
    if name == "read":
        await pair.both(name, choose.choice((-1, None, 0, 1, 3, 50, 700)))
    elif name == "readline":
        await pair.both(name, choose.choice((-1, -1, -1, 0, 1, 4)))
    elif name == "tell":
        # The numbers mean something to the file alone that gave them.
        marks.append(await pair.both(name, wanted=False))
        if isinstance(marks[-1][0], type):
            assert marks[-1][0] == marks[-1][1]
            marks.pop()
    elif name == "seek" and marks:
        mark = choose.choice(marks)
        for file, position in zip(pair.files, mark):
            await outcome(lambda file=file, position=position: file.seek(position))
        pair.log.append((name, mark))
    elif name in ("end", "start"):
        await pair.both("seek", 0, os.SEEK_END if name == "end" else os.SEEK_SET)
    elif name == "write":
        # Where a write after a read goes depends on what was read ahead.
        await pair.both("seek", 0, os.SEEK_END)
        await pair.both(name, random_text(choose, encoding))
        marks.clear()
    elif name == "readlines" and pair.files[0].readable():
        # Where it cannot, the built-in has disabled tell() already.
        await pair.both(name)
    elif name == "flush":
        await pair.both(name)
    elif name == "iterate" and pair.files[0].readable():
        theirs = await outcome(lambda: next(pair.files[0], None))
        ours = await outcome(lambda: anext(pair.files[1], None))
        pair.log.append((name, theirs, ours))
        assert ours == theirs
        # The built-in forbids tell() until it is moved.
        await pair.both("seek", 0, os.SEEK_SET)


async def text_round(folder, choose, pairs):
    encoding = choose.choice(ENCODINGS)
    newline = choose.choice(NEWLINES)
    mode = choose.choice(TEXT_MODES)
    content = random_text(choose, encoding).encode(encoding)
    errors = "strict"
    if encoding != "shift_jis" and choose.random() < 0.2:
        # What cannot be decoded; with "strict", ours gives out what came before it and the
        # built-in has lost that.
        content += choose.randbytes(5)
        errors = "replace"
    pair = Pair(folder, None if "x" in mode else content)
    pairs.append(pair)
    pair.log.append((mode, encoding, newline, errors, content))
    await pair.open(mode, encoding=encoding, newline=newline, errors=errors)
    marks = []
    for _ in range(choose.randrange(40)):
        await text_step(pair, choose, encoding, marks)
    await pair.both("close")
    pair.compare()


def test_text(tmp_path):
    check(text_round, tmp_path)
