//! What a machine can do, switched off and on again by its owner: a span first, then word to the node.

use super::GLANCE;
use crate::config::Label;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::Machine;
use crate::ledger::kinds::{MachineDisabled, MachineEnabled};
use crate::owner::{self, Control, ONION};
use crate::policy::{self, Act, Asked};
use std::fmt;
use std::str::FromStr;
use tokio::time::timeout;

/// What a machine can do and can be kept from doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// It serves guests.
    Exit,
    /// It is an onion service.
    Tor,
}

impl Capability {
    /// Every one, in the order of [`policy::CAPABILITIES`].
    pub const ALL: [Capability; 2] = [Capability::Exit, Capability::Tor];

    /// The name on the command line, in the ledger and in the policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Exit => "exit",
            Capability::Tor => "tor",
        }
    }

    /// Whether the owner has switched it off on a machine, as far as is recorded here.
    pub fn is_off(self, machine: &Machine) -> bool {
        match self {
            Capability::Exit => machine.exit.off,
            Capability::Tor => machine.tor.off,
        }
    }
}

impl FromStr for Capability {
    type Err = Error;
    fn from_str(text: &str) -> Result<Capability> {
        Capability::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            let names = Capability::ALL.map(Capability::as_str).join(", ");
            Error::new(Code::Usage, format!("{text:?} is nothing that a machine can do: choose one of {names}"))
                .hint("portdistrict machine disable home exit")
        })
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The machine as it is recorded now.
    pub machine: Machine,
    /// Whether it was so before.
    pub already: bool,
    /// How many sessions the node ended; or why it has not heard. It is told at its next visit.
    pub heard: Result<u64>,
}

/// What [`switch`] would do, one sentence each.
pub fn describe(cx: &Context, label: &Label, capability: Capability, on: bool) -> Result<Vec<String>> {
    let machine = permitted(cx, label, capability, on, Asked::DryRun)?;
    let already = capability.is_off(&machine) != on;
    let record = format!("record that `{capability}` of {label} is {}", if on { "on" } else { "off" });
    let tell = match (on, capability) {
        (true, _) => format!("tell {label}"),
        (false, Capability::Exit) => format!("tell {label}, which ends every session of a guest at once"),
        (false, Capability::Tor) => format!("tell {label}, which ends every session over Tor at once and leaves the network"),
    };
    Ok((!already).then_some(record).into_iter().chain([tell]).collect())
}

/// Switches one capability of a machine. It is recorded first, so that a node which is away hears of it at its next visit.
pub async fn switch(cx: &Context, label: &Label, capability: Capability, on: bool) -> Result<Outcome> {
    let machine = permitted(cx, label, capability, on, Asked::InEarnest)?;
    let already = capability.is_off(&machine) != on;
    if !already {
        let (label, capability) = (label.clone(), capability.to_string());
        match on {
            true => cx.record(&MachineEnabled { label, capability })?,
            false => cx.record(&MachineDisabled { label, capability })?,
        };
    }
    let before = machine;
    let machine = cx.ledger()?.machine(label)?;
    let heard = timeout(GLANCE, tell(cx, capability, &before, &machine)).await.unwrap_or_else(|_| {
        Err(Error::new(Code::TimedOut, format!("machine `{label}` did not answer within {} seconds", GLANCE.as_secs()))
            .hint(format!("portdistrict machine reconnect {label}")))
    });
    Ok(Outcome { machine, already, heard })
}

/// Visits it as it was known before, so that the answer to the new word is heard here.
async fn tell(cx: &Context, capability: Capability, before: &Machine, machine: &Machine) -> Result<u64> {
    let switched = Control::open(cx, before).await?.tell_switches(machine).await.map_err(|error| {
        let too_old = error.causes().first().is_some_and(|cause| cause == "protocol");
        if too_old { error.hint("deploy the machine again with this version, which knows how to switch") } else { error }
    })?;
    let Some(switched) = switched else { return Ok(0) };
    let (now, off) = match capability {
        Capability::Exit => (switched.now.exit, machine.exit.off),
        Capability::Tor => (switched.now.tor, machine.tor.off),
    };
    if now.off == off {
        return Ok(switched.closed);
    }
    Err(Error::new(
        Code::Exists,
        format!("machine `{}` has heard a later word about `{capability}` from another device of yours", machine.label),
    )
    .hint("portdistrict ledger import FILE brings what that device recorded; then run this again"))
}

fn permitted(cx: &Context, label: &Label, capability: Capability, on: bool, asked: Asked) -> Result<Machine> {
    let machine = cx.ledger()?.machine(label)?;
    if machine.node_key.is_none() {
        return Err(owner::not_claimed(label));
    }
    if capability == Capability::Tor && !machine.detail.contains_key(ONION) {
        return Err(Error::new(Code::Precondition, format!("machine `{label}` is no onion service"))
            .hint("deploy one with --tor: portdistrict machine deploy --on local --label tower --tor"));
    }
    if on && capability.is_off(&machine) {
        policy::guard(cx, &Act::Enable { capability: capability.as_str() }, label.as_str(), asked)?;
    }
    Ok(machine)
}
