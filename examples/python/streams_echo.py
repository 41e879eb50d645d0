#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""asyncio's streams on kLoop, unchanged: a server of lines and its clients.

It takes a free port, runs ten clients at the same time, and ends.
"""
import asyncio

import kloop

CLIENTS = 10
LINES = 100


async def answer_lines(reader, writer):
    try:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
    finally:
        writer.close()
        await writer.wait_closed()


async def client(number, port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for count in range(LINES):
        writer.write(b"client %d, line %d\n" % (number, count))
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.count(b"\n"), answer.splitlines()[-1]


async def main():
    server = await asyncio.start_server(answer_lines, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        results = await asyncio.wait_for(
            asyncio.gather(*(client(number, port) for number in range(CLIENTS))), 10)
    for lines, last in results:
        print(lines, "lines, the last:", last.decode())


if __name__ == "__main__":
    kloop.run(main())
