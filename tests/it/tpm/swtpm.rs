//! The node's half and the verifier's half against a real software TPM.

use super::common::{AK_ATTRIBUTES, Swtpm, counting, ecc_template, rsa_template};
use portdistrict::attest::Reason;
use portdistrict::attest::tpm::credential::make_credential;
use portdistrict::attest::tpm::device::{EkKind, Error, Hierarchy};
use portdistrict::attest::tpm::public::{Attributes, Key, Public};
use portdistrict::attest::tpm::quote::{AttestationKey, Parent, Quoted, verify, verify_child};
use portdistrict::node::hardware::{PCRS, seed};
use std::collections::BTreeMap;

const SECRET: [u8; 32] = [0x5a; 32];

#[test]
fn a_quote_verifies_and_covers_exactly_its_registers() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    tpm.extend(7, [9; 32]);
    tpm.extend(16, [8; 32]);
    let ak = device.create_ak(Hierarchy::Endorsement).unwrap();
    let pcrs = [16, 0, 7, 1, 2, 3, 4, 5, 6, 23, 11];
    let quote = device.quote(&ak, &[1; 64], &pcrs).unwrap();
    let quoted = verify(&quote.attest, &quote.signature, ak.public()).unwrap();
    assert_eq!(quoted.extra_data(), [1; 64]);
    assert_eq!(quoted.pcrs(), [0, 1, 2, 3, 4, 5, 6, 7, 11, 16, 23]);
    assert_eq!(quoted.clock_info().reset_count, 1);
    assert_eq!(quoted.clock_info().restart_count, 0);
    assert_eq!(quoted.qualified_signer().len(), 34);
    assert_ne!(quoted.firmware_version(), 0);

    let values = device.pcr_read(&pcrs).unwrap();
    assert_eq!(values.len(), 11);
    assert_ne!(values[&7], [0; 32]);
    quoted.covers(&values).unwrap();
    let mut other = values.clone();
    other.get_mut(&7).unwrap()[31] ^= 1;
    assert_eq!(quoted.covers(&other).unwrap_err().reason, Reason::EventLogMismatch);
    let mut fewer = values.clone();
    fewer.remove(&0);
    assert_eq!(quoted.covers(&fewer).unwrap_err().reason, Reason::RegistersMissing);
    let mut more = values;
    more.insert(8, [0; 32]);
    assert_eq!(quoted.covers(&more).unwrap_err().reason, Reason::RegistersMissing);
    assert_eq!(quoted.covers(&BTreeMap::new()).unwrap_err().reason, Reason::RegistersMissing);
}

#[test]
fn the_attestation_key_is_always_the_same_and_differs_between_hierarchies_and_tpms() {
    let (tpm, other) = (Swtpm::start(), Swtpm::start());
    let name = |tpm: &Swtpm, hierarchy| tpm.device().create_ak(hierarchy).unwrap().public().name();
    let (endorsement, owner) = (name(&tpm, Hierarchy::Endorsement), name(&tpm, Hierarchy::Owner));
    assert_eq!(endorsement, name(&tpm, Hierarchy::Endorsement));
    assert_ne!(endorsement, owner);
    assert_ne!(endorsement, name(&other, Hierarchy::Endorsement));
    tpm.clear();
    assert_eq!(endorsement, name(&tpm, Hierarchy::Endorsement));
    assert_ne!(owner, name(&tpm, Hierarchy::Owner));
}

