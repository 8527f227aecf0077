//! The owner's policy through the real program: set, asked, enforced, explained, changed.

use super::home::Home;
use super::story::{Operator, try_curl};
use super::web::Web;
use serde_json::Value;

fn set(home: &Home, text: &str) {
    std::fs::write(home.work().join("policy.toml"), format!("version = 1\n{text}")).unwrap();
    let _ = home.line("policy set policy.toml --reason trial").ok();
}

fn json(home: &Home, line: &str) -> Value {
    serde_json::from_str(&home.line(&format!("{line} --json")).ok()).unwrap()
}

fn entries(home: &Home, kind: &str) -> usize {
    json(home, &format!("ledger log --kind {kind}"))["entries"].as_array().unwrap().len()
}

#[test]
fn what_a_policy_refuses_is_not_done_and_is_recorded_with_its_rule() {
    let operator = Operator::with(&[]);
    let home = &operator.home;
    let free = home.line("policy check invite --mode many").ok();
    assert!(free.contains("there is no policy"), "{free}");
    set(home, "[deploy]\nproviders = ['qemu']\n[invite]\nmodes = ['once']\nper_day = 1\n");

    let refused = home.line("exit invite --node home --for anna --mode many");
    assert_eq!(refused.status, Some(4), "{refused}");
    let span = json(home, "policy show")["set"]["span"].as_str().unwrap().to_owned();
    for said in ["invite.modes", &span, "portdistrict policy show"] {
        assert!(refused.stderr.contains(said), "{said}: {refused}");
    }
    let explained = home.line("exit invite --node home --for anna --mode many --explain");
    for said in ["rule: invite.modes", "Invites may have only the modes", &format!("entry: {span}"), "policy.set, number"] {
        assert!(explained.stderr.contains(said), "{said}: {explained}");
    }
    let told: Value = serde_json::from_str(&home.line("exit invite --node home --for anna --mode many --json").stderr).unwrap();
    assert_eq!((&told["error"]["rule"], &told["error"]["entry"]), (&"invite.modes".into(), &span.as_str().into()), "{told}");
    let _ = home.line("exit invite --node home --for anna").ok();
    // Nor is a rule that an invite kept to left by making it last longer.
    std::fs::write(
        home.work().join("short.toml"),
        "version = 1\n[deploy]\nproviders = ['qemu']\n[invite]\nlongest = 172800\nper_day = 1\n",
    )
    .unwrap();
    let _ = home.line("policy set short.toml").ok();
    let longer = home.line("grant renew anna --lifetime 30d");
    assert_eq!(longer.status, Some(4), "{longer}");
    assert!(longer.stderr.contains("invite.longest"), "{longer}");
    let _ = home.line("grant renew anna --lifetime 47h").ok();
    let second = home.line("exit invite --node home --for bert");
    assert_eq!(second.status, Some(4), "{second}");
    assert!(second.stderr.contains("invite.per_day"), "{second}");

    let deploy = "machine deploy --on local --label attic --listen 127.0.0.1";
    let before = entries(home, "policy.refused");
    let looked = home.line(&format!("{deploy} --dry-run"));
    assert_eq!((looked.status, entries(home, "policy.refused")), (Some(4), before), "{looked}");
    let refused = home.line(deploy);
    assert_eq!(refused.status, Some(4), "{refused}");
    assert_eq!(entries(home, "policy.refused"), before + 1);
    assert_eq!(entries(home, "grant.issued"), 1);
    assert_eq!(json(home, "machine list")["machines"].as_array().unwrap().len(), 1);
    let log = home.line("ledger verify");
    assert_eq!(log.status, Some(0), "{log}");
}

#[test]
fn a_machine_that_proves_too_little_is_not_claimed() {
    let operator = Operator { home: Home::new() };
    let home = &operator.home;
    for line in ["init", "machine deploy --on local --label home --listen 127.0.0.1"] {
        let _ = home.line(line).ok();
    }
    for rules in ["[claim]\nrung = 'image-by-tpm'\n", "signatures_required = true\n"] {
        set(home, rules);
        let refused = home.line("machine claim home");
        assert_eq!(refused.status, Some(4), "{refused}");
        assert!(refused.stderr.contains("the policy refuses to claim `home`"), "{refused}");
        assert_eq!(entries(home, "machine.claimed"), 0);
    }
    // Nothing was handed over: without the rule the same machine can still be claimed.
    set(home, "");
    let _ = home.line("machine claim home").ok();
}

