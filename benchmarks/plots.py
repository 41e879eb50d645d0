# SPDX-License-Identifier: MulanPSL-2.0
"""Which charts are drawn of the results."""

from __future__ import annotations

from pathlib import Path

import report
import svg
from cells import CELLS, VARIANTS, Cell
from curves import CURVES, TITLES
from measure import Result

ORDER = [variant.title for variant in VARIANTS]
COST = "µs of server CPU per message"


def _points(results: dict[str, Result], chosen: list[Cell],
            by_size: bool) -> dict[str, list[tuple[float, float]]]:
    """For each variant its costs over the message size, or over the connections."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for cell in chosen:
        x = cell.message_bytes / 1024 if by_size else cell.connections
        for name, series in results[cell.name].series.items():
            if series.median is not None and series.median > 0:
                lines.setdefault(TITLES[name], []).append((x, series.median))
    return lines


def _lines(results: dict[str, Result], title: str, chosen: list[Cell],
           by_size: bool) -> svg.Lines | None:
    """A panel, or None where there are not two points to connect."""
    chosen = [cell for cell in chosen if cell.name in results]
    if by_size:
        ticks = [(cell.message_bytes / 1024, f"{cell.message_bytes // 1024} KiB")
                 for cell in chosen]
    else:
        ticks = [(float(cell.connections), str(cell.connections)) for cell in chosen]
    lines = _points(results, chosen, by_size)
    if len(chosen) < 2 or not lines:
        return None
    return svg.Lines(title, "message" if by_size else "connections", COST, ticks, lines)


def _pick(api: str, *sizes: tuple[int, int], tls: bool = False) -> list[Cell]:
    """Cells of an API in the order of (connections, KiB)."""
    return [cell for connections, kib in sizes for cell in CELLS
            if cell.mode == "echo" and cell.tls == tls
            and (cell.api, cell.connections, cell.message_bytes) == (api, connections, kib * 1024)]


def _size_figure(results: dict[str, Result]) -> svg.Figure | None:
    ten = [(10, 1), (10, 10), (10, 100)]
    panels = [
        _lines(results, "streams, 10 connections", _pick("streams", *ten), True),
        _lines(results, "BufferedProtocol, 10 connections", _pick("buffered", *ten), True),
        _lines(results, "sock_recv, sock_sendall, 10 connections", _pick("sock", *ten), True),
    ]
    drawn: list[svg.Lines | svg.Bars] = [panel for panel in panels if panel is not None]
    return svg.Figure("Other interfaces: cost over message size", drawn, columns=2) \
        if drawn else None


def _curve_figure(results: dict[str, Result], title: str, *names: str) -> svg.Figure | None:
    """Curves side by side."""
    panels: list[svg.Lines | svg.Bars] = []
    for curve in CURVES:
        lines = curve.series(results) if curve.name in names else {}
        if lines:
            xs = sorted({x for points in lines.values() for x, _ in points})
            panels.append(svg.Lines(curve.title, curve.x_label, curve.y_label,
                                    [(x, curve.tick(x)) for x in xs],
                                    {TITLES[name]: points for name, points in lines.items()}))
    return svg.Figure(title, panels, columns=2) if panels else None


def _tls_figure(results: dict[str, Result]) -> svg.Figure | None:
    panels = [_lines(results, f"TLS, Protocol, {connections} connections",
                     _pick("protocol", (connections, 1), (connections, 10), (connections, 100),
                           tls=True), True) for connections in (10, 100)]
    drawn: list[svg.Lines | svg.Bars] = [panel for panel in panels if panel is not None]
    return svg.Figure("Echo over TLS: cost over message size", drawn, columns=2) if drawn else None


def _micro_figure(results: list[Result]) -> svg.Figure | None:
    groups = [(result.title, {TITLES[name]: series.median
                              for name, series in result.series.items() if series.median})
              for result in results]
    groups = [group for group in groups if group[1]]
    if not groups:
        return None
    return svg.Figure("Single operations of a loop",
                      [svg.Bars("processor time", "µs per operation", groups)])


def _goal_figure(echo: list[Result], micro: list[Result]) -> svg.Figure | None:
    """kLoop's cost as a part of uvloop's, with the goal of each cell."""
    groups: list[tuple[str, dict[str, float]]] = []
    marks: dict[str, float] = {}
    for result, is_micro in [(r, False) for r in echo] + [(r, True) for r in micro]:
        ratio = result.ratio("kloop", "uvloop")
        if ratio is None or ratio <= 0:
            continue
        groups.append((result.title, {TITLES["kloop"]: ratio}))
        for verdict in report.verdicts([result], is_micro):
            if verdict["against"] == "uvloop":
                marks[result.title] = verdict["at_most"]
    if not groups:
        return None
    return svg.Figure("kLoop against uvloop", [
        svg.Bars("the mark is the goal, the dashed line is uvloop", "cost, uvloop = 1", groups,
                 marks, one=1.0)])


def draw(echo: list[Result], micro: list[Result], directory: Path,
         prefix: str = "") -> list[tuple[str, str]]:
    """Write what can be drawn; file names and titles."""
    results = {result.name: result for result in echo + micro}
    echo, micro = report.in_table(echo), report.in_table(micro)
    figures = [
        ("goals.svg", _goal_figure(echo, micro)),
        ("echo.svg", _curve_figure(results, "Echo: Protocol", "connections", "sizes")),
        ("interfaces.svg", _size_figure(results)),
        ("tls.svg", _tls_figure(results)),
        ("timers.svg", _curve_figure(results, "Timers", "timers-cancel", "timers-fire")),
        ("memory.svg", _curve_figure(results, "Memory", "memory-connections", "memory-timers")),
        ("processes.svg", _curve_figure(results, "Processes", "processes")),
        ("micro.svg", _micro_figure(micro)),
    ]
    drawn = []
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in figures:
        name = prefix + name
        if figure is not None:
            (directory / name).write_text(svg.render(figure, ORDER), encoding="utf-8")
            drawn.append((name, figure.title))
    return drawn
