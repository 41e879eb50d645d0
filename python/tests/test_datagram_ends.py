# SPDX-License-Identifier: MulanPSL-2.0
"""Errors, flow control and ends of datagram endpoints, on asyncio's loop and on kLoop's."""

import asyncio
import contextlib
import gc
import os
import socket
import sys
import weakref

import pytest

import kloop
from conftest import is_kloop
from datagram_tools import echo, ended, endpoint, name_of, nobody
from transport_tools import descriptors, run, turns, until, wait

# asyncio counts a header for each datagram, and sends empty ones, from then on.
HEADER = 8 if sys.version_info >= (3, 13) else 0
PAUSES = sys.version_info >= (3, 12)


# ---- errors -------------------------------------------------------------


def test_refused(loop):
    async def case():
        there = nobody()
        client, protocol = await endpoint(None, remote_addr=there)
        client.sendto(b"1")
        await until(lambda: protocol.errors)
        assert type(protocol.errors[0]) is ConnectionRefusedError
        assert not client.is_closing()
        # Somebody comes after all.
        server, theirs = await endpoint(there, {"datagram_received": echo})
        client.sendto(b"2")
        await until(lambda: protocol.datagrams)
        assert protocol.datagrams == [(b"2", there)]
        await ended(server, client)
        assert protocol.lost.result() is None

    run(loop, case())
    assert not loop.failures


def test_error_inside_sendto(loop):
    async def case():
        server, theirs = await endpoint()
        client, protocol = await endpoint()
        client.sendto(bytes(70000), name_of(server))
        # At once, as asyncio.
        assert [error.errno for error in protocol.errors] == [90]
        client.sendto(b"x", name_of(server))
        await until(lambda: theirs.datagrams)
        # An exception of error_received() goes to the caller.
        protocol.hooks["error_received"] = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            client.sendto(bytes(70000), name_of(server))
        assert not client.is_closing()
        await ended(server, client)

    run(loop, case())
    assert not loop.failures


@pytest.mark.parametrize("address", [
    None, "127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "1"), ("127.0.0.1", 70000),
    ("127.0.0.1", -1), (b"127.0.0.1\0", 1), ["127.0.0.1", 1], (1, 1)])
def test_bad_address(loop, address):
    """A mistake of the program ends the transport, and the handler is told."""

    async def case():
        client, protocol = await endpoint()
        client.sendto(b"x", address)
        assert client.is_closing()
        error = await wait(protocol.lost)
        assert isinstance(error, (TypeError, OverflowError, ValueError))
        assert not protocol.errors
        assert [context["exception"] for context in loop.failures] == [error]
        assert loop.failures[0]["message"] == "Fatal write error on datagram transport"
        assert loop.failures[0]["transport"] is client
        assert loop.failures[0]["protocol"] is protocol

    run(loop, case())


@pytest.mark.parametrize("address", [("localhost", 0), ("127.1", 0), ("", 0)])
def test_address_that_is_no_number(loop, address):
    async def case():
        server, theirs = await endpoint(("0.0.0.0", 0))
        client, _ = await endpoint(("0.0.0.0", 0))
        client.sendto(b"x", (address[0], name_of(server)[1]))
        await until(lambda: theirs.datagrams)
        await ended(server, client)

    run(loop, case())


def test_unknown_name(loop):
    async def case():
        client, protocol = await endpoint()
        client.sendto(b"x", ("name with spaces", 1))
        assert [type(error) for error in protocol.errors] == [socket.gaierror]
        await ended(client)

    run(loop, case())


def test_data_of_wrong_type(loop):
    async def case():
        client, _ = await endpoint()
        with pytest.raises(TypeError, match="data argument must be a bytes-like object, not 'str'"):
            client.sendto("x", name_of(client))
        with pytest.raises(TypeError):
            client.sendto()
        await ended(client)

    run(loop, case())


