//! Why a friend reaches a destination, asked of the ledger: his grants and the policy as they stand.

use super::record::{Current, current};
use super::why::{Answer, Lent, why};
use crate::config::{Destination, Label};
use crate::context::Context;
use crate::error::{Code, Error, Result};
use crate::ledger::kinds::{Body, GrantRevoked};
use crate::ledger::{Filter, GrantRow};
use crate::token::SignedGrant;

/// Explains by what is recorded here, with the policy that holds.
pub fn explain(cx: &Context, friend: &Label, to: &Destination) -> Result<(Current, Answer)> {
    let (current, now) = (current(cx)?, cx.now());
    let grants = cx.ledger()?.grants_for(friend)?.iter().map(|grant| lent(cx, grant, now)).collect::<Result<Vec<_>>>()?;
    let span = current.row.as_ref().map(|row| row.span.to_string());
    let answer = why(&current.policy, span.as_deref(), &grants, friend.as_str(), to);
    Ok((current, answer))
}

fn lent(cx: &Context, grant: &GrantRow, now: u64) -> Result<Lent> {
    let signed = SignedGrant::decode(&grant.signed).map_err(|error| {
        Error::new(Code::Ledger, format!("grant {} is recorded in a way that cannot be read", grant.id))
            .cause(error)
            .hint("portdistrict ledger verify")
    })?;
    let list = |rules: &[String]| rules.iter().map(|rule| rule.parse()).collect::<Result<Vec<_>>>();
    let scope = &signed.grant().scope;
    let revoked = match &grant.revoked {
        Some(_) => Some(revoked_by(cx, grant)?),
        None => None,
    };
    let in_time = time_is(grant, now) && !scope.paused;
    Ok(Lent { span: grant.span.to_string(), revoked, in_time, allow: list(&scope.allow)?, deny: list(&scope.deny)? })
}

/// The entry that revoked a grant first.
fn revoked_by(cx: &Context, grant: &GrantRow) -> Result<String> {
    let filter = Filter { kind: Some(GrantRevoked::KIND.to_owned()), ..Filter::default() };
    let (id, entries) = (grant.id.to_string(), cx.ledger()?.log(&filter)?);
    Ok(entries.iter().find(|entry| entry.span.body.get("id").is_some_and(|found| *found == id)).map_or(id, |entry| entry.id.to_string()))
}

fn time_is(grant: &GrantRow, now: u64) -> bool {
    (grant.not_before..grant.expires).contains(&now)
}
