//! A private Tor network on loopback, made of Debian's `tor`: directory authorities and relays that end with this process.
//!
//! Every relay is an authority's choice for guard and onion service directory; none is an exit. Also the heart of
//! `examples/pd-tornet.rs`, with which the demo and the benchmarks get theirs.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the authorities may take to agree on all relays.
const PATIENCE: Duration = Duration::from_secs(120);

const RELAY: &str = "\
TestingTorNetwork 1
SocksPort 0
ControlPort 0
ShutdownWaitLength 1
ContactInfo nobody
AssumeReachable 1
ExitPolicy reject *:*
ServerDNSDetectHijacking 0
ServerDNSTestAddresses
DisableDebuggerAttachment 0
";

const AUTHORITY: &str = "\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingDirAuthVoteExit *
TestingDirAuthVoteHSDir *
TestingDirAuthVoteGuard *
MinUptimeHidServDirectoryV2 0
TestingMinExitFlagThreshold 0
";

/// One `tor` process.
struct Relay {
    name: String,
    dir: PathBuf,
    or_port: u16,
    /// Authorities only.
    dir_port: Option<u16>,
    v3ident: String,
    rsa: String,
    ed: String,
    child: Option<Child>,
}

/// The whole network; it ends when this is dropped, and when the process ends in whatever way.
pub(crate) struct Network {
    dir: PathBuf,
    /// Where all of them listen.
    address: Ipv4Addr,
    relays: Vec<Relay>,
}

impl Network {
    /// Starts `authorities` and `relays` on loopback, and waits until the consensus lists all of them.
    pub(crate) fn start(dir: &Path, authorities: usize, relays: usize) -> io::Result<Network> {
        Network::start_at(dir, Ipv4Addr::LOCALHOST, authorities, relays)
    }

    /// The same at an address of this machine.
    pub(crate) fn start_at(dir: &Path, address: Ipv4Addr, authorities: usize, relays: usize) -> io::Result<Network> {
        let mut network = Network { dir: dir.to_owned(), address, relays: Vec::new() };
        let mut ports = free_ports(address, authorities * 2 + relays)?.into_iter();
        let mut port = || ports.next().unwrap_or_default();
        for n in 0..authorities {
            let (or_port, dir_port) = (port(), port());
            network.relays.push(make(dir, address, format!("auth{n}"), or_port, Some(dir_port))?);
        }
        for n in 0..relays {
            let or_port = port();
            network.relays.push(make(dir, address, format!("relay{n}"), or_port, None)?);
        }
        network.configure()?;
        std::fs::write(network.arti_toml(), network.arti_settings())?;
        // And those with which a `tor` joins it, as client or as onion service.
        std::fs::write(dir.join("client.torrc"), format!("TestingTorNetwork 1\n{}", network.authority_lines()))?;
        for n in 0..network.len() {
            network.revive(n)?;
        }
        network.wait_for_consensus()?;
        Ok(network)
    }

    /// The settings with which an embedded Arti joins this network.
    pub(crate) fn arti_toml(&self) -> PathBuf {
        self.dir.join("arti.toml")
    }

    /// How many there are; authorities come first.
    pub(crate) fn len(&self) -> usize {
        self.relays.len()
    }

    /// How many of them are authorities.
    pub(crate) fn authorities(&self) -> usize {
        self.relays.iter().filter(|relay| relay.dir_port.is_some()).count()
    }

