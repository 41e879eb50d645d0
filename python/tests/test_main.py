# SPDX-License-Identifier: MulanPSL-2.0
"""python -m kloop, loop.stats() and kloop.info()."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

import kloop

PROGRAM = """
import asyncio, sys

async def coroutine():
    print(type(asyncio.get_running_loop()).__module__, *sys.argv[1:])
    return 3

def plain():
    asyncio.run(coroutine())
    return "went wrong"

class Inner:
    @staticmethod
    async def method():
        print(asyncio.get_running_loop().stats()["overflows"])

if __name__ == "__main__":
    import beside
    asyncio.run(coroutine())
    sys.exit(asyncio.run(coroutine()) + 1)
"""


def module(*arguments, status=0, **options):
    result = subprocess.run([sys.executable, "-m", "kloop", *arguments], capture_output=True,
                            text=True, timeout=300, **options)
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("")
    return tmp_path


def test_json_is_info():
    facts = json.loads(module("--json").stdout)
    assert facts.pop("usable") is True
    flat = {f"{group}.{name}": value for group, names in facts.items()
            for name, value in names.items()}
    # What may change between two looks is left out.
    stable = {name: value for name, value in kloop.info().items()
              if not name.startswith(("limit", "memory"))}
    assert {name: flat[name] for name in stable} == stable


def test_table():
    text = module().stdout
    assert text.startswith("kLoop can run here.\n")
    for name in kloop.info():
        assert name.partition(".")[2] in text
    assert "True" not in text


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_reader_that_left(options):
    """As in `python -m kloop | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        result = subprocess.run([sys.executable, "-m", "kloop", *options], stdout=pipe,
                                stderr=subprocess.PIPE, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")


def test_table_without_a_ring():
    result = module(status=1, env={**os.environ, "KLOOP_IO_URING": "0"})
    assert result.stdout.startswith("kLoop cannot run here.\n")
    facts = json.loads(module("-j", status=1, env={**os.environ, "KLOOP_IO_URING": "0"}).stdout)
    assert facts["usable"] is False


@pytest.mark.parametrize("target, status, printed", [
    ("program:coroutine", 3, "kloop.loop a -b --json\n"),
    ("program:plain", 1, "kloop.loop a -b --json\n"),
    ("program:Inner.method", 0, "0\n"),
    ("program.py", 4, "kloop.loop a -b --json\n" * 2),
])
def test_run(program, target, status, printed):
    result = module("run", target, "a", "-b", "--json", status=status, cwd=program)
    assert result.stdout == printed
    assert result.stderr == ("went wrong\n" if status == 1 else "")


def test_run_from_elsewhere_and_with_options(program, tmp_path_factory):
    result = module("run", "--sqpoll", str(program / "program.py"), status=4,
                    cwd=tmp_path_factory.mktemp("other"))
    assert result.stdout == "kloop.loop\n" * 2
    result = module("run", "--fallback", "program:coroutine", status=3, cwd=program,
                    env={**os.environ, "KLOOP_IO_URING": "0"})
    assert result.stdout == "asyncio.unix_events\n" and "falls back" in result.stderr


def test_run_fails(program):
    assert "No module named 'none'" in module("run", "none:main", status=1).stderr
    assert "no attribute 'none'" in module("run", "program:none", status=1, cwd=program).stderr
    assert "none.py" in module("run", "none.py", status=1, cwd=program).stderr
    assert "usage" in module("run", status=2).stderr


def test_stats():
    async def main():
        loop = asyncio.get_running_loop()
        before = loop.stats()
        assert all(isinstance(value, int) and value >= 0 for value in before.values())
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        await kloop.files.stat("/")
        after = loop.stats()
        assert after["callbacks"] - before["callbacks"] >= 12
        assert after["timers_fired"] - before["timers_fired"] == 1
        assert after["submissions"] > before["submissions"]
        assert after["completions"] > before["completions"]
        assert after["turns"] > before["turns"] and after["enters"] > before["enters"]
        handle = loop.call_later(1000, print)
        assert loop.stats()["timers_active"] == after["timers_active"] + 1
        handle.cancel()

    kloop.run(main())
    loop = kloop.Loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.stats()
