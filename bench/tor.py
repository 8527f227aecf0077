"""Measures the exit over Tor beside a plain tor client and a plain onion service, on one private network; `ci/bench --tor` calls it.

Both ways lead to the same web server. Every figure is the median over interleaved rounds, ratios compare within a round.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers
from peers import Place, Unavailable
from report import number, table
from run import machine, say

OURS, BASE = "portdistrict", "tor"
# What a torrc makes of an onion address for programs that know only numbers (RFC 5737).
MAPPED = "192.0.2.80"
METRICS = [
    ("bulk", "one download", "MB/s", 2, (">=", 0.9)),
    ("p50", "small GET through a fresh connection, median", "ms", 1, ("<=", 1.1)),
    ("page80", "80 GETs at once, over the circuits that are there", "ms", 0, None),
    ("apart80", "80 GETs at once, each over an onion connection of its own", "ms", 0, None),
    ("cold", "from the start of the program, with nothing cached, to the end of a small page", "s", 2, None),
]


class Network:
    """The private network of `examples/pd-tornet.rs`; it ends when its input does."""

    def __init__(self, tool, folder):
        self.child = subprocess.Popen([tool, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self.child.stdout.readline()
        if not said:
            raise Unavailable("the private Tor network did not start")
        said = json.loads(said)
        self.arti, self.torrc, self.relays = said["arti"], said["torrc"], said["relays"]

    def stop(self):
        self.child.stdin.close()
        self.child.wait(30)


class Tor(peers.Peer):
    """Two `tor` processes: one hosts an onion service before the web server, one is the client."""

    name = BASE

    def __init__(self, folder, place, web, network):
        super().__init__(folder, place, web)
        self.network = network

    def torrc(self, name, lines):
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        path = self.folder / f"{name}.torrc"
        text = Path(self.network.torrc).read_text()
        path.write_text(f"{text}DataDirectory {folder}\nLog notice file {self.folder}/{name}.log\n" + "\n".join(lines) + "\n")
        return str(path)

    def start(self):
        service = self.folder / "onion"
        web = self.web.target
        self.processes.start(["tor", "-f", self.torrc("service", ["SocksPort 0", f"HiddenServiceDir {service}", f"HiddenServicePort 80 {web}"])], "service")
        hostname = service / "hostname"
        wait(hostname.exists, "the onion service")
        self.onion = hostname.read_text().strip()
        self.proxy = self.client("client")
        self.fetch(self.proxy)

    def client(self, name):
        port = peers.free_port()
        self.processes.start(["tor", "-f", self.torrc(name, [f"SocksPort 127.0.0.1:{port}", f"MapAddress {MAPPED} {self.onion}"])], name)
        peers.wait_for_port((), "127.0.0.1", port, None)
        return f"127.0.0.1:{port}"

    def fetch(self, proxy):
        """The first page, asked for until it comes."""
        ask = ["curl", "-sf", "--max-time", "30", "-o", "/dev/null", "--proxy", f"socks5h://{proxy}", f"http://{self.onion}{self.web.SMALL}"]
        wait(lambda: subprocess.run(ask).returncode == 0, "a page over tor")


def wait(is_so, what, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise Unavailable(f"{what} did not come within {seconds} s")
        time.sleep(0.02)


class Bench:
    def __init__(self, options):
        self.o, self.values = options, {}
        self.work = Path(tempfile.mkdtemp(prefix="portdistrict-bench-"))
        self.serial = 0

    def record(self, metric, peer, value):
        self.values.setdefault(metric, {}).setdefault(peer, []).append(value)

    def load(self, job, target, proxy, path, *more):
        argv = [str(Path(self.o.tools) / "pd-load"), job, "--target", target, "--path", path, "--proxy", proxy, *map(str, more)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
        if done.returncode != 0:
            raise Unavailable(f"the load `{job}` failed: {done.stderr.strip()[-200:]}")
        said = json.loads(done.stdout)
        if said.get("failed"):
            raise Unavailable(f"{said['failed']} requests failed: {said['error']}")
        return said

    def one_round(self, name, target, proxy, web):
        self.load("get", target, proxy, web.SMALL, "--count", 10)  # warm
        bulk = self.load("bulk", target, proxy, web.BULK, "--repeat", 1)
        self.record("bulk", name, bulk["gbit_s"] * 125)
        self.record("p50", name, self.load("get", target, proxy, web.SMALL, "--count", self.o.small)["p50_ms"])
        eighty = [self.load("get", target, proxy, web.SMALL, "--count", 80, "--parallel", 80)["seconds"] for _ in range(3)]
        self.record("page80", name, statistics.median(eighty) * 1e3)

    def apart(self, tor, web):
        """80 circuits: tor gives each SOCKS user one of its own."""
        self.serial += 1
        begun = time.monotonic()
        ask = ["curl", "-sf", "--max-time", "120", "-o", "/dev/null", "--proxy", f"socks5h://{tor.proxy}", f"http://{tor.onion}{web.SMALL}"]
        children = [subprocess.Popen([*ask, "--proxy-user", f"{self.serial}-{n}:x"]) for n in range(80)]
        failed = sum(child.wait() != 0 for child in children)
        if failed:
            raise Unavailable(f"{failed} of 80 onion connections failed")
        self.record("apart80", BASE, (time.monotonic() - begun) * 1e3)

    def cold(self, ours, tor, web):
        self.serial += 1
        blob = ours.invite(f"cold{self.serial}")
        env = {**os.environ, "PORTDISTRICT_HOME": str(self.work / "nobody")}
        ask = [ours.binary, "--quiet", "exit", "try", blob, "--", "sh", "-c", 'curl -sf -o /dev/null "$0" && date +%s%N', f"http://{web.target}{web.SMALL}"]
        begun = time.time_ns()
        done = subprocess.run(ask, env=env, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise Unavailable(peers.first_line(done))
        self.record("cold", OURS, (int(done.stdout.split()[-1]) - begun) / 1e9)
        begun = time.monotonic()
        tor.fetch(tor.client(f"cold{self.serial}"))
        self.record("cold", BASE, time.monotonic() - begun)
        tor.processes.started.pop().terminate()

    def run(self):
        place = Place()
        network = web = None
        alive = []
        try:
            web = peers.Web(self.work / "web", place, self.o.bulk_mib)
            say("== a private Tor network")
            network = Network(str(Path(self.o.tools) / "pd-tornet"), self.work / "network")
            os.environ["PORTDISTRICT_TOR_CONFIG"] = network.arti
            tor = Tor(self.work / "tor", place, web, network)
            alive.append(tor)
            tor.start()
            ours = peers.Portdistrict(self.work / "ours", place, web)
            ours.deploy = ["--tor"]
            alive.append(ours)
            ours.start()
            both = [(OURS, web.target, ours.proxy), (BASE, f"{MAPPED}:80", tor.proxy)]
            for number_ in range(1, self.o.rounds + 1):
                for name, target, proxy in both[:: 1 if number_ % 2 else -1]:
                    say(f"round {number_} of {self.o.rounds}: {name}")
                    self.one_round(name, target, proxy, web)
                self.apart(tor, web)
                self.cold(ours, tor, web)
        finally:
            for one in [*alive, web, network]:
                if one:
                    one.stop()
            shutil.rmtree(self.work, ignore_errors=True)
        return {
            "v": 1,
            "machine": machine(),
            "versions": {OURS: peers.Portdistrict.version(), BASE: peers.package_version("tor")},
            "rounds": self.o.rounds,
            "bulk_mib": self.o.bulk_mib,
            "relays": network.relays,
            "values": self.values,
        }


def median(results, metric, peer):
    values = results["values"].get(metric, {}).get(peer)
    return statistics.median(values) if values else None


def ratio(results, metric, ours=OURS, base=BASE, base_metric=None):
    pairs = zip(results["values"][metric][ours], results["values"][base_metric or metric][base])
    return statistics.median(a / b for a, b in pairs)


def targets(results):
    rows = [["what", "is", "should be", "met"]]
    for metric, title, _, _, target in METRICS:
        if target:
            sign, bound = target
            value = ratio(results, metric)
            held = value >= bound if sign == ">=" else value <= bound
            rows.append([title, f"{value:.2f}×", f"{'≥' if sign == '>=' else '≤'} {bound}×", "yes" if held else "**no**"])
    share = ratio(results, "page80", base_metric="apart80")
    rows.append(["80 GETs at once against 80 onion connections of tor", f"{share:.2f}×", "< 0.25×", "yes" if share < 0.25 else "**no**"])
    cold = median(results, "cold", OURS)
    rows.append(["cold start to the end of a small page", f"{cold:.2f} s", "< 5 s", "yes" if cold < 5 else "**no**"])
    return table(rows)


def figures(results):
    rows = [["median of the rounds", OURS, BASE]]
    for metric, title, unit, decimals, _ in METRICS:
        rows.append([f"{title} ({unit})", *(number(median(results, metric, peer), decimals) for peer in (OURS, BASE))])
    return table(rows)


def page(results):
    m = results["machine"]
    return f"""# Benchmarks over Tor

