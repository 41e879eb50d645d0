#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""aiohttp's client on kLoop: http_client.py URL... fetches all at once.

Prints status, size and URL of each; the exit status is 1 if one failed.
"""
import asyncio
import sys

import aiohttp
import kloop


async def fetch(session, url):
    try:
        async with session.get(url) as response:
            return response.status, len(await response.read())
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        return type(error).__name__, 0


async def main(urls):
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        results = await asyncio.gather(*(fetch(session, url) for url in urls))
    for url, (status, size) in zip(urls, results):
        print(status, size, url)
    return all(status == 200 for status, size in results)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: http_client.py URL...")
    sys.exit(0 if kloop.run(main(sys.argv[1:])) else 1)
