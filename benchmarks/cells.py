# SPDX-License-Identifier: MulanPSL-2.0
"""What is measured: the cells of the table, and the variants side by side."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One server program: a loop under Python, or a program in C."""

    name: str
    title: str
    #: The loop for echo_server.py, or None for a C program.
    loop: str | None = None
    #: The C program in the build directory.
    program: str | None = None
    sqpoll: bool = False
    #: Not a server: the program measures itself (openssl_alone).
    alone: bool = False
    #: Measured only when asked for by name.
    optional: bool = False


VARIANTS: list[Variant] = [
    Variant("asyncio", "asyncio", loop="asyncio"),
    Variant("uvloop", "uvloop", loop="uvloop"),
    Variant("kloop", "kLoop", loop="kloop"),
    Variant("kloop-sqpoll", "kLoop, SQPOLL", loop="kloop", sqpoll=True, optional=True),
    Variant("c-kloop", "C libkloop", program="echo_kloop"),
    Variant("c-kloop-sqpoll", "C libkloop, SQPOLL", program="echo_kloop", sqpoll=True,
            optional=True),
    Variant("c-uring", "C liburing", program="echo_uring"),
    Variant("c-epoll", "C epoll", program="echo_epoll"),
    Variant("c-openssl", "C OpenSSL, epoll", program="echo_openssl"),
    Variant("openssl", "OpenSSL alone", program="openssl_alone", alone=True),
]


#: Of the cells that send files.
LARGEST_FILE = 64 * 1024 * 1024

#: The C programs beside cells without TLS, and beside those with it.
PLAIN_PROGRAMS = frozenset({"echo_kloop", "echo_uring", "echo_epoll"})
TLS_PROGRAMS = frozenset({"echo_kloop", "echo_openssl", "openssl_alone"})


@dataclass(frozen=True)
class Cell:
    """One row of the table: a way to use the loop, and a load.

    ``mode`` is that of the load program: "echo" costs processor time per
    message, "accept", "handshake" and "resume" per connection, "download" per
    file, "idle" memory per connection.
    """

    name: str
    title: str
    api: str
    connections: int
    message_bytes: int
    mode: str = "echo"
    #: C servers have no API to choose; they stand beside the Protocol cells.
    with_c: bool = False
    tls: bool = False
    #: Servers that share a port, each with a loop of its own.
    processes: int = 1
    #: Is it a row of the table, or a point of curves alone?
    in_table: bool = True

    @property
    def programs(self) -> frozenset[str]:
        """The C servers that stand in this row."""
        if not self.with_c:
            return frozenset()
        return TLS_PROGRAMS if self.tls else PLAIN_PROGRAMS

    @property
    def unit(self) -> str:
        return {"echo": "µs/message", "accept": "µs/connection", "idle": "KiB/connection",
                "handshake": "µs/connection", "resume": "µs/connection",
                "download": "µs/file"}[self.mode]


def _echo(api: str, title: str, connections: int, kib: int, with_c: bool = False) -> Cell:
    return Cell(f"{api}-{connections}x{kib}", f"{title} {connections} × {kib} KiB", api,
                connections, kib * 1024, with_c=with_c)


def _tls(api: str, title: str, connections: int, kib: int, with_c: bool = False) -> Cell:
    return Cell(f"tls-{api}-{connections}x{kib}", f"TLS {title} {connections} × {kib} KiB", api,
                connections, kib * 1024, with_c=with_c, tls=True)


def _file(name: str, title: str, connections: int, size: int) -> Cell:
    return Cell(f"tls-file-{name}", f"HTTPS file, {connections} × {title}", "files", connections,
                size, mode="download", tls=True)


def _point(connections: int, size: int) -> Cell:
    """A point of a curve; one that is in the table too stands there alone."""
    words = f"{size // 1024} KiB" if size >= 1024 else f"{size} B"
    return Cell(f"protocol-{connections}x{words.replace(' ', '')}",
                f"Protocol {connections} × {words}", "protocol", connections, size, with_c=True,
                in_table=False)


def _memory(connections: int) -> Cell:
    return Cell(f"memory-{connections}", f"Protocol, {connections} idle connections", "protocol",
                connections, 1024, mode="idle", in_table=False)


def _processes(number: int) -> Cell:
    return Cell(f"processes-{number}", f"Protocol 100 × 1 KiB, processes: {number}", "protocol",
                100, 1024, processes=number, in_table=False)


CELLS: list[Cell] = [
    _echo("protocol", "Protocol", 10, 1, with_c=True),
    _echo("protocol", "Protocol", 100, 1, with_c=True),
    _echo("protocol", "Protocol", 1000, 1, with_c=True),
    _echo("protocol", "Protocol", 100, 10, with_c=True),
    _echo("protocol", "Protocol", 10, 100, with_c=True),
    _echo("streams", "streams", 10, 1),
    _echo("streams", "streams", 10, 10),
    _echo("streams", "streams", 10, 100),
    _echo("buffered", "BufferedProtocol", 10, 1),
    _echo("buffered", "BufferedProtocol", 10, 10),
    _echo("buffered", "BufferedProtocol", 10, 100),
    _echo("sock", "sock_recv, sock_sendall", 10, 1),
    _echo("sock", "sock_recv, sock_sendall", 10, 10),
    _echo("sock", "sock_recv, sock_sendall", 10, 100),
    Cell("accept", "Protocol, connect, 1 KiB, close", "protocol", 50, 1024, mode="accept",
         with_c=True),
    Cell("memory", "Protocol, idle connection", "protocol", 1000, 1024, mode="idle"),
    *(_tls("protocol", "Protocol", connections, kib, with_c=True)
      for kib in (1, 10, 100) for connections in (10, 100)),
    _tls("streams", "streams", 10, 10),
    Cell("tls-handshake", "TLS Protocol, full handshake, 1 KiB, close", "protocol", 10, 1024,
         mode="handshake", with_c=True, tls=True),
    Cell("tls-resume", "TLS Protocol, resumed handshake, 1 KiB, close", "protocol", 10, 1024,
         mode="resume", with_c=True, tls=True),
    _file("1k", "1 KiB", 10, 1024),
    _file("64k", "64 KiB", 10, 64 * 1024),
    _file("1m", "1 MiB", 10, 1024 * 1024),
    _file("10m", "10 MiB", 2, 10 * 1024 * 1024),
    _file("64m", "64 MiB", 2, LARGEST_FILE),
    _point(1, 1024),
    _point(10_000, 1024),
    *(_point(10, size) for size in (64, 256, 4096, 16384, 65536, 262144, 1048576)),
    _memory(100),
    _memory(10_000),
    *(_processes(number) for number in (1, 2, 4)),
]
