# SPDX-License-Identifier: MulanPSL-2.0
"""What nomemory.py runs: one short scenario for each kind of transport and call.

Each returns room.wanted when all went well, and leaves nothing open then.
"""

import asyncio
import os
import signal
import socket
import tempfile
from pathlib import Path

import kloop
from resolver_tools import Files, NameServer
from tls_tools import Certificates

DATA = bytes(range(256)) * 20
SCENARIOS = {}


class Room:
    """What is made once for all rounds."""

    wanted = DATA

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        certificates = Certificates(self.folder)
        self.server_context = certificates.server()
        self.client_context = certificates.trusting()
        self.dns = {"servers": [self._serve_names()], "environment": False,
                    "files": Files(self.folder).paths}
        self.open = []  # what the round leaves to be closed, transports or sockets

    def _serve_names(self):
        """In a process of its own, whose allocations do not fail."""
        ready, tell = os.pipe()
        wait, self._until_closed = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(self._until_closed)
                server = NameServer()
                os.write(tell, str(server).encode())
                os.read(wait, 1)
                server.close()
            finally:
                os._exit(0)
        os.close(tell)
        os.close(wait)
        address = os.read(ready, 100).decode()
        os.close(ready)
        return address

    def close(self):
        os.close(self._until_closed)
        self._folder.cleanup()

    def end(self):
        """A round is over, however."""
        for thing in self.open:
            thing.close()
        self.open.clear()
        try:
            os.unlink(self.folder / "unix")
        except FileNotFoundError:
            pass


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        self.transport.close()


class Client(asyncio.Protocol):
    """Sends DATA, and collects what comes back."""

    def __init__(self, loop):
        self.data = bytearray()
        self.done = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(DATA[:1000])
        transport.writelines([DATA[1000:2000], bytearray(DATA[2000:])])

    def data_received(self, data):
        self.data += data
        if len(self.data) >= len(DATA):
            self.transport.close()

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_result(bytes(self.data))


class BufferedClient(asyncio.BufferedProtocol):
    def __init__(self, loop):
        self.buffer = bytearray(4096)
        self.data = bytearray()
        self.done = loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(DATA)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.data += self.buffer[:count]
        if len(self.data) >= len(DATA):
            self.transport.close()

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_result(bytes(self.data))


async def talk(room, loop, server, connect):
    room.open.append(server)
    transport, protocol = await connect
    room.open.append(transport)
    result = await protocol.done
    server.close()
    await asyncio.sleep(0)
    return result


@scenario
async def tcp(room, loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    return await talk(room, loop, server, loop.create_connection(
        lambda: Client(loop), *server.sockets[0].getsockname()))


@scenario
async def buffered(room, loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    return await talk(room, loop, server, loop.create_connection(
        lambda: BufferedClient(loop), *server.sockets[0].getsockname()))


@scenario
async def tls(room, loop):
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=room.server_context)
    return await talk(room, loop, server, loop.create_connection(
        lambda: Client(loop), *server.sockets[0].getsockname(), ssl=room.client_context,
        server_hostname="localhost"))


@scenario
async def start_tls(room, loop):
    class Upgrade(Echo):
        def data_received(self, data):
            self.transport.write(b"now")
            self.transport.pause_reading()
            self.task = loop.create_task(self.upgrade())

        async def upgrade(self):
            echo = Echo()
            self.transport = await loop.start_tls(self.transport, echo, room.server_context,
                                                  server_side=True)
            echo.transport = self.transport

    class Asking(asyncio.Protocol):
        def __init__(self):
            self.answer = loop.create_future()

        def data_received(self, data):
            if not self.answer.done():
                self.answer.set_result(data)

        def connection_lost(self, error):
            if not self.answer.done():
                self.answer.set_exception(ConnectionError())

    server = await loop.create_server(Upgrade, "127.0.0.1", 0)
    room.open.append(server)
    transport, asking = await loop.create_connection(
        Asking, *server.sockets[0].getsockname())
    room.open.append(transport)
    transport.write(b"x")
    await asking.answer
    client = Client(loop)
    transport = await loop.start_tls(transport, client, room.client_context,
                                     server_hostname="localhost")
    room.open.append(transport)
    client.connection_made(transport)
    result = await client.done
    server.close()
    await asyncio.sleep(0)
    return result


@scenario
async def unix(room, loop):
    path = str(room.folder / "unix")
    server = await loop.create_unix_server(Echo, path)
    return await talk(room, loop, server,
                      loop.create_unix_connection(lambda: Client(loop), path))


@scenario
async def streams(room, loop):
    async def serve(reader, writer):
        line = await reader.readline()
        writer.write(line)
        writer.write(await reader.readexactly(1000))
        writer.write(await reader.read())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    room.open.append(server)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    room.open.append(writer)
    writer.write(DATA)
    await writer.drain()
    writer.write_eof()
    result = await reader.readuntil(b"\n") + await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.sleep(0)
    return result


@scenario
async def pipes(room, loop):
    read, write = os.pipe()
    source, sink = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
    room.open += [source, sink]
    reader = asyncio.StreamReader()
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), source)
    room.open.append(reading)
    writing, _ = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    room.open.append(writing)
    writing.write(DATA[:10])
    writing.write(DATA[10:])
    writing.close()
    result = await reader.read()
    reading.close()
    await asyncio.sleep(0)
    return result


