//! The same exit as an onion service, on a private Tor network that is started once for all of these tests.

use crate::home::{Home, Ran};
use crate::story::{Connected, blob, try_curl, wait_for};
use crate::tornet::Network;
use crate::web::{BIG, GREETING, Web};
use portdistrict::token::Invite;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// A folder for networks; those of test processes that are gone are removed.
pub(crate) fn network_folder(name: &str) -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tornet");
    std::fs::create_dir_all(&base).unwrap();
    for entry in std::fs::read_dir(&base).unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().split('-').next().unwrap_or_default().to_owned();
        if !Path::new("/proc").join(&pid).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    base.join(format!("{}-{name}", std::process::id()))
}

/// The network that nothing is killed in.
pub(crate) fn calm() -> &'static Path {
    static CALM: OnceLock<(Mutex<Network>, PathBuf)> = OnceLock::new();
    let (_, arti) = CALM.get_or_init(|| {
        let network = Network::start(&network_folder("calm"), 3, 5).unwrap();
        let arti = network.arti_toml();
        (Mutex::new(network), arti)
    });
    arti
}

/// Somebody's home whose Tor leads into a private network.
pub(crate) fn home_in(arti: &Path) -> Home {
    Home::new().with_variable("PORTDISTRICT_TOR_CONFIG", arti)
}

/// An operator whose exit `home` is an onion service.
pub(crate) struct TorOperator {
    pub(crate) home: Home,
    arti: PathBuf,
}

impl TorOperator {
    pub(crate) fn deploy(arti: &Path, web: &Web, more: &[&str]) -> TorOperator {
        let home = home_in(arti);
        home.line("init").ok();
        let operator = TorOperator { home, arti: arti.to_owned() };
        operator.deploy_again(web, more);
        operator
    }

    /// Deploys and claims `home`.
    pub(crate) fn deploy_again(&self, web: &Web, more: &[&str]) {
        let allow = web.address.to_string();
        let words = ["machine", "deploy", "--on", "local", "--label", "home", "--tor", "--listen", "127.0.0.1", "--allow", &allow];
        self.home.run(words.into_iter().chain(more.iter().copied())).ok();
        self.home.line("machine claim home").ok();
    }

    pub(crate) fn invite(&self, name: &str, more: &str) -> String {
        blob(&self.home.line(&format!("exit invite --node home --for {name} {more}")).ok())
    }

    pub(crate) fn friend(&self) -> Home {
        home_in(&self.arti)
    }

    /// What `machine show` says of the onion service.
    pub(crate) fn onion(&self) -> serde_json::Value {
        self.home.line("machine show home --json").json()["live"]["onion"].clone()
    }

    pub(crate) fn node_log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("state/machines/home/node.log")).unwrap_or_default()
    }
}

impl Drop for TorOperator {
    fn drop(&mut self) {
        let _ = self.home.line("machine destroy home --yes");
    }
}

