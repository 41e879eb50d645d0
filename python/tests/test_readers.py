# SPDX-License-Identifier: MulanPSL-2.0
"""add_reader() and add_writer()."""

import asyncio
import os
import socket
import tempfile
import threading

import pytest

from conftest import is_kloop


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


def run_for(loop, seconds=0.01):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def run_until(loop, condition):
    end = loop.time() + 60
    while not condition():
        assert loop.time() < end
        run_for(loop)


def test_reader(loop, pair):
    left, right = pair
    got = []
    loop.add_reader(left, lambda *args: got.append((args, left.recv(10))), 1, 2)
    run_for(loop)
    assert got == []
    right.send(b"one")
    run_until(loop, lambda: got)
    right.send(b"two")
    run_until(loop, lambda: len(got) == 2)
    assert got == [((1, 2), b"one"), ((1, 2), b"two")]
    assert loop.remove_reader(left) is True
    assert loop.remove_reader(left) is False
    right.send(b"three")
    run_for(loop)
    assert len(got) == 2


def test_it_fires_as_long_as_it_is_ready(loop, pair):
    left, right = pair
    right.send(b"12345")
    got = []

    def read():
        got.append(left.recv(1))
        if len(got) == 5:
            loop.stop()

    loop.add_reader(left, read)
    guard = loop.call_later(20, loop.stop)
    loop.run_forever()
    guard.cancel()
    assert got == [b"1", b"2", b"3", b"4", b"5"]
    loop.remove_reader(left)


def test_it_fires_once_in_an_iteration(loop, pair):
    left, right = pair
    right.send(b"x")
    order = []

    def turn():
        order.append("turn")
        if order.count("turn") < 20:
            loop.call_soon(turn)
        else:
            loop.stop()

    loop.add_reader(left, order.append, "ready")
    loop.call_soon(turn)
    loop.run_forever()
    loop.remove_reader(left)
    ready = order.count("ready")
    assert 10 <= ready <= 21
    assert not any(a == b == "ready" for a, b in zip(order, order[1:]))


def test_writer(loop, pair):
    left, right = pair
    while True:
        try:
            left.send(b"x" * 65536)
        except BlockingIOError:
            break
    got = []
    loop.add_writer(left, lambda: (got.append(1), loop.remove_writer(left)))
    run_for(loop)
    assert got == []

    def drain():
        try:
            while right.recv(1 << 20):
                pass
        except BlockingIOError:
            pass

    loop.call_soon(drain)
    run_until(loop, lambda: got)
    run_for(loop)
    assert got == [1]
    assert loop.remove_writer(left) is False


def test_both_directions(loop, pair):
    left, right = pair
    got = []
    loop.add_writer(left, lambda: (got.append("write"), loop.remove_writer(left)))
    loop.add_reader(left, lambda: (got.append("read"), left.recv(1), loop.stop()))
    loop.call_later(0.01, right.send, b"x")
    loop.run_forever()
    assert got == ["write", "read"]
    assert loop.remove_reader(left)


def test_replacing_cancels_the_former(loop, pair):
    left, right = pair
    got = []
    loop.add_reader(left, got.append, "former")
    run_for(loop)
    loop.add_reader(left, lambda: (got.append("new"), left.recv(1)))
    right.send(b"x")
    run_until(loop, lambda: got)
    assert got == ["new"]
    assert loop.remove_reader(left)


def test_replaced_after_it_became_ready(loop, pair):
    left, right = pair
    got = []
    right.send(b"x")
    loop.add_reader(left, got.append, "former")
    loop.add_writer(right, lambda: (
        loop.remove_writer(right),
        loop.add_reader(left, lambda: (got.append("new"), left.recv(1)))))
    run_until(loop, lambda: got[-1:] == ["new"])
    assert loop.remove_reader(left)


def test_end_of_file_and_hang_up(loop, pair):
    left, right = pair
    got = []
    loop.add_reader(left, lambda: (got.append(left.recv(1)), loop.stop()))
    loop.call_soon(right.close)
    loop.run_forever()
    assert got == [b""]
    loop.remove_reader(left)


def test_error_wakes_the_writer(loop):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    listener.close()
    sock = socket.socket()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.connect(address)
    got = []
    loop.add_writer(sock, lambda: (
        got.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)), loop.stop()))
    loop.run_forever()
    loop.remove_writer(sock)
    sock.close()
    assert got and got[0] != 0


def test_integer_and_object(loop, pair):
    left, _right = pair
    loop.add_reader(left, print)
    assert loop.remove_reader(left.fileno()) is True
    loop.add_reader(left.fileno(), print)
    assert loop.remove_reader(left) is True


