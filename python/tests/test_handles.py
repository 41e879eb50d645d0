# SPDX-License-Identifier: MulanPSL-2.0
"""Handle and TimerHandle: asyncio's semantics, attributes and repr."""

import asyncio
import contextvars
import gc
import re
import signal
import threading
import time
import weakref

import pytest

import kloop
from conftest import is_kloop


def callback(*args):
    return args


def test_attributes(loop):
    context = contextvars.copy_context()
    handle = loop.call_soon(callback, 1, 2, context=context)
    assert handle._callback is callback
    assert handle._args == (1, 2)
    assert handle._loop is loop
    assert handle._context is context
    assert handle._cancelled is False and handle.cancelled() is False
    assert handle._source_traceback is None
    handle.cancel()
    assert handle._callback is None and handle._args is None
    assert handle._cancelled is True and handle.cancelled() is True
    handle.cancel()


def test_get_context(loop):
    context = contextvars.copy_context()
    handle = loop.call_soon(callback, context=context)
    if is_kloop(loop) or hasattr(handle, "get_context"):  # asyncio: 3.12
        assert handle.get_context() is context


def test_many_arguments(loop):
    handle = loop.call_soon(callback, *range(9))
    assert handle._args == tuple(range(9))


def test_cancelled_is_not_called(loop):
    got = []
    handle = loop.call_soon(got.append, 1)
    later = loop.call_later(0, got.append, 2)
    loop.call_soon(later.cancel)
    handle.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert got == []


def test_cancel_drops_callback_and_arguments(loop):
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    handles = [loop.call_soon(callback, thing), loop.call_later(100, callback, thing)]
    del thing
    gc.collect()
    assert reference() is not None
    for handle in handles:
        handle.cancel()
    assert reference() is None


def test_a_callback_may_cancel_its_own_handle(loop):
    class Thing:
        def __init__(self):
            self.handle = None

        def act(self, *args):
            self.handle.cancel()
            gc.collect()
            got.append(args)

    got = []
    thing = Thing()
    thing.handle = loop.call_soon(thing.act, "a" * 100, [1], {2: 3}, 4)
    other = Thing()
    other.handle = loop.call_later(0, other.act, "b" * 100, [1])
    handles = [thing.handle, other.handle]
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert got == [("a" * 100, [1], {2: 3}, 4), ("b" * 100, [1])]
    assert all(handle.cancelled() and handle._callback is None for handle in handles)


def test_arguments_go_away_with_the_handle(loop):
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    loop.call_soon(callback, thing)
    del thing
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert reference() is None


@pytest.mark.parametrize("kind", ["soon", "later", "mixed"])
def test_a_long_chain_of_handles_goes_away(kernel_loop, kind):
    """Each is an argument of the next one: freeing them must not need a stack as long."""
    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing)
    handle = thing
    for number in range(30_000):
        if kind == "soon" or (kind == "mixed" and number % 2):
            handle = kernel_loop.call_soon(callback, handle)
        else:
            handle = kernel_loop.call_later(1e6, callback, handle)
    for _ in range(2):
        kernel_loop.call_soon(kernel_loop.stop)
        kernel_loop.run_forever()
    del thing
    assert reference() is not None
    if kind != "soon":
        kernel_loop.close()
    chain = [handle]
    del handle
    former = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=chain.clear)
        thread.start()
    finally:
        threading.stack_size(former)
    thread.join()
    assert reference() is None


def test_repr_is_that_of_asyncio(loop):
    handle = loop.call_soon(callback, 1, "two")
    text = repr(handle)
    assert re.fullmatch(
        r"<Handle callback\((1, 'two')?\) at .*test_handles\.py:\d+>", text), text
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"


def test_repr_of_a_timer(loop):
    handle = loop.call_at(123, callback)
    text = repr(handle)
    assert re.fullmatch(
        r"<TimerHandle when=123 callback\(\) at .*test_handles\.py:\d+>", text), text
    handle.cancel()
    assert repr(handle) == "<TimerHandle cancelled when=123>"


def test_repr_in_debug_mode(loop):
    loop.set_debug(True)
    handle = loop.call_soon(callback, 1)
    timer = loop.call_later(10, callback, 1)
    for item in (handle, timer):
        assert re.search(r"callback\(1\) at .* created at .*test_handles\.py:\d+>$", repr(item))
        frame = item._source_traceback[-1]
        assert frame.name == "test_repr_in_debug_mode"
        item.cancel()
        # A cancelled handle of debug mode still shows what it was.
        assert "cancelled" in repr(item) and "callback(1)" in repr(item)


def test_source_traceback_reaches_the_exception_handler(loop):
    loop.set_debug(True)
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert loop.failures[0]["source_traceback"][-1].name == (
        "test_source_traceback_reaches_the_exception_handler")


def test_run_by_hand(loop):
    got = []
    handle = loop.call_soon(got.append, 1)
    handle._run()
    handle.cancel()
    assert got == [1]


def test_a_callback_runs_its_own_handle_and_cancels_it(loop, caplog):
    class Thing:
        def __getattr__(self, name):
            handle._run()  # which cannot enter the context again
            handle.cancel()
            raise AttributeError(name)

    problems = []
    loop.set_exception_handler(lambda loop, context: problems.append(context["exception"]))
    thing = Thing()
    # A function in C borrows its arguments from its caller.
    handle = loop.call_soon(getattr, thing, "name", [])
    loop.call_soon(loop.stop)
    loop.run_forever()
    # From Python 3.12 on the handler cannot enter it either, and that is logged.
    assert [type(problem) for problem in problems] == [RuntimeError] or caplog.records
    assert handle.cancelled()


