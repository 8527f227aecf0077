"""Measures the ledger beside what signing, SQLite and git do on the same computer; `ci/bench --ledger` calls it."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from report import number
from run import machine, say

# Entries for git, which takes long for as many as ours.
GIT_RECORDS = 20_000


class Home:
    """A home of its own, and what is run in it."""

    def __init__(self, arguments, folder):
        self.program, self.tool, self.folder = arguments.portdistrict, Path(arguments.tools) / "pd-ledger", Path(folder)
        self.home = self.folder / "home"
        self.run("init")

    def run(self, *words):
        env = {"PATH": os.environ["PATH"], "PORTDISTRICT_HOME": str(self.home), "COLUMNS": "100"}
        return subprocess.run([self.program, *words], env=env, cwd=self.folder, capture_output=True, text=True, check=True)

    def measure(self, *words):
        """What the tool tells, and the most memory that it had, in MiB."""
        done = subprocess.run(["/usr/bin/env", "time", "-f", "%M", self.tool, *words], capture_output=True, text=True, check=True)
        return json.loads(done.stdout), int(done.stderr.strip().splitlines()[-1]) / 1024

    @property
    def ledger(self):
        return self.home / "data/ledger.db"


def cold(home):
    """Milliseconds and MiB of `status` with nothing of the file in memory."""
    times, memory = [], 0
    for _ in range(7):
        with open(home.ledger, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.monotonic()
        env = {"PATH": os.environ["PATH"], "PORTDISTRICT_HOME": str(home.home)}
        done = subprocess.run(["/usr/bin/env", "time", "-f", "%M", home.program, "status", "--json"], env=env, capture_output=True, text=True, check=True)
        times.append((time.monotonic() - begun) * 1000)
        memory = max(memory, int(done.stderr.strip().splitlines()[-1]) / 1024)
    return statistics.median(times), memory


def git(folder):
    """Commits and checks a second of small signed records in git, signed with an SSH key; none where something is missing."""
    if not shutil.which("git") or not shutil.which("ssh-keygen"):
        return None
    repository, key = folder / "git", folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gpg.format=ssh", "-c", f"user.signingkey={key}.pub"]
    subprocess.run(["git", "init", "-q", repository], check=True)
    few = 100
    begun = time.monotonic()
    for n in range(few):
        subprocess.run([*git, "commit", "-q", "-S", "--allow-empty", "-m", f"record {n} " + "x" * 300], check=True)
    commits = few / (time.monotonic() - begun)
    # Many at once and unsigned: the fastest way git has.
    author = "a <a@b> 1700000000 +0000"
    records = [f"record {n} " + "x" * 300 for n in range(GIT_RECORDS)]
    stream = "".join(f"commit refs/heads/many\ncommitter {author}\ndata {len(r)}\n{r}\n" for r in records)
    begun = time.monotonic()
    subprocess.run([*git, "fast-import", "--quiet"], input=stream, text=True, check=True)
    fast = GIT_RECORDS / (time.monotonic() - begun)
    begun = time.monotonic()
    subprocess.run([*git, "fsck", "--full", "--no-progress"], check=True, capture_output=True)
    return {"commit": commits, "import": fast, "fsck": (GIT_RECORDS + few) / (time.monotonic() - begun)}


def measure(arguments, folder):
    home = Home(arguments, folder)
    say(f"{arguments.spans:,} spans in batches of 100")
    filled, fill_memory = home.measure("fill", home.home, str(arguments.spans), "10000")
    say("status, nothing in memory")
    status, status_memory = cold(home)
    say("verification, everything and again")
    verified, verify_memory = home.measure("verify", home.ledger)
    say("rebuilding")
    rebuilt, rebuild_memory = home.measure("rebuild", home.ledger)
    say("single appends")
    alone = folder / "single"
    alone.mkdir()
    single, _ = home.measure("single", alone)
    say("git")
    return {
        **filled, **verified, **rebuilt, **single, "status_ms": status, "git": git(folder),
        "memory": {"append": fill_memory, "status": status_memory, "verify": verify_memory, "rebuild": rebuild_memory},
        "bytes": home.ledger.stat().st_size,
    }


def rows(found, spans):
    memory = found["memory"]
    yield "signing alone, one core", found["sign"], "a second", ""
    yield "bare SQLite insert, batches of 100", found["bare"], "a second", ""
    yield "append, batches of 100, signed and durable, the first 100,000", found["append_first"], "spans a second", ""
    yield f"the same, all {spans:,}", found["append"], "spans a second", ""
    yield "ratio to signing alone, the first 100,000", found["append_first"] / found["sign"], "", "≥ 0.7"
    yield f"the same, all {spans:,}", found["append"] / found["sign"], "", ""
    yield "one durable append, median", found["append_us"], "µs", ""
    yield "one bare durable insert, median", found["bare_us"], "µs", ""
    yield "ratio", found["append_us"] / found["bare_us"], "", "≤ 1.3"
    yield "`ledger verify --full`, tables and pages included", found["full"], "spans a second", "≥ 50,000"
    yield "`ledger verify` again", found["again"], "spans a second", ""
    yield "`ledger rebuild`", found["rebuild"], "spans a second", "≥ 150,000"
    yield "`status`, 10,000 grants, nothing in memory", found["status_ms"], "ms", "< 50"
    for what in ("append", "verify", "rebuild", "status"):
        yield f"most memory: {what}", memory[what], "MiB", "< 64"
    yield "size of the file", found["bytes"] / spans, "bytes a span", ""
    if found["git"]:
        yield "git commit -S (SSH key)", found["git"]["commit"], "a second", ""
        yield "git fast-import, unsigned", found["git"]["import"], "a second", ""
        yield "git fsck, signatures not checked", found["git"]["fsck"], "commits a second", ""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portdistrict", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--out", default="docs/benchmarks-ledger.md")
    arguments = parser.parse_args()
    Path(arguments.scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        found = measure(arguments, Path(folder))
    where = machine()
    lines = ["# The ledger", "", f"`ci/bench --ledger`: {arguments.spans:,} spans, {where['cores']} cores, Linux {where['kernel']}, {where['day']}.", ""]
    lines += ["| what | measured | | target |", "| --- | ---: | --- | --- |"]
    lines += [f"| {what} | {number(value, 0 if value >= 100 else 2)} | {unit} | {target} |" for what, value, unit, target in rows(found, arguments.spans)]
    Path(arguments.out).write_text("\n".join(lines) + "\n")
    say(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
