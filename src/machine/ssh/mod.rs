//! Machines on a server that is reached by SSH: a hardened unit of its systemd runs the very program that deploys it.

mod call;
mod facts;
mod link;
mod program;
mod unit;
pub(super) mod upgrade;

pub use call::Reply;
pub use link::Target;

use super::check::Check;
use super::journal::Journal;
use super::node_files::NodeFiles;
use super::provider::{Deployed, Expectation, Job, LineSink, Onions, Plan, Power, Provider, Server, Site};
use crate::attest::Rung;
use crate::config::Label;
use crate::context::Context;
use crate::encoding::node_id;
use crate::error::{Code, Error, Result};
use crate::ledger::Resource;
use crate::owner::dial_address;
use crate::owner::ready::Ready;
use crate::progress::{Progress, Step};
use call::Call;
use facts::{Facts, Whose};
use link::{Link, SHORT, Upload};
use program::{Program, folder_of_programs};
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use unit::Unit;

/// Sending a program may take this long, on a line of one megabit and more.
const SEND: Duration = Duration::from_secs(600);
/// How long a look at a machine waits for its server, where nothing answers at its port.
const GLANCE: Duration = Duration::from_secs(10);
/// How long a look at a machine waits for its port.
const KNOCK: Duration = Duration::from_secs(2);

/// What is made on a server, as the journal calls it.
const PROGRAM: &str = "program";
const STATE: &str = "state";
const UNIT: &str = "unit";

/// Names in the detail of the unit's record: what an upgrade writes again.
const OWNER: &str = "owner";
const PORT: &str = "port";
const TOR: &str = "tor";

/// The provider.
pub(super) struct Ssh<'c> {
    cx: &'c Context,
}

impl Ssh<'_> {
    pub(super) fn new(cx: &Context) -> Ssh<'_> {
        Ssh { cx }
    }

    /// What the journal knows of a machine's unit: where it is, whose, and how it was made.
    fn unit_of(&self, label: &Label) -> Result<Resource> {
        Journal::of_machine(self.cx, label).find(UNIT)?.ok_or_else(|| {
            Error::new(Code::NotFound, format!("the server of machine `{label}` is not known here"))
                .hint(format!("portdistrict machine destroy {label} --yes"))
        })
    }

    /// A connection to a machine's server on which acts can be done, and a call about the machine.
    async fn reach(&self, label: &Label, act: &'static str) -> Result<(Link, Call)> {
        let unit = self.unit_of(label)?;
        let (link, _) = connect(&unit.place.parse()?, None, "").await?;
        Ok((link, call_of(act, label, &unit)))
    }

    /// Whether something answers at the machine's port, without asking its server.
    async fn answers(&self, label: &Label) -> bool {
        let Ok(machine) = self.cx.ledger().and_then(|ledger| ledger.machine(label)) else { return false };
        let Ok(address) = dial_address(&machine) else { return false };
        let knock = async { TcpStream::connect(crate::resolve::socket_addresses(address).await.ok()?.as_slice()).await.ok() };
        matches!(timeout(KNOCK, knock).await, Ok(Some(_)))
    }
}

/// Connects, looks, and arranges for root; refused where there is no way to be root.
async fn connect(target: &Target, program: Option<&Program>, label: &str) -> Result<(Link, Facts)> {
    let mut link = Link::open(target).await?;
    let facts = look(&link, program, label, "").await?;
    if facts.needs_sudo(target)? {
        link.use_sudo();
    }
    Ok((link, facts))
}

async fn look(link: &Link, program: Option<&Program>, label: &str, owner: &str) -> Result<Facts> {
    let call = named(Call::new("facts", label), label, owner);
    let call = call.with(PROGRAM, program.map_or("", Program::name)).with("digest", program.map_or("", |program| &program.digest));
    Ok(Facts::read(&link.run(&call, label, SHORT).await?))
}

/// A call that knows what is its own.
fn named(call: Call, label: &str, owner: &str) -> Call {
    let mark = label.parse().map_or_else(|_| String::new(), |label| unit::mark(&label, owner));
    call.with("owner", owner).with("mark", &mark)
}

fn call_of(act: &'static str, label: &Label, unit: &Resource) -> Call {
    named(Call::new(act, label.as_str()), label.as_str(), owner_of(unit))
}

