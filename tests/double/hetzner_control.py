"""The HTTP of a double, and the controls that tests have over it, under /_double/.

GET  requests    what was asked so far: method, path with query, body, time, status answered
GET  state       everything that exists
GET  violations  requests and answers that the vendor's reference does not allow; a test wants none
POST faults      a list of {"method", "path" (regular expression), "nth" (the first that it meets, from 1), "times", "fault", "pid"}
                 fault: a status, "lost" (done, never answered), "silence" / "silence-after" (nothing is ever said; not done / done),
                 "kill" / "kill-after" (SIGKILL to pid before / after it was done), "slow" (the answer trickles)
GET  faults      the same list, each with how often it was met
DELETE faults
POST settings    see the settings of the double
POST snapshot    {"description", "labels"}: an image that was made before
POST foreign     makes things that are not of the program under test
"""

import json
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Refusal(Exception):
    """A request that is refused, with the answer."""

    def __init__(self, status, document):
        super().__init__(document)
        self.status, self.document = status, document


class Control:
    """What tests may ask and set."""

    def __init__(self, cloud, settings, violations, errors):
        self.cloud, self.settings, self.violations, self.errors = cloud, settings, violations, errors
        self.requests, self.faults = [], []
        self.lock = threading.RLock()

    def answer(self, method, verb, body):
        if (method, verb) == ("GET", "requests"):
            return self.requests
        if (method, verb) == ("GET", "state"):
            self.cloud.tick()
            return self.cloud.state()
        if (method, verb) == ("GET", "violations"):
            return self.violations
        if verb == "faults":
            if method == "POST":
                self.faults += [{"nth": 1, "times": 1, "met": 0, **fault} for fault in body]
            if method == "DELETE":
                self.faults.clear()
            return self.faults
        if (method, verb) == ("DELETE", "requests"):
            self.requests.clear()
            return []
        if (method, verb) == ("POST", "settings"):
            self.settings.update(body)
            return self.settings
        if (method, verb) == ("POST", "foreign"):
            self.cloud.foreign()
            return self.cloud.state()
        if (method, verb) == ("POST", "snapshot"):
            return self.cloud.snapshot(body)
        raise Refusal(404, {"error": f"no such control: {method} {verb}"})

    def fault(self, method, path):
        """What befalls this request, if anything does."""
        for fault in self.faults:
            if fault.get("method", method) == method and re.search(fault["path"], path):
                fault["met"] += 1
                if fault["nth"] <= fault["met"] < fault["nth"] + fault["times"]:
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two packets: the second must not wait for the first to be acknowledged.
    disable_nagle_algorithm = True
    control = None

    def log_message(self, *_):
        pass

    def respond(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        try:
            document = json.loads(body) if body else None
        except ValueError:
            return self.send(400, {"error": {"code": "json_error", "message": "invalid JSON in request", "details": None}})
        if url.path.startswith("/_double/"):
            try:
                with self.control.lock:
                    return self.send(200, self.control.answer(self.command, url.path[len("/_double/"):], document))
            except Refusal as refusal:
                return self.send(refusal.status, refusal.document)
        return self.api(url, document)

    do_GET = do_POST = do_PUT = do_DELETE = respond

    def api(self, url, body):
        control = self.control
        entry = {"method": self.command, "path": self.path, "body": body, "time": time.time(), "status": None}
        with control.lock:
            control.requests.append(entry)
            fault = control.fault(self.command, self.path)
            kind = str(fault["fault"]) if fault else None
            if kind == "kill":
                os.kill(fault["pid"], signal.SIGKILL)
            if kind in ("kill", "silence"):
                done = None
            elif kind and kind.isdigit():
                code, message = control.errors[int(kind)]
                done = int(kind), {"error": {"code": code, "message": message, "details": None}}
            else:
                done = self.work(url, body)
            entry["status"] = done[0] if done else None
            headers = control.cloud.rate_headers()
        if kind == "kill-after":
            os.kill(fault["pid"], signal.SIGKILL)
        if kind in ("silence", "silence-after"):
            self.wait_for_the_end()
        if kind in ("kill", "kill-after", "lost", "silence", "silence-after"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send(*done, headers, slow=kind == "slow")

    def work(self, url, body):
        query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        try:
            return self.control.cloud.handle(self.command, url.path, query, body, self.headers)
        except Refusal as refusal:
            return refusal.status, refusal.document

    def wait_for_the_end(self):
        """Says nothing until the other side goes away."""
        try:
            while self.connection.recv(1024):
                pass
        except OSError:
            pass

    def send(self, status, document, headers=None, slow=False):
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if document is not None:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), 64 if slow else max(1, len(body))):
            self.wfile.write(body[start:start + (64 if slow else len(body))])
            if slow:
                self.wfile.flush()
                time.sleep(0.02)


def serve(listen, control, describe):
    """Serves until SIGTERM, or until standard input ends."""
    host, port = listen.rsplit(":", 1)
    Handler.control = control
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.daemon_threads = True
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: end.set())

    def watch():
        while os.read(0, 1024):
            pass
        end.set()

    threading.Thread(target=watch, daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(describe(f"http://{host}:{server.server_address[1]}")), flush=True)
    end.wait()
    control.cloud.close()
