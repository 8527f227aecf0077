"""Operations that take time, by a clock or by the number of times that somebody asks."""

import threading
import time
import uuid
from datetime import datetime, timezone


def stamp():
    now = datetime.now(timezone.utc)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03}+00:00"


class Operation:
    """One: what it will do when it is done, or why it will fail."""

    def __init__(self, body, then, undo, error, settings):
        self.body, self.then, self.undo, self.error = body, then, undo, error
        polls = settings["operation_polls"]
        self.polls = None if polls is None else int(polls)
        self.due = time.monotonic() + float(settings["operation_ms"]) / 1000

    @property
    def done(self):
        return self.body["status"] == "DONE"

    def finish(self):
        """Called once, when its time has come."""
        self.body.update(status="DONE", progress=100, endTime=stamp())
        if self.error is None:
            self.error = self.then() if self.then else None
        elif self.undo:
            self.undo()
        if self.error:
            code, message, status = self.error
            self.body["error"] = {"errors": [{"code": code, "message": message}]}
            self.body["httpErrorStatusCode"] = status
            self.body["httpErrorMessage"] = {403: "FORBIDDEN", 400: "BAD REQUEST", 404: "NOT FOUND"}.get(status, "SERVICE UNAVAILABLE")


class Operations:
    """All of a project's. Its lock is the lock of everything that Compute keeps."""

    def __init__(self, base, settings):
        self.base, self.settings = base, settings
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.all = {}
        self.count = 0

    def number(self):
        """An id as Google gives them."""
        self.count += 1
        return str(5_000_000_000_000_000_000 + self.count)

    def start(self, project, scope, kind, target, request_id, user, then=None, undo=None, error=None):
        """Makes one. `then` runs at its end and may give an error; with `error` it fails, after `undo`."""
        with self.lock:
            name = f"operation-{int(time.time() * 1000)}-{uuid.uuid4().hex[:13]}-{uuid.uuid4().hex[:8]}"
            now = stamp()
            body = {
                "kind": "compute#operation",
                "id": self.number(),
                "name": name,
                "operationType": kind,
                "targetLink": target["selfLink"],
                "targetId": target["id"],
                "status": "RUNNING",
                "user": user,
                "progress": 0,
                "insertTime": now,
                "startTime": now,
                "selfLink": f"{self.base}projects/{project}/{scope}/operations/{name}",
            }
            place = scope.split("/")
            if len(place) == 2:
                body[place[0][:-1]] = f"{self.base}projects/{project}/{scope}"
            if request_id:
                body["clientOperationId"] = request_id
            for rule in self.settings["operation_errors"]:
                if error is None and rule.get("times", 1) and rule["type"] == kind and rule.get("target", "") in target["selfLink"]:
                    rule["times"] = rule.get("times", 1) - 1
                    error = (rule["code"], rule.get("message", "an error on demand"), rule.get("status", 503))
            self.all[project, scope, name] = Operation(body, then, undo, error, self.settings)
            return dict(body)

    def settle(self):
        """Finishes those whose time has come."""
        with self.lock:
            now = time.monotonic()
            for operation in list(self.all.values()):
                if not operation.done and operation.polls is None and now >= operation.due:
                    operation.finish()

    def find(self, project, scope, name):
        """The operation, or None. Ids are names, too."""
        known = self.all.get((project, scope, name))
        same = (one for (owner, where, _), one in self.all.items() if (owner, where) == (project, scope) and one.body["id"] == name)
        return known or next(same, None)

    def poll(self, operation):
        """Somebody asks."""
        with self.lock:
            self.settle()
            if not operation.done and operation.polls is not None:
                operation.polls -= 1
                if operation.polls <= 0:
                    operation.finish()
            return dict(operation.body)

    def wait(self, operation, patience=120):
        """Google's `wait`: the answer comes when it is done, or at the end of patience."""
        if operation.polls is not None:
            return self.poll(operation)
        end = time.monotonic() + patience
        while not operation.done and time.monotonic() < end:
            time.sleep(max(0.0, min(0.2, operation.due - time.monotonic())))
            self.settle()
        return dict(operation.body)
