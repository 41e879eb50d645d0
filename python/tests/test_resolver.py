# SPDX-License-Identifier: MulanPSL-2.0
"""loop.getaddrinfo() and getnameinfo(): results, exceptions, and when they come."""

import asyncio
import itertools
import logging
import os
import socket
import sys
import threading

import pytest

import kloop
from resolver_tools import cancel_when_asked, was_asked
from transport_tools import new_threads, run

STREAM, DGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW


def outcome(function, *args, **kwargs):
    """What a call gives, or its exception, so that two can be compared."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error), error.args


def lookup(loop, *args, **kwargs):
    return run(loop, loop.getaddrinfo(*args, **kwargs))


def addresses(found):
    return [info[4][0] for info in found]


# ---- what needs no question, compared with socket.getaddrinfo() -------------------

LITERALS = ["127.0.0.1", "192.0.2.1", "127.1", "0x7f.1", "2130706433", "010.0.0.1", "::1",
            "2001:db8::7", "::ffff:192.0.2.9", "fe80::1%1", "fe80::1%lo", "2001:db8::1%1", "*",
            b"127.0.0.1", b"::1", None, "", "localhost"]
PORTS = [None, "", "80", 80, 0, 65535, "0080", b"80", "http", b"http", "nosuch-service", "*", "+80"]
KINDS = [(0, 0, 0), (0, STREAM, 0), (0, DGRAM, 17), (0, RAW, 0), (socket.AF_INET, STREAM, 6),
         (socket.AF_INET6, STREAM, 0), (socket.AF_INET6, 0, 0), (99, 0, 0), (0, 99, 0),
         (0, STREAM, 17), (0, 0, 99), (0, socket.SOCK_SEQPACKET, 0), (0, STREAM, 132)]
FLAGS = [0, socket.AI_PASSIVE, socket.AI_CANONNAME, socket.AI_NUMERICHOST, socket.AI_NUMERICSERV,
         socket.AI_V4MAPPED | socket.AI_ALL, socket.AI_CANONNAME | socket.AI_NUMERICHOST, 1 << 20]


def hosts_lines():
    with open("/etc/hosts") as file:
        lines = [line.split("#")[0].split() for line in file]
    return [words for words in lines if words]


def asks_nobody(host, family):
    """Does glibc find it without a question? localhost: by the machine's /etc/hosts."""
    if host != "localhost":
        return True
    known = {socket.AF_INET6 if ":" in words[0] else socket.AF_INET
             for words in hosts_lines() if host in words[1:]}
    return family in known or (bool(known) and family not in (socket.AF_INET, socket.AF_INET6))


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_as_socket_getaddrinfo(name_server, flags, kind):
    """With the files of the system, but our server: it must not be asked."""
    loop = kloop.Loop(dns={"servers": [str(name_server)]})
    family, socktype, proto = kind
    calls = [(host, port) for host, port in itertools.product(LITERALS, PORTS)
             if asks_nobody(host, family)]

    async def ask(host, port):
        try:
            return await loop.getaddrinfo(host, port, family=family, type=socktype, proto=proto,
                                          flags=flags)
        except Exception as error:
            return type(error), error.args

    async def main():
        return [await ask(*call) for call in calls]

    try:
        results = loop.run_until_complete(main())
        assert loop.resolver.stats()["system"] == 0
    finally:
        loop.close()
    for call, found in zip(calls, results):
        expected = outcome(socket.getaddrinfo, *call, family, socktype, proto, flags)
        assert found == expected, call
        if isinstance(expected, list):
            assert [(type(info[0]), type(info[1])) for info in found] == [
                (type(info[0]), type(info[1])) for info in expected], call
    assert len(results) >= len(PORTS) * (len(LITERALS) - 1)
    assert name_server.questions == []


