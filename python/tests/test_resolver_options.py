# SPDX-License-Identifier: MulanPSL-2.0
"""loop.resolver: its options, its cache and counters, and queries."""

import asyncio
import random
import socket
import struct
import time

import pytest

import kloop
from kloop import _records
from resolver_tools import cancel_when_asked, was_asked, wire_name
from transport_tools import run

STREAM = socket.SOCK_STREAM


def lookup(loop, name, **kwargs):
    found = run(loop, loop.getaddrinfo(name, 0, type=STREAM, **kwargs))
    return [info[4][0] for info in found]


def query(loop, *args, **kwargs):
    return run(loop, loop.resolver.query(*args, **kwargs))


# ---- servers ---------------------------------------------------------------------------

@pytest.mark.parametrize("text, server, shown", [
    ("192.0.2.1", ("192.0.2.1", 53, "udp"), "udp://192.0.2.1:53"),
    ("192.0.2.1:5353", ("192.0.2.1", 5353, "udp"), "udp://192.0.2.1:5353"),
    ("udp://192.0.2.1", ("192.0.2.1", 53, "udp"), "udp://192.0.2.1:53"),
    ("tcp://192.0.2.1:1", ("192.0.2.1", 1, "tcp"), "tcp://192.0.2.1:1"),
    ("2001:db8::1", ("2001:db8::1", 53, "udp"), "udp://[2001:db8::1]:53"),
    ("[2001:db8::1]", ("2001:db8::1", 53, "udp"), "udp://[2001:db8::1]:53"),
    ("tcp://[2001:db8::1]:65535", ("2001:db8::1", 65535, "tcp"), "tcp://[2001:db8::1]:65535"),
    ("fe80::1%lo", ("fe80::1%lo", 53, "udp"), "udp://[fe80::1%lo]:53"),
    ("tls://192.0.2.1", ("192.0.2.1", 853, "tls"), "tls://192.0.2.1:853"),
    ("tls://[2001:db8::1]:8853#dns.example", ("2001:db8::1", 8853, "tls"),
     "tls://[2001:db8::1]:8853#dns.example"),
])
def test_server(text, server, shown):
    made = kloop.DnsServer.parse(text)
    assert (made.address, made.port, made.transport) == server
    assert str(made) == shown
    assert kloop.DnsServer.parse(shown) == made
    loop = kloop.Loop(dns={"servers": [text]})
    assert loop.resolver.servers == (made,)
    loop.close()


@pytest.mark.parametrize("text, says", [
    ("", "numeric address"), ("name.test", "numeric address"), ("192.0.2.1:", "port"),
    ("192.0.2.1:http", "port"), ("192.0.2.1:0", "ports are"), ("192.0.2.1:65536", "ports are"),
    ("192.0.2.1:\u0662", "port"), ("[2001:db8::1", "no server"), ("[2001:db8::1]53", "no server"),
    ("127.1", "numeric address"), ("http://192.0.2.1", "'udp', 'tcp'"), ("://192.0.2.1", "'udp'"),
    ("tls://192.0.2.1#", "tls://"), ("udp://192.0.2.1#name", "tls://"),
    ("192.0.2.1 ", "numeric address"), ("192.0.2.1\0", "numeric address"),
])
def test_bad_server(dns_loop, text, says):
    with pytest.raises(ValueError, match=says):
        kloop.DnsServer.parse(text)
    with pytest.raises(ValueError, match=says):
        dns_loop.resolver.configure(servers=[text])


def test_server_over_tcp(dns_loop, name_server):
    dns_loop.resolver.configure(servers=[f"tcp://{name_server}"])
    assert lookup(dns_loop, "four.test") == ["192.0.2.4"]
    assert name_server.over_tcp == 2
    assert dns_loop.resolver.stats()["packets_sent"] == 0
    assert dns_loop.resolver.stats()["tcp_connections"] == 1


def test_servers_as_objects(dns_loop, name_server):
    server = kloop.DnsServer("127.0.0.1", name_server.port)
    dns_loop.resolver.configure(servers=(server,))
    assert dns_loop.resolver.servers == (server,)
    assert str(server) in repr(dns_loop.resolver)
    assert lookup(dns_loop, "four.test") == ["192.0.2.4"]


# ---- options ---------------------------------------------------------------------------

GOOD = {"timeout": 2.5, "attempts": 3, "max_queries": 10, "cache_bytes": 1 << 20, "max_ttl": 60,
        "max_negative_ttl": 5, "serve_stale": 30, "check_interval": 0, "cache": False,
        "prefetch": False, "race": False, "random_case": False, "cookies": False, "edns": False,
        "watch_files": False, "environment": False}


