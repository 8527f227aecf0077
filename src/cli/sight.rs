//! How machines and findings look, wherever they are shown: `machine …`, `status`, `doctor`.

use super::Call;
use super::output::{Look, View, clean, count, fields, table, when};
use crate::attest::{Rung, Verdict};
use crate::config::{Label, bytes, time};
use crate::context::Context;
use crate::encoding::{base64, node_id};
use crate::error::{Code, Error, Result};
use crate::ledger::{B64, GrantRow, Machine, MachineState, Proof};
use crate::machine::capability::Capability;
use crate::machine::check::{Check, Outcome};
use crate::machine::{Power, Seen};
use crate::owner::ONION;
use crate::session::messages::{GrantStatus, OnionState, OnionStatus, Status};
use crate::session::seed::Source;
use crate::token::Way;
use serde::Serialize;

/// A machine as recorded and as it is now.
#[derive(Serialize)]
pub(super) struct Sight {
    pub(super) label: Label,
    pub(super) provider: String,
    /// `booting`, `unclaimed`, `running`, `switched-off`, `degraded`, `stopped`, `gone` or `unreachable`; `asking` while a watch waits for its first answer.
    pub(super) state: &'static str,
    pub(super) address: Option<String>,
    pub(super) addresses: Vec<String>,
    /// Its onion address, if it was deployed with one.
    pub(super) onion: Option<String>,
    /// The id of the node's key.
    pub(super) node: Option<String>,
    attestation: Option<String>,
    /// What the last verification of its evidence came to.
    proof: Option<Proof>,
    seed_source: Option<String>,
    folder: Option<String>,
    /// What the owner has switched off: `exit`, `tor`.
    off: Vec<&'static str>,
    /// The node's process, if it is one on this computer and runs.
    pid: Option<i32>,
    /// Unix seconds.
    deployed: u64,
    /// What the node says of itself; absent if it could not be asked.
    pub(super) live: Option<Live>,
    /// Why it could not.
    pub(super) problem: Option<Problem>,
    #[serde(skip)]
    now: u64,
}

/// Why a node could not be asked, and what to do.
#[derive(Serialize)]
pub(super) struct Problem {
    code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// What a node says of itself.
#[derive(Serialize)]
pub(super) struct Live {
    version: String,
    /// Unix seconds.
    started: u64,
    pub(super) sessions: u64,
    pub(super) streams: u64,
    draining: bool,
    allow: Vec<String>,
    /// How its onion service is.
    pub(super) onion: Option<OnionStatus>,
    pub(super) grants: Vec<Use>,
}

/// How a grant was used on a node.
#[derive(Serialize)]
pub(super) struct Use {
    /// The grant's id.
    pub(super) id: String,
    /// Whom it is for, if it is known here.
    pub(super) name: Option<Label>,
    /// Devices it is bound to.
    devices: usize,
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) last_used: Option<u64>,
    /// By which way the last use came: `direct` or `tor`.
    last_way: Option<&'static str>,
    /// Bytes both ways today (UTC).
    today: u64,
    /// Bytes both ways on each day of the last 30 on which there were any, by day since 1970 (UTC).
    days: Vec<(u64, u64)>,
    /// The grant of which a friend made this one.
    pub(super) parent: Option<String>,
    /// The machine that says so.
    machine: Option<Label>,
    pub(super) sessions: u64,
    revoked: bool,
    /// Attempts from elsewhere after it was bound.
    pub(super) reuse: u64,
    last_reuse: Option<u64>,
}

/// The last verdict in one line, as [`crate::attest::Verdict::line`] says it of one that was just made.
fn attestation(proof: &Proof) -> String {
    let rung = proof.rung.parse::<Rung>().unwrap_or_default().title();
    match (proof.kind.as_str(), proof.outcome.as_str()) {
        ("none", "unverified") => format!("none, {rung}"),
        (_, "verified") => format!("{rung} (verified)"),
        (_, outcome) => format!("{outcome}: {}; {rung}", proof.reason.as_deref().unwrap_or_default()),
    }
}

