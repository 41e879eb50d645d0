# SPDX-License-Identifier: MulanPSL-2.0
"""What TLS by libkloop rests on: the proof, what happens without it, options, memory."""

import asyncio
import gc
import os
import socket
import ssl
import subprocess
import sys
import weakref

import _queue
import _ssl
import pytest

import kloop
from kloop import _kloop
from tls_tools import connect, finish, run, serving, start_echo
from transport_tools import TIMEOUT, Recorder, turns, until, wait


@pytest.fixture
def objects():
    """What the proof is made on: a context, and the inner object of what it made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return context, context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())._sslobj


# ---- the proof --------------------------------------------------------------


def test_proved_here():
    """The Pythons that this runs on share OpenSSL with libkloop."""
    assert _kloop._tls_refusal() is None


def test_proof_of_the_library(objects):
    assert _kloop._tls_prove(_ssl.__file__, *objects) is None
    # A module without OpenSSL, one that is not loaded, and none at all.
    assert "of its own" in _kloop._tls_prove(_queue.__file__, *objects)
    for path in "/nowhere/_ssl.so", __file__:
        assert "not a shared object" in _kloop._tls_prove(path, *objects)


def test_proof_with_another_library(objects, tmp_path):
    """A module that has SSL_new of its own, as one that is linked statically."""
    import ctypes

    source, module = tmp_path / "own.c", tmp_path / "own.so"
    source.write_text("void *SSL_new(void *ctx) { return ctx; }\n")
    subprocess.run([os.environ.get("CC", "cc").split()[0], "-shared", "-fPIC", "-o", module,
                    source], check=True, timeout=60)
    loaded = ctypes.CDLL(str(module))
    assert "different OpenSSL" in _kloop._tls_prove(str(module), *objects)
    del loaded


def test_proof_of_the_layout(objects):
    context, inner = objects
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for pair in ((other, inner), (context, other), (object(), inner), (context, object()),
                 (context, ssl.MemoryBIO()), (inner, context), ([0] * 10, {}),
                 (context, socket.socket), (context, type("Big", (), {"__slots__": "abcdef"})())):
        assert "unknown layout" in _kloop._tls_prove(_ssl.__file__, *pair)


# ---- without it --------------------------------------------------------------


def test_refusal_takes_asyncios_way(kernel_loop, certificates):
    from asyncio import sslproto

    async def case():
        made, server, address = await start_echo(kernel_loop, certificates.server())
        transport, protocol = await connect(kernel_loop, address, certificates.trusting())
        await until(lambda: made)
        for each in transport, made[0].transport:
            assert isinstance(each, sslproto._SSLProtocolTransport)
            for name in "ktls_send", "ktls_recv":
                assert each.get_extra_info(name) is False
                assert each.get_extra_info(f"{name}_reason") == (
                    "asyncio's sslproto serves: out of order")
        transport.write(b"slow but sure")
        await until(lambda: protocol.data == b"slow but sure")
        await finish(server, transport)

    _kloop._tls_refuse("out of order")
    try:
        assert _kloop._tls_refusal() == "out of order"
        run(kernel_loop, case())
    finally:
        _kloop._tls_refuse(None)


def test_context_of_somebody_else(kernel_loop, certificates):
    """An object that wrap_bio() made, and that is no SSLObject of the ssl module."""
    class Proxy:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

    class Wrapped:
        _sslobj = None  # whatever it has there, it is not what we know

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    class Context(Proxy):
        def wrap_bio(self, *args, **options):
            return Wrapped(self._inner.wrap_bio(*args, **options))

    async def case():
        made, server, address = await start_echo(
            kernel_loop, Context(certificates.server()))
        transport, protocol = await connect(
            kernel_loop, address, Context(certificates.trusting()))
        transport.write(b"a proxy")
        await until(lambda: protocol.data == b"a proxy")
        await until(lambda: made)
        for each in transport, made[0].transport:
            assert "not Python's own" in each.get_extra_info("ktls_send_reason")
        await finish(server, transport)

    # create_server() asks for an SSLContext by type in no version, only for no bool.
    run(kernel_loop, case())


# ---- options -------------------------------------------------------------------


@pytest.mark.parametrize("value", ["auto", "on", "off", True, False])
def test_ktls_option(certificates, value):
    loop = kloop.Loop(ktls=value)

    async def case():
        _, server, address = await start_echo(loop, certificates.server())
        transport, protocol = await connect(loop, address, certificates.trusting())
        transport.write(b"x" * 100_000)
        await until(lambda: len(protocol.data) == 100_000)
        info = transport.get_extra_info
        reason = info("ktls_send_reason")
        if value in ("off", False):
            assert info("ktls_send") is info("ktls_recv") is False
            assert reason == "kernel TLS is switched off"
        elif value == "auto":
            assert info("ktls_send") is False
            assert reason != "kernel TLS is switched off"
        else:
            # On where the kernel can; elsewhere the reason is its own.
            assert info("ktls_send") is (reason is None)
            assert reason not in ("kernel TLS is switched off", "there was no need so far")
            if "KLOOP_TEST_VM" in os.environ:  # where the kernel can
                assert info("ktls_send") is info("ktls_recv") is True
        await finish(server, transport)

    try:
        run(loop, case())
    finally:
        loop.close()


@pytest.mark.parametrize("value", ["", "ON", "yes", 1, 0, None, b"on", 2.5, []])
def test_bad_ktls_option(value):
    with pytest.raises(ValueError, match="ktls must be 'auto', 'on' or 'off'"):
        kloop.Loop(ktls=value)


def test_ktls_option_of_the_helpers():
    async def main():
        return asyncio.get_running_loop()

    assert isinstance(kloop.run(main(), ktls="off"), kloop.Loop)
    kloop.new_event_loop(ktls=True).close()
    if sys.version_info < (3, 14):
        kloop.EventLoopPolicy(ktls="on").new_event_loop().close()


def test_ktls_environment(certificates):
    """KLOOP_KTLS=0 counts more than the option."""
    program = f"""
