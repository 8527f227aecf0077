"""Measures verification of evidence, beside the `sev` crate in the same run; `ci/bench --attest` calls it."""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from image import Operator
from report import number
from run import machine, say


def package(name):
    """The folder of a package that Cargo fetched."""
    found = subprocess.run(["cargo", "metadata", "--format-version", "1", "--locked"], capture_output=True, check=True)
    packages = json.loads(found.stdout)["packages"]
    return next(Path(p["manifest_path"]).parent for p in packages if p["name"] == name)


def measure(arguments, folder):
    """Boots a machine with a TPM, saves what it proves, and times everything on one core."""
    operator = Operator(arguments.portdistrict, folder)
    operator.run("machine", "build", "-o", "out")
    operator.deploy("--tpm")
    try:
        operator.run("machine", "claim", "vm")
        operator.run("machine", "attest", "vm", "--save", "proof")
    finally:
        operator.destroy()
    data = package("sev") / "tests/certs_data"
    sample = [data / "report_milan.hex", data / "vcek_milan.der", data / "cert_chain_milan", folder / "proof"]
    tool = Path(arguments.tools) / "pd-attest"
    done = subprocess.run(["taskset", "-c", "0", tool, *sample], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portdistrict", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--out", default="docs/benchmarks-attest.md")
    arguments = parser.parse_args()
    Path(arguments.scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        say("a machine with a TPM, and three seconds for each figure")
        found = measure(arguments, Path(folder))
    rows = [
        ("SEV-SNP report, certificates read and verified each time", found["snp"], "verifications a second", "≥ 250"),
        ("the same by the crate `sev`", found["snp_sev"], "verifications a second", ""),
        ("ratio", found["snp"] / found["snp_sev"], "", ""),
        ("SEV-SNP report, chain verified before", found["snp_cached"], "verifications a second", "≥ 1,000"),
        ("TPM quote with certificates, event log and image.json, from files", found["tpm_us"] / 1000, "ms", "≤ 5"),
    ]
    where = machine()
    lines = ["# Verification of evidence", "", f"`ci/bench --attest`, one core of {where['cores']}, Linux {where['kernel']}, {where['day']}.", ""]
    lines += ["| what | measured | | target |", "| --- | ---: | --- | --- |"]
    lines += [f"| {what} | {number(value, 0 if value >= 100 else 2)} | {unit} | {target} |" for what, value, unit, target in rows]
    Path(arguments.out).write_text("\n".join(lines) + "\n")
    say(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
