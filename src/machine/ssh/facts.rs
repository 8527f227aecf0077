//! What a server is like, as the script found it: enough to say before anything is made whether a machine can live there.

use super::call::Reply;
use super::link::{Target, no_sudo};
use super::program::Program;
use crate::config::fs::shell_quote;
use crate::error::{Code, Error, Result};
use crate::machine::check::{Check, Outcome};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The oldest systemd that makes a user and a private folder for a service (235 has both).
const SYSTEMD: u32 = 235;
/// What must be free beside the program itself, for the node's memory and for writing files whole, in KiB.
const ROOM: u64 = 32 * 1024;
/// Clocks further apart than this cannot talk: handshakes carry the time, in seconds.
const CLOCK: u64 = 60;
/// Where a free port is looked for; below the range that systems take outgoing ports from (RFC 6056).
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How acts get done there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    Is,
    Sudo,
    No(String),
}

/// Whose something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// There is none.
    Nobody,
    /// This owner's.
    Ours,
    /// Begun by a deploy that was killed before it said whose it is.
    Half,
    /// Somebody else's.
    Other,
}

impl Whose {
    fn read(text: Option<&str>) -> Whose {
        match text {
            Some("ours") => Whose::Ours,
            Some("half") => Whose::Half,
            Some("none") | None => Whose::Nobody,
            Some(_) => Whose::Other,
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    root: Root,
    system: String,
    architecture: String,
    systemd: Option<u32>,
    time: u64,
    missing: Vec<String>,
    /// KiB, and the folder that is meant.
    space: Vec<(u64, String)>,
    read_only: Vec<String>,
    listens: Vec<u16>,
    /// Whether one listener can take both families; none where there is no IPv6.
    both_families: Option<bool>,
    firewall: Option<String>,
    /// Of the unit, and of the state folder.
    pub(super) unit: Whose,
    pub(super) state: Whose,
    /// Whether the program is there already, whole.
    pub(super) has_program: bool,
}

impl Facts {
    /// Reads what the script said.
    pub(super) fn read(reply: &Reply) -> Facts {
        let number = |name: &str| reply.get(name).and_then(|text| text.parse().ok());
        let words = |name| reply.all(name).map(str::to_owned).collect();
        Facts {
            root: match reply.get("root").unwrap_or_default().split_once(' ') {
                None if reply.get("root") == Some("root") => Root::Is,
                None if reply.get("root") == Some("sudo") => Root::Sudo,
                None => Root::No(String::new()),
                Some((_, why)) => Root::No(why.to_owned()),
            },
            system: reply.get("system").filter(|name| !name.is_empty()).unwrap_or("an unknown system").to_owned(),
            architecture: reply.get("architecture").unwrap_or_default().to_owned(),
            systemd: reply.get("systemd").map(|text| text.parse().unwrap_or(0)),
            time: number("time").unwrap_or(0),
            missing: words("missing"),
            space: reply.all("space").filter_map(space).collect(),
            read_only: words("readonly"),
            listens: reply.all("listens").filter_map(|hex| u16::from_str_radix(hex, 16).ok()).collect(),
            both_families: reply.get("ipv6").map(|only| only == "0"),
            firewall: reply.get("firewall").map(str::to_owned),
            unit: Whose::read(reply.get("unit")),
            state: Whose::read(reply.get("state")),
            has_program: reply.get("program") == Some("present"),
        }
    }

    /// Whether acts need sudo; refused where nothing gives root.
    pub(super) fn needs_sudo(&self, target: &Target) -> Result<bool> {
        match &self.root {
            Root::Is => Ok(false),
            Root::Sudo => Ok(true),
            Root::No(why) => Err(no_sudo(target).because(why.clone())),
        }
    }

    /// Whether a port is taken there.
    pub(super) fn is_taken(&self, port: u16) -> bool {
        self.listens.contains(&port)
    }

    /// Where to listen: as told; else on everything, on both families where the server can.
    pub(super) fn listen(&self, ip: Option<IpAddr>) -> IpAddr {
        ip.unwrap_or(if self.both_families == Some(true) { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() })
    }

    /// The port that was asked for, or a free one.
    pub(super) fn port(&self, asked: u16, target: &Target) -> Result<u16> {
        if asked != 0 {
            return match self.is_taken(asked) {
                false => Ok(asked),
                true => Err(Error::new(Code::Exists, format!("port {asked} is in use on {target}"))
                    .hint("leave --port away to have a free one chosen")),
            };
        }
        let mut random = [0; 2];
        getrandom::fill(&mut random).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
        let range = PORTS.end - PORTS.start;
        let first = u16::from_be_bytes(random) % range;
        let free = (0..range).map(|step| PORTS.start + (first + step) % range).find(|port| !self.is_taken(*port));
        free.ok_or_else(|| Error::new(Code::Precondition, format!("no port is free on {target}")).hint("name one: --port PORT"))
    }

    /// Everything that was looked at; `now` is this computer's clock.
    pub(super) fn checks(&self, target: &Target, program: &Program, port: u16, now: u64) -> Vec<Check> {
        let mut checks = vec![self.check_root(target), self.check_system(), self.check_architecture(program), self.check_systemd()];
        checks.push(self.check_tools());
        checks.push(self.check_clock(target, now));
        checks.push(self.check_disk(target, program));
        if port != 0 {
            checks.push(match self.is_taken(port) {
                false => Check::pass("port", format!("{port} is free")),
                true => Check::fail("port", format!("{port} is in use"), "leave --port away to have a free one chosen"),
            });
        }
        checks.extend(self.firewall.as_deref().map(|name| check_firewall(name, port)));
        checks
    }

    /// The first thing that would keep a machine from living there, as an error.
    pub(super) fn refuse(&self, target: &Target, program: &Program, now: u64) -> Result<()> {
        let found = self.checks(target, program, 0, now).into_iter().find(|check| check.outcome == Outcome::Fail);
        match found {
            None => Ok(()),
            Some(check) => Err(Error::new(Code::Precondition, format!("{target} cannot have a machine: {}: {}", check.name, check.detail))
                .hint(check.remedy.unwrap_or_default())),
        }
    }

    fn check_root(&self, target: &Target) -> Check {
        match self.needs_sudo(target) {
            Ok(false) => Check::pass("root", "you are root there"),
            Ok(true) => Check::pass("root", "by sudo, which asks for no password"),
            Err(error) => Check::failed("root", &error),
        }
    }

    fn check_system(&self) -> Check {
        Check::pass("system", self.system.clone())
    }

    fn check_architecture(&self, program: &Program) -> Check {
        let (theirs, ours) = (&*self.architecture, program.architecture.unwrap_or("an unknown processor"));
        if theirs == ours {
            return Check::pass("architecture", theirs);
        }
        Check::fail("architecture", format!("it is {theirs}, and this program is for {ours}"), "name a static build for it: --program FILE")
    }

    fn check_systemd(&self) -> Check {
        match self.systemd {
            Some(version) if version >= SYSTEMD => Check::pass("systemd", format!("version {version}")),
            Some(version) => {
                Check::fail("systemd", format!("version {version} is too old"), format!("use a server with systemd {SYSTEMD} or later"))
            }
            None => Check::fail("systemd", "does not run there", format!("use a server with systemd {SYSTEMD} or later")),
        }
    }

    fn check_tools(&self) -> Check {
        if self.missing.is_empty() {
            return Check::pass("tools", "all that is needed is there");
        }
        Check::fail("tools", format!("there is no {}", self.missing.join(", ")), "install coreutils, grep, sed and awk there")
    }

    fn check_clock(&self, target: &Target, now: u64) -> Check {
        match self.time.abs_diff(now) {
            0..=CLOCK => Check::pass("clock", "agrees with this computer's"),
            apart => Check::fail(
                "clock",
                format!("{apart} seconds apart from this computer's"),
                format!("ssh {} sudo timedatectl set-ntp true", shell_quote(Path::new(target.as_str()))),
            ),
        }
    }

    fn check_disk(&self, target: &Target, program: &Program) -> Check {
        let quoted = shell_quote(Path::new(target.as_str()));
        if let [first, ..] = &self.read_only[..] {
            return Check::fail("disk", format!("{first} cannot be written to"), format!("ssh {quoted} findmnt --target {first}"));
        }
        let needed = ROOM + if self.has_program { 0 } else { program.size / 1024 };
        let mebibytes = |kibibytes: u64| kibibytes / 1024;
        match self.space.iter().min() {
            Some((free, folder)) if *free < needed => Check::fail(
                "disk",
                format!("{} MiB are free in {folder}, {} are needed", mebibytes(*free), mebibytes(needed)),
                format!("free some space: ssh {quoted} df -h"),
            ),
            Some((free, folder)) => Check::pass("disk", format!("{} MiB free in {folder}", mebibytes(*free))),
            None => Check::skip("disk", "df says nothing there"),
        }
    }
}

fn space(text: &str) -> Option<(u64, String)> {
    let (free, folder) = text.split_once(' ')?;
    Some((free.parse().ok()?, folder.to_owned()))
}

/// A wall that is up is no mistake; that it must have a door is easily forgotten.
fn check_firewall(name: &str, port: u16) -> Check {
    let port = if port == 0 { "PORT".to_owned() } else { port.to_string() };
    let open = match name {
        "ufw" => format!("sudo ufw allow {port}/tcp"),
        _ => format!("sudo firewall-cmd --permanent --add-port {port}/tcp && sudo firewall-cmd --reload"),
    };
    Check::skip("firewall", format!("{name} is up; it must let the machine's port in: {open}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const GOOD: &str = "pd:root=root\npd:system=Debian GNU/Linux 12 (bookworm)\npd:architecture=x86_64\npd:time=1700000010\npd:systemd=252\n\
                        pd:space=900000 /usr/local/lib\npd:space=800000 /var/lib/private\npd:ipv6=0\npd:listens=0016\npd:listens=115C\n\
                        pd:unit=none\npd:state=none\npd:done=facts\n";

    fn facts(text: &str) -> Facts {
        Facts::read(&Reply::parse(text))
    }

    fn program() -> Program {
        Program { path: "/proc/self/exe".into(), digest: "0".repeat(64), size: 20 << 20, architecture: Some("x86_64") }
    }

    fn failing(text: &str) -> Vec<String> {
        let target = "op@server".parse().unwrap();
        let checks = facts(text).checks(&target, &program(), 4444, NOW);
        checks.into_iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.name).collect()
    }

    #[test]
    fn a_good_server_has_nothing_to_mend() {
        assert_eq!(failing(&GOOD.replace("115C", "115D")), Vec::<String>::new());
        let found = facts(GOOD);
        assert!(found.is_taken(22) && found.is_taken(4444) && !found.is_taken(80));
        assert_eq!(found.listen(None), IpAddr::from(Ipv6Addr::UNSPECIFIED));
        assert_eq!((found.unit, found.state, found.has_program), (Whose::Nobody, Whose::Nobody, false));
    }

    #[test]
    fn each_trouble_is_named_with_what_mends_it() {
        let table = [
            ("pd:root=root", "pd:root=no sudo: a password is required", "root"),
            ("x86_64", "aarch64", "architecture"),
            ("pd:systemd=252", "pd:systemd=219", "systemd"),
            ("pd:systemd=252", "pd:x=y", "systemd"),
            ("pd:time=1700000010", "pd:time=1700000100", "clock"),
            ("800000 /var", "8000 /var", "disk"),
            ("pd:ipv6=0", "pd:readonly=/usr/local", "disk"),
            ("pd:ipv6=0", "pd:missing=sha256sum", "tools"),
        ];
        for (good, bad, name) in table {
            let text = GOOD.replace("115C", "115D").replace(good, bad);
            assert_eq!(failing(&text), [name], "{bad}");
            let error = facts(&text).refuse(&"op@server".parse().unwrap(), &program(), NOW).unwrap_err();
            assert_eq!(error.code(), Code::Precondition);
            assert!(error.message().contains(name) && error.hint_text().is_some_and(|hint| !hint.is_empty()), "{error:?}");
        }
        assert_eq!(failing(GOOD), ["port"]);
    }

    #[test]
    fn a_port_is_free_there() {
        let target = "op@server".parse().unwrap();
        let found = facts(GOOD);
        assert_eq!(found.port(4444, &target).unwrap_err().code(), Code::Exists);
        assert_eq!(found.port(443, &target).unwrap(), 443);
        assert!(PORTS.contains(&found.port(0, &target).unwrap()));
        let full: String = PORTS.map(|port| format!("pd:listens={port:X}\n")).collect();
        // More than an answer holds is not heard, so a port is always found; that it is free is seen when the node starts.
        assert!(facts(&full).port(0, &target).is_ok());
    }

    #[test]
    fn nonsense_is_no_server() {
        let found = facts("pd:root=maybe\npd:time=x\npd:space=1\npd:listens=zz\npd:unit=?\n");
        assert!(found.needs_sudo(&"op@server".parse().unwrap()).is_err());
        assert_eq!((found.unit, found.state), (Whose::Other, Whose::Nobody));
        assert!(found.listens.is_empty() && found.space.is_empty());
    }
}
