# SPDX-License-Identifier: MulanPSL-2.0
"""The interpreter's end: its status and what it prints are asyncio's, whatever state a loop is in."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, atexit, gc, os, signal, socket, sys, threading, time
if sys.argv[1] == "kloop":
    import kloop
    loop = kloop.Loop()
else:
    loop = asyncio.SelectorEventLoop()
asyncio.set_event_loop(loop)

async def busy():
    \"\"\"Some of everything, open: the objects that hold it.\"\"\"
    server = await asyncio.start_server(lambda *ends: kept.append(ends), "127.0.0.1", 0)
    streams = await asyncio.open_connection(*server.sockets[0].getsockname())
    streams[1].write(b"x" * 10)
    reading = loop.create_task(streams[0].read(1))
    while not kept:
        await asyncio.sleep(0)
    udp = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    ends = os.pipe()
    pipes = (await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(ends[0], "rb")),
             await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(ends[1], "wb")))
    watched = socket.socketpair()
    loop.add_reader(watched[0], print)
    timer = loop.call_later(1000, print)
    loop.add_signal_handler(signal.SIGUSR1, print)
    return server, streams, udp, pipes, watched, timer, reading

kept = []
"""

# By name, the status, and what the process does.
CASES = {
    "closed": (0, """
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """),
    "never_ran": (0, ""),
    "never_closed": (0, """
        loop.run_until_complete(asyncio.sleep(0))
        """),
    "everything_open": (0, """
        held = loop.run_until_complete(busy())
        """),
    "everything_open_and_dropped": (0, """
        loop.run_until_complete(busy())
        kept.clear()
        gc.collect()
        """),
    "everything_open_in_a_cycle": (0, """
        held = [loop.run_until_complete(busy()), loop]
        held.append(held)
        del loop, held
        """),
    "closed_over_everything": (0, """
        held = loop.run_until_complete(busy())
        loop.close()
        """),
    "exit_in_a_callback": (3, """
        held = loop.run_until_complete(busy())
        loop.call_soon(sys.exit, 3)
        loop.run_forever()
        """),
    "exit_in_a_timer": (3, """
        loop.call_later(0.001, sys.exit, 3)
        loop.run_forever()
        """),
    "exit_in_a_protocol": (3, """
        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                sys.exit(3)

        one, two = socket.socketpair()
        made = loop.run_until_complete(loop.create_connection(Protocol, sock=one))
        two.send(b"x")
        loop.run_forever()
        """),
    "exit_in_a_task": (3, """
        async def main():
            kept.append(await busy())
            sys.exit(3)

        loop.run_until_complete(main())
        """),
    "exit_in_run": (3, """
        async def main():
            await asyncio.sleep(0)
            sys.exit(3)

        if sys.version_info >= (3, 12):
            asyncio.run(main(), loop_factory=type(loop))
        else:
            loop.run_until_complete(main())
        """),
    "exception": (1, """
        async def main():
            kept.append(await busy())
            1 / 0

        loop.run_until_complete(main())
        """),
    "pending_tasks": (0, """
        async def wait():
            try:
                await asyncio.Event().wait()
            finally:
                pass

        tasks = [loop.create_task(wait()) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0))
        """),
    "unfinished_generator": (0, """
        async def generate():
            try:
                yield 1
            finally:
                pass

        generator = generate()
        loop.run_until_complete(generator.__anext__())
        """),
    "process": (0, """
        process = loop.run_until_complete(asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE))
        process.stdin.write(b"x")
        assert loop.run_until_complete(process.stdout.read(1)) == b"x"
        """),
    "busy_executor": (0, """
        future = loop.run_in_executor(None, time.sleep, 0.2)
        loop.run_until_complete(asyncio.sleep(0))
        """),
    "daemon_thread": (0, """
        def run():
            asyncio.set_event_loop(loop)
            started.set()
            loop.run_forever()

        started = threading.Event()
        threading.Thread(target=run, daemon=True).start()
        started.wait()
        """),
    "busy_daemon_thread": (0, """
        def run():
            asyncio.set_event_loop(loop)
            loop.call_soon(again)
            loop.run_forever()

        def again():
            started.set()
            loop.call_soon(again)
            loop.call_later(0.0001, int)

        started = threading.Event()
        threading.Thread(target=run, daemon=True).start()
        started.wait()
        """),
    "at_exit": (0, """
        def end():
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.01))
            loop.close()

        atexit.register(end)
        held = loop.run_until_complete(busy())
        """),
    "os_exit": (5, """
        held = loop.run_until_complete(busy())
        loop.call_soon(os._exit, 5)
        loop.run_forever()
        """),
    "fork": (0, """
        def fork():
            pid = os.fork()
            if pid == 0:
                sys.exit(7)  # through run_forever() and all of the interpreter's end
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 7, status
            loop.call_soon(loop.stop)

        loop.call_soon(fork)
        loop.run_forever()
        assert loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5
        loop.close()
        """),
    "fork_over_everything": (0, """
        held = loop.run_until_complete(busy())
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        streams = kept[0]
        assert loop.run_until_complete(streams[0].read(100)) == b"x" * 10
        """),
    "interrupt": (-2, """
        held = loop.run_until_complete(busy())
        # Without a handler asyncio is not woken by a signal that comes just before it sleeps.
        loop.add_signal_handler(signal.SIGUSR2, int)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        loop.run_forever()
        """),
    "terminated": (-15, """
        held = loop.run_until_complete(busy())
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        loop.run_forever()
        """),
}

