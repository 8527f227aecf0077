//! Tests of the tokens together: round trips, sizes, damage.

mod damage;
mod delegation;
mod properties;
mod vectors;

use super::blob::{self, BlobError, Type};
use super::*;
use crate::encoding::cbor::{CborError, Map};
use crate::encoding::onion::OnionAddress;
use crate::error::Code;
use ed25519_dalek::SigningKey;

pub(crate) fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) const NODE: [u8; 32] = [2; 32];

pub(crate) fn secret() -> Secret16 {
    Secret16::from_bytes([3; 16])
}

pub(crate) fn grant() -> Grant {
    Grant {
        id: [4; 8],
        issuer: [0; 32],
        node: Some(NODE),
        subject: secret().subject(),
        not_before: 1_800_000_000,
        expires: 1_800_086_400,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 0,
        revision: 0,
        evidence: None,
        mode: Mode::Once,
        role: Role::Exit,
        reserved: Map::new(),
    }
}

fn invite(grant: Grant, addresses: &[&str]) -> Invite {
    Invite {
        transport: Transport::direct(addresses.iter().map(|a| (*a).to_owned()).collect()),
        node: NODE,
        grant: grant.sign(&owner()).into(),
        secret: Some(secret()),
        name: Some("home".parse().unwrap()),
    }
}

/// The same, to be reached over Tor too.
fn with_onion(invite: Invite, restricted: bool) -> Invite {
    let onion = Some(Onion { address: OnionAddress::from_key([7; 32]), restricted });
    Invite { transport: Transport { onion, ..invite.transport.clone() }, ..invite }
}

#[test]
fn an_invite_over_tor_reads_back_and_stays_short() {
    let limits =
        Limits { bytes: Some(u64::MAX >> 11), bytes_per_day: None, bits_per_second: Some(u64::MAX >> 11), streams: Some(u32::MAX) };
    let full = Grant { limits, evidence: Some([9; 20]), ..grant() };
    for (addresses, restricted) in
        [(&[][..], false), (&[][..], true), (&["192.0.2.7:8443"][..], false), (&["[2001:db8::7]:8443"][..], true)]
    {
        let invite = with_onion(invite(full.clone(), addresses), restricted);
        let line = invite.to_blob().unwrap();
        assert!(line.len() <= TOR_BLOB_LIMIT, "{} for {:?}", line.len(), invite.transport);
        assert!(Invite::from_blob(&line).unwrap() == invite);
        assert!(Invite::from_blob(&invite.to_qr().unwrap()).unwrap() == invite);
    }
    let too_long =
        with_onion(invite(full, &["exit-with-a-rather-long-name.example.org:8443", "[2001:db8::7]:8443", "[2001:db8::8]:8443"]), false);
    assert_eq!(too_long.to_blob().unwrap_err().code(), Code::Usage);
    let sealed = Invite { secret: None, ..with_onion(invite(grant(), &[]), true) };
    assert_eq!(sealed.to_blob().unwrap_err().code(), Code::Usage, "without a secret there is no discovery key");
}

#[test]
fn the_discovery_key_is_another_than_the_subject() {
    let secret = secret();
    assert_ne!(secret.discovery(), secret.subject());
    assert_eq!(crate::keyring::x25519_public(&secret.discovery_secret()), secret.discovery());
}

fn line() -> String {
    invite(grant(), &["192.0.2.7:8443"]).to_blob().unwrap()
}

#[test]
fn an_invite_reads_back_as_it_was() {
    for grant in [grant(), Grant { node: None, ..grant() }, Grant { mode: Mode::Many, evidence: Some([9; 20]), ..grant() }] {
        let invite = invite(grant, &["192.0.2.7:8443", "[2001:db8::7]:8443", "exit.example.org:443"]);
        let read = Invite::from_blob(&invite.to_blob().unwrap()).unwrap();
        assert!(read == invite);
        assert_eq!(read.grant.encode(), invite.grant.encode());
        assert!(read.grant.root().verify_signature());
        assert!(Invite::from_blob(&invite.to_qr().unwrap()).unwrap() == invite);
    }
}

/// Everything at its largest that an exit invite carries: two addresses, name, all limits, evidence.
#[test]
fn the_largest_usual_invite_stays_within_450_characters() {
    let limits = Limits { bytes: Some(u64::MAX), bytes_per_day: None, bits_per_second: Some(u64::MAX), streams: Some(u32::MAX) };
    let largest = Grant { limits, evidence: Some([9; 20]), not_before: LATEST, expires: LATEST, ..grant() };
    let mut invite = invite(largest, &["192.0.2.7:65535", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"]);
    invite.name = Some("abcdefghijklmnopqrstuvwxyz012345".parse().unwrap());
    let line = invite.to_blob().unwrap();
    assert!(line.len() <= DIRECT_BLOB_LIMIT, "{}", line.len());
    println!("largest usual invite: {} characters", line.len());

    let name = format!("{}.example.org:8443", "a".repeat(60));
    invite.transport = Transport::direct(vec![name.clone(), name]);
    let error = invite.to_blob().unwrap_err();
    assert!(error.message().contains("more than 450") && error.hint_text().is_some());
}

#[test]
fn a_grant_with_reserved_fields_reads_and_asks_for_an_upgrade() {
    for (key, upgrade) in [(reserved::PARENT, true), (25, true), (reserved::WARN_BEFORE, false), (reserved::CHECKPOINT, false), (99, true)]
    {
        let signed = Grant { reserved: Map::new().with(key, 5u64), ..grant() }.sign(&owner());
        let read = SignedGrant::decode(&signed.encode()).unwrap();
        assert!(read.verify_signature() && read == signed);
        assert_eq!(read.grant().needs_upgrade(), upgrade, "key {key}");
    }
}

#[test]
fn an_unknown_transport_asks_for_an_upgrade() {
    let content = Map::new().with(0, 7u64).with(40, "something new").encode();
    let error = Invite::from_blob(&blob::encode(Type::Invite, &content)).unwrap_err();
    assert_eq!(error, BlobError::UnknownTransport(7));
    assert!(error.remedy().contains("upgrade"));
}

#[test]
fn an_unknown_mode_is_told_from_damage() {
    let mut map = Map::decode(grant().sign(&owner()).payload(), GRANT_LIMIT).unwrap();
    map.insert(11, 3u64);
    assert_eq!(SignedGrant::from_parts(map.encode(), [0; 64]), Err(CborError::Unknown(11)));
}

#[test]
fn secrets_stay_out_of_debug() {
    let text = format!("{:?}", invite(grant(), &["192.0.2.7:1"]));
    assert!(!text.contains("[3, 3") && text.contains("192.0.2.7:1"));
}

#[test]
fn a_line_survives_chat_programs() {
    let line = line();
    assert!(Invite::from_blob(&line).is_ok());
    let mid = line.len() / 2;
    let (a, b) = line.split_at(mid);
    for bent in [
        format!("Hi! Here: {line} – have fun."),
        format!("> {a}\n> {b}\n> see you, Bob"),
        format!("```\n{line}\n```"),
        format!("{a}\r\n    {b}"),
        format!("{a}\u{200b}{b}\u{feff}"),
        format!("'{line}'"),
        format!("({line})."),
        line.replace('-', "\u{2011}"),
        line.replace("--", "\u{2014}").replace('-', "\u{2013}"),
        line.chars().map(|c| format!("{c}\n")).collect(),
        format!("{line}\n\n> {line}"),
    ] {
        assert!(Invite::from_blob(&bent).is_ok(), "{bent}");
    }
}
