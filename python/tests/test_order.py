# SPDX-License-Identifier: MulanPSL-2.0
"""The order in which a transport tells its protocol what happened."""

import asyncio
import socket


class Recorder(asyncio.Protocol):
    """Notes what it is told; data_received() starts a task, as aiohttp's handler does."""

    def __init__(self, loop, pause=False):
        self.loop = loop
        self.events = []
        self.pause = pause
        self.lost = loop.create_future()

    async def handle(self):
        self.events.append("task")
        if self.pause:
            self.transport.pause_reading()
            await asyncio.sleep(0.02)
            self.events.append("resume")
            self.transport.resume_reading()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.events.append("data")
        self.task = self.loop.create_task(self.handle())

    def eof_received(self):
        self.events.append("eof")

    def connection_lost(self, exc):
        self.events.append("lost")
        self.lost.set_result(None)


async def record(loop, pause):
    """What a protocol sees of a peer that sent and left before anybody looked."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(b"x" * 1000)
    theirs.close()
    _, protocol = await loop.create_connection(lambda: Recorder(loop, pause), sock=ours)
    await asyncio.wait_for(protocol.lost, 60)
    return protocol.events


def test_task_of_the_data_before_the_end(loop):
    assert loop.run_until_complete(record(loop, False)) == ["data", "task", "eof", "lost"]


def test_pause_holds_the_end(loop):
    events = loop.run_until_complete(record(loop, True))
    assert events == ["data", "task", "resume", "eof", "lost"]
