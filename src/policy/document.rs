//! The document: what can stand in `policy.toml`, in the span `policy.set`, and what each part means when it is left out.

use crate::attest::Rung;
use crate::config::{Pattern, check_glob};
use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// The longest text of a policy; its span must stay below the ledger's limit.
pub const MAX_POLICY: usize = 32 * 1024;
/// The version that this program reads and writes.
const VERSION: u32 = 1;
/// What a machine can do and its owner can switch off, by name.
pub const CAPABILITIES: [&str; 2] = ["exit", "tor"];
/// Most entries of one list.
const MAX_LIST: usize = 256;

/// The whole policy. What is left out restricts nothing, unless `strict` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of this document.
    pub version: u32,
    /// What the policy does not name is refused: an empty list then allows nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strict: bool,
    /// A machine whose evidence was not verified is not claimed, and only images named below are deployed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signatures_required: bool,
    /// Keys of the devices that may change the policy; none means every device of the owner, `strict` or not: otherwise nobody could.
    #[serde(default, skip_serializing_if = "is_default")]
    pub editors: Vec<String>,
    /// What may be started, and where.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deploy: Deploy,
    /// What a machine must prove.
    #[serde(default, skip_serializing_if = "is_default")]
    pub claim: Claim,
    /// What may be lent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub invite: Invite,
    /// What may be switched on again; switching off is never refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub enable: Enable,
    /// Where friends may go, by name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reach: Vec<Reach>,
}

/// What may be started, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deploy {
    /// Providers: `local`, `qemu`, …
    #[serde(skip_serializing_if = "is_default")]
    pub providers: Vec<String>,
    /// Digests of images, hex, as `image.json` has them. A process on this computer has no image and passes.
    #[serde(skip_serializing_if = "is_default")]
    pub images: Vec<String>,
    /// Launch measurements, hex.
    #[serde(skip_serializing_if = "is_default")]
    pub measurements: Vec<String>,
    /// Most deploys a day (UTC).
    #[serde(skip_serializing_if = "is_default")]
    pub per_day: Option<u64>,
}

/// What a machine must prove before it is given anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Claim {
    /// The lowest rung of the ladder of proof.
    #[serde(skip_serializing_if = "is_default")]
    pub rung: Rung,
}

/// What may be lent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Invite {
    /// `try`, `once`, `many`.
    #[serde(skip_serializing_if = "is_default")]
    pub modes: Vec<String>,
    /// Longest life, seconds.
    #[serde(skip_serializing_if = "is_default")]
    pub longest: Option<u64>,
    /// Most bytes in all; a grant without a limit is then refused.
    #[serde(skip_serializing_if = "is_default")]
    pub bytes: Option<u64>,
    /// Most grants a day (UTC).
    #[serde(skip_serializing_if = "is_default")]
    pub per_day: Option<u64>,
}

/// What may be switched on again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Enable {
    /// `exit`, `tor`.
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Vec<String>,
}

/// A rule about destinations. Among those that speak of a friend and a destination, a refusal wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// Names of grants, with `*` and `?`.
    pub who: Vec<String>,
    /// Destinations: `*.example.org:443`, `10.0.0.0/8`, `*:25`.
    pub to: Vec<Pattern>,
    /// Whether they are let there.
    pub allow: bool,
}

impl Default for Policy {
    /// The policy of an owner who has set none: nothing is restricted.
    fn default() -> Policy {
        Policy {
            version: VERSION,
            strict: false,
            signatures_required: false,
            editors: Vec::new(),
            deploy: Deploy::default(),
            claim: Claim::default(),
            invite: Invite::default(),
            enable: Enable::default(),
            reach: Vec::new(),
        }
    }
}

impl Policy {
    /// Reads the text of a file named `name`, which errors say.
    pub fn parse(name: &str, text: &str) -> Result<Policy> {
        let bad = |why: String| {
            Error::new(Code::Usage, format!("{name} is no policy: {why}"))
                .hint("begin with what holds now: portdistrict policy show --toml")
        };
        if text.len() > MAX_POLICY {
            return Err(bad(format!("it is longer than {MAX_POLICY} bytes")));
        }
        let policy: Policy = toml::from_str(text).map_err(|error| bad(error.to_string().trim_end().to_owned()))?;
        policy.check().map_err(bad)?;
        Ok(policy)
    }

