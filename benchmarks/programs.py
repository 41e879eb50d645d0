# SPDX-License-Identifier: MulanPSL-2.0
"""Where the C programs and the Python packages come from.

The C programs are taken from a build tree of automake, or compiled here with
cc and pkg-config. kLoop for Python is found through PYTHONPATH, in a build
tree, or where it is installed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent

#: Program: its sources, and the pkg-config packages that it needs.
SOURCES: dict[str, tuple[list[str], list[str]]] = {
    "load": (["load.c", "client.c", "process.c", "common.c"], []),
    "load_tls": (["load_tls.c", "client.c", "process.c", "common.c"], ["openssl"]),
    "echo_epoll": (["echo_epoll.c", "common.c"], []),
    "echo_uring": (["echo_uring.c", "common.c"], ["liburing"]),
    "echo_kloop": (["echo_kloop.c", "common.c"], ["kloop"]),
    "echo_openssl": (["echo_openssl.c", "common.c"], ["openssl"]),
    "openssl_alone": (["openssl_alone.c", "client.c", "process.c", "common.c"], ["openssl"]),
}
#: Without these nothing can be measured, or nothing compared.
REQUIRED = ("load", "echo_epoll")


class ProgramError(Exception):
    """A program is missing or cannot be built."""


@dataclass
class Programs:
    """Paths of the C programs, and remarks on those that are left out."""

    paths: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_build_tree(directory: Path) -> bool:
    return (directory / "config.status").exists()


def _pkg_config(packages: list[str], *options: str) -> list[str]:
    if not packages:
        return []
    done = subprocess.run(["pkg-config", *options, *packages], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise ProgramError(done.stderr.strip().splitlines()[0] if done.stderr else
                           f"pkg-config: no {' '.join(packages)}")
    return shlex.split(done.stdout)


def _compile(name: str, directory: Path) -> Path:
    sources, packages = SOURCES[name]
    libraries = _pkg_config(packages, "--libs")
    # A library in a prefix of its own is found at run time as well.
    libraries += [f"-Wl,-rpath,{flag[2:]}" for flag in libraries if flag.startswith("-L")]
    program = directory / name
    command = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-g", "-D_GNU_SOURCE",
               *shlex.split(os.environ.get("CFLAGS", "")), *_pkg_config(packages, "--cflags"),
               *(str(HERE / source) for source in sources), "-o", str(program), *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProgramError(f"{shlex.join(command)}:\n{done.stderr.strip()}")
    return program


def find(tree: Path) -> Programs:
    """The programs of a build tree, which make has built."""
    programs = Programs()
    for name in SOURCES:
        path = tree / "benchmarks" / name
        if path.exists():
            programs.paths[name] = path
        elif name in REQUIRED:
            raise ProgramError(f"{path} is missing: run make in {tree}")
        else:
            programs.notes.append(f"{name} is left out: {path} is missing")
    return programs


def build(directory: Path) -> Programs:
    """Compile the programs into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    programs = Programs()
    for name in SOURCES:
        try:
            programs.paths[name] = _compile(name, directory)
        except ProgramError as error:
            if name in REQUIRED:
                raise
            programs.notes.append(f"{name} is left out: {error}")
    return programs


def find_or_build(directory: Path) -> Programs:
    return find(directory) if is_build_tree(directory) else build(directory)


def _package_roots(directory: Path) -> list[Path]:
    """What PYTHONPATH needs for the extension somewhere below a build tree's python/."""
    roots: list[Path] = []
    for extension in sorted((directory / "python").rglob("_kloop*.so")):
        package = extension.parent
        if (package / "__init__.py").exists():
            roots.append(package.parent)
        else:
            roots += [package, TOP / "python" / "src"]
    return list(dict.fromkeys(roots))


def python_environment(directory: Path | None, pythonpath: list[Path]) -> dict[str, str]:
    """The environment for Python servers: where kloop and its library are found."""
    environment = dict(os.environ)
    roots = list(pythonpath)
    if directory is not None and is_build_tree(directory):
        roots += _package_roots(directory)
        libraries = [str(directory / "lib" / ".libs"), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    paths = [str(root.resolve()) for root in roots] + [environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment
