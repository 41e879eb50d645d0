#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Names looked up a second: kLoop in C and Python, asyncio and uvloop, side by side.

dns_server answers in a network namespace of its own, whose /etc/resolv.conf
names it, so that all ask the same server and nobody outside. Each cell is
measured in rounds, in which every variant has its turn in a fresh process;
numbers are medians. Processor time is that of the process that looks up, all its
threads included. Costs and rates of different cells, or of different runs, say
little about each other.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import machine
import programs
from report import NOTHING, Table

SECONDS = 300  # no process takes longer
SILENT_PORT = 5399
FILES = {"nsswitch.conf": "hosts: files dns\n", "hosts": "127.0.0.1 localhost\n"}
VARIANTS = {"c": "kLoop in C", "kloop": "kLoop", "asyncio": "asyncio", "uvloop": "uvloop"}
LINE = re.compile(r"lookups (?P<lookups>\d+) failed (?P<failed>\d+) rate (?P<rate>\d+)/s "
                  r"cpu (?P<cpu_us>[\d.]+) us .*?p50 (?P<p50_ms>[\d.]+) ms p99 (?P<p99_ms>[\d.]+) ms "
                  r"max [\d.]+ ms rss (?P<rss_kib>\d+) KiB")


HEADS = ["cell", "lookups/s", "µs CPU", "spread", "p50 ms", "p99 ms", "failed", "names",
         "rate / asyncio", "rate / C"]


class BenchmarkError(Exception):
    """Something could not be measured; the text says what."""


@dataclass
class Cell:
    """A server, and how the names are chosen."""

    name: str
    server: list[str] = field(default_factory=list)  # options of dns_server
    silent_first: bool = False
    hot: bool = False
    # Threads wait where the ring does not: they are given fewer names, or it takes hours.
    shares: dict[str, float] = field(default_factory=dict)


CELLS = [
    Cell("0 ms"),
    Cell("20 ms", ["--delay-us", "20000"], shares={"asyncio": 0.2, "uvloop": 0.05}),
    Cell("20 ms, 1 % lost", ["--delay-us", "20000", "--loss-permille", "10"],
         shares={"asyncio": 0.1, "uvloop": 0.03}),
    Cell("0 ms, first server silent", silent_first=True,
         shares={"asyncio": 0.003, "uvloop": 0.001}),
    Cell("one hot name", hot=True),
]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, metavar="DIR",
                        help="a build tree, after make")
    parser.add_argument("--python", default=sys.executable, metavar="PROG",
                        help="the Python that looks up (default: the one that runs this)")
    parser.add_argument("--variants", default=",".join(VARIANTS), metavar="LIST",
                        help="default: %(default)s")
    parser.add_argument("--count", type=int, default=10000, metavar="N",
                        help="of names in a round; default: %(default)s")
    parser.add_argument("--concurrency", type=int, default=100, metavar="N",
                        help="of lookups at a time; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="TEXT", help="cells with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.build = options.build.resolve()
    options.variants = options.variants.split(",")
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"unknown variant: {', '.join(sorted(unknown))}")
    if min(options.count, options.concurrency, options.rounds) < 1:
        parser.error("--count, --concurrency and --rounds must be at least 1")
    for name in ("dns_server", "dns_lookup"):
        if not (options.build / "benchmarks" / name).exists():
            parser.error(f"{options.build / 'benchmarks' / name} is missing: run make")
    return options


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def prepare(folder: Path) -> None:
    """Loopback, and files in place of the system's."""
    run("ip", "link", "set", "lo", "up")
    # glibc looks for an address of each family before it orders what it found.
    run("ip", "address", "add", "10.99.0.1/8", "dev", "lo")
    run("ip", "address", "add", "2001:db8:99::1/32", "dev", "lo", "nodad")
    for name, text in {**FILES, "resolv.conf": ""}.items():
        (folder / name).write_text(text)
        run("mount", "--bind", str(folder / name), str((Path("/etc") / name).resolve()))


@contextmanager
def serving(options: argparse.Namespace, cell: Cell, folder: Path):
    """The server, on the port that resolv.conf has no word for, and the one that says nothing."""
    servers = ["127.0.0.2", "127.0.0.1"] if cell.silent_first else ["127.0.0.1"]
    (folder / "resolv.conf").write_text(
        "".join(f"nameserver {server}\n" for server in servers)
        + "options timeout:1 attempts:3\n")
    with ExitStack() as stack:
        for address in (("127.0.0.2", 53), ("127.0.0.1", SILENT_PORT)):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(address)
        server = subprocess.Popen(
            [str(options.build / "benchmarks/dns_server"), "--port", "53", *cell.server],
            stdout=subprocess.PIPE, text=True)
        try:
            if server.stdout.readline() != "port 53\n":
                raise BenchmarkError("dns_server does not start")
            yield
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


