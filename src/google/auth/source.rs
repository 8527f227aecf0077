//! The ways to a token: a key, a user's consent, a workload's identity, the machine itself, or `gcloud`.

use super::federated::Federated;
use super::key::Key;
use super::{Environment, Scope, Token, none_found};
use crate::config::{HttpSettings, Settings, fs};
use crate::error::{Code, Doing, Error, Result};
use crate::http::{Answer, Client, Request};
use crate::keyring;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};
use tokio::process::Command;

/// Credential files are a few KiB.
const MAX_FILE: usize = 64 * 1024;
/// Where Google gives tokens to users.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// Whom a machine of Google's asks; a machine elsewhere has nobody there.
const METADATA: &str = "169.254.169.254";
/// What firmware says on Google's machines.
const PRODUCT: &str = "/sys/class/dmi/id/product_name";
/// How long `gcloud` may take.
const GCLOUD: Duration = Duration::from_secs(30);
/// For how long a token is used of which nobody said how long it is good for.
const UNKNOWN: Duration = Duration::from_secs(300);

/// Where tokens come from.
pub(super) struct Source {
    way: Way,
    http: HttpSettings,
    project: Option<String>,
    /// The file that says so, if one does.
    file: Option<PathBuf>,
}

enum Way {
    Key(Box<Key>),
    User(User),
    Federated(Box<Federated>),
    TokenFile,
    /// The address of its server.
    Machine(String),
    Gcloud(PathBuf),
}

/// A credential file, by its `type`.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Credentials {
    ServiceAccount {
        project_id: Option<String>,
        private_key_id: Option<String>,
        private_key: SecretString,
        client_email: String,
        token_uri: String,
    },
    AuthorizedUser(User),
    ExternalAccount(Box<Federated>),
}

/// A user's consent.
#[derive(Deserialize)]
struct User {
    client_id: String,
    client_secret: SecretString,
    refresh_token: SecretString,
    quota_project_id: Option<String>,
    token_uri: Option<String>,
}

impl Source {
    pub(super) fn find(settings: &Settings, environment: Environment<'_>) -> Result<Source> {
        let source = |way, project, file| Source { way, http: settings.http.clone(), project, file };
        let named = environment("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from).or_else(|| settings.gce.credentials.clone());
        if let Some(file) = named {
            return Source::of_file(file, settings);
        }
        if let Some(file) = environment("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE") {
            return Ok(source(Way::TokenFile, None, Some(file.into())));
        }
        let gcloud = environment("CLOUDSDK_CONFIG").map(PathBuf::from);
        let folder = gcloud.or_else(|| environment("HOME").map(|home| Path::new(&home).join(".config/gcloud")));
        let usual = folder.map(|folder| folder.join("application_default_credentials.json")).filter(|file| file.is_file());
        if let Some(file) = usual {
            return Source::of_file(file, settings);
        }
        let named = environment("GCE_METADATA_HOST").map(|host| host.to_string_lossy().into_owned());
        let here = || std::fs::read_to_string(PRODUCT).is_ok_and(|product| product.trim() == "Google Compute Engine");
        if let Some(host) = named.or_else(|| here().then(|| METADATA.to_owned())) {
            return Ok(source(Way::Machine(format!("http://{host}/computeMetadata/v1")), None, None));
        }
        let path = environment("PATH").unwrap_or_default();
        let gcloud = std::env::split_paths(&path).map(|folder| folder.join("gcloud")).find(|file| file.is_file());
        gcloud.map(|program| source(Way::Gcloud(program), None, None)).ok_or_else(none_found)
    }

    fn of_file(file: PathBuf, settings: &Settings) -> Result<Source> {
        let credentials: Credentials = serde_json::from_slice(&fs::read(&file, MAX_FILE)?).map_err(|error| {
            // serde's own words for a bad value may quote it.
            Error::new(Code::Precondition, format!("{} holds no credentials that are known here", file.display()))
                .because(format!("line {}, column {}", error.line(), error.column()))
                .hint("it must be of a service account, an authorized user or an external account: gcloud auth application-default login")
        })?;
        let (way, project) = match credentials {
            Credentials::ServiceAccount { project_id, private_key_id, private_key, client_email, token_uri } => {
                let key = Key::new(private_key.expose_secret(), private_key_id, client_email, token_uri)?;
                (Way::Key(Box::new(key)), project_id)
            }
            Credentials::AuthorizedUser(user) => {
                let project = user.quota_project_id.clone();
                (Way::User(user), project)
            }
            Credentials::ExternalAccount(federated) => (Way::Federated(federated), None),
        };
        Ok(Source { way, http: settings.http.clone(), project, file: Some(file) })
    }

    pub(super) fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    pub(super) fn in_words(&self) -> String {
        let who = match &self.way {
            Way::Key(key) => format!("service account {}", key.email()),
            Way::User(_) => "a user's consent".to_owned(),
            Way::Federated(federated) => federated.in_words(),
            Way::TokenFile => "an access token".to_owned(),
            Way::Machine(_) => "the service account of this machine".to_owned(),
            Way::Gcloud(program) => format!("the user of {}", program.display()),
        };
        match &self.file {
            Some(file) => format!("{who} ({})", file.display()),
            None => who,
        }
    }

    pub(super) async fn fetch(&self, scopes: &[Scope]) -> Result<Token> {
        let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        let names = names.join(" ");
        match &self.way {
            Way::Key(key) => {
                let assertion = key.assertion(&names, now())?;
                let body = form(&[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &assertion)]);
                grant(key.token_uri(), &body, &self.http).await
            }
            Way::User(user) => user.fetch(&self.http).await,
            Way::Federated(federated) => federated.fetch(&names, &self.http).await,
            Way::TokenFile => {
                let file = self.file.as_deref().unwrap_or(Path::new(""));
                let text = String::from_utf8_lossy(&fs::read(file, MAX_FILE)?).trim().to_owned();
                Ok(Token { value: text.into(), lifetime: UNKNOWN })
            }
            Way::Machine(server) => {
                let url = format!("{server}/instance/service-accounts/default/token?scopes={}", names.replace(' ', ","));
                let request = Request::get(&url).header("metadata-flavor", "Google");
                read_token(&ask(&request, &url, &self.http, "get a token from the machine's metadata server").await?)
            }
            Way::Gcloud(program) => ask_gcloud(program).await,
        }
    }
}