/// Under whose id a thing was made; the identity may have been rotated since.
fn owner_of(resource: &Resource) -> &str {
    resource.detail.get(OWNER).and_then(Value::as_str).unwrap_or_default()
}

/// A machine's share of a program: several machines of a server may run the same one.
fn share(journal: &Journal<'_>, host: &str, label: &Label, name: &str) -> Resource {
    journal.resource(super::Kind::Ssh, PROGRAM, host, &format!("{label}/{name}"))
}

fn server_of(plan: &Plan) -> Result<&Server> {
    plan.host.as_ref().ok_or_else(|| Error::new(Code::Usage, "no server is named").hint("--on ssh --host root@server.example.org"))
}

/// `host:port`, in brackets where that is needed.
fn address(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(ip) => SocketAddr::new(ip.into(), port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

impl Provider for Ssh<'_> {
    fn describe<'a>(&'a self, plan: &'a Plan) -> Job<'a, Vec<String>> {
        Box::pin(async move {
            let server = server_of(plan)?;
            let program = Program::open(server.program.as_deref())?;
            let owner = node_id(&self.cx.keyring()?.identity_public());
            Ok(steps(plan, &server.host, &program, &owner))
        })
    }

    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed> {
        Box::pin(async move {
            let server = server_of(plan)?;
            let work = Work {
                cx: self.cx,
                journal: Journal::of_machine(self.cx, &plan.label),
                plan,
                target: server.host.parse()?,
                program: Program::open(server.program.as_deref())?,
                owner: node_id(&self.cx.keyring()?.identity_public()),
                progress,
            };
            work.deploy().await
        })
    }

    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool> {
        Box::pin(async move {
            if self.answers(&site.label).await {
                return Ok(false);
            }
            let tor = self.unit_of(&site.label)?.detail.get(TOR).is_some_and(|tor| tor == true);
            let (link, call) = self.reach(&site.label, "start").await?;
            let (_, ran) = start(&link, call, &site.label, tor, progress).await?;
            Ok(!ran)
        })
    }

    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let (link, call) = self.reach(&site.label, "stop").await?;
            link.run(&call, site.label.as_str(), SHORT).await.map(drop)
        })
    }

    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power> {
        Box::pin(async move {
            if self.answers(&site.label).await {
                return Ok(Power::On);
            }
            let look = async {
                let (link, call) = self.reach(&site.label, "power").await?;
                Ok(power(&link.run(&call, site.label.as_str(), SHORT).await?))
            };
            timeout(GLANCE, look).await.unwrap_or_else(|_| {
                Err(Error::new(
                    Code::TimedOut,
                    format!("the server of `{}` did not answer within {} seconds", site.label, GLANCE.as_secs()),
                )
                .hint(format!("portdistrict machine doctor {}", site.label)))
            })
        })
    }

    fn pid(&self, _site: &Site) -> Option<i32> {
        None
    }

    fn logs<'a>(&'a self, site: &'a Site, lines: usize, follow: bool, sink: LineSink<'a>) -> Job<'a, ()> {
        Box::pin(async move {
            let (link, call) = self.reach(&site.label, "logs").await?;
            let call = call.with("lines", &lines.to_string()).with("follow", if follow { "yes" } else { "" });
            link.stream(&call, sink).await
        })
    }

    fn expectation(&self, _site: &Site) -> Result<Expectation> {
        Ok(Expectation::default())
    }

    /// What deploy made is in the journal, and was removed from there; on this computer there is nothing.
    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let journal = Journal::of_machine(self.cx, &site.label);
            for resource in journal.open()?.iter().rev() {
                self.remove(resource).await?;
                journal.removed(resource)?;
            }
            Ok(())
        })
    }

    fn remove<'a>(&'a self, resource: &'a Resource) -> Job<'a, ()> {
        Box::pin(async move {
            let label: Label = resource.act.strip_prefix("machine/").unwrap_or_default().parse()?;
            let (link, _) = connect(&resource.place.parse()?, None, "").await?;
            let program = match &*resource.what {
                PROGRAM => resource.name.rsplit('/').next().unwrap_or_default(),
                _ => "",
            };
            remove(&link, call_of("remove", &label, resource), &label, &resource.what, program).await.map(drop)
        })
    }

    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>> {
        Box::pin(async move {
            let Some(site) = site else {
                return Ok(vec![
                    check_ssh(),
                    Check::skip("server", "none is named: portdistrict machine doctor --on ssh --host root@server"),
                ]);
            };
            let unit = self.unit_of(&site.label)?;
            let server = Server { host: unit.place.clone(), program: None };
            let mut checks = examine(self.cx, &server, 0).await?;
            checks.push(super::local::check_process(self.power(site).await, site));
            Ok(checks)
        })
    }
}

