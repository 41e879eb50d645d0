# SPDX-License-Identifier: MulanPSL-2.0
"""anyio on its asyncio backend: task groups, scopes, sockets, TLS, processes, threads, signals."""

import asyncio
import os
import signal
import socket
import sys

import anyio
from anyio import from_thread, to_process, to_thread
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import MultiListener
from anyio.streams.tls import TLSListener, TLSStream

from world import TIMEOUT, checksum, free_port, loop_kind, pattern, raised


async def case_task_groups_and_scopes(world):
    found = {"events": []}
    events = found["events"]

    async def child(number):
        try:
            await anyio.sleep(TIMEOUT if number else 0.01)
        except anyio.get_cancelled_exc_class():
            events.append("cancelled")
            raise
        raise ValueError("as asked")

    async def group():
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(child, number)

    found["error"] = await raised(group(), ValueError)
    with anyio.move_on_after(0.05) as scope:
        await anyio.sleep(TIMEOUT)
    found["moved on"] = scope.cancel_called

    async def too_long():
        with anyio.fail_after(0.05):
            await anyio.sleep_forever()

    found["fails"] = await raised(too_long(), TimeoutError)
    with anyio.move_on_after(0.05) as outer:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
            events.append("shielded")
        await anyio.sleep(TIMEOUT)
    found["outer"] = outer.cancel_called

    async def service(task_status=anyio.TASK_STATUS_IGNORED):
        task_status.started("ready")
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        found["started"] = await tasks.start(service)
        tasks.cancel_scope.cancel()

    send, receive = anyio.create_memory_object_stream(10)

    async def produce(number):
        async with send.clone() as mine:
            for item in range(100):
                await mine.send(number * 1000 + item)

    async with anyio.create_task_group() as tasks, receive:
        for number in range(5):
            tasks.start_soon(produce, number)
        await anyio.sleep(0)
        send.close()
        found["received"] = sum([item async for item in receive])
    limiter = anyio.CapacityLimiter(3)
    most = 0

    async def limited():
        nonlocal most
        async with limiter:
            most = max(most, limiter.borrowed_tokens)
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(limited)
    found["most"] = most
    return found


async def serve_sums(stream):
    """Takes a line that says how much comes, that much, and answers."""
    async with stream:
        reader = BufferedByteReceiveStream(stream)
        while True:
            try:
                count = int(await reader.receive_until(b"\n", 100))
            except anyio.IncompleteRead:
                return
            await stream.send(checksum(await reader.receive_exactly(count)).encode() + b"\n")


async def ask_sums(stream, sizes):
    reader = BufferedByteReceiveStream(stream)
    sums = []
    for size in sizes:
        body = pattern(size)
        await stream.send(b"%d\n" % size)
        if body:
            await stream.send(body)
        answer = await reader.receive_until(b"\n", 100)
        assert answer.decode() == checksum(body)
        sums.append(answer.decode())
    return sums


async def exchange(listener, connect, sizes=(0, 1, 1000, 65536, 65537, 2_000_000)):
    found = []

    async def one():
        async with await connect() as stream:
            found.append(await ask_sums(stream, sizes))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve_sums)
        async with anyio.create_task_group() as clients:
            for _ in range(15):
                clients.start_soon(one)
        # Ended in the middle: the others are closed, and so is this one.
        stream = await connect()
        await stream.send(b"1000\n" + bytes(500))
        tasks.cancel_scope.cancel()
    await stream.aclose()
    await listener.aclose()
    assert all(one == found[0] for one in found)
    return {"connections": len(found), "sum": checksum(*found[0])}


async def case_tcp(world):
    port = free_port()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    assert isinstance(listener, MultiListener)
    return await exchange(listener, lambda: anyio.connect_tcp("localhost", port))


async def case_tls(world):
    port = free_port()
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    listener = TLSListener(plain, world.server_tls())
    return await exchange(listener, lambda: anyio.connect_tcp(
        "localhost", port, tls=True, ssl_context=world.client_tls()))


async def case_start_tls(world):
    """A connection that becomes encrypted in the middle."""
    async def serve(stream):
        async with stream:
            assert await stream.receive() == b"STARTTLS\n"
            await stream.send(b"OK\n")
            await serve_sums(await TLSStream.wrap(stream, server_side=True,
                                                  ssl_context=world.server_tls()))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.send(b"STARTTLS\n")
        assert await stream.receive() == b"OK\n"
        async with await TLSStream.wrap(stream, hostname="localhost",
                                        ssl_context=world.client_tls()) as encrypted:
            sums = await ask_sums(encrypted, (1, 100_000))
            version = encrypted.extra(anyio.streams.tls.TLSAttribute.tls_version)
        tasks.cancel_scope.cancel()
    await listener.aclose()
    return {"sums": sums, "version": version}