def test_options(kernel_loop):
    resolver = kernel_loop.resolver
    assert resolver is kernel_loop.resolver
    defaults = resolver.options
    assert defaults["servers"] == () and defaults["system"] is False
    resolver.configure(**GOOD)
    assert {name: resolver.options[name] for name in GOOD} == GOOD
    resolver.configure(attempts=None, timeout=None)
    assert resolver.options["timeout"] is None
    resolver.configure(**{name: defaults[name] for name in defaults})
    assert resolver.options == defaults
    resolver.options["servers"] = "changing a copy"
    resolver.options["files"]["hosts"] = "/nowhere"
    assert resolver.options == defaults


@pytest.mark.parametrize("options", [
    {"timeout": 0}, {"timeout": 31}, {"timeout": float("nan")}, {"timeout": -1}, {"attempts": 0},
    {"attempts": 6}, {"max_queries": 0}, {"max_queries": 65537}, {"cache_bytes": -1},
    {"cache_bytes": (1 << 30) + 1}, {"max_ttl": 86401}, {"max_ttl": -1},
    {"max_negative_ttl": 86401}, {"serve_stale": -1}, {"serve_stale": 86401},
    {"check_interval": -0.1}, {"check_interval": 1e9}, {"servers": ["127.0.0.1"] * 9},
    {"files": {"nothing": "/x"}}, {"files": {"hosts": "relative"}},
    {"files": {"hosts": "/" + "x" * 5000}}, {"servers": ["fe80::1%nosuchinterface"]},
], ids=lambda options: ascii(options)[:40])
def test_out_of_range(kernel_loop, options):
    before = kernel_loop.resolver.options
    with pytest.raises(ValueError):
        kernel_loop.resolver.configure(**{"timeout": 1, "system": True, **options})
    assert kernel_loop.resolver.options == before


@pytest.mark.parametrize("options", [
    {"timeout": "1"}, {"attempts": 1.0}, {"max_queries": True}, {"cache": 1},
    {"servers": "1.1.1.1"}, {"servers": 5}, {"servers": [5]}, {"files": ["hosts"]}, {"system": "yes"},
    {"nothing": 1}, {"system": None},
    {"files": {"hosts": 5}}, {"check_interval": None},
], ids=str)
def test_wrong_type(kernel_loop, options):
    before = kernel_loop.resolver.options
    with pytest.raises(TypeError):
        kernel_loop.resolver.configure(**options)
    assert kernel_loop.resolver.options == before


def test_configure_while_lookups_are_on(dns_loop, name_server):
    """They finish by the former options."""
    async def main():
        task = asyncio.ensure_future(dns_loop.getaddrinfo("slow.test", 0, type=STREAM))
        while not name_server.count("slow.test"):
            await asyncio.sleep(0.01)
        dns_loop.resolver.configure(servers=["127.0.0.1:1"], attempts=1, timeout=0.01)
        name_server.release()
        assert (await task)[0][4][0] == "127.0.0.1"
        with pytest.raises(socket.gaierror):
            await dns_loop.getaddrinfo("four.test", 0)

    run(dns_loop, main())


def test_configure_in_a_callback(dns_loop, name_server):
    """The task that a lookup resumes replaces the resolver, again and again."""
    async def main():
        for i in range(20):
            await dns_loop.getaddrinfo(f"bulk{i}.test", 0)
            dns_loop.resolver.configure(max_queries=i + 1)

    run(dns_loop, main())


def test_options_of_the_loop(dns):
    loop = kloop.new_event_loop(dns={**dns, "max_queries": 7})
    assert loop.resolver.options["max_queries"] == 7
    loop.close()

    async def main():
        return asyncio.get_running_loop().resolver.options["attempts"]
    assert kloop.run(main(), dns={"attempts": 2}) == 2
    with pytest.raises(ValueError):
        kloop.Loop(dns={"attempts": 9})


def test_random_case(dns_loop, name_server, monkeypatch):
    seen = []
    respond = name_server.respond
    monkeypatch.setattr(name_server, "respond",
                        lambda query, tcp: seen.append(query[12:]) or respond(query, tcp))
    dns_loop.resolver.configure(random_case=False)
    query(dns_loop, "a-name-of-many-small-letters.bulk.test")
    assert wire_name("a-name-of-many-small-letters.bulk.test") in seen[0]
    dns_loop.resolver.configure(random_case=True)
    query(dns_loop, "a-name-of-many-small-letters.bulk.test")
    assert wire_name("a-name-of-many-small-letters.bulk.test") not in seen[1]


