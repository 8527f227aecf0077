//! Stacked bars, one for each day, as a drawing and as a table of the same numbers.

use super::html::escape;
use crate::config::bytes;
use std::fmt::Write;

/// Series that are drawn apart; what is left is drawn together.
const APART: usize = 7;
/// The last colour, for what is drawn together.
const REST: usize = 7;
/// The drawing, in its own units: as wide as a small phone, so that its words can be read there.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 168.0;
/// What is thinner cannot be seen; it is in the table.
const THINNEST: f64 = 0.05;
/// Days between two dates below the drawing.
const DATE_EVERY: usize = 7;

/// What the numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Times,
}

impl Unit {
    pub(super) fn text(self, n: u64) -> String {
        match self {
            Unit::Bytes => bytes(n),
            Unit::Times => n.to_string(),
        }
    }

    /// The top of an axis on which `most` fits: 1, 2 or 5 of something round.
    fn ceiling(self, most: u64) -> u64 {
        let step: u64 = if self == Unit::Bytes { 1024 } else { 1000 };
        let units = std::iter::successors(Some(1u64), |unit| unit.checked_mul(step));
        let round = |unit: u64| [1, 2, 5, 10, 20, 50, 100, 200, 500].into_iter().filter_map(move |n| unit.checked_mul(n));
        units.flat_map(round).find(|top| *top >= most).unwrap_or(u64::MAX)
    }
}

/// Numbers of one kind, one for each day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) values: Vec<u64>,
}

impl Series {
    pub(super) fn total(&self) -> u64 {
        self.values.iter().copied().fold(0, u64::saturating_add)
    }
}

/// A plot: what is drawn, and how it is called.
pub(super) struct Plot<'a> {
    /// Told apart from the others on the page by this.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    pub(super) about: &'a str,
    pub(super) unit: Unit,
    /// The days' names, oldest first.
    pub(super) days: &'a [String],
    pub(super) series: Vec<Series>,
    /// How the rest is called when not every series has a colour of its own.
    pub(super) rest: &'a str,
}

/// A series with the number of its colour.
type Drawn = (usize, Series);

