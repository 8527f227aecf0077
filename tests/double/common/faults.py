"""Faults on demand: which request is to go wrong, and how."""

import re
import threading

STATUS = re.compile(r"[45]\d\d")
KINDS = ("lost", "silence", "silence-after", "kill", "kill-after", "slow", "half-close")


class Fault:
    """One entry of `POST /_double/faults`."""

    def __init__(self, entry):
        self.kind = str(entry.get("fault", ""))
        if not STATUS.fullmatch(self.kind) and self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no fault: a status of 400 to 599 or one of {', '.join(KINDS)}")
        unknown = set(entry) - {"method", "path", "nth", "times", "fault", "pid", "bytes", "every_ms", "retry_after", "reason"}
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        self.method = entry.get("method")
        self.path = re.compile(entry.get("path", ""))
        self.first = int(entry.get("nth", 1))
        self.last = self.first + int(entry.get("times", 1)) - 1
        self.pid = entry.get("pid")
        # Of a request's body, before the connection is cut.
        self.bytes = int(entry.get("bytes", 0))
        # Between two bytes of a slow answer.
        self.every = float(entry.get("every_ms", 20)) / 1000
        self.retry_after = entry.get("retry_after")
        self.reason = entry.get("reason")
        self.seen = 0
        self.entry = entry

    @property
    def status(self):
        """The status to answer without doing anything, if that is the fault."""
        return int(self.kind) if STATUS.fullmatch(self.kind) else None

    def strikes(self, method, path):
        """Counts a request; true if this one is to go wrong."""
        if (self.method and self.method != method) or not self.path.search(path):
            return False
        self.seen += 1
        return self.first <= self.seen <= self.last

    def describe(self):
        """As it was given, with how often it matched."""
        return {**self.entry, "seen": self.seen, "struck": max(0, min(self.seen, self.last) - self.first + 1)}


class Faults:
    """All that were asked for."""

    def __init__(self):
        self.lock = threading.Lock()
        self.all = []

    def add(self, entries):
        """Takes a list of entries, or one."""
        made = [Fault(entry) for entry in (entries if isinstance(entries, list) else [entries])]
        with self.lock:
            self.all.extend(made)

    def clear(self):
        """Nothing goes wrong from now on."""
        with self.lock:
            self.all.clear()

    def strike(self, method, path):
        """The fault of this request. Every entry counts it, the first that strikes wins."""
        with self.lock:
            struck = [fault for fault in self.all if fault.strikes(method, path)]
        return struck[0] if struck else None

    def describe(self):
        """For `GET /_double/faults`."""
        with self.lock:
            return [fault.describe() for fault in self.all]
