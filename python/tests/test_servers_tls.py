# SPDX-License-Identifier: MulanPSL-2.0
"""Servers with TLS, here with an RSA key; there is more of it in test_tls*.py."""

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess

import pytest

from server_tools import Echo, client, finish, new_echo
from transport_tools import Recorder, in_thread, receive_all, run, until, wait


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost: (certificate, key)."""
    openssl = shutil.which("openssl")
    assert openssl, "the openssl command is needed for the TLS tests"
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=300)
    return cert, key


@pytest.fixture
def contexts(certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    return server, ssl.create_default_context(cafile=certificate[0])


def test_tls_echo(loop, contexts):
    async def case():
        lost = loop.create_future()

        class Server(Echo):
            def connection_lost(self, error):
                lost.set_result(error)

        echo = type("Echo", (Server,), {"made": []})
        server = await loop.create_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()
        protocol = Recorder()
        transport, _ = await wait(loop.create_connection(
            lambda: protocol, *address, ssl=contexts[1], server_hostname="localhost"))
        assert transport.get_extra_info("cipher")
        assert transport.get_extra_info("ssl_object") is not None
        assert transport.get_extra_info("peername") == address
        # With TLS 1.3 the server's handshake ends after the client's.
        await until(lambda: echo.made)
        assert echo.made[0].transport.get_extra_info("peername")[0] == "127.0.0.1"
        for size in 1, 1000, 100_000, 3 << 20:
            message = os.urandom(size)
            del protocol.data[:]
            transport.write(message)
            await until(lambda size=size: len(protocol.data) == size)
            assert protocol.data == message
        transport.close()
        await wait(protocol.lost)
        await wait(lost)
        await finish(server)

    run(loop, case())


def test_tls_handshake_fails(loop, contexts):
    async def case():
        echo = new_echo()
        server = await loop.create_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()
        peer = client(address)
        peer.sendall(b"this is no TLS\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            await in_thread(receive_all, peer)
        peer.close()
        with pytest.raises(ssl.SSLError):
            await wait(loop.create_connection(
                Recorder, *address, ssl=ssl.create_default_context(),
                server_hostname="localhost"))
        assert echo.made == []
        protocol = Recorder()
        transport, _ = await wait(loop.create_connection(
            lambda: protocol, *address, ssl=contexts[1], server_hostname="localhost"))
        transport.write(b"fine")
        await until(lambda: protocol.data == b"fine")
        transport.close()
        await wait(protocol.lost)
        await finish(server)

    run(loop, case())


def test_start_tls(loop, contexts):
    async def case():
        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                if data == b"STARTTLS":
                    self.transport.pause_reading()
                    self.transport.write(b"GO")
                    self.task = loop.create_task(self.upgrade())
                else:
                    self.answering = loop.create_task(self.answer(data))

            async def answer(self, data):
                await self.task
                self.transport.write(b"secret " + data)

            async def upgrade(self):
                self.transport = await loop.start_tls(
                    self.transport, self, contexts[0], server_side=True)

        server = await loop.create_server(Server, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        protocol = Recorder()
        transport, _ = await loop.create_connection(lambda: protocol, *address)
        transport.write(b"STARTTLS")
        await until(lambda: protocol.data == b"GO")
        secure = await wait(loop.start_tls(
            transport, protocol, contexts[1], server_hostname="localhost"))
        secure.write(b"question")
        await until(lambda: protocol.data == b"GOsecret question")
        secure.close()
        await wait(protocol.lost)
        await finish(server)

    run(loop, case())
