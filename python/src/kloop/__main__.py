# SPDX-License-Identifier: MulanPSL-2.0
"""python -m kloop: what this machine allows; python -m kloop run: a program under kLoop's loop."""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import inspect
import json
import os
import runpy
import sys
import textwrap
from typing import Any

from . import info, new_event_loop, run

_TEXT_COLUMN = 36
_WIDTH = 80


def _nested(facts: dict[str, Any]) -> dict[str, Any]:
    """As kloop-info --json prints it: an object for each word before the dot."""
    tree: dict[str, Any] = {"usable": bool(facts["ring.available"])}
    for name, value in facts.items():
        group, _, rest = name.partition(".")
        tree.setdefault(group, {})[rest] = value
    return tree


def _word(value: Any) -> str:
    """As a person says it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unlimited" if value == -1 else str(value) or "none"


def _print_facts(facts: dict[str, Any]) -> None:
    print("kLoop can run here." if facts["ring.available"] else "kLoop cannot run here.")
    print()
    former = None
    for name, value in facts.items():
        group, _, rest = name.partition(".")
        lines = textwrap.wrap(_word(value), _WIDTH - _TEXT_COLUMN, break_long_words=False,
                              break_on_hyphens=False)
        print(f"{group if group != former else '':10}{rest:26}{lines[0]}")
        for line in lines[1:]:
            print(" " * _TEXT_COLUMN + line)
        former = group


def _show(as_json: bool) -> int:
    facts = info()
    try:
        if as_json:
            print(json.dumps(_nested(facts), indent=2))
        else:
            _print_facts(facts)
        sys.stdout.flush()
    except BrokenPipeError:
        # Its reader (head, say) has seen enough; the interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if facts["ring.available"] else 1


def _use_kloop(options: dict[str, Any]) -> None:
    """Have asyncio.run() and asyncio.new_event_loop() make our loops."""
    if sys.version_info < (3, 14):
        from .policy import install
        install(**options)
        return
    # No policies any more: asyncio.Runner takes the function from this module.
    factory = functools.partial(new_event_loop, **options)
    asyncio.events.new_event_loop = factory  # type: ignore[assignment]
    asyncio.new_event_loop = factory  # type: ignore[assignment]


def _load(target: str) -> Any:
    """The function that module:name means."""
    module, _, names = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _run(target: str, arguments: list[str], options: dict[str, Any]) -> Any:
    sys.argv = [target, *arguments]
    _use_kloop(options)
    if ":" not in target or os.path.exists(target):
        sys.path[0] = os.path.dirname(os.path.abspath(target))
        runpy.run_path(target, run_name="__main__")
        return 0
    result = _load(target)()
    return run(result, **options) if inspect.iscoroutine(result) else result


def main(arguments: list[str] | None = None) -> Any:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kloop",
        description="Tell what this machine allows kLoop to do, or run a program under its loop. "
                    "Without a command the exit status is 0 if kLoop can run here, else 1.")
    parser.add_argument("-j", "--json", action="store_true",
                        help="print one JSON object instead of a table")
    commands = parser.add_subparsers(dest="command", metavar="run")
    runner = commands.add_parser(
        "run", help="run module:function or a script",
        description="Run a function, which may be a coroutine function, or a script. "
                    "asyncio.run() inside of it uses kLoop's loop.")
    runner.add_argument("--fallback", action="store_true",
                        help="where io_uring is unavailable, warn and use asyncio's loop")
    runner.add_argument("--sqpoll", action="store_true",
                        help="let a thread of the kernel poll for submissions")
    runner.add_argument("target", help="module:function, or the path of a script")
    runner.add_argument("arguments", nargs=argparse.REMAINDER,
                        help="for the program, as sys.argv[1:]")
    given = parser.parse_args(arguments)
    if given.command is None:
        return _show(given.json)
    options = {"fallback": True} if given.fallback else {}
    if given.sqpoll:
        options["sqpoll"] = True
    return _run(given.target, given.arguments, options)


if __name__ == "__main__":
    sys.exit(main())
