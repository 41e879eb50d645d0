# SPDX-License-Identifier: MulanPSL-2.0
"""TLS connections: by libkloop, or by asyncio's sslproto where that cannot be.

libkloop takes the ssl module's own objects, so whatever an SSLContext was told
holds: verification, certificates, ALPN, SNI callbacks, sessions, key logs. It
needs a proof that it knows them (_kloop._tls_refusal() says what it lacks), and
a plain transport of its own below, and an SSLObject whose read(), write() and
unwrap() are not overridden. Everything else goes through sslproto, which is
correct and slower; get_extra_info("ktls_send_reason") tells.

get_extra_info("ssl_object") is the connection's SSLObject, for all that it can
be asked. Its read(), write(), do_handshake() and unwrap() are the transport's:
called by others they do no harm to the process, but maybe to the connection.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from asyncio import sslproto
from typing import Any

from . import _kloop

_HAS_SHUTDOWN_TIMEOUT = sys.version_info >= (3, 11)


def _timeouts(handshake, shutdown) -> dict:
    """Those that this Python's sslproto knows."""
    options = {"ssl_handshake_timeout": handshake}
    if _HAS_SHUTDOWN_TIMEOUT:
        options["ssl_shutdown_timeout"] = shutdown
    return options


def _note(ssl_protocol, reason: str) -> None:
    """Let a transport of sslproto answer for ktls_send and its kin."""
    for direction in "ktls_send", "ktls_recv":
        ssl_protocol._extra[direction] = False
        ssl_protocol._extra[f"{direction}_reason"] = reason


def _reason(what: str) -> str:
    return f"asyncio's sslproto serves: {what}"


class TlsParts:
    """What a loop needs for ssl= and start_tls()."""

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, waiter=None, *,
                            server_side=False, server_hostname=None, extra=None, server=None,
                            call_connection_made=True, ssl_handshake_timeout=None,
                            ssl_shutdown_timeout=None, context=None):
        if not sslcontext:
            sslcontext = _default_context(server_side, server_hostname)
        transport = self._make_tls_transport(
            rawsock, protocol, sslcontext, waiter, server_side=server_side,
            server_hostname=server_hostname, extra=extra, server=server,
            call_connection_made=call_connection_made,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout, context=context)
        if transport is not None:
            return transport
        ssl_protocol = sslproto.SSLProtocol(
            self, protocol, sslcontext, waiter, server_side, server_hostname,
            call_connection_made=call_connection_made,
            **_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout))
        _note(ssl_protocol, _reason(_kloop._tls_refusal() or
                                    "the SSLContext or its SSLObject is not Python's own"))
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server,
                                    context=context)
        return ssl_protocol._app_transport

    async def start_tls(self, transport: Any, protocol: asyncio.BaseProtocol,
                        sslcontext: ssl.SSLContext, *, server_side: bool = False,
                        server_hostname: str | None = None,
                        ssl_handshake_timeout: float | None = None,
                        ssl_shutdown_timeout: float | None = None) -> Any:
        """Upgrade a transport to TLS; returns the transport to go on with.

        That is the same one where libkloop does it. Bytes that it has received
        and not yet handed to its protocol belong to the handshake, and on the
        server's side those that wait in a StreamReader. Cancelled or failed, the
        transport is closed.
        """
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError("sslcontext is expected to be an instance of ssl.SSLContext, "
                            f"got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        upgraded = False
        early = _take_early(protocol) if server_side else b""
        try:
            upgraded = self._upgrade_tls(
                transport, protocol, sslcontext, waiter, server_side=server_side,
                server_hostname=server_hostname, ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout, early=early)
        finally:
            if early and not upgraded:
                protocol._stream_reader._buffer[:0] = early
        if not upgraded:
            upgraded = await super().start_tls(
                transport, protocol, sslcontext, server_side=server_side,
                server_hostname=server_hostname,
                **_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout))
            _note(upgraded._ssl_protocol,
                  _reason(_kloop._tls_refusal() or "TLS is not directly on a connection"))
            return upgraded
        try:
            await waiter
        except BaseException:
            transport.close()
            # The exception in it would keep the transport alive in a cycle.
            waiter = None
            raise
        return transport


def _take_early(protocol) -> bytes:
    """The client's first bytes of TLS, if they came before start_tls() and went to a reader."""
    if not isinstance(protocol, asyncio.StreamReaderProtocol):
        return b""
    reader = getattr(protocol, "_stream_reader", None)
    if reader is None:
        return b""
    early = bytes(reader._buffer)
    reader._buffer.clear()
    return early


def _default_context(server_side, server_hostname):
    """What ssl=True means."""
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context
