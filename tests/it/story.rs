//! Stories from life: an operator lends an exit on this machine to friends, through the real program.

use crate::home::{Home, Ran};
use crate::web::{BIG, GREETING, Web};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An operator with one claimed exit `home`.
pub(crate) struct Operator {
    pub(crate) home: Home,
}

impl Operator {
    pub(crate) fn with(allow: &[String]) -> Operator {
        let home = Home::new();
        home.line("init").ok();
        let mut deploy = vec!["machine", "deploy", "--on", "local", "--label", "home", "--listen", "127.0.0.1"];
        for rule in allow {
            deploy.extend(["--allow", rule]);
        }
        home.run(deploy).ok();
        home.line("machine claim home").ok();
        Operator { home }
    }

    pub(crate) fn allowing(web: &Web) -> Operator {
        Operator::with(&[web.address.to_string()])
    }

    pub(crate) fn invite(&self, name: &str, more: &str) -> String {
        let out = self.home.line(&format!("exit invite --node home --for {name} {more}")).ok();
        blob(&out)
    }

    fn node_log(&self) -> String {
        self.home.line("machine logs home").ok()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.home.line("machine destroy home --yes");
    }
}

/// The blob in what `exit invite` printed.
pub(crate) fn blob(text: &str) -> String {
    text.split_whitespace().find(|word| word.starts_with("portdistrict-invite1:")).unwrap_or_else(|| panic!("no blob in {text}")).to_owned()
}

pub(crate) fn try_curl(friend: &Home, blob: &str, url: &str) -> Ran {
    friend.run(["exit", "try", blob, "--", "curl", "-sS", "--max-time", "20", url])
}

/// A running `exit connect` and its port.
pub(crate) struct Connected {
    child: Child,
    port: u16,
    said: Arc<Mutex<String>>,
}

impl Connected {
    pub(crate) fn start(friend: &Home, what: &str) -> Connected {
        Connected::start_with(friend, what, &[])
    }

    pub(crate) fn start_with(friend: &Home, what: &str, more: &[&str]) -> Connected {
        let port = free_port();
        let port_word = port.to_string();
        let words = ["exit", "connect", what, "--port", &port_word];
        let mut child = friend.command(words.iter().chain(more)).stdin(Stdio::null()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let written = said.clone();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| *written.lock().unwrap() += &(line + "\n")));
        let mut connected = Connected { child, port, said };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !connected.said().contains("Ctrl-C ends it") {
            if let Some(status) = connected.child.try_wait().unwrap() {
                panic!("connect ended with {status}: {}", connected.said());
            }
            assert!(Instant::now() < deadline, "connect does not listen: {}", connected.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        connected
    }

    /// What it has written to stderr.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn curl(&self, scheme: &str, url: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "30", "--proxy", &format!("{scheme}://127.0.0.1:{}", self.port), url]);
        curl.stdout(Stdio::piped()).stderr(Stdio::piped());
        curl
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_friend_fetches_a_page_with_one_pasted_line() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let invite = operator.invite("anna", "");
    assert!(invite.len() <= 450, "{} characters", invite.len());
    let friend = Home::new();
    let ran = try_curl(&friend, &invite, &web.url("/"));
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), GREETING), "{ran}");
    assert!(ran.stderr.contains("Attestation: none"), "{ran}");
    assert!(!friend.path().exists(), "a try makes no home");
    // Quoted, wrapped and commented as chats do it.
    let wrapped = format!("> hi! here it is:\n> `{}\n> {}`\n", &invite[..100], &invite[100..]);
    assert_eq!(try_curl(&friend, &wrapped, &web.url("/")).ok(), GREETING);
}

#[test]
fn what_is_not_allowed_is_refused_with_reply_2_and_a_sentence() {
    let web = Web::start();
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let friend = Home::new();
    let own = operator.home.line("machine list --json").ok();
    let own: serde_json::Value = serde_json::from_str(&own).unwrap();
    let own = own["machines"][0]["address"].as_str().unwrap().to_owned();
    for url in [
        web.url("/"),
        "http://169.254.169.254/".to_owned(),
        format!("http://[::ffff:127.0.0.1]:{}/", web.address.port()),
        format!("http://localhost:{}/", web.address.port()),
        format!("http://{own}/"),
    ] {
        let ran = try_curl(&friend, &invite, &url);
        assert_eq!(ran.status, Some(97), "{ran}");
        assert!(ran.stderr.contains("(2)") && ran.stderr.contains("does not let guests go to"), "{ran}");
    }
}

