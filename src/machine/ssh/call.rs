//! One call of the script that servers run: the values it is given, and the lines it answers with.

use crate::error::{Code, Error};
use std::path::Path;
use zeroize::Zeroizing;

/// The one script; what is asked of it is in its values alone.
const SCRIPT: &str = include_str!("remote.sh");
/// What the script and this module mark their lines with; whatever else a server prints is passed over.
const MARK: &str = "pd:";
/// Lines of an answer, far above what the script says.
const MAX_LINES: usize = 4096;

/// A call: an act of the script, and its values. They travel on standard input, so that nobody sees them among the processes.
pub(super) struct Call {
    /// What is done.
    pub(super) act: &'static str,
    values: Zeroizing<String>,
}

impl Call {
    /// An act on a machine; of no machine in particular if the label is empty.
    pub(super) fn new(act: &'static str, label: &str) -> Call {
        Call { act, values: Zeroizing::new(String::new()) }.with("act", act).with("label", label)
    }

    /// The same with one more value.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: &str) -> Call {
        // Reserved before, so that growing leaves no copy behind.
        let mut grown = Zeroizing::new(String::with_capacity(self.values.len() + name.len() + value.len() * 4 + 8));
        *grown += &*self.values;
        *grown += "pd_";
        *grown += name;
        *grown += "=";
        quote(value, &mut grown);
        *grown += "\n";
        self.values = grown;
        self
    }

    /// What a POSIX shell is given to read.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.values.len() + SCRIPT.len()));
        *text += &*self.values;
        *text += SCRIPT;
        text
    }
}

/// One word of a POSIX shell (XCU 2.2.2): within single quotes nothing has a meaning.
fn quote(value: &str, to: &mut String) {
    to.push('\'');
    for part in value.split_inclusive('\'') {
        match part.strip_suffix('\'') {
            Some(before) => {
                *to += before;
                *to += r"'\''";
            }
            None => *to += part,
        }
    }
    to.push('\'');
}

/// What the script said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    lines: Vec<(String, String)>,
}

impl Reply {
    /// Reads whole output; for tests and fuzzing.
    pub fn parse(text: &str) -> Reply {
        let mut reply = Reply::default();
        for line in text.lines() {
            reply.hear(line);
        }
        reply
    }

