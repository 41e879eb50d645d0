# SPDX-License-Identifier: MulanPSL-2.0
"""create_task(): what asyncio's does, with and without all that can be asked for."""

import asyncio
import contextvars
import gc
import inspect
import sys
import weakref

import pytest

number = contextvars.ContextVar("number", default=0)


async def answer():
    await asyncio.sleep(0)
    return number.get()


def test_a_task_runs(loop):
    task = loop.create_task(answer())
    assert type(task) is asyncio.Task
    assert task.get_loop() is loop
    assert task.get_name().startswith("Task-")
    assert loop.run_until_complete(task) == 0


def test_a_task_has_a_copy_of_the_context(loop):
    token = number.set(7)
    try:
        task = loop.create_task(answer())
    finally:
        number.reset(token)
    assert loop.run_until_complete(task) == 7


@pytest.mark.parametrize("name", ["a name", 5, None])
def test_name(loop, name):
    task = loop.create_task(answer(), name=name)
    loop.run_until_complete(task)
    if name is None:
        assert task.get_name().startswith("Task-")
    else:
        assert task.get_name() == str(name)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10's takes no context")
def test_context(loop):
    context = contextvars.copy_context()
    context.run(number.set, 9)
    assert loop.run_until_complete(loop.create_task(answer(), context=context)) == 9


def test_by_keyword(loop):
    assert loop.run_until_complete(loop.create_task(coro=answer(), name="n")) == 0


@pytest.mark.parametrize("arguments, keywords", [
    ((), {}), ((1, 2), {}), ((1,), {"wrong": 1}), ((1,), {"coro": 2})])
def test_wrong_arguments(loop, arguments, keywords):
    with pytest.raises(TypeError):
        loop.create_task(*arguments, **keywords)


@pytest.mark.parametrize("thing", [1, None, print, asyncio.sleep])
def test_what_is_no_coroutine_is_refused(loop, thing):
    with pytest.raises(TypeError, match="a coroutine was expected"):
        loop.create_task(thing)


def test_a_factory_makes_it(loop):
    made = []

    def factory(of, coro, **keywords):
        task = asyncio.Task(coro, loop=of)
        made.append((of, task))
        return task

    loop.set_task_factory(factory)
    first = loop.create_task(answer())
    loop.set_task_factory(None)
    second = loop.create_task(answer())
    assert made == [(loop, first)]
    loop.run_until_complete(asyncio.gather(first, second))


def test_a_class_that_a_program_put_in_place(loop, monkeypatch):
    class Mine(asyncio.Task):
        pass

    monkeypatch.setattr(asyncio.tasks, "Task", Mine)
    task = loop.create_task(answer())
    monkeypatch.undo()
    assert type(task) is Mine
    loop.run_until_complete(task)


def test_debug_mode_tells_where(loop):
    loop.set_debug(True)
    task = loop.create_task(answer())
    loop.set_debug(False)
    assert task._source_traceback[-1].name == "test_debug_mode_tells_where"
    loop.run_until_complete(task)


def test_a_closed_loop_makes_none(loop):
    loop.close()
    coroutine = answer()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coroutine)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
    coroutine.close()


def test_the_loop_is_freed_without_the_collector(loop_factory):
    gc.disable()
    try:
        loop = loop_factory()
        loop.run_until_complete(loop.create_task(answer()))
        loop.create_task(answer()).cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        reference = weakref.ref(loop)
        del loop
        assert reference() is None
    finally:
        gc.enable()
