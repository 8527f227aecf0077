//! Proof: a node on a machine with a TPM, those who ask it, and evidence in files.
//!
//! The TPM is a real one in software with a certificate of its own. It is told what a real machine measured when it booted
//! (`src/attest/eventlog/testdata`), so that nothing needs to boot here.

use crate::home::Home;
use crate::tpm::certificates::manufactured;
use crate::tpm::common::Swtpm;
use crate::web::{GREETING, Web};
use portdistrict::attest::evidence::{Nonce, Subject};
use portdistrict::attest::{Outcome, Rung, TpmEvidence, Verdict, eventlog};
use portdistrict::config::{Label, Paths};
use portdistrict::error::{Code, Error, Result};
use portdistrict::image::Manifest;
use portdistrict::keyring::{Keyring, Unlock};
use portdistrict::machine::claim::{self, Failure, Target};
use portdistrict::node::evidence::{Collected, Hardware};
use portdistrict::node::{Config, Log, Node, Witness, hardware, write_cover_file};
use portdistrict::progress::Silent;
use portdistrict::proof::Terms;
use portdistrict::session::messages::Activation;
use portdistrict::session::seed::Source;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use zeroize::Zeroizing;

const COVER: [u8; 32] = [5; 32];

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/attest/eventlog/testdata").join(name)
}

fn log(name: &str) -> Vec<u8> {
    std::fs::read(testdata(&format!("{name}.bin"))).unwrap()
}

fn image() -> Manifest {
    Manifest::parse("image.json", &std::fs::read(testdata("image.json")).unwrap()).unwrap()
}

/// A TPM that measured what a boot with this log measured, under an authority of its own.
struct Tpm {
    swtpm: Mutex<Swtpm>,
    authority: TempDir,
}

impl Tpm {
    fn booted(name: &str) -> Tpm {
        let authority = TempDir::new().unwrap();
        let swtpm = manufactured(authority.path());
        for event in eventlog::parse(&log(name)).unwrap().iter().filter(|event| event.is_extended()) {
            swtpm.extend(event.pcr, event.sha256);
        }
        Tpm { swtpm: Mutex::new(swtpm), authority }
    }

    fn quote(&self, subject: &Subject, shown: &str) -> TpmEvidence {
        hardware::quote(&self.swtpm.lock().unwrap().device(), subject, log(shown)).unwrap()
    }

    fn root(&self) -> PathBuf {
        self.authority.path().join("issuer.pem")
    }
}

/// How a machine lies.
#[derive(Clone)]
enum Trick {
    /// It does not, and shows this log.
    Shows(&'static str),
    /// It shows what it showed somebody else.
    Replays,
    /// Another TPM signs, and the endorsement of the first one is shown.
    Borrows(Arc<Tpm>),
    /// Its hardware fails.
    Fails,
}

struct Double {
    tpm: Arc<Tpm>,
    trick: Trick,
}

impl Hardware for Double {
    fn collect(&mut self, subject: &Subject) -> Result<Collected> {
        let tpm = match &self.trick {
            Trick::Shows(name) => self.tpm.quote(subject, name),
            Trick::Replays => self.tpm.quote(&Subject { nonce: Nonce([9; 32]), ..*subject }, "plain"),
            Trick::Borrows(other) => {
                let own = self.tpm.quote(subject, "plain");
                TpmEvidence { ek_public: own.ek_public, ek_certificate: own.ek_certificate, ..other.quote(subject, "plain") }
            }
            Trick::Fails => return Err(Error::new(Code::Failed, "the TPM did not do what it was asked")),
        };
        Ok(Collected { snp: None, tpm: Some(tpm) })
    }

    fn activate(&mut self, activation: &Activation) -> Result<Zeroizing<Vec<u8>>> {
        hardware::activate(&self.tpm.swtpm.lock().unwrap().device(), activation)
            .map_err(|error| Error::new(Code::Failed, "the TPM did not do what it was asked").cause(error))
    }
}

/// A node on such a machine, and its owner.
struct Place {
    dir: TempDir,
    keyring: Keyring,
    label: Label,
    node: Node,
}

impl Place {
    fn new(witness: Arc<Witness>, allow: &[String]) -> Place {
        Place::with_seed_of(None, witness, allow)
    }

