"""What resources have in common: places, names, labels, fingerprints."""

import base64
import hashlib
import json
import re

from common.server import Refusal

NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


class Thing:
    """One resource."""

    def __init__(self, body, hidden):
        self.body = body
        # Reads that do not see it yet.
        self.hidden = hidden
        self.ready = False
        self.going = False


class Where:
    """A place for things, or one of them."""

    def __init__(self, project, scope, collection, name):
        self.project, self.scope, self.collection, self.name = project, scope, collection, name

    @property
    def path(self):
        return f"projects/{self.project}/{self.scope}/{self.collection}" + (f"/{self.name}" if self.name else "")


def not_found(path):
    return Refusal(404, f"The resource '{path}' was not found", "notFound")


def not_ready(path):
    return Refusal(400, f"The resource '{path}' is not ready", "resourceNotReady")


def check_name(body):
    if not NAME.fullmatch(body.get("name") or ""):
        raise Refusal(400, f"Invalid value for field 'resource.name': '{body.get('name')}'. Must be a match of regex '{NAME.pattern}'", "invalid")


def check_labels(labels):
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][-_a-z0-9]{0,62}", key) or not re.fullmatch(r"[-_a-z0-9]{0,63}", value):
            raise Refusal(400, f"Invalid value for field 'resource.labels': '{key}={value}'. Label is invalid.", "invalid")


def fingerprint(value):
    """Changes whenever the value does."""
    text = json.dumps(value, sort_keys=True).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()[:8]).decode()


def check_fingerprint(given, right, what):
    if given != right:
        raise Refusal(412, f"{what} fingerprint either invalid or resource {what.lower()} have changed", "conditionNotMet")
