#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Count the words of files, all at once, and write the result beside the first.

    python3 files.py FILE...
"""

import asyncio
import collections
import sys

import kloop


async def count(path: str) -> collections.Counter:
    words: collections.Counter = collections.Counter()
    async with kloop.open(path, encoding="utf-8", errors="replace") as file:
        async for line in file:
            words.update(line.split())
    return words


async def main(paths: list[str]) -> None:
    total: collections.Counter = collections.Counter()
    for words in await asyncio.gather(*(count(path) for path in paths)):
        total += words
    result = f"{paths[0]}.words"
    async with kloop.open(f"{result}.new", "w", encoding="utf-8") as file:
        for word, number in sorted(total.items()):
            await file.write(f"{number} {word}\n")
        await file.fsync()  # on the disk before it takes the old one's place
    await kloop.files.replace(f"{result}.new", result)
    print((await kloop.files.stat(result)).st_size, "bytes in", result)


if __name__ == "__main__":
    kloop.run(main(sys.argv[1:]))
