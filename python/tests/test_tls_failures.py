# SPDX-License-Identifier: MulanPSL-2.0
"""How TLS connections fail: certificates, garbage, time-outs, alerts, exceptions of protocols."""

import asyncio
import contextlib
import socket
import ssl
import sys

import pytest

import kloop
from tls_tools import (
    VERSIONS,
    Bio,
    connect,
    connecting,
    finish,
    read_all,
    read_exactly,
    run,
    serving,
    start_echo,
)
from transport_tools import BufferedRecorder, Recorder, reset, turns, until, wait

SSLPROTO_3_11 = sys.version_info >= (3, 11)


async def refused(loop, address, context, kind, name="localhost", **options):
    """A connection that must fail; the protocol must hear nothing."""
    protocol = Recorder()
    with pytest.raises(kind) as caught:
        await connect(loop, address, context, protocol, name, **options)
    assert protocol.events == []
    await turns()
    assert protocol.events == []
    return caught.value


# ---- handshakes that fail -------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("which, name, code", [
    ("localhost", "other.example", 62),  # X509_V_ERR_HOSTNAME_MISMATCH
    ("expired", "localhost", 10),        # X509_V_ERR_CERT_HAS_EXPIRED
    ("self_signed", "localhost", 18),    # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
])
def test_bad_certificate(tls_loop, certificates, which, name, code, version):
    async def case():
        context = certificates.server(getattr(certificates, which), version)
        made, server, address = await start_echo(tls_loop, context)
        error = await refused(tls_loop, address, certificates.trusting(),
                              ssl.SSLCertVerificationError, name)
        assert error.verify_code == code
        assert error.verify_message
        assert error.reason == "CERTIFICATE_VERIFY_FAILED"
        assert error.library == "SSL"
        await asyncio.sleep(0.05)
        assert not made
        await finish(server)
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("debug", [False, True])
def test_garbage_to_a_server(tls_loop, certificates, debug):
    """HTTP on the port of HTTPS: told to the handler in debug mode only."""
    async def case():
        tls_loop.set_debug(debug)
        made, server, address = await start_echo(tls_loop, certificates.server())

        def peer(sock):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                read_all(sock)

        async with connecting(address, peer):
            pass
        await turns()
        assert not made
        contexts = [c for c in tls_loop.failures if c["message"].startswith("Error on transport")]
        assert len(contexts) == len(tls_loop.failures) == debug
        if debug:
            error = contexts[0]["exception"]
            assert type(error) is ssl.SSLError
            assert error.reason == "HTTP_REQUEST"
            assert isinstance(contexts[0]["protocol"], asyncio.Protocol)
            assert contexts[0]["transport"].is_closing()
        tls_loop.set_debug(False)
        # It goes on to serve.
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        transport.write(b"fine")
        await until(lambda: protocol.data == b"fine")
        await finish(server, transport)

    run(tls_loop, case())


def test_garbage_to_a_client(tls_loop, certificates):
    def peer(sock):
        sock.sendall(b"220 mail.example ESMTP\r\n" * 10)
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            error = await refused(tls_loop, address, certificates.trusting(), ssl.SSLError)
            assert type(error) is ssl.SSLError
            assert error.reason == "WRONG_VERSION_NUMBER"
            assert error.library == "SSL"
            assert error.errno == 1
        assert not tls_loop.failures

    run(tls_loop, case())


def test_no_version_in_common(tls_loop, certificates):
    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server(version="1.3"))
        error = await refused(tls_loop, address, certificates.trusting("1.2"),
                              (ssl.SSLError, ConnectionResetError))
        if tls_loop.tls == "kloop":
            # asyncio does not send the alert that says so.
            assert error.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
        await finish(server)
        assert not made

    run(tls_loop, case())


def test_client_certificate_is_missing(tls_loop, certificates):
    """With TLS 1.3 the client learns of it after its handshake."""
    async def case():
        context = certificates.server()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.ca)
        made, server, address = await start_echo(tls_loop, context)
        transport, protocol = await connect(tls_loop, address, certificates.trusting("1.3"))
        error = await wait(protocol.lost)
        if tls_loop.tls == "kloop":
            assert isinstance(error, ssl.SSLError)
            assert error.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
            assert "certificate required" in str(error)
        assert transport.is_closing()
        await turns()
        assert not made
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await connect(tls_loop, address, certificates.trusting("1.2"))
        await finish(server)
        assert not tls_loop.failures

    run(tls_loop, case())


