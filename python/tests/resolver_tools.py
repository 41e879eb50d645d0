# SPDX-License-Identifier: MulanPSL-2.0
"""A name server by script on loopback, and the options that make a resolver ask it alone."""

import asyncio
import ipaddress
import select
import socket
import struct
import threading

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28,
         "SRV": 33, "CAA": 257, "TYPE4711": 4711}
NUMBERS = {number: name for name, number in TYPES.items()}
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
LIMIT = 60  # seconds: no case waits longer for anything

ZONE = {
    ("www.test", "A"): ["192.0.2.1"],
    ("www.test", "AAAA"): ["2001:db8::1"],
    ("four.test", "A"): ["192.0.2.4"],
    ("six.test", "AAAA"): ["2001:db8::6"],
    ("local.test", "A"): ["127.0.0.1"],
    ("both.test", "A"): ["127.0.0.1"],
    ("both.test", "AAAA"): ["::1"],
    ("dead-first.test", "A"): ["127.0.0.1"],
    ("dead-first.test", "AAAA"): ["2001:db8::dead"],
    ("alias.test", "CNAME"): ["middle.test"],
    ("middle.test", "CNAME"): ["www.test"],
    ("xn--bcher-kva.test", "A"): ["192.0.2.77"],
    ("many.test", "A"): [f"127.0.{i // 200}.{i % 200 + 1}" for i in range(400)],
    ("test", "MX"): [struct.pack("!H", 10) + b"\4mail\4test\0"],
    ("test", "SOA"): [b"\2ns\4test\0\4host\4test\0" + struct.pack("!5I", 1, 2, 3, 4, 30)],
    ("txt.test", "TXT"): [b"\5hello\4a \"b\1\xff"],
    ("_sip._udp.test", "SRV"): [struct.pack("!HHH", 1, 2, 5060) + b"\3sip\4test\0"],
    ("odd.test", "TYPE4711"): [b"\1\2\3"],
    ("1.2.0.192.in-addr.arpa", "PTR"): ["www.test"],
    ("9.2.0.192.in-addr.arpa", "PTR"): ["nine.test", "neun.test"],
}
HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n10.0.0.1 fixed.host fixed\n"
SERVICES = "http 80/tcp www\ndomain 53/tcp\ndomain 53/udp\nntp 123/udp\n"


