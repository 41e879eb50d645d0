# SPDX-License-Identifier: MulanPSL-2.0
"""Look up names with a loop: what dns_lookup.c does, in Python. Prints JSON.

Usage: dns_client.py LOOP COUNT CONCURRENCY [hot]
"""

import asyncio
import json
import resource
import socket
import sys
import time


def make_loop(kind):
    if kind == "kloop":
        import kloop
        return kloop.new_event_loop()
    if kind == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop()


async def look_up(loop, names, latencies):
    """One of those that look up at the same time: a name after the other. How many failed."""
    failed = 0
    clock = time.perf_counter
    for name in names:
        start = clock()
        try:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            failed += len(found) != 2
        except socket.gaierror:
            failed += 1
        latencies.append(clock() - start)
    return failed


async def measure(loop, count, concurrency, hot):
    names = (f"host{0 if hot else i}.bench.example" for i in range(count))
    latencies = []
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    failed = await asyncio.gather(
        *(look_up(loop, names, latencies) for _ in range(concurrency)))
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    latencies.sort()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"lookups": count, "failed": sum(failed), "rate": count / seconds,
            "cpu_us": cpu * 1e6 / count, "p50_ms": latencies[count // 2] * 1e3,
            "p99_ms": latencies[count * 99 // 100] * 1e3, "rss_kib": after.ru_maxrss}


def main():
    kind, count, concurrency, *rest = sys.argv[1:]
    loop = make_loop(kind)
    asyncio.set_event_loop(loop)
    print(json.dumps(loop.run_until_complete(
        measure(loop, int(count), int(concurrency), "hot" in rest))))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


main()
