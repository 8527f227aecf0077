"""What Google has before anybody makes something: zones, machine types, quotas, a network."""

ZONES = [f"{region}-{letter}" for region in ("us-central1", "europe-west3", "europe-west4") for letter in "abc"]
REGIONS = sorted({zone.rsplit("-", 1)[0] for zone in ZONES})
# Name: processors, memory in MiB, family of processors.
MACHINE_TYPES = {
    "e2-micro": (2, 1024, "e2"),
    "e2-small": (2, 2048, "e2"),
    "e2-medium": (2, 4096, "e2"),
    "n2d-standard-2": (2, 8192, "n2d"),
    "n2d-standard-4": (4, 16384, "n2d"),
    "c2d-standard-2": (2, 8192, "c2d"),
    "c3-standard-4": (4, 16384, "c3"),
    "t2a-standard-1": (1, 4096, "t2a"),
}
# Which families can be confidential, and where (as documented for Confidential VM).
CONFIDENTIAL = {"SEV": {"n2d", "c2d"}, "SEV_SNP": {"n2d"}, "TDX": {"c3"}}
PLATFORMS = {"n2d": "AMD Milan", "c2d": "AMD Milan", "c3": "Intel Sapphire Rapids", "e2": "Intel Broadwell", "t2a": "Ampere Altra"}
# Limits that a new project has, more or less.
GLOBAL_QUOTA = {"IMAGES": 100, "FIREWALLS": 100, "NETWORKS": 5, "SNAPSHOTS": 1000}
REGION_QUOTA = {"CPUS": 24, "N2D_CPUS": 24, "INSTANCES": 24, "STATIC_ADDRESSES": 8, "IN_USE_ADDRESSES": 8, "DISKS_TOTAL_GB": 4096}
MADE = "2026-01-01T00:00:00.000-07:00"


def zone(base, project, name):
    region = name.rsplit("-", 1)[0]
    return {
        "kind": "compute#zone",
        "id": str(2000 + ZONES.index(name)),
        "creationTimestamp": MADE,
        "name": name,
        "description": name,
        "status": "UP",
        "region": f"{base}projects/{project}/regions/{region}",
        "selfLink": f"{base}projects/{project}/zones/{name}",
        "availableCpuPlatforms": sorted(set(PLATFORMS.values())),
    }


def region(base, project, name, quotas):
    zones = [f"{base}projects/{project}/zones/{zone}" for zone in ZONES if zone.startswith(name)]
    return {
        "kind": "compute#region",
        "id": str(1000 + REGIONS.index(name)),
        "creationTimestamp": MADE,
        "name": name,
        "description": name,
        "status": "UP",
        "zones": zones,
        "quotas": quotas,
        "selfLink": f"{base}projects/{project}/regions/{name}",
    }


def machine_type(base, project, where, name):
    cpus, memory, _ = MACHINE_TYPES[name]
    return {
        "kind": "compute#machineType",
        "id": str(3000 + list(MACHINE_TYPES).index(name)),
        "creationTimestamp": MADE,
        "name": name,
        "description": f"{cpus} vCPUs, {memory} MB RAM",
        "guestCpus": cpus,
        "memoryMb": memory,
        "imageSpaceGb": 0,
        "maximumPersistentDisks": 128,
        "maximumPersistentDisksSizeGb": "263168",
        "zone": where,
        "selfLink": f"{base}projects/{project}/zones/{where}/machineTypes/{name}",
        "isSharedCpu": name.startswith("e2-") and "standard" not in name,
        "architecture": "ARM64" if name.startswith("t2a") else "X86_64",
    }


def network(base, project):
    return {
        "kind": "compute#network",
        "id": "4000",
        "creationTimestamp": MADE,
        "name": "default",
        "description": "Default network for the project",
        "autoCreateSubnetworks": True,
        "routingConfig": {"routingMode": "REGIONAL"},
        "networkFirewallPolicyEnforcementOrder": "AFTER_CLASSIC_FIREWALL",
        "selfLink": f"{base}projects/{project}/global/networks/default",
    }


def project(base, name, quotas):
    return {
        "kind": "compute#project",
        "id": "1",
        "creationTimestamp": MADE,
        "name": name,
        "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": "AAAAAAAAAAA="},
        "quotas": quotas,
        "selfLink": f"{base}projects/{name}",
        "defaultServiceAccount": "1-compute@developer.gserviceaccount.com",
        "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
        "defaultNetworkTier": "PREMIUM",
    }
