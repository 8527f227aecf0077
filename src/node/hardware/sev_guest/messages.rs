//! What the kernel and the processor's firmware say to each other through `/dev/sev-guest`: fixed structures, little-endian.
//!
//! Sources: Linux, include/uapi/linux/sev-guest.h, for requests; AMD 56860, MSG_REPORT_RSP and MSG_KEY_RSP, for answers.

use crate::attest::snp::REPORT_BYTES;
use crate::error::{Code, Error, Result};
use zeroize::Zeroizing;

/// `struct snp_report_req`: 64 bytes of user data, VMPL, 28 bytes of zeros.
const REPORT_REQUEST: usize = 96;
/// `struct snp_ext_report_req`: the same, an address, a length, 4 bytes that fill up.
const EXTENDED_REQUEST: usize = 112;
/// `struct snp_derived_key_req`.
const KEY_REQUEST: usize = 32;
/// `struct snp_report_resp`.
const REPORT_RESPONSE: usize = 4000;
/// `struct snp_derived_key_resp`.
const KEY_RESPONSE: usize = 64;
/// In front of what an answer brings: status, size, and bytes that mean nothing.
const HEAD: usize = 32;
/// An entry of the certificate table: GUID, offset, length.
const ENTRY: usize = 24;
/// What goes into a derived key beside the chip: GUEST_POLICY, IMAGE_ID, FAMILY_ID and MEASUREMENT of the guest that asks.
///
/// GUEST_SVN and TCB_VERSION do not. The root, the VCEK, is already that of the firmware's version, so that older firmware cannot
/// work it out; and a guest that wants the same key after each start has nowhere to keep a version of its own.
pub(super) const KEY_FIELDS: u64 = 0b1111;

/// A request of the kernel, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Command {
    /// `SNP_GET_REPORT`.
    Report = 0,
    /// `SNP_GET_DERIVED_KEY`.
    DerivedKey = 1,
    /// `SNP_GET_EXT_REPORT`: with the host's certificates.
    ExtendedReport = 2,
}

impl Command {
    /// The size of its request.
    pub(super) fn request_bytes(self) -> usize {
        match self {
            Command::Report => REPORT_REQUEST,
            Command::DerivedKey => KEY_REQUEST,
            Command::ExtendedReport => EXTENDED_REQUEST,
        }
    }

    /// The size of its answer.
    pub(super) fn response_bytes(self) -> usize {
        match self {
            Command::Report | Command::ExtendedReport => REPORT_RESPONSE,
            Command::DerivedKey => KEY_RESPONSE,
        }
    }
}

/// A request for a report of the most privileged level that holds this.
pub(super) fn report_request(data: &[u8; 64]) -> [u8; REPORT_REQUEST] {
    let mut request = [0; REPORT_REQUEST];
    request[..64].copy_from_slice(data);
    request
}

/// The same with certificates, for which there are `space` bytes. The address is filled in where the kernel is called.
pub(super) fn extended_request(data: &[u8; 64], space: usize) -> [u8; EXTENDED_REQUEST] {
    let mut request = [0; EXTENDED_REQUEST];
    request[..REPORT_REQUEST].copy_from_slice(&report_request(data));
    request[104..108].copy_from_slice(&u32::try_from(space).unwrap_or(u32::MAX).to_le_bytes());
    request
}

/// How much space for certificates a request for an extended report says that there is, or has been told to be needed.
pub(super) fn certificates_length(request: &[u8]) -> Option<usize> {
    let bytes = request.get(104..108)?.first_chunk()?;
    Some(usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX))
}

/// A request for the key that this chip (root: VCEK) derives for guests like this one at the most privileged level.
pub(super) fn key_request() -> [u8; KEY_REQUEST] {
    let mut request = [0; KEY_REQUEST];
    request[8..16].copy_from_slice(&KEY_FIELDS.to_le_bytes());
    request
}

/// The report in an answer.
pub(super) fn report(response: &[u8]) -> Result<[u8; REPORT_BYTES]> {
    check_status(response)?;
    let size = word(response, 4);
    if size.map(u64::from) != Some(REPORT_BYTES as u64) {
        return Err(unreadable(&format!("a report of {} bytes, wanted {REPORT_BYTES}", size.unwrap_or_default())));
    }
    let report = response.get(HEAD..).and_then(<[u8]>::first_chunk);
    report.copied().ok_or_else(|| unreadable(&format!("{} bytes, which are too few for a report", response.len())))
}

