//! Cloud Storage: objects, and the sessions of uploads that go on where they were cut.

use super::auth::Auth;
use super::refusal::Refusal;
use super::{Failure, UNAUTHORIZED};
use crate::config::Settings;
use crate::error::{Code, Error, Result};
use crate::http::{Answer, Client, Request};
use bytes::Bytes;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

/// Where it answers, and the variable (of Google's libraries) that says it answers elsewhere.
const STORAGE: &str = "https://storage.googleapis.com";
const VARIABLE: &str = "STORAGE_EMULATOR_HOST";
/// "Resume incomplete": more is to come.
const INCOMPLETE: u16 = 308;
/// A session that Google has forgotten, or that was given up.
const FORGOTTEN: [u16; 3] = [404, 410, 499];

/// Where Cloud Storage answers, without a stroke at the end.
pub fn storage_base() -> String {
    let named = std::env::var(VARIABLE).ok().filter(|base| !base.is_empty());
    let base = named.map_or_else(|| STORAGE.to_owned(), |base| if base.contains("://") { base } else { format!("http://{base}") });
    base.trim_end_matches('/').to_owned()
}

/// A place for an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The bucket.
    pub bucket: String,
    /// The object's name.
    pub name: String,
}

impl Spot {
    /// Checked, since both become part of addresses.
    pub fn new(bucket: &str, name: &str) -> Result<Spot> {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let good = (3..=222).contains(&bucket.len()) && bucket.chars().all(inner);
        if !good || !outer(bucket.chars().next()) || !outer(bucket.chars().last()) {
            return Err(Error::new(Code::Usage, format!("{bucket:?} is no bucket of Cloud Storage")).hint("gcloud storage buckets list"));
        }
        Ok(Spot { bucket: bucket.to_owned(), name: name.to_owned() })
    }

    /// As Compute Engine wants it named.
    pub fn source(&self) -> String {
        format!("{STORAGE}/{}/{}", self.bucket, self.name)
    }

    /// The object's address.
    pub fn url(&self) -> String {
        format!("{}/storage/v1/b/{}/o/{}", storage_base(), self.bucket, self.name.replace('/', "%2F"))
    }

    /// The address at which an upload of it begins.
    pub fn upload_url(&self) -> String {
        format!("{}/upload/storage/v1/b/{}/o?uploadType=resumable", storage_base(), self.bucket)
    }

    /// How a person names it, and `gcloud storage` too.
    pub fn in_words(&self) -> String {
        format!("gs://{}/{}", self.bucket, self.name)
    }
}

/// What is read of an object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Object {
    /// Bytes; a number, as text.
    pub size: String,
    /// Checksum (big-endian, base64).
    pub crc32c: String,
    /// Which of all objects that ever had this name.
    pub generation: String,
    /// What its maker wrote, by name.
    pub metadata: std::collections::BTreeMap<String, String>,
}

impl Object {
    /// Whether it has these bytes.
    pub fn is(&self, size: u64, crc32c: &str) -> bool {
        self.size == size.to_string() && self.crc32c == crc32c
    }
}

/// How far an upload is.
#[derive(Debug, PartialEq, Eq)]
pub enum Reached {
    /// So many bytes are there.
    Bytes(u64),
    /// All of them, and the object is made.
    Whole(Object),
    /// Nobody knows of it any more.
    Forgotten,
}

/// The description of an object to be made, as the upload's first request has it.
pub fn description(spot: &Spot, crc32c: &str, metadata: &[(&str, &str)]) -> Value {
    let metadata: serde_json::Map<String, Value> = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    json!({ "name": spot.name, "contentType": "application/gzip", "crc32c": crc32c, "metadata": metadata })
}

/// Cloud Storage, under somebody's credentials.
pub struct Storage {
    client: Client,
    auth: Auth,
}

impl Storage {
    /// Ready to ask.
    pub fn open(settings: &Settings, auth: Auth) -> Result<Storage> {
        Ok(Storage { client: Client::new(&storage_base(), &settings.http)?, auth })
    }

    /// An object; none if there is none.
    pub async fn get(&self, spot: &Spot) -> Result<Option<Object>, Failure> {
        let answer = self.ask(Request::get(spot.url())).await?;
        if answer.status == 404 { Ok(None) } else { Ok(Some(good(answer)?.json()?)) }
    }

