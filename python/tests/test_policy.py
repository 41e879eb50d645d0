# SPDX-License-Identifier: MulanPSL-2.0
"""Making loops: options, run(), policies, and what happens where io_uring is unavailable."""

import asyncio
import contextvars
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import kloop

HERE = Path(__file__).resolve().parent


def python(code, *, wrapper=(), **environment):
    """Run code in a process of its own: (exit status, output, errors)."""
    settings = {**os.environ, **environment}
    result = subprocess.run([*wrapper, sys.executable, "-c", code], env=settings, text=True,
                            capture_output=True, timeout=300, check=False)
    return result.returncode, result.stdout, result.stderr


def denied(error):
    return [sys.executable, str(HERE / "seccomp_deny.py"), str(error)]


# ---- run()


def test_run():
    async def main():
        loop = asyncio.get_running_loop()
        assert type(loop) is kloop.Loop
        return await asyncio.sleep(0, loop.get_debug())

    assert kloop.run(main()) is False
    assert kloop.run(main(), debug=True) is True
    assert kloop.run(main(), receive_buffers=16) is False
    assert kloop.run(main(), loop_factory=lambda: kloop.Loop(spin_ns=0)) is False


def test_run_refuses():
    async def main():
        pass

    with pytest.raises(TypeError):
        kloop.run(main, loop_factory=kloop.Loop, sqpoll=True)
    with pytest.raises((TypeError, ValueError)):
        kloop.run(main)

    async def nested():
        coroutine = main()
        try:
            kloop.run(coroutine)
        finally:
            coroutine.close()

    with pytest.raises(RuntimeError, match="running event loop"):
        kloop.run(nested())


def test_run_cancels_what_is_left():
    ended = []

    async def forever():
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    async def main():
        tasks.append(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    tasks = []
    kloop.run(main())
    assert ended == [True]


def test_run_in_a_thread():
    async def main():
        await asyncio.sleep(0.001)
        return threading.get_ident()

    got = []
    thread = threading.Thread(target=lambda: got.append(kloop.run(main())))
    thread.start()
    thread.join(20)
    assert got == [thread.ident]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner came with Python 3.11")
def test_runner():
    variable = contextvars.ContextVar("variable", default=0)

    async def add():
        variable.set(variable.get() + 1)
        return variable.get()

    with asyncio.Runner(loop_factory=kloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), kloop.Loop)
        assert [runner.run(add()) for _ in range(3)] == [1, 2, 3]


# ---- options


@pytest.mark.parametrize("options", [
    {"submission_entries": 8, "completion_entries": 16},
    {"submission_entries": 16384},
    {"receive_buffers": 8, "receive_buffer_bytes": 4096},
    {"spin_ns": 1000},
    {"_without": 0b1111111111},
    {"_without": 0b11},
])
def test_options_work(options):
    loop = kloop.Loop(**options)
    assert loop.run_until_complete(_exercise(loop)) == b"x" * 100_000
    if "_without" in options:
        assert loop._features() & options["_without"] == 0
    loop.close()


