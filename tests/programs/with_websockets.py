# SPDX-License-Identifier: MulanPSL-2.0
"""websockets, its server and its client."""

import asyncio
import contextlib

import websockets
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK

from world import checksum, free_port, pattern, raised, until


async def echo(socket):
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            await socket.close(int(message[6:]), "as asked")
        elif message == "abort":
            socket.transport.abort()
        elif message == "fail":
            raise RuntimeError("as asked")
        elif message == "many":
            async def parts():
                for number in range(50):
                    yield pattern(30000, number)
            await socket.send(parts())
        else:
            await socket.send(message)


@contextlib.asynccontextmanager
async def serving(handler, tls=None, **options):
    options.setdefault("max_size", None)
    port = free_port()
    async with websockets.serve(handler, "127.0.0.1", port, ssl=tls, **options):
        yield f"ws{'s' if tls else ''}://localhost:{port}/"


def connect(world, url, **options):
    options.setdefault("max_size", None)
    if url.startswith("wss"):
        options["ssl"] = world.client_tls()
    return websockets.connect(url, **options)


async def messages(world, url, big_bytes, **options):
    async def one(number):
        async with connect(world, url, **options) as socket:
            for count in range(40):
                text = f"{number}/{count}"
                await socket.send(text)
                assert await socket.recv() == text
            # Ahead of the answers.
            bodies = [pattern(size) for size in (0, 1, 125, 126, 127, 65535, 65536, 100_000)]
            for body in bodies:
                await socket.send(body)
            assert [await socket.recv() for _ in bodies] == bodies
            return 40 + len(bodies)

    counts = await asyncio.gather(*map(one, range(10)))
    async with connect(world, url, **options) as socket:
        big = pattern(big_bytes)
        await socket.send(big)
        assert await socket.recv() == big
        await socket.send(big[part:part + 100_001] for part in range(0, len(big), 100_001))
        assert await socket.recv() == big
        await socket.send("many")
        many = await socket.recv()
        waits = [await socket.ping() for _ in range(20)]
        await asyncio.gather(*waits)
    return {"messages": sum(counts), "many": checksum(many), "pings": len(waits),
            "code": socket.close_code}


async def case_compressed_messages(world):
    async with serving(echo) as url:
        return await messages(world, url, 1 << 20)


async def case_messages(world):
    async with serving(echo, compression=None) as url:
        return await messages(world, url, 6 << 20, compression=None)


async def case_messages_over_tls(world):
    async with serving(echo, world.server_tls(), compression=None) as url:
        return await messages(world, url, 6 << 20, compression=None)


async def case_unix_socket(world):
    path = str(world.path("socket"))
    async with websockets.unix_serve(echo, path, max_size=None, compression=None):
        async with websockets.unix_connect(path, max_size=None, compression=None) as socket:
            body = pattern(5 << 20)
            for _ in range(3):
                await socket.send(body)
            sums = [checksum(await socket.recv()) for _ in range(3)]
    return {"sums": sums}


async def case_close_codes(world):
    """Who closes, how, and what both sides learn of it."""
    seen, notes = [], []

    async def note(socket):
        await socket.wait_closed()
        seen.append(socket.close_code)

    async def watch(socket):
        notes.append(asyncio.ensure_future(note(socket)))
        await echo(socket)

    async def end(url, how):
        async with connect(world, url) as socket:
            with contextlib.suppress(ConnectionClosed):
                await how(socket)
                await socket.recv()
            await socket.wait_closed()
            return socket.close_code

    found = {}
    async with serving(watch, max_size=100_000, logger=quiet()) as url:
        for name, how in {
            "normal": lambda socket: socket.close(),
            "4321": lambda socket: socket.close(4321, "mine"),
            "asked": lambda socket: socket.send("close 1001"),
            "too big": lambda socket: socket.send(bytes(200_000)),
            "not utf-8": lambda socket: socket.write_frame(True, 1, b"\xff\xfe"),
            "fails": lambda socket: socket.send("fail"),
            "aborts": lambda socket: socket.send("abort"),
        }.items():
            found[name] = await end(url, how)
            await until(lambda: len(seen) == len(found), "the server's handler ends")
        async with connect(world, url) as socket:
            socket.transport.abort()
            found["client aborts"] = await raised(socket.recv(), ConnectionClosedError)
        await until(lambda: len(seen) == len(found), "the server's handler ends")
        async with connect(world, url) as socket:
            await socket.close()
            found["after"] = await raised(socket.send("more"), ConnectionClosedOK)
        await until(lambda: len(seen) == len(found), "the server's handler ends")
    await asyncio.gather(*notes)
    return {"client": found, "server": seen}


def quiet():
    import logging
    logger = logging.getLogger("quiet")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


async def case_broadcast(world):
    """One that tells many; the slow ones are not waited for."""
    members = set()

    async def join(socket):
        members.add(socket)
        try:
            await socket.wait_closed()
        finally:
            members.discard(socket)

    async def listen(url):
        async with connect(world, url) as socket:
            return [await socket.recv() async for _ in numbers(30)]

    async with serving(join) as url:
        listeners = [asyncio.ensure_future(listen(url)) for _ in range(40)]
        await until(lambda: len(members) == 40, "all are there")
        for number in range(30):
            websockets.broadcast(members, f"news {number}")
            await asyncio.sleep(0)
        heard = await asyncio.gather(*listeners)
        await until(lambda: not members, "all are gone")
    return {"heard": sum(map(len, heard)), "sum": checksum(*heard[0])}


async def numbers(count):
    for number in range(count):
        yield number


async def case_keepalive_and_timeouts(world):
    """A peer that says nothing is given up; one that answers pings is not."""
    async def silent(socket):
        socket.transport.pause_reading()
        await socket.wait_closed()

    found = {}
    async with serving(silent, ping_interval=None, close_timeout=0.1) as url:
        async with connect(world, url, ping_interval=0.2, ping_timeout=0.2,
                           close_timeout=0.1) as socket:
            found["silent"] = await raised(socket.recv(), ConnectionClosedError)
            found["code"] = socket.close_code
    async with serving(echo, ping_interval=0.1) as url:
        async with connect(world, url, ping_interval=0.1) as socket:
            found["waits"] = await raised(asyncio.wait_for(socket.recv(), 1), asyncio.TimeoutError)
            await socket.send("still there")
            found["then"] = await socket.recv()
    return found


async def case_server_ends(world):
    """The server's close() ends what is open with 1001."""
    async with serving(echo) as url:
        sockets = await asyncio.gather(*(connect(world, url) for _ in range(20)))
        for socket in sockets:
            await socket.send("hello")
            await socket.recv()
    codes = []
    for socket in sockets:
        await socket.wait_closed()
        codes.append(socket.close_code)
    return {"codes": codes}
