//! Machines that are a process on this computer: this very program, detached, in a session of its own or under systemd.

use super::check::Check;
use super::folder::Folder;
use super::process::Process;
use super::provider::{Deployed, Expectation, Job, LineSink, Onions, Plan, Power, Provider, Site};
use super::{service, tail};
use crate::attest::Rung;
use crate::config::fs::{check_private_dir, shell_quote, write_private};
use crate::encoding::base64;
use crate::error::{Code, Doing, Error, Result};
use crate::owner::ready::{self, Ready};
use crate::progress::{Progress, Step};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a node may take until it says that it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a node may take to end its streams when asked to stop.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Names within a machine's folder that its configuration mentions; relative, so that a home can be moved.
const STATE: &str = "node";
const COVER: &str = "cover";
const SEED: &str = "seed";
const TOR_SETTINGS: &str = "arti.toml";

/// The files of one machine.
struct Files {
    config: PathBuf,
    out: PathBuf,
    log: PathBuf,
    process: PathBuf,
    service: PathBuf,
}

impl Files {
    fn of(dir: &Path) -> Files {
        Files {
            config: dir.join("node.toml"),
            out: dir.join("node.out"),
            log: dir.join("node.log"),
            process: dir.join("process.json"),
            service: dir.join("service"),
        }
    }
}

/// The node's configuration as this provider writes it; `node` reads and documents the same names.
#[derive(Serialize)]
struct NodeFile<'a> {
    label: &'a str,
    listen: SocketAddr,
    state_dir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    claim_by_anyone: bool,
    bootstrap_cover_file: &'a str,
    allow: &'a [String],
    log_destinations: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tor: Option<TorSection<'a>>,
}

/// Its section `[tor]`.
#[derive(Serialize)]
struct TorSection<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    config_file: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    bridges: &'a [String],
    self_test: bool,
}

