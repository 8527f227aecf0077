//! `ledger export`, `ledger import`: the record carried to another device, into a backup, or to a friend.

use super::Call;
use super::output::{Look, View, count};
use crate::config::fs;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring::{PassphraseFrom, Unlock};
use crate::ledger::{Audience, Exported, Imported, Ledger, Opener, Seal};
use clap::ValueHint;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Age keys are a line each; a larger file is a mistake.
const KEY_FILE_LIMIT: usize = 64 * 1024;

/// Write the record out, with every signature
///
/// One JSON document a line. Entries that the audience may not see are there as links alone, so that what is there can be checked.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  A backup of everything, sealed with a passphrase:\n    \
                             portdistrict ledger export --for device --sealed-passphrase-file passphrase.txt --out ledger.age\n  \
                             For another device of yours:\n    portdistrict ledger export --out ledger.jsonl\n  \
                             How many kinds of things happened:\n    portdistrict ledger export | grep -o '\"kind\":\"[^\"]*\"' | sort | uniq -c")]
pub(super) struct ExportArgs {
    /// For whom: device (everything, for a backup), devices (of yours) or peer:ID (what is shared with that peer)
    #[arg(long = "for", value_name = "AUDIENCE", default_value = "devices", value_hint = ValueHint::Other)]
    audience: Audience,
    /// File to write instead of stdout; readable by you alone
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Seal it for this age key; may be given several times
    #[arg(long, value_name = "RECIPIENT", value_hint = ValueHint::Other)]
    age: Vec<String>,
    /// Seal it with the passphrase in the first line of this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "age")]
    sealed_passphrase_file: Option<PathBuf>,
}

/// Take in what another device exported, or a backup
///
/// All of it or nothing: a line that was changed, is missing, doubled or out of order, or says what its author may not say, is named,
/// and nothing changes. Entries that are here already are fine.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  What would come in?\n    \
                             portdistrict ledger export --out ledger.jsonl && portdistrict ledger import ledger.jsonl --dry-run\n  \
                             Through a pipe:\n    portdistrict ledger export | portdistrict ledger import -")]
pub(super) struct ImportArgs {
    /// File with the export; - reads from stdin
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// File with the age key that it is sealed for
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    age_key: Option<PathBuf>,
    /// File whose first line is the passphrase that it is sealed with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    sealed_passphrase_file: Option<PathBuf>,
    /// Check everything and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was written.
#[derive(Serialize)]
struct Written {
    #[serde(flatten)]
    exported: Exported,
    file: Option<PathBuf>,
}

impl View for Written {
    fn text(&self, _: &Look) -> String {
        let place = self.file.as_ref().map_or_else(|| "stdout".to_owned(), |file| file.display().to_string());
        format!("Wrote {} to {place}{}.", entries(self.exported.spans), withheld(self.exported.withheld))
    }
}

fn entries(n: u64) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX), "entry")
}

fn withheld(n: u64) -> String {
    if n == 0 { String::new() } else { format!(", and links in place of {n} that this audience may not see") }
}

pub(super) fn export(call: &Call, ledger: &Ledger, args: &ExportArgs) -> Result<()> {
    let seal = match (&args.sealed_passphrase_file, args.age.as_slice()) {
        (Some(file), _) => Some(Seal::Passphrase(passphrase(file)?)),
        (None, []) => None,
        (None, keys) => Some(Seal::to_keys(keys)?),
    };
    let write = |to: &mut dyn Write| match &seal {
        Some(seal) => seal.write(to, |to| ledger.export(&args.audience, BufWriter::new(to))),
        None => ledger.export(&args.audience, BufWriter::new(to)),
    };
    let Some(file) = &args.out else {
        let exported = write(&mut Stdout(call))?;
        call.out.say(Written { exported, file: None }.text(&Look::PLAIN));
        return Ok(());
    };
    let exported = into_file(file, write)?;
    call.out.show(&Written { exported, file: Some(file.clone()) })
}

/// Written beside it and renamed, so that a file of that name is always whole.
fn into_file<T>(file: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let _ = std::fs::remove_file(&part);
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).doing("write", part.display())?;
    let done = write(&mut to).and_then(|done| {
        to.sync_all().and_then(|()| std::fs::rename(&part, file)).doing("write", file.display())?;
        Ok(done)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// Standard output; a reader that goes away ends the export.
struct Stdout<'a>(&'a Call);

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.out.raw(bytes).map_err(|error| std::io::Error::other(error.to_string())).map(|_| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What was taken in.
#[derive(Serialize)]
struct Taken {
    #[serde(flatten)]
    imported: Imported,
    dry_run: bool,
}

impl View for Taken {
    fn text(&self, _: &Look) -> String {
        let verb = if self.dry_run { "Would take in" } else { "Took in" };
        let Imported { spans, withheld: links, known, .. } = &self.imported;
        format!(
            "{verb} {}{}; {} here before.",
            entries(*spans),
            withheld(*links),
            if *known == 1 { "1 was".to_owned() } else { format!("{known} were") }
        )
    }
}

pub(super) fn import(call: &Call, args: &ImportArgs) -> Result<()> {
    let opener = Opener {
        keys: args.age_key.as_deref().map(|file| fs::read_private(file, KEY_FILE_LIMIT)).transpose()?,
        passphrase: args.sealed_passphrase_file.as_deref().map(passphrase).transpose()?,
    };
    let cx = call.context()?;
    let paths = cx.paths();
    let device = if cx.has_keyring() { Some(cx.keyring()?.device_public()) } else { None };
    let file = paths.ledger_file();
    let from: Box<dyn std::io::BufRead> = if args.file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let missing = || Error::new(Code::NotFound, format!("there is no {}", args.file.display())).hint("check the path");
        match File::open(&args.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            opened => Box::new(BufReader::new(opened.doing("read", args.file.display())?)),
        }
    };
    let from = opener.open(from)?;
    fs::ensure_private_dir(&paths.data)?;
    let born = !file.exists();
    let done = Ledger::open(&file).and_then(|ledger| ledger.import(from, device, args.dry_run));
    if born && (done.is_err() || args.dry_run) {
        for end in ["", "-wal", "-shm"] {
            let mut name = file.as_os_str().to_owned();
            name.push(end);
            let _ = std::fs::remove_file(name);
        }
    }
    call.out.show(&Taken { imported: done?, dry_run: args.dry_run })
}

fn passphrase(file: &Path) -> Result<secrecy::SecretString> {
    Unlock::default().with_passphrase(PassphraseFrom::File(file.to_owned())).passphrase()
}