async def case_unix_sockets(world):
    path = world.path("socket")
    listener = await anyio.create_unix_listener(path)
    # anyio 3.6 repeats itself where a Unix socket takes a part only.
    return await exchange(listener, lambda: anyio.connect_unix(path), (0, 1, 1000, 65536))


# anyio 3.6 sets its future at each readiness until it comes to remove the reader.
case_unix_sockets.permits = "Future.set_result"


async def case_udp(world):
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as server:
        port = server.extra(anyio.abc.SocketAttribute.local_port)

        async def echo():
            async for packet, (host, sender) in server:
                await server.sendto(packet.upper(), host, sender)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(echo)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as client:
                answers = []
                for number in range(200):
                    await client.send(b"packet %d" % number)
                    with anyio.fail_after(TIMEOUT):
                        answers.append(await client.receive())
            tasks.cancel_scope.cancel()
    return {"answers": len(answers), "sum": checksum(*answers)}


async def case_sockets_by_readiness(world):
    """wait_socket_readable() and its kin, on plain sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        total = 0

        async def read():
            nonlocal total
            while True:
                await anyio.wait_socket_readable(theirs)
                part = theirs.recv(65536)
                if not part:
                    return
                total += len(part)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            left = 3_000_000
            while left:
                await anyio.wait_socket_writable(ours)
                left -= ours.send(bytes(min(left, 100_000)))
            ours.shutdown(socket.SHUT_WR)
    names = await anyio.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM, family=socket.AF_INET)
    return {"total": total, "names": [repr(one[4]) for one in names]}


async def case_processes(world):
    done = await anyio.run_process([sys.executable, "-S", "-c", "import sys; "
                                    "data = sys.stdin.buffer.read(); "
                                    "sys.stdout.buffer.write(data[::-1]); "
                                    "print('noted', file=sys.stderr)"], input=pattern(500_000))
    found = {"reversed": done.stdout == pattern(500_000)[::-1], "stderr": done.stderr.decode(),
             "status": done.returncode}
    many = []

    async def one(number):
        finished = await anyio.run_process(["/bin/sh", "-c", f"echo {number}; exit {number}"],
                                           check=False)
        many.append((int(finished.stdout), finished.returncode))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, number)
    found["many"] = sorted(many)
    async with await anyio.open_process(["cat"]) as process:
        await process.stdin.send(b"hello")
        found["cat"] = (await process.stdout.receive()).decode()
        await process.stdin.aclose()
        found["cat ends"] = await process.wait()
    with anyio.move_on_after(0.1) as scope:
        await anyio.run_process(["sleep", "60"])
    found["cancelled"] = scope.cancel_called
    async with await anyio.open_process(["sleep", "60"]) as process:
        process.terminate()
        found["terminated"] = await process.wait()
    return found


async def case_threads(world):
    found = {}
    loop = asyncio.get_running_loop()

    def work(number):
        from_thread.run(anyio.sleep, 0)
        return from_thread.run_sync(lambda: (asyncio.get_running_loop() is loop) * number)

    results = []

    async def one(number):
        results.append(await to_thread.run_sync(work, number))

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(one, number)
    found["sum"] = sum(results)

    def use_portal():
        with from_thread.start_blocking_portal() as portal:
            # A loop of the thread's own, as its policy makes it.
            return portal.call(lambda: asyncio.get_running_loop() is not loop)

    found["portal"] = await to_thread.run_sync(use_portal)
    path = anyio.Path(world.path())
    await path.write_bytes(pattern(100_000))
    async with await anyio.open_file(path, "rb") as file:
        found["file"] = checksum(await file.read())
    return found


async def case_other_processes(world):
    """to_process: functions in interpreters of their own, over pipes."""
    limiter = anyio.CapacityLimiter(2)
    values = []

    async def one(number):
        values.append(await to_process.run_sync(divmod, number, 7, limiter=limiter))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(one, number)
    return {"values": sorted(values),
            "error": await raised(to_process.run_sync(divmod, 1, 0), ZeroDivisionError)}


async def case_signals(world):
    got = []
    with anyio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
        for number in signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1:
            os.kill(os.getpid(), number)
            with anyio.fail_after(TIMEOUT):
                async for one in signals:
                    got.append(one.name)
                    break
    return {"got": got}


def run_it(function, **options):
    """anyio.run(), as a program calls it, in a thread that has no loop."""
    return anyio.run(function, backend="asyncio", backend_options=options)


async def case_anyio_run(world):
    """By the policy, which anyio 3 takes as an option."""
    async def main():
        await anyio.sleep(0)
        return loop_kind()

    if world.loop == "asyncio":
        return {"as meant": await to_thread.run_sync(run_it, main) == "asyncio"}
    policy = __import__(world.loop).EventLoopPolicy()
    former = asyncio.get_event_loop_policy()
    try:
        kind = await to_thread.run_sync(lambda: run_it(main, policy=policy))
    finally:
        asyncio.set_event_loop_policy(former)
    return {"as meant": kind == world.loop}
