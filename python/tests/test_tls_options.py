# SPDX-License-Identifier: MulanPSL-2.0
"""What an SSLContext was told holds, and what get_extra_info() tells."""

import asyncio
import os
import ssl

import pytest

from tls_tools import VERSIONS, connect, connecting, finish, read_exactly, run, serving, start_echo
from transport_tools import BufferedRecorder, Recorder, until, wait


# ---- what the ssl module offers -----------------------------------------


def test_extra_info(tls_loop, certificates):
    async def case():
        context = certificates.server()
        made, server, address = await start_echo(tls_loop, context)
        trusting = certificates.trusting()
        transport, _ = await connect(tls_loop, address, trusting)
        await until(lambda: made)
        info = transport.get_extra_info
        ssl_object = info("ssl_object")
        assert isinstance(ssl_object, ssl.SSLObject)
        assert info("ssl_object") is ssl_object
        assert info("sslcontext") is trusting is ssl_object.context
        assert info("peercert") == ssl_object.getpeercert()
        assert ("DNS", "localhost") in info("peercert")["subjectAltName"]
        assert info("cipher") == ssl_object.cipher()
        assert info("cipher")[1] == "TLSv1.3"
        assert info("compression", "none") is None
        assert info("peername") == address
        assert info("sockname")[0] == "127.0.0.1"
        assert info("socket").getpeername() == address
        assert info("nonsense", 7) == 7
        theirs = made[0].transport.get_extra_info
        assert theirs("sslcontext") is context
        assert theirs("peercert") is None
        assert theirs("cipher") == info("cipher")
        assert theirs("peername") == info("sockname")
        if tls_loop.tls != "asyncio":
            for direction in "ktls_send", "ktls_recv":
                assert info(direction) is False
                assert isinstance(info(f"{direction}_reason"), str)
        await finish(server, transport)
        # What was asked for stays known.
        assert info("ssl_object") is ssl_object
        assert info("peercert")
        if tls_loop.tls == "kloop":
            assert info("ktls_send") is False
            assert info("ktls_send_reason")

    run(tls_loop, case())


def test_queries_of_the_ssl_object(tls_loop, certificates):
    async def case():
        _, server, address = await start_echo(
            tls_loop, certificates.server(version="1.2"))
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        ssl_object = transport.get_extra_info("ssl_object")
        assert ssl_object.server_hostname == "localhost"
        assert not ssl_object.server_side
        assert ssl_object.version() == "TLSv1.2"
        assert ssl_object.getpeercert(binary_form=True)[:1] == b"\x30"
        assert ssl_object.cipher()[1] == "TLSv1.2"
        assert ssl_object.selected_alpn_protocol() is None
        assert ssl_object.session is not None
        assert ssl_object.session_reused is False
        assert len(ssl_object.get_channel_binding("tls-unique")) == 12
        assert ssl_object.compression() is None
        assert ssl_object.pending() == 0
        transport.write(b"still fine")
        await until(lambda: protocol.data == b"still fine")
        await finish(server, transport)

    run(tls_loop, case())


