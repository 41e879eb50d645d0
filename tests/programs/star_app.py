# SPDX-License-Identifier: MulanPSL-2.0
"""The same with Starlette, which works with anyio."""

import asyncio
import os

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from app import app as bare
from world import checksum, pattern

done = []


async def star_json(request):
    body = await request.body()
    return JSONResponse({"sum": checksum(body), "query": dict(request.query_params)},
                        background=BackgroundTask(done.append, len(body)))


def star_thread(request):
    """Not a coroutine function: Starlette runs it in a thread, by anyio."""
    return PlainTextResponse(f"thread {request.path_params['number']}")


async def star_stream(request):
    async def parts():
        for number in range(20):
            yield pattern(30000, number)
            await asyncio.sleep(0)
    return StreamingResponse(parts())


async def star_file(request):
    return FileResponse(os.environ["PROGRAMS_FILE"])


async def star_done(request):
    return JSONResponse(sorted(done))


async def star_websocket(socket):
    await socket.accept()
    async for message in socket.iter_json():
        await socket.send_json({"got": message})


app = Starlette(routes=[
    Mount("/star", routes=[
        Route("/json", star_json, methods=["POST"]),
        Route("/thread/{number}", star_thread),
        Route("/stream", star_stream),
        Route("/file", star_file),
        Route("/done", star_done),
        WebSocketRoute("/ws", star_websocket),
    ]),
    Mount("/", app=bare),
])
