//! Secrets that open only in this TPM and only while its registers have the same values.

use super::command::{Auth, Command};
use super::error::Error;
use super::keys::{AES_128_CFB, Hierarchy, Key, MAX_STRUCTURE, P256_WITHOUT_SCHEME, TRANSIENT, at_most, skip_creation};
use super::sessions::{Purpose, Session};
use super::{Device, Handle, RH_OWNER, rc};
use crate::attest::tpm::hash::Hash;
use crate::attest::tpm::wire::{WireError, Writer};
use std::io::{Read, Write};
use zeroize::Zeroizing;

const CC_EVICT_CONTROL: u32 = 0x120;
const CC_CREATE: u32 = 0x153;
const CC_LOAD: u32 = 0x157;
const CC_UNSEAL: u32 = 0x15e;
const CC_READ_PUBLIC: u32 = 0x173;
const ALG_NULL: u16 = 0x0010;
/// `TPM_ALG_KEYEDHASH` (Part 2, 6.3): an object that holds data.
const ALG_KEYEDHASH: u16 = 0x0008;
/// The most bytes that can be sealed.
pub const MAX_SECRET: usize = 64;

/// A sealed secret. It is no secret itself, and can be kept anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// `TPMT_PUBLIC` of the sealed object, with the policy.
    pub public: Vec<u8>,
    /// The content of `TPM2B_PRIVATE`: encrypted by the TPM's storage key.
    pub private: Vec<u8>,
}

/// The TCG's storage root key on P-256 (TPM v2.0 Provisioning Guidance 1.0, 7.5.1), which is the same at every call.
fn storage_template() -> Result<Zeroizing<Vec<u8>>, WireError> {
    // fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt
    const ATTRIBUTES: u32 = 0x0003_0472;
    let head = Writer::new().u16(0x0023).u16(Hash::Sha256.id()).u32(ATTRIBUTES).sized(&[]).bytes(&AES_128_CFB);
    head.bytes(&P256_WITHOUT_SCHEME).sized(&[0; 32]).sized(&[0; 32]).finish()
}

/// An object that holds data and opens by this policy only, as it lacks userWithAuth.
fn sealed_template(policy: &[u8; 32]) -> Result<Zeroizing<Vec<u8>>, WireError> {
    // fixedTPM, fixedParent, noDA
    const ATTRIBUTES: u32 = 0x0000_0412;
    Writer::new().u16(ALG_KEYEDHASH).u16(Hash::Sha256.id()).u32(ATTRIBUTES).sized(policy).u16(ALG_NULL).sized(&[]).finish()
}

impl<T: Read + Write> Device<T> {
    /// Seals 1 to 64 bytes to the values that these registers of the SHA-256 bank have now (`TPM2_Create`, Part 3, 12.1).
    ///
    /// Two of the TPM's slots for keys (most have three) must be free: one for its storage key, one for what it makes.
    /// Between program and TPM the secret travels in the clear, both here and in [`Device::unseal`].
    pub fn seal(&self, data: &[u8], pcrs: &[u8]) -> Result<Sealed, Error> {
        at_most("the secret to seal", data, MAX_SECRET)?;
        if data.is_empty() || pcrs.is_empty() {
            let sentence = format!("{} bytes are to be sealed to {} registers, at least one of each is wanted", data.len(), pcrs.len());
            return Err(Error::Argument(sentence));
        }
        let policy = self.pcr_policy(pcrs)?;
        let parent = self.storage_key()?;
        let sensitive = Writer::new().sized(&[]).sized(data).finish()?;
        let command = Command::new("TPM2_Create", CC_CREATE)
            .authorized(parent.handle(), Auth::Empty)
            .sized(&sensitive)
            .sized(&sealed_template(&policy)?)
            .sized(&[])
            .u32(0);
        let response = self.run(&command)?;
        let mut reader = response.parameters();
        let private = reader.sized(MAX_STRUCTURE, "outPrivate")?.to_vec();
        let public = reader.sized(MAX_STRUCTURE, "outPublic")?.to_vec();
        skip_creation(&mut reader)?;
        reader.finish("the answer")?;
        Ok(Sealed { public, private })
    }

    /// Opens what was sealed to these registers (`TPM2_Unseal`, Part 3, 12.7).
    ///
    /// [`Error::PcrChanged`] if they have other values now; [`Error::Integrity`] if another TPM sealed it, or if this one was cleared.
    pub fn unseal(&self, sealed: &Sealed, pcrs: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        at_most("the public part of the sealed secret", &sealed.public, MAX_STRUCTURE)?;
        at_most("the private part of the sealed secret", &sealed.private, MAX_STRUCTURE)?;
        let object = self.load(sealed)?;
        self.open(object.number(), pcrs)
    }

    /// Keeps a sealed secret in the TPM's own memory, under a handle of the owner's (`TPM2_EvictControl`, Part 3, 28.5), until the TPM
    /// is cleared. What lies there already stays, and is an error.
    pub fn keep(&self, sealed: &Sealed, handle: u32) -> Result<(), Error> {
        let object = self.load(sealed)?;
        let command =
            Command::new("TPM2_EvictControl", CC_EVICT_CONTROL).authorized(RH_OWNER, Auth::Empty).handle(object.number()).u32(handle);
        self.run(&command).map(|_| ())
    }

    /// Whether anything lies under this handle (`TPM2_ReadPublic`, Part 3, 12.4).
    pub fn holds(&self, handle: u32) -> Result<bool, Error> {
        match self.run(&Command::new("TPM2_ReadPublic", CC_READ_PUBLIC).handle(handle)) {
            Err(error) if error.is_refusal(&[rc::HANDLE]) => Ok(false),
            result => result.map(|_| true),
        }
    }

    /// Opens what [`Device::keep`] put under a handle, or what is loaded; fails as [`Device::unseal`] does.
    pub fn open(&self, object: u32, pcrs: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let session = Session::start(self, Purpose::Policy)?;
        session.pcrs(pcrs)?;
        let command = Command::new("TPM2_Unseal", CC_UNSEAL).authorized(object, session.auth());
        let response = match self.run(&command) {
            Err(error) if error.is_refusal(&[rc::POLICY_FAIL]) => return Err(Error::PcrChanged),
            result => result?,
        };
        let mut reader = response.parameters();
        let data = Zeroizing::new(reader.sized(MAX_SECRET, "outData")?.to_vec());
        reader.finish("the answer")?;
        Ok(data)
    }

    fn storage_key(&self) -> Result<Key<'_, T>, Error> {
        self.create_primary(Hierarchy::Owner, &storage_template()?)
    }

    /// The digest of the policy that these registers have their present values.
    fn pcr_policy(&self, pcrs: &[u8]) -> Result<[u8; 32], Error> {
        let session = Session::start(self, Purpose::Trial)?;
        session.pcrs(pcrs)?;
        session.digest()
    }

    /// `TPM2_Load` (Part 3, 12.2). The storage key is flushed again, to leave room.
    fn load(&self, sealed: &Sealed) -> Result<Handle<'_, T>, Error> {
        let parent = self.storage_key()?;
        let command = Command::new("TPM2_Load", CC_LOAD)
            .authorized(parent.handle(), Auth::Empty)
            .gives_handle()
            .sized(&sealed.private)
            .sized(&sealed.public);
        let response = self.run(&command)?;
        let object = Handle::of(self, &response, &TRANSIENT)?;
        let mut reader = response.parameters();
        reader.sized(66, "name")?;
        reader.finish("the answer")?;
        Ok(object)
    }
}
