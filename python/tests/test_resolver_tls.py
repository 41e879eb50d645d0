# SPDX-License-Identifier: MulanPSL-2.0
"""DNS over TLS from Python: who is asked, who is believed, and that nothing goes in the clear."""

import contextlib
import socket
import ssl
import struct
import threading

import pytest

import kloop
from resolver_tools import LIMIT
from transport_tools import run


def addresses(loop, name):
    found = run(loop, loop.getaddrinfo(name, 0, type=socket.SOCK_STREAM))
    return [info[4][0] for info in found]


class TlsFront:
    """In front of a scripted name server: a thread that speaks TLS, one connection at a time."""

    def __init__(self, name_server, context):
        self.name_server, self.context = name_server, context
        self.names = []  # what clients asked for by SNI
        context.sni_callback = lambda _, name, __: self.names.append(name)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ended = False
        self.thread = threading.Thread(target=self.serve, name="tls-front")
        self.thread.start()

    def close(self):
        self.ended = True
        with contextlib.suppress(OSError), socket.create_connection(
                ("127.0.0.1", self.port), LIMIT):
            pass
        self.thread.join(LIMIT)
        self.listener.close()

    def serve(self):
        while not self.ended:
            peer, _ = self.listener.accept()
            peer.settimeout(LIMIT)
            with contextlib.suppress(OSError, ssl.SSLError):
                with self.context.wrap_socket(peer, server_side=True) as stream:
                    self.answer(stream)
            peer.close()

    def answer(self, stream):
        with stream.makefile("rb") as reader:
            while len(head := reader.read(2)) == 2:
                query = reader.read(struct.unpack("!H", head)[0])
                reply = self.name_server.respond(query, True)
                stream.sendall(struct.pack("!H", len(reply)) + reply)


@pytest.fixture
def make_front(name_server):
    fronts = []

    def make(context):
        fronts.append(TlsFront(name_server, context))
        return fronts[-1]
    yield make
    for front in fronts:
        front.close()


@pytest.fixture
def make_loop(dns):
    loops = []

    def make(**options):
        loops.append(kloop.Loop(dns={**dns, **options}))
        return loops[-1]
    yield make
    for loop in loops:
        loop.close()


def test_by_name(make_front, make_loop, certificates):
    front = make_front(certificates.server())
    server = f"tls://127.0.0.1:{front.port}#localhost"
    loop = make_loop(servers=[server], trust=certificates.ca)
    assert loop.resolver.server_states() == []
    assert addresses(loop, "four.test") == ["192.0.2.4"]
    assert run(loop, loop.resolver.query("test", "MX")).records[0].text == "10 mail.test"
    stats = loop.resolver.stats()
    assert stats["tls_connections"] == 1 and stats["packets_sent"] == 0
    state, = loop.resolver.server_states()
    assert str(state.server) == server
    assert state.connected and state.authenticated and not state.down and state.error == ""
    assert state.rtt > 0
    assert front.names == ["localhost"]
    loop.close()  # the front serves one connection at a time


def test_by_address(make_front, make_loop, certificates):
    front = make_front(certificates.server())
    loop = make_loop(servers=[kloop.DnsServer("127.0.0.1", front.port, "tls")],
                     trust=str(certificates.ca))
    assert addresses(loop, "four.test") == ["192.0.2.4"]
    assert front.names == [None]
    loop.close()


@pytest.mark.parametrize("certificate, name", [
    ("localhost", "other.example"), ("expired", "localhost"), ("self_signed", "localhost")])
def test_not_to_be_trusted(make_front, make_loop, certificates, name_server, certificate, name):
    """No answer, no question, and no way around it."""
    front = make_front(certificates.server(getattr(certificates, certificate)))
    loop = make_loop(servers=[f"tls://127.0.0.1:{front.port}#{name}"], trust=certificates.ca)
    with pytest.raises(socket.gaierror) as caught:
        addresses(loop, "four.test")
    assert caught.value.errno == socket.EAI_AGAIN
    with pytest.raises(kloop.DnsError, match="TLS"):
        run(loop, loop.resolver.query("four.test"))
    assert name_server.questions == []
    state, = loop.resolver.server_states()
    assert not state.authenticated and "certificate" in state.error
    assert loop.resolver.stats()["tls_failures"] >= 1
    assert loop.resolver.stats()["system"] == 0
    loop.close()


def test_without_authentication(make_front, make_loop, certificates):
    front = make_front(certificates.server(certificates.self_signed))
    server = kloop.DnsServer("127.0.0.1", front.port, "tls", authenticate=False)
    loop = make_loop(servers=[server])
    assert addresses(loop, "four.test") == ["192.0.2.4"]
    state, = loop.resolver.server_states()
    assert state.server is server and state.connected and not state.authenticated
    loop.close()


def test_nothing_goes_to_the_system(make_front, make_loop, certificates, resolver_files,
                                    monkeypatch):
    """What nsswitch.conf would leave to another module: that might ask in the clear."""
    resolver_files.write("nsswitch.conf", "hosts: files ldap dns\n")
    front = make_front(certificates.server())
    loop = make_loop(servers=[f"tls://127.0.0.1:{front.port}"], trust=certificates.ca)

    def run_in_executor(*_):
        raise AssertionError("the executor was asked")
    monkeypatch.setattr(loop, "run_in_executor", run_in_executor)
    for _ in range(2):  # by the ring, and at once
        with pytest.raises(socket.gaierror) as caught:
            addresses(loop, "www.test")
        assert caught.value.errno == socket.EAI_AGAIN
    with pytest.raises(socket.gaierror):
        run(loop, loop.getnameinfo(("192.0.2.1", 80)))
    assert loop.resolver.stats()["system"] == 0
    loop.close()


def test_states_of_other_servers(make_loop, resolver_files, name_server):
    loop = make_loop(servers=[f"127.0.0.1:{name_server.port}", "tcp://[::1]:1"])
    assert addresses(loop, "four.test") == ["192.0.2.4"]
    first, second = loop.resolver.server_states()
    assert first.rtt > 0 and not first.connected and first.error == ""
    assert second.rtt is None and str(second.server) == "tcp://[::1]:1"
    resolver_files.write("resolv.conf", "nameserver 192.0.2.53\nnameserver fe80::53%1\n")
    loop.resolver.configure(servers=[])
    run(loop, loop.getaddrinfo("fixed", 0))
    assert [str(state.server) for state in loop.resolver.server_states()] == [
        "udp://192.0.2.53:53", "udp://[fe80::53%1]:53"]


@pytest.mark.parametrize("arguments", [
    {"transport": "udp", "name": "x"}, {"transport": "tcp", "authenticate": False},
    {"transport": "tls", "name": ""}, {"transport": "tls", "name": "x", "authenticate": False},
    {"transport": "quic"}, {"port": -1}, {"port": 65536}, {"port": "853"}])
def test_bad_servers(arguments):
    with pytest.raises(ValueError):
        kloop.DnsServer("192.0.2.1", **arguments)


def test_bad_options(kernel_loop, tmp_path):
    resolver = kernel_loop.resolver
    before = resolver.options
    with pytest.raises(ValueError):
        resolver.configure(servers=["tls://192.0.2.1#no host name"])
    with pytest.raises(FileNotFoundError, match="nothing.pem"):
        resolver.configure(trust=tmp_path / "nothing.pem")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    with pytest.raises(ValueError, match="empty.pem"):
        resolver.configure(trust=empty)
    with pytest.raises(ValueError):
        resolver.configure(idle_timeout=-1)
    assert resolver.options == before
