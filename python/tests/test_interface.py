# SPDX-License-Identifier: MulanPSL-2.0
"""All of asyncio's interface, with the newest arguments that the running Python knows."""

import asyncio
import contextlib
import contextvars
import inspect
import io
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import kloop
from conftest import is_kloop
from port_tools import free_port
from transport_tools import Recorder, in_thread, receive_exactly, run, turns, until, wait

PUBLIC = sorted(name for name in {*dir(asyncio.AbstractEventLoop), *dir(asyncio.SelectorEventLoop)}
                if not name.startswith("_") and callable(getattr(asyncio.SelectorEventLoop, name)))
# Of what is written in C without a text of its parameters, because it has none.
BARE = {"get_debug", "is_closed", "is_running", "stop", "time"}


def parameters(method):
    return [(parameter.name, parameter.kind, parameter.default)
            for parameter in list(inspect.signature(method).parameters.values())[1:]]


def client(address, family=socket.AF_INET):
    sock = socket.socket(family)
    sock.settimeout(20)
    sock.connect(address)
    return sock


# ---- methods ----------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_method(name):
    """It is there, is not the abstract one, and takes what asyncio's takes."""
    ours = getattr(kloop.Loop, name)
    theirs = getattr(asyncio.SelectorEventLoop, name)
    assert ours is not getattr(asyncio.AbstractEventLoop, name, None) or ours is theirs
    if name in BARE:
        assert parameters(theirs) == []
    else:
        expected, found = parameters(theirs), parameters(ours)
        if name == "create_task":  # in Python 3.14 asyncio's hands on whatever names there are
            expected = [each for each in expected if each[1] is not inspect.Parameter.VAR_KEYWORD]
        assert found[:len(expected)] == expected
        # Python 3.10 lacks one of start_tls().
        assert all(kind == inspect.Parameter.KEYWORD_ONLY and default is None
                   for _, kind, default in found[len(expected):])


# ---- servers and connections --------------------------------------------------


def test_reuse_port(loop):
    async def case():
        port = free_port()
        first = await loop.create_server(Recorder, "127.0.0.1", port, reuse_port=True)
        second = await loop.create_server(Recorder, "127.0.0.1", port, reuse_port=True)
        with pytest.raises(OSError):
            await loop.create_server(Recorder, "127.0.0.1", port)
        for server in first, second:
            server.close()
            await wait(server.wait_closed())

    run(loop, case())


def test_keep_alive(loop):
    if "keep_alive" not in inspect.signature(asyncio.BaseEventLoop.create_server).parameters:
        return  # Python 3.13

    async def case():
        for wanted in True, False, None:
            server = await loop.create_server(Recorder, "127.0.0.1", 0, keep_alive=wanted)
            option = server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert bool(option) is bool(wanted)
            server.close()
            await wait(server.wait_closed())

    run(loop, case())


def test_reuse_address_and_backlog(loop):
    async def case():
        for wanted in True, False:
            server = await loop.create_server(Recorder, "127.0.0.1", 0, reuse_address=wanted,
                                              backlog=1)
            option = server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            assert bool(option) is wanted
            server.close()
            await wait(server.wait_closed())

    run(loop, case())


def test_wait_closed(loop):
    """It waits for the connections from Python 3.12 on, and returns at once after that."""
    async def case():
        made = []

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                made.append(transport)

        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        waiting = loop.create_task(server.wait_closed())
        peers = [client(server.sockets[0].getsockname()) for _ in range(2)]
        await until(lambda: len(made) == 2)
        if sys.version_info >= (3, 12):
            assert not waiting.done()  # it is not closed
        server.close()
        assert server.sockets == () and not server.is_serving()
        await turns()
        if sys.version_info >= (3, 12):
            assert not waiting.done()
        made[0].close()
        await turns()
        made[1].abort()
        await wait(waiting)
        await wait(server.wait_closed())
        for peer in peers:
            peer.close()

    run(loop, case())


def test_server_as_a_context(loop):
    async def case():
        async with await loop.create_server(Recorder, "127.0.0.1", 0) as server:
            assert server.is_serving() and server.get_loop() is loop
        assert not server.is_serving()

    run(loop, case())


@pytest.mark.parametrize("option", [{}, {"cleanup_socket": False}, {"cleanup_socket": True}])
def test_cleanup_socket(loop, tmp_path, option):
    if sys.version_info < (3, 13) and option:
        return

    async def case():
        path = tmp_path / "socket"
        server = await loop.create_unix_server(Recorder, path, **option)
        assert path.is_socket()
        server.close()
        await wait(server.wait_closed())
        kept = sys.version_info < (3, 13) or option == {"cleanup_socket": False}
        assert path.is_socket() is kept
        # A file that somebody else made there stays.
        server = await loop.create_unix_server(Recorder, path, **option)
        path.unlink()
        path.write_text("other")
        server.close()
        await wait(server.wait_closed())
        assert path.read_text() == "other"

    run(loop, case())