impl Sight {
    /// Brings together what the ledger, the provider and the node say.
    pub(super) fn of(cx: &Context, seen: Seen) -> Result<Sight> {
        let grants = cx.ledger()?.grants()?;
        let Seen { machine, power, pid, live } = seen;
        let claimed = machine.state == MachineState::Claimed;
        let proof = machine.node_key.map(|B64(key)| cx.ledger()?.proof(&key)).transpose()?.flatten();
        let state = match (power, &live) {
            (Power::Gone, _) => "gone",
            (Power::Off, _) => "stopped",
            (Power::Booting, _) => "booting",
            (Power::On, _) if !claimed => "unclaimed",
            (Power::On, Ok(status)) if status.exit_off => "switched-off",
            (Power::On, Ok(status)) if !status.tor_off && status.onion.as_ref().is_some_and(|onion| onion.state != OnionState::Ready) => {
                "degraded"
            }
            (Power::On, Ok(_)) => "running",
            (Power::On, Err(_)) => "unreachable",
        };
        let (live, problem) = match live {
            Ok(status) => (Some(Live::of(status, &grants)), None),
            Err(error) => (None, Some(Problem::of(&error))),
        };
        let off = Capability::ALL.into_iter().filter(|capability| capability.is_off(&machine)).map(Capability::as_str).collect();
        Ok(Sight {
            off,
            addresses: machine.detail.get("addresses").and_then(|a| serde_json::from_value(a.clone()).ok()).unwrap_or_default(),
            onion: machine.detail.get(ONION).and_then(|onion| onion.as_str()).map(str::to_owned),
            label: machine.label,
            provider: machine.provider,
            state,
            address: machine.address,
            node: machine.node_key.map(|B64(key)| node_id(&key)),
            attestation: proof.as_ref().map(attestation).or_else(|| machine.evidence.map(|_| Verdict::none(true).line())),
            proof,
            seed_source: machine.seed_source,
            folder: machine.dir,
            pid,
            deployed: machine.created_ms / 1000,
            live,
            problem,
            now: cx.now(),
        })
    }

    /// A machine that was asked just now and has not answered yet.
    pub(super) fn asking(cx: &Context, machine: Machine) -> Result<Sight> {
        let live = Err(Error::new(Code::TimedOut, "it has not answered yet"));
        let sight = Sight::of(cx, Seen { machine, power: Power::On, pid: None, live })?;
        Ok(Sight { state: "asking", problem: None, ..sight })
    }

    /// `2 sessions, 1.5 MiB`, or what keeps it from being used.
    pub(super) fn use_in_words(&self) -> String {
        match &self.live {
            Some(live) => {
                let sessions = count(usize::try_from(live.sessions).unwrap_or(usize::MAX), "session");
                let moved: u64 = live.grants.iter().map(|grant| grant.up + grant.down).sum();
                format!("{sessions}, {} so far", bytes(moved))
            }
            None => String::new(),
        }
    }
}

impl Problem {
    fn of(error: &Error) -> Problem {
        Problem { code: error.code().as_str(), message: error.message().to_owned(), hint: error.hint_text().map(str::to_owned) }
    }
}

impl Live {
    fn of(status: Status, grants: &[GrantRow]) -> Live {
        Live {
            version: status.version,
            started: status.started,
            // One of them is the one that asks.
            sessions: status.sessions.saturating_sub(1),
            streams: status.streams,
            draining: status.draining,
            allow: status.allow,
            onion: status.onion,
            grants: status.grants.iter().map(|used| Use::of(used, grants, status.now)).collect(),
        }
    }
}

impl Use {
    pub(super) fn of(used: &GrantStatus, grants: &[GrantRow], now: u64) -> Use {
        let known = grants.iter().find(|grant| grant.id.0 == used.id).map(|grant| grant.name.clone());
        Use {
            id: base64(&used.id),
            name: known.or_else(|| used.name.as_ref()?.parse().ok()),
            devices: used.bound.len(),
            up: used.up,
            down: used.down,
            last_used: used.last_used,
            last_way: used.last_way.map(Way::as_str),
            today: used.days.iter().rfind(|(day, _)| *day == now / 86_400).map_or(0, |(_, bytes)| *bytes),
            days: used.days.clone(),
            parent: used.parent.map(|parent| base64(&parent)),
            machine: None,
            sessions: used.sessions,
            revoked: used.revoked,
            reuse: used.reuse,
            last_reuse: used.last_reuse,
        }
    }

