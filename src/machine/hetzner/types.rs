//! What the Hetzner Cloud API says, as far as it is read here. Unknown fields are new ones, and no concern.

use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// Labels of a thing.
pub(super) type Labels = BTreeMap<String, String>;

/// How far a request has come that takes longer than its answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Action {
    pub(super) id: u64,
    pub(super) status: String,
    #[serde(default)]
    pub(super) progress: u64,
    pub(super) error: Option<ActionError>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ActionError {
    pub(super) code: String,
    pub(super) message: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Server {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) status: String,
    pub(super) labels: Labels,
    pub(super) public_net: PublicNet,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PublicNet {
    pub(super) ipv4: Option<Ip>,
    #[serde(default)]
    pub(super) firewalls: Vec<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Ip {
    pub(super) ip: String,
}

impl Server {
    /// Its address for everybody; none if it has only an IPv6 network.
    pub(super) fn ipv4(&self) -> Option<std::net::Ipv4Addr> {
        self.public_net.ipv4.as_ref()?.ip.parse().ok()
    }
}

/// Any thing, as far as all of them are alike.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Plain {
    pub(super) id: u64,
    name: Option<String>,
    description: Option<String>,
    pub(super) labels: Labels,
}

impl Plain {
    /// Its name; snapshots have theirs in the description.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref().or(self.description.as_deref())
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Image {
    pub(super) id: u64,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) description: String,
    /// GB of the disk that it needs.
    pub(super) disk_size: f64,
    /// GB that it takes in storage.
    pub(super) image_size: Option<f64>,
    pub(super) created: String,
    pub(super) created_from: Option<Origin>,
    pub(super) architecture: String,
    pub(super) labels: Labels,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Origin {
    pub(super) id: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServerType {
    pub(super) name: String,
    pub(super) cores: u32,
    /// GB.
    pub(super) memory: f64,
    /// GB.
    pub(super) disk: f64,
    pub(super) architecture: String,
    pub(super) prices: Vec<TypePrice>,
    #[serde(default)]
    pub(super) locations: Vec<TypePlace>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TypePrice {
    pub(super) location: String,
    pub(super) price_hourly: Price,
    pub(super) price_monthly: Price,
}

/// Decimal numbers in the currency of the price list.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Price {
    pub(super) gross: String,
}

impl Price {
    /// To compare and to show, never to charge.
    pub(super) fn number(&self) -> f64 {
        self.gross.parse().unwrap_or(f64::MAX)
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TypePlace {
    pub(super) name: String,
    #[serde(default = "yes")]
    pub(super) available: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pricing {
    pub(super) currency: String,
    pub(super) image: ImagePrice,
    #[serde(default)]
    pub(super) primary_ips: Vec<IpPrice>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ImagePrice {
    pub(super) price_per_gb_month: Price,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct IpPrice {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) prices: Vec<IpPlacePrice>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct IpPlacePrice {
    pub(super) location: String,
    pub(super) price_monthly: Price,
}
