//! The systemd user unit of a local machine: a node that starts with the computer, locked into its own folder.

use super::provider::Site;
use crate::config::Label;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than a node takes to start, short enough not to seem dead.
const PATIENCE: Duration = Duration::from_secs(40);

/// The unit's name.
pub(super) fn unit_name(label: &Label) -> String {
    format!("portdistrict-{label}.service")
}

/// Whether a machine runs under systemd: deploy left a marker beside its configuration.
pub(super) fn is_used(marker: &Path) -> bool {
    marker.exists()
}

/// Where systemd looks for units of this user.
fn unit_path(label: &Label) -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let config = config.ok_or_else(|| {
        Error::new(Code::Precondition, "there is no place for a user unit: HOME is not set").hint("deploy without --systemd")
    })?;
    Ok(config.join("systemd/user").join(unit_name(label)))
}

/// Text inside double quotes of a unit file (systemd.syntax(7)): specifiers and escapes lose their meaning.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$"))
}

/// A path where systemd takes the rest of the line as it is, specifiers apart.
fn bare(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// The unit: whatever a node does not need is taken away from it.
fn unit(site: &Site, program: &Path, config: &Path) -> String {
    let dir = &site.dir;
    format!(
        "# Written by portdistrict; `portdistrict machine destroy {label}` removes it.
[Unit]
Description=portdistrict exit node {label}
After=network-online.target

[Service]
Type=notify
ExecStart={program} node run --config {config}
Restart=on-failure
RestartSec=2
StandardOutput=append:{out}
StandardError=append:{log}
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
LimitNOFILE=65536

[Install]
WantedBy=default.target
",
        label = site.label,
        program = quoted(&program.display().to_string()),
        config = quoted(&config.display().to_string()),
        out = bare(&dir.join("node.out")),
        log = bare(&dir.join("node.log")),
        writable = quoted(&dir.display().to_string()),
    )
}

/// Writes the unit, starts it and has it started with the computer.
pub(super) async fn install(site: &Site, program: &Path, config: &Path) -> Result<()> {
    let path = unit_path(&site.label)?;
    if path.exists() {
        return Err(Error::new(Code::Exists, format!("there is a unit already: {}", path.display())).hint(format!(
            "systemctl --user disable --now {0}; rm {1}",
            unit_name(&site.label),
            crate::config::fs::shell_quote(&path)
        )));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).doing("make the folder", folder.display())?;
    }
    std::fs::write(site.dir.join("service"), unit_name(&site.label)).doing("write into", site.dir.display())?;
    std::fs::write(&path, unit(site, program, config)).doing("write", path.display())?;
    systemctl(&["daemon-reload"]).await?;
    systemctl(&["enable", "--now", &unit_name(&site.label)]).await
}

pub(super) async fn start(label: &Label) -> Result<()> {
    systemctl(&["start", &unit_name(label)]).await
}

pub(super) async fn stop(label: &Label) -> Result<()> {
    systemctl(&["stop", &unit_name(label)]).await
}

pub(super) async fn is_active(label: &Label) -> bool {
    systemctl(&["is-active", "--quiet", &unit_name(label)]).await.is_ok()
}

/// Takes the unit away again.
pub(super) async fn remove(label: &Label) -> Result<()> {
    systemctl(&["disable", "--now", &unit_name(label)]).await?;
    let path = unit_path(label)?;
    std::fs::remove_file(&path).doing("remove", path.display())?;
    systemctl(&["daemon-reload"]).await
}

/// The same for clean-up that cannot wait and tells nobody.
pub(super) fn remove_now(label: &Label) {
    let Ok(path) = unit_path(label) else { return };
    if std::fs::read_to_string(&path).is_ok_and(|text| text.starts_with("# Written by portdistrict")) {
        let _ = command(&["disable", "--now", &unit_name(label)]).status();
        let _ = std::fs::remove_file(path);
        let _ = command(&["daemon-reload"]).status();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new("systemctl");
    command.env_remove(keyring::VARIABLE);
    command.arg("--user").args(args).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command
}

/// Runs systemctl for this user; what it says is the cause of the error.
async fn systemctl(args: &[&str]) -> Result<()> {
    let missing = |e: std::io::Error| {
        Error::new(Code::Precondition, "cannot run systemctl").cause(e).hint("deploy without --systemd, or install systemd")
    };
    let mut child = command(args).stderr(std::process::Stdio::piped()).spawn().map_err(missing)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if child.try_wait().map_err(missing)?.is_some() {
            break;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    let mut error = Error::new(Code::Failed, format!("`systemctl --user {}` failed: {}", args.join(" "), output.status));
    for line in String::from_utf8_lossy(&output.stderr).lines().take(3) {
        error = error.because(line.to_owned());
    }
    Err(error.hint("see: journalctl --user --unit 'portdistrict-*' --lines 20"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_stay_one_word() {
        let site = Site { label: "home".parse().unwrap(), dir: "/home/a b/100%/\"x\"".into() };
        let text = unit(&site, Path::new("/opt/port district"), Path::new("/home/a b/100%/\"x\"/node.toml"));
        assert!(text.contains("ExecStart=\"/opt/port district\" node run --config \"/home/a b/100%%/\\\"x\\\"/node.toml\"\n"), "{text}");
        assert!(text.contains("StandardError=append:/home/a b/100%%/\"x\"/node.log\n"), "{text}");
        assert_eq!(unit_name(&site.label), "portdistrict-home.service");
    }

    /// Asks systemd itself, where it is installed.
    #[test]
    fn systemd_accepts_the_unit() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site { label: "home".parse().unwrap(), dir: dir.path().to_owned() };
        let path = dir.path().join(unit_name(&site.label));
        std::fs::write(&path, unit(&site, Path::new("/bin/true"), Path::new("/etc/hostname"))).unwrap();
        let Ok(output) = Command::new("systemd-analyze").args(["--user", "verify"]).arg(&path).output() else { return };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let about_us: Vec<_> = said.lines().filter(|line| line.contains("portdistrict-home.service")).collect();
        assert!(about_us.is_empty(), "{about_us:?}");
    }
}
