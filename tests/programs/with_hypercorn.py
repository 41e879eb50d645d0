# SPDX-License-Identifier: MulanPSL-2.0
"""Hypercorn, whose connections are asyncio's streams: HTTP/1.1, HTTP/2, websockets.

It has no option for other loops: "python -m kloop run hypercorn.__main__:main", with
the workers it may fork.
"""

import asyncio
import contextlib

import asgi
from world import PYTHON, listen


def command(loop, *options):
    if loop == "kloop":
        return [*asgi.RUN_ON_KLOOP, "hypercorn.__main__:main", "--worker-class", "asyncio",
                *options]
    return [PYTHON, "-m", "hypercorn", "--worker-class", loop, *options]


@contextlib.asynccontextmanager
async def serving(world, *options, tls=False, loop=None):
    """Yields its address and process."""
    if tls:
        options += ("--certfile", world.cert, "--keyfile", world.key)
    with listen() as listener:
        arguments = command(loop or world.loop, "--bind", f"fd://{listener.fileno()}", *options,
                            "app:app")
        # It ends without waiting for tasks of its own, which complain at times.
        async with world.command(arguments, listener, quiet=False) as process:
            port = listener.getsockname()[1]
            listener.close()
            yield f"http{'s' if tls else ''}://localhost:{port}", process


async def exchange(world, *options, tls=False, **more):
    async with serving(world, *options, tls=tls) as (base, process):
        async with asgi.client(world, base, **more) as http:
            found = await asgi.ask(http, world.loop, requests=40, parts=(0, 1, 20), upload_all=(
                asgi.in_turns if more.get("http2") else asgi.together))
        if not more:
            found["websockets"] = await asgi.talk(world, base)
    assert "the application ends" in process.log.read_text()
    return found


async def case_http_1(world):
    return await exchange(world)


async def case_http_1_over_tls(world):
    return await exchange(world, tls=True)


async def case_http_2(world):
    return await exchange(world, tls=True, http2=True)


async def case_workers(world):
    """Two of them, forked, with one listener."""
    async with serving(world, "--workers", "2") as (base, process):
        workers = set()
        async with asyncio.timeout(150):
            while len(workers) < 2:
                async with asgi.client(world, base) as http:
                    seen = await asyncio.gather(*(asgi.where(http) for _ in range(30)))
                assert {loop for loop, _ in seen} == {world.loop}
                workers |= {number for _, number in seen}
        assert process.pid not in workers
    return {"workers": len(workers)}
