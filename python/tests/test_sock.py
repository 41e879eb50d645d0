# SPDX-License-Identifier: MulanPSL-2.0
"""sock_*() calls."""

import asyncio
import collections.abc
import gc
import os
import socket
import ssl
import sys
import tempfile
import warnings

import pytest

from conftest import is_kloop
from port_tools import free_port
from transport_tools import run


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def datagrams():
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    yield socks
    for sock in socks:
        sock.close()


def has_datagram_calls(loop):
    return is_kloop(loop) or sys.version_info >= (3, 11)


def test_recv_of_what_is_there(loop, pair):
    pair[1].send(b"data")
    assert run(loop, loop.sock_recv(pair[0], 100)) == b"data"


def test_recv_waits(loop, pair):
    loop.call_later(0.02, pair[1].send, b"data")
    assert run(loop, loop.sock_recv(pair[0], 2)) == b"da"
    assert run(loop, loop.sock_recv(pair[0], 2)) == b"ta"


def test_recv_of_the_end(loop, pair):
    loop.call_later(0.01, pair[1].close)
    assert run(loop, loop.sock_recv(pair[0], 2)) == b""


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 65536, 1 << 20])
def test_sizes(loop, pair, size):
    data = os.urandom(size)

    async def main():
        send = asyncio.create_task(loop.sock_sendall(pair[1], data))
        got = bytearray()
        while len(got) < size:
            part = await loop.sock_recv(pair[0], 65536)
            assert type(part) is bytes
            got += part
        await send
        return bytes(got)

    assert run(loop, main()) == data


def test_received_objects_are_independent(loop, pair):
    async def main():
        got = []
        for number in range(50):
            pair[1].send(bytes([number]) * 100)
            got.append(await loop.sock_recv(pair[0], 100 + number % 3))
        return got

    assert run(loop, main()) == [bytes([number]) * 100 for number in range(50)]


@pytest.mark.parametrize("n, error", [(-1, ValueError), ("5", TypeError), (None, TypeError)])
def test_bad_sizes(loop, pair, n, error):
    async def main():
        await loop.sock_recv(pair[0], n)

    with pytest.raises(error):
        run(loop, main())


def test_recv_into(loop, pair):
    buffer = bytearray(10)
    loop.call_later(0.01, pair[1].send, b"12345")
    assert run(loop, loop.sock_recv_into(pair[0], buffer)) == 5
    assert buffer[:5] == b"12345"
    pair[1].send(b"ab")
    assert run(loop, loop.sock_recv_into(pair[0], memoryview(buffer)[5:])) == 2
    assert buffer == b"12345ab\0\0\0"
    buffer.extend(b"x")  # nothing pins it any more


