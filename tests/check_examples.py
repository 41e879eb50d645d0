#!/usr/bin/env python3
# SPDX-License-Identifier: MulanPSL-2.0
"""Run every example, and compare what it prints. Prints TAP.

The programs are those of $top_builddir/examples; EXAMPLES_WRAPPER is put
before each, for valgrind: "libtool --mode=execute valgrind -q ...". No program
may take longer than TIMEOUT_SECONDS.
The Python examples run where $top_builddir/python/lib holds the extension.
"""
import contextlib
import ctypes
import errno
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from tap import Tap

sys.path.append(str(Path(__file__).resolve().parent.parent / "python" / "tests"))
from port_tools import free_port  # noqa: E402

SOURCE = Path(os.environ.get("top_srcdir", Path(__file__).resolve().parent.parent))
BUILD = Path(os.environ.get("top_builddir", SOURCE))
WRAPPER = shlex.split(os.environ.get("EXAMPLES_WRAPPER", ""))
TIMEOUT_SECONDS = 120
LINES = "".join(f"{number}\n" for number in range(200000))

# What the program must print, as a regular expression for the whole of it.
ALONE = {
    "address": r"192\.0\.2\.1: 192\.0\.2\.1:80, port 80, family 2\n"
               r"2001:db8::1: \[2001:db8::1\]:443, port 443, family 10\n"
               r"/run/example: unix:/run/example, port 0, family 1\n"
               r"example\.org: Invalid argument\n",
    "allocator": r"libkloop (\S+), compiled with \1\nall that was allocated is freed\n"
                 r"ENOENT: No such file or directory\n",
    "child": r"it says: hello\nit exited with 3\n|it exited with 3\nit says: hello\n",
    "files": r"23 bytes, kept until the disk had them\nfirst line\nsecond line\nremoved\n",
    "info": r"kloop\.version=\d+\.\d+\.\d+\n(.*\n)*ring\.available=true\n(.*\n)*",
    "ops": r"[1-9]\d* bytes, some lines\nthe pipe: ECANCELED\n",
    "options": r"SINGLE_ISSUER (yes|no), SQPOLL no\nready: yes\n"
               r"an operation completed with 0\nan idle turn called 0\n"
               r"\d+ turns, \d+ enters, slept at most \d+ times\n",
    "pool": r"(\d+ bytes, the first is 'k'\n)+3072 of 3072 bytes\n"
            r"|this kernel has no buffer rings\n",
    "post": r"job 1: 500500\njob 2: 2001000\njob 3: 4501500\njob 4: 8002000\njob 5: 12502500\n",
    "resolve": r"(localhost: (127\.0\.0\.1|\[::1\]):80\n)+",
    "signal": r"asked to end: signal 15\n",
    "sockets": r"one two three four\n",
    "timer": r"(tick\n){4}the watchdog is stopped\n",
}
# valgrind 3.19 does not know pidfd_open(2), and lets neither another thread run
# nor a signal in while one waits in io_uring_enter(2).
NOT_WITH_WRAPPER = {"child": "no pidfd_open", "post": "no other thread during a wait"}
WITH_PEERS = {"client", "drain", "echo_server", "forward", "query", "tls_client",
              "tls_echo_server", "udp_echo_server"}


def command(name, *arguments):
    return [*WRAPPER, str(BUILD / "examples" / name), *arguments]


def run(arguments, **options):
    """Run to its end; gives what differs from success, and the output."""
    try:
        done = subprocess.run(arguments, text=True, capture_output=True, timeout=TIMEOUT_SECONDS,
                              **options)
    except subprocess.TimeoutExpired as error:
        return f"no end after {error.timeout} s", ""
    problem = None
    if done.returncode != 0:
        problem = f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    elif done.stderr:
        problem = f"printed errors:\n{done.stderr}"
    return problem, done.stdout


def compare(expected, got):
    return None if re.fullmatch(expected, got) else f"expected:\n{expected}\ngot:\n{got}"


