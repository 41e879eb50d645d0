#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""The resolver asks real name servers: nsd, knotd, unbound, named, dnsmasq.

They run on 127.0.0.1, at ports of their own, as the user who runs this; see
dns_servers.py. tests/dns_query asks them. Nothing outside is asked, and no
file of the system is read. Prints TAP.
"""
import base64
import ipaddress
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True  # the source tree may be read-only
import dns_servers  # noqa: E402
from dns_servers import Dnsmasq, Knot, Missing, Named, Nsd, Unbound  # noqa: E402

BUILD = Path(os.environ.get("top_builddir", "."))
PATIENCE_SECONDS = dns_servers.PATIENCE_SECONDS
ALL_SECONDS = 900

A, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, NAPTR = 1, 5, 6, 12, 15, 16, 28, 33, 35
DNAME, RRSIG, NSEC, DNSKEY, HTTPS, CAA = 39, 46, 47, 48, 65, 257
NO_CACHE, DNSSEC, CHECKING_DISABLED = 2, 4, 8  # enum kloop_query_flag
FLAG_NO_COOKIES, FLAG_NO_EDNS, FLAG_NO_CACHE = 2, 4, 16  # enum kloop_resolver_flag
OK, NONAME, NODATA = "0", "KLOOP_ERROR_DNS_NONAME", "KLOOP_ERROR_DNS_NODATA"
AGAIN, TLS = "KLOOP_ERROR_DNS_AGAIN", "KLOOP_ERROR_DNS_TLS"


# ---- zones ------------------------------------------------------------------

def zone(origin, lines, minimum=30):
    """A zone of these lines, with what every zone has."""
    return (f"$ORIGIN {origin}\n$TTL 300\n@ SOA ns.test. admin.test. 1 3600 600 86400 {minimum}\n"
            f"@ NS ns.test.\n{lines}\n")


def numbered(line, count):
    return "\n".join(line.format(i=i, next=i + 1) for i in range(count))


TEST_LINES = "\n".join([
    "ns A 127.0.0.1",
    "www A 192.0.2.1\nwww AAAA 2001:db8::1",
    "four A 192.0.2.4\nsix AAAA 2001:db8::6",
    "alias CNAME www\nalias2 CNAME alias",
    numbered("chain{i} CNAME chain{next}", 12) + "\nchain12 CNAME www",
    numbered("long{i} CNAME long{next}", 20) + "\nlong20 CNAME www",
    "loop1 CNAME loop2\nloop2 CNAME loop1",
    "dangling CNAME nowhere\noutside CNAME www.elsewhere.example.",
    "old DNAME new.test.\nhost.new A 192.0.2.7",
    "*.wild A 192.0.2.9\n*.wild TXT wild\nbelow.wild AAAA 2001:db8::9\n*.many A 192.0.2.10",
    "mail MX 10 mx1\nmail MX 20 mx2\nmx1 A 192.0.2.11\nmx2 A 192.0.2.12",
    "_sip._udp SRV 1 2 5060 www",
    'text TXT "hello" "world"',
    "bigtext TXT " + " ".join(f'"{c * 250}"' for c in "abcdefghijkl"),
    numbered("middle A 198.51.100.{i}", 40),
    # named takes a hundred of a kind at most.
    numbered("big A 198.51.100.{i}", 90) + "\n" + numbered("big AAAA 2001:db8::{i}", 90),
    'enum NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:a@test!" .',
    'caa CAA 0 issue "ca.test"',
    "service HTTPS 1 . alpn=h2,h3 port=8443 ipv4hint=192.0.2.1",
    "short 1 A 192.0.2.13",
])
ZONES = {
    ".": zone(".", "test. NS ns.test.\nns.test. A 127.0.0.1"),
    "test.": zone("test.", TEST_LINES),
    "2.0.192.in-addr.arpa.": zone("2.0.192.in-addr.arpa.", "1 PTR www.test.\n4 PTR four.test."),
    "8.b.d.0.1.0.0.2.ip6.arpa.":
        zone("8.b.d.0.1.0.0.2.ip6.arpa.", "1" + ".0" * 23 + " PTR www.test."),
}
SIGNED_LINES = ("www A 192.0.2.21\nwww AAAA 2001:db8::21\nalias CNAME www\n*.wild A 192.0.2.22\n"
                "text TXT signed\nout CNAME www.test.")
DNSMASQ_LINES = "\n".join([
    "edns-packet-max=512",
    "host-record=www.masq.test,192.0.2.31,2001:db8::31",
    "cname=alias.masq.test,www.masq.test",
    "mx-host=mail.masq.test,www.masq.test,10",
    "txt-record=text.masq.test,hello",
    "txt-record=big.masq.test," + ",".join(c * 200 for c in "abcd"),
    "srv-host=_sip._udp.masq.test,www.masq.test,5060,1,2",
    "local=/masq.test/",
    "local-ttl=60",
])


# ---- the resolver -----------------------------------------------------------

class Resolver:
    """tests/dns_query with these servers."""

    def __init__(self, *servers, **options):
        words = [f"server={server if isinstance(server, str) else server.address}"
                 for server in servers]
        words += [f"{key}={value}" for key, value in options.items()]
        self.process = subprocess.Popen([str(BUILD / "tests/dns_query"), *words],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        try:
            status = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process.stdout.close()
        if kind is None:
            assert status == 0, f"dns_query ended with {status}"

    def say(self, *words):
        self.process.stdin.write((" ".join(str(word) for word in words) + "\n").encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_SECONDS)
        assert ready, f"no answer to {words}"
        line = self.process.stdout.readline()
        assert line, f"dns_query ended at {words}"
        return json.loads(line.decode(errors="replace"))

    def query(self, name, kind, flags=0):
        return self.say("query", name, kind, flags)

    def data(self, name, kind, flags=0):
        """The data of a type as text, sorted."""
        reply = self.query(name, kind, flags)
        assert reply["result"] == OK, f"{name} {kind}: {reply}"
        return sorted(text_of(record) for record in reply["answer"] if record[1] == kind)

    def addresses(self, name, family=0):
        reply = self.say("addresses", name, family)
        assert reply["result"] == OK, f"{name}: {reply}"
        return sorted(reply["addresses"])

    def stats(self):
        return self.say("stats")


def name_of(data, at=0):
    labels = []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels)


def text_of(record):
    """The data of a record in the format of zones, for types of the tests."""
    _, kind, _, data = record[0], record[1], record[2], bytes.fromhex(record[3])
    if kind in (A, AAAA):
        return str(ipaddress.ip_address(data))
    if kind in (CNAME, PTR, DNAME):
        return name_of(data)
    if kind == MX:
        return f"{int.from_bytes(data[:2], 'big')} {name_of(data, 2)}"
    if kind == SRV:
        numbers = " ".join(str(int.from_bytes(data[i:i + 2], "big")) for i in (0, 2, 4))
        return f"{numbers} {name_of(data, 6)}"
    if kind == TXT:
        texts, at = [], 0
        while at < len(data):
            texts.append(data[at + 1:at + 1 + data[at]].decode())
            at += 1 + data[at]
        return " ".join(texts)
    return data.hex()


# ---- servers and tests ------------------------------------------------------

class Setting:
    """All servers, and a folder for their files."""

    def __init__(self, folder):
        self.folder, self.all = folder, []
        self.nsd = self.run(Nsd, "nsd", "test", zones=ZONES)
        self.spare = self.run(Nsd, "spare", "test", zones={"test.": ZONES["test."]})
        self.expiring = self.run(Nsd, "expiring", "stale.test",
                                 zones={"stale.test.": zone("stale.test.", "www 1 A 192.0.2.51")})
        self.limited = self.run(Nsd, "limited", "test", zones={"test.": ZONES["test."]}, rate=1,
                                slip=1)
        self.dropping = self.run(Nsd, "dropping", "test", zones={"test.": ZONES["test."]}, rate=1,
                                 slip=0)
        signed = {name: zone(name, SIGNED_LINES) for name in ("signed.test.", "bogus.test.")}
        cookies = {"cookies.test.": zone("cookies.test.", "* A 192.0.2.41")}
        self.knot = self.run(Knot, "knot", "bogus.test", zones={**signed, **cookies},
                             signed=signed, cookies=cookies)
        self.named = self.run(Named, "named", "test", zones={"test.": ZONES["test."]},
                              orphans=["orphan.test."])
        self.dnsmasq = self.run(Dnsmasq, "dnsmasq", "www.masq.test", lines=DNSMASQ_LINES)
        self.make_certificate("certificate.pem", "key.pem")
        self.make_certificate("other.pem", "other-key.pem")
        stubs = dict.fromkeys(ZONES, self.nsd.port)
        stubs.update(dict.fromkeys(signed, self.knot.port), **{"stale.test.": self.expiring.port})
        self.unbound = self.run(Unbound, "unbound", "test", stubs=stubs, anchors=self.anchors(),
                                certificate=folder / "certificate.pem", key=folder / "key.pem")

    def run(self, kind, name, probe, **settings):
        server = kind(self.folder, name, probe, **settings)
        self.all.append(server)
        return server.start()

    def anchors(self):
        """What unbound trusts: the key of one zone, and one that the other zone never had."""
        with Resolver(self.knot) as resolver:
            keys = [bytes.fromhex(record[3]) for record in
                    resolver.query("signed.test", DNSKEY)["answer"] if record[1] == DNSKEY]
        anchors = [f"signed.test. DNSKEY 257 3 {key[3]} {base64.b64encode(key[4:]).decode()}"
                   for key in keys if key[:2] == b"\1\1"]
        return [*anchors, f"bogus.test. DS 12345 13 2 {'ab' * 32}"]

    def make_certificate(self, name, key):
        subprocess.run([dns_servers.find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=dns.test",
                        "-addext", "subjectAltName=DNS:dns.test,IP:127.0.0.1", "-keyout",
                        self.folder / key, "-out", self.folder / name],
                       check=True, capture_output=True, timeout=PATIENCE_SECONDS)

    def stop(self):
        for server in self.all:
            server.stop()


TESTS = []


def test(function):
    TESTS.append(function)
    return function


def same(found, expected):
    assert found == expected, f"{found} is not {expected}"


def sent(resolver, expected):
    """So many questions were sent, or more by what was repeated by a machine that stood still."""
    stats = resolver.stats()
    assert expected <= stats["sent"] <= expected + 2 * stats["retries"], stats


def ordinary(setting):
    """Those who serve the zone test."""
    return {"nsd": setting.nsd, "named": setting.named, "unbound": setting.unbound}.items()


@test
def records_of_all_types(setting):
    """A, AAAA, MX, TXT, SRV, PTR, NAPTR, CAA, HTTPS"""
    for _, server in ordinary(setting):
        with Resolver(server) as resolver:
            same(resolver.data("www.test", A), ["192.0.2.1"])
            same(resolver.data("www.test", AAAA), ["2001:db8::1"])
            same(resolver.data("mail.test", MX), ["10 mx1.test", "20 mx2.test"])
            same(resolver.data("text.test", TXT), ["hello world"])
            same(resolver.data("_sip._udp.test", SRV), ["1 2 5060 www.test"])
            same(len(resolver.data("enum.test", NAPTR)), 1)
            same(resolver.data("caa.test", CAA), [b"\0\5issueca.test".hex()])
            assert resolver.data("service.test", HTTPS)[0].startswith("000100" "0001" "0006026832")
            same(resolver.addresses("www.test"), ["192.0.2.1", "2001:db8::1"])
            same(resolver.addresses("WwW.TeSt."), ["192.0.2.1", "2001:db8::1"])
            same(resolver.addresses("four.test"), ["192.0.2.4"])
            same(resolver.stats()["refused"], 0)
    for server in (setting.nsd, setting.unbound):
        with Resolver(server) as resolver:
            same(resolver.data("1.2.0.192.in-addr.arpa", PTR), ["www.test"])
            same(resolver.say("name", "192.0.2.1"), {"result": OK, "host": "www.test"})
            same(resolver.say("name", "2001:db8::1"), {"result": OK, "host": "www.test"})
            same(resolver.say("name", "192.0.2.99")["result"], NONAME)


@test
def aliases(setting):
    """chains of CNAME, loops, dangling ends, DNAME, wildcards"""
    for name, server in ordinary(setting):
        with Resolver(server) as resolver:
            same(resolver.addresses("alias2.test"), ["192.0.2.1", "2001:db8::1"])
            same(resolver.say("addresses", "alias2.test", 2)["canonical"], "www.test")
            same(len(resolver.query("chain4.test", A)["answer"]), 10)
            same(resolver.addresses("chain4.test"), ["192.0.2.1", "2001:db8::1"])
            if name == "nsd":  # the others follow eleven at most
                same(len(resolver.query("chain0.test", A)["answer"]), 14)
                same(resolver.addresses("chain0.test"), ["192.0.2.1", "2001:db8::1"])
            # Servers give up on their own after some; we do after sixteen.
            assert resolver.query("long0.test", A)["result"] in (NONAME, NODATA, AGAIN)
            assert resolver.query("loop1.test", A)["result"] in (NONAME, NODATA, AGAIN)
            assert resolver.query("dangling.test", A)["result"] == NONAME
            same(resolver.data("dangling.test", CNAME), ["nowhere.test"])
            same(resolver.data("host.old.test", A), ["192.0.2.7"])
            same(resolver.say("addresses", "host.old.test", 2)["canonical"], "host.new.test")
            same(resolver.data("old.test", DNAME), ["new.test"])
            same(resolver.data("any.thing.wild.test", A), ["192.0.2.9"])
            same(resolver.query("any.wild.test", AAAA)["result"], NODATA)
            same(resolver.query("below.wild.test", A)["result"], NODATA)
            same(resolver.data("any.wild.test", TXT), ["wild"])


@test
def no_such_name_and_no_such_type(setting):
    """NXDOMAIN and NODATA come with SOA, and are kept for its time"""
    for server_name, server in ordinary(setting):
        with Resolver(server) as resolver:
            for name, kind, result in (("nosuch.test", A, NONAME), ("four.test", AAAA, NODATA)):
                reply = resolver.query(name, kind)
                same(reply["result"], result)
                same(reply["rcode"], 3 if result == NONAME else 0)
                same([record[1] for record in reply["authority"] if record[1] == SOA], [SOA])
                assert reply["ttl"] <= 30, reply  # of the zone's SOA, not its 300
                same(reply["cached"], 0)
                again = resolver.query(name, kind)
                same((again["cached"], again["result"]), (1, result))
            sent(resolver, 3 if server_name == "named" else 2)  # BADCOOKIE
            same(resolver.stats()["entries"], 2)


@test
def what_does_not_fit(setting):
    """answers that are truncated come over TCP, once each, on one connection"""
    for _, server in ordinary(setting):
        with Resolver(server) as resolver:
            same(resolver.data("bigtext.test", TXT), [" ".join(c * 250 for c in "abcdefghijkl")])
            same(len(resolver.addresses("big.test")), 180)
            stats = resolver.stats()
            assert stats["tcp"] >= 1 and stats["timeouts"] == 0, stats
        # 40 addresses fit 1232 bytes, not the 512 of plain DNS.
        with Resolver(server) as resolver:
            same(len(resolver.data("middle.test", A)), 40)
            same(resolver.stats()["tcp"], 0)
        with Resolver(server, flags=FLAG_NO_EDNS) as resolver:
            same(len(resolver.data("middle.test", A)), 40)
            same(resolver.stats()["tcp"], 1)
        with Resolver(server.address + "/tcp") as resolver:
            same(len(resolver.data("big.test", A)), 90)
            resolver.say("start", 200, "n.many.test", A)
            same(resolver.say("wait"), {OK: 200})
            same(resolver.stats()["sent"], 0)


@test
def small_packets(setting):
    """dnsmasq: its own records, 512 bytes, REFUSED for all else"""
    with Resolver(setting.dnsmasq) as resolver:
        same(resolver.addresses("www.masq.test"), ["192.0.2.31", "2001:db8::31"])
        same(resolver.addresses("alias.masq.test"), ["192.0.2.31", "2001:db8::31"])
        same(resolver.data("mail.masq.test", MX), ["10 www.masq.test"])
        same(resolver.data("text.masq.test", TXT), ["hello"])
        same(resolver.data("_sip._udp.masq.test", SRV), ["1 2 5060 www.masq.test"])
        same(resolver.stats()["tcp"], 0)
        same(resolver.data("big.masq.test", TXT), [" ".join(c * 200 for c in "abcd")])
        same(resolver.stats()["tcp"], 1)
        same(resolver.query("nosuch.masq.test", A)["result"], NONAME)
        same(resolver.query("www.masq.test", TXT)["result"], NODATA)
        same(resolver.query("www.elsewhere.test", A)["result"], AGAIN)


@test
def cookies(setting):
    """knotd and named insist on cookies: BADCOOKIE once, never TCP"""
    for server, name in ((setting.knot, "a{}.cookies.test"), (setting.named, "a{}.many.test")):
        with Resolver(server) as resolver:
            same(resolver.query(name.format(0), A)["result"], OK)
            sent(resolver, 2)
            for i in range(1, 20):
                same(resolver.query(name.format(i), A)["result"], OK)
            stats = resolver.stats()
            sent(resolver, 21)
            same((stats["refused"], stats["tcp"]), (0, 0))
            prefix = name.format("").replace("a.", "b.")
            resolver.say("start", 100, prefix, A)
            same(resolver.say("wait"), {OK: 100})
        # All at once, before the cookie is known.
        with Resolver(server) as resolver:
            resolver.say("start", 100, prefix, A)
            same(resolver.say("wait"), {OK: 100})
    # Who has none to show is sent to TCP by both.
    with Resolver(setting.named, flags=FLAG_NO_COOKIES) as resolver:
        same(resolver.data("www.test", A), ["192.0.2.1"])


@test
def validation_by_unbound(setting):
    """AD for the signed zone, not for another; signatures on request"""
    with Resolver(setting.unbound) as resolver:
        reply = resolver.query("www.signed.test", A)
        same((reply["result"], reply["ad"], reply["ede"]), (OK, 1, -1))
        same([record[1] for record in reply["answer"]], [A])
        same(resolver.query("www.test", A)["ad"], 0)
        same(resolver.say("addresses", "www.signed.test", 2)["secure"], 1)
        same(resolver.say("addresses", "www.test", 2)["secure"], 0)
        same(resolver.query("alias.signed.test", A)["ad"], 1)
        same(resolver.query("out.signed.test", A)["ad"], 0)  # leads to where nothing is signed
        same(resolver.query("any.wild.signed.test", A)["ad"], 1)
        reply = resolver.query("nosuch.signed.test", A)
        same((reply["result"], reply["ad"]), (NONAME, 1))
        reply = resolver.query("www.signed.test", A, DNSSEC)
        same(sorted(record[1] for record in reply["answer"]), [A, RRSIG])
        same(reply["ad"], 1)
        reply = resolver.query("nosuch.signed.test", A, DNSSEC)
        assert any(record[1] == NSEC for record in reply["authority"]), reply
    # The server of the zone does not validate, so it says nothing about it.
    with Resolver(setting.knot) as resolver:
        reply = resolver.query("www.signed.test", A, DNSSEC)
        same((reply["ad"], reply["aa"]), (0, 1))
        assert len(resolver.query("signed.test", DNSKEY)["answer"]) >= 1


@test
def a_zone_that_is_bogus(setting):
    """unbound fails on it, says why (EDE), and lets those have it who do not want it checked"""
    with Resolver(setting.unbound, timeout=20000) as resolver:
        reply = resolver.query("www.bogus.test", A)
        same((reply["result"], reply["rcode"]), (AGAIN, 2))
        assert reply["ede"] in (6, 9, 10), reply  # bogus; no DNSKEY that fits; no signature
        reply = resolver.query("www.bogus.test", A, CHECKING_DISABLED)
        same((reply["result"], reply["ad"]), (OK, 0))
        same([text_of(record) for record in reply["answer"]], ["192.0.2.21"])


@test
def answers_past_their_time(setting):
    """unbound serves what expired, and says so: EDE 3"""
    with Resolver(setting.unbound, flags=FLAG_NO_CACHE) as resolver:
        same(resolver.query("www.stale.test", A)["ede"], -1)
        setting.expiring.kill(signal.SIGSTOP)
        try:
            time.sleep(2.1)  # its time is one second
            reply = resolver.query("www.stale.test", A)
        finally:
            setting.expiring.kill(signal.SIGCONT)
        same((reply["result"], reply["ede"]), (OK, 3))
        # As configured; from unbound 1.22 on not longer than the record's own.
        assert reply["ttl"] in (7, 1), reply["ttl"]


@test
def servers_that_refuse_or_fail(setting):
    """REFUSED, SERVFAIL: the next server; with no other, EAI_AGAIN"""
    with Resolver(setting.named) as resolver:
        same(resolver.query("www.elsewhere.test.", A)["result"], NONAME)  # its own zone
        reply = resolver.query("www.elsewhere.example.", A)
        same((reply["result"], reply["rcode"]), (AGAIN, 5))  # REFUSED
        reply = resolver.query("www.orphan.test", A)
        same((reply["result"], reply["rcode"]), (AGAIN, 2))  # SERVFAIL
    with Resolver(setting.named, setting.nsd) as resolver:
        same(resolver.query("1.2.0.192.in-addr.arpa", PTR)["result"], OK)
        same(resolver.query("www.orphan.test", A)["result"], NONAME)
        same(resolver.stats()["timeouts"], 0)
    with Resolver(setting.nsd) as resolver:  # out of the zone, the end of an alias
        assert resolver.query("outside.test", A)["result"] in (NODATA, NONAME)


@test
def servers_that_stop(setting):
    """stopped or killed with a hundred questions open: another one answers them all"""
    spare, port = setting.spare, setting.spare.port
    for address in (spare.address, spare.address + "/tcp"):
        for number in (signal.SIGCONT, signal.SIGKILL):
            with Resolver(address, setting.nsd, flags=FLAG_NO_CACHE) as resolver:
                same(resolver.query("www.test", A)["result"], OK)
                spare.kill(signal.SIGSTOP)
                try:
                    same(resolver.say("start", 100, "n.many.test", A), {"open": 100})
                finally:
                    spare.kill(number)
                same(resolver.say("wait"), {OK: 100})
                if number == signal.SIGKILL:
                    same(resolver.query("four.test", A)["result"], OK)
            if number == signal.SIGKILL:
                with Resolver(address) as resolver:  # nobody is left
                    same(resolver.query("www.test", A)["result"], AGAIN)
                spare.stop()
                spare.start(port)
    # Silent for good, and back again.
    with Resolver(spare, setting.nsd, flags=FLAG_NO_CACHE) as resolver:
        spare.kill(signal.SIGSTOP)
        try:
            for i in range(20):
                same(resolver.query(f"n{i}.many.test", A)["result"], OK)
        finally:
            spare.kill(signal.SIGCONT)
        same(resolver.stats()["timeouts"], 0)


@test
def a_limit_of_rate(setting):
    """truncated, or dropped, over the limit: TCP, or another server"""
    with Resolver(setting.limited, flags=FLAG_NO_CACHE) as resolver:
        for i in range(30):
            same(resolver.query(f"n{i}.many.test", A)["result"], OK)
        stats = resolver.stats()
        assert stats["tcp"] > 10 and stats["timeouts"] == 0, stats
    with Resolver(setting.dropping, setting.nsd, flags=FLAG_NO_CACHE) as resolver:
        resolver.say("start", 100, "n.many.test", A)
        same(resolver.say("wait"), {OK: 100})
        stats = resolver.stats()
        assert stats["retries"] > 0 and stats["timeouts"] == 0, stats


@test
def dns_over_tls(setting):
    """unbound by TLS: all questions on one connection, which is kept"""
    address = f"127.0.0.1@{setting.unbound.tls_port}/tls"
    trust = setting.folder / "certificate.pem"
    for server in (address, address + ":dns.test"):
        with Resolver(server, trust=trust, idle=60000) as resolver:
            same(resolver.addresses("www.test"), ["192.0.2.1", "2001:db8::1"])
            same(resolver.query("www.signed.test", A)["ad"], 1)
            same(len(resolver.addresses("big.test")), 180)
            for part in range(3):
                resolver.say("start", 100, f"tls{part}-.many.test", A)
                same(resolver.say("wait"), {OK: 100})
            stats = resolver.stats()
            same((stats["sent"], stats["tls"], stats["tls_failures"]), (0, 1, 0))
            same(resolver.say("server", 0),
                 {"down": 0, "connected": 1, "authenticated": 1, "error": "0"})
    # A connection for each question: tickets spare the rest of the handshake.
    with Resolver(address, trust=trust, idle=0, flags=FLAG_NO_CACHE) as resolver:
        for _ in range(5):
            same(resolver.data("www.test", A), ["192.0.2.1"])
        stats = resolver.stats()
        same((stats["tls"], stats["tcp"]), (5, 5))
        assert stats["resumed"] >= 3, stats


@test
def tls_that_is_not_to_be_trusted(setting):
    """another name, nobody who is trusted, no TLS at all: not a question is told"""
    address = f"127.0.0.1@{setting.unbound.tls_port}"
    trust = setting.folder / "certificate.pem"
    for server, options in ((address + "/tls:other.test", {"trust": trust}),
                            (address + "/tls", {"trust": setting.folder / "other.pem"}),
                            (address + "/tls:dns.test", {"trust": setting.folder / "other.pem"})):
        with Resolver(server, **options) as resolver:
            same(resolver.query("www.test", A)["result"], TLS)
            stats = resolver.stats()
            same((stats["sent"], stats["tls"]), (0, 0))
            assert stats["tls_failures"] > 0, stats
            assert resolver.say("server", 0)["error"].startswith("KLOOP_ERROR_TLS"), stats
    with Resolver(address + "/opportunistic") as resolver:
        same(resolver.data("www.test", A), ["192.0.2.1"])
        same(resolver.say("server", 0)["authenticated"], 0)
        same(resolver.stats()["tls"], 1)
    # The port of plain DNS, over TCP, speaks no TLS; and nobody falls back to that.
    for server in (setting.unbound.address + "/tls", setting.unbound.address + "/opportunistic"):
        with Resolver(server, trust=trust, timeout=1000) as resolver:
            assert resolver.query("www.test", A)["result"] in (TLS, AGAIN,
                                                               "KLOOP_ERROR_DNS_TIMEOUT")
            same(resolver.stats()["sent"], 0)
    # One in the clear was added on purpose: it answers when TLS has failed.
    with Resolver(address + "/tls:other.test", setting.nsd, trust=trust) as resolver:
        same(resolver.data("www.test", A), ["192.0.2.1"])
        sent(resolver, 1)


@test
def many_questions(setting):
    """a thousand names from each, two hundred at once, and none is lost"""
    for name, server in ordinary(setting):
        with Resolver(server) as resolver:
            for again in range(2):  # then of the cache
                for part in range(5):
                    resolver.say("start", 200, f"{name}{part}-.many.test", A)
                    same(resolver.say("wait"), {OK: 200})
                same(resolver.stats()["hits"], 1000 * again)
            same(resolver.stats()["in_flight"], 0)


# ---- all of it --------------------------------------------------------------

def on_signal(number, _):
    raise SystemExit(f"ended by signal {number}")


def run(setting):
    """Returns how many failed."""
    failed = 0
    for position, function in enumerate(TESTS, 1):
        title = f"{function.__name__.replace('_', ' ')}: {function.__doc__}"
        start = time.monotonic()
        try:
            function(setting)
            print(f"ok {position} - {title}", flush=True)
            print(f"# {time.monotonic() - start:.1f} s")
        except Exception:
            failed += 1
            print(f"not ok {position} - {title}", flush=True)
            for line in traceback.format_exc().splitlines():
                print(f"#   {line}")
    print(f"1..{len(TESTS)}")
    return failed


def main():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, on_signal)
    signal.alarm(ALL_SECONDS)
    folder = Path(tempfile.mkdtemp(prefix="kloop-dns-"))
    setting = Setting.__new__(Setting)
    setting.all = []
    try:
        setting.__init__(folder)
        return 1 if run(setting) else 0
    except (Missing, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
        print(f"not ok 1 - {str(error).splitlines()[0]}\n1..1")
        for line in str(error).splitlines():
            print(f"#   {line}")
        return 1
    finally:
        setting.stop()
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