def test_recv_into_read_only(loop, pair):
    async def main():
        await loop.sock_recv_into(pair[0], b"constant")

    with pytest.raises((TypeError, BufferError)):
        run(loop, main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sendall_kinds(loop, pair, kind):
    assert run(loop, loop.sock_sendall(pair[1], kind(b"abc"))) is None
    assert pair[0].recv(10) == b"abc"


def test_sendall_of_nothing(loop, pair):
    assert run(loop, loop.sock_sendall(pair[1], b"")) is None


def test_sendall_reports_a_closed_peer(loop, pair):
    pair[0].close()
    with pytest.raises(BrokenPipeError):
        run(loop, loop.sock_sendall(pair[1], b"x"))


def test_sendall_reports_a_peer_that_goes_away(loop, pair):
    loop.call_later(0.02, pair[0].close)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        run(loop, loop.sock_sendall(pair[1], bytes(1 << 24)))


class Counted(socket.socket):
    """A socket of a class with methods of its own."""

    def recv(self, size):
        self.calls.append("recv")
        return super().recv(size)[::-1]

    def recv_into(self, buffer):
        self.calls.append("recv_into")
        return super().recv_into(buffer)

    def send(self, data):
        self.calls.append(type(data))
        return super().send(data[:self.most])


@pytest.fixture
def counted(pair):
    with Counted(fileno=os.dup(pair[0].fileno())) as sock:
        sock.setblocking(False)
        sock.calls = []
        sock.most = None
        yield sock


def test_methods_of_a_subclass(loop, pair, counted):
    async def case():
        pair[1].send(b"abc")
        assert await loop.sock_recv(counted, 3) == b"cba"
        loop.call_later(0.01, pair[1].send, b"ab")
        assert await loop.sock_recv(counted, 3) == b"ba"
        room = bytearray(4)
        loop.call_later(0.01, pair[1].send, b"data")
        assert await loop.sock_recv_into(counted, room) == 4 and room == b"data"
        assert set(counted.calls) == {"recv", "recv_into"}
        for data in b"data", b"", bytearray(b"data"), memoryview(b"data"):
            del counted.calls[:]
            await loop.sock_sendall(counted, data)
            assert counted.calls == [type(data)]
            assert data == b"" or pair[1].recv(10) == data
        counted.most = 3
        del counted.calls[:]
        await loop.sock_sendall(counted, b"ten bytes.")
        assert counted.calls == [bytes] + 3 * [memoryview]
        assert pair[1].recv(20) == b"ten bytes."
        with pytest.raises(TypeError):
            await loop.sock_sendall(counted, "text")
        with pytest.raises(ValueError):
            await loop.sock_recv(counted, -1)

    run(loop, case())


def test_a_subclass_sends_more_than_there_is_room_for(loop, pair, counted):
    async def case():
        data = os.urandom(3_000_000)
        sending = loop.create_task(loop.sock_sendall(counted, data))
        received = bytearray()
        while len(received) < len(data):
            received += await loop.sock_recv(pair[1], 1 << 20)
        await sending
        assert received == data
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(counted, 1), 0.01)
        pair[1].close()
        with pytest.raises(ConnectionError):
            while True:
                await loop.sock_sendall(counted, data)

    run(loop, case())


@pytest.mark.parametrize("method", ["send", "throw", "close"])
def test_a_subclass_resumes_the_call_that_calls_it(loop, pair, method):
    """As with a coroutine: it is already executing."""
    arguments = {"send": (None,), "throw": (KeyError("thrown"),), "close": ()}[method]
    failures = []

    class Sock(socket.socket):
        def recvfrom(self, size):
            if not failures:
                with pytest.raises(ValueError, match="already executing"):
                    getattr(call, method)(*arguments)
                failures.append(method)
            return super().recvfrom(size)

    with Sock(fileno=os.dup(pair[0].fileno())) as sock:
        sock.setblocking(False)
        if not has_datagram_calls(loop):
            return
        call = loop.sock_recvfrom(sock, 10)
        loop.call_later(0.01, pair[1].send, b"data")
        assert run(loop, call)[0] == b"data"
    assert failures == [method]


def test_cancelled_recv_loses_nothing(loop, pair):
    async def main():
        for delay in (0, 0.001, 0.003):
            task = asyncio.create_task(loop.sock_recv(pair[0], 10))
            await asyncio.sleep(delay)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        pair[1].send(b"kept")
        return await loop.sock_recv(pair[0], 10)

    assert run(loop, main()) == b"kept"


def test_cancel_races_with_data(kernel_loop, pair):
    """Whenever the cancel comes, the data is received by this call or the next."""
    async def main():
        cancelled = 0
        for number in range(300):
            data = number.to_bytes(2, "big")
            task = asyncio.create_task(kernel_loop.sock_recv(pair[0], 10))
            await asyncio.sleep(0)
            pair[1].send(data)
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            try:
                got = await task
            except asyncio.CancelledError:
                cancelled += 1
                got = await kernel_loop.sock_recv(pair[0], 10)
            assert got == data
        return cancelled

    assert run(kernel_loop, main()) > 0


def test_cancel_message(loop, pair):
    async def main():
        task = asyncio.create_task(loop.sock_recv(pair[0], 10))
        await asyncio.sleep(0.01)
        task.cancel("why")
        await task

    with pytest.raises(asyncio.CancelledError) as caught:
        loop.run_until_complete(main())
    if sys.version_info >= (3, 11):
        assert caught.value.args == ("why",)


