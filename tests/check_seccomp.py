#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""docs/seccomp.json is a profile that container engines take, and lets kLoop run. Prints TAP.

The filter that an engine would make of it for a container without privileges
is made here by libseccomp, and programs are run under it; the same filter
without the three calls of io_uring must make kloop-info say so.

    check_seccomp.py --under PROFILE [--without CALL] PROGRAM...

runs a program so.
"""
import ctypes
import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from tap import Tap

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent))
BUILD = Path(os.environ.get("top_builddir", SOURCE))
PROFILE = SOURCE / "docs/seccomp.json"
TIMEOUT_SECONDS = 120
CALLS = ["io_uring_setup", "io_uring_enter", "io_uring_register"]
ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}
OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
ACTION_ALLOW, ACTION_ERRNO = 0x7FFF0000, 0x00050000


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int),
                ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def applies(group):
    """Does an engine use this group here, for a container without capabilities?"""
    arch = ARCHES.get(platform.machine(), platform.machine())
    includes, excludes = group.get("includes", {}), group.get("excludes", {})
    if includes.get("caps") or arch not in includes.get("arches", [arch]):
        return False
    return arch not in excludes.get("arches", [])


def action(group):
    if group["action"] == "SCMP_ACT_ALLOW":
        return ACTION_ALLOW
    return ACTION_ERRNO | group["errnoRet"]


def load(profile, without):
    """From here on this process is under the filter."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(
        ACTION_ERRNO | profile["defaultErrnoRet"])))
    for group in filter(applies, profile["syscalls"]):
        comparisons = [Comparison(given["index"], OPERATORS[given["op"]], given["value"], 0)
                       for given in group.get("args", [])]
        array = (Comparison * len(comparisons))(*comparisons)
        for name in group["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0 or name in without:
                continue  # of another architecture, or newer than libseccomp
            code = library.seccomp_rule_add_array(context, ctypes.c_uint32(action(group)), number,
                                                  len(comparisons), array)
            if code < 0:
                raise OSError(-code, f"seccomp_rule_add_array: {name}")
    code = library.seccomp_load(context)
    if code < 0:
        raise OSError(-code, "seccomp_load")


def under(*arguments, without=()):
    words = [sys.executable, __file__, "--under", str(PROFILE)]
    for name in without:
        words += ["--without", name]
    return subprocess.run([*words, *map(str, arguments)], text=True, capture_output=True,
                          timeout=TIMEOUT_SECONDS)


def check_form(tap, profile):
    problems = []
    if profile["defaultAction"] != "SCMP_ACT_ERRNO" or profile["defaultErrnoRet"] != errno.EPERM:
        problems.append("what is not named is to fail with EPERM")
    plain = [name for group in profile["syscalls"] for name in group["names"]
             if not {"args", "includes", "excludes"} & group.keys()]
    problems += [f"{name}: allowed twice" for name in set(plain) if plain.count(name) > 1]
    problems += [f"{name}: not allowed to everyone" for name in CALLS if name not in plain]
    problems += [f"{name}: not for everyone" for name in
                 ("bpf", "mount", "keyctl", "userfaultfd", "kexec_load", "setns", "unshare",
                  "perf_event_open", "socket", "clone", "clone3") if name in plain]
    tap.result("the profile's form", problems)


def check_filter(tap):
    done = under(BUILD / "tools/kloop-info", "--json")
    facts = json.loads(done.stdout) if done.stdout else {}
    usable = facts.get("usable") and facts["ring"]["seccomp"] == 2
    tap.result("kloop-info under the profile", None if usable else done.stdout + done.stderr)
    for call in CALLS:
        done = under(BUILD / "tools/kloop-info", "--json", without=[call])
        facts = json.loads(done.stdout) if done.stdout else {}
        denied = facts.get("usable") is False and "seccomp" in facts["ring"]["reason"]
        tap.result(f"kloop-info without {call}", None if denied else done.stdout + done.stderr)
    for name in ("child", "post", "sockets"):
        done = under(BUILD / "examples" / name)
        tap.result(f"examples/{name} under the profile",
                   done.returncode and f"{done.returncode}: {done.stdout}{done.stderr}")
    done = under("unshare", "--user", "true")
    tap.result("no new namespaces", done.returncode == 0 and "unshare worked")


def main():
    if sys.argv[1:2] == ["--under"]:
        profile, words, without = json.loads(Path(sys.argv[2]).read_text()), sys.argv[3:], []
        while words[0] == "--without":
            without.append(words[1])
            words = words[2:]
        load(profile, without)
        os.execvp(words[0], words)
    tap = Tap()
    check_form(tap, json.loads(PROFILE.read_text()))
    check_filter(tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
