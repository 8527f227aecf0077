//! The only place that prints: results on stdout, everything else on stderr, as text for people or JSON for programs.
//!
//! A reader that goes away (`… | head`) is no error: printing stops and the command ends quietly.

use crate::error::{Code, Doing, Error, Result};
use crate::progress::{Progress, Silent};
use anstyle::{AnsiColor, Effects, Style};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The version of every JSON document this program prints, as field `v`.
pub const JSON_VERSION: u64 = 1;

/// When to colour what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Also into pipes and files
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// Whether a stream gets colour.
    fn applies(self, terminal: bool) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// One JSON document, or one a line for a stream.
    pub json: bool,
    /// No status lines and no progress; results and errors remain.
    pub quiet: bool,
    /// When to colour.
    pub color: Color,
    /// Answer questions with yes.
    pub yes: bool,
}

/// What a command shows: its fields are the JSON, `text` is for people.
pub trait View: Serialize {
    /// The text, with or without a last line break.
    fn text(&self, look: &Look) -> String;
}

/// Paints words if the stream takes colour.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    color: bool,
}

impl Look {
    /// No colour at all.
    pub const PLAIN: Look = Look { color: false };

    fn paint(self, style: Style, text: impl Display) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_string() }
    }

    /// Headings and names.
    pub fn bold(self, text: impl Display) -> String {
        self.paint(Style::new().effects(Effects::BOLD), text)
    }

    /// What is well.
    pub fn good(self, text: impl Display) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// What needs attention.
    pub fn warn(self, text: impl Display) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// What is wrong.
    pub fn bad(self, text: impl Display) -> String {
        self.paint(AnsiColor::Red.on_default().effects(Effects::BOLD), text)
    }

    /// What matters less.
    pub fn dim(self, text: impl Display) -> String {
        self.paint(Style::new().effects(Effects::DIMMED), text)
    }
}

/// The way to the person or program that called.
pub struct Output {
    choice: Choice,
    stdout: Look,
    stderr: Look,
    /// Columns, if stderr is a terminal.
    width: Option<usize>,
    gone: AtomicBool,
}

