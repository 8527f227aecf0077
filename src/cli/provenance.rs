//! `machine sign-image` and `machine verify-image`.

use super::Call;
use super::machine::Steps;
use super::output::{Look, View, clean, fields};
use crate::encoding::{base64, node_id};
use crate::error::Result;
use crate::image::provenance::{Dependency, Provenance};
use crate::machine::provenance::{self, Signer, Verified};
use clap::ValueHint;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Sign for an image: who made it, and from what
///
/// Writes provenance.json beside image.json: an in-toto statement with SLSA provenance, signed by this device. The image stays as it is. For
/// an image that was built where there is no identity; `machine build --sign` does both.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  What was built without an identity:\n    portdistrict machine sign-image out\n  \
                             With the run of a pipeline that built it:\n    \
                             portdistrict machine sign-image out --invocation https://ci.example.org/runs/5")]
pub(super) struct SignArgs {
    /// Folder of the image
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: PathBuf,
    /// What the pipeline calls the run that built it
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other)]
    invocation: Option<String>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Check who made an image, and that it is still that one
///
/// Needs no network, and no home if the builder is named. Ends with status 4 if a file differs, a signature does not hold, or somebody else
/// signed. Without --identity the signer must be you or a peer you have verified.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  An image of yours:\n    portdistrict machine verify-image out\n  \
                             Only its archive, wherever it lies:\n    \
                             portdistrict machine verify-image out/image.tar.gz --provenance out/provenance.json\n  \
                             Anywhere, by the builder's id:\n    portdistrict machine verify-image out --identity \
                             \"$(portdistrict identity show | awk '/^id/ {print $2}')\"")]
pub(super) struct VerifyArgs {
    /// Folder of the image, or one file of it
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    path: PathBuf,
    /// The provenance, if it does not lie beside
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    provenance: Option<PathBuf>,
    /// Id (or key) of the identity that must have signed
    #[arg(long, value_name = "ID", value_hint = ValueHint::Other)]
    identity: Option<String>,
}

/// What was signed.
#[derive(Serialize)]
struct Signed {
    file: String,
    identity: String,
    device: String,
    invocation: Option<String>,
}

impl View for Signed {
    fn text(&self, look: &Look) -> String {
        fields(&[
            ("provenance", look.bold(&self.file)),
            ("identity", self.identity.clone()),
            ("device", self.device.clone()),
            ("run", self.invocation.clone().unwrap_or_default()),
        ])
    }
}

/// What holds.
#[derive(Serialize)]
struct Holds {
    verified: bool,
    /// The id of the identity that vouches for it.
    identity: String,
    key: String,
    device: String,
    /// `you`, or a peer; absent where the identity was only named.
    signer: Option<String>,
    /// Files that were compared.
    files: Vec<String>,
    version: String,
    kernel_release: String,
    source_date_epoch: u32,
    inputs: Vec<Dependency>,
    invocation: Option<String>,
}

impl View for Holds {
    fn text(&self, look: &Look) -> String {
        let input = |input: &Dependency| {
            let digest = input.digest.get("sha256").cloned().unwrap_or_default();
            (clean(&input.name), clean(&format!("{} {digest}", input.uri.as_deref().unwrap_or("file"))))
        };
        let inputs: Vec<(String, String)> = self.inputs.iter().map(input).collect();
        let mut rows = vec![
            ("image", look.good("as signed")),
            ("files", clean(&self.files.join(", "))),
            ("signed by", self.signer.clone().map_or_else(|| self.identity.clone(), |who| format!("{who}, {}", self.identity))),
            ("device", self.device.clone()),
            ("version", clean(&self.version)),
            ("release", clean(&self.kernel_release)),
            ("run", self.invocation.as_deref().map(clean).unwrap_or_default()),
        ];
        rows.extend(inputs.iter().map(|(name, what)| (name.as_str(), what.clone())));
        fields(&rows)
    }
}

/// Runs `machine sign-image`.
pub(super) fn sign(call: &Call, args: &SignArgs) -> Result<()> {
    if args.dry_run {
        return call.out.show(&Steps { would: provenance::describe(&args.folder) });
    }
    let signed = provenance::sign(&call.context()?, &args.folder, args.invocation.as_deref())?;
    call.out.show(&told(&args.folder, &signed))
}

fn told(folder: &Path, signed: &Provenance) -> Signed {
    Signed {
        file: folder.join(crate::image::provenance::FILE).display().to_string(),
        identity: node_id(&signed.identity),
        device: base64(&signed.device),
        invocation: signed.statement.predicate.run.metadata.invocation.clone(),
    }
}

/// Runs `machine verify-image`.
pub(super) fn verify(call: &Call, args: &VerifyArgs) -> Result<()> {
    let signer = args.identity.clone().map_or(Signer::Known, Signer::Named);
    let Verified { provenance, who, seen } = provenance::verify(&call.context()?, &args.path, args.provenance.as_deref(), &signer)?;
    let definition = provenance.statement.predicate.definition;
    call.out.show(&Holds {
        verified: true,
        identity: node_id(&provenance.identity),
        key: base64(&provenance.identity),
        device: base64(&provenance.device),
        signer: who,
        files: seen,
        version: definition.found.version,
        kernel_release: definition.found.kernel_release,
        source_date_epoch: definition.chosen.source_date_epoch,
        inputs: definition.inputs,
        invocation: provenance.statement.predicate.run.metadata.invocation,
    })
}
