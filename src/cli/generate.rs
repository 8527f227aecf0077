//! What is generated from the one definition of the command line: completions, man pages, the version.

use super::Call;
use super::output::{Look, View};
use crate::error::{Code, Doing, Error, Result};
use clap::ValueHint;
use clap_complete::Shell;
use clap_complete::env::Shells;
use clap_mangen::Man;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Print the script that completes commands, options and values in a shell
///
/// The script asks portdistrict itself, so labels, friends and grants complete too. With --static the script knows commands and
/// options only and never runs anything.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  Complete in bash from the next login on:\n    mkdir -p ~/.local/share/bash-completion/completions\n    \
                             portdistrict completions bash > ~/.local/share/bash-completion/completions/portdistrict\n  In fish:\n    \
                             mkdir -p ~/.config/fish/completions\n    portdistrict completions fish > ~/.config/fish/completions/portdistrict.fish"
)]
pub(super) struct CompletionsArgs {
    /// Shell to print for
    shell: Shell,
    /// Print a script that never asks portdistrict
    #[arg(long = "static")]
    fixed: bool,
}

/// Write the man pages into a folder
#[derive(clap::Args)]
#[command(after_long_help = "EXAMPLES:\n  Install the pages for this user:\n    portdistrict man --out ~/.local/share/man/man1")]
pub(super) struct ManArgs {
    /// Folder to write to; it is made if missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
}

/// Print the version and how this program was built
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  portdistrict version\n    portdistrict version\n  For a program:\n    portdistrict version --json"
)]
pub(super) struct VersionArgs {}

/// The completion script of one shell.
fn script(shell: Shell, fixed: bool) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    if fixed {
        clap_complete::generate(shell, &mut super::definition(), "portdistrict", &mut script);
        return Ok(script);
    }
    let name = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells.completer(&name).ok_or_else(|| Error::new(Code::NotFound, format!("no completions for {name}")))?;
    completer
        .write_registration("COMPLETE", "portdistrict", "portdistrict", "portdistrict", &mut script)
        .doing("write completions for", name)?;
    Ok(script)
}

pub(super) fn completions(call: &Call, args: &CompletionsArgs) -> Result<()> {
    call.out.raw(&script(args.shell, args.fixed)?).map(|_| ())
}

/// Every man page as file name and contents, the hidden commands left out.
fn man_pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    page(&super::definition(), "portdistrict", &mut pages)?;
    Ok(pages)
}

fn page(command: &clap::Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let file = format!("{name}.1");
    let renamed = command.clone().name(name.to_owned()).display_name(name.to_owned());
    let mut text = Vec::new();
    render(renamed, &mut text).doing("write the man page", &file)?;
    pages.push((file, text));
    for verb in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        page(verb, &format!("{name}-{}", verb.get_name()), pages)?;
    }
    Ok(())
}

/// A page like clap_mangen's own, but with the examples under their own heading.
fn render(command: clap::Command, to: &mut Vec<u8>) -> std::io::Result<()> {
    let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let verbs = command.get_subcommands().any(|c| !c.is_hide_set());
    let man = Man::new(command).source(concat!("portdistrict ", env!("CARGO_PKG_VERSION"))).manual("Port District");
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    man.render_options_section(to)?;
    if verbs {
        man.render_subcommands_section(to)?;
    }
    for part in examples.split("\n\n") {
        let Some((heading, body)) = part.split_once(":\n") else { continue };
        to.extend(format!(".SH {heading}\n.nf\n").bytes());
        for line in body.lines() {
            to.extend(roff(line).bytes());
        }
        to.extend(b".fi\n");
    }
    Ok(())
}

/// One line of running text: no character may be taken for a command.
fn roff(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if line.starts_with('.') { format!("\\&{line}\n") } else { line + "\n" }
}

pub(super) fn man(call: &Call, args: &ManArgs) -> Result<()> {
    let pages = man_pages()?;
    std::fs::create_dir_all(&args.out).doing("make the folder", args.out.display())?;
    for (name, text) in &pages {
        write(&args.out.join(name), text)?;
    }
    call.out.say(format!("Wrote {} to {}.", super::output::count(pages.len(), "man page"), args.out.display()));
    Ok(())
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    std::fs::write(path, text).doing("write", path.display())
}

/// What this program is.
#[derive(Serialize)]
struct Version {
    /// By semantic versioning.
    version: &'static str,
    /// Operating system it was built for.
    os: &'static str,
    /// Processor it was built for.
    arch: &'static str,
    /// Whether it needs shared libraries.
    linked: &'static str,
}

impl View for Version {
    fn text(&self, _: &Look) -> String {
        format!("portdistrict {} ({}, {}, {})", self.version, self.os, self.arch, self.linked)
    }
}

pub(super) fn version(call: &Call) -> Result<()> {
    call.out.show(&Version {
        version: env!("CARGO_PKG_VERSION"),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        linked: if cfg!(target_feature = "crt-static") { "static" } else { "dynamic" },
    })
}
