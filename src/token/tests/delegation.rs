//! Passing on: the same secret on both sides, short lines, and never more than what was passed on.

use super::properties::{limits, scope};
use super::*;
use crate::keyring::x25519_public;
use proptest::option::of;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const DEVICES: [[u8; 32]; 3] = [[11; 32], [12; 32], [13; 32]];
const NODE_SECRET: [u8; 32] = [14; 32];

fn caveat(name: &str) -> Caveat {
    Caveat::new(name.parse().unwrap())
}

fn root(delegable: u8) -> Chain {
    Grant { delegable, ..grant() }.sign(&owner()).into()
}

#[test]
fn holder_and_node_compute_the_same_and_nobody_else_does() {
    let (own, node) = (root(1), x25519_public(&NODE_SECRET));
    let bytes = caveat("bert").encode();
    let by_holder = child_secret(&DEVICES[0], &node, &own.id(), &bytes).unwrap();
    let by_node = child_secret(&NODE_SECRET, &x25519_public(&DEVICES[0]), &own.id(), &bytes).unwrap();
    assert!(by_holder == by_node);
    // Who has read the text of the grant has its secret, which is no device's key.
    let by_reader = child_secret(&secret().subject_secret(), &node, &own.id(), &bytes).unwrap();
    let of_another = child_secret(&DEVICES[0], &node, &[5; 8], &bytes).unwrap();
    let of_other_words = child_secret(&DEVICES[0], &node, &own.id(), &caveat("bert").encode()).unwrap();
    for other in [by_reader, of_another, of_other_words] {
        assert!(other != by_holder);
    }
    // A key that leads to the same secret with everybody is none.
    assert!(child_secret(&NODE_SECRET, &[0; 32], &own.id(), &bytes).is_none());
}

/// The example in `docs/protocol.md`, for another implementation.
#[test]
fn the_example_is_that_of_the_document() {
    let document = include_str!("../../../docs/protocol.md");
    let caveat = Caveat { salt: [8; 4], expires: Some(1_800_050_000), ..caveat("bert") };
    let (parent, bytes) = ([4; 8], caveat.encode());
    let secret = child_secret(&[11; 32], &x25519_public(&[14; 32]), &parent, &bytes).unwrap();
    let hex = crate::encoding::hex;
    let mut values = vec![hex(&bytes), hex(&child_id(&parent, &bytes)), hex(secret.as_bytes()), hex(&secret.subject())];
    values.retain(|value| !document.contains(&format!("`{value}`")));
    assert!(values.is_empty(), "docs/protocol.md lacks {values:?}");
}

/// Three steps, each with a name, an end, amounts, a site and hours, over an address and an onion service.
fn deepest() -> Invite {
    let limits = Limits { bytes: Some(10 << 30), bytes_per_day: Some(1 << 30), ..Limits::default() };
    let mut chain = Chain::from(Grant { delegable: 3, limits, lease: Some(86_400), ..grant() }.sign(&owner()));
    for name in ["bert-from-work", "carla", "dora"] {
        let limits = Limits { bytes: Some(1 << 30), bits_per_second: Some(20_000_000), ..Limits::default() };
        chain = chain.with(Caveat { expires: Some(1_800_050_000), limits, ..caveat(name) });
    }
    let onion = Some(Onion { address: OnionAddress::from_key([7; 32]), restricted: false });
    let transport = Transport { addresses: vec!["192.0.2.7:8443".to_owned()], onion };
    Invite { transport, node: NODE, grant: chain, secret: Some(secret()), name: Some("home".parse().unwrap()) }
}

#[test]
fn an_invite_at_depth_three_has_at_most_600_characters() {
    let invite = deepest();
    let line = invite.to_blob().unwrap();
    println!("invite at depth 3: {} characters", line.len());
    assert!(line.len() <= DELEGATED_BLOB_LIMIT, "{}", line.len());
    assert!(Invite::from_blob(&line).unwrap() == invite);
    assert!(Invite::from_blob(&invite.to_qr().unwrap()).unwrap() == invite);
    let long = Caveat { scope: Scope { allow: vec!["*.example.org:443".into(); 16], ..Scope::default() }, ..caveat("emil") };
    let direct = Invite { grant: root(1).with(long), ..invite };
    assert_eq!(direct.to_blob().unwrap_err().code(), Code::Usage);
}

#[test]
fn a_chain_has_one_spelling() {
    let chain = deepest().grant;
    let bytes = chain.encode();
    assert_eq!(Chain::decode(&bytes), Ok(chain.clone()));
    assert_eq!(Chain::from_blob(&chain.to_blob()).unwrap(), chain);
    assert_eq!(Chain::decode(&root(0).encode()), Ok(root(0)));
    let map = Map::decode(&bytes, GRANT_LIMIT).unwrap();
    let with = |caveats: Vec<crate::encoding::cbor::Value>| Map::with(map.clone(), 2, caveats).encode();
    assert!(Chain::decode(&with(Vec::new())).is_err(), "present and empty");
    assert!(Chain::decode(&with(vec![caveat("x").encode().into(); 4])).is_err(), "too deep for any grant");
    assert!(Chain::decode(&with(vec![1u64.into()])).is_err());
    let unknown = Map::decode(&caveat("x").encode(), 512).unwrap().with(30, 1u64).encode();
    assert_eq!(Chain::decode(&with(vec![unknown.into()])), Err(CborError::Unknown(30)), "it may take something away");
    // An older node does not take the chain for the grant at its root.
    assert_eq!(SignedGrant::decode(&bytes), Err(CborError::Unknown(2)));
    let bare = Invite { secret: None, ..deepest() };
    assert!(bare.to_blob().is_ok_and(|line| Invite::from_blob(&line).is_err()), "nobody could use it");
}