def test_enumerations(dns_loop):
    """Families and kinds are socket's, unless there is no member for them."""
    found = lookup(dns_loop, "127.0.0.1", 80, type=6)  # DCCP
    assert found == [(socket.AF_INET, 6, 33, "", ("127.0.0.1", 80))]
    assert type(found[0][0]) is socket.AddressFamily
    assert type(found[0][1]) is int
    found = lookup(dns_loop, "127.0.0.1", 80, type=DGRAM)
    assert found[0][1] is socket.SOCK_DGRAM


# ---- bad arguments, as of asyncio's loop -------------------------------------------

BAD = [
    (("127.0.0.1", 80), {"family": "x"}),
    (("127.0.0.1", 80), {"type": 1.5}),
    (("127.0.0.1", 80), {"flags": 1 << 40}),
    ((5, 80), {}),
    ((bytearray(b"127.0.0.1"), 80), {}),
    (("127.0.0.1", 1.5), {}),
    *([(("127.0.0.1", True), {})] if sys.version_info < (3, 14) else []),
    (("127.0.0.1", object), {}),
    (("127.0.0.1", "\udc80"), {}),
    (("127.0.0.1", 1 << 70), {}),
    (("127.0.0.1", -1 << 70), {}),
    (("x..test", 80), {}),
    ((".test", 80), {}),
    (("x" * 64 + ".test", 80), {}),
    (("x" * 64, 80), {}),
    (("b\u00fc" + "x" * 64 + ".test", 80), {}),
    (("\udc80.test", 80), {}),
    ((None, None), {}),
    ((None, None), {"flags": socket.AI_CANONNAME}),
    (("", ""), {"flags": socket.AI_NUMERICHOST}),
    (("www.test", 80), {"flags": socket.AI_NUMERICHOST}),
    (("127.0.0.1", "http"), {"flags": socket.AI_NUMERICSERV}),
]


@pytest.mark.parametrize("args, kwargs", BAD, ids=lambda value: ascii(value)[:40])
def test_bad_arguments(dns_loop, args, kwargs):
    other = asyncio.SelectorEventLoop()

    def normal(result):
        # Codecs differ in what they chain to an error; some of it is in the text.
        kind, arguments = result
        return kind, arguments if kind in (socket.gaierror, OSError, TypeError) else None
    try:
        expected = outcome(lookup, other, *args, **kwargs)
        assert isinstance(expected, tuple), "asyncio has no objection"
        found = outcome(lookup, dns_loop, *args, **kwargs)
        assert isinstance(found, tuple), found
        assert normal(found) == normal(expected)
    finally:
        run(other, other.shutdown_default_executor())
        other.close()


@pytest.mark.parametrize("args, kwargs", [
    ((), {}), (("h",), {}), (("h", 1, 2), {}), (("h", 1), {"nothing": 1}), (("h", 1), {"host": 1})])
def test_signature(loop, args, kwargs):
    with pytest.raises(TypeError):
        loop.getaddrinfo(*args, **kwargs)


@pytest.mark.parametrize("host, port", [
    ("127.0.0.1\0x", 80), (b"127.0.0.1\0", 80), ("127.0.0.1", "80\0"), ("127.0.0.1", b"8\0")])
def test_nul_is_refused(dns_loop, host, port):
    """CPython cuts it off, and looks up another name than the one given."""
    with pytest.raises(ValueError, match="null"):
        lookup(dns_loop, host, port)


@pytest.mark.parametrize("port", [65536, -1, 99999, "70000", 1 << 40])
def test_ports_out_of_range(dns_loop, port):
    """glibc takes them modulo 65536: kloop-dns(7)."""
    with pytest.raises(socket.gaierror) as caught:
        lookup(dns_loop, "127.0.0.1", port)
    assert caught.value.errno == socket.EAI_SERVICE


# ---- names ---------------------------------------------------------------------------

