//! Machines at Google Compute Engine: an instance of a published image, a firewall rule of its own, and an address if it is to stay.

mod console;
pub(in crate::machine) mod deploy;
mod doctor;
mod dry;
mod remove;
pub(in crate::machine) mod settings;
mod survey;

use super::check::Check;
use super::folder::remove as remove_folder;
use super::journal::{self, Journal};
use super::provider::{Deployed, Expectation, Found, Job, LineSink, Plan, Power, Provider, Site};
use super::qemu::onions;
use crate::attest::Rung;
use crate::config::Label;
use crate::config::fs::{ensure_private_dir, read, shell_quote, write_private};
use crate::context::Context;
use crate::encoding::{base64, from_base64, node_id};
use crate::error::{Code, Error, Result};
use crate::google::Api;
use crate::google::auth::Scope;
use crate::google::compute::{Call, Identity, Image, Mark, NewInstance, Sort, Spot, State, Thing};
use crate::image::Manifest;
use crate::ledger::Resource;
use crate::ledger::kinds::MachineReconnected;
use crate::progress::{Progress, Silent};
use console::Console;
use deploy::Deploy;
use serde_json::{Map, Value};
use settings::{Decided, metadata_of};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long Google may take to start or stop a machine.
const POWER: Duration = Duration::from_secs(5 * 60);
/// The description of the image that a machine was deployed with.
const IMAGE: &str = "image.json";
/// In the record of an instance: the keys of its vTPM.
const TPM_KEYS: &str = "tpm_keys";
/// Letters and digits that make a name one of its kind.
const SUFFIX: usize = 6;

/// The provider.
pub(super) struct Gce<'c> {
    cx: &'c Context,
}

