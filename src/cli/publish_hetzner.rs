//! `machine publish --on hetzner`: images at Hetzner Cloud.

use super::Call;
use super::machine::Steps;
use super::output::{Look, View, fields, table};
use super::publish::{Pruned, PublishArgs};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::machine::hetzner::{self, Published};
use serde::Serialize;
use std::path::Path;

/// Runs `machine publish --on hetzner`.
pub(super) fn run(call: &Call, args: PublishArgs) -> Result<()> {
    refuse_what_is_of_google(&args)?;
    let cx = call.context()?;
    if args.list {
        let images = call.block_on(hetzner::list(&cx))?;
        return call.out.show(&Images { images: images.into_iter().map(Row::from).collect() });
    }
    if args.prune {
        return prune(call, &cx, usize::from(args.keep.unwrap_or(u16::MAX)), args.dry_run);
    }
    if let Some(name) = args.remove {
        return remove(call, &cx, vec![name], args.dry_run);
    }
    let image = match args.image {
        Some(image) => image,
        None if args.dry_run => return Err(super::publish::needs_image(" --on hetzner")),
        None => super::publish::built(call, &cx)?,
    };
    publish(call, &cx, &image, (args.size.as_deref(), args.zone.as_deref()), args.dry_run)
}

fn publish(call: &Call, cx: &Context, image: &Path, (size, zone): (Option<&str>, Option<&str>), dry_run: bool) -> Result<()> {
    if dry_run {
        return call.out.show(&Steps { would: call.block_on(hetzner::describe_publish(cx, image, size, zone))? });
    }
    let progress = call.out.progress();
    let done = match call.block_on(hetzner::publish(cx, image, size, zone, &*progress)) {
        Err(error) if matches!(error.code(), Code::Interrupted | Code::TimedOut) => {
            // The server that helps must not go on costing.
            return Err(match call.block_on(hetzner::tidy(cx, image, &*progress)) {
                Ok(()) => error,
                Err(left) => error.because(left.message().to_owned()).hint("run the command again: it removes what is left first"),
            });
        }
        done => done?,
    };
    call.out.say("Next: portdistrict machine deploy --on hetzner --label home");
    call.out.show(&Row::from(done))
}

fn prune(call: &Call, cx: &Context, keep: usize, dry_run: bool) -> Result<()> {
    let images = call.block_on(hetzner::list(cx))?;
    let old: Vec<String> = images.iter().rev().skip(keep).map(|image| image.name.clone()).collect();
    remove(call, cx, old, dry_run)
}

fn remove(call: &Call, cx: &Context, names: Vec<String>, dry_run: bool) -> Result<()> {
    if dry_run {
        return call.out.show(&Steps { would: names.iter().map(|name| format!("DELETE /images/…: {name}")).collect() });
    }
    if !names.is_empty() {
        call.out.confirm(&format!("Remove for ever: {}?", names.join(", ")))?;
    }
    let progress = call.out.progress();
    for name in &names {
        call.block_on(hetzner::remove_image(cx, name, &*progress))?;
    }
    call.out.show(&Pruned { removed: names })
}

fn refuse_what_is_of_google(args: &PublishArgs) -> Result<()> {
    if args.rollback.is_some() {
        return Err(Error::new(Code::Usage, "Hetzner Cloud knows no order among images")
            .hint("machine deploy --on hetzner --image NAME takes an older one"));
    }
    let given = [
        ("--project", args.project.is_some()),
        ("--bucket", args.bucket.is_some()),
        ("--tdx", args.tdx),
        ("--keep-object", args.keep_object),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::new(Code::Usage, format!("{name} is for Google")).hint("leave it away, or --on gce")),
        None => Ok(()),
    }
}

/// A published image.
#[derive(Serialize)]
struct Row {
    /// What `--image` takes.
    name: String,
    /// Hetzner's number.
    id: u64,
    /// RFC 3339.
    made_at: String,
    /// Gigabytes in storage, once Hetzner knows.
    size_gb: Option<f64>,
    /// What a month of storing it costs.
    monthly: Option<String>,
    /// It was there before.
    already: bool,
}

impl From<Published> for Row {
    fn from(image: Published) -> Row {
        let Published { name, id, created, size_gb, monthly, again } = image;
        Row { name, id, made_at: created, size_gb, monthly, already: again }
    }
}

impl View for Row {
    fn text(&self, look: &Look) -> String {
        let state = if self.already { "was published already" } else { "written, read back, kept as a snapshot" };
        fields(&[
            ("image", look.bold(&self.name)),
            ("number", self.id.to_string()),
            ("costs", self.monthly.as_ref().map(|price| format!("{price} a month")).unwrap_or_default()),
            ("state", state.to_owned()),
        ])
    }
}

/// What is published.
#[derive(Serialize)]
struct Images {
    images: Vec<Row>,
}

impl View for Images {
    fn text(&self, look: &Look) -> String {
        let row = |row: &Row| vec![row.name.clone(), row.id.to_string(), row.made_at.clone(), row.monthly.clone().unwrap_or_default()];
        table(look, &["NAME", "NUMBER", "MADE", "A MONTH"], &self.images.iter().map(row).collect::<Vec<_>>())
    }
}