#[test]
fn the_command_s_exit_status_is_passed_on() {
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let friend = Home::new();
    for status in [0, 7, 255] {
        let ran = friend.run(["exit", "try", &invite, "--", "sh", "-c", &format!("exit {status}")]);
        assert_eq!(ran.status, Some(status), "{ran}");
    }
    let ran = friend.run(["exit", "try", &invite, "--", "no-such-command-here"]);
    assert_eq!(ran.status, Some(3), "{ran}");
}

#[test]
fn an_accepted_invite_is_dead_for_everyone_else_and_the_owner_hears_of_it() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let invite = operator.invite("anna", "");
    let (anna, mallory) = (Home::new(), Home::new());
    anna.run(["exit", "accept", &invite]).ok();
    // Accepting again on the same device is no theft.
    anna.run(["exit", "accept", &invite]).ok();
    for _ in 0..2 {
        let ran = try_curl(&mallory, &invite, &web.url("/"));
        assert_eq!(ran.status, Some(4), "{ran}");
        assert!(ran.stderr.contains("hint:"), "{ran}");
    }
    mallory.run(["exit", "accept", &invite]).fails(4);
    assert!(operator.node_log().contains("grant-bound-elsewhere"));
    let shown = operator.home.line("grant show anna").ok();
    assert!(shown.contains("3 times"), "{shown}");
    let status = operator.home.line("status").ok();
    assert!(status.contains("anna"), "{status}");
    let connected = Connected::start(&anna, "home");
    let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING);
}

#[test]
fn the_proxy_speaks_socks_connect_and_plain_http() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let friend = Home::new();
    let connected = Connected::start(&friend, &operator.invite("anna", ""));
    for scheme in ["socks5h", "socks5", "socks4a", "http"] {
        let out = connected.curl(scheme, &web.url("/")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{scheme}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let out = connected.curl("http", &web.url("/")).arg("--proxytunnel").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING);
    let out = connected.curl("http", "http://10.0.0.1/").output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("does not let guests go to 10.0.0.1:80"), "{out:?}");
    let big = connected.curl("socks5h", &web.url("/big")).output().unwrap();
    assert_eq!(big.stdout.len(), BIG);
}

#[test]
fn eighty_parallel_requests_cost_one_handshake() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let friend = Home::new();
    let connected = Connected::start(&friend, &operator.invite("anna", ""));
    let running: Vec<_> = (0..80).map(|_| connected.curl("socks5h", &web.url("/")).spawn().unwrap()).collect();
    for child in running {
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{}", String::from_utf8_lossy(&out.stderr));
    }
    let log = operator.node_log();
    // The owner's own sessions, for this log and for the claim, are of role control.
    let sessions = log.lines().filter(|line| line.contains("session.open") && !line.contains("role=control")).count();
    // One bound the invite, one carries all the requests.
    assert_eq!(sessions, 2, "{log}");
}

#[test]
fn a_revocation_ends_open_streams_within_a_second_and_outlives_a_restart() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let friend = Home::new();
    let invite = operator.invite("anna", "");
    let connected = Connected::start(&friend, &invite);
    let mut endless = connected.curl("socks5h", &web.url("/endless")).arg("--no-buffer").spawn().unwrap();
    let mut lines = BufReader::new(endless.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick");
    operator.home.line("grant revoke anna --yes").ok();
    let begun = Instant::now();
    while let Some(Ok(_)) = lines.next() {}
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!endless.wait().unwrap().success());
    drop(connected);
    let ran = friend.run(["exit", "connect", "home"]);
    assert_eq!(ran.status, Some(4), "{ran}");
    assert!(ran.stderr.contains("revoked"), "{ran}");
    let ran = try_curl(&Home::new(), &invite, &web.url("/"));
    assert_eq!(ran.status, Some(4), "{ran}");
}

#[test]
fn a_tampered_ledger_names_its_first_broken_span() {
    let home = Home::new();
    home.line("init").ok();
    home.line("ledger verify").ok();
    let db = walk(&home.path()).into_iter().find(|path| path.file_name().is_some_and(|name| name == "ledger.db")).unwrap();
    let mut bytes = std::fs::read(&db).unwrap();
    let needle = b"identity.created";
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the span's bytes stand in the file");
    bytes[at] ^= 1;
    std::fs::write(&db, bytes).unwrap();
    let ran = home.line("ledger verify");
    assert_eq!(ran.status, Some(1), "{ran}");
    assert!(ran.stderr.contains("span") && ran.stderr.contains("hint:"), "{ran}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { all.extend(walk(&entry.path())) } else { all.push(entry.path()) }
    }
    all
}

