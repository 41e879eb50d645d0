# SPDX-License-Identifier: MulanPSL-2.0
"""aiohttp, its server and its client, on the same loop."""

import asyncio
import contextlib
import io

import aiohttp
from aiohttp import web

from world import TIMEOUT, checksum, free_port, loop_kind, pattern, raised, until

BODY_MAX = 64 << 20
LIMIT = aiohttp.ClientTimeout(total=TIMEOUT)


async def get_text(request):
    return web.Response(text=f"{request.match_info['number']} on {loop_kind()}\n")


async def post_echo(request):
    return web.Response(body=await request.read())


async def post_count(request):
    """Takes a body as it comes."""
    parts = [part async for part in request.content.iter_any()]
    return web.json_response({"bytes": sum(map(len, parts)), "sum": checksum(*parts)})


async def get_stream(request):
    """A body of many parts, whose length nobody says before."""
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(int(request.match_info["count"])):
        await response.write(pattern(50000, number))
    await response.write_eof()
    return response


async def get_torn(request):
    """Promises more than it sends."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(bytes(1000))
    request.transport.abort()
    return response


async def get_slow(request):
    request.app["slow"].append(request)
    await request.app["go"].wait()
    return web.Response(text="late")


async def websocket(request):
    socket = web.WebSocketResponse(max_msg_size=BODY_MAX, autoping=True)
    await socket.prepare(request)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT and message.data.startswith("close "):
            await socket.close(code=int(message.data[6:]), message=b"as asked")
        elif message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def make_app(files=None):
    app = web.Application(client_max_size=BODY_MAX)
    app.router.add_get("/text/{number}", get_text)
    app.router.add_post("/echo", post_echo)
    app.router.add_post("/count", post_count)
    app.router.add_get("/stream/{count}", get_stream)
    app.router.add_get("/torn", get_torn)
    app.router.add_get("/slow", get_slow)
    app.router.add_get("/ws", websocket)
    if files is not None:
        app.router.add_static("/files", files)
    app["slow"] = []
    app["go"] = asyncio.Event()
    return app


@contextlib.asynccontextmanager
async def serving(app, tls=None, path=None):
    """Yields its address; the server is gone afterwards."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        if path is not None:
            await web.UnixSite(runner, path).start()
            yield "http://localhost"
        else:
            await web.TCPSite(runner, "127.0.0.1", free_port(), ssl_context=tls).start()
            yield f"http{'s' if tls else ''}://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def session(world, **options):
    connector = options.pop("connector", None)
    if connector is None:
        connector = aiohttp.TCPConnector(ssl=world.client_tls(), limit=options.pop("limit", 20))
    return aiohttp.ClientSession(connector=connector, timeout=LIMIT, **options)


async def fetch(client, url):
    async with client.get(url) as response:
        assert response.status == 200
        return await response.read()


async def exchange(world, tls):
    """Many small requests over connections that stay."""
    async with serving(make_app(), tls) as url, session(world) as client:
        async def get(number):
            text = await fetch(client, f"{url}/text/{number}")
            assert text == f"{number} on {loop_kind()}\n".encode()
            return len(text) - len(loop_kind())

        async def post(number):
            body = pattern(1 + number * 37, number)
            async with client.post(url + "/echo", data=body) as response:
                assert await response.read() == body
            return len(body)

        gets = await asyncio.gather(*map(get, range(600)))
        posts = await asyncio.gather(*map(post, range(200)))
        connections = sum(map(len, client.connector._conns.values()))
        assert 0 < connections <= 20
    return {"requests": len(gets) + len(posts), "bytes": sum(gets) + sum(posts)}


async def case_requests(world):
    return await exchange(world, None)


async def case_requests_over_tls(world):
    return await exchange(world, world.server_tls())


async def large(world, tls):
    async with serving(make_app(), tls) as url, session(world) as client:
        async def upload(number):
            async def parts():
                for part in range(40):
                    yield pattern(65536 + number, part)

            async with client.post(url + "/count", data=parts()) as response:
                return await response.json()

        async def echo(number):
            body = pattern(3 << 20, number)
            async with client.post(url + "/echo", data=io.BytesIO(body)) as response:
                return checksum(await response.read()) == checksum(body)

        async def download(count):
            parts = []
            async with client.get(f"{url}/stream/{count}") as response:
                async for part in response.content.iter_chunked(30000):
                    parts.append(part)
                    await asyncio.sleep(0)
            return checksum(*parts)

        return {"up": await asyncio.gather(*map(upload, range(4))),
                "echoed": sum(await asyncio.gather(*map(echo, range(4)))),
                "down": await asyncio.gather(*map(download, (1, 20, 100)))}


async def case_large_bodies(world):
    return await large(world, None)


async def case_large_bodies_over_tls(world):
    return await large(world, world.server_tls())


