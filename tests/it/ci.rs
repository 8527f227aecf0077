//! Pipelines: an identity that the environment carries, no questions, and the signed word on who made an image.

use super::home::{Home, Ran, program};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A home with an identity, and the line that carries it.
fn identity() -> (Home, String) {
    let home = Home::new();
    let _ = home.line("init").ok();
    let line = home.line("identity export --secret --json").json()["blob"].as_str().unwrap().to_owned();
    (home, line)
}

fn carrying(text: &str) -> Home {
    Home::new().with_variable("PORTDISTRICT_KEYRING", text)
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What looks like an image to whoever does not boot it.
pub(crate) fn image(folder: &Path) {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    std::fs::create_dir_all(folder).unwrap();
    let _ = std::fs::remove_file(folder.join("provenance.json"));
    let artifact = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).unwrap();
        json!({"name": name, "size": bytes.len(), "sha256": hex(bytes)})
    };
    let input = |role: &str, package: Option<&str>| {
        let mut input = json!({"role": role, "name": format!("{role}.deb"), "size": 1, "sha256": hex(role.as_bytes())});
        package.into_iter().for_each(|package| input["package"] = package.into());
        input
    };
    let manifest = json!({
        "portdistrict_image": 1, "version": "0.1.0", "source_date_epoch": 0, "kernel_release": "6.12-test", "command_line": "quiet",
        "inputs": [input("program", None), input("kernel", Some("linux-image=6.12+deb12"))], "modules": ["virtio_net"],
        "uki_authenticode": hex(b"uki"), "kernel_authenticode": hex(b"kernel"), "sections": [], "pcr": {},
        "disk": artifact("disk.raw", b"a disk"), "archive": artifact("image.tar.gz", b"an archive"), "reproduce": "portdistrict machine build",
    });
    std::fs::write(folder.join("image.json"), manifest.to_string()).unwrap();
}

#[test]
fn an_identity_from_the_environment_is_never_written_and_each_home_is_a_device_of_its_own() {
    let (owner, line) = identity();
    let id = owner.line("identity show --json").json()["id"].clone();
    let ci = carrying(&line);
    let said = ci.line("machine list").fails(6);
    assert!(said.contains("portdistrict init"), "{said}");
    assert_eq!(ci.line("init --json").json()["created"], true);
    let shown = ci.line("identity show --json").json();
    assert_eq!((&shown["id"], &shown["protection"]), (&id, &"environment".into()));
    assert!(ci.line("identity show").ok().contains("stored nowhere"));
    // It works like any home: it records, signs and verifies, and the same home stays the same device.
    let _ = ci.line("ledger note from-a-pipeline").ok();
    let _ = ci.line("init").ok();
    assert_eq!(ci.line("identity show --json").json()["device"], shown["device"]);
    let _ = ci.line("ledger verify").ok();
    let _ = ci.line("doctor").ok();
    let other = carrying(&line);
    let _ = other.line("init").ok();
    assert_ne!(
        other.line("identity show --json").json()["device"],
        shown["device"],
        "two chains of one device would contradict each other"
    );

    // What it recorded goes home.
    let _ = ci.line("ledger export --out record.jsonl").ok();
    std::fs::copy(ci.work().join("record.jsonl"), owner.work().join("record.jsonl")).unwrap();
    let _ = owner.line("ledger import record.jsonl").ok();
    assert!(owner.line("ledger log").ok().contains("from-a-pipeline"));

    let secret = line.split_once(':').unwrap().1;
    for path in files(&ci.path()) {
        assert_ne!(path.file_name().unwrap(), "keyring.age");
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains(secret), "{} holds the identity", path.display());
    }
    for line in ["identity lock --passphrase-file p.txt", "identity unlock", "identity rotate --yes"] {
        std::fs::write(ci.work().join("p.txt"), "correct horse\n").unwrap();
        let said = ci.line(line).fails(6);
        assert!(said.contains("never stored") && said.contains("unset PORTDISTRICT_KEYRING"), "{line}: {said}");
    }
    let said = ci.run(["identity", "import", &line]).fails(6);
    assert!(said.contains("never stored"), "{said}");
}

#[test]
fn a_carried_identity_and_a_stored_one_are_never_mixed_and_nonsense_is_named() {
    let (owner, line) = identity();
    let mut mixed = owner.command(["identity", "show"]);
    mixed.env("PORTDISTRICT_KEYRING", &line);
    let said = Ran::of(mixed).fails(6);
    assert!(said.contains("stores a keyring of its own") && said.contains("--home DIR"), "{said}");
    for text in ["hello", "portdistrict-secret1:AAAA", "-----BEGIN AGE ENCRYPTED FILE-----\nAAAA", &"x".repeat(70_000)] {
        let said = carrying(text).line("init").fails(6);
        assert!(said.contains("PORTDISTRICT_KEYRING holds no identity") && said.contains("hint:"), "{said}");
        assert!(!said.contains("AAAA"), "{said}");
    }
}

