# SPDX-License-Identifier: MulanPSL-2.0
"""Callbacks of protocols that raise, or that do to their transport whatever can be done.

Whatever it is: connection_lost() is called once, and last, the loop goes on,
other connections of it work, and nothing is left open.
"""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import sys

import pytest

import kloop
from transport_tools import (
    TIMEOUT, descriptors, receive_all, tcp_pair, turns, unix_pair, until, wait)

pytestmark = pytest.mark.usefixtures("little_garbage")
STREAM_CALLBACKS = ["connection_made", "data_received", "eof_received", "pause_writing",
                    "resume_writing", "connection_lost"]
BUFFERED_CALLBACKS = ["connection_made", "get_buffer", "buffer_updated", "eof_received",
                      "connection_lost"]
LARGE = 600_000  # more than the buffers of the sockets hold


class Odd(BaseException):
    """Of no kind that anybody expects."""


class Watched:
    """Calls the hook in one callback, once, and notes all of them."""

    where = hook = made = None

    def __init__(self):
        self.events = []
        self.transport = None
        self.done = False

    def _note(self, name, *args):
        self.events.append(name)
        if name == self.where and not self.done:
            self.done = True
            self.hook(self)

    def connection_made(self, transport):
        self.transport = self.made = transport
        self._note("connection_made")

    def eof_received(self):
        self._note("eof_received")

    def pause_writing(self):
        self._note("pause_writing")

    def resume_writing(self):
        self._note("resume_writing")

    def connection_lost(self, error):
        self._note("connection_lost")


class Stream(Watched, asyncio.Protocol):
    def data_received(self, data):
        self._note("data_received")


class Buffered(Watched, asyncio.BufferedProtocol):
    def __init__(self):
        super().__init__()
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint):
        self._note("get_buffer")
        return self.buffer

    def buffer_updated(self, count):
        self._note("buffer_updated")


def make(kind, where, hook):
    protocol = kind()
    protocol.where, protocol.hook = where, hook
    return protocol


async def every_callback(loop, protocol, pair):
    """Have each callback of a stream's protocol called; returns when the transport is through."""
    mine, peer = pair()
    for sock in mine, peer:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 30_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30_000)
    try:
        transport, _ = await loop.create_connection(lambda: protocol, sock=mine)
    except Exception:  # what connection_made() raised, on some loops
        mine.close()
        peer.close()
        return
    try:
        await drive(loop, transport, peer)
        await until(lambda: "connection_lost" in protocol.events)
    finally:  # the exception of pause_writing() may come out of write()
        peer.close()
        transport.abort()
        await turns()


async def drive(loop, transport, peer):
    await turns()
    try:
        if not transport.is_closing():
            transport.set_write_buffer_limits(high=10)
            transport.write(b"x" * LARGE)
        peer.send(b"some bytes")
        await turns()
        while transport.get_write_buffer_size() and not transport.is_closing():
            if not await wait(loop.sock_recv(peer, 1 << 20)):
                break
        await turns()
        transport.resume_reading()
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: transport.is_closing()
                    or "eof_received" in transport.get_protocol().events)
    except (OSError, RuntimeError):  # it was aborted
        pass
    await turns(20)
    transport.abort()


def is_on_purpose(error):
    """Is it one of ours, or the one that wait_for() of Python 3.10 makes of a CancelledError?"""
    while error is not None and str(error) != "on purpose":
        error = error.__context__
    return error is not None


def run(loop, case, errors):
    """Run it to its end, whatever ends the run in between."""
    task = loop.create_task(asyncio.wait_for(case, TIMEOUT * 2))
    for _ in range(20):
        try:
            return loop.run_until_complete(task)
        except RuntimeError as error:
            if "stopped before" not in str(error):
                raise
        except (KeyboardInterrupt, SystemExit, Odd, ValueError, asyncio.CancelledError) as error:
            if not is_on_purpose(error):
                raise
            if error not in errors:  # a task gives it again
                errors.append(error)
            if task.done():
                return None
    raise AssertionError("it raises again and again")


async def loop_is_well(loop):
    """A connection like any other."""
    one, two = unix_pair()
    reader, writer = await asyncio.open_connection(sock=one)
    writer.write(b"well")
    writer.write_eof()
    assert await loop.run_in_executor(None, receive_all, two) == b"well"
    two.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


def in_a_loop(case, factory=kloop.Loop):
    """Run case(loop) on a loop of its own, and look after its end: (errors, contexts)."""
    before = descriptors()
    loop = factory()
    contexts, errors = [], []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    try:
        run(loop, case(loop), errors)
        run(loop, loop_is_well(loop), errors)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    for error in errors:
        error.__traceback__ = None
    gc.collect()
    assert descriptors() == before
    return errors, [context["exception"] for context in contexts if "exception" in context]


