//! Reads the certificates that come with a report, from the host's table or from files. None is trusted for being there.

use super::{Endorsement, Product, malformed, mismatch};
use crate::attest::x509::{Certificate, Crl};
use crate::attest::{Fault, Reason};
use std::fmt;
use std::ops::Range;

/// The most that is read at once: five certificates of AMD take below 10 KiB.
pub const MAX_CERTIFICATES_BYTES: usize = 32 * 1024;

/// An entry of the table: a GUID, an offset and a length (56421 section 4.1.8.1).
const ENTRY_BYTES: usize = 24;

/// Entries that are considered; hosts add a few of their own to AMD's five.
const MAX_ENTRIES: usize = 16;

const GUID_ARK: u128 = 0xc0b406a4_a803_4952_9743_3fb6014cd0ae;
/// For the ASVK too: 56421 has no GUID of its own for it.
const GUID_ASK: u128 = 0x4ab7b379_bbac_4fe4_a02f_05aef327c782;
const GUID_VCEK: u128 = 0x63da758d_e664_4564_adc5_f4b93be8accd;
const GUID_VLEK: u128 = 0xa8074bc2_a25a_483e_aae6_39c045a0b8a1;
const GUID_CRL: u128 = 0x92f81bc3_5811_4d3d_97ff_d19f88dc67ea;

/// What a certificate is for, by its own contents. Anyone can make one that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// AMD's root key of a product line.
    Ark(Product),
    /// AMD's key that certifies VCEKs.
    Ask(Product),
    /// AMD's key that certifies VLEKs.
    Asvk(Product),
    /// The key that signs reports.
    Leaf(Endorsement),
}

impl Role {
    /// By the common name (57230 chapter 3) and by whether it is a certificate authority.
    pub(super) fn of(certificate: &Certificate) -> Result<Role, Fault> {
        let name = certificate.common_name().unwrap_or_default();
        let line = |prefix: &str| name.strip_prefix(prefix).and_then(Product::of_line);
        let role = if certificate.is_ca() {
            let ark = || line("ARK-").map(Role::Ark);
            let asvk = || line("SEV-VLEK-").map(Role::Asvk);
            ark().or_else(asvk).or_else(|| line("SEV-").map(Role::Ask))
        } else {
            match name.as_str() {
                "SEV-VCEK" => Some(Role::Leaf(Endorsement::Vcek)),
                "SEV-VLEK" => Some(Role::Leaf(Endorsement::Vlek)),
                _ => None,
            }
        };
        role.ok_or_else(|| mismatch(format!("{} is not one of an ARK, ASK, ASVK, VCEK or VLEK of a known product", certificate.label())))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Ark(product) => write!(f, "ARK of {product}"),
            Role::Ask(product) => write!(f, "ASK of {product}"),
            Role::Asvk(product) => write!(f, "ASVK of {product}"),
            Role::Leaf(endorsement) => write!(f, "{endorsement}"),
        }
    }
}

/// The certificates that came with a report, at most one of each role, and a revocation list. Nothing is checked yet.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    entries: Vec<(Role, Certificate)>,
    crl: Option<Crl>,
}

impl Certificates {
    /// Reads the table that the host gives with an extended report: entries, an empty entry, then what they point to.
    ///
    /// Every entry must lie within the table, behind its head and apart from the others; each kind comes once, and its
    /// contents must be of that kind. Certificates may be in DER or PEM. Entries of kinds that are not AMD's are passed over.
    pub fn from_table(table: &[u8]) -> Result<Certificates, Fault> {
        check_size(table.len())?;
        let head = Head::parse(table)?;
        let mut certificates = Certificates::default();
        for Entry { guid, bytes } in &head.entries {
            let contents = table.get(bytes.clone()).unwrap_or_default();
            certificates.add_entry(*guid, contents)?;
        }
        Ok(certificates)
    }

    /// Reads files in DER or PEM, each with one or several certificates, in any order; what they are is told by their contents.
    pub fn from_files<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> Result<Certificates, Fault> {
        let mut certificates = Certificates::default();
        let mut size = 0;
        for file in files {
            size += file.len();
            check_size(size)?;
            for certificate in Certificate::many_from_bytes(file)? {
                certificates.add_file(certificate)?;
            }
        }
        Ok(certificates)
    }

    /// The kinds of leaves there are.
    pub fn leaves(&self) -> impl Iterator<Item = Endorsement> {
        self.entries.iter().filter_map(|(role, _)| match role {
            Role::Leaf(endorsement) => Some(*endorsement),
            _ => None,
        })
    }

    /// The same without leaves of the other kind. For hosts that send both, and reports that say which key signed them.
    #[must_use]
    pub fn only(mut self, kind: Endorsement) -> Certificates {
        self.entries.retain(|(role, _)| !matches!(role, Role::Leaf(other) if *other != kind));
        self
    }

    /// The revocation list that came along.
    pub fn crl(&self) -> Option<&Crl> {
        self.crl.as_ref()
    }

