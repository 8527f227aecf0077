//! Removing what was made: by the record, and only what bears the owner's mark.

use super::deploy::new_request;
use crate::config::Label;
use crate::error::{Code, Error, Result};
use crate::google::compute::{Call, Mark, Spot, Thing};
use crate::google::operations::{self, Operation, Operations};
use crate::google::{Api, Failure};
use crate::ledger::Resource;
use crate::progress::Step;
use serde_json::Value;
use std::time::Duration;

/// How long Google may take.
const BUDGET: Duration = Duration::from_secs(5 * 60);
/// How often is looked for something whose answer was lost, with a growing pause.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// What became of something.
pub(super) enum Gone {
    /// Google has it.
    There(Box<Thing>),
    /// Google does not have it, and nothing is under way that would make it.
    Gone,
}

/// The owner under whose mark something was made: the identity may have been rotated since.
pub(super) fn owner_of(resource: &Resource) -> Option<&str> {
    resource.detail.get("owner").and_then(Value::as_str)
}

/// Removes one thing; well if it is gone already.
pub(super) async fn remove(api: &Api, resource: &Resource, step: &dyn Step) -> Result<()> {
    let spot = Spot::parse(&resource.what, &resource.place)?;
    let mark = mark_of(resource)?;
    let by_hand = || format!("remove it by hand: {}", spot.removal(&resource.name));
    let Gone::There(thing) = find(api, &spot, resource).await? else { return Ok(()) };
    if !mark.is_on(&thing) {
        if !resource.made {
            // It was somebody else's before: what was intended never came to be.
            return Ok(());
        }
        let what = format!("{} {} does not bear your mark any more, so it was not touched", resource.what, resource.name);
        return Err(Error::new(Code::Refused, what).hint(by_hand()));
    }
    let refused = |failure: Failure| {
        let error = failure.into_error(&format!("remove {} {}", resource.what, resource.name), spot.project());
        error.because(by_hand())
    };
    match api.ask::<Operation>(&Call::delete(&spot, &resource.name, &new_request()?)).await {
        Ok(operation) => match operations::wait(api, &spot, operation, BUDGET, step).await {
            Ok(_) => Ok(()),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(()),
            Err(failure) => Err(refused(failure)),
        },
        Err(Failure::Refused(refusal)) if refusal.is_missing() => Ok(()),
        Err(failure) => Err(refused(failure)),
    }
}

/// The mark that something bears if it was made by its record.
pub(super) fn mark_of(resource: &Resource) -> Result<Mark> {
    let label: Option<Label> = resource.act.strip_prefix("machine/").and_then(|label| label.parse().ok());
    match (owner_of(resource), label) {
        (Some(owner), Some(label)) => Ok(Mark::new(owner, &label)),
        _ => Err(Error::new(Code::Ledger, format!("the record of {} does not say for whom it was made", resource.id()))
            .hint("portdistrict ledger verify")),
    }
}

/// Looks for something. Where nobody knows whether the request that makes it arrived, Google is asked for that request: what is under
/// way is waited for, so that nothing comes to be after it was removed.
pub(super) async fn find(api: &Api, spot: &Spot, resource: &Resource) -> Result<Gone> {
    let mut pause = PAUSE;
    for look in 1..=LOOKS {
        match api.ask::<Thing>(&Call::get(spot, &resource.name)).await {
            Ok(thing) => return Ok(Gone::There(Box::new(thing))),
            Err(Failure::Refused(refusal)) if refusal.is_missing() => {}
            Err(failure) => return Err(failure.into_error(&format!("show {} {}", resource.what, resource.name), spot.project())),
        }
        if resource.made || look == LOOKS || !arrived(api, spot, resource).await? {
            break;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    Ok(Gone::Gone)
}

/// Whether the request that was to make something arrived and came to a good end.
async fn arrived(api: &Api, spot: &Spot, resource: &Resource) -> Result<bool> {
    let Some(request) = resource.detail.get("request").and_then(Value::as_str) else { return Ok(false) };
    let refused = |failure: Failure| failure.into_error(&format!("show what became of {}", resource.name), spot.project());
    let known: Operations = api.ask(&Call::operations_of(spot, request)).await.map_err(refused)?;
    let Some(operation) = known.items.into_iter().find(|operation| operation.client_operation_id == request) else { return Ok(false) };
    match operations::wait(api, spot, operation, BUDGET, &crate::progress::Silent).await {
        Ok(_) => Ok(true),
        Err(Failure::Refused(_)) => Ok(false),
        Err(failure) => Err(refused(failure)),
    }
}
