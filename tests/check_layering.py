#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Each room knows only what it may know.

Reads the #include lines of the library, the tools, the examples and the Python
extension; compiles each installed header alone, as C and as C++; looks for files
that no list of the tarball names; looks for the
licence line in every source. Prints TAP.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent)).resolve()
BUILD = Path(os.environ.get("top_builddir", SOURCE)).resolve()

ROOMS = ("ring", "net", "tls", "dns")
# What a room may include of the others, by name of the room.
MAY_KNOW = {"ring": set(), "net": {"ring"}, "tls": {"ring", "net"}, "dns": {"ring", "net", "tls"}}
# The room to which each public header belongs; base and version are everybody's.
PUBLIC = {
    "loop": "ring", "op": "ring", "timer": "ring", "signal": "ring", "child": "ring",
    "pool": "ring", "file": "ring", "address": "net", "stream": "net", "listener": "net", "tls": "tls",
    "dns": "dns",
}
# Headers of the C library and of Linux, which anybody may use.
LIBC = re.compile(
    r"(assert|ctype|dirent|dlfcn|errno|fcntl|inttypes|limits|locale|math|netdb|poll|pthread|sched"
    r"|semaphore|setjmp|signal|spawn|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio"
    r"|stdlib|string|strings|time|unistd|wchar|malloc|getopt"
    r"|(sys|netinet|arpa|net|linux|asm)/\w+)\.h$"
)
SPDX = "SPDX-License-Identifier: MulanPSL-2.0"

tap = Tap()


def report(text, problems):
    """A case; each problem once, in order."""
    tap.result(text, sorted(set(problems)))


def sources(folder, *patterns):
    return sorted(p for pattern in patterns for p in (SOURCE / folder).rglob(pattern))


def name(path):
    return str(path.relative_to(SOURCE))


def includes(path):
    """(line number, is it in angle brackets, what) for each #include."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), path.read_text(), flags=re.S)
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if found:
            yield number, found[1] == "<", found[2]


def resolve(path, what):
    """The file of the tree that a quoted include means, or None."""
    for folder in (path.parent, SOURCE / "lib"):
        candidate = (folder / what).resolve()
        if candidate.is_file():
            return candidate
    return None


def room_of(path):
    parts = path.relative_to(SOURCE).parts
    return parts[1] if len(parts) > 2 and parts[0] == "lib" and parts[1] in ROOMS else None


def check_foreign(header, folder, most=None):
    """A foreign library's headers are included in one folder only."""
    problems = []
    users = set()
    places = ("lib", "tools", "examples", "python")
    for path in [p for place in places for p in sources(place, "*.c", "*.h", "*.in")]:
        for number, angle, what in includes(path):
            if not re.match(header, what):
                continue
            users.add(name(path))
            if not name(path).startswith(folder):
                problems.append(f"{name(path)}:{number} includes {what}")
    if most is not None and len(users) > most:
        problems.append(f"{len(users)} files include it: {', '.join(sorted(users))}")
    report(f"{header.rstrip('/.')} is included in {folder} only", problems)
    return users


def check_rooms():
    """No room includes a header of a room that it must not know."""
    for room in ROOMS:
        problems = []
        for path in sources(f"lib/{room}", "*.c", "*.h"):
            for number, angle, what in includes(path):
                where = f"{name(path)}:{number} includes {what}"
                public = re.match(r"kloop/(\w+)\.h$", what)
                if what == "kloop.h" or (public and public[1] == "info"):
                    problems.append(where)
                elif public and PUBLIC.get(public[1], room) not in {room} | MAY_KNOW[room]:
                    problems.append(where)
                elif not angle:
                    target = resolve(path, what)
                    if target is None:
                        problems.append(f"{where}, which does not exist")
                    elif room_of(target) not in {room} | MAY_KNOW[room]:
                        problems.append(where)
        report(f"lib/{room} knows {', '.join(sorted(MAY_KNOW[room])) or 'no other room'}", problems)


def reaches(path, header, seen=None):
    """Does a file include this, itself or by the tree's own headers?"""
    seen = set() if seen is None else seen
    if path in seen:
        return False
    seen.add(path)
    for _, angle, what in includes(path):
        if re.match(header, what):
            return True
        target = None if angle else resolve(path, what)
        if target is not None and reaches(target, header, seen):
            return True
    return False


def check_indirect():
    """Types of liburing do not leave the ring through a header either."""
    for header, room in ((r"liburing", "ring"), (r"openssl/", "tls"), (r"ldns/", "dns")):
        paths = [p for p in sources("lib", "*.c") if room_of(p) != room]
        report(f"{header.rstrip('/')} does not leave lib/{room} through a header",
               [name(p) for p in paths if reaches(p, header)])


def check_extension():
    """The extension uses Python.h, the installed headers, its own, and libc."""
    problems = []
    folder = SOURCE / "python/src/ext"
    for path in sources("python/src/ext", "*.c", "*.h"):
        for number, angle, what in includes(path):
            own = not angle and (path.parent / what).resolve().parent == folder
            if own and not (path.parent / what).is_file():
                problems.append(f"{name(path)}:{number} includes {what}, which does not exist")
            public = angle and re.match(r"kloop(/\w+)?\.h$", what)
            python = angle and what in ("Python.h", "structmember.h", "frameobject.h", "pythread.h")
            if not (own or public or python or (angle and LIBC.match(what))):
                problems.append(f"{name(path)}:{number} includes {what}")
    report("python/src/ext uses Python.h, installed headers, its own and libc", problems)


