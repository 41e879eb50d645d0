# SPDX-License-Identifier: MulanPSL-2.0
"""Peers of another make: openssl s_client and s_server, and their KeyUpdate."""

import asyncio
import contextlib
import subprocess

import pytest

from port_tools import free_port
from tls_tools import OPENSSL, VERSIONS, connect, finish, run, start_echo
from transport_tools import Recorder, until, wait

FLAGS = {"1.2": "-tls1_2", "1.3": "-tls1_3"}


@contextlib.asynccontextmanager
async def program(*arguments):
    """An openssl program with pipes for its input and output; (process, its output so far)."""
    assert OPENSSL, "the openssl command is needed for the TLS tests"
    process = await asyncio.create_subprocess_exec(
        OPENSSL, *map(str, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    output = bytearray()

    async def read():
        while data := await process.stdout.read(4096):
            output.extend(data)

    reading = asyncio.get_running_loop().create_task(read())
    try:
        yield process, output
        process.stdin.close()
        await wait(process.wait())
        await wait(reading)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        reading.cancel()


async def connect_soon(loop, port, context):
    """The program needs a moment to listen."""
    for _ in range(1200):
        try:
            return await connect(loop, ("127.0.0.1", port), context)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    raise AssertionError("openssl s_server does not listen")


@pytest.mark.parametrize("version", VERSIONS)
def test_s_client(tls_loop, certificates, version):
    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server())
        async with program("s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile",
                           certificates.ca, "-verify_return_error", "-servername", "localhost",
                           FLAGS[version]) as (process, output):
            for number in range(20):
                process.stdin.write(b"line %d\n" % number)
                await until(lambda n=number: b"line %d\n" % n in output)
            assert made[0].transport.get_extra_info("cipher")[1] == f"TLSv{version}"
        await until(lambda: made[0].transport.is_closing())
        await finish(server)

    run(tls_loop, case())


@pytest.mark.parametrize("version", VERSIONS)
def test_s_server(tls_loop, certificates, version):
    """-rev sends each line back in reverse."""
    async def case():
        port = free_port()
        cert, key = certificates.localhost
        async with program("s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key,
                           FLAGS[version], "-rev", "-naccept", "1") as (_, _):
            transport, protocol = await connect_soon(tls_loop, port, certificates.trusting())
            for number in range(20):
                del protocol.data[:]
                line = b"%d%s" % (number, b"abc" * 1000)
                transport.write(line + b"\n")
                await until(lambda l=line: len(protocol.data) == len(l) + 1)
                assert protocol.data == line[::-1] + b"\n"
            transport.close()
            await wait(protocol.lost)
            assert protocol.error is None

    run(tls_loop, case())


@pytest.mark.parametrize("command", [b"k\n", b"K\n"])
def test_key_update_of_a_client(tls_loop, certificates, command):
    """s_client's k renews its key, K asks for ours as well; then data goes on both ways."""
    async def case():
        made, server, address = await start_echo(tls_loop, certificates.server(version="1.3"))
        async with program("s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile",
                           certificates.ca, "-tls1_3") as (process, output):
            for number in range(10):
                process.stdin.write(b"line %d\n" % number)
                await until(lambda n=number: b"line %d\n" % n in output)
                before = output.count(b"KEYUPDATE")
                process.stdin.write(command)
                await until(lambda b=before: output.count(b"KEYUPDATE") > b)
            assert made[0].transport.is_reading()
            process.stdin.write(b"Q\n")
        assert b"error" not in output.lower().replace(b"verify error", b"")
        await until(lambda: made[0].transport.is_closing())
        await finish(server)
        assert not tls_loop.failures

    run(tls_loop, case())


@pytest.mark.parametrize("command", [b"k\n", b"K\n"])
def test_key_update_of_a_server(tls_loop, certificates, command):
    async def case():
        port = free_port()
        cert, key = certificates.localhost
        async with program("s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key,
                           "-tls1_3", "-naccept", "1") as (process, output):
            updates = []
            context = certificates.trusting()
            context._msg_callback = lambda *args: (
                updates.append(args) if args[1] == "read" and args[4] == 24 else None)
            transport, protocol = await connect_soon(tls_loop, port, context)
            for number in range(10):
                transport.write(b"to you %d\n" % number)
                await until(lambda n=number: b"to you %d\n" % n in output)
                # A line is a command only if it arrives by itself.
                process.stdin.write(command)
                await until(lambda n=number: len(updates) > n)
                process.stdin.write(b"to me %d\n" % number)
                await until(lambda n=number: b"to me %d\n" % n in protocol.data)
            transport.write(b"the end\n")
            await until(lambda: b"the end\n" in output)
            transport.close()
            await wait(protocol.lost)
            assert protocol.error is None
        assert not tls_loop.failures

    run(tls_loop, case())


def test_renegotiation_is_refused(tls_loop, certificates):
    """s_client's R with TLS 1.2: the connection ends or goes on, but nothing is negotiated."""
    async def case():
        lost = []

        class Server(Recorder):
            def connection_lost(self, error):
                super().connection_lost(error)
                lost.append(error)

        server = await tls_loop.create_server(
            Server, "127.0.0.1", 0, ssl=certificates.server(version="1.2"))
        port = server.sockets[0].getsockname()[1]
        async with program("s_client", "-connect", f"127.0.0.1:{port}", "-CAfile",
                           certificates.ca, "-tls1_2") as (process, output):
            await until(lambda: b"Verify return code" in output)
            process.stdin.write(b"R\n")
            await until(lambda: b"RENEGOTIATING" in output)
            await until(lambda: lost or b"no renegotiation" in output)
            with contextlib.suppress(ConnectionError):
                process.stdin.write(b"Q\n")
                await process.stdin.drain()
        await until(lambda: lost)
        await finish(server)

    run(tls_loop, case())
