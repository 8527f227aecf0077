//! Machines on a server that is reached by SSH: the whole life of one, and what becomes of it when something fails at any step.
//! Against a real sshd and a real systemd (`ssh/server.rs`). They need root, and are ignored in a plain `cargo test`; `ci/test`
//! runs them.

mod server;

use crate::home::{Home, Ran, program};
use crate::story::{blob, try_curl};
use crate::web::{GREETING, Web};
use server::Server;
use std::path::{Path, PathBuf};

const DEPLOY: &str = "machine deploy --on ssh --host op-server --label berlin";

/// Another build: the program with some bytes of it replaced, or with one more at its end.
fn build(folder: &Path, name: &str, replace: Option<(&str, &str)>) -> PathBuf {
    let mut bytes = std::fs::read(program()).unwrap();
    match replace {
        None => bytes.push(b'\n'),
        Some((old, new)) => {
            assert_eq!(old.len(), new.len());
            let places: Vec<usize> = (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old.as_bytes())).collect();
            assert!(!places.is_empty(), "there is no {old} in the program");
            places.into_iter().for_each(|at| bytes[at..at + old.len()].copy_from_slice(new.as_bytes()));
        }
    }
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn findings(ran: Ran) -> Vec<(String, String)> {
    let text = ran.stdout;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", ran.stderr));
    let checks = value["checks"].as_array().unwrap().clone();
    let word = |check: &serde_json::Value, name: &str| check[name].as_str().unwrap().to_owned();
    checks.iter().map(|check| (word(check, "name"), word(check, "outcome"))).collect()
}

fn failing(home: &Home, line: &str) -> Vec<String> {
    findings(home.line(line)).into_iter().filter(|(_, outcome)| outcome == "fail").map(|(name, _)| name).collect()
}

#[test]
#[ignore = "needs root: ci/test"]
fn the_whole_life_of_a_machine_on_a_server() {
    let server = Server::boot(1024);
    let home = server.home();
    let web = Web::start_at(&server.gateway);
    assert_eq!(failing(&home, "machine doctor --on ssh --host op-server --port 4433 --json"), Vec::<String>::new());

    // A dry run says it all and does nothing.
    let would = home.line(&format!("{DEPLOY} --port 443 --dry-run")).ok();
    assert!(would.contains("DynamicUser=yes") && would.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{would}");
    assert_eq!(server.traces(), "");

    // A port below 1024 without being root; then a second machine, by the way of root.
    let _ = home.line(&format!("{DEPLOY} --port 443 --allow {}", web.address)).ok();
    assert_eq!(home.line("machine claim berlin --json").json()["again"], false);
    let _ = home.line("machine deploy --on ssh --host server --label paris").ok();
    let _ = home.line("machine claim paris").ok();
    assert_eq!(server.said("ls /usr/local/lib/portdistrict/bin | wc -l").trim(), "1", "two machines run one program");

    // What the unit promises, the kernel keeps.
    let pid = server.said("systemctl show --property MainPID --value portdistrict-berlin.service").trim().to_owned();
    let status = server.said(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_ne!(field("Uid:").split_whitespace().next(), Some("0"));
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:"), field("CapEff:")), ("1".into(), "2".into(), "0000000000000400".into()));
    let unit = server.said("systemd-analyze security --no-pager portdistrict-paris.service");
    assert!(unit.contains("OK"), "{unit}");
    println!("{}", unit.lines().last().unwrap_or_default());
    assert_eq!(server.said("find /var/lib/private/portdistrict -name cover -perm 600 | wc -l").trim(), "2");

    // Lent to a friend.
    let invite = blob(&home.line("exit invite --node berlin --for anna").ok());
    let friend = Home::new();
    assert_eq!(try_curl(&friend, &invite, &web.url("/")).ok(), GREETING);
    let log = home.line("machine logs berlin").ok();
    assert!(log.contains(" claim ") && log.contains(" ready "), "{log}");

    // It comes back by itself, and when it is asked to.
    let _ = server.said("systemctl stop portdistrict-berlin.service");
    assert_eq!(home.line("machine show berlin --json").json()["state"], "stopped");
    let _ = home.line("machine reconnect berlin").ok();
    assert_eq!(home.line("machine show berlin --json").json()["state"], "running");
    assert_eq!(failing(&home, "machine doctor berlin --json"), Vec::<String>::new());

    upgrades(&server, &home);
    assert_eq!(try_curl(&friend, &blob(&home.line("exit invite --node berlin --for bert").ok()), &web.url("/")).ok(), GREETING);

    let _ = home.line("machine destroy berlin --yes").ok();
    assert!(server.traces().contains("portdistrict-paris.service"), "{}", server.traces());
    assert_eq!(home.line("machine show paris --json").json()["state"], "running");
    let _ = home.line("machine destroy paris --yes").ok();
    assert_eq!(server.traces(), "");
}

/// A program that is good, one that ends at once, and one that never says that it is ready.
fn upgrades(server: &Server, home: &Home) {
    let node = |home: &Home| home.line("machine show berlin --json").json()["node"].as_str().unwrap().to_owned();
    let before = node(home);
    let folder = tempfile::tempdir().unwrap();
    let good = build(folder.path(), "good", None);
    let upgraded = home.run(["machine", "upgrade", "berlin", "--json", "--program", good.to_str().unwrap()]).json();
    assert_ne!(upgraded["before"], upgraded["now"]);
    let now = upgraded["now"].as_str().unwrap();
    let runs = || server.said("readlink /proc/$(systemctl show --property MainPID --value portdistrict-berlin.service)/exe");
    assert!(runs().contains(now), "{}", runs());
    assert_eq!(node(home), before);
    // The other machine still runs the old one.
    assert_eq!(server.said("ls /usr/local/lib/portdistrict/bin | wc -l").trim(), "2");

    for (name, replace, why) in
        [("ends", ("node.lock", "no/e.lock"), "it ended"), ("silent", ("NOTIFY_SOCKET", "NOTIFY_SICKET"), "said nothing for 6 seconds")]
    {
        let bad = build(folder.path(), name, Some(replace));
        let said = home.run(["machine", "upgrade", "berlin", "--within", "6s", "--program", bad.to_str().unwrap()]).fails(1);
        assert!(said.contains(why) && said.contains("the old program runs again"), "{said}");
        assert!(runs().contains(now), "{}", runs());
        assert_eq!(node(home), before);
        assert_eq!(server.said("ls /usr/local/lib/portdistrict/bin | wc -l").trim(), "2", "the bad one is gone");
    }
}
