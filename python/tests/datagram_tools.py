# SPDX-License-Identifier: MulanPSL-2.0
"""Recording endpoints, for the tests of datagrams."""

import asyncio
import contextlib
import socket

import pytest

from port_tools import free_port
from transport_tools import wait


class Recorder(asyncio.DatagramProtocol):
    """Writes down every call; hooks (callables by name) run after that."""

    def __init__(self, **hooks):
        self.events = []
        self.datagrams = []
        self.errors = []
        self.transport = None
        self.hooks = hooks
        self.lost = asyncio.get_running_loop().create_future()

    def _note(self, name, *args):
        self.events.append(name)
        hook = self.hooks.get(name)
        if hook is not None:
            hook(self, *args)

    def connection_made(self, transport):
        self.transport = transport
        self._note("connection_made", transport)

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.datagrams.append((data, addr))
        self._note("datagram_received", data, addr)

    def error_received(self, exc):
        self.errors.append(exc)
        self._note("error_received", exc)

    def pause_writing(self):
        self._note("pause_writing")

    def resume_writing(self):
        self._note("resume_writing")

    def connection_lost(self, error):
        self._note("connection_lost", error)
        self.lost.set_result(error)


async def endpoint(local=("127.0.0.1", 0), hooks=None, **options):
    """A transport and its recording protocol."""
    if local is not None:
        options["local_addr"] = local
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(lambda: Recorder(**(hooks or {})), **options)


async def ended(*transports):
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        if protocol is not None:
            await wait(protocol.lost)


def name_of(transport):
    return transport.get_extra_info("sockname")


def echo(protocol, data, addr):
    protocol.transport.sendto(data, addr)


def nobody(host="127.0.0.1"):
    """An address at which nobody listens."""
    return host, free_port()


def needs_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return
    pytest.fail("the machine has no IPv6 on loopback")
