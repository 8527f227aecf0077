//! What the fuzz targets in `fuzz/` run, one function each: decode, encode again, compare.
//!
//! They stand here so that unit tests run the same bodies on thousands of mutated seeds without `cargo-fuzz`. A failed
//! assertion is the finding.

use crate::attest::evidence::Evidence;
use crate::attest::launch::{Firmware, Launch, SNP_ACTIVE, Shape, Vmm};
use crate::attest::snp::{Certificates, Report};
use crate::attest::tpm::public::Public;
use crate::attest::tpm::quote::{Quote, verify};
use crate::attest::x509::{Certificate, Crl, chain};
use crate::attest::{Policy, eventlog};
use crate::config::{Destination, Pattern};
use crate::encoding::cbor::Map;
use crate::encoding::json;
use crate::google::compute::{Identity, Thing};
use crate::google::operations::Operation;
use crate::google::refusal::Refusal;
use crate::image::{self, Deb, Manifest};
use crate::ledger::{Span, check_line};
use crate::owner::metadata::Metadata;
use crate::session::messages::{
    Activated, Challenge, Claim, ClaimReply, ControlRequest, EvidenceReply, EvidenceRequest, ExitRequest, GrantStatus, HistoryReply,
    HolderRequest, LogsReply, Message, Offer, PolicyReply, Renewed, Revoked, Status, Turn,
};
use crate::token::blob::{self, Type};
use crate::token::{
    Caveat, Chain, Code, Invite, SecretIdentity, SignedAnswer, SignedGrant, SignedIdentity, SignedLease, SignedRevocation, SignedRotation,
    SignedRules, Welcome, base45,
};

/// One decoder under test.
pub struct Target {
    /// The name of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&[u8]),
}

/// Every decoder that reads what others wrote.
pub const TARGETS: &[Target] = &[
    Target { name: "attest_policy", run: attest_policy },
    Target { name: "base45", run: base45 },
    Target { name: "blob_read", run: blob_read },
    Target { name: "canonical_json", run: canonical_json },
    Target { name: "cbor_map", run: cbor_map },
    Target { name: "caveat_decode", run: caveat_decode },
    Target { name: "certificate", run: certificate },
    Target { name: "debian_package", run: debian_package },
    Target { name: "destination", run: destination },
    Target { name: "device_blobs", run: device_blobs },
    Target { name: "efi_program", run: efi_program },
    Target { name: "event_log", run: event_log },
    Target { name: "evidence_container", run: evidence_container },
    Target { name: "grant_decode", run: grant_decode },
    Target { name: "handshake_payloads", run: handshake_payloads },
    Target { name: "http_head", run: http_head },
    Target { name: "identity_blob", run: identity_blob },
    Target { name: "image_manifest", run: image_manifest },
    Target { name: "invite_blob", run: invite_blob },
    Target { name: "launch_firmware", run: launch_firmware },
    Target { name: "ledger_line", run: ledger_line },
    Target { name: "lease_decode", run: lease_decode },
    Target { name: "machine_metadata", run: machine_metadata },
    Target { name: "revocation_decode", run: revocation_decode },
    Target { name: "rules_decode", run: rules_decode },
    Target { name: "rotation_decode", run: rotation_decode },
    Target { name: "session_frames", run: session_frames },
    Target { name: "session_messages", run: session_messages },
    Target { name: "sev_guest_answers", run: sev_guest_answers },
    Target { name: "snp_report", run: snp_report },
    Target { name: "span_decode", run: span_decode },
    Target { name: "tpm_structures", run: tpm_structures },
    Target { name: "google_answers", run: google_answers },
    Target { name: "hetzner_answers", run: hetzner_answers },
];

/// No text makes a policy that says something else than it reads.
pub fn attest_policy(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Policy::parse(text);
    }
}

/// Certificates and lists of revoked ones, of whatever maker.
pub fn certificate(data: &[u8]) {
    if let Ok(certificate) = Certificate::from_der(data) {
        assert_eq!(certificate.der(), data);
        let _ = certificate.signed_by(&certificate);
        let _ = chain(&certificate, &[], std::slice::from_ref(&certificate), Some(0));
    }
    let _ = Certificate::many_from_bytes(data);
    let _ = Crl::from_der(data);
}

