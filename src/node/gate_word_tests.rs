//! Stories of time and of friends' friends: leases, revisions, hours, days, and grants that were passed on.

use super::super::state::Times;
use super::*;
use crate::config::time::now_s;
use crate::keyring::x25519_public;
use crate::session::Meter;
use crate::token::{Caveat, Grant, Lease, Revocation, Scope, SignedLease, Target};
use proptest::prelude::*;

/// Device secrets.
const ANNA: [u8; 32] = [21; 32];
const BERT: [u8; 32] = [22; 32];
const CARLA: [u8; 32] = [23; 32];
const DORA: [u8; 32] = [24; 32];
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn owner() -> ed25519_dalek::SigningKey {
    Seed::from_bytes(&[7; 32]).signing_key(Purpose::IdentitySign)
}

/// The gate of a node whose memory is in `dir`.
fn gate(dir: &tempfile::TempDir) -> Arc<Gate> {
    let state = State::open(&dir.path().join("state")).unwrap();
    let node = x25519_public(&state.seed().unwrap().derive(Purpose::NodeNoise));
    let gate = Arc::new(Gate::new(state, node, 1000, Log::in_memory()).unwrap());
    gate.claim(&owner().verifying_key().to_bytes(), None, 1).unwrap();
    gate
}

/// A grant from `now` for a year, whose subject is the key of `subject`.
fn grant(subject: &[u8; 32], now: u64) -> Grant {
    Grant {
        id: [1; 8],
        issuer: [0; 32],
        node: None,
        subject: x25519_public(subject),
        not_before: now,
        expires: now + 365 * DAY,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 3,
        revision: 0,
        evidence: None,
        mode: Mode::Once,
        role: Role::Exit,
        reserved: Default::default(),
    }
}

fn signed(grant: Grant) -> Chain {
    grant.sign(&owner()).into()
}

fn hello(chain: &Chain, bind: Option<&[u8; 32]>) -> Hello {
    Hello { grant: chain.encode(), bind: bind.map(x25519_public), version: "test".into() }
}

/// Comes as the holder of `secret`.
async fn come(gate: &Arc<Gate>, secret: &[u8; 32], chain: &Chain, bind: Option<&[u8; 32]>, now: u64) -> Result<Admitted, Refusal> {
    gate.admit(x25519_public(secret), &hello(chain, bind), Way::Direct, now).await
}

/// What the holder `device` makes of a grant: the chain, and the secret of its text.
fn pass_on(gate: &Gate, chain: &Chain, device: &[u8; 32], caveat: Caveat) -> (Chain, [u8; 32]) {
    let narrowed = chain.with(caveat);
    let bytes = &narrowed.caveats().last().unwrap().0;
    let secret = child_secret(device, &gate.node, &chain.id(), bytes).unwrap();
    (narrowed, *secret.subject_secret())
}

fn caveat(name: &str) -> Caveat {
    Caveat::new(name.parse().unwrap())
}

fn revocation(id: GrantId) -> crate::token::SignedRevocation {
    Revocation { issuer: [0; 32], target: Target::Grant(id), at: 1, reason: String::new() }.sign(&owner())
}

fn statement(gate: &Gate, at: u64) -> SignedLease {
    Lease { issuer: [0; 32], node: gate.node, at }.sign(&owner())
}

/// Anna holds a grant, Bert has it from her, Carla from Bert, Dora from Carla; all are inside, bound to their devices.
async fn family(gate: &Arc<Gate>, root: &Chain, now: u64) -> Vec<(Chain, Admitted)> {
    let mut chain = root.clone();
    let mut text = [31; 32];
    let mut inside = Vec::new();
    for (device, next) in [(ANNA, "bert"), (BERT, "carla"), (CARLA, "dora"), (DORA, "nobody")] {
        come(gate, &text, &chain, Some(&device), now).await.unwrap();
        inside.push((chain.clone(), come(gate, &device, &chain, None, now).await.unwrap()));
        (chain, text) = pass_on(gate, &chain, &device, caveat(next));
    }
    inside
}

fn ended(inside: &[(Chain, Admitted)]) -> Vec<bool> {
    inside.iter().map(|(_, admitted)| admitted.live.ended() == Some("grant-revoked")).collect()
}

