#!/usr/bin/env python3
"""Compares launch digests with sev-snp-measure, over a matrix of firmware, hypervisors, CPUs, features and kernels.

    pip install --target DIR sev-snp-measure==0.0.13
    compare.py --reference DIR -- portdistrict machine predict
    compare.py --reference DIR --write-vectors tests/vectors/launch.json

The program is called with `--ovmf FILE --vmm NAME --vcpus N,N --guest-features HEX [--cpu NAME] [--kernel FILE --initrd FILE
--append TEXT] [--ovmf-hash HEX] --json`. It prints an object whose `launch` lists numbers of CPUs with their digests in
hexadecimal, or ends with a status other than 0. The firmware: Debian's ovmf package if installed, the tails of two real builds
in the published crate sev 8.0.0 if it is among cargo's sources, and small ones made here, where the formats have edges.
"""

import argparse
import glob
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import uuid

VCPUS = [1, 2, 3, 4, 8, 16, 32, 48, 64, 240, 512]
CPUS = ["EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"]
VMMS = ["qemu", "ec2", "gce"]
FEATURES = [0x1, 0x21]
KERNELS = {
    "none": None,
    "all": (b"a kernel\n" * 20, b"an initrd\n" * 30, "console=ttyS0 loglevel=7"),
    "bare": (b"", None, ""),
    "umlaut": (b"k", b"", "motd=gr\u00fc\u00dfe"),
}
# Of the published crate's tests/measurement.rs: QEMU, EPYC-v4, with /dev/null as kernel and initrd where there is a command line.
PUBLISHED = [
    ("AmdSev", 1, 0x01, "", "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5"),
    ("AmdSev", 1, 0x01, "console=ttyS0 loglevel=7",
     "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa"),
    ("AmdSev", 1, 0x21, None, "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b"),
    ("AmdSev", 4, 0x21, "", "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78eafe7b422907be0b4698e2414a631942"),
    ("OvmfX64", 1, 0x01, None, "da0296de8193586a5512078dcd719eccecbd87e2b825ad4148c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005"),
]
# google/gce-tcb-verifier, sev/sev_test.go, TestUnsignedSnp: four CPUs on the firmware `google`.
GOOGLE = "1a8cd8039cdcdcd1ec9800ca215ba5cbbed437697debf0b2fc1a9b873f1eb15f82dc7d5cf246dbee4df1bb9d3b6c7a16"


def entry(guid, data):
    return data + (len(data) + 18).to_bytes(2, "little") + uuid.UUID(guid).bytes_le


def words(*numbers):
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def build(pages, sections, reset=0x80B004, hashes=None, at=0, marks=()):
    """A firmware of zeroes but for `marks`, the table at its end and the metadata `at` an offset from its start."""
    image = bytearray(pages * 4096)
    for offset, text in marks:
        image[offset:offset + len(text)] = text
    metadata = b"ASEV" + words(16 + 12 * len(sections), 1, len(sections)) + b"".join(words(*section) for section in sections)
    image[at:at + len(metadata)] = metadata
    table = entry("dc886566-984a-4798-a75e-5585a7bf67cc", words(len(image) - at))
    if hashes:
        table = entry("7255371f-3a3b-4b04-927b-1da6efa8d454", words(*hashes)) + table
    if reset is not None:
        table += entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", words(reset))
    table += (len(table) + 18).to_bytes(2, "little") + uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    image[-32 - len(table):-32] = table
    return bytes(image)


