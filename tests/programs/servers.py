# SPDX-License-Identifier: MulanPSL-2.0
"""A PostgreSQL and a Redis of our own, in a temporary folder, as a user without privileges."""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from world import TIMEOUT, free_port, stop

PASSWORD = "kloop's own"


def prepare(user, command):
    """What to put before a command so that it runs as this user, where we are root."""
    assert shutil.which(command), f"{command} is not installed"
    return ["runuser", "-u", user, "--"] if os.getuid() == 0 else []


def give(folder, user):
    """Make a folder of this user's, where we are root."""
    folder.mkdir(exist_ok=True)
    if os.getuid() == 0:
        shutil.chown(folder, user)
    return folder


def copy_certificates(certificates, folder, user):
    """{name: path} of copies that this user, and no other, may read."""
    copies = {}
    for name, path in certificates.items():
        copies[name] = str(folder / Path(path).name)
        shutil.copy(path, copies[name])
        os.chmod(copies[name], 0o600)
        if os.getuid() == 0:
            shutil.chown(copies[name], user)
    return copies


class Server:
    """A process that is ready once it can be connected to."""

    def __init__(self, make_command, log):
        """make_command(port) -> arguments; another port is tried where somebody took it."""
        self._log = log
        for _ in range(5):
            self.port = free_port()
            with open(log, "ab") as output:
                self.process = subprocess.Popen(
                    make_command(self.port), stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, cwd="/", start_new_session=True)
            if self._wait():
                return
        raise AssertionError(log.read_text(errors="replace")[-4000:])

    def _wait(self):
        until = time.monotonic() + 2 * TIMEOUT
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), TIMEOUT).close()
                # It may be somebody else's, who took the port.
                if self.process.poll() is None:
                    return True
            time.sleep(0.05)
        stop(self.process, signal.SIGKILL)
        return False


@contextlib.contextmanager
def postgres(folder, certificates):
    """A cluster: {"port", "socket" (its folder), "password"}; TCP, Unix socket and TLS."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"),
                      key=lambda path: int(path.split("/")[4]))
    assert programs, "postgresql is not installed"
    folder = give(folder / "postgres", "postgres")
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    os.chmod(password, 0o644)
    as_user = prepare("postgres", f"{programs[-1]}/postgres")
    made = subprocess.run(
        [*as_user, f"{programs[-1]}/initdb", "-D", data, "-U", "tester", "--no-sync", "-A",
         "scram-sha-256", "--pwfile", password, "--locale", "C", "-E", "UTF8"],
        capture_output=True, text=True, timeout=120, cwd="/")
    assert made.returncode == 0, made.stderr
    certificates = copy_certificates(certificates, data, "postgres")
    settings = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "60",
                "listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder),
                "ssl": "on", "ssl_cert_file": certificates["cert"],
                "ssl_key_file": certificates["key"], "log_min_messages": "panic"}

    def command(port):
        options = [f"--{name}={value}" for name, value in {**settings, "port": port}.items()]
        return [*as_user, f"{programs[-1]}/postgres", "-D", data, *options]

    server = Server(command, folder / "log")
    try:
        yield {"port": server.port, "socket": str(folder), "password": PASSWORD}
    finally:
        # A fast shutdown, by postgres itself: runuser hands on what it gets.
        stop_group(server.process, signal.SIGINT)


@contextlib.contextmanager
def redis(folder, certificates):
    """{"port", "tls_port", "socket"}"""
    folder = give(folder / "redis", "redis")
    as_user = prepare("redis", "redis-server")
    certificates = copy_certificates(certificates, folder, "redis")
    found = {"socket": str(folder / "socket")}

    def command(port):
        found["port"], found["tls_port"] = port, free_port()
        return [*as_user, "redis-server", "--port", str(port), "--bind", "127.0.0.1",
                "--tls-port", str(found["tls_port"]), "--tls-cert-file", certificates["cert"],
                "--tls-key-file", certificates["key"], "--tls-ca-cert-file", certificates["ca"],
                "--tls-auth-clients", "no", "--unixsocket", found["socket"],
                "--unixsocketperm", "777", "--save", "", "--appendonly", "no",
                "--dir", str(folder), "--daemonize", "no"]

    server = Server(command, folder / "log")
    try:
        yield found
    finally:
        stop_group(server.process, signal.SIGTERM)


def stop_group(process, number):
    """End a server and what it started; all are in the process group of the first."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    try:
        process.wait(TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
