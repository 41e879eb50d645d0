#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""An echo server made of a Protocol: echo_server.py [PORT].

With a port it serves until SIGINT; without one it takes a free port, talks to
itself, and ends.
"""
import asyncio
import sys

import kloop


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    # A client that sends and does not read is slowed down.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


class Client(asyncio.Protocol):
    """Sends a text, and has its future done with the same number of bytes."""

    def __init__(self, text, answer):
        self.text = text
        self.answer = answer
        self.received = bytearray()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.text)

    def data_received(self, data):
        self.received += data
        if len(self.received) >= len(self.text):
            self.transport.close()

    def connection_lost(self, error):
        if error is None:
            self.answer.set_result(bytes(self.received))
        else:
            self.answer.set_exception(error)


async def talk(port):
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    await loop.create_connection(lambda: Client(b"hello, echo", answer), "127.0.0.1", port)
    print((await answer).decode())


async def main(port):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", port or 0)
    async with server:
        taken = server.sockets[0].getsockname()[1]
        print("listening on port", taken, flush=True)
        if port is None:
            await asyncio.wait_for(talk(taken), 5)
        else:
            await server.serve_forever()


if __name__ == "__main__":
    try:
        kloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else None))
    except KeyboardInterrupt:
        pass
