# SPDX-License-Identifier: MulanPSL-2.0
"""Where the system's resolver serves instead, and what a loop's resolver leaves behind."""

import asyncio
import gc
import os
import resource
import socket
import subprocess
import sys
import threading

import pytest

import kloop
from resolver_tools import LIMIT
from transport_tools import descriptors, run

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.222", 80))]


def lookup(loop, *args, **kwargs):
    return run(loop, loop.getaddrinfo(*args, **kwargs))


class Replacement:
    """In place of socket.getaddrinfo(): notes its calls."""

    def __init__(self):
        self.calls = []
        self.threads = set()

    def __call__(self, *args):
        self.calls.append(args)
        self.threads.add(threading.current_thread().name)
        return FOUND


@pytest.fixture
def replacement(monkeypatch):
    made = Replacement()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


@pytest.fixture
def stand_in(monkeypatch, dns_loop):
    """What the executor calls in place of socket.getaddrinfo(), which itself is as ever."""
    made = Replacement()
    executor = dns_loop.run_in_executor

    def run_in_executor(which, function, *args):
        assert function is socket.getaddrinfo
        return executor(which, made, *args)
    monkeypatch.setattr(dns_loop, "run_in_executor", run_in_executor)
    return made


# ---- replaced functions --------------------------------------------------------------

def test_replaced_socket_getaddrinfo(dns_loop, name_server, replacement):
    """As on asyncio: programs and tests replace it, and mean every lookup."""
    assert lookup(dns_loop, "www.test", 80, type=1) == FOUND
    assert replacement.calls == [("www.test", 80, 0, 1, 0, 0)]
    assert threading.main_thread().name not in replacement.threads
    assert name_server.questions == []
    assert dns_loop.resolver.stats()["system"] == 1


def test_replaced_socket_getnameinfo(dns_loop, name_server, monkeypatch):
    monkeypatch.setattr(socket, "getnameinfo", lambda address, flags: ("here", str(flags)))
    assert run(dns_loop, dns_loop.getnameinfo(("192.0.2.1", 80), 3)) == ("here", "3")
    assert name_server.questions == []


def test_replaced_module_of_asyncio(dns_loop, name_server, monkeypatch):
    """As CPython's own tests do it."""
    made = Replacement()

    class Socket:
        def __getattr__(self, name):
            return made if name == "getaddrinfo" else getattr(socket, name)
    monkeypatch.setattr(asyncio.base_events, "socket", Socket())
    assert lookup(dns_loop, "www.test", 80) == FOUND
    assert len(made.calls) == 1 and name_server.questions == []


