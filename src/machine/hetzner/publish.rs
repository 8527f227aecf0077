//! An image at Hetzner: a snapshot of a small server whose disk its rescue system wrote. There is no upload.

use super::api::{Api, Budget, Failure};
use super::rescue::{Key, Rescue};
use super::things::{self, What};
use super::types::{Action, Image, ServerType};
use super::{OWNER_LABEL, SERVER, SIZE_LABEL, choice, finish_all, mark, ours, resource, suffix};
use crate::config::fs;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::image::Manifest;
use crate::ledger::Resource;
use crate::machine::journal::{self, Journal};
use crate::machine::provider::Kind;
use crate::machine::qemu;
use crate::progress::{Progress, Silent, Step};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the helping server starts with; its disk is overwritten.
const HELPER_IMAGE: &str = "debian-12";
/// The pause before something is removed once more.
const AGAIN: Duration = Duration::from_secs(1);
/// How long taking the snapshot may take.
const SNAPSHOT: Duration = Duration::from_secs(1800);

/// An image that is there.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Published {
    /// As in `pd-0-1-0-0123456789ab`.
    pub name: String,
    /// Hetzner's number.
    pub id: u64,
    /// When it was made (RFC 3339).
    pub created: String,
    /// GB in storage, once that is known.
    pub size_gb: Option<f64>,
    /// What a month of storing it costs, as in `EUR 0.02`.
    pub monthly: Option<String>,
    /// Whether it was there before.
    pub again: bool,
}

/// What is known before anything is made.
struct Wish {
    name: String,
    disk: PathBuf,
    manifest: Manifest,
    size: ServerType,
    place: String,
}

/// The name of an image: its version and its digest.
fn name_of(manifest: &Manifest) -> String {
    let version: String = manifest.version.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let digest: String = manifest.uki_authenticode.chars().filter(char::is_ascii_hexdigit).take(12).collect();
    format!("pd-{version}-{}", digest.to_ascii_lowercase())
}

/// What [`publish()`] would do, one sentence each.
pub async fn describe_publish(cx: &Context, image: &Path, size: Option<&str>, zone: Option<&str>) -> Result<Vec<String>> {
    let api = Api::open(cx)?;
    let wish = wish(cx, &api, image, size, zone).await?;
    if let Some(there) = find(&api, &ours(cx)?, &wish.name).await? {
        return Ok(vec![format!("nothing: the image {} is there already ({})", there.description, there.id)]);
    }
    let helper = format!("{}-??????", wish.name);
    let (size, place, disk) = (&wish.size.name, &wish.place, &wish.manifest.disk);
    let wait = || "GET /actions/…: until it is done".to_owned();
    Ok(vec![
        "GET /server_types: which there are".to_owned(),
        "GET /images: which there are".to_owned(),
        format!("POST /ssh_keys: {helper}, a key for this writing alone"),
        format!("POST /servers: {helper}, {size} in {place}, for some minutes"),
        wait(),
        "POST /servers/…/actions/enable_rescue: with that key".to_owned(),
        wait(),
        "POST /servers/…/actions/poweron: into its rescue system".to_owned(),
        wait(),
        "GET /servers/…: its address".to_owned(),
        format!("write {} to its disk by ssh ({} bytes), and read it back", wish.disk.display(), disk.size),
        "POST /servers/…/actions/poweroff: its disk is to rest".to_owned(),
        wait(),
        format!("POST /servers/…/actions/create_image: {}", wish.name),
        wait(),
        "GET /images/…: until it is available".to_owned(),
        "GET /servers/…: whether it is ours".to_owned(),
        format!("DELETE /servers/…: {helper}"),
        wait(),
        "GET /ssh_keys/…: whether it is ours".to_owned(),
        format!("DELETE /ssh_keys/…: {helper}"),
        "GET /pricing: what storing it costs".to_owned(),
    ])
}

/// Publishes an image; one of the same digest that is there already is left as it is. What helped is removed in any case.
pub async fn publish(cx: &Context, image: &Path, size: Option<&str>, zone: Option<&str>, progress: &dyn Progress) -> Result<Published> {
    let (api, owner) = (Api::open(cx)?, mark(cx)?);
    let step = progress.step("look at Hetzner");
    let wish = wish(cx, &api, image, size, zone).await?;
    let _lock = lock(cx, &wish.name)?;
    let journal = Journal::of_image(cx, &wish.name);
    let there = find(&api, &ours(cx)?, &wish.name).await?.filter(|image| image.status == "available");
    step.done();
    // What an earlier attempt left: helpers, and an image that was never finished.
    let keep = there.as_ref().map(|image| image.id);
    clear(&journal, keep, progress).await?;
    if let Some(there) = there {
        return Ok(shown(&api, there, true).await);
    }
    let work = Work { cx, api: &api, journal: &journal, owner: &owner, wish: &wish, helper: format!("{}-{}", wish.name, suffix()?) };
    let made = work.run(progress).await;
    // The helpers go whatever happened; of the image only one that is not whole.
    let cleared = clear(&journal, made.as_ref().ok().map(|image| image.id), progress).await;
    let made = made?;
    cleared?;
    Ok(shown(&api, made, false).await)
}

