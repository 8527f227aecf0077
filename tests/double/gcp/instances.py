"""Instances: made of an image, with a disk and an address; what they print; what they are told."""

from common.server import Refusal

from . import world
from .operations import stamp
from .rules import Thing, check_fingerprint, check_labels, check_name, fingerprint, not_ready

MAX_SERIAL = 1 << 20
MAX_METADATA = 512 * 1024


class Instances:
    """Part of Compute."""

    def instances_insert(self, where, request, body):
        check_name(body)
        check_labels(body.get("labels", {}))
        project, zone = where.project, where.scope.split("/")[1]
        region = zone.rsplit("-", 1)[0]
        kind = (body.get("machineType") or "").rsplit("/", 1)[-1]
        if kind not in world.MACHINE_TYPES:
            raise Refusal(400, f"Invalid value for field 'resource.machineType': '{body.get('machineType')}'. Machine type specified does not exist.", "invalid")
        check_metadata(body.get("metadata") or {})
        image = self.boot_image(project, body)
        self.check_shape(body, kind, image)
        made = self.filled(where, body, kind, image, region)
        cpus = world.MACHINE_TYPES[kind][0]
        error = self.over_quota("CPUS", cpus, region) or self.over_quota("INSTANCES", 1, region)

        def begin(thing):
            self.make_disk(where, made, image)
            thing.body.update(status="RUNNING", lastStartTimestamp=stamp())
            self.machines.start(thing.body, image["id"])

        with self.lock:
            # Checked before anything is taken: two of a name leave no trace of the second.
            if body["name"] in self.table(project, where.scope, "instances"):
                raise Refusal(409, f"The resource '{where.path}/{body['name']}' already exists", "alreadyExists")
            operation = self.make(where, made, request, then=begin, error=error)
            self.take_address(project, region, made, operation["targetLink"])
            return operation

    def boot_image(self, project, body):
        disks = body.get("disks") or []
        boot = [disk for disk in disks if disk.get("boot")]
        if len(boot) != 1:
            raise Refusal(400, "Invalid value for field 'resource.disks': ''. Boot disk must be specified.", "invalid")
        source = (boot[0].get("initializeParams") or {}).get("sourceImage")
        if not source:
            raise Refusal(400, "Invalid value for field 'resource.disks[0]': ''. Boot disk must have a source specified", "invalid")
        return self.image_of(project, source)

    def check_shape(self, body, kind, image):
        """What Google refuses to combine."""
        family = world.MACHINE_TYPES[kind][2]
        features = {feature["type"] for feature in image.get("guestOsFeatures", [])}
        confidential = body.get("confidentialInstanceConfig") or {}
        technology = confidential.get("confidentialInstanceType") or ("SEV" if confidential.get("enableConfidentialCompute") else None)
        if technology:
            if family not in world.CONFIDENTIAL[technology]:
                raise Refusal(400, f"The machine type {kind} does not support {technology} confidential computing.", "invalid")
            if f"{technology}_CAPABLE" not in features:
                raise Refusal(400, f"The image does not have the {technology}_CAPABLE guest OS feature.", "invalid")
            if (body.get("scheduling") or {}).get("onHostMaintenance") != "TERMINATE":
                raise Refusal(400, "Invalid value for field 'scheduling.onHostMaintenance': ''. Confidential VMs must be set to TERMINATE.", "invalid")
        platform = body.get("minCpuPlatform")
        if platform and platform not in world.PLATFORMS.values():
            raise Refusal(400, f"Invalid value for field 'resource.minCpuPlatform': '{platform}'.", "invalid")
        if body.get("shieldedInstanceConfig") and "UEFI_COMPATIBLE" not in features:
            raise Refusal(400, "Shielded VM Config can only be set when using a UEFI-compatible disk.", "invalid")
        for interface in body.get("networkInterfaces") or []:
            if interface.get("nicType") == "GVNIC" and "GVNIC" not in features:
                raise Refusal(400, "The image does not have the GVNIC guest OS feature.", "invalid")
        if not body.get("networkInterfaces"):
            raise Refusal(400, "Invalid value for field 'resource.networkInterfaces': ''. At least one network interface is required.", "required")

    def filled(self, where, body, kind, image, region):
        """The instance as Google tells of it."""
        project, base = where.project, self.base
        made = {"description": "", "canIpForward": False, "deletionProtection": False, "startRestricted": False, **body}
        made.update(
            machineType=f"{base}projects/{project}/{where.scope}/machineTypes/{kind}",
            zone=f"{base}projects/{project}/{where.scope}",
            status="PROVISIONING",
            cpuPlatform=body.get("minCpuPlatform") or world.PLATFORMS[world.MACHINE_TYPES[kind][2]],
        )
        items = (body.get("metadata") or {}).get("items", [])
        made["metadata"] = {"kind": "compute#metadata", "items": items, "fingerprint": fingerprint(items)}
        tags = (body.get("tags") or {}).get("items", [])
        made["tags"] = {"fingerprint": fingerprint(tags), **({"items": tags} if tags else {})}
        scheduling = {"onHostMaintenance": "MIGRATE", "automaticRestart": True, "preemptible": False, "provisioningModel": "STANDARD"}
        made["scheduling"] = {**scheduling, **(body.get("scheduling") or {})}
        made["networkInterfaces"] = [
            {
                **interface,
                "kind": "compute#networkInterface",
                "name": f"nic{at}",
                "network": self.link(project, interface.get("network") or "global/networks/default"),
                "subnetwork": f"{base}projects/{project}/regions/{region}/subnetworks/default",
                "networkIP": f"10.128.0.{2 + len(self.table(project, where.scope, 'instances')) % 250}",
                "fingerprint": fingerprint([at, interface]),
                "stackType": "IPV4_ONLY",
                "accessConfigs": [
                    {
                        "kind": "compute#accessConfig",
                        "type": "ONE_TO_ONE_NAT",
                        "name": "External NAT",
                        "networkTier": "PREMIUM",
                        "natIP": self.machines.address(),
                        **config,
                    }
                    for config in interface.get("accessConfigs") or []
                ],
            }
            for at, interface in enumerate(body["networkInterfaces"])
        ]
        disk = next(disk for disk in body["disks"] if disk.get("boot"))
        name = (disk.get("initializeParams") or {}).get("diskName") or disk.get("deviceName") or body["name"]
        made["disks"] = [
            {
                "kind": "compute#attachedDisk",
                "type": "PERSISTENT",
                "mode": "READ_WRITE",
                "source": f"{base}projects/{project}/{where.scope}/disks/{name}",
                "deviceName": disk.get("deviceName") or "persistent-disk-0",
                "index": 0,
                "boot": True,
                "autoDelete": bool(disk.get("autoDelete")),
                "interface": disk.get("interface") or "SCSI",
                "diskSizeGb": str((disk.get("initializeParams") or {}).get("diskSizeGb") or max(10, int(image["diskSizeGb"]))),
                "guestOsFeatures": image.get("guestOsFeatures", []),
                "architecture": "X86_64",
            }
        ]
        return made

    def make_disk(self, where, made, image):
        """The boot disk, which lives on its own if nobody said otherwise."""
        attached = made["disks"][0]
        name = attached["source"].rsplit("/", 1)[1]
        disk = {
            "kind": "compute#disk",
            "id": self.operations.number(),
            "creationTimestamp": stamp(),
            "name": name,
            "sizeGb": attached["diskSizeGb"],
            "zone": made["zone"],
            "status": "READY",
            "sourceImage": image["selfLink"],
            "sourceImageId": image["id"],
            "selfLink": attached["source"],
            "type": f"{self.base}projects/{where.project}/{where.scope}/diskTypes/pd-balanced",
            "users": [f"{self.base}{where.path}/{made['name']}"],
            "labels": dict(made["disks"][0].get("labels") or {}),
            "labelFingerprint": fingerprint({}),
        }
        self.table(where.project, where.scope, "disks")[name] = Thing(disk, 0)

    def take_address(self, project, region, made, link):
        """Marks the static addresses that an instance uses."""
        for address in self.table(project, f"regions/{region}", "addresses").values():
            for interface in made["networkInterfaces"]:
                if any(config.get("natIP") == address.body["address"] for config in interface["accessConfigs"]):
                    address.body.update(status="IN_USE", users=[link])

    def instances_delete(self, where, request, body):
        thing = self.find(where, seen=False)
        if thing.body.get("deletionProtection"):
            raise Refusal(400, f"Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion. {where.path}'.", "invalidResourceUsage")

        def gone(thing):
            self.machines.stop(thing.body["id"], forget=True)
            for table in self.things.values():
                for name, other in list(table.items()):
                    if thing.body["selfLink"] not in other.body.get("users", []):
                        continue
                    other.body.pop("users")
                    if other.body["kind"] == "compute#address":
                        other.body["status"] = "RESERVED"
                    elif thing.body["disks"][0]["autoDelete"]:
                        del table[name]

        operation = self.any_delete(where, request, body, then=gone)
        thing.body["status"] = "STOPPING"
        return operation

    def power(self, where, request, kind, then):
        thing = self.find(where, seen=False)
        return self.operations.start(where.project, where.scope, kind, thing.body, request.query.get("requestId"), self.user, lambda: then(thing.body))

    def instances_start(self, where, request, _):
        def then(body):
            if body["status"] != "RUNNING":
                body.update(status="RUNNING", lastStartTimestamp=stamp())
                self.machines.start(body, None)

        return self.power(where, request, "start", then)

    def instances_stop(self, where, request, _):
        def then(body):
            body.update(status="TERMINATED", lastStopTimestamp=stamp())
            self.machines.stop(body["id"])

        return self.power(where, request, "stop", then)

    def instances_reset(self, where, request, _):
        def then(body):
            self.machines.stop(body["id"])
            self.machines.start(body, None)

        return self.power(where, request, "reset", then)

    def instances_setMetadata(self, where, request, body):
        with self.lock:
            thing = self.find(where, seen=False)
            check_metadata(body)
            check_fingerprint(body.get("fingerprint"), thing.body["metadata"]["fingerprint"], "Metadata")
            items = body.get("items", [])
            # Seen at once, so that a second writer with the old fingerprint loses.
            thing.body["metadata"] = {"kind": "compute#metadata", "items": items, "fingerprint": fingerprint([items, self.operations.number()])}
            then = lambda: self.machines.tell(thing.body)
            return self.operations.start(where.project, where.scope, "setMetadata", thing.body, request.query.get("requestId"), self.user, then)

    def instances_setDeletionProtection(self, where, request, _):
        return self.change(where, request, "setDeletionProtection", {"deletionProtection": request.query.get("deletionProtection", "true") == "true"})

    def instances_getSerialPortOutput(self, where, request, _):
        with self.lock:
            thing = self.find(where)
            if thing.body["status"] in ("PROVISIONING", "STAGING"):
                raise not_ready(where.path)
        said = self.machines.serial(thing.body["id"])
        start = max(int(request.query.get("start", 0)), len(said) - MAX_SERIAL)
        part = said[max(0, start) : max(0, start) + MAX_SERIAL]
        return {
            "kind": "compute#serialPortOutput",
            "contents": part.decode("utf-8", "replace"),
            "start": str(max(0, start)),
            "next": str(max(0, start) + len(part)),
            "selfLink": f"{self.base}{where.path}/serialPort",
        }


    def instances_getShieldedInstanceIdentity(self, where, *_):
        with self.lock:
            thing = self.find(where)
        keys = {name: {"ekPub": pem} for name, pem in self.machines.tpm_keys(thing.body["id"]).items()}
        return {"kind": "compute#shieldedInstanceIdentity", **keys}


def check_metadata(given):
    items = given.get("items") or []
    keys = [item.get("key") for item in items]
    if len(set(keys)) != len(keys):
        raise Refusal(400, "Invalid value for field 'resource.metadata.items': ''. Metadata has duplicate keys.", "invalid")
    sizes = [len((item.get("value") or "").encode()) for item in items]
    if any(size > 256 * 1024 for size in sizes) or sum(sizes) > MAX_METADATA:
        raise Refusal(413, "Value for metadata is too large: maximum size 262144 characters.", "requestTooLarge")
