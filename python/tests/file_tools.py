# SPDX-License-Identifier: MulanPSL-2.0
"""For the tests of files: fixtures, and what must not be left behind."""

import asyncio
import threading

import pytest

import kloop
from transport_tools import new_threads

LONG = 60


@pytest.fixture(params=["plain", "sqpoll", "oldest"])
def run(request):
    """Run a coroutine on a loop of one kind; no thread may be there, nor anything left in flight."""
    options = {"plain": {}, "sqpoll": {"sqpoll": True}, "oldest": {"_without": 0xFFFF_FFFF}}

    def run(main):
        async def watched():
            threads = threading.enumerate()
            try:
                return await asyncio.wait_for(main, 4 * LONG)
            finally:
                assert not new_threads(threads)
                assert asyncio.get_running_loop().stats()["in_flight"] <= 1

        return kloop.run(watched(), **options[request.param])

    return run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"
