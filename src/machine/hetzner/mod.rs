//! Machines at Hetzner Cloud: a server from a snapshot, a firewall with the node's port, the node's metadata as user data.
//!
//! Nothing there proves by hardware what a machine runs.

mod api;
mod choice;
mod doctor;
mod publish;
mod rescue;
mod things;
mod types;

pub use publish::{Published, describe_publish, list, publish, remove_image, tidy};

use super::check::Check;
use super::journal::Journal;
use super::provider::{CloudPlan, Deployed, Expectation, Found, Job, LineSink, Onions, Plan, Power, Provider, Site};
use crate::attest::Rung;
use crate::config::Label;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::keyring::{Purpose, Seed};
use crate::ledger::Resource;
use crate::owner::metadata;
use crate::progress::{Progress, Silent, Step};
use crate::session::{self, CoverKey};
use crate::tor::onion_address;
use api::{Api, Budget, Failure};
use choice::Choice;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use things::What;
use types::{Action, Labels, Server};

/// Whose a thing is: the id of an identity, in lower case.
const OWNER_LABEL: &str = "portdistrict";
/// The machine it belongs to.
const MACHINE_LABEL: &str = "portdistrict-machine";
/// The size of the server that wrote an image: one that is known to start it.
const SIZE_LABEL: &str = "portdistrict-size";
/// Hetzner's limit for user data.
const MAX_USER_DATA: usize = 32 * 1024;
/// How long making a firewall or an address may take.
const SMALL: Duration = Duration::from_secs(60);
/// How long making, starting or stopping a server may take.
const SERVER: Duration = Duration::from_secs(300);
/// How long a node may take from its server's start until it answers.
const ANSWER: Duration = Duration::from_secs(240);
/// For one attempt to speak to a node.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The provider.
pub(super) struct Hetzner<'c> {
    cx: &'c Context,
}

impl Hetzner<'_> {
    pub(super) fn new(cx: &Context) -> Hetzner<'_> {
        Hetzner { cx }
    }

    /// Where machines are to stand, if somebody says.
    fn zone<'a>(&'a self, cloud: &'a CloudPlan) -> Result<Option<&'a str>> {
        Ok(cloud.zone.as_deref().or(self.cx.settings()?.hetzner.zone.as_deref()))
    }

    /// The machine's server; none if there is none any more.
    async fn server(&self, api: &Api, label: &Label) -> Result<Option<Server>> {
        let Some(resource) = Journal::of_machine(self.cx, label).find(What::Server.as_str())? else { return Ok(None) };
        let Some(id) = things::number(&resource) else { return Ok(None) };
        Ok(server(api, id).await?.filter(|server| things::is_ours(&server.labels, owner_of(&resource))))
    }

    async fn need_server(&self, api: &Api, label: &Label) -> Result<Server> {
        self.server(api, label).await?.ok_or_else(|| {
            Error::new(Code::NotFound, format!("the server of machine `{label}` is gone"))
                .hint(format!("portdistrict machine destroy {label} --yes"))
        })
    }

    async fn act(&self, api: &Api, server: u64, verb: &str, step: &dyn Step) -> Result<()> {
        let path = format!("/servers/{server}/actions/{verb}");
        let body = json!({});
        let answer: Value = api.when_free(Budget::new("to change the server", SERVER), || api.post(&path, &body)).await?;
        finish_all(api, things::actions_in(&answer), SERVER, step).await
    }

    /// Waits until the node opens its bootstrap to the key that only this machine's owner has.
    async fn wait_for_node(&self, address: &str, cover: &[u8; 32], label: &Label, step: Box<dyn Step>) -> Result<()> {
        let mut budget = Budget::new("the node to answer", ANSWER);
        step.note(address);
        loop {
            let attempt = async {
                let stream = crate::owner::dial(address, label).await.ok()?;
                session::bootstrap(stream, &CoverKey::from_bytes(*cover), &self.cx.keyring().ok()?.client_noise()).await.ok()
            };
            if tokio::time::timeout(ATTEMPT, attempt).await.ok().flatten().is_some() {
                step.done();
                return Ok(());
            }
            budget.pause().await.map_err(|_| silent_node(address, label))?;
        }
    }
}