#[test]
fn quotes_of_every_scheme_and_hierarchy_verify() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let templates = [
        ecc_template(AK_ATTRIBUTES, 3, 0x0b),
        ecc_template(AK_ATTRIBUTES, 3, 0x0c),
        ecc_template(AK_ATTRIBUTES, 4, 0x0b),
        ecc_template(AK_ATTRIBUTES, 4, 0x0c),
        rsa_template(AK_ATTRIBUTES, 0x14, 0x0b, 2048),
        rsa_template(AK_ATTRIBUTES, 0x14, 0x0c, 2048),
        rsa_template(AK_ATTRIBUTES, 0x16, 0x0b, 2048),
        rsa_template(AK_ATTRIBUTES, 0x16, 0x0c, 2048),
        rsa_template(AK_ATTRIBUTES, 0x14, 0x0b, 3072),
    ];
    for (number, template) in templates.iter().enumerate() {
        let hierarchy = if number % 2 == 0 { Hierarchy::Owner } else { Hierarchy::Endorsement };
        let ak = device.create_primary(hierarchy, template).unwrap();
        let quote = device.quote(&ak, b"question", &[0, 1]).unwrap();
        let quoted = verify(&quote.attest, &quote.signature, ak.public()).unwrap_or_else(|fault| panic!("{number}: {fault}"));
        quoted.covers(&device.pcr_read(&[0, 1]).unwrap()).unwrap();
    }
}

#[test]
fn a_command_that_the_tpm_wants_to_see_again_is_sent_again() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    // Without noDA, the first use of the password has the TPM note that in its memory and answer TPM_RC_RETRY.
    let ak = device.create_primary(Hierarchy::Owner, &ecc_template(AK_ATTRIBUTES & !0x400, 3, 0x0b)).unwrap();
    let quote = device.quote(&ak, b"", &[0]).unwrap();
    verify(&quote.attest, &quote.signature, ak.public()).unwrap();
}

#[test]
fn a_quote_for_another_question_is_visible() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let ak = device.create_ak(Hierarchy::Owner).unwrap();
    let old = device.quote(&ak, b"yesterday", &[0]).unwrap();
    let new = device.quote(&ak, b"today", &[0]).unwrap();
    let quoted = verify(&old.attest, &old.signature, ak.public()).unwrap();
    assert_ne!(quoted.extra_data(), b"today");
    // Neither can the signature of the one go with the other.
    assert_eq!(verify(&new.attest, &old.signature, ak.public()).unwrap_err().reason, Reason::SignatureInvalid);
}

#[test]
fn a_quote_of_another_key_is_refused() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let (ak, other) = (device.create_ak(Hierarchy::Owner).unwrap(), device.create_ak(Hierarchy::Endorsement).unwrap());
    let quote = device.quote(&ak, b"", &[0]).unwrap();
    assert_eq!(verify(&quote.attest, &quote.signature, other.public()).unwrap_err().reason, Reason::SignatureInvalid);
}

#[test]
fn a_key_that_signs_what_it_is_given_is_refused() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let unrestricted = AK_ATTRIBUTES & !Attributes::RESTRICTED.bits();
    for template in [
        ecc_template(unrestricted, 3, 0x0b),
        rsa_template(unrestricted, 0x14, 0x0b, 2048),
        rsa_template(unrestricted | Attributes::DECRYPT.bits(), 0x10, 0x0b, 2048)
            .into_iter()
            .enumerate()
            .filter(|(i, _)| !(14..16).contains(i))
            .map(|(_, b)| b)
            .collect(),
    ] {
        let key = device.create_primary(Hierarchy::Owner, &template).unwrap();
        assert_eq!(AttestationKey::check(key.public()).unwrap_err().reason, Reason::KeyNotRestricted);
        if let Ok(quote) = device.quote(&key, b"", &[0]) {
            let fault = verify(&quote.attest, &quote.signature, key.public()).unwrap_err();
            assert_eq!(fault.reason, Reason::KeyNotRestricted);
            assert!(fault.sentence.contains("restricted is clear"), "{fault}");
        }
    }
    let ek = device.create_ek().unwrap();
    assert_eq!(AttestationKey::check(ek.public()).unwrap_err().reason, Reason::KeyNotRestricted);
}

