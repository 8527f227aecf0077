//! `peer …` between homes: adding, comparing words, trusting, and what becomes of a record that was damaged.

use super::home::{Home, Ran};
use std::time::{Duration, Instant};

/// A home with an identity, and the line that it gives to others.
fn person(name: &str) -> (Home, String) {
    let home = Home::new();
    let _ = home.line("init").ok();
    let blob = home.run(["identity", "export", "--name", name]).ok().trim().to_owned();
    (home, blob)
}

fn words(home: &Home, peer: &str) -> String {
    let shown = home.run(["peer", "show", peer, "--json"]).json();
    shown["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

fn state(home: &Home, peer: &str) -> String {
    home.run(["peer", "show", peer, "--json"]).json()["state"].as_str().unwrap().to_owned()
}

#[test]
fn two_people_compare_words_and_trust_each_other() {
    let ((anna, annas), (bert, berts)) = (person("Anna"), person("Bert"));
    assert_eq!(bert.run(["peer", "add", &annas, "--json"]).json()["outcome"], "new");
    let quoted = format!("> here I am:\n> {}\n> {}\n", &berts[..60], &berts[60..]);
    let _ = anna.run(["peer", "add", &quoted, "--as", "bertie"]).ok();
    assert_eq!(anna.run(["peer", "add", &berts, "--json"]).json()["outcome"], "known");
    assert_eq!(words(&anna, "bertie"), words(&bert, "anna"));
    assert_eq!(words(&anna, "bertie").split(' ').count(), 10);

    let stderr = anna.line("peer trust bertie").fails(4);
    assert!(stderr.contains("hint: compare words first: portdistrict peer verify bertie"), "{stderr}");
    // Nobody is there to be asked, and a word that was misheard is refused.
    assert!(anna.line("peer verify bertie").fails(2).contains("--yes"));
    let wrong = words(&anna, "bertie").replacen(' ', " wrong ", 1);
    assert!(anna.run(["peer", "verify", "bertie", "--words", &wrong]).fails(4).contains("hint:"));
    assert_eq!(state(&anna, "bertie"), "seen");
    let said = words(&bert, "anna").to_uppercase().replace(' ', ", ");
    let _ = anna.run(["peer", "verify", "bertie", "--words", &said]).ok();
    let _ = anna.line("peer trust bertie").ok();
    assert_eq!(state(&anna, "bertie"), "trusted");
    let scanned = words(&anna, "bertie").to_uppercase();
    assert_eq!(bert.run(["peer", "verify", "anna", "--scanned", &scanned, "--json"]).json()["verified"], "qr");

    let listed = anna.line("peer list --json").json();
    assert_eq!((listed["peers"].as_array().unwrap().len(), &listed["peers"][0]["provenance"]), (1, &"blob".into()));
    assert_eq!(anna.line("peer list --state revoked --json").json()["peers"], serde_json::json!([]));
    let _ = anna.line("peer demote bertie").ok();
    let _ = anna.run(["peer", "revoke", "bertie", "--reason", "phone stolen", "--yes"]).ok();
    assert_eq!(state(&anna, "bertie"), "revoked");
    assert!(anna.run(["peer", "add", &berts]).fails(4).contains("portdistrict peer forget bertie"));
    let _ = anna.line("peer forget bertie --yes").ok();
    let _ = anna.run(["peer", "add", &berts]).ok();
    // What happened before it was forgotten is still told.
    let shown = anna.line("peer show bert").ok();
    assert!(shown.contains("phone stolen") && shown.contains("verified by words") && shown.contains("forgotten"), "{shown}");
    assert_eq!(anna.line("ledger verify --json").json()["ok"], true);
}

#[test]
fn a_changed_key_is_refused_with_both_fingerprints_and_the_way_out() {
    let (anna, _) = person("Anna");
    let ((bert, berts), (other, others)) = (person("Bert"), person("Bert"));
    let [bert_id, other_id] = [&bert, &other].map(|home| home.line("identity show --json").json()["id"].as_str().unwrap().to_owned());
    let _ = anna.run(["peer", "add", &berts]).ok();
    let stderr = anna.run(["peer", "add", &others]).fails(4);
    assert!(stderr.contains(&bert_id) && stderr.contains(&other_id) && stderr.contains("portdistrict peer forget bert"), "{stderr}");
    let shown = anna.line("peer show bert").ok();
    assert!(shown.contains("another key came under its name and was refused"), "{shown}");
    let key = other.line("identity show --json").json()["key"].as_str().unwrap().to_owned();
    let _ = anna.run(["peer", "adopt", "--key", &key, "--name", "bert"]).fails(4);
    let _ = anna.run(["peer", "adopt", "--key", &key, "--name", "other-bert", "--endpoint", "192.0.2.1:4433"]).ok();
    let _ = anna.run(["peer", "adopt", "--key", "tooshort", "--name", "x"]).fails(2);
    assert!(bert.run(["peer", "add", &berts]).fails(2).contains("your own identity"));
    let _ = anna.line("peer show nobody").fails(3);
}

#[test]
fn a_damaged_record_is_reported_and_the_rest_is_shown() {
    let ((anna, _), (_bert, berts), (_carl, carls)) = (person("Anna"), person("Bert"), person("Carl"));
    let _ = anna.run(["peer", "add", &berts]).ok();
    let _ = anna.run(["peer", "add", &carls]).ok();
    let db = rusqlite::Connection::open(anna.path().join("data/ledger.db")).unwrap();
    db.execute("UPDATE peers SET state = 'adored' WHERE name = 'carl'", []).unwrap();
    drop(db);
    let ran = anna.line("peer list");
    assert!(ran.stdout.contains("bert"), "{ran}");
    let stderr = ran.fails(1);
    assert!(stderr.contains("is damaged") && stderr.contains("portdistrict ledger rebuild"), "{stderr}");
    assert!(anna.line("peer show carl").fails(1).contains("hint: portdistrict ledger rebuild"));
    let _ = anna.line("ledger rebuild").ok();
    assert_eq!(anna.line("peer list --json").json()["peers"].as_array().unwrap().len(), 2);
}

#[test]
fn names_of_peers_complete() {
    let ((anna, _), (_bert, berts)) = (person("Anna"), person("Bert"));
    let _ = anna.run(["peer", "add", &berts]).ok();
    let mut command = anna.command(["--", "portdistrict", "peer", "show", "be"]);
    command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    assert_eq!(Ran::of(command).ok().trim(), "bert");
}

#[test]
fn ten_thousand_peers_are_no_burden() {
    let ((anna, _), (_bert, berts)) = (person("Anna"), person("Bert"));
    let _ = anna.run(["peer", "add", &berts]).ok();
    let mut db = rusqlite::Connection::open(anna.path().join("data/ledger.db")).unwrap();
    let tx = db.transaction().unwrap();
    for n in 0..10_000_u32 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        tx.execute(
            "INSERT INTO peers SELECT ?1, ?2, NULL, NULL, ?3, 'seen', 'adopted', NULL, NULL, NULL, 1, 1, span FROM peers WHERE name = 'bert'",
            rusqlite::params![portdistrict::encoding::node_id(&key), portdistrict::encoding::base64(&key), format!("peer-{n}")],
        )
        .unwrap();
    }
    tx.commit().unwrap();
    drop(db);
    let mut complete = anna.command(["--", "portdistrict", "peer", "show", "peer-123"]);
    complete.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "3").env("_CLAP_IFS", "\n");
    complete.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
    for (what, command) in
        [("list", anna.command(["peer", "list"])), ("show", anna.command(["peer", "show", "peer-77"])), ("complete", complete)]
    {
        let begun = Instant::now();
        let shown = Ran::of(command).ok();
        let took = begun.elapsed();
        println!("{what} among 10,000 peers: {took:?}, {} lines", shown.lines().count());
        // Without optimisation, on a machine that does other things too.
        assert!(took < Duration::from_secs(5), "{what}: {took:?}");
    }
}
