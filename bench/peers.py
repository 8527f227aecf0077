"""Who is measured: each peer starts on free ports, says which processes are its own, and is gone afterwards."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")


class Unavailable(Exception):
    """A peer that cannot be measured here, with the reason that the report gives."""


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def family(pids):
    """The processes and all their descendants that are alive."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], list(pids)
    while todo:
        pid = todo.pop()
        if pid not in found and Path(f"/proc/{pid}").exists():
            found.append(pid)
            todo += children.get(pid, [])
    return found


def cpu_seconds(pids):
    """User and system time of all threads, ended ones included."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def resident_mib(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return total / 2**20


class Place:
    """Where the two ends of a peer run: both here, or each in a network namespace at one end of a slow line."""

    def __init__(self, server_ip="127.0.0.1", client=(), server=()):
        self.server_ip, self.client, self.server = server_ip, list(client), list(server)


class Processes:
    """Processes that were started here, and only those, are ended here."""

    def __init__(self, folder):
        self.folder, self.started = Path(folder), []

    def start(self, argv, name, env=None):
        log = open(self.folder / f"{name}.log", "ab")
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        self.started.append(child)
        return child

    def pids(self):
        return family(child.pid for child in self.started)

    def stop(self):
        for child in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        for child in self.started:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self.started = []


def first_line(done):
    """What a failed command of ours says, in text or JSON."""
    said = done.stderr.strip()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        said = json.loads(said)["error"]["message"]
    return (said.splitlines() or [f"status {done.returncode}"])[0]


def wait_for_port(prefix, ip, port, child, seconds=10):
    """Until something listens; asked from inside the namespace that the prefix enters."""
    end = time.monotonic() + seconds
    wanted = f"{ip}:{port}"
    while time.monotonic() < end:
        listening = subprocess.run([*prefix, "ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
        if any(local in (wanted, f"0.0.0.0:{port}", f"*:{port}") for line in listening.splitlines() for local in line.split()):
            return
        if child is not None and child.poll() is not None:
            raise Unavailable(f"it ended at once with status {child.returncode}")
        time.sleep(0.02)
    raise Unavailable(f"nothing listened on {wanted} after {seconds} s")


class Web:
    """nginx with one small and one large resource, behind all of them."""

    SMALL, BULK = "/small", "/bulk"

    def __init__(self, folder, place, bulk_mib):
        if not shutil.which("nginx"):
            raise Unavailable("nginx is not installed")
        self.folder, self.place = Path(folder), place
        self.folder.mkdir()
        # In memory, so that no disk is measured. Real bytes: a hole would always be the one zero page.
        self.files = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else folder) / f"portdistrict-bench-{os.getpid()}-{self.folder.name}"
        self.files.mkdir()
        (self.files / "small").write_bytes(b"x" * 512)
        block = os.urandom(2**20)
        with open(self.files / "bulk", "wb") as bulk:
            for _ in range(bulk_mib):
                bulk.write(block)
        self.bulk_bytes = bulk_mib * 2**20
        self.port = free_port()
        self.target = f"{place.server_ip}:{self.port}"
        user = "user root;" if os.geteuid() == 0 else ""
        conf = self.folder / "nginx.conf"
        conf.write_text(f"""{user}
worker_processes 2; daemon off; master_process on; pid {self.folder}/pid; error_log {self.folder}/error.log;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000; client_header_timeout 900s; keepalive_timeout 900s;
  client_body_temp_path {self.folder}/b; proxy_temp_path {self.folder}/p; fastcgi_temp_path {self.folder}/f;
  uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
  server {{ listen {self.target} backlog=8192 reuseport; root {self.files}; }}
}}
""")
        self.processes = Processes(self.folder)
        child = self.processes.start([*place.server, "nginx", "-c", str(conf), "-e", f"{self.folder}/error.log"], "nginx")
        wait_for_port(place.server, place.server_ip, self.port, child)

    def stop(self):
        self.processes.stop()
        shutil.rmtree(self.files, ignore_errors=True)


class Peer:
    """One way to the web server. `proxy` is the SOCKS5 address of the client's end, or None for the direct way."""

    name = "direct"
    proxy = None

    def __init__(self, folder, place, web):
        self.folder, self.place, self.web = Path(folder), place, web
        self.folder.mkdir(parents=True)
        self.processes = Processes(self.folder)

    def start(self):
        pass

    def pids(self):
        return self.processes.pids()

    def stop(self):
        self.processes.stop()

    @classmethod
    def version(cls):
        return ""


def package_version(package):
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    return found.stdout if found.returncode == 0 else ""


