"""Compute Engine v1: the resources that portdistrict uses, with their rules."""

import json
import re
import uuid

from common.server import Answer, Refusal

from . import lists, world
from .images import Images
from .instances import Instances
from .operations import Operations, stamp
from .rules import Thing, Where, check_fingerprint, check_labels, check_name, fingerprint, not_found, not_ready

PREFIX = "/compute/v1/"
SCOPE = r"(?:global|zones/[^/]+|regions/[^/]+)"
# Collection: where it is, the word for one, its kind.
COLLECTIONS = {
    "images": ("global", "image", "compute#image"),
    "firewalls": ("global", "firewall", "compute#firewall"),
    "networks": ("global", "network", "compute#network"),
    "addresses": ("regions", "address", "compute#address"),
    "instances": ("zones", "instance", "compute#instance"),
    "disks": ("zones", "disk", "compute#disk"),
    "machineTypes": ("zones", "machineType", "compute#machineType"),
}


class Compute(Images, Instances):
    """All of it, for every project that is asked for."""

    def __init__(self, url, project, settings, tokens, storage, machines, discovery):
        self.base, self.project, self.settings, self.tokens = f"{url}{PREFIX}", project, settings, tokens
        self.storage, self.machines, self.discovery = storage, machines, discovery
        self.operations = Operations(self.base, settings)
        self.lock = self.operations.lock
        self.things = {}
        self.repeats = {}

    # Requests.

    def handle(self, request):
        self.operations.settle()
        path = request.path[len(PREFIX) :]
        self.user = self.tokens.check(request, "compute", request.method != "GET")
        found = re.fullmatch(r"projects/([^/]+)(?:/(.*))?", path)
        if not found:
            raise Refusal(404, "Not Found", "notFound")
        project, rest = found[1], found[2] or ""
        name, run, words = self.route(request.method, project, rest)
        body = request.json() if request.method in ("POST", "PATCH", "PUT") else None
        if project != self.project:
            raise Refusal(404, f"The resource 'projects/{project}' was not found", "notFound")
        self.permit(name, project, rest)
        if self.discovery:
            self.settings.forbid(name, self.discovery.request(name, {"project": project, **words}, request.query, body))
        answer = self.once(request, name, lambda: run(request, body))
        if self.discovery:
            self.settings.forbid(name, self.discovery.response(name, answer))
        return Answer(body=answer)

    def route(self, method, project, rest):
        """The method's name in the discovery document, what does it, and the words of its path."""
        if method == "GET" and not rest:
            return "compute.projects.get", lambda *_: world.project(self.base, project, self.quotas(None)), {}
        place = re.fullmatch(r"(zones|regions)(?:/([^/]+))?", rest)
        if place and method == "GET":
            return self.route_places(project, *place.groups())
        found = re.fullmatch(r"aggregated/(\w+)", rest)
        if found and method == "GET" and found[1] in COLLECTIONS:
            return f"compute.{found[1]}.aggregatedList", lambda request, _: self.aggregated(project, found[1], request.query), {}
        found = re.fullmatch(rf"({SCOPE})/operations(?:/([^/]+))?(/wait)?", rest)
        if found:
            return self.route_operations(method, project, *found.groups())
        found = re.fullmatch(rf"({SCOPE})/(\w+)(?:/(.+))?", rest)
        if not found or found[2] not in COLLECTIONS or not found[1].startswith(COLLECTIONS[found[2]][0]):
            raise Refusal(404, "Not Found", "notFound")
        scope, collection, tail = found.groups()
        self.known_place(scope, project)
        words = dict([(scope.split("/")[0][:-1], scope.split("/")[1])] if "/" in scope else [])
        if not tail:
            verb = {"GET": "list", "POST": "insert"}.get(method)
        elif collection == "images" and tail.startswith("family/"):
            verb, words["family"] = "getFromFamily", tail[7:]
        else:
            tail, _, verb = tail.partition("/")
            words[COLLECTIONS[collection][1]] = tail
            verb = {"serialPort": "getSerialPortOutput"}.get(verb, verb) or {"GET": "get", "DELETE": "delete", "PATCH": "patch"}.get(method)
        run = getattr(self, f"{collection}_{verb}", None) or getattr(self, f"any_{verb}", None)
        if run is None or (method == "GET") != (verb in ("get", "list", "getSerialPortOutput", "getShieldedInstanceIdentity", "getFromFamily")):
            raise Refusal(404, f"the double has no {method} {rest}", "notFound")
        where = Where(project, scope, collection, tail)
        return f"compute.{collection}.{verb}", lambda request, body: run(where, request, body), words

    def route_places(self, project, kind, name):
        known = {"zones": world.ZONES, "regions": world.REGIONS}[kind]
        show = {
            "zones": lambda zone: world.zone(self.base, project, zone),
            "regions": lambda region: world.region(self.base, project, region, self.quotas(region)),
        }[kind]
        if name is None:
            run = lambda request, _: self.listed(kind[:-1], [show(one) for one in known], request.query, f"projects/{project}/{kind}")
            return f"compute.{kind}.list", run, {}
        self.known_place(f"{kind}/{name}", project)
        return f"compute.{kind}.get", lambda *_: show(name), {kind[:-1]: name}

    def route_operations(self, method, project, scope, name, wait):
        self.known_place(scope, project)
        group = {"g": "globalOperations", "z": "zoneOperations", "r": "regionOperations"}[scope[0]]
        words = dict([(scope.split("/")[0][:-1], scope.split("/")[1])] if "/" in scope else [])
        if name is None and method == "GET":
            return f"compute.{group}.list", lambda request, _: self.list_operations(project, scope, request.query), words
        operation = self.operations.find(project, scope, name)
        if operation is None:
            raise not_found(f"projects/{project}/{scope}/operations/{name}")
        words["operation"] = name
        if wait and method == "POST":
            return f"compute.{group}.wait", lambda *_: self.operations.wait(operation), words
        return f"compute.{group}.get", lambda *_: self.operations.poll(operation), words

    def known_place(self, scope, project):
        kind, _, name = scope.partition("/")
        if kind != "global" and name not in {"zones": world.ZONES, "regions": world.REGIONS}[kind]:
            raise Refusal(404, f"The resource 'projects/{project}/{scope}' was not found", "notFound")

    def once(self, request, name, run):
        """A request that is repeated with its id gets the answer it got first."""
        identity = request.query.get("requestId")
        if not identity:
            return run()
        try:
            if uuid.UUID(identity).int == 0:
                raise ValueError
        except ValueError as error:
            raise Refusal(400, f"Invalid value for field 'requestId': '{identity}'. Must be a valid UUID.", "invalid") from error
        key = (name, request.path, identity)
        with self.lock:
            if key in self.repeats:
                return self.operations.poll(self.operations.find(*self.repeats[key]))
            answer = run()
            place = re.search(rf"projects/([^/]+)/({SCOPE})/operations/(.+)", answer.get("selfLink", ""))
            if place:
                self.repeats[key] = place.groups()
            return answer

    def permit(self, name, project, rest):
        """Whether the caller's role has what this needs; `deny` in the settings takes permissions away."""
        _, collection, verb = name.split(".")
        verb = {"insert": "create", "aggregatedList": "list", "patch": "update", "wait": "get"}.get(verb, verb)
        permission = f"compute.{collection}.{verb}"
        if permission in self.settings["deny"]:
            raise Refusal(403, f"Required '{permission}' permission for 'projects/{project}/{rest}'", "forbidden")

    # What there is.

    def table(self, project, scope, collection):
        return self.things.setdefault((project, scope, collection), {})

    def find(self, where, seen=True):
        """The thing of this place, or a refusal. `seen`: it is read, which may come too early."""
        if where.collection == "machineTypes":
            if where.name not in world.MACHINE_TYPES:
                raise not_found(where.path)
            return Thing(world.machine_type(self.base, where.project, where.scope.split("/")[1], where.name), 0)
        if where.collection == "networks" and where.name == "default":
            return Thing(world.network(self.base, where.project), 0)
        table = self.table(where.project, where.scope, where.collection)
        thing = table.get(where.name) or next((one for one in table.values() if one.body["id"] == where.name), None)
        if thing is None:
            raise not_found(where.path)
        if seen and thing.hidden > 0:
            thing.hidden -= 1
            raise not_found(where.path)
        return thing

    def any_get(self, where, *_):
        with self.lock:
            return self.shown(self.find(where))

    def shown(self, thing):
        return json.loads(json.dumps(thing.body))

    def any_list(self, where, request, _):
        return self.listed(COLLECTIONS[where.collection][1], self.all_of(where.project, where.scope, where.collection), request.query, where.path)

    def all_of(self, project, scope, collection):
        if collection == "machineTypes":
            return [world.machine_type(self.base, project, scope.split("/")[1], name) for name in world.MACHINE_TYPES]
        with self.lock:
            things = [self.shown(thing) for thing in self.table(project, scope, collection).values() if thing.hidden <= 0]
        return things + ([world.network(self.base, project)] if collection == "networks" else [])

    def listed(self, word, items, query, path):
        items, more = lists.page(items, query)
        made = {"kind": f"compute#{word}List", "id": path, "items": items, "selfLink": f"{self.base}{path}"}
        if not items:
            del made["items"]
        if more:
            made["nextPageToken"] = more
        return made

    def aggregated(self, project, collection, query):
        scopes = [f"zones/{zone}" for zone in world.ZONES] if COLLECTIONS[collection][0] == "zones" else [f"regions/{region}" for region in world.REGIONS]
        items, more = lists.page([item for scope in scopes for item in self.all_of(project, scope, collection)], query)
        found = {}
        for scope in scopes:
            here = [item for item in items if f"/{scope}/" in item["selfLink"]]
            warning = {"code": "NO_RESULTS_ON_PAGE", "message": f"There are no results for scope '{scope}' on this page.", "data": [{"key": "scope", "value": scope}]}
            found[scope] = {collection: here} if here else {"warning": warning}
        word = COLLECTIONS[collection][1]
        made = {"kind": f"compute#{word}AggregatedList", "id": f"projects/{project}/aggregated/{collection}", "items": found}
        made["selfLink"] = f"{self.base}{made['id']}"
        return {**made, **({"nextPageToken": more} if more else {})}

    def list_operations(self, project, scope, query):
        with self.lock:
            items = [dict(one.body) for (owner, where, _), one in self.operations.all.items() if (owner, where) == (project, scope)]
        return self.listed("operation", items, query, f"projects/{project}/{scope}/operations")

    # Making and removing.

    def make(self, where, body, request, kind="insert", then=None, error=None):
        """Puts a thing where it belongs, at once; the operation makes it ready, or takes it away again."""
        with self.lock:
            table, name = self.table(where.project, where.scope, where.collection), body["name"]
            path = f"{where.path}/{name}"
            if name in table or (where.collection == "networks" and name == "default"):
                raise Refusal(409, f"The resource '{path}' already exists", "alreadyExists")
            link = f"{self.base}{path}"
            head = {"kind": COLLECTIONS[where.collection][2], "id": self.operations.number(), "creationTimestamp": stamp(), "selfLink": link}
            thing = Thing({**head, **body}, int(self.settings["stale_reads"]))
            if "labels" in body or where.collection in ("images", "instances", "addresses", "disks"):
                thing.body["labelFingerprint"] = fingerprint(body.get("labels", {}))
            table[name] = thing

            def ready():
                thing.ready = True
                return then(thing) if then else None

            remove = lambda: table.pop(name, None)

            def ready_or_gone():
                failed = ready()
                if failed:
                    remove()
                return failed

            return self.operations.start(
                where.project, where.scope, kind, thing.body, request.query.get("requestId"), self.user, ready_or_gone, remove, error
            )

    def any_delete(self, where, request, _, then=None):
        with self.lock:
            thing = self.find(where, seen=False)
            if thing.going:
                raise not_ready(where.path)
            users = thing.body.get("users")
            if users:
                who = users[0].removeprefix(self.base)
                raise Refusal(400, f"The {COLLECTIONS[where.collection][1]} resource '{where.path}' is already being used by '{who}'", "resourceInUseByAnotherResource")
            thing.going = True
            table = self.table(where.project, where.scope, where.collection)

            def gone():
                table.pop(thing.body["name"], None)
                return then(thing) if then else None

            def stays():
                thing.going = False

            return self.operations.start(where.project, where.scope, "delete", thing.body, request.query.get("requestId"), self.user, gone, stays)

    def any_setLabels(self, where, request, body):
        with self.lock:
            thing = self.find(where, seen=False)
            check_fingerprint(body.get("labelFingerprint"), thing.body["labelFingerprint"], "Labels")
            labels = body.get("labels", {})
            check_labels(labels)
            return self.change(where, request, "setLabels", {"labels": labels, "labelFingerprint": fingerprint(labels)})

    def any_testIamPermissions(self, where, _, body):
        return {"permissions": [one for one in body.get("permissions", []) if one not in self.settings["deny"]]}

    def change(self, where, request, kind, fields):
        """An operation that sets fields when it is done."""
        thing = self.find(where, seen=False)
        return self.operations.start(
            where.project, where.scope, kind, thing.body, request.query.get("requestId"), self.user, lambda: thing.body.update(fields)
        )

    # Firewalls and addresses.

    def firewalls_insert(self, where, request, body):
        check_name(body)
        made = {"direction": "INGRESS", "priority": 1000, "disabled": False, "logConfig": {"enable": False}, "description": "", **body}
        made["network"] = self.link(where.project, body.get("network", "global/networks/default"))
        if not body.get("allowed") and not body.get("denied"):
            raise Refusal(400, "Invalid value for field 'resource.allowed': ''. One of allowed or denied must be specified.", "invalid")
        if made["direction"] == "INGRESS" and not any(body.get(key) for key in ("sourceRanges", "sourceTags", "sourceServiceAccounts")):
            made["sourceRanges"] = ["0.0.0.0/0"]
        return self.make(where, made, request, error=self.over_quota("FIREWALLS", 1))

    def firewalls_patch(self, where, request, body):
        fields = {key: value for key, value in body.items() if key not in ("name", "id", "selfLink", "kind", "creationTimestamp")}
        return self.change(where, request, "patch", fields)

    def addresses_insert(self, where, request, body):
        check_name(body)
        check_labels(body.get("labels", {}))
        region = where.scope.split("/")[1]
        made = {"addressType": "EXTERNAL", "ipVersion": "IPV4", "networkTier": "PREMIUM", "description": "", **body}
        made.update(status="RESERVED", address=self.machines.address(), region=f"{self.base}projects/{where.project}/{where.scope}")
        return self.make(where, made, request, error=self.over_quota("STATIC_ADDRESSES", 1, region))

    # Quotas.

    def quotas(self, region):
        limits = world.GLOBAL_QUOTA if region is None else world.REGION_QUOTA
        own = self.settings["quota"]
        row = lambda metric, limit: {"metric": metric, "limit": float(own.get(metric, limit)), "usage": float(self.usage(metric, region))}
        return [row(metric, limit) for metric, limit in limits.items()]

    def usage(self, metric, region):
        def within(collection):
            for (_, scope, kind), table in self.things.items():
                if kind == collection and (region is None or scope == "global" or scope.split("/")[1].startswith(region)):
                    yield from table.values()

        with self.lock:
            if metric in ("CPUS", "N2D_CPUS"):
                types = [thing.body["machineType"].rsplit("/", 1)[1] for thing in within("instances")]
                return sum(world.MACHINE_TYPES[name][0] for name in types if world.MACHINE_TYPES[name][2] == "n2d" or metric == "CPUS")
            collection = {"IMAGES": "images", "FIREWALLS": "firewalls", "STATIC_ADDRESSES": "addresses", "IN_USE_ADDRESSES": "instances", "INSTANCES": "instances"}
            return sum(1 for _ in within(collection[metric])) if metric in collection else 0

    def over_quota(self, metric, more, region=None):
        """The error of an operation that would need more than there may be; None if it does not."""
        limits = {**world.GLOBAL_QUOTA, **world.REGION_QUOTA, **self.settings["quota"]}
        limit = float(limits[metric])
        if self.usage(metric, region) + more <= limit:
            return None
        where = f" in region {region}" if region else " globally"
        return ("QUOTA_EXCEEDED", f"Quota '{metric}' exceeded.  Limit: {limit}{where}.", 403)

    # Links.

    def link(self, project, text):
        """A full link of a full or partial one."""
        found = re.search(r"projects/.*", text)
        return self.base + (found[0] if found else f"projects/{project}/{text.lstrip('/')}")

    def state(self):
        """For `GET /_double/state`."""
        self.operations.settle()
        with self.lock:
            things = {}
            for (_, scope, collection), table in self.things.items():
                for name, thing in table.items():
                    things.setdefault(collection, {})[f"{scope}/{name}"] = self.shown(thing)
            running = [one.body["name"] for one in self.operations.all.values() if not one.done]
            return {**things, "operations_running": running, "machines": self.machines.state()}
