"""What stands behind the double's servers: disks that are files, a real sshd for the rescue system, a node for a machine that boots."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

clock = time.monotonic

# What a rescue system does with a command: the same, with the file that stands for its disk.
RESCUE = """#!/bin/sh
exec /bin/sh -c "$(printf '%s' "$SSH_ORIGINAL_COMMAND" | sed 's#/dev/sda#{disk}#g; s#/sys/firmware/efi#{efi}#g')"
"""

SSHD = """ListenAddress {address}:22
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
ForceCommand {folder}/rescue
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PrintMotd no
"""


class Network:
    def __init__(self, folder, settings):
        self.folder, self.settings, self.processes = os.path.abspath(folder), settings, {}
        # A range of loopback of its own: several doubles run at the same time.
        self.range = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"
        self.last = 1
        for name in ("disks", "images", "hosts"):
            os.makedirs(os.path.join(self.folder, name))

    def ipv4(self):
        self.last += 1
        return f"{self.range}.{self.last}"

    def ipv6(self):
        self.last += 1
        return f"2001:db8:{self.last:x}::/64"

    # Disks and images

    def disk(self, number):
        return os.path.join(self.folder, "disks", str(number))

    def image_file(self, number):
        return os.path.join(self.folder, "images", str(number))

    def new_disk(self, server, image):
        source = self.image_file(image)
        if os.path.exists(source):
            shutil.copyfile(source, self.disk(server))
        else:
            with open(self.disk(server), "wb") as disk:
                disk.write(b"somebody's system")

    def snapshot(self, server, image):
        if os.path.exists(self.disk(server)):
            shutil.copyfile(self.disk(server), self.image_file(image))

    def image_bytes(self, image):
        return os.path.getsize(self.image_file(image)) if os.path.exists(self.image_file(image)) else 0

    def forget_image(self, image):
        remove(self.image_file(image))

    def forget_disk(self, server):
        remove(self.disk(server))
        shutil.rmtree(self.host(server), ignore_errors=True)

    def host(self, server):
        return os.path.join(self.folder, "hosts", str(server))

    # What runs

    def rescue(self, server, address, keys, uefi):
        folder = self.host(server)
        os.makedirs(folder, exist_ok=True)
        os.makedirs("/run/sshd", exist_ok=True)
        efi = os.path.join(folder, "efi")
        if uefi:
            os.makedirs(efi, exist_ok=True)
        remove(os.path.join(folder, "host_key"))
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.path.join(folder, "host_key")], check=True, stdin=subprocess.DEVNULL)
        write(os.path.join(folder, "authorized_keys"), "\n".join(keys) + "\n")
        write(os.path.join(folder, "rescue"), RESCUE.format(disk=self.disk(server), efi=efi), 0o755)
        write(os.path.join(folder, "sshd_config"), SSHD.format(address=address, folder=folder))
        self.start(server, ["/usr/sbin/sshd", "-D", "-e", "-f", os.path.join(folder, "sshd_config")])

    def machine(self, server, address, user_data, rules):
        """Boots the disk: the command of the setting `machine`, with the words {config} and {folder} filled in."""
        if not self.settings["machine"]:
            return
        folder = self.host(server)
        os.makedirs(folder, exist_ok=True)
        try:
            told = json.loads(user_data)
        except ValueError:
            return
        # Behind a firewall that does not let its port through nobody reaches it.
        reachable = rules is None or any(rule["protocol"] == "tcp" and rule["port"] == str(told["port"]) and rule["direction"] == "in" for rule in rules)
        write(os.path.join(folder, "cover"), told["cover"], 0o600)
        write(os.path.join(folder, "node.toml"), "\n".join([
            f'label = "{told["label"]}"', f'listen = "{address}:{told["port"] if reachable else 0}"', 'state_dir = "state"', f'owner = "{told["owner"]}"',
            'bootstrap_cover_file = "cover"', "seed_from_owner = true", f"allow = {json.dumps(told.get('allow', []))}", "",
        ]))
        # An image keeps nothing: each boot begins anew.
        shutil.rmtree(os.path.join(folder, "state"), ignore_errors=True)
        words = {"config": os.path.join(folder, "node.toml"), "folder": folder}
        self.start(server, [word.format(**words) for word in self.settings["machine"]])

    def start(self, server, command):
        self.end(server)
        with open(os.path.join(self.host(server), "log"), "ab") as log:
            self.processes[server] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def end(self, server):
        process = self.processes.pop(server, None)
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def close(self):
        for server in list(self.processes):
            self.end(server)


def remove(path):
    if os.path.exists(path):
        os.remove(path)


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
