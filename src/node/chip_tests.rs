//! A node on a machine whose processor is one of our own making: it signs what AMD's would sign, under a root that is none of AMD's.

use super::evidence::{Collected, Hardware};
use super::hardware::sev_guest::SevGuest;
use super::hardware::sev_guest::double::Chip;
use super::*;
use crate::attest::evidence::Subject;
use crate::attest::judge::{Answer, Asked};
use crate::attest::snp::Product;
use crate::attest::snp::synthetic::{ASK_SERIAL, HOW, KEYS, ark_der, crl};
use crate::attest::x509::forge::NOW;
use crate::attest::{Outcome, Reason, Rung, Verdict};
use crate::error::Result;
use crate::image::{Covers, Launch, Manifest};
use crate::keyring::{Keyring, Unlock};
use crate::machine::claim::{Failure, Target, claim};
use crate::progress::Silent;
use crate::proof::Terms;
use crate::session::messages::{Activation, Challenge, Message, Offer};
use crate::session::seed::Source;
use crate::session::{CoverKey, bootstrap};
use std::path::PathBuf;
use tempfile::TempDir;
use zeroize::Zeroizing;

const COVER: [u8; 32] = [5; 32];
/// The chip as the node asks it: through the structures of `/dev/sev-guest`.
impl Hardware for SevGuest<Chip> {
    fn collect(&mut self, subject: &Subject) -> Result<Collected> {
        Ok(Collected { snp: Some(self.report(&subject.report_data())?), tpm: None })
    }

    fn activate(&mut self, _: &Activation) -> Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::default())
    }
}

/// What an operator hears in the bootstrap, and judges.
struct Place {
    dir: TempDir,
    node: Node,
    key: [u8; 32],
    offer: Offer,
}

const NONCE: [u8; 32] = [1; 32];

impl Place {
    async fn new(chip: Chip) -> Place {
        Place::with_seed_of(None, chip).await
    }

    async fn with_seed_of(seed_of: Option<Source>, chip: Chip) -> Place {
        let dir = TempDir::new().unwrap();
        let cover = dir.path().join("cover");
        write_cover_file(&cover, &COVER).unwrap();
        let mut config = Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("node"), "vm".parse().unwrap());
        config.claim_by_anyone = true;
        config.bootstrap_cover_file = Some(cover);
        config.seed_of = seed_of;
        let node = Node::start_on(config, Log::in_memory(), Witness::of(Some(Box::new(SevGuest(chip))))).unwrap();
        let tcp = tokio::net::TcpStream::connect(node.address()).await.unwrap();
        let mut pipe = bootstrap(tcp, &CoverKey::from_bytes(COVER), &[3; 32]).await.unwrap();
        pipe.send(&Challenge { nonce: NONCE }.encode()).await.unwrap();
        let offer = Offer::decode(&pipe.recv(Offer::LIMIT).await.unwrap()).unwrap();
        Place { dir, node, key: pipe.remote, offer }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let file = self.dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file
    }

    /// Terms of somebody who trusts this chip's maker.
    fn trusting(&self) -> Terms {
        self.trusting_and("")
    }

    /// The same, with more rules for the processor.
    fn trusting_and(&self, rules: &str) -> Terms {
        self.file("ark.der", &ark_der(Product::Genoa));
        let policy = self.file("policy.toml", format!("version = 1\n[snp]\nroots = [\"ark.der\"]\n{rules}").as_bytes());
        let mut terms = Terms::load(Some(&policy)).unwrap();
        // The certificates and lists of tests are of that time.
        terms.judge_as_of(NOW);
        terms
    }

    fn judge(&self, terms: &Terms, node: [u8; 32], nonce: [u8; 32]) -> Verdict {
        terms.judge(self.offer.evidence.as_deref(), Asked::Nonce(node, nonce), &Answer::NotAsked)
    }
}

#[tokio::test]
async fn a_report_is_bound_to_the_key_that_answers_and_to_the_question() {
    let place = Place::new(Chip::default()).await;
    let terms = place.trusting();
    let verdict = place.judge(&terms, place.key, NONCE);
    assert_eq!((verdict.outcome, verdict.rung), (Outcome::Verified, Rung::GenuineChip), "{verdict:?}");
    assert!(verdict.vouched_by.unwrap().contains("not AMD's"), "a root that was given is told as such");
    for (node, nonce) in [([9; 32], NONCE), (place.key, [9; 32])] {
        let verdict = place.judge(&terms, node, nonce);
        assert_eq!((verdict.outcome, verdict.rung), (Outcome::Refused, Rung::PinnedKey));
        assert_eq!(verdict.reason(), Some(Reason::BindingMismatch));
    }
}