/// A log of firmware, and whatever it leads to.
pub fn event_log(data: &[u8]) {
    if let Ok(events) = eventlog::parse(data) {
        let registers = eventlog::replay(&events);
        events.iter().for_each(|event| drop(eventlog::content(event)));
        let _ = eventlog::secure_boot(&events);
        let _ = eventlog::booted(&events, &registers);
    }
}

/// What is accepted is the one spelling.
pub fn evidence_container(data: &[u8]) {
    if let Ok(evidence) = Evidence::decode(data) {
        assert_eq!(evidence.encode(), data);
    }
}

/// What the processor's firmware answers through the kernel.
pub fn sev_guest_answers(data: &[u8]) {
    crate::node::hardware::read_firmware_answers(data);
}

/// A report, and the certificates that come with one.
pub fn snp_report(data: &[u8]) {
    let _ = Report::parse(data);
    let _ = Certificates::from_table(data);
}

/// What a TPM makes of keys and registers.
pub fn tpm_structures(data: &[u8]) {
    if let Ok(public) = Public::parse(data) {
        assert_eq!(public.as_bytes(), data);
        let _ = verify(data, data, &public);
    }
    let _ = Quote::parse(data);
}

/// What is accepted is the one spelling.
pub fn cbor_map(data: &[u8]) {
    if let Ok(map) = Map::decode(data, 4096) {
        assert_eq!(map.encode(), data);
    }
}

/// What is accepted is the one spelling.
pub fn canonical_json(data: &[u8]) {
    if let Ok(value) = json::from_canonical::<serde_json::Value>(data, 4096) {
        assert_eq!(json::canonical(&value).ok().as_deref(), Some(data));
    }
    // The scan without a value agrees, and knows whole numbers only.
    if data.len() <= 4096 && json::is_canonical(data) {
        assert!(json::from_canonical::<serde_json::Value>(data, 4096).is_ok());
    }
}

/// A package that is read can be unpacked or is refused; nothing of it is trusted.
pub fn debian_package(data: &[u8]) {
    if let Ok(package) = Deb::parse("a package", data) {
        let _ = package.extract(|_| true);
    }
}

/// Codes, answers, welcomes and secrets, as text and as content. What is accepted is the one spelling.
pub fn device_blobs(data: &[u8]) {
    for text in as_text_and_content(Type::Code, data) {
        if let Ok(code) = Code::from_blob(&text) {
            assert!(Code::from_blob(&code.to_blob()).is_ok());
        }
    }
    for text in as_text_and_content(Type::Answer, data) {
        if let Ok(answer) = SignedAnswer::from_blob(&text) {
            assert_eq!(SignedAnswer::from_blob(&answer.to_blob()), Ok(answer));
        }
    }
    for text in as_text_and_content(Type::Secret, data) {
        if let Ok(secret) = SecretIdentity::from_blob(&text) {
            assert!(SecretIdentity::from_blob(&secret.to_blob()).is_ok());
        }
    }
    if let Ok(welcome) = Welcome::decode(data) {
        assert_eq!(*welcome.encode(), data);
    }
}

/// A stub either takes more sections or is refused; what comes out can be read again.
pub fn efi_program(data: &[u8]) {
    image::fuzz_efi(data);
}

/// A manifest that is read is written and read back as itself.
pub fn image_manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse("a manifest", data)
        && let Ok(bytes) = manifest.to_json()
    {
        assert_eq!(Manifest::parse("a manifest", &bytes).ok(), Some(manifest));
    }
}

/// Firmware has a digest or a reason why not.
pub fn launch_firmware(data: &[u8]) {
    if let Ok(firmware) = Firmware::parse(data) {
        let shape = Shape { vmm: Vmm::Gce, cpu: None, guest_features: SNP_ACTIVE };
        if let Ok(launch) = Launch::new(&firmware, firmware.digest(), &shape, None) {
            let _ = launch.digest(2);
        }
    }
}

/// Metadata that is read is written and read back as itself.
pub fn machine_metadata(data: &[u8]) {
    if let Ok(metadata) = Metadata::parse("a test", data)
        && let Ok(bytes) = metadata.to_json()
    {
        assert!(Metadata::parse("a test", &bytes).is_ok_and(|again| again == metadata));
    }
}

