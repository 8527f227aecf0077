//! `--explain`: after a refusal, the rule that made it in plain words, and the entry of the ledger that put it in force.

use super::output::{Look, when};
use crate::config::{Paths, time};
use crate::error::{Error, Ruling};
use crate::ledger::{Entry, Ledger};
use crate::trust::Refusal;

/// What each rule means: those of a policy, by their path, and those that hold whatever the policy says.
const RULES: [(&str, &str); 30] = [
    ("strict", "The policy is strict: what it does not name is refused."),
    ("signatures_required", "The policy takes nothing on trust: evidence must be verified, and images must be listed in it."),
    ("editors", "Only the devices that the policy lists may change it."),
    ("deploy.providers", "Machines may be deployed only at the providers that the policy lists."),
    ("deploy.images", "Only the images that the policy lists may be deployed."),
    ("deploy.measurements", "Only machines with a launch measurement that the policy lists may be deployed."),
    ("deploy.per_day", "The policy limits how many machines are deployed a day (UTC)."),
    ("claim.rung", "A machine must stand at least on this rung of the ladder of proof before it is given anything."),
    ("invite.modes", "Invites may have only the modes that the policy lists."),
    ("invite.longest", "The policy limits how long an invite may hold."),
    ("invite.bytes", "The policy limits how many bytes an invite may allow."),
    ("invite.per_day", "The policy limits how many invites are made a day (UTC)."),
    ("enable.capabilities", "Only what the policy lists may be switched on again."),
    ("reach", "A rule of the policy says where friends may go; one that refuses wins over one that allows."),
    ("peer-key-changed", "A name stands for one key until the old key signs for a new one, or the peer is forgotten."),
    ("peer-revoked", "A peer that was revoked is believed nothing and given nothing."),
    ("peer-succeeded", "A key that was replaced by a rotation counts no more."),
    ("peer-unverified", "A peer is trusted only after words were compared, unless you say --unverified."),
    ("peer-words", "The words of both sides must be the same."),
    ("device-of-another-owner", "A device joins the identity whose code it answered, and no other."),
    ("device-revoked", "A device that was revoked does not come back."),
    ("device-code-used", "A code is good for one device."),
    ("device-code-expired", "A code holds for ten minutes."),
    ("image-unsigned", "An image is believed only with the signed word of whoever built it."),
    ("image-provenance", "Who made an image is told in one form, which any change breaks."),
    ("image-certificate", "A device signs for its identity only with that identity's certificate."),
    ("image-signature", "What is said of an image counts only as it was signed."),
    ("image-signer", "An image must be signed by whom you name, by you, or by a peer you have verified."),
    ("image-altered", "An image must be, byte for byte, the one that was signed for."),
    ("evidence", "A machine gets nothing before it has proved what is demanded of it."),
];

/// The explanation of a refusal; none where nobody ruled.
pub(super) fn explain(error: &Error, paths: Option<&Paths>, look: &Look) -> Option<String> {
    let ruling = error.ruling()?;
    let mut text = format!("  {} {}\n", look.bold("rule:"), ruling.rule);
    if let Some(meaning) = meaning(&ruling.rule) {
        text += &format!("         {meaning}\n");
    }
    text += &match (&ruling.entry, entry(ruling, paths)) {
        (Some(_), Some(entry)) => in_words(&entry, look),
        (Some(id), None) => format!("  {} {id}, which cannot be read here\n", look.bold("entry:")),
        (None, _) => format!("  {} in the record of whoever set the rule; it is not known on this computer\n", look.bold("entry:")),
    };
    Some(text)
}

fn entry(ruling: &Ruling, paths: Option<&Paths>) -> Option<Entry> {
    Ledger::open_read_only(&paths?.ledger_file()).ok()?.show(ruling.entry.as_deref()?).ok()
}

fn in_words(entry: &Entry, look: &Look) -> String {
    let mut text = format!("  {} {}\n", look.bold("entry:"), entry.id);
    text +=
        &format!("         {}, number {} of this ledger, {}\n", entry.span.kind, entry.pos, when(entry.span.hlc.ms / 1000, time::now_s()));
    text += &format!("         signed by device {}\n", entry.span.author);
    text + &format!("         {}\n", look.dim(format!("whole: portdistrict ledger show {}", entry.id)))
}

/// What a rule means: one of the policy, or a node's refusal.
fn meaning(rule: &str) -> Option<String> {
    if let Ok(refusal) = rule.parse::<Refusal>() {
        let mut sentence = refusal.for_friend("the exit");
        if let Some(first) = sentence.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        return Some(format!("{sentence}."));
    }
    RULES.iter().find(|(path, _)| rule.split('[').next() == Some(*path)).map(|(_, meaning)| (*meaning).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn every_rule_has_words() {
        for rule in RULES.iter().map(|(path, _)| *path).chain(["reach[7]"]).chain(Refusal::ALL.iter().map(|refusal| refusal.as_str())) {
            assert!(meaning(rule).is_some_and(|words| words.ends_with('.')), "{rule}");
        }
        assert!(meaning("nonsense").is_none());
    }

    #[test]
    fn only_what_was_ruled_is_explained() {
        assert!(explain(&Error::new(Code::Failed, "no"), None, &Look::PLAIN).is_none());
        let refused = Error::new(Code::Refused, "no").ruled("invite.modes", Some("abc".to_owned()));
        let text = explain(&refused, None, &Look::PLAIN).unwrap();
        assert!(text.contains("invite.modes") && text.contains("abc"), "{text}");
    }
}