def test_names(dns_loop, name_server):
    assert lookup(dns_loop, "www.test", 80, type=STREAM) == [
        (socket.AF_INET, STREAM, 6, "", ("192.0.2.1", 80)),
        (socket.AF_INET6, STREAM, 6, "", ("2001:db8::1", 80, 0, 0)),
    ] or addresses(lookup(dns_loop, "www.test", 80, type=STREAM)) == ["2001:db8::1", "192.0.2.1"]
    assert addresses(lookup(dns_loop, "www.test", 80, family=socket.AF_INET)) == ["192.0.2.1"] * 3
    assert addresses(lookup(dns_loop, "four.test", 0, type=STREAM)) == ["192.0.2.4"]
    assert addresses(lookup(dns_loop, b"six.test", 0, type=STREAM)) == ["2001:db8::6"]
    assert addresses(lookup(dns_loop, "four", "http", type=STREAM)) == ["192.0.2.4"]  # "search"
    assert lookup(dns_loop, "fixed", "www", type=STREAM) == [
        (socket.AF_INET, STREAM, 6, "", ("10.0.0.1", 80))]
    assert name_server.count("fixed") == 0
    assert dns_loop.resolver.stats()["system"] == 0


def test_canonical_name(dns_loop):
    found = lookup(dns_loop, "alias.test", 80, family=socket.AF_INET, flags=socket.AI_CANONNAME)
    assert [info[3] for info in found] == ["www.test", "", ""]


def test_idna(dns_loop, name_server):
    assert addresses(lookup(dns_loop, "b\u00fccher.test", 0, type=STREAM)) == ["192.0.2.77"]
    assert name_server.questions[0][0] == "xn--bcher-kva.test"


def test_many_addresses_come_by_tcp(dns_loop, name_server):
    found = lookup(dns_loop, "many.test", 0, family=socket.AF_INET, type=STREAM)
    assert len(set(addresses(found))) == 400
    assert name_server.over_tcp >= 1


@pytest.mark.parametrize("name, family, code", [
    ("nosuch.test", 0, socket.EAI_NONAME),
    ("four.test", socket.AF_INET6, socket.EAI_NODATA),
    ("fail.test", 0, socket.EAI_AGAIN),
    ("refuse.test", 0, socket.EAI_AGAIN),
    ("127.0.0.1", socket.AF_INET6, socket.EAI_ADDRFAMILY),
])
def test_errors(dns_loop, name, family, code):
    with pytest.raises(socket.gaierror) as caught:
        lookup(dns_loop, name, 80, family=family)
    assert type(caught.value) is socket.gaierror
    assert caught.value.errno == code
    # The text is glibc's.
    expected = {
        socket.EAI_NONAME: "Name or service not known",
        socket.EAI_NODATA: "No address associated with hostname",
        socket.EAI_AGAIN: "Temporary failure in name resolution",
        socket.EAI_ADDRFAMILY: "Address family for hostname not supported",
    }
    assert caught.value.strerror == expected[code]


def test_time_out(dns_loop):
    dns_loop.resolver.configure(timeout=0.05, attempts=1)
    with pytest.raises(socket.gaierror) as caught:
        lookup(dns_loop, "silent.test", 80)
    assert caught.value.errno == socket.EAI_AGAIN
    assert dns_loop.resolver.stats()["timeouts"] >= 1


