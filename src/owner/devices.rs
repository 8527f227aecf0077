//! A second device: the code it is given, its answer, approval on a device that belongs already, and the welcome that completes it.
//!
//! The new device makes its seed first and keeps it beside no identity (`enrolment.age`) until the welcome comes. Nothing is
//! approved twice, and each step can be run again.

use super::words::Words;
use crate::config::Label;
use crate::context::{Context, Init};
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::keyring::{DEVICE, Enrolment, Keyring, Purpose, Seed, open, seal, verify, x25519_public};
use crate::ledger::kinds::{DeviceApproved, DeviceDescribed, DeviceInvited, DeviceRevoked};
use crate::ledger::{B64, Device};
use crate::token::blob::{self, Type};
use crate::token::{self, Answer, Grant, Secret16, SignedAnswer, SignedRotation, Welcome, leads};
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a code can be answered.
pub const CODE_LIFE: Duration = Duration::from_secs(600);
/// What the first device is called until it says otherwise.
const FIRST: &str = "first";
/// Longest sealed welcome.
const SEALED_LIMIT: usize = blob::MAX_CONTENT;

/// A code that was made and recorded.
pub struct Invited {
    /// The line for the new device. A secret, for as long as it holds.
    pub blob: Zeroizing<String>,
    /// When it ends, Unix seconds.
    pub expires: u64,
}

/// Makes a one-time code with which one device can ask to join.
pub fn invite(cx: &Context, name: Option<&Label>) -> Result<Invited> {
    let (keyring, ledger) = (cx.keyring()?, cx.ledger()?);
    describe(cx, None)?;
    let id = Grant::random_id();
    let secret = Secret16::of_code(keyring.identity.expose(), &id);
    let expires = cx.now() + CODE_LIFE.as_secs();
    let span = DeviceInvited { id: B64(id), hash: B64(secret.hash()), expires, name: name.cloned() };
    ledger.record(&keyring.device_key(), &span)?;
    let code = token::Code { id, identity: keyring.identity_public(), secret, expires };
    Ok(Invited { blob: code.to_blob(), expires })
}

/// Says in the ledger what this device is called and what runs on it, if that is news.
fn describe(cx: &Context, name: Option<&Label>) -> Result<()> {
    let own = cx.ledger()?.device(&B64(cx.keyring()?.device_public()).to_string())?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let wanted = match name.or(own.name.as_ref()) {
        Some(name) => name.clone(),
        None => FIRST.parse()?,
    };
    if own.name.as_ref() == Some(&wanted) && own.version.as_ref() == Some(&version) {
        return Ok(());
    }
    cx.record(&DeviceDescribed { name: wanted, version }).map(drop)
}

/// A new device's answer to a code.
pub struct Answered {
    /// The line for the device that approves.
    pub blob: String,
    /// What both screens must show.
    pub words: Words,
}

/// On the new device: makes its keys and answers the code. The same code again gives the same answer.
pub fn answer(cx: &Context, text: &str, name: &Label) -> Result<Answered> {
    if cx.has_keyring() {
        return Err(Error::new(Code::Exists, format!("this home has an identity already: {}", cx.paths().home_in_use()))
            .because("a device belongs to one owner, for ever")
            .hint("join with an empty home: portdistrict --home DIR device init --code CODE --name NAME"));
    }
    let code = token::Code::from_blob(text).map_err(Error::from)?;
    if cx.now() >= code.expires {
        return Err(expired());
    }
    let enrolment = Enrolment::load_or_make(cx.paths(), &cx.unlock()?, &code.identity)?;
    let key = enrolment.device.signing_key(Purpose::DeviceSign);
    let answer = Answer {
        code: code.id,
        identity: code.identity,
        device: key.verifying_key().to_bytes(),
        enrolment: x25519_public(&enrolment.device.derive(Purpose::DeviceEcdh)),
        name: name.clone(),
    };
    let words = Words::of(&answer.identity, &answer.device)?;
    Ok(Answered { blob: answer.sign(&code.secret, &key).to_blob(), words })
}

