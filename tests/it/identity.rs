//! `init`, `identity …` and `ledger …` on a real home.

use super::home::{Home, Ran};
use super::story::{Connected, Operator, try_curl, wait_for};
use super::web::{GREETING, Web};
use std::os::unix::fs::PermissionsExt;

#[test]
fn init_is_harmless_twice_and_needed_once() {
    let home = Home::new();
    let stderr = home.line("status").fails(6);
    assert!(stderr.contains("\n  hint: portdistrict init"), "{stderr}");
    let first = home.line("init --json").json();
    assert_eq!(first["created"], true);
    assert_eq!(first["id"].as_str().unwrap().len(), 32);
    let second = home.line("init --json").json();
    assert_eq!(first["id"], second["id"]);
    assert_eq!(home.line("ledger log --json").json()["entries"].as_array().unwrap().len(), 1);
    let mode = std::fs::metadata(home.path().join("data/keyring.age")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_passphrase_replaces_the_key_file_and_back() {
    let home = Home::new();
    let id = home.line("init --json").json()["id"].clone();
    let file = home.work().join("passphrase.txt");
    std::fs::write(&file, "correct horse\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _ = home.line("identity lock --passphrase-file passphrase.txt").ok();
    assert!(!home.path().join("data/keyring.key").exists());
    let stderr = home.line("identity show").fails(6);
    assert!(stderr.contains("hint:"), "{stderr}");
    assert_eq!(home.line("identity show --passphrase-file passphrase.txt --json").json()["id"], id);
    let ran = Ran::of(home.shell("portdistrict identity show --json --passphrase-fd 3 3< passphrase.txt"));
    assert_eq!(ran.json()["id"], id);
    std::fs::write(&file, "wrong horse\n").unwrap();
    let stderr = home.line("identity show --passphrase-file passphrase.txt --json").fails(6);
    assert!(stderr.contains("\"keyring\""), "{stderr}");
    std::fs::write(&file, "correct horse\n").unwrap();
    let _ = home.line("identity unlock --passphrase-file passphrase.txt").ok();
    assert_eq!(home.line("identity show --json").json()["protection"], "key-file");
}

#[test]
fn an_exported_identity_verifies_and_a_changed_one_does_not() {
    let home = Home::new();
    let id = home.line("init --json").json()["id"].clone();
    let blob = home.line("identity export --name Anna").ok();
    let found = home.run(["identity", "verify", blob.trim(), "--json"]).json();
    assert_eq!((&found["id"], found["name"].as_str()), (&id, Some("Anna")));
    let ran = Ran::of(home.shell("portdistrict identity export | portdistrict identity verify - --json"));
    assert_eq!(ran.json()["id"], id);
    let middle = blob.len() / 2;
    let other = if &blob[middle..=middle] == "A" { "B" } else { "A" };
    let changed = format!("{}{other}{}", &blob[..middle], &blob[middle + 1..]);
    let stderr = home.run(["identity", "verify", changed.trim()]).fails(2);
    assert!(stderr.contains("hint:"), "{stderr}");
}

#[test]
fn loose_permissions_are_refused_with_the_command_that_mends_them() {
    let home = Home::new();
    let _ = home.line("init").ok();
    let key = home.path().join("data/keyring.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let stderr = home.line("identity show").fails(6);
    let hint = stderr.lines().find_map(|line| line.trim().strip_prefix("hint: ")).unwrap().to_owned();
    assert!(hint.starts_with("chmod 0600 "), "{stderr}");
    let _ = Ran::of(home.shell(&hint)).ok();
    let _ = home.line("identity show").ok();
}

#[test]
fn the_ledger_is_read_shown_and_followed() {
    let home = Home::new();
    let _ = home.line("init").ok();
    let log = home.line("ledger log --json").json();
    let id = log["entries"][0]["id"].as_str().unwrap();
    let shown = home.run(["ledger", "show", id, "--json"]).json();
    assert_eq!(shown["kind"], "identity.created");
    let shown = home.run(["ledger", "show", &id[..8], "--json"]).json();
    assert_eq!(shown["id"], id);
    let _ = home.line("ledger show AAAA").fails(3);
    assert_eq!(home.line("ledger verify --json").json()["ok"], true);
    assert_eq!(home.line("ledger rebuild --json").json()["entries"], 1);
    assert_eq!(home.line("ledger log --kind grant.* --json").json()["entries"], serde_json::json!([]));
    let ran = Ran::of(home.shell("portdistrict ledger log --follow --json | head -n 1"));
    assert_eq!(ran.json()["kind"], "identity.created");
}

#[test]
fn values_complete_as_the_shell_asks_for_them() {
    let home = Home::new();
    let ask = |words: &str, index: usize| {
        let mut command = home.command(std::iter::once("--").chain(words.split(' ')));
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index.to_string()).env("_CLAP_IFS", "\n");
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
        Ran::of(command).ok()
    };
    // Without a home there is nothing to offer, and nothing fails.
    assert!(ask("portdistrict machine show ", 3).lines().all(|line| line.starts_with("--")));
    assert!(!home.path().exists());
    let _ = home.line("init").ok();
    let _ = home.line("machine deploy --on local --label cottage --listen 127.0.0.1").ok();
    let offered = ask("portdistrict machine show ", 3);
    let _ = home.line("machine destroy cottage --yes").ok();
    assert!(offered.lines().any(|line| line == "cottage"), "{offered}");
    assert!(ask("portdistrict ledger log --kind ", 4).contains("grant.issued"));
    assert!(ask("portdistrict mach", 1).contains("machine"));
}

#[test]
fn a_backup_gives_the_identity_back_on_another_device() {
    let (home, other, third) = (Home::new(), Home::new(), Home::new());
    let made = home.line("init --json").json();
    let secret = home.line("identity export --secret").ok();
    assert!(secret.starts_with("portdistrict-secret1:"), "{secret}");
    std::fs::write(other.work().join("secret.txt"), &secret).unwrap();
    let restored = other.line("identity import @secret.txt --json").json();
    assert_eq!((&restored["id"], &restored["created"]), (&made["id"], &true.into()));
    assert_ne!(restored["device"], made["device"], "a device of its own");
    assert!(other.line("identity import @secret.txt --json").json()["created"].is_null(), "again is harmless");
    let checks = other.line("identity verify --json").json();
    assert_eq!((&checks["healthy"], checks["checks"].as_array().unwrap().len()), (&true.into(), 5));
    let _ = third.line("init").ok();
    let stderr = third.run(["identity", "import", secret.trim()]).fails(1);
    assert!(stderr.contains("there is another identity here already") && stderr.contains("hint:"), "{stderr}");
    // A wrong kind of line is told what it is, and a public one makes a peer.
    let stderr = third.run(["identity", "verify", secret.trim()]).fails(2);
    assert!(stderr.contains("the secret of an identity") && stderr.contains("portdistrict identity import"), "{stderr}");
    let public = home.line("identity export --name anna").ok();
    assert_eq!(third.run(["identity", "import", public.trim(), "--json"]).json()["outcome"], "new");
}

#[test]
fn verify_finds_what_others_can_read() {
    let home = Home::new();
    let _ = home.line("init").ok();
    let _ = home.line("identity verify").ok();
    std::fs::set_permissions(home.path().join("data/ledger.db"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let ran = home.line("identity verify");
    assert!(ran.stdout.contains("chmod 0600"), "{ran}");
    let _ = ran.fails(6);
}

#[test]
fn a_rotated_identity_keeps_machines_and_peers() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let home = &operator.home;
    let before = home.line("identity show --json").json();
    let invite = operator.invite("anna", "");
    let anna = Home::new();
    anna.line("init").ok();
    let _ = anna.run(["peer", "add", home.line("identity export --name bert").ok().trim()]).ok();
    let _ = anna.line("peer verify bert --yes").ok();
    let _ = anna.line("peer trust bert").ok();
    let friend = Home::new();
    let _ = friend.run(["exit", "accept", &invite]).ok();
    assert_eq!(try_curl(&Home::new(), &operator.invite("carl", ""), &web.url("/")).ok(), GREETING);

    assert!(home.line("identity rotate --dry-run").ok().contains("tell machine home its new owner"));
    assert_eq!(home.line("identity show --json").json()["id"], before["id"]);
    let rotated = home.line("identity rotate --name bert --yes --json").json();
    assert_eq!((&rotated["old"], &rotated["machines"][0]["problem"]), (&before["id"], &serde_json::Value::Null), "{rotated}");
    assert_eq!((&rotated["resumed"], &rotated["carried"]), (&false.into(), &2.into()));
    let after = home.line("identity show --json").json();
    assert_eq!((&after["id"], &after["device"], &after["was"][0]), (&rotated["new"], &before["device"], &before["id"]));
    let _ = home.line("identity verify").ok();
    let _ = home.line("ledger verify").ok();

    // The machine has the new owner, what he grants works, and what he granted before goes on without his friends' doing.
    wait_for("the machine under its new owner", || home.line("machine show home").status == Some(0));
    assert_eq!(try_curl(&Home::new(), &operator.invite("dora", ""), &web.url("/")).ok(), GREETING);
    let out = Connected::start(&friend, "home").curl("socks5h", &web.url("/")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING);
    let _ = home.line("grant revoke anna --yes").ok();
    let ran = friend.run(["exit", "connect", "home"]);
    assert_eq!(ran.status, Some(4), "the new key takes back what the old one gave: {ran}");
    // A friend learns of the new key, keeps his trust, and sees how that came about.
    let blob = rotated["blob"].as_str().unwrap();
    let learned = anna.run(["identity", "import", blob, "--json"]).json();
    assert_eq!((&learned["outcome"], &learned["replaced"], &learned["state"]), (&"rotated".into(), &before["id"], &"trusted".into()));
    let shown = anna.line("peer show bert").ok();
    assert!(shown.contains("by a rotation that both keys signed"), "{shown}");
    assert!(anna.run(["peer", "add", blob, "--json"]).json()["outcome"] == "known");
}

#[test]
fn where_there_is_no_keychain_it_is_said_and_nothing_changes() {
    let home = Home::new();
    let id = home.line("init --json").json()["id"].clone();
    let stderr = home.line("identity lock --keychain").fails(6);
    assert!(stderr.contains("no keychain answers in this session") && stderr.contains("hint:"), "{stderr}");
    assert!(!home.path().join("config/config.toml").exists());
    assert_eq!(home.line("identity show --json").json()["id"], id);
    // A home whose key is in a keychain that is away.
    std::fs::write(home.path().join("config/config.toml"), "[keyring]\nsource = \"keychain\"\n").unwrap();
    assert!(home.line("identity show").fails(6).contains("no keychain answers"));
    let key = home.path().join("data/keyring.key");
    assert_eq!(home.run(["identity", "show", "--json", "--key-file", key.to_str().unwrap()]).json()["id"], id);
}

/// With Debian's gnome-keyring on a session bus of its own, where it is installed.
#[test]
fn a_keychain_holds_the_key_and_gives_it_back() {
    let there = |tool: &str| std::process::Command::new(tool).arg("--version").output().is_ok();
    if !there("gnome-keyring-daemon") || !there("dbus-run-session") {
        assert!(std::env::var_os("CI").is_none(), "gnome-keyring or dbus-daemon is missing, which the keychain's test needs");
        eprintln!("skipped: gnome-keyring or dbus-daemon is not installed");
        return;
    }
    let home = Home::new();
    let id = home.line("init --json").json()["id"].clone();
    let script = "printf secret | gnome-keyring-daemon --unlock --components=secrets >&2 || exit 90
        portdistrict identity lock --keychain --json > locked.json || exit 91
        test ! -e home/data/keyring.key || exit 92
        portdistrict identity show --json > shown.json || exit 93
        portdistrict ledger log --json > /dev/null || exit 94
        portdistrict identity rotate --yes --json > rotated.json || exit 95
        portdistrict identity show --json > after.json || exit 96
        portdistrict identity unlock --json > unlocked.json || exit 97";
    let ran = Ran::of(home.shell(&format!("XDG_RUNTIME_DIR=$PWD dbus-run-session -- sh -c '{script}'")));
    assert_eq!(ran.status, Some(0), "{ran}");
    let read =
        |name: &str| -> serde_json::Value { serde_json::from_str(&std::fs::read_to_string(home.work().join(name)).unwrap()).unwrap() };
    assert_eq!((&read("shown.json")["id"], &read("shown.json")["protection"]), (&id, &"keychain".into()));
    assert_eq!(read("after.json")["id"], read("rotated.json")["new"]);
    // Out of the session, and out of the keychain.
    assert_eq!(home.line("identity show --json").json()["protection"], "key-file");
    assert!(std::fs::read_to_string(home.path().join("config/config.toml")).unwrap().contains("source = \"key-file\""));
}
