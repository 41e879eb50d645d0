#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""The resolver and glibc's getaddrinfo(3) say the same, in namespaces of their own.

A name server of a small zone answers both; /etc/resolv.conf and the other files
are the test's. Some thousand generated calls are compared: addresses, their
order, canonical names, error codes. What differs on purpose is listed in
deviates(). Prints TAP.
"""
import ipaddress
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tap import Tap

BUILD = Path(os.environ.get("top_builddir", "."))
CALLS = 2400
NAME_CALLS = 400
SEED = 20260101

ZONE = {
    ("www.test", "A"): ["192.0.2.1"],
    ("www.test", "AAAA"): ["2001:db8::1"],
    ("a4.test", "A"): ["192.0.2.4"],
    ("a6.test", "AAAA"): ["2001:db8::6"],
    ("many.test", "A"): ["192.0.2.10", "198.51.100.1", "127.0.0.9", "10.1.2.3", "169.254.7.7"],
    ("many.test", "AAAA"): ["2001:db8::10", "fe80::5", "fd00::1", "2002:c000:201::1", "::1"],
    ("big.test", "A"): [f"192.0.2.{i}" for i in range(1, 120)],
    ("alias.test", "CNAME"): ["www.test"],
    ("alias2.test", "CNAME"): ["alias.test"],
    ("alias4.test", "CNAME"): ["a4.test"],
    ("dangling.test", "CNAME"): ["nowhere.test"],
    ("loop1.test", "CNAME"): ["loop2.test"],
    ("loop2.test", "CNAME"): ["loop1.test"],
    ("sub.other.test", "A"): ["192.0.2.44"],
    ("txt.test", "TXT"): ["x"],
    ("1.2.0.192.in-addr.arpa", "PTR"): ["www.test"],
    ("4.2.0.192.in-addr.arpa", "PTR"): ["a4.test"],
    ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR"):
        ["six.test"],
}
TYPES = {1: "A", 28: "AAAA", 5: "CNAME", 12: "PTR", 16: "TXT"}
FILES = {
    "resolv.conf": "nameserver 127.0.0.53\nsearch test other.test\noptions timeout:1 attempts:1\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
             "10.0.0.1 fixed.host Fixed\n10.0.0.2 fixed multi\n10.0.0.3 multi only4\n"
             "2001:db8::33 multi both\n10.0.0.4 both\n2001:db8::34 only6\n",
    "nsswitch.conf": "hosts: files dns\nservices: files\n",
    "services": "http 80/tcp www\ndomain 53/tcp\ndomain 53/udp\nntp 123/udp\nsctponly 99/sctp\n",
    "gai.conf": "# nothing\n",
    "host.conf": "multi on\n",
}
NODES = ["www.test", "WWW.Test", "www.test.", "www", "a4.test", "a6.test", "a4", "many.test", "many",
         "big.test", "alias.test", "alias2.test", "alias4.test", "alias", "dangling.test", "loop1.test",
         "nosuch.test", "nosuch", "nosuch.example", "sub", "txt.test", "fail.test", "refuse.test",
         "fixed", "FIXED", "fixed.host", "multi", "only4", "only6", "both", "localhost", "ip6-localhost",
         "192.0.2.1", "127.1", "0x7f.1", "2130706433", "1.2.3.4.5", "256.1.1.1", "1.2.3", "010.0.0.1",
         "::1", "2001:db8::7", "::ffff:192.0.2.9", "fe80::1%lo", "fe80::1%1", "fe80::1%nosuch",
         "2001:db8::1%1", "2001:db8::1%lo", "[::1]", "::1%", "", "*", None, "a b.test", "a_b.test",
         "x" * 63 + ".test", "x" * 64 + ".test", "x.." + "test", ".test", "-a.test", "test."]
# Those for which nobody is asked; the last ones are none, and are refused as such.
NUMERIC = ["192.0.2.1", "127.1", "0x7f.1", "2130706433", "1.2.3", "010.0.0.1", "::1", "2001:db8::7",
           "::ffff:192.0.2.9", "fe80::1%lo", "fe80::1%1", "2001:db8::1%1", "*", ""]
SERVICES = [None, "80", "0", "http", "www", "domain", "ntp", "sctponly", "nosuch", "0080", "+80", " 80",
            "*", "65535"]
FLAGS = [0, socket.AI_PASSIVE, socket.AI_CANONNAME, socket.AI_NUMERICHOST, socket.AI_NUMERICSERV,
         socket.AI_V4MAPPED, socket.AI_V4MAPPED | socket.AI_ALL, socket.AI_ADDRCONFIG,
         socket.AI_CANONNAME | socket.AI_ADDRCONFIG, 0x8000, socket.AI_ALL,
         socket.AI_CANONNAME | socket.AI_V4MAPPED]
FAMILIES = [0, 0, socket.AF_INET, socket.AF_INET6, 99]
SOCKTYPES = [0, socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 99]
PROTOCOLS = [0, 0, 0, 6, 17, 132, 99]


# ---- the name server ---------------------------------------------------------------

def wire_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def rdata(kind, text):
    if kind in ("A", "AAAA"):
        return ipaddress.ip_address(text).packed
    if kind == "TXT":
        return bytes([len(text)]) + text.encode()
    return wire_name(text)


def respond(query, tcp):
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("latin1"))
        at += 1 + query[at]
    name = ".".join(labels).lower()
    number = struct.unpack("!H", query[at + 1:at + 3])[0]
    kind = TYPES.get(number)
    question = query[12:at + 5]
    records, rcode = [], 0
    if name == "fail.test":
        rcode = 2
    elif name == "refuse.test":
        rcode = 5
    else:
        for _ in range(8):
            for text in ZONE.get((name, kind), ()):
                records.append((name, number, rdata(kind, text)))
            if kind == "CNAME" or (name, "CNAME") not in ZONE:
                break
            target = ZONE[name, "CNAME"][0]
            records.append((name, 5, wire_name(target)))
            name = target
        if not any(known == name for known, _ in ZONE):
            rcode = 3
    body = b"".join((b"\xc0\x0c" if n == ".".join(labels).lower() else wire_name(n))
                    + struct.pack("!HHIH", t, 1, 60, len(d)) + d for n, t, d in records)
    flags, count = 0x8580 | rcode, len(records)
    if len(body) > 1100 and not tcp:
        flags, body, count = flags | 0x200, b"", 0
    return query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + question + body


def serve_udp(sock):
    while True:
        query, peer = sock.recvfrom(4096)
        sock.sendto(respond(query, False), peer)


def serve_tcp(listener):
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=serve_peer, args=(peer,), daemon=True).start()


def serve_peer(peer):
    with peer, peer.makefile("rb") as stream:
        while len(head := stream.read(2)) == 2:
            reply = respond(stream.read(struct.unpack("!H", head)[0]), True)
            peer.sendall(struct.pack("!H", len(reply)) + reply)


def start_server():
    address = ("127.0.0.53", 53)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(address)
    tcp = socket.socket()
    tcp.bind(address)
    tcp.listen()
    # A process of its own: some versions of Python hold their lock during getnameinfo(3).
    child = os.fork()
    if child == 0:
        threading.Thread(target=serve_tcp, args=(tcp,), daemon=True).start()
        serve_udp(udp)
    udp.close()
    tcp.close()
    return child


# ---- both sides ---------------------------------------------------------------------

def ask_glibc(call):
    """In the words of dns_ask."""
    try:
        if call[0] == "N":
            _, address, port, scope, flags = call
            target = (address, port, 0, scope) if ":" in address else (address, port)
            return "N %s %s" % socket.getnameinfo(target, flags)
        _, node, service, family, kind, protocol, flags = call
        found = socket.getaddrinfo(None if node is None else node.encode(), service, family, kind,
                                   protocol, flags)
    except socket.gaierror as error:
        return f"E {error.errno}"
    words = ["A"]
    for one, socktype, proto, canonical, to in found:
        host, scope = to[0].split("%")[0], to[3] if len(to) > 3 else 0
        words.append(f"{int(one)}/{int(socktype)}/{proto}/{canonical}/{host}/{to[1]}/{scope}")
    return " ".join(words)


class Asker:
    def __init__(self):
        self.process = subprocess.Popen([str(BUILD / "tests/dns_ask")], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, call):
        self.process.stdin.write("\t".join("\1" if x is None else str(int(x) if not isinstance(x, str)
                                           else x) for x in call) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")


def deviates(call, ours, theirs):
    """Why a difference is one on purpose; each is in kloop-dns(7)."""
    def plain(text):
        return text.lower()
    if plain(ours) == plain(theirs):
        return "the case of letters in canonical names"
    if call[0] == "A" and call[3] == socket.AF_INET and (ours, theirs) == ("E -3", "E -2"):
        return "a server's failure is EAI_AGAIN where IPv4 alone is asked for, too"
    if call[0] == "A" and call[3] != 0 and {ours, theirs} == {"E -2", "E -5"} \
            and (str(call[1]), "CNAME") in ZONE:
        return "an alias that leads to no address of the one family asked for"
    return None


def generate():
    chance = random.Random(SEED)
    calls = [("A", node, "80", 0, socket.SOCK_STREAM, 0, 0) for node in NODES]
    calls += [("A", node, None, family, socket.SOCK_STREAM, 0, flags) for node in NODES
              for family in (0, socket.AF_INET, socket.AF_INET6)
              for flags in (0, socket.AI_CANONNAME, socket.AI_V4MAPPED)]
    while len(calls) < CALLS:
        calls.append(("A", chance.choice(NODES), chance.choice(SERVICES), chance.choice(FAMILIES),
                      chance.choice(SOCKTYPES), chance.choice(PROTOCOLS), chance.choice(FLAGS)))
    addresses = ["127.0.0.1", "192.0.2.1", "192.0.2.4", "192.0.2.99", "10.0.0.1", "10.0.0.2", "::1",
                 "2001:db8::1", "2001:db8::99", "2001:db8::33", "::ffff:192.0.2.1", "fe80::1"]
    for _ in range(NAME_CALLS):
        flags = 0
        for bit in (socket.NI_NUMERICHOST, socket.NI_NUMERICSERV, socket.NI_NAMEREQD,
                    socket.NI_DGRAM, socket.NI_NOFQDN):
            flags |= bit if chance.random() < 0.25 else 0
        address = chance.choice(addresses)
        calls.append(("N", address, chance.choice([0, 53, 80, 123, 54321]),
                      1 if address.startswith("fe80") else 0, flags))
    return calls


def needs_nobody(call):
    """Numeric addresses, and what is wrong before a name is looked at."""
    if call[0] == "N":
        return call[4] & socket.NI_NUMERICHOST
    _, node, _, _, _, _, flags = call
    return node is None or node in NUMERIC or flags & socket.AI_NUMERICHOST


def generate_for_nobody():
    """The same calls, and as many more as it takes."""
    chance = random.Random(SEED + 1)
    calls = [call for call in generate() if needs_nobody(call)]
    while len(calls) < CALLS:
        node = chance.choice([None, *NUMERIC, *NODES])
        flags = chance.choice(FLAGS)
        calls.append(("A", node, chance.choice(SERVICES), chance.choice(FAMILIES),
                      chance.choice(SOCKTYPES), chance.choice(PROTOCOLS),
                      flags if node is None or node in NUMERIC else
                      flags | socket.AI_NUMERICHOST))
    return calls


def compare(tap, calls):
    """Ask both; print what differs. How many differ not on purpose, and how dns_ask ended."""
    asker = Asker()
    problems, allowed = [], {}
    for call in calls:
        theirs, ours = ask_glibc(call), asker.ask(call)
        if ours == theirs:
            continue
        reason = deviates(call, ours, theirs)
        if reason:
            allowed[reason] = allowed.get(reason, 0) + 1
        else:
            problems.append(f"{call}\n  glibc {theirs}\n  kloop {ours}")
    asker.process.stdin.close()
    status = asker.process.wait(30)
    print(f"# {len(calls)} calls, {len(problems)} differences")
    for reason, number in allowed.items():
        print(f"# on purpose: {number} times {reason}")
    if len(calls) < 2000:
        problems.insert(0, "too few calls")
    tap.result("getaddrinfo and getnameinfo as glibc", problems[:40])
    tap.result("dns_ask ends well", status != 0 and f"exit status {status}")


def inside(tap):
    folder = Path(tempfile.mkdtemp())
    for name, text in FILES.items():
        (folder / name).write_text(text)
        target = Path("/etc") / name
        if target.exists():
            subprocess.run(["mount", "--bind", str(folder / name), str(target.resolve())], check=True)
    for command in ("link set lo up", "addr add 192.0.2.200/24 dev lo",
                    "addr add 2001:db8::200/64 dev lo nodad"):
        subprocess.run(["ip", *command.split()], check=True)
    server = start_server()
    compare(tap, generate())
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    shutil.rmtree(folder)
    return tap.end()


def main():
    tap = Tap()
    if "--inside" in sys.argv:
        return inside(tap)
    command = ["unshare", "-Urnm"]
    tools = [tool for tool in ("unshare", "ip", "mount") if not shutil.which(tool)]
    missing = [name for name in FILES if not (Path("/etc") / name).exists()]
    why = f"there is no {', '.join(tools)}" if tools else None
    if not why and missing and missing != ["gai.conf"]:
        why = f"there is no /etc/{missing[0]} to put another one over"
    if not why and subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        why = "user and network namespaces are not permitted"
    if why:
        compare(tap, generate_for_nobody())
        tap.skip("names of files and servers as glibc", why)
        return tap.end()
    return subprocess.run([*command, sys.executable, __file__, "--inside"]).returncode


if __name__ == "__main__":
    sys.exit(main())