def test_dead_first_server(dns, name_server):
    """Nobody listens at the first one's port: the second one answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))  # and says nothing
    loop = kloop.Loop(dns={**dns, "servers": [f"127.0.0.1:{sock.getsockname()[1]}",
                                              *dns["servers"]]})
    try:
        assert addresses(lookup(loop, "four.test", 0, type=STREAM)) == ["192.0.2.4"]
        assert loop.resolver.stats()["retries"] >= 1
    finally:
        loop.close()
        sock.close()


# ---- getnameinfo -------------------------------------------------------------------

@pytest.mark.parametrize("flags", [
    0, socket.NI_NUMERICHOST, socket.NI_NUMERICSERV, socket.NI_NAMEREQD, socket.NI_DGRAM,
    socket.NI_NUMERICHOST | socket.NI_NUMERICSERV, socket.NI_NUMERICHOST | socket.NI_NAMEREQD,
    socket.NI_NOFQDN, 1 << 20])
@pytest.mark.parametrize("address", [
    ("127.0.0.1", 80), ("::1", 80), ("::1", 53, 0, 0), ("127.1", 54321), ("127.0.0.1", 0)])
def test_as_socket_getnameinfo(name_server, address, flags):
    known = [words[0] for words in hosts_lines()]
    if "127.0.0.1" not in known:
        pytest.skip("127.0.0.1 stands not in /etc/hosts: glibc would ask a server for its name")
    if not flags & socket.NI_NUMERICHOST and address[0] not in known:
        address = ("127.0.0.1", address[1])
    loop = kloop.Loop(dns={"servers": [str(name_server)]})
    try:
        found = outcome(lambda: run(loop, loop.getnameinfo(address, flags)))
        assert found == outcome(socket.getnameinfo, address, flags)
    finally:
        loop.close()
    assert name_server.questions == []


@pytest.mark.parametrize("address", [
    "127.0.0.1", (), ("127.0.0.1",), ("127.0.0.1", "80"), (127, 80), ("127.0.0.1", 80, 0),
    ("www.test", 80), ("::1", 80, 1 << 20, 0), ("127.0.0.1", -1), ("::1", 1 << 40),
    ("127.0.0.1", 80, 0, 0, 0), None], ids=ascii)
def test_bad_addresses(dns_loop, address):
    found = outcome(lambda: run(dns_loop, dns_loop.getnameinfo(address)))
    assert found == outcome(socket.getnameinfo, address, 0)


def test_getnameinfo(dns_loop):
    assert run(dns_loop, dns_loop.getnameinfo(("192.0.2.1", 80))) == ("www.test", "http")
    assert run(dns_loop, dns_loop.getnameinfo(("192.0.2.1", 81), flags=0)) == ("www.test", "81")
    assert run(dns_loop, dns_loop.getnameinfo(("192.0.2.99", 80))) == ("192.0.2.99", "http")
    with pytest.raises(socket.gaierror) as caught:
        run(dns_loop, dns_loop.getnameinfo(("192.0.2.99", 80), socket.NI_NAMEREQD))
    assert caught.value.errno == socket.EAI_NONAME


# ---- when it comes -------------------------------------------------------------------

def finish_at_once(call):
    """The result of an awaitable that must not wait."""
    with pytest.raises(StopIteration) as caught:
        call.send(None)
    return caught.value.value


def test_known_names_do_not_wait(dns_loop, name_server):
    async def main():
        await dns_loop.getaddrinfo("four.test.", 80)
        turns = dns_loop.stats()["turns"]
        for host, expected in [("127.0.0.1", "127.0.0.1"), ("fixed", "10.0.0.1"),
                               ("four.test.", "192.0.2.4")]:
            found = finish_at_once(dns_loop.getaddrinfo(host, 80, type=STREAM))
            assert addresses(found) == [expected]
        with pytest.raises(socket.gaierror):
            dns_loop.getaddrinfo("four.test.", 80, family=socket.AF_INET6).send(None)
        assert dns_loop.stats()["turns"] == turns

    dns_loop.resolver.configure(check_interval=3600)
    run(dns_loop, main())
    stats = dns_loop.resolver.stats()
    assert stats["cache_hits"] >= 2
    assert stats["queries"] == 1
    assert was_asked(dns_loop, name_server.count("four.test"), 2)  # A and AAAA


def test_equal_lookups_are_one(dns_loop, name_server):
    async def main():
        tasks = [asyncio.ensure_future(dns_loop.getaddrinfo("slow.test", 80, type=STREAM))
                 for _ in range(50)]
        while name_server.count("slow.test") < 2:
            await asyncio.sleep(0.01)
        name_server.release()
        return await asyncio.gather(*tasks)

    found = run(dns_loop, main())
    assert [addresses(one) for one in found] == [["127.0.0.1"]] * 50
    stats = dns_loop.resolver.stats()
    assert (stats["queries"], stats["joined"]) == (1, 49)


def test_limit_of_queries(dns_loop, name_server):
    """More names than max_queries: the others wait, and none is lost."""
    dns_loop.resolver.configure(max_queries=3)

    async def main():
        tasks = [asyncio.ensure_future(dns_loop.getaddrinfo(f"slow{i}.test", 80, type=STREAM))
                 for i in range(20)]
        while len(set(name_server.questions)) < 6:
            await asyncio.sleep(0.01)
        stats = dns_loop.resolver.stats()
        assert stats["in_flight"] == 3
        assert len({name for name, _ in name_server.questions}) == 3
        name_server.release()
        return await asyncio.gather(*tasks)

    assert len(run(dns_loop, main())) == 20
    assert dns_loop.resolver.stats()["in_flight"] == 0


def threads():
    """Of the process, without the kernel's own, which do a ring's work."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                if not file.read().startswith("iou-"):
                    found.add(task)
        except OSError:  # one of the kernel's, that has just ended
            pass
    return found