    /// Takes one line, and hands back what it says if it is the script's.
    pub(super) fn hear(&mut self, line: &str) -> Option<(&str, &str)> {
        let (name, value) = line.strip_prefix(MARK)?.split_once('=')?;
        if self.lines.len() >= MAX_LINES {
            return None;
        }
        // A server may say anything; what moves a cursor is no news.
        let plain = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        self.lines.push((plain(name), plain(value).trim().to_owned()));
        self.lines.last().map(|(name, value)| (&**name, &**value))
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Every value of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Why the script ended early, if it says so.
    pub(super) fn failure(&self, target: &str, label: &str) -> Option<Error> {
        let (code, why) = self.get("failed").map(|text| text.split_once(' ').unwrap_or((text, "")))?;
        let quoted = crate::config::fs::shell_quote(Path::new(target));
        let error = match code {
            "io" if why.contains("No space left") => Error::new(Code::Io, format!("the disk of {target} is full"))
                .because(why)
                .hint(format!("ssh {quoted} df -h /usr/local /var/lib")),
            "io" if why.contains("Read-only file system") => {
                Error::new(Code::Precondition, format!("{target} cannot be written to")).because(why).hint(format!(
                    "ssh {quoted} findmnt --target /usr/local; machines need a server with a writable /usr/local, /etc and /var"
                ))
            }
            "other" => {
                Error::new(Code::Exists, format!("there is a machine `{label}` of somebody else on {target}; nothing of it was changed"))
                    .because(why)
                    .hint("choose another label")
            }
            "gone" => Error::new(Code::NotFound, format!("machine `{label}` is not on {target} any more"))
                .because(why)
                .hint(format!("portdistrict machine destroy {label}")),
            "digest" => {
                Error::new(Code::Io, format!("the program did not arrive whole on {target}")).because(why).hint("run the command again")
            }
            "exec" => Error::new(Code::Precondition, format!("this build of portdistrict does not run on {target}"))
                .because(why)
                .hint("name a static build for its processor: --program FILE"),
            "unready" => Error::new(Code::Failed, format!("the node of `{label}` did not get ready on {target}: {why}")),
            _ => Error::new(Code::Io, format!("{target} could not do it")).because(why),
        };
        let error = self.all("log").fold(error, |error, line| error.because(crate::machine::message_of_log_line(line)));
        Some(if error.hint_text().is_some() { error } else { error.hint(format!("portdistrict machine doctor --on ssh --host {quoted}")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What a shell prints that is given this.
    fn shell(shell: &str, text: &str) -> Option<String> {
        let mut child = Command::new(shell).arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Some(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
    }

    #[test]
    fn values_mean_nothing_to_a_shell() {
        for value in ["", "plain", "$(reboot)", "a'b", "'; echo pwned; '", "`id`\n$HOME \\ \"x\" !!", "'''", "ends with '", "-n"] {
            let call = Call::new("none", "home").with("value", value);
            let values = call.values.to_string();
            for name in ["sh", "bash", "dash"] {
                let Some(said) = shell(name, &format!("{values}printf '%s' \"$pd_value\"")) else { continue };
                assert_eq!(said, value, "{name}");
            }
        }
    }

    #[test]
    fn the_script_is_sound_for_every_shell_that_is_here() {
        for name in ["sh", "bash", "dash", "busybox"] {
            let mut command = Command::new(name);
            if name == "busybox" {
                command.arg("sh");
            }
            let Ok(mut child) = command.arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() else { continue };
            child.stdin.take().unwrap().write_all(SCRIPT.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let Ok(output) = Command::new("shellcheck")
            // Values come from outside of it; the list of ports is one of words.
            .args(["--shell=sh", "--exclude=SC1091,SC2154,SC2013", concat!(env!("CARGO_MANIFEST_DIR"), "/src/machine/ssh/remote.sh")])
            .output()
        else {
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    #[test]
    fn only_marked_lines_are_heard_and_nothing_moves_the_cursor() {
        let reply = Reply::parse("Welcome!\npd:uid=0\nuid=1\npd:left=a\npd:left=b\x1b[2J=c\npd:nothing\npd:uid=7\n");
        assert_eq!(reply.get("uid"), Some("0"));
        assert_eq!(reply.all("left").collect::<Vec<_>>(), ["a", "b[2J=c"]);
        assert_eq!(reply.get("nothing"), None);
        assert_eq!(Reply::parse(&"pd:a=b\n".repeat(MAX_LINES + 5)).all("a").count(), MAX_LINES);
    }

    #[test]
    fn each_failure_has_its_code_and_a_way_out() {
        let table = [
            ("io cannot write /usr/local/x: No space left on device", Code::Io, "is full"),
            ("io cannot make the folder: Read-only file system", Code::Precondition, "written to"),
            ("io cannot start x: Job failed", Code::Io, "could not"),
            ("other /etc/systemd/system/x is not of this owner", Code::Exists, "somebody else"),
            ("gone there is none", Code::NotFound, "any more"),
            ("digest what arrived", Code::Io, "whole"),
            ("exec cannot execute binary file", Code::Precondition, "does not run"),
            ("unready it ended: exit-code", Code::Failed, "did not get ready"),
        ];
        for (said, code, part) in table {
            let error = Reply::parse(&format!("pd:failed={said}\n")).failure("op@server", "home").unwrap();
            assert_eq!(error.code(), code, "{said}");
            assert!(error.message().contains(part) && error.hint_text().is_some(), "{error:?}");
        }
        assert!(Reply::parse("pd:done=x\n").failure("s", "home").is_none());
    }
}
