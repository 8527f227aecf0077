//! What Hetzner Cloud needs here, and how one server is.

use super::api::{Api, Failure};
use super::power;
use super::types::Server;
use crate::config::Label;
use crate::context::Context;
use crate::error::Result;
use crate::machine::check::Check;
use crate::machine::provider::Power;
use crate::machine::tools;
use serde_json::Value;

/// The token and what it may; the API, if it can be used.
pub(super) async fn of_account(cx: &Context) -> (Option<Api>, Vec<Check>) {
    let api = match Api::open(cx) {
        Ok(api) => api,
        Err(error) => return (None, vec![Check::failed("token", &error)]),
    };
    let mut checks = Vec::new();
    let usable = match api.get::<Value>("/locations").await {
        Ok(_) => {
            checks.push(Check::pass("token", "Hetzner Cloud knows it"));
            checks.push(check_writing(&api).await);
            checks.push(check_requests(&api));
            true
        }
        Err(failure) => {
            checks.push(Check::failed("token", &failure.into()));
            false
        }
    };
    checks.push(check_ssh());
    (usable.then_some(api), checks)
}

/// Nothing has the number 0, so this removes nothing; a token that only reads is refused before that is seen.
async fn check_writing(api: &Api) -> Check {
    match api.delete("/firewalls/0").await {
        Ok(_) => Check::pass("permission", "it may read and write"),
        Err(failure) if failure.is("not_found") => Check::pass("permission", "it may read and write"),
        Err(failure @ Failure::Said(_)) => Check::failed("permission", &failure.into()),
        Err(Failure::Error(error)) => Check::failed("permission", &error),
    }
}

fn check_requests(api: &Api) -> Check {
    match api.requests_left() {
        Some((0, limit)) => Check::fail("requests", format!("none of {limit} are left in this hour"), "wait some minutes"),
        Some((left, limit)) => Check::pass("requests", format!("{left} of {limit} are left in this hour")),
        None => Check::skip("requests", "Hetzner Cloud does not say how many are left"),
    }
}

fn check_ssh() -> Check {
    match tools::find("ssh").filter(|_| tools::find("ssh-keygen").is_some()) {
        Some(path) => Check::pass("ssh", path.display().to_string()),
        None => Check::skip("ssh", "not installed; only machine publish needs it: apt-get install openssh-client"),
    }
}

/// How the server of a machine is.
pub(super) fn of_server(server: Result<Option<Server>>, label: &Label) -> Check {
    match server {
        Ok(Some(server)) if server.public_net.firewalls.is_empty() => Check::fail(
            "server",
            format!("{} is {}, and no firewall is before it", server.name, server.status),
            "put its firewall back: https://console.hetzner.com",
        ),
        Ok(Some(server)) => match power(&server) {
            Power::On => Check::pass("server", format!("{} is running", server.name)),
            other => {
                Check::fail("server", format!("{} is {}", server.name, other.as_str()), format!("portdistrict machine reconnect {label}"))
            }
        },
        Ok(None) => Check::fail("server", "it is gone", format!("portdistrict machine destroy {label} --yes")),
        Err(error) => Check::failed("server", &error),
    }
}
