//! Grants through the real program: an operator, friends, and friends of friends.

use crate::home::{Home, Ran};
use crate::story::{Connected, Operator, blob, try_curl};
use crate::web::{GREETING, Web};
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// What `curl` gets through a running `exit connect`, or nothing.
fn fetch(connected: &Connected, url: &str) -> String {
    let out = connected.curl("socks5h", url).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn create(operator: &Operator, words: &str) -> String {
    blob(&operator.home.line(&format!("grant create --node home {words}")).ok())
}

fn narrow(holder: &Home, words: &str) -> Ran {
    holder.line(&format!("grant narrow home {words}"))
}

/// Waits for what another process does in its own time.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_exit_is_passed_on_narrower_used_counted_and_taken_back() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let (anna, bert, carla) = (Home::new(), Home::new(), Home::new());
    let invite = create(&operator, "--for anna --delegable 2 --bytes 1G");
    anna.run(["exit", "accept", &invite]).ok();

    // Passed on twice, offline as far as the holders go.
    let to_bert = blob(&narrow(&anna, "--for bert --lifetime 12h --bytes 1M").ok());
    assert!(to_bert.len() <= 600, "{} characters", to_bert.len());
    bert.run(["exit", "accept", &to_bert]).ok();
    let to_carla = blob(&narrow(&bert, "--for carla").ok());
    carla.run(["exit", "accept", &to_carla]).ok();
    let too_far = narrow(&carla, "--for dora");
    assert!(too_far.status == Some(4) && too_far.stderr.contains("may not be passed on"), "{too_far}");

    let (by_bert, by_carla) = (Connected::start(&bert, "home"), Connected::start(&carla, "home"));
    assert_eq!((fetch(&by_bert, &web.url("/")), fetch(&by_carla, &web.url("/"))), (GREETING.to_owned(), GREETING.to_owned()));
    // Bert's megabyte is Carla's as well.
    assert!(fetch(&by_carla, &web.url("/big")).len() < 3_000_000);
    assert_eq!(fetch(&by_bert, &web.url("/")), "", "it is used up above, too");

    // The owner sees names and amounts.
    let shown = operator.home.line("grant show anna --json").json();
    let names: Vec<&str> = shown["children"].as_array().unwrap().iter().map(|child| child["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"bert") && names.contains(&"carla"), "{shown}");
    assert!(shown["left"]["bytes"].as_u64().unwrap() < (1 << 30) - 1_000_000, "{shown}");
    assert_eq!(shown["used"][0]["last_way"], "direct");
    let list = anna.line("grant list").ok();
    assert!(list.contains("bert") && list.contains("passed on"), "{list}");

    // Anna takes back what she passed on: Bert and Carla are cut off, she is not.
    let by_anna = Connected::start(&anna, "home");
    anna.line("grant revoke bert --yes").ok();
    drop((by_bert, by_carla));
    for friend in [&bert, &carla] {
        let ran = friend.run(["exit", "connect", "home"]);
        assert!(ran.status == Some(4) && ran.stderr.contains("grant-revoked"), "{ran}");
    }
    assert_eq!(fetch(&by_anna, &web.url("/")), GREETING);
    let shown = anna.line("grant show bert").ok();
    assert!(shown.contains("revoked") && !shown.contains("attention"), "{shown}");
    operator.home.line("ledger verify").ok();
    anna.line("ledger verify").ok();
}

#[test]
fn the_owner_revokes_what_a_friend_passed_on_and_nothing_else() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let (anna, bert) = (Home::new(), Home::new());
    anna.run(["exit", "accept", &create(&operator, "--for anna --delegable 1")]).ok();
    let to_bert = blob(&narrow(&anna, "--for bert").ok());
    // Before he accepts, its text can be tried, like any invite.
    assert_eq!(try_curl(&Home::new(), &to_bert, &web.url("/")).ok(), GREETING);
    bert.run(["exit", "accept", &to_bert]).ok();
    assert_eq!(try_curl(&Home::new(), &to_bert, &web.url("/")).status, Some(4));
    operator.home.line("status").ok();
    let list = operator.home.line("grant list --json").json();
    assert_eq!(list["passed_on"][0]["name"], "bert", "{list}");
    operator.home.line("grant revoke bert --yes").ok();
    let ran = bert.run(["exit", "connect", "home"]);
    assert!(ran.status == Some(4) && ran.stderr.contains("grant-revoked"), "{ran}");
    assert_eq!(fetch(&Connected::start(&anna, "home"), &web.url("/")), GREETING);
    operator.home.line("grant revoke anna --yes").ok();
    assert_eq!(anna.run(["exit", "connect", "home"]).status, Some(4));
}

#[test]
fn places_hours_and_ways_are_kept_and_explained() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let port = web.address.port();
    let named = create(&operator, &format!("--for anna --allow localhost:{port} --deny 10.0.0.0/8"));
    assert_eq!(try_curl(&Home::new(), &named, &format!("http://localhost:{port}/")).ok(), GREETING);
    let ran = try_curl(&Home::new(), &named, &web.url("/"));
    assert!(ran.status == Some(97) && ran.stderr.contains("does not let guests go to"), "{ran}");
    let denied = create(&operator, "--for bert --deny localhost --deny 192.0.2.0/24");
    assert_eq!(try_curl(&Home::new(), &denied, &format!("http://localhost:{port}/")).status, Some(97));
    assert_eq!(try_curl(&Home::new(), &denied, &web.url("/")).ok(), GREETING);

    // Two hours of the week that are as far from now as can be.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let days = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let far = days[usize::try_from(now / 86_400 + 3).unwrap() % 7];
    let hours = operator.home.run(["grant", "create", "--node", "home", "--for", "carla", "--hours", &format!("{far} 10:00-12:00")]);
    let ran = try_curl(&Home::new(), &blob(&hours.ok()), &web.url("/"));
    assert!(ran.status == Some(4) && ran.stderr.contains("outside-hours"), "{ran}");
    let shown = operator.home.line("grant show carla").ok();
    assert!(shown.contains(&format!("{far} 10:00-12:00 UTC")), "{shown}");

    for (words, says) in [
        ("--hours 9 to 5", "hours of the week"),
        ("--allow exa_mple.org:0", "no destination"),
        ("--devices 3", "--mode many"),
        ("--lease 5m", "at least an hour"),
        ("--delegable 4", "delegable"),
    ] {
        let words: Vec<&str> = match words.split_once(' ') {
            Some((flag, value)) => vec![flag, value],
            None => vec![words],
        };
        let ran = operator.home.run([&["grant", "create", "--node", "home", "--for", "dora"][..], &words].concat());
        assert!(ran.status == Some(2) && ran.stderr.contains(says), "{ran}");
    }
}