#[test]
fn selections_of_other_banks_are_refused() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let ak = device.create_ak(Hierarchy::Owner).unwrap();
    // TPM2_Quote with SHA-1, with two banks, and with no bank at all.
    for selection in [
        &[0, 0, 0, 1, 0, 4, 3, 1, 0, 0][..],
        &[0, 0, 0, 2, 0, 0x0b, 3, 1, 0, 0, 0, 0x0c, 3, 1, 0, 0],
        &[0, 0, 0, 0],
        &[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0],
    ] {
        let area = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0, 0x10];
        let answer = tpm.raw(0x8002, 0x158, &[&ak.handle().to_be_bytes()[..], &area, selection].concat());
        assert_eq!(answer[6..10], [0; 4]);
        let parameters = &answer[14..14 + usize::try_from(u32::from_be_bytes(answer[10..14].try_into().unwrap())).unwrap()];
        let (attest, signature) = parameters[2..].split_at(usize::from(u16::from_be_bytes([parameters[0], parameters[1]])));
        let fault = verify(attest, signature, ak.public()).unwrap_err();
        assert_eq!(fault.reason, Reason::RegistersMissing, "{fault}");
    }
}

fn believed(attest: &[u8], signature: &[u8], public: &[u8]) -> Option<Quoted> {
    Public::parse(public).and_then(|public| verify(attest, signature, &public)).ok()
}

#[test]
fn no_single_bit_can_be_changed() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    for template in
        [ecc_template(AK_ATTRIBUTES, 3, 0x0b), rsa_template(AK_ATTRIBUTES, 0x14, 0x0b, 2048), rsa_template(AK_ATTRIBUTES, 0x16, 0x0b, 2048)]
    {
        let ak = device.create_primary(Hierarchy::Endorsement, &template).unwrap();
        let quote = device.quote(&ak, b"question", &[0, 4, 23]).unwrap();
        let parts = [quote.attest, quote.signature, ak.public().as_bytes().to_vec()];
        assert!(believed(&parts[0], &parts[1], &parts[2]).is_some());
        for part in 0..parts.len() {
            for bit in 0..parts[part].len() * 8 {
                let mut changed = parts.clone();
                changed[part][bit / 8] ^= 1 << (bit % 8);
                assert!(believed(&changed[0], &changed[1], &changed[2]).is_none(), "part {part}, bit {bit}");
            }
            for length in 0..parts[part].len() {
                let mut cut = parts.clone();
                cut[part].truncate(length);
                assert!(believed(&cut[0], &cut[1], &cut[2]).is_none(), "part {part}, length {length}");
            }
            let mut longer = parts.clone();
            longer[part].push(0);
            assert!(believed(&longer[0], &longer[1], &longer[2]).is_none(), "part {part}, one more byte");
        }
    }
}

#[test]
fn the_parent_of_a_key_is_checked_if_it_is_known() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let ak = device.create_ak(Hierarchy::Endorsement).unwrap();
    let quote = device.quote(&ak, b"", &[0]).unwrap();
    let check = |parent| verify_child(&quote.attest, &quote.signature, ak.public(), parent);
    let endorsement = 0x4000_000bu32.to_be_bytes();
    let owner = 0x4000_0001u32.to_be_bytes();
    assert!(check(Parent::Unknown).is_ok());
    assert!(check(Parent::Named(&endorsement)).is_ok());
    assert_eq!(check(Parent::Named(&owner)).unwrap_err().reason, Reason::BindingMismatch);
    assert_eq!(check(Parent::Named(&ak.public().name())).unwrap_err().reason, Reason::BindingMismatch);
}

