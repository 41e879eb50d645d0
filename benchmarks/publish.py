# SPDX-License-Identifier: MulanPSL-2.0
"""The report in docs/benchmarks.md, its plots, and the tables in both READMEs.

Each run that is published has a label ("3.11"), and its samples in
docs/benchmarks/LABEL.json. Everything else is made of these, between marks;
what stands outside of the marks is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import extras
import plots
import report
from programs import TOP

DOCUMENT = Path("docs/benchmarks.md")
FOLDER = Path("docs/benchmarks")
README = Path("README.md")
README_ZH = Path("README.zh.md")
BEGIN = "<!-- MEASURED: begin. Written by benchmarks/run --publish, never by hand. -->"
BETWEEN = re.compile(r"<!-- MEASURED: begin.*?-->\n.*?<!-- MEASURED: end -->", flags=re.S)
#: What a reader of the README is told of the machine.
README_HEADER = ("date", "processor", "kernel", "Python", "uvloop", "load average", "set-up",
                 "command")
#: And who is compared there: the document has the others.
README_VARIANTS = ("asyncio", "uvloop", "kloop")

#: The same for readers of Chinese, and what stands at the head of a table.
HEADER_ZH = {"date": "日期", "processor": "处理器", "kernel": "内核", "load average": "平均负载",
             "set-up": "布置", "command": "命令"}
HEADS_ZH = {
    "µs of server CPU per message": "每条消息的服务器 CPU 时间（µs）",
    "micro, µs per operation": "单项操作，每次 µs",
    "spread": "离散度",
}


class PublishError(Exception):
    """There is no place for it; the text says what is missing."""


def _replace(path: Path, parts: list[str]) -> None:
    text = path.read_text(encoding="utf-8")
    made = "\n".join([BEGIN, "\n\n".join(parts), "<!-- MEASURED: end -->"])
    changed, count = BETWEEN.subn(lambda _: made, text)
    if count != 1:
        raise PublishError(f"{path} has no marks <!-- MEASURED: begin --> and end")
    path.write_text(changed, encoding="utf-8")


def _section(top: Path, label: str, kept: dict[str, Any]) -> list[str]:
    echo, micro = report.from_json(kept)
    drawn = plots.draw(echo, micro, top / FOLDER, f"{label}-")
    drawn = [(f"{FOLDER.name}/{name}", title) for name, title in drawn]
    parts = [f"## {label}",
             "\n".join(f"- {key}: {value}" for key, value in kept["header"].items())]
    parts += [f"Note: {note}" for note in kept["notes"]]
    return parts + report.body(echo, micro, extras.tables(kept), drawn, "###")


def _command(text: str) -> str:
    """The command as anybody may give it: without the folders of this machine."""
    words = shlex.split(text)
    for option, shown in (("--build", "BUILD"), ("--out", "DIR")):
        if option in words[:-1]:
            words[words.index(option) + 1] = shown
    return shlex.join(words)


def _tables(echo: list[report.Result], micro: list[report.Result],
            heads: dict[str, str]) -> list[str]:
    plain, tls = report.split(report.in_table(echo))
    made = [report.table(results, single, README_VARIANTS) for results, single
            in ((plain, False), (tls, False), (report.in_table(micro), True)) if results]
    for table in made:
        table.heads = [heads.get(head, head) for head in table.heads]
    return [table.markdown() for table in made]


def _goals_met(echo: list[report.Result], micro: list[report.Result]) -> tuple[int, int]:
    judged = report.verdicts(echo, False) + report.verdicts(micro, True)
    return sum(goal["met"] for goal in judged), len(judged)


def _readme_zh(kept: dict[str, Any]) -> list[str]:
    """The same as _readme(), with the same figures."""
    echo, micro = report.from_json(kept)
    header = kept["header"]
    words = "；".join(f"{HEADER_ZH.get(key, key)}：{header[key]}"
                     for key in README_HEADER if key in header)
    met, judged = _goals_met(echo, micro)
    return [f"{words}。", f"{judged} 个目标中达到 {met} 个，括号中是各比值的目标。"
            "测量内容与方法：[benchmarks/README.md](benchmarks/README.md)。C 语言服务器、未达到的目标、"
            f"随连接数、大小和定时器数变化的曲线以及其他 Python 版本：[{DOCUMENT}]({DOCUMENT})。",
            *_tables(echo, micro, HEADS_ZH)]


def _readme(kept: dict[str, Any]) -> list[str]:
    echo, micro = report.from_json(kept)
    header = kept["header"]
    words = "; ".join(f"{key}: {header[key]}" for key in README_HEADER if key in header)
    met, judged = _goals_met(echo, micro)
    return [f"{words}.", f"{met} of {judged} goals are met; those of a ratio stand beside it. "
            "What is measured and how: [benchmarks/README.md](benchmarks/README.md). Servers in "
            "plain C, what missed its goal, curves over connections, sizes and timers, and other "
            f"Pythons: [{DOCUMENT}]({DOCUMENT}).", *_tables(echo, micro, {})]


def add(label: str, kept: dict[str, Any], top: Path = TOP) -> None:
    """Keep the samples of a run under a label, in place of those of that label."""
    if not re.fullmatch(r"[\w.-]+", label):
        raise PublishError(f"\"{label}\" is no label: letters, digits, dots, - and _")
    (top / FOLDER).mkdir(parents=True, exist_ok=True)
    (top / FOLDER / f"{label}.json").write_text(
        json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


def regenerate(top: Path = TOP) -> None:
    """Make the document, the plots and the README's tables of all samples that are kept."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in (top / FOLDER).glob("*.json")}
    if not runs:
        raise PublishError(f"{top / FOLDER} has no samples: benchmarks/run --publish LABEL")
    for run in runs.values():
        run["header"]["command"] = _command(run["header"]["command"])
    # The oldest Python first: Debian's stable one, on a machine of its own.
    order = sorted(runs, key=lambda label: (runs[label]["settings"]["python_version"], label))
    parts: list[str] = []
    for label in order:
        parts += _section(top, label, runs[label])
    _replace(top / DOCUMENT, parts)
    _replace(top / README, _readme(runs[order[0]]))
    _replace(top / README_ZH, _readme_zh(runs[order[0]]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Make docs/benchmarks.md and the README's tables of the runs that are kept "
        "in docs/benchmarks, after adding one.")
    parser.add_argument("--add", type=Path, metavar="FILE", help="results.json of a run")
    parser.add_argument("--label", help="for that run; it replaces the one of that label")
    options = parser.parse_args()
    if (options.add is None) != (options.label is None):
        parser.error("--add and --label go together")
    try:
        if options.add is not None:
            add(options.label, json.loads(options.add.read_text(encoding="utf-8")))
        regenerate()
    except PublishError as error:
        sys.exit(f"publish: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
