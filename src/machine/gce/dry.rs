//! What a deploy would ask of Google, request by request, with words in braces for what only the deploy will know.

use super::deploy::image_call;
use super::image_path;
use super::settings::{Decided, metadata_of};
use crate::error::{Code, Error, Result};
use crate::google::compute::{self, Call, Mark, NewInstance, Sort};
use crate::google::compute_base;
use crate::machine::provider::Plan;
use serde_json::Value;

/// The requests, and what is to be known before.
pub(super) fn requests(decided: &Decided, plan: &Plan, owner: &str) -> Result<Vec<String>> {
    let mark = Mark::new(owner, &plan.label);
    let name = format!("pd-{}-{{random}}", plan.label);
    let mut steps = sentences(decided, plan);
    let (image, _) = image_call(decided);
    steps.push(in_words(&image));
    let mut made = |sort: Sort, body: Value| {
        let spot = sort.at(&decided.place);
        steps.extend([Call::insert(&spot, "{uuid}", body), Call::wait(&spot, "{operation}"), Call::get(&spot, &name)].iter().map(in_words));
    };
    made(Sort::Firewall, compute::firewall(&name, &mark, decided.port));
    if decided.static_address {
        made(Sort::Address, compute::address(&name, &mark));
    }
    let config = told(decided, plan)?;
    let image = image_path(decided, decided.image.as_deref().unwrap_or("{image}"));
    let new = NewInstance {
        place: &decided.place,
        name: &name,
        mark: &mark,
        image: &image,
        size: &decided.size,
        confidential: decided.confidential,
        address: decided.static_address.then_some("{address}"),
        config: &config,
    };
    made(Sort::Instance, new.body());
    let serial = Call::serial(&Sort::Instance.at(&decided.place), &name, 0);
    steps.push(format!("{}, and on from there until the node says that it is ready", in_words(&serial)));
    steps.push(in_words(&Call::identity(&Sort::Instance.at(&decided.place), &name)));
    Ok(steps)
}

/// What a person should know before.
fn sentences(decided: &Decided, plan: &Plan) -> Vec<String> {
    let kind = if decided.confidential { "its memory encrypted (SEV-SNP), with a vTPM" } else { "with a vTPM" };
    let mut steps = vec![
        format!(
            "make a machine of type {} in {}, {kind}; Secure Boot stays off, because Microsoft signs no image of ours",
            decided.size,
            decided.place.zone()
        ),
        "let nobody but you claim it, and not before its vTPM has shown the image".to_owned(),
    ];
    if plan.source.is_of_hardware() {
        steps.push(format!("let its hardware keep its seed ({}): known to {}", plan.source, plan.source.known_to()));
    }
    if plan.tor.is_some() {
        steps.push("publish an onion service once it is claimed".to_owned());
    }
    steps
}

/// What the node is told, without what is drawn by lot.
fn told(decided: &Decided, plan: &Plan) -> Result<String> {
    let bytes = metadata_of(plan, decided.port)?.to_json()?;
    let text = String::from_utf8(bytes).map_err(|error| Error::new(Code::Failed, "cannot write the machine's metadata").cause(error))?;
    let mut document: Value =
        serde_json::from_str(&text).map_err(|error| Error::new(Code::Failed, "cannot read the machine's metadata").cause(error))?;
    // Replaced within the text, so that its order stays as it is sent.
    let mut shown = text;
    for (field, words) in [("cover", "\"{bootstrap key}\""), ("made_at", "\"{time}\"")] {
        let value = format!("\"{field}\":{}", document[field].take());
        shown = shown.replace(&value, &format!("\"{field}\":{words}"));
    }
    Ok(shown)
}

/// `POST https://… {…}`.
fn in_words(call: &Call) -> String {
    let body = call.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
    format!("{} {}{}{body}", call.method, compute_base(), call.path)
}