/// What [`Local::deploy`] would do.
fn steps(plan: &Plan) -> Result<Vec<String>> {
    let listen = choose_address(plan.listen, plan.port)?;
    let port = if plan.port == 0 { "a free port".to_owned() } else { format!("port {}", plan.port) };
    let mut steps = vec![
        format!("make the folder {}", plan.dir.display()),
        format!("write a node configuration that listens on {}, {port}", listen.ip()),
        format!("give friends the address {}", addresses(plan, listen).iter().map(|a| host(a)).collect::<Vec<_>>().join(", ")),
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
    steps.push(match plan.service {
        true => format!("install and start the systemd user unit {}", service::unit_name(&plan.label)),
        false => "start the node as a detached process of this user".to_owned(),
    });
    Ok(steps)
}

/// The provider.
pub(super) struct Local;

impl Provider for Local {
    fn describe<'a>(&'a self, plan: &'a Plan) -> Job<'a, Vec<String>> {
        Box::pin(async move { steps(plan) })
    }

    fn deploy<'a>(&'a self, plan: &'a Plan, progress: &'a dyn Progress) -> Job<'a, Deployed> {
        Box::pin(async move {
            let step = progress.step("prepare the folder");
            let mut unfinished = Unfinished::create(plan)?;
            let listen = choose_address(plan.listen, plan.port)?;
            configure(plan, listen)?;
            step.done();

            let step = progress.step("start the node");
            let site = Site { label: plan.label.clone(), dir: plan.dir.clone() };
            if plan.service {
                service::install(&site, &program()?, &Files::of(&plan.dir).config).await?;
            } else {
                unfinished.child = Some(spawn(&site)?);
            }
            let ready = wait_ready(&site, unfinished.child.as_mut(), plan.tor.is_some(), step, progress).await?;
            unfinished.finish();
            let onion = ready.onion.map(|onion| Onions { address: onion.address, restricted: onion.restricted });
            let (dial, addresses) = (dial_address(listen).to_string(), addresses(plan, listen));
            Ok(Deployed { dial, addresses, onion, image: None, demand: Rung::Nothing })
        })
    }

    fn start<'a>(&'a self, site: &'a Site, progress: &'a dyn Progress) -> Job<'a, bool> {
        Box::pin(async move {
            match self.power(site).await? {
                Power::On | Power::Booting => return Ok(false),
                Power::Gone => {
                    return Err(Error::new(
                        Code::NotFound,
                        format!("the files of machine `{}` are gone: {}", site.label, site.dir.display()),
                    )
                    .hint(format!("portdistrict machine destroy {} --yes", site.label)));
                }
                Power::Off => {}
            }
            let step = progress.step("start the node");
            let mut child = None;
            if service::is_used(&Files::of(&site.dir).service) {
                service::start(&site.label).await?;
            } else {
                child = Some(spawn(site)?);
            }
            let tor = is_onion_service(site);
            wait_ready(site, child.as_mut(), tor, step, progress).await?;
            Ok(true)
        })
    }

    fn stop<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            let files = Files::of(&site.dir);
            if service::is_used(&files.service) {
                service::stop(&site.label).await?;
            }
            match Process::load(&files.process)? {
                Some(process) => process.end(END_PATIENCE).await,
                None => Ok(()),
            }
        })
    }

    fn power<'a>(&'a self, site: &'a Site) -> Job<'a, Power> {
        Box::pin(async move {
            let files = Files::of(&site.dir);
            if !files.config.exists() {
                return Ok(Power::Gone);
            }
            let running = match service::is_used(&files.service) {
                true => service::is_active(&site.label).await,
                false => Process::load(&files.process)?.is_some_and(|process| process.is_running()),
            };
            Ok(if running { Power::On } else { Power::Off })
        })
    }

    fn pid(&self, site: &Site) -> Option<i32> {
        let process = Process::load(&Files::of(&site.dir).process).ok().flatten()?;
        process.is_running().then_some(process.pid)
    }

    fn logs<'a>(&'a self, site: &'a Site, lines: usize, follow: bool, sink: LineSink<'a>) -> Job<'a, ()> {
        Box::pin(async move { tail::tail(&Files::of(&site.dir).log, lines, follow, sink).await })
    }

    fn expectation(&self, _: &Site) -> Result<Expectation> {
        Ok(Expectation::default())
    }

    fn destroy<'a>(&'a self, site: &'a Site) -> Job<'a, ()> {
        Box::pin(async move {
            self.stop(site).await?;
            if service::is_used(&Files::of(&site.dir).service) {
                service::remove(&site.label).await?;
            }
            super::folder::remove(&site.dir)
        })
    }

    fn doctor<'a>(&'a self, site: Option<&'a Site>) -> Job<'a, Vec<Check>> {
        Box::pin(async move {
            let mut checks = vec![check_program(), check_listen(), check_resolver()];
            if let Some(site) = site {
                checks.push(check_folder(site));
                checks.push(check_process(self.power(site).await, site));
            }
            Ok(checks)
        })
    }
}

/// A machine under construction: whatever was made is removed again unless the deploy finishes.
struct Unfinished<'a> {
    plan: &'a Plan,
    child: Option<Child>,
    /// Taken when the deploy has finished.
    folder: Option<Folder>,
}

impl<'a> Unfinished<'a> {
    fn create(plan: &'a Plan) -> Result<Self> {
        let folder = Folder::create(&plan.label, &plan.dir)?;
        Ok(Unfinished { plan, child: None, folder: Some(folder) })
    }