/// Removes what an interrupted [`publish()`] of an image left, but not the image itself if that is whole.
pub async fn tidy(cx: &Context, image: &Path, progress: &dyn Progress) -> Result<()> {
    let api = Api::open(cx)?;
    let name = name_of(&qemu::find_image(image)?.1);
    let _lock = lock(cx, &name)?;
    let whole = find(&api, &ours(cx)?, &name).await?.filter(|image| image.status == "available");
    clear(&Journal::of_image(cx, &name), whole.map(|image| image.id), progress).await
}

/// Of two that publish an image, the second must not remove the helpers of the first.
fn lock(cx: &Context, name: &str) -> Result<fs::Lock> {
    let folder = work_folder(cx);
    fs::ensure_private_dir(&folder)?;
    fs::try_lock(&folder.join(format!("{name}.lock")))?.ok_or_else(|| {
        Error::new(Code::Precondition, format!("another command publishes {name} just now")).hint("wait until that one has ended")
    })
}

/// Where keys are that live as long as one writing.
fn work_folder(cx: &Context) -> PathBuf {
    cx.paths().cache.join("hetzner")
}

/// Every image of this owner there, the newest last.
pub async fn list(cx: &Context) -> Result<Vec<Published>> {
    let api = Api::open(cx)?;
    let mut rows = Vec::new();
    for image in choice::published(&api, &ours(cx)?).await? {
        rows.push(shown(&api, image, true).await);
    }
    Ok(rows)
}

/// Removes one of this owner's images, and whatever a killed [`publish()`] of it left.
pub async fn remove_image(cx: &Context, name: &str, progress: &dyn Progress) -> Result<()> {
    let api = Api::open(cx)?;
    let _lock = lock(cx, name)?;
    let journal = Journal::of_image(cx, name);
    let known = journal.open()?.iter().any(|resource| resource.provider == Kind::Hetzner.as_str());
    clear(&journal, None, progress).await?;
    match find(&api, &ours(cx)?, name).await? {
        Some(image) => things::remove_number(&api, What::Image, image.id, &Silent).await,
        None if known => Ok(()),
        None => Err(Error::new(Code::NotFound, format!("there is no image {name:?} of yours at Hetzner"))
            .hint("portdistrict machine list: what stands at providers")),
    }
}

async fn wish(cx: &Context, api: &Api, image: &Path, size: Option<&str>, zone: Option<&str>) -> Result<Wish> {
    let (disk, manifest) = qemu::find_image(image)?;
    let sizes = choice::sizes(api).await?;
    let room = |size: &&ServerType| size.architecture == "x86" && size.disk * 1e9 >= manifest.disk.size as f64;
    let size = choice::named_size(&sizes, size, room)?.clone();
    let place = choice::place_of(&size, zone.or(cx.settings()?.hetzner.zone.as_deref()))?;
    Ok(Wish { name: name_of(&manifest), disk, manifest, size, place })
}

async fn find(api: &Api, ours: &str, name: &str) -> Result<Option<Image>> {
    let images = choice::published(api, ours).await?;
    Ok(images.into_iter().rfind(|image| image.description == name))
}

/// Removes what is recorded for this image but the image itself, if that is whole. A server that helped costs: what could not be
/// removed is tried once more.
async fn clear(journal: &Journal<'_>, keep: Option<u64>, progress: &dyn Progress) -> Result<()> {
    // Another provider may have an image of the same name.
    let elsewhere = |resource: &Resource| resource.provider != Kind::Hetzner.as_str();
    let is_kept = |resource: &Resource| resource.what == What::Image.as_str() && keep.is_some() && things::number(resource) == keep;
    let keeps = |resource: &Resource| elsewhere(resource) || is_kept(resource);
    if !journal::undo_but(journal, keeps, progress).await?.is_empty() {
        tokio::time::sleep(AGAIN).await;
    }
    match journal::undo_but(journal, keeps, progress).await?.first() {
        Some(left) => Err(Error::new(Code::Failed, left.to_string()).hint("run the command again: it removes what is left first")),
        None => Ok(()),
    }
}

async fn shown(api: &Api, image: Image, again: bool) -> Published {
    let price = api.pricing().await.ok();
    let monthly = price
        .zip(image.image_size)
        .map(|(price, size)| format!("{} {:.2}", price.currency, price.image.price_per_gb_month.number() * size));
    Published { name: image.description, id: image.id, created: image.created, size_gb: image.image_size, monthly, again }
}

