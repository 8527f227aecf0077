//! What spans say: one struct per kind this version knows. Fields added later must be optional; unknown ones are ignored.

use super::audience::Visibility;
use super::span::B64;
use crate::config::Label;
use crate::encoding::{base64, from_base64};
use crate::error::{Code, Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The body of a span of one kind.
pub trait Body: Serialize + DeserializeOwned {
    /// The kind's name.
    const KIND: &'static str;
}

/// Bytes of any length, base64url in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_base64(&text).map(Blob).ok_or_else(|| serde::de::Error::custom("expected bytes in base64url"))
    }
}

/// Declares the bodies, their names, and the check that a known kind has its fields.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $kind:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }
            impl Body for $name {
                const KIND: &'static str = $kind;
            }
        )*

        /// The kinds this version projects, in the order of `docs/protocol.md`.
        pub const KNOWN: &[&str] = &[$($kind),*];

        /// Refuses to record a known kind without its fields; an unknown kind passes.
        pub(super) fn check(kind: &str, body: &Map<String, Value>) -> Result<()> {
            if Visibility::of(body).is_none() {
                return Err(Error::new(Code::Failed, format!("cannot record {kind}: its member `for` names no audience")));
            }
            match kind {
                $($kind => parse::<$name>(body).map(|_| ()),)*
                _ => Ok(()),
            }
        }
    };
}