    /// The same; the node says that its seed is from there.
    fn with_seed_of(seed_of: Option<Source>, witness: Arc<Witness>, allow: &[String]) -> Place {
        let dir = TempDir::new().unwrap();
        let keyring = Keyring::create(&Paths::find(Some(&dir.path().join("owner"))).unwrap(), &Unlock::default()).unwrap();
        let label: Label = "vm".parse().unwrap();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("node"), label.clone());
        config.owner = Some(portdistrict::encoding::base64(&keyring.identity_public()));
        config.allow = allow.to_vec();
        config.seed_of = seed_of;
        let cover = dir.path().join("cover");
        write_cover_file(&cover, &COVER).unwrap();
        config.bootstrap_cover_file = Some(cover);
        let node = Node::start_on(config, Log::in_memory(), witness).unwrap();
        Place { dir, keyring, label, node }
    }

    fn claim(&self, terms: Terms) -> std::result::Result<Verdict, Failure> {
        self.claim_from(terms, Source::Local)
    }

    /// Claims it as a machine that was deployed to have its seed from there.
    fn claim_from(&self, terms: Terms, source: Source) -> std::result::Result<Verdict, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = self.node.address().to_string();
        let target =
            Target { address: &address, cover: &COVER, label: &self.label, source, seed: None, permit: &|_| Ok(()), rotations: &[] };
        runtime.block_on(claim::claim(&target, terms, false, &self.keyring, &Silent)).map(|claimed| claimed.verdict)
    }

    /// The reason for which nothing was handed over, and the sentences.
    fn refused(&self, terms: Terms) -> (&'static str, String) {
        match self.claim(terms) {
            Err(Failure::Unproved(_, verdict)) => {
                assert_eq!((verdict.outcome, verdict.rung), (Outcome::Refused, Rung::PinnedKey));
                assert!(!self.node.ready().claimed, "nothing was claimed");
                let sentences: Vec<String> = verdict.faults.iter().map(ToString::to_string).collect();
                (verdict.reason().unwrap().as_str(), sentences.join("\n"))
            }
            Err(Failure::Error(error)) => panic!("{error:?}"),
            Ok(verdict) => panic!("claimed: {verdict:?}"),
        }
    }
}

fn machine(tpm: &Arc<Tpm>, trick: Trick) -> Place {
    Place::new(Witness::of(Some(Box::new(Double { tpm: tpm.clone(), trick }))), &[])
}

/// This image, by a TPM that this root certified, and nothing less.
fn terms(root: &Path) -> Terms {
    let mut terms = Terms::load(None).unwrap();
    terms.want_image(&image()).unwrap();
    terms.trust_tpm_root(root).unwrap();
    terms.policy.demand = Rung::ImageByTpm;
    terms
}

#[test]
fn a_machine_that_proves_its_image_is_claimed() {
    let tpm = Arc::new(Tpm::booted("plain"));
    let place = machine(&tpm, Trick::Shows("plain"));
    let verdict = place.claim(terms(&tpm.root())).unwrap_or_else(|_| panic!("not claimed"));
    assert_eq!((verdict.outcome, verdict.rung), (Outcome::Verified, Rung::ImageByTpm), "{verdict:?}");
    assert_eq!(verdict.image.map(|digest| portdistrict::encoding::hex(&digest)), Some(image().uki_authenticode));
    assert!(place.node.ready().claimed);
}

