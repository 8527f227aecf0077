//! What can be done with servers that are reached by SSH, and with no other place: look before a deploy, replace a program.

use super::check::Check;
use super::{Kind, Server, ssh};
use crate::config::Label;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::progress::Progress;
use std::path::Path;
use std::time::Duration;

pub use ssh::upgrade::Upgraded;
pub use ssh::{Reply, Target};

/// Looks whether a server that is reached by SSH can have a machine, on this port if it is not 0.
pub async fn examine(cx: &Context, server: &Server, port: u16) -> Result<Vec<Check>> {
    ssh::examine(cx, server, port).await
}

/// What [`upgrade`] would do, one sentence each.
pub fn describe_upgrade(cx: &Context, label: &Label, program: Option<&Path>) -> Result<Vec<String>> {
    can_upgrade(cx, label)?;
    ssh::upgrade::describe(cx, label, program)
}

/// Gives a machine this very program, or the one that is named. It keeps its key and its guests' grants; if its node does not get
/// ready within `budget`, it runs the old program again when this fails.
pub async fn upgrade(
    cx: &Context,
    label: &Label,
    program: Option<&Path>,
    budget: Option<Duration>,
    progress: &dyn Progress,
) -> Result<Upgraded> {
    can_upgrade(cx, label)?;
    ssh::upgrade::upgrade(cx, label, program, budget, progress).await
}

fn can_upgrade(cx: &Context, label: &Label) -> Result<()> {
    let machine = cx.ledger()?.machine(label)?;
    if machine.provider == Kind::Ssh.as_str() {
        return Ok(());
    }
    Err(Error::new(Code::Usage, format!("machine `{label}` is on `{}`, where a program is not replaced in place", machine.provider))
        .hint("deploy a new machine with this version, then destroy the old one"))
}
