//! Nothing that is read makes the modules panic, and an evil TPM gets no more than an error.

use super::common::Swtpm;
use portdistrict::attest::Reason;
use portdistrict::attest::tpm::credential::{ek_matches_certificate, make_credential};
use portdistrict::attest::tpm::device::{Device, EkKind, Error, Hierarchy, Sealed};
use portdistrict::attest::tpm::public::{Key, Public};
use portdistrict::attest::tpm::quote::{AttestationKey, Parent, Quote, verify, verify_child};
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};

/// A TPM that answers with what was prepared, in pieces of a certain size.
struct Scripted {
    answers: VecDeque<Vec<u8>>,
    current: Vec<u8>,
    piece: usize,
    commands: usize,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Vec<u8>>) -> Scripted {
        Scripted { answers: answers.into_iter().collect(), current: Vec::new(), piece: usize::MAX, commands: 0 }
    }
}

impl Write for Scripted {
    fn write(&mut self, command: &[u8]) -> io::Result<usize> {
        self.commands += 1;
        self.current = self.answers.pop_front().unwrap_or_default();
        Ok(command.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Scripted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.current.len()).min(self.piece);
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.drain(..count);
        Ok(count)
    }
}

fn answer(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(10 + body.len()).unwrap();
    [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

/// An answer with an authorization area.
fn authorized(handle: &[u8], parameters: &[u8]) -> Vec<u8> {
    let size = u32::try_from(parameters.len()).unwrap().to_be_bytes();
    answer(0x8002, 0, &[handle, &size, parameters, &[0, 0, 1, 0, 0]].concat())
}

/// A valid public area, of which all properties but the point are those of an attestation key.
fn ak_bytes() -> Vec<u8> {
    let head = [0, 0x23, 0, 0x0b, 0, 5, 4, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
    [&head[..], &[0, 32], &[1; 32], &[0, 32], &[2; 32]].concat()
}

/// What an honest TPM answers to `TPM2_CreatePrimary`.
fn created(handle: u32, public: &[u8], name: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let parameters = [sized(public), sized(&[]), sized(&[]), vec![0x80, 0x21, 0x40, 0, 0, 1, 0, 0], sized(name)].concat();
    authorized(&handle.to_be_bytes(), &parameters)
}

fn everything(device: &Device<Scripted>) {
    let _ = device.pcr_read(&[0, 1, 23]);
    let _ = device.read_ek_certificate(EkKind::Rsa2048);
    let _ = device.read_gce_ak();
    let _ = device.seal(&[1], &[0]);
    let _ = device.unseal(&Sealed { public: vec![1], private: vec![2] }, &[0]);
    if let (Ok(ek), Ok(ak)) = (device.create_ek(), device.create_ak(Hierarchy::Owner)) {
        let _ = device.quote(&ak, &[1], &[0]);
        let _ = device.activate_credential(&ak, &ek, &[1], &[2]);
    }
}

fn reads(bytes: &[u8], other: &[u8]) {
    let _ = Quote::parse(bytes);
    let ak = Public::parse(&ak_bytes()).unwrap();
    let _ = verify(bytes, other, &ak);
    let _ = ak.matches_spki(bytes);
    if let Ok(public) = Public::parse(bytes) {
        let _ = (public.name(), public.spki(), public.qualified_name(other), format!("{public:?}"));
        let _ = AttestationKey::check(&public);
        let _ = verify_child(other, bytes, &public, Parent::Named(bytes));
        let _ = ek_matches_certificate(&public, other);
        let _ = make_credential(&public, &ak.name(), &[0; 32], &mut |buffer| buffer.fill(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, other: Vec<u8>) {
        reads(&bytes, &other);
    }

    #[test]
    fn damaged_public_areas_never_panic(changes in prop::collection::vec((0usize..90, any::<u8>()), 0..6), cut in 0usize..90) {
        let mut bytes = ak_bytes();
        let length = bytes.len();
        for (place, value) in changes {
            bytes[place % length] = value;
        }
        reads(&bytes, &bytes);
        reads(&bytes[..cut.min(length)], &bytes);
    }

    #[test]
    fn damaged_quotes_never_panic(tail: Vec<u8>, signer in 0u8..70, extra in 0u8..70) {
        let head = [0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, signer];
        let bytes = [&head[..], &vec![3; signer.into()], &[0, extra], &vec![4; extra.into()], &tail].concat();
        reads(&bytes, &[0, 0x18, 0, 0x0b, 0, 1, 1, 0, 1, 1]);
        reads(&[&[0, 0x18, 0, 0x0b][..], &tail].concat(), &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn evil_answers_never_panic(
        answers in prop::collection::vec((any::<bool>(), 0u32..3, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
        kind in any::<u8>(),
    ) {
        let framed = answers.iter().map(|(auth, code, body)| {
            // Codes other than zero end most commands at once, so that most answers say that all is well.
            let code = if *code == 2 { 0x100 + u32::from(kind) } else { 0 };
            if *auth && code == 0 { authorized(&[0x80, 0, 0, kind], body) } else { answer(0x8001, code & !0x20, body) }
        });
        everything(&Device::new(Scripted::new(framed)));
        everything(&Device::new(Scripted::new(answers.iter().map(|(_, _, body)| body.clone()))));
    }
}

/// Passes everything to a real TPM and keeps its answers.
struct Recorder<'a> {
    tpm: &'a std::os::unix::net::UnixStream,
    answers: Vec<Vec<u8>>,
}

impl Write for Recorder<'_> {
    fn write(&mut self, command: &[u8]) -> io::Result<usize> {
        self.answers.push(Vec::new());
        self.tpm.write(command)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Recorder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tpm.read(buffer)?;
        self.answers.last_mut().unwrap().extend(&buffer[..count]);
        Ok(count)
    }
}

/// All that a node does; ends at the first error.
fn whole_day<T: Read + Write>(device: &Device<T>) -> Result<(), Error> {
    device.pcr_read(&Vec::from_iter(0..24))?;
    device.read_ek_certificate(EkKind::Rsa2048)?;
    device.read_gce_ak()?.ok_or(Error::PcrChanged)?.key.flush()?;
    let sealed = device.seal(&[7; 64], &[0, 1])?;
    device.unseal(&sealed, &[0, 1])?;
    let ek = device.create_ek()?;
    let ak = device.create_ak(Hierarchy::Owner)?;
    device.quote(&ak, &[1; 64], &[0, 23])?;
    let mut random = super::common::counting(1);
    if let Ok(challenge) = make_credential(ek.public(), &ak.public().name(), &[5; 32], &mut random) {
        device.activate_credential(&ak, &ek, &challenge.credential_blob, &challenge.encrypted_secret)?;
    }
    Ok(())
}

#[test]
fn a_real_tpms_answers_may_be_damaged_anywhere() {
    let tpm = Swtpm::start();
    tpm.nv_put(0x01c1_0002, &[0x30, 2, 1, 2, 0xff]);
    tpm.nv_put(0x01c1_0003, &super::common::ecc_template(super::common::AK_ATTRIBUTES, 3, 0x0b));
    let recorder = Device::new(Recorder { tpm: tpm.stream(), answers: Vec::new() });
    whole_day(&recorder).unwrap();
    let answers = recorder.into_inner().answers;
    assert!(answers.len() > 30, "{} answers", answers.len());
    whole_day(&Device::new(Scripted::new(answers.clone()))).unwrap();
    for number in 0..answers.len() {
        // The front has all sizes and counts of short answers; of what is long, some bytes are enough.
        for byte in (0..answers[number].len()).filter(|byte| *byte < 20 || byte % 53 == 0) {
            let mut damaged = answers.clone();
            damaged[number][byte] ^= if byte % 2 == 0 { 0x80 } else { 0x01 };
            let _ = whole_day(&Device::new(Scripted::new(damaged)));
            let mut cut = answers.clone();
            cut[number].truncate(byte);
            assert!(matches!(whole_day(&Device::new(Scripted::new(cut))), Err(Error::Io(_))) || is_quiet(&answers[number]));
        }
    }
}

/// The answer to a flush, of which errors are not told when a key is dropped.
fn is_quiet(answer: &[u8]) -> bool {
    answer.len() == 10
}

#[test]
fn answers_may_come_in_pieces() {
    let name = Public::parse(&ak_bytes()).unwrap().name();
    for piece in [1, 5, 9, 10, 11, 4096] {
        let mut tpm = Scripted::new([created(0x8000_0000, &ak_bytes(), &name), answer(0x8001, 0, &[])]);
        tpm.piece = piece;
        let device = Device::new(tpm);
        device.create_ak(Hierarchy::Owner).unwrap().flush().unwrap();
        assert_eq!(device.into_inner().commands, 2, "created and flushed once");
    }
}

#[test]
fn evil_answers_have_their_errors() {
    let name = Public::parse(&ak_bytes()).unwrap().name();
    let error = |answers: Vec<Vec<u8>>| Device::new(Scripted::new(answers)).create_ak(Hierarchy::Owner).map(|_| ()).unwrap_err();
    assert!(matches!(error(vec![]), Error::Io(_)), "no answer at all");
    assert!(matches!(error(vec![vec![0x80, 1, 0, 0, 0, 10, 0]]), Error::Io(_)), "an answer that stops");
    assert!(matches!(error(vec![vec![0x80, 1, 0, 0, 0, 9, 0, 0, 0, 0]]), Error::Answer(_)), "too short");
    assert!(matches!(error(vec![vec![0x80, 1, 0xff, 0xff, 0xff, 0xff]]), Error::Answer(_)), "too long");
    assert!(matches!(error(vec![vec![0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0]]), Error::Answer(_)), "a byte too many");
    assert!(matches!(error(vec![answer(0x8001, 0, &[])]), Error::Answer(_)), "no sessions");
    assert!(matches!(error(vec![created(0x8100_0000, &ak_bytes(), &name)]), Error::Answer(_)), "a handle of another kind");
    assert!(matches!(error(vec![created(0x8000_0000, &ak_bytes(), &name[1..])]), Error::Answer(_)), "another name");
    assert!(matches!(error(vec![answer(0x8001, 0x921, &[])]), Error::Lockout));
    assert!(matches!(error(vec![answer(0x8001, 0x9a2, &[])]), Error::Authorization { .. }));
    let endless = error(vec![answer(0x8001, 0x922, &[]); 100]);
    assert_eq!(endless.to_string(), "TPM2_CreatePrimary: the TPM is still busy after 8 attempts");
}

#[test]
fn a_tpm_without_rsa_gives_an_ecc_endorsement_key() {
    let name = Public::parse(&ak_bytes()).unwrap().name();
    let device = Device::new(Scripted::new([answer(0x8001, 0x2ca, &[]), created(0x8000_0000, &ak_bytes(), &name)]));
    assert!(matches!(device.create_ek().unwrap().public().key(), Key::Ecc { .. }));
    let device = Device::new(Scripted::new([answer(0x8001, 0x9a2, &[]), created(0x8000_0000, &ak_bytes(), &name)]));
    assert!(matches!(device.create_ek(), Err(Error::Authorization { .. })), "other errors do not lead to another key");
}

#[test]
fn registers_extended_while_they_are_read_are_read_again() {
    let part = |counter: u8, pcr: u8| {
        let value = [&[0, 32][..], &[pcr; 32]].concat();
        answer(0x8001, 0, &[&[0, 0, 0, counter], &[0, 0, 0, 1, 0, 0x0b, 3, 1 << pcr, 0, 0][..], &[0, 0, 0, 1], &value].concat())
    };
    let device = Device::new(Scripted::new([part(1, 0), part(2, 1), part(3, 0), part(3, 1)]));
    assert_eq!(device.pcr_read(&[0, 1]).unwrap(), BTreeMap::from([(0, [0; 32]), (1, [1; 32])]));
    assert_eq!(device.into_inner().commands, 4);
    let device = Device::new(Scripted::new((0..200).map(|counter| part(counter, counter % 2))));
    assert!(matches!(device.pcr_read(&[0, 1]), Err(Error::Busy { .. })), "not for ever");
    let device = Device::new(Scripted::new([part(1, 2)]));
    assert!(matches!(device.pcr_read(&[0, 1]), Err(Error::Answer(_))), "a register that nobody asked for");
    let nothing = answer(0x8001, 0, &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0, 0, 0, 0, 0]);
    let device = Device::new(Scripted::new([nothing]));
    assert!(matches!(device.pcr_read(&[5]), Err(Error::Answer(_))), "a bank that is not there");
}

#[test]
fn certificates_hold_the_key_or_not() {
    let ak = Public::parse(&ak_bytes()).unwrap();
    let spki = ak.spki();
    ak.matches_spki(&spki).unwrap();
    assert_eq!(ek_matches_certificate(&ak, &spki).unwrap_err().reason, Reason::EndorsementMissing);
    for bit in 0..spki.len() * 8 {
        let mut other = spki.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let reason = ak.matches_spki(&other).unwrap_err().reason;
        assert!(matches!(reason, Reason::Malformed | Reason::CertificateMismatch), "{bit}");
    }
}
