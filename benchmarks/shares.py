# SPDX-License-Identifier: MulanPSL-2.0
"""Where the time goes in the cells that miss a goal: perf's samples of the server, by whose code ran.

The server runs once more for each variant that such a goal compares, under
"perf record -e cpu-clock", which virtual machines have too. What a function
inlines counts as its own; what the kernel does in a thread of the server, a
ring's worker included, is the kernel's.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measure
import report
from cells import CELLS, VARIANTS
from measure import MeasureError, Result, Settings, progress
from micro import ROWS
from report import NOTHING, Table

TITLE = "Where the time goes where a goal is missed"
#: Whose code it is, by the name of the file that it stands in; the first that fits.
OWNERS = [
    ("kernel", re.compile(r"\[(kernel|guest|vdso|unknown)")),
    ("OpenSSL", re.compile(r"lib(ssl|crypto)\.so")),
    ("the loop", re.compile(r"libkloop|^_?kloop|^_loop|^loop\.cpython|^echo_|liburing")),
    ("Python", re.compile(r"python|\.abi3\.so")),
    ("C library", re.compile(r"libc\.so|libc-2|ld-linux|libm\.so|libpthread")),
]
REST = "other"
#: Samples a second: none of the timer's own beats.
FREQUENCY = 3989


class _NoPerf(Exception):
    """There is nothing to look with; the text says why."""


def _record(output: Path, *more: str) -> list[str]:
    return ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", str(output),
            *more]


def _try(folder: Path) -> None:
    if shutil.which("perf") is None:
        raise _NoPerf("shares of time need perf")
    done = subprocess.run(_record(folder / "try", "--", "true"), capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise _NoPerf(f"shares of time need perf, which says: {words[0]}")


@contextmanager
def _recorded(pids: list[int], output: Path) -> Iterator[None]:
    with subprocess.Popen(_record(output, "-p", ",".join(map(str, pids))),
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as perf:
        try:
            yield
        finally:
            perf.send_signal(signal.SIGINT)
            perf.wait()


def _owner(file: str) -> str:
    return next((owner for owner, pattern in OWNERS if pattern.search(file)), REST)


def _shares(output: Path) -> dict[str, float]:
    """What of the samples was whose."""
    done = subprocess.run(["perf", "report", "-i", str(output), "--stdio", "-q", "--sort", "dso",
                           "--percent-limit", "0"], capture_output=True, text=True, check=False)
    found: dict[str, float] = {}
    for percent, file in re.findall(r"^\s*([\d.]+)%\s+(\S.*?)\s*$", done.stdout, flags=re.M):
        found[_owner(file)] = found.get(_owner(file), 0) + float(percent) / 100
    if not 0.9 < sum(found.values()) < 1.1:
        raise MeasureError(f"perf report: {done.stderr.strip() or 'no samples'}")
    return found


def _look(result: Result, name: str, settings: Settings, folder: Path) -> dict[str, float]:
    variant = next(one for one in VARIANTS if one.name == name)
    output = folder / f"{result.name}-{name}"

    def recorded(pids: list[int]) -> Any:
        return _recorded(pids, output)

    for row in ROWS:
        if row.name == result.name:
            measure.watch_row(row, variant, settings, recorded)
    for cell in CELLS:
        if cell.name == result.name:
            measure.watch_cell(cell, variant, settings, recorded)
    return _shares(output)


def _missed(results: list[Result], micro: bool) -> Iterator[tuple[Result, list[str]]]:
    """The results that miss goals of time, and the variants that those compare."""
    memory = {cell.name for cell in CELLS if cell.mode == "idle"}
    for result in results:
        missed = [goal for goal in report.verdicts([result], micro) if not goal["met"]]
        if missed and result.name not in memory:
            named = {name for goal in missed for name in (goal["of"], goal["against"])}
            yield result, [variant.name for variant in VARIANTS if variant.name in named]


def look(echo: list[Result], micro: list[Result], settings: Settings) -> dict[str, Any]:
    """The shares of all that missed, or {"left out": why there are none}."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            _try(Path(directory))
        except _NoPerf as reason:
            return {"left out": str(reason)}
        for result, names in [*_missed(echo, False), *_missed(micro, True)]:
            for name in names:
                try:
                    found = _look(result, name, settings, Path(directory))
                except (MeasureError, subprocess.TimeoutExpired) as error:
                    progress(f"    shares of {result.title}, {name}: {error}")
                    continue
                rows.append({"cell": result.title, "variant": name, "unit": result.unit,
                             "cost": result.series[name].median, "shares": found})
    return {"rows": rows}


def table(kept: dict[str, Any]) -> Table:
    titles = {variant.name: variant.title for variant in VARIANTS}
    owners = [owner for owner, _ in OWNERS] + [REST]
    made = Table(["µs, and part of the whole", "loop or server", *owners], [])
    for row in kept["rows"]:
        made.rows.append([row["cell"], titles[row["variant"]], *(
            f"{row['cost'] * row['shares'][owner]:.2f} ({row['shares'][owner]:.0%})"
            if owner in row["shares"] else NOTHING for owner in owners)])
    return made
