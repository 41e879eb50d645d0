# SPDX-License-Identifier: MulanPSL-2.0
"""uvicorn, by its command line and inside a program; httpx and websockets are its clients.

On kLoop the command is "python -m kloop run uvicorn:main --loop asyncio": before
0.36 that option knows names only, and "asyncio" takes the loop of the policy.
"""

import asyncio
import contextlib
import os

import uvicorn

import asgi
from app import app
from world import PYTHON, checksum, listen, pattern, raised, until


def command(loop, *options):
    if loop == "kloop":
        start = [*asgi.RUN_ON_KLOOP, "uvicorn:main", "--loop", "asyncio"]
    else:
        start = [PYTHON, "-m", "uvicorn", "--loop", loop]
    return [*start, "--no-access-log", *options]


@contextlib.asynccontextmanager
async def serving(world, *options, tls=False, app="app:app"):
    """The server with a socket of ours; yields its address and process."""
    if tls:
        options += ("--ssl-certfile", world.cert, "--ssl-keyfile", world.key)
    with listen() as listener:
        arguments = command(world.loop, "--fd", listener.fileno(), *options, app)
        async with world.command(arguments, listener) as process:
            port = listener.getsockname()[1]
            listener.close()
            yield f"http{'s' if tls else ''}://localhost:{port}", process


async def exchange(world, *options, **more):
    async with serving(world, *options, **more) as (base, process):
        async with asgi.client(world, base) as http:
            found = await asgi.ask(http, world.loop)
            assert (await asgi.where(http))[1] == process.pid
        found["websockets"] = await asgi.talk(world, base)
    assert "the application ends" in process.log.read_text()
    return found


async def case_httptools(world):
    return await exchange(world, "--http", "httptools", "--ws", "websockets")


async def case_h11(world):
    return await exchange(world, "--http", "h11", "--ws", "wsproto")


async def case_tls(world):
    return await exchange(world, tls=True)


async def case_starlette(world):
    path = world.path()
    path.write_bytes(pattern(3_000_000))
    os.environ["PROGRAMS_FILE"] = str(path)
    async with serving(world, app="star_app:app") as (base, _):
        async with asgi.client(world, base) as http:
            bodies = [pattern(number * 100) for number in range(50)]
            answers = await asyncio.gather(*(
                http.post(f"/star/json?number={number}", content=body)
                for number, body in enumerate(bodies)))
            assert [one.json() for one in answers] == [
                {"sum": checksum(body), "query": {"number": str(number)}}
                for number, body in enumerate(bodies)]
            threads = await asyncio.gather(*(http.get(f"/star/thread/{number}")
                                             for number in range(60)))
            assert [one.text for one in threads] == [f"thread {number}" for number in range(60)]
            files = await asyncio.gather(*(http.get("/star/file") for _ in range(5)))
            stream = await http.get("/star/stream")
            background = (await http.get("/star/done")).json()
            inner = await asgi.ask(http, world.loop, requests=20)
        async with asgi.talking(world, base.replace("http", "ws") + "/star/ws") as socket:
            await socket.send('{"a": 1}')
            answer = await socket.recv()
    return {"answers": len(answers), "threads": len(threads), "background": background,
            "files": [checksum(one.content) for one in files],
            "stream": checksum(stream.content), "inner": inner, "websocket": answer}


async def case_unix_socket(world):
    path = world.path("socket")
    async with world.command(command(world.loop, "--uds", path, "app:app")):
        await until(path.exists, "the server is there")
        transport = asgi.httpx.AsyncHTTPTransport(uds=str(path))
        async with asgi.httpx.AsyncClient(transport=transport, base_url="http://localhost",
                                          timeout=30) as http:
            # anyio 3.6 repeats itself where a Unix socket takes a part only.
            return await asgi.ask(http, world.loop, requests=50, parts=(0, 1, 2))


async def case_end_with_requests_under_way(world):
    """SIGTERM: requests under way are answered, connections that idle are closed."""
    async with serving(world) as (base, process):
        async with asgi.client(world, base) as http:
            await asgi.where(http)
            late = [asyncio.ensure_future(http.get("/slow/1")) for _ in range(5)]
            while (await http.get("/begun")).text != "5":
                await asyncio.sleep(0.01)
            process.terminate()
            texts = [one.text for one in await asyncio.gather(*late)]
            await until(lambda: process.poll() is not None, "the server ends")
            after = await raised(http.get("/text/1"), asgi.httpx.ConnectError)
    return {"late": texts, "after": after}


async def case_in_a_program(world):
    """uvicorn.Server on the loop of the case, with what is wrong in the application."""
    config = uvicorn.Config(app, loop="none", lifespan="off", log_level="critical", log_config=None)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    with listen() as listener:
        base = f"http://localhost:{listener.getsockname()[1]}"
        serving = asyncio.ensure_future(server.serve([listener]))
        async with asgi.client(world, base) as http:
            found = await asgi.ask(http, world.loop)
            wrong = await asyncio.gather(*(http.get("/wrong") for _ in range(10)))
            found["wrong"] = [one.status_code for one in wrong]
            short = [raised(http.get("/slow/20", timeout=asgi.impatient), asgi.httpx.ReadTimeout)
                     for _ in range(10)]
            found["timeouts"] = await asyncio.gather(*short)
            await until(lambda: len(server.server_state.connections) <= len(
                http._transport._pool.connections), "the server notices who has gone")
        for task in list(server.server_state.tasks):
            task.cancel()
        server.should_exit = True
        await serving
    return found