class Shadowsocks(Peer):
    cipher = "aes-256-gcm"
    name = "shadowsocks aes-256-gcm"

    def start(self):
        if not shutil.which("ss-server"):
            raise Unavailable("shadowsocks-libev is not installed")
        remote, local, ip = free_port(), free_port(), self.place.server_ip
        common = ["-p", str(remote), "-s", ip, "-k", "bench", "-m", self.cipher, "--no-delay", "-n", "65536", "-t", "600"]
        child = self.processes.start([*self.place.server, "ss-server", *common], "ss-server")
        wait_for_port(self.place.server, ip, remote, child)
        child = self.processes.start([*self.place.client, "ss-local", "-b", "127.0.0.1", "-l", str(local), *common], "ss-local")
        wait_for_port(self.place.client, "127.0.0.1", local, child)
        self.proxy = f"127.0.0.1:{local}"

    @classmethod
    def version(cls):
        return package_version("shadowsocks-libev")


class ShadowsocksChacha(Shadowsocks):
    cipher = "chacha20-ietf-poly1305"
    name = "shadowsocks chacha20"


class Microsocks(Peer):
    """One hop and no encryption: what a proxy costs at the least."""

    name = "microsocks"

    def start(self):
        if not shutil.which("microsocks"):
            raise Unavailable("microsocks is not installed")
        port = free_port()
        child = self.processes.start(["microsocks", "-i", "127.0.0.1", "-p", str(port)], "microsocks")
        wait_for_port((), "127.0.0.1", port, child)
        self.proxy = f"127.0.0.1:{port}"

    @classmethod
    def version(cls):
        return package_version("microsocks")


class Dante(Peer):
    """One hop and no encryption, with many processes."""

    name = "dante"

    def start(self):
        if not shutil.which("danted"):
            raise Unavailable("dante-server is not installed")
        port, conf = free_port(), self.folder / "danted.conf"
        conf.write_text(f"""errorlog: {self.folder}/errors
internal: 127.0.0.1 port = {port}
external: 127.0.0.1
socksmethod: none
clientmethod: none
user.unprivileged: {"nobody" if os.geteuid() == 0 else os.environ.get("USER", "nobody")}
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
""")
        child = self.processes.start(["danted", "-f", str(conf), "-p", str(self.folder / "pid")], "danted")
        wait_for_port((), "127.0.0.1", port, child)
        self.proxy = f"127.0.0.1:{port}"

    @classmethod
    def version(cls):
        return package_version("dante-server")


class Portdistrict(Peer):
    """A node on this machine, lent to a friend whose `exit connect` is the proxy."""

    name = "portdistrict"
    binary = None
    # More words for `machine deploy`.
    deploy = ()

    def home(self, who):
        return {**os.environ, "PORTDISTRICT_HOME": str(self.folder / who)}

    def run(self, who, *words, prefix=()):
        argv = [*prefix, self.binary, *words]
        done = subprocess.run(argv, env=self.home(who), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Unavailable(f"`portdistrict {' '.join(words[:2])}`: {first_line(done)}")
        return done.stdout

    def node(self):
        """A node with the web server on its allow-list, ours."""
        if self.binary is None:
            raise Unavailable("the program was not built")
        there, ip = self.place.server, self.place.server_ip
        self.port = free_port()
        self.run("owner", "init")
        self.run("owner", "machine", "deploy", "--on", "local", "--label", "bench", "--listen", ip, "--port", str(self.port),
                 "--address", f"{ip}:{self.port}", "--allow", self.web.target, *self.deploy, prefix=there)
        self.deployed = True
        self.run("owner", "machine", "claim", "bench", prefix=there)

    def invite(self, friend, *more):
        said = self.run("owner", "exit", "invite", "--node", "bench", "--for", friend, *more, "--json", prefix=self.place.server)
        blob = re.search(r"portdistrict-invite1:[A-Za-z0-9_-]+", json.dumps(json.loads(said)))
        if not blob:
            raise Unavailable("`exit invite --json` printed no invite")
        return blob.group(0)

    def start(self):
        self.node()
        blob, port = self.invite("anna"), free_port()
        argv = [*self.place.client, self.binary, "exit", "connect", blob, "--port", str(port)]
        child = self.processes.start(argv, "connect", env=self.home("friend"))
        wait_for_port(self.place.client, "127.0.0.1", port, child)
        self.proxy = f"127.0.0.1:{port}"

    def node_pids(self):
        """The node is detached, so it is found by the folder it works in."""
        mark, found = str(self.folder / "owner").encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def pids(self):
        return [*super().pids(), *self.node_pids()]

    def stop(self):
        super().stop()
        if getattr(self, "deployed", False):
            with contextlib.suppress(Unavailable, subprocess.TimeoutExpired):
                self.run("owner", "machine", "destroy", "bench", "--yes", prefix=self.place.server)

    @classmethod
    def version(cls):
        if cls.binary is None:
            return ""
        return subprocess.run([cls.binary, "--version"], capture_output=True, text=True).stdout.strip().removeprefix("portdistrict ")
