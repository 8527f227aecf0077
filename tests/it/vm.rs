//! Images and the virtual machines that boot them, with the release binary, QEMU and Debian's firmware.
//!
//! Ignored in a plain `cargo test`: they need the static binary, named by PORTDISTRICT_PROGRAM. `ci/test` runs them.

use crate::home::{Home, Ran, program};
use crate::story::{blob, try_curl};
use crate::tornet::Network;
use crate::web::{GREETING, Web};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Packages that were fetched once for all of these tests.
pub(crate) fn packages() -> &'static [PathBuf; 2] {
    static PACKAGES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        // A cache that outlives the home: what is there and still right is not fetched again.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        if !inside() {
            let fetcher = Home::new();
            fetcher.line("init").ok();
            let _ = std::fs::remove_dir(fetcher.path().join("cache"));
            std::fs::create_dir_all(&cache).unwrap();
            std::fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            std::fs::create_dir_all(fetcher.path().join("cache")).unwrap();
            std::fs::set_permissions(fetcher.path().join("cache"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            std::os::unix::fs::symlink(&cache, fetcher.path().join("cache/packages")).unwrap();
            fetcher.line("machine build -o out").ok();
        }
        ["linux-image-", "systemd-boot-efi"].map(|name| {
            let files = std::fs::read_dir(&cache).unwrap().flatten().map(|entry| entry.path());
            let found = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(name));
            found.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
        })
    })
}

/// Whether this is the run of a test in a network of its own, from which nothing can be fetched.
fn inside() -> bool {
    std::env::var_os("PD_INSIDE").is_some()
}

/// An image for all of these tests.
pub(crate) fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
        if !inside() {
            build(&Home::new(), &out, &[]).ok();
        }
        out
    })
}

fn build(home: &Home, out: &Path, more: &[&str]) -> Ran {
    let [kernel, stub] = packages();
    let words =
        ["machine", "build", "-o", out.to_str().unwrap(), "--kernel-deb", kernel.to_str().unwrap(), "--stub", stub.to_str().unwrap()];
    home.run(words.iter().chain(more))
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("image.json")).unwrap()).unwrap()
}

/// An operator with a virtual machine `vm`; it is destroyed in the end.
struct Machine {
    home: Home,
}

impl Machine {
    fn deploy(home: Home, more: &[&str]) -> (Machine, Ran) {
        home.line("init").ok();
        let image = image().to_str().unwrap();
        let words = ["machine", "deploy", "--on", "qemu", "--image", image, "--label", "vm", "--listen", "127.0.0.1"];
        let ran = home.run(words.iter().chain(more));
        (Machine { home }, ran)
    }

    fn show(&self) -> Value {
        self.home.line("machine show vm --json").json()
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("state/machines/vm")
    }