def test_all_errors(loop, monkeypatch):
    if sys.version_info < (3, 12):
        return

    async def case():
        socks = [socket.socket() for _ in range(2)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))  # and nobody listens
        infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", sock.getsockname())
                 for sock in socks]

        async def getaddrinfo(*args, **options):
            return infos

        monkeypatch.setattr(type(loop), "getaddrinfo", lambda self, *a, **o: getaddrinfo())
        with pytest.raises(OSError, match="Multiple exceptions"):
            await loop.create_connection(Recorder, "x", 1)
        for options in {}, {"happy_eyeballs_delay": 0.01}:
            with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
                await loop.create_connection(Recorder, "x", 1, all_errors=True, **options)
            assert [type(e) for e in caught.value.exceptions] == [ConnectionRefusedError] * 2
        for sock in socks:
            sock.close()

    run(loop, case())


def test_local_addr_and_sock(loop):
    async def case():
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(Recorder, *address,
                                                    local_addr=("127.0.0.2", 0))
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        transport.abort()
        sock = socket.create_connection(address)
        transport, protocol = await loop.create_connection(Recorder, sock=sock)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport.get_extra_info("socket"), asyncio.trsock.TransportSocket)
        assert transport.get_extra_info("socket").fileno() == sock.fileno()
        transport.abort()
        await wait(protocol.lost)
        server.close()
        await wait(server.wait_closed())

    run(loop, case())


def test_connect_accepted_socket(loop):
    async def case():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            peer = client(listening.getsockname())
            conn, _ = listening.accept()
        conn.setblocking(False)
        transport, protocol = await loop.connect_accepted_socket(Recorder, conn)
        transport.write(b"hello")
        assert await in_thread(receive_exactly, peer, 5) == b"hello"
        peer.close()
        await wait(protocol.lost)

    run(loop, case())


# ---- tasks --------------------------------------------------------------------


def test_task_factory(loop):
    made = []

    def factory(loop, coroutine, **options):
        made.append(options)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def case():
        loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        task = loop.create_task(asyncio.sleep(0, 5), name="named")
        assert await task == 5
        assert task.get_name() == "named"
        if sys.version_info >= (3, 11):
            context = contextvars.copy_context()
            assert await loop.create_task(asyncio.sleep(0, 6), context=context) == 6
            assert any("context" in options for options in made)
        loop.set_task_factory(None)
        with pytest.raises(TypeError):
            loop.set_task_factory("factory")

    run(loop, case())
    assert made


def test_eager_tasks(loop):
    """They run at once, and what blocks goes on as any task."""
    if sys.version_info < (3, 12):
        return

    async def add(value, future=None):
        seen.append(value)
        assert asyncio.current_task() is not None
        if future is not None:
            await future
            seen.append(-value)
        return value

    async def case():
        loop.set_task_factory(asyncio.eager_task_factory)
        future = loop.create_future()
        done, waiting = loop.create_task(add(1)), loop.create_task(add(2, future))
        assert seen == [1, 2]
        assert done.done() and done.result() == 1 and not waiting.done()
        future.set_result(None)
        assert await waiting == 2
        assert seen == [1, 2, -2]
        loop.set_task_factory(None)
        if sys.version_info >= (3, 14):
            assert loop.create_task(add(3), eager_start=True).result() == 3
            task = loop.create_task(add(4), eager_start=False)
            assert not task.done()
            assert await task == 4
        # A server's handlers, too: started inside of connection_made().
        loop.set_task_factory(asyncio.eager_task_factory)
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.readline() == b"LINE\n"
        writer.close()
        server.close()
        await wait(server.wait_closed())

    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()

    seen = []
    run(loop, case())


def test_real_tasks_and_futures(loop):
    async def case():
        assert type(loop.create_future()) is asyncio.Future
        task = loop.create_task(asyncio.sleep(0))
        assert type(task) is asyncio.Task
        await task
        assert task.get_loop() is loop and asyncio.get_running_loop() is loop

    run(loop, case())


# ---- who waits for whom -----------------------------------------------------------


def waiting_for(text, *names):
    for name in names:
        assert name in text, text


def test_call_graph(loop):
    """The way from a task through streams of ours, and through a sleeping one."""
    if not hasattr(asyncio, "capture_call_graph"):
        return  # Python 3.14

    async def outer(reader):
        return await middle(reader)

    async def middle(reader):
        return await reader.readline()

    async def parent(task):
        return await task

    async def case():
        async def serve(reader, writer):
            served.append(writer)

        served = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await until(lambda: served)
        task = loop.create_task(outer(reader), name="reads")
        above = loop.create_task(parent(task), name="above")
        await turns()
        graph = asyncio.capture_call_graph(task)
        assert graph.future is task
        assert [call.future for call in graph.awaited_by] == [above]
        functions = [entry.frame.f_code.co_name for entry in graph.call_stack]
        assert "middle" in functions and functions[-1] == "outer"
        text = asyncio.format_call_graph(task)
        waiting_for(text, "reads", "above", "middle", "outer", "parent")
        here = io.StringIO()
        asyncio.print_call_graph(file=here)
        waiting_for(here.getvalue(), "case")
        served[0].write(b"line\n")
        assert await above == b"line\n"
        for each in writer, served[0]:
            each.close()
        server.close()
        await wait(server.wait_closed())

    run(loop, case())


