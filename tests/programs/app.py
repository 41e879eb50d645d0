# SPDX-License-Identifier: MulanPSL-2.0
"""An ASGI application for the servers that run such; it says on which loop it runs."""

import asyncio
import os

from world import checksum, loop_kind, pattern


async def read_body(receive):
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts), False
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts), True


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            print("the application ends", flush=True)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def websocket(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is not None and text.startswith("close "):
            await send({"type": "websocket.close", "code": int(text[6:])})
        elif text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


slow = []   # requests that have begun


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "websocket":
        return await websocket(receive, send)
    body, _ = await read_body(receive)
    path = scope["path"].strip("/").split("/")
    parts = [body]
    if path[0] == "where":
        parts = [f"{loop_kind()} {os.getpid()}".encode()]
    elif path[0] == "text":
        parts = [f"text {path[1]}\n".encode()]
    elif path[0] == "stream":
        parts = [pattern(50000, number) for number in range(int(path[1]))]
    elif path[0] == "sum":
        parts = [f"{len(body)} {checksum(body)}".encode()]
    elif path[0] == "slow":
        slow.append(path)
        await asyncio.sleep(float(path[1]))
        parts = [b"late"]
    elif path[0] == "begun":
        parts = [b"%d" % len(slow)]
    elif path[0] == "wrong":
        raise RuntimeError("as asked")
    headers = [(b"content-type", b"application/octet-stream")]
    if len(parts) == 1:
        headers.append((b"content-length", str(len(parts[0])).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})
