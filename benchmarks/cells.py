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
]


@dataclass(frozen=True)
class Cell:
    """One row of the table: a way to use the loop, and a load.

    ``mode`` is that of the load program: "echo" costs processor time per
    message, "accept" per connection, "idle" memory per connection.
    """

    name: str
    title: str
    api: str
    connections: int
    message_bytes: int
    mode: str = "echo"
    #: C servers have no API to choose; they stand beside the Protocol cells.
    with_c: bool = False

    @property
    def unit(self) -> str:
        return {"echo": "µs/message", "accept": "µs/connection", "idle": "KiB/connection"}[
            self.mode]


def _echo(api: str, title: str, connections: int, kib: int, with_c: bool = False) -> Cell:
    return Cell(f"{api}-{connections}x{kib}", f"{title} {connections} × {kib} KiB", api,
                connections, kib * 1024, with_c=with_c)


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
]
