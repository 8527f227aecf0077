//! Blobs: `portdistrict-TYPE1:` and base64url, the form in which signed things travel through chats and mails.
//!
//! Inside the base64url stand the length, a checksum and the CBOR. With them the reader knows where a blob ends among
//! other words, and can tell one that was cut short from one in which a letter changed. That is against accidents
//! alone; against people there are signatures.

use super::base45;
use crate::encoding::cbor::CborError;
use crate::error::{Code, Error};
use data_encoding::BASE64URL_NOPAD;
use std::fmt;

/// The largest content of a blob.
pub const MAX_CONTENT: usize = 4096;
/// The longest text in which a blob is looked for; more is refused unread.
pub const MAX_TEXT: usize = 64 * 1024;

const START: &str = "portdistrict-";
const VERSION: &str = "1";
/// Length (2 bytes, big-endian), a check of the length (1 byte) and a checksum (3 bytes) in front of the content.
const HEAD: usize = 6;
/// The letters in which the length and its check stand, and nothing else.
const LENGTH_LETTERS: usize = 4;

/// What a blob holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Somebody's public keys.
    Identity,
    /// Everything that is needed to use an exit.
    Invite,
    /// A grant for somebody whose keys are known.
    Grant,
    /// The secret of an identity, for a backup.
    Secret,
    /// A one-time code with which a device joins.
    Code,
    /// A device's answer to a code.
    Answer,
    /// What an approved device is given, sealed to it.
    Welcome,
    /// Something sealed to one identity.
    Sealed,
}

impl Type {
    /// Every type.
    pub const ALL: [Type; 8] =
        [Type::Identity, Type::Invite, Type::Grant, Type::Secret, Type::Code, Type::Answer, Type::Welcome, Type::Sealed];

    /// The word in the blob.
    pub fn as_str(self) -> &'static str {
        match self {
            Type::Identity => "identity",
            Type::Invite => "invite",
            Type::Grant => "grant",
            Type::Secret => "secret",
            Type::Code => "code",
            Type::Answer => "answer",
            Type::Welcome => "welcome",
            Type::Sealed => "sealed",
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Type::Identity => "an identity",
            Type::Invite => "an invite",
            Type::Grant => "a grant",
            Type::Secret => "the secret of an identity",
            Type::Code => "a code for a new device",
            Type::Answer => "the answer of a new device",
            Type::Welcome => "the welcome of a new device",
            Type::Sealed => "a sealed invite",
        }
    }

    /// The command that takes it.
    fn command(self) -> &'static str {
        match self {
            Type::Identity => "portdistrict identity verify",
            Type::Invite => "portdistrict exit try",
            Type::Grant | Type::Sealed => "portdistrict exit accept",
            Type::Secret => "portdistrict identity import",
            Type::Code => "portdistrict device init --code",
            Type::Answer => "portdistrict device approve",
            Type::Welcome => "portdistrict device accept",
        }
    }
}

/// Why a text gave no blob. Each case has its own sentence and remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Nothing but white space.
    #[error("the text is empty")]
    Empty,
    /// Longer than anything a person pastes.
    #[error("the text is {0} bytes long, far more than a blob and the words around it")]
    TooLong(usize),
    /// No blob in it.
    #[error("there is no portdistrict blob in this text")]
    NotABlob,
    /// The end is missing.
    #[error("this {0} is cut short: the end is missing")]
    Truncated(Kind),
    /// As long as it should be, or longer, but not what was sent.
    #[error("this {0} is damaged: a letter was changed, added or lost on the way")]
    Damaged(Kind),
    /// More than one.
    #[error("there are {0} different blobs in this text, and only one can be used at a time")]
    Several(usize),
    /// Of another version.
    #[error("this {0} is of version {1}; this program reads version 1")]
    OtherVersion(Kind, String),
    /// Of a type that this version does not know.
    #[error("this is a blob of type {0:?}, which this version does not know")]
    UnknownType(String),
    /// Of a known type, but not the one that is needed here.
    #[error("this is {}, and {} is needed here", .found.with_article(), Expected(.expected))]
    WrongType {
        /// What it is.
        found: Type,
        /// What would do.
        expected: Vec<Type>,
    },
    /// The invite leads over a network that this version does not know.
    #[error("this invite leads over a transport (number {0}) that this version does not know")]
    UnknownTransport(u64),
    /// It came through whole, but what it says has no meaning to this version.
    #[error("this blob came through whole, but cannot be understood")]
    Content(#[from] CborError),
    /// It came through whole, but its issuer never signed it.
    #[error("the signature is not its issuer's: somebody other than the owner made or changed it")]
    Signature,
}