#[test]
fn credentials_open_in_the_right_tpm_for_the_right_key() {
    let (tpm, elsewhere) = (Swtpm::start(), Swtpm::start());
    let (device, foreign) = (tpm.device(), elsewhere.device());
    let ak = device.create_ak(Hierarchy::Endorsement).unwrap();
    for (kind, seed) in [(EkKind::Rsa2048, 1), (EkKind::EccP256, 7)] {
        let ek = device.create_ek_of(kind).unwrap();
        let challenge = make_credential(ek.public(), &ak.public().name(), &SECRET, &mut counting(seed)).unwrap();
        let open = |challenge: &portdistrict::attest::tpm::credential::Challenge| {
            device.activate_credential(&ak, &ek, &challenge.credential_blob, &challenge.encrypted_secret)
        };
        assert_eq!(open(&challenge).unwrap()[..], SECRET);

        // For another key of the same TPM.
        let other_name = device.create_ak(Hierarchy::Owner).unwrap().public().name();
        let wrong = make_credential(ek.public(), &other_name, &SECRET, &mut counting(seed)).unwrap();
        assert!(matches!(open(&wrong), Err(Error::Integrity { .. })), "{kind:?}");

        // For the endorsement key of another TPM.
        let foreign_ek = foreign.create_ek_of(kind).unwrap();
        let wrong = make_credential(foreign_ek.public(), &ak.public().name(), &SECRET, &mut counting(seed)).unwrap();
        let error = open(&wrong).unwrap_err();
        assert!(matches!(error, Error::Integrity { .. } | Error::Refused { .. }), "{kind:?}: {error}");

        // Every change to the blob is noticed.
        for byte in 0..challenge.credential_blob.len() {
            let mut wrong = challenge.clone();
            wrong.credential_blob[byte] ^= 0x80;
            assert!(open(&wrong).is_err(), "{kind:?}, byte {byte}");
        }
        assert_eq!(open(&challenge).unwrap()[..], SECRET, "nothing is locked by wrong attempts");
    }
    drop(ak);
    assert_eq!((tpm.loaded(), elsewhere.loaded()), (0, 0));
}

#[test]
fn larger_endorsement_keys_work_too() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let ak = device.create_ak(Hierarchy::Owner).unwrap();
    // PolicySecret(endorsement) with SHA-384 is not what sessions of this module give; userWithAuth lets the verifier's half be tested.
    let template = [&[0, 0x23, 0, 0x0c, 0, 3, 4, 0x72, 0, 0][..], &[0, 6, 1, 0, 0, 0x43, 0, 0x10, 0, 4, 0, 0x10, 0, 0, 0, 0]].concat();
    let ek = device.create_primary(Hierarchy::Endorsement, &template).unwrap();
    assert_eq!(ek.public().aes_bits(), Some(256));
    let challenge = make_credential(ek.public(), &ak.public().name(), &SECRET, &mut counting(3)).unwrap();
    let password = [0, 0, 0, 18, 0x40, 0, 0, 9, 0, 0, 1, 0, 0, 0x40, 0, 0, 9, 0, 0, 1, 0, 0];
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let parameters = [sized(&challenge.credential_blob), sized(&challenge.encrypted_secret)].concat();
    let body = [&ak.handle().to_be_bytes()[..], &ek.handle().to_be_bytes(), &password, &parameters].concat();
    let answer = tpm.raw(0x8002, 0x147, &body);
    assert_eq!(answer[6..10], [0; 4]);
    assert_eq!(answer[16..48], SECRET);
}

#[test]
fn endorsement_keys_are_checked() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let ak = device.create_ak(Hierarchy::Owner).unwrap();
    let ek = device.create_ek().unwrap();
    assert!(matches!(ek.public().key(), Key::Rsa { .. }));
    let name = ak.public().name();
    let fault = make_credential(ak.public(), &name, &SECRET, &mut counting(1)).unwrap_err();
    assert_eq!(fault.reason, Reason::EndorsementMissing);
    assert_eq!(fault.sentence, "the endorsement key's attribute decrypt is clear (attributes 0x00050472), it must be set");
    for wrong in [&name[1..], &[&name[..], &[0]].concat(), b"", &[0, 4, 1]] {
        assert_eq!(make_credential(ek.public(), wrong, &SECRET, &mut counting(1)).unwrap_err().reason, Reason::Malformed);
    }
}