def made():
    lgtm = b"LGTM" * 4
    memory, secrets, cpuid, caa, hashes = 1, 2, 3, 4, 0x10
    return {
        "plain": build(3, [(0x800000, 0x9000, memory), (0x80D000, 0x1000, secrets), (0x80E000, 0x1000, cpuid),
                           (0x80F000, 0x2000, caa), (0x811000, 0x1000, memory)], at=0x2800, marks=[(0x10, b"one"), (0x1FFF, b"two")]),
        # The CPUID page in the middle, which EC2 moves to the end; the table of hashes amid its page.
        "hashes": build(2, [(0x80E000, 0x1000, cpuid), (0x810000, 0x1000, hashes), (0x80D000, 0x1000, secrets),
                            (0x800000, 0x3000, memory)], hashes=(0x810C00, 0x400), at=0x1400, marks=[(0x800, b"three")]),
        # The table of hashes at the very end of its page; further CPUs start where the first one does.
        "edge": build(1, [(0xFFFFF000, 0x1000, hashes), (0x1000, 0x1000, cpuid), (0x2000, 0x1000, cpuid)], reset=0xFFFFFFF0,
                      hashes=(0xFFFFFF50, 176)),
        # As google/gce-tcb-verifier's tests make it.
        "google": build(1, [(0xFF001000, 0x1000, memory), (0xFF003000, 0x1000, cpuid), (0xFF004000, 0x1000, secrets)],
                        reset=0xFF0000FF, marks=[(0x800, lgtm), (0xA00, lgtm)]),
    }


class Reference:
    """sev-snp-measure, called in this process."""

    def __init__(self, folder, scratch):
        if folder:
            sys.path.insert(0, folder)
        from sevsnpmeasure import guest, vcpu_types, vmm_types
        self.guest, self.signatures, self.vmms = guest, vcpu_types.CPU_SIGS, {t.name.lower(): t for t in vmm_types.VMMType}
        self.files = {}
        for name, kernel in KERNELS.items():
            if kernel:
                (scratch / f"{name}.kernel").write_bytes(kernel[0])
                if kernel[1] is not None:
                    (scratch / f"{name}.initrd").write_bytes(kernel[1])
                self.files[name] = (str(scratch / f"{name}.kernel"),
                                    str(scratch / f"{name}.initrd") if kernel[1] is not None else None, kernel[2])

    def digest(self, firmware, vmm, vcpus, cpu, features, kernel="none", ovmf_hash=""):
        """The digest in hexadecimal, or None where sev-snp-measure gives up."""
        kernel, initrd, append = self.files.get(kernel, (None, None, None))
        try:
            return self.guest.snp_calc_launch_digest(vcpus, self.signatures[cpu], str(firmware), kernel, initrd, append, features,
                                                     ovmf_hash, self.vmms[vmm]).hex()
        except (RuntimeError, ValueError, AssertionError, AttributeError):
            return None

    def arguments(self, kernel):
        kernel, initrd, append = self.files.get(kernel, (None, None, None))
        return [word for name, value in (("--kernel", kernel), ("--initrd", initrd), ("--append", append)) if value is not None
                for word in (name, value)]