    /// The same, with the machine that says so.
    pub(super) fn on(self, machine: Label) -> Use {
        Use { machine: Some(machine), ..self }
    }

    /// Bytes both ways, in all and today.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.up.saturating_add(self.down), self.today)
    }

    /// What an owner must hear: `anna's link was tried again from elsewhere, 3 times`.
    pub(super) fn alarm(&self) -> Option<String> {
        if self.reuse == 0 {
            return None;
        }
        let whose = self.name.as_ref().map_or_else(|| format!("the link of grant {}", self.id), |name| format!("{name}'s link"));
        Some(format!("{whose} was tried again from elsewhere, {}", times(self.reuse)))
    }

    /// `1.5 MiB up, 3 MiB down, 3 minutes ago, by 1 device`.
    pub(super) fn in_words(&self, now: u64) -> String {
        let way = self.last_way.map(|way| if way == "tor" { " over Tor" } else { " directly" }).unwrap_or_default();
        let last = self.last_used.map_or_else(|| "never used".to_owned(), |at| format!("last {}{way}", time::relative(at, now)));
        let devices =
            if self.devices == 0 { "not accepted yet".to_owned() } else { format!("accepted by {}", count(self.devices, "device")) };
        format!("{} up, {} down, {last}, {devices}", bytes(self.up), bytes(self.down))
    }

    fn row(&self, now: u64) -> Vec<String> {
        vec![
            self.name.as_ref().map_or_else(|| self.id.clone(), ToString::to_string),
            self.sessions.to_string(),
            bytes(self.up),
            bytes(self.down),
            self.last_used.map(|at| time::relative(at, now)).unwrap_or_default(),
            match (self.revoked, self.devices) {
                (true, _) => "revoked".to_owned(),
                (false, 0) => "not accepted".to_owned(),
                (false, n) => count(n, "device"),
            },
        ]
    }
}

/// Records alarms that nodes report, so that they are known when the node is gone. A home that cannot be written still shows them.
pub(super) fn hear(cx: &Context, seen: &[Seen]) {
    for one in seen {
        if let Ok(status) = &one.live {
            let _ = crate::exit::grants::note_news(cx, &one.machine, status);
        }
    }
}

/// `once`, `twice`, `3 times`.
pub(super) fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

/// Where a seed comes from, and what that says about who else can have it where that is not the owner.
pub(super) fn seed_in_words(source: &str) -> String {
    match source.parse::<Source>() {
        Ok(known) if known.is_of_hardware() => format!("{known} (known to {})", known.known_to()),
        Ok(known) => known.to_string(),
        Err(_) => clean(source),
    }
}

impl View for Sight {
    fn text(&self, look: &Look) -> String {
        let state = match self.state {
            "running" => look.good(self.state),
            "unclaimed" | "degraded" | "switched-off" => look.warn(self.state),
            _ => look.bad(self.state),
        };
        let mut text = fields(&[
            ("machine", look.bold(&self.label)),
            ("on", self.provider.clone()),
            ("state", state),
            ("addresses", if self.addresses.is_empty() { self.address.clone().unwrap_or_default() } else { self.addresses.join(", ") }),
            ("onion", self.onion.clone().unwrap_or_default()),
            ("off", self.off.join(", ")),
            ("node", self.node.clone().unwrap_or_default()),
            ("attestation", self.attestation.clone().unwrap_or_default()),
            ("seed", self.seed_source.as_deref().map(seed_in_words).unwrap_or_default()),
            ("folder", self.folder.clone().unwrap_or_default()),
            ("process", self.pid.map(|pid| pid.to_string()).unwrap_or_default()),
            ("deployed", when(self.deployed, self.now)),
        ]);
        match &self.live {
            Some(live) => text += &live.text(look, self.now),
            None => {
                if let Some(problem) = &self.problem {
                    text += &format!("{} {}\n", look.warn("attention:"), problem.message);
                    text += &problem.hint.as_ref().map(|hint| format!("  {} {hint}\n", look.good("hint:"))).unwrap_or_default();
                }
            }
        }
        text
    }
}

