//! Every message comes back as it went, and nothing else is read.

use super::*;
use crate::encoding::onion::OnionAddress;
use proptest::prelude::*;
use std::fmt::Debug;

fn round_trip<T: Message + PartialEq + Debug>(message: &T) {
    let bytes = message.encode();
    assert!(bytes.len() <= T::LIMIT, "{} > {}", bytes.len(), T::LIMIT);
    assert_eq!(&T::decode(&bytes).unwrap(), message);
    assert!(T::decode(&bytes[..bytes.len() - 1]).is_err(), "cut short");
    assert!(T::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "trailing byte");
    let mut longer = message.to_map();
    longer.insert(99, 1u64);
    assert!(T::decode(&longer.encode()).is_err(), "unknown field");
}

fn grant(n: u8) -> GrantStatus {
    GrantStatus {
        id: [n; 8],
        bound: vec![[n; 32], [1; 32]],
        up: u64::MAX,
        down: 7,
        last_used: Some(1),
        reuse: 3,
        last_reuse: None,
        revoked: true,
        sessions: 2,
        last_way: Some(crate::token::Way::Tor),
        days: vec![(20_000, 7), (20_001, u64::MAX)],
        parent: Some([n; 8]),
        name: Some("bert".into()),
    }
}

fn status() -> Status {
    Status {
        version: "1.2.3".into(),
        label: "home".into(),
        node: [1; 32],
        owner: Some([2; 32]),
        seed_source: "local".into(),
        started: 5,
        now: 6,
        sessions: 7,
        streams: 8,
        draining: true,
        allow: vec!["10.0.0.0/8".into()],
        grants: vec![grant(1), GrantStatus::default()],
        onion: Some(onion()),
        heard: 4,
        exit_off: true,
        tor_off: true,
    }
}

fn onion() -> OnionStatus {
    OnionStatus {
        state: OnionState::Degraded,
        reason: Some("2 of 3 introduction points hold".into()),
        uploaded_at: Some(9),
        tested_at: Some(10),
        ..OnionStatus::new(OnionAddress::from_key([3; 32]), OnionAddress::from_key([4; 32]))
    }
}

#[test]
fn an_onion_service_tells_how_it_is_in_cbor_and_in_json() {
    for state in OnionState::ALL {
        let status = OnionStatus { state, ..onion() };
        round_trip(&status);
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], state.as_str());
        assert_eq!(serde_json::from_value::<OnionStatus>(json).unwrap(), status);
    }
    round_trip(&OnionStatus { reason: None, uploaded_at: None, tested_at: None, ..onion() });
    // A reason of any length travels, cut at a character.
    let long = OnionStatus { reason: Some("ä".repeat(400)), ..onion() };
    assert_eq!(OnionStatus::decode(&long.encode()).unwrap().reason.unwrap().len(), 300);
    assert!(OnionState::Ready.is_reachable() && OnionState::Degraded.is_reachable() && !OnionState::Publishing.is_reachable());
}

#[test]
fn bootstrap_messages_round_trip() {
    round_trip(&Challenge { nonce: [7; 32] });
    let offer = Offer {
        evidence: Some(vec![1; MAX_EVIDENCE]),
        app_digest: [2; 32],
        version: "0.1.0".into(),
        label: "home".into(),
        seed_source: "local".into(),
        claimed: true,
    };
    round_trip(&offer.clone());
    round_trip(&Offer { evidence: None, claimed: false, ..offer.clone() });
    assert!(Offer::decode(&Offer { evidence: Some(vec![1; MAX_EVIDENCE + 1]), ..offer }.encode()).is_err());
    for reply in [ClaimReply::Claimed, ClaimReply::Reconnected].into_iter().chain(ClaimRefusal::ALL.map(ClaimReply::Refused)) {
        round_trip(&reply);
    }
    for seed in [None, Some([3; 32])] {
        let claim = Claim { owner: [1; 32], signature: [2; 64], seed, rotations: Vec::new() };
        assert!(Claim::decode(&claim.encode()).unwrap() == claim);
    }
}

#[test]
fn the_claim_covers_handshake_and_node() {
    let payload = claim_payload(&[1; 32], &[2; 32]);
    assert_eq!((payload[0], payload[31], payload[32], payload[63]), (1, 1, 2, 2));
}

#[test]
fn control_messages_round_trip() {
    round_trip(&ControlRequest::Status);
    round_trip(&ControlRequest::Evidence(None));
    round_trip(&ControlRequest::Evidence(Some([1; 32])));
    round_trip(&EvidenceRequest::Show);
    let activation = Activation { credential_blob: vec![1; 520], encrypted_secret: vec![2; 520] };
    round_trip(&EvidenceRequest::Activate(activation.clone()));
    assert!(Turn::Activate(activation).encode().len() <= Turn::LIMIT);
    round_trip(&ControlRequest::Revoke(vec![vec![1; MAX_REVOCATION]; 100]));
    round_trip(&ControlRequest::Policy(None));
    round_trip(&ControlRequest::Policy(Some(vec![])));
    round_trip(&ControlRequest::Policy(Some(vec!["10.0.0.0/8:80".into()])));
    round_trip(&ControlRequest::Drain);
    round_trip(&ControlRequest::Logs(LogsRequest { after: 1, lines: 2, wait: 3 }));
    round_trip(&ControlRequest::Stop);
    round_trip(&ControlRequest::Discovery(Discovery { grant: [1; 8], key: [2; 32], expires: 3 }));
    round_trip(&ControlRequest::History);
    for (exit_off, tor_off) in [(false, false), (true, false), (false, true), (true, true)] {
        let switch = |off| Switch { edition: (u64::MAX, u64::MAX), off };
        let switches = Switches { exit: switch(exit_off), tor: switch(tor_off) };
        round_trip(&ControlRequest::Switch(switches));
        round_trip(&Reply::Done(Switched { now: switches, closed: u64::MAX }));
        round_trip(&switches);
    }
    round_trip(&Reply::Done(Nothing));
    round_trip(&Reply::<Nothing>::Failed { code: "refused".into(), text: "no".into() });
    round_trip(&Reply::Done(EvidenceReply { evidence: None, app_digest: [1; 32] }));
    round_trip(&Reply::Done(Revoked { accepted: 1, closed: 2 }));
    round_trip(&Reply::Done(PolicyReply { allow: vec!["::/0".into()] }));
    round_trip(&Reply::Done(LogsReply { last: 9, lines: vec!["{}".into()] }));
    round_trip(&Reply::Done(status()));
    round_trip(&Reply::Done(Status { grants: vec![grant(9); MAX_GRANTS], ..status() }));
}

