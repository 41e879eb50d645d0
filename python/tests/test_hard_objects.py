# SPDX-License-Identifier: MulanPSL-2.0
"""Odd objects: hosts, ports and addresses that are no plain str, int and tuple; __del__() and
weakref callbacks that turn on their loop.
"""

import asyncio
import collections
import gc
import socket
import sys
import weakref

import pytest

import kloop
from test_hard_callbacks import in_a_loop
from transport_tools import connected, descriptors, turns, unix_pair

pytestmark = pytest.mark.usefixtures("little_garbage")
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}


# ---- hosts, ports, addresses -----------------------------------------------------------


class Text(str):
    """Equal to nothing, and not to be hashed."""

    def __eq__(self, other):
        raise RuntimeError("nobody compares")

    def __hash__(self):
        return 17

    def encode(self, *args):
        return b"\0" * 1000


class Number(int):
    def __index__(self):
        raise RuntimeError("it is an int already")

    def __int__(self):
        raise RuntimeError("it is an int already")

    def __eq__(self, other):
        return False

    __hash__ = int.__hash__


class Changing(tuple):
    """Another address at each look."""

    def __getitem__(self, index):
        raise RuntimeError("nobody looks")

    def __iter__(self):
        return iter(("192.0.2.1", 9))

    def __len__(self):
        return 5


Named = collections.namedtuple("Named", "host port")
ADDRESSES = {
    "text": lambda host, port: (Text(host), port),
    "number": lambda host, port: (host, Number(port)),
    "named": Named,
    "changing": lambda host, port: Changing((host, port)),
    "list": lambda host, port: [host, port],
    "long": lambda host, port: (host, port, 0, 0, 0, 0),
    "short": lambda host, port: (host,),
    "nothing": lambda host, port: None,
    "negative": lambda host, port: (host, -1),
    "large": lambda host, port: (host, 1 << 80),
    "bool": lambda host, port: (host, True),
    "text port": lambda host, port: (host, str(port)),
    "bytes": lambda host, port: (host.encode(), port),
    "bytearray": lambda host, port: (bytearray(host.encode()), port),
    "null": lambda host, port: ("127.0.0.1\0.example", port),
    "surrogate": lambda host, port: ("127.0.0.1\udcff", port),
    "very long": lambda host, port: ("1" * 100_000, port),
}


async def told_by(awaitable):
    """The kind of exception, or None; RuntimeError and such are the objects' own."""
    try:
        result = await asyncio.wait_for(awaitable, 60)
    except Exception as error:
        return next(kind.__name__ for kind in (
            OSError, UnicodeError, OverflowError, TypeError, ValueError, RuntimeError,
            AssertionError)
            if isinstance(error, kind))
    if isinstance(result, tuple) and hasattr(result[0], "abort"):
        result[0].abort()
        await turns()
    return None


@pytest.mark.parametrize("name", sorted(ADDRESSES))
@pytest.mark.parametrize("call", ["sock_connect", "sock_sendto", "sendto", "create_connection",
                                  "create_server", "remote_addr"])
def test_addresses(call, name):
    """Sent to where it says, or refused; never to elsewhere, and never a crash."""
    async def case(loop):
        with socket.create_server(("127.0.0.1", 0)) as listener, \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            listener.setblocking(False)
            receiver.bind(("127.0.0.1", 0))
            target = receiver if "sendto" in call or call == "remote_addr" else listener
            address = ADDRESSES[name](*target.getsockname())
            told.append(await tell(loop, address))

    async def tell(loop, address):
        if call == "sock_connect":
            with socket.socket() as sock:
                sock.setblocking(False)
                return await told_by(loop.sock_connect(sock, address))
        if call == "remote_addr":
            return await told_by(loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=address))
        if call == "sock_sendto":
            if sys.version_info < (3, 11):
                return None
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                return await told_by(loop.sock_sendto(sock, b"x", address))
        if call == "sendto":
            return await told_by(send(loop, address))
        if address is None or len(tuple(address)) != 2:
            return None
        if call == "create_connection":
            return await told_by(loop.create_connection(asyncio.Protocol, *address))
        return await told_by(serve(loop, address[0] if name != "changing" else "127.0.0.1"))

    async def serve(loop, host):
        server = await loop.create_server(asyncio.Protocol, host, 0)
        server.close()
        await server.wait_closed()

    async def send(loop, address):
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        try:
            transport.sendto(b"x", address)
            await turns()
        finally:
            transport.abort()
            await turns()

    told = []
    for factory in LOOPS.values():
        in_a_loop(case, factory)
    assert told[0] == told[1]


# ---- the end of objects ------------------------------------------------------------------


