# SPDX-License-Identifier: MulanPSL-2.0
"""call_later() and call_at()."""

import asyncio
import math
import random
import time

import pytest

from conftest import is_kloop


def run_for(loop, seconds):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def test_never_early(loop):
    late = []

    def fire(when):
        late.append(loop.time() - when)

    for delay in (0.001, 0.003, 0.01, 0.0123456789, 0.02):
        when = loop.time() + delay
        loop.call_at(when, fire, when)
    run_for(loop, 0.05)
    assert len(late) == 5
    if is_kloop(loop):  # asyncio permits itself the resolution of the clock
        assert min(late) >= 0
    assert min(late) > -1e-6
    assert max(late) < 60


def test_order_of_deadlines(loop):
    order = []
    now = loop.time()
    deadlines = [now + random.Random(3).random() * 0.02 for _ in range(5)] * 40
    generator = random.Random(5)
    generator.shuffle(deadlines)
    for number, when in enumerate(deadlines):
        loop.call_at(when, order.append, (when, number))
    run_for(loop, 0.05)
    assert len(order) == len(deadlines)
    assert [when for when, _ in order] == sorted(deadlines)
    if is_kloop(loop):  # and the same deadline in the order of the calls
        assert order == sorted(order)


@pytest.mark.parametrize("delay", [0, -1, -1e9, -math.inf])
def test_the_past_is_due_at_once(loop, delay):
    got = []
    loop.call_later(delay, got.append, "later")
    loop.call_soon(got.append, "soon")
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert sorted(got) == ["later", "soon"]


@pytest.mark.parametrize("delay", [math.inf, 1e300, 1e10])
def test_never(loop, delay):
    handle = loop.call_later(delay, pytest.fail)
    run_for(loop, 0.01)
    assert not handle.cancelled()
    assert handle.when() > 1e9
    handle.cancel()
    run_for(loop, 0.01)


def test_nan_is_due_at_once(kernel_loop):
    got = []
    kernel_loop.call_later(math.nan, got.append, 1)
    kernel_loop.call_soon(kernel_loop.call_soon, kernel_loop.stop)
    kernel_loop.run_forever()
    assert got == [1]


def test_integers_and_when(loop):
    when = int(loop.time()) + 1000
    handle = loop.call_at(when, print)
    assert handle.when() == when
    before = loop.time()
    handle = loop.call_later(10, print)
    assert before + 10 <= handle.when() <= loop.time() + 10


def test_scheduled(loop):
    fired, cancelled = loop.call_later(0, int), loop.call_later(1, int)
    assert fired._scheduled and cancelled._scheduled
    cancelled.cancel()
    run_for(loop, 0.01)
    assert not fired._scheduled


def test_many_timers_with_cancels(loop):
    generator = random.Random(11)
    fired = set()
    handles = {}
    for number in range(5000):
        handles[number] = loop.call_later(generator.random() * 0.05, fired.add, number)
    gone = set(generator.sample(range(5000), 2500))
    for number in gone:
        handles[number].cancel()
    run_for(loop, 0.2)
    assert fired == set(range(5000)) - gone


def test_cancelled_timers_leave_the_heap(kernel_loop):
    handles = [kernel_loop.call_later(1000, print) for _ in range(100)]
    assert kernel_loop.stats()["timers_active"] == 100
    for handle in handles:
        handle.cancel()
    assert kernel_loop.stats()["timers_active"] == 0


def test_a_timer_may_start_and_cancel_timers(loop):
    got = []
    victim = loop.call_later(0.001, got.append, "victim")

    def first():
        victim.cancel()
        loop.call_later(0, child)

    def child():
        got.append("child")
        loop.stop()

    loop.call_at(victim.when() - 0.0005, first)
    run_for(loop, 30)
    assert got in (["child"], ["victim", "child"])


def test_timers_do_not_starve_callbacks(loop):
    turns = 0

    def turn():
        nonlocal turns
        turns += 1
        if turns < 100:
            loop.call_later(0, turn)
        else:
            loop.stop()

    seen = []

    def soon():
        seen.append(turns)
        if turns < 100:
            loop.call_soon(soon)

    loop.call_soon(soon)
    loop.call_later(0, turn)
    loop.run_forever()
    assert len(set(seen)) > 90


def test_sleep_precision(loop):
    async def main():
        started = time.monotonic()
        await asyncio.sleep(0.01)
        return time.monotonic() - started

    assert min(loop.run_until_complete(main()) for _ in range(5)) < 0.1


def test_wait_for_times_out(loop):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 0.01)

    loop.run_until_complete(main())
