//! What publishing would ask of Google, request by request, with words in braces for what only the doing will know.

use super::{Order, Plan};
use crate::context::Context;
use crate::error::Result;
use crate::google::compute::Call;
use crate::google::compute_base;
use crate::google::images;
use crate::google::storage::description;

/// The requests that [`super::publish`] sends where the image is not there yet; nothing is asked.
pub fn requests(cx: &Context, order: &Order) -> Result<Vec<String>> {
    let plan = Plan::of(cx, order)?;
    let (spot, size) = (&plan.spot, plan.archive.manifest.archive.size);
    let look = in_words(&images::get(&plan.project, &plan.name));
    let source = spot.source();
    let mut requests = vec![
        look.clone(),
        format!("GET {}", spot.url()),
        format!("POST {} {}", spot.upload_url(), description(spot, "{crc32c}", &plan.object_metadata())),
        format!("PUT {{session}} with bytes 0 to {}, in pieces", size.saturating_sub(1)),
        in_words(&images::insert(&plan.project, "{uuid}", &plan.new_image(&source))),
        in_words(&Call::wait_at(&images::operations(&plan.project), "{operation}")),
        look,
    ];
    if !plan.keep_object {
        requests.push(format!("DELETE {}?ifGenerationMatch={{generation}}", spot.url()));
    }
    Ok(requests)
}

/// `POST https://… {…}`.
pub(super) fn in_words(call: &Call) -> String {
    let body = call.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
    format!("{} {}{}{body}", call.method, compute_base(), call.path)
}
