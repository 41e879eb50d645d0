# SPDX-License-Identifier: MulanPSL-2.0
"""Datagram endpoints: the same cases on asyncio's loop and on kLoop's."""

import asyncio
import contextlib
import contextvars
import gc
import os
import re
import socket
import struct
import sys
import threading
import warnings
import weakref

import pytest

import kloop
from conftest import is_kloop
from transport_tools import in_thread, turns, until, wait

# asyncio counts a header for each datagram, and sends empty ones, from then on.
HEADER = 8 if sys.version_info >= (3, 13) else 0
PAUSES = sys.version_info >= (3, 12)


class Recorder(asyncio.DatagramProtocol):
    """Writes down every call; hooks (callables by name) run after that."""

    def __init__(self, **hooks):
        self.events = []
        self.datagrams = []
        self.errors = []
        self.transport = None
        self.hooks = hooks
        self.lost = asyncio.get_running_loop().create_future()

    def _note(self, name, *args):
        self.events.append(name)
        hook = self.hooks.get(name)
        if hook is not None:
            hook(self, *args)

    def connection_made(self, transport):
        self.transport = transport
        self._note("connection_made", transport)

    def datagram_received(self, data, addr):
        assert type(data) is bytes
        self.datagrams.append((data, addr))
        self._note("datagram_received", data, addr)

    def error_received(self, exc):
        self.errors.append(exc)
        self._note("error_received", exc)

    def pause_writing(self):
        self._note("pause_writing")

    def resume_writing(self):
        self._note("resume_writing")

    def connection_lost(self, error):
        self._note("connection_lost", error)
        self.lost.set_result(error)


def run(loop, case):
    return loop.run_until_complete(asyncio.wait_for(case, 60))


async def endpoint(local=("127.0.0.1", 0), hooks=None, **options):
    """A transport and its recording protocol."""
    if local is not None:
        options["local_addr"] = local
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(lambda: Recorder(**(hooks or {})), **options)


async def ended(*transports):
    for transport in transports:
        protocol = transport.get_protocol()
        transport.close()
        if protocol is not None:
            await wait(protocol.lost)


def name_of(transport):
    return transport.get_extra_info("sockname")


def echo(protocol, data, addr):
    protocol.transport.sendto(data, addr)


