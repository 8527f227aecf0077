//! The live view and the page: what a person sees in a terminal, and what a program reads.

use super::home::{Home, Ran, program};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A home with a claimed machine that is gone when the test ends.
struct Operator(Home);

impl Operator {
    fn new() -> Operator {
        let operator = Operator(Home::new());
        let _ = operator.0.line("init").ok();
        operator.deploy("home");
        let _ = operator.0.line("machine claim home").ok();
        operator
    }

    fn deploy(&self, label: &str) {
        let _ = self.0.line(&format!("machine deploy --on local --label {label} --listen 127.0.0.1")).ok();
    }

    fn pid(&self) -> rustix::process::Pid {
        let shown = self.0.line("machine show home --json").json();
        rustix::process::Pid::from_raw(i32::try_from(shown["pid"].as_i64().unwrap()).unwrap()).unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        for label in ["home", "attic"] {
            let _ = self.0.line(&format!("machine destroy {label} --yes"));
        }
    }
}

/// Whether a tool is here; in CI it must be.
fn have(tool: &str, flag: &str) -> bool {
    let found = Command::new(tool).arg(flag).output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is missing");
    found
}

/// A watch that is read line by line.
struct Lines {
    child: Child,
    lines: Receiver<Value>,
}

impl Lines {
    fn start(home: &Home, line: &str) -> Lines {
        let mut child = home.command(line.split(' ')).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Lines { child, lines }
    }

    /// The first document of which this holds.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let document = self.lines.recv_timeout(left).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(document["v"], 1, "{document}");
            if holds(&document) {
                return document;
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn state_of<'a>(document: &'a Value, label: &str) -> &'a str {
    let machines = document["machines"].as_array().unwrap();
    machines.iter().find(|machine| machine["label"] == label).map_or("", |machine| machine["state"].as_str().unwrap())
}

#[test]
fn a_program_reads_a_document_a_line_as_things_happen() {
    let operator = Operator::new();
    for line in ["status --watch --every 1s", "status --watch --every 1s --json"] {
        let watch = Lines::start(&operator.0, line);
        let first = watch.until("the first answer", |document| state_of(document, "home") == "running");
        for field in ["at", "friends", "attention", "entries"] {
            assert!(!first[field].is_null(), "{field}: {first}");
        }
        assert_eq!(first["machines"][0]["down_rate"], 0);
        operator.deploy("attic");
        let next = watch.until("the new machine", |document| state_of(document, "attic") == "unclaimed");
        assert!(next["attention"].to_string().contains("portdistrict machine claim attic"), "{next}");
        let _ = operator.0.line("machine destroy attic --yes").ok();
        let last = watch.until("its end", |document| state_of(document, "attic").is_empty());
        assert!(last["entries"].to_string().contains("machine.destroyed"), "{last}");
    }
}

#[test]
fn a_machine_that_does_not_answer_holds_up_nobody() {
    use rustix::process::{Signal, kill_process};
    let operator = Operator::new();
    operator.deploy("attic");
    let _ = operator.0.line("machine claim attic").ok();
    let stopped = operator.pid();
    let watch = Lines::start(&operator.0, "status --watch --every 1s --json");
    watch.until("both", |document| state_of(document, "home") == "running" && state_of(document, "attic") == "running");
    kill_process(stopped, Signal::STOP).unwrap();
    let silent = watch.until("the silence", |document| state_of(document, "home") == "unreachable");
    kill_process(stopped, Signal::CONT).unwrap();
    assert_eq!(state_of(&silent, "attic"), "running");
    let again = watch.until("its return", |document| state_of(document, "home") == "running");
    assert_eq!(again["attention"].as_array().unwrap().len(), 0, "{again}");
}

#[test]
fn the_end_of_the_reader_is_the_end_of_the_watch() {
    let operator = Operator::new();
    let mut child = operator.0.command(["status", "--watch", "--json"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"label\":\"home\""), "{line}");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "it goes on although nobody reads it");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_opened() {
    let home = Home::new();
    for line in ["status --every 5s", "status --watch --every 0s", "status --watch --every 2h", "status --watch --every soon"] {
        let _ = home.line(line).fails(2);
    }
    assert!(!home.path().exists());
}

/// A terminal of its own, in tmux.
struct Terminal<'a> {
    home: &'a Home,
}

