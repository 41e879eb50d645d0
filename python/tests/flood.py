# SPDX-License-Identifier: MulanPSL-2.0
"""A flood of SYNs and datagrams from forged sources, at a server that others use meanwhile.

Runs in a network namespace of its own, which it sets up, as its root. Three
processes: the flood, clients one after the other, and the servers. Prints JSON.
"""

import array
import asyncio
import json
import os
import random
import socket
import struct
import subprocess
import sys

import kloop

ADDRESS = "192.0.2.1"
SYNS, BACKLOG = int(sys.argv[1]), 128


def set_up():
    for command in ("link set lo up", f"addr add {ADDRESS}/24 dev lo",
                    "route add 10.0.0.0/8 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    for name in "all", "lo", "default":
        with open(f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "w") as file:
            file.write("0")
    with open("/proc/sys/net/ipv4/tcp_syncookies", "w") as file:
        file.write("1")


def checksum(data):
    total = sum(array.array("H", data))
    total = (total >> 16) + (total & 0xffff)
    return ~(total + (total >> 16)) & 0xffff


def forge(chance, protocol, segment, at):
    """An IP packet from somewhere in 10.0.0.0/8; the checksum of the segment is at this offset."""
    source = b"\x0a" + chance.randbytes(3)
    target = socket.inet_aton(ADDRESS)
    pseudo = source + target + struct.pack("!HH", protocol, len(segment))
    total = struct.pack("=H", checksum(pseudo + segment))
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0)
    return header + source + target + segment[:at] + total + segment[at + 2:]


def flood(port):
    chance = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(SYNS):
            own = 1024 + chance.getrandbits(15)
            # Mostly SYNs; what answers nothing: an ACK, a FIN, a RST; and datagrams.
            flags = 0x02 if number % 8 else (0x10, 0x11, 0x04)[number // 8 % 3]
            segment = struct.pack("!HHIIBBHHH", own, port, chance.getrandbits(32), 0, 0x50, flags,
                                  65535, 0, 0)
            raw.sendto(forge(chance, socket.IPPROTO_TCP, segment, 16), (ADDRESS, 0))
            if number % 4 == 0:
                segment = struct.pack("!4H", own, port, 28, 0) + bytes(20)
                raw.sendto(forge(chance, socket.IPPROTO_UDP, segment, 6), (ADDRESS, 0))


def be_served(port, until_end):
    """Connections, one after the other, as long as the flood goes on: each is served."""
    served = 0
    while True:
        over = os.waitpid(until_end, os.WNOHANG)[0] if until_end else True
        with socket.create_connection((ADDRESS, port), timeout=60) as sock:
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while part := sock.recv(100):
                answer += part
        assert answer == b"hello", answer
        served += 1
        if over:
            return served


def attack(port, result):
    """A process: the flood, and who is served during it and after."""
    pid = os.fork()
    if pid == 0:
        try:
            flood(port)
        finally:
            os._exit(0)
    served = be_served(port, pid)
    os.write(result, json.dumps(served).encode())


def counters():
    """TcpExt of the kernel, as far as it is said."""
    with open("/proc/net/netstat") as file:
        names, numbers = (file.readline().split()[1:] for _ in range(2))
    return dict(zip(names, map(int, numbers)))


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class Echo(asyncio.Protocol):
    made = lost = 0

    def connection_made(self, transport):
        Echo.made += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, error):
        Echo.lost += 1


class Count(asyncio.DatagramProtocol):
    received = 0

    def datagram_received(self, data, address):
        Count.received += 1


async def main():
    loop = asyncio.get_running_loop()
    failures = []
    loop.set_exception_handler(lambda _, context: failures.append(str(context)))
    server = await loop.create_server(Echo, ADDRESS, 0, backlog=BACKLOG)
    port = server.sockets[0].getsockname()[1]
    await loop.create_datagram_endpoint(Count, local_addr=(ADDRESS, port))
    before = rss_bytes(), len(os.listdir("/proc/self/fd"))
    result, theirs = os.pipe()
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(SYNS), str(port), str(theirs), pass_fds=[theirs])
    os.close(theirs)
    status = await attacker.wait()
    served = json.loads(os.read(result, 100) or b"0")
    os.close(result)
    while Echo.made != Echo.lost:
        await asyncio.sleep(0.01)
    extended = counters()
    print(json.dumps({
        "status": status, "served": served, "accepted": Echo.made, "datagrams": Count.received,
        "memory": rss_bytes() - before[0], "failures": failures,
        "descriptors": len(os.listdir("/proc/self/fd")) - before[1],
        "cookies": extended["SyncookiesSent"], "drops": extended["ListenDrops"]}))


if len(sys.argv) > 2:
    attack(int(sys.argv[2]), int(sys.argv[3]))
else:
    set_up()
    kloop.run(main())