/// What is accepted is the one spelling.
pub fn base45(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(bytes) = base45::decode(text) {
        assert_eq!(base45::encode(&bytes), text);
    }
}

/// What is found in a text is found again in the clean line and in the QR code.
pub fn blob_read(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((typ, content)) = blob::read_one_of(&Type::ALL, text) {
        assert_eq!(blob::read(typ, &blob::encode(typ, &content)).as_ref(), Ok(&content));
        assert_eq!(blob::read(typ, &blob::encode_for_qr(typ, &content)), Ok(content));
    }
}

/// A grant that is read is written as the same bytes, and its blob as itself.
pub fn grant_decode(data: &[u8]) {
    if let Ok(signed) = SignedGrant::decode(data) {
        assert_eq!(signed.encode(), data);
        if signed.verify_signature() {
            assert_eq!(SignedGrant::from_blob(&signed.to_blob()), Ok(signed));
        }
    }
}

/// Rules that are read are written as the same bytes, and deciding by them ends.
pub fn rules_decode(data: &[u8]) {
    if let Ok(signed) = SignedRules::decode(data) {
        assert_eq!(signed.encode(), data);
        let to = Destination { name: Some("www.example.org".to_owned()), ip: None, port: 443 };
        signed.rules().allow(&[[0; 8]], &to);
    }
}

/// A grant that was passed on, or what was taken away from one, is written as the same bytes; its terms never widen.
pub fn caveat_decode(data: &[u8]) {
    if let Ok(caveat) = Caveat::decode(data) {
        assert_eq!(caveat.encode(), data);
    }
    if let Ok(chain) = Chain::decode(data) {
        assert_eq!(chain.encode(), data);
        assert_eq!(chain.ids().last(), Some(&chain.id()));
        let root = chain.root().grant();
        assert!(chain.terms().is_none_or(|terms| terms.expires <= root.expires && terms.not_before >= root.not_before));
    }
}

/// A destination that is read is shown and read back as itself.
pub fn destination(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(rule) = text.parse::<Pattern>() {
        assert!(rule.to_string().parse::<Pattern>().is_ok_and(|again| again == rule));
    }
}

/// A lease statement that is read is written as the same bytes.
pub fn lease_decode(data: &[u8]) {
    if let Ok(signed) = SignedLease::decode(data) {
        assert_eq!(signed.encode(), data);
    }
}

/// A revocation that is read is written as the same bytes.
pub fn revocation_decode(data: &[u8]) {
    if let Ok(signed) = SignedRevocation::decode(data) {
        assert_eq!(signed.encode(), data);
    }
}

/// An identity, as a pasted text or as the content under a good checksum.
pub fn identity_blob(data: &[u8]) {
    for text in as_text_and_content(Type::Identity, data) {
        if let Ok(signed) = SignedIdentity::from_blob(&text) {
            assert_eq!(SignedIdentity::from_blob(&signed.to_blob()), Ok(signed));
        }
    }
}

/// An invite, as a pasted text or as the content under a good checksum.
pub fn invite_blob(data: &[u8]) {
    for text in as_text_and_content(Type::Invite, data) {
        if let Ok(invite) = Invite::from_blob(&text) {
            // A line may be too long for a chat; the QR code has no such limit.
            let again = invite.to_qr().ok().and_then(|qr| Invite::from_blob(&qr).ok());
            assert!(again.is_some_and(|again| again == invite));
        }
    }
}

/// What either side of a handshake reads once it is decrypted.
pub fn handshake_payloads(data: &[u8]) {
    crate::session::read_handshake_payloads(data);
}

/// The head of a request to the local proxy.
pub fn http_head(data: &[u8]) {
    crate::exit::proxy::read_http_head(data);
}

/// What is accepted is the one spelling.
pub fn rotation_decode(data: &[u8]) {
    if let Ok(signed) = SignedRotation::decode(data) {
        assert_eq!(signed.encode(), data);
        let _ = signed.verify();
    }
}

/// A frame's plaintext, taken in by a session; what it counts stays in step with what it holds.
pub fn session_frames(data: &[u8]) {
    crate::session::take_in_frames(data);
}

