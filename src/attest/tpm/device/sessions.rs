//! Sessions in which a policy is shown to be fulfilled (Part 1, 19.7).

use super::command::{Auth, Command};
use super::error::Error;
use super::{Device, Handle, RH_ENDORSEMENT, RH_NULL};
use crate::attest::tpm::hash::Hash;
use crate::attest::tpm::selection::selection;
use std::io::{Read, Write};

const CC_START_AUTH_SESSION: u32 = 0x176;
const CC_POLICY_SECRET: u32 = 0x151;
const CC_POLICY_PCR: u32 = 0x17f;
const CC_POLICY_GET_DIGEST: u32 = 0x189;
/// `TPM_ALG_NULL` (Part 2, 6.3).
const ALG_NULL: u16 = 0x0010;
/// The first bytes of handles of sessions (`TPM_HT`, Part 2, 7.2). Some TPMs number trial sessions as the first kind.
const SESSION_KINDS: [u8; 2] = [0x02, 0x03];

/// What a session is for (`TPM_SE`, Part 2, 6.11).
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// `TPM_SE_POLICY`: to use something.
    Policy = 1,
    /// `TPM_SE_TRIAL`: to learn the digest of a policy.
    Trial = 3,
}

/// A session with a policy, named by SHA-256, which is flushed when dropped.
pub(super) struct Session<'d, T: Read + Write> {
    handle: Handle<'d, T>,
}

impl<'d, T: Read + Write> Session<'d, T> {
    /// Starts a session without salt (`TPM2_StartAuthSession`, Part 3, 11.1).
    pub(super) fn start(device: &'d Device<T>, purpose: Purpose) -> Result<Session<'d, T>, Error> {
        let command = Command::new("TPM2_StartAuthSession", CC_START_AUTH_SESSION)
            .handle(RH_NULL)
            .handle(RH_NULL)
            .gives_handle()
            // The nonce goes only into HMACs and encryption, of which such a session has none.
            .sized(&[0; 16])
            .sized(&[])
            .u8(purpose as u8)
            .u16(ALG_NULL)
            .u16(Hash::Sha256.id());
        let response = device.run(&command)?;
        let handle = Handle::of(device, &response, &SESSION_KINDS)?;
        let mut reader = response.parameters();
        reader.sized(64, "nonceTPM")?;
        reader.finish("the answer")?;
        Ok(Session { handle })
    }

    /// This session as an authorization.
    pub(super) fn auth(&self) -> Auth {
        Auth::Policy(self.handle.number())
    }

    /// Shows that the caller may use the endorsement hierarchy (`TPM2_PolicySecret`, Part 3, 23.4), as endorsement keys demand.
    pub(super) fn endorsement_secret(&self) -> Result<(), Error> {
        let command = Command::new("TPM2_PolicySecret", CC_POLICY_SECRET)
            .authorized(RH_ENDORSEMENT, Auth::Empty)
            .handle(self.handle.number())
            .sized(&[])
            .sized(&[])
            .sized(&[])
            .u32(0);
        self.handle.device.run(&command).map(|_| ())
    }

    /// Binds to the values that these registers have now (`TPM2_PolicyPCR`, Part 3, 23.7).
    pub(super) fn pcrs(&self, pcrs: &[u8]) -> Result<(), Error> {
        let selection = selection(pcrs).map_err(|error| Error::Argument(error.to_string()))?;
        let command = Command::new("TPM2_PolicyPCR", CC_POLICY_PCR).handle(self.handle.number()).sized(&[]).bytes(&selection);
        self.handle.device.run(&command).map(|_| ())
    }

    /// The digest of the policy so far: 32 bytes (`TPM2_PolicyGetDigest`, Part 3, 23.6).
    pub(super) fn digest(&self) -> Result<[u8; 32], Error> {
        let command = Command::new("TPM2_PolicyGetDigest", CC_POLICY_GET_DIGEST).handle(self.handle.number());
        let response = self.handle.device.run(&command)?;
        let mut reader = response.parameters();
        let digest = reader.sized(32, "policyDigest")?;
        reader.finish("the answer")?;
        digest.try_into().map_err(|_| Error::Answer(format!("policyDigest has {} bytes, 32 are wanted", digest.len())))
    }
}
