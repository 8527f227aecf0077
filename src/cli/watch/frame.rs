//! How the live view looks: a picture in, lines out that fit a window of any size.

use super::super::output::{Look, clean};
use super::trend::bars;
use textwrap::core::display_width;

/// Columns between two columns of a table.
const GAP: usize = 2;
/// A row of bars that is shorter says nothing.
const FEWEST_BARS: usize = 6;
const MOST_BARS: usize = 40;

/// How a piece of text is painted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ink {
    #[default]
    Plain,
    Bold,
    Good,
    Warn,
    Bad,
    Dim,
}

/// A piece of text, painted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Piece(pub(super) Ink, pub(super) String);

impl Piece {
    pub(super) fn plain(text: impl Into<String>) -> Piece {
        Piece(Ink::Plain, text.into())
    }
}

/// Everything that is on the screen.
#[derive(Default)]
pub(super) struct Picture {
    /// What stands at the top left.
    pub(super) title: String,
    /// What stands at the top right: the first of these that fits.
    pub(super) notes: Vec<String>,
    pub(super) machines: Vec<MachineRow>,
    pub(super) friends: Vec<FriendRow>,
    /// What needs attention, and the command.
    pub(super) alerts: Vec<(String, String)>,
    /// The last entries of the ledger, oldest first: when, and what.
    pub(super) entries: Vec<(String, String)>,
}

/// A machine's line.
#[derive(Clone, Default)]
pub(super) struct MachineRow {
    pub(super) label: String,
    pub(super) state: Piece,
    pub(super) sessions: String,
    pub(super) streams: String,
    pub(super) up: String,
    pub(super) down: String,
    /// Bits a second, the newest last.
    pub(super) samples: Vec<u64>,
}

/// The line of a friend who is on.
#[derive(Clone, Default)]
pub(super) struct FriendRow {
    pub(super) name: String,
    pub(super) machine: String,
    pub(super) up: String,
    pub(super) down: String,
    pub(super) since: String,
}

/// The lines of the picture: at most `rows`, none wider than `columns`.
pub(super) fn frame(picture: &Picture, (columns, rows): (usize, usize), look: &Look) -> Vec<String> {
    let mut lines = vec![head(&picture.title, &picture.notes, columns)];
    let mut parts = [
        Part::new("MACHINES", machine_table(&picture.machines, columns), [4, 2, 2, 1, 0]),
        Part::new("ON NOW", friend_table(&picture.friends, columns), [3, 2, 1, 0, 0]),
        Part::new("ATTENTION", alerts(&picture.alerts), [4, 4, 2, 2, 0]),
        Part::new("LEDGER", entries(&picture.entries), [3, 0, 0, 0, 0]).newest_last(),
    ];
    let gaps = share(&mut parts, rows.saturating_sub(1));
    for part in &parts {
        let shown = part.lines();
        if gaps && !shown.is_empty() {
            lines.push(Vec::new());
        }
        lines.extend(shown);
    }
    lines.truncate(rows);
    lines.iter().map(|line| paint(line, columns, look)).collect()
}

type Line = Vec<Piece>;

/// A titled part of the screen and how many of its rows are shown.
struct Part {
    title: &'static str,
    rows: Vec<Line>,
    shown: usize,
    /// Rows below which it does not go, as room gets scarcer.
    least: [usize; 5],
    newest_last: bool,
}

impl Part {
    fn new(title: &'static str, rows: Vec<Line>, least: [usize; 5]) -> Part {
        Part { title, shown: rows.len(), rows, least, newest_last: false }
    }

    fn newest_last(mut self) -> Part {
        self.newest_last = true;
        self
    }

    fn height(&self) -> usize {
        if self.shown == 0 { 0 } else { self.shown + 1 }
    }

