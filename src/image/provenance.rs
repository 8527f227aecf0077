//! Who made an image, and from what: an in-toto statement with SLSA provenance, in a DSSE envelope that a device signs.
//!
//! Any tool that knows in-toto and DSSE reads it. Beside the signature stands the identity's certificate of the device, so that whoever
//! knows the identity needs nothing else.

use super::{Input, Manifest, Role};
use crate::encoding::json::{canonical, from_canonical};
use crate::encoding::{base64, from_base64_array, hex, node_id};
use crate::error::{Code, Error, Result};
use crate::keyring::{self, DEVICE, Keyring};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The file beside `image.json`.
pub const FILE: &str = "provenance.json";
/// The largest envelope that is read.
pub const MAX: usize = 256 * 1024;
/// Longest `invocation`.
pub const MAX_INVOCATION: usize = 512;
const MAX_LIST: usize = 64;

const PAYLOAD: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const BUILD: &str = "urn:portdistrict:image:v1";
/// How the digest of a boot program is called, which firmware computes over parts of the file.
const AUTHENTICODE: &str = "authenticodeSha256";

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    typ: String,
    /// The files that it is about.
    pub subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    /// How they came about.
    pub predicate: Predicate,
}

/// A file, by its digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name without folders.
    pub name: String,
    /// Digests in hex, by algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// The SHA-256 of the file, where it is one.
    pub fn sha256(&self) -> Option<&str> {
        self.digest.get("sha256").map(String::as_str)
    }
}

/// SLSA provenance, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predicate {
    /// What was built, from what.
    #[serde(rename = "buildDefinition")]
    pub definition: Definition,
    /// Who built it, and in which run.
    #[serde(rename = "runDetails")]
    pub run: Run,
}

/// What was built, from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    #[serde(rename = "buildType")]
    typ: String,
    /// What whoever built it chose.
    #[serde(rename = "externalParameters")]
    pub chosen: Chosen,
    /// What followed from that.
    #[serde(rename = "internalParameters")]
    pub found: Found,
    /// What went in.
    #[serde(rename = "resolvedDependencies")]
    pub inputs: Vec<Dependency>,
}

/// What whoever built it chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Unix seconds of every time inside.
    pub source_date_epoch: u32,
    /// The command that makes the same bytes again.
    pub reproduce: String,
}

/// What followed from that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Version of the program inside.
    pub version: String,
    /// As in `6.12.117+deb12-cloud-amd64`.
    pub kernel_release: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The drivers inside, in the order in which they are loaded.
    pub modules: Vec<String>,
}

/// A file that went in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What for: `program`, `kernel`, `stub`, `firmware`.
    pub name: String,
    /// The package, as a package URL; absent for a file that is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Digests in hex, by algorithm.
    pub digest: BTreeMap<String, String>,
}

/// Who built it, and in which run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who.
    pub builder: Builder,
    /// In which run.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
}

/// Who built it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// `urn:portdistrict:identity:` and the id of the identity that vouches for it.
    pub id: String,
    /// Versions of what built it.
    pub version: BTreeMap<String, String>,
}

/// In which run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// What the pipeline calls the run; a link, mostly.
    #[serde(rename = "invocationId", default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
}

impl Metadata {
    fn is_empty(&self) -> bool {
        self.invocation.is_none()
    }
}

