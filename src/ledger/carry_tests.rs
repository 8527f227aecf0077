//! Exports: who sees what, the same bytes again, and every way in which a line can be bad.

use super::dag_tests::{Device, rotated};
use super::tests::{Home, begin, keyring};
use super::*;
use crate::config::time;
use crate::error::Code;
use proptest::prelude::*;
use serde_json::{Value, json};

const ANNA: &str = "AT244KA2IF466VBOXBHQMRMHN7RVISC2";
const BERT: &str = "BT244KA2IF466VBOXBHQMRMHN7RVISC2";

fn export(ledger: &Ledger, audience: &str) -> String {
    let mut lines = Vec::new();
    ledger.export(&audience.parse().unwrap(), &mut lines).unwrap();
    String::from_utf8(lines).unwrap()
}

/// An empty place to import into.
struct Archive(tempfile::TempDir);

impl Archive {
    fn new() -> Archive {
        Archive(tempfile::tempdir().unwrap())
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.0.path().join("ledger.db")).unwrap()
    }

    /// The error of an import, which left nothing behind.
    fn refuses(&self, text: &str) -> Error {
        let error = self.ledger().import(text.as_bytes(), None, false).unwrap_err();
        assert_eq!(self.ledger().log(&Filter::default()).unwrap().len(), 0);
        assert!(error.hint_text().is_some());
        error
    }
}

/// The lines with their first and last brought in line with what is between.
fn sealed(lines: &[String]) -> String {
    let mut header: Value = serde_json::from_str(&lines[0]).unwrap();
    header["spans"] = (lines.len() - 1).into();
    let mut text = String::from_utf8(crate::encoding::json::canonical(&header).unwrap()).unwrap() + "\n";
    for line in &lines[1..] {
        text += line;
        text.push('\n');
    }
    let digest = B64(*blake3::hash(text.as_bytes()).as_bytes());
    text + &format!("{{\"blake3\":\"{digest}\",\"count\":{}}}\n", lines.len() - 1)
}

fn without_trailer(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.pop();
    lines
}

#[test]
fn what_is_imported_into_an_empty_home_is_exported_as_the_same_bytes() {
    let (one, two) = (Device::new(2), Device::new(3));
    for n in 0..5 {
        one.writes("note.made", json!({"n": n, "for": "device"}));
        two.hears(&one);
        two.writes("note.made", json!({ "n": n }));
        one.hears(&two);
    }
    for audience in ["device", "devices"] {
        let first = export(&one.ledger(), audience);
        let archive = Archive::new();
        let done = archive.ledger().import(first.as_bytes(), None, false).unwrap();
        assert_eq!((done.spans + done.withheld, done.known), (12, 0));
        assert!(archive.ledger().verify().unwrap().is_ok());
        assert_eq!(archive.ledger().verify().unwrap().withheld, if audience == "device" { 0 } else { 5 });
        let again = export(&archive.ledger(), audience);
        assert_eq!(first.lines().skip(1).take(12).collect::<Vec<_>>(), again.lines().skip(1).take(12).collect::<Vec<_>>());
        let known = archive.ledger().import(first.as_bytes(), None, false).unwrap();
        assert_eq!((known.spans, known.withheld, known.known), (0, 0, 12));
    }
    // The same spans in another order of arrival are the same lines.
    let spans = |text: String| text.lines().skip(1).take(12).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(spans(export(&one.ledger(), "devices")), spans(export(&two.ledger(), "devices")));
}

#[test]
fn a_dry_run_checks_everything_and_keeps_nothing() {
    let (text, archive) = (export(&Home::filled().ledger(), "devices"), Archive::new());
    assert_eq!(archive.ledger().import(text.as_bytes(), None, true).unwrap().spans, 6);
    assert!(archive.ledger().log(&Filter::default()).unwrap().is_empty());
}

