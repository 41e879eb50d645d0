#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""What fixed loads cost, in figures that do not depend on the clock.

Instructions by callgrind(1), system calls by strace(1) and by the loop's own
counter, allocations by a malloc() that counts: each per operation, compared
with figures.json beside this file. Any of them above its figure by more than a
small margin fails. The loads (loads.c, loads.py) are the same in each of the
three runs, which see the marks of mark.c: start-up and end are not in it. Of
three repetitions the cheapest counts.

Prints TAP. --update writes figures.json anew, for this compiler and Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "figures.json"
BUILD = Path(os.environ.get("top_builddir", HERE.parent.parent)).resolve()
SECONDS = 300  # no run takes longer

#: What may be above a figure: a share of it, and so many per operation.
MARGINS = {"instructions": (0.03, 5.0), "calls": (0.0, 0.05), "allocations": (0.0, 0.05)}
#: Where another compiler or Python is in use than those of every set of figures.
STRANGE_MARGINS = {"instructions": (0.40, 50.0), "calls": (0.0, 0.05), "allocations": (0.40, 0.5)}
#: Below its figure by more than this share, a figure is out of date.
BETTER = 0.10
MARK = re.compile(r'write\(-1, "([a-z0-9-]+)"')
CALL = re.compile(r"(?:\d+ +)?([a-z_0-9]+)\(")


class GuardError(Exception):
    """It cannot be measured; the text says why."""


@dataclass
class Load:
    """One load: of the repetitions' costs the lowest, per operation."""

    operations: int = 1
    instructions: float = float("inf")
    allocations: float = float("inf")
    calls: dict[str, float] = field(default_factory=dict)
    #: By strace and by the loop, of one and the same repetition.
    enters: tuple[int, int] = (0, 0)

    @property
    def total_calls(self) -> float:
        return sum(self.calls.values())


@dataclass
class Program:
    """loads.c or loads.py."""

    name: str
    command: list[str]
    environment: dict[str, str]


def run(command: list[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise GuardError(f"{shlex.join(command)} took more than {SECONDS} s") from None
    if done.returncode != 0:
        raise GuardError(f"{shlex.join(command)}: status {done.returncode}: "
                         f"{' | '.join(done.stderr.strip().splitlines()[-4:])}")
    return done.stdout


def read_lines(output: str) -> list[tuple[str, int, int, int]]:
    """What a program of loads prints: name, operations, allocations, enters."""
    lines = [line.split() for line in output.splitlines()]
    return [(name, int(operations), int(allocated), int(entered))
            for name, operations, allocated, entered in lines]


def count_allocations(program: Program, loads: dict[str, Load]) -> None:
    # Every object of Python's is one allocation then.
    environment = dict(program.environment, PYTHONMALLOC="malloc")
    for name, operations, allocated, _ in read_lines(run(program.command, environment)):
        load = loads.setdefault(name, Load())
        load.operations = operations
        load.allocations = min(load.allocations, allocated)


def count_instructions(program: Program, folder: Path) -> dict[str, float]:
    """The dumps that the marks caused; each names its mark and has a line of totals."""
    run(["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
         f"--callgrind-out-file={folder}/dump", *program.command], program.environment)
    lowest: dict[str, float] = {}
    for path in folder.glob("dump*"):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (\S+)$", text, flags=re.M)
        total = re.search(r"^(?:totals|summary): (\d+)", text, flags=re.M)
        if name is not None and total is not None:
            lowest[name[1]] = min(lowest.get(name[1], float("inf")), int(total[1]))
    return lowest


def read_trace(path: Path) -> list[tuple[str, dict[str, int]]]:
    """The system calls between the marks, by kind, of each repetition in turn."""
    stretches: list[tuple[str, dict[str, int]]] = []
    counted: dict[str, int] | None = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        mark = MARK.search(line)
        if mark is not None and mark[1] == "begin":
            counted = {}
        elif mark is not None:
            stretches.append((mark[1], counted or {}))
            counted = None
        elif counted is not None:
            call = CALL.match(line)
            if call is not None and "resumed>" not in line:
                counted[call[1]] = counted.get(call[1], 0) + 1
    return stretches


def count_calls(program: Program, folder: Path) -> dict[str, tuple[dict[str, int], int]]:
    """Of each load's cheapest repetition the calls, and the loop's own count of enters."""
    trace = folder / "trace"
    printed = read_lines(run(["strace", "-f", "-o", str(trace), *program.command],
                             program.environment))
    stretches = read_trace(trace)
    if [line[0] for line in printed] != [name for name, _ in stretches]:
        raise GuardError(f"{program.name}: strace shows other marks than were made")
    best: dict[str, tuple[dict[str, int], int]] = {}
    for (name, _, _, entered), (_, calls) in zip(printed, stretches):
        if name not in best or sum(calls.values()) < sum(best[name][0].values()):
            best[name] = (calls, entered)
    return best


def measure(program: Program) -> dict[str, Load]:
    """All loads of a program, less what marks cost by themselves."""
    loads: dict[str, Load] = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        instructions = pool.submit(count_instructions, program, folder)
        calls = pool.submit(count_calls, program, folder)
        count_allocations(program, loads)
        for load, total in instructions.result().items():
            loads[load].instructions = total
        counted = calls.result()
    empty = next(load for name, load in loads.items() if name.endswith("-nothing"))
    for load_name, load in loads.items():
        if load is empty:
            continue
        kinds, entered = counted[load_name]
        load.enters = (kinds.get("io_uring_enter", 0), entered)
        load.calls = {kind: number / load.operations for kind, number in kinds.items()}
        load.instructions = (load.instructions - empty.instructions) / load.operations
        load.allocations = (load.allocations - empty.allocations) / load.operations
    return {name: load for name, load in loads.items() if load is not empty}


def first_line(*command: str) -> str:
    output = run(list(command), dict(os.environ))
    return output.splitlines()[0].strip() if output else "unknown"


def signature(python: bool) -> str:
    """What figures depend on: the machine's kind, the compiler, and for some Python."""
    line = first_line(*shlex.split(os.environ.get("CC", "cc")), "--version")
    version = re.findall(r"\d+\.\d+(?:\.\d+)?", re.sub(r"\(.*?\)", "", line)) or ["?"]
    flags = re.findall(r"-O\S*", os.environ.get("CFLAGS", "-O2")) or ["-O0"]
    words = [platform.machine(), f"{'clang' if 'clang' in line else 'gcc'} {version[0]}",
             flags[-1], first_line("valgrind", "--version")]
    if python:
        words.append("CPython " + platform.python_version())
        words.append(" ".join(__import__("ssl").OPENSSL_VERSION.split()[:2]))
    return ", ".join(words)


def programs(folder: Path) -> list[Program]:
    library = BUILD / "tests/guard/.libs/libguard.so"
    certificate, key = folder / "certificate", folder / "key"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], dict(os.environ))
    environment = dict(os.environ, LD_PRELOAD=str(library), LC_ALL="C", KLOOP_KTLS="0",
                       LD_LIBRARY_PATH=str(BUILD / "lib/.libs"))
    # Memory as the run finds it, whatever the user's settings are.
    for name in [name for name in environment if name.startswith(("PYTHON", "MALLOC_", "GLIBC_"))]:
        del environment[name]
    python = dict(environment, PYTHONPATH=str(BUILD / "python/lib"), PYTHONHASHSEED="0",
                  PYTHONDONTWRITEBYTECODE="1")
    found = [Program("c", [str(BUILD / "tests/guard/.libs/loads")], environment)]
    if not os.access(found[0].command[0], os.X_OK):
        found[0].command = [str(BUILD / "tests/guard/loads")]
    if (BUILD / "python/lib/kloop").exists():
        found.append(Program("py", [sys.executable, str(HERE / "loads.py"), str(certificate),
                                    str(key)], python))
    for path in (library, Path(found[0].command[0])):
        if not path.exists():
            raise GuardError(f"{path} is missing: run \"make check-guard\"")
    return found


