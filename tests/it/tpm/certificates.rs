//! Endorsement certificates as a maker of TPMs writes them, here `swtpm_setup` with a certificate authority of its own.

use super::common::Swtpm;
use portdistrict::attest::Reason;
use portdistrict::attest::tpm::credential::ek_matches_certificate;
use portdistrict::attest::tpm::device::EkKind;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A TPM that was set up with certificates for both of its endorsement keys.
pub(crate) fn manufactured(authority: &Path) -> Swtpm {
    let state = TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = authority.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let dir = authority.display();
    let local_ca =
        file("localca.conf", format!("statedir={dir}\nsigningkey={dir}/key.pem\nissuercert={dir}/issuer.pem\ncertserial={dir}/serial\n"));
    let options = file("options", "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n".into());
    let tool = "create_certs_tool=/usr/bin/swtpm_localca";
    let setup = format!("{tool}\ncreate_certs_tool_config={local_ca}\ncreate_certs_tool_options={options}\nactive_pcr_banks=sha256\n");
    let output = Command::new("swtpm_setup")
        .args(["--tpm2", "--create-ek-cert", "--runas", "root", "--config", &file("setup.conf", setup), "--tpmstate"])
        .arg(state.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Swtpm::start_in(state)
}

/// The size of the header and of the content of the value at the front.
fn sizes(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ 0..=0x7f => (2, short.into()),
        0x81 => (3, der[2].into()),
        _ => (4, u16::from_be_bytes([der[2], der[3]]).into()),
    }
}

fn content(der: &[u8]) -> &[u8] {
    let (header, size) = sizes(der);
    &der[header..header + size]
}

/// The SubjectPublicKeyInfo of a certificate (RFC 5280, 4.1): the seventh value of its inner part.
fn spki(certificate: &[u8]) -> &[u8] {
    let mut rest = content(content(certificate));
    for _ in 0..6 {
        let (header, size) = sizes(rest);
        rest = &rest[header + size..];
    }
    let (header, size) = sizes(rest);
    &rest[..header + size]
}

#[test]
fn the_certificate_in_the_tpm_is_for_its_endorsement_key() {
    let authority = TempDir::new().unwrap();
    let (tpm, other) = (manufactured(authority.path()), Swtpm::start());
    let device = tpm.device();
    for kind in [EkKind::Rsa2048, EkKind::EccP256] {
        // swtpm 0.7 makes its ECC endorsement key on P-384, for which it has another certificate.
        let Some(certificate) = device.read_ek_certificate(kind).unwrap() else {
            assert_eq!(kind, EkKind::EccP256);
            continue;
        };
        assert_eq!(certificate.len(), sizes(&certificate).0 + sizes(&certificate).1);
        let ek = device.create_ek_of(kind).unwrap();
        ek_matches_certificate(ek.public(), spki(&certificate)).unwrap();
        let foreign = other.device();
        let foreign = foreign.create_ek_of(kind).unwrap();
        let fault = ek_matches_certificate(foreign.public(), spki(&certificate)).unwrap_err();
        assert_eq!(fault.reason, Reason::CertificateMismatch);
    }
}
