# SPDX-License-Identifier: MulanPSL-2.0
"""Names and files: programs of their own (dns.py, files_async.py), as parts of the report."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns
import shares
from measure import Settings, progress
from programs import HERE, is_build_tree
from report import NOTHING, Table

SECONDS = 600


class ExtraError(Exception):
    """A part could not be measured; the text says why."""


class LeftOut(Exception):
    """A part cannot be measured here, and that is no failure."""


@dataclass(frozen=True)
class Extra:
    """A part of the report: a program that leaves its samples as JSON."""

    name: str
    title: str
    options: list[str]
    quick_options: list[str]


EXTRAS = [
    Extra("names", "Names looked up", ["--count", "5000", "--rounds", "3"],
          ["--count", "200", "--rounds", "1", "--only", "0 ms"]),
    Extra("files", "Files: kLoop's, and a pool of threads", ["--rounds", "3", "--scale", "0.3"],
          ["--rounds", "1", "--scale", "0.02"]),
]


def _command(extra: Extra, settings: Settings, build: Path | None) -> list[str]:
    if extra.name == "files":
        return [settings.python, str(HERE / "files_async.py")]
    if build is None or not is_build_tree(build):
        raise LeftOut("names need a build tree")
    for tool in ("unshare", "ip", "mount"):
        if shutil.which(tool) is None:
            raise LeftOut(f"names need {tool}")
    # A chroot allows neither, as its root is no mount point.
    if not any(subprocess.run(["unshare", flags, "true"], capture_output=True,
                              check=False).returncode == 0 for flags in ("-nm", "-Urnm")):
        raise LeftOut("names need namespaces, which are not allowed here")
    return [sys.executable, str(HERE / "dns.py"), "--build", str(build), "--python",
            settings.python]


def measure(extra: Extra, settings: Settings, build: Path | None, quick: bool) -> dict[str, Any]:
    """Run it; what it kept, or {"error": why it failed}, or {"left out": why}."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(directory) / "kept.json"
        try:
            command = _command(extra, settings, build)
            command += [*(extra.quick_options if quick else extra.options), "--json", str(kept)]
            done = subprocess.run(command, env=settings.environment, capture_output=True,
                                  text=True, check=False, timeout=SECONDS)
            if done.returncode != 0 or not kept.exists():
                raise ExtraError("; ".join(done.stderr.strip().splitlines()[-2:])
                                 or f"status {done.returncode}")
            result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        except LeftOut as reason:
            result = {"left out": str(reason)}
        except (ExtraError, OSError, subprocess.TimeoutExpired) as error:
            result = {"error": str(error)}
            progress(f"    {extra.title} FAILED: {error}")
    progress(f"  {extra.title} ({time.monotonic() - started:.0f} s)")
    return result


def _names_table(kept: dict[str, Any]) -> Table:
    table = Table(dns.HEADS, [])
    for cell in dns.CELLS:
        table.rows += dns.rows_of(cell, kept["samples"].get(cell.name, {}))
    return table


def _files_table(kept: dict[str, Any]) -> Table:
    """Processor time and rate of each variant, and of kLoop's in parts of the threads'."""
    variants = list(dict.fromkeys(name for samples in kept.values() for name in samples))
    table = Table(["operation", *(f"{name}: {what}" for name in variants
                                  for what in ("µs CPU", "per second")),
                   "CPU, kLoop / threads", "rate, kLoop / threads"], [])
    for workload, samples in kept.items():
        row = [workload]
        cpu = {name: statistics.median(cost for cost, _ in taken)
               for name, taken in samples.items()}
        rate = {name: 1e6 / statistics.median(wall for _, wall in taken)
                for name, taken in samples.items()}
        for name in variants:
            row += [f"{cpu[name]:,.1f}", f"{rate[name]:,.0f}"] if name in cpu else [NOTHING] * 2
        both = {"threads", "kLoop"} <= cpu.keys()
        row += [f"{cpu['kLoop'] / cpu['threads']:.2f}" if both else NOTHING,
                f"{rate['kLoop'] / rate['threads']:.2f}" if both else NOTHING]
        table.rows.append(row)
    return table


def tables(kept: dict[str, Any]) -> list[tuple[str, Table]]:
    """Of a report's JSON: titles and tables of the parts that it has."""
    made = []
    for extra in EXTRAS:
        result = kept.get(extra.name)
        if result is not None and not {"error", "left out"} & result.keys():
            made.append((extra.title,
                         _names_table(result) if extra.name == "names" else _files_table(result)))
    if kept.get("shares", {}).get("rows"):
        made.append((shares.TITLE, shares.table(kept["shares"])))
    return made
