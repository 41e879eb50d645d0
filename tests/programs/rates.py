# SPDX-License-Identifier: MulanPSL-2.0
"""run.py --rates: processor time and requests per second, loop beside loop.

For each rate every loop has a process of its own, which stays; in each round
all have their turn, in changing order, so that whatever else the machine does
meets all of them. Numbers are medians over the rounds; the first is not counted.

A server is loaded by wrk, or by a client on asyncio's loop, and the processor
time is that of the server with its children. A client asks a server that is the
same for all loops, and the processor time is the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from world import HERE, LOOPS, PYTHON, World, listen, make_certificates, new_loop, stop

TURN = 1.0      # seconds, about, of a turn
CONNECTIONS = 32


# ---- what is measured -----------------------------------------------------


async def aiohttp_client(world, peers):
    import with_aiohttp
    async with with_aiohttp.session(world, limit=CONNECTIONS) as client:
        async def one():
            await with_aiohttp.fetch(client, peers["url"] + "/text/1")
        yield one


async def httpx_client(world, peers):
    import asgi
    async with asgi.client(world, peers["url"]) as http:
        async def one():
            await http.get("/text/1")
        yield one


async def asyncpg_client(world, peers):
    import asyncpg
    import with_asyncpg
    async with asyncpg.create_pool(**with_asyncpg.where(world), min_size=8, max_size=8) as pool:
        async def one():
            await pool.fetchrow("select $1::int, $2::text", 1, "text")
        yield one


async def redis_client(world, peers):
    import with_redis
    async with with_redis.connected(world) as client:
        async def one():
            await client.get("key")
        yield one


async def websockets_client(world, peers):
    """Of an echo server, which is what is measured."""
    import websockets
    sockets = [await websockets.connect(peers["url"], compression=None) for _ in range(CONNECTIONS)]
    free = list(sockets)

    async def one():
        socket = free.pop()
        await socket.send("x" * 100)
        await socket.recv()
        free.append(socket)
    yield one
    for socket in sockets:
        await socket.close()


async def serve_aiohttp(world, tls):
    import with_aiohttp
    context = world.server_tls() if tls else None
    async with with_aiohttp.serving(with_aiohttp.make_app(), context) as url:
        print("ready " + url, flush=True)
        await asyncio.Event().wait()


async def serve_websockets(world, tls):
    import with_websockets
    async with with_websockets.serving(with_websockets.echo, compression=None) as url:
        print("ready " + url, flush=True)
        await asyncio.Event().wait()


def command_uvicorn(world, listener):
    import with_uvicorn
    return [*with_uvicorn.command(world.loop, "--fd", listener.fileno(), "--log-level", "error",
                                  "--timeout-keep-alive", "75", "--http", "httptools"), "app:app"]


def command_gunicorn(world, listener):
    import with_gunicorn
    return [PYTHON, "-m", "gunicorn", "--config", with_gunicorn.configure(world), "--bind",
            f"fd://{listener.fileno()}", "--workers", "2", "--keep-alive", "75",
            "--log-level", "error",
            "--worker-class", "gunicorn_workers.Worker", "app:app"]


def command_hypercorn(world, listener):
    import with_hypercorn
    return with_hypercorn.command(world.loop, "--bind", f"fd://{listener.fileno()}",
                                  "--log-level", "ERROR", "--keep-alive", "75", "app:app")


#: Name: (kind, what, more). Kinds: a client; a server in a function, by wrk or
#: by a client; a server by its command line.
RATES = {
    "aiohttp:server": ("serves", "serve_aiohttp", None),
    "aiohttp:tls-server": ("serves-tls", "serve_aiohttp", None),
    "aiohttp:client": ("client", "aiohttp_client", "web"),
    "asyncpg:client": ("client", "asyncpg_client", "asyncpg"),
    "gunicorn:uvicorn-workers": ("command", "command_gunicorn", None),
    "httpx:client": ("client", "httpx_client", "web"),
    "hypercorn:server": ("command", "command_hypercorn", None),
    "redis:client": ("client", "redis_client", "redis"),
    "uvicorn:server": ("command", "command_uvicorn", None),
    "websockets:server": ("serves", "serve_websockets", "websockets_client"),
}


# ---- processes of their own -----------------------------------------------


async def take_turns(function, world, peers):
    """A client: for each line "SECONDS" the requests, wall and processor seconds of such a turn."""
    loop = asyncio.get_running_loop()
    async with contextlib.asynccontextmanager(function)(world, peers) as one:
        while True:
            print("ready", flush=True)
            line = await loop.run_in_executor(None, sys.stdin.readline)
            if not line:
                return
            count, end = 0, time.monotonic() + float(line)

            async def work():
                nonlocal count
                while time.monotonic() < end:
                    await one()
                    count += 1

            before, started = time.process_time(), time.monotonic()
            await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
            print(json.dumps([count, time.monotonic() - started, time.process_time() - before]),
                  flush=True)


def run_here(loop, what, peers, folder):
    """The process of a client or of a server in a function."""
    function = globals()[what]
    world = World(loop, Path(folder), peers)
    with asyncio.Runner(loop_factory=lambda: new_loop(loop)) as runner:
        if what.startswith("serve_"):
            runner.run(function(world, peers["tls"]))
        else:
            runner.run(take_turns(function, world, peers))


def start(loop, what, peers, folder):
    return subprocess.Popen([PYTHON, HERE / "rates.py", json.dumps([loop, what, peers, folder])],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Client:
    def __init__(self, loop, what, peers, folder):
        self.process = start(loop, what, peers, folder)
        assert self.process.stdout.readline() == "ready\n", f"{what} does not start on {loop}"

    def turn(self, seconds):
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        assert self.process.stdout.readline() == "ready\n"
        return found

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)


def processor_time(pid):
    """Of a process and its children, all their threads, in seconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        fields = Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()
        total += int(fields[0]) / 1e9
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            total += processor_time(int(child))
    return total


