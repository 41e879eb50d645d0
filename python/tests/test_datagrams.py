# SPDX-License-Identifier: MulanPSL-2.0
"""Datagram endpoints: the same cases on asyncio's loop and on kLoop's."""

import asyncio
import gc
import os
import re
import socket
import struct
import sys
import warnings

import pytest

from datagram_tools import echo, ended, endpoint, name_of, needs_ipv6
from port_tools import free_port
from transport_tools import run, turns, until

# asyncio counts a header for each datagram from then on.
HEADER = 8 if sys.version_info >= (3, 13) else 0


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
        first, _ = await endpoint(("127.0.0.1", free_port()), reuse_port=True)
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
