# SPDX-License-Identifier: MulanPSL-2.0
"""A sweep over one scenario, in which the n-th allocation of Python fails, for every n.

    nomemory.py SCENARIO [FIRST [STRIDE [MOST]]]
    nomemory.py --sound

Each round has a loop of its own. What must hold: the scenario gives its result
or a MemoryError is seen somewhere; the loop closes, and no descriptor is left.
Who waits for what asyncio itself has dropped is stopped after a while. Prints
JSON at the end. The state of a round is told by a line at its beginning, so
that who reads it knows where a crash or a hang was.

--sound prints whether this CPython itself survives: 3.12 and 3.13 give up a
reference too many where there is no memory for a function (MAKE_FUNCTION), to
code that they use again, and crash on any loop.
"""

import asyncio
import collections
import faulthandler
import gc
import io
import json
import os
import socket
import sys
import traceback
import warnings

import _testcapi

import kloop
from nomemory_scenarios import SCENARIOS, Room

QUIET_ROUNDS = 40  # without any failure: the scenario has no more allocations
STUCK_SECONDS = 0.1  # a round that is slow and fails by that is none the worse
HANG_SECONDS = 120
LOSES_DESCRIPTORS = os.environ.get("KLOOP_NOMEMORY_DESCRIPTORS") == "any"


class Round:
    """One run of a scenario, with one allocation that fails."""

    def __init__(self, room, scenario, number, length):
        self.room, self.scenario = room, scenario
        self.number, self.length = number, length
        self.seen = collections.Counter()  # the exceptions, wherever they came out
        self.wrong = []
        self.stuck = False

    def note(self, error):
        while error is not None:
            self.seen[type(error).__name__] += 1
            if isinstance(error, SystemError) and not is_cpythons_own(error):
                self.wrong.append("".join(traceback.format_exception(error)))
            error = error.__cause__ or error.__context__

    def handler(self, loop, context):
        self.note(context.get("exception"))

    def unraisable(self, info):
        self.note(info.exc_value)

    def run(self):
        """Returns what became of it: one word."""
        loop = kloop.Loop(dns=self.room.dns)
        loop.set_exception_handler(self.handler)
        sys.unraisablehook = self.unraisable
        self.loop = loop
        watch = loop.call_later(STUCK_SECONDS if self.length else HANG_SECONDS, self.give_up)
        result = None
        try:
            task = loop.create_task(self.scenario(self.room, loop))
            if self.length:
                _testcapi.set_nomemory(self.number, self.number + self.length)
            try:
                result = loop.run_until_complete(task)
            finally:
                _testcapi.remove_mem_hooks()
        except RuntimeError as error:
            if not self.stuck and not self.is_memory(error):
                raise
            self.note(error)
        except (Exception, asyncio.CancelledError) as error:
            self.note(error)
        watch.cancel()
        self.finish(loop)
        if self.wrong:
            raise AssertionError(self.wrong[0])
        # Who lost the connection has a part of it; nobody has other bytes.
        # Of several failures no hook may hear: the interpreter itself needs memory to call it.
        if result is not None and result != self.room.wanted and not (
                (self.seen or self.length > 1) and self.room.wanted.startswith(result)):
            raise AssertionError(f"a wrong result: {result!r:.200}")
        if result is None and not self.seen and not self.stuck:
            raise AssertionError("no result, and no exception anywhere")
        return "stuck" if self.stuck else "failed" if self.seen else "fine"

    def is_memory(self, error):
        while error is not None:
            # threading and io say that a lock "can't" be allocated. subprocess_exec() waits for
            # its child whatever is thrown into it: also where CPython finds no memory to go on
            # with the coroutine, and closes it.
            if isinstance(error, MemoryError) or str(error).startswith("can't allocate ") or (
                    str(error) == "coroutine ignored GeneratorExit"):
                return True
            error = error.__cause__ or error.__context__
        return False

    def give_up(self):
        self.stuck = True
        self.loop.stop()

    def finish(self, loop):
        """The loop still runs; then it closes."""
        self.room.end()
        # What asyncio does at the end of a run fails as well, and is done here.
        asyncio._set_running_loop(None)
        loop._stopping = False
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()

        async def turns():
            for _ in range(5):
                await asyncio.sleep(0)

        for attempt in range(3):
            try:
                loop.run_until_complete(turns())
                break
            except RuntimeError:  # the stop() of the run that failed
                if attempt == 2:
                    raise
        loop.close()
        self.loop = None
        sys.unraisablehook = sys.__unraisablehook__
        tasks.clear()
        task = None
        gc.collect()


