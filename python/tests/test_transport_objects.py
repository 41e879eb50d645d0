# SPDX-License-Identifier: MulanPSL-2.0
"""What stream transports are: on asyncio's loop and on kLoop's."""

import asyncio
import gc
import os
import re
import socket
import threading
import time
import warnings
import weakref

import pytest

from transport_tools import (
    Recorder,
    caught_errors,
    connected,
    in_thread,
    receive_exactly,
    reset,
    run,
    tcp_pair,
    thread,
    turns,
    unix_pair,
    until,
    wait,
)


# ---- set_protocol -------------------------------------------------------


def test_set_protocol_while_data_flows(loop):
    async def case():
        second = Recorder()

        def switch(protocol, _data):
            if len(protocol.data) > 100000:
                protocol.transport.set_protocol(second)

        first = Recorder(data_received=switch)
        transport, peer = await connected(loop, first)
        assert transport.get_protocol() is first
        message = os.urandom(4 << 20)
        with thread(lambda: (peer.sendall(message), peer.close())):
            await wait(second.lost)
        assert transport.get_protocol() is None
        assert first.data + second.data == message
        assert second.data
        assert "connection_lost" not in first.events
        assert "connection_made" not in second.events

    run(loop, case())


def test_protocol_without_reading_methods(loop):
    """asyncio looks methods up when it calls them; one that lacks them may write."""

    class Writer(asyncio.BaseProtocol):
        pass

    async def case():
        transport, peer = await connected(loop, Writer())
        transport.write(b"works")
        assert await in_thread(receive_exactly, peer, 5) == b"works"
        with caught_errors(loop) as contexts:
            peer.sendall(b"data")
            await until(lambda: contexts)
            assert isinstance(contexts[0]["exception"], AttributeError)
            assert transport.is_closing()
            await asyncio.sleep(0.01)
        peer.close()

    run(loop, case())


# ---- what a transport tells ---------------------------------------------


def test_extra_info_tcp(loop):
    async def case():
        mine, peer = tcp_pair()
        mine.setblocking(False)
        names = mine.getsockname(), mine.getpeername()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, sock=mine)
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.get_extra_info("peername") == names[1]
        sock = transport.get_extra_info("socket")
        assert sock.fileno() == mine.fileno()
        assert sock.family == socket.AF_INET
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", "default") == "default"
        assert transport.get_extra_info(name="nothing", default=5) == 5
        assert transport.get_extra_info(5) is None
        with pytest.raises(TypeError):
            transport.get_extra_info()
        transport.close()
        await wait(protocol.lost)
        await until(lambda: transport.get_extra_info("socket").fileno() == -1)
        assert transport.get_extra_info("sockname") == names[0]
        assert transport.get_extra_info("peername") == names[1]
        assert mine.fileno() == -1
        peer.close()

    run(loop, case())


def test_extra_info_unix(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, unix_pair)
        assert transport.get_extra_info("sockname") == ""
        assert transport.get_extra_info("peername") == ""
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


def test_types(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport._start_tls_compatible
        assert weakref.ref(transport)() is transport
        fd = transport.get_extra_info("socket").fileno()
        assert re.fullmatch(
            rf"<\w+Transport fd={fd} read=(polling|idle) write=<idle, bufsize=0>>",
            repr(transport))
        transport.write(b"x" * (8 << 20))
        await turns()
        assert re.search(r"write=<polling, bufsize=[1-9]\d*>", repr(transport))
        transport.close()
        assert re.search(rf"Transport closing fd={fd} ", repr(transport))
        transport.abort()
        await wait(protocol.lost)
        await turns()
        assert re.search(rf"Transport closed fd={fd}", repr(transport))
        peer.close()

    run(loop, case())


def test_contexts_of_connections_are_apart(loop):
    """What one connection's callbacks set stays with them."""
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")

    async def case():
        seen = []

        class Server(asyncio.Protocol):
            def data_received(self, data):
                seen.append((data, variable.get()))
                variable.set(data)

        variable.set("server")
        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        variable.set("changed later")
        peers = [socket.create_connection(address) for _ in range(2)]
        for number, peer in enumerate(peers):
            peer.sendall(b"%d" % number)
            await until(lambda number=number: len(seen) == number + 1)
        peers[0].sendall(b"again")
        await until(lambda: len(seen) == 3)
        assert seen == [(b"0", "server"), (b"1", "server"), (b"again", b"0")]
        for peer in peers:
            peer.close()
        server.close()
        await asyncio.sleep(0.02)

    run(loop, case())


def test_another_thread_may_not_write(loop):
    """asyncio corrupts itself silently; kLoop says what is wrong."""
    if isinstance(loop, asyncio.SelectorEventLoop):
        return

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        errors = []

        def misuse():
            for call in (lambda: transport.write(b"x" * 10), transport.close, transport.abort,
                         lambda: transport.write(b"x" * 100000), transport.pause_reading,
                         transport.resume_reading):
                try:
                    call()
                except RuntimeError as error:
                    errors.append(str(error))

        worker = threading.Thread(target=misuse)
        worker.start()
        while worker.is_alive():
            await asyncio.sleep(0.001)
        assert len(errors) == 6 and all("thread" in text.lower() for text in errors)
        assert not transport.is_closing()
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())


# ---- what nobody closed -------------------------------------------------


def test_unclosed_transport_warns(loop_factory):
    loop = loop_factory()

    async def case():
        protocol = Recorder()
        return await connected(loop, protocol)

    transport, peer = loop.run_until_complete(case())
    sock = transport.get_extra_info("socket")
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        transport.close()
    with pytest.warns(ResourceWarning, match="unclosed transport <"):
        transport = None
        gc.collect()
    assert sock.fileno() == -1
    peer.close()


def test_closed_transport_does_not_warn(loop_factory):
    loop = loop_factory()

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.close()
        await wait(protocol.lost)
        peer.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.run_until_complete(case())
        loop.close()
        gc.collect()


def test_slow_callback_is_logged(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05

    async def case():
        protocol = Recorder(data_received=lambda *_: time.sleep(0.06))
        transport, peer = await connected(loop, protocol)
        peer.sendall(b"data")
        await until(lambda: protocol.data)
        transport.close()
        await wait(protocol.lost)
        peer.close()

    run(loop, case())
    lines = [r.getMessage() for r in caplog.records if "Executing" in r.getMessage()]
    assert any(re.search(r"took 0\.\d+ seconds", line) for line in lines)


def test_debug_mode(loop, caplog):
    caplog.set_level("DEBUG", "asyncio")
    loop.set_debug(True)

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.pause_reading()
        transport.resume_reading()
        peer.close()
        await wait(protocol.lost)
        protocol = Recorder()
        _, peer = await connected(loop, protocol)
        reset(peer)
        await wait(protocol.lost)

    run(loop, case())
    text = caplog.text
    assert "pauses reading" in text
    assert "resumes reading" in text
    assert "received EOF" in text
    assert "Fatal read error on socket transport" in text
