"""The double of Google's clouds: Compute v1, Cloud Storage, tokens and the metadata server on one loopback port.

    python3 tests/double/google.py --state DIR [--listen 127.0.0.1:0] [--discovery DIR] [--project ID]

The first line on stdout is JSON: where it listens, and a token and credential files that it accepts. It ends on SIGTERM and
when stdin closes. Settings (`POST /_double/settings`) are listed in `DEFAULTS`.
"""

import argparse
import json
import os
import re

from common.discovery import Discovery
from common.server import Answer, Double, Refusal, listen, run_until_told
from gcp.compute import PREFIX, Compute
from gcp.machines import Machines
from gcp.metadata import ROOT, Metadata
from gcp.storage import Storage
from gcp.token import ALL, Tokens

DOCUMENTS = "googleapiclient/discovery_cache/documents"
DEFAULTS = {
    # How long an operation takes; or how often it has to be asked for, if that is a number.
    "operation_ms": 30,
    "operation_polls": None,
    # Operations that fail at their end: {"type", "target" (part of its link), "code", "message", "status", "times"}.
    "operation_errors": [],
    # How many reads do not see a new thing yet.
    "stale_reads": 0,
    # Limits by metric, in place of the usual ones.
    "quota": {},
    # Permissions that the caller does not have.
    "deny": [],
    # How long tokens are good for.
    "token_seconds": 3600,
    # Sessions of resumable uploads are forgotten.
    "sessions_gone": False,
    # Where else objects are that images are made of.
    "storage_url": None,
    # Whether the metadata server knows a service account.
    "metadata_account": True,
    # What runs for an instance: "state", "process" (of "program") or "qemu" (with "memory" MiB).
    "machines": "state",
    "program": "portdistrict",
    "memory": 512,
    # What runs its instructions: "kvm" where that really works, else "tcg", which is slow and works everywhere.
    "accel": "tcg",
    # What an instance of "state" prints.
    "serial": "\nPORTDISTRICT_VERSION=double\n\nPORTDISTRICT_STATE=booting\n\nPORTDISTRICT_STATE=ready\n",
}


class Settings(dict):
    """What can be changed while it runs, and the violations that were seen."""

    def __init__(self):
        super().__init__(json.loads(json.dumps(DEFAULTS)))
        self.seen = []

    def forbid(self, name, wrong):
        """Notes what is against the vendor's words, and refuses it."""
        if wrong:
            self.seen += [{"method": name, "what": what} for what in wrong]
            raise Refusal(400, f"against the discovery document of {name}: {'; '.join(wrong)}", "invalid")


class Google:
    """Everything on one port."""

    def __init__(self, arguments, url):
        self.settings = Settings()
        documents = {}
        if arguments.discovery:
            for name in ("compute", "storage"):
                documents[name] = Discovery(find_document(arguments.discovery, f"{name}.v1.json"))
        self.project = arguments.project
        self.tokens = Tokens(arguments.state, self.project, url, self.settings)
        self.storage = Storage(arguments.state, self.project, url, self.settings, self.tokens, documents.get("storage"))
        self.machines = Machines(arguments.state, self.settings)
        self.compute = Compute(url, self.project, self.settings, self.tokens, self.storage, self.machines, documents.get("compute"))
        self.metadata = Metadata(self.project, self.tokens, self.settings)

    def handle(self, request):
        """Whose request it is."""
        if request.path.startswith(PREFIX):
            return self.compute.handle(request)
        if request.path.startswith(ROOT):
            return self.metadata.handle(request)
        if re.match(r"/((resumable/)?upload/|download/)?storage/v1/", request.path):
            return self.storage.handle(request)
        if request.method == "POST" and request.path == f"/v1/projects/{self.project}:testIamPermissions":
            self.tokens.check(request, "projects", False)
            asked = request.json().get("permissions", [])
            return Answer(body={"permissions": [one for one in asked if one not in self.settings["deny"]]})
        answer = self.tokens.handle(request)
        if answer is None:
            raise Refusal(404, "Not Found", "notFound")
        return answer

    def refuse(self, request, refusal):
        """Google's form of an error."""
        reasons = {400: "badRequest", 401: "authError", 403: "forbidden", 404: "notFound", 409: "alreadyExists", 410: "gone", 412: "conditionNotMet"}
        reason = refusal.reason or reasons.get(refusal.status) or {429: "rateLimitExceeded", 503: "backendError"}.get(refusal.status, "internalError")
        error = {"message": refusal.message, "domain": "usageLimits" if "imit" in reason else "global", "reason": reason}
        body = {"error": {"code": refusal.status, "message": refusal.message, "errors": [error]}}
        return Answer(refusal.status, body, refusal.headers)

    def configure(self, given):
        unknown = set(given) - set(DEFAULTS)
        if unknown:
            raise ValueError(f"there is no setting {', '.join(sorted(unknown))}")
        self.settings.update(given)

    def state(self):
        return {"compute": self.compute.state(), "storage": self.storage.state()}

    def violations(self):
        return self.settings.seen


def find_document(folder, name):
    """Beside the folder's root, or where google-api-python-client puts it."""
    for place in (folder, os.path.join(folder, DOCUMENTS)):
        path = os.path.join(place, name)
        if os.path.exists(path):
            return path
    raise SystemExit(f"there is no {name} in {folder}")


class Later:
    """Stands for the cloud until the port is known, which credential files have to name."""

    cloud = None

    def __getattr__(self, name):
        return getattr(self.cloud, name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--discovery")
    parser.add_argument("--project", default="double-project")
    arguments = parser.parse_args()
    os.makedirs(arguments.state, exist_ok=True)
    later = Later()
    double = Double(later)
    server = listen(double, arguments.listen)
    host, port = server.server_address[:2]
    url = f"http://{host}:{port}"
    later.cloud = google = Google(arguments, url)
    token = google.tokens.give([ALL], google.tokens.email)[0]
    first = {"url": url, "compute": f"{url}{PREFIX}", "storage": url, "control": f"{url}/_double/", "project": arguments.project}
    try:
        more = {"email": google.tokens.email, "credentials": google.tokens.files, "tpm_root": google.machines.tpm_root}
        run_until_told(double, {**first, "token": token, **more})
    finally:
        google.machines.stop_all()


if __name__ == "__main__":
    main()