def test_replaced_before_kloop_was_imported():
    program = """
import socket
socket.getaddrinfo = lambda *args: [args]
socket.getnameinfo = lambda *args: args
import kloop
loop = kloop.Loop()
found = loop.run_until_complete(loop.getaddrinfo("www.test", 80))
assert found == [("www.test", 80, 0, 0, 0, 0)], found
assert loop.run_until_complete(loop.getnameinfo(("192.0.2.1", 1))) == (("192.0.2.1", 1), 0)
loop.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT)


def test_overridden_method(dns):
    """A subclass, or an attribute of the loop: create_connection() calls it."""
    class Mine(kloop.Loop):
        async def getaddrinfo(self, host, port, **kwargs):
            names.append(host)
            return await super().getaddrinfo("127.0.0.1", port, **kwargs)

    async def main():
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await loop.create_connection(asyncio.Protocol, "one.test", port)
        transport.close()

        async def other(host, port, **kwargs):
            names.append(f"other {host}")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        loop.getaddrinfo = other
        transport, _ = await loop.create_connection(asyncio.Protocol, "two.test", port)
        transport.close()
        server.close()
        await asyncio.sleep(0)

    names = []
    loop = Mine(dns=dns)
    run(loop, main())
    loop.close()
    assert names == ["one.test", "other two.test"]


# ---- names that need a module of nsswitch.conf -----------------------------------------

def test_name_of_another_module(dns_loop, name_server, resolver_files, stand_in):
    """Only the name that needs it goes to the executor."""
    resolver_files.write("nsswitch.conf", "hosts: files mdns4_minimal [NOTFOUND=return] dns\n")
    dns_loop.resolver.reload()
    assert lookup(dns_loop, "printer.local", 80, type=1, flags=2) == FOUND
    assert stand_in.calls == [("printer.local", 80, 0, 1, 0, 2)]
    assert threading.main_thread().name not in stand_in.threads
    assert lookup(dns_loop, "four.test", 80, type=1)[0][4] == ("192.0.2.4", 80)
    assert len(stand_in.calls) == 1
    assert dns_loop.resolver.stats()["system"] == 1
    # Now the configuration is read: the fast path finds the same.
    assert lookup(dns_loop, "printer.local", 80, type=1) == FOUND
    assert dns_loop.resolver.reason is None and not dns_loop.resolver.system
    assert name_server.count("printer.local") == 0


def test_unknown_module(dns_loop, name_server, resolver_files, stand_in):
    resolver_files.write("nsswitch.conf", "hosts: files ldap dns\n")
    dns_loop.resolver.reload()
    assert lookup(dns_loop, "fixed", 80, type=1)[0][4] == ("10.0.0.1", 80)
    assert stand_in.calls == []
    assert lookup(dns_loop, "www.test", 80) == FOUND
    assert len(stand_in.calls) == 1
    assert name_server.questions == []


def test_name_of_an_address_by_another_module(dns_loop, resolver_files, monkeypatch):
    async def run_in_executor(which, function, *args):
        assert (which, function, args) == (None, socket.getnameinfo, (("192.0.2.1", 80), 0))
        return ("by-ldap", "80")
    monkeypatch.setattr(dns_loop, "run_in_executor", run_in_executor)
    resolver_files.write("nsswitch.conf", "hosts: files ldap dns\n")
    dns_loop.resolver.reload()
    assert run(dns_loop, dns_loop.getnameinfo(("192.0.2.1", 80))) == ("by-ldap", "80")


def test_exception_and_cancellation_in_the_executor(dns_loop, resolver_files, stand_in,
                                                    monkeypatch):
    """The executor's outcome is the caller's, and its wait can be cancelled."""
    resolver_files.write("nsswitch.conf", "hosts: ldap\n")
    dns_loop.resolver.reload()
    hold = threading.Event()

    def fail(self, *args):
        raise socket.gaierror(socket.EAI_NONAME, "from ldap")

    def wait(self, *args):
        hold.wait(LIMIT)
        return FOUND

    monkeypatch.setattr(Replacement, "__call__", fail)
    with pytest.raises(socket.gaierror, match="from ldap"):
        lookup(dns_loop, "www.test", 80)
    monkeypatch.setattr(Replacement, "__call__", wait)

    async def main():
        task = asyncio.ensure_future(dns_loop.getaddrinfo("www.test", 80))
        while not dns_loop.resolver.stats()["system"] == 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        hold.set()
        # One that nobody waits for any more.
        hold.clear()
        call = dns_loop.getaddrinfo("www.test", 80)
        call.send(None)
        call.close()
        hold.set()

    run(dns_loop, main())
    run(dns_loop, dns_loop.shutdown_default_executor())


# ---- the switch ------------------------------------------------------------------------

def test_option_system(name_server, dns, replacement):
    loop = kloop.Loop(dns="system")
    assert loop.resolver.system and "option" in loop.resolver.reason
    assert lookup(loop, "www.test", 80) == FOUND
    loop.resolver.configure(**dns, system=False)
    assert loop.resolver.reason is None
    loop.resolver.configure(system=True)
    assert loop.resolver.system
    assert loop.resolver.stats()["system"] == 1
    run(loop, loop.shutdown_default_executor())
    loop.close()


def test_system_with_socket_getaddrinfo():
    """Not a replacement this time: glibc, with what it needs nobody for."""
    loop = kloop.Loop(dns="system")
    try:
        assert lookup(loop, "127.0.0.1", 80, type=1) == socket.getaddrinfo(
            "127.0.0.1", 80, type=1)
        assert run(loop, loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)) == \
            socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST)
        assert loop.resolver.stats()["system"] == 2
        assert loop.resolver.stats()["lookups"] == 0
        run(loop, loop.shutdown_default_executor())
    finally:
        loop.close()


def test_environment(monkeypatch, dns, replacement):
    monkeypatch.setenv("KLOOP_DNS", "system")
    loop = kloop.Loop(dns=dns)
    assert loop.resolver.system and "KLOOP_DNS" in loop.resolver.reason
    loop.resolver.configure(system=False)
    assert loop.resolver.system
    assert lookup(loop, "www.test", 80) == FOUND
    run(loop, loop.shutdown_default_executor())
    loop.close()
    monkeypatch.setenv("KLOOP_DNS", "kloop")
    loop = kloop.Loop()
    assert not loop.resolver.system
    loop.close()


@pytest.mark.parametrize("value", ["nothing", 5, ["127.0.0.1"]])
def test_bad_option(value):
    with pytest.raises(ValueError, match="dns must be"):
        kloop.Loop(dns=value)


@pytest.mark.parametrize("without", [(1 << 20) - 1])
def test_ring_without_features(dns, without):
    """A kernel that has the least: the resolver works there as well."""
    try:
        loop = kloop.Loop(dns=dns, _without=without)
    except OSError as error:
        pytest.skip(f"no loop on so little: {error}")
    try:
        assert lookup(loop, "four.test", 80, type=1)[0][4] == ("192.0.2.4", 80)
        assert loop.resolver.reason is None
    finally:
        loop.close()


def test_no_resolver_can_be_made():
    """Without random numbers there is none: the system's serves, and it is said why."""
    program = """
import ctypes
import errno
import socket
import sys
import kloop
import seccomp_deny
expected = socket.getaddrinfo("127.0.0.1", 80)
loop = kloop.Loop()
seccomp_deny.deny(errno.ENOSYS, seccomp_deny.GETRANDOM)
if ctypes.CDLL(None).getrandom(ctypes.create_string_buffer(1), 1, 0) == 1:
    sys.exit()  # the C library asks the kernel by no system call: there is always a resolver
assert loop.resolver.reason is None
assert loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80)) == expected
assert loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 80), 3)) == ("127.0.0.1", "80")
assert loop.resolver.system and "can make no resolver: " in loop.resolver.reason
assert loop.resolver.stats()["system"] == 2
try:
    loop.run_until_complete(loop.resolver.query("www.test"))
except OSError as error:
    assert str(error) == loop.resolver.reason
else:
    raise AssertionError
loop.close()
"""
    paths = [os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")]
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT,
                   env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})


