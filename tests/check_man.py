#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""The man pages say what the headers say.

Every exported function has a page or an alias, every prototype and struct in a
SYNOPSIS is the header's, every error code of a header's "Returns:" and every
constant is described, examples are the files in examples/, and mandoc and
groff accept the pages. Prints TAP.

The generated pages are looked for in $top_builddir, the rest in $top_srcdir.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent))
BUILD = Path(os.environ.get("top_builddir", SOURCE))

# Not part of the interface that a program uses by name.
MACROS_WITHOUT_PAGE = re.compile(r"KLOOP_(\w+_H|EXPORT|MUST_CHECK|BEGIN_DECLS|END_DECLS)$")


def squeeze(text):
    return re.sub(r"\s+", " ", text).strip()


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


class Headers:
    """What the public headers declare."""

    def __init__(self):
        folder = SOURCE / "lib/include/kloop"
        paths = sorted(folder.glob("*.h")) + sorted(folder.glob("*.h.in"))
        self.text = "\n".join(path.read_text() for path in paths)
        bare = without_comments(self.text)
        # Everything declared, as one line: what a SYNOPSIS shows must be in it.
        code = re.sub(r"^[ \t]*#.*$", "", bare, flags=re.M)
        code = re.sub(r"\b(KLOOP_EXPORT|KLOOP_MUST_CHECK|static inline)\b", " ", code)
        self.code = re.sub(r" ([;,)])", r"\1", squeeze(code))
        self.exported = set(re.findall(r"KLOOP_EXPORT[^;]*?\b(kloop_\w+)\(", bare))
        self.inline = set(re.findall(r"static inline[^;{]*?\b(kloop_\w+)\(", bare))
        self.constants = {
            name
            for name in re.findall(r"#define\s+(KLOOP_\w+)", bare)
            if not MACROS_WITHOUT_PAGE.match(name)
        }
        for body in re.findall(r"\benum \w+ \{(.*?)\}", bare, flags=re.S):
            self.constants.update(re.findall(r"\b(KLOOP_\w+)\b", body))
        stats = re.search(r"struct kloop_stats \{(.*?)\};", bare, flags=re.S)
        self.stats = re.findall(r"(\w+);", stats[1])

    def error_codes(self):
        """(function, code) for each code that the comment before a function names."""
        for comment, code in re.findall(r"/\*((?:(?!\*/).)*)\*/((?:(?!/\*).)*)", self.text,
                                        flags=re.S):
            returns = re.search(r"Returns:(.*?)(?:\n \* [A-Z][\w ]*:|\Z)", comment, flags=re.S)
            functions = re.findall(r"KLOOP_EXPORT[^;]*?\b(kloop_\w+)\(", code)
            if not returns or not functions:
                continue
            for name in re.findall(r"-E[A-Z0-9]+|KLOOP_ERROR_\w+", returns[1]):
                yield from ((function, name) for function in functions)


