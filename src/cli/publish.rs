//! `machine publish`: images at Google, from which machines are made; `--on hetzner` is in `publish_hetzner.rs`.

use super::output::{Look, View, fields, table};
use super::{Call, complete};
use crate::config::{bytes, time};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::machine::build::{self, BuildOrder};
use crate::machine::publish::{self, Order, Published, Shelved};
use clap::ValueHint;
use serde::Serialize;
use std::path::PathBuf;

/// Publish an image at a cloud, so that machines can be made of it
///
/// The archive goes through a bucket of Cloud Storage into an image of Compute Engine, which is read back and compared; then the
/// archive is removed from the bucket. An image is named by version and digest, so publishing the same one twice does nothing, and
/// old ones stay until --prune. Interrupted at any byte, the same command goes on. Credentials are those of Google's own tools.
///
/// With --on hetzner a small server's disk is written from its rescue system, by ssh, and kept as a snapshot: docs/providers.md.
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  The image in the folder out, and first what would be asked of Google:\n    \
                             portdistrict machine publish out --project my-project --bucket my-images --dry-run\n    \
                             portdistrict machine publish out --project my-project --bucket my-images\n  \
                             What is published, and which one new machines get:\n    portdistrict machine publish --list\n  \
                             New machines get an older one again:\n    portdistrict machine publish --rollback pd-0-4-0-3f2a9c81d07e\n  \
                             Keep the newest three:\n    portdistrict machine publish --prune --keep 3 --yes\n  \
                             At Hetzner Cloud:\n    portdistrict machine publish out --on hetzner --dry-run")]
pub(super) struct PublishArgs {
    /// Image: the folder that `machine build` made, its image.json, or the archive beside that; built now unless given
    #[arg(value_name = "IMAGE", value_hint = ValueHint::AnyPath, conflicts_with_all = ["list", "rollback", "prune"])]
    pub(super) image: Option<PathBuf>,
    /// Where: at Google, or at Hetzner Cloud
    #[arg(long, value_name = "PROVIDER", value_parser = ["gce", "hetzner"], default_value = "gce")]
    on: String,
    /// Location at Hetzner of the server that writes the image
    #[arg(long, value_name = "ZONE", value_hint = ValueHint::Other)]
    pub(super) zone: Option<String>,
    /// Size at Hetzner of the server that writes the image, and that machines have then; the cheapest unless given
    #[arg(long, value_name = "TYPE", value_hint = ValueHint::Other)]
    pub(super) size: Option<String>,
    /// Project at Google
    #[arg(long, value_name = "PROJECT", value_hint = ValueHint::Other)]
    pub(super) project: Option<String>,
    /// Bucket of Cloud Storage through which the archive goes
    #[arg(long, value_name = "BUCKET", value_hint = ValueHint::Other)]
    pub(super) bucket: Option<String>,
    /// Let Intel's processors encrypt its memory, too (TDX)
    #[arg(long)]
    pub(super) tdx: bool,
    /// Leave the archive in the bucket
    #[arg(long)]
    pub(super) keep_object: bool,
    /// List what is published
    #[arg(long)]
    pub(super) list: bool,
    /// Let new machines get this image: newer ones are retired, and can be taken back in the same way
    #[arg(long, value_name = "NAME", add = complete::images(), conflicts_with = "list")]
    pub(super) rollback: Option<String>,
    /// Remove old images for ever
    #[arg(long, conflicts_with_all = ["list", "rollback"], requires = "keep")]
    pub(super) prune: bool,
    /// How many of the newest images stay; the one that new machines get always does
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..), requires = "prune", value_hint = ValueHint::Other)]
    pub(super) keep: Option<u16>,
    /// Remove one image at Hetzner for ever, and whatever a killed publishing of it left there
    #[arg(long, value_name = "NAME", add = complete::images(), conflicts_with_all = ["image", "list", "rollback", "prune"])]
    pub(super) remove: Option<String>,
    /// Show what would be asked of the cloud, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Runs `machine publish`.
pub(super) fn run(call: &Call, args: PublishArgs) -> Result<()> {
    if args.on == "hetzner" {
        return super::publish_hetzner::run(call, args);
    }
    if let Some(name) =
        args.zone.as_ref().map(|_| "--zone").or(args.size.as_ref().map(|_| "--size")).or(args.remove.as_ref().map(|_| "--remove"))
    {
        return Err(Error::new(Code::Usage, format!("{name} is for Hetzner Cloud"))
            .hint("leave it away, or --on hetzner; old images at Google go with --prune"));
    }
    let cx = call.context()?;
    let project = args.project.as_deref();
    if args.list {
        return list(call, &cx, project);
    }
    if let Some(name) = &args.rollback {
        let progress = call.out.progress();
        let earnest = (!args.dry_run).then_some(&*progress);
        let done = call.block_on(publish::rollback(&cx, project, name, earnest))?;
        if args.dry_run {
            return call.out.show(&super::machine::Steps { would: done.would });
        }
        return call.out.show(&RolledBack { current: name.clone(), changed: done.changed });
    }
    if args.prune {
        return prune(call, &cx, project, usize::from(args.keep.unwrap_or(u16::MAX)), args.dry_run);
    }
    let image = match args.image {
        Some(image) => image,
        None if args.dry_run => return Err(needs_image("")),
        None => built(call, &cx)?,
    };
    let order = Order { image, project: args.project, bucket: args.bucket, tdx: args.tdx, keep_object: args.keep_object };
    if args.dry_run {
        return call.out.show(&super::machine::Steps { would: publish::requests(&cx, &order)? });
    }
    let progress = call.out.progress();
    let done = call.block_on(publish::publish(&cx, &order, &*progress)).map_err(|error| match error.code() {
        Code::Interrupted => error.hint("run the command again: it goes on where it was"),
        _ => error,
    })?;
    call.out.say(format!("Next: portdistrict machine deploy --on gce --project {} --label home", done.project));
    call.out.show(&Made::from(done))
}

