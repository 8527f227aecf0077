//! Compute Engine's words: the places things are in, whose they are, and the requests with their bodies. No network here.

pub use super::answers::{Aggregated, Identity, Image, Metadata, Page, Quotas, SerialOutput, State, Thing};
use crate::config::Label;
use crate::error::{Code, Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The instance's attribute from which a node takes what it is to be.
pub const CONFIG: &str = "portdistrict-config";
/// The label that says whose something is, and the one that says of which machine.
pub const OWNER: &str = "portdistrict";
/// See [`OWNER`].
pub const MACHINE: &str = "portdistrict-machine";
/// The network that every project begins with.
pub const NETWORK: &str = "global/networks/default";
/// The smallest disk that Compute Engine makes.
const DISK_GB: &str = "10";
/// Google takes names of up to 63 characters (RFC 1035); longer things in paths are nobody's.
const MAX_NAME: usize = 63;

/// A zone of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    project: String,
    zone: String,
}

impl Place {
    /// Checked, since both become part of addresses.
    pub fn new(project: &str, zone: &str) -> Result<Place> {
        check_project(project)?;
        let parts: Vec<&str> = zone.split('-').collect();
        let good = matches!(&parts[..], [.., region, letter] if letter.len() == 1 && region.ends_with(|c: char| c.is_ascii_digit()));
        if !good || !is_name(zone) {
            return Err(Error::new(Code::Usage, format!("{zone:?} is no zone of Google's")).hint("as in --zone europe-west4-a"));
        }
        Ok(Place { project: project.to_owned(), zone: zone.to_owned() })
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The zone.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The region that the zone is in.
    pub fn region(&self) -> &str {
        self.zone.rsplit_once('-').map_or(&self.zone, |(region, _)| region)
    }
}

/// Projects are named by 6 to 30 of `a-z`, `0-9` and `-`; old ones have a domain and a colon before.
pub fn check_project(project: &str) -> Result<()> {
    let (domain, name) = project.rsplit_once(':').unwrap_or(("", project));
    let plain = |text: &str, also: char| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == also);
    if (2..=MAX_NAME).contains(&name.len()) && plain(name, '-') && domain.len() <= MAX_NAME && plain(domain, '.') {
        return Ok(());
    }
    Err(Error::new(Code::Usage, format!("{project:?} is no project of Google's")).hint("gcloud projects list --format 'value(projectId)'"))
}

/// Whether Google takes this for a name (RFC 1035).
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Sorts of things that a deploy makes, each with its place in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A firewall rule, of the whole project.
    Firewall,
    /// A reserved address, of a region.
    Address,
    /// A virtual machine with its disk, of a zone.
    Instance,
}

impl Sort {
    /// Every sort, in the order in which they are made.
    pub const ALL: [Sort; 3] = [Sort::Firewall, Sort::Address, Sort::Instance];

    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Sort::Firewall => "firewall",
            Sort::Address => "address",
            Sort::Instance => "instance",
        }
    }

    /// The one of that name.
    pub fn parse(text: &str) -> Option<Sort> {
        Sort::ALL.into_iter().find(|sort| sort.as_str() == text)
    }

    /// Where things of this sort are for a machine of a zone.
    pub fn at(self, place: &Place) -> Spot {
        let scope = match self {
            Sort::Firewall => "",
            Sort::Address => place.region(),
            Sort::Instance => place.zone(),
        };
        Spot { sort: self, project: place.project.clone(), scope: scope.to_owned() }
    }
}

/// Where things of one sort are: in a project, or in a region or a zone of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    sort: Sort,
    project: String,
    scope: String,
}

impl Spot {
    /// From what a record says: `project`, or `project/region`, or `project/zone`.
    pub fn parse(sort: &str, place: &str) -> Result<Spot> {
        let bad = || Error::new(Code::Ledger, format!("{place:?} is no place of a {sort:?} at Google")).hint("portdistrict ledger verify");
        let sort = Sort::parse(sort).ok_or_else(bad)?;
        let (project, scope) = place.split_once('/').unwrap_or((place, ""));
        if (sort == Sort::Firewall) != scope.is_empty() || !(scope.is_empty() || is_name(scope)) {
            return Err(bad());
        }
        check_project(project)?;
        Ok(Spot { sort, project: project.to_owned(), scope: scope.to_owned() })
    }

