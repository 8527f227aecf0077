"""CRC-32C of files. Python has none: a few lines of C do it, and where there is no compiler a slow table."""

import ctypes
import os
import subprocess
import tempfile

SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
static uint32_t table[8][256];
__attribute__((constructor)) static void make(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
}
uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n) {
    crc = ~crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a = crc ^ (p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24);
        crc = table[7][a & 255] ^ table[6][a >> 8 & 255] ^ table[5][a >> 16 & 255] ^ table[4][a >> 24]
            ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    while (n--) crc = table[0][(crc ^ *p++) & 255] ^ crc >> 8;
    return ~crc;
}
"""


def compiled():
    """The function in C, or None."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = os.path.join(folder, "crc.c"), os.path.join(folder, "crc.so")
        with open(source, "w", encoding="ascii") as file:
            file.write(SOURCE)
        try:
            subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
            function = ctypes.CDLL(library).crc32c
        except (OSError, subprocess.CalledProcessError):
            return None
    function.argtypes, function.restype = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t], ctypes.c_uint32
    return lambda crc, data: function(crc, data, len(data))


def by_table():
    """The same in Python, a byte at a time."""
    table = []
    for start in range(256):
        crc = start
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 if crc & 1 else crc >> 1
        table.append(crc)

    def update(crc, data):
        crc ^= 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 255] ^ crc >> 8
        return crc ^ 0xFFFFFFFF

    return update


UPDATE = []


def of_file(path):
    """The checksum of a file's bytes."""
    if not UPDATE:
        UPDATE.append(compiled() or by_table())
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            crc = UPDATE[0](crc, piece)
    return crc
