# SPDX-License-Identifier: MulanPSL-2.0
"""Flow control of writes: water marks, pause_writing(), resume_writing()."""

import asyncio
import os

import pytest

from transport_tools import (
    Recorder,
    connected,
    in_thread,
    receive_exactly,
    run,
    turns,
    until,
    wait,
)


def flow(protocol):
    return [name for name in protocol.events if name.endswith("_writing")]


async def finish(transport, protocol, peer):
    transport.abort()
    await wait(protocol.lost)
    peer.close()


def test_pause_and_resume(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        message = os.urandom(8 << 20)
        transport.write(message)
        assert flow(protocol) == ["pause_writing"]
        assert transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
        transport.write(b"more")
        await asyncio.sleep(0.02)
        assert flow(protocol) == ["pause_writing"]
        assert await in_thread(receive_exactly, peer, len(message) + 4) == message + b"more"
        await until(lambda: flow(protocol) == ["pause_writing", "resume_writing"])
        assert transport.get_write_buffer_size() == 0
        transport.write(message * 3)  # the buffers have grown
        assert flow(protocol)[2:] == ["pause_writing"]
        await finish(transport, protocol, peer)

    run(loop, case())


def test_no_pause_for_what_the_socket_takes(loop):
    """A single large write with nothing before it that leaves at once."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        for _ in range(5):
            transport.write(b"x" * 100_000)
            assert transport.get_write_buffer_size() == 0
            await in_thread(receive_exactly, peer, 100_000)
        assert flow(protocol) == []
        await finish(transport, protocol, peer)

    run(loop, case())


def test_many_small_writes_pause_too(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        written = 0
        while not flow(protocol):
            transport.write(b"y" * 1000)
            written += 1000
            assert written < 64 << 20
            if written % 100_000 == 0:
                await asyncio.sleep(0)
        assert flow(protocol) == ["pause_writing"]
        assert await in_thread(receive_exactly, peer, written) == b"y" * written
        await until(lambda: flow(protocol) == ["pause_writing", "resume_writing"])
        await finish(transport, protocol, peer)

    run(loop, case())


def test_small_writes_pause_within_one_iteration(loop):
    """A caller that never yields must be told as well."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        written = 0
        while not flow(protocol):
            transport.write(b"z" * 10_000)
            written += 10_000
            assert written < 64 << 20
        assert await in_thread(receive_exactly, peer, written) == b"z" * written
        await until(lambda: flow(protocol) == ["pause_writing", "resume_writing"])
        await finish(transport, protocol, peer)

    run(loop, case())


def test_limits(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        limits = transport.get_write_buffer_limits
        assert limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=1000)
        assert limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert limits() == (1000, 4000)
        transport.set_write_buffer_limits(high=2e3)
        assert limits() == (500, 2000)
        transport.set_write_buffer_limits(5000, 4000)
        assert limits() == (4000, 5000)
        transport.set_write_buffer_limits(high=0)
        assert limits() == (0, 0)
        transport.set_write_buffer_limits()
        assert limits() == (16 * 1024, 64 * 1024)
        for wrong in {"high": 10, "low": 20}, {"high": -1}, {"low": -1}, {"high": 5, "low": -2}:
            with pytest.raises(ValueError, match=r"high \(.*\) must be >= low \(.*\) must be >= 0"):
                transport.set_write_buffer_limits(**wrong)
        assert limits() == (16 * 1024, 64 * 1024)
        with pytest.raises(TypeError):
            transport.set_write_buffer_limits(medium=5)
        await finish(transport, protocol, peer)

    run(loop, case())


def test_high_mark_of_zero(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.set_write_buffer_limits(high=0)
        message = os.urandom(8 << 20)
        transport.write(message)
        assert flow(protocol) == ["pause_writing"]
        assert await in_thread(receive_exactly, peer, len(message)) == message
        await until(lambda: flow(protocol) == ["pause_writing", "resume_writing"])
        await finish(transport, protocol, peer)

    run(loop, case())


def test_lower_marks_pause_at_once(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.set_write_buffer_limits(high=64 << 20)
        message = os.urandom(8 << 20)
        transport.write(message)
        await turns()
        assert flow(protocol) == []
        assert transport.get_write_buffer_size() > 1 << 20
        transport.set_write_buffer_limits(high=1 << 20, low=1 << 19)
        assert flow(protocol) == ["pause_writing"]
        assert await in_thread(receive_exactly, peer, len(message)) == message
        await until(lambda: flow(protocol) == ["pause_writing", "resume_writing"])
        await finish(transport, protocol, peer)

    run(loop, case())


def test_no_resume_after_abort(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.write(b"x" * (8 << 20))
        assert flow(protocol) == ["pause_writing"]
        await finish(transport, protocol, peer)
        await turns()
        assert flow(protocol) == ["pause_writing"]

    run(loop, case())


def test_write_inside_pause_writing(loop):
    async def case():
        protocol = Recorder(pause_writing=lambda p: p.transport.write(b"END"))
        transport, peer = await connected(loop, protocol)
        message = b"x" * (8 << 20)
        transport.write(message)
        assert await in_thread(receive_exactly, peer, len(message) + 3) == message + b"END"
        await finish(transport, protocol, peer)

    run(loop, case())


def test_abort_inside_flow_callbacks(loop):
    async def case():
        for where in "pause_writing", "resume_writing":
            protocol = Recorder(**{where: lambda p: p.transport.abort()})
            transport, peer = await connected(loop, protocol)
            transport.write(b"x" * (8 << 20))
            if where == "resume_writing":
                await in_thread(receive_exactly, peer, 8 << 20)
            assert await wait(protocol.lost) is None
            peer.close()

    run(loop, case())


def test_stream_drain(loop, pair):
    """asyncio's streams over the transport: drain() waits for the reader."""

    async def case():
        mine, peer = pair()
        mine.setblocking(False)
        _, writer = await asyncio.open_connection(sock=mine)
        message = os.urandom(1 << 20)
        done = 0

        async def produce():
            nonlocal done
            for _ in range(16):
                writer.write(message)
                await writer.drain()
                done += 1

        task = loop.create_task(produce())
        await asyncio.sleep(0.05)
        assert done < 16
        assert await in_thread(receive_exactly, peer, 16 << 20) == message * 16
        await wait(task)
        writer.close()
        await wait(writer.wait_closed())
        peer.close()

    run(loop, case())
