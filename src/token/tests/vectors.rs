//! `tests/vectors/tokens.json`: good tokens under fixed keys, and their bad neighbours, for this and other implementations.
//!
//! `UPDATE_VECTORS=1 cargo test --lib vectors` writes the file anew; a change of a good token breaks blobs in chats.

use super::*;
use crate::encoding::{hex, json};
use serde_json::{Value as Json, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/tokens.json");

fn stranger() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

fn case(name: &str, kind: &str, text: &str, result: &str) -> Json {
    json!({ "name": name, "kind": kind, "text": text, "result": result })
}

/// Payload and signature as one wire value, whatever they hold.
fn sealed(payload: &[u8], signature: [u8; 64]) -> Vec<u8> {
    Map::new().with(0, payload).with(1, signature).encode()
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let last = out.len() - 1;
    out[last] ^= 1;
    out
}

/// A good blob and what can happen to it. `by_stranger` is the same content with the signature of another key.
fn with_neighbours(name: &str, typ: Type, good: &str, by_stranger: &[u8]) -> Vec<Json> {
    let kind = typ.as_str();
    let content = blob::read(typ, good).unwrap();
    let other = if good.as_bytes()[60] == b'x' { "y" } else { "x" };
    let changed = format!("{}{other}{}", &good[..60], &good[61..]);
    let longer = [&content[..], &[0]].concat();
    let short = &content[..content.len() - 1];
    vec![
        case(name, kind, good, "ok"),
        case(&format!("{name}, wrapped and quoted"), kind, &format!("> Hi,\n> {}\n> {} see you", &good[..70], &good[70..]), "ok"),
        case(&format!("{name}, as in a QR code"), kind, &blob::encode_for_qr(typ, &content), "ok"),
        case(&format!("{name}, one letter changed"), kind, &changed, "damaged"),
        case(&format!("{name}, cut short"), kind, &good[..good.len() - 9], "truncated"),
        case(&format!("{name}, extended"), kind, &format!("{good}AA"), "damaged"),
        case(&format!("{name}, version 2"), kind, &good.replacen("1:", "2:", 1), "other-version"),
        case(&format!("{name}, content extended under a good checksum"), kind, &blob::encode(typ, &longer), "content"),
        case(&format!("{name}, content cut under a good checksum"), kind, &blob::encode(typ, short), "content"),
        case(&format!("{name}, signed by somebody else"), kind, &blob::encode(typ, by_stranger), "signature"),
    ]
}

fn invites() -> Vec<Json> {
    let plain = invite(grant(), &["192.0.2.7:8443"]);
    let limits = Limits { bytes: Some(10_000_000_000), bytes_per_day: None, bits_per_second: Some(50_000_000), streams: Some(200) };
    let full = Grant {
        limits,
        evidence: Some([9; 20]),
        scope: Scope { allow: vec!["tcp:443".into()], ..Scope::default() },
        mode: Mode::Many,
        ..grant()
    };
    let full = invite(full, &["[2001:db8::7]:8443", "exit.example.org:443"]);
    let any_node = invite(Grant { node: None, mode: Mode::Try, ..grant() }, &["192.0.2.7:8443"]);
    let later = invite(Grant { reserved: Map::new().with(reserved::PARENT, 3u64), ..grant() }, &["192.0.2.7:8443"]);
    let scope = Scope {
        allow: vec!["*.example.org:443".into(), "192.0.2.0/24".into()],
        deny: vec!["ads.example.org".into()],
        window: Some("Mon-Fri 09:00-17:00 +02:00".parse().unwrap()),
        way: Some(Way::Direct),
        devices: Some(3),
        paused: false,
    };
    let limits = Limits { bytes_per_day: Some(1 << 30), ..Limits::default() };
    let scoped = Grant { scope, limits, lease: Some(21_600), delegable: 2, revision: 1, mode: Mode::Many, ..grant() };
    let caveat = Caveat { salt: [8; 4], expires: Some(1_800_050_000), ..Caveat::new("bert".parse().unwrap()) };
    let passed_on = invite(Grant { delegable: 1, ..grant() }, &["192.0.2.7:8443"]);
    let passed_on = Invite { grant: passed_on.grant.with(caveat), ..passed_on };
    let mut out = Vec::new();
    let onion = |restricted| Some(Onion { address: OnionAddress::from_key([7; 32]), restricted });
    let over_tor = Invite { transport: Transport { addresses: Vec::new(), onion: onion(false) }, ..plain.clone() };
    let restricted = Invite { transport: Transport { addresses: Vec::new(), onion: onion(true) }, ..plain.clone() };
    let both = Invite { transport: Transport { onion: onion(false), ..plain.transport.clone() }, ..plain.clone() };
    for (name, invite) in [
        ("invite", plain),
        ("invite with every field", full),
        ("invite for any node", any_node),
        ("invite with a reserved field", later),
        ("invite with every scope", invite(scoped, &["192.0.2.7:8443"])),
        ("invite that was passed on", passed_on),
        ("invite over Tor", over_tor),
        ("invite over Tor to a restricted service", restricted),
        ("invite for both ways", both),
    ] {
        let good = invite.to_blob().unwrap();
        let mut map = Map::decode(&blob::read(Type::Invite, &good).unwrap(), 4096).unwrap();
        map.insert(4, keyring_sign("grant", invite.grant.root().payload()));
        out.extend(with_neighbours(name, Type::Invite, &good, &map.encode()));
    }
    let transport = Map::new().with(0, 7u64).with(1, "abc").encode();
    out.push(case("invite over a later transport", "invite", &blob::encode(Type::Invite, &transport), "unknown-transport"));
    out.push(case("grant instead of an invite", "invite", &grant().sign(&owner()).to_blob(), "wrong-type"));
    out
}

fn keyring_sign(typ: &str, payload: &[u8]) -> [u8; 64] {
    crate::keyring::sign(&stranger(), typ, payload)
}

fn others() -> Vec<Json> {
    let signed = Grant { subject: [6; 32], ..grant() }.sign(&owner());
    let forged = sealed(signed.payload(), keyring_sign("grant", signed.payload()));
    let mut out = with_neighbours("grant", Type::Grant, &signed.to_blob(), &forged);
    let plain = Identity {
        identity: [0; 32],
        ecdh: [5; 32],
        name: Some("Anna".into()),
        issued: 1_800_000_000,
        client: None,
        rotations: Vec::new(),
    };
    let rotations = vec![Rotation::sign(&stranger(), &owner(), 1_799_000_000)];
    let full = Identity { client: Some([6; 32]), rotations, ..plain.clone() };
    let unproven = Identity { rotations: vec![Rotation::sign(&owner(), &stranger(), 1_799_000_000)], ..full.clone() };
    for (name, identity) in [("identity", plain), ("identity with every field", full)] {
        let identity = identity.sign(&owner());
        let content = blob::read(Type::Identity, &identity.to_blob()).unwrap();
        let payload = Map::decode(&content, 2048).unwrap().bytes(0, 2048).unwrap();
        out.extend(with_neighbours(name, Type::Identity, &identity.to_blob(), &sealed(&payload, keyring_sign("identity", &payload))));
    }
    out.push(case("identity with a rotation to another key", "identity", &unproven.sign(&owner()).to_blob(), "signature"));
    for (name, target) in [("revocation of a grant", Target::Grant([4; 8])), ("revocation of a key", Target::Subject([6; 32]))] {
        let wire = Revocation { issuer: [0; 32], target, at: 1_800_000_100, reason: "lost phone".into() }.sign(&owner()).encode();
        let payload = Map::decode(&wire, 512).unwrap().bytes(0, 512).unwrap();
        out.push(case(name, "revocation", &hex(&wire), "ok"));
        out.push(case(&format!("{name}, bit flipped"), "revocation", &hex(&flipped(&wire)), "signature"));
        out.push(case(&format!("{name}, cut short"), "revocation", &hex(&wire[..wire.len() - 1]), "content"));
        out.push(case(&format!("{name}, extended"), "revocation", &hex(&[&wire[..], &[0]].concat()), "content"));
        let forged = sealed(&payload, keyring_sign("revocation", &payload));
        out.push(case(&format!("{name}, signed by somebody else"), "revocation", &hex(&forged), "signature"));
    }
    out
}

fn says(grant: &Grant) -> Json {
    json!({
        "id": hex(&grant.id),
        "issuer": hex(&grant.issuer),
        "node": grant.node.map(|n| hex(&n)),
        "subject": hex(&grant.subject),
        "not_before": grant.not_before,
        "expires": grant.expires,
        "bytes": grant.limits.bytes,
        "bits_per_second": grant.limits.bits_per_second,
        "streams": grant.limits.streams,
        "egress": grant.scope.allow,
        "evidence": grant.evidence.map(|e| hex(&e)),
        "mode": grant.mode.as_str(),
        "needs_upgrade": grant.needs_upgrade(),
    })
}

/// Reads one case as its kind says; a good one tells what it holds.
fn run(kind: &str, text: &str) -> Result<Json, BlobError> {
    match kind {
        "invite" => Invite::from_blob(text).map(|invite| {
            let addresses = &invite.transport.addresses;
            let onion = invite.transport.onion.map(|onion| onion.address.to_string());
            let restricted = invite.transport.onion.is_some_and(|onion| onion.restricted);
            let transport = invite.transport.as_str();
            json!({ "transport": transport, "addresses": addresses, "onion": onion, "restricted": restricted, "node": hex(&invite.node), "name": invite.name, "grant": says(invite.grant.root().grant()) })
        }),
        "grant" => SignedGrant::from_blob(text).map(|signed| says(signed.grant())),
        "identity" => SignedIdentity::from_blob(text).map(|signed| {
            let id = signed.identity();
            let rotations: Vec<_> = id.rotations.iter().map(|r| json!({ "old": hex(&r.rotation().old), "at": r.rotation().at })).collect();
            json!({
                "identity": hex(&id.identity), "ecdh": hex(&id.ecdh), "name": id.name, "issued": id.issued,
                "client": id.client.map(|key| hex(&key)), "rotations": rotations,
            })
        }),
        "revocation" => {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
            let signed = SignedRevocation::decode(&bytes)?;
            let owner = owner().verifying_key().to_bytes();
            let says = signed.revocation();
            signed.verify(&owner).then(|| json!({ "at": says.at, "reason": says.reason })).ok_or(BlobError::Signature)
        }
        other => panic!("no such kind of vector: {other}"),
    }
}

fn file() -> Json {
    let mut cases = invites();
    cases.extend(others());
    for case in &mut cases {
        let outcome = run(case["kind"].as_str().unwrap(), case["text"].as_str().unwrap());
        if let Ok(says) = outcome {
            case["says"] = says;
        }
    }
    let keys = json!({
        "owner_secret": hex(&owner().to_bytes()),
        "owner": hex(&owner().verifying_key().to_bytes()),
        "stranger_secret": hex(&stranger().to_bytes()),
        "invite_secret": hex(&[3; 16]),
        "subject": hex(&secret().subject()),
        "node": hex(&NODE),
    });
    json!({ "v": 1, "keys": keys, "cases": cases })
}

#[test]
fn the_file_is_what_this_version_writes() {
    let now = serde_json::to_string_pretty(&file()).unwrap() + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(PATH, &now).unwrap();
    }
    let stored = std::fs::read_to_string(PATH).unwrap();
    assert!(stored == now, "tests/vectors/tokens.json differs; if that is meant: UPDATE_VECTORS=1 cargo test --lib vectors");
}

#[test]
fn each_vector_gives_its_result() {
    let stored: Json = serde_json::from_str(&std::fs::read_to_string(PATH).unwrap()).unwrap();
    assert!(json::canonical(&stored).is_ok(), "integers below 2^53 only");
    let cases = stored["cases"].as_array().unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let [name, kind, text, result] = ["name", "kind", "text", "result"].map(|f| case[f].as_str().unwrap());
        match run(kind, text) {
            Ok(says) => assert_eq!((result, &case["says"]), ("ok", &says), "{name}"),
            Err(error) => assert_eq!(error.as_str(), result, "{name}: {error:?}"),
        }
    }
}
