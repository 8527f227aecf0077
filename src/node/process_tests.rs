//! A node as a process of its own: how it says that it is ready, and how it ends.

use super::*;
use crate::error::Code;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs only as the child of the tests below.
#[test]
fn node_child() {
    let Some(config) = std::env::var_os("PORTDISTRICT_NODE_CHILD") else { return };
    run(Path::new(&config), |ready| print!("{}", ready.lines())).unwrap();
}

struct Place {
    dir: tempfile::TempDir,
    child: Child,
    address: String,
    manager: UnixDatagram,
    /// The test harness in the child writes its own lines too and minds when nobody can read them.
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(dir: tempfile::TempDir) -> Place {
    let path = dir.path().join("node.toml");
    let config = Config::new("127.0.0.1:0".parse().unwrap(), "state", "home".parse().unwrap());
    std::fs::write(&path, config.to_toml().unwrap()).unwrap();
    let _ = std::fs::remove_file(dir.path().join("notify"));
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["node::process_tests::node_child", "--exact", "--nocapture", "--test-threads=1"])
        .env("PORTDISTRICT_NODE_CHILD", &path)
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut lines = stdout.by_ref().lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.split_once("PORTDISTRICT_READY=").map(|(_, address)| address.to_owned())).unwrap();
    Place { dir, child, address, manager, _stdout: stdout }
}

fn told(place: &Place) -> String {
    let mut buffer = [0; 100];
    let n = place.manager.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}

#[test]
fn ready_means_ready_and_a_signal_ends_it_within_a_second() {
    let mut place = start(tempfile::tempdir().unwrap());
    // The port answers at the moment the line is out.
    let held = std::net::TcpStream::connect(&place.address).unwrap();
    assert_eq!(told(&place), "READY=1");
    let ready = ready::ask(&place.dir.path().join("state")).unwrap();
    assert_eq!((ready.listen.to_string(), ready.pid), (place.address.clone(), place.child.id()));
    assert!(!ready.claimed && ready.label == "home");

    // The terminal goes away: nothing happens.
    kill_process(Pid::from_child(&place.child), Signal::HUP).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(ready::ask(&place.dir.path().join("state")).is_ok());

    let started = Instant::now();
    kill_process(Pid::from_child(&place.child), Signal::TERM).unwrap();
    assert_eq!(told(&place), "STOPPING=1");
    assert!(place.child.wait().unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(std::net::TcpStream::connect(&place.address).is_err());
    drop(held);
}

#[test]
fn killed_without_warning_it_comes_back_as_itself() {
    let mut place = start(tempfile::tempdir().unwrap());
    let state = place.dir.path().join("state");
    let before = ready::ask(&state).unwrap();
    place.child.kill().unwrap();
    place.child.wait().unwrap();
    assert_eq!(ready::ask(&state).unwrap_err().code(), Code::Unreachable);
    let dir = std::mem::replace(&mut place.dir, tempfile::tempdir().unwrap());
    let again = start(dir);
    let after = ready::ask(&again.dir.path().join("state")).unwrap();
    assert_eq!(before.node, after.node);
    assert_ne!(before.pid, after.pid);
}
