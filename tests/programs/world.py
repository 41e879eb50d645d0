# SPDX-License-Identifier: MulanPSL-2.0
"""What the programs share: loops, certificates, processes beside the case, checksums."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "python" / "tests"))
from port_tools import free_port, held_descriptors  # noqa: E402, F401

PYTHON = sys.executable
LOOPS = ("asyncio", "kloop", "uvloop")
TIMEOUT = 30    # what is waited for, and comes at once where nothing is wrong


def new_loop(name):
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    import kloop
    return kloop.new_event_loop(fallback=False)


def loop_kind():
    """What runs here, by the name of its package."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def checksum(*parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, (bytes, bytearray, memoryview)) else part.encode())
    return digest.hexdigest()[:16]


def pattern(count, seed=1):
    """The same bytes each time, which are nothing like each other."""
    return hashlib.shake_128(seed.to_bytes(8, "big")).digest(count)


async def until(condition, what):
    """Wait for what has no event of its own."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


async def raised(awaitable, *kinds):
    """The name of the exception that it ends with, which is one of these."""
    try:
        await awaitable
    except kinds as error:
        return type(error).__name__
    raise AssertionError(f"none of {kinds} was raised")


def _openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True,
                   timeout=TIMEOUT, stdin=subprocess.DEVNULL)


def make_certificates(folder):
    """An authority and what it signed for localhost: {"ca", "cert", "key": path}."""
    folder.mkdir()
    ca, ca_key, cert, key, request, extensions = (
        folder / name for name in ("ca.pem", "ca.key", "cert.pem", "cert.key", "csr", "ext"))
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout")
    _openssl("req", "-x509", "-days", "2", "-subj", "/CN=kloop programs authority", *new_key,
             ca_key, "-addext", "keyUsage=critical,keyCertSign", "-out", ca)
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n"
                          "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    _openssl("req", "-new", "-subj", "/CN=localhost", *new_key, key, "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
             "-extfile", extensions, "-days", "2", "-out", cert)
    return {"ca": str(ca), "cert": str(cert), "key": str(key)}


def stop(process, number=signal.SIGTERM):
    """End a process of ours; returns its status."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"{process.args} does not end") from None


class World:
    """What a case is given."""

    def __init__(self, loop, folder, peers):
        self.loop = loop            # its name
        self.folder = folder        # for files of the case
        self.peers = peers          # what runs beside it: see the module's peers()
        self._files = 0

    @property
    def ca(self):
        return self.peers["certificates"]["ca"]

    @property
    def cert(self):
        return self.peers["certificates"]["cert"]

    @property
    def key(self):
        return self.peers["certificates"]["key"]

    def path(self, name="file"):
        """A new path each time."""
        self._files += 1
        return self.folder / f"{self._files}-{name}"

    def server_tls(self, *protocols):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def client_tls(self):
        return ssl.create_default_context(cafile=self.ca)

    @contextlib.asynccontextmanager
    async def command(self, arguments, listener=None, number=signal.SIGTERM, status=0,
                      quiet=True):
        """A server of its own process, which inherits the listener; at the end it is asked to stop.

        Yields the process, with .log; its status must be this one. quiet: no traceback either.
        """
        log = self.path("log")
        with open(log, "wb") as output:
            process = subprocess.Popen(
                list(map(str, arguments)), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, cwd=HERE,
                pass_fds=[listener.fileno()] if listener else [],
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        process.log = log
        try:
            yield process
        except BaseException as error:
            stop(process)
            error.add_note(log.read_text(errors="replace")[-4000:])
            raise
        if process.poll() is None:
            process.send_signal(number)
        await until(lambda: process.poll() is not None, "the server ends")
        text = log.read_text(errors="replace")
        assert process.returncode == status, f"status {process.returncode}:\n{text}"
        assert not quiet or "Traceback" not in text, text


def listen():
    """A listener on a port where nobody else is, not on ::1 either, which localhost is as well.

    Who connects before the server runs, waits.
    """
    return socket.create_server(("127.0.0.1", free_port()), backlog=512)