#[tokio::test]
async fn a_grant_is_passed_on_three_times_and_the_node_asks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let root = signed(grant(&[31; 32], now));
    let inside = family(&gate, &root, now).await;
    let (deepest, text) = pass_on(&gate, &inside[3].0, &DORA, caveat("emil"));
    assert_eq!(come(&gate, &text, &deepest, None, now).await.err(), Some(Refusal::GrantSignature), "four steps are no grant at all");
    // What one uses counts for all above.
    inside[2].1.meters.sent(100);
    let used = |n: usize| gate.grants().into_iter().find(|grant| grant.id == inside[n].0.id()).unwrap();
    assert_eq!((used(0).down, used(1).down, used(2).down, used(3).down), (100, 100, 100, 0));
    assert_eq!((used(0).parent, used(3).parent), (None, Some(inside[2].0.id())));
    assert_eq!(used(2).name.as_deref(), Some("carla"));
    assert_eq!(used(0).sessions, 4, "anna's and all below her");
    gate.flush(now).unwrap();
    drop(inside);
    drop(gate);
    let again = self::gate(&dir);
    assert_eq!(again.grants().iter().filter(|grant| grant.parent.is_some()).count(), 3, "known after a restart");
}

#[tokio::test]
async fn a_bound_text_lets_nobody_pass_it_on() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let text = [31; 32];
    let root = signed(grant(&text, now));
    // Before anybody holds it, nobody can pass it on.
    for device in [text, ANNA] {
        let (child, secret) = pass_on(&gate, &root, &device, caveat("bert"));
        assert_eq!(come(&gate, &secret, &child, None, now).await.err(), Some(Refusal::UnknownKey));
    }
    come(&gate, &text, &root, Some(&ANNA), now).await.unwrap();
    // Who has read the text knows its secret, and every byte that travels, but no device's key.
    for device in [text, BERT] {
        let (child, secret) = pass_on(&gate, &root, &device, caveat("bert"));
        assert_eq!(come(&gate, &secret, &child, None, now).await.err(), Some(Refusal::UnknownKey));
    }
    let (child, secret) = pass_on(&gate, &root, &ANNA, caveat("bert"));
    // Nor does it serve with other words than those of its caveat, or without.
    let wider = root.with(caveat("bert"));
    assert_eq!(come(&gate, &secret, &wider, None, now).await.err(), Some(Refusal::UnknownKey));
    assert_eq!(come(&gate, &secret, &root, None, now).await.err(), Some(Refusal::GrantBoundElsewhere));
    assert!(come(&gate, &secret, &child, None, now).await.is_ok());
    come(&gate, &secret, &child, Some(&BERT), now).await.unwrap();
    assert_eq!(come(&gate, &secret, &child, None, now).await.err(), Some(Refusal::GrantBoundElsewhere));
}

#[tokio::test]
async fn under_mode_many_the_caveat_says_whose_device_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let root = signed(Grant { mode: Mode::Many, scope: Scope { devices: Some(2), ..Scope::default() }, ..grant(&[31; 32], now) });
    come(&gate, &[31; 32], &root, Some(&ANNA), now).await.unwrap();
    come(&gate, &[31; 32], &root, Some(&BERT), now).await.unwrap();
    assert_eq!(come(&gate, &[31; 32], &root, Some(&CARLA), now).await.err(), Some(Refusal::LimitReached), "two devices, no third");
    let of_bert = Caveat { holder: x25519_public(&BERT).first_chunk().copied(), ..caveat("carla") };
    let (child, secret) = pass_on(&gate, &root, &BERT, of_bert);
    assert!(come(&gate, &secret, &child, None, now).await.is_ok());
    let (nameless, secret) = pass_on(&gate, &root, &BERT, caveat("carla"));
    assert_eq!(come(&gate, &secret, &nameless, None, now).await.err(), Some(Refusal::UnknownKey));
}

#[tokio::test]
async fn a_revocation_cuts_off_exactly_what_was_made_of_it() {
    let now = now_s();
    for cut in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let gate = gate(&dir);
        let root = signed(grant(&[31; 32], now));
        let inside = family(&gate, &root, now).await;
        let closed = if cut % 2 == 0 || cut == 0 {
            gate.revoke(&[revocation(inside[cut].0.id())]).unwrap()
        } else {
            // The holder of the grant above takes it back himself.
            let caveat = inside[cut].0.caveats().last().unwrap().0.clone();
            gate.revoke_passed_on(&inside[cut - 1].1, &caveat, now).unwrap().1
        };
        assert_eq!((ended(&inside), closed), ((0..4).map(|n| n >= cut).collect(), 4 - cut));
        for (n, device) in [ANNA, BERT, CARLA, DORA].iter().enumerate() {
            let refusal = come(&gate, device, &inside[n].0, None, now).await.err();
            assert_eq!(refusal, (n >= cut).then_some(Refusal::GrantRevoked), "cut {cut}, level {n}");
        }
    }
}

