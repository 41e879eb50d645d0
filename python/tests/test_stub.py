# SPDX-License-Identifier: MulanPSL-2.0
"""The stub _kloop.pyi says what the extension has, no less and no more."""

import ast
import inspect
from pathlib import Path

import pytest

import kloop
from kloop import _kloop

STUB = ast.parse((Path(kloop.__file__).parent / "_kloop.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
# Those of asyncio.Transport are its own; OSError's too.
CHECKED = ["Handle", "TimerHandle", "Loop"]


def names_in(body):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield node.target.id


def is_interesting(name):
    return not (name.startswith("__") and name.endswith("__"))


def test_module():
    stub = set(names_in(STUB.body)) | set(CLASSES)
    stub = {name for name in stub if not name.startswith("_")}
    real = {name for name in vars(_kloop) if not name.startswith("_")}
    assert stub == real


@pytest.mark.parametrize("name", CHECKED)
def test_members(name):
    real = {member for member in vars(getattr(_kloop, name)) if is_interesting(member)}
    assert set(names_in(CLASSES[name].body)) == real


@pytest.mark.parametrize("name", CHECKED)
def test_everything_is_documented(name):
    kind = getattr(_kloop, name)
    assert inspect.getdoc(kind)
    for member, value in vars(kind).items():
        if is_interesting(member):
            assert value.__doc__, member


def test_public_names():
    for name in kloop.__all__:
        assert inspect.getdoc(getattr(kloop, name)), name


@pytest.mark.parametrize("method", [
    node for node in CLASSES["Loop"].body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
], ids=lambda node: node.name)
def test_signatures(method):
    """The text that help() shows has the parameters of the stub, where it has any."""
    text = getattr(_kloop.Loop, method.name).__text_signature__
    parameters = [argument.arg for argument in method.args.args[1:]]
    if not parameters:
        return
    assert text is not None
    shown = [name.split("=")[0].strip().lstrip("*") for name in text.strip("()").split(",")][1:]
    shown = [name for name in shown if name]  # a lone "*" is no parameter
    if method.args.vararg:
        parameters.append(method.args.vararg.arg)
    parameters += [argument.arg for argument in method.args.kwonlyargs]
    assert shown == parameters