async def _exercise(loop):
    async def serve(reader, writer):
        writer.write(await reader.read(-1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * 100_000)
    writer.write_eof()
    data = await reader.read(-1)
    writer.close()
    server.close()
    return data


def test_sqpoll():
    loop = kloop.Loop(sqpoll=True, sq_thread_idle_ms=10)
    assert loop._features() & 1 << 4
    assert loop.run_until_complete(_exercise(loop)) == b"x" * 100_000
    loop.close()


@pytest.mark.parametrize("options, error", [
    ({"submission_entries": 0}, ValueError),
    ({"submission_entries": 1 << 20}, ValueError),
    ({"completion_entries": 1}, ValueError),
    ({"receive_buffers": 3}, ValueError),
    ({"receive_buffer_bytes": 1}, ValueError),
    ({"spin_ns": -1}, ValueError),
    ({"spin_ns": "long"}, TypeError),
    ({"spin_ns": 10 ** 30}, OverflowError),
    ({"sqpoll": True, "sq_thread_cpu": -2}, ValueError),
    ({"sqpoll": True, "sq_thread_cpu": 100_000}, (ValueError, OSError)),
    ({"unknown": 1}, TypeError),
])
def test_bad_options(options, error):
    with pytest.raises(error):
        kloop.new_event_loop(**options)


def test_descriptors_run_out():
    """EMFILE is an error of its own, and never "unavailable"."""
    code = """
import kloop, os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
held = []
try:
    while True:
        held.append(os.dup(0))
except OSError:
    pass
try:
    kloop.new_event_loop(fallback=True)
except OSError as error:
    assert not isinstance(error, kloop.IoUringUnavailable)
    print(error.errno)
"""
    assert python(code) == (0, f"{errno.EMFILE}\n", "")


# ---- stats and info


def test_stats(kernel_loop):
    before = kernel_loop.stats()
    kernel_loop.run_until_complete(asyncio.sleep(0.001))
    after = kernel_loop.stats()
    assert after["turns"] > before["turns"]
    assert after["waits"] > before["waits"]
    assert after["timers_fired"] == before["timers_fired"] + 1
    assert all(isinstance(value, int) for value in after.values())
    kernel_loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        kernel_loop.stats()


def test_an_idle_iteration_makes_no_system_call(kernel_loop):
    left = 1000

    def step():
        nonlocal left
        left -= 1
        if left:
            kernel_loop.call_soon(step)
        else:
            kernel_loop.stop()

    kernel_loop.run_until_complete(asyncio.sleep(0.001))
    before = kernel_loop.stats()["enters"]
    kernel_loop.call_soon(step)
    kernel_loop.run_forever()
    assert kernel_loop.stats()["enters"] - before <= 2


def test_info():
    info = kloop.info()
    assert info["ring.available"] is True
    assert info["kernel.release"] == os.uname().release
    assert kloop.__version__ == info["kloop.version"] == kloop._kloop.header_version


# ---- where io_uring is unavailable


PROBE = """
import kloop
try:
    kloop.new_event_loop()
except kloop.IoUringUnavailable as error:
    assert isinstance(error, OSError)
    print(error.reason, error.code, error.errno, error, sep="|")
"""


@pytest.mark.parametrize("environment, wrapper, reason, number, hint", [
    ({"KLOOP_IO_URING": "0"}, (), "off", errno.ECANCELED, "KLOOP_IO_URING"),
    ({}, denied(errno.EPERM), "denied", errno.EPERM, "kernel.io_uring_disabled"),
    ({}, denied(errno.ENOSYS), "missing", errno.ENOSYS, "5.11"),
    ({}, denied(errno.EINVAL), "too-old", errno.EOPNOTSUPP, "5.11"),
])
def test_unavailable(environment, wrapper, reason, number, hint):
    status, output, errors = python(PROBE, wrapper=wrapper, **environment)
    assert (status, errors) == (0, "")
    got_reason, code, got_number, text = output.split("|", 3)
    assert got_reason == reason and int(code) < -4095 and int(got_number) == number
    assert hint in text and "fallback" in text


FALLBACK = """
import asyncio, kloop, sys
loops = [kloop.new_event_loop({}) for _ in range(3)]
for loop in loops:
    assert isinstance(loop, asyncio.SelectorEventLoop)
    assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    loop.close()
assert kloop.run(asyncio.sleep(0, 6), {}) == 6
"""


@pytest.mark.parametrize("argument, environment", [
    ("fallback=True", {}), ("", {"KLOOP_FALLBACK": "1"}),
])
def test_fallback_warns_once(argument, environment):
    status, _output, errors = python(FALLBACK.replace("{}", argument), KLOOP_IO_URING="0",
                                     **environment)
    assert status == 0, errors
    assert errors.count("RuntimeWarning") == 1
    assert "io_uring is off" in errors


def test_no_fallback_unless_asked():
    for environment in ({}, {"KLOOP_FALLBACK": "0"}, {"KLOOP_FALLBACK": ""}):
        status, _output, errors = python("import kloop; kloop.new_event_loop()",
                                         KLOOP_IO_URING="0", **environment)
        assert status == 1
        assert "kloop.IoUringUnavailable: [Errno" in errors
        assert "ResourceWarning" not in errors


def test_no_fallback_where_it_is_not_needed():
    loop = kloop.new_event_loop(fallback=True)
    assert type(loop) is kloop.Loop
    loop.close()


# ---- policies


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies are deprecated in Python 3.14")
def test_policy():
    former = asyncio.get_event_loop_policy()
    kloop.install()
    try:
        assert isinstance(asyncio.get_event_loop_policy(), kloop.EventLoopPolicy)

        async def main():
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "exit(4)")
            return type(asyncio.get_running_loop()), await process.wait()

        assert asyncio.run(main()) == (kloop.Loop, 4)
        loop = asyncio.new_event_loop()
        assert type(loop) is kloop.Loop
        loop.close()
    finally:
        asyncio.set_event_loop_policy(former)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="install() works before Python 3.14")
def test_install_says_what_to_do_instead():
    with pytest.raises(RuntimeError, match="kloop.run"):
        kloop.install()
    assert not hasattr(kloop, "EventLoopPolicy")
