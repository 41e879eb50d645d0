# SPDX-License-Identifier: MulanPSL-2.0
"""Odd objects: buffers that change, __del__() and weakref callbacks that turn on their loop,
hosts, ports and addresses that are no plain str, int and tuple.
"""

import array
import asyncio
import collections
import contextlib
import ctypes
import gc
import mmap
import os
import socket
import sys
import weakref

import pytest

import kloop
from test_hard_alike import descriptors
from test_hard_callbacks import in_a_loop
from transport_tools import connected, receive_all, tcp_pair, turns, unix_pair, until

pytestmark = pytest.mark.usefixtures("little_garbage")
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}
LARGE = 1_000_000  # more than the buffers of a Unix socket hold


# ---- what is written ---------------------------------------------------------------


class Bytes(bytes):
    """With an opinion about its length."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise RuntimeError("nobody asks")


class Bytearray(bytearray):
    def __len__(self):
        return 5


def released():
    view = memoryview(b"gone")
    view.release()
    return view


def mapped():
    area = mmap.mmap(-1, 4096)
    area[:6] = b"mapped"
    return area


DATA = {
    "bytes": lambda: b"some bytes",
    "bytearray": lambda: bytearray(b"some bytes"),
    "read-only view": lambda: memoryview(b"some bytes"),
    "view": lambda: memoryview(bytearray(b"some bytes")),
    "words": lambda: memoryview(array.array("I", range(10))),
    "matrix": lambda: memoryview(b"0123456789ab").cast("B", (3, 4)),
    "scalar": lambda: memoryview(ctypes.c_int(7)),
    "part": lambda: memoryview(b"0123456789")[2:5],
    "empty": lambda: b"",
    "empty view": lambda: memoryview(b""),
    "bytes subclass": lambda: Bytes(b"a subclass"),
    "bytearray subclass": lambda: Bytearray(b"another subclass"),
}
REFUSED = {
    "strided": lambda: memoryview(b"0123456789")[::2],
    "backwards": lambda: memoryview(b"0123456789")[::-1],
    "released": released,
    "str": lambda: "text",
    "None": lambda: None,
    "int": lambda: 5,
    "list": lambda: [1, 2],
    "large int": lambda: 1 << 70,
}


async def written(loop, pair, make, call):
    """What arrived of call(transport, data), data made twice: at once, and behind much more."""
    transport, peer = await connected(loop, asyncio.Protocol(), pair)
    call(transport, make())
    transport.write(b"x" * LARGE)
    call(transport, make())
    receiving = loop.run_in_executor(None, receive_all, peer)
    transport.close()
    data = await receiving
    peer.close()
    return data


@pytest.mark.parametrize("name", sorted(DATA))
@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
@pytest.mark.parametrize("call", [
    lambda transport, data: transport.write(data),
    lambda transport, data: transport.writelines([b"<", data, b">"])], ids=["write", "writelines"])
def test_written(name, pair, call):
    """Each byte of what the buffer holds, whatever the object says of itself."""
    make = DATA[name]
    plain = bytes(memoryview(make()).cast("B") if memoryview(make()).nbytes else b"")

    async def case(loop):
        got = await written(loop, pair, make, call)
        end = len(got) - LARGE
        assert end in (2 * len(plain), 2 * len(plain) + 4)
        expected = plain if end == 2 * len(plain) else b"<" + plain + b">"
        assert got == expected + b"x" * LARGE + expected

    errors, contexts = in_a_loop(case)
    assert errors == [] and contexts == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused(name):
    """It raises, and the connection is none the worse."""
    async def case(loop):
        transport, peer = await connected(loop, asyncio.Protocol(), unix_pair)
        datagram, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        source, sink = os.pipe()
        pipe, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(sink, "wb", 0))
        one, two = unix_pair()
        one.setblocking(False)
        address = datagram.get_extra_info("sockname")
        for call in (transport.write, lambda data: transport.writelines([b"x", data]),
                     pipe.write, lambda data: datagram.sendto(data, address)):
            with pytest.raises((TypeError, ValueError, BufferError)):
                call(REFUSED[name]())
        for call in (loop.sock_sendall, loop.sock_recv_into):
            with pytest.raises((TypeError, ValueError, BufferError)):
                await call(one, REFUSED[name]())
        assert not any(each.is_closing() for each in (transport, datagram, pipe))
        transport.write(b"well")
        pipe.write(b"well")
        assert (await loop.run_in_executor(None, peer.recv, 10)).endswith(b"well")
        assert os.read(source, 10) == b"well"
        for each in transport, datagram, pipe, one, two, peer:
            (each.abort if hasattr(each, "abort") else each.close)()
        os.close(source)
        await turns()

    errors, contexts = in_a_loop(case)
    assert errors == [] and contexts == []


@pytest.mark.parametrize("change", ["overwrite", "resize", "clear", "release"])
@pytest.mark.parametrize("kind", ["write", "writelines", "sendto", "pipe"])
def test_changed_after_the_call(kind, change):
    """The call has taken what it was given: what happens to the buffer then is nobody's business."""
    def spoil(data, view):
        if change == "overwrite":
            data[:] = b"z" * len(data)
        view.release()
        if change == "resize":
            data.extend(b"z" * 10_000_000)
        elif change == "clear":
            data.clear()

    async def case(loop):
        data = bytearray(b"y" * (50_000 if kind == "sendto" else LARGE))
        wanted = bytes(data)
        view = memoryview(data)
        if kind == "sendto":
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind(("127.0.0.1", 0))
                transport.sendto(view, sock.getsockname())
                spoil(data, view)
                got = await loop.run_in_executor(None, sock.recv, 1 << 16)
            transport.close()
        else:
            if kind == "pipe":
                source, sink = os.pipe()
                transport, _ = await loop.connect_write_pipe(
                    asyncio.BaseProtocol, os.fdopen(sink, "wb", 0))
                peer = socket.socket()
                reader = os.fdopen(source, "rb")
                read_all = reader.read
            else:
                transport, peer = await connected(loop, asyncio.Protocol(), unix_pair)
                reader = peer
                read_all = (lambda: receive_all(peer))
            (transport.writelines([view]) if kind == "writelines" else transport.write(view))
            spoil(data, view)
            transport.close()
            got = await loop.run_in_executor(None, read_all)
            reader.close()
            peer.close()
        assert got == wanted
        await turns()

    errors, contexts = in_a_loop(case)
    assert errors == [] and contexts == []