def descriptors():
    """Those that are open, and that no Python object has which would close them.

    CPython itself drops references where an allocation fails (a tuple that cannot
    be resized forgets its items, asyncio's Task its coroutine), on any loop.
    """
    gc.collect()
    owned = set()
    for thing in gc.get_objects():
        if isinstance(thing, (socket.socket, io.IOBase)):
            try:
                owned.add(str(thing.fileno()))
            except (ValueError, OSError):
                pass
    return sorted(fd for fd in os.listdir("/proc/self/fd")
                  if fd not in owned and os.path.exists(f"/proc/self/fd/{fd}"))


def is_cpythons_own(error):
    """A SystemError that asyncio's own loop has as well: out of the standard library's code.

    Where a call of ours is to blame, its name or its module's is in the text.
    """
    if str(error).startswith("<function "):  # one written in Python, whose frame found no memory
        return True
    at = error.__traceback__
    while at.tb_next is not None:
        at = at.tb_next
    return ("kloop" not in str(error).lower() and "Loop object" not in str(error)
            and at.tb_frame.f_code.co_filename.startswith((sys.base_prefix, "<frozen ")))


def sweep(room, name, first, stride, most):
    scenario = SCENARIOS[name]
    tally = collections.Counter()
    seen = collections.Counter()
    for _ in range(3):  # what is made once
        if Round(room, scenario, 0, 0).run() != "fine":
            raise AssertionError("it fails with all memory there is")
    before = descriptors()
    number, quiet = first, 0
    while quiet < QUIET_ROUNDS and number < most:
        for length in (1, 8):
            print(f"round {number} {length}", flush=True)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            this = Round(room, scenario, number, length)
            state = this.run()
            faulthandler.cancel_dump_traceback_later()
            tally[state] += 1
            seen.update(this.seen)
            quiet = quiet + 1 if state == "fine" else 0
            del this
            after = descriptors()
            # With one failure nothing is lost; with eight, no __del__() can do its work.
            if set(after) - set(before) and length == 1 and not LOSES_DESCRIPTORS:
                more = [(fd, os.readlink(f"/proc/self/fd/{fd}"))
                        for fd in after if fd not in before]
                raise AssertionError(f"descriptors: {more} after round {number}")
            before = after
        number += stride
    if Round(room, scenario, 0, 0).run() != "fine":
        raise AssertionError("it fails after the sweep")
    return {"scenario": name, "last": number, **tally, "exceptions": seen}


def is_sound():
    def make():
        return lambda: None

    code = next(thing for thing in make.__code__.co_consts if hasattr(thing, "co_code"))
    references = sys.getrefcount(code)
    for number in range(10):
        _testcapi.set_nomemory(number, number + 1)
        try:
            make()
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
    return sys.getrefcount(code) == references


def main():
    if sys.argv[1:] == ["--sound"]:
        print(is_sound())
        return
    name, *numbers = sys.argv[1:]
    first, stride, most = map(int, numbers + ["1", "1", "1000000"][len(numbers):])
    faulthandler.enable()
    warnings.simplefilter("ignore")
    import logging

    logging.disable()
    room = Room()
    try:
        print(json.dumps(sweep(room, name, first, stride, most)))
    finally:
        room.close()


if __name__ == "__main__":
    main()