    /// Ends one of them without a farewell.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.relays[n].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts one of them again if it does not run.
    pub(crate) fn revive(&mut self, n: usize) -> io::Result<()> {
        let relay = &mut self.relays[n];
        if relay.child.is_none() {
            let mut command = Command::new("tor");
            command.arg("-f").arg(relay.dir.join("torrc")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            relay.child = Some(command.spawn()?);
        }
        Ok(())
    }

    fn authority_lines(&self) -> String {
        self.relays.iter().fold(String::new(), |mut lines, relay| {
            if let Some(dir_port) = relay.dir_port {
                let _ = writeln!(
                    lines,
                    "DirAuthority {} orport={} no-v2 v3ident={} {}:{dir_port} {}",
                    relay.name, relay.or_port, relay.v3ident, self.address, relay.rsa
                );
            }
            lines
        })
    }

    fn configure(&self) -> io::Result<()> {
        let authorities = self.authority_lines();
        for relay in &self.relays {
            let own = if relay.dir_port.is_some() { AUTHORITY } else { "" };
            std::fs::write(relay.dir.join("torrc"), format!("{}{authorities}{own}", torrc(relay, self.address)))?;
        }
        Ok(())
    }

    fn arti_settings(&self) -> String {
        let authorities: Vec<&Relay> = self.relays.iter().filter(|relay| relay.dir_port.is_some()).collect();
        let caches = authorities.iter().fold(String::new(), |mut text, a| {
            let _ = writeln!(
                text,
                "  {{ rsa_identity = \"{}\", ed_identity = \"{}\", orports = [\"{}:{}\"] }},",
                a.rsa, a.ed, self.address, a.or_port
            );
            text
        });
        let idents: Vec<String> = authorities.iter().map(|a| format!("\"{}\"", a.v3ident)).collect();
        let ports: Vec<String> = authorities.iter().filter_map(|a| Some(format!("[\"{}:{}\"]", self.address, a.dir_port?))).collect();
        let (idents, ports) = (idents.join(", "), ports.join(", "));
        // On loopback a circuit takes milliseconds. Arti learns that as what is usual, and gives up on circuits that a busy
        // computer, or a relay that has just come back, delays; it would take long to learn better.
        let patience = "[override_net_params]\ncbtmintimeout = 2000\n";
        format!(
            "{patience}\n[tor_network]\nfallback_caches = [\n{caches}]\n\n[tor_network.authorities]\nv3idents = [{idents}]\nuploads = [{ports}]\n\
             downloads = [{ports}]\nvotes = [{ports}]\n\n[path_rules]\nipv4_subnet_family_prefix = 33\nipv6_subnet_family_prefix = 129\n\n\
             [address_filter]\nallow_local_addrs = true\nallow_onion_addrs = true\n\n[storage.permissions]\ndangerously_trust_everyone = true\n"
        )
    }

    fn wait_for_consensus(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let consensus = self.relays[0].dir.join("cached-microdesc-consensus");
        while Instant::now() < deadline {
            let text = std::fs::read_to_string(&consensus).unwrap_or_default();
            if text.lines().filter(|line| line.starts_with("s ") && line.contains("HSDir")).count() >= self.len() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(io::Error::other(format!("no full consensus within {} s; the logs are in {}", PATIENCE.as_secs(), self.dir.display())))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for n in 0..self.len() {
            self.kill(n);
        }
    }
}

/// Ports that were free a moment ago.
fn free_ports(address: Ipv4Addr, count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind((address, 0))).collect::<io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn torrc(relay: &Relay, address: Ipv4Addr) -> String {
    let dir_port = relay.dir_port.map_or_else(String::new, |port| format!("DirPort {address}:{port}\n"));
    format!(
        "{RELAY}Address {address}\nDataDirectory {dir}\nNickname {name}\nORPort {address}:{or_port}\n{dir_port}Log notice file {dir}/log\n\
         __OwningControllerProcess {pid}\n",
        dir = relay.dir.display(),
        name = relay.name,
        or_port = relay.or_port,
        pid = std::process::id()
    )
}

/// The folder and the keys of one.
fn make(base: &Path, address: Ipv4Addr, name: String, or_port: u16, dir_port: Option<u16>) -> io::Result<Relay> {
    let dir = base.join(&name);
    let keys = dir.join("keys");
    std::fs::create_dir_all(&keys)?;
    for private in [&dir, &keys] {
        std::fs::set_permissions(private, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    let mut relay = Relay { name, dir, or_port, dir_port, v3ident: String::new(), rsa: String::new(), ed: String::new(), child: None };
    if let Some(dir_port) = dir_port {
        relay.v3ident = authority_key(&keys, address, dir_port)?;
    }
    std::fs::write(relay.dir.join("torrc"), torrc(&relay, address))?;
    // tor makes its keys when asked for the fingerprint; any authority will do for that.
    let nobody = format!("x orport=1 no-v2 v3ident={0} 127.0.0.1:1 {0}", "A".repeat(40));
    run(Command::new("tor").arg("-f").arg(relay.dir.join("torrc")).args(["--list-fingerprint", "--DirAuthority", &nobody]))?;
    let second_word = |file: &str| {
        let text = std::fs::read_to_string(relay.dir.join(file))?;
        text.split_whitespace().nth(1).map(str::to_owned).ok_or_else(|| io::Error::other(format!("{file} is empty")))
    };
    let (rsa, ed) = (second_word("fingerprint")?, second_word("fingerprint-ed25519")?);
    (relay.rsa, relay.ed) = (rsa, ed);
    Ok(relay)
}

/// The long-term key of an authority; returns its fingerprint.
fn authority_key(keys: &Path, address: Ipv4Addr, dir_port: u16) -> io::Result<String> {
    let file = |name: &str| keys.join(format!("authority_{name}"));
    let passphrase = keys.join("passphrase");
    std::fs::write(&passphrase, "x\n")?;
    let mut command = Command::new("tor-gencert");
    command.arg("--create-identity-key").arg("-i").arg(file("identity_key")).arg("-s").arg(file("signing_key"));
    command.arg("-c").arg(file("certificate")).args(["-m", "12", "--passphrase-fd", "0", "-a"]).arg(format!("{address}:{dir_port}"));
    run(command.stdin(std::fs::File::open(&passphrase)?))?;
    let certificate = std::fs::read_to_string(file("certificate"))?;
    let found = certificate.lines().find_map(|line| line.strip_prefix("fingerprint "));
    found.map(str::to_owned).ok_or_else(|| io::Error::other("a certificate without fingerprint"))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}
