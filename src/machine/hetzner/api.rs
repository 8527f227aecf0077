//! The Hetzner Cloud API: calls, lists, actions awaited, and refusals turned into what to do about them.

use super::types::{Action, Pricing};
use crate::config::fs;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::http::{Client, Request};
use crate::progress::Step;
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Where it is unless `HCLOUD_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://api.hetzner.cloud/v1";
/// A token has 64 characters.
const MAX_TOKEN: usize = 1024;
/// As many as one page may have.
const PER_PAGE: usize = 50;
/// Far above what a project has.
const MAX_PAGES: u64 = 100;
/// Lists of fifty servers take some hundred KiB.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// Characters of a refusal that are passed on.
const MAX_WORDS: usize = 300;
/// The one request that makes something anew each time it is said.
const SNAPSHOT: &str = "/create_image";
/// The pauses between two looks at something that takes time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The API, with somebody's token.
pub(super) struct Api {
    client: Client,
    base: String,
    token: SecretString,
    /// How many requests are left of how many, as the last answer said.
    left: Mutex<Option<(u64, u64)>>,
}

/// A refusal in the API's own words.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    /// What was asked, as in `POST /servers`.
    asked: String,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It was refused.
    Said(Said),
    /// It was not answered, or the answer is none.
    Error(Error),
}

impl Failure {
    /// Whether the API refused with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        matches!(self, Failure::Said(said) if said.code == code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Error(error) => error,
            Failure::Said(said) => said.explain(),
        }
    }
}

/// Where tokens are made.
const TOKENS: &str = "Hetzner Console: the project, Security, API tokens";

impl Said {
    /// The refusal in an answer, in words that fit a terminal.
    fn of(status: u16, asked: String, body: &[u8]) -> Said {
        let refusal = serde_json::from_slice(body).unwrap_or_else(|_| Refusal {
            error: RefusalBody { code: status.to_string(), message: "without a word that can be read".to_owned() },
        });
        let clean = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
        Said { status, code: clean(refusal.error.code), message: clean(refusal.error.message), asked }
    }

    /// The refusal with what to do about it.
    fn explain(self) -> Error {
        let words = |code, text: String| Error::new(code, text).because(format!("{}: {} ({})", self.asked, self.message, self.code));
        match (self.status, self.code.as_str()) {
            (401, _) | (_, "unauthorized") => words(Code::Precondition, "Hetzner Cloud does not know this token".to_owned())
                .hint(format!("make a token with the permission Read & Write ({TOKENS}), and set HCLOUD_TOKEN to it")),
            (_, "token_readonly") => words(Code::Precondition, "the token may only read".to_owned())
                .hint(format!("make a token with the permission Read & Write ({TOKENS}), and set HCLOUD_TOKEN to it")),
            (_, "resource_limit_exceeded") => words(Code::Precondition, "the project has as many of these as Hetzner allows it".to_owned())
                .hint("remove what you do not need, or ask for more: Hetzner Console: your account, Limits"),
            (403, _) => words(Code::Refused, "Hetzner Cloud does not permit this".to_owned())
                .hint(format!("is the token of the right project, and may it write? {TOKENS}")),
            (429, _) => words(Code::Unreachable, "too many requests in this hour, also by others with tokens of this project".to_owned())
                .hint("run the command again in a few minutes"),
            (_, "resource_unavailable" | "placement_error" | "unsupported_location_for_server_type") => {
                words(Code::Precondition, "Hetzner has no room for such a server there now".to_owned())
                    .hint("choose another place or size: --zone nbg1, --size cpx22")
            }
            (_, "maintenance" | "unavailable" | "server_error" | "timeout") => {
                words(Code::Unreachable, "Hetzner Cloud has a problem of its own".to_owned())
                    .hint("see https://status.hetzner.com, and run the command again later")
            }
            (404, _) => words(Code::NotFound, "Hetzner Cloud knows no such thing".to_owned()).hint("portdistrict machine list"),
            _ => words(Code::Failed, format!("Hetzner Cloud refuses {}", self.asked)).hint("run the command again"),
        }
    }
}

/// How long a step may take.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    what: &'static str,
    whole: Duration,
    end: Instant,
    pause: Duration,
}

impl Budget {
    pub(super) fn new(what: &'static str, whole: Duration) -> Budget {
        Budget { what, whole, end: Instant::now() + whole, pause: FIRST_PAUSE }
    }

    /// Waits a while before the next look; refuses if there is no time left for one.
    pub(super) async fn pause(&mut self) -> Result<()> {
        if Instant::now() + self.pause > self.end {
            return Err(Error::new(Code::TimedOut, format!("{} took longer than {} seconds", self.what, self.whole.as_secs()))
                .hint("run the command again; see also https://status.hetzner.com"));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// The form of every refusal.
#[derive(Deserialize)]
struct Refusal {
    error: RefusalBody,
}

#[derive(Deserialize)]
struct RefusalBody {
    code: String,
    message: String,
}

/// What lists say of themselves.
#[derive(Deserialize)]
struct Meta {
    pagination: Pagination,
}

#[derive(Deserialize)]
struct Pagination {
    next_page: Option<u64>,
}

#[derive(Deserialize)]
struct OneAction {
    action: Action,
}

#[derive(Deserialize)]
struct OnePricing {
    pricing: Pricing,
}

/// The token: of the environment, else of the file that the settings name.
fn token(cx: &Context) -> Result<SecretString> {
    let text = match std::env::var("HCLOUD_TOKEN") {
        Ok(token) if !token.trim().is_empty() => Zeroizing::new(token),
        _ => match &cx.settings()?.hetzner.token_file {
            Some(file) => {
                let bytes = fs::read_private(file, MAX_TOKEN)?;
                Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
            }
            None => {
                return Err(Error::new(Code::Precondition, "there is no token for Hetzner Cloud").hint(format!(
                    "make one with the permission Read & Write ({TOKENS}); then: read -rs HCLOUD_TOKEN && export HCLOUD_TOKEN"
                )));
            }
        },
    };
    let token = Zeroizing::new(text.trim().to_owned());
    if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::new(Code::Precondition, "what should be a token for Hetzner Cloud is none")
            .hint(format!("it is one word of letters and digits: {TOKENS}")));
    }
    Ok(SecretString::from(token.as_str()))
}

impl Api {
    pub(super) fn open(cx: &Context) -> Result<Api> {
        let base = std::env::var("HCLOUD_ENDPOINT").unwrap_or_else(|_| ENDPOINT.to_owned());
        let base = base.trim_end_matches('/').to_owned();
        Ok(Api { client: Client::new(&base, &cx.settings()?.http)?, base, token: token(cx)?, left: Mutex::default() })
    }

    /// Whether a call may be repeated when its answer is lost is known here: names are unique, and a state is set, not toggled.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let asked = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let mut request = Request::new(method, format!("{}{path}", self.base)).token(self.token.clone()).limit(MAX_ANSWER);
        if let Some(body) = body {
            request = request.json(body)?.repeatable(!path.ends_with(SNAPSHOT));
        }
        let answer = self.client.call(&request).await?;
        let count = |name| answer.header(name).and_then(|value| value.parse().ok());
        if let (Some(left), Some(limit), Ok(mut known)) = (count("ratelimit-remaining"), count("ratelimit-limit"), self.left.lock()) {
            *known = Some((left, limit));
        }
        if answer.is_good() {
            return if answer.body.is_empty() { Ok(Value::Null) } else { Ok(answer.json()?) };
        }
        Err(Failure::Said(Said::of(answer.status, asked, &answer.body)))
    }

    /// Requests that are left in this hour, and the limit.
    pub(super) fn requests_left(&self) -> Option<(u64, u64)> {
        self.left.lock().ok().and_then(|left| *left)
    }

    /// Asks, and hands back the document of the answer.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let value = self.call(Method::GET, path, None).await?;
        Ok(read(path, value)?)
    }

    /// Has something done.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        let value = self.call(Method::POST, path, Some(body)).await?;
        Ok(read(path, value)?)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Option<Action>, Failure> {
        match self.call(Method::DELETE, path, None).await? {
            Value::Null => Ok(None),
            value => Ok(Some(read::<OneAction>(path, value)?.action)),
        }
    }

    /// Every page of a list; `query` begins with `&` or is empty.
    pub(super) async fn list<T: DeserializeOwned>(&self, key: &str, query: &str) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut page = Some(1);
        while let Some(number) = page.filter(|number| *number <= MAX_PAGES) {
            let path = format!("/{key}?page={number}&per_page={PER_PAGE}{query}");
            let mut answer: BTreeMap<String, Value> = self.get(&path).await?;
            all.extend(read::<Vec<T>>(&path, answer.remove(key).unwrap_or_default())?);
            page = read::<Meta>(&path, answer.remove("meta").unwrap_or_default())?.pagination.next_page;
        }
        Ok(all)
    }

    pub(super) async fn pricing(&self) -> Result<Pricing, Failure> {
        Ok(self.get::<OnePricing>("/pricing").await?.pricing)
    }

    /// Waits until an action has ended.
    pub(super) async fn finish(&self, mut action: Action, mut budget: Budget, step: &dyn Step) -> Result<()> {
        loop {
            match (action.status.as_str(), &action.error) {
                ("running", _) => {
                    step.note(&format!("{} %", action.progress.min(100)));
                    budget.pause().await?;
                    action = self.get::<OneAction>(&format!("/actions/{}", action.id)).await?.action;
                }
                ("success", _) => return Ok(()),
                (_, why) => {
                    let error = Error::new(Code::Failed, format!("Hetzner Cloud could not do it: {}", budget.what));
                    let why = why.as_ref().map(|why| format!("{} ({})", why.message, why.code));
                    return Err(why.into_iter().fold(error, Error::because).hint("run the command again"));
                }
            }
        }
    }

    /// Repeats a call for as long as something else holds what it is about.
    pub(super) async fn when_free<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        mut budget: Budget,
        call: impl Fn() -> F,
    ) -> Result<T, Failure> {
        loop {
            match call().await {
                Err(Failure::Said(said)) if HELD.contains(&said.code.as_str()) => budget.pause().await.map_err(|_| Failure::Said(said))?,
                other => return other,
            }
        }
    }
}

/// Refusals that end by themselves: something else is being done to it, or its server is on its way out.
const HELD: [&str; 5] = ["locked", "conflict", "resource_in_use", "must_be_unassigned", "server_not_stopped"];

fn read<T: DeserializeOwned>(path: &str, value: Value) -> Result<T> {
    let path = path.split('?').next().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| {
        Error::new(Code::Protocol, format!("Hetzner Cloud's answer to {path} cannot be read")).cause(error).hint("upgrade portdistrict")
    })
}

/// Reads any bytes as every answer there is; for fuzzing.
pub(super) fn read_any(data: &[u8]) -> Error {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return Said::of(500, "GET /".to_owned(), data).explain() };
    let _ = (read::<OneAction>("/", value.clone()), read::<OnePricing>("/", value.clone()), read::<Meta>("/", value.clone()));
    let _ = (read::<super::types::Image>("/", value.clone()), read::<super::types::Plain>("/", value.clone()));
    let _ = read::<super::types::ServerType>("/", value.clone())
        .map(|size| size.prices.iter().map(|price| price.price_monthly.number()).sum::<f64>());
    let _ = read::<super::types::Server>("/", value).map(|server| (server.ipv4(), super::power(&server)));
    Said::of(403, "GET /".to_owned(), data).explain()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let table = [
            (401, "unauthorized", Code::Precondition, "HCLOUD_TOKEN"),
            (403, "token_readonly", Code::Precondition, "Read & Write"),
            (403, "resource_limit_exceeded", Code::Precondition, "Limits"),
            (403, "forbidden", Code::Refused, "right project"),
            (429, "rate_limit_exceeded", Code::Unreachable, "in a few minutes"),
            (412, "resource_unavailable", Code::Precondition, "--zone"),
            (503, "unavailable", Code::Unreachable, "status.hetzner.com"),
            (404, "not_found", Code::NotFound, "machine list"),
            (422, "invalid_input", Code::Failed, "again"),
        ];
        for (status, code, expected, hint) in table {
            let said = Said { status, code: code.to_owned(), message: "because".to_owned(), asked: "POST /servers".to_owned() };
            let error: Error = Failure::Said(said).into();
            assert_eq!(error.code(), expected, "{code}");
            assert!(error.hint_text().unwrap().contains(hint) && error.causes()[0].contains("POST /servers: because"), "{code}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_ends_with_what_took_too_long() {
        let mut budget = Budget { what: "to wait", whole: Duration::from_secs(1), end: Instant::now(), pause: FIRST_PAUSE };
        let error = budget.pause().await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::TimedOut, "to wait took longer than 1 seconds"));
    }
}
