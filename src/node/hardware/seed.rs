//! Seeds that hardware keeps or makes, so that a machine which boots an image has the same key after each start, and its owner none.

use super::PCRS;
use super::sev_guest::{Guest, SevGuest};
use crate::attest::snp::{Report, SigningKey};
use crate::attest::tpm::device::{self, Device};
use crate::encoding::hex;
use crate::error::{Code, Error, Result};
use crate::keyring::Seed;
use crate::session::seed::Source;
use std::io::{Read, Write};
use zeroize::Zeroizing;

/// Where the sealed secret lies in a TPM: the part that owners may use ends at 0x817fffff (TPM 2.0 part 2, 7.5), and the TCG has
/// given out none of these numbers. The last four digits are "PD".
pub const SEALED: u32 = 0x8150_5044;

/// Clouds by the names that their machines bear. What they measure at a launch is their own.
const CLOUDS: [&str; 3] = ["Google", "Amazon EC2", "Microsoft Corporation"];

/// For whom a seed is. It is mixed in: the metadata that names them is in nobody's measurement, so that the same image on the same
/// hardware with another owner in its metadata must not come to the same key.
pub(in crate::node) struct Holder<'a> {
    /// The identity key of the machine's owner.
    pub(in crate::node) owner: &'a [u8; 32],
    /// The machine's name.
    pub(in crate::node) label: &'a str,
}

impl Holder<'_> {
    /// The node's seed, from a secret of the hardware: `derive_key("portdistrict v1 SOURCE-seed", secret ‖ owner ‖ label)`.
    pub(in crate::node) fn seed(&self, source: Source, secret: &[u8; 32]) -> Seed {
        let material = Zeroizing::new([&secret[..], &self.owner[..], self.label.as_bytes()].concat());
        let seed = Zeroizing::new(blake3::derive_key(&format!("portdistrict v1 {source}-seed"), &material));
        Seed::from_bytes(&seed)
    }
}

/// The secret that this TPM keeps for this image; made at the first start, and sealed to the registers that a quote covers.
///
/// One that does not open is never replaced: whoever wants another one clears the TPM, or takes another TPM.
pub fn sealed<T: Read + Write>(device: &Device<T>) -> Result<Zeroizing<[u8; 32]>> {
    if !device.holds(SEALED).map_err(failed)? {
        let made = Seed::random()?;
        let sealed = device.seal(made.expose(), &PCRS).map_err(failed)?;
        device.keep(&sealed, SEALED).map_err(failed)?;
    }
    // Also what was just made: what does not open now would not do so after a restart.
    let secret = device.open(SEALED, &PCRS).map_err(unopened)?;
    let found = secret.len();
    <[u8; 32]>::try_from(secret.as_slice()).map(Zeroizing::new).map_err(|_| {
        Error::new(Code::Precondition, format!("what the TPM keeps under 0x{SEALED:08x} is no seed: it has {found} bytes, wanted 32"))
            .hint("give the machine a TPM of its own, and deploy it again")
    })
}

/// Refuses a derived seed where the launch measurement says nothing of the image: another customer's machine on the same processor,
/// started with the same firmware, would come to the same key. `covering` are the measurements that are said to cover the image.
pub(in crate::node) fn may_be_measured(vendor: &str, covering: &[[u8; 48]]) -> Result<()> {
    let no = |why: String| Err(unmeasured(why));
    match CLOUDS.contains(&vendor) {
        true => no(format!("at {vendor} the launch measurement covers its firmware alone, which is the same for all its customers")),
        false if covering.is_empty() => no("nobody named a launch measurement that covers the image".to_owned()),
        false => Ok(()),
    }
}

/// The secret that this processor derives for the launch of this very image; nobody else's machine can come to it.
pub(in crate::node) fn measured<G: Guest>(guest: &mut SevGuest<G>, covering: &[[u8; 48]]) -> Result<Zeroizing<[u8; 32]>> {
    // The way to the firmware is encrypted and its own, so nobody in between could have written this report.
    let report = Report::parse(&guest.report(&[0; 64])?.report).map_err(|fault| unmeasured(fault.sentence))?;
    let no = |why: String| Err(unmeasured(why));
    if !covering.contains(&report.measurement) {
        return no(format!("launched was {}, which is none of those that cover the image", hex(&report.measurement)));
    }
    if report.policy.debug_allowed() {
        return no("the host may read the memory of this machine".to_owned());
    }
    if report.key_info.signing_key != SigningKey::Vcek {
        return no("the host has put a provider's key (VLEK) into the processor, and keys would come of that one".to_owned());
    }
    guest.derived_key()
}

