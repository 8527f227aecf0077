"""What runs for an instance: nothing but its words (`state`), the program itself (`process`), or a real QEMU (`qemu`)."""

import json
import os
import secrets
import shutil
import subprocess
import tarfile
import threading
import time

FIRMWARE = "/usr/share/ovmf/OVMF.fd"
ATTRIBUTE = "portdistrict-config"
PORT = 4433


class Machines:
    """All that run. Addresses are loopback ones, drawn by lot so that doubles on one computer do not meet."""

    def __init__(self, folder, settings):
        self.folder, self.settings = os.path.join(folder, "machines"), settings
        os.makedirs(self.folder, exist_ok=True)
        self.lock = threading.Lock()
        self.archives, self.running, self.images = {}, {}, {}
        self.given = set()
        # Whose certificate the TPMs of all machines have.
        self.tpm_root = os.path.join(self.folder, "ca", "issuer.pem")

    def address(self):
        """An address of this computer that nobody has."""
        while True:
            found = f"127.{secrets.randbelow(253) + 2}.{secrets.randbelow(254)}.{secrets.randbelow(253) + 2}"
            if found not in self.given:
                self.given.add(found)
                return found

    def keep_archive(self, image, path):
        """An image outlives the object that it was made of."""
        kept = os.path.join(self.folder, f"image-{image}.tar.gz")
        if not os.path.exists(kept):
            os.link(path, kept)
        self.archives[image] = kept

    def dir(self, identity):
        return os.path.join(self.folder, identity)

    def start(self, instance, image):
        """Starts an instance's machine; `image` is None where it has its disk already."""
        identity, kind = instance["id"], self.settings["machines"]
        if image is not None:
            self.images[identity] = image
        folder = self.dir(identity)
        os.makedirs(folder, exist_ok=True)
        self.tell(instance)
        with self.lock:
            if kind == "state":
                self.say(folder, self.settings["serial"])
            elif kind == "process":
                self.running[identity] = self.process(instance, folder)
            elif kind == "qemu":
                self.running[identity] = self.qemu(instance, folder, self.archives[self.images[identity]])

    def say(self, folder, text):
        with open(os.path.join(folder, "serial.log"), "a", encoding="utf-8") as file:
            file.write(text)

    def listen_on(self, instance):
        for interface in instance["networkInterfaces"]:
            for config in interface["accessConfigs"]:
                return config["natIP"]
        return "127.0.0.1"

    def told(self, instance):
        """What the instance's owner told it, as text."""
        found = [item["value"] for item in instance["metadata"].get("items", []) if item["key"] == ATTRIBUTE]
        return found[0] if found else None

    def tell(self, instance):
        """Writes down what the instance is told: a machine reads it when it starts."""
        folder = self.dir(instance["id"])
        if os.path.isdir(folder):
            with open(os.path.join(folder, "metadata.json"), "w", encoding="utf-8") as file:
                file.write(self.told(instance) or "")

    def process(self, instance, folder):
        """The node as a process of this computer, that says what a machine would say."""
        told = json.loads(self.told(instance) or "{}")
        self.say(folder, "\nPORTDISTRICT_VERSION=double\n\nPORTDISTRICT_STATE=booting\n")
        if "owner" not in told:
            self.say(folder, "\nPORTDISTRICT_FAILURE=nobody tells this machine what to be\n")
            return None
        self.write_private(os.path.join(folder, "cover"), told["cover"])
        listen = f"{self.listen_on(instance)}:{told.get('port', PORT)}"
        lines = [
            f"label = {json.dumps(told['label'])}",
            f"listen = {json.dumps(listen)}",
            'state_dir = "node"',
            f"owner = {json.dumps(told['owner'])}",
            'bootstrap_cover_file = "cover"',
            f"allow = {json.dumps(told.get('allow', []))}",
            f"seed_from_owner = {json.dumps(told.get('seed', 'owner') == 'owner')}",
        ]
        self.write_private(os.path.join(folder, "node.toml"), "\n".join(lines) + "\n")
        shutil.rmtree(os.path.join(folder, "node"), ignore_errors=True)
        log = open(os.path.join(folder, "node.log"), "ab")
        words = [self.settings["program"], "node", "run", "--config", os.path.join(folder, "node.toml")]
        child = subprocess.Popen(words, cwd="/", env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        threading.Thread(target=self.follow, args=(child, folder), daemon=True).start()
        return child

    def follow(self, child, folder):
        for line in child.stdout:
            text = line.decode("utf-8", "replace").strip()
            if text.startswith("PORTDISTRICT_READY="):
                text = "PORTDISTRICT_STATE=ready"
            self.say(folder, f"\n{text}\n")
        if child.wait() != 0:
            with open(os.path.join(folder, "node.log"), encoding="utf-8", errors="replace") as log:
                self.say(folder, f"\nPORTDISTRICT_FAILURE={log.read()[-500:].strip().splitlines()[-1:]}\n")

    def write_private(self, path, text):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)

    def qemu(self, instance, folder, archive):
        """The image itself, with the firmware that boots it; what it is told comes from its hypervisor."""
        disk = os.path.join(folder, "disk.raw")
        if not os.path.exists(disk):
            with tarfile.open(archive, "r|gz") as tar:
                entry = tar.next()
                sparse_copy(tar.extractfile(entry), disk)
        kvm = self.settings["accel"] == "kvm"
        words = ["qemu-system-x86_64", "-name", f"double-{instance['id']}", "-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-machine", "q35", "-accel", "kvm" if kvm else "tcg,thread=single", "-cpu", "host" if kvm else "max", "-smp", "1"]
        words += ["-m", str(self.settings["memory"]), "-bios", FIRMWARE]
        words += ["-drive", f"if=none,id=disk,format=raw,snapshot=on,file={disk}", "-device", "virtio-blk-pci,drive=disk,bootindex=0"]
        words += ["-netdev", f"user,id=net,hostfwd=tcp:{self.listen_on(instance)}:{PORT}-:{PORT}"]
        words += ["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci", "-device", "i6300esb"]
        words += ["-chardev", f"file,id=serial,path={folder}/serial.log,append=on", "-serial", "chardev:serial"]
        words += ["-fw_cfg", f"name=opt/portdistrict/config,file={folder}/metadata.json"]
        words += self.tpm(folder)
        said = open(os.path.join(folder, "qemu.out"), "ab")
        return subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def tpm(self, folder):
        """Starts a TPM for one run of a machine, which ends with it; what QEMU is told of it. Where there is no swtpm, none."""
        if not all(shutil.which(name) for name in ("swtpm", "swtpm_setup", "swtpm_localca")):
            return []
        if not os.path.isdir(os.path.join(folder, "tpm")):
            self.make_tpm(folder)
        control = ["--ctrl", "type=unixio,path=tpm.sock", "--terminate"]
        said = open(os.path.join(folder, "tpm.out"), "ab")
        subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", "dir=tpm", *control], cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        for _ in range(500):
            if os.path.exists(os.path.join(folder, "tpm.sock")):
                break
            time.sleep(0.01)
        return ["-chardev", "socket,id=tpm,path=tpm.sock", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]

    def make_tpm(self, folder):
        """A TPM whose key is certified, as Google's are."""
        ca = os.path.dirname(self.tpm_root)
        os.makedirs(ca, mode=0o700, exist_ok=True)
        os.makedirs(os.path.join(folder, "tpm"), mode=0o700)
        at = lambda name: os.path.join(ca, name)
        self.write_private(at("ca.conf"), f"statedir = {ca}\nsigningkey = {at('key.pem')}\nissuercert = {self.tpm_root}\ncertserial = {at('serial')}\n")
        self.write_private(at("ca.options"), "--platform-manufacturer Google\n--platform-version 1\n--platform-model vTPM\n")
        tool = shutil.which("swtpm_localca")
        config = f"create_certs_tool = {tool}\ncreate_certs_tool_config = {at('ca.conf')}\ncreate_certs_tool_options = {at('ca.options')}\n"
        self.write_private(at("setup.conf"), config)
        words = ["swtpm_setup", "--tpm2", "--create-ek-cert", "--pcr-banks", "sha256", "--tpmstate", "tpm", "--config", at("setup.conf")]
        subprocess.run([*words, "--logfile", at("log")], cwd=folder, check=True, capture_output=True)

    def tpm_keys(self, identity):
        """The public keys of its TPM (PEM), by the names of the interface; none where it has none."""
        path = os.path.join(self.dir(identity), "tpm-keys.json")
        if not os.path.exists(path):
            return {}
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def stop(self, identity, forget=False):
        """Ends a machine's process; its files go when it is forgotten."""
        with self.lock:
            child = self.running.pop(identity, None)
        if child is not None:
            child.kill()
            child.wait()
        if forget:
            shutil.rmtree(self.dir(identity), ignore_errors=True)

    def stop_all(self):
        for identity in list(self.running):
            self.stop(identity)

    def serial(self, identity):
        """Everything that it has said."""
        try:
            with open(os.path.join(self.dir(identity), "serial.log"), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def state(self):
        """For `GET /_double/state`."""
        return {identity: {"pid": child.pid, "running": child.poll() is None} for identity, child in self.running.items() if child}


def sparse_copy(source, path):
    """A disk is nearly all holes."""
    zeros, size = bytes(1 << 20), 0
    with open(path, "wb") as file:
        while piece := source.read(1 << 20):
            size += len(piece)
            if piece == zeros[: len(piece)]:
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate(size)