class Ends:
    """Calls a function when it goes, which may do anything."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()

    def __call__(self, *args):
        pass


async def handle_cancelled(loop, act):
    loop.call_soon(Ends(act)).cancel()
    loop.call_soon(print, Ends(act)).cancel()
    loop.call_later(100, Ends(act)).cancel()
    loop.call_at(loop.time() + 100, print, Ends(act)).cancel()


async def handle_run(loop, act):
    loop.call_soon(Ends(act))
    loop.call_soon(int, *[]).cancel()
    loop.call_later(0.001, Ends(act))
    loop.call_soon_threadsafe(Ends(act))
    await asyncio.sleep(0.01)


async def reader_removed(loop, act):
    one, two = unix_pair()
    loop.add_reader(one, Ends(act))
    loop.add_writer(one, Ends(act))
    loop.add_reader(one, Ends(act))  # in the place of the former
    loop.remove_reader(one)
    loop.remove_writer(one)
    await turns()
    one.close()
    two.close()


async def protocol_replaced(loop, act):
    class Protocol(Ends, asyncio.Protocol):
        pass

    transport, peer = await connected(loop, Protocol(act), unix_pair)
    transport.set_protocol(asyncio.Protocol())
    peer.send(b"x")
    await turns()
    transport.abort()
    await turns()
    peer.close()


async def protocol_dropped(loop, act):
    class Protocol(Ends, asyncio.Protocol):
        pass

    for end in "abort", "close":
        transport, peer = await connected(loop, Protocol(act), unix_pair)
        getattr(transport, end)()
        await turns()
        peer.close()
        del transport


async def transport_gone(loop, act):
    transport, peer = await connected(loop, asyncio.Protocol(), unix_pair)
    watch = weakref.ref(transport, lambda _: act())
    weakref.finalize(transport, act)
    transport.abort()
    await turns()
    del transport
    peer.close()
    await turns()
    gc.collect()
    assert watch() is None


async def task_gone(loop, act):
    async def hold(thing):
        await asyncio.sleep(0)

    task = loop.create_task(hold(Ends(act)))
    task.add_done_callback(Ends(act))
    await task


async def handler_replaced(loop, act):
    former = loop.get_exception_handler()
    loop.set_exception_handler(Ends(act))
    loop.set_exception_handler(former)


async def server_gone(loop, act):
    server = await loop.create_server(Ends(act), "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
    del server
    await turns()
    gc.collect()


async def context_gone(loop, act):
    """A value of a context variable, with the context of a handle."""
    import contextvars
    variable = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    context.run(variable.set, Ends(act))
    loop.call_soon(int, context=context)
    del context
    await turns()


ENDINGS = [handle_cancelled, handle_run, reader_removed, protocol_replaced, protocol_dropped,
           transport_gone, task_gone, handler_replaced, server_gone, context_gone]


def act_on(loop, transport, action):
    if action == "schedule":
        loop.call_soon(int)
        loop.call_later(0, int)
        loop.call_later(100, int).cancel()
    elif action == "abort":
        transport.abort()
    elif action == "close the loop":
        with pytest.raises(RuntimeError):
            loop.close()
    elif action == "run the loop":
        with pytest.raises(RuntimeError):
            loop.run_forever()
    elif action == "stop":
        loop.stop()
    elif action == "readers":
        for one in socket.socketpair():
            loop.add_reader(one, int)
            loop.remove_reader(one)
            one.close()
    else:
        gc.collect()


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("action", ["schedule", "abort", "close the loop", "run the loop", "stop",
                                    "readers", "collect"])
def test_ends_of_objects(ending, action):
    calls = []

    async def case(loop):
        transport, peer = await connected(loop, asyncio.Protocol(), unix_pair)

        def act():
            calls.append(ending)
            act_on(loop, transport, action)

        await ending(loop, act)
        await turns()
        gc.collect()
        assert calls
        transport.abort()
        await turns()
        peer.close()

    errors, contexts = in_a_loop(case)
    assert errors == [] and contexts == []


@pytest.mark.parametrize("action", ["close", "schedule", "run", "reader", "exception handler"])
def test_what_goes_with_its_loop(action):
    """Dropped by close(): what acts then finds a loop that is closed, or about to be."""
    before = descriptors()
    loop = kloop.Loop()
    calls = []

    def act():
        calls.append(action)
        if action == "close":
            loop.close()
        elif action == "exception handler":
            loop.call_exception_handler({"message": "closed"})
        else:
            with pytest.raises(RuntimeError):
                if action == "schedule":
                    loop.call_soon(int)
                elif action == "run":
                    loop.run_forever()
                else:
                    loop.add_reader(0, int)

    class Protocol(Ends, asyncio.Protocol):
        pass

    async def case():
        loop.set_exception_handler(lambda *args: None)
        loop.call_later(1000, Ends(act))
        one, two = unix_pair()
        await loop.create_connection(lambda: Protocol(act), sock=one)
        loop.add_reader(two, Ends(act))
        peers.append(two)

    peers = []
    loop.run_until_complete(case())
    loop.call_soon(Ends(act))
    loop.close()
    assert loop.is_closed()
    gc.collect()
    assert len(calls) == 4
    peers.pop().close()
    loop = None
    gc.collect()
    assert descriptors() == before
