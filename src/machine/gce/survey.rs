//! What a project really has under the owner's mark.

use super::remove::owner_of;
use super::{Found, power_of, settings};
use crate::context::Context;
use crate::error::Result;
use crate::google::Api;
use crate::google::auth::Scope;
use crate::google::compute::{Aggregated, Call, Page, Sort, Thing, machine_of};
use crate::ledger::Resource;
use crate::machine::Kind;
use std::collections::BTreeSet;

/// Lists end somewhere.
const MAX_PAGES: usize = 200;

/// Everything, in every project where something was made, and in the one that is set here.
pub(super) async fn survey(cx: &Context, owner: &str) -> Result<Vec<Found>> {
    let made: Vec<Resource> = cx.ledger()?.resources("machine/")?.into_iter().filter(|made| made.provider == Kind::Gce.as_str()).collect();
    let projects = projects(cx, &made);
    // The identity may have been rotated since something was made.
    let owners: BTreeSet<&str> = made.iter().filter_map(owner_of).chain([owner]).collect();
    let mut found = Vec::new();
    if projects.is_empty() {
        return Ok(found);
    }
    let api = Api::open(cx, &[Scope::Compute])?;
    for project in &projects {
        for owner in &owners {
            found.extend(instances(&api, project, owner).await?);
        }
        found.extend(addresses(&api, project, &owners).await?);
        found.extend(firewalls(&api, project, &owners).await?);
    }
    Ok(found)
}

fn projects(cx: &Context, made: &[Resource]) -> BTreeSet<String> {
    let named = made.iter().map(|made| made.place.split('/').next().unwrap_or_default().to_owned());
    named.chain(settings::project(cx, None).ok()).collect()
}

async fn instances(api: &Api, project: &str, owner: &str) -> Result<Vec<Found>> {
    aggregated(api, project, "list the instances", |page| Call::all_instances(project, owner, page)).await.map(|all| {
        let owners = BTreeSet::from([owner]);
        all.into_iter().filter_map(|(zone, thing)| as_found(Sort::Instance, &format!("{project}/{zone}"), &owners, &thing)).collect()
    })
}

async fn addresses(api: &Api, project: &str, owners: &BTreeSet<&str>) -> Result<Vec<Found>> {
    aggregated(api, project, "list the addresses", |page| Call::all_addresses(project, page)).await.map(|all| {
        all.into_iter().filter_map(|(region, thing)| as_found(Sort::Address, &format!("{project}/{region}"), owners, &thing)).collect()
    })
}

async fn firewalls(api: &Api, project: &str, owners: &BTreeSet<&str>) -> Result<Vec<Found>> {
    let (mut found, mut next) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page: Page = api
            .ask(&Call::all_firewalls(project, next.as_deref()))
            .await
            .map_err(|failure| failure.into_error("list the firewall rules", project))?;
        found.extend(page.items.iter().filter_map(|thing| as_found(Sort::Firewall, project, owners, thing)));
        next = page.next_page_token;
        if next.is_none() {
            break;
        }
    }
    Ok(found)
}

async fn aggregated(api: &Api, project: &str, doing: &str, call: impl Fn(Option<&str>) -> Call) -> Result<Vec<(String, Thing)>> {
    let (mut all, mut next) = (Vec::new(), None::<String>);
    for _ in 0..MAX_PAGES {
        let page: Aggregated = api.ask(&call(next.as_deref())).await.map_err(|failure| failure.into_error(doing, project))?;
        next = page.next_page_token.clone();
        all.extend(page.things());
        if next.is_none() {
            break;
        }
    }
    Ok(all)
}

/// Something, if it bears the mark of one of these.
fn as_found(sort: Sort, place: &str, owners: &BTreeSet<&str>, thing: &Thing) -> Option<Found> {
    let label = owners.iter().find_map(|owner| machine_of(owner, thing))?;
    Some(Found {
        label: Some(label),
        id: format!("{}/{}/{place}/{}", Kind::Gce, sort.as_str(), thing.name),
        power: (sort == Sort::Instance).then(|| power_of(thing)),
        addresses: thing.addresses(),
    })
}
