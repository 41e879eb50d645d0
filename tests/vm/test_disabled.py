# SPDX-License-Identifier: MulanPSL-2.0
"""kernel.io_uring_disabled, in the virtual machine alone: it is the whole kernel's."""

import asyncio
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import kloop

SYSCTL = Path("/proc/sys/kernel/io_uring_disabled")
TRY = """
import asyncio, os, sys, kloop
os.setuid(int(sys.argv[1]))  # what is to be imported may be root's alone
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
    print(type(asyncio.get_running_loop()).__name__)
try:
    kloop.run(main())
except kloop.IoUringUnavailable as error:
    sys.exit(f"unavailable: {error}")
"""


def attempt(user, **environment):
    """Run a loop as the user of this number: (its class or "", what it said)."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRY, str(user)], capture_output=True, text=True,
        timeout=240, check=False, env={**os.environ, **environment})
    assert result.returncode in (0, 1), result.stderr
    assert (result.returncode == 0) == bool(result.stdout), result.stderr
    return result.stdout.strip(), result.stderr


@pytest.fixture
def set_sysctl():
    """Sets it, and sets it back. There is none before Linux 6.6."""
    assert os.environ.get("KLOOP_TEST_VM") == "1", "this would change the machine"
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    assert SYSCTL.exists() == (release >= (6, 6))
    if not SYSCTL.exists():
        yield None
        return
    before = SYSCTL.read_text()
    yield lambda value: SYSCTL.write_text(str(value))
    SYSCTL.write_text(before)


@pytest.mark.parametrize(("value", "root", "nobody"), [
    (0, True, True), (1, True, False), (2, False, False)])
def test_who_gets_a_loop(set_sysctl, value, root, nobody):
    """0: everybody; 1: who has CAP_SYS_ADMIN; 2: nobody."""
    if set_sysctl:
        set_sysctl(value)
    else:
        root = nobody = True
    for user, works in (0, root), (65534, nobody):
        loop, said = attempt(user)
        if works:
            assert (loop, said) == ("Loop", "")
        else:
            assert loop == "" and said.startswith("unavailable: ") and "io_uring_disabled" in said
            # Without io_uring there is asyncio's, for whoever says so.
            loop, said = attempt(user, KLOOP_FALLBACK="1")
            assert loop not in ("", "Loop")


def test_a_loop_that_is_there_goes_on(set_sysctl):
    async def main():
        if set_sysctl:
            set_sysctl(2)
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        server.close()

    kloop.run(main())