impl Plot<'_> {
    /// The plot as a section of the page.
    pub(super) fn html(&self) -> String {
        let drawn = self.drawn();
        let mut page = format!("<section>\n<h2>{}</h2>\n<p class=\"soft\">{}</p>\n", escape(self.title), escape(self.about));
        page += &self.svg(&drawn);
        page += "<ul class=\"key\">\n";
        for (color, series) in &drawn {
            let _ = writeln!(page, "<li><i class=\"c{color}\"></i>{} {}</li>", escape(&series.name), self.unit.text(series.total()));
        }
        page += "</ul>\n";
        page + &self.table(&drawn) + "</section>\n"
    }

    /// The largest first, the rest together.
    fn drawn(&self) -> Vec<Drawn> {
        let mut series: Vec<Series> = self.series.iter().filter(|series| series.total() > 0).cloned().collect();
        // `rest` may be among them already: what nobody could count apart.
        let (mut together, mut apart): (Vec<_>, Vec<_>) = series.drain(..).partition(|series| series.name == self.rest);
        apart.sort_by(|a, b| b.total().cmp(&a.total()).then_with(|| a.name.cmp(&b.name)));
        if apart.len() > APART {
            together.extend(apart.drain(APART..));
        }
        let mut drawn: Vec<Drawn> = apart.into_iter().enumerate().collect();
        if !together.is_empty() {
            let sum = |day| together.iter().map(|series| series.values[day]).fold(0, u64::saturating_add);
            drawn.push((REST, Series { name: self.rest.to_owned(), values: (0..self.days.len()).map(sum).collect() }));
        }
        drawn
    }

    fn sum(&self, drawn: &[Drawn], day: usize) -> u64 {
        drawn.iter().map(|(_, series)| series.values[day]).fold(0, u64::saturating_add)
    }

    fn svg(&self, drawn: &[Drawn]) -> String {
        let sums: Vec<u64> = (0..self.days.len()).map(|day| self.sum(drawn, day)).collect();
        let most = sums.iter().copied().max().unwrap_or(0);
        let top = self.unit.ceiling(most.max(1));
        let id = self.id;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\n<title id=\"{id}-t\">{}</title>\n\
             <desc id=\"{id}-d\">{}</desc>\n",
            escape(self.title),
            escape(&self.in_words(&sums, most))
        );
        self.axis(&mut svg, top);
        let slot = (WIDTH - LEFT - 2.0) / self.days.len().max(1) as f64;
        for (day, name) in self.days.iter().enumerate() {
            let x = LEFT + slot * day as f64;
            let _ = write!(svg, "<g><title>{}</title>", escape(&self.day_in_words(drawn, day)));
            let _ = write!(svg, "<rect class=\"hit\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{slot:.1}\" height=\"{:.0}\"/>", BOTTOM - TOP);
            let mut below = 0u64;
            for (color, series) in drawn.iter().filter(|(_, series)| series.values[day] > 0) {
                let height = |n: u64| n as f64 / top as f64 * (BOTTOM - TOP);
                let (from, to) = (height(below), height(below.saturating_add(series.values[day])));
                below = below.saturating_add(series.values[day]);
                let (y, tall, wide) = (BOTTOM - to, to - from, slot - 1.5);
                if tall < THINNEST {
                    continue;
                }
                let _ = write!(
                    svg,
                    "<rect class=\"bar c{color}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{tall:.1}\"/>",
                    x + 0.7
                );
            }
            svg += "</g>\n";
            if (self.days.len() - 1 - day).is_multiple_of(DATE_EVERY) {
                let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"end\">{}</text>", x + slot, BOTTOM + 14.0, escape(name));
            }
        }
        svg + "</svg>\n"
    }

    /// Lines across, with the numbers that they stand for.
    fn axis(&self, svg: &mut String, top: u64) {
        let middle = Some(top / 2).filter(|_| top.is_multiple_of(2));
        for n in [Some(0), middle, Some(top)].into_iter().flatten() {
            let y = BOTTOM - n as f64 / top as f64 * (BOTTOM - TOP);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 4.0,
                y + 3.0,
                self.unit.text(n)
            );
        }
    }

    fn in_words(&self, sums: &[u64], most: u64) -> String {
        let (Some(first), Some(last)) = (self.days.first(), self.days.last()) else { return String::new() };
        if most == 0 {
            return format!("Nothing from {first} to {last}.");
        }
        let on = sums.iter().position(|sum| *sum == most).map_or("", |day| &self.days[day]);
        format!(
            "Stacked bars, one for each day from {first} to {last}. Most on {on}: {}. The table below has the same numbers.",
            self.unit.text(most)
        )
    }

    fn day_in_words(&self, drawn: &[Drawn], day: usize) -> String {
        let parts = drawn.iter().filter(|(_, series)| series.values[day] > 0);
        let parts: Vec<_> = parts.map(|(_, series)| format!("\n{} {}", series.name, self.unit.text(series.values[day]))).collect();
        format!("{}: {}{}", self.days[day], self.unit.text(self.sum(drawn, day)), parts.concat())
    }

    /// The same numbers, newest day first. The roles keep it a table where the style makes lines of its cells.
    fn table(&self, drawn: &[Drawn]) -> String {
        let mut page = format!(
            "<details><summary>The numbers</summary>\n<table class=\"days\" role=\"table\"><caption>{}, by day</caption>\n\
             <thead role=\"rowgroup\"><tr role=\"row\"><th scope=\"col\" role=\"columnheader\">Day</th>",
            escape(self.title)
        );
        // Of one series the total says nothing new.
        let total = Some("total").filter(|_| drawn.len() != 1);
        let names = || drawn.iter().map(|(_, series)| series.name.as_str()).chain(total);
        for name in names() {
            let _ = write!(page, "<th scope=\"col\" role=\"columnheader\">{}</th>", escape(name));
        }
        page += "</tr></thead>\n<tbody role=\"rowgroup\">\n";
        for (day, date) in self.days.iter().enumerate().rev() {
            let _ = write!(page, "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\">{}</th>", escape(date));
            let values = drawn.iter().map(|(_, series)| series.values[day]);
            for (name, n) in names().zip(values.chain([self.sum(drawn, day)])) {
                let empty = if n == 0 && name != "total" { " class=\"z\"" } else { "" };
                let _ = write!(page, "<td role=\"cell\"{empty} data-s=\"{}\">{}</td>", escape(name), self.unit.text(n));
            }
            page += "</tr>\n";
        }
        page + "</tbody></table></details>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_something_round() {
        for (most, top) in [(1, 1), (3, 5), (700, 1000), (1001, 2000), (u64::MAX, u64::MAX)] {
            assert_eq!(Unit::Times.ceiling(most), top);
        }
        for (most, top) in [(1025, 2048), (600 << 20, 1 << 30), ((1 << 30) + 1, 2 << 30)] {
            assert_eq!(Unit::Bytes.ceiling(most), top);
        }
    }

    #[test]
    fn the_largest_have_a_colour_and_the_rest_is_one() {
        let days = ["a".to_owned(), "b".to_owned()];
        let series = |n: u64| Series { name: format!("n{n}"), values: vec![n, 0] };
        let mut all: Vec<Series> = (0..20).map(series).collect();
        all.push(Series { name: "others".to_owned(), values: vec![u64::MAX, 1] });
        let plot = Plot { id: "p", title: "t", about: "", unit: Unit::Times, days: &days, series: all, rest: "others" };
        let drawn = plot.drawn();
        assert_eq!((drawn.len(), drawn[0].1.name.as_str(), drawn[0].0), (APART + 1, "n19", 0));
        assert_eq!((drawn[APART].0, &drawn[APART].1.values), (REST, &vec![u64::MAX, 1]));
        assert_eq!(plot.sum(&drawn, 0), u64::MAX);
    }
}