def test_cancelled_sendall_lets_go(loop, pair):
    data = bytearray(1 << 24)

    async def main():
        task = asyncio.create_task(loop.sock_sendall(pair[1], data))
        await asyncio.sleep(0.01)
        with pytest.raises(BufferError):
            data.extend(b"x")  # lent to the call
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        data.extend(b"x")

    run(loop, main())


def test_wait_for_gather_shield(loop, pair):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(pair[0], 10), 0.01)
        loop.call_later(0.01, pair[1].send, b"x")
        loop.call_later(0.01, pair[0].send, b"y")
        got = await asyncio.gather(loop.sock_recv(pair[0], 1), loop.sock_recv(pair[1], 1))
        loop.call_later(0.01, pair[1].send, b"z")
        return [*got, await asyncio.shield(loop.sock_recv(pair[0], 1))]

    assert run(loop, main()) == [b"x", b"y", b"z"]


def test_it_is_a_coroutine_that_begins_when_awaited(loop, pair):
    call = loop.sock_sendall(pair[1], b"x")
    assert asyncio.iscoroutine(call)
    assert isinstance(call, collections.abc.Coroutine)
    assert not asyncio.isfuture(call)
    with pytest.raises(BlockingIOError):
        pair[0].recv(1)
    run(loop, call)
    assert pair[0].recv(1) == b"x"
    call = loop.sock_recv(pair[0], 1)
    call.close()


def test_never_awaited(loop, pair):
    with pytest.warns(RuntimeWarning, match="never awaited"):
        loop.sock_recv(pair[0], 1)
        gc.collect()


def test_awaited_twice(loop, pair):
    async def main():
        call = loop.sock_sendall(pair[1], b"x")
        await call
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await call

    run(loop, main())


def test_by_hand(kernel_loop, pair):
    """send() and throw() as of a coroutine."""
    pair[1].send(b"x")
    call = kernel_loop.sock_recv(pair[0], 1)
    with pytest.raises(StopIteration) as caught:
        call.send(None)
    assert caught.value.value == b"x"
    call = kernel_loop.sock_recv(pair[0], 1)
    with pytest.raises(KeyError, match="thrown"):
        call.throw(KeyError("thrown"))
    call = kernel_loop.sock_recv(pair[0], 1)
    with pytest.raises(TypeError):
        call.throw(5)
    call = kernel_loop.sock_recv(pair[0], 1)
    with pytest.raises(ValueError, match="text"):
        call.throw(ValueError, "text", None)


def test_accept_and_connect(loop):
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    client = socket.socket()
    client.setblocking(False)

    async def main():
        accept = asyncio.create_task(loop.sock_accept(listener))
        await asyncio.sleep(0.01)
        assert await loop.sock_connect(client, listener.getsockname()) is None
        server, address = await accept
        assert address == client.getsockname()
        assert server.gettimeout() == 0
        await loop.sock_sendall(server, b"hello")
        assert await loop.sock_recv(client, 10) == b"hello"
        server.close()

    run(loop, main())
    client.close()
    listener.close()


@pytest.mark.parametrize("name", ["path", b"\0kloop-test-%d" % os.getpid()])
def test_unix_connect(loop, name, tmp_path):
    address = str(tmp_path / "socket") if name == "path" else name
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    listener.setblocking(False)
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)

    async def main():
        await loop.sock_connect(client, address)
        server, _ = await loop.sock_accept(listener)
        server.close()
        assert await loop.sock_recv(client, 1) == b""

    run(loop, main())
    client.close()
    listener.close()


def test_connect_refused(loop):
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            run(loop, loop.sock_connect(client, ("127.0.0.1", free_port())))
    assert "Connect call failed" in str(caught.value)