# What asyncio has no counterpart of: nothing is printed.
KLOOP_CASES = {
    "lookups": (0, """
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        loop.resolver.configure(servers=["127.0.0.1:%d" % silent.getsockname()[1]],
                                environment=False, files={"hosts": os.devnull})
        lookups = [loop.getaddrinfo("name%d.test." % i, 80) for i in range(5)]
        asking = asyncio.gather(*lookups, return_exceptions=True)
        silent.settimeout(20)
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.run_in_executor(None, silent.recv, 1000))
        """),
    "files": (0, """
        async def main():
            file = await kloop.open(__file__, "rb")
            text = await kloop.open(__file__)
            await file.read(10)
            kept.append((file, text, loop.create_task(file.read())))
            await asyncio.sleep(0)

        loop.run_until_complete(main())
        """),
    "sqpoll": (0, """
        loop.close()
        loop = kloop.Loop(sqpoll=True, sq_thread_idle_ms=10)
        held = loop.run_until_complete(busy())
        held[-1].cancel()
        loop.run_until_complete(asyncio.sleep(0))
        """),
}


def run(code, kind, folder):
    folder = folder / kind
    folder.mkdir()
    path = folder / "case.py"
    path.write_text(PRELUDE + textwrap.dedent(code))
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("PYTHONDEVMODE", "PYTHONWARNINGS", "PYTHONASYNCIODEBUG",
                                   "PYTHONFAULTHANDLER")}
    result = subprocess.run([sys.executable, str(path), kind], env=environment, text=True,
                            capture_output=True, timeout=300, check=False)
    assert result.stdout == ""
    return result.returncode, result.stderr


def words(errors):
    """What was said, without what differs by nature: tracebacks' frames, addresses, kinds of loop."""
    lines = [line for line in errors.splitlines() if not line.startswith(" ")]
    return sorted(re.sub(r"0x[0-9a-f]+|fd=\d+|<_?\w*Transport [^>]*>|\(\)[^>]*>|\b\d+\b", "", line)
                  for line in lines)


@pytest.mark.parametrize("name", CASES)
def test_exit(name, tmp_path):
    status, code = CASES[name]
    theirs = run(code, "asyncio", tmp_path)
    ours = run(code, "kloop", tmp_path)
    assert ours[0] == theirs[0] == status, ours[1] + theirs[1]
    assert words(ours[1]) == words(theirs[1])


@pytest.mark.parametrize("name", KLOOP_CASES)
def test_silent_exit(name, tmp_path):
    status, code = KLOOP_CASES[name]
    assert run(code, "kloop", tmp_path) == (status, "")