/// What is read is written so that it reads the same. (An empty list and none at all are the same.)
pub fn session_messages(data: &[u8]) {
    fn same<T: Message>(data: &[u8]) {
        if let Ok(message) = T::decode(data) {
            let bytes = message.encode();
            assert_eq!(T::decode(&bytes).map(|again| again.encode()), Ok(bytes));
        }
    }
    same::<Challenge>(data);
    same::<Offer>(data);
    same::<Claim>(data);
    same::<ClaimReply>(data);
    same::<Turn>(data);
    same::<EvidenceRequest>(data);
    same::<Activated>(data);
    same::<ControlRequest>(data);
    same::<ExitRequest>(data);
    same::<Status>(data);
    same::<GrantStatus>(data);
    same::<EvidenceReply>(data);
    same::<LogsReply>(data);
    same::<PolicyReply>(data);
    same::<Revoked>(data);
    same::<HolderRequest>(data);
    same::<Renewed>(data);
    same::<HistoryReply>(data);
}

/// What is accepted is the one spelling.
pub fn ledger_line(data: &[u8]) {
    check_line(data);
}

/// What Hetzner Cloud answers: whatever it is, a person gets words of it that fit a terminal.
pub fn hetzner_answers(data: &[u8]) {
    let error = crate::machine::hetzner::read_any(data);
    assert!(error.causes().iter().all(|cause| !cause.chars().any(char::is_control) && cause.len() < 4096));
}

/// What Google's interfaces answer: whatever it is, a person gets words of it that fit a terminal.
pub fn google_answers(data: &[u8]) {
    let refusal = Refusal::of_answer(403, data);
    assert!(!refusal.message.chars().any(char::is_control) && refusal.message.len() < 4096);
    let _ = refusal.into_error("make it", "project").hint_text();
    if let Ok(operation) = serde_json::from_slice::<Operation>(data) {
        let _ = (operation.is_done(), operation.refusal());
    }
    if let Ok(thing) = serde_json::from_slice::<Thing>(data) {
        let _ = (thing.addresses(), thing.state(), thing.metadata.with("key", "value"));
    }
    if let Ok(identity) = serde_json::from_slice::<Identity>(data) {
        let _ = identity.keys();
    }
}

/// What is accepted is the one spelling.
pub fn span_decode(data: &[u8]) {
    if let Ok(span) = Span::decode(data) {
        assert_eq!(span.encode().ok().as_deref(), Some(data));
    }
}

