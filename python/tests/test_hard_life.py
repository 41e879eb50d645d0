# SPDX-License-Identifier: MulanPSL-2.0
"""fork, setuid, signals in storms, many loops, and an interpreter that ends in any state.

KLOOP_LOOPS=100000 and KLOOP_SIGNALS=... ask for more than a quick run has.
"""

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest

import kloop
from transport_tools import descriptors, receive_all, unix_pair, until

LOOPS = int(os.environ.get("KLOOP_LOOPS", "2000"))
SIGNALS = int(os.environ.get("KLOOP_SIGNALS", "10000"))
SECONDS = 60


def in_child(function, *args):
    """Run it in a forked child, and wait: what it raised stands in its output."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(SECONDS)
            function(*args)
            status = 0
        except BaseException:  # noqa: BLE001 - a child must not return
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


async def echo_once():
    one, two = unix_pair()
    reader, writer = await asyncio.open_connection(sock=one)
    writer.write(b"well")
    writer.write_eof()
    assert await asyncio.get_running_loop().run_in_executor(None, receive_all, two) == b"well"
    two.close()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


def use_in_child(loop, things):
    """What a child can do: nothing with the old loop, everything with a new one."""
    one, two = socket.socketpair()
    with one, two:
        for call in (lambda: loop._run(), lambda: loop.add_reader(one, print),
                     lambda: loop.call_later(1, print), lambda: loop.add_writer(two, print)):
            with pytest.raises(RuntimeError):
                call()
    for thing in things:
        for name in "write", "close", "abort":
            try:
                getattr(thing, name)(*([b"from the child"] if name == "write" else []))
            except (RuntimeError, AttributeError, TypeError):
                pass
    asyncio._set_running_loop(None)
    fresh = kloop.Loop()
    fresh.run_until_complete(echo_once())
    fresh.close()


class State:
    """What is open or under way when the process forks; finish() looks whether it is unharmed."""

    def __init__(self, certificates, name_server):
        self.certificates, self.name_server = certificates, name_server
        self.things = []

    async def idle(self):
        async def finish():
            await echo_once()
        return finish

    async def streams(self):
        one, two = unix_pair()
        reader, writer = await asyncio.open_connection(sock=one)
        self.things = [writer.transport]

        async def finish():
            writer.write(b"from the parent")
            writer.write_eof()
            got = await asyncio.get_running_loop().run_in_executor(None, receive_all, two)
            assert got == b"from the parent"
            two.sendall(b"and back")
            two.close()
            assert await reader.read() == b"and back"
            writer.close()
        return finish

    async def writing(self):
        one, two = unix_pair()
        _, writer = await asyncio.open_connection(sock=one)
        data = os.urandom(3_000_000)
        writer.write(data)
        self.things = [writer.transport]

        async def finish():
            writer.write_eof()
            got = await asyncio.get_running_loop().run_in_executor(None, receive_all, two)
            assert got == data
            two.close()
            writer.close()
        return finish

    async def handshake(self):
        loop = asyncio.get_running_loop()

        async def serve(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0,
                                            ssl=self.certificates.server())
        connecting = loop.create_task(asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=self.certificates.trusting(),
            server_hostname="localhost"))
        for _ in range(4):  # it has begun, and is not through
            await asyncio.sleep(0)

        async def finish():
            reader, writer = await connecting
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            server.close()
        return finish

    async def tls(self):
        async def serve(reader, writer):
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0,
                                            ssl=self.certificates.server())
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=self.certificates.trusting(),
            server_hostname="localhost")
        self.things = [writer.transport]

        async def finish():
            for number in range(3):
                writer.write(b"number %d" % number)
                assert await reader.readexactly(8) == b"number %d" % number
            writer.close()
            await writer.wait_closed()
            server.close()
        return finish

    async def executor(self):
        released = threading.Event()
        waiting = asyncio.get_running_loop().run_in_executor(None, released.wait, SECONDS)

        async def finish():
            released.set()
            assert await waiting is True
        return finish

    async def lookup(self):
        loop = asyncio.get_running_loop()
        looking = loop.create_task(loop.getaddrinfo("slow.test", 80, family=socket.AF_INET))
        await until(lambda: self.name_server.count("slow.test"))

        async def finish():
            self.name_server.release()
            assert {found[4] for found in await looking} == {("127.0.0.1", 80)}
        return finish

    async def file(self):
        read, write = os.pipe()
        loop = asyncio.get_running_loop()
        reading = asyncio.ensure_future(self.read(loop, read))
        await asyncio.sleep(0)

        async def finish():
            os.write(write, b"12345")
            assert await reading == b"12345"
            os.close(read)
            os.close(write)
        return finish

    @staticmethod
    async def read(loop, fd):
        return await loop._file_read(fd, 5, -1, False)

    async def process(self):
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

        async def finish():
            assert await child.communicate(b"a line") == (b"a line", None)
        return finish


STATES = [name for name in vars(State) if not name.startswith("_") and name != "read"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("where", ["callback", "outside"])
def test_fork(dns_loop, certificates, name_server, state, where):
    room = State(certificates, name_server)

    async def begin():
        finish = await getattr(room, state)()
        if where == "callback":
            in_child(use_in_child, dns_loop, room.things)
        return finish

    finish = dns_loop.run_until_complete(asyncio.wait_for(begin(), SECONDS))
    if where == "outside":
        in_child(use_in_child, dns_loop, room.things)
    dns_loop.run_until_complete(asyncio.wait_for(finish(), SECONDS))
    dns_loop.run_until_complete(asyncio.wait_for(echo_once(), SECONDS))


def works(connection):
    """In another process, however it was started."""
    kloop.run(asyncio.wait_for(echo_once(), SECONDS))
    connection.send("well")


def refuses():
    """In a process that was forked by a running loop."""
    with pytest.raises(RuntimeError, match="made before fork"):
        parents_loop.call_later(1, print)
    return "refused"


parents_loop = None


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(kernel_loop, monkeypatch, method):
    """Of a loop that runs, has connections, and a thread; it goes on as if nothing had been."""
    context = multiprocessing.get_context(method)
    monkeypatch.setitem(globals(), "parents_loop", kernel_loop)

    async def main():
        one, two = unix_pair()
        reader, writer = await asyncio.open_connection(sock=one)
        ours, theirs = context.Pipe()
        process = context.Process(target=works, args=(theirs,))
        process.start()
        theirs.close()
        assert await kernel_loop.run_in_executor(None, ours.recv) == "well"
        await kernel_loop.run_in_executor(None, process.join)
        assert process.exitcode == 0
        ours.close()
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            assert await kernel_loop.run_in_executor(pool, os.getppid) != os.getppid()
            if method == "fork":
                assert await kernel_loop.run_in_executor(pool, refuses) == "refused"
        two.sendall(b"still there")
        two.close()
        assert await reader.read() == b"still there"
        writer.close()
        await echo_once()

    kernel_loop.run_until_complete(asyncio.wait_for(main(), 2 * SECONDS))


def unprivileged(path, loop):
    """With a loop from before, a child that is root gives it up; returns what reads by a loop."""
    loop.run_until_complete(echo_once())
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    with pytest.raises(PermissionError):
        os.open(path, os.O_RDONLY)

    async def read():
        async with kloop.open(path, "rb") as file:
            return await file.read()

    return read


def drop_privileges(path):
    """What may the ring open then?"""
    loop = kloop.Loop()
    read = unprivileged(path, loop)
    with pytest.raises(PermissionError):
        loop.run_until_complete(read())
    loop.run_until_complete(echo_once())
    loop.close()


def test_setuid_after_the_start(tmp_path):
    """Without SQPOLL, a ring opens nothing that the process itself may not open any more."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(0 if os.geteuid() != 0 else 0o600)
    for folder in tmp_path, tmp_path.parent, tmp_path.parent.parent:
        if folder.name.startswith("pytest"):
            folder.chmod(0o755)
    in_child(drop_privileges, str(path))