class Server:
    def __init__(self, loop, kind, what, load, peers, folder):
        self._load = None
        if kind == "command":
            with listen() as listener:
                place = Path(folder) / loop
                place.mkdir()
                world = World(loop, place, peers)
                self.process = subprocess.Popen(
                    list(map(str, globals()[what](world, listener))), cwd=HERE,
                    pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL)
                self.url = f"http://localhost:{listener.getsockname()[1]}"
            # It is there when it answers; meanwhile this one waits with the listener.
            urllib.request.urlopen(self.url + "/text/1", timeout=60).close()
        else:
            self.process = start(loop, what, {**peers, "tls": kind == "serves-tls"}, folder)
            self.url = self.process.stdout.readline().removeprefix("ready ").strip()
            assert self.url, f"{what} does not start on {loop}"
        if load is not None:
            self._load = Client("asyncio", load, {**peers, "url": self.url}, folder)

    def turn(self, seconds):
        before = processor_time(self.process.pid)
        if self._load is not None:
            count, wall, _ = self._load.turn(seconds)
        else:
            count, wall = run_wrk(self.url + "/text/1", seconds)
        return count, wall, processor_time(self.process.pid) - before

    def close(self):
        if self._load is not None:
            self._load.close()
        stop(self.process)


def run_wrk(url, seconds):
    done = subprocess.run(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s",
                           "--timeout", "60s", url],
                          capture_output=True, text=True, check=True)
    lines = done.stdout
    assert "Non-2xx" not in lines and "Socket errors" not in lines, lines
    line = next(line for line in lines.splitlines() if " requests in " in line)
    return int(line.split()[0]), float(line.split()[3].rstrip("s,"))


# ---- rounds ---------------------------------------------------------------


def measure(name, loops, rounds, folder, certificates):
    """{loop: (microseconds per request, requests per second)}"""
    kind, what, more = RATES[name]
    base = {"certificates": certificates}
    with contextlib.ExitStack() as stack:
        if kind == "client" and more == "web":
            web = Server("asyncio", "serves", "serve_aiohttp", None, base, folder)
            stack.callback(web.close)
            base["url"] = web.url
        elif kind == "client":
            module = importlib.import_module("with_" + more)
            base.update(stack.enter_context(module.peers(Path(folder), certificates)))
        subjects = {}
        for loop in loops:
            subjects[loop] = (Client(loop, what, base, folder) if kind == "client" else
                              Server(loop, kind, what, more, base, folder))
            stack.callback(subjects[loop].close)
        samples = {loop: [] for loop in loops}
        for number in range(rounds + 1):
            for loop in loops[number % len(loops):] + loops[:number % len(loops)]:
                count = 0
                while count < CONNECTIONS:  # a turn that others took the processor from
                    count, wall, processor = subjects[loop].turn(TURN)
                if number:
                    samples[loop].append((1e6 * processor / count, count / wall))
    return {loop: tuple(map(statistics.median, zip(*found))) for loop, found in samples.items()}


def measure_all(names, loops, rounds, folder):
    if not loops:
        loops = [loop for loop in LOOPS if importlib.util.find_spec(loop)]
    certificates = make_certificates(folder / "certificates")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; "
          f"medians of {rounds} rounds; processor time in us per request, and requests per second")
    print("| | " + " | ".join(f"{loop}, us | {loop}, 1/s" for loop in loops) + " | kloop/asyncio |")
    print("|---" * (2 * len(loops) + 2) + "|")
    for name in RATES:
        program, _, rate = name.partition(":")
        if program not in names or (names[program] and rate not in names[program]):
            continue
        place = folder / name.replace(":", "-")
        place.mkdir(mode=0o755)
        found = measure(name, loops, rounds, str(place), certificates)
        ratio = "" if not {"asyncio", "kloop"} <= found.keys() else \
            f"{found['kloop'][0] / found['asyncio'][0]:.2f}"
        print(f"| {name} | " + " | ".join(f"{found[loop][0]:.0f} | {found[loop][1]:.0f}"
                                          for loop in loops) + f" | {ratio} |", flush=True)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    run_here(*json.loads(sys.argv[1]))