def test_connect_resolves_names(loop, monkeypatch):
    """Through the loop's resolver, stood in for: a machine need not know any name."""
    asked = []

    async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
        asked.append(host)
        return [(socket.AF_INET, type, proto, "", ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        run(loop, loop.sock_connect(client, ("name.test", listener.getsockname()[1])))
        assert client.getpeername() == listener.getsockname()
    assert asked == ["name.test"]


def test_datagrams(loop, datagrams):
    if not has_datagram_calls(loop):
        return
    left, right = datagrams

    async def main():
        assert await loop.sock_sendto(left, b"one", right.getsockname()) == 3
        assert await loop.sock_recvfrom(right, 100) == (b"one", left.getsockname())
        buffer = bytearray(5)
        waiting = asyncio.create_task(loop.sock_recvfrom_into(right, buffer))
        await asyncio.sleep(0.01)
        await loop.sock_sendto(left, b"two", right.getsockname())
        assert await waiting == (3, left.getsockname())
        assert buffer == b"two\0\0"
        await loop.sock_sendto(left, b"three", right.getsockname())
        assert (await loop.sock_recvfrom_into(right, buffer, 2))[0] == 2
        assert buffer == b"tho\0\0"

    run(loop, main())


def test_sendfile(loop, pair):
    data = os.urandom(300_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()

        async def main():
            async def receive():
                got = bytearray()
                while part := await loop.sock_recv(pair[0], 65536):
                    got += part
                return bytes(got)

            receiving = asyncio.create_task(receive())
            sent = await loop.sock_sendfile(pair[1], file, 1000, 200_000)
            pair[1].close()
            return sent, await receiving

        sent, got = run(loop, main())
    assert sent == 200_000 and got == data[1000:201_000]


def test_blocking_sockets_in_debug_mode(loop, pair):
    loop.set_debug(True)
    pair[0].setblocking(True)

    async def check(make):
        with pytest.raises(ValueError, match="must be non-blocking"):
            await make()

    for make in (lambda: loop.sock_recv(pair[0], 1), lambda: loop.sock_sendall(pair[0], b""),
                 lambda: loop.sock_accept(pair[0]), lambda: loop.sock_connect(pair[0], ""),
                 lambda: loop.sock_recv_into(pair[0], bytearray(1))):
        run(loop, check(make))


def test_tls_sockets_are_refused(loop):
    context = ssl.create_default_context()
    context.check_hostname = False
    sock = context.wrap_socket(socket.socket(), do_handshake_on_connect=False)

    async def check(make):
        with pytest.raises(TypeError, match="SSLSocket"):
            await make()

    for make in (lambda: loop.sock_recv(sock, 1), lambda: loop.sock_sendall(sock, b""),
                 lambda: loop.sock_accept(sock), lambda: loop.sock_connect(sock, ("h", 1))):
        run(loop, check(make))
    sock.close()


def test_closed_socket(loop, pair):
    pair[0].close()
    with pytest.raises(OSError) as caught:
        run(loop, loop.sock_recv(pair[0], 1))
    assert caught.value.errno == 9


def test_socket_of_a_transport(loop):
    async def main():
        left, right = socket.socketpair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        transport.pause_reading()
        left_again = socket.socket(fileno=os.dup(left.fileno()))
        with pytest.raises(RuntimeError, match="is used by transport"):
            await loop.sock_recv(left, 1)
        transport.close()
        left_again.close()
        right.close()
        await asyncio.sleep(0.01)

    run(loop, main())


def test_loop_closed_while_waiting(loop_factory, pair):
    loop = loop_factory()
    task = loop.create_task(loop.sock_recv(pair[0], 1))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()
    assert not task.done()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop.call_exception_handler = lambda context: None
        del task, loop
        gc.collect()


def test_many_at_once(loop):
    pairs = [socket.socketpair() for _ in range(100)]
    for left, right in pairs:
        left.setblocking(False)
        right.setblocking(False)

    async def echo(sock):
        while data := await loop.sock_recv(sock, 1000):
            await loop.sock_sendall(sock, data)

    async def client(sock, number):
        for turn in range(20):
            data = b"%d-%d" % (number, turn)
            await loop.sock_sendall(sock, data)
            assert await loop.sock_recv(sock, 1000) == data
        sock.close()

    async def main():
        await asyncio.gather(*(echo(right) for _, right in pairs),
                             *(client(left, n) for n, (left, _) in enumerate(pairs)))

    run(loop, main())
    for _, right in pairs:
        right.close()
