# SPDX-License-Identifier: MulanPSL-2.0
"""loop.sendfile(): files through plain and TLS transports."""

import asyncio
import gc
import inspect
import io
import os
import socket
import ssl

import pytest
from conftest import is_kloop
from tls_tools import run
from transport_tools import (
    Recorder, connected, descriptors, in_thread, receive_all, receive_exactly, reset, turns,
    unix_pair, until, wait)

import kloop

SIZE = 3_000_001
# asyncio set the position only if something was sent, until some 3.14.
ALWAYS_SEEKS = "total_sent" not in inspect.signature(
    asyncio.unix_events._UnixSelectorEventLoop._sock_sendfile_update_filepos).parameters


@pytest.mark.parametrize("fallback", [True, False])
def test_whole_file(loop, pair, file, message, fallback):
    """Between writes, in order; the position is behind what was sent."""

    async def case():
        transport, peer = await connected(loop, Recorder(), pair)
        reading = asyncio.create_task(in_thread(receive_all, peer))
        transport.write(b"head")
        assert await wait(loop.sendfile(transport, file, fallback=fallback)) == SIZE
        assert file.tell() == SIZE
        transport.write(b"tail")
        transport.close()
        assert await reading == b"head" + message + b"tail"
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("offset, count", [
    (0, 1), (1, None), (65536, 65536), (1000, 2_000_000), (SIZE - 1, 10), (SIZE, None),
    (SIZE + 10, 5), (0, SIZE + 1000)])
def test_parts(loop, file, message, offset, count):
    expected = message[offset:][:count]

    async def case():
        transport, peer = await connected(loop, Recorder())
        reading = asyncio.create_task(in_thread(receive_all, peer))
        file.seek(7)
        assert await wait(loop.sendfile(transport, file, offset, count)) == len(expected)
        assert file.tell() == (offset + len(expected) if expected or ALWAYS_SEEKS else 7)
        transport.close()
        assert await reading == expected
        peer.close()

    run(loop, case())


def test_empty_file(loop, tmp_path):
    async def case():
        transport, peer = await connected(loop, Recorder())
        path = tmp_path / "empty"
        path.write_bytes(b"")
        with path.open("rb") as empty:
            assert await wait(loop.sendfile(transport, empty)) == 0
        transport.write(b"x")
        assert await in_thread(receive_exactly, peer, 1) == b"x"
        transport.close()
        peer.close()

    run(loop, case())


def test_fallback(loop, message):
    """What has no descriptor is read into the transport, if that is wanted."""

    async def case():
        transport, peer = await connected(loop, Recorder())
        memory = io.BytesIO(message)
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sendfile(transport, memory, fallback=False)
        reading = asyncio.create_task(in_thread(receive_exactly, peer, SIZE - 5))
        assert await wait(loop.sendfile(transport, memory, 5)) == SIZE - 5
        assert await reading == message[5:]
        assert memory.tell() == SIZE
        # Neither did the failed attempt leave anything behind.
        transport.write(b"x")
        assert await in_thread(receive_exactly, peer, 1) == b"x"
        transport.close()
        peer.close()

    run(loop, case())


def test_irregular_file(kernel_loop, tmp_path):
    async def case():
        transport, peer = await connected(kernel_loop, Recorder())
        read_end, write_end = os.pipe()
        with open(read_end, "rb") as pipe, open(write_end, "wb") as writer:
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await kernel_loop.sendfile(transport, pipe, fallback=False)
            writer.write(b"through")
        with open(tmp_path / "new", "wb") as unreadable, pytest.raises(OSError):
            await kernel_loop.sendfile(transport, unreadable, fallback=False)
        assert transport.is_reading()
        transport.close()
        peer.close()

    run(kernel_loop, case())


@pytest.mark.parametrize("arguments, error", [
    ((-1,), ValueError), (("0",), TypeError), ((0, 0), ValueError), ((0, -1), ValueError),
    ((0, "1"), TypeError)])
def test_bad_arguments(loop, file, arguments, error):
    async def case():
        transport, peer = await connected(loop, Recorder())
        with pytest.raises(error):
            await loop.sendfile(transport, file, *arguments)
        assert transport.is_reading()
        transport.write(b"x")
        transport.close()
        assert await in_thread(receive_all, peer) == b"x"
        with pytest.raises(RuntimeError, match="closing"):
            await loop.sendfile(transport, file)
        peer.close()

    run(loop, case())


def test_text_file(loop, file):
    async def case():
        transport, peer = await connected(loop, Recorder())
        with open(file.name) as text, pytest.raises(ValueError, match="binary"):
            await loop.sendfile(transport, text)
        transport.close()
        peer.close()

    run(loop, case())


async def _begun(loop, transport, file):
    """A task that sends, and has begun to."""
    task = asyncio.create_task(loop.sendfile(transport, file))
    await asyncio.sleep(0.02)
    assert not task.done()
    return task