# ---- what is left behind ----------------------------------------------------------------

def resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def test_nothing_is_left_behind(dns, name_server):
    """10,000 lookups: found, not found, cancelled, refused; memory and descriptors stay flat."""
    loop = kloop.Loop(dns={**dns, "cache_bytes": 1 << 16})

    async def one(i):
        if i % 5 == 0:
            task = asyncio.ensure_future(loop.getaddrinfo(f"silent{i}.test", 80))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        elif i % 5 == 1:
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo(f"nosuch{i}.test.", 80)
        elif i % 5 == 2:
            await loop.getnameinfo(("192.0.2.1", 80))
        elif i % 5 == 3:
            await loop.resolver.query(f"bulk{i}.test")
        else:
            await loop.getaddrinfo(f"bulk{i}.test", 80)

    async def some(start, count):
        for i in range(start, start + count, 50):
            await asyncio.gather(*(one(i + j) for j in range(50)))

    fds = descriptors()
    run(loop, some(0, 2000))
    gc.collect()
    objects, memory = len(gc.get_objects()), resident_kib()
    loop.run_until_complete(asyncio.wait_for(some(2000, 10000), 5 * LIMIT))
    gc.collect()
    name_server.questions.clear()
    assert len(gc.get_objects()) - objects < 500
    assert descriptors() <= fds + 70  # 64 sockets may stay for the next questions
    # A server's list of questions grows as well, and the allocator keeps some.
    assert "asan" in os.environ.get("LD_PRELOAD", "") or resident_kib() - memory < 16 * 1024
    assert loop.resolver.stats()["in_flight"] == 0
    loop.close()
    assert descriptors() < fds


def test_many_loops(dns):
    """Loops with a resolver come and go, closed with lookups in flight, or just dropped."""
    def once(close):
        loop = kloop.Loop(dns=dns)
        lookup(loop, "four.test", 80)
        call = loop.getaddrinfo("silent.test", 80)
        call.send(None)
        if close:
            loop.close()
        call.close()
        if not close:
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.close()

    once(True)
    gc.collect()
    before = descriptors()
    for i in range(20):
        once(i % 2 == 0)
    gc.collect()
    assert descriptors() == before


def test_dropped_loop(dns):
    """Collected with a lookup in flight, as a cycle: no crash, and a warning."""
    loop = kloop.Loop(dns=dns)
    call = loop.getaddrinfo("silent.test", 80)
    call.send(None)
    call.add_done_callback(lambda _: loop)
    with pytest.warns(ResourceWarning):
        del loop, call
        gc.collect()


def in_child(loop, task):
    """What a forked child may try: the number of calls that were refused."""
    refused = 0
    for attempt in (lambda: loop.getaddrinfo("four.test", 80).send(None),
                    lambda: loop.getnameinfo(("192.0.2.1", 80)).send(None),
                    lambda: loop._query("four.test", 1, 0).send(None),
                    lambda: loop.resolver.flush(), lambda: loop.resolver.reload()):
        try:
            attempt()
        except RuntimeError:
            refused += 1
    task.cancel()
    loop.close()
    return refused


def test_fork(dns_loop, name_server):
    """A child cannot use the loop, and does no harm by cancelling and closing."""
    async def begin():
        task = asyncio.ensure_future(dns_loop.getaddrinfo("slow.test", 80, type=1))
        while not name_server.count("slow.test"):
            await asyncio.sleep(0.01)
        return task

    task = run(dns_loop, begin())
    child = os.fork()
    if child == 0:
        status = 100
        try:
            status = in_child(dns_loop, task)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 5
    name_server.release()
    assert run(dns_loop, task)[0][4] == ("127.0.0.1", 80)