class Dying(bytearray):
    """Memory that acts when the last who has it gives it up."""

    act = None
    deaths = 0

    def __del__(self):
        Dying.deaths += 1
        Dying.act()


@pytest.mark.parametrize("action", ["abort", "close", "write", "set_protocol", "stop", "collect"])
@pytest.mark.parametrize("where", ["get_buffer", "write", "recv_into", "sendto"])
def test_memory_that_acts_when_released(where, action):
    """The buffer's release runs Python code in the middle of what the transport does."""
    async def case(loop):
        rooms = []

        class Protocol(asyncio.BufferedProtocol):
            lost = 0
            got = 0

            def get_buffer(self, hint):
                return memoryview(Dying(100)) if where == "get_buffer" else bytearray(100)

            def buffer_updated(self, count):
                self.got += count

            def connection_lost(self, error):
                self.lost += 1

        def act():
            transport = rooms[0]
            if action in ("abort", "close"):
                getattr(transport, action)()
            elif action == "write":
                transport.write(b"more")
            elif action == "set_protocol":
                transport.set_protocol(transport.get_protocol())
            elif action == "stop":
                loop.stop()
            else:
                gc.collect()

        protocol = Protocol()
        transport, peer = await connected(loop, protocol, unix_pair)
        rooms.append(transport)
        Dying.act, Dying.deaths = staticmethod(act), 0
        if where == "get_buffer":
            peer.send(b"x" * 1000)
        elif where == "write":
            transport.write(memoryview(Dying(b"x" * LARGE)))
        elif where == "recv_into":
            one, two = unix_pair()
            one.setblocking(False)
            reading = loop.create_task(loop.sock_recv_into(one, Dying(10)))
            await turns()
            two.send(b"x")
            await reading
            del reading
            one.close()
            two.close()
        else:
            datagram, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            datagram.sendto(memoryview(Dying(100)), datagram.get_extra_info("sockname"))
            datagram.close()
        await until(lambda: Dying.deaths)
        await turns()
        transport.abort()
        await until(lambda: protocol.lost)
        peer.close()
        await turns()
        assert protocol.lost == 1
        rooms.clear()

    try:
        errors, contexts = in_a_loop(case)
    finally:
        Dying.act = staticmethod(lambda: None)
    assert errors == [] and contexts == []


