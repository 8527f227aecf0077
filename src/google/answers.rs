//! What is read of Compute Engine's answers: as much as is needed, and nothing is expected of the rest.

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What is read of a firewall rule, an address or an instance; what a sort does not have is empty.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Thing {
    /// Its name.
    pub name: String,
    /// What its maker wrote.
    pub description: String,
    /// What its maker wrote, by name.
    pub labels: BTreeMap<String, String>,
    /// How it is, in Google's words.
    pub status: String,
    /// The address that is reserved.
    pub address: Option<IpAddr>,
    /// What it is told.
    pub metadata: Metadata,
    network_interfaces: Vec<Interface>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct Interface {
    access_configs: Vec<Nat>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Nat {
    #[serde(rename = "natIP")]
    nat_ip: Option<String>,
}

/// An instance's attributes, and the mark of this state of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Metadata {
    /// Changes with every change; an update names the one that it saw.
    pub fingerprint: String,
    /// The attributes.
    pub items: Vec<Item>,
}

/// One attribute.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Item {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Metadata {
    /// The body of `instances.setMetadata` that sets one attribute and leaves the others; none if it has that value already.
    pub fn with(&self, key: &str, value: &str) -> Option<Value> {
        if self.items.iter().any(|item| item.key == key && item.value == value) {
            return None;
        }
        let others = self.items.iter().filter(|item| item.key != key).map(|item| (item.key.as_str(), item.value.as_str()));
        let items: Vec<Value> = others.chain([(key, value)]).map(|(key, value)| json!({"key": key, "value": value})).collect();
        Some(json!({"fingerprint": self.fingerprint, "items": items}))
    }
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// On its way up.
    Starting,
    /// It runs.
    Running,
    /// It does not run, or not for long any more.
    Stopped,
}

impl Thing {
    /// The public addresses of an instance, or the one that is reserved.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let nat = self.network_interfaces.iter().flat_map(|interface| &interface.access_configs).filter_map(|nat| nat.nat_ip.as_deref());
        nat.filter_map(|text| text.parse().ok()).chain(self.address).collect()
    }

    /// How an instance is.
    pub fn state(&self) -> State {
        match self.status.as_str() {
            "RUNNING" => State::Running,
            "PENDING" | "PROVISIONING" | "STAGING" | "REPAIRING" => State::Starting,
            _ => State::Stopped,
        }
    }
}

/// The last part of an address of the API.
fn last(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// A page of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Page {
    /// What is on it.
    pub items: Vec<Thing>,
    /// Where the next one begins, if there is one.
    pub next_page_token: Option<String>,
}

/// A page of a list over all zones or regions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Aggregated {
    items: BTreeMap<String, Scoped>,
    /// Where the next one begins, if there is one.
    pub next_page_token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Scoped {
    #[serde(alias = "instances", alias = "addresses")]
    things: Vec<Thing>,
}

impl Aggregated {
    /// Everything on the page, with the name of the zone or region.
    pub fn things(self) -> impl Iterator<Item = (String, Thing)> {
        let named = |(scope, scoped): (String, Scoped)| {
            let scope = last(&scope).to_owned();
            scoped.things.into_iter().map(move |thing| (scope.clone(), thing))
        };
        self.items.into_iter().flat_map(named)
    }
}

/// What is read of an image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// `READY` once it can be used.
    pub status: String,
    /// What its maker wrote.
    pub description: String,
    /// What its maker wrote, by name.
    pub labels: BTreeMap<String, String>,
    guest_os_features: Vec<Feature>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Feature {
    #[serde(rename = "type")]
    kind: String,
}

impl Image {
    /// The first of these features that it was not published with.
    pub fn lacks<'f>(&self, features: &[&'f str]) -> Option<&'f str> {
        features.iter().copied().find(|wanted| !self.guest_os_features.iter().any(|feature| feature.kind == *wanted))
    }
}

/// The keys of an instance's vTPM, as Google knows them: told by the interface, they are Google's word and not the machine's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    signing_key: PublicKey,
    encryption_key: PublicKey,
    ecc_p256_signing_key: PublicKey,
    ecc_p256_encryption_key: PublicKey,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PublicKey {
    ek_pub: String,
}

impl Identity {
    /// SubjectPublicKeyInfo in DER of each; what is no key is left out.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let all = [&self.signing_key, &self.encryption_key, &self.ecc_p256_signing_key, &self.ecc_p256_encryption_key];
        all.iter().filter_map(|key| SubjectPublicKeyInfoDer::from_pem_slice(key.ek_pub.as_bytes()).ok()).map(|key| key.to_vec()).collect()
    }
}

/// What the serial console printed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SerialOutput {
    /// The text.
    pub contents: String,
    /// Where it begins: more than was asked for if that was forgotten meanwhile. A number, as text.
    pub start: String,
    /// Where to ask next. A number, as text.
    pub next: String,
}

/// What is read of a quota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Its name.
    pub metric: String,
    /// How much there may be.
    pub limit: f64,
    /// How much there is.
    pub usage: f64,
}

/// What is read of a project or a region.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// How much there may be of everything.
    pub quotas: Vec<Quota>,
}

impl Quotas {
    /// How many more there may be; none if nothing limits it here.
    pub fn room(&self, metric: &str) -> Option<f64> {
        self.quotas.iter().find(|quota| quota.metric == metric).map(|quota| quota.limit - quota.usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::compute::CONFIG;

    #[test]
    fn answers_are_read_as_far_as_they_matter() {
        let instance: Thing = serde_json::from_value(json!({
            "kind": "compute#instance", "name": "pd-home-abc123", "status": "RUNNING",
            "zone": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a",
            "metadata": {"fingerprint": "abc=", "items": [{"key": "a", "value": "1"}, {"key": CONFIG, "value": "{}"}]},
            "networkInterfaces": [{"accessConfigs": [{"natIP": "192.0.2.1", "type": "ONE_TO_ONE_NAT"}]}, {}],
        }))
        .unwrap();
        assert_eq!(instance.state(), State::Running);
        assert_eq!(instance.addresses(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(instance.metadata.with("a", "1"), None);
        let update = instance.metadata.with(CONFIG, "{\"x\":1}").unwrap();
        assert_eq!(update["fingerprint"], "abc=");
        assert_eq!(update["items"], json!([{"key": "a", "value": "1"}, {"key": CONFIG, "value": "{\"x\":1}"}]));
        let all: Aggregated = serde_json::from_value(json!({"items": {
            "zones/us-central1-a": {"instances": [{"name": "one"}]},
            "zones/us-central1-b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}},
        }}))
        .unwrap();
        let all: Vec<_> = all.things().map(|(zone, thing)| (zone, thing.name)).collect();
        assert_eq!(all, [("us-central1-a".to_owned(), "one".to_owned())]);
        let pem = "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n";
        let identity: Identity =
            serde_json::from_value(json!({"encryptionKey": {"ekPub": pem}, "signingKey": {"ekPub": "no key"}})).unwrap();
        assert_eq!(identity.keys(), [[0x30, 0]]);
        let quotas: Quotas = serde_json::from_value(json!({"quotas": [{"metric": "N2D_CPUS", "limit": 8.0, "usage": 7.0}]})).unwrap();
        assert_eq!((quotas.room("N2D_CPUS"), quotas.room("CPUS")), (Some(1.0), None));
    }
}
