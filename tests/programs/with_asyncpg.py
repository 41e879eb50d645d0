# SPDX-License-Identifier: MulanPSL-2.0
"""asyncpg against a PostgreSQL of our own: TCP, Unix socket, and TLS by start_tls()."""

import asyncio
import contextlib
import io
import os
import signal

import asyncpg

import servers
from world import TIMEOUT, checksum, pattern, raised, until

ENDS = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)


@contextlib.contextmanager
def peers(folder, certificates):
    with servers.postgres(folder, certificates) as found:
        yield {"postgres": found}


def where(world, kind="tcp"):
    found = world.peers["postgres"]
    options = {"user": "tester", "database": "postgres", "password": found["password"],
               "port": found["port"], "timeout": TIMEOUT, "command_timeout": TIMEOUT,
               "host": found["socket"] if kind == "unix" else "localhost",
               "ssl": world.client_tls() if kind == "tls" else False}
    return options


@contextlib.asynccontextmanager
async def connected(world, kind="tcp", **options):
    connection = await asyncpg.connect(**{**where(world, kind), **options})
    try:
        yield connection
    finally:
        await connection.close()


async def queries(world, kind):
    async with connected(world, kind) as connection:
        encrypted = await connection.fetchval(
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        prepared = await connection.prepare("select $1::int * $2::int, $3::text")
        rows = [await prepared.fetchrow(number, 7, f"row {number}") for number in range(150)]
        wide = await connection.fetch(
            "select n, repeat(md5(n::text), 20) from generate_series(1, 3000) n")
        big = pattern(2_000_000)
        returned = await connection.fetchval("select $1::bytea", big)
        assert returned == big
        await connection.execute("create temporary table pairs (a int, b text)")
        await connection.executemany("insert into pairs values ($1, $2)",
                                     [(number, str(number)) for number in range(2000)])
        total = await connection.fetchval("select sum(a) + sum(length(b)) from pairs")
        wrong = [await raised(connection.execute("select no_such_column"), asyncpg.PostgresError)
                 for _ in range(3)]
        async with connection.transaction():
            steps = [row["n"] async for row in connection.cursor(
                "select n from generate_series(1, 500) n", prefetch=50)]
    return {"encrypted": encrypted, "rows": [sum(row[0] for row in rows), rows[-1][1]],
            "wide": checksum(*(row[1] for row in wide)), "bytes": len(returned),
            "total": total, "wrong": wrong, "cursor": sum(steps)}


async def case_queries(world):
    return await queries(world, "tcp")


async def case_queries_over_tls(world):
    return await queries(world, "tls")


async def case_queries_over_a_unix_socket(world):
    return await queries(world, "unix")


async def copy(world, kind):
    """COPY both ways; the server pushes back, and so does what takes the rows."""
    async with connected(world, kind) as connection:
        await connection.execute("create temporary table copied (n int, t text)")
        lines = b"".join(b"%d\t%s\n" % (number, b"x" * (number % 300)) for number in range(30000))
        took = await connection.copy_to_table("copied", source=io.BytesIO(lines))
        records = await connection.copy_records_to_table(
            "copied", records=[(number, "y" * 100) for number in range(10000)])
        parts = []

        async def take(data):
            parts.append(bytes(data))
            if len(parts) % 100 == 0:
                await asyncio.sleep(0)

        gave = await connection.copy_from_query("select * from copied order by n, t", output=take)
    return {"took": took, "records": records, "gave": gave, "sum": checksum(*parts)}


async def case_copy(world):
    return await copy(world, "tcp")


async def case_copy_over_tls(world):
    return await copy(world, "tls")


async def case_pool(world):
    """Forty tasks share five connections."""
    async with asyncpg.create_pool(**where(world), min_size=2, max_size=5) as pool:
        async def one(number):
            async with pool.acquire() as connection:
                async with connection.transaction():
                    await connection.execute("select pg_sleep(0.001)")
                    return await connection.fetchval("select $1::int + 1", number)

        values = await asyncio.gather(*map(one, range(200)))
        size = pool.get_size()
    return {"sum": sum(values), "size": size}


async def case_listen_and_notify(world):
    heard = []
    async with connected(world) as listener, connected(world, "unix") as speaker:
        await listener.add_listener("news", lambda *arguments: heard.append(arguments[3]))
        for number in range(100):
            await speaker.execute(f"notify news, 'item {number}'")
        await until(lambda: len(heard) == 100, "all is heard")
        await listener.reset()
        await speaker.execute("notify news, 'unheard'")
        await listener.fetchval("select 1")
    return {"heard": len(heard), "sum": checksum(*heard)}


async def sleeps(other, connection):
    """Wait until the server is in the middle of its query."""
    while await other.fetchval("select wait_event from pg_stat_activity where pid = $1",
                               connection.get_server_pid()) != "PgSleep":
        await asyncio.sleep(0.01)


async def cancelled(world, kind):
    """Queries that are cancelled or take too long; the connection lives on."""
    found = {}
    async with connected(world, kind) as connection:
        running = asyncio.ensure_future(connection.execute("select pg_sleep(60)"))
        async with connected(world) as other:
            await sleeps(other, connection)
        running.cancel()
        found["cancelled"] = await raised(running, asyncio.CancelledError)
        found["after"] = await connection.fetchval("select 1")
        found["late"] = await raised(connection.execute("select pg_sleep(60)", timeout=0.1),
                                     asyncio.TimeoutError)
        found["again"] = await connection.fetchval("select 2")
        # As often as it can be, at odd moments.
        done = 0
        for number in range(20):
            task = asyncio.ensure_future(
                connection.fetch("select * from generate_series(1, 20000)"))
            await asyncio.sleep(number / 3000)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            done += await connection.fetchval("select 1")
        found["rounds"] = done
    return found


async def case_cancelled_queries(world):
    return await cancelled(world, "tcp")


async def case_cancelled_queries_over_tls(world):
    return await cancelled(world, "tls")


async def case_ended_by_the_server(world):
    """pg_terminate_backend() in the middle of a query, and without one."""
    found = {}
    for kind in "tcp", "tls", "unix":
        async with connected(world, kind) as victim, connected(world) as other:
            lost = asyncio.Event()
            victim.add_termination_listener(lambda *_: lost.set())
            running = asyncio.ensure_future(victim.execute("select pg_sleep(60)"))
            await sleeps(other, victim)
            await other.execute("select pg_terminate_backend($1)", victim.get_server_pid())
            error = await raised(running, *ENDS)
            await lost.wait()
            found[kind] = [error, victim.is_closed(), await raised(victim.fetch("select 1"), *ENDS)]
    async with connected(world) as victim, connected(world) as other:
        await other.execute("select pg_terminate_backend($1)", victim.get_server_pid())
        await until(victim.is_closed, "it is noticed without a query")
        found["idle"] = victim.is_closed()
    return found


async def case_killed_server(world):
    """SIGKILL for a backend in mid-query: the server drops all connections and recovers."""
    found = {}
    victim, other = [await asyncpg.connect(**where(world, kind)) for kind in ("tls", "tcp")]
    running = asyncio.ensure_future(
        victim.fetch("select repeat('x', 1000) from generate_series(1, 100000000)"))
    await asyncio.sleep(0.1)
    os.kill(victim.get_server_pid(), signal.SIGKILL)
    found["victim"] = await raised(running, *ENDS)
    await until(other.is_closed, "the other one is ended as well")
    await asyncio.gather(victim.close(timeout=TIMEOUT), other.close(timeout=TIMEOUT))
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                async with connected(world) as connection:
                    found["again"] = await connection.fetchval("select 1")
                    break
            except (*ENDS, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
    return found


async def case_refused(world):
    """What cannot be connected to, and why."""
    found = {"password": await raised(asyncpg.connect(**{**where(world), "password": "wrong"}),
                                      asyncpg.PostgresError),
             "nobody": await raised(
                 asyncpg.connect(**{**where(world), "port": servers.free_port()}), OSError)}
    import ssl
    found["stranger"] = await raised(
        asyncpg.connect(**{**where(world), "ssl": ssl.create_default_context()}), ssl.SSLError)
    async with connected(world, ssl="prefer") as connection:
        found["prefer"] = await connection.fetchval(
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    return found