#[test]
fn each_lie_is_refused_by_a_reason_of_its_own_and_nothing_is_claimed() {
    let tpm = Arc::new(Tpm::booted("plain"));
    let other = Arc::new(Tpm::booted("plain"));
    let changed = Arc::new(Tpm::booted("changed"));

    let (reason, said) = machine(&tpm, Trick::Replays).refused(terms(&tpm.root()));
    assert!(reason == "binding_mismatch" && said.contains("another key, program or question"), "a replayed quote: {said}");

    let (reason, said) = machine(&tpm, Trick::Borrows(other.clone())).refused(terms(&tpm.root()));
    assert!(reason == "endorsement_invalid" && said.contains("another TPM"), "another TPM's quote: {said}");

    let (reason, said) = machine(&other, Trick::Shows("plain")).refused(terms(&tpm.root()));
    assert_eq!(reason, "chain_invalid", "another TPM as a whole: {said}");

    let (reason, said) = machine(&changed, Trick::Shows("changed")).refused(terms(&changed.root()));
    assert!(reason == "image_mismatch" && said.contains("command line"), "another image: {said}");

    let (reason, said) = machine(&changed, Trick::Shows("plain")).refused(terms(&changed.root()));
    assert!(reason == "event_log_mismatch" && said.contains("edited to look like the image"), "an edited log: {said}");
    assert!(said.contains("PCR 11 (the parts of the boot program)"), "and where it shows: {said}");

    let (reason, said) = machine(&tpm, Trick::Fails).refused(terms(&tpm.root()));
    assert_eq!(reason, "no_evidence", "a TPM that fails: {said}");

    let (reason, said) = Place::new(Witness::none(), &[]).refused(terms(&tpm.root()));
    assert_eq!(reason, "no_evidence", "no TPM: {said}");
    assert!(said.contains("proof_too_weak"), "{said}");
}

#[test]
fn a_seed_is_where_the_machine_was_deployed_to_have_it() {
    let tpm = Arc::new(Tpm::booted("plain"));
    let double = || Witness::of(Some(Box::new(Double { tpm: tpm.clone(), trick: Trick::Shows("plain") })));
    let refused = |place: &Place, source| match place.claim_from(terms(&tpm.root()), source) {
        Err(Failure::Error(error)) => {
            assert!(error.code() == Code::Refused && !place.node.ready().claimed, "{error:?}");
            error.message().to_owned()
        }
        _ => panic!("claimed"),
    };
    let sealed = Place::with_seed_of(Some(Source::Sealed), double(), &[]);
    assert!(refused(&sealed, Source::Owner).contains("nothing was handed over"));
    assert!(refused(&sealed, Source::Measured).contains("nothing was handed over"));
    assert!(sealed.claim_from(terms(&tpm.root()), Source::Sealed).is_ok());
    // One that says "measured" and stands no higher than its TPM: others could have its key.
    let liar = Place::with_seed_of(Some(Source::Measured), double(), &[]);
    let said = refused(&liar, Source::Measured);
    assert!(said.contains("its hardware does not say so; nothing was claimed"), "{said}");
}

#[test]
fn what_was_named_must_be_spoken_of() {
    let tpm = Arc::new(Tpm::booted("plain"));
    let mut named = terms(&tpm.root());
    named.want_measurement([1; 48]);
    let (reason, said) = machine(&tpm, Trick::Shows("plain")).refused(named);
    assert!(reason == "measurement_mismatch" && said.contains("the evidence has none"), "{said}");
    // And an image, of a report that says nothing of it.
    let home = Home::new();
    let image = testdata("image.json").display().to_string();
    let said = home.run(sample().into_iter().chain(["--image".to_owned(), image])).fails(4);
    assert!(said.contains("proof_too_weak") && said.contains("nothing in the evidence proves which one was started"), "{said}");
}

#[test]
fn the_command_line_is_part_of_what_is_proved() {
    // The boot entry gave the kernel another one; the boot program itself is the same.
    let tpm = Arc::new(Tpm::booted("entry"));
    let (reason, said) = machine(&tpm, Trick::Shows("entry")).refused(terms(&tpm.root()));
    assert!(reason == "image_mismatch" && said.contains("command line"), "{said}");
}