    /// As a record has it.
    pub fn in_words(&self) -> String {
        if self.scope.is_empty() { self.project.clone() } else { format!("{}/{}", self.project, self.scope) }
    }

    /// The sort.
    pub fn sort(&self) -> Sort {
        self.sort
    }

    /// The project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The path of what holds them, below `compute/v1/`.
    fn scope(&self) -> String {
        let Spot { sort, project, scope } = self;
        match sort {
            Sort::Firewall => format!("projects/{project}/global"),
            Sort::Address => format!("projects/{project}/regions/{scope}"),
            Sort::Instance => format!("projects/{project}/zones/{scope}"),
        }
    }

    /// The path of where they are made and listed.
    pub fn collection(&self) -> String {
        let name = match self.sort {
            Sort::Firewall => "firewalls",
            Sort::Address => "addresses",
            Sort::Instance => "instances",
        };
        format!("{}/{name}", self.scope())
    }

    /// The path of the operations about them.
    pub fn operations(&self) -> String {
        format!("{}/operations", self.scope())
    }

    /// The command with which a person removes one.
    pub fn removal(&self, name: &str) -> String {
        let Spot { sort, project, scope } = self;
        match sort {
            Sort::Firewall => format!("gcloud compute firewall-rules delete {name} --project {project}"),
            Sort::Address => format!("gcloud compute addresses delete {name} --region {scope} --project {project}"),
            Sort::Instance => format!("gcloud compute instances delete {name} --zone {scope} --project {project}"),
        }
    }
}

/// What marks things as made for a machine of an owner. Nothing without it is ever changed or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    owner: String,
    label: Label,
}

impl Mark {
    /// Of an owner's node id.
    pub fn new(owner: &str, label: &Label) -> Mark {
        Mark { owner: owner.to_ascii_lowercase(), label: label.clone() }
    }

    /// For what has labels.
    pub fn labels(&self) -> BTreeMap<String, String> {
        [(OWNER, self.owner.as_str()), (MACHINE, self.label.as_str())].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// For what has none, and for people.
    pub fn description(&self) -> String {
        format!("portdistrict {} {}", self.owner, self.label)
    }

    /// Whether something bears it: in its labels where it has any, else in its description.
    pub fn is_on(&self, thing: &Thing) -> bool {
        match thing.labels.get(OWNER) {
            Some(owner) => *owner == self.owner && thing.labels.get(MACHINE).is_some_and(|label| label == self.label.as_str()),
            None => thing.description == self.description(),
        }
    }
}

/// The machine that something says it was made for, if it says so under this owner's mark.
pub fn machine_of(owner: &str, thing: &Thing) -> Option<Label> {
    let owner = owner.to_ascii_lowercase();
    let named = match thing.labels.get(OWNER) {
        Some(found) if *found == owner => thing.labels.get(MACHINE).map(String::as_str),
        Some(_) => None,
        None => thing.description.strip_prefix("portdistrict ").and_then(|rest| rest.strip_prefix(&owner)?.strip_prefix(' ')),
    };
    named?.parse().ok()
}

/// A request to Compute Engine: what `--dry-run` prints is what is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The method of HTTP.
    pub method: &'static str,
    /// Path and query below `compute/v1/`.
    pub path: String,
    /// What is sent along.
    pub body: Option<Value>,
    /// Whether it may be sent a second time: it changes nothing, or bears an id by which Google knows it again.
    pub repeats: bool,
}

impl Call {
    fn new(method: &'static str, path: String, body: Option<Value>) -> Call {
        Call { method, path, body, repeats: true }
    }

    /// Makes something; `request` is the id by which Google knows a repeated request.
    pub fn insert(spot: &Spot, request: &str, body: Value) -> Call {
        Call::new("POST", format!("{}?requestId={request}", spot.collection()), Some(body))
    }

