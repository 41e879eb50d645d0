# SPDX-License-Identifier: MulanPSL-2.0
"""loop.sendfile() of small files over TLS: the short way, and what must not take it."""

import asyncio
import contextlib
import io
import os
import queue
import socket
import threading

import pytest
from conftest import is_kloop
from tls_tools import Bio, connecting, read_all, read_exactly, run
from transport_tools import (
    Recorder, connected, in_thread, reset, turns, until, wait)

SIZE = 20_000


@pytest.fixture
def memory_file(message):
    """A file of tmpfs, which cannot say what is in memory: all of it is."""
    with open(os.memfd_create("kloop-test"), "w+b", buffering=0) as opened:
        opened.write(message)
        yield opened


@contextlib.asynccontextmanager
async def served(loop, context, function, client_context):
    """A server's end of a connection, whose other end is function(sock), in a thread."""
    made = []

    def new():
        made.append(Recorder())
        return made[-1]

    server = await loop.create_server(new, "127.0.0.1", 0, ssl=context)
    async with connecting(server.sockets[0].getsockname(), function, client_context):
        await until(lambda: made)
        await wait(made[0].made)
        yield made[0]
        made[0].transport.close()
        await wait(made[0].lost)
    server.close()
    await wait(server.wait_closed())


def read_to_end(sock):
    """Everything, to an end of whatever kind."""
    with contextlib.suppress(OSError):
        return read_all(sock)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("offset, count", [
    (0, None), (0, 1), (7, 1000), (SIZE - 1, None), (SIZE - 1, 10), (0, SIZE), (0, SIZE + 1000),
    (0, 1 << 62), (SIZE, None), (SIZE + 5, 10)])
def test_parts(loop, certificates, file, message, version, offset, count):
    """Between writes, in order; the position is behind what was sent."""
    expected = message[offset:][:count]
    got = []

    async def case():
        async with served(loop, certificates.server(version=version),
                          lambda sock: got.append(read_exactly(sock, len(expected) + 8)),
                          certificates.trusting(version)) as protocol:
            transport = protocol.transport
            transport.write(b"head")
            sent = await wait(loop.sendfile(transport, file, offset, count))
            transport.write(b"tail")
            assert sent == len(expected)
            if expected:
                assert file.tell() == offset + len(expected)
            await until(lambda: got)
            assert got == [b"head" + expected + b"tail"]

    run(loop, case())


class Tap:
    """A socket that keeps what it received."""

    def __init__(self, sock):
        self.sock = sock
        self.sendall = sock.sendall
        self.raw = b""

    def recv(self, count):
        data = self.sock.recv(count)
        self.raw += data
        return data

    def data_records(self):
        """The lengths of records of application data, of TLS 1.2."""
        lengths, at = [], 0
        while at < len(self.raw):
            length = int.from_bytes(self.raw[at + 3:at + 5], "big")
            if self.raw[at] == 23:
                lengths.append(length)
            at += 5 + length
        return lengths


@pytest.mark.parametrize("where", ["file", "memory_file"])
@pytest.mark.parametrize("count, records", [(1000, 1), (16000, 1), (SIZE, 3)])
def test_one_record(kernel_loop, certificates, request, message, count, records, where):
    """A header and a small file leave as one record."""
    loop = kernel_loop
    file = request.getfixturevalue(where)
    taps = []

    async def case():
        def read(sock):
            tap = Tap(sock)
            peer = Bio(tap, certificates.trusting("1.2"), server_hostname="localhost")
            peer.call("do_handshake")
            data = b""
            while len(data) < 6 + count:
                data += peer.call("read", 1 << 16)
            assert data == b"header" + message[:count]
            taps.append(tap)

        async with served(loop, certificates.server(version="1.2"), read, None) as protocol:
            protocol.transport.write(b"header")
            assert await loop.sendfile(protocol.transport, file, 0, count) == count
            await until(lambda: taps)
            assert len(taps[0].data_records()) == records

    run(loop, case())


@pytest.mark.parametrize("arguments, error", [
    ((-1,), ValueError), (("0",), TypeError), ((0, 0), ValueError), ((0, -1), ValueError),
    ((0, "1"), TypeError)])
