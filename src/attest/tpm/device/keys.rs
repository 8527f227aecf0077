//! Endorsement and attestation keys, registers, quotes, and the opening of credentials.

use super::command::{Auth, Command, Response};
use super::error::Error;
use super::sessions::{Purpose, Session};
use super::{Device, Handle, RH_ENDORSEMENT, RH_OWNER, rc};
use crate::attest::tpm::hash::Hash;
use crate::attest::tpm::public::Public;
use crate::attest::tpm::selection::{SelectionError, read_selection, selection};
use crate::attest::tpm::wire::{Reader, WireError, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use zeroize::Zeroizing;

const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_ACTIVATE_CREDENTIAL: u32 = 0x147;
const CC_QUOTE: u32 = 0x158;
const CC_PCR_READ: u32 = 0x17e;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
/// The first byte of handles of loaded keys (`TPM_HT_TRANSIENT`, Part 2, 7.2).
pub(super) const TRANSIENT: [u8; 1] = [0x80];
/// The most bytes of any structure in an answer that is looked at.
pub(super) const MAX_STRUCTURE: usize = 2048;
/// The most bytes of a question in a quote: what every TPM takes (SHA-512).
const MAX_QUALIFYING: usize = 64;
/// How often reading the registers starts anew because one of them was extended meanwhile.
const PCR_ATTEMPTS: usize = 8;
/// Where Google's virtual TPM has certificate and template of its attestation key: first RSA, then ECC.
const GCE_AK: [(u32, u32); 2] = [(0x01c1_0000, 0x01c1_0001), (0x01c1_0002, 0x01c1_0003)];
/// `PolicySecret(TPM_RH_ENDORSEMENT)` (TCG EK Credential Profile 2.5, B.3.3).
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52,
    0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// Under what a primary key is made (Part 1, 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// That of the owner. Clearing the TPM gives other keys from then on. The counts in quotes of its keys are hidden.
    Owner,
    /// That of the endorsement key. Its keys outlive a clearing (`TPM2_Clear`, Part 3, 24.6); only a new endorsement seed ends them.
    Endorsement,
}

impl Hierarchy {
    fn handle(self) -> u32 {
        match self {
            Hierarchy::Owner => RH_OWNER,
            Hierarchy::Endorsement => RH_ENDORSEMENT,
        }
    }
}

/// The two kinds of endorsement key of the TCG's "low range" (EK Credential Profile 2.5, B.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EkKind {
    /// Template L-1: RSA with 2048 bits.
    Rsa2048,
    /// Template L-2: ECC on P-256.
    EccP256,
}

impl EkKind {
    fn certificate_index(self) -> u32 {
        match self {
            EkKind::Rsa2048 => 0x01c0_0002,
            EkKind::EccP256 => 0x01c0_000a,
        }
    }

    fn template(self) -> Result<Zeroizing<Vec<u8>>, WireError> {
        // fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt
        const ATTRIBUTES: u32 = 0x0003_00b2;
        let head = |kind: u16| Writer::new().u16(kind).u16(Hash::Sha256.id()).u32(ATTRIBUTES).sized(&EK_POLICY).bytes(&AES_128_CFB);
        match self {
            EkKind::Rsa2048 => head(0x0001).u16(ALG_NULL).u16(2048).u32(0).sized(&[0; 256]),
            EkKind::EccP256 => head(0x0023).bytes(&P256_WITHOUT_SCHEME).sized(&[0; 32]).sized(&[0; 32]),
        }
        .finish()
    }
}

/// `TPMT_SYM_DEF_OBJECT`: AES, 128 bits, CFB.
pub(super) const AES_128_CFB: [u8; 6] = [0, 6, 0, 0x80, 0, 0x43];
/// `TPMS_ECC_PARMS` after the symmetric part: no scheme, P-256, no key derivation.
pub(super) const P256_WITHOUT_SCHEME: [u8; 6] = [0, 0x10, 0, 3, 0, 0x10];

/// The template of the attestation key: restricted ECDSA on P-256 with SHA-256. Always the same, so that it gives the same key.
fn ak_template() -> Result<Zeroizing<Vec<u8>>, WireError> {
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
    // noDA: a key without password must not stop working when somebody guesses passwords of others.
    const ATTRIBUTES: u32 = 0x0005_0472;
    let head = Writer::new().u16(0x0023).u16(Hash::Sha256.id()).u32(ATTRIBUTES).sized(&[]).u16(ALG_NULL);
    head.u16(ALG_ECDSA).u16(Hash::Sha256.id()).u16(3).u16(ALG_NULL).sized(&[]).sized(&[]).finish()
}

/// A key in the TPM's memory. It is flushed when dropped.
#[derive(Debug)]
pub struct Key<'d, T: Read + Write> {
    handle: Handle<'d, T>,
    public: Public,
}

