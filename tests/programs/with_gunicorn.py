# SPDX-License-Identifier: MulanPSL-2.0
"""gunicorn with workers of aiohttp and of uvicorn.

The workers take the loop of the policy, which gunicorn's configuration sets in
each of them: "def post_fork(server, worker): kloop.install()". uvicorn's worker
looks for uvloop first, so that a subclass says "asyncio".
"""

import asyncio
import contextlib
import os
import signal

import asgi
from world import PYTHON, listen, raised, until

POLICIES = {"asyncio": "", "kloop": "import kloop; kloop.install()",
            "uvloop": "import uvloop; uvloop.install()"}


def configure(world):
    """gunicorn.conf.py as a user writes it."""
    path = world.path("gunicorn.conf.py")
    path.write_text(
        "def post_fork(server, worker):\n"
        f"    {POLICIES[world.loop] or 'pass'}\n")
    return path


@contextlib.asynccontextmanager
async def serving(world, worker, application, *options, tls=False):
    if tls:
        options += ("--certfile", world.cert, "--keyfile", world.key)
    with listen() as listener:
        arguments = [PYTHON, "-m", "gunicorn", "--config", configure(world), "--bind",
                     f"fd://{listener.fileno()}", "--workers", "2", "--worker-class", worker,
                     "--worker-tmp-dir", "/dev/shm", "--graceful-timeout", "5", *options,
                     application]
        async with world.command(arguments, listener) as process:
            port = listener.getsockname()[1]
            listener.close()
            yield f"http{'s' if tls else ''}://localhost:{port}", process


async def workers_of(world, base, count, without=()):
    """The processes that answer, once there are so many besides these."""
    found = set()
    async with asyncio.timeout(150):
        while len(found) < count:
            async with asgi.client(world, base) as http:
                seen = await asyncio.gather(*(asgi.where(http) for _ in range(20)),
                                            return_exceptions=True)
            # While a worker goes, connections that it has taken may be cut.
            seen = [one for one in seen if not isinstance(one, Exception)]
            assert {loop for loop, _ in seen} <= {world.loop}, seen
            found |= {number for _, number in seen} - set(without)
    return found


async def exchange(world, worker, application, tls=False, changes=False):
    async with serving(world, worker, application, tls=tls) as (base, process):
        workers = await workers_of(world, base, 2)
        assert process.pid not in workers
        async with asgi.client(world, base) as http:
            found = await asgi.ask(http, world.loop)
        found["websockets"] = await asgi.talk(world, base)
        found["workers"] = len(workers)
        if not changes:
            return found
        # One that dies is replaced.
        dead = workers.pop()
        os.kill(dead, signal.SIGKILL)
        found["replaced"] = len(await workers_of(world, base, 2, {dead}))
        # All are, gracefully.
        former = await workers_of(world, base, 2, {dead})
        process.send_signal(signal.SIGHUP)
        found["reloaded"] = len(await workers_of(world, base, 2, former | {dead}))
    return found


async def case_uvicorn_worker(world):
    return await exchange(world, "gunicorn_workers.Worker", "app:app", changes=True)


async def case_uvicorn_worker_over_tls(world):
    return await exchange(world, "gunicorn_workers.Worker", "app:app", tls=True)


async def case_aiohttp_worker(world):
    async with serving(world, "aiohttp.GunicornWebWorker",
                       "gunicorn_workers:make_app") as (base, _):
        workers = await workers_of(world, base, 2)
        async with asgi.client(world, base) as http:
            texts = await asyncio.gather(*(http.get(f"/text/{number}") for number in range(100)))
            bodies = [bytes(number * 999) for number in range(30)]
            echoed = await asyncio.gather(*(http.post("/echo", content=body) for body in bodies))
            assert [one.content for one in echoed] == bodies
            late = asyncio.ensure_future(http.get("/slow"))
            await until(lambda: http._transport._pool.connections, "it is on its way")
    answer = await raised(late, asgi.httpx.TransportError, RuntimeError)
    return {"workers": len(workers), "texts": [one.status_code for one in texts].count(200),
            "late": bool(answer)}
