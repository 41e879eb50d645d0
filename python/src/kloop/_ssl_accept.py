# SPDX-License-Identifier: MulanPSL-2.0
"""Incoming TLS connections through asyncio's sslproto, one call for each from the listener in C."""

from __future__ import annotations

import sys

_SHUTDOWN_TIMEOUT = sys.version_info >= (3, 11)


def accept(loop, protocol_factory, conn, sslcontext, server,
           handshake_timeout, shutdown_timeout):
    """Make the protocol and the TLS transport of a connection.

    conn is a socket that does not block. The handshake goes on by itself; a
    task watches its end, and a connection that fails it is closed.
    """
    options = {"ssl_handshake_timeout": handshake_timeout}
    if _SHUTDOWN_TIMEOUT:
        options["ssl_shutdown_timeout"] = shutdown_timeout
    loop.create_task(_handshake(loop, protocol_factory, conn, sslcontext, server, options))


async def _handshake(loop, protocol_factory, conn, sslcontext, server, options):
    protocol = None
    transport = None
    try:
        protocol = protocol_factory()
        waiter = loop.create_future()
        transport = loop._make_ssl_transport(
            conn, protocol, sslcontext, waiter=waiter, server_side=True,
            extra={"peername": _peername(conn)}, server=server, **options)
        try:
            await waiter
        except BaseException:
            transport.close()
            # The exception in it would keep the protocol alive in a cycle.
            waiter = None
            raise
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if transport is None:
            conn.close()
        if loop.get_debug():
            context = {
                "message": "Error on transport creation for incoming connection",
                "exception": error,
            }
            if protocol is not None:
                context["protocol"] = protocol
            if transport is not None:
                context["transport"] = transport
            loop.call_exception_handler(context)


def _peername(conn):
    try:
        return conn.getpeername()
    except OSError:
        return None