#[test]
fn a_friend_reaches_a_page_through_the_onion_service() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let invite = operator.invite("anna", "");
    assert!(invite.len() <= 480, "{} characters", invite.len());
    assert!(Invite::from_blob(&invite).unwrap().transport.addresses.is_empty(), "the address of the machine is not in it");

    let friend = operator.friend();
    let scratch = friend.work().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let friend = friend.with_variable("TMPDIR", &scratch);
    let begun = Instant::now();
    let ran = try_curl(&friend, &invite, &web.url("/"));
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), GREETING), "{ran}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(ran.stderr.contains(".onion, over Tor") && ran.stderr.contains("Attestation: none"), "{ran}");
    assert!(!friend.path().exists(), "a try makes no home");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "and leaves nothing of Tor");

    // What the owner sees.
    let onion = operator.onion();
    assert_eq!(onion["state"], "ready", "{onion}");
    assert!(onion["introduction_points"].as_u64() >= Some(3) && onion["directories_reached"].as_u64() >= Some(3), "{onion}");
    assert!(onion["tested_at"].is_u64() && onion["uploaded_at"].is_u64(), "{onion}");
    let shown = operator.home.line("machine show home").ok();
    for word in ["descriptor", "introduction", "over tor", "tested"] {
        assert!(shown.contains(word), "{shown}");
    }

    // Kept, and cut off.
    let connected = Connected::start(&friend, &invite);
    let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{out:?}");
    let onion = operator.onion();
    assert!(onion["clients"].as_u64() >= Some(1) && onion["circuits"].as_u64() >= Some(1), "{onion}");
    let endless = connected.curl("socks5h", &web.url("/endless")).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    operator.home.line("grant revoke anna --yes").ok();
    let revoked = Instant::now();
    let _ = endless.wait_with_output().unwrap();
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());
    assert!(operator.node_log().contains("\"via\":\"tor\""));
    let refused = try_curl(&operator.friend(), &invite, &web.url("/"));
    assert_eq!(refused.status, Some(4), "{refused}");
}

#[test]
fn an_onion_service_that_is_switched_off_is_gone_over_a_restart_and_comes_back_when_it_is_on() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let home = &operator.home;
    let invite = operator.invite("anna", "--mode try");
    assert_eq!(try_curl(&operator.friend(), &invite, &web.url("/")).ok(), GREETING);
    let address = operator.onion()["address"].clone();
    let _ = home.line("machine disable home tor").ok();
    let off = || operator.onion()["reason"] == "the owner has switched it off";
    wait_for("an onion service that is off", off);
    let shown = home.line("machine show home --json").json();
    assert_eq!((&shown["state"], &shown["off"]), (&"running".into(), &serde_json::json!(["tor"])));
    // It gets ready without the service, too.
    crate::machine::kill(crate::machine::pid_of(home));
    let _ = home.line("machine reconnect home").ok();
    assert!(off(), "{}", operator.onion());
    let _ = home.line("machine enable home tor").ok();
    wait_within(Duration::from_secs(120), "a service that is reached again", || operator.onion()["state"] == "ready");
    assert_eq!(operator.onion()["address"], address);
    assert_eq!(try_curl(&operator.friend(), &invite, &web.url("/")).ok(), GREETING);
}

#[test]
fn the_same_seed_has_the_same_onion_address_and_another_another() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--seed-file", "seed", "--no-self-test"]);
    let address = |operator: &TorOperator| operator.onion()["address"].as_str().unwrap().to_owned();
    let node = |operator: &TorOperator| operator.home.line("machine show home --json").json()["node"].as_str().unwrap().to_owned();
    let (first, key) = (address(&operator), node(&operator));
    let invite = operator.invite("anna", "");
    operator.home.line("machine destroy home --yes").ok();
    operator.deploy_again(&web, &["--seed-file", "seed"]);
    assert_eq!((address(&operator), node(&operator)), (first.clone(), key));
    // An invite from before still leads there.
    assert_eq!(try_curl(&operator.friend(), &invite, &web.url("/")).ok(), GREETING);
    operator.home.line("machine destroy home --yes").ok();
    operator.deploy_again(&web, &["--seed-file", "other-seed", "--no-self-test"]);
    assert_ne!(address(&operator), first);
    operator.home.line("machine destroy home --yes").ok();
    std::fs::write(operator.home.work().join("bad-seed"), "short").unwrap();
    std::fs::set_permissions(operator.home.work().join("bad-seed"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let said = operator.home.line("machine deploy --on local --label home --seed-file bad-seed").fails(2);
    assert!(said.contains("bad-seed") && said.contains("hint:"), "{said}");
}

#[test]
fn a_friend_who_cannot_come_directly_comes_over_tor_and_is_told_so() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let friend = operator.friend();
    let both = operator.invite("anna", "--transport direct,tor");
    let ran = try_curl(&friend, &both, &web.url("/"));
    assert!(ran.status == Some(0) && ran.stderr.contains("Exit: 127.0.0.1:"), "directly where that works: {ran}");
    let dead = operator.invite("bert", "--transport direct,tor --address 127.0.0.1:9");
    let ran = try_curl(&friend, &dead, &web.url("/"));
    assert!(ran.status == Some(0) && ran.stderr.contains("over Tor"), "{ran}");
    let direct = operator.invite("carla", "--transport direct");
    assert!(Invite::from_blob(&direct).unwrap().transport.onion.is_none());
    // What does not go together.
    operator.home.line("exit invite --node home --for dora --transport tor --address 127.0.0.1:9").fails(2);
    operator.home.line("exit invite --node home --for dora --transport direct --restricted").fails(2);
}