def test_no_thread(dns_loop):
    async def main():
        before, pythons = threads(), threading.enumerate()
        for names in range(10):
            await asyncio.gather(*(
                dns_loop.getaddrinfo(f"bulk{names}-{i}.test", 80) for i in range(50)),
                dns_loop.getnameinfo(("192.0.2.1", 80)), dns_loop.resolver.query("test", "MX"),
                dns_loop.getaddrinfo("many.test", 80))
            assert not threads() - before and not new_threads(pythons)

    run(dns_loop, main())
    assert dns_loop._default_executor is None


# ---- the awaitable -------------------------------------------------------------------

def test_cancel(dns_loop, name_server):
    async def main():
        await cancel_when_asked(name_server, dns_loop.getaddrinfo("silent.test", 80))
        # It is over in the library too, not only for the task.
        for _ in range(3):
            await asyncio.sleep(0)
        assert dns_loop.resolver.stats()["in_flight"] == 0

    run(dns_loop, main())


def test_cancel_keeps_others(dns_loop, name_server):
    """Two wait for one query, and one of them gives up."""
    async def main():
        first = asyncio.ensure_future(dns_loop.getaddrinfo("slow.test", 80))
        second = asyncio.ensure_future(dns_loop.getaddrinfo("slow.test", 81))
        while not name_server.count("slow.test"):
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        name_server.release()
        assert (await second)[0][4] == ("127.0.0.1", 81)

    run(dns_loop, main())


def test_wait_for_gives_up(dns_loop):
    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(dns_loop.getaddrinfo("silent.test", 80), 0.05)

    run(dns_loop, main())


def test_cancel_before_it_runs(dns_loop):
    async def main():
        task = asyncio.ensure_future(dns_loop.getaddrinfo("silent.test", 80))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(dns_loop, main())
    assert dns_loop.resolver.stats()["lookups"] == 0


def test_cancel_with_a_result_that_is_there(dns_loop, name_server):
    """The cancellation comes when the lookup is done and its task has not run yet."""
    async def main():
        call = dns_loop.getaddrinfo("slow.test", 80)
        done = []
        future = call.send(None)
        assert asyncio.isfuture(future)
        future._asyncio_future_blocking = False
        future.add_done_callback(done.append)
        while name_server.count("slow.test") < 2:
            await asyncio.sleep(0.01)
        name_server.release()
        while not done:
            await asyncio.sleep(0.001)
        assert future.done() and not future.cancel()
        call.close()
        with pytest.raises(RuntimeError):
            call.send(None)

    run(dns_loop, main())


def test_never_awaited(dns_loop):
    with pytest.warns(RuntimeWarning, match="getaddrinfo' was never awaited"):
        dns_loop.getaddrinfo("four.test", 80)


