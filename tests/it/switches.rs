//! What a machine can do, switched off and on by its owner through the real program, and the log that the node itself keeps.

use super::home::Home;
use super::machine::{kill, pid_of};
use super::story::{Connected, Operator, try_curl};
use super::web::{GREETING, Web};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn an_exit_that_is_switched_off_is_empty_within_a_second_and_says_so_until_it_is_on_again() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let home = &operator.home;
    let friend = Home::new();
    let invite = operator.invite("anna", "");
    let connected = Connected::start(&friend, &invite);
    let mut endless = connected.curl("socks5h", &web.url("/endless")).arg("--no-buffer").spawn().unwrap();
    let mut lines = BufReader::new(endless.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick");

    let would = home.line("machine disable home exit --dry-run --json").json();
    assert_eq!(would["would"].as_array().unwrap().len(), 2, "{would}");
    assert_eq!(home.line("ledger log --kind machine.disabled --json").json()["entries"].as_array().unwrap().len(), 0);
    let off = home.line("machine disable home exit --json").json();
    let begun = Instant::now();
    assert_eq!((&off["enabled"], &off["heard"], &off["already"], &off["ended"]), (&false.into(), &true.into(), &false.into(), &1.into()));
    while let Some(Ok(_)) = lines.next() {}
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!endless.wait().unwrap().success());
    drop(connected);

    let ran = friend.run(["exit", "connect", "home"]);
    assert_eq!(ran.status, Some(4), "{ran}");
    assert!(ran.stderr.contains("the owner has switched exit `home` off") && ran.stderr.contains("the invite stays good"), "{ran}");
    let told = friend.run(["exit", "connect", "home", "--json"]);
    assert!(told.stderr.contains("switched-off"), "{told}");
    let shown = home.line("machine show home --json").json();
    assert_eq!((&shown["state"], &shown["off"]), (&"switched-off".into(), &serde_json::json!(["exit"])));
    assert!(home.line("machine list").ok().contains("switched-off"));
    assert!(home.line("status").ok().contains("portdistrict machine enable home exit"));
    assert_eq!(home.line("machine disable home exit --json").json()["already"], true);

    // It stays off when the node begins anew, and comes back for the same friend.
    kill(pid_of(home));
    let _ = home.line("machine reconnect home").ok();
    assert_eq!(friend.run(["exit", "connect", "home"]).status, Some(4));
    let on = home.line("machine enable home exit --json").json();
    assert_eq!((&on["enabled"], &on["heard"]), (&true.into(), &true.into()), "{on}");
    let connected = Connected::start(&friend, "home");
    let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING);
    assert!(home.line("ledger verify").ok().contains("holds") || home.line("ledger verify").status == Some(0));
}

#[test]
fn a_machine_that_is_away_hears_of_it_at_the_next_visit() {
    let web = Web::start();
    let operator = Operator::allowing(&web);
    let home = &operator.home;
    let invite = operator.invite("anna", "--mode try");
    kill(pid_of(home));
    let ran = home.line("machine disable home exit");
    assert_eq!(ran.status, Some(0), "{ran}");
    assert!(ran.stderr.contains("it is recorded") && ran.stderr.contains("portdistrict machine reconnect home"), "{ran}");
    let _ = home.line("machine reconnect home").ok();
    let refused = try_curl(&Home::new(), &invite, &web.url("/"));
    assert_eq!(refused.status, Some(4), "{refused}");
    assert!(refused.stderr.contains("switched"), "{refused}");
    let _ = home.line("machine enable home exit").ok();
    assert_eq!(try_curl(&Home::new(), &invite, &web.url("/")).ok(), GREETING);
}

#[test]
fn what_cannot_be_switched_is_refused_with_a_way_out() {
    let operator = Operator::with(&[]);
    let home = &operator.home;
    let said = home.line("machine disable home tor").fails(6);
    assert!(said.contains("no onion service") && said.contains("--tor"), "{said}");
    let said = home.line("machine disable nowhere exit").fails(3);
    assert!(said.contains("portdistrict machine list"), "{said}");
    let _ = home.line("machine disable home flying").fails(2);

    let policy = "version = 1\nstrict = true\n[deploy]\nproviders = ['local']\n[enable]\ncapabilities = ['tor']\n";
    std::fs::write(home.work().join("policy.toml"), policy).unwrap();
    let _ = home.line("policy set policy.toml").ok();
    // Less is always allowed; more only by the policy.
    let _ = home.line("machine disable home exit").ok();
    for (line, entries) in [("machine enable home exit --dry-run", 0), ("machine enable home exit", 1)] {
        let ran = home.line(line);
        assert_eq!(ran.status, Some(4), "{ran}");
        assert!(ran.stderr.contains("enable.capabilities"), "{ran}");
        assert_eq!(home.line("ledger log --kind policy.refused --json").json()["entries"].as_array().unwrap().len(), entries);
    }
    assert_eq!(home.line("machine show home --json").json()["state"], "switched-off");
}

#[test]
fn the_node_itself_tells_its_log_and_goes_on_telling_after_a_restart() {
    let operator = Operator::with(&[]);
    let home = &operator.home;
    let kept = home.line("machine logs home --from node").ok();
    assert!(kept.contains(" ready ") && kept.contains("session.open"), "{kept}");
    assert_eq!(home.line("machine logs home --from node --lines 2").ok().lines().count(), 2);
    for line in home.line("machine logs home --from node --json").ok().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].is_string(), "{line}");
    }

    let mut child = home.command("machine logs home --from node --follow --lines 1".split(' ')).stdin(Stdio::null()).spawn().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || stdout.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let until = |event: &str| {
        let deadline = Instant::now() + Duration::from_secs(40);
        while !lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap().contains(event) {}
    };
    until("session.open");
    let _ = home.line("machine disable home exit").ok();
    until("switched");
    kill(pid_of(home));
    let _ = home.line("machine reconnect home").ok();
    until(" ready ");
    child.kill().unwrap();
    child.wait().unwrap();
}
