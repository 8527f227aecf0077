//! One bounded GET, for metadata servers.

use crate::error::{Code, Error, Result};
use reqwest::header::HeaderMap;
use std::time::Duration;

/// What a server said.
pub(super) struct Answer {
    /// As in 200.
    pub(super) status: u16,
    /// At most as many bytes as were allowed.
    pub(super) body: Vec<u8>,
    headers: HeaderMap,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Asks `url`; an answer of more than `limit` bytes is refused.
pub(super) async fn get(url: &str, headers: &[(&'static str, &'static str)], patience: Duration, limit: usize) -> Result<Answer> {
    // Fails if there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |error: reqwest::Error| Error::new(Code::Unreachable, format!("{url} does not answer")).cause(error.without_url());
    // No proxy, no redirect: a metadata server answers for itself.
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(patience).build();
    let mut request = client.map_err(failed)?.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send().await.map_err(failed)?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > limit {
            return Err(Error::new(Code::Protocol, format!("{url} answers with more than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body, headers })
}
