//! Another identity key in place of the one until now, in steps that can be interrupted: running it again goes on.
//!
//! First the keyring holds the new seed beside the old one; then the ledger says that one follows the other, signed by both, with
//! new certificates for the devices that go on; last the keyring puts the new seed into the old one's place and keeps the old one to
//! open what was sealed under it. At every point in between either the old identity works or the new one.

use crate::config::fs;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::keyring::{DEVICE, Keyring, Purpose, Seed, sign};
use crate::ledger::B64;
use crate::ledger::kinds::{Blob, Certified, IdentityRotated};
use crate::token::Rotation;
use ed25519_dalek::SigningKey;

/// Most retired seeds that a keyring keeps.
const MAX_RETIRED: usize = 64;

/// What a rotation did.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The identity key until now.
    pub old: [u8; 32],
    /// The identity key from now on.
    pub new: [u8; 32],
    /// Whether an earlier one was interrupted and finished now.
    pub resumed: bool,
}

/// Rotates the identity, or finishes a rotation that was interrupted. The context must be made anew afterwards.
pub fn rotate(cx: &Context) -> Result<Rotated> {
    let paths = cx.paths();
    let _lock = fs::lock(&paths.data.join("rotation.lock"))?;
    // A person is asked once, though the keyring is written twice.
    let unlock = cx.unlock()?.asked_once(paths)?;
    let mut keyring = Keyring::open(paths, &unlock)?;
    let resumed = keyring.next.is_some();
    if keyring.retired.len() >= MAX_RETIRED {
        return Err(Error::new(Code::Failed, format!("the identity was rotated {MAX_RETIRED} times, and the keyring holds no more"))
            .hint("begin a new one in an empty home: portdistrict --home DIR init"));
    }
    let old = keyring.identity_public();
    if keyring.next.is_none() {
        match cx.ledger()?.current_identity()? {
            Some(current) if current.0 == old => {}
            _ => return Err(not_current()),
        }
        keyring.next = Some(Seed::random()?);
        keyring.store(paths, &unlock)?;
    }
    let Some(next) = &keyring.next else { return Err(not_current()) };
    let key = next.signing_key(Purpose::IdentitySign);
    let new = key.verifying_key().to_bytes();
    match cx.ledger()?.current_identity()? {
        Some(current) if current.0 == old => {
            let span = span(cx, &keyring.identity_key(), &key)?;
            cx.ledger()?.record(&keyring.device_key(), &span)?;
        }
        Some(current) if current.0 == new => {}
        _ => return Err(not_current()),
    }
    finish(&mut keyring);
    keyring.store(paths, &unlock)?;
    Ok(Rotated { old, new, resumed })
}

/// The new seed takes the place of the old one, which is kept.
fn finish(keyring: &mut Keyring) {
    if let Some(next) = keyring.next.take() {
        let old = std::mem::replace(&mut keyring.identity, next);
        keyring.retired.push(old);
    }
}

/// The new key certifies every device that was not revoked.
fn span(cx: &Context, old: &SigningKey, new: &SigningKey) -> Result<IdentityRotated> {
    let mut devices = cx.ledger()?.devices()?;
    devices.retain(|device| device.revoked_at.is_none());
    let certified = devices.iter().map(|device| Certified { device: device.key, cert: B64(sign(new, DEVICE, &device.key.0)) });
    let statement = Rotation::sign(old, new, cx.now());
    Ok(IdentityRotated {
        old: B64(statement.rotation().old),
        new: B64(statement.rotation().new),
        statement: Blob(statement.encode()),
        devices: certified.collect(),
    })
}

