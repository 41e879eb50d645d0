# SPDX-License-Identifier: MulanPSL-2.0
"""The event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import socket
import stat
import sys
import threading
import warnings
import weakref
from asyncio import base_events, unix_events
from asyncio.log import logger
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import _kloop
from ._asyncio_parts import SelectorParts
from ._resolver import ResolverParts
from ._tls import TlsParts

# What asyncio's sendfile() does to the file's position if nothing was sent: newer ones set it.
_SENDFILE_ALWAYS_SEEKS = "total_sent" not in inspect.signature(
    unix_events._UnixSelectorEventLoop._sock_sendfile_update_filepos).parameters


def _signed_as(method):
    """A decorator: the function takes what this method takes, in whichever Python it is."""

    def sign(function):
        function.__wrapped__ = method
        return function

    return sign


class Loop(_kloop.Loop, ResolverParts, SelectorParts, TlsParts, asyncio.BaseEventLoop):
    """An asyncio event loop on io_uring.

    What runs often is written in C on libkloop: callbacks, timers, streams,
    servers, readers and writers, sock_*() calls. The rest is asyncio's own.

    Options, all by keyword; None means libkloop's default:

    sqpoll: let a thread of the kernel poll for submissions. It pays only where
        it has a processor of its own.
    sq_thread_idle_ms, sq_thread_cpu: after how long that thread sleeps, and the
        processor it is pinned to (-1: any).
    spin_ns: look for completions for so long before sleeping.
    submission_entries, completion_entries: the sizes of the ring's queues.
    receive_buffers, receive_buffer_bytes: the pool of buffers that streams
        share; the number is a power of two.
    ktls: when TLS connections are encrypted by the kernel, if it can: "auto"
        where it pays, "on" (or True) after every handshake, "off" (or False)
        never, as KLOOP_KTLS=0 in the environment says for the whole process.
        transport.get_extra_info() tells by "ktls_send" and "ktls_recv", and why
        not by "ktls_send_reason" and "ktls_recv_reason".
    dns: who looks up names: "kloop", libkloop's resolver on the ring, or "system",
        socket.getaddrinfo() in the executor, as KLOOP_DNS=system in the environment
        says for the whole process. A mapping has options of resolver.configure().

    Raises IoUringUnavailable where the kernel, its configuration or a sandbox
    does not allow io_uring.
    """

    def __init__(self, *, sqpoll: bool = False, sq_thread_idle_ms: int = 0,
                 sq_thread_cpu: int = -1, spin_ns: int | None = None,
                 submission_entries: int | None = None, completion_entries: int | None = None,
                 receive_buffers: int | None = None, receive_buffer_bytes: int | None = None,
                 ktls: str | bool = "auto", dns: str | Mapping | None = None,
                 _without: int = 0) -> None:
        self._open(
            sqpoll=sqpoll, sq_thread_idle_ms=sq_thread_idle_ms, sq_thread_cpu=sq_thread_cpu,
            spin_ns=spin_ns, submission_entries=submission_entries,
            completion_entries=completion_entries, receive_buffers=receive_buffers,
            receive_buffer_bytes=receive_buffer_bytes, without=_without, ktls=ktls)
        super().__init__()
        self._signal_handlers = {}
        self._signals_claimed = False  # for the run, not for a handler
        self._unix_server_sockets = {}
        self._given_sockets = weakref.WeakSet()
        self._transports = weakref.WeakValueDictionary()
        try:
            self._open_resolver(dns)
            self._make_self_pipe()
        except BaseException:
            self._close_ring()
            raise

    # BaseEventLoop.run_forever() calls it until _stopping is set. Ours returns
    # only then: its loop of iterations is in C.
    _run_once = _kloop.Loop._run

    def run_forever(self) -> None:
        """Run until stop() is called."""
        # First of all: Python 3.13.0 cleans up after a run that it refuses.
        self._check_closed()
        self._check_running()
        self._signals_claimed = self._claim_signals()
        try:
            super().run_forever()
        finally:
            if self._signals_claimed and not self._signal_handlers:
                signal.set_wakeup_fd(-1)

    def _claim_signals(self) -> bool:
        """Have signals end the wait, whenever they come; only the main interpreter's main thread can.

        Without it a signal between the last look and the wait would be handled
        only when something else happens. A descriptor that somebody else set
        stays as it is.
        """
        if threading.current_thread() is not threading.main_thread() or self._csock is None:
            return False
        mine = self._csock.fileno()
        try:
            former = signal.set_wakeup_fd(mine, warn_on_full_buffer=False)
        except ValueError:  # another interpreter's main thread
            return False
        if former == mine or former == -1:
            return former == -1
        signal.set_wakeup_fd(former)
        return False

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the handler of a signal; False if there was none."""
        removed = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers and self.is_running():
            self._signals_claimed = self._claim_signals()
        return removed

    def close(self) -> None:
        """Close the loop: abort what is open, drop what is scheduled, free the ring."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._close_self_pipe()
        super().close()
        self._close_ring()
        if not sys.is_finalizing():
            for sig in list(self._signal_handlers):
                super().remove_signal_handler(sig)
        elif self._signal_handlers:
            warnings.warn(f"Closing the loop {self!r} on interpreter shutdown stage, "
                          "skipping signal handlers removal", ResourceWarning, source=self)
            self._signal_handlers.clear()

    @_signed_as(asyncio.BaseEventLoop.create_server)
    async def create_server(
            self, protocol_factory: Callable[[], asyncio.BaseProtocol],
            host: str | Sequence[str] | None = None, port: int | None = None, *,
            sock: socket.socket | None = None, **options: Any) -> asyncio.Server:
        """Create a server: as asyncio's, whose options these are.

        A sock may be shared with other processes, which take turns at accepting.
        """
        self._note_given(sock)
        return await super().create_server(protocol_factory, host, port, sock=sock, **options)

    @_signed_as(unix_events._UnixSelectorEventLoop.create_unix_server)
    async def create_unix_server(
            self, protocol_factory: Callable[[], asyncio.BaseProtocol],
            path: str | os.PathLike | None = None, *,
            sock: socket.socket | None = None, **options: Any) -> asyncio.Server:
        """Create a server on a Unix socket: as asyncio's, whose options these are.

        A sock may be shared with other processes, which take turns at accepting.
        """
        self._note_given(sock)
        return await super().create_unix_server(protocol_factory, path, sock=sock, **options)

    def _note_given(self, sock) -> None:
        # It may be any object like a socket, as gunicorn's are; what is no socket fails later.
        if sock is not None:
            with contextlib.suppress(TypeError):
                self._given_sockets.add(sock)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect a socket; names are resolved first."""
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if sock.family == socket.AF_INET or (
                base_events._HAS_IPv6 and sock.family == socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self)
            _, _, _, _, address = resolved[0]
        await self._sock_connect(sock, address)

    async def sendfile(self, transport: asyncio.WriteTransport, file: Any, offset: int = 0,
                       count: int | None = None, *, fallback: bool = True) -> int:
        """Send a file to a transport, as asyncio does; also over TLS by the ring."""
        if isinstance(transport, _kloop.StreamTransport):
            sent = transport._send_small(file, offset, count)
            if sent is not None:
                return sent
        return await super().sendfile(transport, file, offset, count, fallback=fallback)

    async def _sendfile_native(self, transp, file, offset, count):
        """Send a file by the ring, with or without TLS; for transports of other kinds: no."""
        if not isinstance(transp, _kloop.StreamTransport):
            raise asyncio.SendfileNotAvailableError(
                f"sendfile syscall is not available for transport {transp!r}")
        self._check_sendfile_params(transp.get_extra_info("socket"), file, offset, count)
        fileno = _regular_file(file)
        if _SENDFILE_ALWAYS_SEEKS:
            os.lseek(fileno, offset, os.SEEK_SET)  # where it stays if nothing is sent
        resume_reading = transp.is_reading()
        transp.pause_reading()
        try:
            error, sent = await _file_sent(transp, transp._send_file(fileno, offset, count or 0))
        finally:
            if resume_reading:
                transp.resume_reading()
        if error is not None:
            if sent == 0 and not transp.is_closing():
                raise asyncio.SendfileNotAvailableError("the file cannot be read") from error
            raise error
        return sent

    def _stop_serving(self, sock) -> None:
        """End accepting; remove the file of a Unix socket that create_unix_server() made."""
        inode = self._unix_server_sockets.pop(sock, None)
        path = None if inode is None else sock.getsockname()
        self._stop_serving_c(sock)
        if path is None:
            return
        try:
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)

    def _log_slow_handle(self, handle, seconds: float) -> None:
        base_events.logger.warning("Executing %s took %.3f seconds",
                                   base_events._format_handle(handle), seconds)


def _regular_file(file) -> int:
    """The descriptor of a regular file."""
    try:
        fileno = file.fileno()
        regular = stat.S_ISREG(os.fstat(fileno).st_mode)
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        regular = False
    if not regular:
        raise asyncio.SendfileNotAvailableError("not a regular file")
    return fileno


async def _file_sent(transp, waiter):
    """Wait until a file is sent; if that is cancelled, until it is stopped, which is soon."""
    cancelled = None
    while waiter is not None:
        try:
            result = await waiter
            break
        except asyncio.CancelledError as error:
            cancelled = error
            # Our own waiter was cancelled with us: the next one tells of the end.
            waiter = transp._cancel_file()
    if cancelled is not None:
        raise cancelled
    return result
