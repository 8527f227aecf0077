//! The owner's signed word on where whose guests may go: the part of the policy that a node keeps and enforces.

use super::{LATEST, signed};
use crate::config::{Destination, Pattern};
use crate::encoding::cbor::{CborError, Map, Value};
use crate::keyring;
use ed25519_dalek::SigningKey;

/// The largest signed form; fits one control request.
pub const RULES_LIMIT: usize = 56 * 1024;
const SIGNATURE_TYPE: &str = "rules";
const MAX_RULES: usize = 256;
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN: usize = 300;
const MAX_GRANTS: usize = 4096;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The grants that it is about, by their ids, ascending; none means every guest.
    pub grants: Option<Vec<[u8; 8]>>,
    /// The destinations that it is about; at least one.
    pub to: Vec<Pattern>,
    /// Whether they are let there.
    pub allow: bool,
}

/// The rules of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The owner's identity key, which signs.
    pub issuer: [u8; 32],
    /// The number of the policy. A node never goes back to a lower one.
    pub number: u64,
    /// When these were made of it, Unix milliseconds: a later grant may have brought a new id.
    pub at: u64,
    /// Whether a destination that no rule speaks of is refused.
    pub strict: bool,
    /// The rules; their order means nothing.
    pub rules: Vec<Rule>,
}

impl Rules {
    /// Whether a guest whose grant, or one that it was passed on from, has one of these ids may go there. One rule that refuses
    /// wins over all that allow.
    pub fn allow(&self, ids: &[[u8; 8]], to: &Destination) -> bool {
        let speaks = |rule: &&Rule| rule.is_about(ids) && rule.to.iter().any(|pattern| pattern.covers(to));
        let mut found = self.rules.iter().filter(speaks).peekable();
        if found.peek().is_none() { !self.strict } else { found.all(|rule| rule.allow) }
    }

    /// Whether a rule refuses it, whatever else may be said of it.
    pub fn refuses(&self, ids: &[[u8; 8]], to: &Destination) -> bool {
        self.rules.iter().any(|rule| !rule.allow && rule.is_about(ids) && rule.to.iter().any(|pattern| pattern.covers(to)))
    }

    /// Whether anything is said about grants by their ids, so that a new grant must be told to the node.
    pub fn name_grants(&self) -> bool {
        self.rules.iter().any(|rule| rule.grants.is_some())
    }

    /// Signs them; the key's owner becomes the issuer. Refused if a node could not read them.
    pub fn sign(mut self, key: &SigningKey) -> Result<SignedRules, CborError> {
        self.issuer = key.verifying_key().to_bytes();
        let payload = self.payload();
        let signature = keyring::sign(key, SIGNATURE_TYPE, &payload);
        SignedRules::decode(&signed::encode(&payload, &signature))
    }

    fn payload(&self) -> Vec<u8> {
        let rules: Vec<Value> = self.rules.iter().map(|rule| Value::Map(rule.to_map())).collect();
        let map = Map::new().with(0, self.issuer).with(1, self.number).with(2, self.at);
        let map = map.with_some(3, self.strict.then_some(true));
        if rules.is_empty() { map.encode() } else { map.with(4, rules).encode() }
    }

    fn from_payload(payload: &[u8]) -> Result<Rules, CborError> {
        let mut map = Map::decode(payload, RULES_LIMIT)?;
        let (issuer, number, at, strict) = (map.array(0)?, map.uint(1)?, map.uint(2)?, map.flag(3)?);
        let rules = map.list(4, MAX_RULES)?.into_iter().map(Rule::from_value).collect::<Result<Vec<_>, _>>()?;
        map.finish()?;
        if at / 1000 > LATEST {
            return Err(CborError::Field(2));
        }
        let rules = Rules { issuer, number, at, strict, rules };
        if rules.payload() == payload { Ok(rules) } else { Err(CborError::NotCanonical) }
    }
}

impl Rule {
    fn is_about(&self, ids: &[[u8; 8]]) -> bool {
        self.grants.as_ref().is_none_or(|grants| ids.iter().any(|id| grants.binary_search(id).is_ok()))
    }

    fn to_map(&self) -> Map {
        let to: Vec<String> = self.to.iter().map(ToString::to_string).collect();
        let map = Map::new().with(1, to).with_some(2, self.allow.then_some(true));
        // All in one byte string: a list would spend a byte more on each.
        map.with_some(0, self.grants.as_ref().map(|grants| grants.concat()))
    }

    fn from_value(value: Value) -> Result<Rule, CborError> {
        let Value::Map(mut map) = value else { return Err(CborError::Field(4)) };
        let grants = map.opt_bytes(0, MAX_GRANTS * 8)?.map(|bytes| grants(&bytes)).transpose()?;
        let pattern = |value| match value {
            Value::Text(text) if text.len() <= MAX_PATTERN => text.parse().map_err(|_: crate::error::Error| CborError::Field(1)),
            _ => Err(CborError::Field(1)),
        };
        let to = map.list(1, MAX_PATTERNS)?.into_iter().map(pattern).collect::<Result<Vec<_>, _>>()?;
        let allow = map.flag(2)?;
        map.finish()?;
        if to.is_empty() { Err(CborError::Field(1)) } else { Ok(Rule { grants, to, allow }) }
    }
}

