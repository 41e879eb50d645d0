#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""README and docs/ say what is so. Prints TAP.

- A block of Python is a program: it is run in an empty folder, and prints what
  the block "text" right behind it shows. After a line "<!-- compiled -->" it is
  compiled only, and may await outside of functions.
- Blocks of shell, JSON and C (with Python or C to complete them) are parsed.
- Links inside the repository lead somewhere.
- docs/python-api.md is what docs/make-python-api makes of the package.
- README.zh.md has the headings, the code and the figures of README.md.
- docs/architecture.svg is what docs/make-architecture draws.
"""
import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent))
BUILD = Path(os.environ.get("top_builddir", SOURCE))
PYTHON = os.environ.get("PYTHON", sys.executable)
TIMEOUT_SECONDS = 120


class Block:
    """A fenced block: its language, text, marker before it, and what it shall print."""

    def __init__(self, language, text, line, before):
        self.language, self.text, self.line = language, text, line
        self.compiled = before.strip() == "<!-- compiled -->"
        self.output = None


def blocks_of(path):
    """All fenced blocks; a block "text" belongs to the program right above it."""
    blocks, lines, at, end = [], path.read_text().split("\n"), 0, None
    while at < len(lines):
        fence = re.match(r"```(\w*)$", lines[at])
        if fence is None:
            at += 1
            continue
        start = at + 1
        close = lines.index("```", start)
        text = "\n".join(lines[start:close]) + "\n"
        blank = "".join(lines[end:at]) if end is not None else "-"
        if fence[1] == "text" and blank == "" and blocks and blocks[-1].language == "python":
            blocks[-1].output = text
        else:
            blocks.append(Block(fence[1], text, start, lines[at - 1] if at else ""))
        at = end = close + 1
    return blocks


def pages():
    return [SOURCE / name for name in ("README.md", "README.zh.md", "SECURITY.md",
                                       "CONTRIBUTING.md")] + sorted((SOURCE / "docs").glob("*.md"))


def environment():
    paths = {"PYTHONPATH": str(BUILD / "python/lib"),
             "LD_LIBRARY_PATH": str(BUILD / "lib/.libs"),
             "PYTHONDONTWRITEBYTECODE": "1"}
    if os.environ.get("SANITIZER_PRELOAD"):
        paths |= {"LD_PRELOAD": os.environ["SANITIZER_PRELOAD"],
                  "ASAN_OPTIONS": "detect_leaks=0"}
    return {**os.environ, **paths}


def run_python(block):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "program.py").write_text(block.text)
        done = subprocess.run([PYTHON, "program.py"], cwd=folder, env=environment(), text=True,
                              capture_output=True, timeout=TIMEOUT_SECONDS)
    if done.returncode != 0 or done.stderr:
        return f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    if block.output is not None and done.stdout != block.output:
        return f"it prints\n{done.stdout}and not\n{block.output}"
    return None


def problem_with(block, can_run):
    if block.language == "python":
        compile(block.text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if not block.compiled:
            return run_python(block) if can_run else None
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "sh":
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True,
                              timeout=TIMEOUT_SECONDS)
        return done.stderr
    return None


def check_blocks(tap):
    can_run = (BUILD / "python/lib/kloop").is_dir()
    if not can_run:
        tap.skip("programs are run", "the extension was not built (--disable-python)")
    for path in pages():
        problems = []
        for block in blocks_of(path):
            with contextlib.suppress(KeyError):
                try:
                    problem = problem_with(block, can_run)
                except (SyntaxError, ValueError, subprocess.TimeoutExpired) as error:
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    problems.append(f"line {block.line}: {problem}")
        tap.result(f"{path.relative_to(SOURCE)}: its code", problems)


def check_links(tap):
    problems = []
    for path in pages():
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", text):
            target = "".join(target)
            place, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            found = (path.parent / place) if place else path
            if not found.exists():
                problems.append(f"{path.name}: {target} is not there")
            elif anchor and anchor not in anchors(found):
                problems.append(f"{path.name}: {target} has no such heading")
    tap.result("links lead somewhere", problems)


def anchors(path):
    """The names that GitHub gives to headings."""
    found = set()
    for title in re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M):
        word = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(word)
    return found


def entries(text):
    """Headings, and what is under each."""
    parts = re.split(r"^(#{2,4} .*)$", text, flags=re.M)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2])))


def check_api(tap):
    if not (BUILD / "python/lib/kloop").is_dir():
        tap.skip("docs/python-api.md", "the extension was not built (--disable-python)")
        return
    made = subprocess.run([PYTHON, str(SOURCE / "docs/make-python-api")], env=environment(),
                          text=True, capture_output=True, timeout=TIMEOUT_SECONDS)
    if made.returncode != 0:
        tap.result("docs/python-api.md", made.stderr)
        return
    there, wanted = entries((SOURCE / "docs/python-api.md").read_text()), entries(made.stdout)
    # Without policies, Python 3.14 has less, and an install() that only refuses.
    gone = {title for title in there if "EventLoopPolicy" in title}
    odd = {title for title in {*there, *wanted} if "kloop.install(" in title}
    if "policy" in made.stdout:
        gone = odd = set()
    problems = [f"it has no {title}" for title in wanted.keys() - there.keys() - odd]
    problems += [f"there is no {title}" for title in there.keys() - wanted.keys() - gone - odd]
    problems += [f"another text: {title}" for title in (there.keys() & wanted.keys()) - odd
                 if there[title] != wanted[title]]
    tap.result("docs/python-api.md is the package's", sorted(problems))


def outline(path):
    """What a translation shares: levels of headings, code, commands in it, links, figures."""
    text = path.read_text()
    code = [block.text for block in blocks_of(path)]
    bare = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    bare = re.sub(r"<!--.*?-->", "", bare, flags=re.S)
    return {
        "headings": [len(mark) for mark in re.findall(r"^(#+) ", bare, flags=re.M)],
        "code": code,
        "rows of tables": [line.count("|") for line in bare.split("\n") if line.startswith("|")],
        "words in code": sorted(set(re.findall(r"`([^`]+)`", bare))),
        "figures": sorted(re.findall(r"\d+(?:\.\d+)?%?", measured(text))),
        "links": sorted(set(re.findall(r"\]\(([^)]+)\)", bare)) - {"README.md", "README.zh.md"}),
    }


def measured(text):
    """The block of measurements, without code words and links."""
    found = re.search(r"<!-- MEASURED: begin.*?-->(.*?)<!-- MEASURED: end -->", text, flags=re.S)
    return found[1] if found else ""


def check_translation(tap):
    ours, theirs = outline(SOURCE / "README.md"), outline(SOURCE / "README.zh.md")
    for what, wanted in ours.items():
        problem = None
        if theirs[what] != wanted:
            problem = f"README.md: {wanted}\nREADME.zh.md: {theirs[what]}"
            if all(isinstance(each, str) for each in wanted):
                problem = f"missing: {set(wanted) - set(theirs[what])}\n" \
                          f"too many: {set(theirs[what]) - set(wanted)}"
        tap.result(f"README.zh.md has the {what} of README.md", problem)
    tap.result("there are figures to compare", None if ours["figures"] else "none in README.md")


def check_architecture(tap):
    drawn = subprocess.run([sys.executable, str(SOURCE / "docs/make-architecture")], text=True,
                           capture_output=True, timeout=TIMEOUT_SECONDS)
    same = drawn.returncode == 0 and \
        drawn.stdout == (SOURCE / "docs/architecture.svg").read_text()
    tap.result("docs/architecture.svg is what docs/make-architecture draws",
               None if same else drawn.stderr or "it differs: run docs/make-architecture")


def main():
    if not shutil.which("bash"):
        sys.exit("bash is not installed")
    tap = Tap()
    check_blocks(tap)
    check_links(tap)
    check_api(tap)
    check_translation(tap)
    check_architecture(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
