# SPDX-License-Identifier: MulanPSL-2.0
"""Processes that may have little: locked memory, memory at all, no io_uring on pain of death."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kloop
from test_hard_life import echo_once, in_child

SECCOMP = Path(__file__).with_name("seccomp_deny.py")
HELLO = """
import asyncio, kloop
async def main():
    reader, writer = await asyncio.open_connection(*(await asyncio.start_server(
        lambda reader, writer: (writer.write(b"hello"), writer.close()),
        "127.0.0.1", 0)).sockets[0].getsockname())
    assert await reader.read() == b"hello"
    return type(asyncio.get_running_loop()).__module__
"""
UNAVAILABLE = """
try:
    kloop.run(main())
except kloop.IoUringUnavailable as error:
    print(error.reason)
"""
FALLBACK = "print(kloop.run(main(), fallback=True))"


def outcome(code, *wrapper, **environment):
    environment = {**os.environ, **environment}
    result = subprocess.run([*wrapper, sys.executable, "-W", "ignore", "-c", HELLO + code],
                            env=environment, capture_output=True, text=True, timeout=300,
                            stdin=subprocess.DEVNULL)
    return result.returncode, result.stdout.strip()


def deny(error):
    return sys.executable, str(SECCOMP), error


@pytest.mark.parametrize("error", ["1", "38", "kill"])
def test_seccomp_and_the_off_switch(error):
    """Where io_uring is forbidden, whatever the way, KLOOP_IO_URING=0 keeps a process alive."""
    status, text = outcome(UNAVAILABLE, *deny(error))
    if error == "kill":
        assert status == -signal.SIGSYS
    else:
        assert (status, text) == (0, {"1": "denied", "38": "missing"}.get(error, text))
    assert outcome(FALLBACK, *deny(error), KLOOP_IO_URING="0") == (0, "asyncio.unix_events")
    status, text = outcome(UNAVAILABLE, *deny(error), KLOOP_IO_URING="0")
    assert status == 0 and text


def without_privileges(kib):
    """As nobody, who may lock little: some kernels count rings, and some do not."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (kib * 1024, kib * 1024))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    loops = []
    try:
        for _ in range(50):
            loops.append(kloop.Loop())
    except MemoryError as error:
        assert f"may lock {kib} KiB" in str(error)  # who reads it knows what to do
        assert kib < 1000 or loops
    for loop in loops:
        loop.run_until_complete(asyncio.wait_for(echo_once(), 60))
        loop.close()


@pytest.mark.parametrize("kib", [4, 8192])
def test_locked_memory(kib):
    in_child(without_privileges, kib)


def with_little_memory():
    """Loops until there is no memory, three times; what there is goes on."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    limit = size + (48 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts = []
    for _ in range(3):
        loops, failure = [], None
        while failure is None and len(loops) < 5000:
            try:
                loops.append(kloop.Loop())
            except (OSError, MemoryError) as error:
                failure = error
        assert isinstance(failure, MemoryError) or failure.errno in (12, 24), failure
        counts.append(len(loops))
        for loop in loops[1:]:
            loop.close()
        loops[0].run_until_complete(asyncio.wait_for(well(), 60))
        loops[0].close()
    assert counts[0] > 0 and min(counts) > counts[0] // 2, counts


async def well():
    """A turn with what little memory there is: no thread, which takes eight megabytes."""
    one, two = os.pipe()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(one, "rb", 0))
    os.write(two, b"well")
    os.close(two)
    assert await reader.read() == b"well"
    transport.close()


def test_address_space():
    in_child(with_little_memory)


def large_reads():
    """A peer's bytes are more than there is memory for: an error, and the loop goes on."""
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20),) * 2)
    loop = kloop.Loop()

    async def read(path):
        async with kloop.open(path, "rb") as file:
            return await file.read(1 << 30)

    with pytest.raises(MemoryError):
        loop.run_until_complete(read("/dev/zero"))
    loop.run_until_complete(asyncio.wait_for(well(), 60))
    loop.close()


def test_reads_that_are_too_large():
    in_child(large_reads)
