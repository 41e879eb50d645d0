# SPDX-License-Identifier: MulanPSL-2.0
"""Parts of asyncio's own selector loop that work on any loop with readers and writers.

They are functions of CPython's classes, taken from the running Python, so they
follow its version. What is taken uses nothing of a loop but its public
interface, _add_reader and its kin, and _csock and _ssock.

Not taken is what calls super(), which is bound to the class it was written in.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import weakref
from asyncio import selector_events, unix_events
from asyncio.log import logger

_BORROWED = {
    selector_events.BaseSelectorEventLoop: (
        "_make_self_pipe", "_close_self_pipe", "_read_from_self",
        "_ensure_fd_no_transport", "_sendfile_native"),
    unix_events._UnixSelectorEventLoop: (
        "add_signal_handler", "remove_signal_handler", "_handle_signal", "_check_signal",
        "_process_self_data",
        "create_unix_connection", "create_unix_server",
        "_sock_sendfile_native", "_sock_sendfile_native_impl",
        "_sock_sendfile_update_filepos", "_sock_add_cancellation_callback"),
}

_DATAGRAM_FAMILIES = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX


def _borrow(namespace: dict) -> None:
    for owner, names in _BORROWED.items():
        for name in names:
            namespace[name] = vars(owner)[name]


class _Watched:
    """What repr() of asyncio's transports asks of loop._selector."""

    def __init__(self, loop) -> None:
        self._loop = weakref.ref(loop)

    def get_key(self, fd):
        """The SelectorKey of a descriptor that is watched; KeyError if it is not."""
        loop = self._loop()
        events = 0 if loop is None or loop.is_closed() else loop._watched_events(fd)
        if not events:
            raise KeyError(f"{fd!r} is not registered")
        return selectors.SelectorKey(fd, fd, events, None)


class SelectorParts:
    """Signals, Unix sockets, datagrams, pipes and subprocesses from asyncio."""

    _borrow(locals())

    @property
    def _selector(self):
        return None if self.is_closed() else _Watched(self)

    # ---- datagrams

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        self._ensure_fd_no_transport(sock)
        if sock.family in _DATAGRAM_FAMILIES:
            return self._make_datagram_transport_c(
                sock, protocol, address, waiter, extra, sock.family)
        # Netlink and its like: the socket module knows their addresses.
        return selector_events._SelectorDatagramTransport(
            self, sock, protocol, address, waiter, extra)

    @staticmethod
    def _resolve_datagram_address(sock, address):
        """An address in numbers, or what the socket module says against it."""
        if sock.family == socket.AF_UNIX:
            return os.fsencode(address)
        host, port, *rest = address
        infos = socket.getaddrinfo(host, port, family=sock.family, type=sock.type)
        numbers = infos[0][4]
        return (*numbers[:2], *rest) if rest else numbers

    # ---- subprocesses

    async def _make_subprocess_transport(self, protocol, args, shell, stdin, stdout, stderr,
                                         bufsize, extra=None, **kwargs):
        """As asyncio's, with a pidfd instead of a child watcher: any thread may do it."""
        waiter = self.create_future()
        transport = unix_events._UnixSubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize,
            waiter=waiter, extra=extra, **kwargs)
        self._watch_child(transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, transport) -> None:
        pid = transport.get_pid()
        try:
            self._watch_pid(pid, self._child_ended, transport)
        except (ProcessLookupError, ChildProcessError):
            # It has ended, and the kernel (SIGCHLD is ignored) or somebody else has reaped it.
            self.call_soon(self._child_ended, transport, -errno.ECHILD)
        except OSError:
            # A sandbox may deny it, and there may be no descriptor left: a thread can wait.
            threading.Thread(target=self._wait_for_child, args=(pid, transport),
                             name=f"kloop-waitpid-{pid}", daemon=True).start()

    def _child_ended(self, transport, status: int) -> None:
        """The status is that of waitpid(2), or a negative errno."""
        if status >= 0:
            returncode = unix_events.waitstatus_to_exitcode(status)
        else:
            # Somebody else has waited for it: Popen.poll() keeps what it learnt.
            process = transport.get_extra_info("subprocess")
            returncode = process.returncode if process is not None else None
            if returncode is None:
                logger.warning("child process pid %d exit status already read: "
                               " will report returncode 255", transport.get_pid())
                returncode = 255
        transport._process_exited(returncode)

    def _wait_for_child(self, pid: int, transport) -> None:
        try:
            _, status = os.waitpid(pid, 0)
        except ChildProcessError:
            status = -errno.ECHILD
        try:
            self.call_soon_threadsafe(self._child_ended, transport, status)
        except RuntimeError:
            logger.warning("Loop %r that handles pid %r is closed", self, pid)
