//! Access tokens of Google's.

use crate::context::Context;
use crate::error::{Code, Error, Result};
use secrecy::SecretString;

/// A token in the environment, as gcloud takes it.
const VARIABLE: &str = "CLOUDSDK_AUTH_ACCESS_TOKEN";

/// Where tokens come from.
pub(super) struct Tokens(SecretString);

impl Tokens {
    /// Finds credentials.
    pub(super) async fn find(_cx: &Context) -> Result<Tokens> {
        let token = std::env::var(VARIABLE).map_err(|_| {
            Error::new(Code::Precondition, "no credentials for Google are found").hint("gcloud auth application-default login")
        })?;
        Ok(Tokens(token.into()))
    }

    /// One that is good now.
    pub(super) async fn token(&self) -> Result<SecretString> {
        Ok(self.0.clone())
    }
}
