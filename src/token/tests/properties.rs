//! Properties that hold for every token, not only for those in the examples.

use super::*;
use proptest::option::of;
use proptest::prelude::*;

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    (of(any::<u64>()), of(any::<u64>()), of(any::<u64>()), of(any::<u32>()))
        .prop_map(|(bytes, bytes_per_day, bits_per_second, streams)| Limits { bytes, bytes_per_day, bits_per_second, streams })
}

pub(super) fn scope() -> impl Strategy<Value = Scope> {
    let rules = || proptest::collection::vec("[a-z0-9.:/*-]{0,40}", 0..4);
    let hours = proptest::option::of((0u32..24, 1u32..24, 0usize..7));
    let way = of(prop_oneof![Just(Way::Direct), Just(Way::Tor)]);
    (rules(), rules(), hours, way, of(1..=MAX_DEVICES), any::<bool>()).prop_map(|(allow, deny, hours, way, devices, paused)| {
        let days = ["Mon", "Tue-Fri", "Wed", "Thu-Tue", "Fri", "daily", "Sun"];
        let window =
            hours.map(|(start, length, day)| format!("{} {start:02}:00-{:02}:00", days[day], (start + length) % 24).parse().unwrap());
        Scope { allow, deny, window, way, devices, paused }
    })
}

fn reserved_fields() -> impl Strategy<Value = Map> {
    proptest::collection::btree_map(prop_oneof![17u64..20, 25u64..40], any::<u64>(), 0..4)
        .prop_map(|fields| fields.into_iter().fold(Map::new(), |map, (key, value)| map.with(key, value)))
}

pub(crate) fn any_grant() -> impl Strategy<Value = Grant> {
    let keys = (any::<[u8; 8]>(), of(Just(NODE)), any::<[u8; 20]>().prop_map(Some));
    let times = (0..=LATEST, 0..=LATEST);
    let mode = prop_oneof![Just(Mode::Try), Just(Mode::Once), Just(Mode::Many)];
    let role = prop_oneof![Just(Role::Exit), Just(Role::Control)];
    let rest = (of(any::<u64>()), 0..=MAX_DEPTH, any::<u64>());
    (keys, times, limits(), scope(), (mode, role), rest, reserved_fields()).prop_map(
        |(keys, times, limits, scope, (mode, role), rest, reserved)| Grant {
            id: keys.0,
            issuer: owner().verifying_key().to_bytes(),
            node: keys.1,
            subject: secret().subject(),
            not_before: times.0,
            expires: times.1,
            limits,
            scope,
            lease: rest.0,
            delegable: rest.1,
            revision: rest.2,
            evidence: keys.2,
            mode,
            role,
            reserved,
        },
    )
}

proptest! {
    #[test]
    fn a_grant_reads_back_as_it_was(grant in any_grant()) {
        let signed = grant.clone().sign(&owner());
        prop_assert_eq!(signed.grant(), &grant);
        let read = SignedGrant::decode(&signed.encode()).unwrap();
        prop_assert!(read.verify_signature());
        prop_assert_eq!(&read, &signed);
        prop_assert_eq!(SignedGrant::from_blob(&signed.to_blob()).unwrap(), signed);
    }

    #[test]
    fn an_invite_for_any_grant_reads_back(grant in any_grant()) {
        let invite = invite(grant, &["192.0.2.7:8443"]);
        let qr = invite.to_qr().unwrap();
        prop_assert!(Invite::from_blob(&qr).unwrap() == invite);
        if let Ok(line) = invite.to_blob() {
            prop_assert!(line.len() <= DIRECT_BLOB_LIMIT);
            prop_assert!(Invite::from_blob(&line).unwrap() == invite);
        }
    }

    #[test]
    fn a_flipped_bit_of_a_grant_is_refused(grant in any_grant(), bit in any::<prop::sample::Index>()) {
        let mut bytes = grant.sign(&owner()).encode();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = SignedGrant::decode(&bytes) {
            prop_assert!(!read.verify_signature());
        }
    }

    #[test]
    fn a_flipped_bit_of_a_blob_is_refused(content in proptest::collection::vec(any::<u8>(), 0..300), bit in any::<prop::sample::Index>()) {
        let mut bytes = blob::encode(Type::Grant, &content).into_bytes();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(text) = String::from_utf8(bytes) {
            prop_assert!(blob::read(Type::Grant, &text).is_err());
        }
    }

    #[test]
    fn a_blob_reads_back_among_words(content in proptest::collection::vec(any::<u8>(), 0..300), before in "[ -~é\n]{0,40}", after in "[ -~é\n]{0,40}", every in 1usize..60) {
        let letters: Vec<char> = blob::encode(Type::Identity, &content).chars().collect();
        let wrapped: Vec<String> = letters.chunks(every).map(String::from_iter).collect();
        let text = format!("{before} {}\n{after}", wrapped.join("\n> "));
        prop_assert_eq!(blob::read(Type::Identity, &text), Ok(content.clone()));
        prop_assert_eq!(blob::read(Type::Identity, &blob::encode_for_qr(Type::Identity, &content)), Ok(content));
    }

    #[test]
    fn the_reader_ends_on_any_text(text in "\\PC{0,200}") {
        let _ = blob::read_one_of(&Type::ALL, &text);
        let _ = blob::read_one_of(&Type::ALL, &format!("portdistrict-invite1:{text}"));
        let _ = blob::read_one_of(&Type::ALL, &format!("PORTDISTRICT-INVITE1:{text}"));
    }

    #[test]
    fn a_revocation_reads_back_and_is_its_issuers(id in any::<[u8; 8]>(), key in any::<[u8; 32]>(), one in any::<bool>(), at in 0..=LATEST, reason in "\\PC{0,120}") {
        let target = if one { Target::Grant(id) } else { Target::Subject(key) };
        let signed = Revocation { issuer: [0; 32], target, at, reason }.sign(&owner());
        let read = SignedRevocation::decode(&signed.encode()).unwrap();
        prop_assert!(read.verify(&owner().verifying_key().to_bytes()));
        prop_assert!(!read.verify(&key));
        prop_assert_eq!(read, signed);
    }

    #[test]
    fn an_identity_reads_back(ecdh in any::<[u8; 32]>(), name in of("\\PC{0,60}"), issued in 0..=LATEST) {
        let signed = Identity { identity: [0; 32], ecdh, name, issued, client: Some(ecdh), rotations: Vec::new() }.sign(&owner());
        prop_assert_eq!(SignedIdentity::from_blob(&signed.to_blob()).unwrap(), signed);
    }
}
