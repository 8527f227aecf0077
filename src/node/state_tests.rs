//! Binding is atomic and durable, whatever interrupts it.

use super::*;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn what_is_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let seed = {
        let state = State::open(&path).unwrap();
        assert_eq!(state.claim(&[1; 32], None, 5).unwrap(), Claimed::Now);
        assert_eq!(state.claim(&[1; 32], None, 6).unwrap(), Claimed::Before);
        assert_eq!(state.claim(&[2; 32], None, 7).unwrap(), Claimed::ByAnother);
        assert_eq!(state.bind(&[1; 8], &[3; 32], true, 9, 8).unwrap(), Bound::Now);
        state.note_reuse(&[1; 8], 10).unwrap();
        state.note_reuse(&[1; 8], 9).unwrap();
        state.revoke(&[(vec![4; 8], 1, vec![1]), (vec![5; 32], 1, vec![1])]).unwrap();
        state.revoke(&[(vec![4; 8], 2, vec![2])]).unwrap();
        state
            .save_usage(&[(
                [1; 8],
                Record { usage: Usage { up: 1, down: u64::MAX, last_used: Some(3), ..Usage::default() }, ..Record::default() },
            )])
            .unwrap();
        state.set_allow(&["10.0.0.0/8".to_owned()]).unwrap();
        *state.seed().unwrap().expose()
    };
    let state = State::open(&path).unwrap();
    assert_eq!(state.seed().unwrap().expose(), &seed);
    let found = state.snapshot().unwrap();
    assert_eq!((found.owner, found.allow), (Some([1; 32]), Some(vec!["10.0.0.0/8".to_owned()])));
    let usage = Usage { up: 1, down: i64::MAX as u64, last_used: Some(3), ..Usage::default() };
    let record = Record { bound: vec![[3; 32]], usage, reuse: 2, last_reuse: Some(10), ..Record::default() };
    assert_eq!(found.grants.get(&[1; 8]), Some(&record));
    assert_eq!(found.revoked, [vec![4; 8], vec![5; 32]]);
}

#[test]
fn bindings_by_mode() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(dir.path().join("s").as_path()).unwrap();
    for (device, expected) in [(1, Bound::Now), (1, Bound::Before), (2, Bound::Elsewhere), (1, Bound::Before)] {
        assert_eq!(state.bind(&[1; 8], &[device; 32], true, 64, 0).unwrap(), expected);
    }
    for (device, expected) in [(1, Bound::Now), (2, Bound::Now), (3, Bound::Elsewhere), (2, Bound::Before)] {
        assert_eq!(state.bind(&[2; 8], &[device; 32], false, 2, 0).unwrap(), expected);
    }
    // Even a caller that forgot the rule cannot write a second owner.
    let second = state.lock().execute("INSERT INTO bindings VALUES (?1, ?2, 1, 0)", params![[1u8; 8], [9u8; 32]]);
    assert!(second.is_err());
}

#[test]
fn one_process_at_a_time_and_private_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let state = State::open(&path).unwrap();
    assert_eq!(State::open(&path).err().unwrap().code(), Code::Exists);
    for file in std::fs::read_dir(&path).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    drop(state);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(State::open(&path).err().unwrap().code(), Code::Permissions);
}

#[test]
fn a_newer_or_damaged_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    State::open(&path).unwrap().lock().pragma_update(None, "user_version", 99).unwrap();
    let error = State::open(&path).err().unwrap();
    assert_eq!((error.code(), error.hint_text()), (Code::Precondition, Some("portdistrict update")));
    std::fs::write(path.join("node.db"), vec![7; 8192]).unwrap();
    let error = State::open(&path).err().unwrap();
    assert!(error.message().contains("node.db") && error.hint_text().unwrap().contains("damaged"), "{error:?}");
    assert_eq!(std::fs::read(path.join("node.db")).unwrap(), vec![7; 8192]);
}

/// Runs only as the child of the test below: four threads fight for each grant and print what was acknowledged.
#[test]
fn binding_child() {
    let Some(dir) = std::env::var_os("PORTDISTRICT_BINDING_CHILD") else { return };
    let state = State::open(Path::new(&dir)).unwrap();
    println!("ready");
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let state = &state;
            scope.spawn(move || {
                let mut device = [thread; 32];
                getrandom::fill(&mut device[8..]).unwrap();
                for n in 0u64.. {
                    if state.bind(&n.to_be_bytes(), &device, true, 1, 0).unwrap() == Bound::Now {
                        println!("bound {n} {}", crate::encoding::hex(&device));
                    }
                }
            });
        }
    });
}

/// The node killed inside the binding, at a hundred different points: never two owners, never a lost one.
#[test]
fn killed_in_the_middle_of_binding_a_hundred_times() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let mut acknowledged: HashMap<u64, String> = HashMap::new();
    for round in 0..100u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["node::state::tests::binding_child", "--exact", "--nocapture", "--test-threads=1"])
            .env("PORTDISTRICT_BINDING_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        lines.find(|line| line.contains("ready")).expect("the child starts");
        std::thread::sleep(Duration::from_micros(round * 137));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            if let ["bound", n, device] = words[..]
                && device.len() == 64
            {
                let other = acknowledged.insert(n.parse().unwrap(), device.to_owned());
                assert_eq!(other, None, "grant {n} was given away twice");
            }
        }
    }
    let found = State::open(&path).unwrap().snapshot().unwrap();
    for (n, device) in &acknowledged {
        let held = &found.grants[&n.to_be_bytes()].bound;
        assert!(held.len() == 1 && crate::encoding::hex(&held[0]) == *device, "grant {n}");
    }
    assert!(found.grants.values().all(|record| record.bound.len() == 1));
    assert!(acknowledged.values().collect::<HashSet<_>>().len() > 10, "the kills came too early to say anything");
}
