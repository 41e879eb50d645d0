#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""aiohttp's client on kLoop: http_client.py [--trust FILE] URL... fetches all at once.

FILE holds certificates to trust instead of the system's. Prints status, size
and URL of each; the exit status is 1 if one failed.
"""
import argparse
import asyncio
import ssl
import sys

import aiohttp
import kloop


async def fetch(session, url):
    try:
        async with session.get(url) as response:
            return response.status, len(await response.read())
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
        return type(error).__name__, 0


async def main(urls, trust):
    timeout = aiohttp.ClientTimeout(total=10)
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=trust))
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        results = await asyncio.gather(*(fetch(session, url) for url in urls))
    for url, (status, size) in zip(urls, results):
        print(status, size, url)
    return all(status == 200 for status, size in results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="fetch by HTTP or HTTPS")
    parser.add_argument("--trust", help="a PEM file of certificates")
    parser.add_argument("urls", nargs="+", metavar="URL")
    args = parser.parse_args()
    sys.exit(0 if kloop.run(main(args.urls, args.trust)) else 1)
