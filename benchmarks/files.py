# SPDX-License-Identifier: MulanPSL-2.0
"""What servers of TLS and of files need: a certificate, its key, and a file."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from cells import LARGEST_FILE, Cell

#: The contents repeat after this many bytes (see kl_bench_pattern() in client.h).
PERIOD = 65536


class FilesError(Exception):
    """They could not be made."""


@dataclass(frozen=True)
class Files:
    certificate: Path
    key: Path
    file: Path


def _certificate(certificate: Path, key: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
               "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FilesError(f"openssl: {error}") from error
    if done.returncode != 0:
        raise FilesError(f"openssl: {done.stderr.strip()}")


def make(directory: Path, cells: list[Cell]) -> Files:
    """Make what the cells need in a directory; the file only if one sends files."""
    made = Files(directory / "certificate.pem", directory / "key.pem", directory / "file")
    _certificate(made.certificate, made.key)
    if any(cell.mode == "download" for cell in cells):
        period = bytes((i * 31 + (i >> 8) * 17) & 255 for i in range(PERIOD))
        with open(made.file, "wb") as file:
            for _ in range(LARGEST_FILE // PERIOD):
                file.write(period)
    return made