def test_exception_in_callbacks(loop):
    async def case():
        server, protocol = await endpoint(hooks={
            "connection_made": lambda *_: 1 / 0,
            "datagram_received": lambda *_: 1 / 0,
            "connection_lost": lambda *_: 1 / 0})
        client, _ = await endpoint()
        client.sendto(b"1", name_of(server))
        client.sendto(b"2", name_of(server))
        await until(lambda: len(protocol.datagrams) == 2)
        assert not server.is_closing()
        server.close()
        await until(lambda: len(loop.failures) == 4)
        assert {type(context["exception"]) for context in loop.failures} == {ZeroDivisionError}
        await ended(client)

    run(loop, case())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exit_in_callback(loop, error):
    def leave(*_):
        raise error

    async def begin():
        return await endpoint(hooks={"datagram_received": leave})

    server, protocol = run(loop, begin())
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.sendto(b"x", name_of(server))
    with pytest.raises(error):
        run(loop, asyncio.sleep(60))
    run(loop, ended(server))
    assert not loop.failures


# ---- flow control -------------------------------------------------------


def deaf_peer(tmp_path):
    """A Unix socket that nobody reads: it takes a few datagrams, then no more."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(str(tmp_path / "deaf"))
    peer.setblocking(False)
    return peer


@pytest.mark.parametrize("connected", [True, False])
def test_pause_and_resume(loop, tmp_path, connected):
    async def case():
        peer = deaf_peer(tmp_path)
        address = peer.getsockname()
        transport, protocol = await endpoint(
            None, family=socket.AF_UNIX, **({"remote_addr": address} if connected else
                                            {"local_addr": str(tmp_path / "client")}))
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=1000, low=400)
        assert transport.get_write_buffer_limits() == (400, 1000)
        sent = 0
        to = None if connected else address
        while "pause_writing" not in protocol.events:
            transport.sendto(b"%0100d" % sent, to)
            sent += 1
        queued = transport.get_write_buffer_size()
        assert queued == (1000 // (100 + HEADER) + 1) * (100 + HEADER)
        assert "resume_writing" not in protocol.events
        received = []
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(int(peer.recv(200)))
        while len(received) < sent:
            await asyncio.sleep(0.001)
            with contextlib.suppress(BlockingIOError):
                received.append(int(peer.recv(200)))
        assert received == list(range(sent))
        await until(lambda: protocol.events.count("resume_writing") == 1)
        if HEADER == 0:  # asyncio of 3.13.0 forgets the headers
            assert transport.get_write_buffer_size() == 0
        assert protocol.events.count("pause_writing") == 1
        peer.close()
        await ended(transport)

    run(loop, case())


def test_limits(loop):
    async def case():
        transport, protocol = await endpoint()
        for arguments, expected in (
                ({}, (16384, 65536)), ({"high": 100}, (25, 100)), ({"low": 100}, (100, 400)),
                ({"high": 0}, (0, 0)), ({"high": 5, "low": 5}, (5, 5))):
            transport.set_write_buffer_limits(**arguments)
            assert transport.get_write_buffer_limits() == expected
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.get_write_buffer_size() == 0
        await ended(transport)

    run(loop, case())


@pytest.mark.parametrize("factory", [kloop.Loop, *[asyncio.SelectorEventLoop] * PAUSES])
def test_pause_reading(factory):
    async def case():
        transport, protocol = await endpoint()
        client, _ = await endpoint()
        assert transport.is_reading()
        for i in range(20):
            transport.pause_reading()
            assert not transport.is_reading()
            client.sendto(b"%d" % i, name_of(transport))
            await turns(5)
            assert len(protocol.datagrams) == i
            transport.resume_reading()
            await until(lambda: len(protocol.datagrams) == i + 1)
        assert [data for data, _ in protocol.datagrams] == [b"%d" % i for i in range(20)]
        await ended(transport, client)
        assert not transport.is_reading()

    loop = factory()
    run(loop, case())
    loop.close()


# ---- the end ------------------------------------------------------------


def test_close(loop):
    async def case():
        transport, protocol = await endpoint()
        assert not transport.is_closing()
        transport.close()
        transport.close()
        transport.abort()
        assert transport.is_closing()
        assert "connection_lost" not in protocol.events
        # asyncio still sends what needs no queue.
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(20)
            transport.sendto(b"late", peer.getsockname())
            assert peer.recv(10) == b"late"
        assert await wait(protocol.lost) is None
        assert protocol.events == ["connection_made", "connection_lost"]

    run(loop, case())


def test_close_sends_what_is_queued(loop, tmp_path):
    async def case():
        peer = deaf_peer(tmp_path)
        transport, protocol = await endpoint(None, family=socket.AF_UNIX,
                                             remote_addr=peer.getsockname())
        sent = 0
        while transport.get_write_buffer_size() < 50000:
            transport.sendto(b"%0100d" % sent)
            sent += 1
        transport.close()
        await turns(5)
        assert "connection_lost" not in protocol.events
        received = []
        while not protocol.lost.done() or len(received) < sent:
            with contextlib.suppress(BlockingIOError):
                received.append(int(peer.recv(200)))
            await asyncio.sleep(0)
        assert received == list(range(sent))
        assert protocol.lost.result() is None
        peer.close()

    run(loop, case())


def test_abort_does_not(loop, tmp_path):
    async def case():
        peer = deaf_peer(tmp_path)
        transport, protocol = await endpoint(None, family=socket.AF_UNIX,
                                             remote_addr=peer.getsockname())
        while transport.get_write_buffer_size() < 50000:
            transport.sendto(bytes(100))
        transport.close()
        await turns(3)
        transport.abort()
        assert await wait(protocol.lost) is None
        if is_kloop(loop):
            assert transport.get_write_buffer_size() == 0
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_end_inside_callback(loop, how):
    async def case():
        server, protocol = await endpoint(hooks={
            "datagram_received": lambda p, *_: getattr(p.transport, how)()})
        client, _ = await endpoint()
        for _ in range(20):
            client.sendto(b"x", name_of(server))
        await wait(protocol.lost)
        assert len(protocol.datagrams) == 1
        await ended(client)

    run(loop, case())


def test_lost_writes_are_told(loop, caplog):
    async def case():
        transport, protocol = await endpoint(None, remote_addr=nobody())
        transport.close()
        for _ in range(10):
            transport.sendto(b"x")
        assert [record.message for record in caplog.records] == \
            ["socket.send() raised exception."] * 6
        await wait(protocol.lost)

    run(loop, case())


def test_unclosed(loop):
    async def begin():
        transport, protocol = await endpoint()
        protocol.transport = None
        return weakref.ref(transport), transport.get_extra_info("socket").fileno()

    ref, fd = run(loop, begin())
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        loop.close()
        loop = None
        gc.collect()
        gc.collect()
    assert ref() is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_freed_after_the_end(loop):
    async def case():
        transport, protocol = await endpoint()
        refs = [weakref.ref(transport), weakref.ref(protocol)]
        await ended(transport)
        del transport, protocol
        await turns(3)
        gc.collect()
        assert [ref() for ref in refs] == [None, None]

    run(loop, case())


def test_cancelled(loop):
    """A creation that is cancelled leaves nothing behind."""

    async def case():
        task = asyncio.ensure_future(endpoint())
        await turns(1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            transport, _ = await task
            transport.close()
        await turns(5)

    before = descriptors()
    for _ in range(5):
        run(loop, case())
    assert descriptors() == before


@pytest.mark.parametrize("number", [63, 64, 65, 66, 67])
def test_paused_by_any_datagram(kernel_loop, number):
    """Also by the last of those that wait when the socket is left alone because of them."""

    async def case():
        loop = asyncio.get_running_loop()

        def received(protocol, *_):
            loop.call_soon(int)  # what came meanwhile waits for its turn
            if len(protocol.datagrams) == number:
                protocol.transport.pause_reading()
                loop.call_later(0.01, protocol.transport.resume_reading)

        transport, protocol = await endpoint(hooks={"datagram_received": received})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(150):
                sock.sendto(b"x", name_of(transport))
        loop.call_soon(int)
        await until(lambda: len(protocol.datagrams) == 150)
        await ended(transport)

    run(kernel_loop, case())