def keep_privileges(path):
    """The thread of SQPOLL has those that the process had when the loop was made."""
    loop = kloop.Loop(sqpoll=True)
    read = unprivileged(path, loop)
    assert loop.run_until_complete(read()) == b"secret"
    loop.close()
    fresh = kloop.Loop()  # as docs/threat-model.md says: loops are made afterwards
    with pytest.raises(PermissionError):
        fresh.run_until_complete(read())
    fresh.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_setuid_with_sqpoll(tmp_path):
    """What docs/threat-model.md warns of is so."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(0o600)
    in_child(keep_privileges, str(path))


def test_signals_in_a_storm(kernel_loop):
    """However many come: after the last of each kind its handler runs once more."""
    loop = kernel_loop
    kinds = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH]
    sent = dict.fromkeys(kinds, 0)
    seen = dict.fromkeys(kinds, -1)
    calls = dict.fromkeys(kinds, 0)

    def came(kind):
        seen[kind] = sent[kind]
        calls[kind] += 1

    for kind in kinds:
        loop.add_signal_handler(kind, came, kind)

    def storm():
        for number in range(SIGNALS):
            kind = kinds[number % len(kinds)]
            sent[kind] += 1
            os.kill(os.getpid(), kind)

    async def main():
        threads = [threading.Thread(target=storm) for _ in range(1)]
        for thread in threads:
            thread.start()
        await until(lambda: not any(thread.is_alive() for thread in threads), SECONDS)
        await until(lambda: all(seen[kind] == sent[kind] for kind in kinds), SECONDS)

    loop.run_until_complete(main())
    for kind in kinds:
        loop.remove_signal_handler(kind)
        assert 0 < calls[kind] <= sent[kind]
    assert sum(sent.values()) == SIGNALS


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_many_loops():
    """Made, used and closed, one after the other: nothing is left."""
    def one():
        loop = kloop.Loop()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    for _ in range(LOOPS // 10):
        one()
    before, memory = descriptors(), rss_bytes()
    for _ in range(LOOPS):
        one()
    assert descriptors() == before
    assert rss_bytes() - memory < 8 << 20


def test_a_loop_that_goes_to_another_thread(kernel_loop):
    """The former thread lives on, and holds neither a connection nor a port open."""
    loop = kernel_loop
    one, two = unix_pair()

    async def begin():
        server = await asyncio.start_server(lambda *args: None, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(sock=one)
        reading = asyncio.ensure_future(reader.read(10))
        await asyncio.sleep(0.01)
        return server, writer, reading

    async def end(server, writer, reading):
        writer.write(b"by another thread")
        await writer.drain()
        address = server.sockets[0].getsockname()
        server.close()
        writer.close()
        await asyncio.wait([reading])
        return address

    server, writer, reading = loop.run_until_complete(begin())
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        address = pool.submit(loop.run_until_complete, end(server, writer, reading)).result(SECONDS)
        assert receive_all(two) == b"by another thread"  # to its end, which this thread waits for
        with pytest.raises(ConnectionRefusedError):
            # The kernel takes its time with the port, as after any close().
            for _ in range(10_000):
                socket.create_connection(address, SECONDS).close()
                time.sleep(0.001)
        pool.submit(loop.close).result(SECONDS)
    two.close()


# ---- the end of the interpreter ----------------------------------------------

PROLOGUE = """
import asyncio, atexit, os, socket, sys, threading, warnings
import kloop
warnings.simplefilter("ignore")
async def serve(reader, writer):
    await reader.read()