fn as_text_and_content(typ: Type, data: &[u8]) -> Vec<String> {
    let content = (data.len() <= blob::MAX_CONTENT).then(|| blob::encode(typ, data));
    std::str::from_utf8(data).ok().map(str::to_owned).into_iter().chain(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::evidence::Nonce;

    const RUNS: usize = 4_000;

    /// xorshift64*: the same numbers on every machine.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
        }
    }

    /// One small accident.
    fn mutate(data: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
        let at = numbers.below(data.len());
        match numbers.below(7) {
            0 if !data.is_empty() => data[at] ^= 1 << numbers.below(8),
            1 if !data.is_empty() => data[at] = numbers.below(256) as u8,
            2 if !data.is_empty() => drop(data.remove(at)),
            3 => data.insert(at, numbers.below(256) as u8),
            4 => data.truncate(at),
            5 => data.extend_from_within(at..),
            _ => {
                let from = numbers.below(other.len());
                data.splice(at..at, other[from..].iter().copied());
            }
        }
        data.truncate(8192);
    }

    /// Good values of all kinds, from the vectors: text, content and wire forms.
    fn seeds() -> Vec<Vec<u8>> {
        let file = include_str!("../tests/vectors/tokens.json");
        let vectors: serde_json::Value = serde_json::from_str(file).unwrap();
        let mut seeds = vec![Vec::new(), br#"{"a":[1,2,{"b":null}],"c":"\u0001"}"#.to_vec(), b"%69 VD92EX0".to_vec()];
        for case in vectors["cases"].as_array().unwrap().iter().filter(|case| case["result"] == "ok") {
            let text = case["text"].as_str().unwrap();
            seeds.push(text.as_bytes().to_vec());
            seeds.extend(blob::read_one_of(&Type::ALL, text).map(|(_, content)| content));
            seeds.extend(data_encoding::HEXLOWER.decode(text.as_bytes()));
        }
        // A stream that opens, speaks, is given window and ends; a ping; a farewell.
        let frames = [
            &[0u8, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5][..],
            b"hello",
            &[0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0],
            &[0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        seeds.push(frames[..4].concat());
        seeds.push(frames.concat());
        seeds.push(Challenge { nonce: [1; 32] }.encode());
        seeds.push(ExitRequest { host: "web.example".to_owned(), port: 443 }.encode());
        seeds.push(ControlRequest::Status.encode());
        seeds.push(PolicyReply { allow: vec!["10.0.0.0/8".to_owned()] }.encode());
        seeds.push(Revoked { accepted: 2, closed: 1 }.encode());
        seeds.push(Caveat::new("bert".parse().unwrap()).encode());
        seeds.push(b"*.example.org:443".to_vec());
        let identity = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        seeds.push(crate::token::Lease { issuer: [0; 32], node: [2; 32], at: 1_800_000_000 }.sign(&identity).encode());
        use crate::session::messages::{GrantDay, HistoryDay};
        let day =
            HistoryDay { day: 20_000, refusals: vec![("busy".to_owned(), 1)], grants: vec![GrantDay::default()], ..HistoryDay::default() };
        seeds.push(HistoryReply { days: vec![day] }.encode());
        seeds.push(b"GET http://me:pw@web.example:8080/a?b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nbody".to_vec());
        seeds.push(include_bytes!("attest/eventlog/testdata/plain.bin")[..4096].to_vec());
        seeds.push(include_bytes!("attest/snp/roots/ask-milan.der").to_vec());
        seeds.push(b"version = 1\ndemand = \"image-by-tpm\"\n[snp]\nvmpl = 1\n".to_vec());
        seeds.push(
            Evidence { nonce: Nonce([1; 32]), app_digest: [2; 32], snp: None, tpm: None, seed: Some(crate::session::seed::Source::Owner) }
                .encode(),
        );
        seeds.push([&[2, 0, 0, 0][..], &[0; 1180]].concat());
        let (key, signature) = ("A".repeat(43), "A".repeat(86));
        seeds.push(format!("{{\"id\":\"{key}\",\"signature\":\"{signature}\",\"span\":{{\"v\":1}}}}").into_bytes());
        seeds.push(format!("{{\"author\":\"{key}\",\"id\":\"{key}\",\"seq\":1,\"signature\":\"{signature}\"}}").into_bytes());
        seeds.push(format!("{{\"blake3\":\"{key}\",\"count\":1}}").into_bytes());
        seeds.push([&[0, 0, 0, 0, 0xa0, 4, 0, 0][..], &[0; 24], &[7; 1184]].concat());
        seeds.push([&[0; 32][..], &[9; 32]].concat());
        seeds.push(
            br#"{"error":{"code":"locked","message":"server is locked","details":null},"action":{"id":1,"status":"running"}}"#.to_vec(),
        );
        seeds.push(br#"{"error":{"code":403,"message":"Required 'a.b' permission","errors":[{"reason":"forbidden"}]}}"#.to_vec());
        seeds
            .push(br#"{"name":"o","status":"DONE","labels":{"a":"b"},"networkInterfaces":[{"accessConfigs":[{"natIP":"::1"}]}]}"#.to_vec());
        seeds.push(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n".to_vec());
        seeds
    }

    #[test]
    fn decoders_survive_mutated_seeds() {
        let seeds = seeds();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for target in TARGETS {
            seeds.iter().for_each(|seed| (target.run)(seed));
            for _ in 0..RUNS {
                let mut data = seeds[numbers.below(seeds.len())].clone();
                for _ in 0..=numbers.below(4) {
                    let other = numbers.below(seeds.len());
                    mutate(&mut data, &seeds[other], &mut numbers);
                }
                (target.run)(&data);
            }
        }
    }

    /// The folder, its manifest and the list above name the same targets.
    #[test]
    fn every_target_has_its_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
        let manifest: toml::Table = std::fs::read_to_string(format!("{folder}/Cargo.toml")).unwrap().parse().unwrap();
        let mut bins: Vec<_> = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned()).collect();
        bins.sort();
        let mut names: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        names.sort();
        assert_eq!(bins, names);
        for name in names {
            let file = std::fs::read_to_string(format!("{folder}/fuzz_targets/{name}.rs")).unwrap();
            assert!(file.contains(&format!("fuzzing::{name}(data)")), "{name}");
        }
    }
}
