//! Machines that are looked at again and again, and what they counted on the last days.

use super::{Control, Power, Seen, ask_again, from_outside, glance};
use crate::context::Context;
use crate::error::Result;
use crate::ledger::Machine;
use crate::session::messages::HistoryReply;

/// A machine that is looked at again and again, over one session for as long as it lasts: the node logs each.
pub struct Watched {
    machine: Machine,
    control: Option<Control>,
}

impl Watched {
    /// Nothing is asked yet.
    pub fn new(machine: Machine) -> Watched {
        Watched { machine, control: None }
    }

    /// The machine as it is recorded now; another address or key needs another session.
    pub fn update(&mut self, machine: Machine) {
        if (&machine.detail, &machine.address, machine.node_key) != (&self.machine.detail, &self.machine.address, self.machine.node_key) {
            self.control = None;
        }
        self.machine = machine;
    }

    /// Looks, waiting at most a moment.
    pub async fn look(&mut self, cx: &Context) -> Seen {
        let (machine, control) = (&self.machine, &mut self.control);
        let (power, pid) = from_outside(cx, machine).await;
        if power != Power::On {
            *control = None;
        }
        let ask = async {
            let had_one = control.is_some();
            match ask_again(cx, machine, control).await {
                // The node may have begun anew in between; that is no news.
                Err(_) if had_one => ask_again(cx, machine, control).await,
                asked => asked,
            }
        };
        let live = glance(&machine.label, power, ask).await;
        Seen { machine: machine.clone(), power, pid, live }
    }
}

/// A machine as it is, and what it counted.
pub struct Past {
    /// As it is now.
    pub seen: Seen,
    /// From the node; none if it does not answer at all, as `seen` tells.
    pub history: Option<Result<HistoryReply>>,
}

/// Looks at every machine and back over its last days, all at the same time.
pub async fn look_back_at_all(cx: &Context) -> Result<Vec<Past>> {
    let machines = cx.ledger()?.machines()?;
    Ok(futures::future::join_all(machines.into_iter().map(|machine| look_back(cx, machine))).await)
}

async fn look_back(cx: &Context, machine: Machine) -> Past {
    let mut watched = Watched::new(machine);
    let seen = watched.look(cx).await;
    let history = match &watched.control {
        Some(control) => Some(glance(&seen.machine.label, Power::On, control.history()).await),
        None => None,
    };
    Past { seen, history }
}