#[test]
fn a_restricted_service_is_found_only_with_the_key_in_the_invite() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let invite = operator.invite("anna", "--restricted --mode many");
    let read = Invite::from_blob(&invite).unwrap();
    let address = read.transport.onion.unwrap();
    assert!(address.restricted && address.address.to_string() != operator.onion()["address"].as_str().unwrap());
    assert_eq!(operator.onion()["discovery_keys"], 1);
    assert_eq!(try_curl(&operator.friend(), &invite, &web.url("/")).ok(), GREETING);
    // Accepted, the key is kept, and works from the ledger.
    let friend = operator.friend();
    friend.run(["exit", "accept", &invite]).ok();
    let connected = Connected::start(&friend, "home");
    let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{out:?}");
    drop(connected);
    // Somebody who knows the address alone does not even learn where its introduction points are.
    let mut keyless = read;
    if let Some(onion) = &mut keyless.transport.onion {
        onion.restricted = false;
    }
    let stranger = operator.friend();
    let mut command = stranger.command(["exit", "try", &keyless.to_blob().unwrap(), "--timeout", "4s", "--", "true"]);
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("open only to keys that it knows"), "{said}");
    // Taken back, the key is forgotten.
    operator.home.line("grant revoke anna --yes").ok();
    assert_eq!(operator.onion()["discovery_keys"], 0);
}

