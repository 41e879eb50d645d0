# SPDX-License-Identifier: MulanPSL-2.0
"""Exception handlers and signal handlers that do to their loop whatever can be done.

Side by side with asyncio, as in test_hard_alike: what the program sees is alike.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys

import pytest

import kloop
from test_hard_alike import outcome
from test_hard_callbacks import Odd
from transport_tools import connected, tcp_pair, turns, unix_pair, until

pytestmark = pytest.mark.usefixtures("little_garbage")
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}


class Log(logging.Handler):
    """What asyncio's logger is given, without what differs."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        line = record.getMessage().splitlines()[0]
        # The handle of a protocol's callback, which kLoop does not have.
        self.lines.append("Exception in callback" if line.startswith("Exception in callback")
                          else line)


@pytest.fixture
def log():
    handler = Log()
    logger = logging.getLogger("asyncio")
    former = logger.propagate
    logger.propagate = False
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.propagate = former


def check_alike(scenario, log, same=("raised", "handled", "seen", "log")):
    """outcome() on both loops, and what was logged."""
    outcomes = {}
    for name, factory in LOOPS.items():
        log.lines.clear()
        outcomes[name] = {**outcome(factory, scenario), "log": list(log.lines)}
    for key in same:
        assert outcomes["kloop"][key] == outcomes["asyncio"][key], key
    return outcomes["kloop"]


# ---- exception handlers --------------------------------------------------------


def fail(*args):
    raise ValueError("of the callback")


class Fails(asyncio.Protocol):
    """Raises in one callback; the transport is for the handler."""

    def __init__(self, where):
        self.lost = False
        self.where = where

    def connection_made(self, transport):
        self.transport = transport
        if self.where == "connection_made":
            fail()

    def data_received(self, data):
        if self.where == "data_received":
            fail()

    def pause_writing(self):
        if self.where == "pause_writing":
            fail()

    def connection_lost(self, error):
        self.lost = True
        if self.where == "connection_lost":
            fail()


class Source:
    """Where the exceptions come from: what has one raised, and the transport that is there."""

    def __init__(self, loop, name):
        self.loop, self.name = loop, name
        self.ends = []
        self.transport = self.protocol = None

    async def provoke(self):
        loop = self.loop
        if self.name == "call_soon":
            loop.call_soon(fail)
        elif self.name == "call_later":
            loop.call_later(0.001, fail)
        elif self.name == "call_soon_threadsafe":
            loop.call_soon_threadsafe(fail)
        elif self.name == "reader":
            one, two = unix_pair()
            self.ends += [one, two]
            loop.add_reader(one, lambda: (loop.remove_reader(one), fail()))
            two.send(b"x")
        elif self.name == "signal":
            loop.add_signal_handler(signal.SIGUSR1, fail)
            os.kill(os.getpid(), signal.SIGUSR1)
        elif self.name == "explicit":
            loop.call_soon(loop.call_exception_handler, {"message": "by hand"})
        else:
            await self.provoke_protocol()

    async def provoke_protocol(self):
        where = self.name
        self.protocol = Fails(where)
        self.transport, peer = await connected(self.loop, self.protocol, tcp_pair)
        self.ends.append(peer)
        if where == "data_received":
            peer.send(b"x")
        elif where == "pause_writing":
            self.transport.set_write_buffer_limits(0)
            self.transport.write(b"x" * 10_000_000)
        elif where == "connection_lost":
            self.transport.abort()

    async def close(self):
        if self.name == "signal":
            self.loop.remove_signal_handler(signal.SIGUSR1)
        if self.transport is not None:
            self.transport.abort()
            await until(lambda: self.protocol.lost)
        for end in self.ends:
            end.close()


SOURCES = ["call_soon", "call_later", "call_soon_threadsafe", "reader", "signal", "explicit",
           "connection_made", "data_received", "pause_writing", "connection_lost"]


def raising(error):
    def react(loop, context, source):
        raise error("on purpose")
    return react


def again(loop, context, source):
    """Another exception while this one is handled; it ends at some depth."""
    if context["message"] != "again":
        loop.call_exception_handler({"message": "again"})


def replace(loop, context, source):
    loop.set_exception_handler(None)
    loop.default_exception_handler(context)
    loop.call_exception_handler({"message": "to the default one"})


def schedule(loop, context, source):
    loop.call_soon(loop.stop)
    loop.create_task(asyncio.sleep(0))
    loop.call_later(0, int)