def poke_until_end(process, port):
    """Keep a server busy until it sees its signal, which valgrind looks for now and then only."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.sendto(b"", ("127.0.0.1", port))
            socket.create_connection(("127.0.0.1", port), 1).close()
        time.sleep(0.001)


@contextlib.contextmanager
def server(arguments, pattern, **options):
    """A server that is asked to end by SIGTERM; gives its port and where its output will be."""
    process = subprocess.Popen(arguments, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, **options)
    told = {}
    try:
        match = re.fullmatch(pattern, process.stdout.readline())
        if not match:
            raise RuntimeError("did not start: " + process.communicate(timeout=TIMEOUT_SECONDS)[1])
        yield match[1], told
        process.send_signal(signal.SIGTERM)
        if WRAPPER:
            poke_until_end(process, int(match[1]))
        told["output"], told["errors"] = process.communicate(timeout=TIMEOUT_SECONDS)
        told["status"] = process.returncode
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def check_alone(tap):
    for name, expected in sorted(ALONE.items()):
        if WRAPPER and name in NOT_WITH_WRAPPER:
            tap.skip(name, f"{WRAPPER[0]}: {NOT_WITH_WRAPPER[name]}")
            continue
        problem, output = run(command(name))
        tap.result(name, problem or compare(expected, output))


def check_echo(tap):
    with server(command("echo_server"), r"listening on 127\.0\.0\.1:(\d+)\n") as (port, told):
        problem, output = run(command("client", "127.0.0.1", port, "hello", "world"))
        tap.result("client", problem or compare("hello\nworld\n", output))
        # Large enough for many reads, and for writes that wait.
        text = "x" * 100000
        problem, output = run(command("client", "127.0.0.1", port, *[text] * 10))
        tap.result("client, 1 MB", problem or (output != 10 * (text + "\n") and "not the same"))
    problem = None
    if told.get("status") != 0 or told.get("errors"):
        problem = f"exit status {told.get('status')}\n{told.get('errors')}"
    tap.result("echo_server", problem or compare(
        r"\d+ connections\nno longer listening\n" if WRAPPER else
        r"0 connections\nno longer listening\n", told["output"]))
    done = subprocess.run(command("client", "127.0.0.1", str(free_port()), "hello"), text=True,
                          capture_output=True, timeout=TIMEOUT_SECONDS)
    refused = done.returncode == 1 and "client: Connection refused\n" in done.stderr
    tap.result("client, refused", None if refused else f"{done.returncode}: {done.stderr}")


def read_when_it_ends(client, port, told):
    """When the server takes nothing more: all that it still sends, to the end of the connection."""
    try:
        while True:
            socket.create_connection(("127.0.0.1", int(port)), TIMEOUT_SECONDS).close()
            time.sleep(0.01)
    except ConnectionRefusedError:
        pass
    received = b""
    try:
        while piece := client.recv(1 << 16):
            received += piece
    except OSError as error:
        told["broken"] = error
    client.close()
    told["received"] = received


def check_drain(tap):
    text = bytes(range(251)) * 40000
    with server(command("drain"), r"listening on 127\.0\.0\.1:(\d+)\n") as (port, told):
        client = socket.create_connection(("127.0.0.1", int(port)), TIMEOUT_SECONDS)
        # It echoes, and nobody reads: until nothing more goes in.
        client.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(text):
                sent += client.send(text[sent:sent + (1 << 16)])
        client.settimeout(TIMEOUT_SECONDS)
        reader = threading.Thread(target=read_when_it_ends, args=(client, port, told))
        reader.start()
    reader.join(TIMEOUT_SECONDS)
    problem = None
    if told["status"] != 0 or told["errors"] or "broken" in told:
        problem = f"exit status {told['status']}, {told.get('broken')}\n{told['errors']}"
    elif len(told["received"]) < 100000 or not text.startswith(told["received"]):
        problem = f"{len(told['received'])} of {sent} bytes, or not the same"
    tap.result("drain", problem or compare(r"\d+ connections ended, 0 cut off\n",
                                           told["output"]))


def check_udp_echo(tap):
    with server(command("udp_echo_server"), r"listening on 127\.0\.0\.1:(\d+)\n") as (port, told), \
            socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_SECONDS)
        client.connect(("127.0.0.1", int(port)))
        sent = [b"", b"hello", bytes(60000)]
        got = []
        for data in sent:
            client.send(data)
            got.append(client.recv(65536))
    problem = None
    if told.get("status") != 0 or told.get("errors") or got != sent:
        problem = f"exit status {told.get('status')}\n{told.get('errors')}"
    tap.result("udp_echo_server", problem or compare(
        r"closed after \d+ datagrams\n" if WRAPPER else r"closed after 3 datagrams\n",
        told["output"]))


def answer_one_query(peer):
    """A name server for one question: an MX record for whatever was asked."""
    query, client = peer.recvfrom(65536)
    end = query.index(b"\0", 12) + 5  # the question: a name, type and class
    data = struct.pack("!H", 10) + b"\4mail\xc0\x0c"
    peer.sendto(query[:2] + b"\x84\0" + struct.pack("!4H", 1, 1, 0, 0) + query[12:end]
                + b"\xc0\x0c" + struct.pack("!HHIH", 15, 1, 300, len(data)) + data, client)


def check_query(tap):
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(TIMEOUT_SECONDS)
        thread = threading.Thread(target=answer_one_query, args=(peer,))
        thread.start()
        problem, output = run(command("query", "example.org", "15", "127.0.0.1",
                                      str(peer.getsockname()[1])))
        thread.join()
    tap.result("query", problem or compare(
        r"valid for 300 s\nexample\.org 300 15 10 mail\.example\.org\n", output))


def check_forward(tap):
    problem, output = run(command("forward"), input=LINES)
    tap.result("forward", problem or (output != LINES and "not the same"))


def make_certificate(folder, name):
    """A certificate that signs itself, by the openssl command; gives its file and its key's."""
    paths = [str(Path(folder) / f"{name}{end}.pem") for end in ("", "-key")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-noenc", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", f"subjectAltName=DNS:{name}", "-out", paths[0], "-keyout", paths[1]],
                   check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
    return paths