    fn serial(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir().join("serial.log")).unwrap_or_default()).into_owned()
    }

    /// The last value of a mark on the console.
    fn mark(&self, name: &str) -> Option<String> {
        let prefix = format!("PORTDISTRICT_{name}=");
        self.serial().lines().rev().find_map(|line| line.trim().strip_prefix(&prefix).map(str::to_owned))
    }

    /// Waits until the console has said this.
    fn waits_for(&self, name: &str, value: &str) {
        let line = format!("PORTDISTRICT_{name}={value}");
        let deadline = Instant::now() + Duration::from_secs(240);
        while !self.since_its_start().lines().any(|said| said.trim() == line) {
            assert!(Instant::now() < deadline, "{line} was not said");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the console said since the machine was started last.
    fn since_its_start(&self) -> String {
        let serial = self.serial();
        let start = serial.rfind("PORTDISTRICT_VERSION=").unwrap_or(0);
        serial[start..].to_owned()
    }

    fn event(&self, name: &str) -> Option<Value> {
        let lines = self.serial();
        let mut events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
        events.rfind(|event| event["event"] == name)
    }

    fn kill(&self) {
        let pid = self.show()["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let gone = || !Path::new(&format!("/proc/{pid}")).exists();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    #[expect(clippy::print_stderr, reason = "what a failed test leaves to look at")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the console\n{}", self.serial());
        }
        let _ = self.home.line("machine destroy vm --yes");
    }
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn the_same_inputs_give_the_same_image_everywhere() {
    let first = manifest(image());
    // Another folder, time zone, language and mask; and another user, where this one may become another.
    let home = Home::new();
    let elsewhere = home.work().join("a folder with spaces, and a comma");
    std::fs::create_dir(&elsewhere).unwrap();
    for folder in [home.work(), &elsewhere] {
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let [kernel, stub] = packages();
    let near = |path: &Path| {
        let copy = home.work().join(path.file_name().unwrap());
        std::fs::copy(path, &copy).unwrap();
        std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        copy
    };
    let copy = near(Path::new(program()));
    let nobody = if rustix::process::geteuid().is_root() { "setpriv --reuid 65534 --regid 65534 --clear-groups" } else { "" };
    let line = format!(
        "umask 077 && exec {nobody} {} --home ./h machine build -o out --kernel-deb {} --stub {}",
        copy.display(),
        near(kernel).display(),
        near(stub).display()
    );
    let mut command = home.shell(&line);
    command.current_dir(&elsewhere).env("TZ", "Pacific/Kiritimati").env("LANG", "tr_TR.UTF-8").env("LC_ALL", "tr_TR.UTF-8");
    Ran::of(command).ok();
    let second = manifest(&elsewhere.join("out"));
    assert_eq!(first, second);
    for name in ["disk.raw", "image.tar.gz", "image.json"] {
        let same = Command::new("cmp").arg(image().join(name)).arg(elsewhere.join("out").join(name)).status().unwrap();
        assert!(same.success(), "{name}");
    }
    // sha256sum and tar agree with the manifest.
    let sum = |file: &Path| String::from_utf8(Command::new("sha256sum").arg(file).output().unwrap().stdout).unwrap();
    assert!(sum(&image().join("disk.raw")).starts_with(first["disk"]["sha256"].as_str().unwrap()));
    let unpacked = home.work().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar").arg("-xzf").arg(image().join("image.tar.gz")).arg("-C").arg(&unpacked).status().unwrap();
    assert!(tar.success());
    assert!(sum(&unpacked.join("disk.raw")).starts_with(first["disk"]["sha256"].as_str().unwrap()));
    assert!(first["archive"]["size"].as_u64().unwrap() <= 32 * 1024 * 1024, "{}", first["archive"]);

    // Made again from what it tells; and what was changed afterwards is found.
    let copied = home.work().join("copied");
    std::fs::create_dir(&copied).unwrap();
    std::fs::copy(image().join("image.json"), copied.join("image.json")).unwrap();
    let verify = |file: &Path| {
        let file = file.join("image.json");
        home.run([
            "machine",
            "build",
            "--verify",
            file.to_str().unwrap(),
            "--kernel-deb",
            kernel.to_str().unwrap(),
            "--stub",
            stub.to_str().unwrap(),
        ])
    };
    verify(&copied).ok();
    std::fs::write(copied.join("image.tar.gz"), "something else").unwrap();
    assert!(verify(&copied).fails(4).contains("image.tar.gz"));
    std::fs::remove_file(copied.join("image.tar.gz")).unwrap();
    // Nothing that the manifest says is taken for granted.
    let lies = [
        ("command_line", serde_json::json!("init=/bin/sh")),
        ("pcr", serde_json::json!({})),
        ("launch", serde_json::json!([{"vmm": "gce", "vcpus": 1, "digest": "00"}])),
        ("modules", serde_json::json!(["evil"])),
    ];
    for (field, lie) in lies {
        let mut forged = first.clone();
        forged[field] = lie;
        std::fs::write(copied.join("image.json"), forged.to_string()).unwrap();
        assert!(verify(&copied).fails(4).contains(field), "{field}");
    }
    // Ctrl-C leaves nothing half made.
    let out = home.work().join("interrupted");
    let words =
        ["machine", "build", "-o", out.to_str().unwrap(), "--kernel-deb", kernel.to_str().unwrap(), "--stub", stub.to_str().unwrap()];
    let child = home.command(words).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !out.exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn one_changed_byte_in_the_program_changes_what_is_predicted() {
    let home = Home::new();
    let mut bytes = std::fs::read(program()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let other = home.work().join("portdistrict");
    std::fs::write(&other, bytes).unwrap();
    build(&home, &home.work().join("out"), &["--program", other.to_str().unwrap()]).ok();
    let (one, two) = (manifest(image()), manifest(&home.work().join("out")));
    for number in ["4", "11"] {
        assert_ne!(one["pcr"][number], two["pcr"][number]);
    }
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn a_friend_browses_through_a_virtual_machine_that_proves_what_it_booted() {
    let web = Web::start();
    // In the machine the host's loopback is 10.0.2.2.
    let inside = format!("10.0.2.2:{}", web.address.port());
    let began = Instant::now();
    let (machine, ran) = Machine::deploy(Home::new(), &["--tpm", "--allow", &inside]);
    ran.ok();
    eprintln!("deployed in {:.1} s", began.elapsed().as_secs_f64());
    let predicted = manifest(image());
    for number in ["4", "11"] {
        assert_eq!(machine.mark(&format!("PCR{number}")).as_deref(), predicted["pcr"][number].as_str(), "PCR {number}");
    }
    assert_eq!(machine.mark("STATE").as_deref(), Some("ready"));
    assert_eq!(machine.mark("EVIDENCE").as_deref(), Some("tpm"));
    assert_eq!(machine.show()["state"], "unclaimed");
    let temporary = machine.mark("NODE").unwrap();

    let claimed = machine.home.line("machine claim vm --json").json();
    assert_eq!((&claimed["seed_source"], &claimed["rung"]), (&"owner".into(), &"image-by-tpm".into()), "{claimed}");
    assert_eq!(machine.mark("STATE").as_deref(), Some("claimed"));
    assert_ne!(machine.mark("NODE").unwrap(), temporary, "with the seed it has its own key");
    assert_eq!(machine.show()["state"], "running");
    machine.home.line("machine claim vm").ok();

    // Nothing in it but the node.
    let inventory = machine.event("machine.inventory").unwrap();
    assert_eq!(inventory["processes"], serde_json::json!(["1 /init"]), "{inventory}");
    assert_eq!(inventory["writable_disks"], serde_json::json!([]), "{inventory}");
    assert_eq!(inventory["listening"], serde_json::json!(["tcp6:4433"]), "{inventory}");

    // It proves itself at any time, and what it proved can be verified again from files.
    let proof = machine.home.work().join("proof");
    let asked = machine.home.run(["machine", "attest", "vm", "--json", "--save", proof.to_str().unwrap()]).json();
    assert_eq!((&asked["verdict"], &asked["image"]), (&"verified".into(), &predicted["uki_authenticode"]), "{asked}");
    let nobody = Home::new();
    let again = nobody.run(["machine", "attest", "--saved", proof.to_str().unwrap(), "--json"]).json();
    assert_eq!((&again["verdict"], &again["rung"]), (&"verified".into(), &"image-by-tpm".into()), "{again}");
    assert!(machine.home.line("machine show vm").ok().contains("image, by the machine's TPM (verified)"));
    assert!(machine.home.line("ledger log").ok().contains("evidence.judged"));

    let invite = blob(&machine.home.line("exit invite --node vm --for anna --mode many --prove image").ok());
    let friend = Home::new();
    let page = format!("http://{inside}/");
    let ran = try_curl(&friend, &invite, &page);
    assert!(ran.stdout == GREETING && ran.stderr.contains("Attestation: image, by the machine's TPM (verified)"), "{ran}");
    let other = blob(&machine.home.line(&format!("exit invite --node vm --for bert --prove {}", "07".repeat(32))).ok());
    assert!(try_curl(&friend, &other, &page).fails(4).contains("image_mismatch"));
    assert!(machine.home.line("machine logs vm").ok().contains("session.open"));
    assert!(machine.home.line("machine show vm").ok().contains("anna"));

    // Killed, and found again with the same key; the friend's invite still works.
    let node = machine.show()["node"].clone();
    machine.kill();
    assert_eq!(machine.show()["state"], "stopped");
    machine.home.line("machine reconnect vm").ok();
    assert_eq!(machine.show()["node"], node);
    assert_eq!(try_curl(&friend, &invite, &page).ok(), GREETING);

    // A talkative console changes nothing.
    let mut console = std::fs::File::options().append(true).open(machine.dir().join("serial.log")).unwrap();
    std::io::Write::write_all(&mut console, "{\"event\":\"noise\"}\n".repeat(100_000).as_bytes()).unwrap();
    assert_eq!(machine.show()["state"], "running");

    // What was taken back stays taken back over a restart, by whichever command the machine is found again, and by two at once.
    machine.home.line("grant revoke anna --yes").ok();
    machine.kill();
    let both = ["claim", "reconnect"].map(|verb| machine.home.command(["machine", verb, "vm"]).spawn().unwrap());
    for child in both {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    assert!(try_curl(&friend, &invite, &page).fails(4).contains("revoked"));

    machine.home.line("machine destroy vm --yes").ok();
    assert!(!machine.dir().exists());
    let left = Command::new("pgrep").args(["-f", machine.home.path().to_str().unwrap()]).output().unwrap();
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn a_disk_that_was_changed_after_the_build_is_found_out_and_gets_nothing() {
    let (machine, ran) = Machine::deploy(Home::new(), &["--tpm"]);
    ran.ok();
    machine.kill();
    let disk = machine.dir().join("disk.raw");
    let change = |from: &str, to: &str| replace_in(&disk, from.as_bytes(), to.as_bytes());
    let line = manifest(image())["command_line"].as_str().unwrap().to_owned();
    // One letter of it, which the kernel does not mind.
    let changed = line.replace("oops=panic", "oops-panic");
    for (from, to, part) in [(line.as_str(), changed.as_str(), "command line"), ("NAME=portdistrict", "NAME=portdistrikt", "description")] {
        change(from, to);
        let said = machine.home.line("machine claim vm").fails(4);
        assert!(said.contains("image_mismatch") && said.contains(part) && said.contains("nothing was handed over"), "{part}: {said}");
        assert_eq!(machine.show()["state"], "unclaimed");
        assert!(machine.event("claim").is_none(), "the node heard of no owner");
        machine.kill();
        change(to, from);
    }
    // As it was, it is believed; with another TPM in its place, it is not.
    machine.home.line("machine claim vm").ok();
    machine.kill();
    std::fs::remove_dir_all(machine.dir().join("tpm")).unwrap();
    let said = machine.home.line("machine reconnect vm").fails(4);
    assert!(said.contains("chain_invalid"), "{said}");
    assert!(machine.home.line("machine show vm").ok().contains("refused: chain_invalid"));
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn a_machine_keeps_its_sealed_seed_for_its_own_image_alone() {
    let web = Web::start();
    let inside = format!("10.0.2.2:{}", web.address.port());
    let (machine, ran) = Machine::deploy(Home::new(), &["--tpm", "--seed", "sealed", "--allow", &inside]);
    ran.ok();
    let own = machine.mark("NODE").unwrap();
    let claimed = machine.home.line("machine claim vm --json").json();
    assert_eq!((&claimed["seed_source"], &claimed["rung"]), (&"sealed".into(), &"image-by-tpm".into()), "{claimed}");
    // It had its key before it had an owner, and no seed was sent: who deployed it has none.
    let node = machine.show()["node"].clone();
    assert!(machine.mark("NODE").as_ref() == Some(&own) && machine.home.line("ledger log --json").ok().contains("machine.claimed"));
    let metadata = machine.dir().join("metadata.json");
    assert!(std::fs::read_to_string(&metadata).unwrap().contains(r#""seed":"sealed""#));
    assert!(machine.home.line("machine show vm").ok().contains("sealed (known to whoever runs the TPM, and not its owner)"));
    machine.waits_for("STATE", "claimed");
    machine.home.line("machine claim vm").ok();
    let invite = blob(&machine.home.line("exit invite --node vm --for anna --mode many").ok());

    // Another image: the seed stays closed, and stays there.
    machine.kill();
    let disk = machine.dir().join("disk.raw");
    let line = manifest(image())["command_line"].as_str().unwrap().to_owned();
    let changed = line.replace("oops=panic", "oops-panic");
    replace_in(&disk, line.as_bytes(), changed.as_bytes());
    let ran = machine.home.line("machine reconnect vm");
    let said = format!("{ran}");
    assert!(ran.status != Some(0) && said.contains("sealed for another image") && said.contains("deploy with --seed sealed"), "{said}");
    assert_eq!(machine.show()["state"], "stopped");
    replace_in(&disk, changed.as_bytes(), line.as_bytes());

    // The right one has the same key without its owner, and serves friends when he has come.
    let start = machine.home.command(["machine", "reconnect", "vm"]).spawn().unwrap();
    machine.waits_for("STATE", "ready");
    assert!(start.wait_with_output().unwrap().status.success());
    machine.waits_for("STATE", "claimed");
    assert_eq!((machine.mark("NODE"), &machine.show()["node"]), (Some(own.clone()), &node));
    assert_eq!(try_curl(&Home::new(), &invite, &format!("http://{inside}/")).ok(), GREETING);

    // Somebody else's key in the metadata comes to another seed, on the same image and the same TPM.
    let stranger = Home::new();
    stranger.line("init").ok();
    let key = |home: &Home| home.line("identity show --json").json()["key"].as_str().unwrap().to_owned();
    let good = std::fs::read_to_string(&metadata).unwrap();
    std::fs::write(&metadata, good.replace(&key(&machine.home), &key(&stranger))).unwrap();
    machine.kill();
    assert_ne!(machine.home.line("machine reconnect vm").status, Some(0));
    assert_ne!(machine.mark("NODE"), Some(own));
}

/// Replaces bytes in a large file with holes, wherever they are; of the same length.
fn replace_in(file: &Path, from: &[u8], to: &[u8]) {
    use std::os::unix::fs::FileExt;
    assert_eq!(from.len(), to.len());
    let disk = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let size = disk.metadata().unwrap().len();
    let (mut block, mut found) = (vec![0; 1 << 20], 0);
    let mut at = 0;
    while at < size {
        let n = disk.read_at(&mut block, at).unwrap();
        for place in block[..n].windows(from.len()).enumerate().filter(|(_, window)| *window == from).map(|(place, _)| place) {
            disk.write_all_at(to, at + place as u64).unwrap();
            found += 1;
        }
        // What lies across two blocks is found in the next one.
        at += (n - from.len().min(n - 1)) as u64;
    }
    assert!(found > 0, "{} is not on the disk", String::from_utf8_lossy(from));
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn what_goes_wrong_in_a_machine_is_said_on_its_console() {
    let (machine, ran) = Machine::deploy(Home::new(), &[]);
    ran.ok();
    let metadata = machine.dir().join("metadata.json");
    let good = std::fs::read_to_string(&metadata).unwrap();
    let again = |what: &str, expected: &str| {
        machine.kill();
        let ran = machine.home.line("machine reconnect vm");
        let said = format!("{ran}");
        assert_ne!(ran.status, Some(0), "{what}: {said}");
        assert!(said.contains(expected), "{what}: {said}\n{}", machine.serial());
    };
    std::fs::write(&metadata, "{").unwrap();
    again("malformed metadata", "the metadata from the hypervisor cannot be used");
    // It powered itself off, so there is nothing to kill.
    assert_eq!(machine.show()["state"], "stopped");
    assert!(machine.home.line("machine logs vm").ok().contains("PORTDISTRICT_FAILURE="));

    // A seed that hardware keeps, in a machine without such hardware.
    for source in ["sealed", "measured"] {
        std::fs::write(&metadata, good.replacen('{', &format!(r#"{{"seed":"{source}","#), 1)).unwrap();
        let said = machine.home.line("machine claim vm").to_string();
        assert!(said.contains(&format!("no hardware for a seed that is {source}")), "{said}");
    }

    // Somebody else's key in the metadata: that one may claim it, and we may not.
    let stranger = Home::new();
    stranger.line("init").ok();
    let key = |home: &Home| home.line("identity show --json").json()["key"].as_str().unwrap().to_owned();
    std::fs::write(&metadata, good.replace(&key(&machine.home), &key(&stranger))).unwrap();
    assert!(machine.home.line("machine claim vm").fails(4).contains("another owner was fixed"));
    std::fs::write(&metadata, &good).unwrap();
    machine.kill();
    // Killed in the middle of a claim: another claim starts it again and is as good as the first.
    machine.home.line("machine reconnect vm").fails(6);
    let mut claim = machine.home.command(["machine", "claim", "vm"]).spawn().unwrap();
    machine.kill();
    claim.wait().unwrap();
    machine.home.line("machine claim vm").ok();
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn a_machine_with_too_little_memory_says_so() {
    let (machine, ran) = Machine::deploy(Home::new(), &["--memory", "96"]);
    let said = ran.fails(1);
    assert!(said.contains("needs more memory") || said.contains("MiB of memory are left"), "{said}");
    assert!(!machine.dir().exists(), "a failed deploy leaves nothing");
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn what_cannot_be_deployed_is_refused_before_anything_is_made() {
    let home = Home::new();
    home.line("init").ok();
    let copy = home.work().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let deploy =
        |image: &str, more: &str| home.line(&format!("machine deploy --on qemu --label vm --listen 127.0.0.1 --image {image} {more}"));
    assert!(deploy("copy", "").fails(3).contains("image.json is missing"));
    assert!(home.line("machine deploy --on qemu --label vm").fails(2).contains("needs an image"));
    // Changed after it was built.
    let out = image();
    assert!(
        Command::new("cp")
            .arg("--sparse=always")
            .arg(out.join("disk.raw"))
            .arg(out.join("image.json"))
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    deploy("copy", "--dry-run").ok();
    let found = home.line("machine doctor --on qemu").ok();
    assert!(["qemu", "firmware", "swtpm", "kvm", "kernel", "stub"].iter().all(|name| found.contains(name)), "{found}");
    {
        use std::io::{Seek, SeekFrom, Write};
        let mut disk = std::fs::File::options().write(true).open(copy.join("disk.raw")).unwrap();
        disk.seek(SeekFrom::Start(5 * 1024 * 1024)).unwrap();
        disk.write_all(b"evil").unwrap();
    }
    assert!(deploy("copy", "").fails(4).contains("is not the image that image.json describes"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let out = out.to_str().unwrap();
    assert!(deploy(out, &format!("--port {}", taken.local_addr().unwrap().port())).fails(1).contains("is in use"));
    assert!(deploy(out, "--systemd").fails(2).contains("systemd"));
    assert!(deploy(out, "--seed sealed").fails(2).contains("add --tpm"));
    assert!(deploy(out, "--seed sealed --tpm --tor").fails(2).contains("onion service"));
    assert!(deploy(out, "--seed sealed --tpm --seed-file seed").fails(2).contains("in no file"));
    assert!(deploy(out, "--seed measured").fails(6).contains("image.json has none"));
    assert!(deploy(out, "--claim-by-anyone").fails(2).contains("claimed by the one who deployed it"));
    assert!(deploy(out, "--firmware /nowhere/CODE.fd").fails(3).contains("/nowhere/CODE.fd"));
    // No QEMU on the way.
    let mut without = home.command(["machine", "deploy", "--on", "qemu", "--label", "vm", "--image", out]);
    without.env("PATH", "/nowhere");
    assert!(Ran::of(without).fails(6).contains("apt-get install qemu-system-x86"));
    // Or one of long ago.
    let old = home.work().join("old");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("qemu-system-x86_64"), "#!/bin/sh\necho QEMU emulator version 4.2.1\n").unwrap();
    std::fs::set_permissions(old.join("qemu-system-x86_64"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut ancient = home.command(["machine", "deploy", "--on", "qemu", "--label", "vm", "--image", out]);
    ancient.env("PATH", format!("{}:/usr/bin:/bin", old.display()));
    assert!(Ran::of(ancient).fails(6).contains("QEMU 4.2 is too old"));
    assert!(!home.path().join("state/machines/vm").exists());
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn what_no_image_can_be_made_of_is_refused() {
    let home = Home::new();
    let [kernel, stub] = packages();
    let out = home.work().join("out");
    let with = |kernel: &Path, stub: &Path, more: &[&str]| {
        let words =
            ["machine", "build", "-o", out.to_str().unwrap(), "--kernel-deb", kernel.to_str().unwrap(), "--stub", stub.to_str().unwrap()];
        home.run(words.iter().chain(more))
    };
    let bad = home.work().join("bad");
    let write = |bytes: &[u8]| std::fs::write(&bad, bytes).unwrap();
    write(b"not a package");
    assert!(with(&bad, stub, &[]).fails(2).contains("no Debian package"));
    assert!(with(kernel, &bad, &[]).fails(2).contains("no 64-bit EFI program"));
    assert!(with(stub, stub, &[]).fails(2).contains("has no kernel"));
    assert!(with(kernel, kernel, &[]).fails(2).contains("has no stub"));
    let whole = std::fs::read(kernel).unwrap();
    write(&whole[..whole.len() / 2]);
    assert!(with(&bad, stub, &[]).fails(2).contains("ends early"));
    write(b"");
    assert!(with(&bad, stub, &[]).fails(2).contains("is empty"));
    assert!(with(kernel, stub, &["--program", "/bin/ls"]).fails(6).contains("linked dynamically"));
    assert!(!out.join("image.json").exists());
}

/// QEMU with the image and whatever else a test hangs on, until the console says one of these lines.
fn console_of(folder: &Path, more: &[&str], until: &[&str]) -> String {
    let console = folder.join("console");
    // That of an earlier machine.
    let _ = std::fs::remove_file(&console);
    std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", folder.join("vars.fd")).unwrap();
    let disk = format!("if=none,id=disk,format=raw,readonly=on,file={}", image().join("disk.raw").display());
    let mut child = Command::new("qemu-system-x86_64")
        .current_dir(folder)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35", "-cpu", "max", "-m", "256"])
        .args(["-accel", "tcg,thread=single"])
        .args(["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"])
        .args(["-drive", "if=pflash,unit=1,format=raw,file=vars.fd", "-serial", "file:console"])
        .args(["-drive", &disk, "-device", "virtio-blk-pci,drive=disk,bootindex=0"])
        .args(more)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(200);
    loop {
        let said = String::from_utf8_lossy(&std::fs::read(&console).unwrap_or_default()).into_owned();
        let ended = child.try_wait().unwrap().is_some();
        if ended || Instant::now() > deadline || until.iter().any(|line| said.contains(line)) {
            let _ = child.kill();
            child.wait().unwrap();
            return said;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn metadata_may_come_on_a_disk_and_without_any_a_machine_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let network = ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="];
    let said = console_of(folder.path(), &network, &["PORTDISTRICT_STATE=failed"]);
    assert!(said.contains("PORTDISTRICT_FAILURE=nobody tells this machine what to be"), "{said}");

    // A disk with a label, and a second network card that leads nowhere.
    let disk = std::fs::File::options().read(true).write(true).create_new(true).open(folder.path().join("config.raw")).unwrap();
    disk.set_len(4 << 20).unwrap();
    fatfs::format_volume(&disk, fatfs::FormatVolumeOptions::new().volume_label(*b"PDCONFIG   ")).unwrap();
    let key = portdistrict::encoding::base64(&[1; 32]);
    let document = format!(r#"{{"portdistrict":1,"label":"vm","owner":"{key}","cover":"{key}","made_at":1}}"#);
    {
        use std::io::Write;
        let system = fatfs::FileSystem::new(&disk, fatfs::FsOptions::new()).unwrap();
        system.root_dir().create_file("config.json").unwrap().write_all(document.as_bytes()).unwrap();
    }
    let more = ["-drive", "if=none,id=config,format=raw,readonly=on,file=config.raw", "-device", "virtio-blk-pci,drive=config"];
    let second = ["-netdev", "socket,id=dead,listen=127.0.0.1:0", "-device", "virtio-net-pci,netdev=dead,romfile="];
    let all: Vec<&str> = second.into_iter().chain(network).chain(more).collect();
    let said = console_of(folder.path(), &all, &["PORTDISTRICT_READY=", "PORTDISTRICT_STATE=failed"]);
    assert!(said.contains("PORTDISTRICT_STATE=ready"), "{said}");
    assert!(said.contains("metadata.found"), "{said}");
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn a_full_disk_leaves_no_half_image() {
    let home = Home::new();
    let [kernel, stub] = packages();
    let script = format!(
        r#"
        mkdir small; mount -t tmpfs -o size=4m tmpfs small
        status=0; portdistrict machine build -o small/out --kernel-deb {} --stub {} 2> said || status=$?
        echo "status=$status"; cat said; echo "left: $(ls -A small/out)."
    "#,
        kernel.display(),
        stub.display()
    );
    let Some(ran) = crate::luck::with_mounts(&home, &script) else { return };
    let text = ran.ok();
    assert!(text.contains("status=1") && text.contains("free some space") && text.contains("left: ."), "{text}");
}

/// Runs a test again inside a network of its own, where addresses can be had that neither machine nor host would use else.
fn in_own_network(test: &str, address: &str, body: impl FnOnce()) {
    if inside() {
        let setup = format!("ip link set lo up && ip addr add {address}/32 dev lo");
        assert!(Command::new("sh").args(["-c", &setup]).status().unwrap().success());
        return body();
    }
    image();
    let unshare: &[&str] = if rustix::process::geteuid().is_root() { &["--net"] } else { &["--net", "--map-root-user"] };
    let status = Command::new("unshare")
        .args(unshare)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("PD_INSIDE", "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn a_virtual_machine_is_an_onion_service() {
    // From inside the machine the host's own loopback cannot be reached under its name, this address can.
    in_own_network("vm::a_virtual_machine_is_an_onion_service", "10.77.0.1", || {
        let network = Network::start_at(&crate::tor::network_folder("vm"), "10.77.0.1".parse().unwrap(), 3, 5).unwrap();
        let arti = network.arti_toml();
        let web = Web::start();
        let inside = format!("10.0.2.2:{}", web.address.port());
        let (machine, ran) = Machine::deploy(crate::tor::home_in(&arti), &["--tor", "--allow", &inside]);
        ran.ok();
        machine.home.line("machine claim vm").ok();
        let shown = machine.show();
        assert_eq!(shown["live"]["onion"]["state"], "ready", "{shown}");
        assert_eq!(machine.mark("ONION").as_deref(), shown["onion"].as_str(), "the address that was predicted is the one it has");
        let invite = blob(&machine.home.line("exit invite --node vm --for anna --mode many").ok());
        let friend = crate::tor::home_in(&arti);
        let ran = try_curl(&friend, &invite, &format!("http://{inside}/"));
        assert!(ran.stderr.contains("over Tor"), "{ran}");
        assert_eq!(ran.ok(), GREETING);
        // The address stays over a restart, although the machine forgets everything.
        machine.kill();
        machine.home.line("machine reconnect vm").ok();
        assert_eq!(machine.mark("ONION").as_deref(), shown["onion"].as_str());
        assert_eq!(try_curl(&friend, &invite, &format!("http://{inside}/")).ok(), GREETING);
    });
}
