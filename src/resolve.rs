//! Names to addresses, on the node, without `getaddrinfo` (which a static binary must never call).
//!
//! `/etc/hosts` comes first and is read again when it changes. A machine without `/etc/resolv.conf` uses the name servers
//! of the configuration, if there are any. Search domains are left out: a guest's name means the same at every exit.

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Hosts, TokioResolver};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Time for one look-up, all servers and attempts together.
const DEADLINE: Duration = Duration::from_secs(8);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// How often the files are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Far above what a hosts file or a resolv.conf holds.
const MAX_FILE: usize = 4 * 1024 * 1024;

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not a name at all.
    BadName,
    /// The servers say that it does not exist or has no address.
    Unknown,
    /// No server answered in time.
    TimedOut,
    /// This machine knows no name server.
    NoServer,
}

impl Failure {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::BadName => "bad-name",
            Failure::Unknown => "unknown-name",
            Failure::TimedOut => "name-server-timeout",
            Failure::NoServer => "no-name-server",
        }
    }
}

/// Where names come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The hosts file.
    pub hosts: PathBuf,
    /// The resolver's configuration.
    pub resolv_conf: PathBuf,
    /// Name servers for when there is none.
    pub fallback: Vec<IpAddr>,
}

impl Sources {
    /// The system's files.
    pub fn system(fallback: Vec<IpAddr>) -> Self {
        Sources { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), fallback }
    }

    fn stamp(&self) -> [Option<SystemTime>; 2] {
        [&self.hosts, &self.resolv_conf].map(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok())
    }
}

/// A resolver with its cache; one for each serving thread, since it lives on that thread's runtime.
pub struct Resolver {
    sources: Sources,
    current: Mutex<Current>,
}

struct Current {
    stamp: [Option<SystemTime>; 2],
    checked: Instant,
    built: Option<Arc<Built>>,
}

struct Built {
    resolver: TokioResolver,
    has_server: bool,
}

impl Resolver {
    /// Reads nothing yet.
    pub fn new(sources: Sources) -> Self {
        Resolver { sources, current: Mutex::new(Current { stamp: [None; 2], checked: Instant::now(), built: None }) }
    }

    /// The addresses of a host, IPv4 and IPv6 as they come; a literal address is its own.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, Failure> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        if !plausible(host) {
            return Err(Failure::BadName);
        }
        let built = self.current().ok_or(Failure::NoServer)?;
        // The final dot keeps the name from being tried under other names.
        let name = if host.ends_with('.') { host.to_owned() } else { format!("{host}.") };
        match tokio::time::timeout(DEADLINE, built.resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for ip in found.iter() {
                    if !addresses.contains(&ip) && addresses.len() < MAX_ADDRESSES {
                        addresses.push(ip);
                    }
                }
                if addresses.is_empty() { Err(Failure::Unknown) } else { Ok(addresses) }
            }
            Ok(Err(_)) if !built.has_server => Err(Failure::NoServer),
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => Err(Failure::Unknown),
            Ok(Err(_)) | Err(_) => Err(Failure::TimedOut),
        }
    }

    fn current(&self) -> Option<Arc<Built>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.built.is_none() || current.checked.elapsed() > CHECK_EVERY {
            let stamp = self.sources.stamp();
            if current.built.is_none() || stamp != current.stamp {
                current.built = build(&self.sources).map(Arc::new);
                current.stamp = stamp;
            }
            current.checked = Instant::now();
        }
        current.built.clone()
    }
}

