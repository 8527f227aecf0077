//! Where a machine's seed comes from, and how its owner keeps one that the machine does not.

use super::Order;
use crate::config::fs;
use crate::context::Context;
use crate::encoding::{base64, from_base64_array};
use crate::error::{Code, Error, Result};
use crate::keyring::Seed;
use crate::ledger::Machine;
use crate::owner::{SEED, SEED_SOURCE};
use crate::session::seed::Source;
use serde_json::Value;
use std::path::Path;
use zeroize::Zeroizing;

/// Far above 43 characters.
const MAX_SEED_FILE: usize = 256;

/// Where the seed of a new machine comes from; refused where it cannot.
pub(super) fn source(order: &Order) -> Result<Source> {
    let usage = |why: String, hint: &str| Err(Error::new(Code::Usage, why).hint(hint));
    match order.source {
        None | Some(Source::Local) if !order.on.keeps_no_seed() => Ok(Source::Local),
        Some(source) if !order.on.keeps_no_seed() => usage(
            format!("a machine on `{}` keeps its seed in its state folder: it cannot be `{source}`", order.on),
            "leave --seed away, or deploy an image: --on qemu --image FOLDER",
        ),
        Some(Source::Local) => usage("a machine that boots an image keeps nothing: its seed cannot be `local`".to_owned(), "--seed owner"),
        Some(source) if source.is_of_hardware() && order.seed_file.is_some() => {
            usage(format!("a seed that is {source} is in the machine alone, and in no file"), "leave --seed-file away")
        }
        Some(source) if source.is_of_hardware() && order.tor.is_some() => usage(
            format!("a machine whose seed is {source} cannot be an onion service in this version: nobody else knows its address"),
            "leave --tor away, or take --seed owner",
        ),
        other => Ok(other.unwrap_or_default()),
    }
}

/// Where the seed of a machine comes from that was deployed.
pub(super) fn source_of(machine: &Machine) -> Source {
    let recorded = machine.detail.get(SEED_SOURCE).and_then(Value::as_str).and_then(|name| name.parse().ok());
    recorded.unwrap_or(if machine.detail.contains_key(SEED) { Source::Owner } else { Source::Local })
}

/// The seed in a file; none if there is no such file yet.
pub(super) fn read_seed(file: &Path) -> Result<Option<Zeroizing<[u8; 32]>>> {
    let bytes = match fs::read_private(file, MAX_SEED_FILE) {
        Err(error) if error.code() == Code::NotFound => return Ok(None),
        other => Zeroizing::new(other?),
    };
    let seed = std::str::from_utf8(&bytes).ok().and_then(|text| from_base64_array(text.trim()));
    let seed = seed.ok_or_else(|| {
        Error::new(Code::Usage, format!("{} does not hold a seed (32 bytes as base64url)", file.display()))
            .hint("name a file that `machine deploy --seed-file` made, or one that does not exist yet")
    })?;
    Ok(Some(Zeroizing::new(seed)))
}

/// A machine's seed as the ledger keeps it: 16 random bytes, then the seed sealed for them.
pub(super) fn seal_seed(cx: &Context, seed: &[u8; 32]) -> Result<String> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    let sealed = cx.keyring()?.seal_machine_seed(&id, seed);
    Ok(base64(&[&id[..], &sealed[..]].concat()))
}

/// The seed that a machine waits for; none if it keeps its own.
pub(super) fn open_seed(cx: &Context, machine: &Machine) -> Result<Option<Seed>> {
    let Some(text) = machine.detail.get(SEED).and_then(Value::as_str) else { return Ok(None) };
    let parts = from_base64_array::<48>(text).and_then(|bytes| Some((*bytes.first_chunk()?, *bytes.last_chunk()?)));
    let (id, sealed): ([u8; 16], [u8; 32]) = parts.ok_or_else(|| {
        Error::new(Code::Ledger, format!("the record of machine `{}` has a damaged seed", machine.label)).hint("portdistrict ledger verify")
    })?;
    Ok(Some(Seed::from_bytes(&cx.keyring()?.open_machine_seed(&machine.owner.0, &id, &sealed))))
}
