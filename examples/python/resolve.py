#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Look up names on kLoop: resolve.py [--server ADDRESS:PORT] [--type TYPE] NAME...

All names at the same time, without threads. With --type, records of that type
are asked for; without, addresses are looked up as any program would. The exit
status is 1 if one was not found.
"""
import argparse
import asyncio
import socket
import sys

import kloop


async def addresses(loop, name):
    found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [address[0] for _, _, _, _, address in found]


async def records(loop, name, kind):
    answer = await loop.resolver.query(name, kind)
    return [record.text for record in answer.of_type(kind)]


async def main(names, kind):
    loop = asyncio.get_running_loop()
    results = await asyncio.gather(
        *(records(loop, name, kind) if kind else addresses(loop, name) for name in names),
        return_exceptions=True)
    for name, result in zip(names, results):
        print(name, *([result] if isinstance(result, Exception) else result))
    return not any(isinstance(result, Exception) for result in results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="look up names")
    parser.add_argument("--server", action="append", default=[], help="in place of resolv.conf's")
    parser.add_argument("--type", help="of records, such as MX")
    parser.add_argument("names", nargs="*", metavar="NAME", default=["localhost"])
    args = parser.parse_args()
    sys.exit(0 if kloop.run(main(args.names, args.type), dns={"servers": args.server}) else 1)
