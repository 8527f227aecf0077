//! Tests of the decision at the door.

use super::*;
use crate::encoding::cbor::{Map, Value};
use crate::token::{Chain, Grant, Limits, Mode, Role, Scope, SignedGrant, Way, reserved};
use ed25519_dalek::SigningKey;
use proptest::option::of;
use proptest::prelude::*;

const NODE: [u8; 32] = [2; 32];
const SUBJECT: [u8; 32] = [3; 32];
const DEVICE: [u8; 32] = [4; 32];
const OTHER: [u8; 32] = [5; 32];
const FROM: u64 = 1_000;
const UNTIL: u64 = 2_000;

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn owner_public() -> [u8; 32] {
    owner().verifying_key().to_bytes()
}

fn grant(mode: Mode) -> Grant {
    Grant {
        id: [9; 8],
        issuer: [0; 32],
        node: Some(NODE),
        subject: SUBJECT,
        not_before: FROM,
        expires: UNTIL,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 0,
        revision: 0,
        evidence: None,
        mode,
        role: Role::Exit,
        reserved: Map::new(),
    }
}

/// A grant that nobody passed on, as it is asked about.
fn shown(signed: &SignedGrant) -> Chain {
    signed.clone().into()
}

#[expect(clippy::needless_pass_by_value, reason = "facts are made where they are asked about")]
fn ask(grant: &SignedGrant, client: [u8; 32], bind: Option<[u8; 32]>, facts: Facts) -> Result<Option<[u8; 32]>, Refusal> {
    at(grant, client, bind, &facts, FROM)
}

/// What comes out: the device to bind, or the refusal.
fn at(grant: &SignedGrant, client: [u8; 32], bind: Option<[u8; 32]>, facts: &Facts, now: u64) -> Result<Option<[u8; 32]>, Refusal> {
    match authorize(&Request { client, grant: &shown(grant), bind, way: Way::Direct, now, this_node: NODE }, facts) {
        Decision::Admit(admission) => Ok(admission.bind_now),
        Decision::Refuse(refusal) => Err(refusal),
    }
}

fn facts() -> Facts {
    Facts { owner: Some(owner_public()), levels: vec![level()], ..Facts::default() }
}

fn bound(device: [u8; 32]) -> Facts {
    Facts { levels: vec![Level { bound_to: Some(device), ..level() }], ..facts() }
}

fn level() -> Level {
    Level { subject: Some(SUBJECT), ..Level::default() }
}

#[test]
fn an_unclaimed_node_admits_nobody() {
    let grant = grant(Mode::Once).sign(&owner());
    assert_eq!(ask(&grant, SUBJECT, None, Facts::default()), Err(Refusal::NotClaimed));
}

#[test]
fn a_foreign_issuer_is_unknown_and_a_forged_name_a_bad_signature() {
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let foreign = grant(Mode::Once).sign(&stranger);
    assert_eq!(ask(&foreign, SUBJECT, None, facts()), Err(Refusal::UnknownKey));
    let good = grant(Mode::Once).sign(&owner());
    let wire = Map::new().with(0, good.payload()).with(1, *foreign.signature()).encode();
    let forged = SignedGrant::decode(&wire).unwrap();
    assert_eq!(ask(&forged, SUBJECT, None, facts()), Err(Refusal::GrantSignature));
}

#[test]
fn a_grant_holds_on_its_node_only() {
    let elsewhere = Grant { node: Some([7; 32]), ..grant(Mode::Once) }.sign(&owner());
    assert_eq!(ask(&elsewhere, SUBJECT, None, facts()), Err(Refusal::WrongNode));
    let anywhere = Grant { node: None, ..grant(Mode::Once) }.sign(&owner());
    assert_eq!(ask(&anywhere, SUBJECT, None, facts()), Ok(None));
}

#[test]
fn time_is_checked_at_its_bounds() {
    let grant = grant(Mode::Once).sign(&owner());
    for (now, expected) in
        [(FROM - 1, Err(Refusal::GrantNotYetValid)), (FROM, Ok(None)), (UNTIL - 1, Ok(None)), (UNTIL, Err(Refusal::GrantExpired))]
    {
        assert_eq!(at(&grant, SUBJECT, None, &facts(), now), expected, "{now}");
    }
}