    /// Reads something.
    pub fn get(spot: &Spot, name: &str) -> Call {
        Call::new("GET", format!("{}/{name}", spot.collection()), None)
    }

    /// Removes something.
    pub fn delete(spot: &Spot, name: &str, request: &str) -> Call {
        Call::new("DELETE", format!("{}/{name}?requestId={request}", spot.collection()), None)
    }

    /// Starts, stops or resets an instance.
    pub fn act(spot: &Spot, name: &str, verb: &str, request: &str) -> Call {
        Call::new("POST", format!("{}/{name}/{verb}?requestId={request}", spot.collection()), None)
    }

    /// Changes an instance's attributes.
    pub fn set_metadata(spot: &Spot, name: &str, request: &str, body: Value) -> Call {
        Call::new("POST", format!("{}/{name}/setMetadata?requestId={request}", spot.collection()), Some(body))
    }

    /// What an instance's console printed from a byte on.
    pub fn serial(spot: &Spot, name: &str, start: u64) -> Call {
        Call::new("GET", format!("{}/{name}/serialPort?port=1&start={start}", spot.collection()), None)
    }

    /// The keys of an instance's vTPM.
    pub fn identity(spot: &Spot, name: &str) -> Call {
        Call::new("GET", format!("{}/{name}/getShieldedInstanceIdentity", spot.collection()), None)
    }

    /// Waits for an operation, as long as Google lets one wait.
    pub fn wait(spot: &Spot, operation: &str) -> Call {
        Call::wait_at(&spot.operations(), operation)
    }

    /// The same for an operation of this place: `projects/…/operations`.
    pub fn wait_at(place: &str, operation: &str) -> Call {
        Call::new("POST", format!("{place}/{operation}/wait"), None)
    }

    /// The operations that a request began.
    pub fn operations_of(spot: &Spot, request: &str) -> Call {
        Call::new("GET", format!("{}?filter=clientOperationId%3D{request}", spot.operations()), None)
    }

    /// An image of the project.
    pub fn image(project: &str, name: &str) -> Call {
        Call::new("GET", format!("projects/{project}/global/images/{name}"), None)
    }

    /// The newest image of a family that is not deprecated.
    pub fn newest_image(project: &str, family: &str) -> Call {
        Call::new("GET", format!("projects/{project}/global/images/family/{family}"), None)
    }

    /// All instances that bear an owner's label.
    pub fn all_instances(project: &str, owner: &str, page: Option<&str>) -> Call {
        let filter = format!("labels.{OWNER}%3D{}", owner.to_ascii_lowercase());
        Call::new("GET", paged(format!("projects/{project}/aggregated/instances?filter={filter}"), page), None)
    }

    /// All reserved addresses.
    pub fn all_addresses(project: &str, page: Option<&str>) -> Call {
        Call::new("GET", paged(format!("projects/{project}/aggregated/addresses?maxResults=500"), page), None)
    }

    /// All firewall rules.
    pub fn all_firewalls(project: &str, page: Option<&str>) -> Call {
        Call::new("GET", paged(format!("projects/{project}/global/firewalls?maxResults=500"), page), None)
    }

    /// Anything else that is only looked at.
    pub fn look(path: String) -> Call {
        Call::new("GET", path, None)
    }
}

fn paged(path: String, page: Option<&str>) -> String {
    match page {
        // Tokens are Google's own words; nothing in them may end the query.
        Some(page) => format!(
            "{path}&pageToken={}",
            page.replace('%', "%25").replace('&', "%26").replace('=', "%3D").replace('+', "%2B").replace('#', "%23")
        ),
        None => path,
    }
}

/// How an instance is to be made.
#[derive(Clone, Debug)]
pub struct NewInstance<'a> {
    /// Where.
    pub place: &'a Place,
    /// Its name, which is its network tag, too.
    pub name: &'a str,
    /// Whose it is.
    pub mark: &'a Mark,
    /// The path of its image: `projects/P/global/images/NAME`.
    pub image: &'a str,
    /// Its machine type.
    pub size: &'a str,
    /// Encrypt its memory (AMD SEV-SNP).
    pub confidential: bool,
    /// The reserved address that it gets.
    pub address: Option<&'a str>,
    /// The document that tells the node what it is to be.
    pub config: &'a str,
}

