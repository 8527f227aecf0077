//! The owner's identity: what others get of it, taking it over from a backup, and whether keyring and ledger agree about it.

use crate::context::{Context, Init};
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::keyring::{DEVICE, Keyring, Seed, verify};
use crate::ledger::B64;
use crate::token::{Identity, SecretIdentity, SignedIdentity, SignedRotation};

/// The owner's public identity, signed now, with the rotations that lead to it.
pub fn public_identity(cx: &Context, name: Option<&str>) -> Result<SignedIdentity> {
    let keyring = cx.keyring()?;
    let unreadable = |_| Error::new(Code::Ledger, "a recorded rotation cannot be read").hint("portdistrict ledger verify");
    let rotations = cx.ledger()?.rotations()?;
    let mut rotations = rotations.iter().map(|bytes| SignedRotation::decode(bytes)).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    // During a rotation the ledger is one step further than the key that signs this.
    let end = rotations.iter().position(|signed| signed.rotation().old == keyring.identity_public());
    rotations.truncate(end.unwrap_or(rotations.len()));
    let identity = Identity {
        identity: keyring.identity_public(),
        ecdh: keyring.sealing_public(),
        name: name.map(str::to_owned),
        issued: cx.now(),
        client: Some(keyring.client_noise_public()),
        rotations,
    };
    Ok(identity.sign(&keyring.identity_key()))
}

/// Makes this home one more device of the identity in a backup. Whether it was made now; where there is another identity it is
/// refused.
pub fn take_over(cx: &Context, secret: SecretIdentity) -> Result<bool> {
    let wanted = Keyring::public_of(&secret.identity);
    let make = || {
        let SecretIdentity { identity, retired } = secret;
        Ok(Keyring { retired, ..Keyring::of(identity, Seed::random()?) })
    };
    let outcome = cx.begin(make)?;
    let found = cx.keyring()?.identity_public();
    if found != wanted {
        return Err(Error::new(Code::Exists, format!("there is another identity here already: {}", node_id(&found)))
            .because(format!("the backup is of {}", node_id(&wanted)))
            .hint("take it over in an empty home: portdistrict --home DIR identity import BLOB"));
    }
    Ok(outcome == Init::Created)
}

/// Whether the ledger belongs to the identity in the keyring; says so in words.
pub fn ledger_is_ours(cx: &Context) -> Result<String> {
    let (own, found) = (cx.keyring()?.identity_public(), cx.ledger()?.current_identity()?);
    if found == Some(B64(own)) {
        return Ok("belongs to this identity".to_owned());
    }
    if cx.keyring()?.next.as_ref().map(|seed| B64(Keyring::public_of(seed))) == found {
        return Err(Error::new(Code::Precondition, "a rotation of the identity was interrupted").hint("portdistrict identity rotate"));
    }
    let whose = found.map_or_else(|| "nobody".to_owned(), |key| node_id(&key.0));
    Err(Error::new(Code::Precondition, format!("the ledger belongs to {whose}, the keyring to {}", node_id(&own)))
        .hint("if another device rotated it, there: portdistrict device welcome NAME; else restore both from one backup"))
}

/// Whether the identity of now certifies this device, and nobody revoked it; says so in words.
pub fn certified(cx: &Context) -> Result<String> {
    let (own, identity) = (cx.keyring()?.device_public(), cx.keyring()?.identity_public());
    let device = cx.ledger()?.device(&B64(own).to_string())?;
    if device.revoked_at.is_some() {
        return Err(Error::new(Code::Refused, "this device was revoked").hint("portdistrict device list"));
    }
    let Some(cert) = device.cert.filter(|cert| verify(&identity, DEVICE, &own, &cert.0)) else {
        return Err(Error::new(Code::Refused, "the identity's certificate of this device does not hold").hint("portdistrict ledger verify"));
    };
    Ok(format!("certified: {}…", &cert.to_string()[..12]))
}

/// Whether every rotation in the ledger is signed by both of its keys; says so in words.
pub fn rotations_hold(cx: &Context) -> Result<String> {
    let all = cx.ledger()?.rotations()?;
    let holds = |bytes: &Vec<u8>| SignedRotation::decode(bytes).is_ok_and(|signed| signed.verify());
    if !all.iter().all(holds) {
        return Err(Error::new(Code::Ledger, "a recorded rotation does not hold").hint("portdistrict ledger verify"));
    }
    Ok(if all.is_empty() { "there was none".to_owned() } else { format!("{} signed by both keys", all.len()) })
}

/// The names (or keys) of the owner's other devices that were not revoked.
pub fn other_devices(cx: &Context) -> Result<Vec<String>> {
    let own = B64(cx.keyring()?.device_public());
    let others = cx.ledger()?.devices()?.into_iter().filter(|device| device.key != own && device.revoked_at.is_none());
    Ok(others.map(|device| device.name.map_or_else(|| device.key.to_string(), |name| name.to_string())).collect())
}
