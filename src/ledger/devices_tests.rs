//! Devices and identities in one ledger: who may write, and which chains belong.

use super::super::kinds::{Blob, Certified};
use super::*;
use crate::keyring::{Keyring, Seed, sign};
use crate::token::Rotation;
use ed25519_dalek::SigningKey;

fn keyring(identity: u8, device: u8) -> Keyring {
    Keyring::of(Seed::from_bytes(&[identity; 32]), Seed::from_bytes(&[device; 32]))
}

fn begin(keyring: &Keyring) -> IdentityCreated {
    IdentityCreated {
        identity: B64(keyring.identity_public()),
        device: B64(keyring.device_public()),
        cert: B64(keyring.device_certificate()),
    }
}

fn ledger(keyring: &Keyring) -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.db")).unwrap();
    ledger.record(&keyring.device_key(), &begin(keyring)).unwrap();
    (dir, ledger)
}

fn rotated(old: &SigningKey, new: &SigningKey, device: &Keyring) -> IdentityRotated {
    let statement = Rotation::sign(old, new, 1_800_000_000);
    let cert = sign(new, keyring::DEVICE, &device.device_public());
    IdentityRotated {
        old: B64(statement.rotation().old),
        new: B64(statement.rotation().new),
        statement: Blob(statement.encode()),
        devices: vec![Certified { device: B64(device.device_public()), cert: B64(cert) }],
    }
}

#[test]
fn a_revoked_device_writes_nothing_more() {
    let (first, second) = (keyring(1, 2), keyring(1, 3));
    let (_dir, ledger) = ledger(&first);
    ledger.record(&second.device_key(), &begin(&second)).unwrap();
    let note = || ledger.append(&second.device_key(), "note.made", serde_json::json!({}));
    note().unwrap();
    let revoked = DeviceRevoked { device: B64(second.device_public()), at: 5, last: Some(1), reason: "lost".to_owned() };
    ledger.record(&first.device_key(), &revoked).unwrap();
    let error = note().unwrap_err();
    assert!(error.code() == Code::Refused && error.message().contains("was revoked"), "{error:?}");
    // The first revocation counts, and the device cannot be approved again.
    ledger.record(&first.device_key(), &DeviceRevoked { at: 9, reason: String::new(), ..revoked }).unwrap();
    let device = ledger.device(&B64(second.device_public()).to_string()).unwrap();
    assert_eq!((device.revoked_at, device.reason.as_deref(), device.seq), (Some(5), Some("lost"), Some(1)));
    let unknown = DeviceRevoked { device: B64([9; 32]), at: 5, last: None, reason: String::new() };
    assert_eq!(ledger.record(&first.device_key(), &unknown).unwrap_err().code(), Code::NotFound);
    assert!(ledger.verify().unwrap().is_ok());
}

#[test]
fn an_identity_is_rotated_once_and_by_its_own_key() {
    let first = keyring(1, 2);
    let (_dir, ledger) = ledger(&first);
    let (old, new, other) = (first.identity_key(), keyring(4, 2).identity_key(), keyring(5, 2).identity_key());
    let mut uncertified = rotated(&old, &new, &first);
    uncertified.devices[0].cert = B64([0; 64]);
    assert_eq!(ledger.record(&first.device_key(), &uncertified).unwrap_err().code(), Code::Failed);
    let elsewhere = rotated(&old, &new, &keyring(1, 9));
    assert_eq!(ledger.record(&first.device_key(), &elsewhere).unwrap_err().code(), Code::Failed, "the author must go on");
    ledger.record(&first.device_key(), &rotated(&old, &new, &first)).unwrap();
    assert_eq!(ledger.record(&first.device_key(), &rotated(&old, &other, &first)).unwrap_err().code(), Code::Exists);
    assert_eq!(ledger.identities().unwrap(), [B64(first.identity_public()), B64(new.verifying_key().to_bytes())]);
    assert_eq!(ledger.rotations().unwrap().len(), 1);
}

#[test]
fn chains_belong_if_rotations_link_their_identities() {
    let (first, later, stranger) = (keyring(1, 2), keyring(4, 6), keyring(7, 8));
    let (_dir, ledger) = ledger(&first);
    // A device of the new identity may come before the rotation that links it.
    ledger.record(&later.device_key(), &begin(&later)).unwrap();
    assert_eq!(ledger.verify().unwrap().broken.unwrap().pos, Some(2));
    ledger.record(&first.device_key(), &rotated(&first.identity_key(), &later.identity_key(), &first)).unwrap();
    assert!(ledger.verify().unwrap().is_ok(), "{:?}", ledger.verify().unwrap());
    ledger.record(&stranger.device_key(), &begin(&stranger)).unwrap();
    assert!(ledger.verify().unwrap().broken.unwrap().what.contains("device of another identity"));
}
