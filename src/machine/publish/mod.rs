//! `machine publish`: an archive becomes an image at Google, from which machines are made. Old images stay until they are pruned.
//!
//! What is made is recorded before each call. Run again, it goes on from wherever it was: an upload from the last byte that
//! arrived, an image from what Google already has of it.

mod archive;
mod dry;
mod shelf;

pub use archive::Archive;
pub use dry::requests;
pub use shelf::{Shelved, Shelving, list, prune, rollback};

use super::gce::deploy::new_request;
use super::gce::settings::{FAMILY, project};
use super::journal::Journal;
use super::provider::Kind;
use crate::config::fs;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::google::auth::{Auth, Scope};
use crate::google::images::{self, Image, NewImage};
use crate::google::storage::{Object, Spot, Storage};
use crate::google::upload::Upload;
use crate::google::{Api, Failure};
use crate::image::disk::DISK;
use crate::ledger::Resource;
use crate::progress::Progress;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long Google may take to make an image, and to show it everywhere.
const MAKE: Duration = Duration::from_secs(15 * 60);
/// How long Google may take for anything smaller.
const CHANGE: Duration = Duration::from_secs(5 * 60);
/// Between two looks at an image that is being made.
const LOOK: Duration = Duration::from_millis(500);
/// Digits of the digest that are in an image's name.
const DIGITS: usize = 12;

/// What a person decides about publishing.
#[derive(Clone, Debug)]
pub struct Order {
    /// The image: its folder, its `image.json` or its archive.
    pub image: PathBuf,
    /// The project; found in environment and settings if absent.
    pub project: Option<String>,
    /// The bucket through which the archive goes; of the settings if absent.
    pub bucket: Option<String>,
    /// Whether Intel's processors may encrypt its memory, too.
    pub tdx: bool,
    /// Whether the archive stays in the bucket.
    pub keep_object: bool,
}

/// An order with all that follows from it.
pub(in crate::machine) struct Plan {
    archive: Archive,
    project: String,
    owner: String,
    /// The image's name: version and digest.
    name: String,
    description: String,
    spot: Spot,
    tdx: bool,
    keep_object: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The image's name.
    pub name: String,
    /// The project it is in.
    pub project: String,
    /// The digest that evidence names it by (hex).
    pub digest: String,
    /// Whether it was there already, so that nothing was done.
    pub already: bool,
    /// Where the archive stays, if it does.
    pub object: Option<String>,
}

impl Plan {
    fn of(cx: &Context, order: &Order) -> Result<Plan> {
        let archive = Archive::find(&order.image)?;
        let bucket = order.bucket.clone().or_else(|| cx.settings().ok()?.gce.bucket.clone()).ok_or_else(|| {
            Error::new(Code::Usage, "no bucket is named through which the archive could go")
                .because("neither --bucket says one, nor [gce] bucket in config.toml")
                .hint("gcloud storage buckets create gs://BUCKET --location eu, then: --bucket BUCKET")
        })?;
        let name = name_of(&archive);
        Ok(Plan {
            spot: Spot::new(&bucket, &format!("{name}.tar.gz"))?,
            project: project(cx, order.project.as_deref())?,
            owner: owner(cx)?,
            description: format!(
                "portdistrict {}, boot program {}, archive {}",
                archive.manifest.version, archive.manifest.uki_authenticode, archive.manifest.archive.sha256
            ),
            archive,
            name,
            tdx: order.tdx,
            keep_object: order.keep_object,
        })
    }

    fn new_image<'a>(&'a self, source: &'a str) -> NewImage<'a> {
        let Plan { name, description, owner, tdx, .. } = self;
        NewImage { name, family: FAMILY, description, owner, source, tdx: *tdx }
    }

    /// What is written on the object.
    fn object_metadata(&self) -> [(&'static str, &str); 2] {
        [("portdistrict", self.owner.as_str()), ("sha256", self.archive.manifest.archive.sha256.as_str())]
    }

    fn published(&self, already: bool) -> Published {
        Published {
            name: self.name.clone(),
            project: self.project.clone(),
            digest: self.archive.manifest.uki_authenticode.clone(),
            already,
            object: (self.keep_object && !already).then(|| self.spot.in_words()),
        }
    }

    /// Whether an image is what this plan would make.
    fn check(&self, image: &Image) -> Result<()> {
        let manifest = &self.archive.manifest;
        let wrong = |what: String| {
            Err(Error::new(Code::Refused, format!("the image {} is not what was published: {what}", self.name))
                .hint(format!("gcloud compute images describe {} --project {}", self.name, self.project)))
        };
        if !image.is_of(&self.owner) || image.description != self.description {
            return Err(Error::new(
                Code::Exists,
                format!("there is an image {} in {} already that is another one", self.name, self.project),
            )
            .because(format!("it says of itself: {:?}", image.description))
            .hint(format!("gcloud compute images describe {} --project {}", self.name, self.project)));
        }
        if let Some(feature) = image.lacks(&images::features(self.tdx)) {
            return wrong(format!("it lacks {feature}"));
        }
        if image.family != FAMILY {
            return wrong(format!("its family is {:?}", image.family));
        }
        if image.archive_size_bytes != manifest.archive.size.to_string() {
            return wrong(format!("its archive has {} bytes, and not {}", image.archive_size_bytes, manifest.archive.size));
        }
        if image.disk_size_gb != (manifest.disk.size.div_ceil(DISK)).to_string() {
            return wrong(format!("its disk has {} GiB", image.disk_size_gb));
        }
        Ok(())
    }
}

/// `pd-0-4-0-3f2a9c81d07e`: version and digest.
fn name_of(archive: &Archive) -> String {
    let version: String =
        archive.manifest.version.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).take(32).collect();
    format!("pd-{version}-{}", archive.manifest.uki_authenticode.chars().take(DIGITS).collect::<String>())
}