/// What the broken thing says it is; the first word may be all that is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(Option<Type>);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.map_or("blob", Type::as_str))
    }
}

struct Expected<'a>(&'a [Type]);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|t| t.with_article()).collect();
        f.write_str(&names.join(" or "))
    }
}

impl BlobError {
    /// A short stable name, for tests and for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            BlobError::Empty => "empty",
            BlobError::TooLong(_) => "too-long",
            BlobError::NotABlob => "not-a-blob",
            BlobError::Truncated(_) => "truncated",
            BlobError::Damaged(_) => "damaged",
            BlobError::Several(_) => "several",
            BlobError::OtherVersion(..) => "other-version",
            BlobError::UnknownType(_) => "unknown-type",
            BlobError::WrongType { .. } => "wrong-type",
            BlobError::UnknownTransport(_) => "unknown-transport",
            BlobError::Content(_) => "content",
            BlobError::Signature => "signature",
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        const UPGRADE: &str = concat!("it was made by a newer portdistrict; upgrade yours, which is ", env!("CARGO_PKG_VERSION"));
        match self {
            BlobError::Empty => "paste the whole line that starts with `portdistrict-`, in single quotes".to_owned(),
            BlobError::TooLong(_) => "give only the line that starts with `portdistrict-`".to_owned(),
            BlobError::NotABlob => "copy the whole line that starts with `portdistrict-`, as it was sent".to_owned(),
            BlobError::Truncated(_) => "copy it again to the very end; chat programs like to hide the rest behind «more»".to_owned(),
            BlobError::Damaged(_) => "copy it again instead of typing it; if it stays so, ask for it as a QR code or a file".to_owned(),
            BlobError::Several(_) => "run the command once for each of them".to_owned(),
            BlobError::WrongType { found, .. } => format!("use `{} 'portdistrict-{}1:…'`", found.command(), found.as_str()),
            BlobError::OtherVersion(..) | BlobError::UnknownType(_) | BlobError::UnknownTransport(_) => UPGRADE.to_owned(),
            BlobError::Content(CborError::Unknown(_)) => UPGRADE.to_owned(),
            BlobError::Content(_) => "ask for a new one, and say which version of portdistrict made this one".to_owned(),
            BlobError::Signature => "do not use it; ask the owner, over another channel, for a new one".to_owned(),
        }
    }
}

impl From<BlobError> for Error {
    fn from(error: BlobError) -> Error {
        let out = Error::new(Code::BadBlob, error.to_string()).hint(error.remedy());
        match error {
            BlobError::Content(cause) => out.cause(cause),
            _ => out,
        }
    }
}

/// Writes a blob for chats and mails. `content` is what a token type encoded, at most [`MAX_CONTENT`] bytes.
pub fn encode(typ: Type, content: &[u8]) -> String {
    format!("{START}{}{VERSION}:{}", typ.as_str(), BASE64URL_NOPAD.encode(&framed(typ, content)))
}

/// Writes the same bytes for a QR code: capitals and base45, so that its alphanumeric mode holds it.
pub fn encode_for_qr(typ: Type, content: &[u8]) -> String {
    format!("{START}{}{VERSION}:", typ.as_str()).to_uppercase() + &base45::encode(&framed(typ, content))
}

/// Finds the one blob in a text and gives back its content.
///
/// ```
/// use portdistrict::token::blob::{self, Type};
/// let line = blob::encode(Type::Grant, b"content");
/// let quoted = format!("> here you are:\n> `{}\n> {}`, have fun", &line[..25], &line[25..]);
/// assert_eq!(blob::read(Type::Grant, &quoted).unwrap(), b"content");
/// assert!(blob::read(Type::Invite, &line).unwrap_err().to_string().starts_with("this is a grant"));
/// ```
pub fn read(expected: Type, text: &str) -> Result<Vec<u8>, BlobError> {
    read_one_of(&[expected], text).map(|(_, content)| content)
}

/// As [`read`], for commands that take more than one type.
pub fn read_one_of(expected: &[Type], text: &str) -> Result<(Type, Vec<u8>), BlobError> {
    if text.len() > MAX_TEXT {
        return Err(BlobError::TooLong(text.len()));
    }
    let letters = letters(text);
    if letters.is_empty() {
        return Err(BlobError::Empty);
    }
    let mut found = Vec::new();
    let mut starts = starts(&letters);
    // A first word cut off at the end counts only where there is nothing better.
    if starts.len() > 1 {
        starts.retain(|start| start.body.is_some());
    }
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).map_or(letters.len(), |next| next.at);
        let blob = read_at(start, expected, &letters[..end], text);
        // The same line twice, as a quoted answer has it, is still one blob.
        if !found.contains(&blob) {
            found.push(blob);
        }
    }
    match found.len() {
        0 => Err(BlobError::NotABlob),
        1 => found.remove(0),
        n => Err(BlobError::Several(n)),
    }
}

