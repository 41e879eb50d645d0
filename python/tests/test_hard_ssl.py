# SPDX-License-Identifier: MulanPSL-2.0
"""Callbacks of SSLContext that raise or turn on their connection, and contexts that are odd.

They run in the middle of a handshake, inside of OpenSSL. Each case has a server
and a client on one loop; what both ends see is compared with asyncio's, where
that is defined, and in any case each end ends, once, and the loop is well.
"""

import asyncio
import gc
import ssl

import pytest

import kloop
from test_hard_callbacks import Odd, in_a_loop
from transport_tools import turns, until, wait

pytestmark = pytest.mark.usefixtures("little_garbage")
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}


class End(asyncio.Protocol):
    """One end; the server's echoes."""

    def __init__(self, echoes=False):
        self.echoes = echoes
        self.transport = None
        self.made = self.lost = 0
        self.data = b""

    def connection_made(self, transport):
        self.transport = transport
        self.made += 1

    def data_received(self, data):
        self.data += data
        if self.echoes:
            self.transport.write(data)

    def connection_lost(self, error):
        self.lost += 1


class Talk:
    """A connection; act() is called by the callback under test, with whatever it is given."""

    def __init__(self, loop, certificates):
        self.loop = loop
        self.server_context = certificates.server()
        self.client_context = certificates.trusting()
        self.certificates = certificates
        self.ends = []
        self.calls = 0
        self.act = None
        self.once = True

    def callback(self, *args):
        self.calls += 1
        if self.act is not None and (self.calls == 1 or not self.once):
            return self.act(self, *args)
        return None

    def make_end(self):
        end = End(echoes=True)
        self.ends.append(end)
        return end

    async def run(self):
        """What the client saw: "well", or the kind of its failure."""
        self.server = await self.loop.create_server(self.make_end, "127.0.0.1", 0,
                                                    ssl=self.server_context)
        self.client = End()
        self.connecting = self.loop.create_task(self.loop.create_connection(
            lambda: self.client, *self.server.sockets[0].getsockname(), ssl=self.client_context,
            server_hostname="localhost"))
        try:
            return await self.talk()
        finally:
            self.server.close()
            for end in self.client, *self.ends:
                if end.transport is not None:
                    end.transport.abort()
            await until(lambda: all(end.lost == end.made for end in (self.client, *self.ends)))
            await turns()
            assert self.client.made <= 1 and all(end.made <= 1 for end in self.ends)
            self.act = None

    async def talk(self):
        try:
            transport, _ = await wait(asyncio.shield(self.connecting))
        except (OSError, asyncio.CancelledError, *PURPOSE) as error:
            # An alert, or a connection that ended: asyncio's server mostly drops the alert.
            return "failed" if isinstance(error, OSError) else type(error).__name__
        transport.write(b"hello")
        await until(lambda: self.client.data or self.client.lost)
        return "well" if self.client.data == b"hello" else "lost"


PURPOSE = (ValueError, KeyboardInterrupt, SystemExit, Odd)


def raising(error):
    def act(talk, *args):
        raise error("on purpose")
    return act


def abort_all(talk, *args):
    for end in talk.client, *talk.ends:
        if end.transport is not None:
            end.transport.abort()


def close_all(talk, *args):
    for end in talk.client, *talk.ends:
        if end.transport is not None:
            end.transport.close()
    talk.server.close()


def other_certificate(talk, *args):
    talk.server_context.load_cert_chain(*talk.certificates.other)


def ask(talk, ssl_object, *args):
    """All that may be asked; OpenSSL itself crashes if it is told to go on from in here."""
    for call in (ssl_object.pending, ssl_object.getpeercert, ssl_object.cipher,
                 ssl_object.version, ssl_object.shared_ciphers, ssl_object.compression,
                 ssl_object.selected_alpn_protocol, ssl_object.get_channel_binding):
        try:
            call()
        except ValueError:  # it is not through
            pass


def run_again(talk, *args):
    with pytest.raises(RuntimeError):  # run_forever() of asyncio breaks the loop in 3.13.0
        talk.loop.run_until_complete(talk.connecting)
    with pytest.raises(RuntimeError):
        talk.loop.close()


def stop(talk, *args):
    talk.loop.stop()


def collect(talk, *args):
    gc.collect()


def set_context(talk, ssl_object, *args):
    ssl_object.context = talk.certificates.server()


def set_junk(talk, ssl_object, *args):
    with pytest.raises(TypeError):
        ssl_object.context = "junk"


def cancel(talk, *args):
    talk.connecting.cancel()


ACTIONS = {
    **{f"raise {error.__name__}": raising(error) for error in PURPOSE},
    "abort": abort_all, "close": close_all, "stop": stop, "run": run_again, "collect": collect,
    "cancel": cancel, "other certificate": other_certificate,
}
OF_SNI = {"ask": ask, "context": set_context, "junk": set_junk,
          "alert": lambda *args: ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE,
          "odd alert": lambda *args: "junk", "huge alert": lambda *args: 1 << 100}


def talked(factory, certificates, prepare, act, once=True):
    """(what the client saw, calls, what was raised)"""
    result = []

    async def case(loop):
        talk = Talk(loop, certificates)
        talk.act, talk.once = act, once
        prepare(talk)
        result.append(await talk.run())
        result.append(talk.calls > 0)

    errors, _ = in_a_loop(case, factory)
    return result, [type(error).__name__ for error in errors]


def sni(talk):
    talk.server_context.sni_callback = talk.callback


def server_messages(talk):
    talk.server_context._msg_callback = talk.callback


def client_messages(talk):
    talk.client_context._msg_callback = talk.callback