impl NewInstance<'_> {
    /// The body of `instances.insert`.
    pub fn body(&self) -> Value {
        let zone = self.place.zone();
        let mut nat = json!({"name": "External NAT", "type": "ONE_TO_ONE_NAT", "networkTier": "PREMIUM"});
        if let Some(address) = self.address {
            nat["natIP"] = address.into();
        }
        let mut body = json!({
            "name": self.name,
            "description": self.mark.description(),
            "machineType": format!("zones/{zone}/machineTypes/{}", self.size),
            "labels": self.mark.labels(),
            "tags": {"items": [self.name]},
            "disks": [{
                "boot": true,
                "autoDelete": true,
                "type": "PERSISTENT",
                "initializeParams": {
                    "sourceImage": self.image,
                    "diskType": format!("zones/{zone}/diskTypes/pd-balanced"),
                    "diskSizeGb": DISK_GB,
                    "labels": self.mark.labels(),
                },
            }],
            "networkInterfaces": [{"network": NETWORK, "nicType": "GVNIC", "accessConfigs": [nat]}],
            // What the machine is trusted with comes from its owner, never from the project that it stands in.
            "serviceAccounts": [],
            "metadata": {"items": items(self.config)},
            "scheduling": {
                "onHostMaintenance": if self.confidential { "TERMINATE" } else { "MIGRATE" },
                "automaticRestart": true,
            },
            // Secure Boot would ask for a signature of Microsoft's; the vTPM measures what is started all the same.
            "shieldedInstanceConfig": {"enableVtpm": true, "enableIntegrityMonitoring": true, "enableSecureBoot": false},
        });
        if self.confidential {
            body["confidentialInstanceConfig"] = json!({"confidentialInstanceType": "SEV_SNP"});
            body["minCpuPlatform"] = "AMD Milan".into();
        }
        body
    }
}

/// The attributes of a new instance: nobody's SSH keys are for it, and its console can be read and not typed into.
fn items(config: &str) -> Value {
    json!([
        {"key": CONFIG, "value": config},
        {"key": "block-project-ssh-keys", "value": "TRUE"},
        {"key": "serial-port-enable", "value": "FALSE"},
        {"key": "serial-port-logging-enable", "value": "TRUE"},
    ])
}

/// The body of `firewalls.insert`: one port, to the machines with one tag.
pub fn firewall(name: &str, mark: &Mark, port: u16) -> Value {
    json!({
        "name": name,
        "description": mark.description(),
        "network": NETWORK,
        "direction": "INGRESS",
        "priority": 1000,
        "sourceRanges": ["0.0.0.0/0"],
        "targetTags": [name],
        "allowed": [{"IPProtocol": "tcp", "ports": [port.to_string()]}],
    })
}

