"""Measures portdistrict and its peers in interleaved rounds; `ci/bench` builds what it needs and calls it.

Every figure is the median over the rounds, each round measures every peer once, and ratios compare within a round. What
cannot be measured stands in the report with the reason.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers
import report
from link import Link
from peers import Place, Unavailable

LOOPBACK = [peers.Portdistrict, peers.Shadowsocks, peers.ShadowsocksChacha, peers.Microsocks, peers.Dante]
BASE = peers.Shadowsocks.name
OURS = peers.Portdistrict.name


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, options):
        self.o = options
        self.load_tool = str(Path(options.tools) / "pd-load")
        self.storm_tool = str(Path(options.tools) / "pd-storm")
        self.work = Path(tempfile.mkdtemp(prefix="portdistrict-bench-"))
        self.rounds = {}  # metric -> peer -> [value, …]
        self.notes = []  # what could not be measured, and why
        self.serial = 0

    # Small things.

    def folder(self, name):
        self.serial += 1
        return self.work / f"{self.serial}-{name.replace(' ', '-')}"

    def record(self, metric, peer, value):
        self.rounds.setdefault(metric, {}).setdefault(peer, []).append(value)

    def note(self, who, why):
        text = f"{who}: {why}"
        if text not in self.notes:
            self.notes.append(text)
            say(f"NOT MEASURED: {text}")

    def load(self, job, web, proxy, path, *more, prefix=(), **popen):
        argv = [*prefix, self.load_tool, job, "--target", web.target, "--path", path, *map(str, more)]
        if proxy:
            argv += ["--proxy", proxy]
        if popen:
            return subprocess.Popen(argv, **popen)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise Unavailable(f"the load `{job}` failed: {done.stderr.strip()[-200:]}")
        said = json.loads(done.stdout)
        if said.get("failed") and job == "get":
            self.note(job, f"{said['failed']} of {more} failed: {said['error']}")
        return said

    @contextlib.contextmanager
    def running(self, kind, place, web):
        peer = kind(self.folder(kind.name), place, web)
        try:
            peer.start()
            yield peer
        finally:
            peer.stop()

    # On loopback.

    def loopback(self):
        place = Place()
        web = peers.Web(self.folder("web"), place, self.o.bulk_mib)
        with contextlib.ExitStack() as stack:
            stack.callback(web.stop)
            alive = []
            for kind in LOOPBACK:
                if self.o.only and not any(word in kind.name for word in self.o.only):
                    continue
                try:
                    alive.append(stack.enter_context(self.running(kind, place, web)))
                except Unavailable as why:
                    self.note(kind.name, why)
            for number in range(1, self.o.rounds + 1):
                # Another order each time, so that no peer always follows the same one.
                shift = number % max(len(alive), 1)
                for peer in alive[shift:] + alive[:shift]:
                    say(f"round {number} of {self.o.rounds}: {peer.name}")
                    try:
                        self.one_round(peer, web)
                    except Unavailable as why:
                        self.note(peer.name, why)
        self.memory(place)

    def one_round(self, peer, web):
        self.load("get", web, peer.proxy, web.SMALL, "--count", 50)  # warm
        before, pids = peers.cpu_seconds(peer.pids()), peer.pids()
        bulk = self.load("bulk", web, peer.proxy, web.BULK, "--repeat", self.o.repeat)
        used = peers.cpu_seconds(pids) - before
        self.record("bulk", peer.name, bulk["gbit_s"])
        self.record("cpu", peer.name, used / (bulk["bytes"] / 1e9))

        small = self.load("get", web, peer.proxy, web.SMALL, "--count", self.o.small)
        self.record("p50", peer.name, small["p50_ms"])
        self.record("p99", peer.name, small["p99_ms"])

        eighty = [self.load("get", web, peer.proxy, web.SMALL, "--count", 80, "--parallel", 80) for _ in range(self.o.eighty)]
        self.record("page80", peer.name, statistics.median(one["seconds"] for one in eighty) * 1e3)

        burst = self.load("get", web, peer.proxy, web.SMALL, "--count", 2000, "--parallel", 2000)
        self.record("burst2000", peer.name, burst["seconds"])
        self.record("burst2000_failed", peer.name, burst["failed"])

        many = self.load("get", web, peer.proxy, web.SMALL, "--count", self.o.connections, "--parallel", 32)
        self.record("rate", peer.name, many["per_second"])

    def memory(self, place):
        """Freshly started, since earlier work leaves its buffers behind in everyone."""
        web = peers.Web(self.folder("web"), place, 1)
        try:
            for kind in LOOPBACK:
                if kind.name not in self.rounds.get("bulk", {}):
                    continue
                try:
                    with self.running(kind, place, web) as peer:
                        self.load("get", web, peer.proxy, web.SMALL, "--count", 20)
                        self.record("idle", kind.name, peers.resident_mib(peer.pids()))
                        self.record("held1000", kind.name, self.held(peer, web, 1000))
                except Unavailable as why:
                    self.note(kind.name, why)
        finally:
            web.stop()

    def held(self, peer, web, count):
        child = self.load("hold", web, peer.proxy, web.SMALL, "--count", count, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self.while_open(child, "open", count, peer.pids)

    def while_open(self, child, what, count, pids):
        """The memory of these processes while a child holds something open."""
        try:
            said = json.loads(child.stdout.readline() or "{}")
            if said.get(what) != count:
                raise Unavailable(f"only {said.get(what)} of {count} {what}: {said.get('error')}")
            time.sleep(1)
            return peers.resident_mib(pids())
        finally:
            rest = child.communicate()[0]
            if json.loads(rest or "{}").get("alive", count) != count:
                self.note(what, f"of {count} not all were alive at the end: {rest.strip()}")

    # A friend's download while strangers throw garbage at the node.

    def garbage(self):
        place = Place()
        web = peers.Web(self.folder("web"), place, self.o.bulk_mib)
        sink_port = peers.free_port()
        sink = subprocess.Popen([self.load_tool, "sink", "--listen", f"127.0.0.1:{sink_port}"])
        try:
            with self.running(peers.Portdistrict, place, web) as peer:
                for _ in range(self.o.rounds):
                    free = self.under(web, peer, None)
                    sunk = self.under(web, peer, f"127.0.0.1:{sink_port}")
                    hit = self.under(web, peer, f"127.0.0.1:{peer.port}")
                    self.record("garbage_all", OURS, 1 - hit / free)
                    self.record("garbage", OURS, 1 - hit / sunk)
        except Unavailable as why:
            self.note("garbage handshakes", why)
        finally:
            sink.kill()
            sink.wait()
            web.stop()

    def under(self, web, peer, target):
        """The rate of a download while strangers talk to that address."""
        seconds = self.o.garbage_seconds
        noise = None
        if target:
            noise = subprocess.Popen([self.storm_tool, "garbage", "--address", target, "--seconds", str(seconds + 1)], stdout=subprocess.PIPE, text=True)
            time.sleep(0.5)
        try:
            rate = self.load("bulk", web, peer.proxy, web.BULK, "--repeat", 1000, "--seconds", seconds)["gbit_s"]
        finally:
            if noise:
                said = json.loads(noise.communicate()[0] or "{}")
                say(f"garbage to {target}: {said.get('per_second', 0):.0f} connections/s, {said.get('answered')} answered; download {rate:.2f} Gbit/s")
        return rate

    # Sessions by themselves.

    def sessions(self):
        place = Place()
        web = peers.Web(self.folder("web"), place, 1)
        peer = peers.Portdistrict(self.folder("sessions"), place, web)
        try:
            peer.node()
            blob = peer.invite("many", "--mode", "many")
            for _ in range(self.o.rounds):
                argv = [self.storm_tool, "handshakes", "--invite", blob, "--count", str(self.o.handshakes)]
                done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
                if done.returncode != 0:
                    raise Unavailable(f"handshakes: {done.stderr.strip()[-200:]}")
                self.record("handshakes", OURS, json.loads(done.stdout)["per_second"])
            argv = [self.storm_tool, "idle", "--invite", blob, "--count", str(self.o.sessions)]
            child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.record("sessions10000", OURS, self.while_open(child, "sessions", self.o.sessions, peer.node_pids))
        except Unavailable as why:
            self.note("sessions", why)
        finally:
            peer.stop()
            web.stop()

    # Over a slow line.

    def line(self, rtt_ms, mbit, kinds, measure):
        try:
            with Link(str(Path(self.o.tools) / "pd-link"), rtt_ms, mbit, congestion()) as place:
                web = peers.Web(self.folder("web"), place, self.o.bulk_mib)
                try:
                    for kind in kinds:
                        if self.o.only and not any(word in kind.name for word in self.o.only):
                            continue
                        try:
                            with self.running(kind, place, web) as peer:
                                for _ in range(self.o.line_rounds):
                                    measure(peer, web)
                        except Unavailable as why:
                            self.note(f"{kind.name} over a line of {rtt_ms} ms", why)
                finally:
                    web.stop()
        except Unavailable as why:
            self.note(f"a line of {rtt_ms} ms", why)

    def far(self, peer, web):
        said = self.load("bulk", web, peer.proxy, web.BULK, "--repeat", 1000, "--seconds", self.o.line_seconds, "--skip", 4,
                         prefix=peer.place.client)
        say(f"100 ms, 1 Gbit/s: {peer.name}: {said['steady_gbit_s']:.3f} Gbit/s, with the start {said['gbit_s']:.3f}")
        self.record("line_steady", peer.name, said["steady_gbit_s"])
        self.record("line_whole", peer.name, said["gbit_s"])

    def first_byte(self, peer, web):
        """From the start of the program to the first byte of the page."""
        self.first_byte_by(peer, web, "first_byte")
        if isinstance(peer, peers.Portdistrict):
            self.first_byte_by(peer, web, "first_byte_http", "--http")

    def first_byte_by(self, peer, web, metric, *more):
        ask = [self.load_tool, "first", "--target", web.target, "--path", web.SMALL, *more]
        env = None
        if isinstance(peer, peers.Portdistrict):
            ask = [peer.binary, "--quiet", "exit", "try", peer.invite("ben"), "--", *ask]
            env = {**os.environ, "PORTDISTRICT_HOME": str(self.folder("nobody"))}
        elif peer.proxy:
            env = {**os.environ, "ALL_PROXY": f"socks5h://{peer.proxy}"}
        # The clock starts inside the namespace, so that entering it does not count.
        argv = [*peer.place.client, "sh", "-c", 'date +%s%N; exec "$@"', "sh", *ask]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        if done.returncode != 0 or len(lines) < 2:
            raise Unavailable(peers.first_line(done))
        self.record(metric, peer.name, (json.loads(lines[-1])["at_ns"] - int(lines[0])) / 1e6)

    # All of it.

    def run(self):
        parts = {
            "loopback": self.loopback,
            "garbage": self.garbage,
            "sessions": self.sessions,
            "far": lambda: self.line(100, 1000, [peers.Peer, peers.Portdistrict, peers.Shadowsocks], self.far),
            "first": lambda: self.line(50, 1000, [peers.Peer, peers.Portdistrict, peers.Shadowsocks], self.first_byte),
        }
        try:
            for name in self.o.parts or parts:
                say(f"== {name}")
                parts[name]()
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
        return {
            "v": 1,
            "machine": machine(),
            "versions": {kind.name: kind.version() for kind in LOOPBACK},
            "rounds": self.o.rounds,
            "bulk_bytes": self.o.bulk_mib * self.o.repeat * 2**20,
            "base": BASE,
            "ours": OURS,
            "values": self.rounds,
            "not_measured": self.notes,
        }


def congestion():
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def machine():
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "kernel": platform.release(),
        "congestion": congestion(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def options():
    p = argparse.ArgumentParser(prog="ci/bench", description="Measure portdistrict and its peers in one run.")
    p.add_argument("--quick", action="store_true", help="small amounts and few rounds; does not write into docs/")
    p.add_argument("--rounds", type=int, help="interleaved rounds")
    p.add_argument("--only", action="append", metavar="WORD", help="only peers whose name contains this; may be given several times")
    p.add_argument("--parts", nargs="+", choices=["loopback", "garbage", "sessions", "far", "first"], help="only these parts")
    p.add_argument("--out", type=Path, help="where to write; docs for a full run, else beside the build")
    p.add_argument("--portdistrict", help=argparse.SUPPRESS)
    p.add_argument("--tools", required=True, help=argparse.SUPPRESS)
    p.add_argument("--scratch", type=Path, default=Path("bench-out"), help=argparse.SUPPRESS)
    o = p.parse_args()
    q = o.quick
    whole = not (q or o.only or o.parts)
    o.rounds = o.rounds or (2 if q else 5)
    o.bulk_mib, o.repeat = (512, 2) if q else (1024, 4)
    o.small, o.eighty, o.connections = (500, 5, 4000) if q else (3000, 15, 20000)
    o.garbage_seconds, o.handshakes, o.sessions = (3, 4000, 10000) if q else (8, 15000, 10000)
    o.line_rounds, o.line_seconds = (1, 10) if q else (3, 15)
    o.out = o.out or (Path("docs") if whole else o.scratch)
    return o


def main():
    o = options()
    peers.Portdistrict.binary = o.portdistrict
    results = Bench(o).run()
    report.write(results, o.out)
    print(report.summary(results))
    say(f"written: {o.out}/benchmarks.md")


if __name__ == "__main__":
    main()
