# SPDX-License-Identifier: MulanPSL-2.0
"""Names in asyncio's own calls: connections, servers, datagrams, sockets."""

import asyncio
import socket

import pytest

import kloop
from port_tools import free_port
from resolver_tools import cancel_when_asked
from transport_tools import run


def has_ip6():
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def echo(reader, writer):
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    writer.close()
    await writer.wait_closed()


async def started(loop, host="127.0.0.1"):
    # Nobody else has it on ::1, where names may lead first.
    server = await loop.create_server(Echo, host, free_port())
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("debug", [False, True])
def test_connections(dns_loop, name_server, debug):
    dns_loop.set_debug(debug)

    async def main():
        server, port = await started(dns_loop)
        await echo(*await asyncio.open_connection("local.test", port))
        await echo(*await asyncio.open_connection("local", str(port)))
        await echo(*await asyncio.open_connection("both.test", port, family=socket.AF_INET))
        await echo(*await asyncio.open_connection("both.test", port, happy_eyeballs_delay=0.25))
        await echo(*await asyncio.open_connection("dead-first.test", port,
                                                  happy_eyeballs_delay=0.25, interleave=1))
        await echo(*await asyncio.open_connection("local.test", port,
                                                  local_addr=("local.test", 0)))
        server.close()
        await server.wait_closed()

    run(dns_loop, main())
    assert name_server.count("local.test") >= 2
    assert dns_loop.resolver.stats()["system"] == 0
    assert dns_loop._default_executor is None


def test_server_by_name(dns_loop):
    async def main():
        server, port = await started(dns_loop, "local.test")
        assert server.sockets[0].getsockname()[0] == "127.0.0.1"
        await echo(*await asyncio.open_connection("127.0.0.1", port))
        server.close()
        server = await dns_loop.create_server(Echo, ["local.test", "127.0.0.2"], 0)
        assert {sock.getsockname()[0] for sock in server.sockets} == {"127.0.0.1", "127.0.0.2"}
        server.close()
        server = await dns_loop.create_server(Echo, None, 0)
        assert len(server.sockets) >= 1
        server.close()
        with pytest.raises(socket.gaierror):
            await dns_loop.create_server(Echo, "nosuch.test", 0)

    run(dns_loop, main())
    assert dns_loop.resolver.stats()["system"] == 0


def test_both_families(dns_loop):
    if not has_ip6():
        pytest.skip("no IPv6 on loopback")

    async def main():
        server = await dns_loop.create_server(Echo, "both.test", 0)
        families = {sock.family for sock in server.sockets}
        assert families == {socket.AF_INET, socket.AF_INET6}
        for sock in server.sockets:
            reader, writer = await asyncio.open_connection(
                "both.test", sock.getsockname()[1], family=sock.family)
            assert writer.get_extra_info("peername")[0] == sock.getsockname()[0]
            await echo(reader, writer)
        server.close()

    run(dns_loop, main())


def test_datagrams(dns_loop):
    class Catch(asyncio.DatagramProtocol):
        def __init__(self):
            self.got = dns_loop.create_future()

        def datagram_received(self, data, address):
            self.got.set_result(data)

    async def main():
        receiver, catch = await dns_loop.create_datagram_endpoint(
            Catch, local_addr=("local.test", 0))
        port = receiver.get_extra_info("sockname")[1]
        sender, _ = await dns_loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("local.test", port))
        sender.sendto(b"hello")
        assert await catch.got == b"hello"
        sender.close()
        receiver.close()
        await asyncio.sleep(0)

    run(dns_loop, main())


def test_sock_connect(dns_loop):
    async def main():
        server, port = await started(dns_loop)
        with socket.socket() as sock:
            sock.setblocking(False)
            await dns_loop.sock_connect(sock, ("local.test", port))
            await dns_loop.sock_sendall(sock, b"x")
            assert await dns_loop.sock_recv(sock, 1) == b"x"
        with socket.socket() as sock:
            sock.setblocking(False)
            with pytest.raises(socket.gaierror):
                await dns_loop.sock_connect(sock, ("nosuch.test", port))
        server.close()

    run(dns_loop, main())


@pytest.mark.parametrize("name, code", [
    ("nosuch.test", socket.EAI_NONAME), ("six.test", socket.EAI_NODATA),
    ("refuse.test", socket.EAI_AGAIN)])
def test_failures(dns_loop, name, code):
    async def main():
        with pytest.raises(socket.gaierror) as caught:
            await asyncio.open_connection(name, 80, family=socket.AF_INET)
        assert caught.value.errno == code

    run(dns_loop, main())


def test_cancelled_connection(dns_loop, name_server):
    async def main():
        await cancel_when_asked(name_server, asyncio.open_connection("silent.test", 80))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert dns_loop.resolver.stats()["in_flight"] == 0

    run(dns_loop, main())


def test_tls_by_name(dns_loop, certificates):
    """The name that is looked up is the one that the certificate is for."""
    async def main():
        port = free_port()
        server = await dns_loop.create_server(Echo, "127.0.0.1", port, ssl=certificates.server())
        await echo(*await asyncio.open_connection("localhost", port, ssl=certificates.trusting()))
        server.close()

    run(dns_loop, main())


def test_many_connections_by_name(dns):
    """Lookups, connections and servers share one ring."""
    loop = kloop.Loop(dns=dns)

    async def main():
        server, port = await started(loop)

        async def one(i):
            reader, writer = await asyncio.open_connection(f"bulk{i % 40}.test", port)
            await echo(reader, writer)
        for _ in range(4):
            await asyncio.gather(*(one(i) for i in range(80)))
        server.close()

    try:
        run(loop, main())
        assert loop.resolver.stats()["queries"] == 40
    finally:
        loop.close()
