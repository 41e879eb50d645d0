#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Real programs with their real peers, on kLoop and on asyncio. Prints TAP.

    run.py [--loop asyncio|kloop|uvloop]... [PROGRAM[:CASE]...]
    run.py --rates [--rounds N] [PROGRAM[:RATE]...]

PROGRAM is one of the modules with_PROGRAM.py beside this file; each holds cases
(functions case_...), which use a program of the distribution as its users do.
A case returns what it counted: requests, bytes, checksums, codes, exceptions.
That must be the same on kLoop as on asyncio, and neither may leave a descriptor
or a complaint behind: what the loop's exception handler got, what was raised
where nobody looks, resources that were not closed.

Each program runs once on each loop, in a process of its own which is bounded
in time; what a case needs beside it (a database, say) is started here, once for
all loops. The processor time of a case is told and judges nothing; --rates
measures that with care, in turns.
"""
import argparse
import asyncio
import contextlib
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from world import PYTHON, LOOPS, World, held_descriptors, make_certificates, new_loop

HERE = Path(__file__).resolve().parent
SECONDS = 240       # for a program on one loop
CASE_SECONDS = 50


def program_names():
    return sorted(path.stem.removeprefix("with_") for path in HERE.glob("with_*.py"))


def find_cases(module, wanted):
    cases = [name.removeprefix("case_") for name in vars(module) if name.startswith("case_")]
    return [name for name in cases if not wanted or name in wanted]


def descriptors():
    """{number: what it is}, of this process; not those that stay for its ports."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {number: what for number, what in found.items() if number not in held_descriptors()}


class Complaints:
    """What goes wrong where no caller sees it."""

    def __init__(self):
        self.found = []

    def __enter__(self):
        self._catching = warnings.catch_warnings()
        self._catching.__enter__()
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ResourceWarning)
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = lambda message, category, *_: self.found.append(
            f"{category.__name__}: {message}")
        self._hook = sys.unraisablehook
        sys.unraisablehook = lambda args: self.found.append(
            f"unraisable: {args.exc_value!r} in {args.object!r}")
        return self

    def __exit__(self, *error):
        sys.unraisablehook = self._hook
        self._catching.__exit__(*error)

    def handle(self, loop, context):
        """The loop's exception handler."""
        error = context.get("exception")
        where = "".join(traceback.format_exception(error)) if error else ""
        self.found.append(f"{context['message']}: {error!r}\n{where}")


async def bounded(function, world):
    async with asyncio.timeout(CASE_SECONDS):
        return await function(world)


def run_case(function, world):
    """Returns what the case counted; raises what went wrong."""
    gc.collect()
    before = descriptors()
    with Complaints() as complaints:
        with asyncio.Runner(loop_factory=lambda: new_loop(world.loop)) as runner:
            runner.get_loop().set_exception_handler(complaints.handle)
            started = time.process_time()
            counted = runner.run(bounded(function, world))
            seconds = time.process_time() - started
            # What is neither referenced nor closed complains while its loop is there.
            gc.collect()
        gc.collect()
    permitted = getattr(function, "permits", None)
    found = [one for one in complaints.found if permitted is None or permitted not in one]
    if found:
        raise AssertionError("nothing complains:\n" + "\n".join(found))
    left = {number: what for number, what in descriptors().items() if before.get(number) != what}
    if left:
        raise AssertionError(f"no descriptor is left: {left}")
    return counted, seconds


def run_here(loop, program, cases, peers):
    """The child: one program on one loop; one line of JSON for each case."""
    faulthandler.dump_traceback_later(SECONDS - 10, exit=True)
    module = importlib.import_module("with_" + program)
    with tempfile.TemporaryDirectory(prefix="kloop-programs-") as folder:
        world = World(loop, Path(folder), peers)
        # What a loop opens once and for all is no leak of the first case.
        with asyncio.Runner(loop_factory=lambda: new_loop(loop)) as runner:
            runner.run(asyncio.sleep(0.001))
        for case in cases:
            print("START " + case, flush=True)
            try:
                counted, seconds = run_case(getattr(module, "case_" + case), world)
            except Exception:
                result = [case, "failed", traceback.format_exc(), 0]
            else:
                result = [case, "ok", counted, seconds]
            print("RESULT " + json.dumps(result), flush=True)