    /// The title and as many rows as there is room for; the last one tells how many there are more.
    fn lines(&self) -> Vec<Line> {
        if self.shown == 0 {
            return Vec::new();
        }
        let title = vec![Piece(Ink::Dim, self.title.to_owned())];
        let hidden = self.rows.len() - self.shown;
        let rows: Vec<Line> = match (hidden, self.newest_last) {
            (0, _) => self.rows.clone(),
            (_, true) => self.rows[hidden..].to_vec(),
            (_, false) => {
                let more = vec![Piece(Ink::Dim, format!("… {} more lines", hidden + 1))];
                self.rows[..self.shown - 1].iter().cloned().chain([more]).collect()
            }
        };
        std::iter::once(title).chain(rows).collect()
    }
}

/// Gives each part its share of the room; whether there is room for an empty line before each, too.
fn share(parts: &mut [Part], room: usize) -> bool {
    let height = |parts: &[Part]| parts.iter().map(Part::height).sum::<usize>();
    let titles = |parts: &[Part]| parts.iter().filter(|part| part.shown > 0).count();
    for step in 0..5 {
        let gaps = usize::from(step == 0);
        while height(parts) + gaps * titles(parts) > room {
            let surplus = |part: &Part| part.shown.saturating_sub(part.least[step]);
            let Some(largest) = parts.iter_mut().rev().max_by_key(|part| surplus(part)).filter(|part| surplus(part) > 0) else { break };
            largest.shown -= 1;
        }
        if height(parts) + gaps * titles(parts) <= room {
            return gaps > 0;
        }
    }
    false
}

/// What stands at the left, and as much at the right as there is room for.
fn head(left: &str, right: &[String], columns: usize) -> Line {
    let room = |right: &String| columns.saturating_sub(display_width(left) + display_width(right));
    let left_piece = Piece(Ink::Bold, left.to_owned());
    match right.iter().find(|right| room(right) >= GAP) {
        Some(right) => vec![left_piece, Piece::plain(" ".repeat(room(right))), Piece(Ink::Dim, right.clone())],
        None => vec![left_piece],
    }
}

/// A column of a table: its cells, and when it goes.
struct Column {
    cells: Vec<Piece>,
    right: bool,
    /// The highest goes first; 0 stays.
    expendable: u8,
}

impl Column {
    fn new(cells: impl IntoIterator<Item = Piece>) -> Column {
        Column { cells: cells.into_iter().collect(), right: false, expendable: 0 }
    }

    fn right(mut self) -> Column {
        self.right = true;
        self
    }

    fn goes(mut self, expendable: u8) -> Column {
        self.expendable = expendable;
        self
    }

    fn width(&self) -> usize {
        self.cells.iter().map(|Piece(_, text)| display_width(&clean(text))).max().unwrap_or(0)
    }
}

fn machine_table(machines: &[MachineRow], columns: usize) -> Vec<Line> {
    if machines.is_empty() {
        return vec![vec![Piece(Ink::Dim, "none yet".to_owned())]];
    }
    let column = |of: fn(&MachineRow) -> &String| Column::new(machines.iter().map(of).cloned().map(Piece::plain)).right();
    let table = fit(
        vec![
            Column::new(machines.iter().map(|m| Piece(Ink::Bold, m.label.clone()))),
            Column::new(machines.iter().map(|m| m.state.clone())),
            column(|m| &m.sessions).goes(1),
            column(|m| &m.streams).goes(3),
            column(|m| &m.up).goes(2),
            column(|m| &m.down),
        ],
        columns,
    );
    let width = table.iter().map(width).max().unwrap_or(0);
    let room = columns.saturating_sub(width + GAP);
    let drawn = |(mut line, machine): (Line, &MachineRow)| {
        if room >= FEWEST_BARS {
            line.push(Piece::plain(" ".repeat(GAP)));
            line.push(Piece(Ink::Good, bars(&machine.samples, room.min(MOST_BARS))));
        }
        line
    };
    table.into_iter().zip(machines).map(drawn).collect()
}

