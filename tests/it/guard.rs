//! Nothing that a guarded command started outlives it, whoever ends and however.

use crate::home::{Home, Ran};
use crate::story::wait_for;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Sleeps that no other process on this computer does, so that they can be found.
struct Marked(String);

impl Marked {
    fn new() -> Marked {
        let mut random = [0; 4];
        getrandom::fill(&mut random).unwrap();
        Marked(format!("{}.{}", 10_000 + std::process::id(), u32::from_be_bytes(random)))
    }

    /// A process in a session of its own, a child of a child that is gone, and one in the foreground.
    fn family(&self, then: &str) -> String {
        let sleep = format!("sleep {}", self.0);
        format!("setsid {sleep} & (setsid sh -c '{sleep} & {sleep} &' &) ; {then}")
    }

    fn alive(&self) -> usize {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
        processes.filter(|line| line.starts_with(b"sleep\0") && line[6..].starts_with(self.0.as_bytes())).count()
    }

    fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.alive() != count {
            assert!(Instant::now() < deadline, "{} of {count} processes after 10 s", self.alive());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The guard as a child of this test.
fn guard(home: &Home, words: &[&str]) -> Command {
    let parent = std::process::id().to_string();
    home.command([&["__guard", &parent], words].concat())
}

fn scratch(home: &Home) -> PathBuf {
    home.work().join("scratch")
}

#[test]
fn the_status_of_the_command_is_the_guard_s() {
    let home = Home::new();
    for status in [0, 1, 42, 255] {
        Ran::of(guard(&home, &["--", "sh", "-c", &format!("exit {status}")])).fails(status);
    }
    Ran::of(guard(&home, &["--", "sh", "-c", "kill -9 $$"])).fails(137);
    let missing = Ran::of(guard(&home, &["--", "no-such-command"])).fails(3);
    assert!(missing.contains("`no-such-command`") && missing.contains("hint:"), "{missing}");
    assert!(!home.path().exists());
}

#[test]
fn without_a_command_it_keeps_the_scratch_folder_until_it_is_ended() {
    let home = Home::new();
    let folder = scratch(&home);
    let mut child = guard(&home, &["--scratch", folder.to_str().unwrap(), "--"]).spawn().unwrap();
    wait_for("the folder", || folder.exists());
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!folder.exists());
}

#[test]
fn what_the_command_left_behind_ends_with_it() {
    let (home, marked) = (Home::new(), Marked::new());
    let folder = scratch(&home);
    let script = marked.family(&format!("cat {0}/user.js; touch {0}/more; mkdir {0}/deep", folder.display()));
    let ran = Ran::of(guard(&home, &["--scratch", folder.to_str().unwrap(), "--file", "user.js", "pref\n", "--", "sh", "-c", &script]));
    assert_eq!(ran.ok(), "pref\n");
    assert_eq!(marked.alive(), 0);
    assert!(!folder.exists());
}

/// A program that starts a guard and waits, as `try` does.
fn parent(home: &Home, marked: &Marked) -> Child {
    let folder = scratch(home);
    let script = marked.family(&format!("sleep {}", marked.0)).replace('\'', "\"");
    // The outer shell must be the guard's parent: `wait` keeps it from becoming the guard.
    let line = format!("portdistrict __guard $$ --scratch {} -- sh -c '{script}' & wait", folder.display());
    let child = home.shell(&line).spawn().unwrap();
    marked.wait_for(4);
    assert!(folder.exists());
    child
}

#[test]
fn a_killed_parent_takes_everything_with_it() {
    let (home, marked) = (Home::new(), Marked::new());
    let mut parent = parent(&home, &marked);
    parent.kill().unwrap();
    assert_eq!(parent.wait().unwrap().signal(), Some(9));
    marked.wait_for(0);
    let deadline = Instant::now() + Duration::from_secs(5);
    while scratch(&home).exists() {
        assert!(Instant::now() < deadline, "the scratch folder is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_guard_without_its_parent_starts_nothing() {
    let home = Home::new();
    let witness = home.work().join("witness");
    let ran = Ran::of(home.command(["__guard", "1", "--", "touch", witness.to_str().unwrap()]));
    ran.fails(130);
    assert!(!witness.exists());
}

/// Children in sessions of their own are not in the guard's process group; reaping only that group took five seconds here.
#[test]
fn ending_is_quick() {
    let (home, marked) = (Home::new(), Marked::new());
    let begun = Instant::now();
    Ran::of(guard(&home, &["--", "sh", "-c", &marked.family("true")])).ok();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