#[test]
fn a_killed_try_leaves_no_process_behind() {
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let friend = Home::new();
    let mark = format!("86{}", std::process::id());
    // A grandchild that detached itself, too.
    let script = format!("setsid sleep {mark} & sleep {mark}");
    let mut child = friend.command(["exit", "try", &invite, "--", "sh", "-c", &script]).spawn().unwrap();
    let sleepers = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|entry| std::fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line == format!("sleep\0{mark}\0")))
            .count()
    };
    wait_for("both sleepers", || sleepers() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("no sleeper", || sleepers() == 0);
    assert!(!friend.path().exists());
}

pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn wrong_blobs_each_have_their_own_message() {
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let friend = Home::new();
    let middle = invite.len() / 2;
    let changed = format!("{}{}{}", &invite[..middle], if &invite[middle..=middle] == "A" { "B" } else { "A" }, &invite[middle + 1..]);
    let cases = [
        (String::new(), "empty"),
        ("hello there".to_owned(), "no portdistrict"),
        (invite[..middle].to_owned(), "cut"),
        (changed, "damaged"),
        (invite.replacen("invite1:", "invite9:", 1), "upgrade"),
        (invite.replacen("invite1:", "grant1:", 1), ""),
        ("x".repeat(1_000_000), ""),
    ];
    let mut seen = std::collections::HashSet::new();
    for (blob, word) in cases {
        let mut command = friend.command(["exit", "try", "-"]);
        // A megabyte does not fit into an argument.
        if blob.len() < 100_000 {
            command = friend.command(["exit", "try", &blob]);
        } else {
            std::fs::write(friend.work().join("blob"), &blob).unwrap();
            command.stdin(std::fs::File::open(friend.work().join("blob")).unwrap());
        }
        let ran = Ran::of(command);
        assert_eq!(ran.status, Some(2), "{ran}");
        assert!(ran.stderr.to_lowercase().contains(word) && ran.stderr.contains("hint:"), "{word}: {ran}");
        assert!(seen.insert(ran.stderr.lines().next().unwrap_or_default().to_owned()), "the same message twice: {ran}");
    }
}

#[test]
fn limits_end_what_they_limit() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let friend = Home::new();
    let connected = Connected::start(&friend, &operator.invite("anna", "--bytes 5M"));
    let out = connected.curl("socks5h", &web.url("/big")).output().unwrap();
    assert!(!out.status.success());
    assert!(out.stdout.len() < 8_000_000, "{} bytes", out.stdout.len());
    // Time ends a session in mid-stream.
    let short = Home::new();
    let connected = Connected::start(&short, &operator.invite("berta", "--lifetime 4s"));
    let begun = Instant::now();
    let out = connected.curl("socks5h", &web.url("/endless")).output().unwrap();
    assert!(!out.status.success() && begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[test]
fn a_node_that_dies_in_mid_transfer_is_an_error_and_its_return_is_noticed() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let friend = Home::new();
    let connected = Connected::start(&friend, &operator.invite("anna", ""));
    let mut endless = connected.curl("socks5h", &web.url("/endless")).arg("--no-buffer").spawn().unwrap();
    let mut lines = BufReader::new(endless.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick");
    let list = operator.home.line("machine list --json").ok();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let pid = list["machines"][0]["pid"].as_u64().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    while let Some(Ok(_)) = lines.next() {}
    assert!(!endless.wait().unwrap().success(), "a broken transfer must not look complete");
    operator.home.line("machine reconnect home").ok();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
        if out.stdout == GREETING.as_bytes() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn the_friend_who_accepted_is_sent_to_the_exit_and_raises_no_alarm() {
    let operator = Operator::with(&[]);
    let invite = operator.invite("anna", "");
    let friend = Home::new();
    friend.run(["exit", "accept", &invite]).ok();
    let stderr = friend.run(["exit", "try", &invite, "--", "true"]).fails(1);
    assert!(stderr.contains("hint: portdistrict exit connect home"), "{stderr}");
    assert!(operator.home.line("status").ok().contains("Nothing needs attention"));
    let stderr = friend.line("exit try home -- true").fails(2);
    assert!(stderr.contains("hint:") && stderr.contains("exit connect home"), "{stderr}");
    // Who has nothing yet is told how to begin as a friend, not as an operator.
    let stderr = Home::new().line("exit connect home").fails(6);
    assert!(stderr.contains("portdistrict exit accept"), "{stderr}");
    // A second invite for the same friend is said to be one, and what was lent on a machine that is gone shows as gone.
    let ran = operator.home.line("exit invite --node home --for anna");
    assert!(ran.stderr.contains("2 valid invites"), "{ran}");
    operator.home.line("machine destroy home --yes").ok();
    assert!(operator.home.line("grant list").ok().contains("machine gone"));
    assert!(!operator.home.line("status").ok().contains("exits lent"));
}
