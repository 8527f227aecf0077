"""Images: made of an archive in Cloud Storage, found by name or family, deprecated, removed."""

import json
import os
import re
import secrets
import shutil
import tarfile
import urllib.request
import zlib
from urllib.parse import quote, unquote

from common.server import Refusal

from .rules import Where, check_fingerprint, check_labels, check_name, fingerprint

GIB = 1 << 30


class Images:
    """Part of Compute."""

    def images_insert(self, where, request, body):
        check_name(body)
        check_labels(body.get("labels", {}))
        source = (body.get("rawDisk") or {}).get("source", "")
        bucket_object = object_of(source)
        if bucket_object is None:
            raise Refusal(400, f"Invalid value for field 'resource.rawDisk.source': '{source}'. The URL is malformed.", "invalid")
        try:
            stored, path = self.elsewhere(*bucket_object) if self.settings["storage_url"] else self.storage.object(*bucket_object)
        except (Refusal, OSError) as refusal:
            raise Refusal(400, f"Invalid value for field 'resource.rawDisk.source': '{source}'. The referenced object does not exist.", "invalid") from refusal
        made = {"description": "", "sourceType": "RAW", "architecture": "X86_64", **body}
        made["rawDisk"] = {"source": source, "containerType": "TAR"}
        made.update(status="PENDING", archiveSizeBytes=stored["size"], diskSizeGb="0", storageLocations=["us"])

        def ready(thing):
            size = disk_size(path)
            if size is None or size % GIB:
                message = "The tar archive does not contain a disk.raw" if size is None else "The size of disk.raw is no multiple of 1 GB"
                return ("INVALID_IMAGE_ARCHIVE", message, 400)
            thing.body.update(status="READY", diskSizeGb=str(size // GIB))
            self.machines.keep_archive(thing.body["id"], path)
            return None

        return self.make(where, made, request, then=ready, error=self.over_quota("IMAGES", 1))

    def elsewhere(self, bucket, name):
        """An object of another server that speaks the same API."""
        link = f"{self.settings['storage_url']}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        with urllib.request.urlopen(link) as answer:
            stored = json.load(answer)
        path = os.path.join(self.machines.folder, f"elsewhere-{secrets.token_hex(8)}")
        with urllib.request.urlopen(f"{link}?alt=media") as answer, open(path, "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        return {"size": str(stored["size"])}, path

    def images_getFromFamily(self, where, *_):
        family = where.name[len("family/") :]
        with self.lock:
            of_family = [thing for thing in self.table(where.project, where.scope, "images").values() if thing.body.get("family") == family]
            usable = [thing for thing in of_family if thing.body["status"] == "READY" and not thing.body.get("deprecated", {}).get("state", "ACTIVE") != "ACTIVE"]
            if not usable:
                raise Refusal(404, f"The resource '{where.path}' was not found", "notFound")
            return self.shown(max(usable, key=lambda thing: (thing.body["creationTimestamp"], thing.body["id"])))

    def images_deprecate(self, where, request, body):
        state = body.get("state", "ACTIVE")
        return self.change(where, request, "deprecate", {"deprecated": dict(body)} if state != "ACTIVE" else {"deprecated": {"state": "ACTIVE"}})

    def images_patch(self, where, request, body):
        thing = self.find(where, seen=False)
        fields = {key: body[key] for key in ("description", "family") if key in body}
        if "labels" in body:
            check_fingerprint(body.get("labelFingerprint"), thing.body["labelFingerprint"], "Labels")
            fields.update(labels=body["labels"], labelFingerprint=fingerprint(body["labels"]))
        return self.change(where, request, "patch", fields)

    def image_of(self, project, text):
        """The image that a disk is to be made of."""
        link = self.link(project, text)
        found = re.search(r"projects/([^/]+)/global/images/(?:(family)/)?([^/]+)$", link)
        if not found:
            raise Refusal(400, f"Invalid value for field 'resource.disks[0].initializeParams.sourceImage': '{text}'. The URL is malformed.", "invalid")
        where = Where(found[1], "global", "images", found[3])
        if found[2]:
            return self.images_getFromFamily(Where(found[1], "global", "images", f"family/{found[3]}"))
        thing = self.find(where, seen=False)
        if thing.body["status"] != "READY":
            raise Refusal(400, f"The resource '{where.path}' is not ready", "resourceNotReady")
        return thing.body


def object_of(source):
    """Bucket and name of the object that a link names."""
    for pattern in (
        r"https://storage\.(?:googleapis|cloud\.google)\.com/(?!storage/v1/)([^/]+)/(.+)",
        r"https?://[^/]+/storage/v1/b/([^/]+)/o/([^/?]+)",
        r"gs://([^/]+)/(.+)",
    ):
        found = re.fullmatch(pattern, source)
        if found:
            return found[1], unquote(found[2])
    return None


def disk_size(path):
    """Bytes of the disk in an archive, as its first entry says; None if there is none."""
    try:
        with tarfile.open(path, "r|gz") as archive:
            entry = archive.next()
            return entry.size if entry and entry.name in ("disk.raw", "./disk.raw") else None
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return None
