# SPDX-License-Identifier: MulanPSL-2.0
"""How stream transports end, and protocols that raise: on asyncio's loop and on kLoop's."""

import asyncio
import gc
import os
import socket
import weakref

import pytest

from transport_tools import (
    Recorder,
    caught_errors,
    connected,
    in_thread,
    receive_all,
    receive_exactly,
    reset,
    run,
    turns,
    until,
    wait,
)


# ---- the end ------------------------------------------------------------


def test_close_sends_what_is_queued(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        message = os.urandom(6 << 20)
        transport.write(message)
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert not protocol.lost.done()
        assert await in_thread(receive_all, peer) == message
        assert await wait(protocol.lost) is None
        assert protocol.events.count("connection_lost") == 1
        peer.close()

    run(loop, case())


def test_no_data_after_close(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        peer.sendall(b"too late")
        transport.close()
        await wait(protocol.lost)
        await turns()
        assert protocol.events == ["connection_made", "connection_lost"]
        peer.close()

    run(loop, case())


def test_connection_lost_comes_in_the_next_iteration(loop):
    async def case():
        for end in "close", "abort":
            protocol = Recorder()
            transport, peer = await connected(loop, protocol)
            getattr(transport, end)()
            assert not protocol.lost.done()
            await asyncio.sleep(0)
            assert protocol.lost.done()
            peer.close()

    run(loop, case())


def test_abort_drops_what_is_queued(loop, pair):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol, pair)
        transport.write(b"x" * (16 << 20))
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        transport.abort()
        transport.close()
        assert await wait(protocol.lost) is None
        assert transport.get_write_buffer_size() == 0
        try:
            assert len(await in_thread(receive_all, peer)) < 16 << 20
        except ConnectionResetError:
            pass
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_abort_after_write(loop, pair, where):
    """What is written is on its way, as asyncio's write() sends at once."""
    transport = None

    class Talker(Recorder):
        def data_received(self, data):
            transport.write(b"fare")
            transport.write(b"well")
            transport.abort()

    async def case():
        nonlocal transport
        protocol = Talker()
        transport, peer = await connected(loop, protocol, pair)
        if where == "inside":
            peer.sendall(b"go")
        else:
            protocol.data_received(b"")
        assert await wait(protocol.lost) is None
        assert await in_thread(receive_all, peer) == b"farewell"
        peer.close()

    run(loop, case())


def test_abort_after_close(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        transport.write(b"x" * (16 << 20))
        transport.close()
        await turns()
        assert not protocol.lost.done()
        transport.abort()
        assert await wait(protocol.lost) is None
        assert protocol.events.count("connection_lost") == 1
        peer.close()

    run(loop, case())


def test_force_close(loop):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        error = ValueError("given")
        transport._force_close(error)
        assert await wait(protocol.lost) is error
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("where", ["connection_made", "data_received", "eof_received"])
def test_end_inside_a_callback(loop, where, end):
    async def case():
        def hook(protocol, *_args):
            protocol.transport.write(b"one more")
            getattr(protocol.transport, end)()
            return True

        protocol = Recorder(**{where: hook})
        _, peer = await connected(loop, protocol)
        try:
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        assert await wait(protocol.lost) is None
        await turns()
        assert protocol.events[-1] == "connection_lost"
        assert protocol.events[-2] == where
        peer.close()

    run(loop, case())


def test_peer_resets(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder()
            _, peer = await connected(loop, protocol)
            reset(peer)
            assert isinstance(await wait(protocol.lost), ConnectionResetError)
        assert contexts == []

    run(loop, case())


def test_peer_resets_in_the_middle_of_a_write(loop):
    async def case():
        with caught_errors(loop) as contexts:
            for paused in False, True:
                protocol = Recorder()
                transport, peer = await connected(loop, protocol)
                if paused:
                    transport.pause_reading()
                transport.write(os.urandom(16 << 20))
                await in_thread(receive_exactly, peer, 100000)
                assert not protocol.lost.done()
                reset(peer)
                error = await wait(protocol.lost)
                assert isinstance(error, (ConnectionResetError, BrokenPipeError))
                assert "pause_writing" in protocol.events
                assert protocol.events.count("connection_lost") == 1
                transport.write(b"after")
                transport.close()
        assert contexts == []

    run(loop, case())


def test_many_writes_to_a_dead_peer(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(eof_received=lambda _: True)
            transport, peer = await connected(loop, protocol)
            peer.close()
            await wait(protocol.eof)
            for _ in range(100):
                if protocol.lost.done():
                    break
                transport.write(b"x" * 1000)
                await asyncio.sleep(0.002)
            error = await wait(protocol.lost)
            assert isinstance(error, (BrokenPipeError, ConnectionResetError))
        assert contexts == []

    run(loop, case())


def test_protocol_is_let_go(loop):
    """After connection_lost() the transport holds neither protocol nor descriptor."""

    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        fd = transport.get_extra_info("socket").fileno()
        assert fd >= 0
        transport.close()
        await wait(protocol.lost)
        await until(lambda: transport.get_extra_info("socket").fileno() == -1)
        assert transport.get_protocol() is None
        reference = weakref.ref(protocol)
        protocol = None
        await turns()
        gc.collect()
        assert reference() is None
        peer.close()
        reference = weakref.ref(transport)
        transport = None
        gc.collect()
        assert reference() is None

    run(loop, case())


# ---- protocols that raise -----------------------------------------------


def boom(*_args):
    raise ZeroDivisionError("boom")


def test_connection_made_raises(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(connection_made=boom)
            transport, peer = await connected(loop, protocol)
            peer.sendall(b"goes on")
            await until(lambda: protocol.data == b"goes on")
            assert not transport.is_closing()
            transport.close()
            await wait(protocol.lost)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
        peer.close()

    run(loop, case())


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("data_received", "Fatal error: protocol.data_received() call failed."),
        ("eof_received", "Fatal error: protocol.eof_received() call failed."),
    ],
)
def test_reading_callback_raises(loop, where, message):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(**{where: boom})
            transport, peer = await connected(loop, protocol)
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
            error = await wait(protocol.lost)
            assert isinstance(error, ZeroDivisionError)
        assert len(contexts) == 1
        assert contexts[0]["message"] == message
        assert contexts[0]["exception"] is error
        assert contexts[0]["transport"] is transport
        assert contexts[0]["protocol"] is protocol
        peer.close()

    run(loop, case())


def test_connection_lost_raises(loop):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(connection_lost=boom)
            transport, peer = await connected(loop, protocol)
            transport.close()
            await wait(protocol.lost)
            await until(lambda: transport.get_extra_info("socket").fileno() == -1)
        assert [type(c["exception"]) for c in contexts] == [ZeroDivisionError]
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("where", ["pause_writing", "resume_writing"])
def test_flow_callback_raises(loop, where):
    async def case():
        with caught_errors(loop) as contexts:
            protocol = Recorder(**{where: boom})
            transport, peer = await connected(loop, protocol)
            message = b"x" * (8 << 20)
            transport.write(message)
            assert await in_thread(receive_exactly, peer, len(message)) == message
            await until(lambda: "resume_writing" in protocol.events)
            assert not transport.is_closing()
            transport.close()
            await wait(protocol.lost)
        assert len(contexts) == 1
        assert contexts[0]["message"] == f"protocol.{where}() failed"
        assert contexts[0]["transport"] is transport
        assert contexts[0]["protocol"] is protocol
        peer.close()

    run(loop, case())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["data_received", "eof_received", "connection_lost"])
def test_exit_leaves_the_run(loop, where, kind):
    def leave(*_args):
        raise kind("out")

    async def start():
        protocol = Recorder(**{where: leave})
        transport, peer = await connected(loop, protocol)
        return transport, peer, protocol

    transport, peer, protocol = run(loop, start())
    peer.sendall(b"data")
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(kind):
        run(loop, wait(asyncio.gather(protocol.lost, loop.create_future())))
    protocol.hooks.clear()
    transport.abort()
    run(loop, asyncio.sleep(0.01))
    peer.close()


@pytest.mark.parametrize("size", [100, 4 << 10, 64 << 10, 1 << 20])
def test_writes_after_a_reset(loop, size):
    async def case():
        protocol = Recorder()
        transport, peer = await connected(loop, protocol)
        reset(peer)
        for _ in range(100):            # without a turn between: a caller that sees no end goes on
            transport.write(b"x" * size)
        # What is not sent in the call cannot be known to have failed; with asyncio all is.
        assert transport.is_closing() or size < 4 << 10
        assert isinstance(await wait(protocol.lost), ConnectionError)
        assert "data_received" not in protocol.events

    run(loop, case())
