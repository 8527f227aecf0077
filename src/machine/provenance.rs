//! `machine sign-image` and `machine verify-image`: the files of an image, and the signed word on who made them.

use super::build::{self, MANIFEST};
use crate::context::Context;
use crate::encoding::{base64, hex, node_id};
use crate::error::{Code, Doing, Error, Result};
use crate::image::Manifest;
use crate::image::provenance::{FILE, Fault, MAX, MAX_INVOCATION, Provenance, Statement, Subject};
use crate::ledger::{B64, PeerState};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Says, signed, that the image in a folder was made from what its `image.json` tells. Refused if its files are not those.
pub fn sign(cx: &Context, folder: &Path, invocation: Option<&str>) -> Result<Provenance> {
    if invocation.is_some_and(|run| run.is_empty() || run.len() > MAX_INVOCATION) {
        return Err(Error::new(Code::Usage, format!("the name of a run has from 1 to {MAX_INVOCATION} bytes")).hint("--invocation run-5"));
    }
    let file = folder.join(MANIFEST);
    let description = crate::config::fs::read(&file, Manifest::MAX)?;
    let manifest = Manifest::parse(&file.display().to_string(), &description)?;
    let keyring = cx.keyring()?;
    let statement = Statement::of(&manifest, &description, &keyring.identity_public(), invocation);
    look_at(folder, &statement.subject)?;
    let signed = Provenance::sign(statement, keyring)?;
    let out = folder.join(FILE);
    build::replace(&out, |file| file.write_all(&signed.encode()?).doing("write", out.display()))?;
    Ok(signed)
}

/// Who must have signed.
#[derive(Clone, Debug)]
pub enum Signer {
    /// The identity with this id or key.
    Named(String),
    /// The owner of this home, or a peer who was verified here.
    Known,
}

/// An image whose provenance holds.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What was said of it.
    pub provenance: Provenance,
    /// Who signed, in words: `you`, or a peer's name and state; none where the identity was only named.
    pub who: Option<String>,
    /// The names of the files that were looked at.
    pub seen: Vec<String>,
}

/// Checks an image by its folder, or one file of it by its digest. Touches no network.
pub fn verify(cx: &Context, target: &Path, provenance: Option<&Path>, signer: &Signer) -> Result<Verified> {
    let is_folder = target.is_dir();
    let beside = if is_folder { target } else { target.parent().unwrap_or(Path::new(".")) };
    let file = provenance.map_or_else(|| beside.join(FILE), Path::to_owned);
    let bytes = crate::config::fs::read(&file, MAX).map_err(|error| match error.code() {
        Code::NotFound => Error::new(Code::Refused, format!("nobody has signed for it: there is no {}", file.display()))
            .ruled("image-unsigned", None)
            .hint("name the file with --provenance FILE; whoever built it makes one: portdistrict machine sign-image FOLDER"),
        _ => error,
    })?;
    let provenance = Provenance::decode(&file.display().to_string(), &bytes)?;
    provenance.verify().map_err(|fault| broken(fault, &file))?;
    let who = known(cx, &provenance, signer)?;
    let subjects = &provenance.statement.subject;
    let seen = if is_folder { look_at(target, subjects)? } else { vec![one_of(target, subjects)?] };
    Ok(Verified { who, seen, provenance })
}

fn broken(fault: Fault, file: &Path) -> Error {
    let (what, rule) = match fault {
        Fault::Certificate => ("the identity in it did not certify the device that signed", "image-certificate"),
        Fault::Signature => ("the signature in it does not hold", "image-signature"),
    };
    Error::new(Code::Refused, format!("{}: {what}", file.display()))
        .ruled(rule, None)
        .hint("fetch it again from whoever built the image; if it stays so, do not use the image")
}