#[test]
fn what_was_withheld_can_come_later_and_a_lost_tail_comes_back() {
    let (one, archive) = (Device::new(2), Archive::new());
    one.writes("note.made", json!({"for": "device"}));
    one.writes("note.made", json!({}));
    archive.ledger().import(export(&one.ledger(), "devices").as_bytes(), None, false).unwrap();
    let whole = export(&one.ledger(), "device");
    let done = archive.ledger().import(whole.as_bytes(), None, false).unwrap();
    assert_eq!((done.spans, done.known), (1, 2));
    assert!(archive.ledger().verify().unwrap().is_ok(), "{:?}", archive.ledger().verify());
    assert_eq!(export(&archive.ledger(), "device").lines().nth(2), whole.lines().nth(2));
    // Another device never gets the content, whatever it is given.
    let two = Device::new(3);
    let done = two.ledger().import(whole.as_bytes(), Some(two.keyring.device_public()), false).unwrap();
    assert_eq!((done.spans, done.withheld), (2, 1));
    // An old copy of the device gets its own past back, and goes on from its end.
    let old = Archive::new();
    old.ledger().record(&one.keyring.device_key(), &begin(&keyring(1, 2))).unwrap();
    let old_begin = old.ledger().log(&Filter::default()).unwrap()[0].id;
    let forked = old.ledger().import(whole.as_bytes(), None, false);
    if one.ledger().log(&Filter::default()).unwrap()[0].id != old_begin {
        assert!(forked.unwrap_err().message().contains("two histories"));
    }
}

#[test]
fn a_device_whose_own_span_came_back_as_a_link_does_not_fork() {
    let (one, two) = (Device::new(2), Device::new(3));
    one.writes("note.made", json!({"for": "device"}));
    two.hears(&one);
    // The device lost everything and gets back what the other had.
    let restored = Archive::new();
    restored.ledger().import(export(&two.ledger(), "devices").as_bytes(), Some(one.keyring.device_public()), false).unwrap();
    restored.ledger().append(&one.keyring.device_key(), "note.made", json!({})).unwrap();
    let log = restored.ledger().log(&Filter { kind: Some("note.*".into()), ..Filter::default() }).unwrap();
    assert_eq!(log.last().unwrap().span.seq, 2);
    assert!(restored.ledger().verify().unwrap().is_ok(), "{:?}", restored.ledger().verify());
}

#[test]
fn every_bad_line_is_named_and_nothing_is_taken_in() {
    let home = Home::filled();
    let good = export(&home.ledger(), "devices");
    let lines = without_trailer(&good);
    assert_eq!(sealed(&lines), good, "the helper makes what the exporter makes");
    let changed = |at: usize, change: &dyn Fn(&mut Vec<String>, usize)| {
        let mut lines = lines.clone();
        change(&mut lines, at);
        sealed(&lines)
    };
    for at in 1..lines.len() {
        let missing = changed(at, &|lines, at| drop(lines.remove(at)));
        let doubled = changed(at, &|lines, at| lines.insert(at, lines[at].clone()));
        let bit = changed(at, &|lines, at| lines[at] = lines[at].replace("\"seq\":", "\"seq\":1"));
        let signature = changed(at, &|lines, at| lines[at].replace_range(60..64, "AAAA"));
        for (what, text, line) in
            [("missing", missing, at + 1), ("doubled", doubled, at + 2), ("changed", bit, at + 1), ("signature", signature, at + 1)]
        {
            let error = Archive::new().refuses(&text);
            let last = what == "missing" && at == lines.len() - 1;
            assert!(error.message().contains(&format!("line {} of", if last { at + 1 } else { line })), "{what} {at}: {error:?}");
        }
        if at + 1 < lines.len() {
            let error = Archive::new().refuses(&changed(at, &|lines, at| lines.swap(at, at + 1)));
            assert!(error.message().contains(&format!("line {} of", at + 1)), "swapped {at}: {error:?}");
        }
    }
}

