//! The systemd unit of a machine on a server: its own user, its own folder, one port, and nothing else.

use super::program::folder_of_programs;
use crate::config::Label;
use std::fmt::Write;

/// Time for a node to listen, and more for one that waits for the Tor network.
const START: u64 = 60;
/// The first port that needs no capability.
const UNPRIVILEGED: u16 = 1024;

/// What decides a unit.
#[derive(Clone, Debug)]
pub(super) struct Unit<'a> {
    /// The machine.
    pub(super) label: &'a Label,
    /// Id of the identity that deploys it.
    pub(super) owner: &'a str,
    /// Name of the program among [`folder_of_programs`].
    pub(super) program: &'a str,
    /// Port it listens on; 0 if the server chooses a free one.
    pub(super) port: u16,
    /// Whether it is an onion service, too.
    pub(super) tor: bool,
}

/// The unit's name.
pub(super) fn name(label: &Label) -> String {
    format!("portdistrict-{label}.service")
}

/// Where it lies.
pub(super) fn path(label: &Label) -> String {
    format!("/etc/systemd/system/{}", name(label))
}

/// The folder of the node's files, as the node sees it; systemd keeps it in `/var/lib/private`, where nobody else can look.
pub(super) fn state(label: &Label) -> String {
    format!("/var/lib/portdistrict/{label}")
}

/// The first line: whose unit it is.
pub(super) fn mark(label: &Label, owner: &str) -> String {
    format!("# Written by portdistrict for {owner}; `portdistrict machine destroy {label}` removes it.")
}

/// How long a start may take, in seconds.
pub(super) fn patience(tor: bool) -> u64 {
    START + if tor { crate::machine::ONION_PATIENCE.as_secs() } else { 0 }
}

impl Unit<'_> {
    /// The file. Whatever a node does not need is taken away from it.
    pub(super) fn text(&self) -> String {
        let (label, program) = (self.label, self.program);
        let capability = if (1..UNPRIVILEGED).contains(&self.port) { "CAP_NET_BIND_SERVICE" } else { "" };
        let mut text = format!(
            "{mark}
[Unit]
Description=portdistrict exit node {label}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
ExecStart=\"{folder}/{program}\" node run --config \"{state}/node.toml\"
Restart=on-failure
RestartSec=2
TimeoutStartSec={start}
StandardOutput=null
StandardError=journal
SyslogIdentifier=portdistrict-{label}
DynamicUser=yes
StateDirectory=portdistrict/{label}
StateDirectoryMode=0700
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet={capability}
AmbientCapabilities={capability}
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateDevices=yes
PrivateTmp=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
ReadOnlyPaths=-/var/lib/private/portdistrict/{label}/node.toml -/var/lib/private/portdistrict/{label}/cover
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
LimitNOFILE=65536
",
            mark = mark(label, self.owner),
            folder = folder_of_programs(),
            state = state(label),
            start = patience(self.tor) + 30,
        );
        if self.port != 0 && !self.tor {
            // Helpers of Tor listen on ports of their own.
            let _ = write!(text, "SocketBindAllow=tcp:{0}\nSocketBindDeny=tcp\n", self.port);
        }
        text += "\n[Install]\nWantedBy=multi-user.target\n";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(port: u16, tor: bool) -> String {
        Unit { label: &"home".parse().unwrap(), owner: "OWNER", program: "0123456789abcdef", port, tor }.text()
    }

    #[test]
    fn only_a_low_port_gives_a_capability() {
        assert!(text(443, false).contains("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"));
        for port in [0, 1024, 4433] {
            assert!(text(port, false).contains("\nCapabilityBoundingSet=\n") && text(port, false).contains("\nAmbientCapabilities=\n"));
        }
        assert!(text(4433, false).contains("\nSocketBindAllow=tcp:4433\n") && !text(4433, true).contains("SocketBind"));
    }

    #[test]
    fn it_begins_with_its_mark_and_names_its_program() {
        let text = text(4433, true);
        assert_eq!(text.lines().next(), Some(&*mark(&"home".parse().unwrap(), "OWNER")));
        assert!(text.contains(
            "\nExecStart=\"/usr/local/lib/portdistrict/bin/0123456789abcdef\" node run --config \"/var/lib/portdistrict/home/node.toml\"\n"
        ));
        assert!(text.contains("\nTimeoutStartSec=270\n"));
    }

    /// Asks systemd itself, where it is installed.
    #[test]
    fn systemd_accepts_the_unit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("portdistrict-home.service");
        for port in [443, 4433] {
            let program = format!("{}/0123456789abcdef", folder_of_programs());
            std::fs::write(&path, text(port, false).replace(&program, "/bin/true")).unwrap();
            let Ok(output) = std::process::Command::new("systemd-analyze").arg("verify").arg(&path).output() else { return };
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let about_us: Vec<_> = said.lines().filter(|line| line.contains("portdistrict-home.service")).collect();
            assert!(about_us.is_empty(), "{about_us:?}");
        }
    }
}
