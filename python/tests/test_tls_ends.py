# SPDX-License-Identifier: MulanPSL-2.0
"""How TLS connections fail and end: handshakes, alerts, close_notify, truncation, time-outs."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import struct
import sys

import pytest

import kloop
from test_tls import connect, finish, run, start_echo
from tls_tools import VERSIONS, Bio, connecting, read_all, read_exactly, serving
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


# ---- orderly ends -----------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_close_waits_for_the_peers_close_notify(tls_loop, certificates, version):
    seen = []

    def peer(sock):
        seen.append(read_exactly(sock, 9))
        assert sock.recv(1) == b""  # that was close_notify: a bare end raises
        seen.append("close_notify")
        sock.unwrap()

    async def case():
        context = certificates.server(version=version)
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        async with serving(peer, context, suppress_ragged_eofs=False) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"good ")
            transport.write(b"bye!")
            transport.close()
            assert transport.is_closing()
            transport.write(b"never sent")
            assert await wait(protocol.lost) is None
        assert seen == [b"good bye!", "close_notify"]
        # asyncio tells of the peer's close_notify, which answers ours.
        expected = ["connection_made", "eof_received", "connection_lost"]
        if not SSLPROTO_3_11:
            expected.remove("eof_received")
        assert protocol.events == expected

    run(tls_loop, case())


def test_close_with_much_to_send(tls_loop, certificates):
    message = os.urandom(5 << 20)
    got = []

    def peer(sock):
        got.append(read_all(sock))

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(message)
            transport.close()
            await wait(protocol.lost)
        assert got == [message]

    run(tls_loop, case())


@pytest.mark.parametrize("answer", [None, True])
def test_peers_close_notify(tls_loop, certificates, answer, caplog):
    """eof_received(), then the end, whatever it returned; what it wrote is still sent."""
    got = []

    def peer(sock):
        sock.sendall(b"last words")
        got.append(sock.unwrap())

    def hook(protocol):
        assert protocol.data == b"last words"
        return answer

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder(eof_received=hook)
            transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
            assert await wait(protocol.lost) is None
            assert transport.is_closing()
        assert got
        assert protocol.events == [
            "connection_made", "data_received", "eof_received", "connection_lost"]
        told = "returning true from eof_received() has no effect when using ssl" in caplog.text
        assert told is bool(answer)

    run(tls_loop, case())


def test_end_without_close_notify(tls_loop, certificates):
    """asyncio makes no difference for protocols, and neither do we."""
    def peer(sock):
        sock.sendall(b"cut")
        os.close(sock.detach())

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder()
            await connect(tls_loop, address, certificates.trusting(), protocol)
            assert await wait(protocol.lost) is None
        assert protocol.events == [
            "connection_made", "data_received", "eof_received", "connection_lost"]
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("ignore", [True, False])
def test_end_without_close_notify_while_data_is_queued(tls_loop, certificates, ignore):
    """With the context as Python makes it, what was written is still sent."""
    got = []

    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        assert bio.call("read", 2) == b"go"
        sock.shutdown(socket.SHUT_WR)
        while len(got) < 3 << 20:
            data = bio.call("read", 1 << 16)
            if not data:
                break
            got.extend([None] * len(data))

    async def case():
        async with serving(peer) as address:
            context = certificates.trusting()
            if not ignore:
                context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
            transport, protocol = await connect(tls_loop, address, context)
            transport.write(b"go" + bytes(3 << 20))
            assert await wait(protocol.lost) is None
            assert "eof_received" in protocol.events
        if ignore:
            assert len(got) == 3 << 20

    if ignore or tls_loop.tls == "kloop":
        run(tls_loop, case())


def test_end_inside_a_record(tls_loop, certificates):
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        bio.object.write(b"whole")
        bio.flush()
        bio.object.write(b"torn" * 100)
        bio.flush(lambda data: data[:50])

    async def case():
        async with serving(peer) as address:
            _, protocol = await connect(tls_loop, address, certificates.trusting())
            assert await wait(protocol.lost) is None
            assert protocol.data == b"whole"
            assert protocol.events[-2:] == ["eof_received", "connection_lost"]

    run(tls_loop, case())


def test_end_while_paused(tls_loop, certificates):
    def peer(sock):
        sock.sendall(b"data")
        sock.unwrap()

    async def case():
        async with serving(peer, certificates.server()) as address:
            protocol = Recorder(data_received=lambda p, _: p.transport.pause_reading())
            transport, _ = await connect(tls_loop, address, certificates.trusting(), protocol)
            await until(lambda: protocol.data == b"data")
            await asyncio.sleep(0.05)
            # asyncio decrypts all that there is, once it has begun.
            assert tls_loop.tls != "kloop" or "eof_received" not in protocol.events
            transport.resume_reading()
            assert await wait(protocol.lost) is None
            assert protocol.events[-2:] == ["eof_received", "connection_lost"]

    run(tls_loop, case())


def test_shutdown_time_out(tls_loop, certificates):
    """A peer that never answers close_notify."""
    if not SSLPROTO_3_11:
        return

    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting(),
                                                ssl_shutdown_timeout=0.1)
            transport.close()
            error = await wait(protocol.lost)
            assert type(error) is TimeoutError
            assert str(error) == "SSL shutdown timed out"
        assert not tls_loop.failures

    run(tls_loop, case())


def test_abort(tls_loop, certificates):
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        assert bio.call("read", 5) == b"hello"
        with contextlib.suppress(ConnectionResetError):
            assert read_all(sock) == b""  # no close_notify

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"hello")
            await asyncio.sleep(0.05)
            transport.abort()
            assert transport.is_closing()
            assert await wait(protocol.lost) is None
            assert "eof_received" not in protocol.events
            transport.abort()
            transport.close()
            if tls_loop.tls == "kloop":
                transport.write(b"nothing happens")

    run(tls_loop, case())


def test_abort_after_close(tls_loop, certificates):
    def peer(sock):
        bio = Bio(sock, certificates.server(), server_side=True)
        bio.call("do_handshake")
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)

    async def case():
        async with serving(peer) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.close()
            await asyncio.sleep(0.02)
            assert not protocol.lost.done()
            transport.abort()
            assert await wait(protocol.lost) is None

    run(tls_loop, case())


def test_reset_by_the_peer(tls_loop, certificates):
    def peer(sock):
        sock.recv(1)
        raw = socket.socket(fileno=sock.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()

    async def case():
        async with serving(peer, certificates.server()) as address:
            transport, protocol = await connect(tls_loop, address, certificates.trusting())
            transport.write(b"x")
            assert isinstance(await wait(protocol.lost), ConnectionResetError)
        assert not tls_loop.failures

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
            assert error.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
            assert error.library == "SSL"
            assert error.errno == 1
            assert "decryption failed or bad record mac" in str(error)
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


def test_writes_after_the_end(tls_loop, certificates, caplog):
    async def case():
        _, server, address = await start_echo(tls_loop, certificates.server())
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        transport.close()
        await wait(protocol.lost)
        for _ in range(10):
            transport.write(b"into the void")
        transport.writelines([b"the", b"same"])
        assert transport.get_write_buffer_size() == 0 or tls_loop.tls != "kloop"
        await finish(server)

    run(tls_loop, case())
    assert "SSL connection is closed" in caplog.text or "socket.send()" in caplog.text


def test_ssl_object_by_hand(tls_loop, certificates):
    """Reading and writing by the SSLObject is not supported, and does no harm to the process."""
    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server())
        transport, protocol = await connect(tls_loop, address, certificates.trusting())
        ssl_object = transport.get_extra_info("ssl_object")
        with contextlib.suppress(ssl.SSLError):
            ssl_object.read(10)
        ssl_object.do_handshake()
        transport.write(b"goes on")
        await until(lambda: protocol.data == b"goes on")
        with contextlib.suppress(ssl.SSLError):
            ssl_object.write(b"by hand")
        with contextlib.suppress(ssl.SSLError):
            ssl_object.unwrap()
        transport.abort()
        await wait(protocol.lost)
        await turns()
        for method, *args in ("read", 1), ("write", b"x"), ("unwrap",), ("do_handshake",):
            with contextlib.suppress(ssl.SSLError, ValueError):
                getattr(ssl_object, method)(*args)
        await until(lambda: made[0].transport.is_closing())
        await finish(server)

    if tls_loop.tls == "kloop":
        run(tls_loop, case())


def test_loop_closes_over_connections(certificates):
    loop = kloop.Loop()
    transports = []

    async def case():
        made, _, address = await start_echo(loop, certificates.server())
        transports.append((await connect(loop, address, certificates.trusting()))[0])
        task = loop.create_task(connect(loop, address, certificates.trusting()))
        await asyncio.sleep(0)
        await until(lambda: made)
        task.cancel()
        return task

    task = loop.run_until_complete(case())
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
    with pytest.warns(ResourceWarning):
        transports.clear()
        gc.collect()
