"""Uploads: `machine publish` beside Google's Python client and gcloud, to the same servers on this computer.

Started by `ci/bench --publish`. The servers are the double in tests/double and PyPI's gcp-storage-emulator; what is measured is how
much a client gets out of a server that costs it little. Each client computes the checksum (CRC-32C) of what it sends.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIGEST = "01" * 32
STEP = re.compile(r"^(check|upload) the archive: done in ([0-9.]+) s$", re.M)
PYTHON = """
import sys, time
sys.path.insert(0, sys.argv[1])
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.oauth2.credentials import Credentials
credentials = Credentials(sys.argv[3]) if sys.argv[3] else AnonymousCredentials()
blob = storage.Client(project="double-project", credentials=credentials).bucket("images").blob(sys.argv[4])
begun = time.perf_counter()
blob.upload_from_filename(sys.argv[2], checksum="crc32c")
print(time.perf_counter() - begun)
"""


def image(folder, size):
    """An image as `machine build` leaves it, with noise for a disk."""
    archive, entry = os.path.join(folder, "image.tar.gz"), tarfile.TarInfo("disk.raw")
    entry.size = 1 << 30
    noise = random.Random(1)
    with gzip.GzipFile(archive, "wb", compresslevel=0, mtime=0) as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            file.write(noise.randbytes(1 << 20))
    with open(archive, "rb") as file:
        sum_ = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        "portdistrict_image": 1, "version": "0.0.0", "inputs": [], "source_date_epoch": 0, "kernel_release": "", "command_line": "", "modules": [],
        "uki_authenticode": DIGEST, "kernel_authenticode": DIGEST, "sections": [], "pcr": {}, "reproduce": "",
        "disk": {"name": "disk.raw", "size": 1 << 30, "sha256": DIGEST},
        "archive": {"name": "image.tar.gz", "size": os.path.getsize(archive), "sha256": sum_},
    }  # fmt: skip
    with open(os.path.join(folder, "image.json"), "w", encoding="utf-8") as file:
        json.dump(manifest, file)
    return archive


def ask(url, token=None, body=None, method=None):
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
        return answer.read()


class Double:
    def __init__(self, folder):
        words = [sys.executable, os.path.join(ROOT, "tests/double/google.py"), "--state", folder]
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.told = json.loads(self.child.stdout.readline())
        self.url, self.token = self.told["storage"], self.told["token"]
        ask(f"{self.url}/storage/v1/b?project=double-project", self.token, {"name": "images"})

    def end(self):
        self.child.stdin.close()
        self.child.wait()


class Emulator:
    def __init__(self, clients):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--default-bucket", "images"]
        self.child = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": clients}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url, self.token = f"http://127.0.0.1:{port}", ""
        for _ in range(200):
            try:
                ask(f"{self.url}/storage/v1/b/images")
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("gcp-storage-emulator does not answer")

    def end(self):
        self.child.terminate()
        self.child.wait()


def ours(options, double, server, folder):
    """Seconds of the upload, with the check of the archive before it."""
    home = tempfile.mkdtemp(dir=options.scratch)
    environment = {
        "PATH": os.environ["PATH"],
        "PORTDISTRICT_HOME": os.path.join(home, "home"),
        "GOOGLE_APPLICATION_CREDENTIALS": double.told["credentials"]["service-account"],
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": double.told["compute"],
        "STORAGE_EMULATOR_HOST": server.url,
        "GOOGLE_CLOUD_PROJECT": "double-project",
    }
    elsewhere = None if server is double else server.url
    ask(double.told["control"] + "settings", body={"storage_url": elsewhere})
    run = lambda *words: subprocess.run([options.portdistrict, *words], env=environment, capture_output=True, text=True, check=False)
    run("init")
    ran = run("machine", "publish", folder, "--bucket", "images")
    shutil.rmtree(home)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    name = json.loads(ask(f"{double.told['compute']}projects/double-project/global/images", double.token))["items"][0]["name"]
    ask(f"{double.told['compute']}projects/double-project/global/images/{name}", double.token, method="DELETE")
    time.sleep(0.2)
    steps = dict(STEP.findall(ran.stderr))
    return float(steps["upload"]), float(steps["check"])


def python_client(options, server, archive):
    environment = {**os.environ, "STORAGE_EMULATOR_HOST": server.url}
    words = [sys.executable, "-c", PYTHON, options.clients, archive, server.token, f"python-{time.time_ns()}"]
    return float(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)


def gcloud(server, archive, folder):
    """The whole command, since it cannot be seen into; its start is measured apart and taken off."""
    token = os.path.join(folder, "token")
    with open(token, "w", encoding="ascii") as file:
        file.write(server.token)
    environment = {
        "PATH": os.environ["PATH"], "HOME": folder, "CLOUDSDK_CONFIG": os.path.join(folder, "gcloud"), "CLOUDSDK_CORE_PROJECT": "double-project",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1", "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": token, "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": server.url + "/storage/v1/", "STORAGE_EMULATOR_HOST": server.url,
    }  # fmt: skip

    def took(*words):
        begun = time.perf_counter()
        subprocess.run(["gcloud", "storage", *words], env=environment, capture_output=True, check=True)
        return time.perf_counter() - begun

    small = os.path.join(folder, "small")
    with open(small, "wb") as file:
        file.write(b"small")
    start = took("cp", small, "gs://images/small")
    return max(0.001, took("cp", archive, f"gs://images/gcloud-{time.time_ns()}") - start)


def main():
    parser = argparse.ArgumentParser()
    for name in ("portdistrict", "tools", "scratch", "clients"):
        parser.add_argument(f"--{name}", required=name != "tools")
    parser.add_argument("--size", type=int, default=300, help="MiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round, and nothing is written into docs/")
    options = parser.parse_args()
    os.makedirs(options.scratch, exist_ok=True)
    rounds = 1 if options.quick else options.rounds
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        archive = image(folder, options.size << 20)
        double, emulator = Double(os.path.join(folder, "state")), Emulator(options.clients)
        try:
            for server, where in ((double, "the double"), (emulator, "gcp-storage-emulator")):
                clients = [
                    ("portdistrict", lambda: ours(options, double, server, folder)[0]),
                    ("portdistrict, with the digest of the whole archive checked before", lambda: sum(ours(options, double, server, folder))),
                    ("google-cloud-storage", lambda: python_client(options, server, archive)),
                ]
                if shutil.which("gcloud") and server is double:
                    clients.append(("gcloud storage cp, without its start", lambda: gcloud(server, archive, folder)))
                for name, run in clients:
                    seconds = statistics.median(run() for _ in range(rounds))
                    rate = options.size / max(seconds, 0.05)
                    rows.append((where, name, seconds, rate))
                    print(f"{where:22} {name:68} {seconds:7.2f} s {rate:7.0f} MiB/s", flush=True)
        finally:
            double.end()
            emulator.end()
    if options.quick:
        return
    lines = [
        "# Uploads of images",
        "",
        f"`ci/bench --publish`: {options.size} MiB of noise to servers on the same computer ({os.cpu_count()} processors), median of {rounds} rounds.",
        "Each client computes the CRC-32C of what it sends; both servers are Python and hash what arrives, so they bound every client.",
        "",
        "| server | client | seconds | MiB/s |",
        "| --- | --- | ---: | ---: |",
        *(f"| {where} | {name} | {seconds:.2f} | {rate:.0f} |" for where, name, seconds, rate in rows),
        "",
    ]
    with open(os.path.join(ROOT, "docs/benchmarks-publish.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines))


if __name__ == "__main__":
    main()
