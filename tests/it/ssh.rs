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
    server.does("systemctl stop portdistrict-berlin.service");
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

#[test]
#[ignore = "needs root: ci/test"]
fn the_examples_of_servers_run() {
    let server = Server::boot(1024);
    let home = server.home();
    let _ = home.line(DEPLOY).ok();
    assert!(crate::examples::of_servers(&home) >= 4);
    let _ = home.line("machine destroy berlin --yes").ok();
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

/// The steps of a deploy, in their order.
const STEPS: [&str; 6] = ["connect", "facts", "push", "configure", "install", "start"];

/// What became of a deploy that met a fault: its status, and what it said.
fn deploy(home: &Home, more: &str) -> (Option<i32>, String) {
    let ran = home.line(&format!("{DEPLOY} --json{more}"));
    let code = serde_json::from_str::<serde_json::Value>(ran.stderr.lines().last().unwrap_or_default());
    let code = code.ok().and_then(|value| value["error"]["code"].as_str().map(str::to_owned));
    (ran.status, code.unwrap_or(ran.stderr))
}

/// What the ledger says may still be on the server.
fn recorded(home: &Home) -> usize {
    let ran = home.line("machine destroy berlin --dry-run --json");
    if ran.status == Some(3) {
        return 0;
    }
    let would = ran.json()["would"].as_array().unwrap().clone();
    would.iter().filter(|step| step.as_str().unwrap().ends_with("at ssh")).count()
}

#[test]
#[ignore = "needs root: ci/test"]
fn whatever_fails_at_any_step_nothing_is_left_or_it_goes_on_from_there() {
    let server = Server::boot(2048);
    let home = server.home();
    println!("{:10} {:14} {:>6} {:13} {:28} then", "step", "fault", "status", "error", "left on the server");
    for kind in ["lost-before", "lost-midway", "lost-after", "ctrl-c", "silence", "killed-before", "killed-after"] {
        for step in STEPS {
            server.fault(step, kind);
            let (status, code) = deploy(&home, if kind == "silence" { " --timeout 6s" } else { "" });
            let met = !server.mend();
            let left = server.traces().lines().count();
            let outcome = match (status, kind) {
                // It was quicker than the fault, or what was cut off was done.
                (Some(0), "lost-midway") => {
                    let _ = home.line("machine destroy berlin --yes").ok();
                    "done all the same"
                }
                (None, "killed-before" | "killed-after") => {
                    // Either go on, or clear away: both work.
                    if kind == "killed-after" {
                        assert_eq!(deploy(&home, "").0, Some(0), "{step} {kind}");
                        let _ = home.line("machine destroy berlin --yes").ok();
                        "deployed again, destroyed"
                    } else {
                        let destroyed = home.line("machine destroy berlin --yes");
                        // Nothing was recorded yet when it was killed.
                        assert!(destroyed.status == Some(0) || destroyed.status == Some(3) && left == 0, "{step} {kind}: {destroyed}");
                        "destroyed"
                    }
                }
                _ => {
                    assert_eq!((left, recorded(&home)), (0, 0), "{step} {kind}: {}", server.traces());
                    "nothing to do"
                }
            };
            println!(
                "{step:10} {kind:14} {:>6} {code:13} {left:<28} {outcome}",
                status.map_or("killed".into(), |status| status.to_string())
            );
            assert!(met, "{step} {kind}: the fault was not met");
            match kind {
                "lost-before" | "lost-after" => assert_eq!(status, Some(5), "{step} {kind}"),
                "ctrl-c" => assert_eq!(status, Some(130), "{step} {kind}"),
                "silence" => assert_eq!((status, &*code), (Some(5), "timed_out"), "{step} {kind}"),
                "killed-before" | "killed-after" => assert_eq!(status, None, "{step} {kind}"),
                _ => {}
            }
            assert_eq!((server.traces(), recorded(&home)), (String::new(), 0), "{step} {kind}");
        }
    }
    // The line is dead for good: what may be there is told and stays recorded; later it is removed.
    server.fault("configure", "killed-after");
    assert_eq!(deploy(&home, "").0, None);
    server.fault("all", "lost-before");
    let said = home.line("machine destroy berlin --yes").fails(1);
    assert!(said.contains("is still there") && said.contains("machine destroy berlin"), "{said}");
    server.mend();
    assert!(recorded(&home) > 0);
    let _ = home.line("machine destroy berlin --yes").ok();
    assert_eq!((server.traces(), recorded(&home)), (String::new(), 0));
    print!("{}", upgrade_faults(&server, &home));
}

/// A connection that breaks while a machine is upgraded does not leave it between two programs.
fn upgrade_faults(server: &Server, home: &Home) -> String {
    let mut rows = String::new();
    let _ = home.line(DEPLOY).ok();
    let _ = home.line("machine claim berlin").ok();
    let folder = tempfile::tempdir().unwrap();
    let mut program = build(folder.path(), "other", None);
    for (step, kind) in [
        ("push", "lost-midway"),
        ("push", "killed-before"),
        ("upgrade", "lost-midway"),
        ("upgrade", "killed-after"),
        ("upgrade", "lost-after"),
    ] {
        server.fault(step, kind);
        let upgrade = |program: &Path| home.run(["machine", "upgrade", "berlin", "--json", "--program", program.to_str().unwrap()]);
        let first = upgrade(&program);
        server.mend();
        assert!(first.status != Some(0), "{step} {kind}: {first}");
        let again = upgrade(&program).json();
        let name = again["now"].as_str().unwrap();
        assert_eq!(home.line("machine show berlin --json").json()["state"], "running", "{step} {kind}");
        assert_eq!(server.said("ls /usr/local/lib/portdistrict/bin").trim(), name, "{step} {kind}");
        rows += &format!("{step:10} {kind:14} upgraded by the next try; one program, the new one\n");
        let bytes = std::fs::read(&program).unwrap();
        program = folder.path().join(format!("{step}-{kind}"));
        std::fs::write(&program, [&bytes[..], b"\n"].concat()).unwrap();
    }
    let _ = home.line("machine destroy berlin --yes").ok();
    assert_eq!(server.traces(), "");
    rows
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_server_that_cannot_have_a_machine_is_told_why_and_left_as_it_is() {
    let server = Server::boot(1024);
    let home = server.home();
    let refused = |line: &str, status: i32, part: &str, hint: &str| {
        let said = home.line(line).fails(status);
        println!("{}", said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default());
        assert!(said.contains(part) && said.contains(hint), "{said}");
        assert_eq!((server.traces(), recorded(&home)), (String::new(), 0), "{line}");
    };
    let berlin = "--label berlin";

    // Somebody who is not root, whom sudo asks for a password.
    refused(&format!("machine deploy --on ssh --host guest-server {berlin}"), 6, "sudo does not make you so", "visudo");
    assert_eq!(failing(&home, "machine doctor --on ssh --host guest-server --json"), ["root"]);

    // Ports.
    refused(&format!("{DEPLOY} --port 22"), 1, "port 22 is in use", "--port");
    assert_eq!(failing(&home, "machine doctor --on ssh --host server --port 22 --json"), ["port"]);

    // A program for another processor: e_machine of this one, made that of a 64-bit Arm.
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(program()).unwrap();
    bytes[18..20].copy_from_slice(&(if cfg!(target_arch = "aarch64") { 62u16 } else { 183 }).to_le_bytes());
    let arm = folder.path().join("arm");
    std::fs::write(&arm, &bytes).unwrap();
    refused(&format!("{DEPLOY} --program {}", arm.display()), 6, "architecture", "--program FILE");
    // One that is for this processor and still no portdistrict.
    refused(&format!("{DEPLOY} --program /bin/true"), 6, "does not run on", "--program FILE");
    refused(&format!("{DEPLOY} --program {}/config", folder.path().display()), 1, "cannot open", "hint:");

    // A disk that is full, seen before and met on the way.
    server.does("! dd if=/dev/zero of=/usr/local/fill bs=1M");
    refused(DEPLOY, 6, "disk", "df -h");
    server.does("rm /usr/local/fill");
    server.fault("push", "disk-full");
    refused(DEPLOY, 1, "disk of op-server is full", "df -h");
    server.does("rm /usr/local/fill");
    server.fault("configure", "disk-full");
    refused(DEPLOY, 1, "disk of op-server is full", "df -h");
    server.does("rm /usr/local/fill");

    // A system that cannot be written to; journal and sshd have files open on the rest.
    server.does("for folder in /usr/local /etc; do mount --bind $folder $folder && mount -o remount,bind,ro $folder; done");
    refused(DEPLOY, 6, "cannot be written to", "findmnt");
    server.does("umount /usr/local /etc");

    // A host key that nobody knows, and one that is another than before.
    let known = server.host_key();

    let flipped: String =
        known.split(' ').enumerate().map(|(at, word)| if at == 1 { flip(word) } else { word.to_owned() }).collect::<Vec<_>>().join(" ");
    server.write_config(&flipped);
    refused(DEPLOY, 4, "another host key than before", "ssh-keygen -R");
    server.write_config("");
    refused(DEPLOY, 4, "host key of op-server is not known", "fingerprint");
    server.write_config(&known);

    // Nobody there, and somebody who lets nobody in.
    server.does("rm /etc/ssh/keys/op");
    refused(DEPLOY, 4, "does not let you in", "BatchMode");
    server.does("cp /etc/ssh/keys/root /etc/ssh/keys/op");
    server.does("systemctl stop test-sshd");
    refused(DEPLOY, 5, "cannot be reached", "ssh -v");
    server.does("systemctl start test-sshd");

    // What is another's stays another's.
    let stranger = server.home();
    let _ = stranger.line(DEPLOY).ok();
    let said = home.line(DEPLOY).fails(1);
    assert!(said.contains("somebody else") && recorded(&home) == 0, "{said}");
    assert!(server.said("systemctl is-active portdistrict-berlin.service").contains("active"));
    // And what is ours and runs is not made anew by a deploy that does not know of it.
    let said = stranger.line("machine destroy berlin --yes").ok();
    assert_eq!(server.traces(), "", "{said}");

    // A server that is gone for good can be forgotten.
    let _ = home.line(DEPLOY).ok();
    server.fault("all", "lost-before");
    let _ = home.line("machine destroy berlin --yes").fails(1);
    let said = home.line("machine destroy berlin --yes --forget");
    assert!(said.stderr.contains("unit portdistrict-berlin.service in op-server at ssh is still there"), "{said}");
    let _ = said.ok();
    server.mend();
    assert_eq!(home.line("machine list --json").json()["machines"], serde_json::json!([]));
    assert_eq!(recorded(&home), 0);

    // Labels and hosts are no commands.
    for host in ["-oProxyCommand=touch${IFS}/tmp/pwned", "server;reboot", "$(reboot)"] {
        let _ = home.run(["machine", "deploy", "--on", "ssh", &format!("--host={host}"), "--label", "berlin"]).fails(2);
    }
}

/// The same key with its last byte changed.
fn flip(base64: &str) -> String {
    let (head, last) = base64.split_at(base64.len() - 1);
    format!("{head}{}", if last == "A" { "B" } else { "A" })
}
