//! A server for tests: a real sshd and a real systemd as process 1, in namespaces of their own over this computer's own system.
//!
//! What is real: systemd with its units, sandboxes, users and journal; sshd, sudo, the network between. What is not: the kernel
//! is shared, so there is no SELinux, and systemd may lack what it needs for `SocketBindDeny`. Needs root, and Debian's
//! openssh-server, sudo and iproute2. Everything is gone when the test ends, however it ends.

use crate::home::{Home, Ran};
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Everything is waited for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What deploy leaves on a server, by name.
const TRACES: &str = "ls -d /etc/systemd/system/portdistrict-* /etc/systemd/system/*.wants/portdistrict-* /usr/local/lib/portdistrict \
                      /usr/local/lib/portdistrict/bin/* /usr/local/lib/portdistrict/bin/.[!.]* /var/lib/portdistrict /var/lib/portdistrict/* \
                      /var/lib/private/portdistrict /var/lib/private/portdistrict/* 2>/dev/null; \
                      systemctl list-units --all --no-legend --plain 'portdistrict-*'; grep portdistrict /etc/passwd";

/// A server, and the way to it.
pub(crate) struct Server {
    /// Its address, and this computer's on the cable.
    pub(crate) address: String,
    pub(crate) gateway: String,
    folder: tempfile::TempDir,
    namespace: String,
    cgroup: PathBuf,
    unshare: Child,
    init: u32,
}

