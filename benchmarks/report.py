# SPDX-License-Identifier: MulanPSL-2.0
"""Results as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import goals
from cells import VARIANTS
from goals import Goal
from measure import Result, Series

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
        return goals.MICRO
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


def table(results: list[Result], micro: bool) -> Table:
    """Costs of all variants side by side, then ratios with their goals.

    "spread" is the middle half of the samples, relative to their median, of
    the variant where it is widest: smaller differences mean nothing.
    """
    names = [variant.name for variant in VARIANTS
             if any(variant.name in result.series for result in results)]
    titles = {variant.name: variant.title for variant in VARIANTS}
    rows = []
    for result in results:
        wanted = [] if micro and result.name == "threadsafe_thread" else goals_of(result, micro)
        unit = "" if result.unit in ("µs/message", "µs/operation") else f", {result.unit}"
        rows.append([result.title + unit,
                     *(_cost(result.series.get(name)) for name in names),
                     _spread(result),
                     *(_ratio(result, of, against, wanted) for of, against, _ in RATIOS)])
    made = Table(["micro, µs per operation" if micro else "µs of server CPU per message",
                  *(titles[name] for name in names), "spread", *(head for _, _, head in RATIOS)],
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
        if micro and result.name == "threadsafe_thread":
            continue
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
    plain, tls = split(echo)
    parts += [table(results, is_micro).text()
              for results, is_micro in ((plain, False), (tls, False), (micro, True)) if results]
    return "\n\n".join(parts)


def markdown(header: dict[str, str], echo: list[Result], micro: list[Result],
             notes: list[str], plots: list[tuple[str, str]]) -> str:
    parts = ["# Benchmarks",
             "Processor time of the server (all its threads) per operation, medians of "
             "interleaved rounds; how it is measured, and what the columns mean, stands in "
             "benchmarks/README.md.",
             "\n".join(f"- {key}: {value}" for key, value in header.items())]
    parts += [f"Note: {note}" for note in notes]
    plain, tls = split(echo)
    for title, results in (("Servers", plain), ("Servers with TLS", tls)):
        if results:
            parts += [f"## {title}", table(results, False).markdown()]
        if _rates(results).rows:
            parts += [_rates(results).markdown()]
    if micro:
        parts += ["## Single operations", table(micro, True).markdown()]
    if plots:
        parts += ["## Plots", *(f"![{title}]({name})" for name, title in plots)]
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
            micro: list[Result], notes: list[str]) -> dict[str, Any]:
    return {"header": header, "settings": settings, "notes": notes,
            "cells": [_as_json(result, False) for result in echo],
            "micro": [_as_json(result, True) for result in micro]}
