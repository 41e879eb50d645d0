# SPDX-License-Identifier: MulanPSL-2.0
"""Signals and child processes."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest


@pytest.fixture(autouse=True)
def restore_signals():
    numbers = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
    former = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, former):
        signal.signal(number, handler)


def kill_later(loop, number, delay=0.02):
    """From another thread, so that the loop sleeps when it comes."""
    timer = threading.Timer(delay, os.kill, (os.getpid(), number))
    timer.start()
    return timer


def test_signal_handler(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, lambda *args: (got.append(args), loop.stop()), 1, 2)
    timer = kill_later(loop, signal.SIGUSR1)
    loop.run_forever()
    timer.join()
    assert got == [(1, 2)]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_signal_before_the_run(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (got.append(1), loop.stop()))
    os.kill(os.getpid(), signal.SIGUSR1)
    guard = loop.call_later(10, loop.stop)
    loop.run_forever()
    guard.cancel()
    loop.remove_signal_handler(signal.SIGUSR1)
    assert got == [1]


def test_several_signals(loop):
    def note(number):
        got.append(number)
        if number == signal.SIGUSR2:
            loop.stop()
        else:
            timers.append(kill_later(loop, signal.SIGUSR2, 0.01))

    got = []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, note, number)
    timers = [kill_later(loop, signal.SIGUSR1, 0.01)]
    loop.run_forever()
    for timer in timers:
        timer.join()
    assert got == [signal.SIGUSR1, signal.SIGUSR2]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        assert loop.remove_signal_handler(number)


def test_python_handlers_interrupt_the_wait(loop):
    """A handler of signal.signal() runs although nothing else happens."""
    got = []
    signal.signal(signal.SIGALRM, lambda *args: (got.append(1), loop.call_soon_threadsafe(loop.stop)))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    started = time.monotonic()
    guard = loop.call_later(10, loop.stop)
    loop.run_forever()
    guard.cancel()
    assert got == [1]
    assert time.monotonic() - started < 5


def test_python_handler_that_raises(loop):
    class Alarm(Exception):
        pass

    def handler(*args):
        raise Alarm

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    guard = loop.call_later(10, loop.stop)
    with pytest.raises(Alarm):
        loop.run_forever()
    guard.cancel()


def test_keyboard_interrupt(loop):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = kill_later(loop, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(10))
    timer.join()


def test_wakeup_descriptor_is_given_back(loop):
    loop.run_until_complete(asyncio.sleep(0))
    assert signal.set_wakeup_fd(-1) == -1
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert signal.set_wakeup_fd(-1) == write
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("number, error", [
    (0, ValueError), (1000, ValueError), ("SIGINT", TypeError), (None, TypeError),
    (signal.SIGKILL, (RuntimeError, OSError)),
])
def test_bad_signals(loop, number, error):
    with pytest.raises(error):
        loop.add_signal_handler(number, print)


def test_coroutines_are_no_signal_handlers(loop):
    async def coroutine():
        pass

    with pytest.raises(TypeError):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)


def test_only_in_the_main_thread(loop):
    errors = []

    def thread():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except (RuntimeError, ValueError) as error:
            errors.append(error)

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    assert isinstance(errors[0], RuntimeError)


def test_a_storm_of_signals(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)

    def storm():
        for _ in range(200):  # as many as the socket pair surely holds
            os.kill(os.getpid(), signal.SIGUSR1)
        loop.call_soon_threadsafe(loop.stop)

    worker = threading.Thread(target=storm)
    worker.start()
    loop.run_forever()
    worker.join()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.remove_signal_handler(signal.SIGUSR1)
    assert got


# ---- child processes


async def child(code, **options):
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, **options)


def in_new_loop(loop_factory, main):
    """In a loop of its own, with what asyncio needs for children in Python 3.10 and 3.11."""
    loop = loop_factory()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(asyncio.wait_for(main(), 30))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def exercise_children():
    process = await child("import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)",
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output, _ = await process.communicate(b"x" * 200_000)
    assert output == b"X" * 200_000 and process.returncode == 3
    process = await child("import time; time.sleep(60)")
    process.terminate()
    assert await process.wait() == -signal.SIGTERM
    process = await asyncio.create_subprocess_shell("echo shell", stdout=subprocess.PIPE)
    assert (await process.communicate())[0] == b"shell\n"
    codes = await asyncio.gather(*(
        _code(number) for number in range(10)))
    assert codes == list(range(10))
    with pytest.raises(FileNotFoundError):
        await asyncio.create_subprocess_exec("/no/such/program")


async def _code(number):
    return await (await child(f"raise SystemExit({number})")).wait()


def test_children(loop_factory):
    in_new_loop(loop_factory, exercise_children)


def test_children_in_a_thread(loop_factory):
    errors = []

    def thread():
        try:
            in_new_loop(loop_factory, exercise_children)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join(60)
    assert not worker.is_alive() and errors == []
