# SPDX-License-Identifier: MulanPSL-2.0
"""Name servers of Debian for tests: nsd, knotd, unbound, named, dnsmasq.

Each runs on 127.0.0.1 at a port of its own, in the foreground, as the user
who runs the test, with all its files in a folder that the test gives. None
asks anybody outside. What is missing raises Missing.

named and unbound have AppArmor profiles on Debian, which do not let them into
folders of a test, where AppArmor is on: they start as copies in that folder.
"""
import ctypes
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "python" / "tests"))
from port_tools import free_port, given_range  # noqa: E402

# What a healthy machine never needs.
PATIENCE_SECONDS = 60
PR_SET_PDEATHSIG = 1


class Missing(Exception):
    """A program that the test needs is not installed."""


def find(program):
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Missing(f"there is no {program}: scripts/check installs it")
    return path


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One process, or one with children: a process group."""
    program = ""
    copied = False  # started as a copy, for AppArmor's profiles go by path

    def __init__(self, folder, name, probe, **settings):
        self.folder = Path(folder) / name
        self.folder.mkdir()
        self.name, self.probe, self.settings = name, probe, settings
        self.port = 0
        self.process = None
        self.path = find(self.program)
        if self.copied:
            self.path = shutil.copy(self.path, self.folder / self.program)

    @property
    def address(self):
        return f"127.0.0.1@{self.port}"

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    def configure(self):
        """Write the files; the command line."""
        raise NotImplementedError

    def start(self, port=None):
        for _ in range(5):
            self.port = port or free_port()
            with open(self.folder / "log", "ab") as log:
                self.process = subprocess.Popen(
                    [str(word) for word in self.configure()], stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                    preexec_fn=die_with_parent)
            if self.wait():
                return self
            ended = self.process.poll() is not None
            self.stop()
            if not ended or port:
                break
        raise RuntimeError(f"{self.name} does not start:\n{self.log()}")

    def log(self):
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def wait(self):
        """Until it answers the probe without a failure."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if ask(self.port, self.probe) == 0:
                return True
            time.sleep(0.05)
        return False

    def kill(self, number):
        os.killpg(self.process.pid, number)

    def stop(self, number=signal.SIGTERM):
        if not self.process:
            return
        if self.process.poll() is None:
            self.kill(signal.SIGCONT)
            self.kill(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill(signal.SIGKILL)
            self.process.wait()
        try:  # what it forked is of the same group
            self.kill(signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process = None


def ask(port, name, kind=6):
    """The rcode of a question for SOA, or None without an answer."""
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split(".") if x)
    query = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + labels + struct.pack("!BHH", 0, kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(query)
            reply = sock.recv(4096)
        except OSError:
            return None
    return reply[3] & 15 if len(reply) >= 12 and reply[:2] == query[:2] else None


class Nsd(Server):
    """settings: zones, a dictionary of texts; rate, the queries it answers a second; slip."""
    program = "nsd"

    def configure(self):
        rate = self.settings.get("rate", 0)
        text = f"""
server:
    ip-address: 127.0.0.1
    port: {self.port}
    server-count: 1
    username: ""
    chroot: ""
    database: ""
    zonesdir: "{self.folder}"
    pidfile: "{self.folder}/pid"
    xfrdfile: "{self.folder}/xfrd"
    zonelistfile: "{self.folder}/zones"
    xfrdir: "{self.folder}"
    rrl-ratelimit: {rate}
    rrl-slip: {self.settings.get("slip", 2)}
remote-control:
    control-enable: no
"""
        for number, (zone, content) in enumerate(self.settings["zones"].items()):
            text += f'zone:\n    name: "{zone}"\n    zonefile: "{number}.zone"\n'
            self.write(f"{number}.zone", content)
        return [self.path, "-d", "-c", self.write("nsd.conf", text)]


class Knot(Server):
    """settings: zones, as of Nsd; signed, cookies: the names of those that are."""
    program = "knotd"

    def configure(self):
        text = f"""
server:
    rundir: "{self.folder}"
    listen: 127.0.0.1@{self.port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{self.folder}/control"
database:
    storage: "{self.folder}"
log:
  - target: stderr
    any: info
mod-cookies:
  - id: always
    badcookie-slip: 1
template:
  - id: default
    storage: "{self.folder}"
zone:
"""
        for number, (zone, content) in enumerate(self.settings["zones"].items()):
            self.write(f"{number}.zone", content)
            text += f'  - domain: "{zone}"\n    file: "{number}.zone"\n'
            text += "    zonefile-sync: -1\n    zonefile-load: difference-no-serial\n"
            text += "    journal-content: all\n"
            if zone in self.settings.get("signed", ()):
                text += "    dnssec-signing: on\n"
            if zone in self.settings.get("cookies", ()):
                text += "    module: mod-cookies/always\n"
        return [self.path, "-c", self.write("knot.conf", text)]


class Unbound(Server):
    """
    settings: stubs, ports by zone; anchors, lines of DNSKEY or DS; certificate
    and key for DNS over TLS at tls_port.
    """
    program = "unbound"
    copied = True

    def configure(self):
        # By itself it asks from any port at all, which may be one of free_port().
        first_given, last_given = given_range()
        text = f"""
server:
    interface: 127.0.0.1@{self.port}
    port: {self.port}
    outgoing-interface: 127.0.0.1
    outgoing-port-avoid: 0-65535
    outgoing-port-permit: {first_given}-{last_given}
    do-ip6: no
    do-not-query-localhost: no
    do-daemonize: no
    num-threads: 1
    username: ""
    chroot: ""
    directory: "{self.folder}"
    pidfile: "{self.folder}/pid"
    use-syslog: no
    logfile: ""
    verbosity: 1
    module-config: "validator iterator"
    ede: yes
    serve-expired: yes
    serve-expired-reply-ttl: 7
    ede-serve-expired: yes
    outbound-msg-retry: 3
    local-zone: "test." nodefault
    local-zone: "2.0.192.in-addr.arpa." nodefault
    local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." nodefault
"""
        if "certificate" in self.settings:
            self.tls_port = free_port()
            text += f"""
    interface: 127.0.0.1@{self.tls_port}
    tls-port: {self.tls_port}
    tls-service-pem: "{self.settings["certificate"]}"
    tls-service-key: "{self.settings["key"]}"
"""
        for anchor in self.settings.get("anchors", ()):
            text += f'    trust-anchor: "{anchor}"\n'
        text += "remote-control:\n    control-enable: no\n"
        for zone, port in self.settings["stubs"].items():
            text += f'stub-zone:\n    name: "{zone}"\n    stub-addr: 127.0.0.1@{port}\n'
        return [self.path, "-d", "-p", "-c", self.write("unbound.conf", text)]


class Named(Server):
    """settings: zones, as of Nsd; orphans: zones whose primary is gone."""
    program = "named"
    copied = True

    def configure(self):
        version = subprocess.run([self.path, "-v"], capture_output=True, text=True, check=True).stdout
        release = tuple(int(part) for part in re.search(r"(\d+)\.(\d+)", version).groups())
        # Newer ones have neither the lock nor the option.
        lock = "lock-file none;" if release < (9, 19) else ""
        text = f"""
options {{
    directory "{self.folder}";
    pid-file "{self.folder}/pid";
    session-keyfile "{self.folder}/session.key";
    {lock}
    listen-on port {self.port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    recursion no;
    dnssec-validation no;
    require-server-cookie yes;
    notify no;
    minimal-responses no;
}};
controls {{ }};
"""
        for number, (zone, content) in enumerate(self.settings["zones"].items()):
            self.write(f"{number}.zone", content)
            text += f'zone "{zone}" {{ type primary; file "{number}.zone"; }};\n'
        for zone in self.settings.get("orphans", ()):
            text += (f'zone "{zone}" {{ type secondary; file "{zone}db"; '
                     f'primaries {{ 127.0.0.1 port {free_port()}; }}; }};\n')
        return [self.path, "-g", "-n", "1", "-c", self.write("named.conf", text)]


class Dnsmasq(Server):
    """settings: lines of its configuration."""
    program = "dnsmasq"

    def configure(self):
        first_given, last_given = given_range()  # as of Unbound
        text = f"""
port={self.port}
listen-address=127.0.0.1
min-port={first_given}
max-port={last_given}
bind-interfaces
no-resolv
no-hosts
no-poll
keep-in-foreground
user=
group=
pid-file={self.folder}/pid
log-facility=-
{self.settings["lines"]}
"""
        return [self.path, "--conf-file=" + str(self.write("dnsmasq.conf", text))]
