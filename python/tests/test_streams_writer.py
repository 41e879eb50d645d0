# SPDX-License-Identifier: MulanPSL-2.0
"""Writers of asyncio's streams, callbacks of servers, Unix sockets and TLS, on both loops."""

import asyncio
import gc
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from streams_tools import connected, run
from transport_tools import reset

BIG = bytes(range(256)) * 4096


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


# ---- writers --------------------------------------------------------------------------


def test_writer(loop):
    async def case():
        async with connected() as (reader, writer, there, back):
            assert writer.get_extra_info("peername") == back.get_extra_info("sockname")
            assert writer.get_extra_info("no such thing", 5) == 5
            assert not writer.is_closing()
            await writer.drain()
            writer.close()
            assert writer.is_closing()
            await writer.wait_closed()
            assert await there.read() == b""
            with pytest.raises(ConnectionResetError):
                await writer.drain()

    run(loop, case())


@pytest.mark.parametrize("size", [4 << 10, 64 << 10])
def test_drain_after_a_reset(loop, size):
    async def case():
        with socket.create_server(("127.0.0.1", 0)) as listener:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            reset(listener.accept()[0])
        with pytest.raises(ConnectionError):
            for _ in range(100):        # drain() makes a turn only where the transport is closing
                writer.write(bytes(size))
                await writer.drain()
        with pytest.raises(ConnectionError):
            await writer.wait_closed()

    run(loop, case())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the warning came in Python 3.12")
def test_writer_that_was_not_closed(loop):
    async def case():
        async with connected() as (_, _, there, back):
            reader, writer = await asyncio.open_connection(*back.get_extra_info("sockname"))
            with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
                del reader, writer
                await asyncio.sleep(0)
                gc.collect()

    run(loop, case())


def test_callback_that_fails(loop):
    def fail(reader, writer):
        writer.close()
        raise ZeroDivisionError("in the callback")

    async def case():
        async with connected(fail) as (reader, _):
            assert await reader.read() == b""
            await until(lambda: loop.failures)
            assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)

    run(loop, case())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 reports it at once")
def test_coroutine_that_fails(loop):
    async def fail(reader, writer):
        await reader.readexactly(1)
        raise ZeroDivisionError("in the coroutine")

    async def case():
        async with connected(fail) as (reader, writer):
            writer.write(b"x")
            assert await reader.read() == b""
            await until(lambda: loop.failures)
            assert loop.failures[0]["message"] == "Unhandled exception in client_connected_cb"
            assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)

    run(loop, case())


def test_a_reader_that_nobody_holds(loop):
    """The protocol has but a weak reference: what comes then is dropped, and harms nothing."""
    async def case():
        async with connected() as (reader, writer, _, back):
            again, other = await asyncio.open_connection(*back.get_extra_info("sockname"))
            transport = other.transport
            other._reader = None
            del again
            gc.collect()
            back.write(BIG)
            await back.drain()
            assert transport.is_reading()
            transport.close()

    run(loop, case())


@pytest.mark.parametrize("abstract", [False, True])
def test_unix(loop, abstract):
    async def case(path):
        async def shout(reader, writer):
            async for line in reader:
                writer.write(line.upper())
            writer.close()

        server = await asyncio.start_unix_server(shout, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\nworld\n")
        assert await reader.readline() == b"HELLO\n"
        writer.write_eof()
        assert await reader.read() == b"WORLD\n"
        writer.close()
        server.close()

    with tempfile.TemporaryDirectory() as folder:
        run(loop, case(f"\0{folder}" if abstract else str(Path(folder) / "socket")))


# ---- TLS -----------------------------------------------------------------------------------


def test_tls(tls_loop, certificates):
    async def case():
        async def echo(reader, writer):
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificates.server())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=certificates.trusting(),
            server_hostname="localhost")
        for size in 1, 1000, 100_000, 1_000_000:
            data = bytes(size)
            writer.write(data)
            assert await reader.readexactly(size) == data
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        writer.close()
        server.close()

    run(tls_loop, case())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="StreamWriter.start_tls() came in 3.11")
def test_start_tls(tls_loop, certificates):
    async def case():
        async def upgrade(reader, writer):
            assert await reader.readline() == b"please\n"
            writer.write(b"yes\n")
            await writer.drain()
            await writer.start_tls(certificates.server())
            async for line in reader:
                writer.write(line.upper())
            writer.close()

        server = await asyncio.start_server(upgrade, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"please\n")
        assert await reader.readline() == b"yes\n"
        await writer.start_tls(certificates.trusting(), server_hostname="localhost")
        assert writer.get_extra_info("cipher") is not None
        lines = [b"line %d " % number * 100 + b"\n" for number in range(100)]
        for line in lines:
            writer.write(line)
            assert await reader.readline() == line.upper()
        writer.close()
        server.close()

    run(tls_loop, case())