impl Output {
    /// Looks at the terminal and the environment once.
    pub fn new(choice: Choice) -> Output {
        Output {
            stdout: Look { color: choice.color.applies(io::stdout().is_terminal()) },
            stderr: Look { color: choice.color.applies(io::stderr().is_terminal()) },
            width: rustix::termios::tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 20),
            choice,
            gone: AtomicBool::new(false),
        }
    }

    /// Whether results are JSON.
    pub fn json(&self) -> bool {
        self.choice.json
    }

    /// How results are painted.
    pub(super) fn look(&self) -> Look {
        self.stdout
    }

    /// Whether stdout takes colour.
    pub(super) fn colored(&self) -> bool {
        self.stdout.color
    }

    /// Shows a result: the text, or one JSON document with `v`.
    pub fn show(&self, view: &impl View) -> Result<()> {
        let text = if self.choice.json { document(view, true)? } else { ended(view.text(&self.stdout)) };
        self.write(text.as_bytes())
    }

    /// Shows one item of a stream, in JSON one document on one line. False once the reader has gone.
    pub fn item(&self, view: &impl View) -> Result<bool> {
        let text = if self.choice.json { document(view, false)? } else { ended(view.text(&self.stdout)) };
        self.write(text.as_bytes())?;
        Ok(!self.gone.load(Ordering::Relaxed))
    }

    /// Writes one JSON document on one line, whether or not JSON was asked for. False once the reader has gone.
    pub(super) fn json_line(&self, item: &impl Serialize) -> Result<bool> {
        self.write(document(item, false)?.as_bytes())?;
        Ok(!self.gone.load(Ordering::Relaxed))
    }

    /// Writes bytes to stdout as they are: scripts, pages, what a node logged. False once the reader has gone.
    pub fn raw(&self, bytes: &[u8]) -> Result<bool> {
        self.write(bytes)?;
        Ok(!self.gone.load(Ordering::Relaxed))
    }

    /// Whether the reader has gone, for streams in which nothing may happen for hours.
    pub(super) fn reader_gone(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut ask = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.gone.load(Ordering::Relaxed) || (poll(&mut ask, Some(&now)).is_ok() && ask[0].revents().contains(PollFlags::ERR))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        if self.gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut to = io::stdout().lock();
        match to.write_all(bytes).and_then(|()| to.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.gone.store(true, Ordering::Relaxed);
                Ok(())
            }
            other => other.doing("write to", "stdout"),
        }
    }

    /// Says what happened or what to do next, on stderr; silent when quiet and in JSON.
    pub fn say(&self, text: impl Display) {
        if !self.choice.quiet && !self.choice.json {
            note(&format!("{}\n", self.wrapped(&clean(&text.to_string()))));
        }
    }

    /// Draws a line across a terminal, to set apart what is to be copied; nothing into pipes.
    pub fn fence(&self) {
        if !self.choice.quiet && !self.choice.json && io::stdout().is_terminal() {
            note(&format!("{}\n", self.stderr.dim("─".repeat(self.width.unwrap_or(80).min(80)))));
        }
    }

    /// Sentences broken between words at the edge of a terminal; elsewhere lines stay whole.
    fn wrapped(&self, text: &str) -> String {
        match self.width {
            Some(width) => textwrap::fill(text, textwrap::Options::new(width).break_words(false)),
            None => text.to_owned(),
        }
    }

    /// Prints help that was not asked for, on stderr.
    pub(super) fn help(&self, text: &str) {
        note(text);
    }

    /// Warns on stderr, also when quiet.
    pub fn warn(&self, text: impl Display) {
        note(&format!("{}\n", self.wrapped(&format!("{} {}", self.stderr.warn("warning:"), clean(&text.to_string())))));
    }

    /// Asks a question that is answered by `--yes`; without a terminal the error names the flag.
    pub fn confirm(&self, question: &str) -> Result<()> {
        if self.choice.yes {
            return Ok(());
        }
        if self.choice.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Error::new(Code::Usage, format!("nobody is there to answer: {question}")).hint("add --yes to the command"));
        }
        note(&format!("{question} [y/N] "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).doing("read the answer from", "the terminal")?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Error::new(Code::Interrupted, "Stopped: the answer was no, and nothing was changed."))
        }
    }

    /// A listener for long work, fitting the terminal, the pipe or silence.
    pub fn progress(&self) -> Arc<dyn Progress> {
        if self.choice.quiet || self.choice.json {
            Arc::new(Silent)
        } else if io::stderr().is_terminal() {
            Arc::new(super::progress::Bars::new())
        } else {
            Arc::new(super::progress::Lines)
        }
    }

    /// An error for people. Hints are not wrapped: they are copied.
    fn error_text(&self, error: &Error) -> String {
        let look = self.stderr;
        let mut text = self.wrapped(&format!("{} {}", look.bad("error:"), clean(error.message()))) + "\n";
        for cause in error.causes() {
            text += &format!("  {} {}\n", look.dim("cause:"), clean(cause));
        }
        if let Some(hint) = error.hint_text() {
            text += &format!("  {} {}\n", look.good("hint:"), clean(hint));
        }
        text
    }

    /// How stderr is coloured.
    pub(super) fn look_of_errors(&self) -> Look {
        self.stderr
    }

    /// Prints an error as `error:`, `cause:` and `hint:` lines, or as JSON, on stderr.
    pub fn error(&self, error: &Error) {
        note(&if self.choice.json { error_json(error) } else { self.error_text(error) });
    }
}

/// An error for programs.
fn error_json(error: &Error) -> String {
    let body = serde_json::json!({
        "v": JSON_VERSION,
        "error": {
            "code": error.code().as_str(),
            "message": error.message(),
            "hint": error.hint_text(),
            "causes": error.causes(),
            "rule": error.ruling().map(|ruling| &ruling.rule),
            "entry": error.ruling().and_then(|ruling| ruling.entry.as_ref()),
        }
    });
    format!("{body}\n")
}

