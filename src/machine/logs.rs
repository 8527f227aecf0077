//! A machine's log: read where its provider keeps it, or asked of the node itself.

use super::known_place;
use super::provider::LineSink;
use crate::config::Label;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::ledger::Machine;
use crate::owner::Control;
use crate::session::messages::{LogsReply, LogsRequest, MAX_LOG_LINES};
use std::time::Duration;

/// How long one question waits at the node for a line, seconds.
const WAIT: u64 = 25;
/// How often a node that went away is looked for while its log is followed, and for how long.
const AGAIN: Duration = Duration::from_secs(2);
const PATIENCE: u32 = 15;

/// Where a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Where the provider keeps it; of the node, where a provider keeps none.
    Provider,
    /// Of the node, which keeps the last thousand lines since it started.
    Node,
}

/// Passes on a machine's log.
pub async fn logs(cx: &Context, label: &Label, from: From, lines: usize, follow: bool, sink: LineSink<'_>) -> Result<()> {
    let machine = cx.ledger()?.machine(label)?;
    if from == From::Provider {
        let (provider, site) = known_place(cx, &machine)?;
        if provider.keeps_logs() {
            return provider.logs(&site, lines, follow, sink).await;
        }
    }
    of_node(cx, &machine, lines, follow, sink).await
}

/// The last lines, then those that come. A node that goes away is waited for a while: it may be restarting.
async fn of_node(cx: &Context, machine: &Machine, lines: usize, follow: bool, sink: LineSink<'_>) -> Result<()> {
    let mut reading = Reading { control: Control::open(cx, machine).await?, started: None, last: 0 };
    let mut answer = reading.ask(lines.min(MAX_LOG_LINES), 0).await?;
    loop {
        for line in &answer.lines {
            if !sink(line)? {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        answer = match reading.ask(MAX_LOG_LINES, WAIT).await {
            Ok(answer) => answer,
            Err(error) => reading.find_again(cx, machine, error).await?,
        };
    }
}

/// How far a log was read.
struct Reading {
    control: Control,
    /// When the node started whose lines are counted; they begin anew with it.
    started: Option<u64>,
    last: u64,
}

impl Reading {
    async fn ask(&mut self, lines: usize, wait: u64) -> Result<LogsReply> {
        if self.started.is_none() {
            self.started = Some(self.control.status().await?.started);
        }
        if lines == 0 {
            // Where it stands is asked with one line, which is not shown.
            let answer = self.control.logs(LogsRequest { after: self.last, lines: 1, wait }).await?;
            self.last = answer.last;
            return Ok(LogsReply { lines: Vec::new(), ..answer });
        }
        let answer = self.control.logs(LogsRequest { after: self.last, lines: lines as u64, wait }).await?;
        self.last = answer.last;
        Ok(answer)
    }

    async fn find_again(&mut self, cx: &Context, machine: &Machine, mut last: Error) -> Result<LogsReply> {
        for _ in 0..PATIENCE {
            match self.over_a_new_session(cx, machine).await {
                Ok(answer) => return Ok(answer),
                // It may go away at any word, also of the handshake: then it looks as if it did not hold its key.
                Err(error) => last = error,
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(last)
    }

    async fn over_a_new_session(&mut self, cx: &Context, machine: &Machine) -> Result<LogsReply> {
        let control = Control::open(cx, machine).await?;
        let started = control.status().await?.started;
        if self.started != Some(started) {
            (self.started, self.last) = (Some(started), 0);
        }
        self.control = control;
        let before = self.last;
        let answer = self.ask(MAX_LOG_LINES, 0).await?;
        if answer.last >= before {
            return Ok(answer);
        }
        // It began anew within the second in which it had started before.
        self.last = 0;
        self.ask(MAX_LOG_LINES, 0).await
    }
}