@contextlib.contextmanager
def https_server(certificate, key, answers):
    """An HTTPS server for so many connections, in a thread; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(TIMEOUT_SECONDS)

    def serve():
        for _ in range(answers):
            connection, _ = listener.accept()
            connection.settimeout(TIMEOUT_SECONDS)
            # A client that refuses the certificate is no failure of this side.
            with contextlib.suppress(ssl.SSLError, OSError), \
                    context.wrap_socket(connection, server_side=True) as stream:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += stream.recv(4096)
                body = request + b"x" * 100000
                stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                stream.unwrap().close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield str(listener.getsockname()[1])
    finally:
        thread.join(TIMEOUT_SECONDS)
        listener.close()


def check_tls_client(tap, folder):
    certificate, key = make_certificate(folder, "server.test")
    other, _ = make_certificate(folder, "other.test")
    with https_server(certificate, key, 3) as port:
        problem, output = run(command("tls_client", "server.test", "127.0.0.1", port, certificate))
        tap.result("tls_client", problem or compare(
            r"TLS 1\.3, TLS_AES_256_GCM_SHA384\n"
            r"sending: in the (kernel|library: .*)\nreceiving: in the (kernel|library: .*)\n"
            r"HTTP/1\.1 200 OK\n\nGET / HTTP/1\.1\nHost: server\.test\n"
            r"Connection: close\n\nx{100000}", output))
        for title, arguments, text in (
                ("tls_client, another name", ("localhost", certificate), "hostname mismatch"),
                ("tls_client, not trusted", ("server.test", other), "self-signed certificate")):
            done = subprocess.run(
                command("tls_client", arguments[0], "127.0.0.1", port, arguments[1]),
                text=True, capture_output=True, timeout=TIMEOUT_SECONDS)
            refused = done.returncode == 1 and not done.stdout \
                and done.stderr == f"tls_client: the peer's certificate is not acceptable: {text}\n"
            tap.result(title, None if refused else f"{done.returncode}: {done.stdout}{done.stderr}")
    absent = str(Path(folder) / "absent.pem")
    done = subprocess.run(command("tls_client", "server.test", "127.0.0.1", port, absent),
                          text=True, capture_output=True, timeout=TIMEOUT_SECONDS)
    tap.result("tls_client, no such file",
               None if done.returncode == 1 and "No such file" in done.stderr else done.stderr)


def exchange_tls(stream, text):
    """Send text, and return what comes back of it; in one thread, as an SSL object demands."""
    sent, got = 0, bytearray()
    stream.setblocking(False)
    while len(got) < len(text):
        writers = [stream] if sent < len(text) else []
        readable, writable, _ = select.select([stream], writers, [], TIMEOUT_SECONDS)
        if not readable and not writable:
            break
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if writable:
                sent += stream.send(text[sent:sent + 16384])
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while part := stream.recv(100000):
                got += part
            break
    stream.settimeout(TIMEOUT_SECONDS)
    return got


def check_tls_echo(tap, folder):
    certificate, key = make_certificate(folder, "echo.test")
    context = ssl.create_default_context(cafile=certificate)
    text = os.urandom(1000000)
    start = command("tls_echo_server", certificate, key)
    with server(start, r"listening on 127\.0\.0\.1:(\d+)\n") as (port, told):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context.maximum_version = version
            with socket.create_connection(("127.0.0.1", int(port)), TIMEOUT_SECONDS) as plain, \
                    context.wrap_socket(plain, server_hostname="echo.test") as stream:
                got = exchange_tls(stream, text)
                stream.unwrap()
            tap.result(f"tls_echo_server, {version.name}", got != text and f"{len(got)} bytes")
    problem = None
    if told.get("status") != 0 or (told.get("errors") and not WRAPPER):
        problem = f"exit status {told.get('status')}\n{told.get('errors')}"
    tap.result("tls_echo_server", problem or compare(r"ECDHE-\S+\nTLS_AES_256_GCM_SHA384\n",
                                                     told["output"]))


def check_tls(tap):
    with tempfile.TemporaryDirectory() as folder:
        check_tls_client(tap, folder)
        check_tls_echo(tap, folder)


def check_io_uring_off(tap):
    """Where kLoop cannot run an example says so, and fails."""
    problems = []
    for name in ALONE.keys() - {"address"}:
        done = subprocess.run(command(name), text=True, capture_output=True,
                              timeout=TIMEOUT_SECONDS, env={**os.environ, "KLOOP_IO_URING": "0"})
        if done.returncode != 1 or "KLOOP_IO_URING" not in done.stderr:
            problems.append(f"{name}: exit status {done.returncode}: {done.stderr}")
    tap.result("without io_uring", problems)


def check_kloop_info(tap):
    tool = str(BUILD / "tools/kloop-info")
    problem, output = run([*WRAPPER, tool])
    tap.result("kloop-info", problem or compare(r"kLoop can run here\.\n\n(.*\n)+", output))
    problem, output = run([*WRAPPER, tool, "--json"])
    facts = json.loads(output) if not problem else {}
    tap.result("kloop-info --json", problem or
               (not (facts["usable"] is True and facts["ring"]["available"] is True
                     and isinstance(facts["limits"]["nofile"], int)) and output))
    off = subprocess.run([tool, "--json"], text=True, capture_output=True,
                         timeout=TIMEOUT_SECONDS, env={**os.environ, "KLOOP_IO_URING": "0"})
    facts = json.loads(off.stdout)
    told = off.returncode == 1 and facts["usable"] is False and facts["ring"]["remedy"]
    tap.result("kloop-info --json, off", None if told else f"{off.returncode}: {off.stdout}")
    for arguments in (["--nonsense"], ["argument"]):
        bad = subprocess.run([tool, *arguments], text=True, capture_output=True,
                             timeout=TIMEOUT_SECONDS)
        clear = bad.returncode == 2 and not bad.stdout and "Usage:" in bad.stderr
        tap.result(f"kloop-info {arguments[0]}", None if clear else f"{bad.returncode}")
    with open("/dev/full", "w") as full:
        lost = subprocess.run([tool], stdout=full, stderr=subprocess.PIPE,
                              timeout=TIMEOUT_SECONDS)
    tap.result("kloop-info, output full", None if lost.returncode == 2 else f"{lost.returncode}")


def deny(number, error):
    """A function for preexec_fn: have a seccomp filter refuse one system call with error.

    The numbers of io_uring's calls are the same on every architecture.
    """
    def statement(code, value, if_true=0, if_false=0):
        return struct.pack("=HBBI", code, if_true, if_false, value)

    program = (statement(0x20, 0)  # load the number of the call
               + statement(0x15, number, 0, 1)
               + statement(0x06, 0x00050000 | error)  # SECCOMP_RET_ERRNO
               + statement(0x06, 0x7FFF0000))  # SECCOMP_RET_ALLOW
    memory = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)

    def install():
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl, for {len(memory)} bytes")

    return install


def check_denied(tap):
    """What kloop-info says in a sandbox that refuses one of the three calls."""
    tool = str(BUILD / "tools/kloop-info")
    calls = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
    for name, number in calls.items():
        for error, reason in ((errno.EPERM, "refused"), (errno.ENOSYS, "seccomp filter")):
            done = subprocess.run([tool, "--json"], text=True, capture_output=True,
                                  timeout=TIMEOUT_SECONDS, preexec_fn=deny(number, error))
            facts = json.loads(done.stdout)
            told = done.returncode == 1 and facts["usable"] is False \
                and reason in facts["ring"]["reason"] and name in facts["ring"]["remedy"]
            tap.result(f"kloop-info, {name}: {errno.errorcode[error]}",
                       None if told else f"exit status {done.returncode}: {done.stdout}")


def python_environment():
    environment = dict(os.environ)
    environment["PYTHONPATH"] = str(BUILD / "python/lib")
    environment["LD_LIBRARY_PATH"] = str(BUILD / "lib/.libs")
    if os.environ.get("SANITIZER_PRELOAD"):
        environment["LD_PRELOAD"] = os.environ["SANITIZER_PRELOAD"]
        environment["ASAN_OPTIONS"] = "detect_leaks=0"
    return environment


def find_aiohttp(python, environment):
    """The Python to run aiohttp's examples with, or None."""
    found = subprocess.run([python, "-c", "import aiohttp"], env=environment, capture_output=True)
    return found.returncode == 0


