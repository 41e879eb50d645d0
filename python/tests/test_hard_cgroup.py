# SPDX-License-Identifier: MulanPSL-2.0
"""A control group that allows little memory: what peers offer stays outside."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

CLIENTS = 40
BYTES = 8 << 20     # that each of them sends and wants back
LIMIT = 96 << 20    # a third of what all send
BUFFER = 128 << 10  # each socket's: where the kernel may grow them, they hold all that is sent
SERVER = f"""
import asyncio, kloop, socket, sys
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    sock = socket.create_server(("127.0.0.1", 0), backlog=100)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {BUFFER})
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, {BUFFER})
    server = await asyncio.start_server(echo, sock=sock)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
kloop.run(main())
print("orderly")
"""


def remove(group):
    end = time.monotonic() + 120
    while True:
        try:
            group.rmdir()
        except OSError:  # who was in it is not quite gone
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def group():
    """A control group with that limit: (its folder, the file with the most that was used)."""
    for top, limit, most in (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            (Path("/sys/fs/cgroup"), "memory.max", "memory.peak")):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(dir=top, prefix="kloop-test-"))
            try:
                (folder / limit).write_text(str(LIMIT))
                yield folder, folder / most
                return
            finally:
                remove(folder)
    pytest.skip("no control group for memory can be made here")


@pytest.fixture
def server(group):
    """A server in that group: its port."""
    def enter():
        (group[0] / "cgroup.procs").write_text(str(os.getpid()))

    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, text=True,
                          stdout=subprocess.PIPE, preexec_fn=enter) as process:
        try:
            yield int(process.stdout.readline())
            output, _ = process.communicate("", timeout=60)
            assert (process.returncode, output) == (0, "orderly\n")
        finally:
            process.send_signal(signal.SIGKILL)


class Client:
    def __init__(self, port):
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.address = "127.0.0.1", port
        self.sent = 0

    async def send(self):
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.sock, self.address)
        block = bytes(range(256)) * 256
        while self.sent < BYTES:
            await loop.sock_sendall(self.sock, block)
            self.sent += len(block)
        self.sock.shutdown(socket.SHUT_WR)

    async def receive(self):
        """How many bytes came back, each as it was sent."""
        loop = asyncio.get_running_loop()
        pattern = bytes(range(256)) * 257
        count = 0
        while data := await loop.sock_recv(self.sock, 65536):
            start = count % 256
            assert data == pattern[start:start + len(data)]
            count += len(data)
        self.sock.close()
        return count


def test_slow_readers(group, server):
    """Clients that send and do not read, then do: nothing is lost, nobody is killed."""
    async def main():
        clients = [Client(server) for _ in range(CLIENTS)]
        sending = [asyncio.create_task(client.send()) for client in clients]
        before = -1
        while (now := sum(client.sent for client in clients)) != before:
            before = now
            await asyncio.sleep(0.3)
        assert now < CLIENTS * BYTES
        received = await asyncio.gather(*[client.receive() for client in clients])
        await asyncio.gather(*sending)
        assert received == [BYTES] * CLIENTS

    loop = asyncio.SelectorEventLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), 240))
    finally:
        loop.close()
    if group[1].exists():
        assert 0 < int(group[1].read_text()) <= LIMIT
