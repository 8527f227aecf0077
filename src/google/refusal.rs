//! Google's refusals in words of what to do: which permission, which quota, which command.

use crate::error::{Code, Error};
use serde_json::Value;

/// What Google says it is, whether an answer or an operation brought it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The status of HTTP; 0 if there is none.
    pub status: u16,
    /// Google's name for it, as in `quotaExceeded` or `QUOTA_EXCEEDED`.
    pub reason: String,
    /// Google's sentence.
    pub message: String,
}

/// Longer sentences are cut.
const MAX_MESSAGE: usize = 600;

impl Refusal {
    /// From the body of an answer: `{"error": {"code", "message", "status", "errors": [{"reason"}], "details": [{"reason"}]}}`. What is
    /// not of this form is told as it is.
    pub fn of_answer(status: u16, body: &[u8]) -> Refusal {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &value["error"];
        let text = |value: &Value| value.as_str().map(shorten).filter(|text| !text.is_empty());
        // The token endpoint has a form of its own: {"error": "invalid_grant", "error_description": "…"}.
        if let Some(reason) = text(error) {
            let message = text(&value["error_description"]).unwrap_or_else(|| reason.clone());
            return Refusal { status, reason, message };
        }
        let details = error["details"].as_array().into_iter().flatten().find_map(|detail| text(&detail["reason"]));
        let reason = details.or_else(|| text(&error["errors"][0]["reason"])).or_else(|| text(&error["status"])).unwrap_or_default();
        let message = text(&error["message"]).unwrap_or_else(|| shorten(&String::from_utf8_lossy(body)));
        Refusal { status, reason, message }
    }

    /// One of the errors of an operation: `{"code", "message"}`.
    pub fn of_operation(status: u16, error: &Value) -> Refusal {
        let text = |name: &str| error[name].as_str().map(shorten).unwrap_or_default();
        Refusal { status, reason: text("code"), message: text("message") }
    }

    /// The permission that is missing, if that is it: Google names it in its sentence.
    pub fn permission(&self) -> Option<&str> {
        let rest = self.message.split_once("Required '")?.1;
        rest.split_once('\'').map(|(permission, _)| permission).filter(|permission| is_permission(permission))
    }

    /// Whether it exists already.
    pub fn is_exists(&self) -> bool {
        self.status == 409 && !self.reason.eq_ignore_ascii_case("resourceNotReady")
            || is(&self.reason, &["alreadyExists", "RESOURCE_ALREADY_EXISTS"])
    }

    /// Whether there is no such thing.
    pub fn is_missing(&self) -> bool {
        self.status == 404 || is(&self.reason, &["RESOURCE_NOT_FOUND"])
    }

    /// Whether it is too early to ask: what is asked for is still being made.
    pub fn is_early(&self) -> bool {
        self.is_missing() || is(&self.reason, &["resourceNotReady", "RESOURCE_NOT_READY"])
    }

    /// Whether something else changed what this request saw.
    pub fn is_stale(&self) -> bool {
        self.status == 412 && !self.message.contains("onstraint") || is(&self.reason, &["CONDITION_NOT_MET"])
    }

    /// As an error of this program. `doing` says what was tried, as in `make the firewall rule pd-home-abc123`.
    pub fn into_error(self, doing: &str, project: &str) -> Error {
        let (code, hint) = self.advice(project);
        let error = Error::new(code, format!("Google refuses to {doing}: {}", self.message.trim_end_matches('.')));
        let told = match (self.status, self.reason.as_str()) {
            (0, reason) => reason.to_owned(),
            (status, "") => format!("status {status}"),
            (status, reason) => format!("status {status}, {reason}"),
        };
        error.because(told).hint(hint)
    }

    /// What it means, and what to do about it.
    fn advice(&self, project: &str) -> (Code, String) {
        if let Some(permission) = self.permission() {
            return (Code::Precondition, permit(permission, project));
        }
        let reason = self.reason.as_str();
        match self.status {
            _ if is(reason, &["accessNotConfigured", "SERVICE_DISABLED"]) => {
                (Code::Precondition, format!("gcloud services enable compute.googleapis.com storage.googleapis.com --project {project}"))
            }
            _ if is(reason, &["billingNotEnabled", "BILLING_DISABLED", "accountDisabled"]) => {
                (Code::Precondition, format!("gcloud billing projects link {project} --billing-account ACCOUNT"))
            }
            _ if is(reason, &["rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"]) => {
                (Code::Unreachable, "too many requests at once; run the command again in a minute".to_owned())
            }
            _ if is(reason, &["quotaExceeded", "QUOTA_EXCEEDED", "limitExceeded", "QUOTA_LIMIT_EXCEEDED"]) => {
                (Code::Precondition, self.more(project))
            }
            _ if reason.starts_with("ZONE_RESOURCE_POOL_EXHAUSTED") || is(reason, &["STOCKOUT", "resourcePoolExhausted"]) => {
                (Code::Unreachable, "this zone has no such machine free now: choose another --zone, or another --size".to_owned())
            }
            _ if self.message.contains("onstraint constraints/") || is(reason, &["orgPolicyConstraintViolation"]) => {
                (Code::Precondition, format!("a policy of the organisation forbids it: gcloud org-policies list --project {project}"))
            }
            401 => (Code::Precondition, "the credentials are not accepted: gcloud auth application-default login".to_owned()),
            _ if is(reason, &["invalid_grant", "invalid_client", "unauthorized_client"]) => {
                (Code::Precondition, "the credentials are not accepted: gcloud auth application-default login".to_owned())
            }
            403 => {
                (Code::Precondition, format!("see which permissions are missing: portdistrict machine doctor --on gce (project {project})"))
            }
            _ if self.is_missing() => (Code::NotFound, "see what is there: portdistrict machine doctor --on gce".to_owned()),
            _ if self.is_exists() => (Code::Exists, "portdistrict machine list".to_owned()),
            429 | 500..=599 => (Code::Unreachable, "that is Google's trouble; run the command again in a minute".to_owned()),
            _ => (Code::Failed, "portdistrict machine doctor --on gce".to_owned()),
        }
    }

