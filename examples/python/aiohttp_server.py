#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""An aiohttp application, on kLoop or on asyncio's own loop, with TLS or without.

    aiohttp_server.py [--loop kloop|asyncio] [--port N] [--sqpoll]
                      [--certificate FILE --key FILE [--ktls auto|on|off]]

It listens on 127.0.0.1, prints "ready PORT", serves until SIGINT or SIGTERM,
and on kLoop prints the loop's counters as one line of JSON at the end:

    GET /            a small text
    GET /json        a small JSON object
    GET /tls         how this connection is encrypted, and who does it
    POST /echo       the body that was sent
    GET /bytes/N     N bytes, at most 16 MiB
"""
import argparse
import asyncio
import json
import signal
import ssl

from aiohttp import web

BYTES_MAX = 16 * 1024 * 1024


async def get_text(request):
    return web.Response(text="Hello from aiohttp\n")


async def get_json(request):
    loop = type(asyncio.get_running_loop())
    return web.json_response({"message": "hello", "loop": f"{loop.__module__}.{loop.__name__}"})


async def get_tls(request):
    def ask(name):
        return request.transport.get_extra_info(name)

    # asyncio's own loop knows nothing of the kernel's TLS: None there.
    return web.json_response({
        "cipher": ask("cipher"),
        "ktls_send": ask("ktls_send"), "ktls_send_reason": ask("ktls_send_reason"),
        "ktls_recv": ask("ktls_recv"), "ktls_recv_reason": ask("ktls_recv_reason"),
    })


async def post_echo(request):
    return web.Response(body=await request.read(), content_type=request.content_type)


async def get_bytes(request):
    count = int(request.match_info["count"])
    if count > BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(max_size=BYTES_MAX, actual_size=count)
    return web.Response(body=bytes(count))


def make_application():
    app = web.Application(client_max_size=BYTES_MAX)
    app.router.add_get("/", get_text)
    app.router.add_get("/json", get_json)
    app.router.add_get("/tls", get_tls)
    app.router.add_post("/echo", post_echo)
    app.router.add_get(r"/bytes/{count:\d{1,9}}", get_bytes)
    return app


async def serve(port, tls):
    loop = asyncio.get_running_loop()
    asked_to_end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_end.set)

    # The server logs no line per request.
    runner = web.AppRunner(make_application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        print("ready", runner.addresses[0][1], flush=True)
        await asked_to_end.wait()
    finally:
        await runner.cleanup()
    if hasattr(loop, "stats"):
        print(json.dumps(loop.stats()), flush=True)


def main():
    parser = argparse.ArgumentParser(description="serve HTTP or HTTPS on 127.0.0.1")
    parser.add_argument("--loop", choices=("kloop", "asyncio"), default="kloop")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--sqpoll", action="store_true",
                        help="have a thread of the kernel take the submissions (kloop only)")
    parser.add_argument("--certificate", help="a PEM file: serve HTTPS with it")
    parser.add_argument("--key", help="the PEM file of its key")
    parser.add_argument("--ktls", choices=("auto", "on", "off"), default="auto",
                        help="whether the kernel is to encrypt (kloop only)")
    args = parser.parse_args()
    tls = None
    if args.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(args.certificate, args.key)
    if args.loop == "asyncio":
        if args.sqpoll:
            parser.error("--sqpoll needs --loop kloop")
        asyncio.run(serve(args.port, tls))
        return
    import kloop

    kloop.run(serve(args.port, tls), sqpoll=args.sqpoll, ktls=args.ktls)


if __name__ == "__main__":
    main()
