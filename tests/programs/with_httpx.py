# SPDX-License-Identifier: MulanPSL-2.0
"""httpx, which does its input and output by anyio, with HTTP/1.1, HTTP/2 and TLS.

Its peers are aiohttp's server on the same loop, and for HTTP/2 Hypercorn on asyncio's.
"""

import asyncio
import contextlib
import ssl

import anyio
import httpx
from aiohttp import web

import asgi
import with_aiohttp
import with_hypercorn
from world import TIMEOUT, checksum, pattern, raised, until


@contextlib.asynccontextmanager
async def serving(tls=None):
    app = with_aiohttp.make_app()

    async def get_cookies(request):
        response = web.json_response(dict(request.cookies))
        response.set_cookie("seen", "yes")
        return response

    async def get_moved(request):
        raise web.HTTPFound("/text/7")

    app.router.add_get("/cookies", get_cookies)
    app.router.add_get("/moved", get_moved)
    async with with_aiohttp.serving(app, tls) as url:
        yield url, app


async def exchange(world, tls):
    async with serving(tls) as (url, _), asgi.client(world, url) as http:
        texts = await asyncio.gather(*(http.get(f"/text/{number}") for number in range(150)))
        bodies = [pattern(number * 2000, number) for number in range(40)]
        echoed = await asyncio.gather(*(http.post("/echo", content=body) for body in bodies))
        assert [one.content for one in echoed] == bodies

        async def parts(count):
            for number in range(count):
                yield pattern(30000, number)

        counted = [(await http.post("/count", content=parts(count))).json() for count in (0, 1, 60)]
        taken = []
        async with http.stream("GET", "/stream/60") as response:
            async for part in response.aiter_bytes(10_000):
                taken.append(part)
        # Left in the middle: that connection is of no further use, others are.
        async with http.stream("GET", "/stream/100") as response:
            async for _ in response.aiter_raw():
                break
        cookies = [(await http.get("/cookies")).json() for _ in range(2)]
        moved = await http.get("/moved", follow_redirects=True)
    return {"requests": len(texts) + len(echoed), "counted": counted, "stream": checksum(*taken),
            "cookies": cookies, "moved": [moved.status_code, str(moved.url.path)],
            "sum": checksum(*(one.text.split()[0] for one in texts))}


async def case_http_1(world):
    return await exchange(world, None)


async def case_http_1_over_tls(world):
    return await exchange(world, world.server_tls())


async def case_http_2(world):
    """Many streams in one connection, under TLS with ALPN."""
    async with with_hypercorn.serving(world, tls=True, loop="asyncio") as (base, _):
        async with asgi.client(world, base, http2=True) as http:
            await http.get("/text/0")
            texts = await asyncio.gather(*(http.get(f"/text/{number}") for number in range(1, 100)))
            bodies = [pattern(number * 5000, number) for number in range(20)]
            echoed = await asgi.in_turns(http.post("/", content=body) for body in bodies)
            assert [one.content for one in echoed] == bodies
            streams = await asyncio.gather(*(http.get(f"/stream/{count}") for count in (1, 10, 40)))
            late = await raised(http.get("/slow/20", timeout=asgi.impatient), httpx.ReadTimeout)
            after = (await http.get("/text/1")).text
            connections = len(http._transport._pool.connections)
    return {"versions": sorted({one.http_version for one in texts}), "requests": len(texts),
            "streams": [checksum(one.content) for one in streams], "late": late, "after": after,
            "connections": connections}


async def case_timeouts(world):
    """Each of its four; what is given up is closed, and the pool goes on."""
    found = {}
    async with serving() as (url, app):
        async with asgi.client(world, url, limits=httpx.Limits(max_connections=5)) as http:
            found["read"] = [
                await raised(http.get("/slow", timeout=asgi.impatient), httpx.ReadTimeout)
                for _ in range(3)]
            await until(lambda: all(request.transport is None for request in app["slow"]),
                        "the server notices who has gone")
            before = len(app["slow"])  # not all that gave up came as far as that, on a busy machine
            busy = [asyncio.ensure_future(http.get("/slow")) for _ in range(5)]
            await until(lambda: len(app["slow"]) >= before + 5, "the pool is busy")
            found["pool"] = await raised(
                http.get("/text/1", timeout=httpx.Timeout(TIMEOUT, pool=0.1)), httpx.PoolTimeout)
            app["go"].set()
            found["busy"] = [(await one).text for one in busy]
            found["after"] = len(await asyncio.gather(*(http.get("/text/1") for _ in range(30))))
    # A listener whose queue is full does not answer.
    async with silent() as address:
        async with httpx.AsyncClient(timeout=httpx.Timeout(0.3), trust_env=False) as http:
            found["silent"] = await raised(http.get(f"https://127.0.0.1:{address[1]}/"),
                                           httpx.ConnectTimeout)
    return found


@contextlib.asynccontextmanager
async def silent():
    """Takes connections and reads nothing."""
    connections = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            connections.append(transport)

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()
        for transport in connections:
            transport.abort()


async def case_cancelled(world):
    """By anyio's scopes, wherever the request happens to be."""
    async with serving(world.server_tls()) as (url, _), asgi.client(world, url) as http:
        await http.get("/text/1")
        cancelled, kept = 0, []

        async def one(number):
            nonlocal cancelled
            with anyio.move_on_after(number / 500 if number % 2 else TIMEOUT) as scope:
                kept.append(checksum((await http.get(f"/stream/{number % 10}")).content))
            cancelled += scope.cancel_called

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)
        assert cancelled + len(kept) == 40 and len(kept) >= 20
        after = await asyncio.gather(*(http.get("/text/1") for _ in range(30)))
    return {"all": cancelled + len(kept), "after": len(after)}


# httpcore lets go of a connection whose handshake is cancelled, and does not close it.
case_cancelled.permits = "unclosed "


async def case_refused(world):
    found = {}
    async with serving(world.server_tls()) as (url, _):
        async with httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False) as http:
            found["stranger"] = await raised(http.get(url + "/text/1"), ssl.SSLError)
        async with asgi.client(world, url.replace("https", "http")) as http:
            found["plain"] = await raised(http.get("/text/1"), httpx.RemoteProtocolError,
                                          httpx.ReadError)
    async with serving() as (url, _), asgi.client(world, url) as http:
        found["torn"] = await raised(http.get("/torn"), httpx.RemoteProtocolError, httpx.ReadError)
        found["tls"] = await raised(http.get(url.replace("http", "https") + "/text/1"),
                                    ssl.SSLError)
    async with asgi.client(world, url) as http:
        found["nobody"] = await raised(http.get("/text/1"), httpx.ConnectError)
    return found
