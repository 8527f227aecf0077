"""Google's own clients tell one story against the double: what they cannot do with it, it does wrong.

    python3 tests/double/conform_google.py --clients DIR

DIR holds google-cloud-compute, google-cloud-storage and google-api-python-client (`pip install --target DIR`); `gcloud` is used
where it is installed, and said to be missing where not.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from datetime import timedelta

HERE = os.path.dirname(os.path.abspath(__file__))
# The double's own `google.py` must not be taken for the package of that name.
sys.path = [path for path in sys.path if os.path.abspath(path or ".") != HERE]

PROJECT, ZONE, REGION = "double-project", "europe-west4-a", "europe-west4"
FEATURES = ["UEFI_COMPATIBLE", "SEV_SNP_CAPABLE", "GVNIC"]


class Double:
    """The double as a child of this process."""

    def __init__(self, folder, clients):
        words = [sys.executable, os.path.join(HERE, "google.py"), "--state", folder, "--discovery", clients, "--project", PROJECT]
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.told = json.loads(self.child.stdout.readline())

    def ask(self, what, body=None):
        """The control plane."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.told["control"] + what, data)) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def end(self):
        self.child.stdin.close()
        self.child.wait(10)


def check(right, what):
    if not right:
        raise AssertionError(what)


def archive(path):
    """An image's archive: a disk of 1 GiB that is nearly all hole."""

    class Disk(io.RawIOBase):
        left = 1 << 30

        def read(self, size=-1):
            piece = b"\0" * min(self.left, size)
            self.left -= len(piece)
            return piece

    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("disk.raw")
        entry.size = 1 << 30
        tar.addfile(entry, Disk())


