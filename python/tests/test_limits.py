# SPDX-License-Identifier: MulanPSL-2.0
"""Twenty thousand connections to a server that may have 1,024 descriptors."""

import errno
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time

CONNECTIONS = 20_000
AT_ONCE = 3_000
DEADLINE = 120

SERVER = """
import asyncio, json, resource, sys
import kloop

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
count = {"refused": 0, "made": 0, "lost": 0}

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        count["made"] += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        count["lost"] += 1

def note(loop, context):
    if "out of system resource" not in context["message"]:
        raise SystemExit(context["message"])
    count["refused"] += 1

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(note)
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    while count["lost"] < count["made"]:
        await asyncio.sleep(0.05)
    print(json.dumps(count), flush=True)

kloop.run(main())
"""


class Load:
    """Up to AT_ONCE connections at a time; each sends its number and wants it back."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self.poll = select.epoll()
        self.waiting: dict[int, tuple[socket.socket, bytes]] = {}
        self.begun = 0
        self.answered = 0

    def connect(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        error = sock.connect_ex(self.address)
        assert error in (0, errno.EINPROGRESS), os.strerror(error)
        self.waiting[sock.fileno()] = (sock, b"%d" % self.begun)
        self.poll.register(sock, select.EPOLLOUT)
        self.begun += 1

    def step(self, fd: int, events: int) -> None:
        sock, text = self.waiting[fd]
        if events & select.EPOLLOUT:
            sock.send(text)
            self.poll.modify(sock, select.EPOLLIN)
            return
        assert sock.recv(100) == text
        self.answered += 1
        del self.waiting[fd]
        self.poll.unregister(sock)
        sock.close()

    def run(self) -> None:
        end = time.monotonic() + DEADLINE
        while self.answered < CONNECTIONS and time.monotonic() < end:
            while self.begun < CONNECTIONS and len(self.waiting) < AT_ONCE:
                self.connect()
            for fd, events in self.poll.poll(0.2):
                self.step(fd, events)


def test_more_connections_than_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    assert hard > AT_ONCE + 100, "this test needs some thousand descriptors of its own"
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        load = Load(int(server.stdout.readline()))
        load.run()
        output, _ = server.communicate("", timeout=120)
    finally:
        server.kill()
        server.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert load.answered == CONNECTIONS
    count = json.loads(output)
    # Nothing that was accepted is lost, and descriptors did run out.
    assert count["made"] == count["lost"] == CONNECTIONS
    assert count["refused"] > 0
    assert server.returncode == 0