REACTIONS = {
    "close the loop": lambda loop, context, source: loop.close(),
    # run_forever() of asyncio breaks the loop in 3.13.0.
    "run the loop": lambda loop, context, source: loop.run_until_complete(loop.create_future()),
    "stop": lambda loop, context, source: loop.stop(),
    "abort": lambda loop, context, source: source.transport and source.transport.abort(),
    "close": lambda loop, context, source: source.transport and source.transport.close(),
    "default": lambda loop, context, source: loop.default_exception_handler(context),
    "again": again,
    "replace": replace,
    "schedule": schedule,
    "forget": lambda loop, context, source: context.clear(),
    "raise ValueError": raising(ValueError),
    "raise CancelledError": raising(asyncio.CancelledError),
    "raise KeyboardInterrupt": raising(KeyboardInterrupt),
    "raise SystemExit": raising(SystemExit),
    "raise Odd": raising(Odd),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("reaction", sorted(REACTIONS))
def test_exception_handlers(log, source, reaction):
    async def scenario(loop):
        seen = []
        room = Source(loop, source)

        def handler(loop, context):
            seen.append(type(context.get("exception")).__name__)
            REACTIONS[reaction](loop, context, room)

        former = loop.get_exception_handler()
        loop.set_exception_handler(handler)
        try:
            await room.provoke()
            await until(lambda: seen)
            await turns()
        finally:
            loop.set_exception_handler(handler if reaction == "replace" else former)
            await room.close()
            loop.set_exception_handler(former)
        return seen

    same = ["raised", "handled", "log"]
    # What a handler raises in the middle of write() goes through write() on asyncio; here
    # write() returns, and the run ends after the callback.
    if (source, reaction) not in [("pause_writing", "raise KeyboardInterrupt"),
                                  ("pause_writing", "raise SystemExit")]:
        same.append("seen")
    check_alike(scenario, log, same)


@pytest.mark.parametrize("bad", [ValueError, KeyboardInterrupt, Odd])
def test_default_handler_that_raises(log, bad):
    """An overridden default_exception_handler(), on a loop of a subclass."""
    async def scenario(loop):
        calls = []

        def default(context):
            calls.append(context["message"])
            if len(calls) == 1:
                raise bad("on purpose")

        former = loop.get_exception_handler()
        loop.set_exception_handler(None)
        loop.default_exception_handler = default
        try:
            loop.call_soon(fail)
            await until(lambda: calls)
            await turns()
        finally:
            del loop.default_exception_handler
            loop.set_exception_handler(former)
        return len(calls)

    check_alike(scenario, log)


# ---- signal handlers -------------------------------------------------------------


class Idle(asyncio.Protocol):
    """Of the connection that a signal handler finds."""

    received = lost = made = 0

    def connection_made(self, transport):
        self.made += 1

    def data_received(self, data):
        self.received += 1
        if data == b"signal":
            os.kill(os.getpid(), signal.SIGUSR1)

    def connection_lost(self, error):
        self.lost += 1


def soon(room):
    room.loop.call_soon(room.called.append, "soon")
    room.loop.call_soon_threadsafe(room.called.append, "threadsafe")
    room.loop.call_later(0, room.called.append, "timer")


def remove(room):
    room.called.append(room.loop.remove_signal_handler(signal.SIGUSR1))


def another(room):
    room.loop.add_signal_handler(signal.SIGUSR2, room.called.append, "another")
    os.kill(os.getpid(), signal.SIGUSR2)


def refused(function):
    def react(room):
        with pytest.raises(RuntimeError) as caught:
            function(room.loop)
        room.called.append(str(caught.value))
    return react


HANDLERS = {
    "stop": lambda room: room.loop.stop(),
    "close": refused(lambda loop: loop.close()),
    "run": refused(lambda loop: loop.run_until_complete(loop.create_future())),
    "soon": soon,
    "abort": lambda room: room.transport.abort(),
    "close the transport": lambda room: room.transport.close(),
    "write": lambda room: room.transport.write(b"y" * 1_000_000),
    "pause": lambda room: (room.transport.pause_reading(), room.transport.resume_reading()),
    "remove": remove,
    "another": another,
    "cancel": lambda room: room.task.cancel(),
}


class Room:
    def __init__(self, loop):
        self.loop = loop
        self.called = []
        self.protocol = Idle()
        self.count = 0

    def handler(self, *args):
        self.count += 1
        if self.count == 1:
            HANDLERS[self.action](self)


async def signalled(room, state):
    """The signal comes: in a callback of the transport, in a step of a task, or from elsewhere."""
    transport, peer = await connected(room.loop, room.protocol, unix_pair)
    room.transport = transport
    room.task = room.loop.create_task(asyncio.sleep(3600))
    try:
        if state == "callback":
            peer.send(b"signal")
        elif state == "task":
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            woken = room.loop.create_future()
            room.woken = woken
            with subprocess.Popen(["sh", "-c", f"sleep 0.02; kill -USR1 {os.getpid()}"]):
                while not room.count:  # it sleeps: nothing else comes but the signal, once
                    await asyncio.wait([room.task], timeout=0.2)
        await until(lambda: room.count)
        await turns()
        peer.setblocking(False)
        transport.abort()
        await until(lambda: room.protocol.lost)
        await turns()
        room.loop.call_soon(room.called.append, "end")
        await turns()
    finally:
        room.task.cancel()
        room.loop.remove_signal_handler(signal.SIGUSR2)
        transport.abort()
        await until(lambda: room.protocol.lost)
        await asyncio.wait([room.task])
        peer.close()
    return sorted(map(str, room.called)), room.count, room.protocol.lost, room.task.cancelled()


@pytest.mark.parametrize("state", ["callback", "task", "asleep"])
@pytest.mark.parametrize("kind,action", [
    *(("loop", action) for action in sorted(HANDLERS)),
    # Others are about the loop's own handlers.
    *(("python", action) for action in sorted(set(HANDLERS) - {"remove", "another"}))])
def test_signal_handlers(log, action, kind, state):
    async def scenario(loop):
        room = Room(loop)
        room.action = action
        former = signal.getsignal(signal.SIGUSR1)
        if kind == "loop":
            loop.add_signal_handler(signal.SIGUSR1, room.handler)
        else:
            signal.signal(signal.SIGUSR1, room.handler)
        try:
            return await signalled(room, state)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, former)

    check_alike(scenario, log)


