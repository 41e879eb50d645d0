# SPDX-License-Identifier: MulanPSL-2.0
"""Records of DNS messages: their types by name, and their data as text.

What comes in here was checked by libkloop, names are without compression. Still
all of it is a server's word: text is escaped so that it is safe to print.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "HINFO": 13, "MX": 15, "TXT": 16, "RP": 17,
    "AAAA": 28, "LOC": 29, "SRV": 33, "NAPTR": 35, "DNAME": 39, "DS": 43, "SSHFP": 44, "RRSIG": 46,
    "NSEC": 47, "DNSKEY": 48, "NSEC3": 50, "NSEC3PARAM": 51, "TLSA": 52, "SMIMEA": 53, "CDS": 59,
    "CDNSKEY": 60, "OPENPGPKEY": 61, "CSYNC": 62, "ZONEMD": 63, "SVCB": 64, "HTTPS": 65, "SPF": 99,
    "URI": 256, "CAA": 257,
}
_NAMES = {number: name for name, number in TYPES.items()}
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def type_number(kind: str | int) -> int:
    """The number of a type: of "MX", "TYPE15" or 15."""
    if isinstance(kind, int):
        number = int(kind)
    elif not isinstance(kind, str):
        raise TypeError(f"a type is a str or an int, not {type(kind).__name__}")
    elif kind.upper() in TYPES:
        number = TYPES[kind.upper()]
    elif kind.upper().startswith("TYPE") and kind[4:].isascii() and kind[4:].isdigit():
        number = int(kind[4:])
    else:
        raise ValueError(f"no type of records is called {kind!r}")
    if not 0 < number < 65536:
        raise ValueError(f"types of records are numbers from 1 to 65535, not {number}")
    return number


def type_name(number: int) -> str:
    """The opposite: "MX", or "TYPE4711" if it has no name here."""
    return _NAMES.get(number, f"TYPE{number}")


@dataclass(frozen=True)
class DnsRecord:
    """A record of an answer.

    name, type, ttl: as in a zone file; the TTL is in seconds, as the server sent it.
    text: the data as in a zone file, names without a dot at the end; in the form
        of RFC 3597 (\\# length hex) where kloop knows no other.
    wire: the data as it came, names without compression.
    """

    name: str
    type: str
    ttl: int
    text: str
    wire: bytes = field(repr=False)


class _Malformed(Exception):
    """The data is not what its type says."""


def name_text(wire: bytes, at: int = 0) -> tuple[str, int]:
    """A name in wire format as text, and where it ends."""
    labels = []
    while True:
        if at >= len(wire):
            raise _Malformed
        size = wire[at]
        label = wire[at + 1:at + 1 + size]
        at += 1 + size
        if size == 0:
            break
        if size > 63 or len(label) < size:
            raise _Malformed
        labels.append("".join(chr(byte) if byte in _PLAIN else f"\\{byte:03}" for byte in label))
    return ".".join(labels) or ".", at


def _quoted(data: bytes) -> str:
    """A string of bytes as zone files have it."""
    return '"' + "".join(
        f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 32 <= byte < 127 else f"\\{byte:03}"
        for byte in data) + '"'


def _strings(wire: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(wire):
        end = at + 1 + wire[at]
        if end > len(wire):
            raise _Malformed
        parts.append(wire[at + 1:end])
        at = end
    return parts


def _number(wire: bytes, at: int, size: int = 2) -> int:
    if len(wire) < at + size:
        raise _Malformed
    return int.from_bytes(wire[at:at + size], "big")


def _address(wire: bytes) -> str:
    try:
        return str(ipaddress.ip_address(wire))
    except ValueError:
        raise _Malformed from None


def _one_name(wire: bytes) -> str:
    return name_text(wire)[0]


def _text(wire: bytes) -> str:
    return " ".join(map(_quoted, _strings(wire)))


def _mx(wire: bytes) -> str:
    return f"{_number(wire, 0)} {name_text(wire, 2)[0]}"


def _srv(wire: bytes) -> str:
    return f"{_number(wire, 0)} {_number(wire, 2)} {_number(wire, 4)} {name_text(wire, 6)[0]}"


def _soa(wire: bytes) -> str:
    primary, at = name_text(wire)
    mailbox, at = name_text(wire, at)
    return " ".join([primary, mailbox, *(str(_number(wire, at + 4 * i, 4)) for i in range(5))])


def _caa(wire: bytes) -> str:
    size = _number(wire, 1, 1)
    tag = wire[2:2 + size]
    if len(tag) < size or not tag.isalnum():
        raise _Malformed
    return f"{wire[0]} {tag.decode()} {_quoted(wire[2 + size:])}"


def _ds(wire: bytes) -> str:
    return f"{_number(wire, 0)} {_number(wire, 2, 1)} {_number(wire, 3, 1)} {wire[4:].hex()}"


def _tlsa(wire: bytes) -> str:
    return f"{_number(wire, 0, 1)} {_number(wire, 1, 1)} {_number(wire, 2, 1)} {wire[3:].hex()}"


_SERVICE_KEYS = ("mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint")


def _service_value(key: int, value: bytes) -> str:
    if key == 1:
        return ",".join(_quoted(part)[1:-1] for part in _strings(value))
    if key == 3:
        return str(_number(value, 0))
    if key in (4, 6):
        size = 4 if key == 4 else 16
        return ",".join(_address(value[i:i + size]) for i in range(0, len(value), size))
    return _quoted(value)


def _service(wire: bytes) -> str:
    priority = _number(wire, 0)
    target, at = name_text(wire, 2)
    words = [str(priority), target]
    while at < len(wire):
        key, size = _number(wire, at), _number(wire, at + 2)
        value = wire[at + 4:at + 4 + size]
        if len(value) < size:
            raise _Malformed
        at += 4 + size
        name = _SERVICE_KEYS[key] if key < len(_SERVICE_KEYS) else f"key{key}"
        words.append(f"{name}={_service_value(key, value)}" if value else name)
    return " ".join(words)


_FORMS = {
    "A": _address, "AAAA": _address, "NS": _one_name, "CNAME": _one_name, "PTR": _one_name,
    "DNAME": _one_name, "SOA": _soa, "MX": _mx, "TXT": _text, "SPF": _text, "HINFO": _text,
    "SRV": _srv, "CAA": _caa, "DS": _ds, "CDS": _ds, "TLSA": _tlsa, "SMIMEA": _tlsa,
    "SVCB": _service, "HTTPS": _service,
}


def data_text(kind: str, wire: bytes) -> str:
    """Data of a type as text."""
    form = _FORMS.get(kind)
    if form is not None:
        try:
            return form(wire)
        except _Malformed:
            pass
    return f"\\# {len(wire)} {wire.hex()}".rstrip()


def make_record(owner: bytes, number: int, _class: int, ttl: int, data: bytes) -> DnsRecord:
    """A record out of its parts in wire format."""
    kind = type_name(number)
    return DnsRecord(name_text(owner)[0], kind, ttl, data_text(kind, data), data)
