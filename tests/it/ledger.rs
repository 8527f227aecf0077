//! `ledger …`: written, searched, carried elsewhere, checked.

use super::home::{Home, Ran};
use std::os::unix::fs::PermissionsExt;

/// A home with a few entries.
fn written() -> Home {
    let home = Home::new();
    let _ = home.line("init").ok();
    let _ = home.run(["ledger", "note", "moved the machine to the attic"]).ok();
    let _ = home.run(["ledger", "note", "the bill is due", "--for", "device"]).ok();
    let _ = home.line("ledger group family AT244KA2IF466VBOXBHQMRMHN7RVISC2").ok();
    let _ = home.run(["ledger", "note", "come for dinner", "--for", "group:family"]).ok();
    home
}

#[test]
fn the_log_is_searched_and_shown_to_an_audience() {
    let home = written();
    let texts = |line: &str| -> Vec<String> {
        let log = home.line(line).json();
        log["entries"].as_array().unwrap().iter().filter_map(|entry| entry["body"]["text"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(texts("ledger log --json").len(), 3);
    assert_eq!(texts("ledger log --grep ATTIC --json"), ["moved the machine to the attic"]);
    assert_eq!(texts("ledger log --kind note.* --limit 1 --json"), ["come for dinner"]);
    assert_eq!(texts("ledger log --for devices --json"), ["moved the machine to the attic", "come for dinner"]);
    assert_eq!(texts("ledger log --for peer:AT244KA2IF466VBOXBHQMRMHN7RVISC2 --json"), ["come for dinner"]);
    assert!(texts("ledger log --for peer:BT244KA2IF466VBOXBHQMRMHN7RVISC2 --json").is_empty());
    assert!(texts("ledger log --until 2020-01-01 --json").is_empty());
    assert!(texts("ledger log --author AAAA --json").is_empty());
    let log = home.line("ledger log --key group/family --json").json();
    assert_eq!((log["entries"].as_array().unwrap().len(), log["entries"][0]["key"].as_str()), (1, Some("group/family")));
    let found = home.line("ledger inspect group/family --json").json();
    assert_eq!((&found["winner"], found["heads"].as_array().unwrap().len()), (&log["entries"][0]["id"], 1));
    assert!(home.line("ledger inspect group/none").fails(3).contains("hint:"));
    assert!(home.line("ledger log --for everybody").fails(2).contains("peer:ID"));
    assert!(home.line("ledger note hello --for everybody").fails(2).contains("hint:"));
}

#[test]
fn an_export_is_taken_in_whole_or_refused_with_the_line() {
    let home = written();
    let told = home.line("ledger export --out all.jsonl --json").json();
    assert_eq!((&told["spans"], &told["withheld"]), (&4.into(), &1.into()));
    let file = home.work().join("all.jsonl");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("dinner") && !text.contains("bill"));
    let elsewhere = |script: &str| Ran::of(home.shell(&format!("export PORTDISTRICT_HOME=$PWD/other; {script}")));
    let refused = elsewhere("sed '3s/attic/cellar/' all.jsonl | portdistrict ledger import -").fails(2);
    assert!(refused.contains("line 3 of the export") && refused.contains("changed") && refused.contains("hint:"), "{refused}");
    assert!(!home.work().join("other/data/ledger.db").exists(), "nothing half made");
    let taken = elsewhere("portdistrict ledger import all.jsonl --dry-run --json").json();
    assert_eq!((&taken["spans"], &taken["dry_run"]), (&4.into(), &true.into()));
    assert!(!home.work().join("other/data/ledger.db").exists());
    let taken = elsewhere("portdistrict ledger import all.jsonl --json").json();
    assert_eq!((&taken["spans"], &taken["withheld"], &taken["known"]), (&4.into(), &1.into(), &0.into()));
    let report = elsewhere("portdistrict ledger verify --json").json();
    assert_eq!((&report["ok"], &report["withheld"]), (&true.into(), &1.into()));
    let again = elsewhere("portdistrict ledger export --quiet").ok();
    let spans = |text: &str| text.lines().skip(1).take(5).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(spans(&again), spans(&text));
    // Into the home that it came from, nothing is new; into a stranger's it does not go.
    assert_eq!(home.line("ledger import all.jsonl --json").json()["known"], 5);
    let stranger =
        Ran::of(home.shell("export PORTDISTRICT_HOME=$PWD/stranger; portdistrict init -q && portdistrict ledger import all.jsonl"));
    assert!(stranger.fails(4).contains("another identity"));
    assert!(home.line("ledger import none.jsonl").fails(3).contains("none.jsonl"));
}

#[test]
fn an_export_can_be_sealed() {
    let home = written();
    let passphrase = home.work().join("passphrase.txt");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _ = home.line("ledger export --for device --sealed-passphrase-file passphrase.txt --out sealed.age").ok();
    assert!(std::fs::read(home.work().join("sealed.age")).unwrap().starts_with(b"age-encryption.org/v1"));
    let elsewhere = |script: &str| Ran::of(home.shell(&format!("export PORTDISTRICT_HOME=$PWD/other; {script}")));
    assert!(elsewhere("portdistrict ledger import sealed.age").fails(6).contains("passphrase"));
    let taken = elsewhere("portdistrict ledger import sealed.age --sealed-passphrase-file passphrase.txt --json").json();
    assert_eq!((&taken["spans"], &taken["withheld"]), (&5.into(), &0.into()));
    assert!(elsewhere("portdistrict ledger log").ok().contains("bill"));
    if std::process::Command::new("age-keygen").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "age-keygen is missing; install age");
        return;
    }
    // The other implementation of age opens ours, and ours opens the other's.
    let script = "umask 077; age-keygen -o key.txt 2> /dev/null; to=$(age-keygen -y key.txt); \
                  portdistrict ledger export --age $to --out ours.age > /dev/null; age -d -i key.txt ours.age > opened.jsonl; \
                  age -r $to -o theirs.age opened.jsonl; portdistrict ledger import theirs.age --age-key key.txt --json";
    assert_eq!(Ran::of(home.shell(script)).json()["known"], 5);
}

#[test]
fn a_hostile_line_is_refused_without_being_held() {
    let home = written();
    let _ = home.line("ledger export --out all.jsonl").ok();
    // A thousand million letters on one line, and no more memory than any command needs.
    let script = "ulimit -v 1500000; (head -n 2 all.jsonl; head -c 1000000000 /dev/zero | tr '\\0' x) | portdistrict ledger import -";
    let refused = Ran::of(home.shell(script)).fails(2);
    assert!(refused.contains("line 3 of the export") && refused.contains("longer than"), "{refused}");
    let _ = home.line("ledger verify").ok();
}

#[test]
fn what_was_verified_is_remembered_until_a_full_check() {
    let home = written();
    assert_eq!(home.line("ledger verify --json").json()["remembered"], 0);
    let _ = home.run(["ledger", "note", "one more"]).ok();
    let report = home.line("ledger verify --json").json();
    assert_eq!((&report["remembered"], &report["spans"]), (&5.into(), &6.into()));
    assert_eq!(home.line("ledger verify --full --json").json()["remembered"], 0);
    let done = home.line("ledger compact --json").json();
    assert_eq!(done["spans"], 6);
    assert!(done["after"].as_u64() <= done["before"].as_u64());
}
