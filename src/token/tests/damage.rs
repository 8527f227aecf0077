//! What happens to blobs between two people, and the sentence for each.

use super::*;

fn failure(text: &str) -> BlobError {
    Invite::from_blob(text).expect_err(text)
}

#[test]
fn each_failure_has_its_own_sentence_and_remedy() {
    let line = line();
    let grant = grant().sign(&owner()).to_blob();
    let cases = [
        (String::new(), "empty"),
        (" \n\u{200b}".to_owned(), "empty"),
        ("hello, here is my invite".to_owned(), "not-a-blob"),
        ("see portdistrict-home and portdistrict-exit".to_owned(), "not-a-blob"),
        (line["portdistrict-invite1:".len()..].to_owned(), "not-a-blob"),
        (line[..line.len() - 1].to_owned(), "truncated"),
        (line.replacen("invite1", "invite2", 1), "other-version"),
        (line.replacen("invite1", "invite10", 1), "other-version"),
        (line.replacen("invite1", "ticket1", 1), "unknown-type"),
        (grant.clone(), "wrong-type"),
        (format!("{line} {}", grant.replacen("grant", "invite", 1)), "several"),
        (format!("{line}A"), "damaged"),
        (format!("{}!{}", &line[..100], &line[101..]), "damaged"),
        (blob::encode(Type::Invite, b"\xa0\x00"), "content"),
        (blob::encode(Type::Invite, &Map::new().with(0, 9u64).encode()), "unknown-transport"),
    ];
    let mut sentences = Vec::new();
    for (text, name) in &cases {
        let error = failure(text);
        assert_eq!(error.as_str(), *name, "{text}");
        let as_error = crate::error::Error::from(error);
        assert_eq!(as_error.code(), crate::error::Code::BadBlob);
        assert!(as_error.hint_text().is_some_and(|h| !h.is_empty()), "{name}");
        sentences.push((*name, as_error.message().to_owned()));
    }
    sentences.sort();
    sentences.dedup_by_key(|(name, _)| *name);
    sentences.dedup_by_key(|(_, sentence)| sentence.clone());
    let mut names: Vec<_> = cases.iter().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(sentences.len(), names.len());
}

#[test]
fn a_wrong_type_names_the_command_that_takes_it() {
    let error = failure(&grant().sign(&owner()).to_blob());
    assert_eq!(error.to_string(), "this is a grant, and an invite is needed here");
    assert!(error.remedy().contains("portdistrict exit accept"));
    let error = blob::read_one_of(&[Type::Grant, Type::Identity], &line()).unwrap_err();
    assert_eq!(error.to_string(), "this is an invite, and a grant or an identity is needed here");
}

#[test]
fn a_newer_version_asks_for_an_upgrade() {
    let error = failure(&line().replacen("invite1", "invite2", 1));
    assert_eq!(error.to_string(), "this invite is of version 2; this program reads version 1");
    assert!(error.remedy().contains("upgrade"));
}

#[test]
fn a_line_cut_anywhere_is_called_cut() {
    let line = line();
    for cut in 8..line.len() {
        for after in ["", "\n", " …", "...", " (more)"] {
            let error = failure(&format!("{}{after}", &line[..cut]));
            let short_first_word = cut < "portdistrict-invite1:".len() && !after.trim().is_empty();
            assert!(error.as_str() == "truncated" || (short_first_word && error == BlobError::NotABlob), "{cut} {after:?}: {error:?}");
        }
    }
}

#[test]
fn one_changed_letter_is_called_damage() {
    let line = line();
    for at in "portdistrict-invite1:".len()..line.len() {
        for letter in ["A", "b", "7", "-", "_"] {
            let mut changed = line.clone();
            changed.replace_range(at..=at, letter);
            if changed != line {
                assert_eq!(failure(&changed).as_str(), "damaged", "{letter} at {at}");
            }
        }
    }
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    for line in [line(), invite(grant(), &["192.0.2.7:8443"]).to_qr().unwrap()] {
        for bit in 0..line.len() * 8 {
            let mut bytes = line.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = String::from_utf8(bytes) {
                failure(&text);
            }
        }
    }
}

