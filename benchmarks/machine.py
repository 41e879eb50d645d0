# SPDX-License-Identifier: MulanPSL-2.0
"""What a reader must know to judge the numbers: machine, kernel, versions."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return "unknown"


def _field(path: str, name: str) -> str:
    """The value of "name : value" in a file of /proc."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _output(command: list[str], environment: dict[str, str] | None = None) -> tuple[bool, str]:
    """Did it succeed, and the last line that it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment,
                              timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


_TRY_LOOP = {
    "asyncio": "import sys; print(sys.version.split()[0])",
    "uvloop": "import uvloop; uvloop.new_event_loop().close(); print(uvloop.__version__)",
    "kloop": "import kloop; kloop.new_event_loop().close(); "
             "print(getattr(kloop, '__version__', 'unknown'))",
}


def loop_version(loop: str, python: str, environment: dict[str, str]) -> tuple[bool, str]:
    """Can this Python make such a loop? With the version, or the reason why not."""
    return _output([python, "-c", _TRY_LOOP[loop]], environment)


def python_version(python: str, environment: dict[str, str]) -> tuple[int, int]:
    """Major and minor version; (0, 0) if it does not say."""
    found, text = _output([python, "-c", "import sys; print(*sys.version_info[:2])"], environment)
    major, minor = text.split() if found else ("0", "0")
    return int(major), int(minor)


def describe(python: str, environment: dict[str, str]) -> dict[str, str]:
    """The header of a report."""
    memory = _field("/proc/meminfo", "MemTotal")
    header = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "processor": f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} logical",
        "memory": memory,
        "system": f"{platform.freedesktop_os_release().get('PRETTY_NAME', 'Linux')}",
        "kernel": platform.release(),
        "load average": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "system's congestion control":
            _first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "Python": _output([python, "-c", "import sys; print(sys.version)"], environment)[1],
        "liburing": _output(["pkg-config", "--modversion", "liburing"])[1],
        "OpenSSL": _output([python, "-c", "import ssl; print(ssl.OPENSSL_VERSION)"],
                           environment)[1],
    }
    for loop in ("uvloop", "kloop"):
        found, version = loop_version(loop, python, environment)
        header[loop] = version if found else f"not available: {version}"
    return header
