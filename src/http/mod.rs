//! HTTP to the interfaces of providers: patient, repeated only where that is safe, and silent about secrets.
//!
//! Plain `http` is spoken to this computer only. No redirect is followed: what is sent may hold a token.

mod pace;
mod request;

pub use request::{Answer, Request};

use crate::config::HttpSettings;
use crate::error::{Code, Error, Result};
use pace::Pace;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// A file of roots (PEM) to trust beside those compiled in, for networks whose proxy opens TLS.
const ROOTS: &str = "SSL_CERT_FILE";
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// A client for one provider.
#[derive(Clone, Debug)]
pub struct Client {
    inner: reqwest::Client,
    settings: HttpSettings,
}

/// What became of one attempt.
enum Attempt {
    Answered(Answer),
    /// Nobody answered; `sent` if the request may have arrived.
    Lost {
        error: Error,
        sent: bool,
    },
}

impl Client {
    /// A client for what answers at `base`. A proxy is taken from the environment, but not for this computer.
    pub fn new(base: &str, settings: &HttpSettings) -> Result<Client> {
        // May be installed already; either way it is there afterwards.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = parse(base)?;
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots()?).with_no_client_auth();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("portdistrict/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(settings.timeout);
        let builder = if is_here(&url) { builder.no_proxy() } else { builder };
        let inner = builder.build().map_err(|error| {
            Error::new(Code::Precondition, "cannot speak HTTP from here")
                .cause(error)
                .hint("look at HTTPS_PROXY and NO_PROXY in the environment")
        })?;
        Ok(Client { inner, settings: settings.clone() })
    }

    /// Sends a request until it is answered, as often as the settings say and its kind allows. An answer is returned whatever its status.
    pub async fn call(&self, request: &Request) -> Result<Answer> {
        let url = parse(&request.url)?;
        let mut pace = Pace::new(&self.settings);
        loop {
            let attempt = self.once(request, url.clone()).await?;
            let (again, asked) = match &attempt {
                // Too many: it was not even looked at.
                Attempt::Answered(answer) if answer.status == 429 => (true, answer.retry_after()),
                Attempt::Answered(answer) => {
                    (request.repeatable && matches!(answer.status, 408 | 500 | 502 | 503 | 504), answer.retry_after())
                }
                Attempt::Lost { sent, .. } => (request.repeatable || !sent, None),
            };
            match pace.next(asked).filter(|_| again) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    return match attempt {
                        Attempt::Answered(answer) => Ok(answer),
                        Attempt::Lost { error, .. } => Err(error),
                    };
                }
            }
        }
    }

    async fn once(&self, request: &Request, url: reqwest::Url) -> Result<Attempt> {
        let mut sending = self.inner.request(request.method.clone(), url.clone()).headers(request.headers()?);
        if let Some(token) = &request.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| bad_token())?;
            value.set_sensitive(true);
            sending = sending.header(AUTHORIZATION, value);
        }
        if let Some(body) = &request.body {
            sending = sending.body(body.clone());
        }
        let begun = Instant::now();
        let what = format!("{} {}{}", request.method, url.host_str().unwrap_or_default(), url.path());
        let lost = |error: reqwest::Error, sent: bool| {
            tracing::debug!("{what}: lost after {} ms: {}", begun.elapsed().as_millis(), request::why(&error));
            let code = if error.is_timeout() { Code::TimedOut } else { Code::Unreachable };
            let error = Error::new(code, format!("no answer to {what}"))
                .because(request::why(&error))
                .hint("look at the network, then run the command again");
            Attempt::Lost { error, sent }
        };
        let mut response = match sending.send().await {
            Ok(response) => response,
            Err(error) => {
                let sent = !error.is_connect();
                return Ok(lost(error, sent));
            }
        };
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > request.limit => {
                    return Err(Error::new(Code::Protocol, format!("the answer to {what} has more than {} bytes", request.limit))
                        .hint("look at what answers there: a proxy perhaps"));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Ok(lost(error, true)),
            }
        }
        tracing::debug!("{what}: {status}, {} bytes after {} ms", body.len(), begun.elapsed().as_millis());
        Ok(Attempt::Answered(Answer { status, headers, body, what }))
    }
}

/// An address that may be spoken to.
fn parse(text: &str) -> Result<reqwest::Url> {
    let bad = |why: &str| Error::new(Code::Usage, format!("cannot use the address {text:?}: {why}")).hint("write it as https://host/path");
    let url = reqwest::Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_here(&url) => Ok(url),
        "http" => Err(bad("plain http is spoken to this computer only")),
        _ => Err(bad("it is neither https nor http")),
    }
}

fn is_here(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bad_token() -> Error {
    Error::new(Code::Precondition, "the access token has characters that no token has")
        .hint("look at the file or the variable that it comes from")
}

/// The roots compiled in, and those of the user's file.
fn roots() -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(file) = std::env::var_os(ROOTS) else { return Ok(store) };
    let bad = |why: String| {
        Error::new(Code::Precondition, format!("cannot use the certificates in {}", Path::new(&file).display()))
            .because(why)
            .hint(format!("unset {ROOTS}, or let it name a file with certificates in PEM"))
    };
    for certificate in CertificateDer::pem_file_iter(&file).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        // One that cannot serve as a root does not keep the others from it.
        let _ = store.add(certificate);
    }
    Ok(store)
}

#[cfg(test)]
mod tests;
