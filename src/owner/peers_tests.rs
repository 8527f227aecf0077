//! Who is added, what is refused, and what a new key keeps of the old one.

use super::*;
use crate::config::Paths;
use crate::keyring::Unlock;
use crate::token::Rotation;
use ed25519_dalek::SigningKey;

fn home() -> (tempfile::TempDir, Context) {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::new(Paths::find(Some(dir.path())).unwrap(), Unlock::default());
    cx.init().unwrap();
    (dir, cx)
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> String {
    node_id(&key(n).verifying_key().to_bytes())
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn blob(n: u8, name: &str, issued: u64, path: &[u8]) -> SignedIdentity {
    let rotations = path.windows(2).map(|pair| Rotation::sign(&key(pair[0]), &key(pair[1]), 1_800_000_000)).collect();
    let identity =
        Identity { identity: [0; 32], ecdh: [n; 32], name: Some(name.to_owned()), issued, client: Some([n + 100; 32]), rotations };
    SignedIdentity::from_blob(&identity.sign(&key(n)).to_blob()).unwrap()
}

fn events(cx: &Context, n: u8) -> Vec<String> {
    cx.ledger().unwrap().peer_history(&id(n)).unwrap().into_iter().map(|event| event.event).collect()
}

#[test]
fn a_peer_climbs_and_falls_one_step_at_a_time() {
    let (_dir, cx) = home();
    let (peer, added) = add(&cx, &blob(1, "Anna M.", 10, &[]), None).unwrap();
    assert_eq!((peer.name.as_str(), peer.state, added), ("anna-m", PeerState::Seen, Added::New));
    assert_eq!(trust(&cx, &peer, false).unwrap_err().code(), Code::Refused);
    let peer = verify(&cx, &peer, Compared::Qr).unwrap();
    let peer = trust(&cx, &peer, false).unwrap();
    assert_eq!((peer.state, peer.verified.as_deref()), (PeerState::Trusted, Some("qr")));
    let peer = demote(&cx, &peer).unwrap();
    assert_eq!(peer.state, PeerState::Verified);
    let peer = demote(&cx, &peer).unwrap();
    assert_eq!((peer.state, &peer.verified), (PeerState::Seen, &None));
    assert_eq!(demote(&cx, &peer).unwrap_err().code(), Code::Usage);
    let peer = trust(&cx, &peer, true).unwrap();
    let history = cx.ledger().unwrap().peer_history(&peer.id).unwrap();
    assert_eq!(history.last().unwrap().body.get("unverified"), Some(&true.into()), "how it came to be trusted is recorded");
}

#[test]
fn another_key_under_a_known_name_is_refused_and_written_down() {
    let (_dir, cx) = home();
    add(&cx, &blob(1, "anna", 10, &[]), None).unwrap();
    let error = add(&cx, &blob(2, "Anna", 11, &[]), None).unwrap_err();
    assert_eq!(error.code(), Code::Refused);
    assert!(error.causes().iter().any(|cause| cause.contains(&id(1))) && error.causes().iter().any(|cause| cause.contains(&id(2))));
    assert!(error.hint_text().unwrap().contains("portdistrict peer forget anna"));
    assert_eq!(events(&cx, 1), ["added", "refused"]);
    let by_adoption = adopt(&cx, &key(2).verifying_key().to_bytes(), None, &label("anna")).unwrap_err();
    assert_eq!(by_adoption.code(), Code::Refused);
    // The way out: it is somebody else.
    assert_eq!(add(&cx, &blob(2, "Anna", 11, &[]), Some(&label("anna-b"))).unwrap().1, Added::New);
}

#[test]
fn a_newer_line_brings_up_to_date_and_an_older_one_changes_nothing() {
    let (_dir, cx) = home();
    let (adopted, _) = adopt(&cx, &key(1).verifying_key().to_bytes(), Some("anna.example:1"), &label("anna")).unwrap();
    assert_eq!((adopted.provenance.as_str(), adopted.sealing), ("adopted", None));
    let (peer, added) = add(&cx, &blob(1, "whatever", 10, &[]), None).unwrap();
    assert_eq!((added, peer.name.as_str(), peer.endpoint.as_deref()), (Added::Renewed, "anna", Some("anna.example:1")));
    assert_eq!((peer.sealing, peer.client), (Some(B64([1; 32])), Some(B64([101; 32]))));
    assert_eq!(peer.provenance, "adopted", "how it first came is never forgotten");
    assert_eq!(add(&cx, &blob(1, "whatever", 10, &[]), None).unwrap().1, Added::Known);
    let old = Identity { ecdh: [77; 32], ..blob(1, "x", 5, &[]).identity().clone() }.sign(&key(1));
    assert_eq!(add(&cx, &old, None).unwrap().1, Added::Known);
    let (renamed, added) = add(&cx, &old, Some(&label("ann"))).unwrap();
    assert_eq!((added, renamed.name.as_str(), renamed.sealing), (Added::Renewed, "ann", Some(B64([1; 32]))));
    assert_eq!(adopt(&cx, &[0; 32], None, &label("zero")).unwrap_err().code(), Code::Usage);
}

#[test]
fn a_rotated_key_keeps_what_the_old_one_had() {
    let (_dir, cx) = home();
    let (peer, _) = add(&cx, &blob(1, "anna", 10, &[]), None).unwrap();
    let peer = verify(&cx, &peer, Compared::Words).unwrap();
    trust(&cx, &peer, false).unwrap();
    // She rotated twice, and we hear of it once.
    let (peer, added) = add(&cx, &blob(3, "anna", 20, &[1, 2, 3]), None).unwrap();
    assert_eq!(added, Added::Rotated(id(1)));
    assert_eq!((peer.name.as_str(), peer.state, peer.verified.as_deref()), ("anna", PeerState::Trusted, Some("words")));
    assert_eq!(peer.provenance, "rotated");
    assert_eq!(events(&cx, 1), ["added", "verified", "trusted", "succeeded"]);
    assert_eq!(cx.ledger().unwrap().peers(None).unwrap().peers.len(), 1);
    // Whoever has the old key cannot come back with it, nor lead it elsewhere.
    assert_eq!(add(&cx, &blob(1, "anna", 30, &[]), None).unwrap_err().code(), Code::Refused);
    assert_eq!(add(&cx, &blob(4, "anna", 30, &[1, 4]), None).unwrap_err().code(), Code::Refused);
}

#[test]
fn a_revoked_peer_comes_back_only_after_it_was_forgotten() {
    let (_dir, cx) = home();
    let (peer, _) = add(&cx, &blob(1, "anna", 10, &[]), None).unwrap();
    let peer = revoke(&cx, &peer, "stolen").unwrap();
    assert_eq!(revoke(&cx, &peer, "").unwrap().span, peer.span, "again changes nothing");
    for error in [
        add(&cx, &blob(1, "anna", 20, &[]), None).unwrap_err(),
        add(&cx, &blob(2, "anna", 20, &[1, 2]), None).unwrap_err(),
        verify(&cx, &peer, Compared::Words).unwrap_err(),
        trust(&cx, &peer, true).unwrap_err(),
        demote(&cx, &peer).unwrap_err(),
    ] {
        assert!(error.code() == Code::Refused && error.hint_text().unwrap().contains("peer forget anna"), "{error:?}");
    }
    // Two processes at once: what the first wrote counts for the second, which had looked before.
    let raced = cx.record(&PeerTrusted { id: peer.id.clone(), unverified: true }).unwrap_err();
    assert_eq!(raced.code(), Code::Refused);
    forget(&cx, &peer).unwrap();
    assert_eq!(cx.ledger().unwrap().peer("anna").unwrap_err().code(), Code::NotFound);
    let (peer, _) = add(&cx, &blob(1, "anna", 20, &[]), None).unwrap();
    assert_eq!(peer.state, PeerState::Seen);
    assert_eq!(events(&cx, 1), ["added", "revoked", "forgotten", "added"]);
}

#[test]
fn nobody_is_his_own_peer() {
    let (_dir, cx) = home();
    let own = cx.keyring().unwrap().identity_key();
    let me = Identity { identity: [0; 32], ecdh: [1; 32], name: None, issued: 1, client: None, rotations: Vec::new() }.sign(&own);
    assert_eq!(add(&cx, &me, Some(&label("me"))).unwrap_err().hint_text(), Some("portdistrict identity show"));
    let nameless = Identity { identity: [0; 32], ecdh: [1; 32], name: None, issued: 1, client: None, rotations: Vec::new() };
    assert!(add(&cx, &nameless.sign(&key(1)), None).unwrap_err().hint_text().unwrap().contains("--as NAME"));
}