impl User {
    async fn fetch(&self, http: &HttpSettings) -> Result<Token> {
        let body = form(&[
            ("grant_type", "refresh_token"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
            ("refresh_token", self.refresh_token.expose_secret()),
        ]);
        grant(self.token_uri.as_deref().unwrap_or(TOKEN_URI), &body, http).await
    }
}

async fn ask_gcloud(program: &Path) -> Result<Token> {
    let mut command = Command::new(program);
    command.env_remove(keyring::VARIABLE);
    command.args(["auth", "print-access-token", "--quiet"]).stdin(Stdio::null()).kill_on_drop(true);
    let late = || Error::new(Code::TimedOut, format!("{} gave no token within {} seconds", program.display(), GCLOUD.as_secs()));
    let output = tokio::time::timeout(GCLOUD, command.output())
        .await
        .map_err(|_| late().hint("gcloud auth print-access-token"))?
        .doing("run", program.display())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || text.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(Error::new(Code::Precondition, "gcloud gives no token").because(said).hint("gcloud auth login"));
    }
    Ok(Token { value: text.into(), lifetime: UNKNOWN })
}

/// Asks for a token in the way of OAuth 2.0. Asked twice, it gives two, which does no harm.
pub(super) async fn grant(url: &str, body: &str, http: &HttpSettings) -> Result<Token> {
    let request = Request::post(url).header("content-type", "application/x-www-form-urlencoded").bytes(body.to_owned()).repeatable(true);
    read_token(&ask(&request, url, http, "get an access token").await?)
}

fn read_token(answer: &Answer) -> Result<Token> {
    #[derive(Deserialize)]
    struct Given {
        access_token: SecretString,
        expires_in: u64,
    }
    let given: Given = answer.json()?;
    Ok(Token { value: given.access_token, lifetime: Duration::from_secs(given.expires_in) })
}

/// A client for the place of an address.
pub(super) fn client(url: &str, http: &HttpSettings) -> Result<Client> {
    Client::new(url, http)
}

/// A good answer, or Google's reason why not.
pub(super) async fn ask(request: &Request, url: &str, http: &HttpSettings, doing: &str) -> Result<Answer> {
    answer(client(url, http)?.call(request).await?, doing)
}

/// A good answer, or the reason in it.
pub(super) fn answer(answer: Answer, doing: &str) -> Result<Answer> {
    if answer.is_good() {
        return Ok(answer);
    }
    let value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = [&value["error_description"], &value["error"]["message"], &value["error"]].into_iter().find_map(|value| value.as_str());
    let status = format!("{}: status {}", answer.what(), answer.status);
    let error = Error::new(Code::Refused, format!("Google refuses to {doing}: {}", said.unwrap_or("it gives no reason"))).because(status);
    Err(error.hint("look at GOOGLE_APPLICATION_CREDENTIALS, or: gcloud auth application-default login"))
}

/// `a=b&c=d` with all that is not plain in per cent.
pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name}={}", escape(value));
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Per cent encoding (RFC 3986, 2.1) of all but the characters that mean nothing.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Unix seconds.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
