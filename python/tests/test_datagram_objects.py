# SPDX-License-Identifier: MulanPSL-2.0
"""What datagram endpoints are, on asyncio's loop and on kLoop's."""

import asyncio
import contextvars
import re
import socket
import sys
import threading

import pytest

import kloop
from conftest import is_kloop
from datagram_tools import Recorder, echo, ended, endpoint, name_of
from transport_tools import in_thread, run, turns, until

# asyncio sends empty datagrams from then on.
PAUSES = sys.version_info >= (3, 12)


# ---- what it is ---------------------------------------------------------


def test_kind(loop):
    async def case():
        transport, protocol = await endpoint()
        if is_kloop(loop) or PAUSES:
            assert isinstance(transport, asyncio.DatagramTransport)
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_protocol() is protocol
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert re.fullmatch(r"<_?\w+Transport fd=\d+ read=\w+ write=<idle, bufsize=0>>",
                            repr(transport))
        other = Recorder()
        transport.set_protocol(other)
        transport.sendto(b"x", name_of(transport))
        await until(lambda: other.datagrams)
        assert transport.get_protocol() is other
        await ended(transport)
        assert not protocol.datagrams

    run(loop, case())


def test_context(loop):
    """Callbacks share one context: what one sets the next one sees."""
    variable = contextvars.ContextVar("variable", default=0)
    seen = []

    def count(*_):
        seen.append(variable.get())
        variable.set(variable.get() + 1)

    async def case():
        variable.set(10)
        transport, _ = await endpoint(hooks={"datagram_received": count})
        for _ in range(3):
            transport.sendto(b"x", name_of(transport))
        await until(lambda: len(seen) == 3)
        assert seen == [10, 11, 12]
        assert variable.get() == 10
        await ended(transport)

    run(loop, case())


def test_wrong_thread(kernel_loop):
    async def case():
        transport, protocol = await endpoint()
        for method, *args in (("sendto", b"x", name_of(transport)), ("close",), ("abort",),
                              ("pause_reading",)):
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                await in_thread(getattr(transport, method), *args)
        assert not transport.is_closing()
        await ended(transport)

    run(kernel_loop, case())


def test_loops_in_threads():
    """Several loops at once, each with its own buffers."""
    results = []

    def work():
        async def case():
            server, _ = await endpoint(hooks={"datagram_received": echo})
            client, protocol = await endpoint()
            for i in range(200):
                client.sendto(b"%d" % i, name_of(server))
                await until(lambda: len(protocol.datagrams) == i + 1)
            await ended(server, client)
            return [data for data, _ in protocol.datagrams]

        loop = kloop.Loop()
        results.append(run(loop, case()))
        loop.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[b"%d" % i for i in range(200)]] * 3


@pytest.mark.parametrize("options", [{"sqpoll": True}, {"receive_buffers": 1}])
def test_modes(options):
    async def case():
        server, _ = await endpoint(hooks={"datagram_received": echo})
        client, protocol = await endpoint()
        for i in range(100):
            client.sendto(b"%d" % i, name_of(server))
        await until(lambda: len(protocol.datagrams) == 100)
        assert [data for data, _ in protocol.datagrams] == [b"%d" % i for i in range(100)]
        client.sendto(bytes(70000), name_of(server))
        await until(lambda: protocol.errors)
        await ended(server, client)

    loop = kloop.Loop(**options)
    run(loop, case())
    loop.close()


def test_no_system_call_to_receive(kernel_loop):
    """The kernel hands over what arrives; no recvfrom(2) for any of it."""

    async def case():
        server, protocol = await endpoint()
        await turns(3)
        before = kernel_loop.stats()["direct_calls"]
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            for i in range(100):
                peer.sendto(b"x", name_of(server))
                await until(lambda: len(protocol.datagrams) == i + 1)
        assert kernel_loop.stats()["direct_calls"] == before
        await ended(server)

    run(kernel_loop, case())


def test_what_was_scheduled_before_comes_first(loop):
    """A task made after the send runs before the datagram is delivered, as asyncio has it."""
    events = []

    async def begin():
        return await endpoint(hooks={
            "datagram_received": lambda p, data, addr: (
                events.append(data), asyncio.get_running_loop().call_soon(events.append, 1))})

    async def look():
        events.append("task")
        await until(lambda: events.count(1) == 3)

    transport, _ = run(loop, begin())
    for i in range(3):
        transport.sendto(b"%d" % i, name_of(transport))
    loop.run_until_complete(look())
    assert events == ["task", b"0", 1, b"1", 1, b"2", 1]
    run(loop, ended(transport))


def test_flood_while_busy(kernel_loop):
    """However busy the loop is, few datagrams wait outside of the socket, and in order."""

    async def case():
        transport, protocol = await endpoint()
        busy = asyncio.ensure_future(spin())
        for i in range(200):
            transport.sendto(b"%d" % i, name_of(transport))
        await until(lambda: len(protocol.datagrams) == 200)
        assert [data for data, _ in protocol.datagrams] == [b"%d" % i for i in range(200)]
        busy.cancel()
        await ended(transport)

    async def spin():
        while True:
            await asyncio.sleep(0)

    run(kernel_loop, case())