#[tokio::test]
async fn a_chip_of_another_maker_is_nobodys_unless_its_root_is_named() {
    let place = Place::new(Chip::default()).await;
    let mut amd = Terms::load(None).unwrap();
    amd.judge_as_of(NOW);
    let verdict = place.judge(&amd, place.key, NONCE);
    assert_eq!(verdict.outcome, Outcome::Refused);
    assert!(matches!(verdict.reason(), Some(Reason::ChainInvalid | Reason::SignatureInvalid)), "{verdict:?}");
}

#[tokio::test]
async fn a_measured_seed_is_claimed_where_the_processor_speaks_of_the_image_and_nowhere_else() {
    let place = Place::with_seed_of(Some(Source::Measured), Chip::default()).await;
    let paths = crate::config::Paths::find(Some(&place.dir.path().join("owner"))).unwrap();
    let keyring = Keyring::create(&paths, &Unlock::default()).unwrap();
    let launch = "3c".repeat(48);
    let claim = async |rules: String| {
        let (address, label) = (place.node.address().to_string(), "vm".parse().unwrap());
        let target = Target {
            address: &address,
            cover: &COVER,
            label: &label,
            source: Source::Measured,
            seed: None,
            permit: &|_| Ok(()),
            rotations: &[],
        };
        claim(&target, place.trusting_and(&rules), false, &keyring, &Silent).await
    };
    // The same launch, and what it is worth: nobody named it, the firmware alone, the image.
    for rules in [String::new(), format!("firmware = [\"{launch}\"]\n")] {
        let Err(Failure::Error(error)) = claim(rules).await else { panic!("claimed") };
        assert!(error.message().contains("its hardware does not say so; nothing was claimed"), "{error:?}");
        assert!(!place.node.ready().claimed);
    }
    let claimed = claim(format!("images = [\"{launch}\"]\n")).await.unwrap_or_else(|_| panic!("not claimed"));
    assert_eq!((claimed.verdict.rung, claimed.node), (Rung::ImageByHardware, place.key));
}

#[tokio::test]
async fn a_description_that_lists_a_launch_of_the_image_is_enough() {
    let place = Place::new(Chip::default()).await;
    let mut image = Manifest::parse("image.json", include_bytes!("../attest/eventlog/testdata/image.json")).unwrap();
    let mut rung = |covers| {
        image.launch = vec![Launch { vmm: "qemu".to_owned(), cpu: None, vcpus: 1, covers, digest: "3c".repeat(48) }];
        let mut terms = place.trusting();
        terms.want_image(&image).unwrap();
        let verdict = place.judge(&terms, place.key, NONCE);
        assert_eq!(verdict.outcome, Outcome::Verified, "{verdict:?}");
        assert!(verdict.findings.iter().any(|finding| finding.found.contains("local: known to")), "{verdict:?}");
        verdict.rung
    };
    assert_eq!((rung(Covers::Image), rung(Covers::Firmware)), (Rung::ImageByHardware, Rung::ProviderFirmware));
}

#[tokio::test]
async fn a_host_that_may_look_inside_is_refused() {
    let place = Place::new(Chip { debug: true, ..Chip::default() }).await;
    let verdict = place.judge(&place.trusting(), place.key, NONCE);
    assert_eq!((verdict.outcome, verdict.reason()), (Outcome::Refused, Some(Reason::DebugEnabled)));
}

#[tokio::test]
async fn a_list_of_revoked_certificates_counts_if_it_is_the_makers_and_current() {
    let place = Place::new(Chip::default()).await;
    let judged = |list: Vec<u8>| {
        let mut terms = place.trusting();
        terms.use_revocations(&place.file("list.crl", &list)).unwrap();
        place.judge(&terms, place.key, NONCE)
    };
    let empty = judged(crl(Product::Genoa, &[]).sign(&KEYS.ark, HOW));
    assert_eq!(empty.outcome, Outcome::Verified, "{empty:?}");
    let listed = judged(crl(Product::Genoa, &[&ASK_SERIAL]).sign(&KEYS.ark, HOW));
    assert_eq!(listed.reason(), Some(Reason::Revoked), "{listed:?}");
    let foreign = judged(crl(Product::Genoa, &[]).sign(&KEYS.forger, HOW));
    assert_eq!(foreign.reason(), Some(Reason::RevocationListInvalid), "{foreign:?}");
    let mut terms = place.trusting();
    assert!(terms.use_revocations(&place.file("list.crl", b"no list")).unwrap_err().hint_text().is_some());
}