def test_awaitable(dns_loop):
    """What asyncio does with coroutines works."""
    async def main():
        call = dns_loop.getaddrinfo("four.test", 80)
        assert asyncio.iscoroutine(call) and not asyncio.isfuture(call)
        task = dns_loop.create_task(call)
        assert await asyncio.shield(task) == await dns_loop.getaddrinfo("four.test", 80)
        with pytest.raises(RuntimeError):
            await call

    run(dns_loop, main())


# ---- the loop ------------------------------------------------------------------------

def test_closed_loop():
    loop = kloop.Loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.getaddrinfo("127.0.0.1", 80).send(None)
    with pytest.raises(RuntimeError, match="closed"):
        loop.getnameinfo(("127.0.0.1", 80)).send(None)
    with pytest.raises(RuntimeError, match="closed"):
        loop.resolver.stats()


def test_close_with_lookups(dns, name_server):
    """A loop that is closed with lookups in flight ends, and they with it."""
    loop = kloop.Loop(dns=dns)
    loop.set_exception_handler(lambda *_: None)
    calls = [loop.getaddrinfo(f"silent{i}.test", 80) for i in range(20)]
    calls.append(loop.getnameinfo(("192.0.2.250", 80)))
    calls.append(loop.resolver._loop._query("silent.test", 15, 0))
    for call in calls:
        call.send(None)
    woken = []
    for call in calls:
        call._asyncio_future_blocking = False
        call.add_done_callback(woken.append)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    loop.resolver.configure(timeout=1)  # some are with a resolver that was replaced
    more = [loop.getaddrinfo(f"silent-too{i}.test", 80) for i in range(20)]
    for call in more:
        call.send(None)
    loop.close()
    for call in calls + more:
        call.close()


def test_debug_mode(dns_loop, caplog):
    dns_loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        lookup(dns_loop, "four.test", 80, type=STREAM)
    assert any("Getting address info four.test:80, type=" in message
               for message in caplog.messages)
    assert run(dns_loop, dns_loop.getnameinfo(("192.0.2.1", 80))) == ("www.test", "http")


def test_wrong_thread(dns_loop):
    async def main():
        caught = []

        def other():
            try:
                dns_loop.getaddrinfo("four.test", 80).send(None)
            except BaseException as error:
                caught.append(error)
        thread = threading.Thread(target=other)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        assert [type(error) for error in caught] == [RuntimeError]

    run(dns_loop, main())


def test_sqpoll(dns):
    try:
        loop = kloop.Loop(sqpoll=True, sq_thread_idle_ms=10, dns=dns)
    except OSError as error:
        pytest.skip(f"no SQPOLL here: {error}")
    try:
        async def main():
            return await asyncio.gather(*(
                loop.getaddrinfo(f"bulk{i}.test", i, type=STREAM) for i in range(100)))

        found = run(loop, main())
        assert [one[0][4] for one in found] == [("127.0.0.1", i) for i in range(100)]
    finally:
        loop.close()


def test_audit(dns_loop):
    """Whoever watches socket.getaddrinfo by an audit hook sees ours too."""
    seen = []
    on = [True]

    def hook(event, args):
        if on[0] and event in ("socket.getaddrinfo", "socket.getnameinfo"):
            seen.append((event, args))
    sys.addaudithook(hook)
    lookup(dns_loop, "four.test", 80, type=STREAM)
    run(dns_loop, dns_loop.getnameinfo(("127.0.0.1", 80)))
    on[0] = False
    assert seen == [("socket.getaddrinfo", ("four.test", 80, 0, 1, 0)),
                    ("socket.getnameinfo", (("127.0.0.1", 80),))]


def test_port_that_is_derived_from_int(dns_loop):
    """Python 3.14 takes it."""
    class Port(int):
        def __str__(self):
            return "other"

    if sys.version_info >= (3, 14):
        for port in True, Port(1):
            assert lookup(dns_loop, "127.0.0.1", port) == socket.getaddrinfo("127.0.0.1", port)