fn framed(typ: Type, content: &[u8]) -> Vec<u8> {
    assert!(content.len() <= MAX_CONTENT, "every token type has a limit below that of blobs");
    [&length_field(content.len())[..], &checksum(typ, content), content].concat()
}

/// The check byte is such that no change of one base64 letter leaves it right, so a changed length is never taken for
/// a missing end. The first letter is `A` for every length in use: no chat program turns `:A` into a face.
fn length_field(length: usize) -> [u8; 3] {
    let [high, low] = (length as u16).to_be_bytes();
    [high, low, low ^ high.rotate_left(2)]
}

/// The length of the content; `None` if it is none that is ever written.
fn declared(head: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*head.first()?, *head.get(1)?]));
    (length <= MAX_CONTENT && head.get(..3)? == length_field(length)).then_some(length)
}

fn checksum(typ: Type, content: &[u8]) -> [u8; 3] {
    let mut hasher = blake3::Hasher::new_derive_key("portdistrict v1 blob-checksum");
    hasher.update(typ.as_str().as_bytes()).update(b"\n").update(content);
    let hash = hasher.finalize();
    std::array::from_fn(|i| hash.as_bytes()[i])
}

/// One character that counts, with what the reader dropped before it.
#[derive(Clone, Copy)]
struct Letter {
    c: char,
    /// White space, quoting or invisible characters stood before it.
    gap: bool,
    /// Where it stands in the text.
    offset: usize,
}

/// Characters that programs and people put into a blob on its way and that mean nothing.
fn is_noise(c: char) -> bool {
    c.is_whitespace() || c.is_control() || is_invisible(c) || matches!(c, '>' | '`')
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn is_dash(c: char) -> bool {
    matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}')
}

fn letters(text: &str) -> Vec<Letter> {
    let mut gap = false;
    let mut out = Vec::with_capacity(text.len());
    for (offset, c) in text.char_indices() {
        if is_noise(c) {
            gap = true;
        } else {
            out.push(Letter { c, gap, offset });
            gap = false;
        }
    }
    out
}

/// Where a blob begins, and what its first word says.
struct Start {
    at: usize,
    /// The first letter after the colon; `None` if the text ends before it.
    body: Option<usize>,
    name: String,
    version: String,
    capitals: bool,
}

fn starts(letters: &[Letter]) -> Vec<Start> {
    (0..letters.len()).filter_map(|at| start_at(letters, at)).collect()
}

fn start_at(letters: &[Letter], at: usize) -> Option<Start> {
    let capitals = letters[at].c == 'P';
    let plain = |l: &Letter| if is_dash(l.c) { '-' } else { l.c };
    let same = |l: &Letter, want: char| plain(l) == if capitals { want.to_ascii_uppercase() } else { want };
    let rest = &letters[at..];
    let matching = rest.iter().zip(START.chars()).take_while(|(l, want)| same(l, *want)).count();
    if matching < START.len() {
        // Cut inside the first word; less than its half is rather some other word.
        let cut = matching == rest.len() && matching > START.len() / 2;
        return cut.then(|| Start { at, body: None, name: String::new(), version: String::new(), capitals });
    }
    let in_name = |l: &&Letter| if capitals { l.c.is_ascii_uppercase() } else { l.c.is_ascii_lowercase() };
    let name: String = rest[START.len()..].iter().take_while(in_name).map(|l| l.c.to_ascii_lowercase()).take(32).collect();
    let after_name = START.len() + name.len();
    let version: String = rest[after_name..].iter().take_while(|l| l.c.is_ascii_digit()).map(|l| l.c).take(8).collect();
    let colon = after_name + version.len();
    match rest.get(colon) {
        // The text ends here: words like `portdistrict-home` are no blob.
        None => Type::ALL.iter().any(|t| t.as_str().starts_with(&name)).then_some(Start { at, body: None, name, version, capitals }),
        Some(l) if l.c == ':' && !name.is_empty() && !version.is_empty() => {
            Some(Start { at, body: Some(at + colon + 1), name, version, capitals })
        }
        Some(_) => None,
    }
}