class Report:
    """Lines of TAP."""

    def __init__(self) -> None:
        self.number = 0
        self.failed = 0

    def result(self, good: bool, text: str) -> None:
        self.number += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.number} - {text}", flush=True)


def compare(report: Report, name: str, load: Load, figures: dict, margins: dict) -> None:
    values = {"instructions": load.instructions, "calls": load.total_calls,
              "allocations": load.allocations}
    for kind, value in values.items():
        figure = figures[kind]
        share, more = margins[kind]
        bound = figure * (1 + share) + more
        text = f"{name}: {value:.2f} {kind} per operation, figure {figure:.2f}"
        report.result(value <= bound, text + ("" if value <= bound else f", at most {bound:.2f}"))
        if value > bound and kind == "calls":
            print("#   " + ", ".join(f"{call} {number:.2f}" for call, number
                                     in sorted(load.calls.items())))
        if value < figure * (1 - BETTER) - more:
            print(f"# {name}: {kind} went down: --update")
    by_strace, by_loop = load.enters
    report.result(by_strace == by_loop,
                  f"{name}: {by_strace} enters by strace, {by_loop} by the loop's own counter")


def choose(known: dict, made_with: str) -> tuple[dict, dict]:
    """The figures of this compiler and Python, else any, with wide margins for what differs."""
    if made_with in known:
        return known[made_with], MARGINS
    other = next(iter(known), None)
    if other is None:
        raise GuardError("there are no figures: --update")
    print(f"# no figures for {made_with}: wide margins around those for {other}")
    return known[other], STRANGE_MARGINS


def judge(report: Report, program: Program, loads: dict[str, Load], known: dict) -> None:
    figures, margins = choose(known.get(program.name, {}), signature(program.name == "py"))
    for name in sorted(figures.keys() | loads.keys()):
        if name not in figures or name not in loads:
            report.result(False, f"{name}: no figure, or no load of that name: --update")
        else:
            compare(report, name, loads[name], figures[name], margins)


def update(program: Program, loads: dict[str, Load], known: dict) -> None:
    known.setdefault(program.name, {})[signature(program.name == "py")] = {
        name: {"instructions": round(load.instructions, 2), "calls": round(load.total_calls, 3),
               "allocations": round(load.allocations, 3)} for name, load in loads.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write figures.json anew")
    options = parser.parse_args()
    for tool in ("valgrind", "strace", "openssl"):
        if shutil.which(tool) is None:
            print(f"Bail out! {tool} is missing")
            return 1
    known = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    report = Report()
    try:
        with tempfile.TemporaryDirectory() as name:
            found = programs(Path(name))
            with ThreadPoolExecutor() as pool:
                measured = list(pool.map(measure, found))
        for program, loads in zip(found, measured):
            if options.update:
                update(program, loads, known)
            judge(report, program, loads, known)
    except GuardError as error:
        report.result(False, str(error))
    print(f"1..{report.number}")
    if options.update and report.failed == 0:
        FIGURES.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
