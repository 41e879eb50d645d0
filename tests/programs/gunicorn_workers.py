# SPDX-License-Identifier: MulanPSL-2.0
"""What gunicorn is told to run."""

import os

from aiohttp import web
from uvicorn.workers import UvicornWorker

import with_aiohttp
from world import loop_kind


class Worker(UvicornWorker):
    """Takes the loop of the policy: "auto" would be uvloop where that is installed."""

    CONFIG_KWARGS = {"loop": "asyncio", "http": "auto"}


async def make_app():
    async def get_where(request):
        return web.Response(text=f"{loop_kind()} {os.getpid()}")

    app = with_aiohttp.make_app()
    app.router.add_get("/where", get_where)
    return app