class Program:
    def __init__(self, command):
        self.command, self.passed, self.failed, self.refused = command, 0, 0, 0

    def run(self, firmware, vmm, vcpus, cpu, features, more=()):
        """The digests by number of CPUs, or the error as text."""
        command = [*self.command, "--ovmf", str(firmware), "--vmm", vmm, "--vcpus", ",".join(map(str, vcpus)), "--cpu", cpu,
                   "--guest-features", hex(features), *more, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return {one["vcpus"]: one["digest"] for one in json.loads(done.stdout)["launch"]}
        if done.returncode < 0 or "panicked" in done.stderr:
            raise SystemExit(f"crashed: {command}\n{done.stderr}")
        return (done.stderr or done.stdout).strip()

    def expect(self, what, expected, found):
        if expected == found:
            self.passed += 1
            self.refused += expected is None
        else:
            self.failed += 1
            print(f"FAILED {what}\n  expected {expected}\n  found    {found}")


def matrix(program, reference, firmware):
    for name, path in firmware.items():
        for vmm in VMMS:
            for cpu in CPUS:
                for features in FEATURES:
                    for kernel in KERNELS:
                        found = program.run(path, vmm, VCPUS, cpu, features, reference.arguments(kernel))
                        for vcpus in VCPUS:
                            expected = reference.digest(path, vmm, vcpus, cpu, features, kernel)
                            ours = found[vcpus] if isinstance(found, dict) else None
                            program.expect(f"{name} {vmm} {cpu} {features:#x} kernel={kernel} vcpus={vcpus}: {found}", expected, ours)


def precalculated(program, reference, firmware):
    for name, path in firmware.items():
        own = reference.guest.calc_snp_ovmf_hash(str(path)).hex()
        for vmm in VMMS:
            for given in (own, "5a" * 48):
                found = program.run(path, vmm, VCPUS, "EPYC-Milan", 1, ["--ovmf-hash", given])
                expected = {vcpus: reference.digest(path, vmm, vcpus, "EPYC-Milan", 1, ovmf_hash=given) for vcpus in VCPUS}
                program.expect(f"{name} {vmm} with a hash", expected, found)
            plain = program.run(path, vmm, VCPUS, "EPYC-Milan", 1)
            program.expect(f"{name} {vmm} with its own hash", plain, program.run(path, vmm, VCPUS, "EPYC-Milan", 1, ["--ovmf-hash", own]))


def published(program, tails, scratch):
    empty = scratch / "empty"
    empty.write_bytes(b"")
    for build_name, vcpus, features, cmdline, expected in PUBLISHED:
        if build_name in tails:
            more = [] if cmdline is None else ["--kernel", str(empty), "--initrd", str(empty), "--append", cmdline]
            found = program.run(tails[build_name], "qemu", [vcpus], "EPYC-v4", features, more)
            program.expect(f"published for {build_name} {cmdline!r}", {vcpus: expected}, found)
    (scratch / "google").write_bytes(made()["google"])
    program.expect("published by Google", {4: GOOGLE}, program.run(scratch / "google", "gce", [4], "EPYC-Milan", 1))


def refusals(program, reference, scratch):
    """Where there is no digest, there is an error; sev-snp-measure prints a digest for some of these."""
    images = made()
    broken = {
        "no metadata": images["plain"].replace(uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le, bytes(16)),
        "no table": bytes(4096),
        "cut at its end": images["plain"][:-4096],
        "not whole pages": images["plain"][1:],
        "empty": b"",
        "version 2": images["plain"].replace(b"ASEV" + words(76, 1), b"ASEV" + words(76, 2)),
        "unknown section": build(1, [(0x1000, 0x1000, 9)]),
        "half a page": build(1, [(0x1000, 0x800, 1)]),
        "4 GiB of pages": build(1, [(0, 0xFFFFF000, 1)]),
    }
    for name, image in broken.items():
        (scratch / "broken").write_bytes(image)
        found = program.run(scratch / "broken", "qemu", [1], "EPYC-v4", 1)
        program.expect(f"{name} is refused", True, isinstance(found, str))
        # The last would keep sev-snp-measure busy for seconds.
        theirs = reference.digest(scratch / "broken", "qemu", 1, "EPYC-v4", 1) if name not in ("empty", "4 GiB of pages") else "skipped"
        print(f"{name}: sev-snp-measure {'gives up' if theirs is None else 'is not asked' if theirs == 'skipped' else 'prints a digest'}; "
              f"here: {found}")
    (scratch / "plain").write_bytes(images["plain"])
    for what, arguments in {"0 CPUs": ("qemu", [0], "EPYC-v4"), "513 CPUs": ("gce", [513], "EPYC-v4"), "Opteron": ("qemu", [1], "Opteron"),
                            "another hypervisor": ("xen", [1], "EPYC")}.items():
        found = program.run(scratch / "plain", *arguments, 1)
        program.expect(f"{what} is refused", True, isinstance(found, str))
        print(f"{what}: {found}")
    (scratch / "alone").write_bytes(build(1, [(0x1000, 0x1000, 1)], reset=None))
    program.expect("one CPU needs no reset vector", dict, type(program.run(scratch / "alone", "qemu", [1], "EPYC", 1)))
    program.expect("two need one", str, type(program.run(scratch / "alone", "qemu", [1, 2], "EPYC", 1)))


def find_tails(folder):
    folders = [folder] if folder else glob.glob(os.path.expanduser("~/.cargo/registry/src/*/sev-8.0.0"))
    return {name: path for name in ("AmdSev", "OvmfX64") for folder in folders
            if (path := pathlib.Path(folder, f"tests/measurement/ovmf_{name}_suffix.bin")).exists()}


def write_vectors(path, reference, scratch):
    firmware, cases = {}, []
    for name, image in made().items():
        (scratch / name).write_bytes(image)
        # Runs of other bytes than zero; the firmware is mostly zeroes.
        parts, start = [], 0
        for run in image.split(bytes(16)):
            if run.strip(b"\0"):
                at = image.index(run, start)
                parts.append([at, run.hex()])
                start = at + len(run)
        firmware[name] = {"size": len(image), "parts": parts, "digest": reference.guest.calc_snp_ovmf_hash(str(scratch / name)).hex()}
        for vmm in VMMS:
            for cpu in CPUS if vmm == "qemu" and name == "plain" else ["EPYC-Milan"]:
                for features in FEATURES:
                    for kernel in ["none"] if name in ("plain", "google") else KERNELS:
                        digests = {n: reference.digest(scratch / name, vmm, n, cpu, features, kernel) for n in (1, 2, 64)}
                        cases.append({"firmware": name, "vmm": vmm, "cpu": cpu, "features": features, "kernel": kernel, "digests": digests})
    # One case for an origin of its own.
    cases.append({"firmware": "google", "vmm": "gce", "cpu": "EPYC-Milan", "features": 1, "kernel": "none", "digests": {4: GOOGLE}})
    kernels = {name: None if kernel is None else {"kernel": kernel[0].decode(), "initrd": (kernel[1] or b"").decode(), "cmdline": kernel[2]}
               for name, kernel in KERNELS.items()}
    comment = ("Made by tests/predict/compare.py --write-vectors with sev-snp-measure 0.0.13; "
               "the last case is Google's own (gce-tcb-verifier).")
    # One line for each firmware, kernel and case.
    lines = [f'"comment": {json.dumps(comment)}']
    for key, values in (("firmware", firmware), ("kernels", kernels)):
        lines.append(f'"{key}": {{\n' + ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()) + "\n}")
    lines.append('"cases": [\n' + ",\n".join(f" {json.dumps(case)}" for case in cases) + "\n]")
    pathlib.Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--reference", metavar="DIR", help="where pip put sev-snp-measure, if not on Python's path")
    options.add_argument("--sev", metavar="DIR", help="the published crate sev 8.0.0, if not among cargo's sources")
    options.add_argument("--ovmf", metavar="FILE", action="append", default=["/usr/share/ovmf/OVMF.fd"], help="one more firmware")
    options.add_argument("--write-vectors", metavar="FILE", help="write the vectors of the unit tests instead of comparing")
    options.add_argument("program", nargs="*", help="the program and its first words")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        reference = Reference(options.reference, scratch)
        if options.write_vectors:
            return write_vectors(options.write_vectors, reference, scratch)
        if not options.program:
            raise SystemExit("which program? compare.py -- PROGRAM [WORD...]")
        program = Program(options.program)
        tails = find_tails(options.sev)
        firmware = {path: path for path in options.ovmf if os.path.exists(path)} | tails
        print(f"firmware: {', '.join(map(str, firmware.values())) or 'none of real builds'}")
        for name, image in made().items():
            firmware[name] = scratch / f"made.{name}"
            firmware[name].write_bytes(image)
        matrix(program, reference, firmware)
        precalculated(program, reference, firmware)
        published(program, tails, scratch)
        print(f"{program.passed} comparisons so far; in {program.refused} both refuse (a kernel, and no page for its hashes)")
        refusals(program, reference, scratch)
        print(f"{program.passed} passed, {program.failed} failed")
        return program.failed > 0


if __name__ == "__main__":
    sys.exit(main())
