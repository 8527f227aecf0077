//! The operator's side with real nodes: deploy, claim, find again, look at, destroy.

use super::home::{Home, Ran};
use std::time::{Duration, Instant};

/// A home whose machine is gone when the test ends, however it ends.
struct Operator(Home);

impl Operator {
    fn new() -> Operator {
        let home = Home::new();
        let _ = home.line("init").ok();
        Operator(home)
    }

    fn deployed() -> Operator {
        let operator = Operator::new();
        let _ = operator.0.line("machine deploy --on local --label home --listen 127.0.0.1").ok();
        operator
    }

    fn pid(&self) -> i32 {
        pid_of(&self.0)
    }

    fn state(&self) -> String {
        let shown = self.0.line("machine show home --json").json();
        shown["state"].as_str().unwrap().to_owned()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.line("machine destroy home --yes");
    }
}

/// The process of the machine `home`.
pub(crate) fn pid_of(home: &Home) -> i32 {
    let text = std::fs::read_to_string(home.path().join("state/machines/home/process.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(value["pid"].as_i64().unwrap()).unwrap()
}

fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while runs(pid.as_raw_pid()) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_machine_lives_and_dies_with_nothing_left() {
    let operator = Operator::deployed();
    assert_eq!(operator.state(), "unclaimed");
    let status = operator.0.line("status").ok();
    assert!(status.contains("portdistrict machine claim home"), "{status}");
    let claimed = operator.0.line("machine claim home --json").json();
    assert_eq!(claimed["again"], false);
    assert_eq!(operator.state(), "running");
    assert_eq!(operator.0.line("machine claim home --json").json()["again"], true);
    let status = operator.0.line("status").ok();
    assert!(status.contains("Nothing needs attention."), "{status}");
    let log = operator.0.line("machine logs home").ok();
    assert!(log.contains(" claim ") && log.contains(" ready "), "{log}");
    let _ = operator.0.line("doctor").ok();
    let pid = operator.pid();
    assert!(runs(pid));
    let _ = operator.0.line("machine destroy home --yes").ok();
    assert!(!runs(pid));
    assert!(!operator.0.path().join("state/machines/home").exists());
    assert_eq!(operator.0.line("machine list --json").json()["machines"], serde_json::json!([]));
    let _ = operator.0.line("machine show home").fails(3);
}

#[test]
fn a_node_that_died_is_found_again_with_the_same_key() {
    let operator = Operator::deployed();
    let node = operator.0.line("machine claim home --json").json()["node"].clone();
    kill(operator.pid());
    assert_eq!(operator.state(), "stopped");
    let stderr = operator.0.line("machine doctor home").fails(6);
    assert!(stderr.contains("portdistrict machine reconnect home"), "{stderr}");
    let found = operator.0.line("machine reconnect home --json").json();
    assert_eq!((found["state"].as_str(), &found["node"]), (Some("running"), &node));
}

#[test]
fn of_two_deploys_of_one_label_exactly_one_wins() {
    let operator = Operator::new();
    let mut children: Vec<_> = (0..4)
        .map(|_| operator.0.command("machine deploy --on local --label home --listen 127.0.0.1 --json".split(' ')).spawn().unwrap())
        .collect();
    let outputs: Vec<_> = children.drain(..).map(|child| child.wait_with_output().unwrap()).collect();
    let winners = outputs.iter().filter(|output| output.status.success()).count();
    assert_eq!(winners, 1);
    for output in outputs.iter().filter(|output| !output.status.success()) {
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["code"], "exists", "{error}");
    }
    assert_eq!(operator.state(), "unclaimed");
}

#[test]
fn a_failed_deploy_leaves_nothing() {
    let operator = Operator::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let stderr = operator.0.line(&format!("machine deploy --on local --label home --listen 127.0.0.1 --port {port}")).fails(1);
    assert!(stderr.starts_with(&format!("error: port {port} is in use")), "{stderr}");
    assert!(!operator.0.path().join("state/machines/home").exists());
    assert_eq!(operator.0.line("machine list --json").json()["machines"], serde_json::json!([]));
}

#[test]
fn a_deploy_killed_at_any_moment_leaves_no_process_that_destroy_does_not_end() {
    let operator = Operator::new();
    let home = &operator.0;
    let config = home.path().join("state/machines/home/node.toml");
    let nodes = || {
        let of_this_home = |entry: &std::fs::DirEntry| {
            std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains(config.to_str().unwrap()))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter(of_this_home).count()
    };
    for moment in 0..25 {
        let mut child = home.command("machine deploy --on local --label home --listen 127.0.0.1".split(' ')).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        let _ = child.kill();
        let _ = child.wait();
        if home.path().join("state/machines/home").exists() {
            let status = home.line("status").ok();
            assert!(status.contains("machine destroy home") || status.contains("machine claim home"), "{status}");
            let _ = home.line("machine destroy home --yes").ok();
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while nodes() > 0 {
            assert!(Instant::now() < deadline, "after {moment} ms a node lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let operator = Operator::new();
    let would = operator.0.line("machine deploy --on local --label home --dry-run --json").json();
    assert!(would["would"].as_array().unwrap().len() >= 4);
    assert!(!operator.0.path().join("state/machines").exists());
    let ledger = operator.0.line("ledger log --json").json();
    assert_eq!(ledger["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn a_process_keeps_its_seed_in_its_folder_and_nowhere_else() {
    let home = Home::new();
    home.line("init").ok();
    for source in ["owner", "sealed", "measured"] {
        let said = home.line(&format!("machine deploy --on local --label home --seed {source}")).fails(2);
        assert!(said.contains(&format!("it cannot be `{source}`")) && said.contains("leave --seed away"), "{said}");
    }
    assert!(home.line("machine list --json").ok().contains("[]"));
}

#[test]
fn a_stranger_cannot_claim() {
    let operator = Operator::deployed();
    let stranger = Operator::new();
    // The stranger got hold of everything: the ledger of the owner, with the bootstrap key in it, but not the identity.
    let theft = |from: &Home, to: &Home| {
        let wal = |home: &Home, name: &str| home.path().join("data").join(name);
        for name in ["ledger.db", "ledger.db-wal"] {
            if wal(from, name).exists() {
                std::fs::copy(wal(from, name), wal(to, name)).unwrap();
            } else {
                let _ = std::fs::remove_file(wal(to, name));
            }
        }
        std::fs::create_dir_all(to.path().join("state/machines")).unwrap();
        let status = std::process::Command::new("cp")
            .arg("-a")
            .arg(from.path().join("state/machines/home"))
            .arg(to.path().join("state/machines/"))
            .status();
        assert!(status.unwrap().success());
    };
    theft(&operator.0, &stranger.0);
    let ran = stranger.0.line("machine claim home");
    assert!(ran.stderr.contains("refused"), "{ran}");
    let _ = ran.fails(4);
    assert_eq!(operator.0.line("machine claim home --json").json()["again"], false);
    let ran = stranger.0.line("machine claim home");
    assert!(ran.stderr.contains("refused"), "{ran}");
    let _ = ran.fails(4);
    // Its folder is a copy: destroying it must not end the owner's node.
    let _ = std::fs::remove_dir_all(stranger.0.path().join("state/machines/home"));
}

#[test]
fn following_a_log_ends_when_nobody_reads() {
    let operator = Operator::deployed();
    let ran = Ran::of(operator.0.shell("portdistrict machine logs home --follow | head -n 1"));
    assert!(ran.stdout.contains("ready"), "{ran}");
    assert_eq!(ran.stdout.lines().count(), 1, "{ran}");
}

#[test]
fn no_secret_is_printed_however_much_is_asked_for() {
    let operator = Operator::deployed();
    let cover = std::fs::read_to_string(operator.0.path().join("state/machines/home/cover")).unwrap();
    let key = std::fs::read_to_string(operator.0.path().join("data/keyring.key")).unwrap();
    let key = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap();
    let spans = operator.0.line("ledger log --json").json();
    let shows = spans["entries"].as_array().unwrap().iter().map(|entry| format!("ledger show {} --json", entry["id"].as_str().unwrap()));
    let lines = [
        "-vv machine claim home",
        "-vv machine show home",
        "machine show home --json",
        "machine logs home",
        "status --json",
        "ledger log --json",
    ];
    for line in lines.into_iter().map(str::to_owned).chain(shows) {
        let ran = operator.0.line(&line);
        for secret in [cover.trim(), key] {
            assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{line} prints a secret");
        }
        assert_eq!(ran.status, Some(0), "{ran}");
    }
}

#[test]
fn the_demo_tells_the_whole_story_and_leaves_nothing() {
    let home = Home::new();
    let mut command = home.command(["demo", "--json"]);
    command.env("TMPDIR", home.work());
    let ran = Ran::of(command);
    let scenes: Vec<serde_json::Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(ran.status, Some(0), "{ran}");
    let said = |start: &str, field: &str| {
        let scene = scenes.iter().find(|scene| scene["command"].as_str().unwrap().starts_with(start)).unwrap();
        scene[field].as_str().unwrap().to_owned()
    };
    assert!(said("portdistrict exit try", "stdout").contains("Hello from a web server"), "{ran}");
    assert!(said("portdistrict status", "stdout").contains("anna's link was tried again from elsewhere"), "{ran}");
    assert_eq!(std::fs::read_dir(home.work()).unwrap().count(), 0, "{ran}");
}
