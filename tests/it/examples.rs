//! The examples in every help text run, in one home that has a bit of everything.

use super::home::{Home, Ran};
use portdistrict::cli::definition;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// Commands that go on until Ctrl-C: they are ended after a moment, and end well.
const ENDLESS: [&str; 4] = ["--follow", "--watch", "exit connect", "node run"];
/// Labels that examples deploy.
const LABELS: [&str; 5] = ["home", "attic", "cellar", "porch", "tower"];

/// The tool an example needs beside this program.
fn needs(line: &str) -> Option<&'static str> {
    line.contains("curl ").then_some("curl")
}

/// Every example of every leaf, one script each, in the order of the tree.
fn examples() -> Vec<(String, String)> {
    fn walk(command: &clap::Command, path: &str, all: &mut Vec<(String, String)>) {
        for verb in command.get_subcommands() {
            walk(verb, &format!("{path} {}", verb.get_name()), all);
        }
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let Some((_, examples)) = help.split_once("EXAMPLES:\n") else { return };
        let mut script = Vec::new();
        for line in examples.lines().chain([""]) {
            match line.strip_prefix("    ") {
                Some(code) => script.push(code.to_owned()),
                None if !script.is_empty() => all.push((path.to_owned(), std::mem::take(&mut script).join("\n"))),
                None => {}
            }
        }
    }
    let mut all = Vec::new();
    walk(&definition(), "", &mut all);
    all
}

/// A home with an identity and the files that examples mention.
fn furnished() -> Home {
    let home = crate::tor::home_in(crate::tor::calm());
    let _ = home.line("init").ok();
    let passphrase = home.work().join("passphrase.txt");
    std::fs::write(&passphrase, "correct horse\n").unwrap();
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = "listen = \"127.0.0.1:0\"\nstate_dir = \"node-state\"\nlabel = \"spare\"\n";
    std::fs::write(home.work().join("node.toml"), config).unwrap();
    std::fs::write(home.work().join("bzImage"), "any bytes").unwrap();
    for (name, file) in [("report.bin", "report_milan.hex"), ("vcek.der", "vcek_milan.der"), ("chain.pem", "cert_chain_milan")] {
        std::fs::copy(crate::attest::package("sev").join("tests/certs_data").join(file), home.work().join(name)).unwrap();
    }
    for name in ["anna", "bert"] {
        let other = Home::new();
        let _ = other.line("init").ok();
        std::fs::write(home.work().join(format!("{name}.txt")), other.line(&format!("identity export --name {name}")).ok()).unwrap();
    }
    let _ = std::fs::copy("/usr/share/ovmf/OVMF.fd", home.work().join("OVMF.fd"));
    home
}

/// A page for whoever asks, until the test ends.
fn serve() -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    address
}

/// Brings about what an example expects to find.
fn prepare(home: &Home, path: &str, script: &str) {
    if path.starts_with(" peer ") {
        return prepare_peers(home, path);
    }
    if path.starts_with(" device ") {
        return prepare_device(home, path);
    }
    if path.starts_with(" identity import") {
        let _ = home.line("peer forget anna --yes");
        return;
    }
    if script.contains("machine attest") {
        // `machine deploy` left one without a TPM, or none.
        if home.line("machine attest vm").status != Some(0) {
            let _ = home.line("machine destroy vm --yes");
            let _ = home.line("machine deploy --on qemu --image out --label vm --tpm").ok();
            let _ = home.line("machine claim vm").ok();
        }
        return;
    }
    if script.contains("machine deploy") {
        for label in LABELS {
            let _ = home.line(&format!("machine destroy {label} --yes"));
        }
        return;
    }
    if home.line("machine show home").status != Some(0) {
        let _ = home.line("machine deploy --on local --label home --listen 127.0.0.1 --allow 127.0.0.1").ok();
    }
    let _ = home.line("machine claim home").ok();
    if script.contains("tower") {
        if home.line("machine show tower").status != Some(0) {
            let _ = home.line("machine deploy --on local --label tower --listen 127.0.0.1 --tor").ok();
        }
        let _ = home.line("machine claim tower").ok();
    }
    let invite = home.line("exit invite --node home --for anna --mode many --delegable 1 --quiet").ok();
    std::fs::write(home.work().join("invite.txt"), invite).unwrap();
    for name in
        ["berlin", "home"].into_iter().filter(|name| (path.starts_with(" exit") || path == " grant narrow") && script.contains(name))
    {
        let _ = home.line(&format!("exit forget {name} --yes"));
        if !script.contains("exit accept") {
            let _ = home.line(&format!("exit accept @invite.txt --as {name}")).ok();
        }
    }
    if path == " identity unlock" {
        let _ = home.line("identity lock --passphrase-file passphrase.txt").ok();
    }
}

