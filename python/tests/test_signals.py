# SPDX-License-Identifier: MulanPSL-2.0
"""Signals and child processes."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import kloop
from transport_tools import turns, until


@pytest.fixture(autouse=True)
def restore_signals():
    numbers = (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
    former = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, former):
        signal.signal(number, handler)


def kill_later(loop, number, delay=0.02):
    """From another thread, so that the loop sleeps when it comes."""
    if isinstance(loop, asyncio.SelectorEventLoop):
        # Without any handler asyncio sleeps over a signal that comes just before it sleeps.
        loop.add_signal_handler(signal.SIGURG, int)
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
    guard = loop.call_later(120, loop.stop)
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
    guard = loop.call_later(120, loop.stop)
    loop.run_forever()
    guard.cancel()
    assert got == [1]
    assert time.monotonic() - started < 60


def test_python_handler_that_raises(loop):
    class Alarm(Exception):
        pass

    def handler(*args):
        raise Alarm

    signal.signal(signal.SIGALRM, handler)
    # It begins with the run: where that comes late, nobody would expect the exception yet.
    loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.02)
    guard = loop.call_later(120, loop.stop)
    with pytest.raises(Alarm):
        loop.run_forever()
    guard.cancel()


def test_keyboard_interrupt(loop):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timers = []
    # From inside the run, or it would come before anybody expects it where the machine is slow.
    loop.call_soon(lambda: timers.append(kill_later(loop, signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.sleep(60))
    timers[0].join()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner came with Python 3.11")
@pytest.mark.parametrize("factory", [
    asyncio.SelectorEventLoop, kloop.Loop, functools.partial(kloop.Loop, sqpoll=True)],
    ids=["asyncio", "kloop", "sqpoll"])
@pytest.mark.parametrize("stubborn", [False, True])
def test_interrupt_of_a_runner(factory, stubborn):
    """Ctrl-C cancels the main task of a loop that sleeps; the second one does not ask."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    events, timers = [], []

    async def main():
        loop = asyncio.get_running_loop()
        timers.append(kill_later(loop, signal.SIGINT))
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            events.append("cancelled")
            if stubborn:
                timers.append(kill_later(loop, signal.SIGINT))
                try:
                    await asyncio.sleep(600)
                finally:
                    events.append("cancelled again")
            raise

    with asyncio.Runner(loop_factory=factory) as runner:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
        assert time.monotonic() - started < 300  # what only a loop that slept on would need
        for timer in timers:
            timer.join()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert runner.run(asyncio.sleep(0, "well")) == "well"
    assert events == ["cancelled", "cancelled again"][:1 + stubborn]


STORM = """
import os, signal, sys
for number in range(int(sys.argv[2])):
    os.kill(int(sys.argv[1]), [signal.SIGUSR1, signal.SIGUSR2][number % 2])
"""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_storms_of_several_senders(loop, error):
    """Into a loop that sleeps, with handlers that raise: each is told, and the last ones come."""
    calls, raised = [], []

    def came(number):
        calls.append(number)
        raise error(number)

    for number in signal.SIGUSR1, signal.SIGUSR2:
        loop.add_signal_handler(number, came, number)
    senders = [subprocess.Popen([sys.executable, "-S", "-c", STORM, str(os.getpid()), "200"])
               for _ in range(3)]
    task = loop.create_task(ends(senders))
    while True:
        try:
            loop.run_until_complete(task)
            break
        except KeyboardInterrupt as told:
            raised.append(told)
    calls.clear()
    for number in signal.SIGUSR1, signal.SIGUSR2:
        os.kill(os.getpid(), number)
        try:
            loop.run_until_complete(until(lambda: number in calls))  # noqa: B023
        except KeyboardInterrupt as told:
            raised.append(told)
    raised += [context["exception"] for context in loop.failures]
    assert {told.args[0] for told in raised} == {signal.SIGUSR1, signal.SIGUSR2}
    assert {type(told) for told in raised} == {error}
    for number in signal.SIGUSR1, signal.SIGUSR2:
        loop.remove_signal_handler(number)


async def ends(processes):
    await until(lambda: all(process.poll() is not None for process in processes))
    assert [process.returncode for process in processes] == [0] * len(processes)
    await turns(20)


def test_wakeup_descriptor_of_somebody_else(loop):
    """It stays during the run and gets its bytes; handlers of signal.signal() run all the same."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGALRM, lambda *_: loop.call_soon_threadsafe(loop.stop))
    loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.02)
    guard = loop.call_later(60, sys.exit, "the signal did not end the wait")
    loop.run_forever()
    guard.cancel()
    assert os.read(read, 10) == bytes([signal.SIGALRM])
    assert signal.set_wakeup_fd(-1) == write
    os.close(read)
    os.close(write)


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