class Page:
    """One page: its source, its generated text, and what its sections say."""

    def __init__(self, source):
        self.name = source.name[: -len(".in")]
        self.source = source.read_text()
        self.path = BUILD / source.relative_to(SOURCE).with_suffix("")
        if not self.path.exists():  # a tarball may bring it
            self.path = source.with_suffix("")
        self.text = self.path.read_text() if self.path.exists() else None

    def section(self, title):
        match = re.search(r'^\.SH "?%s"?\n(.*?)(?=^\.SH |\Z)' % title, self.source,
                          flags=re.S | re.M)
        return match[1] if match else ""

    def names(self):
        text = self.section("NAME").split("\\-" + " ", 1)[0]
        return [name.replace("\\-", "-") for name in re.split(r"[,\s]+", text) if name]

    def synopsis(self):
        """The declarations of the SYNOPSIS, each as one line of C."""
        lines = []
        for line in self.section("SYNOPSIS").split("\n"):
            match = re.match(r"\.(BI|B|IB|I) (.*)", line)
            if not match:
                continue
            words = re.findall(r'"([^"]*)"|(\S+)', match[2])
            joined = [quoted or plain for quoted, plain in words]
            lines.append(("" if match[1] in ("BI", "IB") else " ").join(joined))
        code = "\n".join(lines).replace("\\-", "-").replace("\\(dq", '"')
        code = re.sub(r"^#.*$", "", without_comments(code), flags=re.M)
        parts, depth, start = [], 0, 0
        code = re.sub(r" ([;,)])", r"\1", squeeze(code))
        for at, char in enumerate(code):
            depth += {"{": 1, "}": -1}.get(char, 0)
            if char == ";" and depth == 0:
                parts.append(code[start:at].strip())
                start = at + 1
        return parts, code[start:].strip()

    def markers(self):
        return re.findall(r"^@EXAMPLE:(.*)@$", self.source, flags=re.M)

    def examples(self):
        """The text of each .EX block, as a reader sees it."""
        for block in re.findall(r"^\.EX\n(.*?)^\.EE$", self.text, flags=re.S | re.M):
            for troff, plain in (("\\(aq", "'"), ("\\(ga", "`"), ("\\(ha", "^"), ("\\(ti", "~"),
                                 ("\\-", "-"), ("\\&", ""), ("\\e", "\\")):
                block = block.replace(troff, plain)
            yield block


def is_declared(part, headers):
    """Is this declaration in the headers? A struct may leave out its last, private fields."""
    part = re.sub(r" \}$", "", part)
    return re.search(r"(?<!\w)" + re.escape(part) + r"(?!\w)", headers.code) is not None


def check_names(tap, headers, pages):
    names = {}
    for page in pages:
        for name in page.names():
            names.setdefault(name, []).append(page.name)
    functions = headers.exported | headers.inline
    tap.result("every function has a page or an alias",
               sorted(f"{name}: none" for name in functions - names.keys()))
    titles = {page.name.rsplit(".", 1)[0] for page in pages}
    tap.result("every name is a function's or the page's own, and stands once",
               [f"{name}: in {', '.join(where)}" for name, where in sorted(names.items())
                if len(where) > 1 or (name not in functions and name not in titles)])


SECTIONS = {
    "3": ["NAME", "LIBRARY", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "ERRORS", "ATTRIBUTES",
          "VERSIONS", "NOTES", "EXAMPLES", "SEE ALSO"],
    "7": ["NAME", "LIBRARY", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "FILES", "VERSIONS",
          "NOTES", "EXAMPLES", "SEE ALSO"],
}
OPTIONAL = {"3": {"NOTES"}, "7": set(SECTIONS["7"]) - {"NAME", "DESCRIPTION", "SEE ALSO"}}


def check_sections(tap, pages):
    """The same sections in the same order everywhere."""
    for page in pages:
        number = page.name.rsplit(".", 1)[1]
        if number not in SECTIONS:
            continue
        found = re.findall(r'^\.SH "?(.*?)"?$', page.source, flags=re.M)
        wanted = [title for title in SECTIONS[number]
                  if title in found or title not in OPTIONAL[number]]
        tap.result(f"{page.name}: its sections",
                   [] if found == wanted else [f"has {found}", f"not {wanted}"])


def check_references(tap, pages):
    """What a page refers to in this manual is there."""
    names = {f"{name}({page.name.rsplit('.', 1)[1]})" for page in pages for name in page.names()}
    problems = []
    for page in pages:
        text = page.source.replace("\\-", "-")
        found = re.findall(r"^\.BR (kloop[\w-]*) \((\d)\)", text, flags=re.M)
        problems += [f"{page.name}: {name}({number}) is not there" for name, number in found
                     if f"{name}({number})" not in names]
    tap.result("every page that is referred to is there", sorted(set(problems)))


def check_aliases(tap, headers, pages):
    script = SOURCE / "scripts/man-aliases"
    sources = [str(path) for path in sorted((SOURCE / "man").glob("man3/*.in"))]
    made = subprocess.run(["sh", str(script), "-", *sources], check=True, text=True,
                          capture_output=True).stdout.split()
    have = set(made) | {page.name for page in pages}
    tap.result("the script makes an alias for each",
               sorted(f"{name}.3" for name in headers.exported | headers.inline
                      if f"{name}.3" not in have))