#[test]
fn bytes_are_checked_at_their_bound() {
    let limits = Limits { bytes: Some(100), ..Limits::default() };
    let grant = Grant { limits, ..grant(Mode::Once) }.sign(&owner());
    for (used_bytes, expected) in [(0, Ok(None)), (99, Ok(None)), (100, Err(Refusal::LimitReached)), (101, Err(Refusal::LimitReached))] {
        assert_eq!(
            ask(&grant, SUBJECT, None, Facts { levels: vec![Level { used_bytes, ..level() }], ..facts() }),
            expected,
            "{used_bytes}"
        );
    }
    let request = Request { client: SUBJECT, grant: &shown(&grant), bind: None, way: Way::Direct, now: FROM, this_node: NODE };
    let used = Facts { levels: vec![Level { used_bytes: 30, ..level() }], ..facts() };
    let Decision::Admit(admission) = authorize(&request, &used) else { panic!("refused") };
    assert_eq!((admission.limits, admission.until), (Limits { bytes: Some(70), ..limits }, UNTIL));
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    for key in [reserved::PARENT, 25, 77] {
        let grant = Grant { reserved: Map::new().with(key, Value::Bool(true)), ..grant(Mode::Many) }.sign(&owner());
        assert_eq!(ask(&grant, SUBJECT, None, facts()), Err(Refusal::UpgradeRequired), "key {key}");
    }
    let harmless = Map::new().with(reserved::WARN_BEFORE, 60u64).with(reserved::CHECKPOINT, [1u8; 32]);
    assert_eq!(ask(&Grant { reserved: harmless, ..grant(Mode::Many) }.sign(&owner()), SUBJECT, None, facts()), Ok(None));
}

/// (who connects, what it wants bound, what is bound already, the answer)
type Row = ([u8; 32], Option<[u8; 32]>, Option<[u8; 32]>, Result<Option<[u8; 32]>, Refusal>);

fn table(mode: Mode, rows: &[Row]) {
    let grant = grant(mode).sign(&owner());
    for (client, bind, bound_to, expected) in rows {
        let answer = ask(&grant, *client, *bind, Facts { levels: vec![Level { bound_to: *bound_to, ..level() }], ..facts() });
        assert_eq!(answer, *expected, "{mode}: client {:?} bind {:?} bound {:?}", client[0], bind.map(|b| b[0]), bound_to.map(|b| b[0]));
    }
}

#[test]
fn once_belongs_to_the_first_device() {
    let (unknown, elsewhere) = (Err(Refusal::UnknownKey), Err(Refusal::GrantBoundElsewhere));
    table(
        Mode::Once,
        &[
            (SUBJECT, None, None, Ok(None)),
            (SUBJECT, Some(DEVICE), None, Ok(Some(DEVICE))),
            (SUBJECT, Some(SUBJECT), None, unknown),
            (DEVICE, None, None, unknown),
            (DEVICE, Some(DEVICE), None, unknown),
            (OTHER, Some(OTHER), None, unknown),
            (DEVICE, None, Some(DEVICE), Ok(None)),
            (DEVICE, Some(DEVICE), Some(DEVICE), Ok(None)),
            (SUBJECT, Some(DEVICE), Some(DEVICE), Ok(None)),
            (SUBJECT, None, Some(DEVICE), elsewhere),
            (SUBJECT, Some(OTHER), Some(DEVICE), elsewhere),
            (DEVICE, Some(OTHER), Some(DEVICE), elsewhere),
            (OTHER, None, Some(DEVICE), elsewhere),
            (OTHER, Some(DEVICE), Some(DEVICE), elsewhere),
        ],
    );
}

#[test]
fn try_binds_nothing_and_many_binds_each() {
    let unknown = Err(Refusal::UnknownKey);
    table(Mode::Try, &[(SUBJECT, None, None, Ok(None)), (SUBJECT, Some(DEVICE), None, unknown), (DEVICE, None, None, unknown)]);
    table(
        Mode::Many,
        &[
            (SUBJECT, None, None, Ok(None)),
            (SUBJECT, Some(DEVICE), None, Ok(Some(DEVICE))),
            (SUBJECT, Some(DEVICE), Some(DEVICE), Ok(None)),
            (SUBJECT, Some(SUBJECT), None, unknown),
            (DEVICE, None, Some(DEVICE), Ok(None)),
            (DEVICE, Some(DEVICE), Some(DEVICE), Ok(None)),
            (DEVICE, None, None, unknown),
            (OTHER, None, None, unknown),
            (OTHER, Some(DEVICE), Some(DEVICE), unknown),
        ],
    );
}