#[test]
fn a_changed_frame_is_refused() {
    let home = Home::filled();
    let good = export(&home.ledger(), "devices");
    let lines: Vec<&str> = good.lines().collect();
    let end = lines.len() - 1;
    for (what, bad, words) in [
        ("empty", String::new(), "empty"),
        ("no trailer", lines[..end].join("\n") + "\n", "cut short"),
        ("half a line", good[..good.len() - 20].to_owned(), "cut short"),
        ("something behind", format!("{good}{}\n", lines[2]), "after the last line"),
        ("two trailers", format!("{good}{}\n", lines[end]), "after the last line"),
        ("another format", "hello\n".to_owned(), "does not begin as"),
        ("a later version", good.replace("\"portdistrict-ledger\":1", "\"portdistrict-ledger\":2"), "version 2"),
        ("another digest", good.replace("\"blake3\":\"", "\"blake3\":\"A").replacen("A\",\"count", "\",\"count", 1), "line 8"),
        ("spaces", good.replace("{\"id\"", "{ \"id\""), "line 2"),
    ] {
        let error = Archive::new().refuses(&bad);
        assert!(error.message().contains(words), "{what}: {error:?}");
    }
    let other = Home { dir: tempfile::tempdir().unwrap(), keyring: keyring(7, 8) };
    other.ledger().record(&other.key(), &begin(&other.keyring)).unwrap();
    assert_eq!(other.ledger().import(good.as_bytes(), None, false).unwrap_err().code(), Code::Refused);
}

/// Signs whatever it is told to, as a thief with a device's key can.
fn forge(template: &Entry, key: &ed25519_dalek::SigningKey, change: impl FnOnce(&mut Span)) -> String {
    let mut span = template.span.clone();
    change(&mut span);
    let bytes = span.encode().unwrap();
    let id = id_of(&bytes);
    format!("{{\"id\":\"{id}\",\"signature\":\"{}\",\"span\":{}}}", B64(span::sign(key, &id)), String::from_utf8(bytes).unwrap())
}

#[test]
fn unknown_authors_revoked_devices_and_the_future_are_refused() {
    let home = Home::filled();
    let ledger = home.ledger();
    let log = ledger.log(&Filter::default()).unwrap();
    let lines = without_trailer(&export(&ledger, "devices"));
    let tip = log.last().unwrap();
    let next = |key: &ed25519_dalek::SigningKey, change: &dyn Fn(&mut Span)| {
        let mut lines = lines.clone();
        lines.push(forge(tip, key, |span| {
            (span.seq, span.prev, span.hlc.ms) = (tip.span.seq + 1, Some(tip.id), span.hlc.ms + 1);
            change(span);
        }));
        sealed(&lines)
    };
    // The forger's line is fine where nothing is wrong with it.
    Archive::new().ledger().import(next(&home.key(), &|_| {}).as_bytes(), None, false).unwrap();
    let stranger = keyring(5, 6);
    let other = stranger.device_key();
    let author = B64(other.verifying_key().to_bytes());
    let begins = begin(&stranger);
    let own = |span: &mut Span| {
        (span.author, span.seq, span.prev, span.kind) = (author, 0, None, "identity.created".into());
        span.body = kinds::to_body(&begins).unwrap();
    };
    let hour = 3_600_000;
    for (what, text, words) in [
        ("stranger", next(&other, &|span| span.author = author), "is unknown"),
        ("another identity", next(&other, &own), "another identity"),
        ("no certificate", next(&other, &|span| (span.author, span.seq, span.prev) = (author, 0, None)), "certificate"),
        ("the future", next(&home.key(), &|span| span.hlc.ms = time::now_ms() + 25 * hour), "24 hours ahead"),
        ("an older time", next(&home.key(), &|span| span.hlc.ms -= 1000 * hour), "out of order"),
        ("another past", next(&home.key(), &|span| span.prev = Some(log[2].id)), "does not follow"),
        ("nothing to build on", next(&home.key(), &|span| span.deps = vec![B64([1; 32])]), "does not stand before"),
        ("somebody else's signature", next(&other, &|_| {}), "signature"),
    ] {
        let error = Archive::new().refuses(&text);
        assert!(error.message().contains(words) && error.message().contains("line 8"), "{what}: {error:?}");
    }
    // Two histories under one number.
    let forked = next(&home.key(), &|_| {});
    ledger.append(&home.key(), "note.made", json!({})).unwrap();
    assert!(ledger.import(forked.as_bytes(), None, false).unwrap_err().message().contains("two histories"));
}