PS = """
import asyncio, sys
if sys.argv[1] == "kloop":
    import kloop
    factory = kloop.Loop
else:
    factory = asyncio.SelectorEventLoop

async def inner():
    print("ready", flush=True)
    await asyncio.Event().wait()

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(inner(), name="the inner one")

asyncio.run(main(), loop_factory=factory)
"""


@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_tools_see_the_tasks(command, tmp_path):
    """python -m asyncio ps, of another process: as much as of asyncio's."""
    if sys.version_info < (3, 14):
        return
    path = tmp_path / "tasks.py"
    path.write_text(PS)
    answers = []
    for kind in "asyncio", "kloop":
        with subprocess.Popen([sys.executable, str(path), kind], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            # It may look at the wrong moment: at a loop that has not come to rest.
            for _ in range(100):
                answer = subprocess.run(
                    [sys.executable, "-m", "asyncio", command, str(process.pid)],
                    capture_output=True, text=True, timeout=60, check=False)
                if "the inner one" in answer.stdout:
                    break
                time.sleep(0.05)
            process.kill()
        answers.append(answer)
    theirs, ours = answers
    assert theirs.returncode == ours.returncode, ours
    # Without the right to look at processes neither says anything.
    assert ("the inner one" in ours.stdout) is ("the inner one" in theirs.stdout), ours
    assert len(ours.stdout.splitlines()) == len(theirs.stdout.splitlines())


# ---- subprocesses -----------------------------------------------------------------


def test_subprocess_arguments(loop, tmp_path):
    async def case():
        async def output(code, **options):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, **options)
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode().strip()

        assert await output("import os; print(os.getcwd())", cwd=tmp_path) == str(tmp_path)
        assert await output("import os; print(os.environ['NAME'])",
                            env={**os.environ, "NAME": "value"}) == "value"
        assert await output("import os; print(os.getsid(0) == os.getpid())",
                            start_new_session=True) == "True"
        if sys.version_info >= (3, 11):
            assert await output("import os; print(os.getpgid(0) == os.getpid())",
                                process_group=0) == "True"
        assert await output("import os; print(os.umask(0))", umask=0o77) == str(0o77)
        ends = os.pipe()
        code = f"import os; os.write({ends[1]}, b'x')"
        await output(code, pass_fds=[ends[1]])
        assert os.read(ends[0], 1) == b"x"
        for end in ends:
            os.close(end)
        if os.getuid() == 0:
            process = await asyncio.create_subprocess_shell(
                "id -u; id -g; id -G", stdout=asyncio.subprocess.PIPE, user=65534, group=65534,
                extra_groups=[65534], cwd="/")
            assert (await process.communicate())[0].split() == [b"65534"] * 3

    run(loop, case())


# ---- signals ------------------------------------------------------------------------


def test_signals_inside_of_handlers(loop):
    """A handler raises, replaces and removes handlers, its own too, and sends signals on."""
    former = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    got = []

    def first():
        got.append("first")
        loop.add_signal_handler(signal.SIGUSR1, second, "argument")
        os.kill(os.getpid(), signal.SIGUSR1)

    def second(argument):
        got.append(argument)
        loop.add_signal_handler(signal.SIGUSR2, third)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)

    def third():
        got.append("third")
        if got.count("third") == 2:
            loop.remove_signal_handler(signal.SIGUSR2)
            loop.stop()

    try:
        loop.add_signal_handler(signal.SIGUSR1, first)
        os.kill(os.getpid(), signal.SIGUSR1)
        guard = loop.call_later(60, loop.stop)
        loop.run_forever()
        guard.cancel()
        assert got == ["first", "argument", "third", "third"]
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


# ---- debug mode -----------------------------------------------------------------------


def test_debug_mode_of_everything(loop, caplog):
    """Slow callbacks and calls from a wrong thread, with streams, timers and tasks at work."""
    async def case():
        loop.set_debug(True)
        loop.slow_callback_duration = 0.02
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        assert await reader.readline() == b"line\n"
        loop.call_later(0.001, time.sleep, 0.05)
        await asyncio.sleep(0.1)
        for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print),
                     lambda: loop.call_at(loop.time() + 1, print)):
            with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
                await loop.run_in_executor(None, call)
        writer.close()
        await wait(writer.wait_closed())
        server.close()
        await wait(server.wait_closed())

    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(loop, case())
    slow = [record.getMessage() for record in caplog.records
            if "Executing" in record.getMessage() and "took" in record.getMessage()]
    assert any("TimerHandle" in message and "sleep" in message for message in slow), slow
    assert is_kloop(loop) or slow