#[test]
fn a_grant_is_suspended_resumed_and_renewed_without_the_friend() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let (anna, text) = (Home::new(), create(&operator, "--for anna --lifetime 1h"));
    anna.run(["exit", "accept", &text]).ok();
    let connected = Connected::start(&anna, "home");
    operator.home.line("grant renew anna --suspend").ok();
    let ran = anna.run(["exit", "connect", "home", "--port", "0"]);
    assert!(!connected.said().is_empty() && ran.status != Some(0), "{ran}");
    drop(connected);
    assert!(operator.home.line("grant show anna").ok().contains("suspended"));
    let ran = anna.run(["exit", "connect", "home", "--port", "0"]);
    assert!(ran.status == Some(4) && ran.stderr.contains("outside-hours"), "{ran}");
    operator.home.line("grant renew anna --resume --lifetime 30d").ok();
    assert_eq!(fetch(&Connected::start(&anna, "home"), &web.url("/")), GREETING);
    // The friend may have the newest revision, too; the text of before is no way around it.
    let renewed = operator.home.line("grant export anna").ok();
    let renewed = renewed.split_whitespace().find(|word| word.starts_with("portdistrict-grant1:")).unwrap().to_owned();
    let before = anna.line("exit show home --json").json()["expires"].as_u64().unwrap();
    anna.run(["exit", "accept", &renewed]).ok();
    assert!(anna.line("exit show home --json").json()["expires"].as_u64().unwrap() > before + 86_400);
    let ran = Home::new().run(["exit", "accept", &renewed]);
    assert!(ran.status == Some(6) && ran.stderr.contains("no exit was accepted here yet"), "{ran}");
    assert_eq!(fetch(&Connected::start(&anna, "home"), &web.url("/")), GREETING);
    operator.home.line("grant revoke anna --yes").ok();
    operator.home.line("grant renew anna").fails(4);
}

#[test]
fn a_machine_that_was_away_hears_of_a_revocation_at_the_next_visit() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let anna = Home::new();
    anna.run(["exit", "accept", &create(&operator, "--for anna")]).ok();
    let shown = operator.home.line("machine show home --json").json();
    let pid = shown["pid"].as_i64().unwrap_or_else(|| panic!("{shown}"));
    assert!(std::process::Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    eventually("the node ends", || operator.home.line("machine show home --json").json()["state"] == "stopped");
    let ran = operator.home.line("grant revoke anna --yes");
    assert!(ran.status == Some(0) && ran.stderr.contains("as soon as it is told"), "{ran}");
    let shown = operator.home.line("grant show anna --json").json();
    assert_eq!(shown["unheard"][0], "home", "{shown}");
    assert!(operator.home.line("grant list --all").stderr.contains("has not heard"));
    operator.home.line("machine reconnect home").ok();
    let shown = operator.home.line("grant show anna --json").json();
    assert_eq!(shown["unheard"].as_array().map(Vec::len), Some(0), "{shown}");
    assert!(operator.home.line("grant revoke --retry").stderr.contains("has heard everything"));
    assert_eq!(anna.run(["exit", "connect", "home"]).status, Some(4));
    let log = operator.home.line("ledger log --json").ok();
    assert!(log.contains("revocation.delivered"), "{log}");
}

#[test]
fn the_worst_case_is_told_and_moves_with_each_visit() {
    let operator = Operator::with(&[]);
    create(&operator, "--for anna --lease 2h --lifetime 30d");
    let worst = || operator.home.line("grant show anna --json").json()["worst_case"][0]["until"].as_u64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // The statement of the last visit may be half an hour old.
    assert!((now + 5400 - 60..=now + 7200 + 60).contains(&worst()), "{} at {now}", worst());
    let shown = operator.home.line("grant show anna").ok();
    assert!(shown.contains("never hears of it: works until"), "{shown}");
    let log = operator.home.line("ledger log --json").ok();
    assert_eq!(log.matches("\"lease.stated\"").count(), 1, "one statement for many visits: {log}");
}

#[test]
fn streams_of_what_was_passed_on_end_within_a_second() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let (anna, bert) = (Home::new(), Home::new());
    anna.run(["exit", "accept", &create(&operator, "--for anna --delegable 1")]).ok();
    bert.run(["exit", "accept", &blob(&narrow(&anna, "--for bert").ok())]).ok();
    let connected = Connected::start(&bert, "home");
    let mut endless = connected.curl("socks5h", &web.url("/endless")).arg("--no-buffer").spawn().unwrap();
    let mut lines = BufReader::new(endless.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick");
    operator.home.line("grant revoke anna --yes").ok();
    let begun = Instant::now();
    while let Some(Ok(_)) = lines.next() {}
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let _ = endless.wait();
}