def test_meanwhile(loop, file, message):
    """No writes, no reads, no second file; afterwards all is as before."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, unix_pair)
        task = await _begun(loop, transport, file)
        for refused in (lambda: transport.write(b"x"), lambda: transport.writelines([b"x"])):
            if is_kloop(loop) or refused.__code__.co_names == ("write",):
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    refused()
        if is_kloop(loop):  # asyncio's transport is not found in its table
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                await loop.sendfile(transport, file)
        await in_thread(peer.sendall, b"early")
        await turns()
        assert protocol.data == b""
        assert await in_thread(receive_exactly, peer, SIZE) == message
        assert await wait(task) == SIZE
        await until(lambda: protocol.data == b"early")
        transport.write(b"x")
        transport.close()
        assert await in_thread(receive_all, peer) == b"x"
        peer.close()

    run(loop, case())


def test_paused_reading_stays_paused(loop, file):
    async def case():
        transport, peer = await connected(loop, Recorder())
        transport.pause_reading()
        assert await wait(loop.sendfile(transport, file, 0, 10)) == 10
        assert not transport.is_reading()
        transport.close()
        peer.close()

    run(loop, case())


def test_cancel(kernel_loop, file, message):
    """What was sent was sent, the position tells (asyncio's does not), and the transport lives."""
    loop = kernel_loop

    async def case():
        transport, peer = await connected(loop, Recorder(), unix_pair)
        task = await _begun(loop, transport, file)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait(task)
        reading = asyncio.create_task(in_thread(receive_all, peer))
        transport.write(b"tail")
        transport.close()
        received = await reading
        assert 0 < file.tell() < SIZE
        assert received == message[:file.tell()] + b"tail"
        peer.close()

    run(loop, case())


def test_cancel_behind_a_write(kernel_loop, file):
    """The peer reads nothing: a file that waits can be taken back all the same."""
    loop = kernel_loop

    async def case():
        transport, peer = await connected(loop, Recorder(), unix_pair)
        block = bytes(8_000_000)
        transport.write(block)
        task = await _begun(loop, transport, file)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait(task)
        assert file.tell() == 0
        transport.close()
        assert await in_thread(receive_all, peer) == block
        peer.close()

    run(loop, case())


def test_abort(kernel_loop, file):
    loop = kernel_loop

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, unix_pair)
        task = await _begun(loop, transport, file)
        transport.abort()
        with pytest.raises(ConnectionError):
            await wait(task)
        assert await wait(protocol.lost) is None
        assert 0 < file.tell() < SIZE
        peer.close()

    run(loop, case())


def test_close_sends_the_file(kernel_loop, file, message):
    """The file is something that was written: close() sends it."""
    loop = kernel_loop

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, unix_pair)
        task = await _begun(loop, transport, file)
        transport.close()
        await turns()
        assert not protocol.lost.done()
        assert await in_thread(receive_all, peer) == message
        assert await wait(task) == SIZE
        assert await wait(protocol.lost) is None
        peer.close()

    run(loop, case())


def test_peer_resets(loop, file):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        task = await _begun(loop, transport, file)
        reset(peer)
        with pytest.raises(ConnectionError):
            await wait(task)
        assert 0 < file.tell() < SIZE
        transport.close()
        await wait(protocol.lost)

    run(loop, case())


def test_file_closed_meanwhile(kernel_loop, file, message):
    """The transport holds a descriptor of its own."""
    loop = kernel_loop

    async def case():
        transport, peer = await connected(loop, Recorder(), unix_pair)
        task = await _begun(loop, transport, file)
        file.close()
        assert await in_thread(receive_exactly, peer, SIZE) == message
        assert await wait(task) == SIZE
        transport.close()
        peer.close()

    run(loop, case())


def test_loop_closed_meanwhile(file):
    """A loop that ends in the middle: no call comes back, no descriptor stays."""
    before = descriptors()
    loop = kloop.Loop()

    async def case():
        transport, peer = await connected(loop, Recorder(), unix_pair)
        return transport, peer, transport._send_file(file.fileno(), 0, 0)

    transport, peer, waiter = run(loop, case())
    with pytest.warns(ResourceWarning):
        loop.close()
        assert not waiter.done()
        del transport
        gc.collect()
    peer.close()
    del loop, waiter
    assert descriptors() == before


# ---- TLS ----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("offset, count", [(0, None), (1000, 1), (5, 1_500_000), (SIZE, None)])
def test_tls(loop, certificates, file, message, version, offset, count):
    expected = message[offset:][:count]

    async def case():
        done = loop.create_future()

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.task = loop.create_task(self.send(transport))

            async def send(self, transport):
                transport.write(b"head")
                # asyncio has but the fallback.
                sent = await loop.sendfile(transport, file, offset, count,
                                           fallback=not is_kloop(loop))
                transport.write(b"tail")
                transport.close()
                done.set_result(sent)

        server = await loop.create_server(Server, "127.0.0.1", 0,
                                          ssl=certificates.server(version=version))
        address = server.sockets[0].getsockname()

        def receive():
            with socket.create_connection(address, timeout=60) as plain:
                with certificates.trusting(version).wrap_socket(
                        plain, server_hostname="localhost") as secure:
                    return receive_until_close(secure)

        assert await in_thread(receive) == b"head" + expected + b"tail"
        assert await wait(done) == len(expected)
        server.close()
        await wait(server.wait_closed())

    run(loop, case())


def receive_until_close(secure):
    parts = []
    while True:
        try:
            part = secure.recv(1 << 18)
        except ssl.SSLEOFError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def test_cancel_twice(kernel_loop, file):
    """A second cancel, while the first waits for the end of what is on its way, changes nothing."""
    loop = kernel_loop

    async def case():
        transport, peer = await connected(loop, Recorder(), unix_pair)
        transport.write(bytes(8_000_000))
        task = await _begun(loop, transport, file)
        task.cancel()
        loop.call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await wait(task)
        transport.write(b"tail")
        transport.close()
        assert (await in_thread(receive_all, peer))[8_000_000:] == b"tail"
        assert file.tell() == 0
        peer.close()

    run(loop, case())
