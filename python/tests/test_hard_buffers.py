# SPDX-License-Identifier: MulanPSL-2.0
"""Odd buffers: of every kind, that change, that are refused, that act when they are released."""

import array
import asyncio
import contextlib
import ctypes
import gc
import mmap
import os
import socket
import sys

import pytest

import kloop
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