def installed_headers():
    """What lib/Makefile.inc installs, relative to lib/include."""
    text = (SOURCE / "lib/Makefile.inc").read_text().replace("\\\n", " ")
    found = []
    for line in re.findall(r"^(?:nodist_)?(?:kloop)?include_HEADERS\s*=(.*)$", text, flags=re.M):
        found += [word.removeprefix("lib/include/") for word in line.split()]
    return found


def check_installed():
    headers = installed_headers()
    tree = {str(p.relative_to(SOURCE / "lib/include")).removesuffix(".in")
            for p in sources("lib/include", "*.h", "*.h.in")}
    report("every public header is installed", tree ^ set(headers))

    problems = []
    for header in headers:
        path = SOURCE / "lib/include" / header
        if not path.is_file():
            path = path.with_name(path.name + ".in")
        for number, angle, what in includes(path):
            if not angle or not (re.match(r"kloop/\w+\.h$", what) or LIBC.match(what)):
                problems.append(f"{name(path)}:{number} includes {what}")
    report("installed headers include installed ones and libc only", problems)
    for compiler, language, flags in (
        ("gcc", "c", "-std=c11 -Wstrict-prototypes"), ("clang", "c", "-std=c11 -Wstrict-prototypes"),
        ("gcc", "c", "-std=gnu99"),
        ("g++", "c++", "-std=c++11"), ("clang++", "c++", "-std=c++17"),
    ):
        compile_alone(headers, compiler, language, flags)


def compile_alone(headers, compiler, language, flags):
    text = f"installed headers compile alone with {compiler} {flags.split()[0]}"
    if shutil.which(compiler) is None:
        tap.skip(text, f"there is no {compiler}")
        return
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for header in headers:
            program = Path(folder, "alone." + language.replace("c++", "cc"))
            # Twice, for its guard; and one declaration, so that the file is not empty.
            program.write_text(f"#include <{header}>\n#include <{header}>\nextern int alone;\n")
            result = subprocess.run(
                [compiler, "-x", language, *flags.split(), "-Wall", "-Wextra", "-Wshadow", "-Werror",
                 "-fsyntax-only", f"-I{BUILD}/lib/include", f"-I{SOURCE}/lib/include", str(program)],
                capture_output=True, text=True, check=False)
            if result.returncode != 0:
                problems.append(f"{header}: {(result.stderr.strip().splitlines() or ['?'])[0]}")
    report(text, problems)


def check_licence():
    """Each source names its licence in its first lines."""
    problems = []
    looked_at = 0
    suffixes = {".c", ".h", ".py", ".pyi", ".sh", ".inc", ".am", ".ac", ".in", ".map", ".toml"}
    generated = {"tree", "temp", "__pycache__", ".libs", ".deps", "build"}
    for top in ("lib", "python", "tests", "tools", "examples", "benchmarks", "man", "scripts", ".ci"):
        for path in sources(top, "*"):
            inside = path.relative_to(SOURCE)
            if not path.is_file() or path.is_symlink() or generated & set(inside.parts):
                continue
            if inside.parts[:2] == ("python", "lib") or path.with_name(path.name + ".in").is_file():
                continue  # built in the source tree
            try:
                head = path.read_text().splitlines()[:5]
            except UnicodeDecodeError:
                continue
            if any("Generated by libtool" in line for line in head):
                continue  # a program that was built in the source tree
            script = bool(head) and head[0].startswith("#!")
            if path.suffix not in suffixes and not script:
                continue
            looked_at += 1
            if not any(SPDX in line for line in head):
                problems.append(f"{inside} does not say {SPDX}")
    if looked_at < 50:
        problems.append(f"only {looked_at} files were found")
    report("every source names its licence", problems)


def check_distribution():
    """In a checkout: what is tracked is in the tarball, but for what is the checkout's own."""
    if not (SOURCE / ".git").exists() or shutil.which("git") is None:
        return
    tracked = subprocess.run(
        ["git", "-c", f"safe.directory={SOURCE}", "ls-files"], cwd=SOURCE, capture_output=True,
        text=True, check=False)
    make = subprocess.run(["make", "-s", "print-DISTFILES", "print-DIST_COMMON"], cwd=BUILD,
                          capture_output=True, text=True, check=False)
    problems = [r.stderr.strip() for r in (tracked, make) if r.returncode != 0]
    words = {word.removeprefix(f"{SOURCE}/").removeprefix("./") for word in make.stdout.split()}
    # A folder stands for what is in it.
    folders = tuple(f"{word.rstrip('/')}/" for word in words if (SOURCE / word).is_dir())
    for path in tracked.stdout.split("\n"):
        own = path.startswith((".", "debian/")) or path == ""
        if not own and path not in words and not path.startswith(folders):
            problems.append(f"{path} is in no EXTRA_DIST")
    report("every file is in the tarball", problems)


def main():
    check_foreign(r"liburing", "lib/ring/")
    check_foreign(r"openssl/", "lib/tls/")
    check_foreign(r"ldns/", "lib/dns/", most=1)
    check_rooms()
    check_indirect()
    check_extension()
    check_installed()
    check_licence()
    check_distribution()
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