/// A result as one JSON document.
fn document(view: &impl Serialize, pretty: bool) -> Result<String> {
    let fail = |e: serde_json::Error| Error::new(Code::Failed, "cannot write the result as JSON").cause(e);
    let mut value = serde_json::to_value(view).map_err(fail)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("v".to_owned(), JSON_VERSION.into());
    }
    let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
    Ok(text.map_err(fail)? + "\n")
}

/// Text that ends in exactly one line break, or nothing at all.
fn ended(text: String) -> String {
    if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" }
}

/// Text that others wrote, such as a node's words, without what could move a terminal's cursor or colour it.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Writes to stderr; nobody can be told when that fails.
pub(super) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// One line per entry, first column padded: the shape of every `show`.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A table without lines, columns two spaces apart: the shape of every `list`.
pub fn table(look: &Look, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(head.iter().map(|h| (*h).to_owned()));
    for row in rows {
        table.add_row(row.clone());
    }
    let last = head.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
    }
    let mut lines = table.lines().map(|line| line.trim_end().to_owned());
    let head = lines.next().map(|line| look.dim(line) + "\n").unwrap_or_default();
    head + &lines.map(|line| line + "\n").collect::<String>()
}

/// A time as people read it: `in 2 hours (2026-05-03 14:00 CEST)`.
pub fn when(ts: u64, now: u64) -> String {
    format!("{} ({})", crate::config::time::relative(ts, now), crate::config::time::absolute(ts))
}

/// `1 friend`, `3 friends`: the one place that knows how plurals are made.
pub fn count(n: usize, noun: &str) -> String {
    match (n, noun) {
        (1, _) => format!("1 {noun}"),
        (_, noun) if noun.ends_with("ch") || noun.ends_with('s') => format!("{n} {noun}es"),
        (_, noun) if noun.ends_with("ry") => format!("{n} {}ies", &noun[..noun.len() - 1]),
        _ => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        label: String,
    }

    #[test]
    fn every_document_carries_its_version() {
        let text = document(&Thing { label: "home".to_owned() }, false).unwrap();
        assert_eq!(text, "{\"label\":\"home\",\"v\":1}\n");
    }

    #[test]
    fn errors_read_as_the_manual_says() {
        let error = Error::new(Code::NotFound, "there is no machine `home`").because("it was destroyed").hint("portdistrict machine list");
        let mut out =
            Output { choice: Choice::default(), stdout: Look::PLAIN, stderr: Look::PLAIN, width: None, gone: AtomicBool::new(false) };
        let text = out.error_text(&error);
        assert_eq!(text, "error: there is no machine `home`\n  cause: it was destroyed\n  hint: portdistrict machine list\n");
        out.width = Some(20);
        assert_eq!(out.error_text(&error).lines().next(), Some("error: there is no"));
        let json: serde_json::Value = serde_json::from_str(&error_json(&error)).unwrap();
        assert_eq!(json["error"]["code"], "not_found");
        assert_eq!(json["error"]["hint"], "portdistrict machine list");
    }

    #[test]
    fn tables_align_and_end_without_spaces() {
        let rows = vec![vec!["home".to_owned(), "up".to_owned()], vec!["cottage".to_owned(), "down".to_owned()]];
        let text = table(&Look::PLAIN, &["LABEL", "STATE"], &rows);
        assert_eq!(text, "LABEL    STATE\nhome     up\ncottage  down\n");
        assert_eq!(fields(&[("a", "1".to_owned()), ("long", "2".to_owned()), ("no", String::new())]), "a     1\nlong  2\n");
    }

    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        let error = Error::new(Code::Refused, "no").because("the node says: \u{1b}[2J\u{9b}31m\rgone");
        let out = Output { choice: Choice::default(), stdout: Look::PLAIN, stderr: Look::PLAIN, width: None, gone: AtomicBool::new(false) };
        assert_eq!(out.error_text(&error), "error: no\n  cause: the node says: \u{fffd}[2J\u{fffd}31m\u{fffd}gone\n");
    }

    #[test]
    fn plurals() {
        assert_eq!((count(1, "machine"), count(0, "machine")), ("1 machine".to_owned(), "0 machines".to_owned()));
        assert_eq!((count(2, "address"), count(2, "try")), ("2 addresses".to_owned(), "2 tries".to_owned()));
    }
}
