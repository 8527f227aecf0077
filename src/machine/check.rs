//! One finding of a doctor: what was looked at, how it is, and what mends it.

use crate::error::Error;
use serde::Serialize;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Pass,
    /// Not as it must be.
    Fail,
    /// Could not be looked at, or does not apply here.
    Skip,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
    /// What to do about it; a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    /// All well.
    pub fn pass(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), outcome: Outcome::Pass, detail: detail.into(), remedy: None }
    }

    /// Not well, and what mends it.
    pub fn fail(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name: name.to_owned(), outcome: Outcome::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// Not looked at, and why.
    pub fn skip(name: &str, why: impl Into<String>) -> Check {
        Check { name: name.to_owned(), outcome: Outcome::Skip, detail: why.into(), remedy: None }
    }

    /// An error as a finding; its hint is the remedy.
    pub fn failed(name: &str, error: &Error) -> Check {
        let detail = std::iter::once(error.message()).chain(error.causes().iter().map(String::as_str)).collect::<Vec<_>>().join(": ");
        Check { name: name.to_owned(), outcome: Outcome::Fail, detail, remedy: error.hint_text().map(str::to_owned) }
    }
}
