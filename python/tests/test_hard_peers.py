# SPDX-License-Identifier: MulanPSL-2.0
"""Peers that mean harm: memory stays bounded, nothing leaks, others are served.

KLOOP_CHURN=50000 asks for more connections than a quick run has.
"""

import asyncio
import os
import random
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import kloop
from resolver_tools import NameServer, record, wire_name
from test_hard_life import rss_bytes
from transport_tools import descriptors, in_thread, reset, turns, until, wait

CHURN = int(os.environ.get("KLOOP_CHURN", "2000"))
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"


def run(loop, case, seconds=120):
    return loop.run_until_complete(asyncio.wait_for(case, seconds))


@pytest.fixture
def quiet_loop(kernel_loop):
    """A loop whose exception handler must stay silent, and that leaves no descriptor."""
    contexts = []
    kernel_loop.set_exception_handler(lambda _, context: contexts.append(context))
    run(kernel_loop, in_executor(kernel_loop))
    before = descriptors()
    yield kernel_loop
    run(kernel_loop, turns(20))
    assert contexts == []
    assert descriptors() <= before


async def in_executor(loop):
    await loop.run_in_executor(None, int)


class Counting(asyncio.Protocol):
    """Echoes, and counts."""

    made = lost = 0

    def connection_made(self, transport):
        type(self).made += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, error):
        type(self).lost += 1


def counting():
    return type("Counting", (Counting,), {"made": 0, "lost": 0})


async def is_served(address, context=None):
    options = {} if context is None else {"ssl": context, "server_hostname": "localhost"}
    reader, writer = await asyncio.open_connection(*address, **options)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()


def test_churn(quiet_loop):
    """Connections that come and go, a part of them by a reset at once."""
    async def main():
        kind = counting()
        server = await quiet_loop.create_server(kind, "127.0.0.1", 0, backlog=1024)
        address = server.sockets[0].getsockname()

        def come_and_go():
            for number in range(CHURN):
                sock = socket.create_connection(address)
                if number % 4 == 1:
                    sock.send(b"some bytes")
                elif number % 4 == 2:
                    reset(sock)
                elif number % 4 == 3:
                    sock.send(b"some bytes")
                    reset(sock)
                sock.close()

        begin = time.monotonic()
        await quiet_loop.run_in_executor(None, come_and_go)
        await is_served(address)
        await until(lambda: kind.lost == kind.made)
        print(f"{CHURN} connections in {time.monotonic() - begin:.1f} s, {kind.made} accepted")
        # One that was reset while it waited may be gone before accept(2) sees it.
        assert CHURN // 2 <= kind.made <= CHURN + 1
        server.close()
        await server.wait_closed()

    run(quiet_loop, main(), 3600)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_connections_that_say_nothing(quiet_loop, certificates, tls):
    """Hundreds of them, in the backlog and accepted: who speaks is served."""
    async def main():
        context = certificates.server() if tls else None
        kind = counting()
        server = await quiet_loop.create_server(kind, "127.0.0.1", 0, ssl=context, backlog=400)
        address = server.sockets[0].getsockname()
        silent = [socket.create_connection(address) for _ in range(300)]
        for _ in range(3):
            await is_served(address, certificates.trusting() if tls else None)
        for sock in silent:
            sock.close()
        server.close()
        await until(lambda: kind.lost == kind.made)
        await turns(50)

    run(quiet_loop, main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_reader_that_does_not_read(quiet_loop, certificates, tls):
    """drain() holds the writer: what waits stays near the high-water mark."""
    async def main():
        largest = wrote = 0

        async def serve(reader, writer):
            nonlocal largest, wrote
            try:
                while True:
                    writer.write(bytes(50_000))
                    wrote += 50_000
                    largest = max(largest, writer.transport.get_write_buffer_size())
                    await writer.drain()
            except ConnectionError:
                writer.close()
                done.set_result(None)

        done = quiet_loop.create_future()
        server = await asyncio.start_server(
            serve, "127.0.0.1", 0, ssl=certificates.server() if tls else None)
        sock = socket.create_connection(server.sockets[0].getsockname())
        if tls:
            sock = await quiet_loop.run_in_executor(
                None, lambda: certificates.trusting().wrap_socket(
                    sock, server_hostname="localhost"))
        before = None
        while wrote != before or not largest:  # until it stands still
            before = wrote
            await asyncio.sleep(0.2)
        high = (512 if tls else 64) * 1024  # asyncio's marks
        assert 0 < largest < high + 50_000 + 64 * 1024
        reset(sock)
        await wait(done)
        server.close()

    run(quiet_loop, main())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_writer_that_does_not_stop(quiet_loop, certificates, tls):
    """Nobody reads the StreamReader: it takes twice its limit and what was under way."""
    async def main():
        readers = []
        server = await asyncio.start_server(
            lambda reader, writer: readers.append((reader, writer)), "127.0.0.1", 0,
            limit=10_000, ssl=certificates.server() if tls else None)
        address = server.sockets[0].getsockname()
        sent = 0
        stop = threading.Event()

        def write():
            nonlocal sent
            sock = socket.create_connection(address)
            if tls:
                sock = certificates.trusting().wrap_socket(sock, server_hostname="localhost")
            sock.settimeout(0.5)
            while not stop.is_set():
                try:
                    sent += sock.send(bytes(60_000))
                except (TimeoutError, ssl.SSLWantWriteError):
                    pass
            reset(sock)

        writing = quiet_loop.run_in_executor(None, write)
        before = None
        while sent != before or not readers or not sent:
            before = sent
            await asyncio.sleep(0.7)
        reader, writer = readers[0]
        assert len(reader._buffer) < 2 * 10_000 + 300_000
        stop.set()
        await writing
        writer.transport.abort()
        await turns()
        server.close()

    run(quiet_loop, main())


# ---- resets ------------------------------------------------------------------

async def stage_handshake(loop, certificates, address):
    """In the middle of a handshake."""
    sock = socket.create_connection(address)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = certificates.trusting().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    sock.sendall(outgoing.read())
    assert await in_thread(sock.recv, 1)
    reset(sock)


async def connected(certificates, address, tls):
    def connect():
        sock = socket.create_connection(address)
        if tls:
            sock = certificates.trusting().wrap_socket(sock, server_hostname="localhost")
        return sock
    return await in_thread(connect)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("stage", ["handshake", "idle", "write", "sendfile", "close"])
def test_resets(quiet_loop, certificates, tmp_path, stage, tls):
    """Whatever goes on when it comes, connection_lost() is called once."""
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))

    class Server(asyncio.Protocol):
        lost = []
        begun = None

        def connection_made(self, transport):
            self.transport = transport
            if stage in ("write", "close"):
                transport.write(bytes(5_000_000))
            if stage == "close":
                transport.close()
            if stage == "sendfile":
                self.begun = quiet_loop.create_task(self.send())
            Server.begun = self

        async def send(self):
            with path.open("rb") as file:
                try:
                    await quiet_loop.sendfile(self.transport, file)
                except (ConnectionError, RuntimeError) as error:
                    sent.set_result(error)

        def connection_lost(self, error):
            Server.lost.append(error)

    sent = quiet_loop.create_future()

    async def main():
        server = await quiet_loop.create_server(
            Server, "127.0.0.1", 0, ssl=certificates.server() if tls else None)
        address = server.sockets[0].getsockname()
        if stage == "handshake":
            if tls:
                await stage_handshake(quiet_loop, certificates, address)
            await asyncio.sleep(0.05)
        else:
            sock = await connected(certificates, address, tls)
            if stage != "idle":
                assert await in_thread(sock.recv, 1000)
            await until(lambda: Server.begun is not None)
            reset(sock)
            await until(lambda: Server.lost)
            if stage == "sendfile":
                assert isinstance(await wait(sent), (ConnectionError, RuntimeError))
            assert len(Server.lost) == 1
            assert Server.lost[0] is None or isinstance(Server.lost[0], OSError)
        server.close()
        await turns(50)

    run(quiet_loop, main())
    Server.lost.clear()


