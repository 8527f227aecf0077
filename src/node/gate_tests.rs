//! Stories at the door: friends, strangers, races, restarts.

use super::*;
use crate::config::time::now_s;
use crate::keyring::Purpose;
use crate::token::{Grant, MAX_DEVICES, Revocation, Scope, Target};

const NODE: [u8; 32] = [9; 32];
const SUBJECT: [u8; 32] = [1; 32];
const PHONE: [u8; 32] = [2; 32];
const LAPTOP: [u8; 32] = [3; 32];

fn owner() -> ed25519_dalek::SigningKey {
    Seed::from_bytes(&[7; 32]).signing_key(Purpose::IdentitySign)
}

fn grant(id: u8, mode: Mode) -> Grant {
    let now = now_s();
    Grant {
        id: [id; 8],
        issuer: [0; 32],
        node: Some(NODE),
        subject: SUBJECT,
        not_before: now - 10,
        expires: now + 1000,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 0,
        revision: 0,
        evidence: None,
        mode,
        role: Role::Exit,
        reserved: Default::default(),
    }
}

fn hello(grant: Grant, bind: Option<[u8; 32]>) -> Hello {
    Hello { grant: grant.sign(&owner()).encode(), bind, version: "test".into() }
}

fn gate(dir: &tempfile::TempDir) -> Arc<Gate> {
    let state = State::open(&dir.path().join("state")).unwrap();
    let gate = Arc::new(Gate::new(state, NODE, 1000, Log::in_memory()).unwrap());
    gate.claim(&owner().verifying_key().to_bytes(), None, 1).unwrap();
    gate
}

fn log_of(gate: &Gate) -> String {
    gate.log.after(0, usize::MAX).1.join("\n")
}

#[tokio::test]
async fn each_refusal_reaches_guest_and_log_alike() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(&dir);
    let base = grant(1, Mode::Once);
    let stranger = Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign);
    let foreign = Hello { grant: base.clone().sign(&stranger).encode(), bind: None, version: String::new() };
    let mut forged = base.clone().sign(&owner()).encode();
    *forged.last_mut().unwrap() ^= 1;
    let table = [
        (foreign, Refusal::UnknownKey),
        (Hello { grant: forged, bind: None, version: String::new() }, Refusal::GrantSignature),
        (hello(Grant { expires: now_s() - 1, ..base.clone() }, None), Refusal::GrantExpired),
        (hello(Grant { not_before: now_s() + 500, ..base.clone() }, None), Refusal::GrantNotYetValid),
        (hello(Grant { node: Some([5; 32]), ..base.clone() }, None), Refusal::WrongNode),
        (
            hello(Grant { scope: Scope { allow: vec!["exa mple".into()], ..Scope::default() }, ..base.clone() }, None),
            Refusal::UpgradeRequired,
        ),
        (hello(Grant { limits: Limits { bytes: Some(0), ..Limits::default() }, ..base.clone() }, None), Refusal::LimitReached),
        (Hello { grant: vec![1, 2, 3], bind: None, version: String::new() }, Refusal::GrantSignature),
    ];
    for (hello, expected) in table {
        let refusal = gate.admit(SUBJECT, &hello, Way::Direct, now_s()).await.err();
        assert_eq!(refusal, Some(expected));
        let (_, lines) = gate.log.after(0, 1);
        assert!(lines[0].contains(expected.as_str()), "{}", lines[0]);
    }
    assert_eq!(gate.admit([6; 32], &hello(base, None), Way::Direct, now_s()).await.err(), Some(Refusal::UnknownKey));
    assert_eq!(gate.sessions(), 0);
    assert!(gate.grants().is_empty(), "refused strangers leave nothing behind");
}

#[tokio::test]
async fn an_unclaimed_node_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(&dir.path().join("state")).unwrap();
    let gate = Arc::new(Gate::new(state, NODE, 10, Log::in_memory()).unwrap());
    assert_eq!(gate.admit(SUBJECT, &hello(grant(1, Mode::Try), None), Way::Direct, now_s()).await.err(), Some(Refusal::NotClaimed));
    let owner = owner().verifying_key().to_bytes();
    assert_eq!(gate.claim(&owner, None, 1).unwrap(), Claimed::Now);
    assert_eq!(gate.claim(&[4; 32], None, 1).unwrap(), Claimed::ByAnother);
    assert!(gate.admit(SUBJECT, &hello(grant(1, Mode::Try), None), Way::Direct, now_s()).await.is_ok());
}

