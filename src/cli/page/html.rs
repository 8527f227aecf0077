//! The page itself, from the data alone: no script, nothing loaded from anywhere, every text escaped.

use super::plot::{Plot, Series, Unit};
use crate::config::{bytes, time};
use crate::session::messages::Used;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
/// What a browser may do with it: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// Friends that have a line of their own in the totals.
const MOST_LINES: usize = 500;
/// How the series is called in which what is too small or too many is counted.
pub(super) const OTHERS: &str = "others";

/// What the page tells.
#[derive(Default)]
pub(super) struct Data {
    /// The owner's id.
    pub(super) owner: String,
    /// Unix seconds.
    pub(super) made: u64,
    /// The days' names, oldest first; every series has as many values.
    pub(super) days: Vec<String>,
    pub(super) machines: Vec<Machine>,
    /// Bytes of each friend, and in all.
    pub(super) friends: Vec<(Series, Used)>,
    pub(super) handshakes: Vec<u64>,
    /// Refusals by reason.
    pub(super) refusals: Vec<Series>,
    /// What needs attention, and the command.
    pub(super) attention: Vec<(String, String)>,
}

/// A machine's part.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) state: String,
    /// Its label, and its bytes.
    pub(super) bytes: Series,
    pub(super) sessions: u64,
    /// Why it could not be asked.
    pub(super) silent: Option<String>,
}

/// A text as HTML, in elements and in quoted attributes. What would be invisible or turn the line round is replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            '\n' => out.push('\n'),
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The whole page.
pub(super) fn render(data: &Data) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>portdistrict: the last {0} days</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>The last {0} days</h1>\n",
        data.days.len()
    );
    let _ = writeln!(
        page,
        "<p class=\"soft\">Exits of {}. Made {}. Days are those of UTC. Machines that were destroyed are not counted.</p>",
        escape(&data.owner),
        escape(&time::absolute(data.made))
    );
    page += &silent(data);
    page += &attention(data);
    page += &totals(data);
    for plot in plots(data) {
        page += &plot.html();
    }
    page += &machines(data);
    page += &friends(data);
    page + "</main>\n</body>\n</html>\n"
}

fn plots(data: &Data) -> [Plot<'_>; 4] {
    let plot = |id, title, about, unit, series, rest| Plot { id, title, about, unit, days: &data.days, series, rest };
    let machines = data.machines.iter().map(|machine| machine.bytes.clone()).collect();
    let friends = data.friends.iter().map(|(series, _)| series.clone()).collect();
    let handshakes = vec![Series { name: "handshakes".to_owned(), values: data.handshakes.clone() }];
    [
        plot("machines", "Bytes by machine", "In both directions, what guests sent and received.", Unit::Bytes, machines, OTHERS),
        plot("friends", "Bytes by friend", "The same bytes, by whom you lent to.", Unit::Bytes, friends, OTHERS),
        plot("handshakes", "Handshakes", "Guests that were answered, with a yes or a no.", Unit::Times, handshakes, OTHERS),
        plot(
            "refusals",
            "Refusals by reason",
            "Sessions and streams that were not let through.",
            Unit::Times,
            data.refusals.clone(),
            "other reasons",
        ),
    ]
}

/// Said first: what is missing in everything below.
fn silent(data: &Data) -> String {
    let silent: Vec<_> = data.machines.iter().filter_map(|machine| Some((&machine.bytes.name, machine.silent.as_ref()?))).collect();
    if silent.is_empty() {
        return String::new();
    }
    let mut page = "<section class=\"box\">\n<h2>Not in these numbers</h2>\n<ul>\n".to_owned();
    for (label, why) in silent {
        let _ = writeln!(page, "<li><b>{}</b> could not be asked: {}</li>", escape(label), escape(why));
    }
    page + "</ul>\n</section>\n"
}

fn attention(data: &Data) -> String {
    if data.attention.is_empty() {
        return "<p>Nothing needs attention.</p>\n".to_owned();
    }
    let mut page = "<section class=\"box\">\n<h2>Needs attention</h2>\n<ul>\n".to_owned();
    for (what, command) in &data.attention {
        let _ = writeln!(page, "<li>{}<br><code>{}</code></li>", escape(what), escape(command));
    }
    page + "</ul>\n</section>\n"
}

fn totals(data: &Data) -> String {
    let sum = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
    let active = data.friends.iter().filter(|(series, used)| series.name != OTHERS && *used != Used::default()).count();
    let rows = [
        ("moved", bytes(sum(&mut data.machines.iter().map(|machine| machine.bytes.total())))),
        ("friends", active.to_string()),
        ("sessions", sum(&mut data.machines.iter().map(|machine| machine.sessions)).to_string()),
        ("handshakes", sum(&mut data.handshakes.iter().copied()).to_string()),
        ("refusals", sum(&mut data.refusals.iter().map(Series::total)).to_string()),
    ];
    let row = |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escape(value));
    format!("<dl>\n{}</dl>\n", rows.iter().map(row).collect::<String>())
}

fn machines(data: &Data) -> String {
    let row = |m: &Machine| {
        let numbers = match m.silent {
            Some(_) => ["?".to_owned(), "?".to_owned()],
            None => [bytes(m.bytes.total()), m.sessions.to_string()],
        };
        [m.bytes.name.clone(), m.state.clone()].into_iter().chain(numbers).collect()
    };
    let rows: Vec<Vec<String>> = data.machines.iter().map(row).collect();
    table("Machines", &["machine", "state", "moved", "sessions"], &rows)
}

fn friends(data: &Data) -> String {
    let mut friends: Vec<_> = data.friends.iter().filter(|(_, used)| *used != Used::default()).collect();
    friends.sort_by(|(a, used_a), (b, used_b)| used_b.bytes().cmp(&used_a.bytes()).then_with(|| a.name.cmp(&b.name)));
    let cells = |name: String, used: &Used| vec![name, bytes(used.up), bytes(used.down), used.sessions.to_string()];
    let mut rows: Vec<_> = friends.iter().take(MOST_LINES).map(|(series, used)| cells(series.name.clone(), used)).collect();
    if friends.len() > MOST_LINES {
        let mut rest = Used::default();
        friends[MOST_LINES..].iter().for_each(|(_, used)| rest.add(*used));
        rows.push(cells(format!("and {} more", friends.len() - MOST_LINES), &rest));
    }
    table("Friends", &["friend", "up", "down", "sessions"], &rows)
}

/// A table of totals; nothing at all if it has no rows.
fn table(title: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: String = head.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let mut page = format!("<section>\n<h2>{title}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for row in rows {
        let mut cells = row.iter();
        let name = cells.next().map(|name| escape(name)).unwrap_or_default();
        let rest: String = cells.map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(page, "<tr><th scope=\"row\">{name}</th>{rest}</tr>");
    }
    page + "</tbody>\n</table>\n</section>\n"
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
