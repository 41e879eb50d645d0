# SPDX-License-Identifier: MulanPSL-2.0
"""Exceptions out of every callback: what is seen of them is what asyncio's own loop shows.

Each case runs on asyncio and on kLoop, with the same exception raised in the
same callback. What the program sees must be alike: what comes out of the run,
what the exception handler is told, which callbacks are called. And on kLoop
nothing may be left: no descriptor, no child, no thread.
"""

import asyncio
import collections
import contextlib
import gc
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import warnings

import pytest

import kloop
from test_hard_callbacks import (
    BUFFERED_CALLBACKS, STREAM_CALLBACKS, Buffered, Datagram, Odd, Process, Stream, descriptors,
    every_callback, every_datagram_callback, loop_is_well, make, run)
from transport_tools import new_threads, tcp_pair, turns, until, wait

pytestmark = pytest.mark.usefixtures("little_garbage")
ERRORS = [ValueError, asyncio.CancelledError, KeyboardInterrupt, SystemExit, Odd]
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}
LARGE = 300_000  # more than a pipe holds


class Trap:
    """To be called; the first call raises."""

    def __init__(self, error):
        self.error = error
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls == 1:
            raise self.error("on purpose")


def told(context):
    """What an exception handler can see, without what is different in each run.

    Callbacks of protocols are handles on asyncio ("handle"); kLoop, which has none,
    names the protocol and the transport instead.
    """
    message, more = context["message"], set(context)
    if message.startswith("Exception in callback "):
        message = "Exception in callback"
        assert "handle" in more or {"transport", "protocol"} <= more
        more -= {"handle", "transport", "protocol"}
    message = re.sub(r" at 0x[0-9a-f]+", "", message)  # an address that is the same is luck
    more -= {"socket", "source_traceback"}  # kLoop tells which was accepted; debug mode tells more
    return message, type(context.get("exception")).__name__, tuple(sorted(more))


