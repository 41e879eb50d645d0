# SPDX-License-Identifier: MulanPSL-2.0
"""What every ASGI server is asked, by httpx and websockets on the loop of the case."""

import asyncio
import contextlib

import httpx
import websockets

from world import PYTHON, TIMEOUT, checksum, loop_kind, pattern

#: The command of a program that has no option for kLoop, by its function.
RUN_ON_KLOOP = [PYTHON, "-m", "kloop", "run"]


#: For what does not answer; a slow machine may take its time for all else.
impatient = httpx.Timeout(TIMEOUT, read=0.2)


def client(world, base, **options):
    options.setdefault("timeout", TIMEOUT)
    return httpx.AsyncClient(base_url=base, verify=world.client_tls(), trust_env=False, **options)


async def where(http):
    """The loop that serves, and its process."""
    loop, process = (await http.get("/where")).text.split()
    return loop, int(process)


async def together(awaitables):
    return await asyncio.gather(*awaitables)


async def in_turns(awaitables):
    """For uploads over HTTP/2: httpcore 0.16 can wait forever for what another stream has read."""
    return [await one for one in awaitables]


async def ask(http, loop, requests=100, parts=(0, 1, 20, 50), upload_all=together):
    """Requests of each kind; what came back."""
    assert (await where(http))[0] == loop == loop_kind()
    texts = await asyncio.gather(*(http.get(f"/text/{number}") for number in range(requests)))
    assert [one.text for one in texts] == [f"text {number}\n" for number in range(requests)]
    bodies = [pattern(1 + number * 999, number) for number in range(20)]
    echoed = await upload_all(http.post("/", content=body) for body in bodies)
    assert [one.content for one in echoed] == bodies

    async def upload(count):
        async def parts():
            for number in range(count):
                yield pattern(40000, number)
        return (await http.post("/sum", content=parts())).text

    sums = await upload_all(map(upload, parts))
    streams = await asyncio.gather(*(http.get(f"/stream/{count}") for count in (1, 10, 40)))
    return {"requests": requests + len(bodies), "bytes": sum(map(len, bodies)), "sums": sums,
            "streams": [checksum(one.content) for one in streams],
            "versions": sorted({one.http_version for one in texts})}


@contextlib.asynccontextmanager
async def talking(world, url, **options):
    if url.startswith("wss"):
        options["ssl"] = world.client_tls()
    async with websockets.connect(url, max_size=None, **options) as socket:
        yield socket


async def talk(world, base):
    """Websockets, several at once."""
    url = base.replace("http", "ws", 1)

    async def one(number):
        count = 0
        async with talking(world, url) as socket:
            for size in 0, 125, 126, 65536:
                await socket.send(pattern(size))
                assert await socket.recv() == pattern(size)
                await socket.send("text" * (size // 4))
                assert await socket.recv() == "text" * (size // 4)
                count += 2
            pong = await socket.ping()
            await pong
            await socket.send(f"close {4000 + number}")
            with contextlib.suppress(websockets.ConnectionClosed):
                await socket.recv()
            return count, socket.close_code

    return await asyncio.gather(*map(one, range(6)))
