//! A request and its answer.

use crate::error::{Code, Error, Result};
use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::{Duration, SystemTime};

/// The largest answer unless a request says otherwise.
const LIMIT: usize = 16 * 1024 * 1024;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) method: Method,
    pub(super) url: String,
    headers: Vec<(&'static str, String)>,
    pub(super) token: Option<SecretString>,
    pub(super) body: Option<Bytes>,
    pub(super) repeatable: bool,
    pub(super) limit: usize,
}

impl Request {
    /// A request. GET, HEAD, PUT and DELETE may be repeated as RFC 9110 (9.2.2) has it; any other only after [`Request::repeatable`].
    pub fn new(method: Method, url: impl Into<String>) -> Request {
        let repeatable = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE].contains(&method);
        Request { method, url: url.into(), headers: Vec::new(), token: None, body: None, repeatable, limit: LIMIT }
    }

    /// GET.
    pub fn get(url: impl Into<String>) -> Request {
        Request::new(Method::GET, url)
    }

    /// POST.
    pub fn post(url: impl Into<String>) -> Request {
        Request::new(Method::POST, url)
    }

    /// DELETE.
    pub fn delete(url: impl Into<String>) -> Request {
        Request::new(Method::DELETE, url)
    }

    /// Who asks.
    #[must_use]
    pub fn token(mut self, token: SecretString) -> Request {
        self.token = Some(token);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends a document.
    pub fn json(self, body: &impl Serialize) -> Result<Request> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Error::new(Code::Failed, "cannot write a request").cause(error).hint("run the command again"))?;
        Ok(self.header(CONTENT_TYPE_NAME, "application/json").bytes(bytes))
    }

    /// Sends bytes; copies of the request share them.
    #[must_use]
    pub fn bytes(mut self, body: impl Into<Bytes>) -> Request {
        self.body = Some(body.into());
        self
    }

    /// Whether it may be sent again when nobody knows if it arrived: it carries an id by which the other side knows it again, or says
    /// the same however often it is said.
    #[must_use]
    pub fn repeatable(mut self, repeatable: bool) -> Request {
        self.repeatable = repeatable;
        self
    }

    /// Refuses answers of more bytes.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Request {
        self.limit = bytes;
        self
    }

    pub(super) fn headers(&self) -> Result<HeaderMap> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Error::new(Code::Usage, format!("{value:?} cannot be sent as {name}")).hint("use plain letters and digits"))?;
            map.insert(HeaderName::from_static(name), value);
        }
        Ok(map)
    }
}

const CONTENT_TYPE_NAME: &str = "content-type";

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As in 200.
    pub status: u16,
    /// Within the request's limit.
    pub body: Vec<u8>,
    pub(super) headers: HeaderMap,
    /// `POST host/path`.
    pub(super) what: String,
}

impl Answer {
    /// Whether the status is 2xx.
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The request it answers, without its secrets: `POST host/path`.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The document in it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no content type").to_owned();
            Error::new(Code::Protocol, format!("the answer to {} ({}, {kind}) cannot be understood", self.what, self.status))
                .cause(error)
                .hint("look at what answers there: a proxy perhaps")
        })
    }

    /// How long it asks one to wait (RFC 9110, 10.2.3): seconds, or a date.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let when: SystemTime = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().into();
        Some(when.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// Why nobody answered, without the address: that may hold what is secret.
pub(super) fn why(error: &reqwest::Error) -> String {
    let mut words = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    words.last().cloned().unwrap_or_else(|| "the connection was lost".to_owned())
}
