//! A blob on the command line: the text itself, or where it is read from, so that a secret need not stand in the shell's history.

use crate::config::Label;
use crate::error::{Code, Doing, Error, Result};
use std::convert::Infallible;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Far more than a chat program can wrap around an invite; the reader of blobs has its own, smaller limit.
const LIMIT: u64 = 2 * 1024 * 1024;

/// Where the text of a blob is.
#[derive(Clone)]
pub(super) enum Text {
    /// Here.
    Given(Zeroizing<String>),
    /// On standard input.
    Stdin,
    /// In a file.
    File(PathBuf),
}

/// Without the text: it may hold a secret.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Given(_) => f.write_str("Given(…)"),
            Text::Stdin => f.write_str("Stdin"),
            Text::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

impl FromStr for Text {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Text, Infallible> {
        Ok(match text.strip_prefix('@') {
            Some(path) => Text::File(path.into()),
            None if text == "-" => Text::Stdin,
            None => Text::Given(Zeroizing::new(text.to_owned())),
        })
    }
}

impl Text {
    /// The text as a name, where a command takes either; no blob looks like one.
    pub(super) fn as_label(&self) -> Option<Label> {
        match self {
            Text::Given(text) => text.parse().ok(),
            Text::Stdin | Text::File(_) => None,
        }
    }

    /// The text, from wherever it is.
    pub(super) fn read(&self) -> Result<Zeroizing<String>> {
        match self {
            Text::Given(text) => Ok(text.clone()),
            Text::Stdin => limited(std::io::stdin().lock(), "standard input"),
            Text::File(path) => {
                let shown = path.display().to_string();
                limited(std::fs::File::open(path).doing("read", &shown)?, &shown)
            }
        }
    }
}

fn limited(from: impl Read, name: &str) -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(LIMIT + 1).read_to_end(&mut bytes).doing("read", name)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::new(Code::BadBlob, format!("{name} is far too long for a blob")).hint("pass the one line that you were sent"));
    }
    Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_can_be_given_in_three_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("invite.txt");
        std::fs::write(&path, "portdistrict-invite1:abc\n").unwrap();
        let read = |text: &str| text.parse::<Text>().unwrap();
        assert_eq!(*read("portdistrict-invite1:abc").read().unwrap(), "portdistrict-invite1:abc");
        assert_eq!(*read(&format!("@{}", path.display())).read().unwrap(), "portdistrict-invite1:abc\n");
        assert!(matches!(read("-"), Text::Stdin));
        assert_eq!(read("@/nonexistent").read().unwrap_err().code(), Code::Io);
        assert!(!format!("{:?}", read("secret")).contains("secret"));
    }
}