fn not_current() -> Error {
    Error::new(Code::Precondition, "the keyring does not hold the identity that the ledger names as the newest")
        .because("another device of yours rotated it")
        .hint("on that device: portdistrict device welcome NAME, then here: portdistrict device accept WELCOME")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Paths;
    use crate::keyring::Unlock;
    use crate::owner::identity::public_identity;
    use crate::token::SignedIdentity;

    fn home() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        context(&dir).init().unwrap();
        dir
    }

    fn context(dir: &tempfile::TempDir) -> Context {
        Context::new(Paths::find(Some(dir.path())).unwrap(), Unlock::default())
    }

    fn check(dir: &tempfile::TempDir, rotated: &Rotated) {
        let cx = context(dir);
        assert_eq!(cx.keyring().unwrap().identity_public(), rotated.new);
        assert!(cx.keyring().unwrap().seed_of(&rotated.old).is_some(), "what was sealed under the old one still opens");
        assert_eq!(cx.ledger().unwrap().current_identity().unwrap(), Some(B64(rotated.new)));
        assert_eq!(cx.init().unwrap(), crate::context::Init::Present);
        assert!(cx.ledger().unwrap().verify().unwrap().is_ok());
        let blob = public_identity(&cx, Some("me")).unwrap().to_blob();
        let read = SignedIdentity::from_blob(&blob).unwrap();
        assert_eq!(read.identity().rotations.last().map(|signed| signed.rotation().old), Some(rotated.old));
    }

    #[test]
    fn a_rotation_replaces_the_identity_and_keeps_the_old_one_for_opening() {
        let dir = home();
        let first = rotate(&context(&dir)).unwrap();
        check(&dir, &first);
        let second = rotate(&context(&dir)).unwrap();
        assert_eq!(second.old, first.new);
        check(&dir, &second);
        assert_eq!(context(&dir).ledger().unwrap().identities().unwrap().len(), 3);
    }

    #[test]
    fn a_rotation_that_was_killed_goes_on_where_it_was() {
        // Killed after the keyring got the new seed.
        let dir = home();
        let cx = context(&dir);
        let mut keyring = Keyring::open(cx.paths(), &Unlock::default()).unwrap();
        keyring.next = Some(Seed::from_bytes(&[7; 32]));
        keyring.store(cx.paths(), &Unlock::default()).unwrap();
        context(&dir).append("note.made", serde_json::json!({})).unwrap();
        let rotated = rotate(&context(&dir)).unwrap();
        assert!(rotated.resumed);
        assert_eq!(rotated.new, Seed::from_bytes(&[7; 32]).signing_key(Purpose::IdentitySign).verifying_key().to_bytes());
        check(&dir, &rotated);

        // Killed after the ledger knew of it.
        let dir = home();
        let cx = context(&dir);
        let mut keyring = Keyring::open(cx.paths(), &Unlock::default()).unwrap();
        let next = Seed::from_bytes(&[8; 32]);
        let span = span(&cx, &keyring.identity_key(), &next.signing_key(Purpose::IdentitySign)).unwrap();
        keyring.next = Some(next);
        keyring.store(cx.paths(), &Unlock::default()).unwrap();
        cx.record(&span).unwrap();
        assert_eq!(context(&dir).init().unwrap(), crate::context::Init::Present, "what works with the old one goes on working");
        let during = public_identity(&context(&dir), None).unwrap().to_blob();
        assert!(SignedIdentity::from_blob(&during).unwrap().identity().rotations.is_empty());
        let rotated = rotate(&context(&dir)).unwrap();
        assert!(rotated.resumed);
        check(&dir, &rotated);
        let spans = context(&dir).ledger().unwrap().log(&crate::ledger::Filter::default()).unwrap();
        assert_eq!(spans.iter().filter(|entry| entry.span.kind == "identity.rotated").count(), 1);
    }

    #[test]
    fn a_forged_rotation_is_not_recorded() {
        let dir = home();
        let cx = context(&dir);
        let stranger = Seed::from_bytes(&[9; 32]).signing_key(Purpose::IdentitySign);
        let mut forged = span(&cx, &stranger, &Seed::from_bytes(&[8; 32]).signing_key(Purpose::IdentitySign)).unwrap();
        forged.old = B64(cx.keyring().unwrap().identity_public());
        assert_eq!(cx.record(&forged).unwrap_err().code(), Code::Failed);
        assert_eq!(cx.ledger().unwrap().rotations().unwrap().len(), 0);
    }
}
