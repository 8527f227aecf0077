//! What was taken back, told to a node that may have missed it.

use super::Control;
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::Machine;
use crate::session::messages::{MAX_REVOCATIONS, Revoked};
use crate::token::SignedRevocation;
use std::time::Duration;

/// How long a node may take to hear of a revocation; it is told again later.
const TELL_TIMEOUT: Duration = Duration::from_secs(8);

/// Hands a machine every revocation that still matters to it. Those it knows change nothing.
pub async fn push(cx: &Context, machine: &Machine) -> Result<Revoked> {
    let revocations = outstanding(cx, machine)?;
    if revocations.is_empty() {
        return Ok(Revoked { accepted: 0, closed: 0 });
    }
    let tell = async { tell(&*Control::open(cx, machine).await?, &revocations).await };
    tokio::time::timeout(TELL_TIMEOUT, tell).await.unwrap_or_else(|_| {
        Err(Error::new(Code::TimedOut, format!("machine `{}` did not answer within {} seconds", machine.label, TELL_TIMEOUT.as_secs()))
            .hint(format!("portdistrict machine reconnect {}", machine.label)))
    })
}

async fn tell(node: &crate::session::ControlClient, revocations: &[Vec<u8>]) -> Result<Revoked> {
    let mut sum = Revoked { accepted: 0, closed: 0 };
    for some in revocations.chunks(MAX_REVOCATIONS) {
        let answer = node.revoke(some.to_vec()).await?;
        sum = Revoked { accepted: sum.accepted + answer.accepted, closed: sum.closed + answer.closed };
    }
    Ok(sum)
}

/// Newest first, so that the one just made is in the first request. An expired grant is refused by the clock alone.
fn outstanding(cx: &Context, machine: &Machine) -> Result<Vec<Vec<u8>>> {
    let now = cx.now();
    let grants = cx.ledger()?.grants()?.into_iter();
    let concern = grants.filter(|grant| now < grant.expires && (grant.node_key.is_none() || grant.node_key == machine.node_key));
    let identity = cx.keyring()?.identity_public();
    // What an identity granted that was rotated since is refused as a whole, and nothing it signed is heard.
    let heard = |bytes: &Vec<u8>| SignedRevocation::decode(bytes).is_ok_and(|signed| signed.revocation().issuer == identity);
    Ok(concern.filter_map(|grant| grant.revoked?.revocation).filter(heard).collect())
}