#[test]
fn a_friend_who_demands_an_image_is_let_through_to_that_one_alone() {
    use portdistrict::attest::judge::demands;
    use portdistrict::encoding::from_hex_array;
    let web = Web::start();
    let tpm = Arc::new(Tpm::booted("plain"));
    let witness = Witness::of(Some(Box::new(Double { tpm: tpm.clone(), trick: Trick::Shows("plain") })));
    let place = Place::new(witness, &[web.address.to_string()]);
    let verdict = place.claim(terms(&tpm.root())).unwrap_or_else(|_| panic!("not claimed"));

    let try_with = |demand: [u8; 20], more: &[&str]| {
        let friend = Home::new();
        let blob = invite(&place, demand);
        let url = web.url("/");
        let words = ["exit", "try", &blob].into_iter().chain(more.iter().copied()).chain(["--", "curl", "-sS", "--max-time", "20", &url]);
        friend.run(words.collect::<Vec<_>>())
    };
    // The image on the very TPM that the owner knows.
    let ran = try_with(demands(&verdict.image.unwrap(), verdict.endorsement.as_deref()), &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), GREETING), "{ran}");
    assert!(ran.stderr.contains("Attestation: image, by the machine's TPM (verified)"), "{ran}");
    let streams = || place.node.log().after(0, 10_000).1.iter().filter(|line| line.contains("session.open")).count();
    let before = streams();
    // Another image, and the right one by a TPM that nobody here knows: neither gets a byte.
    let wrong = try_with(demands(&[7; 32], verdict.endorsement.as_deref()), &[]);
    assert!(wrong.stdout.is_empty() && wrong.fails(4).contains("image_mismatch"));
    let nobody = try_with(demands(&from_hex_array(&image().uki_authenticode).unwrap(), None), &[]);
    assert!(nobody.stdout.is_empty() && nobody.fails(4).contains("chain_invalid"));
    assert_eq!(streams(), before + 2, "both had a session and sent nothing over it");
    // Who knows the TPM's maker needs no word of the owner for it.
    let policy = place.dir.path().join("policy.toml");
    std::fs::write(&policy, format!("version = 1\ndemand = \"image-by-tpm\"\n[tpm]\nroots = [\"{}\"]\n", tpm.root().display())).unwrap();
    let ran = try_with(demands(&verdict.image.unwrap(), None), &["--policy", policy.to_str().unwrap()]);
    assert_eq!((ran.status, ran.stdout.as_str()), (Some(0), GREETING), "{ran}");
}

/// An invite of the owner whose holder demands this.
fn invite(place: &Place, demand: [u8; 20]) -> String {
    use portdistrict::encoding::cbor::Map;
    use portdistrict::token::{Grant, Invite, Limits, Mode, Role, Scope, Secret16, Transport};
    let (secret, now) = (Secret16::random(), portdistrict::config::time::now_s());
    let grant = Grant {
        id: Grant::random_id(),
        issuer: place.keyring.identity_public(),
        node: Some(place.node.key()),
        subject: secret.subject(),
        not_before: now - 60,
        expires: now + 600,
        limits: Limits::default(),
        scope: Scope::default(),
        lease: None,
        delegable: 0,
        revision: 0,
        evidence: Some(demand),
        mode: Mode::Many,
        role: Role::Exit,
        reserved: Map::new(),
    };
    let transport = Transport { addresses: vec![place.node.address().to_string()], onion: None };
    let grant = grant.sign(&place.keyring.identity_key());
    Invite { transport, node: place.node.key(), grant: grant.into(), secret: Some(secret), name: None }.to_blob().unwrap()
}

