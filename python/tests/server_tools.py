# SPDX-License-Identifier: MulanPSL-2.0
"""Clients and protocols for the tests of servers."""

import asyncio
import socket

from transport_tools import turns, wait


def client(address, family=socket.AF_INET):
    sock = socket.socket(family)
    sock.settimeout(20)
    sock.connect(address)
    return sock


class Echo(asyncio.Protocol):
    made = None

    def connection_made(self, transport):
        self.transport = transport
        if self.made is not None:
            self.made.append(self)

    def data_received(self, data):
        self.transport.write(data)


def new_echo():
    """A class of its own, with a list of its instances."""
    return type("Echo", (Echo,), {"made": []})


async def finish(server):
    server.close()
    await wait(server.wait_closed())
    await turns()
