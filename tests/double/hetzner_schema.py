"""What the reference allows in a request: the fields of each body and the parameters of each list, by operation."""

LISTS = {
    "list_servers": {"name", "label_selector", "sort", "status"},
    "list_firewalls": {"name", "label_selector", "sort"},
    "list_primary_ips": {"name", "label_selector", "ip", "sort"},
    "list_ssh_keys": {"name", "label_selector", "fingerprint", "sort"},
    "list_images": {"name", "label_selector", "sort", "type", "status", "bound_to", "include_deprecated", "architecture"},
    "locations": {"name", "sort"},
    "server_types": {"name"},
    "get_actions": {"id"},
    "get_server_actions": {"status", "sort"},
}
PAGES = {"page", "per_page"}

# A field that ends with ! must be there. A list describes its entries.
RULE = {"direction!": str, "protocol!": str, "port": str, "source_ips": [str], "destination_ips": [str], "description": str}
TARGET = {"type!": str, "server": {"id!": int}, "label_selector": {"selector!": str}}
BODIES = {
    "create_server": {
        "name!": str, "server_type!": (str, int), "image!": (str, int), "location": (str, int), "ssh_keys": [(str, int)], "volumes": [int],
        "networks": [int], "firewalls": [{"firewall!": int}], "user_data": str, "labels": dict, "automount": bool, "start_after_create": bool,
        "public_net": {"enable_ipv4": bool, "enable_ipv6": bool, "ipv4": int, "ipv6": int}, "placement_group": int,
    },
    "create_firewall": {"name!": str, "labels": dict, "rules": [RULE], "apply_to": [TARGET]},
    "create_primary_ip": {
        "name!": str, "type!": str, "assignee_type": str, "assignee_id": int, "auto_delete": bool, "labels": dict, "location": str,
    },
    "create_ssh_key": {"name!": str, "public_key!": str, "labels": dict},
    "create_image": {"description": str, "labels": dict, "type": str},
    "enable_rescue": {"type": str, "ssh_keys": [int]},
    "apply_firewall": {"apply_to!": [TARGET]},
    "remove_firewall": {"remove_from!": [TARGET]},
    "set_rules": {"rules!": [RULE]},
    "assign_primary_ip": {"assignee_id!": int, "assignee_type!": str},
    "put_servers": {"name": str, "labels": dict},
    "put_firewalls": {"name": str, "labels": dict},
    "put_primary_ips": {"name": str, "labels": dict, "auto_delete": bool},
    "put_ssh_keys": {"name": str, "labels": dict},
    "put_images": {"description": str, "labels": dict, "type": str},
}


def request(operation, body, query):
    """What is wrong with a request in words; none if nothing is."""
    if operation in LISTS:
        unknown = set(query) - LISTS[operation] - PAGES
        return f"unknown parameters {sorted(unknown)}" if unknown else None
    if query:
        return f"this operation takes no parameters: {sorted(query)}"
    if body and operation not in BODIES:
        return f"this operation takes no body: {sorted(body)}"
    return fields(BODIES.get(operation, {}), body or {}, "body")


def fields(table, value, where):
    if not isinstance(value, dict):
        return f"{where} is no object"
    kinds = {name.rstrip("!"): kind for name, kind in table.items()}
    missing = [name.rstrip("!") for name in table if name.endswith("!") and name.rstrip("!") not in value]
    unknown = [name for name in value if name not in kinds]
    if missing or unknown:
        return f"{where}: missing {missing}, unknown {unknown}"
    return next((wrong for name, entry in value.items() if (wrong := one(kinds[name], entry, f"{where}.{name}"))), None)


def one(kind, value, where):
    if isinstance(kind, dict):
        return fields(kind, value, where)
    if isinstance(kind, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next((wrong for i, entry in enumerate(value) if (wrong := one(kind[0], entry, f"{where}[{i}]"))), None)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"{where}: {value!r} has the wrong type"
    if kind is dict and not all(isinstance(entry, str) and len(entry) <= 63 and len(key) <= 63 for key, entry in value.items()):
        return f"{where}: labels are short texts"
    return None
