# SPDX-License-Identifier: MulanPSL-2.0
"""redis-py's asyncio client against a redis-server of our own: TCP, Unix socket, TLS."""

import asyncio
import contextlib

import redis.asyncio as redis
from redis import exceptions

import servers
from world import TIMEOUT, checksum, pattern, raised, until


@contextlib.contextmanager
def peers(folder, certificates):
    with servers.redis(folder, certificates) as found:
        yield {"redis": found}


@contextlib.asynccontextmanager
async def connected(world, kind="tcp", **options):
    """An empty database."""
    found = world.peers["redis"]
    if kind == "unix":
        options["unix_socket_path"] = found["socket"]
    elif kind == "tls":
        options.update(host="localhost", port=found["tls_port"], ssl=True, ssl_ca_certs=world.ca)
    else:
        options.update(host="localhost", port=found["port"])
    client = redis.Redis(socket_connect_timeout=TIMEOUT, **options)
    try:
        await client.ping()
        await client.flushall()
        yield client
    finally:
        await client.close()
        await client.connection_pool.disconnect()


async def commands(world, kind):
    async with connected(world, kind) as client:
        for number in range(150):
            await client.set(f"key {number}", f"value {number}")
        values = [await client.get(f"key {number}") for number in range(150)]

        async def count(number):
            await client.incrby("counter", number)
            await client.lpush("list", number)
            return await client.hset("hash", f"field {number}", number)

        # Each has a connection of its own, and with TLS a context.
        added = await asyncio.gather(*map(count, range(10 if kind == "tls" else 100)))
        big = pattern(5 << 20)
        await client.set("big", big)
        assert await client.get("big") == big
        async with client.pipeline(transaction=False) as pipe:
            for number in range(3000):
                pipe.set(f"p{number}", "x" * (number % 200)).get(f"p{number}")
            piped = await pipe.execute()
        async with client.pipeline(transaction=True) as pipe:
            transaction = await pipe.incr("counter").incr("counter").get("counter").execute()
        keys = [key async for key in client.scan_iter("p*", count=500)]
        wrong = await raised(client.lpush("counter", 1), exceptions.ResponseError)
        return {"values": checksum(*values), "added": sum(added), "list": await client.llen("list"),
                "big": checksum(big), "piped": checksum(*map(repr, piped)),
                "transaction": [int(one) for one in transaction], "keys": len(set(keys)),
                "wrong": wrong}


async def case_commands(world):
    return await commands(world, "tcp")


async def case_commands_over_tls(world):
    return await commands(world, "tls")


async def case_commands_over_a_unix_socket(world):
    return await commands(world, "unix")


async def publish(world, kind):
    heard = {"news": [], "sport": []}
    async with connected(world, kind) as client:
        async with client.pubsub() as listener:
            await listener.subscribe("news")
            await listener.psubscribe("spo*")

            async def listen():
                async for message in listener.listen():
                    if message["type"] in ("message", "pmessage"):
                        heard[message["channel"].decode()].append(message["data"])
                    if message["data"] == b"end":
                        return

            listening = asyncio.ensure_future(listen())
            while not (await client.pubsub_numpat() == 1 and
                       (await client.pubsub_numsub("news"))[0][1] == 1):
                await asyncio.sleep(0.01)
            reached = 0
            for number in range(200):
                reached += await client.publish("news", f"news {number}")
                reached += await client.publish("sport", bytes(number * 10))
            await client.publish("news", "end")
            await listening
            nothing = await listener.get_message(timeout=0.05)
            await listener.unsubscribe()
            await listener.punsubscribe()
    return {"reached": reached, "nothing": nothing,
            "heard": {name: [len(items), checksum(*items)] for name, items in heard.items()}}


async def case_publish_and_subscribe(world):
    return await publish(world, "tcp")


async def case_publish_and_subscribe_over_tls(world):
    return await publish(world, "tls")


async def case_blocking_pop(world):
    """Waited for, timed out by the server, by the client, and cancelled."""
    found = {}
    async with connected(world) as client:
        async def consume():
            taken = []
            while (item := (await client.blpop("queue", timeout=TIMEOUT))[1]) != b"end":
                taken.append(int(item))
            return taken

        consumers = [asyncio.ensure_future(consume()) for _ in range(10)]
        for number in range(300):
            await client.rpush("queue", number)
        await client.rpush("queue", *["end"] * 10)
        taken = await asyncio.gather(*consumers)
        found["taken"] = sum(map(sum, taken)), sum(map(len, taken))
        found["server's timeout"] = await client.blpop("empty", timeout=0.1)
        found["client's timeout"] = await raised(
            asyncio.wait_for(client.blpop("empty", timeout=TIMEOUT), 0.1), asyncio.TimeoutError)
        waiting = [asyncio.ensure_future(client.blpop("empty", timeout=TIMEOUT)) for _ in range(20)]
        while (await client.info("clients"))["blocked_clients"] < 20:
            await asyncio.sleep(0.01)
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        found["cancelled"] = sum(isinstance(one, asyncio.CancelledError) for one in ended)
        while (await client.info("clients"))["blocked_clients"]:
            await asyncio.sleep(0.01)
        await client.rpush("empty", "not lost")
        found["after"] = (await client.blpop("empty", timeout=TIMEOUT))[1].decode()
    async with connected(world, socket_timeout=2) as client:
        found["socket's timeout"] = await raised(client.blpop("empty", timeout=TIMEOUT),
                                                 exceptions.TimeoutError)
        found["then"] = await client.ping()
    return found


async def case_ended_by_the_server(world):
    """CLIENT KILL: who waits is told; a new connection takes over."""
    found = {}
    async with connected(world) as client, connected(world, "unix") as other:
        for kind in "tcp", "tls":
            async with connected(world, kind, client_name=f"victim-{kind}") as victim:
                waiting = asyncio.ensure_future(victim.blpop("empty", timeout=TIMEOUT))
                while not (blocked := [one for one in await client.client_list()
                                       if one["name"] == f"victim-{kind}" and "b" in one["flags"]]):
                    await asyncio.sleep(0.01)
                await other.client_kill_filter(_id=blocked[0]["id"])
                found[kind] = await raised(waiting, exceptions.ConnectionError)
                found[kind + " then"] = await victim.ping()
    found["nobody"] = await raised(redis.Redis(host="localhost", port=servers.free_port()).ping(),
                                   exceptions.ConnectionError)
    return found


async def case_script_and_lock(world):
    async with connected(world) as client:
        double = client.register_script("return redis.call('get', KEYS[1]) * ARGV[1]")
        await client.set("n", 21)
        found = {"double": await double(keys=["n"], args=[2])}
        inside = most = 0

        async def critical():
            nonlocal inside, most
            async with client.lock("lock", timeout=TIMEOUT, sleep=0.002):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(critical() for _ in range(10)))
        await until(lambda: inside == 0, "all are out")
        found["most"] = most
    return found