/// A dry run builds nothing.
pub(super) fn needs_image(on: &str) -> Error {
    Error::new(Code::Usage, "what would be asked depends on the image")
        .hint(format!("portdistrict machine build -o out && portdistrict machine publish out{on} --dry-run"))
}

/// An image of this program, made in the cache.
pub(super) fn built(call: &Call, cx: &Context) -> Result<PathBuf> {
    let out = cx.paths().cache.join("image");
    let order = BuildOrder { out: out.clone(), epoch: super::image::epoch()?, ..BuildOrder::default() };
    let (paths, progress) = (cx.paths().clone(), call.out.progress());
    super::image::cancellable(call, &out, move || build::build(&paths, &order, &*progress))?;
    Ok(out)
}

fn list(call: &Call, cx: &Context, project: Option<&str>) -> Result<()> {
    let images = call.block_on(publish::list(cx, project))?;
    if images.is_empty() {
        call.out.say("Nothing is published yet: portdistrict machine publish out --bucket BUCKET");
    }
    call.out.show(&Images { images: images.into_iter().map(Row::from).collect() })
}

fn prune(call: &Call, cx: &Context, project: Option<&str>, keep: usize, dry_run: bool) -> Result<()> {
    let would = call.block_on(publish::prune(cx, project, keep, None))?;
    if dry_run {
        return call.out.show(&super::machine::Steps { would: would.would });
    }
    if !would.changed.is_empty() {
        call.out.confirm(&format!("Remove for ever: {}?", would.changed.join(", ")))?;
    }
    let progress = call.out.progress();
    let done = call.block_on(publish::prune(cx, project, keep, Some(&*progress)))?;
    call.out.show(&Pruned { removed: done.changed })
}

/// A published image.
#[derive(Serialize)]
struct Made {
    /// Its name at Google.
    name: String,
    project: String,
    /// What evidence names it by (hex).
    digest: String,
    /// It was there already, and nothing was done.
    already: bool,
    /// Where the archive stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
}

impl From<Published> for Made {
    fn from(done: Published) -> Made {
        let Published { name, project, digest, already, object } = done;
        Made { name, project, digest, already, object }
    }
}

impl View for Made {
    fn text(&self, look: &Look) -> String {
        let state = if self.already { "was published already" } else { "published, read back and compared" };
        fields(&[
            ("image", look.bold(&self.name)),
            ("project", self.project.clone()),
            ("digest", self.digest.clone()),
            ("archive", self.object.clone().unwrap_or_default()),
            ("state", state.to_owned()),
        ])
    }
}

/// What is published.
#[derive(Serialize)]
struct Images {
    images: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    /// `current`, `published`, `retired`, or Google's word for one that cannot be used.
    state: String,
    /// Unix seconds.
    made_at: i64,
    /// Bytes of the archive it was made of.
    size: u64,
    description: String,
}

impl From<Shelved> for Row {
    fn from(image: Shelved) -> Row {
        let state = match image.status.as_str() {
            "READY" if image.current => "current".to_owned(),
            "READY" if image.retired => "retired".to_owned(),
            "READY" => "published".to_owned(),
            other => other.to_lowercase(),
        };
        Row { name: image.name, state, made_at: image.made_at / 1000, size: image.size, description: image.description }
    }
}

impl View for Images {
    fn text(&self, look: &Look) -> String {
        let row = |row: &Row| {
            let state = if row.state == "current" { look.good(&row.state) } else { row.state.clone() };
            vec![row.name.clone(), state, time::absolute(row.made_at.try_into().unwrap_or(0)), bytes(row.size)]
        };
        table(look, &["NAME", "STATE", "MADE", "SIZE"], &self.images.iter().map(row).collect::<Vec<_>>())
    }
}

/// Which image new machines get now.
#[derive(Serialize)]
struct RolledBack {
    current: String,
    /// Those that were retired or taken back for it.
    changed: Vec<String>,
}

impl View for RolledBack {
    fn text(&self, look: &Look) -> String {
        fields(&[("current", look.bold(&self.current)), ("changed", self.changed.join(", "))])
    }
}

/// What is gone.
#[derive(Serialize)]
pub(super) struct Pruned {
    pub(super) removed: Vec<String>,
}

impl View for Pruned {
    fn text(&self, _: &Look) -> String {
        if self.removed.is_empty() { "nothing is old enough\n".to_owned() } else { fields(&[("removed", self.removed.join(", "))]) }
    }
}
