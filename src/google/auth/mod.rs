//! Access tokens of Google's: where credentials are found, and tokens that are kept until they end.
//!
//! Not by the crate `gcp_auth`: it asks the system for names, which a static binary must not, knows neither workload identity nor
//! scopes of a machine, and would bring a second HTTP client that knows neither our proxies nor our patience.

mod federated;
mod key;
mod source;

use crate::config::Settings;
use crate::error::{Code, Error, Result};
use secrecy::SecretString;
use source::Source;
use std::ffi::OsString;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A token that ends sooner than this is not begun with: a request may take a while.
const MARGIN: Duration = Duration::from_secs(60);

/// What a token is for. No more is asked for than what a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To make and remove machines, images and what they need.
    Compute,
    /// To write and remove objects, but not to change who may see them.
    Storage,
    /// To see what one may do in a project.
    Projects,
}

impl Scope {
    /// Google's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Compute => "https://www.googleapis.com/auth/compute",
            Scope::Storage => "https://www.googleapis.com/auth/devstorage.read_write",
            Scope::Projects => "https://www.googleapis.com/auth/cloud-platform.read-only",
        }
    }
}

/// A variable of the environment, by its name; empty ones are none.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of this process.
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A token as it came.
struct Token {
    value: SecretString,
    lifetime: Duration,
}

/// Somebody whom Google knows.
pub struct Auth {
    source: Source,
    scopes: Vec<Scope>,
    kept: Mutex<Option<(SecretString, Instant)>>,
}

impl Auth {
    /// Looks for credentials: the file named by `GOOGLE_APPLICATION_CREDENTIALS`, then by the settings; a token in the file of
    /// `CLOUDSDK_AUTH_ACCESS_TOKEN_FILE`; those of `gcloud auth application-default login`; those of the machine that this runs on;
    /// those of `gcloud`. Nothing is asked yet.
    pub fn find(settings: &Settings, scopes: &[Scope]) -> Result<Auth> {
        Auth::find_in(settings, scopes, &environment)
    }

    fn find_in(settings: &Settings, scopes: &[Scope], environment: Environment<'_>) -> Result<Auth> {
        Ok(Auth { source: Source::find(settings, environment)?, scopes: scopes.to_vec(), kept: Mutex::default() })
    }

    /// A token that is good for at least a minute.
    pub async fn token(&self) -> Result<SecretString> {
        let kept = || self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((token, end)) = &*kept()
            && Instant::now() + MARGIN < *end
        {
            return Ok(token.clone());
        }
        // Two at the same time may ask twice, which does no harm.
        let token = self.source.fetch(&self.scopes).await?;
        *kept() = Some((token.value.clone(), Instant::now() + token.lifetime));
        Ok(token.value)
    }

    /// After a token was refused although it had not ended: the next one is a new one.
    pub fn forget(&self) {
        *self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    /// The project that the credentials belong to, where they say so.
    pub fn project(&self) -> Option<&str> {
        self.source.project()
    }
}

/// Who it is, and from where: `service account x@y (/path/key.json)`.
impl fmt::Display for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.source.in_words())
    }
}

/// Nobody whom Google would know.
fn none_found() -> Error {
    Error::new(Code::Precondition, "there are no credentials for Google's clouds")
        .because("no GOOGLE_APPLICATION_CREDENTIALS, no application default credentials, no machine of Google's, no gcloud")
        .hint("gcloud auth application-default login")
}

#[cfg(test)]
mod tests;
