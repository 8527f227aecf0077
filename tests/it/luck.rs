//! Bad luck: disks that are full or read-only, processes that are killed, strangers who knock, keyrings that rot.

use crate::home::{Home, Ran, program};
use crate::story::{Connected, Operator, try_curl, wait_for};
use crate::web::{BIG, GREETING, Web};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs a script where mounting is allowed; false where this user may not.
pub(crate) fn with_mounts(home: &Home, script: &str) -> Option<Ran> {
    let may = |args: &[&str]| Command::new("unshare").args(args).arg("true").output().is_ok_and(|out| out.status.success());
    let way = [vec!["--mount"], vec!["--user", "--map-root-user", "--mount"]].into_iter().find(|way| may(way));
    let Some(way) = way else {
        assert!(std::env::var_os("CI").is_none(), "this user may not mount anything");
        return None;
    };
    let mut command = home.shell("exec \"$@\"");
    command.arg("sh").arg("unshare").args(way).args(["sh", "-ec", script]);
    Some(Ran::of(command))
}

#[test]
fn a_full_disk_is_named_and_what_was_acknowledged_stays() {
    let operator = Operator::with(&[]);
    // A friend of the disk: the same home on a file system of its own, which is then filled to the last byte.
    let script = r#"
        mkdir small; mount -t tmpfs -o size=1m tmpfs small; chmod 700 small
        cp -a home/config home/data home/state small/
        export PORTDISTRICT_HOME=$PWD/small
        portdistrict exit invite --node home --for before --quiet > /dev/null
        cat /dev/zero > small/filler 2> /dev/null || true
        status=0; portdistrict exit invite --node home --for during 2> said || status=$?
        echo "status=$status"; cat said
        rm small/filler
        portdistrict ledger verify
        portdistrict exit invite --node home --for after --quiet > /dev/null
        portdistrict grant list --json
    "#;
    let Some(ran) = with_mounts(&operator.home, script) else { return };
    let text = ran.ok();
    assert!(text.contains("status=1") && text.contains("hint:"), "{text}");
    assert!(text.contains("before") && text.contains("after") && !text.contains("\"during\""), "{text}");
}

#[test]
fn a_read_only_disk_lets_one_look_and_try_and_says_why_nothing_else_works() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let invite = operator.invite("anna", "");
    let script = format!(
        r#"
        mount --bind "$PWD" "$PWD"; mount -o remount,ro,bind "$PWD"; cd "$PWD"
        portdistrict machine list
        status=0; portdistrict exit invite --node home --for bert 2>&1 || status=$?
        echo "status=$status"
        PORTDISTRICT_HOME=$PWD/none portdistrict exit try '{invite}' -- curl -sS {}
    "#,
        web.url("/")
    );
    let Some(ran) = with_mounts(&operator.home, &script) else { return };
    let text = ran.ok();
    assert!(text.contains("status=1") && text.contains("hint:"), "{text}");
    assert!(text.contains(GREETING), "{text}");
    assert!(text.contains("running"), "{text}");
}

#[test]
fn a_command_killed_at_any_moment_loses_nothing_that_it_said() {
    let operator = Operator::with(&[]);
    let home = &operator.home;
    let begun = Instant::now();
    operator.invite("first", "");
    let usual = begun.elapsed();
    let mut said = Vec::new();
    for moment in 0..60 {
        let mut child = home.command(["exit", "invite", "--node", "home", "--for", &format!("friend-{moment}"), "--json"]).spawn().unwrap();
        std::thread::sleep(usual * moment / 30);
        let _ = child.kill();
        let out = child.wait_with_output().unwrap();
        // Half a document acknowledges nothing.
        if let Ok(made) = serde_json::from_slice::<serde_json::Value>(&out.stdout) {
            said.push(made["grant"].clone());
        }
    }
    home.line("ledger verify").ok();
    let known = home.line("grant list --json").json();
    let known: Vec<_> = known["grants"].as_array().unwrap().iter().map(|grant| grant["id"].clone()).collect();
    assert!(said.iter().all(|id| known.contains(id)), "{said:?} in {known:?}");
    assert!(!said.is_empty() && said.len() < 60, "{} of 60 were not killed in time", said.len());
}

