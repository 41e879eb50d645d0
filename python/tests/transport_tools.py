# SPDX-License-Identifier: MulanPSL-2.0
"""Protocols that record, and sockets at the other end, for the transport tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import threading

#: What only a hanging test needs, on a busy machine too.
TIMEOUT = 60


def run(loop, case, seconds=2 * TIMEOUT):
    """Run a coroutine to its end, on this loop."""
    return loop.run_until_complete(asyncio.wait_for(case, seconds))


class Noting:
    """What a protocol here does for each call: write it down, then run its hook."""

    def _note(self, name, *args):
        self.events.append(name)
        hook = self.hooks.get(name)
        return hook(self, *args) if hook is not None else None

    def eof_received(self):
        if not self.eof.done():
            self.eof.set_result(None)
        return self._note("eof_received")


class Recorder(Noting, asyncio.Protocol):
    """Writes down every call; hooks (callables by name) run after that."""

    def __init__(self, **hooks):
        self.events = []
        self.data = bytearray()
        self.transport = None
        self.error = None
        self.hooks = hooks
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.made = loop.create_future()
        self.lost = loop.create_future()
        self.eof = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        if not self.made.done():
            self.made.set_result(transport)
        self._note("connection_made", transport)

    def data_received(self, data):
        assert type(data) is bytes and data
        self.data += data
        self._note("data_received", data)

    def pause_writing(self):
        self._note("pause_writing")

    def resume_writing(self):
        self._note("resume_writing")

    def connection_lost(self, error):
        self.error = error
        if not self.lost.done():
            self.lost.set_result(error)
        self._note("connection_lost", error)


class BufferedRecorder(Noting, asyncio.BufferedProtocol):
    """The same over memory of its own."""

    def __init__(self, size=4096, **hooks):
        self.buffer = bytearray(size)
        self.data = bytearray()
        self.sizes = []
        self.events = []
        self.hooks = hooks
        self.loop = asyncio.get_running_loop()
        self.transport = None
        self.lost = self.loop.create_future()
        self.eof = self.loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        self._note("connection_made", transport)

    def get_buffer(self, sizehint):
        assert type(sizehint) is int
        made = self._note("get_buffer", sizehint)
        return self.buffer if made is None else made

    def buffer_updated(self, count):
        assert 0 < count <= len(self.buffer)
        self.sizes.append(count)
        self.data += memoryview(self.buffer)[:count]
        self._note("buffer_updated", count)

    def connection_lost(self, error):
        if not self.lost.done():
            self.lost.set_result(error)
        self._note("connection_lost", error)


def tcp_pair():
    """Two connected TCP sockets on loopback, both blocking with a time-out."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        two, _ = listener.accept()
    for sock in one, two:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, two


def unix_pair():
    one, two = socket.socketpair()
    one.settimeout(TIMEOUT)
    two.settimeout(TIMEOUT)
    return one, two


PAIRS = {"tcp": tcp_pair, "unix": unix_pair}


async def connected(loop, protocol, pair=tcp_pair):
    """A transport with this protocol over one end: (transport, the other end)."""
    mine, peer = pair()
    mine.setblocking(False)
    transport, _ = await loop.create_connection(lambda: protocol, sock=mine)
    return transport, peer


async def until(condition, seconds=TIMEOUT):
    """Turn the loop until condition() is true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "it did not happen in time"
        await asyncio.sleep(0.001)


async def turns(count=10):
    """Let the loop turn some times, without waiting."""
    for _ in range(count):
        await asyncio.sleep(0)


async def wait(awaitable):
    return await asyncio.wait_for(awaitable, TIMEOUT)


async def in_thread(function, *args):
    """Run a blocking function in a thread of its own."""
    return await wait(asyncio.get_running_loop().run_in_executor(None, function, *args))


def receive_all(sock):
    """Everything until the end."""
    parts = []
    while True:
        part = sock.recv(1 << 18)
        if not part:
            return b"".join(parts)
        parts.append(part)


def receive_exactly(sock, count):
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 18))
        if not part:
            raise EOFError(f"{count} bytes are missing")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def reset(sock):
    """Close so that the peer sees a reset."""
    import struct

    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def descriptors():
    """How many are open, when the garbage of earlier cases has closed its own."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def new_threads(before):
    """Those that are not in before, a threading.enumerate(); one of an earlier case may end."""
    return set(threading.enumerate()) - set(before)


@contextlib.contextmanager
def caught_errors(loop):
    """What reaches the loop's exception handler, as a list of contexts."""
    contexts = []
    former = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: contexts.append(context))
    try:
        yield contexts
    finally:
        loop.set_exception_handler(former)


@contextlib.contextmanager
def thread(function, *args):
    """A thread that is joined at the end; its exception is raised there."""
    failures = []

    def run():
        try:
            function(*args)
        except BaseException as error:  # noqa: BLE001 - raised by the joiner
            failures.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    yield worker
    worker.join(TIMEOUT)
    assert not worker.is_alive()
    if failures:
        raise failures[0]