/// Letters, digits, `-`, `_` and dots, as in every name that a name server can know.
fn plausible(host: &str) -> bool {
    !host.is_empty() && host.len() <= 254 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn build(sources: &Sources) -> Option<Built> {
    let system = crate::config::fs::read(&sources.resolv_conf, MAX_FILE)
        .ok()
        .and_then(|bytes| hickory_resolver::system_conf::parse_resolv_conf(bytes).ok());
    let (servers, mut options) = match system {
        Some((config, options)) => (config.name_servers().to_vec(), options),
        None => (sources.fallback.iter().copied().map(NameServerConfig::udp_and_tcp).collect(), ResolverOpts::default()),
    };
    let has_server = !servers.is_empty();
    // Read here, from the file we watch.
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = options.timeout.min(Duration::from_secs(3));
    options.attempts = options.attempts.clamp(1, 2);
    let mut resolver = TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .ok()?;
    let mut hosts = Hosts::default();
    if let Ok(bytes) = crate::config::fs::read(&sources.hosts, MAX_FILE) {
        let _ = hosts.read_hosts_conf(bytes.as_slice());
    }
    resolver.set_hosts(Arc::new(hosts));
    Some(Built { resolver, has_server })
}

/// The addresses of `host:port`, which usually is `IP:port` and needs no look-up; in words why there are none.
pub async fn socket_addresses(address: &str) -> Result<Vec<SocketAddr>, String> {
    if let Ok(socket) = address.parse() {
        return Ok(vec![socket]);
    }
    let split = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.ok_or_else(|| format!("{address}: not host:port"))?;
    let found = Resolver::new(Sources::system(Vec::new())).lookup(host).await;
    let found = found.map_err(|failure| format!("{host}: the name cannot be looked up ({})", failure.as_str()))?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(dir: &tempfile::TempDir) -> Sources {
        Sources { hosts: dir.path().join("hosts"), resolv_conf: dir.path().join("resolv.conf"), fallback: Vec::new() }
    }

    #[tokio::test]
    async fn literals_need_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let resolver = Resolver::new(sources(&dir));
        for literal in ["127.0.0.1", "::1", "::ffff:10.0.0.1"] {
            assert_eq!(resolver.lookup(literal).await, Ok(vec![literal.parse().unwrap()]));
        }
    }

    #[tokio::test]
    async fn the_hosts_file_is_honoured_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = sources(&dir);
        std::fs::write(&files.hosts, "169.254.169.254 Metadata.Example # why not\n::1 six.example\n").unwrap();
        let resolver = Resolver::new(files.clone());
        assert_eq!(resolver.lookup("metadata.example").await, Ok(vec!["169.254.169.254".parse().unwrap()]));
        assert_eq!(resolver.lookup("METADATA.example.").await, Ok(vec!["169.254.169.254".parse().unwrap()]));
        assert_eq!(resolver.lookup("six.example").await, Ok(vec!["::1".parse().unwrap()]));
        std::fs::write(&files.hosts, "10.0.0.1 metadata.example\n").unwrap();
        std::fs::File::open(&files.hosts).unwrap().set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        resolver.current.lock().unwrap().checked = Instant::now().checked_sub(CHECK_EVERY * 2).unwrap();
        assert_eq!(resolver.lookup("metadata.example").await, Ok(vec!["10.0.0.1".parse().unwrap()]));
    }

    #[tokio::test]
    async fn localhost_never_leaves_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let found = Resolver::new(sources(&dir)).lookup("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback));
    }

    #[tokio::test]
    async fn each_failure_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let resolver = Resolver::new(sources(&dir));
        assert_eq!(resolver.lookup("example.org").await, Err(Failure::NoServer));
        for odd in ["", "exam ple", "[::1]", "a\u{0}b", "ü.example", &"a".repeat(255)] {
            assert_eq!(resolver.lookup(odd).await, Err(Failure::BadName), "{odd}");
        }
        // Nobody listens at this address: the deadline of the look-up holds.
        let silent = Sources { fallback: vec!["127.0.0.1".parse().unwrap()], ..sources(&dir) };
        let started = Instant::now();
        assert_eq!(Resolver::new(silent).lookup("example.org").await, Err(Failure::TimedOut));
        assert!(started.elapsed() < DEADLINE + Duration::from_secs(1));
    }
}
