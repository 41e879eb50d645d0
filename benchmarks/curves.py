# SPDX-License-Identifier: MulanPSL-2.0
"""Which cells and rows are points of which curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cells import CELLS, VARIANTS
from measure import Result
from micro import ROWS

TITLES = {variant.name: variant.title for variant in VARIANTS}


@dataclass(frozen=True)
class Curve:
    """What grows along x, by the names of cells or rows, and how that is said."""

    name: str
    title: str
    x_label: str
    y_label: str
    points: list[tuple[float, str]]
    #: Are the x sizes in bytes, or numbers of things?
    sizes: bool = False
    #: What is fitted begins here; points before have a reason of their own to differ.
    fit_from: float = 0

    def tick(self, x: float) -> str:
        if not self.sizes:
            return f"{x:,.0f}" if x < 1e6 else f"{x / 1e6:g} M"
        if x >= 1024 * 1024:
            return f"{x / 1024 / 1024:g} MiB"
        return f"{x / 1024:g} KiB" if x >= 1024 else f"{x:g} B"

    def series(self, results: dict[str, Result]) -> dict[str, list[tuple[float, float]]]:
        """For each variant, by its name, the points that were measured."""
        lines: dict[str, list[tuple[float, float]]] = {}
        for x, name in self.points:
            if name not in results:
                continue
            for variant, series in results[name].series.items():
                if series.median is not None and series.median > 0:
                    lines.setdefault(variant, []).append((x, series.median))
        return {variant: points for variant, points in lines.items() if len(points) > 1}


def _echo(keep: Callable[[object], bool], x: str) -> list[tuple[float, str]]:
    return sorted((float(getattr(cell, x)), cell.name) for cell in CELLS
                  if cell.mode == "echo" and cell.api == "protocol" and not cell.tls
                  and cell.processes == 1 and not cell.name.startswith("processes") and keep(cell))


def _rows(prefix: str) -> list[tuple[float, str]]:
    return [(float(row.step), row.name) for row in ROWS if row.name.startswith(prefix)]


def _idle() -> list[tuple[float, str]]:
    return sorted((float(cell.connections), cell.name) for cell in CELLS if cell.mode == "idle")


COST = "µs of server CPU per message"
CURVES: list[Curve] = [
    Curve("connections", "Echo of 1 KiB over the number of connections", "connections", COST,
          # A lone connection has a turn, and a sleep of the server, for every message.
          _echo(lambda cell: cell.message_bytes == 1024, "connections"), fit_from=10),
    Curve("sizes", "Echo over the size of messages, 10 connections", "message", COST,
          _echo(lambda cell: cell.connections == 10, "message_bytes"), sizes=True),
    Curve("timers-cancel", "A timer that is cancelled, over the number of pending ones",
          "pending timers", "µs per timer", _rows("timers-cancel-")),
    Curve("timers-fire", "A timer that fires, over the number of pending ones", "pending timers",
          "µs per timer", _rows("timers-fire-")),
    Curve("memory-connections", "Memory of an idle connection", "connections",
          "KiB per connection", _idle()),
    Curve("memory-timers", "Memory of a pending timer", "pending timers", "bytes per timer",
          _rows("timers-memory-")),
    Curve("processes", "Echo of 1 KiB, 100 connections, several loops on one port (reuse_port)",
          "processes, one loop in each", COST,
          [(float(cell.processes), cell.name) for cell in CELLS
           if cell.name.startswith("processes-")]),
]