# ---- cache, files, counters ------------------------------------------------------------

def test_cache_and_flush(dns_loop, name_server):
    for _ in range(3):
        assert lookup(dns_loop, "four.test") == ["192.0.2.4"]
    assert lookup(dns_loop, "local.test") == ["127.0.0.1"]
    stats = dns_loop.resolver.stats()
    assert stats["cache_hits"] >= 2 and stats["cache_entries"] >= 2
    assert was_asked(dns_loop, name_server.count("four.test"), 2)
    assert dns_loop.resolver.flush("FOUR.test") == 2  # A, and that there is no AAAA
    assert lookup(dns_loop, "four.test") == ["192.0.2.4"]
    assert was_asked(dns_loop, name_server.count("four.test"), 4)
    assert dns_loop.resolver.flush() == 4
    assert dns_loop.resolver.flush() == 0
    assert lookup(dns_loop, "local.test") == ["127.0.0.1"]
    assert was_asked(dns_loop, name_server.count("local.test"), 4)


@pytest.mark.parametrize("name, error", [
    ("x" * 64, ValueError), ("a..b", ValueError), ("a\0b", ValueError), (5, TypeError),
    (b"four.test", TypeError)])
def test_flush_of_no_name(dns_loop, name, error):
    lookup(dns_loop, "four.test")
    with pytest.raises(error):
        dns_loop.resolver.flush(name)


def test_without_cache(dns_loop, name_server):
    dns_loop.resolver.configure(cache=False)
    for _ in range(2):
        assert lookup(dns_loop, "four.test") == ["192.0.2.4"]
    assert was_asked(dns_loop, name_server.count("four.test"), 4)


def test_serve_stale(dns_loop, name_server):
    dns_loop.resolver.configure(serve_stale=3600, prefetch=False)
    name_server.ttl = 1
    assert lookup(dns_loop, "four.test", family=socket.AF_INET) == ["192.0.2.4"]
    time.sleep(2.1)  # its time is over
    name_server.find = lambda name, kind: ([], 2)
    assert lookup(dns_loop, "four.test", family=socket.AF_INET) == ["192.0.2.4"]
    assert dns_loop.resolver.stats()["cache_stale"] == 1


def test_changed_files(dns_loop, resolver_files, name_server):
    dns_loop.resolver.configure(check_interval=0)
    assert lookup(dns_loop, "fixed") == ["10.0.0.1"]
    resolver_files.write("hosts", "10.0.0.99 fixed and-more\n")
    assert lookup(dns_loop, "fixed") == ["10.0.0.99"]
    dns_loop.resolver.configure(check_interval=3600, watch_files=False)
    assert lookup(dns_loop, "and-more") == ["10.0.0.99"]
    resolver_files.write("hosts", "10.0.0.98 fixed\n127.0.0.1 localhost and even more bytes\n")
    assert lookup(dns_loop, "fixed") == ["10.0.0.99"]
    dns_loop.resolver.reload()
    assert lookup(dns_loop, "fixed") == ["10.0.0.98"]
    assert dns_loop.resolver.stats()["reloads"] >= 2


def test_no_files(dns_loop, name_server):
    """"" stands for a file that does not exist."""
    dns_loop.resolver.configure(files=dict.fromkeys(kloop._resolver._FILES, ""))
    with pytest.raises(socket.gaierror):
        lookup(dns_loop, "fixed")
    assert lookup(dns_loop, "four.test") == ["192.0.2.4"]


def test_stats(dns_loop):
    stats = dns_loop.resolver.stats()
    assert set(stats.values()) == {0}
    lookup(dns_loop, "four.test")
    stats = dns_loop.resolver.stats()
    assert stats["queries"] == 1
    assert was_asked(dns_loop, stats["packets_sent"], 2)
    assert 2 <= stats["packets_received"] <= stats["packets_sent"]
    before = stats["cache_misses"]
    lookup(dns_loop, "six.test")
    assert dns_loop.resolver.stats()["cache_misses"] - before == before, "each is counted once"
    dns_loop.resolver.configure(attempts=1)
    assert dns_loop.resolver.stats()["queries"] == 0


# ---- queries ---------------------------------------------------------------------------