impl<T: Read + Write> Key<'_, T> {
    /// Its public area, as the TPM states it.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its handle.
    pub fn handle(&self) -> u32 {
        self.handle.number()
    }

    /// Removes it from the TPM's memory, and tells when that fails, unlike dropping it.
    pub fn flush(self) -> Result<(), Error> {
        self.handle.flush()
    }
}

/// Google's attestation key and the certificate for it.
#[derive(Debug)]
pub struct GceAk<'d, T: Read + Write> {
    /// The key.
    pub key: Key<'d, T>,
    /// The certificate in DER.
    pub certificate: Vec<u8>,
}

/// A quote as the TPM made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedQuote {
    /// `TPMS_ATTEST` (Part 2, 10.12.12).
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE` (Part 2, 11.3.4).
    pub signature: Vec<u8>,
}

impl<T: Read + Write> Device<T> {
    /// The endorsement key: RSA, or ECC if the TPM does not know RSA.
    pub fn create_ek(&self) -> Result<Key<'_, T>, Error> {
        match self.create_ek_of(EkKind::Rsa2048) {
            Err(error) if error.is_refusal(&[rc::ASYMMETRIC, rc::VALUE, rc::KEY_SIZE, rc::TYPE]) => self.create_ek_of(EkKind::EccP256),
            result => result,
        }
    }

    /// The endorsement key of this kind.
    pub fn create_ek_of(&self, kind: EkKind) -> Result<Key<'_, T>, Error> {
        self.create_primary(Hierarchy::Endorsement, &kind.template()?)
    }

    /// The certificate of the endorsement key of this kind in DER; `None` if the TPM holds none.
    pub fn read_ek_certificate(&self, kind: EkKind) -> Result<Option<Vec<u8>>, Error> {
        self.nv_certificate(kind.certificate_index())
    }

    /// An attestation key: restricted, ECDSA on P-256 with SHA-256. It is the same at every call, until the hierarchy is cleared.
    pub fn create_ak(&self, hierarchy: Hierarchy) -> Result<Key<'_, T>, Error> {
        self.create_primary(hierarchy, &ak_template()?)
    }

    /// The attestation key that Google certified for this machine, RSA before ECC; `None` where there is none.
    pub fn read_gce_ak(&self) -> Result<Option<GceAk<'_, T>>, Error> {
        for (certificate, template) in GCE_AK {
            let Some(certificate) = self.nv_certificate(certificate)? else { continue };
            let Some(template) = self.nv_read(template)? else { continue };
            let key = self.create_primary(Hierarchy::Endorsement, &template)?;
            return Ok(Some(GceAk { key, certificate }));
        }
        Ok(None)
    }

    /// The primary key that belongs to a template (`TPMT_PUBLIC`) in this hierarchy (`TPM2_CreatePrimary`, Part 3, 24.1).
    pub fn create_primary(&self, hierarchy: Hierarchy, template: &[u8]) -> Result<Key<'_, T>, Error> {
        let command = Command::new("TPM2_CreatePrimary", CC_CREATE_PRIMARY)
            .authorized(hierarchy.handle(), Auth::Empty)
            .gives_handle()
            // TPM2B_SENSITIVE_CREATE with neither password nor data.
            .sized(&[0; 4])
            .sized(template)
            .sized(&[])
            .u32(0);
        let response = self.run(&command)?;
        let handle = Handle::of(self, &response, &TRANSIENT)?;
        let public = created(&response)?;
        Ok(Key { handle, public })
    }

    /// The values of registers of the SHA-256 bank, all of the same moment (`TPM2_PCR_Read`, Part 3, 22.4).
    pub fn pcr_read(&self, pcrs: &[u8]) -> Result<BTreeMap<u8, [u8; 32]>, Error> {
        for _ in 0..PCR_ATTEMPTS {
            if let Some(values) = self.pcr_read_once(pcrs)? {
                return Ok(values);
            }
        }
        Err(Error::Busy { command: "TPM2_PCR_Read" })
    }

    /// `None` if a register was extended between two of the commands, as a TPM gives at most eight values at once.
    fn pcr_read_once(&self, pcrs: &[u8]) -> Result<Option<BTreeMap<u8, [u8; 32]>>, Error> {
        let mut missing: BTreeSet<u8> = pcrs.iter().copied().collect();
        let mut values = BTreeMap::new();
        let mut counter = None;
        while let Some(next) = missing.first().copied() {
            let wanted: Vec<u8> = missing.iter().copied().collect();
            let (count, part) = self.pcr_read_part(&wanted)?;
            if *counter.get_or_insert(count) != count {
                return Ok(None);
            }
            let before = missing.len();
            missing.retain(|pcr| !part.contains_key(pcr));
            if missing.len() == before {
                return Err(Error::Answer(format!("register {next} of the SHA-256 bank is not in it, its value is wanted")));
            }
            values.extend(part);
        }
        Ok(Some(values))
    }

    /// The update counter, and the first values of those wanted.
    fn pcr_read_part(&self, wanted: &[u8]) -> Result<(u32, BTreeMap<u8, [u8; 32]>), Error> {
        let selection = selection(wanted).map_err(|error| Error::Argument(error.to_string()))?;
        let response = self.run(&Command::new("TPM2_PCR_Read", CC_PCR_READ).bytes(&selection))?;
        let mut reader = response.parameters();
        let counter = reader.u32("pcrUpdateCounter")?;
        let given = read_selection(&mut reader).map_err(selection_error)?;
        let count = reader.u32("pcrValues.count")?;
        if usize::try_from(count).ok() != Some(given.len()) || given.iter().any(|pcr| !wanted.contains(pcr)) {
            return Err(Error::Answer(format!("it has {count} values of the registers {given:?}, {wanted:?} were asked for")));
        }
        let mut values = BTreeMap::new();
        for pcr in given {
            let value = reader.sized(32, "pcrValues.digest")?;
            let value = value.try_into().map_err(|_| Error::Answer(format!("register {pcr} has {} bytes, 32 are wanted", value.len())))?;
            values.insert(pcr, value);
        }
        reader.finish("the answer")?;
        Ok((counter, values))
    }

    /// Lets the TPM sign registers of the SHA-256 bank together with a question of at most 64 bytes (`TPM2_Quote`, Part 3, 18.4).
    pub fn quote(&self, ak: &Key<'_, T>, qualifying: &[u8], pcrs: &[u8]) -> Result<SignedQuote, Error> {
        at_most("the question", qualifying, MAX_QUALIFYING)?;
        let selection = selection(pcrs).map_err(|error| Error::Argument(error.to_string()))?;
        let command =
            Command::new("TPM2_Quote", CC_QUOTE).authorized(ak.handle(), Auth::Empty).sized(qualifying).u16(ALG_NULL).bytes(&selection);
        let response = self.run(&command)?;
        let mut reader = response.parameters();
        let attest = reader.sized(MAX_STRUCTURE, "quoted")?.to_vec();
        Ok(SignedQuote { attest, signature: reader.rest().to_vec() })
    }

    /// Opens a credential: the node's half of what [`crate::attest::tpm::credential`] starts (`TPM2_ActivateCredential`, Part 3, 12.5).
    ///
    /// `blob` and `secret` are the two parts of a challenge, without sizes in front. The result has at most 64 bytes.
    pub fn activate_credential(&self, ak: &Key<'_, T>, ek: &Key<'_, T>, blob: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let session = Session::start(self, Purpose::Policy)?;
        session.endorsement_secret()?;
        let command = Command::new("TPM2_ActivateCredential", CC_ACTIVATE_CREDENTIAL)
            .authorized(ak.handle(), Auth::Empty)
            .authorized(ek.handle(), session.auth())
            .sized(blob)
            .sized(secret);
        let response = self.run(&command)?;
        let mut reader = response.parameters();
        let opened = Zeroizing::new(reader.sized(64, "certInfo")?.to_vec());
        reader.finish("the answer")?;
        Ok(opened)
    }
}

/// The public area in the answer to `TPM2_CreatePrimary`, which must have the name that the answer states.
fn created(response: &Response) -> Result<Public, Error> {
    let mut reader = response.parameters();
    let public = Public::read(reader.sized(MAX_STRUCTURE, "outPublic")?)?;
    skip_creation(&mut reader)?;
    let name = reader.sized(66, "name")?;
    reader.finish("the answer")?;
    if name != public.name() {
        return Err(Error::Answer("the name of the new key is not that of its public area".into()));
    }
    Ok(public)
}

/// `creationData`, `creationHash` and `creationTicket`, which say nothing that is needed here.
pub(super) fn skip_creation(reader: &mut Reader<'_>) -> Result<(), WireError> {
    reader.sized(MAX_STRUCTURE, "creationData")?;
    reader.sized(64, "creationHash")?;
    reader.u16("creationTicket.tag")?;
    reader.u32("creationTicket.hierarchy")?;
    reader.sized(64, "creationTicket.digest").map(|_| ())
}

fn selection_error(error: SelectionError) -> Error {
    match error {
        SelectionError::Wire(error) => error.into(),
        SelectionError::Other(sentence) => Error::Answer(sentence),
    }
}

/// An argument has at most so many bytes.
pub(super) fn at_most(what: &str, bytes: &[u8], most: usize) -> Result<(), Error> {
    if bytes.len() <= most {
        return Ok(());
    }
    Err(Error::Argument(format!("{what} has {} bytes, at most {most} are allowed", bytes.len())))
}