#[test]
fn commands_at_the_same_time_all_succeed() {
    let operator = Operator::with(&[]);
    let children: Vec<_> = (0..8)
        .map(|n| operator.home.command(["exit", "invite", "--node", "home", "--for", &format!("friend-{n}"), "--quiet"]).spawn().unwrap())
        .collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    operator.home.line("ledger verify").ok();
    assert_eq!(operator.home.line("grant list --json").json()["grants"].as_array().unwrap().len(), 8);
}

#[test]
fn a_rotten_keyring_is_named_and_left_alone() {
    let home = Home::new();
    home.line("init").ok();
    let keyring = home.path().join("data/keyring.age");
    let whole = std::fs::read(&keyring).unwrap();
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("another kind of file", b"hello".to_vec()),
        ("one bit", {
            let mut bytes = whole.clone();
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        }),
    ] {
        std::fs::write(&keyring, &bytes).unwrap();
        let ran = home.line("identity show");
        assert!(matches!(ran.status, Some(1 | 6)), "{what}: {ran}");
        assert!(ran.stderr.contains("keyring.age") && ran.stderr.contains("hint:"), "{what}: {ran}");
        assert_eq!(std::fs::read(&keyring).unwrap(), bytes, "{what}: nothing is overwritten");
        // Nor does a second init replace what might be mended.
        assert_ne!(home.line("init").status, Some(0), "{what}");
        assert_eq!(std::fs::read(&keyring).unwrap(), bytes, "{what}: nothing is overwritten");
    }
    std::fs::write(&keyring, &whole).unwrap();
    home.line("identity show").ok();
}