#[tokio::test]
async fn the_burned_invite_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tried_before;
    {
        let gate = gate(&dir);
        tried_before = gate.admit(SUBJECT, &hello(grant(1, Mode::Once), None), Way::Direct, now_s()).await.unwrap();
        let accepted = gate.admit(SUBJECT, &hello(grant(1, Mode::Once), Some(PHONE)), Way::Direct, now_s()).await.unwrap();
        assert_eq!(tried_before.live.ended(), Some("grant-bound-elsewhere"), "whoever was only trying must leave");
        assert_eq!(accepted.live.ended(), None);
        // The answer got lost: the same device asks again.
        assert!(gate.admit(SUBJECT, &hello(grant(1, Mode::Once), Some(PHONE)), Way::Direct, now_s()).await.is_ok());
        assert!(gate.admit(PHONE, &hello(grant(1, Mode::Once), None), Way::Direct, now_s()).await.is_ok());
        for (client, bind) in [(SUBJECT, None), (SUBJECT, Some(LAPTOP)), (LAPTOP, None)] {
            let refusal = gate.admit(client, &hello(grant(1, Mode::Once), bind), Way::Direct, now_s()).await.err();
            assert_eq!(refusal, Some(Refusal::GrantBoundElsewhere));
        }
        let status = &gate.grants()[0];
        assert_eq!((status.reuse, status.bound.as_slice()), (3, &[PHONE][..]));
        assert!(log_of(&gate).contains("grant.bound"));
        // The first reuse is on disk at once; what an impatient thief adds comes with the next flush.
        assert_eq!(gate.state().snapshot().unwrap().grants[&[1; 8]].reuse, 1);
        gate.flush(now_s()).unwrap();
        drop((tried_before, accepted));
    }
    let gate = gate(&dir);
    assert_eq!(
        gate.admit(SUBJECT, &hello(grant(1, Mode::Once), None), Way::Direct, now_s()).await.err(),
        Some(Refusal::GrantBoundElsewhere)
    );
    assert!(gate.admit(PHONE, &hello(grant(1, Mode::Once), None), Way::Direct, now_s()).await.is_ok());
    assert_eq!(gate.grants()[0].reuse, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_racers_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(&dir);
    let racers: Vec<_> = (0..50u8)
        .map(|n| {
            let gate = gate.clone();
            tokio::spawn(async move {
                gate.admit(SUBJECT, &hello(grant(1, Mode::Once), Some([n + 100; 32])), Way::Direct, now_s()).await.map(|a| (n, a))
            })
        })
        .collect();
    let mut winners = Vec::new();
    for racer in racers {
        match racer.await.unwrap() {
            Ok(winner) => winners.push(winner),
            Err(refusal) => assert_eq!(refusal, Refusal::GrantBoundElsewhere),
        }
    }
    assert_eq!(winners.len(), 1);
    let status = &gate.grants()[0];
    assert_eq!((status.bound.as_slice(), status.reuse), (&[[winners[0].0 + 100; 32]][..], 49));
    assert_eq!((gate.sessions(), status.sessions), (1, 1));
    gate.flush(now_s()).unwrap();
    let grants = gate.state().snapshot().unwrap().grants;
    assert_eq!((grants[&[1; 8]].bound.len(), grants[&[1; 8]].reuse), (1, 49));
}