#[test]
fn a_revoked_device_says_nothing_more() {
    let (one, two) = (Device::new(2), Device::new(3));
    two.writes("note.made", json!({}));
    one.hears(&two);
    let device = B64(two.keyring.device_public());
    one.writes("device.revoked", json!({"device": device, "at": 1, "last": 1}));
    two.writes("note.made", json!({}));
    let error = one.ledger().import(export(&two.ledger(), "devices").as_bytes(), None, false).unwrap_err();
    assert!(error.message().contains("was revoked after its number 1"), "{error:?}");
    assert_eq!(error.code(), Code::Refused);
}

#[test]
fn a_device_that_was_revoked_unheard_says_nothing_at_all() {
    let (one, two) = (Device::new(2), Device::new(3));
    let device = B64(two.keyring.device_public());
    one.writes("device.invited", json!({"id": B64([1; 8]), "hash": B64([1; 32]), "expires": 1}));
    let approved = json!({"code": B64([1; 8]), "device": device, "enrolment": B64([1; 32]), "name": "phone", "cert": B64([1; 64])});
    one.writes("device.approved", approved);
    one.writes("device.revoked", json!({"device": device, "at": 1}));
    let error = one.ledger().import(export(&two.ledger(), "devices").as_bytes(), None, false).unwrap_err();
    assert!(error.code() == Code::Refused && error.message().contains("line 2 of"), "{error:?}");
    assert!(error.message().contains("before any span of it was known"), "{error:?}");
    // In one file with its revocation it is refused all the same.
    let (three, archive) = (Device::new(4), Archive::new());
    three.hears(&two);
    three.writes("device.revoked", json!({"device": device, "at": 1, "last": 0}));
    let before = export(&three.ledger(), "devices");
    archive.ledger().import(before.as_bytes(), None, false).unwrap();
    assert_eq!(archive.ledger().device(&device.to_string()).unwrap().revoked_at, Some(1));
    // Of two revocations the one that lets less count holds, in whichever order they came.
    for (first, second) in [(&one, &three), (&three, &one)] {
        let heard = Archive::new();
        let _ = heard.ledger().import(export(&first.ledger(), "devices").as_bytes(), None, false).unwrap();
        let _ = heard.ledger().import(export(&second.ledger(), "devices").as_bytes(), None, false);
        let conn = heard.ledger();
        let last = conn.conn().query_row("SELECT last FROM devices", [], |row| row.get::<_, Option<i64>>(0)).unwrap();
        assert_eq!(last, None);
    }
}

#[test]
fn chains_of_identities_that_rotations_link_are_taken_in() {
    let one = Device::new(2);
    let later = Home { dir: tempfile::tempdir().unwrap(), keyring: keyring(101, 9) };
    later.ledger().record(&later.key(), &begin(&later.keyring)).unwrap();
    let before = export(&one.ledger(), "devices");
    let own = Some(later.keyring.device_public());
    let error = later.ledger().import(before.as_bytes(), own, false).unwrap_err();
    assert!(error.message().contains("another identity") && error.code() == Code::Refused, "{error:?}");
    // A device that joined after the rotation hears of it in the export itself.
    one.ledger().record(&one.keyring.device_key(), &rotated(&one.keyring, 1)).unwrap();
    assert_eq!(later.ledger().import(export(&one.ledger(), "devices").as_bytes(), own, false).unwrap().spans, 2);
    assert_eq!(one.ledger().import(export(&later.ledger(), "devices").as_bytes(), None, false).unwrap().spans, 1);
    for ledger in [one.ledger(), later.ledger()] {
        assert!(ledger.verify().unwrap().is_ok(), "{:?}", ledger.verify());
        let identities = [B64(one.keyring.identity_public()), B64(later.keyring.identity_public())];
        assert_eq!(ledger.identities().unwrap(), identities);
        // A friend to whom little is shown can check the chains, too.
        let friend = Archive::new();
        friend.ledger().import(export(&ledger, &format!("peer:{ANNA}")).as_bytes(), None, false).unwrap();
        assert!(friend.ledger().verify().unwrap().is_ok(), "{:?}", friend.ledger().verify());
    }
}

