# SPDX-License-Identifier: MulanPSL-2.0
"""Loops that come and go: nothing of them stays. Loops in threads, and in other interpreters."""

import asyncio
import inspect
import json
import subprocess
import sys
import textwrap
import threading

import pytest

import kloop
from transport_tools import descriptors

SCRIPT = """
import asyncio, contextlib, gc, json, os, signal, sys, threading
import kloop

async def echo(reader, writer):
    writer.write(await reader.read(100))
    writer.close()
    await writer.wait_closed()

async def use(number):
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"%d" % number)
    assert await reader.read() == b"%d" % number
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    loop.call_later(1000, print)
    await asyncio.sleep(0.0001)
    got = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, got.set_result, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    await got
    assert await loop.getaddrinfo("localhost", 80)
    if number % 10 == 0:
        async with kloop.open(__file__, "rb") as file:
            assert await file.read(1)
        await loop.run_in_executor(None, int)
        await loop.shutdown_default_executor()
    if number % 100 == 0:
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0

def threads():
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{task}/comm") as file:
            names.append(file.read())
    # The kernel's own workers for files rest for some seconds before they go.
    return len([name for name in names if not name.startswith("iou-")])

def state():
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threads(),
            "kib": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
            "loops": sum(isinstance(o, kloop.Loop) for o in gc.get_objects())}

states = []
for number in range(LOOPS):
    loop = kloop.Loop()
    # One in five is left to the collector, unclosed.
    loop.run_until_complete(use(number))
    if number % 5:
        loop.close()
    else:
        loop.remove_signal_handler(signal.SIGUSR1)
    del loop
    if (number + 1) % (LOOPS // 5) == 0:
        states.append(state())
print(json.dumps(states))
"""


def test_a_thousand_loops(tmp_path):
    path = tmp_path / "loops.py"
    path.write_text(SCRIPT.replace("LOOPS", "1000"))
    result = subprocess.run([sys.executable, "-W", "ignore", str(path)], text=True, timeout=300,
                            capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    states = json.loads(result.stdout)
    for name in "descriptors", "threads", "loops":
        assert len({state[name] for state in states}) == 1, states
    assert states[-1]["loops"] == 0 and states[-1]["threads"] == 1
    # What a loop would leave, 1 KiB or more, would be there 600 times.
    assert states[-1]["kib"] - states[1]["kib"] < 600, states


async def exchange():
    """Through a server, with timers, names and a thread."""
    async def serve(reader, writer):
        writer.write(await reader.readexactly(1000))
        writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * 1000)
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.001)
    infos = await loop.getaddrinfo("localhost", 80)
    return len(data), len(infos) > 0, await loop.run_in_executor(None, abs, -1)


def test_loops_in_threads():
    """Several at a time, one after the other in each thread; what they open is closed."""
    results = []

    def work():
        for _ in range(5):
            results.append(kloop.run(exchange()))

    kloop.run(exchange())
    before = descriptors()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == [(1000, True, 1)] * 40
    assert descriptors() == before


def test_a_loop_that_moves():
    """Made in one thread, run in two others one after the other, closed in a fourth."""
    loop = kloop.Loop()
    results = []

    def use():
        results.append(loop.run_until_complete(exchange()))

    for call in use, use, loop.close:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(120)
    assert results == [(1000, True, 1)] * 2
    assert loop.is_closed()


# ---- other interpreters


INTERPRETERS = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

if sys.argv[1] == "after":
    import kloop
code = f"import sys; sys.path[:] = {sys.path!r}\\n" + BODY
for _ in range(3):
    interpreter = interpreters.create()
    failure = interpreters.run_string(interpreter, code)
    assert failure is None, failure
    interpreters.destroy(interpreter)
exec(code)
"""

BODY = """
try:
    import kloop
except ImportError as error:
    assert "interpreter" in str(error), error
    print("refused", flush=True)
else:
    import asyncio
{exchange}
    print(kloop.run(exchange()), flush=True)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_other_interpreters(when, tmp_path):
    """In them it works, or cannot be imported: from Python 3.12 on extensions have a say in it."""
    if sys.version_info[:2] == (3, 12):
        return  # CPython 3.12 itself crashes at its end, once another interpreter imported ssl
    source = inspect.getsource(exchange)
    if sys.version_info < (3, 12):  # there other interpreters may not have daemon threads
        source = source.replace("await loop.run_in_executor(None, abs, -1)", "1")
    body = BODY.format(exchange=textwrap.indent(source, "    "))
    path = tmp_path / "interpreters.py"
    path.write_text(f"BODY = {body!r}\n{INTERPRETERS}")
    result = subprocess.run([sys.executable, str(path), when], text=True, timeout=120,
                            capture_output=True, check=False)
    works = "(1000, True, 1)\n"
    there = works if sys.version_info < (3, 12) else "refused\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, there * 3 + works, "")
