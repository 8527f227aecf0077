//! A home of its own for one test: empty environment, fixed width.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The program under test: the one that cargo built, or another build of it.
pub(crate) fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var("PORTDISTRICT_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_portdistrict").to_owned()))
}

/// A temporary folder that is a home.
pub(crate) struct Home {
    dir: tempfile::TempDir,
    variables: Vec<(String, OsString)>,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    /// The same with one more variable in the environment of every command.
    pub(crate) fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Home {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Whether every command has this in its environment.
    pub(crate) fn has_variable(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, _)| known == name)
    }

    /// The folder `--home` names; nothing has made it yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// The folder commands run in.
    pub(crate) fn work(&self) -> &Path {
        self.dir.path()
    }

    /// A command of the program in this home, not yet started.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program());
        command.args(args).env("PORTDISTRICT_HOME", self.path());
        self.bare(command)
    }

    /// A command line for `sh`, in which `portdistrict` is the program under test.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).env("PORTDISTRICT_HOME", self.path()).env("HOME", self.work());
        self.bare(command)
    }

    /// Only what is said here is in the environment; whatever the command set stays.
    fn bare(&self, mut command: Command) -> Command {
        let set: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(OsStr::to_owned))).collect();
        let bin = Path::new(program()).parent().unwrap();
        command.env_clear().env("COLUMNS", "100").env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin", bin.display()));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        for (name, value) in set {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command.current_dir(self.work()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command line given as words and waits for its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(args))
    }

    /// Runs a command line written with single spaces between the words.
    pub(crate) fn line(&self, line: &str) -> Ran {
        self.run(line.split(' ').filter(|word| !word.is_empty()))
    }
}

/// What a finished command left: status, stdout and stderr together.
#[must_use]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    line: String,
}

impl Ran {
    pub(crate) fn of(mut command: Command) -> Ran {
        let output = command.output().unwrap();
        Ran::from_output(&format!("{command:?}"), output)
    }

    /// What a command left that was started otherwise.
    pub(crate) fn from_output(line: &str, output: Output) -> Ran {
        Ran {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            line: line.to_owned(),
        }
    }

    /// Asserts success and hands back stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self}");
        self.stdout
    }

    /// Asserts an exit status and hands back stderr.
    #[track_caller]
    pub(crate) fn fails(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{self}");
        self.stderr
    }

    /// The one JSON document on stdout of a successful command.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let shown = self.to_string();
        let value: serde_json::Value = serde_json::from_str(&self.ok()).unwrap_or_else(|e| panic!("{e}: {shown}"));
        assert_eq!(value["v"], 1, "{shown}");
        value
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nstatus {:?}\n--- stdout\n{}--- stderr\n{}---", self.line, self.status, self.stdout, self.stderr)
    }
}
