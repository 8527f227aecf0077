#!/usr/bin/env python3
"""A double of the Hetzner Cloud API, version 1, for tests: state, actions that take time, quotas, faults on demand.

It answers what the published reference says, on one port of loopback; its own controls are under /_double/ (see hetzner_control.py).
Servers have addresses of 127.0.0.0/8. One that boots its disk runs the command of the setting `machine`; one that boots the
rescue system is a real sshd whose /dev/sda is a file (this needs root: the rescue system answers on port 22).
"""

import argparse
import base64
import datetime
import hashlib
import json
import os
import re
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hetzner_hosts as hosts  # noqa: E402
import hetzner_schema as schema  # noqa: E402
from hetzner_control import Control, Refusal, serve  # noqa: E402

GIB = 1 << 30
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$")
LOCATIONS = [
    {"id": 1, "name": "fsn1", "description": "Falkenstein DC Park 1", "country": "DE", "city": "Falkenstein", "latitude": 50.47612, "longitude": 12.370071, "network_zone": "eu-central"},
    {"id": 2, "name": "nbg1", "description": "Nuremberg DC Park 1", "country": "DE", "city": "Nuremberg", "latitude": 49.452102, "longitude": 11.076665, "network_zone": "eu-central"},
    {"id": 3, "name": "hel1", "description": "Helsinki DC Park 1", "country": "FI", "city": "Helsinki", "latitude": 60.169855, "longitude": 24.938379, "network_zone": "eu-central"},
    {"id": 4, "name": "ash", "description": "Ashburn, VA", "country": "US", "city": "Ashburn, VA", "latitude": 39.045821, "longitude": -77.487073, "network_zone": "us-east"},
]
# name: id, cores, memory GB, disk GB, architecture, cpu_type, monthly price net, locations
SERVER_TYPES = {
    "cx23": (114, 2, 4, 40, "x86", "shared", 3.49, ("fsn1", "nbg1", "hel1")),
    "cpx22": (109, 2, 4, 80, "x86", "shared", 6.49, ("fsn1", "nbg1", "hel1")),
    "ccx13": (96, 2, 8, 80, "x86", "dedicated", 12.49, ("fsn1", "nbg1", "hel1", "ash")),
    "cax11": (45, 2, 4, 40, "arm", "shared", 3.79, ("fsn1", "nbg1", "hel1")),
}
VAT = 0.19
# Fields that later versions of the reference no longer demand.
GONE = {"datacenter", "assignee_type"}


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def price(net, places=10):
    return {"net": f"{net:.{places}f}", "gross": f"{net * (1 + VAT):.{places}f}"}


def location(name):
    return next(place for place in LOCATIONS if place["name"] == name)


def prices_of(kind):
    monthly, places = kind[6], kind[7]
    return [
        {
            "location": name, "price_hourly": price(monthly / 624), "price_monthly": price(monthly),
            "included_traffic": 20 * 1024 * GIB, "price_per_tb_traffic": price(1.0),
        }
        for name in places
    ]


def server_type(name, sold_out=()):
    number, cores, memory, disk, architecture, cpu, _, places = SERVER_TYPES[name]
    return {
        "id": number, "name": name, "description": name.upper(), "category": "Shared vCPU" if cpu == "shared" else "Dedicated vCPU",
        "cores": cores, "memory": float(memory), "disk": disk, "deprecated": False, "deprecation": None, "storage_type": "local",
        "cpu_type": cpu, "architecture": architecture, "prices": prices_of(SERVER_TYPES[name]),
        "locations": [{"id": location(place)["id"], "name": place, "available": name not in sold_out, "recommended": True, "deprecation": None} for place in places],
    }


def selected(labels, selector):
    """Whether labels match a selector as the reference describes it."""
    for part in re.split(r",(?![^(]*\))", selector):
        part = part.strip()
        if among := re.match(r"(\S+)\s+(notin|in)\s+\(([^)]*)\)$", part):
            key, word, values = among.groups()
            within = labels.get(key) in [value.strip() for value in values.split(",")]
            holds = within if word == "in" else not within
        elif "!=" in part:
            key, value = part.split("!=", 1)
            holds = labels.get(key.strip()) != value.strip()
        elif "=" in part:
            key, value = re.split("==?", part, maxsplit=1)
            holds = labels.get(key.strip()) == value.strip()
        elif part.startswith("!"):
            holds = part[1:].strip() not in labels
        else:
            holds = part in labels
        if not holds:
            return False
    return True


def refuse(status, code, message, **details):
    raise Refusal(status, {"error": {"code": code, "message": message, "details": details or None}})


def invalid(field, message):
    refuse(422, "invalid_input", f"invalid input in field '{field}'", fields=[{"name": field, "messages": [message]}])


