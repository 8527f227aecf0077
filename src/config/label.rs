//! The name a person gives a machine, an exit or a friend.

use crate::error::{Code, Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// 1 to 32 of `a-z`, `0-9` and `-`, starting with a letter or digit: safe in paths, units, host names and JSON.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// The longest label.
const MAX_LABEL: usize = 32;

impl Label {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest name to what a person calls something: `Anna M.` becomes `anna-m`. None if no letter or digit is left.
    pub fn near(text: &str) -> Option<Label> {
        suggestion(text).and_then(|text| text.parse().ok())
    }
}

impl FromStr for Label {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            let shown: String = text.chars().take(40).collect();
            Err(Error::new(
                Code::Usage,
                format!("{shown:?} cannot be a name: {why}; use 1 to {MAX_LABEL} of a-z, 0-9 and -, starting with a letter or digit"),
            )
            .hint(match suggestion(text) {
                Some(better) => format!("for example `{better}`"),
                None => "for example `home`".to_owned(),
            }))
        };
        if text.is_empty() {
            return bad("it is empty".to_owned());
        }
        if let Some(odd) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return bad(format!("{odd:?} is not allowed"));
        }
        if text.len() > MAX_LABEL {
            return bad(format!("it has {} characters", text.len()));
        }
        if text.starts_with('-') {
            return bad("it starts with -".to_owned());
        }
        Ok(Label(text.to_owned()))
    }
}

/// The nearest allowed name, for the hint.
fn suggestion(text: &str) -> Option<String> {
    let mut out = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            _ if out.is_empty() || out.ends_with('-') => {}
            _ => out.push('-'),
        }
        if out.len() == MAX_LABEL {
            break;
        }
    }
    let out = out.trim_end_matches('-');
    (!out.is_empty()).then(|| out.to_owned())
}

impl TryFrom<String> for Label {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl AsRef<str> for Label {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_up_to_the_bound_and_not_one_more() {
        for good in ["a", "7", "home", "home-2", "a-", &"x".repeat(32)] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "Home", "a b", "ü", "a/b", "..", "a\n", "a_b", &"x".repeat(33)] {
            let error = bad.parse::<Label>().unwrap_err();
            assert_eq!(error.code(), Code::Usage);
            assert!(error.message().contains("cannot be a name"), "{error}");
        }
    }

    #[test]
    fn suggests_the_nearest_allowed_name() {
        assert_eq!("My Home!".parse::<Label>().unwrap_err().hint_text(), Some("for example `my-home`"));
        assert_eq!("  ".parse::<Label>().unwrap_err().hint_text(), Some("for example `home`"));
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<Label>("\"home\"").is_ok());
        assert!(serde_json::from_str::<Label>("\"../x\"").is_err());
    }
}
