# SPDX-License-Identifier: MulanPSL-2.0
"""The stub says what the extension has, every function is annotated, every public name documented.

The stub is compared with the extension as it is at run time: names, parameters,
their kinds, and which have a default.
"""

import ast
import asyncio
import inspect
from pathlib import Path

import pytest

import kloop
from kloop import _kloop

PACKAGE = Path(kloop.__file__).parent
STUB = ast.parse((PACKAGE / "_kloop.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
TYPES = sorted(name for name, value in vars(_kloop).items() if isinstance(value, type))
# What a type inherits is its base's business: names of these bases need no entry.
BASES = {"StreamTransport": asyncio.Transport, "SSLStreamTransport": _kloop.StreamTransport,
          "IoUringUnavailable": OSError}
SOURCES = sorted(PACKAGE.glob("*.py"))


def is_dunder(name):
    return name.startswith("__") and name.endswith("__")


def names_in(body):
    for node in body:
        if isinstance(node, FUNCTIONS):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) != "TypeAlias":
            yield node.target.id


def difference(real, stub, what):
    """In words, what to do about the stub."""
    lines = [f"python/src/kloop/_kloop.pyi lacks {what}{name}: add it, with its types"
             for name in sorted(real - stub)]
    lines += [f"python/src/kloop/_kloop.pyi has {what}{name}, which the extension has not"
              for name in sorted(stub - real)]
    return "\n".join(lines)


def own_members(name):
    """Of a type of the extension: all but what its base has as well."""
    kind = getattr(_kloop, name)
    base = BASES.get(name)
    return {member for member in vars(kind)
            if not is_dunder(member) and not (base and hasattr(base, member))
            # How asyncio's classes and ours work together is not said twice.
            and not (base and member.startswith("_"))}


def test_module_names():
    real = {name for name in vars(_kloop) if not is_dunder(name)}
    stub = set(names_in(STUB.body)) | set(CLASSES)
    problems = difference(real, stub, "")
    assert not problems, problems


@pytest.mark.parametrize("name", TYPES)
def test_members(name):
    assert name in CLASSES, f"python/src/kloop/_kloop.pyi lacks the class {name}: add it"
    stub = {member for member in names_in(CLASSES[name].body) if not is_dunder(member)}
    problems = difference(own_members(name), stub, f"{name}.")
    assert not problems, problems


def stub_signature(node):
    """As inspect.signature() would see the function of the stub."""
    bare = ast.parse(ast.unparse(node)).body[0]
    bare.decorator_list = []
    bare.returns = None
    arguments = bare.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs,
                     arguments.vararg, arguments.kwarg]:
        if argument is not None:
            argument.annotation = None
    namespace = {}
    exec(ast.unparse(bare), namespace)
    return inspect.signature(namespace[node.name])


def shape(signature, method):
    """Names where they count, kinds, and which have a default; without self."""
    parameters = list(signature.parameters.values())
    return [(parameter.kind == parameter.POSITIONAL_ONLY or parameter.name, parameter.kind.name,
             parameter.default is not parameter.empty)
            for parameter in parameters[1 if method else 0:]]


def stub_functions():
    for node in STUB.body:
        if isinstance(node, FUNCTIONS):
            yield "", node
    for name, kind in CLASSES.items():
        for node in kind.body:
            if isinstance(node, FUNCTIONS) and not node.decorator_list and not is_dunder(node.name):
                yield name, node


@pytest.mark.parametrize("owner, node", [
    pytest.param(owner, node, id=f"{owner}.{node.name}".lstrip("."))
    for owner, node in stub_functions()])
def test_signature(owner, node):
    """The text that help() shows has the parameters of the stub."""
    function = getattr(getattr(_kloop, owner) if owner else _kloop, node.name)
    expected = shape(stub_signature(node), bool(owner))
    try:
        found = inspect.signature(function)
    except ValueError:
        # Without a text: permitted where there is nothing to say, and inside of kloop.
        assert node.name.startswith("_") or not expected, \
            f"{owner}.{node.name} shows no signature in help()"
        return
    # A bound builtin of the module has no self, a method descriptor has.
    assert shape(found, bool(owner)) == expected


# ---- documentation


def public_objects():
    for name in kloop.__all__:
        yield f"kloop.{name}", getattr(kloop, name)
    for name in kloop.files.__all__:
        yield f"kloop.files.{name}", getattr(kloop.files, name)


def public_members():
    """Of the classes that are ours, what is not inherited from asyncio."""
    for name, kind in public_objects():
        if not isinstance(kind, type):
            continue
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] != "kloop":
                continue
            for member, value in vars(base).items():
                if not member.startswith("_"):
                    yield f"{name}.{member}", value


def test_public_names_are_there():
    assert sorted(kloop.__all__) == sorted(set(kloop.__all__))
    names = {name for name, value in vars(kloop).items()
             if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"}
    assert names == set(kloop.__all__) - {"files"}


@pytest.mark.parametrize("name, value", public_objects(), ids=lambda value: str(value)[:60])
def test_public_names_are_documented(name, value):
    assert inspect.getdoc(value), f"{name} has no documentation"
    assert inspect.getdoc(value) != inspect.getdoc(type(value)), f"{name} has only its type's"


def test_members_are_documented():
    borrowed = [getattr(asyncio.SelectorEventLoop, name) for name in dir(asyncio.SelectorEventLoop)]
    problems = [name for name, value in public_members()
                # CPython's own functions, taken over as they are.
                if not (inspect.isfunction(value) and value in borrowed)
                and not isinstance(value, (bool, int, str, type(None)))
                and not inspect.getdoc(value)]
    assert not problems, "without documentation: " + ", ".join(problems)


@pytest.mark.parametrize("name", TYPES)
def test_the_extension_is_documented(name):
    kind = getattr(_kloop, name)
    assert inspect.getdoc(kind)
    undocumented = [member for member in own_members(name)
                    if not getattr(vars(kind)[member], "__doc__", None)
                    and callable(getattr(kind, member))]
    assert not undocumented


# ---- annotations


def functions_of(tree):
    """(class or "", function) of the top level and of classes there."""
    for node in tree.body:
        if isinstance(node, FUNCTIONS):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, FUNCTIONS):
                    yield node.name, inner


def is_public(path, owner, node):
    if not owner and path.name.startswith("_"):
        return False
    return not owner.startswith("_") and (
        not node.name.startswith("_") or node.name in ("__init__", "__aenter__", "__anext__"))


def lacks(owner, node):
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    if owner and not any(getattr(mark, "id", "") == "staticmethod" for mark in node.decorator_list):
        given = given[1:]
    missing = [argument.arg for argument in given if argument.annotation is None]
    if node.returns is None:
        missing.append("return")
    return missing


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_annotations(path):
    tree = ast.parse(path.read_text())
    overloaded = {node.name for _, node in functions_of(tree)
                  if any(getattr(mark, "id", "") == "overload" for mark in node.decorator_list)}
    problems = [f"{path.name}:{node.lineno}: {owner}.{node.name} lacks {', '.join(lacks(owner, node))}"
                for owner, node in functions_of(tree)
                if is_public(path, owner, node) and node.name not in overloaded and lacks(owner, node)]
    assert not problems, "\n".join(problems)


def test_marker():
    assert (PACKAGE / "py.typed").exists()