impl Provider for Hetzner<'_> {
    fn describe<'a>(&'a self, plan: &'a Plan) -> Job<'a, Vec<String>> {
        Box::pin(async move {
            let cloud = cloud_of(plan)?;
            user_data(plan)?;
            let (api, zone) = (Api::open(self.cx)?, self.zone(cloud)?);
            let choice = Choice::of(&api, &ours(self.cx)?, cloud, zone).await?;
            let mut steps = vec![
                format!("start {} from the image {} ({})", choice.words(), choice.image.description, choice.image.id),
                format!("pay {}", choice.cost.words()),
                "trust Hetzner: no hardware there proves what a machine runs".to_owned(),
            ];
            steps.extend(requests(plan, &choice, cloud));
            steps.push(format!("wait until the node answers at port {}", port(plan)));
            Ok(steps)
        })
    }

    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed> {
        Box::pin(async move {
            let cloud = cloud_of(plan)?;
            let (user_data, zone) = (user_data(plan)?, self.zone(cloud)?);
            let (api, owner) = (Api::open(self.cx)?, mark(self.cx)?);
            let journal = Journal::of_machine(self.cx, &plan.label);
            if !journal.open()?.is_empty() {
                // An earlier attempt ended half way, with a key that nobody knows any more.
                let left = super::journal::undo(&journal, progress).await?;
                if let Some(left) = left.first() {
                    return Err(
                        Error::new(Code::Failed, left.to_string()).hint(format!("portdistrict machine destroy {} --yes", plan.label))
                    );
                }
            }
            let step = progress.step("choose a server");
            let choice = Choice::of(&api, &ours(self.cx)?, cloud, zone).await?;
            step.done();
            progress.step(&format!("{}: {}", choice.words(), choice.cost.words())).done();
            let work = Work { api: &api, journal: &journal, owner: &owner, name: name(&plan.label, &suffix()?), place: &choice.place };
            let made = work.make(plan, &choice, cloud, &user_data, progress).await?;
            let address = made.ipv4().ok_or_else(|| unreadable("a server without an IPv4 address"))?;
            let dial = format!("{address}:{}", port(plan));
            self.wait_for_node(&dial, &plan.cover, &plan.label, progress.step("wait for the node")).await?;
            let addresses = if plan.addresses.is_empty() { vec![dial.clone()] } else { plan.addresses.clone() };
            let onion = plan.tor.as_ref().and(plan.seed.as_ref()).map(|seed| onions(seed));
            Ok(Deployed { dial, addresses, onion, image: None, demand: Rung::Nothing })
        })
    }

    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool> {
        Box::pin(async move {
            let api = Api::open(self.cx)?;
            let server = self.need_server(&api, &site.label).await?;
            let off = server.status == "off";
            if off {
                let step = progress.step("start the server");
                self.act(&api, server.id, "poweron", &*step).await?;
                step.done();
            }
            if off || power(&server) == Power::Booting {
                let machine = self.cx.ledger()?.machine(&site.label)?;
                if let Some(cover) = &machine.cover {
                    let address = crate::owner::dial_address(&machine)?;
                    self.wait_for_node(address, &cover.0, &site.label, progress.step("wait for the node")).await?;
                }
            }
            Ok(off)
        })
    }

    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let api = Api::open(self.cx)?;
            match self.server(&api, &site.label).await? {
                Some(server) if server.status != "off" => self.act(&api, server.id, "poweroff", &Silent).await,
                _ => Ok(()),
            }
        })
    }

    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power> {
        Box::pin(async move {
            let api = Api::open(self.cx)?;
            Ok(self.server(&api, &site.label).await?.as_ref().map_or(Power::Gone, power))
        })
    }

    fn pid(&self, _: &Site) -> Option<i32> {
        None
    }

    /// There is no serial console: the node itself is asked.
    fn keeps_logs(&self) -> bool {
        false
    }

    fn logs<'a>(&'a self, site: &'a Site, _: usize, _: bool, _: LineSink<'a>) -> Job<'a, ()> {
        Box::pin(async move {
            Err(Error::new(Code::Precondition, "Hetzner Cloud hands out no serial console")
                .hint(format!("portdistrict machine logs {} --from node", site.label)))
        })
    }

    fn expectation(&self, _: &Site) -> Result<Expectation> {
        Ok(Expectation::default())
    }

    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let left = super::journal::undo(&Journal::of_machine(self.cx, &site.label), &Silent).await?;
            match left.into_iter().next() {
                Some(left) => Err(left.error),
                None => super::folder::remove(&site.dir),
            }
        })
    }

    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>> {
        Box::pin(async move {
            let (api, mut checks) = doctor::of_account(self.cx).await;
            if let (Some(site), Some(api)) = (site, api) {
                checks.push(doctor::of_server(self.server(&api, &site.label).await, &site.label));
            }
            Ok(checks)
        })
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> Job<'a, ()> {
        Box::pin(async move {
            let what = What::of(resource).ok_or_else(|| {
                Error::new(Code::Failed, format!("this version makes nothing like {}", resource.id())).hint("upgrade portdistrict")
            })?;
            things::remove(&Api::open(self.cx)?, what, resource, owner_of(resource)).await
        })
    }

    fn survey(&self) -> Job<'_, Vec<Found>> {
        Box::pin(async move { survey(&Api::open(self.cx)?, &ours(self.cx)?).await })
    }
}

