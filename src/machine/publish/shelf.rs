//! Images that were published: which there are, which one new machines get, and removing old ones.

use super::dry::in_words;
use super::{CHANGE, owner};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::google::Api;
use crate::google::auth::Scope;
use crate::google::compute::Call;
use crate::google::images::{self, Image, Images};
use crate::machine::gce::deploy::new_request;
use crate::machine::gce::settings::{FAMILY, project};
use crate::machine::journal::Journal;
use crate::machine::provider::Kind;
use crate::progress::Progress;

/// More pages of images nobody has; a server that never ends its list is left.
const MAX_PAGES: usize = 100;

/// A published image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// Its name.
    pub name: String,
    /// `READY` once it can be used.
    pub status: String,
    /// Whether new machines get it unless told otherwise.
    pub current: bool,
    /// Whether it was retired by a roll-back.
    pub retired: bool,
    /// When it was made, in Unix milliseconds.
    pub made_at: i64,
    /// Bytes of the archive it was made of.
    pub size: u64,
    /// What it says of itself.
    pub description: String,
}

/// A change of what is published: what would be done, and by which requests.
pub struct Shelving {
    /// A sentence for each change.
    pub would: Vec<String>,
    /// The names of those that are changed.
    pub changed: Vec<String>,
}

struct Shelf<'c> {
    cx: &'c Context,
    api: Api,
    project: String,
    owner: String,
}

impl<'c> Shelf<'c> {
    fn open(cx: &'c Context, named: Option<&str>) -> Result<Shelf<'c>> {
        Ok(Shelf { cx, api: Api::open(cx, &[Scope::Compute])?, project: project(cx, named)?, owner: owner(cx)? })
    }

    /// Those of this owner and family, the newest first.
    async fn all(&self) -> Result<Vec<Image>> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let call = images::list(&self.project, &self.owner, next.as_deref());
            let page: Images = self.api.ask(&call).await.map_err(|failure| failure.into_error("list the images", &self.project))?;
            all.extend(page.items.into_iter().filter(|image| image.is_of(&self.owner) && image.family == FAMILY));
            next = page.next_page_token;
            if next.is_none() {
                break;
            }
        }
        all.sort_by(|a, b| (b.made_at(), &b.name).cmp(&(a.made_at(), &a.name)));
        Ok(all)
    }

    /// Performs these requests one after the other, or says what they would be.
    async fn perform(&self, work: Vec<(String, String, Call)>, earnest: Option<&dyn Progress>) -> Result<Shelving> {
        let mut shelving = Shelving { would: Vec::new(), changed: Vec::new() };
        for (doing, name, call) in work {
            if let Some(progress) = earnest {
                let step = progress.step(&format!("{doing} {name}"));
                match images::perform(&self.api, &self.project, &call, CHANGE, &*step).await {
                    Err(failure) if !(failure.is_missing() && call.method == "DELETE") => {
                        return Err(failure.into_error(&format!("{doing} {name}"), &self.project));
                    }
                    _ => step.done(),
                }
                if call.method == "DELETE" {
                    self.forget(&name)?;
                }
            }
            shelving.would.push(in_words(&call));
            shelving.changed.push(name);
        }
        Ok(shelving)
    }

    /// The record of an image that is gone. One that was published from elsewhere has none here.
    fn forget(&self, name: &str) -> Result<()> {
        let journal = Journal::of_image(self.cx, name);
        let known = journal.open()?.into_iter().find(|known| known.provider == Kind::Gce.as_str() && known.what == "image");
        known.map_or(Ok(()), |known| journal.removed(&known))
    }
}

/// The one that the family leads to.
fn current(images: &[Image]) -> Option<&Image> {
    images.iter().find(|image| image.status == "READY" && !image.is_retired())
}

/// What was published by this owner, the newest first.
pub async fn list(cx: &Context, project: Option<&str>) -> Result<Vec<Shelved>> {
    let all = Shelf::open(cx, project)?.all().await?;
    let first = current(&all).map(|image| image.name.clone());
    let shelved = |image: Image| Shelved {
        current: first.as_deref() == Some(image.name.as_str()),
        retired: image.is_retired(),
        made_at: image.made_at(),
        size: image.archive_size_bytes.parse().unwrap_or(0),
        name: image.name,
        status: image.status,
        description: image.description,
    };
    Ok(all.into_iter().map(shelved).collect())
}

/// Makes an image the one that new machines get: newer ones are retired, and it is taken back if it was. Without `earnest` only said.
pub async fn rollback(cx: &Context, project: Option<&str>, name: &str, earnest: Option<&dyn Progress>) -> Result<Shelving> {
    let shelf = Shelf::open(cx, project)?;
    let all = shelf.all().await?;
    let missing = || {
        Error::new(Code::NotFound, format!("you published no image {name} in {}", shelf.project))
            .hint("portdistrict machine publish --list")
    };
    let at = all.iter().position(|image| image.name == name).ok_or_else(missing)?;
    if all[at].status != "READY" {
        return Err(Error::new(Code::Precondition, format!("the image {name} is {} and not ready", all[at].status))
            .hint("portdistrict machine publish --list"));
    }
    let mut work = Vec::new();
    // First the one that is wanted: at no moment is there none.
    if all[at].is_retired() {
        work.push(("take back".to_owned(), name.to_owned(), images::restore(&shelf.project, name, &request(earnest)?)));
    }
    for newer in all[..at].iter().filter(|image| !image.is_retired()) {
        let call = images::retire(&shelf.project, &newer.name, name, &request(earnest)?);
        work.push(("retire".to_owned(), newer.name.clone(), call));
    }
    shelf.perform(work, earnest).await
}

/// Removes all but the newest `keep` images, and never the one that new machines get. Without `earnest` only said.
pub async fn prune(cx: &Context, project: Option<&str>, keep: usize, earnest: Option<&dyn Progress>) -> Result<Shelving> {
    let shelf = Shelf::open(cx, project)?;
    let all = shelf.all().await?;
    let first = current(&all).map(|image| image.name.clone());
    let old = all.iter().skip(keep).filter(|image| Some(&image.name) != first.as_ref());
    let call = |image: &Image| {
        let call = images::delete(&shelf.project, &image.name, &request(earnest)?);
        Ok(("remove".to_owned(), image.name.clone(), call))
    };
    let work = old.map(call).collect::<Result<Vec<_>>>()?;
    shelf.perform(work, earnest).await
}

/// An id for a request that is sent, and a word for one that is only said.
fn request(earnest: Option<&dyn Progress>) -> Result<String> {
    if earnest.is_some() { new_request() } else { Ok("{uuid}".to_owned()) }
}