#[test]
fn a_node_that_is_not_there_is_unreachable_and_the_address_is_named() {
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let address = operator.home.line("machine list --json").json()["machines"][0]["address"].as_str().unwrap().to_owned();
    operator.home.line("machine destroy home --yes").ok();
    let friend = Home::new();
    let begun = Instant::now();
    let ran = try_curl(&friend, &invite, "http://127.0.0.1/");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let stderr = ran.fails(5);
    assert!(stderr.contains(&address) && stderr.contains("hint:"), "{stderr}");
    let stderr = friend.run(["exit", "accept", &invite]).fails(5);
    assert!(stderr.contains(&address), "{stderr}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let friend = Home::new();
    let stderr = friend.run(["exit", "connect", &invite, "--port", &port]).fails(6);
    assert!(stderr.contains(&port) && stderr.contains("hint:"), "{stderr}");
    // Nothing was spent on the failure: the invite can still be accepted elsewhere.
    Home::new().run(["exit", "accept", &invite]).ok();
}

/// The address of the operator's node.
fn address(operator: &Operator) -> SocketAddr {
    operator.home.line("machine list --json").json()["machines"][0]["address"].as_str().unwrap().parse().unwrap()
}

#[test]
fn whoever_says_nothing_or_very_little_is_cut_off_without_an_answer() {
    let operator = Operator::with(&[]);
    let node = address(&operator);
    let begun = Instant::now();
    let silent = std::thread::spawn(move || {
        let mut tcp = TcpStream::connect(node).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        tcp.read(&mut [0; 1])
    });
    let mut slow = TcpStream::connect(node).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // A byte a second is sixty times as fast as a byte a minute, and ends all the same.
    let answer = loop {
        if let Err(error) = slow.write_all(b"x") {
            break Err(error);
        }
        match slow.read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => assert!(begun.elapsed() < Duration::from_secs(15)),
            other => break other,
        }
    };
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");
    assert!(matches!(silent.join().unwrap(), Ok(0)), "a byte, or no end");
    assert!((9..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[test]
fn five_thousand_idle_connections_do_not_keep_a_friend_out() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let invite = operator.invite("anna", "");
    let node = address(&operator);
    // In a process of its own, whose descriptors are its own.
    let crowd = format!(
        "import socket, resource, sys, time\n\
         hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n\
         all = [socket.create_connection(('{}', {})) for _ in range(5000)]\n\
         print(len(all), flush=True)\n\
         sys.stdin.read()\n",
        node.ip(),
        node.port()
    );
    let mut crowd = Command::new("python3").args(["-c", &crowd]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 5];
    crowd.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"5000\n");
    let friend = Home::new();
    assert_eq!(try_curl(&friend, &invite, &web.url("/")).ok(), GREETING);
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
}

#[test]
fn a_download_stays_whole_while_strangers_send_garbage() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let node = address(&operator);
    let friend = Home::new();
    let connected = Connected::start(&friend, &operator.invite("anna", ""));
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..4u8 {
            let enough = &enough;
            scope.spawn(move || {
                let mut noise = vec![seed; 1500];
                while !enough.load(Ordering::Relaxed) {
                    for byte in &mut noise {
                        *byte = byte.wrapping_mul(73).wrapping_add(41);
                    }
                    let Ok(mut tcp) = TcpStream::connect(node) else { continue };
                    let _ = tcp.write_all(&noise);
                    tcp.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                    assert!(!matches!(tcp.read(&mut [0; 1]), Ok(1)), "garbage was answered");
                }
            });
        }
        let out = connected.curl("socks5h", &web.url("/big")).output().unwrap();
        enough.store(true, Ordering::Relaxed);
        assert_eq!(out.stdout.len(), BIG, "{}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stdout.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn nothing_remains_of_a_try() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let invite = operator.invite("anna", "");
    let friend = Home::new();
    let mark = format!("PORTDISTRICT_TEST_MARK={}-{}", std::process::id(), line!());
    let (name, value) = mark.split_once('=').unwrap();
    let marked = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| {
                std::fs::read(entry.path().join("environ")).is_ok_and(|all| all.split(|&b| b == 0).any(|v| v == mark.as_bytes()))
            })
            .count()
    };
    let files = || std::fs::read_dir(friend.work()).unwrap().count();
    let mut command = friend.command(["exit", "try", &invite, "--", "curl", "-sS", &web.url("/")]);
    command.env(name, value).env("HOME", friend.work()).env("TMPDIR", friend.work()).env("XDG_RUNTIME_DIR", friend.work());
    assert_eq!(Ran::of(command).ok(), GREETING);
    // A process that is gone has no sockets either.
    assert_eq!((files(), marked()), (0, 0));

    let mut command = friend.command(["exit", "try", &invite, "--", "sleep", "100"]);
    command.env(name, value).env("HOME", friend.work()).env("TMPDIR", friend.work()).env("XDG_RUNTIME_DIR", friend.work());
    let mut child = command.spawn().unwrap();
    wait_for("the command to run", || marked() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("every process to end", || marked() == 0);
    assert_eq!(files(), 0);
}

#[test]
fn help_opens_nothing_of_the_home() {
    let home = Home::new();
    home.line("init").ok();
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is missing");
        return;
    }
    for words in [&["--help"][..], &["exit", "--help"], &["exit", "invite", "--help"], &["--version"]] {
        let mut command = home.shell("exec \"$@\"");
        command.arg("sh").args(["strace", "-f", "-qq", "-e", "trace=file,network", program()]).args(words).env("HOME", home.path());
        let ran = Ran::of(command);
        assert_eq!(ran.status, Some(0), "{ran}");
        let touched: Vec<_> =
            ran.stderr.lines().filter(|line| line.contains(home.path().to_str().unwrap()) && !line.contains("execve(")).collect();
        assert!(touched.is_empty() && !ran.stderr.contains("socket("), "{words:?}: {touched:#?}");
    }
}
