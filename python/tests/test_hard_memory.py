# SPDX-License-Identifier: MulanPSL-2.0
"""No memory: the n-th allocation of Python fails, in a scenario of each kind; see nomemory.py.

Each case takes some of the numbers, each in a process of its own;
KLOOP_NOMEMORY=full takes all, which is some minutes for each. Executors are
left out: a thread that cannot start hangs CPython itself.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = os.environ.get("KLOOP_NOMEMORY") == "full"
ROUNDS = 12  # of the short form
PROGRAM = Path(__file__).with_name("nomemory.py")
# What each scenario allocates at least, so that the short form reaches all of it.
ALLOCATIONS = {
    "tcp": 400, "buffered": 340, "tls": 460, "start_tls": 560, "unix": 340, "streams": 500,
    "pipes": 300, "datagrams": 420, "subprocesses": 500, "files": 400, "text_files": 400,
    "sendfile": 300, "resolver": 500, "sockets": 300, "datagram_calls": 240, "readers": 250,
    "signals": 230, "timers": 200, "callbacks": 240,
}
# CPython's subprocess and socket modules lose descriptors where memory ends between two lines.
LOSES_DESCRIPTORS = {"subprocesses", "sendfile", "sockets", "readers", "datagram_calls"}


@pytest.fixture(scope="module")
def sound():
    pytest.importorskip("_testcapi", reason="this Python cannot fail allocations: it has no "
                        "_testcapi (on Debian: libpython3-testsuite)")
    result = subprocess.run([sys.executable, str(PROGRAM), "--sound"], capture_output=True,
                            text=True, check=True)
    if result.stdout != "True\n":
        pytest.skip("without memory this CPython itself loses references (3.12 and 3.13 do)")


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("scenario", sorted(ALLOCATIONS))
def test_no_memory(scenario):
    numbers = [] if FULL else ["3", str(ALLOCATIONS[scenario] // ROUNDS), str(
        ALLOCATIONS[scenario])]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if scenario in LOSES_DESCRIPTORS:
        environment["KLOOP_NOMEMORY_DESCRIPTORS"] = "any"
    result = subprocess.run([sys.executable, str(PROGRAM), scenario, *numbers],
                            env=environment, capture_output=True, text=True,
                            timeout=7200 if FULL else 300, stdin=subprocess.DEVNULL)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, f"{lines[-1:]}\n{result.stderr}"
    tally = json.loads(lines[-1])
    print(tally)
    assert tally["failed"] > 0 and tally["exceptions"]["MemoryError"] > 0