impl Gce<'_> {
    pub(super) fn new(cx: &Context) -> Gce<'_> {
        Gce { cx }
    }

    fn api(&self) -> Result<Api> {
        Api::open(self.cx, &[Scope::Compute])
    }

    /// The owner's node id, as marks have it.
    fn owner(&self) -> Result<String> {
        Ok(node_id(&self.cx.keyring()?.identity_public()).to_lowercase())
    }

    /// The instance that a machine is.
    fn instance(&self, label: &Label) -> Result<(Spot, Resource)> {
        let resource = Journal::of_machine(self.cx, label).open()?.into_iter().find(is_instance);
        let resource = resource.ok_or_else(|| {
            Error::new(Code::NotFound, format!("there is no record of an instance of machine `{label}`"))
                .hint(format!("portdistrict machine destroy {label} --yes"))
        })?;
        Ok((Spot::parse(&resource.what, &resource.place)?, resource))
    }

    /// What everything of a machine is called: as an interrupted deploy called it, or anew.
    fn name(&self, label: &Label) -> Result<String> {
        let known = Journal::of_machine(self.cx, label).open()?.into_iter().find(|resource| resource.provider == super::Kind::Gce.as_str());
        match known {
            Some(resource) => Ok(resource.name),
            None => Ok(format!("pd-{label}-{}", suffix()?)),
        }
    }

    async fn deploy_there(&self, plan: &Plan, progress: &dyn Progress) -> Result<Deployed> {
        let decided = Decided::of(self.cx, plan)?;
        let api = self.api()?;
        let (name, owner) = (self.name(&plan.label)?, self.owner()?);
        let (mark, journal) = (Mark::new(&owner, &plan.label), Journal::of_machine(self.cx, &plan.label));
        let work = Deploy { api: &api, journal: &journal, progress, decided: &decided, mark: &mark, owner: &owner, name: &name };
        let image = work.image().await?;
        let manifest = self.manifest(&image)?;
        work.firewall().await?;
        let address = if decided.static_address { Some(work.address().await?.to_string()) } else { None };
        let config = String::from_utf8(metadata_of(plan, decided.port)?.to_json()?)
            .map_err(|error| Error::new(Code::Failed, "cannot write the machine's metadata").cause(error))?;
        let source = image_path(&decided, &image.name);
        let new = NewInstance {
            place: &decided.place,
            name: &name,
            mark: &mark,
            image: &source,
            size: &decided.size,
            confidential: decided.confidential,
            address: address.as_deref(),
            config: &config,
        };
        let (instance, seen) = work.instance(&new).await?;
        let public = public_address(&instance, decided.port)?;
        let step = progress.step("boot the machine");
        let spot = Sort::Instance.at(&decided.place);
        Console::new(&api, &spot, &name, seen).wait_for_node(&*step).await?;
        step.done();
        self.remember_keys(&api, &spot, &plan.label).await?;
        if let Some(manifest) = &manifest {
            ensure_private_dir(&plan.dir)?;
            write_private(&plan.dir.join(IMAGE), &manifest.to_json()?)?;
        }
        let addresses = if plan.addresses.is_empty() { vec![public.to_string()] } else { plan.addresses.clone() };
        let onion = plan.tor.as_ref().and(plan.seed.as_ref()).map(|seed| onions(seed));
        let image = match manifest {
            Some(manifest) => Some(manifest.uki_authenticode),
            None => self.digest(&image)?,
        };
        // Every machine at Google has a vTPM, and that is what can tell its image: the chip measures Google's firmware alone.
        Ok(Deployed { dial: public.to_string(), addresses, onion, image, demand: Rung::ImageByTpm })
    }

    /// The description of an image that was published from here.
    fn manifest(&self, image: &Image) -> Result<Option<Manifest>> {
        let path = self.cx.paths().cache.join("images").join(format!("{}.json", image.name));
        if !path.exists() {
            return Ok(None);
        }
        let manifest = Manifest::parse(&path.display().to_string(), &read(&path, Manifest::MAX)?)?;
        // An image is named after its digest; a file in the cache is no authority.
        let digits = image.name.rsplit('-').next().unwrap_or_default();
        if digits.is_empty() || !manifest.uki_authenticode.starts_with(digits) {
            return Err(Error::new(Code::Refused, format!("{} describes another image than {}", path.display(), image.name))
                .hint(format!("rm {}", shell_quote(&path))));
        }
        Ok(Some(manifest))
    }

    /// The digest of an image's boot program, as the record of its publishing has it.
    fn digest(&self, image: &Image) -> Result<Option<String>> {
        let published = self.cx.ledger()?.resources(&format!("image/{}", image.name))?;
        Ok(published.iter().find_map(|resource| resource.detail.get("digest")?.as_str().map(str::to_owned)))
    }

    /// Writes into the record by which keys Google knows the machine's vTPM, for the claim to compare.
    async fn remember_keys(&self, api: &Api, spot: &Spot, label: &Label) -> Result<()> {
        let (_, resource) = self.instance(label)?;
        let identity = match api.ask::<Identity>(&Call::identity(spot, &resource.name)).await {
            Ok(identity) => identity,
            // Google knows none: then somebody else has to vouch for it.
            Err(failure) if failure.is_missing() => return Ok(()),
            Err(failure) => return Err(failure.into_error(&format!("show the keys of the vTPM of {}", resource.name), spot.project())),
        };
        let keys: Vec<Value> = identity.keys().iter().map(|key| base64(key).into()).collect();
        Journal::of_machine(self.cx, label).made(&resource, Map::from_iter([(TPM_KEYS.to_owned(), keys.into())]))
    }

    /// Starts it if it does not run, and remembers the address if that changed.
    async fn start_there(&self, site: &Site, progress: &dyn Progress) -> Result<bool> {
        let (spot, resource) = self.instance(&site.label)?;
        let api = self.api()?;
        let Some(thing) = self.look(&api, &spot, &resource).await? else { return Err(gone(site)) };
        if thing.state() == State::Running {
            self.remember_address(&site.label, &thing)?;
            return Ok(false);
        }
        let step = progress.step("start the machine");
        let mut console = Console::new(&api, &spot, &resource.name, 0);
        if thing.state() == State::Stopped {
            console.read().await?;
            deploy::act(&api, &spot, &resource.name, "start", POWER, &*step).await?;
        }
        step.done();
        let step = progress.step("boot the machine");
        console.wait_for_node(&*step).await?;
        step.done();
        if let Some(thing) = self.look(&api, &spot, &resource).await? {
            self.remember_address(&site.label, &thing)?;
        }
        Ok(true)
    }

    /// An address that is not reserved is another one after each stop.
    fn remember_address(&self, label: &Label, thing: &Thing) -> Result<()> {
        let Ok(machine) = self.cx.ledger()?.machine(label) else { return Ok(()) };
        let known = machine.address.as_deref().and_then(|address| address.parse::<SocketAddr>().ok());
        let Some((known, ip)) = known.zip(thing.addresses().first().copied()) else { return Ok(()) };
        if known.ip() == ip {
            return Ok(());
        }
        let address = Some(SocketAddr::new(ip, known.port()).to_string());
        self.cx.record(&MachineReconnected { label: label.clone(), address, node_key: None }).map(drop)
    }

    /// The instance, if Google has it and it bears the mark.
    async fn look(&self, api: &Api, spot: &Spot, resource: &Resource) -> Result<Option<Thing>> {
        match api.ask::<Thing>(&Call::get(spot, &resource.name)).await {
            Ok(thing) if remove::mark_of(resource)?.is_on(&thing) => Ok(Some(thing)),
            Ok(_) => Ok(None),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure.into_error(&format!("show the instance {}", resource.name), spot.project())),
        }
    }

    async fn power_there(&self, site: &Site) -> Result<Power> {
        let Ok((spot, resource)) = self.instance(&site.label) else { return Ok(Power::Gone) };
        let thing = self.look(&self.api()?, &spot, &resource).await?;
        Ok(thing.map_or(Power::Gone, |thing| power_of(&thing)))
    }
}