fn read_at(start: &Start, expected: &[Type], letters: &[Letter], text: &str) -> Result<(Type, Vec<u8>), BlobError> {
    let typ = Type::ALL.into_iter().find(|t| t.as_str() == start.name);
    let Some(body) = start.body else { return Err(BlobError::Truncated(Kind(typ))) };
    let Some(typ) = typ else { return Err(BlobError::UnknownType(start.name.clone())) };
    if start.version != VERSION {
        return Err(BlobError::OtherVersion(Kind(Some(typ)), start.version.clone()));
    }
    if !expected.contains(&typ) {
        return Err(BlobError::WrongType { found: typ, expected: expected.to_vec() });
    }
    let content = if start.capitals {
        // From the colon on, in the text itself: the first character of base45 may be a space.
        let end = letters.last().map_or(text.len(), |l| l.offset + l.c.len_utf8());
        read_base45(typ, &text[letters[body - 1].offset + 1..end])
    } else {
        read_base64(typ, &letters[body..])
    };
    content.map(|content| (typ, content))
}

/// What chat programs make of hyphens: `-` may become an en dash, `--` an em dash. Which of them, only the checksum knows.
fn read_base64(typ: Type, letters: &[Letter]) -> Result<Vec<u8>, BlobError> {
    let first = collect_base64(typ, letters, "--");
    if first.is_err() && letters.iter().any(|l| is_dash(l.c)) {
        return collect_base64(typ, letters, "-").or(first);
    }
    first
}

fn collect_base64(typ: Type, letters: &[Letter], em_dash: &str) -> Result<Vec<u8>, BlobError> {
    let damaged = Err(BlobError::Damaged(Kind(Some(typ))));
    let mut body = String::new();
    let mut wanted = None;
    let mut rest = letters.iter();
    let mut stopped = None;
    while wanted.is_none_or(|wanted| body.len() < wanted) {
        match rest.next() {
            Some(l) if is_base64(l.c) => body.push(l.c),
            Some(l) if matches!(l.c, '\u{2014}' | '\u{2015}') => body.push_str(em_dash),
            Some(l) if is_dash(l.c) => body.push('-'),
            other => {
                stopped = other;
                break;
            }
        }
        if wanted.is_none() && body.len() >= LENGTH_LETTERS {
            let head = BASE64URL_NOPAD.decode(&body.as_bytes()[..LENGTH_LETTERS]).unwrap_or_default();
            let Some(length) = declared(&head) else { return damaged };
            wanted = Some(BASE64URL_NOPAD.encode_len(HEAD + length));
        }
    }
    let goes_on = rest.next().is_some_and(|l| !l.gap && (is_base64(l.c) || is_dash(l.c)));
    if wanted.is_some_and(|wanted| body.len() >= wanted) {
        return if goes_on { damaged } else { checked(typ, &BASE64URL_NOPAD.decode(body.as_bytes()).unwrap_or_default()) };
    }
    // A strange letter in the middle of others was changed; anything else after it is the words that follow.
    if goes_on && stopped.is_some_and(|l| !l.gap && l.c != '…') { damaged } else { Err(BlobError::Truncated(Kind(Some(typ)))) }
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// Base45 has the space in its alphabet, so only line breaks and invisible characters are noise.
fn read_base45(typ: Type, text: &str) -> Result<Vec<u8>, BlobError> {
    let damaged = Err(BlobError::Damaged(Kind(Some(typ))));
    let mut body = String::new();
    let mut wanted = None;
    let mut goes_on = false;
    for c in text.chars().filter(|c| !matches!(c, '\r' | '\n') && !is_invisible(*c)) {
        if wanted == Some(body.len()) || !base45::has(c) {
            goes_on = base45::has(c) && c != ' ';
            break;
        }
        body.push(c);
        if body.len() == base45::encoded_len(4) {
            let Some(length) = declared(&base45::decode(&body).unwrap_or_default()) else { return damaged };
            wanted = Some(base45::encoded_len(HEAD + length));
        }
    }
    let missing = wanted.map_or(usize::MAX, |wanted| wanted - body.len());
    match missing {
        0 if goes_on => return damaged,
        // Spaces at the very end are lost on nearly every way.
        0..=2 => body.push_str(&"  "[..missing]),
        _ => return Err(BlobError::Truncated(Kind(Some(typ)))),
    }
    match checked(typ, &base45::decode(&body).unwrap_or_default()) {
        Err(_) if missing > 0 => Err(BlobError::Truncated(Kind(Some(typ)))),
        result => result,
    }
}

/// The content of a blob that is as long as it says, if the checksum holds.
fn checked(typ: Type, bytes: &[u8]) -> Result<Vec<u8>, BlobError> {
    match bytes.split_at_checked(HEAD) {
        Some((head, content)) if declared(head) == Some(content.len()) && head[3..] == checksum(typ, content) => Ok(content.to_vec()),
        _ => Err(BlobError::Damaged(Kind(Some(typ)))),
    }
}