# ---- garbage -----------------------------------------------------------------

def garbage():
    chance = random.Random(5)
    hello = b"\x16\x03\x01"
    return {
        "random": chance.randbytes(100_000),
        "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "large record": hello + b"\xff\xff" + bytes(70_000),
        "large hello": (hello + struct.pack("!H", 16_384) + b"\x01\xff\xff\xff" + bytes(16_380)) + (
            hello + struct.pack("!H", 16_384) + bytes(16_384)) * 40,
        "part of a hello": hello + b"\x02\x00\x01\x00\x01\xfc\x03\x03",
        "empty records": (hello + b"\0\0") * 20_000,
        "alerts": b"\x15\x03\x03\x00\x02\x01\x00" * 1000,
        "nothing": b"",
    }


@pytest.mark.parametrize("what", sorted(garbage()))
def test_garbage_for_tls(quiet_loop, certificates, what):
    async def main():
        kind = counting()
        server = await quiet_loop.create_server(kind, "127.0.0.1", 0, ssl=certificates.server())
        address = server.sockets[0].getsockname()
        memory = rss_bytes()

        def send():
            for _ in range(10):
                with socket.create_connection(address, timeout=30) as sock:
                    try:
                        sock.sendall(garbage()[what])
                        sock.shutdown(socket.SHUT_WR)
                        while sock.recv(10_000):
                            pass
                    except OSError:  # it ended the connection first
                        pass

        await quiet_loop.run_in_executor(None, send)
        assert kind.made == 0  # no protocol hears of any of them
        await is_served(address, certificates.trusting())
        assert rss_bytes() - memory < 32 << 20
        server.close()
        await until(lambda: kind.made == kind.lost)

    run(quiet_loop, main())