def nobody(host="127.0.0.1"):
    """An address at which nobody listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[:2]


def needs_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        return
    pytest.fail("the machine has no IPv6 on loopback")


# ---- there and back -----------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_echo(loop, host):
    async def case():
        server, _ = await endpoint((host, 0), {"datagram_received": echo})
        client, protocol = await endpoint((host, 0))
        sizes = [1, 100, 1400, 20000, 65000]
        for size in sizes:
            data = os.urandom(size)
            client.sendto(data, name_of(server))
            await until(lambda: len(protocol.datagrams) == sizes.index(size) + 1)
            assert protocol.datagrams[-1] == (data, name_of(server))
        # Many at once, in order.
        for i in range(100):
            client.sendto(b"%d" % i, name_of(server))
        await until(lambda: len(protocol.datagrams) == len(sizes) + 100)
        assert [data for data, _ in protocol.datagrams[len(sizes):]] == \
            [b"%d" % i for i in range(100)]
        await ended(server, client)
        assert protocol.events[0] == "connection_made"
        assert protocol.events[-1] == "connection_lost"
        assert protocol.lost.result() is None

    if host == "::1":
        needs_ipv6()
    run(loop, case())
    assert not loop.failures


def test_many_senders(loop):
    """Each gets its own answer, whoever was before."""

    async def case():
        server, protocol = await endpoint(hooks={"datagram_received": echo})
        clients = [await endpoint() for _ in range(20)]
        for round_number in range(5):
            for i, (client, _) in enumerate(clients):
                client.sendto(b"%d %d" % (round_number, i), name_of(server))
        for i, (client, theirs) in enumerate(clients):
            await until(lambda theirs=theirs: len(theirs.datagrams) == 5)
            assert theirs.datagrams == [(b"%d %d" % (r, i), name_of(server)) for r in range(5)]
        assert {addr for _, addr in protocol.datagrams} == {name_of(c) for c, _ in clients}
        await ended(server, *(client for client, _ in clients))

    run(loop, case())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "subclass", "items"])
def test_what_is_sent(loop, kind):
    class Bytes(bytes):
        pass

    makers = {"subclass": Bytes, "items": lambda data: memoryview(data).cast("H")}

    async def case():
        server, protocol = await endpoint()
        client, _ = await endpoint()
        data = makers.get(kind, kind)(b"abcd")
        client.sendto(data, name_of(server))
        if kind is bytearray:
            data[:] = b"else"
        await until(lambda: protocol.datagrams)
        assert protocol.datagrams[0][0] == b"abcd"
        await ended(server, client)

    run(loop, case())


def test_empty(loop):
    async def case():
        server, protocol = await endpoint(hooks={"datagram_received": echo})
        client, own = await endpoint()
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.settimeout(20)
            for _ in range(3):
                peer.sendto(b"", name_of(server))
            peer.sendto(b"last", name_of(server))
            await until(lambda: len(protocol.datagrams) == 4)
            assert [data for data, _ in protocol.datagrams] == [b"", b"", b"", b"last"]
        # Sending one is another matter.
        client.sendto(b"", name_of(server))
        client.sendto(b"x", name_of(server))
        await until(lambda: own.datagrams and own.datagrams[-1][0] == b"x")
        assert len(own.datagrams) == (2 if HEADER else 1)
        await ended(server, client)

    run(loop, case())


def test_longer_than_is_read(loop):
    """What does not fit into 256 KiB is cut off, without a word."""

    async def case():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212992)
        transport, protocol = await endpoint(None, sock=ours)
        theirs.send(bytes(300000))
        theirs.send(b"short")
        await until(lambda: len(protocol.datagrams) == 2)
        assert [len(data) for data, _ in protocol.datagrams] == [256 * 1024, 5]
        theirs.close()
        await ended(transport)

    run(loop, case())


# ---- kinds of endpoints -------------------------------------------------


def test_connected(loop):
    async def case():
        server, theirs = await endpoint()
        client, ours = await endpoint(None, remote_addr=name_of(server))
        other, _ = await endpoint()
        assert client.get_extra_info("peername") == name_of(server)
        client.sendto(b"1")
        client.sendto(b"2", None)
        client.sendto(b"3", name_of(server))
        client.sendto(b"4", addr=name_of(server))
        with pytest.raises(ValueError, match=re.escape(
                f"Invalid address: must be None or {name_of(server)}")):
            client.sendto(b"5", name_of(other))
        await until(lambda: len(theirs.datagrams) == 4)
        # Strangers are not heard.
        other.sendto(b"no", name_of(client))
        server.sendto(b"yes", name_of(client))
        await until(lambda: ours.datagrams)
        assert ours.datagrams == [(b"yes", name_of(server))]
        await ended(server, client, other)

    run(loop, case())


def test_local_and_remote(loop):
    async def case():
        server, theirs = await endpoint(("localhost", 0), family=socket.AF_INET)
        client, _ = await endpoint(("localhost", 0), family=socket.AF_INET,
                                   remote_addr=name_of(server))
        client.sendto(b"x")
        await until(lambda: theirs.datagrams)
        assert theirs.datagrams == [(b"x", name_of(client))]
        await ended(server, client)

    run(loop, case())


def test_broadcast(loop):
    async def case():
        server, theirs = await endpoint(("0.0.0.0", 0))
        everybody = ("127.255.255.255", name_of(server)[1])
        plain, protocol = await endpoint(("0.0.0.0", 0))
        plain.sendto(b"no", everybody)
        assert [type(error) for error in protocol.errors] == [PermissionError]
        # With remote_addr it is not connected, and still has one address only.
        client, _ = await endpoint(("0.0.0.0", 0), remote_addr=everybody, allow_broadcast=True)
        assert client.get_extra_info("peername") is None
        client.sendto(b"1")
        client.sendto(b"2", everybody)
        with pytest.raises(ValueError, match="Invalid address"):
            client.sendto(b"3", name_of(server))
        await until(lambda: len(theirs.datagrams) == 2)
        assert [data for data, _ in theirs.datagrams] == [b"1", b"2"]
        await ended(server, plain, client)

    run(loop, case())


def test_multicast(loop):
    group = "239.255.77.1"

    async def case():
        server, theirs = await endpoint(("0.0.0.0", 0))
        sock = server.get_extra_info("socket")
        request = struct.pack("4s4s", socket.inet_aton(group), socket.inet_aton("127.0.0.1"))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        client, _ = await endpoint()
        sock = client.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        client.sendto(b"group", (group, name_of(server)[1]))
        await until(lambda: theirs.datagrams)
        assert theirs.datagrams == [(b"group", name_of(client))]
        await ended(server, client)

    run(loop, case())


def test_reuse_port(loop):
    async def case():
        first, _ = await endpoint(reuse_port=True)
        second, _ = await endpoint(name_of(first), reuse_port=True)
        assert name_of(first) == name_of(second)
        with pytest.raises(OSError, match="in use"):
            await endpoint(name_of(first))
        await ended(first, second)
        third, _ = await endpoint(name_of(first))
        await ended(third)

    run(loop, case())


def test_scope(loop):
    """A link-local address with its interface."""
    needs_ipv6()

    async def case():
        server, theirs = await endpoint(("::", 0), family=socket.AF_INET6)
        client, own = await endpoint(("::1", 0))
        port = name_of(server)[1]
        client.sendto(b"2", ("::1", port))
        client.sendto(b"3", ("::1", port, 0))
        client.sendto(b"4", ("::1", port, 0, 0))
        await until(lambda: len(theirs.datagrams) == 3)
        assert {addr for _, addr in theirs.datagrams} == {name_of(client)}
        # An interface that there is not: the kernel says so.
        client.sendto(b"5", ("fe80::1", port, 0, 0x7fffffff))
        await until(lambda: own.errors)
        assert isinstance(own.errors[0], OSError)
        server.get_protocol().datagrams.clear()
        # Mapped addresses of IPv4.
        mapped, _ = await endpoint()
        mapped.sendto(b"6", ("127.0.0.1", port))
        await until(lambda: theirs.datagrams)
        assert theirs.datagrams[0][1][:2] == ("::ffff:127.0.0.1", name_of(mapped)[1])
        await ended(server, client, mapped)

    run(loop, case())


def test_unix(loop, tmp_path):
    path, other = str(tmp_path / "server"), str(tmp_path / "client")

    async def case():
        server, theirs = await endpoint(path, {"datagram_received": echo},
                                        family=socket.AF_UNIX)
        assert name_of(server) == path
        client, ours = await endpoint(other, family=socket.AF_UNIX)
        client.sendto(b"bound", path)
        client.sendto(b"bytes", os.fsencode(path))
        await until(lambda: len(ours.datagrams) == 2)
        assert theirs.datagrams == [(b"bound", other), (b"bytes", other)]
        assert ours.datagrams == [(b"bound", path), (b"bytes", path)]
        connected, _ = await endpoint(None, remote_addr=path, family=socket.AF_UNIX)
        server.get_protocol().hooks.clear()
        connected.sendto(b"nameless")
        await until(lambda: len(theirs.datagrams) == 3)
        assert theirs.datagrams[2] == (b"nameless", None)
        await ended(server, client, connected)
        # The path of one that was closed is taken over.
        again, _ = await endpoint(path, family=socket.AF_UNIX)
        await ended(again)

    run(loop, case())


def test_abstract(loop):
    async def case():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(b"\0kloop-test-%d" % os.getpid())
            peer.settimeout(20)
            transport, protocol = await endpoint("\0kloop-%d" % os.getpid(),
                                                 family=socket.AF_UNIX)
            transport.sendto(b"x", peer.getsockname())
            assert peer.recvfrom(10) == (b"x", name_of(transport))
            peer.sendto(b"y", name_of(transport))
            await until(lambda: protocol.datagrams)
            assert protocol.datagrams == [(b"y", peer.getsockname())]
            await ended(transport)

    run(loop, case())


def test_given_socket(loop):
    async def case():
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        transport, protocol = await endpoint(None, sock=sock)
        assert sock.gettimeout() == 0
        shown = transport.get_extra_info("socket")
        assert isinstance(shown, asyncio.trsock.TransportSocket)
        assert shown.fileno() == sock.fileno()
        with pytest.raises(RuntimeError, match="is used by transport"):
            asyncio.get_running_loop().add_reader(sock, print)
        transport.sendto(b"self", sock.getsockname())
        await until(lambda: protocol.datagrams)
        await ended(transport)
        await turns(3)
        assert sock.fileno() == -1
        with pytest.raises(ValueError, match="socket modifier keyword arguments"):
            await endpoint(("127.0.0.1", 0), sock=socket.socket(type=socket.SOCK_DGRAM))
        with socket.socket() as stream, pytest.raises(ValueError, match="[sS]ocket was expected"):
            await endpoint(None, sock=stream)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(loop, case())
        gc.collect()


def test_connected_socket_needs_no_address(loop):
    async def case():
        server, theirs = await endpoint()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.connect(name_of(server))
        transport, _ = await endpoint(None, sock=sock)
        transport.sendto(b"1")
        transport.sendto(b"2", name_of(server))
        # asyncio does not look at the address then.
        transport.sendto(b"3", ("127.0.0.1", 1))
        await until(lambda: len(theirs.datagrams) == 3)
        await ended(server, transport)

    run(loop, case())


def test_netlink(loop):
    """A family that kLoop leaves to asyncio's own transport."""

    async def case():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM) as peer:
            peer.bind((0, 0))
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM)
            sock.bind((0, 0))
            transport, protocol = await endpoint(None, sock=sock)
            peer.sendto(b"\x10\0\0\0\x10\0\0\0" + bytes(8), sock.getsockname())
            await until(lambda: protocol.datagrams or protocol.errors)
            await ended(transport)

    run(loop, case())


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

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run(loop, case())
    assert len(os.listdir("/proc/self/fd")) == before


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