fn check_ssh() -> Check {
    match super::tools::find("ssh") {
        Some(path) => Check::pass("ssh", path.display().to_string()),
        None => Check::fail("ssh", "is not installed", "apt-get install openssh-client"),
    }
}

/// Looks whether a server can have a machine, on this port if it is not 0.
pub(super) async fn examine(cx: &Context, server: &Server, port: u16) -> Result<Vec<Check>> {
    let (target, program) = (server.host.parse()?, Program::open(server.program.as_deref())?);
    let mut checks = vec![check_ssh()];
    match Link::open(&target).await {
        Err(error) => checks.push(Check::failed("connection", &error)),
        Ok(link) => {
            checks.push(Check::pass("connection", format!("{target} answers")));
            match look(&link, Some(&program), "", "").await {
                Err(error) => checks.push(Check::failed("server", &error)),
                Ok(facts) => checks.extend(facts.checks(&target, &program, port, cx.now())),
            }
        }
    }
    Ok(checks)
}

/// How the script's answer says it is.
fn power(reply: &call::Reply) -> Power {
    match (reply.get("unit"), reply.get("active")) {
        (Some("ours"), Some("active" | "reloading")) => Power::On,
        (Some("ours"), Some("activating")) => Power::Booting,
        (Some("ours"), _) => Power::Off,
        _ => Power::Gone,
    }
}

/// Removes things of a machine; an error names what could not be.
async fn remove(link: &Link, call: Call, label: &Label, what: &str, program: &str) -> Result<call::Reply> {
    let reply = link.run(&call.with("what", what).with("programs", program), label.as_str(), SHORT).await?;
    let left: Vec<&str> = reply.all("left").collect();
    if left.is_empty() {
        return Ok(reply);
    }
    let error = Error::new(Code::Failed, format!("not everything of `{label}` could be removed from {}", link.target));
    Err(left.into_iter().fold(error, |error, left| error.because(left)).hint(format!("portdistrict machine destroy {label} --yes")))
}

/// Starts the service and waits until its node is ready; also says whether it ran already.
async fn start(link: &Link, call: Call, label: &Label, tor: bool, progress: &dyn Progress) -> Result<(Option<Ready>, bool)> {
    let budget = unit::patience(tor);
    let call = call.with("budget", &budget.to_string());
    let waiting = Waiting::new(progress);
    let patience = Duration::from_secs(budget) + SHORT;
    let reply = link.run_with(&call, label.as_str(), patience, None, &mut |name, value| waiting.hear(name, value)).await?;
    let ready = waiting.done();
    Ok((ready, reply.get("running") == Some("yes")))
}

/// A node that starts, as it is seen through the script.
struct Waiting<'p> {
    progress: &'p dyn Progress,
    step: RefCell<Option<Box<dyn Step>>>,
    publishing: Cell<bool>,
    last: RefCell<Option<Ready>>,
}