Written by `ci/bench --tor` on {m["day"]}; do not edit. One run on a machine with {m["cores"]} cores and {m["memory_gib"]} GiB (Linux {m["kernel"]}),
{results["rounds"]} rounds in changing order. Everything shares these cores: a private network of {results["relays"]} relays, the web server, the load, and
what is measured: `exit connect` (Arti) and a node as onion service, against a `tor` client and a `tor` onion service before the same web
server. Versions: portdistrict {results["versions"][OURS]}, tor {results["versions"][BASE]}.

A circuit to an onion service has six relays, and each of them runs here. The figures compare the two programs; they say little about the
real network, where the way is long and the relays are not yours. Circuits are drawn anew in each run, and the download and the small GET vary
with them by a factor of four or more from run to run, for both programs: one run shows neither that a target is met nor that it is missed.

## Against the targets

{targets(results)}

## All figures

{figures(results)}

## How it is measured

- *One download*: {results["bulk_mib"]} MiB of random bytes over one connection.
- *Small GET*: 512 bytes, one after the other, each through a fresh SOCKS connection, from before its `connect` to its last byte. Ours is
  encrypted once more, end to end with the node, and its SOCKS reply waits until the node has reached the web server.
- *80 onion connections*: 80 programs start together, each as another SOCKS user, so that tor gives each a circuit of its own.
- *Cold*: no list of relays, no guards, no descriptor. Ours is `exit try`; tor is started with an empty folder and asked until it answers.
"""


def main():
    p = argparse.ArgumentParser(prog="ci/bench --tor", description="Measure the exit over Tor beside plain tor, on a private network.")
    p.add_argument("--quick", action="store_true", help="two rounds of small amounts; does not write into docs/")
    p.add_argument("--rounds", type=int, help="interleaved rounds")
    p.add_argument("--out", type=Path, help="where to write; docs for a full run, else beside the build")
    p.add_argument("--portdistrict", help=argparse.SUPPRESS)
    p.add_argument("--tools", required=True, help=argparse.SUPPRESS)
    p.add_argument("--scratch", type=Path, default=Path("bench-out"), help=argparse.SUPPRESS)
    o = p.parse_args()
    o.rounds = o.rounds or (2 if o.quick else 5)
    o.bulk_mib, o.small = (8, 50) if o.quick else (32, 300)
    o.out = o.out or (o.scratch if o.quick else Path("docs"))
    peers.Portdistrict.binary = o.portdistrict
    try:
        results = Bench(o).run()
    except Unavailable as why:
        sys.exit(f"error: {why}")
    (o.out / "benchmarks").mkdir(parents=True, exist_ok=True)
    (o.out / "benchmarks" / "tor.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    (o.out / "benchmarks-tor.md").write_text(page(results))
    print(targets(results) + "\n\n" + figures(results))
    say(f"written: {o.out}/benchmarks-tor.md")


if __name__ == "__main__":
    main()
