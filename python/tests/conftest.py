# SPDX-License-Identifier: MulanPSL-2.0
"""Fixtures: every case that takes `loop` or `loop_factory` runs on asyncio's loop and on kloop's."""

import asyncio
import gc
import os
import signal
import sys

import pytest

import kloop
from file_tools import path, run  # noqa: F401
from kloop import _kloop
from resolver_tools import Files, NameServer
from tls_tools import Certificates
from transport_tools import PAIRS

# Who runs the tests in the background of a script has it ignored, here and in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FACTORIES = {"asyncio": asyncio.SelectorEventLoop, "kloop": kloop.Loop}


@pytest.fixture(params=sorted(FACTORIES))
def loop_factory(request):
    """What makes a loop; .name says which kind."""
    return FACTORIES[request.param]


@pytest.fixture(params=sorted(PAIRS))
def pair(request):
    """What makes two connected sockets."""
    return PAIRS[request.param]


@pytest.fixture
def loop(loop_factory):
    """A loop that is closed after the case, and must leave nothing behind."""
    loop = loop_factory()
    failures = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    loop.failures = failures
    yield loop
    if not loop.is_closed():
        run_until_quiet(loop)
        loop.close()
    loop.set_exception_handler(None)
    assert signal.set_wakeup_fd(-1) == -1, "the wake-up descriptor was not given back"


@pytest.fixture
def kernel_loop():
    """A kloop.Loop, for cases that asyncio has no counterpart of."""
    loop = kloop.Loop()
    yield loop
    loop.close()


@pytest.fixture
def name_server():
    """A scripted name server; see resolver_tools."""
    server = NameServer()
    yield server
    server.close()


@pytest.fixture
def resolver_files(tmp_path):
    """resolv.conf, hosts and so on, for a resolver that looks at no others."""
    return Files(tmp_path)


@pytest.fixture
def dns(name_server, resolver_files):
    """The option dns= of a loop that asks the scripted server alone."""
    return {"servers": [str(name_server)], "files": resolver_files.paths, "environment": False}


@pytest.fixture
def dns_loop(dns):
    """A kloop.Loop that asks the scripted server; .failures has what went wrong in it."""
    loop = kloop.Loop(dns=dns)
    loop.failures = []
    loop.set_exception_handler(lambda _, context: loop.failures.append(context))
    yield loop
    if not loop.is_closed():
        run_until_quiet(loop)
        loop.close()
    loop.set_exception_handler(None)
    assert loop.failures == []


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Made once; see tls_tools.Certificates."""
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def message(request):
    """Bytes of no pattern, as many as the module's SIZE says."""
    return os.urandom(request.module.SIZE)


@pytest.fixture
def file(path, message):
    """A file, open for reading, with the message in it."""
    path.write_bytes(message)
    with path.open("rb") as opened:
        yield opened


# The sslproto of Python 3.10 is an older one, which keeps fewer of the promises.
TLS_KINDS = ["asyncio", "kloop", "sslproto"] if sys.version_info >= (3, 11) else ["kloop"]


@pytest.fixture(params=TLS_KINDS)
def tls_loop(request):
    """A loop for cases with TLS: asyncio's, ours, and ours where asyncio's sslproto must serve."""
    loop = FACTORIES["asyncio" if request.param == "asyncio" else "kloop"]()
    loop.failures = []
    loop.set_exception_handler(lambda _, context: loop.failures.append(context))
    loop.tls = request.param
    _kloop._tls_refuse("a test wants it" if request.param == "sslproto" else None)
    try:
        yield loop
        run_until_quiet(loop)
    finally:
        _kloop._tls_refuse(None)
        loop.close()
    loop.set_exception_handler(None)


@pytest.fixture(scope="module")
def little_garbage():
    """For many short cases that collect: what is there already is not looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def run_until_quiet(loop):
    """End what a case left running, so that its loop can be closed."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


def is_kloop(loop):
    return isinstance(loop, kloop.Loop)