if sys.version_info >= (3, 12):  # classes written in Python can lend memory

    class Lender:
        """Whose release of the memory acts."""

        def __init__(self, act, size=1000):
            self.memory = bytearray(b"l" * size)
            self.act = act
            self.lent = self.released = 0

        def __len__(self):
            return len(self.memory)

        def __buffer__(self, flags):
            self.lent += 1
            return memoryview(self.memory)

        def __release_buffer__(self, view):
            self.released += 1
            self.act()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("action", ["abort", "raise", "resize", "read again"])
    def test_lenders(action):
        async def case(loop):
            room, got, lost = [], [], []

            class Protocol(asyncio.BufferedProtocol):
                def get_buffer(self, hint):
                    return lender

                def buffer_updated(self, count):
                    got.append(count)

                def connection_lost(self, error):
                    lost.append(error)

            def act():
                if action == "abort":
                    room[0].abort()
                elif action == "raise":
                    raise ValueError("on purpose")
                elif action == "resize":
                    with contextlib.suppress(BufferError):
                        lender.memory.extend(b"z" * 100_000)
                else:
                    room[0].pause_reading()
                    room[0].resume_reading()

            lender = Lender(act)
            transport, peer = await connected(loop, Protocol(), unix_pair)
            room.append(transport)
            peer.send(b"x" * 5000)
            await until(lambda: lender.released)
            await turns()
            transport.abort()
            await until(lambda: lost)
            peer.close()
            assert lender.lent == lender.released > 0 and len(lost) == 1
            assert sum(got) <= 5000

        errors, _ = in_a_loop(case)
        assert errors == []


# ---- get_buffer() --------------------------------------------------------------------


@pytest.mark.parametrize("name,make,sound", [
    ("matrix", lambda: memoryview(bytearray(12)).cast("B", (3, 4)), True),
    ("words", lambda: memoryview(array.array("I", range(10))), True),
    ("array", lambda: array.array("B", range(10)), True),
    ("ctypes", lambda: (ctypes.c_char * 10)(), True),
    ("map", mapped, True),
    ("bytes", lambda: b"0123456789", False),
    ("read-only", lambda: memoryview(bytearray(10)).toreadonly(), False),
    ("strided", lambda: memoryview(bytearray(10))[::2], False),
    ("empty", lambda: bytearray(), False),
    ("released", released, False),
    ("None", lambda: None, False),
])
def test_get_buffer(name, make, sound):
    """Memory of any form is filled; what cannot be ends the connection, as on asyncio's loop."""
    async def case(loop):
        class Protocol(asyncio.BufferedProtocol):
            got = lost = 0

            def get_buffer(self, hint):
                return make()

            def buffer_updated(self, count):
                self.got += count

            def connection_lost(self, error):
                self.lost += 1

        protocol = Protocol()
        transport, peer = await connected(loop, protocol, unix_pair)
        peer.send(b"x" * 1000)
        await until(lambda: protocol.got == 1000 or protocol.lost)
        assert (protocol.got == 1000) == sound and protocol.lost == (not sound)
        transport.abort()
        await until(lambda: protocol.lost)
        peer.close()

    for factory in LOOPS.values():
        errors, contexts = in_a_loop(case, factory)
        assert errors == [] and len(contexts) == (not sound)


def test_a_buffer_that_is_resized_while_it_is_lent(kernel_loop):
    """sock_recv_into() holds it: who resizes it is refused, and what comes is not lost."""
    loop = kernel_loop

    async def case():
        one, two = unix_pair()
        one.setblocking(False)
        data = bytearray(10)
        reading = loop.create_task(loop.sock_recv_into(one, data))
        await turns()
        for change in data.clear, lambda: data.extend(b"x" * 100_000), data.pop:
            with pytest.raises(BufferError):
                change()
        two.send(b"hello")
        assert await reading == 5
        assert data[:5] == b"hello"
        data.clear()
        one.close()
        two.close()

    loop.run_until_complete(asyncio.wait_for(case(), 60))


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
