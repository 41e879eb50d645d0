# SPDX-License-Identifier: MulanPSL-2.0
"""Build the extension against the libkloop that pkg-config finds."""

import os
import shlex
import subprocess
import sys
from glob import glob
from pathlib import Path

from setuptools import Extension, setup

MINIMUM = "0.1"

MISSING = """
kloop needs the library libkloop {minimum} or newer, with its headers.

pkg-config says: {says}

On Debian and Ubuntu, install the packages libkloop-dev and pkg-config; on
Fedora, libkloop-devel and pkgconf-pkg-config. If you installed libkloop with
another prefix, name the folder of its kloop.pc, for example:

    PKG_CONFIG_PATH=/usr/local/lib/pkgconfig pip install .
"""

# Commands that compile nothing work without the library.
HARMLESS = {"sdist", "egg_info", "clean", "--help", "--version", "--name", "dist_info"}


def pkg_config(*options):
    command = shlex.split(os.environ.get("PKG_CONFIG", "pkg-config"))
    try:
        result = subprocess.run([*command, *options, "kloop"], capture_output=True, text=True,
                                check=False)
    except FileNotFoundError:
        sys.exit(MISSING.format(minimum=MINIMUM, says=f"(there is no program {command[0]})"))
    if result.returncode != 0:
        sys.exit(MISSING.format(minimum=MINIMUM, says=result.stderr.strip()))
    return shlex.split(result.stdout)


def extension():
    here = Path(__file__).resolve().parent
    os.chdir(here)
    if HARMLESS.intersection(sys.argv[1:]):
        compile_args, link_args = [], ["-lkloop"]
    else:
        pkg_config("--print-errors", f"--atleast-version={MINIMUM}")
        compile_args, link_args = pkg_config("--cflags"), pkg_config("--libs")
    return Extension(
        "kloop._kloop",
        sources=sorted(glob("src/ext/*.c")),
        depends=sorted(glob("src/ext/*.h")),
        extra_compile_args=["-std=gnu11", "-fvisibility=hidden", *compile_args],
        extra_link_args=link_args,
    )


setup(ext_modules=[extension()])