def check_python(tap):
    python = os.environ.get("PYTHON", sys.executable)
    folder = SOURCE / "examples/python"
    environment = python_environment()
    if not (BUILD / "python/lib/kloop").is_dir():
        tap.skip("Python", "the extension was not built (--disable-python)")
        return
    problem, output = run([python, str(folder / "echo_server.py")], env=environment)
    tap.result("echo_server.py",
               problem or compare(r"listening on port \d+\nhello, echo\n", output))
    problem, output = run([python, str(folder / "streams_echo.py")], env=environment)
    tap.result("streams_echo.py", problem or
               compare(r"(100 lines, the last: CLIENT \d, LINE 99\n){10}", output))
    # Nobody listens there, and nobody is to be asked.
    problem, output = run([python, str(folder / "resolve.py"), "--server", "127.0.0.1:9",
                           "localhost", "192.0.2.1"], env=environment)
    tap.result("resolve.py", problem or
               compare(r"localhost( ::1| 127\.0\.0\.1)+\n192\.0\.2\.1 192\.0\.2\.1\n", output))
    check_python_files(tap, python, folder, environment)
    if not find_aiohttp(python, environment):
        tap.skip("aiohttp", f"{python} has no aiohttp (Debian: python3-aiohttp)")
        return
    check_aiohttp(tap, python, folder, environment)
    check_aiohttp_tls(tap, python, folder, environment)