def wire_name(name):
    return b"".join(
        bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def wire_data(kind, value):
    if isinstance(value, bytes):
        return value
    if kind in ("A", "AAAA"):
        return ipaddress.ip_address(value).packed
    return wire_name(value)


class NameServer:
    """Answers from a zone, over UDP and TCP, in a thread of its own.

    Names with "silent" in them get no answer, "fail", "refuse" and "formerr" a
    response code, "slow" an answer when release() was called, "bulk" addresses made up.
    """

    def __init__(self, zone=ZONE, ttl=60, address="127.0.0.1"):
        self.zone, self.ttl = zone, ttl
        self.questions = []  # (name in small letters, type), as they come
        self.over_tcp = 0
        self.authentic = False
        self.ede = None  # (code, text) in each answer
        self._held = []
        self._released = False
        self._lock = threading.Lock()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._tcp = None
        while self._tcp is None:  # one port for both
            self._udp.bind((address, 0))
            self.port = self._udp.getsockname()[1]
            self._tcp = socket.socket()
            self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                self._tcp.bind((address, self.port))
            except OSError:
                self._tcp.close()
                self._tcp = None
                self._udp.close()
                self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._tcp.listen()
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="name-server")
        self._thread.start()

    def __str__(self):
        return f"127.0.0.1:{self.port}"

    def close(self):
        self._stop.close()
        self._thread.join(LIMIT)
        for sock in (self._udp, self._tcp, self._stopped):
            sock.close()

    def count(self, name):
        """How often a name was asked for, whatever the type."""
        return sum(asked == name for asked, _ in list(self.questions))

    def release(self):
        """Send what "slow" names wait for, and hold no more."""
        with self._lock:
            self._released = True
            held, self._held = self._held, []
        for peer, query in held:
            self._udp.sendto(self.respond(query, False), peer)

    # ---- the thread

    def _run(self):
        peers = []
        while True:
            ready, _, _ = select.select([self._udp, self._tcp, self._stopped, *peers], [], [])
            if self._stopped in ready:
                break
            for sock in ready:
                if sock is self._udp:
                    self._serve_udp()
                elif sock is self._tcp:
                    peers.append(self._tcp.accept()[0])
                elif not self._serve_tcp(sock):
                    peers.remove(sock)
                    sock.close()
        for sock in peers:
            sock.close()

    def _serve_udp(self):
        query, peer = self._udp.recvfrom(4096)
        name, _, _ = question_of(query)
        with self._lock:
            if "slow" in name and not self._released:
                self._held.append((peer, query))
                self.questions.append((name, question_of(query)[1]))
                return
        reply = self.respond(query, False)
        if reply:
            self._udp.sendto(reply, peer)

    def _serve_tcp(self, peer):
        try:
            head = peer.recv(2, socket.MSG_WAITALL)
            if len(head) < 2:
                return False
            query = peer.recv(struct.unpack("!H", head)[0], socket.MSG_WAITALL)
            self.over_tcp += 1
            reply = self.respond(query, True)
            if reply:
                peer.sendall(struct.pack("!H", len(reply)) + reply)
        except OSError:
            return False
        return True

    def respond(self, query, tcp):
        name, number, end = question_of(query)
        self.questions.append((name, number))
        if "silent" in name:
            return None
        records, rcode = self.find(name, NUMBERS.get(number))
        body = b"".join(record(owner, kind, self.ttl, data) for owner, kind, data in records)
        authority = b""
        if not records and rcode in (NOERROR, NXDOMAIN):
            authority = record("test", "SOA", 30, ZONE["test", "SOA"][0])
        flags = 0x8180 | rcode | (0x20 if self.authentic else 0)
        counts = [1, len(records), 1 if authority else 0]
        extra = b""
        if struct.unpack("!H", query[10:12])[0]:  # it had EDNS
            option = b""
            if self.ede is not None:
                text = self.ede[1].encode()
                option = struct.pack("!HHH", 15, 2 + len(text), self.ede[0]) + text
            extra = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(option)) + option
        if len(body) > 1100 and not tcp:
            flags, body, counts[1] = flags | 0x200, b"", 0
        return (query[:2] + struct.pack("!5H", flags, *counts, 1 if extra else 0)
                + query[12:end] + body + authority + extra)

    def find(self, name, kind):
        if "fail" in name:
            return [], SERVFAIL
        if "refuse" in name:
            return [], REFUSED
        if "bulk" in name or "slow" in name:
            return ([(name, "A", b"\x7f\0\0\1")] if kind == "A" else []), NOERROR
        records = []
        for _ in range(8):
            if kind is not None:
                records += [(name, kind, wire_data(kind, value))
                            for value in self.zone.get((name, kind), ())]
            if kind == "CNAME" or (name, "CNAME") not in self.zone:
                break
            target = self.zone[name, "CNAME"][0]
            records.append((name, "CNAME", wire_name(target)))
            name = target
        known = any(owner == name for owner, _ in self.zone)
        return records, NOERROR if known else NXDOMAIN


async def cancel_when_asked(name_server, call):
    """Cancel a call once the server has its question about silent.test, which it never answers."""
    task = asyncio.ensure_future(call)
    while not name_server.count("silent.test"):
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def question_of(query):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin1"))
        at += 1 + query[at]
    number, = struct.unpack("!H", query[at + 1:at + 3])
    return ".".join(labels).lower(), number, at + 5


def record(owner, kind, ttl, data):
    return wire_name(owner) + struct.pack("!HHIH", TYPES[kind], 1, ttl, len(data)) + data


class Files:
    """The files of a resolver in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.write("resolv.conf", "search test\noptions attempts:1 timeout:30\n")
        self.write("hosts", HOSTS)
        self.write("nsswitch.conf", "hosts: files dns\n")
        self.write("services", SERVICES)
        self.write("gai.conf", "")
        self.write("host.conf", "multi on\n")

    def write(self, name, text):
        (self.folder / name).write_text(text)

    @property
    def paths(self):
        return {name: str(self.folder / name) for name in (
            "resolv.conf", "hosts", "nsswitch.conf", "services", "gai.conf", "host.conf")}