/// The owner's node id, as marks have it.
fn owner(cx: &Context) -> Result<String> {
    Ok(node_id(&cx.keyring()?.identity_public()).to_lowercase())
}

/// Makes an image of an archive; nothing twice, whatever became of an earlier attempt.
pub async fn publish(cx: &Context, order: &Order, progress: &dyn Progress) -> Result<Published> {
    let plan = Plan::of(cx, order)?;
    let folder = cx.paths().cache.join("images");
    fs::ensure_private_dir(&folder)?;
    let busy = || {
        Error::new(Code::Precondition, format!("{} is being published by another process", plan.name)).hint("wait until that one has ended")
    };
    let _lock = fs::try_lock(&folder.join(format!("{}.lock", plan.name)))?.ok_or_else(busy)?;
    let work = Work {
        api: Api::open(cx, &[Scope::Compute])?,
        storage: Storage::open(cx.settings()?, Auth::find(cx.settings()?, &[Scope::Storage])?)?,
        journal: Journal::of_image(cx, &plan.name),
        plan: &plan,
        cx,
        progress,
    };
    let already = work.run(folder.join(format!("{}.upload", plan.name))).await?;
    // What machines of this image prove is compared with it.
    fs::write_private(&folder.join(format!("{}.json", plan.name)), &plan.archive.manifest.to_json()?)?;
    Ok(plan.published(already))
}

