# SPDX-License-Identifier: MulanPSL-2.0
"""What is tied to a ring can be neither copied nor pickled, nor made by hand."""

import asyncio
import contextlib
import copy
import gc
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
    try:
        way(thing)
    except (TypeError, pickle.PicklingError) as error:
        return "pickle" in str(error).lower()
    return False


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


# Values, which may be copied; errors are values too.
VALUES = {"DnsAnswer", "DnsRecord", "DnsServer", "DnsServerState", "DnsError", "_Malformed",
          "IoUringUnavailable"}
# Bases and helpers that nobody has an object of that outlives a call, or that hold nothing.
BASES = {"ResolverParts", "SelectorParts", "TlsParts", "_Mode", "_Plan", "_Keep", "_Watched",
         "_Detached", "Turns", "EventLoopPolicy",
         "ReaderMethod"}  # which stands for asyncio's own, for pickle as well


def own_types():
    """All types that kloop makes, in C and in Python, whoever forgot to name them here."""
    return {kind for kind in gc.get_objects() if isinstance(kind, type)
            and (kind.__module__ or "").split(".")[0] in ("kloop", "_kloop")}


def test_every_type_refuses_or_is_a_value(kernel_loop, certificates):
    """A type that is new is refused here until it refuses, or stands above."""
    async def make():
        things, calls, ends, _ = await make_all(certificates)
        file = await kloop.open(os.devnull, "r")
        opening = kloop.open(os.devnull)
        _, writer = await asyncio.open_connection(sock=socket.socketpair()[0])
        for name, call in calls.items():
            things[name] = call
        things.update(resolver=kernel_loop.resolver, text=file, binary=file.buffer,
                      opening=opening, reader=writer._protocol._stream_reader)
        seen = set()
        for thing in [*things.values(), *gc.get_objects()]:
            if type(thing) in types and type(thing).__name__ not in VALUES | BASES:
                seen.add(type(thing).__name__)
                for kind, way in WAYS.items():
                    assert refused(way, thing), (thing, kind)
        await (await opening).close()
        await file.close()
        for end in ends[::-1]:  # the peers of those that wait first
            end.close()
        writer.close()
        await asyncio.gather(*calls.values(), return_exceptions=True)
        return seen

    kernel_loop.resolver  # noqa: B018 - what is made when it is asked for
    types = own_types()
    names = {kind.__name__ for kind in types}
    assert {"Loop", "StreamTransport", "Listener", "StreamReader", "ReaderState"} <= names
    for kind in types:
        if kind.__name__ in VALUES | BASES:
            continue
        refuses = [base for base in kind.__mro__ if "__reduce__" in vars(base)][0]
        assert refuses in types, f"{kind} can be copied"
    seen = kernel_loop.run_until_complete(asyncio.wait_for(make(), 60))
    assert {"Loop", "Handle", "TimerHandle", "StreamTransport", "SSLStreamTransport",
            "DatagramTransport", "ReadPipeTransport", "WritePipeTransport", "Listener", "FileCall",
            "SockCall", "ResolveCall", "StreamRead", "StreamReader", "ReaderState", "Resolver",
            "BinaryFile", "TextFile", "Opening"} <= seen


def test_values_are_copied():
    """What is no object of the loop's is as good as any other value."""
    for thing in kloop.DnsServer("192.0.2.1"), kloop.IoUringUnavailable(1, "text"):
        for way in (copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))):
            assert type(way(thing)) is type(thing) and str(way(thing)) == str(thing)


def test_a_reader_whose_state_is_stolen(kernel_loop):
    """Who copies a reader by its __dict__ breaks the copy, and at most the reader."""
    async def case():
        one, two = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=one)
        two.send(b"hello\nworld")
        assert await reader.readexactly(2) == b"he"
        thief = asyncio.StreamReader()
        thief.__class__ = type(reader)
        vars(thief).update(vars(reader))
        assert await thief.readline() == b"llo\n"
        assert thief._buffer == b"world"  # it turns back to a reader of asyncio's
        for call in (reader.at_eof, lambda: reader._buffer, lambda: reader.feed_data(b"x"),
                     lambda: setattr(reader, "_eof", 17), lambda: repr(reader), reader.exception,
                     lambda: reader.set_exception(ValueError())):
            with pytest.raises((TypeError, AttributeError)):
                call()
        for call in reader.readline, reader.read, lambda: reader.readexactly(3):
            with pytest.raises((TypeError, AttributeError)):
                await call()
        writer.transport.abort()
        two.close()
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
