//! What the owner's policy says of a deploy and of a claim, asked before anything is made or handed over.

use super::{Kind, Order, qemu};
use crate::attest::{Outcome, Verdict};
use crate::config::Label;
use crate::context::Context;
use crate::error::Result;
use crate::ledger::kinds::{Body, MachineDeployed};
use crate::policy::{self, Act, Asked};

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

/// May this machine be given its owner?
pub(super) fn claim(cx: &Context, label: &Label, verdict: &Verdict) -> Result<()> {
    let act = Act::Claim { rung: verdict.rung, verified: verdict.outcome == Outcome::Verified };
    policy::guard(cx, &act, label.as_str(), Asked::InEarnest)
}
