//! The command line as a whole: what parses, how refusals look, and that help touches no file.

use super::home::{Home, Ran, program};
use clap::error::ErrorKind;
use portdistrict::cli::definition;

/// Command lines that parse.
const GOOD: &[&str] = &[
    "version",
    "version --json",
    "--json version",
    "-vv version",
    "--home /tmp/x --color never --yes --timeout 30s version",
    "--key-file k version",
    "--passphrase-fd 3 version",
    "completions bash",
    "completions zsh --static",
    "man --out man",
    "init",
    "identity lock --passphrase-file p",
    "identity verify @me.txt",
    "machine deploy --on local --label home",
    "machine deploy --on local --label home --listen 127.0.0.1 --port 4433 --allow 10.0.0.0/8 --allow 127.0.0.1:80 --address a.example:1",
    "machine deploy --on local --label home --systemd --log-destinations --claim-by-anyone --dry-run",
    "machine claim home",
    "machine logs home -f -n 5",
    "machine destroy home --dry-run",
    "machine doctor",
    "machine doctor home",
    "ledger log --kind grant.* --since 7d --follow",
    "ledger show -abc",
    "exit invite --node home --for anna",
    "exit invite --node home --for anna --lifetime 7d --mode many --bytes 10G --rate 20M --streams 4 --qr --dry-run",
    "exit try portdistrict-invite1:abc -- curl -s http://example/",
    "exit try - --ip-check --port 1080",
    "exit try @invite.txt --browser",
    "exit connect home --port 1081",
    "exit connect portdistrict-invite1:abc",
    "exit accept @invite.txt --as berlin",
    "exit list",
    "exit show berlin",
    "exit forget berlin --yes",
    "grant list --all",
    "grant show -abc",
    "grant revoke anna --reason lost --dry-run",
    "identity export --secret",
    "identity import @secret.txt",
    "identity verify",
    "identity rotate --dry-run",
    "device add --name phone",
    "device init --code @code.txt --name phone",
    "device approve - --out welcome.txt --yes",
    "device accept @welcome.txt",
    "device welcome -key",
    "device revoke phone --reason lost --yes",
    "peer add portdistrict-identity1:abc --as anna",
    "peer adopt --key -mEZVUkoMlm9hUzO55muXsIYJMp3Rhb5_aNV9g7PFIY --endpoint a.example:1 --name carol",
    "peer list --state trusted",
    "peer verify anna --words one",
    "peer trust anna --unverified",
    "peer revoke anna --reason lost --yes",
    "demo",
    "status --watch --every 1m",
    "status --html page.html",
    "status --html - --quiet",
    "node run --config node.toml --detach",
];