async def files(world, tls):
    """sendfile() where it can be."""
    folder = world.path("files")
    folder.mkdir()
    content = pattern(5_000_001)
    (folder / "data").write_bytes(content)
    (folder / "empty").write_bytes(b"")
    async with serving(make_app(folder), tls) as url, session(world) as client:
        whole = await asyncio.gather(*(fetch(client, url + "/files/data") for _ in range(6)))
        assert all(one == content for one in whole)
        assert await fetch(client, url + "/files/empty") == b""
        ranges = []
        for first, last in (0, 0), (100, 65635), (4_900_000, 5_000_000), (4_999_999, 9_000_000):
            async with client.get(url + "/files/data",
                                  headers={"Range": f"bytes={first}-{last}"}) as response:
                part = await response.read()
                assert response.status == 206
                assert part == content[first:last + 1]
                ranges.append(len(part))
        # Who goes away in the middle of a file does not disturb the others.
        for _ in range(5):
            async with client.get(url + "/files/data") as response:
                await response.content.readexactly(1000)
                response.close()
        assert await fetch(client, url + "/files/data") == content
    return {"files": len(whole) + 2, "bytes": sum(map(len, whole)), "ranges": ranges}


async def case_files(world):
    return await files(world, None)


async def case_files_over_tls(world):
    return await files(world, world.server_tls())


async def case_unix_socket(world):
    path = str(world.path("socket"))
    async with serving(make_app(), path=path) as url, \
            session(world, connector=aiohttp.UnixConnector(path)) as client:
        texts = await asyncio.gather(*(fetch(client, f"{url}/text/{number}")
                                       for number in range(200)))
        stream = await fetch(client, f"{url}/stream/50")
    return {"requests": len(texts), "stream": checksum(stream)}


async def websockets(world, tls):
    async with serving(make_app(), tls) as url, session(world) as client:
        async def talk(number):
            async with client.ws_connect(url + "/ws", max_msg_size=BODY_MAX) as socket:
                for count in range(50):
                    text = f"{number}-{count}"
                    await socket.send_str(text)
                    assert await socket.receive_str() == text
                for size in 0, 125, 126, 65535, 65536, 300_000:
                    body = pattern(size)
                    await socket.send_bytes(body)
                    assert await socket.receive_bytes() == body
                await socket.ping(b"are you there")
                await socket.send_str(f"close {4000 + number}")
                message = await socket.receive()
                assert message.type == aiohttp.WSMsgType.CLOSE
                assert message.extra == "as asked"
                return message.data

        codes = await asyncio.gather(*map(talk, range(10)))
        async with client.ws_connect(url + "/ws", max_msg_size=BODY_MAX) as socket:
            body = pattern(8 << 20)
            await socket.send_bytes(body)
            big = await socket.receive_bytes()
            assert await socket.close(code=4321)
            return {"codes": codes, "big": checksum(big), "closed": socket.close_code}


async def case_websockets(world):
    return await websockets(world, None)


async def case_websockets_over_tls(world):
    return await websockets(world, world.server_tls())


async def case_what_goes_wrong(world):
    """Timeouts, torn responses, refused connections, foreign certificates."""
    app = make_app()
    found = {}
    async with serving(app) as url, session(world) as client:
        short = aiohttp.ClientTimeout(total=0.1)
        found["timeouts"] = await asyncio.gather(*(
            raised(client.get(url + "/slow", timeout=short), asyncio.TimeoutError)
            for _ in range(10)))
        await until(lambda: all(request.transport is None for request in app["slow"]),
                    "the server notices who has gone")
        app["go"].set()
        found["torn"] = await asyncio.gather(*(
            raised(fetch(client, url + "/torn"), aiohttp.ClientPayloadError)
            for _ in range(10)))
        found["after"] = len(await asyncio.gather(*(
            fetch(client, url + "/text/1") for _ in range(50))))
    found["refused"] = await raised(get_once(world, url + "/text/1"),
                                    aiohttp.ClientConnectorError)
    async with serving(make_app(), world.server_tls()) as url:
        async with aiohttp.ClientSession(timeout=LIMIT) as stranger:
            found["certificate"] = await raised(stranger.get(url + "/text/1"),
                                                aiohttp.ClientConnectorCertificateError)
        found["plain"] = await raised(
            get_once(world, url.replace("https", "http") + "/text/1"),
            aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
        found["still"] = len(await get_once(world, url + "/text/1")) > 0
    return found


async def get_once(world, url):
    async with session(world) as client:
        return await fetch(client, url)


async def case_cancelled_requests(world):
    """Cancelled wherever they happen to be; the rest gets what it asked for."""
    async with serving(make_app()) as url, session(world, limit=10) as client:
        tasks = [asyncio.ensure_future(fetch(client, f"{url}/stream/{number % 7}"))
                 for number in range(200)]
        for number, task in enumerate(tasks):
            if number % 2:
                asyncio.get_running_loop().call_later(number / 2000, task.cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(one, Exception) for one in done), done
        kept = [checksum(one) for one in done[::2]]
        after = await asyncio.gather(*(fetch(client, url + "/text/1") for _ in range(50)))
    return {"kept": checksum(*kept), "after": len(after)}


async def case_graceful_end(world):
    """A request that is under way is answered though the server ends."""
    app = make_app()
    async with session(world) as client:
        async with serving(app) as url:
            await fetch(client, url + "/text/1")
            late = asyncio.ensure_future(fetch(client, url + "/slow"))
            await until(lambda: app["slow"], "the request arrives")
            asyncio.get_running_loop().call_later(0.05, app["go"].set)
            text = await late
        error = await raised(fetch(client, url + "/text/2"), aiohttp.ClientError)
    return {"late": text.decode(), "after": error}