#[tokio::test]
async fn many_devices_may_share_and_try_is_never_bound() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(&dir);
    for device in [PHONE, LAPTOP, PHONE] {
        assert!(gate.admit(SUBJECT, &hello(grant(2, Mode::Many), Some(device)), Way::Direct, now_s()).await.is_ok());
        assert!(gate.admit(device, &hello(grant(2, Mode::Many), None), Way::Direct, now_s()).await.is_ok());
    }
    assert!(gate.admit(SUBJECT, &hello(grant(2, Mode::Many), None), Way::Direct, now_s()).await.is_ok());
    assert_eq!(gate.grants()[0].bound, [PHONE, LAPTOP]);
    for n in 0..MAX_DEVICES - 2 {
        assert!(gate.admit(SUBJECT, &hello(grant(2, Mode::Many), Some([n as u8 + 10; 32])), Way::Direct, now_s()).await.is_ok());
    }
    let one_more = gate.admit(SUBJECT, &hello(grant(2, Mode::Many), Some([200; 32])), Way::Direct, now_s()).await;
    assert_eq!(one_more.err(), Some(Refusal::LimitReached));
    assert!(gate.admit(SUBJECT, &hello(grant(3, Mode::Try), Some(PHONE)), Way::Direct, now_s()).await.is_err());
}

#[tokio::test]
async fn a_revocation_closes_what_is_open_and_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let revoke = |target| Revocation { issuer: [0; 32], target, at: 1, reason: String::new() }.sign(&owner());
    {
        let gate = gate(&dir);
        let anna = gate.admit(SUBJECT, &hello(grant(1, Mode::Once), Some(PHONE)), Way::Direct, now_s()).await.unwrap();
        let other = Grant { subject: LAPTOP, ..grant(2, Mode::Try) };
        let berta = gate.admit(LAPTOP, &hello(other.clone(), None), Way::Direct, now_s()).await.unwrap();
        assert_eq!(gate.revoke(&[revoke(Target::Grant([1; 8]))]).unwrap(), 1);
        assert_eq!((anna.live.ended(), berta.live.ended()), (Some("grant-revoked"), None));
        assert_eq!(gate.admit(PHONE, &hello(grant(1, Mode::Once), None), Way::Direct, now_s()).await.err(), Some(Refusal::GrantRevoked));
        assert_eq!(gate.revoke(&[revoke(Target::Subject(LAPTOP))]).unwrap(), 1);
        assert_eq!(berta.live.ended(), Some("grant-revoked"));
        assert!(gate.grants().iter().any(|grant| grant.id == [1; 8] && grant.revoked));
        drop((anna, berta));
    }
    let gate = gate(&dir);
    assert_eq!(gate.admit(PHONE, &hello(grant(1, Mode::Once), None), Way::Direct, now_s()).await.err(), Some(Refusal::GrantRevoked));
    let other = Grant { subject: LAPTOP, ..grant(2, Mode::Try) };
    assert_eq!(gate.admit(LAPTOP, &hello(other, None), Way::Direct, now_s()).await.err(), Some(Refusal::GrantRevoked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_slips_in_beside_a_revocation() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let gate = gate(&dir);
        let guests: Vec<_> = (0..20)
            .map(|_| {
                let gate = gate.clone();
                tokio::spawn(async move { gate.admit(SUBJECT, &hello(grant(1, Mode::Try), None), Way::Direct, now_s()).await })
            })
            .collect();
        let signed = Revocation { issuer: [0; 32], target: Target::Grant([1; 8]), at: 1, reason: String::new() }.sign(&owner());
        gate.revoke(&[signed]).unwrap();
        for guest in guests {
            match guest.await.unwrap() {
                Ok(admitted) => assert_eq!(admitted.live.ended(), Some("grant-revoked")),
                Err(refusal) => assert_eq!(refusal, Refusal::GrantRevoked),
            }
        }
    }
}

#[tokio::test]
async fn bounds_draining_and_usage() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = State::open(&dir.path().join("state")).unwrap();
        let gate = Arc::new(Gate::new(state, NODE, 2, Log::in_memory()).unwrap());
        gate.claim(&owner().verifying_key().to_bytes(), None, 1).unwrap();
        let limits = Limits { bytes: Some(1000), ..Limits::default() };
        let metered = Grant { limits, ..grant(1, Mode::Try) };
        let first = gate.admit(SUBJECT, &hello(metered.clone(), None), Way::Direct, now_s()).await.unwrap();
        let _second = gate.admit(SUBJECT, &hello(metered.clone(), None), Way::Direct, now_s()).await.unwrap();
        assert_eq!(gate.admit(SUBJECT, &hello(metered.clone(), None), Way::Direct, now_s()).await.err(), Some(Refusal::Busy));
        use crate::session::Meter;
        first.meters.sent(400);
        drop(first);
        assert_eq!(gate.admit(SUBJECT, &hello(metered, None), Way::Direct, now_s()).await.unwrap().limits.bytes, Some(600));
        gate.drain();
        assert_eq!(gate.admit(SUBJECT, &hello(grant(1, Mode::Try), None), Way::Direct, now_s()).await.err(), Some(Refusal::Busy));
        let visit = Grant { role: Role::Control, ..grant(200, Mode::Try) };
        assert!(gate.admit(SUBJECT, &hello(visit, None), Way::Direct, now_s()).await.is_ok(), "the owner still gets in");
        assert!(gate.grants().iter().all(|grant| grant.id == [1; 8]));
        gate.flush(now_s()).unwrap();
    }
    let state = State::open(&dir.path().join("state")).unwrap();
    assert_eq!(state.snapshot().unwrap().grants[&[1; 8]].usage.down, 400);
}