impl<'p> Waiting<'p> {
    fn new(progress: &'p dyn Progress) -> Waiting<'p> {
        let step = RefCell::new(Some(progress.step("start the node")));
        Waiting { progress, step, publishing: Cell::new(false), last: RefCell::new(None) }
    }

    fn hear(&self, name: &str, value: &str) {
        let Some(ready) = Some(value).filter(|_| name == "node").and_then(|value| serde_json::from_str::<Ready>(value).ok()) else {
            return;
        };
        if let Some(onion) = &ready.onion {
            if !self.publishing.replace(true) {
                // It listens; the rest is the network's business and takes longer.
                self.step.take().into_iter().for_each(Step::done);
                self.step.replace(Some(self.progress.step("publish the onion service")));
            }
            if let Some(step) = &*self.step.borrow() {
                step.note(&onion.stage());
            }
        }
        self.last.replace(Some(ready));
    }

    /// It is ready; what it said of itself last.
    fn done(&self) -> Option<Ready> {
        self.step.take().into_iter().for_each(Step::done);
        self.last.take()
    }
}

/// Sends a program where it is not there yet.
async fn send(link: &Link, program: &Program, label: &Label, progress: &dyn Progress) -> Result<()> {
    let step = progress.step("send the program");
    let call = Call::new("push", label.as_str()).with(PROGRAM, program.name()).with("digest", &program.digest);
    let call = call.with("size", &program.size.to_string());
    let told = |sent| step.bytes(sent, program.size);
    let upload = Upload { file: &program.path, size: program.size, told: &told };
    link.run_with(&call, label.as_str(), SEND, Some(upload), &mut |_, _| {}).await?;
    step.done();
    Ok(())
}

/// One deploy.
struct Work<'a> {
    cx: &'a Context,
    journal: Journal<'a>,
    plan: &'a Plan,
    target: Target,
    program: Program,
    owner: String,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    async fn deploy(&self) -> Result<Deployed> {
        let begun = self.begun()?;
        // A person may be asked something here; no step is shown meanwhile.
        let mut link = Link::open(&self.target).await?;
        let (facts, port) = self.examine(&mut link, begun).await?;

        let program = share(&self.journal, self.target.as_str(), &self.plan.label, self.program.name());
        self.journal.intend(&program)?;
        if !facts.has_program {
            send(&link, &self.program, &self.plan.label, self.progress).await?;
        }
        self.journal.made(&program, Map::new())?;

        let step = self.progress.step("write the configuration");
        self.configure(&link, SocketAddr::new(facts.listen(self.plan.listen), port)).await?;
        step.done();
        let step = self.progress.step("install the unit");
        self.install(&link, port).await?;
        step.done();

        let (ready, _) = start(&link, self.call("start"), &self.plan.label, self.plan.tor.is_some(), self.progress).await?;
        let dial = address(&link.host_name().await?, port);
        let addresses = if self.plan.addresses.is_empty() { vec![dial.clone()] } else { self.plan.addresses.clone() };
        let onion = ready.and_then(|ready| ready.onion).map(|onion| Onions { address: onion.address, restricted: onion.restricted });
        Ok(Deployed { dial, addresses, onion, image: None, demand: Rung::Nothing })
    }

    /// Whether an earlier deploy was cut short; refused if that was on another server.
    fn begun(&self) -> Result<bool> {
        let open = self.journal.open()?;
        match open.iter().find(|resource| resource.place != self.target.as_str() || resource.provider != super::Kind::Ssh.as_str()) {
            None => Ok(!open.is_empty()),
            Some(other) => {
                let label = &self.plan.label;
                Err(Error::new(Code::Exists, format!("a deploy of `{label}` was cut short on {}", other.place))
                    .hint(format!("remove what it left: portdistrict machine destroy {label} --yes")))
            }
        }
    }

    /// Everything that can be wrong before something is made, and the port.
    async fn examine(&self, link: &mut Link, begun: bool) -> Result<(Facts, u16)> {
        let step = self.progress.step("look at the server");
        let label = &self.plan.label;
        let facts = look(link, Some(&self.program), label.as_str(), &self.owner).await?;
        if facts.needs_sudo(&self.target)? {
            link.use_sudo();
        }
        facts.refuse(&self.target, &self.program, self.cx.now())?;
        let both = [facts.unit, facts.state];
        if both.contains(&Whose::Other) {
            return Err(Error::new(Code::Exists, format!("there is a machine `{label}` of somebody else on {}", self.target))
                .hint("choose another label"));
        }
        if !begun && both.iter().any(|whose| *whose != Whose::Nobody) {
            return Err(Error::new(Code::Exists, format!("there is a machine `{label}` on {} already", self.target))
                .because("it was deployed from another home of yours, or from one that is gone")
                .hint("choose another label"));
        }
        // What an earlier attempt started may hold the port.
        let port = if begun && facts.unit == Whose::Ours && self.plan.port != 0 {
            self.plan.port
        } else {
            facts.port(self.plan.port, &self.target)?
        };
        step.done();
        Ok((facts, port))
    }

    async fn configure(&self, link: &Link, listen: SocketAddr) -> Result<()> {
        let state = self.resource(STATE, self.plan.label.as_str());
        self.journal.intend(&state)?;
        let files = NodeFiles::of(self.plan, listen)?;
        let call = self.call("configure").with("config", &files.config).with("cover", &files.cover);
        let call = call.with("seed", files.seed.as_ref().map_or("", |seed| seed.as_str()));
        let call = call.with("tor", files.tor_settings.as_deref().unwrap_or_default());
        link.run(&call, self.plan.label.as_str(), SHORT).await?;
        self.journal.made(&state, Map::new())
    }

