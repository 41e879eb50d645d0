#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Headers, symbol map, libkloop.so and Debian's symbols file name the same functions.

Prints TAP.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent))
BUILD = Path(os.environ.get("top_builddir", SOURCE))
NM = os.environ.get("NM") or "nm"

tap = Tap()


def difference(a, in_a, b, in_b):
    """What is in one of two sets only, in words."""
    for symbol in sorted(a - b):
        yield f"{symbol} is {in_a} and not {in_b}"
    for symbol in sorted(b - a):
        yield f"{symbol} is {in_b} and not {in_a}"


def of_headers():
    folder = SOURCE / "lib/include/kloop"
    text = "\n".join(p.read_text() for p in [*folder.glob("*.h"), *folder.glob("*.h.in")])
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
    text = re.sub(r"^static inline.*?^\}", " ", text, flags=re.M | re.S)
    declared = set(re.findall(r"^(?!static|typedef|#)[^\n]*?\b(kloop_\w+)\(", text, flags=re.M))
    return set(re.findall(r"KLOOP_EXPORT[^;{]*?\b(kloop_\w+)\s*\(", text)), declared


def of_map():
    """{symbol: node}, and the symbols in the order in which they stand."""
    text = re.sub(r"/\*.*?\*/", " ", (SOURCE / "lib/libkloop.map").read_text(), flags=re.S)
    nodes = {}
    order = []
    for node, body in re.findall(r"^(KLOOP_[\d.]+)\s*\{(.*?)^\}", text, flags=re.M | re.S):
        body = body.split("local:")[0].replace("global:", "")
        symbols = re.findall(r"([\w*]+);", body)
        order.append((node, symbols))
        for symbol in symbols:
            nodes.setdefault(symbol, []).append(node)
    return nodes, order


def of_library(path):
    """{symbol: version} of what the shared object defines."""
    output = subprocess.run([*NM.split(), "-D", "--defined-only", str(path)],
                            capture_output=True, text=True, check=True).stdout
    found = {}
    for line in output.splitlines():
        kind, symbol = line.split()[-2:]
        name, _, version = symbol.partition("@")
        if kind != "A":  # the version's own name
            found[name] = version.lstrip("@")
    return found


def of_debian(path):
    """{symbol: version} of a symbols file, without the Debian revision."""
    return dict(re.findall(r"^ (?:\([^)]*\))?(kloop_\w+)@(KLOOP_[\d.]+) ", path.read_text(),
                           flags=re.M))


def main():
    exported, declared = of_headers()
    nodes, order = of_map()
    library = BUILD / "lib/.libs/libkloop.so"

    tap.result("headers declare functions", [] if len(exported) > 50 else [f"only {len(exported)}"])
    tap.result("every declared function is marked KLOOP_EXPORT", sorted(declared - exported))
    tap.result("headers and libkloop.map agree",
               difference(exported, "in a header", set(nodes), "in libkloop.map"))
    tap.result("each symbol stands in one node, sorted, without wildcards",
               [f"{s} is in {', '.join(n)}" for s, n in nodes.items() if len(n) > 1 or "*" in s]
               + [f"{node} is not sorted" for node, symbols in order if symbols != sorted(symbols)])
    if not library.is_file():
        tap.result("libkloop.so was built", [f"there is no {library}"])
    else:
        defined = of_library(library)
        tap.result("libkloop.map and libkloop.so agree",
                   difference(set(nodes), "in libkloop.map", set(defined), "in libkloop.so"))
        tap.result("libkloop.so has the versions of the map",
                   [f"{s}: {defined[s] or 'none'}, not {n[0]}" for s, n in sorted(nodes.items())
                    if s in defined and defined[s] != n[0]])
    debian = SOURCE / "debian/libkloop0.symbols"
    if debian.is_file():
        listed = of_debian(debian)
        tap.result("libkloop.map and the Debian symbols agree",
                   difference({(s, n[0]) for s, n in nodes.items()}, "in libkloop.map",
                              set(listed.items()), f"in {debian.name}"))
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
