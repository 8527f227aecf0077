//! What narrows a grant, as flags: the same for the owner who issues one and for the holder who passes one on.

use crate::config::Pattern;
use crate::config::{parse_bytes, parse_rate};
use crate::error::{Code, Error, Result};
use crate::token::{Limits, Scope, Way, Window};
use clap::ValueHint;

/// Amounts, places, hours and devices.
#[derive(clap::Args)]
#[command(next_help_heading = "What it allows")]
pub(super) struct ScopeArgs {
    /// Most bytes in both directions together, as in 10G
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, value_hint = ValueHint::Other)]
    bytes: Option<u64>,
    /// Most bytes on each day (UTC), as in 1G
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, value_hint = ValueHint::Other)]
    bytes_per_day: Option<u64>,
    /// Most bits a second in each direction, as in 20M
    #[arg(long, value_name = "RATE", value_parser = parse_rate, value_hint = ValueHint::Other)]
    rate: Option<u64>,
    /// Most streams open at once
    #[arg(long, value_name = "COUNT", value_hint = ValueHint::Other)]
    streams: Option<u32>,
    /// Destination it is narrowed to, as in '*.example.org:443' or 192.0.2.0/24; may be given several times
    #[arg(long, alias = "egress", value_name = "RULE", value_parser = destination, value_hint = ValueHint::Other)]
    allow: Vec<String>,
    /// Destination that it leaves out, whatever is allowed; may be given several times
    #[arg(long, value_name = "RULE", value_parser = destination, value_hint = ValueHint::Other)]
    deny: Vec<String>,
    /// Hours of the week in which it holds, as in 'Mon-Fri 09:00-17:00 +02:00'; several with commas
    #[arg(long, value_name = "HOURS", value_hint = ValueHint::Other)]
    hours: Option<Window>,
    /// Most devices that may accept it, with --mode many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64), value_hint = ValueHint::Other)]
    devices: Option<u32>,
}

impl ScopeArgs {
    /// The amounts.
    pub(super) fn limits(&self) -> Limits {
        Limits { bytes: self.bytes, bytes_per_day: self.bytes_per_day, bits_per_second: self.rate, streams: self.streams }
    }

    /// All the rest; `way` is the one way by which guests may come.
    pub(super) fn scope(&self, way: Option<Way>) -> Scope {
        Scope { allow: self.allow.clone(), deny: self.deny.clone(), window: self.hours.clone(), way, devices: self.devices, paused: false }
    }
}

/// A destination in its one spelling.
fn destination(text: &str) -> Result<String> {
    let rule = text.parse::<Pattern>()?.to_string();
    if rule.len() > crate::token::MAX_RULE {
        return Err(Error::new(Code::Usage, format!("a rule has at most {} letters", crate::token::MAX_RULE)).hint("shorten it with a *"));
    }
    Ok(rule)
}

/// What a grant allows beside its amounts, in words; none where it narrows nothing.
pub(super) fn rows(scope: &Scope) -> [(&'static str, String); 5] {
    [
        ("goes to", scope.allow.join(", ")),
        ("but not to", scope.deny.join(", ")),
        ("hours", scope.window.as_ref().map(Window::to_string).unwrap_or_default()),
        ("comes by", scope.way.map(|way| way.as_str().to_owned()).unwrap_or_default()),
        ("devices", scope.devices.map(|n| format!("at most {n}")).unwrap_or_default()),
    ]
}