impl Statement {
    /// About an image that is described by these bytes of `image.json`. It has no times: the same image, key and run give the same bytes.
    pub fn of(manifest: &Manifest, description: &[u8], identity: &[u8; 32], invocation: Option<&str>) -> Statement {
        let sha256 = |digest: &str| BTreeMap::from([("sha256".to_owned(), digest.to_owned())]);
        let file = |name: &str, digest: &str| Subject { name: name.to_owned(), digest: sha256(digest) };
        let boot = BTreeMap::from([(AUTHENTICODE.to_owned(), manifest.uki_authenticode.clone())]);
        let input = |input: &Input| Dependency {
            name: role(input.role).to_owned(),
            uri: input.package.as_deref().and_then(package_url),
            digest: sha256(&input.sha256),
        };
        Statement {
            typ: STATEMENT.to_owned(),
            subject: vec![
                file("image.json", &hex(&Sha256::digest(description))),
                file(&manifest.disk.name, &manifest.disk.sha256),
                file(&manifest.archive.name, &manifest.archive.sha256),
                Subject { name: "boot program".to_owned(), digest: boot },
            ],
            predicate_type: PREDICATE.to_owned(),
            predicate: Predicate {
                definition: Definition {
                    typ: BUILD.to_owned(),
                    chosen: Chosen { source_date_epoch: manifest.source_date_epoch, reproduce: manifest.reproduce.clone() },
                    found: Found {
                        version: manifest.version.clone(),
                        kernel_release: manifest.kernel_release.clone(),
                        command_line: manifest.command_line.clone(),
                        modules: manifest.modules.clone(),
                    },
                    inputs: manifest.inputs.iter().map(input).collect(),
                },
                run: Run {
                    builder: Builder {
                        id: builder(identity),
                        version: BTreeMap::from([("portdistrict".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
                    },
                    metadata: Metadata { invocation: invocation.map(str::to_owned) },
                },
            },
        }
    }

    /// What no reader of this version would accept.
    fn check(&self, identity: &[u8; 32]) -> Result<(), &'static str> {
        let plain = |subject: &Subject| !subject.name.is_empty() && subject.name != ".." && !subject.name.contains(['/', '\0']);
        let named = |typ: &str, expected: &str| typ == expected;
        if !named(&self.typ, STATEMENT) || !named(&self.predicate_type, PREDICATE) || !named(&self.predicate.definition.typ, BUILD) {
            return Err("it is a statement of another kind");
        }
        if self.subject.is_empty() || self.subject.len() > MAX_LIST || self.predicate.definition.inputs.len() > MAX_LIST {
            return Err("it is about no file, or about too many");
        }
        if !self.subject.iter().all(plain) {
            return Err("it names a file outside the folder");
        }
        if self.predicate.run.metadata.invocation.as_ref().is_some_and(|run| run.len() > MAX_INVOCATION) {
            return Err("the name of the run is too long");
        }
        // Else one could sign what another one is said to have built.
        if self.predicate.run.builder.id != builder(identity) { Err("it names another builder than the one who signs") } else { Ok(()) }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Program => "program",
        Role::Kernel => "kernel",
        Role::Stub => "stub",
        Role::Firmware => "firmware",
    }
}

fn builder(identity: &[u8; 32]) -> String {
    format!("urn:portdistrict:identity:{}", node_id(identity))
}

/// `NAME=VERSION` as a package URL.
fn package_url(package: &str) -> Option<String> {
    let (name, version) = package.split_once('=')?;
    let quoted = |text: &str| {
        text.bytes().fold(String::new(), |text, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text + &char::from(byte).to_string(),
            other => text + &format!("%{other:02X}"),
        })
    };
    Some(format!("pkg:deb/debian/{}@{}", quoted(name), quoted(version)))
}

/// The envelope as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: [EnvelopeSignature; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    /// The identity, and its signature over the device.
    cert: Certificate,
    /// The device.
    keyid: String,
    sig: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    identity: String,
    signature: String,
}

/// What is wrong with an envelope that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The identity did not certify the device.
    Certificate,
    /// The device did not sign the statement.
    Signature,
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// What it says. Nothing is proven before [`Provenance::verify`].
    pub statement: Statement,
    /// The identity that vouches for it.
    pub identity: [u8; 32],
    /// The device that signed.
    pub device: [u8; 32],
    payload: Vec<u8>,
    cert: [u8; 64],
    signature: [u8; 64],
}

impl Provenance {
    /// Signs a statement as this device of this identity.
    pub fn sign(statement: Statement, keyring: &Keyring) -> Result<Provenance> {
        let payload = canonical(&statement)?;
        let signature = keyring::sign_envelope(&keyring.device_key(), PAYLOAD, &payload);
        let (identity, device, cert) = (keyring.identity_public(), keyring.device_public(), keyring.device_certificate());
        Ok(Provenance { statement, identity, device, payload, cert, signature })
    }

