//! Making a machine: each thing is recorded before Google is asked for it, and a second run goes on where the first one ended.

use super::console::Console;
use super::remove::{Gone, owner_of, remove};
use super::settings::{Decided, FAMILY};
use crate::error::{Code, Error, Result};
use crate::google::compute::{self, Call, Image, Mark, NewInstance, Sort, Spot, State, Thing};
use crate::google::operations::{self, Operation};
use crate::google::{Api, Failure};
use crate::ledger::Resource;
use crate::machine::Kind;
use crate::machine::journal::Journal;
use crate::progress::{Progress, Step};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long Google may take: for something small, and for a machine.
const SMALL: Duration = Duration::from_secs(2 * 60);
const LARGE: Duration = Duration::from_secs(5 * 60);
/// How long something that was made may not be seen everywhere.
const SETTLING: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often attributes are written anew when somebody else changed them meanwhile.
const WRITES: u32 = 5;

/// What an image must have been published with.
const FEATURES: [&str; 2] = ["UEFI_COMPATIBLE", "GVNIC"];
const CONFIDENTIAL_FEATURES: [&str; 3] = ["UEFI_COMPATIBLE", "GVNIC", "SEV_SNP_CAPABLE"];

/// What is recorded beside an intent: by it an instance is known as the one that is wanted, or as another one.
const REQUEST: &str = "request";
const OWNER: &str = "owner";
const SHAPE: &str = "shape";

/// A deploy under way.
pub(super) struct Deploy<'a> {
    pub(super) api: &'a Api,
    pub(super) journal: &'a Journal<'a>,
    pub(super) progress: &'a dyn Progress,
    pub(super) decided: &'a Decided,
    pub(super) mark: &'a Mark,
    /// The owner's node id.
    pub(super) owner: &'a str,
    /// What everything is called.
    pub(super) name: &'a str,
}

