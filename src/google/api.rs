//! One way to ask Google: with a token, patiently, and with refusals that can be told apart.

use super::auth::{Auth, Scope};
use super::compute::Call;
use super::refusal::Refusal;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::http::{Client, Request};
use reqwest::Method;
use serde::de::DeserializeOwned;

/// Where Compute Engine answers, and the variable (gcloud's) that says it answers elsewhere.
const COMPUTE: &str = "https://compute.googleapis.com/compute/v1/";
const COMPUTE_VARIABLE: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE";
/// The same for what knows who may do what in a project.
const PROJECTS: &str = "https://cloudresourcemanager.googleapis.com/";
const PROJECTS_VARIABLE: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER";

/// The token is not accepted, so nothing was done.
pub(super) const UNAUTHORIZED: u16 = 401;

/// Compute Engine, under somebody's credentials.
pub struct Api {
    client: Client,
    auth: Auth,
    compute: String,
}

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// Google says no.
    Refused(Refusal),
    /// Google could not be asked, or answered with what is no answer.
    Broken(Error),
}

impl Failure {
    /// As an error of this program. `doing` says what was tried, as in `make the firewall rule pd-home-abc123`.
    pub fn into_error(self, doing: &str, project: &str) -> Error {
        match self {
            Failure::Refused(refusal) => refusal.into_error(doing, project),
            Failure::Broken(error) => error.because(format!("while trying to {doing}")),
        }
    }

    /// Whether there is no such thing.
    pub fn is_missing(&self) -> bool {
        matches!(self, Failure::Refused(refusal) if refusal.is_missing())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Broken(error)
    }
}

/// Where Compute Engine answers, with a stroke at the end.
pub fn compute_base() -> String {
    base(COMPUTE_VARIABLE).unwrap_or_else(|| COMPUTE.to_owned())
}

fn base(variable: &str) -> Option<String> {
    let named = std::env::var(variable).ok().filter(|base| !base.is_empty())?;
    Some(format!("{}/", named.trim_end_matches('/')))
}

impl Api {
    /// Ready to ask, with the credentials that are found here.
    pub fn open(cx: &Context, scopes: &[Scope]) -> Result<Api> {
        let (compute, settings) = (compute_base(), cx.settings()?);
        Ok(Api { client: Client::new(&compute, &settings.http)?, auth: Auth::find(settings, scopes)?, compute })
    }

    /// Whose credentials they are, and where they were found.
    pub fn who(&self) -> String {
        self.auth.to_string()
    }

    /// Sends a request and reads the answer.
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Failure> {
        let method = Method::from_bytes(call.method.as_bytes())
            .map_err(|error| Error::new(Code::Failed, format!("{:?} is no method of HTTP", call.method)).cause(error))?;
        let request = Request::new(method, format!("{}{}", self.compute, call.path)).repeatable(call.repeats);
        self.send(match &call.body {
            Some(body) => request.json(body)?,
            None => request,
        })
        .await
    }

    /// Those of these permissions that the caller has in a project.
    pub async fn permitted(&self, project: &str, permissions: &[&str]) -> Result<Vec<String>, Failure> {
        #[derive(serde::Deserialize)]
        struct Permitted {
            #[serde(default)]
            permissions: Vec<String>,
        }
        let url = format!("{}v1/projects/{project}:testIamPermissions", base(PROJECTS_VARIABLE).unwrap_or_else(|| PROJECTS.to_owned()));
        let request = Request::post(url).repeatable(true).json(&serde_json::json!({"permissions": permissions}))?;
        self.send::<Permitted>(request).await.map(|permitted| permitted.permissions)
    }

    /// Asks; once more with a new token where the one at hand is good no longer.
    async fn send<T: DeserializeOwned>(&self, request: Request) -> Result<T, Failure> {
        let mut answer = self.client.call(&request.clone().token(self.auth.token().await?)).await?;
        if answer.status == UNAUTHORIZED {
            self.auth.forget();
            answer = self.client.call(&request.token(self.auth.token().await?)).await?;
        }
        if answer.is_good() { Ok(answer.json()?) } else { Err(Failure::Refused(Refusal::of_answer(answer.status, &answer.body))) }
    }
}
