//! Workload identity: who has a statement of somebody whom Google trusts, such as a CI, needs no key (AIP-4117).

use super::Token;
use super::source::{answer, ask, client, form, grant, now};
use crate::config::{HttpSettings, fs};
use crate::error::{Code, Error, Result};
use crate::http::Request;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a federated token must be good for so that it can be exchanged for a service account's.
const IMPERSONATE: &str = "https://www.googleapis.com/auth/iam";
/// Statements are a few KiB.
const MAX_STATEMENT: usize = 64 * 1024;
/// Names of headers that a credential file may ask for.
const HEADERS: [&str; 3] = ["authorization", "accept", "metadata-flavor"];

/// The file `external_account`.
#[derive(Deserialize)]
pub(super) struct Federated {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: CredentialSource,
}

/// Where the statement is.
#[derive(Deserialize)]
struct CredentialSource {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    #[serde(rename = "type", default)]
    kind: String,
    subject_token_field_name: Option<String>,
}

impl Federated {
    /// Whom it ends as.
    pub(super) fn in_words(&self) -> String {
        match &self.service_account_impersonation_url {
            Some(url) => {
                let email = url.rsplit('/').next().unwrap_or_default().trim_end_matches(":generateAccessToken");
                format!("workload identity as {email}")
            }
            None => "workload identity".to_owned(),
        }
    }

    /// The statement, exchanged; and if the file says so exchanged again, for a service account's token.
    pub(super) async fn fetch(&self, scopes: &str, http: &HttpSettings) -> Result<Token> {
        let statement = self.statement(http).await?;
        let wanted = if self.service_account_impersonation_url.is_some() { IMPERSONATE } else { scopes };
        let body = form(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", &self.audience),
            ("scope", wanted),
            ("subject_token_type", &self.subject_token_type),
            ("subject_token", statement.expose_secret()),
        ]);
        let token = grant(&self.token_url, &body, http).await?;
        match &self.service_account_impersonation_url {
            None => Ok(token),
            Some(url) => impersonate(url, token, scopes, http).await,
        }
    }

    async fn statement(&self, http: &HttpSettings) -> Result<SecretString> {
        let source = &self.credential_source;
        let text = match (&source.file, &source.url) {
            (Some(file), _) => String::from_utf8_lossy(&fs::read(file, MAX_STATEMENT)?).trim().to_owned(),
            (None, Some(url)) => {
                let mut request = Request::get(url).limit(MAX_STATEMENT);
                for (name, value) in &source.headers {
                    request = match HEADERS.into_iter().find(|known| known.eq_ignore_ascii_case(name)) {
                        Some(known) => request.header(known, value),
                        None => return Err(unusable(&format!("it asks for a header {name}"))),
                    };
                }
                let answer = answer(client(url, http)?.call(&request).await?, "get the statement of who this is")?;
                String::from_utf8_lossy(&answer.body).trim().to_owned()
            }
            (None, None) => return Err(unusable("its credential source is neither a file nor a URL")),
        };
        if source.format.kind != "json" {
            return Ok(text.into());
        }
        let field = source.format.subject_token_field_name.as_deref().unwrap_or("access_token");
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        match value[field].as_str() {
            Some(token) => Ok(token.to_owned().into()),
            None => Err(unusable(&format!("what its source says has no field {field:?}"))),
        }
    }
}

/// A service account's token for one that may speak for it.
async fn impersonate(url: &str, token: Token, scopes: &str, http: &HttpSettings) -> Result<Token> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Given {
        access_token: SecretString,
        expire_time: String,
    }
    let scopes: Vec<&str> = scopes.split(' ').collect();
    // Asked twice, it gives two tokens, which does no harm.
    let request = Request::post(url).token(token.value).json(&json!({ "scope": scopes }))?.repeatable(true);
    let given: Given = ask(&request, url, http, "speak for the service account").await?.json()?;
    // Of a time that cannot be read it is used once.
    let end = given.expire_time.parse::<jiff::Timestamp>().map_or(0, |end| end.as_second().try_into().unwrap_or(0));
    Ok(Token { value: given.access_token, lifetime: Duration::from_secs(u64::saturating_sub(end, now())) })
}

fn unusable(why: &str) -> Error {
    Error::new(Code::Precondition, format!("the workload identity cannot be used: {why}"))
        .hint("gcloud iam workload-identity-pools create-cred-config --help")
}