def test_query_address(dns_loop):
    answer = query(dns_loop, "www.test")
    record, = answer.records
    assert (record.name, record.type, record.ttl, record.text) == ("www.test", "A", 60, "192.0.2.1")
    assert record.wire == bytes([192, 0, 2, 1])
    assert answer.rcode == 0 and 0 < answer.ttl <= 60
    assert answer.recursion_available and not answer.authentic and not answer.authoritative
    assert (answer.ede, answer.ede_text) == (None, "")
    assert not answer.cached and query(dns_loop, "www.test").cached
    assert not query(dns_loop, "www.test", cached=False).cached
    answer = query(dns_loop, "www.test", "aaaa")
    assert [one.text for one in answer.records] == ["2001:db8::1"] and answer.type == "AAAA"


@pytest.mark.parametrize("name, kind, texts", [
    ("test", "MX", ["10 mail.test"]),
    ("test", 15, ["10 mail.test"]),
    ("test", "type15", ["10 mail.test"]),
    ("txt.test", "TXT", ['"hello" "a \\"b"'.replace('b"', 'b\\001"')]),
    ("_sip._udp.test", "SRV", ["1 2 5060 sip.test"]),
    ("1.2.0.192.in-addr.arpa", "PTR", ["www.test"]),
    ("9.2.0.192.in-addr.arpa", "PTR", ["nine.test", "neun.test"]),
    ("test", "SOA", ["ns.test host.test 1 2 3 4 30"]),
    ("odd.test", "TYPE4711", ["\\# 3 010203"]),
    ("b\u00fccher.test", "A", ["192.0.2.77"]),
])
def test_query_types(dns_loop, name_server, name, kind, texts):
    if kind == "TXT":
        name_server.zone = {("txt.test", "TXT"): [b"\5hello\5a \"b\1"]}
    answer = query(dns_loop, name, kind)
    assert [record.text for record in answer.records] == texts


def test_query_follows_aliases(dns_loop):
    answer = query(dns_loop, "alias.test", "A")
    assert [(record.name, record.type, record.text) for record in answer.records] == [
        ("alias.test", "CNAME", "middle.test"), ("middle.test", "CNAME", "www.test"),
        ("www.test", "A", "192.0.2.1")]
    assert [record.text for record in answer.of_type("a")] == ["192.0.2.1"]
    assert answer.of_type(1) == answer.of_type("TYPE1") == answer.of_type("A")
    assert answer.of_type(15) == ()
    with pytest.raises(ValueError):
        answer.of_type("nothing")


def test_query_search(dns_loop):
    answer = query(dns_loop, "four", search=True)
    assert answer.records[0].name == "four.test"


def test_authentic(dns_loop, name_server):
    """AD counts: the server is on this machine."""
    name_server.authentic = True
    assert query(dns_loop, "www.test").authentic


@pytest.mark.parametrize("name, kind, rcode, number", [
    ("nosuch.test", "A", 3, socket.EAI_NONAME), ("www.test", "MX", 0, socket.EAI_NODATA)])
def test_no_such_thing(dns_loop, name_server, name, kind, rcode, number):
    name_server.ede = (22, "no \u00fcber")
    with pytest.raises(kloop.DnsError, match=f"{name} {kind}: .*Error 22: no ") as caught:
        query(dns_loop, name, kind)
    error = caught.value
    assert isinstance(error, socket.gaierror)
    assert (error.errno, error.rcode, error.name, error.type) == (number, rcode, name, kind)
    assert error.answer.ede == 22 and error.answer.ede_text.startswith("no ")
    assert error.answer.authority[0].type == "SOA" and error.answer.records == ()
    assert error.code < -4095


@pytest.mark.parametrize("name, rcode", [
    ("fail.test", 2), ("refuse.test", 5), ("silent.test", None),
])
def test_no_answer(dns_loop, name, rcode):
    if rcode is None:
        dns_loop.resolver.configure(timeout=0.05)
    with pytest.raises(kloop.DnsError) as caught:
        query(dns_loop, name, "MX")
    assert (caught.value.errno, caught.value.rcode) == (socket.EAI_AGAIN, rcode)
    # What a server that failed had to say.
    assert (caught.value.answer is None) is (rcode is None)


@pytest.mark.parametrize("args, error", [
    (("a..b",), kloop.DnsError), (("x" * 64,), kloop.DnsError), (("a\0b",), ValueError),
    ((5,), TypeError),
    (("test", "NOSUCH"), ValueError), (("test", 0), ValueError), (("test", 65536), ValueError),
    (("test", 41), ValueError), (("test", 255), ValueError), (("test", 1.0), TypeError),
    (("test", "TYPE"), ValueError), (("test", "TYPE\u0661"), ValueError),
    (("test", None), TypeError)], ids=ascii)
