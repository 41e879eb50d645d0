#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""System calls of a loaded loop, counted from outside by strace(1).

At most 1.2 a turn, and next to none with SQPOLL; and what strace counts is what
the loop's own counter says. Set-up and end are subtracted by running the same
program with hardly any turns. Prints TAP.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tap import Tap

BUILD = Path(os.environ.get("top_builddir", Path(__file__).resolve().parent.parent))
PROGRAM = BUILD / "tests/enters"
FEW = 10
# On a busy machine the thread of SQPOLL is not always there in time: the loop spins for a
# second before it has to sleep, and what it sees of that thread is over when liburing looks.
TRIES = 5

# Mode, turns, the most system calls a turn.
CASES = (("echo", 2000, 1.2), ("timers", 2000, 1.2), ("sqpoll", 600, 0.1))


def run(mode, turns):
    """(turns, enters by the loop's counter, enters by strace, all system calls)."""
    # LeakSanitizer cannot work in a traced process.
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as summary:
        result = subprocess.run(
            ["strace", "-f", "-c", "-U", "calls,name", "-o", summary.name,
             str(PROGRAM), mode, str(turns)],
            capture_output=True, text=True, check=False, env=environment, timeout=600)
        if result.returncode != 0:
            raise RuntimeError((result.stderr.strip().splitlines() or ["?"])[-1])
        calls = {name: int(number) for number, name in
                 re.findall(r"^\s*(\d+) (\w+)$", summary.read(), flags=re.M)}
    total = calls.pop("total")
    counted = [int(word) for word in result.stdout.split()]
    return (*counted, calls.get("io_uring_enter", 0), total)


def measure(mode, most_turns):
    """The same of so many turns alone, without set-up and end."""
    return tuple(b - a for a, b in zip(run(mode, FEW), run(mode, most_turns)))


def main():
    if shutil.which("strace") is None:
        print("1..0 # SKIP there is no strace to count system calls with")
        return 77
    # Some containers forbid ptrace(2) altogether.
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True,
                           check=False)
    if probe.returncode != 0:
        print(f"1..0 # SKIP strace cannot trace here: {probe.stderr.strip().splitlines()[-1:]}")
        return 77
    tap = Tap()
    for mode, most_turns, most in CASES:
        for _ in range(TRIES):
            turns, counted, enters, calls = measure(mode, most_turns)
            # The end of the loop enters a few times more, in either run.
            agree = abs(counted - enters) <= 5 + turns // 100
            if calls <= most * turns and agree:
                break
        tap.result(f"{mode}: {calls} system calls in {turns} turns, {calls / turns:.3f} each, "
                   f"at most {most}", calls > most * turns and "too many")
        tap.result(f"{mode}: the loop counts {counted} enters and strace {enters}",
                   not agree and "too different")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