class Hetzner:
    """The project: everything in it, and what may be done to it."""

    KINDS = {"servers": "server", "firewalls": "firewall", "primary_ips": "primary_ip", "ssh_keys": "ssh_key", "images": "image"}

    def __init__(self, folder, settings, violations, openapi):
        self.folder, self.settings, self.violations, self.openapi = folder, settings, violations, openapi
        self.things = {kind: {} for kind in self.KINDS}
        self.actions = {}
        self.reads = {}
        self.next_id = 10_000_000
        self.network = hosts.Network(folder, settings)
        self.remaining = settings["rate_limit"]
        for number, name in enumerate(("debian-12", "ubuntu-24.04")):
            self.make("images", type="system", name=name, description=name, os_flavor=name.split("-")[0], os_version=name.split("-")[1],
                      disk_size=5.0, image_size=None, status="available", created_from=None, bound_to=None, architecture="x86",
                      rapid_deploy=number == 0, deprecated=None, deleted=None, labels={})

    # What is common to every resource

    def make(self, kind, **fields):
        self.next_id += 1
        thing = {"id": self.next_id, "created": now(), **fields}
        if kind in ("servers", "images", "primary_ips"):
            thing.setdefault("protection", {"delete": False, "rebuild": False} if kind == "servers" else {"delete": False})
        self.things[kind][thing["id"]] = thing
        self.reads[thing["id"]] = 0
        return thing

    def find(self, kind, number):
        thing = self.things[kind].get(int(number)) if number.isdigit() else None
        if thing is None:
            refuse(404, "not_found", f"{self.KINDS[kind]} with ID '{number}' not found", id=number)
        return thing

    def visible(self, thing):
        """Eventual consistency: what was made is not there for the first reads."""
        self.reads[thing["id"]] += 1
        return self.reads[thing["id"]] > self.settings["invisible_reads"]

    def unique(self, kind, field, value):
        if any(thing[field] == value for thing in self.things[kind].values()):
            refuse(409, "uniqueness_error", f"{self.KINDS[kind]} {field} is already used", fields=[{"name": field}])

    def quota(self, kind):
        limit = self.settings["quota"].get(kind)
        if limit is not None and len([t for t in self.things[kind].values() if t.get("type") != "system"]) >= limit:
            refuse(403, "resource_limit_exceeded", f"{self.KINDS[kind]} limit reached", limits=[{"name": f"{self.KINDS[kind]}_limit"}])

    def named(self, kind, body):
        self.quota(kind)
        if not NAME.match(body["name"]):
            invalid("name", "must be a valid hostname" if kind == "servers" else "is not valid")
        self.unique(kind, "name", body["name"])

    def place(self, body):
        name = body.get("location") or "fsn1"
        if name not in [place["name"] for place in LOCATIONS]:
            invalid("location", "location does not exist")
        return name

    # Actions

    def action(self, command, resources, then=None):
        self.next_id += 1
        action = {
            "id": self.next_id, "command": command, "status": "running", "progress": 0, "started": now(), "finished": None,
            "resources": [{"id": thing["id"], "type": self.KINDS[kind]} for kind, thing in resources], "error": None,
        }
        fails = self.settings["failing_actions"]
        self.actions[action["id"]] = {"public": action, "polls": 0, "since": hosts.clock(), "then": then, "fails": command in fails}
        if command in fails:
            fails.remove(command)
        return action

    def tick(self):
        """Ends every action whose time has come, in the order in which they began."""
        for action in list(self.actions.values()):
            public = action["public"]
            if public["status"] != "running":
                continue
            old = hosts.clock() - action["since"] >= self.settings["action_ms"] / 1000
            if action["polls"] < self.settings["action_polls"] and not old:
                public["progress"] = min(99, 100 * action["polls"] // max(1, self.settings["action_polls"]))
                continue
            public.update(status="success", progress=100, finished=now())
            if action["fails"]:
                public.update(status="error", error={"code": "action_failed", "message": "Action failed"})
            elif action["then"]:
                action["then"]()

    def busy(self, server):
        held = [a["public"] for a in self.actions.values() if a["public"]["status"] == "running" and "firewall" not in a["public"]["command"]]
        return any({"id": server["id"], "type": "server"} in action["resources"] for action in held)

    def unlocked(self, server):
        if self.busy(server):
            refuse(423, "locked", "server is locked")

    # Requests

    def handle(self, method, path, query, body, headers):
        """Answers (status, document or None, headers)."""
        self.tick()
        writes = method != "GET"
        token = re.match(r"Bearer (\S+)$", headers.get("Authorization", ""))
        rights = self.settings["tokens"].get(token.group(1)) if token else None
        if rights is None:
            refuse(401, "unauthorized", "unable to authenticate")
        self.remaining -= 1
        if self.remaining < 0:
            refuse(429, "rate_limit_exceeded", "limit of requests per hour reached")
        if writes and rights != "rw":
            refuse(403, "token_readonly", "Only allowed for non-readonly tokens")
        if not path.startswith("/v1/"):
            refuse(404, "not_found", "page not found")
        route = path[len("/v1"):]
        for verb, pattern, name in ROUTES:
            found = re.fullmatch(pattern, route) if verb == method else None
            if found:
                if wrong := schema.request(name, body, query):
                    self.violations.append(f"{method} {path}: {wrong}")
                    refuse(400, "invalid_input", wrong)
                status, document = getattr(self, name)(*found.groups(), **({"body": body or {}} if writes else {"query": query}))
                if self.openapi and (wrong := self.openapi.check(method, route, status, body, document)):
                    self.violations.append(f"{method} {path}: {wrong}")
                return status, document
        refuse(404, "not_found", "page not found")

    def rate_headers(self):
        reset = str(int(datetime.datetime.now().timestamp()) + self.settings["rate_reset_seconds"])
        return {"RateLimit-Limit": str(self.settings["rate_limit"]), "RateLimit-Remaining": str(max(0, self.remaining)), "RateLimit-Reset": reset}

    def page(self, key, things, query):
        """A list in pages, with the names and labels that were asked for."""
        if "name" in query:
            things = [thing for thing in things if thing.get("name") == query["name"][0]]
        if "label_selector" in query:
            things = [thing for thing in things if selected(thing["labels"], query["label_selector"][0])]
        page, size = int(query.get("page", ["1"])[0]), min(50, int(query.get("per_page", ["25"])[0]))
        last = max(1, -(-len(things) // size))
        meta = {
            "page": page, "per_page": size, "previous_page": page - 1 if page > 1 else None, "next_page": page + 1 if page < last else None,
            "last_page": last, "total_entries": len(things),
        }
        return 200, {key: things[(page - 1) * size:page * size], "meta": {"pagination": meta}}

    def listed(self, kind):
        return [self.shown(kind, thing) for thing in self.things[kind].values() if self.visible(thing)]

    def shown(self, kind, thing):
        """A thing as the API shows it."""
        shown = {key: value for key, value in thing.items() if not key.startswith("_")}
        if kind == "servers":
            shown = {**shown, **self.public_server(thing)}
        if kind == "firewalls":
            shown["applied_to"] = [
                {"type": "server", "server": {"id": server["id"]}} for server in self.things["servers"].values() if thing["id"] in server["_firewalls"]
            ]
        return shown

    def public_server(self, server):
        def ip(version):
            number = server["_ips"].get(version)
            found = self.things["primary_ips"].get(number)
            return {"id": number, "ip": found["ip"], "blocked": False, "dns_ptr": found["dns_ptr"] if version == "ipv6" else "static.example"} if found else None

        image = self.things["images"].get(server["_image"])
        applied = [{"id": number, "status": "applied"} for number in server["_firewalls"]]
        return {
            "public_net": {"ipv4": ip("ipv4"), "ipv6": ip("ipv6"), "floating_ips": [], "firewalls": applied},
            "image": self.shown("images", image) if image else None, "locked": self.busy(server),
        }

    def get_one(self, kind, number):
        thing = self.find(kind, number)
        if not self.visible(thing):
            refuse(404, "not_found", f"{self.KINDS[kind]} with ID '{number}' not found", id=number)
        return 200, {self.KINDS[kind]: self.shown(kind, thing)}

    def get_list(self, kind, query):
        things = self.listed(kind)
        if kind == "images":
            if "type" in query:
                things = [image for image in things if image["type"] in query["type"]]
            if "status" in query:
                things = [image for image in things if image["status"] in query["status"]]
            if "architecture" in query:
                things = [image for image in things if image["architecture"] in query["architecture"]]
        if kind == "servers" and "status" in query:
            things = [server for server in things if server["status"] in query["status"]]
        if kind == "primary_ips" and "ip" in query:
            things = [ip for ip in things if ip["ip"] == query["ip"][0]]
        if kind == "ssh_keys" and "fingerprint" in query:
            things = [key for key in things if key["fingerprint"] == query["fingerprint"][0]]
        return self.page(kind, things, query)

    def put(self, kind, number, body):
        thing = self.find(kind, number)
        if "name" in body and body["name"] != thing.get("name"):
            self.unique(kind, "name", body["name"])
        thing.update({key: body[key] for key in ("name", "labels", "description", "auto_delete") if key in body and key in thing})
        return 200, {self.KINDS[kind]: self.shown(kind, thing)}

    # Read only

    def locations(self, query):
        return self.page("locations", list(LOCATIONS), query)

    def get_location(self, number, query):
        found = [place for place in LOCATIONS if str(place["id"]) == number]
        return (200, {"location": found[0]}) if found else refuse(404, "not_found", "location not found")

    def server_types(self, query):
        return self.page("server_types", [server_type(name, self.settings["sold_out"]) for name in SERVER_TYPES], query)

    def get_server_type(self, number, query):
        found = [server_type(name) for name, kind in SERVER_TYPES.items() if str(kind[0]) == number]
        return (200, {"server_type": found[0]}) if found else refuse(404, "not_found", "server type not found")

    def pricing(self, query):
        per_ip = [
            {"type": kind, "prices": [{"location": place["name"], "price_hourly": price(net / 624), "price_monthly": price(net)} for place in LOCATIONS]}
            for kind, net in (("ipv4", 0.5), ("ipv6", 0.0))
        ]
        return 200, {"pricing": {
            "currency": "EUR", "vat_rate": f"{VAT * 100:.6f}", "image": {"price_per_gb_month": price(0.011)}, "volume": {"price_per_gb_month": price(0.044)},
            "server_backup": {"percentage": "20.0000000000"}, "floating_ip": {"price_monthly": price(3.0)}, "load_balancer_types": [],
            "floating_ips": [{"type": "ipv4", "prices": [{"location": place["name"], "price_monthly": price(3.0)} for place in LOCATIONS]}],
            "primary_ips": per_ip,
            "server_types": [{"id": kind[0], "name": name, "prices": prices_of(kind)} for name, kind in SERVER_TYPES.items()],
        }}

    def get_action(self, number, query):
        action = self.actions.get(int(number))
        if action is None:
            refuse(404, "not_found", f"action with ID '{number}' not found")
        action["polls"] += 1
        self.tick()
        return 200, {"action": dict(action["public"])}

    def get_actions(self, query):
        if "id" not in query:
            refuse(410, "deprecated_api_endpoint", "listing all actions was removed; name them by id")
        found = [self.actions[int(number)] for number in query["id"] if int(number) in self.actions]
        for action in found:
            action["polls"] += 1
        self.tick()
        return 200, {"actions": [dict(action["public"]) for action in found]}

    def get_server_actions(self, number, query):
        server = {"id": self.find("servers", number)["id"], "type": "server"}
        found = [dict(action["public"]) for action in self.actions.values() if server in action["public"]["resources"]]
        return self.page("actions", found, query)

    # SSH keys

    def create_ssh_key(self, body):
        self.named("ssh_keys", body)
        words = body["public_key"].split()
        try:
            digest = hashlib.md5(base64.b64decode(words[1], validate=True)).hexdigest()
        except (IndexError, ValueError):
            invalid("public_key", "is not a valid SSH key")
        fingerprint = ":".join(digest[i:i + 2] for i in range(0, 32, 2))
        self.unique("ssh_keys", "fingerprint", fingerprint)
        key = self.make("ssh_keys", name=body["name"], fingerprint=fingerprint, public_key=body["public_key"], labels=body.get("labels", {}))
        return 201, {"ssh_key": key}

    def delete_ssh_key(self, number, body):
        del self.things["ssh_keys"][self.find("ssh_keys", number)["id"]]
        return 204, None

    # Firewalls

    def create_firewall(self, body):
        self.named("firewalls", body)
        rules = [self.rule(rule) for rule in body.get("rules", [])]
        firewall = self.make("firewalls", name=body["name"], labels=body.get("labels", {}), rules=rules)
        actions = self.attach(firewall, body.get("apply_to", []))
        return 201, {"firewall": self.shown("firewalls", firewall), "actions": [self.action("set_firewall_rules", [("firewalls", firewall)])] + actions}

    def rule(self, rule):
        if rule["protocol"] in ("tcp", "udp") and not re.fullmatch(r"\d{1,5}(-\d{1,5})?|any", rule.get("port") or ""):
            invalid("rules", "port is missing or invalid")
        for network in rule.get("source_ips", []) + rule.get("destination_ips", []):
            if not re.fullmatch(r"[0-9a-f.:]+/\d{1,3}", network):
                invalid("rules", f"{network} is not a valid CIDR")
        if rule["direction"] == "in" and not rule.get("source_ips"):
            invalid("rules", "source_ips is required for the direction in")
        return {"description": None, "port": None, "source_ips": [], "destination_ips": [], **rule}

    def attach(self, firewall, targets):
        actions = []
        for target in targets:
            if target["type"] != "server":
                invalid("apply_to", "label selectors are not doubled")
            server = self.find("servers", str(target["server"]["id"]))
            if firewall["id"] in server["_firewalls"]:
                refuse(422, "firewall_already_applied", "firewall is already applied")
            server["_firewalls"].append(firewall["id"])
            actions.append(self.action("apply_firewall", [("firewalls", firewall), ("servers", server)]))
        return actions

    def apply_firewall(self, number, body):
        return 201, {"actions": self.attach(self.find("firewalls", number), body["apply_to"])}

    def remove_firewall(self, number, body):
        firewall, actions = self.find("firewalls", number), []
        for target in body["remove_from"]:
            server = self.find("servers", str(target["server"]["id"]))
            if firewall["id"] not in server["_firewalls"]:
                refuse(422, "firewall_already_removed", "firewall is not applied")
            server["_firewalls"].remove(firewall["id"])
            actions.append(self.action("remove_firewall", [("firewalls", firewall), ("servers", server)]))
        return 201, {"actions": actions}

    def set_rules(self, number, body):
        firewall = self.find("firewalls", number)
        firewall["rules"] = [self.rule(rule) for rule in body["rules"]]
        return 201, {"actions": [self.action("set_firewall_rules", [("firewalls", firewall)])]}

    def delete_firewall(self, number, body):
        firewall = self.find("firewalls", number)
        if self.shown("firewalls", firewall)["applied_to"]:
            refuse(422, "resource_in_use", "firewall is still in use")
        del self.things["firewalls"][firewall["id"]]
        return 204, None

    # Primary IPs

    def address(self, version, name, place, labels, assignee, auto_delete):
        ip = self.network.ipv4() if version == "ipv4" else self.network.ipv6()
        return self.make("primary_ips", name=name, type=version, ip=ip, blocked=False, assignee_type="server", assignee_id=assignee, auto_delete=auto_delete,
                         location=location(place), labels=labels, dns_ptr=[])

    def create_primary_ip(self, body):
        self.named("primary_ips", body)
        if "location" not in body and "assignee_id" not in body:
            invalid("location", "location or assignee_id is required")
        ip = self.address(body["type"], body["name"], self.place(body), body.get("labels", {}), None, body.get("auto_delete", False))
        action = None
        if body.get("assignee_id"):
            action = self.assign(ip, body["assignee_id"])
        return 201, {"primary_ip": ip, **({"action": action} if action else {})}

    def assign(self, ip, number):
        server = self.find("servers", str(number))
        if server["status"] != "off":
            refuse(422, "server_not_stopped", "server is running")
        if ip["type"] in server["_ips"]:
            refuse(422, f"server_has_{ip['type']}", "the server has such an address already")
        ip["assignee_id"], server["_ips"][ip["type"]] = server["id"], ip["id"]
        return self.action("assign_primary_ip", [("primary_ips", ip), ("servers", server)])

    def assign_primary_ip(self, number, body):
        return 201, {"action": self.assign(self.find("primary_ips", number), body["assignee_id"])}

    def unassign_primary_ip(self, number, body):
        ip = self.find("primary_ips", number)
        if ip["assignee_id"] is None:
            refuse(422, "primary_ip_not_assigned", "primary IP is not assigned")
        server = self.find("servers", str(ip["assignee_id"]))
        if server["status"] != "off":
            refuse(422, "server_not_stopped", "server is running")
        ip["assignee_id"] = None
        del server["_ips"][ip["type"]]
        return 201, {"action": self.action("unassign_primary_ip", [("primary_ips", ip), ("servers", server)])}

    def delete_primary_ip(self, number, body):
        ip = self.find("primary_ips", number)
        if ip["assignee_id"] is not None:
            refuse(422, "must_be_unassigned", "primary IP must be unassigned")
        del self.things["primary_ips"][ip["id"]]
        return 204, None

    # Images

    def delete_image(self, number, body):
        image = self.find("images", number)
        if image["type"] == "system":
            refuse(403, "forbidden", "system images cannot be deleted")
        self.network.forget_image(image["id"])
        del self.things["images"][image["id"]]
        return 204, None

    # Servers

    def image_of(self, name):
        for image in self.things["images"].values():
            if str(name) in (str(image["id"]), image["name"]):
                if image["status"] != "available":
                    invalid("image", "image is not available")
                return image
        invalid("image", "image not found")

    def create_server(self, body):
        self.named("servers", body)
        kind, image, place = str(body["server_type"]), self.image_of(body["image"]), self.place(body)
        kind = next((name for name, values in SERVER_TYPES.items() if kind in (name, str(values[0]))), None) or invalid("server_type", "server type not found")
        if image["architecture"] != SERVER_TYPES[kind][4] or image["disk_size"] > SERVER_TYPES[kind][3]:
            invalid("image", "image does not fit this server type")
        if place not in SERVER_TYPES[kind][7]:
            refuse(422, "unsupported_location_for_server_type", f"server type {kind} is not available in {place}")
        if kind in self.settings["sold_out"]:
            refuse(412, "resource_unavailable", "error during placement")
        if len(body.get("user_data", "")) > 32 * 1024:
            invalid("user_data", "is too long")
        firewalls = [self.find("firewalls", str(entry["firewall"]))["id"] for entry in body.get("firewalls", [])]
        keys = [self.key(name) for name in body.get("ssh_keys", [])]
        net = {"enable_ipv4": True, "enable_ipv6": True, **body.get("public_net", {})}
        own = {version: self.find("primary_ips", str(net[version])) for version in ("ipv4", "ipv6") if net.get(version)}
        for version, ip in own.items():
            if ip["assignee_id"] is not None:
                refuse(422, "primary_ip_assigned", "primary IP is already assigned")
            if ip["type"] != version or ip["location"]["name"] != place:
                refuse(422, "primary_ip_datacenter_mismatch", "primary IP is in another location")
        server = self.make(
            "servers", name=body["name"], status="initializing", server_type=server_type(kind), location=location(place),
            labels=body.get("labels", {}), rescue_enabled=False, backup_window=None, outgoing_traffic=0, ingoing_traffic=0,
            included_traffic=20 * 1024 * GIB, iso=None, primary_disk_size=SERVER_TYPES[kind][3], private_net=[], volumes=[], load_balancers=[],
            _firewalls=firewalls, _ips={}, _image=image["id"], _user_data=body.get("user_data", ""), _keys=keys, _rescue_keys=[], _kind=kind,
        )
        for version in ("ipv4", "ipv6"):
            if net[f"enable_{version}"]:
                ip = own.get(version) or self.address(version, f"primary_ip-{self.next_id + 1}", place, {}, None, True)
                ip["assignee_id"], server["_ips"][version] = server["id"], ip["id"]
        self.network.new_disk(server["id"], image["id"])

        def finish():
            server["status"] = "off"
            if body.get("start_after_create", True):
                self.boot(server)

        action = self.action("create_server", [("servers", server)], finish)
        later = [self.action("start_server", [("servers", server)])] if body.get("start_after_create", True) else []
        password = None if keys else "double-root-password"
        return 201, {"server": self.shown("servers", server), "action": action, "next_actions": later, "root_password": password}

    def key(self, name):
        for key in self.things["ssh_keys"].values():
            if str(name) in (str(key["id"]), key["name"]):
                return key["public_key"]
        invalid("ssh_keys", "SSH key not found")

    def boot(self, server):
        server["status"] = "running"
        ip = self.things["primary_ips"].get(server["_ips"].get("ipv4"))
        address = ip["ip"] if ip else None
        if server["rescue_enabled"]:
            server["rescue_enabled"] = False
            uefi = server["_kind"] not in self.settings["bios_types"]
            self.network.rescue(server["id"], address, server["_rescue_keys"], uefi)
            return
        image = self.things["images"].get(server["_image"])
        rules = [rule for number in server["_firewalls"] for rule in self.things["firewalls"][number]["rules"]]
        if image and image["type"] == "snapshot":
            self.network.machine(server["id"], address, server["_user_data"], rules if server["_firewalls"] else None)

    def power_off(self, server):
        self.network.end(server["id"])
        server["status"] = "off"

    def delete_server(self, number, body):
        server = self.find("servers", number)
        self.unlocked(server)

        def finish():
            self.power_off(server)
            self.network.forget_disk(server["id"])
            for ip in [ip for ip in self.things["primary_ips"].values() if ip["assignee_id"] == server["id"]]:
                ip["assignee_id"] = None
                if ip["auto_delete"]:
                    del self.things["primary_ips"][ip["id"]]
            del self.things["servers"][server["id"]]

        server["status"] = "deleting"
        return 200, {"action": self.action("delete_server", [("servers", server)], finish)}

    def server_action(self, number, name, body):
        server = self.find("servers", number)
        self.unlocked(server)
        if (name in ("reboot", "reset", "shutdown")) and server["status"] == "off":
            refuse(422, "server_not_running", "server is stopped") if name != "shutdown" else None

        def run():
            if name in ("poweroff", "shutdown", "reset", "reboot"):
                self.power_off(server)
            if name in ("poweron", "reset", "reboot") and server["status"] != "running":
                self.boot(server)

        command = {"poweron": "start_server", "poweroff": "stop_server", "shutdown": "shutdown_server", "reset": "reset_server", "reboot": "reboot_server"}[name]
        return 201, {"action": self.action(command, [("servers", server)], run)}

    def enable_rescue(self, number, body):
        server = self.find("servers", number)
        self.unlocked(server)
        server["_rescue_keys"] = [self.key(key) for key in body.get("ssh_keys", [])]

        def finish():
            server["rescue_enabled"] = True

        return 201, {"action": self.action("enable_rescue", [("servers", server)], finish), "root_password": "double-rescue-password"}

    def disable_rescue(self, number, body):
        server = self.find("servers", number)
        self.unlocked(server)
        server["rescue_enabled"] = False
        return 201, {"action": self.action("disable_rescue", [("servers", server)])}

    def create_image(self, number, body):
        server = self.find("servers", number)
        self.unlocked(server)
        self.quota("images")
        image = self.make("images", type=body.get("type", "snapshot"), name=None, description=body.get("description", ""), labels=body.get("labels", {}),
                          os_flavor="unknown", os_version=None, disk_size=float(server["primary_disk_size"]), image_size=None, status="creating",
                          created_from={"id": server["id"], "name": server["name"]}, bound_to=None, architecture=SERVER_TYPES[server["_kind"]][4],
                          rapid_deploy=False, deprecated=None, deleted=None)

        def finish():
            self.network.snapshot(server["id"], image["id"])
            if image["id"] in self.things["images"]:
                image.update(status="available", image_size=round(self.network.image_bytes(image["id"]) / GIB, 3))

        return 201, {"image": image, "action": self.action("create_image", [("servers", server), ("images", image)], finish)}

    # For tests

    def state(self):
        public = {kind: [self.shown(kind, thing) for thing in things.values() if thing.get("type") != "system"] for kind, things in self.things.items()}
        for image in public["images"]:
            image["_file"] = self.network.image_file(image["id"])
        return {**public, "actions": [action["public"] for action in self.actions.values()]}

    def snapshot(self, body):
        """A snapshot that somebody made before, with {"description", "labels"}."""
        image = self.make("images", type="snapshot", name=None, description=body["description"], labels=body["labels"], os_flavor="unknown", os_version=None,
                          disk_size=40.0, image_size=0.1, status="available", created_from=None, bound_to=None, architecture="x86", rapid_deploy=False,
                          deprecated=None, deleted=None)
        return image

    def foreign(self):
        """Things of somebody else in the same project, which nobody may touch."""
        labels = {"team": "other"}
        rules = [{"direction": "in", "protocol": "tcp", "port": "80", "source_ips": ["0.0.0.0/0"]}]
        firewall = self.create_firewall({"name": "other-firewall", "labels": labels, "rules": rules})[1]["firewall"]
        server = self.create_server({"name": "other-server", "image": "debian-12", "server_type": "cx23", "labels": labels, "firewalls": [{"firewall": firewall["id"]}]})
        self.create_primary_ip({"name": "other-ip", "type": "ipv4", "location": "fsn1", "labels": labels})
        key = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32)).decode()
        self.create_ssh_key({"name": "other-key", "public_key": f"ssh-ed25519 {key} other", "labels": labels})
        self.end_actions()
        self.create_image(str(server[1]["server"]["id"]), {"description": "other-snapshot", "labels": labels})
        self.end_actions()

    def end_actions(self):
        for action in self.actions.values():
            action["polls"] = self.settings["action_polls"]
        self.tick()

    def close(self):
        self.network.close()


class OpenApi:
    """Requests and answers compared with the vendor's own description (OpenAPI 3.0), where a file with it is at hand."""

    def __init__(self, file):
        with open(file, encoding="utf-8") as text:
            document = json.load(text)
        self.schemas = document["components"]["schemas"]
        self.paths = [(re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)), item) for path, item in document["paths"].items()]

    def check(self, method, route, status, body, answer):
        item = next((item for path, item in self.paths if path.fullmatch(route) and method.lower() in item), None)
        if item is None:
            return "the reference knows no such operation"
        operation = item[method.lower()]
        asked = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if asked and body is not None and (wrong := self.fits(asked, body, "request", True)):
            return wrong
        described = operation["responses"].get(str(status))
        if described is None:
            return f"the reference knows no status {status} here"
        shape = described.get("content", {}).get("application/json", {}).get("schema")
        return self.fits(shape, answer, "answer", False) if shape else None

    def fits(self, shape, value, where, strict):
        """The first disagreement in words; none if there is none. Strict: unknown fields are disagreements."""
        if "$ref" in shape:
            shape = self.schemas[shape["$ref"].rsplit("/", 1)[1]]
        if value is None and shape.get("nullable"):
            return None
        for part in shape.get("allOf", []):
            if wrong := self.fits({**part, "nullable": True} if value is None and "$ref" not in part else part, value, where, strict):
                return wrong
        if any(word in shape for word in ("oneOf", "anyOf")):
            tried = [self.fits(part, value, where, strict) for part in shape.get("oneOf", shape.get("anyOf"))]
            return None if None in tried else tried[0]
        if "enum" in shape and value not in shape["enum"]:
            return f"{where}: {value!r} is none of {shape['enum']}"
        kind = shape.get("type")
        if strict and kind == "string" and type(value) is int:
            return None  # an id where a name is asked for: the vendor's own clients do so
        types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
        if kind and (not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "boolean")):
            return f"{where}: {value!r} is no {kind}"
        if kind == "array":
            return next((wrong for i, entry in enumerate(value) if (wrong := self.fits(shape.get("items", {}), entry, f"{where}[{i}]", strict))), None)
        if kind == "object" and "properties" in shape:
            missing = [name for name in shape.get("required", []) if name not in value and name not in GONE]
            unknown = [name for name in value if name not in shape["properties"]] if strict else []
            if missing or unknown:
                return f"{where}: missing {missing}, unknown {unknown}"
            known = [(name, value[name]) for name in value if name in shape["properties"]]
            return next((wrong for name, entry in known if (wrong := self.fits(shape["properties"][name], entry, f"{where}.{name}", strict))), None)
        return None