fn friend_table(friends: &[FriendRow], columns: usize) -> Vec<Line> {
    if friends.is_empty() {
        return vec![vec![Piece(Ink::Dim, "nobody".to_owned())]];
    }
    let column = |of: fn(&FriendRow) -> String| Column::new(friends.iter().map(of).map(Piece::plain));
    fit(
        vec![
            Column::new(friends.iter().map(|f| Piece(Ink::Bold, f.name.clone()))),
            column(|f| f.machine.clone()).goes(3),
            column(|f| f.up.clone()).right().goes(1),
            column(|f| f.down.clone()).right(),
            column(|f| f.since.clone()).goes(2),
        ],
        columns,
    )
}

fn alerts(alerts: &[(String, String)]) -> Vec<Line> {
    if alerts.is_empty() {
        return vec![vec![Piece(Ink::Good, "nothing needs it".to_owned())]];
    }
    let lines = |(what, command): &(String, String)| [vec![Piece(Ink::Warn, what.clone())], vec![Piece(Ink::Dim, format!("  {command}"))]];
    alerts.iter().flat_map(lines).collect()
}

fn entries(entries: &[(String, String)]) -> Vec<Line> {
    entries.iter().map(|(when, what)| vec![Piece(Ink::Dim, format!("{when}  ")), Piece::plain(what.clone())]).collect()
}

/// The columns as lines; those that can be spared go until the others fit.
fn fit(mut columns: Vec<Column>, room: usize) -> Vec<Line> {
    let total = |columns: &[Column]| columns.iter().map(|column| column.width() + GAP).sum::<usize>().saturating_sub(GAP);
    while total(&columns) > room {
        let Some((at, _)) = columns.iter().enumerate().filter(|(_, c)| c.expendable > 0).max_by_key(|(_, c)| c.expendable) else { break };
        columns.remove(at);
    }
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let widths: Vec<usize> = columns.iter().map(Column::width).collect();
    let cell = |n: usize, row: usize| {
        let column = &columns[n];
        let Piece(ink, text) = &column.cells[row];
        let pad = " ".repeat(widths[n] - display_width(&clean(text)));
        if column.right { [Piece::plain(pad), Piece(*ink, text.clone())] } else { [Piece(*ink, text.clone()), Piece::plain(pad)] }
    };
    let line = |row: usize| {
        let mut line = Line::new();
        for n in 0..columns.len() {
            if n > 0 {
                line.push(Piece::plain(" ".repeat(GAP)));
            }
            line.extend(cell(n, row));
        }
        line
    };
    (0..rows).map(line).collect()
}

fn width(line: &Line) -> usize {
    line.iter().map(|Piece(_, text)| display_width(&clean(text))).sum()
}

/// A line in colour, cut where the window ends. What others wrote is harmless.
fn paint(line: &Line, columns: usize, look: &Look) -> String {
    let mut room = columns;
    let too_wide = width(line) > columns;
    let mut painted = String::new();
    for Piece(ink, text) in line {
        // One column is kept for the sign that something is missing.
        let text = cut(&clean(text).replace('\n', " "), room.saturating_sub(usize::from(too_wide)));
        room -= display_width(&text);
        painted += &match ink {
            _ if text.trim().is_empty() => text,
            Ink::Plain => text,
            Ink::Bold => look.bold(text),
            Ink::Good => look.good(text),
            Ink::Warn => look.warn(text),
            Ink::Bad => look.bad(text),
            Ink::Dim => look.dim(text),
        };
    }
    if too_wide && room > 0 {
        painted.push('…');
    }
    painted.truncate(painted.trim_end().len());
    painted
}