def with_python(double, folder, image_file):
    """google-cloud-storage and google-cloud-compute."""
    from google.api_core import exceptions
    from google.api_core.client_options import ClientOptions
    from google.cloud import compute_v1, storage
    from google.oauth2 import service_account

    os.environ["STORAGE_EMULATOR_HOST"] = double.told["storage"]
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials = service_account.Credentials.from_service_account_file(double.told["credentials"]["service-account"], scopes=scopes)
    cloud = storage.Client(project=PROJECT, credentials=credentials)
    bucket = cloud.create_bucket("python-bucket", location="europe-west4")
    content = random.Random(1).randbytes(9 * 1024 * 1024 + 17)
    source = os.path.join(folder, "content")
    with open(source, "wb") as file:
        file.write(content)
    blob = bucket.blob("a folder/ob+ject", chunk_size=1024 * 1024)
    double.ask("faults", [{"method": "PUT", "path": "^/upload/", "nth": 3, "fault": "503"}])
    blob.upload_from_filename(source, checksum="crc32c")
    check(bucket.blob("a folder/ob+ject").download_as_bytes(checksum="crc32c") == content, "what comes back is what went in")
    check(blob.download_as_bytes(start=5, end=9) == content[5:10], "a part of it")
    bucket.blob("small").upload_from_string(b"small", checksum="md5")
    check(sorted(one.name for one in cloud.list_blobs(bucket)) == ["a folder/ob+ject", "small"], "both are listed")
    try:
        bucket.blob("small").upload_from_string(b"other", if_generation_match=0)
        raise AssertionError("a precondition that does not hold")
    except exceptions.PreconditionFailed:
        pass
    bucket.blob("image.tar.gz").upload_from_filename(image_file)

    options = ClientOptions(api_endpoint=double.told["url"])
    client = lambda kind: kind(credentials=credentials, client_options=options)
    images, instances = client(compute_v1.ImagesClient), client(compute_v1.InstancesClient)
    firewalls, addresses = client(compute_v1.FirewallsClient), client(compute_v1.AddressesClient)
    # The clients' own way of waiting forgets the endpoint that it was given, so each operation is waited for by name.
    waiting = {"zone": client(compute_v1.ZoneOperationsClient), "region": client(compute_v1.RegionOperationsClient)}
    everywhere = client(compute_v1.GlobalOperationsClient)

    def done(operation):
        place = next((word for word in waiting if getattr(operation, word)), None)
        where = {place: getattr(operation, place).rsplit("/", 1)[1]} if place else {}
        ended = waiting.get(place, everywhere).wait(project=PROJECT, operation=operation.name, **where)
        check(ended.status == compute_v1.Operation.Status.DONE and not ended.error.errors, ended)

    image = compute_v1.Image(
        name="python-image",
        family="family",
        labels={"portdistrict": "x"},
        guest_os_features=[compute_v1.GuestOsFeature(type_=feature) for feature in FEATURES],
        raw_disk=compute_v1.RawDisk(source="https://storage.googleapis.com/python-bucket/image.tar.gz"),
    )
    done(images.insert_unary(project=PROJECT, image_resource=image))
    got = images.get(project=PROJECT, image="python-image")
    check((got.status, got.disk_size_gb) == ("READY", 1), got)
    check([feature.type_ for feature in got.guest_os_features] == FEATURES, got)
    check(images.get_from_family(project=PROJECT, family="family").name == "python-image", "found by its family")
    check([one.name for one in images.list(project=PROJECT)] == ["python-image"], "listed")
    try:
        images.insert(project=PROJECT, image_resource=image)
        raise AssertionError("a second of that name")
    except exceptions.Conflict as error:
        check("already exists" in str(error), error)

    done(addresses.insert_unary(project=PROJECT, region=REGION, address_resource=compute_v1.Address(name="python-address")))
    address = addresses.get(project=PROJECT, region=REGION, address="python-address").address
    rule = compute_v1.Firewall(name="python-rule", allowed=[compute_v1.Allowed(I_p_protocol="tcp", ports=["4433"])], source_ranges=["0.0.0.0/0"])
    done(firewalls.insert_unary(project=PROJECT, firewall_resource=rule))
    check(firewalls.get(project=PROJECT, firewall="python-rule").direction == "INGRESS", "a rule")
    instance = compute_v1.Instance(
        name="python-instance",
        machine_type=f"zones/{ZONE}/machineTypes/n2d-standard-2",
        min_cpu_platform="AMD Milan",
        confidential_instance_config=compute_v1.ConfidentialInstanceConfig(confidential_instance_type="SEV_SNP"),
        scheduling=compute_v1.Scheduling(on_host_maintenance="TERMINATE"),
        disks=[
            compute_v1.AttachedDisk(
                boot=True, auto_delete=True, initialize_params=compute_v1.AttachedDiskInitializeParams(source_image="global/images/family/family")
            )
        ],
        network_interfaces=[compute_v1.NetworkInterface(nic_type="GVNIC", access_configs=[compute_v1.AccessConfig(nat_i_p=address)])],
        metadata=compute_v1.Metadata(items=[compute_v1.Items(key="k", value="v")]),
    )
    done(instances.insert_unary(project=PROJECT, zone=ZONE, instance_resource=instance))
    got = instances.get(project=PROJECT, zone=ZONE, instance="python-instance")
    check((got.status, got.network_interfaces[0].access_configs[0].nat_i_p) == ("RUNNING", address), got)
    said = instances.get_serial_port_output(request=dict(project=PROJECT, zone=ZONE, instance="python-instance", start=1))
    check("PORTDISTRICT_STATE=ready" in said.contents and said.next == len(said.contents) + 1, said)
    words = dict(project=PROJECT, zone=ZONE, instance="python-instance")
    told = compute_v1.Metadata(fingerprint=got.metadata.fingerprint, items=[compute_v1.Items(key="k", value="w")])
    done(instances.set_metadata_unary(**words, metadata_resource=told))
    try:
        instances.set_metadata(**words, metadata_resource=told)
        raise AssertionError("an old fingerprint")
    except exceptions.PreconditionFailed:
        pass
    found = dict(instances.aggregated_list(project=PROJECT))
    check([one.name for one in found[f"zones/{ZONE}"].instances] == ["python-instance"], "found in its zone")
    done(instances.delete_unary(**words))
    done(firewalls.delete_unary(project=PROJECT, firewall="python-rule"))
    done(addresses.delete_unary(project=PROJECT, region=REGION, address="python-address"))
    deprecated = compute_v1.DeprecationStatus(state="DEPRECATED")
    done(images.deprecate_unary(project=PROJECT, image="python-image", deprecation_status_resource=deprecated))
    try:
        images.get_from_family(project=PROJECT, family="family")
        raise AssertionError("a deprecated image is not its family's newest")
    except exceptions.NotFound:
        pass
    done(images.delete_unary(project=PROJECT, image="python-image"))
    for one in cloud.list_blobs(bucket):
        one.delete()
    bucket.delete()