@pytest.mark.parametrize("server_protocols, agreed", [
    (["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)])
def test_alpn(tls_loop, certificates, server_protocols, agreed):
    async def case():
        context = certificates.server()
        if server_protocols:
            context.set_alpn_protocols(server_protocols)
        made, server, address = await start_echo(tls_loop, context)
        trusting = certificates.trusting()
        trusting.set_alpn_protocols(["http/1.1", "spdy/3"])
        transport, _ = await connect(tls_loop, address, trusting)
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
        await until(lambda: made)
        theirs = made[0].transport.get_extra_info("ssl_object")
        assert theirs.selected_alpn_protocol() == agreed
        await finish(server, transport)

    run(tls_loop, case())


def test_sni_callback_switches_contexts(tls_loop, certificates):
    async def case():
        context, other = certificates.server(), certificates.server(certificates.other)
        names = []

        def choose(ssl_object, name, original):
            assert isinstance(ssl_object, ssl.SSLObject)
            assert original is context
            names.append(name)
            if name == "other.example":
                ssl_object.context = other

        context.sni_callback = choose
        made, server, address = await start_echo(tls_loop, context)
        trusting = certificates.trusting()
        for number, name in enumerate(["localhost", "other.example", "127.0.0.1"]):
            transport, protocol = await connect(tls_loop, address, trusting, name=name)
            transport.write(b"hello")
            await until(lambda p=protocol: p.data == b"hello")
            theirs = made[number].transport.get_extra_info
            assert theirs("ssl_object").context is (other if "other" in name else context)
            assert theirs("sslcontext") is context
            transport.close()
            await wait(protocol.lost)
        assert names == ["localhost", "other.example", None]
        await finish(server)

    run(tls_loop, case())


@pytest.mark.parametrize("version", VERSIONS)
def test_client_certificate(tls_loop, certificates, version):
    async def case():
        context = certificates.server(version=version)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
        made, server, address = await start_echo(tls_loop, context)
        trusting = certificates.trusting()
        trusting.load_cert_chain(*certificates.client)
        transport, protocol = await connect(tls_loop, address, trusting)
        transport.write(b"it is me")
        await until(lambda: protocol.data == b"it is me")
        cert = made[0].transport.get_extra_info("peercert")
        assert cert["subjectAltName"] == (("DNS", "client.example"),)
        await finish(server, transport)

    run(tls_loop, case())


@pytest.mark.parametrize("version", VERSIONS)
def test_session_is_resumed(tls_loop, certificates, version):
    """A context's wrap_bio() may bring a session: what a subclass does here."""
    class Resuming(ssl.SSLContext):
        former = None

        def wrap_bio(self, *args, **options):
            return super().wrap_bio(*args, **options, session=self.former)

    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server(version=version))
        context = Resuming(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates.ca)
        for resumed in False, True:
            transport, protocol = await connect(tls_loop, address, context)
            ssl_object = transport.get_extra_info("ssl_object")
            transport.write(b"hello")
            await until(lambda p=protocol: p.data == b"hello")
            assert ssl_object.session_reused is resumed
            context.former = ssl_object.session
            assert context.former.has_ticket
            transport.close()
            await wait(protocol.lost)
        assert made[1].transport.get_extra_info("ssl_object").session_reused
        await finish(server)

    run(tls_loop, case())


def test_ssl_object_class(tls_loop, certificates):
    class Own(ssl.SSLObject):
        handshakes = 0

        def do_handshake(self):
            type(self).handshakes += 1
            super().do_handshake()

    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        context = certificates.trusting()
        context.sslobject_class = Own
        transport, protocol = await connect(tls_loop, address, context)
        assert type(transport.get_extra_info("ssl_object")) is Own
        assert Own.handshakes >= 2
        transport.write(b"fine")
        await until(lambda: protocol.data == b"fine")
        await finish(server, transport)

    run(tls_loop, case())


@pytest.mark.parametrize("version", VERSIONS)
def test_keylog_and_message_callback(tls_loop, certificates, version, tmp_path):
    """Callbacks of the ssl module, in the handshake and while libkloop reads and writes."""
    async def case():
        messages = []

        def note(connection, direction, protocol_version, content_type, message_type, data):
            assert isinstance(connection, ssl.SSLObject)
            messages.append((direction, getattr(message_type, "name", str(message_type))))

        path = tmp_path / "keys"
        _, server, address = await start_echo(tls_loop, certificates.server(version=version))
        context = certificates.trusting()
        context.keylog_filename = str(path)
        context._msg_callback = note
        transport, protocol = await connect(tls_loop, address, context)
        before = len(messages)
        assert before
        for _ in range(20):
            transport.write(b"x" * 1000)
            await asyncio.sleep(0.001)  # so that some of it runs without the GIL
        await until(lambda: len(protocol.data) == 20_000)
        assert len(messages) > before
        assert ("write", "CLIENT_HELLO") in messages
        assert ("read", "SERVER_HELLO") in messages
        await finish(server, transport)
        label = "CLIENT_TRAFFIC_SECRET_0" if version == "1.3" else "CLIENT_RANDOM"
        assert label in path.read_text()

    run(tls_loop, case())


def test_default_context(tls_loop, certificates):
    """ssl=True verifies by the system's trust store, which does not know ours."""
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        with pytest.raises(ssl.SSLCertVerificationError):
            await wait(tls_loop.create_connection(
                Recorder, *address, ssl=True, server_hostname="localhost"))
        await finish(server)

    run(tls_loop, case())


def test_no_name_to_verify(tls_loop, certificates):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        context = certificates.trusting()
        context.check_hostname = False
        transport, protocol = await connect(tls_loop, address, context, name="")
        transport.write(b"who cares")
        await until(lambda: protocol.data == b"who cares")
        await finish(server, transport)

    run(tls_loop, case())


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("cipher", [
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA256"])
def test_ciphers(tls_loop, certificates, cipher, name):
    async def case():
        context = certificates.server(version="1.2")
        context.set_ciphers(cipher)
        _, server, address = await start_echo(tls_loop, context)
        transport, protocol = await connect(tls_loop, address, certificates.trusting(), name=name)
        assert transport.get_extra_info("cipher")[0] == cipher
        message = os.urandom(100_000)
        transport.write(message)
        await until(lambda: len(protocol.data) == len(message))
        assert protocol.data == message
        await finish(server, transport)

    run(tls_loop, case())


def test_post_handshake_authentication(tls_loop, certificates):
    """The server asks for a certificate when it pleases (TLS 1.3)."""
    context = certificates.server(version="1.3")
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.post_handshake_auth = True

    def peer(sock):
        assert sock.recv(5) == b"hello"
        sock.verify_client_post_handshake()
        sock.sendall(b"now?")
        assert sock.recv(3) == b"now"
        assert sock.getpeercert()["subjectAltName"] == (("DNS", "client.example"),)

    async def case():
        trusting = certificates.trusting()
        trusting.load_cert_chain(*certificates.client)
        trusting.post_handshake_auth = True
        async with serving(peer, context) as address:
            transport, protocol = await connect(tls_loop, address, trusting)
            transport.write(b"hello")
            await until(lambda: protocol.data == b"now?")
            transport.write(b"now")
            assert await wait(protocol.lost) is None

    context.verify_mode = ssl.CERT_OPTIONAL
    run(tls_loop, case())


def test_set_protocol(tls_loop, certificates):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        transport, first = await connect(tls_loop, address, certificates.trusting())
        transport.write(b"one")
        await until(lambda: first.data == b"one")
        second = BufferedRecorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.write(b"two")
        await until(lambda: second.data == b"two")
        transport.close()
        assert await wait(second.lost) is None
        assert first.data == b"one" and "connection_lost" not in first.events
        await finish(server)

    run(tls_loop, case())


def test_blocking_client_of_our_server(tls_loop, certificates):
    """A peer of another make: the ssl module's blocking socket, in a thread."""
    message = os.urandom(1 << 20)

    def peer(sock):
        sock.sendall(message)
        assert read_exactly(sock, len(message)) == message
        sock.unwrap()

    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server())
        async with connecting(address, peer, certificates.trusting()):
            await until(lambda: made and made[0].transport.is_closing(), 60)
        await finish(server)

    run(tls_loop, case())


def test_repr(tls_loop, certificates):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        transport, _ = await connect(tls_loop, address, certificates.trusting())
        if tls_loop.tls == "kloop":
            assert "StreamTransport tls fd=" in repr(transport)
        assert isinstance(transport, asyncio.Transport)
        await finish(server, transport)
        assert repr(transport)

    run(tls_loop, case())
