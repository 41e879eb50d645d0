# SPDX-License-Identifier: MulanPSL-2.0
"""Results as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import goals
import growth
from cells import CELLS, VARIANTS
from curves import CURVES, TITLES, Curve
from goals import Goal
from measure import Result, Series
from micro import ROWS

#: Ratios that stand beside the costs, and the heads of their columns.
RATIOS: list[tuple[str, str, str]] = [
    ("kloop", "uvloop", "kLoop / uvloop"),
    ("kloop", "asyncio", "kLoop / asyncio"),
    ("kloop", "c-kloop", "kLoop / C libkloop"),
    ("c-kloop", "c-uring", "C libkloop / C liburing"),
    ("c-kloop", "c-openssl", "C libkloop / C OpenSSL"),
    ("openssl", "kloop", "OpenSSL alone / kLoop"),
]
NOTHING = "–"
#: What is a row of the table, and not a point of curves alone.
TABLE = {cell.name for cell in CELLS if cell.in_table} | {row.name for row in ROWS if row.in_table}
#: Rows of the micro table without a goal.
NO_GOAL = {row.name for row in ROWS if not row.has_goal}


@dataclass
class Table:
    """Rows of text under heads; the first column is a name, the others are numbers."""

    heads: list[str]
    rows: list[list[str]]

    def drop_empty_columns(self) -> None:
        kept = [0] + [i for i in range(1, len(self.heads))
                      if any(row[i] != NOTHING for row in self.rows)]
        self.heads = [self.heads[i] for i in kept]
        self.rows = [[row[i] for i in kept] for row in self.rows]

    def text(self) -> str:
        widths = [max(len(cell) for cell in column) for column in zip(self.heads, *self.rows)]

        def line(cells: Sequence[str]) -> str:
            first = cells[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
            return "  ".join([first, *rest]).rstrip()

        return "\n".join([line(self.heads), line(["-" * width for width in widths]),
                          *map(line, self.rows)])

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cells) + " |"

        rule = ["---"] + ["---:"] * (len(self.heads) - 1)
        return "\n".join([line(self.heads), line(rule), *map(line, self.rows)])


def goals_of(result: Result, micro: bool) -> list[Goal]:
    if micro:
        return [] if result.name in NO_GOAL else goals.MICRO
    return goals.CELLS.get(result.name, [])


def _cost(series: Series | None) -> str:
    if series is None:
        return NOTHING
    if series.error is not None:
        return "failed"
    median = series.median
    if median is None:
        return NOTHING
    return f"{median:.2f}" if median < 100 else f"{median:.0f}"


def _ratio(result: Result, of: str, against: str, wanted: list[Goal]) -> str:
    ratio = result.ratio(of, against)
    if ratio is None:
        return NOTHING
    for goal in wanted:
        if (goal.of, goal.against) == (of, against):
            bound = goal.bound(result.python_version)
            verdict = "ok" if ratio <= bound else "MISSED"
            return f"{ratio:.2f} (≤ {bound:.2f} {verdict})"
    return f"{ratio:.2f}"


def _spread(result: Result) -> str:
    spreads = [series.spread for series in result.series.values() if series.spread is not None]
    return f"{max(spreads):.0%}" if spreads else NOTHING


def table(results: list[Result], micro: bool,
          only: Sequence[str] = tuple(variant.name for variant in VARIANTS)) -> Table:
    """Costs of the variants side by side, then ratios among them with their goals.

    "spread" is the middle half of the samples, relative to their median, of
    the variant where it is widest: smaller differences mean nothing.
    """
    names = [variant.name for variant in VARIANTS if variant.name in only
             and any(variant.name in result.series for result in results)]
    ratios = [ratio for ratio in RATIOS if ratio[0] in only and ratio[1] in only]
    titles = {variant.name: variant.title for variant in VARIANTS}
    rows = []
    for result in results:
        wanted = goals_of(result, micro)
        unit = "" if result.unit in ("µs/message", "µs/operation") else f", {result.unit}"
        rows.append([result.title + unit,
                     *(_cost(result.series.get(name)) for name in names),
                     _spread(result),
                     *(_ratio(result, of, against, wanted) for of, against, _ in ratios)])
    made = Table(["micro, µs per operation" if micro else "µs of server CPU per message",
                  *(titles[name] for name in names), "spread", *(head for _, _, head in ratios)],
                 rows)
    made.drop_empty_columns()
    return made


def _rates(results: list[Result]) -> Table:
    """Throughput, for orientation: the client's processor bounds it as well."""
    names = [variant.name for variant in VARIANTS
             if any(variant.name in result.series for result in results)]
    titles = {variant.name: variant.title for variant in VARIANTS}
    rows = []
    for result in results:
        cells = [result.title]
        for name in names:
            series = result.series.get(name)
            rates = sorted(series.rates) if series is not None and not series.error else []
            cells.append(f"{rates[len(rates) // 2]:,.0f}" if rates else NOTHING)
        if any(cell != NOTHING for cell in cells[1:]):
            rows.append(cells)
    made = Table(["operations per second", *(titles[name] for name in names)], rows)
    made.drop_empty_columns()
    return made