    async fn install(&self, link: &Link, port: u16) -> Result<()> {
        let unit = self.resource(UNIT, &unit::name(&self.plan.label));
        self.journal.intend(&unit)?;
        let text = unit_of_plan(self.plan, &self.program, &self.owner, port).text();
        link.run(&self.call("install").with("unit_text", &text), self.plan.label.as_str(), SHORT).await?;
        self.journal.made(&unit, Map::from_iter([(PORT.to_owned(), json!(port)), (TOR.to_owned(), json!(self.plan.tor.is_some()))]))
    }

    fn resource(&self, what: &str, name: &str) -> Resource {
        let mut resource = self.journal.resource(super::Kind::Ssh, what, self.target.as_str(), name);
        resource.detail.insert(OWNER.to_owned(), json!(self.owner));
        resource
    }

    fn call(&self, act: &'static str) -> Call {
        named(Call::new(act, self.plan.label.as_str()), self.plan.label.as_str(), &self.owner)
    }
}

fn unit_of_plan<'a>(plan: &'a Plan, program: &'a Program, owner: &'a str, port: u16) -> Unit<'a> {
    Unit { label: &plan.label, owner, program: program.name(), port, tor: plan.tor.is_some() }
}

/// What [`Work::deploy`] would do.
fn steps(plan: &Plan, host: &str, program: &Program, owner: &str) -> Vec<String> {
    let label = &plan.label;
    let port = if plan.port == 0 { "a free port".to_owned() } else { format!("port {}", plan.port) };
    let file = format!("{}/{}", folder_of_programs(), program.name());
    let mut steps = vec![
        format!("connect with: ssh {}", crate::config::fs::shell_quote(Path::new(host))),
        "check its root, system, processor, systemd, tools, clock, disk and ports; end here if one is not as it must be".to_owned(),
        format!("send this program ({} MiB, sha256 {}) to {file}, unless it is there", program.size >> 20, program.digest),
        format!("make {}, for a user that systemd makes for this machine alone", unit::state(label)),
        format!("write a node configuration there that listens on {port}"),
        match plan.owner {
            Some(_) => "let nobody but you claim it".to_owned(),
            None => "let the first one who knows its bootstrap key claim it".to_owned(),
        },
    ];
    if !plan.allow.is_empty() {
        steps.push(format!("allow guests to reach {}", plan.allow.join(", ")));
    }
    if plan.tor.is_some() {
        steps.push("publish an onion service, and wait until a connection through the Tor network has reached it".to_owned());
    }
    let text = unit_of_plan(plan, program, owner, plan.port).text();
    steps.push(format!("write {}:\n{}", unit::path(label), text.trim_end()));
    steps.push(format!("enable and start {}, and wait until its node is ready", unit::name(label)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_so_that_they_can_be_dialled() {
        assert_eq!(address("server.example.org", 443), "server.example.org:443");
        assert_eq!(address("192.0.2.1", 443), "192.0.2.1:443");
        assert_eq!(address("2001:db8::1", 443), "[2001:db8::1]:443");
    }

    #[test]
    fn how_it_is_is_read_from_unit_and_state() {
        let seen = |text: &str| power(&Reply::parse(text));
        assert_eq!(seen("pd:unit=ours\npd:active=active\n"), Power::On);
        assert_eq!(seen("pd:unit=ours\npd:active=activating\n"), Power::Booting);
        assert_eq!(seen("pd:unit=ours\npd:active=failed\n"), Power::Off);
        assert_eq!(seen("pd:unit=other\npd:active=active\n"), Power::Gone);
        assert_eq!(seen(""), Power::Gone);
    }

    #[test]
    fn a_node_that_starts_is_heard_through_the_script() {
        let waiting = Waiting::new(&crate::progress::Silent);
        waiting.hear("node", "nonsense");
        let ready = Ready::new("127.0.0.1:1".parse().unwrap(), &[1; 32], "home");
        waiting.hear("node", &serde_json::to_string(&ready).unwrap());
        assert_eq!(waiting.done(), Some(ready));
    }
}