#[test]
fn sealed_secrets_open_until_a_register_changes() {
    let (tpm, elsewhere) = (Swtpm::start(), Swtpm::start());
    let device = tpm.device();
    tpm.extend(7, [1; 32]);
    let sealed = device.seal(&[0x77; 64], &[0, 7]).unwrap();
    assert_eq!(device.unseal(&sealed, &[7, 0]).unwrap()[..], [0x77; 64]);
    assert_eq!(device.unseal(&sealed, &[0, 7]).unwrap()[..], [0x77; 64], "more than once");
    assert!(matches!(device.unseal(&sealed, &[0]), Err(Error::PcrChanged)), "other registers");
    assert!(matches!(elsewhere.device().unseal(&sealed, &[0, 7]), Err(Error::Integrity { .. })), "another TPM");
    tpm.extend(8, [1; 32]);
    assert!(device.unseal(&sealed, &[0, 7]).is_ok(), "a register that has nothing to do with it");
    tpm.extend(7, [2; 32]);
    assert!(matches!(device.unseal(&sealed, &[0, 7]), Err(Error::PcrChanged)));
    let mut changed = sealed.clone();
    *changed.private.last_mut().unwrap() ^= 1;
    assert!(matches!(device.unseal(&changed, &[0, 7]), Err(Error::Integrity { .. })));
    tpm.clear();
    assert!(matches!(device.unseal(&sealed, &[0, 7]), Err(Error::Integrity { .. })), "the TPM was cleared");
    assert_eq!((tpm.loaded(), elsewhere.loaded()), (0, 0));
}

#[test]
fn a_node_finds_its_sealed_seed_again_and_another_image_does_not() {
    let (tpm, elsewhere) = (Swtpm::start(), Swtpm::start());
    let device = tpm.device();
    let seed = |tpm: &Swtpm| seed::sealed(&tpm.device());
    let first = seed(&tpm).unwrap();
    assert_ne!(*first, [0; 32]);
    assert_eq!(*first, *seed(&tpm).unwrap());
    assert_ne!(*first, *seed(&elsewhere).unwrap());
    assert!(device.holds(seed::SEALED).unwrap() && !device.holds(seed::SEALED + 1).unwrap());
    // What is measured of the image: each of them counts, others do not.
    tpm.extend(8, [1; 32]);
    assert_eq!(*first, *seed(&tpm).unwrap());
    let tpm = tpm.restart();
    assert_eq!(*first, *seed(&tpm).unwrap(), "it outlives a restart");
    let mut tpm = tpm;
    for pcr in PCRS {
        tpm.extend(pcr, [pcr; 32]);
        let error = seed(&tpm).unwrap_err();
        assert!(error.message().contains("sealed for another image") && error.hint_text().is_some(), "{pcr}: {error:?}");
        // And it is still there for the right one.
        tpm = tpm.restart();
        assert_eq!(*first, *seed(&tpm).unwrap());
    }
    assert_eq!(tpm.loaded(), 0);
    // Nothing is ever put over it; a TPM that was cleared begins anew.
    let sealed = tpm.device().seal(&[7; 32], &PCRS).unwrap();
    assert!(matches!(tpm.device().keep(&sealed, seed::SEALED), Err(Error::Refused { command: "TPM2_EvictControl", .. })));
    tpm.clear();
    assert_ne!(*first, *seed(&tpm).unwrap());
}

#[test]
fn something_else_under_the_handle_of_the_seed_is_no_seed() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let short = device.seal(&[7; 31], &PCRS).unwrap();
    device.keep(&short, seed::SEALED).unwrap();
    let error = seed::sealed(&device).unwrap_err();
    assert!(error.message().contains("31 bytes"), "{error:?}");
    // A TPM whose owner has a password.
    let other = Swtpm::start();
    other.set_password(0x4000_0001, b"secret");
    assert!(seed::sealed(&other.device()).unwrap_err().causes()[0].contains("password"));
}