    /// The leaf; there must be exactly one.
    pub(super) fn leaf(&self) -> Result<(Endorsement, &Certificate), Fault> {
        let mut leaves = self.entries.iter().filter_map(|(role, certificate)| match role {
            Role::Leaf(endorsement) => Some((*endorsement, certificate)),
            _ => None,
        });
        match (leaves.next(), leaves.next()) {
            (Some(leaf), None) => Ok(leaf),
            (None, _) => Err(Fault::new(Reason::CertificateMissing, "there is no VCEK or VLEK certificate, wanted one")),
            (Some(_), Some(_)) => Err(mismatch("there are both a VCEK and a VLEK certificate, wanted one")),
        }
    }

    /// The certificate with this role.
    pub(super) fn with_role(&self, wanted: Role) -> Option<&Certificate> {
        self.entries.iter().find(|(role, _)| *role == wanted).map(|(_, certificate)| certificate)
    }

    fn add_entry(&mut self, guid: u128, contents: &[u8]) -> Result<(), Fault> {
        match guid {
            GUID_ARK => self.add_certificate(contents, "an ARK", |role| matches!(role, Role::Ark(_))),
            GUID_ASK => self.add_certificate(contents, "an ASK or ASVK", |role| matches!(role, Role::Ask(_) | Role::Asvk(_))),
            GUID_VCEK => self.add_certificate(contents, "a VCEK", |role| role == Role::Leaf(Endorsement::Vcek)),
            GUID_VLEK => self.add_certificate(contents, "a VLEK", |role| role == Role::Leaf(Endorsement::Vlek)),
            GUID_CRL => {
                self.crl = Some(Crl::from_der(contents)?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add_certificate(&mut self, contents: &[u8], wanted: &str, fits: impl Fn(Role) -> bool) -> Result<(), Fault> {
        let certificates = Certificate::many_from_bytes(contents)?;
        let [certificate] = certificates.as_slice() else {
            return Err(malformed(format!("an entry of the certificate table has {} certificates, wanted one", certificates.len())));
        };
        let role = Role::of(certificate)?;
        if !fits(role) {
            return Err(mismatch(format!("the certificate table has {} where {wanted} belongs, the {role}", certificate.label())));
        }
        self.entries.push((role, certificate.clone()));
        Ok(())
    }

    /// The same certificate in two files is no contradiction; two that claim one role are.
    fn add_file(&mut self, certificate: Certificate) -> Result<(), Fault> {
        let role = Role::of(&certificate)?;
        match self.with_role(role) {
            Some(other) if *other == certificate => Ok(()),
            Some(_) => Err(malformed(format!("there are two different certificates of the {role}, wanted one"))),
            None => {
                self.entries.push((role, certificate));
                Ok(())
            }
        }
    }
}

fn check_size(bytes: usize) -> Result<(), Fault> {
    if bytes > MAX_CERTIFICATES_BYTES {
        return Err(malformed(format!("the certificates have {bytes} bytes, wanted at most {MAX_CERTIFICATES_BYTES}")));
    }
    Ok(())
}

struct Entry {
    guid: u128,
    bytes: Range<usize>,
}

/// The table's head: its entries, each checked for where it lies.
struct Head {
    entries: Vec<Entry>,
}

impl Head {
    fn parse(table: &[u8]) -> Result<Head, Fault> {
        let (chunks, _) = table.as_chunks::<ENTRY_BYTES>();
        let mut entries: Vec<Entry> = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            if chunk.iter().all(|&byte| byte == 0) {
                let head = (index + 1) * ENTRY_BYTES;
                check_apart(&entries, head)?;
                return Ok(Head { entries });
            }
            if index == MAX_ENTRIES {
                return Err(malformed(format!("the certificate table has more than {MAX_ENTRIES} entries")));
            }
            let entry = Entry::parse(chunk, table.len())?;
            if entries.iter().any(|other| other.guid == entry.guid) {
                return Err(malformed(format!("the certificate table has the entry {:032x} twice, wanted it once", entry.guid)));
            }
            entries.push(entry);
        }
        Err(malformed("the certificate table does not end with an empty entry"))
    }
}

impl Entry {
    fn parse(chunk: &[u8; ENTRY_BYTES], size: usize) -> Result<Entry, Fault> {
        let [guid @ .., o0, o1, o2, o3, l0, l1, l2, l3] = *chunk;
        let guid: [u8; 16] = guid;
        // The numbers have 32 bits: their sum cannot overflow in 64.
        let start = u64::from(u32::from_le_bytes([o0, o1, o2, o3]));
        let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
        let end = usize::try_from(start + length).ok().filter(|&end| end <= size && length > 0);
        let range = usize::try_from(start).ok().zip(end).map(|(start, end)| start..end);
        let bytes = range.ok_or_else(|| {
            malformed(format!("an entry of the certificate table has {length} bytes at {start}, wanted some within its {size}"))
        })?;
        Ok(Entry { guid: u128::from_be_bytes(guid), bytes })
    }
}

fn check_apart(entries: &[Entry], head: usize) -> Result<(), Fault> {
    let mut ranges: Vec<&Range<usize>> = entries.iter().map(|entry| &entry.bytes).collect();
    ranges.sort_by_key(|range| range.start);
    let mut free = head;
    for range in ranges {
        if range.start < free {
            return Err(malformed(format!("an entry of the certificate table begins at {}, wanted {free} or later", range.start)));
        }
        free = range.end;
    }
    Ok(())
}