impl Deploy<'_> {
    /// The image, if a machine like this can start it.
    pub(super) async fn image(&self) -> Result<Image> {
        let step = self.progress.step("find the image");
        let project = self.decided.place.project();
        let (call, what) = image_call(self.decided);
        let image: Image = self.api.ask(&call).await.map_err(|failure| match failure {
            Failure::Refused(refusal) if refusal.is_missing() => Error::new(Code::NotFound, format!("there is no {what} in project {project}"))
                .hint("portdistrict machine publish --list; to publish one: portdistrict machine build -o out && portdistrict machine publish out"),
            failure => failure.into_error(&format!("show the {what}"), project),
        })?;
        if image.status != "READY" {
            return Err(Error::new(Code::Precondition, format!("the image {} is {} and not ready", image.name, image.status))
                .hint("wait until it is published; to see it: portdistrict machine publish --list"));
        }
        let features: &[&str] = if self.decided.confidential { &CONFIDENTIAL_FEATURES } else { &FEATURES };
        if let Some(missing) = image.lacks(features) {
            return Err(Error::new(Code::Precondition, format!("the image {} was published without {missing}", image.name))
                .hint("publish it again with portdistrict machine publish"));
        }
        step.done();
        Ok(image)
    }

    /// The rule that lets guests in.
    pub(super) async fn firewall(&self) -> Result<()> {
        let body = compute::firewall(self.name, self.mark, self.decided.port);
        self.ensure(Sort::Firewall, "make the firewall rule", &body, SMALL).await.map(drop)
    }

    /// An address that stays.
    pub(super) async fn address(&self) -> Result<IpAddr> {
        let made = self.ensure(Sort::Address, "reserve the address", &compute::address(self.name, self.mark), SMALL).await?;
        made.address.ok_or_else(|| Error::new(Code::Protocol, format!("Google does not say which address {} is", self.name)))
    }

    /// The machine, started. One that an interrupted deploy left is told anew what it is to be, if it is one like this.
    pub(super) async fn instance(&self, new: &NewInstance<'_>) -> Result<(Thing, u64)> {
        let shape = self.shape(new.image);
        if let Some(known) = self.journal.find(Sort::Instance.as_str())? {
            if let Some(there) = self.adopt(&known, &shape, new.config).await? {
                return Ok(there);
            }
            let step = self.progress.step("remove what an interrupted deploy left");
            remove(self.api, &known, &*step).await?;
            self.journal.removed(&known)?;
            step.done();
        }
        let made = self.ensure(Sort::Instance, "make the machine", &new.body(), LARGE).await?;
        Ok((made, 0))
    }

    /// Makes something unless it is there; done when Google shows it.
    async fn ensure(&self, sort: Sort, doing: &str, body: &Value, budget: Duration) -> Result<Thing> {
        let spot = sort.at(&self.decided.place);
        let step = self.progress.step(doing);
        let (resource, request) = self.intend(&spot, body)?;
        let doing = format!("{doing} {}", self.name);
        let asked = self.api.ask::<Operation>(&Call::insert(&spot, &request, body.clone())).await;
        let ended = match asked {
            Ok(operation) => operations::wait(self.api, &spot, operation, budget, &*step).await.map(drop),
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(()) => {}
            // Made by an earlier attempt whose answer was lost; or by somebody else, which is looked at next.
            Err(Failure::Refused(refusal)) if refusal.is_exists() => {}
            Err(failure) => return Err(failure.into_error(&doing, spot.project())),
        }
        let thing = self.shown(&spot, &doing, budget, &*step).await?;
        if !self.mark.is_on(&thing) {
            self.journal.removed(&resource)?;
            return Err(Error::new(Code::Exists, format!("there is {} {} of somebody else's already", sort.as_str(), self.name))
                .because("it does not bear your mark; it was not touched")
                .hint("run the command again: another name is taken"));
        }
        self.journal.made(&resource, Map::new())?;
        step.done();
        Ok(thing)
    }

    /// Records what is about to be made, with the id of the request: an intent that stands already keeps its own.
    fn intend(&self, spot: &Spot, body: &Value) -> Result<(Resource, String)> {
        let sort = spot.sort();
        let mut resource = self.journal.resource(Kind::Gce, sort.as_str(), &spot.in_words(), self.name);
        let known = self.journal.find(sort.as_str())?.filter(|known| known.id() == resource.id());
        if let Some(request) = known.as_ref().and_then(|known| known.detail.get(REQUEST)).and_then(Value::as_str) {
            return Ok((resource, request.to_owned()));
        }
        let request = new_request()?;
        resource.detail.insert(REQUEST.to_owned(), request.clone().into());
        resource.detail.insert(OWNER.to_owned(), self.owner.into());
        if sort == Sort::Instance {
            let image = body["disks"][0]["initializeParams"]["sourceImage"].as_str().unwrap_or_default();
            resource.detail.insert(SHAPE.to_owned(), self.shape(image));
        }
        self.journal.intend(&resource)?;
        Ok((resource, request))
    }

    /// What cannot be changed of an instance any more.
    fn shape(&self, image: &str) -> Value {
        let Decided { size, confidential, static_address, port, .. } = self.decided;
        json!({"image": image, "size": size, "confidential": confidential, "static": static_address, "port": port})
    }

    /// Waits until Google shows what it made, and an instance has its address.
    async fn shown(&self, spot: &Spot, doing: &str, budget: Duration, step: &dyn Step) -> Result<Thing> {
        let settled = Instant::now() + SETTLING;
        let deadline = Instant::now() + budget;
        loop {
            match self.api.ask::<Thing>(&Call::get(spot, self.name)).await {
                Ok(thing) if spot.sort() == Sort::Instance && thing.state() == State::Starting && Instant::now() < deadline => {
                    step.note(&thing.status.to_lowercase());
                }
                Ok(thing) => return Ok(thing),
                Err(Failure::Refused(refusal)) if refusal.is_missing() && Instant::now() < settled => step.note("not seen everywhere yet"),
                Err(failure) => return Err(failure.into_error(doing, spot.project())),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An instance that stands already, told anew and started anew; none if it is gone or another one.
    async fn adopt(&self, known: &Resource, shape: &Value, config: &str) -> Result<Option<(Thing, u64)>> {
        if known.detail.get(SHAPE) != Some(shape) || known.name != self.name || owner_of(known) != Some(self.owner) {
            return Ok(None);
        }
        let spot = Spot::parse(&known.what, &known.place)?;
        if spot != Sort::Instance.at(&self.decided.place) {
            return Ok(None);
        }
        let Gone::There(thing) = super::remove::find(self.api, &spot, known).await? else { return Ok(None) };
        if !self.mark.is_on(&thing) {
            return Ok(None);
        }
        let step = self.progress.step("tell the machine anew what it is to be");
        set_config(self.api, &spot, self.name, config).await?;
        let mut console = Console::new(self.api, &spot, self.name, 0);
        console.read().await?;
        let verb = if thing.state() == State::Stopped { "start" } else { "reset" };
        act(self.api, &spot, self.name, verb, LARGE, &*step).await?;
        let doing = format!("{verb} {}", self.name);
        let thing = self.shown(&spot, &doing, LARGE, &*step).await?;
        self.journal.made(known, Map::new())?;
        step.done();
        Ok(Some((thing, console.next())))
    }
}

/// Which image, as a request and in words.
pub(super) fn image_call(decided: &Decided) -> (Call, String) {
    let project = decided.place.project();
    match &decided.image {
        Some(name) => (Call::image(project, name), format!("image {name}")),
        None => (Call::newest_image(project, FAMILY), format!("image of the family {FAMILY}")),
    }
}

/// Writes the document that tells a node what it is to be, however often somebody else writes attributes at the same time.
async fn set_config(api: &Api, spot: &Spot, name: &str, config: &str) -> Result<()> {
    let doing = format!("change the attributes of {name}");
    let refused = |failure: Failure| failure.into_error(&doing, spot.project());
    for attempt in 1.. {
        let thing: Thing = api.ask(&Call::get(spot, name)).await.map_err(refused)?;
        let Some(body) = thing.metadata.with(compute::CONFIG, config) else { return Ok(()) };
        let asked = api.ask::<Operation>(&Call::set_metadata(spot, name, &new_request()?, body)).await;
        let ended = match asked {
            Ok(operation) => operations::wait(api, spot, operation, SMALL, &crate::progress::Silent).await.map(drop),
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(()) => return Ok(()),
            Err(Failure::Refused(refusal)) if refusal.is_stale() && attempt < WRITES => tokio::time::sleep(LOOK_EVERY * attempt).await,
            Err(failure) => return Err(refused(failure)),
        }
    }
    Ok(())
}

/// Starts, stops or resets an instance.
pub(super) async fn act(api: &Api, spot: &Spot, name: &str, verb: &str, budget: Duration, step: &dyn Step) -> Result<()> {
    let refused = |failure: Failure| failure.into_error(&format!("{verb} the instance {name}"), spot.project());
    let operation: Operation = api.ask(&Call::act(spot, name, verb, &new_request()?)).await.map_err(refused)?;
    operations::wait(api, spot, operation, budget, step).await.map(drop).map_err(refused)
}

/// The id by which Google knows a request again.
pub(in crate::machine) fn new_request() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}