#[test]
fn one_flipped_bit_under_a_mended_checksum_is_refused() {
    let content = blob::read(Type::Invite, &line()).unwrap();
    let grant_and_signature = content.len() - 110..content.len();
    for bit in grant_and_signature.start * 8..grant_and_signature.end * 8 {
        let mut changed = content.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // What stands beside the grant is not the owner's word: the name is a proposal.
        match Invite::from_blob(&blob::encode(Type::Invite, &changed)) {
            Ok(read) => assert!(read.grant == invite(grant(), &["192.0.2.7:8443"]).grant && read.secret == Some(secret())),
            Err(error) => assert!(matches!(error.as_str(), "signature" | "content"), "{error:?}"),
        }
    }
}

#[test]
fn a_megabyte_is_refused_by_its_size() {
    let text = format!("{}{}", line(), "x".repeat(1 << 20));
    assert_eq!(failure(&text), BlobError::TooLong(text.len()));
    assert!(failure(&text).to_string().contains(&text.len().to_string()));
    // At the bound it is read, one byte more it is not.
    let padded = |n: usize| format!("{} {}", line(), "x".repeat(n - line().len() - 1));
    assert!(Invite::from_blob(&padded(blob::MAX_TEXT)).is_ok());
    assert_eq!(failure(&padded(blob::MAX_TEXT + 1)).as_str(), "too-long");
}

#[test]
fn text_made_to_look_like_many_blobs_takes_no_time() {
    let started = std::time::Instant::now();
    for piece in ["portdistrict-invite1:AAAA ", "portdistrict-", "p", "PORTDISTRICT-INVITE1:000 ", "portdistrict-invite1:—"] {
        let _ = failure(&piece.repeat(blob::MAX_TEXT / piece.len()));
    }
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[test]
fn addresses_are_taken_in_one_spelling() {
    for good in ["192.0.2.7:8443", "[2001:db8::7]:1", "exit.example.org:65535", "Exit.Example.org:443"] {
        let read = Invite::from_blob(&invite(grant(), &[good]).to_blob().unwrap()).unwrap();
        assert_eq!(read.transport, Transport::direct(vec![good.to_ascii_lowercase()]));
    }
    for bad in [
        "",
        "192.0.2.7",
        "192.0.2.7:0",
        "192.0.2.7:70000",
        "2001:db8::7:1:",
        "[fe80::1%2]:1",
        "ex ample.org:1",
        "-a.org:1",
        "a..b:1",
        "a:+1",
        "a:01",
    ] {
        let error = invite(grant(), &[bad]).to_blob().unwrap_err();
        assert!(error.hint_text().is_some_and(|h| h.contains("HOST:PORT")), "{bad}");
    }
    for none_or_five in [&[][..], &["a:1"; 5]] {
        assert!(invite(grant(), none_or_five).to_blob().is_err());
    }
}

#[test]
fn parts_that_do_not_belong_together_make_no_invite() {
    let mut wrong = invite(grant(), &["192.0.2.7:1"]);
    wrong.node = [9; 32];
    assert!(wrong.to_blob().unwrap_err().message().contains("another node"));
    let mut wrong = invite(grant(), &["192.0.2.7:1"]);
    wrong.secret = Some(Secret16::from_bytes([9; 16]));
    assert!(wrong.to_blob().unwrap_err().message().contains("another key"));
}

#[test]
fn an_invite_without_secret_names_its_subject() {
    let mut sealed = invite(grant(), &["192.0.2.7:1"]);
    sealed.secret = None;
    assert!(Invite::from_blob(&sealed.to_blob().unwrap()).unwrap() == sealed);
}