/// A publishing under way.
struct Work<'a> {
    cx: &'a Context,
    api: &'a Api,
    journal: &'a Journal<'a>,
    owner: &'a str,
    wish: &'a Wish,
    /// The name of the server and the key that help.
    helper: String,
}

impl Work<'_> {
    async fn run(&self, progress: &dyn Progress) -> Result<Image> {
        let key = Key::make(&work_folder(self.cx).join(&self.wish.name)).await?;
        let step = progress.step(&format!("start a {} in {}", self.wish.size.name, self.wish.place));
        let server = self.server(&key, &*step).await?;
        step.done();
        let step = progress.step("wait for its rescue system");
        let found = super::server(self.api, server).await?.and_then(|server| server.ipv4());
        let address = found.ok_or_else(|| super::unreadable("a server without an IPv4 address"))?;
        let rescue = Rescue::reach(address, &key, &*step).await?;
        step.done();
        let step = progress.step("write the image");
        let disk = &self.wish.manifest.disk;
        rescue.write(&self.wish.disk, (disk.size, &disk.sha256), &*step).await?;
        step.done();
        let step = progress.step("take the snapshot");
        self.act(server, "poweroff", &json!({}), &*step).await?;
        let image = self.snapshot(server, &*step).await?;
        step.done();
        Ok(image)
    }

    /// A server in its rescue system.
    async fn server(&self, key: &Key, step: &dyn Step) -> Result<u64> {
        let labels = json!({ OWNER_LABEL: self.owner });
        let (key, _) = self.one(What::Key, &json!({ "name": self.helper, "public_key": key.public()?, "labels": labels })).await?;
        let body = json!({
            "name": self.helper, "server_type": self.wish.size.name, "image": HELPER_IMAGE, "location": self.wish.place,
            "ssh_keys": [key.to_string()], "labels": labels, "start_after_create": false,
        });
        let (server, actions) = self.one(What::Server, &body).await?;
        finish_all(self.api, actions, SERVER, step).await?;
        self.act(server, "enable_rescue", &json!({ "type": "linux64", "ssh_keys": [key] }), step).await?;
        self.act(server, "poweron", &json!({}), step).await?;
        Ok(server)
    }

    async fn act(&self, server: u64, verb: &str, body: &Value, step: &dyn Step) -> Result<()> {
        let path = format!("/servers/{server}/actions/{verb}");
        let answer: Value = self.api.when_free(Budget::new("to change the server", SERVER), || self.api.post(&path, body)).await?;
        finish_all(self.api, things::actions_in(&answer), SERVER, step).await
    }

    async fn one(&self, what: What, body: &Value) -> Result<(u64, Vec<Action>)> {
        things::make(self.api, self.journal, (what, &resource(self.journal, what, &self.helper, self.owner)), self.owner, body).await
    }

    /// The snapshot; if the answer is lost, the one that is there then.
    async fn snapshot(&self, server: u64, step: &dyn Step) -> Result<Image> {
        #[derive(Deserialize)]
        struct Made {
            image: Image,
            action: Action,
        }
        let intent = resource(self.journal, What::Image, &self.wish.name, self.owner);
        self.journal.intend(&intent)?;
        let labels = json!({ OWNER_LABEL: self.owner, SIZE_LABEL: self.wish.size.name });
        let body = json!({ "type": "snapshot", "description": self.wish.name, "labels": labels });
        let path = format!("/servers/{server}/actions/create_image");
        let asked = self.api.when_free(Budget::new("to take the snapshot", SERVER), || self.api.post::<Made>(&path, &body)).await;
        let (id, action) = match asked {
            Ok(made) => (made.image.id, Some(made.action)),
            Err(failure @ Failure::Said(_)) => return Err(failure.into()),
            Err(Failure::Error(error)) => {
                let there = find(self.api, &ours(self.cx)?, &self.wish.name).await?;
                let ours = there.filter(|image| image.created_from.as_ref().is_some_and(|from| from.id == server));
                (ours.ok_or(error)?.id, None)
            }
        };
        self.journal.made(&intent, Map::from_iter([(things::NUMBER.to_owned(), json!(id))]))?;
        if let Some(action) = action {
            self.api.finish(action, Budget::new("to take the snapshot", SNAPSHOT), step).await?;
        }
        self.available(id, step).await
    }

    async fn available(&self, id: u64, step: &dyn Step) -> Result<Image> {
        #[derive(Deserialize)]
        struct One {
            image: Image,
        }
        let mut budget = Budget::new("to take the snapshot", SNAPSHOT);
        loop {
            match self.api.get::<One>(&format!("/images/{id}")).await {
                Ok(One { image }) if image.status == "available" => return Ok(image),
                Ok(One { image }) => step.note(&image.status),
                // One that does not show yet has only just been made.
                Err(failure) if failure.is("not_found") => {}
                Err(failure) => return Err(failure.into()),
            }
            budget.pause().await?;
        }
    }
}
