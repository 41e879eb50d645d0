# SPDX-License-Identifier: MulanPSL-2.0
"""Fixed loads of kLoop in Python for guard.py, which counts what they cost.

Everything is in one process and one thread, over socket pairs: what happens in
a turn does not depend on the time. Each load is repeated, and each repetition
prints "NAME OPERATIONS ALLOCATIONS ENTERS". Usage: loads.py CERTIFICATE KEY
"""

import asyncio
import ctypes
import gc
import socket
import ssl
import sys

import kloop

CONNECTIONS = 32
MESSAGE = bytes(1024)
WARM_UP = 200
REPETITIONS = 3

marks = ctypes.CDLL(None)
marks.kl_guard_end.restype = ctypes.c_ulong
marks.kl_guard_end.argtypes = [ctypes.c_char_p]


def nothing(loop, count):
    pass


def call_soon(loop, count):
    left = count

    def step():
        nonlocal left
        left -= 1
        if left > 0:
            loop.call_soon(step)
        else:
            loop.stop()

    loop.call_soon(step)
    loop.run_forever()


def call_later_cancel(loop, count):
    def step():
        for _ in range(count):
            loop.call_later(60, step).cancel()
        loop.stop()

    loop.call_soon(step)
    loop.run_forever()


def call_later_fire(loop, count):
    """Deadlines in the past, in no order, a hundred a turn."""
    left = count

    def fire():
        nonlocal left
        left -= 1
        if left % 100 == 0:
            more()

    def more():
        if left == 0:
            loop.stop()
            return
        for i in range(100):
            loop.call_at(i * 7919 % 100 * 1e-6, fire)

    loop.call_soon(more)
    loop.run_forever()


def future(loop, count):
    async def run():
        for _ in range(count):
            waiter = loop.create_future()
            loop.call_soon(waiter.set_result, None)
            await waiter

    loop.run_until_complete(run())


def tasks(loop, count):
    async def one():
        await asyncio.sleep(0)

    async def run():
        for _ in range(count // 100):
            for task in [loop.create_task(one()) for _ in range(100)]:
                await task

    loop.run_until_complete(run())


class Clients:
    """The other ends of connections to the loop: plain sockets, a message on each at a time.

    What these calls cost is in the figures, as a constant.
    """

    def __init__(self, loop, count):
        self.loop = loop
        pairs = [socket.socketpair() for _ in range(count)]
        self.ends = [client for client, _ in pairs]
        self.servers = [server for _, server in pairs]
        self.echoed = 0
        self.rounds = 0
        for client in self.ends:
            client.setblocking(False)

    def run(self, count):
        self.rounds = max(1, count // len(self.ends))
        self.send()
        self.loop.run_forever()

    def send(self):
        self.echoed = 0
        for client in self.ends:
            client.send(MESSAGE)

    def count(self):
        """A server has echoed a message."""
        self.echoed += 1
        if self.echoed == len(self.ends):
            self.loop.call_soon(self.collect)

    def collect(self):
        try:
            # The last was written last; then all of them are there.
            self.ends[-1].recv(len(MESSAGE), socket.MSG_PEEK)
        except BlockingIOError:
            self.loop.call_soon(self.collect)
            return
        for client in self.ends:
            if len(client.recv(len(MESSAGE))) != len(MESSAGE):
                raise RuntimeError("an echo was cut")
        self.rounds -= 1
        if self.rounds > 0:
            self.send()
        else:
            self.loop.stop()

    def close(self):
        for client in self.ends:
            client.close()
        self.loop.run_until_complete(asyncio.sleep(0.01))


class Echo(asyncio.Protocol):
    def __init__(self, clients):
        self.clients = clients

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        self.clients.count()


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self, clients):
        self.clients = clients
        self.view = memoryview(bytearray(65536))

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self.view

    def buffer_updated(self, count):
        self.transport.write(bytes(self.view[:count]))
        self.clients.count()


async def echo_streams(clients, server):
    reader, writer = await asyncio.open_connection(sock=server)
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
        clients.count()
    writer.close()


async def echo_sock(clients, server):
    loop = asyncio.get_running_loop()
    server.setblocking(False)
    with server:
        while data := await loop.sock_recv(server, 65536):
            await loop.sock_sendall(server, data)
            clients.count()


def echo(protocol, connections):
    def make(loop):
        clients = Clients(loop, connections)
        for server in clients.servers:
            loop.run_until_complete(
                loop.connect_accepted_socket(lambda: protocol(clients), server))
        return clients
    return make


def echo_task(handler):
    def make(loop):
        clients = Clients(loop, 1)
        clients.task = loop.create_task(handler(clients, clients.servers[0]))
        loop.run_until_complete(asyncio.sleep(0))
        return clients
    return make


class TlsPingPong:
    """Both ends in the loop; an operation is a message one way."""

    def __init__(self, loop):
        self.loop = loop
        self.left = 0
        here, there = socket.socketpair()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(*sys.argv[1:3])
        client = ssl.create_default_context(cafile=sys.argv[1])
        outer = self

        class Peer(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                outer.left -= 1
                if outer.left > 0:
                    self.transport.write(data)
                else:
                    outer.loop.stop()

        async def start():
            accepted = loop.create_task(loop.connect_accepted_socket(Peer, there, ssl=server))
            self.transport, _ = await loop.create_connection(
                Peer, sock=here, ssl=client, server_hostname="localhost")
            await accepted

        loop.run_until_complete(start())

    def run(self, count):
        self.left = count
        self.transport.write(MESSAGE)
        self.loop.run_forever()

    def close(self):
        self.transport.abort()
        self.loop.run_until_complete(asyncio.sleep(0.01))


#: Name, operations, and a function that runs so many, or one that makes an object that does.
LOADS = [
    ("py-nothing", 1, nothing, None),
    ("py-call-soon", 1000, call_soon, None),
    ("py-call-later-cancel", 1000, call_later_cancel, None),
    ("py-call-later-fire", 1000, call_later_fire, None),
    ("py-future", 1000, future, None),
    ("py-tasks", 1000, tasks, None),
    ("py-echo-1", 1000, None, echo(Echo, 1)),
    ("py-echo-32", 1600, None, echo(Echo, CONNECTIONS)),
    ("py-buffered-1", 1000, None, echo(BufferedEcho, 1)),
    ("py-streams-1", 1000, None, echo_task(echo_streams)),
    ("py-sock-1", 1000, None, echo_task(echo_sock)),
    ("py-tls", 1000, None, TlsPingPong),
]


def measure(loop, name, count, run, make):
    made = make(loop) if make is not None else None
    work = made.run if made is not None else lambda count: run(loop, count)
    work(WARM_UP)
    for _ in range(REPETITIONS):
        before = loop.stats()["enters"]
        marks.kl_guard_begin()
        work(count)
        allocated = marks.kl_guard_end(name.encode())
        print(name, count, allocated, loop.stats()["enters"] - before, flush=True)
    if made is not None:
        made.close()


def main():
    loop = kloop.new_event_loop()
    asyncio.set_event_loop(loop)
    # The collector runs by its own count, which the loads before would shift.
    gc.collect()
    gc.disable()
    try:
        for load in LOADS:
            measure(loop, *load)
    finally:
        loop.close()


main()
