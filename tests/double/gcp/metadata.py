"""The metadata server, as programs inside Google's machines see it."""

import json

from common.server import Answer

ROOT = "/computeMetadata/v1/"
FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}


class Metadata:
    """For a program on a machine that has the double's service account."""

    def __init__(self, project, tokens, settings):
        self.project, self.tokens, self.settings = project, tokens, settings

    def handle(self, request):
        """Whoever forgets the header is perhaps somebody else's browser."""
        if request.headers.get("Metadata-Flavor") != "Google":
            return Answer(403, b"Missing Metadata-Flavor:Google header.", FLAVOR)
        if request.headers.get("X-Forwarded-For"):
            return Answer(403, b"X-Forwarded-For is not allowed.", FLAVOR)
        found = self.find(request.path[len(ROOT) :].strip("/"), request.query)
        if found is None:
            return Answer(404, b"Not Found", FLAVOR)
        if isinstance(found, str):
            return Answer(200, found.encode(), {**FLAVOR, "Content-Type": "application/text"})
        return Answer(200, json.dumps(found).encode(), {**FLAVOR, "Content-Type": "application/json"})

    def find(self, path, query):
        account = "instance/service-accounts/"
        if path.startswith(account) and self.settings["metadata_account"]:
            _, _, what = path[len(account) :].partition("/")
            scopes = query.get("scopes", "https://www.googleapis.com/auth/cloud-platform").split(",")
            if what == "token":
                token, seconds = self.tokens.give(scopes, self.tokens.email)
                return {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}
            return {"email": self.tokens.email, "scopes": "\n".join(scopes)}.get(what, "default/\n" if not what else None)
        return {
            "": "instance/\nproject/\n",
            "project/project-id": self.project,
            "project/numeric-project-id": "1",
            "instance/zone": "projects/1/zones/europe-west4-a",
            "instance/id": "1",
            "instance/name": "double",
        }.get(path)
