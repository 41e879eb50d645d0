# SPDX-License-Identifier: MulanPSL-2.0
"""Ports for tests that name one: where nobody listens, or somebody will later, or has been.

A port that was bound and let go is soon another process's: the kernel gives it
to the next who asks for any. These are none that it gives, and every process
takes its own from a stock that all tests share, those in C (tests/lib/ports.c) too.
"""
import errno
import os
import socket
import threading

LOWEST, FIRST, LAST, ENOUGH, BLOCK = 1024, 10000, 65535, 2048, 32
LOCK_NAME = "\0kloop-test-ports-%d"

_lock = threading.Lock()
_owner = 0
_ports = iter(())  # of the block that is being given out
_blocks = []  # sockets, whose names are those of the blocks that are this process's


def given_range():
    """first, last of the ports that the kernel gives to those who ask for any."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return 32768, 60999
    return first, last


def own_range():
    """first, end of the others; of all that there are where those are nearly every one."""
    low, high = given_range()
    for first, end in ((FIRST, low), (high + 1, LAST + 1), (LOWEST, low)):
        if end - first >= ENOUGH:
            return first, end
    return FIRST, LAST + 1


def _find_block():
    """The ports of a block that no other process has; it is this one's until it ends."""
    first, end = own_range()
    blocks = (end - first) // BLOCK
    start = os.getpid() * 2654435761 % (1 << 32) % blocks
    for number in range(start, start + blocks):
        port = first + number % blocks * BLOCK
        # Such names are of a network namespace, as the ports are, and go with the process.
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.bind(LOCK_NAME % port)
        except OSError:
            sock.close()
            continue
        _blocks.append(sock)
        return iter(range(port, port + BLOCK))
    raise RuntimeError(f"the test processes of this machine have taken all {blocks} blocks of ports")


def _is_free(family, kind, port):
    """A family that the machine lacks is as free as can be."""
    try:
        sock = socket.socket(family, kind)
    except OSError:
        return True
    with sock:
        try:
            sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return True


def free_port():
    """
    A port of loopback, free for UDP and TCP, IPv4 and IPv6; no other call gives
    the same, here or in another process, while this process lives.
    """
    global _owner, _ports
    with _lock:
        while True:
            if _owner != os.getpid():  # what a forked child is given, its parent would give too
                _owner, _ports = os.getpid(), iter(())
            port = next(_ports, None)
            if port is None:
                _ports = _find_block()
            elif all(_is_free(family, kind, port)
                     for family in (socket.AF_INET, socket.AF_INET6)
                     for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
                return port


def held_descriptors():
    """Those that stay until the process ends, so that no other takes the same ports."""
    return {sock.fileno() for sock in _blocks}