def check_python_files(tap, python, folder, environment):
    with tempfile.TemporaryDirectory() as scratch:
        paths = [Path(scratch) / name for name in ("one", "two")]
        paths[0].write_text("a b\na\n")
        paths[1].write_text("b a c\n")
        problem, output = run([python, str(folder / "files.py"), *map(str, paths)],
                              env=environment)
        problem = problem or compare(rf"12 bytes in {re.escape(str(paths[0]))}\.words\n", output)
        if not problem:
            problem = compare("3 a\n2 b\n1 c\n", Path(f"{paths[0]}.words").read_text())
        tap.result("files.py", problem)


def check_aiohttp(tap, python, folder, environment):
    client = [python, str(folder / "http_client.py")]
    for flags in (["--loop", "kloop"], ["--loop", "kloop", "--sqpoll"], ["--loop", "asyncio"]):
        start = [python, str(folder / "aiohttp_server.py"), *flags]
        title = "aiohttp_server.py " + " ".join(flags)
        with server(start, r"ready (\d+)\n", env=environment) as (port, told):
            url = f"http://127.0.0.1:{port}"
            problem, output = run([*client, f"{url}/", f"{url}/json", f"{url}/bytes/1000000"],
                                  env=environment)
            tap.result(f"http_client.py to {title}", problem or compare(
                rf"200 19 {url}/\n200 \d+ {url}/json\n200 1000000 {url}/bytes/1000000\n", output))
            body = os.urandom(300000)
            with urllib.request.urlopen(f"{url}/echo", data=body, timeout=TIMEOUT_SECONDS) as answer:
                tap.result(f"POST to {title}", answer.read() != body and "not the same")
        problem = None
        if told.get("status") != 0 or told.get("errors"):
            problem = f"exit status {told.get('status')}\n{told.get('errors')}"
        elif "kloop" in flags and json.loads(told["output"])["completions"] == 0:
            problem = told["output"]
        tap.result(title, problem)