/// The derived key in an answer.
pub(super) fn key(response: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    check_status(response)?;
    let key: Option<&[u8; 32]> = response.get(HEAD..).and_then(|rest| rest.try_into().ok());
    let key = key.filter(|key| **key != [0; 32]).ok_or_else(|| unreadable("no key"))?;
    Ok(Zeroizing::new(*key))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The status in front of every answer (56860, MSG_REPORT_RSP and MSG_KEY_RSP).
fn check_status(response: &[u8]) -> Result<()> {
    match word(response, 0) {
        Some(0) => Ok(()),
        Some(status) => Err(Error::new(Code::Failed, "the processor's firmware refused a request of this machine")
            .because(words(status))
            .hint("update the firmware of the host's processor, or ask its owner to")),
        None => Err(unreadable("nothing")),
    }
}

fn unreadable(what: &str) -> Error {
    Error::new(Code::Protocol, "the processor's firmware answers in a way this version does not understand")
        .because(format!("it gave {what}"))
        .hint("restart the machine; if it stays, use another kernel")
}

/// What the firmware says by a number (56860, status codes).
pub(super) fn words(status: u32) -> String {
    let words = match status {
        0x02 => "the guest is in the wrong state",
        0x03 => "the firmware's settings do not allow it",
        0x10 => "the guest is not known",
        0x11 => "the request is not known",
        0x15 => "the request is not supported",
        0x16 => "a parameter is not allowed",
        0x17 => "too little room",
        0x1d => "the counter of messages has run out",
        0x22 => "the version of the message is not known",
        0x27 => "the key that was asked for is not there",
        _ => return format!("firmware status 0x{status:x}"),
    };
    format!("{words} (firmware status 0x{status:x})")
}

/// How many bytes of a buffer the host's certificate table takes: to the end of the entry that lies last.
///
/// Without an end within the buffer, or with entries beyond it, there is none: 0. What is in it is judged by the verifier.
pub(super) fn table_length(buffer: &[u8]) -> usize {
    let (entries, _) = buffer.as_chunks::<ENTRY>();
    let Some(count) = entries.iter().position(|entry| *entry == [0; ENTRY]).filter(|count| *count > 0) else { return 0 };
    let ends = entries.iter().take(count).map(|[_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, o0, o1, o2, o3, l0, l1, l2, l3]| {
        let (offset, length) = (u32::from_le_bytes([*o0, *o1, *o2, *o3]), u32::from_le_bytes([*l0, *l1, *l2, *l3]));
        // Of 32 bits each: the sum has room in 64.
        u64::from(offset) + u64::from(length)
    });
    let end = ends.chain([((count + 1) * ENTRY) as u64]).max().unwrap_or(0);
    usize::try_from(end).ok().filter(|end| *end <= buffer.len()).unwrap_or(0)
}

/// Reads bytes as every answer there is.
pub(in crate::node) fn read_any(bytes: &[u8]) {
    if let Ok(report) = report(bytes) {
        assert_eq!(bytes.get(HEAD..HEAD + REPORT_BYTES), Some(&report[..]));
    }
    if let Ok(key) = key(bytes) {
        assert_eq!(bytes.len(), KEY_RESPONSE);
        assert_ne!(*key, [0; 32]);
    }
    assert!(table_length(bytes) <= bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_layout() {
        let data: [u8; 64] = std::array::from_fn(|n| n as u8 + 1);
        let plain = report_request(&data);
        assert_eq!((&plain[..64], &plain[64..]), (&data[..], &[0; 32][..]), "VMPL 0");
        let extended = extended_request(&data, 0x4000);
        assert_eq!(&extended[..96], plain);
        assert_eq!(extended[96..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0]);
        assert_eq!(certificates_length(&extended), Some(0x4000));
        assert_eq!(certificates_length(&plain), None);
        let key = key_request();
        assert_eq!((&key[..8], key[8], &key[9..]), (&[0; 8][..], 0b1111, &[0; 23][..]), "VCEK; four fields; VMPL 0");
    }

    #[test]
    fn answers_are_read_with_bounds() {
        let good = [&[0, 0, 0, 0, 0xa0, 4, 0, 0][..], &[0; 24], &[7; REPORT_BYTES], &[0; 2784]].concat();
        assert_eq!((good.len(), report(&good).unwrap()), (REPORT_RESPONSE, [7; REPORT_BYTES]));
        for length in 0..HEAD + REPORT_BYTES {
            assert!(report(&good[..length]).is_err(), "{length}");
        }
        for size in [0u32, 1183, 1185, u32::MAX] {
            let mut bad = good.clone();
            bad[4..8].copy_from_slice(&size.to_le_bytes());
            assert!(report(&bad).unwrap_err().causes()[0].contains("wanted 1184"), "{size}");
        }
        let good = [&[0; HEAD][..], &[9; 32]].concat();
        assert_eq!((good.len(), *key(&good).unwrap()), (KEY_RESPONSE, [9; 32]));
        for bad in [&good[..63], &[&good[..], &[0]].concat(), &[0; 64]] {
            assert!(key(bad).is_err());
        }
    }

    #[test]
    fn the_firmwares_refusals_have_words() {
        let refused = |status: u32| {
            let response = [&status.to_le_bytes()[..], &[0; 3996]].concat();
            let error = report(&response).unwrap_err();
            assert!(error.hint_text().is_some());
            error.causes()[0].clone()
        };
        assert_eq!(refused(0x27), "the key that was asked for is not there (firmware status 0x27)");
        assert_eq!(refused(0x16), "a parameter is not allowed (firmware status 0x16)");
        assert_eq!(refused(0xdead), "firmware status 0xdead");
    }

    #[test]
    fn a_table_ends_where_its_last_entry_ends() {
        let entry = |offset: u32, length: u32| [&[1; 16][..], &offset.to_le_bytes(), &length.to_le_bytes()].concat();
        let table = |entries: &[Vec<u8>], size: usize| {
            let mut table = entries.concat();
            table.resize(size, 0);
            table
        };
        assert_eq!(table_length(&table(&[entry(72, 10), entry(90, 5)], 4096)), 95);
        assert_eq!(table_length(&table(&[entry(90, 5), entry(72, 10)], 4096)), 95);
        assert_eq!(table_length(&table(&[], 4096)), 0, "a host without certificates");
        assert_eq!(table_length(&table(&[entry(72, 4025)], 4096)), 0, "beyond the buffer");
        assert_eq!(table_length(&table(&[entry(u32::MAX, u32::MAX)], 4096)), 0);
        assert_eq!(table_length(&[1; 4096]), 0, "no end");
        assert_eq!(table_length(&[]), 0);
    }
}
