//! Words that two people compare: the same on both sides exactly if both see the same two keys.
//!
//! Somebody in between would need two keys of his own that give both sides the same words. With 80 bits that is a search
//! among 2^40 pairs; scrypt makes each candidate cost 32 MiB and a tenth of a second, which puts it out of reach.

use crate::error::{Code, Error, Result};
use std::fmt;
use subtle::ConstantTimeEq;

/// How many words: 80 bits.
pub const COUNT: usize = 10;

const LIST: &str = include_str!("words.txt");
const SALT: &[u8] = b"portdistrict v1 words";
/// 2^15 rounds of scrypt with blocks of 1 KiB: 32 MiB.
const LOG_ROUNDS: u8 = 15;
const BLOCK: u32 = 8;

/// Ten words out of 256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Words([u8; COUNT]);

impl Words {
    /// The words for two public keys, in whatever order.
    pub fn of(one: &[u8; 32], other: &[u8; 32]) -> Result<Words> {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let mut out = [0; COUNT];
        let failed = |what: String| Error::new(Code::Failed, "cannot compute the words to compare").because(what);
        let cost = scrypt::Params::new(LOG_ROUNDS, BLOCK, 1, COUNT).map_err(|error| failed(error.to_string()))?;
        scrypt::scrypt(&[*first, *second].concat(), SALT, &cost, &mut out).map_err(|error| failed(error.to_string()))?;
        Ok(Words(out))
    }

    /// Each word.
    pub fn list(self) -> Vec<&'static str> {
        self.0.iter().filter_map(|byte| LIST.lines().nth(usize::from(*byte))).collect()
    }

    /// In capitals, as a QR code's alphanumeric mode holds them.
    pub fn for_qr(self) -> String {
        self.to_string().to_uppercase()
    }

    /// Whether these are the words that somebody typed or scanned: case, order of line breaks, commas and hyphens do not matter.
    pub fn are(self, said: &str) -> bool {
        let said: Vec<String> = said.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
        said.join(" ").as_bytes().ct_eq(self.to_string().as_bytes()).into()
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list().join(" "))
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn both_sides_see_the_same_words_and_nobody_else_does() {
        let words = Words::of(&[1; 32], &[2; 32]).unwrap();
        assert_eq!(words, Words::of(&[2; 32], &[1; 32]).unwrap());
        assert_ne!(words, Words::of(&[1; 32], &[3; 32]).unwrap());
        assert_eq!(words.list().len(), COUNT);
        let document = include_str!("../../docs/protocol.md");
        assert!(document.contains(&words.to_string()), "docs/protocol.md lacks the vector: {words}");
    }

    #[test]
    fn words_are_compared_as_people_write_them() {
        let words = Words([0, 1, 2, 3, 4, 5, 6, 7, 8, 255]);
        assert!(words.are(&words.to_string()));
        assert!(words.are(&format!("  {}\n", words.to_string().to_uppercase().replace(' ', ",\n - "))));
        assert!(words.are(&words.for_qr()));
        let short = words.list()[..9].join(" ");
        assert!(!words.are(&short) && !words.are("") && !words.are(&format!("{words} acorn")));
        assert!(!words.are(&Words([0, 1, 2, 3, 4, 5, 6, 7, 8, 254]).to_string()));
    }

    /// What one says must not be heard as another: no two begin with the same three letters, or differ in two letters only.
    #[test]
    fn the_list_holds_256_words_that_sound_different() {
        let list: Vec<&str> = LIST.lines().collect();
        assert_eq!(list.len(), 256);
        assert!(list.iter().all(|word| (4..=9).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase())));
        assert_eq!(list.iter().map(|word| &word[..3]).collect::<HashSet<_>>().len(), 256);
        for (n, one) in list.iter().enumerate() {
            assert!(list[..n].iter().all(|other| distance(one, other) > 2), "{one} sounds like another");
        }
    }

    fn distance(one: &str, other: &str) -> usize {
        let mut row: Vec<usize> = (0..=other.len()).collect();
        for (i, a) in one.bytes().enumerate() {
            let mut left = i + 1;
            for (j, b) in other.bytes().enumerate() {
                let next = (row[j + 1] + 1).min(left + 1).min(row[j] + usize::from(a != b));
                row[j] = left;
                left = next;
            }
            row[other.len()] = left;
        }
        row[other.len()]
    }
}