/// An answer that can be approved.
pub struct Candidate {
    /// What the device wrote.
    pub answer: Answer,
    /// What it will be called.
    pub name: Label,
    /// What both screens must show.
    pub words: Words,
    /// It was approved before; approving it again only makes its welcome anew.
    pub again: bool,
}

/// On a device that belongs: reads an answer and refuses whatever is not one to a living code of this identity.
pub fn examine(cx: &Context, text: &str) -> Result<Candidate> {
    let signed = SignedAnswer::from_blob(text).map_err(|error| match error {
        blob::BlobError::Signature => Error::new(Code::Refused, "this answer was tampered with: the device it names did not sign it")
            .hint("do not use it; begin again: portdistrict device add"),
        other => Error::from(other),
    })?;
    let (answer, keyring, ledger) = (signed.answer().clone(), cx.keyring()?, cx.ledger()?);
    if answer.identity != keyring.identity_public() {
        return Err(Error::new(Code::Refused, "this answer is for another identity")
            .ruled("device-of-another-owner", None)
            .because(format!("it wants to join {}, and you are {}", node_id(&answer.identity), keyring.node_id()))
            .hint("approve it where its code was made, or make a code here: portdistrict device add"));
    }
    let unknown = || Error::new(Code::Refused, "this answer is to no code that was made here").hint("portdistrict device add");
    let code = ledger.device_code(&answer.code)?.ok_or_else(unknown)?;
    let secret = Secret16::of_code(keyring.identity.expose(), &answer.code);
    // A code is found by its name; only who had the code itself knows its secret.
    if code.hash.0 != secret.hash() || !signed.is_to(&secret) {
        return Err(Error::new(Code::Refused, "whoever wrote this answer did not have the code")
            .hint("do not approve it; begin again: portdistrict device add"));
    }
    let known = ledger.devices()?.into_iter().find(|device| device.key.0 == answer.device);
    if known.as_ref().is_some_and(|device| device.revoked_at.is_some()) {
        return Err(Error::new(Code::Refused, format!("the device `{}` was revoked and cannot come back", answer.name))
            .ruled("device-revoked", None)
            .hint("it needs new keys: an empty home, and a new code"));
    }
    let again = code.used_by == Some(B64(answer.device));
    match code.used_by {
        Some(other) if !again => {
            return Err(Error::new(Code::Refused, format!("this code was used already, by device {other}"))
                .ruled("device-code-used", None)
                .hint("a code is good for one device: portdistrict device add"));
        }
        None if cx.now() >= code.expires => return Err(expired()),
        _ => {}
    }
    let words = Words::of(&answer.identity, &answer.device)?;
    let name = code.name.unwrap_or_else(|| answer.name.clone());
    let taken = ledger
        .devices()?
        .into_iter()
        .any(|device| device.name.as_ref() == Some(&name) && device.key.0 != answer.device && device.revoked_at.is_none());
    if taken {
        return Err(
            Error::new(Code::Exists, format!("you have a device `{name}` already")).hint("answer the code again with another --name")
        );
    }
    Ok(Candidate { answer, name, words, again })
}

/// Records that the device belongs, and seals its welcome to it.
pub fn approve(cx: &Context, candidate: &Candidate) -> Result<String> {
    let keyring = cx.keyring()?;
    let device = candidate.answer.device;
    if !candidate.again {
        let cert = crate::keyring::sign(&keyring.identity_key(), DEVICE, &device);
        cx.record(&DeviceApproved {
            code: B64(candidate.answer.code),
            device: B64(device),
            enrolment: B64(candidate.answer.enrolment),
            name: candidate.name.clone(),
            cert: B64(cert),
        })?;
    }
    welcome(cx, &cx.ledger()?.device(&B64(device).to_string())?)
}