/// A line without end: only so much of it is ever held.
struct Endless(u64);

impl std::io::Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        self.0 += to.len() as u64;
        to.fill(b'x');
        Ok(to.len())
    }
}

#[test]
fn a_line_without_end_is_not_read_to_its_end() {
    let good = export(&Home::filled().ledger(), "devices");
    let begin: String = good.lines().take(3).map(|line| format!("{line}\n")).collect();
    let mut endless = Endless(0);
    let from = std::io::BufReader::new(std::io::Read::chain(begin.as_bytes(), &mut endless));
    let error = Archive::new().ledger().import(from, None, false).unwrap_err();
    assert!(error.message().contains("line 4 of") && error.message().contains("longer than"), "{error:?}");
    assert!(endless.0 < 1 << 20, "{} bytes were read", endless.0);
}

#[test]
fn sealed_exports_open_with_the_right_key_alone() {
    let home = Home::filled();
    let (key, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let mut file = Vec::new();
    let seal = Seal::to_keys(&[key.to_public().to_string()]).unwrap();
    seal.write(&mut file, |to| home.ledger().export(&Audience::Devices, to)).unwrap();
    assert!(!file.windows(4).any(|w| w == b"anna"));
    let keys = |key: &age::x25519::Identity| {
        use secrecy::ExposeSecret;
        Opener { keys: Some(key.to_string().expose_secret().as_bytes().to_vec().into()), passphrase: None }
    };
    let opened = keys(&key).open(file.as_slice()).unwrap();
    assert_eq!(Archive::new().ledger().import(opened, None, false).unwrap().spans, 6);
    for opener in [keys(&other), Opener::default()] {
        assert_eq!(opener.open(file.as_slice()).map(drop).unwrap_err().code(), Code::Precondition);
    }
    // A sealed file that was cut ends in a refusal, not in a shorter ledger.
    let cut = keys(&key).open(&file[..file.len() - 10]).unwrap();
    assert!(Archive::new().ledger().import(cut, None, false).is_err());
    assert!(Seal::to_keys(&["age1nonsense".to_owned()]).is_err());
}

/// What a span is shared with, as a number.
fn body(n: usize, secret: &str) -> Value {
    let mut body = json!({ "text": secret });
    match n % 5 {
        0 => body["for"] = "device".into(),
        1 => {}
        2 => body["for"] = json!([format!("peer:{ANNA}")]),
        3 => body["for"] = json!(["group:family"]),
        _ => body["for"] = json!(["group:work", format!("peer:{BERT}")]),
    }
    body
}

/// Whether an audience may see it.
fn may(n: usize, audience: &str) -> bool {
    match (audience, n % 5) {
        ("device", _) | ("devices", 1..) => true,
        (a, 2) if a.ends_with(ANNA) => true,
        (a, 3) if a.ends_with(ANNA) => true,
        (a, 4) if a.ends_with(BERT) => true,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// No way of reading shows to an audience what it may not see, and each shows what it may.
    #[test]
    fn nothing_private_is_shown_to_another_audience(kinds in proptest::collection::vec(0usize..5, 1..12), conflict in any::<bool>()) {
        let (one, two) = (Device::new(2), Device::new(3));
        one.writes("group.set", json!({"name": "family", "members": [ANNA]}));
        if conflict {
            two.writes("group.set", json!({"name": "work", "members": [BERT]}));
        }
        let ids: Vec<SpanId> =
            kinds.iter().enumerate().map(|(n, kind)| one.writes("note.written", body(*kind, &format!("secret-{n}-")))).collect();
        one.hears(&two);
        let ledger = one.ledger();
        for audience in ["device", "devices", &format!("peer:{ANNA}"), &format!("peer:{BERT}")] {
            let parsed: Audience = audience.parse().unwrap();
            let text = export(&ledger, audience);
            let archive = Archive::new();
            archive.ledger().import(text.as_bytes(), None, false).unwrap();
            prop_assert!(archive.ledger().verify().unwrap().is_ok());
            let filter = Filter { audience: Some(parsed.clone()), ..Filter::default() };
            let log = format!("{:?}", ledger.log(&filter).unwrap());
            let raw = std::fs::read(archive.ledger().path()).unwrap();
            let again = export(&archive.ledger(), audience);
            for (n, kind) in kinds.iter().enumerate() {
                let secret = format!("secret-{n}-");
                let may = may(*kind, audience);
                prop_assert_eq!(text.contains(&secret), may);
                // What is not known there (who is in a group) can only make it less.
                prop_assert!(may || !again.contains(&secret));
                prop_assert_eq!(log.contains(&secret), may);
                prop_assert!(may || !raw.windows(secret.len()).any(|w| w == secret.as_bytes()));
                let grep = Filter { grep: Some(secret.clone()), ..filter.clone() };
                prop_assert_eq!(ledger.log(&grep).unwrap().len(), usize::from(may));
                prop_assert_eq!(ledger.show_to(&ids[n].to_string(), &parsed).is_ok(), may);
            }
        }
    }
}

#[test]
fn an_audience_that_cannot_be_understood_is_nobody() {
    let home = Home::new();
    for bad in [json!("all"), json!([]), json!(["peer:x"]), json!(["group:b", "group:a"]), json!([1]), json!(true), json!("devices")] {
        assert!(home.ledger().append(&home.key(), "note.written", json!({"text": "", "for": bad})).is_err(), "{bad}");
    }
    for bad in ["", "all", "peer:", "peer:abc", "group:family"] {
        assert!(bad.parse::<Audience>().is_err());
    }
    let parse = |words: &[&str]| Visibility::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(parse(&[]).unwrap(), Visibility::Devices);
    assert_eq!(parse(&["device"]).unwrap(), Visibility::Device);
    assert!(parse(&["device", "group:family"]).is_err());
    assert_eq!(parse(&["group:b", "group:a", "group:b"]).unwrap(), Visibility::Shared(vec!["group:a".into(), "group:b".into()]));
}

/// A word that was withheld and comes after a later word of its own author about the same thing does not count in its place.
#[test]
fn a_withheld_word_that_comes_late_does_not_take_the_place_of_a_later_one() {
    let home = Home::new();
    let pin = |key: u8, seen_by: Value| json!({"address": "a:1", "node_key": B64([key; 32]), "for": seen_by});
    home.ledger().append(&home.key(), "node.pinned", pin(1, "device".into())).unwrap();
    home.ledger().append(&home.key(), "node.pinned", json!({"address": "a:1", "node_key": B64([2; 32])})).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let archive = Ledger::open(&dir.path().join("ledger.db")).unwrap();
    for (audience, withheld) in [(Audience::Devices, 1), (Audience::ThisDevice, 0)] {
        let mut lines = Vec::new();
        home.ledger().export(&audience, &mut lines).unwrap();
        assert_eq!(archive.import(lines.as_slice(), None, false).unwrap().withheld, withheld);
        assert_eq!(archive.pinned("a:1").unwrap(), Some(B64([2; 32])));
        let report = archive.verify().unwrap();
        assert!(report.is_ok(), "{report:?}");
    }
    archive.rebuild().unwrap();
    assert_eq!(archive.pinned("a:1").unwrap(), Some(B64([2; 32])));
}
