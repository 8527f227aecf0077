//! What deploy tells a machine that boots an image: everything a node is told, in one document that a hypervisor or a cloud hands in.
//!
//! It holds no secret but the bootstrap's cover key, which lets one speak to the node and no more. The seed is not in it: the
//! owner brings that, once the machine has shown what it is, or the machine's hardware keeps it.

use crate::config::Label;
use crate::encoding::{from_base64_array, from_hex_array};
use crate::error::{Code, Error, Result};
use crate::session::seed::Source;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The version of the document that this program writes and reads.
pub const VERSION: u32 = 1;
/// Clouds take at most this many bytes for one value (Google: 256 KiB).
pub const MAX: usize = 256 * 1024;
/// The port that a machine listens on; what is in front of it may forward another one.
pub const PORT: u16 = 4433;

/// The document.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Version of this document.
    pub portdistrict: u32,
    /// The machine's name.
    pub label: Label,
    /// The identity key (base64url) of the only one who may claim it.
    pub owner: String,
    /// The bootstrap's cover key, 32 bytes as base64url.
    pub cover: String,
    /// Unix seconds of the deploy: a clock that is behind this is wrong.
    pub made_at: u64,
    /// The port to listen on.
    #[serde(default = "port")]
    pub port: u16,
    /// Destinations beyond the public internet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Name servers for networks that name none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<IpAddr>,
    /// Log where guests go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_destinations: bool,
    /// Be an onion service, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tor: Option<Tor>,
    /// What to do when nothing can go on.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Where the node's seed comes from.
    #[serde(default, skip_serializing_if = "is_owner")]
    pub seed: Source,
    /// Launch measurements that cover the image itself (SHA-384, hex), for a seed that is derived from one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launch: Vec<String>,
}

/// What the machine's onion service is told.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tor {
    /// Arti's own settings, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
    /// Bridge lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
    /// Ready only after a connection through the network.
    pub self_test: bool,
}

/// What a machine does when nothing can go on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It stays off, with the reason on its serial console.
    #[default]
    PowerOff,
    /// It begins anew, at most once a minute.
    Reboot,
}

fn port() -> u16 {
    PORT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_owner(source: &Source) -> bool {
    *source == Source::Owner
}

impl Metadata {
    /// Reads a document that somebody handed in; `from` says who, for messages.
    pub fn parse(from: &str, bytes: &[u8]) -> Result<Metadata> {
        let bad = |why: String| {
            Error::new(Code::Usage, format!("the metadata from {from} cannot be used: {why}")).hint("deploy the machine again")
        };
        if bytes.len() > MAX {
            return Err(bad(format!("{} bytes are more than {MAX}", bytes.len())));
        }
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        // Its version first: a newer document has fields that this program would only call unknown.
        match value.get("portdistrict").and_then(serde_json::Value::as_u64) {
            Some(1) => {}
            Some(version) => return Err(bad(format!("it has version {version}, this image reads {VERSION}")).hint("deploy a newer image")),
            None => return Err(bad("it does not say `portdistrict`".to_owned())),
        }
        let metadata: Metadata = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        for (name, key) in [("owner", &metadata.owner), ("cover", &metadata.cover)] {
            from_base64_array::<32>(key).ok_or_else(|| bad(format!("`{name}` is not 32 bytes in base64url")))?;
        }
        if metadata.port == 0 {
            return Err(bad("`port` is 0".to_owned()));
        }
        if metadata.seed == Source::Local {
            return Err(bad("`seed` is `local`, and an image keeps nothing".to_owned()));
        }
        if metadata.measurements().is_none() {
            return Err(bad("`launch` has something else than 96 hexadecimal digits".to_owned()));
        }
        Ok(metadata)
    }

    /// The launch measurements that cover the image; none if one of them is no digest.
    pub fn measurements(&self) -> Option<Vec<[u8; 48]>> {
        self.launch.iter().map(|digest| from_hex_array(digest)).collect()
    }

    /// The bytes that [`Metadata::parse`] reads back.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::new(Code::Failed, "cannot write the machine's metadata").cause(error).hint("run the command again"))?;
        if bytes.len() > MAX {
            return Err(Error::new(
                Code::Usage,
                format!("what this machine is to be told takes {} bytes, {MAX} is the limit", bytes.len()),
            )
            .hint("shorten the Tor settings, or the list of destinations"));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::base64;

    fn sample() -> Metadata {
        Metadata {
            portdistrict: VERSION,
            label: "vm".parse().unwrap(),
            owner: base64(&[1; 32]),
            cover: base64(&[2; 32]),
            made_at: 7,
            port: 4433,
            allow: vec!["10.0.0.0/8".to_owned()],
            name_servers: vec!["9.9.9.9".parse().unwrap()],
            log_destinations: true,
            tor: Some(Tor { settings: Some("[path_rules]".to_owned()), bridges: Vec::new(), self_test: true }),
            on_failure: OnFailure::Reboot,
            seed: Source::Measured,
            launch: vec!["ab".repeat(48)],
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let metadata = sample();
        assert!(Metadata::parse("a test", &metadata.to_json().unwrap()).unwrap() == metadata);
        let small = format!(r#"{{"portdistrict":1,"label":"vm","owner":"{0}","cover":"{0}","made_at":1}}"#, base64(&[1; 32]));
        let small = Metadata::parse("a test", small.as_bytes()).unwrap();
        assert_eq!((small.port, small.on_failure, small.log_destinations), (PORT, OnFailure::PowerOff, false));
        // What an older image reads says nothing of what that does not know.
        let text = String::from_utf8(small.to_json().unwrap()).unwrap();
        assert!(small.seed == Source::Owner && !text.contains("seed") && !text.contains("launch"), "{text}");
    }

    #[test]
    fn each_way_of_being_wrong_has_its_words() {
        let good = String::from_utf8(sample().to_json().unwrap()).unwrap();
        let table = [
            (String::new(), "EOF"),
            ("[]".to_owned(), "does not say `portdistrict`"),
            (good.replace(r#""portdistrict":1"#, r#""portdistrict":2"#), "version 2"),
            (good.replace(r#""label":"vm""#, r#""label":"V M""#), "cannot be a name"),
            (good.replace(&base64(&[1; 32]), "AAAA"), "`owner` is not 32 bytes"),
            (good.replace(r#""port":4433"#, r#""port":0"#), "`port` is 0"),
            (good.replace(r#""port":4433"#, r#""colour":1"#), "colour"),
            (good.replace("reboot", "explode"), "explode"),
            (good.replace(r#""seed":"measured""#, r#""seed":"local""#), "an image keeps nothing"),
            (good.replace(r#""seed":"measured""#, r#""seed":"found""#), "found"),
            (good.replace(r#"["abab"#, r#"["ab"#), "96 hexadecimal digits"),
            (format!("{good}{}", " ".repeat(MAX)), "more than"),
        ];
        for (text, expected) in table {
            let error = Metadata::parse("a test", text.as_bytes()).err().unwrap();
            assert!(error.message().contains(expected) && error.hint_text().is_some(), "{expected}: {}", error.message());
        }
    }
}