    fn finish(mut self) {
        if let Some(folder) = self.folder.take() {
            folder.keep();
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.folder.is_none() {
            return;
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.plan.service {
            service::remove_now(&self.plan.label);
        }
    }
}

/// Writes what the node needs to know.
fn configure(plan: &Plan, listen: SocketAddr) -> Result<()> {
    let files = Files::of(&plan.dir);
    let file = NodeFile {
        label: plan.label.as_str(),
        listen,
        state_dir: STATE,
        owner: plan.owner.map(|owner| base64(&owner)),
        claim_by_anyone: plan.owner.is_none(),
        bootstrap_cover_file: COVER,
        allow: &plan.allow,
        log_destinations: plan.log_destinations,
        seed_file: plan.seed.as_ref().map(|_| SEED),
        tor: plan.tor.as_ref().map(|tor| TorSection {
            config_file: tor.settings_text.as_ref().map(|_| TOR_SETTINGS),
            bridges: &tor.bridges,
            self_test: tor.self_test,
        }),
    };
    let text = toml::to_string(&file).map_err(|e| Error::new(Code::Failed, "cannot write the node's configuration").cause(e))?;
    write_private(&plan.dir.join(COVER), base64(&plan.cover).as_bytes())?;
    if let Some(seed) = &plan.seed {
        write_private(&plan.dir.join(SEED), Zeroizing::new(base64(&**seed)).as_bytes())?;
    }
    if let Some(text) = plan.tor.as_ref().and_then(|tor| tor.settings_text.as_ref()) {
        write_private(&plan.dir.join(TOR_SETTINGS), text.as_bytes())?;
    }
    write_private(&files.config, text.as_bytes())
}

/// This very program, which is what the node runs too.
fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().doing("find", "this program")?;
    if path.exists() {
        return Ok(path);
    }
    Err(Error::new(Code::Precondition, format!("this program was replaced while it runs: {} is gone", path.display()))
        .hint("run the command again"))
}

/// Starts the node with nothing of this terminal but two files; the child leaves this session as its first act.
fn spawn(site: &Site) -> Result<Child> {
    let files = Files::of(&site.dir);
    let append = |path: &Path| {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        opened.doing("open", path.display())
    };
    // The ready line of an earlier run must not be taken for this one's.
    let out = File::create(&files.out).doing("open", files.out.display())?;
    let log = append(&files.log)?;
    let mut command = Command::new(program()?);
    command.args(["node", "run", "--detach", "--config"]).arg(&files.config);
    command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(out).stderr(log);
    if let Some(filter) = std::env::var_os("RUST_LOG") {
        command.env("RUST_LOG", filter);
    }
    let mut child = command.spawn().doing("start", command.get_program().display())?;
    let saved = Process::of(child.id()).and_then(|process| process.save(&files.process));
    // Only now may it begin: were this program killed before, the node could not be found again.
    let begun = saved.and_then(|()| match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(b"\n").doing("start", "the node"),
        None => Ok(()),
    });
    begun.inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })?;
    Ok(child)
}

/// Waits until the node can be reached by every way that it offers, for the end of its process, or for the end of patience.
async fn wait_ready(site: &Site, mut child: Option<&mut Child>, tor: bool, step: Box<dyn Step>, progress: &dyn Progress) -> Result<Ready> {
    let (files, state) = (Files::of(&site.dir), site.dir.join(STATE));
    let mut deadline = Instant::now() + READY_PATIENCE;
    let mut step = Some(step);
    let mut last = None;
    while Instant::now() < deadline {
        let is_ready = std::fs::read_to_string(&files.out).is_ok_and(|text| text.lines().any(is_ready_line));
        if let Some(status) = child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
            return Err(not_ready(site, &format!("it ended: {status}"), Code::Failed));
        }
        if (is_ready || tor)
            && let Ok(ready) = ready::ask(&state)
        {
            if is_ready {
                step.into_iter().for_each(Step::done);
                return Ok(ready);
            }
            if last.is_none() {
                // It listens; the rest is the network's business and takes longer.
                step.take().into_iter().for_each(Step::done);
                step = Some(progress.step("publish the onion service"));
                deadline = Instant::now() + super::ONION_PATIENCE;
            }
            let told = ready.onion.map(|onion| onion.stage());
            if told != last
                && let (Some(step), Some(told)) = (&step, &told)
            {
                step.note(told);
            }
            last = told.or(last);
        }
        tokio::time::sleep(Duration::from_millis(if tor { 50 } else { 5 })).await;
    }
    if let Ok(Some(process)) = Process::load(&files.process) {
        process.kill();
    }
    Err(match last {
        Some(last) => super::onion_late(&site.label, Some(last)),
        None => not_ready(site, &format!("it said nothing for {} seconds", READY_PATIENCE.as_secs()), Code::TimedOut),
    })
}

