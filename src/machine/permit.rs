//! What the owner's policy says of a deploy and of a claim, asked before anything is made or handed over; and machines told of it.

use super::{GLANCE, Kind, Order, qemu};
use crate::attest::{Outcome, Verdict};
use crate::config::Label;
use crate::context::Context;
use crate::error::Result;
use crate::ledger::kinds::{Body, MachineDeployed};
use crate::owner::Control;
use crate::policy::{self, Act, Asked};
use futures::future::join_all;
use tokio::time::timeout;

/// May this machine be made?
pub(super) fn deploy(cx: &Context, order: &Order, asked: Asked) -> Result<()> {
    let image = match (&order.vm, order.on) {
        (Some(vm), Kind::Qemu) => Some(qemu::image_of(vm)?.uki_authenticode),
        _ => None,
    };
    let today = policy::today(cx, MachineDeployed::KIND)?;
    // How a provider launches it, and so what the processor will measure, is for the claim to check.
    let act = Act::Deploy { provider: order.on.as_str(), image: image.as_deref(), measurement: None, today };
    policy::guard(cx, &act, order.label.as_str(), asked)
}

/// Tells every claimed machine that has not heard of the policy. Returns those that could not be told; they are at their next visit.
pub async fn tell(cx: &Context) -> Result<Vec<Label>> {
    let machines = policy::unheard(cx)?;
    let visits = machines.iter().map(|machine| {
        timeout(GLANCE, async {
            match Control::open(cx, machine).await {
                Ok(control) => control.tell_rules(cx, machine).await.is_ok(),
                Err(_) => false,
            }
        })
    });
    let heard = join_all(visits).await;
    Ok(machines.iter().zip(heard).filter(|(_, heard)| !matches!(heard, Ok(true))).map(|(machine, _)| machine.label.clone()).collect())
}

/// May this machine be given its owner?
pub(super) fn claim(cx: &Context, label: &Label, verdict: &Verdict) -> Result<()> {
    let act = Act::Claim { rung: verdict.rung, verified: verdict.outcome == Outcome::Verified };
    policy::guard(cx, &act, label.as_str(), Asked::InEarnest)
}