/// A device that is as far in joining as the example needs it, under a name that is free.
fn prepare_device(home: &Home, path: &str) {
    let name = if path == " device accept" { "laptop" } else { "phone" };
    let _ = home.line(&format!("device revoke {name} --yes"));
    let _ = std::fs::remove_dir_all(home.work().join(name));
    if matches!(path, " device add" | " device init" | " device list") {
        return;
    }
    std::fs::write(home.work().join("code.txt"), home.line("device add").ok()).unwrap();
    let answer = home.line(&format!("--home ./{name} device init --code @code.txt --name {name}")).ok();
    std::fs::write(home.work().join("answer.txt"), answer).unwrap();
    if path != " device approve" {
        let _ = std::fs::remove_file(home.work().join("welcome.txt"));
        let _ = home.line("device approve @answer.txt --out welcome.txt --yes").ok();
    }
}

/// Two peers; one of them as far on as the example needs it.
fn prepare_peers(home: &Home, path: &str) {
    for name in ["anna", "bert", "bertie", "carol"] {
        let _ = home.line(&format!("peer forget {name} --yes"));
    }
    let steps = match path {
        " peer add" | " peer adopt" => 0,
        " peer trust" => 3,
        " peer demote" => 4,
        _ => 2,
    };
    for line in ["peer add @anna.txt", "peer add @bert.txt", "peer verify anna --yes", "peer trust anna"].iter().take(steps) {
        let _ = home.line(line).ok();
    }
}

/// Images hold the static program, and machines boot images.
fn needs_image(script: &str) -> bool {
    script.contains("machine build") || script.contains("--on qemu") || script.contains("machine attest")
}

#[test]
fn the_examples_in_help_run() {
    let ran = run_examples(&furnished(), |script| !needs_image(script));
    assert!(ran >= 40, "only {ran} examples");
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn the_examples_of_images_run() {
    let home = furnished();
    for (package, name) in crate::vm::packages().iter().zip(["linux-image.deb", "systemd-boot-efi.deb"]) {
        std::fs::copy(package, home.work().join(name)).unwrap();
    }
    let ran = run_examples(&home, needs_image);
    for label in ["vm", "vault"] {
        let _ = home.line(&format!("machine destroy {label} --yes"));
    }
    assert!(ran >= 5, "only {ran} examples");
}

/// What says where a cloud is, for examples that ask one: they run where a double of it is, in that cloud's own tests.
fn cloud_of(script: &str) -> Option<&'static str> {
    match script {
        script if script.contains("--on hetzner") => Some("HCLOUD_ENDPOINT"),
        script if script.contains("--on gce") || script.contains("machine publish") => Some("STORAGE_EMULATOR_HOST"),
        _ => None,
    }
}

/// Runs the examples that are wanted, and says how many.
pub(crate) fn run_examples(home: &Home, wanted: impl Fn(&str) -> bool) -> usize {
    let web = serve();
    let mut ran = 0;
    for (path, script) in examples().into_iter().filter(|(_, script)| wanted(script)) {
        if let Some(tool) = needs(&script).filter(|tool| Command::new(tool).arg("--version").output().is_err()) {
            assert!(std::env::var_os("CI").is_none(), "{tool} is missing, which an example of{path} needs");
            continue;
        }
        if cloud_of(&script).is_some_and(|variable| !home.has_variable(variable)) {
            continue;
        }
        prepare(home, &path, &script);
        // The one destination that examples name, made reachable where a test runs.
        let script = script.replace("http://web.test/", &format!("http://{web}/"));
        let endless = ENDLESS.iter().any(|part| script.contains(part));
        let line = if endless { format!("timeout --signal=INT 1 {script}") } else { format!("set -e\n{script}") };
        let result = Ran::of(home.shell(&line));
        let good = if endless { result.status == Some(124) } else { result.status == Some(0) };
        assert!(good, "example of{path}: {result}");
        if path == " identity lock" {
            let _ = home.line("identity unlock --passphrase-file passphrase.txt").ok();
        }
        ran += 1;
    }
    for label in LABELS {
        let _ = home.line(&format!("machine destroy {label} --yes"));
    }
    ran
}