/// The sealed welcome of a device that was approved: for one that lost it, or after the identity was rotated.
pub fn welcome(cx: &Context, device: &Device) -> Result<String> {
    let keyring = cx.keyring()?;
    let shown = device.name.as_ref().map_or_else(|| device.key.to_string(), ToString::to_string);
    if device.revoked_at.is_some() {
        return Err(Error::new(Code::Refused, format!("the device `{shown}` was revoked")).hint("portdistrict device list"));
    }
    let (Some(enrolment), Some(name)) = (device.enrolment, &device.name) else {
        return Err(Error::new(Code::Precondition, format!("the device `{shown}` did not join by a code, so nothing can be sealed to it"))
            .hint("bring it the secret by hand: portdistrict identity export --secret"));
    };
    let copy = |seed: &Seed| Seed::from_bytes(seed.expose());
    let rotations = cx.ledger()?.rotations()?;
    let rotations = rotations.iter().filter_map(|bytes| SignedRotation::decode(bytes).ok()).collect();
    let welcome = Welcome {
        device: device.key.0,
        identity: copy(&keyring.identity),
        cert: crate::keyring::sign(&keyring.identity_key(), DEVICE, &device.key.0),
        retired: keyring.retired.iter().map(copy).collect(),
        rotations,
        name: name.clone(),
    };
    Ok(blob::encode(Type::Welcome, &seal(&enrolment.0, &welcome.encode())?))
}

/// What a welcome did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The device belongs to the identity now.
    Joined,
    /// It did before, and has its rotated identity now.
    Rotated,
    /// Nothing was new.
    Known,
}

/// On the new device: takes what it was given, and begins its chain. On one that belongs already: takes a rotated identity.
///
/// The context must be made anew afterwards.
pub fn accept(cx: &Context, text: &str) -> Result<Accepted> {
    let sealed = blob::read(Type::Welcome, text).map_err(Error::from)?;
    if sealed.len() > SEALED_LIMIT {
        return Err(Error::new(Code::BadBlob, "this welcome is too long").hint("make it anew: portdistrict device welcome NAME"));
    }
    if cx.has_keyring() {
        return accept_again(cx, &sealed);
    }
    let unlock = cx.unlock()?;
    let Some(enrolment) = Enrolment::load(cx.paths(), &unlock)? else {
        return Err(Error::new(Code::Precondition, "this home has not asked to join an identity")
            .hint("portdistrict device init --code CODE --name NAME"));
    };
    let welcome = read(&enrolment.device, &sealed)?;
    let found = Keyring::public_of(&welcome.identity);
    // Between code and welcome the identity may have been rotated; nobody else's will do.
    if found != enrolment.identity && !leads(&enrolment.identity, &found, &welcome.rotations) {
        return Err(Error::new(Code::Refused, "this welcome is of another identity than the code was")
            .because(format!("the code: {}", node_id(&enrolment.identity)))
            .because(format!("the welcome: {}", node_id(&found)))
            .hint("do not use it; begin again with a new code: portdistrict device add"));
    }
    check_cert(&welcome)?;
    let Enrolment { device, .. } = enrolment;
    let Welcome { identity, retired, name, .. } = welcome;
    let began = cx.begin(|| Ok(Keyring { retired, ..Keyring::of(identity, device) }))?;
    describe(cx, Some(&name))?;
    Enrolment::remove(cx.paths())?;
    Ok(if began == Init::Created { Accepted::Joined } else { Accepted::Known })
}

