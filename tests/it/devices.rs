//! A second device of one owner: joining, what is refused on the way, revoking, and a rotation that reaches it.

use super::home::Home;
use serde_json::Value;

/// An owner's first device and an empty home for the second.
fn pair() -> (Home, Home) {
    let first = Home::new();
    let _ = first.line("init").ok();
    (first, Home::new())
}

fn code(first: &Home) -> String {
    first.line("device add").ok().trim().to_owned()
}

fn answer(second: &Home, code: &str, name: &str) -> Value {
    second.run(["device", "init", "--code", code, "--name", name, "--json"]).json()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Joins to the end, and gives back the answer that was approved.
pub(crate) fn join(first: &Home, second: &Home, name: &str) -> String {
    let answer = text(&answer(second, &code(first), name)["answer"]).to_owned();
    let welcome = first.run(["device", "approve", &answer, "--yes", "--json"]).json();
    let joined = second.run(["device", "accept", text(&welcome["welcome"]), "--json"]).json();
    assert_eq!(joined["outcome"], "joined");
    answer
}

fn id(home: &Home) -> Value {
    home.line("identity show --json").json()["id"].clone()
}

#[test]
fn a_second_device_joins_and_is_the_same_owner() {
    let (first, second) = pair();
    let code = code(&first);
    let answered = answer(&second, &code, "laptop");
    assert_eq!(answered, answer(&second, &code, "laptop"), "the same code again gives the same answer");
    assert!(first.run(["device", "approve", text(&answered["answer"])]).fails(2).contains("--yes"), "a person is asked");
    let approved = first.run(["device", "approve", text(&answered["answer"]), "--yes", "--json"]).json();
    assert_eq!(approved["words"], answered["words"], "both screens show the same words");
    // Its welcome was lost: approving again makes another, and records nothing new.
    let spans = |home: &Home| home.line("ledger log --json").json()["entries"].as_array().unwrap().len();
    let before = spans(&first);
    let welcome = first.run(["device", "approve", text(&answered["answer"]), "--json"]).json();
    assert_eq!(spans(&first), before);
    let joined = second.run(["device", "accept", text(&welcome["welcome"]), "--json"]).json();
    assert_eq!((&joined["outcome"], &joined["id"]), (&"joined".into(), &id(&first)));
    assert_eq!(second.run(["device", "accept", text(&welcome["welcome"]), "--json"]).json()["outcome"], "known");
    assert!(!second.path().join("data/enrolment.age").exists());
    let _ = second.line("identity verify").ok();
    let _ = second.line("ledger verify").ok();
    let listed = first.line("device list --json").json();
    let names: Vec<_> = listed["devices"].as_array().unwrap().iter().map(|device| text(&device["name"])).collect();
    assert_eq!(names, ["first", "laptop"]);
    assert_eq!((&listed["devices"][0]["this"], &listed["devices"][1]["seen_ms"]), (&true.into(), &Value::Null));
    assert_eq!(second.line("device list --json").json()["devices"][0]["name"], "laptop");
}

#[test]
fn what_is_no_answer_to_a_living_code_is_refused_with_its_reason() {
    let (first, second) = pair();
    let code = code(&first);
    let answered = answer(&second, &code, "laptop");
    let good = text(&answered["answer"]);

    // Another owner, who even knows the code's text.
    let (other, _) = pair();
    let stderr = other.run(["device", "approve", good, "--yes"]).fails(4);
    assert!(stderr.contains("for another identity"), "{stderr}");
    // A home that belongs to somebody cannot join.
    let stderr = other.run(["device", "init", "--code", &code, "--name", "x"]).fails(1);
    assert!(stderr.contains("has an identity already"), "{stderr}");
    // Somebody who saw neither code nor device.
    let middle = good.len() / 2;
    let other_letter = if &good[middle..=middle] == "A" { "B" } else { "A" };
    let changed = format!("{}{other_letter}{}", &good[..middle], &good[middle + 1..]);
    assert!(first.run(["device", "approve", &changed, "--yes"]).fails(2).contains("damaged"));
    assert!(first.run(["device", "approve", &code, "--yes"]).fails(2).contains("this is a code for a new device"));

    // One device for a code: a second one that answers it comes too late.
    let third = Home::new();
    let late = answer(&third, &code, "tablet");
    let welcome = first.run(["device", "approve", good, "--yes", "--json"]).json();
    let stderr = first.run(["device", "approve", text(&late["answer"]), "--yes"]).fails(4);
    assert!(stderr.contains("used already"), "{stderr}");
    // A welcome opens on its own device alone.
    assert!(third.run(["device", "accept", text(&welcome["welcome"])]).fails(4).contains("sealed to another key"));
    assert!(other.run(["device", "accept", text(&welcome["welcome"])]).fails(1).contains("has an identity already"));
    assert!(Home::new().run(["device", "accept", text(&welcome["welcome"])]).fails(6).contains("not asked to join"));
    assert_eq!(first.line("device list --json").json()["devices"].as_array().unwrap().len(), 2, "nothing half made");
    assert!(!third.path().join("data/keyring.age").exists());
}

#[test]
fn a_code_that_has_expired_is_refused_on_both_sides() {
    let (first, second) = pair();
    let db = || rusqlite::Connection::open(first.path().join("data/ledger.db")).unwrap();
    let old = code(&first);
    let answered = answer(&second, &old, "laptop");
    // Ten minutes later, as far as the record says.
    db().execute("UPDATE device_codes SET expires = 1000", []).unwrap();
    let stderr = first.run(["device", "approve", text(&answered["answer"]), "--yes"]).fails(4);
    assert!(stderr.contains("has expired") && stderr.contains("portdistrict device add"), "{stderr}");
    // A ledger that never made the code does not know it.
    db().execute("DELETE FROM device_codes", []).unwrap();
    let stderr = first.run(["device", "approve", text(&answered["answer"]), "--yes"]).fails(4);
    assert!(stderr.contains("no code that was made here"), "{stderr}");
}

#[test]
fn a_revoked_device_stays_out_and_a_rotation_reaches_the_others() {
    let (first, second) = pair();
    let third = Home::new();
    join(&first, &second, "laptop");
    let lost = join(&first, &third, "phone");
    let before = id(&first);
    let ran = first.run(["device", "revoke", "phone", "--reason", "lost", "--yes"]);
    assert!(ran.stderr.contains("portdistrict identity rotate"), "{ran}");
    let _ = ran.ok();
    assert!(first.run(["device", "approve", &lost, "--yes"]).fails(4).contains("was revoked"));
    assert!(first.line("device welcome phone").fails(4).contains("was revoked"));
    assert!(first.line("device revoke first --yes").fails(2).contains("cannot revoke itself"));

    let rotated = first.line("identity rotate --yes --json").json();
    assert_eq!(rotated["devices"], serde_json::json!(["laptop"]));
    let welcome = first.line("device welcome laptop --json").json();
    assert!(third.run(["device", "accept", text(&welcome["welcome"])]).fails(1).contains("sealed to another device"));
    let taken = second.run(["device", "accept", text(&welcome["welcome"]), "--json"]).json();
    assert_eq!((&taken["outcome"], &taken["id"]), (&"rotated".into(), &rotated["new"]));
    assert_ne!(id(&second), before);
    let _ = second.line("identity verify").ok();
    assert_eq!(second.line("ledger verify --json").json()["ok"], true);
    // Its line for friends tells of the rotation, as that of the first device does.
    let friend = Home::new();
    let _ = friend.line("init").ok();
    assert_eq!(friend.run(["peer", "add", second.line("identity export --name me").ok().trim(), "--json"]).json()["outcome"], "new");
}

#[test]
fn a_passphrase_protects_a_device_that_waits() {
    use std::os::unix::fs::PermissionsExt;
    let (first, second) = pair();
    let file = second.work().join("passphrase.txt");
    std::fs::write(&file, "correct horse\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let code = code(&first);
    let words = ["--passphrase-file", "passphrase.txt", "--json"];
    let answered = second.run(["device", "init", "--code", &code, "--name", "laptop"].iter().chain(&words)).json();
    let welcome = first.run(["device", "approve", text(&answered["answer"]), "--yes", "--json"]).json();
    let _ = second.run(["device", "accept", text(&welcome["welcome"])]).fails(6);
    let _ = second.run(["device", "accept", text(&welcome["welcome"])].iter().chain(&words)).json();
    assert_eq!(second.line("identity show --passphrase-file passphrase.txt --json").json()["protection"], "passphrase");
}

/// Brings what one home knows to another, and says how many entries were new there.
pub(crate) fn carry(from: &Home, to: &Home) -> u64 {
    let file = from.work().join("carried.jsonl");
    std::fs::write(&file, from.line("ledger export --quiet").ok()).unwrap();
    let taken = to.run(["ledger", "import", file.to_str().unwrap(), "--json"]).json();
    let _ = to.line("ledger verify --full").ok();
    taken["spans"].as_u64().unwrap()
}

/// What a home knows of machines, grants, friends and devices; without what only a visit tells, or where it is.
fn known(home: &Home) -> Value {
    let names = |line: &str, list: &str, members: &[&str]| -> Vec<Value> {
        let shown = home.line(&format!("{line} --json")).json();
        let one = |row: &Value| members.iter().map(|member| row[*member].clone()).collect();
        shown[list].as_array().unwrap_or_else(|| panic!("{line}: {shown}")).iter().map(one).collect()
    };
    serde_json::json!({
        "machines": names("machine list", "machines", &["label", "node_key", "address"]),
        "grants": names("grant list --all", "grants", &["id", "name", "node", "expires", "revoked"]),
        "peers": names("peer list", "peers", &["id", "name", "state", "verified"]),
        "devices": names("device list", "devices", &["key", "name", "since_ms"]),
        "policy": home.line("policy show --json").json()["policy"].clone(),
    })
}

#[test]
fn two_devices_of_one_owner_carry_what_they_know_to_each_other() {
    let (first, second) = pair();
    join(&first, &second, "laptop");
    let _ = first.line("machine deploy --on local --label home --listen 127.0.0.1").ok();
    let _ = first.line("machine claim home").ok();
    let _ = first.line("exit invite --node home --for anna").ok();
    let _ = first.line("exit invite --node home --for bert").ok();
    let _ = first.line("grant revoke bert --yes").ok();
    let friend = Home::new();
    let _ = friend.line("init").ok();
    let _ = second.run(["peer", "add", friend.line("identity export --name carl").ok().trim()]).ok();

    assert!(carry(&first, &second) > 0 && carry(&second, &first) > 0);
    assert_eq!(known(&first), known(&second));
    let all = known(&first);
    let sizes: Vec<_> = ["machines", "grants", "peers", "devices"].iter().map(|list| all[list].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1, 2, 1, 2], "{all}");
    assert_eq!((carry(&first, &second), carry(&second, &first)), (0, 0), "nothing is new twice");
    // Joining is no conflict.
    assert!(!first.line("ledger log").ok().contains("conflict with"));

    // Both write about the same, and neither knows of it.
    let (anna, bert) = ("AT244KA2IF466VBOXBHQMRMHN7RVISC2", "BT244KA2IF466VBOXBHQMRMHN7RVISC2");
    for (home, member, modes) in [(&first, anna, "once"), (&second, bert, "many")] {
        let _ = home.line(&format!("ledger group family {member}")).ok();
        std::fs::write(home.work().join("policy.toml"), format!("version = 1\n[invite]\nmodes = ['{modes}']\n")).unwrap();
        let _ = home.line("policy set policy.toml").ok();
    }
    carry(&first, &second);
    carry(&second, &first);
    for (key, heads, last) in [("group/family", 2, &second), ("policy/owner", 2, &first)] {
        let seen = |home: &Home| home.line(&format!("ledger inspect {key} --json")).json();
        let (one, other) = (seen(&first), seen(&second));
        assert_eq!((&one["winner"], one["heads"].as_array().unwrap().len()), (&other["winner"], heads), "{one} {other}");
        let author = seen(last)["heads"].as_array().unwrap().iter().find(|head| head["id"] == one["winner"]).unwrap()["author"].clone();
        let own =
            last.line("device list --json").json()["devices"].as_array().unwrap().iter().find(|row| row["this"] == true).unwrap()["key"]
                .clone();
        assert_eq!(author, own, "{key}: {one}");
    }
    assert!(first.line("ledger log --key group/family").ok().contains("conflict with"));
    assert_eq!(known(&first), known(&second));
    let _ = first.line("machine destroy home --yes").ok();
}

#[test]
fn a_device_that_joined_after_a_rotation_and_one_from_before_take_each_others_entries() {
    let (first, second) = pair();
    let _ = first.line("ledger note before").ok();
    let _ = first.line("identity rotate --yes").ok();
    join(&first, &second, "laptop");
    let _ = second.line("ledger note after").ok();
    assert!(carry(&second, &first) > 0 && carry(&first, &second) > 0);
    assert_eq!(known(&first), known(&second));
    assert_eq!(second.line("ledger log --kind note.* --json").json()["entries"].as_array().unwrap().len(), 2);
    // A revoked device's later words are taken by nobody.
    let _ = first.line("device revoke laptop --reason lost --yes").ok();
    let _ = second.line("ledger note later").ok();
    let file = second.work().join("late.jsonl");
    let _ = second.run(["ledger", "export", "--out", file.to_str().unwrap()]).ok();
    let refused = first.run(["ledger", "import", file.to_str().unwrap()]).fails(4);
    assert!(refused.contains("was revoked after its number"), "{refused}");
    // And it hears of that with the next export.
    let _ = first.line("ledger export --out all.jsonl").ok();
    let all = first.work().join("all.jsonl");
    let _ = second.run(["ledger", "import", all.to_str().unwrap()]).ok();
    assert!(second.line("ledger note more").fails(4).contains("was revoked"));
}