def check_declarations(tap, headers, pages):
    described = {}
    for page in pages:
        if not page.name.endswith(".3"):
            continue
        parts, rest = page.synopsis()
        problems = [f"differs from the header: {part}" for part in parts
                    if not is_declared(part, headers)]
        if rest:
            problems.append(f"is no declaration: {rest}")
        for part in parts:
            for name in re.findall(r"\b(kloop_\w+)\(", part):
                described[name] = page
        missing = [name for name in page.names()
                   if name in headers.exported | headers.inline and described.get(name) != page]
        problems += [f"not in the SYNOPSIS: {name}" for name in missing]
        tap.result(f"{page.name}: the SYNOPSIS is the header's", problems)
    problems = [f"{function}: {code} is not in {described[function].name}"
                for function, code in headers.error_codes()
                if function in described
                and code.replace("-", "\\-") not in described[function].source]
    tap.result("every error code of the headers is in the page", problems)
    text = "\n".join(page.source for page in pages)
    tap.result("every constant is in a page",
               sorted(name for name in headers.constants if not re.search(rf"\b{name}\b", text)))
    loop_page = next(page for page in pages if page.name == "kloop_loop.3")
    tap.result("every counter is in kloop_loop.3",
               [name for name in headers.stats if f".I {name}\n" not in loop_page.source])


def check_facts(tap, pages):
    facts = re.findall(r'\badd(?:_\w+)?\(info, "(\w+\.\w+)"', (SOURCE / "lib/info.c").read_text())
    page = next(page for page in pages if page.name == "kloop-info.1")
    told = set(re.findall(r"\b(\w+\.\w+)\b", page.section("OPTIONS")))
    tap.result("every fact is in kloop-info.1",
               ["none found in lib/info.c"] if not facts else sorted(set(facts) - told))


def check_examples(tap, pages):
    quoted = set()
    for page in pages:
        if page.text is None:
            tap.result(f"{page.name}: generated", ["there is no such file"])
            continue
        blocks = list(page.examples())
        problems = []
        for name in page.markers():
            quoted.add(name)
            lines = (SOURCE / "examples" / name).read_text().split("\n")[1:]
            if "\n".join(lines).expandtabs(4) not in blocks:
                problems.append(f"examples/{name} is not in it as it is")
        if "@EXAMPLE" in page.text or "@VERSION" in page.text or "@PKG" in page.text:
            problems.append("a marker was left in it")
        tap.result(f"{page.name}: examples are the files", problems)
    programs = {path.name for path in (SOURCE / "examples").glob("*.c")}
    tap.result("every C example is in a page", sorted(programs - quoted))


def check_format(tap, pages):
    pages = [page for page in pages if page.text is not None]
    tools = (
        ("mandoc", ["mandoc", "-T", "lint", "-W", "warning"]),
        ("groff", ["groff", "-man", "-Tutf8", "-ww", "-z", "-rF0"]),
    )
    for tool, command in tools:
        if not shutil.which(tool):
            tap.skip(f"{tool} accepts every page", f"{tool} is not installed")
            continue
        problems = []
        for page in pages:
            run = subprocess.run([*command, str(page.path)], text=True, capture_output=True)
            problems += (run.stdout + run.stderr).splitlines()
        tap.result(f"{tool} accepts every page", problems)


def main():
    headers = Headers()
    pages = [Page(path) for path in sorted((SOURCE / "man").glob("man[0-9]/*.in"))]
    tap = Tap()
    check_names(tap, headers, pages)
    check_sections(tap, pages)
    check_references(tap, pages)
    check_aliases(tap, headers, pages)
    check_declarations(tap, headers, pages)
    check_facts(tap, pages)
    check_examples(tap, pages)
    check_format(tap, pages)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
