# SPDX-License-Identifier: MulanPSL-2.0
"""What kLoop means to reach, cell by cell.

A goal bounds the ratio of two variants' costs in the same interleaved run.
Absolute times depend on the machine; these ratios hardly do.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """The cost of ``of`` divided by that of ``against`` is at most ``at_most``."""

    of: str
    against: str
    at_most: float
    #: The bound where the servers' Python is 3.12 or newer, if it is another.
    newer_at_most: float | None = None

    def bound(self, python: tuple[int, int]) -> float:
        if self.newer_at_most is not None and python >= (3, 12):
            return self.newer_at_most
        return self.at_most


def _python(uvloop: float, library: float | None = None) -> list[Goal]:
    """Goals of a Python cell; no cell at all may cost more than asyncio's."""
    goals = [Goal("kloop", "uvloop", uvloop), Goal("kloop", "asyncio", 1.0)]
    if library is not None:
        goals.append(Goal("kloop", "c-kloop", library))
        goals.append(Goal("c-kloop", "c-uring", 1.03))
    return goals


def _tls() -> list[Goal]:
    """Echo over TLS: newer Python's peers are faster, and OpenSSL's own time is the limit."""
    return [Goal("kloop", "uvloop", 0.60, newer_at_most=0.75), Goal("kloop", "asyncio", 1.0)]


#: By the name of the cell (see cells.py).
CELLS: dict[str, list[Goal]] = {
    "protocol-10x1": _python(0.83, 1.05),
    "protocol-100x1": _python(0.76, 1.05),
    "protocol-1000x1": _python(0.76, 1.05),
    "protocol-100x10": _python(0.92) + [Goal("c-kloop", "c-uring", 1.03)],
    "protocol-10x100": _python(0.98) + [Goal("c-kloop", "c-uring", 1.03)],
    "streams-10x1": _python(0.75),
    "streams-10x10": _python(0.75),
    "streams-10x100": _python(0.40),
    "buffered-10x1": _python(0.85),
    "buffered-10x10": _python(0.85),
    "buffered-10x100": _python(0.85),
    "sock-10x1": _python(0.45),
    "sock-10x10": _python(0.45),
    "sock-10x100": _python(0.45),
    # No figure was set for new connections beyond "never above a peer".
    "accept": _python(1.0) + [Goal("c-kloop", "c-uring", 1.03)],
    "memory": [Goal("kloop", "asyncio", 0.5)],
    "tls-protocol-10x1": _tls(),
    "tls-protocol-100x1": _tls(),
    "tls-protocol-10x10": _tls(),
    "tls-protocol-100x10": _tls(),
    # No figures were set for these beyond "never above a peer".
    "tls-protocol-10x100": _python(1.0),
    "tls-protocol-100x100": _python(1.0),
    "tls-streams-10x10": _python(1.0),
    "tls-handshake": _python(1.0),
    "tls-resume": _python(1.0),
    "tls-file-1k": _python(1.0),
    "tls-file-64k": _python(1.0),
    "tls-file-1m": _python(1.0),
    "tls-file-10m": _python(1.0),
    "tls-file-64m": _python(1.0),
}

#: Every row of the micro table.
MICRO: list[Goal] = _python(0.80)

#: System calls: each turn of a loop, and each request with SQPOLL.
CALLS_PER_TURN = 1.2
CALLS_PER_REQUEST_SQPOLL = 0.1