/// Whether the machine was deployed with --tor.
fn is_onion_service(site: &Site) -> bool {
    let text = std::fs::read_to_string(Files::of(&site.dir).config).unwrap_or_default();
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("tor"))
}

/// The line a node prints once it can serve, and not before (PD-MC9).
fn is_ready_line(line: &str) -> bool {
    line.starts_with("PORTDISTRICT_READY=")
}

/// What the node said last is the best explanation there is.
fn not_ready(site: &Site, why: &str, code: Code) -> Error {
    let said = std::fs::read_to_string(Files::of(&site.dir).log).unwrap_or_default();
    let mut error = Error::new(code, format!("the node of `{}` did not get ready: {why}", site.label));
    for line in said.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev() {
        error = error.because(super::message_of_log_line(line));
    }
    error.hint("portdistrict machine doctor")
}

/// Where to listen: as told; without an address everywhere, on both families where the system can; port 0 finds a free one.
pub(super) fn choose_address(ip: Option<IpAddr>, port: u16) -> Result<SocketAddr> {
    let bind = |ip: IpAddr| TcpListener::bind((ip, port)).and_then(|listener| listener.local_addr());
    let chosen = match ip {
        Some(ip) => bind(ip),
        None => bind_both(port).unwrap_or_else(|| bind(Ipv4Addr::UNSPECIFIED.into())),
    };
    chosen.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::new(Code::Exists, format!("port {port} is in use")).cause(error).hint("leave --port away to have a free one chosen")
        }
        std::io::ErrorKind::PermissionDenied => Error::new(Code::Precondition, format!("only root may listen on port {port}"))
            .cause(error)
            .hint("choose a port from 1024 on, or leave --port away"),
        _ => Error::new(Code::Usage, format!("cannot listen on {}", ip.map_or_else(|| format!("port {port}"), |ip| ip.to_string())))
            .cause(error)
            .hint("name an address of this computer, or leave --listen away"),
    })
}

/// One listener for IPv6 and IPv4; `None` where there is no IPv6 or the system keeps the families apart (bindv6only).
fn bind_both(port: u16) -> Option<std::io::Result<SocketAddr>> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return Some(Err(error)),
        Err(_) => return None,
    };
    let address = listener.local_addr().ok()?;
    TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, address.port()).into(), Duration::from_secs(1)).ok()?;
    Some(Ok(address))
}