@scenario
async def datagrams(room, loop):
    class EchoBack(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data, address)

    class Asking(asyncio.DatagramProtocol):
        def __init__(self):
            self.done = loop.create_future()

        def datagram_received(self, data, address):
            if not self.done.done():
                self.done.set_result(data)

    server, _ = await loop.create_datagram_endpoint(EchoBack, local_addr=("127.0.0.1", 0))
    room.open.append(server)
    client, asking = await loop.create_datagram_endpoint(
        Asking, remote_addr=server.get_extra_info("sockname"))
    room.open.append(client)
    client.sendto(DATA)
    result = await asking.done
    client.close()
    server.close()
    await asyncio.sleep(0)
    return result


@scenario
async def subprocesses(room, loop):
    child = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    result, _ = await child.communicate(DATA)
    await child.wait()
    return result


@scenario
async def files(room, loop):
    path = room.folder / "file"
    async with kloop.open(path, "wb") as file:
        await file.write(DATA[:100])
        await file.write(DATA[100:])
        await file.fsync()
    assert (await kloop.files.stat(path)).st_size == len(DATA)
    async with kloop.open(path, "rb") as file:
        result = await file.read(50)
        await file.seek(50)
        rest = bytearray(len(DATA) - 50)
        await file.readinto(rest)
    await kloop.files.unlink(path)
    return result + rest


@scenario
async def text_files(room, loop):
    path = room.folder / "text"
    await kloop.files.write_text(path, "one\ntwo\n")
    lines = []
    async with kloop.open(path) as file:
        async for line in file:
            lines.append(line)
    assert lines == ["one\n", "two\n"]
    return DATA


@scenario
async def sendfile(room, loop):
    path = room.folder / "sent"
    path.write_bytes(DATA)
    one, two = socket.socketpair()
    room.open += [one, two]
    reader, writer = await asyncio.open_connection(sock=one)
    room.open.append(writer)
    with path.open("rb") as file:
        await loop.sendfile(writer.transport, file)
    writer.close()
    two.setblocking(False)
    parts = []
    while part := await loop.sock_recv(two, 4000):
        parts.append(part)
    two.close()
    return b"".join(parts)


@scenario
async def resolver(room, loop):
    found = await loop.getaddrinfo("local.test", 80, type=socket.SOCK_STREAM)
    assert found[0][4] == ("127.0.0.1", 80), found
    answer = await loop.resolver.query("www.test", "A")
    assert [record.text for record in answer.of_type("A")] == ["192.0.2.1"]
    assert (await loop.getnameinfo(("192.0.2.1", 80)))[0] == "www.test"
    try:
        await loop.getaddrinfo("missing.test", 80)
    except socket.gaierror:
        return DATA
    return None


@scenario
async def sockets(room, loop):
    listener = socket.create_server(("127.0.0.1", 0))
    one = socket.socket()
    room.open += [listener, one]
    listener.setblocking(False)
    one.setblocking(False)
    accepting = loop.create_task(loop.sock_accept(listener))
    await loop.sock_connect(one, listener.getsockname())
    two, _ = await accepting
    room.open.append(two)
    await loop.sock_sendall(one, DATA)
    result = b""
    while len(result) < len(DATA):
        result += await loop.sock_recv(two, 2000)
    buffer = bytearray(10)
    await loop.sock_sendall(two, b"back")
    assert await loop.sock_recv_into(one, buffer) == 4
    for sock in (one, two, listener):
        sock.close()
    return result


@scenario
async def datagram_calls(room, loop):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    room.open.append(one)
    one.bind(("127.0.0.1", 0))
    one.setblocking(False)
    await loop.sock_sendto(one, DATA, one.getsockname())
    data, address = await loop.sock_recvfrom(one, 10_000)
    assert address == one.getsockname()
    one.close()
    return data


@scenario
async def readers(room, loop):
    one, two = socket.socketpair()
    room.open += [one, two]
    done = loop.create_future()
    loop.add_reader(two, lambda: done.done() or done.set_result(two.recv(len(DATA))))
    loop.add_writer(one, lambda: (one.send(DATA), loop.remove_writer(one)))
    result = await done
    loop.remove_reader(two)
    one.close()
    two.close()
    return result


@scenario
async def signals(room, loop):
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, lambda: done.done() or done.set_result(DATA))
    os.kill(os.getpid(), signal.SIGUSR1)
    result = await done
    loop.remove_signal_handler(signal.SIGUSR1)
    return result


@scenario
async def timers(room, loop):
    done = loop.create_future()
    fired = []
    for number in range(20):
        loop.call_later(number / 10_000, fired.append, number)
    loop.call_later(0.5, fired.append, "never").cancel()
    loop.call_later(0.003, done.set_result, DATA)
    result = await done
    assert len(fired) == 20
    return result


@scenario
async def callbacks(room, loop):
    done = loop.create_future()
    fired = []
    for number in range(200):
        loop.call_soon(fired.append, number)
    loop.call_soon(loop.call_soon_threadsafe, done.set_result, DATA)
    result = await done
    assert fired == list(range(200))
    return result
