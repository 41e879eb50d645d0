# SPDX-License-Identifier: MulanPSL-2.0
"""Runs servers and loads, the variants in turns, and collects the samples.

In each round every variant is loaded once, one after the other: A B C A B C.
Whatever changes on the machine in the meantime meets all of them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import micro
from cells import Cell, Variant
from files import Files
from programs import HERE, Programs

START_SECONDS = 30
STOP_SECONDS = 5
#: A safety net: no server outlives a driver that was killed for longer.
LIFETIME_SECONDS = 1800
#: A server that lives through all rounds is loaded so many times in each, for a part of the time:
#: how often a peer sleeps is luck of a load, and moves its cost by a fifth.
PARTS = 4
#: At most, for a point of a curve.
CURVE_ROUNDS = 3
#: Of load, for who looks at a server.
WATCHED_SECONDS = 1.0

#: What looks at processes while they are under load.
Watch = Callable[[list[int]], AbstractContextManager[None]]


class MeasureError(Exception):
    """One variant could not be measured; the others can."""


@dataclass(frozen=True)
class Settings:
    python: str
    environment: dict[str, str]
    programs: Programs
    rounds: int
    seconds: float
    server_cpu: int
    client_cpu: int
    #: For the kernel's thread of SQPOLL, which wants a processor of its own.
    sqpoll_cpu: int
    congestion: str
    #: Of the operations of a row of the micro table.
    micro_scale: float
    #: Of the servers' Python.
    python_version: tuple[int, int]
    #: A folder with what TLS and file servers need, see files.py; None where no cell needs them.
    files: Files | None


@dataclass
class Series:
    """The samples of one variant in one cell: cost, and operations per second."""

    costs: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    error: str | None = None
    #: Version and cipher of TLS.
    cipher: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.costs) if self.costs and self.error is None else None

    @property
    def spread(self) -> float | None:
        """The middle half of the samples, relative to the median."""
        if self.median is None or len(self.costs) < 3 or self.median == 0:
            return None
        low, _, high = statistics.quantiles(self.costs, n=4, method="inclusive")
        return (high - low) / self.median


@dataclass
class Result:
    """One row of a table."""

    name: str
    title: str
    unit: str
    series: dict[str, Series]
    #: Of the servers' Python: goals depend on it.
    python_version: tuple[int, int] = (0, 0)

    @property
    def tls(self) -> bool:
        return self.name.startswith("tls-")

    def ratio(self, of: str, against: str) -> float | None:
        mine = self.series[of].median if of in self.series else None
        other = self.series[against].median if against in self.series else None
        return mine / other if mine is not None and other else None


class _Child:
    """A process on the server's processor; its last words go into errors."""

    def __init__(self, what: str, command: list[str], settings: Settings,
                 cpu: int | None = None) -> None:
        self.what = what
        used = settings.server_cpu if cpu is None else cpu
        self.words = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True,
            env=settings.environment,
            preexec_fn=lambda: os.sched_setaffinity(0, {used}))

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.words):
            if stream is not None:
                stream.close()

    def error(self, reason: str) -> MeasureError:
        """Why it went wrong, with how the process ended and what it wrote to stderr."""
        self.words.seek(0)
        status = self.process.poll()
        ended = [f"it ended with status {status}"] if status is not None else []
        return MeasureError("; ".join([f"{self.what}: {reason}", *ended,
                                       *self.words.read().strip().splitlines()[-3:]]))

    def write_line(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.error("ended") from None

    def read_line(self, seconds: float) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        if not ready:
            raise self.error(f"said nothing within {seconds:g} s")
        if not line:
            self.process.wait()
            raise self.error("ended")
        return line


@dataclass(frozen=True)
class Server:
    children: list[_Child]
    port: int
    congestion: str

    @property
    def child(self) -> _Child:
        return self.children[0]


def _server_command(variant: Variant, cell: Cell, settings: Settings) -> list[str]:
    if variant.loop is not None:
        command = [settings.python, str(HERE / "echo_server.py"), "--loop", variant.loop,
                   "--api", cell.api]
    else:
        assert variant.program is not None
        command = [str(settings.programs.paths[variant.program])]
    command += ["--congestion", settings.congestion, "--lifetime", str(LIFETIME_SECONDS)]
    if cell.tls:
        assert settings.files is not None
        command += ["--certificate", str(settings.files.certificate),
                    "--key", str(settings.files.key)]
    if cell.mode == "download":
        assert settings.files is not None
        command += ["--file", str(settings.files.file)]
    if cell.processes > 1:
        command.append("--reuse-port")
    if variant.sqpoll:
        command += ["--sqpoll", "--sqpoll-cpu", str(settings.sqpoll_cpu)]
    return command


def _cpus(settings: Settings) -> list[int]:
    """Processors for the processes of a server: all but the client's."""
    others = os.sched_getaffinity(0) - {settings.server_cpu, settings.client_cpu}
    return [settings.server_cpu, *sorted(others)]


@contextmanager
def _server(variant: Variant, cell: Cell, settings: Settings) -> Iterator[Server]:
    command = _server_command(variant, cell, settings)
    cpus = _cpus(settings)
    with ExitStack() as stack:
        server: Server | None = None
        for number in range(cell.processes):
            port = ["--port", str(server.port)] if server is not None else []
            child = stack.enter_context(_Child(f"server of {variant.title}", command + port,
                                               settings, cpus[number % len(cpus)]))
            words = child.read_line(START_SECONDS).split()
            if len(words) != 3 or words[0] != "ready":
                raise child.error(f"said {words}")
            if server is None:
                server = Server([], int(words[1]), words[2])
            server.children.append(child)
        assert server is not None
        yield server


def _warm_up(cell: Cell) -> int:
    """Messages per connection before anything is measured."""
    if cell.mode == "download":
        return max(1, min(5, 4 * 1024 * 1024 // cell.message_bytes))
    return max(2, min(20, 2000 // cell.connections))


def _load(server: Server, cell: Cell, settings: Settings, seconds: float) -> dict[str, Any]:
    """One run of the load program; its line of JSON."""
    timeout = int(seconds) + 60
    program = "load_tls" if cell.tls else "load"
    command = [str(settings.programs.paths[program]), "--mode", cell.mode,
               "--port", str(server.port),
               *(word for child in server.children
                 for word in ("--pid", str(child.process.pid))),
               "--connections", str(cell.connections), "--bytes", str(cell.message_bytes),
               "--seconds", str(seconds), "--cpu", str(settings.client_cpu),
               "--warm-up", str(_warm_up(cell)),
               "--congestion", settings.congestion, "--timeout", str(timeout)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout + 10,
                          check=False)
    if done.returncode != 0:
        reason = done.stderr.strip() or f"status {done.returncode}"
        raise server.child.error(reason)
    result: dict[str, Any] = json.loads(done.stdout)
    if result.get("congestion", server.congestion) != server.congestion:
        raise server.child.error(f"it uses {server.congestion}, the client "
                                 f"{result['congestion']}")
    return result


def _load_alone(variant: Variant, cell: Cell, settings: Settings,
                seconds: float) -> dict[str, Any]:
    """One run of a program that is server and client, on the server's processor."""
    assert variant.program is not None and settings.files is not None
    command = [str(settings.programs.paths[variant.program]),
               str(settings.files.certificate), str(settings.files.key), "--mode", cell.mode,
               "--port", "1", "--bytes", str(cell.message_bytes), "--seconds", str(seconds),
               "--cpu", str(settings.server_cpu)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60,
                          check=False)
    if done.returncode != 0:
        raise MeasureError(f"{variant.title}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _add_sample(series: Series, cell: Cell, result: dict[str, Any]) -> None:
    if cell.mode == "idle":
        grown = result["rss_after_bytes"] - result["rss_before_bytes"]
        series.costs.append(grown / result["connections"] / 1024)
        return
    count = result["messages" if cell.mode in ("echo", "download") else "connections"]
    series.costs.append(result["cpu_ns"] / count / 1000)
    series.rates.append(count / (result["wall_ns"] / 1e9))
    if "cipher" in result:
        series.cipher = f"{result['version']}, {result['cipher']}"


class _Servers:
    """The servers of one cell.

    They live through all rounds, except where one at a time must be fresh
    (memory), would disturb the others while it idles (SQPOLL spins), or where
    the way its heap happens to lie decides more than what is measured (TLS).
    """

    def __init__(self, cell: Cell, settings: Settings, stack: ExitStack) -> None:
        self.cell = cell
        self.settings = settings
        self.stack = stack
        self.running: dict[str, Server] = {}

    @contextmanager
    def get(self, variant: Variant) -> Iterator[Server]:
        if variant.sqpoll or self.cell.mode == "idle" or self.cell.tls:
            with _server(variant, self.cell, self.settings) as server:
                if self.cell.tls:
                    _load(server, self.cell, self.settings, self.settings.seconds / 4)
                yield server
            return
        if variant.name not in self.running:
            self.running[variant.name] = self.stack.enter_context(
                _server(variant, self.cell, self.settings))
        yield self.running[variant.name]


def rounds_of(in_table: bool, settings: Settings) -> int:
    """Points of a curve support each other: they need fewer rounds."""
    return settings.rounds if in_table else min(settings.rounds, CURVE_ROUNDS)


def measure_cell(cell: Cell, variants: list[Variant], settings: Settings) -> Result:
    fresh = cell.mode == "idle" or cell.tls
    parts = PARTS if cell.in_table and not fresh else 1
    rounds = rounds_of(cell.in_table, settings) * parts
    result = Result(cell.name, cell.title, cell.unit,
                    {variant.name: Series() for variant in variants}, settings.python_version)
    with ExitStack() as stack:
        servers = _Servers(cell, settings, stack)
        # Round 0 warms everything up and does not count.
        for number in range(1 if fresh else 0, rounds + 1):
            seconds = settings.seconds / (parts if number > 0 else 4)
            for variant in variants:
                series = result.series[variant.name]
                if series.error is not None:
                    continue
                try:
                    if variant.alone:
                        sample = _load_alone(variant, cell, settings, seconds)
                    else:
                        with servers.get(variant) as server:
                            sample = _load(server, cell, settings, seconds)
                    if number > 0:
                        _add_sample(series, cell, sample)
                except (MeasureError, subprocess.TimeoutExpired) as error:
                    series.error = str(error)
    return result


def watch_cell(cell: Cell, variant: Variant, settings: Settings, watch: Watch) -> None:
    """One load more, which does not count, for who looks at the server meanwhile."""
    with _server(variant, cell, settings) as server:
        _load(server, cell, settings, settings.seconds / 4)
        with watch([child.process.pid for child in server.children]):
            _load(server, cell, settings, max(WATCHED_SECONDS, settings.seconds))


def _order(child: _Child, row: micro.Row, count: int) -> float:
    """Have a row run; microseconds per operation."""
    child.write_line(f"{row.name} {count}")
    return int(child.read_line(120)) / count / 1000


def _start_micro(variant: Variant, settings: Settings, stack: ExitStack) -> _Child:
    assert variant.loop is not None
    command = [settings.python, str(HERE / "micro.py"), "--serve", "--loop", variant.loop]
    child = stack.enter_context(_Child(variant.title, command, settings))
    child.read_line(START_SECONDS)
    return child


def _whole(count: int, row: micro.Row) -> int:
    """So many operations, or a few less, as the row can make; it has to make some."""
    return max(row.step, count // row.step * row.step)


def measure_memory(row: micro.Row, variants: list[Variant], settings: Settings) -> Result:
    """What a row leaves in memory: each sample in a fresh process."""
    result = Result(row.name, row.title, "bytes/timer",
                    {variant.name: Series() for variant in variants}, settings.python_version)
    for _ in range(rounds_of(row.in_table, settings)):
        for variant in variants:
            series = result.series[variant.name]
            if series.error is not None:
                continue
            try:
                with ExitStack() as stack:
                    child = _start_micro(variant, settings, stack)
                    series.costs.append(_order(child, row, row.step) * 1000)
            except MeasureError as error:
                series.error = str(error)
    return result


def watch_row(row: micro.Row, variant: Variant, settings: Settings, watch: Watch) -> None:
    """As watch_cell()."""
    with ExitStack() as stack:
        child = _start_micro(variant, settings, stack)
        _order(child, row, _whole(row.count // 10, row))
        with watch([child.process.pid]):
            _order(child, row, _whole(row.count, row))


def measure_row(row: micro.Row, variants: list[Variant], settings: Settings) -> Result:
    """One row of the micro table, each loop in a process of its own."""
    if row.memory:
        return measure_memory(row, variants, settings)
    result = Result(row.name, row.title, "µs/operation",
                    {variant.name: Series() for variant in variants}, settings.python_version)
    count = _whole(max(1000, int(row.count * settings.micro_scale)), row)
    children: dict[str, _Child] = {}
    # What takes seconds needs no warming up.
    first = 1 if row.step >= 100_000 else 0
    with ExitStack() as stack:
        for number in range(first, rounds_of(row.in_table, settings) + 1):
            for variant in variants:
                series = result.series[variant.name]
                if series.error is not None:
                    continue
                try:
                    if variant.name not in children:
                        children[variant.name] = _start_micro(variant, settings, stack)
                    cost = _order(children[variant.name], row,
                                  count if number > 0 else _whole(count // 10, row))
                    if number > 0:
                        series.costs.append(cost)
                except MeasureError as error:
                    series.error = str(error)
    return result


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(what: str, run: Callable[[], Result]) -> Result:
    """Run a measurement, and say on stderr what it was and how long it took."""
    started = time.monotonic()
    result = run()
    progress(f"  {what} ({time.monotonic() - started:.0f} s)")
    for name, series in result.series.items():
        if series.error is not None:
            progress(f"    {name} FAILED: {series.error}")
    return result