def check_aiohttp_tls(tap, python, folder, environment):
    """Server and client of aiohttp over TLS, both on kLoop, and each with asyncio's."""
    with tempfile.TemporaryDirectory() as secrets:
        certificate, key = make_certificate(secrets, "localhost")
        context = ssl.create_default_context(cafile=certificate)
        for flags in (["--loop", "kloop"], ["--loop", "kloop", "--ktls", "on"],
                      ["--loop", "asyncio"]):
            # Nobody else has the port on ::1, which is localhost as well.
            start = [python, str(folder / "aiohttp_server.py"), *flags,
                     "--port", str(free_port()), "--certificate", certificate, "--key", key]
            title = "aiohttp_server.py with TLS " + " ".join(flags)
            with server(start, r"ready (\d+)\n", env=environment) as (port, told):
                url = f"https://localhost:{port}"
                problem, output = run(
                    [python, str(folder / "http_client.py"), "--trust", certificate,
                     f"{url}/", f"{url}/json", f"{url}/bytes/5000000"], env=environment)
                tap.result(f"http_client.py to {title}", problem or compare(
                    rf"200 19 {url}/\n200 \d+ {url}/json\n200 5000000 {url}/bytes/5000000\n",
                    output))
                with urllib.request.urlopen(f"{url}/tls", timeout=TIMEOUT_SECONDS, context=context) as answer:
                    state = json.load(answer)
                known = {"kloop": bool, "asyncio": type(None)}[flags[1]]
                tap.result(f"state of {title}",
                           None if isinstance(state["ktls_send"], known) else str(state))
            tap.result(title, (told.get("status") != 0 or told.get("errors")) and str(told))


def check_compile(tap):
    """An example compiles as a program of anybody's: by the headers alone, without our macros."""
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-Wall", "-Wextra", "-Werror",
                "-fsyntax-only", f"-I{SOURCE / 'lib/include'}", f"-I{BUILD / 'lib/include'}"]
    problems = []
    for path in sorted((SOURCE / "examples").glob("*.c")):
        done = subprocess.run([*compiler, str(path)], text=True, capture_output=True,
                              timeout=TIMEOUT_SECONDS)
        if done.returncode != 0:
            problems.append(done.stderr)
    tap.result("every C example compiles by itself", problems)


def main():
    tap = Tap()
    programs = {path.stem for path in (SOURCE / "examples").glob("*.c")}
    tap.result("every C example is run", programs ^ (ALONE.keys() | WITH_PEERS))
    if WRAPPER and not shutil.which(WRAPPER[0]):
        sys.exit(f"{WRAPPER[0]} is not installed")
    checks = [check_compile, check_alone, check_echo, check_drain, check_udp_echo, check_query,
              check_forward, check_tls, check_io_uring_off, check_kloop_info, check_denied]
    if not WRAPPER:
        checks.append(check_python)
    for check in checks:
        try:
            check(tap)
        except (OSError, RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
            tap.result(check.__name__, f"{type(error).__name__}: {error}")
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