kinds! {
    /// A device of an identity begins its chain.
    IdentityCreated = "identity.created" {
        /// The identity's Ed25519 public key.
        identity: B64<32>,
        /// The device's Ed25519 public key, the author of this chain.
        device: B64<32>,
        /// The identity's signature of type `device` over the device key.
        cert: B64<64>,
    }

    /// A node was started somewhere and fixed to its owner.
    MachineDeployed = "machine.deployed" {
        /// The name it was given.
        label: Label,
        /// `local`, later others.
        provider: String,
        /// `host:port` where it listens, if known already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// The node's Noise key, if known already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node_key: Option<B64<32>>,
        /// The identity that alone can claim it.
        owner: B64<32>,
        /// The cover key of its bootstrap.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cover: Option<B64<32>>,
        /// Its folder on this computer, for the provider `local`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dir: Option<String>,
        /// What its provider must remember to find and remove it.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        detail: Map<String, Value>,
    }

    /// The owner claimed a node and knows its key now.
    MachineClaimed = "machine.claimed" {
        /// Which machine.
        label: Label,
        /// The node's Noise key.
        node_key: B64<32>,
        /// `host:port` where it answered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// Where the node's seed comes from: `local`, `owner`, `sealed`, `measured`.
        seed_source: String,
        /// What its evidence was worth, as in `none` (key pinned on first use).
        evidence: String,
    }

    /// A machine was found again, perhaps elsewhere.
    MachineReconnected = "machine.reconnected" {
        /// Which machine.
        label: Label,
        /// `host:port` where it answers now, if that changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
        /// Its Noise key, if that changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node_key: Option<B64<32>>,
    }

    /// A machine is gone; its label is free again.
    MachineDestroyed = "machine.destroyed" {
        /// Which machine.
        label: Label,
    }

    /// Something that a machine can do was switched on again.
    MachineEnabled = "machine.enabled" {
        /// Which machine.
        label: Label,
        /// `exit` or `tor`.
        capability: String,
    }

    /// Something that a machine can do was switched off.
    MachineDisabled = "machine.disabled" {
        /// Which machine.
        label: Label,
        /// `exit` or `tor`.
        capability: String,
    }

    /// Somebody may use a node.
    GrantIssued = "grant.issued" {
        /// The grant's id.
        id: B64<8>,
        /// Whom it is for.
        name: Label,
        /// The machine it is for; none for every machine of the issuer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<Label>,
        /// That machine's Noise key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node_key: Option<B64<32>>,
        /// The key that is admitted.
        subject: B64<32>,
        /// `try`, `once` or `many`.
        mode: String,
        /// Unix seconds.
        not_before: u64,
        /// Unix seconds.
        expires: u64,
        /// What may be used up.
        #[serde(default, skip_serializing_if = "GrantLimits::is_empty")]
        limits: GrantLimits,
        /// The signed grant as it travels.
        grant: Blob,
    }

    /// The issuer took a grant back.
    GrantRevoked = "grant.revoked" {
        /// Which grant.
        id: B64<8>,
        /// Unix seconds.
        at: u64,
        /// Why, in words; may be empty.
        #[serde(default)]
        reason: String,
        /// The signed revocation as nodes get it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revocation: Option<Blob>,
    }

    /// A node saw a bound grant tried from elsewhere.
    GrantReused = "grant.reused" {
        /// Which grant.
        id: B64<8>,
        /// The machine that saw it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<Label>,
        /// How often so far, as that machine counts.
        count: u64,
        /// The last time, Unix seconds.
        last: u64,
    }

    /// A friend's exit can be used from here.
    ExitAccepted = "exit.accepted" {
        /// What it is called here.
        name: Label,
        /// `direct`, `tor` or `direct,tor`.
        transport: String,
        /// `host:port`, in the order to try.
        addresses: Vec<String>,
        /// The node's Noise key.
        node_key: B64<32>,
        /// The signed grant as it travels.
        grant: Blob,
        /// Whether the node has bound it to this device.
        bound: bool,
        /// Unix seconds.
        expires: u64,
        /// Its onion address, if it can be reached over Tor.
        onion: Option<String>,
        /// The key that finds a restricted onion service, sealed by this device's keyring.
        discovery: Option<B64<32>>,
    }

    /// An exit is no longer wanted here.
    ExitForgotten = "exit.forgotten" {
        /// Which exit.
        name: Label,
    }

    /// What a node showed was verified, with this result. Trust and reputation are read from these alone.
    EvidenceJudged = "evidence.judged" {
        /// The node's Noise key.
        node_key: B64<32>,
        /// What it is called here: a machine or an exit.
        name: Label,
        /// `verified`, `refused` or `unverified`.
        outcome: String,
        /// The rung of the ladder of proof.
        rung: String,
        /// On what it rests: `none`, `snp`, `tpm`, `snp+tpm`.
        evidence_kind: String,
        /// Why it is not verified.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// SHA-256 of the evidence, hex.
        evidence: String,
        /// The image that was proved (Authenticode digest of its boot program, hex).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
        /// The launch measurement in a genuine report, hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measurement: Option<String>,
        /// The name of the TPM's endorsement key, hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endorsement: Option<String>,
        /// Whether its image or measurement was accepted as found, on first use.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        discovered: bool,
    }

    /// A node's key was seen for the first time and is expected from now on.
    NodePinned = "node.pinned" {
        /// `host:port` where it was seen.
        address: String,
        /// The node's Noise key.
        node_key: B64<32>,
    }

    /// The operator wrote something down.
    NoteWritten = "note.written" {
        /// In words.
        text: String,
    }

    /// Who is in a group that spans can be shared with.
    GroupSet = "group.set" {
        /// The group.
        name: Label,
        /// Ids of peers; none to dissolve it.
        members: Vec<String>,
    }

    /// What may be done from now on.
    PolicySet = "policy.set" {
        /// Counts from 1; of two devices that change it at once, one finds its number taken.
        number: u64,
        /// The document, as in `policy.toml`.
        policy: Map<String, Value>,
        /// Why, in words; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    }

    /// A node holds the rules of a policy.
    RulesDelivered = "rules.delivered" {
        /// The policy's number.
        number: u64,
        /// Which machine.
        node: Label,
        /// Its Noise key.
        node_key: B64<32>,
    }

    /// The policy stopped an act.
    PolicyRefused = "policy.refused" {
        /// `deploy`, `claim`, `invite`, `edit` or `enable`.
        act: String,
        /// Of what: a machine, a friend.
        name: String,
        /// The rule that decided, as a path into the document.
        rule: String,
        /// In words.
        why: String,
        /// The span that set the policy.
        policy: B64<32>,
    }

    /// Somebody's identity became known, or known anew: a newer blob, or a new key in place of an old one.
    PeerAdded = "peer.added" {
        /// The node id of the key.
        id: String,
        /// The Ed25519 identity key.
        key: B64<32>,
        /// The X25519 key to seal to; absent where only the key was handed over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sealing: Option<B64<32>>,
        /// The X25519 key of the peer's device as a client of nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<B64<32>>,
        /// What it is called here.
        name: Label,
        /// `blob`, `adopted` or `rotated`.
        provenance: String,
        /// `host:port` where it was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// When the blob was made, Unix seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issued: Option<u64>,
        /// What a rotated key takes over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        succeeds: Option<Succeeds>,
    }

    /// The owner compared words with a peer.
    PeerVerified = "peer.verified" {
        /// Which peer.
        id: String,
        /// `words` or `qr`.
        how: String,
    }

    /// The owner trusts a peer.
    PeerTrusted = "peer.trusted" {
        /// Which peer.
        id: String,
        /// Whether that was done without comparing words.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unverified: bool,
    }

    /// A peer is trusted less than before.
    PeerDemoted = "peer.demoted" {
        /// Which peer.
        id: String,
        /// `seen` or `verified`.
        to: String,
    }

    /// A peer's key is not to be believed any more.
    PeerRevoked = "peer.revoked" {
        /// Which peer.
        id: String,
        /// Why, in words; may be empty.
        #[serde(default)]
        reason: String,
    }

    /// A peer is no longer listed; what happened stays known.
    PeerForgotten = "peer.forgotten" {
        /// Which peer.
        id: String,
    }

    /// Another key came under the name of a known peer and was refused.
    PeerRefused = "peer.refused" {
        /// The peer that has the name.
        id: String,
        /// The key that came.
        found: B64<32>,
    }

    /// The issuer signed a grant again: it lasts longer, is suspended, or holds again.
    GrantRenewed = "grant.renewed" {
        /// Which grant.
        id: B64<8>,
        /// Its revision; the highest one holds.
        revision: u64,
        /// Unix seconds.
        expires: u64,
        /// The signed grant as it travels.
        grant: Blob,
    }

    /// A grant was made of another one by its holder: here, or by a friend as a node reports.
    GrantPassedOn = "grant.delegated" {
        /// The id of the new grant.
        id: B64<8>,
        /// The grant that it was made of.
        parent: B64<8>,
        /// Whom it is for.
        name: Label,
        /// The node's Noise key.
        node_key: B64<32>,
        /// The exit here that was passed on, where it was done here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<Label>,
        /// What was taken away, where it was done here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        caveat: Option<Blob>,
        /// Unix seconds, where it was done here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<u64>,
    }

    /// A node knows that a grant was taken back.
    RevocationDelivered = "revocation.delivered" {
        /// Which grant.
        id: B64<8>,
        /// What the node is called here: a machine or an exit.
        node: Label,
        /// The node's Noise key.
        node_key: B64<32>,
    }

    /// A node knows a later revision of a grant.
    RenewalDelivered = "renewal.delivered" {
        /// Which grant.
        id: B64<8>,
        /// Which revision.
        revision: u64,
        /// The machine.
        node: Label,
        /// The node's Noise key.
        node_key: B64<32>,
    }

    /// The owner signed for a node that he is there. Written before the node is told, so it is never later that the node heard.
    LeaseStated = "lease.stated" {
        /// The machine.
        node: Label,
        /// The node's Noise key.
        node_key: B64<32>,
        /// When, Unix seconds.
        at: u64,
        /// The signed statement as the node gets it.
        statement: Blob,
    }

    /// Another identity key took the place of the one until now; the same owner, the same devices.
    IdentityRotated = "identity.rotated" {
        /// The identity key until now.
        old: B64<32>,
        /// The identity key from now on.
        new: B64<32>,
        /// The rotation, signed by both.
        statement: Blob,
        /// The new key's certificates of the devices that go on, the author's among them.
        devices: Vec<Certified>,
    }

    /// A device of this identity tells its name and program.
    DeviceDescribed = "device.described" {
        /// What its owner calls it.
        name: Label,
        /// The version of the program on it.
        version: String,
    }

    /// A one-time code was made, with which one device can ask to join.
    DeviceInvited = "device.invited" {
        /// The code's random name.
        id: B64<8>,
        /// BLAKE3 of the code's secret.
        hash: B64<32>,
        /// Unix seconds.
        expires: u64,
        /// What the device is to be called, if that was said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Label>,
    }

    /// A device that answered a code belongs to this identity from now on.
    DeviceApproved = "device.approved" {
        /// Which code it answered.
        code: B64<8>,
        /// Its public key, the author of its spans.
        device: B64<32>,
        /// The X25519 key to which what is meant for it alone is sealed.
        enrolment: B64<32>,
        /// What it is called.
        name: Label,
        /// The identity's signature of type `device` over the device key.
        cert: B64<64>,
    }

    /// A device does not belong to this identity any more.
    DeviceRevoked = "device.revoked" {
        /// Its public key.
        device: B64<32>,
        /// Unix seconds.
        at: u64,
        /// The number (`seq`) of its last span that counts; absent if it has written none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<u64>,
        /// Why, in words; may be empty.
        #[serde(default)]
        reason: String,
    }

    /// Something is about to be made at a provider. Written before the call that makes it, so that what a lost answer or a killed
    /// process left there can be found and removed.
    ResourceIntended = "resource.intended" {
        /// What names it everywhere: `provider/what/place/name`.
        id: String,
        /// What it is made for: `machine/LABEL` or `image/NAME`.
        act: String,
        /// At whose place, as in `gce`.
        provider: String,
        /// What it is there, as in `instance`.
        what: String,
        /// Where it is there, as in `my-project/us-central1-a`; may be empty.
        place: String,
        /// Its name there.
        name: String,
        /// What removing it needs beyond that.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        detail: Map<String, Value>,
    }

    /// It is there.
    ResourceMade = "resource.made" {
        /// Which.
        id: String,
        /// What the provider said of it: a number, an address.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        detail: Map<String, Value>,
    }

    /// It is gone, or never came to be.
    ResourceRemoved = "resource.removed" {
        /// Which.
        id: String,
    }
}

/// A device and the identity's signature over its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// The device's public key.
    pub device: B64<32>,
    /// The signature, of type `device`.
    pub cert: B64<64>,
}

