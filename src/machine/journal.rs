//! What an act makes at a provider, recorded before each call: so that whatever happens in between, it can be found and removed.

use super::Kind;
use crate::config::Label;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::ledger::Resource;
use crate::ledger::kinds::{ResourceIntended, ResourceMade, ResourceRemoved};
use crate::progress::Progress;
use serde_json::{Map, Value};
use std::fmt;

/// The record of one act: a machine's deploy, or the publishing of an image.
pub struct Journal<'c> {
    cx: &'c Context,
    act: String,
}

impl<'c> Journal<'c> {
    /// Of a machine, from its deploy until it is destroyed.
    pub fn of_machine(cx: &'c Context, label: &Label) -> Journal<'c> {
        Journal { cx, act: format!("machine/{label}") }
    }

    /// Of an image that is published.
    pub fn of_image(cx: &'c Context, name: &str) -> Journal<'c> {
        Journal { cx, act: format!("image/{name}") }
    }

    /// What may be at the provider: intended, and not removed since. In the order of the intents.
    pub fn open(&self) -> Result<Vec<Resource>> {
        self.cx.ledger()?.resources(&self.act)
    }

    /// The first one of a sort.
    pub fn find(&self, what: &str) -> Result<Option<Resource>> {
        Ok(self.open()?.into_iter().find(|resource| resource.what == what))
    }

    /// Something of this act, to be told to the other methods.
    pub fn resource(&self, on: Kind, what: &str, place: &str, name: &str) -> Resource {
        let (provider, detail) = (on.as_str().to_owned(), Map::new());
        Resource {
            act: self.act.clone(),
            provider,
            what: what.to_owned(),
            place: place.to_owned(),
            name: name.to_owned(),
            made: false,
            detail,
        }
    }

    /// It is about to be made. Durable when this returns: the call may be sent. Said twice, it is written once.
    pub fn intend(&self, resource: &Resource) -> Result<()> {
        if self.open()?.iter().any(|known| known.id() == resource.id()) {
            return Ok(());
        }
        let Resource { act, provider, what, place, name, detail, .. } = resource.clone();
        self.cx.record(&ResourceIntended { id: resource.id(), act, provider, what, place, name, detail }).map(drop)
    }

    /// The provider has made it, and this is what it said.
    pub fn made(&self, resource: &Resource, detail: Map<String, Value>) -> Result<()> {
        self.cx.record(&ResourceMade { id: resource.id(), detail }).map(drop)
    }

    /// It is gone, or never came to be.
    pub fn removed(&self, resource: &Resource) -> Result<()> {
        self.cx.record(&ResourceRemoved { id: resource.id() }).map(drop)
    }
}

/// Something that could not be removed, and why.
#[derive(Debug)]
pub struct Left {
    /// What is still there.
    pub resource: Resource,
    /// Why.
    pub error: Error,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is still there: {}", in_words(&self.resource), self.error.message())
    }
}

/// `instance pd-home-7k2m9x in my-project/us-central1-a`.
pub(super) fn in_words(resource: &Resource) -> String {
    match resource.place.as_str() {
        "" => format!("{} {} at {}", resource.what, resource.name, resource.provider),
        place => format!("{} {} in {place} at {}", resource.what, resource.name, resource.provider),
    }
}

/// Removes what an act made, the last first. What cannot be removed stays in the record, and is told; the rest is removed all the same.
pub(super) async fn undo(journal: &Journal<'_>, progress: &dyn Progress) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    for resource in journal.open()?.into_iter().rev() {
        let step = progress.step(&format!("remove {} {}", resource.what, resource.name));
        let kind: Kind = resource.provider.parse()?;
        match kind.provider(journal.cx).remove(&resource).await {
            Ok(()) => {
                journal.removed(&resource)?;
                step.done();
            }
            Err(error) => left.push(Left { resource, error }),
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Paths;
    use crate::keyring::Unlock;
    use serde_json::json;

    #[test]
    fn what_was_intended_is_known_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Paths::find(Some(dir.path())).unwrap(), Unlock::default());
        cx.init().unwrap();
        let (home, other) = (Journal::of_machine(&cx, &"home".parse().unwrap()), Journal::of_image(&cx, "pd-1"));
        let rule = home.resource(Kind::Gce, "firewall", "p", "pd-home-1");
        let instance = home.resource(Kind::Gce, "instance", "p/z", "pd-home-1");
        assert_eq!(instance.id(), "gce/instance/p/z/pd-home-1");
        for resource in [&rule, &instance, &rule] {
            home.intend(resource).unwrap();
        }
        other.intend(&other.resource(Kind::Gce, "image", "p", "pd-1")).unwrap();
        assert_eq!(
            home.open().unwrap().iter().map(|r| (r.what.as_str(), r.made)).collect::<Vec<_>>(),
            [("firewall", false), ("instance", false)]
        );
        assert_eq!(cx.ledger().unwrap().resources("machine/").unwrap().len(), 2);

        home.made(&instance, Map::from_iter([("number".to_owned(), json!("7"))])).unwrap();
        let known = home.find("instance").unwrap().unwrap();
        assert!(known.made && known.detail["number"] == "7");
        home.removed(&instance).unwrap();
        assert_eq!(home.find("instance").unwrap(), None);
        assert_eq!(home.open().unwrap(), [rule]);
        // Made anew from the spans, the table says the same.
        assert!(cx.ledger().unwrap().verify().unwrap().is_ok());
    }
}