fn is_instance(resource: &Resource) -> bool {
    resource.provider == super::Kind::Gce.as_str() && resource.what == Sort::Instance.as_str()
}

/// How an instance is, in this program's words.
fn power_of(thing: &Thing) -> Power {
    match thing.state() {
        State::Starting => Power::Booting,
        State::Running => Power::On,
        State::Stopped => Power::Off,
    }
}

fn image_path(decided: &Decided, name: &str) -> String {
    format!("projects/{}/global/images/{name}", decided.place.project())
}

/// Where a new machine can be reached.
fn public_address(thing: &Thing, port: u16) -> Result<SocketAddr> {
    let address = thing.addresses().first().copied();
    address.map(|ip| SocketAddr::new(ip, port)).ok_or_else(|| {
        Error::new(Code::Protocol, format!("Google gave {} no public address", thing.name))
            .hint("does a policy of the organisation forbid external addresses? gcloud org-policies list")
    })
}

fn gone(site: &Site) -> Error {
    Error::new(Code::NotFound, format!("the instance of machine `{}` is gone", site.label))
        .hint(format!("portdistrict machine destroy {} --yes", site.label))
}

/// Random lower-case letters and digits.
fn suffix() -> Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0; SUFFIX];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

impl Provider for Gce<'_> {
    fn describe<'a>(&'a self, plan: &'a Plan) -> Job<'a, Vec<String>> {
        Box::pin(async move { dry::requests(&Decided::of(self.cx, plan)?, plan, &self.owner()?) })
    }

    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed> {
        Box::pin(self.deploy_there(plan, progress))
    }

    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool> {
        Box::pin(self.start_there(site, progress))
    }

    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let (spot, resource) = self.instance(&site.label)?;
            deploy::act(&self.api()?, &spot, &resource.name, "stop", POWER, &Silent).await
        })
    }

    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power> {
        Box::pin(self.power_there(site))
    }

    fn pid(&self, _site: &Site) -> Option<i32> {
        None
    }

    fn logs<'a>(&'a self, site: &'a Site, lines: usize, follow: bool, sink: LineSink<'a>) -> Job<'a, ()> {
        Box::pin(async move {
            let (spot, resource) = self.instance(&site.label)?;
            let api = self.api()?;
            Console::new(&api, &spot, &resource.name, 0).tail(lines, follow, sink).await
        })
    }

    fn expectation(&self, site: &Site) -> Result<Expectation> {
        let file: PathBuf = site.dir.join(IMAGE);
        let image = file.exists().then(|| Manifest::parse(&file.display().to_string(), &read(&file, Manifest::MAX)?));
        let (_, resource) = self.instance(&site.label)?;
        let keys = resource.detail.get(TPM_KEYS).and_then(Value::as_array).into_iter().flatten();
        let tpm_keys = keys.filter_map(|key| from_base64(key.as_str()?)).collect();
        Ok(Expectation { image: image.transpose()?, tpm_keys, ..Expectation::default() })
    }

    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let left = journal::undo(&Journal::of_machine(self.cx, &site.label), &Silent).await?;
            match left.into_iter().next() {
                Some(left) => Err(left.error),
                None => remove_folder(&site.dir),
            }
        })
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> Job<'a, ()> {
        Box::pin(async move { remove::remove(&self.api()?, resource, &Silent).await })
    }

    fn survey(&self) -> Job<'_, Vec<Found>> {
        Box::pin(async move { survey::survey(self.cx, &self.owner()?).await })
    }

    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>> {
        Box::pin(async move {
            let mut checks = doctor::checks(self.cx).await;
            if let Some(site) = site {
                checks.push(match self.power_there(site).await {
                    Ok(Power::On) => Check::pass("instance", "runs"),
                    Ok(Power::Booting) => Check::pass("instance", "starts"),
                    Ok(Power::Off) => Check::fail("instance", "does not run", format!("portdistrict machine reconnect {}", site.label)),
                    Ok(Power::Gone) => Check::fail("instance", "is gone", format!("portdistrict machine destroy {} --yes", site.label)),
                    Err(error) => Check::failed("instance", &error),
                });
            }
            Ok(checks)
        })
    }
}
