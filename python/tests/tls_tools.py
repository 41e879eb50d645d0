# SPDX-License-Identifier: MulanPSL-2.0
"""Certificates, contexts, and blocking TLS peers for the TLS tests."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

from server_tools import new_echo
from transport_tools import TIMEOUT, Recorder, run, turns, until, wait

OPENSSL = shutil.which("openssl")
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def openssl(*arguments):
    assert OPENSSL, "the openssl command is needed for the TLS tests"
    subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True, timeout=60,
                   stdin=subprocess.DEVNULL)


async def start_echo(loop, context, **options):
    """An echo server: (its list of protocols, server, address)."""
    echo = new_echo()
    server = await loop.create_server(echo, "127.0.0.1", 0, ssl=context, **options)
    return echo.made, server, server.sockets[0].getsockname()


async def connect(loop, address, context, protocol=None, name="localhost", **options):
    protocol = protocol or Recorder()
    transport, _ = await wait(loop.create_connection(
        lambda: protocol, *address, ssl=context, server_hostname=name, **options))
    return transport, protocol


async def finish(server, *transports):
    for transport in transports:
        transport.close()
        protocol = transport.get_protocol()
        if hasattr(protocol, "lost"):
            await wait(protocol.lost)
    server.close()
    await wait(server.wait_closed())
    await turns()


class Certificates:
    """An authority, and what it signed; plus some that nobody should trust."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        self._self_signed("ca", "/CN=kloop test authority", "-addext",
                          "keyUsage=critical,keyCertSign")
        self.localhost = self._signed("localhost", "DNS:localhost,IP:127.0.0.1")
        self.other = self._signed("other", "DNS:other.example")
        self.client = self._signed("client", "DNS:client.example")
        # It ends as it begins; OpenSSL 3.5 makes none that is older.
        self.expired = self._signed("expired", "DNS:localhost", "-days", "0")
        self.self_signed = self._self_signed("self", "/CN=localhost", "-addext",
                                             "subjectAltName=DNS:localhost")

    def _key_options(self, name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", self.folder / f"{name}.key")

    def _self_signed(self, name, subject, *options):
        openssl("req", "-x509", "-days", "2", "-subj", subject, *self._key_options(name),
                *options, "-out", self.folder / f"{name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _signed(self, name, names, *options):
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        # What Python 3.13 and newer want to see, being strict.
        extensions.write_text(f"subjectAltName={names}\nsubjectKeyIdentifier=hash\n"
                              "authorityKeyIdentifier=keyid\n")
        openssl("req", "-new", "-subj", f"/CN={name}", *self._key_options(name), "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.folder / "ca.key",
                "-CAcreateserial", "-extfile", extensions,
                *(options or ("-days", "2")), "-out", self.folder / f"{name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def server(self, pair=None, version=None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*(pair or self.localhost))
        return limit(context, version)

    def trusting(self, version=None) -> ssl.SSLContext:
        """A client's context."""
        return limit(ssl.create_default_context(cafile=self.ca), version)


def limit(context, version):
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


class _Thread:
    """A thread whose exception is raised by finish()."""

    def __init__(self, function, *args) -> None:
        self.error = None
        self._thread = threading.Thread(target=self._run, args=(function, *args), daemon=True)
        self._thread.start()

    def _run(self, function, *args):
        try:
            function(*args)
        except BaseException as error:  # noqa: BLE001 - raised by finish()
            self.error = error

    async def finish(self):
        await until(lambda: not self._thread.is_alive())
        if self.error is not None:
            raise self.error


@contextlib.asynccontextmanager
async def serving(function, context=None, **options):
    """A blocking server for one connection: function(sock); yields its address.

    context: wrap the connection first; options are those of wrap_socket().
    """
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(TIMEOUT)

    def serve():
        with listener:
            sock, _ = listener.accept()
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True, **options)
        with sock:
            function(sock)

    address = listener.getsockname()
    thread = _Thread(serve)
    yield address
    await thread.finish()


@contextlib.asynccontextmanager
async def connecting(address, function, context=None, server_hostname="localhost", **options):
    """A blocking client: function(sock), TLS if there is a context."""

    def connect():
        sock = socket.create_connection(address, timeout=TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=server_hostname, **options)
        with sock:
            function(sock)

    thread = _Thread(connect)
    yield
    await thread.finish()


def read_all(sock) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def read_exactly(sock, count) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(count, 1 << 16))
        assert part, "the end came too early"
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class Bio:
    """The other end of a TLS connection, by hand: what is sent can be looked at and changed."""

    def __init__(self, sock, context, **options) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, **options)

    def flush(self, change=None) -> None:
        data = self.outgoing.read()
        if data:
            self.sock.sendall(change(bytearray(data)) if change else data)

    def call(self, method, *args):
        """A method of the SSLObject, with all the reading and writing that it needs."""
        while True:
            try:
                return getattr(self.object, method)(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(1 << 16)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            finally:
                self.flush()
