//! Things with a name and our mark: made so that a lost answer does no harm, found again, removed, and never mistaken for others'.

use super::api::{Api, Budget, Failure};
use super::types::{Action, Labels, Plain};
use super::{OWNER_LABEL, encode};
use crate::error::Result;
use crate::ledger::Resource;
use crate::machine::journal::Journal;
use crate::progress::{Silent, Step};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Server,
    Firewall,
    Address,
    Key,
    Image,
}

/// The member of a record in which the provider's number for a thing is kept.
pub(super) const NUMBER: &str = "id";
/// How long removing a server may take.
const SERVER_REMOVAL: Duration = Duration::from_secs(180);
/// How long removing anything else may take: its server went before it, so nothing holds it for long.
const REMOVAL: Duration = Duration::from_secs(10);
/// How often something is looked for of which only the intent is known, and how long in between: it may show late.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(700);

impl What {
    pub(super) const ALL: [What; 5] = [What::Server, What::Firewall, What::Address, What::Key, What::Image];

    /// In the record and in sentences.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            What::Server => "server",
            What::Firewall => "firewall",
            What::Address => "address",
            What::Key => "ssh-key",
            What::Image => "image",
        }
    }

    pub(super) fn of(resource: &Resource) -> Option<What> {
        What::ALL.into_iter().find(|what| what.as_str() == resource.what)
    }

    /// The path of its list, and the name of the list in answers.
    pub(super) fn list(self) -> &'static str {
        match self {
            What::Server => "servers",
            What::Firewall => "firewalls",
            What::Address => "primary_ips",
            What::Key => "ssh_keys",
            What::Image => "images",
        }
    }

    /// Its name in the answer to its making.
    fn one(self) -> &'static str {
        match self {
            What::Server => "server",
            What::Firewall => "firewall",
            What::Address => "primary_ip",
            What::Key => "ssh_key",
            What::Image => "image",
        }
    }
}

/// Whether labels say that a thing is this owner's.
pub(super) fn is_ours(labels: &Labels, owner: &str) -> bool {
    labels.get(OWNER_LABEL).is_some_and(|found| found == owner)
}

/// The number that the provider gave, once it is known.
pub(super) fn number(resource: &Resource) -> Option<u64> {
    resource.detail.get(NUMBER).and_then(Value::as_u64)
}

/// A thing by its name.
async fn by_name(api: &Api, what: What, name: &str) -> Result<Option<Plain>, Failure> {
    let found: Vec<Plain> = match what {
        // Snapshots have no name; theirs is in the description.
        What::Image => api.list(what.list(), &format!("&type=snapshot&label_selector={}", encode(OWNER_LABEL))).await?,
        _ => api.list(what.list(), &format!("&name={}", encode(name))).await?,
    };
    Ok(found.into_iter().find(|thing| thing.name() == Some(name)))
}

/// Makes a thing, recorded before and after. One of that name that bears our mark is ours: an answer was lost on its way.
pub(super) async fn make(
    api: &Api,
    journal: &Journal<'_>,
    (what, resource): (What, &Resource),
    owner: &str,
    body: &Value,
) -> Result<(u64, Vec<Action>)> {
    journal.intend(resource)?;
    let (id, actions) = match api.post::<Value>(&format!("/{}", what.list()), body).await {
        Ok(answer) => {
            let id = answer[what.one()]["id"].as_u64();
            let id = id.ok_or_else(|| super::unreadable(what.as_str()))?;
            (id, actions_in(&answer))
        }
        Err(failure) if failure.is("uniqueness_error") => match late(api, what, &resource.name).await? {
            Some(found) if is_ours(&found.labels, owner) => (found.id, Vec::new()),
            _ => return Err(failure.into()),
        },
        Err(failure) => return Err(failure.into()),
    };
    journal.made(resource, Map::from_iter([(NUMBER.to_owned(), json!(id))]))?;
    Ok((id, actions))
}

pub(super) fn actions_in(answer: &Value) -> Vec<Action> {
    let one = answer.get("action").into_iter();
    let more = ["actions", "next_actions"].into_iter().filter_map(|key| answer.get(key)?.as_array()).flatten();
    one.chain(more).filter_map(|action| Action::deserialize(action).ok()).collect()
}

/// A thing by its name that may not show yet.
async fn late(api: &Api, what: What, name: &str) -> Result<Option<Plain>, Failure> {
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        if let Some(found) = by_name(api, what, name).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Removes a thing if it is there and ours; done when it is gone.
pub(super) async fn remove(api: &Api, what: What, resource: &Resource, owner: &str) -> Result<()> {
    let found = match number(resource) {
        Some(id) => by_number(api, what, id).await?,
        None => late(api, what, &resource.name).await?,
    };
    match found {
        Some(thing) if is_ours(&thing.labels, owner) => remove_number(api, what, thing.id, &Silent).await,
        _ => Ok(()),
    }
}

pub(super) async fn by_number(api: &Api, what: What, id: u64) -> Result<Option<Plain>, Failure> {
    match api.get::<Value>(&format!("/{}/{id}", what.list())).await {
        Ok(answer) => Ok(Plain::deserialize(&answer[what.one()]).ok()),
        Err(failure) if failure.is("not_found") => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Removes what is known to be ours.
pub(super) async fn remove_number(api: &Api, what: What, id: u64, step: &dyn Step) -> Result<()> {
    let path = format!("/{}/{id}", what.list());
    let budget = Budget::new("to remove something", if what == What::Server { SERVER_REMOVAL } else { REMOVAL });
    match api.when_free(budget, || api.delete(&path)).await {
        Ok(Some(action)) => api.finish(action, budget, step).await,
        Ok(None) => Ok(()),
        Err(failure) if failure.is("not_found") => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}