def compare(certificates, prepare, act, once=True):
    outcomes = {name: talked(factory, certificates, prepare, act, once)
                for name, factory in LOOPS.items()}
    assert outcomes["kloop"] == outcomes["asyncio"]
    return outcomes["kloop"][0][0]


UNRAISABLE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@UNRAISABLE  # which is what the ssl module makes of exceptions there
@pytest.mark.parametrize("action", sorted({**ACTIONS, **OF_SNI}))
def test_sni(certificates, action):
    seen = compare(certificates, sni, {**ACTIONS, **OF_SNI}[action], once=False)
    if action.startswith("raise") or action.endswith("alert"):
        assert seen == "failed"


@UNRAISABLE
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("prepare", [server_messages, client_messages])
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_messages(certificates, prepare, action, once):
    """_msg_callback, for each record and message, or for the first only."""
    if not once and action in ("raise KeyboardInterrupt", "raise SystemExit", "close"):
        # asyncio's loses the waiter, or fails in itself.
        (seen, called), _ = talked(kloop.Loop, certificates, prepare, ACTIONS[action], once)
        assert seen in ("failed", "lost", "CancelledError") and called
        return
    compare(certificates, prepare, ACTIONS[action], once)


@pytest.mark.parametrize("side", ["server", "client"])
def test_key_log_without_room(certificates, side):
    """The ssl module tells of it late, or never, as its file has a buffer."""
    def prepare(talk):
        getattr(talk, f"{side}_context").keylog_filename = "/dev/full"

    (seen, _), errors = talked(kloop.Loop, certificates, prepare, None)
    assert seen in ("well", "lost", "failed") and errors == []


# ---- contexts that change, or are of somebody else ----------------------------


def test_certificates_change_in_mid_handshake(certificates):
    """Who has begun gets the former one, who comes later the new one; on both loops."""
    def names(sock_or_object):
        return [value for kind, value in sock_or_object.getpeercert()["subjectAltName"]
                if kind == "DNS"]

    async def connect(loop, address, before):
        """With a client of its own; before() is called when the handshake has begun."""
        context = certificates.trusting()
        context.check_hostname = False
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        hello = outgoing.read()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(hello[:100])
        for _ in range(20):
            await asyncio.sleep(0.001)
        before()
        writer.write(hello[100:])
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await wait(reader.read(10_000)))
        writer.write(outgoing.read())
        writer.transport.abort()
        await turns()
        return names(client)

    seen = []
    for factory in LOOPS.values():
        async def case(loop):
            context = certificates.server()
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
            address = server.sockets[0].getsockname()
            seen.append(await connect(
                loop, address, lambda: context.load_cert_chain(*certificates.other)))
            seen.append(await connect(loop, address, lambda: None))
            server.close()
            await server.wait_closed()

        in_a_loop(case, factory)
    assert seen == [["localhost"], ["other.example"]] * 2


class Counting(ssl.SSLObject):
    """Overrides what libkloop would not call."""

    def read(self, *args):
        type(self).reads += 1
        return super().read(*args)


class Handshaking(ssl.SSLObject):
    """Overrides what libkloop calls."""

    def do_handshake(self):
        type(self).handshakes += 1
        return super().do_handshake()


class Context(ssl.SSLContext):
    """Somebody's own; wrap() decides what wrap_bio() returns."""

    wrap = None

    def wrap_bio(self, *args, **options):
        made = super().wrap_bio(*args, **options)
        return made if self.wrap is None else self.wrap(made)


def own_context(certificates, wrap):
    context = Context(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.localhost)
    context.wrap = wrap
    return context


def raise_error(made):
    raise ValueError("on purpose")


@pytest.mark.parametrize("name,wrap,seen", [
    ("same", None, "well"),
    ("raises", raise_error, "failed"),
    ("nothing", lambda made: None, "failed"),
    ("junk", lambda made: 17, "failed"),
])
def test_own_contexts(certificates, name, wrap, seen):
    def prepare(talk):
        talk.server_context = own_context(certificates, wrap)

    for factory in LOOPS.values():
        (found, _), errors = talked(factory, certificates, prepare, None)
        assert (found, errors) == (seen, [])


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_own_ssl_objects(certificates, factory):
    """What a subclass of SSLObject overrides is called, on every loop."""
    def prepare(talk):
        talk.server_context.sslobject_class = type("Own", (kind,), {"reads": 0, "handshakes": 0})
        kinds.append(talk.server_context.sslobject_class)

    kinds = []
    for kind in Counting, Handshaking:
        (seen, _), errors = talked(factory, certificates, prepare, None)
        assert (seen, errors) == ("well", [])
    assert kinds[0].reads > 0
    assert kinds[1].handshakes > 0


@pytest.mark.parametrize("side", ["server", "client"])
def test_the_context_goes(certificates, side):
    """Nobody but the connection has it any more, and then nobody has the connection."""
    async def case(loop):
        talk = Talk(loop, certificates)
        server = await loop.create_server(talk.make_end, "127.0.0.1", 0, ssl=talk.server_context)
        transport, client = await loop.create_connection(
            End, *server.sockets[0].getsockname(), ssl=talk.client_context,
            server_hostname="localhost")
        del talk.client_context, talk.server_context
        server.close()
        gc.collect()
        transport.write(b"hello")
        await until(lambda: client.data == b"hello")
        ssl_object = transport.get_extra_info("ssl_object")
        ends = [client, *talk.ends]
        for end in ends:
            end.transport.abort()
        await until(lambda: all(end.lost for end in ends))
        # What it is asked when the connection is gone must be answered, however.
        del transport
        gc.collect()
        for name in "version", "cipher", "pending", "getpeercert":
            getattr(ssl_object, name)()

    errors, contexts = in_a_loop(case)
    assert errors == [] and contexts == []