async def busy(loop):
    global server, reader, writer, call, one, two
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * 3_000_000)
    one, two = socket.socketpair()
    one.setblocking(False)
    call = asyncio.ensure_future(loop.sock_recv(one, 10))
    loop.call_later(1000, print)
    loop.add_reader(two, print)
    await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    global child
    child = await asyncio.create_subprocess_exec("true")
    await asyncio.sleep(0)
loop = kloop.Loop()
"""
ENDS = {
    "without close": ("loop.run_until_complete(busy(loop))", 0),
    "exit in a callback": ("""
async def main():
    await busy(loop)
    loop.call_soon(sys.exit, 3)
    await asyncio.sleep(1000)
loop.run_until_complete(main())""", 3),
    "error in a task": ("""
async def main():
    await busy(loop)
    raise ValueError
loop.run_until_complete(main())""", 1),
    "os._exit in a callback": ("""
async def main():
    await busy(loop)
    os._exit(4)
loop.run_until_complete(main())""", 4),
    "close in atexit": ("loop.run_until_complete(busy(loop)); atexit.register(loop.close)", 0),
    "run in atexit": ("""
loop.run_until_complete(busy(loop))
atexit.register(lambda: loop.run_until_complete(asyncio.sleep(0.001)))""", 0),
    "in a thread that is left": ("""
started = threading.Event()
async def main():
    await busy(loop)
    started.set()
    await asyncio.sleep(1000)
threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True).start()
started.wait()""", 0),
    "in a cycle": ("""
loop.run_until_complete(busy(loop))
loop.self = loop; sys.self = loop; del loop""", 0),
    "kept by a module": ("loop.run_until_complete(busy(loop)); sys.kept = [loop, writer, call]", 0),
}


@pytest.mark.parametrize("end", sorted(ENDS))
def test_end_of_the_interpreter(end):
    code, status = ENDS[end]
    result = subprocess.run([sys.executable, "-c", PROLOGUE + code], capture_output=True,
                            text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    assert result.returncode == status, result.stderr
    assert "Fatal Python error" not in result.stderr