/// Who signed, where that is somebody who is to be believed.
fn known(cx: &Context, provenance: &Provenance, signer: &Signer) -> Result<Option<String>> {
    let (id, key) = (node_id(&provenance.identity), base64(&provenance.identity));
    let refuse = |why: String, hint: String| {
        Err(Error::new(Code::Refused, why).because(format!("it was signed by {id}")).ruled("image-signer", None).hint(hint))
    };
    let found = home(cx, provenance)?;
    match signer {
        Signer::Named(wanted) if wanted.eq_ignore_ascii_case(&id) || *wanted == key => Ok(found),
        Signer::Named(wanted) => refuse(
            format!("another identity signed for this image, not {wanted}"),
            "ask whoever built it for the id that `portdistrict identity show` prints there".to_owned(),
        ),
        Signer::Known if found.is_some() => Ok(found),
        Signer::Known => refuse(
            "nobody who is known here signed for this image".to_owned(),
            format!("if you know from elsewhere that this is the builder: --identity {id}"),
        ),
    }
}

/// What this home knows of the signer; nothing where there is no home. A device that was revoked is believed nothing.
fn home(cx: &Context, provenance: &Provenance) -> Result<Option<String>> {
    let Ok(ledger) = cx.ledger_read_only() else { return Ok(None) };
    if ledger.identities()?.contains(&B64(provenance.identity)) {
        if ledger.device(&base64(&provenance.device)).is_ok_and(|device| device.revoked_at.is_some()) {
            return Err(Error::new(Code::Refused, "a device of yours signed for this image that you have revoked")
                .ruled("device-revoked", None)
                .hint("build the image again, and sign it with a device that counts"));
        }
        return Ok(Some("you".to_owned()));
    }
    let peer = ledger.peer_by_id(&node_id(&provenance.identity))?;
    let believed = peer.filter(|peer| matches!(peer.state, PeerState::Verified | PeerState::Trusted));
    Ok(believed.map(|peer| format!("{} ({})", peer.name, peer.state.as_str())))
}

/// Compares every file of a folder that the statement names. One that is not there cannot be wrong, but one of them must be.
fn look_at(folder: &Path, subjects: &[Subject]) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    for subject in subjects {
        let Some(told) = subject.sha256() else { continue };
        let path = folder.join(&subject.name);
        let Some(found) = digest_of(&path)? else { continue };
        if found != told {
            return Err(altered(&path, &found, told));
        }
        seen.push(subject.name.clone());
    }
    if seen.iter().all(|name| name == MANIFEST) {
        return Err(Error::new(Code::NotFound, format!("there is no disk and no archive of the image in {}", folder.display()))
            .hint("name the folder that `machine build` made, or one file: portdistrict machine verify-image FILE --provenance FILE"));
    }
    Ok(seen)
}

/// Finds a file among the subjects, whatever it is called here.
fn one_of(path: &Path, subjects: &[Subject]) -> Result<String> {
    let found =
        digest_of(path)?.ok_or_else(|| Error::new(Code::NotFound, format!("there is no {}", path.display())).hint("check the path"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let told = subjects.iter().find(|subject| subject.name == name).and_then(Subject::sha256);
    match subjects.iter().find(|subject| subject.sha256() == Some(&found)) {
        Some(subject) => Ok(subject.name.clone()),
        None => Err(altered(path, &found, told.unwrap_or("other files"))),
    }
}

fn altered(path: &Path, found: &str, told: &str) -> Error {
    Error::new(Code::Refused, format!("{} is not the file that was signed for", path.display()))
        .because(format!("it has sha256 {found}, the provenance tells of {told}"))
        .ruled("image-altered", None)
        .hint("fetch it again; if it stays so, do not use it")
}

/// SHA-256 of a file in hex; none if it is not there.
fn digest_of(path: &Path) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.doing("read", path.display())?,
    };
    Ok(Some(hex(build::digest(&mut file, |_| ()).doing("read", path.display())?.as_ref())))
}

/// What [`sign`] would do, one sentence each.
pub fn describe(folder: &Path) -> Vec<String> {
    vec![
        format!("compare the files with {}", folder.join(MANIFEST).display()),
        format!("write {}, signed by this device", folder.join(FILE).display()),
    ]
}