def look_up(options: argparse.Namespace, cell: Cell, variant: str, environment: dict) -> dict:
    """One process: what it printed."""
    count = max(int(options.count * cell.shares.get(variant, 1)), 10)
    concurrency = min(options.concurrency, count)
    if variant == "c":
        command = [str(options.build / "benchmarks/dns_lookup")]
        for port in ([SILENT_PORT] if cell.silent_first else []) + [53]:
            command += ["--server", str(port)]
        command += ["--count", str(count), "--concurrency", str(concurrency)]
        command += ["--hot"] if cell.hot else []
    else:
        command = [options.python, str(programs.HERE / "dns_client.py"), variant, str(count),
                   str(concurrency), *(["hot"] if cell.hot else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment,
                          timeout=SECONDS, check=False)
    if variant == "c" and (match := LINE.match(done.stdout)):
        return {name: float(text) for name, text in match.groupdict().items()}
    if done.returncode != 0 or variant == "c":
        raise BenchmarkError(f"{variant}, {cell.name}: {(done.stderr or done.stdout).strip()}")
    return json.loads(done.stdout)


def measure(options: argparse.Namespace, cell: Cell, environment: dict) -> dict[str, list[dict]]:
    samples: dict[str, list[dict]] = {variant: [] for variant in options.variants}
    for _ in range(options.rounds):
        for variant in options.variants:
            samples[variant].append(look_up(options, cell, variant, environment))
    return samples


def median(samples: list[dict], name: str) -> float:
    return statistics.median(sample[name] for sample in samples)


def rows_of(cell: Cell, samples: dict[str, list[dict]]) -> list[list[str]]:
    rows = []
    for variant, taken in samples.items():
        if not taken:
            continue
        costs = sorted(sample["cpu_us"] for sample in taken)
        spread = (costs[-1] - costs[0]) / statistics.median(costs)

        def against(other: str, taken: list[dict] = taken, variant: str = variant) -> str:
            if other == variant or not samples.get(other):
                return NOTHING
            return f"{median(taken, 'rate') / median(samples[other], 'rate'):.2f}"
        rows.append([
            f"{cell.name}: {VARIANTS[variant]}", f"{median(taken, 'rate'):.0f}",
            f"{median(taken, 'cpu_us'):.1f}", f"{spread:.0%}", f"{median(taken, 'p50_ms'):.2f}",
            f"{median(taken, 'p99_ms'):.2f}", f"{sum(sample['failed'] for sample in taken):.0f}",
            f"{taken[0]['lookups']:.0f}", against("asyncio"), against("c")])
    return rows


def inside(options: argparse.Namespace) -> int:
    environment = programs.python_environment(options.build, [])
    table = Table(HEADS, [])
    header = machine.describe(options.python, environment)
    samples = {}
    for loop in ("asyncio", "uvloop", "kloop"):
        found, why = machine.loop_version(loop, options.python, environment)
        if loop in options.variants and not found:
            print(f"{loop} is left out: {why}", file=sys.stderr)
            options.variants.remove(loop)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for cell in CELLS:
            if options.only not in cell.name:
                continue
            print(f"{cell.name} ...", file=sys.stderr, flush=True)
            with serving(options, cell, folder):
                samples[cell.name] = measure(options, cell, environment)
            table.rows += rows_of(cell, samples[cell.name])
        for path in FILES | {"resolv.conf": ""}:
            run("umount", str((Path("/etc") / path).resolve()))
    for key in ("date", "processor", "kernel", "load average", "Python", "uvloop"):
        print(f"{key}: {header[key]}")
    print(f"\n{table.markdown()}")
    if options.json:
        options.json.write_text(json.dumps({"header": header, "samples": samples}, indent=1))
    return 0


def main() -> int:
    options = parse()
    if options.inside:
        try:
            return inside(options)
        except BenchmarkError as error:
            print(error, file=sys.stderr)
            return 1
    for tool in ("unshare", "ip", "mount"):
        if shutil.which(tool) is None:
            print(f"{tool} is missing", file=sys.stderr)
            return 1
    # In a chroot there are no user namespaces; who may do without does.
    plain = subprocess.run(["unshare", "-nm", "true"], capture_output=True, check=False)
    return subprocess.run(["unshare", "-Urnm" if plain.returncode != 0 else "-nm",
                           sys.executable, __file__, "--inside", *sys.argv[1:]],
                          check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