#[test]
fn a_sealed_identity_opens_with_an_age_key_from_a_file_or_a_descriptor() {
    use secrecy::ExposeSecret;
    let (owner, line) = identity();
    let id = owner.line("identity show --json").json()["id"].clone();
    let key = age::x25519::Identity::generate();
    let armored = |bytes: &[u8]| {
        let text = data_encoding::BASE64.encode(bytes);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN AGE ENCRYPTED FILE-----\n{}\n-----END AGE ENCRYPTED FILE-----\n", lines.join("\n"))
    };
    let sealed = armored(&age::encrypt(&key.to_public(), line.as_bytes()).unwrap());
    let ci = carrying(&sealed);
    let said = ci.line("init").fails(6);
    assert!(said.contains("PORTDISTRICT_AGE_IDENTITY_FILE=FILE") && said.contains("--identity-fd"), "{said}");

    let file = ci.work().join("age.key");
    let mut written = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut written, 0o600);
    written.write(true).create(true).open(&file).unwrap().write_all(key.to_string().expose_secret().as_bytes()).unwrap();
    let ci = ci.with_variable("PORTDISTRICT_AGE_IDENTITY_FILE", &file);
    let _ = ci.line("init").ok();
    assert_eq!(ci.line("identity show --json").json()["id"], id);

    let by_descriptor = carrying(&sealed);
    let shell =
        format!("portdistrict init --identity-fd 3 3<{0} && portdistrict identity show --json --identity-fd 3 3<{0}", file.display());
    let shown = Ran::of(by_descriptor.shell(&shell)).ok();
    assert!(shown.contains(id.as_str().unwrap()), "{shown}");

    std::fs::write(&file, age::x25519::Identity::generate().to_string().expose_secret()).unwrap();
    let said = ci.line("identity show").fails(6);
    assert!(said.contains("does not open PORTDISTRICT_KEYRING"), "{said}");
}

#[test]
fn programs_that_are_started_do_not_get_the_identity() {
    let (_, line) = identity();
    let operator = super::story::Operator::with(&[]);
    let invite = operator.invite("anna", "--mode try");
    let friend = carrying(&line);
    let shown = friend.run(["exit", "try", &invite, "--", "env"]).ok();
    assert!(shown.contains("PATH=") && !shown.contains("PORTDISTRICT_KEYRING"), "{shown}");
}

#[test]
fn without_a_terminal_nothing_asks() {
    let home = Home::new();
    let _ = home.line("init").ok();
    std::fs::write(home.work().join("p.txt"), "correct horse\n").unwrap();
    let _ = Command::new("chmod").args(["600", "p.txt"]).current_dir(home.work()).status();
    let _ = home.line("identity lock --passphrase-file p.txt").ok();
    // A session of its own has no terminal, whoever runs the tests.
    let alone = |words: &str| {
        let mut command = home.shell(&format!("exec setsid -w {} {words}", program()));
        command.stdin(Stdio::null());
        Ran::of(command)
    };
    for (line, status) in
        [("ledger note something", 6), ("identity rotate", 6), ("identity unlock", 6), ("machine destroy home", 2), ("exit forget home", 2)]
    {
        let ran = alone(line);
        assert!(ran.stderr.contains("hint:"), "{line}: {ran}");
        assert!(ran.status == Some(status) || ran.status == Some(3), "{line}: {ran}");
    }
}

