"""Access tokens: who may have one (service account, federated identity, user, metadata server), and what it is good for."""

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import threading
import time
from urllib.parse import parse_qs

from common.server import Answer, Refusal

EMAIL = "publisher@{project}.iam.gserviceaccount.com"
AUDIENCE = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/ci/providers/ci"
PREFIX = "https://www.googleapis.com/auth/"
ALL = PREFIX + "cloud-platform"
# DER of "SHA-256" in a PKCS #1 v1.5 signature (RFC 8017, 9.2).
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")


def base64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Tokens:
    """All that were given out, and the keys that they are asked for with."""

    def __init__(self, folder, project, url, settings):
        self.project, self.url, self.settings = project, url, settings
        self.email = EMAIL.format(project=project)
        self.lock = threading.Lock()
        self.valid = {}
        self.subject = "subject-" + secrets.token_hex(8)
        self.request_token = "request-" + secrets.token_hex(8)
        self.refresh_token = "refresh-" + secrets.token_hex(8)
        self.files = self.write_credentials(folder)

    def write_credentials(self, folder):
        """Credential files of each kind, as Google's tools write them."""
        key = os.path.join(folder, "key.pem")
        run = lambda *words: subprocess.run(words, check=True, capture_output=True).stdout.decode()
        run("openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
        self.modulus = int(run("openssl", "rsa", "-in", key, "-noout", "-modulus").strip().split("=")[1], 16)
        self.exponent = 65537
        with open(key, encoding="ascii") as file:
            pem = file.read()
        subject_file = os.path.join(folder, "subject.txt")
        with open(subject_file, "w", encoding="ascii") as file:
            file.write(self.subject)
        federated = {
            "type": "external_account",
            "audience": AUDIENCE,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/v1/token",
        }
        impersonated = f"{self.url}/v1/projects/-/serviceAccounts/{self.email}:generateAccessToken"
        source = {
            "url": f"{self.url}/oidc/token?audience={AUDIENCE}",
            "headers": {"Authorization": f"Bearer {self.request_token}"},
            "format": {"type": "json", "subject_token_field_name": "value"},
        }
        files = {
            "service-account": {
                "type": "service_account",
                "project_id": self.project,
                "private_key_id": "1",
                "private_key": pem,
                "client_email": self.email,
                "client_id": "1",
                "token_uri": f"{self.url}/token",
            },
            "external-account-file": {**federated, "credential_source": {"file": subject_file}},
            "external-account-url": {**federated, "credential_source": source, "service_account_impersonation_url": impersonated},
            "authorized-user": {
                "type": "authorized_user",
                "client_id": "client",
                "client_secret": "secret",
                "refresh_token": self.refresh_token,
                "token_uri": f"{self.url}/token",
            },
        }
        paths = {}
        for name, content in files.items():
            paths[name] = os.path.join(folder, name + ".json")
            with open(os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(content, file)
        return paths

    def give(self, scopes, who):
        """A new token; without scopes it is good for nothing."""
        token = "ya29.double-" + secrets.token_hex(16)
        seconds = int(self.settings["token_seconds"])
        with self.lock:
            self.valid[token] = (time.time() + seconds, frozenset(scopes), who)
        return token, seconds

    def check(self, request, api, writes):
        """Refuses what has no good token."""
        word = request.headers.get("Authorization") or ""
        with self.lock:
            known = self.valid.get(word.removeprefix("Bearer "))
        if known is None and word.count(".") == 2:
            known = self.self_signed(word.removeprefix("Bearer "))
        if known is None or known[0] < time.time():
            message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
            raise Refusal(401, message, "authError", {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'})
        enough = {"compute": ["compute"], "storage": ["devstorage.full_control", "devstorage.read_write"], "projects": ["compute"]}[api]
        if not writes:
            enough = enough + {"compute": ["compute.readonly"], "storage": ["devstorage.read_only"], "projects": ["compute.readonly"]}[api]
        if not known[1] & {ALL, *(PREFIX + scope for scope in enough)}:
            raise Refusal(403, "Request had insufficient authentication scopes.", "insufficientPermissions")
        return known[2]

    def self_signed(self, word):
        """A service account may sign its own tokens, with a scope or for one API (AIP-4111); None if this is none."""
        try:
            claims = self.verified(word)
            scopes = claims["scope"].split() if "scope" in claims else [ALL]
            return claims["exp"], frozenset(scopes), self.email
        except (KeyError, ValueError, TypeError, AttributeError):
            return None

    def handle(self, request):
        """One of the addresses at which tokens are got; None if it is none of them."""
        if request.method == "POST" and request.path == "/token":
            return self.grant(form(request))
        if request.method == "POST" and request.path == "/v1/token":
            return self.exchange(request)
        if request.method == "POST" and re.fullmatch(r"/v1/projects/-/serviceAccounts/[^/]+:generateAccessToken", request.path):
            return self.impersonate(request)
        if request.method == "GET" and request.path == "/oidc/token":
            if request.headers.get("Authorization") != f"Bearer {self.request_token}":
                raise Refusal(401, "the request token is wrong", "unauthorized")
            return Answer(body={"value": self.subject})
        return None

    def grant(self, given):
        """OAuth 2.0: a service account's assertion (RFC 7523), or a user's refresh token."""
        kind = given.get("grant_type")
        if kind == "refresh_token":
            if given.get("refresh_token") != self.refresh_token:
                return oauth_error("invalid_grant", "Bad Request")
            scopes = given.get("scope", ALL).split()
            return self.granted(scopes, "user@example.org")
        if kind != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return oauth_error("unsupported_grant_type", f"Invalid grant_type: {kind}")
        try:
            claims = self.asserted(given["assertion"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return oauth_error("invalid_grant", f"Invalid JWT: {error}")
        return self.granted(claims["scope"].split(), self.email)

    def granted(self, scopes, who):
        token, seconds = self.give(scopes, who)
        return Answer(body={"access_token": token, "expires_in": seconds, "token_type": "Bearer"})

    def verified(self, assertion):
        """The claims of a JWT that this double's service account has signed."""
        head, body, signature = assertion.split(".")
        if json.loads(base64url(head)).get("alg") != "RS256":
            raise ValueError("alg is not RS256")
        size = (self.modulus.bit_length() + 7) // 8
        opened = pow(int.from_bytes(base64url(signature), "big"), self.exponent, self.modulus).to_bytes(size, "big")
        digest = SHA256_INFO + hashlib.sha256(f"{head}.{body}".encode()).digest()
        if opened != b"\0\1" + b"\xff" * (size - len(digest) - 3) + b"\0" + digest:
            raise ValueError("Invalid JWT Signature.")
        claims = json.loads(base64url(body))
        if claims["iss"] != self.email:
            raise ValueError("iss is not the service account")
        return claims

    def asserted(self, assertion):
        """The claims of an assertion that a token can be had for."""
        claims, now = self.verified(assertion), time.time()
        # Google takes its well-known address as well as the one that the key's file names.
        if claims["aud"] not in (f"{self.url}/token", "https://oauth2.googleapis.com/token"):
            raise ValueError(f"aud is {claims['aud']!r}")
        if not now - 300 <= claims["iat"] <= now + 300 or not now < claims["exp"] <= claims["iat"] + 3600:
            raise ValueError("Token must be a short-lived token (60 minutes) and in a reasonable timeframe.")
        return claims

    def exchange(self, request):
        """Security Token Service: the identity of a CI for a federated token (RFC 8693)."""
        given = form(request)
        given = {re.sub("[A-Z]", lambda letter: "_" + letter[0].lower(), name): value for name, value in given.items()}
        wanted = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "audience": AUDIENCE,
            "subject_token": self.subject,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        for name, value in wanted.items():
            if given.get(name) != value:
                return oauth_error("invalid_grant" if name == "subject_token" else "invalid_request", f"{name} is not as it must be")
        token, seconds = self.give(given.get("scope", "").split(), "federated")
        kind = "urn:ietf:params:oauth:token-type:access_token"
        return Answer(body={"access_token": token, "expires_in": seconds, "token_type": "Bearer", "issued_token_type": kind})

    def impersonate(self, request):
        """IAM credentials: a federated token for one of a service account."""
        with self.lock:
            known = self.valid.get((request.headers.get("Authorization") or "").removeprefix("Bearer "))
        if known is None or known[0] < time.time():
            raise Refusal(401, "Request had invalid authentication credentials.", "authError")
        if not known[1] & {ALL, PREFIX + "iam"}:
            raise Refusal(403, "Request had insufficient authentication scopes.", "insufficientPermissions")
        token, seconds = self.give(request.json().get("scope", []), self.email)
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        return Answer(body={"accessToken": token, "expireTime": expiry})


def form(request):
    """A form's fields, or a JSON object's."""
    if "json" in (request.headers.get("Content-Type") or ""):
        return request.json()
    return {name: values[-1] for name, values in parse_qs(request.body().decode("utf-8", "replace")).items()}


def oauth_error(code, description):
    return Answer(400, {"error": code, "error_description": description})