#[test]
fn two_hundred_streams_at_once_over_three_circuits() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let friend = operator.friend();
    let connected = Connected::start_with(&friend, &operator.invite("anna", ""), &["--circuits", "3"]);
    wait_for("three sessions", || operator.onion()["clients"].as_u64() == Some(3));
    // None of them shares a circuit.
    assert!(operator.onion()["circuits"].as_u64() >= Some(3), "{}", operator.onion());
    let running: Vec<_> = (0..200).map(|_| connected.curl("socks5h", &web.url("/")).spawn().unwrap()).collect();
    for child in running {
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn twenty_friends_at_once() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let invite = operator.invite("many", "--mode many");
    let friends: Vec<Home> = (0..20).map(|_| operator.friend()).collect();
    let url = web.url("/");
    let running: Vec<Child> = friends
        .iter()
        .map(|friend| friend.command(["exit", "try", &invite, "--", "curl", "-sS", "--max-time", "60", &url]).spawn().unwrap())
        .collect();
    for child in running {
        let out = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_revoked_friend_who_hammers_does_not_keep_others_out() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let (good, bad) = (operator.invite("anna", ""), operator.invite("bert", ""));
    operator.home.line("grant revoke bert --yes").ok();
    let mallory = operator.friend();
    let hammer: Vec<Child> = (0..6).map(|_| mallory.command(["exit", "try", &bad, "--", "true"]).spawn().unwrap()).collect();
    assert_eq!(try_curl(&operator.friend(), &good, &web.url("/")).ok(), GREETING);
    for child in hammer {
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
    }
    assert!(operator.node_log().matches("grant-revoked").count() >= 6);
}

#[test]
fn a_friend_survives_a_restart_of_the_node() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &[]);
    let friend = operator.friend();
    let connected = Connected::start(&friend, &operator.invite("anna", ""));
    let fetch = || {
        let out = connected.curl("socks5h", &web.url("/")).args(["--max-time", "60"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{out:?}\n{}\n{}", connected.said(), operator.node_log());
    };
    fetch();
    let shown = operator.home.line("machine show home --json").json();
    let pid = shown["pid"].as_i64().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let dead = Instant::now();
    // A request on its way in that moment is lost with its circuit, and the network may take seconds to tell.
    wait_within(Duration::from_secs(60), "the loss is noticed", || connected.said().contains("The exit is gone"));
    operator.home.line("machine reconnect home").ok();
    // The same proxy, nothing asked of the friend; a request that comes meanwhile waits.
    fetch();
    eprintln!("recovered {:.1} s after the node was killed", dead.elapsed().as_secs_f64());
    assert!(connected.said().contains("Connected again after "), "{}", connected.said());
}

#[test]
fn a_friend_who_comes_before_the_descriptor_is_let_in_when_it_is_there() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--seed-file", "seed"]);
    let invite = operator.invite("anna", "");
    operator.home.line("machine destroy home --yes").ok();
    // Another network: there the service was never published.
    let elsewhere = Network::start(&network_folder("empty"), 3, 3).unwrap();
    let friend = home_in(&elsewhere.arti_toml());
    let url = web.url("/");
    let child = friend.command(["exit", "try", &invite, "--", "curl", "-sS", &url]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let words = ["--tor-config", elsewhere.arti_toml().to_str().unwrap(), "--seed-file", "seed"].map(str::to_owned);
    operator.deploy_again(&web, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{said}");
    assert!(said.contains("not published") && said.contains("trying again in 5 s"), "{said}");
}

#[test]
fn a_network_that_cannot_be_reached_is_named_with_the_way_out() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--no-self-test"]);
    let invite = operator.invite("anna", "");
    // The same network behind ports on which nobody answers.
    let blocked = operator.home.work().join("blocked.toml");
    let text = std::fs::read_to_string(calm()).unwrap();
    let text =
        text.lines().map(|line| if line.contains("orports") || line.contains("127.0.0.1") { no_ports(line) } else { line.to_owned() });
    std::fs::write(&blocked, text.collect::<Vec<_>>().join("\n")).unwrap();
    let friend = home_in(&blocked);
    let ran = friend.run(["exit", "try", &invite, "--", "true"]);
    let said = ran.fails(5);
    assert!(said.contains("the Tor network cannot be reached") && said.contains("bridges"), "{said}");
    assert!(!said.contains("tor_") && !said.contains("Error {"), "Arti's own text shows: {said}");
    // So does a machine that is to be deployed there; nothing of it is left.
    let said = friend.line("init").ok() + &friend.line("machine deploy --on local --label home --tor --timeout 40s").fails(5);
    assert!(said.contains("hint:") && !friend.path().join("state/machines/home").exists(), "{said}");
}

/// A line of settings with every port replaced by one that is closed.
fn no_ports(line: &str) -> String {
    let mut parts = line.split("127.0.0.1:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, rest| all + "127.0.0.1:9" + rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[test]
fn a_clock_that_is_hours_off_is_named() {
    if Command::new("faketime").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "faketime is missing");
        return;
    }
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--no-self-test"]);
    let invite = operator.invite("anna", "--lifetime 30d");
    let friend = operator.friend();
    let mut command = friend.shell("exec faketime -f +130m portdistrict exit try \"$BLOB\" -- true");
    command.env("BLOB", &invite);
    let ran = Ran::of(command);
    let said = ran.fails(5);
    assert!(said.contains("clock") && said.contains("hours ahead of"), "{said}");
    assert!(said.contains("timedatectl set-ntp true"), "{said}");
}

#[test]
fn a_full_disk_for_tor_is_named() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--no-self-test"]);
    let invite = operator.invite("anna", "");
    let friend = operator.friend();
    let script = format!(
        r#"
        mkdir small; mount -t tmpfs -o size=200k tmpfs small; chmod 700 small
        export PORTDISTRICT_HOME=$PWD/small/home TMPDIR=$PWD/small
        cat /dev/zero > small/filler 2> /dev/null || true
        status=0; portdistrict exit try '{invite}' --timeout 60s -- true 2> said || status=$?
        echo "status=$status"; cat said
        "#
    );
    let Some(ran) = crate::luck::with_mounts(&friend, &script) else { return };
    let text = ran.ok();
    assert!(text.contains("hint:") && !text.contains("status=0"), "{text}");
    assert!(text.contains("disk") || text.contains("folder"), "{text}");
}