/// The same port, at an address that this computer itself can connect to.
pub(super) fn dial_address(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// What friends connect to: as told; else the addresses this computer uses towards the world; else itself.
pub(super) fn addresses(plan: &Plan, listen: SocketAddr) -> Vec<String> {
    if !plan.addresses.is_empty() {
        return plan.addresses.clone();
    }
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let towards = |from: IpAddr, to: IpAddr| {
        // Connecting a UDP socket sends nothing; it only asks the routing table (addresses of RFC 5737 and 3849).
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(SocketAddr::new(socket.local_addr().ok()?.ip(), listen.port()).to_string())
    };
    let v4 = towards(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = towards(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()).filter(|_| listen.is_ipv6());
    let found: Vec<String> = v4.into_iter().chain(v6).collect();
    if found.is_empty() { vec![dial_address(listen).to_string()] } else { found }
}

/// The host of `host:port`.
pub(super) fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn check_program() -> Check {
    match program() {
        Ok(path) => Check::pass("program", path.display().to_string()),
        Err(error) => Check::failed("program", &error),
    }
}

fn check_listen() -> Check {
    match choose_address(None, 0) {
        Ok(address) if address.is_ipv6() => Check::pass("listen", "IPv6 and IPv4 on one port"),
        Ok(_) => Check::pass("listen", "IPv4 only"),
        Err(error) => Check::failed("listen", &error),
    }
}

fn check_resolver() -> Check {
    let path = "/etc/resolv.conf";
    match std::fs::read_to_string(path) {
        Ok(text) => match text.lines().find_map(|line| line.trim().strip_prefix("nameserver")) {
            Some(server) => Check::pass("resolver", format!("name server {}", server.trim())),
            None => {
                Check::fail("resolver", format!("{path} names no server"), format!("add a line such as `nameserver 9.9.9.9` to {path}"))
            }
        },
        Err(error) => {
            Check::fail("resolver", format!("cannot read {path}: {error}"), format!("make {path} with a line such as `nameserver 9.9.9.9`"))
        }
    }
}

pub(super) fn check_folder(site: &Site) -> Check {
    match check_private_dir(&site.dir) {
        Ok(()) => Check::pass("folder", site.dir.display().to_string()),
        Err(error) => Check::failed("folder", &error),
    }
}

pub(super) fn check_process(power: Result<Power>, site: &Site) -> Check {
    match power {
        Ok(Power::On) => Check::pass("process", "running"),
        Ok(Power::Booting) => Check::fail("process", "not up yet", format!("portdistrict machine logs {} --follow", site.label)),
        Ok(Power::Off) => Check::fail("process", "not running", format!("portdistrict machine reconnect {}", site.label)),
        Ok(Power::Gone) => Check::fail(
            "process",
            format!("its files are gone: {}", shell_quote(&site.dir)),
            format!("portdistrict machine destroy {} --yes", site.label),
        ),
        Err(error) => Check::failed("process", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(dir: &Path) -> Plan {
        Plan {
            source: crate::session::seed::Source::Local,
            label: "home".parse().unwrap(),
            dir: dir.join("home"),
            owner: Some([7; 32]),
            cover: [9; 32],
            listen: None,
            port: 0,
            addresses: Vec::new(),
            allow: vec!["127.0.0.1/32:8080".to_owned()],
            log_destinations: false,
            service: false,
            seed: None,
            tor: None,
            vm: None,
            cloud: None,
            host: None,
        }
    }

    #[test]
    fn an_unfinished_machine_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(&dir.path().join("machines"));
        let mut unfinished = Unfinished::create(&plan).unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        unfinished.child = Some(child);
        configure(&plan, "127.0.0.1:4000".parse().unwrap()).unwrap();
        assert_eq!(Unfinished::create(&plan).err().unwrap().code(), Code::Exists);
        assert!(plan.dir.exists(), "the loser must not remove what the winner makes");
        drop(unfinished);
        assert!(!plan.dir.exists() && !process.is_running());
    }

    #[test]
    fn the_address_in_use_is_refused_before_anything_is_made() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap();
        let error = choose_address(Some(taken.ip()), taken.port()).unwrap_err();
        assert_eq!(error.code(), Code::Exists);
        assert_ne!(choose_address(Some(taken.ip()), 0).unwrap().port(), 0);
        assert_eq!(choose_address(Some("192.0.2.1".parse().unwrap()), 0).unwrap_err().code(), Code::Usage);
    }

    #[test]
    fn friends_get_an_address_they_can_dial() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = plan(dir.path());
        assert_eq!(addresses(&plan, "127.0.0.1:4000".parse().unwrap()), ["127.0.0.1:4000"]);
        let found = addresses(&plan, "[::]:4000".parse().unwrap());
        assert!(!found.is_empty() && found.iter().all(|a| a.ends_with(":4000") && !a.starts_with("0.0.0.0") && !a.starts_with("[::]")));
        plan.addresses = vec!["exit.example:443".to_owned()];
        assert_eq!(addresses(&plan, "[::]:4000".parse().unwrap()), plan.addresses);
        assert_eq!(dial_address("[::]:1".parse().unwrap()).to_string(), "127.0.0.1:1");
    }
}