def test_end_in_the_handshake(tls_loop, certificates):
    async def case():
        async with serving(lambda sock: sock.recv(1)) as address:
            error = await refused(tls_loop, address, certificates.trusting(),
                                  ConnectionResetError)
            assert isinstance(error, ConnectionResetError)

        def peer(sock):
            read_exactly(sock, 100)
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)

        async with serving(peer) as address:
            error = await refused(tls_loop, address, certificates.trusting(),
                                  ConnectionResetError)
            assert error.args == ()
        assert not tls_loop.failures

    run(tls_loop, case())


def test_reset_in_the_handshake(tls_loop, certificates):
    def peer(sock):
        sock.recv(1)
        reset(sock)

    async def case():
        async with serving(peer) as address:
            await refused(tls_loop, address, certificates.trusting(), ConnectionResetError)

    run(tls_loop, case())


def test_end_in_a_servers_handshake(tls_loop, certificates):
    async def case():
        tls_loop.set_debug(True)
        made, server, address = await start_echo(tls_loop, certificates.server())
        async with connecting(address, lambda sock: sock.sendall(b"\x16\x03\x01")):
            pass
        await until(lambda: tls_loop.failures)
        assert [type(c["exception"]) for c in tls_loop.failures] == [ConnectionResetError]
        assert not made
        await finish(server)

    run(tls_loop, case())


def test_handshake_time_out(tls_loop, certificates):
    async def case():
        async with serving(read_all) as address:
            error = await refused(tls_loop, address, certificates.trusting(),
                                  ConnectionAbortedError, ssl_handshake_timeout=0.1)
            assert str(error) == ("SSL handshake is taking longer than 0.1 seconds: "
                                  "aborting the connection")
        assert not tls_loop.failures

    run(tls_loop, case())


def test_handshake_time_out_of_a_server(tls_loop, certificates):
    async def case():
        tls_loop.set_debug(True)
        made, server, address = await start_echo(tls_loop, certificates.server(),
                                                 ssl_handshake_timeout=0.1)
        async with connecting(address, read_all):
            pass
        await until(lambda: tls_loop.failures)
        assert "longer than 0.1 seconds" in str(tls_loop.failures[0]["exception"])
        assert not made
        await finish(server)

    run(tls_loop, case())


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1, -0.5])
def test_time_outs_must_be_positive(tls_loop, certificates, name, value):
    if name == "ssl_shutdown_timeout" and not SSLPROTO_3_11:
        return

    async def case():
        with pytest.raises(ValueError, match=f"{name} should be a positive number, got "):
            await connect(tls_loop, listener.getsockname(), certificates.trusting(),
                          **{name: value})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(tls_loop, case())


def test_cancel_in_the_handshake(tls_loop, certificates):
    async def case():
        async with serving(read_all) as address:
            protocol = Recorder()
            task = tls_loop.create_task(
                connect(tls_loop, address, certificates.trusting(), protocol))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The peer's connection ends: that is what serving() waits for.
        assert protocol.events == []
        assert not tls_loop.failures

    run(tls_loop, case())


def test_sni_callback_that_refuses_or_fails(tls_loop, certificates):
    async def case():
        context = certificates.server()
        made, server, address = await start_echo(tls_loop, context)
        context.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        error = await refused(tls_loop, address, certificates.trusting(),
                              (ssl.SSLError, ConnectionResetError))
        if tls_loop.tls == "kloop":
            assert error.reason == "TLSV1_UNRECOGNIZED_NAME"
        unraisable = []
        former, sys.unraisablehook = sys.unraisablehook, unraisable.append
        try:
            context.sni_callback = lambda *_: 1 / 0
            error = await refused(tls_loop, address, certificates.trusting(),
                                  (ssl.SSLError, ConnectionResetError))
            await until(lambda: unraisable)
        finally:
            sys.unraisablehook = former
        assert unraisable[0].exc_type is ZeroDivisionError
        assert not made
        await finish(server)

    run(tls_loop, case())


# ---- exceptions of protocols ----------------------------------------------


def test_exception_in_connection_made(tls_loop, certificates):
    def fail(protocol, transport):
        raise ZeroDivisionError("on purpose")

    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        protocol = Recorder(connection_made=fail)
        with contextlib.suppress(ZeroDivisionError):
            await connect(tls_loop, address, certificates.trusting(), protocol)
        error = await wait(protocol.lost)
        assert isinstance(error, ZeroDivisionError)
        assert [type(c["exception"]) for c in tls_loop.failures] == [ZeroDivisionError]
        await finish(server)

    run(tls_loop, case())