/// A deploy under way.
struct Work<'a> {
    api: &'a Api,
    journal: &'a Journal<'a>,
    owner: &'a str,
    name: String,
    place: &'a str,
}

impl Work<'_> {
    fn resource(&self, what: What) -> Resource {
        resource(self.journal, what, &self.name, self.owner)
    }

    async fn make(&self, plan: &Plan, choice: &Choice, cloud: &CloudPlan, user_data: &str, progress: &dyn Progress) -> Result<Server> {
        let labels = json!({ OWNER_LABEL: self.owner, MACHINE_LABEL: plan.label.as_str() });
        let step = progress.step("make the firewall");
        let firewall = self.firewall(port(plan), &labels, &*step).await?;
        step.done();
        let mut net = json!({ "enable_ipv4": true, "enable_ipv6": true });
        if cloud.static_address {
            let step = progress.step("reserve an address");
            net["ipv4"] = json!(self.address(&labels, &*step).await?);
            step.done();
        }
        let step = progress.step("make the server");
        let body = json!({
            "name": self.name, "server_type": choice.size.name, "image": choice.image.id.to_string(), "location": self.place,
            "firewalls": [{ "firewall": firewall }], "labels": labels, "public_net": net, "user_data": user_data, "start_after_create": true,
        });
        let (id, actions) = self.one(What::Server, &body).await?;
        finish_all(self.api, actions, SERVER, &*step).await?;
        let server = running(self.api, id, &*step).await?;
        step.done();
        Ok(server)
    }

    async fn firewall(&self, port: u16, labels: &Value, step: &dyn Step) -> Result<u64> {
        let rule = json!({ "direction": "in", "protocol": "tcp", "port": port.to_string(), "source_ips": ["0.0.0.0/0", "::/0"] });
        let (id, actions) = self.one(What::Firewall, &json!({ "name": self.name, "labels": labels, "rules": [rule] })).await?;
        finish_all(self.api, actions, SMALL, step).await.map(|()| id)
    }

    async fn address(&self, labels: &Value, step: &dyn Step) -> Result<u64> {
        let body = json!({
            "name": self.name, "type": "ipv4", "assignee_type": "server", "auto_delete": false, "location": self.place, "labels": labels,
        });
        let (id, actions) = self.one(What::Address, &body).await?;
        finish_all(self.api, actions, SMALL, step).await.map(|()| id)
    }

    async fn one(&self, what: What, body: &Value) -> Result<(u64, Vec<Action>)> {
        things::make(self.api, self.journal, (what, &self.resource(what)), self.owner, body).await
    }
}

/// Something to be recorded before it is made, with the mark that it will bear.
fn resource(journal: &Journal<'_>, what: What, name: &str, owner: &str) -> Resource {
    let mut resource = journal.resource(super::Kind::Hetzner, what.as_str(), "", name);
    resource.detail.insert(OWNER_LABEL.to_owned(), owner.into());
    resource
}

