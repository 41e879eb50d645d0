# SPDX-License-Identifier: MulanPSL-2.0
"""Subprocesses: the same cases on asyncio's loop and on kLoop's."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest

import kloop
from transport_tools import descriptors, new_threads, run, turns, until, wait

PIPE = subprocess.PIPE


def python(code, *arguments):
    return [sys.executable, "-S", "-c", "from sys import exit\n" + code, *arguments]


async def start(code, *arguments, **options):
    return await asyncio.create_subprocess_exec(*python(code, *arguments), **options)


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.events = []
        self.data = {1: b"", 2: b""}
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.events.append("connection_made")

    def pipe_data_received(self, fd, data):
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("pipe_connection_lost", fd, exc))

    def process_exited(self):
        self.events.append("process_exited")

    def connection_lost(self, exc):
        self.events.append(("connection_lost", exc))
        self.done.set_result(self.transport.get_returncode())


# ---- stdio --------------------------------------------------------------


def test_all_pipes(loop):
    async def case():
        process = await start(
            "import sys; data = sys.stdin.buffer.read();"
            "sys.stdout.buffer.write(data); sys.stderr.write(str(len(data)))",
            stdin=PIPE, stdout=PIPE, stderr=PIPE)
        data = os.urandom(3 << 20)
        out, err = await wait(process.communicate(data))
        assert out == data and err == b"%d" % len(data)
        assert process.returncode == 0

    run(loop, case())
    assert not loop.failures


def test_protocol(loop):
    async def case():
        transport, protocol = await loop.subprocess_exec(
            Recorder, *python("import sys; print(input()); sys.stderr.write('e'); exit(3)"))
        assert isinstance(transport, asyncio.SubprocessTransport)
        assert transport.get_pid() > 0
        assert transport.get_returncode() is None
        stdin = transport.get_pipe_transport(0)
        assert isinstance(stdin, asyncio.WriteTransport)
        assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
        assert transport.get_pipe_transport(7) is None
        if isinstance(loop, kloop.Loop):
            assert type(stdin).__name__ == "WritePipeTransport"
        stdin.write(b"line\n")
        assert await wait(protocol.done) == 3
        assert protocol.data == {1: b"line\n", 2: b"e"}
        assert protocol.events[0] == "connection_made"
        assert protocol.events[-1] == ("connection_lost", None)
        assert sorted(map(str, protocol.events[1:-1])) == sorted(map(str, [
            ("pipe_connection_lost", 0, None), ("pipe_connection_lost", 1, None),
            ("pipe_connection_lost", 2, None), "process_exited"]))
        transport.close()

    run(loop, case())
    assert not loop.failures


def test_other_stdio(loop, tmp_path):
    async def case():
        # Nothing of it.
        process = await start("import sys; exit(len(sys.stdin.read()))",
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
        assert process.stdin is None and process.stdout is None and process.stderr is None
        assert await wait(process.wait()) == 0
        # Files and descriptors.
        (tmp_path / "in").write_bytes(b"input")
        with open(tmp_path / "in", "rb") as source, open(tmp_path / "out", "wb") as target:
            process = await start("print(input())", stdin=source, stdout=target.fileno())
            assert await wait(process.wait()) == 0
        assert (tmp_path / "out").read_bytes() == b"input\n"
        # stderr into stdout.
        process = await start("import sys; sys.stderr.write('err'); sys.stderr.flush();"
                              "print('out')", stdout=PIPE, stderr=subprocess.STDOUT)
        out, err = await wait(process.communicate())
        assert out == b"errout\n" and err is None

    run(loop, case())


def test_shell(loop):
    async def case():
        process = await asyncio.create_subprocess_shell(
            "read word; echo $word | tr a-z A-Z; exit 7", stdin=PIPE, stdout=PIPE)
        out, _ = await wait(process.communicate(b"word\n"))
        assert out == b"WORD\n"
        assert process.returncode == 7
        with pytest.raises(ValueError, match="cmd must be a string"):
            await loop.subprocess_shell(Recorder, ["echo"])

    run(loop, case())


def test_options_that_are_refused(loop):
    async def case():
        for options in ({"universal_newlines": True}, {"bufsize": 1}, {"text": True},
                        {"encoding": "ascii"}, {"shell": True}):
            with pytest.raises(ValueError):
                await loop.subprocess_exec(Recorder, "true", **options)

    run(loop, case())


def test_lines(loop):
    async def case():
        process = await start("for i in range(1000): print(i)", stdout=PIPE)
        lines = [int(line) async for line in process.stdout]
        assert lines == list(range(1000))
        assert await wait(process.wait()) == 0

    run(loop, case())


def test_backpressure(loop):
    """What a child does not read is not held without limit: drain() waits."""

    async def case():
        process = await start("import sys, time; sys.stdin.buffer.readline();"
                              "exit(len(sys.stdin.buffer.read()) % 251)", stdin=PIPE)
        process.stdin.write(bytes(1 << 20))
        drained = asyncio.ensure_future(process.stdin.drain())
        await turns(20)
        assert not drained.done()
        process.stdin.write(b"\n" + bytes(252))
        await wait(drained)
        process.stdin.close()
        assert await wait(process.wait()) == 1

    run(loop, case())


def test_child_closes_stdin(loop):
    async def case():
        process = await start("import os, sys; os.close(0); print(flush=True); sys.stdout.close();"
                              "os.close(1); import time; time.sleep(60)", stdin=PIPE, stdout=PIPE)
        await wait(process.stdout.readline())
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(1000):
                process.stdin.write(bytes(100000))
                await wait(process.stdin.drain())
                await turns(1)
        process.kill()
        assert await wait(process.wait()) == -signal.SIGKILL

    run(loop, case())


def test_pipe_kept_by_a_grandchild(loop):
    """wait() tells the child's end; the pipe's end comes when the last has closed it."""

    async def case():
        transport, protocol = await loop.subprocess_exec(
            Recorder, "/bin/sh", "-c", "exec 3<&0; (read line <&3; echo grandchild) & exit 5", stdin=PIPE,
            stdout=PIPE, stderr=None)
        stdin = transport.get_pipe_transport(0)
        await until(lambda: "process_exited" in protocol.events)
        assert transport.get_returncode() == 5
        assert not protocol.done.done()
        stdin.write(b"go\n")
        assert await wait(protocol.done) == 5
        transport.close()

    run(loop, case())


# ---- ends ---------------------------------------------------------------


def test_signals(loop):
    async def case():
        for number in signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1:
            process = await start("import time; print(flush=True); time.sleep(60)", stdout=PIPE)
            await wait(process.stdout.readline())
            process.send_signal(number)
            assert await wait(process.wait()) == -number
        process = await start("import time; time.sleep(60)")
        process.terminate()
        assert await wait(process.wait()) == -signal.SIGTERM

    run(loop, case())


@pytest.mark.parametrize("status", [0, 1, 255])
def test_status(loop, status):
    async def case():
        process = await start(f"exit({status})")
        # By several at once.
        results = await wait(asyncio.gather(*(process.wait() for _ in range(5))))
        assert results == [status] * 5
        assert await process.wait() == status

    run(loop, case())


def test_close_kills(loop):
    async def case():
        transport, protocol = await loop.subprocess_exec(
            Recorder, *python("import time; time.sleep(60)"))
        transport.close()
        assert transport.is_closing()
        transport.close()
        assert await wait(protocol.done) in (-signal.SIGKILL, 255)

    run(loop, case())
    assert not loop.failures


def test_popen_reaps_first(kernel_loop):
    """A status that Popen.poll() took is not lost; asyncio says 255."""

    async def case():
        transport, protocol = await kernel_loop.subprocess_exec(
            Recorder, *python("exit(6)"), stdin=None, stdout=None, stderr=None)
        popen = transport.get_extra_info("subprocess")
        while popen.poll() is None:
            os.sched_yield()
        assert await wait(protocol.done) == 6
        transport.close()

    run(kernel_loop, case())


def test_somebody_else_reaps(kernel_loop, caplog):
    async def case():
        transport, protocol = await kernel_loop.subprocess_exec(
            Recorder, *python("exit(6)"), stdin=None, stdout=None, stderr=None)
        os.waitpid(transport.get_pid(), 0)
        assert await wait(protocol.done) == 255
        transport.close()

    run(kernel_loop, case())
    assert "will report returncode 255" in caplog.text


def test_ignored_sigchld(kernel_loop, caplog):
    """Then the kernel reaps, and nobody learns the status."""

    async def case():
        for _ in range(5):
            process = await start("pass")
            assert await wait(process.wait()) == 255

    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        run(kernel_loop, case())
    finally:
        signal.signal(signal.SIGCHLD, former)


def test_not_found(loop):
    async def case():
        before = descriptors()
        with pytest.raises(FileNotFoundError):
            await asyncio.create_subprocess_exec("/no/such/program", stdin=PIPE, stdout=PIPE)
        await turns(3)
        assert descriptors() == before

    run(loop, case())


def test_cancelled(loop):
    async def case():
        task = asyncio.ensure_future(start("import time; time.sleep(60)", stdin=PIPE, stdout=PIPE))
        await turns(2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            process = await wait(task)
            process.kill()
            await wait(process.wait())
        # wait() that is cancelled harms no other.
        process = await start("input()", stdin=PIPE)
        waiting = asyncio.ensure_future(process.wait())
        await turns(3)
        waiting.cancel()
        await turns(3)
        process.stdin.write(b"\n")
        assert await wait(process.wait()) == 0

    run(loop, case())
    assert not loop.failures


# ---- what Popen can -----------------------------------------------------


def test_groups_and_sessions(loop):
    async def case():
        code = "import os; print(os.getpid(), os.getpgrp(), os.getsid(0))"
        process = await start(code, stdout=PIPE, start_new_session=True)
        out, _ = await wait(process.communicate())
        assert len(set(out.split())) == 1
        if sys.version_info >= (3, 11):
            process = await start(code, stdout=PIPE, process_group=0)
            out, _ = await wait(process.communicate())
            pid, group, session = map(int, out.split())
            assert pid == group == process.pid and session == os.getsid(0)
        # A whole group by a signal.
        process = await asyncio.create_subprocess_shell(
            "sleep 60 & sleep 60 & echo; wait", stdout=PIPE, start_new_session=True)
        await wait(process.stdout.readline())
        os.killpg(process.pid, signal.SIGTERM)
        await wait(process.wait())
        assert await wait(process.stdout.read()) == b""

    run(loop, case())


def test_preexec_and_its_like(loop, tmp_path):
    async def case():
        process = await start("import os; print(os.getcwd(), os.environ['A'], os.umask(0))",
                              stdout=PIPE, cwd=tmp_path, env={"A": "b"}, umask=0o27,
                              preexec_fn=lambda: os.write(1, b"before\n"))
        out, _ = await wait(process.communicate())
        assert out.decode() == f"before\n{tmp_path} b {0o27}\n"
        with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
            await start("pass", preexec_fn=lambda: 1 / 0)
        process = await start("import os; os.write(int(os.sys.argv[1]), b'x')",
                              str(pipe[1]), pass_fds=[pipe[1]])
        assert await wait(process.wait()) == 0
        assert os.read(pipe[0], 1) == b"x"

    pipe = os.pipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork() with threads
            run(loop, case())
    finally:
        os.close(pipe[0])
        os.close(pipe[1])


def test_user_and_group(loop):
    async def case():
        options = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {
            "user": os.getuid(), "group": os.getgid()}
        process = await asyncio.create_subprocess_exec("id", "-u", stdout=PIPE, **options)
        out, _ = await wait(process.communicate())
        assert int(out) == options["user"]

    run(loop, case())


def test_child_has_nothing_of_the_loop(kernel_loop):
    """Neither the ring nor any pidfd of others."""

    async def case():
        others = [await start("input()", stdin=PIPE) for _ in range(5)]
        process = await start("import os; print(*sorted(os.listdir('/proc/self/fd')))",
                              stdout=PIPE, stdin=subprocess.DEVNULL)
        out, _ = await wait(process.communicate())
        assert len(out.split()) == 4  # the fourth is the folder itself
        for other in others:
            other.stdin.close()
            assert await wait(other.wait()) == 1

    run(kernel_loop, case())


# ---- many, and threads ---------------------------------------------------


def test_hundreds(kernel_loop):
    """No thread, no handler of SIGCHLD, and every status is its child's own."""

    async def one(number):
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", f"read x; exit {number % 200}", stdin=PIPE)
        started.append(process)
        await everybody.wait()
        process.stdin.close()
        return await process.wait()

    async def case():
        tasks = [asyncio.ensure_future(one(i)) for i in range(300)]
        await until(lambda: len(started) == 300, 50)
        assert not new_threads(threads)
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        everybody.set()
        assert await asyncio.gather(*tasks) == [i % 200 for i in range(300)]

    threads = threading.enumerate()
    before = descriptors()
    started = []
    everybody = asyncio.Event()
    kernel_loop.run_until_complete(asyncio.wait_for(case(), 120))
    started.clear()
    kernel_loop.run_until_complete(turns(5))
    assert descriptors() == before


