# SPDX-License-Identifier: MulanPSL-2.0
"""A small writer of charts as SVG: lines and horizontal bars on log axes.

A figure is a grid of panels with one legend. Colours are told apart by colour
blind readers too, and lines have marks of different shapes besides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

PANEL_WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 52
LINE_PLOT_HEIGHT = 250
BAR_HEIGHT = 13
BAR_GAP = 12
BAR_LABEL_WIDTH = 325
LEGEND_HEIGHT = 66
FONT = "font-family='Helvetica, Arial, sans-serif'"
INK, FAINT = "#222222", "#dddddd"

#: Colour and mark by the place of a series in the legend (Okabe and Ito).
STYLES = [("#0072b2", "circle"), ("#e69f00", "square"), ("#d55e00", "diamond"),
          ("#cc79a7", "triangle"), ("#009e73", "square"), ("#56b4e9", "circle"),
          ("#7f7f7f", "diamond"), ("#000000", "triangle"), ("#882255", "square"),
          ("#332288", "circle")]
CORNERS: dict[str, list[tuple[float, float]]] = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "diamond": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    "triangle": [(0, -1.3), (1.2, 1), (-1.2, 1)],
}


@dataclass
class Lines:
    """Lines over a logarithmic x; each series maps its name to points."""

    title: str
    x_label: str
    y_label: str
    ticks: list[tuple[float, str]]
    series: dict[str, list[tuple[float, float]]]


@dataclass
class Bars:
    """Groups of horizontal bars on a logarithmic x; a group may have a mark (a goal)."""

    title: str
    x_label: str
    groups: list[tuple[str, dict[str, float]]]
    marks: dict[str, float] = field(default_factory=dict)
    #: A line across all groups, for ratios.
    one: float | None = None


@dataclass
class Figure:
    title: str
    panels: list[Lines | Bars]
    columns: int = 1


def _text(x: float, y: float, words: str, size: int = 12, anchor: str = "start",
          weight: str = "normal", turn: bool = False) -> str:
    rotate = f" transform='rotate(-90 {x:.1f} {y:.1f})'" if turn else ""
    return (f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' "
            f"font-weight='{weight}' fill='{INK}' {FONT}{rotate}>{escape(words)}</text>")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1,
          dash: str = "") -> str:
    dashes = f" stroke-dasharray='{dash}'" if dash else ""
    return (f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' "
            f"stroke='{colour}' stroke-width='{width}'{dashes}/>")


def _mark(x: float, y: float, colour: str, shape: str) -> str:
    size = 4.5
    if shape == "circle":
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{size}' fill='{colour}'/>"
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in CORNERS[shape])
    return f"<polygon points='{points}' fill='{colour}'/>"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from the last one at or below low to the first at or above high."""
    ticks = [digit * 10.0 ** power
             for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
             for digit in (1, 2, 5)]
    below = max(tick for tick in ticks if tick <= low * 1.0001)
    above = min(tick for tick in ticks if tick >= high * 0.9999)
    if below == above:
        above = min(tick for tick in ticks if tick > below)
    return [tick for tick in ticks if below <= tick <= above]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Logarithmic: low goes to start, high to end."""
    width = math.log(high / low) if high > low else 1.0

    def place(value: float) -> float:
        return start + (end - start) * math.log(value / low) / width

    return place


def _draw_lines(panel: Lines, left: float, top: float,
                style: dict[str, tuple[str, str]]) -> list[str]:
    values = [y for points in panel.series.values() for _, y in points]
    ticks = _log_ticks(min(values), max(values))
    x0, x1 = left + LEFT, left + PANEL_WIDTH - RIGHT
    y0, y1 = top + TOP + LINE_PLOT_HEIGHT, top + TOP
    x_of = _scale(panel.ticks[0][0], panel.ticks[-1][0], x0 + 18, x1 - 18)
    y_of = _scale(ticks[0], ticks[-1], y0, y1)
    parts = [_text(left + LEFT, top + 20, panel.title, 14, weight="bold"),
             _text(left + 16, (y0 + y1) / 2, panel.y_label, 11, "middle", turn=True),
             _text((x0 + x1) / 2, y0 + 38, panel.x_label, 11, "middle")]
    for tick in ticks:
        parts.append(_line(x0, y_of(tick), x1, y_of(tick), FAINT))
        parts.append(_text(x0 - 6, y_of(tick) + 4, _number(tick), 11, "end"))
    for x, label in panel.ticks:
        parts.append(_line(x_of(x), y0, x_of(x), y0 + 4, INK))
        parts.append(_text(x_of(x), y0 + 18, label, 11, "middle"))
    parts.append(_line(x0, y0, x1, y0, INK))
    for name, points in panel.series.items():
        colour, shape = style[name]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' "
                     f"stroke-width='2'/>")
        parts += [_mark(x_of(x), y_of(y), colour, shape) for x, y in points]
    return parts


def _group_height(group: tuple[str, dict[str, float]]) -> float:
    return max(1, len(group[1])) * BAR_HEIGHT + BAR_GAP


def _draw_bars(panel: Bars, left: float, top: float, style: dict[str, tuple[str, str]],
               width: float) -> list[str]:
    values = [value for _, bars in panel.groups for value in bars.values()]
    values += list(panel.marks.values()) + ([panel.one] if panel.one is not None else [])
    # Bars start at a value below the smallest: on a log axis there is no zero.
    ticks = _log_ticks(min(values) / 1.5, max(values))
    x0, x1 = left + BAR_LABEL_WIDTH, left + width - RIGHT - 44
    y0 = top + TOP
    y1 = y0 + sum(_group_height(group) for group in panel.groups)
    x_of = _scale(ticks[0], ticks[-1], x0, x1)
    parts = [_text(left + 16, top + 20, panel.title, 14, weight="bold"),
             _text((x0 + x1) / 2, y1 + 38, panel.x_label, 11, "middle")]
    for tick in ticks:
        parts.append(_line(x_of(tick), y0, x_of(tick), y1, FAINT))
        parts.append(_text(x_of(tick), y1 + 18, _number(tick), 11, "middle"))
    y = y0 + BAR_GAP / 2
    for label, bars in panel.groups:
        middle = y + len(bars) * BAR_HEIGHT / 2
        parts.append(_text(x0 - 8, middle + 4, label, 12, "end"))
        for name, value in bars.items():
            parts.append(f"<rect x='{x0:.1f}' y='{y:.1f}' width='{x_of(value) - x0:.1f}' "
                         f"height='{BAR_HEIGHT - 2}' fill='{style[name][0]}'/>")
            # Beside the bar, or where marks would cross it, in a column of its own.
            x = x_of(value) if not panel.marks else x1
            parts.append(_text(x + 4, y + BAR_HEIGHT - 3, f"{value:.2f}", 10))
            y += BAR_HEIGHT
        if label in panel.marks:
            x = x_of(panel.marks[label])
            parts.append(_line(x, middle - len(bars) * BAR_HEIGHT / 2 - 3, x, y + 2, INK, 3))
        y += BAR_GAP
    parts.append(_line(x0, y0, x0, y1, INK))
    if panel.one is not None:
        parts.append(_line(x_of(panel.one), y0, x_of(panel.one), y1, INK, 1, "4 3"))
    return parts


def _names(figure: Figure) -> list[str]:
    """All series, in the order in which they appear."""
    names: dict[str, None] = {}
    for panel in figure.panels:
        if isinstance(panel, Lines):
            names.update(dict.fromkeys(panel.series))
        else:
            for _, bars in panel.groups:
                names.update(dict.fromkeys(bars))
    return list(names)


def _legend(names: list[str], style: dict[str, tuple[str, str]]) -> list[str]:
    parts = []
    x = 20.0
    for name in names:
        parts.append(_mark(x, 48, *style[name]))
        parts.append(_text(x + 10, 52, name, 12))
        x += 34 + 7 * len(name)
    return parts


def _panel_height(panel: Lines | Bars) -> float:
    if isinstance(panel, Lines):
        return TOP + LINE_PLOT_HEIGHT + BOTTOM
    return TOP + sum(_group_height(group) for group in panel.groups) + BOTTOM


def render(figure: Figure, order: list[str]) -> str:
    """The figure as a document; a series keeps its style by its place in order."""
    style = {name: STYLES[i % len(STYLES)] for i, name in enumerate(order)}
    columns = min(figure.columns, len(figure.panels))
    # A lone panel of bars needs room for its labels.
    wide = columns == 1 and isinstance(figure.panels[0], Bars)
    column_width = PANEL_WIDTH * 1.8 if wide else PANEL_WIDTH
    parts = [_text(16, 24, figure.title, 16, weight="bold"), *_legend(_names(figure), style)]
    top: float = LEGEND_HEIGHT
    for start in range(0, len(figure.panels), columns):
        row = figure.panels[start:start + columns]
        for i, panel in enumerate(row):
            if isinstance(panel, Lines):
                parts += _draw_lines(panel, i * column_width, top, style)
            else:
                parts += _draw_bars(panel, i * column_width, top, style, column_width)
        top += max(map(_panel_height, row))
    width = columns * column_width
    return "\n".join([
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{top:.0f}' "
        f"viewBox='0 0 {width:.0f} {top:.0f}'>",
        "<rect width='100%' height='100%' fill='#ffffff'/>", *parts, "</svg>", ""])