@pytest.mark.parametrize("kind", [Recorder, BufferedRecorder])
def test_exception_in_data_received(tls_loop, certificates, kind):
    def fail(protocol, _):
        raise ZeroDivisionError("on purpose")

    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        protocol = kind(**{"data_received" if kind is Recorder else "buffer_updated": fail})
        transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
        transport.write(b"hello")
        assert isinstance(await wait(protocol.lost), ZeroDivisionError)
        assert [type(c["exception"]) for c in tls_loop.failures] == [ZeroDivisionError]
        await finish(server)

    run(tls_loop, case())


def test_exception_in_eof_received(tls_loop, certificates):
    def fail(protocol):
        raise ZeroDivisionError("on purpose")

    async def case():
        async with serving(lambda sock: None, certificates.server()) as address:
            protocol = Recorder(eof_received=fail)
            await connect(tls_loop, address, certificates.trusting(), protocol)
            assert isinstance(await wait(protocol.lost), ZeroDivisionError)
            assert tls_loop.failures[0]["message"] == "Error calling eof_received()"

    run(tls_loop, case())


# ---- failures of the data phase ---------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_bad_record(tls_loop, certificates, version):
    """A flipped bit: the exception is the ssl module's, and what came before is delivered."""
    def flip(data):
        data[-1] ^= 1
        return data

    def peer(sock):
        bio = Bio(sock, certificates.server(version=version), server_side=True)
        bio.call("do_handshake")
        bio.object.write(b"good")
        bio.flush()
        bio.object.write(b"evil")
        bio.flush(flip)
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            error = await wait(protocol.lost)
            assert type(error) is ssl.SSLError
            assert error.reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")
            assert error.library == "SSL"
            assert error.errno == 1
            assert error.reason.lower().replace("_", " ") in str(error)
            if tls_loop.tls == "kloop":
                # asyncio drops it, since it arrived together with the bad one.
                assert protocol.data == b"good"
            assert transport.is_closing()
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("version", VERSIONS)
def test_alert_of_the_peer(tls_loop, certificates, version):
    """Our record is damaged on its way, and the peer says so."""
    def peer(sock):
        bio = Bio(sock, certificates.server(version=version), server_side=True)
        bio.call("do_handshake")
        data = bytearray(sock.recv(1 << 16))
        data[-1] ^= 1
        bio.incoming.write(data)
        with pytest.raises(ssl.SSLError):
            bio.object.read(100)
        bio.flush()
        read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            await asyncio.sleep(0.05)
            transport.write(b"to be damaged")
            error = await wait(protocol.lost)
            assert type(error) is ssl.SSLError
            assert error.reason == "SSLV3_ALERT_BAD_RECORD_MAC"
            assert error.errno == 1
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("when", ["in the handshake", "connection_made", "data_received"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exit_from_a_callback(certificates, kind, when):
    """KeyboardInterrupt and SystemExit leave run_forever(), wherever they come up."""
    loop = kloop.Loop()
    protocols = []

    def leave(*_):
        raise kind("on purpose")

    async def case():
        _, _, address = await start_echo(loop, certificates.server())
        context = certificates.trusting()
        protocol = Recorder(**{} if when == "in the handshake" else {when: leave})
        protocols.append(protocol)
        if when == "in the handshake":
            context._msg_callback = leave
        transport, _ = await connect(loop, address, context, protocol)
        transport.write(b"hello")
        await protocol.lost

    try:
        task = loop.create_task(case())
        with pytest.raises(kind, match="on purpose"):
            loop.run_until_complete(task)
        for transport in [p.transport for p in protocols if p.transport]:
            transport.abort()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ssl.SSLError):
            loop.run_until_complete(task)
        loop.run_until_complete(turns())
    finally:
        loop.close()


def test_exception_of_a_message_callback(certificates):
    """In the handshake it is the connection's failure; in the data phase it has nobody."""
    loop = kloop.Loop()

    def fail(*_):
        raise ZeroDivisionError("on purpose")

    async def case():
        _, server, address = await start_echo(loop, certificates.server())
        context = certificates.trusting()
        context._msg_callback = fail
        await refused(loop, address, context, ZeroDivisionError)
        context._msg_callback = None
        transport, protocol = await connect(loop, address, context)
        context._msg_callback = fail
        transport.write(b"goes on")
        await until(lambda: protocol.data == b"goes on")
        await finish(server, transport)

    failures = []
    loop.set_exception_handler(lambda _, told: failures.append(told))
    try:
        run(loop, case())
    finally:
        loop.close()
    assert [type(told["exception"]) for told in failures] == [ZeroDivisionError]
