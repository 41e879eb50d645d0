# SPDX-License-Identifier: MulanPSL-2.0
"""How a loop looks up names: loop.resolver.

loop.getaddrinfo() and getnameinfo() themselves are C, in _kloop.Loop.
"""

from __future__ import annotations

import os
import socket
import weakref
from asyncio.log import logger
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from . import _kloop
from ._records import DnsRecord, make_record, type_name, type_number

_TRANSPORTS = {"udp": 0, "tcp": 1, "tls": 2}
_OPPORTUNISTIC = 1
# Bits of kloop_dns_server_info.flags.
_DOWN, _CONNECTED, _AUTHENTICATED = 1, 2, 4
_FILES = ("resolv.conf", "hosts", "nsswitch.conf", "services", "gai.conf", "host.conf")
_DAY = 86400
# Bits of enum kloop_resolver_flag, which say what is left out.
_SWITCHES = {"random_case": 1, "cookies": 2, "edns": 4, "watch_files": 8, "cache": 16,
             "prefetch": 32, "race": 64, "environment": 128}
# Bits of kloop_dns_info.flags.
_CHECKING_DISABLED, _AUTHENTIC, _RECURSION, _AUTHORITATIVE = 1 << 4, 1 << 5, 1 << 7, 1 << 10
_CACHED, _STALE = 1 << 16, 1 << 17


class DnsError(socket.gaierror):
    """A query has no answer.

    errno: the code of getaddrinfo() for it, socket.EAI_NONAME and so on.
    code: libkloop's own, KLOOP_ERROR_DNS_* in C, which tells more cases apart.
    name, type: what was asked.
    answer: what the server said: that there is no such name, no such record, or
        that it failed, with the response code and the Extended DNS Error; or None.
    """

    code: int
    name: str
    type: str
    answer: DnsAnswer | None

    @property
    def rcode(self) -> int | None:
        """The response code of the server: 3 for NXDOMAIN; None without an answer."""
        return None if self.answer is None else self.answer.rcode


