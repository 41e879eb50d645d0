# SPDX-License-Identifier: MulanPSL-2.0
"""An echo server on asyncio's interfaces, the same code on any loop.

It prints "ready PORT CONGESTION" when connections can come, and serves until
SIGTERM or the end of its lifetime.
"""

from __future__ import annotations

import argparse
import asyncio
import collections.abc
import json
import mmap
import resource
import signal
import socket
import ssl
import typing

from file_protocol import FileProtocol

#: What one read may take; larger than every message that is measured.
READ_BYTES = 256 * 1024


class EchoProtocol(asyncio.Protocol):
    """The plain way: bytes in, bytes out."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports derive from asyncio.Transport.
        self.transport = typing.cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoBufferedProtocol(asyncio.BufferedProtocol):
    """Reads into a buffer of its own.

    write() gets a copy: a transport may keep what it could not send, and the
    next read would overwrite it. The buffer begins at a page, since where a
    bytearray lies is chance, and a bad place doubles the kernel's cost of
    copying on some processors, whichever the loop.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports derive from asyncio.Transport.
        self.transport = typing.cast(asyncio.Transport, transport)
        self.view = memoryview(mmap.mmap(-1, READ_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.view[:nbytes]))


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler as asyncio's documentation shows it."""
    while data := await reader.read(READ_BYTES):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_sock(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while data := await loop.sock_recv(connection, READ_BYTES):
            await loop.sock_sendall(connection, data)


async def accept_sock(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        task = loop.create_task(echo_sock(connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def set_congestion(sock: socket.socket, wanted: str) -> None:
    """Pin the congestion control; cubic or reno where the wanted one is not allowed."""
    for name in (wanted, "cubic", "reno"):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
            break
        except OSError:
            continue


def listen(port: int, congestion: str, reuse_port: bool) -> tuple[socket.socket, str]:
    """A listening socket on the loopback address; accepted ones inherit the control."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
    set_congestion(listener, congestion)
    listener.bind(("127.0.0.1", port))
    listener.listen(socket.SOMAXCONN)
    listener.setblocking(False)
    used = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return listener, used.split(b"\0")[0].decode()


def tls_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """A server's context as Python makes it, for TLS 1.3; or None for plain TCP."""
    if options.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.certificate, options.key)
    return context


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    tls = tls_context(options)
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    listener, congestion = listen(options.port, options.congestion, options.reuse_port)
    background: asyncio.Task[None] | None = None
    server: asyncio.AbstractServer | None = None
    if options.api == "protocol":
        server = await loop.create_server(EchoProtocol, sock=listener, ssl=tls)
    elif options.api == "buffered":
        server = await loop.create_server(EchoBufferedProtocol, sock=listener, ssl=tls)
    elif options.api == "streams":
        server = await asyncio.start_server(echo_streams, sock=listener, ssl=tls)
    elif options.api == "files":
        server = await loop.create_server(lambda: FileProtocol(loop, options.file), sock=listener,
                                          ssl=tls)
    else:
        background = loop.create_task(accept_sock(listener))
    print("ready", listener.getsockname()[1], congestion, flush=True)
    await ended.wait()
    if background is not None:
        background.cancel()
    if server is not None:
        server.close()
    stats = getattr(loop, "stats", None)
    if options.stats and stats is not None:
        print(json.dumps(stats()), flush=True)


def new_loop(options: argparse.Namespace) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop
    if options.loop == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    elif options.loop == "kloop":
        import kloop

        if options.sqpoll:
            loop = kloop.new_event_loop(sqpoll=True, sq_thread_cpu=options.sqpoll_cpu)
        else:
            loop = kloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    return loop


def parse(arguments: collections.abc.Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "kloop"], default="asyncio")
    parser.add_argument("--api", choices=["protocol", "buffered", "streams", "sock", "files"],
                        default="protocol")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--reuse-port", action="store_true",
                        help="several processes share the port")
    parser.add_argument("--congestion", default="cubic", help="default: %(default)s")
    parser.add_argument("--lifetime", type=int, default=3600, metavar="SECONDS",
                        help="end after so long in any case (default: %(default)s)")
    parser.add_argument("--sqpoll", action="store_true", help="kloop: IORING_SETUP_SQPOLL")
    parser.add_argument("--sqpoll-cpu", type=int, default=-1, metavar="N",
                        help="kloop: pin the kernel's thread to a processor")
    parser.add_argument("--stats", action="store_true",
                        help="kloop: print the loop's counters at the end, as JSON")
    parser.add_argument("--certificate", metavar="FILE", help="speak TLS 1.3; PEM")
    parser.add_argument("--key", metavar="FILE", help="of the certificate; PEM")
    parser.add_argument("--file", metavar="FILE", help="what --api files serves over HTTP")
    options = parser.parse_args(arguments)
    if (options.certificate is None) != (options.key is None):
        parser.error("--certificate and --key go together")
    if options.certificate is not None and options.api == "sock":
        parser.error("--api sock has no TLS")
    if (options.api == "files") != (options.file is not None):
        parser.error("--api files needs --file, and nothing else does")
    if options.sqpoll and options.loop != "kloop":
        parser.error("--sqpoll is for --loop kloop")
    return options


def main() -> None:
    options = parse()
    signal.alarm(options.lifetime)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = new_loop(options)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(serve(options))
        # Transports and handlers of connections that are still open end with the process.
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


if __name__ == "__main__":
    main()
