#!/usr/bin/env python3
"""The vendor's own Python client (PyPI `hcloud`) tells its stories against the double: what it can read, the double says right."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f story"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--reference", required=True, help="folder that `pip install --target` made with hcloud in it")
    arguments.add_argument("--openapi", help="the vendor's description of the API, to hold the double to")
    given = arguments.parse_args()
    sys.path.insert(0, given.reference)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "hetzner.py"), "--state", os.path.join(folder, "double")]
        command += ["--openapi", given.openapi] if given.openapi else []
        double = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            where = json.loads(double.stdout.readline())
            for story in (things, life, images, addresses, refusals, pages):
                story(where)
                print(f"{story.__name__}: holds")
            violations = control(where, "GET", "violations")
            assert violations == [], violations
        finally:
            double.stdin.close()
            double.wait(timeout=10)


def control(where, method, verb, body=None):
    request = urllib.request.Request(f"{where['control']}/_double/{verb}", method=method, data=None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def client(where, token="token-that-writes", **more):
    import hcloud

    return hcloud.Client(token=token, api_endpoint=where["hetzner"], poll_interval=0.02, **more)


def finish(made):
    """Waits for everything that creating a server brings with it."""
    for action in [made.action, *made.next_actions]:
        action.wait_until_finished()


def things(where):
    """What is offered, and for how much."""
    cloud = client(where)
    kind = cloud.server_types.get_by_name("cx23")
    assert (kind.architecture, kind.cores, kind.disk) == ("x86", 2, 40)
    assert {price["location"] for price in kind.prices} == {"fsn1", "nbg1", "hel1"}
    assert cloud.locations.get_by_name("fsn1").country == "DE"
    assert cloud.images.get_by_name_and_architecture("debian-12", "x86").type == "system"


def life(where):
    """A server with its firewall, from the first call to the last."""
    from hcloud.firewalls.domain import Firewall, FirewallResource, FirewallRule
    from hcloud.images.domain import Image
    from hcloud.locations.domain import Location
    from hcloud.server_types.domain import ServerType

    cloud = client(where)
    rule = FirewallRule(direction="in", protocol="tcp", port="4433", source_ips=["0.0.0.0/0", "::/0"])
    firewall = cloud.firewalls.create("story", rules=[rule], labels={"a": "1"}).firewall
    made = cloud.servers.create(
        name="story", server_type=ServerType(name="cx23"), image=Image(name="debian-12"), location=Location(name="nbg1"), firewalls=[Firewall(id=firewall.id)],
        labels={"a": "1", "b": "2"}, user_data="{}",
    )
    finish(made)
    server = cloud.servers.get_by_id(made.server.id)
    assert server.status == "running" and server.public_net.ipv4.ip.startswith("127.") and server.image.name == "debian-12"
    assert [entry.firewall.id for entry in server.public_net.firewalls] == [firewall.id]
    assert [found.name for found in cloud.servers.get_all(label_selector="a=1,b!=3")] == ["story"]
    assert cloud.servers.get_all(label_selector="a=2") == []
    server.power_off().wait_until_finished()
    assert cloud.servers.get_by_name("story").status == "off"
    server.power_on().wait_until_finished()
    server.reset().wait_until_finished()
    assert cloud.servers.get_by_name("story").status == "running"
    rescue = server.enable_rescue(type="linux64")
    rescue.action.wait_until_finished()
    assert rescue.root_password and cloud.servers.get_by_name("story").rescue_enabled
    server.disable_rescue().wait_until_finished()
    try:
        firewall.delete()
    except Exception as error:
        assert "in use" in str(error), error
    else:
        raise AssertionError("a firewall in use was deleted")
    cloud.firewalls.remove_from_resources(firewall, [FirewallResource(type="server", server=server)])
    cloud.firewalls.apply_to_resources(firewall, [FirewallResource(type="server", server=server)])
    server.update(labels={"a": "2"})
    server.delete().wait_until_finished()
    assert cloud.servers.get_by_name("story") is None and firewall.delete()


def images(where):
    """A snapshot outlives its server, and another server begins from it."""
    from hcloud.images.domain import Image
    from hcloud.server_types.domain import ServerType

    cloud = client(where)
    key = cloud.ssh_keys.create("story", PUBLIC_KEY, labels={"a": "1"})
    assert cloud.ssh_keys.get_by_fingerprint(key.fingerprint).id == key.id
    made = cloud.servers.create(name="first", server_type=ServerType(name="cx23"), image=Image(name="debian-12"), ssh_keys=[key], start_after_create=False)
    finish(made)
    assert made.root_password is None and cloud.servers.get_by_name("first").status == "off"
    snapshot = made.server.create_image(description="story", type="snapshot", labels={"image": "x"})
    assert snapshot.image.status == "creating"
    snapshot.action.wait_until_finished()
    made.server.delete().wait_until_finished()
    found = cloud.images.get_all(type="snapshot", label_selector="image=x")
    assert [image.status for image in found] == ["available"] and found[0].disk_size == 40
    again = cloud.servers.create(name="second", server_type=ServerType(name="cpx22"), image=Image(id=found[0].id))
    finish(again)
    again.server.delete().wait_until_finished()
    assert found[0].delete() and key.delete()


def addresses(where):
    """An address that outlives its server has to be unassigned before it goes."""
    from hcloud.images.domain import Image
    from hcloud.locations.domain import Location
    from hcloud.server_types.domain import ServerType
    from hcloud.servers.domain import ServerCreatePublicNetwork

    cloud = client(where)
    ip = cloud.primary_ips.create(type="ipv4", name="story", location=Location(name="fsn1"), assignee_type="server", auto_delete=False).primary_ip
    net = ServerCreatePublicNetwork(ipv4=ip, enable_ipv6=False)
    made = cloud.servers.create(name="kept", server_type=ServerType(name="cx23"), image=Image(name="debian-12"), location=Location(name="fsn1"), public_net=net)
    finish(made)
    assert cloud.servers.get_by_name("kept").public_net.ipv4.ip == ip.ip
    refused(lambda: ip.delete(), "must_be_unassigned")
    made.server.delete().wait_until_finished()
    assert cloud.primary_ips.get_by_name("story").assignee_id is None and ip.delete()


def refused(call, code):
    from hcloud import APIException

    try:
        call()
    except APIException as error:
        assert error.code == code, error
    else:
        raise AssertionError(f"{code} was expected")


def refusals(where):
    """Every refusal has the form that the client reads."""
    from hcloud.images.domain import Image
    from hcloud.server_types.domain import ServerType

    def server(cloud):
        return cloud.servers.create(name="refused", server_type=ServerType(name="cx23"), image=Image(name="debian-12"))

    refused(lambda: client(where, "nobody").locations.get_all(), "unauthorized")
    refused(lambda: server(client(where, "token-that-reads")), "token_readonly")
    refused(lambda: client(where).servers.get_by_id(1), "not_found")
    control(where, "POST", "settings", {"quota": {"servers": 0}})
    refused(lambda: server(client(where)), "resource_limit_exceeded")
    control(where, "POST", "settings", {"quota": {}})
    made = server(client(where))
    refused(lambda: server(client(where)), "uniqueness_error")
    refused(made.server.power_off, "locked")
    finish(made)
    control(where, "POST", "faults", [{"method": "GET", "path": "/locations", "fault": "429", "times": 2}])
    # The client tries again by itself.
    assert len(client(where).locations.get_all()) == 4
    control(where, "POST", "settings", {"failing_actions": ["stop_server"]})
    try:
        made.server.power_off().wait_until_finished()
    except Exception as error:
        assert "Action failed" in str(error) or "action_failed" in str(error), error
    else:
        raise AssertionError("an action that fails was said to be done")
    made.server.delete().wait_until_finished()


def pages(where):
    """Lists come in pages."""
    cloud = client(where)
    for number in range(53):
        cloud.firewalls.create(f"page-{number}")
    found = cloud.firewalls.get_list(per_page=25, page=3)
    assert found.meta.pagination.last_page == 3 and len(found.firewalls) == 3
    every = cloud.firewalls.get_all()
    assert len(every) == 53
    for firewall in every:
        firewall.delete()


if __name__ == "__main__":
    main()
