# SPDX-License-Identifier: MulanPSL-2.0
"""Work that goes by sockets: HTTP, TLS, streams, datagrams, names, files that are sent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
import struct

import aiohttp
from aiohttp import web

from kinds import Kind, answer_messages, end, message, read_message, same


class Http(Kind):
    """aiohttp with itself, over connections that stay."""

    name = "http"
    workers = 4

    async def start(self):
        app = web.Application(client_max_size=1 << 22)
        app.router.add_post("/echo", self._echo)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://127.0.0.1:{}/echo".format(self.runner.addresses[0][1])
        self.session = aiohttp.ClientSession()

    async def _echo(self, request):
        body = await request.read()
        if hashlib.sha256(body).hexdigest() != request.headers["X-Digest"]:
            return web.Response(status=400)
        return web.Response(body=body)

    async def work(self, chance):
        body = self.room.data(chance, 400_000)
        headers = {"X-Digest": hashlib.sha256(body).hexdigest()}
        async with self.session.post(self.url, data=body, headers=headers) as answer:
            if answer.status != 200:
                raise AssertionError(f"status {answer.status}")
            return same(await answer.read(), body, "the body")

    async def stop(self):
        await self.session.close()
        await self.runner.cleanup()


class Messages(Kind):
    """Messages with digests through asyncio's streams."""

    name = "streams"
    server = None

    async def start(self):
        self.server = await asyncio.start_server(answer_messages, "127.0.0.1", 0)
        self.address = self.server.sockets[0].getsockname()
        self.path = str(self.room.folder / "streams")
        self.unix = await asyncio.start_unix_server(answer_messages, self.path)

    async def connect(self, chance):
        if chance.random() < 0.5:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(*self.address)

    async def work(self, chance):
        reader, writer = await self.connect(chance)
        count = 0
        try:
            for _ in range(chance.randrange(1, 20)):
                batch = [self.room.data(chance, 200_000) for _ in range(chance.randrange(1, 4))]
                for data in batch:
                    writer.write(message(data))
                await writer.drain()
                for data in batch:
                    count += same(await read_message(reader), data, "a message")
        finally:
            await end(writer)
        return count

    async def stop(self):
        for server in self.server, self.unix:
            server.close()
            await server.wait_closed()


class Tls(Messages):
    """The same with TLS: 1.2 and 1.3, from the beginning or by start_tls()."""

    name = "tls"

    async def start(self):
        made = self.room.certificates
        self.trusting = {version: made.trusting(version) for version in ("1.2", "1.3")}
        self.context = made.server()
        self.server = await asyncio.start_server(answer_messages, "127.0.0.1", 0,
                                                 ssl=self.context)
        self.unix = await asyncio.start_server(self._upgrade, "127.0.0.1", 0)
        self.address, self.plain = (server.sockets[0].getsockname()
                                    for server in (self.server, self.unix))

    async def _upgrade(self, reader, writer):
        try:
            same(await reader.readexactly(8), b"STARTTLS", "a request")
            writer.write(b"go ahead")
            await writer.drain()
            transport = await self.loop.start_tls(
                writer.transport, writer.transport.get_protocol(), self.context,
                server_side=True)
        except (asyncio.IncompleteReadError, OSError):
            await end(writer)
            return
        move(reader, writer, transport)
        await answer_messages(reader, writer)

    async def connect(self, chance):
        context = self.trusting[chance.choice(("1.2", "1.3"))]
        if chance.random() < 0.7:
            return await asyncio.open_connection(*self.address, ssl=context,
                                                 server_hostname="localhost")
        reader, writer = await asyncio.open_connection(*self.plain)
        writer.write(b"STARTTLS")
        same(await reader.readexactly(8), b"go ahead", "an answer")
        transport = await self.loop.start_tls(
            writer.transport, writer.transport.get_protocol(), context,
            server_hostname="localhost")
        move(reader, writer, transport)
        return reader, writer


def move(reader, writer, transport):
    """What StreamWriter.start_tls() does, which Python 3.10 has not."""
    reader._transport = writer._transport = transport
    transport.get_protocol()._over_ssl = True


class SendFile(Kind):
    """loop.sendfile(), plain and with TLS; the receiver compares the digest."""

    name = "sendfile"
    SIZE = 1 << 20

    async def start(self):
        self.path = self.room.folder / "sent"
        self.content = random.Random(self.room.seed).randbytes(self.SIZE)
        self.path.write_bytes(self.content)
        self.trusting = self.room.certificates.trusting()
        self.servers = [
            await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
            for context in (None, self.room.certificates.server())]

    async def _serve(self, reader, writer):
        try:
            offset, count = struct.unpack("!II", await reader.readexactly(8))
            with self.path.open("rb") as file:
                await self.loop.sendfile(writer.transport, file, offset, count)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await end(writer)

    async def work(self, chance):
        which = chance.randrange(2)
        options = {"ssl": self.trusting, "server_hostname": "localhost"} if which else {}
        reader, writer = await asyncio.open_connection(
            *self.servers[which].sockets[0].getsockname(), **options)
        try:
            offset = chance.randrange(self.SIZE)
            count = chance.randrange(1, self.SIZE - offset + 1)
            writer.write(struct.pack("!II", offset, count))
            return same(await reader.read(), self.content[offset:offset + count], "a file")
        finally:
            await end(writer)

    async def stop(self):
        for server in self.servers:
            server.close()
            await server.wait_closed()