def of(kind):
    """The three verbs that every resource has, bound to one kind."""
    def get_list(self, query):
        return self.get_list(kind, query)

    def get_one(self, number, query):
        return self.get_one(kind, number)

    def put(self, number, body):
        return self.put(kind, number, body)

    for verb, method in (("list", get_list), ("get", get_one), ("put", put)):
        setattr(Hetzner, f"{verb}_{kind}", method)


for _kind in Hetzner.KINDS:
    of(_kind)

ROUTES = [
    *[("GET", f"/{kind}", f"list_{kind}") for kind in Hetzner.KINDS],
    *[("GET", rf"/{kind}/(\d+)", f"get_{kind}") for kind in Hetzner.KINDS],
    *[("PUT", rf"/{kind}/(\d+)", f"put_{kind}") for kind in Hetzner.KINDS],
    *[("DELETE", rf"/{kind}/(\d+)", f"delete_{name}") for kind, name in Hetzner.KINDS.items()],
    *[("POST", f"/{kind}", f"create_{name}") for kind, name in Hetzner.KINDS.items() if kind != "images"],
    ("GET", "/locations", "locations"),
    ("GET", r"/locations/(\d+)", "get_location"),
    ("GET", "/server_types", "server_types"),
    ("GET", r"/server_types/(\d+)", "get_server_type"),
    ("GET", "/pricing", "pricing"),
    ("GET", "/actions", "get_actions"),
    ("GET", r"/(?:servers/|firewalls/|primary_ips/|images/)?actions/(\d+)", "get_action"),
    ("GET", r"/servers/(\d+)/actions", "get_server_actions"),
    ("POST", r"/servers/(\d+)/actions/(poweron|poweroff|reset|reboot|shutdown)", "server_action"),
    ("POST", r"/servers/(\d+)/actions/enable_rescue", "enable_rescue"),
    ("POST", r"/servers/(\d+)/actions/disable_rescue", "disable_rescue"),
    ("POST", r"/servers/(\d+)/actions/create_image", "create_image"),
    ("POST", r"/firewalls/(\d+)/actions/apply_to_resources", "apply_firewall"),
    ("POST", r"/firewalls/(\d+)/actions/remove_from_resources", "remove_firewall"),
    ("POST", r"/firewalls/(\d+)/actions/set_rules", "set_rules"),
    ("POST", r"/primary_ips/(\d+)/actions/assign", "assign_primary_ip"),
    ("POST", r"/primary_ips/(\d+)/actions/unassign", "unassign_primary_ip"),
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--state", required=True, help="folder for disks and images")
    arguments.add_argument("--listen", default="127.0.0.1:0")
    arguments.add_argument("--openapi", help="the vendor's description of the API, to hold requests and answers to")
    given = arguments.parse_args()
    settings = {
        "tokens": {"token-that-writes": "rw", "token-that-reads": "ro"}, "action_polls": 2, "action_ms": 1500, "invisible_reads": 0, "quota": {},
        "rate_limit": 3600, "rate_reset_seconds": 1, "failing_actions": [], "sold_out": [], "bios_types": ["cpx22"], "machine": [],
    }
    violations = []
    shutil.rmtree(given.state, ignore_errors=True)
    os.makedirs(given.state)
    cloud = Hetzner(given.state, settings, violations, OpenApi(given.openapi) if given.openapi else None)
    serve(given.listen, Control(cloud, settings, violations, ERRORS), lambda url: {"hetzner": f"{url}/v1", "control": url})


# How a fault that is a status looks here.
ERRORS = {
    401: ("unauthorized", "unable to authenticate"), 403: ("forbidden", "insufficient permissions for this request"),
    409: ("conflict", "the resource has changed during the request, please retry"), 412: ("resource_unavailable", "the requested resource is currently unavailable"),
    423: ("locked", "the resource is locked"), 429: ("rate_limit_exceeded", "limit of requests per hour reached"),
    500: ("server_error", "an unexpected error occurred"), 503: ("unavailable", "the service is temporarily unavailable"),
}

if __name__ == "__main__":
    main()