@pytest.mark.parametrize("bad, error", [
    (-1, ValueError), ("text", ValueError), (None, ValueError), (1.5, ValueError),
    (object(), ValueError),
])
def test_bad_descriptors(loop, bad, error):
    for call in (lambda: loop.add_reader(bad, print), lambda: loop.add_writer(bad, print),
                 lambda: loop.remove_reader(bad), lambda: loop.remove_writer(bad)):
        with pytest.raises(error):
            call()


def test_a_closed_descriptor(loop):
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError) as caught:
        loop.add_reader(read, print)
    assert caught.value.errno == 9
    assert loop.remove_reader(read) is False


def test_a_closed_socket(loop):
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError):
        loop.add_reader(sock, print)


@pytest.mark.parametrize("path", [None, "/", "/dev/null"])
def test_what_cannot_be_polled(loop, path):
    with tempfile.TemporaryFile() as file:
        fd = file.fileno() if path is None else os.open(path, os.O_RDONLY)
        with pytest.raises(PermissionError):
            loop.add_reader(fd, print)
        with pytest.raises(PermissionError):
            loop.add_writer(fd, print)
        if path is not None:
            os.close(fd)


def test_closed_while_watched(loop):
    """The loop goes on, and a new file with the number can be watched."""
    left, right = socket.socketpair()
    got = []
    fd = left.fileno()
    loop.add_reader(left, got.append, "old")
    run_for(loop)
    left.close()
    run_for(loop)
    again, other = socket.socketpair()
    if again.fileno() != fd:
        again, other = other, again
    try:
        if is_kloop(loop):
            loop.add_reader(fd, lambda: got.append(again.recv(1)))
            other.send(b"x")
            run_until(loop, lambda: b"x" in got)
    finally:
        loop.remove_reader(fd)
        for sock in (right, again, other):
            sock.close()


def test_removed_and_closed_reaches_the_peer(loop, pair):
    """A poll in the ring must not keep a closed socket open."""
    left, right = pair
    loop.add_reader(left, print)
    run_for(loop)
    loop.remove_reader(left)
    left.close()
    got = []
    loop.add_reader(right, lambda: (got.append(right.recv(1)), loop.stop()))
    guard = loop.call_later(10, loop.stop)
    loop.run_forever()
    guard.cancel()
    loop.remove_reader(right)
    assert got == [b""]


def test_remove_from_the_callback(loop, pair):
    left, right = pair
    right.send(b"x")
    got = []
    loop.add_reader(left, lambda: (got.append(loop.remove_reader(left)), loop.stop()))
    loop.run_forever()
    run_for(loop)
    assert got == [True]


def test_handle_of_the_private_variant(loop, pair):
    left, right = pair
    handle = loop._add_reader(left.fileno(), print, 1)
    assert handle._args == (1,) and not handle.cancelled()
    handle.cancel()
    right.send(b"x")
    run_for(loop)
    assert loop._remove_reader(left.fileno()) is False


def test_a_failing_callback_is_reported(loop, pair):
    left, right = pair
    right.send(b"x")
    loop.add_reader(left, lambda: (left.recv(1), 1 / 0))
    run_for(loop)
    loop.remove_reader(left)
    assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)


def test_descriptor_of_a_transport(loop):
    async def main():
        left, right = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        for call in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                call(left, print)
        for call in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                call(left)
        transport.close()
        right.close()
        await asyncio.sleep(0.01)

    loop.run_until_complete(main())


def test_many_descriptors(loop):
    pairs = [socket.socketpair() for _ in range(200)]
    got = set()
    for number, (left, _right) in enumerate(pairs):
        loop.add_reader(left, lambda number=number, left=left: (
            got.add(number), left.recv(1), len(got) == 200 and loop.stop()))
    for _left, right in pairs:
        right.send(b"x")
    loop.run_forever()
    for left, right in pairs:
        assert loop.remove_reader(left)
        left.close()
        right.close()
    assert got == set(range(200))


def test_wrong_thread(kernel_loop, pair):
    errors = []

    def thread():
        for call in (lambda: kernel_loop.add_reader(pair[0], print),
                     lambda: kernel_loop.call_later(1, print)):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))
        kernel_loop.call_soon_threadsafe(kernel_loop.stop)

    worker = threading.Thread(target=thread)
    kernel_loop.call_soon(worker.start)
    kernel_loop.run_forever()
    worker.join()
    assert len(errors) == 2 and all("Non-thread-safe" in text for text in errors)
