//! What a deploy at Google needs: credentials, project, permissions, room, an image.

use super::settings::{self, CONFIDENTIAL_SIZE, FAMILY, SIZE};
use crate::context::Context;
use crate::error::Result;
use crate::google::auth::Scope;
use crate::google::compute::{Call, Image, NETWORK, Place, Quotas};
use crate::google::refusal::permit;
use crate::google::{Api, Failure};
use crate::machine::check::Check;
use serde_json::Value;

/// All that deploying, looking after and destroying a machine needs, and nothing else (`docs/providers.md` has the same list).
pub(super) const PERMISSIONS: [&str; 39] = [
    "compute.addresses.create",
    "compute.addresses.delete",
    "compute.addresses.get",
    "compute.addresses.list",
    "compute.addresses.use",
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.firewalls.create",
    "compute.firewalls.delete",
    "compute.firewalls.get",
    "compute.firewalls.list",
    "compute.globalOperations.get",
    "compute.globalOperations.list",
    "compute.images.get",
    "compute.images.getFromFamily",
    "compute.images.useReadOnly",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.getSerialPortOutput",
    "compute.instances.getShieldedInstanceIdentity",
    "compute.instances.list",
    "compute.instances.reset",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setTags",
    "compute.instances.start",
    "compute.instances.stop",
    "compute.machineTypes.get",
    "compute.networks.get",
    "compute.networks.updatePolicy",
    "compute.projects.get",
    "compute.regionOperations.get",
    "compute.regionOperations.list",
    "compute.regions.get",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
    "compute.zoneOperations.list",
];

/// What a machine takes of what a region has, by Google's names.
const NEEDS: [(&str, f64); 3] = [("CPUS", 2.0), ("INSTANCES", 1.0), ("IN_USE_ADDRESSES", 1.0)];
const CONFIDENTIAL_NEEDS: (&str, f64) = ("N2D_CPUS", 2.0);

/// One finding after the other; what cannot be looked at without an earlier one is left out.
pub(super) async fn checks(cx: &Context) -> Vec<Check> {
    let mut checks = Vec::new();
    let place = settings::project(cx, None).and_then(|project| Place::new(&project, &settings::zone(cx, None)?));
    let place = match place {
        Ok(place) => place,
        Err(error) => {
            checks.push(Check::failed("project and zone", &error));
            return checks;
        }
    };
    checks.push(Check::pass("project and zone", format!("{} in {}", place.project(), place.zone())));
    match Api::open(cx, &[Scope::Compute, Scope::Projects]) {
        Ok(api) => {
            checks.push(Check::pass("credentials", api.who()));
            look(&api, &place, &mut checks).await;
        }
        Err(error) => checks.push(Check::failed("credentials", &error)),
    }
    checks
}

async fn look(api: &Api, place: &Place, checks: &mut Vec<Check>) {
    let project = place.project();
    let whole = api.ask::<Quotas>(&Call::look(format!("projects/{project}"))).await;
    match whole {
        Ok(quotas) => {
            checks.push(Check::pass("compute engine", format!("answers for project {project}")));
            checks.push(room("firewall rules", &quotas, &[("FIREWALLS", 1.0)], project));
        }
        Err(failure) => {
            checks.push(Check::failed("compute engine", &failure.into_error("show the project", project)));
            return;
        }
    }
    checks.push(permissions(api, project).await);
    let there = |name, found: Result<Value, Failure>, words: String, doing: &str| match found {
        Ok(_) => Check::pass(name, words),
        Err(failure) => Check::failed(name, &failure.into_error(doing, project)),
    };
    checks.push(match api.ask::<Value>(&Call::look(format!("projects/{project}/{NETWORK}"))).await {
        Err(failure) if failure.is_missing() => {
            let make = format!("gcloud compute networks create default --subnet-mode auto --project {project}");
            Check::fail("network", "the project has no network default", make)
        }
        found => there("network", found, "default".to_owned(), "show the network default"),
    });
    for (name, size) in [("machine type", SIZE), ("confidential machine type", CONFIDENTIAL_SIZE)] {
        let found = api.ask(&Call::look(format!("projects/{project}/zones/{}/machineTypes/{size}", place.zone()))).await;
        checks.push(there(name, found, format!("{size} in {}", place.zone()), &format!("show the machine type {size}")));
    }
    match api.ask::<Quotas>(&Call::look(format!("projects/{project}/regions/{}", place.region()))).await {
        Ok(quotas) => {
            checks.push(room("room in the region", &quotas, &NEEDS, project));
            checks.push(room("room for confidential machines", &quotas, &[CONFIDENTIAL_NEEDS], project));
            checks.push(room("room for static addresses", &quotas, &[("STATIC_ADDRESSES", 1.0)], project));
        }
        Err(failure) => checks.push(Check::failed("room in the region", &failure.into_error("show the region", project))),
    }
    checks.push(match api.ask::<Image>(&Call::newest_image(project, FAMILY)).await {
        Ok(image) => Check::pass("image", format!("{} is the newest", image.name)),
        Err(failure) if failure.is_missing() => Check::fail(
            "image",
            format!("none of the family {FAMILY} was published in project {project}"),
            "portdistrict machine build -o out && portdistrict machine publish out",
        ),
        Err(failure) => Check::failed("image", &failure.into_error("show the newest image", project)),
    });
}

async fn permissions(api: &Api, project: &str) -> Check {
    match api.permitted(project, &PERMISSIONS).await {
        Ok(have) => {
            let missing: Vec<&str> = PERMISSIONS.into_iter().filter(|wanted| !have.iter().any(|have| have == wanted)).collect();
            match missing.is_empty() {
                true => Check::pass("permissions", format!("all {} that machines need", PERMISSIONS.len())),
                false => Check::fail("permissions", format!("missing: {}", missing.join(", ")), permit(&missing.join(","), project)),
            }
        }
        // To ask for one's permissions can itself be forbidden, or switched off: what is missing then shows when it is needed.
        Err(Failure::Refused(refusal)) => Check::skip("permissions", format!("Google does not tell: {}", refusal.message)),
        Err(Failure::Broken(error)) => Check::failed("permissions", &error),
    }
}

/// Whether there is room for one more machine; what Google does not limit here is no limit.
fn room(name: &str, quotas: &Quotas, needs: &[(&str, f64)], project: &str) -> Check {
    let full: Vec<&str> =
        needs.iter().filter(|(metric, need)| quotas.room(metric).is_some_and(|room| room < *need)).map(|(metric, _)| *metric).collect();
    if full.is_empty() {
        return Check::pass(name, "there is");
    }
    Check::fail(
        name,
        format!("used up: {}", full.join(", ")),
        format!("remove a machine, or ask for more: https://console.cloud.google.com/iam-admin/quotas?project={project}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_in_the_documentation_is_the_one_that_is_needed() {
        let role = include_str!("../../../docs/providers.md");
        let missing: Vec<_> = PERMISSIONS.into_iter().filter(|permission| !role.contains(permission)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(PERMISSIONS.is_sorted());
    }

    #[test]
    fn what_is_used_up_is_named() {
        let quotas: Quotas = serde_json::from_str(r#"{"quotas": [{"metric": "CPUS", "limit": 24, "usage": 23}]}"#).unwrap();
        let check = room("room", &quotas, &NEEDS, "p");
        assert_eq!(check.detail, "used up: CPUS");
        assert!(check.remedy.unwrap().contains("project=p"));
    }
}