fn unmeasured(why: String) -> Error {
    Error::new(Code::Refused, "this machine may not derive its seed from its launch").because(why).hint("deploy it with --seed owner")
}

fn failed(error: device::Error) -> Error {
    Error::new(Code::Failed, "the TPM cannot keep this machine's seed").cause(error).hint("deploy the machine with --seed owner")
}

fn unopened(error: device::Error) -> Error {
    match error {
        device::Error::PcrChanged => Error::new(Code::Refused, "the seed in this TPM was sealed for another image, or another start of it")
            .because(format!("one of the registers {PCRS:?} has another value than when it was sealed"))
            .hint(
                "boot the image that it was sealed for; for a new key: portdistrict machine destroy LABEL, then deploy with --seed sealed",
            ),
        error => failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sev_guest::double::Chip;
    use super::*;

    #[test]
    fn a_seed_is_for_one_owner_one_machine_and_one_source() {
        let seed = |secret, owner, label, source| {
            let seed = Holder { owner: &[owner; 32], label }.seed(source, &[secret; 32]);
            *seed.expose()
        };
        let first = seed(1, 2, "vm", Source::Sealed);
        assert_eq!(first, seed(1, 2, "vm", Source::Sealed));
        for other in [
            seed(9, 2, "vm", Source::Sealed),
            seed(1, 9, "vm", Source::Sealed),
            seed(1, 2, "mv", Source::Sealed),
            seed(1, 2, "vm", Source::Measured),
        ] {
            assert_ne!(first, other);
        }
    }
    #[test]
    fn the_vector_is_that_of_the_document() {
        let (secret, owner) = (std::array::from_fn(|n| n as u8), [2; 32]);
        for source in [Source::Sealed, Source::Measured] {
            let seed = Holder { owner: &owner, label: "vm" }.seed(source, &secret);
            let row = format!("| `{source}` | `{}` |", hex(seed.expose()));
            assert!(include_str!("../../../docs/protocol.md").contains(&row), "docs/protocol.md lacks this row:\n{row}");
        }
    }

    /// The measurement of the double's launch.
    const IMAGE: [u8; 48] = [0x3c; 48];

    fn derive(chip: Chip) -> Result<[u8; 32]> {
        measured(&mut SevGuest(chip), &[[9; 48], IMAGE]).map(|secret| *secret)
    }

    #[test]
    fn the_right_launch_has_the_same_secret_after_each_start_and_no_other_has_it() {
        let first = derive(Chip::default()).unwrap();
        assert_eq!(first, derive(Chip::default()).unwrap());
        assert_ne!(first, derive(Chip { secret: [2; 32], ..Chip::default() }).unwrap(), "another processor");
        let other = measured(&mut SevGuest(Chip { measurement: [9; 48], ..Chip::default() }), &[[9; 48], IMAGE]).unwrap();
        assert_ne!(first, *other, "another image");
    }

    #[test]
    fn a_launch_that_is_not_the_images_gets_none() {
        let why = |chip: Chip| derive(chip).unwrap_err().causes()[0].clone();
        assert!(why(Chip { measurement: [7; 48], ..Chip::default() }).contains("none of those that cover the image"));
        assert!(why(Chip { debug: true, ..Chip::default() }).contains("may read the memory"));
        assert!(why(Chip { vlek: true, ..Chip::default() }).contains("VLEK"));
        assert!(derive(Chip { status: 0x16, ..Chip::default() }).is_err());
    }

    #[test]
    fn a_launch_as_in_a_cloud_is_refused_whatever_its_metadata_says() {
        may_be_measured("QEMU", &[IMAGE]).unwrap();
        for vendor in CLOUDS {
            let error = may_be_measured(vendor, &[IMAGE]).unwrap_err();
            assert!(error.causes()[0].contains("firmware alone, which is the same for all its customers"), "{error:?}");
            assert_eq!((error.code(), error.hint_text()), (Code::Refused, Some("deploy it with --seed owner")));
        }
        assert!(may_be_measured("QEMU", &[]).unwrap_err().causes()[0].contains("nobody named"));
    }
}