@dataclass(frozen=True)
class DnsServer:
    """A name server: a numeric address, a port, and how it is asked.

    port: default 53, and 853 for "tls".
    transport: "udp" (and TCP for what does not fit), "tcp" or "tls" (RFC 7858).
    name: of a "tls" server: what its certificate must be for; None: its address.
    authenticate: False encrypts and asks for no certificate ("tls" alone), which
        protects from nobody who can take the server's place.
    """

    address: str
    port: int = 0
    transport: str = "udp"
    name: str | None = None
    authenticate: bool = True

    def __post_init__(self) -> None:
        try:
            ip_address(self.address)
        except ValueError:
            raise ValueError(
                f"a server is given by its numeric address, not {self.address!r}") from None
        if self.transport not in _TRANSPORTS:
            raise ValueError(
                f"servers are asked by 'udp', 'tcp' or 'tls', not {self.transport!r}")
        if self.port == 0 and isinstance(self.port, int):
            object.__setattr__(self, "port", 853 if self.transport == "tls" else 53)
        if not isinstance(self.port, int) or not 0 < self.port < 65536:
            raise ValueError(f"ports are 1 to 65535, not {self.port!r}")
        if self.transport != "tls" and (self.name is not None or not self.authenticate):
            raise ValueError("'tls' servers alone have a name, or are not authenticated")
        if self.name is not None and (not self.authenticate or not self.name):
            raise ValueError("a name is for a server that is authenticated by it")

    @classmethod
    def parse(cls, text: str) -> DnsServer:
        """Out of "address", "address:port", "[address]:port" or "tls://address:port#name"."""
        transport, mark, rest = text.partition("://")
        if not mark:
            transport, rest = "udp", text
        rest, name_mark, name = rest.partition("#")
        if name_mark and (transport != "tls" or not name):
            raise ValueError(f"{text!r}: after '#' stands a name, and for tls:// alone")
        if rest.startswith("["):
            address, bracket, port = rest[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise ValueError(f"{text!r} is no server: address, address:port, [address]:port")
            mark, port = port[:1], port[1:]
        elif rest.count(":") == 1:
            address, mark, port = rest.partition(":")
        else:
            address, mark, port = rest, "", ""
        if mark and not (port.isascii() and port.isdigit()):
            raise ValueError(f"{text!r}: the port must be a number")
        if mark and not 0 < int(port) < 65536:
            raise ValueError(f"ports are 1 to 65535, not {port}")
        return cls(address, int(port or 0), transport, name or None)

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        name = f"#{self.name}" if self.name else ""
        return f"{self.transport}://{address}:{self.port}{name}"

    def _parts(self) -> tuple[str, int, int, str | None, int]:
        return (self.address, self.port, _TRANSPORTS[self.transport], self.name,
                0 if self.authenticate else _OPPORTUNISTIC)


@dataclass(frozen=True)
class DnsServerState:
    """What a resolver knows about a server.

    server: which one.
    down: it did not answer lately, and is asked last.
    connected: there is a connection by TCP or TLS.
    authenticated: there is one by TLS, and the server is who it should be.
    rtt: its usual time for an answer in seconds, or None.
    error: why the last connection by TCP or TLS failed, or "".
    """

    server: DnsServer
    down: bool
    connected: bool
    authenticated: bool
    rtt: float | None
    error: str


def _make_state(server: DnsServer | None, address: tuple, transport: int, name: str | None,
                flags: int, rtt_ns: int, error: str) -> DnsServerState:
    if server is None:  # of resolv.conf
        host = address[0]
        if len(address) == 4 and address[3]:
            host += f"%{address[3]}"
        known = [word for word, number in _TRANSPORTS.items() if number == transport]
        server = DnsServer(host, address[1], known[0], name)
    return DnsServerState(
        server=server, down=bool(flags & _DOWN), connected=bool(flags & _CONNECTED), authenticated=bool(flags & _AUTHENTICATED),
        rtt=rtt_ns / 1e9 if rtt_ns else None, error=error)


@dataclass(frozen=True)
class DnsAnswer:
    """What a server says about a question.

    name, type: what was asked.
    records: the section "answer": aliases (CNAME) and what they lead to.
    authority, additional: the other sections.
    ttl: for how many seconds it holds, from now.
    rcode: the response code: 0 NOERROR, 3 NXDOMAIN.
    authentic: the server validated it by DNSSEC, and is trusted: by "trust-ad" in
        resolv.conf, because it is on this machine, or by TLS that authenticated it.
    authoritative, recursion_available, checking_disabled: bits of the response (AA,
        RA, CD).
    ede, ede_text: the Extended DNS Error (RFC 8914), or None and "".
    cached, stale: from the cache; past its time, for no server answered.
    """

    name: str
    type: str
    records: tuple[DnsRecord, ...]
    authority: tuple[DnsRecord, ...] = field(repr=False)
    additional: tuple[DnsRecord, ...] = field(repr=False)
    ttl: int
    rcode: int
    authentic: bool
    authoritative: bool
    recursion_available: bool
    checking_disabled: bool
    ede: int | None
    ede_text: str
    cached: bool
    stale: bool

    def of_type(self, kind: str | int) -> tuple[DnsRecord, ...]:
        """The records of one type, a name or a number: without the aliases that lead to them."""
        wanted = type_name(type_number(kind))
        return tuple(record for record in self.records if record.type == wanted)


def _make_answer(name: str, kind: str, message: tuple) -> DnsAnswer:
    rcode, flags, ttl, ede, ede_text, *sections = message
    records, authority, additional = (
        tuple(make_record(*record) for record in section) for section in sections)
    return DnsAnswer(
        name=name, type=kind, records=records, authority=authority, additional=additional,
        ttl=ttl, rcode=rcode, authentic=bool(flags & _AUTHENTIC),
        authoritative=bool(flags & _AUTHORITATIVE),
        recursion_available=bool(flags & _RECURSION),
        checking_disabled=bool(flags & _CHECKING_DISABLED), ede=ede, ede_text=ede_text,
        cached=bool(flags & _CACHED), stale=bool(flags & _STALE))


def _make_error(code: int, name: str, kind: str, answer: DnsAnswer | None) -> OSError:
    number, text = _kloop._dns_text(code)
    if number == socket.EAI_SYSTEM:
        return OSError(-code, f"{name} {kind}: {os.strerror(-code)}")
    if answer is not None and answer.ede is not None:
        text += f" (Extended DNS Error {answer.ede}{answer.ede_text and ': '}{answer.ede_text})"
    error = DnsError(number, f"{name} {kind}: {text}")
    error.code, error.name, error.type, error.answer = code, name, kind, answer
    return error


# ---- options

def _number(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value}")
    return value


def _seconds(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high} seconds, not {value}")
    return value


def _servers(servers: Any) -> tuple[DnsServer, ...]:
    if isinstance(servers, (str, bytes)) or not isinstance(servers, Iterable):
        raise TypeError("servers must be a list")
    made = []
    for server in servers:
        if isinstance(server, str):
            server = DnsServer.parse(server)
        elif not isinstance(server, DnsServer):
            raise TypeError("a server is a str such as 'address:port' or a DnsServer, not "
                            f"{type(server).__name__}")
        made.append(server)
    if len(made) > 8:
        raise ValueError(f"servers must be 8 at most, not {len(made)}")
    return tuple(made)


def _files(files: Any) -> dict[str, str]:
    if not isinstance(files, Mapping):
        raise TypeError("files must be a mapping")
    paths = {}
    for name, path in files.items():
        if name not in _FILES:
            raise ValueError(f"files are {', '.join(_FILES)}, not {name!r}")
        path = os.fsdecode(path)
        if path and not path.startswith("/"):
            raise ValueError(f"{name}: {path!r} is no absolute path")
        paths[name] = path
    return paths


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


_CHECKS = {
    "servers": lambda name, value: _servers(value),
    "timeout": lambda name, value: (
        None if value is None else _seconds(name, value, 0.001, 30)),
    "attempts": lambda name, value: None if value is None else _number(name, value, 1, 5),
    "max_queries": lambda name, value: _number(name, value, 1, 65536),
    "cache_bytes": lambda name, value: _number(name, value, 0, 1 << 30),
    "max_ttl": lambda name, value: _number(name, value, 0, _DAY),
    "max_negative_ttl": lambda name, value: _number(name, value, 0, _DAY),
    "serve_stale": lambda name, value: _number(name, value, 0, _DAY),
    "check_interval": lambda name, value: _seconds(name, value, 0, _DAY),
    "idle_timeout": lambda name, value: _seconds(name, value, 0, _DAY),
    "trust": lambda name, value: None if value is None else os.fsdecode(value),
    "files": lambda name, value: _files(value),
    **{name: _switch for name in _SWITCHES},
}
_DEFAULTS: dict[str, Any] = {
    "servers": (), "timeout": None, "attempts": None, "max_queries": 256,
    "cache_bytes": 4 << 20, "max_ttl": 3600, "max_negative_ttl": 300, "serve_stale": 0,
    "check_interval": 1.0, "idle_timeout": 10.0, "trust": None, "files": {}, **dict.fromkeys(_SWITCHES, True),
}


class _Keep:
    """In place of an argument that was not given."""

    def __repr__(self) -> str:
        return "<as it is>"


_KEEP: Any = _Keep()


def system_wanted() -> bool:
    """Does the environment say that nobody shall use libkloop's resolver?"""
    return os.environ.get("KLOOP_DNS", "") == "system"


class Resolver:
    """How a loop looks up names: loop.resolver.

    Names are found as glibc finds them, on the loop's ring and without threads:
    by the files of the system, and by asking the servers of /etc/resolv.conf,
    with a cache; kloop-dns(7) tells all. Where nsswitch.conf gives a name to a
    module that libkloop does not have, where somebody replaced
    socket.getaddrinfo(), and where io_uring lacks what it takes, asyncio's way
    serves: socket.getaddrinfo() in the executor. stats()["system"] counts that,
    and reason tells if it is so for all names.

    configure() changes options, options shows them.
    """

    def __init__(self, loop: _kloop.Loop) -> None:
        self._loop_ref = weakref.ref(loop)
        self._options = dict(_DEFAULTS)
        self._system = False

    def __reduce__(self):
        """TypeError: it is its loop's."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    @property
    def _loop(self):
        loop = self._loop_ref()
        if loop is None:
            raise RuntimeError("Event loop is closed")
        return loop

    @property
    def servers(self) -> tuple[DnsServer, ...]:
        """The servers that configure() was given; () if it is those of resolv.conf."""
        return self._options["servers"]

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the options of configure() that hold now."""
        return {**self._options, "files": dict(self._options["files"]), "system": self._system}

    @property
    def system(self) -> bool:
        """Do all lookups go to the system's resolver, in the executor?"""
        return self.reason is not None

    @property
    def reason(self) -> str | None:
        """Why all lookups go to the system's resolver; None if they do not."""
        loop = self._loop
        if loop.is_closed():
            raise RuntimeError("Event loop is closed")
        if system_wanted():
            return "the environment variable KLOOP_DNS says so"
        if self._system:
            return "the option system says so"
        return loop._resolver_failure

    def configure(
            self, *, servers: Iterable[str | DnsServer] = _KEEP, timeout: float | None = _KEEP,
            attempts: int | None = _KEEP, max_queries: int = _KEEP, cache_bytes: int = _KEEP,
            max_ttl: int = _KEEP, max_negative_ttl: int = _KEEP, serve_stale: int = _KEEP,
            check_interval: float = _KEEP, files: Mapping[str, str | os.PathLike[str]] = _KEEP,
            trust: str | os.PathLike[str] | None = _KEEP, idle_timeout: float = _KEEP,
            cache: bool = _KEEP, prefetch: bool = _KEEP, race: bool = _KEEP,
            random_case: bool = _KEEP, cookies: bool = _KEEP, edns: bool = _KEEP,
            watch_files: bool = _KEEP, environment: bool = _KEEP, system: bool = _KEEP) -> None:
        """Change options; those that are not given stay.

        servers: whom to ask, in place of resolv.conf's: "192.0.2.1",
            "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53", "tcp://192.0.2.1",
            "tls://192.0.2.1#dns.example", or DnsServer objects; to 8. An empty list:
            those of resolv.conf. What tls:// cannot reach or authenticate is not asked
            in the clear, and with such servers nothing is left to the system's
            resolver unless it was asked for.
        timeout: how long to wait after the last question to the last server, in
            seconds, 0.001 to 30. Others are tried long before. None: as resolv.conf.
        attempts: how often each server is asked at most, 1 to 5. None: as resolv.conf.
        max_queries: how many names are asked for at a time (256); others wait.
        cache_bytes: the size of the cache, to 1 GiB (4 MiB).
        max_ttl, max_negative_ttl: for how many seconds answers, and answers that
            there is none, are kept at most (3600, 300).
        serve_stale: for how many seconds after its time an answer still serves when
            no server gives a new one, to a day (0: not).
        check_interval: after how many seconds a changed file is noticed (1).
        files: other files to read: a mapping of "resolv.conf", "hosts",
            "nsswitch.conf", "services", "gai.conf" and "host.conf" to absolute paths;
            "" for none.
        trust: a PEM file with the certificates to trust for tls://, in place of the
            system's (None), which the first lookup reads: some hundred certificates.
        idle_timeout: for how many seconds a connection is kept for the next question
            (10).
        cache, prefetch: keep answers; ask again in time for those in use.
        race: ask the next server while the first may still answer.
        random_case, cookies, edns: protect questions by random case and cookies; take
            answers over 512 bytes by UDP.
        watch_files: notice changed files.
        environment: heed RES_OPTIONS and LOCALDOMAIN.
        system: have all lookups made by socket.getaddrinfo() in the executor.
            KLOOP_DNS=system in the environment does that for the whole process.
            query() has no counterpart there, and stays.

        Lookups that are on finish with the former options; the cache is emptied,
        counters begin anew. Raises ValueError or TypeError, and OSError where trust
        cannot be read; then nothing has changed.
        """
        given = {name: value for name, value in locals().items()
                 if name in _CHECKS and value is not _KEEP}
        checked = {name: _CHECKS[name](name, value) for name, value in given.items()}
        if system is not _KEEP:
            _switch("system", system)
        if given:
            self._apply({**self._options, **checked})
        if system is not _KEEP:
            self._system = system
        self._loop._system_resolver = self._system or system_wanted()

    def _apply(self, options: dict[str, Any]) -> None:
        flags = sum(bit for name, bit in _SWITCHES.items() if not options[name])
        self._loop._set_resolver(
            servers=tuple(server._parts() for server in options["servers"]),
            files=tuple(options["files"].get(name) for name in _FILES),
            timeout_ns=round((options["timeout"] or 0) * 1e9),
            attempts=options["attempts"] or 0, cache_bytes=options["cache_bytes"],
            max_ttl=options["max_ttl"], max_negative_ttl=options["max_negative_ttl"],
            serve_stale=options["serve_stale"], max_queries=options["max_queries"],
            check_ns=round(options["check_interval"] * 1e9), flags=flags,
            trust=options["trust"], idle_ns=round(options["idle_timeout"] * 1e9))
        self._options = options

    def flush(self, name: str | None = None) -> int:
        """Forget the answers for a name, or all of them; returns how many there were."""
        return self._loop._flush_names(name if name is None else _domain(name))

    def reload(self) -> None:
        """Read all files again, forget all answers and what was learned about servers."""
        self._loop._reload_names()

    def stats(self) -> dict[str, int]:
        """Counters since the last configure() of options; see kloop_resolver_get_stats(3).

        "system" counts what went to the system's resolver, since the loop was made.
        """
        return self._loop._resolver_stats()

    def server_states(self) -> list[DnsServerState]:
        """What is known about each server; nothing before the first lookup."""
        known = self._loop._name_servers()
        servers = self.servers or [None] * len(known)
        return [_make_state(server, *state) for server, state in zip(servers, known)]

    async def query(self, name: str, type: str | int = "A", *, search: bool = False,
                    cached: bool = True, dnssec: bool = False, checking_disabled: bool = False,
                    recursion: bool = True) -> DnsAnswer:
        """Ask for records of any type, "MX" or 15. Files are not looked at.

        name: bytes other than letters, digits, "-" and "_" may stand as \\DDD.
        search: complete the name by the search list of resolv.conf.
        cached: the cache may answer.
        dnssec: have signatures sent along (DO).
        checking_disabled: the server shall not validate (CD).
        recursion: the server shall ask others (RD).

        Raises DnsError if there is no answer, also for what cannot be a name
        ("a..b"); ValueError for a null character and for a type that there is not.
        """
        # Bits of enum kloop_query_flag.
        wanted = (search, not cached, dnssec, checking_disabled, not recursion)
        flags = sum(1 << bit for bit, on in enumerate(wanted) if on)
        number = type_number(type)
        code, message = await self._loop._query(_domain(name), number, flags)
        kind = type_name(number)
        answer = None if message is None else _make_answer(name, kind, message)
        if code != 0:
            raise _make_error(code, name, kind, answer)
        return answer

    def __repr__(self) -> str:
        servers = ", ".join(map(str, self.servers)) or "those of resolv.conf"
        return f"<kloop.Resolver servers={servers}>"


def _domain(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    return name if name.isascii() else name.encode("idna").decode("ascii")


class ResolverParts:
    """What a loop has for names, beside what is in C."""

    _resolver: Resolver | None = None

    @property
    def resolver(self) -> Resolver:
        """How this loop looks up names: its options, cache, counters, and queries."""
        if self._resolver is None:
            self._resolver = Resolver(self)
        return self._resolver

    def _open_resolver(self, dns: str | Mapping[str, Any] | None) -> None:
        """The option dns= of the loop."""
        if isinstance(dns, Mapping):
            self.resolver.configure(**dns)
        elif dns == "system":
            self.resolver.configure(system=True)
        elif dns not in (None, "kloop"):
            raise ValueError(f"dns must be 'kloop', 'system' or a mapping, not {dns!r}")
        else:
            self._system_resolver = system_wanted()

    def _log_lookup(self, host, port, family, type, proto, flags, seconds, found) -> None:
        """Debug mode's note of getaddrinfo(), in asyncio's words."""
        words = [f"{host}:{port!r}"]
        words += [f"{name}={value!r}" for name, value in
                  (("family", family), ("type", type), ("proto", proto), ("flags", flags)) if value]
        text = f"Getting address info {', '.join(words)} took {seconds * 1e3:.3f}ms: {found!r}"
        if seconds >= self.slow_callback_duration:
            logger.info(text)
        else:
            logger.debug(text)
