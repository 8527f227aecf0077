//! One story of three homes: an owner's laptop and phone, a friend, and whom she lends to. Whatever is refused on the way names its rule,
//! and the entry that made it where this side has one.

use super::devices::{carry, join};
use super::home::{Home, Ran};
use super::story::{Connected, Operator, blob, try_curl};
use super::web::{GREETING, Web};
use serde_json::Value;

/// A refusal, explained: the rule with its meaning, and whether an entry is named.
fn refused(ran: &Ran, rule: &str, entry: bool) {
    assert_eq!(ran.status, Some(4), "{ran}");
    for said in ["error:", "hint:", &format!("rule: {rule}")] {
        assert!(ran.stderr.contains(said), "{said}: {ran}");
    }
    let (_, meaning) = ran.stderr.split_once(&format!("rule: {rule}\n")).unwrap();
    assert!(meaning.trim_start().starts_with(char::is_uppercase), "no words for {rule}: {ran}");
    assert_eq!(ran.stderr.contains(", number "), entry, "{ran}");
}

/// What somebody gives to others.
fn line_of(home: &Home, name: &str) -> String {
    home.run(["identity", "export", "--name", name]).ok().trim().to_owned()
}

fn fetches(exit: &Home, web: &Web) -> bool {
    let out = Connected::start(exit, "home").curl("socks5h", &web.url("/")).output().unwrap();
    String::from_utf8_lossy(&out.stdout) == GREETING
}

fn words(home: &Home, peer: &str) -> String {
    let shown = home.line(&format!("peer show {peer} --json")).json();
    shown["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn three_homes_from_the_first_word_to_the_last() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let (laptop, phone, anna, bert) = (&operator.home, Home::new(), Home::new(), Home::new());
    for home in [&anna, &bert] {
        let _ = home.line("init").ok();
    }

    // Add, verify, trust: both sides compare the same words; nobody is trusted unseen, and no other key gets the name.
    let (of_anna, of_laptop) = (line_of(&anna, "anna"), line_of(laptop, "olga"));
    let _ = laptop.run(["peer", "add", &of_anna]).ok();
    let _ = anna.run(["peer", "add", &of_laptop]).ok();
    refused(&laptop.line("peer trust anna --explain"), "peer-unverified", true);
    let said = words(&anna, "olga");
    assert_eq!(said, words(laptop, "anna"));
    refused(&laptop.run(["peer", "verify", "anna", "--words", &said.replace(' ', " x"), "--explain"]), "peer-words", true);
    for (home, peer) in [(laptop, "anna"), (&anna, "olga")] {
        let _ = home.run(["peer", "verify", peer, "--words", &said]).ok();
        let _ = home.line(&format!("peer trust {peer}")).ok();
    }
    refused(&laptop.run(["peer", "add", &line_of(&bert, "anna"), "--explain"]), "peer-key-changed", true);

    // The phone joins; somebody else's device does not. It has the whole record, and grants what the laptop deployed.
    let answered = join(laptop, &phone, "phone");
    refused(&anna.run(["device", "approve", &answered, "--yes", "--explain"]), "device-of-another-owner", false);
    carry(laptop, &phone);
    assert_eq!(phone.line("peer show anna --json").json()["state"], "trusted");
    std::fs::write(phone.work().join("policy.toml"), "version = 1\n[invite]\nmodes = ['once']\n").unwrap();
    let _ = phone.line("policy set policy.toml").ok();
    refused(&phone.line("exit invite --node home --for anna --mode many --explain"), "invite.modes", true);
    let sealed = phone.line("grant create --node home --for anna --to anna --delegable 1 --quiet").ok();
    assert_eq!(try_curl(&bert, sealed.trim(), &web.url("/")).status, Some(4), "it is not for him");

    // Use, narrow, pass on.
    let _ = anna.run(["exit", "accept", sealed.trim()]).ok();
    assert!(fetches(&anna, &web));
    let passed_on = blob(&anna.line("grant narrow home --for bert --lifetime 12h --bytes 1M").ok());
    assert!(passed_on.len() <= 600, "{}", passed_on.len());
    let _ = bert.run(["exit", "accept", &passed_on]).ok();
    assert!(fetches(&bert, &web));
    carry(&phone, laptop);
    let shown = laptop.line("grant show anna --json").json();
    let text = shown.to_string();
    assert!(text.contains("bert"), "the laptop sees to whom anna lent: {text}");
    let why = laptop.line("policy why anna example.org:443 --json").json();
    assert_eq!(why["allowed"], true, "{why}");

    // Revoke: the phone takes back what it granted, and whatever was made of it ends with it.
    let _ = phone.line("grant revoke anna --yes").ok();
    for home in [&anna, &bert] {
        refused(&home.line("exit connect home --explain"), "grant-revoked", false);
    }
    carry(&phone, laptop);
    let why = laptop.line("policy why anna example.org:443 --json").json();
    let revoked = &laptop.line("ledger log --kind grant.revoked --json").json()["entries"][0]["id"];
    assert_eq!((&why["allowed"], &why["spans"][0]), (&Value::Bool(false), revoked), "{why}");

    // Rotate: the phone is lost, the laptop gets a new key, the machine and anna follow.
    let dora = laptop.line("exit invite --node home --for dora --quiet").ok();
    let friend = Home::new();
    let _ = friend.run(["exit", "accept", dora.trim()]).ok();
    let _ = laptop.run(["device", "revoke", "phone", "--reason", "lost", "--yes"]).ok();
    refused(&laptop.run(["device", "approve", &answered, "--yes", "--explain"]), "device-revoked", false);
    let rotated = laptop.line("identity rotate --name olga --yes --json").json();
    let learned = anna.run(["identity", "import", rotated["blob"].as_str().unwrap(), "--json"]).json();
    assert_eq!((&learned["outcome"], &learned["state"]), (&"rotated".into(), &"trusted".into()));
    assert!(fetches(&friend, &web), "what was granted goes on");
    let old = phone.line("grant create --node home --for eve --quiet");
    let eve = try_curl(&Home::new(), old.stdout.trim(), &web.url("/"));
    assert_ne!(eve.status, Some(0), "the lost phone opens nothing any more: {old} {eve}");
    for home in [laptop, &anna] {
        let _ = home.line("ledger verify --full").ok();
        let _ = home.line("identity verify").ok();
    }
}
