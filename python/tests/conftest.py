# SPDX-License-Identifier: MulanPSL-2.0
"""Fixtures: every case that takes `loop` or `loop_factory` runs on asyncio's loop and on kloop's."""

import asyncio
import signal

import pytest

import kloop

FACTORIES = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}


@pytest.fixture(params=sorted(FACTORIES))
def loop_factory(request):
    """What makes a loop; .name says which kind."""
    return FACTORIES[request.param]


@pytest.fixture
def loop(loop_factory):
    """A loop that is closed after the case, and must leave nothing behind."""
    loop = loop_factory()
    failures = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    loop.failures = failures
    yield loop
    if not loop.is_closed():
        run_until_quiet(loop)
        loop.close()
    loop.set_exception_handler(None)
    assert signal.set_wakeup_fd(-1) == -1, "the wake-up descriptor was not given back"


@pytest.fixture
def kernel_loop():
    """A kloop.Loop, for cases that asyncio has no counterpart of."""
    loop = kloop.Loop()
    yield loop
    loop.close()


def run_until_quiet(loop):
    """End what a case left running, so that its loop can be closed."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


def is_kloop(loop):
    return isinstance(loop, kloop.Loop)