#[test]
fn ctrl_c_in_any_phase_leaves_nothing() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--no-self-test"]);
    let invite = operator.invite("anna", "--mode many");
    let friend = operator.friend();
    let scratch = friend.work().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let friend = friend.with_variable("TMPDIR", &scratch);
    for moment in [0, 30, 80, 150, 250, 400, 700, 1200] {
        let mut child = friend.command(["exit", "try", &invite, "--", "sleep", "60"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let begun = Instant::now();
        let status = child.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(8), "after {moment} ms it took {:?}", begun.elapsed());
        // Before its handler stands the signal itself ends it.
        assert!(status.code() == Some(130) || status.code().is_none(), "after {moment} ms: {status}");
        wait_for("an empty scratch folder", || std::fs::read_dir(&scratch).unwrap().count() == 0);
    }
    // A deploy that is cut off while it publishes takes its machine with it.
    for moment in [100, 400, 900] {
        let mut child = friend.command(["machine", "deploy", "--on", "local", "--label", "cut", "--tor"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let _ = child.wait().unwrap();
        let _ = friend.line("machine destroy cut --yes");
        assert!(!friend.path().join("state/machines/cut").exists());
    }
}

#[test]
fn two_processes_of_one_home_use_tor_side_by_side() {
    let web = Web::start();
    let operator = TorOperator::deploy(calm(), &web, &["--no-self-test"]);
    let friend = operator.friend();
    for name in ["first", "second"] {
        friend.run(["exit", "accept", &operator.invite(name, ""), "--as", name]).ok();
    }
    let (first, second) = (Connected::start(&friend, "first"), Connected::start(&friend, "second"));
    for connected in [&first, &second] {
        let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "{}", connected.said());
    }
}

#[test]
fn a_download_goes_on_while_relays_die() {
    let mut network = Network::start(&network_folder("dying"), 3, 7).unwrap();
    let web = Web::start();
    let operator = TorOperator::deploy(&network.arti_toml(), &web, &[]);
    let friend = operator.friend();
    let connected = Connected::start_with(&friend, &operator.invite("anna", ""), &["--circuits", "2"]);
    let mut whole = 0;
    // One relay after another dies and comes back; whoever asks again gets the page, by whatever way is left.
    for victim in network.authorities()..network.len() {
        network.kill(victim);
        let begun = Instant::now();
        loop {
            let out = connected.curl("socks5h", &web.url("/")).output().unwrap();
            if String::from_utf8_lossy(&out.stdout) == GREETING {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(150), "relay {victim}: {}", connected.said());
        }
        eprintln!("a page {:.1} s after relay {victim} was killed", begun.elapsed().as_secs_f64());
        network.revive(victim).unwrap();
        whole += 1;
    }
    assert_eq!(whole, 7);
    let big = connected.curl("socks5h", &web.url("/big")).args(["--max-time", "100"]).output().unwrap();
    assert_eq!(big.stdout.len(), BIG, "{}", connected.said());
}

/// Numbers from a seed, the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound
    }
}