def with_gcloud(double, folder, image_file, timeout=timedelta(minutes=2)):
    """The command-line tool."""
    token = os.path.join(folder, "token")
    with open(token, "w", encoding="ascii") as file:
        file.write(double.told["token"])
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": folder,
        "CLOUDSDK_CONFIG": os.path.join(folder, "gcloud"),
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "CLOUDSDK_COMPUTE_ZONE": ZONE,
        "CLOUDSDK_COMPUTE_REGION": REGION,
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": token,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": double.told["compute"],
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": double.told["storage"] + "/storage/v1/",
        "STORAGE_EMULATOR_HOST": double.told["storage"],
        # What is not the double's is not to be reached.
        "https_proxy": "http://127.0.0.1:9",
    }

    def gcloud(line, fails=None):
        words = ["gcloud", *line.split()]
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout.total_seconds(), check=False)
        if fails:
            check(ran.returncode != 0 and fails in ran.stderr, f"{line}: {ran.stderr}")
            return None
        check(ran.returncode == 0, f"{line}: {ran.stdout}{ran.stderr}")
        return json.loads(ran.stdout) if "--format=json" in line and ran.stdout.strip() else ran.stdout

    gcloud("storage buckets create gs://gcloud-bucket --location=europe-west4")
    gcloud(f"storage cp {image_file} gs://gcloud-bucket/image.tar.gz")
    back = os.path.join(folder, "back")
    gcloud(f"storage cp gs://gcloud-bucket/image.tar.gz {back}")
    digest = lambda path: hashlib.sha256(open(path, "rb").read()).hexdigest()
    check(digest(back) == digest(image_file), "what comes back is what went in")
    source = "--source-uri=gs://gcloud-bucket/image.tar.gz"
    gcloud(f"compute images create gcloud-image {source} --family=family --guest-os-features={','.join(FEATURES)} --labels=portdistrict=x")
    image = gcloud("compute images describe gcloud-image --format=json")
    check(image["status"] == "READY" and image["labels"] == {"portdistrict": "x"}, image)
    listed = gcloud("compute images list --no-standard-images --filter=labels.portdistrict=x --format=json")
    check([one["name"] for one in listed] == ["gcloud-image"], listed)
    gcloud("compute addresses create gcloud-address --format=json")
    address = gcloud("compute addresses describe gcloud-address --format=json")["address"]
    gcloud("compute firewall-rules create gcloud-rule --allow=tcp:4433 --source-ranges=0.0.0.0/0 --target-tags=tag")
    check(gcloud("compute firewall-rules describe gcloud-rule --format=json")["targetTags"] == ["tag"], "a rule")
    shape = "--machine-type=n2d-standard-2 --confidential-compute-type=SEV_SNP --maintenance-policy=TERMINATE"
    more = f"--no-service-account --no-scopes --tags=tag --address={address}"
    gcloud(f"compute instances create gcloud-instance --image=gcloud-image {shape} {more}")
    instance = gcloud("compute instances describe gcloud-instance --format=json")
    check(instance["status"] == "RUNNING" and instance["confidentialInstanceConfig"]["confidentialInstanceType"] == "SEV_SNP", instance)
    check("PORTDISTRICT_STATE=ready" in gcloud("compute instances get-serial-port-output gcloud-instance"), "its console")
    gcloud("compute instances add-metadata gcloud-instance --metadata=k=v")
    gcloud("compute images create gcloud-image " + source, fails="already exists")
    gcloud("compute instances delete gcloud-instance --quiet")
    gcloud("compute instances describe gcloud-instance", fails="was not found")
    gcloud("compute firewall-rules delete gcloud-rule --quiet")
    gcloud("compute addresses delete gcloud-address --quiet")
    gcloud("compute images delete gcloud-image --quiet")
    gcloud("storage rm --recursive gs://gcloud-bucket")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", required=True)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.clients)
    with tempfile.TemporaryDirectory() as folder:
        image_file = os.path.join(folder, "image.tar.gz")
        archive(image_file)
        stories = [("google-cloud-compute and google-cloud-storage", with_python)]
        if shutil.which("gcloud"):
            stories.append(("gcloud", with_gcloud))
        else:
            print("gcloud: not installed")
        for name, story in stories:
            own = os.path.join(folder, story.__name__)
            os.mkdir(own)
            double = Double(os.path.join(own, "state"), arguments.clients)
            try:
                story(double, own, image_file)
                check(double.ask("violations") == [], double.ask("violations"))
                state = double.ask("state")
                left = {key: value for part in state.values() for key, value in part.items() if key in ("buckets", "objects", "images", "instances", "disks") and value}
                check(not left, f"left behind: {left}")
                print(f"{name}: {len(double.ask('requests'))} requests, nothing against the discovery documents")
            except AssertionError:
                for wrong in double.ask("violations"):
                    print(wrong, file=sys.stderr)
                for request in double.ask("requests")[-5:]:
                    print(request, file=sys.stderr)
                raise
            finally:
                double.end()


if __name__ == "__main__":
    main()
