//! Images of Compute Engine: what is said to make, find, retire and remove them, and what is read of them.

use super::compute::{Call, OWNER};
use super::operations::{self, Operation};
use super::{Api, Failure};
use crate::progress::Step;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// What every image of ours can do: start from UEFI, in encrypted memory, with Google's network card.
const FEATURES: [&str; 3] = ["UEFI_COMPATIBLE", "SEV_SNP_CAPABLE", "GVNIC"];
/// What it can do on Intel's processors, too, where asked for.
const TDX: &str = "TDX_CAPABLE";

/// The features that an image is published with.
pub fn features(tdx: bool) -> Vec<&'static str> {
    FEATURES.into_iter().chain(tdx.then_some(TDX)).collect()
}

/// An image to be made of an archive in Cloud Storage.
#[derive(Debug)]
pub struct NewImage<'a> {
    /// Its name.
    pub name: &'a str,
    /// The family whose newest it will be.
    pub family: &'a str,
    /// What it is, in words.
    pub description: &'a str,
    /// Whose it is: a node id in lower case.
    pub owner: &'a str,
    /// The archive's address.
    pub source: &'a str,
    /// Whether Intel's processors may encrypt its memory.
    pub tdx: bool,
}

impl NewImage<'_> {
    /// The body of the request.
    pub fn body(&self) -> Value {
        let features: Vec<Value> = features(self.tdx).into_iter().map(|feature| json!({ "type": feature })).collect();
        json!({
            "name": self.name,
            "family": self.family,
            "description": self.description,
            "architecture": "X86_64",
            "guestOsFeatures": features,
            "labels": { OWNER: self.owner },
            "rawDisk": { "source": self.source, "containerType": "TAR" },
        })
    }
}

/// What is read of an image.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// `PENDING`, `READY`, `FAILED` or `DELETING`.
    pub status: String,
    /// What its maker wrote.
    pub description: String,
    /// What its maker wrote, by name.
    pub labels: BTreeMap<String, String>,
    /// Its family.
    pub family: String,
    /// When it was made (RFC 3339).
    pub creation_timestamp: String,
    /// Bytes of the archive; a number, as text.
    pub archive_size_bytes: String,
    /// GiB of the disk; a number, as text.
    pub disk_size_gb: String,
    guest_os_features: Vec<Feature>,
    deprecated: Deprecation,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Feature {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Deprecation {
    state: String,
}

impl Image {
    /// Whether it bears an owner's mark.
    pub fn is_of(&self, owner: &str) -> bool {
        self.labels.get(OWNER).is_some_and(|found| found == owner)
    }

    /// The first of these features that it lacks.
    pub fn lacks<'f>(&self, features: &[&'f str]) -> Option<&'f str> {
        features.iter().copied().find(|wanted| !self.guest_os_features.iter().any(|feature| feature.kind == *wanted))
    }

    /// Whether it was retired: its family does not lead to it.
    pub fn is_retired(&self) -> bool {
        !matches!(self.deprecated.state.as_str(), "" | "ACTIVE")
    }

    /// When it was made, in Unix milliseconds; 0 if that cannot be read.
    pub fn made_at(&self) -> i64 {
        self.creation_timestamp.parse::<jiff::Timestamp>().map_or(0, |time| time.as_millisecond())
    }
}

/// A page of images.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Images {
    /// What is on it.
    pub items: Vec<Image>,
    /// Where the next one begins, if there is one.
    pub next_page_token: Option<String>,
}

fn place(project: &str) -> String {
    format!("projects/{project}/global/images")
}

fn call(method: &'static str, path: String, body: Option<Value>) -> Call {
    Call { method, path, body, repeats: true }
}

/// Makes one.
pub fn insert(project: &str, request: &str, image: &NewImage<'_>) -> Call {
    call("POST", format!("{}?requestId={request}", place(project)), Some(image.body()))
}

/// Reads one.
pub fn get(project: &str, name: &str) -> Call {
    call("GET", format!("{}/{name}", place(project)), None)
}

/// Removes one.
pub fn delete(project: &str, name: &str, request: &str) -> Call {
    call("DELETE", format!("{}/{name}?requestId={request}", place(project)), None)
}

/// A page of those that bear an owner's mark.
pub fn list(project: &str, owner: &str, page: Option<&str>) -> Call {
    let page = page.map(|token| format!("&pageToken={}", escape(token))).unwrap_or_default();
    call("GET", format!("{}?filter=labels.{OWNER}%3D{owner}{page}", place(project)), None)
}

/// Retires one in favour of another.
pub fn retire(project: &str, name: &str, instead: &str, request: &str) -> Call {
    let body = json!({ "state": "DEPRECATED", "replacement": format!("{}/{instead}", place(project)) });
    call("POST", format!("{}/{name}/deprecate?requestId={request}", place(project)), Some(body))
}

/// Takes one back that was retired.
pub fn restore(project: &str, name: &str, request: &str) -> Call {
    call("POST", format!("{}/{name}/deprecate?requestId={request}", place(project)), Some(json!({ "state": "ACTIVE" })))
}

/// Where the operations of images are.
pub fn operations(project: &str) -> String {
    format!("projects/{project}/global/operations")
}

/// Sends a request that begins an operation, and waits for its end.
pub async fn perform(api: &Api, project: &str, call: &Call, budget: Duration, step: &dyn Step) -> Result<Operation, Failure> {
    let operation: Operation = api.ask(call).await?;
    operations::wait_at(api, &operations(project), operation, budget, step).await
}

/// Google's own words in an address; nothing in them may end the query.
fn escape(token: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    token.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_whose_it_is_and_what_it_can() {
        let new = NewImage {
            name: "pd-1-0-abc",
            family: "portdistrict",
            description: "d",
            owner: "me",
            source: "https://storage.googleapis.com/b/o",
            tdx: true,
        };
        let body = new.body();
        let mut image: Image = serde_json::from_value(body.clone()).unwrap();
        assert!(image.is_of("me") && !image.is_of("you") && !image.is_retired());
        assert_eq!((image.lacks(&features(true)), image.lacks(&["SECURE_BOOT"])), (None, Some("SECURE_BOOT")));
        assert_eq!(body["rawDisk"]["containerType"], "TAR");
        image.deprecated.state = "DEPRECATED".to_owned();
        image.creation_timestamp = "2026-11-22T01:00:00.000-08:00".to_owned();
        assert!(image.is_retired());
        assert_eq!(image.made_at(), 1_795_338_000_000);
        assert_eq!(features(false), FEATURES);
    }

    #[test]
    fn a_page_s_token_ends_no_query() {
        let path = list("p", "me", Some("a&b=c")).path;
        assert_eq!(path, "projects/p/global/images?filter=labels.portdistrict%3Dme&pageToken=a%26b%3Dc");
    }
}