import asyncio, kloop, ssl
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain({str(certificates.localhost[0])!r}, {str(certificates.localhost[1])!r})
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    _, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), server_hostname="localhost",
        ssl=ssl.create_default_context(cafile={str(certificates.ca)!r}))
    print(writer.get_extra_info("ktls_send"), writer.get_extra_info("ktls_send_reason"))
    writer.transport.abort()
    server.close()
kloop.run(main(), ktls="on")
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "KLOOP_KTLS": "0"},
                          capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False kernel TLS is switched off\n"


# ---- memory ---------------------------------------------------------------------


def test_nothing_is_left_of_connections(kernel_loop, certificates):
    """Hundreds of connections, some of which fail: what they were made of is gone."""
    loop = kernel_loop
    context, trusting = certificates.server(), certificates.trusting()
    context.sni_callback = lambda *_: None

    async def one(address, number):
        if number % 10 == 9:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(loop, address, trusting, name="wrong.example")
            return
        transport, protocol = await connect(loop, address, trusting)
        transport.write(b"x" * (1 + number % 3 * 40_000))
        await until(lambda: protocol.data)
        transport.get_extra_info("peercert")
        if number % 10 == 8:
            transport.abort()
        else:
            transport.close()
        await wait(protocol.lost)

    async def many(address, count):
        for start in range(0, count, 20):
            await asyncio.gather(*(one(address, start + i) for i in range(20)))
        await turns(50)

    def counted():
        gc.collect()
        kinds = (_kloop.StreamTransport, ssl.SSLObject, Recorder, _ssl._SSLSocket,
                 ssl.SSLError, asyncio.Future)
        return [sum(isinstance(o, kind) for o in gc.get_objects()) for kind in kinds]

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    async def case():
        made, server, address = await start_echo(loop, context)
        await many(address, 100)
        made.clear()
        before = counted()
        growth = []
        for _ in range(4):
            memory = resident()
            await many(address, 140)
            made.clear()
            assert counted() == before
            growth.append(resident() - memory)
        # What leaks grows each time: the SSL of a connection alone has some 10 KB. The heap
        # finds its size once. AddressSanitizer keeps what was freed.
        assert "asan" in os.environ.get("LD_PRELOAD", "") or min(growth) < 1 << 20, growth
        await finish(server)

    run(loop, case(), 10 * TIMEOUT)  # 660 connections, emulated too
    assert not loop.get_exception_handler()


def test_collected_with_its_loop(certificates):
    """A loop with open TLS connections that nobody closes, and a cycle through the SSLObject."""
    async def case(loop):
        made, server, address = await start_echo(loop, certificates.server())
        transport, _ = await connect(loop, address, certificates.trusting())
        await until(lambda: made)
        ssl_object = transport.get_extra_info("ssl_object")
        ssl_object.cycle = transport
        return [weakref.ref(o) for o in (transport, ssl_object, made[0].transport, loop)]

    def make():
        loop = kloop.Loop()
        return loop.run_until_complete(case(loop))

    with pytest.warns(ResourceWarning) as caught:
        gone = make()
        for _ in range(3):
            gc.collect()
    caught.clear()  # a warning has its transport
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)


def test_other_threads_run_meanwhile(kernel_loop, certificates):
    """Callbacks of the ssl module take the GIL where the loop's thread has given it up."""
    import threading

    loop = kernel_loop
    seen = []
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            sum(range(1000))

    def peer(sock):
        for _ in range(200):
            sock.sendall(b"x" * 100)
        sock.unwrap()

    async def case():
        context = certificates.trusting()
        context._msg_callback = lambda *args: seen.append(args[1])
        async with serving(peer, certificates.server()) as address:
            _, protocol = await connect(loop, address, context)
            assert await wait(protocol.lost) is None
            assert len(protocol.data) == 20_000

    threads = [threading.Thread(target=spin) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        run(loop, case())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen.count("read") > 200