#[test]
fn control_is_for_the_named_key_and_is_never_bound() {
    let control = Grant { role: Role::Control, node: None, ..grant(Mode::Once) }.sign(&owner());
    assert_eq!(ask(&control, SUBJECT, None, facts()), Ok(None));
    assert_eq!(ask(&control, SUBJECT, Some(DEVICE), facts()), Err(Refusal::UnknownKey));
    assert_eq!(ask(&control, DEVICE, None, bound(DEVICE)), Err(Refusal::UnknownKey));
    let request = Request { client: SUBJECT, grant: &shown(&control), bind: None, way: Way::Direct, now: FROM, this_node: NODE };
    assert!(matches!(authorize(&request, &facts()), Decision::Admit(Admission { role: Role::Control, .. })));
}

fn key() -> impl Strategy<Value = [u8; 32]> {
    prop_oneof![Just(SUBJECT), Just(DEVICE), Just(OTHER), any::<[u8; 32]>()]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Try), Just(Mode::Once), Just(Mode::Many)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn nobody_gets_in_expired_revoked_or_foreign(
        mode in mode(), control in any::<bool>(), client in key(), bind in of(key()), bound_to in of(key()),
        now in prop_oneof![0u64..3_000, Just(FROM), Just(UNTIL), any::<u64>()],
        revoked in any::<bool>(), node in of(prop_oneof![Just(NODE), Just(OTHER)]), own in any::<bool>(), claimed in any::<bool>(),
        bytes in of(0u64..10), used_bytes in 0u64..10, extra in of(prop_oneof![17u64..20, 25u64..30]),
    ) {
        let signer = if own { owner() } else { SigningKey::from_bytes(&[8; 32]) };
        let reserved = extra.iter().fold(Map::new(), |map, key| map.with(*key, 1u64));
        let role = if control { Role::Control } else { Role::Exit };
        let limits = Limits { bytes, ..Limits::default() };
        let signed = Grant { node, role, limits, reserved, ..grant(mode) }.sign(&signer);
        let levels = vec![Level { bound_to, revoked, used_bytes, ..level() }];
        let facts = Facts { owner: claimed.then(owner_public), levels, ..Facts::default() };
        let signed = shown(&signed);
        let request = Request { client, grant: &signed, bind, way: Way::Direct, now, this_node: NODE };
        if let Decision::Admit(admission) = authorize(&request, &facts) {
            prop_assert!(claimed && own && !revoked && (FROM..UNTIL).contains(&now));
            prop_assert!(node.is_none_or(|n| n == NODE) && bytes.is_none_or(|limit| used_bytes < limit));
            prop_assert!(client == SUBJECT || (!control && bound_to == Some(client)));
            prop_assert!(extra.is_none_or(|key| key == reserved::WARN_BEFORE || key == reserved::CHECKPOINT));
            prop_assert_eq!(admission.role, role);
            if let Some(device) = admission.bind_now {
                prop_assert!(!control && bind == Some(device) && client == SUBJECT && device != SUBJECT);
                prop_assert!(mode == Mode::Many || (mode == Mode::Once && bound_to.is_none()));
            }
        }
    }

    /// Any order of requests under `once`: after the first binding no other key is ever admitted.
    #[test]
    fn once_never_has_two_devices(requests in proptest::collection::vec((key(), of(key())), 1..30)) {
        let signed = grant(Mode::Once).sign(&owner());
        let mut bound_to = None;
        for (client, bind) in requests {
            let before = bound_to;
            if let Ok(bind_now) = ask(&signed, client, bind, Facts { levels: vec![Level { bound_to, ..level() }], ..facts() }) {
                if let Some(device) = before {
                    prop_assert!(bind_now.is_none() && (client == device || bind == Some(device)));
                }
                bound_to = bound_to.or(bind_now);
            }
        }
    }
}