impl Terminal<'_> {
    fn open(home: &Home, columns: usize, rows: usize) -> Terminal<'_> {
        let terminal = Terminal { home };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", &columns, "-y", &rows, "sh"]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = self.home.command(args);
        let socket = self.home.work().join("tmux");
        let mut tmux = Command::new("tmux");
        tmux.arg("-S")
            .arg(socket)
            .args(args)
            .current_dir(self.home.work())
            .env_clear()
            .env("TERM", "xterm")
            .env("LC_ALL", "C.UTF-8")
            .env("PS1", "ready> ");
        tmux.envs(command.env("SHELL", "/bin/sh").get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ran::of(tmux).ok()
    }

    fn type_line(&self, text: &str) {
        self.tmux(&["send-keys", "-t", "t", text, "Enter"]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-t", "t"])
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if holds(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what}:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether the other screen is on, and whether there is a cursor.
    fn flags(&self) -> String {
        self.tmux(&["display-message", "-p", "-t", "t", "#{alternate_on} #{cursor_flag} #{wrap_flag}"]).trim().to_owned()
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn the_view_follows_the_window_and_gives_the_terminal_back() {
    if !have("tmux", "-V") {
        return;
    }
    let operator = Operator::new();
    let terminal = Terminal::open(&operator.0, 80, 24);
    terminal.until("a shell", |screen| screen.contains("ready>"));
    // The shell's child becomes the program, so its id is known before.
    let watch = format!(
        "clear; sh -c 'echo $$ > pid; exec {} status --watch --every 1s'; echo \"it ended with $?\"; stty -a | tr ';' '\\n' | grep -w icanon",
        program()
    );
    for (key, status) in [("q", 0), ("C-c", 130), ("TERM", 130)] {
        terminal.type_line(&watch);
        let screen = terminal.until("the view", |screen| screen.contains("home  running"));
        for word in ["1 machine, 0 friends on now", "q quits", "ON NOW", "nothing needs it", "machine.claimed home"] {
            assert!(screen.contains(word), "{word} is missing:\n{screen}");
        }
        assert_eq!(terminal.flags(), "1 0 0");
        terminal.tmux(&["resize-window", "-t", "t", "-x", "40", "-y", "12"]);
        let narrow = |screen: &str| screen.lines().next().is_some_and(|line| line.chars().count() == 40 && line.ends_with("q quits"));
        terminal.until("a small view", |screen| narrow(screen) && screen.contains("home  running") && screen.contains("nothing needs it"));
        terminal.tmux(&["resize-window", "-t", "t", "-x", "80", "-y", "24"]);
        terminal.until("the large view", |screen| screen.contains("every 1 s  q quits"));
        match key {
            "TERM" => drop(Ran::of(operator.0.shell("kill -TERM $(cat pid)")).ok()),
            key => drop(terminal.tmux(&["send-keys", "-t", "t", key])),
        }
        let screen = terminal.until("the shell again", |screen| screen.contains(" icanon "));
        assert!(screen.contains(&format!("it ended with {status}")) && !screen.contains("-icanon"), "{screen}");
        assert!(!screen.contains("ON NOW"), "{screen}");
        assert_eq!(terminal.flags(), "0 1 1");
    }
}

/// A home whose machine was used by a friend, and knocked at by one who was cut off.
fn used() -> Operator {
    let web = super::web::Web::start();
    let home = Operator(Home::new());
    let _ = home.0.line("init").ok();
    let _ = home.0.line("machine deploy --on local --label home --listen 127.0.0.1 --allow 127.0.0.1").ok();
    let _ = home.0.line("machine claim home").ok();
    for friend in ["anna", "bert"] {
        let invite = home.0.line(&format!("exit invite --node home --for {friend} --mode many --quiet")).ok();
        std::fs::write(home.0.work().join(friend), invite).unwrap();
    }
    let fetch = |friend: &str| home.0.line(&format!("exit try @{friend} -- curl -s {}", web.url("/")));
    assert_eq!(fetch("anna").ok(), super::web::GREETING);
    let _ = home.0.line("grant revoke bert --yes").ok();
    let _ = fetch("bert").fails(4);
    home
}

#[test]
fn the_page_tells_what_was_used_and_what_could_not_be_asked() {
    use std::os::unix::fs::PermissionsExt;
    if !have("curl", "--version") {
        return;
    }
    let operator = used();
    operator.deploy("attic");
    let _ = operator.0.line("machine claim attic").ok();
    let written = operator.0.line("status --html page.html --json").json();
    assert_eq!((&written["file"], &written["machines"]), (&"page.html".into(), &serde_json::json!(["attic", "home"])));
    let file = operator.0.work().join("page.html");
    let page = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written["bytes"], page.len());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for text in
        ["<i class=\"c0\"></i>anna ", "<i class=\"c0\"></i>grant-revoked 1<", "<dt>handshakes</dt><dd>2<", "Nothing needs attention"]
    {
        assert!(page.contains(text), "{text} is missing:\n{page}");
    }
    // What is there is not replaced by the way.
    std::fs::write(&file, "mine").unwrap();
    assert!(operator.0.line("status --html page.html").fails(2).contains("--yes"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    rustix::process::kill_process(operator.pid(), rustix::process::Signal::TERM).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while operator.0.line("machine show home --json").json()["state"] != "stopped" {
        assert!(Instant::now() < deadline, "it goes on");
    }
    let said = operator.0.line("status --html page.html --yes").ok();
    assert!(said.contains("missing: home is not in it"), "{said}");
    assert!(std::fs::read_to_string(&file).unwrap().contains("<b>home</b> could not be asked"));
    // After a restart the node goes on from what it counted.
    let _ = operator.0.line("machine reconnect home").ok();
    let page = operator.0.line("status --html -").ok();
    assert!(page.contains("grant-revoked 1<") && page.ends_with("</html>\n"), "{page}");
    for line in ["status --html . --yes", "status --html /dev/null --yes", "status --html - --json"] {
        let _ = operator.0.line(line).fails(2);
    }
    let _ = operator.0.line("status --html no/such/folder/page.html").fails(1);
}

/// The page in windows as wide as a phone and a desk, measured by the browser with every table open.
const MEASURE: &str = "<!DOCTYPE html><meta charset=utf-8><body><pre id=found></pre><script>
onload = () => { document.getElementById('found').textContent = JSON.stringify([...document.querySelectorAll('iframe')].map(frame => {
  const page = frame.contentDocument;
  page.querySelectorAll('details').forEach(details => details.open = true);
  const bars = [...page.querySelectorAll('svg rect.bar')];
  return { width: frame.clientWidth, scroll: page.documentElement.scrollWidth, body: page.body.scrollWidth,
    plots: page.querySelectorAll('svg[role=img]').length, tables: page.querySelectorAll('table').length, scripts: page.scripts.length,
    bars: bars.length, drawn: bars.filter(bar => bar.getBoundingClientRect().height > 0).length,
    blue: bars.length > 0 && getComputedStyle(bars[0]).fill === 'rgb(0, 114, 178)',
    widest: Math.max(...[...page.querySelectorAll('body *')].map(element => element.getBoundingClientRect().right)),
    letters: Math.min(...[...page.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)) };
})); };
</script>";

#[test]
#[ignore = "needs chromium: ci/test"]
fn a_browser_shows_the_page_on_a_phone_and_on_a_desk() {
    if !have("chromium", "--version") || !have("curl", "--version") {
        return;
    }
    let operator = used();
    let page = operator.0.line("status --html -").ok();
    let page = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = |width| format!("<iframe style=\"border:0;width:{width}px;height:900px\" srcdoc=\"{page}\"></iframe>");
    let file = operator.0.work().join("measure.html");
    std::fs::write(&file, format!("{MEASURE}{}{}", frame(360), frame(1280))).unwrap();
    let mut chromium = Command::new("timeout");
    chromium.args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]);
    let output = chromium.arg(format!("--user-data-dir={}", operator.0.work().join("chromium").display())).arg(&file).output().unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = dom.split_once("<pre id=\"found\">").and_then(|(_, rest)| rest.split_once("</pre>")).map(|(found, _)| found);
    let found = found.unwrap_or_else(|| panic!("{dom}\n{}", String::from_utf8_lossy(&output.stderr)));
    let found: Vec<Value> = serde_json::from_str(found).unwrap_or_else(|e| panic!("{e}: {found}"));
    assert_eq!(found.len(), 2);
    for (found, width) in found.iter().zip([360.0, 1280.0]) {
        assert_eq!((&found["plots"], &found["tables"], &found["scripts"]), (&4.into(), &6.into(), &0.into()), "{found}");
        assert_eq!(found["width"], width as u64, "{found}");
        for field in ["scroll", "body", "widest"] {
            assert!(found[field].as_f64().unwrap() <= width, "{field} of {width}: {found}");
        }
        assert!(found["letters"].as_f64().unwrap() >= 9.0, "{found}");
        assert!(found["bars"].as_u64().unwrap() >= 4 && found["blue"] == true, "{found}");
        assert_eq!(found["bars"], found["drawn"], "{found}");
    }
}