def test_bad_query(dns_loop, args, error):
    with pytest.raises(error):
        query(dns_loop, *args)


def test_cancelled_query(dns_loop, name_server):
    async def main():
        await cancel_when_asked(name_server, dns_loop.resolver.query("silent.test", "TXT"))
        await asyncio.sleep(0)
        assert dns_loop.resolver.stats()["in_flight"] == 0

    run(dns_loop, main())


def test_query_in_system_mode(dns_loop):
    """There is no counterpart, so it stays."""
    dns_loop.resolver.configure(system=True)
    assert query(dns_loop, "www.test").records[0].text == "192.0.2.1"


def test_resolver_outlives_its_loop(dns):
    loop = kloop.Loop(dns=dns)
    resolver = loop.resolver
    loop.close()
    for call in (resolver.stats, resolver.flush, resolver.reload,
                 lambda: resolver.configure(attempts=1), lambda: resolver.reason):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    del loop
    with pytest.raises(RuntimeError, match="closed"):
        resolver.stats()


# ---- records as text -------------------------------------------------------------------

NAME = b"\3www\4test\0"


@pytest.mark.parametrize("kind, wire, text", [
    ("A", b"\1\2\3\4", "1.2.3.4"),
    ("A", b"\1\2\3", "\\# 3 010203"),
    ("AAAA", bytes(15) + b"\1", "::1"),
    ("NS", NAME, "www.test"),
    ("NS", b"\0", "."),
    ("CNAME", b"\3a.b\1 \2\\\xff\0", "a\\046b.\\032.\\092\\255"),
    ("CNAME", b"\3ab", "\\# 3 036162"),
    ("CNAME", b"\xc0\x0c", "\\# 2 c00c"),
    ("MX", b"\0\1" + NAME, "1 www.test"),
    ("MX", b"\0", "\\# 1 00"),
    ("TXT", b"\2ab\0\1\"", '"ab" "" "\\""'),
    ("TXT", b"\5ab", "\\# 3 056162"),
    ("TXT", b"\4\\\n\x7f~", '"\\\\\\010\\127~"'),
    ("SRV", b"\0\1\0\2\0\3" + NAME, "1 2 3 www.test"),
    ("SOA", NAME + NAME + struct.pack("!5I", 1, 2, 3, 4, 5), "www.test www.test 1 2 3 4 5"),
    ("SOA", NAME, "\\# 10 03777777047465737400"),
    ("CAA", b"\0\5issueca.test", '0 issue "ca.test"'),
    ("CAA", b"\0\5is", "\\# 4 00056973"),
    ("DS", b"\x12\x34\x08\x02\xab\xcd", "4660 8 2 abcd"),
    ("TLSA", b"\3\1\1\xab", "3 1 1 ab"),
    ("HTTPS", b"\0\1\0\0\1\0\3\2h2\0\3\0\2\1\xbb", "1 . alpn=h2 port=443"),
    ("HTTPS", b"\0\1\0\0\4\0\4\1\2\3\4\0\6\0\x10" + bytes(15) + b"\1",
     "1 . ipv4hint=1.2.3.4 ipv6hint=::1"),
    ("SVCB", b"\0\0" + NAME, "0 www.test"),
    ("SVCB", b"\0\1\0\0\2\0\0\3\xe7\0\1x", '1 . no-default-alpn key999="x"'),
    ("SVCB", b"\0\1\0\0\1\0\5h2", "\\# 9 000100000100056832"),
    ("TYPE4711", b"", "\\# 0"),
])
def test_text(kind, wire, text):
    assert _records.data_text(kind, wire) == text


def test_text_of_anything():
    """Whatever bytes come, there is a text, and it is safe to print."""
    chance = random.Random(1)
    for kind in _records._FORMS:
        for _ in range(300):
            wire = bytes(chance.choice([0, 1, 2, 3, 63, 64, 192, 255, chance.randrange(256)])
                         for _ in range(chance.randrange(40)))
            text = _records.data_text(kind, wire)
            assert text.isascii() and text.isprintable(), (kind, wire)


def test_types():
    for name, number in _records.TYPES.items():
        assert _records.type_number(name) == _records.type_number(name.lower()) == number
        assert _records.type_name(number) == name
    assert _records.type_name(4711) == "TYPE4711"
