# SPDX-License-Identifier: MulanPSL-2.0
"""Making loops and running programs on them."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ._kloop import IoUringUnavailable
from .loop import Loop

_T = TypeVar("_T")
_warned = False


def _fallback_wanted() -> bool:
    return os.environ.get("KLOOP_FALLBACK", "") not in ("", "0")


def _warn_once(error: IoUringUnavailable) -> None:
    """One warning in a process, however many loops it makes."""
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"kloop falls back to asyncio's event loop, io_uring is {error.reason}: "
        f"{error.strerror}", RuntimeWarning, stacklevel=3)


def new_event_loop(*, fallback: bool | None = None, **options: Any) -> asyncio.AbstractEventLoop:
    """Make an event loop on io_uring.

    fallback: where io_uring is unavailable, warn once and return asyncio's
        loop. Default: what the environment variable KLOOP_FALLBACK says.
    options: those of Loop.

    Raises IoUringUnavailable without fallback.
    """
    if fallback is None:
        fallback = _fallback_wanted()
    try:
        return Loop(**options)
    except IoUringUnavailable as error:
        if not fallback:
            raise
        _warn_once(error)
    return asyncio.SelectorEventLoop()


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
        **options: Any) -> _T:
    """Run a coroutine to its end on a new loop, as asyncio.run() does.

    loop_factory: what makes the loop; default new_event_loop with the options.
    options: those of new_event_loop.

    Returns the coroutine's result.
    """
    if loop_factory is None:
        loop_factory = functools.partial(new_event_loop, **options)
    elif options:
        raise TypeError("loop_factory and options of new_event_loop() exclude each other")
    if sys.version_info >= (3, 12):
        return asyncio.run(main, debug=debug, loop_factory=loop_factory)
    if sys.version_info >= (3, 11):
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("kloop.run() cannot be called from a running event loop")
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)
    return _run_3_10(main, debug, loop_factory)


def _run_3_10(main, debug, loop_factory):
    """asyncio.run() of Python 3.10, which takes no loop_factory."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("kloop.run() cannot be called from a running event loop")
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    loop = loop_factory()
    try:
        asyncio.set_event_loop(loop)
        if debug is not None:
            loop.set_debug(debug)
        return loop.run_until_complete(main)
    finally:
        try:
            asyncio.runners._cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
