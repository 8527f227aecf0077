//! The keyring file through its whole life, opened by our code and by the stock age tool.

use super::*;
use std::fs as std_fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Mutex;

fn home() -> (tempfile::TempDir, Paths, Unlock) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::find(Some(dir.path())).unwrap();
    (dir, paths, Unlock::default().with_work_factor(4))
}

/// Answers questions in turn and fails after the last answer.
struct Answers(Mutex<Vec<&'static str>>);

impl Prompt for Answers {
    fn passphrase(&self, _question: &str) -> std::io::Result<SecretString> {
        let next = self.0.lock().unwrap().pop();
        next.map(SecretString::from).ok_or_else(|| std::io::Error::other("no more answers"))
    }
}

fn typing(answers: &[&'static str]) -> Unlock {
    Unlock::default().with_work_factor(4).with_prompt(Answers(Mutex::new(answers.iter().rev().copied().collect())))
}

fn fails(paths: &Paths, unlock: &Unlock, code: Code, words: &str) -> Error {
    let error = Keyring::open(paths, unlock).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), code, "{error:?}");
    assert!(error.message().contains(words), "{error:?} lacks {words:?}");
    assert!(error.hint_text().is_some_and(|hint| !hint.is_empty()), "{error:?} has no hint");
    error
}

#[test]
fn a_keyring_survives_the_round_trip_and_is_never_replaced() {
    let (_dir, paths, unlock) = home();
    let made = Keyring::create(&paths, &unlock).unwrap();
    let opened = Keyring::open(&paths, &unlock).unwrap();
    assert_eq!(made.identity_public(), opened.identity_public());
    assert_eq!(made.device_public(), opened.device_public());
    assert_eq!(made.client_noise_public(), opened.client_noise_public());
    assert_eq!(made.node_id().len(), 32);
    assert!(verify(&made.identity_public(), DEVICE, &made.device_public(), &made.device_certificate()));
    assert_eq!(Keyring::create(&paths, &unlock).map(|_| ()).unwrap_err().code(), Code::Exists);
    for file in [paths.keyring_file(), paths.keyring_key_file()] {
        assert_eq!(std_fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn without_a_keyring_the_way_out_is_init() {
    let (_dir, paths, unlock) = home();
    assert_eq!(fails(&paths, &unlock, Code::Precondition, "no identity yet").hint_text(), Some("portdistrict init"));
    fs::ensure_private_dir(&paths.data).unwrap();
    assert_eq!(fails(&paths, &unlock, Code::Precondition, "no identity yet").hint_text(), Some("portdistrict init"));
}

#[test]
fn lock_moves_to_a_passphrase_and_unlock_back() {
    let (_dir, paths, unlock) = home();
    let made = Keyring::create(&paths, &unlock).unwrap();
    assert_eq!(Keyring::protection(&paths).unwrap(), Protection::KeyFile);

    made.lock_with_passphrase(&paths, &unlock, &"correct horse".into()).unwrap();
    assert!(!paths.keyring_key_file().exists());
    assert_eq!(Keyring::protection(&paths).unwrap(), Protection::Passphrase);
    fails(&paths, &unlock, Code::Precondition, "no terminal");
    fails(&paths, &typing(&["wrong horse"]), Code::Keyring, "passphrase does not open");
    fails(&paths, &typing(&[""]), Code::Keyring, "empty");
    let opened = Keyring::open(&paths, &typing(&["correct horse"])).unwrap();
    assert_eq!(opened.identity_public(), made.identity_public());

    opened.unlock_to_keyfile(&paths, &unlock).unwrap();
    assert_eq!(Keyring::protection(&paths).unwrap(), Protection::KeyFile);
    assert_eq!(Keyring::open(&paths, &unlock).unwrap().device_public(), made.device_public());
}

#[test]
fn a_new_passphrase_is_typed_twice_alike() {
    assert!(typing(&["a", "a"]).new_passphrase().is_ok());
    assert_eq!(typing(&["a", "b"]).new_passphrase().map(|_| ()).unwrap_err().code(), Code::Usage);
}

#[test]
fn a_passphrase_comes_from_a_private_file_or_a_descriptor() {
    let (dir, paths, unlock) = home();
    let file = dir.path().join("pass");
    fs::write_private(&file, "grüße\r\nsecond line is ignored".as_bytes()).unwrap();
    let by_file = unlock.clone().with_passphrase(PassphraseFrom::File(file.clone()));
    let made = Keyring::create(&paths, &by_file).unwrap();
    assert_eq!(Keyring::protection(&paths).unwrap(), Protection::Passphrase);
    assert_eq!(Keyring::open(&paths, &by_file).unwrap().node_id(), made.node_id());
    assert!(Keyring::open(&paths, &typing(&["grüße"])).is_ok());

    use std::os::fd::AsRawFd;
    let open = std_fs::File::open(&file).unwrap();
    let by_fd = unlock.with_passphrase(PassphraseFrom::Descriptor(open.as_raw_fd().unsigned_abs()));
    assert!(Keyring::open(&paths, &by_fd).is_ok());

    std_fs::set_permissions(&file, std_fs::Permissions::from_mode(0o644)).unwrap();
    fails(&paths, &by_file, Code::Permissions, "0644");
    fs::write_private(&file, b"\n").unwrap();
    fails(&paths, &by_file, Code::Keyring, "empty");
    fs::write_private(&file, b"\xff\xfe").unwrap();
    fails(&paths, &by_file, Code::Keyring, "UTF-8");
}

#[test]
fn every_bad_file_has_its_own_error() {
    let (_dir, paths, unlock) = home();
    Keyring::create(&paths, &unlock).unwrap();
    let (file, key) = (paths.keyring_file(), paths.keyring_key_file());
    let (good, good_key) = (std_fs::read(&file).unwrap(), std_fs::read(&key).unwrap());

    for (bad, words) in
        [(&b""[..], "is empty"), (b"hello", "is damaged"), (&good[..good.len() / 2], "is damaged"), (&good[..good.len() - 1], "is damaged")]
    {
        fs::write_private(&file, bad).unwrap();
        fails(&paths, &unlock, Code::Keyring, words);
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write_private(&file, &bad).unwrap();
        fails(&paths, &unlock, Code::Keyring, "");
    }
    fs::write_private(&file, &good).unwrap();

    std_fs::remove_file(&key).unwrap();
    fails(&paths, &unlock, Code::Keyring, "is missing");
    fs::write_private(&key, b"not a key").unwrap();
    fails(&paths, &unlock, Code::Keyring, "holds no age key");
    let stranger = age::x25519::Identity::generate().to_string();
    fs::write_private(&key, secrecy::ExposeSecret::expose_secret(&stranger).as_bytes()).unwrap();
    fails(&paths, &unlock, Code::Keyring, "does not open");
    fs::write_private(&key, &good_key).unwrap();
    Keyring::open(&paths, &unlock).unwrap();

    std_fs::set_permissions(&key, std_fs::Permissions::from_mode(0o604)).unwrap();
    fails(&paths, &unlock, Code::Permissions, "keyring.key");
    std_fs::set_permissions(&key, std_fs::Permissions::from_mode(0o600)).unwrap();
    std_fs::set_permissions(&paths.data, std_fs::Permissions::from_mode(0o750)).unwrap();
    fails(&paths, &unlock, Code::Permissions, "0750");
}

#[test]
fn contents_of_another_version_or_form_are_told_apart() {
    let (_dir, paths, unlock) = home();
    Keyring::create(&paths, &unlock).unwrap();
    let key: age::x25519::Identity = std_fs::read_to_string(paths.keyring_key_file()).unwrap().lines().last().unwrap().parse().unwrap();
    let a = encoding::base64(&[1; 32]);
    let good = format!(r#"{{"device":"{a}","identity":"{a}","v":1}}"#);
    let wide = good.replace(',', ", ");
    let newer = r#"{"seeds":[],"v":2}"#.to_owned();
    let short = good.replace(&a, "AAAA");
    for (inside, words) in [(wide, "does not hold"), (newer, "version 2"), (short, "does not hold"), ("{}".to_owned(), "does not hold")] {
        fs::write_private(&paths.keyring_file(), &age::encrypt(&key.to_public(), inside.as_bytes()).unwrap()).unwrap();
        fails(&paths, &unlock, Code::Keyring, words);
    }
}

#[test]
fn a_huge_work_factor_is_refused_at_once() {
    let (_dir, paths, unlock) = home();
    Keyring::create(&paths, &unlock).unwrap().lock_with_passphrase(&paths, &unlock, &"x".into()).unwrap();
    let bytes = std_fs::read(paths.keyring_file()).unwrap();
    let head = String::from_utf8_lossy(&bytes).lines().nth(1).unwrap().to_owned();
    assert!(head.ends_with(" 4"), "{head}");
    for (rounds, words) in [("21", "2^21"), ("63", "2^63")] {
        let bad_head = format!("{}{rounds}", head.strip_suffix('4').unwrap());
        let at = bytes.windows(head.len()).position(|w| w == head.as_bytes()).unwrap();
        let bad = [&bytes[..at], bad_head.as_bytes(), &bytes[at + head.len()..]].concat();
        fs::write_private(&paths.keyring_file(), &bad).unwrap();
        let start = std::time::Instant::now();
        fails(&paths, &typing(&["x"]), Code::Keyring, words);
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }
}

#[test]
fn two_processes_creating_at_once_leave_one_keyring() {
    let (_dir, paths, unlock) = home();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Keyring::create(&paths, &unlock).map(|k| k.node_id()))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let made: Vec<_> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
    assert_eq!(made.len(), 1);
    assert_eq!(&Keyring::open(&paths, &unlock).unwrap().node_id(), made[0]);
}

/// PD-ID: the file opens with any age tool.
#[test]
fn the_stock_age_tool_opens_the_keyring() {
    if Command::new("age").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "this test needs the `age` command: apt-get install age");
        eprintln!("skipped: the `age` command is not installed");
        return;
    }
    let (_dir, paths, unlock) = home();
    let made = Keyring::create(&paths, &unlock).unwrap();
    let out = Command::new("age").arg("-d").arg("-i").arg(paths.keyring_key_file()).arg(paths.keyring_file()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (device, identity) = (encoding::base64(made.device.expose()), encoding::base64(made.identity.expose()));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), format!(r#"{{"device":"{device}","identity":"{identity}","v":1}}"#));
}

#[test]
fn a_machines_seed_is_sealed_for_its_id_alone_and_opens_on_every_device() {
    let keyring = Keyring::of(Seed::from_bytes(&[1; 32]), Seed::from_bytes(&[2; 32]));
    let other_device = Keyring::of(Seed::from_bytes(&[1; 32]), Seed::from_bytes(&[3; 32]));
    let sealed = keyring.seal_machine_seed(&[7; 16], &[9; 32]);
    assert_ne!(*sealed, [9; 32]);
    assert_eq!(*other_device.seal_machine_seed(&[7; 16], &sealed), [9; 32]);
    assert_ne!(*keyring.seal_machine_seed(&[8; 16], &sealed), [9; 32]);
}