#[tokio::test]
async fn on_a_full_disk_nobody_is_promised_anything_and_later_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(&dir);
    // SQLite's own way to have no room left; what fits into the pages that exist is used up first.
    gate.state().limit_pages(1);
    let mut filled = 0u64;
    let error = loop {
        filled += 1;
        if let Err(error) = gate.state().bind(&filled.to_be_bytes(), &PHONE, true, 1, 0) {
            break error;
        }
    };
    assert!(error.hint_text().unwrap().contains("free some space"), "{error:?}");
    let mut grant_2 = grant(2, Mode::Once);
    grant_2.id = filled.to_be_bytes();
    assert_eq!(gate.admit(SUBJECT, &hello(grant_2.clone(), Some(PHONE)), Way::Direct, now_s()).await.err(), Some(Refusal::Busy));
    assert!(log_of(&gate).contains("storage.failed"));
    gate.state().limit_pages(1_000_000);
    assert!(gate.admit(SUBJECT, &hello(grant_2.clone(), Some(LAPTOP)), Way::Direct, now_s()).await.is_ok());
    assert_eq!(gate.admit(SUBJECT, &hello(grant_2, Some(PHONE)), Way::Direct, now_s()).await.err(), Some(Refusal::GrantBoundElsewhere));
}

#[tokio::test]
async fn while_it_is_off_nothing_is_bound_and_only_the_way_that_is_off_is_closed() {
    use crate::session::messages::{Switch, Switches};
    let dir = tempfile::tempdir().unwrap();
    let gate = gate(&dir);
    let off = |at, off| Switch { edition: (at, 0), off };
    let over_tor = gate.admit(SUBJECT, &hello(grant(1, Mode::Many), Some(PHONE)), Way::Tor, now_s()).await.unwrap();
    let direct = gate.admit(SUBJECT, &hello(grant(2, Mode::Many), Some(PHONE)), Way::Direct, now_s()).await.unwrap();
    assert_eq!(gate.switch(Switches { exit: Switch::default(), tor: off(1, true) }).unwrap().1, 1);
    assert_eq!((over_tor.live.ended(), direct.live.ended()), (Some("switched-off"), None));
    assert_eq!(gate.admit(PHONE, &hello(grant(1, Mode::Many), None), Way::Tor, now_s()).await.err(), Some(Refusal::SwitchedOff));
    assert!(gate.admit(PHONE, &hello(grant(1, Mode::Many), None), Way::Direct, now_s()).await.is_ok());

    assert_eq!(gate.switch(Switches { exit: off(1, true), tor: off(1, true) }).unwrap().1, 1);
    let fresh = grant(3, Mode::Once);
    assert_eq!(gate.admit(SUBJECT, &hello(fresh.clone(), Some(PHONE)), Way::Direct, now_s()).await.err(), Some(Refusal::SwitchedOff));
    let visit = Grant { role: Role::Control, ..grant(200, Mode::Try) };
    assert!(gate.admit(SUBJECT, &hello(visit, None), Way::Direct, now_s()).await.is_ok(), "the owner still gets in");
    gate.switch(Switches { exit: off(2, false), tor: off(1, true) }).unwrap();
    assert!(gate.admit(SUBJECT, &hello(fresh, Some(LAPTOP)), Way::Direct, now_s()).await.is_ok(), "it was not bound meanwhile");
}