def test_bad_arguments(kernel_loop, certificates, file, arguments, error):
    loop = kernel_loop

    async def case():
        async with served(loop, certificates.server(), read_to_end,
                          certificates.trusting()) as protocol:
            with pytest.raises(error):
                await loop.sendfile(protocol.transport, file, *arguments)
            assert protocol.transport.is_reading()
            assert file.tell() == 0

    run(loop, case())


class Odd(io.FileIO):
    """A file whose fileno() does something."""

    function = None

    def fileno(self):
        return super().fileno() if self.function is None else self.function()


def test_bad_files(kernel_loop, certificates, file, tmp_path):
    """What cannot be read, has no descriptor, is no regular file: the long way's errors."""
    loop = kernel_loop

    async def case():
        async with served(loop, certificates.server(), read_to_end,
                          certificates.trusting()) as protocol:
            transport = protocol.transport

            async def refused(what, error):
                with pytest.raises(error):
                    await loop.sendfile(transport, what, fallback=False)
                assert transport.get_write_buffer_size() == 0
                assert transport.is_reading()

            with open(file.name) as text:
                await refused(text, ValueError)
            with open(tmp_path / "new", "wb") as unreadable:
                unreadable.write(b"x")
                unreadable.flush()
                await refused(unreadable, OSError)
            with open("/dev/zero", "rb") as device:
                await refused(device, asyncio.SendfileNotAvailableError)
            await refused(io.BytesIO(b"data"), asyncio.SendfileNotAvailableError)
            await refused(5, asyncio.SendfileNotAvailableError)
            file.close()
            await refused(file, ValueError)
            with Odd(tmp_path / "new") as odd:
                # A descriptor that nobody has, one that is none, an error of any kind.
                odd.function = lambda: 1 << 20
                await refused(odd, asyncio.SendfileNotAvailableError)
                odd.function = lambda: -1
                await refused(odd, asyncio.SendfileNotAvailableError)
                odd.function = lambda: 1 // 0
                await refused(odd, ZeroDivisionError)

    run(loop, case())


def test_file_calls_back(kernel_loop, certificates, tmp_path):
    """fileno() closes the transport, or begins another file."""
    loop = kernel_loop
    (tmp_path / "file").write_bytes(b"x" * 1000)

    async def case():
        async with served(loop, certificates.server(), read_to_end,
                          certificates.trusting()) as protocol:
            transport = protocol.transport
            with Odd(tmp_path / "file") as odd:
                def close():
                    transport.abort()
                    return io.FileIO.fileno(odd)

                odd.function = close
                with pytest.raises(RuntimeError, match="closing"):
                    await loop.sendfile(transport, odd)

    run(loop, case())