def verdicts(results: list[Result], micro: bool) -> list[dict[str, Any]]:
    """Every goal that could be judged."""
    found = []
    for result in results:
        for goal in goals_of(result, micro):
            ratio = result.ratio(goal.of, goal.against)
            bound = goal.bound(result.python_version)
            if ratio is not None:
                found.append({"cell": result.name, "of": goal.of, "against": goal.against,
                              "at_most": bound, "ratio": round(ratio, 4),
                              "met": ratio <= bound})
    return found


def failures(results: list[Result]) -> list[str]:
    return [f"{result.title}, {name}: {series.error}" for result in results
            for name, series in result.series.items() if series.error is not None]


def in_table(results: list[Result]) -> list[Result]:
    return [result for result in results if result.name in TABLE]


def curve_table(curve: Curve, results: dict[str, Result]) -> Table | None:
    """The medians of each variant along a curve, and how they grow."""
    lines = curve.series(results)
    xs = sorted({x for points in lines.values() for x, _ in points})
    fit = growth.over_bytes if curve.sizes else growth.over_counts
    rows = []
    for variant, points in lines.items():
        found = dict(points)
        fitted = [point for point in points if point[0] >= curve.fit_from]
        kind, words = fit(fitted) if len(fitted) > 2 else (NOTHING, NOTHING)
        rows.append([TITLES[variant],
                     *(f"{found[x]:.3g}" if x in found else NOTHING for x in xs), kind, words])
    if not rows:
        return None
    return Table([f"{curve.y_label}; {curve.x_label}:", *map(curve.tick, xs), "growth",
                  f"fit, from {curve.tick(curve.fit_from)}" if curve.fit_from else "fit"], rows)


def split(results: list[Result]) -> tuple[list[Result], list[Result]]:
    """Cells without TLS, and those with it: different programs stand beside them."""
    return ([result for result in results if not result.tls],
            [result for result in results if result.tls])


def text(header: dict[str, str], echo: list[Result], micro: list[Result],
         notes: list[str]) -> str:
    """What goes to the terminal."""
    width = max(map(len, header))
    parts = ["\n".join(f"{key.ljust(width)}  {value}" for key, value in header.items())]
    parts += [f"Note: {note}" for note in notes]
    plain, tls = split(in_table(echo))
    parts += [table(results, is_micro).text() for results, is_micro
              in ((plain, False), (tls, False), (in_table(micro), True)) if results]
    made = {result.name: result for result in echo + micro}
    for curve in CURVES:
        points = curve_table(curve, made)
        if points is not None:
            parts.append(f"{curve.title}\n\n{points.text()}")
    return "\n\n".join(parts)