    /// The bytes of the file: canonical JSON and a line feed.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let envelope = Envelope {
            payload: BASE64.encode(&self.payload),
            payload_type: PAYLOAD.to_owned(),
            signatures: [EnvelopeSignature {
                cert: Certificate { identity: base64(&self.identity), signature: base64(&self.cert) },
                keyid: base64(&self.device),
                sig: BASE64.encode(&self.signature),
            }],
        };
        let mut bytes = canonical(&envelope)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the bytes of a file; `name` is for messages. Signatures are not checked.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Provenance> {
        let bad = |why: &str| {
            Error::new(Code::Refused, format!("{name} is no provenance of an image: {why}"))
                .ruled("image-provenance", None)
                .hint("portdistrict machine sign-image FOLDER makes one")
        };
        let line = bytes.strip_suffix(b"\n").ok_or_else(|| bad("its end is missing"))?;
        let envelope: Envelope = from_canonical(line, MAX).map_err(|error| bad(error.message()))?;
        let [signed] = envelope.signatures;
        if envelope.payload_type != PAYLOAD {
            return Err(bad("it holds something else than an in-toto statement"));
        }
        let payload = BASE64.decode(envelope.payload.as_bytes()).map_err(|_| bad("its payload is damaged"))?;
        let signature = BASE64.decode(signed.sig.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let parts = (from_base64_array(&signed.cert.identity), from_base64_array(&signed.keyid), from_base64_array(&signed.cert.signature));
        let (Some(signature), (Some(identity), Some(device), Some(cert))) = (signature, parts) else {
            return Err(bad("a key or a signature in it is damaged"));
        };
        let statement: Statement = from_canonical(&payload, MAX).map_err(|error| bad(error.message()))?;
        statement.check(&identity).map_err(bad)?;
        Ok(Provenance { statement, identity, device, payload, cert, signature })
    }

    /// Whether the identity certified the device, and the device signed exactly these bytes.
    pub fn verify(&self) -> Result<(), Fault> {
        if !keyring::verify(&self.identity, DEVICE, &self.device, &self.cert) {
            return Err(Fault::Certificate);
        }
        let good = keyring::verify_envelope(&self.device, PAYLOAD, &self.payload, &self.signature);
        if good { Ok(()) } else { Err(Fault::Signature) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::Artifact;
    use crate::keyring::Seed;
    use proptest::prelude::*;

    pub(crate) fn manifest() -> Manifest {
        let artifact = |name: &str, n: u8| Artifact { name: name.to_owned(), size: 3, sha256: hex(&[n; 32]) };
        let input = |role, package: Option<&str>, n: u8| Input {
            role,
            name: "file.deb".to_owned(),
            package: package.map(str::to_owned),
            size: 5,
            sha256: hex(&[n; 32]),
        };
        Manifest {
            portdistrict_image: Manifest::VERSION,
            version: "0.1.0".to_owned(),
            inputs: vec![input(Role::Program, None, 1), input(Role::Kernel, Some("linux-image=6.12+deb12:1"), 2)],
            source_date_epoch: 0,
            kernel_release: "6.12".to_owned(),
            command_line: "quiet".to_owned(),
            modules: vec!["virtio_net".to_owned()],
            uki_authenticode: hex(&[7; 32]),
            kernel_authenticode: hex(&[8; 32]),
            sections: Vec::new(),
            pcr: BTreeMap::new(),
            launch: Vec::new(),
            disk: artifact("disk.raw", 3),
            archive: artifact("image.tar.gz", 4),
            reproduce: "portdistrict machine build".to_owned(),
        }
    }

    fn keyring(n: u8) -> Keyring {
        Keyring::of(Seed::from_bytes(&[n; 32]), Seed::from_bytes(&[n + 1; 32]))
    }

    pub(crate) fn signed() -> Provenance {
        let keyring = keyring(7);
        Provenance::sign(Statement::of(&manifest(), b"{}", &keyring.identity_public(), Some("run 5")), &keyring).unwrap()
    }

    #[test]
    fn what_is_signed_reads_back_and_says_what_went_in() {
        let signed = signed();
        let bytes = signed.encode().unwrap();
        let read = Provenance::decode("p", &bytes).unwrap();
        assert_eq!((&read, read.verify()), (&signed, Ok(())));
        assert_eq!(bytes, self::signed().encode().unwrap(), "the same image, key and run give the same bytes");
        let text = String::from_utf8(read.payload).unwrap();
        for said in
            ["\"_type\":\"https://in-toto.io/Statement/v1\"", "pkg:deb/debian/linux-image@6.12%2Bdeb12%3A1", "\"invocationId\":\"run 5\""]
        {
            assert!(text.contains(said), "{said}: {text}");
        }
    }

    #[test]
    fn each_fault_is_told_apart() {
        let good = signed();
        let mut other_device = good.clone();
        other_device.device = keyring(30).device_public();
        assert_eq!(other_device.verify(), Err(Fault::Certificate));
        let mut bent = good.clone();
        bent.payload.push(b' ');
        assert_eq!(bent.verify(), Err(Fault::Signature));
        // Somebody else's statement, signed by oneself.
        let thief = keyring(40);
        let stolen = Provenance::sign(good.statement.clone(), &thief).unwrap();
        let error = Provenance::decode("p", &stolen.encode().unwrap()).unwrap_err();
        assert!(error.message().contains("another builder"), "{error:?}");
        for name in ["../x", "a/b", "..", ""] {
            let mut outside = good.statement.clone();
            outside.subject[0].name = name.to_owned();
            let bytes = Provenance::sign(outside, &keyring(7)).unwrap().encode().unwrap();
            assert!(Provenance::decode("p", &bytes).is_err(), "{name:?}");
        }
    }

    /// The vector in `docs/protocol.md`, "Provenance".
    #[test]
    fn the_vector_is_that_of_the_document() {
        let key = Seed::from_bytes(&std::array::from_fn(|i| i as u8)).signing_key(crate::keyring::Purpose::DeviceSign);
        let signature = hex(&keyring::sign_envelope(&key, "http://example.com/HelloWorld", b"hello world"));
        assert!(include_str!("../../docs/protocol.md").contains(&signature), "docs/protocol.md lacks {signature}");
    }

    proptest! {
        #[test]
        fn no_changed_byte_passes(at in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let mut bytes = signed().encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let passes = Provenance::decode("p", &bytes).is_ok_and(|read| read.verify().is_ok());
            prop_assert!(!passes, "byte {at}");
            prop_assert!(Provenance::decode("p", &bytes[..bytes.len() - 1]).is_err());
        }
    }
}
