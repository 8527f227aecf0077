//! Everything above one call of the kernel, against a chip made of software.

use super::double::Chip;
use super::*;
use crate::attest::snp::{Certificates, Endorsement, Report};

const DATA: [u8; 64] = [0xd7; 64];

fn reported(chip: Chip) -> (Result<SnpEvidence>, u32) {
    let mut guest = SevGuest(chip);
    let report = guest.report(&DATA);
    (report, guest.0.asked)
}

/// A table of the good certificates and an entry of the host's own, so that it takes this much.
fn table_of(bytes: usize) -> Vec<u8> {
    use crate::attest::snp::Product;
    use crate::attest::snp::synthetic::{issuer_der, leaf_der, table};
    let (ask, vcek) = (issuer_der(Product::Genoa, Endorsement::Vcek), leaf_der(Product::Genoa, Endorsement::Vcek));
    let rest = bytes - 4 * 24 - ask.len() - vcek.len();
    let guids = ["4ab7b379-bbac-4fe4-a02f-05aef327c782", "63da758d-e664-4564-adc5-f4b93be8accd", "11111111-2222-3333-4444-555555555555"];
    table(&[(guids[0], &ask), (guids[1], &vcek), (guids[2], &vec![7; rest])])
}

#[test]
fn a_report_holds_what_was_asked_and_brings_the_hosts_certificates() {
    let chip = Chip::default();
    let (evidence, asked) = reported(chip.clone());
    let evidence = evidence.unwrap();
    let report = Report::parse(&evidence.report).unwrap();
    assert_eq!((report.report_data, report.measurement, report.vmpl), (DATA, [0x3c; 48], 0));
    // To the byte, without what fills up the page.
    assert!(evidence.certificates == chip.table);
    assert_eq!(Certificates::from_table(&evidence.certificates).unwrap().leaves().collect::<Vec<_>>(), [Endorsement::Vcek]);
    assert_eq!(asked, 1);
}

#[test]
fn more_certificates_than_room_are_asked_for_anew_and_at_most_as_many_as_evidence_holds() {
    for (bytes, calls) in [(8192, 1), (8193, 2), (12288, 2)] {
        let (evidence, asked) = reported(Chip { table: table_of(bytes), ..Chip::default() });
        assert_eq!((evidence.unwrap().certificates.len(), asked), (bytes, calls));
    }
    // Too many: the report comes without.
    let (evidence, asked) = reported(Chip { table: table_of(12289), ..Chip::default() });
    assert_eq!((evidence.unwrap().certificates.len(), asked), (0, 2));
}

#[test]
fn a_host_without_certificates_gives_none() {
    for chip in [Chip { table: Vec::new(), ..Chip::default() }, Chip { plain: true, ..Chip::default() }] {
        let evidence = reported(chip).0.unwrap();
        assert_eq!(Report::parse(&evidence.report).unwrap().report_data, DATA);
        assert!(evidence.certificates.is_empty());
    }
}

#[test]
fn a_busy_host_is_asked_again_a_bounded_number_of_times() {
    let (evidence, asked) = reported(Chip { busy: ATTEMPTS - 1, ..Chip::default() });
    assert!(evidence.is_ok());
    assert_eq!(asked, ATTEMPTS);
    let (evidence, asked) = reported(Chip { busy: u32::MAX, ..Chip::default() });
    let error = evidence.unwrap_err();
    assert_eq!(
        (error.causes(), error.hint_text(), asked),
        (&["the host is busy with other requests".to_owned()][..], Some("try again in a moment"), ATTEMPTS)
    );
}

#[test]
fn what_the_firmware_refuses_or_cuts_off_is_an_error_in_words() {
    let error = reported(Chip { status: 0x16, ..Chip::default() }).0.unwrap_err();
    assert_eq!(error.causes(), ["a parameter is not allowed (firmware status 0x16)"]);
    let error = reported(Chip { cut_to: 1183, ..Chip::default() }).0.unwrap_err();
    assert_eq!(error.causes(), ["it gave a report of 1183 bytes, wanted 1184"]);
    let error = SevGuest(Chip { status: 0x27, ..Chip::default() }).derived_key().unwrap_err();
    assert_eq!(error.causes(), ["the key that was asked for is not there (firmware status 0x27)"]);
}

#[test]
fn refusals_of_the_kernel_are_told_apart() {
    let cause = |errno: Errno, exit| Refusal { errno: errno.raw_os_error(), exit }.error().causes()[0].clone();
    assert_eq!(cause(Errno::NOTTY, 0), "the kernel has given up its key to the firmware");
    assert_eq!(cause(Errno::IO, 0x16), "a parameter is not allowed (firmware status 0x16)");
    assert_eq!(cause(Errno::IO, 3 << 32), "the hypervisor refuses with 0x3");
    assert!(cause(Errno::FAULT, 0).contains("Bad address"));
}

#[test]
fn a_derived_key_is_that_of_the_chip_and_of_what_was_launched_on_it() {
    let key = |chip: Chip| *SevGuest(chip).derived_key().unwrap();
    let first = key(Chip::default());
    assert_eq!(first, key(Chip { busy: 2, ..Chip::default() }), "after a restart");
    assert_ne!(first, key(Chip { secret: [2; 32], ..Chip::default() }), "another chip");
    assert_ne!(first, key(Chip { measurement: [0x3d; 48], ..Chip::default() }), "another launch");
    assert_ne!(first, key(Chip { debug: true, ..Chip::default() }), "another policy");
}