#[test]
fn the_longest_history_fits_an_answer_and_has_one_spelling() {
    let used = Used { up: u64::MAX, down: u64::MAX, sessions: u64::MAX };
    let id = |n: usize| (n as u64).to_be_bytes();
    let day = |day| HistoryDay {
        day,
        handshakes: u64::MAX,
        refusals: (0..MAX_DAY_REASONS).map(|n| (format!("reason-{n:025}"), u64::MAX)).collect(),
        grants: (0..MAX_DAY_GRANTS).map(|n| GrantDay { id: id(n), used }).collect(),
        others: used,
    };
    let history = HistoryReply { days: (0..HISTORY_DAYS as u64).map(|n| day(u64::MAX - HISTORY_DAYS as u64 + n)).collect() };
    round_trip(&Reply::Done(history.clone()));
    round_trip(&HistoryReply::default());
    let refused = |change: &dyn Fn(&mut HistoryReply)| {
        let mut other = history.clone();
        change(&mut other);
        assert!(HistoryReply::decode(&other.encode()).is_err());
    };
    refused(&|history| history.days.push(day(u64::MAX)));
    refused(&|history| history.days.swap(0, 1));
    refused(&|history| history.days[0].grants.push(GrantDay { id: [255; 8], used }));
    refused(&|history| history.days[0].grants[0].id = id(1));
    refused(&|history| history.days[0].refusals.swap(0, 1));
    refused(&|history| history.days[0].refusals[0].0 = "x".repeat(33));
}

#[test]
fn bounds_hold_at_the_bound_and_beside_it() {
    let revocations = |n, length| ControlRequest::Revoke(vec![vec![0; length]; n]);
    assert!(ControlRequest::decode(&revocations(100, MAX_REVOCATION).encode()).is_ok());
    assert!(ControlRequest::decode(&revocations(1, MAX_REVOCATION + 1).encode()).is_err());
    assert!(ControlRequest::decode(&revocations(MAX_REVOCATIONS, 1).encode()).is_ok());
    assert!(ControlRequest::decode(&revocations(MAX_REVOCATIONS + 1, 1).encode()).is_err());
    let exit = |length| ExitRequest { host: "a".repeat(length), port: 65535 };
    assert!(ExitRequest::decode(&exit(1).encode()).is_ok());
    assert!(ExitRequest::decode(&exit(MAX_HOST).encode()).is_ok());
    assert!(ExitRequest::decode(&exit(MAX_HOST + 1).encode()).is_err());
    assert!(ExitRequest::decode(&exit(0).encode()).is_err());
    assert!(ExitRequest::decode(&Map::new().with(0, "a").with(1, 65536u64).encode()).is_err());
    assert!(ControlRequest::decode(&Map::new().with(0, 8u64).encode()).is_err());
}

#[test]
fn exit_replies_follow_rfc_1928() {
    for reply in ExitReply::ALL {
        assert_eq!(ExitReply::from_byte(reply as u8), reply);
        assert!(reply.socks() <= 8);
    }
    assert_eq!(ExitReply::from_byte(0x77), ExitReply::Failed);
    assert_eq!(ExitReply::NotAllowed as u8, 2);
}

#[tokio::test]
async fn first_bytes_and_replies_travel() {
    let request = ExitRequest { host: "example.org".into(), port: 443 };
    let mut bytes = request.first_bytes();
    bytes.extend_from_slice(b"early data");
    let mut reader = bytes.as_slice();
    let (kind, encoded) = read_first(&mut reader).await.unwrap();
    assert_eq!(kind, Kind::Exit);
    assert!(ExitRequest::decode(&encoded).unwrap() == request);
    assert_eq!(reader, b"early data");

    let (kind, encoded) = read_first(&mut first_bytes_empty(Kind::Echo).as_slice()).await.unwrap();
    assert_eq!((kind, encoded), (Kind::Echo, vec![0xa0]));
    for bad in [&[9u8, 0, 0][..], &[0, 0, 0], &[1, 0xff, 0xff], &[4, 0, 2, 0, 0], &[1, 0]] {
        assert!(read_first(&mut &bad[..]).await.is_err(), "{bad:?}");
    }

    let mut out = Vec::new();
    write_reply(&mut out, b"hello").await.unwrap();
    assert_eq!(read_reply(&mut out.as_slice()).await.unwrap(), b"hello");
    assert!(read_reply(&mut &out[..6]).await.is_err());
    assert!(read_reply(&mut &[0xff; 8][..]).await.is_err());
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = ControlRequest::decode(&bytes) { prop_assert_eq!(message.encode(), bytes.clone()); }
        if let Ok(message) = ExitRequest::decode(&bytes) { prop_assert_eq!(message.encode(), bytes.clone()); }
        if let Ok(message) = ClaimReply::decode(&bytes) { prop_assert_eq!(message.encode(), bytes); }
    }
}