def check_order(protocol):
    events = protocol.events
    assert events.count("connection_lost") == 1 and events[-1] == "connection_lost", events
    assert events.count("connection_made") == 1 and events[0] == "connection_made", events
    assert events.count("eof_received") <= 1, events


def make_raising(kind, where, error):
    def hook(protocol):
        raise error("on purpose")

    return make(kind, where, hook)


def check_raised(protocol, error, errors, contexts):
    check_order(protocol)
    assert protocol.done
    seen = [found for found in (*errors, *contexts) if isinstance(found, error)]
    assert len(seen) == 1, (errors, contexts)
    if error in (KeyboardInterrupt, SystemExit):
        assert seen == errors


CASES = [(Stream, where) for where in STREAM_CALLBACKS]
CASES += [(Buffered, where) for where in BUFFERED_CALLBACKS]
CASE_NAMES = [f"{kind.__name__}-{where}" for kind, where in CASES]


@pytest.mark.parametrize("kind,where", CASES, ids=CASE_NAMES)
@pytest.mark.parametrize("pair", [tcp_pair], ids=["tcp"])
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt,
                                   SystemExit, Odd])
def test_exceptions(kind, where, pair, error):
    """Each exception reaches somebody once: the handler, or who runs the loop."""
    protocol = make_raising(kind, where, error)
    found = in_a_loop(lambda loop: every_callback(loop, protocol, pair))
    check_raised(protocol, error, *found)


def new_protocol(protocol):
    """set_protocol() to one that only takes note, and hands on what is checked."""
    other = type(protocol)()
    other.events = protocol.events
    other.transport = protocol.transport
    protocol.transport.set_protocol(other)


def write_much(protocol):
    protocol.transport.write(b"y" * 100_000)


def close_and_write(protocol):
    protocol.transport.close()
    protocol.transport.write(b"too late")
    protocol.transport.writelines([b"too", b"late"])


def resume_and_pause(protocol):
    for _ in range(3):
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()


def limits(protocol):
    protocol.transport.set_write_buffer_limits(0)
    protocol.transport.set_write_buffer_limits(1 << 30)


def write_eof(protocol):
    if protocol.transport.can_write_eof() and not protocol.transport.is_closing():
        protocol.transport.write_eof()


def run_again(protocol):
    loop = protocol.transport._loop
    with pytest.raises(RuntimeError):
        loop.run_forever()
    with pytest.raises(RuntimeError):
        loop.close()