def test_other_threads():
    """Loops that do not run in the main thread, at once."""
    results = []

    def work():
        async def case():
            processes = [await start(f"exit({i})") for i in range(10)]
            return await asyncio.gather(*(process.wait() for process in processes))

        loop = kloop.Loop()
        results.append(run(loop, case()))
        loop.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(10))] * 4


def test_no_pidfd(kernel_loop, monkeypatch):
    """Where a sandbox denies it, a thread waits."""

    def deny(pid, callback, argument):
        raise PermissionError(1, "denied")

    async def case():
        process = await start("exit(9)", stdout=PIPE)
        assert await wait(process.wait()) == 9

    monkeypatch.setattr(type(kernel_loop), "_watch_pid", staticmethod(deny), raising=False)
    run(kernel_loop, case())


def test_loop_closes_first(loop_factory):
    """A child that still runs is the program's own business."""

    async def case():
        return await loop.subprocess_exec(
            lambda: asyncio.SubprocessProtocol(), *python("input()"), stdin=PIPE, stdout=None,
            stderr=None)

    loop = loop_factory()
    transport, _ = run(loop, case())
    pid = transport.get_pid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        transport.close()
        loop.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        del transport


if sys.version_info < (3, 14):  # later there are no child watchers

    def test_child_watchers_are_not_used(kernel_loop):
        async def case():
            process = await start("exit(2)")
            assert await wait(process.wait()) == 2

        class Broken:
            def __getattr__(self, name):
                raise AssertionError(f"the child watcher's {name} was used")

        policy = kloop.EventLoopPolicy()
        former = asyncio.get_event_loop_policy()
        policy.get_child_watcher = Broken
        asyncio.set_event_loop_policy(policy)
        try:
            run(kernel_loop, case())
        finally:
            asyncio.set_event_loop_policy(former)


def test_run(loop_factory):
    """As programs do it."""

    async def main():
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"through cat")
        return out

    loop = loop_factory()
    asyncio.set_event_loop(loop)
    try:
        assert run(loop, main()) == b"through cat"
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_wait_after_the_end(loop):
    """wait() of a process that ended long ago."""

    async def case():
        process = await start("pass")
        await asyncio.sleep(0)
        await until(lambda: process.returncode is not None)
        assert await wait(process.wait()) == 0
        with pytest.raises(ProcessLookupError):
            process.send_signal(signal.SIGTERM)

    run(loop, case())