class Datagrams(Kind):
    """Datagrams to an endpoint that answers each; few enough that loopback loses none."""

    name = "datagrams"

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data, address)

    class Client(asyncio.DatagramProtocol):
        def __init__(self):
            self.waiting = {}
            self.strays = 0

        def datagram_received(self, data, address):
            waiter = self.waiting.pop(data[:8], None)
            if waiter is None or waiter.done():
                self.strays += 1
            else:
                waiter.set_result(data)

    async def start(self):
        self.server, _ = await self.loop.create_datagram_endpoint(
            self.Echo, local_addr=("127.0.0.1", 0))
        self.client, self.protocol = await self.loop.create_datagram_endpoint(
            self.Client, remote_addr=self.server.get_extra_info("sockname"))
        self.number = 0

    async def work(self, chance):
        sent = []
        for _ in range(chance.randrange(1, 9)):
            self.number += 1
            head = struct.pack("!Q", self.number)
            waiter = self.protocol.waiting[head] = self.loop.create_future()
            data = head + self.room.data(chance, 8_000)
            self.client.sendto(data)
            sent.append((data, waiter))
        return sum([same(await waiter, data, "a datagram") for data, waiter in sent])

    async def stop(self):
        if self.protocol.strays or self.protocol.waiting:
            self.failures["a datagram that nobody waits for, or that is waited for"] += 1
        self.client.close()
        self.server.close()


class Names(Kind):
    """Lookups with a name server of our own: what is there, what is not, and in the cache."""

    name = "dns"

    async def work(self, chance):
        which = chance.randrange(4)
        number = chance.randrange(20_000)
        if which == 0:
            try:
                await self.loop.getaddrinfo(f"missing-{number}.test", 80)
            except socket.gaierror as error:
                if error.errno != socket.EAI_NONAME:
                    raise
                return 0
            raise AssertionError("a name that is not there was found")
        if which == 1:
            answer = await self.loop.resolver.query(f"bulk-{number}.test", "A")
            found = [record.text for record in answer.of_type("A")]
        elif which == 2:
            return same((await self.loop.getnameinfo(("192.0.2.1", 80)))[0].encode(),
                        b"www.test", "a name")
        else:
            found = sorted({address[0] for _, _, _, _, address in
                            await self.loop.getaddrinfo(f"bulk-{number}.test", 80)})
        if found != ["127.0.0.1"]:
            raise AssertionError(f"found {found}")
        self.room.name_server.questions.clear()
        return 4


class Sockets(Kind):
    """loop.sock_*() between two sockets."""

    name = "sockets"

    async def work(self, chance):
        one, two = socket.socketpair()
        with one, two:
            one.setblocking(False)
            two.setblocking(False)
            data = self.room.data(chance, 300_000)
            digest = hashlib.sha256(data).digest()
            sending = asyncio.ensure_future(self.loop.sock_sendall(one, data))
            left, received = len(data), hashlib.sha256()
            buffer = bytearray(30_000)
            while left:
                if chance.random() < 0.5:
                    part = await self.loop.sock_recv(two, chance.randrange(1, 60_000))
                else:
                    part = buffer[:await self.loop.sock_recv_into(two, buffer)]
                if not part:
                    raise AssertionError(f"{left} bytes are missing")
                received.update(part)
                left -= len(part)
            await sending
            same(received.digest(), digest, "a digest")
            return len(data)


class Rude(Kind):
    """Peers that reset at any stage, speak no TLS, or end in the middle of a message.

    They have no answer to compare: what counts is that the others notice nothing.
    """

    name = "rude peers"
    pause = 0.01

    async def start(self):
        self.kinds = [kind for kind in self.room.kinds if isinstance(kind, Messages)]

    async def work(self, chance):
        kind = chance.choice(self.kinds)
        sock = socket.socket()
        sock.setblocking(False)
        with sock:
            await self.loop.sock_connect(sock, kind.address)
            stage = chance.randrange(4)
            with contextlib.suppress(ConnectionError):
                if stage == 1:
                    await self.loop.sock_sendall(sock, chance.randbytes(200))
                elif stage == 2 and isinstance(kind, Tls):
                    await self._half_handshake(sock, kind, chance)
                elif stage >= 2:
                    whole = message(chance.randbytes(50_000))
                    await self.loop.sock_sendall(sock, whole[:chance.randrange(len(whole))])
            if chance.random() < 0.7:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.notes[f"stage {stage}"] += 1
        return 0

    async def _half_handshake(self, sock, kind, chance):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        hello = kind.trusting["1.3"].wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            hello.do_handshake()
        await self.loop.sock_sendall(sock, outgoing.read())
        if chance.random() < 0.5:
            await self.loop.sock_recv(sock, 1000)


KINDS = [Http, Messages, Tls, SendFile, Datagrams, Names, Sockets, Rude]