/// Command lines that do not, with what is wrong about them.
const BAD: &[(&str, ErrorKind)] = &[
    ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
    ("nonsense", ErrorKind::InvalidSubcommand),
    ("version extra", ErrorKind::UnknownArgument),
    ("version --timeout soon", ErrorKind::ValueValidation),
    ("version --color sometimes", ErrorKind::InvalidValue),
    ("version --quiet --verbose", ErrorKind::ArgumentConflict),
    ("version --key-file a --passphrase-file b", ErrorKind::ArgumentConflict),
    ("completions", ErrorKind::MissingRequiredArgument),
    ("completions tcsh", ErrorKind::InvalidValue),
    ("man", ErrorKind::MissingRequiredArgument),
    ("machine", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
    ("machine create", ErrorKind::InvalidSubcommand),
    ("machine deploy --label home", ErrorKind::MissingRequiredArgument),
    ("machine deploy --on moon --label home", ErrorKind::InvalidValue),
    ("machine deploy --on local --label My_Home", ErrorKind::ValueValidation),
    ("machine deploy --on local --label home --port 65536", ErrorKind::ValueValidation),
    ("machine deploy --on local --label home --listen localhost", ErrorKind::ValueValidation),
    ("machine deploy --on local --label home --address example.org", ErrorKind::ValueValidation),
    ("machine deploy --on local --label home --address ::1:80", ErrorKind::ValueValidation),
    ("machine deploy --on local --label home --allow everything", ErrorKind::ValueValidation),
    ("machine claim ../home", ErrorKind::ValueValidation),
    ("machine logs home -n many", ErrorKind::ValueValidation),
    ("exit invite --node home", ErrorKind::MissingRequiredArgument),
    ("exit invite --node home --for Anna", ErrorKind::ValueValidation),
    ("exit invite --node home --for anna --lifetime forever", ErrorKind::ValueValidation),
    ("exit invite --node home --for anna --mode twice", ErrorKind::InvalidValue),
    ("exit try", ErrorKind::MissingRequiredArgument),
    ("exit try x curl", ErrorKind::UnknownArgument),
    ("exit try x --browser -- curl", ErrorKind::ArgumentConflict),
    ("exit connect", ErrorKind::MissingRequiredArgument),
    ("status --watch --html page.html", ErrorKind::ArgumentConflict),
    ("status --every 5s", ErrorKind::MissingRequiredArgument),
    ("status --watch --every 0s", ErrorKind::ValueValidation),
    ("grant revoke", ErrorKind::MissingRequiredArgument),
    ("identity export --secret --name anna", ErrorKind::ArgumentConflict),
    ("device init --code x", ErrorKind::MissingRequiredArgument),
    ("device approve", ErrorKind::MissingRequiredArgument),
    ("peer", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
    ("peer adopt --key short --name carol", ErrorKind::ValueValidation),
    ("peer list --state adored", ErrorKind::InvalidValue),
    ("peer verify anna --words a --scanned b", ErrorKind::ArgumentConflict),
    ("ledger show", ErrorKind::MissingRequiredArgument),
];

fn parse(line: &str) -> Result<clap::ArgMatches, clap::Error> {
    definition().try_get_matches_from(std::iter::once("portdistrict").chain(line.split(' ').filter(|word| !word.is_empty())))
}

#[test]
fn these_parse() {
    for line in GOOD {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn these_do_not_parse() {
    for (line, kind) in BAD {
        assert_eq!(parse(line).err().map(|e| e.kind()), Some(*kind), "{line}");
    }
}

#[test]
fn the_definition_holds_together() {
    definition().debug_assert();
}

#[test]
fn wrong_usage_is_status_2_in_text_and_json() {
    let home = Home::new();
    let stderr = home.line("completions tcsh").fails(2);
    assert!(stderr.starts_with("error: invalid value 'tcsh' for '<SHELL>'"), "{stderr}");
    assert!(stderr.contains("\n  hint: "), "{stderr}");
    let stderr = home.line("nonsense --json").fails(2);
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["code"], "usage");
    assert_eq!(error["v"], 1);
    for field in ["message", "hint", "causes"] {
        assert!(!error["error"][field].is_null(), "{stderr}");
    }
}

#[test]
fn a_noun_alone_teaches_its_verbs() {
    let home = Home::new();
    let ran = home.line("");
    assert!(ran.stdout.is_empty());
    assert!(ran.fails(2).contains("Commands:"));
}

#[test]
fn help_and_version_need_no_home_and_touch_none() {
    let home = Home::new();
    for line in ["--help", "-h", "--version", "version", "completions bash", "completions fish --static"] {
        assert!(!home.line(line).ok().is_empty());
        // Not even the variables that name a home are needed.
        let mut command = std::process::Command::new(program());
        command.env_clear().args(line.split(' '));
        assert!(!Ran::of(command).ok().is_empty());
    }
    assert!(!home.path().exists());
}

#[test]
fn help_fits_the_width_and_has_no_colour_in_a_pipe() {
    let home = Home::new();
    let help = home.line("--help").ok();
    assert!(!help.contains('\u{1b}'));
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    assert!(home.line("--help --color always").ok().contains('\u{1b}'));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::new();
    let told = |command: &str, reader: &str| format!("{{ portdistrict {command}; echo \"{command}: $?\" >&2; }} | {reader}");
    // What the script writes fills a pipe several times over, so its end is noticed.
    let ran = Ran::of(home.shell(&format!("{}\n{}", told("completions zsh --static", "true"), told("--help", "head -1"))));
    assert_eq!(ran.stderr, "completions zsh --static: 0\n--help: 0\n", "{ran}");
}

#[test]
fn every_leaf_explains_itself() {
    fn walk(command: &clap::Command, path: &str, leaves: &mut usize) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path}: no help");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let name = arg.get_id();
            assert!(arg.get_help().is_some(), "{path}: {name} has no help");
            if arg.get_action().takes_values() {
                let hinted = arg.get_value_hint() != clap::ValueHint::Unknown || !arg.get_possible_values().is_empty();
                let completed =
                    arg.get::<clap_complete::ArgValueCandidates>().is_some() || arg.get::<clap_complete::ArgValueCompleter>().is_some();
                assert!(hinted || completed, "{path}: nobody knows how to complete {name}");
            }
        }
        if command.has_subcommands() {
            for verb in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                walk(verb, &path, leaves);
            }
        } else {
            let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.starts_with("EXAMPLES:\n") && examples.contains("\n    portdistrict "), "{path}: no examples");
            *leaves += 1;
        }
    }
    let mut leaves = 0;
    walk(&definition(), "", &mut leaves);
    assert!(leaves >= 30, "only {leaves} leaves");
}
