//! What stands at providers, beside what the ledger says: machines that are gone or elsewhere, and things that nobody remembers.

use super::Kind;
use super::provider::Found;
use crate::config::Label;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::{Machine, Resource};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long one provider may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The machine it is about, as far as that is known.
    pub label: Option<Label>,
    /// What, where and under which name: `provider/what/place/name`; the provider alone where it could not be asked.
    pub id: String,
    /// What differs, in words.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Compares what the providers have with the ledger. Only those are asked where this owner has or had something. One that does not
/// answer is told as such: it takes nothing from what the others say.
pub async fn drift(cx: &Context) -> Result<Vec<Drift>> {
    let (machines, resources) = (cx.ledger()?.machines()?, cx.ledger()?.resources("machine/")?);
    let names = machines.iter().map(|machine| &machine.provider).chain(resources.iter().map(|resource| &resource.provider));
    let kinds: BTreeSet<&str> = names.map(String::as_str).collect();
    let mut found = Vec::new();
    for kind in kinds.into_iter().filter_map(|name| name.parse::<Kind>().ok()) {
        let provider = kind.provider(cx);
        match tokio::time::timeout(PATIENCE, provider.survey()).await.unwrap_or_else(|_| Err(silent(kind))) {
            Ok(there) => found.extend(compare(kind, &there, &machines, &resources)),
            Err(error) => found.push(Drift {
                label: None,
                id: kind.to_string(),
                what: format!("could not be asked: {}", error.message()),
                hint: error.hint_text().map_or_else(|| format!("portdistrict machine doctor --on {kind}"), str::to_owned),
            }),
        }
    }
    Ok(found)
}

fn silent(kind: Kind) -> Error {
    Error::new(Code::TimedOut, format!("no answer within {} seconds", PATIENCE.as_secs()))
        .hint(format!("portdistrict machine doctor --on {kind}"))
}

fn compare(kind: Kind, there: &[Found], machines: &[Machine], resources: &[Resource]) -> Vec<Drift> {
    let known: BTreeSet<String> = resources.iter().map(Resource::id).collect();
    let mut all = Vec::new();
    for found in there {
        let label = found.label.clone();
        let machine = machines.iter().find(|machine| machine.provider == kind.as_str() && Some(&machine.label) == label.as_ref());
        if !known.contains(&found.id) {
            let what = "stands there under your mark, and is not in this ledger".to_owned();
            let hint = "another device of yours may know it: import its ledger; else remove it at the provider".to_owned();
            all.push(Drift { label, id: found.id.clone(), what, hint });
        } else if let Some((machine, address)) = machine.and_then(|machine| Some((machine, elsewhere(machine, found)?))) {
            let what = format!("answers at {address} now, and is recorded at {}", machine.address.as_deref().unwrap_or_default());
            let hint = format!("portdistrict machine reconnect {}", machine.label);
            all.push(Drift { label, id: found.id.clone(), what, hint });
        }
    }
    let there: BTreeSet<&str> = there.iter().map(|found| found.id.as_str()).collect();
    for resource in resources.iter().filter(|resource| resource.provider == kind.as_str() && resource.made) {
        if !there.contains(resource.id().as_str()) {
            let label: Option<Label> = resource.act.strip_prefix("machine/").and_then(|label| label.parse().ok());
            let hint = label.as_ref().map_or_else(String::new, |label| format!("portdistrict machine destroy {label}"));
            all.push(Drift { label, id: resource.id(), what: "was made, and is gone from the provider".to_owned(), hint });
        }
    }
    all
}

/// The address at which a machine is found, if it is none of those that are recorded.
fn elsewhere(machine: &Machine, found: &Found) -> Option<IpAddr> {
    let recorded: IpAddr = machine.address.as_deref()?.parse::<SocketAddr>().ok()?.ip();
    if found.addresses.contains(&recorded) { None } else { found.addresses.first().copied() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Paths;
    use crate::keyring::Unlock;
    use crate::ledger::B64;
    use crate::ledger::kinds::MachineDeployed;
    use crate::machine::Journal;
    use serde_json::Map;

    fn found(label: &str, id: &str, address: &str) -> Found {
        Found { label: label.parse().ok(), id: id.to_owned(), power: None, addresses: vec![address.parse().unwrap()] }
    }

    #[test]
    fn each_difference_has_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let cx = Context::new(Paths::find(Some(dir.path())).unwrap(), Unlock::default());
        cx.init().unwrap();
        let label: Label = "home".parse().unwrap();
        let journal = Journal::of_machine(&cx, &label);
        let (rule, server) = (journal.resource(Kind::Gce, "firewall", "p", "f"), journal.resource(Kind::Gce, "instance", "p/z", "i"));
        for resource in [&rule, &server] {
            journal.intend(resource).unwrap();
            journal.made(resource, Map::new()).unwrap();
        }
        let deployed = MachineDeployed {
            label,
            provider: "gce".to_owned(),
            address: Some("192.0.2.1:4433".to_owned()),
            node_key: None,
            owner: B64([1; 32]),
            cover: None,
            dir: None,
            detail: Map::new(),
        };
        cx.record(&deployed).unwrap();
        let (machines, resources) = (cx.ledger().unwrap().machines().unwrap(), cx.ledger().unwrap().resources("machine/").unwrap());
        let words = |there: &[Found]| -> Vec<String> {
            compare(Kind::Gce, there, &machines, &resources).into_iter().map(|drift| format!("{}: {}", drift.id, drift.what)).collect()
        };
        let both = [found("home", &rule.id(), "192.0.2.1"), found("home", &server.id(), "192.0.2.1")];
        assert_eq!(words(&both), Vec::<String>::new());
        assert_eq!(words(&both[1..]), ["gce/firewall/p/f: was made, and is gone from the provider"]);
        let moved = [both[0].clone(), found("home", &server.id(), "192.0.2.9")];
        assert_eq!(words(&moved), ["gce/instance/p/z/i: answers at 192.0.2.9 now, and is recorded at 192.0.2.1:4433"]);
        let more = [both[0].clone(), both[1].clone(), found("attic", "gce/instance/p/z/x", "192.0.2.2")];
        assert_eq!(words(&more), ["gce/instance/p/z/x: stands there under your mark, and is not in this ledger"]);
        // Another provider's things are not missed here.
        assert!(compare(Kind::Hetzner, &[], &machines, &resources).is_empty());
    }
}