/// How many seeded runs; `PD_CHAOS_RUNS=100 cargo test --test it chaos -- --nocapture` for the long story.
fn runs() -> u64 {
    std::env::var("PD_CHAOS_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(4)
}

#[test]
fn ready_is_never_said_in_vain_and_recovery_is_noticed_in_chaos() {
    let mut network = Network::start(&network_folder("chaos"), 3, 7).unwrap();
    let web = Web::start();
    let operator = TorOperator::deploy(&network.arti_toml(), &web, &[]);
    let invite = operator.invite("anna", "--mode many");
    let mut dice = Dice(20_261_121);
    for run in 0..runs() {
        // Directories, introduction points and guards: with ten relays each is all of that to somebody.
        let relays = network.authorities()..network.len();
        let victims: Vec<usize> = relays.clone().filter(|_| dice.below(3) > 0).collect();
        victims.iter().for_each(|victim| network.kill(*victim));
        std::thread::sleep(Duration::from_millis(dice.below(3000) as u64));
        for victim in &victims {
            network.revive(*victim).unwrap();
        }
        // What it says when it says "ready" anew must be true.
        let (revived, at) = (Instant::now(), portdistrict::config::time::now_s());
        // What it said before it can know no better; what it has tested since must hold.
        let is_ready = || {
            let onion = operator.onion();
            onion["state"] == "ready" && onion["tested_at"].as_u64() > Some(at)
        };
        wait_or_tell(Duration::from_secs(240), "ready again", is_ready, || operator.node_log());
        let noticed = revived.elapsed();
        // Two who know nothing of each other: a relay that is not quite back may cost one of them an attempt, but a service
        // that cannot be reached costs both.
        let friends = [operator.friend(), operator.friend()];
        let url = web.url("/");
        let tries = friends.each_ref().map(|friend| friend.command(["exit", "try", &invite, "--", "curl", "-sS", &url]).spawn().unwrap());
        let said = tries.map(|child| {
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(String::from_utf8_lossy(&out.stdout), GREETING, "run {run}: ready {noticed:?} after {victims:?} came back: {said}");
            said
        });
        assert!(said.iter().any(|said| !said.contains("trying again")), "run {run}: a false ready: {said:?}");
        eprintln!("run {run}: {} relays died, ready {:.1} s after they came back", victims.len(), noticed.as_secs_f64());
    }
}

#[test]
fn a_service_that_lost_every_introduction_point_says_so_and_recovers() {
    let mut network = Network::start(&network_folder("lost"), 3, 5).unwrap();
    let web = Web::start();
    let operator = TorOperator::deploy(&network.arti_toml(), &web, &[]);
    // Without any relay there is no introduction point either.
    (0..network.len()).for_each(|n| network.kill(n));
    wait_within(Duration::from_secs(60), "unreachable", || operator.onion()["state"] == "unreachable");
    let status = operator.home.line("status").ok();
    assert!(status.contains("the onion service of machine home is unreachable"), "{status}");
    assert!(operator.onion()["reason"].is_string());
    let shown = operator.home.line("machine doctor home").fails(6);
    assert!(shown.contains("onion"), "{shown}");
    (0..network.len()).for_each(|n| network.revive(n).unwrap());
    let revived = Instant::now();
    wait_or_tell(Duration::from_secs(240), "ready again", || operator.onion()["state"] == "ready", || operator.node_log());
    eprintln!("ready {:.1} s after the relays came back", revived.elapsed().as_secs_f64());
    assert_eq!(try_curl(&operator.friend(), &operator.invite("anna", ""), &web.url("/")).ok(), GREETING);
}

fn wait_within(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    wait_or_tell(limit, what, is_so, String::new);
}

/// The same, with what explains why it was waited in vain.
fn wait_or_tell(limit: Duration, what: &str, is_so: impl Fn() -> bool, tell: impl Fn() -> String) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {limit:?} for: {what}\n{}", tell());
        std::thread::sleep(Duration::from_millis(200));
    }
}