/// Publishing under way.
struct Work<'a> {
    cx: &'a Context,
    plan: &'a Plan,
    api: Api,
    storage: Storage,
    journal: Journal<'a>,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    /// True if the image was there already.
    async fn run(&self, note: PathBuf) -> Result<bool> {
        let step = self.progress.step("look for the image");
        let there = self.find().await?;
        step.done();
        let already = match there {
            Some(image) if image.status == "FAILED" => {
                self.remove_failed(&image).await?;
                false
            }
            Some(image) => {
                self.settle(Some(image)).await?;
                true
            }
            None => false,
        };
        if !already {
            // Before anything is uploaded: what image.json tells must be what is sent.
            let step = self.progress.step("check the archive");
            let crc32c = self.plan.archive.check(&*step).await?;
            step.done();
            let object = self.upload(note, &crc32c).await?;
            if let Err(error) = self.make().await {
                return Err(self.give_up(error, &object).await);
            }
        }
        self.tidy().await?;
        Ok(already)
    }

    fn refused(&self, doing: &str, failure: Failure) -> Error {
        failure.into_error(&format!("{doing} {}", self.plan.name), &self.plan.project)
    }

    fn image_resource(&self) -> Resource {
        let mut resource = self.journal.resource(Kind::Gce, "image", &self.plan.project, &self.plan.name);
        resource.detail.insert("owner".to_owned(), self.plan.owner.clone().into());
        resource
    }

    fn object_resource(&self) -> Resource {
        let place = format!("{}/{}", self.plan.project, self.plan.spot.bucket);
        let mut resource = self.journal.resource(Kind::Gce, "object", &place, &self.plan.spot.name);
        resource.detail.insert("owner".to_owned(), self.plan.owner.clone().into());
        resource
    }

    /// What is recorded of something. Another provider may have an image of the same name.
    fn known(&self, resource: &Resource) -> Result<Option<Resource>> {
        Ok(self.journal.open()?.into_iter().find(|known| known.id() == resource.id()))
    }

    async fn find(&self) -> Result<Option<Image>> {
        match self.api.ask::<Image>(&images::get(&self.plan.project, &self.plan.name)).await {
            Ok(image) => Ok(Some(image)),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.refused("show the image", failure)),
        }
    }

    /// Waits until an image can be used, and compares it with what it should be.
    async fn settle(&self, mut image: Option<Image>) -> Result<()> {
        let deadline = Instant::now() + MAKE;
        let step = self.progress.step("check the image");
        loop {
            match image {
                Some(image) if image.status == "READY" => {
                    self.plan.check(&image)?;
                    let resource = self.image_resource();
                    self.journal.intend(&resource)?;
                    if !self.known(&resource)?.is_some_and(|known| known.made) {
                        self.journal.made(&resource, self.made_detail())?;
                    }
                    step.done();
                    return Ok(());
                }
                Some(image) if image.status == "FAILED" || image.status == "DELETING" => {
                    return Err(Error::new(
                        Code::Failed,
                        format!("Google could not make the image {}: it is {}", image.name, image.status),
                    )
                    .hint("run the command again"));
                }
                _ if Instant::now() >= deadline => {
                    let seconds = MAKE.as_secs();
                    return Err(Error::new(Code::TimedOut, format!("the image {} was not ready after {seconds} seconds", self.plan.name))
                        .hint("see https://status.cloud.google.com, then run the command again"));
                }
                Some(image) => step.note(&image.status.to_lowercase()),
                // Made, and not seen everywhere yet.
                None => step.note("not seen yet"),
            }
            tokio::time::sleep(LOOK).await;
            image = self.find().await?;
        }
    }

    fn made_detail(&self) -> Map<String, Value> {
        let manifest = &self.plan.archive.manifest;
        let detail = [("digest", &manifest.uki_authenticode), ("archive", &manifest.archive.sha256), ("version", &manifest.version)];
        detail.into_iter().map(|(name, value)| (name.to_owned(), value.clone().into())).collect()
    }

    /// An image that Google failed to make is of no use to anybody, and keeps its name from the next attempt.
    async fn remove_failed(&self, image: &Image) -> Result<()> {
        if !image.is_of(&self.plan.owner) {
            return self.plan.check(image);
        }
        let step = self.progress.step("remove the image that failed");
        let call = images::delete(&self.plan.project, &self.plan.name, &new_request()?);
        match images::perform(&self.api, &self.plan.project, &call, CHANGE, &*step).await {
            Err(failure) if !failure.is_missing() => Err(self.refused("remove the image", failure)),
            _ => {
                step.done();
                Ok(())
            }
        }
    }

    async fn upload(&self, note: PathBuf, crc32c: &str) -> Result<Object> {
        let (plan, size) = (self.plan, self.plan.archive.manifest.archive.size);
        let refused = |doing: &str, failure: Failure| {
            let error = failure.into_error(&format!("{doing} {}", plan.spot.in_words()), &plan.project);
            match error.code() {
                Code::NotFound => error.hint(format!("gcloud storage buckets create gs://{}", plan.spot.bucket)),
                Code::Unreachable | Code::TimedOut => error.hint("run the command again: the upload goes on where it was"),
                _ => error,
            }
        };
        let there = self.storage.get(&plan.spot).await.map_err(|failure| refused("look for", failure))?;
        if let Some(object) = there.filter(|object| object.is(size, crc32c)) {
            // An earlier attempt ended between here and the image.
            return Ok(object);
        }
        let resource = self.object_resource();
        self.journal.intend(&resource)?;
        let metadata = plan.object_metadata();
        let upload = Upload { spot: &plan.spot, file: &plan.archive.file, size, crc32c, metadata: &metadata, note };
        let step = self.progress.step("upload the archive");
        let object = upload.run(&self.storage, &self.cx.settings()?.http, &*step).await.map_err(|failure| refused("take", failure))?;
        self.journal.made(&resource, Map::from_iter([("generation".to_owned(), object.generation.clone().into())]))?;
        step.done();
        Ok(object)
    }

    async fn make(&self) -> Result<()> {
        let plan = self.plan;
        self.journal.intend(&self.image_resource())?;
        let step = self.progress.step("make the image");
        let source = plan.spot.source();
        let call = images::insert(&plan.project, &new_request()?, &plan.new_image(&source));
        match images::perform(&self.api, &plan.project, &call, MAKE, &*step).await {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) if refusal.is_exists() => {}
            Err(failure) => return Err(self.refused("make the image", failure)),
        }
        step.done();
        self.settle(self.find().await?).await
    }

    /// Google said no: the archive in the bucket would only cost money. Where nobody answered it stays, and the next attempt finds it.
    async fn give_up(&self, error: Error, object: &Object) -> Error {
        if self.plan.keep_object || matches!(error.code(), Code::Unreachable | Code::TimedOut) {
            return error;
        }
        if matches!(self.find().await, Ok(None))
            && let Err(other) = self.journal.removed(&self.image_resource())
        {
            return other;
        }
        match self.remove_object(Some(&object.generation)).await {
            Ok(()) => error,
            Err(left) => error.because(format!("{} is still there: {}", self.plan.spot.in_words(), left.message())),
        }
    }

    /// The archive is of no use once there is the image.
    async fn tidy(&self) -> Result<()> {
        if self.plan.keep_object {
            return Ok(());
        }
        let Some(resource) = self.known(&self.object_resource())? else { return Ok(()) };
        let step = self.progress.step("remove the archive from the bucket");
        let generation = resource.detail.get("generation").and_then(Value::as_str);
        self.remove_object(generation).await?;
        step.done();
        Ok(())
    }

    async fn remove_object(&self, generation: Option<&str>) -> Result<()> {
        let spot = &self.plan.spot;
        self.storage.delete(spot, generation).await.map_err(|failure| {
            let error = failure.into_error(&format!("remove {}", spot.in_words()), &self.plan.project);
            error.hint(format!("run the command again, or: gcloud storage rm {}", spot.in_words()))
        })?;
        self.journal.removed(&self.object_resource())
    }
}