def run_program(loop, program, cases, peers):
    """{case: (outcome, what it counted or the error, processor time)}"""
    command = [PYTHON, __file__, "--child", json.dumps([loop, program, cases, peers])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             errors="backslashreplace", start_new_session=True)
    try:
        output, errors = child.communicate(timeout=SECONDS)
    except BaseException as error:
        # Its servers are in its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        output, errors = child.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        errors += f"\nnot done after {SECONDS} s"
    results, running = {}, None
    for line in output.splitlines():
        if line.startswith("START "):
            running = line[6:]
        elif line.startswith("RESULT "):
            case, *result = json.loads(line[7:])
            results[case] = result
            running = None
    if child.returncode != 0 and running is None:
        running = "exit"
    for case in [running] if running else []:
        results[case] = ["failed", f"status {child.returncode}\n{errors[-6000:]}", 0]
    for case in cases:
        results.setdefault(case, ["failed", "it did not run\n" + errors[-3000:], 0])
    if any(word in errors for word in ("Exception ignored", "Fatal Python error")):
        results["quiet"] = ["failed", "it writes to standard error:\n" + errors[-6000:], 0]
    return results


class Report:
    """TAP, and the comments in it."""

    def __init__(self):
        self.count = self.failures = 0

    def tell(self, ok, text, error=""):
        self.count += 1
        print(f"{'ok' if ok else 'not ok'} {self.count} - {text}", flush=True)
        if not ok:
            self.failures += 1
            for line in error.splitlines()[-60:]:
                print(f"#   {line}", flush=True)

    def program(self, program, results):
        """results: {loop: {case: result}}, asyncio's first where it ran."""
        for case in dict.fromkeys(case for found in results.values() for case in found):
            times = []
            reference = None
            for loop, found in results.items():
                if case not in found:
                    continue
                outcome, counted, seconds = found[case]
                ok, error = outcome == "ok", counted
                if ok and reference is not None and counted != reference:
                    ok, error = False, f"counted {counted}\nasyncio {reference}"
                if ok and loop == "asyncio":
                    reference = counted
                text = f"{program}: {case.replace('_', ' ')}, on {loop}"
                if loop == "uvloop":
                    # Beside the others for comparison only.
                    print(f"# {'as asyncio' if ok else 'DIFFERS'}: {text}", flush=True)
                    for line in [] if ok else str(error).splitlines()[-12:]:
                        print(f"#   {line}", flush=True)
                else:
                    self.tell(ok, text, str(error))
                if ok:
                    times.append(f"{loop} {1000 * seconds:.0f} ms")
            if len(times) > 1:
                print(f"#   {json.dumps(reference)}; processor time: {', '.join(times)}",
                      flush=True)


def run_all(names, loops, folder):
    report = Report()
    certificates = make_certificates(folder / "certificates")
    for program, wanted in names.items():
        started = time.monotonic()
        try:
            module = importlib.import_module("with_" + program)
            with module.peers(folder, certificates) if hasattr(module, "peers") else \
                    contextlib.nullcontext({}) as peers:
                peers["certificates"] = certificates
                cases = find_cases(module, wanted)
                results = {loop: run_program(loop, program, cases, peers) for loop in loops}
        except Exception:
            report.tell(False, f"{program}: it can start", traceback.format_exc())
            continue
        report.program(program, results)
        print(f"# {program}: {time.monotonic() - started:.1f} s", flush=True)
    print(f"1..{report.count}")
    return 1 if report.failures or not report.count else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=LOOPS, action="append", dest="loops")
    parser.add_argument("--rates", action="store_true", help="measure instead of test")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="PROGRAM[:CASE]")
    options = parser.parse_args()
    if options.child:
        run_here(*json.loads(options.child))
        return 0
    names = {}
    for name in options.names or program_names():
        program, _, case = name.partition(":")
        if program not in program_names():
            parser.error(f"no program {program}; there are {' '.join(program_names())}")
        names.setdefault(program, []).extend([case] if case else [])
    # Servers that run as another user must reach their files.
    with tempfile.TemporaryDirectory(prefix="kloop-programs-") as folder:
        os.chmod(folder, 0o755)
        if options.rates:
            from rates import measure_all
            return measure_all(names, options.loops, options.rounds, Path(folder))
        return run_all(names, options.loops or ["asyncio", "kloop"], Path(folder))


if __name__ == "__main__":
    sys.exit(main())