#[tokio::test]
async fn a_revoked_device_takes_its_whole_family_along() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let inside = family(&gate, &signed(grant(&[31; 32], now)), now).await;
    let target = Target::Subject(x25519_public(&BERT));
    gate.revoke(&[Revocation { issuer: [0; 32], target, at: 1, reason: String::new() }.sign(&owner())]).unwrap();
    assert_eq!(ended(&inside), [false, true, true, true]);
    assert_eq!(come(&gate, &DORA, &inside[3].0, None, now).await.err(), Some(Refusal::GrantRevoked));
}

#[tokio::test]
async fn a_holder_takes_back_nothing_but_his_own() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let inside = family(&gate, &signed(grant(&[31; 32], now)), now).await;
    // Bert knows how his own grant was made, and tries to revoke it, and Anna's, through his session.
    let (above, of_bert) = (inside[1].0.caveats()[0].0.clone(), &inside[1].1);
    for bytes in [above, inside[0].0.root().payload().to_vec(), Vec::new()] {
        assert_eq!(gate.revoke_passed_on(of_bert, &bytes, now).unwrap().1, 0);
    }
    assert_eq!(ended(&inside), [false; 4]);
}

#[tokio::test]
async fn nobody_fills_the_memory_with_children() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let root = signed(grant(&[31; 32], now));
    come(&gate, &[31; 32], &root, Some(&ANNA), now).await.unwrap();
    for n in 0..=MAX_CHILDREN {
        let (child, secret) = pass_on(&gate, &root, &ANNA, caveat(&format!("friend-{n}")));
        let refusal = come(&gate, &secret, &child, None, now).await.err();
        assert_eq!(refusal, (n == MAX_CHILDREN).then_some(Refusal::LimitReached), "{n}");
    }
}

#[tokio::test]
async fn the_newest_revision_holds_whichever_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let now = now_s();
    let text = [31; 32];
    let old = grant(&text, now);
    let revision = |revision, change: &dyn Fn(&mut Grant)| {
        let mut new = Grant { revision, ..old.clone() };
        change(&mut new);
        new.sign(&owner())
    };
    let longer = revision(1, &|grant| grant.expires += DAY);
    let suspended = revision(2, &|grant| grant.scope.paused = true);
    let resumed = revision(3, &|grant| grant.limits.bytes = Some(1000));
    {
        let gate = gate(&dir);
        let anna = come(&gate, &text, &old.clone().sign(&owner()).into(), Some(&ANNA), now).await.unwrap();
        assert_eq!(gate.renew(std::slice::from_ref(&longer)).unwrap(), (1, 0));
        assert_eq!(anna.live.ended(), None, "what only lasts longer disturbs nobody");
        assert!(gate.standing(&anna, now).is_ok_and(|(until, _)| until > now));
        assert_eq!(gate.renew(std::slice::from_ref(&suspended)).unwrap(), (1, 1));
        assert_eq!(anna.live.ended(), Some("grant-renewed"));
        for shown in [old.clone().sign(&owner()), longer.clone(), suspended.clone()] {
            assert_eq!(come(&gate, &ANNA, &shown.into(), None, now).await.err(), Some(Refusal::OutsideHours));
        }
        // An older one again, by whatever way, undoes nothing.
        assert_eq!(gate.renew(std::slice::from_ref(&longer)).unwrap(), (0, 0));
        drop(anna);
    }
    let gate = gate(&dir);
    assert_eq!(come(&gate, &ANNA, &longer.into(), None, now).await.err(), Some(Refusal::OutsideHours), "over a restart");
    // A friend brings the next one himself.
    assert!(come(&gate, &ANNA, &resumed.into(), None, now).await.is_ok());
    assert_eq!(come(&gate, &ANNA, &suspended.into(), None, now).await.unwrap().limits.bytes, Some(1000));
    // Nobody else's word counts.
    let forged = Grant { revision: 9, ..old.clone() }.sign(&Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign));
    assert_eq!(come(&gate, &ANNA, &forged.into(), None, now).await.err(), Some(Refusal::UnknownKey));
    assert!(come(&gate, &ANNA, &old.sign(&owner()).into(), None, now).await.is_ok());
}

