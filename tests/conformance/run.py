#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""CPython's own tests of asyncio, on kLoop. Prints TAP.

    run.py [--loop kloop|asyncio|uvloop] [--uses-loop] [MODULE[:CLASS[.test]]...]

They are those that the distribution installs (Debian: libpython3.11-testsuite)
and stay as they are: wherever they ask for a new event loop they get kLoop's.
Each module runs in a process of its own, bounded in time; what it leaves
running ends with it. A test that ends the process, or never ends, is a failure,
and another process goes on with the next.

exclusions.txt beside this file lists, with the reason, what is not expected to
pass; one of those that passes all the same is a failure, so that the list stays
true, but for those whose reason begins with "at times: ", or with "never ends: ",
which are not run. A test that CPython
skips by itself is counted as a comment only: it says nothing about the loop.

--loop asyncio and --loop uvloop run the same on those, to compare. --uses-loop
leaves out of the counts what made no loop: tests of locks with mocks, and such.
"""
import argparse
import asyncio
import faulthandler
import fnmatch
import importlib
import importlib.util
import json
import signal
import subprocess
import sys
import unittest
from pathlib import Path

# What runs on an event loop. The others of test_asyncio test asyncio's own parts.
MODULES = (
    "test_base_events", "test_buffered_proto", "test_context", "test_eager_task_factory",
    "test_events", "test_free_threading", "test_futures", "test_futures2", "test_graph", "test_locks",
    "test_pep492", "test_protocols", "test_queues", "test_runners", "test_sendfile", "test_server",
    "test_sock_lowlevel", "test_ssl", "test_sslproto", "test_staggered", "test_streams",
    "test_subprocess", "test_taskgroups", "test_tasks", "test_threads", "test_timeouts",
    "test_unix_events", "test_waitfor",
)
SECONDS = 120  # for a test


def read_exclusions():
    """[(pattern, reason)] for this Python."""
    version = "{}.{}".format(*sys.version_info)
    found = []
    for line in (Path(__file__).parent / "exclusions.txt").read_text().splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pattern, versions, reason = (part.strip() for part in line.split("|", 2))
        if versions == "*" or version in versions.split():
            found.append((pattern, reason))
    return found


class Used:
    """Was a loop made since the test began?"""

    yes = False


def install(kind):
    """Whoever asks asyncio for a new loop gets one of this kind, however it asks."""
    if kind == "asyncio":
        made = asyncio.selector_events.BaseSelectorEventLoop.__init__

        def init(*args):
            Used.yes = True
            made(*args)

        asyncio.selector_events.BaseSelectorEventLoop.__init__ = init
        return
    loop_class = importlib.import_module(kind).Loop

    class IsLoop(type):
        def __instancecheck__(cls, instance):
            return isinstance(instance, loop_class)

    class new_loop(metaclass=IsLoop):
        def __new__(cls, *ignored):
            Used.yes = True
            return loop_class()

    asyncio.SelectorEventLoop = asyncio.unix_events.SelectorEventLoop = new_loop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = asyncio.unix_events.EventLoop = new_loop
    policy = getattr(asyncio.unix_events, "_UnixDefaultEventLoopPolicy", None)
    if policy is None:
        policy = asyncio.unix_events._DefaultEventLoopPolicy
    policy._loop_factory = staticmethod(new_loop)


def short(test_id):
    return test_id.replace("test.test_asyncio.", "", 1)


class Result(unittest.TextTestResult):
    """Writes one line of JSON for each test."""

    def note(self, test, outcome, text=""):
        print("\nRESULT " + json.dumps([short(test.id()), outcome, text, Used.yes]), flush=True)

    def startTest(self, test):
        super().startTest(test)
        self.parts = []
        Used.yes = False
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        print("\nSTART " + test.id(), flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        if not self.parts:
            self.note(test, "ok")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "failed", self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "failed", self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.parts.append(subtest)
            self.note(test, "failed", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note(test, "skipped", "an expected failure")


def flatten(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def run_here(loop, name, after):
    """The child: run one module or part of it, all or what comes after a test."""
    install(loop)
    from test import support
    from test.support import socket_helper

    support.use_resources = ["network", "cpu", "subprocess"]
    # Its own gives one that was free a moment ago, and may be another's the next.
    sys.path.append(str(Path(__file__).resolve().parents[2] / "python" / "tests"))
    socket_helper.find_unused_port = lambda *ignored: importlib.import_module(
        "port_tools").free_port()
    module, _, part = name.partition(":")
    module = importlib.import_module("test.test_asyncio." + module)
    loader = unittest.defaultTestLoader
    suite = loader.loadTestsFromName(part, module) if part else loader.loadTestsFromModule(module)
    tests = list(flatten(suite))
    if after:
        tests = tests[[test.id() for test in tests].index(after) + 1:]
    if loop == "kloop":
        endless = [pattern for pattern, reason in read_exclusions()
                   if reason.startswith("never ends: ")]
        tests = [test for test in tests
                 if not any(fnmatch.fnmatchcase(short(test.id()), pattern) for pattern in endless)]
    suite = unittest.TestSuite(tests)
    unittest.TextTestRunner(stream=sys.stderr, resultclass=Result, verbosity=0).run(suite)


def run_module(loop, name):
    """[(test, outcome, text, used a loop)]"""
    results, after = run_child(loop, name, "")
    while after:
        more, after = run_child(loop, name, after)
        results += more
    return results


def run_child(loop, name, after):
    """The same, and the test that ended the process, if one did."""
    command = [sys.executable, __file__, "--child", "--loop", loop, "--after", after, name]
    # The module's own children, too, are gone afterwards.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               errors="backslashreplace", start_new_session=True)
    try:
        output, errors = process.communicate(timeout=15 * SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        errors += f"\nnot done after {15 * SECONDS} s"
    results, running = [], ""
    for line in output.splitlines():
        if line.startswith("RESULT "):
            results.append(tuple(json.loads(line[7:])))
            running = ""
        elif line.startswith("START "):
            running = line[6:]
    if process.returncode != 0 or not (results or after):
        results.append((short(running) or name, "failed",
                        errors[-3000:] or "it ended early", True))
        return results, running
    return results, ""


def report(results, exclusions):
    """Print TAP. Returns the number of failures."""
    count = failures = skipped = 0
    for test, outcome, text, _used in results:
        if outcome == "skipped":
            skipped += 1
            continue
        count += 1
        reason = next((why for pattern, why in exclusions if fnmatch.fnmatchcase(test, pattern)), None)
        at_times = reason is not None and reason.startswith("at times: ")
        if outcome == "ok" and (reason is None or at_times):
            print(f"ok {count} - {test}")
        elif outcome == "failed" and reason is not None:
            print(f"ok {count} - {test}: differs, as exclusions.txt says")
        else:
            failures += 1
            print(f"not ok {count} - {test}")
            if outcome == "ok":
                text = "it passes: take it out of exclusions.txt"
            for line in text.splitlines()[-25:]:
                print(f"#   {line}")
    print(f"# {skipped} skipped by CPython itself")
    print(f"1..{count}")
    return failures


def main():
    # Who runs this in the background of a script has it ignored, here and in every child.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=("kloop", "asyncio", "uvloop"), default="kloop")
    parser.add_argument("--uses-loop", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--after", default="", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    if options.child:
        run_here(options.loop, options.names[0], options.after)
        return 0
    if importlib.util.find_spec("test.test_asyncio") is None:
        print("1..1\nnot ok 1 - CPython's tests are installed"
              f"\n#   Debian: libpython{sys.version_info[0]}.{sys.version_info[1]}-testsuite")
        return 1
    names = options.names or [name for name in MODULES
                              if importlib.util.find_spec("test.test_asyncio." + name)]
    results = []
    for name in names:
        found = [result for result in run_module(options.loop, name)
                 if result[3] or not options.uses_loop]
        print(f"# {name}: {sum(1 for r in found if r[1] == 'ok')} passed, "
              f"{sum(1 for r in found if r[1] == 'failed')} failed, "
              f"{sum(1 for r in found if r[1] == 'skipped')} skipped", flush=True)
        results += found
    return 1 if report(results, read_exclusions() if options.loop == "kloop" else []) else 0


if __name__ == "__main__":
    sys.exit(main())
