# SPDX-License-Identifier: MulanPSL-2.0
"""Floods: SYNs and datagrams from forged sources, handshakes that nobody goes on with.

KLOOP_FLOOD=1000000 asks for more packets than a quick run has.
"""

import asyncio
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from test_hard_life import rss_bytes
from test_hard_peers import counting, descriptors, is_served
from transport_tools import turns, until

PROGRAM = Path(__file__).with_name("flood.py")
SYNS = int(os.environ.get("KLOOP_FLOOD", "20000"))
SILENT = 1000


def namespace():
    """The command for a network of our own, as its root."""
    for options in ("--net",), ("--net", "--map-root-user"):
        command = ["unshare", *options]
        # Containers may have /proc/sys read-only.
        tried = subprocess.run([*command, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/tcp_syncookies"],
                               capture_output=True)
        if tried.returncode == 0:
            return command
    pytest.skip("neither root nor a user namespace: no network can be made and set up here")


def test_half_open_connections_and_forged_datagrams():
    """The kernel answers with cookies; each real client is served, and nothing grows."""
    assert shutil.which("ip"), "the ip command (iproute2) is needed"
    result = subprocess.run([*namespace(), sys.executable, str(PROGRAM), str(SYNS)],
                            capture_output=True, text=True, timeout=60 + SYNS / 50,
                            stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    print(told)
    assert told["status"] == 0 and told["failures"] == []
    assert told["cookies"] > SYNS // 4  # it was a flood: far more than the backlog
    assert told["accepted"] == told["served"] > 0
    assert told["datagrams"] > 0
    assert told["descriptors"] == 0 and told["memory"] < 8 << 20


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
                         ids=["nothing", "part of a hello"])
def test_handshakes_without_end(kernel_loop, certificates, says):
    """Hundreds at a time: each is ended after its time, and others are served meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * SILENT + 200)), hard))
    contexts = []
    kernel_loop.set_exception_handler(lambda _, context: contexts.append(context))

    async def main():
        kind = counting()
        server = await kernel_loop.create_server(
            kind, "127.0.0.1", 0, ssl=certificates.server(), ssl_handshake_timeout=2,
            backlog=2 * SILENT)
        usual = await kernel_loop.create_server(  # one that lets slow machines take their time
            kind, "127.0.0.1", 0, ssl=certificates.server())
        address = server.sockets[0].getsockname()
        await is_served(usual.sockets[0].getsockname(), certificates.trusting())
        before, memory, ends = descriptors(), rss_bytes(), 0
        largest = 0
        for _ in range(2):
            silent = [socket.create_connection(address) for _ in range(SILENT)]
            for sock in silent:
                sock.sendall(says)
            await is_served(usual.sockets[0].getsockname(), certificates.trusting())
            await until(lambda: descriptors() <= before + SILENT)
            largest = max(largest, rss_bytes() - memory)
            for sock in silent:
                sock.setblocking(False)
                try:
                    ends += await kernel_loop.sock_recv(sock, 100) == b""
                except ConnectionResetError:
                    ends += 1
                sock.close()
        assert ends == 2 * SILENT and kind.made == 3
        # AddressSanitizer keeps what was freed.
        assert "asan" in os.environ.get("LD_PRELOAD", "") or largest < SILENT * 100_000, largest
        for each in server, usual:
            each.close()
        await until(lambda: kind.lost == kind.made)
        await turns()
        print(f"{largest} bytes for {SILENT} connections, twice")

    try:
        kernel_loop.run_until_complete(asyncio.wait_for(main(), 300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert contexts == []