#[test]
fn an_image_is_checked_anywhere_and_each_lie_is_told_apart() {
    let (owner, line) = identity();
    let id = owner.line("identity show --json").json()["id"].as_str().unwrap().to_owned();
    let ci = carrying(&line);
    let _ = ci.line("init").ok();
    let out = ci.work().join("out");
    image(&out);
    let refused = |home: &Home, line: &str, rule: &str| {
        let ran = home.line(&format!("{line} --json"));
        assert_eq!(ran.status, Some(4), "{ran}");
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["error"]["rule"], rule, "{ran}");
        assert!(error["error"]["hint"].is_string(), "{ran}");
    };
    refused(&ci, "machine verify-image out", "image-unsigned");
    let would = ci.line("machine sign-image out --dry-run --json").json();
    assert!(would["would"].as_array().unwrap().len() == 2 && !out.join("provenance.json").exists());
    let _ = ci.line("machine sign-image out --invocation https://ci.example.org/5").ok();
    let signed = std::fs::read(out.join("provenance.json")).unwrap();
    let _ = ci.line("machine sign-image out --invocation https://ci.example.org/5").ok();
    assert_eq!(std::fs::read(out.join("provenance.json")).unwrap(), signed, "the same again");

    // The owner knows the device by the identity's certificate alone; a stranger by the id that he is given.
    let stranger = Home::new();
    for home in [&owner, &stranger] {
        assert!(Command::new("cp").arg("-r").arg(&out).arg(home.work()).status().unwrap().success());
    }
    let held = owner.line("machine verify-image out --json").json();
    assert_eq!(
        (&held["verified"], &held["signer"], &held["invocation"]),
        (&true.into(), &"you".into(), &"https://ci.example.org/5".into())
    );
    assert_eq!(held["inputs"][1]["uri"], "pkg:deb/debian/linux-image@6.12%2Bdeb12");
    let held = stranger.line(&format!("machine verify-image out --identity {} --json", id.to_lowercase())).json();
    assert_eq!((&held["identity"], &held["signer"]), (&id.as_str().into(), &Value::Null));
    assert!(!stranger.path().exists(), "checking makes no home");
    let one = stranger.line(&format!("machine verify-image out/image.tar.gz --identity {id} --json")).json();
    assert_eq!(one["files"], json!(["image.tar.gz"]));

    refused(&stranger, "machine verify-image out", "image-signer");
    refused(&stranger, &format!("machine verify-image out --identity {}", "A".repeat(32)), "image-signer");
    let _ = stranger.line("init").ok();
    refused(&stranger, "machine verify-image out", "image-signer");
    let _ = owner.line("ledger note still-here").ok();

    let named = format!("machine verify-image out --identity {id}");
    let at = |name: &str| stranger.work().join("out").join(name);
    let put = |name: &str, bytes: &[u8]| std::fs::write(at(name), bytes).unwrap();
    for name in ["disk.raw", "image.tar.gz", "image.json"] {
        let good = std::fs::read(at(name)).unwrap();
        put(name, &[good.as_slice(), b"\n"].concat());
        refused(&stranger, &named, "image-altered");
        put(name, &good);
    }
    put("spare", b"a disk?");
    refused(&stranger, &format!("machine verify-image out/spare --identity {id}"), "image-altered");
    put("provenance.json", &signed[..signed.len() / 2]);
    refused(&stranger, &named, "image-provenance");
    let swap = |field: &str| {
        let mut envelope: Value = serde_json::from_slice(&signed).unwrap();
        let slot = if field == "sig" { &mut envelope["signatures"][0]["sig"] } else { &mut envelope["signatures"][0]["cert"]["signature"] };
        let text = slot.as_str().unwrap();
        let first = if text.starts_with('A') { "B" } else { "A" };
        *slot = format!("{first}{}", &text[1..]).into();
        put("provenance.json", format!("{envelope}\n").as_bytes());
    };
    swap("sig");
    refused(&stranger, &named, "image-signature");
    swap("cert");
    refused(&stranger, &named, "image-certificate");
    put("provenance.json", &signed);
    let _ = stranger.line(&named).ok();
    for name in ["disk.raw", "image.tar.gz"] {
        std::fs::remove_file(at(name)).unwrap();
    }
    let said = stranger.line(&named).fails(3);
    assert!(said.contains("no disk and no archive"), "{said}");
    // Nor does anybody sign for what is not what it says.
    std::fs::write(out.join("disk.raw"), b"another disk").unwrap();
    refused(&ci, "machine sign-image out", "image-altered");
}

/// The shell lines of the workflow in docs/ci.md, by step.
fn workflow() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ci.md")).unwrap();
    let yaml = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    let mut running = false;
    for line in yaml.lines() {
        if let Some(name) = line.strip_prefix("      - name: ") {
            steps.push((name.to_owned(), Vec::new()));
        }
        match line.strip_prefix("          ") {
            Some(code) if running => steps.last_mut().unwrap().1.push(code.to_owned()),
            _ => running = line == "        run: |",
        }
    }
    steps
}

/// Runs the lines of one step with the variables of the job.
fn step(home: &Home, name: &str, change: impl Fn(&str) -> String) {
    let steps = workflow();
    let (_, lines) = steps.iter().find(|(step, _)| step == name).unwrap_or_else(|| panic!("no step {name}"));
    assert!(!lines.is_empty(), "{name}");
    let script: Vec<String> = lines.iter().map(|line| change(line)).collect();
    let mut command = home.shell(&format!("set -eu\n{}", script.join("\n")));
    command.env("SOURCE_DATE_EPOCH", "0").env("RUN", "https://ci.example.org/5");
    let _ = Ran::of(command).ok();
}

#[test]
fn the_workflow_of_the_document_runs_as_far_as_it_can_without_a_cloud() {
    let (_, line) = identity();
    let ci = carrying(&line);
    let same = |line: &str| line.to_owned();
    step(&ci, "Identity", same);
    step(&ci, "Build", |line| format!("{line} --dry-run"));
    image(&ci.work().join("out"));
    let _ = ci.line("machine sign-image out").ok();
    if Command::new("jq").arg("--version").output().is_ok() {
        step(&ci, "Verify", same);
    }
    step(&ci, "Record", same);
    assert!(ci.work().join("ledger.jsonl").exists());
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn the_workflow_of_the_document_builds_and_verifies() {
    let (_, line) = identity();
    let ci = carrying(&line);
    for (package, name) in crate::vm::packages().iter().zip(["linux-image.deb", "systemd-boot-efi.deb"]) {
        std::fs::copy(package, ci.work().join(name)).unwrap();
    }
    step(&ci, "Identity", str::to_owned);
    step(&ci, "Build", |line| format!("{line} --kernel-deb linux-image.deb --stub systemd-boot-efi.deb"));
    step(&ci, "Verify", str::to_owned);
}