def test_weak_references(loop):
    handle = loop.call_soon(callback)
    timer = loop.call_later(100, callback)
    references = [weakref.ref(handle), weakref.ref(timer)]
    timer.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    del handle, timer
    gc.collect()
    if is_kloop(loop):  # asyncio keeps cancelled timers in its heap
        assert references[1]() is None
    assert references[0]() is None


def test_timers_compare(loop):
    early = loop.call_at(1000, callback)
    late = loop.call_at(2000, callback)
    same = loop.call_at(1000, callback)
    other = loop.call_at(1000, print)
    assert early < late and early <= late and late > early and late >= early
    assert early == same and early != other and not early < same and early <= same
    assert hash(early) == hash(same) == hash(1000)
    assert (early == 5) is False and (early != 5) is True
    with pytest.raises(TypeError):
        early < 5
    assert early.when() == early._when == 1000
    assert sorted([late, early]) == [early, late]
    early.cancel()
    assert early != same


def test_handles_cannot_be_made_by_hand(kernel_loop):
    handle, timer = kernel_loop.call_soon(callback), kernel_loop.call_later(9, callback)
    for kind in (type(handle), type(timer)):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            type("Mine", (kind,), {})
    assert isinstance(timer, type(handle))


def test_handles_are_collected_in_cycles(loop):
    class Thing:
        pass

    thing = Thing()
    thing.handle = loop.call_later(100, callback, thing)
    reference = weakref.ref(thing)
    thing.handle.cancel()
    soon = Thing()
    soon.handle = loop.call_soon(callback, soon)
    soon_reference = weakref.ref(soon)
    loop.call_soon(loop.stop)
    loop.run_forever()
    del thing, soon
    gc.collect()
    assert reference() is None and soon_reference() is None


def test_asyncio_knows_them(loop):
    """By isinstance(), which is how others ask."""
    handle = loop.call_soon(callback)
    later = loop.call_later(100, callback)
    shared = loop.call_soon_threadsafe(callback)
    assert isinstance(handle, asyncio.Handle) and not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(later, asyncio.TimerHandle) and isinstance(later, asyncio.Handle)
    assert isinstance(shared, getattr(asyncio.events, "_ThreadSafeHandle", asyncio.Handle))
    if is_kloop(loop):
        assert type(handle) is type(shared) is kloop.Handle
        assert type(later) is kloop.TimerHandle and isinstance(later, kloop.Handle)
    later.cancel()


@pytest.mark.parametrize("method", ["cancel", "cancelled"])
def test_another_thread_waits_for_the_callback(loop, method):
    """From Python 3.14 on: after cancel() the callback does not run, and will not."""
    if not hasattr(asyncio.events, "_ThreadSafeHandle"):
        return
    began, ended = threading.Event(), threading.Event()
    results = []

    def slow():
        began.set()
        while len(asking) < 3:
            time.sleep(0.001)
        time.sleep(0.05)
        ended.set()

    def ask(handle):
        assert began.wait(60)
        asking.append(1)
        results.append((getattr(handle, method)(), ended.is_set()))

    asking = []
    handle = loop.call_soon_threadsafe(slow)
    threads = [threading.Thread(target=ask, args=(handle,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    for thread in threads:
        thread.join(60)
    assert results == [(False if method == "cancelled" else None, True)] * 3


def test_cancel_from_inside_and_from_the_loops_thread_never_waits(loop):
    def act():
        handle.cancel()
        assert handle.cancelled()
        got.append(1)

    got = []
    handle = loop.call_soon_threadsafe(act)
    other = loop.call_soon_threadsafe(got.append, 2)
    other.cancel()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert got == [1]


def test_a_signal_ends_the_wait_for_a_callback(kernel_loop):
    """A Python handler that raises: KeyboardInterrupt, and such."""
    if not hasattr(asyncio.events, "_ThreadSafeHandle"):
        return
    began, end = threading.Event(), threading.Event()

    def slow():
        began.set()
        assert end.wait(60)
        kernel_loop.stop()

    def fail(*args):
        raise ZeroDivisionError

    handle = kernel_loop.call_soon_threadsafe(slow)
    former = signal.signal(signal.SIGUSR1, fail)
    thread = threading.Thread(target=kernel_loop.run_forever)
    thread.start()
    try:
        assert began.wait(60)
        threading.Timer(0.05, signal.pthread_kill,
                        (threading.main_thread().ident, signal.SIGUSR1)).start()
        with pytest.raises(ZeroDivisionError):
            handle.cancel()
        assert not end.is_set()
    finally:
        end.set()
        thread.join(60)
        signal.signal(signal.SIGUSR1, former)
    handle.cancel()


def test_collections_leave_what_is_scheduled(loop):
    """The collector may not know handles that wait; it has to know those that were kept."""
    class Thing:
        pass

    got = []
    things = [Thing() for _ in range(300)]
    references = [weakref.ref(thing) for thing in things]
    kept = [loop.call_soon(got.append, thing) for thing in things][::3]
    del things
    for _ in range(3):
        gc.collect()
    assert None not in [reference() for reference in references]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [reference() for reference in references] == got
    assert all(gc.is_tracked(handle) for handle in kept)
    got.clear()
    assert [i for i, reference in enumerate(references) if reference() is not None] == \
        list(range(0, 300, 3))
    del kept
    gc.collect()
    assert [reference() for reference in references] == [None] * 300