/// A device that has a keyring: it was interrupted, or the identity was rotated elsewhere.
fn accept_again(cx: &Context, sealed: &[u8]) -> Result<Accepted> {
    let unlock = cx.unlock()?.asked_once(cx.paths())?;
    let mut keyring = Keyring::open(cx.paths(), &unlock)?;
    let welcome = read(&keyring.device, sealed).map_err(|error| {
        if error.code() != Code::Refused {
            return error;
        }
        Error::new(Code::Exists, format!("this home has an identity already: {}", keyring.node_id()))
            .because("the welcome is sealed to another device")
            .hint("join with an empty home: portdistrict --home DIR device init --code CODE --name NAME")
    })?;
    check_cert(&welcome)?;
    let (old, new) = (keyring.identity_public(), Keyring::public_of(&welcome.identity));
    let outcome = if old == new {
        Accepted::Known
    } else if leads(&old, &new, &welcome.rotations) {
        keyring.next = None;
        let old = std::mem::replace(&mut keyring.identity, welcome.identity);
        // Those in between may be what something was sealed under.
        keyring.retired = welcome.retired;
        if keyring.retired.iter().all(|seed| seed.expose() != old.expose()) {
            keyring.retired.push(old);
        }
        keyring.store(cx.paths(), &unlock)?;
        Accepted::Rotated
    } else {
        return Err(Error::new(Code::Refused, format!("no rotation leads from {} to {}", node_id(&old), node_id(&new)))
            .hint("portdistrict identity show"));
    };
    record_rotations(cx, &keyring, &welcome.rotations)?;
    let fresh = Context::new(cx.paths().clone(), unlock);
    fresh.init()?;
    describe(&fresh, Some(&welcome.name))?;
    Enrolment::remove(cx.paths())?;
    Ok(outcome)
}

/// This device's record may not have heard of the rotations that its keyring has made.
fn record_rotations(cx: &Context, keyring: &Keyring, rotations: &[SignedRotation]) -> Result<()> {
    use crate::ledger::kinds::{Blob, Certified, IdentityRotated};
    for signed in rotations {
        let rotation = signed.rotation();
        if cx.ledger()?.current_identity()? != Some(B64(rotation.old)) {
            continue;
        }
        let Some(seed) = keyring.seed_of(&rotation.new) else { continue };
        let cert = crate::keyring::sign(&seed.signing_key(Purpose::IdentitySign), DEVICE, &keyring.device_public());
        let devices = vec![Certified { device: B64(keyring.device_public()), cert: B64(cert) }];
        let span = IdentityRotated { old: B64(rotation.old), new: B64(rotation.new), statement: Blob(signed.encode()), devices };
        cx.ledger()?.record(&keyring.device_key(), &span)?;
    }
    Ok(())
}

fn read(device: &Seed, sealed: &[u8]) -> Result<Welcome> {
    let bytes = open(&device.derive(Purpose::DeviceEcdh), sealed, Welcome::LIMIT)?;
    let welcome = Welcome::decode(&bytes).map_err(|error| {
        Error::new(Code::BadBlob, "what is in this welcome cannot be read").cause(error).hint("use the same version on both devices")
    })?;
    if welcome.device == device.signing_key(Purpose::DeviceSign).verifying_key().to_bytes() {
        return Ok(welcome);
    }
    Err(Error::new(Code::Refused, "this welcome is for another device").hint("make it anew: portdistrict device welcome NAME"))
}

fn check_cert(welcome: &Welcome) -> Result<()> {
    if verify(&Keyring::public_of(&welcome.identity), DEVICE, &welcome.device, &welcome.cert) {
        return Ok(());
    }
    Err(Error::new(Code::Refused, "the certificate in this welcome does not hold").hint("make it anew: portdistrict device welcome NAME"))
}

/// Ends what a device may do. It still knows the identity's secret, which only `identity rotate` changes.
pub fn revoke(cx: &Context, device: &Device, reason: &str) -> Result<Device> {
    if device.key.0 == cx.keyring()?.device_public() {
        return Err(Error::new(Code::Usage, "this is the device in use; it cannot revoke itself")
            .hint("on another one of your devices: portdistrict device revoke NAME"));
    }
    if device.revoked_at.is_none() {
        cx.record(&DeviceRevoked { device: device.key, at: cx.now(), last: device.seq, reason: reason.to_owned() })?;
    }
    cx.ledger()?.device(&device.key.to_string())
}

fn expired() -> Error {
    Error::new(Code::Refused, "this code has expired: it holds for ten minutes")
        .ruled("device-code-expired", None)
        .hint("make a new one: portdistrict device add")
}
