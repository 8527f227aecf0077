"""Measures images and the machines that boot them: size, time to ready, memory; `ci/bench --image` calls it."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from report import number, table
from run import machine, say

MIB = 1024 * 1024
METRICS = [
    ("image", "the image as it is sent to Google", "MiB", 1, 32),
    ("build", "to build it, packages being there", "s", 1, None),
    ("ready", "from the start of QEMU to a node that waits for its owner", "s", 1, 15),
    ("ready_tpm", "the same with a TPM", "s", 1, None),
    ("memory", "memory in use, ready, without Tor", "MiB", 0, 96),
    ("memory_tor", "memory in use, ready as an onion service", "MiB", 0, 160),
]


class Operator:
    """A home of its own with one virtual machine at a time."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.env = {"PATH": os.environ["PATH"], "PORTDISTRICT_HOME": str(folder / "home")}
        if not (folder / "home").exists():
            self.run("init")

    def run(self, *words):
        done = subprocess.run([self.binary, *words], env=self.env, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"portdistrict {' '.join(words)}: {done.stderr}")
        return done.stdout

    def deploy(self, *more):
        """Boots a machine; seconds until it waits for its owner."""
        self.run("machine", "deploy", "--on", "qemu", "--image", "out", "--label", "vm", "--listen", "127.0.0.1", *more)
        # The image's copy is not the machine's boot: the pid file is written when QEMU has opened everything.
        place = self.folder / "home/state/machines/vm"
        started = (place / "qemu.pid").stat().st_mtime
        return (place / "serial.log").stat().st_mtime - started

    def memory(self):
        """Bytes in use inside, as the machine's last inventory says."""
        text = (self.folder / "home/state/machines/vm/serial.log").read_text(errors="replace")
        found = [json.loads(line) for line in text.splitlines() if '"machine.inventory"' in line]
        return found[-1]["memory_total"] - found[-1]["memory_available"]

    def destroy(self):
        self.run("machine", "destroy", "vm", "--yes")


def measure(operator, rounds):
    figures = {}
    operator.run("machine", "build", "-o", "out")
    # The first build fetched the packages.
    begun = time.monotonic()
    operator.run("machine", "build", "-o", "out")
    figures["build"] = time.monotonic() - begun
    figures["image"] = (operator.folder / "out/image.tar.gz").stat().st_size / MIB
    ready, with_tpm, memory = [], [], []
    for _ in range(rounds):
        ready.append(operator.deploy())
        memory.append(operator.memory() / MIB)
        operator.destroy()
        with_tpm.append(operator.deploy("--tpm"))
        operator.destroy()
    figures["ready"], figures["ready_tpm"] = statistics.median(ready), statistics.median(with_tpm)
    figures["memory"] = statistics.median(memory)
    return figures


ADDRESS = "10.77.0.1"


def measure_tor(binary, tools, folder):
    """Memory of a machine that is an onion service, over a private network. Both are in a network of their own: from inside the
    machine the host's loopback cannot be reached under its name, the address that is made here can."""
    script = f"ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec python3 {__file__} --tor-part {folder} --portdistrict {binary} --tools {tools} --scratch {folder}"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode:
        say(f"NOT MEASURED: the machine over Tor: {done.stderr.strip()[-500:]}")
        return None
    return float(done.stdout)


def tor_part(binary, tools, folder):
    network = subprocess.Popen([f"{tools}/pd-tornet", str(folder / "network"), ADDRESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    arti = json.loads(network.stdout.readline())["arti"]
    operator = Operator(binary, folder)
    operator.env["PORTDISTRICT_TOR_CONFIG"] = arti
    try:
        operator.deploy("--tor")
        operator.run("machine", "claim", "vm")
        return operator.memory() / MIB
    finally:
        operator.destroy()
        network.stdin.close()
        network.wait(30)


def page(figures, rounds):
    here = machine()
    rows = []
    for key, what, unit, digits, limit in METRICS:
        value = figures.get(key)
        shown = "not measured" if value is None else f"{number(value, digits)} {unit}"
        met = "" if limit is None or value is None else ("yes" if value <= limit else "**no**")
        rows.append([what, shown, "" if limit is None else f"≤ {limit} {unit}", met])
    return f"""# Benchmarks of images

Written by `ci/bench --image` on {time.strftime("%Y-%m-%d")}; do not edit. One run on a machine with {here["cores"]} cores and {here["memory_gib"]} GiB
(Linux {here["kernel"]}), median of {rounds} rounds. The machines have two processors and 256 MiB and run under QEMU without hardware acceleration.

{table([["what", "is", "should be", "met"], *rows])}

Memory in use is what `/proc/meminfo` of the machine lacks of its total when the node is ready: the kernel, the root file system with the
program in it, and the node.
"""


def main():
    parser = argparse.ArgumentParser(prog="ci/bench --image", description=__doc__)
    parser.add_argument("--portdistrict", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--tools", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", required=True, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of deploys (3)")
    parser.add_argument("--tor-part", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tor_part:
        print(tor_part(args.portdistrict, args.tools, args.tor_part))
        return
    args.scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=args.scratch))
    operator = Operator(args.portdistrict, folder)
    try:
        figures = measure(operator, args.rounds)
        figures["memory_tor"] = measure_tor(args.portdistrict, args.tools, folder)
    finally:
        subprocess.run([args.portdistrict, "machine", "destroy", "vm", "--yes"], env=operator.env, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
    text = page(figures, args.rounds)
    Path("docs/benchmarks-image.md").write_text(text)
    say(text)


if __name__ == "__main__":
    main()
