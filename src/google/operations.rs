//! Google's operations: what was asked for takes time, and is waited for with a budget.

use super::compute::{Call, Spot};
use super::refusal::Refusal;
use super::{Api, Failure};
use crate::error::{Code, Error};
use crate::progress::Step;
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Between two questions, where Google did not make us wait itself.
const PAUSE: Duration = Duration::from_millis(250);

/// An operation under way, or its end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Its name.
    pub name: String,
    status: String,
    status_message: String,
    progress: u32,
    /// The request that began it.
    pub client_operation_id: String,
    /// What it is about.
    pub target_link: String,
    http_error_status_code: u16,
    error: Errors,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Errors {
    errors: Vec<Value>,
}

/// A page of operations.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Operations {
    /// What is on it.
    pub items: Vec<Operation>,
}

impl Operation {
    /// Whether it came to an end, good or bad.
    pub fn is_done(&self) -> bool {
        self.status == "DONE"
    }

    /// Why it failed, if it did.
    pub fn refusal(&self) -> Option<Refusal> {
        let status = self.http_error_status_code;
        match self.error.errors.first() {
            Some(error) => Some(Refusal::of_operation(status, error)),
            None if status >= 400 => Some(Refusal { status, message: self.status_message.clone(), ..Refusal::default() }),
            None => None,
        }
    }

    /// How far it is, in words.
    fn stage(&self) -> String {
        match (self.status_message.as_str(), self.progress) {
            ("", 0) => self.status.to_lowercase(),
            ("", percent) => format!("{percent} %"),
            (message, _) => message.to_owned(),
        }
    }
}

/// Waits for its end, for as long as the budget lasts.
pub async fn wait(api: &Api, spot: &Spot, operation: Operation, budget: Duration, step: &dyn Step) -> Result<Operation, Failure> {
    wait_at(api, &spot.operations(), operation, budget, step).await
}

/// The same for an operation of this place: `projects/…/operations`.
pub async fn wait_at(api: &Api, place: &str, operation: Operation, budget: Duration, step: &dyn Step) -> Result<Operation, Failure> {
    let deadline = Instant::now() + budget;
    let mut operation = operation;
    loop {
        if operation.is_done() {
            return match operation.refusal() {
                Some(refusal) => Err(Failure::Refused(refusal)),
                None => Ok(operation),
            };
        }
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return Err(Failure::Broken(late(&operation, place, budget)));
        };
        step.note(&operation.stage());
        let asked = Instant::now();
        match tokio::time::timeout(left, api.ask(&Call::wait_at(place, &operation.name))).await {
            Ok(answer) => operation = answer?,
            Err(_) => return Err(Failure::Broken(late(&operation, place, budget))),
        }
        if !operation.is_done() && asked.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn late(operation: &Operation, place: &str, budget: Duration) -> Error {
    let whose = format!("{place}/{}", operation.name);
    Error::new(Code::TimedOut, format!("Google did not finish within {} seconds", budget.as_secs()))
        .because(format!("operation {whose} is at {}", operation.stage()))
        .hint("see https://status.cloud.google.com, then run the command again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_operation_ends_well_or_with_a_reason() {
        let read = |value| serde_json::from_value::<Operation>(value).unwrap();
        let running = read(json!({"name": "operation-1", "status": "RUNNING", "progress": 40, "targetLink": "x", "unknown": 1}));
        assert!(!running.is_done() && running.refusal().is_none() && running.stage() == "40 %");
        assert_eq!(read(json!({"name": "o", "status": "DONE", "progress": 100})).refusal(), None);
        let failed = read(json!({
            "name": "o", "status": "DONE", "httpErrorStatusCode": 403, "httpErrorMessage": "FORBIDDEN",
            "error": {"errors": [{"code": "QUOTA_EXCEEDED", "message": "Quota 'CPUS' exceeded."}]},
        }));
        let refusal = failed.refusal().unwrap();
        assert_eq!((refusal.status, refusal.reason.as_str()), (403, "QUOTA_EXCEEDED"));
        assert_eq!(read(json!({"status": "DONE", "httpErrorStatusCode": 500})).refusal().unwrap().status, 500);
    }
}