def children():
    """This process's, those that nobody has waited for as well."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            text = pathlib.Path("/proc", name, "stat").read_text(errors="replace")
            if int(text.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(name)
    return found


def outcome(factory, scenario):
    """What a program sees of scenario(loop), which returns more of it; the loop is well after it."""
    before, threads, others = descriptors(), threading.enumerate(), children()
    loop = factory()
    errors, contexts, seen = [], [], []
    loop.set_exception_handler(lambda _, context: contexts.append(told(context)))

    async def case():
        seen.append(await scenario(loop))

    asyncio.set_event_loop(loop)  # some child watchers ask for it
    try:
        run(loop, case(), errors)
        run(loop, loop_is_well(loop), errors)
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    raised = [type(error).__name__ for error in errors]
    for error in errors:
        error.__traceback__ = None
    errors.clear()
    gc.collect()
    if isinstance(loop, kloop.Loop):
        assert descriptors() == before and not new_threads(threads)
    assert not children() - others
    return {"raised": raised, "handled": sorted(contexts), "seen": seen}


def check_alike(scenario):
    outcomes = {name: outcome(factory, scenario) for name, factory in LOOPS.items()}
    # Since 3.12 asyncio's writer stays where resume_writing() ends the run, with nothing to write.
    outcomes["asyncio"]["handled"] = [
        context for context in outcomes["asyncio"]["handled"] if context[1] != "AssertionError"]
    # asyncio accepts in a task, which ends with the exception that ends the run.
    for end in "KeyboardInterrupt", "SystemExit":
        forgotten = ("Task exception was never retrieved", end, ("exception", "future", "message"))
        if forgotten in outcomes["asyncio"]["handled"] and "accept" in scenario.__name__:
            outcomes["asyncio"]["handled"].remove(forgotten)
    assert outcomes["kloop"] == outcomes["asyncio"]
    return outcomes["kloop"]


def events_of(protocol, *many):
    """How often each was called; those that may come in parts count once."""
    counts = collections.Counter(protocol.events)
    for name in many:
        counts[name] = min(counts[name], 1)
    return dict(counts), protocol.events[0], protocol.events[-1]


def raiser(error):
    def hook(protocol):
        raise error("on purpose")
    return hook


# ---- protocols ---------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind,where", [
    *((Stream, where) for where in STREAM_CALLBACKS),
    *((Buffered, where) for where in BUFFERED_CALLBACKS)],
    ids=lambda value: getattr(value, "__name__", value))
def test_streams(kind, where, error):
    async def scenario(loop):
        protocol = make(kind, where, raiser(error))
        try:
            await every_callback(loop, protocol, tcp_pair)
        finally:
            assert protocol.done
        return events_of(protocol)[1:]

    check_alike(scenario)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["connection_made", "datagram_received", "error_received",
                                   "connection_lost"])
def test_datagrams(where, error):
    async def scenario(loop):
        protocol = make(Datagram, where, raiser(error))
        try:
            await every_datagram_callback(loop, protocol)
        finally:
            assert protocol.done
        return events_of(protocol)[1:]

    check_alike(scenario)


class Pipe(Stream):
    """Of a pipe; the same callbacks."""


async def read_pipe(loop, protocol):
    source, sink = os.pipe()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(source, "rb", 0))
    await turns()
    os.write(sink, b"some bytes")
    await until(lambda: "data_received" in protocol.events or transport.is_closing())
    os.close(sink)
    await until(lambda: "connection_lost" in protocol.events)
    return events_of(protocol)


async def write_pipe(loop, protocol):
    source, sink = os.pipe()
    transport, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(sink, "wb", 0))
    await turns()
    try:
        transport.set_write_buffer_limits(high=10)
        transport.write(b"x" * LARGE)
        count = 0
        while count < LARGE:
            count += len(await loop.run_in_executor(None, os.read, source, LARGE))
        await until(lambda: "resume_writing" in protocol.events or transport.is_closing())
    finally:
        os.close(source)  # which it notices
        await until(lambda: "connection_lost" in protocol.events)
    return events_of(protocol)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scenario,where", [
    *((read_pipe, where) for where in ("connection_made", "data_received", "eof_received",
                                       "connection_lost")),
    *((write_pipe, where) for where in ("connection_made", "pause_writing", "resume_writing",
                                        "connection_lost"))],
    ids=lambda value: getattr(value, "__name__", value))
def test_pipes(scenario, where, error):
    async def with_protocol(loop):
        protocol = make(Pipe, where, raiser(error))
        try:
            return await scenario(loop, protocol)
        finally:
            assert protocol.done

    check_alike(with_protocol)


async def process(loop, protocol):
    """A child all of whose pipes are used, and that ends by itself."""
    transport, _ = await loop.subprocess_exec(
        lambda: protocol, "sh", "-c", "cat >/dev/null; echo out; echo err >&2; exit 3")
    stdin = transport.get_pipe_transport(0)
    try:
        stdin.set_write_buffer_limits(high=10)
        stdin.write(b"x" * LARGE)
        await until(lambda: "resume_writing" in protocol.events)
    finally:
        stdin.close()
        await until(lambda: "connection_lost" in protocol.events)
    status = transport.get_returncode()
    transport.close()
    closed = [transport.get_pipe_transport(fd).is_closing() for fd in range(3)]
    return status, closed, events_of(protocol)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", [
    "connection_made", "pipe_data_received", "pipe_connection_lost", "process_exited",
    "connection_lost", "pause_writing", "resume_writing"])
def test_processes(where, error):
    async def scenario(loop):
        protocol = make(Process, where, raiser(error))
        try:
            return await process(loop, protocol)
        finally:
            assert protocol.done

    seen = check_alike(scenario)["seen"]
    assert all(status == 3 and closed == [True] * 3 for status, closed, _ in seen)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", ["connection", "server", "datagram", "read pipe", "write pipe",
                                  "process"])
def test_protocol_factories(kind, error):
    """What makes the protocol raises.

    Of a server's factory asyncio tells the exception handler in debug mode only.
    """
    async def scenario(loop):
        trap = Trap(error)
        caught = None
        loop.set_debug(kind == "server")
        with contextlib.ExitStack() as stack:
            try:
                await factory_of(kind, loop, trap, stack)
            except error as caught_error:
                caught = str(caught_error)
            assert trap.calls == 1
        return caught

    if kind == "server":
        scenario.__name__ = "accepting"
    check_alike(scenario)


async def factory_of(kind, loop, trap, stack):
    if kind in ("connection", "server"):
        server = await loop.create_server(
            trap if kind == "server" else asyncio.Protocol, "127.0.0.1", 0)
        stack.callback(server.close)
        transport, _ = await loop.create_connection(
            trap if kind == "connection" else asyncio.Protocol, *server.sockets[0].getsockname())
        stack.callback(transport.abort)
        await until(lambda: trap.calls)
    elif kind == "datagram":
        await loop.create_datagram_endpoint(trap, local_addr=("127.0.0.1", 0))
    elif kind == "process":
        await loop.subprocess_exec(trap, "true")
    else:
        source, sink = os.pipe()
        source = stack.enter_context(os.fdopen(source, "rb", 0))
        sink = stack.enter_context(os.fdopen(sink, "wb", 0))
        if kind == "read pipe":
            await loop.connect_read_pipe(trap, source)
        else:
            await loop.connect_write_pipe(trap, sink)


# ---- callbacks of the loop ------------------------------------------------------


async def ready_reader(loop, trap):
    source, sink = os.pipe()
    loop.add_reader(source, trap)
    os.write(sink, b"x")
    try:
        await until(lambda: trap.calls > 3)  # it stays, and is called again
    finally:
        removed = loop.remove_reader(source), loop.remove_reader(source)
        os.close(source)
        os.close(sink)
    return removed


async def ready_writer(loop, trap):
    source, sink = os.pipe()
    loop.add_writer(sink, trap)
    try:
        await until(lambda: trap.calls > 3)
    finally:
        removed = loop.remove_writer(sink), loop.remove_writer(sink)
        os.close(source)
        os.close(sink)
    return removed


async def signal_handler(loop, trap):
    loop.add_signal_handler(signal.SIGUSR1, trap)
    try:
        for count in 1, 2:
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda count=count: trap.calls >= count)
    finally:
        removed = loop.remove_signal_handler(signal.SIGUSR1)
    return removed, trap.calls


async def python_signal_handler(loop, trap):
    """Of signal.signal(), while the loop sleeps: it comes out of the run, whatever it is."""
    woken = loop.create_future()

    def handler(number, frame):
        loop.call_soon_threadsafe(woken.set_result, number)
        trap()

    former = signal.signal(signal.SIGUSR1, handler)
    try:
        # By another process, which is told when nothing is left to be done but to sleep.
        with subprocess.Popen(["sh", "-c", f"read word; sleep 0.2; kill -USR1 {os.getpid()}"],
                              stdin=subprocess.PIPE, bufsize=0) as process:
            await turns()
            loop.call_soon(process.stdin.write, b"now\n")
            return await woken
    finally:
        signal.signal(signal.SIGUSR1, former)


async def soon(loop, trap):
    for _ in range(3):
        loop.call_soon(trap)
    await turns()
    return trap.calls


async def soon_threadsafe(loop, trap):
    await loop.run_in_executor(None, loop.call_soon_threadsafe, trap)
    await until(lambda: trap.calls)
    await turns()
    return trap.calls


async def timer(loop, trap):
    for _ in range(3):
        loop.call_later(0.001, trap)
    loop.call_at(loop.time() + 0.002, trap)
    await until(lambda: trap.calls == 4)
    return trap.calls


async def done_callback(loop, trap):
    future = loop.create_future()
    for _ in range(3):
        future.add_done_callback(trap)
    future.set_result(1)
    await turns()
    return trap.calls


async def done_callback_of_a_task(loop, trap):
    task = loop.create_task(asyncio.sleep(0))
    task.add_done_callback(trap)
    task.add_done_callback(trap)
    await turns()
    return trap.calls


async def executor(loop, trap):
    """The function itself raises."""
    try:
        await loop.run_in_executor(None, trap)
    finally:
        await turns()


async def executor_callback(loop, trap):
    future = loop.run_in_executor(None, int)
    future.add_done_callback(trap)
    await until(lambda: trap.calls)
    return await future


async def task_step(loop, trap):
    async def raises():
        await asyncio.sleep(0)
        trap()

    task = loop.create_task(raises())
    try:
        await wait(task)
    finally:
        await turns()


async def forgotten_task(loop, trap):
    async def raises():
        trap()

    task = loop.create_task(raises())
    await turns()
    del task  # outcome() collects it


async def generator(loop, trap):
    """At the end of the run, by shutdown_asyncgens()."""
    async def generate():
        try:
            yield 1
        finally:
            trap()

    running = generate()
    await running.__anext__()
    await loop.shutdown_asyncgens()
    return trap.calls


async def low_level_call(loop, trap):
    """A done callback of what sock_recv() waits for."""
    one, two = tcp_pair()
    with one, two:
        one.setblocking(False)
        reading = asyncio.ensure_future(loop.sock_recv(one, 10))
        reading.add_done_callback(trap)
        await turns()
        two.send(b"x")
        await until(lambda: trap.calls)
        return await reading


CALLBACKS = [ready_reader, ready_writer, signal_handler, python_signal_handler, soon,
             soon_threadsafe, timer, done_callback, done_callback_of_a_task, executor,
             executor_callback, task_step, forgotten_task, generator, low_level_call]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scenario", CALLBACKS, ids=lambda function: function.__name__)
def test_callbacks(scenario, error):
    async def with_trap(loop):
        trap = Trap(error)
        try:
            return await scenario(loop, trap)
        finally:
            assert trap.calls

    check_alike(with_trap)


# ---- child watchers ---------------------------------------------------------------

WATCHERS = [] if sys.version_info >= (3, 14) else [
    "PidfdChildWatcher", "SafeChildWatcher", "FastChildWatcher", "MultiLoopChildWatcher",
    "ThreadedChildWatcher"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", WATCHERS)
def test_child_watchers(name, error):
    """kLoop needs none; programs may use one on it."""
    async def scenario(loop):
        trap = Trap(error)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            watcher = getattr(asyncio, name)()
        watcher.attach_loop(loop)
        calls = []
        try:
            with watcher:
                for count in 1, 2:
                    child = subprocess.Popen(["sh", "-c", f"read line; exit {count}"],
                                             stdin=subprocess.PIPE)
                    watcher.add_child_handler(
                        child.pid, lambda pid, status: (calls.append(status), trap()))
                    child.stdin.close()
                    await until(lambda count=count: trap.calls == count)
                    child.returncode = calls[-1]
        finally:
            watcher.close()
        return calls

    check_alike(scenario)
