# SPDX-License-Identifier: MulanPSL-2.0
"""The loop itself: running, stopping, closing, scheduling, threads, debug mode."""

import asyncio
import contextvars
import gc
import logging
import os
import sys
import threading
import time
import weakref

import pytest

import kloop
from conftest import is_kloop
from transport_tools import descriptors


def test_runs_a_coroutine(loop):
    async def answer():
        await asyncio.sleep(0)
        return 42

    assert loop.run_until_complete(answer()) == 42
    assert not loop.is_running()


def test_order_is_first_in_first_out(loop):
    order = []
    for number in range(1000):
        loop.call_soon(order.append, number)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == list(range(1000))


def test_callbacks_added_in_an_iteration_run_in_the_next(loop):
    order = []

    def first():
        order.append("first")
        loop.call_soon(order.append, "next")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(order.append, "second")
    loop.run_forever()
    assert order == ["first", "second"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == ["first", "second", "next"]


def test_stop_before_run_runs_one_iteration(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.stop()
    started = time.monotonic()
    loop.run_forever()
    assert ran == [1]
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("count", range(8))
def test_any_number_of_arguments(loop, count):
    got = []
    loop.call_soon(lambda *args: got.append(args), *range(count))
    loop.call_later(0, lambda *args: got.append(args), *range(count))
    loop.call_soon_threadsafe(lambda *args: got.append(args), *range(count))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert got == [tuple(range(count))] * 3


def test_arguments_by_keyword(loop):
    got = []
    loop.call_soon(callback=lambda: got.append("soon"))
    loop.call_later(delay=0, callback=lambda: got.append("later"))
    loop.call_at(when=loop.time(), callback=lambda: got.append("at"))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert sorted(got) == ["at", "later", "soon"]


@pytest.mark.parametrize("call", [
    lambda loop: loop.call_soon(),
    lambda loop: loop.call_soon(print, wrong=1),
    lambda loop: loop.call_later(1),
    lambda loop: loop.call_later(None, print),
    lambda loop: loop.call_later("1", print),
    lambda loop: loop.call_at(None, print),
    lambda loop: loop.call_soon(print, callback=print),
])
def test_wrong_arguments(loop, call):
    if not is_kloop(loop) and sys.version_info < (3, 11) and "None" in str(call.__code__.co_consts):
        return  # asyncio of 3.10 fails later, inside
    with pytest.raises(TypeError):
        call(loop)


def test_context(loop):
    variable = contextvars.ContextVar("variable", default="unset")
    got = []
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    variable.set("current")
    loop.call_soon(lambda: got.append(variable.get()))
    variable.set("changed")
    loop.call_soon(lambda: got.append(variable.get()), context=context)
    loop.call_later(0, lambda: got.append(variable.get()), context=context)
    loop.call_soon(lambda: got.append(variable.get()), context=None)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert got[0] == "current"
    assert sorted(got[1:]) == ["changed", "given", "given"]


def test_a_context_that_is_entered_already_is_reported(loop, caplog):
    # By the default handler: newer Pythons call others in the handle's context.
    loop.set_exception_handler(None)
    context = contextvars.copy_context()
    loop.call_soon(context.run, _run_inside, loop, context)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert "cannot enter context" in caplog.text


def _run_inside(loop, context):
    handle = loop.call_soon(print, "never", context=context)
    handle._run()
    handle.cancel()


def test_exception_goes_to_the_handler(loop):
    def fail(what):
        raise ValueError(what)

    handle = loop.call_soon(fail, "text")
    loop.call_soon(loop.stop)
    loop.run_forever()
    context, = loop.failures
    assert context["message"].startswith("Exception in callback ")
    assert "fail" in context["message"]
    assert str(context["exception"]) == "text"
    assert context["exception"].__traceback__ is not None
    assert context["handle"] is handle


def test_default_exception_handler_logs(loop, caplog):
    loop.set_exception_handler(None)
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert "Exception in callback" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_failing_exception_handler(loop, caplog):
    def handler(_loop, _context):
        raise KeyError("handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert "Unhandled error in exception handler" in caplog.text


def test_what_is_not_callable_is_reported(loop):
    loop.call_soon(17)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert isinstance(loop.failures[0]["exception"], TypeError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", ["soon", "later", "coroutine"])
def test_exit_leaves_run_forever(loop, kind, how):
    def fail():
        raise kind("out")

    ran = []
    if how == "soon":
        loop.call_soon(fail)
        loop.call_soon(ran.append, 1)
    elif how == "later":
        loop.call_later(0.01, fail)
    with pytest.raises(kind):
        if how == "coroutine":
            async def main():
                fail()
            loop.run_until_complete(main())
        else:
            loop.run_forever()
    assert not loop.is_running()
    assert ran == []
    loop.call_soon(loop.stop)
    loop.run_forever()
    if how == "soon":
        assert ran == [1]


def test_call_soon_threadsafe_wakes(loop):
    got = []

    def thread():
        time.sleep(0.05)
        loop.call_soon_threadsafe(got.append, threading.get_ident())
        loop.call_soon_threadsafe(loop.stop)

    worker = threading.Thread(target=thread)
    started = time.monotonic()
    worker.start()
    loop.run_forever()
    worker.join()
    assert got == [worker.ident]
    assert 0.04 < time.monotonic() - started < 60


def test_many_threads_lose_no_call(loop):
    total, threads = 2000, 4
    got = []

    def arrive(item):
        got.append(item)
        if len(got) == total * threads:
            loop.stop()

    def send(which):
        for number in range(total):
            loop.call_soon_threadsafe(arrive, (which, number))
            if number % 100 == 0:
                time.sleep(0.001)

    workers = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    guard = loop.call_later(30, loop.stop)
    loop.run_forever()
    guard.cancel()
    for worker in workers:
        worker.join()
    assert len(got) == total * threads
    for which in range(threads):
        assert [n for w, n in got if w == which] == list(range(total))


def test_ping_pong_between_threads(loop_factory):
    """Each wake-up of a sleeping loop by another one arrives."""
    loops = [loop_factory(), loop_factory()]
    left = 500

    def hit(side):
        nonlocal left
        left -= 1
        other = loops[1 - side]
        if left <= 0:
            other.call_soon_threadsafe(other.stop)
            loops[side].stop()
        else:
            other.call_soon_threadsafe(hit, 1 - side)

    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    loops[0].call_soon(hit, 0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for loop in loops:
        loop.close()
    assert left <= 0


def test_run_in_executor(loop):
    async def main():
        return await asyncio.gather(
            *(loop.run_in_executor(None, pow, 2, n) for n in range(20)))

    assert loop.run_until_complete(main()) == [2 ** n for n in range(20)]
    loop.run_until_complete(loop.shutdown_default_executor())


def test_loop_moves_between_threads(loop):
    """Made here, run there, run here again; timers and readers included."""
    got = []
    read, write = os.pipe()
    loop.call_later(0.01, got.append, "timer made here")
    loop.add_reader(read, lambda: (got.append(os.read(read, 10)), loop.stop()))
    os.write(write, b"1")

    def elsewhere():
        loop.call_later(0, got.append, "timer made there")
        loop.run_forever()
        loop.run_until_complete(asyncio.sleep(0.03))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    loop.call_later(0.01, got.append, "timer made here again")
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    os.write(write, b"2")
    loop.run_forever()
    loop.remove_reader(read)
    os.close(read)
    os.close(write)
    assert got.count(b"1") == 1 and got.count(b"2") == 1
    assert {"timer made here", "timer made there", "timer made here again"} <= set(got)


def test_nested_runs_are_refused(kernel_loop):
    """asyncio's loop of Python 3.13.0 stumbles over it, so kloop's only."""
    loop = kernel_loop
    failures = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    other = kloop.Loop()

    def nested():
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()
        with pytest.raises(RuntimeError, match="another loop"):
            other.run_forever()
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        loop.stop()
        ran.append(True)

    ran = []
    loop.call_soon(nested)
    loop.run_forever()
    other.close()
    assert ran and not failures


def test_closed_loop(loop):
    loop.close()
    loop.close()
    assert loop.is_closed()
    for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print),
                 lambda: loop.call_at(1, print), lambda: loop.call_soon_threadsafe(print),
                 lambda: loop.run_forever(), lambda: loop.add_reader(0, print),
                 lambda: loop.add_writer(0, print)):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()
    assert loop.remove_reader(0) is False
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_until_complete(coroutine)
    coroutine.close()


def test_close_drops_what_was_scheduled(loop_factory):
    class Thing:
        pass

    loop = loop_factory()
    things = [Thing() for _ in range(4)]
    references = [weakref.ref(thing) for thing in things]
    read, write = os.pipe()
    loop.call_soon(print, things[0])
    loop.call_later(1000, print, things[1])
    loop.add_reader(read, print, things[2])
    loop.add_writer(write, print, things[3])
    del things
    loop.close()
    os.close(read)
    os.close(write)
    del loop
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_an_unclosed_loop_is_collected_with_a_warning(loop_factory):
    loop = loop_factory()
    reference = weakref.ref(loop)
    loop.call_later(1000, lambda: loop)  # a cycle through the timer
    loop.call_soon(lambda: loop)         # and one through what is ready
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        del loop
        gc.collect()
    assert reference() is None


def test_loops_leave_no_descriptors(loop_factory):
    def run_one():
        loop = loop_factory()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    run_one()
    before = descriptors()
    for _ in range(1000):
        run_one()
    assert descriptors() == before


def test_fork(loop):
    """The child can neither run the parent's loop nor harm it, and can have its own."""
    if not is_kloop(loop):
        return  # asyncio lets the child share the parent's epoll
    loop.run_until_complete(asyncio.sleep(0))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except RuntimeError as error:
                assert "fork" in str(error)
                loop.close()
                own = type(loop)()
                status = own.run_until_complete(asyncio.sleep(0.01, 7)) - 7
                own.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert loop.run_until_complete(asyncio.sleep(0.01, 5)) == 5


# ---- debug mode


def test_debug_finds_the_wrong_thread(loop):
    loop.set_debug(True)
    got = []

    def thread():
        for call in (lambda: loop.call_soon(print), lambda: loop.call_later(1, print)):
            try:
                call()
            except RuntimeError as error:
                got.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(lambda: threading.Thread(target=thread).start())
    loop.run_forever()
    assert len(got) == 2
    assert all("Non-thread-safe operation" in text for text in got)


def test_debug_refuses_coroutines(loop):
    loop.set_debug(True)

    async def coroutine():
        pass

    for call in (loop.call_soon, loop.call_soon_threadsafe,
                 lambda callback: loop.call_later(1, callback)):
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            call(coroutine)
        with pytest.raises(TypeError, match="callable"):
            call("text")


def test_debug_logs_slow_callbacks(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    loop.call_soon(time.sleep, 0.02)
    loop.call_soon(loop.stop)
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert any("Executing <Handle sleep(0.02)" in record.getMessage()
               and record.getMessage().endswith("seconds") for record in caplog.records)
    assert loop._current_handle is None


def test_debug_mode_can_be_switched(loop):
    assert loop.get_debug() is False
    loop.set_debug(True)
    assert loop.get_debug() is True

    async def check():
        depth = sys.get_coroutine_origin_tracking_depth()
        loop.set_debug(False)
        await asyncio.sleep(0.01)
        return depth, sys.get_coroutine_origin_tracking_depth()

    inside, after = loop.run_until_complete(check())
    assert inside > 0 and after == 0
    assert sys.get_coroutine_origin_tracking_depth() == 0


def test_async_generators_are_finalized(loop):
    finalized = []

    async def generate():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            finalized.append(True)

    async def main():
        async for _ in generate():
            break
        gc.collect()
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert finalized == [True]


def test_time_is_monotonic_time(loop):
    before = time.monotonic()
    now = loop.time()
    after = time.monotonic()
    assert before <= now <= after


def test_repr(loop):
    assert "running=False closed=False debug=False>" in repr(loop)
    loop.close()
    assert "closed=True" in repr(loop)