/// What a rotated key takes over from the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succeeds {
    /// The id of the key until now.
    pub id: String,
    /// The state it had here.
    pub state: String,
    /// How it was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// The signed rotations from there to here, oldest first.
    pub rotations: Vec<Blob>,
}

/// Bounds of a grant; none means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantLimits {
    /// Bytes both ways in total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes both ways on each day, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_day: Option<u64>,
    /// Bits a second, each way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// Streams at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
}

impl GrantLimits {
    fn is_empty(&self) -> bool {
        *self == GrantLimits::default()
    }
}

/// The body as its struct.
pub fn parse<T: Body>(body: &Map<String, Value>) -> Result<T> {
    T::deserialize(body).map_err(|error| {
        Error::new(Code::Ledger, format!("the body of {} lacks something", T::KIND)).cause(error).hint("upgrade portdistrict")
    })
}

/// The struct as a body.
pub(super) fn to_body<T: Body>(body: &T) -> Result<Map<String, Value>> {
    match serde_json::to_value(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::new(Code::Failed, format!("the body of {} is no object", T::KIND))),
        Err(error) => Err(Error::new(Code::Failed, format!("cannot write {}", T::KIND)).cause(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_known_kind_needs_its_fields_and_tolerates_more() {
        let Value::Object(good) = json!({"label": "home", "later": true}) else { unreachable!() };
        assert!(check("machine.destroyed", &good).is_ok());
        assert!(check("machine.destroyed", &Map::new()).is_err());
        let Value::Object(bad) = json!({"label": "../home"}) else { unreachable!() };
        assert!(check("machine.destroyed", &bad).is_err());
        assert!(check("something.else", &Map::new()).is_ok());
    }

    #[test]
    fn each_known_kind_is_documented() {
        let document = include_str!("../../docs/protocol.md");
        for kind in KNOWN {
            assert!(document.contains(&format!("`{kind}`")), "docs/protocol.md lacks {kind}");
            assert!(super::super::span::is_kind(kind), "{kind} could never be recorded");
        }
    }
}