    /// Says what no reader would accept. Everyone who takes a policy from outside asks this first.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.version != VERSION {
            return Err(format!("it has version {}, this program reads version {VERSION}", self.version));
        }
        let lists = [
            ("editors", &self.editors),
            ("deploy.providers", &self.deploy.providers),
            ("deploy.images", &self.deploy.images),
            ("deploy.measurements", &self.deploy.measurements),
            ("invite.modes", &self.invite.modes),
            ("enable.capabilities", &self.enable.capabilities),
        ];
        for (name, list) in lists {
            if list.len() > MAX_LIST {
                return Err(format!("{name} has {} entries, at most {MAX_LIST} are read", list.len()));
            }
            if let Some(twice) = list.iter().enumerate().find(|(at, entry)| list[..*at].contains(entry)) {
                return Err(format!("{name} names {:?} twice", twice.1));
            }
        }
        let digest = |entry: &&String, digits: usize| {
            entry.len() != digits || !entry.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if let Some(entry) = self.deploy.images.iter().find(|entry| digest(entry, 64)) {
            return Err(format!("deploy.images: {entry:?} is not a digest of 64 lower-case hexadecimal digits"));
        }
        if let Some(entry) = self.deploy.measurements.iter().find(|entry| digest(entry, 96)) {
            return Err(format!("deploy.measurements: {entry:?} is not a launch measurement of 96 lower-case hexadecimal digits"));
        }
        if let Some(entry) = self.invite.modes.iter().find(|mode| !["try", "once", "many"].contains(&mode.as_str())) {
            return Err(format!("invite.modes: {entry:?} is not `try`, `once` or `many`"));
        }
        if let Some(entry) = self.enable.capabilities.iter().find(|name| !CAPABILITIES.contains(&name.as_str())) {
            return Err(format!("enable.capabilities: {entry:?} is not one of {}", CAPABILITIES.join(", ")));
        }
        if let Some(entry) = self.editors.iter().find(|key| crate::encoding::from_base64_array::<32>(key).is_none()) {
            return Err(format!("editors: {entry:?} is not the key of a device, as `portdistrict identity show` prints it"));
        }
        if self.reach.len() > MAX_LIST {
            return Err(format!("reach has {} rules, at most {MAX_LIST} are read", self.reach.len()));
        }
        for (at, rule) in self.reach.iter().enumerate() {
            rule.check().map_err(|why| format!("reach[{at}]: {why}"))?;
        }
        Ok(())
    }

    /// The document as a person would write it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

impl Reach {
    fn check(&self) -> std::result::Result<(), String> {
        for (name, length) in [("who", self.who.len()), ("to", self.to.len())] {
            if length == 0 || length > MAX_LIST {
                return Err(format!("`{name}` has {length} entries, from 1 to {MAX_LIST} are read"));
            }
        }
        self.who.iter().try_for_each(|who| check_glob(who))
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        version = 1
        strict = true
        signatures_required = true
        [deploy]
        providers = ["local", "qemu"]
        images = ["00000000000000000000000000000000000000000000000000000000000000aa"]
        per_day = 5
        [claim]
        rung = "image-by-tpm"
        [invite]
        modes = ["once"]
        longest = 86400
        [[reach]]
        who = ["anna", "b*"]
        to = ["*.example.org:443", "10.0.0.0/8", "[fd00::1]:80-90"]
        allow = true
    "#;

    #[test]
    fn a_policy_survives_being_written_and_read() {
        let policy = Policy::parse("test", FULL).unwrap();
        assert_eq!(Policy::parse("again", &policy.to_toml()).unwrap(), policy);
        let json = serde_json::to_value(&policy).unwrap();
        assert_eq!(serde_json::from_value::<Policy>(json).unwrap(), policy);
        assert_eq!(serde_json::to_value(Policy::default()).unwrap(), serde_json::json!({"version": 1}));
    }

    #[test]
    fn the_one_in_the_guide_is_a_policy() {
        let guide = include_str!("../../docs/operators-guide.md");
        let (_, rest) = guide.split_once("## The policy").unwrap();
        let (_, rest) = rest.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let policy = Policy::parse("the guide", &text.replace('…', &"0".repeat(64))).unwrap();
        assert!(policy.signatures_required && policy.reach.len() == 1);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        let long = format!("version = 1\n#{}", "x".repeat(MAX_POLICY));
        let twice = "version = 1\n[deploy]\nproviders = ['a', 'a']";
        let many = format!("version = 1\neditors = [{}]", "'k',".repeat(MAX_LIST + 1));
        for (text, expected) in [
            ("", "missing field `version`"),
            ("version = 2", "version 2"),
            ("version = 1\nstrikt = true", "unknown field `strikt`"),
            ("version = 1\n[deploy]\nimages = ['AA']", "deploy.images: \"AA\""),
            ("version = 1\n[deploy]\nmeasurements = ['aa']", "deploy.measurements: \"aa\""),
            ("version = 1\n[invite]\nmodes = ['twice']", "invite.modes: \"twice\""),
            ("version = 1\n[enable]\ncapabilities = ['fly']", "enable.capabilities: \"fly\""),
            ("version = 1\neditors = ['me']", "editors: \"me\""),
            ("version = 1\n[claim]\nrung = 'high'", "high"),
            ("version = 1\n[[reach]]\nwho = []\nto = ['*']\nallow = true", "reach[0]: `who` has 0"),
            ("version = 1\n[[reach]]\nwho = ['a/b']\nto = ['*']\nallow = true", "a/b"),
            ("version = 1\n[[reach]]\nwho = ['a']\nto = ['10.0.0.1/8']\nallow = true", "10.0.0.0/8"),
            (twice, "names \"a\" twice"),
            (&long, "longer than"),
            (&many, "at most 256"),
        ] {
            let error = Policy::parse("rules.toml", text).unwrap_err();
            assert!(error.message().contains("rules.toml"), "{error:?}");
            assert!(error.message().contains(expected), "{expected}: {error:?}");
        }
    }
}
