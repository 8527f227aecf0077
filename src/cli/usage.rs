//! Command lines that cannot be parsed, explained in the same shape as every other error.

use super::output::{Choice, Color, Output};
use crate::error::{Code, Error};
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::process::ExitCode;

/// Shows help and version as asked for; anything else is an error with exit status 2.
pub(super) fn explain(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let out = Output::new(early(words));
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            match out.raw(if out.colored() { text.ansi().to_string() } else { text.to_string() }.as_bytes()) {
                Ok(_) => ExitCode::SUCCESS,
                Err(error) => ExitCode::from(error.code().exit_code()),
            }
        }
        // A newcomer who types a noun alone learns its verbs; a program gets an error like any other.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !out.json() => {
            out.help(&error.render().to_string());
            ExitCode::from(Code::Usage.exit_code())
        }
        _ => {
            let error = convert(error, words);
            out.error(&error);
            ExitCode::from(error.code().exit_code())
        }
    }
}

/// The flags that decide how an error looks, read even though the rest could not be.
fn early(words: &[OsString]) -> Choice {
    let mut choice = Choice::default();
    let mut color_follows = false;
    for word in words.iter().skip(1).map(|word| word.to_string_lossy()).take_while(|word| word != "--") {
        let color = if color_follows { Some(&*word) } else { word.strip_prefix("--color=") };
        match color {
            Some("always") => choice.color = Color::Always,
            Some("never") => choice.color = Color::Never,
            _ => {}
        }
        color_follows = word == "--color";
        choice.json |= word == "--json";
    }
    choice
}

/// clap's findings in our words: its first paragraph is the message, its tip the hint, else the help of that command.
fn convert(error: &clap::Error, words: &[OsString]) -> Error {
    let command = named_command(words);
    let help = format!("{command} --help");
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let verbs = definition_of(&command).map(|c| verbs(&c)).unwrap_or_default();
        return Error::new(Code::Usage, format!("`{command}` needs to know what to do: one of {verbs}")).hint(help);
    }
    let text = error.render().to_string();
    let mut paragraphs = text.trim_start_matches("error: ").split("\n\n");
    let message = paragraphs.next().unwrap_or_default().lines().map(str::trim).collect::<Vec<_>>().join(" ");
    if let Some(hint) = std::error::Error::source(error).and_then(|e| e.downcast_ref::<Error>()).and_then(Error::hint_text) {
        return Error::new(Code::Usage, message).hint(hint);
    }
    let tip = paragraphs.find_map(|part| part.trim().strip_prefix("tip: ")).map(|tip| tip.lines().next().unwrap_or_default().to_owned());
    Error::new(Code::Usage, message).hint(tip.map_or(help.clone(), |tip| format!("{tip}; see {help}")))
}

/// `portdistrict machine show` out of a line that starts like this.
fn named_command(words: &[OsString]) -> String {
    let mut name = "portdistrict".to_owned();
    let mut at = super::definition();
    for word in words.iter().skip(1) {
        let Some(next) = at.find_subcommand(word) else { continue };
        name = format!("{name} {}", next.get_name());
        at = next.clone();
    }
    name
}

fn definition_of(command: &str) -> Option<clap::Command> {
    let mut at = super::definition();
    for word in command.split(' ').skip(1) {
        at = at.find_subcommand(word)?.clone();
    }
    Some(at)
}

fn verbs(command: &clap::Command) -> String {
    let names: Vec<&str> = command.get_subcommands().filter(|c| !c.is_hide_set()).map(clap::Command::get_name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::Parser;

    fn failure(line: &str) -> Error {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        convert(&Cli::try_parse_from(&words).err().unwrap(), &words)
    }

    #[test]
    fn a_slip_of_the_finger_is_answered_with_what_was_meant() {
        let error = failure("portdistrict completions bahs");
        assert_eq!(error.code(), Code::Usage);
        assert!(error.message().contains("'bahs'"), "{error}");
        assert!(error.hint_text().unwrap().ends_with("see portdistrict completions --help"), "{error:?}");
        let error = failure("portdistrict");
        assert!(error.message().contains("completions"), "{error}");
    }

    #[test]
    fn flags_for_the_looks_count_even_on_a_bad_line() {
        let words: Vec<OsString> =
            ["portdistrict", "nonsense", "--json", "--color", "never", "--", "--color=always"].map(OsString::from).into();
        let choice = early(&words);
        assert!(choice.json);
        assert_eq!(choice.color, Color::Never);
    }
}
