#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""python/ is a good source distribution.

Makes one of a copy of it, as pip would, next to what a build leaves behind, and
looks at what is inside; asks for a wheel where there is no libkloop. Prints
TAP. scripts/pip-check builds and installs it.
"""
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent)).resolve()
PYTHON = os.environ.get("PYTHON") or sys.executable
# What stands in python/ and is no part of the project that pip builds.
ELSEWHERE = {"Makefile.inc"}
MADE = ("build/lib/kloop/old.py", "dist/kloop-0.0.tar.gz", "src/kloop/_kloop.cpython-999.so",
        "src/kloop/__pycache__/loop.cpython-999.pyc", "tests/__pycache__/x.cpython-999.pyc",
        "src/ext/loop.o", "src/ext/loop.c~", ".pytest_cache/README.md")
# What setuptools writes itself.
WRITTEN = ("PKG-INFO", "setup.cfg", "src/kloop.egg-info/")

tap = Tap()


def sources():
    """The files of python/, without what a build may have left there."""
    listed = set()
    for path in (SOURCE / "python").rglob("*"):
        name = path.relative_to(SOURCE / "python")
        if path.is_file() and name.name not in ELSEWHERE and not any(
                part in ("__pycache__", "build", "dist") or part.endswith(".egg-info")
                or part.startswith(".") for part in name.parts):
            listed.add(str(name))
    return listed


def backend(folder, hook, **variables):
    """What pip does: a hook of the build backend, in a process of its own."""
    return subprocess.run(
        [PYTHON, "-c", "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(*sys.argv[2:]))",
         hook, str(folder.parent)],
        cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def last_line(result):
    return (result.stderr.strip().splitlines() or ["it says nothing"])[-1]


def check_contents(folder, none):
    result = backend(folder, "build_sdist", PKG_CONFIG_LIBDIR=none, PKG_CONFIG_PATH=none)
    tap.result("build_sdist works, without libkloop too",
               [] if result.returncode == 0 else [last_line(result)])
    if result.returncode != 0:
        return
    with tarfile.open(folder.parent / result.stdout.strip().splitlines()[-1]) as archive:
        members = archive.getmembers()
        top = members[0].name.split("/")[0]
        inside = {m.name[len(top) + 1:] for m in members if not m.isdir()}
        information = archive.extractfile(f"{top}/PKG-INFO").read().decode()
        tap.result("it has files alone, no links",
                   [m.name for m in members if not (m.isfile() or m.isdir())])
    wanted = sources()
    tap.result("it has every source", sorted(wanted - inside) if len(wanted) > 100
               else [f"only {len(wanted)} sources are known"])
    tap.result("it has nothing else", sorted(
        name for name in inside - wanted if not name.startswith(WRITTEN)))
    tap.result("it tells name, description, licence and what Python it needs",
               [field for field in ("Name: kloop", "Description-Content-Type: text/markdown",
                                    "License: MulanPSL-2.0", "License-File: LICENSE",
                                    "Requires-Python: >=3.10")
                if field not in information.replace("License-Expression:", "License:")])


def check_missing(folder, none):
    """Without the library it says what to install."""
    cases = (("without libkloop", {"PKG_CONFIG_LIBDIR": none, "PKG_CONFIG_PATH": none}),
             ("without pkg-config", {"PKG_CONFIG": f"{none}/pkg-config"}))
    for name, variables in cases:
        result = backend(folder, "build_wheel", **variables)
        text = result.stdout + result.stderr
        tap.result(f"{name} a wheel cannot be built, and the packages are named",
                   [f"{word!r} is not said" for word in (
                       "libkloop-dev", "libkloop-devel", "pkg-config", "PKG_CONFIG_PATH")
                    if word not in text]
                   + (["Traceback"] if "SystemExit" in text or "Traceback" in text else [])
                   + ([] if result.returncode else ["it was built"]))


def main():
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "python")
        shutil.copytree(SOURCE / "python", folder, ignore=shutil.ignore_patterns(
            "__pycache__", "*.egg-info", "build", "dist"))
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)
        for name in MADE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("made by a build\n")
        none = str(Path(scratch, "none"))
        check_contents(folder, none)
        check_missing(folder, none)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
