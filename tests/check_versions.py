#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""The version stands in configure.ac; whatever else must name it names the same.

The packaging is looked at where it is there: a tarball has no debian/. Prints
TAP.
"""
import os
import re
import sys
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent))
BUILD = Path(os.environ.get("top_builddir", SOURCE))

tap = Tap()


def found(path, pattern):
    """What the pattern's first group finds first in a file; None if nothing."""
    match = re.search(pattern, path.read_text(), flags=re.M)
    return match and match[1]


def same(text, wanted, *places):
    """Each place is a file and a pattern."""
    tap.result(text, [f"{path.name}: {found(path, pattern)}, not {wanted}"
                      for path, pattern in places if found(path, pattern) != wanted])


def numbers(version):
    return tuple(int(number) for number in version.split("."))


def main():
    version = found(SOURCE / "configure.ac", r"^AC_INIT\(\[kloop\], \[(\d+\.\d+\.\d+)\]\)$")
    tap.result("configure.ac has a version of three numbers", [] if version else ["it has none"])
    if not version:
        return tap.end()

    same("NEWS begins with this version", version,
         (SOURCE / "NEWS", r"\A[^\n]*\n\n(\S+), (?:not released|\d{4}-\d\d-\d\d)$"))
    same("the Python package has it", version,
         (SOURCE / "python/src/kloop/__init__.py", r'^__version__ = "(.*)"$'))
    needed = found(SOURCE / "python/setup.py", r'^MINIMUM = "(.*)"$')
    tap.result("the Python package asks for no newer library",
               [] if needed and numbers(needed) <= numbers(version) else [f"setup.py: {needed}"])
    tap.result("no node of libkloop.map is newer",
               [node for node in re.findall(r"^KLOOP_([\d.]+) *\{",
                                            (SOURCE / "lib/libkloop.map").read_text(), flags=re.M)
                if numbers(node) > numbers(version)])

    pages = sorted((SOURCE / "man").glob("man*/*.in"))
    tap.result("man pages take it from configure.ac",
               ([] if len(pages) > 10 else [f"only {len(pages)} pages"])
               + [page.name for page in pages
                  if not found(page, r'^\.TH .*("libkloop @VERSION@")')])
    built = BUILD / "man/man3/kloop_loop.3"
    if built.is_file():
        same("a man page that was built has it", version, (built, r"libkloop (\d+\.\d+\.\d+)"))
    major, minor, patch = version.split(".")
    header = BUILD / "lib/include/kloop/version.h"
    same("so does version.h", major, (header, r"^#define KLOOP_VERSION_MAJOR (\d+)$"))
    same("with its minor number", minor, (header, r"^#define KLOOP_VERSION_MINOR (\d+)$"))
    same("and the last", patch, (header, r"^#define KLOOP_VERSION_PATCH (\d+)$"))
    same("so does kloop.pc", version, (BUILD / "lib/kloop.pc", r"^Version: (.*)$"))

    debian = SOURCE / "debian"
    if debian.is_dir():
        same("debian/changelog has it", version,
             (debian / "changelog", r"\Akloop \((\d+\.\d+\.\d+)-\S+\) "))
        tap.result("no Debian symbol is newer",
                   [line for line in (debian / "libkloop0.symbols").read_text().splitlines()
                    if re.search(r"@KLOOP_[\d.]+ [\d.]+$", line)
                    and numbers(line.split()[-1]) > numbers(version)])
    spec = SOURCE / "rpm/kloop.spec"
    if spec.is_file():
        same("kloop.spec and the newest entry of its changelog have it", version,
             (spec, r"^Version: +(.*)$"), (spec, r"^%changelog\n\* .* - (\d+\.\d+\.\d+)-\d+$"))
    tap.result("python/ has the licence as it is",
               [] if (SOURCE / "python/LICENSE").read_bytes() == (SOURCE / "LICENSE").read_bytes()
               else ["python/LICENSE is not LICENSE"])
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