def test_giant_headers():
    """The example's server answers 400 or ends the connection, and goes on."""
    pytest.importorskip("aiohttp", reason="the example needs aiohttp")
    server = subprocess.Popen([sys.executable, str(EXAMPLES / "aiohttp_server.py")],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline().split()[1])
        for head in (b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000_000,
                     b"GET /" + b"x" * 5_000_000, b"x: y\r\n" * 500_000,
                     b"POST /echo HTTP/1.1\r\nContent-Length: " + b"9" * 1000 + b"\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                answer = b""
                try:
                    sock.sendall(head)
                    sock.shutdown(socket.SHUT_WR)
                    while part := sock.recv(10_000):
                        answer += part
                except OSError:
                    pass
                assert not answer or answer.startswith(b"HTTP/1.")
                assert b" 200 " not in answer.split(b"\r\n")[0]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        with open(f"/proc/{server.pid}/statm") as file:
            assert int(file.read().split()[1]) * resource.getpagesize() < 300 << 20
    finally:
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0


# ---- datagrams and names -------------------------------------------------------

def test_a_flood_of_datagrams(quiet_loop):
    """The loop turns all the same, and holds no more than it takes."""
    class Count(asyncio.DatagramProtocol):
        received = in_turn = most = 0

        def datagram_received(self, data, address):
            Count.received += 1
            Count.in_turn += 1
            Count.most = max(Count.most, Count.in_turn)

    async def main():
        transport, _ = await quiet_loop.create_datagram_endpoint(
            Count, local_addr=("127.0.0.1", 0))
        address = transport.get_extra_info("sockname")
        stop = threading.Event()

        def flood():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                while not stop.is_set():
                    sock.sendto(bytes(500), address)

        memory, ticks = rss_bytes(), 0
        flooding = quiet_loop.run_in_executor(None, flood)
        while Count.received < 10_000:
            await asyncio.sleep(0)
            ticks += 1
            Count.in_turn = 0
        stop.set()
        await flooding
        # No turn takes more than a bounded number of them.
        assert Count.most <= 1024 and ticks >= 10, (Count.most, ticks)
        assert rss_bytes() - memory < 16 << 20
        transport.close()
        await turns()

    run(quiet_loop, main())


class Liar(NameServer):
    """Says more than it was asked, of others, or what nobody can read."""

    def respond(self, query, tcp):
        answer = super().respond(query, tcp)
        name = self.questions[-1][0]
        if "other-id" in name:
            return struct.pack("!H", struct.unpack("!H", query[:2])[0] ^ 1) + answer[2:]
        if "other-question" in name:
            return answer.replace(wire_name(name)[:8], b"\x07another")
        if "poison" in name:  # an address for somebody else's name, twice
            lie = record("www.test", "A", 3600, b"\x06\x06\x06\x06")
            good = record(name, "A", 60, b"\x7f\0\0\1")
            end = len(wire_name(name)) + 16
            return (query[:2] + struct.pack("!5H", 0x8180, 1, 2, 0, 1) + query[12:end]
                    + good + lie + lie)
        if "loop" in name:
            end = len(wire_name(name)) + 16
            return (query[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0) + query[12:end]
                    + b"\xc0" + bytes([end]) + b"\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4")
        if "short" in name:
            return answer[:20]
        if "random" in name:
            return query[:2] + random.Random(name).randbytes(400)
        return answer


@pytest.mark.parametrize("lie", ["other-id", "other-question", "loop", "short", "random"])
def test_a_name_server_that_lies(resolver_files, lie):
    server = Liar()
    resolver_files.write("resolv.conf", "options attempts:1 timeout:1\n")
    loop = kloop.Loop(dns={"servers": [str(server)], "files": resolver_files.paths,
                           "environment": False, "timeout": 0.3})
    try:
        async def main():
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo(f"{lie}.bulk.test", 80, family=socket.AF_INET)
            found = await loop.getaddrinfo("www.test", 80, family=socket.AF_INET)
            assert {address[4] for address in found} == {("192.0.2.1", 80)}

        run(loop, main())
    finally:
        loop.close()
        server.close()


def test_a_name_server_that_answers_for_others(resolver_files):
    """What was not asked for is not believed, now or later."""
    server = Liar()
    loop = kloop.Loop(dns={"servers": [str(server)], "files": resolver_files.paths,
                           "environment": False})
    try:
        async def main():
            try:
                found = await loop.getaddrinfo("poison.test", 80, family=socket.AF_INET)
                assert {address[4][0] for address in found} == {"127.0.0.1"}
            except socket.gaierror:
                pass
            found = await loop.getaddrinfo("www.test", 80, family=socket.AF_INET)
            assert {address[4][0] for address in found} == {"192.0.2.1"}

        run(loop, main())
    finally:
        loop.close()
        server.close()