/// As much of a text as fits.
fn cut(text: &str, room: usize) -> String {
    let mut left = room;
    text.chars()
        .take_while(|c| {
            let width = display_width(c.encode_utf8(&mut [0; 4]));
            let fits = width <= left;
            left = left.saturating_sub(width);
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(machines: usize, friends: usize, alerts: usize, entries: usize) -> Picture {
        let machine = |n: usize| MachineRow {
            label: format!("machine-{n}"),
            state: Piece(Ink::Good, "running".to_owned()),
            sessions: "2 on".to_owned(),
            streams: "17 streams".to_owned(),
            up: "1.2 Mbit/s up".to_owned(),
            down: "20 Mbit/s down".to_owned(),
            samples: vec![0, 5, 10],
        };
        let friend = |n: usize| FriendRow {
            name: format!("friend-{n}"),
            machine: "home".to_owned(),
            up: "1 kbit/s up".to_owned(),
            down: "2 kbit/s down".to_owned(),
            since: "14:03:00".to_owned(),
        };
        Picture {
            title: "portdistrict".to_owned(),
            notes: vec!["14:03:12  q quits".to_owned(), "q quits".to_owned()],
            machines: (0..machines).map(machine).collect(),
            friends: (0..friends).map(friend).collect(),
            alerts: (0..alerts).map(|n| (format!("alert {n}"), format!("portdistrict grant show {n}"))).collect(),
            entries: (0..entries).map(|n| ("14:00:00".to_owned(), format!("grant.issued {n}"))).collect(),
        }
    }

    fn plain(picture: &Picture, size: (usize, usize)) -> String {
        frame(picture, size, &Look::PLAIN).join("\n")
    }

    #[test]
    fn no_window_is_too_small_and_no_picture_too_large() {
        for counts in [(0, 0, 0, 0), (1, 0, 1, 9), (3, 2, 1, 50), (200, 300, 40, 9)] {
            let picture = picture(counts.0, counts.1, counts.2, counts.3);
            for columns in [1, 2, 5, 10, 20, 40, 60, 80, 200] {
                for rows in [1, 2, 3, 5, 10, 20, 24, 60] {
                    let lines = frame(&picture, (columns, rows), &Look::PLAIN);
                    assert!(lines.len() <= rows, "{} lines in {columns}×{rows}", lines.len());
                    assert!(lines.iter().all(|line| display_width(line) <= columns), "{columns}×{rows}: {lines:?}");
                }
            }
        }
    }

    #[test]
    fn everything_is_there_where_there_is_room() {
        let text = plain(&picture(2, 1, 1, 3), (80, 24));
        for word in [
            "q quits",
            "machine-1",
            "running",
            "17 streams",
            "20 Mbit/s down",
            "▅█",
            "friend-0",
            "alert 0",
            "grant show 0",
            "grant.issued 0",
        ] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        assert_eq!(text.lines().next().map(display_width), Some(80));
        let text = plain(&picture(0, 0, 0, 0), (80, 24));
        assert!(
            text.contains("none yet") && text.contains("nobody") && text.contains("nothing needs it") && !text.contains("LEDGER"),
            "{text}"
        );
    }

    #[test]
    fn what_needs_attention_is_the_last_to_go() {
        let text = plain(&picture(50, 50, 2, 50), (40, 20));
        for word in ["machine-0", "friend-0", "more lines", "alert 0", "grant show 1"] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        let text = plain(&picture(50, 50, 2, 50), (40, 6));
        assert!(text.contains("alert 0"), "{text}");
    }

    #[test]
    fn the_newest_entries_are_shown() {
        let text = plain(&picture(1, 0, 0, 50), (80, 24));
        assert!(text.ends_with("grant.issued 49") && !text.contains("grant.issued 3\n"), "{text}");
    }

    #[test]
    fn what_others_wrote_stays_in_its_place() {
        let mut picture = picture(1, 0, 0, 0);
        picture.alerts.push(("the onion service says \u{1b}[2J\r\n\u{9b}H \u{4f60}\u{597d} ".repeat(9), String::new()));
        picture.machines[0].label = "\u{4f60}".repeat(30);
        for columns in 1..90 {
            for line in frame(&picture, (columns, 24), &Look::PLAIN) {
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert!(display_width(&line) <= columns, "{columns}: {line:?}");
            }
        }
    }
}