/// Ids one after the other, ascending, so that one is found quickly and each set has one spelling.
fn grants(bytes: &[u8]) -> Result<Vec<[u8; 8]>, CborError> {
    let (ids, rest) = bytes.as_chunks::<8>();
    if rest.is_empty() && ids.is_sorted_by(|a, b| a < b) { Ok(ids.to_vec()) } else { Err(CborError::Field(0)) }
}

/// Rules as they were received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRules {
    payload: Vec<u8>,
    signature: [u8; 64],
    rules: Rules,
}

impl SignedRules {
    /// What they say. Nothing is proven before [`verify`](Self::verify).
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The form on the wire and in the node's memory.
    pub fn encode(&self) -> Vec<u8> {
        signed::encode(&self.payload, &self.signature)
    }

    /// Reads it. The signature is not checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        let (payload, signature) = signed::decode(bytes, RULES_LIMIT)?;
        let rules = Rules::from_payload(&payload)?;
        Ok(SignedRules { payload, signature, rules })
    }

    /// Whether this owner issued them and signed exactly these bytes.
    pub fn verify(&self, owner: &[u8; 32]) -> bool {
        self.rules.issuer == *owner && keyring::verify(owner, SIGNATURE_TYPE, &self.payload, &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn rule(grants: Option<&[[u8; 8]]>, to: &str, allow: bool) -> Rule {
        Rule { grants: grants.map(<[_]>::to_vec), to: vec![to.parse().unwrap()], allow }
    }

    #[test]
    fn a_refusal_wins_and_strict_refuses_the_rest() {
        let rules = Rules { rules: vec![rule(Some(&[[1; 8]]), "*:443", true), rule(None, "10.0.0.0/8", false)], ..Rules::default() };
        let to = |text: &str| text.parse::<Destination>().unwrap();
        assert!(rules.allow(&[[1; 8]], &to("192.0.2.1:443")));
        assert!(!rules.allow(&[[1; 8]], &to("10.0.0.1:443")));
        assert!(rules.allow(&[[2; 8]], &to("192.0.2.1:80")));
        let strict = Rules { strict: true, ..rules };
        assert!(strict.allow(&[[2; 8], [1; 8]], &to("192.0.2.1:443")), "a grant that was passed on");
        assert!(!strict.allow(&[[2; 8]], &to("192.0.2.1:443")));
    }

    #[test]
    fn what_no_node_could_read_is_not_signed() {
        let many = vec![rule(None, "*:25", false); MAX_RULES + 1];
        assert!(Rules { rules: many, ..Rules::default() }.sign(&owner()).is_err());
        let long = Rule { to: vec![["a"; 4].map(|label| label.repeat(60)).join(".").parse().unwrap(); 250], ..rule(None, "*", false) };
        assert!(Rules { rules: vec![long], ..Rules::default() }.sign(&owner()).is_err());
        let unsorted = rule(Some(&[[2; 8], [1; 8]]), "*", false);
        assert!(Rules { rules: vec![unsorted], ..Rules::default() }.sign(&owner()).is_err());
        assert!(Rules { rules: vec![Rule { to: Vec::new(), ..rule(None, "*", false) }], ..Rules::default() }.sign(&owner()).is_err());
    }

    proptest! {
        #[test]
        fn rules_read_back_and_are_their_issuers(
            number in 0u64..1 << 40, strict in any::<bool>(), flip in any::<proptest::sample::Index>(),
            rules in proptest::collection::vec(
                (proptest::option::of(proptest::collection::btree_set(any::<[u8; 8]>(), 0..4)), 0usize..4, any::<bool>()), 0..4),
        ) {
            const PLACES: [&str; 4] = ["*", "*.example.org:443", "[fd00::]:1-9", "10.0.0.0/8"];
            let rules = rules.into_iter().map(|(grants, to, allow)| Rule {
                grants: grants.map(|ids| ids.into_iter().collect()), to: vec![PLACES[to].parse().unwrap()], allow,
            }).collect();
            let signed = Rules { number, strict, rules, at: 5, issuer: [0; 32] }.sign(&owner()).unwrap();
            let wire = signed.encode();
            let read = SignedRules::decode(&wire).unwrap();
            prop_assert!(read == signed && read.verify(&owner().verifying_key().to_bytes()) && !read.verify(&[9; 32]));
            let mut bent = wire.clone();
            bent[flip.index(wire.len())] ^= 1;
            prop_assert!(!SignedRules::decode(&bent).is_ok_and(|bent| bent.verify(&owner().verifying_key().to_bytes())));
            prop_assert!(SignedRules::decode(&wire[..wire.len() - 1]).is_err());
        }
    }
}
