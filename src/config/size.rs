//! Amounts of data and rates as people write and read them.

use crate::error::{Code, Error, Result};

/// Binary units for what is stored or moved.
const BINARY: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// Reads `500M`, `10G`, `1GiB` (powers of 1024) and `10GB` (powers of 1000), as coreutils do.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let bad = |why: &str| Error::new(Code::Usage, format!("{text:?} is not a size: {why}")).hint("write 500M, 10G, 1GiB or 10GB");
    let (number, unit) = split(text);
    let (step, letter): (u64, &str) = match unit {
        "" | "B" => (1, ""),
        _ if unit.ends_with("iB") => (1024, &unit[..unit.len() - 2]),
        _ if unit.ends_with('B') => (1000, &unit[..unit.len() - 1]),
        _ => (1024, unit),
    };
    let power = power(letter).filter(|power| *power > 0 || step == 1).ok_or_else(|| bad("units are K, M, G and T"))?;
    scaled(number, step, power).ok_or_else(|| bad("it needs a whole number that is not too large"))
}

/// Reads a rate in bits per second: `500K`, `20M`, `1G`, `20Mbit`, `20Mbit/s` (powers of 1000, as networks count).
pub fn parse_rate(text: &str) -> Result<u64> {
    let bad = |why: &str| {
        Error::new(Code::Usage, format!("{text:?} is not a rate: {why}")).hint("write 20M or 20Mbit/s for 20 megabits a second")
    };
    let (number, unit) = split(text);
    let letter = unit.strip_suffix("bit/s").or_else(|| unit.strip_suffix("bit")).unwrap_or(unit);
    let power = power(letter).ok_or_else(|| bad("units are K, M, G and T bits a second"))?;
    scaled(number, 1000, power).filter(|rate| *rate > 0).ok_or_else(|| bad("it needs a whole number above 0 that is not too large"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn power(letter: &str) -> Option<u32> {
    Some(match letter {
        "" => 0,
        "K" | "k" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return None,
    })
}

/// The product, as long as JSON and SQLite can carry it.
fn scaled(number: &str, step: u64, power: u32) -> Option<u64> {
    number.parse::<u64>().ok()?.checked_mul(step.checked_pow(power)?).filter(|n| *n < 1 << 53)
}

/// An amount in binary units: `512 B`, `1.5 KiB`, `10 GiB`.
pub fn bytes(n: u64) -> String {
    in_units(n, 1024.0, &BINARY)
}

/// A rate in bits a second, decimal as networks count: `20 Mbit/s`.
pub fn rate(bits_per_second: u64) -> String {
    in_units(bits_per_second, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

fn in_units(n: u64, step: f64, units: &[&str; 5]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // 0.95 of a step would be printed as a whole one after rounding, so it moves up before.
    while value >= step - 0.05 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let text = if unit == 0 || value >= 99.95 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_coreutils_read_them() {
        for (text, n) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("500M", 500 << 20),
            ("10G", 10 << 30),
            ("1GiB", 1 << 30),
            ("10GB", 10_000_000_000),
            ("1 KiB", 1024),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), n, "{text}");
        }
        for text in ["", "G", "-1G", "1.5G", "1X", "9007199254740992", "99999999T", "1iB", "10Gbit"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_decimal_bits() {
        for (text, n) in [("500K", 500_000), ("20M", 20_000_000), ("20Mbit", 20_000_000), ("1Gbit/s", 1_000_000_000)] {
            assert_eq!(parse_rate(text).unwrap(), n);
        }
        assert!(parse_rate("0").is_err());
        assert!(parse_rate("20MB").is_err());
        assert_eq!(rate(20_000_000), "20 Mbit/s");
    }

    #[test]
    fn amounts_read_well() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            ((1 << 20) - 1, "1 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }
}