/// The body of `addresses.insert`.
pub fn address(name: &str, mark: &Mark) -> Value {
    json!({"name": name, "description": mark.description(), "addressType": "EXTERNAL", "networkTier": "PREMIUM"})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark::new("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", &"home".parse().unwrap())
    }

    #[test]
    fn places_are_checked_before_they_become_paths() {
        let place = Place::new("my-project", "us-central1-a").unwrap();
        assert_eq!(place.region(), "us-central1");
        for (sort, words, collection) in [
            (Sort::Firewall, "my-project", "projects/my-project/global/firewalls"),
            (Sort::Address, "my-project/us-central1", "projects/my-project/regions/us-central1/addresses"),
            (Sort::Instance, "my-project/us-central1-a", "projects/my-project/zones/us-central1-a/instances"),
        ] {
            let spot = sort.at(&place);
            assert_eq!((spot.in_words().as_str(), spot.collection().as_str()), (words, collection));
            assert_eq!(Spot::parse(sort.as_str(), words).unwrap(), spot);
            assert!(spot.removal("pd-x").contains(" delete pd-x ") && spot.removal("pd-x").ends_with("--project my-project"));
        }
        assert_eq!(Spot::parse("instance", "example.com:old/northamerica-northeast1-b").unwrap().project(), "example.com:old");
        for (sort, words) in [("instance", "p1"), ("firewall", "my-project/z"), ("instance", "my-project/a/b"), ("disk", "my-project")] {
            assert_eq!(Spot::parse(sort, words).unwrap_err().code(), Code::Ledger, "{sort} {words}");
        }
        for (project, zone) in [
            ("my-project", "us-central1"),
            ("my-project", "us-central1-a/.."),
            ("my-project", ""),
            ("my/project", "us-central1-a"),
            ("", "us-central1-a"),
            ("Project", "us-central1-a"),
        ] {
            let error = Place::new(project, zone).unwrap_err();
            assert!(error.code() == Code::Usage && error.hint_text().is_some(), "{project} {zone}");
        }
        assert!(is_name("pd-0-1-0-abcdef") && !is_name("Pd") && !is_name("a/b") && !is_name("a-") && !is_name(&"a".repeat(64)));
    }

    #[test]
    fn a_confidential_machine_is_asked_for_as_google_wants_it() {
        let place = Place::new("my-project", "europe-west4-a").unwrap();
        let mut new = NewInstance {
            place: &place,
            name: "pd-home-abc123",
            mark: &mark(),
            image: "projects/my-project/global/images/pd-0-1-0-0123456789ab",
            size: "n2d-standard-2",
            confidential: true,
            address: Some("192.0.2.7"),
            config: "{}",
        };
        let body = new.body();
        assert_eq!(body["confidentialInstanceConfig"]["confidentialInstanceType"], "SEV_SNP");
        assert_eq!((&body["scheduling"]["onHostMaintenance"], &body["minCpuPlatform"]), (&json!("TERMINATE"), &json!("AMD Milan")));
        assert_eq!(body["serviceAccounts"], json!([]));
        assert_eq!(body["networkInterfaces"][0]["accessConfigs"][0]["natIP"], "192.0.2.7");
        assert_eq!(body["labels"], json!({"portdistrict": "abcdefghijklmnopqrstuvwxyz234567", "portdistrict-machine": "home"}));
        assert!(body["metadata"]["items"].as_array().unwrap().contains(&json!({"key": "block-project-ssh-keys", "value": "TRUE"})));
        (new.confidential, new.address) = (false, None);
        let body = new.body();
        assert_eq!((body.get("confidentialInstanceConfig"), body.get("minCpuPlatform")), (None, None));
        assert_eq!(body["networkInterfaces"][0]["accessConfigs"][0].get("natIP"), None);
        assert_eq!(body["shieldedInstanceConfig"]["enableVtpm"], true);
    }

    #[test]
    fn only_what_bears_the_mark_is_ours() {
        let thing = |description: &str, labels: &[(&str, &str)]| -> Thing {
            let labels: BTreeMap<_, _> = labels.iter().copied().collect();
            serde_json::from_value(json!({"description": description, "labels": labels})).unwrap()
        };
        let owner = "abcdefghijklmnopqrstuvwxyz234567";
        let ours = thing("", &[(OWNER, owner), (MACHINE, "home")]);
        assert!(mark().is_on(&ours) && machine_of(owner, &ours) == Some("home".parse().unwrap()));
        assert!(mark().is_on(&thing(&mark().description(), &[])));
        for foreign in [
            thing("", &[]),
            thing("portdistrict", &[]),
            thing(&format!("portdistrict {owner} home2"), &[]),
            thing("", &[(OWNER, owner)]),
            thing("", &[(OWNER, owner), (MACHINE, "other")]),
            // Labels decide where there are any: a description can be copied with an instance.
            thing(&mark().description(), &[(OWNER, "somebody"), (MACHINE, "home")]),
        ] {
            assert!(!mark().is_on(&foreign), "{foreign:?}");
        }
        assert_eq!(machine_of(owner, &thing("portdistrict somebody home", &[])), None);
    }
}