/// The mark that a thing bears: that of the identity which made it, also after a rotation.
fn owner_of(resource: &Resource) -> &str {
    resource.detail.get(OWNER_LABEL).and_then(Value::as_str).unwrap_or_default()
}

async fn finish_all(api: &Api, actions: Vec<Action>, patience: Duration, step: &dyn Step) -> Result<()> {
    for action in actions {
        api.finish(action, Budget::new("to do what was asked", patience), step).await?;
    }
    Ok(())
}

async fn server(api: &Api, id: u64) -> Result<Option<Server>, Failure> {
    #[derive(serde::Deserialize)]
    struct One {
        server: Server,
    }
    match api.get::<One>(&format!("/servers/{id}")).await {
        Ok(one) => Ok(Some(one.server)),
        Err(failure) if failure.is("not_found") => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Waits until a server runs; one that does not show yet has only just been made.
async fn running(api: &Api, id: u64, step: &dyn Step) -> Result<Server> {
    let mut budget = Budget::new("to start the server", SERVER);
    loop {
        match server(api, id).await? {
            Some(server) if server.status == "running" => return Ok(server),
            Some(server) => step.note(&server.status),
            None => {}
        }
        budget.pause().await?;
    }
}

/// How a server is, in the words that all providers share.
fn power(server: &Server) -> Power {
    match server.status.as_str() {
        "running" => Power::On,
        "off" | "stopping" => Power::Off,
        "deleting" => Power::Gone,
        _ => Power::Booting,
    }
}

/// Reads any bytes as every answer of Hetzner's there is; for fuzzing.
pub fn read_any(data: &[u8]) -> Error {
    api::read_any(data)
}

/// What selects everything of this owner's in a list: also what was made before the identity was rotated.
fn ours(cx: &Context) -> Result<String> {
    let ledger = cx.ledger()?;
    let made = ledger.resources("machine/")?.into_iter().chain(ledger.resources("image/")?);
    let made = made.filter(|made| made.provider == super::Kind::Hetzner.as_str());
    let mut marks: BTreeSet<String> = made.map(|made| owner_of(&made).to_owned()).filter(|mark| !mark.is_empty()).collect();
    marks.insert(mark(cx)?);
    let marks: Vec<String> = marks.into_iter().collect();
    Ok(format!("&label_selector={}", encode(&format!("{OWNER_LABEL} in ({})", marks.join(",")))))
}

/// Everything that bears the owner's mark.
async fn survey(api: &Api, selector: &str) -> Result<Vec<Found>> {
    let found = |what: What, name: &str, labels: &Labels| Found {
        label: labels.get(MACHINE_LABEL).and_then(|label| label.parse().ok()),
        id: format!("{}/{}//{name}", super::Kind::Hetzner, what.as_str()),
        power: None,
        addresses: Vec::new(),
    };
    let servers: Vec<Server> = api.list(What::Server.list(), selector).await?;
    let mut all: Vec<Found> = Vec::new();
    for server in &servers {
        let addresses = server.ipv4().map(IpAddr::V4).into_iter().collect();
        all.push(Found { power: Some(power(server)), addresses, ..found(What::Server, &server.name, &server.labels) });
    }
    for what in [What::Firewall, What::Address, What::Key, What::Image] {
        let things: Vec<types::Plain> = api.list(what.list(), selector).await?;
        all.extend(things.iter().map(|thing| found(what, thing.name().unwrap_or_default(), &thing.labels)));
    }
    Ok(all)
}

/// The identity's id as a label.
fn mark(cx: &Context) -> Result<String> {
    Ok(node_id(&cx.keyring()?.identity_public()).to_lowercase())
}

fn name(label: &Label, suffix: &str) -> String {
    format!("pd-{label}-{suffix}")
}

/// Six lower-case letters and digits.
fn suffix() -> Result<String> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
    Ok(bytes.map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte) % 32])).iter().collect())
}

fn port(plan: &Plan) -> u16 {
    if plan.port == 0 { metadata::PORT } else { plan.port }
}

