"""Cloud Storage, JSON API: buckets, objects, and uploads that go on where they were cut."""

import base64
import hashlib
import json
import os
import re
import secrets
import threading
import time
from urllib.parse import quote, unquote

from common.server import Answer, Cut, Refusal

from . import crc32c

# What an interrupted upload keeps is whole pieces of this size.
QUANTUM = 256 * 1024
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
KEPT = ("contentType", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "metadata", "storageClass")


class Upload:
    """A resumable one under way."""

    def __init__(self, bucket, given, total, query, path):
        self.bucket, self.given, self.total, self.query, self.path = bucket, given, total, query, path
        self.have = 0
        self.done = None
        self.lock = threading.Lock()


class Storage:
    """All buckets."""

    def __init__(self, folder, project, url, settings, tokens, discovery):
        self.folder = os.path.join(folder, "objects")
        os.makedirs(self.folder, exist_ok=True)
        self.project, self.url, self.settings, self.tokens, self.discovery = project, url, settings, tokens, discovery
        self.lock = threading.Lock()
        self.buckets, self.objects, self.uploads = {}, {}, {}
        self.received = 0

    def handle(self, request):
        """Path is what was asked; object names are still quoted in `raw_path`."""
        path = request.raw_path
        rules = (
            ("GET", r"/storage/v1/b", "storage.buckets.list", self.list_buckets),
            ("POST", r"/storage/v1/b", "storage.buckets.insert", self.insert_bucket),
            ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)", "storage.buckets.get", self.get_bucket),
            ("DELETE", r"/storage/v1/b/(?P<bucket>[^/]+)", "storage.buckets.delete", self.delete_bucket),
            ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)/storageLayout", "storage.buckets.getStorageLayout", self.get_layout),
            ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)/managedFolders", "storage.managedFolders.list", self.list_folders),
            ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)/iam/testPermissions", "storage.buckets.testIamPermissions", self.test_permissions),
            ("GET", r"/storage/v1/b/(?P<bucket>[^/]+)/o", "storage.objects.list", self.list_objects),
            ("GET", r"/(?:download/)?storage/v1/b/(?P<bucket>[^/]+)/o/(?P<object>[^/]+)", "storage.objects.get", self.get_object),
            ("DELETE", r"/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<object>[^/]+)", "storage.objects.delete", self.delete_object),
            ("POST", r"/(?:resumable/)?upload/storage/v1/b/(?P<bucket>[^/]+)/o", "storage.objects.insert", self.insert_object),
            ("PUT", r"/(?:resumable/)?upload/storage/v1/b/(?P<bucket>[^/]+)/o", "storage.objects.insert", self.go_on),
            ("DELETE", r"/(?:resumable/)?upload/storage/v1/b/(?P<bucket>[^/]+)/o", "storage.objects.insert", self.give_up),
        )
        for method, pattern, name, run in rules:
            found = re.fullmatch(pattern, path)
            if found and method == request.method:
                words = {key: unquote(value) for key, value in found.groupdict().items()}
                # The session's address is its own credential.
                if "upload_id" not in request.query:
                    self.tokens.check(request, "storage", method != "GET")
                    permission = {"insert": "create"}.get(name.rsplit(".", 1)[1], name.rsplit(".", 1)[1])
                    self.permit(f"{name.rsplit('.', 1)[0]}.{permission}")
                    self.check(name, words, request)
                answer = run(request, **words)
                self.check_answer(name, answer)
                return answer
        raise Refusal(404, "Not Found", "notFound")

    def permit(self, permission):
        if permission in self.settings["deny"]:
            account = self.tokens.email
            raise Refusal(403, f"{account} does not have {permission} access to the Google Cloud Storage resource.", "forbidden")

    def check(self, name, words, request):
        if self.discovery:
            body = request.json() if name == "storage.buckets.insert" else None
            self.settings.forbid(name, self.discovery.request(name, words, request.query, body))

    def check_answer(self, name, answer):
        if self.discovery and answer.status == 200 and answer.body and "json" in answer.headers.get("Content-Type", "") and "testIam" not in name:
            self.settings.forbid(name, self.discovery.response(name, json.loads(answer.body)))

    # Buckets.

    def bucket(self, name):
        with self.lock:
            if name not in self.buckets:
                raise Refusal(404, "The specified bucket does not exist.", "notFound")
            return self.buckets[name]

    def insert_bucket(self, request):
        given = request.json()
        name = given.get("name", "")
        if not BUCKET.fullmatch(name):
            raise Refusal(400, f"Invalid bucket name: '{name}'", "invalid")
        now = stamp()
        made = {
            "kind": "storage#bucket",
            "id": name,
            "selfLink": f"{self.url}/storage/v1/b/{name}",
            "projectNumber": "1",
            "name": name,
            "timeCreated": now,
            "updated": now,
            "metageneration": "1",
            "location": given.get("location", "US").upper(),
            "locationType": "multi-region" if given.get("location", "US").upper() in ("US", "EU", "ASIA") else "region",
            "storageClass": given.get("storageClass", "STANDARD"),
            "etag": "CAE=",
        }
        made.update({key: given[key] for key in ("labels", "lifecycle", "iamConfiguration", "versioning") if key in given})
        with self.lock:
            if name in self.buckets:
                raise Refusal(409, "Your previous request to create the named bucket succeeded and you already own it.", "conflict")
            self.buckets[name] = made
        return Answer(body=made)

    def get_bucket(self, _, bucket):
        return Answer(body=self.bucket(bucket))

    def get_layout(self, _, bucket):
        made = self.bucket(bucket)
        return Answer(body={"kind": "storage#storageLayout", "bucket": bucket, "location": made["location"], "locationType": made["locationType"]})

    def list_folders(self, _, bucket):
        self.bucket(bucket)
        return Answer(body={"kind": "storage#managedFolders", "items": []})

    def list_buckets(self, request):
        prefix = request.query.get("prefix", "")
        with self.lock:
            items = [made for name, made in sorted(self.buckets.items()) if name.startswith(prefix)]
        return Answer(body={"kind": "storage#buckets", "items": items})

    def delete_bucket(self, _, bucket):
        self.bucket(bucket)
        with self.lock:
            if any(where == bucket for where, _ in self.objects):
                raise Refusal(409, "The bucket you tried to delete is not empty.", "conflict")
            del self.buckets[bucket]
        return Answer(204)

    def test_permissions(self, request, bucket):
        self.bucket(bucket)
        asked = re.findall(r"permissions=([^&]+)", request.target)
        allowed = [unquote(one) for one in asked if unquote(one) not in self.settings["deny"]]
        return Answer(body={"kind": "storage#testIamPermissionsResponse", "permissions": allowed})

    # Objects.

    def object(self, bucket, name):
        self.bucket(bucket)
        with self.lock:
            if (bucket, name) not in self.objects:
                raise Refusal(404, f"No such object: {bucket}/{name}", "notFound")
            return self.objects[bucket, name]

    def get_object(self, request, bucket, **words):
        name = words["object"]
        made, path = self.object(bucket, name)
        self.precondition(request.query, made)
        if request.query.get("alt") != "media":
            return Answer(body=made)
        size = int(made["size"])
        headers = {
            "Content-Type": made.get("contentType", "application/octet-stream"),
            "ETag": made["etag"],
            "X-Goog-Generation": made["generation"],
            "X-Goog-Hash": f"crc32c={made['crc32c']},md5={made['md5Hash']}",
            "Accept-Ranges": "bytes",
        }
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
        if not part or part.groups() == ("", ""):
            return Answer(200, headers=headers, file=(path, 0, size))
        first = int(part[1]) if part[1] else max(0, size - int(part[2]))
        last = min(int(part[2]), size - 1) if part[1] and part[2] else size - 1
        if first >= size or last < first:
            raise Refusal(416, "Request range not satisfiable", "requestedRangeNotSatisfiable", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(206, headers=headers, file=(path, first, last - first + 1))

    def list_objects(self, request, bucket):
        self.bucket(bucket)
        prefix, most = request.query.get("prefix", ""), int(request.query.get("maxResults", 1000))
        after = request.query.get("pageToken", "")
        with self.lock:
            names = sorted(name for where, name in self.objects if where == bucket and name.startswith(prefix))
            names = [name for name in names if name > after]
            items = [self.objects[bucket, name][0] for name in names[:most]]
        more = {"nextPageToken": names[most - 1]} if len(names) > most else {}
        return Answer(body={"kind": "storage#objects", "items": items, **more})

    def delete_object(self, request, bucket, **words):
        name = words["object"]
        made, path = self.object(bucket, name)
        self.precondition(request.query, made)
        with self.lock:
            self.objects.pop((bucket, name), None)
        os.unlink(path)
        return Answer(204)

    def precondition(self, query, made):
        """`made` is None where there is no such object."""
        if made and query.get("generation", made["generation"]) != made["generation"]:
            raise Refusal(404, f"No such object: {made['id']}", "notFound")
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and wanted != (made["generation"] if made else "0"):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")
        wanted = query.get("ifMetagenerationMatch")
        if wanted is not None and (not made or wanted != made["metageneration"]):
            raise Refusal(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")

    # Uploads.

    def insert_object(self, request, bucket):
        self.bucket(bucket)
        kind = request.query.get("uploadType")
        path = os.path.join(self.folder, secrets.token_hex(12))
        if kind == "resumable":
            return self.begin(request, bucket, path)
        if kind == "media":
            given = {"name": request.query.get("name"), "contentType": request.headers.get("Content-Type")}
            with open(path, "wb") as file:
                self.receive(request.pieces(), file)
        elif kind == "multipart":
            given, content = multipart(request)
            with open(path, "wb") as file:
                self.receive([content], file)
        else:
            raise Refusal(400, f"Bad value for uploadType: {kind}", "invalid")
        given["name"] = request.query.get("name") or given.get("name")
        return self.finish(bucket, given, path, request.query, request.headers.get("X-Goog-Hash"))

    def receive(self, pieces, file):
        for piece in pieces:
            file.write(piece)
            self.received += len(piece)

    def begin(self, request, bucket, path):
        given = request.json()
        given["name"] = request.query.get("name") or given.get("name")
        if self.discovery:
            self.settings.forbid("storage.objects.insert", self.discovery.value(given, {"$ref": "Object"}, "body"))
        if not given["name"]:
            raise Refusal(400, "Required", "required")
        given.setdefault("contentType", request.headers.get("X-Upload-Content-Type") or "application/octet-stream")
        self.precondition(request.query, self.objects.get((bucket, given["name"]), (None,))[0])
        total = request.headers.get("X-Upload-Content-Length")
        session = secrets.token_urlsafe(48)
        open(path, "wb").close()
        with self.lock:
            self.uploads[session] = Upload(bucket, given, int(total) if total else None, request.query, path)
        where = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={session}"
        return Answer(200, headers={"Location": where, "X-GUploader-UploadID": session})

    def upload(self, request):
        with self.lock:
            found = self.uploads.get(request.query.get("upload_id"))
        if found is None:
            raise Refusal(404 if not self.settings["sessions_gone"] else 410, "Not Found", "notFound")
        if self.settings["sessions_gone"]:
            raise Refusal(410, "Gone", "gone")
        return found

    def go_on(self, request, bucket):
        """A chunk, or the question how much is there."""
        upload = self.upload(request)
        with upload.lock:
            if upload.done:
                request.drain()
                return upload.done
            span = request.headers.get("Content-Range")
            if span is None:
                first, last, total = 0, request.left - 1, request.left
            else:
                asked = re.fullmatch(r"bytes \*/(\d+|\*)", span)
                if asked:
                    return self.progress(upload, None if asked[1] == "*" else int(asked[1]), request)
                found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", span)
                if not found:
                    raise Refusal(400, f"Failed to parse Content-Range header: {span}", "badRequest")
                first, last, total = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
            return self.chunk(upload, request, first, last, total)

    def chunk(self, upload, request, first, last, total):
        if not request.chunked and request.left != last - first + 1:
            raise Refusal(400, "Content-Range does not match Content-Length", "badRequest")
        if total is not None and upload.total is not None and total != upload.total:
            raise Refusal(400, "the total size changed", "badRequest")
        if first > upload.have:
            raise Refusal(503, f"the upload is at {upload.have}, not at {first}", "backendError")
        if total is None or last + 1 < total:
            if (last + 1 - first) % QUANTUM:
                raise Refusal(400, f"There were {last + 1 - first} byte(s) in the request, which is no multiple of {QUANTUM}.", "badRequest")
        upload.total = total if total is not None else upload.total
        at = first
        with open(upload.path, "r+b") as file:
            try:
                for piece in request.pieces():
                    self.received += len(piece)
                    # What is there already is not written again.
                    keep = piece[max(0, upload.have - at) :]
                    file.seek(max(at, upload.have))
                    file.write(keep)
                    at += len(piece)
            except Cut:
                upload.have = max(upload.have, at // QUANTUM * QUANTUM)
                file.truncate(upload.have)
                raise
            upload.have = max(upload.have, at)
        return self.progress(upload, total, request)

    def progress(self, upload, total, request):
        if upload.total is None:
            upload.total = total
        if upload.total is None or upload.have < upload.total:
            return Answer(308, headers={"Range": f"bytes=0-{upload.have - 1}"} if upload.have else {})
        upload.done = self.finish(upload.bucket, upload.given, upload.path, upload.query, request.headers.get("X-Goog-Hash"))
        return upload.done

    def give_up(self, request, bucket):
        upload = self.upload(request)
        with self.lock:
            self.uploads.pop(request.query["upload_id"], None)
        if not upload.done:
            os.unlink(upload.path)
        return Answer(499)

    def finish(self, bucket, given, path, query, hashes):
        """Makes an object of a file, if it is what was promised."""
        name = given.get("name")
        if not name:
            raise Refusal(400, "Required", "required")
        md5, size = hashlib.md5(), os.path.getsize(path)
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                md5.update(piece)
        found = {"crc32c": base64.b64encode(crc32c.of_file(path).to_bytes(4, "big")).decode(), "md5": base64.b64encode(md5.digest()).decode()}
        promised = dict(pair.strip().split("=", 1) for pair in (hashes or "").split(",") if "=" in pair)
        promised.update({key: given[field] for key, field in (("crc32c", "crc32c"), ("md5", "md5Hash")) if given.get(field)})
        for kind, value in promised.items():
            if kind in found and value != found[kind]:
                os.unlink(path)
                raise Refusal(400, f"Provided {kind} hash \"{value}\" doesn't match calculated {kind} hash \"{found[kind]}\".", "invalid")
        generation, now = str(time.time_ns() // 1000), stamp()
        link = f"{self.url}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        made = {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{generation}",
            "selfLink": link,
            "mediaLink": f"{self.url}/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}?generation={generation}&alt=media",
            "name": name,
            "bucket": bucket,
            "generation": generation,
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "size": str(size),
            "md5Hash": found["md5"],
            "crc32c": found["crc32c"],
            "etag": base64.b64encode(generation.encode()).decode(),
            "timeCreated": now,
            "updated": now,
        }
        made.update({key: given[key] for key in KEPT if given.get(key)})
        with self.lock:
            old = self.objects.get((bucket, name))
            self.precondition(query, old[0] if old else None)
            self.objects[bucket, name] = (made, path)
        if old:
            os.unlink(old[1])
        return Answer(body=made)

    def state(self):
        """For `GET /_double/state`."""
        with self.lock:
            objects = {f"{bucket}/{name}": made for (bucket, name), (made, _) in self.objects.items()}
            uploads = {key: {"have": one.have, "total": one.total, "done": bool(one.done)} for key, one in self.uploads.items()}
            return {"buckets": self.buckets, "objects": objects, "uploads": uploads, "received": self.received}


def multipart(request):
    """Metadata and content of a `multipart/related` body."""
    found = re.search(r"""boundary=["']?([^"';]+)["']?""", request.headers.get("Content-Type") or "")
    whole = b"".join(request.pieces())
    parts = whole.split(b"--" + found[1].encode()) if found else []
    if len(parts) != 4:
        raise Refusal(400, "Malformed multipart body.", "badContent")
    take = lambda part: re.sub(rb"\r?\n$", b"", re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1])
    given = json.loads(take(parts[1]))
    head = re.search(rb"(?i)content-type:\s*([^\r\n]+)", re.split(rb"\r?\n\r?\n", parts[2], maxsplit=1)[0])
    given.setdefault("contentType", head[1].decode() if head else "application/octet-stream")
    return given, take(parts[2])


def stamp():
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
