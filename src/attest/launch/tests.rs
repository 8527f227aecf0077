//! Known digests, bounds, and firmware that means harm.

use super::gctx::{Digest, PAGE, sha384};
use super::ovmf::{Guid, MAX_FIRMWARE, MAX_PAGES, guid};
use super::{Cpu, Error, Firmware, Kernel, Launch, MAX_VCPUS, SNP_ACTIVE, Shape, Vmm, vmsa};
use proptest::prelude::*;
use serde_json::Value;

const RESET_VECTOR: Guid = guid(0x00f771de, 0x1a7e, 0x4fcb, 0x890e_68c77e2fb44e);
const SEV_METADATA: Guid = guid(0xdc886566, 0x984a, 0x4798, 0xa75e_5585a7bf67cc);
const HASHES_TABLE: Guid = guid(0x7255371f, 0x3a3b, 0x4b04, 0x927b_1da6efa8d454);
const FOOTER: Guid = guid(0x96b582de, 0x1fb2, 0x45f7, 0xbaea_a366c55a082d);

/// Made and checked by tests/predict/compare.py, which holds what each part is for.
fn vectors() -> Value {
    serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/launch.json"))).unwrap()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn vector_firmware(vectors: &Value, name: &str) -> Vec<u8> {
    let described = &vectors["firmware"][name];
    let mut bytes = vec![0; described["size"].as_u64().unwrap() as usize];
    for part in described["parts"].as_array().unwrap() {
        let (at, part) = (part[0].as_u64().unwrap() as usize, unhex(&part[1]));
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    bytes
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A firmware of one page with metadata at its start and a table of these entries at its end.
fn firmware(sections: &[[u32; 3]], entries: &[(Guid, &[u32])]) -> Vec<u8> {
    let mut bytes =
        [b"ASEV".to_vec(), words(&[16 + 12 * sections.len() as u32, 1, sections.len() as u32]), words(sections.as_flattened())].concat();
    let mut table = Vec::new();
    for (guid, data) in entries {
        table.extend([words(data), (18 + 4 * data.len() as u16).to_le_bytes().to_vec(), guid.to_vec()].concat());
    }
    table.extend([(18 + table.len() as u16).to_le_bytes().to_vec(), FOOTER.to_vec()].concat());
    bytes.resize(PAGE - 32 - table.len(), 0);
    bytes.extend(table);
    bytes.resize(PAGE, 0);
    bytes
}

fn simple(sections: &[[u32; 3]]) -> Vec<u8> {
    firmware(sections, &[(SEV_METADATA, &[PAGE as u32]), (RESET_VECTOR, &[0x80_b004])])
}

pub(crate) fn without_hashes() -> Vec<u8> {
    firmware(&[], &[(SEV_METADATA, &[PAGE as u32])])
}

pub(crate) fn with_hashes(address: u32, size: u32) -> Vec<u8> {
    firmware(&[[0x81_0000, 0x1000, 0x10]], &[(HASHES_TABLE, &[address, size]), (SEV_METADATA, &[PAGE as u32])])
}

fn shape(vmm: Vmm) -> Shape {
    Shape { vmm, cpu: "EPYC-Milan".parse().ok(), guest_features: SNP_ACTIVE }
}

fn launch(bytes: &[u8], kernel: Option<&Kernel>) -> Result<Launch, Error> {
    let firmware = Firmware::parse(bytes)?;
    Launch::new(&firmware, firmware.digest(), &shape(Vmm::Qemu), kernel)
}

fn refusal(bytes: &[u8]) -> Error {
    Firmware::parse(bytes).unwrap_err()
}

#[test]
fn gives_the_known_digests() {
    let vectors = vectors();
    for case in vectors["cases"].as_array().unwrap() {
        let text = |key: &str| case[key].as_str().unwrap();
        let bytes = vector_firmware(&vectors, text("firmware"));
        let firmware = Firmware::parse(&bytes).unwrap();
        assert_eq!(firmware.digest()[..], unhex(&vectors["firmware"][text("firmware")]["digest"]));
        let cpu: Cpu = text("cpu").parse().unwrap();
        let shape = Shape { vmm: text("vmm").parse().unwrap(), cpu: Some(cpu), guest_features: case["features"].as_u64().unwrap() };
        let kernel = &vectors["kernels"][text("kernel")];
        let part = |key: &str| kernel[key].as_str();
        let kernel =
            part("kernel").map(|kernel| Kernel::new(kernel.as_bytes(), part("initrd").unwrap().as_bytes(), part("cmdline").unwrap()));
        let launch = Launch::new(&firmware, firmware.digest(), &shape, kernel.as_ref()).unwrap();
        for (vcpus, digest) in case["digests"].as_object().unwrap() {
            assert_eq!(launch.digest(vcpus.parse().unwrap()).unwrap()[..], unhex(digest), "{case}");
        }
    }
}

/// SHA-384 of `vmsaBytes` in google/gce-tcb-verifier, sev/sev_test.go: the page of the first virtual CPU.
#[test]
fn gce_starts_with_the_page_that_google_publishes() {
    let page = sha384(&vmsa::page(&shape(Vmm::Gce), vmsa::RESET).unwrap());
    assert_eq!(page[..8], [0xf9, 0xe0, 0x31, 0x77, 0xda, 0xd7, 0xf4, 0x81]);
    assert_eq!(page[40..], [0x18, 0xff, 0xb2, 0xec, 0x28, 0x1e, 0x7f, 0xd2]);
}

#[test]
fn one_pass_gives_every_number_of_cpus() {
    let launch = launch(&simple(&[[0x1000, 0x1000, 1]]), None).unwrap();
    let all: Vec<Digest> = launch.digests().collect();
    assert_eq!(all.len(), MAX_VCPUS as usize);
    for vcpus in [1, 2, 3, MAX_VCPUS] {
        assert_eq!(launch.digest(vcpus), Ok(all[vcpus as usize - 1]));
    }
    for vcpus in [0, MAX_VCPUS + 1, u32::MAX] {
        assert_eq!(launch.digest(vcpus), Err(Error::Vcpus(vcpus)));
    }
}

#[test]
fn a_digest_from_elsewhere_replaces_the_firmware() {
    let (ours, other) = (simple(&[[0x1000, 0x1000, 1]]), [vec![7; PAGE], simple(&[[0x1000, 0x1000, 1]])].concat());
    let (ours, other) = (Firmware::parse(&ours).unwrap(), Firmware::parse(&other).unwrap());
    assert_ne!(ours.digest(), other.digest());
    let digest = |firmware| Launch::new(firmware, other.digest(), &shape(Vmm::Ec2), None).unwrap().digest(3);
    assert_eq!(digest(&ours), digest(&other));
}

#[test]
fn only_qemu_shows_the_cpu() {
    let bytes = simple(&[[0x1000, 0x1000, 1]]);
    let firmware = Firmware::parse(&bytes).unwrap();
    for vmm in Vmm::ALL {
        let digest = |cpu| Launch::new(&firmware, [0; 48], &Shape { cpu, ..shape(vmm) }, None)?.digest(1);
        let (milan, genoa) = (digest("EPYC-Milan".parse().ok()), digest("EPYC-Genoa".parse().ok()));
        assert_eq!(milan == genoa, vmm != Vmm::Qemu);
        assert_eq!(digest(None), if vmm == Vmm::Qemu { Err(Error::NoCpu) } else { milan });
        assert_eq!(vmm.to_string().to_uppercase().parse(), Ok(vmm));
    }
    assert_eq!("xen".parse::<Vmm>(), Err(Error::UnknownVmm("xen".into())));
}

#[test]
fn further_cpus_need_a_reset_vector() {
    for entries in [&[(SEV_METADATA, &[PAGE as u32][..])][..], &[(SEV_METADATA, &[PAGE as u32]), (RESET_VECTOR, &[0])]] {
        let launch = launch(&firmware(&[], entries), None).unwrap();
        assert!(launch.digest(1).is_ok());
        assert_eq!(launch.digest(2), Err(Error::NoResetVector));
    }
}

#[test]
fn the_size_of_a_firmware_is_bounded() {
    let most = [vec![0; MAX_FIRMWARE - PAGE], simple(&[])].concat();
    assert!(Firmware::parse(&most).is_ok());
    assert_eq!(refusal(&[vec![0; PAGE], most].concat()), Error::TooLarge(MAX_FIRMWARE + PAGE));
    for length in [0, 1, PAGE - 1] {
        assert_eq!(refusal(&vec![0; length]), Error::NotPages(length));
    }
    assert_eq!(refusal(&[0; PAGE]), Error::NoTable);
}

#[test]
fn the_table_is_read_within_its_bounds() {
    let good = simple(&[]);
    let footer = PAGE - 32 - 18;
    for (at, size) in [(footer, 17), (footer, footer as u16 + 19), (footer - 18, 17), (footer - 18, 45), (footer - 18, u16::MAX)] {
        let mut bad = good.clone();
        bad[at..at + 2].copy_from_slice(&size.to_le_bytes());
        assert_eq!(refusal(&bad), Error::BadTable(size));
    }
    for entries in [&[][..], &[(RESET_VECTOR, &[1][..])], &[(SEV_METADATA, &[])]] {
        assert_eq!(refusal(&firmware(&[], entries)), Error::NoMetadata);
    }
    // Of two entries with one GUID the later counts.
    let twice = firmware(&[], &[(SEV_METADATA, &[1]), (SEV_METADATA, &[PAGE as u32])]);
    assert!(Firmware::parse(&twice).is_ok());
}

#[test]
fn metadata_is_read_within_its_bounds() {
    let bad = |field, value| Error::BadMetadata { field, value };
    for offset in [0, 15, PAGE as u32 + 1, u32::MAX] {
        assert_eq!(refusal(&firmware(&[], &[(SEV_METADATA, &[offset])])), bad("its distance from the end", offset));
    }
    let changed = |at: usize, value: u32| {
        let mut bytes = simple(&[[0x1000, 0x1000, 1]]);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    assert_eq!(refusal(&changed(0, 1)), bad("its signature", 1));
    for size in [15, PAGE as u32 + 1, u32::MAX] {
        assert_eq!(refusal(&changed(4, size)), bad("its size", size));
    }
    assert_eq!(refusal(&changed(8, 2)), Error::UnknownVersion(2));
    for count in [2, u32::MAX] {
        assert_eq!(refusal(&changed(12, count)), bad("its number of sections", count));
    }
    for kind in [0, 5, 0x11, u32::MAX] {
        assert_eq!(refusal(&changed(24, kind)), Error::UnknownSection(kind));
    }
}

#[test]
fn sections_are_whole_pages() {
    for [address, size, kind] in
        [[0x1000, 0, 1], [0x1000, 0xfff, 1], [0x1001, 0x1000, 1], [0, 0x2000, 2], [0, 0x2000, 3], [0, 0x2000, 0x10], [0, 1, 4]]
    {
        assert_eq!(refusal(&simple(&[[address, size, kind]])), Error::BadSection { address, size });
    }
    let most = (MAX_PAGES - 1) as u32 * PAGE as u32;
    let (page, two) = ([0xffff_f000, 0x1000, 1], [0xffff_f000, 0x2000, 1]);
    assert!(launch(&simple(&[[0, most, 1], page]), None).is_ok());
    assert_eq!(refusal(&simple(&[[0, most, 1], two])), Error::TooManyPages);
    assert_eq!(refusal(&simple(&[[0, most, 1], page, page])), Error::TooManyPages);
}

#[test]
fn kernel_hashes_need_room_in_a_measured_page() {
    let kernel = Kernel::new(b"kernel", b"", "quiet");
    let digest = |kernel: Option<&Kernel>| launch(&with_hashes(0x81_0c00, 0x400), kernel).unwrap().digest(1).unwrap();
    assert_ne!(digest(Some(&kernel)), digest(Some(&Kernel::new(b"kernel", b"", ""))));
    assert_ne!(digest(Some(&Kernel::new(b"", b"", ""))), digest(None));
    assert!(launch(&with_hashes(0x81_0f50, 176), Some(&kernel)).is_ok());
    for (address, size) in [(0x81_0f51, 176), (0x81_0f50, 175), (u32::MAX, u32::MAX)] {
        let found = launch(&with_hashes(address, size), Some(&kernel));
        assert_eq!(found.unwrap_err(), Error::BadKernelHashes { address, size });
    }
    let no_table = firmware(&[[0x81_0000, 0x1000, 0x10]], &[(SEV_METADATA, &[PAGE as u32])]);
    let no_page = firmware(&[], &[(HASHES_TABLE, &[0x81_0c00, 0x400]), (SEV_METADATA, &[PAGE as u32])]);
    for bytes in [no_table, no_page, with_hashes(0, 0)] {
        assert_eq!(launch(&bytes, Some(&kernel)).unwrap_err(), Error::NoKernelHashes);
        assert!(launch(&bytes, None).is_ok());
    }
}

#[test]
fn errors_name_the_value() {
    for (error, part) in [
        (Error::UnknownVmm("xen".into()), "`xen`"),
        (Error::UnknownVmm("xen".into()), "qemu, ec2, gce"),
        (Error::Vcpus(513), "513 virtual CPUs are not possible: 1 to 512"),
        (Error::TooLarge(70_000_000), "70000000 bytes, more than the 64 MiB"),
        (Error::BadMetadata { field: "its size", value: 9 }, "its size is 0x9"),
        (Error::BadSection { address: 0x1000, size: 0x10 }, "0x10 bytes at 0x1000"),
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Works out everything that there is to work out.
fn exercise(bytes: &[u8]) {
    if let Ok(firmware) = Firmware::parse(bytes) {
        let digest = firmware.digest();
        for vmm in Vmm::ALL {
            for kernel in [None, Some(&Kernel::new(b"kernel", b"", "quiet"))] {
                if let Ok(launch) = Launch::new(&firmware, digest, &shape(vmm), kernel) {
                    let _ = launch.digest(2);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_a_digest_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100), pages in 0_usize..3) {
        exercise(&bytes);
        exercise(&[vec![0; PAGE * pages], bytes].concat());
    }

    /// Random bytes never have the right GUIDs, so real firmware is damaged instead: in its table and metadata, and in length.
    #[test]
    fn damaged_firmware_ends_in_a_digest_or_an_error(
        name in prop::sample::select(vec!["plain", "hashes", "edge", "google"]),
        damage in proptest::collection::vec((0_usize..400, any::<u8>()), 1..4),
        cut in 0_usize..3,
    ) {
        let mut bytes = vector_firmware(&vectors(), name);
        // The bytes that are not zero are what can be read.
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for (place, value) in damage {
            bytes[used[place % used.len()]] = value;
        }
        exercise(&bytes);
        exercise(&bytes[..bytes.len() - cut]);
        exercise(&bytes[(cut * PAGE).min(bytes.len())..]);
    }
}
