//! What the zoo found. What the judge still does not do is ignored: such a test fails until it does, and then loses its `ignore`.

use super::snp::{firmware, milan};
use super::specimen::{MEASURED, OTHER, Says, Specimen};
use super::tpm::{boots, did};
use crate::attest::eventlog::EventType;
use crate::attest::eventlog::tests::support::event;
use crate::attest::judge::{Wanted, demands};
use crate::attest::{Outcome, Reason, Rung, Verdict};

fn judged(specimen: Specimen) -> Verdict {
    let (shown, setting) = specimen.build();
    setting.judge(shown.as_deref())
}

/// What a grant demands holds beside what the policy lists, not instead of it.
#[test]
fn a_grants_demand_is_not_met_by_the_policys_firmware() {
    let demand = Wanted::Demand(demands(&OTHER, None));
    let listed = || milan().policy(format!("snp.firmware = [\"{}\"]", hex::encode(MEASURED)));
    // As `Terms::demanded` sets it for a grant.
    let verdict = judged(listed().want(demand.clone()).demand(Rung::ProviderFirmware));
    assert_eq!(verdict.outcome, Outcome::Refused, "{}", verdict.line());
    let verdict = judged(milan().want(firmware()).want(demand));
    assert_ne!(verdict.outcome, Outcome::Verified, "{}", verdict.line());
}

#[test]
fn a_grants_demand_is_not_met_by_another_image_in_the_policy() {
    let demand = Wanted::Demand(demands(&OTHER, None));
    let verdict = judged(Specimen::tpm("plain").image(boots("plain")).want(demand));
    assert_eq!((verdict.outcome, verdict.reason()), (Outcome::Refused, Some(Reason::ImageMismatch)), "{}", verdict.line());
}

/// The boot program gave up, and the firmware went on to the next boot entry.
#[test]
fn a_boot_program_that_returned_is_not_what_runs() {
    let returned = |events: &mut Vec<_>| {
        for action in ["Returning from EFI Application from Boot Option", "Calling EFI Application from Boot Option"] {
            events.push(event(4, EventType::EfiAction, action.as_bytes(), action.as_bytes()));
        }
        events.push(event(4, EventType::EfiBootServicesApplication, b"another system", b"?"));
    };
    let verdict = judged(did(returned).image(boots("plain")));
    assert_eq!((verdict.outcome, verdict.reason()), (Outcome::Refused, Some(Reason::ImageMismatch)), "{}", verdict.line());
    let verdict = judged(did(returned).want(Wanted::Demand(demands(&boots("plain"), None))));
    assert_eq!((verdict.outcome, verdict.reason()), (Outcome::Refused, Some(Reason::ImageMismatch)), "{}", verdict.line());
}

/// A rule of the policy that does not hold is a refusal, not a gap.
#[test]
fn a_product_that_the_policy_forbids_is_refused() {
    let forbidden = || "snp.products = [\"genoa\"]";
    let verdict = judged(milan().policy(forbidden()));
    assert_eq!(verdict.outcome, Outcome::Refused, "{}", verdict.line());
    let verdict = judged(Specimen::both("plain").whole().policy(forbidden()));
    assert_eq!(verdict.outcome, Outcome::Refused, "{}", verdict.line());
}

/// `Verdict::image` is what was proved: nobody vouches for a quote of a TPM that was not asked.
#[test]
fn an_image_that_nobody_vouches_for_is_not_told_as_proved() {
    let not_asked = judged(Specimen::both("plain").says(Says::Nothing));
    assert_eq!((not_asked.outcome, not_asked.rung, not_asked.image), (Outcome::Verified, Rung::GenuineChip, None));
}

/// A refusal vouches for nothing, whatever it is for.
#[test]
fn a_refusal_for_a_demand_keeps_no_values() {
    let verdict = judged(Specimen::tpm("plain").whole().demand(Rung::ImageByHardware));
    assert_eq!((verdict.outcome, verdict.image, verdict.endorsement), (Outcome::Refused, None, None));
}

/// What was launched by old firmware stays what that firmware launched.
#[test]
fn a_guest_that_old_firmware_launched_is_refused() {
    let verdict = judged(milan().report(|report| report[0x1f0 + 6] = 1).policy("snp.minimum_tcb.milan.snp = 21"));
    assert_eq!((verdict.outcome, verdict.reason()), (Outcome::Refused, Some(Reason::TcbTooOld)), "{}", verdict.line());
}
