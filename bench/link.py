"""A slow line between two network namespaces of our own; needs root."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess

from peers import Place, Unavailable

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
# Let the kernel hand over packets that are still to be cut, or two processors could not carry a gigabit.
CSUM_AND_TSO = 0x01 | 0x02 | 0x04


def tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETOFFLOAD, CSUM_AND_TSO)
    return fd


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"`ip {' '.join(words)}`: {done.stderr.strip()}")


class Link:
    """`with Link(...) as place`: the client's end is 10.77.0.1, the server's 10.77.0.2."""

    def __init__(self, tool, rtt_ms, mbit, congestion):
        self.tool, self.rtt_ms, self.mbit, self.congestion = tool, rtt_ms, mbit, congestion
        tag = f"pd{os.getpid() % 100000}"
        self.ends = [(f"{tag}{side}", f"{tag}t{side}", address) for side, address in (("a", "10.77.0.1"), ("b", "10.77.0.2"))]

    def __enter__(self):
        if os.geteuid() != 0 or not shutil.which("ip") or not os.path.exists("/dev/net/tun"):
            raise Unavailable("a slow line needs root, iproute2 and /dev/net/tun")
        self.undo = contextlib.ExitStack()
        try:
            return self.build()
        except BaseException:
            self.undo.close()
            raise

    def build(self):
        fds = []
        for space, device, _ in self.ends:
            ip("netns", "add", space)
            self.undo.callback(subprocess.run, ["ip", "netns", "del", space], check=False)
            fds.append(tun(device))
            self.undo.callback(os.close, fds[-1])
            ip("link", "set", device, "netns", space)
        bandwidth_delay = self.mbit * 1e6 / 8 * self.rtt_ms / 1e3
        line = subprocess.Popen(
            [self.tool, "--delay-us", str(int(self.rtt_ms * 500)), "--rate", str(int(self.mbit * 1e6)), "--queue", str(int(bandwidth_delay) + 2**20)],
            stdin=fds[0], stdout=fds[1])
        self.undo.callback(line.wait)
        self.undo.callback(line.kill)
        for space, device, address in self.ends:
            inside = ("-n", space)
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "addr", "add", f"{address}/24", "dev", device)
            ip(*inside, "link", "set", device, "up", "txqueuelen", "10000")
            # One socket's buffers must hold what is under way, for everyone alike.
            subprocess.run(["ip", "netns", "exec", space, "sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 67108864",
                            "net.ipv4.tcp_wmem=4096 131072 67108864", f"net.ipv4.tcp_congestion_control={self.congestion}"], check=True)
        enter = [["ip", "netns", "exec", space] for space, _, _ in self.ends]
        return Place(self.ends[1][2], client=enter[0], server=enter[1])

    def __exit__(self, *_):
        self.undo.close()