impl Server {
    /// Boots one whose disk has this many MiB.
    pub(crate) fn boot(mebibytes: u32) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        // A network of its own among those that nobody has (RFC 2544), for each process and server.
        let net = (std::process::id() * 16 + n) % 16384;
        let base = format!("198.{}.{}.{}", 18 + net / 8192, net / 32 % 256, net % 32 * 8);
        let up = |by: u32| format!("{}.{}", base.rsplit_once('.').unwrap().0, net % 32 * 8 + by);
        let (gateway, address) = (up(1), up(2));
        let namespace = format!("pdssh{}x{n}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("disk");
        std::fs::create_dir(&work).unwrap();
        run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", folder.path().join("disk.key").to_str().unwrap()]);
        run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", folder.path().join("mine").to_str().unwrap()]);
        std::fs::copy(folder.path().join("mine.pub"), folder.path().join("disk.pub")).unwrap();
        std::fs::write(folder.path().join("boot.sh"), include_str!("boot.sh")).unwrap();

        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {namespace} type veth peer name eth0 netns {namespace}"));
        ip(&format!("addr add {gateway}/29 dev {namespace}"));
        ip(&format!("link set {namespace} up"));
        ip(&format!("-n {namespace} addr add {address}/29 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} route add default via {gateway}"));

        let cgroup = cgroups().join(&namespace);
        std::fs::create_dir(&cgroup).unwrap();
        // The shell puts itself into the control group, so that systemd finds itself at its top.
        let line = "echo $$ >\"$0/cgroup.procs\" && exec setpriv --pdeathsig KILL unshare --mount --pid --uts --ipc --cgroup --fork --kill-child \
                    sh \"$1/boot.sh\" \"$1/disk\" \"$2\" \"$3\"";
        let log = std::fs::File::create(folder.path().join("boot.log")).unwrap();
        let unshare = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{namespace}"), "sh", "-c", line])
            .args([cgroup.as_os_str(), folder.path().as_os_str()])
            .args([format!("{mebibytes}m"), address.clone()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server { address, gateway, folder, namespace, cgroup, unshare, init: 0 };
        server.init = server.until("process 1", |server| child_of(server.unshare.id()));
        server.until("sshd", |server| {
            server.exec("systemctl is-active --quiet test-sshd && ss -Hltn | grep -q ':22 '").status.success().then_some(())
        });
        server.write_config(&server.host_key());
        server
    }

    fn until<T>(&self, what: &str, look: impl Fn(&Server) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let log = || std::fs::read_to_string(self.folder.path().join("boot.log")).unwrap();
            assert!(Instant::now() < deadline, "{what} did not come: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its public host key.
    pub(crate) fn host_key(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("disk.key.pub")).unwrap()
    }

    /// The configuration of ssh that knows this host key.
    pub(crate) fn write_config(&self, host_key: &str) {
        let known = self.folder.path().join("known_hosts");
        std::fs::write(&known, format!("{} {host_key}\n", self.address)).unwrap();
        let user = |alias: &str, user: &str| format!("Host {alias}\n  HostName {}\n  User {user}\n", self.address);
        let common = format!(
            "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  StrictHostKeyChecking yes\n",
            self.folder.path().join("mine").display(),
            known.display()
        );
        let text = user("server server.example.org", "root") + &user("op-server", "op") + &user("guest-server", "guest") + &common;
        std::fs::write(self.folder.path().join("config"), text).unwrap();
    }

    /// A home whose ssh knows this server as `server` (root), `op-server` (sudo without a password) and `guest-server` (with one),
    /// and which can be told to fail.
    pub(crate) fn home(&self) -> Home {
        let bin = self.folder.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        let script = |name: &str, text: &str| {
            std::fs::write(bin.join(name), text).unwrap();
            std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("ssh", include_str!("ssh-with-faults.sh"));
        let enter = self.enter().join(" ");
        script("fill", &format!("#!/bin/sh\nexec {enter} dd if=/dev/zero of=/usr/local/fill bs=1M 2>/dev/null\n"));
        let program = Path::new(crate::home::program()).parent().unwrap().display().to_string();
        let home = Home::new()
            // What a killed command leaves of its connection goes with the test.
            .with_variable("TMPDIR", self.folder.path())
            .with_variable("PORTDISTRICT_SSH_CONFIG", self.folder.path().join("config"))
            .with_variable("PATH", format!("{}:{program}:/usr/bin:/bin:/usr/sbin", bin.display()));
        home.line("init").ok();
        home
    }

    /// Has ssh fail once, at this step, in this way; or at `all` steps until [`Server::mend`].
    pub(crate) fn fault(&self, step: &str, kind: &str) {
        std::fs::write(self.folder.path().join("bin/fault"), format!("{step} {kind}\n")).unwrap();
    }

    /// Ends a fault. True if there was still one.
    pub(crate) fn mend(&self) -> bool {
        std::fs::remove_file(self.folder.path().join("bin/fault")).is_ok()
    }

    fn enter(&self) -> Vec<String> {
        let words = format!("nsenter --target {} --mount --uts --ipc --net --pid --cgroup --root --wd --", self.init);
        words.split(' ').map(str::to_owned).collect()
    }

    /// Runs a line of shell on the server, as root.
    pub(crate) fn exec(&self, line: &str) -> Output {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(["sh", "-c", line]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The same, for what it prints.
    pub(crate) fn said(&self, line: &str) -> String {
        String::from_utf8(self.exec(line).stdout).unwrap()
    }

    /// The same, for what must work.
    pub(crate) fn does(&self, line: &str) {
        let output = self.exec(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What deploys left there, a thing a line.
    pub(crate) fn traces(&self) -> String {
        self.said(TRACES)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.init != 0 {
            let _ = Command::new("kill").args(["-KILL", &self.init.to_string()]).status();
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
        let _ = Command::new("ip").args(["link", "del", &self.namespace]).stderr(Stdio::null()).status();
        // Control groups go from the bottom up, once the kernel has seen that nobody is in them.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.cgroup.exists() && Instant::now() < deadline {
            let _ = Command::new("find")
                .arg(&self.cgroup)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .stderr(Stdio::null())
                .status();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) {
    let mut command = Command::new(program);
    command.args(args);
    let ran = Ran::of(command);
    let _ = ran.ok();
}

fn ip(arguments: &str) {
    run("ip", arguments.split_whitespace());
}

/// Where the unified hierarchy of control groups is.
fn cgroups() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let of_ours = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields.get(2) == Some(&"cgroup2"));
    PathBuf::from(of_ours.expect("a kernel with control groups, version 2")[1])
}

/// The system's first process: the child of what `nsenter` and the shell have become.
fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let is_systemd = std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("systemd"));
        after_name.split(' ').nth(1) == Some(&*parent.to_string()) && is_systemd
    })
}
