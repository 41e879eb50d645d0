# SPDX-License-Identifier: MulanPSL-2.0
"""Event loop policy, for Python before 3.14."""

from __future__ import annotations

import asyncio
from typing import Any

from .runners import new_event_loop


class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """asyncio's default policy, whose loops are kloop's.

    Keywords are those of kloop.new_event_loop(), for every loop it makes.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A new kloop.Loop (or asyncio's, where fallback is permitted)."""
        return new_event_loop(**self._options)


def install(**options: Any) -> None:
    """Make asyncio.run() and asyncio.new_event_loop() use kloop in this process.

    Keywords are those of kloop.new_event_loop().
    """
    asyncio.set_event_loop_policy(EventLoopPolicy(**options))