    /// How to get more of what is used up.
    fn more(&self, project: &str) -> String {
        let quota = self.message.split_once("Quota '").and_then(|(_, rest)| rest.split_once('\'')).map_or("quota", |(name, _)| name);
        format!(
            "ask Google for more {quota} (https://console.cloud.google.com/iam-admin/quotas?project={project}), choose another --zone or a smaller \
             --size, or remove a machine"
        )
    }
}

/// How somebody is given one permission, and no more.
pub fn permit(permission: &str, project: &str) -> String {
    format!(
        "gcloud iam roles update portdistrict --project {project} --add-permissions {permission} (docs/providers.md has the whole role)"
    )
}

fn is(reason: &str, names: &[&str]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(reason))
}

fn is_permission(text: &str) -> bool {
    text.len() < 100 && text.contains('.') && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
}

/// One line, without what a terminal would take for its own, and no more than can be read.
fn shorten(text: &str) -> String {
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean: String = words.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE + 1).collect();
    match clean.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: u16, reason: &str, message: &str) -> Refusal {
        let body = json!({"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}});
        Refusal::of_answer(status, body.to_string().as_bytes())
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let table = [
            (
                answer(403, "forbidden", "Required 'compute.instances.create' permission for 'projects/p/zones/z/instances/n'"),
                Code::Precondition,
                "--add-permissions compute.instances.create",
            ),
            (answer(403, "accessNotConfigured", "Compute Engine API has not been used"), Code::Precondition, "gcloud services enable"),
            (answer(403, "quotaExceeded", "Quota 'STATIC_ADDRESSES' exceeded. Limit: 8.0"), Code::Precondition, "more STATIC_ADDRESSES"),
            (answer(403, "rateLimitExceeded", "Rate Limit Exceeded"), Code::Unreachable, "in a minute"),
            (answer(403, "forbidden", "no"), Code::Precondition, "machine doctor --on gce"),
            (answer(401, "authError", "Invalid Credentials"), Code::Precondition, "gcloud auth application-default login"),
            (answer(404, "notFound", "The resource 'projects/p' was not found"), Code::NotFound, "doctor"),
            (answer(409, "alreadyExists", "The resource already exists"), Code::Exists, "machine list"),
            (
                answer(412, "conditionNotMet", "Constraint constraints/compute.vmExternalIpAccess violated"),
                Code::Precondition,
                "org-policies",
            ),
            (answer(503, "backendError", "try again"), Code::Unreachable, "Google's trouble"),
            (
                Refusal::of_operation(0, &json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "The zone has no resources"})),
                Code::Unreachable,
                "another --zone",
            ),
            (
                Refusal::of_operation(403, &json!({"code": "QUOTA_EXCEEDED", "message": "Quota 'N2D_CPUS' exceeded."})),
                Code::Precondition,
                "more N2D_CPUS",
            ),
        ];
        for (refusal, code, hint) in table {
            let (shown, error) = (format!("{refusal:?}"), refusal.into_error("make it", "my-project"));
            assert_eq!(error.code(), code, "{shown}");
            assert!(error.hint_text().unwrap().contains(hint), "{shown}: {:?}", error.hint_text());
        }
    }

    #[test]
    fn the_details_name_it_better_than_the_list_of_errors() {
        let body = json!({"error": {
            "code": 403, "message": "It is disabled.", "status": "PERMISSION_DENIED",
            "errors": [{"reason": "forbidden"}],
            "details": [{"@type": "type.googleapis.com/google.rpc.Help"}, {"reason": "SERVICE_DISABLED", "domain": "googleapis.com"}],
        }});
        assert_eq!(Refusal::of_answer(403, body.to_string().as_bytes()).reason, "SERVICE_DISABLED");
        let token = br#"{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}"#;
        let refusal = Refusal::of_answer(400, token);
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("invalid_grant", "Invalid JWT Signature."));
    }

    #[test]
    fn what_is_no_answer_of_googles_is_shown_and_cut() {
        let refusal = Refusal::of_answer(502, format!("<html>\n\u{1b}[2J{}", "a".repeat(5000)).as_bytes());
        assert!(refusal.message.starts_with("<html> [2Jaaa") && refusal.message.chars().count() == MAX_MESSAGE + 1, "{refusal:?}");
        assert_eq!(Refusal::of_answer(500, b"").message, "");
        assert_eq!(answer(403, "forbidden", "Required 'rm -rf' permission").permission(), None);
    }

    #[test]
    fn what_changed_meanwhile_is_no_policy() {
        assert!(answer(412, "conditionNotMet", "Supplied fingerprint does not match current metadata fingerprint.").is_stale());
        assert!(!answer(412, "conditionNotMet", "Constraint constraints/x violated for project p").is_stale());
        assert!(answer(409, "alreadyExists", "there").is_exists() && !answer(409, "resourceNotReady", "wait").is_exists());
    }
}