#[test]
fn three_slots_are_enough_and_a_full_tpm_says_so() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    for _ in 0..5 {
        let ek = device.create_ek().unwrap();
        let ak = device.create_ak(Hierarchy::Endorsement).unwrap();
        device.quote(&ak, b"", &[0]).unwrap();
        ak.flush().unwrap();
        device.seal(b"x", &[0]).unwrap();
        drop(ek);
    }
    assert_eq!(tpm.loaded(), 0);
    let keys: Vec<_> = (0..3).map(|_| device.create_ak(Hierarchy::Owner).unwrap()).collect();
    assert!(matches!(device.create_ak(Hierarchy::Owner), Err(Error::NoRoom { command: "TPM2_CreatePrimary" })));
    drop(keys);
    assert_eq!(tpm.loaded(), 0);
    let left = std::mem::ManuallyDrop::new(device.create_ak(Hierarchy::Owner).unwrap()).handle();
    device.flush(left).unwrap();
    assert!(device.flush(left).is_err(), "it is flushed already");
}

#[test]
fn passwords_and_wrong_arguments_have_their_errors() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    let ak = device.create_ak(Hierarchy::Owner).unwrap();
    assert!(matches!(device.quote(&ak, &[0; 65], &[0]), Err(Error::Argument(_))));
    assert!(matches!(device.quote(&ak, &[], &[24]), Err(Error::Argument(_))));
    assert!(matches!(device.pcr_read(&[255]), Err(Error::Argument(_))));
    assert!(matches!(device.seal(&[0; 65], &[0]), Err(Error::Argument(_))));
    assert!(matches!(device.seal(&[], &[0]), Err(Error::Argument(_))));
    assert!(matches!(device.seal(&[1], &[]), Err(Error::Argument(_))));
    assert!(matches!(device.create_primary(Hierarchy::Owner, &[0; 5000]), Err(Error::Argument(_))));
    assert_eq!(device.pcr_read(&[]).unwrap(), BTreeMap::new());
    assert_eq!(device.pcr_read(&Vec::from_iter(0..24)).unwrap().len(), 24);
    tpm.set_password(0x4000_0001, b"secret");
    assert!(matches!(device.create_ak(Hierarchy::Owner), Err(Error::Authorization { command: "TPM2_CreatePrimary" })));
    assert!(device.create_ak(Hierarchy::Endorsement).is_ok());
}

#[test]
fn googles_attestation_key_is_found() {
    let tpm = Swtpm::start();
    let device = tpm.device();
    assert!(device.read_gce_ak().unwrap().is_none());
    assert!(device.read_ek_certificate(EkKind::Rsa2048).unwrap().is_none());
    let certificate = [&[0x30, 0x82, 3, 0xe8][..], &[5; 1000]].concat();
    let template = ecc_template(AK_ATTRIBUTES, 3, 0x0b);
    tpm.nv_put(0x01c1_0003, &template);
    assert!(device.read_gce_ak().unwrap().is_none(), "there is no certificate yet");
    tpm.nv_put(0x01c1_0002, &[&certificate[..], &[0xff; 300]].concat());
    let gce = device.read_gce_ak().unwrap().unwrap();
    assert_eq!(gce.certificate, certificate, "without padding");
    let wanted = device.create_primary(Hierarchy::Endorsement, &template).unwrap();
    assert_eq!(gce.key.public(), wanted.public());
    drop((gce, wanted));
    // RSA goes first.
    tpm.nv_put(0x01c1_0000, &certificate);
    tpm.nv_put(0x01c1_0001, &rsa_template(AK_ATTRIBUTES, 0x14, 0x0b, 2048));
    let gce = device.read_gce_ak().unwrap().unwrap();
    let quote = device.quote(&gce.key, b"", &[0]).unwrap();
    verify(&quote.attest, &quote.signature, gce.key.public()).unwrap();
    assert!(matches!(gce.key.public().key(), Key::Rsa { .. }));
    // What is no certificate is not taken for one.
    tpm.nv_put(0x01c0_000a, &[7; 100]);
    assert!(matches!(device.read_ek_certificate(EkKind::EccP256), Err(Error::Answer(_))));
}