def insecure():
    """A client's context that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def start_tls(protocol):
    """Inside of the callback, as an eager task does; the peer speaks no TLS."""
    loop = protocol.transport._loop
    coroutine = loop.start_tls(protocol.transport, protocol, insecure(), server_hostname="nobody",
                               ssl_handshake_timeout=0.05)

    def go_on(_):
        with contextlib.suppress(StopIteration, OSError):
            coroutine.send(None)

    with contextlib.suppress(ConnectionResetError):  # it is closing
        coroutine.send(None).add_done_callback(go_on)


ACTIONS = {
    "close": lambda protocol: protocol.transport.close(),
    "abort": lambda protocol: protocol.transport.abort(),
    "close and abort": lambda protocol: (protocol.transport.close(), protocol.transport.abort()),
    "abort and close": lambda protocol: (protocol.transport.abort(), protocol.transport.close()),
    "close and write": close_and_write,
    "write": write_much,
    "write eof": write_eof,
    "pause": lambda protocol: protocol.transport.pause_reading(),
    "resume": lambda protocol: protocol.transport.resume_reading(),
    "pause and resume": resume_and_pause,
    "limits": limits,
    "set_protocol": new_protocol,
    "set_protocol and close": lambda protocol: (new_protocol(protocol),
                                                protocol.transport.close()),
    "close the socket": lambda protocol: os.close(os.dup(protocol.transport.get_extra_info(
        "socket").fileno())),
    "run": run_again,
    "stop": lambda protocol: protocol.transport._loop.stop(),
    "start_tls": start_tls,
    "forget": lambda protocol: vars(protocol).pop("transport", None),
}


@pytest.mark.parametrize("kind,where", CASES, ids=CASE_NAMES)
@pytest.mark.parametrize("pair", [tcp_pair, unix_pair], ids=["tcp", "unix"])
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_reentrancy(kind, where, pair, action):
    protocol = make(kind, where, ACTIONS[action])
    errors, contexts = in_a_loop(lambda loop: every_callback(loop, protocol, pair))
    check_order(protocol)
    assert protocol.done
    assert errors == [] and contexts == [], (errors, contexts)


# ---- datagrams -------------------------------------------------------------

DATAGRAM_CALLBACKS = ["connection_made", "datagram_received", "error_received", "pause_writing",
                      "resume_writing", "connection_lost"]


class Datagram(Watched, asyncio.DatagramProtocol):
    def datagram_received(self, data, address):
        self._note("datagram_received")

    def error_received(self, error):
        self._note("error_received")


async def every_datagram_callback(loop, protocol):
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol, local_addr=("127.0.0.1", 0))
    except (OSError, ValueError):
        return
    await turns()
    if not transport.is_closing():
        address = transport.get_extra_info("sockname")
        transport.set_write_buffer_limits(high=0)
        try:
            for _ in range(5):
                transport.sendto(b"to itself", address)
            transport.sendto(b"x" * 65_507 + b"too long", address)  # EMSGSIZE
            await turns(50)
        finally:  # the exception of error_received() may come out of sendto()
            transport.abort()
            await turns()
    transport.abort()
    await until(lambda: "connection_lost" in protocol.events)


@pytest.mark.parametrize("where", DATAGRAM_CALLBACKS)
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt,
                                   SystemExit, Odd])
def test_datagram_exceptions(where, error):
    def hook(protocol):
        raise error("on purpose")

    protocol = make(Datagram, where, hook)
    errors, contexts = in_a_loop(lambda loop: every_datagram_callback(loop, protocol))
    assert protocol.events.count("connection_lost") == 1
    assert protocol.events[-1] == "connection_lost"
    seen = [found for found in (*errors, *contexts) if isinstance(found, error)]
    assert len(seen) == protocol.done, (protocol.events, errors, contexts)


DATAGRAM_ACTIONS = {
    "close": ACTIONS["close"],
    "abort": ACTIONS["abort"],
    "abort and close": ACTIONS["abort and close"],
    "pause": ACTIONS["pause"],
    "pause and resume": ACTIONS["pause and resume"],
    "limits": ACTIONS["limits"],
    "set_protocol": new_protocol,
    "send": lambda protocol: [protocol.transport.sendto(
        b"again", protocol.transport.get_extra_info("sockname")) for _ in range(20)],
    "run": run_again,
    "stop": ACTIONS["stop"],
}


@pytest.mark.parametrize("where", DATAGRAM_CALLBACKS)
@pytest.mark.parametrize("action", sorted(DATAGRAM_ACTIONS))
def test_datagram_reentrancy(where, action):
    protocol = make(Datagram, where, DATAGRAM_ACTIONS[action])
    errors, contexts = in_a_loop(lambda loop: every_datagram_callback(loop, protocol))
    assert protocol.events.count("connection_lost") == 1
    assert protocol.events[-1] == "connection_lost"
    assert errors == [] and contexts == [], (errors, contexts)


# ---- subprocesses ----------------------------------------------------------

PROCESS_CALLBACKS = ["connection_made", "pipe_data_received", "pipe_connection_lost",
                     "process_exited", "connection_lost"]


class Process(Watched, asyncio.SubprocessProtocol):
    def pipe_data_received(self, fd, data):
        self._note("pipe_data_received")

    def pipe_connection_lost(self, fd, error):
        self._note("pipe_connection_lost")

    def process_exited(self):
        self._note("process_exited")


def kill(protocol):
    try:
        protocol.transport.kill()
    except ProcessLookupError:
        pass


PROCESS_ACTIONS = {
    "close": lambda protocol: protocol.transport.close(),
    "kill": kill,
    "close a pipe": lambda protocol: [
        pipe.close() for pipe in map(protocol.transport.get_pipe_transport, range(3)) if pipe],
    "status": lambda protocol: protocol.transport.get_returncode(),
    "run": run_again,
    "stop": ACTIONS["stop"],
}


@pytest.mark.parametrize("where", PROCESS_CALLBACKS)
@pytest.mark.parametrize("action", sorted(PROCESS_ACTIONS))
def test_process_reentrancy(where, action):
    protocol = make(Process, where, PROCESS_ACTIONS[action])

    async def case(loop):
        transport, _ = await loop.subprocess_exec(
            lambda: protocol, sys.executable, "-c", "print(input())")
        pipe = transport.get_pipe_transport(0)
        if pipe is not None and not transport.is_closing():
            pipe.write(b"a line\n")
        await until(lambda: "connection_lost" in protocol.events, 60)
        transport.close()

    errors, contexts = in_a_loop(case)
    assert protocol.events.count("connection_lost") == 1
    assert protocol.events.count("process_exited") == 1
    assert errors == [] and contexts == [], (errors, contexts)