#[tokio::test]
async fn a_narrower_grant_follows_the_revision_of_its_root() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let old = grant(&[31; 32], now);
    let inside = family(&gate, &old.clone().sign(&owner()).into(), now).await;
    let closed = Grant { revision: 1, delegable: 1, ..old }.sign(&owner());
    assert_eq!(gate.renew(&[closed]).unwrap(), (1, 4), "all come back under the new terms");
    let refusals = [(ANNA, 0), (BERT, 1), (CARLA, 2)].map(|(device, n)| (device, inside[n].0.clone()));
    let mut answers = Vec::new();
    for (device, chain) in &refusals {
        answers.push(come(&gate, device, chain, None, now).await.err());
    }
    assert_eq!(answers, [None, None, Some(Refusal::UnknownKey)], "passed on too far now");
}

#[tokio::test]
async fn hours_and_days_end_sessions_by_the_node_s_clock() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(&dir);
    // A Monday, 12:00 UTC, far enough ahead that no clock of a test has been there.
    let monday = 4_102_444_800 + 3 * DAY + 12 * HOUR;
    let scope = Scope { window: Some("Mon-Fri 09:00-17:00".parse().unwrap()), ..Scope::default() };
    let limits = Limits { bytes_per_day: Some(1000), ..Limits::default() };
    let root = signed(Grant { scope, limits, lease: Some(365 * DAY), ..grant(&[31; 32], monday - DAY) });
    let anna = come(&gate, &[31; 32], &root, Some(&ANNA), monday).await.unwrap();
    assert_eq!((anna.expires, anna.limits.bytes), (monday + 5 * HOUR, Some(1000)));
    anna.meters.sent(999);
    assert_eq!(come(&gate, &ANNA, &root, None, monday).await.unwrap().limits.bytes, Some(1));
    anna.meters.received(1);
    assert_eq!(come(&gate, &ANNA, &root, None, monday).await.err(), Some(Refusal::LimitReached));
    gate.flush(monday).unwrap();
    assert_eq!(gate.standing(&anna, monday + 5 * HOUR).err(), Some(Refusal::OutsideHours));
    // The clock is set back: the hours stay over.
    assert_eq!(gate.standing(&anna, monday).err(), Some(Refusal::OutsideHours));
    drop(anna);
    drop(gate);
    let gate = self::gate(&dir);
    assert_eq!(come(&gate, &ANNA, &root, None, monday).await.err(), Some(Refusal::LimitReached), "over a restart");
    let tuesday = monday + 21 * HOUR + 1800;
    assert_eq!(come(&gate, &ANNA, &root, None, tuesday).await.unwrap().limits.bytes, Some(1000));
}

#[tokio::test]
async fn a_grant_for_one_way_is_refused_by_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let root = signed(Grant { scope: Scope { way: Some(Way::Tor), ..Scope::default() }, ..grant(&ANNA, now) });
    assert_eq!(come(&gate, &ANNA, &root, None, now).await.err(), Some(Refusal::WrongTransport));
    let tor = gate.admit(x25519_public(&ANNA), &hello(&root, None), Way::Tor, now).await.unwrap();
    assert!(gate.standing(&tor, now).is_ok());
    assert_eq!(gate.grants()[0].last_way, Some(Way::Tor));
}

#[tokio::test]
async fn a_lease_ends_unless_the_owner_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let now = now_s();
    let root = signed(Grant { lease: Some(6 * HOUR), ..grant(&ANNA, now) });
    {
        let gate = gate(&dir);
        let anna = come(&gate, &ANNA, &root, None, now).await.unwrap();
        assert_eq!(anna.expires, now + 6 * HOUR);
        assert_eq!(gate.standing(&anna, now + 6 * HOUR).err(), Some(Refusal::LeaseExpired));
        assert_eq!(come(&gate, &ANNA, &root, None, now).await.err(), Some(Refusal::LeaseExpired), "the clock does not go back");
        gate.flush(now).unwrap();
    }
    let gate = gate(&dir);
    assert_eq!(come(&gate, &ANNA, &root, None, now).await.err(), Some(Refusal::LeaseExpired), "nor over a restart");
    let then = now + 7 * HOUR;
    assert_eq!(gate.hear(&statement(&gate, then), then), Ok(true));
    assert!(come(&gate, &ANNA, &root, None, then + 6 * HOUR - 1).await.is_ok());
    assert_eq!(gate.hear(&statement(&gate, then), then + 6 * HOUR), Ok(false), "the same word again adds nothing");
    assert_eq!(gate.hear(&statement(&gate, then + 9 * HOUR), then + 6 * HOUR), Err(Refusal::GrantNotYetValid));
    assert_eq!(come(&gate, &ANNA, &root, None, then + 6 * HOUR).await.err(), Some(Refusal::LeaseExpired));
}

