"""HTTP/1.1 with threads, a control plane under /_double/, faults, and a record of every request."""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import Faults

CONTROL = "/_double/"
PIECE = 256 * 1024
# A body that is not for an object's content.
MAX_BODY = 8 * 1024 * 1024


class Cut(Exception):
    """The body ended before it was whole: the connection is of no more use."""


class Refusal(Exception):
    """An answer that says no; what it looks like is the cloud's business."""

    def __init__(self, status, message, reason=None, headers=None, **more):
        super().__init__(message)
        self.status, self.message, self.reason, self.headers, self.more = status, message, reason, headers or {}, more


class Answer:
    """Status, headers, and a body: JSON if it is no bytes, or a file of which a part is sent."""

    def __init__(self, status=200, body=None, headers=None, file=None):
        self.status, self.headers, self.file = status, dict(headers or {}), file
        if body is None or isinstance(body, bytes):
            self.body = body or b""
        else:
            self.body = json.dumps(body).encode()
            self.headers.setdefault("Content-Type", "application/json; charset=UTF-8")


class Request:
    """What was asked. Its body is read by who handles it, in pieces or as a whole."""

    def __init__(self, handler, fault):
        self.method, self.target, self.headers = handler.command, handler.path, handler.headers
        parts = urlsplit(handler.path)
        self.raw_path, self.path = parts.path, unquote(parts.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.source = handler.rfile
        self.left = int(self.headers.get("Content-Length") or 0)
        self.chunked = "chunked" in (self.headers.get("Transfer-Encoding") or "").lower()
        self.whole = not self.chunked and self.left == 0
        # How much of the body arrives before the connection is cut.
        self.budget = fault.bytes if fault and fault.kind == "half-close" else None
        self.size = 0
        self.seen = b""

    def pieces(self):
        """The body as it comes; `Cut` if it ends too early."""
        if self.chunked:
            yield from self.chunks()
        while self.left and not self.whole:
            yield self.take(min(PIECE, self.left))
        self.whole = True

    def chunks(self):
        while not self.whole:
            size = int(self.source.readline().split(b";")[0] or b"0", 16)
            self.left = size
            while self.left:
                yield self.take(min(PIECE, self.left))
            self.source.readline()
            self.whole = size == 0

    def take(self, count):
        if self.budget is not None:
            count = min(count, self.budget)
            if count == 0:
                raise Cut
            self.budget -= count
        try:
            piece = self.source.read1(count)
        except OSError as error:
            raise Cut from error
        if not piece:
            raise Cut
        self.left -= len(piece)
        self.size += len(piece)
        if len(self.seen) < MAX_BODY and self.size <= MAX_BODY:
            self.seen += piece
        return piece

    def body(self):
        """The whole body."""
        for _ in self.pieces():
            if self.size > MAX_BODY:
                raise Refusal(413, "the body is too large")
        return self.seen

    def json(self):
        """The whole body as a JSON object; an empty one is {}."""
        body = self.body()
        try:
            value = json.loads(body) if body.strip() else {}
        except ValueError as error:
            raise Refusal(400, f"Parse Error: {error}", "parseError") from error
        if not isinstance(value, dict):
            raise Refusal(400, "the body is no object", "parseError")
        return value

    def drain(self):
        """Reads what nobody wanted, so that the connection can be used again."""
        for _ in self.pieces():
            pass

    def recorded_body(self):
        """For the record: JSON where it is JSON."""
        kind = (self.headers.get("Content-Type") or "").lower()
        if "json" in kind and self.seen and self.size <= MAX_BODY:
            try:
                return json.loads(self.seen)
            except ValueError:
                return None
        return None


class Double:
    """One cloud. `cloud.handle(request)` answers, `cloud.refuse(refusal)` gives a refusal the cloud's words."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.faults = Faults()
        self.lock = threading.Lock()
        self.requests = []
        self.ending = threading.Event()

    def control(self, request):
        """The control plane."""
        what = (request.method, request.path[len(CONTROL) :])
        if what == ("GET", "requests"):
            with self.lock:
                return Answer(body=list(self.requests))
        if what == ("DELETE", "requests"):
            with self.lock:
                self.requests.clear()
            return Answer(204)
        if what == ("GET", "state"):
            return Answer(body=self.cloud.state())
        if what == ("GET", "violations"):
            return Answer(body=self.cloud.violations())
        if what == ("GET", "faults"):
            return Answer(body=self.faults.describe())
        if what == ("DELETE", "faults"):
            self.faults.clear()
            return Answer(204)
        if what in (("POST", "faults"), ("POST", "settings")):
            try:
                given = json.loads(request.body())
                (self.faults.add if what[1] == "faults" else self.cloud.configure)(given)
            except (ValueError, TypeError) as error:
                return Answer(400, {"error": str(error)})
            return Answer(204)
        if what == ("GET", "settings"):
            return Answer(body=self.cloud.settings)
        return Answer(404, {"error": f"{request.method} {request.path} is not here"})

    def note(self, request, fault):
        """Writes a request down before it is done; what was answered is added afterwards."""
        entry = {"method": request.method, "path": request.target, "body": None, "size": 0, "time": time.time(), "status": None}
        if fault:
            entry["fault"] = fault.kind
        with self.lock:
            self.requests.append(entry)
        return entry


def make_handler(double):
    """A handler class that knows its double."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer's head and body are two writes: without this, the second waits for the first one's acknowledgement.
        disable_nagle_algorithm = True
        rbufsize = PIECE

        def log_message(self, *_):
            pass

        def serve(self):
            control = self.path.startswith(CONTROL)
            fault = None if control else double.faults.strike(self.command, self.path)
            request = Request(self, fault)
            if (self.headers.get("Expect") or "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            if control:
                self.send(double.control(request), None)
                return
            entry = double.note(request, fault)
            try:
                answer = self.answer(request, fault)
                if answer is not None:
                    entry["status"] = answer.status
            except Cut:
                answer = None
            finally:
                entry["body"], entry["size"] = request.recorded_body(), request.size
            if answer is None:
                self.hang_up()
            else:
                self.send(answer, fault)

        def answer(self, request, fault):
            """None: the connection ends without one."""
            kind = fault.kind if fault else None
            if kind in ("silence", "kill") or (fault and fault.status):
                request.drain()
            if kind == "silence":
                return self.keep_silent()
            if kind == "kill":
                os.kill(int(fault.pid), signal.SIGKILL)
                return None
            if fault and fault.status:
                headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                return double.cloud.refuse(request, Refusal(fault.status, "a fault on demand", fault.reason, headers))
            try:
                answer = double.cloud.handle(request)
                request.drain()
            except Refusal as refusal:
                answer = double.cloud.refuse(request, refusal)
                request.drain()
            if kind == "silence-after":
                return self.keep_silent()
            if kind == "kill-after":
                os.kill(int(fault.pid), signal.SIGKILL)
            return None if kind in ("lost", "kill-after", "half-close") else answer

        def keep_silent(self):
            """Until the other side has enough."""
            while not double.ending.is_set():
                if select.select([self.connection], [], [], 0.2)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                    return None
            return None

        def hang_up(self):
            self.close_connection = True
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

        def send(self, answer, fault):
            size = answer.file[2] if answer.file else len(answer.body)
            bodiless = self.command == "HEAD" or answer.status in (204, 304)
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(size))
                self.end_headers()
                if bodiless:
                    return
                if fault and fault.kind == "slow":
                    for at in range(size):
                        self.wfile.write(answer.body[at : at + 1])
                        time.sleep(fault.every)
                elif answer.file:
                    path, offset, count = answer.file
                    with open(path, "rb") as file:
                        self.wfile.flush()
                        while count:
                            sent = os.sendfile(self.connection.fileno(), file.fileno(), offset, count)
                            if sent == 0:
                                raise Cut
                            offset, count = offset + sent, count - sent
                else:
                    self.wfile.write(answer.body)
            except (OSError, Cut):
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = serve

    return Handler


class Server(ThreadingHTTPServer):
    """Many connections at once; none of them keeps the process alive."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def listen(double, address):
    """A server that answers from a thread of its own."""
    host, port = address.rsplit(":", 1)
    server = Server((host, int(port)), make_handler(double))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


def run_until_told(double, first_line):
    """Says where it listens, and stays until SIGTERM, SIGINT or the end of stdin."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: double.ending.set())
    print(json.dumps(first_line), flush=True)

    def watch_stdin():
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        double.ending.set()

    threading.Thread(target=watch_stdin, daemon=True).start()
    while not double.ending.wait(1):
        pass