    /// Removes an object, but not another one that took its name meanwhile. Well if it is gone already.
    pub async fn delete(&self, spot: &Spot, generation: Option<&str>) -> Result<(), Failure> {
        let only = generation.map(|generation| format!("?ifGenerationMatch={generation}")).unwrap_or_default();
        let answer = self.ask(Request::delete(format!("{}{only}", spot.url()))).await?;
        if answer.status == 404 { Ok(()) } else { good(answer).map(drop) }
    }

    /// Begins an upload of `total` bytes, and returns the session's address: whoever has it can go on with the upload.
    pub async fn begin(&self, spot: &Spot, total: u64, description: &Value) -> Result<SecretString, Failure> {
        // Begun twice, there are two sessions, of which one is forgotten after a week.
        let request = Request::post(spot.upload_url()).json(description)?.repeatable(true);
        let request = request.header("x-upload-content-length", total.to_string()).header("x-upload-content-type", "application/gzip");
        let answer = good(self.ask(request).await?)?;
        match answer.header("location") {
            Some(session) => Ok(session.to_owned().into()),
            None => Err(Error::new(Code::Protocol, format!("the answer to {} does not say where to upload to", answer.what()))
                .hint("look at what answers there: a proxy perhaps")
                .into()),
        }
    }

    /// Asks how far an upload is.
    pub async fn reached(&self, session: &SecretString, total: u64) -> Result<Reached, Failure> {
        let request = Request::new(Method::PUT, session.expose_secret()).header("content-range", format!("bytes */{total}"));
        read(self.client.call(&request.bytes(Bytes::new())).await?)
    }

    /// Sends bytes from `offset` on, once: after a failure only [`Storage::reached`] knows how many of them arrived.
    pub async fn send(&self, session: &SecretString, offset: u64, bytes: Bytes, total: u64) -> Result<Reached, Failure> {
        let last = (offset + bytes.len() as u64).saturating_sub(1);
        let request = Request::new(Method::PUT, session.expose_secret()).header("content-range", format!("bytes {offset}-{last}/{total}"));
        read(self.client.call(&request.bytes(bytes).repeatable(false)).await?)
    }

    /// Asks; once more with a new token where the one at hand is good no longer.
    async fn ask(&self, request: Request) -> Result<Answer, Failure> {
        let answer = self.client.call(&request.clone().token(self.auth.token().await?)).await?;
        if answer.status != UNAUTHORIZED {
            return Ok(answer);
        }
        self.auth.forget();
        Ok(self.client.call(&request.token(self.auth.token().await?)).await?)
    }
}

fn good(answer: Answer) -> Result<Answer, Failure> {
    if answer.is_good() { Ok(answer) } else { Err(Failure::Refused(Refusal::of_answer(answer.status, &answer.body))) }
}

/// What a session answers.
fn read(answer: Answer) -> Result<Reached, Failure> {
    match answer.status {
        INCOMPLETE => Ok(Reached::Bytes(answer.header("range").map_or(Ok(0), |range| end_of(range, answer.what()))?)),
        status if FORGOTTEN.contains(&status) => Ok(Reached::Forgotten),
        _ => Ok(Reached::Whole(good(answer)?.json()?)),
    }
}

/// `bytes=0-524287` are 524288 bytes.
fn end_of(range: &str, what: &str) -> Result<u64> {
    let last = range.strip_prefix("bytes=0-").and_then(|last| last.parse::<u64>().ok());
    last.and_then(|last| last.checked_add(1)).ok_or_else(|| {
        Error::new(Code::Protocol, format!("the answer to {what} does not say how much arrived: {range:?}"))
            .hint("look at what answers there: a proxy perhaps")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cannot_lead_elsewhere() {
        for bad in ["", "ab", "a/b", "Abc", "-abc", "abc.", "a?b=c", "é-bucket"] {
            assert_eq!(Spot::new(bad, "x").unwrap_err().code(), Code::Usage, "{bad}");
        }
        let spot = Spot::new("my-images", "portdistrict/a.tar.gz").unwrap();
        assert!(spot.url().ends_with("/storage/v1/b/my-images/o/portdistrict%2Fa.tar.gz"));
        assert_eq!(spot.source(), "https://storage.googleapis.com/my-images/portdistrict/a.tar.gz");
    }

    #[test]
    fn what_arrived_is_read_strictly() {
        assert_eq!(end_of("bytes=0-0", "").unwrap(), 1);
        assert_eq!(end_of("bytes=0-524287", "").unwrap(), 524_288);
        for bad in ["", "bytes=1-2", "bytes=0-", "bytes=0-18446744073709551615", "0-5"] {
            assert_eq!(end_of(bad, "").unwrap_err().code(), Code::Protocol, "{bad}");
        }
    }
}