#[test]
fn why_names_the_entry_that_decides_and_diff_who_loses() {
    let operator = Operator::with(&[]);
    let home = &operator.home;
    let _ = home.line("exit invite --node home --for anna").ok();
    let granted = json(home, "grant show anna")["span"].as_str().unwrap().to_owned();
    let answer = json(home, "policy why anna example.org:443");
    assert_eq!((&answer["allowed"], &answer["spans"][0]), (&Value::Bool(true), &Value::String(granted)), "{answer}");

    std::fs::write(
        home.work().join("new.toml"),
        "version = 1\n[[reach]]\nwho = ['a*']\nto = ['*.example.org:443', 'example.org']\nallow = false\n",
    )
    .unwrap();
    let before = entries(home, "policy.*");
    let diff = home.line("policy diff new.toml").ok();
    assert!(diff.contains("anna") && diff.contains("loses") && diff.contains("reach[0]"), "{diff}");
    assert_eq!(home.line("policy set new.toml --dry-run").ok(), diff);
    assert_eq!(entries(home, "policy.*"), before);

    let _ = home.line("policy set new.toml").ok();
    let span = json(home, "policy show")["set"]["span"].clone();
    let answer = json(home, "policy why anna example.org:443");
    assert_eq!((&answer["allowed"], &answer["rule"], &answer["spans"][0]), (&Value::Bool(false), &"reach[0]".into(), &span), "{answer}");
    let refused = home.line("policy check reach anna example.org:443");
    assert_eq!(refused.status, Some(4), "{refused}");

    // Without that entry the answer is the other one; then the revocation is what decides.
    set(home, "");
    assert_eq!(json(home, "policy why anna example.org:443")["allowed"], true);
    let _ = home.line("grant revoke anna --yes").ok();
    let answer = json(home, "policy why anna example.org:443");
    let revoked = &json(home, "ledger log --kind grant.revoked")["entries"][0]["id"];
    assert_eq!((&answer["allowed"], &answer["spans"][0]), (&Value::Bool(false), revoked), "{answer}");
    let nobody = home.line("policy why carl example.org:443").ok();
    assert!(nobody.contains("nothing was ever granted"), "{nobody}");
}

#[test]
fn nodes_hold_friends_to_the_policy_and_hear_of_it_late_if_they_were_away() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let home = &operator.home;
    let (anna, bert) = (operator.invite("anna", "--mode many"), operator.invite("bert", "--mode many"));
    let fetches = |invite: &str| try_curl(&Home::new(), invite, &web.url("/")).status == Some(0);
    assert!(fetches(&anna) && fetches(&bert));
    let rule = format!("[[reach]]\nwho = ['ann*']\nto = ['{}']\nallow = false\n", web.address);
    set(home, &rule);
    assert!(!fetches(&anna) && fetches(&bert));
    assert!(home.line("machine logs home").ok().contains("reason=policy"));
    // The node is told of a new grant under that name before its link is shown.
    let another = operator.invite("ann", "--mode many");
    assert!(!fetches(&another));
    assert_eq!(json(home, "policy show")["unheard"], serde_json::json!([]));

    super::machine::kill(super::machine::pid_of(home));
    let ran = home.line("exit invite --node home --for anni");
    assert_eq!(ran.status, Some(5), "nobody could hold them to the rule: {ran}");
    std::fs::write(home.work().join("open.toml"), "version = 1\n").unwrap();
    let told = home.line("policy set open.toml");
    assert!(told.stderr.contains("Not heard by home"), "{told}");
    assert_eq!(json(home, "policy show")["unheard"], serde_json::json!(["home"]));
    let _ = home.line("machine reconnect home").ok();
    assert!(fetches(&anna) && fetches(&another));
    assert_eq!(json(home, "policy show")["unheard"], serde_json::json!([]));
}

#[test]
fn a_document_that_cannot_be_meant_changes_nothing() {
    let home = Home::new();
    let _ = home.line("init").ok();
    set(&home, "strict = true\n");
    for (text, said) in [
        ("version = 9", "version 9"),
        ("version = 1\nstrickt = true", "strickt"),
        ("version = 1\n[[reach]]\nwho = ['a']\nto = ['10.0.0.1/8']\nallow = true", "10.0.0.0/8"),
        ("", "version"),
        ("\u{feff}{}", "bad.toml"),
    ] {
        std::fs::write(home.work().join("bad.toml"), text).unwrap();
        let ran = home.line("policy set bad.toml");
        assert_eq!(ran.status, Some(2), "{ran}");
        assert!(ran.stderr.contains(said) && ran.stderr.contains("hint:"), "{said}: {ran}");
    }
    let huge = home.work().join("bad.toml");
    std::fs::write(&huge, "#".repeat(1 << 20)).unwrap();
    assert_ne!(home.line("policy set bad.toml").status, Some(0));
    std::fs::write(&huge, [0xff, 0xfe]).unwrap();
    assert_eq!(home.line("policy set bad.toml").status, Some(2));
    let missing = home.line("policy set nothing.toml");
    assert!(missing.stderr.contains("nothing.toml"), "{missing}");
    assert_eq!((entries(&home, "policy.set"), json(&home, "policy show")["number"].as_u64()), (1, Some(1)));
    let again = home.line("policy set policy.toml");
    assert!(again.stderr.contains("holds already"), "{again}");
    assert_eq!(entries(&home, "policy.set"), 1);
}

#[test]
fn whoever_may_not_edit_it_is_refused() {
    let home = Home::new();
    let _ = home.line("init").ok();
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    set(&home, &format!("editors = ['{other}']\n"));
    std::fs::write(home.work().join("open.toml"), "version = 1\n").unwrap();
    let refused = home.line("policy set open.toml");
    assert_eq!(refused.status, Some(4), "{refused}");
    assert!(refused.stderr.contains("editors"), "{refused}");
    assert_eq!(home.line("policy check edit").status, Some(4));
    assert_eq!(json(&home, "policy show")["number"], 1);
}