/// The folder of a package that Cargo fetched.
pub(crate) fn package(name: &str) -> PathBuf {
    let out = Command::new(env!("CARGO")).args(["metadata", "--format-version", "1", "--locked", "--offline"]).output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let found = all["packages"].as_array().unwrap().iter().find(|package| package["name"] == name).unwrap();
    Path::new(found["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

/// `machine attest` of AMD's published sample, from files.
fn sample() -> Vec<String> {
    let data = package("sev").join("tests/certs_data");
    let file = |name: &str| data.join(name).display().to_string();
    let words = ["machine", "attest", "--report", &file("report_milan.hex"), "--certs", &file("vcek_milan.der"), "--certs"];
    words.iter().map(|word| (*word).to_owned()).chain([file("cert_chain_milan")]).collect()
}

#[test]
fn a_real_report_is_verified_without_asking_anybody() {
    let home = Home::new();
    assert!(home.run(sample()).ok().contains("genuine-chip"));
    // No network at all, and death to whoever tries.
    let words: Vec<String> = sample();
    let program = crate::home::program();
    let mut command = Command::new("unshare");
    command.args([
        "--map-root-user",
        "--net",
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=connect",
        "-e",
        "inject=connect:signal=SIGKILL",
        program,
    ]);
    command.args(&words).arg("--json").env_clear().env("PORTDISTRICT_HOME", home.path()).env("PATH", "/usr/bin:/bin:/usr/sbin");
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let verdict: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(out.status.success() && verdict["verdict"] == "verified" && verdict["rung"] == "genuine-chip", "{verdict} {said}");
    assert!(!home.path().exists(), "and no home was made");
}

#[test]
fn what_a_report_does_not_say_is_not_believed() {
    let home = Home::new();
    let with = |more: &[&str]| home.run(sample().into_iter().chain(more.iter().map(|word| (*word).to_owned())));
    let said = with(&["--explain"]).ok();
    for word in ["the host may read its memory", "no", "firmware version (microcode)", "AMD (Milan)", "you trust"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let other = "00".repeat(48);
    let said = with(&["--measurement", &other]).fails(4);
    assert!(said.contains("measurement_mismatch") && said.contains("--explain"), "{said}");
    let policy = home.work().join("policy.toml");
    for (text, reason) in [
        ("version = 1\ndemand = \"image-by-tpm\"\n", "proof_too_weak"),
        ("version = 1\n[snp]\nminimum_tcb.milan = { microcode = 255 }\n", "tcb_too_old"),
        ("version = 1\n[snp]\nproducts = [\"genoa\"]\n", "platform_not_allowed"),
        ("version = 1\n[snp]\nsingle_socket = true\n", "platform_not_allowed"),
    ] {
        std::fs::write(&policy, text).unwrap();
        let said = with(&["--policy", policy.to_str().unwrap(), "--json"]).fails(4);
        assert!(said.contains(reason), "{text}: {said}");
    }
    std::fs::write(&policy, "version = 1\n[snp]\ndebgu = true\n").unwrap();
    let said = with(&["--policy", policy.to_str().unwrap()]).fails(2);
    assert!(said.contains("debgu") && said.contains("hint:"), "{said}");
}

#[test]
fn bad_files_are_named() {
    let home = Home::new();
    let words = sample();
    let report = home.work().join("report.bin");
    let with = |bytes: &[u8]| {
        std::fs::write(&report, bytes).unwrap();
        let mut words = words.clone();
        words[3] = report.display().to_string();
        home.run(words)
    };
    for bytes in [&b""[..], &[0; 1183], &[0; 1185]] {
        let said = with(bytes).fails(4);
        assert!(said.contains("malformed") && said.contains(&bytes.len().to_string()), "{said}");
    }
    assert!(with(&vec![b'x'; 1 << 20]).fails(1).contains("report.bin"));
    home.line("machine attest --report none.bin").fails(3);
    home.line("machine attest --saved .").fails(3);
    home.line("machine attest").fails(2);
    home.line("machine attest --report r --measurement abc").fails(2);
    // Without certificates nobody vouches for the chip.
    let said = home.run(&words[..4]).fails(4);
    assert!(said.contains("certificate_missing"), "{said}");
}

/// The roots and keys that unit tests sign with are made by code that is compiled for them alone.
#[test]
fn no_root_of_tests_is_in_the_program() {
    let holds = |text: &str| Command::new("grep").args(["-a", "-q", "-F", text, crate::home::program()]).status().unwrap().success();
    assert!(holds("ARK-Milan"), "AMD's own roots are");
    let source = |file: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/attest").join(file)).unwrap();
    let (_, rest) = source("snp/synthetic.rs").split_once("CSP_ID: &str = \"").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let marker = rest.split('"').next().unwrap();
    assert!(!marker.is_empty() && !holds(marker), "{marker}");
    assert!(source("snp/mod.rs").contains("#[cfg(test)]\npub(crate) mod synthetic;"), "it is compiled for tests alone");
    assert!(source("x509.rs").contains("#[cfg(test)]\npub(crate) mod forge;"));
}