#[tokio::test]
async fn a_clock_that_was_far_ahead_is_put_right_by_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, now) = (gate(&dir), now_s());
    let root = signed(Grant { lease: Some(6 * HOUR), ..grant(&ANNA, now) });
    assert_eq!(come(&gate, &ANNA, &root, None, now + 3650 * DAY).await.err(), Some(Refusal::GrantExpired));
    assert_eq!(come(&gate, &ANNA, &root, None, now).await.err(), Some(Refusal::GrantExpired));
    assert_eq!(gate.hear(&statement(&gate, now), now), Ok(true));
    assert!(come(&gate, &ANNA, &root, None, now).await.is_ok());
    assert_eq!(gate.state().snapshot().unwrap().times, Times { stated: now, heard: now, clock: now });
}

/// What may happen to a node.
#[derive(Clone, Debug)]
enum Event {
    /// The process ends, without a last word if it was killed.
    Restart { killed: bool },
    /// The system's clock jumps, by so many seconds.
    Step(i64),
    /// Time passes.
    Pass(u64),
    /// The owner says that he is there.
    State,
    /// An earlier statement comes again.
    Replay(usize),
    /// The friend comes, with an older revision.
    Come,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any::<bool>().prop_map(|killed| Event::Restart { killed }),
        (-3 * 86_400i64..3 * 86_400).prop_map(Event::Step),
        (0..8 * HOUR).prop_map(Event::Pass),
        Just(Event::State),
        (0usize..8).prop_map(Event::Replay),
        Just(Event::Come),
        Just(Event::Come),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Once a lease is over it stays over until the owner says something new, whatever happens to the node.
    #[test]
    fn nothing_but_a_new_word_of_the_owner_extends_a_lease(events in proptest::collection::vec(event(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut gate = gate(&dir);
            let start = 4_000_000_000u64;
            let (mut truth, mut system) = (start, start);
            let old = signed(Grant { lease: Some(6 * HOUR), ..grant(&ANNA, start) });
            let new = Grant { lease: Some(6 * HOUR), revision: 1, ..grant(&ANNA, start) }.sign(&owner());
            gate.renew(std::slice::from_ref(&new)).unwrap();
            let mut statements = Vec::new();
            let mut over = false;
            for event in events {
                match event {
                    Event::Restart { killed } => {
                        // What was in memory alone may be lost: at most a minute of time.
                        if !killed {
                            gate.flush(system).unwrap();
                        }
                        drop(gate);
                        gate = self::gate(&dir);
                    }
                    Event::Step(seconds) => system = system.saturating_add_signed(seconds),
                    Event::Pass(seconds) => {
                        truth += seconds;
                        system += seconds;
                    }
                    Event::State => {
                        let statement = statement(&gate, truth);
                        if gate.hear(&statement, system) == Ok(true) {
                            over = false;
                        }
                        statements.push(statement);
                    }
                    Event::Replay(n) => {
                        if let Some(old) = statements.get(n) {
                            // One that was refused when it came may count later; it is no older for that.
                            if gate.hear(old, system) == Ok(true) {
                                over = false;
                            }
                        }
                    }
                    Event::Come => {
                        let heard = gate.heard();
                        match come(&gate, &ANNA, &old, None, system).await {
                            Ok(_) => {
                                prop_assert!(!over, "served again without a new word");
                                prop_assert!(gate.clock.now(0) < heard.max(start) + 6 * HOUR);
                            }
                            Err(Refusal::LeaseExpired) => {
                                over = true;
                                // What is refused once is refused after a crash as well: within a minute it is written.
                                gate.flush(system + 60).unwrap();
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
            Ok(())
        })?;
    }
}