def test_a_signal_in_every_step(kernel_loop):
    """signal.signal()'s handler runs between any two lines of a callback, and aborts."""
    loop = kernel_loop
    former = signal.getsignal(signal.SIGALRM)
    transports = []

    def handler(number, frame):
        for transport in transports:
            transport.abort()
        transports.clear()
        loop.call_soon_threadsafe(int)

    async def one_round():
        protocols = [Idle(), Idle()]
        one, two = socket.socketpair()
        ends = []
        for sock, protocol in zip((one, two), protocols):
            transport, _ = await loop.create_connection(lambda p=protocol: p, sock=sock)
            ends.append(transport)
        transports.extend(ends)
        for transport in ends * 5:
            transport.write(b"z" * 10_000)
            await asyncio.sleep(0)
        for transport in ends:
            transport.abort()
        await until(lambda: all(protocol.lost for protocol in protocols))
        assert [protocol.made for protocol in protocols] == [1, 1]
        assert [protocol.lost for protocol in protocols] == [1, 1]

    async def main():
        for _ in range(100):
            await one_round()

    signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
        loop.run_until_complete(asyncio.wait_for(main(), 120))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


ENDS_BY_SIGNAL = """
import asyncio, os, signal, socket, sys, threading
import kloop
loop = kloop.Loop()
def handler(number, frame):
    {action}
signal.signal(signal.SIGUSR1, handler)
async def main():
    pair = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=pair[0])
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    await asyncio.sleep(1000)
loop.run_until_complete(main())
"""


@pytest.mark.parametrize("action,status", [
    ("sys.exit(5)", 5), ("raise KeyboardInterrupt", -signal.SIGINT), ("os._exit(6)", 6),
    ("raise ValueError", 1), ("loop.close()", 1), ("loop.call_soon_threadsafe(loop.stop)", 1)])
def test_programs_that_end_by_a_signal(action, status):
    results = []
    for module in "kloop", "asyncio":
        code = ENDS_BY_SIGNAL.replace("{action}", action)
        if module == "asyncio":
            code = code.replace("kloop.Loop", "asyncio.SelectorEventLoop")
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                timeout=300, stdin=subprocess.DEVNULL)
        assert "Fatal Python error" not in result.stderr
        results.append(result.returncode)
    assert results == [status, status]
