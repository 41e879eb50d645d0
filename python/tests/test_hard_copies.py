# SPDX-License-Identifier: MulanPSL-2.0
"""What is tied to a ring can be neither copied nor pickled, nor made by hand."""

import asyncio
import contextlib
import copy
import os
import pickle
import socket

import pytest

import kloop
from kloop import _kloop

NAMES = ["loop", "stream", "datagram", "read pipe", "write pipe", "handle", "timer", "file call",
         "socket call", "lookup", "read", "tls"]
WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy,
        **{f"pickle-{protocol}": lambda thing, protocol=protocol: pickle.dumps(thing, protocol)
           for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}}


async def make_all(certificates):
    """One of each, by name, and what is to be closed."""
    loop = asyncio.get_running_loop()
    things, ends = {"loop": loop}, []
    for name, context in ("stream", None), ("tls", certificates.server()):
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        options = {} if context is None else {"ssl": certificates.trusting(),
                                              "server_hostname": "localhost"}
        things[name], _ = await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname(), **options)
        ends += [server, things[name]]
    things["datagram"], _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    read, write = os.pipe()
    things["read pipe"], _ = await loop.connect_read_pipe(
        asyncio.Protocol, os.fdopen(read, "rb", 0))
    things["write pipe"], _ = await loop.connect_write_pipe(
        asyncio.Protocol, os.fdopen(write, "wb", 0))
    things["handle"] = loop.call_soon(print)
    things["timer"] = loop.call_later(100, print)
    one, two = socket.socketpair()
    one.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=two)
    ends += [things[name] for name in ("datagram", "read pipe", "write pipe")]
    ends += [one, writer]
    calls = {"file call": loop._file_stat("/", 0), "socket call": loop.sock_recv(one, 10),
             "lookup": loop.getaddrinfo("127.0.0.1", 80), "read": reader.read(10)}
    for name in "handle", "timer":
        things[name].cancel()
    return things, calls, ends, writer


def refused(way, thing):
    with pytest.raises((TypeError, pickle.PicklingError)) as caught:
        way(thing)
    return "pickle" in str(caught.value).lower()


def test_copies_and_pickles(kernel_loop, certificates):
    async def case():
        things, calls, ends, writer = await make_all(certificates)
        assert sorted([*things, *calls]) == sorted(NAMES)
        for name, thing in {**things, **calls}.items():
            for kind, way in WAYS.items():
                assert refused(way, thing), (name, kind)
        # Each is as good as before.
        writer.write(b"still there")
        ends[-2].send(b"x" * 10)
        await calls["file call"]
        assert await calls["read"] == b"x" * 10
        assert await calls["socket call"] == b"still ther"
        assert (await calls["lookup"])[0][4] == ("127.0.0.1", 80)
        for end in ends:
            end.close()
        await asyncio.sleep(0)

    kernel_loop.run_until_complete(asyncio.wait_for(case(), 60))


@pytest.mark.parametrize("name", [
    "Handle", "TimerHandle", "StreamTransport", "SSLStreamTransport", "DatagramTransport",
    "ReadPipeTransport", "WritePipeTransport"])
def test_nobody_makes_them_by_hand(name):
    kind = getattr(_kloop, name)
    for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()


def test_a_loop_that_was_not_opened():
    """__new__() without __init__() makes an object that refuses, and crashes nothing."""
    loop = kloop.Loop.__new__(kloop.Loop)
    one, two = socket.socketpair()
    with one, two:
        for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print),
                     lambda: loop.call_soon_threadsafe(print), lambda: loop.add_reader(one, print),
                     loop._run, lambda: loop._file_stat("/", 0),
                     lambda: loop.sock_recv(one, 1).send(None)):
            with contextlib.suppress(RuntimeError, AttributeError):
                call()
        with pytest.raises(RuntimeError):
            loop._run()