@pytest.mark.parametrize("path", [
    "/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_size_that_lies(kernel_loop, certificates, path):
    """The file is longer, or shorter, than it says."""
    loop = kernel_loop
    got = []
    if not os.path.exists(path):
        path = "/proc/version"

    async def case():
        async with served(loop, certificates.server(), lambda sock: got.append(read_all(sock)),
                          certificates.trusting()) as protocol:
            with open(path, "rb", buffering=0) as file:
                sent = await wait(loop.sendfile(protocol.transport, file))
            protocol.transport.close()
            await until(lambda: got)
            assert sent == len(got[0]) > 0

    run(loop, case())


def test_not_in_the_page_cache(kernel_loop, certificates, tmp_path, message):
    """What must be fetched first goes through the ring."""
    loop = kernel_loop
    path = tmp_path / "cold"
    path.write_bytes(message)
    got = []

    async def case():
        async with served(loop, certificates.server(),
                          lambda sock: got.append(read_exactly(sock, 3 * SIZE)),
                          certificates.trusting()) as protocol:
            with path.open("rb", buffering=0) as file:
                os.fsync(file.fileno())
                for _ in range(3):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert await wait(loop.sendfile(protocol.transport, file)) == SIZE
            await until(lambda: got)
            assert got == [3 * message]

    run(loop, case())


def test_flow_control(kernel_loop, certificates, file, message):
    """A peer that does not read: the caller comes to wait, and memory has a bound."""
    loop = kernel_loop
    go = threading.Event()
    got = []
    count = 1000

    async def case():
        def read(sock):
            assert go.wait(60)
            for _ in range(count):
                assert read_exactly(sock, SIZE) == message
            got.append(True)

        async with served(loop, certificates.server(), read, certificates.trusting()) as protocol:
            transport = protocol.transport
            done = 0

            async def send():
                nonlocal done
                for _ in range(count):
                    assert await loop.sendfile(transport, file) == SIZE
                    done += 1

            task = asyncio.create_task(send())
            before = -1
            while done != before:
                before = done
                await asyncio.sleep(0.2)
            assert 0 < done < count
            assert transport.get_write_buffer_size() <= 600_000
            go.set()
            await wait(task)
            await until(lambda: got)

    run(loop, case())


def test_protocol_is_not_paused(kernel_loop, certificates, file):
    """A small file never takes the buffer beyond its mark, whatever that is."""
    loop = kernel_loop
    got = []

    async def case():
        async with served(loop, certificates.server(),
                          lambda sock: got.append(read_exactly(sock, 2 * SIZE + 100)),
                          certificates.trusting()) as protocol:
            protocol.transport.set_write_buffer_limits(high=SIZE)
            protocol.transport.write(bytes(100))
            for _ in range(2):
                assert await wait(loop.sendfile(protocol.transport, file)) == SIZE
            await until(lambda: got)
            assert "pause_writing" not in protocol.events

    run(loop, case())


def test_peer_resets(loop, certificates, file):
    """What nobody gets any more is an error, at the latest once the end is known."""

    async def case():
        gone = []

        def leave(sock):
            sock.recv(1)
            reset(sock)
            gone.append(True)

        async with served(loop, certificates.server(), leave, certificates.trusting()) as protocol:
            transport = protocol.transport
            transport.write(b"x")
            await until(lambda: gone)
            with pytest.raises((RuntimeError, ConnectionError)):
                for _ in range(10_000):
                    await wait(loop.sendfile(transport, file))
                    await asyncio.sleep(0)
            await wait(protocol.lost)
            with pytest.raises(RuntimeError, match="closing"):
                await loop.sendfile(transport, file)

    run(loop, case())


def test_meanwhile(kernel_loop, certificates, tmp_path, message):
    """While a long file is on its way a small one is refused, as are writes."""
    loop = kernel_loop
    path = tmp_path / "long"
    path.write_bytes(message * 500)
    go = threading.Event()
    got = []

    async def case():
        def read(sock):
            assert go.wait(60)
            got.append(read_exactly(sock, 500 * SIZE + SIZE))

        async with served(loop, certificates.server(), read, certificates.trusting()) as protocol:
            with path.open("rb") as long, path.open("rb") as small:
                task = asyncio.create_task(loop.sendfile(protocol.transport, long))
                await turns()
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    await loop.sendfile(protocol.transport, small, 0, SIZE)
                assert not protocol.transport.is_reading()
                go.set()
                assert await wait(task) == 500 * SIZE
                assert protocol.transport.is_reading()
                assert await loop.sendfile(protocol.transport, small, 0, SIZE) == SIZE
                await until(lambda: got)
                assert got[0] == message * 501

    run(loop, case())


# ---- short pauses, which cancel nothing ----------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_nothing_while_paused(loop, certificates, file, tls):
    """Pieces come while reading is paused: none is delivered, none is lost, in order."""
    pieces = [os.urandom(size) for size in (1, 100, 5000, 1, 70_000, 9)]

    async def session(protocol, send):
        transport = protocol.transport
        for _ in range(3):
            del protocol.data[:]
            transport.pause_reading()
            for piece in pieces:
                await send(piece)
                await asyncio.sleep(0.01)
                assert not protocol.data
            transport.resume_reading()
            transport.pause_reading()
            await turns()
            assert not protocol.data or not tls
            transport.resume_reading()
            await until(lambda: len(protocol.data) == sum(map(len, pieces)))
            assert protocol.data == b"".join(pieces)

    async def case():
        if not tls:
            protocol = Recorder()
            transport, peer = await connected(loop, protocol)
            await session(protocol, lambda piece: in_thread(peer.sendall, piece))
            transport.close()
            peer.close()
            return
        pieces_due = queue.Queue()

        def send(sock):
            while (piece := pieces_due.get(timeout=60)) is not None:
                sock.sendall(piece)

        async def put(piece):
            pieces_due.put(piece)

        async with served(loop, certificates.server(), send, certificates.trusting()) as protocol:
            await session(protocol, put)
            pieces_due.put(None)

    run(loop, case())


def test_a_piece_in_a_pause_costs_no_operation(kernel_loop):
    """The receive stays as it is, through the pause and afterwards."""
    loop = kernel_loop

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        await in_thread(peer.sendall, b"first")
        await until(lambda: protocol.data == b"first")
        before = loop.stats()["submissions"]
        for number in range(20):
            transport.pause_reading()
            peer.sendall(b"%02d" % number)
            await turns(5)
            assert len(protocol.data) == 5 + 2 * number
            transport.resume_reading()
            for _ in range(1000):
                if len(protocol.data) == 7 + 2 * number:
                    break
                await asyncio.sleep(0)
            else:
                await until(lambda: len(protocol.data) == 7 + 2 * number)  # noqa: B023
        assert loop.stats()["submissions"] - before < 20
        transport.close()
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("tls", [False, True])
def test_a_long_pause_stops_the_peer(kernel_loop, certificates, tls):
    """What is held in a pause has a bound: the peer's writes come to a halt."""
    loop = kernel_loop
    sizes = []
    go = threading.Event()

    def flood(sock):
        """Send until nothing has gone for a while, then the rest."""
        sock.settimeout(1)
        count = 0
        with contextlib.suppress(TimeoutError):
            while count < 200 << 20:
                count += sock.send(bytes(1 << 14))
        sizes.append(count)
        go.wait(60)

    async def check(protocol):
        protocol.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        protocol.transport.pause_reading()
        before = len(protocol.data)
        await until(lambda: sizes)
        assert sizes[0] < 40 << 20
        assert len(protocol.data) == before
        go.set()

    async def case():
        if tls:
            async with served(loop, certificates.server(), flood,
                              certificates.trusting()) as protocol:
                await check(protocol)
                protocol.transport.abort()
            return
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        flooding = asyncio.create_task(in_thread(flood, peer))
        await check(protocol)
        protocol.transport.resume_reading()
        await flooding
        await until(lambda: len(protocol.data) == sizes[0])
        transport.close()
        peer.close()

    run(loop, case())


def test_unread_file_is_refused_by_asyncio_too(loop, certificates, file):
    """fallback=False: asyncio has nothing else for TLS, kLoop needs none."""

    async def case():
        got = []
        async with served(loop, certificates.server(),
                          lambda sock: got.append(sock.recv(10)),
                          certificates.trusting()) as protocol:
            if is_kloop(loop):
                assert await loop.sendfile(protocol.transport, file, 0, 10, fallback=False) == 10
            else:
                with pytest.raises(RuntimeError, match="fallback is disabled"):
                    await loop.sendfile(protocol.transport, file, 0, 10, fallback=False)
                protocol.transport.write(b"x")
            await until(lambda: got)

    run(loop, case())



def test_size_of_the_short_way(kernel_loop, certificates, tmp_path):
    """Up to 64 KiB; exactly that much is for the kernel's TLS, where there is one."""
    loop = kernel_loop
    path = tmp_path / "large"
    path.write_bytes(bytes(70_000))

    async def case():
        async with served(loop, certificates.server(), read_to_end,
                          certificates.trusting()) as protocol:
            transport = protocol.transport
            kernel = transport.get_extra_info("ktls_send_reason") in (
                None, "there was no need so far")
            with path.open("rb", buffering=0) as file:
                assert transport._send_small(file, 0, 65537) is None
                assert transport._send_small(file, 4464, None) == (None if kernel else 65536)
                assert transport._send_small(file, 4465, None) == 65535

    run(loop, case())