def goals_line(echo: list[Result], micro: list[Result]) -> str:
    """How many goals are met, and which are not."""
    judged = verdicts(echo, False) + verdicts(micro, True)
    titles = {result.name: result.title for result in echo + micro}
    missed = [f"{titles[goal['cell']]}: {goal['of']}/{goal['against']} {goal['ratio']:.2f} "
              f"(≤ {goal['at_most']:.2f})" for goal in judged if not goal["met"]]
    line = f"{len(judged) - len(missed)} of {len(judged)} goals met."
    return line + (f" Missed: {'; '.join(missed)}." if missed else "")


def body(echo: list[Result], micro: list[Result], more: list[tuple[str, Table]],
         plots: list[tuple[str, str]], level: str = "##") -> list[str]:
    """The parts of a report below its header: paragraphs of Markdown."""
    parts = [goals_line(echo, micro)] if verdicts(echo, False) + verdicts(micro, True) else []
    plain, tls = split(in_table(echo))
    for title, results in (("Servers", plain), ("Servers with TLS", tls)):
        if results:
            parts += [f"{level} {title}", table(results, False).markdown()]
        if _rates(results).rows:
            parts += [_rates(results).markdown()]
    if in_table(micro):
        parts += [f"{level} Single operations", table(in_table(micro), True).markdown()]
    made = {result.name: result for result in echo + micro}
    curves = [(curve, points) for curve in CURVES
              if (points := curve_table(curve, made)) is not None]
    if curves:
        parts.append(f"{level} Curves")
    for curve, points in curves:
        parts += [f"{curve.title}.", points.markdown()]
    for title, rows in more:
        parts += [f"{level} {title}", rows.markdown()]
    if plots:
        parts += [f"{level} Plots", *(f"![{title}]({name})" for name, title in plots)]
    return parts


def markdown(header: dict[str, str], echo: list[Result], micro: list[Result],
             notes: list[str], more: list[tuple[str, Table]],
             plots: list[tuple[str, str]]) -> str:
    parts = ["# Benchmarks",
             "Processor time of the server (all its threads) per operation, medians of "
             "interleaved rounds; how it is measured, and what the columns mean, stands in "
             "benchmarks/README.md.",
             "\n".join(f"- {key}: {value}" for key, value in header.items())]
    parts += [f"Note: {note}" for note in notes]
    parts += body(echo, micro, more, plots)
    return "\n\n".join(parts) + "\n"


def _as_json(result: Result, micro: bool) -> dict[str, Any]:
    return {
        "name": result.name, "title": result.title, "unit": result.unit,
        "variants": {name: {"median": series.median, "spread": series.spread,
                            "costs": series.costs, "rates": series.rates,
                            "error": series.error}
                     for name, series in result.series.items()},
        "ratios": {f"{of}/{against}": result.ratio(of, against) for of, against, _ in RATIOS
                   if result.ratio(of, against) is not None},
        "goals": verdicts([result], micro),
    }


def as_json(header: dict[str, str], settings: dict[str, Any], echo: list[Result],
            micro: list[Result], notes: list[str], more: dict[str, Any]) -> dict[str, Any]:
    return {"header": header, "settings": settings, "notes": notes,
            "cells": [_as_json(result, False) for result in echo],
            "micro": [_as_json(result, True) for result in micro], **more}


def _from_json(kept: dict[str, Any], python_version: tuple[int, int]) -> Result:
    series = {name: Series(costs=variant["costs"], rates=variant["rates"], error=variant["error"])
              for name, variant in kept["variants"].items()}
    return Result(kept["name"], kept["title"], kept["unit"], series, python_version)


def from_json(kept: dict[str, Any]) -> tuple[list[Result], list[Result]]:
    """The results of cells and of rows that as_json() kept."""
    major, minor = kept["settings"]["python_version"]
    return ([_from_json(one, (major, minor)) for one in kept["cells"]],
            [_from_json(one, (major, minor)) for one in kept["micro"]])