impl Live {
    fn text(&self, look: &Look, now: u64) -> String {
        let mut text = fields(&[
            ("version", clean(&self.version)),
            ("started", when(self.started, now)),
            ("sessions", self.sessions.to_string()),
            ("streams", self.streams.to_string()),
            ("allowed", self.allow.join(", ")),
            ("draining", if self.draining { "yes: it takes no new sessions".to_owned() } else { String::new() }),
        ]);
        if let Some(onion) = &self.onion {
            text += &fields(&onion_rows(onion, look, now));
        }
        if !self.grants.is_empty() {
            let rows: Vec<_> = self.grants.iter().map(|grant| grant.row(now)).collect();
            text += "\n";
            text += &table(look, &["FRIEND", "SESSIONS", "UP", "DOWN", "LAST USED", "ACCEPTED BY"], &rows);
        }
        for alarm in self.grants.iter().filter_map(Use::alarm) {
            text += &format!("{} {alarm}\n", look.bad("alarm:"));
        }
        text
    }
}

/// How an onion service is, a line for each thing that can be wrong with it.
fn onion_rows(onion: &OnionStatus, look: &Look, now: u64) -> Vec<(&'static str, String)> {
    let state = onion.state.as_str();
    let state = match (onion.state, &onion.reason) {
        (OnionState::Ready, _) => look.good(state),
        (OnionState::Joining, reason) => look.warn(format!("{state}, {} %: {}", onion.percent, reason.as_deref().unwrap_or_default())),
        (_, Some(reason)) => look.warn(format!("{state}: {}", clean(reason))),
        (_, None) => look.warn(state),
    };
    let ago = |at: Option<u64>, never: &str| at.map_or_else(|| never.to_owned(), |at| time::relative(at, now));
    let amount = |n: u64, noun: &str| count(usize::try_from(n).unwrap_or(usize::MAX), noun);
    let descriptor = format!(
        "at {} of {} directories, {}",
        onion.directories_reached,
        onion.directories,
        onion.uploaded_at.map_or_else(|| "never published".to_owned(), |at| format!("published {}", time::relative(at, now)))
    );
    let keys = if onion.discovery_keys == 0 { String::new() } else { amount(onion.discovery_keys, "discovery key") };
    vec![
        ("tor", state),
        ("descriptor", descriptor),
        ("introduction", amount(onion.introduction_points, "point")),
        ("tested", ago(onion.tested_at, "never")),
        ("over tor", format!("{}, {}", amount(onion.clients, "client"), amount(onion.circuits, "circuit"))),
        ("restricted", keys),
    ]
}

/// The findings of a doctor.
#[derive(Serialize)]
pub(super) struct Checks {
    healthy: bool,
    checks: Vec<Check>,
}

impl Checks {
    pub(super) fn new(checks: Vec<Check>) -> Checks {
        Checks { healthy: checks.iter().all(|check| check.outcome != Outcome::Fail), checks }
    }

    /// Shows the findings; an error, and so status 6, if something fails.
    pub(super) fn show(&self, call: &Call) -> Result<()> {
        call.out.show(self)?;
        if self.healthy {
            return Ok(());
        }
        let failed = self.checks.iter().filter(|check| check.outcome == Outcome::Fail);
        let names: Vec<&str> = failed.clone().map(|check| check.name.as_str()).collect();
        let hint = failed.clone().find_map(|check| check.remedy.clone()).unwrap_or_else(|| "see the table above".to_owned());
        Err(Error::new(Code::Precondition, format!("{} failed: {}", count(names.len(), "check"), names.join(", "))).hint(hint))
    }
}

impl View for Checks {
    fn text(&self, look: &Look) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            let outcome = match check.outcome {
                Outcome::Pass => look.good("pass"),
                Outcome::Fail => look.bad("fail"),
                Outcome::Skip => look.dim("skip"),
            };
            text += &format!("{outcome}  {:width$}  {}\n", check.name, check.detail);
            if let Some(remedy) = &check.remedy {
                text += &format!("      {:width$}  {} {remedy}\n", "", look.good("hint:"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_names_the_friend_and_how_often() {
        let used = GrantStatus { reuse: 3, ..GrantStatus::default() };
        let mut seen = Use::of(&used, &[], 0);
        seen.name = Some("anna".parse().unwrap());
        assert_eq!(seen.alarm().unwrap(), "anna's link was tried again from elsewhere, 3 times");
        assert_eq!(Use::of(&GrantStatus::default(), &[], 0).alarm(), None);
        assert_eq!(times(1), "once");
    }
}
