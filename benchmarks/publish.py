# SPDX-License-Identifier: MulanPSL-2.0
"""The report in docs/benchmarks.md, its plots, and the tables in the README.

Each run that is published has a label ("3.11"), and its samples in
docs/benchmarks/LABEL.json. Everything else is made of these, between marks;
what stands outside of the marks is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import extras
import plots
import report
from programs import TOP

DOCUMENT = Path("docs/benchmarks.md")
FOLDER = Path("docs/benchmarks")
README = Path("README.md")
BEGIN = "<!-- MEASURED: begin. Written by benchmarks/run --publish, never by hand. -->"
BETWEEN = re.compile(r"<!-- MEASURED: begin.*?-->\n.*?<!-- MEASURED: end -->", flags=re.S)
#: What a reader of the README is told of the machine.
README_HEADER = ("date", "processor", "kernel", "Python", "uvloop", "load average", "set-up",
                 "command")


class PublishError(Exception):
    """There is no place for it; the text says what is missing."""


def _replace(path: Path, parts: list[str]) -> None:
    text = path.read_text(encoding="utf-8")
    made = "\n".join([BEGIN, "\n\n".join(parts), "<!-- MEASURED: end -->"])
    changed, count = BETWEEN.subn(lambda _: made, text)
    if count != 1:
        raise PublishError(f"{path} has no marks <!-- MEASURED: begin --> and end")
    path.write_text(changed, encoding="utf-8")


def _section(top: Path, label: str, kept: dict[str, Any]) -> list[str]:
    echo, micro = report.from_json(kept)
    drawn = plots.draw(echo, micro, top / FOLDER, f"{label}-")
    drawn = [(f"{FOLDER.name}/{name}", title) for name, title in drawn]
    parts = [f"## {label}",
             "\n".join(f"- {key}: {value}" for key, value in kept["header"].items())]
    parts += [f"Note: {note}" for note in kept["notes"]]
    return parts + report.body(echo, micro, extras.tables(kept), drawn, "###")


def _readme(label: str, kept: dict[str, Any]) -> list[str]:
    echo, micro = report.from_json(kept)
    header = kept["header"]
    words = "; ".join(f"{key}: {header[key]}" for key in README_HEADER if key in header)
    plain, tls = report.split(report.in_table(echo))
    tables = [report.table(results, single).markdown() for results, single
              in ((plain, False), (tls, False), (report.in_table(micro), True)) if results]
    return [f"{words}.", f"{report.goals_line(echo, micro)} What is measured and how: "
            "[benchmarks/README.md](benchmarks/README.md). Curves over connections, sizes and "
            f"timers, and other Pythons: [{DOCUMENT}]({DOCUMENT}).", *tables]


def add(label: str, kept: dict[str, Any], top: Path = TOP) -> None:
    """Keep the samples of a run under a label, in place of those of that label."""
    if not re.fullmatch(r"[\w.-]+", label):
        raise PublishError(f"\"{label}\" is no label: letters, digits, dots, - and _")
    (top / FOLDER).mkdir(parents=True, exist_ok=True)
    (top / FOLDER / f"{label}.json").write_text(
        json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


def regenerate(top: Path = TOP) -> None:
    """Make the document, the plots and the README's tables of all samples that are kept."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in (top / FOLDER).glob("*.json")}
    if not runs:
        raise PublishError(f"{top / FOLDER} has no samples: benchmarks/run --publish LABEL")
    # The oldest Python first: Debian's stable one, on a machine of its own.
    order = sorted(runs, key=lambda label: (runs[label]["settings"]["python_version"], label))
    parts: list[str] = []
    for label in order:
        parts += _section(top, label, runs[label])
    _replace(top / DOCUMENT, parts)
    _replace(top / README, _readme(order[0], runs[order[0]]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make docs/benchmarks.md and the README's tables of the runs that are kept "
        "in docs/benchmarks, after adding one.")
    parser.add_argument("--add", type=Path, metavar="FILE", help="results.json of a run")
    parser.add_argument("--label", help="for that run; it replaces the one of that label")
    options = parser.parse_args()
    if (options.add is None) != (options.label is None):
        parser.error("--add and --label go together")
    try:
        if options.add is not None:
            add(options.label, json.loads(options.add.read_text(encoding="utf-8")))
        regenerate()
    except PublishError as error:
        sys.exit(f"publish: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
