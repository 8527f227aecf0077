//! What is decided about a machine before Google is asked for anything: from the command line, the environment, and what is usual.

use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::google::compute::{Place, check_project, is_name};
use crate::machine::provider::{CloudPlan, Plan};
use crate::owner::metadata::{self, Metadata};
use crate::session::seed::Source;

/// The family that images are published in.
pub(in crate::machine) const FAMILY: &str = "portdistrict";
/// The cheapest machine that has everything; and the smallest that has SEV-SNP.
pub(super) const SIZE: &str = "e2-micro";
pub(super) const CONFIDENTIAL_SIZE: &str = "n2d-standard-2";
/// Machine types on AMD processors that have SEV-SNP.
const CONFIDENTIAL_SERIES: &str = "n2d-";

/// Where projects are named in the environment, in the order of gcloud and of Google's libraries.
const PROJECT_VARIABLES: [&str; 3] = ["CLOUDSDK_CORE_PROJECT", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"];
const ZONE_VARIABLE: &str = "CLOUDSDK_COMPUTE_ZONE";

/// A machine as it will be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) place: Place,
    /// Machine type.
    pub(super) size: String,
    /// Name of its image; the newest one if absent.
    pub(super) image: Option<String>,
    pub(super) confidential: bool,
    pub(super) static_address: bool,
    /// The port that the node listens on.
    pub(super) port: u16,
}

impl Decided {
    /// Refuses what no machine at Google can be.
    pub(super) fn of(cx: &Context, plan: &Plan) -> Result<Decided> {
        let usage = |what: &str, hint: &str| Err(Error::new(Code::Usage, what).hint(hint));
        if plan.owner.is_none() {
            return usage("an image is claimed by the one who deployed it, and nobody else", "leave --claim-by-anyone away");
        }
        if plan.service {
            return usage("a machine at Google is started by Google, and by no systemd unit", "leave --systemd away");
        }
        if plan.listen.is_some() {
            return usage(
                "a machine at Google listens on the address that it gets",
                "leave --listen away; --static-address keeps its address",
            );
        }
        if plan.source == Source::Measured {
            return usage(
                "at Google a seed cannot be `measured`: the launch measurement covers Google's firmware alone, and another customer's machine \
                 on the same processor would have the same seed",
                "--seed owner, or --seed sealed",
            );
        }
        let cloud = plan.cloud.clone().unwrap_or_default();
        let place = Place::new(&project(cx, cloud.project.as_deref())?, &zone(cx, cloud.zone.as_deref())?)?;
        if let Some(name) = cloud.image.as_deref().filter(|name| !is_name(name)) {
            return Err(
                Error::new(Code::Usage, format!("{name:?} is no name of an image at Google")).hint("portdistrict machine publish --list")
            );
        }
        let size = size(&cloud)?;
        let port = if plan.port == 0 { metadata::PORT } else { plan.port };
        Ok(Decided { place, size, image: cloud.image, confidential: cloud.confidential, static_address: cloud.static_address, port })
    }
}

/// The project: as named, else as the environment says, else as the settings say.
pub(in crate::machine) fn project(cx: &Context, named: Option<&str>) -> Result<String> {
    let project = named.map(str::to_owned).or_else(|| PROJECT_VARIABLES.iter().find_map(|name| variable(name)));
    let project = project.or_else(|| cx.settings().ok()?.gce.project.clone()).ok_or_else(|| {
        Error::new(Code::Usage, "no project is named")
            .because(format!("neither --project says one, nor {}, nor [gce] project in config.toml", PROJECT_VARIABLES.join(", ")))
            .hint("gcloud projects list, then: --project PROJECT")
    })?;
    check_project(&project)?;
    Ok(project)
}

/// The zone, found in the same way.
pub(super) fn zone(cx: &Context, named: Option<&str>) -> Result<String> {
    let zone = named.map(str::to_owned).or_else(|| variable(ZONE_VARIABLE));
    zone.or_else(|| cx.settings().ok()?.gce.zone.clone()).ok_or_else(|| {
        Error::new(Code::Usage, "no zone is named")
            .because(format!("neither --zone says one, nor {ZONE_VARIABLE}, nor [gce] zone in config.toml"))
            .hint("choose one near your friends, as in --zone europe-west4-a; all of them: gcloud compute zones list")
    })
}

/// A variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn size(cloud: &CloudPlan) -> Result<String> {
    let usual = if cloud.confidential { CONFIDENTIAL_SIZE } else { SIZE };
    let size = cloud.size.clone().unwrap_or_else(|| usual.to_owned());
    if !is_name(&size) {
        return Err(Error::new(Code::Usage, format!("{size:?} is no machine type of Google's")).hint(format!("as in --size {usual}")));
    }
    if cloud.confidential && !size.starts_with(CONFIDENTIAL_SERIES) {
        return Err(Error::new(Code::Usage, format!("machines of type {size} have no SEV-SNP"))
            .hint(format!("--size {CONFIDENTIAL_SIZE}, or another one of {CONFIDENTIAL_SERIES}…; or leave --confidential away")));
    }
    Ok(size)
}

/// What the node is told.
pub(super) fn metadata_of(plan: &Plan, port: u16) -> Result<Metadata> {
    plan.metadata(port, plan.cloud.as_ref().map(|cloud| cloud.on_failure).unwrap_or_default())
}