/// Every request of a deploy, in its order. An address that ends with … has a number that is known only then.
fn requests(plan: &Plan, choice: &Choice, cloud: &CloudPlan) -> Vec<String> {
    let name = name(&plan.label, "??????");
    let wait = || "GET /actions/…: until it is done".to_owned();
    let mut requests = ["/images: which there are", "/server_types: which there are", "/pricing: what they cost"]
        .map(|what| format!("GET {what}"))
        .to_vec();
    requests.push(format!("POST /firewalls: {name}, lets TCP port {} in from everywhere, and nothing else", port(plan)));
    requests.push(wait());
    if cloud.static_address {
        requests.push(format!("POST /primary_ips: {name}, an IPv4 address in {} that stays until the machine is destroyed", choice.place));
    }
    requests.push(format!("POST /servers: {name}, behind that firewall, with what its node must know as user data"));
    requests.extend([wait(), "GET /servers/…: until it runs".to_owned()]);
    requests
}

/// What is asked of the cloud; refused where it cannot do it.
fn cloud_of(plan: &Plan) -> Result<&CloudPlan> {
    let usage = |why: &str, hint: &str| Error::new(Code::Usage, why.to_owned()).hint(hint.to_owned());
    let cloud = plan.cloud.as_ref().ok_or_else(|| usage("Hetzner Cloud is not told what to make", "--on hetzner"))?;
    if cloud.confidential {
        return Err(usage(
            "Hetzner Cloud has no confidential machines: nothing there encrypts memory or proves it",
            "--on gce --confidential",
        ));
    }
    if plan.source.is_of_hardware() {
        return Err(usage("a server at Hetzner has no TPM and no SEV-SNP: its seed comes from its owner", "--seed owner"));
    }
    if cloud.project.is_some() {
        return Err(usage("at Hetzner the token says which project it is", "leave --project away"));
    }
    if plan.listen.is_some() || plan.service {
        return Err(usage("a server of its own listens on all its addresses, and starts by itself", "leave --listen and --systemd away"));
    }
    if plan.owner.is_none() {
        return Err(usage("an image is claimed by the one who deployed it, and nobody else", "leave --claim-by-anyone away"));
    }
    Ok(cloud)
}

/// What the node must know, as the server's user data.
fn user_data(plan: &Plan) -> Result<String> {
    let told = plan.metadata(port(plan), plan.cloud.as_ref().map(|cloud| cloud.on_failure).unwrap_or_default())?;
    let bytes = told.to_json()?;
    if bytes.len() > MAX_USER_DATA {
        return Err(Error::new(
            Code::Usage,
            format!("what this machine is to be told takes {} bytes, Hetzner takes {MAX_USER_DATA}", bytes.len()),
        )
        .hint("shorten the Tor settings, or the list of destinations"));
    }
    String::from_utf8(bytes).map_err(|error| Error::new(Code::Failed, "cannot write the machine's metadata").cause(error))
}

fn onions(seed: &[u8; 32]) -> Onions {
    let seed = Seed::from_bytes(seed);
    Onions {
        address: onion_address(&seed.derive(Purpose::NodeOnion)),
        restricted: onion_address(&seed.derive(Purpose::NodeOnionRestricted)),
    }
}

fn silent_node(address: &str, label: &Label) -> Error {
    Error::new(Code::TimedOut, format!("the server runs, but no node answers at {address} after {} seconds", ANSWER.as_secs()))
        .because("an image boots by UEFI alone; some sizes of Hetzner's start by BIOS, see docs/providers.md")
        .hint(format!("deploy it in the size that published the image; look at its console at https://console.hetzner.com; machine `{label}` was removed"))
}

fn unreadable(what: &str) -> Error {
    Error::new(Code::Protocol, format!("Hetzner Cloud's answer cannot be read: {what}")).hint("upgrade portdistrict")
}

/// A value within a query (RFC 3986: everything but unreserved characters is encoded).
fn encode(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_safe_within_a_query() {
        assert_eq!(encode("portdistrict=4jb-._~"), "portdistrict%3D4jb-._~");
        assert_eq!(encode("a&b c/ü"), "a%26b%20c%2F%C3%BC");
    }

    #[test]
    fn names_are_what_a_host_may_be_called() {
        let name = name(&"home".parse().unwrap(), &suffix().unwrap());
        assert!(
            name.starts_with("pd-home-")
                && name.len() == 14
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        );
    }
}