#[test]
fn depth_and_mode_say_who_may_pass_on() {
    assert_eq!(root(0).with(caveat("bert")).terms(), None);
    let once = root(2).with(caveat("bert"));
    assert_eq!(once.terms().unwrap().delegable, 1);
    assert_eq!(once.with(caveat("carla")).terms().unwrap().delegable, 0);
    assert_eq!(once.with(caveat("carla")).with(caveat("dora")).terms(), None);
    let ended = root(3).with(Caveat { delegable: Some(0), ..caveat("bert") });
    assert_eq!(ended.with(caveat("carla")).terms(), None);
    let trying = root(3).with(Caveat { mode: Some(Mode::Try), ..caveat("bert") });
    assert_eq!(trying.with(caveat("carla")).terms(), None, "what is bound to nobody has no holder");
}

fn any_caveat() -> impl Strategy<Value = Caveat> {
    let mode = of(prop_oneof![Just(Mode::Try), Just(Mode::Once), Just(Mode::Many)]);
    let times = (of(0..2_000_000_000u64), of(0..2_000_000_000u64));
    (any::<[u8; 4]>(), of(any::<[u8; 4]>()), times, limits(), scope(), mode, of(0..=MAX_DEPTH)).prop_map(
        |(salt, holder, (not_before, expires), limits, scope, mode, delegable)| Caveat {
            salt,
            holder,
            not_before,
            expires,
            limits,
            scope,
            mode,
            delegable,
            ..caveat("x")
        },
    )
}

/// At most the other, where none is the most.
fn at_most<T: Ord>(child: Option<T>, parent: Option<T>) -> bool {
    parent.is_none_or(|parent| child.is_some_and(|child| child <= parent))
}

fn is_within(child: &Terms, parent: &Terms) -> bool {
    let (a, b) = (&child.limits, &parent.limits);
    let amounts = at_most(a.bytes, b.bytes)
        && at_most(a.bytes_per_day, b.bytes_per_day)
        && at_most(a.bits_per_second, b.bits_per_second)
        && at_most(a.streams, b.streams);
    let times = child.not_before >= parent.not_before && child.expires <= parent.expires && child.lease <= parent.lease;
    let hours = parent.window.as_ref().is_none_or(|outer| child.window.as_ref().is_some_and(|inner| inner.is_within(outer)));
    let places = parent.allow.iter().all(|list| child.allow.contains(list)) && parent.deny.iter().all(|rule| child.deny.contains(rule));
    let ways = child.ways.iter().all(|way| parent.ways.contains(way));
    let rest = child.devices <= parent.devices && child.paused >= parent.paused && child.mode <= parent.mode;
    amounts && times && hours && places && ways && rest && child.delegable < parent.delegable
}

/// `PORTDISTRICT_ATTENUATIONS` sets how many are tried; the whole million takes minutes in a debug build.
#[test]
fn what_is_passed_on_is_never_wider_in_any_field() {
    let count: usize = std::env::var("PORTDISTRICT_ATTENUATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let (grants, caveats) = (super::properties::any_grant(), any_caveat());
    let mut terms: Option<Terms> = None;
    for n in 0..count {
        let parent = match terms.take().filter(|terms| terms.delegable > 0 && n % 3 != 0) {
            Some(terms) => terms,
            None => Terms::of(&grants.new_tree(&mut runner).unwrap().current()),
        };
        let caveat = caveats.new_tree(&mut runner).unwrap().current();
        assert_eq!(Caveat::decode(&caveat.encode()).as_ref(), Ok(&caveat));
        terms = parent.narrowed(&caveat);
        match &terms {
            Some(child) => assert!(is_within(child, &parent), "{child:?} is wider than {parent:?}"),
            None => assert!(parent.delegable == 0 || parent.mode == Mode::Try),
        }
    }
}

proptest! {
    /// Whatever tree of holders: an id stands in the chains of those below it, and in no other.
    #[test]
    fn an_id_is_on_the_way_of_its_subtree_alone(parents in proptest::collection::vec(any::<proptest::sample::Index>(), 1..24), cut in any::<proptest::sample::Index>()) {
        let mut tree: Vec<(Chain, Option<usize>)> = vec![(root(3), None)];
        for (n, parent) in parents.iter().enumerate() {
            let parent = parent.index(tree.len());
            if tree[parent].0.caveats().len() < usize::from(MAX_DEPTH) {
                let child = tree[parent].0.with(caveat(&format!("friend-{n}")));
                tree.push((child, Some(parent)));
            }
        }
        let cut = cut.index(tree.len());
        let id = tree[cut].0.id();
        for n in 0..tree.len() {
            let below = std::iter::successors(Some(n), |n| tree[*n].1).any(|above| above == cut);
            prop_assert_eq!(tree[n].0.ids().contains(&id), below);
        }
    }
}
